"""The zoo as Markdown: what passed, what didn't and why, how long it took, and a row per model and exporter."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from zoo_checks import FORMS, METHODS, SAMPLES

Record = dict[str, Any]
Results = dict[str, dict[str, Record]]  # file -> stage -> record

WHOLE = {"torchvision": 121}  # architectures that a library has, where all of them are tried
CAUSES = {
    "left out: ": "larger than what is built here",
    "took more than": "the export takes longer than is allowed",
    "GuardOnDataDependentSymNode|data-dependent|Could not guard": "torch.export can't follow control flow on data",
    "output size that are not factor": "the exporter has no adaptive pooling to sizes that don't divide the map",
    "input size not accessible": "the exporter wants a size that is dynamic in this model",
    "not supported|Unsupported|No Op registered|No decomp|DispatchError": "an operator that the exporter doesn't know",
    "Failed to export the model with torch.export": "torch.export fails on the model's code",
}
HEAD = """# Zoo

Real architectures with random weights, exported and pruned by `tools/zoo.py`, whose head says what a pass is.
For `surgery` a random third of each group's channels goes. `magnitude` and `reap` are the whole tool with
{samples} synthetic samples and `--allocate uniform`, as many parameters kept as stay without a third of the channels.

- share: of the parameters, those that go when every group goes; in brackets without the groups that `prune` keeps
  whole, as residual streams.
- left alone: layers whose output channels all stay, by reason.
- seconds: of processor time, to find the groups, and for all of `magnitude` and `reap`; `>` where that is the limit
  at which it is stopped, `–` where it wasn't run.
- surgery: the largest difference between the pruned model and its full-size twin, relative to the value's size.
- forms: whether the groups are the same after onnxruntime's basic and extended optimizations (b, e) and onnxslim (s),
  and for dynamo as by TorchScript (t): `=`, groups lost and won (channels × number, /cells), `!` for a failure.
- result: `none can` where every layer stays because a normalization takes in all its channels, a product combines
  channels along one axis with channels along another, or it is an input or an output (tests/test_topologies.py has the
  first two in small).
"""


COLUMNS = """| model | exporter | nodes | groups | share | left alone | seconds | surgery | forms | result |
|---|---|--:|--:|--:|---|--:|--:|---|---|"""


def document(built: list[Record], records: list[Record], timeout: Mapping[str, int]) -> str:
    """The whole page."""
    results: Results = defaultdict(dict)
    known = {r["file"] for r in built if "error" not in r}
    for record in records:
        if record["file"] in known:
            results[record["file"]][record["stage"]] = record
    rows = sorted((r for r in built if results.get(r["file"])), key=lambda r: (r["name"], r["exporter"]))
    lines = [HEAD.format(samples=SAMPLES), *summary(built, results, timeout), "", COLUMNS]
    lines += [row(r, results, timeout) for r in rows]
    lines += failures(rows, results) + absent(built)
    return "\n".join(lines) + "\n"


def before(old: str, new: str, commit: str) -> str:
    """The rows of a page that a newer one doesn't have, as a section; empty if there are none. `commit`: the page's."""
    known = {cells[:2] for cells in _cells(new)}
    rows = [cells for cells in _cells(old) if cells[:2] not in known]
    if not rows:
        return ""
    good = sum(cells[-1] != "FAIL" for cells in rows)
    said = (
        f"{len(rows)} models, not run again since this page was as in commit {commit}, which says what they were run at"
    )
    lines = ["", "## Earlier", "", f"{said}: {good} pass, {len(rows) - good} fail.", "", COLUMNS]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)]) + "\n"


def _cells(page: str) -> list[tuple[str, ...]]:
    """The rows of the tables of a page."""
    lines = (line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| "))
    return [tuple(cells) for cells in lines if "/" in cells[0]]


# ---------------------------------------------------------------------------------------------- the rows


def row(origin: Record, results: Results, timeout: Mapping[str, int]) -> str:
    """One model by one exporter."""
    mine = results[origin["file"]]
    r = mine.get("surgery", {"error": "not run"})
    cells = [origin["name"], origin["exporter"]]
    if "error" in r:
        cells += [""] * 6
    else:
        found = f"{r['inspect']:.1f}" if "inspect" in r else "–"  # earlier results don't know it
        seconds = [found, *(duration(mine.get(m), timeout[m]) for m in METHODS)]
        cells += [str(r["nodes"]), str(r["groups"]), f"{r['share']:.0%} ({r['narrowed']:.0%})"]
        cells += [why(r["reasons"]), " / ".join(seconds), f"{r['difference']:.0e}"]
    cells += [forms(origin, results), ("pass" if r.get("groups") else "none can") if passes(mine) else "FAIL"]
    return "| " + " | ".join(cells) + " |"


def duration(record: Record | None, limit: int) -> str:
    """Seconds that a stage took, as the table says them."""
    if record is None or "skipped" in record:
        return "–"
    if "error" in record:
        return f"> {limit}" if "took more" in record["error"] else "fails"
    return f"{record['seconds']:.1f}"


def why(reasons: Iterable[tuple[str, int]], most: int = 2) -> str:
    """The most frequent reasons, each with its number of layers."""
    found = [(n, clean(reason, 110)) for reason, n in reasons]
    rest = sum(n for n, _ in found[most:])
    return "; ".join([*(f"{n} × {r}" for n, r in found[:most]), *([f"{rest} for other reasons"] if rest else [])])


def forms(origin: Record, results: Results) -> str:
    """What becomes of the groups in other forms of the same network."""
    mine = results[origin["file"]]
    here = mine.get("surgery", {}).get("signature")
    if here is None:
        return ""
    found = {f[0]: mine[f] for f in FORMS if f in mine}
    said = {k: "!" if trouble(r) else difference(here, r["signature"]) for k, r in found.items()}
    if origin["exporter"] == "dynamo":
        other = results.get(origin["file"].replace(".dynamo.", ".torchscript."), {}).get("surgery", {})
        if "signature" in other:
            said["t"] = difference(other["signature"], here)
    by_text: dict[str, str] = defaultdict(str)
    for key, text in said.items():
        by_text[text] += key
    return "; ".join(f"{keys} {text}" for text, keys in by_text.items())


def difference(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Groups lost and won between two forms, "=" if none."""
    lost, won = Counter(before) - Counter(after), Counter(after) - Counter(before)
    parts = [f"−{k}×{n}" for k, n in sorted(lost.items())] + [f"+{k}×{n}" for k, n in sorted(won.items())]
    return " ".join(parts[:4]) + (" …" if len(parts) > 4 else "") if parts else "="


