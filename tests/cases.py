"""Small models, one per topology, as `onnx.parser` text.

A case is the signature and the nodes of a graph, and its constants: a tuple is the shape of random weights, a list of
integers is an int64 constant, an array is itself. `CASES[name].model()` builds the model; `tests/golden/name.txt` says
what must be prunable in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from ml_dtypes import bfloat16
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser


@dataclass(frozen=True)
class Case:
    """A model in text form; `feeds` gives it inputs."""

    name: str
    inputs: str
    outputs: str
    body: str
    weights: dict[str, object] = field(default_factory=dict)
    opset: int = 17
    ir: int = 8
    half: bool = False
    runs: bool = True  # whether onnxruntime knows all its operators

    def model(self, seed: int = 0) -> ModelProto:
        """The model with random weights, which are drawn from `seed`."""
        header = f'<ir_version: {self.ir}, opset_import: ["" : {self.opset}, "com.microsoft" : 1, "custom" : 1]>'
        model = parser.parse_model(f"{header}\n{self.name} ({self.inputs}) => ({self.outputs}) {{\n{self.body}\n}}")
        rng = np.random.default_rng(seed)
        for name, content in self.weights.items():
            model.graph.initializer.append(numpy_helper.from_array(self._array(name, content, rng), name))
        if self.ir < 4:
            for t in model.graph.initializer:
                model.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, t.dims))
        return model

    def _array(self, name: str, content: object, rng: np.random.Generator) -> np.ndarray:
        if isinstance(content, np.ndarray):
            return content
        if isinstance(content, list):
            return np.asarray(content, np.int64)
        fan = max(1, int(np.prod(content[1:])))
        value = rng.normal(size=content) / np.sqrt(fan) if len(content) > 1 else rng.uniform(0.5, 1.5, content)
        return value.astype(np.float16 if self.half else np.float32)

    def feed(self, batch: int = 1, size: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
        """Random inputs: N is the batch, other symbolic dimensions have the given size."""
        rng, feed = np.random.default_rng(seed), {}
        model = self.model()
        constants = {t.name for t in model.graph.initializer}
        for value in model.graph.input:
            if value.name in constants:
                continue
            t = value.type.tensor_type
            shape = [d.dim_value or (batch if d.dim_param == "N" else size) for d in t.shape.dim]
            kind = helper.tensor_dtype_to_np_dtype(t.elem_type)
            if t.elem_type == TensorProto.BOOL:
                feed[value.name] = np.ones(shape, bool)
            elif kind.kind in "iu":
                feed[value.name] = rng.integers(0, 3, shape).astype(kind)
            else:
                feed[value.name] = rng.normal(size=shape).astype(kind)
        return feed

    @property
    def symbolic(self) -> bool:
        """Whether the batch may change."""
        return "N" in self.inputs


def scalar(value: float) -> np.ndarray:
    """A constant of rank 0."""
    return np.asarray(value, np.float32)


CASES: dict[str, Case] = {}


def case(name: str, inputs: str, outputs: str, body: str, **rest: object) -> None:
    options = {k: rest.pop(k) for k in ("opset", "ir", "half", "runs") if k in rest}
    assert name not in CASES
    CASES[name] = Case(name, inputs, outputs, body, rest, **options)


# ------------------------------------------------------------------------------------------------ chains

X = "float[N,3,8,8] x"

case("chain", X, "float[N,4,8,8] y", """
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(a)
    c = Conv(r, w2)
    s = Sigmoid(c)
    y = Conv<pads=[1,1,1,1]>(s, w3, b3)
""", w1=(8, 3, 3, 3), b1=(8,), w2=(6, 8, 1, 1), w3=(4, 6, 3, 3), b3=(4,))  # fmt: skip

case("batchnorm_node", X, "float[N,4,8,8] y", """
    a = Conv<pads=[1,1,1,1]>(x, w1)
    n = BatchNormalization(a, gamma, beta, mean, var)
    r = Relu(n)
    c = Conv(r, w2)
    y = BatchNormalization(c, gamma2, beta2, mean2, var2)
""", w1=(8, 3, 3, 3), gamma=(8,), beta=(8,), mean=(8,), var=(8,), w2=(4, 8, 1, 1),
    gamma2=(4,), beta2=(4,), mean2=(4,), var2=(4,))  # fmt: skip

case("batchnorm_of_another_branch", X, "float[N,4,8,8] y", """
    a = Conv<pads=[1,1,1,1]>(x, w1)
    n = BatchNormalization(a, gamma, beta, mean, var)
    r = Relu(n)
    c = Conv(r, w2)
    d = Conv(a, w3)
    y = Add(c, d)
""", w1=(8, 3, 3, 3), gamma=(8,), beta=(8,), mean=(8,), var=(8,), w2=(4, 8, 1, 1), w3=(4, 8, 1, 1))  # fmt: skip

case("conv1d", "float[N,3,16] x", "float[N,2,7] y", """
    a = Conv<strides=[2], pads=[1,1]>(x, w1, b1)
    r = Relu(a)
    y = Conv<dilations=[1]>(r, w2)
""", w1=(6, 3, 3), b1=(6,), w2=(2, 6, 2))  # fmt: skip

case("conv3d", "float[N,2,4,4,4] x", "float[N,3] y", """
    a = Conv<pads=[1,1,1,1,1,1]>(x, w1, b1)
    r = Relu(a)
    p = MaxPool<kernel_shape=[2,2,2], strides=[2,2,2]>(r)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w2)
""", w1=(4, 2, 3, 3, 3), b1=(4,), w2=(3, 32))  # fmt: skip

case("one_output_channel", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    r = Relu(b)
    c = Conv(r, w3)
    y = Conv(c, w4)
""", w1=(6, 3, 1, 1), w2=(1, 6, 1, 1), w3=(4, 1, 1, 1), w4=(2, 4, 1, 1))  # fmt: skip

case("conv_transpose", X, "float[N,2,17,17] y", """
    a = Conv<pads=[1,1,1,1]>(x, w1)
    r = Relu(a)
    u = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(r, w2, b2)
    q = Relu(u)
    v = ConvTranspose<pads=[1,1,1,1], group=5>(q, w3)
    y = ConvTranspose<kernel_shape=[2,2]>(v, w4)
""", w1=(6, 3, 3, 3), w2=(6, 5, 3, 3), b2=(5,), w3=(5, 1, 3, 3), w4=(5, 2, 2, 2))  # fmt: skip

case("conv_transpose_to_a_size", X, "float[N,2,33,31] y", """
    a = Conv(x, w1)
    r = Relu(a)
    u = ConvTranspose<strides=[2,2], auto_pad="SAME_UPPER">(r, w2, b2)
    q = Relu(u)
    y = ConvTranspose<strides=[2,2], output_shape=[33,31]>(q, w3)
""", w1=(6, 3, 1, 1), w2=(6, 5, 3, 3), b2=(5,), w3=(5, 2, 3, 3))  # fmt: skip

case("conv_transpose_grouped", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    u = ConvTranspose<group=2>(a, w2)
    y = Conv(u, w3)
""", w1=(4, 3, 1, 1), w2=(4, 3, 1, 1), w3=(2, 6, 1, 1))  # fmt: skip

case("mlp_gemm", "float[N,5] x", "float[N,3] y", """
    a = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w1, b1)
    r = Relu(a)
    c = Gemm<alpha=3.0>(r, w2)
    t = Tanh(c)
    d = Gemm<transB=1>(t, w3, b3)
    e = Relu(d)
    y = Gemm(e, w4, b4)
""", w1=(8, 5), b1=(8,), w2=(8, 7), w3=(6, 7), b3=(1, 6), w4=(6, 3), b4=scalar(0.5))  # fmt: skip

case("mlp_matmul", "float[N,5] x", "float[N,3] y", """
    a = MatMul(x, w1)
    b = Add(a, b1)
    r = Relu(b)
    c = MatMul(r, w2)
    d = Add(b2, c)
    s = Sigmoid(d)
    y = MatMul(s, w3)
""", w1=(5, 8), b1=(8,), w2=(8, 6), b2=(6,), w3=(6, 3))  # fmt: skip

case("mlp_over_a_sequence", "float[N,S,5] x", "float[N,S,3] y", """
    a = MatMul(x, w1)
    b = Add(a, b1)
    r = Relu(b)
    y = MatMul(r, w2)
""", w1=(5, 8), b1=(8,), w2=(8, 3))  # fmt: skip

case("gemm_transposed_input", "float[5,4] x", "float[8,3] y", """
    a = Gemm<transA=1>(x, w1)
    b = Gemm(a, w2)
    c = Transpose(b)
    d = Gemm<transA=1>(c, w3)
    e = Transpose(d)
    y = Gemm<transA=1>(e, w4)
""", w1=(5, 6), w2=(6, 6), w3=(6, 8), w4=(8, 3))  # fmt: skip

case("constant_on_the_left", "float[N,4,6] x", "float[N,5,3] y", """
    a = MatMul(x, w1)
    b = MatMul(w2, a)
    y = MatMul(b, w3)
""", w1=(6, 8), w2=(5, 4), w3=(8, 3))  # fmt: skip

case("constants_on_both_sides", "float[N,4,6] x", "float[N,2,3] y", """
    a = MatMul(w1, x)
    b = Relu(a)
    c = MatMul(w2, b)
    d = MatMul(c, w3)
    t = Transpose<perm=[0,2,1]>(d)
    e = MatMul(w4, t)
    u = Transpose<perm=[0,2,1]>(e)
    y = MatMul(w5, u)
""", w1=(8, 4), w2=(1, 5, 8), w3=(6, 7), w4=(3, 7), w5=(2, 5))  # fmt: skip

case("stack_of_matrices", "float[2,4,6] x", "float[2,4,3] y", """
    a = MatMul(x, w1)
    b = MatMul(a, w2)
    y = MatMul(b, w3)
""", w1=(6, 8), w2=(2, 8, 7), w3=(1, 7, 3))  # fmt: skip

case("stack_of_matrices_for_heads", "float[N,5,6] x", "float[N,2,3] y", """
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    k1 = Reshape(k0, apart)
    k = Transpose<perm=[0,2,3,1]>(k1)
    v1 = Reshape(v0, apart)
    v = Transpose<perm=[0,2,1,3]>(v1)
    s = MatMul(queries, k)
    p = Softmax<axis=-1>(s)
    a = MatMul(p, v)
    b = MatMul(a, each)
    t = Transpose<perm=[0,2,1,3]>(b)
    r = Reshape(t, together)
    y = MatMul(r, wo)
""", wk=(6, 12), wv=(6, 12), apart=[0, 0, 3, 4], queries=(1, 3, 2, 4), each=(3, 4, 4), together=[0, 0, 12],
    wo=(12, 3))  # fmt: skip

case("vectors", "float[6] x", "float[3] y", """
    a = MatMul(x, w1)
    r = Relu(a)
    b = MatMul(w2, r)
    s = Relu(b)
    c = MatMul(s, v)
    d = Mul(s, c)
    y = MatMul(d, w3)
""", w1=(6, 8), w2=(5, 8), v=(5,), w3=(5, 3))  # fmt: skip

# ------------------------------------------------------------------------------------------------ flattening

case("lenet_flatten", X, "float[N,3] y", """
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(a)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    f = Flatten(p)
    g = Gemm<transB=1>(f, w2, b2)
    h = Relu(g)
    y = Gemm<transB=1>(h, w3)
""", w1=(6, 3, 3, 3), b1=(6,), w2=(8, 96), b2=(8,), w3=(3, 8))  # fmt: skip

case("lenet_reshape", X, "float[N,3] y", """
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    p = AveragePool<kernel_shape=[4,4], strides=[4,4]>(a)
    f = Reshape(p, shape)
    y = Gemm<transB=1>(f, w2)
""", w1=(6, 3, 3, 3), b1=(6,), shape=[0, -1], w2=(3, 24))  # fmt: skip

case("lenet_reshape_fixed", X, "float[N,3] y", """
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    p = AveragePool<kernel_shape=[4,4], strides=[4,4]>(a)
    f = Reshape(p, shape)
    y = Gemm<transB=1>(f, w2)
""", w1=(6, 3, 3, 3), b1=(6,), shape=[-1, 24], w2=(3, 24))  # fmt: skip

case("lenet_dynamic", X, "float[N,3] y", """
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    p = AveragePool<kernel_shape=[4,4], strides=[4,4]>(a)
    s = Shape(p)
    n = Gather<axis=0>(s, zero)
    u = Unsqueeze(n, axes)
    t = Concat<axis=0>(u, rest)
    f = Reshape(p, t)
    y = Gemm<transB=1>(f, w2)
""", w1=(6, 3, 3, 3), b1=(6,), zero=np.asarray(0), axes=[0], rest=[24], w2=(3, 24))  # fmt: skip

case("flatten_by_counting_channels", X, "float[N,3] y", """
    a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    p = AveragePool<kernel_shape=[4,4], strides=[4,4]>(a)
    s = Shape(p)
    n = Gather<axis=0>(s, zero)
    c = Gather<axis=0>(s, one)
    m = Mul(c, four)
    nu = Unsqueeze(n, axes)
    mu = Unsqueeze(m, axes)
    t = Concat<axis=0>(nu, mu)
    f = Reshape(p, t)
    y = Gemm<transB=1>(f, w2)
""", w1=(6, 3, 3, 3), b1=(6,), zero=np.asarray(0), one=np.asarray(1), four=np.asarray(4), axes=[0],
    w2=(3, 24))  # fmt: skip

case("squeeze", X, "float[N,3] y", """
    a = Conv(x, w1)
    p = GlobalAveragePool(a)
    s = Squeeze(p, axes)
    g = Gemm<transB=1>(s, w2)
    u = Unsqueeze(g, axes)
    c = Conv(u, w3)
    y = ReduceMean<axes=[2,3], keepdims=0>(c)
""", w1=(6, 3, 1, 1), axes=[2, 3], w2=(5, 6), w3=(3, 5, 1, 1))  # fmt: skip

# ------------------------------------------------------------------------------------------------ residual networks

case("residual_identity", X, "float[N,3] y", """
    s = Conv<pads=[1,1,1,1]>(x, ws, bs)
    s0 = Relu(s)
    a = Conv<pads=[1,1,1,1]>(s0, w1, b1)
    r = Relu(a)
    b = Conv<pads=[1,1,1,1]>(r, w2, b2)
    add = Add(b, s0)
    s1 = Relu(add)
    p = GlobalAveragePool(s1)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w3, b3)
""", ws=(8, 3, 3, 3), bs=(8,), w1=(6, 8, 3, 3), b1=(6,), w2=(8, 6, 3, 3), b2=(8,), w3=(3, 8), b3=(3,))  # fmt: skip

case("residual_projection", X, "float[N,3] y", """
    s = Conv<pads=[1,1,1,1]>(x, ws)
    a = Conv<pads=[1,1,1,1], strides=[2,2]>(s, w1)
    r = Relu(a)
    b = Conv<pads=[1,1,1,1]>(r, w2)
    q = Conv<strides=[2,2]>(s, wq)
    add = Add(b, q)
    s1 = Relu(add)
    p = GlobalAveragePool(s1)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w3)
""", ws=(4, 3, 3, 3), w1=(6, 4, 3, 3), w2=(8, 6, 3, 3), wq=(8, 4, 1, 1), w3=(3, 8))  # fmt: skip

case("residual_option_a", X, "float[N,3] y", """
    s = Conv<pads=[1,1,1,1]>(x, ws)
    a = Conv<pads=[1,1,1,1], strides=[2,2]>(s, w1)
    r = Relu(a)
    b = Conv<pads=[1,1,1,1]>(r, w2)
    c = Slice(s, starts, ends, axes, steps)
    d = Pad(c, amounts)
    add = Add(b, d)
    s1 = Relu(add)
    p = GlobalAveragePool(s1)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w3)
""", ws=(4, 3, 3, 3), w1=(6, 4, 3, 3), w2=(8, 6, 3, 3), starts=[0, 0], ends=[1000, 1000], axes=[2, 3], steps=[2, 2],
    amounts=[0, 2, 0, 0, 0, 2, 0, 0], w3=(3, 8))  # fmt: skip

case("preactivation", X, "float[N,3] y", """
    s = Conv<pads=[1,1,1,1]>(x, ws)
    n1 = BatchNormalization(s, g1, h1, m1, v1)
    r1 = Relu(n1)
    a = Conv<pads=[1,1,1,1]>(r1, w1)
    n2 = BatchNormalization(a, g2, h2, m2, v2)
    r2 = Relu(n2)
    b = Conv<pads=[1,1,1,1]>(r2, w2)
    add = Add(s, b)
    n3 = BatchNormalization(add, g3, h3, m3, v3)
    p = GlobalAveragePool(n3)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w3)
""", ws=(8, 3, 3, 3), g1=(8,), h1=(8,), m1=(8,), v1=(8,), w1=(6, 8, 3, 3), g2=(6,), h2=(6,), m2=(6,), v2=(6,),
    w2=(8, 6, 3, 3), g3=(8,), h3=(8,), m3=(8,), v3=(8,), w3=(3, 8))  # fmt: skip

case("densenet", X, "float[N,3] y", """
    s = Conv<pads=[1,1,1,1]>(x, ws)
    n1 = BatchNormalization(s, g1, h1, m1, v1)
    r1 = Relu(n1)
    a = Conv<pads=[1,1,1,1]>(r1, w1)
    c1 = Concat<axis=1>(s, a)
    n2 = BatchNormalization(c1, g2, h2, m2, v2)
    r2 = Relu(n2)
    b = Conv<pads=[1,1,1,1]>(r2, w2)
    c2 = Concat<axis=1>(c1, b)
    p = GlobalAveragePool(c2)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w3)
""", ws=(6, 3, 3, 3), g1=(6,), h1=(6,), m1=(6,), v1=(6,), w1=(4, 6, 3, 3), g2=(10,), h2=(10,), m2=(10,), v2=(10,),
    w2=(4, 10, 3, 3), w3=(3, 14))  # fmt: skip

case("inception", X, "float[N,3,8,8] y", """
    s = Conv<pads=[1,1,1,1]>(x, ws)
    a = Conv(s, w1)
    b0 = Conv(s, w2)
    b = Conv<pads=[1,1,1,1]>(b0, w3)
    p0 = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(s)
    p = Conv(p0, w4)
    c = Concat<axis=1>(a, b, p)
    r = Relu(c)
    y = Conv(r, w5)
""", ws=(6, 3, 3, 3), w1=(4, 6, 1, 1), w2=(3, 6, 1, 1), w3=(5, 3, 3, 3), w4=(4, 6, 1, 1),
    w5=(3, 13, 1, 1))  # fmt: skip

case("concat_of_a_raw_pool_branch", X, "float[N,3,8,8] y", """
    s = Conv<pads=[1,1,1,1]>(x, ws)
    a = Conv(s, w1)
    p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(s)
    c = Concat<axis=1>(a, p, x)
    y = Conv(c, w2)
""", ws=(6, 3, 3, 3), w1=(4, 6, 1, 1), w2=(3, 13, 1, 1))  # fmt: skip

case("concat_of_nothing", "float[1,6] x", "float[1,3] y", """
    a = MatMul(x, w1)
    n = Slice(a, zero, zero, one)
    c = Concat<axis=1>(nothing, a, n)
    p, q = Split<axis=1>(c, sizes)
    y = MatMul(p, w2)
""", w1=(6, 8), zero=[0], one=[1], nothing=np.zeros((1, 0), np.float32), sizes=[8, 0], w2=(8, 3))  # fmt: skip

case("concat_of_a_constant_beside_the_image", "float[1,3,8,8] x", "float[1,2,8,10] y", """
    a = Conv(x, w1)
    c = Concat<axis=3>(a, k)
    y = Conv(c, w2)
""", w1=(6, 3, 1, 1), k=(1, 6, 8, 2), w2=(2, 6, 1, 1))  # fmt: skip

case("concat_with_a_constant", "float[1,3,8,8] x", "float[1,3,8,8] y", """
    s = Conv<pads=[1,1,1,1]>(x, ws)
    c = Concat<axis=1>(s, k)
    d = Concat<axis=2>(c, rows)
    e = Slice(d, starts, ends, axes)
    y = Conv(e, w)
""", ws=(6, 3, 3, 3), k=(1, 2, 8, 8), rows=(1, 8, 1, 8), starts=[1], ends=[9], axes=[2], w=(3, 8, 1, 1))  # fmt: skip

# ------------------------------------------------------------------------------------------------ mobile networks

case("depthwise", X, "float[N,3,8,8] y", """
    a = Conv(x, w1, b1)
    d = Conv<group=8, pads=[1,1,1,1]>(a, w2, b2)
    c = Clip(d, low, high)
    y = Conv(c, w3)
""", w1=(8, 3, 1, 1), b1=(8,), w2=(8, 1, 3, 3), b2=(8,), low=scalar(0),
    high=scalar(6), w3=(3, 8, 1, 1))  # fmt: skip

case("depthwise_multiplier", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    d = Conv<group=4, pads=[1,1,1,1]>(a, w2, b2)
    y = Conv(d, w3)
""", w1=(4, 3, 1, 1), w2=(8, 1, 3, 3), b2=(8,), w3=(3, 8, 1, 1))  # fmt: skip

case("depthwise_on_the_input", X, "float[N,4,8,8] y", """
    d = Conv<group=3>(x, w1)
    y = Conv(d, w2)
""", w1=(6, 1, 1, 1), w2=(4, 6, 1, 1))  # fmt: skip

case("inverted_residual", X, "float[N,3] y", """
    s = Conv<pads=[1,1,1,1]>(x, ws)
    e1 = Conv(s, w1, b1)
    c1 = Clip(e1, low, high)
    d1 = Conv<group=12, pads=[1,1,1,1]>(c1, w2, b2)
    c2 = Clip(d1, low, high)
    o1 = Conv(c2, w3)
    add = Add(s, o1)
    e2 = Conv(add, w4)
    c3 = Clip(e2, low, high)
    p = GlobalAveragePool(c3)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w5)
""", ws=(6, 3, 3, 3), w1=(12, 6, 1, 1), b1=(12,), low=scalar(0), high=scalar(6),
    w2=(12, 1, 3, 3), b2=(12,), w3=(6, 12, 1, 1), w4=(10, 6, 1, 1), w5=(3, 10))  # fmt: skip

case("squeeze_excite", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    p = GlobalAveragePool(a)
    q = Conv(p, w2, b2)
    r = Relu(q)
    g = Conv(r, w3, b3)
    h = HardSigmoid<alpha=0.2, beta=0.5>(g)
    m = Mul(h, a)
    y = Conv(m, w4)
""", w1=(8, 3, 1, 1), w2=(4, 8, 1, 1), b2=(4,), w3=(8, 4, 1, 1), b3=(8,), w4=(3, 8, 1, 1))  # fmt: skip

case("silu", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    s = Sigmoid(a)
    m = Mul(a, s)
    y = Conv(m, w2)
""", w1=(8, 3, 1, 1), w2=(3, 8, 1, 1))  # fmt: skip

case("hard_swish", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    b = Add(a, three)
    c = Clip(b, low, high)
    d = Div(c, six)
    m = Mul(a, d)
    y = Conv(m, w2)
""", w1=(8, 3, 1, 1), three=scalar(3), low=scalar(0),
    high=scalar(6), six=np.full(1, 6, np.float32), w2=(3, 8, 1, 1))  # fmt: skip

case("gelu_erf", "float[N,4,6] x", "float[N,4,3] y", """
    a = MatMul(x, w1)
    b = Add(a, b1)
    c = Div(b, root)
    e = Erf(c)
    f = Add(e, one)
    g = Mul(b, f)
    h = Mul(g, half_)
    y = MatMul(h, w2)
""", w1=(6, 8), b1=(8,), root=scalar(2**0.5), one=scalar(1),
    half_=scalar(0.5), w2=(8, 3))  # fmt: skip

case("gelu_tanh", "float[N,4,6] x", "float[N,4,3] y", """
    a = MatMul(x, w1)
    b = Pow(a, three)
    c = Mul(b, k)
    d = Add(a, c)
    t = Tanh(d)
    u = Add(t, one)
    g = Mul(a, u)
    y = MatMul(g, w2)
""", w1=(6, 8), three=scalar(3), k=scalar(0.044715), one=scalar(1),
    w2=(8, 3))  # fmt: skip

case("gelu_of_a_library", "float[N,4,6] x", "float[N,4,3] y", """
    a = MatMul(x, w1)
    b = com.microsoft.Gelu(a)
    c = MatMul(b, w2)
    d = com.microsoft.FastGelu(c, b2)
    e = com.microsoft.BiasGelu(d, b2)
    y = MatMul(e, w3)
""", w1=(6, 8), w2=(8, 7), b2=(7,), w3=(7, 3))  # fmt: skip

case("channel_gate", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    g = Conv(a, w2)
    s = Sigmoid(g)
    m = Mul(a, s)
    y = Conv(m, w3)
""", w1=(8, 3, 1, 1), w2=(1, 8, 1, 1), w3=(3, 8, 1, 1))  # fmt: skip

case("gate_of_a_conv", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    g = Conv(x, w2)
    s = Sigmoid(g)
    m = Mul(a, s)
    y = Conv(m, w3)
""", w1=(8, 3, 1, 1), w2=(8, 3, 1, 1), w3=(3, 8, 1, 1))  # fmt: skip

case("mask_from_the_input", "float[N,3,8,8] x, float[N,1,8,8] mask", "float[N,3,8,8] y", """
    a = Conv(x, w1)
    m = Mul(a, mask)
    y = Conv(m, w2)
""", w1=(8, 3, 1, 1), w2=(3, 8, 1, 1))  # fmt: skip

# ------------------------------------------------------------------------------------------------ groups of a conv

case("conv_grouped", X, "float[N,3,8,8] y", """
    a = Conv(x, w1, b1)
    r = Relu(a)
    g = Conv<group=2, pads=[1,1,1,1]>(r, w2, b2)
    q = Relu(g)
    y = Conv(q, w3)
""", w1=(8, 3, 1, 1), b1=(8,), w2=(12, 4, 3, 3), b2=(12,), w3=(3, 12, 1, 1))  # fmt: skip

case("resnext", X, "float[N,3] y", """
    s = Conv(x, ws)
    a = Conv(s, w1)
    r = Relu(a)
    g = Conv<group=4, pads=[1,1,1,1]>(r, w2)
    q = Relu(g)
    b = Conv(q, w3)
    add = Add(b, s)
    p = GlobalAveragePool(add)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w4)
""", ws=(6, 3, 1, 1), w1=(16, 6, 1, 1), w2=(16, 4, 3, 3), w3=(6, 16, 1, 1), w4=(3, 6))  # fmt: skip

case("grouped_twice", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    g = Conv<group=2>(a, w2)
    h = Conv<group=4>(g, w3)
    y = Conv(h, w4)
""", w1=(8, 3, 1, 1), w2=(16, 4, 1, 1), w3=(12, 4, 1, 1), w4=(3, 12, 1, 1))  # fmt: skip

