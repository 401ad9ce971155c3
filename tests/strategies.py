"""Random plans, and random graphs for hypothesis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from cases import Case
from hypothesis import strategies as st

from onnxprune.coupling import Coupling, Group
from onnxprune.plan import Plan, Weights


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


class _Network:
    """A graph under construction: values with their number of channels; all are [N, channels, size, size]."""

    def __init__(self, draw: Callable, size: int = 4) -> None:
        self.draw, self.size = draw, size
        self.lines: list[str] = []
        self.weights: dict[str, object] = {}
        self.values: list[tuple[str, int]] = [("x", 4)]

    def node(self, text: str, channels: int, **weights: object) -> None:
        """Add a node; in its text {y} is the new value and {w} the prefix of its weights."""
        n = len(self.lines)
        self.lines.append(text.format(y=f"v{n}", w=f"w{n}"))
        self.weights |= {f"w{n}{k}": value for k, value in weights.items()}
        self.values.append((f"v{n}", channels))

    def pick(self, where: Callable[[int], bool] = lambda c: True) -> tuple[str, int]:
        """One of the latest values, of a number of channels that is wanted."""
        found = [v for v in self.values if where(v[1])][-4:]
        return self.draw(st.sampled_from(found)) if found else self.values[-1]

    def step(self) -> None:
        """Add one building block."""
        block = self.draw(st.sampled_from(BLOCKS))
        block(self)


def _conv(net: _Network) -> None:
    x, c = net.pick()
    o = net.draw(st.sampled_from([4, 4, 4, 6, 6, 8, 2, 1]))
    if net.draw(st.booleans()):
        net.node(f"{{y}} = Conv({x}, {{w}}k, {{w}}b)", o, k=(o, c, 1, 1), b=(o,))
    else:
        net.node(f"{{y}} = Conv<pads=[1,1,1,1]>({x}, {{w}}k)", o, k=(o, c, 3, 3))


def _grouped(net: _Network) -> None:
    x, c = net.pick(lambda c: c % 2 == 0 and c > 2)
    groups = 2 if c % 2 == 0 else 1
    o = groups * net.draw(st.integers(1, 4))
    net.node(f"{{y}} = Conv<group={groups}>({x}, {{w}}k)", o, k=(o, c // groups, 1, 1))


def _depthwise(net: _Network) -> None:
    x, c = net.pick()
    m = net.draw(st.integers(1, 2))
    net.node(f"{{y}} = Conv<group={c}, pads=[1,1,1,1]>({x}, {{w}}k, {{w}}b)", m * c, k=(m * c, 1, 3, 3), b=(m * c,))


def _transposed(net: _Network) -> None:
    x, c = net.pick()
    o = net.draw(st.integers(1, 6))
    net.node(f"{{y}} = ConvTranspose<pads=[1,1,1,1]>({x}, {{w}}k, {{w}}b)", o, k=(c, o, 3, 3), b=(o,))


def _dense(net: _Network) -> None:
    x, c = net.pick()
    o = net.draw(st.integers(1, 6))
    t = len(net.lines)
    net.node(f"{{y}} = Transpose<perm=[0,2,3,1]>({x})", c)
    net.node(f"{{y}} = MatMul(v{t}, {{w}}k)", o, k=(c, o))
    net.node(f"{{y}} = Add(v{t + 1}, {{w}}b)", o, b=(o,))
    del net.values[-3:]
    net.node(f"{{y}} = Transpose<perm=[0,3,1,2]>(v{t + 2})", o)


def _through_gemm(net: _Network) -> None:
    x, c = net.pick()
    o = net.draw(st.integers(1, 3))
    n = net.size**2
    t = len(net.lines)
    net.node(f"{{y}} = Flatten({x})", c)
    net.node(f"{{y}} = Gemm<transB=1>(v{t}, {{w}}k, {{w}}b)", o, k=(o * n, c * n), b=(o * n,))
    del net.values[-2:]
    net.node(f"{{y}} = Reshape(v{t + 1}, {{w}}s)", o, s=[0, o, net.size, net.size])


def _batchnorm(net: _Network) -> None:
    x, c = net.pick()
    w = {"a": (c,), "b": (c,), "m": (c,), "v": (c,)}
    net.node(f"{{y}} = BatchNormalization({x}, {{w}}a, {{w}}b, {{w}}m, {{w}}v)", c, **w)


def _unary(net: _Network) -> None:
    x, c = net.pick()
    net.node(f"{{y}} = {net.draw(st.sampled_from(['Relu', 'Sigmoid', 'Tanh', 'Neg', 'Softplus']))}({x})", c)


def _scale(net: _Network) -> None:
    x, c = net.pick()
    op = net.draw(st.sampled_from(["Mul", "Add", "Sub", "Div"]))
    pair = net.draw(st.permutations([x, "{w}k"]))
    net.node(f"{{y}} = {op}({', '.join(pair)})" if op != "Div" else f"{{y}} = Div({x}, {{w}}k)", c, k=(1, c, 1, 1))


def _join(net: _Network) -> None:
    x, c = net.pick()
    z, _ = net.pick(lambda other: other in (c, 1))
    if z == x or net.draw(st.booleans()):
        z, d = net.pick()
        net.node(f"{{y}} = Concat<axis=1>({x}, {z})", c + d)
    else:
        net.node(f"{{y}} = {net.draw(st.sampled_from(['Add', 'Mul', 'Sub', 'Max']))}({x}, {z})", c)


def _add(net: _Network) -> None:
    x, c = net.pick()
    z, _ = net.pick(lambda other: other == c)
    net.node(f"{{y}} = Add({x}, {z})", c)


def _split(net: _Network) -> None:
    x, c = net.pick(lambda c: c > 1)
    first = net.draw(st.integers(1, max(1, c - 1)))
    if c > 1:
        net.lines.append(f"s{len(net.lines)}, t{len(net.lines)} = Split<axis=1>({x}, w{len(net.lines)}s)")
        n = len(net.lines) - 1
        net.weights[f"w{n}s"] = [first, c - first]
        net.values += [(f"s{n}", first), (f"t{n}", c - first)]


def _slice(net: _Network) -> None:
    x, c = net.pick()
    start = net.draw(st.integers(0, c - 1))
    stop = net.draw(st.integers(start + 1, c))
    text = f"{{y}} = Slice({x}, {{w}}s, {{w}}e, {{w}}a)"
    net.node(text, stop - start, s=[start], e=[stop], a=[1])


def _pad(net: _Network) -> None:
    x, c = net.pick()
    before, after = net.draw(st.integers(0, 2)), net.draw(st.integers(0, 2))
    net.node(f"{{y}} = Pad({x}, {{w}}p)", c + before + after, p=[0, before, 0, 0, 0, after, 0, 0])


def _pool(net: _Network) -> None:
    x, c = net.pick()
    op = net.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    net.node(f"{{y}} = {op}<kernel_shape=[3,3], pads=[1,1,1,1]>({x})", c)


def _gate(net: _Network) -> None:
    x, c = net.pick()
    t = len(net.lines)
    net.node(f"{{y}} = GlobalAveragePool({x})", c)
    net.node(f"{{y}} = Conv(v{t}, {{w}}k)", c, k=(c, c, 1, 1))
    net.node(f"{{y}} = Sigmoid(v{t + 1})", c)
    del net.values[-3:]
    net.node(f"{{y}} = Mul(v{t + 2}, {x})", c)


def _shuffle(net: _Network) -> None:
    x, c = net.pick(lambda c: c % 2 == 0)
    groups = 2 if c % 2 == 0 else 1
    t = len(net.lines)
    net.node(f"{{y}} = Reshape({x}, {{w}}s)", c, s=[0, groups, c // groups, net.size, net.size])
    net.node(f"{{y}} = Transpose<perm=[0,2,1,3,4]>(v{t})", c)
    del net.values[-2:]
    net.node(f"{{y}} = Reshape(v{t + 1}, {{w}}s)", c, s=[0, -1, net.size, net.size])


def _attention(net: _Network) -> None:
    x, c = net.pick(lambda c: c % 2 == 0)
    heads = net.draw(st.sampled_from([1, 2])) if c % 2 == 0 else 1
    apart, space, t = [0, heads, c // heads, -1], net.size**2, len(net.lines)
    for i in range(3):
        net.node(f"{{y}} = Conv({x}, {{w}}k)", c, k=(c, c, 1, 1))
        net.node(f"{{y}} = Reshape(v{t + 2 * i}, {{w}}s)", c, s=apart)
    net.node(f"{{y}} = Transpose<perm=[0,1,3,2]>(v{t + 1})", c)
    net.node(f"{{y}} = MatMul(v{t + 6}, v{t + 3})", c)
    net.node(f"{{y}} = Add(v{t + 7}, {{w}}k)", c, k=(heads, space, space))
    net.node(f"{{y}} = Softmax<axis=2>(v{t + 8})", c)
    net.node(f"{{y}} = MatMul(v{t + 5}, v{t + 9})", c)
    del net.values[-11:]
    net.node(f"{{y}} = Reshape(v{t + 10}, {{w}}s)", c, s=[0, -1, net.size, net.size])


def _gather(net: _Network) -> None:
    x, c = net.pick()
    places = net.draw(st.lists(st.integers(-c, c - 1), min_size=1, max_size=6))
    net.node(f"{{y}} = Gather<axis=1>({x}, {{w}}i)", len(places), i=places)


def _mixing(net: _Network) -> None:
    x, c = net.pick()
    op = net.draw(st.sampled_from(["Softmax<axis=2>", "Softmax<axis=2>", "LRN<size=3>", "Softmax<axis=1>"]))
    net.node(f"{{y}} = {op}({x})", c)


BLOCKS = [_conv, _conv, _conv, _grouped, _depthwise, _transposed, _dense, _through_gemm, _batchnorm, _unary, _scale]
BLOCKS += [_join, _join, _add, _add, _split, _slice, _pad, _pool, _gate, _shuffle, _gather, _mixing, _attention]


@st.composite
def networks(draw: Callable, steps: int = 12) -> Case:
    """A random network of convolutions and all that moves channels; its last value is read by a layer."""
    net = _Network(draw)
    _conv(net)
    net.values = net.values[1:]  # what is joined with an input can't be pruned, so join with it now and then only
    if draw(st.integers(0, 5)) == 0:
        net.values.append(("x", 4))
    for _ in range(draw(st.integers(2, steps))):
        net.step()
    x, c = net.values[-1]
    net.node(f"{{y}} = Conv({x}, {{w}}k, {{w}}b)", 3, k=(3, c, 1, 1), b=(3,))
    extra = draw(st.sampled_from([[], [], [], [], net.values[1:-1]]))
    outputs = {net.values[-1][0]: 3} | ({extra[-1][0]: extra[-1][1]} if extra else {})
    stated = ", ".join(f"float[N,{c},{net.size},{net.size}] {name}" for name, c in outputs.items())
    return Case("random", "float[N,4,4,4] x", stated, "\n".join(net.lines), net.weights)
