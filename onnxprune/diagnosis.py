"""What every block reads and makes, averaged over places, and the answers: what methods for blocks decide by.

Averages are taken within the graph, so that one pass over the samples gives them all and little leaves onnxruntime.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxprune import oracle
from onnxprune.assembly import open_ended
from onnxprune.coupling import Coupling
from onnxprune.errors import DataError
from onnxprune.evaluation import collected
from onnxprune.files import Model
from onnxprune.graph import Array, Block, Graph, fresh, names
from onnxprune.methods import Features
from onnxprune.runtime import Runtime

Float = NDArray[np.float64]
WIDEST = 512  # features and targets that a probe gets to see, spread evenly over more


def diagnosable(coupling: Coupling, blocks: Iterable[Block]) -> list[Block]:
    """The blocks whose values have one row (or map, or sequence) per sample."""
    probes = coupling.graph.probes

    def rows(name: str) -> list[int]:
        return [probe.shapes[name][0] if probe.shapes[name] else 0 for probe in probes]

    answers = [rows(name) for name in oracle.signals(coupling.graph)]
    return [block for block in blocks if rows(block.output) in answers]


def diagnose(
    coupling: Coupling,
    blocks: Sequence[Block],
    feeds: Iterable[Mapping[str, Array]],
    runtime: Runtime,
    labels: NDArray[np.int64] | None = None,
) -> Features:
    """Features of what the blocks read and make, and what is to be told from them: labels, or the network's answers.

    Raises DataError where there are too few samples for probes.
    """
    graph = coupling.graph
    axes: dict[str, int] = {}
    for block in blocks:
        axis = _channel_axis(coupling, block)
        axes.setdefault(block.shortcut, axis)
        axes.setdefault(block.output, axis)
    signals = oracle.signals(graph)
    model, pooled = _pooling(graph, axes, signals)
    found = collected(runtime.session(Model(model, graph.arrays)), feeds, [*pooled.values(), *signals])
    features = {name: _thinned(found[at]) for name, at in pooled.items()}
    count = len(next(iter(features.values())))
    if count < 16:
        raise DataError(f"{count} samples are too few to tell what blocks add; give 16 at least, or some hundreds.")
    if labels is None:
        targets = np.concatenate([_thinned(found[n]) for n in signals if len(found[n]) == count], axis=1)
    else:
        targets = np.eye(int(labels.max()) + 1)[labels]
    return Features(
        [features[b.shortcut] for b in blocks], [features[b.output] for b in blocks], targets, labels is not None
    )


def _channel_axis(coupling: Coupling, block: Block) -> int:
    """The axis of a block's values that holds channels: that of its first layer, if that sees as many axes."""
    graph = coupling.graph
    rank = len(graph.shapes[block.output])
    for i in block.nodes:
        linear = coupling.linear(i) if i in coupling.notes.readers else None
        if linear is not None and len(graph.shapes[linear.input]) == rank:
            return 1 if linear.window else linear.axis % rank
    return rank - 1


def _pooling(graph: Graph, axes: Mapping[str, int], signals: Sequence[str]) -> tuple[ModelProto, dict[str, str]]:
    """The model with outputs that are the means of values over all axes but the first and that of channels."""
    model, taken, pooled = open_ended(graph), names(graph.model.graph, graph.nodes), {}
    for name, axis in axes.items():
        pooled[name] = fresh(f"{name}_mean", taken)
        over = [a for a in range(len(graph.shapes[name])) if a not in (0, axis)]
        model.graph.node.append(_mean(model, name, pooled[name], over, graph.opset, taken))
    for name in (*pooled.values(), *signals):
        model.graph.output.append(helper.make_tensor_value_info(name, graph.types.get(name, TensorProto.FLOAT), None))
    return model, pooled


def _mean(model: ModelProto, name: str, output: str, over: Sequence[int], opset: int, taken: set[str]) -> NodeProto:
    """The node that averages a value over some axes; of none it is a copy."""
    if not over:
        return helper.make_node("Identity", [name], [output])
    if opset < 18:
        return helper.make_node("ReduceMean", [name], [output], axes=list(over), keepdims=0)
    axes = fresh(f"{output}_axes", taken)
    model.graph.initializer.append(helper.make_tensor(axes, TensorProto.INT64, [len(over)], over))
    return helper.make_node("ReduceMean", [name, axes], [output], keepdims=0)


def _thinned(values: Array) -> Float:
    """One row per sample, of WIDEST columns at most."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    if rows.shape[1] <= WIDEST:
        return rows
    return rows[:, np.linspace(0, rows.shape[1] - 1, WIDEST).round().astype(np.int64)]