case("grouped_twice_out_of_step", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    g = Conv<group=2>(a, w2)
    h = Conv<group=3>(g, w3)
    y = Conv(h, w4)
""", w1=(8, 3, 1, 1), w2=(12, 4, 1, 1), w3=(6, 4, 1, 1), w4=(3, 6, 1, 1))  # fmt: skip

case("grouped_after_concat", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    b = Conv(x, w2)
    c = Concat<axis=1>(a, b)
    g = Conv<group=2>(c, w3)
    y = Conv(g, w4)
""", w1=(4, 3, 1, 1), w2=(4, 3, 1, 1), w3=(8, 4, 1, 1), w4=(3, 8, 1, 1))  # fmt: skip

case("grouped_on_the_input", "float[N,4,8,8] x", "float[N,3,8,8] y", """
    g = Conv<group=2>(x, w1)
    y = Conv(g, w2)
""", w1=(8, 2, 1, 1), w2=(3, 8, 1, 1))  # fmt: skip

case("shufflenet_v1", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    g = Conv<group=2>(a, w2)
    s = Reshape(g, split)
    t = Transpose<perm=[0,2,1,3,4]>(s)
    u = Reshape(t, join)
    d = Conv<group=8, pads=[1,1,1,1]>(u, w3)
    h = Conv<group=2>(d, w4)
    y = Conv(h, w5)
""", w1=(8, 3, 1, 1), w2=(8, 4, 1, 1), split=[-1, 2, 4, 8, 8], join=[-1, 8, 8, 8], w3=(8, 1, 3, 3), w4=(8, 4, 1, 1),
    w5=(3, 8, 1, 1))  # fmt: skip

case("shufflenet_v2", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    l, r = Split<axis=1>(a, halves)
    b = Conv(r, w2)
    d = Conv<group=6, pads=[1,1,1,1]>(b, w3)
    e = Conv(d, w4)
    c = Concat<axis=1>(l, e)
    s = Reshape(c, split)
    t = Transpose<perm=[0,2,1,3,4]>(s)
    u = Reshape(t, join)
    y = Conv(u, w5)
""", w1=(12, 3, 1, 1), halves=[6, 6], w2=(6, 6, 1, 1), w3=(6, 1, 3, 3), w4=(6, 6, 1, 1), split=[0, 2, 6, 8, 8],
    join=[0, -1, 8, 8], w5=(3, 12, 1, 1))  # fmt: skip

case("shuffle_by_shape_arithmetic", "float[N,3,H,H] x", "float[N,3,H2,W2] y", """
    a = Conv(x, w1)
    s = Shape(a)
    n = Slice(s, i0, i1)
    c = Slice(s, i1, i2)
    hw = Slice(s, i2, i4)
    k = Div(c, two)
    t1 = Concat<axis=0>(n, two, k, hw)
    t2 = Concat<axis=0>(n, c, hw)
    u = Reshape(a, t1)
    v = Transpose<perm=[0,2,1,3,4]>(u)
    w = Reshape(v, t2)
    y = Conv(w, w2)
""", w1=(8, 3, 1, 1), i0=[0], i1=[1], i2=[2], i4=[4], two=[2], w2=(3, 8, 1, 1))  # fmt: skip

# ------------------------------------------------------------------------------------------------ dense prediction

case("unet", X, "float[N,2,8,8] y", """
    e1 = Conv<pads=[1,1,1,1]>(x, w1)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(e1)
    e2 = Conv<pads=[1,1,1,1]>(p, w2)
    q = MaxPool<kernel_shape=[2,2], strides=[2,2]>(e2)
    e3 = Conv<pads=[1,1,1,1]>(q, w3)
    u1 = ConvTranspose<strides=[2,2], kernel_shape=[2,2]>(e3, w4, b4)
    c1 = Concat<axis=1>(e2, u1)
    d1 = Conv<pads=[1,1,1,1]>(c1, w5)
    u2 = Resize<mode="nearest">(d1, "", scales)
    c2 = Concat<axis=1>(u2, e1)
    d2 = Conv<pads=[1,1,1,1]>(c2, w6)
    y = Conv(d2, w7)
""", w1=(4, 3, 3, 3), w2=(6, 4, 3, 3), w3=(8, 6, 3, 3), w4=(8, 6, 2, 2), b4=(6,), w5=(6, 12, 3, 3),
    scales=np.asarray([1, 1, 2, 2], np.float32), w6=(4, 10, 3, 3), w7=(2, 4, 1, 1))  # fmt: skip

case("resize_to_sizes", "float[1,3,8,8] x", "float[1,2,16,16] y", """
    a = Conv(x, w1)
    u = Resize<mode="linear">(a, "", "", sizes)
    y = Conv(u, w2)
""", w1=(6, 3, 1, 1), sizes=[1, 6, 16, 16], w2=(2, 6, 1, 1))  # fmt: skip

case("resize_to_dynamic_sizes", "float[N,3,H,W] x", "float[N,2,H2,W2] y", """
    a = Conv<strides=[2,2]>(x, w1)
    s = Shape(a)
    nc = Slice(s, i0, i2)
    t = Shape(x)
    hw = Slice(t, i2, i4)
    sizes = Concat<axis=0>(nc, hw)
    u = Resize<mode="nearest">(a, "", "", sizes)
    y = Conv(u, w2)
""", w1=(6, 3, 1, 1), i0=[0], i2=[2], i4=[4], w2=(2, 6, 1, 1))  # fmt: skip

case("resize_of_spatial_axes", "float[N,3,H,W] x", "float[N,2,H2,W2] y", """
    a = Conv<strides=[2,2]>(x, w1)
    t = Shape(x)
    hw = Slice(t, i2, i4)
    u = Resize<mode="nearest", axes=[2,3]>(a, "", "", hw)
    y = Conv(u, w2)
""", w1=(6, 3, 1, 1), i2=[2], i4=[4], w2=(2, 6, 1, 1), opset=18)  # fmt: skip

case("resize_to_another_number_of_channels", "float[1,3,8,8] x", "float[1,2,8,8] y", """
    a = Conv(x, w1)
    u = Resize<mode="nearest">(a, "", scales)
    y = Conv(u, w2)
""", w1=(6, 3, 1, 1), scales=np.asarray([1, 2, 1, 1], np.float32), w2=(2, 12, 1, 1))  # fmt: skip

case("resize_by_sizes_of_another_layer", "float[N,3,H,W] x", "float[N,2,H2,W2] y", """
    a = Conv<strides=[2,2]>(x, w1)
    b = Conv(x, w2)
    s = Shape(b)
    u = Resize<mode="nearest">(a, "", "", s)
    c = Concat<axis=1>(u, b)
    y = Conv(c, w3)
""", w1=(6, 3, 1, 1), w2=(6, 3, 1, 1), w3=(2, 12, 1, 1))  # fmt: skip

case("pixel_shuffle", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    u = DepthToSpace<blocksize=2, mode="DCR">(a)
    b = Conv(u, w2)
    v = DepthToSpace<blocksize=2, mode="CRD">(b)
    c = Conv(v, w3)
    s = SpaceToDepth<blocksize=4>(c)
    y = ConvTranspose<strides=[1,1]>(s, w4)
""", w1=(12, 3, 1, 1), w2=(20, 3, 1, 1), w3=(4, 5, 1, 1), w4=(64, 2, 1, 1))  # fmt: skip

case("pixel_shuffle_before_a_pointwise_convolution", X, "float[N,2,16,16] y", """
    a = Conv(x, w1)
    r = Reshape(a, apart)
    t = Transpose<perm=[0,1,4,2,5,3]>(r)
    u = Reshape(t, together)
    y = Conv(u, w2)
""", w1=(16, 3, 1, 1), apart=[-1, 4, 2, 2, 8, 8], together=[-1, 4, 16, 16], w2=(2, 4, 1, 1))  # fmt: skip

case("pixel_shuffle_by_reshape", X, "float[N,1,16,16] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    r = Reshape(b, split)
    t = Transpose<perm=[0,1,4,2,5,3]>(r)
    y = Reshape(t, join)
""", w1=(8, 3, 1, 1), w2=(4, 8, 1, 1), split=[-1, 1, 2, 2, 8, 8], join=[-1, 1, 16, 16])  # fmt: skip

case("instance_norm", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    n = InstanceNormalization(a, g, h)
    p = PRelu(n, slope)
    b = Conv(p, w2)
    q = PRelu(b, one)
    y = Conv(q, w3)
""", w1=(6, 3, 1, 1), g=(6,), h=(6,), slope=(6, 1, 1), w2=(4, 6, 1, 1), one=(1,), w3=(2, 4, 1, 1))  # fmt: skip

case("group_norm_by_reshape", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    r = Reshape(a, split)
    n = InstanceNormalization(r, g, h)
    s = Shape(a)
    q = Reshape(n, s)
    m = Mul(q, gamma)
    y = Conv(m, w2)
""", w1=(6, 3, 1, 1), split=[0, 2, -1], g=(2,), h=(2,), gamma=(6, 1, 1), w2=(2, 6, 1, 1))  # fmt: skip

case("group_norm", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    n = GroupNormalization<num_groups=3>(a, g, h)
    r = Relu(n)
    b = Conv(r, w2)
    m = GroupNormalization<num_groups=1>(b, one, zero)
    y = Conv(m, w3)
""", w1=(6, 3, 1, 1), g=(6,), h=(6,), w2=(4, 6, 1, 1), one=(4,), zero=(4,), w3=(2, 4, 1, 1), opset=21)  # fmt: skip

case("group_norm_with_a_scale_from_outside", X + ", float[6] g", "float[N,2,8,8] y", """
    a = Conv(x, w1)
    n = GroupNormalization<num_groups=3>(a, g, h)
    y = Conv(n, w2)
""", w1=(6, 3, 1, 1), h=(6,), w2=(2, 6, 1, 1), opset=21)  # fmt: skip

case("lrn", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    n = LRN<size=3>(b)
    y = Conv(n, w3)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), w3=(2, 4, 1, 1))  # fmt: skip

case("nhwc", "float[N,8,8,3] x", "float[N,8,8,2] y", """
    t = Transpose<perm=[0,3,1,2]>(x)
    p = Pad(t, amounts)
    a = Conv(p, w1, b1)
    r = Relu(a)
    u = Transpose<perm=[0,2,3,1]>(r)
    m = Mul(u, scale)
    n = Add(m, shift)
    v = Transpose<perm=[0,3,1,2]>(n)
    c = Conv(v, w2)
    y = Transpose<perm=[0,2,3,1]>(c)
""", amounts=[0, 0, 1, 1, 0, 0, 1, 1], w1=(6, 3, 3, 3), b1=(6,), scale=(6,), shift=(1, 1, 1, 6),
    w2=(2, 6, 1, 1))  # fmt: skip

case("convnext", X, "float[N,2,8,8] y", """
    s = Conv(x, ws)
    d = Conv<group=6, pads=[1,1,1,1]>(s, wd)
    t = Transpose<perm=[0,2,3,1]>(d)
    n = LayerNormalization(t, g, h)
    a = MatMul(n, w1)
    e = Add(a, b1)
    f = Relu(e)
    b = MatMul(f, w2)
    l = Mul(b, gamma)
    u = Transpose<perm=[0,3,1,2]>(l)
    add = Add(s, u)
    y = Conv(add, w3)
""", ws=(6, 3, 1, 1), wd=(6, 1, 3, 3), g=(6,), h=(6,), w1=(6, 12), b1=(12,), w2=(12, 6), gamma=(6,),
    w3=(2, 6, 1, 1))  # fmt: skip

# ------------------------------------------------------------------------------------------------ transformers

case("attention", "float[N,4,6] x", "float[N,4,3] y", """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k = Transpose<perm=[0,2,3,1]>(k1)
    v = Transpose<perm=[0,2,1,3]>(v1)
    s = MatMul(q, k)
    p = Softmax<axis=-1>(s)
    o = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o)
    o2 = Reshape(o1, join)
    z = MatMul(o2, wo)
    add = Add(x, z)
    n = LayerNormalization(add, g, h)
    f1 = MatMul(n, w1)
    f2 = Relu(f1)
    f3 = MatMul(f2, w2)
    add2 = Add(n, f3)
    y = MatMul(add2, w3)
""", wq=(6, 6), wk=(6, 6), wv=(6, 6), heads=[0, 4, 2, 3], join=[0, 4, 6], wo=(6, 6), g=(6,), h=(6,), w1=(6, 8),
    w2=(8, 6), w3=(6, 3))  # fmt: skip

case("attention_packed", "float[N,S,6] x", "float[N,S,3] y", """
    qkv0 = MatMul(x, w)
    qkv1 = Add(qkv0, b)
    size = Shape(qkv1)
    n0 = Gather(size, zero)
    s0 = Gather(size, one)
    n = Unsqueeze(n0, axis0)
    s = Unsqueeze(s0, axis0)
    heads = Concat<axis=0>(n, s, three, count, width)
    qkv2 = Reshape(qkv1, heads)
    qkv = Transpose<perm=[2,0,3,1,4]>(qkv2)
    q0 = Gather<axis=0>(qkv, zero)
    k0 = Gather<axis=0>(qkv, one)
    v = Gather<axis=0>(qkv, two)
    q = Mul(q0, root)
    k = Transpose<perm=[0,1,3,2]>(k0)
    l = MatMul(q, k)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    join = Concat<axis=0>(n, s, whole)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", w=(6, 24), b=(24,), zero=np.asarray(0), one=np.asarray(1), two=np.asarray(2), axis0=[0], three=[3], count=[4],
    width=[2], root=scalar(0.7), whole=[8], wo=(8, 3))  # fmt: skip

