# mypy: allow-subclassing-any
"""Train the two small networks in models/ and write each beside its calibration and evaluation images.

    python tools/make_models.py        # well under a minute

Besides onnxprune's own dependencies it needs torch 2.13.0 and scikit-learn. Neither onnxprune nor its tests
run this file: they read what it wrote. Seeds, thread count and number of epochs are fixed, so a second run on
the same machine writes the same bytes; the evaluation images decide nothing.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

SEED = 20240
EVAL_IMAGES, CALIB_IMAGES = 500, 600
BATCH = 64
OPSET = 17
TOLERANCE = 1e-5  # largest difference between a logit of onnxruntime and of torch

Images = NDArray[np.float32]  # [N, 8, 8], grey levels 0..16 scaled to 0..1
Labels = NDArray[np.int64]  # [N]


class BasicBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)); the shortcut: 1×1 conv, bn if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs)))
        self.relu2 = nn.ReLU()

    def forward(self, x: Any) -> Any:
        """x [N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""
        inner = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(inner)) + self.shortcut(x))


def mlp() -> Any:
    """Three Gemms: x [N, 64] -> 128 -> 64 -> logits [N, 10]."""
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(64, 128),
            relu1=nn.ReLU(),
            fc2=nn.Linear(128, 64),
            relu2=nn.ReLU(),
            fc3=nn.Linear(64, 10),
        )
    )


def resnet() -> Any:
    """A stem and four basic blocks, 16 channels at 8×8 then 32 at 4×4: x [N, 1, 8, 8] -> logits [N, 10]."""
    stem = OrderedDict(conv=nn.Conv2d(1, 16, 3, padding=1, bias=False), bn=nn.BatchNorm2d(16), relu=nn.ReLU())
    return nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(stem),
            block1=BasicBlock(16, 16),
            block2=BasicBlock(16, 16),
            block3=BasicBlock(16, 32, stride=2),
            block4=BasicBlock(32, 32),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(32, 10),
        )
    )


@dataclass(frozen=True)
class Recipe:
    """How one network is built and trained, and the shape it wants one image in."""

    build: Callable[[], Any]
    shape: tuple[int, ...]
    epochs: int
    rate: float


RECIPES = {
    "digits_mlp": Recipe(mlp, (64,), epochs=150, rate=4e-3),
    "digits_resnet": Recipe(resnet, (1, 8, 8), epochs=60, rate=1e-2),
}


def split_digits() -> tuple[Images, Labels, Images, Labels]:
    """Training and evaluation images and labels, disjoint, with the same share of each digit."""
    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32), digits.target.astype(np.int64)
    train_x, eval_x, train_y, eval_y = train_test_split(
        images, labels, test_size=EVAL_IMAGES, stratify=labels, random_state=SEED
    )
    return train_x, train_y, eval_x, eval_y


def shift(images: Any) -> Any:
    """Each image [N, 8, 8] moved by -1, 0 or 1 pixels along both axes, at random; zeros move in."""
    windows = F.pad(images, (1, 1, 1, 1)).unfold(1, 8, 1).unfold(2, 8, 1)  # [N, 3, 3, 8, 8]
    down, right = torch.randint(3, (2, len(images)))
    return windows[torch.arange(len(images)), down, right]


def train(recipe: Recipe, images: Images, labels: Labels) -> Any:
    """The recipe's network after its fixed number of epochs, in eval mode."""
    torch.manual_seed(SEED)
    x, y, net = torch.from_numpy(images), torch.from_numpy(labels), recipe.build()
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.rate, weight_decay=1e-2)
    whole = len(x) // BATCH * BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.rate, epochs=recipe.epochs, steps_per_epoch=whole // BATCH
    )
    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(x))[:whole].reshape(-1, BATCH):
            output = net(shift(x[batch]).reshape(-1, *recipe.shape))
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(output, y[batch], label_smoothing=0.05))
            optimizer.step()
            schedule.step()
    return net.eval()


