"""Real architectures with random weights: export them, prune each, and say which pass.

python tools/zoo.py build FOLDER [--only 'torchvision/resnet*'] [--exporter dynamo]
python tools/zoo.py run FOLDER [--stage reap] [--only 'timm/*']
python tools/zoo.py table FOLDER models/ZOO.md

`build` needs the environment of what it exports with (`zoo_torch`, `zoo_producers`). `run` needs onnxprune alone, and
onnxslim for the stage `slim`. Each model has a process of its own, so that a crash ends nothing else; both commands
go on where they stopped, as `built.jsonl` and `results.jsonl` beside the models say what is done.

A model passes when (1) every layer is pruned or named with a reason, (2) channels really go, (3) the
surgery is exact to 1e-4, (4) onnxruntime runs the result at batch 1 and 3 (3 only where it runs the original) with the
same inputs and outputs, (5) the checker accepts it (in full where it accepts the original in full). Where nothing goes
because every layer stays for a reason that no surgery overcomes, the table says `none can`.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import resource
import signal
import subprocess
import traceback
from collections.abc import Callable
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
import zoo_producers
import zoo_torch
from zoo_checks import STAGES
from zoo_table import before, document, trouble

Record = dict[str, Any]

TIMEOUT = {
    "surgery": 300,
    "dims": 300,
    "magnitude": 90,
    "reap": 90,
    "basic": 120,
    "extended": 120,
    "slim": 120,
}  # seconds of processor time
PATIENCE = 30  # times longer than that a process may take on a busy machine
EXPORTERS = {name: module for module in (zoo_torch, zoo_producers) for name in module.exporters()}

FOLDER = click.argument("folder", type=click.Path(path_type=Path))
ONLY = click.option("--only", multiple=True, help="Patterns of names (library/architecture).")
LARGEST = click.option("--largest", default=150.0, help="Leave out models of more million parameters.")


@click.group()
def main() -> None:
    """Export real architectures, prune them, say which pass."""


@main.command()
@FOLDER
@ONLY
@LARGEST
@click.option("--exporter", type=click.Choice(list(EXPORTERS)), default="torchscript")
@click.option("--timeout", default=240, help="Seconds per model.")
@click.option("--again", is_flag=True, help="Try again what failed.")
def build(folder: Path, only: tuple[str, ...], largest: float, exporter: str, timeout: int, again: bool) -> None:
    """Export models with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    done = latest(folder / "built.jsonl", "file")
    for name in filter(partial(chosen, patterns=only), EXPORTERS[exporter].names(exporter)):
        file = f"{name.replace('/', '.')}.{exporter}.onnx"
        if (file,) in done and not (again and "error" in done[file,]):
            continue
        record = apart(partial(EXPORTERS[exporter].export, name, exporter, folder / file, largest), timeout)
        append(folder / "built.jsonl", {"file": file, "name": name, "exporter": exporter} | record)
        click.echo(f"{file}: {record.get('error', 'ok')[:300]}")


@main.command()
@FOLDER
@ONLY
@LARGEST
@click.option("--stage", "stages", type=click.Choice(list(STAGES)), multiple=True, default=["surgery"])
@click.option("--exporter", multiple=True, help="Only of these exporters.")
@click.option("--again", type=click.Choice(["no", "failed", "all"]), default="no", help="What to run once more.")
def run(
    folder: Path, only: tuple[str, ...], largest: float, stages: tuple[str, ...], exporter: tuple[str, ...], again: str
) -> None:
    """Take every model of a folder through stages, small ones first."""
    importlib.import_module("onnxprune")  # once, before the processes part
    built = [r for r in latest(folder / "built.jsonl", "file").values() if "error" not in r]
    results = latest(folder / "results.jsonl", "file", "stage")
    for origin in sorted(built, key=lambda r: float(r["parameters"])):
        fits = origin["parameters"] <= largest and (not exporter or origin["exporter"] in exporter)
        for stage in stages if fits and chosen(origin["name"], only) else ():
            old = results.get((origin["file"], stage))
            if old and (again == "no" or (again == "failed" and not trouble(old))):
                continue
            record = apart(partial(STAGES[stage], folder / origin["file"]), TIMEOUT[stage])
            append(folder / "results.jsonl", {"file": origin["file"], "stage": stage, "commit": commit()} | record)
            click.echo(f"{origin['file']} {stage}: {trouble(record)[:400] or 'pass'} {record.get('seconds', 0):.1f} s")


@main.command()
@FOLDER
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--earlier", is_flag=True, help="Keep the rows of models that weren't run again, in a table of their own."
)
def table(folder: Path, path: Path, earlier: bool) -> None:
    """Write all results as a table."""
    built, results = latest(folder / "built.jsonl", "file"), latest(folder / "results.jsonl", "file", "stage")
    text = document(list(built.values()), list(results.values()), TIMEOUT)
    if earlier:
        text += before(path.read_text("utf-8"), text, commit(str(path)))
    path.write_text(text, "utf-8")


def chosen(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name fits one of some patterns, or there are none."""
    return not patterns or any(fnmatch(name, p) for p in patterns)


@cache
def commit(path: str = ".") -> str:
    """What is tested, as git calls it: the last commit, or the last one that changed a file."""
    command = ["git", "-C", str(Path(__file__).parent.parent), "log", "-1", "--format=%h", "--", path]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


# ---------------------------------------------------------------------------------------------- processes, files


def apart(work: Callable[[], Record], timeout: int) -> Record:
    """What `work` returns, run in a process of its own; a record with an error if it fails or takes too long.

    timeout: seconds of processor time, so that what else a machine does decides nothing.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def task() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (timeout, timeout + 60))
        try:
            theirs.send(work())
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            theirs.send({"error": f"{type(error).__name__} in {Path(last.filename).name}: {str(error)[:600]}"})

    process = context.Process(target=task)
    process.start()
    theirs.close()
    late = {"error": f"took more than {timeout} seconds"}
    try:
        record: Record = ours.recv() if ours.poll(PATIENCE * timeout) else late
    except EOFError:
        process.join()
        spent = process.exitcode == -signal.SIGXCPU
        record = late if spent else {"error": "the process died"}
    process.kill()
    process.join()
    return record


def latest(path: Path, *key: str) -> dict[tuple[str, ...], Record]:
    """The last record of each key in a file of JSON lines."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return {tuple(r[k] for k in key): r for r in map(json.loads, lines)}


def append(path: Path, record: Record) -> None:
    """Add a record to a file of JSON lines."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, default=float) + "\n")


if __name__ == "__main__":
    main()