case("attention_packed_by_split", "float[N,4,6] x, float[N,1,4,4] mask", "float[N,4,3] y", """
    qkv = MatMul(x, w)
    q0, k0, v0 = Split<axis=-1>(qkv, parts)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k2 = Transpose<perm=[0,2,1,3]>(k1)
    k = Transpose<perm=[0,1,3,2]>(k2)
    v = Transpose<perm=[0,2,1,3]>(v1)
    l0 = MatMul(q, k)
    l1 = Div(l0, root)
    l2 = Add(l1, mask)
    l = Add(l2, position)
    p = Softmax<axis=3>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", w=(6, 18), parts=[6, 6, 6], heads=[0, 0, 3, 2], root=scalar(1.4), position=(1, 3, 4, 4), join=[0, 0, 6],
    wo=(6, 3))  # fmt: skip

case("attention_unbound", "float[N,4,6] x", "float[N,4,3] y", """
    qkv0 = MatMul(x, w)
    qkv1 = Reshape(qkv0, heads)
    qkv = Transpose<perm=[2,0,3,1,4]>(qkv1)
    q0, k0, v0 = Split<axis=0, num_outputs=3>(qkv)
    q = Squeeze(q0, axis0)
    k1 = Squeeze(k0, axis0)
    k = Transpose<perm=[0,1,3,2]>(k1)
    v = Squeeze(v0, axis0)
    l = MatMul(q, k)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", w=(6, 18), heads=[0, 4, 3, 3, 2], axis0=[0], join=[0, 4, 6], wo=(6, 3), opset=18)  # fmt: skip

case("attention_with_heads_in_the_batch", "float[5,N,6] x", "float[5,N,3] y", """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q = Transpose<perm=[1,0,2]>(q1)
    k = Transpose<perm=[1,2,0]>(k1)
    v = Transpose<perm=[1,0,2]>(v1)
    l = MatMul(q, k)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[1,0,2]>(o0)
    o = Reshape(o1, join)
    z = Gemm<transB=1>(o, wo, bo)
    y = Reshape(z, apart)
""", wq=(6, 8), wk=(6, 8), wv=(6, 8), heads=[5, -1, 2], join=[-1, 8], wo=(3, 8), bo=(3,),
    apart=[5, -1, 3])  # fmt: skip

case("attention_across", "float[N,4,6] x, float[N,5,7] z, float[N,1,1,5] mask", "float[N,4,3] y", """
    q0 = MatMul(x, wq)
    k0 = MatMul(z, wk)
    v0 = MatMul(z, wv)
    q1 = Reshape(q0, queries)
    k1 = Reshape(k0, keys)
    v1 = Reshape(v0, values)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k = Transpose<perm=[0,2,3,1]>(k1)
    v = Transpose<perm=[0,2,1,3]>(v1)
    l0 = MatMul(q, k)
    l = Add(l0, mask)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", wq=(6, 6), wk=(7, 6), wv=(7, 12), queries=[0, 4, 3, 2], keys=[0, 5, 3, 2], values=[0, 5, 3, 4], join=[0, 4, 12],
    wo=(12, 3))  # fmt: skip

ROTARY = """
    {q}a = Mul({q}0, cos)
    {q}l = Slice({q}0, zero, middle, last)
    {q}r = Slice({q}0, middle, end, last)
    {q}n = Neg({q}r)
    {q}t = Concat<axis=-1>({q}n, {q}l)
    {q}b = Mul({q}t, sin)
    {q} = Add({q}a, {q}b)
"""

case("attention_of_grouped_queries", "float[N,4,6] x", "float[N,4,3] y", """
    q_ = MatMul(x, wq)
    k_ = MatMul(x, wk)
    v_ = MatMul(x, wv)
    qh = Reshape(q_, queries)
    kh = Reshape(k_, keys)
    vh = Reshape(v_, keys)
    q0 = Transpose<perm=[0,2,1,3]>(qh)
    k0 = Transpose<perm=[0,2,1,3]>(kh)
    v0 = Transpose<perm=[0,2,1,3]>(vh)
""" + ROTARY.format(q="q") + ROTARY.format(q="k") + """
    ku = Unsqueeze(k, two)
    ke = Expand(ku, repeats)
    km = Reshape(ke, merged)
    kx = Transpose<perm=[0,1,3,2]>(km)
    vu = Unsqueeze(v0, two)
    ve = Expand(vu, repeats)
    v = Reshape(ve, merged)
    l = MatMul(q, kx)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", wq=(6, 24), wk=(6, 12), wv=(6, 12), queries=[0, 4, 6, 4], keys=[0, 4, 3, 4], cos=(1, 1, 4, 4), sin=(1, 1, 4, 4),
    zero=[0], middle=[2], end=[2**63 - 1], last=[-1], two=[2], repeats=[1, 3, 2, 4, 4], merged=[0, 6, 4, 4],
    join=[0, 4, 24], wo=(24, 3))  # fmt: skip

case("einsum_that_makes_no_channels", "float[N,5,6] x", "float[N,5] y", """
    h = MatMul(x, w1)
    r = Relu(h)
    y = Einsum<equation="bsc,cd->bs">(r, w2)
""", w1=(6, 8), w2=(8, 3))  # fmt: skip

case("deformed_in_parts", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    o = Conv(x, w2)
    y = DeformConv<kernel_shape=[1,1], offset_group=2>(a, w3, o)
""", opset=19, w1=(6, 3, 1, 1), w2=(4, 3, 1, 1), w3=(2, 6, 1, 1))  # fmt: skip

case("bias_across_columns_that_pass", "float[4,6] x", "float[3,2] y", """
    h = MatMul(x, w1)
    r = Relu(h)
    g = Gemm(a, r, c)
    y = MatMul(g, w2)
""", w1=(6, 8), a=(3, 4), c=(8,), w2=(8, 2))  # fmt: skip

case("attention_with_computed_angles", "float[N,4,6] x", "float[N,4,3] y", """
    q_ = MatMul(x, wq)
    k_ = MatMul(x, wk)
    v_ = MatMul(x, wv)
    qh = Reshape(q_, queries)
    kh = Reshape(k_, keys)
    vh = Reshape(v_, keys)
    q0 = Transpose<perm=[0,2,1,3]>(qh)
    k0 = Transpose<perm=[0,2,1,3]>(kh)
    v0 = Transpose<perm=[0,2,1,3]>(vh)
    xs = Shape(x)
    count = Gather(xs, first)
    places = Range(none, count, first)
    row = Unsqueeze(places, zero)
    column = Unsqueeze(row, last)
    number = Cast<to=1>(column)
    half = Mul(number, frequencies)
    angle = Concat<axis=-1>(half, half)
    cosine = Cos(angle)
    sine = Sin(angle)
    cos1 = Cast<to=1>(cosine)
    sin1 = Cast<to=1>(sine)
    cos = Unsqueeze(cos1, one)
    sin = Unsqueeze(sin1, one)
""" + ROTARY.format(q="q") + ROTARY.format(q="k") + """
    ks = Shape(k)
    batch = Gather(ks, zero)
    heads = Gather(ks, one)
    steps = Gather(ks, two)
    depth = Gather(ks, three)
    wanted = Concat<axis=0>(batch, heads, three, steps, depth)
    rank = Shape(wanted)
    ones = ConstantOfShape<value = int64[1] {1}>(rank)
    minus = Mul(ones, negative)
    open = Equal(wanted, minus)
    target = Where(open, ones, wanted)
    ku = Unsqueeze(k, two)
    ke = Expand(ku, target)
    all = Mul(heads, three)
    folded = Concat<axis=0>(batch, all, steps, depth)
    km = Reshape(ke, folded)
    kx = Transpose<perm=[0,1,3,2]>(km)
    vu = Unsqueeze(v0, two)
    ve = Expand(vu, target)
    v = Reshape(ve, folded)
    l = MatMul(q, kx)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", wq=(6, 24), wk=(6, 8), wv=(6, 8), queries=[0, 4, 6, 4], keys=[0, 4, 2, 4], frequencies=(2,), first=np.array(1),
    none=np.array(0), zero=[0], one=[1], two=[2], three=[3], negative=np.array(-1), middle=[2], end=[2**63 - 1],
    last=[-1], join=[0, 4, 24], wo=(24, 3))  # fmt: skip

case("attention_of_many_queries", "float[N,4,6] x, float[N,1,4,2] angles", "float[N,4,3] y", """
    q_ = MatMul(x, wq)
    k_ = MatMul(x, wk)
    v_ = MatMul(x, wv)
    q1 = Reshape(q_, heads)
    q0 = Transpose<perm=[0,2,1,3]>(q1)
    turn = Cos(angles)
    q = Mul(turn, q0)
    k1 = Reshape(k_, one)
    k = Transpose<perm=[0,2,3,1]>(k1)
    v1 = Reshape(v_, one)
    v = Transpose<perm=[0,2,1,3]>(v1)
    l = MatMul(q, k)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", wq=(6, 6), wk=(6, 2), wv=(6, 2), heads=[0, 4, 3, 2], one=[0, 4, 1, 2], join=[0, 4, 6], wo=(6, 3))  # fmt: skip

case("attention_of_one_key_expanded", "float[N,4,6] x", "float[N,4,3] y", """
    q_ = MatMul(x, wq)
    k_ = MatMul(x, wk)
    v_ = MatMul(x, wv)
    q1 = Reshape(q_, heads)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k1 = Reshape(k_, one)
    k0 = Transpose<perm=[0,2,1,3]>(k1)
    ku = Unsqueeze(k0, two)
    ke = Expand(ku, copies)
    k = Reshape(ke, merged)
    v1 = Reshape(v_, one)
    v0 = Transpose<perm=[0,2,1,3]>(v1)
    vu = Unsqueeze(v0, two)
    ve = Expand(vu, copies)
    v = Reshape(ve, merged)
    kt = Transpose<perm=[0,1,3,2]>(k)
    l = MatMul(q, kt)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", wq=(6, 6), wk=(6, 2), wv=(6, 2), heads=[0, 4, 3, 2], one=[0, 4, 1, 2], join=[0, 4, 6], wo=(6, 3),
    two=[2], copies=[1, 1, 3, 1, 1], merged=[0, 3, 4, 2])  # fmt: skip

case("attention_of_grouped_queries_with_earlier_keys", """float[N,S,6] x, float[N,2,P,2] past_k,
    float[N,2,P,2] past_v""", "float[N,S,3] y, float[N,2,T,2] present_k, float[N,2,T,2] present_v", """
    q_ = MatMul(x, wq)
    k_ = MatMul(x, wk)
    v_ = MatMul(x, wv)
    q1 = Reshape(q_, heads)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k1 = Reshape(k_, shared)
    k0 = Transpose<perm=[0,2,1,3]>(k1)
    present_k = Concat<axis=2>(past_k, k0)
    ku = Unsqueeze(present_k, two)
    ke = Expand(ku, copies)
    k = Reshape(ke, merged)
    v1 = Reshape(v_, shared)
    v0 = Transpose<perm=[0,2,1,3]>(v1)
    present_v = Concat<axis=2>(past_v, v0)
    vu = Unsqueeze(present_v, two)
    ve = Expand(vu, copies)
    v = Reshape(ve, merged)
    kt = Transpose<perm=[0,1,3,2]>(k)
    l = MatMul(q, kt)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", wq=(6, 12), wk=(6, 4), wv=(6, 4), heads=[0, -1, 6, 2], shared=[0, -1, 2, 2], join=[0, -1, 12], wo=(12, 3),
    two=[2], copies=[1, 1, 3, 1, 1], merged=[0, 6, -1, 2])  # fmt: skip

case("attention_of_one_key_tiled", "float[N,4,6] x", "float[N,4,3] y", """
    q_ = MatMul(x, wq)
    k_ = MatMul(x, wk)
    v_ = MatMul(x, wv)
    q1 = Reshape(q_, heads)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k1 = Reshape(k_, one)
    k0 = Transpose<perm=[0,2,1,3]>(k1)
    k = Tile(k0, copies)
    v1 = Reshape(v_, one)
    v0 = Transpose<perm=[0,2,1,3]>(v1)
    v = Tile(v0, copies)
    kt = Transpose<perm=[0,1,3,2]>(k)
    l = MatMul(q, kt)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", wq=(6, 6), wk=(6, 2), wv=(6, 2), heads=[0, 4, 3, 2], one=[0, 4, 1, 2], join=[0, 4, 6], wo=(6, 3),
    copies=[1, 3, 1, 1])  # fmt: skip

case("attention_of_normalized_queries", "float[N,4,6] x", "float[N,4,3] y", """
    qkv0 = MatMul(x, w)
    qkv1 = Reshape(qkv0, heads)
    qkv = Transpose<perm=[2,0,3,1,4]>(qkv1)
    q0 = Gather<axis=0>(qkv, zero)
    k0 = Gather<axis=0>(qkv, one)
    v = Gather<axis=0>(qkv, two)
    q = LayerNormalization(q0, gamma, beta)
    k1 = ReduceL2<axes=[-1]>(k0)
    k2 = Div(k0, k1)
    k = Transpose<perm=[0,1,3,2]>(k2)
    l0 = MatMul(q, k)
    l = Mul(l0, temperature)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", w=(6, 18), heads=[0, 4, 3, 3, 2], zero=np.asarray(0), one=np.asarray(1), two=np.asarray(2), gamma=(2,), beta=(2,),
    temperature=(3, 1, 1), join=[0, 4, 6], wo=(6, 3))  # fmt: skip

case("attention_of_one_head", "float[N,4,6] x", "float[N,4,3] y", """
    q = MatMul(x, wq)
    k0 = MatMul(x, wk)
    k = Transpose<perm=[0,2,1]>(k0)
    v = MatMul(x, wv)
    l = MatMul(q, k)
    p = Softmax<axis=-1>(l)
    o = MatMul(p, v)
    y = MatMul(o, wo)
""", wq=(6, 5), wk=(6, 5), wv=(6, 8), wo=(8, 3))  # fmt: skip

case("attention_of_one_head_with_filters", X, "float[N,3,8,8] y", """
    q0 = Conv(x, wq)
    q1 = Conv<group=5, pads=[1,1,1,1]>(q0, wd, bd)
    k0 = Conv(x, wk)
    v0 = Conv(x, wv)
    q2 = Reshape(q1, flat)
    q = Transpose<perm=[0,2,1]>(q2)
    k = Reshape(k0, flat)
    v = Reshape(v0, flat)
    l = MatMul(q, k)
    p = Softmax<axis=-1>(l)
    pt = Transpose<perm=[0,2,1]>(p)
    o0 = MatMul(v, pt)
    o1 = Reshape(o0, map)
    o = HardSwish(o1)
    y = Conv(o, wo)
""", wq=(5, 3, 1, 1), wd=(5, 1, 3, 3), bd=(5,), wk=(5, 3, 1, 1), wv=(8, 3, 1, 1), flat=[0, -1, 64], map=[0, -1, 8, 8],
    wo=(3, 8, 1, 1))  # fmt: skip

case("steps_of_a_recurrent_layer", "float[3,N,6] x", "float[N,4] y", """
    x1, x2, x3 = Split<axis=0>(x)
    e1 = Squeeze(x1, zero)
    e2 = Squeeze(x2, zero)
    e3 = Squeeze(x3, zero)
    a1 = MatMul(e1, w)
    h1 = Tanh(a1)
    a2 = MatMul(e2, w)
    b2 = MatMul(h1, u)
    c2 = Add(a2, b2)
    h2 = Tanh(c2)
    a3 = MatMul(e3, w)
    b3 = MatMul(h2, u)
    c3 = Add(a3, b3)
    h3 = Tanh(c3)
    g1 = MatMul(h1, w2)
    k1 = Tanh(g1)
    g2 = MatMul(h2, w2)
    l2 = MatMul(k1, u2)
    m2 = Add(g2, l2)
    k2 = Tanh(m2)
    g3 = MatMul(h3, w2)
    l3 = MatMul(k2, u2)
    m3 = Add(g3, l3)
    k3 = Tanh(m3)
    y0 = MatMul(k3, v)
    y1 = MatMul(h3, v2)
    y = Add(y0, y1)
""", zero=[0], w=(6, 8), u=(8, 8), w2=(8, 5), u2=(5, 5), v=(5, 4), v2=(8, 4))  # fmt: skip

case("residual_of_one_block_in_two_places", "float[N,6] x", "float[N,4] y", """
    s0 = MatMul(x, w0)
    a1 = MatMul(s0, w1)
    r1 = Relu(a1)
    b1 = MatMul(r1, w2)
    s1 = Add(s0, b1)
    a2 = MatMul(s1, w1)
    r2 = Relu(a2)
    b2 = MatMul(r2, w2)
    s2 = Add(s1, b2)
    y = MatMul(s2, w3)
""", w0=(6, 8), w1=(8, 5), w2=(5, 8), w3=(8, 4))  # fmt: skip

case("grouped_by_heads", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    a1 = Reshape(a, heads)
    a2 = Softmax<axis=2>(a1)
    a3 = Reshape(a2, map)
    g = Conv<group=3, pads=[1,1,1,1]>(a3, wg, bg)
    g1 = Reshape(g, heads)
    g2 = Softmax<axis=2>(g1)
    g3 = Reshape(g2, map)
    t = ConvTranspose<group=3>(g3, wt)
    t1 = Reshape(t, halves)
    t2 = Softmax<axis=2>(t1)
    t3 = Reshape(t2, less)
    y = Conv(t3, w2)
""", w1=(12, 3, 1, 1), wg=(12, 4, 3, 3), bg=(12,), wt=(12, 2, 1, 1), w2=(2, 6, 1, 1), heads=[0, 3, 4, -1],
    map=[0, 12, 8, 8], halves=[0, 3, 2, -1], less=[0, 6, 8, 8])  # fmt: skip

case("attention_divided_by_what_ones_add_up_to", "float[N,4,6] x", "float[N,4,3] y", """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q2 = Transpose<perm=[0,2,1,3]>(q1)
    k2 = Transpose<perm=[0,2,3,1]>(k1)
    v2 = Transpose<perm=[0,2,1,3]>(v1)
    q = Relu(q2)
    k = Relu(k2)
    v = Pad(v2, pads, one)
    kv = MatMul(k, v)
    o0 = MatMul(q, kv)
    o1 = Slice(o0, zero, two, last)
    o2 = Slice(o0, two, three, last)
    o3 = Add(o2, one)
    o4 = Div(o1, o3)
    o5 = Transpose<perm=[0,2,1,3]>(o4)
    o = Reshape(o5, join)
    y = MatMul(o, wo)
""", wq=(6, 6), wk=(6, 6), wv=(6, 6), heads=[0, 4, 3, 2], pads=[0, 0, 0, 0, 0, 0, 0, 1], one=scalar(1), zero=[0],
    two=[2], three=[3], last=[-1], join=[0, 4, 6], wo=(6, 3))  # fmt: skip

case("slices_scattered", "float[1,3,8,8] x", "float[1,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(x, w2)
    at = Transpose<perm=[2,0,1,3]>(a)
    bt = Transpose<perm=[2,0,1,3]>(b)
    some = GatherND(bt, rows)
    s = ScatterND(at, places, some)
    f = ScatterND(base, places, some)
    z = Add(s, f)
    c = Transpose<perm=[1,2,0,3]>(z)
    y = Conv(c, w3)
""", w1=(6, 3, 1, 1), w2=(6, 3, 1, 1), rows=np.asarray([[0], [4], [4]]), places=np.asarray([[7], [2], [0]]),
    base=(8, 1, 6, 8), w3=(2, 6, 1, 1))  # fmt: skip

case("graph_by_its_edges", "float[7,5] x, int64[4] start, int64[4,1] end", "float[7,3] y", """
    a = MatMul(x, w1)
    g = Gather(a, start)
    size = Shape(g)
    places = Expand(end, size)
    sizes = Shape(a)
    zeros = ConstantOfShape(sizes)
    s = ScatterElements<axis=0, reduction="add">(zeros, places, g)
    r = Relu(s)
    b = MatMul(r, w2)
    h = Gather(b, start)
    wide = Expand(end, as_wide)
    t = ScatterElements<axis=0, reduction="add">(base, wide, h)
    u = ScatterElements<axis=0>(t, listed, b)
    y = MatMul(u, w3)
""", w1=(5, 8), w2=(8, 6), w3=(6, 3), as_wide=[4, 6], base=(7, 6),
    listed=np.arange(42).reshape(7, 6) * 5 % 7)  # fmt: skip

case("numbers_of_neighbours", "float[7,5] x, int64[9] end", "float[7,3] y", """
    a = MatMul(x, w1)
    sums = ScatterElements<axis=0, reduction="add">(none, end, ones)
    count = Reshape(sums, column)
    wide = Expand(count, as_wide)
    m = Mul(a, wide)
    b = MatMul(m, w2)
    twice = Tile(count, times)
    p = Add(b, twice)
    y = MatMul(p, w3)
""", w1=(5, 8), none=(7,), ones=(9,), column=[-1, 1], as_wide=[1, 8], w2=(8, 6),
    times=[1, 6], w3=(6, 3))  # fmt: skip

case("elements_gathered", "float[N,3,5] x, int64[N,2] index", "float[N,3] y", """
    a = MatMul(x, w1)
    column = Unsqueeze(index, last)
    wide = Expand(column, as_wide)
    e = GatherElements<axis=1>(a, wide)
    t = Transpose<perm=[0,2,1]>(a)
    row = Unsqueeze(index, middle)
    size = Shape(t)
    three = Slice(size, from1, from2)
    others = Concat<axis=0>(middle, three, middle)
    tall = Expand(row, others)
    f = GatherElements<axis=2>(t, tall)
    back = Transpose<perm=[0,2,1]>(f)
    s = Add(e, back)
    m = ReduceMean<axes=[1], keepdims=0>(s)
    y = MatMul(m, w2)
""", w1=(5, 8), w2=(8, 3), last=[2], as_wide=[1, 1, 8], middle=[1], from1=[1], from2=[2])  # fmt: skip

case("elements_of_channels_gathered", "float[3,6] x, int64[3,4] index, int64[1,7] place", "float[3,3] y", """
    a = MatMul(x, w1)
    e = GatherElements<axis=1>(a, index)
    b = MatMul(e, w2)
    c = MatMul(x, w3)
    one = GatherElements(c, part)
    d = MatMul(one, w4)
    k = MatMul(x, w5)
    named = GatherElements(k, place)
    f = ScatterElements<axis=0>(k, place, named)
    g = MatMul(f, w6)
    y = Sum(b, d, g)
""", w1=(6, 8), w2=(4, 3), w3=(6, 7), part=np.asarray([[0, 1, 0, 1], [1, 1, 0, 0], [2] * 4]), w4=(4, 3), w5=(6, 7),
    w6=(7, 3))  # fmt: skip

case("stack_of_matrices_behind_what_mixes", "float[N,6,8] x", "float[N,6,3] y", """
    a = MatMul(x, phi)
    across = Softmax<axis=1>(a)
    within = Softmax<axis=2>(a)
    t = Transpose<perm=[0,2,1]>(across)
    s = MatMul(t, x)
    slots = Reshape(s, apart)
    b = MatMul(slots, w1)
    c = Relu(b)
    e = Einsum<equation="nesd,edh->nesh">(c, w2)
    joined = Reshape(e, together)
    z = MatMul(within, joined)
    y = MatMul(z, w3)
""", phi=(8, 4), apart=[0, 2, 2, 8], w1=(2, 8, 10), w2=(2, 10, 7), together=[0, 4, 7], w3=(7, 3))  # fmt: skip

case("slices_of_channels_picked", "float[1,3,8,8] x", "float[1,2,8,8] y", """
    a = Conv(x, w1)
    at = Transpose<perm=[1,0,2,3]>(a)
    g = GatherND(at, rows)
    c = Transpose<perm=[1,0,2,3]>(g)
    y = Conv(c, w3)
""", w1=(6, 3, 1, 1), rows=np.asarray([[0], [4], [4]]), w3=(2, 3, 1, 1))  # fmt: skip

case("slices_of_channels_scattered", "float[1,3,8,8] x", "float[1,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(x, w2)
    s = ScatterND(a, places, b)
    r = Relu(s)
    g = GatherND(r, all)
    y = Conv(g, w3)
""", w1=(6, 3, 1, 1), w2=(2, 3, 1, 1), places=np.asarray([[[0, 3], [0, 5]]]),
    all=np.asarray([[[0, i] for i in (5, 4, 3, 2, 1, 0)]]), w3=(2, 6, 1, 1))  # fmt: skip

case("gathered_in_batches", "float[2,4,6] x", "float[2,3] y", """
    a = MatMul(x, w1)
    r = Relu(a)
    g = GatherND<batch_dims=1>(r, at)
    y = MatMul(g, w2)
""", w1=(6, 8), at=np.asarray([[1], [3]]), w2=(8, 3))  # fmt: skip

case("heads_beside_a_stack", "float[1,4,6] x", "float[1,4,3] y", """
    q = MatMul(x, wq)
    t = Reshape(q, apart)
    s = MatMul(t, matrices)
    r = Reshape(s, join)
    y = MatMul(r, wo)
""", wq=(6, 6), apart=[4, 3, 2], matrices=(4, 2, 5), join=[1, 4, 15], wo=(15, 3))  # fmt: skip

case("experts", "float[N,6] x", "float[N,3] y", """
    g = MatMul(x, wg)
    e = ArgMax<axis=1, keepdims=0>(g)
    u = Gather(up, e)
    x1 = Unsqueeze(x, last)
    h1 = MatMul(u, x1)
    h = Relu(h1)
    d = Gather(down, e)
    o = MatMul(d, h)
    r = Squeeze(o, last)
    e1 = Unsqueeze(e, last)
    s = GatherND(side, e1)
    r1 = Unsqueeze(r, middle)
    t = MatMul(r1, s)
    c = Squeeze(t, middle)
    y = MatMul(c, wy)
""", wg=(6, 4), up=(4, 8, 6), down=(4, 5, 8), side=(4, 5, 7), last=[-1], middle=[1], wy=(7, 3))  # fmt: skip

case("experts_that_a_number_of_channels_chooses", "float[N,4] x", "float[N,3] y", """
    a = MatMul(x, w1)
    n = Shape<start=1>(a)
    i = Sub(n, four)
    u = Gather(up, i)
    b = MatMul(a, u)
    c = Squeeze(b, first)
    r = Relu(c)
    d = MatMul(r, w2)
    m = Shape<start=1>(d)
    j = Sub(m, four)
    j1 = Unsqueeze(j, first)
    s = GatherND(side, j1)
    e = MatMul(d, s)
    f = Squeeze(e, first)
    y = MatMul(f, wy)
""", w1=(4, 6), four=[4], up=(3, 6, 8), first=[0], w2=(8, 5), side=(3, 5, 7), wy=(7, 3))  # fmt: skip

case("places_that_a_number_of_channels_names", "float[N,4] x", "float[N,3] y", """
    a = MatMul(x, w1)
    n = Shape<start=1>(a)
    i = Sub(n, five)
    i1 = Unsqueeze(i, first)
    row = GatherND(table, i1)
    d = MatMul(a, w2)
    m = Shape<start=1>(d)
    j = Sub(m, five)
    j1 = Unsqueeze(j, first)
    e = MatMul(x, w3)
    t = MatMul(x, w6)
    q = Shape<start=1>(t)
    p = Sub(q, eight)
    p1 = Unsqueeze(p, first)
    u = ScatterND(e, p1, fill)
    s = GatherND(u, j1)
    g = MatMul(s, w4)
    h = MatMul(d, w5)
    k = Mul(h, row)
    l = MatMul(t, w7)
    o = Add(k, l)
    y = Add(o, g)
""", w1=(4, 6), five=[5], first=[0], table=(3, 3), w2=(6, 5), w3=(4, 7), w4=(7, 3), w5=(5, 3), w6=(4, 8),
    eight=[8], fill=(1, 7), w7=(8, 3))  # fmt: skip

ASSIGNED = """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k = Transpose<perm=[0,2,3,1]>(k1)
    v = Transpose<perm=[0,2,1,3]>(v1)
    l = MatMul(q, k)
    ls = Shape(l)
    n0 = Gather(ls, i0)
    n1 = Gather(ls, i1)
    n2 = Gather(ls, i2)
    r0 = Range(i0, n0, i1)
    r1 = Range({start}, n1, i1)
    r2 = Range(i0, n2, i1)
    rows = Slice(r2, one, end)
    g0 = Reshape(r0, to0)
    g1 = Reshape(r1, to1)
    g2 = Reshape(rows, to2)
    b0 = Add(g0, g1)
    b1 = Add(b0, g2)
    b2 = Add(b1, rows)
    size = Shape(b2)
    e0 = Expand(g0, size)
    e1 = Expand(g1, size)
    e2 = Expand(g2, size)
    e3 = Expand(rows, size)
    u0 = Unsqueeze(e0, last)
    u1 = Unsqueeze(e1, last)
    u2 = Unsqueeze(e2, last)
    u3 = Unsqueeze(e3, last)
    at = Concat<axis=-1>(u0, u1, u2, u3)
    some = Slice(l, from, to, inner)
    more = Relu(some)
    s = ScatterND(l, at, more)
    p = Softmax<axis=-1>(s)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
"""

INDICES = {
    "wq": (6, 6),
    "wk": (6, 6),
    "wv": (6, 6),
    "heads": [0, 4, 3, 2],
    "join": [0, 4, 6],
    "wo": (6, 3),
    **{f"i{n}": np.asarray(n) for n in range(3)},
    "one": [1],
    "end": [2**63 - 1],
    "to0": [-1, 1, 1, 1],
    "to1": [-1, 1, 1],
    "to2": [-1, 1],
    "last": [4],
    "from": [1, 1],
    "to": [4, 4],
    "inner": [2, 3],
}

case("slices_of_heads_assigned", "float[N,4,6] x", "float[N,4,3] y", ASSIGNED.format(start="i0"), **INDICES)

case("slices_of_other_heads_assigned", "float[N,4,6] x", "float[N,4,3] y",
     ASSIGNED.format(start="i1").replace("Slice(l, from, to, inner)", "Slice(l, first, to2d, outer)"),
     first=[1, 1, 1], to2d=[3, 4, 4], outer=[1, 2, 3], **INDICES)  # fmt: skip


def numbered(k: int, count: str, data: str, updates: str) -> str:
    """Text of a graph in which `updates` [T - 1, C] take the place of `data` [1, T, C] but for the first row.

    C is given as `count`, T is that of x.
    """
    return f"""
    t{k}0 = Shape<start=1, end=2>(x)
    t{k} = Squeeze(t{k}0)
    q{k} = Range(i1, t{k}, i1)
    rows{k} = Reshape(q{k}, apart)
    n{k} = Squeeze({count})
    r{k} = Range(i0, n{k}, i1)
    p{k} = Add(rows{k}, r{k})
    size{k} = Shape(p{k})
    e{k}0 = Expand(i0, size{k})
    e{k}1 = Expand(rows{k}, size{k})
    e{k}2 = Expand(r{k}, size{k})
    u{k}0 = Unsqueeze(e{k}0, last)
    u{k}1 = Unsqueeze(e{k}1, last)
    u{k}2 = Unsqueeze(e{k}2, last)
    at{k} = Concat<axis=-1>(u{k}0, u{k}1, u{k}2)
    s{k} = ScatterND({data}, at{k}, {updates})
"""


PLACES = {"i0": np.asarray(0), "i1": np.asarray(1), "apart": [-1, 1], "last": [-1], "zero": [0], "one": [1],
          "end": [2**63 - 1]}  # fmt: skip

case("slices_numbered_by_another_layer", "float[1,T,6] x", "float[1,T,5] y, float[1,T,2] z", f"""
    a = MatMul(x, wa)
    b = MatMul(x, wb)
    c0 = MatMul(x, wc)
    c1 = Slice(c0, one, end, one)
    c = Squeeze(c1, zero)
    n = Shape<start=2>(b)
    {numbered(0, "n", "a", "c")}
    r = Relu(s0)
    y = MatMul(r, w1)
    z = MatMul(b, w2)
""", wa=(6, 4), wb=(6, 4), wc=(6, 4), w1=(4, 5), w2=(4, 2), **PLACES)  # fmt: skip

case("slices_numbered_by_heads", "float[1,T,6] x", "float[1,T,5] y, float[1,T,2] z", f"""
    a = MatMul(x, wa)
    b = MatMul(x, wb)
    c0 = MatMul(x, wc)
    c1 = Slice(c0, one, end, one)
    c = Squeeze(c1, zero)
    d = MatMul(x, wd)
    h = Reshape(d, heads)
    o = Gather<axis=3>(h, order)
    n = Shape<start=2, end=3>(h)
    m = Shape<start=2, end=3>(o)
    {numbered(0, "n", "a", "c")}
    {numbered(1, "m", "b", "c")}
    r = Concat<axis=-1>(s0, s1)
    y = MatMul(r, w1)
    j = Reshape(h, join)
    z = MatMul(j, w2)
""", wa=(6, 3), wb=(6, 3), wc=(6, 3), wd=(6, 12), heads=[0, 0, 3, 4], order=[2, 3, 0, 1], join=[0, 0, -1],
    w1=(6, 5), w2=(12, 2), **PLACES)  # fmt: skip

case("diagonal_added", "float[N,6] x", "float[N,3] y", """
    a = MatMul(x, w1)
    e = EyeLike(a)
    z = Add(a, e)
    b = MatMul(z, w2)
    r = Relu(b)
    y = MatMul(r, w3)
""", w1=(6, 8), w2=(8, 5), w3=(5, 3))  # fmt: skip

case("attention_over_space", X, "float[N,3,8,8] y", """
    q0 = Conv(x, wq)
    k0 = Conv(x, wk)
    v0 = Conv(x, wv)
    q1 = Reshape(q0, flat)
    q = Transpose<perm=[0,2,1]>(q1)
    k = Reshape(k0, flat)
    v = Reshape(v0, flat)
    l = MatMul(q, k)
    p0 = Softmax<axis=-1>(l)
    p = Transpose<perm=[0,2,1]>(p0)
    o = MatMul(v, p)
    o1 = Reshape(o, apart)
    y = Conv(o1, wo)
""", wq=(4, 3, 1, 1), wk=(4, 3, 1, 1), wv=(6, 3, 1, 1), flat=[0, 0, -1], apart=[0, 0, 8, 8],
    wo=(3, 6, 1, 1))  # fmt: skip

case("attention_without_softmax", "float[N,4,6] x", "float[N,4,3] y", """
    qkv0 = MatMul(x, w)
    qkv1 = Reshape(qkv0, heads)
    qkv = Transpose<perm=[0,2,3,1]>(qkv1)
    q0, k0, v = Split<axis=2>(qkv, parts)
    q1 = Transpose<perm=[0,1,3,2]>(q0)
    q = Relu(q1)
    k1 = Transpose<perm=[0,1,3,2]>(k0)
    k = Relu(k1)
    vk = MatMul(v, k)
    qt = Transpose<perm=[0,1,3,2]>(q)
    o0 = MatMul(vk, qt)
    o1 = Reshape(o0, join)
    o = Transpose<perm=[0,2,1]>(o1)
    y = MatMul(o, wo)
""", w=(6, 18), heads=[0, 4, 3, 6], parts=[2, 2, 2], join=[0, 6, 4], wo=(6, 3))  # fmt: skip

case("attention_of_given_weights", "float[N,4,6] x, float[N,5,4,4] z", "float[N,4,3] y", """
    p = Conv(z, wp)
    v0 = MatMul(x, wv)
    v1 = Reshape(v0, heads)
    v = Transpose<perm=[0,2,1,3]>(v1)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", wp=(3, 5, 1, 1), wv=(6, 6), heads=[0, 4, 3, 2], join=[0, 4, 6], wo=(6, 3))  # fmt: skip

case("every_head_through_the_same_matrix", "float[N,4,6] x", "float[N,4,3] y", """
    a = MatMul(x, w1)
    h = Reshape(a, heads)
    b = MatMul(h, w2)
    o = Reshape(b, join)
    y = MatMul(o, w3)
""", w1=(6, 8), heads=[0, 4, 4, 2], w2=(2, 3), join=[0, 4, 12], w3=(12, 3))  # fmt: skip

case("attention_of_channels", "float[N,4,6] x", "float[N,4,3] y", """
    qkv0 = MatMul(x, w)
    qkv1 = Reshape(qkv0, heads)
    qkv = Transpose<perm=[2,0,3,4,1]>(qkv1)
    q = Gather<axis=0>(qkv, zero)
    k0 = Gather<axis=0>(qkv, one)
    k = Transpose<perm=[0,1,3,2]>(k0)
    v = Gather<axis=0>(qkv, two)
    l = MatMul(q, k)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,3,1,2]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", w=(6, 18), heads=[0, 4, 3, 3, 2], zero=np.asarray(0), one=np.asarray(1), two=np.asarray(2), join=[0, 4, 6],
    wo=(6, 3))  # fmt: skip

case("attention_scaled_by_a_size", "float[N,4,6] x", "float[N,4,3] y", """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q2 = Transpose<perm=[0,2,1,3]>(q1)
    k = Transpose<perm=[0,2,3,1]>(k1)
    v = Transpose<perm=[0,2,1,3]>(v1)
    size = Shape(q2)
    dims = Gather(size, last)
    d = Cast<to=1>(dims)
    root = Sqrt(d)
    q = Div(q2, root)
    l = MatMul(q, k)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", wq=(6, 8), wk=(6, 8), wv=(6, 8), heads=[0, 4, 2, 4], last=np.asarray(-1), join=[0, 4, 8], wo=(8, 3))  # fmt: skip

case("attention_of_shared_keys", "float[N,4,6] x", "float[N,4,3] y", """
    q0 = MatMul(x, wq)
    k_ = MatMul(x, wk)
    k0 = Add(k_, bk)
    v_ = MatMul(x, wv)
    v0 = Add(bv, v_)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, one)
    v1 = Reshape(v0, one)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k = Transpose<perm=[0,2,3,1]>(k1)
    v = Transpose<perm=[0,2,1,3]>(v1)
    l = MatMul(q, k)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", wq=(6, 9), wk=(6, 3), bk=(3,), wv=(6, 3), bv=(3,), heads=[0, 4, 3, 3], one=[0, 4, 1, 3], join=[0, 4, 9],
    wo=(9, 3))  # fmt: skip