def export(net: Any, shape: tuple[int, ...]) -> onnx.ModelProto:
    """The network as ONNX: BatchNormalization left in, a symbolic batch `N`, one initializer per parameter.

    The exporter folds BatchNormalization into Conv in its EVAL mode; PRESERVE keeps it, in the mode set by
    net.eval(). What tells of the exporter rather than of the network is taken out again.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "exported.onnx"
        torch.onnx.export(
            net,
            (torch.zeros(2, *shape),),
            path,
            dynamo=False,
            opset_version=OPSET,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["x"],
            output_names=["logits"],
            dynamic_axes={"x": {0: "N"}, "logits": {0: "N"}},
        )
        model = onnx.load(path)
    unshare(model.graph)
    del model.metadata_props[:]
    for part in (model, model.graph, *model.graph.node):
        part.ClearField("doc_string")
    for node in model.graph.node:
        del node.metadata_props[:]
        node.name = node.name.strip("/")
    return model


def unshare(graph: onnx.GraphProto) -> None:
    """Give every parameter its own initializer: the exporter makes the second of two equal ones an Identity.

    Two are equal here because the bias of block3.bn2 and that of its shortcut's BN get the same gradients.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.input[0] in stored]:
        graph.initializer.add().CopyFrom(stored[node.input[0]])
        graph.initializer[-1].name = node.output[0]
        graph.node.remove(node)


def check(model: onnx.ModelProto, net: Any, x: Images) -> None:
    """Raise unless the model is valid, equals the network on x, and still has every BatchNormalization."""
    onnx.checker.check_model(model, full_check=True)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    expected = sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    if len(norms) != expected or any(len(node.output) != 1 for node in norms):
        raise click.ClickException(f"{len(norms)} BatchNormalization nodes for inference, not {expected}")
    with torch.no_grad():
        reference = net(torch.from_numpy(x)).numpy()
    error = np.abs(logits(model.SerializeToString(), x) - reference).max()
    if error > TOLERANCE:
        raise click.ClickException(f"onnxruntime and torch differ by {error:.1e}")


def logits(model: bytes | str, x: Images) -> NDArray[np.float32]:
    """What onnxruntime computes on the CPU from x for a model given as bytes or as a path."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"x": x})[0])


def summary(path: Path) -> str:
    """Ops, parameters, bytes and accuracy, all read back from the files."""
    model, held_out = onnx.load(path), np.load(path.with_suffix(".eval.npz"))
    right = int((logits(str(path), held_out["x"]).argmax(axis=1) == held_out["y"]).sum())
    counts = Counter(node.op_type for node in model.graph.node)
    ops = ", ".join(f"{count} {op}" for op, count in counts.items())
    parameters = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    total = len(held_out["y"])
    return (
        f"{path.name}: accuracy {right / total:.2%} ({right} of {total}), {parameters:,} parameters, "
        f"{path.stat().st_size:,} bytes, IR {model.ir_version}, opset {model.opset_import[0].version}: {ops}"
    )


@click.command()
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parents[1] / "models",
    help="Default: the repository's models/.",
)
def main(out: Path) -> None:
    """Train, export, check, and write NAME.onnx, NAME.calib.npz (x) and NAME.eval.npz (x, y)."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    out.mkdir(parents=True, exist_ok=True)
    train_x, train_y, eval_x, eval_y = split_digits()
    for name, recipe in RECIPES.items():
        net = train(recipe, train_x, train_y)
        model = export(net, recipe.shape)
        calib, held_out = (images.reshape(-1, *recipe.shape) for images in (train_x[:CALIB_IMAGES], eval_x))
        check(model, net, held_out)
        path = out / f"{name}.onnx"
        onnx.save(model, path)
        np.savez_compressed(path.with_suffix(".calib.npz"), x=calib)
        np.savez_compressed(path.with_suffix(".eval.npz"), x=held_out, y=eval_y)
        click.echo(summary(path))


if __name__ == "__main__":
    main()
