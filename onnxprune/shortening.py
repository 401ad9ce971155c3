"""The search for a target of time: first which blocks go, then how wide those become that stay.

A block that is gone takes all its time with it, and in thin networks little else saves any. Its work is taken over by
the next block (see `merging`), at an error that was measured for every run of blocks and width, as the error of every
group was; so was the time of each. Chains of blocks are cut into runs by dynamic programming (`chains`). What comes out
is a network of fewer blocks, whose widths are then allocated like those of any other.

Residual blocks whose work no single block could take over (several hidden layers, attention, another kind of block
behind) can go, too, each by itself: what comes behind is refitted and makes up for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from onnxprune import chains, latency
from onnxprune.blocks import find
from onnxprune.depth import Joined
from onnxprune.errors import BudgetError
from onnxprune.graph import Block, Graph, key
from onnxprune.merging import planned
from onnxprune.plan import Plan
from onnxprune.run import coupled
from onnxprune.search import Candidate, Search, Trial
from onnxprune.segments import Segment, errors_without, removable, segments
from onnxprune.selection import Ranking
from onnxprune.steps import Ranked, timed

Float = NDArray[np.float64]
Ints = NDArray[np.int64]
TRIES = 3  # choices of blocks, until what is left can be as quick as asked for
MARGIN = 0.01  # by which a cut may take longer than the shortest
Options = tuple[Float, Float]  # errors and times of the ways to do something


class Shortening(Search):
    """Finds the runs of blocks that become one, and then widths for the network that is left."""

    def ready(self) -> None:
        """Do what is the same for all targets."""
        assert self.task if self.run.options.shortens else self.ranked

    def best(self) -> tuple[Candidate, BudgetError | None]:
        """The candidate that meets the targets; or the best there is, and why it falls short.

        Where blocks that go lose more than is allowed, channels alone have a try.
        """
        found, failure = super().best()
        if failure is None or self.judge.allowed is None or not self.run.options.shortens:
            return found, failure
        other, short = self.other(blocks="keep").best()
        better = short is None or self.left("latency", other.model) < self.left("latency", found.model)
        return (other, short) if better else (found, failure)

    def limited(self, limits: Sequence[tuple[str, float]]) -> tuple[Candidate, BudgetError | None]:
        """The candidate that costs no more than these fractions of the original; or the smallest, and why.

        Of blocks that go by themselves it is known what they lose once layers behind have made up for it, of channels
        what they lose without that. So channels alone have a try, and what changes the answers less is taken.
        """
        if not self.run.options.shortens:
            return super().limited(limits)
        goal = min(value for kind, value in limits if kind == "latency")
        found, share, known = None, goal, None
        for _ in range(TRIES):
            chosen = self.cut(share)
            if not chosen.shorter or chosen == known:
                break
            found, known = Shortened(self, chosen.runs, chosen.gone), chosen
            least = found.share("latency", found.kept(found.smallest))
            if least <= goal:
                break
            share = max(share - (least - goal), 0.0)  # no widths make up for what these blocks take more than predicted
        if found is None or known is None:
            return super().limited(limits)
        shorter = found.limited(limits)
        if not known.gone:
            return shorter
        alone = self.other(blocks="keep").limited(limits)
        return min(shorter, alone, key=lambda tried: (tried[1] is not None, self.judge.changed(tried[0].model)))

    @cached_property
    def reachable(self) -> tuple[float, float]:
        """The largest and the smallest share of the cost that can be chosen."""
        if not self.run.options.shortens:
            return super().reachable
        return 1.0, self.task.least / self.task.whole

    def trial(self, share: float) -> Trial:
        """What would be chosen for a share of the cost, or for the smallest that there is."""
        chosen = self.cut(share) if self.run.options.shortens else Cut()
        if not chosen.shorter:
            return super().trial(share)
        return Trial(chosen, chosen.error, lambda: Shortened(self, chosen.runs, chosen.gone).trial(share).make())

    def cut(self, share: float) -> Cut:
        """What is chosen of the blocks for a share of the time, or for as little of it as can be."""
        with self.run.timed("blocks"):
            return self.task.cut(share)

    @cached_property
    def task(self) -> _Task:
        """What can be chosen among."""
        with self.run.timed("blocks"):
            return _Task(self, [one for one in segments(self.run, self.ranked) if len(one.blocks) > 1])


@dataclass(frozen=True)
class Cut:
    """Runs of blocks that become one each, the blocks that go, by what they make, and the error that is predicted."""

    runs: tuple[Segment, ...] = ()
    gone: tuple[str, ...] = ()
    error: float = 0.0

    @property
    def shorter(self) -> bool:
        """Whether any block goes."""
        return bool(self.runs or self.gone)


class _Task:
    """The chains of blocks, and of what lies outside of them, with errors and milliseconds of all there is to choose.

    A segment's meaning is the run of blocks that becomes one, the block that goes, or None where all stay. `fixed` are
    the milliseconds of what can neither go nor become narrower, `whole` those of the network, `least` those without all
    that can be spared.
    """

    def __init__(self, search: Search, runs: Sequence[Segment]) -> None:
        run, self.ranked, graph = search.run, search.ranked, search.run.coupling.graph
        known, rows = {block.output: block for block in find(graph)}, linked(runs)
        blocks = [known[name] for row in rows for name in row]
        alone = removable(run, blocks)
        blocks += alone
        self.whole, taken = latency.time_of_blocks(graph, blocks, run.timed_feed, run.options.runtime)
        self.times = {block.output: float(time) for block, time in zip(blocks, taken, strict=True)}
        self.groups = [_saved(self.ranked, place) for place in range(len(self.ranked.rankings))]
        self.inside = {block.output: _inside(self.ranked, block) for block in blocks}
        self.chains = [self._links(row, runs) for row in rows]
        for block, error in zip(alone, errors_without(run, alone), strict=True):
            out = chains.Segment(1, 1, np.array([error]), np.zeros(1), block.output)
            self.chains.append([self._kept(1, block.output), out])
        chained = {place for places in self.inside.values() for place in places}
        others = [group for place, group in enumerate(self.groups) if place not in chained]
        self.chains += [[chains.Segment(1, 1, errors, saved.max() - saved)] for errors, saved in others]
        self.fixed = self.whole - sum(self.times.values()) - sum(saved.max() for _, saved in others)
        self.least = self.fixed + (1 + MARGIN) * sum(map(chains.shortest, self.chains))

    def _kept(self, end: int, name: str) -> chains.Segment:
        """A block that stays, at all widths of the groups inside."""
        options = (self.groups[place] for place in self.inside[name])
        errors, saved = reduce(_either, options, (np.zeros(1), np.zeros(1)))
        return chains.Segment(end, 1, errors, np.maximum(self.times[name] - saved, 0.0))

    def _links(self, row: Sequence[str], runs: Sequence[Segment]) -> list[chains.Segment]:
        """All segments of a chain of blocks."""
        links = [self._kept(end, name) for end, name in enumerate(row, start=1)]
        for segment in runs:
            name = segment.blocks[-1]
            if name in row:
                last = self.inside[name][-1]
                levels, known = segment.curve.levels, self.ranked.rankings[last].levels
                allowed = np.isin(levels, known)
                spent = self.times[name] - np.interp(levels, known, self.groups[last][1])
                way = segment.curve.errors[allowed], np.maximum(spent, 0.0)[allowed]
                links.append(chains.Segment(row.index(name) + 1, len(segment.blocks), *way, segment))
        return links

    def cut(self, share: float) -> Cut:
        """What loses least within a share of the time, or within the least of it that there is."""
        budget = max(share * self.whole, self.least) - self.fixed
        chosen = [choice for row in chains.cut(self.chains, max(budget, 1e-9)) for choice in row]
        meant = [choice.segment.meaning for choice in chosen]
        runs = tuple(one for one in meant if isinstance(one, Segment))
        gone = tuple(one for one in meant if isinstance(one, str))
        return Cut(runs, gone, sum(choice.error for choice in chosen))


def linked(runs: Iterable[Segment]) -> list[list[str]]:
    """Chains of blocks, each of which runs follow one another in."""
    after = {a: b for segment in runs for a, b in pairwise(segment.blocks)}
    rows = []
    for name in after.keys() - after.values():
        row = [name]
        while row[-1] in after:
            row.append(after[row[-1]])
        rows.append(row)
    return sorted(rows)


def _inside(ranked: Ranked, block: Block) -> list[int]:
    """Places of the groups that only the block's own nodes make and read, in the order in which these read them."""
    within = set(block.nodes)
    groups = [(place, r.group) for place, r in enumerate(ranked.rankings)]
    own = [(max(g.reads), place) for place, g in groups if within.issuperset((*g.writers, *g.reads, *g.loops))]
    return [place for _, place in sorted(own)]


