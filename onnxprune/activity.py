"""How often channels are switched off, measured where their activation puts them out.

Nodes appended to the model count, over whole maps, so nothing but two numbers per channel and batch comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.assembly import open_ended
from onnxprune.coupling import Coupling, Group
from onnxprune.files import Model
from onnxprune.graph import Array, Graph, key
from onnxprune.ids import varying
from onnxprune.ops.elementwise import elementwise_alone
from onnxprune.runtime import Runtime

Float = NDArray[np.float64]
FAINT = 0.1  # part of the root mean square below which a value is faint


@dataclass(frozen=True)
class Activity:
    """Shares [n] of each channel's values that are 0, and that are below FAINT of the value's root mean square."""

    zeros: Float
    faint: Float


def activations(coupling: Coupling, group: Group) -> list[str]:
    """Where a group's channels come out of their activation: behind each writer, past all that is element-wise.

    Streams, whose activation comes behind a sum, and groups that no layer writes are looked at where they are read.
    """
    graph = coupling.graph
    if group.stream or not group.writers:
        found = [linear.input for index in group.reads if (linear := coupling.linear(index)) is not None]
    else:
        found = [_last_elementwise(graph, _output(coupling, index)) for index in group.writers]
    return list(dict.fromkeys(name for name in found if graph.types.get(name)))


def _output(coupling: Coupling, index: int) -> str:
    """What a layer makes, its tail included."""
    linear = coupling.linear(index)
    return linear.output if linear is not None and linear.output else key(coupling.graph.nodes[index])


def _last_elementwise(graph: Graph, name: str) -> str:
    """The last value that is computed from this one and constants alone, element by element."""
    inside, waiting = {name}, [name]
    while waiting:
        for index in graph.consumers.get(waiting.pop(), []):
            node = graph.nodes[index]
            own = all(n in inside or n in graph.static for n in graph.reads(node))
            if own and elementwise_alone(node) and key(node) not in inside:
                inside.add(key(node))
                waiting.append(key(node))
                name = max(name, key(node), key=lambda n: graph.producer.get(n, -1))
    return name


def collect_activity(
    coupling: Coupling,
    groups: Sequence[Group],
    feeds: Iterable[Mapping[str, Array]],
    runtime: Runtime,
    progress: Callable[[int], None] = lambda n: None,
) -> dict[str, Activity]:
    """Activity of the channels of each group, over all its activations: group name -> shares."""
    places = {g.name: [(v, where) for v in activations(coupling, g) if (where := _place(coupling, v))] for g in groups}
    axes = {value: own for found in places.values() for value, (own, _) in found}
    if not axes:  # nothing to count: a model needs an output
        return {g.name: _of_group(g, []) for g in groups}
    session = runtime.session(Model(_counting(coupling.graph, axes), coupling.graph.arrays))
    sums: dict[str, Float] = {}
    samples = 0
    for feed in feeds:
        count = len(next(iter(feed.values())))
        for name, value in session.run(feed).items():
            sums[name] = sums.get(name, np.zeros(1)) + count * value.astype(np.float64).ravel()
        samples += count
        progress(count)
    shares = {name: value / max(samples, 1) for name, value in sums.items()}
    return {g.name: _of_group(g, [(shares, v, labels) for v, (_, labels) in places[g.name]]) for g in groups}


def _place(coupling: Coupling, value: str) -> tuple[list[int], NDArray[np.int64]] | None:
    """The axis along which channels lie in a value (the axes if they lie in lanes), and the component of each place."""
    ids = coupling.notes.ids.get(value)
    if ids is None or not (axes := varying(coupling.components.free(ids))):
        return None
    along = ids[tuple(slice(None) if a in axes else 0 for a in range(ids.ndim))]
    return axes, coupling.components.of(along.ravel())


def _of_group(group: Group, found: list[tuple[Mapping[str, Float], str, NDArray[np.int64]]]) -> Activity:
    """Means over all places of each channel."""
    totals, counts = np.zeros((2, group.channels)), np.zeros(group.channels)
    for shares, value, labels in found:
        same = labels == group.components[:, None]
        totals += np.stack([same @ shares[f"{value}/{part}"] for part in ("zeros", "faint")])
        counts += same.sum(1)
    zeros, faint = totals / np.maximum(counts, 1)
    return Activity(zeros, faint)


def _counting(graph: Graph, axes: Mapping[str, Sequence[int]]) -> ModelProto:
    """The model with two outputs per value, `<value>/zeros` and `<value>/faint`: shares along its channel axes."""
    model = open_ended(graph)
    for value, own in axes.items():
        others = [a for a in range(len(graph.shapes[value])) if a not in own]
        model.graph.node.extend(_count(model, graph, value, others))
        for part in ("zeros", "faint"):
            model.graph.output.append(helper.make_tensor_value_info(f"{value}/{part}", TensorProto.FLOAT, None))
    return model


def _count(model: ModelProto, graph: Graph, value: str, others: Sequence[int]) -> list[NodeProto]:
    """Nodes that count in one value what is 0, and what is faint."""

    def constant(name: str, array: Array) -> str:
        model.graph.initializer.append(numpy_helper.from_array(array, f"{value}/{name}"))
        return f"{value}/{name}"

    def node(kind: str, inputs: Sequence[str], output: str, **attrs: Any) -> NodeProto:
        return helper.make_node(kind, [f"{value}/{n}" if n else value for n in inputs], [f"{value}/{output}"], **attrs)

    def mean(source: str, output: str, over: Sequence[int]) -> NodeProto:
        if not over:
            return node("Identity", [source], output)
        if graph.opset < 18:
            return node("ReduceMean", [source], output, axes=list(over), keepdims=0)
        constant(f"{output}/axes", np.asarray(over, np.int64))
        return node("ReduceMean", [source, f"{output}/axes"], output, keepdims=0)

    constant("part", np.asarray(FAINT, np.float32))
    return [
        node("Cast", [""], "float", to=TensorProto.FLOAT),
        node("Abs", ["float"], "size"),
        node("Cast", ["float"], "on", to=TensorProto.BOOL),
        node("Not", ["on"], "off"),
        node("Cast", ["off"], "counted zeros", to=TensorProto.FLOAT),
        mean("counted zeros", "zeros", others),
        node("Mul", ["float", "float"], "square"),
        mean("square", "power", range(len(graph.shapes[value]))),
        node("Sqrt", ["power"], "rms"),
        node("Mul", ["rms", "part"], "limit"),
        node("Less", ["size", "limit"], "below"),
        node("Cast", ["below"], "counted faint", to=TensorProto.FLOAT),
        mean("counted faint", "faint", others),
    ]
