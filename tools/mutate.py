"""Mutation run: is each tie and each freeze noticed by a test when it is gone?

    python tools/mutate.py results.json [--only PATTERN] [--jobs 2] [--again noticed|survived|all]

Every call that ties or freezes channels (`REMOVED`, and any statement that passes the visit on to another function)
is removed in turn, one that also gives ids is replaced by the ids without the tie (`UNTIED`), and every `shrink=` of a
rule is dropped. Beside these stand some mutants of another form (`OTHERS`). The tests that may notice run on a copy of
the tree, goldens first, random graphs last, seeds fixed; the first that fails has noticed the mutant.

Results are kept in the file, and hold as long as the mutated function stays as it is; `--again` runs some of them
anew, those noticed before by the test that noticed. Survivors that can't be noticed are explained in `EQUIVALENT`.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = [p for p in sorted(ROOT.glob("onnxprune/ops/*.py")) if p.name != "linear.py"]  # which knows no ids
SOURCES += [ROOT / f"onnxprune/{name}.py" for name in ("coupling", "groups", "ids")]
TESTS = ["ids", "coupling", "heads", "ops", "attention", "recurrent", "rewrite", "oracle", "graph", "selection"]
TESTS += ["factorize", "serialize", "odd_models", "contrib", "properties"]

REMOVED = {"tie", "freeze", "freeze_all", "measured", "partition", "side_by_side"}
LISTS = {"ties", "freezes", "dimensions", "parts"}  # what is appended to these is a tie or a freeze, too
FIRST = "ids[tuple(slice(0, 1) if a in {b % ids.ndim for b in axes} else slice(None) for a in range(ids.ndim))]"
UNTIED = {
    "unite": f"(lambda ids, axes: {FIRST})",
    "gather": f"(lambda ids, axes, why: {FIRST})",
    "set_part": "(lambda ids, whole, k=0: v.set(ids, k))",
}
OTHERS = {
    "an unknown operator passes the channels of its inputs on": (
        "coupling.py",
        'v.freeze_all("has a body that isn\'t looked into" if any(subgraphs(v.node)) else unknown)',
        "[v.set(v.ids(0), k) for k in range(len(v.node.output))]",
    ),
    "an unknown operator is element-wise": (
        "coupling.py",
        "    known = find(v.node)\n",
        '    import onnx\n    known = find(v.node) or find(onnx.helper.make_node("Max", [], []))\n',
    ),
    "an input that no rule looked at may lose channels": (
        "coupling.py",
        "if name in v.notes.ids and i not in v.seen:",
        "if False:",
    ),
}

# Why no test can notice these: they compute the same. "file: function: call" -> a sentence.
EQUIVALENT: dict[str, str] = {
    "registry.py: ids: self.unite(ids, axes)": "what reads one lane only leaves the other in places of its own, where "
    "the two can't be kept even, so they are tied in the end",
    "einsum.py: _product: v.unite(ids[i], [a for a, c in enumerate(factors[i]) if c not in through[i]])": "likewise: "
    "channels along two axes come from a Reshape, which ties what can't be kept even",
    'elementwise.py: combine: v.freeze(ids[i], "repeats it over several channels")': "a channel that is alone in "
    "a value never goes, because who reads that would be left with none",
}


@dataclass(frozen=True)
class Mutant:
    """A source file with one piece of text replaced."""

    path: str
    line: int
    name: str  # "file: function: call", and a number where a function has several of these
    digest: str  # of the function as it is
    start: int
    end: int
    text: str

    def apply(self, old: str) -> str:
        """The mutated file."""
        return old[: self.start] + self.text + old[self.end :]


def mutants() -> list[Mutant]:
    """All mutants, file by file."""
    found: list[Mutant] = []
    for path in SOURCES:
        source = path.read_text("utf-8")
        found += _named(path, source, _calls(source))
        for name, (file, old, new) in OTHERS.items():
            if path.name == file:
                if source.count(old) != 1:
                    sys.exit(f"{file} no longer has what stands in OTHERS['{name}'] once")
                found.append(_other(path, source, name, old, new))
    return found


def _calls(source: str) -> Iterator[tuple[ast.FunctionDef, ast.expr | ast.keyword, str]]:
    """(function, what is replaced, by what) for all that `ast` finds."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        statements = {node.value for node in ast.walk(function) if isinstance(node, ast.Expr)}
        for node in ast.walk(function):
            if isinstance(node, ast.Call):
                text = _without(node, source, node in statements)
                if text is not None:
                    yield function, node, text
                for keyword in node.keywords:
                    if keyword.arg == "shrink":
                        yield function, keyword, "shrink=None"


def _without(call: ast.Call, source: str, statement: bool) -> str | None:
    """The call without its tie or freeze, its arguments evaluated all the same; None if there is none in it."""
    f, name = call.func, ast.get_source_segment(source, call.func)
    arguments = (ast.get_source_segment(source, call) or "").removeprefix(name or "")
    if isinstance(f, ast.Attribute):
        owner = f.value.attr if isinstance(f.value, ast.Attribute) else ""
        if f.attr in REMOVED or (f.attr == "append" and owner in LISTS):
            return arguments
        return UNTIED[f.attr] + arguments if f.attr in UNTIED else None
    passed_on = call.args and isinstance(call.args[0], ast.Name) and call.args[0].id == "v"
    return arguments if statement and passed_on else None


