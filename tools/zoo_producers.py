"""The zoo's models from other producers: Keras, PaddlePaddle, Flax, scikit-learn, and Caffe2's as onnx carries them.

Each needs an environment of its own, and only what it exports by: `tensorflow-cpu tf2onnx` (exporters `tf2onnx`,
`tflite` by way of TensorFlow Lite, and `keras`, Keras's own `export`), `keras torch onnxscript` (`keras-torch`, the
same with PyTorch below it), `paddlepaddle paddle2onnx packaging`, `jax2onnx flax`, `scikit-learn skl2onnx`,
`hummingbird-ml onnx`, or nothing but onnx.
"""

from __future__ import annotations

import importlib
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import numpy_helper
from zoo_older import PRODUCERS as OLDER
from zoo_older import Producer

Record = dict[str, Any]
SIDE = 96

KERAS = """
MobileNet MobileNetV2 MobileNetV3Small ResNet50 ResNet50V2 DenseNet121 EfficientNetB0 EfficientNetV2B0 Xception
InceptionV3 InceptionResNetV2 NASNetMobile VGG16 ConvNeXtTiny lstm gru attention conv1d
"""
PADDLE = """
lenet resnet18 resnet50 resnext50_32x4d mobilenet_v1 mobilenet_v2 mobilenet_v3_small densenet121 squeezenet1_1
shufflenet_v2_x0_5 googlenet inception_v3 alexnet
"""
FLAX = "mlp cnn resnet separable transformer"
SCIKIT = "MLPClassifier MLPRegressor pipeline"


def exporters() -> list[str]:
    """The ways these models are exported."""
    return list(PRODUCERS)


def names(exporter: str) -> list[str]:
    """Every model that is tried with an exporter."""
    library, found, _ = PRODUCERS[exporter]
    return [f"{library}/{name}" for name in found()]


def export(name: str, exporter: str, path: Path, _: float) -> Record:
    """Build one model with random weights and write it; its size in millions of parameters."""
    PRODUCERS[exporter][2](name.split("/")[1], path)
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return {"parameters": sum(int(np.prod(t.dims)) for t in tensors) / 1e6}


def noisy(value: Any, rng: np.random.Generator) -> Any:
    """A parameter, random where it was constant (a scale around 1, a bias around 0): constants hide errors."""
    if value.dtype.kind != "f" or value.size < 2 or value.std() > 1e-3 * np.abs(value).max():
        return value
    noise = rng.random(value.shape)
    return (noise * 0.2 - 0.1 if value.flat[0] == 0 else noise + 0.5).astype(value.dtype)


# ---------------------------------------------------------------------------------------------- Keras


def keras_model(name: str) -> Any:
    """A network of keras.applications, or a small one of layers that these lack."""
    keras = importlib.import_module("keras")
    keras.utils.set_random_seed(0)
    model = small(keras, name) if name.islower() else application(keras, name)
    rng = np.random.default_rng(0)
    model.set_weights([noisy(w, rng) for w in model.get_weights()])
    model(np.zeros([1, *model.inputs[0].shape[1:]], "float32"))
    return model


def application(keras: Any, name: str) -> Any:
    """One of keras.applications without trained weights."""
    options = {"classifier_activation": None}
    return getattr(keras.applications, name)(weights=None, input_shape=(SIDE, SIDE, 3), classes=10, **options)


def small(keras: Any, name: str) -> Any:
    """Recurrent layers, attention, and convolutions of sequences."""
    layers = keras.layers
    x = keras.Input((20, 12))
    if name == "lstm":
        h = layers.LSTM(24)(layers.Bidirectional(layers.LSTM(16, return_sequences=True))(x))
    elif name == "gru":
        h = layers.GRU(24)(layers.GRU(16, return_sequences=True)(x))
    elif name == "attention":
        e = layers.Dense(32)(x)
        a = layers.LayerNormalization()(e + layers.MultiHeadAttention(4, 8)(e, e))
        f = layers.Dense(32)(layers.Dense(64, activation=lambda t: 0.5 * t * (1 + keras.ops.erf(0.70710678 * t)))(a))
        h = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(a + f))
    else:
        c = layers.BatchNormalization()(layers.Conv1D(24, 5, strides=2, padding="same")(x))
        h = layers.GlobalMaxPooling1D()(layers.SeparableConv1D(32, 3, activation="relu")(layers.ReLU()(c)))
    return keras.Model(x, layers.Dense(5)(layers.Dense(16, activation="relu")(h)))


