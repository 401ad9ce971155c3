"""Before a run: what the command line gave, in the words of the Python API, and a look at all that could be wrong."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.calibration import LABELS, Preprocessing
from onnxprune.errors import ModelError, OutputError, UsageError
from onnxprune.files import beside, load
from onnxprune.plan import Plan
from onnxprune.report import Target
from onnxprune.runtime import Runtime, provider
from onnxprune.search import parse_targets
from onnxprune.sweep import expanded

NAMED = (
    *("method", "allocate", "reconstruct", "granularity", "attention", "refine", "threshold", "blocks", "streams"),
    *("serialize", "include", "exclude", "keep", "round_to", "min_channels", "batch", "max_memory", "seed", "samples"),
)  # options that are called alike in both


def ready_to_prune(source: Path, out: Path | None, given: Mapping[str, Any]) -> Plan | None:
    """Look at all that could be wrong before any long work; gives the plan to be carried out, if there is one."""
    if out is None and not given["dry_run"]:
        raise UsageError("where to? Give OUT.onnx after IN.onnx, or --dry-run to write nothing.")
    if given["plan"] and given["target"]:
        raise UsageError("a plan already says what goes: leave out --target, or --plan.")
    if given["save_plan"] and (given["iterations"] > 1 or given["retrain"]):
        raise UsageError("a plan holds one step: leave out --save-plan, or --iterations and --retrain.")
    parse_targets(given["target"])
    preprocessing_of(given)
    check_source(source)
    if out is not None and not given["dry_run"]:
        _check_out(out, source, given["force"])
        _check_data(out, source, given)
    if given["save_plan"]:
        if same_file(given["save_plan"], source) or (out is not None and same_file(given["save_plan"], out)):
            raise OutputError(f"{given['save_plan']} is a model: give --save-plan another name")
        _check_out(given["save_plan"], source, given["force"])
    provider(given["provider"])
    return Plan.load(given["plan"]) if given["plan"] else None


def ready_to_sweep(
    source: Path, to: Path, targets: Sequence[str], given: Mapping[str, Any]
) -> tuple[dict[Target, Path], Path]:
    """The same for a sweep; gives the files that are to be written: one for each target, and the picture."""
    wanted = expanded(targets)
    preprocessing_of(given)
    check_source(source)
    provider(given["provider"])
    if to.exists() and not to.is_dir():
        raise OutputError(f"{to} is not a folder; give --to a folder for the models.")
    outs = {t: to / f"{source.stem}-{t.kind}{t.value:g}.onnx" for t in wanted}
    drawing = to / f"{source.stem}-pareto.svg"
    to.mkdir(parents=True, exist_ok=True)
    for out in outs.values():
        _check_out(out, source, given["force"])
        _check_data(out, source, given)
    _check_out(drawing, source, given["force"])
    return outs, drawing


def options_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """What all that prunes takes from the command line, as `onnxprune.prune` calls it."""
    return {name: given[name] for name in NAMED} | {
        "calibration": given["calib"],
        "eval": given["evaluate"],
        "preprocessing": preprocessing_of(given),
        "input_shapes": shapes_of(given),
        "runtime": runtime_of(given),
    }


def check_source(source: Path) -> None:
    """Raise ModelError if there is no model to read."""
    if source.is_file() and not os.access(source, os.R_OK):
        raise ModelError(f"{source} can't be read: you have no permission to.")
    if not source.exists() or source.is_dir():
        load(source)  # says what is wrong


def _check_out(out: Path, source: Path, force: bool) -> None:
    """Raise OutputError if OUT can't be written, or would overwrite what nobody asked to overwrite."""
    if out.is_dir() or (out.exists() and not out.is_file()):
        raise OutputError(f"{out} is not a file that can be written; give the path of a new file.")
    if same_file(out, source) and not force:
        raise OutputError(f"{out} is the input model itself; give another path, or --force to overwrite it.")
    if os.path.lexists(out) and not force:
        raise OutputError(f"{out} exists already; give another path, or --force to overwrite it.")
    if not out.parent.is_dir():
        raise OutputError(f"can't write {out}: there is no folder {out.parent}; make it first.")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise OutputError(f"can't write {out}: {error.strerror or error}.") from error


def data_name(outs: Sequence[Path], source: Path, given: Mapping[str, Any]) -> str | None:
    """The longest name of a file that weights are written to beside a model, if they are."""
    model = load(source)
    names = [beside(out, model).name for out in outs] if given["save_as_external_data"] or model.data else []
    return max(names, key=len, default=None)


def _check_data(out: Path, source: Path, given: Mapping[str, Any]) -> None:
    """The same for the file that weights are written to, if they are."""
    if not source.is_file():
        return
    model = load(source)
    data = beside(out, model)
    if not (given["save_as_external_data"] or model.data) or not os.path.lexists(data):
        return
    if data.resolve() in model.data and not same_file(out, source):
        raise OutputError(f"{data} holds the weights of {source}; give another path to write to.")
    if not given["force"]:
        raise OutputError(f"{data} exists already, and weights go there; give another path, or --force.")


def same_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, there already or not."""
    if a.exists() and b.exists():
        return a.samefile(b)
    return a.resolve() == b.resolve()


def preprocessing_of(given: Mapping[str, Any]) -> Preprocessing:
    """How images become inputs."""
    mirror = given.get("mirror", False)
    return Preprocessing(given["mean"], given["std"], given["layout"], given["resize"], mirror)


def runtime_of(given: Mapping[str, Any]) -> Runtime:
    """Where models run."""
    return Runtime(given["provider"], given["threads"], tuple(given["custom_ops"]))


def shapes_of(given: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """Sizes of inputs."""
    return dict(given["input_shapes"])


def is_labelled(data: str, model: Path) -> bool:
    """Whether an .npz holds labels beside the model's inputs."""
    if not data.endswith(".npz") or not Path(data).is_file():
        return False
    try:
        with Path(data).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            names = set(file.files)
    except Exception:  # damaged in any way: said when it is read
        return False
    return any(name in LABELS for name in names - {i.name for i in load(model).proto.graph.input})
