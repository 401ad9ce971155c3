"""From a run to widths: `rank` gives moments, orders of removal and error curves, `allocate` widths for a budget."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from onnxprune import evaluation, factorize, latency, oracle, selection, unrepaired
from onnxprune.activity import Activity, collect_activity
from onnxprune.allocation import ALLOCATORS, Curve, Quadratic, Stepped, out_of_reach
from onnxprune.cost import COSTS
from onnxprune.coupling import Coupling, Group
from onnxprune.errors import BudgetError
from onnxprune.plan import Weights
from onnxprune.rewrite import with_weights
from onnxprune.run import Run
from onnxprune.scope import least_width, prunable, what_stands_in_the_way
from onnxprune.statistics import Moments, collect, gathered_bytes, moments_bytes
from onnxprune.walk import Store

Ints = NDArray[np.int64]
PROBE_SAMPLES = 256, 32  # at most, and at least
GATHERED = 0.25  # of the memory granted: what layers read of all samples that are run at once
PROBE_MACS = 2e12  # multiplications for all probes that more than the least samples may take


@dataclass(frozen=True)
class Ranked:
    """All that a budget is turned into widths by, the moments for reconstruction, and how attention heads are turned.

    No moments are held where the layers are refitted front to back; there are none at all in a blind run.
    """

    rankings: list[selection.Ranking]
    curves: list[Curve]
    moments: dict[str, list[Moments]]
    turns: dict[str, factorize.Turn] = field(default_factory=dict)
    time: Stepped | None = None  # milliseconds, measured where a target counts them
    whole: float = 0.0  # those of the original

    def turned(self, coupling: Coupling, keep: Mapping[str, Ints]) -> dict[int, factorize.Turned]:
        """The layers amid attention heads that lose dims."""
        cut = [name for name in keep if name in self.turns and len(keep[name]) < coupling.by_name[name].channels]
        return factorize.layers(coupling, [self.turns[name] for name in cut])


def rank(run: Run) -> Ranked:
    """Moments, orders and error curves of all groups that may be pruned; BudgetError if there is none.

    Where no widths are chosen by them, the curves are those of white inputs, which cost nothing.

    Groups are taken in portions whose moments fit into memory; each takes a pass over the samples.
    """
    groups = prunable(run)
    if not groups:
        raise BudgetError("nothing in this model can be pruned: " + what_stands_in_the_way(run))
    levels, predict = _levels(run, groups), run.options.predicts and not run.blind
    place = {group.name: i for i, group in enumerate(groups)}
    rankings: list[selection.Ranking] = []
    moments: dict[str, list[Moments]] = {}
    turns: dict[str, factorize.Turn] = {}
    portions, store = list(in_portions(run, groups)), Store(run.coupling.graph)
    for portion in portions:
        found = None if run.blind else moments_of(run, portion, len(portions))
        activity = _activity(run, portion) if run.method.needs == "activity" else {}

        def ranking(
            group: Group,
            found: dict[str, list[Moments]] | None = found,
            activity: dict[str, Activity] = activity,
        ) -> selection.Ranking:
            allowed = levels[place[group.name]]
            if found is not None and group.heads:
                one, turns[group.name] = factorize.rank(run.coupling, group, found, allowed, predict=predict)
                return one
            mended = selection.readers(run.coupling, group)
            if found is not None and not mended and not run.options.looks_at_weights_alone:
                return unrepaired.rank(run.coupling, group, found, allowed)
            rng, active = np.random.default_rng((run.options.seed, place[group.name])), activity.get(group.name)
            return selection.rank(run.coupling, group, found, run.method, allowed, rng, active, predict=predict)

        with run.timed("select") as progress, ThreadPoolExecutor(_workers(run, portion)) as pool:
            for one in pool.map(ranking, portion):
                rankings.append(_put_away(store, one))
                progress(len(rankings), 2 * len(groups))
        if run.mode not in ("ls", "none") and found is not None:
            moments |= found  # the layers are refitted one by one from what is known now
    if not run.blind:
        _warn_of_few(run, groups)
    if not predict:
        return timed(run, Ranked(rankings, [Curve(r.levels, r.errors) for r in rankings], moments, turns))
    with run.timed("select") as progress:
        signals = oracle.signals(run.coupling.graph)
        most = min(_probe_samples(run, groups), evaluation.affordable(run.coupling.graph, signals))
        judging = (run.division.tune if len(run.division.tune) else run.division.fit)[:most]
        curves = selection.probe(
            run.coupling,
            rankings,
            run.feeds(judging),
            signals,
            run.options.runtime,
            run.options.max_memory,
            lambda number, total: progress(total + number, 2 * total),
        )
    return timed(run, Ranked([replace(r, trial={}) for r in rankings], curves, moments, turns))


def _put_away(store: Store, ranking: selection.Ranking) -> selection.Ranking:
    """The ranking with the weights of its trial, which wait for the probe of all, in a store."""
    trial = {
        index: [with_weights(layer, store.keep(layer, Weights(layer.matrix, layer.offset))) for layer in layers]
        for index, layers in ranking.trial.items()
    }
    return replace(ranking, trial=trial)


def _levels(run: Run, groups: Sequence[Group]) -> list[Ints]:
    """Widths that each group may have. Where time counts, the steps in which it goes, and below the first a few."""
    options = run.options
    fewest = [least_width(run.coupling, group, options) for group in groups]
    found = [selection.widths(group, options.step, least) for group, least in zip(groups, fewest, strict=True)]
    if options.round_to is not None or not options.for_time:
        return found
    with run.timed("latency"):
        coarse = latency.step(options.runtime)
    steps = [selection.widths(group, coarse, least) for group, least in zip(groups, fewest, strict=True)]
    return [fine[(fine < own[0]) | np.isin(fine, own)] for fine, own in zip(found, steps, strict=True)]


def timed(run: Run, ranked: Ranked, whole: float | None = None) -> Ranked:
    """The same with time as a function of the groups' widths, if a target counts it; `whole`: that of the original."""
    if not run.options.for_time:
        return ranked
    with run.timed("latency") as progress:
        macs = COSTS["macs"].of_widths(run.coupling, [r.group for r in ranked.rankings])
        settings = run.timed_feed, run.options.runtime, progress
        time = latency.time_of_widths(run.coupling, ranked.rankings, macs, *settings)
    return replace(ranked, time=time, whole=whole or time.whole)


