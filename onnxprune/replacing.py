"""Files that appear whole or not at all: temporary ones, flushed to the disk, then renamed.

What they replace is put back if anything goes wrong meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from onnxprune.errors import OutputError


@contextmanager
def replacing(*paths: Path) -> Iterator[list[BinaryIO]]:
    """Files that take the places of `paths` together, or not at all; OutputError says why not."""
    parts = [p.with_name(f".{p.name}.{os.getpid()}.part") for p in paths]
    olds = [p.with_name(f".{p.name}.{os.getpid()}.old") for p in paths]
    try:
        files = [part.open("wb") for part in parts]
        try:
            yield list(files)
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        finally:
            for file in files:
                file.close()
        _swap(parts, paths, olds)
    except OSError as error:
        raise OutputError(f"can't write {paths[0]} ({error.strerror or error}); nothing was left behind.") from error
    finally:
        for part in parts:
            part.unlink(missing_ok=True)


def _swap(parts: Sequence[Path], paths: Sequence[Path], olds: Sequence[Path]) -> None:
    """Rename `parts` to `paths`, the first one last; what was there is put back if that can't be finished."""
    others = list(zip(parts, paths, olds, strict=True))[1:]
    existed = [path.exists() for path in paths]
    try:
        for part, path, old in others:
            if path.exists():
                path.replace(old)
            part.replace(path)
        parts[0].replace(paths[0])
    except BaseException:
        for (_, path, old), there in zip(others, existed[1:], strict=True):
            if old.exists():
                old.replace(path)
            elif not there:
                path.unlink(missing_ok=True)
        raise
    for old in olds[1:]:
        old.unlink(missing_ok=True)
