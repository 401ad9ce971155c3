"""Small networks with random weights, made from text, and data for them.

The inputs are of lower rank than their size, so that channels can stand in for one another, as in trained networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
from onnx import ModelProto, helper, numpy_helper, parser

from onnxprune.coupling import Coupling, Group, couple
from onnxprune.graph import Graph
from onnxprune.runtime import Runtime

RUNTIME = Runtime(threads=1)
Feed = dict[str, np.ndarray]
FOUND = """
    i = NonZero(c)
    t = Transpose(i)
    n = Shape(t)
    k = Gather<axis=0>(n, zero)
    p = Concat<axis=0>(k, minus)
    l = Cast<to=1>(t)
    f = Reshape(l, p)"""  # the places in c of what is true; it fails where nothing is


def build(
    inputs: str, outputs: str, body: str, weights: Mapping[str, object], *, seed: int = 0, opset: int = 17, ir: int = 8
) -> ModelProto:
    """A model from the text of its nodes; a weight is an array, a list of integers, or a shape of random numbers.

    In the text, `y = Layer<...>(x, w)` is ONNX's own syntax; x [N, 3, 8, 8] and the like are stated in `inputs`.
    """
    header = f'<ir_version: {ir}, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    model = parser.parse_model(f"{header} net ({inputs}) => ({outputs}) {{ {body} }}")
    rng = np.random.default_rng(seed)
    for name, content in weights.items():
        if isinstance(content, tuple):
            fan = max(1, int(np.prod(content[1:])))
            content = rng.normal(size=content) / np.sqrt(fan) if len(content) > 1 else rng.uniform(0.2, 1.2, content)
        array = np.asarray(content)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    if ir < 4:
        for t in model.graph.initializer:
            model.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    return model


def norm(prefix: str, channels: int) -> dict[str, object]:
    """The four parameters of a BatchNormalization."""
    return {f"{prefix}{part}": (channels,) for part in ("s", "b", "m", "v")}


def mlp(widths: tuple[int, ...] = (12, 16, 10, 4), *, bias: bool = True, seed: int = 0) -> ModelProto:
    """Gemm and Relu in turn; layers are called fc0, fc1, …"""
    body, weights, x = "", {}, "x"
    for i, (n, o) in enumerate(pairwise(widths)):
        last = i == len(widths) - 2
        y = "y" if last else f"h{i}"
        body += f"[fc{i}] {y} = Gemm<transB=1>({x}, w{i}{f', b{i}' if bias else ''})\n"
        weights |= {f"w{i}": (o, n)} | ({f"b{i}": (o,)} if bias else {})
        x = f"r{i}"
        body += "" if last else f"{x} = Relu({y})\n"
    return build(f"float[N,{widths[0]}] x", f"float[N,{widths[-1]}] y", body, weights, seed=seed)


def convs(channels: tuple[int, int] = (8, 12), *, ir: int = 8, seed: int = 0, clip: bool = False) -> ModelProto:
    """Two convolutions with BatchNormalization, then pooling and a Gemm."""
    a, b = channels
    act = (lambda x: f"Clip({x}, zero, six)") if clip else (lambda x: f"Relu({x})")
    body = f"""
        [conv1] c1 = Conv<pads=[1,1,1,1]>(x, w1)
        n1 = BatchNormalization(c1, n1s, n1b, n1m, n1v)
        r1 = {act("n1")}
        [conv2] c2 = Conv<pads=[1,1,1,1], strides=[2,2]>(r1, w2)
        n2 = BatchNormalization(c2, n2s, n2b, n2m, n2v)
        r2 = {act("n2")}
        p = GlobalAveragePool(r2)
        f = Flatten(p)
        [head] y = Gemm<transB=1>(f, w3, b3)"""
    weights = {"w1": (a, 3, 3, 3), "w2": (b, a, 3, 3), "w3": (5, b), "b3": (5,)} | norm("n1", a) | norm("n2", b)
    if clip:
        weights |= {"zero": np.float32(0), "six": np.float32(1.0)}
    return build("float[N,3,8,8] x", "float[N,5] y", body, weights, ir=ir, seed=seed)


def residual(shortcut: str = "identity", *, seed: int = 0) -> ModelProto:
    """A stem and two blocks; the second block's shortcut stands behind its branch in the file.

    The shortcut is the "identity", a "projection" (1×1 convolution) or "option_a" (every other pixel, zero channels).
    """
    wide, stride = (6, 1) if shortcut == "identity" else (10, 2)
    way = {
        "identity": "s = Identity(r)",
        "projection": "[short] s = Conv<strides=[2,2]>(r, ws, bs)",
        "option_a": "t = Slice(r, starts, ends, axes, steps)\ns = Pad(t, pads)",
    }[shortcut]
    body = f"""
        [stem] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
        r0 = Relu(c0)
        [one_a] a1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
        q1 = Relu(a1)
        [one_b] a2 = Conv<pads=[1,1,1,1]>(q1, w2)
        n2 = BatchNormalization(a2, n2s, n2b, n2m, n2v)
        z = Add(n2, r0)
        r = Relu(z)
        [two_a] a3 = Conv<pads=[1,1,1,1], strides=[{stride},{stride}]>(r, w3, b3)
        q3 = Relu(a3)
        [two_b] a4 = Conv<pads=[1,1,1,1]>(q3, w4, b4)
        {way}
        sum = Add(a4, s)
        r2 = Relu(sum)
        p = GlobalAveragePool(r2)
        f = Flatten(p)
        [head] y = Gemm<transB=1>(f, w5, b5)"""
    weights: dict[str, object] = {
        "w0": (6, 3, 3, 3), "b0": (6,), "w1": (8, 6, 3, 3), "b1": (8,), "w2": (6, 8, 3, 3), **norm("n2", 6),
        "w3": (12, 6, 3, 3), "b3": (12,), "w4": (wide, 12, 3, 3), "b4": (wide,), "w5": (5, wide), "b5": (5,),
    }  # fmt: skip
    if shortcut == "projection":
        weights |= {"ws": (wide, 6, 1, 1), "bs": (wide,)}
    if shortcut == "option_a":
        weights |= {
            "starts": [0, 0],
            "ends": [99, 99],
            "axes": [2, 3],
            "steps": [2, 2],
            "pads": [0, 2, 0, 0, 0, 2, 0, 0],
        }
    return build("float[N,3,8,8] x", "float[N,5] y", body, weights, seed=seed)


def dense(*, seed: int = 0) -> ModelProto:
    """Readers of a Concat, as in a DenseNet."""
    body = """
        [a] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
        r0 = Relu(c0)
        [b] c1 = Conv<pads=[1,1,1,1]>(r0, w1, b1)
        r1 = Relu(c1)
        cat = Concat<axis=1>(x, r0, r1)
        [c] c2 = Conv(cat, w2, b2)
        r2 = Relu(c2)
        p = GlobalAveragePool(r2)
        f = Flatten(p)
        [head] y = Gemm<transB=1>(f, w3, b3)"""
    weights = {
        "w0": (6, 3, 3, 3), "b0": (6,), "w1": (8, 6, 3, 3), "b1": (8,), "w2": (10, 17, 1, 1), "b2": (10,),
        "w3": (4, 10), "b3": (4,),
    }  # fmt: skip
    return build("float[N,3,6,6] x", "float[N,4] y", body, weights, seed=seed)


def grouped(*, seed: int = 0) -> ModelProto:
    """A grouped convolution that is read and written."""
    body = """
        [a] c0 = Conv(x, w0, b0)
        r0 = Relu(c0)
        [b] c1 = Conv<group=2, pads=[1,1,1,1]>(r0, w1, b1)
        r1 = Relu(c1)
        [c] c2 = Conv(r1, w2, b2)
        y = Flatten(c2)"""
    weights = {"w0": (12, 3, 1, 1), "b0": (12,), "w1": (8, 6, 3, 3), "b1": (8,), "w2": (3, 8, 1, 1), "b2": (3,)}
    return build("float[N,3,5,5] x", "float[N,75] y", body, weights, seed=seed)


def depthwise(*, seed: int = 0) -> ModelProto:
    """An inverted residual's expand, depthwise and project layers, cut off at 0 and 1."""
    body = """
        [expand] c0 = Conv(x, w0)
        n0 = BatchNormalization(c0, n0s, n0b, n0m, n0v)
        r0 = Clip(n0, zero, six)
        [deep] c1 = Conv<group=12, pads=[1,1,1,1]>(r0, w1)
        n1 = BatchNormalization(c1, n1s, n1b, n1m, n1v)
        r1 = Clip(n1, zero, six)
        [project] c2 = Conv(r1, w2)
        y = BatchNormalization(c2, n2s, n2b, n2m, n2v)"""
    weights = {"w0": (12, 4, 1, 1), "w1": (12, 1, 3, 3), "w2": (4, 12, 1, 1), "zero": np.float32(0)}
    weights |= {"six": np.float32(1)} | norm("n0", 12) | norm("n1", 12) | norm("n2", 4)
    return build("float[N,4,6,6] x", "float[N,4,6,6] y", body, weights, seed=seed)