case("attention_with_a_key_of_its_own", "float[1,4,6] x", "float[1,4,3] y", """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    ke = Concat<axis=1>(k0, token)
    v0 = MatMul(x, wv)
    ve = Concat<axis=1>(v0, nothing)
    q1 = Reshape(q0, queries)
    k1 = Reshape(ke, keys)
    v1 = Reshape(ve, keys)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k = Transpose<perm=[0,2,3,1]>(k1)
    v = Transpose<perm=[0,2,1,3]>(v1)
    l = MatMul(q, k)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", wq=(6, 6), wk=(6, 6), wv=(6, 6), token=(1, 1, 6), nothing=(1, 1, 6), queries=[0, 4, 2, 3], keys=[0, 5, 2, 3],
    join=[0, 4, 6], wo=(6, 3))  # fmt: skip

case("attention_of_what_was_rectified", "float[N,4,6] x", "float[N,4,3] y", """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k = Transpose<perm=[0,2,3,1]>(k1)
    v2 = Transpose<perm=[0,2,1,3]>(v1)
    v = Relu(v2)
    l = MatMul(q, k)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o2 = Reshape(o1, join)
    o = Add(o2, shift)
    y = MatMul(o, wo)
""", wq=(6, 6), wk=(6, 6), wv=(6, 6), heads=[0, 4, 2, 3], shift=(6,), join=[0, 4, 6], wo=(6, 3))  # fmt: skip

case("attention_that_is_an_output", "float[N,4,6] x", "float[N,4,3] y, float[N,3,4,4] p", """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k = Transpose<perm=[0,2,3,1]>(k1)
    v = Transpose<perm=[0,2,1,3]>(v1)
    l = MatMul(q, k)
    p = Softmax<axis=-1>(l)
    o0 = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    y = MatMul(o, wo)
""", wq=(6, 6), wk=(6, 6), wv=(6, 6), heads=[0, 4, 3, 2], join=[0, 4, 6], wo=(6, 3))  # fmt: skip

case("products_of_embeddings", "float[N,5] x, int64[N,2] ids", "float[N,1] y", """
    a = Gemm(x, w1)
    r = Relu(a)
    own = Unsqueeze(r, middle)
    looked = Gather(table, ids)
    all = Concat<axis=1>(own, looked)
    turned = Transpose<perm=[0,2,1]>(all)
    products = MatMul(all, turned)
    flat = Reshape(products, nine)
    joined = Concat<axis=1>(r, flat)
    y = Gemm(joined, w2)
""", w1=(5, 8), middle=[1], table=(4, 8), nine=[0, 9], w2=(17, 1))  # fmt: skip

case("products_of_activations", "float[4,6] x, float[5] z", "float[4,3] y, float[8,8] t, float[4] u", """
    a = Gemm(x, wa)
    b = Gemm(x, wb)
    t = Gemm<transA=1>(a, b)
    c = Gemm(x, wc)
    d = Gemm(x, wd)
    f = MatMul(c, d)
    g = Gemm(x, wg)
    h = Gemm(x, wh)
    i = Gemm<transB=1>(g, h, one)
    j = MatMul(i, f)
    u = MatMul(j, z)
    k = Gemm(i, f)
    y = Gemm(k, wy)
""", wa=(6, 8), wb=(6, 8), wc=(6, 4), wd=(6, 5), wg=(6, 5), wh=(6, 5), one=scalar(1), wy=(5, 3))  # fmt: skip

case("product_by_a_single_column", "float[4,6] x", "float[4,3] y", """
    a = Gemm(x, wa)
    b = Gemm(x, wb)
    t = Transpose(b)
    c = MatMul(a, t)
    r = Relu(c)
    d = Gemm(x, wd)
    e = MatMul(r, d)
    y = Gemm(e, wy)
""", wa=(6, 1), wb=(6, 1), wd=(6, 5), wy=(5, 3))  # fmt: skip

case("attention_in_one_node", "float[N,4,6] x, float[1,4,4] mask", "float[N,4,3] y", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    a = Attention<q_num_heads=6, kv_num_heads=3>(q, k, v, mask)
    y = MatMul(a, wo)
""", wq=(6, 12), wk=(6, 6), wv=(6, 9), wo=(18, 3), opset=23, ir=10)  # fmt: skip

case("attention_in_one_node_by_heads", "float[N,4,6] x", "float[N,4,3] y", """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, one)
    v1 = Reshape(v0, one)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k = Transpose<perm=[0,2,1,3]>(k1)
    v = Transpose<perm=[0,2,1,3]>(v1)
    a0 = Attention(q, k, v, bias)
    a1 = Transpose<perm=[0,2,1,3]>(a0)
    a = Reshape(a1, join)
    y = MatMul(a, wo)
""", wq=(6, 6), wk=(6, 2), wv=(6, 4), heads=[0, 4, 3, 2], one=[0, 4, 1, -1], bias=(3, 4, 4), join=[0, 4, 12],
    wo=(12, 3), opset=23, ir=10)  # fmt: skip

case("attention_in_one_node_with_a_mask_for_each_head", "float[N,4,6] x, float[N,2,4,4] p", "float[N,4,3] y", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    m = Conv(p, wm)
    a = Attention<q_num_heads=3, kv_num_heads=3>(q, k, v, m)
    y = MatMul(a, wo)
""", wq=(6, 6), wk=(6, 6), wv=(6, 9), wm=(3, 2, 1, 1), wo=(9, 3), opset=23, ir=10)  # fmt: skip

case("attention_in_one_node_with_a_computed_mask", "float[N,4,6] x, float[4,5] p", "float[N,4,3] y", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    m = MatMul(p, wm)
    a = Attention<q_num_heads=3, kv_num_heads=3>(q, k, v, m)
    y = MatMul(a, wo)
""", wq=(6, 6), wk=(6, 6), wv=(6, 9), wm=(5, 4), wo=(9, 3), opset=23, ir=10)  # fmt: skip

case("attention_with_a_past", "float[N,4,6] x, float[N,3,5,2] pk, float[N,3,5,2] pv",
    "float[N,4,3] y, float[N,3,9,2] k1, float[N,3,9,2] v1", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    a, k1, v1 = Attention<q_num_heads=3, kv_num_heads=3>(q, k, v, "", pk, pv)
    y = MatMul(a, wo)
""", wq=(6, 6), wk=(6, 6), wv=(6, 6), wo=(6, 3), opset=23, ir=10)  # fmt: skip

case("attention_with_a_computed_past", "float[N,4,6] x, float[N,5,6] z", "float[N,4,3] y", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    pk0 = MatMul(z, wpk)
    pk1 = Reshape(pk0, heads)
    pk = Transpose<perm=[0,2,1,3]>(pk1)
    pv0 = MatMul(z, wpv)
    pv1 = Reshape(pv0, heads)
    pv = Transpose<perm=[0,2,1,3]>(pv1)
    a, k1, v1 = Attention<q_num_heads=3, kv_num_heads=3>(q, k, v, "", pk, pv)
    y = MatMul(a, wo)
""", wq=(6, 6), wk=(6, 6), wv=(6, 6), wpk=(6, 6), wpv=(6, 6), heads=[0, 5, 3, 2], wo=(6, 3), opset=23,
    ir=10)  # fmt: skip

case("attention_in_one_node_of_shared_keys", "float[N,4,6] x", "float[N,4,3] y", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    a = Attention<q_num_heads=3, kv_num_heads=1>(q, k, v)
    y = MatMul(a, wo)
""", wq=(6, 6), wk=(6, 2), wv=(6, 2), wo=(6, 3), opset=23, ir=10)  # fmt: skip

case("attention_in_one_node_to_words", "float[1,4,6] x", "float[1,4,3] y, float[1,5,6] u", """
    q0 = MatMul(x, wq)
    q1 = Reshape(q0, heads)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k0 = MatMul(x, wk)
    k1 = Reshape(k0, heads)
    k = Transpose<perm=[0,2,1,3]>(k1)
    z = MatMul(words, x)
    v0 = Reshape(z, heads)
    v = Transpose<perm=[0,2,1,3]>(v0)
    a0 = Attention(q, k, v)
    a1 = Transpose<perm=[0,2,1,3]>(a0)
    a = Reshape(a1, join)
    y = MatMul(a, wo)
    u = MatMul(mix, z)
""", wq=(6, 6), wk=(6, 6), heads=[0, 4, 3, 2], words=(4, 4), join=[0, 4, 6], wo=(6, 3), mix=(5, 4), opset=23,
    ir=10)  # fmt: skip

case("normalization_with_a_shortcut", "float[N,4,6] x", "float[N,4,3] y", """
    a = MatMul(x, w1)
    b = MatMul(x, w2)
    n, "", "", s = com.microsoft.SkipLayerNormalization(a, b, gamma, beta, bias)
    c = MatMul(n, w3)
    g = com.microsoft.BiasGelu(c, b3)
    d = MatMul(g, w4)
    t, "", "", u = com.microsoft.SkipSimplifiedLayerNormalization(d, s, gamma)
    e = Add(t, u)
    y = MatMul(e, w5)
""", w1=(6, 8), w2=(6, 8), gamma=(8,), beta=(8,), bias=(8,), w3=(8, 10), b3=(10,), w4=(10, 8), w5=(8, 3))  # fmt: skip

# ------------------------------------------------------------------------------------------------ merged by onnxruntime

case("fused_convolutions", X, "float[N,2,8,8] y", """
    a = com.microsoft.FusedConv<activation="Relu", pads=[1,1,1,1]>(x, w1, b1)
    b = com.microsoft.FusedConv<activation="LeakyRelu", activation_params=[0.2]>(a, w2)
    c = com.microsoft.FusedConv<activation="Clip", activation_params=[-0.5,1.0]>(b, w3, b3)
    d = com.microsoft.FusedConv<activation="HardSigmoid", activation_params=[0.3,0.4], group=6>(c, w4, b3)
    e = com.microsoft.FusedConv<activation="Relu", pads=[1,1,1,1]>(d, w5, b1, a)
    f = com.microsoft.FusedConv<activation="Tanh">(e, w6, "", e)
    g = com.microsoft.FusedConv(f, w2)
    y = com.microsoft.FusedConv<activation="Sigmoid">(g, w7)
""", w1=(8, 3, 3, 3), b1=(8,), w2=(5, 8, 1, 1), w3=(6, 5, 1, 1), b3=(6,), w4=(6, 1, 1, 1), w5=(8, 6, 3, 3),
    w6=(8, 8, 1, 1), w7=(2, 5, 1, 1))  # fmt: skip

case("fused_convolutions_of_an_old_opset", X, "float[N,2,8,8] y", """
    a = com.microsoft.FusedConv<activation="Clip", activation_params=[0.0,1.0]>(x, w1)
    y = Conv(a, w2)
""", w1=(6, 3, 1, 1), w2=(2, 6, 1, 1), opset=9, ir=6)  # fmt: skip

case("fused_activation_of_another_kind", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = com.microsoft.FusedConv<activation="Cosine">(a, w2)
    y = Conv(b, w3)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), w3=(2, 4, 1, 1), runs=False)  # fmt: skip

case("convolution_on_blocks_of_channels", X, "float[N,4,8,8] y", """
    a = Conv(x, w1)
    r = com.microsoft.nchwc.ReorderInput(a)
    c = com.microsoft.nchwc.Conv<activation="Relu">(r, w2)
    b = com.microsoft.nchwc.ReorderOutput<channels=8>(c)
    y = Conv(b, w3)
""", w1=(8, 3, 1, 1), w2=(8, 8, 1, 1), w3=(4, 8, 1, 1), runs=False)  # fmt: skip

case("images_with_channels_last", "float[N,4,4,3] x", "float[N,4,4,2] y", """
    a = com.microsoft.NhwcConv<pads=[1,1,1,1]>(x, w1, b1)
    s = com.microsoft.NhwcFusedConv<activation="Relu">(x, w2, "", a)
    f = com.microsoft.NhwcConv<group=8>(a, w3)
    n, q = com.microsoft.SkipGroupNorm<groups=2, epsilon=1.0e-5, activation=1>(f, g, b, s, b1)
    z = Add(n, q)
    c = com.microsoft.NhwcConv(z, w4)
    m = com.microsoft.GroupNorm<groups=3, epsilon=1.0e-5, activation=0>(c, h, h)
    y = com.microsoft.NhwcConv(m, w5)
""", w1=(8, 3, 3, 3), b1=(8,), w2=(8, 1, 1, 3), w3=(8, 1, 1, 1), g=(8,), b=(8,), w4=(6, 1, 1, 8), h=(6,),
    w5=(2, 1, 1, 6), runs=False)  # fmt: skip

case("norm_groups_with_channels_first", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    m = GlobalAveragePool(x)
    f = Flatten(m)
    t = Gemm(f, w2)
    n = com.microsoft.SkipGroupNorm<groups=2, channels_last=0, activation=1>(a, g, g, t)
    y = Conv(n, w3)
""", w1=(8, 3, 1, 1), w2=(3, 8), g=(8,), w3=(2, 8, 1, 1), runs=False)  # fmt: skip

case("sums_and_gates_with_a_bias", "float[N,4,6] x", "float[N,4,3] y", """
    a = MatMul(x, w1)
    b = MatMul(x, w2)
    c = com.microsoft.BiasAdd(a, b1, b)
    d = MatMul(c, w3)
    e = com.microsoft.BiasSplitGelu(d, b3)
    y = MatMul(e, w4)
""", w1=(6, 8), w2=(6, 8), b1=(8,), w3=(8, 10), b3=(10,), w4=(5, 3), opset=18, runs=False)  # fmt: skip

case("quantized_weights_of_one_layer", "float[N,4,32] x", "float[N,4,3] y", """
    a = MatMul(x, w1)
    q = com.microsoft.MatMulNBits<K=32, N=16, bits=4, block_size=32>(a, packed, scales)
    b = MatMul(q, w2)
    r = Relu(b)
    y = MatMul(r, w3)
""", w1=(32, 32), packed=np.full((16, 1, 16), 0x59, np.uint8), scales=(16,), w2=(16, 8), w3=(8, 3))  # fmt: skip

case("operators_before_their_first_version", X, "float[N,2,8,8] y", """
    i = ImageScaler<scale=0.5, bias=[1.0, 2.0, 3.0]>(x)
    a = Conv(i, w1)
    b = Affine<alpha=0.5, beta=1.0>(a)
    c = ParametricSoftplus<alpha=0.5, beta=1.0>(b)
    d = Conv(c, w2)
    e = ScaledTanh<alpha=0.5, beta=1.0>(d)
    f = Scale<scale=0.5>(e)
    y = Conv(f, w3)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), w3=(2, 4, 1, 1), opset=7, ir=4)  # fmt: skip

case("triangles_and_places_of_a_library", "float[N,2,6,6] x", "float[N,2,6,6] y", """
    a = Conv(x, w1)
    t = com.microsoft.Trilu<upper=0>(a, one)
    g = Conv(x, w2)
    p = Transpose<perm=[0,2,3,1]>(g)
    b = com.microsoft.GridSample(t, p)
    y = Conv(b, w3)
""", w1=(4, 2, 1, 1), one=np.asarray(1), w2=(2, 2, 1, 1), w3=(2, 4, 1, 1))  # fmt: skip

case("fused_gemm", "float[N,5] x", "float[N,3] y", """
    a = com.microsoft.FusedGemm<activation="Relu", transB=1>(x, w1, b1)
    b = com.microsoft.FusedGemm<activation="LeakyRelu", activation_alpha=0.3, alpha=0.5, beta=2.0>(a, w2, b2)
    c = com.microsoft.FusedGemm<activation="Elu", activation_alpha=0.7>(b, w3)
    d = com.microsoft.FusedGemm<activation="Softplus", transB=1>(c, w4)
    y = Gemm(d, w5)
""", w1=(8, 5), b1=(8,), w2=(8, 6), b2=(6,), w3=(6, 7), w4=(6, 7), w5=(6, 3))  # fmt: skip

case("gemm_with_a_shortcut", "float[4,5] x", "float[4,3] y", """
    a = Gemm(x, w1)
    b = Gemm(a, w2, b2)
    c = Gemm<beta=0.5>(b, w3, a)
    d = Transpose(c)
    e = Gemm<transA=1, transB=1>(w4, c)
    f = Gemm<transA=1, beta=2.0>(w5, d, d)
    g = Add(e, f)
    y = Gemm<transA=1>(g, w6)
""", w1=(5, 6), w2=(6, 7), b2=(7,), w3=(7, 6), w4=(6, 6), w5=(6, 6), w6=(6, 3))  # fmt: skip

case("gemm_with_a_shortcut_of_an_old_opset", "float[N,5] x", "float[N,3] y", """
    a = Gemm(x, w1, b1)
    b = Gemm<beta=0.5>(a, w2, a)
    y = Gemm(b, w3, b3)
""", w1=(5, 6), b1=(6,), w2=(6, 6), w3=(6, 3), b3=(3,), opset=9)  # fmt: skip

case("fused_matmul", "float[2,3,4,6] x", "float[5,2,7,3] y", """
    a = com.microsoft.FusedMatMul<alpha=0.5>(x, w1)
    b = com.microsoft.FusedMatMul<transB=1>(a, w2)
    c = com.microsoft.FusedMatMul<transA=1>(b, w3)
    d = com.microsoft.FusedMatMul<transBatchA=1>(c, w4)
    e = com.microsoft.FusedMatMul<transA=1, transBatchA=1>(d, w5)
    f = com.microsoft.FusedMatMul<transB=1, alpha=0.3>(e, e)
    g = com.microsoft.FusedMatMul(f, e)
    h = com.microsoft.FusedMatMul<transB=1, transBatchB=1>(f, w6)
    i = Add(g, h)
    y = com.microsoft.TransposeMatMul<transA=1>(i, w7)
""", w1=(6, 7), w2=(5, 7), w3=(4, 8), w4=(3, 5, 8, 6), w5=(5, 2, 3, 7), w6=(7, 5, 2, 6), w7=(6, 3))  # fmt: skip

case("fused_matmul_over_words", "float[N,4,6] x", "float[N,6,3] y", """
    a = com.microsoft.FusedMatMul<transA=1>(x, w1)
    b = Relu(a)
    c = com.microsoft.FusedMatMul(b, w2)
    d = Tanh(c)
    e = com.microsoft.FusedMatMul<transA=1, alpha=2.0>(d, w3)
    y = MatMul(e, w4)
""", w1=(4, 8), w2=(8, 6), w3=(6, 7), w4=(7, 3))  # fmt: skip

case("packed_attention", "float[N,4,6] x", "float[N,4,3] y", """
    a = com.microsoft.Attention<num_heads=3, unidirectional=1>(x, wq, bq)
    y = MatMul(a, wo)
""", wq=(6, 36), bq=(36,), wo=(12, 3))  # fmt: skip

case("packed_attention_with_a_past", "float[N,4,6] x, float[2,N,3,5,4] past, int32[N,9] mask",
    "float[N,4,3] y, float[2,N,3,9,4] present", """
    a, present = com.microsoft.Attention<num_heads=3>(x, wq, bq, mask, past)
    y = MatMul(a, wo)
""", wq=(6, 36), bq=(36,), wo=(12, 3))  # fmt: skip

case("packed_attention_whose_keys_are_read", "float[N,4,6] x", "float[N,4,3] y, float[N,2] z", """
    a, present = com.microsoft.Attention<num_heads=3>(x, wq, bq)
    y = MatMul(a, wo)
    m = ReduceMean<axes=[0,3], keepdims=0>(present)
    f = Flatten(m)
    z = Gemm(f, wz)
""", wq=(6, 36), bq=(36,), wo=(12, 3), wz=(12, 2))  # fmt: skip

case("packed_attention_with_a_mask", "float[N,4,6] x, int32[N,4] mask", "float[N,4,3] y", """
    a = com.microsoft.Attention<num_heads=4, qkv_hidden_sizes=[8,8,12]>(x, wq, bq, mask, "", p)
    y = MatMul(a, wo)
""", wq=(6, 28), bq=(28,), p=(1, 4, 4, 4), wo=(12, 3))  # fmt: skip

case("fused_attention", "float[N,4,6] x, int32[N,4] mask", "float[N,4,3] y", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    a = com.microsoft.MultiHeadAttention<num_heads=3>(q, k, v, b, mask)
    y = MatMul(a, wo)
""", wq=(6, 6), wk=(6, 6), wv=(6, 12), b=(24,), wo=(12, 3))  # fmt: skip

case("fused_attention_with_a_bias_from_outside", "float[N,4,6] x, float[24] b", "float[N,4,3] y", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    a = com.microsoft.MultiHeadAttention<num_heads=3>(q, k, v, b)
    y = MatMul(a, wo)
""", wq=(6, 6), wk=(6, 6), wv=(6, 12), wo=(12, 3))  # fmt: skip

case("fused_attention_whose_keys_are_read", "float[N,4,6] x", "float[N,4,3] y, float[N,2] z", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    a, k1, v1 = com.microsoft.MultiHeadAttention<num_heads=3>(q, k, v)
    y = MatMul(a, wo)
    m = ReduceMean<axes=[2], keepdims=0>(k1)
    f = Flatten(m)
    z = Gemm(f, wz)
""", wq=(6, 6), wk=(6, 6), wv=(6, 12), wo=(12, 3), wz=(6, 2))  # fmt: skip

case("fused_attention_with_packed_keys", "float[N,4,6] x", "float[N,4,3] y", """
    q = MatMul(x, wq)
    kv = MatMul(x, wk)
    p = Reshape(kv, apart)
    a = com.microsoft.MultiHeadAttention<num_heads=3>(q, p)
    y = MatMul(a, wo)
""", wq=(6, 12), wk=(6, 24), apart=[0, 0, 3, 2, 4], wo=(12, 3), runs=False)  # fmt: skip

case("fused_attention_packed", "float[N,4,6] x", "float[N,4,3] y", """
    qkv = MatMul(x, wq)
    p = Reshape(qkv, apart)
    a = com.microsoft.MultiHeadAttention<num_heads=3>(p, "", "", "", "", bias)
    y = MatMul(a, wo)
""", wq=(6, 36), apart=[0, 0, 3, 3, 4], bias=(1, 3, 4, 4), wo=(12, 3), runs=False)  # fmt: skip

case("fused_attention_with_a_past", "float[N,4,6] x, float[N,3,5,4] pk, float[N,3,5,4] pv",
    "float[N,4,3] y, float[N,3,9,4] k1, float[N,3,9,4] v1", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    a, k1, v1 = com.microsoft.MultiHeadAttention<num_heads=3>(q, k, v, "", "", "", pk, pv)
    y = MatMul(a, wo)
""", wq=(6, 12), wk=(6, 12), wv=(6, 12), wo=(12, 3))  # fmt: skip

case("fused_attention_of_a_decoder", "float[N,1,6] x, float[N,5,6] z", "float[N,1,3] y", """
    q = MatMul(x, wq)
    k0 = MatMul(z, wk)
    k1 = Reshape(k0, heads)
    k = Transpose<perm=[0,2,1,3]>(k1)
    v0 = MatMul(z, wv)
    v1 = Reshape(v0, heads)
    v = Transpose<perm=[0,2,1,3]>(v1)
    a = com.microsoft.DecoderMaskedMultiHeadAttention<num_heads=3>(q, k, v, "", "", "", "", "", "", "", b)
    y = MatMul(a, wo)
""", wq=(6, 12), wk=(6, 12), heads=[0, 0, 3, 4], wv=(6, 12), b=(36,), wo=(12, 3))  # fmt: skip

case("fused_attention_of_a_decoder_with_a_mask_for_each_head", "float[N,1,6] x", "float[N,1,3] y", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    a = com.microsoft.DecoderMaskedMultiHeadAttention<num_heads=3>(q, k, v, "", m)
    y = MatMul(a, wo)
""", wq=(6, 12), wk=(6, 12), wv=(6, 12), m=(1, 3, 1, 1), wo=(12, 3), runs=False)  # fmt: skip

case("fused_attention_of_a_decoder_with_a_past", "float[N,1,6] x, float[N,6] z, int32[1] n",
     "float[N,1,3] y, float[N,2] s", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    e = MatMul(z, we)
    pk = Reshape(e, heads)
    pv = Relu(pk)
    a, nk, nv = com.microsoft.DecoderMaskedMultiHeadAttention<num_heads=3, past_present_share_buffer=1>
        (q, k, v, "", "", pk, pv, n)
    y = MatMul(a, wo)
    m = ReduceMean<axes=[2, 3], keepdims=0>(nv)
    s = MatMul(m, ws)
""", wq=(6, 12), wk=(6, 12), wv=(6, 12), we=(6, 72), heads=[0, 3, 6, 4], wo=(12, 3), ws=(3, 2))  # fmt: skip

case("rotation_by_several_positions", "float[N,4,6] x, int64[3,N,4] p", "float[N,4,3] y", """
    q = MatMul(x, wq)
    r = com.microsoft.MRotaryEmbedding<num_heads=3, mrope_section=[1,1,2]>(q, p, cos, sin)
    y = MatMul(r, wo)
""", wq=(6, 24), cos=(16, 4), sin=(16, 4), wo=(24, 3))  # fmt: skip

case("fused_attention_across", "float[N,4,6] x, float[N,5,6] z", "float[N,4,3] y", """
    q = MatMul(x, wq)
    k = MatMul(z, wk)
    v = MatMul(z, wv)
    ks = Reshape(k, apart)
    kt = Transpose<perm=[0,2,1,3]>(ks)
    vs = Reshape(v, apart)
    vt = Transpose<perm=[0,2,1,3]>(vs)
    a = com.microsoft.MultiHeadAttention<num_heads=3>(q, kt, vt)
    y = MatMul(a, wo)
""", wq=(6, 12), wk=(6, 12), wv=(6, 12), apart=[0, 0, 3, 4], wo=(12, 3))  # fmt: skip

GROUPED = "float[1,1,6] x, float[1,2,5,8] pk, float[1,2,5,8] pv"

case("fused_attention_of_grouped_queries", GROUPED, "float[1,1,3] y", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    a, k1, v1 = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>(q, k, v, pk, pv, last, total)
    y = MatMul(a, wo)
""", wq=(6, 32), wk=(6, 16), wv=(6, 16), last=np.asarray([5], np.int32), total=np.asarray(6, np.int32),
    wo=(32, 3))  # fmt: skip

case("fused_attention_of_grouped_queries_with_a_mask", "float[1,1,6] x", "float[1,1,3] y", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    a, k1, v1 = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2>
        (q, k, v, "", "", last, total, "", "", "", mask)
    y = MatMul(a, wo)
""", wq=(6, 32), wk=(6, 16), wv=(6, 16), last=np.asarray([0], np.int32), total=np.asarray(1, np.int32),
    mask=(1, 4, 1, 1), wo=(32, 3))  # fmt: skip

case("fused_attention_of_grouped_queries_in_few_bits", "float[1,1,6] x, int8[1,2,5,8] pk, int8[1,2,5,8] pv",
    "float[1,1,3] y", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    a, k1, v1 = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2, kv_cache_bit_width=8>
        (q, k, v, pk, pv, last, total, "", "", "", "", "", ks, vs)
    y = MatMul(a, wo)
""", wq=(6, 32), wk=(6, 16), wv=(6, 16), last=np.asarray([5], np.int32), total=np.asarray(6, np.int32), ks=(1,),
    vs=(1,), wo=(32, 3), runs=False)  # fmt: skip

case("fused_attention_of_grouped_queries_packed", "float[1,4,6] x", "float[1,4,3] y", """
    qkv = MatMul(x, wq)
    a, k1, v1 = com.microsoft.GroupQueryAttention<num_heads=4, kv_num_heads=2, do_rotary=1>
        (qkv, "", "", "", "", last, total, cos, sin, "", "", sink)
    y = MatMul(a, wo)
""", wq=(6, 128), last=np.asarray([3], np.int32), total=np.asarray(4, np.int32), cos=(9, 8), sin=(9, 8), sink=(4,),
    wo=(64, 3))  # fmt: skip

case("rotated_heads", "float[N,4,6] x, int64[N,4] at", "float[N,4,3] y", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    qr = com.microsoft.RotaryEmbedding(q, at, cos, sin)
    kr = com.microsoft.RotaryEmbedding<num_heads=3, rotary_embedding_dim=2>(k, at, few, few)
    a = com.microsoft.MultiHeadAttention<num_heads=3>(qr, kr, v)
    y = MatMul(a, wo)
""", wq=(6, 12), wk=(6, 12), wv=(6, 12), cos=(9, 2), sin=(9, 2), few=(9, 1), wo=(12, 3))  # fmt: skip

case("rotated_heads_of_the_standard", "float[N,4,6] x, int64[N,4] at", "float[N,4,3] y", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    qr = RotaryEmbedding<num_heads=3>(q, cos, sin, at)
    ks = Reshape(k, apart)
    kt = Transpose<perm=[0,2,1,3]>(ks)
    kr = RotaryEmbedding(kt, cos, sin, at)
    vs = Reshape(v, apart)
    vt = Transpose<perm=[0,2,1,3]>(vs)
    qs = Reshape(qr, apart)
    qt = Transpose<perm=[0,2,1,3]>(qs)
    a = Attention(qt, kr, vt)
    t = Transpose<perm=[0,2,1,3]>(a)
    r = Reshape(t, together)
    y = MatMul(r, wo)
""", wq=(6, 12), wk=(6, 12), wv=(6, 12), cos=(9, 2), sin=(9, 2), apart=[0, 0, 3, 4], together=[0, 0, -1],
    wo=(12, 3), opset=23, ir=10)  # fmt: skip

