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


@rule(
    "ConstantOfShape",
    "Range",
    "RandomNormal",
    "RandomUniform",
    "EyeLike",
    "RandomNormalLike",
    "RandomUniformLike",
)
def made(v: Visit) -> None:
    """Makes a value from sizes: it has no channels, and sizes that are channels stay."""
    if any(v.ids(i).any() for i in range(len(v.node.input))):
        v.freeze_all("makes a value of this size")
    else:
        v.set(np.zeros((1,) * len(v.out_shape()), np.int64))
