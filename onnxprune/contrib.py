"""What onnxruntime writes and onnx knows nothing of: what its operators stand for, and the shapes of what they make.

Its offline optimizer merges a layer with what stands around it: an activation, a sum, a transposition. A `Graph` lists
such a node as the operators that it stands for (`apart`), so that everything that is known of a Conv holds for a
FusedConv, and the value before the activation has a name. onnxruntime merges them again when it loads the pruned
model. A Gemm with a shortcut in the place of its bias is one of them. A node in a form that isn't known
here stays what it is, an unknown operator.

Operators that stand for more than that (attention, normalizations with a shortcut) stay one node, because nothing
merges them again; `infer` says what they make. It does so, too, for what `ai.onnx.ml` puts in front of a network.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
from onnx import NodeProto, TypeProto, helper

DOMAIN = "com.microsoft"
BLOCKED = "com.microsoft.nchwc"
STANDARD = ("", "ai.onnx")
LAYERS = ("Conv", "Gemm", "MatMul")
Types = Mapping[str, TypeProto]
Shape = tuple[int, ...]


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """An attribute of a node (strings decoded), or its default."""
    found = next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)
    return found.decode() if isinstance(found, bytes) else found


# ---------------------------------------------------------------------------------------------- taken apart


@dataclass(frozen=True)
class _Parts:
    """The nodes in the place of one: what each makes gets a name of its own, and the last one's is the old name."""

    node: NodeProto
    types: Types
    opset: int
    name: Callable[[str], str]
    nodes: list[NodeProto] = field(default_factory=list)

    def add(self, op: str, inputs: Iterable[str], domain: str = "", **attrs: Any) -> str:
        """One more node; gives the name of what it makes. A layer keeps the name of the whole."""
        made = self.name(f"{self.node.output[0]}_{op.lower()}")
        label = self.node.name
        if label and op not in LAYERS:
            label = self.name(f"{label}_{op.lower()}")
        self.nodes.append(helper.make_node(op, list(inputs), [made], label, domain=domain, **attrs))
        return made

    def scaled(self, name: str, factor: float) -> str:
        """A value times a number."""
        return name if factor == 1 else self.add("Mul", [name, self.constant(factor)])

    def constant(self, value: float) -> str:
        """A scalar of the type of the node's first input. Raises KeyError where that isn't known."""
        elem_type = self.types[self.node.input[0]].tensor_type.elem_type
        if not elem_type:
            raise KeyError(self.node.input[0])
        return self.add("Constant", [], value=helper.make_tensor("value", elem_type, [], [value]))

    def rank(self, name: str) -> int:
        """Rank of a value. Raises KeyError where it isn't known."""
        found = self.types[name].tensor_type
        if not found.HasField("shape"):
            raise KeyError(name)
        return len(found.shape.dim)

    def finish(self) -> list[NodeProto]:
        """The nodes, of which the last makes what the whole made."""
        self.nodes[-1].output[0] = self.node.output[0]
        return self.nodes


PARAMETERS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "Silu": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
    "Elu": ("alpha",),
    "Selu": ("alpha", "gamma"),
    "Softplus": (),
    "Softsign": (),
    "ThresholdedRelu": ("alpha",),
}


def _activate(parts: _Parts, x: str, kind: str, given: Mapping[str, Any]) -> None:
    """The activation behind a layer. Raises KeyError for one that isn't known."""
    if not kind:
        return
    values: dict[str, Any] = {name: given[name] for name in PARAMETERS[kind] if name in given}
    if kind == "Silu":
        parts.add("Mul", [x, parts.add("Sigmoid", [x])])
    elif kind == "Clip" and parts.opset >= 11:
        parts.add("Clip", [x, *(parts.constant(values[name]) for name in ("min", "max"))])
    else:
        parts.add(kind, [x], **values)


