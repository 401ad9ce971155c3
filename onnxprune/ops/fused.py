"""Attention in one node and rotation of its queries and keys, as onnxruntime has them.

A head goes whole, as in `attention`. Where queries, keys and values come packed in one matrix, so do their weights:
the layer makes the rows of a head in three places. Operators that merely merge a layer with what stands behind it
aren't here; a graph lists them taken apart (see `contrib`).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from onnxprune.contrib import DOMAIN
from onnxprune.graph import Graph, key
from onnxprune.ids import Ids
from onnxprune.ops.attention import mask, share
from onnxprune.ops.layers import bias, weights_fixed
from onnxprune.ops.linear import Linear, floating
from onnxprune.ops.registry import Cut, View, Visit, rule


def only(v: Visit, i: int, *axes: int) -> None:
    """Channels of input i that vary along other axes than these, as words do, stay."""
    if any(n > 1 for axis, n in enumerate(v.ids(i).shape) if axis not in axes):
        v.freeze(v.ids(i), "keeps the rows of its input apart")


def heads_of(v: Visit, channels: Ids, count: int) -> Ids:
    """One id per head of channels that are ordered by heads."""
    return v.unite(channels.reshape(count, -1), [1]).ravel()


def split(channels: Ids, sizes: tuple[int, ...]) -> list[Ids]:
    """The channels in parts of these sizes."""
    ends = np.cumsum([0, *sizes]).tolist()
    return [channels[a:b] for a, b in pairwise(ends)]


def set_heads(v: Visit, heads: Ids, axis: int, k: int = 0) -> None:
    """Output k has rows of these heads along an axis."""
    if k < len(v.node.output) and v.node.output[k]:
        v.set_channels(np.repeat(heads, v.out_shape(k)[axis] // len(heads)), axis, k)


def shrink_attention(cut: Cut) -> None:
    """The number of heads and the sizes of queries, keys and values follow."""
    y = key(cut.node)
    kept, whole = cut.kept(y)[2], cut.shape(y)[2]
    for name in ("num_heads", "kv_num_heads"):
        if name in cut.attrs:
            cut.set_attr(name, cut.attrs[name] * kept // whole)
    if cut.node.op_type == "Attention":
        width = cut.shape(cut.node.input[1])[1]
        sizes = cut.attrs.get("qkv_hidden_sizes", [width // 3] * 3)
        cut.set_attr("qkv_hidden_sizes", [n * kept // whole for n in sizes])


def projection(graph: Graph, index: int) -> Linear | None:
    """The queries, keys and values that packed attention makes of its input, before it attends."""
    v = View(graph, graph.probes[0], index)
    if not v.static(1) or not floating(graph.array(v.name(1))) or (v.has(2) and not v.static(2)):
        return None
    matrix = graph.array(v.name(1)).astype(np.float64)
    offset = graph.array(v.name(2)).astype(np.float64) if v.has(2) else np.zeros(matrix.shape[1])
    return Linear(index, key(v.node), v.name(0), "", v.name(1), v.name(2), matrix[None], offset)


@rule("Attention", domain=DOMAIN, linear=projection, shrink=shrink_attention)
def packed_attention(v: Visit) -> None:
    """Contracts the last axis of its input, makes queries, keys and values by one matrix, and attends."""
    if not weights_fixed(v):
        return
    only(v, 0, 2)
    v.tie(v.contracted(0, 2), v.parameter(1, 0, "reader"))
    y = v.notes.writers[v.index] = v.parameter(1, 1, "writer")
    if v.has(2):
        bias(v, 2, y)
    count = v.attr("num_heads")
    sizes = v.attr("qkv_hidden_sizes", [len(y) // 3] * 3)
    queries, keys, values = (heads_of(v, part, count) for part in split(y, tuple(sizes)))
    share(v, queries, keys, values)
    if v.has(4):
        v.tie(v.channels(4, 2), keys)
    mask(v, 5, queries)
    set_heads(v, values, 2)
    set_heads(v, keys, 2, 1)


@rule("MultiHeadAttention", domain=DOMAIN, shrink=shrink_attention)
def multi_head_attention(v: Visit) -> None:
    """Queries, keys and values apart, or packed with an axis of their own behind that of the heads."""
    count = v.attr("num_heads")
    queries, *others = (_heads(v, i, count) for i in range(3) if v.has(i))
    keys, values = [*others, *[others[0] if others else queries] * 2][:2]
    share(v, queries, keys, values)
    if v.has(3):
        _bias(v, 3, queries)
    mask(v, 5, queries)
    for i in (6, 7):
        if v.has(i):
            v.tie(v.channels(i, 1), queries)
    set_heads(v, queries, 2)
    for k in (1, 2, 3):
        set_heads(v, queries, 1, k)


def _heads(v: Visit, i: int, count: int) -> Ids:
    """One id per head of input i: [N, S, heads * D], [N, heads, S, D] or [N, S, heads, parts, D]."""
    axes = {3: (2,), 4: (1, 3), 5: (2, 3, 4)}[len(v.shape(i))]
    only(v, i, *axes)
    channels = v.channels(i, axes[0])
    return heads_of(v, channels, count) if len(axes) == 1 else channels


def _bias(v: Visit, i: int, heads: Ids) -> None:
    """A number for every row of the queries, of the keys, then of the values."""
    if not v.static(i):
        v.freeze(heads, "reads its bias from another node")
        return
    width = v.out_shape()[2]
    inner = (v.shape(i)[0] - width) // 2
    for part in split(v.parameter(i, 0), (inner, inner, width)):
        v.tie(part.reshape(len(heads), -1), heads[:, None])


@rule("DecoderMaskedMultiHeadAttention", domain=DOMAIN, shrink=shrink_attention)
def decoder_attention(v: Visit) -> None:
    """One query for each row of the batch, on keys and values apart; those of the past lie side by side."""
    count = v.attr("num_heads")
    heads = v.united([_heads(v, i, count) for i in range(3) if v.has(i)])
    for i in (5, 6):
        if v.has(i):
            v.tie(v.channels(i, 1), heads)
    if v.has(10):
        _bias(v, 10, heads)
    mask(v, 4, heads)
    set_heads(v, heads, 2)
    for k in (1, 2, 3):
        set_heads(v, heads, 1, k)


@rule("GroupQueryAttention", domain=DOMAIN, shrink=shrink_attention)
def grouped_attention(v: Visit) -> None:
    """A head of keys and values goes with all heads of queries that share it; the three come apart or packed."""
    count, shared = v.attr("num_heads"), v.attr("kv_num_heads")
    if v.has(12) or v.has(13):
        v.freeze_all("keeps its past in few bits")
        return
    for i in range(3):
        if v.has(i):
            only(v, i, 2)
    if v.has(1):
        parts = [v.channels(i, 2) for i in range(3)]
    else:
        channels = v.channels(0, 2)
        size = len(channels) // (count + 2 * shared)
        parts = split(channels, (count * size, shared * size, shared * size))
    counts = (count, shared, shared)
    queries, keys, values = (heads_of(v, part, n) for part, n in zip(parts, counts, strict=True))
    share(v, queries, keys, values)
    for i in (3, 4):
        if v.has(i):
            v.tie(v.channels(i, 1), keys)
    mask(v, 10, queries)
    if v.has(11):
        v.tie(v.parameter(11, 0) if v.static(11) else v.channels(11, 0), queries)
    set_heads(v, queries, 2)
    set_heads(v, keys, 1, 1)
    set_heads(v, values, 1, 2)


# ---------------------------------------------------------------------------------------------- positions


def shrink_rotation(cut: Cut) -> None:
    """The number of heads follows, where it is stated."""
    y = key(cut.node)
    if len(cut.shape(y)) == 3 and cut.attrs.get("num_heads", 0):
        cut.set_attr("num_heads", cut.attrs["num_heads"] * cut.kept(y)[2] // cut.shape(y)[2])


@rule("RotaryEmbedding", shrink=shrink_rotation)
@rule("RotaryEmbedding", "MRotaryEmbedding", domain=DOMAIN, shrink=shrink_rotation)
def rotation(v: Visit) -> None:
    """Turns pairs of channels of a head, so that heads stay whole; the angles are the same for all heads."""
    only(v, 0, *((1, 3) if len(v.shape(0)) == 4 else (2,)))
    if len(v.shape(0)) == 4:
        v.set(v.gather(v.ids(0), {3}, "turns pairs of channels"))
        return
    angles = 2 if v.node.domain == DOMAIN else 1
    count = v.attr("num_heads", 0) or v.shape(0)[2] // (2 * v.shape(angles)[-1])
    set_heads(v, heads_of(v, v.channels(0, 2), count), 2)


@rule("EmbedLayerNormalization", domain=DOMAIN)
def embedding(v: Visit) -> None:
    """Rows of two or three tables are added and normalized: their columns stay."""
    v.freeze_all(f"mixes all {v.out_shape()[2]} channels")
