"""The command line: the only file that exits; it prints through `terminal` and looks ahead in `preflight`.

`onnxprune IN OUT` is `onnxprune prune IN OUT`. Whatever is likely to be wrong (IN, OUT, the plan, the provider) is
looked at before any long work. Tables and `--json` go to stdout, all else to stderr. Errors that a user can cause or
cure are one sentence and an exit code (see `errors`); a traceback means a bug.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

import onnxprune
from onnxprune import tables
from onnxprune.cost import COSTS
from onnxprune.errors import BudgetError, DataError, OnnxPruneError, OutputError
from onnxprune.files import Model, beside, on_disk
from onnxprune.methods import catalogue
from onnxprune.options import COMPARE, HEADS, IN, JSON, PATH, PRUNE, SHAPES, SWEEP, VERBOSE, Sectioned, write_sections
from onnxprune.preflight import (
    check_source,
    data_name,
    is_labelled,
    options_of,
    preprocessing_of,
    ready_to_prune,
    ready_to_sweep,
    runtime_of,
    same_file,
    shapes_of,
)
from onnxprune.report import Report
from onnxprune.runtime import provider
from onnxprune.sweep import Point, knee, picture
from onnxprune.terminal import name_width, say, show, show_json, working

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
            say("error", "interrupted; nothing was written.")
            ctx.exit(130)
        except click.UsageError as error:
            say("error", error.format_message())
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
    say("error", message if message.endswith((".", "?")) else f"{message}.")
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
    plan, failure = ready_to_prune(source, out, given), None
    with working(bars=not given["quiet"]) as progress:
        try:
            result = onnxprune.prune(
                source,
                target=given["target"],
                iterations=given["iterations"],
                retrain=given["retrain"],
                plan=plan,
                progress=progress,
                beside=data_name([out or source], source, given),
                **options_of(given),
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
        show_json(_facts(source, written, given["seed"]) | report.json() | _shortfall(failure))
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
    outs, drawing = ready_to_sweep(source, to, targets, given)
    points: list[Point] = []
    interrupted = False
    with working(bars=not given["quiet"]) as progress:
        try:
            data = data_name(list(outs.values()), source, given)
            for point in onnxprune.sweep(source, targets, progress=progress, beside=data, **options_of(given)):
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
        show_json(facts | {"points": rows, "knee": None if best is None else names[best], "picture": drawn})
    elif not given["quiet"] and points:
        show("", tables.sweep(points, best, source.name))
        show(*(f"{p.target.kind}={p.target.value:g}: {p.failure}." for p in points if p.failure))
        show(f"Written to {to}: {len(made)} models" + (f" and {drawing.name}." if made else "."))
    if interrupted:
        say("error", f"interrupted; {len(made)} of {len(outs)} models were written to {to}.")
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
    check_source(source)
    found = onnxprune.inspect(source, input_shapes=shapes_of(given), attention=given["attention"])
    if unknown := sorted(set(shapes_of(given)) - set(found.inputs)):
        raise DataError(f"a shape is given for {unknown[0]}, but the model takes {', '.join(found.inputs)}.")
    if as_json:
        show_json({"model": str(source)} | found.json())
        return
    width = name_width(verbose)
    show(tables.summary(found))
    if found.groups:
        show(tables.structure(found, width))
        show("MACs and params: the share of the model that goes with the whole group; shares overlap.")
        if any(g.stream for g in found.groups):
            show("stream: the sum of several layers' outputs, as in a residual network; see --streams.")
        if any(g.dims for g in found.groups):
            show("dims: dims of attention heads, which lose equally many; --attention heads lists whole heads.")
    else:
        show("No group of channels can be removed.")
    if found.left_alone:
        show(tables.untouched(found.left_alone, width))


@main.command(cls=Sectioned, short_help="Two models side by side.")
@click.argument("before", metavar="A.onnx", type=PATH)
@click.argument("after", metavar="B.onnx", type=PATH)
@COMPARE
def compare(before: Path, after: Path, as_json: bool, verbose: bool, **given: Any) -> None:
    """Compare what A and B weigh, how long they take, and how alike they answer."""
    for path in (before, after):
        check_source(path)
    provider(given["provider"])
    data, evaluate = given["data"], given["evaluate"]
    if evaluate is None and data is not None and is_labelled(data, before):
        data, evaluate = None, data
    with working(bars=False):
        found = onnxprune.compare(
            before,
            after,
            data,
            eval=evaluate,
            preprocessing=preprocessing_of(given),
            samples=given["samples"],
            input_shapes=shapes_of(given),
            runtime=runtime_of(given),
            batch=given["batch"],
        )
    if found.fidelity.data == "synthetic":
        say("warning", "no data: the models were compared on synthetic inputs, which says little; pass --data.")
    if as_json:
        show_json({"a": str(before), "b": str(after)} | found.json())
    else:
        show(tables.comparison(found, ("A", "B") if before.name == after.name else (before.name, after.name)))


@main.command("methods")
@JSON
def list_methods(as_json: bool) -> None:
    """List every method: what it does, and the paper it comes from."""
    if as_json:
        fields = ("name", "summary", "needs", "reconstruct", "paper")
        show_json({"methods": [{name: getattr(m, name) for name in fields} for m in catalogue()]})
    else:
        show(tables.catalogue(catalogue()))


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
    if model.path is None or not same_file(model.path, out):
        return
    left = [f for f in model.data if f.exists() and f != beside(out, model).resolve()]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        say("warning", f"{out} doesn't read {left[0]}{more} any more: delete what no other model reads.")


def _with_files(report: Report, source: Path, out: Path | None) -> Report:
    """The report with the sizes that the files have on disk, together with those that hold their weights."""
    in_place = out is not None and same_file(source, out)  # then the original is gone
    before = report.before if in_place else replace(report.before, bytes=on_disk(source))
    after = replace(report.after, bytes=on_disk(out)) if out is not None else report.after
    return replace(report, before=before, after=after)


def _warn(report: Report, quiet: bool) -> None:
    for warning in report.warnings:
        if not quiet or "synthetic" in warning:
            say("warning", warning)


def _facts(source: Path, out: Path | None, seed: int) -> dict[str, Any]:
    written = None if out is None else str(out)
    return {"onnxprune": onnxprune.__version__, "input": str(source), "output": written, "seed": seed}


def _shortfall(failure: BudgetError | None) -> dict[str, Any]:
    return {} if failure is None else {"error": str(failure), "reachable": failure.reachable}


def _show_report(report: Report, source: Path, out: Path | None, given: Mapping[str, Any]) -> None:
    how = ", ".join(dict.fromkeys((report.method, report.allocate, report.reconstruct)))
    show("", tables.outcome(report, f"{source.name} → {out or '(dry run: nothing was written)'}   [{how}]"))
    if given["verbose"]:
        shown = [tables.depth(report.blocks)] if report.blocks else []
        show(*shown, tables.widths(report.groups), tables.untouched(report.left_alone))
    show("Go further: " + "; ".join(_hints(report, source, given)) + ".")


def _hints(report: Report, source: Path, given: Mapping[str, Any]) -> list[str]:
    """What this run didn't use and the next one could."""
    hints = []
    if report.fidelity.data == "synthetic":
        hints.append("--calib PATH for real inputs")
    if given["plan"] is None and not any(t.kind != "drop" for t in report.targets):
        hints.append("--target macs=0.5 for a size of your choice")
    counts = report.reconstruct == "ls" and not COSTS.keys().isdisjoint(t.kind for t in report.targets)
    if counts and given["serialize"] == "never" and any(group.stream for group in report.groups):
        hints.append("--serialize auto to lose less for as many multiplications, if not for as much time")
    if report.accuracy is None:
        hints.append("--eval PATH for the accuracy on labelled data")
    if not given["verbose"]:
        hints.append("-v for every group")
    return [*hints, f"`onnxprune inspect {source}` for what stays whole and why"]
