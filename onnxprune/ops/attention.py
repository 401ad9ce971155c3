"""Products of two activations, which is what attention consists of.

Channels that vary along a batch axis of a product are its heads. Whatever belongs to a head goes with it: the channels
that the queries and keys are compared on, the values, the scores. So a head is removed whole, from the layers that make
the queries, keys and values to the projection that reads the result.

Or channels are dims of heads: the j-th dim of every head of a product. Those that queries and keys are compared on are
one set of channels, those of the values another, and all heads stay.
"""

from __future__ import annotations

import numpy as np

from onnxprune.graph import Shape
from onnxprune.ids import Ids, widen
from onnxprune.ops.elementwise import CROSSED
from onnxprune.ops.registry import Bools, Cut, Product, Visit, always, rule

MIXED = "multiplies them by channels of another layer"
WHOLE = "multiplies heads whose dims something before it treats one by one"
SEVERAL = "multiplies several heads by them"
ONE_HEAD = f"{MIXED}, and there is only one head"


def multiply(v: Visit, a: Ids, b: Ids) -> Ids:
    """Ids of the product of inputs 0 and 1, whose ids are a [..., M, K] and b [..., K, N]."""
    rank = max(a.ndim, b.ndim)
    if min(a.ndim, b.ndim) < 2:
        v.freeze_all("multiplies by a vector that is computed")
        return v.staying("multiplies by a vector that is computed")
    a, b = (x.reshape((1,) * (rank - x.ndim) + x.shape) for x in (a, b))
    v.notes.heads.add(v.index)
    if v.by_rank:
        return _by_dims(v, a, b)
    heads = [axis for axis in range(rank - 2) if max(a.shape[axis], b.shape[axis]) > 1]
    return _by_heads(v, a, b, heads) if heads else _one_matrix(v, a, b)


def _by_heads(v: Visit, a: Ids, b: Ids, heads: list[int]) -> Ids:
    """The heads of both operands are tied, each with all that belongs to it; an operand that all heads share stays."""
    units = []
    for i, ids in enumerate((a, b)):
        if all(_length(v.shape(i), axis - a.ndim) == 1 for axis in heads):
            v.freeze(ids, SEVERAL)
        else:
            units.append(v.unite(ids, (-2, -1)))
    return v.united(units)


def _length(shape: Shape, axis: int) -> int:
    return shape[axis] if -axis <= len(shape) else 1


def _one_matrix(v: Visit, a: Ids, b: Ids) -> Ids:
    """Without heads, channels along M or N pass through, if along one of the two only; those along K stay."""
    passing = [x for x, own, other in ((a, -2, -1), (b, -1, -2)) if x.shape[own] > 1 and x.shape[other] == 1]
    why = CROSSED if len(passing) == 2 else ONE_HEAD
    for ids in (a, b):
        if len(passing) != 1 or ids is not passing[0]:
            v.freeze(ids, why)
    return passing[0] if len(passing) == 1 else v.staying(why, a.ndim)


# ---------------------------------------------------------------------------------------------- dims of heads


def _by_dims(v: Visit, a: Ids, b: Ids) -> Ids:
    """Channels along K of both operands are tied and end here; those along M or N pass through, if of one operand."""
    compared = a.shape[-1] > 1 or b.shape[-2] > 1
    beside = [x for x, own in ((a, -2), (b, -1)) if x.shape[own] > 1]
    across = [x for x in beside if len(beside) == 1 or v.notes.made(x)]  # not those of a mask
    if compared and not beside:
        compare(v, a[..., 0, :], b[..., 0])
        return np.zeros((1,) * a.ndim, np.int64)
    if compared or len(across) != 1:
        for ids in (a, b):
            v.freeze(ids, MIXED if compared or across else WHOLE)
        return np.zeros((1,) * a.ndim, np.int64)
    v.freeze(b if across[0] is a else a, "multiplies dims of heads by them")
    pass_on(v, a[..., 0] if across[0] is a else b[..., 0, :])
    return across[0]