def with_keras(name: str, path: Path) -> None:
    """Keras's own export."""
    keras_model(name).export(str(path), format="onnx", verbose=False)
    onnx.checker.check_model(path)  # tf2onnx leaves operators of TensorFlow in the file where it knows no others


def with_tf2onnx(name: str, path: Path) -> None:
    """A traced function of TensorFlow, converted."""
    tf = importlib.import_module("tensorflow")
    model = keras_model(name)
    given = tf.TensorSpec([None, *model.inputs[0].shape[1:]], tf.float32, name="x")
    function = tf.function(lambda x: model(x, training=False))
    importlib.import_module("tf2onnx").convert.from_function(function, [given], opset=13, output_path=str(path))
    onnx.checker.check_model(path)


def with_torch_below(name: str, path: Path) -> None:
    """Keras's own export, of a model that runs in PyTorch."""
    with mock.patch.dict("os.environ", KERAS_BACKEND="torch"):
        with_keras(name, path)


def with_tflite(name: str, path: Path) -> None:
    """A model of TensorFlow Lite, converted."""
    tf = importlib.import_module("tensorflow")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        file.write_bytes(tf.lite.TFLiteConverter.from_keras_model(keras_model(name)).convert())
        importlib.import_module("tf2onnx").convert.from_tflite(str(file), opset=15, output_path=str(path))
    onnx.checker.check_model(path)


# ---------------------------------------------------------------------------------------------- Paddle


def with_paddle(name: str, path: Path) -> None:
    """One of paddle.vision's networks, converted."""
    paddle = importlib.import_module("paddle")
    paddle.seed(0)
    kind = getattr(paddle.vision.models, "LeNet" if name == "lenet" else name)
    model = kind() if name == "lenet" else kind(pretrained=False)
    model.eval()
    rng = np.random.default_rng(0)
    model.set_state_dict({k: paddle.to_tensor(noisy(v.numpy(), rng)) for k, v in model.state_dict().items()})
    shape = [None, 1, 28, 28] if name == "lenet" else [None, 3, 224 if name in ("alexnet", "googlenet") else SIDE, SIDE]
    shape[3] = shape[2]
    spec = paddle.static.InputSpec(shape, "float32", "x")
    paddle.onnx.export(model, str(path.with_suffix("")), input_spec=[spec], opset_version=13)


# ---------------------------------------------------------------------------------------------- Flax


def with_jax(name: str, path: Path) -> None:
    """A small network of Flax's layers, whose maps have their channels last."""
    jax, nnx = importlib.import_module("jax"), importlib.import_module("flax.nnx")
    model, shape = flax_model(nnx, name)
    rng = np.random.default_rng(0)
    graph, state = nnx.split(model)
    model = nnx.merge(graph, jax.tree.map(lambda v: noisy(np.asarray(v), rng) if hasattr(v, "ndim") else v, state))
    onnx.save(importlib.import_module("jax2onnx").to_onnx(model, [("N", *shape)]), path)


def flax_model(nnx: Any, name: str) -> tuple[Any, tuple[int, ...]]:
    """A network and the shape of one sample."""
    rngs = nnx.Rngs(0)
    dense, layer_norm = partial(nnx.Linear, rngs=rngs), partial(nnx.LayerNorm, 32, rngs=rngs)
    conv = partial(nnx.Conv, kernel_size=(3, 3), rngs=rngs)
    norm = partial(nnx.BatchNorm, use_running_average=True, rngs=rngs)

    class Residual(nnx.Module):  # type: ignore[misc]  # the library has no types here, as it is imported late
        def __init__(self, *layers: Any) -> None:
            self.branch = nnx.Sequential(*layers)

        def __call__(self, x: Any) -> Any:
            return x + self.branch(x)

    def pooled(x: Any) -> Any:
        return x.mean((1, 2))

    def block() -> Any:
        return Residual(conv(16, 24), norm(24), nnx.relu, conv(24, 16), norm(16))

    if name == "mlp":
        layers = [dense(12, 32), norm(32), nnx.relu, dense(32, 16), nnx.tanh, dense(16, 5)]
    elif name == "cnn":
        pool = partial(nnx.max_pool, window_shape=(2, 2), strides=(2, 2))
        layers = [conv(3, 16, strides=2), nnx.relu, pool, conv(16, 24), norm(24), nnx.relu, pooled, dense(24, 5)]
    elif name == "resnet":
        layers = [conv(3, 16), norm(16), nnx.relu, block(), nnx.relu, block(), nnx.relu, pooled, dense(16, 5)]
    elif name == "separable":
        depthwise = conv(24, 24, feature_group_count=24)
        layers = [conv(3, 24), norm(24), nnx.silu, depthwise, norm(24), nnx.silu]
        layers += [conv(24, 32, kernel_size=(1, 1)), norm(32), nnx.silu, pooled, dense(32, 5)]
    else:
        attention = nnx.MultiHeadAttention(num_heads=4, in_features=32, decode=False, rngs=rngs)
        branches = [Residual(layer_norm(), attention), Residual(layer_norm(), dense(32, 64), nnx.gelu, dense(64, 32))]
        mean = partial(importlib.import_module("jax.numpy").mean, axis=1)
        layers = [dense(12, 32), *branches, layer_norm(), mean, dense(32, 5)]
    return nnx.Sequential(*layers), {"mlp": (12,), "transformer": (20, 12)}.get(name, (32, 32, 3))