case("rotated_channels", "float[N,4,6] x, int64[N,4] at", "float[N,4,3] y", """
    q = MatMul(x, wq)
    one = Unsqueeze(q, axis)
    r = com.microsoft.RotaryEmbedding(one, at, cos, sin)
    s = Squeeze(r, axis)
    y = MatMul(s, wo)
""", wq=(6, 4), cos=(9, 2), sin=(9, 2), axis=[1], wo=(4, 3))  # fmt: skip

case("words_that_attention_reads", "float[1,4,6] x", "float[1,5,3] y", """
    q = MatMul(wl, x)
    k = MatMul(wl, x)
    v = MatMul(wl, x)
    a = com.microsoft.MultiHeadAttention<num_heads=3>(q, k, v)
    p = MatMul(w1, a)
    r = com.microsoft.RotaryEmbedding<num_heads=3, rotary_embedding_dim=2>(p, at, few, few)
    n = MatMul(w2, r)
    b = com.microsoft.Attention<num_heads=2>(n, wq, bq)
    o = MatMul(w3, b)
    c = com.microsoft.GroupQueryAttention<num_heads=1, kv_num_heads=1>(o, o, o, "", "", last, total)
    y = MatMul(c, wo)
""", wl=(5, 4), w1=(5, 5), w2=(5, 5), w3=(5, 5), at=np.asarray([[0, 1, 2, 3, 4]], np.int64), few=(9, 1), wq=(6, 24),
    bq=(24,), last=np.asarray([4], np.int32), total=np.asarray(5, np.int32), wo=(8, 3))  # fmt: skip

case("embedding_of_words", "int32[N,4] x, int32[N,4] kind", "float[N,4,3] y, float[N,4,6] s", """
    e, "", s = com.microsoft.EmbedLayerNormalization(x, kind, words, places, kinds, gamma, beta)
    a = MatMul(e, w1)
    g = com.microsoft.FastGelu(a, b1)
    y = MatMul(g, w2)
""", words=(5, 6), places=(7, 6), kinds=(3, 6), gamma=(6,), beta=(6,), w1=(6, 8), b1=(8,), w2=(8, 3))  # fmt: skip

case("embedding_of_computed_words", "int32[N,4] x, float[5,4] z, float[7,4] q", "float[N,4,3] y", """
    words = MatMul(z, w0)
    places = MatMul(q, w1)
    e, n = com.microsoft.EmbedLayerNormalization(x, "", words, places, "", gamma, beta)
    y = MatMul(e, w2)
""", w0=(4, 6), w1=(4, 6), gamma=(6,), beta=(6,), w2=(6, 3))  # fmt: skip

case("gated_ffn", "float[N,4,6] x", "float[N,4,3] y", """
    s = Mul(x, x)
    m = ReduceMean<axes=[-1]>(s)
    e = Add(m, small)
    r = Sqrt(e)
    n0 = Div(x, r)
    n = Mul(n0, gamma)
    g = MatMul(n, wg)
    h = Sigmoid(g)
    a = Mul(g, h)
    u = MatMul(n, wu)
    f = Mul(a, u)
    d = MatMul(f, wd)
    t = Add(x, d)
    y = MatMul(t, wy)
""", small=scalar(1e-5), gamma=(6,), wg=(6, 8), wu=(6, 8), wd=(8, 6), wy=(6, 3))  # fmt: skip

case("embedding", "int64[N,4] x", "float[N,4,3] y", """
    e = Gather(table, x)
    a = MatMul(e, w1)
    r = Relu(a)
    y = MatMul(r, w2)
""", table=(9, 6), w1=(6, 8), w2=(8, 3))  # fmt: skip

case("experts_that_data_choose", "float[N,6] x, int64[N] chosen", "float[N,3] y", """
    w = Gather(experts, chosen)
    column = Unsqueeze(x, last)
    a = MatMul(w, column)
    b = Squeeze(a, last)
    r = Relu(b)
    y = MatMul(r, w2)
""", experts=(3, 8, 6), last=[-1], w2=(8, 3))  # fmt: skip

case("softmax_over_channels", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    s = Softmax<axis=1>(b)
    t = Softmax<axis=3>(a)
    u = Conv(t, w4)
    c = Concat<axis=1>(s, u)
    y = Conv(c, w3)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), w3=(2, 9, 1, 1), w4=(5, 6, 1, 1))  # fmt: skip

# ------------------------------------------------------------------------------------------------ recurrent layers

case("lstm", "float[S,1,5] x", "float[S,1,3] y", """
    a, h, c = LSTM<hidden_size=6>(x, w, r, b, "", h0, c0, p)
    s = Squeeze(a, one)
    y = MatMul(s, wy)
""", w=(1, 24, 5), r=(1, 24, 6), b=(1, 48), h0=(1, 1, 6), c0=(1, 1, 6), p=(1, 18), one=[1], wy=(6, 3))  # fmt: skip

case("lstm_in_both_directions", "float[N,S,5] x", "float[N,S,3] y", """
    t = Transpose<perm=[1,0,2]>(x)
    size = Shape(t)
    n0 = Gather(size, at)
    n = Unsqueeze(n0, axis0)
    state = Concat<axis=0>(two, n, six)
    zeros = ConstantOfShape(state)
    a, h, c = LSTM<hidden_size=6, direction="bidirectional">(t, w, r, b, "", zeros, zeros)
    p = Transpose<perm=[0,2,1,3]>(a)
    q = Reshape(p, join)
    d, e, f = LSTM<hidden_size=4, direction="bidirectional">(q, w2, r2, b2)
    u = Transpose<perm=[2,0,1,3]>(d)
    v = Reshape(u, join2)
    y = MatMul(v, wy)
""", at=np.asarray(1), axis0=[0], two=[2], six=[6], w=(2, 24, 5), r=(2, 24, 6), b=(2, 48), join=[0, 0, -1],
    w2=(2, 16, 12), r2=(2, 16, 4), b2=(2, 32), join2=[0, 0, 8], wy=(8, 3))  # fmt: skip

case("first_states_of_stacked_layers_in_one", "float[N,S,5] x", "float[N,S,3] y", """
    t = Transpose<perm=[1,0,2]>(x)
    size = Shape<start=1, end=2>(t)
    state = Concat<axis=0>(four, size, six)
    zeros = ConstantOfShape(state)
    first = Slice(zeros, from0, to2, axis0)
    second = Slice(zeros, to2, to4, axis0)
    a, h, c = LSTM<hidden_size=6, direction="bidirectional">(t, w, r, b, "", first, first)
    p = Transpose<perm=[0,2,1,3]>(a)
    q = Reshape(p, join)
    d, e, f = LSTM<hidden_size=6, direction="bidirectional">(q, w2, r2, b2, "", second, second)
    u = Transpose<perm=[2,0,1,3]>(d)
    v = Reshape(u, join)
    y = MatMul(v, wy)
""", four=[4], six=[6], from0=[0], to2=[2], to4=[4], axis0=[0], w=(2, 24, 5), r=(2, 24, 6), b=(2, 48), join=[0, 0, -1],
    w2=(2, 24, 12), r2=(2, 24, 6), b2=(2, 48), wy=(12, 3))  # fmt: skip

case("first_state_of_a_map", "float[N,3,4,4] x", "float[N,2,4,4] y", """
    size = Shape<start=0, end=1>(x)
    shape = Concat<axis=0>(size, sizes)
    zeros = ConstantOfShape(shape)
    joined = Concat<axis=1>(x, zeros)
    gates = Conv<pads=[1,1,1,1]>(joined, w1)
    into, forget, out, new = Split<axis=1>(gates, parts)
    i = Sigmoid(into)
    f = Sigmoid(forget)
    o = Sigmoid(out)
    n = Tanh(new)
    old = Mul(f, zeros)
    add = Mul(i, n)
    cell = Add(old, add)
    short = Tanh(cell)
    h = Mul(o, short)
    y = Conv(h, w2)
""", sizes=[6, 4, 4], w1=(24, 9, 3, 3), parts=[6] * 4, w2=(2, 6, 1, 1))  # fmt: skip

case("constant_map_that_is_repeated", "float[N,5] x", "float[N,2,4,3] y", """
    size = Shape<start=0, end=1>(x)
    shape = Concat<axis=0>(size, ones)
    start = Expand(map, shape)
    a = Gemm<transB=1>(x, w1)
    style = Unsqueeze(a, space)
    b = Mul(start, style)
    y = Conv(b, w2)
""", map=(1, 6, 4, 3), ones=[1, 1, 1], w1=(6, 5), space=[2, 3], w2=(2, 6, 1, 1))  # fmt: skip

case("constant_map_that_is_repeated_to_a_size", "float[N,5] x", "float[N,2,4,3] y", """
    size = Shape<start=0, end=1>(x)
    shape = Concat<axis=0>(size, sizes)
    start = Expand(map, shape)
    a = Gemm<transB=1>(x, w1)
    style = Unsqueeze(a, space)
    b = Mul(start, style)
    y = Conv(b, w2)
""", map=(1, 6, 4, 3), sizes=[6, 4, 3], w1=(6, 5), space=[2, 3], w2=(2, 6, 1, 1))  # fmt: skip

case("first_state_of_repeated_zeros", "float[N,5] x", "float[N,3] y", """
    size = Shape(x)
    n = Slice(size, at0, one)
    state = Concat<axis=0>(n, six)
    h = Expand(zero, state)
    a = MatMul(x, w)
    b = MatMul(h, r)
    s = Add(a, b)
    z = Sigmoid(s)
    k = Mul(z, h)
    g = Tanh(s)
    d = Add(k, g)
    y = MatMul(d, wy)
""", at0=[0], one=[1], six=[6], zero=scalar(0), w=(5, 6), r=(6, 6), wy=(6, 3))  # fmt: skip

case("lstm_of_repeated_zeros", "float[S,N,5] x", "float[S,N,3] y", """
    size = Shape(x)
    n = Slice(size, one, two)
    state = Concat<axis=0>(n, six)
    zeros = Expand(zero, state)
    h0 = Unsqueeze(zeros, axis0)
    h = Concat<axis=0>(h0, h0)
    a = LSTM<hidden_size=6, direction="bidirectional">(x, w, r, b, "", h, h)
    t = Transpose<perm=[0,2,1,3]>(a)
    q = Reshape(t, join)
    y = MatMul(q, wy)
""", one=[1], two=[2], six=[6], zero=scalar(0), axis0=[0], w=(2, 24, 5), r=(2, 24, 6), b=(2, 48), join=[0, 0, -1],
    wy=(12, 3))  # fmt: skip

case("lstm_of_weights_cut_by_sizes", "float[S,N,5] x", "float[S,N,3] y", """
    a = LSTM<hidden_size=6>(x, w, r)
    t = Squeeze(a, one)
    size = Shape(t)
    n = Slice(size, one, two)
    width = Slice(size, two, three)
    end = Mul(rows, width)
    w1 = Slice(flat, zero, end)
    shape = Concat<axis=0>(one, rows, width)
    w2 = Reshape(w1, shape)
    last = Add(end, square)
    r1 = Slice(flat, end, last)
    r2 = Reshape(r1, to)
    state = Concat<axis=0>(one, n, units)
    ones = ConstantOfShape<value = float[1] {1.0}>(state)
    zeros = Mul(still, ones)
    b = LSTM<hidden_size=4>(t, w2, r2, "", "", zeros, zeros)
    u = Squeeze(b, one)
    y = MatMul(u, wy)
""", w=(1, 24, 5), r=(1, 24, 6), zero=[0], one=[1], two=[2], three=[3], rows=[16], units=[4], square=[64],
    flat=np.random.default_rng(0).normal(size=160).astype(np.float32) / 4, to=[1, 16, 4],
    still=np.zeros((1, 1, 4), np.float32), wy=(4, 3))  # fmt: skip

case("steps_that_put_their_weights_together", "float[N,2,5] x", "float[N,3] y", """
    t, u = Split<axis=1>(x, ones)
    a = Squeeze(t, one)
    b = Squeeze(u, one)
    c = Concat<axis=1>(w1, w2)
    d = MatMul(a, c)
    e = Tanh(d)
    f = MatMul(e, r)
    g = Concat<axis=1>(w1, w2)
    h = MatMul(b, g)
    i = Add(f, h)
    j = Tanh(i)
    y = MatMul(j, wy)
""", ones=[1, 1], one=[1], w1=(5, 4), w2=(5, 2), r=(6, 6), wy=(6, 3))  # fmt: skip

case("states_that_start_from_the_same_zeros", "float[N,5] x", "float[N,3] y", """
    size = Shape(x)
    n = Slice(size, zero, one)
    state = Concat<axis=0>(n, six)
    zeros = ConstantOfShape(state)
    start = Cast<to=1>(zeros)
    a = MatMul(x, w1)
    b = Add(a, start)
    c = Tanh(b)
    d = MatMul(x, w2)
    e = Add(d, start)
    f = Tanh(e)
    g = MatMul(c, w3)
    h = MatMul(f, w4)
    y = Add(g, h)
""", zero=[0], one=[1], six=[6], w1=(5, 6), w2=(5, 6), w3=(6, 3), w4=(6, 3))  # fmt: skip

BOTH = {"w": (2, 24, 5), "r": (2, 24, 6), "b": (2, 48)}

case("last_states_of_both_directions", "float[S,2,5] x", "float[2,3] y", """
    a, h, c = LSTM<hidden_size=6, direction="bidirectional">(x, w, r, b, "", h0, c0, p)
    f = Gather<axis=0>(h, first)
    g = Slice(h, one, two, zero)
    k = Squeeze(g, zero)
    i, j = Split<axis=0>(c, halves)
    l = Squeeze(i, zero)
    m = Squeeze(j, zero)
    q = Concat<axis=1>(f, k, l, m)
    y = Gemm(q, wy)
""", **BOTH, h0=(2, 2, 6), c0=(2, 2, 6), p=(2, 18), first=np.asarray(0), zero=[0], one=[1], two=[2], halves=[1, 1],
    wy=(24, 3))  # fmt: skip

case("states_of_both_directions_go_on", "float[S,N,5] x, float[T,N,5] z", "float[T,N,3] y", """
    a, h, c = LSTM<hidden_size=6, direction="bidirectional">(x, w, r, b)
    i = Tanh(h)
    d, e, f = LSTM<hidden_size=6, direction="bidirectional">(z, w, r2, b, "", i, c)
    t = Transpose<perm=[0,2,1,3]>(d)
    size = Shape(t)
    start = Slice(size, zero, two)
    shape = Concat<axis=0>(start, rest)
    j = Reshape(t, shape)
    y = MatMul(j, wy)
""", **BOTH, r2=(2, 24, 6), zero=[0], two=[2], rest=[12], wy=(12, 3))  # fmt: skip

case("directions_that_are_added", "float[S,N,5] x", "float[S,N,3] y", """
    a = LSTM<hidden_size=6, direction="bidirectional">(x, w, r, b)
    s = ReduceSum<keepdims=0>(a, one)
    y = MatMul(s, wy)
""", **BOTH, one=[1], wy=(6, 3))  # fmt: skip

case("directions_that_are_read_apart", "float[S,N,5] x", "float[S,N,3] y", """
    a = LSTM<hidden_size=6, direction="bidirectional">(x, w, r, b)
    f, g = Split<axis=1>(a, halves)
    d = Squeeze(f, one)
    e = Squeeze(g, one)
    k = MatMul(d, wf)
    l = MatMul(e, wg)
    y = Add(k, l)
""", **BOTH, one=[1], halves=[1, 1], wf=(6, 3), wg=(6, 3))  # fmt: skip

case("directions_that_are_interleaved", "float[S,N,5] x", "float[S,N,3] y", """
    a = LSTM<hidden_size=6, direction="bidirectional">(x, w, r, b)
    t = Transpose<perm=[0,2,3,1]>(a)
    j = Reshape(t, join)
    y = MatMul(j, wy)
""", **BOTH, join=[0, 0, 12], wy=(12, 3))  # fmt: skip

case("directions_that_are_read_alike", "float[S,N,5] x", "float[S,2,N,3] y", """
    a = LSTM<hidden_size=6, direction="bidirectional">(x, w, r, b)
    d = Add(a, shift)
    y = MatMul(d, wy)
""", **BOTH, shift=(6,), wy=(6, 3))  # fmt: skip

case("parts_of_both_directions", "float[S,N,5] x", "float[S,N,3] y", """
    a = LSTM<hidden_size=6, direction="bidirectional">(x, w, r, b)
    p = Slice(a, two, five, last)
    t = Transpose<perm=[0,2,1,3]>(p)
    j = Reshape(t, join)
    y = MatMul(j, wy)
""", **BOTH, two=[2], five=[5], last=[3], join=[0, 0, 6], wy=(6, 3))  # fmt: skip

case("last_states_of_two_layers", "float[S,N,5] x", "float[N,3] y", """
    a, h = GRU<hidden_size=4, direction="bidirectional">(x, w, r)
    t = Transpose<perm=[0,2,1,3]>(a)
    j = Reshape(t, join)
    b, i = GRU<hidden_size=4, direction="bidirectional">(j, w2, r)
    k = Concat<axis=0>(h, i)
    f = Gather<axis=0>(k, second)
    g = Gather<axis=0>(k, third)
    q = Concat<axis=1>(f, g)
    y = Gemm(q, wy)
""", w=(2, 12, 5), r=(2, 12, 4), join=[0, 0, -1], w2=(2, 12, 8), second=np.asarray(2), third=np.asarray(3),
    wy=(8, 3))  # fmt: skip

case("gru_to_its_last_state", "float[N,3,8,8] x", "float[N,3] y", """
    k = Conv(x, wk)
    m = ReduceMean<axes=[3], keepdims=0>(k)
    t = Transpose<perm=[2,0,1]>(m)
    a, h = GRU<hidden_size=6, linear_before_reset=1>(t, w, r, b)
    s = Squeeze(h, zero)
    y = MatMul(s, wy)
""", wk=(4, 3, 1, 1), w=(1, 18, 4), r=(1, 18, 6), b=(1, 36), zero=[0], wy=(6, 3))  # fmt: skip

case("rnn_after_another", "float[S,N,5] x, float[T,N,4] z", "float[T,N,3] y", """
    a, h = RNN<hidden_size=6>(x, w, r)
    i = Relu(h)
    b, g = RNN<hidden_size=6>(z, v, q, "", "", i)
    s = Squeeze(b, one)
    y = MatMul(s, wy)
""", w=(1, 6, 5), r=(1, 6, 6), v=(1, 6, 4), q=(1, 6, 6), one=[1], wy=(6, 3))  # fmt: skip

case("gru_batch_first", "float[N,S,5] x", "float[N,S,3] y", """
    a, h = GRU<hidden_size=6, layout=1>(x, w, r, b)
    s = Squeeze(a, two)
    y = MatMul(s, wy)
""", w=(1, 18, 5), r=(1, 18, 6), b=(1, 36), two=[2], wy=(6, 3), runs=False)  # fmt: skip

case("lstm_that_goes_on", "float[S,N,5] x, float[1,N,6] h0, float[1,N,6] c0", "float[S,N,3] y, float[1,N,6] h", """
    a, h, c = LSTM<hidden_size=6>(x, w, r, b, "", h0, c0)
    s = Squeeze(a, one)
    d = MatMul(s, wd)
    e = Relu(d)
    y = MatMul(e, wy)
""", w=(1, 24, 5), r=(1, 24, 6), b=(1, 48), one=[1], wd=(6, 8), wy=(8, 3))  # fmt: skip

case("gru_with_a_bias_from_outside", "float[S,N,3] x, float[1,36] b", "float[S,N,2] y", """
    a = MatMul(x, w0)
    h = GRU<hidden_size=6>(a, w, r, b)
    q = Squeeze(h, axis)
    y = MatMul(q, w1)
""", w0=(3, 4), w=(1, 18, 4), r=(1, 18, 6), axis=[1], w1=(6, 2))  # fmt: skip

case("rnn_from_states_along_the_batch", "float[S,3,5] x, float[1,5,6] z", "float[S,3,2] y, float[1,4,6] u", """
    h = MatMul(wh, z)
    a = RNN<hidden_size=6>(x, w, r, "", "", h)
    s = Squeeze(a, one)
    y = MatMul(s, wy)
    u = MatMul(wu, h)
""", wh=(3, 5), w=(1, 6, 5), r=(1, 6, 6), one=[1], wy=(6, 2), wu=(4, 3))  # fmt: skip

case("rnn_from_a_state_of_ones", "float[S,3,5] x", "float[S,3,2] y", """
    size = Shape<start=1, end=2>(x)
    shape = Concat<axis=0>(one, size, six)
    h = ConstantOfShape<value = float[1] {1.0}>(shape)
    a = RNN<hidden_size=6>(x, w, r, "", "", h)
    s = Squeeze(a, one)
    y = MatMul(s, wy)
""", w=(1, 6, 5), r=(1, 6, 6), one=[1], six=[6], wy=(6, 2))  # fmt: skip

case("recurrent_layers_that_stay", "float[4,1,5] x, float[1,4,4] w", "float[4,1,3] y", """
    a, h = RNN<hidden_size=4>(x, w1, r, "", "", state)
    q = Squeeze(a, one)
    b, g = RNN<hidden_size=4>(q, w, r)
    s = Squeeze(b, one)
    n = Sum(q, s)
    o = RandomNormalLike(h)
    e, f = RNN<hidden_size=4>(n, w1r, r1, bias, "", o)
    u = Squeeze(e, one)
    y = MatMul(u, wy)
""", w1=(1, 4, 5), r=(1, 4, 4), one=[1], state=(1, 1, 4), w1r=(1, 4, 4), r1=(1, 4, 4), bias=(1, 8), wy=(4, 3),
    runs=False)  # fmt: skip

# ------------------------------------------------------------------------------------------------ heads, ties, weights

case("two_heads", X, "float[N,2] p, float[N,4] q", """
    a = Conv(x, w1)
    g = GlobalAveragePool(a)
    f = Flatten(g)
    h1 = Gemm<transB=1>(f, w2)
    r1 = Relu(h1)
    p = Gemm<transB=1>(r1, w3)
    h2 = Gemm<transB=1>(f, w4)
    r2 = Relu(h2)
    l = Gemm<transB=1>(r2, w5)
    q = Softmax<axis=1>(l)
""", w1=(8, 3, 1, 1), w2=(6, 8), w3=(2, 6), w4=(7, 8), w5=(4, 7))  # fmt: skip

case("inner_value_is_an_output", X, "float[N,8,8,8] r, float[N,2,8,8] y", """
    a = Conv(x, w1)
    r = Relu(a)
    b = Conv(r, w2)
    y = Conv(b, w3)
""", w1=(8, 3, 1, 1), w2=(6, 8, 1, 1), w3=(2, 6, 1, 1))  # fmt: skip

case("tied_weights", "float[N,6,8,8] x", "float[N,2,8,8] y", """
    a = Conv(x, w0)
    b = Conv(a, w1, b1)
    r = Relu(b)
    c = Conv(r, w1, b1)
    y = Conv(c, w2)
""", w0=(6, 6, 1, 1), w1=(6, 6, 1, 1), b1=(6,), w2=(2, 6, 1, 1))  # fmt: skip

case("tied_branches", X, "float[N,2,8,8] y", """
    a = Conv(x, w1, b1)
    n = Neg(x)
    b = Conv(n, w1, b1)
    c = Concat<axis=1>(a, b)
    y = Conv(c, w2)
""", w1=(6, 3, 1, 1), b1=(6,), w2=(2, 12, 1, 1))  # fmt: skip

case("merged_constants", X, "float[N,4,8,8] y", """
    a = Conv(x, w1)
    a2 = Conv(x, w2)
    c = Mul(a, k)
    d = Mul(a2, k)
    e = Conv(c, w3, b)
    f = Conv(d, w4, b)
    g = BatchNormalization(f, one, b, b, one)
    h = Conv(g, w5, b)
    y = Add(e, h)
""", w1=(6, 3, 1, 1), w2=(6, 3, 1, 1), k=(6, 1, 1), w3=(4, 6, 1, 1), w4=(4, 6, 1, 1), b=(4,), one=(4,),
    w5=(4, 4, 1, 1))  # fmt: skip

case("weights_through_nodes", X, "float[N,2] y", """
    wi = Identity(w1)
    a = Conv(x, wi, b1)
    wr = Reshape(w2, shape)
    b = Conv(a, wr)
    g = GlobalAveragePool(b)
    f = Flatten(g)
    wt = Transpose<perm=[1,0]>(w3)
    c = MatMul(f, wt)
    k = Constant<value = float[5] {1.0, 2.0, 3.0, 4.0, 5.0}>()
    d = Add(c, k)
    wc = Cast<to=1>(w4)
    y = MatMul(d, wc)
""", w1=(6, 3, 1, 1), b1=(6,), w2=(4, 6), shape=[4, 6, 1, 1], w3=(5, 4),
    w4=np.random.default_rng(1).normal(size=(5, 2)))  # fmt: skip

case("initializers_that_are_inputs", X, "float[N,2,8,8] y", """
    a = Conv(x, w1, b1)
    r = Relu(a)
    y = Conv(r, w2)
""", w1=(6, 3, 1, 1), b1=(6,), w2=(2, 6, 1, 1), opset=8, ir=3)  # fmt: skip

