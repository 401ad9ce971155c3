"""The zoo's models from frameworks that are used less today: MXNet, Chainer, OneFlow, MindSpore and NNabla.

Each needs an environment of its own, and only what it exports by: `mxnet==1.9.1 onnx==1.9 numpy<1.24 protobuf<4` or
`chainer onnx-chainer onnx==1.12 numpy<1.24 protobuf<4` (Python 3.9), `oneflow oneflow-onnx flowvision==0.2 rich
tabulate numpy<1.24` beside cuDNN 8 and cuBLAS 11, which it loads (Python 3.10), `mindspore mindcv onnx`, `nnabla
nnabla-converter` (Python 3.10).
They write opsets from 7 on, weights that are also inputs, and forms of their own.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import numpy_helper

Record = dict[str, Any]
SIDE = 96

MXNET = """
resnet18_v1 resnet18_v2 mobilenet0_5 mobilenet_v2_0_5 densenet121 squeezenet1_1 vgg11_bn alexnet inception_v3
"""
GLUON = "mlp conv3d decoder lstm bidirectional gru interleaved heads"
CHAINER = "ResNet50Layers GoogLeNet cnn decoder gru"
ONEFLOW = """
resnet18 mobilenet_v2 mobilenet_v3_small densenet121 squeezenet1_1 shufflenet_v2_x0_5 mnasnet0_5 vgg11_bn alexnet
googlenet inception_v3 resnext50_32x4d ghostnet res2net50_26w_4s regnet_x_400mf efficientnet_b0
convnext_tiny_224 vit_tiny_patch16_224 swin_tiny_patch4_window7_224 mlp_mixer_s16_224 poolformer_s12 rexnet_lite_1_0
"""
MINDSPORE = """
resnet18 mobilenet_v1_050 mobilenet_v2_050_96 mobilenet_v3_small_075 densenet121 squeezenet1_1 shufflenet_v1_g3_05
shufflenet_v2_x0_5 mnasnet_050 vgg11 googlenet inception_v3 inception_v4 xception resnext50_32x4d ghostnet_050 res2net50
regnet_x_400mf regnet_y_400mf efficientnet_b0 convnext_tiny vit_b_32_224 swin_tiny mlp_mixer_s_p32 poolformer_s12
seresnet18 rexnet_09 resnest14 skresnet18 repvgg_a0 mixnet_s mobilevit_xx_small pvt_tiny hrnet_w32 dpn92
"""
CELLS = "residual decoder attention"
NNABLA = "lenet residual separable decoder gated"


def noise(path: Path) -> None:
    """Make a file's constant weights random (a scale around 1, a bias around 0): constants hide errors."""
    model, rng = onnx.load(path), np.random.default_rng(0)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype.kind == "f" and value.size > 1 and np.ptp(value) <= 1e-3 * np.abs(value).max():
            random = rng.random(value.shape)
            changed = random * 0.2 - 0.1 if value.flat[0] == 0 else random + 0.5
            tensor.CopyFrom(numpy_helper.from_array(changed.astype(value.dtype), tensor.name))
    onnx.save(model, path)


# ---------------------------------------------------------------------------------------------- MXNet


def with_mxnet(opset: int, name: str, path: Path) -> None:
    """A network of Gluon, converted by the rules of an opset, which the file then declares.

    MXNet has rules for opsets 12 and 13 and declares what the installed onnx has.
    """
    mx = importlib.import_module("mxnet")
    mx.random.seed(0)
    net, shape = gluon_model(mx, name)
    net.initialize(mx.init.Xavier(magnitude=2))
    net.hybridize()
    net(mx.nd.zeros((2, *shape)))
    known = mock.patch("onnx.defs.onnx_opset_version", return_value=opset)
    checked = mock.patch("onnx.checker.check_graph")
    with tempfile.TemporaryDirectory() as folder, known, checked:
        net.export(f"{folder}/net")
        files = f"{folder}/net-symbol.json", f"{folder}/net-0000.params"
        dynamic = {"dynamic": True, "dynamic_input_shapes": [(None, *shape)]}
        importlib.import_module("mxnet.onnx").export_model(*files, [(2, *shape)], np.float32, str(path), **dynamic)
    model = onnx.load(path)
    model.opset_import[0].version = opset
    onnx.checker.check_model(model)
    onnx.save(model, path)
    noise(path)