def _fused_conv(parts: _Parts) -> None:
    """Conv, the sum with a fourth input, the activation."""
    node = parts.node
    own = {a.name: helper.get_attribute_value(a) for a in node.attribute if not a.name.startswith("activation")}
    y = parts.add("Conv", [*node.input[:3]], **own)
    if len(node.input) > 3 and node.input[3]:
        y = parts.add("Add", [y, node.input[3]])
    kind = attribute(node, "activation", "")
    given = attribute(node, "activation_params", [])
    _activate(parts, y, kind, dict(zip(PARAMETERS.get(kind, ()), given, strict=True)))


def _channels_last(parts: _Parts) -> None:
    """FusedConv between transpositions; of its weight [filters, ..., channels], too."""
    x, weight, *others = parts.node.input
    rank = parts.rank(x)
    first, last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    moved = [parts.add("Transpose", [name], perm=first) for name in (x, weight)]
    if len(others) > 1 and others[1]:
        others[1] = parts.add("Transpose", [others[1]], perm=first)
    node = NodeProto()
    node.CopyFrom(parts.node)
    node.input[:] = [*moved, *others]
    inner = replace(parts, node=node)
    _fused_conv(inner)
    parts.add("Transpose", [inner.nodes[-1].output[0]], perm=last)


def _fused_gemm(parts: _Parts) -> None:
    """Gemm and the activation, whose attributes bear a prefix."""
    prefix = "activation_"
    attrs = {a.name: helper.get_attribute_value(a) for a in parts.node.attribute}
    own = {name: value for name, value in attrs.items() if not name.startswith("activation")}
    y = parts.add("Gemm", parts.node.input, **own)
    given = {name.removeprefix(prefix): value for name, value in attrs.items() if name.startswith(prefix)}
    _activate(parts, y, attribute(parts.node, "activation", ""), given)


def _gemm(parts: _Parts) -> None:
    """Gemm, and the sum with what isn't a bias."""
    *factors, shortcut = parts.node.input
    attrs = {a.name: helper.get_attribute_value(a) for a in parts.node.attribute}
    scale = attrs.pop("beta", 1.0)
    zero = [parts.constant(0)] if parts.opset < 11 else []  # a bias was needed then
    y = parts.add("Gemm", [*factors, *zero], **attrs)
    parts.add("Add", [y, parts.scaled(shortcut, scale)])


def _fused_matmul(parts: _Parts) -> None:
    """MatMul of transposed operands, times a number."""
    operands = []
    for name, side in zip(parts.node.input, "AB", strict=True):
        batch, inner = (attribute(parts.node, f"trans{part}{side}", 0) for part in ("Batch", ""))
        axes = list(range(parts.rank(name)))
        if batch:  # the first axis stands behind the others of the batch
            axes[:-1] = [*axes[1:-1], axes[0]]
        if inner and len(axes) > 1:
            axes[-2:] = axes[:-3:-1]
        moved = axes != sorted(axes)
        operands.append(parts.add("Transpose", [name], perm=axes) if moved else name)
    parts.scaled(parts.add("MatMul", operands), attribute(parts.node, "alpha", 1.0))


def _sum(parts: _Parts) -> None:
    """The sum of a value, a bias and a shortcut."""
    x, bias, shortcut = parts.node.input
    parts.add("Add", [parts.add("Add", [x, bias]), shortcut])


def _split_gelu(parts: _Parts) -> None:
    """After a bias, the first half of the last axis times a function of the second half."""
    attrs: dict[str, Any] = {"num_outputs": 2} if parts.opset >= 18 else {}
    parts.add("Split", [parts.add("Add", parts.node.input)], axis=-1, **attrs)
    half = parts.nodes[-1]
    half.output.append(parts.name(f"{half.output[0]}_gate"))
    parts.add("Mul", [half.output[0], parts.add("Gelu", [half.output[1]], DOMAIN)])


def _bias_gelu(parts: _Parts) -> None:
    """The sum with a bias, and what the operator is without one."""
    kind = parts.node.op_type.removeprefix("Bias")
    parts.add(kind, [parts.add("Add", parts.node.input)], DOMAIN)


