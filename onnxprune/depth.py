"""The search for blocks to remove.

A method for blocks says what each adds to the answer; they go in that order, until the targets are met or what is left
adds more than the threshold. All layers behind are refitted front to back, so that the next block makes up for what
went; where it is built alike, the hidden channels of the blocks in front of it join its own, of which as many are kept
as it had (see `merging`). A least-squares substitute of 1×1 in the place of a plain layer would add nothing where the
next reader can be refitted: merged into it, it is one of the layers among which that one is fitted anyway. The channels
of the blocks that stay all stay.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxprune import methods
from onnxprune.blocks import find, outermost
from onnxprune.coupling import Coupling
from onnxprune.diagnosis import diagnosable, diagnose
from onnxprune.errors import BudgetError
from onnxprune.graph import Block, Graph
from onnxprune.merging import Branch, mergeable, passed, planned
from onnxprune.plan import Plan
from onnxprune.repair import narrow
from onnxprune.report import BlockReport, block_report
from onnxprune.run import coupled
from onnxprune.scope import may_go
from onnxprune.search import Candidate, Search
from onnxprune.segments import WIDEST, makes_all
from onnxprune.steps import Ranked

Ints = NDArray[np.int64]


class Joined(Search):
    """A search on a network in which runs of blocks are one block each.

    `wide` are the groups of these blocks' channels, with as many as stay unless something else is asked for.
    """

    def __init__(self, before: Search, coupling: Coupling, wide: Mapping[str, Ints]) -> None:
        self.__dict__.update(before.__dict__)
        self.run, self.wide = replace(before.run, coupling=coupling), wide
        self.ranked = Ranked([], [], {})

    def left_of(self, known: Ranked) -> Ranked:
        """What is known of the groups that are still there and haven't become wider."""
        groups = {name: group for name, group in self.run.coupling.by_name.items() if name not in self.wide}
        pairs = [(r, c) for r, c in zip(known.rankings, known.curves, strict=True) if r.group.name in groups]
        return Ranked([replace(r, group=groups[r.group.name]) for r, _ in pairs], [curve for _, curve in pairs], {})

    def candidate(self, keep: Mapping[str, Ints]) -> Candidate:
        """Carry out widths: which channels of the joined blocks stay is chosen when their turn comes."""
        if not self.wide:
            return super().candidate(keep)
        wide = {name: len(kept) for name, kept in {**self.wide, **keep}.items() if name in self.wide}
        others = {name: kept for name, kept in keep.items() if name not in wide}
        chosen, weights, errors = narrow(self.run, self.ranked, others, wide)
        return self.carried_out(self.plan(chosen, weights), errors)

    def share(self, kind: str, keep: Mapping[str, Ints], *, biased: bool = True) -> float:
        """What is left of a cost, counted (or timed) on the model that would be written."""
        return super().share(kind, {**self.wide, **keep}, biased=biased)