def _named(
    path: Path, source: str, calls: Iterator[tuple[ast.FunctionDef, ast.expr | ast.keyword, str]]
) -> list[Mutant]:
    """The mutants of one file, under names that outlive a change of lines."""
    count, found = Counter[str](), list[Mutant]()
    lines = [len(line) for line in source.splitlines(keepends=True)]
    for function, node, text in calls:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin = sum(lines[: node.lineno - 1]) + node.col_offset
        end = sum(lines[: node.end_lineno - 1]) + node.end_col_offset
        name = f"{path.name}: {function.name}: {' '.join(source[begin:end].split())}"
        count[name] += 1
        name += f" ({count[name]})" if count[name] > 1 else ""
        body = ast.get_source_segment(source, function) or ""
        found.append(Mutant(str(path.relative_to(ROOT)), node.lineno, name, _digest(body), begin, end, text))
    return sorted(found, key=lambda m: m.start)


def _other(path: Path, source: str, name: str, old: str, new: str) -> Mutant:
    start = source.index(old)
    line = source[:start].count("\n") + 1
    return Mutant(str(path.relative_to(ROOT)), line, f"{path.name}: {name}", _digest(old), start, start + len(old), new)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# ---------------------------------------------------------------------------------------------- running


class Trees:
    """Copies of the tree, one per job, in which mutants are tested."""

    def __init__(self, folder: Path, jobs: int, timeout: float | None) -> None:
        self.timeout = timeout
        self.idle: queue.Queue[Path] = queue.Queue()
        for job in range(jobs):
            tree = folder / str(job)
            for part in ("onnxprune", "tests"):
                shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
            for file in ("pyproject.toml", "README.md"):
                shutil.copy(ROOT / file, tree / file)
            self.idle.put(tree)

    def run(self, mutant: Mutant | None, first: str = "") -> str:
        """The first test that fails for a mutant (None: the tree as it is), or "" if none does."""
        tree = self.idle.get()
        path = tree / (mutant.path if mutant else "onnxprune/ids.py")
        before = path.read_text("utf-8")
        try:
            if mutant:
                path.write_text(mutant.apply(before), "utf-8")
            return (self._pytest(tree, [first]) if first else "") or self._pytest(tree, _files(tree))
        finally:
            path.write_text(before, "utf-8")
            self.idle.put(tree)

    def _pytest(self, tree: Path, tests: list[str]) -> str:
        threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **threads, "CI": "1", "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-x", "--tb=no", "-rfE", "-p", "no:cacheprovider", *tests]
        try:
            done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True,
                                  timeout=self.timeout)  # fmt: skip
        except subprocess.TimeoutExpired:
            return "(runs for too long)"
        if done.returncode in (0, 4, 5):  # passed, or the test that noticed before is no longer there
            return ""
        named = re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
        return named[1] if named else f"(pytest ends with {done.returncode})"


def _files(tree: Path) -> list[str]:
    return [f"tests/test_{name}.py" for name in TESTS if (tree / f"tests/test_{name}.py").exists()]


def main() -> None:
    """Run what isn't known yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a .json file, made or continued")
    parser.add_argument("--only", default="", metavar="PATTERN", help="in the path or name: a regular expression")
    parser.add_argument("--again", choices=["noticed", "survived", "all"], help="run these anew")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="for one mutant; 10 times that of none")
    args = parser.parse_args()
    chosen = [m for m in mutants() if re.search(args.only, f"{m.path} {m.name}")]
    known = json.loads(args.results.read_text("utf-8")) if args.results.exists() else {}
    stale = [m for m in chosen if _stale(known.get(m.name), m.digest, args.again)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        trees, lock = Trees(Path(folder), args.jobs, args.timeout), threading.Lock()
        start = time.monotonic()
        if stale and (failed := trees.run(None)):
            sys.exit(f"{failed} fails without any mutant")
        trees.timeout = args.timeout or 10 * (time.monotonic() - start)

        def test(mutant: Mutant) -> None:
            noticed = trees.run(mutant, known.get(mutant.name, {}).get("noticed", ""))
            with lock:
                known[mutant.name] = {"digest": mutant.digest, "noticed": noticed}
                args.results.write_text(json.dumps(known, indent=1, sort_keys=True), "utf-8")
                print(f"{mutant.path}:{mutant.line} {mutant.name} -> {noticed or 'SURVIVED'}", flush=True)

        list(pool.map(test, stale))
    print(table(chosen, {m.name: known[m.name]["noticed"] for m in chosen}))


def _stale(result: dict[str, str] | None, digest: str, again: str | None) -> bool:
    """Whether a mutant has to be run."""
    if result is None or result["digest"] != digest or again == "all":
        return True
    return again == ("noticed" if result["noticed"] else "survived")


def table(chosen: list[Mutant], noticed: dict[str, str]) -> str:
    """What noticed each mutant, why those that survived can't be noticed, and the share noticed."""
    lines = ["| where | without | noticed by |", "|---|---|---|"]
    for m in chosen:
        verdict = noticed[m.name] or EQUIVALENT.get(m.name, "**survived**")
        lines.append(f"| {m.path}:{m.line} | {m.name.split(': ', 1)[1]} | {verdict} |")
    count = sum(map(bool, noticed.values()))
    explained = sum(1 for m in chosen if not noticed[m.name] and m.name in EQUIVALENT)
    lines.append(
        f"\n{len(chosen)} mutants, {count} noticed ({count / max(1, len(chosen)):.1%}), "
        f"{explained} equivalent, {len(chosen) - count - explained} survived."
    )
    wrong = [name for name in EQUIVALENT if noticed.get(name)]
    lines += [f"{name} is called equivalent, but {noticed[name]} noticed it." for name in wrong]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