# ---------------------------------------------------------------------------------------------- scikit-learn


def with_skl2onnx(name: str, path: Path) -> None:
    """What scikit-learn fitted, converted."""
    model, x = fitted(name)
    options = {} if name == "MLPRegressor" else {"zipmap": False}
    converted = importlib.import_module("skl2onnx").to_onnx(model, x[:1], options={id(model): options})
    onnx.save(converted, path)


def with_hummingbird(name: str, path: Path) -> None:
    """What scikit-learn fitted, as matrix products in PyTorch, exported."""
    model, x = fitted(name)
    torch = importlib.import_module("torch")
    with mock.patch("torch.onnx.export", partial(torch.onnx.export, dynamo=False)):  # the exporter that it is made for
        converted = importlib.import_module("hummingbird.ml").convert(model, "onnx", x[:1])
    onnx.save(converted.model, path)


def fitted(name: str) -> tuple[Any, Any]:
    """A perceptron fitted to random numbers, alone or behind a scaling and a projection, and these numbers."""
    networks = importlib.import_module("sklearn.neural_network")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 12)).astype("float32"), rng.integers(0, 4, 200)
    kind = networks.MLPRegressor if name == "MLPRegressor" else networks.MLPClassifier
    model = kind(hidden_layer_sizes=(32, 16), max_iter=30)
    if name == "pipeline":
        scaler = importlib.import_module("sklearn.preprocessing").StandardScaler()
        reduction = importlib.import_module("sklearn.decomposition").PCA(8)
        model = importlib.import_module("sklearn.pipeline").make_pipeline(scaler, reduction, model)
    return model.fit(x, y), x


# ---------------------------------------------------------------------------------------------- Caffe2


def light(folder: str = "light") -> Path:
    """Where onnx keeps its own test models."""
    return Path(str(importlib.import_module("onnx.backend.test").__file__)).parent / "data" / folder


def light_names() -> list[str]:
    """Networks as Caffe2 wrote them, whose weights are one number each."""
    return sorted(p.stem.removeprefix("light_") for p in light().glob("*.onnx"))


def from_caffe2(name: str, path: Path) -> None:
    """The network with random weights in place of its constants."""
    model = onnx.load(light() / f"light_{name}.onnx")
    sizes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    rng, nodes = np.random.default_rng(0), list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type == "ConstantOfShape":
            value = weight(tuple(sizes[node.input[0]]), rng)
            model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        else:
            model.graph.node.append(node)
    positive(model, rng)
    onnx.save(model, path)


def weight(shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    """Random weights that keep a signal's size."""
    fan = max(int(np.prod(shape[1:])), 1)
    return (rng.normal(size=shape) * np.sqrt(2 / fan) if len(shape) > 1 else rng.random(shape) * 0.2).astype("float32")


def positive(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Scales and variances of normalizations around 1."""
    scales = {
        n for node in model.graph.node if node.op_type == "BatchNormalization" for n in (node.input[1], node.input[4])
    }
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            value = (rng.random(tuple(tensor.dims)) + 0.5).astype("float32")
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))


PRODUCERS: dict[str, Producer] = {
    "tf2onnx": ("keras", KERAS.split, with_tf2onnx),
    "keras": ("keras", KERAS.split, with_keras),
    "keras-torch": ("keras", KERAS.split, with_torch_below),
    "tflite": ("keras", KERAS.split, with_tflite),
    "paddle2onnx": ("paddle", PADDLE.split, with_paddle),
    "jax2onnx": ("flax", FLAX.split, with_jax),
    "skl2onnx": ("sklearn", SCIKIT.split, with_skl2onnx),
    "hummingbird": ("sklearn", SCIKIT.split, with_hummingbird),
    "caffe2": ("onnx", light_names, from_caffe2),
} | OLDER
