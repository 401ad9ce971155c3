"""Which blocks of a network go, and how wide those become that stay: dynamic programming along chains of blocks.

Residual blocks that follow one another form a chain. It is cut into segments: a run of blocks that go, and the one
behind them, which takes their work over at some width. A segment's error and time at every width are known; both add
up over segments. A group of channels outside of such blocks is a chain of one segment without a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import BudgetError

Float = NDArray[np.float64]
BUCKETS = 4000  # resolution of the budget


@dataclass(frozen=True, eq=False)
class Segment:
    """`length` links of a chain up to `end` (exclusive) that become one, in one of several ways.

    errors and times [options]: what each way costs; all times of a task are in one unit and at least 0. `meaning` is
    the caller's.
    """

    end: int
    length: int
    errors: Float
    times: Float
    meaning: object = None


@dataclass(frozen=True)
class Choice:
    """A segment, and which of its options."""

    segment: Segment
    option: int

    @property
    def error(self) -> float:
        """What this way to do it loses."""
        return float(self.segment.errors[self.option])


def cut(chains: Sequence[Sequence[Segment]], budget: float) -> list[list[Choice]]:
    """The cuts of all chains, front to back, of least summed error that take at most the budget.

    Every chain has segments that cover it from its first link to its last. Times are rounded to a `BUCKETS`th of the
    budget, which is positive. Raises BudgetError if no cut takes so little.
    """
    least = np.zeros(BUCKETS + 1)  # error of all chains so far within so many buckets
    steps = []
    for chain in chains:
        step = _along(chain, least, BUCKETS / budget)
        least = step[-1].errors
        steps.append(step)
    if not np.isfinite(least[-1]):
        raise BudgetError("no cut of the chains is that short")
    found, left = list[list[Choice]](), BUCKETS
    for step in reversed(steps):
        end, choices = len(step) - 1, list[Choice]()
        while end > 0:
            segment, option, price = step[end].moves[step[end].best[left]]
            choices.append(Choice(segment, option))
            end, left = end - segment.length, left - price
        found.append(choices[::-1])
    return found[::-1]


@dataclass(frozen=True)
class _End:
    """The links of a chain up to one: the least error within every number of buckets, and the last move to it."""

    errors: Float
    moves: list[tuple[Segment, int, int]]  # a segment, which option, and its price in buckets
    best: NDArray[np.intp]


def _along(chain: Sequence[Segment], before: Float, rate: float) -> list[_End]:
    """All ends of a chain, from none of its links to all, after chains that left the errors `before`."""
    ends = [_End(before, [], np.zeros(0, np.intp))]
    for end in range(1, max(segment.end for segment in chain) + 1):
        moves = [
            (segment, option, min(round(time * rate), BUCKETS + 1))
            for segment in chain
            if segment.end == end
            for option, time in enumerate(segment.times)
        ]
        sums = [np.full(BUCKETS + 1, np.inf)]
        for segment, option, price in moves:
            start = ends[end - segment.length].errors
            later = np.concatenate([np.full(price, np.inf), start])[: BUCKETS + 1]
            sums.append(later + segment.errors[option])
        best = np.argmin(sums, axis=0)
        ends.append(_End(np.min(sums, axis=0), moves, best - 1))
    return ends


def shortest(chain: Sequence[Segment]) -> float:
    """The least time that a cut of a chain takes."""
    times = [0.0]
    for end in range(1, max(segment.end for segment in chain) + 1):
        times.append(min(times[end - s.length] + float(s.times.min()) for s in chain if s.end == end))
    return times[-1]
