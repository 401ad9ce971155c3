"""Operators whose indices name places along the first axes of a value: channels along the other axes pass through."""

from __future__ import annotations

import numpy as np

from onnxprune.ids import Ids
from onnxprune.ops.experts import choose, chooses
from onnxprune.ops.registry import Visit, always, rule

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
    """Puts slices into the place of others; those of a constant have channels along the same axis as the others."""
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
