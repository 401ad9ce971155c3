"""Arrays that are kept in files instead of memory.

Many arrays share a file, because the files that a program may have open are limited (to 1024, often), and a file that
is mapped stays open. They are written, not copied into the mapping, so that a full disk is an error and no crash. A
file goes when all its arrays are gone, or the program ends.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from io import FileIO
from pathlib import Path
from typing import Any, cast

import numpy as np

from onnxprune.declared import Array
from onnxprune.errors import OutputError

Mapped = np.memmap[Any, Any]
SIZE = 2**27  # bytes of a file; larger arrays have one of their own
ALIGNED = 64  # bytes


class Spill:
    """Temporary files of arrays, filled one after the other."""

    def __init__(self) -> None:
        self._file: tuple[FileIO, Mapped] | None = None
        self._used = 0

    def keep(self, value: Array) -> Mapped:
        """The value, which isn't empty and holds no objects, from now on in a file. OutputError if the disk is full."""
        content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        try:
            mapped = self._written(content)
        except OSError as error:
            folder, reason = tempfile.gettempdir(), error.strerror or error
            raise OutputError(
                f"temporary files can't be written to {folder} ({reason}); set TMPDIR to a folder with more room."
            ) from error
        bytes_ = mapped[self._used : self._used + value.nbytes]
        self._used += -(-value.nbytes // ALIGNED) * ALIGNED
        return cast(Mapped, bytes_.view(value.dtype).reshape(value.shape))

    def _written(self, content: Array) -> Mapped:
        """The file that holds these bytes now, at `_used`."""
        if self._file is None or self._used + content.nbytes > len(self._file[1]):
            before, self._file, self._used = self._file, _opened(max(content.nbytes, SIZE)), 0
            weakref.finalize(self, self._file[0].close)
            if before is not None:
                before[0].close()
        file, mapped = self._file
        if content.any():  # zeros stay a hole in the file
            file.seek(self._used)
            left = content.data
            while left:  # a write may be of less than all, and is of 2 GB at most
                left = left[file.write(left) :]
        return mapped


def _opened(size: int) -> tuple[FileIO, Mapped]:
    """A new file of so many bytes, to be written to (unbuffered, so that closing it can't fail) and as it is mapped."""
    handle, name = tempfile.mkstemp(prefix="onnxprune-")
    path, file = Path(name), os.fdopen(handle, "wb", 0)
    try:
        file.truncate(size)
        mapped = np.memmap(path, np.uint8, "r")
    except OSError:
        file.close()
        path.unlink()
        raise
    weakref.finalize(mapped.base, path.unlink, missing_ok=True)  # what is read of all its arrays
    return file, mapped
