"""The criteria that say which channels go first: one file each, found by themselves.

A method is a function from numbers to an order of removal. It sees matrices, never the graph: `Evidence` holds what is
known of one group. `@method` registers it with what the command line, the README and the common tests need to know, and
with what has to be measured for it.
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
from onnxprune.takeover import Takeover, closest

Ints = NDArray[np.int64]
Float = NDArray[np.float64]
NEEDS = {
    "weights": "nothing but the model",
    "data": "data",
    "activity": "data, one more pass",
    "noise": "nothing but the model: it makes noise itself",
}


@dataclass(frozen=True)
class Evidence:
    """What is known of one group of n channels.

    problems: one least-squares problem per reader, and means: the mean of its rows [N]; both empty where a method that
    needs weights only runs without data. weights [n, p]: what makes each channel, the writers' weights and biases with
    the constant per-channel operations behind them (BatchNormalization) folded in; `spatial` if they are filters.
    `scales`: all that stands between writers and readers passes a positive factor on (ReLU and pooling do).
    cells [n]: labels of the channels whose counts must stay equal; damping: relative, on equilibrated Grams.
    zeros, faint [n]: the share of the activation's values that are 0, and that are below a tenth of its root mean
    square; measured for methods that need "activity" only.
    """

    problems: Sequence[Problem]
    means: Sequence[Float]
    weights: Float
    cells: Ints
    damping: float
    rng: np.random.Generator
    spatial: bool = False
    scales: bool = True
    zeros: Float | None = None
    faint: Float | None = None


Order = Callable[[Evidence], Ints]
TakingOver = Callable[[Evidence, Ints], Takeover]


def emulated(evidence: Evidence, kept: Ints, *, affine: bool = True) -> Takeover:
    """Each removed channel goes to the survivor whose behaviour is closest: `unify` for methods that don't say more."""
    return closest(evidence.problems, evidence.means, kept, affine=affine)


@dataclass(frozen=True)
class Method:
    """A criterion: order(evidence) gives all channels but the last of each cell, in order of removal.

    takeover(evidence, kept) says who takes over with `--reconstruct unify`; `needs` is one of NEEDS.
    """

    name: str
    order: Order
    reconstruct: str  # what the method's paper does afterwards
    summary: str
    paper: str
    needs: str = "data"
    takeover: TakingOver = emulated


METHODS: dict[str, Method] = {}


def method(
    name: str, *, reconstruct: str, summary: str, paper: str, needs: str = "data", takeover: TakingOver = emulated
) -> Callable[[Order], Order]:
    """Register a function as a method."""

    def register(order: Order) -> Order:
        METHODS[name] = Method(name, order, reconstruct, summary, paper, needs, takeover)
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


def over_readers(evidence: Evidence, score: Callable[[Problem, Float], Float]) -> Float:
    """Sum over readers of score(problem, mean) [n], each as a share of that reader's total."""
    total = np.zeros(len(evidence.cells))
    for problem, mean in zip(evidence.problems, evidence.means, strict=True):
        found = score(problem, mean)
        total += found / (found.sum() or 1.0)
    return total


def find(name: str) -> Method:
    """A method by name; UsageError names those there are."""
    if name not in METHODS:
        raise UsageError(f"there is no method '{name}'; choose one of: {', '.join(METHODS)}.")
    return METHODS[name]


for _module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])):
    import_module(f"{__name__}.{_module}")
for _name in sorted(METHODS):
    METHODS[_name] = METHODS.pop(_name)
