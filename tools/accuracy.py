"""Accuracy kept per MAC removed, on real data: the table behind the README's figures.

    python tools/accuracy.py MODEL DATA.npz --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --target 0.5 --target 0.4

DATA holds uint8 images `x_train` [N, H, W(, C)] (calibration is drawn from them, without labels) and `x_test`, `y_test`
(where the result is judged). Each draw takes other calibration images. All methods get the widths that the first one
was given, so the table compares what is kept and how it is repaired.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from onnxprune.calibration import Preprocessing, Samples, load
from onnxprune.cost import total_macs
from onnxprune.data import inputs_of
from onnxprune.evaluation import Labelled, answers
from onnxprune.files import Model
from onnxprune.files import load as load_model
from onnxprune.graph import Array, Graph
from onnxprune.run import Options, prepare
from onnxprune.runtime import Runtime
from onnxprune.search import Search, parse_targets
from onnxprune.steps import allocate

Row = dict[str, Any]
FIGURES = ("macs", "accuracy", "agreement", "zerr")


def numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    return tuple(float(part) for part in text.split(","))


def on_images(threads: int = 0, batch: int = 100) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """What commands take that prune a model by images: its path, theirs, and options with these defaults."""
    shared = [
        *(click.argument(name, type=Path) for name in ("model", "data")),
        *(click.option(name, type=numbers, default="0.5") for name in ("--mean", "--std")),
        click.option("--samples", default=1500, show_default=True, help="calibration images per draw"),
        click.option("--threads", default=threads, show_default=True),
        click.option("--batch", default=batch, show_default=True),
    ]

    def taking(command: Callable[..., None]) -> Callable[..., None]:
        for one in reversed(shared):
            command = one(command)
        return command

    return taking


def pixels(images: Array, graph: Graph, preprocessing: Preprocessing) -> Array:
    """Images as the model's first input wants them."""
    shape = inputs_of(graph)[0].shape or ()
    if images.ndim == 3:
        images = images[..., None]
    values = preprocessing.normalised(images)
    if len(shape) == 4 and shape[1] == images.shape[-1]:
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values.reshape(len(values), *(int(n) for n in shape[1:] if n)), np.float32)


@dataclass(frozen=True)
class Setting:
    """A model, images to calibrate on, images and labels to judge by, and the options of all runs."""

    graph: Graph
    training: Array
    judged: Labelled
    preprocessing: Preprocessing
    samples: int
    options: Options

    @classmethod
    def load(
        cls, model: Path, data: Path, *, mean: tuple[float, ...], std: tuple[float, ...], samples: int, threads: int,
        **options: Any,
    ) -> Setting:  # fmt: skip
        """From files; `options` are fields of `Options`."""
        preprocessing, graph = Preprocessing(mean=mean, std=std), Graph.of(load_model(model))
        arrays = np.load(data, allow_pickle=False)
        judged = Labelled(
            load(pixels(arrays["x_test"], graph, preprocessing), inputs_of(graph)), arrays["y_test"].ravel()
        )
        runtime = Runtime(threads=threads)
        return cls(graph, arrays["x_train"], judged, preprocessing, samples, Options(runtime=runtime, **options))

    def drawn(self, draw: int) -> tuple[Samples, Array]:
        """The images of a draw to calibrate on, and their numbers."""
        chosen = np.random.default_rng(draw).choice(len(self.training), self.samples, replace=False)
        return load(pixels(self.training[chosen], self.graph, self.preprocessing), inputs_of(self.graph)), chosen

    def figures(self, model: Model, base: Array) -> Row:
        """MACs kept, accuracy, agreement and squared relative error of a model, on the images to judge by.

        `base` is what the original answers to them.
        """
        samples, labels = self.judged.samples, self.judged.labels
        assert samples is not None
        assert labels is not None
        z = answers(model, samples, range(len(labels)), self.options.runtime, 250)[0]
        return {
            "macs": total_macs(Graph.of(model, self.graph.dims)) / total_macs(self.graph),
            "accuracy": float((z.argmax(1) == labels).mean()),
            "agreement": float((z.argmax(1) == base.argmax(1)).mean()),
            "zerr": float(np.square(z - base).sum() / np.square(base).sum()),
        }