def gluon_model(mx: Any, name: str) -> tuple[Any, tuple[int, ...]]:
    """A network of Gluon's model zoo, or a small one of layers that these lack; one sample's shape."""
    gluon: Any = importlib.import_module("mxnet.gluon")
    if name not in GLUON.split():
        side = 299 if name == "inception_v3" else 224 if name in ("alexnet", "densenet121", "squeezenet1_1") else SIDE
        return getattr(importlib.import_module("mxnet.gluon.model_zoo.vision"), name)(classes=10), (3, side, side)
    nn, rnn = gluon.nn, gluon.rnn
    dense = partial(nn.Dense, flatten=False)

    class Residual(gluon.HybridBlock):  # type: ignore[misc]  # the library has no types here, as it is imported late
        def __init__(self, *layers: Any) -> None:
            super().__init__()
            self.branch = sequence(*layers)

        def hybrid_forward(self, _: Any, x: Any) -> Any:
            return x + self.branch(x)

    class Attention(gluon.HybridBlock):  # type: ignore[misc]
        """Of 4 heads of 8 dims, from one projection: of sequences of batches interleaved, or of batches in parts."""

        def __init__(self, interleaved: bool) -> None:
            super().__init__()
            self.qkv, self.out, self.interleaved = dense(96), dense(32), interleaved

        def hybrid_forward(self, f: Any, x: Any) -> Any:
            y = self.qkv(x)
            if self.interleaved:
                scores = f.softmax(f.contrib.interleaved_matmul_selfatt_qk(y, heads=4))
                return self.out(f.contrib.interleaved_matmul_selfatt_valatt(y, scores, heads=4))
            q, k, v = (self.heads(f, f.slice_axis(y, axis=2, begin=i * 32, end=i * 32 + 32)) for i in range(3))
            scores = f.softmax(f.batch_dot(q, k, transpose_b=True) / 8**0.5)
            merged = f.reshape(f.batch_dot(scores, v), (-1, 4, 20, 8), reverse=True)
            return self.out(f.reshape(f.transpose(merged, (0, 2, 1, 3)), (0, 0, -1)))

        def heads(self, f: Any, x: Any) -> Any:
            return f.reshape(f.transpose(f.reshape(x, (0, 0, 4, 8)), (0, 2, 1, 3)), (-1, 20, 8))

    def sequence(*layers: Any) -> Any:
        net = nn.HybridSequential()
        net.add(*layers)
        return net

    def swap() -> Any:
        return nn.HybridLambda(lambda f, t: f.swapaxes(t, 0, 1))

    recurrent = {
        "lstm": (rnn.LSTM(16, layout="NTC"), rnn.LSTM(24, layout="NTC")),
        "bidirectional": (rnn.LSTM(16, layout="NTC", bidirectional=True),),
        "gru": (rnn.GRU(16, layout="NTC"), rnn.GRU(24, layout="NTC")),
    }
    if name == "mlp":
        norm = nn.BatchNorm(scale=False)
        return sequence(nn.Dense(32), norm, nn.Activation("relu"), nn.Dense(16, "tanh"), nn.Dense(5)), (12,)
    if name == "conv3d":
        pool = nn.MaxPool3D(2, ceil_mode=True)
        convs = (nn.Conv3D(24, 3, 2), nn.BatchNorm(), nn.PReLU(), pool, nn.Conv3D(32, 2, groups=4), nn.GELU())
        return sequence(*convs, nn.GlobalAvgPool3D(), nn.Flatten(), nn.Dense(5)), (3, 16, 16, 16)
    if name == "decoder":
        down = (nn.Conv2D(16, 3, 2, 1), nn.LeakyReLU(0.2), nn.Conv2D(24, 3, 1, 1), nn.InstanceNorm(), nn.SELU())
        up = (nn.AvgPool2D(3, 2, ceil_mode=True), nn.Conv2DTranspose(16, 4, 2, 1), nn.BatchNorm(), nn.Swish())
        return sequence(*down, *up, nn.Conv2DTranspose(3, 4, 2, 1), nn.Activation("sigmoid")), (3, 32, 32)
    if name in recurrent:
        return sequence(*recurrent[name], nn.Dense(16, "relu"), nn.Dense(5)), (20, 12)
    feed, blocks = Residual(dense(64), nn.GELU(), dense(32)), list[Any]()
    if name == "interleaved":
        blocks += [swap(), Residual(Attention(True)), nn.LayerNorm(), feed, nn.LayerNorm(), swap()]
    else:
        blocks += [Residual(nn.LayerNorm(), Attention(False)), Residual(nn.LayerNorm(), feed.branch)]
    pool = nn.HybridLambda(lambda f, t: f.mean(t, axis=1))
    return sequence(dense(32), *blocks, pool, nn.Dense(5)), (20, 12)


