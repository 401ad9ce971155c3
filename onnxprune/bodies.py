"""Graphs inside of nodes: what they read from outside, and what they come to where a constant decides.

A body that runs or doesn't, or runs many times, isn't looked into: what it reads of the graphs around it stays. The
exceptions are an If whose condition is a constant or follows from sizes that never change, as exporters write them for
what was decided in Python, and a short Loop whose number of iterations is one, as they write them for lists and
arithmetic with shapes. A `Graph` lists the nodes of the chosen body in the place of the If (`chosen`), all iterations
in that of the Loop (`unrolled`), and a pruned model is written that way. Iterations share their constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

ITERATIONS, NODES = 64, 2000  # a Loop of more iterations, or of more nodes in all of them, isn't unrolled


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of If, Loop and Scan."""
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.g
        elif a.type == AttributeProto.GRAPHS:
            yield from a.graphs


def own_names(body: GraphProto) -> set[str]:
    """Names of the values that a body itself makes or is given."""
    made = {name for node in body.node for name in node.output if name}
    return made | {i.name for i in body.input} | {t.name for t in body.initializer}


def outer_names(body: GraphProto) -> set[str]:
    """Names that a body reads from the graphs around it."""
    used = {name for node in body.node for name in node.input if name} | {o.name for o in body.output}
    for node in body.node:
        for inner in subgraphs(node):
            used |= outer_names(inner)
    return used - own_names(body)


def inner_names(node: NodeProto) -> set[str]:
    """All names that are made inside of a node, at any depth."""
    return set().union(*(own_names(b).union(*(inner_names(n) for n in b.node)) for b in subgraphs(node)))


def chosen(node: NodeProto, condition: bool, name: Callable[[str], str]) -> list[NodeProto]:
    """The nodes that an If stands for when its condition is known; `name` makes a name that isn't taken.

    Raises ValueError for a body with a sparse constant.
    """
    body = next(a.g for a in node.attribute if a.name == ("then_branch" if condition else "else_branch"))
    if body.sparse_initializer:
        raise ValueError(node.op_type)
    renamed = {old: name(old) for old in sorted(own_names(body))}
    nodes = [*_constants(body.initializer, renamed), *_copies(body.node, renamed, name)]
    return nodes + _ends([renamed.get(o.name, o.name) for o in body.output], node.output)


def unrolled(node: NodeProto, count: int, name: Callable[[str], str], opset: int) -> list[NodeProto]:
    """The nodes that a Loop of `count` iterations stands for; `name` makes a name that isn't taken.

    Raises ValueError for a body that hands on what Identity doesn't or has a sparse constant, and for one that would
    become too many nodes.
    """
    body = next(subgraphs(node))
    step, go, *states = (value.name for value in body.input)
    fits = count <= ITERATIONS and count * _size(body) <= NODES and (count > 0 or len(node.output) == len(states))
    kinds = ("tensor_type", "sequence_type") if opset >= 14 else ("tensor_type",)
    plain = not body.sparse_initializer and all(i.type.WhichOneof("value") in kinds for i in body.input)
    if not fits or not plain:
        raise ValueError(node.op_type)
    ranks = [len(i.type.tensor_type.shape.dim) for i in body.input[:2]]
    shared = {old: name(old) for old in [*stored(body), go]}
    changing = sorted(own_names(body) - {*shared, *states})
    fixed, steps = ([n for n in body.node if (n.op_type == "Constant") == same] for same in (True, False))
    nodes = [*_constants(body.initializer, shared), *_copies(fixed, shared, name), _number(shared[go], True, ranks[1])]
    carried, seen = list(node.input[2:]), list[list[str]]()
    for number in range(count):
        renamed = shared | dict(zip(states, carried, strict=True)) | {old: name(old) for old in changing}
        nodes.append(_number(renamed[step], number, ranks[0]))
        nodes += _copies(steps, renamed, name)
        made = [renamed.get(o.name, o.name) for o in body.output[1:]]
        carried = made[: len(states)]
        seen.append(made[len(states) :])
    nodes += _ends(carried, node.output[: len(states)])
    for parts, rows in zip(zip(*seen, strict=True), node.output[len(states) :], strict=False):
        nodes += stacked(parts, rows, name, opset) if rows else []
    return nodes


def stored(body: GraphProto) -> dict[str, NDArray[Any]]:
    """The constants of a body."""
    found = {t.name: numpy_helper.to_array(t) for t in body.initializer}
    return found | {node.output[0]: constant(node) for node in body.node if node.op_type == "Constant"}


def constant(node: NodeProto) -> NDArray[Any]:
    """The value of a Constant node in any of its forms."""
    name, value = next((a.name, helper.get_attribute_value(a)) for a in node.attribute)
    if name == "value":
        return numpy_helper.to_array(value)
    value = value.decode() if isinstance(value, bytes) else value
    return np.asarray(value, np.int64 if name.startswith("value_int") else np.float32 if "float" in name else None)


def _size(body: GraphProto) -> int:
    """Number of nodes, at any depth."""
    return sum(1 + sum(map(_size, subgraphs(node))) for node in body.node)


def _number(name: str, value: int, rank: int) -> NodeProto:
    """A constant of one element, an integer or a truth value."""
    array = np.full([1] * rank, value, bool if isinstance(value, bool) else np.int64)
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


def stacked(
    parts: Iterable[str], output: str, name: Callable[[str], str], opset: int, axis: int = 0
) -> list[NodeProto]:
    """Nodes that join values along a new axis."""
    rows = {name(f"{output}_row"): part for part in parts}
    join = helper.make_node("Concat", list(rows), [output], axis=axis)
    if opset < 13:
        return [*(helper.make_node("Unsqueeze", [part], [row], axes=[axis]) for row, part in rows.items()), join]
    axes = helper.make_node("Constant", [], [name(f"{output}_axes")], value_ints=[axis])
    return [axes, *(helper.make_node("Unsqueeze", [part, *axes.output], [row]) for row, part in rows.items()), join]


def _constants(tensors: Iterable[TensorProto], names: Mapping[str, str]) -> Iterator[NodeProto]:
    """Initializers of a body as nodes."""
    return (helper.make_node("Constant", [], [names[t.name]], value=t) for t in tensors)


def _copies(nodes: Iterable[NodeProto], names: Mapping[str, str], name: Callable[[str], str]) -> Iterator[NodeProto]:
    """The nodes of a body, with other names of values and new ones of their own."""
    for node in nodes:
        copy = _renamed(node, names)
        copy.name = name(node.name) if node.name else ""
        yield copy


def _ends(made: Iterable[str], outputs: Iterable[str]) -> list[NodeProto]:
    """What a body gives, under the names that it has outside."""
    return [helper.make_node("Identity", [x], [outer]) for x, outer in zip(made, outputs, strict=True) if outer]


def _renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """A copy of a node with other names of values, also where its bodies read them."""
    new = NodeProto()
    new.CopyFrom(node)
    for field in (new.input, new.output):
        field[:] = [names.get(name, name) for name in field]
    for body in subgraphs(new):
        _rename(body, names)
    return new


def _rename(body: GraphProto, names: Mapping[str, str]) -> None:
    """Rename what a body reads from outside."""
    own = own_names(body)
    visible = {old: new for old, new in names.items() if old not in own}
    nodes = [_renamed(node, visible) for node in body.node]
    del body.node[:]
    body.node.extend(nodes)
    for output in body.output:
        output.name = visible.get(output.name, output.name)
