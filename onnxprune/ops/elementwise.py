"""Operators that treat every element by itself."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
from onnx import NodeProto, numpy_helper

from onnxprune.contrib import DOMAIN
from onnxprune.declared import FLOATS
from onnxprune.graph import Graph, Shape, attributes, key
from onnxprune.ids import Ids
from onnxprune.ops.linear import Float, per_channel
from onnxprune.ops.registry import Cut, View, Visit, always, rule

Affine = tuple[Float, Float] | None
CROSSED = "combines channels along one axis with channels along another"

UNARY = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Celu",
    "Ceil",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
]


def keeps_sums(v: Visit) -> bool:
    """Whether the function of a sum is the sum of its values."""
    return v.node.op_type in ("Identity", "Neg")


@rule(*UNARY, commutes=keeps_sums)
@rule("Gelu", "QuickGelu", "FastGelu", domain=DOMAIN)
@rule("Affine", "ParametricSoftplus", "Scale", "ScaledTanh")  # of ONNX before its first version, as converters wrote it
def unary(v: Visit) -> None:
    """The ids of the input."""
    v.set(v.ids(0, lanes=True))


def shrink_cast(cut: Cut) -> None:
    """A number of channels that is calculated with, as in the scale of attention, stays what it was."""
    name = cut.node.input[0]
    if cut.restated(name) and cut.view.fixed(0) and _becomes_float(cut.view):
        cut.node.input[0] = cut.constant(cut.graph.probes[0].values[name], f"{name}_before")


def keeps_floats(v: Visit) -> bool:
    """Whether both sides are of a floating-point type."""
    return all(v.graph.types.get(name) in FLOATS for name in (v.name(0), v.node.output[0]))


@rule("Cast", "CastLike", shrink=shrink_cast, commutes=keeps_floats)
def cast(v: Visit) -> None:
    """The ids of the input; a size that becomes a number to calculate with stays what it was, so it must be known."""
    ids = v.ids(0, lanes=True)
    v.accept(1)  # CastLike takes the type alone
    if v.name(0) in v.notes.ids and v.probe.values.get(v.name(0)) is not None and _becomes_float(v):
        if not v.fixed(0):
            v.freeze(ids, "calculates with the number of channels")
        ids = np.zeros((1,) * ids.ndim, np.int64)
    v.set(ids)


def _becomes_float(v: View) -> bool:
    name = v.node.output[0]
    to_float = v.probe.values.get(name) is None or v.graph.types.get(name) in FLOATS
    return to_float and v.graph.types.get(v.name(0)) not in FLOATS


@rule("Dropout", commutes=always)
def dropout(v: Visit) -> None:
    """Does nothing at inference; its mask is like its input."""
    for k in range(len(v.node.output)):
        v.set(v.ids(0, lanes=True), k)


def bounds(graph: Graph, node: NodeProto) -> tuple[float, float] | None:
    """The values at which a Relu or Clip cuts off; None for any other node, or bounds that aren't constant."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    given = {a.name: a.f for a in node.attribute}
    low, high = given.get("min", -np.inf), given.get("max", np.inf)
    for i, name in enumerate(node.input[1:3]):
        if name and name not in graph.static:
            return None
        if name:
            low, high = (float(graph.array(name)), high) if i == 0 else (low, float(graph.array(name)))
    return low, high


def elementwise_alone(node: NodeProto) -> bool:
    """Whether every element of a node's output depends on the elements at its own place alone."""
    return node.op_type in {*UNARY, "Clip", "PRelu", "Add", "Sub", "Mul", "Div", "Pow", "QuickGelu", "FastGelu"}


LINEAR_IN_SCALE = {"Abs", "Identity", "LeakyRelu", "Neg", "Relu", "Dropout"}
LINEAR_IN_SCALE |= {"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"}
LINEAR_IN_SCALE |= {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "Concat", "Split"}
LINEAR_IN_SCALE |= {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "Slice", "Gather"}
LINEAR_IN_SCALE |= {"DepthToSpace", "SpaceToDepth", "Resize", "Upsample"}


def passes_scale(graph: Graph, node: NodeProto) -> bool:
    """Whether f(s·x) = s·f(x) for every s > 0 with one f for all channels; where a Clip cuts off above isn't seen."""
    if node.op_type in ("Add", "Sum", "Max", "Min", "Mean"):
        return not any(name in graph.static for name in node.input)
    limits = bounds(graph, node)
    return node.op_type in LINEAR_IN_SCALE or (limits is not None and limits[0] == 0)


@rule("Clip")
def clip(v: Visit) -> None:
    """Its bounds are scalars."""
    number = calculated(v)
    v.set(v.ids(0) if number is None else number)