APART: dict[str, Callable[[_Parts], None]] = {
    "Gemm": _gemm,
    "FusedConv": _fused_conv,
    "NhwcConv": _channels_last,
    "NhwcFusedConv": _channels_last,
    "BiasAdd": _sum,
    "BiasSplitGelu": _split_gelu,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "TransposeMatMul": _fused_matmul,
    "BiasGelu": _bias_gelu,
    "FastGelu": _bias_gelu,
}


def merged(node: NodeProto, static: Container[str]) -> bool:
    """Whether a node stands for several operators; `static` are the constants."""
    if node.domain in STANDARD and node.op_type == "Gemm":
        a, b, *c = (name in static for name in node.input if name)
        return (a or b) and not all(c)
    plain = node.op_type == "FastGelu" and not any(node.input[1:])
    return node.domain == DOMAIN and node.op_type in APART and not plain


def apart(
    node: NodeProto, types: Types, static: Container[str], opset: int, name: Callable[[str], str]
) -> list[NodeProto]:
    """The nodes that a node stands for: itself, if it isn't merged or its form isn't known.

    `types` are those of the values before it, `name` makes a name that isn't taken from one like it.
    """
    if not merged(node, static):
        return [node]
    parts = _Parts(node, types, opset, name)
    try:
        APART[node.op_type](parts)
    except (KeyError, ValueError):  # an activation, a number of parameters or a rank that isn't known
        return [node]
    return parts.finish()


def unknown(node: NodeProto) -> str:
    """Why nothing passes through a node of an operator that no rule explains."""
    if node.domain == BLOCKED:
        return "works on blocks of channels, as ORT_ENABLE_ALL writes it; optimize with ORT_ENABLE_EXTENDED at most"
    if node.domain == DOMAIN and node.op_type.startswith(QUANTIZED) and node.op_type != "QuickGelu":
        return "has quantized weights or values; prune the floating-point model, then quantize"
    return "isn't a known operator"


# ---------------------------------------------------------------------------------------------- shapes

