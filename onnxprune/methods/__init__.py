"""The criteria that say which channels go first: one file each, found by themselves.

A method is a function from numbers to an order of removal. It sees matrices, never the graph: `Evidence` holds what is
known of one group. `@method` registers it with what the command line, the README and the common tests need to know.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxprune.elimination import Problem
from onnxprune.errors import UsageError

Ints = NDArray[np.int64]
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What is known of one group of n channels.

    problems: one least-squares problem per reader; weights [n, p]: what makes each channel (the writers' weights);
    cells [n]: labels of the channels whose counts must stay equal; damping: relative, on equilibrated Grams.
    """

    problems: Sequence[Problem]
    weights: Float
    cells: Ints
    damping: float
    rng: np.random.Generator


@dataclass(frozen=True)
class Method:
    """A criterion: order(evidence) gives all channels but the last of each cell, in order of removal."""

    name: str
    order: Callable[[Evidence], Ints]
    reconstruct: str  # what the method's paper does afterwards
    summary: str
    paper: str


METHODS: dict[str, Method] = {}


def method(
    name: str, *, reconstruct: str, summary: str, paper: str
) -> Callable[[Callable[[Evidence], Ints]], Callable[[Evidence], Ints]]:
    """Register a function as a method."""

    def register(order: Callable[[Evidence], Ints]) -> Callable[[Evidence], Ints]:
        METHODS[name] = Method(name, order, reconstruct, summary, paper)
        return order

    return register


def by_score(scores: Float, cells: Ints) -> Ints:
    """Order of removal by one score per channel, lowest first; one channel of each cell in turn, the last ones stay."""
    order = np.argsort(scores, kind="stable")
    rank = np.empty(len(order), np.int64)
    for cell in np.unique(cells):
        members = order[cells[order] == cell]
        rank[members] = np.arange(len(members))
    rounds = order[np.argsort(rank[order], kind="stable")]
    return rounds[: len(rounds) - len(np.unique(cells))]


def find(name: str) -> Method:
    """A method by name; UsageError names those there are."""
    if name not in METHODS:
        raise UsageError(f"there is no method '{name}'; choose one of: {', '.join(METHODS)}.")
    return METHODS[name]


for _module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])):
    import_module(f"{__name__}.{_module}")
