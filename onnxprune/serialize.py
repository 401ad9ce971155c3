"""Residual blocks in other forms, in which channels of a residual stream can be pruned one reader at a time.

A block adds its branch to its shortcut, y = f(x) + S x, and that ties the channels of every layer along the stream:
they stay or go together. Two transformations of the graph, made before it is coupled, untie them:

    always  SRN, a serial network without Adds (see `srn`).
    auto    the lazy form: the Adds stay, and every convolution that reads a stream gets a Gather of all channels in
            front; every one whose output is added to a stream gets a Pad and a Gather behind it. These let reader and
            writer choose (see `ops.choice`), so pruning takes each one's own subset. What a writer leaves out is a
            constant, which an Add puts in its place. Gathers that lost nothing are dropped from what is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxprune.assembly import Draft, copied
from onnxprune.coupling import Coupling, couple
from onnxprune.files import Model
from onnxprune.graph import Array, Graph
from onnxprune.nodes import attributes, key
from onnxprune.ops.choice import everything, fills_up
from onnxprune.ops.linear import Linear
from onnxprune.plan import Plan
from onnxprune.rewrite import pruned
from onnxprune.srn import serial

MODES = ("never", "auto", "always")


@dataclass(frozen=True)
class Serialized:
    """A graph without the residual streams that could be taken apart, and for each Add that stays the reason."""

    graph: Graph
    left: Mapping[str, str]


def serialize(graph: Graph, mode: str) -> Serialized:
    """The graph in another form that computes the same; `mode` is one of MODES."""
    if mode == "auto":
        return Serialized(_lazy(couple(graph)), {})
    return Serialized(*serial(graph)) if mode == "always" else Serialized(graph, {})


# ---------------------------------------------------------------------------------------------- lazily


def _lazy(coupling: Coupling) -> Graph:
    """The graph in which every convolution chooses what it reads of a residual stream, and what it adds to one."""
    graph = coupling.graph
    draft = Draft(graph)
    streams = [group for group in coupling.groups if group.stream]
    readers = _convolutions(coupling, {i for group in streams for i in group.reads})
    writers = _convolutions(coupling, {i for group in streams for i in group.writers})
    added = {linear.output: linear for linear in writers.values() if _added(graph, linear.output)}
    behind: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for index, node in enumerate(graph.nodes):
        if index in readers and readers[index].channels > 1:
            x = readers[index].input
            nodes.append(_choice(draft, x, np.arange(readers[index].channels), f"{x}_chosen", "choose"))
            node = copied(node)
            node.input[0] = key(nodes[-1])
        if not behind.keys().isdisjoint(node.input):
            node = copied(node)
            node.input[:] = [behind.get(name, name) for name in node.input]
        nodes.append(node)
        if key(node) in added:
            y, channels = key(node), np.arange(len(added[key(node)].offset))
            nodes.append(_wider(draft, y))
            nodes.append(_choice(draft, key(nodes[-1]), channels + 1, f"{y}_filled", "fill"))
            behind[y] = key(nodes[-1])
    return draft.graph_of(nodes)


def _convolutions(coupling: Coupling, indices: Iterable[int]) -> dict[int, Linear]:
    """Those of the nodes that are convolutions."""
    linears = {i: linear for i in indices if (linear := coupling.linear(i)) is not None}
    return {i: linear for i, linear in linears.items() if linear.window is not None}


def _added(graph: Graph, name: str) -> bool:
    """Whether all that is done with a value is that another one is added to it."""
    nodes = [graph.nodes[i] for i in graph.consumers.get(name, [])]
    return name not in graph.outputs and [node.op_type for node in nodes] == ["Add"] and len(set(nodes[0].input)) == 2


def _choice(draft: Draft, x: str, channels: Array, output: str, name: str) -> NodeProto:
    """A Gather of some channels of a map."""
    indices = draft.constant(channels, f"{x}_channels")
    return helper.make_node("Gather", [x, indices], [draft.fresh(output)], draft.fresh(name), axis=1)


def _wider(draft: Draft, x: str) -> NodeProto:
    """A Pad by one channel of zeros in front."""
    rank, output, name = len(draft.base.shapes[x]), draft.fresh(f"{x}_wider"), draft.fresh("widen")
    amounts = [int(place == 1) for place in range(2 * rank)]
    if draft.base.opset < 11:
        return helper.make_node("Pad", [x], [output], name, pads=amounts)
    return helper.make_node("Pad", [x, draft.constant(np.asarray(amounts), f"{x}_pads")], [output], name)


def carried_out(coupling: Coupling, plan: Plan) -> Model:
    """The pruned model, without Gathers that lost nothing. Raises DataError if the plan names what isn't there."""
    model = pruned(coupling, plan)
    return tidied(model, coupling.graph) if plan.serialize == "auto" else model


def tidied(model: Model, graph: Graph) -> Model:
    """The model made from a graph, without Gathers that choose all channels of a value, and their Pads. Changes it."""
    proto = model.proto.graph
    ends, constants = {o.name for o in proto.output}, {t.name: t for t in proto.initializer}
    renamed: dict[str, str] = {}
    kept: dict[str, NodeProto] = {}
    idle = set[str]()
    for node in proto.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        if key(node) in ends or not _chooses_all(node, graph, constants):
            kept[key(node)] = copied(node)
        elif fills_up(graph, graph.producer[key(node)]):
            renamed[key(node)] = kept[node.input[0]].input[0]
            idle.add(node.input[0])
        else:
            renamed[key(node)] = node.input[0]
    if not renamed:
        return model
    for name in idle.difference(ends, *(node.input for node in kept.values())):
        del kept[name]
    used = {name for node in kept.values() for name in node.input} | ends
    integers = {n for n, t in constants.items() if n in graph.consumers and t.data_type == TensorProto.INT64}
    del proto.node[:]
    proto.node.extend(kept.values())
    for field, gone in ((proto.initializer, integers - used), (proto.value_info, renamed.keys() | idle)):
        for message in [m for m in field if m.name in gone]:
            field.remove(message)
    return model


def _chooses_all(node: NodeProto, graph: Graph, constants: Mapping[str, TensorProto]) -> bool:
    """Whether a node is a Gather of all channels of a value, or of all but the padding."""
    if node.op_type != "Gather" or node.input[1] not in constants or key(node) not in graph.shapes:
        return False
    shape, indices = graph.shapes.get(node.input[0]), numpy_helper.to_array(constants[node.input[1]])
    first = int(fills_up(graph, graph.producer[key(node)]))
    return shape is not None and everything(shape, attributes(node).get("axis", 0), indices, first)
