"""Depth against width, on real data: accuracy kept with whole blocks removed, with channels removed, and with both.

    python tools/depth.py MODEL DATA.npz --mean ... --std ... --blocks 1.0 --blocks 0.8 --target 0.8 --target 0.5

DATA and the other options are those of `accuracy.py`. For every share of MACs in `--blocks` (1.0: none go), blocks are
removed (or merged with the next one) by `shallow` down to it, and then channels by `reap` down to each `--target` below
it. Orders and error curves of channels are those of the original; all layers are refitted together. With `--labels`
the probes get the calibration images' own labels (`y_train`), never those that the result is judged by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from accuracy import FIGURES, Setting, line, on_images
from threadpoolctl import threadpool_limits

from onnxprune.blocks import find
from onnxprune.depth import Shallowing
from onnxprune.errors import BudgetError
from onnxprune.evaluation import Labelled
from onnxprune.graph import Graph
from onnxprune.run import prepare
from onnxprune.search import Search, parse_targets


def stages(graph: Graph, removed: Sequence[str]) -> str:
    """How many blocks are left of those whose values are of the same shape: "6 of 8, 8 of 8"."""
    kept: dict[tuple[int, ...], list[bool]] = {}
    for block in find(graph):
        kept.setdefault(graph.shapes[block.output], []).append(block.output not in removed)
    return ", ".join(f"{sum(flags)} of {len(flags)}" for flags in kept.values())


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@on_images()
@click.option("--draw", default=0, show_default=True)
@click.option("--blocks", "depths", type=float, multiple=True, default=(1.0, 0.8))
@click.option("--target", "targets", type=float, multiple=True, default=(0.5,))
@click.option("--labels", is_flag=True, help="probes towards the labels of the calibration images, not the answers")
@click.option("--round-to", default=1, show_default=True)
def main(
    model: Path, data: Path, draw: int, depths: tuple[float, ...], targets: tuple[float, ...], *,
    labels: bool, **options: Any,
) -> None:  # fmt: skip
    """Print the blocks' gains, and one row per share of blocks and target."""
    setting = Setting.load(model, data, **options)
    calibration, chosen = setting.drawn(draw)
    known = Labelled(calibration, np.load(data)["y_train"].ravel()[chosen])
    wide = replace(setting.options, method="reap", targets=parse_targets(["macs=1"]), seed=draw)
    with threadpool_limits(1, user_api="blas"):
        width = Search(prepare(setting.graph, calibration, wide, setting.judged))
        depth = Shallowing(
            replace(width.run, options=replace(wide, method="shallow"), labelled=known if labels else None)
        )
        graph = width.run.coupling.graph
        gains = sorted(depth.gains.items(), key=lambda pair: graph.producer[pair[0]])
        click.echo(f"gains, in hundredths: {' '.join(f'{100 * gain:.1f}' for _, gain in gains)}")
        click.echo("  MACs  blocks/channels      MACs   accuracy agreement  zerr   blocks left by shape")
        for share in depths:
            gone = depth.fewest([("macs", share)]) if share < 1 else []
            for target in [share, *(t for t in targets if t < share)]:
                if target < 1:
                    search = depth.after(gone)
                    search.ranked = search.left_of(width.ranked)
                    label = f"{share:g} {'+ widths' if target < share else ''}"
                    try:
                        keep = search.within([("macs", target)]) if target < share else {}
                    except BudgetError as error:
                        click.echo(f"{target:6} {label:18} {error}")
                        continue
                    found = search.candidate(keep)
                    figures = setting.figures(found.model, width.judge.before[0])
                    click.echo(f"{line(target, label, [figures[c] for c in FIGURES])}  {stages(graph, gone)}")


if __name__ == "__main__":
    main()