# ---------------------------------------------------------------------------------------------- Chainer


def with_chainer(opset: int, name: str, path: Path) -> None:
    """A network of Chainer's, or a small one of its links, traced."""
    chainer, converter = importlib.import_module("chainer"), importlib.import_module("onnx_chainer")
    np.random.seed(0)  # noqa: NPY002 - Chainer draws its weights there
    net, shape = chainer_model(chainer, name)
    with chainer.using_config("train", False), chainer.using_config("enable_backprop", True):
        x = np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")
        net(x)
        converter.export(net, x, filename=str(path), opset_version=opset)
    noise(path)


def chainer_model(chainer: Any, name: str) -> tuple[Any, tuple[int, ...]]:
    """The network and one sample's shape."""
    f, links = importlib.import_module("chainer.functions"), importlib.import_module("chainer.links")
    if not name.islower():
        last = "fc6" if name.startswith("ResNet") else "loss3_fc"

        class Scores(chainer.Chain):  # type: ignore[misc]  # the library has no types here, as it is imported late
            def __init__(self) -> None:
                super().__init__()
                with self.init_scope():
                    self.model = getattr(links, name)(pretrained_model=None)

            def forward(self, x: Any) -> Any:
                return self.model(x, layers=[last])[last]

        return Scores(), (3, 224, 224)
    conv, norm = partial(links.Convolution2D, ksize=3, pad=1), links.BatchNormalization
    if name == "cnn":
        layers = [conv(3, 16), norm(16), f.relu, partial(f.max_pooling_2d, ksize=3, stride=2), conv(16, 32, groups=4)]
        layers += [
            links.PReLU(),
            partial(f.local_response_normalization, n=5),
            links.DepthwiseConvolution2D(32, 2, 3, pad=1),
            f.elu,
            partial(f.average_pooling_2d, ksize=2),
            links.Linear(None, 24),
            f.tanh,
            links.Linear(5),
        ]
        return chainer.Sequential(*layers), (3, 16, 16)
    if name == "decoder":
        up = partial(links.Deconvolution2D, ksize=4, stride=2, pad=1)
        layers = [conv(3, 16, stride=2), f.leaky_relu, conv(16, 24), links.GroupNormalization(4, 24), f.softplus]
        layers += [
            up(24, 16),
            norm(16),
            f.relu,
            partial(f.unpooling_2d, ksize=2, cover_all=False),
            conv(16, 3),
            f.sigmoid,
        ]
        return chainer.Sequential(*layers), (3, 16, 16)

    class Recurrent(chainer.Chain):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            with self.init_scope():
                self.embed, self.out = links.Linear(12, 16), links.Linear(48, 5)
                self.gru = links.NStepBiGRU(1, 16, 24, 0.0)

        def forward(self, x: Any) -> Any:
            steps = [self.embed(step) for step in f.separate(x, axis=0)] if x.shape[0] > 1 else [self.embed(x[0])]
            return self.out(f.concat(self.gru(None, steps)[1], axis=0))

    return Recurrent(), (20, 12)


# ---------------------------------------------------------------------------------------------- OneFlow