class Shallowing(Search):
    """Finds the blocks that can go: the fewest for a cost, the most for a loss, all below a threshold."""

    @cached_property
    def known(self) -> dict[str, Block]:
        """All blocks of the network, by what they make."""
        return {block.output: block for block in find(self.run.coupling.graph)}

    @cached_property
    def gains(self) -> dict[str, float]:
        """What each removable block adds to the answer, by what it makes; least first. BudgetError if there is none."""
        run, method = self.run, methods.find(self.run.options.method)
        assert isinstance(method, methods.BlockMethod)
        found = [block for block in diagnosable(run.coupling, list(self.known.values())) if may_go(run, block)]
        if not found:
            raise BudgetError("no block can be removed: there is no residual branch and no layer of equal width")
        with run.timed("select"):
            gains = method.gains(self._features(found)).tolist()
        return dict(sorted(zip((b.output for b in found), gains, strict=True), key=lambda pair: pair[1]))

    def ready(self) -> None:
        """Do what is the same for all targets."""
        assert self.gains

    def _features(self, blocks: Sequence[Block]) -> methods.Features:
        """Features on labelled samples if there are any, else on all that don't judge."""
        run, labelled = self.run, self.run.labelled
        if labelled is None or labelled.samples is None or labelled.labels is None:
            chosen = np.concatenate([run.division.fit, run.division.tune])
            return diagnose(run.coupling, blocks, run.feeds(chosen), run.options.runtime)
        run.warnings.append("the labels that judge the result have chosen the blocks, too.")
        order = np.random.default_rng(run.options.seed).permutation(labelled.samples.count)
        feeds = labelled.samples.batches(order.tolist(), run.at_once)
        return diagnose(run.coupling, blocks, feeds, run.options.runtime, labelled.labels.ravel()[order])

    def after(self, outputs: Sequence[str]) -> Joined:
        """A search on the graph without the blocks that make these values; where they can be, they are merged."""
        graph, options = self.run.coupling.graph, self.run.options
        runs = _runs(graph, self.known.values(), outputs) if options.mode == "ls" else []
        while True:
            inside = {name for run in runs for name in run}
            form = Plan(merged=tuple(runs), removed=tuple(name for name in outputs if name not in inside))
            coupling = coupled(planned(graph, form), options)
            merged = {block.output: block for block in find(coupling.graph)} if runs else {}
            widths = {run: _own_widths(graph, self.known[run[-1]], coupling, merged[run[-1]]) for run in runs}
            if all(widths.values()):
                break
            runs = [run for run in runs if widths[run]]
        wide = {name: np.arange(width) for own in widths.values() for name, width in own.items()}
        return Joined(self, coupling, wide)

    def best(self) -> tuple[Candidate, BudgetError | None]:
        """The candidate that meets the targets; or the best there is, and why it falls short."""
        threshold, targets = self.run.options.threshold, self.run.options.targets
        order = [name for name, gain in self.gains.items() if threshold is None or gain < threshold]
        drops = [t.value for t in targets if t.kind == "drop"]
        limits = [(t.kind, t.value) for t in targets if t.kind != "drop"]
        gone = self.fewest(limits, order) if limits else order
        failure = None
        if not self._within(gone, limits):
            reachable = self.after(order).share(limits[0][0], {})
            failure = BudgetError(f"{limits[0][0]}={limits[0][1]:g} can't be reached by removing blocks", reachable)
        if not drops:
            return self.after(gone).candidate({}), failure
        return self._deepest(gone, min(drops), failure)

    def fewest(self, limits: Sequence[tuple[str, float]], order: Sequence[str] | None = None) -> list[str]:
        """As few blocks, those of least gain first, as bring all costs down to their limits; else all of them."""
        order = list(self.gains if order is None else order)
        return order[: bisect_left(range(len(order)), True, key=lambda count: self._within(order[:count], limits))]

    def _within(self, outputs: Sequence[str], limits: Sequence[tuple[str, float]]) -> bool:
        if not limits:
            return True
        after = self.after(outputs)
        return all(after.share(kind, {}) <= value + 1e-12 for kind, value in limits)

    def _deepest(
        self, order: Sequence[str], allowed: float, failure: BudgetError | None
    ) -> tuple[Candidate, BudgetError | None]:
        """As many blocks removed as lose at most `allowed`; that more of them lose more is taken for granted."""
        limited = any(t.kind != "drop" for t in self.run.options.targets)
        best, least, most = self.after([]).candidate({}), 0, len(order)
        count = most if limited else (most + 1) // 2
        while least < most:
            found = self.after(order[:count]).candidate({})
            if found.loss.value <= allowed:
                best, least = found, count
            else:
                most = count - 1
            count = (least + most + 1) // 2
        if least < len(order) and limited:
            failure = failure or BudgetError(f"the cost asked for loses more than the {allowed:g} allowed", 1.0)
        elif least == 0:
            failure = failure or BudgetError(f"no block can go with a loss of at most {allowed:g}", 1.0)
        return best, failure

    def blocks(self, coupling: Coupling) -> list[BlockReport]:
        """All removable blocks, in the order of the network, with what they add and whether they are gone."""
        graph = self.run.coupling.graph
        gone = outermost(self.known[name] for name in passed(coupling.graph))
        inside = {i for block in gone for i in block.nodes}
        names = sorted(self.gains, key=lambda name: graph.producer[name])
        return [
            block_report(graph, self.known[n], removed=graph.producer[n] in inside, gain=self.gains[n]) for n in names
        ]


def _runs(graph: Graph, known: Collection[Block], gone: Collection[str]) -> list[tuple[str, ...]]:
    """Blocks that stay, each behind those in front of it that go and can be merged with it; by what they make."""
    blocks = {block.output: block for block in outermost(known)}
    parts = [set(block.nodes) for block in known if block.output in gone]
    found = []
    for block in blocks.values():
        run = [block]
        while (front := blocks.get(run[0].shortcut)) is not None and front.output in gone:
            if not mergeable(graph, [front, *run]) or _rows(graph, [front, *run]) > WIDEST:
                break
            run.insert(0, front)
        if len(run) > 1 and block.output not in gone and not any(p < set(b.nodes) for p in parts for b in run):
            found.append(tuple(one.output for one in run))
    return found


def _rows(graph: Graph, blocks: Sequence[Block]) -> int:
    """Rows of the last layer of these blocks as one."""
    return sum(Branch(graph, block).layers[-1].size for block in blocks)


def _own_widths(graph: Graph, last: Block, coupling: Coupling, merged: Block) -> dict[str, int]:
    """The groups of a merged block's channels, and how many of them its last block had; none if some can't go."""
    found = {}
    for old, new in zip(Branch(graph, last).layers, Branch(coupling.graph, merged).layers, strict=True):
        if new.channels > old.channels:
            own = [g for g in coupling.groups if makes_all(g, new)]
            if not own:
                return {}
            found[own[0].name] = old.channels
    return found
