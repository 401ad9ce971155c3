"""Operators that pad or resize values, or read and write them at other places: channels pass along their own axis."""

from __future__ import annotations

import numpy as np

from onnxprune.contrib import DOMAIN
from onnxprune.graph import key
from onnxprune.ids import Ids
from onnxprune.ops.choice import pads
from onnxprune.ops.registry import Cut, Visit, rule
from onnxprune.ops.reshaping import STAYS, run_time
from onnxprune.ops.sizes import moves_sizes


def shrink_pad(cut: Cut) -> None:
    """Added channels are removable like others: the new amounts count those that are kept on each side."""
    x, y, found = cut.node.input[0], key(cut.node), pads(cut.view)
    cuts = [axis for axis in range(len(cut.shape(y))) if not cut.mask(y, axis).all()]
    if found is None or not any(side[axis] for axis in cuts for side in found):
        return
    begins, ends = found
    for axis in cuts:
        mask, n = cut.mask(y, axis), cut.shape(x)[axis]
        begins[axis], ends[axis] = int(mask[: begins[axis]].sum()), int(mask[begins[axis] + n :].sum())
    if cut.graph.opset < 11:
        cut.set_attr("pads", begins + ends)
        return
    cut.set_input(1, np.asarray(begins + ends, np.int64), "kept")
    del cut.node.input[3:]  # the axes: all are stated now


@rule("Pad", shrink=shrink_pad)
def pad(v: Visit) -> None:
    """Channels that are added have ids of their own: they can go, too. They hold a constant."""
    if v.graph.opset >= 11 and moves_sizes(v, 0, 2):
        return
    ids, found = v.ids(0), pads(v)
    if found is None:
        if any(n > 1 for n in ids.shape):
            v.freeze(ids, "pads them by sizes that are known only at run time")
        v.set(ids)
        return
    begins, ends = found
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if ids.shape[axis] == 1 or begin == end == 0:
            continue
        part = ids.take(range(max(-begin, 0), ids.shape[axis] + min(end, 0)), axis)
        padded = _padded(v, part, axis, max(begin, 0), max(end, 0))
        if min(begin, end) < 0 or v.attr("mode", "constant") != "constant" or not v.fixed(1):
            v.freeze(ids, STAYS)
            v.freeze(padded, STAYS)
        ids = padded
    v.set(ids)


def _padded(v: Visit, ids: Ids, axis: int, begin: int, end: int) -> Ids:
    """The ids with fresh ones on both sides of an axis; other ones in every place of the other axes (in every head)."""
    shape = (*ids.shape[:axis], begin + end, *ids.shape[axis + 1 :])
    new = v.ledger.fresh(("pad", v.index, axis, shape), int(np.prod(shape))).reshape(shape)
    return np.concatenate([new.take(range(begin), axis), ids, new.take(range(begin, begin + end), axis)], axis)


def shrink_resize(cut: Cut) -> None:
    """A target size names the channels that are kept."""
    name = cut.view.name(3)
    if name and cut.view.fixed(3) and (cut.changes(key(cut.node)) or cut.restated(name)):
        kept = cut.kept(key(cut.node))
        cut.set_input(3, np.asarray([kept[axis] for axis in cut.view.attr("axes", range(len(kept)))]), "kept")


@rule("Resize", "Upsample", shrink=shrink_resize)
def resize(v: Visit) -> None:
    """Interpolates over space; channels stay where their own axis is resized or a size is known only at run time."""
    ids = v.ids(0)
    if any(n > 1 and a != b for n, a, b in zip(ids.shape, v.shape(0), v.out_shape(), strict=True)):
        v.freeze(ids, STAYS)
        ids = v.staying(STAYS)
    elif v.fixed(3):
        v.accept(3)
    elif not v.follows(3, ids, v.attr("axes", range(ids.ndim))):
        run_time(v, ids, 3)
    v.set(ids)


# ---------------------------------------------------------------------------------------------- places in space


@rule("GridSample", "RoiAlign", "MaxRoiPool")
@rule("GridSample", domain=DOMAIN)
def sample(v: Visit) -> None:
    """Reads places of space that other inputs name, which stay; channel by channel."""
    v.set_channels(v.channels(0, 1))


@rule("AffineGrid")
def affine_grid(v: Visit) -> None:
    """Makes places of space; of the size that it is given, the number of channels doesn't count."""
    v.freeze(v.ids(0), "computes places in space of them")
    v.accept(1)
    v.set(v.staying("computes places in space"))


@rule("CenterCropPad")
def center(v: Visit) -> None:
    """Cuts or pads both ends of some axes; channels stay along these."""
    ids = v.ids(0)
    axes = {axis % ids.ndim for axis in v.attr("axes", range(ids.ndim))}
    v.set(v.gather(ids, axes, STAYS))


@rule("ReverseSequence")
def reverse(v: Visit) -> None:
    """Reverses the first elements along one axis, a number of its own for each place along another."""
    v.set(v.gather(v.ids(0), {v.attr("batch_axis", 1), v.attr("time_axis", 0)}, "reverses their order"))


@rule("TensorScatter")
def write_cache(v: Visit) -> None:
    """Writes new places along one axis of a cache."""
    axis = v.attr("axis", -2) % len(v.shape(0))
    past, update = (v.gather(v.ids(i), {axis}, "writes them at other places") for i in (0, 1))
    v.set(v.united([past, update]))
