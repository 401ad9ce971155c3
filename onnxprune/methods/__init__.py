"""The criteria that say what goes first: one file each, found by themselves.

A method is a function from numbers to an order of removal. It sees matrices, never the graph: `Evidence` holds what is
known of one group of channels, `Features` what is known of whole blocks. `@method` and `@block_method` register it with
what the command line, the README and the common tests need to know, and with what has to be measured for it.
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


def emulated(evidence: Evidence, kept: Ints) -> Takeover:
    """Each removed channel goes to the survivor whose behaviour is closest: `unify` for methods that don't say more."""
    return closest(evidence.problems, evidence.means, kept)


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """What is said of every method; `needs` is one of NEEDS."""

    name: str
    reconstruct: str  # what the method's paper does afterwards
    summary: str
    paper: str
    needs: str = "data"


@dataclass(frozen=True, kw_only=True)
class Method(Criterion):
    """A criterion for channels: order(evidence) gives all but the last of each cell, in order of removal.

    takeover(evidence, kept) says who takes over with `--reconstruct unify`.
    """

    order: Order
    takeover: TakingOver = emulated


@dataclass(frozen=True)
class Features:
    """What is known of blocks: what each reads and what it makes, averaged over all places, [samples, channels] each.

    targets [samples, k]: what is to be told from them: the answers of the network, or one column per class, in which
    a 1 marks the `labelled` one.
    """

    before: Sequence[Float]
    after: Sequence[Float]
    targets: Float
    labelled: bool


Gains = Callable[[Features], Float]


@dataclass(frozen=True, kw_only=True)
class BlockMethod(Criterion):
    """A criterion for whole blocks: gains(features) says what each adds; those that add least go first."""

    gains: Gains


METHODS: dict[str, Method] = {}
BLOCK_METHODS: dict[str, BlockMethod] = {}


def method(
    name: str, *, reconstruct: str, summary: str, paper: str, needs: str = "data", takeover: TakingOver = emulated
) -> Callable[[Order], Order]:
    """Register a function as a method."""

    def register(order: Order) -> Order:
        METHODS[name] = Method(
            name=name, reconstruct=reconstruct, summary=summary, paper=paper, needs=needs, order=order,
            takeover=takeover,
        )  # fmt: skip
        return order

    return register


def block_method(name: str, *, reconstruct: str, summary: str, paper: str) -> Callable[[Gains], Gains]:
    """Register a function as a method for whole blocks."""

    def register(gains: Gains) -> Gains:
        BLOCK_METHODS[name] = BlockMethod(name=name, reconstruct=reconstruct, summary=summary, paper=paper, gains=gains)
        return gains

    return register


def catalogue() -> list[Criterion]:
    """All methods, those for channels first."""
    return [*METHODS.values(), *BLOCK_METHODS.values()]


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


def find(name: str) -> Method | BlockMethod:
    """A method by name; UsageError names those there are."""
    found = METHODS.get(name) or BLOCK_METHODS.get(name)
    if found is None:
        raise UsageError(f"there is no method '{name}'; choose one of: {', '.join((*METHODS, *BLOCK_METHODS))}.")
    return found


for _module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)])):
    import_module(f"{__name__}.{_module}")
for _name in sorted(METHODS):
    METHODS[_name] = METHODS.pop(_name)
