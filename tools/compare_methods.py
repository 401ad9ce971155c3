"""All methods side by side on equal terms: accuracy and agreement against MACs, as a table and a picture.

    python tools/compare_methods.py MODEL DATA.npz --results R.jsonl --table T.md --picture P.svg [--target 0.5 ...]

DATA and the options are those of `accuracy.py`, whose loop this is: every method with every way to reconstruct gets the
same calibration images and the widths that the allocator found for REAP. Each figure is written to R.jsonl as soon as
it is known, and none is computed twice: interrupt it, add a target or a draw, run it again. The table and the picture
are made of all that R.jsonl holds for this model and data.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import matplotlib
import numpy as np
from accuracy import Measurement, Setting, on_images

from onnxprune.methods import METHODS
from onnxprune.reconstruct import MODES

matplotlib.use("svg")
matplotlib.rcParams |= {"svg.hashsalt": "onnxprune", "svg.fonttype": "none"}  # the same figures, the same file

Row = dict[str, Any]
COLUMNS = ("accuracy", "agreement", "zerr")


def specs(methods: Iterable[str], modes: Iterable[str]) -> list[str]:
    """Every method with every way to reconstruct, REAP's own first: the widths are its."""
    found = [f"{method}:{mode}" for method in methods for mode in modes]
    return sorted(found, key=lambda spec: spec != "reap:ls")


def read(path: Path, name: str) -> list[Row]:
    """The rows of earlier runs for this model and data."""
    if not path.exists():
        return []
    return [row for line in path.read_text().splitlines() if (row := json.loads(line))["of"] == name]


def measure(setting: Setting, name: str, wanted: list[str], draws: int, targets: Iterable[float], path: Path) -> None:
    """Measure what isn't in the file yet, one line each."""
    known = {(row["draw"], row["target"], row["spec"]) for row in read(path, name)}
    for draw in range(draws):
        missing = {t: [s for s in wanted if (draw, t, s) not in known] for t in targets}
        if not any(missing.values()):
            continue
        measurement = Measurement(setting, draw, min(targets))
        for target, left in missing.items():
            for row in measurement.rows(left, target):
                with path.open("a") as file:
                    file.write(json.dumps({"of": name, "draw": draw, "target": target, **row}) + "\n")
                click.echo(
                    f"{draw} {target} {row['spec']:16} {100 * row['accuracy']:6.2f} {100 * row['agreement']:6.2f} "
                    f"{row['zerr']:.4f}"
                )


def means(rows: Iterable[Row]) -> dict[str, dict[float, Row]]:
    """spec -> target -> mean over draws."""
    collected: dict[tuple[str, float], list[Row]] = defaultdict(list)
    for row in rows:
        collected[row["spec"], row["target"]].append(row)
    found: dict[str, dict[float, Row]] = defaultdict(dict)
    for (spec, target), several in collected.items():
        found[spec][target] = {c: float(np.mean([r[c] for r in several])) for c in COLUMNS} | {"draws": len(several)}
    return found


def table(title: str, rows: list[Row]) -> str:
    """Markdown: one row per method and way to reconstruct, best first; per target accuracy / agreement / zerr."""
    found = means(rows)
    targets = sorted({row["target"] for row in rows}, reverse=True)
    draws = sorted({r["draws"] for by_target in found.values() for r in by_target.values()})
    ordered = sorted(found, key=lambda spec: -sum(r["agreement"] for r in found[spec].values()))
    lines = [
        f"## {title}",
        "",
        "Accuracy % / agreement with the original % / squared relative error of the output, mean of "
        f"{' or '.join(map(str, draws))} draw(s) of the calibration images.",
        "",
        "| method | reconstruct | " + " | ".join(f"macs={t:g}" for t in targets) + " |",
        "|---|---|" + "--:|" * len(targets),
    ]
    for spec in ordered:
        cells = []
        for target in targets:
            r = found[spec].get(target)
            cells.append(f"{100 * r['accuracy']:.2f} / {100 * r['agreement']:.2f} / {r['zerr']:.4f}" if r else "")
        lines.append(f"| {' | '.join(spec.split(':'))} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def picture(title: str, rows: list[Row], path: Path) -> None:
    """Accuracy and agreement against MACs: one panel per way to reconstruct, one line per method."""
    from matplotlib import pyplot

    found = means(rows)
    modes = [mode for mode in MODES if any(spec.endswith(f":{mode}") for spec in found)]
    figure, panels = pyplot.subplots(
        2, len(modes), figsize=(3.2 * len(modes) + 1, 6.4), sharex=True, sharey="row", squeeze=False
    )
    for column, mode in enumerate(modes):
        for number, name in enumerate(METHODS):
            points = sorted(found.get(f"{name}:{mode}", {}).items())
            for line, what in enumerate(("accuracy", "agreement")):
                style = {"color": pyplot.get_cmap("tab20")(number), "linewidth": 1}
                if name == "reap":
                    style = {"color": "black", "linewidth": 2, "zorder": 3}
                values = [100 * row[what] for _, row in points]
                panels[line][column].plot([t for t, _ in points], values, marker=".", label=name, **style)
                panels[line][column].grid(alpha=0.3)
                panels[line][0].set_ylabel(f"{what} %")
        panels[0][column].set_title(f"--reconstruct {mode}")
        panels[1][column].set_xlabel("MACs kept")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="center right", frameon=False)
    figure.suptitle(title)
    figure.tight_layout(rect=(0, 0, 0.93, 1))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@on_images()
@click.option("--results", type=Path, required=True, help="JSON lines: what is known, added to")
@click.option("--table", "table_path", type=Path, help="Markdown")
@click.option("--picture", "picture_path", type=Path, help="SVG")
@click.option("--draws", default=1, show_default=True)
@click.option("--target", "targets", type=float, multiple=True, default=(0.7, 0.5, 0.4, 0.3), show_default=True)
@click.option("--method", "methods", multiple=True, default=tuple(METHODS), show_default=True)
@click.option("--reconstruct", "modes", multiple=True, default=MODES, show_default=True)
@click.option("--allocate", default="dp", show_default=True)
@click.option("--round-to", default=1, show_default=True)
def main(
    model: Path, data: Path, results: Path, table_path: Path | None, picture_path: Path | None,
    draws: int, targets: tuple[float, ...], methods: tuple[str, ...], modes: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """Measure what is missing, then write the table and the picture."""
    name = f"{model.stem}, {options['samples']} samples, --allocate {options['allocate']}"
    setting = Setting.load(model, data, **options)
    measure(setting, name, specs(methods, modes), draws, targets, results)
    rows = read(results, name)
    if table_path:
        table_path.write_text(table(name, rows))
    if picture_path:
        picture(name, rows, picture_path)


if __name__ == "__main__":
    main()