def compare(v: Visit, left: Ids, right: Ids) -> None:
    """Dims [..., D] of two operands, one of which may be shared by heads of the other, are multiplied and summed up."""
    v.tie(left, right)
    left, right = (x.reshape(-1, x.shape[-1]) for x in np.broadcast_arrays(left, right))
    v.tie(left, left[:1])
    left, right = np.split(np.unique(np.concatenate([left, right], 1), axis=0), 2, axis=1)  # heads, whatever the batch
    v.notes.products.append(Product(v.index, left, right))
    v.notes.readers[v.index], v.notes.places[v.index] = left.ravel(), 0


def pass_on(v: Visit, dims: Ids) -> None:
    """Dims [..., D] pass through, mixed over positions only."""
    dims = dims.reshape(-1, dims.shape[-1])
    v.tie(dims, dims[:1])
    v.notes.products.append(Product(v.index, np.unique(dims, axis=0)))


# ---------------------------------------------------------------------------------------------- in one node


def shrink_attention(cut: Cut) -> None:
    """The numbers of heads follow, where they aren't an axis of their own; the scale stays that of all dims."""
    for i, name in enumerate(("q_num_heads", "kv_num_heads")):
        if name in cut.attrs:
            cut.set_attr(name, int(_by_head(cut, i, name).any(1).sum()))
    dims = _by_head(cut, 0, "q_num_heads")
    if not dims[dims.any(1)].all() and "scale" not in cut.attrs:
        cut.set_attr("scale", dims.shape[1] ** -0.5)


def _by_head(cut: Cut, i: int, count: str) -> Bools:
    """Kept flags [heads, D] of input i, of which an attribute may count the heads."""
    name = cut.view.name(i)
    kept = cut.mask(name, len(cut.shape(name)) - 1)
    return kept.reshape(cut.view.attr(count, 1), -1)


@rule("Attention", shrink=shrink_attention, commutes=always)
def attention(v: Visit) -> None:
    """Queries, keys, values; a head of keys and values goes with all heads of queries that share it."""
    v.notes.heads.add(v.index)
    if v.by_rank:
        _attention_by_dims(v)
        return
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


def _attention_by_dims(v: Visit) -> None:
    """The dims of queries and keys are tied; those of the values pass through to every head that shares them."""
    queries, keys, values = (_dims(v, i, "q_num_heads" if i == 0 else "kv_num_heads") for i in range(3))
    compare(v, queries.reshape(len(keys), -1, queries.shape[1]), keys[:, None])
    pass_on(v, values)
    for i, own in ((4, keys), (5, values)):
        if v.has(i):
            v.tie(_dims(v, i, ""), own)
    mask(v, 3, np.zeros(len(queries), np.int64))
    for k, dims in enumerate((np.repeat(values, len(queries) // len(values), 0), keys, values)):
        if k < len(v.node.output) and v.node.output[k]:
            v.set(dims[None, :, None] if len(v.out_shape(k)) == 4 else dims.reshape(1, 1, -1), k)
    v.set(np.zeros((1,) * 4, np.int64), 3)


def _dims(v: Visit, i: int, count: str) -> Ids:
    """Ids [heads, D] of input i, which is [N, heads, S, D], or [N, S, heads * D] and an attribute counts them."""
    if len(v.shape(i)) == 3:
        return v.channels(i, 2).reshape(v.attr(count), -1)
    return v.unite(widen(v.ids(i), v.shape(i), [1, 3]), {0, 2})[0, :, 0]


def _heads(v: Visit, i: int, count: str) -> Ids:
    """One id per head of input i, which is [N, heads, S, D], or [N, S, heads * D] and an attribute counts them."""
    if len(v.shape(i)) == 4:
        return v.channels(i, 1, SEVERAL)
    return v.unite(v.channels(i, 2).reshape(v.attr(count), -1), [1]).ravel()


def share(v: Visit, queries: Ids, keys: Ids, values: Ids) -> None:
    """Heads of keys and values go with all heads of queries that share them; one that all share stays."""
    if len(keys) == 1 < len(queries):
        v.freeze(np.concatenate([keys, values]), SEVERAL)
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
