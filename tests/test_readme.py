"""README.md is true: its commands run, its tables are those of the code, its links lead somewhere.

`python tests/test_readme.py` writes the tables anew.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click

from onnxprune.cli import main
from onnxprune.methods import NEEDS, catalogue

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
INSTALL = "python3 -m venv .venv && . .venv/bin/activate && pip install -e '.[dev]'"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def options() -> str:
    """The options of a run, as their help says."""
    command = main.commands["prune"]
    context = click.Context(command, info_name="onnxprune", show_default=True)
    rows = [p.get_help_record(context) for p in command.params if isinstance(p, click.Option)]
    lines = [(f"`{names}`", " ".join(text.split())) for names, text in filter(None, rows)]
    return _table(("option", "meaning"), lines)


def methods() -> str:
    """The registry of methods."""
    rows = [(f"`{m.name}`", m.summary, NEEDS[m.needs], f"`{m.reconstruct}`", m.paper) for m in catalogue()]
    return _table(("method", "what it does", "needs", "`--reconstruct auto`", "paper"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def updated(text: str) -> str:
    """The README with its tables as they should be."""
    for name, table in (("options", options()), ("methods", methods())):
        opening, closing = f"<!-- {name}: written by `python tests/test_readme.py` -->\n", f"<!-- /{name} -->"
        before, rest = text.split(opening)
        text = before + opening + table + closing + rest.split(closing)[1]
    return text


def test_tables_are_up_to_date() -> None:
    text = README.read_text("utf-8")
    assert text == updated(text), "run `python tests/test_readme.py`"


def test_the_two_commands_at_the_top_install_what_they_need() -> None:
    first, second = blocks("sh")[:2]
    assert [first.splitlines()[0], second.splitlines()[0]] == [INSTALL, INSTALL]
    assert first.splitlines()[1].startswith("onnxprune models/")
    assert second.splitlines()[1:] == ["tools/check && pytest -n 2 --cov"]


def test_commands_run(tmp_path: Path) -> None:
    """All but those that install or test, one after the other in a folder that has models/."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [line for line in lines if line != INSTALL and not line.startswith("tools/check")]
    assert len(commands) >= 6
    found = _in(tmp_path, ["bash", "-euc", "\n".join(commands)])
    assert found.returncode == 0, found.stderr
    assert {"pruned.onnx", "small.onnx", "smaller.onnx", "plan.npz"} <= {p.name for p in tmp_path.iterdir()}
    assert "reached" in found.stdout


def test_python_runs(tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    for block in blocks("python"):
        found = _in(tmp_path, [sys.executable, "-c", block])
        assert found.returncode == 0, found.stderr
    assert (tmp_path / "half.onnx").exists()


def _in(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text("utf-8"))
    assert len(links) > 5
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


def test_ci_runs_the_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    extract = next(line for line in script.read_text("utf-8").splitlines() if line.startswith("tests="))
    found = _in(ROOT, ["bash", "-euc", f'{extract}\necho "$tests"'])
    assert found.stdout.strip() == blocks("sh")[1].splitlines()[1]
    assert 'eval "$tests"' in script.read_text("utf-8")
    for executable in (script, ROOT / "tools" / "check"):
        assert os.access(executable, os.X_OK)


if __name__ == "__main__":
    README.write_text(updated(README.read_text("utf-8")), "utf-8")