case("weights_from_the_input", "float[N,3,8,8] x, float[4,6,1,1] w", "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w)
    y = Conv(b, w2)
""", w1=(6, 3, 1, 1), w2=(2, 4, 1, 1))  # fmt: skip

case("bias_from_another_layer", "float[1,3,8,8] x", "float[1,2,8,8] y", """
    a = Conv(x, w1)
    p = GlobalAveragePool(x)
    f = Reshape(p, flat)
    g = MatMul(f, w2)
    s = Reshape(g, flat)
    b = Conv(a, w3, s)
    y = Conv(b, w4)
""", w1=(6, 3, 1, 1), flat=[-1], w2=(3, 4), w3=(4, 6, 1, 1), w4=(2, 4, 1, 1), runs=False)  # fmt: skip

case("scale_from_another_layer", "float[1,3,8,8] x", "float[1,2,8,8] y", """
    a = Conv(x, w1)
    p = GlobalAveragePool(x)
    g = Conv(p, w2)
    s = Reshape(g, flat)
    b = BatchNormalization(a, s, k, k, k)
    y = Conv(b, w3)
""", w1=(6, 3, 1, 1), w2=(6, 3, 1, 1), flat=[-1], k=(6,), w3=(2, 6, 1, 1))  # fmt: skip

case("half", "float16[N,3,8,8] x", "float16[N,2,8,8] y", """
    a = Conv(x, w1, b1)
    n = BatchNormalization(a, gamma, beta, mean, var)
    r = Relu(n)
    y = Conv(r, w2)
""", w1=(6, 3, 1, 1), b1=(6,), gamma=(6,), beta=(6,), mean=(6,), var=(6,), w2=(2, 6, 1, 1), half=True)  # fmt: skip

case("two_inputs", "float[N,3,8,8] x, float[N,5] z", "float[N,2] y", """
    a = Conv(x, w1)
    g = GlobalAveragePool(a)
    f = Flatten(g)
    b = Gemm<transB=1>(z, w2)
    r = Relu(b)
    c = Concat<axis=1>(f, r, z)
    y = Gemm<transB=1>(c, w3)
""", w1=(6, 3, 1, 1), w2=(4, 5), w3=(2, 15))  # fmt: skip

# ------------------------------------------------------------------------------------------------ cutting and joining

case("split_gate", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    u, v = Split<axis=1>(a, halves)
    s = Sigmoid(v)
    m = Mul(u, s)
    y = Conv(m, w2)
""", w1=(12, 3, 1, 1), halves=[6, 6], w2=(2, 6, 1, 1))  # fmt: skip

case("split_uneven", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    u, v, w = Split<axis=1>(a, parts)
    b = Conv(u, w2)
    c = Conv(v, w3)
    s = Relu(w)
    d = Concat<axis=1>(b, s, c)
    y = Conv(d, w4)
""", w1=(12, 3, 1, 1), parts=[3, 5, 4], w2=(4, 3, 1, 1), w3=(4, 5, 1, 1), w4=(2, 12, 1, 1))  # fmt: skip

case("split_and_join", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    u, v = Split<axis=1, num_outputs=2>(a)
    s = Relu(u)
    t = Sigmoid(v)
    m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(t)
    d = Concat<axis=1>(s, m)
    y = Conv(d, w2)
""", w1=(6, 3, 1, 1), w2=(2, 6, 1, 1), opset=18)  # fmt: skip

case("split_into_single_channels", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    u, v, w = Split<axis=1>(b, parts)
    s = Relu(v)
    d = Concat<axis=1>(w, s, u)
    y = Conv(d, w3)
""", w1=(6, 3, 1, 1), w2=(3, 6, 1, 1), parts=[1, 1, 1], w3=(2, 3, 1, 1))  # fmt: skip

case("split_of_space", X, "float[N,2,4,8] y", """
    a = Conv(x, w1)
    u, v = Split<axis=2>(a, halves)
    d = Concat<axis=1>(u, v)
    y = Conv(d, w2)
""", w1=(6, 3, 1, 1), halves=[4, 4], w2=(2, 12, 1, 1))  # fmt: skip

case("slice_of_channels", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    u = Slice(a, zero, three, axes)
    v = Slice(a, back, end, axes)
    s = Sigmoid(v)
    m = Concat<axis=1>(u, s)
    y = Conv(m, w2)
""", w1=(8, 3, 1, 1), zero=[0], three=[3], back=[-4], end=[2**63 - 1], axes=[1], w2=(2, 7, 1, 1))  # fmt: skip

case("slice_with_steps", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    u = Slice(b, zero, end, axes, two)
    y = Conv(u, w3)
""", w1=(6, 3, 1, 1), w2=(8, 6, 1, 1), zero=[0], end=[8], axes=[1], two=[2], w3=(2, 4, 1, 1))  # fmt: skip

case("slice_of_32_bit_indices", X, "float[N,2,4,4] y", """
    a = Conv(x, w1)
    u = Slice(a, starts, ends, axes)
    y = Conv(u, w2)
""", w1=(8, 3, 1, 1), starts=np.asarray([1, 0, 0], np.int32), ends=np.asarray([7, 4, 4], np.int32),
    axes=np.asarray([1, 2, 3], np.int32), w2=(2, 6, 1, 1))  # fmt: skip

case("slice_up_to_symbolic_ends", "float[N,3,H,W] x", "float[N,2,H,W] y", """
    a = Conv(x, w1)
    size = Shape(a)
    n = Slice(size, zero, one)
    hw = Slice(size, two, four)
    ends = Concat<axis=0>(n, five, hw)
    s = Slice(a, starts, ends)
    y = Conv(s, w2)
""", w1=(6, 3, 1, 1), zero=[0], one=[1], two=[2], four=[4], five=[5], starts=[0, 1, 0, 0], w2=(2, 4, 1, 1))  # fmt: skip

case("axes_swapped_by_moving_sizes", "float[N,S,5] x", "float[N,2,S] y", """
    a = MatMul(x, w1)
    size = Shape(a)
    picked = GatherND(size, places)
    swapped = ScatterND(size, others, picked)
    longer = Pad(size, behind, one)
    r = Reshape(a, longer)
    t = Transpose<perm=[0,2,1,3,4]>(r)
    s = Reshape(t, swapped)
    y = Conv(s, w2)
""", w1=(5, 6), places=np.asarray([[1], [2]]), others=np.asarray([[2], [1]]), behind=[0, 2], one=np.asarray(1),
    w2=(2, 6, 1))  # fmt: skip

case("slice_to_a_dynamic_size", "float[N,3,H,W] x", "float[N,2,H2,W2] y", """
    a = Conv<pads=[1,1,1,1]>(x, w1)
    s = Shape(x)
    hw = Slice(s, two, four)
    u = Slice(a, zeros, hw, axes)
    y = Conv(u, w2)
""", w1=(8, 3, 1, 1), two=[2], four=[4], zeros=[0, 0], axes=[2, 3], w2=(2, 8, 1, 1))  # fmt: skip

case("slice_at_computed_places", "float[N,3,8,8] x, int64[1] k", "float[N,2,8,8] y", """
    a = Conv(x, w1)
    u = Slice(a, zero, k, axes)
    g = ReduceMean<axes=[1]>(u)
    y = Conv(g, w2)
""", w1=(8, 3, 1, 1), zero=[0], axes=[1], w2=(2, 1, 1, 1), runs=False)  # fmt: skip

case("halves_by_shape_arithmetic", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    s = Shape(a)
    c = Slice(s, one, two)
    h = Div(c, two)
    u = Slice(a, zero, h, one)
    v = Slice(a, h, c, one)
    t = Sigmoid(v)
    m = Mul(u, t)
    y = Conv(m, w2)
""", w1=(8, 3, 1, 1), zero=[0], one=[1], two=[2], w2=(2, 4, 1, 1))  # fmt: skip

case("gather_channels", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    u = Gather<axis=1>(a, order)
    v = Gather<axis=1>(u, some)
    y = Conv(v, w2)
""", w1=(6, 3, 1, 1), order=[5, 3, 1, -6, 2, 4], some=np.asarray([0, 1, 1, 4], np.int32),
    w2=(2, 4, 1, 1))  # fmt: skip

case("gather_that_chooses", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    u = Gather<axis=1>(a, all)
    b = Conv(u, w2)
    c = Conv(a, w3)
    y = Add(c, b)
""", w1=(6, 3, 1, 1),
    all=[0, 1, 2, 3, 4, 5], w2=(2, 6, 1, 1), w3=(2, 6, 1, 1))  # fmt: skip

case("gather_and_join", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    e = Gather<axis=1>(a, even)
    o = Gather<axis=1>(a, odd)
    c = Concat<axis=1>(o, e)
    y = Conv(c, w2)
""", w1=(6, 3, 1, 1), even=[0, 2, 4], odd=[1, 3, 5], w2=(2, 6, 1, 1))  # fmt: skip

case("looked_up_by_the_number_of_channels", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    s = Shape(a)
    n = Gather(s, one)
    t = Gather(table, n)
    b = Conv(a, w2)
    y = Mul(b, t)
""", w1=(6, 3, 1, 1), one=np.asarray(1), table=(9,), w2=(2, 6, 1, 1))  # fmt: skip

case("counted_up_to_the_number_of_channels", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    s = Shape(a)
    n = Gather(s, one)
    r = Range(zero, n, one)
    f = Cast<to=1>(r)
    m = ReduceMax<keepdims=0>(f)
    b = Conv(a, w2)
    y = Mul(b, m)
""", w1=(6, 3, 1, 1), zero=np.asarray(0), one=np.asarray(1), w2=(2, 6, 1, 1))  # fmt: skip

case("gather_one_channel", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    u = Gather<axis=1>(b, one)
    v = Unsqueeze(u, one1)
    y = Conv(v, w3)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), one=np.asarray(1), one1=[1], w3=(2, 1, 1, 1))  # fmt: skip

case("gather_a_row", X, "float[N,2,8,2] y", """
    a = Conv(x, w1)
    u = Gather<axis=3>(a, cols)
    y = Conv(u, w2)
""", w1=(6, 3, 1, 1), cols=[7, 0], w2=(2, 6, 1, 1))  # fmt: skip

case("gather_at_computed_places", "float[N,3,8,8] x, int64[2] k", "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    u = Gather<axis=1>(b, k)
    y = Conv(u, w3)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), w3=(2, 2, 1, 1))  # fmt: skip

case("expand", "float[1,3,8,8] x", "float[1,2,8,8] y", """
    a = Conv(x, w1)
    p = GlobalAveragePool(a)
    e = Expand(p, shape)
    b = Conv(e, w2)
    y = Conv(b, w3)
""", w1=(6, 3, 1, 1), shape=[1, 6, 8, 8], w2=(4, 6, 1, 1), w3=(2, 4, 1, 1))  # fmt: skip

case("expand_to_a_computed_shape", "float[1,3,8,8] x", "float[1,2,8,8] y", """
    a = Conv(x, w1)
    p = GlobalAveragePool(x)
    q = Conv(p, w2)
    s = Shape(a)
    e = Expand(q, s)
    c = Concat<axis=1>(a, e)
    y = Conv(c, w3)
""", w1=(6, 3, 1, 1), w2=(6, 3, 1, 1), w3=(2, 12, 1, 1))  # fmt: skip

case("expand_at_run_time", "float[N,3,H,W] x", "float[N,2,H2,W2] y", """
    a = Conv(x, w1)
    p = GlobalAveragePool(a)
    s = Shape(a)
    e = Expand(p, s)
    b = Conv(e, w2)
    y = Conv(b, w3)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), w3=(2, 4, 1, 1))  # fmt: skip

case("expand_makes_channels", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    e = Expand(b, shape)
    y = Conv(e, w3)
""", w1=(6, 3, 1, 1), w2=(1, 6, 1, 1), shape=[1, 5, 1, 1], w3=(2, 5, 1, 1))  # fmt: skip

case("tile", X, "float[N,2,16,8] y", """
    a = Conv(x, w1)
    t = Tile(a, space)
    b = Conv(t, w2)
    u = Tile(b, channels)
    y = Conv(u, w3)
""", w1=(6, 3, 1, 1), space=[1, 1, 2, 1], w2=(4, 6, 1, 1), channels=[1, 2, 1, 1], w3=(2, 8, 1, 1))  # fmt: skip

case("pad_of_channels", X, "float[N,2,10,10] y", """
    a = Conv(x, w1)
    p = Pad(a, amounts, seven)
    r = Relu(p)
    y = Conv(r, w2)
""", w1=(6, 3, 1, 1), amounts=[0, 1, 1, 1, 0, 2, 1, 1], seven=scalar(7), w2=(2, 9, 1, 1))  # fmt: skip

case("pad_by_axes", X, "float[N,2,8,9] y", """
    a = Conv(x, w1)
    p = Pad(a, amounts, "", axes)
    y = Conv(p, w2)
""", w1=(6, 3, 1, 1), amounts=[1, 0, 2, 1], axes=[1, -1], w2=(2, 9, 1, 1), opset=18)  # fmt: skip

case("pad_that_cuts_channels", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    p = Pad(b, amounts)
    y = Conv(p, w3)
""", w1=(4, 3, 1, 1), w2=(6, 4, 1, 1), amounts=[0, -1, 0, 0, 0, 2, 0, 0], w3=(2, 7, 1, 1))  # fmt: skip

case("pad_by_reflection", X, "float[N,2,10,8] y", """
    a = Conv(x, w1)
    p = Pad<mode="reflect">(a, rows)
    b = Conv(p, w2)
    q = Pad<mode="edge">(b, channels)
    y = Conv(q, w3)
""", w1=(6, 3, 1, 1), rows=[0, 0, 1, 0, 0, 0, 1, 0], w2=(4, 6, 1, 1), channels=[0, 1, 0, 0, 0, 0, 0, 0],
    w3=(2, 5, 1, 1))  # fmt: skip

case("pad_to_a_dynamic_size", "float[N,3,H,W] x", "float[N,2,H2,W2] y", """
    a = Conv(x, w1)
    s = Shape(a)
    hw = Slice(s, two, four)
    amounts = Concat<axis=0>(zeros, zeros, zeros, hw)
    p = Pad(a, amounts)
    y = Conv(p, w2)
""", w1=(6, 3, 1, 1), two=[2], four=[4], zeros=[0, 0], w2=(2, 6, 1, 1))  # fmt: skip

case("pad_at_run_time", "float[N,3,8,8] x, int64[8] k", "float[N,2,H,W] y", """
    a = Conv(x, w1)
    p = Pad(a, k)
    y = Conv(p, w2)
""", w1=(6, 3, 1, 1), w2=(2, 6, 1, 1), runs=False)  # fmt: skip

# ------------------------------------------------------------------------------------------------ element-wise

case("arithmetic", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(x, w2)
    c = Sub(a, b)
    d = Mul(c, k)
    e = Div(d, l)
    f = Sub(one, e)
    g = Max(f, zero, a)
    h = Where(cond, g, f)
    y = Conv(h, w3)
""", w1=(6, 3, 1, 1), w2=(6, 3, 1, 1), k=(6, 1, 1), l=(1, 6, 1, 1), one=scalar(1),
    zero=np.zeros(1, np.float32), cond=np.arange(64).reshape(8, 8) % 2 == 0, w3=(2, 6, 1, 1))  # fmt: skip

case("tail", X, "float[N,2,8,8] y", """
    a = Conv(x, w1, b1)
    d = Mul(a, k)
    e = Sub(d, l)
    f = Sub(one, e)
    g = Div(f, l)
    r = Relu(g)
    c = Conv(r, w2)
    y = Add(c, s)
""", w1=(6, 3, 1, 1), b1=(6,), k=(6, 1, 1), l=(1, 6, 1, 1), one=scalar(1), w2=(2, 6, 1, 1),
    s=scalar(1))  # fmt: skip

case("constant_spans_space", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    d = Add(a, k)
    y = Conv(d, w2)
""", w1=(6, 3, 1, 1), k=(1, 6, 8, 8), w2=(2, 6, 1, 1))  # fmt: skip

case("constant_makes_channels", "float[N,1,8,8] x", "float[N,2,8,8] y", """
    d = Mul(x, k)
    y = Conv(d, w)
""", k=(6, 1, 1), w=(2, 6, 1, 1))  # fmt: skip

case("sum_with_the_input", "float[N,6,8,8] x", "float[N,2,8,8] y", """
    a = Conv(x, w1)
    s = Add(a, x)
    y = Conv(s, w2)
""", w1=(6, 6, 1, 1), w2=(2, 6, 1, 1))  # fmt: skip

case("dropout", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    d, mask = Dropout(a)
    c = Cast<to=1>(d)
    y = Conv(c, w2)
""", w1=(6, 3, 1, 1), w2=(2, 6, 1, 1))  # fmt: skip

case("divides_by_the_number_of_channels", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    s = Shape(a)
    c = Gather(s, one)
    f = Cast<to=1>(c)
    d = Div(a, f)
    b = Conv(d, w2)
    y = Conv(b, w3)
""", w1=(6, 3, 1, 1), one=np.asarray(1), w2=(4, 6, 1, 1), w3=(2, 4, 1, 1))  # fmt: skip

case("divides_by_one_of_all_sizes", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    s = Shape(a)
    f = Cast<to=1>(s)
    c = Gather(f, one)
    d = Div(a, c)
    y = Conv(d, w2)
""", w1=(6, 3, 1, 1), one=np.asarray(1), w2=(2, 6, 1, 1))  # fmt: skip

case("counts_elements", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    s = Size(a)
    f = Cast<to=1>(s)
    d = Div(a, f)
    b = Conv(d, w2)
    y = Conv(b, w3)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), w3=(2, 4, 1, 1))  # fmt: skip

case("zeros_like", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    s = Shape(a)
    z = ConstantOfShape(s)
    m = Max(a, z)
    b = Conv(m, w2)
    y = Conv(b, w3)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), w3=(2, 4, 1, 1))  # fmt: skip

case("constants_of_the_size_of_channels", X, "float[N,2,8,8] y, float[N,2,8,8] z", """
    a = Conv(x, w1)
    s = Shape(a)
    c = Gather(s, one)
    t = Concat<axis=0>(one, c, one, one)
    f = ConstantOfShape<value=float[1]{0.5}>(t)
    m = Mul(a, f)
    e = Expand(number, s)
    b = Conv(x, w2)
    n = Max(b, e)
    y = Conv(m, w3)
    z = Conv(n, w4)
""", w1=(6, 3, 1, 1), w2=(6, 3, 1, 1), one=[1], number=np.full(1, 0.5, np.float32), w3=(2, 6, 1, 1),
    w4=(2, 6, 1, 1))  # fmt: skip

case("constants_of_a_size_that_is_calculated", "float[N,3,H,W] x", "float[N,2,H,W] y, float[N,2,H,W] z", """
    a = Conv(x, w1)
    b = Conv(x, w2)
    s = Shape(a)
    c = Gather(s, one)
    h = Div(c, two)
    d = Mul(h, two)
    r = Slice(s, two, four)
    t = Concat<axis=0>(one, d, r)
    f = ConstantOfShape<value=float[1]{0.5}>(t)
    m = Mul(a, f)
    q = Shape(b)
    g = Slice(q, one, two)
    l = Clip(g, six)
    u = Concat<axis=0>(one, l, r)
    p = GlobalAveragePool(b)
    e = Expand(p, u)
    n = Mul(b, e)
    y = Conv(m, w3)
    z = Conv(n, w4)
""", w1=(6, 3, 1, 1), w2=(6, 3, 1, 1), one=[1], two=[2], four=[4], six=np.asarray(6), w3=(2, 6, 1, 1),
    w4=(2, 6, 1, 1))  # fmt: skip

case("a_constant_of_twice_the_size_of_channels", "float[N,6] x", "float[N,3] y, float[16] z", """
    a = Gemm(x, w1)
    b = Relu(a)
    s = Shape<start=1, end=2>(b)
    t = Mul(s, two)
    f = ConstantOfShape<value=float[1]{0.5}>(t)
    z = Add(f, k)
    y = Gemm(b, w2)
""", w1=(6, 8), two=[2], k=(16,), w2=(8, 3))  # fmt: skip

case("constants_of_the_number_of_heads", "float[N,6] x", "float[N,5] y, float[N,2] z", """
    a = Gemm(x, w1)
    h = Reshape(a, apart)
    i = Gather<axis=2>(h, order)
    s = Shape<start=1, end=2>(h)
    t = Shape<start=1, end=2>(i)
    e = ConstantOfShape<value=float[1]{0.5}>(s)
    f = ConstantOfShape<value=float[1]{1.5}>(t)
    c = Concat<axis=0>(e, f)
    b = Gemm(x, w2)
    m = Mul(b, c)
    z = Gemm(m, w3)
    r = Flatten(h)
    y = Gemm(r, w4)
""", w1=(6, 12), apart=[0, 3, 4], order=[2, 3, 0, 1], w2=(6, 6), w3=(6, 2), w4=(12, 5))  # fmt: skip

case("numbers_by_channels", "float[N,6] x", "float[N,3] y, float[N,2] z", """
    s = ReduceSum(x, one)
    k = Mul(s, w)
    r = Relu(k)
    y = Gemm(r, w1)
    a = Gemm(x, w2)
    b = Unsqueeze(a, two)
    c = Unsqueeze(k, one)
    m = Mul(b, c)
    t = ReduceSum<keepdims=0>(m, two)
    z = Gemm(t, w3)
""", one=[1], two=[2], w=(5,), w1=(5, 3), w2=(6, 4), w3=(4, 2))  # fmt: skip

case("sampling", "float[N,6] x", "float[N,3] y", """
    m = Gemm(x, w1)
    s = Gemm(x, w2)
    n = RandomNormalLike<seed=1.0>(s)
    r = Exp(s)
    d = Mul(n, r)
    z = Add(m, d)
    y = Gemm(z, w3)
""", w1=(6, 8), w2=(6, 8), w3=(8, 3))  # fmt: skip

case("reductions", X, "float[N,2,1,1] y", """
    a = Conv(x, w1)
    m = ReduceMax<axes=[1], keepdims=1>(a)
    b = Conv(x, w2)
    s = ReduceSum(b, axes)
    g = Mul(s, m)
    h = ReduceL2<axes=[2,3]>(g)
    y = Conv(h, w3)
""", w1=(6, 3, 1, 1), w2=(4, 3, 1, 1), axes=[2], w3=(2, 4, 1, 1))  # fmt: skip

case("reduce_everything", X, "float[N] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    t = ReduceMean(b)
    s = ReduceSum<noop_with_empty_axes=1>(b)
    u = Mul(s, t)
    y = ReduceMean<axes=[1,2,3], keepdims=0>(u)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1))  # fmt: skip

case("argmax", X, "int64[N,8,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    y = ArgMax<axis=1, keepdims=0>(b)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1))  # fmt: skip

case("pool_with_indices", X, "float[N,2,4,4] y, int64[N,6,4,4] i", """
    a = Conv(x, w1)
    p, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
    y = Conv(p, w2)
""", w1=(6, 3, 1, 1), w2=(2, 6, 1, 1))  # fmt: skip

case("rows_into_a_product", "float[4,5] x", "float[6,3] y", """
    a = MatMul(x, w1)
    b = Transpose(a)
    c = Gemm(b, w2)
    d = MatMul(b, w2)
    e = Add(c, d)
    y = MatMul(e, w3)
""", w1=(5, 6), w2=(4, 7), w3=(7, 3))  # fmt: skip

case("integer_product", "int32[N,4] x", "int32[N,3] y", "y = MatMul(x, w)",
     w=np.arange(12, dtype=np.int32).reshape(4, 3))  # fmt: skip

case("cut_at_run_time", "float[N,3,8,8] x, int64[1] k, int64[2] p, int64[8] q", """
    float[N,3,8,8] u, float[N,3,8,8] s, float[N,5,8,8] t, float[N,8,10,10] v, float[N,1,8,8] w""", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    u = Slice(b, zero, k, axes)
    c = Conv(a, w3)
    s, t = Split<axis=1>(c, p)
    d = Conv(a, w4)
    v = Pad(d, q)
    e = Conv(a, w5)
    w = ReduceSum(e, k)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), zero=[0], axes=[1], w3=(8, 6, 1, 1), w4=(8, 6, 1, 1), w5=(4, 6, 1, 1),
    runs=False)  # fmt: skip

case("reshape_at_run_time", "float[N,3,H,W] x", "float[H,W] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    s = Shape(b)
    h = Slice(s, two, three)
    w = Slice(s, three, four)
    t = Concat<axis=0>(h, minus, w)
    r = Reshape(b, t)
    y = ReduceSum<keepdims=0>(r, one)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), one=[1], two=[2], three=[3], four=[4], minus=[-1])  # fmt: skip

case("expand_to_as_many_as_there_are_rows_of_channels", "float[N,3,L] x", "float[N,1,L,2] y", """
    a = Conv(x, w1)
    r = Reshape(a, apart)
    f = Slice(r, zero, one, axis)
    m = ReduceMax<axes=[3]>(f)
    s = Shape(r)
    n = Slice(s, one, axis)
    z = Shape(x)
    b = Slice(z, zero, one)
    l = Slice(z, axis, end)
    t = Concat<axis=0>(b, n, one, l)
    e = Expand(m, t)
    q = Transpose<perm=[0,2,3,1]>(e)
    y = MatMul(q, w2)
""", w1=(6, 3, 1), apart=[0, 3, 2, -1], zero=[0], one=[1], axis=[2], end=[3], w2=(3, 2))  # fmt: skip

case("expand_to_the_size_of_another_layer", "float[N,3,H,W] x", "float[N,2,H2,W2] y", """
    a = Conv(x, w1)
    b = Conv(x, w2)
    p = GlobalAveragePool(a)
    s = Shape(b)
    e = Expand(p, s)
    c = Concat<axis=1>(b, e)
    y = Conv(c, w3)
""", w1=(6, 3, 1, 1), w2=(6, 3, 1, 1), w3=(2, 12, 1, 1))  # fmt: skip

case("constant_of_a_computed_shape", "float[N,3,8,8] x", "float[N,2,8,8] y", """
    a = Conv(x, w1)
    s = Shape(a)
    c = Slice(s, one, two)
    t = Concat<axis=0>(c, one)
    k = Reshape(six, t)
    m = ReduceMean(k)
    b = Mul(a, m)
    y = Conv(b, w2)
""", w1=(6, 3, 1, 1), one=[1], two=[2], six=(6,), w2=(2, 6, 1, 1))  # fmt: skip

case("constant_of_a_compared_shape", "float[N,3,8,8] x", "float[N,2,8,8] y", """
    a = Conv(x, w1)
    s = Shape(a)
    c = Slice(s, one, two)
    n = Slice(s, zero, one)
    l = Min(n, one)
    t = Concat<axis=0>(c, l, one)
    k = Reshape(six, t)
    b = Mul(a, k)
    y = Conv(b, w2)
""", w1=(6, 3, 1, 1), zero=[0], one=[1], two=[2], six=(6,), w2=(2, 6, 1, 1))  # fmt: skip

case("batchnorm_of_elements", "float[N,3,8,8] x", "float[N,2,8,8] y", """
    a = Conv(x, w1)
    n = BatchNormalization<spatial=0>(a, k, k, k, k)
    y = Conv(n, w2)
""", w1=(6, 3, 1, 1), k=(6, 8, 8), w2=(2, 6, 1, 1), opset=7, ir=3, runs=False)  # fmt: skip

# ------------------------------------------------------------------------------------------------ blocks of networks

case("bottleneck", X, "float[N,3] y", """
    s = Conv<pads=[1,1,1,1]>(x, ws)
    a = Conv(s, w1)
    r = Relu(a)
    b = Conv<pads=[1,1,1,1], strides=[2,2]>(r, w2)
    q = Relu(b)
    c = Conv(q, w3)
    d = Conv<strides=[2,2]>(s, w4)
    add = Add(c, d)
    e = Relu(add)
    g = GlobalAveragePool(e)
    f = Flatten(g)
    y = Gemm<transB=1>(f, w5)
""", ws=(6, 3, 3, 3), w1=(4, 6, 1, 1), w2=(4, 4, 3, 3), w3=(8, 4, 1, 1), w4=(8, 6, 1, 1), w5=(3, 8))  # fmt: skip

case("c2f", X, "float[N,3,8,8] y", """
    s = Conv(x, ws)
    u, v = Split<axis=1>(s, halves)
    a = Conv<pads=[1,1,1,1]>(v, w1)
    b = Conv<pads=[1,1,1,1]>(a, w2)
    c = Add(v, b)
    d = Conv<pads=[1,1,1,1]>(c, w3)
    e = Conv<pads=[1,1,1,1]>(d, w4)
    f = Add(c, e)
    g = Concat<axis=1>(u, v, c, f)
    y = Conv(g, w5)
""", ws=(8, 3, 1, 1), halves=[4, 4], w1=(5, 4, 3, 3), w2=(4, 5, 3, 3), w3=(6, 4, 3, 3), w4=(4, 6, 3, 3),
    w5=(3, 16, 1, 1))  # fmt: skip

case("elan", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    b = Conv(x, w2)
    c = Conv<pads=[1,1,1,1]>(b, w3)
    d = Conv<pads=[1,1,1,1]>(c, w4)
    e = Concat<axis=1>(a, b, c, d)
    f = Conv(e, w5)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(f)
    u = Resize<mode="nearest">(p, "", scales)
    g = Concat<axis=1>(u, f)
    y = Conv(g, w6)
""", w1=(4, 3, 1, 1), w2=(4, 3, 1, 1), w3=(5, 4, 3, 3), w4=(6, 5, 3, 3), w5=(7, 19, 1, 1),
    scales=np.asarray([1, 1, 2, 2], np.float32), w6=(3, 14, 1, 1))  # fmt: skip

