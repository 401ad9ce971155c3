"""Nodes by themselves: what one is called, what it says and reads, and which of many it takes to know some values.

*Keys.* ONNX nodes may lack names, but value names are unique, so a node is identified by its first output.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import Any

import onnx
from onnx import GraphProto, NodeProto

from onnxprune.bodies import inner_names, outer_names, subgraphs
from onnxprune.contrib import STANDARD

RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
NOT_FUNCTIONS = RANDOM | {
    *("Dropout", "If", "Loop", "Scan", "SequenceEmpty", "SequenceConstruct", "SplitToSequence", "Optional")
}  # their output isn't a tensor that is a function of tensors alone: never folded


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values; strings are decoded, also such as hold no text."""
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    return {k: v.decode(errors="surrogateescape") if isinstance(v, bytes) else v for k, v in values.items()}


def key(node: NodeProto) -> str:
    """The identity of a node: the name of its first output."""
    return next((name for name in node.output if name), node.name)


def reads(node: NodeProto) -> list[str]:
    """All values that a node depends on, including those that its bodies take from outside."""
    outer = set().union(*(outer_names(body) for body in subgraphs(node)))
    return [name for name in dict.fromkeys([*node.input, *sorted(outer)]) if name]


def needed(
    nodes: Sequence[NodeProto], values: Iterable[str], always: Callable[[NodeProto], bool] = lambda node: False
) -> list[NodeProto]:
    """Of nodes in the order in which they run, those that it takes to know some values, and what is `always` kept."""
    found, kept = set(values), list[NodeProto]()
    for node in reversed(nodes):
        if always(node) or not found.isdisjoint(node.output):
            kept.append(node)
            found.update(reads(node))
    return kept[::-1]


def disordered(graph: GraphProto) -> bool:
    """Whether a node, at any depth, reads what a later one of its graph makes."""
    later = {name for node in graph.node for name in node.output}
    for node in graph.node:
        if not later.isdisjoint(reads(node)) or any(map(disordered, subgraphs(node))):
            return True
        later.difference_update(node.output)
    return False


def arrange(graph: GraphProto) -> None:
    """Put nodes, at any depth, behind those whose values they read; those that go in circles stay as they are."""
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    makers = {i: {maker[name] for name in reads(node) if name in maker} for i, node in enumerate(graph.node)}
    with suppress(CycleError):
        nodes = [graph.node[i] for i in TopologicalSorter(makers).static_order()]
        del graph.node[:]
        graph.node.extend(nodes)
    for body in [body for node in graph.node for body in subgraphs(node)]:
        arrange(body)


def foreseeable(node: NodeProto, known: Container[str]) -> bool:
    """Whether what a node makes is a function of constants alone."""
    standard = node.domain in STANDARD and node.op_type not in NOT_FUNCTIONS and not any(subgraphs(node))
    return standard and all(name in known for name in node.input if name)


def constants(initializers: Iterable[str], nodes: Iterable[NodeProto]) -> set[str]:
    """The initializers and all that the nodes compute from them alone."""
    known = set(initializers)
    for node in nodes:
        if foreseeable(node, known):
            known.update(name for name in node.output if name)
    return known


def names(graph: GraphProto, nodes: Iterable[NodeProto]) -> set[str]:
    """Names in use in a graph of these nodes: of values, also within bodies, and of nodes."""
    taken = {t.name for t in graph.initializer} | {i.name for i in graph.input}
    taken |= {t.values.name for t in graph.sparse_initializer}
    for node in nodes:
        taken |= {*node.input, *node.output, node.name} | inner_names(node)
    return taken


def fresh(name: str, taken: set[str]) -> str:
    """A name like `name` that isn't taken yet; it is added to `taken`."""
    candidate, number = name, 1
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    taken.add(candidate)
    return candidate
