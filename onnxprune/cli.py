"""The command line: the only file that prints or exits.

`onnxprune IN OUT` is `onnxprune prune IN OUT`. Whatever is likely to be wrong (IN, OUT, the plan, the provider) is
looked at before any long work. Tables and `--json` go to stdout, all else to stderr. Errors that a user can cause or
cure are one sentence and an exit code (see `errors`); a traceback means a bug.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich import progress as rich_progress
from rich.console import Console, RenderableType

import onnxprune
from onnxprune import search, tables
from onnxprune.calibration import LABELS, Preprocessing
from onnxprune.errors import BudgetError, DataError, ModelError, OnnxPruneError, OutputError, UsageError
from onnxprune.files import Model, beside, load, on_disk
from onnxprune.methods import catalogue
from onnxprune.options import COMPARE, HEADS, IN, JSON, PATH, PRUNE, SHAPES, SWEEP, VERBOSE, Sectioned, write_sections
from onnxprune.plan import Plan
from onnxprune.report import Report, Target
from onnxprune.run import Progress
from onnxprune.runtime import Runtime, provider
from onnxprune.sweep import Point, expanded, knee, picture

WIDE = 140  # columns of a table where there is no terminal to ask


# ---------------------------------------------------------------------------------------------- printing


def _console(*, err: bool = False) -> Console:
    """Colour on terminals only, whatever the environment says; text is never markup."""
    stream = sys.stderr if err else sys.stdout
    terminal = stream.isatty()
    width = None if terminal else WIDE
    return Console(file=stream, force_terminal=terminal, width=width, markup=False, highlight=False, emoji=False)


def _name_width(verbose: bool) -> int:
    """Characters of a name that fit into the tables of `inspect`."""
    return tables.WHOLE if verbose else tables.NAME if _console().width >= 110 else 24


def _show(*parts: RenderableType) -> None:
    console = _console()
    with console.capture() as captured:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))
    click.echo("\n".join(line.rstrip() for line in captured.get().split("\n")), nl=False, color=True)


def _say(kind: str, text: str) -> None:
    """One line on stderr: `error: …` or `warning: …`."""
    console = _console(err=True)
    console.print(f"{kind}:", style="bold red" if kind == "error" else "bold yellow", end=" ")
    console.print(text, soft_wrap=True)


def _show_json(values: Mapping[str, Any]) -> None:
    click.echo(json.dumps(_finite(dict(values)), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    """The value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _working(*, bars: bool) -> Iterator[Progress]:
    """Progress bars on stderr, if wanted and if it is a terminal. What users' own code prints goes to stderr too."""
    with redirect_stdout(sys.stderr):
        if not (bars and sys.stderr.isatty()):
            yield lambda stage, done, total: None
            return
        with rich_progress.Progress(console=_console(err=True), transient=True) as shown:
            tasks: dict[str, Any] = {}

            def update(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = shown.add_task(stage, total=total)
                shown.update(tasks[stage], completed=done, total=total)

            yield update


# ---------------------------------------------------------------------------------------------- commands


class Commands(click.Group):
    """The commands; without the name of one the arguments are `prune`'s. Turns errors into sentences and exit codes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `prune` in front of a bare IN OUT."""
        if not args:
            click.echo(self.get_help(ctx), err=True)
            ctx.exit(2)
        known = {*self.commands, *ctx.help_option_names, "--version"}
        return super().parse_args(ctx, args if args[0] in known else ["prune", *args])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what a user can cause or cure ends in one sentence and an exit code."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # names in models may hold what a terminal can't show
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _say("error", "interrupted; nothing was written.")
            ctx.exit(130)
        except click.UsageError as error:
            _say("error", error.format_message())
            path = error.ctx.command_path if error.ctx else ctx.command_path
            click.echo(f"Try '{path} --help'.", err=True)
            ctx.exit(2)
        except OnnxPruneError as error:
            _fail(ctx, str(error), error.exit_code)
        except MemoryError:
            _fail(ctx, "not enough memory; try a smaller --batch, --max-memory or --samples.", 1)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            where = f"{error.filename}: " if error.filename else ""
            _fail(ctx, f"{where}{error.strerror or error}.", 1)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, and the options of the bare form."""
        self.format_commands(ctx, formatter)
        write_sections([*self.commands["prune"].params, *self.get_params(ctx)], ctx, formatter)


def _fail(ctx: click.Context, message: str, code: int) -> None:
    if ctx.meta.get("verbose") and code not in (2, 3):
        click.echo(traceback.format_exc(), err=True, nl=False)
    _say("error", message if message.endswith(".") else f"{message}.")
    ctx.exit(code)


@click.group(
    "onnxprune",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110},
    subcommand_metavar="IN.onnx OUT.onnx [OPTIONS]  |  COMMAND [ARGS]",
    options_metavar="",
)
@click.version_option(onnxprune.__version__, "--version", prog_name="onnxprune")
def main() -> None:
    """Make a trained ONNX model smaller and faster: remove channels, refit what stays, check the result.

    \b
    onnxprune model.onnx pruned.onnx                    as small as it gets without changing 1 % of the answers
    onnxprune model.onnx pruned.onnx --target macs=0.5  half of the multiplications
    onnxprune inspect model.onnx                        what can be pruned, and why the rest can't

    `onnxprune IN OUT` is short for `onnxprune prune IN OUT`; its options are listed below.
    """


@main.command(cls=Sectioned, short_help="Prune a model (the bare form).")
@IN
@click.argument("out", metavar="OUT.onnx", type=PATH, required=False)
@PRUNE
def prune(source: Path, out: Path | None, **given: Any) -> None:
    """Prune IN and write the result to OUT, which has the same inputs and outputs."""
    plan, failure = _prepared(source, out, given), None
    with _working(bars=not given["quiet"]) as progress:
        try:
            result = onnxprune.prune(
                source,
                target=given["target"],
                iterations=given["iterations"],
                retrain=given["retrain"],
                plan=plan,
                progress=progress,
                beside=_data_name([out or source], source, given),
                **_common(given),
            )
        except BudgetError as error:
            if error.result is None:
                raise
            result, failure = error.result, error
    if given["save_plan"]:
        _written(given["save_plan"], result.plan.save)
    if out is not None and not given["dry_run"]:
        result.save(out, external=given["save_as_external_data"] or None)
        _warn_of_leftovers(result.written, out)
    written = out if not given["dry_run"] else None
    report = _with_files(result.report, source, written)
    _warn(report, given["quiet"])
    if given["as_json"]:
        _show_json(_facts(source, written, given["seed"]) | report.json() | _shortfall(failure))
    elif not given["quiet"]:
        _show_report(report, source, written, given)
    if failure is not None:
        raise failure


@main.command("sweep", cls=Sectioned, short_help="One calibration, a model per target, and how they compare.")
@IN
@SWEEP
def sweep_(source: Path, to: Path, targets: tuple[str, ...], **given: Any) -> None:
    """Prune IN for several targets and write a model for each to DIR, with a table and a picture of all of them.

    \b
    onnxprune sweep model.onnx --to models --targets macs=0.8,0.6,0.4
    """
    outs, drawing = _prepared_sweep(source, to, targets, given)
    points: list[Point] = []
    interrupted = False
    with _working(bars=not given["quiet"]) as progress:
        try:
            data = _data_name(list(outs.values()), source, given)
            for point in onnxprune.sweep(source, targets, progress=progress, beside=data, **_common(given)):
                if point.result is not None:
                    out = outs[point.target]
                    point.result.save(out, external=given["save_as_external_data"] or None)
                    report = _with_files(point.result.report, source, out)
                    point = replace(point, result=replace(point.result, report=report))
                points.append(point)
        except KeyboardInterrupt:
            interrupted = True
    made = [point for point in points if point.result is not None]
    best = knee(points)
    if made:
        text = picture(f"{source.name}, {given['method']}", points)
        _written(drawing, lambda path: path.write_text(text, "utf-8"))
    for point in made[:1]:
        assert point.result is not None
        _warn(point.result.report, given["quiet"])
    names = [str(outs[point.target]) if point.result is not None else None for point in points]
    if given["as_json"]:
        facts = {"onnxprune": onnxprune.__version__, "input": str(source), "seed": given["seed"]}
        rows = [{"output": name} | _row(point) for name, point in zip(names, points, strict=True)]
        drawn = str(drawing) if made else None
        _show_json(facts | {"points": rows, "knee": None if best is None else names[best], "picture": drawn})
    elif not given["quiet"] and points:
        _show("", tables.sweep(points, best, source.name))
        _show(*(f"{p.target.kind}={p.target.value:g}: {p.failure}." for p in points if p.failure))
        _show(f"Written to {to}: {len(made)} models" + (f" and {drawing.name}." if made else "."))
    if interrupted:
        _say("error", f"interrupted; {len(made)} of {len(outs)} models were written to {to}.")
        click.get_current_context().exit(130)
    failures = [point.failure for point in points if point.failure is not None]
    if failures:
        raise BudgetError(f"{len(failures)} of {len(points)} targets can't be reached: {failures[0]}")


def _row(point: Point) -> dict[str, Any]:
    facts = {"targets": [asdict(point.target)]} if point.result is None else point.result.report.json()
    return facts | _shortfall(point.failure)


@main.command(cls=Sectioned, short_help="What can be pruned in a model, and why the rest can't.")
@IN
@SHAPES
@HEADS
@JSON
@VERBOSE
def inspect(source: Path, as_json: bool, verbose: bool, **given: Any) -> None:
    """List the groups of channels that can go together, what they cost, and what is left alone and why."""
    _check_source(source)
    found = onnxprune.inspect(source, input_shapes=_shapes(given), attention=given["attention"])
    if unknown := sorted(set(_shapes(given)) - set(found.inputs)):
        raise DataError(f"a shape is given for {unknown[0]}, but the model takes {', '.join(found.inputs)}.")
    if as_json:
        _show_json({"model": str(source)} | found.json())
        return
    width = _name_width(verbose)
    _show(tables.summary(found))
    if found.groups:
        _show(tables.structure(found, width))
        _show("MACs and params: the share of the model that goes with the whole group; shares overlap.")
        if any(g.stream for g in found.groups):
            _show("stream: the sum of several layers' outputs, as in a residual network; see --streams.")
        if any(g.dims for g in found.groups):
            _show("dims: dims of attention heads, which lose equally many; --attention heads lists whole heads.")
    else:
        _show("No group of channels can be removed.")
    if found.left_alone:
        _show(tables.untouched(found.left_alone, width))


@main.command(cls=Sectioned, short_help="Two models side by side.")
@click.argument("before", metavar="A.onnx", type=PATH)
@click.argument("after", metavar="B.onnx", type=PATH)
@COMPARE
def compare(before: Path, after: Path, as_json: bool, verbose: bool, **given: Any) -> None:
    """Compare what A and B weigh, how long they take, and how alike they answer."""
    for path in (before, after):
        _check_source(path)
    provider(given["provider"])
    data, evaluate = given["data"], given["evaluate"]
    if evaluate is None and data is not None and _is_labelled(data, before):
        data, evaluate = None, data
    with _working(bars=False):
        found = onnxprune.compare(
            before,
            after,
            data,
            eval=evaluate,
            preprocessing=_preprocessing(given),
            samples=given["samples"],
            input_shapes=_shapes(given),
            runtime=_runtime(given),
            batch=given["batch"],
        )
    if found.fidelity.data == "synthetic":
        _say("warning", "no data: the models were compared on synthetic inputs, which says little; pass --data.")
    if as_json:
        _show_json({"a": str(before), "b": str(after)} | found.json())
    else:
        _show(tables.comparison(found, ("A", "B") if before.name == after.name else (before.name, after.name)))


@main.command("methods")
@JSON
def list_methods(as_json: bool) -> None:
    """List every method: what it does, and the paper it comes from."""
    if as_json:
        fields = ("name", "summary", "needs", "reconstruct", "paper")
        _show_json({"methods": [{name: getattr(m, name) for name in fields} for m in catalogue()]})
    else:
        _show(tables.catalogue(catalogue()))


# ---------------------------------------------------------------------------------------------- before a run


def _prepared(source: Path, out: Path | None, given: Mapping[str, Any]) -> Plan | None:
    """Look at all that could be wrong before any long work; gives the plan to be carried out, if there is one."""
    if out is None and not given["dry_run"]:
        raise UsageError("where to? Give OUT.onnx after IN.onnx, or --dry-run to write nothing.")
    if given["plan"] and given["target"]:
        raise UsageError("a plan already says what goes: leave out --target, or --plan.")
    if given["save_plan"] and (given["iterations"] > 1 or given["retrain"]):
        raise UsageError("a plan holds one step: leave out --save-plan, or --iterations and --retrain.")
    search.parse_targets(given["target"])
    _preprocessing(given)
    _check_source(source)
    if out is not None and not given["dry_run"]:
        _check_out(out, source, given["force"])
        _check_data(out, source, given)
    if given["save_plan"]:
        if _same(given["save_plan"], source) or (out is not None and _same(given["save_plan"], out)):
            raise OutputError(f"{given['save_plan']} is a model: give --save-plan another name")
        _check_out(given["save_plan"], source, given["force"])
    provider(given["provider"])
    return Plan.load(given["plan"]) if given["plan"] else None


def _prepared_sweep(
    source: Path, to: Path, targets: Sequence[str], given: Mapping[str, Any]
) -> tuple[dict[Target, Path], Path]:
    """The same for a sweep; gives the files that are to be written: one for each target, and the picture."""
    wanted = expanded(targets)
    _preprocessing(given)
    _check_source(source)
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


def _common(given: Mapping[str, Any]) -> dict[str, Any]:
    """What all that prunes takes from the command line, as `onnxprune.prune` calls it."""
    named = ("method", "allocate", "reconstruct", "granularity", "attention", "refine", "threshold", "blocks")
    limits = (
        "streams",
        "serialize",
        "include",
        "exclude",
        "keep",
        "round_to",
        "min_channels",
        "batch",
        "max_memory",
        "seed",
        "samples",
    )
    return {name: given[name] for name in (*named, *limits)} | {
        "calibration": given["calib"],
        "eval": given["evaluate"],
        "preprocessing": _preprocessing(given),
        "input_shapes": _shapes(given),
        "runtime": _runtime(given),
    }


def _check_source(source: Path) -> None:
    if source.is_file() and not os.access(source, os.R_OK):
        raise ModelError(f"{source} can't be read: you have no permission to.")
    if not source.exists() or source.is_dir():
        load(source)  # says what is wrong


def _check_out(out: Path, source: Path, force: bool) -> None:
    """Raise OutputError if OUT can't be written, or would overwrite what nobody asked to overwrite."""
    if out.is_dir() or (out.exists() and not out.is_file()):
        raise OutputError(f"{out} is not a file that can be written; give the path of a new file.")
    if _same(out, source) and not force:
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


def _data_name(outs: Sequence[Path], source: Path, given: Mapping[str, Any]) -> str | None:
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
    if data.resolve() in model.data and not _same(out, source):
        raise OutputError(f"{data} holds the weights of {source}; give another path to write to.")
    if not given["force"]:
        raise OutputError(f"{data} exists already, and weights go there; give another path, or --force.")


def _same(a: Path, b: Path) -> bool:
    if a.exists() and b.exists():
        return a.samefile(b)
    return a.resolve() == b.resolve()


def _preprocessing(given: Mapping[str, Any]) -> Preprocessing:
    mirror = given.get("mirror", False)
    return Preprocessing(given["mean"], given["std"], given["layout"], given["resize"], mirror)


def _runtime(given: Mapping[str, Any]) -> Runtime:
    return Runtime(given["provider"], given["threads"], tuple(given["custom_ops"]))


def _shapes(given: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    return dict(given["input_shapes"])


def _is_labelled(data: str, model: Path) -> bool:
    """Whether an .npz holds labels beside the model's inputs."""
    if not data.endswith(".npz") or not Path(data).is_file():
        return False
    try:
        with Path(data).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            names = set(file.files)
    except Exception:  # damaged in any way: said when it is read
        return False
    return any(name in LABELS for name in names - {i.name for i in load(model).proto.graph.input})


# ---------------------------------------------------------------------------------------------- after a run


def _written(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"can't write {path} ({error.strerror or error}); nothing was written.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _warn_of_leftovers(model: Model, out: Path) -> None:
    """Say which files a model that was overwritten doesn't read any more; another model may."""
    if model.path is None or not _same(model.path, out):
        return
    left = [f for f in model.data if f.exists() and f != beside(out, model).resolve()]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        _say("warning", f"{out} doesn't read {left[0]}{more} any more: delete what no other model reads.")


def _with_files(report: Report, source: Path, out: Path | None) -> Report:
    """The report with the sizes that the files have on disk, together with those that hold their weights."""
    in_place = out is not None and _same(source, out)  # then the original is gone
    before = report.before if in_place else replace(report.before, bytes=on_disk(source))
    after = replace(report.after, bytes=on_disk(out)) if out is not None else report.after
    return replace(report, before=before, after=after)


def _warn(report: Report, quiet: bool) -> None:
    for warning in report.warnings:
        if not quiet or "synthetic" in warning:
            _say("warning", warning)


def _facts(source: Path, out: Path | None, seed: int) -> dict[str, Any]:
    written = None if out is None else str(out)
    return {"onnxprune": onnxprune.__version__, "input": str(source), "output": written, "seed": seed}


def _shortfall(failure: BudgetError | None) -> dict[str, Any]:
    return {} if failure is None else {"error": str(failure), "reachable": failure.reachable}


def _show_report(report: Report, source: Path, out: Path | None, given: Mapping[str, Any]) -> None:
    how = ", ".join(dict.fromkeys((report.method, report.allocate, report.reconstruct)))
    _show("", tables.outcome(report, f"{source.name} → {out or '(dry run: nothing was written)'}   [{how}]"))
    if given["verbose"]:
        shown = [tables.depth(report.blocks)] if report.blocks else []
        _show(*shown, tables.widths(report.groups), tables.untouched(report.left_alone))
    _show("Go further: " + "; ".join(_hints(report, source, given)) + ".")


def _hints(report: Report, source: Path, given: Mapping[str, Any]) -> list[str]:
    """What this run didn't use and the next one could."""
    hints = []
    if report.fidelity.data == "synthetic":
        hints.append("--calib PATH for real inputs")
    if given["plan"] is None and not any(t.kind != "drop" for t in report.targets):
        hints.append("--target macs=0.5 for a size of your choice")
    if report.accuracy is None:
        hints.append("--eval PATH for the accuracy on labelled data")
    if not given["verbose"]:
        hints.append("-v for every group")
    return [*hints, f"`onnxprune inspect {source}` for what stays whole and why"]
