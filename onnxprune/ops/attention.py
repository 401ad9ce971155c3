"""Products of two activations, which is what attention consists of.

Channels that vary along a batch axis of a product are its heads. Whatever belongs to a head goes with it: the channels
that the queries and keys are compared on, the values, the scores. So a head is removed whole, from the layers that make
the queries, keys and values to the projection that reads the result.
"""

from __future__ import annotations

import numpy as np

from onnxprune.graph import Shape
from onnxprune.ids import Ids
from onnxprune.ops.registry import Cut, Visit, rule


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


# ---------------------------------------------------------------------------------------------- in one node


def shrink_attention(cut: Cut) -> None:
    """The numbers of heads follow, where they aren't an axis of their own."""
    for i, name in enumerate(("q_num_heads", "kv_num_heads")):
        if name in cut.attrs:
            kept, whole = (shape(cut.node.input[i])[2] for shape in (cut.kept, cut.shape))
            cut.set_attr(name, cut.attrs[name] * kept // whole)


@rule("Attention", shrink=shrink_attention)
def attention(v: Visit) -> None:
    """Queries, keys, values; a head of keys and values goes with all heads of queries that share it."""
    queries, keys, values = (_heads(v, i, "q_num_heads" if i == 0 else "kv_num_heads") for i in range(3))
    share(v, queries, keys, values)
    mask(v, 3, queries)
    for i, own in ((4, keys), (5, values)):
        if v.has(i):
            v.tie(v.channels(i, 1), own)
    axis = 1 if len(v.out_shape()) == 4 else 2
    v.set_channels(np.repeat(queries, v.out_shape()[axis] // len(queries)), axis)
    for k, own in ((1, keys), (2, values), (3, queries)):
        if k < len(v.node.output) and v.node.output[k]:
            v.set_channels(own, k=k)


def _heads(v: Visit, i: int, count: str) -> Ids:
    """One id per head of input i, which is [N, heads, S, D], or [N, S, heads * D] and an attribute counts them."""
    if len(v.shape(i)) == 4:
        return v.channels(i, 1)
    return v.unite(v.channels(i, 2).reshape(v.attr(count), -1), [1]).ravel()


def share(v: Visit, queries: Ids, keys: Ids, values: Ids) -> None:
    """Heads of keys and values go with all heads of queries that share them; one that all share stays."""
    if len(keys) == 1 < len(queries):
        v.freeze(np.concatenate([keys, values]), "multiplies several heads by them")
    else:
        v.tie(queries.reshape(len(keys), -1), keys[:, None])
        v.tie(keys, values)


def mask(v: Visit, i: int, heads: Ids) -> None:
    """A mask of its own for every head goes with it; one for all stays."""
    if not v.has(i):
        return
    axis = len(v.shape(i)) - 3
    apart = axis >= 0 and v.shape(i)[axis] > 1
    if apart and v.static(i):
        v.tie(v.parameter(i, axis), heads)
    elif apart:
        v.tie(v.channels(i, axis), heads)
    else:
        v.freeze(v.ids(i), "adds them to several heads")