def trouble(record: Record) -> str:
    """What is wrong with a result; empty if nothing."""
    return str(record.get("error") or "; ".join(record.get("failures", [])))


def late(record: Record) -> bool:
    """Whether a stage was stopped at its limit."""
    return "took more than" in record.get("error", "")


def passes(stages: Mapping[str, Record]) -> bool:
    """Whether all is well: surgery passes, and no method fails (one that is stopped at its limit hasn't failed)."""
    kept = [stages[m] for m in METHODS if m in stages and not late(stages[m])]
    return "surgery" in stages and not any(trouble(r) for r in (stages["surgery"], *kept))


def clean(text: str, most: int = 200) -> str:
    """A text on one line of a table, without places of a machine."""
    text = re.sub(r"\x1b?\[\d+m", "", text)
    text = re.sub(r"(/[\w.+-]+){2,}", "…", " ".join(text.split())).replace("|", "\\|")
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0] + " …"


# ---------------------------------------------------------------------------------------------- the summary


def summary(built: list[Record], results: Results, timeout: Mapping[str, int]) -> list[str]:
    """Counts and times."""
    there = [r for r in built if r["file"] in results]
    good = sum(passes(results[r["file"]]) for r in there)
    versions = Counter(s["surgery"].get("commit", "") for s in results.values() if "surgery" in s)
    at = ", ".join(f"{n} at {version or 'an unknown commit'}" for version, n in versions.most_common())
    bound = sum(passes(s) and not s["surgery"]["groups"] for s in results.values())
    nothing = f" (in {bound} of them nothing can go)" if bound else ""
    lines = [f"{len(there)} models pruned ({at}): **{good} pass{nothing}, {len(there) - good} fail**.", ""]
    for library in sorted({r["name"].split("/")[0] for r in there}):
        lines.append(counts(library, [r for r in built if r["name"].startswith(library + "/")], results))
    lines += [times(there, results, stage, timeout) for stage in METHODS if any(stage in s for s in results.values())]
    return lines + times_of(there, results, "torchvision", timeout) + same_forms(there, results)


def counts(library: str, built: list[Record], results: Results) -> str:
    """How many architectures of a library were tried, exported and passed with every exporter."""
    tried = {r["name"] for r in built}
    out = {r["name"] for r in built if r["file"] in results}
    bad = {r["name"] for r in built if r["file"] in results and not passes(results[r["file"]])}
    families = {r["family"] for r in built if "family" in r and r["name"] in out - bad}
    said = f"{len(tried)} of its {WHOLE[library]}" if library in WHOLE else str(len(tried))
    text = f"- {library}: {said} architectures tried, {len(out)} exported, {len(out - bad)} pass"
    return text + (f", of {len(families)} families (source files)." if families else ".")