def tokens(*, seed: int = 0) -> ModelProto:
    """MatMul and Add on [N, T, C]."""
    body = """
        [up] u = MatMul(x, w0)
        ub = Add(b0, u)
        r = Relu(ub)
        [down] d = MatMul(r, w1)
        y = Add(d, b1)"""
    weights = {"w0": (6, 14), "b0": (14,), "w1": (14, 5), "b1": (5,)}
    return build("float[N,7,6] x", "float[N,7,5] y", body, weights, seed=seed)


def transposed(*, seed: int = 0) -> ModelProto:
    """A ConvTranspose that is read and written."""
    body = """
        [a] c0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
        r0 = Relu(c0)
        [up] c1 = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(r0, w1)
        r1 = Relu(c1)
        [c] y = Conv(r1, w2, b2)"""
    weights = {"w0": (10, 3, 3, 3), "b0": (10,), "w1": (10, 8, 3, 3), "w2": (2, 8, 1, 1), "b2": (2,)}
    return build("float[N,3,5,5] x", "float[N,2,10,10] y", body, weights, seed=seed)


def lstm() -> ModelProto:
    """An LSTM in front of a Gemm."""
    body = """
        t = Transpose<perm=[1,0,2]>(x)
        s, h, c = LSTM<hidden_size=5>(t, w, r)
        g = Squeeze(h, axis)
        [fc] z = Gemm<transB=1>(g, w1, b1)
        a = Relu(z)
        [head] y = Gemm<transB=1>(a, w2)"""
    weights = {"w": (1, 20, 6), "r": (1, 20, 5), "axis": [0], "w1": (8, 5), "b1": (8,), "w2": (3, 8)}
    return build("float[N,4,6] x", "float[N,3] y", body, weights)


