"""Operators that put values side by side, or take parts of them: they are run on the ids themselves."""

from __future__ import annotations

import numpy as np

from onnxprune.graph import key
from onnxprune.ids import Ids, widen
from onnxprune.ops.choice import everything, filling, fills_up
from onnxprune.ops.experts import choose, chooses
from onnxprune.ops.registry import Cut, View, Visit, always, rule
from onnxprune.ops.reshaping import STAYS

END = 2**31 - 1  # a place behind the last one of any axis, in indices of 32 bits, too


@rule("Concat", commutes=always)
def concat(v: Visit) -> None:
    """Puts values side by side. An empty one, as the channels of a head that aren't turned where all are, adds none."""
    axis = v.attr("axis", 1) % len(v.out_shape())
    empty = {i for i in range(len(v.node.input)) if not v.shape(i)[axis]}
    v.accept(*empty)
    inputs = [i for i in range(len(v.node.input)) if i not in empty] or [0]
    lanes = not any(v.static(i) for i in inputs)
    active = {i: v.ids(i, lanes=lanes) for i in inputs if not v.static(i)}
    varying = [a for a in range(len(v.out_shape())) if any(ids.shape[a] > 1 for ids in active.values())]
    parts = [active[i] if i in active else _constant(v, i, varying) for i in inputs]
    if varying and axis not in varying:
        v.set(v.united(parts))
        return
    parts = [widen(part, v.shape(i), [axis]) for i, part in zip(inputs, parts, strict=True)]
    common = np.broadcast_shapes(*(tuple(n for a, n in enumerate(p.shape) if a != axis) for p in parts))
    parts = [np.broadcast_to(p, (*common[:axis], p.shape[axis], *common[axis:])) for p in parts]
    v.set(np.concatenate(parts, axis))


def _constant(v: Visit, i: int, varying: list[int]) -> Ids:
    """A constant that is put beside channels has ids of its own along the axis on which these vary, if it is one."""
    floats = v.graph.array(v.name(i)).dtype.kind not in "iu"
    if len(varying) != 1 or not floats:
        return np.zeros((1,) * len(v.shape(i)), np.int64)
    return v.parameter(i, varying[0]).reshape([-1 if a == varying[0] else 1 for a in range(len(v.shape(i)))])


def shrink_split(cut: Cut) -> None:
    """Every part keeps its own channels."""
    axis = cut.view.attr("axis", 0) % len(cut.shape(cut.node.input[0]))
    if cut.mask(cut.node.input[0], axis).all():
        return
    sizes = np.asarray([cut.kept(name)[axis] for name in cut.node.output], np.int64)
    if cut.graph.opset < 13:
        cut.set_attr("split", sizes.tolist())
    else:
        cut.drop_attr("num_outputs")
        cut.set_input(1, sizes, "sizes")


@rule("Split", shrink=shrink_split, commutes=always)
def split(v: Visit) -> None:
    """Cuts one axis into parts."""
    axis = v.attr("axis", 0) % len(v.shape(0))
    ids = cut_along(v, {axis})
    if not v.fixed(1):
        v.freeze(ids, "cuts them at places that are known only at run time")
    ends = np.cumsum([v.out_shape(k)[axis] for k in range(len(v.node.output))])
    whole = widen(ids, v.shape(0), [axis])
    for k, part in enumerate(np.split(whole, ends[:-1], axis)):
        v.set_part(part, whole, k)


def cut_along(v: Visit, axes: set[int]) -> Ids:
    """Ids of input 0, of which parts along some axes are taken. Each lane has its own, so these are cut apart only."""
    ids = v.ids(0, lanes=True)
    varying = {axis for axis in axes if ids.shape[axis] > 1}
    return ids if varying <= set(v.ledger.lane_axes(ids)) else v.ids(0)


