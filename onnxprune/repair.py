"""From widths to channels and new weights: `reconstruct` for channels that are chosen, `narrow` for widths alone.

`outlined` tells beforehand which layers `reconstruct` gives new weights. Both run the same code but for what makes the
weights, so that a model can be counted before it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from onnxprune import selection
from onnxprune.coupling import Coupling, Group
from onnxprune.fitting import Refit, error_on, masked, refit, silent, taken_over, with_mean
from onnxprune.ops.linear import Linear
from onnxprune.plan import Weights
from onnxprune.reconstruct import Choice, front_to_back, refit_ahead, sets_ahead
from onnxprune.refinement import swapped
from onnxprune.run import Run
from onnxprune.statistics import Moments
from onnxprune.steps import Ranked, in_portions, moments_of
from onnxprune.takeover import NOBODY
from onnxprune.walk import Store, layers_in_order

Ints = NDArray[np.int64]


def refine(run: Run, ranked: Ranked, keep: Mapping[str, Ints]) -> dict[str, Ints]:
    """The same numbers of channels after swaps that lower the least-squares error at the groups' readers."""
    cut = [r.group for r in ranked.rankings if len(keep[r.group.name]) < r.group.channels]
    groups = [g for g in cut if not g.heads and selection.readers(run.coupling, g)]  # turned dims are in order
    if not groups:
        return dict(keep)
    held = all(linear.key in ranked.moments for g in groups for linear in selection.readers(run.coupling, g))
    portions = [groups] if held else list(in_portions(run, groups))
    better = dict(keep)
    for portion in portions:
        moments = ranked.moments if held else moments_of(run, portion, len(portions))
        with run.timed("refine") as progress:
            for number, group in enumerate(portion):
                evidence, _ = selection.gathered(run.coupling, group, moments, np.random.default_rng())
                better[group.name] = swapped(
                    evidence.problems, keep[group.name], damping=evidence.damping, cells=evidence.cells
                )
                progress(number + 1, len(portion))
    return better


def reconstruct(run: Run, ranked: Ranked, keep: Mapping[str, Ints]) -> tuple[dict[str, Weights], dict[str, float]]:
    """New weights of the layers that need them, and their errors on samples that weren't fitted."""
    if run.mode == "ls":
        return _front_to_back(run, ranked, keep)
    with run.timed("reconstruct"):
        return _unified(run, ranked, keep) if run.mode == "unify" else _one_by_one(run, ranked, keep)


def outlined(run: Run, ranked: Ranked, keep: Mapping[str, Ints], *, biased: bool) -> dict[str, Weights]:
    """What `reconstruct` gives, of the same layers and shapes, without a look at data; there is nothing in most of it.

    All that depends on data, but for the numbers, is whether a layer without a bias gets one. Here they all do, or none
    if not `biased`: a model with these weights costs at least what the real one does, or at most.
    """
    coupling = run.coupling

    def stand_in(linear: Linear) -> Refit:
        nothing = np.broadcast_to(np.zeros((), linear.dtype), linear.shape)  # takes no memory
        offset = np.full_like(linear.offset, 1.0 + linear.index) if biased else linear.offset  # of each layer another
        return Refit(Weights(nothing, offset), 0.0, 0.0)

    if run.mode == "ls":
        turned = ranked.turned(coupling, keep)
        sets = sets_ahead(coupling, keep, turned)
        ahead = {one.key: stand_in(several[0]) for several in sets for one in several}
        pairs = {i: (one.before, one.after) for i, one in turned.items()}
        refits = front_to_back(coupling, keep, (), 0, run.options.runtime, ahead=ahead, turned=pairs, stand_in=stand_in)
        return {name: found.weights for name, found in refits.items()}
    if run.mode == "unify":
        mask, readers = coupling.mask(keep), [selection.readers(coupling, r.group) for r in ranked.rankings]
        cut = [one for several in readers for one in several if not mask.inputs(one).all()]
        return {linear.key: stand_in(_tied(coupling, linear)[0]).weights for linear in cut}
    return _one_by_one(run, ranked, keep, stand_in)[0]


def narrow(
    run: Run, ranked: Ranked, keep: Mapping[str, Ints], widths: Mapping[str, int]
) -> tuple[dict[str, Ints], dict[str, Weights], dict[str, float]]:
    """Channels that stay, those of `keep` and others at these widths of groups; new weights, and their errors.

    All in one pass, front to back: the channels of a group are chosen when the first layer that mixes them has its
    turn, by what that reads and should give by then.
    """
    coupling, chosen = run.coupling, dict(keep)
    waiting: dict[int, list[Group]] = {}
    for group in (coupling.by_name[name] for name in widths):
        mixing = [one for one in layers_in_order(coupling) if one.index in group.reads and one.conv_group == 1]
        if widths[group.name] < group.channels:
            waiting.setdefault(mixing[0].index, []).append(group)

    def choice(linear: Linear, moments: Sequence[Moments]) -> Mapping[str, Ints]:
        for group in waiting[linear.index]:
            chosen[group.name] = selection.chosen(linear, group, moments, widths[group.name])
        return chosen

    return chosen, *_front_to_back(run, ranked, keep, dict.fromkeys(waiting, choice))