def heads(*, seed: int = 0) -> ModelProto:
    """Two outputs, one of them long before the other."""
    body = """
        [a] h0 = Gemm<transB=1>(x, w0, b0)
        r0 = Relu(h0)
        [early] first = Gemm<transB=1>(r0, w1, b1)
        [b] h1 = Gemm<transB=1>(r0, w2, b2)
        r1 = Relu(h1)
        [c] h2 = Gemm<transB=1>(r1, w3, b3)
        r2 = Relu(h2)
        [late] second = Gemm<transB=1>(r2, w4, b4)"""
    weights = {
        "w0": (12, 8), "b0": (12,), "w1": (3, 12), "b1": (3,), "w2": (14, 12), "b2": (14,), "w3": (10, 14),
        "b3": (10,), "w4": (4, 10), "b4": (4,),
    }  # fmt: skip
    return build("float[N,8] x", "float[N,3] first, float[N,4] second", body, weights, seed=seed)


ALL = {
    "mlp": mlp,
    "convs": convs,
    "identity": lambda: residual("identity"),
    "projection": lambda: residual("projection"),
    "option_a": lambda: residual("option_a"),
    "dense": dense,
    "grouped": grouped,
    "depthwise": depthwise,
    "tokens": tokens,
    "transposed": transposed,
    "lstm": lstm,
    "heads": heads,
}