def in_portions(run: Run, groups: Sequence[Group]) -> Iterator[list[Group]]:
    """Groups in order, as many at a time as the memory granted holds moments of, and leaves room to work in."""
    graph, sizes = run.coupling.graph, [len(run.division.fit), len(run.division.tune)]
    portion, held, widest = list[Group](), dict[str, int](), 0
    for group in groups:
        own = {one.key: moments_bytes(graph, one, sizes) for one in factorize.measured(run.coupling, group)}
        widest = max(widest, *(one.size for one in factorize.measured(run.coupling, group)), 0)
        if portion and sum((held | own).values()) + 3 * 8 * widest**2 > run.options.max_memory:
            yield portion
            portion, held = [], {}
        portion.append(group)
        held |= own
    yield portion


def _probe_samples(run: Run, groups: Sequence[Group]) -> int:
    """Samples to probe with, on which half of the network runs once for every group, more or less."""
    most, least = PROBE_SAMPLES
    each = COSTS["macs"].count(run.coupling.graph) * len(groups) / 2
    return max(least, min(most, int(PROBE_MACS // max(each, 1))))


def _workers(run: Run, groups: Sequence[Group]) -> int:
    """Groups ranked at the same time: as many as there are processors, or as memory is granted for."""
    widest = max((one.size for g in groups for one in factorize.measured(run.coupling, g)), default=1)
    return max(
        1, min(run.options.runtime.threads or os.cpu_count() or 1, int(run.options.max_memory / (8 * 8 * widest**2)))
    )


def moments_of(run: Run, groups: Sequence[Group], portions: int) -> dict[str, list[Moments]]:
    """Moments of all layers that read these groups, on the samples to fit and on those to choose by."""
    graph, linears = run.coupling.graph, {x.key: x for g in groups for x in factorize.measured(run.coupling, g)}
    count = len(run.division.fit) + len(run.division.tune)
    each = sum(gathered_bytes(graph, linear, count) for linear in linears.values())
    parts = run.parts_in(max(1, int(GATHERED * run.options.max_memory / max(each, 1))))
    with run.timed("calibrate") as progress:

        def tick(n: int) -> None:
            run.seen += n
            progress(min(run.seen, portions * count), portions * count)

        return collect(graph, list(linears.values()), parts, count, run.options.runtime, run.options.seed, tick)


def _activity(run: Run, groups: Sequence[Group]) -> dict[str, Activity]:
    """How often the channels of these groups are off, on all samples that aren't held back to judge."""
    with run.timed("calibrate"):
        samples = run.feeds(np.concatenate([run.division.fit, run.division.tune]))
        looked_at = [g for g in groups if not g.heads and selection.readers(run.coupling, g)]
        return collect_activity(run.coupling, looked_at, samples, run.options.runtime)


def _warn_of_few(run: Run, groups: Sequence[Group]) -> None:
    """Rows of one map are nearly copies: what counts is the number of samples, and it should reach a layer's width."""
    widths = [linear.channels for g in groups for linear in selection.readers(run.coupling, g)]
    fitted = len(run.division.fit)
    few = [n for n in widths if fitted < n]
    if few:
        run.warnings.append(
            f"samples to fit ({fitted}) are fewer than the input channels of {len(few)} layer{'s' * (len(few) > 1)} "
            f"(up to {max(few)}): more samples would keep more accuracy."
        )


def allocate(run: Run, ranked: Ranked, kind: str, fraction: float, most: Sequence[int] | None = None) -> list[int]:
    """Widths of the groups, of at most `most`, that cost at most `fraction` of the original; BudgetError if none do."""
    cost = cost_of(run, ranked, kind)
    full = [r.group.channels for r in ranked.rankings]
    curves = [_narrowed(c, m) for c, m in zip(ranked.curves, most or full, strict=True)]
    whole = count_of(run, kind, ranked)
    try:
        found = ALLOCATORS[run.options.allocate](curves, cost, fraction * whole)
    except BudgetError as error:  # it knows no original but the serial form
        grown = cost.total(np.array(full)) / max(whole, 1e-9)
        raise out_of_reach(fraction, (error.reachable or 0.0) * grown) from None
    return [int(width) for width in found]


def _narrowed(curve: Curve, most: int) -> Curve:
    """The part of a curve up to a width."""
    return Curve(curve.levels[curve.levels <= most], curve.errors[curve.levels <= most])


def cost_of(run: Run, ranked: Ranked, kind: str) -> Quadratic:
    """What a target counts, as a function of the widths."""
    if kind == "latency":
        assert ranked.time is not None
        return ranked.time
    groups = [r.group for r in ranked.rankings]
    return COSTS[kind].of_widths(run.coupling, groups)


def count_of(run: Run, kind: str, ranked: Ranked | None = None) -> float:
    """What a target counts in the original."""
    if kind == "latency":
        assert ranked is not None
        return ranked.whole
    return run.on_disk if kind == "size" and run.on_disk else COSTS[kind].count(run.original)
