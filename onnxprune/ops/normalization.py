"""Operators that normalize: by statistics of a channel, which pass it on, or of several, which then go together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from onnxprune.contrib import DOMAIN
from onnxprune.graph import Graph, attributes, key
from onnxprune.ops.elementwise import combine
from onnxprune.ops.layers import bias
from onnxprune.ops.linear import Float
from onnxprune.ops.reductions import mix
from onnxprune.ops.registry import Cut, View, Visit, rule


def batchnorm_affine(graph: Graph, node: NodeProto, i: int, axis: int, rank: int) -> tuple[Float, Float] | None:
    """y = scale * x + shift per channel, from the running statistics."""
    a = attributes(node)
    if i != 0 or axis != 1 or len(node.output) != 1 or not all(n in graph.static for n in node.input[1:]):
        return None
    if not a.get("spatial", 1):
        return None
    gamma, beta, mean, var = (graph.array(n).astype(np.float64) for n in node.input[1:5])
    scale = gamma / np.sqrt(var + a.get("epsilon", 1e-5))
    return scale, beta - mean * scale


@rule("BatchNormalization", affine=batchnorm_affine)
def batchnorm(v: Visit) -> None:
    """Four numbers per channel."""
    if not v.attr("spatial", 1):
        v.freeze_all("keeps statistics of every element, not of channels")
        return
    per_channel_parameters(v, range(1, 5))


@rule("InstanceNormalization")
def instancenorm(v: Visit) -> None:
    """Each channel is normalized by itself, then scaled and shifted; all that lie in one's places are mixed."""
    mix(v, set(range(2, len(v.shape(0)))))
    per_channel_parameters(v, range(1, 3))


def per_channel_parameters(v: Visit, positions: Sequence[int]) -> None:
    """Inputs that hold one number per channel of axis 1."""
    channels = v.channels(0, 1) if len(v.shape(0)) > 1 else np.zeros(0, np.int64)
    for i in positions:
        if v.static(i):
            v.tie(channels, v.parameter(i, 0))
        else:
            v.freeze(channels, "reads its parameters from another node")
    v.set_channels(channels)


def shrink_groupnorm(cut: Cut) -> None:
    """The number of norm groups follows."""
    y = key(cut.node)
    cut.set_attr("num_groups", cut.attrs["num_groups"] * cut.kept(y)[1] // cut.shape(y)[1])


@rule("GroupNormalization", shrink=shrink_groupnorm)
def groupnorm(v: Visit) -> None:
    """The channels of a norm group go together. Scale and shift are per channel since opset 21."""
    count = v.attr("num_groups")
    channels = v.channels(0, 1)
    groups = v.gather(channels.reshape(count, -1), {1}, f"mixes all {len(channels)} channels").ravel()
    channels = np.repeat(groups, len(channels) // count)
    for i in (1, 2):
        if v.static(i):
            v.tie(groups if v.graph.opset < 21 else channels, v.parameter(i, 0))
        else:
            v.freeze(channels, "reads its parameters from another node")
    v.set_channels(channels)


def shrink_groupnorm_of_images(cut: Cut) -> None:
    """The number of norm groups follows."""
    y, axis = key(cut.node), _image_axis(cut.view)
    cut.set_attr("groups", cut.attrs["groups"] * cut.kept(y)[axis] // cut.shape(y)[axis])


def _image_axis(v: View) -> int:
    return 3 if v.attr("channels_last", 1) else 1


@rule("GroupNorm", "SkipGroupNorm", domain=DOMAIN, shrink=shrink_groupnorm_of_images)
def groupnorm_of_images(v: Visit) -> None:
    """The channels of a norm group go together; a shortcut [N, H, W, C], [N, 1, 1, C] or [N, C] may be added first."""
    axis, count = _image_axis(v), v.attr("groups")
    channels = v.channels(0, axis)
    groups = v.gather(channels.reshape(count, -1), {1}, f"mixes all {len(channels)} channels").ravel()
    channels = np.repeat(groups, len(channels) // count)
    for i in (1, 2, 4):
        if v.has(i):
            bias(v, i, channels)
    if v.has(3):
        v.notes.sums.append((v.ids(0), v.ids(3)))
        v.tie(v.channels(3, axis if len(v.shape(3)) == 4 else 1), channels)
    for k in range(len(v.node.output)):
        if v.node.output[k]:
            v.set_channels(channels, axis, k)


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layernorm(v: Visit) -> None:
    """Mixes everything from `axis` on."""
    rank = len(v.shape(0))
    v.set(mix(v, set(range(v.attr("axis", -1) % rank, rank))))


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=DOMAIN)
def skip_layernorm(v: Visit) -> None:
    """Adds a shortcut and a bias, and mixes the last axis; the sum is output 3."""
    v.notes.sums.append((v.ids(0), v.ids(1)))
    ids = combine(v)
    v.set(ids, 3)
    v.set(v.gather(ids, {ids.ndim - 1}, f"mixes all {v.out_shape()[-1]} channels"))


@rule("LRN")
def lrn(v: Visit) -> None:
    """Divides by a sum over neighbouring channels."""
    v.freeze(v.ids(0), "mixes neighbouring channels")
    v.set(v.ids(0))
