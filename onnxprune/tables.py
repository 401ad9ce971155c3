"""Reports as tables for people. Names are shortened in the middle here; `--json` has them whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich import box, filesize
from rich.table import Table

from onnxprune.methods import NEEDS, Criterion
from onnxprune.report import (
    BlockReport,
    Comparison,
    Fidelity,
    GroupReport,
    Inspection,
    Latency,
    Loss,
    Report,
    Size,
    Target,
)
from onnxprune.sweep import Point

NAME = 40  # characters of a name that a table shows; both ends of a long one tell the most
WHOLE = 10_000
LISTED = 4  # names that stand for a longer list
DASH = "–"


def short(name: str, width: int = NAME) -> str:
    """The name, its middle left out where it is longer than `width`."""
    if len(name) <= width:
        return name
    head = (width - 1) // 2
    return f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}"


def outcome(report: Report, title: str) -> Table:
    """What a run did: sizes before and after, fidelity, accuracy, the surgery check and the targets."""
    table = _side_by_side(title, ("before", "after"), report.before, report.after, report.latency)
    _add_fidelity(table, report.fidelity, report.accuracy, report.loss)
    check = report.surgery_check
    note = f"largest difference to what was expected: {check['max_abs_diff']:.1g}"
    table.add_row("surgery check", "", "ok" if check["ok"] else "FAILED", "", note)
    if gone := [block for block in report.blocks if block.removed]:
        names = _names([block.name for block in gone], NAME)
        table.add_row("blocks", str(len(report.blocks)), str(len(report.blocks) - len(gone)), "", f"without {names}")
    for target in report.targets:
        reached = "reached" if target.reached else "missed"
        table.add_row(f"target {target.kind}={target.value:g}", "", reached, "", _evidence(target, report.loss))
    return table


def _evidence(target: Target, loss: Loss) -> str:
    """How sure it is that a loss is what was allowed, or what it would take."""
    if target.kind != "drop" or loss.high is None or not target.reached:
        return ""
    if loss.high <= target.value:
        return "95 % sure"
    judges = "labelled" if loss.of == "accuracy" else "held-out"
    if loss.needed is None:
        return "no number of samples would make it sure"
    return f"to be 95 % sure: about {float(f'{loss.needed:.2g}'):,.0f} {judges} samples"


def comparison(found: Comparison, names: Sequence[str]) -> Table:
    """Two models side by side."""
    table = _side_by_side("", [short(name, 24) for name in names], found.before, found.after, found.latency)
    _add_fidelity(table, found.fidelity, found.accuracy, found.loss)
    return table


def sweep(points: Sequence[Point], knee: int | None, name: str) -> Table:
    """A row for each target: what is left and what is lost, with intervals, and which targets are out of reach."""
    table = _table("target", "MACs", "params", "file size", "time", "agreement", "relative error", "accuracy", "")
    known = [point.result.report for point in points if point.result is not None]
    if known:
        before, accuracy = known[0].before, known[0].accuracy
        cells = (f"{before.macs:,}", f"{before.params:,}", filesize.decimal(before.bytes), _size(before)["latency"])
        right = f"{100 * accuracy['before']:.1f} %" if accuracy else DASH
        table.add_row(short(name, 24), *cells, "", "", right, "original")
    for i, point in enumerate(points):
        target = f"{point.target.kind}={point.target.value:g}"
        marks = ", ".join(["out of reach"] * (point.failure is not None) + ["knee"] * (i == knee))
        if point.result is None:
            table.add_row(target, *[DASH] * 7, marks)
            continue
        report = point.result.report
        left = [report.kept(kind) for kind in ("macs", "params", "size", "latency")]
        table.add_row(target, *(DASH if x is None else f"{x:.3f}" for x in left), *_judged(report), marks)
    return table


def _judged(report: Report) -> tuple[str, str, str]:
    """Agreement, relative error and accuracy, what `drop` counts with its interval."""
    fidelity, accuracy, loss = report.fidelity, report.accuracy, report.loss
    agreement = DASH if fidelity.top1_agreement is None else f"{100 * fidelity.top1_agreement:.1f} %"
    error, right = f"{fidelity.relative_error:.3g}", f"{100 * accuracy['after']:.1f} %" if accuracy else DASH
    if fidelity.top1_agreement is not None:
        agreement += _between(fidelity, lambda lost: f"{100 - 100 * lost:.1f}")
    else:
        error += _between(fidelity, lambda lost: f"{lost:.3g}")
    if accuracy and loss.of == "accuracy":
        right += _between(loss, lambda lost: f"{100 * (accuracy['before'] - lost):.1f}")
    return agreement, error, right


def widths(groups: Iterable[GroupReport]) -> Table:
    """Channels before and after per group, and the relative squared error at the layers that read them."""
    table = _table("group", "channels", "kept", "error", "")
    for g in groups:
        error = DASH if g.error is None else f"{g.error:.3g}"
        table.add_row(short(g.name), str(g.channels), str(g.kept), error, _kind(g))
    return table


def depth(blocks: Iterable[BlockReport]) -> Table:
    """Blocks that can be removed: what they add to the answer, and whether they are gone."""
    table = _table("block", "gain", "MACs", "params", "")
    for b in blocks:
        gain = DASH if b.gain is None else f"{b.gain:.4f}"
        table.add_row(short(b.name), gain, f"{b.macs:,}", f"{b.params:,}", "removed" if b.removed else "")
    return table


def structure(found: Inspection, width: int = NAME) -> Table:
    """The groups of a model: who makes and reads their channels, and what goes when a whole group goes."""
    table = _table("group", "channels", "made by", "read by", "MACs", "params", "")
    table.columns[2].justify = table.columns[3].justify = "left"
    for g in found.groups:
        makers = "itself" if g.layers == [g.name] else _names(g.layers, width)
        share = [f"{100 * part / max(total, 1):.1f} %" for part, total in _shares(g, found.size)]
        cells = (short(g.name, width), str(g.channels), makers, _names(g.readers, width))
        table.add_row(*cells, *share, _kind(g))
    return table


def untouched(left: Sequence[Mapping[str, str]], width: int = NAME) -> Table:
    """Layers that keep all their outputs, by reason; many reasons that differ in a name only stand together."""
    table = _table("left alone", "because")
    table.columns[1].justify = "left"
    kinds: dict[str, dict[str, list[str]]] = {}
    for entry in left:
        kind = re.sub(r"'[^']*'", "'…'", entry["reason"])
        kinds.setdefault(kind, {}).setdefault(entry["reason"], []).append(entry["layer"])
    for kind, reasons in kinds.items():
        if len(reasons) > 2 and width != WHOLE:
            reasons = {kind: [layer for layers in reasons.values() for layer in layers]}
        for reason, layers in reasons.items():
            count = f"{len(layers)} layers: " if len(layers) > 1 else ""
            shown = re.sub(r"'([^']*)'", lambda m: f"'{short(m[1], width)}'", reason)
            table.add_row(count + _names(layers, width), shown)
    return table


def summary(found: Inspection) -> Table:
    """Totals, inputs and outputs."""
    table = Table.grid(padding=(0, 3))
    for title, values in (("inputs", found.inputs), ("outputs", found.outputs)):
        table.add_row(title, ", ".join(f"{short(n)} [{', '.join(map(str, dims))}]" for n, dims in values.items()))
    for title, value in _size(found.size).items():
        if value != DASH:
            table.add_row(title, value)
    return table


def catalogue(methods: Iterable[Criterion]) -> Table:
    """All methods: what they do, what they need, what they repair by default, where they come from."""
    table = _table("method", "what it does", "needs", "--reconstruct auto is", "paper")
    for column in table.columns[1:]:
        column.justify = "left"
    for m in methods:
        table.add_row(m.name, m.summary, NEEDS[m.needs], m.reconstruct, m.paper)
    return table


def _side_by_side(title: str, names: Sequence[str], before: Size, after: Size, time: Latency | None) -> Table:
    table = _table("", *names, "ratio", "", title=title)
    pairs = ((before.params, after.params), (before.macs, after.macs), (before.bytes, after.bytes))
    ratios = [f"{a / b:.3f}" if b else DASH for b, a in pairs] + [f"{time.ratio:.3f}" if time else DASH]
    notes = ["", "", "", _how_timed(time) if time else ""]
    for (label, old), new, ratio, note in zip(_size(before).items(), _size(after).values(), ratios, notes, strict=True):
        table.add_row(label, old, new, ratio, note)
    return table


def _how_timed(time: Latency) -> str:
    threads = {0: "", 1: ", 1 thread"}.get(time.threads, f", {time.threads} threads")
    where = "" if time.provider == "cpu" else f", {time.provider}"
    return f"{time.low:.3f} to {time.high:.3f}, batch {time.batch}{threads}{where}"


def _size(size: Size) -> dict[str, str]:
    latency = DASH if size.latency_ms is None else f"{size.latency_ms:.3g} ms"
    return {
        "parameters": f"{size.params:,}",
        "MACs": f"{size.macs:,}",
        "file size": filesize.decimal(size.bytes),
        "latency": latency,
    }


def _add_fidelity(table: Table, fidelity: Fidelity, accuracy: Mapping[str, float] | None, loss: Loss) -> None:
    """How alike the models answer, with intervals of what was measured on samples."""
    data = f"on {fidelity.samples} samples ({fidelity.data})"
    if fidelity.top1_agreement is not None:
        right = _interval(fidelity, lambda changed: f"{100 - 100 * changed:.1f}")
        table.add_row("agreement", "", f"{100 * fidelity.top1_agreement:.1f} %", "", f"same top class, {data}{right}")
    error = _interval(fidelity, lambda changed: f"{changed:.3g}") if fidelity.top1_agreement is None else ""
    table.add_row("relative error", "", f"{fidelity.relative_error:.3g}", "", f"of the outputs, {data}{error}")
    if loss.of == "variance":
        table.add_row("variance lost", "", f"{loss.value:.3g}", "", f"of how the outputs vary, {data}")
    if accuracy is not None:
        points = _interval(loss, lambda change: f"{100 * change:.1f}") if loss.of == "accuracy" else ""
        both = (f"{100 * accuracy[when]:.1f} %" for when in ("before", "after"))
        table.add_row("accuracy", *both, "", points and f"loss{points} points")


def _interval(found: Fidelity | Loss, shown: Callable[[float], str]) -> str:
    """Between what the true figure lies, if that is known."""
    ends = _ends(found, shown)
    return f", 95 % interval {ends[0]} to {ends[1]}" if ends else ""


def _between(found: Fidelity | Loss, shown: Callable[[float], str]) -> str:
    ends = _ends(found, shown)
    return f" ({ends[0]}–{ends[1]})" if ends else ""


def _ends(found: Fidelity | Loss, shown: Callable[[float], str]) -> list[str]:
    if found.low is None or found.high is None:
        return []
    return sorted((shown(found.low), shown(found.high)), key=float)


def _table(first: str, *others: str, title: str = "") -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    return table


def _names(names: Sequence[str], width: int) -> str:
    listed = names if width == WHOLE or len(names) <= LISTED else names[: LISTED - 1]
    more = f" and {len(names) - len(listed)} more" if len(listed) < len(names) else ""
    return ", ".join(short(name, width) for name in listed) + more


def _shares(group: GroupReport, size: Size) -> tuple[tuple[int, int], tuple[int, int]]:
    return (group.macs, size.macs), (group.params, size.params)


def _kind(group: GroupReport) -> str:
    return "stream" if group.stream else "dims" if group.dims else ""
