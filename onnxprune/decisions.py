"""Where a network decides: operators whose results jump when what they read changes a little.

Two networks that should answer alike part there, however alike they are: a detector goes on with other boxes, or with
as many boxes more. To compare or fit what is behind, one of the two decides for both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import prod
from typing import NamedTuple

from onnx import ModelProto, NodeProto, helper

from onnxprune.bodies import subgraphs
from onnxprune.declared import FLOATS
from onnxprune.files import Model
from onnxprune.graph import Graph
from onnxprune.nodes import RANDOM, attributes, needed

CHOICES = {"ArgMax", "ArgMin", "TopK", "NonZero", "Unique", "Compress", "NonMaxSuppression"}  # which, and how many
JUMPS = CHOICES | {
    *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"),
    *("Floor", "Ceil", "Round", "Sign", "Hardmax", "OneHot", "RoiAlign", "Cast"),
}  # a Cast to integers


class Decisions(NamedTuple):
    """Nodes whose results one network can take over from another, these with their types, and values behind others."""

    nodes: list[int]
    taken: dict[str, int]
    behind: set[str]


def decisions(graph: Graph, jumps: Collection[str] = JUMPS) -> Decisions:
    """Where the answers of two networks that differ a little part, random numbers included, by operators that jump.

    What follows from sizes, from integer inputs (an image's scale, a mask of tokens) and from decisions that are taken
    over alone is exact in both. A result of unknown type (or a sequence) can't be taken over.
    """
    inexact = {i.name for i in graph.inputs if i.type.tensor_type.elem_type in FLOATS}
    nodes, taken, behind = list[int](), dict[str, int](), set[str]()
    wanted = set(graph.needed(range(len(graph.nodes)), graph.outputs))
    for index, node in enumerate(graph.nodes):
        reads, outputs, kinds = graph.reads(node), [name for name in node.output if name], _operators(node)
        places = reads[1:] if node.op_type == "RoiAlign" else reads  # it is smooth in the map that it pools over
        parts = kinds & RANDOM or (not kinds.isdisjoint(jumps) and not inexact.isdisjoint(places))
        if parts and behind.isdisjoint(reads) and all(graph.types.get(name) for name in outputs):
            if index in wanted:
                nodes.append(index)
                taken |= {name: graph.types[name] for name in outputs}
            continue
        if parts or not behind.isdisjoint(reads):
            behind.update(outputs)
        rounds = not inexact.isdisjoint(reads) or any(_weighs(graph, name) for name in reads)
        if node.op_type not in ("Shape", "Size") and rounds:
            inexact.update(outputs)
    return Decisions(nodes, taken, behind)


def exposed(model: Model | ModelProto, outputs: Mapping[str, int], given: Mapping[str, int]) -> Model:
    """The model with these values as its outputs, others as further inputs, and no node that isn't needed for that.

    outputs, given: names and types. What the model doesn't make isn't an input.
    """
    model = model if isinstance(model, Model) else Model(model)
    new = ModelProto()
    new.CopyFrom(model.proto)
    made = {name for node in model.proto.graph.node for name in node.output}
    own = [node for node in model.proto.graph.node if given.keys().isdisjoint(node.output)]
    del new.graph.node[:]
    new.graph.node.extend(needed(own, outputs))
    del new.graph.output[:]
    new.graph.output.extend(helper.make_tensor_value_info(n, t, None) for n, t in outputs.items())
    new.graph.input.extend(helper.make_tensor_value_info(n, t, None) for n, t in given.items() if n in made)
    return Model(new, model.arrays)


def _operators(node: NodeProto) -> set[str]:
    """The operators of a node and of its bodies; a Cast to floating-point numbers is none."""
    own = {node.op_type} if node.op_type != "Cast" or attributes(node).get("to") not in FLOATS else set[str]()
    return own.union(*(_operators(inner) for body in subgraphs(node) for inner in body.node))


def _weighs(graph: Graph, name: str) -> bool:
    """Whether a value is a constant of several floating-point numbers."""
    return name in graph.static and graph.types.get(name) in FLOATS and prod(graph.shapes.get(name, (2,))) > 1