def _saved(ranked: Ranked, place: int) -> Options:
    """Errors and saved milliseconds of one group alone at each of its levels."""
    assert ranked.time is not None
    widths = np.array([r.group.channels for r in ranked.rankings])
    whole, saved = ranked.time.total(widths), []
    for level in ranked.rankings[place].levels:
        widths[place] = level
        saved.append(whole - ranked.time.total(widths))
    return ranked.curves[place].errors, np.array(saved)


def _either(one: Options, other: Options) -> Options:
    """All that two groups can do together, without what errs more and saves no more than something else."""
    errors, saved = (np.add.outer(a, b).ravel() for a, b in zip(one, other, strict=True))
    order = np.lexsort((errors, -saved))
    best = np.minimum.accumulate(errors[order])
    useful = order[np.append(True, best[1:] < best[:-1])]
    return errors[useful], saved[useful]


class Shortened(Joined):
    """A search on the network in which some runs of blocks are one block each, and other blocks are `gone`."""

    def __init__(self, before: Search, runs: Sequence[Segment], gone: Sequence[str] = ()) -> None:
        run = before.run
        form = Plan(merged=tuple(segment.blocks for segment in runs), removed=tuple(gone))
        coupling = coupled(planned(run.coupling.graph, form), run.options)
        wide = {segment.group: np.arange(coupling.by_name[segment.group].channels) for segment in runs}
        super().__init__(before, coupling, wide)
        self.ranked = self._ranked(run.coupling.graph, before.ranked, runs)

    def _ranked(self, graph: Graph, before: Ranked, runs: Sequence[Segment]) -> Ranked:
        """What is known of the groups that are left, and of those of the runs of blocks."""
        coupling, run = self.run.coupling, self.run
        left = self.left_of(before)
        rankings, curves = [*left.rankings], [*left.curves]
        for segment in runs:
            group, levels = coupling.by_name[segment.group], segment.curve.levels.astype(np.int64)
            rankings.append(Ranking(group, self.wide[segment.group], levels, segment.curve.errors, {}))
            curves.append(segment.curve)
        known = {ranking.group.name for ranking in rankings}
        turns = {
            name: turn.on(lambda i: coupling.graph.producer[key(graph.nodes[i])])
            for name, turn in before.turns.items()
            if name in known
        }
        return timed(run, Ranked(rankings, curves, {}, turns), before.whole)