LIKE_INPUT = {
    "Gelu",
    "FastGelu",
    "QuickGelu",
    "GroupNormalization",
    "LayerNormalization",
    "MeanVarianceNormalization",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "RotaryEmbedding",
    "MRotaryEmbedding",
    "GroupNorm",
    "SkipGroupNorm",
    "Trilu",
    *("Affine", "ImageScaler", "ParametricSoftplus", "Scale", "ScaledTanh"),
}  # the first output is like the first input
SUMS = {"SkipLayerNormalization": 3, "SkipSimplifiedLayerNormalization": 3, "SkipGroupNorm": 1}  # output like the first
QUANTIZED = (
    *("Q", "Quantize", "Dequantize", "DynamicQuantize", "GatherBlockQuantized", "MulInteger"),
    *("MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "MatMulBlockQuantized", "MatMulInteger"),
)  # how the names of operators on quantized values begin
CLASSIC = "ai.onnx.ml"
CLASSIC_LIKE_INPUT = {"Scaler": True, "Normalizer": True, "Imputer": False, "Binarizer": False}  # whether to float32


def _attention(node: NodeProto, shapes: list[Shape]) -> dict[int, Shape]:
    """[N, S, values], and the keys and values of the past and now: [2, N, heads, T, D]."""
    (n, s, _), width = shapes[0], shapes[1][1]
    heads = attribute(node, "num_heads", 1)
    sizes = attribute(node, "qkv_hidden_sizes", [width // 3] * 3)
    before = shapes[4][3] if len(shapes) > 4 and shapes[4] else 0
    return {0: (n, s, sizes[2]), 1: (2, n, heads, before + s, sizes[0] // heads)}


def _multi_head_attention(node: NodeProto, shapes: list[Shape]) -> dict[int, Shape]:
    """[N, S, values], keys and values of the past and now [N, heads, T, D], scores [N, heads, S, T]."""
    query, key, value, *rest = [*shapes, *[()] * 8][:8]
    heads, (n, s) = attribute(node, "num_heads", 1), query[:2]
    length = (key[2] if len(key) == 4 else key[1]) if key else s
    inner = query[-1] if len(query) == 5 else query[2] // heads
    outer = (value[3] if len(value) == 4 else value[2] // heads) if value else inner
    total = length + (rest[3][2] if rest[3] else 0)
    return {
        0: (n, s, heads * outer),
        1: (n, heads, total, inner),
        2: (n, heads, total, outer),
        3: (n, heads, s, total),
    }


def _grouped_attention(node: NodeProto, shapes: list[Shape]) -> dict[int, Shape]:
    """[N, S, queries], keys and values of the past and now [N, kv heads, T, D]."""
    (n, s, width), key, _, past, *_ = [*shapes, *[()] * 4][:5]
    heads, shared = (attribute(node, name, 1) for name in ("num_heads", "kv_num_heads"))
    size = width // heads if key else width // (heads + 2 * shared)
    present = (n, shared, s + (past[2] if past else 0), size)
    return {0: (n, s, heads * size), 1: present, 2: present}


def _embedding(_: NodeProto, shapes: list[Shape]) -> dict[int, Shape]:
    """[N, S, C], the number of words in each row, and the sum before the normalization."""
    whole = (*shapes[0], shapes[2][1])
    return {0: whole, 1: shapes[0][:1], 2: whole}


def _sampled(_: NodeProto, shapes: list[Shape]) -> dict[int, Shape]:
    """[N, C, H, W] where the grid [N, H, W, 2] says."""
    return {0: (*shapes[0][:2], *shapes[1][1:3])}


def _decoder_attention(node: NodeProto, shapes: list[Shape]) -> dict[int, Shape]:
    """As `_multi_head_attention`, but for the places of the past; one that is shared holds what is there now, too."""
    given: list[Shape] = [*shapes, *[()] * 7][:7]
    past = given[5]
    if not attribute(node, "past_present_share_buffer", 0):
        return _multi_head_attention(node, [*given[:5], (), past])
    return _multi_head_attention(node, given[:3]) | ({1: past, 2: past} if past else {})


MADE: dict[str, Callable[[NodeProto, list[Shape]], dict[int, Shape]]] = {
    "Attention": _attention,
    "MultiHeadAttention": _multi_head_attention,
    "GroupQueryAttention": _grouped_attention,
    "EmbedLayerNormalization": _embedding,
    "DecoderMaskedMultiHeadAttention": _decoder_attention,
    "GridSample": _sampled,
    "MatMulNBits": lambda node, shapes: {0: (*shapes[0][:-1], attribute(node, "N", 1))},
}


def infer(node: NodeProto, types: Types) -> dict[str, TypeProto]:
    """Types of what a node makes, as far as they are known here; `types` are those of all its inputs.

    Normalizations without a domain are onnxruntime's own in files of an opset that didn't have them yet.
    """
    if node.domain in (*STANDARD, DOMAIN) and node.op_type in LIKE_INPUT:
        first = types[node.input[0]]
        k = SUMS.get(node.op_type, 0)
        return {node.output[0]: first} | ({node.output[k]: first} if k < len(node.output) else {})
    if node.domain == CLASSIC and node.op_type in CLASSIC_LIKE_INPUT:
        made_of = TypeProto()
        made_of.CopyFrom(types[node.input[0]])
        if CLASSIC_LIKE_INPUT[node.op_type]:
            made_of.tensor_type.elem_type = onnx.TensorProto.FLOAT
        return {node.output[0]: made_of}
    if node.domain != DOMAIN or node.op_type not in MADE:
        return {}
    known = [types[name].tensor_type if name else None for name in node.input]
    shapes = [tuple(d.dim_value for d in t.shape.dim) if t is not None else () for t in known]
    made = MADE[node.op_type](node, shapes)
    embeds = node.op_type == "EmbedLayerNormalization"
    floats = types[node.input[2 if embeds else 0]].tensor_type.elem_type
    kinds = {1: onnx.TensorProto.INT32} if embeds else {}
    return {
        name: helper.make_tensor_type_proto(kinds.get(k, floats), made[k])
        for k, name in enumerate(node.output)
        if name and k in made
    }
