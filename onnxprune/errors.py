"""What can go wrong, as users see it: one sentence that says what, where and what to do about it.

Every error that a user can cause or cure is an `OnnxPruneError`; the command line prints its message and exits
with its `exit_code`. Anything else that escapes is a bug and shows a traceback.
"""

from typing import Any


class OnnxPruneError(Exception):
    """Base of all errors that are reported in one sentence."""

    exit_code = 1


class UsageError(OnnxPruneError):
    """An option or argument that makes no sense (unknown method, malformed target)."""

    exit_code = 2


class ModelError(OnnxPruneError):
    """The model can't be read, isn't valid, can't be run, or is of a kind that can't be pruned."""


class DataError(OnnxPruneError):
    """Calibration or evaluation data that doesn't fit the model, or is unusable."""


class ProviderError(OnnxPruneError):
    """An execution provider that isn't available here."""


class OutputError(OnnxPruneError):
    """The result can't be written where it was asked for."""


class BudgetError(OnnxPruneError):
    """The target can't be reached, or nothing can be pruned.

    `reachable` is the smallest fraction that can be reached (of what the target counts), `result` the best that was
    found, if anything was.
    """

    exit_code = 3

    def __init__(self, message: str, reachable: float = 1.0) -> None:
        super().__init__(message)
        self.reachable = reachable
        self.result: Any = None


class InternalError(OnnxPruneError):
    """A postcondition of our own failed: the written model would differ from the pruned one. Nothing is written."""

    exit_code = 4
