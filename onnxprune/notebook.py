"""What was measured once and holds for other runs: lists of numbers in the user's folder for caches.

Nothing depends on it: a file that can't be read or written is done without, and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


def folder() -> Path:
    """`$ONNXPRUNE_CACHE`, or `onnxprune` where the system keeps caches."""
    if own := os.environ.get("ONNXPRUNE_CACHE"):
        return Path(own)
    caches = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".cache"
    return Path(caches) / "onnxprune"


class Notebook:
    """Lists of numbers under texts, in one file for all that was measured in the same circumstances."""

    def __init__(self, circumstances: tuple[object, ...]) -> None:
        self.file = folder() / f"{_digest(repr(circumstances))}.json"

    def get(self, key: str) -> Float | None:
        """What was noted under a key."""
        found = self._read().get(_digest(key))
        return None if found is None else np.array(found, np.float64)

    def put(self, key: str, values: Float) -> Float:
        """Note values under a key; gives them back."""
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self._read() | {_digest(key): values.tolist()})
            with tempfile.NamedTemporaryFile("w", dir=self.file.parent, delete=False) as file:
                file.write(text)
            Path(file.name).replace(self.file)
        return values

    def _read(self) -> dict[str, list[float]]:
        try:
            found = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
