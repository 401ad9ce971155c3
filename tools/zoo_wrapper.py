"""A model of PyTorch called in another way: with other inputs than its own, or only a part of what it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def wrapped(torch: Any, inner: Any, call: Callable[..., Any], axes: dict[str, dict[int, str]] | None = None) -> Any:
    """A module that answers `call(inner, *inputs)`. axes: names of the symbolic axes (see `zoo_torch`)."""

    class Wrapped(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.axes = inner, axes

        def forward(self, *inputs: Any) -> Any:
            return call(self.inner, *inputs)

    return Wrapped()