def calculated(v: Visit) -> Ids | None:
    """Ids of what is calculated from numbers of channels, and is no such number any more; None of anything else."""
    sizes = [v.ids(i) for i in range(len(v.node.input)) if v.has(i) and v.ids(i).any()]
    if v.node.output[0] not in v.probe.values or not sizes or not all(map(v.ledger.sizes, sizes)):
        return None
    number = v.ledger.derived(("derived", v.index), np.concatenate([one.ravel() for one in sizes]))
    concerned = np.any(np.broadcast_arrays(np.zeros((1,) * len(v.out_shape()), bool), *(ids > 0 for ids in sizes)), 0)
    return np.where(concerned, number, 0)


def add_affine(graph: Graph, node: NodeProto, i: int, axis: int, rank: int) -> Affine:
    """x + constant."""
    return _operand(graph, node, i, axis, rank, lambda c, first: (np.ones(1), c))


def sub_affine(graph: Graph, node: NodeProto, i: int, axis: int, rank: int) -> Affine:
    """x - constant, or constant - x."""
    return _operand(graph, node, i, axis, rank, lambda c, first: (np.ones(1), -c) if first else (-np.ones(1), c))


def mul_affine(graph: Graph, node: NodeProto, i: int, axis: int, rank: int) -> Affine:
    """x * constant."""
    return _operand(graph, node, i, axis, rank, lambda c, first: (c, np.zeros(1)))


def div_affine(graph: Graph, node: NodeProto, i: int, axis: int, rank: int) -> Affine:
    """x / constant."""
    return _operand(graph, node, i, axis, rank, lambda c, first: (1 / c, np.zeros(1)) if first and c.all() else None)


def _operand(
    graph: Graph, node: NodeProto, i: int, axis: int, rank: int, form: Callable[[Float, bool], Affine]
) -> Affine:
    other = node.input[1 - i]
    if other not in graph.static:
        return None
    value = per_channel(graph.array(other), axis, rank)
    return None if value is None else form(value, i == 0)


def scales(v: Visit) -> bool:
    """Whether one operand is the same for all channels of the other, and doesn't stand under it."""
    rank = len(v.out_shape())
    whole = [i for i in (0, 1) if not v.static(i) and any(n > 1 for n in v.ids(i).shape)]
    if len(whole) != 1 or (whole[0] == 1 and v.node.op_type == "Div"):
        return False
    varies = [a for a, n in enumerate(_aligned(v.ids(whole[0]).shape, rank)) if n > 1]
    other = _aligned(v.shape(1 - whole[0]), rank)
    return all(other[a] == 1 for a in varies)


def filling(v: View, i: int) -> NodeProto | None:
    """What makes input i, if it is one number at every place, repeated to a size that is always the same."""
    name = v.name(i)
    maker = v.graph.nodes[v.graph.producer[name]] if name in v.graph.producer else None
    if maker is None or maker.op_type != "ConstantOfShape" or v.static(i):
        return None
    return maker if len({probe.shapes.get(name) for probe in v.graph.probes}) == 1 else None


def shrink_filling(cut: Cut) -> None:
    """One number at every place has length 1 along the axes that lose channels."""
    name = key(cut.node)
    for i, x in enumerate(cut.node.input):
        maker = filling(cut.view, i)
        if maker is not None and cut.changes(name) and not cut.changes(x):
            rank = len(cut.shape(name))
            kept = _aligned(cut.kept(name), rank), _aligned(cut.shape(name), rank), _aligned(cut.shape(x), rank)
            lengths = [n if after == before else 1 for after, before, n in zip(*kept, strict=True)]
            value = attributes(maker).get("value")
            number = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
            cut.set_input(i, np.broadcast_to(number, lengths), "filling")