case("sppf", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    b = MaxPool<kernel_shape=[5,5], pads=[2,2,2,2]>(a)
    c = MaxPool<kernel_shape=[5,5], pads=[2,2,2,2]>(b)
    d = Concat<axis=1>(a, b, c)
    y = Conv(d, w2)
""", w1=(6, 3, 1, 1), w2=(3, 18, 1, 1))  # fmt: skip

case("detect", X, "float[N,4,64] box, float[N,3,64] score", """
    a = Conv<pads=[1,1,1,1]>(x, w1)
    b = Conv(a, w2)
    c = Conv<pads=[1,1,1,1]>(x, w3)
    d = Conv(c, w4)
    e = Concat<axis=1>(b, d)
    f = Reshape(e, flat)
    g, h = Split<axis=1>(f, parts)
    i = Reshape(g, bins)
    j = Transpose<perm=[0,2,1,3]>(i)
    k = Softmax<axis=1>(j)
    l = Conv(k, expectation)
    box = Reshape(l, boxes)
    score = Sigmoid(h)
""", w1=(6, 3, 3, 3), w2=(16, 6, 1, 1), w3=(5, 3, 3, 3), w4=(3, 5, 1, 1), flat=[0, 19, -1], parts=[16, 3],
    bins=[0, 4, 4, 64], expectation=np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1), boxes=[0, 4, 64])  # fmt: skip

case("coordinate_attention", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    h = ReduceMean<axes=[3]>(a)
    w0 = ReduceMean<axes=[2]>(a)
    w = Transpose<perm=[0,1,3,2]>(w0)
    c = Concat<axis=2>(h, w)
    d = Conv(c, w2)
    e = HardSwish(d)
    f, g0 = Split<axis=2>(e, halves)
    g = Transpose<perm=[0,1,3,2]>(g0)
    i = Conv(f, w3)
    j = Conv(g, w4)
    k = Sigmoid(i)
    l = Sigmoid(j)
    m = Mul(a, l)
    n = Mul(m, k)
    y = Conv(n, w5)
""", w1=(8, 3, 1, 1), w2=(4, 8, 1, 1), halves=[8, 8], w3=(8, 4, 1, 1), w4=(8, 4, 1, 1), w5=(3, 8, 1, 1))  # fmt: skip

case("efficient_channel_attention", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    g = GlobalAveragePool(a)
    s = Squeeze(g, last)
    t = Transpose<perm=[0,2,1]>(s)
    c = Conv<pads=[1,1]>(t, wc)
    u = Transpose<perm=[0,2,1]>(c)
    v = Unsqueeze(u, last)
    w = Sigmoid(v)
    m = Mul(a, w)
    b = Conv(m, w2)
    y = Conv(b, w3)
""", w1=(8, 3, 1, 1), last=[3], wc=(1, 1, 3), w2=(5, 8, 1, 1), w3=(3, 5, 1, 1))  # fmt: skip

case("shortcut_of_every_other_channel", X, "float[N,3,8,8] y", """
    s = Conv<pads=[1,1,1,1]>(x, ws)
    a = Conv<pads=[1,1,1,1]>(s, w1)
    r = Relu(a)
    b = Conv<pads=[1,1,1,1]>(r, w2)
    c = Slice(s, start, end, one)
    d = Pad(c, amounts)
    add = Add(b, d)
    y = Conv(add, w3)
""", ws=(6, 3, 3, 3), w1=(5, 6, 3, 3), w2=(8, 5, 3, 3), start=[1], end=[5], one=[1],
    amounts=[0, 1, 0, 0, 0, 3, 0, 0], w3=(3, 8, 1, 1))  # fmt: skip

case("shuffles_that_do_not_nest", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    b = Reshape(a, by_two)
    c = Transpose<perm=[0,2,1,3,4]>(b)
    d = Reshape(c, join)
    e = Reshape(d, by_three)
    f = Transpose<perm=[0,2,1,3,4]>(e)
    g = Reshape(f, join)
    y = Conv(g, w2)
""", w1=(12, 3, 1, 1), by_two=[0, 2, 6, 8, 8], by_three=[0, 3, 4, 8, 8], join=[0, 12, 8, 8],
    w2=(3, 12, 1, 1))  # fmt: skip

case("mixer", "float[N,4,6] x", "float[N,4,3] y", """
    s = MatMul(x, ws)
    n = LayerNormalization(s, g, h)
    t = Transpose<perm=[0,2,1]>(n)
    a = MatMul(t, w1)
    b = Add(a, b1)
    c = Relu(b)
    d = MatMul(c, w2)
    u = Transpose<perm=[0,2,1]>(d)
    add = Add(s, u)
    m = LayerNormalization(add, g, h)
    e = MatMul(m, w3)
    f = Relu(e)
    i = MatMul(f, w4)
    add2 = Add(add, i)
    y = MatMul(add2, w5)
""", ws=(6, 6), g=(6,), h=(6,), w1=(4, 7), b1=(7,), w2=(7, 4), w3=(6, 8), w4=(8, 6), w5=(6, 3))  # fmt: skip

case("mixer_without_normalization", "float[N,4,6] x", "float[N,4,3] y", """
    s = MatMul(x, ws)
    m = Mul(s, scale)
    t = Transpose<perm=[0,2,1]>(m)
    d = MatMul(t, w1)
    u = Transpose<perm=[0,2,1]>(d)
    add = Add(s, u)
    y = MatMul(add, w2)
""", ws=(6, 8), scale=(8,), w1=(4, 4), w2=(8, 3))  # fmt: skip

case("gate_over_places", "float[N,4,6] x", "float[N,4,3] y", """
    a = MatMul(x, w1)
    u, v = Split<axis=-1>(a, halves)
    n = LayerNormalization(v, g, h)
    t = Transpose<perm=[0,2,1]>(n)
    p = MatMul(t, wp)
    q = Transpose<perm=[0,2,1]>(p)
    m = Mul(u, q)
    y = MatMul(m, w2)
""", w1=(6, 10), halves=[5, 5], g=(5,), h=(5,), wp=(4, 4), w2=(5, 3))  # fmt: skip

case("global_response_normalization", "float[N,4,4,6] x", "float[N,4,4,3] y", """
    a = MatMul(x, w1)
    r = Relu(a)
    n = ReduceL2<axes=[1,2]>(r)
    m = ReduceMean<axes=[-1]>(n)
    d = Div(n, m)
    z = Mul(r, d)
    y = MatMul(z, w2)
""", w1=(6, 8), w2=(8, 3))  # fmt: skip

case("products_summed_over_channels", "float[N,6] x, float[N,5] x2", "float[N,1] y", """
    a0 = MatMul(x, w1)
    a = Relu(a0)
    b0 = MatMul(x2, w2)
    b = Tanh(b0)
    p = Mul(a, b)
    y = ReduceSum(p, last)
""", w1=(6, 8), w2=(5, 8), last=[-1])  # fmt: skip

case("mean_over_channels_as_attention_to_places", X, "float[N,2,8,8] y", """
    a0 = Conv(x, w1)
    a = Relu(a0)
    m = ReduceMean<axes=[1]>(a)
    g0 = Conv<pads=[1,1,1,1]>(m, wg)
    g = Sigmoid(g0)
    z = Mul(a, g)
    y = Conv(z, w2)
""", w1=(8, 3, 1, 1), wg=(1, 1, 3, 3), w2=(2, 8, 1, 1))  # fmt: skip

case("softmax_of_channels_in_pieces", "float[N,6] x", "float[N,3] y", """
    a = MatMul(x, w1)
    e = Exp(a)
    s = ReduceSum(e, last)
    p = Div(e, s)
    y = MatMul(p, w2)
""", w1=(6, 8), w2=(8, 3), last=[-1])  # fmt: skip

case("rows_of_a_stack_compared", "float[2,4,6] x", "int64[2,1,5] y", """
    a = MatMul(x, w1)
    t = Transpose<perm=[0,2,1]>(a)
    b = MatMul(t, stack)
    y = ArgMax<axis=1>(b)
""", w1=(6, 8), stack=(2, 4, 5))  # fmt: skip

case("class_token_of_a_batch", "float[N,3,4,4] x", "float[N,3] y", """
    p = Conv<strides=[2,2]>(x, wp)
    f = Reshape(p, flat)
    t = Transpose<perm=[0,2,1]>(f)
    size = Shape(t)
    n = Slice(size, zero, one)
    many = Concat<axis=0>(n, token_sizes)
    c = Expand(token, many)
    z = Concat<axis=1>(c, t)
    e = Add(z, position)
    a = MatMul(e, w1)
    r = Relu(a)
    b = MatMul(r, w2)
    s = Add(e, b)
    h = Slice(s, zero, one, one)
    q = Squeeze(h, one)
    y = Gemm(q, w3)
""", wp=(6, 3, 2, 2), flat=[0, 6, 4], zero=[0], one=[1], token_sizes=[1, 6], token=(1, 1, 6), position=(1, 5, 6),
    w1=(6, 8), w2=(8, 6), w3=(6, 3))  # fmt: skip

case("class_token_of_ones", "float[N,3,4,4] x", "float[N,3] y", """
    p = Conv<strides=[2,2]>(x, wp)
    f = Reshape(p, flat)
    t = Transpose<perm=[0,2,1]>(f)
    size = Shape(t)
    n = Slice(size, zero, one)
    many = Concat<axis=0>(n, ones)
    c = Expand(token, many)
    z = Concat<axis=1>(c, t)
    e = Add(z, position)
    a = MatMul(e, w1)
    r = Relu(a)
    b = MatMul(r, w2)
    s = Add(e, b)
    h = Slice(s, zero, one, one)
    q = Squeeze(h, one)
    y = Gemm(q, w3)
""", wp=(6, 3, 2, 2), flat=[0, 6, 4], zero=[0], one=[1], ones=[1, 1], token=(1, 1, 6), position=(1, 5, 6),
    w1=(6, 8), w2=(8, 6), w3=(6, 3))  # fmt: skip

case("class_token_that_is_added_to_zeros", "float[N,3,4,4] x", "float[N,3] y", """
    p = Conv<strides=[2,2]>(x, wp)
    f = Reshape(p, flat)
    t = Transpose<perm=[0,2,1]>(f)
    size = Shape(x)
    n = Slice(size, zero, one)
    many = Concat<axis=0>(n, token_sizes)
    nothing = ConstantOfShape(many)
    c = Add(nothing, token)
    z = Concat<axis=1>(c, t)
    e = Add(z, position)
    a = MatMul(e, w1)
    r = Relu(a)
    b = MatMul(r, w2)
    s = Add(e, b)
    h = Slice(s, zero, one, one)
    q = Squeeze(h, one)
    y = Gemm(q, w3)
""", wp=(6, 3, 2, 2), flat=[0, 6, 4], zero=[0], one=[1], token_sizes=[1, 6], token=(6,), position=(5, 6),
    w1=(6, 8), w2=(8, 6), w3=(6, 3))  # fmt: skip

case("token_for_every_channel", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    batch = Shape<end=1>(a)
    channels = Shape<start=1, end=2>(a)
    size = Concat<axis=0>(batch, channels, ones)
    e = Expand(token, size)
    t = ReduceSum<keepdims=0>(e, middle)
    c = Unsqueeze(t, places)
    b = Conv(a, w2)
    d = Mul(b, c)
    y = Conv(d, w3)
""", w1=(5, 3, 1, 1), ones=[1], token=(1, 1, 6), middle=[1], places=[2, 3], w2=(6, 5, 1, 1),
    w3=(2, 6, 1, 1))  # fmt: skip

case("class_token", "float[1,3,4,4] x", "float[1,3] y", """
    p = Conv<strides=[2,2]>(x, wp)
    f = Reshape(p, flat)
    t = Transpose<perm=[0,2,1]>(f)
    c = Expand(token, many)
    z = Concat<axis=1>(c, t)
    e = Add(z, position)
    a = MatMul(e, w1)
    r = Relu(a)
    b = MatMul(r, w2)
    s = Add(e, b)
    h = Slice(s, zero, one, one)
    q = Squeeze(h, one)
    y = Gemm(q, w3)
""", wp=(6, 3, 2, 2), flat=[0, 6, 4], many=[1, 1, 6], zero=[0], one=[1], token=(1, 1, 6), position=(1, 5, 6),
    w1=(6, 8), w2=(8, 6), w3=(6, 3))  # fmt: skip

case("encoder_of_decomposed_norms", "float[N,4,6] x", "float[N,4,3] y", """
    s = MatMul(x, ws)
    m = ReduceMean<axes=[-1]>(s)
    d = Sub(s, m)
    p = Pow(d, two)
    v = ReduceMean<axes=[-1]>(p)
    e = Add(v, small)
    r = Sqrt(e)
    n0 = Div(d, r)
    n1 = Mul(n0, gamma)
    n = Add(n1, beta)
    qkv0 = MatMul(n, w)
    qkv1 = Reshape(qkv0, heads)
    qkv = Transpose<perm=[2,0,3,1,4]>(qkv1)
    q = Gather<axis=0>(qkv, at0)
    k0 = Gather<axis=0>(qkv, at1)
    k = Transpose<perm=[0,1,3,2]>(k0)
    u = Gather<axis=0>(qkv, at2)
    l = MatMul(q, k)
    a = Softmax<axis=-1>(l)
    o0 = MatMul(a, u)
    o1 = Transpose<perm=[0,2,1,3]>(o0)
    o = Reshape(o1, join)
    z = MatMul(o, wo)
    add = Add(s, z)
    f = MatMul(add, w1)
    g = Relu(f)
    h = MatMul(g, w2)
    add2 = Add(add, h)
    y = MatMul(add2, wy)
""", ws=(6, 6), two=scalar(2), small=scalar(1e-5), gamma=(6,), beta=(6,), w=(6, 18), heads=[0, 4, 3, 3, 2],
    at0=np.asarray(0), at1=np.asarray(1), at2=np.asarray(2), join=[0, 4, 6], wo=(6, 6), w1=(6, 8), w2=(8, 6),
    wy=(6, 3))  # fmt: skip

case("bfloat16", "bfloat16[N,6] x", "bfloat16[N,3] y", """
    a = Gemm<transB=1>(x, w1, b1)
    r = Relu(a)
    y = Gemm<transB=1>(r, w2)
""", w1=np.ones((8, 6), bfloat16), b1=np.ones(8, bfloat16), w2=np.ones((3, 8), bfloat16), runs=False)  # fmt: skip

case("loop_of_a_constant_number", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    l = Loop(times, yes, a) <body = g (int64 i, bool go, float[N,6,8,8] s)
        => (bool go_on, float[N,6,8,8] t) { go_on = Identity(go)  t = Mul(s, k) }>
    y = Conv(l, w2)
""", w1=(6, 3, 1, 1), k=(6, 1, 1), times=np.asarray(2), yes=np.asarray(True), w2=(2, 6, 1, 1))  # fmt: skip

case("if_that_a_size_decides", "float[N,4,6] x", "float[N,4,3] y", """
    a = MatMul(x, w1)
    u = Unsqueeze(a, one)
    s = Shape(u)
    n = Gather<axis=0>(s, one)
    c = Equal(n, one)
    b = If(c) <then_branch = t () => (float[N,4,8] q) { q = Squeeze(u, one) },
               else_branch = e () => (float[N,1,4,8] q) { q = Identity(u) }>
    y = MatMul(b, w2)
""", w1=(6, 8), one=[1], w2=(8, 3))  # fmt: skip

case("sequence_of_a_loop", "float[N,5,6] x", "float[N,1,3] y, float[N,4,2] z", """
    a = MatMul(x, w1)
    none = SequenceEmpty()
    parts = Loop(times, yes, none) <body = g (int64[1] i, bool go, seq(float[N,M,8]) s) => (
        bool go_on, seq(float[N,M,8]) t) {
            low = Gather<axis=0>(places, i)
            j = Add(i, one)
            high = Gather<axis=0>(places, j)
            p = Slice(a, low, high, one)
            go_on = Identity(yes)
            t = SequenceInsert(s, p) }>
    rest = Slice(a, one, five, one)
    all = SequenceInsert(parts, rest)
    first = SequenceAt(all, zero)
    last = SequenceAt(all, minus)
    y = MatMul(first, w2)
    z = MatMul(last, w3)
""", w1=(6, 8), times=[1], yes=np.asarray(True), places=[0, 1], one=[1], five=[5], zero=np.asarray(0),
    minus=np.asarray(-1), w2=(8, 3), w3=(8, 2))  # fmt: skip

case("sequences_joined", "float[N,6] x", "float[N,3] y, float[N,2,2] z, int64 n", """
    a = MatMul(x, w1)
    b = MatMul(x, w2)
    s = SequenceConstruct(a, b)
    t = SequenceInsert(s, b, zero)
    u = SequenceErase(t, two)
    c = ConcatFromSequence<axis=1>(u)
    d = ConcatFromSequence<axis=1, new_axis=1>(u)
    y = MatMul(c, w3)
    z = MatMul(d, w4)
    n = SequenceLength(t)
""", w1=(6, 8), w2=(6, 8), zero=np.asarray(0), two=np.asarray(2), w3=(16, 3), w4=(8, 2))  # fmt: skip

case("loop_body", X + ", int64 times", "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    c = Conv(a, w3)
    l = Loop(times, yes, c) <body = g (int64 i, bool go, float[N,4,8,8] s)
        => (bool go_on, float[N,4,8,8] t) { go_on = Identity(go)  t = Add(s, b) }>
    d = Conv(l, w4)
    e = Conv(a, w5)
    y = Add(d, e)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), w3=(4, 6, 1, 1), yes=np.asarray(True),
    w4=(2, 4, 1, 1), w5=(2, 6, 1, 1))  # fmt: skip

# ------------------------------------------------------------------------------------------------ Einsum

case("einsum_as_a_layer", "float[N,4,6] x", "float[N,4,3] y", """
    a = Einsum<equation="bsd,de->bse">(x, w1)
    r = Relu(a)
    b = Einsum<equation="b s d, e d -> b s e">(r, w2)
    c = Add(b, b2)
    d = Einsum<equation="...c,cd">(c, w3)
    e = Einsum<equation="ed,bsd->bes">(w4, d)
    f = Einsum<equation="bes->bse">(e)
    y = MatMul(f, w5)
""", w1=(6, 8), w2=(7, 8), b2=(7,), w3=(7, 5), w4=(9, 5), w5=(9, 3))  # fmt: skip

case("einsum_attention", "float[N,4,6] x", "float[N,4,3] y", """
    q0 = Einsum<equation="abc,cde->abde">(x, wq)
    q = Add(q0, bq)
    k = Einsum<equation="abc,cde->abde">(x, wk)
    v = Einsum<equation="abc,cde->abde">(x, wv)
    l = Einsum<equation="aecd,abcd->acbe">(k, q)
    p = Softmax<axis=-1>(l)
    o = Einsum<equation="acbe,aecd->abcd">(p, v)
    z = Einsum<equation="abcd,cde->abe">(o, wo)
    r = Relu(z)
    y = MatMul(r, wy)
""", wq=(6, 3, 2), bq=(3, 2), wk=(6, 3, 2), wv=(6, 3, 4), wo=(3, 4, 5), wy=(5, 3))  # fmt: skip

case("einsum_of_dims_before_heads", "float[N,4,6] x", "float[N,4,3] y", """
    q = Einsum<equation="abc,cde->abed">(x, wq)
    l = Einsum<equation="acde,bcde->acbe">(q, q)
    o = Einsum<equation="acbe,bcde->acde">(l, q)
    z = Einsum<equation="abcd,cde->abe">(o, wo)
    y = MatMul(z, wy)
""", wq=(6, 3, 2), wo=(2, 3, 5), wy=(5, 3))  # fmt: skip

case("einsum_attention_of_shared_keys", "float[N,4,6] x", "float[N,4,3] y", """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q = Reshape(q0, heads)
    k = Reshape(k0, one)
    v = Reshape(v0, one)
    l = Einsum<equation="bqhd,bkhd->bhqk">(q, k)
    p = Softmax<axis=-1>(l)
    o0 = Einsum<equation="bhqk,bkhd->bqhd">(p, v)
    o = Reshape(o0, join)
    y = MatMul(o, wo)
""", wq=(6, 6), wk=(6, 2), wv=(6, 2), heads=[0, 4, 3, 2], one=[0, 4, 1, 2], join=[0, 4, 6], wo=(6, 3))  # fmt: skip

case("einsum_of_split_heads", "float[N,4,6] x", "float[N,4,3] y", """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)
    k = Reshape(k0, heads)
    v = Reshape(v0, heads)
    q = Einsum<equation="bshd,hde->bshe">(q1, turn)
    l = Einsum<equation="bqhd,bkhd->bhqk">(q, k)
    p = Softmax<axis=-1>(l)
    o0 = Einsum<equation="bhqk,bkhd->bqhd">(p, v)
    o = Reshape(o0, join)
    y = MatMul(o, wo)
""", wq=(6, 6), wk=(6, 6), wv=(6, 6), heads=[0, 4, 3, 2], turn=(3, 2, 2), join=[0, 4, 6], wo=(6, 3))  # fmt: skip

case("heads_pooled_along_the_batch", "float[N,4,6] x", "float[N,4,3] y", """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k = Transpose<perm=[0,2,1,3]>(k1)
    v = Transpose<perm=[0,2,1,3]>(v1)
    t = Transpose<perm=[0,1,3,2]>(k)
    size = Shape(t)
    n = Gather(size, at0)
    h = Gather(size, at1)
    nh = Mul(n, h)
    nh1 = Unsqueeze(nh, axis0)
    n1 = Unsqueeze(n, axis0)
    h1 = Unsqueeze(h, axis0)
    map = Concat<axis=0>(nh1, places)
    m = Reshape(t, map)
    p = Conv<group=2, pads=[1,1,1,1]>(m, wp, bp)
    rows = Concat<axis=0>(n1, h1, flat)
    r = Reshape(p, rows)
    s = Transpose<perm=[0,1,3,2]>(r)
    z = LayerNormalization(s, gamma, beta)
    u = Transpose<perm=[0,1,3,2]>(z)
    l = MatMul(q, u)
    a = Softmax<axis=-1>(l)
    o = MatMul(a, v)
    o1 = Transpose<perm=[0,2,1,3]>(o)
    o2 = Reshape(o1, join)
    y = MatMul(o2, wo)
""", wq=(6, 6), wk=(6, 6), wv=(6, 6), heads=[0, 4, 3, 2], at0=np.asarray(0), at1=np.asarray(1), axis0=[0],
    places=[2, 2, 2], wp=(2, 1, 3, 3), bp=(2,), flat=[2, -1], gamma=(2,), beta=(2,), join=[0, 4, 6],
    wo=(6, 3))  # fmt: skip

case("heads_in_the_batch_by_a_product_of_sizes", "float[N,4,6] x", "float[N,4,3] y", """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q2 = Transpose<perm=[0,2,1,3]>(q1)
    k2 = Transpose<perm=[0,2,3,1]>(k1)
    v2 = Transpose<perm=[0,2,1,3]>(v1)
    size = Shape(q2)
    nh = Gather(size, first)
    n = ReduceProd<keepdims=1>(nh)
    rows = Concat<axis=0>(n, four, two)
    columns = Concat<axis=0>(n, two, four)
    q = Reshape(q2, rows)
    k = Reshape(k2, columns)
    v = Reshape(v2, rows)
    l = MatMul(q, k)
    a = Softmax<axis=-1>(l)
    o = MatMul(a, v)
    back = Concat<axis=0>(nh, four, two)
    o1 = Reshape(o, back)
    o2 = Transpose<perm=[0,2,1,3]>(o1)
    o3 = Reshape(o2, join)
    m = MatMul(o3, wo)
    p = Transpose<perm=[0,2,1]>(m)
    t = Reshape(p, apart)
    g = GlobalAveragePool(t)
    d = Sub(t, g)
    e = Reshape(d, together)
    y = MatMul(e, wy)
""", wq=(6, 6), wk=(6, 6), wv=(6, 6), heads=[0, 4, 3, 2], first=[0, 1], four=[4], two=[2], join=[0, 4, 6], wo=(6, 5),
    apart=[0, 1, -1], together=[0, 4, 5], wy=(5, 3))  # fmt: skip

REPEATED_MASK = """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k = Transpose<perm=[0,2,3,1]>(k1)
    v = Transpose<perm=[0,2,1,3]>(v1)
    l = MatMul(q, k)
    size = Shape(x)
    n = Slice(size, at0, at1)
    square = Concat<axis=0>(n, four)
    m0 = Expand(one, square)
    m1 = Unsqueeze(m0, apart)
    m = Neg(m1)
    z = Add(l, m)
    a = Softmax<axis=-1>(z)
    o = MatMul(a, v)
    o1 = Transpose<perm=[0,2,1,3]>(o)
    o2 = Reshape(o1, join)
    y = MatMul(o2, wo)
"""
MASKED: dict[str, object] = {
    "wq": (6, 6), "wk": (6, 6), "wv": (6, 6), "heads": [0, 4, 3, 2], "at0": [0], "at1": [1], "four": [4],
    "one": scalar(1), "join": [0, 4, 6], "wo": (6, 3),
}  # fmt: skip