def _front_to_back(
    run: Run, ranked: Ranked, keep: Mapping[str, Ints], choices: Mapping[int, Choice] | None = None
) -> tuple[dict[str, Weights], dict[str, float]]:
    turned, sizes = ranked.turned(run.coupling, keep), (run.samples.count, run.options.runtime)
    with run.timed("reconstruct") as progress:
        ahead = refit_ahead(run.coupling, keep, run.parts, *sizes, run.options.seed, turned)
        refits = front_to_back(
            run.coupling, keep, run.parts, *sizes, ahead=ahead, choices=choices,
            turned={i: (one.before, one.after) for i, one in turned.items()},
            seed=run.options.seed, max_memory=run.options.max_memory, progress=progress,
        )  # fmt: skip
    return {k: r.weights for k, r in refits.items()}, {k: r.error for k, r in refits.items()}


def _one_by_one(
    run: Run,
    ranked: Ranked,
    keep: Mapping[str, Ints],
    stand_in: Callable[[Linear], Refit] | None = None,
) -> tuple[dict[str, Weights], dict[str, float]]:
    """Fits to the original's values, or without a look at them what stands in for these."""
    coupling, mask, turned = run.coupling, run.coupling.mask(keep), ranked.turned(run.coupling, keep)
    weights: dict[str, Weights] = {}
    errors: dict[str, float] = {}
    store = Store(coupling.graph)
    for one in turned.values():
        still = silent(coupling, mask, one.after, masked(one.after, mask.inputs(one.after)))
        weights[one.after.key] = store.keep(one.after, still)
    for linear in coupling.layers.values() if run.mode != "none" else ():
        flags = mask.inputs(linear)
        if flags.all() or linear.key not in ranked.moments:
            continue
        if stand_in is not None:
            weights[linear.key] = stand_in(_tied(coupling, linear)[0]).weights
            continue
        parts = _moments_of_all(coupling, linear, ranked.moments)
        if linear.index in turned:
            linear, parts = turned[linear.index].after, [turned[linear.index].moments(m) for m in parts]
        fit, tune = parts[0], parts[-1]
        if run.mode == "mean":
            new = with_mean(linear, flags, fit.mean)
        else:
            found = refit(linear, flags, fit, tune if tune is not fit else None)
            new, errors[linear.key] = found.weights, found.error
        new = silent(coupling, mask, linear, new) if linear.index in turned else new
        weights[linear.key] = store.keep(linear, new)
    return weights, errors


def _tied(coupling: Coupling, linear: Linear) -> tuple[Linear, ...]:
    """The layer in all places where it stands."""
    return coupling.tied.get(linear.key, (linear,))


def _moments_of_all(coupling: Coupling, linear: Linear, moments: Mapping[str, list[Moments]]) -> list[Moments]:
    """What a layer reads, in all places where it is read if there are several."""
    tied = [moments[one.key] for one in _tied(coupling, linear)]
    return [reduce(add, parts) for parts in zip(*tied, strict=True)]


def _unified(run: Run, ranked: Ranked, keep: Mapping[str, Ints]) -> tuple[dict[str, Weights], dict[str, float]]:
    """Survivors take over, group by group, in all layers that read them."""
    mask, rng = run.coupling.mask(keep), np.random.default_rng(run.options.seed)
    moves: dict[str, list[tuple[Ints, Ints, NDArray[np.float64]]]] = {}
    linears: dict[str, Linear] = {}
    affine = False
    for ranking in ranked.rankings:
        group = ranking.group
        evidence, _ = selection.gathered(run.coupling, group, None if run.blind else ranked.moments, rng)
        taken = run.method.takeover(evidence, keep.get(group.name, np.arange(group.channels)))
        gone = np.flatnonzero(taken.partner != NOBODY)
        affine = affine or taken.affine
        found = selection.readers(run.coupling, group)
        factors = np.broadcast_to(taken.factors, (len(found), group.channels))
        for linear, factor in zip(found, factors, strict=True):
            rows = selection.rows_of(linear, group)
            moves.setdefault(linear.key, []).append((rows[gone], rows[taken.partner[gone]], factor[gone]))
            linears[linear.key] = linear
    weights, errors, store = dict[str, Weights](), dict[str, float](), Store(run.coupling.graph)
    for name, linear in linears.items():
        flags = mask.inputs(linear)
        if not flags.all():
            known = _moments_of_all(run.coupling, linear, ranked.moments) if name in ranked.moments else None
            mean = known[0].mean if known and affine else None
            one, *_ = _tied(run.coupling, linear)  # whose factors are those of all that are one with it
            new = taken_over(linear, flags, moves[one.key], mean)
            if known and linear.shared is None:
                errors[name] = error_on(linear, new, known[-1])
            weights[name] = store.keep(linear, new)
    return weights, errors
