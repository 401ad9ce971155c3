"""Operators that ask for the sizes of a value, or make a value from sizes."""

from __future__ import annotations

import numpy as np

from onnxprune.ops.registry import Visit, always, rule


@rule("Shape", commutes=always)
def shape_of(v: Visit) -> None:
    """Each length along which channels vary is an id of its own: calculating with it freezes those channels.

    A list of sizes is as long as ever, whatever the sizes are.
    """
    ids = v.ids(0, lanes=True)
    if v.ledger.sizes(ids):
        ids = np.zeros((1,) * ids.ndim, np.int64)
    lengths = np.zeros(ids.ndim, np.int64)
    for axis, n in enumerate(ids.shape):
        if n > 1 and axis not in v.ledger.lane_axes(ids):
            lengths[axis] = v.ledger.fresh(("length", v.name(0), axis), 1)[0]
            v.ledger.measured(int(lengths[axis]), ids, axis)
    v.set(lengths[v.attr("start", 0) : v.attr("end", len(lengths))])


@rule("Size")
def size_of(v: Visit) -> None:
    """A total over all axes."""
    v.freeze(v.ids(0), "counts all elements")


@rule("ConstantOfShape")
def filled(v: Visit) -> None:
    """Repeats a number. Along an axis whose size counts channels, each place belongs to one of these."""
    if not stretched(v, 0):
        made(v)


def stretched(v: Visit, i: int) -> bool:
    """Whether the sizes in input i, to which one number is repeated, count channels, which the places belong to then.

    Without any such sizes there are no channels; where there are others, nothing is set.
    """
    shape = v.out_shape()
    rows = {axis: v.ledger.rows.get(int(size)) for axis, size in enumerate(v.ids(i).ravel()) if size}
    known = {axis: found for axis, found in rows.items() if found is not None and len(found) == shape[axis]}
    if len(known) < len(rows) or len(rows) > 1:
        return False
    v.set(np.zeros((1,) * len(shape), np.int64))
    for axis, found in known.items():
        v.set_channels(v.unite(found, [1]).ravel(), axis)
    return True


@rule("RandomNormalLike", "RandomUniformLike")
def noise(v: Visit) -> None:
    """Draws a number for every element."""
    v.set(v.ids(0))


@rule("Range", "RandomNormal", "RandomUniform", "EyeLike")
def made(v: Visit) -> None:
    """Makes a value from sizes: it has no channels, and sizes that are channels stay."""
    if any(v.ids(i).any() for i in range(len(v.node.input))):
        v.freeze_all("makes a value of this size")
    else:
        v.set(np.zeros((1,) * len(v.out_shape()), np.int64))
