"""Random plans, and random graphs for hypothesis.

A graph is a list of steps, each the number of a block of `BLOCKS` and four small numbers that say which values it takes
and how large it is: what a step means depends on the steps before it, whether there are any does not, so hypothesis
shrinks a graph by leaving steps out. Every value between blocks is an image, [N, channels, 4, 4].

To cover a new operator, add one line to `BLOCKS`: text in which `$x` is an earlier value and `$y` the new one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from string import Template

import numpy as np
from cases import Case
from hypothesis import strategies as st

from onnxprune.coupling import Coupling, Group
from onnxprune.plan import Plan, Weights

SIZE = 4
NEWEST, OLDER, OLD = (24, 10), (17, 8), (9, 4)  # opsets, and IR versions that know them


def random_keep(group: Group, rng: np.random.Generator) -> np.ndarray:
    """Some of a group's channels, equally many of each cell."""
    cells = [np.flatnonzero(group.cells == cell) for cell in range(group.cells.max() + 1)]
    count = rng.integers(1, len(cells[0]) + 1)
    return np.sort(np.concatenate([rng.choice(cell, count, replace=False) for cell in cells]))


def random_plan(coupling: Coupling, seed: int, renewed: float = 0.5, pruned: float = 0.9) -> Plan:
    """Channels and weights drawn at random; `renewed` and `pruned` are the shares of layers and groups touched."""
    rng = np.random.default_rng(seed)
    keep = {group.name: random_keep(group, rng) for group in coupling.groups if rng.random() < pruned}
    mask, weights = coupling.mask(keep), {}
    for linear in coupling.layers.values():
        if rng.random() >= renewed:
            continue
        stays = np.repeat(mask.inputs(linear), linear.taps).reshape(linear.conv_group, -1, 1)
        noise = 1 + 0.1 * rng.normal(size=linear.matrix.shape)
        offset = linear.offset + 0.1 * rng.normal(size=linear.offset.shape) * rng.integers(0, 2)
        weights[linear.key] = Weights(linear.matrix * noise * stays, offset)
    return Plan(keep, weights)


# ---------------------------------------------------------------------------------------------- blocks


@dataclass(frozen=True)
class Block:
    """Nodes that make one image of others, as `onnx.parser` text.

    `$x` and `$any` are earlier values of any numbers of channels, `$z` one that can be added to `$x`; `$y` is the new
    one, all other names are the block's own. `$c` and `$d` are the channels of x and of any, `$o` is a new number, `$h`
    half of c, `$i` and `$j` are places of channels (i < j <= c). In `weights` a text of these is the shape of random
    weights ("4o c 1 1"); in lists of integers, too, each may stand for itself.
    """

    text: str
    weights: dict[str, object] = field(default_factory=dict)
    gives: str = "c"  # channels of the new value
    even: bool = False  # whether c has to be even
    since: int = 1
    until: int = 99

    def __repr__(self) -> str:
        return self.text.replace("\n", "; ")


def block(text: str, gives: str = "c", even: bool = False, since: int = 1, until: int = 99, **weights: object) -> Block:
    """One block; several lines may be separated by semicolons."""
    return Block(text.replace("; ", "\n"), weights, gives, even, since, until)


def rows(text: str, **rest: object) -> Block:
    """A block of which $x and $y are [N, 16, channels]."""
    text = re.sub(r"\$x\b", "$xr", re.sub(r"\$y\b", "$yr", text))
    before = "$xf = Reshape($x, $toflat); $xr = Transpose<perm=[0,2,1]>($xf); "
    after = "; $yt = Transpose<perm=[0,2,1]>($yr); $y = Reshape($yt, $toimage)"
    gives = rest.get("gives", "c")
    return block(before + text + after, toflat=[0, "c", SIZE**2], toimage=[0, gives, SIZE, SIZE], **rest)


