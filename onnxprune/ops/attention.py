"""Products of two activations, which is what attention consists of.

Channels that vary along a batch axis of a product are its heads. Whatever belongs to a head goes with it: the channels
that the queries and keys are compared on, the values, the scores. So a head is removed whole, from the layers that make
the queries, keys and values to the projection that reads the result.
"""

from __future__ import annotations

import numpy as np

from onnxprune.graph import Shape
from onnxprune.ids import Ids
from onnxprune.ops.registry import Visit


def multiply(v: Visit, a: Ids, b: Ids) -> Ids:
    """Ids of the product of inputs 0 and 1, whose ids are a [..., M, K] and b [..., K, N]."""
    rank = max(a.ndim, b.ndim)
    if min(a.ndim, b.ndim) < 2:
        v.freeze_all("multiplies by a vector that is computed")
        return np.zeros((1,) * len(v.out_shape()), np.int64)
    a, b = (x.reshape((1,) * (rank - x.ndim) + x.shape) for x in (a, b))
    heads = [axis for axis in range(rank - 2) if max(a.shape[axis], b.shape[axis]) > 1]
    return _by_heads(v, a, b, heads) if heads else _one_matrix(v, a, b)


def _by_heads(v: Visit, a: Ids, b: Ids, heads: list[int]) -> Ids:
    """The heads of both operands are tied, each with all that belongs to it; an operand that all heads share stays."""
    units = []
    for i, ids in enumerate((a, b)):
        if all(_length(v.shape(i), axis - a.ndim) == 1 for axis in heads):
            v.freeze(ids, "multiplies several heads by them")
        else:
            units.append(v.unite(ids, (-2, -1)))
    v.tie(units[0], units[-1])
    return np.where(units[0] == 0, units[-1], units[0])


def _length(shape: Shape, axis: int) -> int:
    return shape[axis] if -axis <= len(shape) else 1


def _one_matrix(v: Visit, a: Ids, b: Ids) -> Ids:
    """Without heads, channels along M or N pass through, if along one of the two only; those along K stay."""
    passing = [x for x, own, other in ((a, -2, -1), (b, -1, -2)) if x.shape[own] > 1 and x.shape[other] == 1]
    for ids in (a, b):
        if len(passing) != 1 or ids is not passing[0]:
            v.freeze(ids, "multiplies them by channels of another layer, and there is only one head")
    return passing[0] if len(passing) == 1 else np.zeros((1,) * a.ndim, np.int64)
