"""LSTM, GRU and RNN: a channel is a hidden unit, with its row in every gate and its column in the recurrent matrix.

The gates add what they make of the input to what they make of the units of the step before. The former is a linear
layer like any other, though its output is no value of the graph. The latter is one, too, that reads the layer's own
channels: it is noted as feedback, which the full-size twin silences.

Each direction has units of its own, which only it remembers. There is one `hidden_size`, so both keep equally many.
They lie side by side along an axis of their own, as lanes, until something behind the layer puts them one after the
other, as most networks do. Where something else is done with them (they are added, say), unit i of both is one channel.
"""

from __future__ import annotations

import numpy as np

from onnxprune.bodies import constant
from onnxprune.graph import Graph, key
from onnxprune.ids import Ids
from onnxprune.ops.linear import Float, Linear, floating
from onnxprune.ops.registry import Cut, View, Visit, rule

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
MOVES = {"Cast", "Expand", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
MOVES |= {"Gather", "Slice", "Split"}
W, R, B, INITIAL_H, INITIAL_C, P = 1, 2, 3, 5, 6, 7


def shrink_recurrent(cut: Cut) -> None:
    """The size follows; an initial state of zeros is the default."""
    hidden = cut.kept(key(cut.node))[-1]
    if hidden == cut.shape(key(cut.node))[-1]:
        return
    cut.set_attr("hidden_size", hidden)
    for i in (INITIAL_H, INITIAL_C):
        if cut.view.has(i) and zeros(cut.view, i):
            cut.node.input[i] = ""


def zeros(v: View, i: int) -> bool:
    """Whether input i is made of zeros, in a size that is known only at run time."""
    return not v.static(i) and _filled_with(v.graph, v.name(i)) == 0


def _filled_with(graph: Graph, name: str) -> float | None:
    """The one number that all elements of a value are, as far as the nodes that make it tell."""
    if name in graph.static:
        values = graph.array(name)
        return float(values.flat[0]) if values.size and (values == values.flat[0]).all() else None
    if name not in graph.producer:
        return None
    node = graph.nodes[graph.producer[name]]
    if node.op_type == "ConstantOfShape":
        return float(constant(node).flat[0]) if node.attribute else 0.0
    if node.op_type not in MOVES | {"Concat", "Mul"}:
        return None
    read = node.input[:1] if node.op_type in MOVES else node.input
    one, *others = (_filled_with(graph, part) for part in read)
    if node.op_type == "Mul":
        return None if one is None or others[0] is None else one * others[0]
    return one if all(other == one for other in others) else None


def input_linear(graph: Graph, index: int) -> Linear | None:
    """What the gates of all directions make of the input."""
    return _linear(View(graph, graph.probes[0], index), loops=False)


def loop_linear(graph: Graph, index: int) -> Linear | None:
    """What they make of their units of the step before, as far as the graph tells: of all steps or of the last one.

    In a GRU that resets its units before the matrix it is an estimate.
    """
    states = any(graph.nodes[index].output[:2])  # an LSTM may give nothing but its cells
    return _linear(View(graph, graph.probes[0], index), loops=True) if states else None


def _linear(v: View, loops: bool) -> Linear | None:
    weight_at, given = R if loops else W, (W, R, B) if v.has(B) else (W, R)
    if not all(v.static(i) and floating(v.graph.array(v.name(i))) for i in given):
        return None
    weight = v.graph.array(v.name(weight_at)).astype(np.float64)
    directions, columns, _ = weight.shape
    matrix = weight.transpose(0, 2, 1) if loops else weight.reshape(directions * columns, -1).T[None]
    both = v.graph.array(v.name(B)).astype(np.float64) if v.has(B) else np.zeros((directions, 2 * columns))
    halves = [half.ravel() for half in np.split(both, 2, axis=1)]
    offset, beside = reversed(halves) if loops else halves

    def tensors(linear: Linear) -> tuple[Float, Float]:
        assert linear.beside is not None
        parts = [half.reshape(directions, -1) for half in (linear.offset, linear.beside)]
        bias = np.concatenate(parts[::-1] if loops else parts, axis=1)
        return linear.matrix.transpose(0, 2, 1).reshape(directions, -1, linear.shape[1]), bias

    names = (f"{key(v.node)}/loop", key(v.node)) if loops else (key(v.node), v.name(0))
    lane_axis = _lane_axis(v, list(v.node.output).index(key(v.node))) if loops else None
    return Linear(v.index, *names, "", v.name(weight_at), v.name(B), matrix, offset,
                  weight_at=weight_at, bias_at=B, tensors=tensors, beside=beside, loops=loops,
                  lanes=directions, lane_axis=lane_axis)  # fmt: skip


def _lane_axis(v: View, k: int) -> int:
    """The axis of output k along which the directions lie."""
    layout: int = v.attr("layout", 0)
    return layout if k else layout + 1


@rule("LSTM", "GRU", "RNN", linear=input_linear, loop=loop_linear, shrink=shrink_recurrent)
def recurrent(v: Visit) -> None:
    """Contracts the last axis of its input; makes the last axis of its outputs."""
    if not all(v.static(i) and floating(v.graph.array(v.name(i))) for i in (W, R)):
        v.freeze_all("reads its weights from another node, not from a constant")
        return
    units = v.parameter(R, 2, lanes=True)
    v.ledger.side_by_side((v.index, "directions"), units)
    _parameters(v, units, GATES[v.node.op_type])
    for i in (INITIAL_H, INITIAL_C):
        if v.has(i):
            _initial_state(v, i, units)
    v.tie(v.contracted(0, 2), v.parameter(W, 2, "reader"))
    v.notes.writers[v.index] = units.ravel()
    v.notes.feedback[v.index] = {R: units[:, None]}
    for k in range(len(v.node.output)):
        if v.node.output[k]:
            rank, lanes = len(v.out_shape(k)), _lane_axis(v, k)
            v.set(units.reshape([len(units) if a == lanes else 1 for a in range(rank - 1)] + [-1]), k)


def _parameters(v: Visit, units: Ids, gates: int) -> None:
    """Every gate has a row per unit in both matrices, two biases, and in an LSTM three of them a weight of the cell."""
    v.tie(v.parameter(W, 1, "writer", lanes=True), np.tile(units, gates))
    v.tie(v.parameter(R, 1, lanes=True), np.tile(units, gates))
    for i, rows in ((B, 2 * gates), (P, 3)):
        if v.static(i):
            v.tie(v.parameter(i, 1, lanes=True), np.tile(units, rows))
        elif v.has(i):
            v.freeze(units, "reads its parameters from another node")


def _initial_state(v: Visit, i: int, units: Ids) -> None:
    """A state that isn't constant belongs to the units of the layer that makes it."""
    lanes = _lane_axis(v, 1)
    if v.static(i):
        v.tie(v.parameter(i, 2, lanes=lanes == 0), units)
    elif zeros(v, i):
        v.accept(i)
    else:
        state = v.ids(i, lanes=True)
        v.tie(v.unite(state, {1 - lanes}).reshape(state.shape[lanes], -1), units)
