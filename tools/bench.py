"""How long things take, as ratios in one run: machines are noisy, ratios less so.

python tools/bench.py                               elimination, as multiples of one float64 matrix product
python tools/bench.py --model M.onnx --calib C.npz  a whole run, as a multiple of one plain pass over the same samples
python tools/bench.py --shape resnet18 --samples 64 a whole run on made-up images and random weights, on one processor:
                                                    processor seconds by stage, and peak memory
"""

import resource
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import click
import numpy as np
import shapes

import onnxprune
from onnxprune.calibration import PLAIN
from onnxprune.data import samples_of
from onnxprune.elimination import Elimination, Problem, eliminate
from onnxprune.evaluation import answers
from onnxprune.files import load
from onnxprune.graph import Graph
from onnxprune.runtime import Runtime

Benchmark = tuple[str, Callable[[], object]]


def elimination(quick: bool) -> Iterator[Benchmark]:
    """Backward elimination of all channels: neurons (b = 1), taps of 3×3 convolutions (b = 9), wide ones compressed."""
    for n, b, outputs in [(256, 1, 64), (32, 9, 32)] if quick else [(2048, 1, 512), (224, 9, 256), (512, 9, 512)]:
        rng = np.random.default_rng(0)
        rows = np.arange(n * b).reshape(n, b)
        x = rng.normal(size=(rows.size, 32)) @ rng.normal(size=(32, rows.size))
        x += rng.normal(size=x.shape)
        problem = Problem(x.T @ x, rng.normal(size=(rows.size, outputs)), rows)
        yield f"eliminate n={n} b={b} o={outputs}", partial(ranked, problem)


def ranked(problem: Problem) -> Elimination:
    """As REAP does it."""
    return eliminate([problem.compressed])


BENCHMARKS = [elimination]


def seconds(run: Callable[[], object]) -> float:
    """How long one call takes."""
    start = perf_counter()
    run()
    return perf_counter() - start


def whole_run(model: Path, calib: Path, samples: int, target: str, repeats: int) -> None:
    """A run of the main job next to plain passes of the original over the same samples."""
    graph, runtime = Graph.of(load(model)), Runtime()
    data = samples_of(graph, model, calib, PLAIN, samples, 0, None)

    def plain() -> object:
        return answers(graph.model, data, range(data.count), runtime, 64)

    for _ in range(repeats):
        before = seconds(plain)
        start = perf_counter()
        report = onnxprune.prune(model, target=target, calibration=calib, samples=samples).report
        run, after = perf_counter() - start, seconds(plain)
        parts = ", ".join(f"{name} {time:.1f}" for name, time in report.seconds.items())
        click.echo(
            f"plain pass {before:.2f} and {after:.2f} s, run {run:.1f} s: {2 * run / (before + after):.1f} ×  ({parts})"
        )
    click.echo(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


class Stopwatch:
    """Processor seconds by stage, as progress tells them: between two reports they are those of the second one's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = process_time()

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Everything since the last report belongs to this stage."""
        now = process_time()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now


def random_weights(shape: str, samples: int, target: str, fold: bool, allocate: str) -> None:
    """A run on a well-known architecture."""
    watch = Stopwatch()
    options: dict[str, Any] = {"runtime": Runtime(threads=1), "measure_latency": False, "allocate": allocate}
    model = shapes.build(shape, fold)
    watch("build")
    found = onnxprune.prune(model, target=target, samples=samples, progress=watch, **options).report.fidelity
    watch("verify")
    total = sum(seconds for stage, seconds in watch.seconds.items() if stage != "build")
    parts = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in watch.seconds.items() if stage != "build")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    click.echo(f"{shape}, {samples} samples, {target}, {allocate}: {total:.1f} s ({parts}), peak {peak:.2f} GB")
    click.echo(f"relative change of the answers {found.relative_error:.4f}")


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes and a 1024³ product: seconds rather than a minute.")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Median of so many runs.")
@click.option("--model", type=Path, help="Time a whole run on this model instead.")
@click.option("--calib", type=Path, help="Its calibration data.")
@click.option("--shape", type=click.Choice(list(shapes.SHAPES)), help="Time a run on such a network instead.")
@click.option("--fold", is_flag=True, help="Its convolutions have biases, and no BatchNormalization follows.")
@click.option("--allocate", default="dp", show_default=True)
@click.option("--samples", default=1000, show_default=True)
@click.option("--target", default="macs=0.5", show_default=True)
def main(
    quick: bool,
    repeats: int,
    model: Path | None,
    calib: Path | None,
    shape: str | None,
    fold: bool,
    allocate: str,
    samples: int,
    target: str,
) -> None:
    """Time every benchmark next to a reference, taking turns so that both see the same machine."""
    if shape is not None:
        random_weights(shape, samples, target, fold, allocate)
        return
    if model is not None:
        if calib is None:
            raise click.UsageError("--model needs --calib")
        whole_run(model, calib, samples, target, repeats)
        return
    size = 1024 if quick else 4096
    matrix = np.random.default_rng(0).normal(size=(size, size))
    runs: list[Benchmark] = [(f"matmul {size}³", lambda: matrix @ matrix)]
    runs += (entry for benchmark in BENCHMARKS for entry in benchmark(quick))
    rounds = [[seconds(run) for _, run in runs] for _ in range(repeats)]
    medians = [median(times) for times in zip(*rounds, strict=True)]
    for (name, _), time in zip(runs, medians, strict=True):
        click.echo(f"{name:32}{time:10.3f} s{time / medians[0]:10.2f} ×")


if __name__ == "__main__":
    main()
