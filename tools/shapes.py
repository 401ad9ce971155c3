"""Well-known architectures with random weights, to time whole runs on (`tools/bench.py`).

Convolutions are followed by BatchNormalization (folded with `fold`), weights are He-initialised. Each takes images
[N, 3, 224, 224] and gives 1000 scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

IMAGE, CLASSES = 224, 1000


class Net:
    """A network that grows node by node; every method gives the name of a value."""

    def __init__(self, fold: bool = False, seed: int = 0) -> None:
        self.fold, self.rng = fold, np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.widths = {"x": 3}

    def add(self, op: str, *inputs: str, width: int | None = None, **attributes: Any) -> str:
        """A node; it has as many channels as its first input unless `width` says otherwise."""
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        self.widths[name] = width or self.widths[inputs[0]]
        return name

    def constant(self, value: NDArray[np.floating]) -> str:
        """A float32 initializer."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def norm(self, x: str) -> str:
        """BatchNormalization, of statistics that change little."""
        n = self.widths[x]
        values = 1 + 0.2 * self.rng.random(n), 0.1 * self.rng.normal(size=n), np.zeros(n), np.ones(n)
        return self.add("BatchNormalization", x, *map(self.constant, values))

    def conv(self, x: str, width: int, kernel: int = 1, stride: int = 1, group: int = 1, norm: bool = True) -> str:
        """A convolution that keeps the size of the map, but for its stride; normalised, or with a bias."""
        n = self.widths[x] // group
        weight = self.rng.normal(size=(width, n, kernel, kernel)) * sqrt(2 / (n * kernel * kernel))
        norm = norm and not self.fold
        inputs = [self.constant(weight), *([] if norm else [self.constant(0.1 * self.rng.normal(size=width))])]
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": group}
        found = self.add("Conv", x, *inputs, width=width, **sizes)
        return self.norm(found) if norm else found

    def unit(self, x: str, width: int, kernel: int = 1, stride: int = 1, group: int = 1, op: str = "Relu") -> str:
        """A convolution and its activation."""
        return self.add(op, self.conv(x, width, kernel, stride, group))

    def added(self, x: str, y: str, stride: int) -> str:
        """The sum of a block's input and output, and its activation."""
        width = self.widths[y]
        shortcut = x if self.widths[x] == width else self.conv(x, width, 1, stride)
        return self.add("Relu", self.add("Add", y, shortcut))

    def concat(self, parts: Sequence[str]) -> str:
        """Channels side by side."""
        return self.add("Concat", *parts, width=sum(self.widths[part] for part in parts), axis=1)

    def pool(self, x: str, kernel: int = 3, stride: int = 2) -> str:
        """The maxima of windows."""
        return self.add("MaxPool", x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[(kernel - 1) // 2] * 4)

    def dense(self, x: str, width: int) -> str:
        """A layer of neurons."""
        n = self.widths[x]
        weight = self.constant(self.rng.normal(size=(n, width)) / sqrt(n))
        return self.add("Gemm", x, weight, self.constant(np.zeros(width)), width=width)

    def scores(self, x: str) -> ModelProto:
        """The network with global pooling and a classifier at its end."""
        y = self.dense(self.add("Flatten", self.add("GlobalAveragePool", x)), CLASSES)
        return self.done(y)

    def done(self, y: str) -> ModelProto:
        """The network with this output."""
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, IMAGE, IMAGE])
        output = helper.make_tensor_value_info(y, TensorProto.FLOAT, ["N", CLASSES])
        graph = helper.make_graph(self.nodes, "shape", [x], [output], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def resnet18(net: Net) -> ModelProto:
    """Basic blocks."""
    x = net.pool(net.unit("x", 64, 7, 2))
    for width, stride in zip(np.repeat([64, 128, 256, 512], 2).tolist(), (1, 1, 2, 1, 2, 1, 2, 1), strict=True):
        y = net.conv(net.unit(x, width, 3, stride), width, 3)
        x = net.added(x, y, stride)
    return net.scores(x)


def resnet50(net: Net) -> ModelProto:
    """Bottlenecks."""
    x = net.pool(net.unit("x", 64, 7, 2))
    for width, count, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for stride in (first, *[1] * (count - 1)):
            y = net.conv(net.unit(net.unit(x, width), width, 3, stride), 4 * width)
            x = net.added(x, y, stride)
    return net.scores(x)


def densenet121(net: Net) -> ModelProto:
    """Every layer reads all before it, each time through a BatchNormalization of its own."""
    x = net.pool(net.unit("x", 64, 7, 2))
    for count in (6, 12, 24, 16):
        if net.widths[x] > 64:
            y = net.conv(net.add("Relu", net.norm(x)), net.widths[x] // 2, norm=False)
            x = net.add("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2])
        parts = [x]
        for _ in range(count):
            y = net.add("Relu", net.norm(x))
            parts.append(net.conv(net.unit(y, 128), 32, 3, norm=False))
            x = net.concat(parts)
    return net.scores(net.add("Relu", net.norm(x)))


def googlenet(net: Net) -> ModelProto:
    """Inception blocks of four branches."""
    x = net.pool(net.unit("x", 64, 7, 2))
    x = net.pool(net.unit(net.unit(x, 64), 192, 3))
    blocks = "64 96 128 16 32 32, 128 128 192 32 96 64, 192 96 208 16 48 64, 160 112 224 24 64 64, 128 128 256 24 64 64"
    blocks += ", 112 144 288 32 64 64, 256 160 320 32 128 128, 256 160 320 32 128 128, 384 192 384 48 128 128"
    for number, block in enumerate(blocks.split(",")):
        a, b, c, d, e, f = map(int, block.split())
        branches = net.unit(x, a), net.unit(net.unit(x, b), c, 3), net.unit(net.unit(x, d), e, 3)
        x = net.concat([*branches, net.unit(net.pool(x, 3, 1), f)])
        x = net.pool(x) if number in (1, 6) else x
    return net.scores(x)


def vgg16(net: Net) -> ModelProto:
    """Plain wide layers, and two of 4096 neurons."""
    x = "x"
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            x = net.unit(x, width, 3)
        x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    side = IMAGE // 32
    x = net.add("Flatten", x, width=net.widths[x] * side * side)
    return net.done(net.dense(net.add("Relu", net.dense(net.add("Relu", net.dense(x, 4096)), 4096)), CLASSES))


def mobilenet_v3(net: Net) -> ModelProto:
    """Inverted bottlenecks with squeeze-and-excitation."""
    x = net.unit("x", 16, 3, 2, op="HardSwish")
    blocks = "3 16 16 1, 3 64 24 2, 3 72 24 1, 5 72 40 2, 5 120 40 1, 5 120 40 1, 3 240 80 2, 3 200 80 1, 3 184 80 1"
    blocks += ", 3 184 80 1, 3 480 112 1, 3 672 112 1, 5 672 160 2, 5 960 160 1, 5 960 160 1"
    for block in blocks.split(","):
        kernel, hidden, width, stride = map(int, block.split())
        op = "HardSwish" if hidden > 120 else "Relu"
        y = net.unit(net.unit(x, hidden, op=op), hidden, kernel, stride, hidden, op)
        if kernel == 5 or width == 112:
            squeezed = net.add("Relu", net.conv(net.add("GlobalAveragePool", y), hidden // 4, norm=False))
            y = net.add("Mul", y, net.add("HardSigmoid", net.conv(squeezed, hidden, norm=False)))
        y = net.conv(y, width)
        x = net.add("Add", x, y) if stride == 1 and net.widths[x] == width else y
    return net.scores(net.unit(x, 960, op="HardSwish"))


SHAPES: dict[str, Callable[[Net], ModelProto]] = {
    one.__name__: one for one in (resnet18, resnet50, densenet121, googlenet, vgg16, mobilenet_v3)
}


def build(name: str, fold: bool = False) -> ModelProto:
    """The network of one of `SHAPES`."""
    return SHAPES[name](Net(fold))
