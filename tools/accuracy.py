"""Accuracy kept per MAC removed, on real data: the table behind the README's figures.

    python tools/accuracy.py MODEL DATA.npz --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --target 0.5 --target 0.4

DATA holds uint8 images `x_train` [N, H, W(, C)] (calibration is drawn from them, without labels) and `x_test`, `y_test`
(where the result is judged). Each draw takes other calibration images. All methods get the widths that the first one
was given, so the table compares what is kept and how it is repaired.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from onnxprune.calibration import Preprocessing, load
from onnxprune.cost import total_macs
from onnxprune.data import inputs_of
from onnxprune.evaluation import Labelled, answers
from onnxprune.graph import Array, Graph
from onnxprune.graph import load as load_model
from onnxprune.runtime import Runtime
from onnxprune.search import Search, parse_targets
from onnxprune.steps import Options, allocate, prepare


def numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    return tuple(float(part) for part in text.split(","))


def pixels(images: Array, graph: Graph, preprocessing: Preprocessing) -> Array:
    """Images as the model's first input wants them."""
    shape = inputs_of(graph)[0].shape or ()
    if images.ndim == 3:
        images = images[..., None]
    values = preprocessing.normalised(images)
    if len(shape) == 4 and shape[1] == images.shape[-1]:
        values = values.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(values.reshape(len(values), *(int(n) for n in shape[1:] if n)), np.float32)


def rows(
    searches: dict[str, Search], specs: tuple[str, ...], target: float, labels: Array, plain: float
) -> Iterator[tuple[str, float, float, float, float, float]]:
    """(method, MACs kept, accuracy, agreement, squared relative error, seconds as a multiple of one plain pass)."""
    first = next(iter(searches.values()))
    keep = first.kept(allocate(first.run, first.ranked, "macs", target))
    widths = {name: len(kept) for name, kept in keep.items()}
    base, graph = first.before[0], first.run.coupling.graph
    for spec in specs:
        method, _, mode = spec.partition(":")
        start = time.perf_counter()
        if method not in searches:
            searches[method] = first.other(method=method, reconstruct="local")
        search = searches[method]
        keep = {r.group.name: r.kept(widths[r.group.name]) for r in search.ranked.rankings}
        search.run.options = replace(search.run.options, reconstruct=mode or "auto")
        found = search.candidate(keep)
        seconds = time.perf_counter() - start
        z = answers(found.model, search.run.labelled.samples, range(len(labels)), search.run.options.runtime, 250)[0]  # type: ignore
        right, agree = float((z.argmax(1) == labels).mean()), float((z.argmax(1) == base.argmax(1)).mean())
        ratio = total_macs(Graph(found.model, graph.dims)) / total_macs(graph)
        yield spec, ratio, right, agree, float(np.square(z - base).sum() / np.square(base).sum()), seconds / plain


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.argument("model", type=Path)
@click.argument("data", type=Path)
@click.option("--mean", type=numbers, default="0.5")
@click.option("--std", type=numbers, default="0.5")
@click.option("--samples", default=1500, show_default=True, help="calibration images per draw")
@click.option("--draws", default=3, show_default=True)
@click.option("--target", "targets", type=float, multiple=True, default=(0.5,))
@click.option("--method", "methods", multiple=True, default=("reap",), help="NAME or NAME:RECONSTRUCT")
@click.option("--allocate", default="dp", show_default=True)
@click.option("--round-to", default=1, show_default=True)
@click.option("--threads", default=0)
@click.option("--batch", default=100)
def main(
    model: Path, data: Path, mean: tuple[float, ...], std: tuple[float, ...], samples: int, draws: int,
    targets: tuple[float, ...], methods: tuple[str, ...], allocate: str, round_to: int, threads: int, batch: int,
) -> None:  # fmt: skip
    """Print one row per target, method and draw, and the mean over draws."""
    preprocessing = Preprocessing(mean=mean, std=std)
    graph = Graph(load_model(model))
    arrays = np.load(data, allow_pickle=False)
    test, labels = pixels(arrays["x_test"], graph, preprocessing), arrays["y_test"].ravel()
    runtime = Runtime(threads=threads)
    judged = Labelled(load(test, inputs_of(graph)), labels)
    collected: dict[tuple[float, str], list[tuple[float, ...]]] = {}
    click.echo("draw target method              MACs   accuracy agreement  zerr    x plain pass")
    for draw in range(draws):
        chosen = np.random.default_rng(draw).choice(len(arrays["x_train"]), samples, replace=False)
        calibration = pixels(arrays["x_train"][chosen], graph, preprocessing)
        options = Options(
            parse_targets([f"macs={targets[0]}"]),
            methods[0].partition(":")[0],
            allocate,
            "local" if len(methods) > 1 else "auto",  # so that the moments are kept for the other methods
            round_to=round_to,
            batch=batch,
            seed=draw,
            runtime=runtime,
        )
        start = time.perf_counter()
        answers(graph.model, load(calibration, inputs_of(graph)), range(samples), runtime, batch)
        plain = time.perf_counter() - start
        start = time.perf_counter()
        search = Search(prepare(graph, load(calibration, inputs_of(graph)), options, judged))
        searches = {options.method: search}
        shared = (time.perf_counter() - start) / plain
        for target in targets:
            for row in rows(searches, methods, target, labels, plain):
                spec, macs, right, agree, zerr, multiple = row
                collected.setdefault((target, spec), []).append((macs, right, agree, zerr, multiple))
                times = f"{shared:.1f} + {multiple:.1f}"
                click.echo(
                    f"{draw:4} {target:6} {spec:18} {macs:7.4f} {100 * right:8.2f} {100 * agree:8.2f} {zerr:9.4f}   "
                    f"{times}"
                )
        click.echo(f"     base accuracy {100 * (search.accuracy or 0):.2f}; {search.run.seconds}")
    for (target, spec), found in collected.items():
        macs, right, agree, zerr, _ = np.mean(found, axis=0)
        click.echo(f"mean {target:6} {spec:18} {macs:7.4f} {100 * right:8.2f} {100 * agree:8.2f} {zerr:9.4f}")
    click.echo(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