def with_oneflow(name: str, path: Path) -> None:
    """One of flowvision's networks, compiled and converted."""
    flow: Any = importlib.import_module("oneflow")
    flow.manual_seed(0)
    net = getattr(importlib.import_module("flowvision.models"), name)(pretrained=False).eval()

    class Compiled(flow.nn.Graph):  # type: ignore[misc]  # the library has no types here, as it is imported late
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def build(self, x: Any) -> Any:
            return self.net(x)

    fixed = ("vit", "swin", "mlp", "alexnet", "googlenet")
    side = 299 if name == "inception_v3" else 224 if name.startswith(fixed) else SIDE
    graph = Compiled()
    graph(flow.randn(1, 3, side, side))
    importlib.import_module("oneflow_onnx.oneflow2onnx.util").export_onnx_model(graph, onnx_model_path=str(path))
    # operators that it has no rule for are written as they are, and pooling forgets its `ceil_mode`
    onnx.checker.check_model(path, full_check=True)
    noise(path)


# ---------------------------------------------------------------------------------------------- MindSpore


def with_mindspore(name: str, path: Path) -> None:
    """One of MindCV's networks, or a small one of MindSpore's layers."""
    ms = importlib.import_module("mindspore")
    ms.set_seed(0)
    side = 299 if name.startswith(("inception", "xception")) else 96 if name.endswith("_96") else 224
    create: Any = importlib.import_module("mindcv").create_model
    if name in CELLS.split():
        net, shape = mindspore_model(name)
    else:
        net, shape = create(name, num_classes=10, pretrained=False), (3, side, side)
    net.set_train(False)
    ms.export(net, ms.Tensor(np.zeros((1, *shape), "float32")), file_name=str(path), file_format="ONNX")
    path.chmod(0o644)
    onnx.checker.check_model(path, full_check=True)  # a ConvTranspose may have an output_shape of too many numbers
    noise(path)


def mindspore_model(name: str) -> tuple[Any, tuple[int, ...]]:
    """A small network and one sample's shape."""
    nn: Any = importlib.import_module("mindspore.nn")
    ops: Any = importlib.import_module("mindspore.ops")

    class Residual(nn.Cell):  # type: ignore[misc]  # the library has no types here, as it is imported late
        def __init__(self, *layers: Any) -> None:
            super().__init__()
            self.branch = nn.SequentialCell(*layers)

        def construct(self, x: Any) -> Any:
            return x + self.branch(x)

    class Pool(nn.Cell):  # type: ignore[misc]
        def __init__(self, axes: Any) -> None:
            super().__init__()
            self.axes = axes

        def construct(self, x: Any) -> Any:
            return x.mean(self.axes)

    class Attention(nn.Cell):  # type: ignore[misc]
        """Of 4 heads of 8 dims."""

        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Dense(32, 32) for _ in range(4))
            self.softmax = nn.Softmax(-1)

        def construct(self, x: Any) -> Any:
            q, k, v = (ops.transpose(f(x).reshape(1, 20, 4, 8), (0, 2, 1, 3)) for f in (self.q, self.k, self.v))
            scores = self.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 8**0.5)
            return self.out(ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3)).reshape(1, 20, 32))

    conv = partial(nn.Conv2d, kernel_size=3)
    if name == "residual":
        blocks = [
            Residual(conv(16, 24), nn.BatchNorm2d(24), nn.ReLU(), conv(24, 16), nn.BatchNorm2d(16)) for _ in range(2)
        ]
        head = [nn.ReLU(), conv(16, 32, stride=2), nn.LeakyReLU(), Pool((2, 3)), nn.Dense(32, 5)]
        return nn.SequentialCell(conv(3, 16), nn.BatchNorm2d(16), nn.ReLU(), *blocks, *head), (3, 32, 32)
    if name == "decoder":
        up = partial(nn.Conv2dTranspose, kernel_size=4, stride=2)
        layers = [
            conv(3, 16, stride=2),
            nn.PReLU(16),
            conv(16, 24),
            nn.Tanh(),
            up(24, 16),
            nn.BatchNorm2d(16),
            nn.ReLU6(),
        ]
        return nn.SequentialCell(*layers, nn.AvgPool2d(2, 2), up(16, 3), nn.Sigmoid()), (3, 32, 32)
    feed = Residual(nn.LayerNorm((32,)), nn.Dense(32, 64), nn.GELU(), nn.Dense(64, 32))
    layers = [nn.Dense(12, 32), Residual(nn.LayerNorm((32,)), Attention()), feed, Pool(1), nn.Dense(32, 5)]
    return nn.SequentialCell(*layers), (20, 12)


# ---------------------------------------------------------------------------------------------- NNabla


