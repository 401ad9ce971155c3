"""The search for blocks to remove.

A method for blocks says what each adds to the answer; they go in that order, until the targets are met or what is left
adds more than the threshold. All layers behind are refitted front to back, so that the next block makes up for what
went. A least-squares substitute of 1×1 in the place of a plain layer would add nothing where the next reader can be
refitted: merged into it, it is one of the layers among which that one is fitted anyway. The channels of the blocks that
stay all stay.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from fnmatch import fnmatch
from functools import cached_property

import numpy as np

from onnxprune import methods
from onnxprune.blocks import find, outermost, without
from onnxprune.coupling import Coupling
from onnxprune.diagnosis import diagnosable, diagnose
from onnxprune.errors import BudgetError
from onnxprune.graph import Block, key
from onnxprune.report import BlockReport, block_report
from onnxprune.search import Candidate, Search
from onnxprune.steps import Ranked, coupled


class Shallowing(Search):
    """Finds the blocks that can go: the fewest for a cost, the most for a loss, all below a threshold."""

    @cached_property
    def gains(self) -> dict[str, float]:
        """What each removable block adds to the answer, by what it makes; least first. BudgetError if there is none."""
        run = self.run
        method, graph = methods.find(run.options.method), run.coupling.graph
        assert isinstance(method, methods.BlockMethod)
        found = [block for block in diagnosable(run.coupling, find(graph)) if self._wanted(block)]
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
        feeds = labelled.samples.batches(order.tolist(), run.options.at_once)
        return diagnose(run.coupling, blocks, feeds, run.options.runtime, labelled.labels.ravel()[order])

    def _wanted(self, block: Block) -> bool:
        """Whether --include, --exclude and --keep let a block go."""
        graph, options = self.run.coupling.graph, self.run.options
        names = [graph.nodes[i].name or key(graph.nodes[i]) for i in block.nodes]
        left = any(fnmatch(name, pattern) for pattern in (*options.exclude, *options.limits) for name in names)
        return not left and (not options.include or any(fnmatch(n, p) for p in options.include for n in names))

    def after(self, outputs: Sequence[str]) -> Search:
        """A search on the graph without the blocks that make these values."""
        found = Search.__new__(Search)
        found.__dict__.update(copy(self.__dict__))
        found.run = replace(self.run, coupling=coupled(without(self.run.coupling.graph, outputs), self.run.options))
        found.ranked = Ranked([], [], {})
        return found

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
        known = {block.output: block for block in find(graph)}
        gone = outermost(known[name] for name in coupling.graph.removed)
        inside = {i for block in gone for i in block.nodes}
        names = sorted(self.gains, key=lambda name: graph.producer[name])
        return [
            block_report(coupling, known[n], removed=graph.producer[n] in inside, gain=self.gains[n]) for n in names
        ]
