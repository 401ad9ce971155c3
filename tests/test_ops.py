"""Layers as matrix products, against onnxruntime; and what holds of all rules."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import pytest
from cases import CASES, Case, scalar
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxprune.coupling import couple
from onnxprune.graph import Graph
from onnxprune.ops import RULES
from onnxprune.ops.elementwise import UNARY, bounds
from onnxprune.ops.linear import describe
from onnxprune.plan import Plan
from onnxprune.rewrite import rewrite
from onnxprune.runtime import Runtime


def agrees(case: Case, layer: int = 0, size: int = 8) -> None:
    """The layer on the rows it reads at some output positions is what onnxruntime computes there."""
    model = case.model()
    graph = Graph(model)
    linear = describe(graph, layer)
    assert linear is not None
    feed = case.feed(batch=3, size=size)
    x = feed[linear.input]
    y = Runtime(threads=1).session(model).run(feed)[linear.output]
    positions = np.random.default_rng(0).permutation(linear.count(x.shape, y.shape))[:20]
    found = linear.apply(linear.sample(x, y.shape, positions))
    expected = linear.outputs(y, positions)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert linear.output_shape(x.shape) == y.shape
    if not linear.tail and case.name != "scaled":
        np.testing.assert_array_equal(linear.tensors(linear)[0], graph.array(linear.weight).astype(np.float64))


@st.composite
def convolutions(draw, transposed: bool) -> Case:
    """A (transposed) convolution over one to three axes with any geometry."""
    rank = draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    strides = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilations = [draw(st.integers(1, 2)) for _ in range(rank)]
    groups, per_in, per_out = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    attributes = [f"strides={strides}", f"dilations={dilations}", f"group={groups}"]
    auto_pad = draw(st.sampled_from(["", "", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto_pad:
        attributes.append(f'auto_pad="{auto_pad}"')
        assume(auto_pad == "VALID" or set(dilations) == {1})  # onnxruntime refuses SAME with dilations
    else:
        pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]
        attributes.append(f"pads={pads}")
    if transposed:
        extra = [draw(st.integers(0, stride - 1)) for stride in strides]
        attributes.append(f"output_padding={extra}")
    size = [draw(st.integers(5, 7)) for _ in range(rank)]
    if transposed and draw(st.booleans()):
        full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(size, strides, kernel, dilations, strict=True)]
        attributes.append(f"output_shape={[n - draw(st.integers(0, 2)) for n in full]}")
    w = (groups * per_in, per_out, *kernel) if transposed else (groups * per_out, per_in, *kernel)
    op = "ConvTranspose" if transposed else "Conv"
    x = f"float[N,{groups * per_in},{','.join(map(str, size))}] x"
    y = f"float[N,{groups * per_out},{','.join('abc'[:rank])}] y"
    return Case("conv", x, y, f"y = {op}<{', '.join(attributes)}>(x, w, b)", {"w": w, "b": (groups * per_out,)})


@settings(max_examples=150)
@given(convolutions(transposed=False))
def test_convolution_is_a_product(case):
    agrees(case)


@settings(max_examples=100)
@given(convolutions(transposed=True))
def test_transposed_convolution_is_a_product(case):
    agrees(case)


@pytest.mark.parametrize(("trans", "bias"), [*product([0, 1], [(), (6,), (1, 6), (1,), (1, 1), None])])
def test_gemm_is_a_product(trans, bias):
    weights = {"w": (6, 5) if trans else (5, 6)} | ({} if bias is None else {"b": np.full(bias, 0.3, np.float32)})
    inputs = "x, w" if bias is None else "x, w, b"
    body = f"y = Gemm<alpha=0.5, beta=3.0, transB={trans}>({inputs})"
    agrees(Case("scaled", "float[N,5] x", "float[N,6] y", body, weights))


@pytest.mark.parametrize(("matrix", "transposed"), [*product([0, 1], product([0, 1], repeat=2))])
@pytest.mark.parametrize("bias", [(), (6, 1), (1, 6), (1,), (1, 1), None])
def test_gemm_is_a_product_in_all_orders(matrix, transposed, bias):
    """The constant matrix on either side, either side transposed; the output has its channels where the matrix is."""
    weight = (5, 6) if transposed[matrix] == (matrix == 0) else (6, 5)
    x, y = "N,5" if transposed[1 - matrix] == (matrix == 0) else "5,N", "N,6" if matrix else "6,N"
    if bias == ((6, 1) if matrix else (1, 6)):
        bias = bias[::-1]
    weights = {"w": weight} | ({} if bias is None else {"b": np.full(bias, 0.3, np.float32)})
    inputs = ("x, w" if matrix else "w, x") + ("" if bias is None else ", b")
    body = f"y = Gemm<alpha=0.5, beta=3.0, transA={transposed[0]}, transB={transposed[1]}>({inputs})"
    agrees(Case("scaled", f"float[{x}] x", f"float[{y}] y", body, weights))


@pytest.mark.parametrize("shape", ["5,N", "N,5,4", "N,2,5,3"])
@pytest.mark.parametrize("extra", [0, 1])
def test_matmul_is_a_product_from_the_left(shape, extra):
    weight = (1,) * (extra if "N," in shape else 0) + (6, 5)
    out = shape.replace("5", "6")
    agrees(Case("matmul", f"float[{shape}] x", f"float[{out}] y", "y = MatMul(w, x)", {"w": weight}))


@pytest.mark.parametrize("equation", ["abcd,cde->abe", "acbd,ced->abe", "acbd,edc->abe"])
def test_einsum_of_heads_is_a_product(equation):
    sizes = {"b": 4, "c": 3, "d": 2, "e": 5}
    x, w = equation.split("->")[0].split(",")
    shape = ",".join("N" if c == "a" else str(sizes[c]) for c in x)
    body = f'y = Einsum<equation="{equation}">(x, w)'
    agrees(Case("einsum", f"float[{shape}] x", "float[N,4,5] y", body, {"w": tuple(sizes[c] for c in w)}))


@pytest.mark.parametrize("weight", [(5, 6), (6, 5)])
def test_matmul_of_a_vector_is_a_product(weight):
    product = "y = MatMul(x, w)" if weight == (5, 6) else "y = MatMul(w, x)"
    agrees(Case("matmul", "float[5] x", "float[6] y", product, {"w": weight}))


@pytest.mark.parametrize("shape", ["N,5", "N,4,5", "N,2,3,5"])
@pytest.mark.parametrize("extra", [0, 1])
def test_matmul_is_a_product(shape, extra):
    weight = (1,) * (extra if "," in shape[2:] else 0) + (5, 6)
    agrees(Case("matmul", f"float[{shape}] x", f"float[{shape[:-1]}6] y", "y = MatMul(x, w)", {"w": weight}))


TAILS = {
    "batchnorm": "y = BatchNormalization(a, g, h, m, v)",
    "affine": "b = Mul(a, k)\nc = Add(l, b)\nd = Sub(c, k)\ne = Sub(k, d)\ny = Div(e, l)",
    "scalars": "b = Add(a, one)\nc = Mul(half, b)\nd = Sub(one, c)\ny = Div(d, half)",
    "not by a constant": "y = Div(one, a)",
    "not by zero": "y = Mul(a, zero)",
}


@pytest.mark.parametrize("tail", TAILS)
def test_tails_are_part_of_the_product(tail):
    constants = {"g": (4,), "h": (4,), "m": (4,), "v": (4,), "k": (4, 1, 1), "l": (1, 4, 1, 1)}
    constants |= {"one": scalar(1), "half": np.full(1, 0.5, np.float32), "zero": scalar(0)}
    body = "a = Conv(x, w, b0)\n" + TAILS[tail]
    case = Case("tail", "float[N,3,5,5] x", "float[N,4,5,5] y", body, {"w": (4, 3, 1, 1), "b0": (4,)} | constants)
    linear = describe(Graph(case.model()), 0)
    assert linear.output == ("a" if tail == "not by a constant" else "y")
    if linear.output == "y":
        agrees(case)


@pytest.mark.parametrize("tail", ["batchnorm over a row", "read twice", "an output", "over space", "statistics too"])
def test_what_is_no_tail(tail):
    body = {
        "batchnorm over a row": "y = Mul(a, k)",
        "read twice": "b = Add(a, one)\nc = Relu(a)\ny = Add(b, c)",
        "an output": "y = Add(a, one)",
        "over space": "y = Mul(a, s)",
        "statistics too": "y, r, q = BatchNormalization<training_mode=1>(a, g, g, g, g)",
    }[tail]
    outputs = "float[N,4,5,5] y" + (", float[N,4,5,5] a" if tail == "an output" else "")
    weights = {"w": (4, 3, 1, 1), "one": scalar(1), "k": (1, 1, 1, 5), "s": (5, 5), "g": (4,)}
    graph = Graph(Case("tail", "float[N,3,5,5] x", outputs, "a = Conv(x, w)\n" + body, weights).model())
    assert describe(graph, 0).tail == ()


@pytest.mark.parametrize(
    ("name", "layer"),
    [("weights_from_the_input", "b"), ("bias_from_another_layer", "b"), ("stack_of_matrices", "b"),
     ("lrn", "n"), ("unknown_operator", "u"), ("unknown_operator", "c")],
)  # fmt: skip
def test_what_is_no_product(name, layer):
    graph = Graph(CASES[name].model())
    assert describe(graph, graph.producer[layer]) is None


def test_gemm_with_a_bias_per_row_is_no_product():
    case = Case("gemm", "float[4,5] x", "float[4,6] y", "y = Gemm(x, w, b)", {"w": (5, 6), "b": (4, 1)})
    assert describe(Graph(case.model()), 0) is None


@pytest.mark.parametrize("rule", [*RULES.values()], ids=lambda rule: rule.couple.__name__)
def test_rules_say_what_they_do(rule):
    for part in (rule.couple, rule.shrink, rule.linear, rule.affine):
        assert part is None or part.__doc__


@pytest.mark.parametrize("name", ["custom.Relu", "custom.Add", "com.microsoft.GatedAdd", "MadeUp"])
@pytest.mark.parametrize("reader", ["Relu(u)", "Reshape(u, s)"])
@pytest.mark.parametrize("stated", [True, False])
def test_unknown_never_means_elementwise(name, reader, stated):
    """An operator without a rule keeps the channels of its inputs, whatever its name, domain and shape."""
    body = f"a = Conv(x, w1)\nb = Conv(x, w1b)\nu = {name}(a, b)\nr = {reader}\ny = Conv(r, w2)"
    weights = {"w1": (6, 3, 1, 1), "w1b": (6, 3, 1, 1), "w2": (2, 6, 1, 1), "s": [0, 6, 8, 8]}
    model = Case("unknown", "float[N,3,8,8] x", "float[N,2,8,8] y", body, weights).model()
    if stated:
        model.graph.value_info.append(onnx.helper.make_tensor_value_info("u", 1, ["N", 6, 8, 8]))
    coupling = couple(Graph(model))
    assert coupling.groups == ()
    assert "isn't a known operator" in coupling.left_alone[0]
    assert "isn't a known operator" in coupling.left_alone[1]


@pytest.mark.parametrize("op", UNARY)
def test_unary_operators_pass_channels_on(op):
    opset = 22 if op not in ("Swish",) else 24
    if op in ("IsInf", "IsNaN", "Not", "BitwiseNot"):
        kind = {"Not": "9", "BitwiseNot": "6"}.get(op, "1")
        body = f"a = Conv(x, w1)\nk = Cast<to={kind}>(a)\nu = {op}(k)\nr = Cast<to=1>(u)\ny = Conv(r, w2)"
    else:
        body = f"a = Conv(x, w1)\nr = {op}(a)\ny = Conv(r, w2)"
    weights = {"w1": (6, 3, 1, 1), "w2": (2, 6, 1, 1)}
    case = Case("unary", "float[N,3,8,8] x", "float[N,2,8,8] y", body, weights, opset=opset, ir=10)
    assert [g.channels for g in couple(Graph(case.model())).groups] == [6]


def test_bounds_of_activations():
    body = 'r = Relu(x)\nc = Clip(r, zero, six)\nd = Clip(c, "", six)\ne = Clip(d, k)\ny = Neg(e)'
    case = Case("clip", "float[2] x, float k", "float[2] y", body, {"zero": scalar(0), "six": scalar(6)})
    graph = Graph(case.model())
    assert [bounds(graph, node) for node in graph.nodes] == [(0, np.inf), (0, 6), (-np.inf, 6), None, None]
    old = Case("clip", "float[2] x", "float[2] y", "y = Clip<min=-1.0>(x)", {}, opset=9)
    assert bounds(Graph(old.model()), Graph(old.model()).nodes[0]) == (-1, np.inf)


def test_group_normalization_has_a_scale_per_norm_group_before_opset_21():
    weights = {"w1": (6, 3, 1, 1), "g": (3,), "w2": (2, 6, 1, 1)}
    body = "a = Conv(x, w1)\nn = GroupNormalization<num_groups=3>(a, g, g)\ny = Conv(n, w2)"
    case = Case("norm", "float[N,3,5,5] x", "float[N,2,5,5] y", body, weights, opset=18)
    coupling = couple(Graph(case.model()))
    assert [g.channels for g in coupling.groups] == [3]
    pruned = Graph(rewrite(coupling, Plan({"a": np.asarray([0, 2])})))
    assert [pruned.array(name).shape for name in ("w1", "g", "w2")] == [(4, 3, 1, 1), (2,), (2, 4, 1, 1)]
    assert pruned.nodes[1].attribute[0].i == 2