def with_nnabla(name: str, path: Path) -> None:
    """A small network of NNabla's parametric functions, saved in its own format and converted."""
    nn, f = importlib.import_module("nnabla"), importlib.import_module("nnabla.functions")
    p = importlib.import_module("nnabla.parametric_functions")
    nn.clear_parameters()
    numbers = iter(range(100))

    def conv(x: Any, n: int, size: int = 3, **options: Any) -> Any:
        return p.convolution(x, n, (size, size), pad=(size // 2, size // 2), name=f"conv{next(numbers)}", **options)

    def norm(x: Any) -> Any:
        return p.batch_normalization(x, batch_stat=False, name=f"norm{next(numbers)}")

    def dense(x: Any, n: int) -> Any:
        return p.affine(x, n, name=f"dense{next(numbers)}")

    x = h = nn.Variable((1, 3, 32, 32))
    if name == "lenet":
        h = f.relu(f.max_pooling(conv(h, 16, 5), (2, 2)))
        h = f.elu(f.average_pooling(conv(h, 24, group=1), (3, 3), (2, 2)))
        y = dense(f.tanh(dense(h, 32)), 5)
    elif name == "residual":
        h = f.relu(norm(conv(h, 16, with_bias=False)))
        for _ in range(2):
            h = f.relu(f.add2(h, norm(conv(f.relu(norm(conv(h, 24))), 16))))
        y = dense(f.global_average_pooling(h), 5)
    elif name == "separable":
        h = f.relu6(norm(conv(h, 24)))
        h = f.swish(norm(p.depthwise_convolution(h, (3, 3), pad=(1, 1), name="depthwise")))
        h = p.prelu(conv(h, 32, 1), name="prelu")
        parts = f.split(
            f.reshape(f.transpose(f.reshape(h, (1, 2, 16, 32, 32)), (0, 2, 1, 3, 4)), (1, 2, 16, 32, 32)), 1
        )
        y = dense(f.mean(f.concatenate(conv(parts[0], 16), parts[1], axis=1), axis=(2, 3)), 5)
    elif name == "decoder":
        h = f.leaky_relu(norm(conv(h, 16, stride=(2, 2))), 0.2)
        h = f.relu(norm(p.deconvolution(h, 24, (4, 4), pad=(1, 1), stride=(2, 2), name="up")))
        y = f.sigmoid(conv(f.interpolate(h, scale=(2, 2), mode="nearest"), 3))
    else:
        h = f.relu(norm(conv(h, 16)))
        gate = f.sigmoid(conv(f.relu(conv(f.average_pooling(h, (32, 32)), 8, 1)), 16, 1))
        a, b = conv(f.mul2(h, f.broadcast(gate, (1, 16, 32, 32))), 24), conv(h, 24)
        y = dense(f.average_pooling(f.mul2(f.tanh(a), f.sigmoid(b)), (32, 32)), 5)
    network = {"name": "net", "batch_size": 1, "outputs": {"y": y}, "names": {"x": x}}
    executor = {"name": "run", "network": "net", "data": ["x"], "output": ["y"]}
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/net.nnp"
        importlib.import_module("nnabla.utils.save").save(file, {"networks": [network], "executors": [executor]})
        nnp = importlib.import_module("nnabla.utils.converter.nnabla").NnpImporter(file, expand_network=True)
        exporter = importlib.import_module("nnabla.utils.converter.onnx").OnnxExporter(
            nnp.execute(), -1, -1, opset="13"
        )
        exporter.execute(str(path))
    noise(path)


Producer = tuple[str, Callable[[], list[str]], Callable[[str, Path], None]]
PRODUCERS: dict[str, Producer] = {
    "mxnet": ("mxnet", (MXNET + GLUON).split, partial(with_mxnet, 13)),
    "mxnet-12": ("mxnet", GLUON.split, partial(with_mxnet, 12)),
    "chainer": ("chainer", CHAINER.split, partial(with_chainer, 7)),
    "chainer-11": ("chainer", CHAINER.split, partial(with_chainer, 11)),
    "oneflow": ("oneflow", ONEFLOW.split, with_oneflow),
    "mindspore": ("mindspore", (MINDSPORE + CELLS).split, with_mindspore),
    "nnabla": ("nnabla", NNABLA.split, with_nnabla),
}