class Measurement:
    """One draw of the calibration images: all methods get the widths that the first one was given."""

    def __init__(self, setting: Setting, draw: int, target: float) -> None:
        self.setting = setting
        calibration, _ = setting.drawn(draw)
        start = time.perf_counter()
        answers(setting.graph.model, calibration, range(setting.samples), setting.options.runtime, 250)
        self.plain = time.perf_counter() - start
        options = replace(setting.options, targets=parse_targets([f"macs={target}"]), seed=draw, reconstruct="local")
        start = time.perf_counter()
        self.first = Search(prepare(setting.graph, calibration, options, setting.judged))
        self.searches = {options.method: self.first}
        self.shared = (time.perf_counter() - start) / self.plain

    def rows(self, specs: Iterable[str], target: float) -> Iterator[Row]:
        """For every NAME or NAME:RECONSTRUCT (+: refined): MACs kept, accuracy, agreement, zerr, plain passes."""
        keep = self.first.kept(allocate(self.first.run, self.first.ranked, "macs", target))
        for spec in specs:
            yield {"spec": spec, **self.row(spec, {name: len(kept) for name, kept in keep.items()})}

    def row(self, spec: str, widths: dict[str, int]) -> Row:
        """One method at given widths."""
        method, _, mode = spec.removesuffix("+").partition(":")
        start = time.perf_counter()
        if method not in self.searches:
            self.searches[method] = self.first.other(method=method, reconstruct="local")
        search = self.searches[method]
        keep = {r.group.name: r.kept(widths[r.group.name]) for r in search.ranked.rankings}
        search.run.options = replace(search.run.options, reconstruct=mode or "auto", refine=spec.endswith("+"))
        found = search.candidate(keep)
        seconds = time.perf_counter() - start
        return {**self.setting.figures(found.model, self.first.judge.before[0]), "passes": seconds / self.plain}


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@on_images()
@click.option("--draws", default=3, show_default=True)
@click.option("--target", "targets", type=float, multiple=True, default=(0.5,))
@click.option("--method", "methods", multiple=True, default=("reap",), help="NAME or NAME:RECONSTRUCT, + to refine")
@click.option("--allocate", default="dp", show_default=True)
@click.option("--granularity", default="auto", show_default=True)
@click.option("--streams", default="keep", show_default=True)
@click.option("--serialize", default="never", show_default=True)
@click.option("--round-to", default=1, show_default=True)
def main(
    model: Path, data: Path, draws: int, targets: tuple[float, ...], methods: tuple[str, ...], **options: Any
) -> None:
    """Print one row per target, method and draw, and the mean over draws."""
    setting = Setting.load(model, data, method=methods[0].removesuffix("+").partition(":")[0], **options)
    collected: dict[tuple[float, str], list[list[float]]] = {}
    click.echo("draw target method              MACs   accuracy agreement  zerr    x plain pass")
    for draw in range(draws):
        measurement = Measurement(setting, draw, targets[0])
        for target in targets:
            for row in measurement.rows(methods, target):
                found = [row[c] for c in FIGURES]
                collected.setdefault((target, row["spec"]), []).append(found)
                click.echo(
                    f"{draw:4} {line(target, row['spec'], found)}   {measurement.shared:.1f} + {row['passes']:.1f}"
                )
        first = measurement.first
        click.echo(f"     base accuracy {100 * (first.judge.accuracy or 0):.2f}; {first.run.seconds}")
    for (target, spec), several in collected.items():
        click.echo(f"mean {line(target, spec, np.mean(several, axis=0))}")
    click.echo(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def line(target: float, spec: str, found: Any) -> str:
    """One row of the printed table."""
    macs, right, agree, zerr = found
    return f"{target:6} {spec:18} {macs:7.4f} {100 * right:8.2f} {100 * agree:8.2f} {zerr:9.4f}"


if __name__ == "__main__":
    main()
