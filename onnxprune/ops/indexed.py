"""Operators whose indices name places along the first axes of a value: channels along the other axes pass through."""

from __future__ import annotations

import numpy as np
from onnx import helper

from onnxprune.graph import Shape, key
from onnxprune.ids import Ids
from onnxprune.ops.experts import choose, chooses
from onnxprune.ops.registry import Cut, Visit, always, rule
from onnxprune.ops.sizes import moves_sizes

INDEXED = "moves them to places that its indices say"


@rule("GatherND", commutes=always)
def gather_nd(v: Visit) -> None:
    """Picks slices; of those that are constant the channels are of the rows of a table."""
    if v.static(0) and chooses(v.graph, v.index):
        choose(v)
        return
    if v.static(0):
        v.freeze_all("looks its values up in a table")
        return
    if moves_sizes(v, 0):
        return
    batch, indices = v.attr("batch_dims", 0), v.shape(1)
    behind = batch + indices[-1]
    v.freeze(v.ids(1), INDEXED)
    ids = v.gather(v.ids(0), set(range(batch, behind)), INDEXED)
    v.set(ids.reshape(*ids.shape[:batch], *(1,) * (len(indices) - 1 - batch), *ids.shape[behind:]))


def adds_up(v: Visit) -> bool:
    """Whether slices take the place of others, or are added to them."""
    return v.attr("reduction", "none") in ("none", "add")


@rule("ScatterND", commutes=adds_up)
def scatter_nd(v: Visit) -> None:
    """Puts slices into the place of others; those of a constant have channels along the same axis as the others.

    Channels along an axis that is indexed stay, unless each keeps its own number.
    """
    if moves_sizes(v, 0, 2) or keeps_numbers(v):
        return
    ahead = {0: v.shape(1)[-1], 2: len(v.shape(1)) - 1}
    v.freeze(v.ids(1), INDEXED)
    active = {i: _slices(v, i, ahead[i]) for i in ahead if not v.static(i)}
    varying = {axis - ids.ndim for ids in active.values() for axis, n in enumerate(ids.shape) if n > 1}
    for i in ahead.keys() - active.keys():
        rank = len(v.shape(i))
        own = [v.parameter(i, rank + axis).reshape([-1] + [1] * (-axis - 1)) for axis in varying]
        active[i] = own[0] if len(own) == 1 else np.zeros((1,), np.int64)
    rank = len(v.out_shape())
    v.set(v.united([ids.reshape((1,) * (rank - ids.ndim) + ids.shape) for ids in active.values()]))


def _slices(v: Visit, i: int, axes: int) -> Ids:
    """Ids of the slices of input i, which lie along its first axes."""
    ids = v.gather(v.ids(i), set(range(axes)), INDEXED)
    return ids.reshape(ids.shape[axes:])


def shrink_elements(cut: Cut) -> None:
    """Of indices that know nothing of the channels, those of the channels that stay are picked first."""
    y, indices = key(cut.node), cut.node.input[1]
    for axis in range(len(cut.shape(indices))):
        kept = cut.mask(y, axis)
        if axis == cut.view.attr("axis", 0) % len(cut.shape(y)) or kept.all() or not cut.mask(indices, axis).all():
            continue
        picked = cut.fresh(f"{indices}_kept")
        places = cut.constant(np.flatnonzero(kept), f"{indices}_places")
        cut.before.append(helper.make_node("Gather", [indices, places], [picked], picked, axis=axis))
        cut.node.input[1] = picked


@rule("GatherElements", "ScatterElements", "Scatter", shrink=shrink_elements)
def elements(v: Visit) -> None:
    """Moves each element along one axis, to or from a place of its own; channels along other axes keep theirs."""
    axis, moved = v.attr("axis", 0) % len(v.shape(0)), [0, 2][: len(v.node.input) - 1]
    active = {i: v.gather(v.ids(i), {axis}, INDEXED) for i in moved if not v.static(i)}
    varying = [a for a in range(len(v.shape(0))) if any(ids.shape[a] > 1 for ids in active.values())]
    if any(v.shape(i)[a] != v.shape(0)[a] for i in range(len(v.node.input)) for a in varying):
        v.freeze_all(INDEXED)
        return
    parts = [active[i] if i in active else _constant(v, i, varying) for i in moved]
    if (indices := v.ids(1)).size > 1 and not v.ledger.sizes(indices):
        parts.append(v.gather(indices, {axis}, INDEXED))
    else:
        v.freeze(indices, INDEXED)
    v.set(v.united(parts))


def _constant(v: Visit, i: int, varying: list[int]) -> Ids:
    """A constant has ids of its own along the axis on which channels vary, if it is one."""
    shape = [-1 if axis in varying else 1 for axis in range(len(v.shape(i)))]
    return v.parameter(i, varying[0]).reshape(shape) if len(varying) == 1 else np.zeros((1,) * len(shape), np.int64)


def keeps_numbers(v: Visit) -> bool:
    """Whether the indices along the axis of the channels are the numbers of all of them, and those are tied.

    That is how slices along other axes are assigned to: the indices are a grid, of ranges that are counted up.
    """
    data, indices, updates = (v.ids(i) for i in range(3))
    axes = [[axis for axis, n in enumerate(ids.shape) if n > 1] for ids in (data, indices, updates)]
    if any(len(own) != 1 for own in axes) or axes[1] != axes[2] or axes[0][0] >= v.shape(1)[-1]:
        return False
    (axis,), (place,) = axes[0], axes[1]
    parts = grid(v)
    if len(parts) != v.shape(1)[-1] or parts[axis][0] != "Range" or parts[axis][1][place] == 1:
        return False
    if any(lengths[place] > 1 for other, (_, lengths) in enumerate(parts) if other != axis):
        return False
    numbers = [ids.ravel() for ids in (data, indices, updates)]
    if len({len(own) for own in numbers}) > 1:
        return False
    v.tie(numbers[0], numbers[1])
    v.tie(numbers[0], numbers[2])
    v.set(data)
    return True


def grid(v: Visit) -> list[tuple[str, Shape]]:
    """Of each of the indices, the operator that makes it, and its shape before it is repeated; [] if they are no grid.

    Shapes have the rank of the places, aligned.
    """
    graph, rank = v.graph, len(v.shape(1)) - 1
    maker = graph.producer.get(v.name(1))
    if maker is None or graph.nodes[maker].op_type != "Concat":
        return []
    found = []
    for name in graph.nodes[maker].input:
        shape: Shape = v.probe.shapes.get(name, ())
        if shape[-1:] != (1,):
            return []
        operator, lengths = "", shape[:-1]
        while (producer := graph.producer.get(name)) is not None:
            node = graph.nodes[producer]
            operator = node.op_type
            if operator not in ("Cast", "Expand", "Identity", "Reshape", "Unsqueeze"):
                break
            name = node.input[0]
            if operator == "Expand":
                before = v.probe.shapes.get(name, ())
                lengths = (1,) * (rank - len(before)) + tuple(before)
        found.append((operator, lengths))
    return found
