"""What users see: tables and JSON on stdout; warnings, errors and progress on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import click
import numpy as np
from rich import progress as rich_progress
from rich.console import Console, RenderableType

from onnxprune import tables
from onnxprune.run import Progress

WIDE = 140  # columns of a table where there is no terminal to ask


def console(*, err: bool = False) -> Console:
    """Colour on terminals only, whatever the environment says; text is never markup."""
    stream = sys.stderr if err else sys.stdout
    terminal = stream.isatty()
    width = None if terminal else WIDE
    return Console(file=stream, force_terminal=terminal, width=width, markup=False, highlight=False, emoji=False)


def name_width(verbose: bool) -> int:
    """Characters of a name that fit into the tables of `inspect`."""
    return tables.WHOLE if verbose else tables.NAME if console().width >= 110 else 24


def show(*parts: RenderableType) -> None:
    """Tables and lines on stdout."""
    target = console()
    with target.capture() as captured:
        for part in parts:
            target.print(part, soft_wrap=isinstance(part, str))
    click.echo("\n".join(line.rstrip() for line in captured.get().split("\n")), nl=False, color=True)


def say(kind: str, text: str) -> None:
    """One line on stderr: `error: …` or `warning: …`."""
    target = console(err=True)
    target.print(f"{kind}:", style="bold red" if kind == "error" else "bold yellow", end=" ")
    target.print(text, soft_wrap=True)


def show_json(values: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    click.echo(json.dumps(finite(dict(values)), indent=2, allow_nan=False))


def finite(value: Any) -> Any:
    """The value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, np.generic):
        return finite(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def working(*, bars: bool) -> Iterator[Progress]:
    """Progress bars on stderr, if wanted and if it is a terminal. What users' own code prints goes to stderr too."""
    with redirect_stdout(sys.stderr):
        if not (bars and sys.stderr.isatty()):
            yield lambda stage, done, total: None
            return
        with rich_progress.Progress(console=console(err=True), transient=True) as shown:
            tasks: dict[str, Any] = {}

            def update(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = shown.add_task(stage, total=total)
                shown.update(tasks[stage], completed=done, total=total)

            yield update