def coupled(model: ModelProto) -> Coupling:
    """The coupling of a model."""
    return couple(Graph(model))


def group(coupling: Coupling, name: str) -> Group:
    """A group by name."""
    return coupling.by_name[name]


def data(model: ModelProto, count: int, seed: int = 0, rank: int = 4) -> np.ndarray:
    """Inputs for a model of one input, samples along the axis called N: mixtures of `rank` patterns, and some noise."""
    graph = Graph(model)
    shape = [d.dim_value or 1 for d in graph.inputs[0].type.tensor_type.shape.dim]
    axis = next(i for i, d in enumerate(graph.inputs[0].type.tensor_type.shape.dim) if d.dim_param)
    patterns = np.random.default_rng(77).normal(size=(rank, int(np.prod(shape))))
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, rank)) @ patterns / np.sqrt(rank) + 0.3 * rng.normal(size=(count, patterns.shape[1]))
    dtype = helper.tensor_dtype_to_np_dtype(graph.inputs[0].type.tensor_type.elem_type)
    return np.concatenate(list(x.astype(dtype).reshape(count, *shape)), axis)


def feeds(model: ModelProto, count: int, batch: int = 8, seed: int = 0) -> list[Feed]:
    """The same in batches."""
    name = Graph(model).inputs[0].name
    axis = next(i for i, d in enumerate(Graph(model).inputs[0].type.tensor_type.shape.dim) if d.dim_param)
    x = data(model, count, seed)
    return [{name: part} for part in np.split(x, range(batch, count, batch), axis)]


def values(model: ModelProto, feed: Feed, names: list[str] | None = None) -> Feed:
    """What onnxruntime says of some values of a model, all outputs by default."""
    if names is None:
        return RUNTIME.session(model).run(feed)
    types = coupled(model).graph.types
    new = ModelProto()
    new.CopyFrom(model)
    del new.graph.output[:]
    new.graph.output.extend(helper.make_tensor_value_info(n, types[n], None) for n in names)
    return RUNTIME.session(new, optimize=False).run(feed)


def halves(group: Group) -> tuple[np.ndarray, np.ndarray]:
    """The first half of the channels of every cell, and the second half."""
    cells = [np.flatnonzero(group.cells == c) for c in range(group.cells.max() + 1)]
    half = len(cells[0]) // 2
    return np.concatenate([c[:half] for c in cells]), np.concatenate([c[half : 2 * half] for c in cells])


def doubled(
    model: ModelProto, names: list[str] | None = None, *, streams: bool = False
) -> tuple[ModelProto, dict[str, np.ndarray]]:
    """The model with the second half of the channels of some groups made like the first half, and what to keep then.

    Streams only if asked for.
    """
    model = _copy(model)
    coupling = coupled(model)
    tensors = {t.name: t for t in model.graph.initializer}
    keep = {}
    for one in coupling.groups:
        if (one.stream and not streams) or (names is not None and one.name not in names):
            continue
        first, second = halves(one)
        for member in one.members:
            if member.role == "reader":
                continue
            array = numpy_helper.to_array(tensors[member.tensor]).copy()
            places = member.slices(np.arange(array.size).reshape(array.shape))
            array.flat[places[member.index[second]]] = array.flat[places[member.index[first]]]
            tensors[member.tensor].CopyFrom(numpy_helper.from_array(array, member.tensor))
        keep[one.name] = np.setdiff1d(np.arange(one.channels), second)
    return model, keep


def _copy(model: ModelProto) -> ModelProto:
    new = ModelProto()
    new.CopyFrom(model)
    return new


def random_widths(coupling: Coupling, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Random channels to keep for every group, equally many of each cell."""
    for one in coupling.groups:
        cells = [np.flatnonzero(one.cells == c) for c in range(one.cells.max() + 1)]
        count = int(rng.integers(1, len(cells[0]) + 1))
        yield one.name, np.sort(np.concatenate([rng.choice(c, count, replace=False) for c in cells]))