case(
    "attention_with_a_mask_of_repeated_ones", "float[N,4,6] x", "float[N,4,3] y", REPEATED_MASK, **MASKED, apart=[1, 2]
)

case("attention_with_a_mask_of_rows", "float[N,4,6] x", "float[N,4,3] y", REPEATED_MASK, **MASKED, apart=[1, 3])

case("einsum_of_relative_positions", "float[N,4,6] x, int64[2,2] at", "float[N,4,3] y", """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v0 = MatMul(x, wv)
    q1 = Reshape(q0, heads)
    k1 = Reshape(k0, heads)
    v1 = Reshape(v0, heads)
    q = Transpose<perm=[0,2,1,3]>(q1)
    k = Transpose<perm=[0,2,3,1]>(k1)
    v = Transpose<perm=[0,2,1,3]>(v1)
    t = Gather(table, at)
    places = Reshape(q, rows)
    r = Einsum<equation="bhijd,ikd->bhijk">(places, t)
    bias = Reshape(r, flat)
    l = MatMul(q, k)
    u = Concat<axis=-1>(bias, bias)
    z = Add(l, u)
    p = Softmax<axis=-1>(z)
    o = MatMul(p, v)
    o1 = Transpose<perm=[0,2,1,3]>(o)
    o2 = Reshape(o1, join)
    y = MatMul(o2, wo)
""", wq=(6, 6), wk=(6, 6), wv=(6, 6), heads=[0, 4, 3, 2], table=(5, 2), rows=[0, 3, 2, 2, 2], flat=[0, 3, 4, 2],
    join=[0, 4, 6], wo=(6, 3))  # fmt: skip

case("norm_of_one_group", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    r = Reshape(a, one)
    n = InstanceNormalization(r, scale, shift)
    back = Shape(a)
    g = Reshape(n, back)
    y = Conv(g, w2)
""", w1=(6, 3, 1, 1), one=[0, 1, -1], scale=(1,), shift=(1,), w2=(2, 6, 1, 1))  # fmt: skip

case("einsum_of_weighted_places", "float[N,4,6] x, float[N,5] z", "float[N,3] y", """
    a = MatMul(x, w1)
    p = MatMul(z, w2)
    e = Einsum<equation="ntd,nt->nd">(a, p)
    y = MatMul(e, w3)
""", w1=(6, 8), w2=(5, 4), w3=(8, 3))  # fmt: skip

case("einsum_of_weighted_parts", "float[N,6] x", "float[N,3] y", """
    a = MatMul(x, w1)
    r = Reshape(a, parts)
    b = MatMul(x, w2)
    s = Softmax<axis=1>(b)
    e = Einsum<equation="nab,na->nb">(r, s)
    y = MatMul(e, w3)
""", w1=(6, 8), parts=[0, 2, 4], w2=(6, 2), w3=(4, 3))  # fmt: skip

case("einsum_of_one_head", "float[N,4,6] x", "float[N,4,3] y, float[N] s", """
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    v = MatMul(x, wv)
    l = Einsum<equation="bqd,bkd->bqk">(q, k)
    o = Einsum<equation="bqk,bkd->bqd">(l, v)
    y = MatMul(o, wo)
    a = MatMul(x, wa)
    t = Einsum<equation="bsd->b">(a)
    c = MatMul(x, wc)
    e = Einsum<equation="bsd,bsd,bsd->b">(c, c, c)
    f = Einsum<equation="bsc,sz->bzc">(v, wt)
    g = ReduceSum<keepdims=0>(f, axes)
    i = ReduceSum<keepdims=0>(g, axis1)
    j = Add(t, e)
    s = Add(i, j)
""", wq=(6, 5), wk=(6, 5), wv=(6, 7), wo=(7, 3), wa=(6, 5), wc=(6, 5), wt=(4, 3), axes=[1],
    axis1=[1])  # fmt: skip

# ------------------------------------------------------------------------------------------------ further operators

case("sampled_in_space", X, "float[N,3,8,8] y", """
    a = Conv(x, w1)
    b = Conv(x, w2)
    t = Transpose<perm=[0,2,3,1]>(b)
    g = Tanh(t)
    s = GridSample(a, g)
    y = Conv(s, w3)
""", w1=(6, 3, 1, 1), w2=(2, 3, 1, 1), w3=(3, 6, 1, 1))  # fmt: skip

case("regions", "float[1,3,8,8] x", "float[2,3,2,2] y", """
    a = Conv(x, w1)
    b = RoiAlign<output_height=2, output_width=2>(a, boxes, image)
    c = Conv(b, w2)
    d = MaxRoiPool<pooled_shape=[2,2]>(c, rois)
    y = Conv(d, w3)
""", w1=(6, 3, 1, 1), boxes=np.asarray([[0, 0, 4, 4], [1, 1, 7, 7]], np.float32), image=[0, 0], w2=(5, 6, 1, 1),
    rois=np.asarray([[0, 0, 0, 1, 1], [1, 0, 0, 1, 1]], np.float32), w3=(3, 5, 1, 1))  # fmt: skip

case("spatial_transformer", "float[1,3,8,8] x", "float[1,3,8,8] y", """
    a = Conv(x, w1)
    g = GlobalAveragePool(x)
    f = Flatten(g)
    h = Gemm(f, wh)
    r = Relu(h)
    t0 = Gemm(r, wt)
    t = Reshape(t0, matrix)
    size = Shape(a)
    p = AffineGrid(t, size)
    s = GridSample(a, p)
    y = Conv(s, w2)
""", w1=(6, 3, 1, 1), wh=(3, 5), wt=(5, 6), matrix=[1, 2, 3], w2=(3, 6, 1, 1), opset=20, ir=9)  # fmt: skip

case("columns_into_an_image", X, "float[N,3,8,8] y", """
    a = Conv<strides=[2,2]>(x, w1)
    f = Reshape(a, flat)
    i = Col2Im<strides=[2,2]>(f, image, block)
    y = Conv(i, w2)
""", w1=(20, 3, 1, 1), flat=[0, 20, 16], image=[8, 8], block=[2, 2], w2=(3, 5, 1, 1), opset=18)  # fmt: skip

case("cropped", X, "float[N,2,6,10] y", """
    a = Conv(x, w1)
    c = CenterCropPad<axes=[2,3]>(a, space)
    b = Conv(c, w2)
    d = CenterCropPad<axes=[1]>(b, five)
    y = Conv(d, w3)
""", w1=(6, 3, 1, 1), space=[6, 10], w2=(4, 6, 1, 1), five=[5], w3=(2, 5, 1, 1), opset=18)  # fmt: skip

case("normalized_by_norms", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = LpNormalization<axis=3>(a)
    c = MeanVarianceNormalization(b)
    d = Conv(c, w2)
    e = LpNormalization<axis=1>(d)
    f = Conv(e, w3)
    g = MeanVarianceNormalization<axes=[1,2,3]>(f)
    h = LpPool<kernel_shape=[3,3], pads=[1,1,1,1]>(g)
    y = Conv(h, w4)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), w3=(5, 4, 1, 1), w4=(2, 5, 1, 1))  # fmt: skip

case("sums_of_places", "float[4,6,5] x, int64[1] k", "float[4,2,5] y", """
    a = MatMul(w1, x)
    b = CumSum(a, two)
    c = Trilu(b)
    d = MatMul(w2, b)
    e = CumSum<reverse=1>(d, one)
    f = Relu(e)
    g = MatMul(w3, f)
    h = CumSum(g, k)
    i = MatMul(w4, c)
    j = Add(h, i)
    y = MatMul(w5, j)
""", w1=(8, 6), two=np.asarray(2), w2=(7, 8), one=np.asarray(1), w3=(5, 7), w4=(5, 8), w5=(2, 5),
    runs=False)  # fmt: skip

case("reversed_in_time", "float[4,2,6] x", "float[4,2,3] y", """
    a = MatMul(x, w1)
    b = ReverseSequence<time_axis=0, batch_axis=1>(a, lengths)
    c = MatMul(b, w2)
    t = Transpose<perm=[2,1,0]>(c)
    d = ReverseSequence<time_axis=0, batch_axis=1>(t, lengths)
    u = Transpose<perm=[2,1,0]>(d)
    e = Relu(u)
    y = MatMul(e, w3)
""", w1=(6, 8), lengths=[3, 2], w2=(8, 5), w3=(5, 3))  # fmt: skip

case("places_left_out", X, "float[N,4,M,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    y = Compress<axis=2>(b, some)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), some=np.arange(8) % 2 == 0)  # fmt: skip

case("largest_along_an_axis", X, "float[N,2,8] y", """
    a = Conv(x, w1)
    i = ArgMax<axis=3, keepdims=0>(a)
    c = Cast<to=1>(i)
    r = ReduceMax<axes=[3], keepdims=0>(a)
    s = Add(c, r)
    y = Conv(s, w2)
""", w1=(6, 3, 1, 1), w2=(2, 6, 1))  # fmt: skip

case("shifted_bits", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    r = Relu(a)
    u = Cast<to=2>(r)
    s = BitShift<direction="LEFT">(u, one)
    c = Cast<to=1>(s)
    y = Conv(c, w2)
""", w1=(6, 3, 1, 1), one=np.asarray([1], np.uint8), w2=(2, 6, 1, 1))  # fmt: skip

case("deformed", "float[1,3,8,8] x", "float[1,2,8,8] y", """
    a = Conv(x, w1)
    o = Conv<pads=[1,1,1,1]>(x, wo)
    m0 = Conv<pads=[1,1,1,1]>(x, wm)
    m = Sigmoid(m0)
    d = DeformConv<pads=[1,1,1,1]>(a, wd, o, bd, m)
    e = DeformConv<group=2, offset_group=2>(d, we, z)
    y = Conv(e, w2)
""", w1=(6, 3, 1, 1), wo=(18, 3, 3, 3), wm=(9, 3, 3, 3), wd=(8, 6, 3, 3), bd=(8,), we=(6, 4, 1, 1),
    z=np.zeros((1, 4, 8, 8), np.float32), w2=(2, 6, 1, 1), opset=22, ir=10)  # fmt: skip

case("rotary_heads", "float[1,4,6] x", "float[1,4,3] y", """
    q0 = MatMul(x, wq)
    k0 = MatMul(x, wk)
    v = MatMul(x, wv)
    q = RotaryEmbedding<num_heads=3>(q0, cos, sin, at)
    k1 = Reshape(k0, heads)
    k2 = Transpose<perm=[0,2,1,3]>(k1)
    k3 = RotaryEmbedding(k2, cos, sin, at)
    k4 = Transpose<perm=[0,2,1,3]>(k3)
    k = Reshape(k4, join)
    a = Attention<q_num_heads=3, kv_num_heads=3>(q, k, v)
    y = MatMul(a, wo)
""", wq=(6, 12), wk=(6, 12), wv=(6, 6), heads=[0, 4, 3, 4], join=[0, 4, 12], cos=(4, 2), sin=(4, 2),
    at=np.asarray([[0, 1, 2, 3]]), wo=(6, 3), opset=23, ir=10)  # fmt: skip

case("rotary_pairs", "float[N,4,6] x", "float[N,4,3] y", """
    q1 = MatMul(x, wq)
    q2 = Reshape(q1, heads)
    q = Transpose<perm=[0,2,1,3]>(q2)
    even = Slice(q, zero, all, last, two)
    odd = Slice(q, one, all, last, two)
    back = Neg(odd)
    u = Unsqueeze(back, last)
    w = Unsqueeze(even, last)
    pairs = Concat<axis=-1>(u, w)
    size = Shape(q)
    turned = Reshape(pairs, size)
    c = Mul(q, cos)
    s = Mul(turned, sin)
    r = Add(c, s)
    k1 = MatMul(x, wk)
    k2 = Reshape(k1, heads)
    k = Transpose<perm=[0,2,3,1]>(k2)
    p = MatMul(r, k)
    a = Softmax<axis=-1>(p)
    v1 = MatMul(x, wv)
    v2 = Reshape(v1, heads)
    v = Transpose<perm=[0,2,1,3]>(v2)
    o = MatMul(a, v)
    o1 = Transpose<perm=[0,2,1,3]>(o)
    o2 = Reshape(o1, join)
    y = MatMul(o2, wo)
""", wq=(6, 12), wk=(6, 12), wv=(6, 12), heads=[0, 4, 3, 4], join=[0, 4, 12], zero=[0], one=[1], two=[2], last=[-1],
    all=[4], cos=(4, 4), sin=(4, 4), wo=(12, 3))  # fmt: skip

case("cache_of_keys", "float[1,3,2,4] x", "float[1,5,2,4] y", """
    a = Conv(x, w1)
    b = Conv(x, w2)
    c = TensorScatter<axis=2>(a, b, at)
    y = Conv(c, w3)
""", w1=(6, 3, 1, 1), w2=(6, 3, 1, 1), w3=(5, 6, 1, 1), at=[0], opset=24, ir=10)  # fmt: skip

case("cache_of_channels", "float[1,3,2,4] x", "float[1,5,2,4] y", """
    a = Conv(x, w1)
    b = Conv(x, w2)
    c = Transpose<perm=[0,2,1,3]>(a)
    d = Transpose<perm=[0,2,1,3]>(b)
    e = TensorScatter<axis=2>(c, d, at)
    f = Transpose<perm=[0,2,1,3]>(e)
    y = Conv(f, w3)
""", w1=(6, 3, 1, 1), w2=(4, 3, 1, 1), w3=(5, 6, 1, 1), at=[0], opset=24, ir=10)  # fmt: skip

case("indexed_elements", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    g = GatherND(b, at)
    r = Reshape(g, back)
    y = Conv(r, w3)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), at=[[0]], back=[-1, 4, 8, 8], w3=(2, 4, 1, 1), runs=False)  # fmt: skip

# ------------------------------------------------------------------------------------------------ dynamic, odd, empty

case("dynamic_space", "float[N,3,H,W] x", "float[N,2] y", """
    a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1)
    b = Conv<auto_pad="SAME_UPPER">(a, w2)
    g = GlobalMaxPool(b)
    f = Reshape(g, flat)
    y = Gemm<transB=1>(f, w3)
""", w1=(6, 3, 3, 3), w2=(5, 6, 3, 3), flat=[0, -1], w3=(2, 5))  # fmt: skip

case("inputs_times_states", "float[N,4,3] x", "float[N,4,2] y", """
    a = MatMul(x, wa)
    b = MatMul(x, wb)
    c = MatMul(x, wc)
    rows = Unsqueeze(a, last)
    columns = Unsqueeze(b, third)
    states = Mul(rows, columns)
    decay = Mul(states, k)
    read = Unsqueeze(c, last)
    m = MatMul(decay, read)
    s = Squeeze(m, last)
    y = MatMul(s, w)
""", wa=(3, 6), wb=(3, 4), wc=(3, 4), k=(6, 4), last=[3], third=[2], w=(6, 2))  # fmt: skip

case("zeros_of_a_fixed_size", "float[N,4,3] x", "float[N,4,2] y", """
    shape = Shape(x)
    steps = Slice(shape, one, two)
    sizes = Concat<axis=0>(first, steps, three, second)
    zeros = ConstantOfShape(sizes)
    ones = ConstantOfShape<value = float[1] {1.0}>(sizes)
    a = MatMul(x, w1)
    h = Reshape(a, heads)
    s = Add(h, zeros)
    m = Mul(ones, s)
    t = Tanh(m)
    j = Reshape(t, join)
    y = MatMul(j, w2)
""", one=[1], two=[2], first=[1], three=[3], second=[2], w1=(3, 6), heads=[0, 4, 3, 2], join=[0, 4, 6],
    w2=(6, 2))  # fmt: skip

case("gates_in_between", "float[N,4,3] x", "float[N,4,2] y", """
    a = MatMul(x, w1)
    up = Slice(a, zero, end, last, two)
    gate = Slice(a, one, far, last, two)
    g = Sigmoid(gate)
    m = Mul(up, g)
    y = MatMul(m, w2)
""", zero=[0], one=[1], two=[2], last=[2], end=[11], far=[2**60], w1=(3, 12), w2=(6, 2))  # fmt: skip

case("every_third", "float[N,4,3] x", "float[N,4,2] y", """
    a = MatMul(x, w1)
    t = Slice(a, zero, end, last, three)
    u = Slice(a, two, end, last, three)
    c = Concat<axis=2>(t, u)
    y = MatMul(c, w2)
""", zero=[0], two=[2], three=[3], last=[2], end=[12], w1=(3, 12), w2=(8, 2))  # fmt: skip

case("rows_of_steps", "float[N,S,3] x", "float[N,S,2] y", """
    shape = Shape(x)
    two = Slice(shape, first, second)
    flat = Concat<axis=0>(any, three)
    r = Reshape(x, flat)
    g = Gemm(r, w1, b1)
    back = Concat<axis=0>(two, six)
    h = Reshape(g, back)
    a = Relu(h)
    heads = Concat<axis=0>(two, parts)
    t = Reshape(a, heads)
    m = Mul(t, k)
    joined = Concat<axis=0>(two, six)
    j = Reshape(m, joined)
    y = MatMul(j, w2)
""", first=[0], second=[2], any=[-1], three=[3], w1=(3, 6), b1=(6,), six=[6],
    parts=[3, 2], k=(3, 1), w2=(6, 2))  # fmt: skip

case("empty_part", "float[N,4,6] x", "float[N,4,3] y", """
    a = MatMul(x, w1)
    h = Reshape(a, heads)
    turned = Slice(h, zero, six, last)
    rest = Slice(h, six, seven, last)
    r = Unsqueeze(rest, zero)
    s = Squeeze(r, zero)
    t = Tanh(turned)
    c = Concat<axis=3>(t, s)
    o = Reshape(c, join)
    y = MatMul(o, w2)
""", w1=(6, 12), heads=[0, 4, 2, 6], zero=[0], six=[6], seven=[7], last=[3], join=[0, 4, 12], w2=(12, 3))  # fmt: skip

case("channels_into_the_batch", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    s = Reshape(a, one)
    c = Relu(s)
    t = Reshape(c, back)
    y = Conv(t, w3)
""", w1=(6, 3, 1, 1), one=[-1, 1, 8, 8], back=[-1, 6, 8, 8], w3=(2, 6, 1, 1))  # fmt: skip

case("space_into_channels_at_run_time", "float[N,3,H,H] x, int64[2] t", "float[N,2] y", """
    a = Conv(x, w1)
    f = Reshape(a, t)
    s = ReduceSum(f, axes)
    b = Concat<axis=1>(s, s)
    y = Identity(b)
""", w1=(6, 3, 1, 1), axes=[1], runs=False)  # fmt: skip

case("if_body", "float[N,3,8,8] x, bool c", "float[N,2,8,8] y", """
    a = Conv(x, w1)
    i = If(c) <then_branch = t () => (float[N,6,8,8] q) { q = Relu(a) },
               else_branch = e () => (float[N,6,8,8] r) { r = Mul(a, k) }>
    b = Conv(i, w2)
    d = Mul(b, k4)
    y = Conv(d, w3)
""", w1=(6, 3, 1, 1), k=(6, 1, 1), w2=(4, 6, 1, 1), k4=(4, 1, 1), w3=(2, 4, 1, 1))  # fmt: skip

case("if_that_is_decided", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    no = Not(yes)
    i, j = If(yes) <then_branch = t () => (float[N,6,8,8] q, float[N,6,8,8] o) {
                      o = Identity(a)
                      m = Mul(a, c)
                      q = If(no) <then_branch = tt () => (float[N,6,8,8] u) { u = Neg(m) },
                                  else_branch = te () => (float[N,6,8,8] v) { v = Relu(m) }> },
                    else_branch = e () => (float[N,6,8,8] q, float[N,6,8,8] k) { q = Softmax(a)
                                                                               k = Abs(q) }>
    s = Add(i, j)
    y = Conv(s, w2)
""", yes=np.asarray(True), c=(6, 1, 1), w1=(6, 3, 1, 1), w2=(2, 6, 1, 1))  # fmt: skip

case("constant_read_by_a_body", "float[N,3,8,8] x, bool c", "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Mul(a, k)
    d = Conv(b, w2)
    i = If(c) <then_branch = t () => (float[6,1,1] q) { q = Neg(k) },
               else_branch = e () => (float[6,1,1] r) { r = Abs(k) }>
    j = ReduceMean(i)
    y = Add(d, j)
""", w1=(6, 3, 1, 1), k=(6, 1, 1), w2=(2, 6, 1, 1))  # fmt: skip

case("boxes_that_are_given", "float[N,3,8,8] x, int64[2,4] boxes", "float[2,3] y", """
    a = Conv(x, w1)
    b = Cast<to=1>(boxes)
    r = RoiAlign<output_height=2, output_width=2, sampling_ratio=1>(a, b, batch)
    f = Flatten(r)
    h = Gemm<transB=1>(f, w2, b2)
    g = Relu(h)
    y = Gemm<transB=1>(g, w3)
""", w1=(6, 3, 1, 1), batch=[0, 0], w2=(5, 24), b2=(5,), w3=(3, 5))  # fmt: skip

case("rows_that_data_choose", "float[7,6] x, int64[7] chosen", "float[M,3] y", """
    n = NonZero(chosen)
    i = Squeeze(n, zero)
    a = MatMul(x, w1)
    r = Gather(a, i)
    b = Reshape(r, whole)
    d = MatMul(b, w2)
    k = Relu(d)
    t = Shape(k)
    m = Gather(t, zero)
    v = Concat<axis=0>(m, rest)
    h = Reshape(k, v)
    y = MatMul(h, w3)
""", zero=[0], whole=[-1, 8], rest=[5], w1=(6, 8), w2=(8, 5), w3=(5, 3))  # fmt: skip

case("unread_mask", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    d, mask = Dropout(a)
    y = Conv(d, w2)
""", w1=(6, 3, 1, 1), w2=(2, 6, 1, 1), opset=9, ir=4)  # fmt: skip

case("unknown_operator", X, "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = Conv(a, w2)
    u = custom.Frobnicate(b)
    c = Conv(u, w3)
    y = Conv(c, w4)
""", w1=(6, 3, 1, 1), w2=(4, 6, 1, 1), w3=(5, 4, 1, 1), w4=(2, 5, 1, 1), runs=False)  # fmt: skip

case("unknown_operator_with_a_matrix", "float[N,6] x", "float[N,3] y", """
    a = MatMul(x, w1)
    u = custom.Dense(a, w2)
    y = Identity(u)
""", w1=(6, 8), w2=(8, 3), runs=False)  # fmt: skip

case("nothing_prunable", X, "float[N,2,8,8] y", """
    a = Conv(x, w)
    y = Relu(a)
""", w=(2, 3, 1, 1))  # fmt: skip

case("no_layers", X, "float[N,3,8,8] y", "y = Relu(x)")

case("empty", X, X, "")

# ------------------------------------------------------------------------------------------------ all opsets

OPSETS = range(7, 22)


def of_opset(opset: int) -> Case:
    """One network in the dialect of an opset: what was an attribute became an input, one by one."""
    pad = "Pad(a, amounts)" if opset >= 11 else "Pad<pads=[0,1,1,1,0,1,0,0]>(a)"
    part = "Slice(p, starts, ends, axes)" if opset >= 10 else "Slice<starts=[1,0], ends=[8,8], axes=[1,2]>(p)"
    cut = "Split<axis=1>(s, sizes)" if opset >= 13 else "Split<axis=1, split=[3,4]>(s)"
    clip = "Clip(u, low, high)" if opset >= 11 else "Clip<min=0.0, max=6.0>(u)"
    up = {7: 'Upsample<mode="nearest", scales=[1.0,1.0,2.0,2.0]>(k)', 9: 'Upsample<mode="nearest">(k, scales)'}
    up |= {8: up[7], 10: 'Resize<mode="nearest">(k, scales)'}
    resize = up.get(opset, 'Resize<mode="nearest">(k, roi, scales)')
    mean = "ReduceMean(c, space)" if opset >= 18 else "ReduceMean<axes=[2,3], keepdims=1>(c)"
    flat = "Squeeze(m, space)" if opset >= 13 else "Squeeze<axes=[2,3]>(m)"
    back = "Unsqueeze(f, space)" if opset >= 13 else "Unsqueeze<axes=[2,3]>(f)"
    used = {"amounts": [0, 1, 1, 1, 0, 1, 0, 0]} if opset >= 11 else {}
    used |= {"starts": [1, 0], "ends": [8, 8], "axes": [1, 2]} if opset >= 10 else {}
    used |= {"sizes": [3, 4], "space": [2, 3]} if opset >= 13 else {}
    used |= {"low": scalar(0), "high": scalar(6)} if opset >= 11 else {}
    used |= {"scales": np.asarray([1, 1, 2, 2], np.float32)} if opset >= 9 else {}
    used |= {"roi": np.zeros(0, np.float32)} if opset >= 11 else {}
    body = f"""
    a0 = Conv(x, w1)
    a1 = BatchNormalization(a0, gamma, beta, mean, var)
    a = Relu(a1)
    p = {pad}
    s = {part}
    u, v = {cut}
    k = {clip}
    r = {resize}
    c = Conv(r, w2)
    m = {mean}
    f = {flat}
    g = {back}
    h = Softmax<axis=3>(v)
    e = Conv(h, w3)
    d = Dropout(e)
    z = Add(d, g)
    y = Conv(z, w4)
    """
    weights = {
        "w1": (6, 3, 1, 1),
        "gamma": (6,),
        "beta": (6,),
        "mean": (6,),
        "var": (6,),
        "w2": (5, 3, 1, 1),
        "w3": (5, 4, 1, 1),
        "w4": (2, 5, 1, 1),
    }
    ir = 3 if opset < 9 else 8 if opset < 20 else 9 if opset < 21 else 10
    return Case(f"opset{opset}", X, "float[N,2,8,9] y", body, weights | used, opset, ir)


CASES |= {c.name: c for c in map(of_opset, OPSETS)}


def quantized() -> ModelProto:
    """A model in QDQ form, which is refused."""
    body = """
    q = QuantizeLinear(x, scale, zero)
    d = DequantizeLinear(q, scale, zero)
    y = Conv(d, w)
    """
    weights = {"scale": scalar(0.1), "zero": np.asarray(0, np.int8), "w": (2, 3, 1, 1)}
    return Case("quantized", X, "float[N,2,8,8] y", body, weights).model()


def with_everything_kept() -> ModelProto:
    """The chain with all the fields a file may carry besides the graph."""
    model = CASES["chain"].model()
    model.producer_name, model.producer_version, model.domain = "producer", "1.2", "org.example"
    model.model_version, model.doc_string, model.graph.doc_string = 7, "a model", "a graph"
    helper.set_model_props(model, {"names": "{0: 'cat'}", "stride": "32"})
    model.graph.node[0].doc_string, model.graph.node[0].name = "a node", "first"
    model.graph.node[0].metadata_props.add(key="namespace", value="stem")
    model.graph.metadata_props.add(key="graph", value="prop")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "unused"))
    note = onnx.TensorAnnotation(tensor_name="a")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="unused")
    model.graph.quantization_annotation.append(note)
    return model
