"""Accuracy kept per time saved, on real data: the table behind the README's figures of `--target latency=`.

    python tools/timing.py MODEL DATA.npz --mean ... --std ... --target latency=0.7 --target macs=0.5 --batch 8

DATA and the other options are those of `accuracy.py`. For every draw of the calibration images and every target, the
model is pruned, and timed again in a process of its own.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from accuracy import Setting, on_images

from onnxprune.pipeline import searching
from onnxprune.run import prepare
from onnxprune.search import parse_targets


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@on_images(threads=1, batch=1)
@click.option("--draws", default=3, show_default=True)
@click.option("--target", "targets", multiple=True, default=("latency=0.7",), help="latency=0.7, macs=0.5, ...")
@click.option("--blocks", default="auto", show_default=True)
def main(model: Path, data: Path, draws: int, targets: tuple[str, ...], batch: int, **options: Any) -> None:
    """Print one row per draw and target."""
    setting = Setting.load(model, data, batch=batch, **options)
    click.echo("draw target          time                   MACs   accuracy agreement  zerr   seconds")
    for draw in range(draws):
        calibration, _ = setting.drawn(draw)
        for target in targets:
            start = time.perf_counter()
            wanted = replace(setting.options, targets=parse_targets([target]), seed=draw)
            search = searching(prepare(setting.graph, calibration, wanted, setting.judged))
            found, failure = search.best()
            seconds = time.perf_counter() - start
            figures = setting.figures(found.model, search.judge.before[0])
            ratio = search.timed(found.model)
            shares = " ".join(f"{100 * figures[name]:8.2f}" for name in ("accuracy", "agreement"))
            click.echo(
                f"{draw:4} {target:14} {ratio.ratio:.3f} ({ratio.low:.3f}-{ratio.high:.3f})   {figures['macs']:.4f} "
                f"{shares} {figures['zerr']:9.4f} {seconds:7.0f}  {failure or ''}".rstrip()
            )


if __name__ == "__main__":
    main()