def slice_terms(v: View) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, stop, step) of each axis of which a Slice node takes a part; None if any is unknown."""
    rank = len(v.shape(0))
    if v.graph.opset < 10:
        starts, ends = v.attr("starts"), v.attr("ends")
        axes, steps = v.attr("axes", range(len(starts))), [1] * len(starts)
    else:
        given = [v.value(i) for i in range(1, 5)]
        if given[0] is None or given[1] is None or any(v.has(i) and given[i - 1] is None for i in (3, 4)):
            return None
        starts, ends = given[0].tolist(), given[1].tolist()
        axes = given[2].tolist() if given[2] is not None else range(len(starts))
        steps = given[3].tolist() if given[3] is not None else [1] * len(starts)
    return [(a % rank, s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)]


def lasting_terms(v: View) -> list[tuple[int, int, int, int]] | None:
    """The terms of a Slice node that hold for all sizes of symbolic dimensions; None if there are others.

    An axis that is always taken whole is taken up to whatever its end is.
    """
    found, lasting = [slice_terms(View(v.graph, probe, v.index)) for probe in v.graph.probes], []
    for several in zip(*(terms or [] for terms in found), strict=False):
        axis = several[0][0]
        lengths = [probe.shapes[v.name(0)][axis] for probe in v.graph.probes]
        if all(
            (a, *slice(*term).indices(n)) == (axis, 0, n, 1) for (a, *term), n in zip(several, lengths, strict=True)
        ):
            lasting.append((axis, 0, END, 1))
        elif len(set(several)) == 1:
            lasting.append(several[0])
    return lasting if found[0] is not None and len(lasting) == len(found[0]) else None


def shrink_slice(cut: Cut) -> None:
    """Starts and ends along the channel axis count the channels kept before them."""
    x, terms = cut.node.input[0], lasting_terms(cut.view)
    counted = [name for name in cut.node.input[1:3] if cut.restated(name)]
    if terms is None or not (counted or any(not cut.mask(x, axis).all() for axis, *_ in terms)):
        return
    shape, starts, ends = cut.shape(x), [], []
    for axis, start, end, step in terms:
        mask = cut.mask(x, axis)
        if not mask.all():
            first, stop, _ = slice(start, end, step).indices(shape[axis])
            last = int(mask[: max(stop, first)].sum())
            start, end = (int(mask[:first].sum()), last) if step == 1 else (first, int(mask.sum()))
        starts.append(start)
        ends.append(end)
    if cut.graph.opset < 10:
        cut.set_attr("starts", starts)
        cut.set_attr("ends", ends)
    else:
        cut.set_input(1, np.asarray(starts, np.int64), "starts")
        cut.set_input(2, np.asarray(ends, np.int64), "ends")


def without_steps(v: Visit) -> bool:
    """Whether all neighbours along the axes of channels are taken alike."""
    return all(step == 1 or v.ids(0).shape[axis] == 1 for axis, *_, step in slice_terms(v) or [])


@rule("Slice", shrink=shrink_slice, commutes=without_steps)
def cut_out(v: Visit) -> None:
    """Takes a part: of a channel axis only at known places, and else of all channels alike.

    In steps of more than one it takes one of each few, as the gates that lie between what they multiply: those few stay
    or go together.
    """
    terms = slice_terms(v)
    if terms is None:
        v.freeze_all("cuts them at places that are known only at run time")
        return
    whole = cut_along(v, {axis for axis, *_ in terms})
    known = lasting_terms(v) is not None
    few = {axis: step for axis, start, _, step in terms if whole.shape[axis] > 1 and one_of_each(v, axis, start, step)}
    strewn = {axis for axis, *_, step in terms if whole.shape[axis] > 1 and not (known and (step == 1 or axis in few))}
    ids = whole = v.gather(whole, strewn, STAYS)
    for axis in few.keys() - strewn:
        rows = np.moveaxis(ids, axis, 0)
        v.tie(rows, rows[np.arange(len(rows)) // few[axis] * few[axis]])
    for axis, start, end, step in terms:
        if ids.shape[axis] > 1:
            ids = ids[(slice(None),) * axis + (slice(start, end, step),)]
            v.accept(1, 2)
    v.set_part(ids, whole)


def one_of_each(v: View, axis: int, start: int, step: int) -> bool:
    """Whether a slice takes one of each few neighbours along an axis, from the first few to the last."""
    n = v.shape(0)[axis]
    return step > 1 and n % step == 0 and 0 <= start < step and v.out_shape()[axis] == n // step


def shrink_gather(cut: Cut) -> None:
    """Indices along the channel axis count the channels kept before them, and stay where their own channel does.

    Where that stays but the channel that was picked doesn't, the first one is picked: the padding (see `fills_up`).
    """
    x, y = cut.node.input[0], key(cut.node)
    axis = int(cut.attrs.get("axis", 0)) % len(cut.shape(x))
    mask, listed = cut.mask(x, axis), len(cut.shape(x)) == len(cut.shape(y))
    if mask.all() and (not listed or cut.mask(y, axis).all()):
        return
    indices = cut.graph.array(cut.node.input[1]) % len(mask)
    places = np.cumsum(mask) - 1
    places[~mask] = 0
    cut.set_input(1, places[indices[cut.mask(y, axis)]], "kept")


@rule("Gather", shrink=shrink_gather, commutes=always, linear=filling)
def gather(v: Visit) -> None:
    """Picks places of one axis: of a channel axis only by a constant list.

    One that picks all channels in their order does nothing, unless it is there to let what reads it do with fewer: its
    result has channels of its own, and those of its input stay. With one that fills up it is the other way round.
    """
    if v.static(0):
        choose(v) if chooses(v.graph, v.index) else look_up(v)
        return
    axis, indices, inner = v.attr("axis", 0) % len(v.shape(0)), v.value(1), len(v.shape(1))
    ids = cut_along(v, {axis})
    counted = v.value(0) is not None  # sizes, of which any may be picked
    if not counted and fills_up(v.graph, v.index):
        v.contracted(0, axis)
        filled = v.ledger.fresh(("filled", v.index), v.out_shape()[axis])
        v.freeze(filled, "lets what writes them leave some out, so they stay")
        v.set_channels(filled, axis)
        return
    if ids.size == ids.shape[axis] > 1 and v.static(1) and everything(v.shape(0), axis, indices):
        v.freeze(ids, "lets what reads it choose among them, so they stay")
        v.set_channels(v.ledger.fresh(("choice", v.index), ids.size), axis)
        return
    if ids.shape[axis] > 1 and indices is not None and (counted or (v.static(1) and inner == 1)):
        picked = ids.take(indices, axis)
        v.set(picked) if counted else v.set_part(picked, ids)
        return
    if ids.shape[axis] > 1:
        one = v.static(1) and v.graph.array(v.name(1)).size == 1
        lane = one and axis in v.ledger.lane_axes(ids)
        whole = ids if lane else v.gather(ids, {axis}, "picks single channels")
        known = one and whole.any()
        ids = ids.take(v.graph.array(v.name(1)).ravel(), axis) if known else whole  # one of those that go together
    v.set(ids.reshape(ids.shape[:axis] + (1,) * inner + ids.shape[axis + 1 :]))


def look_up(v: Visit) -> None:
    """Rows of a constant table, whose columns are channels (an embedding, the bias of each head by position)."""
    shape, axis = v.shape(0), v.attr("axis", 0) % len(v.shape(0))
    columns = [a for a, n in enumerate(shape) if a != axis and n > 1]
    v.freeze(v.ids(1), "looks its values up in a table")
    if len(columns) != 1 or v.node.input[0] == v.name(1):
        v.notes.refused[v.index] = f"{v} looks its values up in a table"
        v.set(v.staying("looks its values up in a table"))
        return
    place = columns[0] if columns[0] < axis else columns[0] + len(v.shape(1)) - 1
    v.set_channels(v.parameter(0, columns[0]), place)