@rule("Sum", "Max", "Min", "Mean", "Pow", "Mod", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
@rule("And", "Or", "Xor", "PRelu", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", "SwiGLU")
@rule("Mul", affine=mul_affine, commutes=scales, shrink=shrink_filling)
@rule("Div", affine=div_affine, commutes=scales)
def elementwise(v: Visit) -> None:
    """Channels at equal places of all operands are tied."""
    v.set(combine(v))


@rule("Equal")
def equal(v: Visit) -> None:
    """As `elementwise`; that a size doesn't equal a number below 1 holds for any number of channels."""
    operands = [(v.ids(i), v.probe.values.get(v.name(i))) for i in (0, 1)]
    for (ids, size), (other, number) in (operands, operands[::-1]):
        if size is not None and number is not None and not other.any() and (ids > 0).any() and (number < 1).all():
            v.set(np.zeros((1,) * len(v.out_shape()), np.int64))
            return
    v.set(combine(v))


@rule("Where")
def where(v: Visit) -> None:
    """As `elementwise`, but of sizes a condition that is known says from which operand each comes."""
    if v.node.output[0] in v.probe.values and v.fixed(0) and not v.ids(0).any():
        v.set(np.where(v.value(0), v.ids(1), v.ids(2)))  # type: ignore[arg-type]
    else:
        v.set(combine(v))


@rule("Add", affine=add_affine, shrink=shrink_filling)
@rule("Sub", affine=sub_affine)
def additive(v: Visit) -> None:
    """As `elementwise`; channels that pass through the sum of two layers' outputs form a residual stream."""
    if not v.static(0) and not v.static(1):
        v.notes.sums.append((v.ids(0), v.ids(1)))
    v.set(combine(v))


def combine(v: Visit) -> Ids:
    """The ids of an element-wise result of several operands, which it ties.

    An operand that really has length 1 along all axes along which channels vary is repeated over them: its own channel
    stays (dropping it would leave none), and the others are free. One that all attention heads share, which has a
    length along the axis within them only, keeps heads whole. Of a product of all with all, as of the inputs and the
    states of a recurrence, those stay that are fewer. A constant has ids of its own on the axis along which channels
    vary; where it alone has more than one element, it makes the channels.
    """
    if (number := calculated(v)) is not None:
        return number
    shape = v.out_shape()
    operands = [i for i in range(len(v.node.input)) if v.has(i)]
    active = [i for i in operands if not v.static(i)]
    if v.node.op_type in ("Add", "Mul"):
        active = [i for i in active if v.ids(i).any() or filling(v, i) is None] or active
    lengths = {i: _aligned(v.shape(i), len(shape)) for i in operands}
    ids = {i: v.ids(i).reshape(_aligned(v.ids(i).shape, len(shape))) for i in active}
    across = set[int]()
    for i in sorted(active, key=lambda i: (v.notes.made(ids[i]), len(np.unique(ids[i])))):
        if not crossed(ids):
            break
        v.freeze(ids[i], CROSSED)
        ids[i] = np.zeros((1,) * len(shape), np.int64)
        across.add(i)
    varies = [a for a, n in enumerate(shape) if n > 1 and _channels_vary(a, n, ids, lengths)]
    inner = _within_heads(v, varies, ids, lengths)
    ids = {i: v.unite(one, inner) for i, one in ids.items()}
    varies = [a for a in varies if a not in inner]
    if crossed(ids):
        v.freeze_all(CROSSED)
        return v.staying(CROSSED)
    whole = []
    for i in active:
        if varies and all(lengths[i][a] == 1 for a in varies):
            v.freeze(ids[i], "repeats it over several channels")
        else:
            whole.append(ids[i])
            for one in ids.values() if i in across else ():
                v.freeze(one, CROSSED)
    result = v.united(whole or [np.zeros((1,) * len(shape), np.int64)])
    for i in {i for i in operands if v.static(i)}:
        for axis in varies:
            if lengths[i][axis] > 1:
                result = _tie_constant(v, i, axis, result)
    return result


def crossed(ids: dict[int, Ids]) -> bool:
    """Whether the channels of two operands vary, but along no axis in common."""
    axes = [{a for a, n in enumerate(one.shape) if n > 1} for one in ids.values()]
    return any(a and b and not a & b for a, b in combinations(axes, 2))


def _aligned(shape: Shape, rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + tuple(shape)


def _channels_vary(axis: int, n: int, ids: dict[int, Ids], lengths: dict[int, Shape]) -> bool:
    """Whether the result's channels vary along an axis: some activation's do, or a constant alone spans it."""
    return any(one.shape[axis] > 1 for one in ids.values()) or all(lengths[i][axis] != n for i in ids)


def _within_heads(v: Visit, varies: list[int], ids: dict[int, Ids], lengths: dict[int, Shape]) -> list[int]:
    """The inner ones of several axes along which channels vary, if an operand has elements there that no layer makes.

    Such are constants and what is computed from them alone, as the angles of rotary embeddings.
    """
    if len(varies) < 2:
        return []
    heads, *inner = varies
    for i, length in lengths.items():
        plain = i not in ids or (length[heads] == 1 and not v.notes.made(ids[i]))
        if plain and any(length[axis] > 1 for axis in inner):
            return inner
    return []


def _tie_constant(v: Visit, i: int, axis: int, result: Ids) -> Ids:
    """The constant's elements along `axis` belong to the channels there."""
    own = v.parameter(i, axis - result.ndim + len(v.shape(i)))
    own = own.reshape([-1 if a == axis else 1 for a in range(result.ndim)])
    if result.shape[axis] > 1:
        v.tie(result, own)
        return result
    return np.where(result == 0, own, result)