def times(there: list[Record], results: Results, stage: str, timeout: Mapping[str, int]) -> str:
    """How many models went through the whole tool, and how many were stopped."""
    mine = [results[r["file"]][stage] for r in there if stage in results[r["file"]]]
    mine = [r for r in mine if "skipped" not in r]
    stopped, wrong = sum(map(late, mine)), sum(bool(trouble(r)) and not late(r) for r in mine)
    text = f"- {stage}: {len(mine)} models, {len(mine) - stopped - wrong} pruned, {wrong} fail, "
    return text + f"{stopped} stopped after {timeout[stage]} s."


def times_of(there: list[Record], results: Results, library: str, timeout: Mapping[str, int]) -> list[str]:
    """Median seconds of one library's models and the slowest, with what it spent most on."""
    lines = []
    for stage, key in (("surgery", "inspect"), ("surgery", "seconds"), *((m, "seconds") for m in METHODS)):
        records = {r["file"]: results[r["file"]].get(stage, {}) for r in there if r["name"].startswith(library + "/")}
        seconds = {f: float(timeout[stage]) if late(r) else r[key] for f, r in records.items() if key in r or late(r)}
        if seconds:
            slowest = max(seconds, key=lambda f: seconds[f])
            spent = records[slowest].get("stages", {})
            stages = sorted(((v, k) for k, v in spent.items() if k != "total"), reverse=True)
            reason = f" ({stages[0][1]}: {stages[0][0]:.0f} s)" if stages else ""
            what = "finding the groups" if key == "inspect" else {"surgery": "and rewriting"}.get(stage, stage)
            name = slowest.removeprefix(library + ".").removesuffix(".onnx")
            lines.append(
                f"- {library}, {what}: median {median(seconds.values()):.1f} s of {len(seconds)} files, most "
                f"{'over ' if late(records[slowest]) else ''}{seconds[slowest]:.0f} s: {name}{reason}."
            )
    return lines


def same_forms(there: list[Record], results: Results) -> list[str]:
    """How many models have the same groups in every form."""
    pairs = [(r, f) for r in there for f in FORMS if f in results[r["file"]] and "surgery" in results[r["file"]]]
    lines = []
    for name in FORMS:
        mine = [r["file"] for r, f in pairs if f == name]
        if mine:
            whole = [results[f][name] for f in mine]
            same = sum(results[f]["surgery"].get("signature") == results[f][name].get("signature") for f in mine)
            fine = sum(not trouble(r) for r in whole)
            lines.append(f"- after {name}: {len(mine)} models, {fine} pass, {same} with the very same groups.")
    both = [
        (results[r["file"]]["surgery"], results[other]["surgery"])
        for r in there
        if r["exporter"] == "dynamo"
        and "surgery" in results.get(other := r["file"].replace(".dynamo.", ".torchscript."), {})
        and "signature" in results[r["file"]].get("surgery", {})
    ]
    if both:
        same = sum(a["signature"] == b.get("signature") for a, b in both)
        lines.append(f"- by both PyTorch exporters: {len(both)} models, {same} with the very same groups.")
    return lines


# ---------------------------------------------------------------------------------------------- what failed


def failures(rows: list[Record], results: Results) -> list[str]:
    """Every failure with its cause, as far as the tool knows it."""
    found = [
        f"- {r['name']} ({r['exporter']}), {stage}: {clean(trouble(record))}"
        for r in rows
        for stage, record in results[r["file"]].items()
        if trouble(record) and not (late(record) and stage in METHODS)
    ]
    return ["", "## Failures", "", *found] if found else []


def absent(built: list[Record]) -> list[str]:
    """What couldn't be exported: by any exporter, then by one of several; each by cause."""
    there = {r["name"] for r in built if "error" not in r}
    missing = [r for r in built if "error" in r]
    lines = []
    for title, mine in (
        ("Not exported", [r for r in missing if r["name"] not in there]),
        ("Exported otherwise", [r for r in missing if r["name"] in there]),
    ):
        causes: dict[tuple[str, str], set[str]] = defaultdict(set)
        for r in mine:
            causes[cause(r["error"]), r["exporter"]].add(r["name"])
        lines += ["", f"## {title}", ""] if mine else []
        lines += [f"- by {by}, {what}: {', '.join(sorted(n))}" for (what, by), n in sorted(causes.items())]
    return lines


def cause(error: str) -> str:
    """Why an export failed, in words."""
    return next((c for p, c in CAUSES.items() if re.search(p, error)), clean(error, 120))
