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
from dataclasses import replace
from functools import cached_property, reduce
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from onnxprune import chains, latency
from onnxprune.allocation import Curve
from onnxprune.blocks import find
from onnxprune.depth import Joined
from onnxprune.errors import BudgetError
from onnxprune.graph import Block, Graph, key
from onnxprune.merging import planned
from onnxprune.plan import Plan
from onnxprune.run import coupled
from onnxprune.search import Candidate, Search
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

    def best(self) -> tuple[Candidate, BudgetError | None]:
        """The candidate that meets the targets; or the best there is, and why it falls short."""
        if not self.run.options.shortens:
            return super().best()
        goal = min(target.value for target in self.run.options.targets if target.kind == "latency")
        found, share, known = None, goal, None
        for _ in range(TRIES):
            with self.run.timed("blocks"):
                chosen = self.chosen(share)
            if not any(chosen) or chosen == known:
                break
            found, known = Shortened(self, *chosen), chosen
            least = found.share("latency", {r.group.name: r.kept(int(r.levels[0])) for r in found.ranked.rankings})
            if least <= goal:
                break
            share = max(share - (least - goal), 0.0)  # no widths make up for what these blocks take more than predicted
        return super().best() if found is None else found.best()

    def chosen(self, goal: float) -> tuple[list[Segment], list[str]]:
        """The runs of blocks that become one for a share of the time, or for as little of it as can be, and the blocks
        that go, by what they make."""
        task = self.task
        if not task.made and not task.gone:
            return [], []
        least = sum(map(chains.shortest, task.chains))
        cut = chains.cut(task.chains, max(goal * task.whole - task.fixed, least * (1 + MARGIN), 1e-9))
        chosen = [choice.segment for row in cut for choice in row]
        return [task.made[s] for s in chosen if s in task.made], [task.gone[s] for s in chosen if s in task.gone]

    @cached_property
    def task(self) -> _Task:
        """What can be chosen among."""
        return _Task(self, [one for one in segments(self.run, self.ranked) if len(one.blocks) > 1])


class _Task:
    """The chains of blocks, and of what lies outside of them, with errors and milliseconds of all there is to choose.

    `made` says which run of blocks a segment of several links stands for, `gone` which block is taken out. `fixed` are
    the milliseconds of what can neither go nor become narrower, `whole` those of the network.
    """

    def __init__(self, search: Search, runs: Sequence[Segment]) -> None:
        run, ranked = search.run, search.ranked
        assert ranked.time is not None
        graph = run.coupling.graph
        known = {block.output: block for block in find(graph)}
        rows = linked(runs)
        blocks = [known[name] for row in rows for name in row]
        alone = removable(run, blocks)
        blocks += alone
        self.whole, taken = latency.time_of_blocks(graph, blocks, run.timed_feed, run.options.runtime)
        times = {block.output: time for block, time in zip(blocks, taken, strict=True)}
        groups = [_saved(ranked, place) for place in range(len(ranked.rankings))]
        inside = {block.output: _inside(ranked, block) for block in blocks}
        self.made: dict[chains.Segment, Segment] = {}
        self.gone: dict[chains.Segment, str] = {}
        self.chains: list[list[chains.Segment]] = []

        def kept(end: int, name: str) -> chains.Segment:
            errors, saved = reduce(_either, (groups[place] for place in inside[name]), (np.zeros(1), np.zeros(1)))
            return chains.Segment(end, 1, errors, np.maximum(times[name] - saved, 0.0))

        for block, error in zip(alone, errors_without(run, alone), strict=True):
            out = chains.Segment(1, 1, np.array([error]), np.zeros(1))
            self.gone[out] = block.output
            self.chains.append([kept(1, block.output), out])
        for row in rows:
            links = [kept(end, name) for end, name in enumerate(row, start=1)]
            for segment in runs:
                if segment.blocks[-1] in row:
                    last = inside[segment.blocks[-1]][-1]
                    allowed = np.isin(segment.curve.levels, ranked.rankings[last].levels)
                    saved = np.interp(segment.curve.levels, ranked.rankings[last].levels, groups[last][1])[allowed]
                    spent = np.maximum(times[segment.blocks[-1]] - saved, 0.0)
                    end = row.index(segment.blocks[-1]) + 1
                    links.append(chains.Segment(end, len(segment.blocks), segment.curve.errors[allowed], spent))
                    self.made[links[-1]] = segment
            self.chains.append(links)
        chained = {place for places in inside.values() for place in places}
        self.fixed = self.whole - sum(times.values())
        for place, (errors, saved) in enumerate(groups):
            if place not in chained:
                self.chains.append([chains.Segment(1, 1, errors, saved.max() - saved)])
                self.fixed -= saved.max()


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
        rankings, curves = list[Ranking](), list[Curve]()
        for ranking, curve in zip(before.rankings, before.curves, strict=True):
            if ranking.group.name in coupling.by_name and ranking.group.name not in self.wide:
                rankings.append(replace(ranking, group=coupling.by_name[ranking.group.name]))
                curves.append(curve)
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