SMOOTH = ["Abs", "Asinh", "Atan", "Celu", "Cos", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish"]
SMOOTH += ["Identity", "LeakyRelu", "Mish", "Neg", "Relu", "Selu", "Shrink", "Sigmoid", "Sin", "Softplus"]
SMOOTH += ["Softsign", "Swish", "Tanh", "ThresholdedRelu", "Ceil", "Floor", "Round", "Sign", "Dropout"]
SINCE = {"Gelu": 20, "HardSwish": 14, "Mish": 18, "Swish": 24, "Round": 11, "Celu": 12, "ThresholdedRelu": 10}
REDUCTIONS = ["Mean", "Sum", "Max", "Min", "L1", "L2", "LogSumExp", "SumSquare"]

BLOCKS = [
    block("$y = Conv($x, $k, $b)", "o", k="o c 1 1", b="o"),
    block("$y = Conv<pads=[1,1,1,1]>($x, $k)", "o", k="o c 3 3"),
    block("$y = Add($x, $z)"),
    block("$y = Concat<axis=1>($x, $any)", "c+d"),
    block("$y = Conv<group=2>($x, $k)", "2o", even=True, k="2o h 1 1"),
    block("$y = Conv<group=$c, pads=[1,1,1,1]>($x, $k, $b)", k="c 1 3 3", b="c"),
    block("$y = Conv<group=$c>($x, $k, $b)", "2c", k="2c 1 1 1", b="2c"),
    block("$y = ConvTranspose<pads=[1,1,1,1]>($x, $k, $b)", "o", k="c o 3 3", b="o"),
    block("$y = ConvTranspose<group=$c>($x, $k)", k="c 1 1 1"),
    block("$y = ConvTranspose<group=2>($x, $k)", "2o", even=True, k="c o 1 1"),
    block("$t = Flatten($x); $g = Gemm<transB=1>($t, $k, $b); $y = Reshape($g, $s)", "o",
          k="16o 16c", b="16o", s=[0, "o", SIZE, SIZE]),
    block("$t = Flatten($x); $g = Gemm($t, $k); $y = Reshape($g, $s)", "o", since=11,
          k="16c 16o", s=[0, "o", SIZE, SIZE]),
    rows("$t = MatMul($x, $k); $y = Add($t, $b)", gives="o", k="c o", b="o"),
    block("$t = Transpose<perm=[0,2,3,1]>($x); $m = MatMul($t, $k); $y = Transpose<perm=[0,3,1,2]>($m)", "o", k="c o"),
    block("$t = Reshape($x, $f); $m = MatMul($k, $t); $y = Reshape($m, $s)", "o",
          k="o c", f=[0, "c", SIZE**2], s=[0, "o", SIZE, SIZE]),
    block("$y = BatchNormalization($x, $g, $b, $m, $v)", g="c", b="c", m="c", v="c"),
    block("$y = InstanceNormalization($x, $g, $b)", g="c", b="c"),
    block("$y = GroupNormalization<num_groups=2>($x, $g, $b)", even=True, since=21, g="c", b="c"),
    block("$y = LRN<size=3>($x)"),
    *(block(f"$y = {op}($x)", since=SINCE.get(op, 9)) for op in SMOOTH),
    block("$t = Tanh($x); $u = Mul($t, $k); $p = Acos($u); $q = Asin($u); $r = Atanh($u); $s = Tan($u); "
          "$y = Sum($p, $q, $r, $s)", k=np.float32(0.5)),
    block("$t = Tanh($x); $p = Exp($t); $q = Cosh($t); $r = Sinh($t); $y = Mean($p, $q, $r)"),
    block("$t = Abs($x); $u = Add($t, $k); $p = Log($u); $q = Sqrt($u); $r = Reciprocal($u); $s = Acosh($u); "
          "$y = Sum($p, $q, $r, $s)", k=np.float32(1.5)),
    block("$p = IsNaN($x); $q = IsInf($z); $n = Not($p); $a1 = And($n, $q); $a2 = Or($a1, $n); $a3 = Xor($a2, $p); "
          "$y = Where($a3, $x, $z)", since=10),
    block("$p = IsNaN($x); $q = IsInf($z); $k = Cast<to=6>($p); $l = Cast<to=6>($q); $m = BitwiseNot($k); "
          "$n = BitwiseAnd($m, $l); $r = BitwiseOr($n, $m); $s = BitwiseXor($r, $k); $t = CastLike($s, $x); "
          "$y = Mul($t, $x)", since=18),
    block("$y = Clip($x, $l, $u)", since=11, l=np.float32(-0.5), u=np.float32(1)),
    block("$y = Clip<min=-0.5>($x)", until=10),
    *(block(f"$y = {op}($x, $z)") for op in ["Mul", "Sub", "Min", "Mean"]),
    *(block(f"$y = {op}($x, $k)", k="1 c 1 1") for op in ["Mul", "Add", "Sub", "Div", "Max"]),
    block("$y = Sub($k, $x)", k="c 1 1"),
    block("$y = PRelu($x, $k)", k="c 1 1"),
    block("$t = Sigmoid($x); $y = Pow($t, $k)", k="c 1 1"),
    block("$s = Sigmoid($z); $t = Exp($s); $y = Div($x, $t)"),
    *(block(f"$t = {op}($x, $z); $y = Cast<to=1>($t)", since=16)
      for op in ["Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"]),
    block("$y = Mod<fmod=1>($x, $k)", since=10, k=np.float32(0.5)),
    block("$y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>($x)"),
    block("$y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>($x)"),
    block("$y = LpPool<kernel_shape=[3,3], pads=[1,1,1,1]>($x)"),
    *(block(f"$t = {op}($x); $k = Conv($t, $w); $g = Sigmoid($k); $y = Mul($g, $x)", w="c c 1 1", until=until)
      for op, until in [("GlobalAveragePool", 99), ("GlobalMaxPool", 99), ("GlobalLpPool", 21)]),
    *(block(f"$t = Reduce{op}($x, $axes); $y = Add($x, $t)", since=18, axes=[2, 3]) for op in REDUCTIONS),
    *(block(f"$t = Reduce{op}<axes=[2]>($x); $y = Add($x, $t)", until=17) for op in ["Mean", "Max", "L2"]),
    block("$s = Sigmoid($x); $t = ReduceProd<keepdims=0>($s, $axes); $u = ReduceLogSum($s, $axes); "
          "$v = Unsqueeze($t, $axes); $w = Add($u, $v); $y = Mul($x, $w)", since=18, axes=[3]),
    block("$t = ReduceMean($x, $axes); $y = Sub($x, $t)", since=18, axes=[1]),
    *(block(f"$t = {op}<axis=1, keepdims=1>($x); $f = Cast<to=1>($t); $y = Add($x, $f)")
      for op in ["ArgMax", "ArgMin"]),
    *(block(f"$y = {op}<axis={axis}>($x)") for op in ["Softmax", "LogSoftmax", "Hardmax"] for axis in (2, 1)),
    rows("$y = LayerNormalization($x, $g, $b)", since=17, g="c", b="c"),
    rows("$y = RMSNormalization($x, $g)", since=23, g="c"),
    block("$y = LayerNormalization<axis=-2>($x, $g)", since=17, g="4 4"),
    block("$t = Reshape($x, $apart); $n = InstanceNormalization($t, $g, $g); $y = Reshape($n, $s)", even=True,
          g="2", apart=[0, 2, -1], s=[0, "c", SIZE, SIZE]),
    rows("$y = SimplifiedLayerNormalization($x, $g)", since=17, g="c"),
    rows("$p = MatMul($x, $k); $n, $e1, $e2, $s = com.microsoft.SkipLayerNormalization($x, $p, $g, $g, $b); "
         "$y = Add($n, $s)", since=17, k="c c", g="c", b="c"),
    rows("$p = MatMul($x, $k); $n, $e1, $e2, $s = com.microsoft.SkipSimplifiedLayerNormalization($x, $p, $g); "
         "$y = Relu($s)", since=17, k="c c", g="c"),
    *(block(f"$y = com.microsoft.{op}($x)", since=17) for op in ["Gelu", "QuickGelu", "FastGelu"]),
    rows("$t = com.microsoft.BiasGelu($x, $b); $y = com.microsoft.FastGelu($t, $b)", since=17, b="c"),
    block("$y = Slice($x, $s, $e, $a)", "j-i", since=10, s=["i"], e=["j"], a=[1]),
    block("$y = Slice<axes=[1], starts=[$i], ends=[$j]>($x)", "j-i", until=9),
    block("$p, $q = Split<axis=1>($x, $s); $y = Concat<axis=1>($q, $p)", since=13, s=["i+1", "c-i-1"]),
    block("$p, $q = Split<axis=1, num_outputs=2>($x); $g = Sigmoid($q); $y = Mul($p, $g)", "h", even=True, since=18),
    block("$p, $q = Split<axis=1, split=[$h,$h]>($x); $y = Add($p, $q)", "h", even=True, until=12),
    block("$y = Gather<axis=1>($x, $s)", "3", s=["i", -1, "i"]),
    block("$t = Transpose<perm=[2,0,1,3]>($x); $g = GatherND($t, $s); $u = ScatterND($t, $s, $g); "
          "$y = Transpose<perm=[1,2,0,3]>($u)", since=13, s=np.asarray([[2], [0]])),
    block("$s = Shape($x); $p = Expand($k, $s); $y = GatherElements<axis=2>($x, $p)", since=11, k=[1]),
    block("$s = Shape($x); $p = Expand($k, $s); $r = Neg($x); $y = ScatterElements<axis=3>($r, $p, $x)", since=11,
          k=[1]),
    block("$s = Shape($x); $p = Expand($k, $s); $r = Neg($x); $y = Scatter<axis=3>($r, $p, $x)", until=10, k=[1]),
    block("$t = Gather<axis=1>($x, $s); $u = Unsqueeze($t, $a); $y = Add($u, $x)", since=13, s=np.asarray(0), a=[1]),
    block("$t = ArgMax<axis=1, keepdims=0>($x); $e = Gather($k, $t); $y = Transpose<perm=[0,3,1,2]>($e)", "o", k="c o"),
    block("$y = Pad($x, $p)", "c+j", since=11, p=[0, "i", 0, 0, 0, "j-i", 0, 0]),
    block("$y = Pad<pads=[0,$i,0,0,0,1,0,0]>($x)", "c+i+1", until=10),
    block('$p = Pad<mode="reflect">($x, $p1); $y = Slice($p, $s, $e, $a)', since=11, p1=[0, 0, 1, 1, 0, 0, 1, 1],
          s=[1, 1], e=[5, 5], a=[2, 3]),
    block("$t = Reshape($x, $s); $u = Transpose<perm=[0,2,1,3,4]>($t); $y = Reshape($u, $r)", even=True,
          s=[0, 2, "h", SIZE, SIZE], r=[0, -1, SIZE, SIZE]),
    block("$s = Shape($x); $f = Flatten($x); $y = Reshape($f, $s)"),
    block("$p = GlobalAveragePool($x); $s = Shape($x); $e = Expand($p, $s); $y = Add($e, $x)"),
    block("$p = GlobalMaxPool($x); $e = Expand($p, $s); $y = Sub($x, $e)", s=[1, "c", SIZE, SIZE]),
    block("$p = GlobalAveragePool($x); $y = Tile($p, $s)", s=[1, 1, SIZE, SIZE]),
    block("$y = Tile($x, $s)", "2c", s=[1, 2, 1, 1]),
    block("$p = GlobalAveragePool($x); $q = Squeeze($p, $s); $u = Unsqueeze($q, $s); $y = Mul($u, $x)",
          since=13, s=[2, 3]),
    block("$p = GlobalAveragePool($x); $q = Squeeze<axes=[2,3]>($p); $u = Unsqueeze<axes=[2,3]>($q); $y = Mul($u, $x)",
          until=12),
    *(block(f'$k = Conv($x, $w); $t = DepthToSpace<blocksize=2, mode="{mode}">($k); $y = SpaceToDepth<blocksize=2>($t)',
            "4o", since=11, w="4o c 1 1") for mode in ("DCR", "CRD")),
    block('$t = Resize<mode="nearest">($x, $e, $s); $y = MaxPool<kernel_shape=[2,2], strides=[2,2]>($t)', since=13,
          e=np.zeros(0, np.float32), s=np.asarray([1, 1, 2, 2], np.float32)),
    block('$t = MaxPool<kernel_shape=[2,2], strides=[2,2]>($x); $s = Shape($x); '
          '$y = Resize<mode="linear">($t, $e, $e, $s)', since=13, e=np.zeros(0, np.float32)),
    block('$t = Upsample<mode="nearest">($x, $s); $y = MaxPool<kernel_shape=[2,2], strides=[2,2]>($t)', until=9,
          s=np.asarray([1, 1, 2, 2], np.float32)),
    block("$s = Shape($x); $t = ConstantOfShape($s); $y = Add($t, $x)", since=9),
    block("$s = Shape($x); $t = Expand($k, $s); $y = Mul($t, $x)", k=np.full(1, 0.5, np.float32)),
    block("$s = Shape($x); $f = Div($s, $k); $g = Mul($f, $k); $t = ConstantOfShape($g); $y = Add($t, $x)", even=True,
          since=9, k=[1, 2, 1, 1]),
    block("$p = Pad($x, $p1); $y = Pad($p, $p2)", since=11, p1=[0, 1, 0, 0, 0, "i", 0, 0],
          p2=[0, -1, 0, 0, 0, "0-i", 0, 0]),
    block("$s = Size($x); $f = Cast<to=1>($s); $y = Div($x, $f)"),
    block("$s = Shape($x); $n = Gather($s, $one); $r = Range($zero, $n, $step); $f = Cast<to=1>($r); "
          "$u = Reshape($f, $to); $y = Mul($x, $u)", since=11,
          one=np.asarray(1), zero=np.asarray(0), step=np.asarray(1), to=[1, -1, 1, 1]),
    *(block(f"$r = {op}<shape=[1, $c, 1, 1]>(); $y = Add($x, $r)", until=21)
      for op in ["RandomNormal", "RandomUniform"]),
    *(block(f"$r = {op}($x); $y = Add($x, $r)", until=21) for op in ["RandomNormalLike", "RandomUniformLike"]),
    block("$t = Gather<axis=0>($x, $s); $u = Gather<axis=0>($t, $s); $e = EyeLike($u); $y = Add($x, $e)", since=9,
          s=np.asarray(0)),
    # attention: over space by heads of channels, over channels by one head, in one node, shared keys
    block("$q = Conv($x, $kq); $k = Conv($x, $kk); $v = Conv($x, $kv); $qh = Reshape($q, $s); $kh = Reshape($k, $s); "
          "$vh = Reshape($v, $s); $kt = Transpose<perm=[0,1,3,2]>($kh); $m = MatMul($kt, $qh); $n = Add($m, $mask); "
          "$p = Softmax<axis=2>($n); $w = MatMul($vh, $p); $y = Reshape($w, $r)", even=True, since=13,
          kq="c c 1 1", kk="c c 1 1", kv="c c 1 1", mask="2 16 16", s=[0, 2, "h", SIZE**2], r=[0, -1, SIZE, SIZE]),
    block("$f = Reshape($x, $s); $t = Transpose<perm=[0,2,1]>($f); $m = MatMul($f, $t); $p = MatMul($m, $f); "
          "$y = Reshape($p, $r)", s=[0, "c", SIZE**2], r=[0, "c", SIZE, SIZE]),
    rows("$q = MatMul($x, $kq); $k = MatMul($x, $kk); $v = MatMul($x, $kv); "
         "$y = Attention<q_num_heads=4, kv_num_heads=2>($q, $k, $v)", gives="4o", since=23,
         kq="c 4o", kk="c 2o", kv="c 2o"),
    # attention and rotation as onnxruntime has them, and what it merges
    rows("$y = com.microsoft.Attention<num_heads=2>($x, $k, $b)", gives="2o", since=17, k="c 6o", b="6o"),
    rows("$q = MatMul($x, $kq); $k = MatMul($x, $kk); $v = MatMul($x, $kv); "
         "$y = com.microsoft.MultiHeadAttention<num_heads=2>($q, $k, $v, $b)", gives="4o", since=17,
         kq="c 2o", kk="c 2o", kv="c 4o", b="8o"),
    rows("$q = MatMul($x, $kq); $k = MatMul($x, $kk); $v = MatMul($x, $kv); $n = Shape<start=0, end=1>($x); "
         "$l = Expand($last, $n); $t, $e1, $e2 = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>"
         '($q, $k, $v, "", "", $l, $total); $y = MatMul($t, $ko)', gives="o", since=17, kq="c 32", kk="c 16", kv="c 16",
         ko="32 o", last=np.asarray([SIZE**2 - 1], np.int32), total=np.asarray(SIZE**2, np.int32)),
    rows("$q = MatMul($x, $k); $y = com.microsoft.RotaryEmbedding($q, $zero, $cos, $sin)", gives="8", since=17,
         k="c 8", zero=[0], cos="16 2", sin="16 2"),
    rows("$q = MatMul($x, $k); $n = Shape<start=0, end=2>($x); $p = Expand($places, $n); "
         "$y = RotaryEmbedding<num_heads=2>($q, $cos, $sin, $p)", gives="8", since=23,
         k="c 8", places=[*range(SIZE**2)], cos="16 2", sin="16 2"),
    block("$t = ArgMax<axis=1, keepdims=0>($x); $f = Reshape($t, $s); $w = Cast<to=6>($f); "
          '$e, $n = com.microsoft.EmbedLayerNormalization($w, "", $words, $places, "", $g, $b); $u = Transpose'
          "<perm=[0,2,1]>($e); $y = Reshape($u, $r)", "o", since=17, s=[0, -1], r=[0, -1, SIZE, SIZE],
          words="c o", places="16 o", g="o", b="o"),
    rows("$q = MatMul($x, $k); $n = Shape<start=0, end=2>($x); $m = Concat<axis=0>($three, $n); "
         "$p = Expand($places, $m); "
         "$y = com.microsoft.MRotaryEmbedding<num_heads=2, mrope_section=[1,1,0]>($q, $p, $cos, $sin)", gives="8",
         since=17, k="c 8", three=[3], places=[*range(SIZE**2)], cos="16 2", sin="16 2"),
    block("$g = GlobalAveragePool($x); $f = Flatten($g); $u = Unsqueeze($f, $one); $q = MatMul($u, $kq); "
          "$r = Reshape($x, $flat); $t = Transpose<perm=[0,2,1]>($r); $k = MatMul($t, $kk); $l = Reshape($k, $heads); "
          "$m = Transpose<perm=[0,2,1,3]>($l); $v = Relu($m); $a = com.microsoft.DecoderMaskedMultiHeadAttention"
          "<num_heads=2>($q, $m, $v); $p = Transpose<perm=[0,2,1]>($a); $w = Unsqueeze($p, $last); "
          "$y = Expand($w, $image)", "2o", since=17, kq="c 2o", kk="c 2o", one=[1], last=[3], flat=[0, "c", SIZE**2],
          heads=[0, SIZE**2, 2, "o"], image=[1, 1, SIZE, SIZE]),
    rows("$y = com.microsoft.Trilu($x)", since=17),
    block("$k = Conv($x, $w); $t = Transpose<perm=[0,2,3,1]>($k); $u = Tanh($t); "
          "$y = com.microsoft.GridSample($x, $u)", since=17, w="2 c 1 1"),
    block("$p = Affine<alpha=0.5, beta=1.0>($x); $q = ParametricSoftplus<alpha=0.5, beta=1.0>($p); "
          "$r = ScaledTanh<alpha=0.5, beta=1.0>($q); $y = Scale<scale=0.5>($r)", until=9),
    block('$y = com.microsoft.FusedConv<activation="Relu">($x, $k, $b)', "o", since=17, k="o c 1 1", b="o"),
    block('$t = Flatten($x); $g = com.microsoft.FusedGemm<activation="Relu", transB=1>($t, $k, $b); '
          "$y = Reshape($g, $s)", "o", since=17, k="16o 16c", b="16o", s=[0, "o", SIZE, SIZE]),
    block("$t = Flatten($x); $u = Relu($t); $g = Gemm($t, $k, $u); $y = Reshape($g, $s)",
          k="16c 16c", s=[0, "c", SIZE, SIZE]),
    rows("$y = com.microsoft.FusedMatMul<alpha=0.5, transB=1>($x, $k)", gives="o", since=17, k="o c"),
    rows("$t = Transpose<perm=[0,2,1]>($x); $y = com.microsoft.TransposeMatMul<transA=1>($t, $k)", gives="o", since=17,
         k="c o"),
    # products with named axes
    *(rows(f'$y = Einsum<equation="{equation}">($x, $k)', gives="o", since=12, k=k)
      for equation, k in [("bsc,co->bso", "c o"), ("...c,oc->...o", "o c")]),
    rows('$q = Einsum<equation="bsc,chd->bshd">($x, $kq); $k = Einsum<equation="bsc,chd->bshd">($x, $kk); '
         '$l = Einsum<equation="bqhd,bkhd->bhqk">($q, $k); $p = Softmax($l); $y = Einsum<equation='
         '"bhqk,bkhd,hdo->bqo">($p, $k, $ko)', gives="o", since=13, kq="c 3 2", kk="c 3 2", ko="3 2 o"),
    rows('$q = Einsum<equation="bsc,chd->bshd">($x, $kq); $k = Einsum<equation="bsc,chd->bshd">($x, $kk); '
         '$l = Einsum<equation="bqhd,bkhd->bhqk">($q, $k); $p = Softmax($l); $v = Einsum<equation='
         '"bhqk,bkhd->bqhd">($p, $k); $y = Einsum<equation="bqhd,hdo->bqo">($v, $ko)', gives="o", since=13,
         kq="c 3 2", kk="c 3 2", ko="3 2 o"),
    block('$s = Einsum<equation="bchw->bcw">($x); $t = Einsum<equation="bcw,c->bcw">($s, $k); '
          "$u = Unsqueeze($t, $a); $y = Mul($u, $x)", since=13, k="c", a=[2]),
    # norms, running sums, triangles, places in space
    *(block(f"$y = LpNormalization<axis={axis}>($x)") for axis in (3, 1)),
    *(block(f"$y = MeanVarianceNormalization<axes={axes}>($x)", since=9) for axes in ("[0,2,3]", "[1,2,3]")),
    *(block("$y = CumSum($x, $a)", since=11, a=np.asarray(axis)) for axis in (2, 1)),
    block("$y = Trilu($x)", since=14),
    rows("$y = Trilu($x)", since=14),
    block('$r = Sigmoid($x); $s = Mul($r, $hundred); $t = Cast<to=2>($s); $u = BitShift<direction="RIGHT">($t, $one); '
          "$y = Cast<to=1>($u)", since=11, hundred=np.float32(100), one=np.asarray([1], np.uint8)),
    block("$k = Conv($x, $w); $f = Reshape($k, $flat); $m = Col2Im<strides=[1,1], pads=[1,1,0,0]>($f, $image, $two); "
          "$y = Relu($m)", "o", since=18, w="4o c 1 1", flat=[0, "4o", SIZE**2], image=[SIZE, SIZE], two=[2, 2]),
    block("$k = Conv($x, $w); $t = Transpose<perm=[0,2,3,1]>($k); $u = Tanh($t); $y = GridSample($x, $u)", since=16,
          w="2 c 1 1"),
    block("$t = AffineGrid($theta, $size); $n = Shape<start=0, end=1>($x); $m = Concat<axis=0>($n, $rest); "
          "$g = Expand($t, $m); $y = GridSample($x, $g)", since=20, theta="1 2 3", size=[1, "c", SIZE, SIZE],
          rest=[SIZE, SIZE, 2]),
    *(block(f"$y = CenterCropPad<axes=[{axis}]>($x, $n)", since=18, n=["c" if axis == 1 else SIZE])
      for axis in (1, 2)),
    block("$t = Gather<axis=0>($x, $zero); $s = Transpose<perm=[1,2,0]>($t); $r = ReverseSequence<batch_axis=1, "
          "time_axis=0>($s, $n); $u = Transpose<perm=[2,0,1]>($r); $y = Add($x, $u)", zero=np.asarray(0), since=10,
          n=[1, 2, 3, 4]),
    block("$r = Relu($x); $y = TensorScatter<axis=2>($x, $r)", since=24),
    block("$t = Gather<axis=0>($x, $zero); $u = RoiAlign<output_height=4, output_width=4>($t, $rois, $image); "
          "$y = Add($x, $u)", since=16, until=21, zero=[0], rois=np.float32([[0, 0, 2, 3]]), image=[0]),
    block("$t = Gather<axis=0>($x, $zero); $u = MaxRoiPool<pooled_shape=[4,4]>($t, $rois); $y = Add($x, $u)", until=21,
          zero=[0], rois=np.float32([[0, 0, 0, 2, 3]])),
    block("$f = Conv<pads=[1,1,1,1]>($x, $w); $y = DeformConv<pads=[1,1,1,1]>($x, $k, $f, $b)", "o", since=19,
          w="18 c 3 3", k="o c 3 3", b="o"),
    # recurrent layers over space
    *(rows(f"$t = Transpose<perm=[1,0,2]>($x); $u = {op}<hidden_size=$o>($t, $w, $r, $b); $q = Squeeze($u, $one); "
           "$y = Transpose<perm=[1,0,2]>($q)", gives="o", since=14,
           w=f"1 {g}o c", r=f"1 {g}o o", b=f"1 {2 * g}o", one=[1])
      for op, g in [("LSTM", 4), ("GRU", 3), ("RNN", 1)]),
    *(rows(f'$t = Transpose<perm=[1,0,2]>($x); $u = {op}<hidden_size=$o, direction="bidirectional">($t, $w, $r, $b); '
           "$q = Transpose<perm=[0,2,1,3]>($u); $m = Reshape($q, $join); $y = Transpose<perm=[1,0,2]>($m)",
           gives="2o", since=14, w=f"2 {g}o c", r=f"2 {g}o o", b=f"2 {2 * g}o", join=[SIZE**2, -1, "2o"])
      for op, g in [("LSTM", 4), ("GRU", 3), ("RNN", 1)]),
]  # fmt: skip


def operators(block: Block) -> set[tuple[str, str]]:
    """(domain, name) of all operators in a block."""
    named = re.findall(r"= ((?:[a-z]+\.)*)([A-Z]\w*)[<(]", block.text)
    return {(domain.rstrip("."), op) for domain, op in named}


# ---------------------------------------------------------------------------------------------- graphs


@dataclass(frozen=True)
class Step:
    """A block, and the numbers that say what it is applied to."""

    block: Block
    x: int = 0
    z: int = 0
    size: int = 0
    place: int = 0


class _Network:
    """A graph under construction: values with their number of channels; all are [N, channels, 4, 4]."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.weights: dict[str, object] = {}
        self.values: list[tuple[str, int]] = [("x", 4)]

    def pick(self, number: int, where: Callable[[int], bool] = lambda c: True) -> tuple[str, int] | None:
        """One of the latest values of a number of channels that is wanted; 0 is the last one."""
        found = [v for v in self.values if where(v[1])][-4:][::-1]
        return found[number % len(found)] if found else None

    def add(self, step: Step) -> None:
        """Add a block, if there is a value that it can be applied to."""
        block, n = step.block, len(self.lines)
        x = self.pick(step.x, lambda c: not block.even or c % 2 == 0)
        if x is None:
            return
        c = x[1]
        z, a = self.pick(step.z, lambda other: other in (c, 1)), self.pick(step.z)
        assert z is not None
        assert a is not None
        o = [4, 2, 1, 3][step.size % 4]
        i = step.place % c
        sizes = {"c": c, "d": a[1], "o": o, "h": c // 2, "i": i, "j": i + 1 + step.size % (c - i)}
        if block.text.count("Split<") and sizes["i"] + 1 == c:
            sizes["i"] -= 1
        names = {"x": x[0], "z": z[0], "any": a[0]}
        own = {k: f"{k}_{n}" for k in re.findall(r"\$(\w+)", block.text) if k not in {*sizes, *names}}
        self.lines += Template(block.text).substitute(sizes | names | own).split("\n")
        self.weights |= {own[k]: _content(content, sizes) for k, content in block.weights.items()}
        self.values.append((own["y"], _number(block.gives, sizes)))

    def read(self, value: tuple[str, int], name: str) -> None:
        """A layer that reads a value and makes an output."""
        self.lines.append(f"{name} = Conv({value[0]}, k_{name}, b_{name})")
        self.weights |= {f"k_{name}": (3, value[1], 1, 1), f"b_{name}": (3,)}


def _content(content: object, sizes: dict[str, int]) -> object:
    """The weights of a block for these sizes."""
    if isinstance(content, str):
        return tuple(_number(n, sizes) for n in content.split())
    if isinstance(content, list):
        return [_number(n, sizes) if isinstance(n, str) else n for n in content]
    return np.asarray(content)


def _number(text: str, sizes: dict[str, int]) -> int:
    """A sum of numbers and of multiples of sizes: "16o", "c-i-1"."""
    total = 0
    for sign, factor, letter in re.findall(r"([+-]?)(\d*)([a-z]?)", text):
        if factor or letter:
            total += (-1 if sign == "-" else 1) * int(factor or 1) * sizes.get(letter, 1)
    return total


def network(steps: list[Step], opset: tuple[int, int] = NEWEST, whole: bool = False, shown: bool = False) -> Case:
    """A convolution, these blocks, and a layer that reads the last value.

    With `whole` the input may be read, too: what is joined with it can't be pruned. With `shown` an inner value is an
    output.
    """
    net = _Network()
    net.add(Step(BLOCKS[0]))
    if not whole:
        net.values = net.values[1:]
    for step in steps:
        net.add(step)
    outputs = {"y": 3}
    net.read(net.values[-1], "y")
    if shown:
        name, c = net.values[len(net.values) // 2]
        outputs |= {name: c} if name != "x" else {}
    stated = ", ".join(f"float[N,{c},{SIZE},{SIZE}] {name}" for name, c in outputs.items())
    return Case("random", "float[N,4,4,4] x", stated, "\n".join(net.lines), net.weights, opset=opset[0], ir=opset[1])


def networks(steps: int = 12) -> st.SearchStrategy[Case]:
    """Random networks of all that `BLOCKS` has for their opset."""
    few = st.integers(0, 3)

    def of(opset: tuple[int, int]) -> st.SearchStrategy[Case]:
        blocks = st.sampled_from([b for b in BLOCKS if b.since <= opset[0] <= b.until])
        step = st.builds(Step, blocks, few, few, few, few)
        rare = st.integers(0, 5).map(lambda n: n == 5)
        return st.builds(network, st.lists(step, min_size=1, max_size=steps), st.just(opset), rare, rare)

    return st.sampled_from([NEWEST, NEWEST, OLDER, OLD]).flatmap(of)
