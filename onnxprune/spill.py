"""Arrays that are kept in files instead of memory.

Many arrays share a file, because the files that a program may have open are limited (to 1024, often), and an array that
is mapped keeps its file open. They are written, not copied into the mapping, so that a full disk is an error and no
crash. A file goes when all its arrays are forgotten.
"""

from __future__ import annotations

import tempfile
from io import BufferedWriter
from pathlib import Path
from typing import Any, cast

import numpy as np

from onnxprune.graph import Array

Mapped = np.memmap[Any, Any]
SIZE = 2**27  # bytes of a file; larger arrays have one of their own
ALIGNED = 64  # bytes


class Spill:
    """A temporary folder of such files; it goes with `close`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="onnxprune-")
        self._file: BufferedWriter | None = None
        self._mapped: Mapped | None = None
        self._used = 0
        self._alive: dict[str, int] = {}  # arrays that are needed, by the file

    def keep(self, value: Array) -> Mapped:
        """The value, which isn't empty and holds no objects, from now on in a file. OSError if the disk is full."""
        file, mapped = self._file, self._mapped
        if file is None or mapped is None or self._used + value.nbytes > len(mapped):
            file, mapped = self._open(max(value.nbytes, SIZE))
        file.seek(self._used)
        file.write(np.ascontiguousarray(value).data)
        file.flush()
        self._alive[file.name] += 1
        bytes_ = mapped[self._used : self._used + value.nbytes]
        self._used += -(-value.nbytes // ALIGNED) * ALIGNED
        return cast(Mapped, bytes_.view(value.dtype).reshape(value.shape))

    def has(self, value: Mapped) -> bool:
        """Whether the value is in one of these files."""
        return str(value.filename) in self._alive

    def forget(self, value: Mapped) -> None:
        """The value isn't needed any more."""
        name = str(value.filename)
        self._alive[name] -= 1
        self._tidy(name)

    def close(self) -> None:
        """Remove everything."""
        if self._file is not None:
            self._file.close()
        self._folder.cleanup()

    def _open(self, size: int) -> tuple[BufferedWriter, Mapped]:
        """Go on to the next file."""
        last, path = self._file, Path(self._folder.name) / f"{len(self._alive)}"
        self._file = file = path.open("wb")
        file.truncate(size)
        self._mapped = mapped = np.memmap(path, np.uint8, "r")
        self._used = 0
        self._alive[file.name] = 0
        if last is not None:
            last.close()
            self._tidy(last.name)
        return file, mapped

    def _tidy(self, name: str) -> None:
        """Remove a file that nothing is needed of and nothing will be written to."""
        if not self._alive[name] and self._file is not None and name != self._file.name:
            Path(name).unlink()
