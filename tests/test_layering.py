"""Imports go one way, and only one module talks to each of the libraries at the boundary."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import onnxprune.errors

ROOT = Path(onnxprune.errors.__file__).resolve().parent
ORDER = [
    *("errors", "replacing"),
    # a model as a file and as a graph
    *("contrib", "bodies", "nodes", "files", "sequences", "declared", "spill", "inference", "listing", "graph"),
    *("assembly", "decisions"),
    # which channels go together
    *("ids", "ops", "groups", "coupling", "heads"),
    # mathematics, and what it is about
    *("allocation", "chains", "cost", "blocks", "correlation", "elimination", "takeover", "refinement"),
    # what is to be done, and surgery
    *("plan", "intervals", "report", "rewrite", "srn", "serialize", "merging"),
    # models at work
    *("runtime", "clock", "notebook", "sources", "calibration", "statistics", "activity", "oracle", "walk"),
    *("fitting", "reconstruct", "methods", "evaluation", "guide", "data", "diagnosis"),
    # from targets to plans
    *("selection", "latency", "unrepaired", "factorize", "run", "scope", "judging", "steps", "repair", "segments"),
    *("search", "depth", "shortening", "iteration", "pipeline"),
    # what users see
    *("picture", "sweep", "options", "tables", "terminal", "preflight", "cli"),
]
ALONE = {"onnxruntime": "runtime", "onnx_graphsurgeon": "graph", "torch": None, "tensorflow": None}
FILES = [p for p in sorted(ROOT.rglob("*.py")) if p.name not in ("__init__.py", "__main__.py") or p.parent != ROOT]


def layer(path: Path) -> str:
    """The module, or the package of a module, below onnxprune."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of everything that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    own = layer(path)
    assert own in ORDER, f"{own} has no place in the order of layers yet"
    earlier = [*ORDER[: ORDER.index(own)], own, "__version__"]
    for name in imported(path):
        package, *rest = name.split(".")
        assert package != "onnxprune" or not rest or rest[0] in earlier, f"{own} imports {rest[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_boundary_libraries(path):
    for name in imported(path):
        package = name.split(".")[0]
        assert package not in ALONE or ALONE[package] == layer(path), f"{layer(path)} imports {package}"
