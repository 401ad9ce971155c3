"""Benchmarks of the parts that could be slow, in seconds and as multiples of one float64 matrix product."""

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from time import perf_counter

import click
import numpy as np

from onnxprune.elimination import Problem, eliminate

Benchmark = tuple[str, Callable[[], object]]


def elimination(quick: bool) -> Iterator[Benchmark]:
    """Backward elimination of all channels: neurons (b = 1), taps of 3×3 convolutions (b = 9)."""
    for n, b, outputs in [(256, 1, 64), (32, 9, 32)] if quick else [(2048, 1, 512), (256, 9, 256)]:
        rng = np.random.default_rng(0)
        rows = np.arange(n * b).reshape(n, b)
        x = rng.normal(size=(rows.size, 32)) @ rng.normal(size=(32, rows.size))
        x += rng.normal(size=x.shape)
        problem = Problem(x.T @ x, rng.normal(size=(rows.size, outputs)), rows)
        yield f"eliminate n={n} b={b} o={outputs}", partial(eliminate, [problem])


BENCHMARKS = [elimination]


def seconds(run: Callable[[], object]) -> float:
    """How long one call takes."""
    start = perf_counter()
    run()
    return perf_counter() - start


@click.command()
@click.option("--quick", is_flag=True, help="Small sizes and a 1024³ product: seconds rather than a minute.")
@click.option(
    "--repeats", default=3, show_default=True, type=click.IntRange(1), help="Median of so many runs."
)
def main(quick: bool, repeats: int) -> None:
    """Time every benchmark next to a matrix product, taking turns so that both see the same machine."""
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
