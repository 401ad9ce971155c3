"""Costs are met on any graph: never exceeded, and closely, unless any wider choice would exceed them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from cases import Case
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from strategies import networks

import models
from onnxprune.allocation import ALLOCATORS
from onnxprune.calibration import load
from onnxprune.cost import COSTS
from onnxprune.data import inputs_of
from onnxprune.errors import BudgetError, InternalError
from onnxprune.graph import Graph
from onnxprune.reconstruct import MODES
from onnxprune.report import Target
from onnxprune.run import Options, prepare
from onnxprune.search import SHORT, Search


@contextmanager
def finite() -> Iterator[None]:
    """Random networks may divide by zero: nothing is asked of those."""
    try:
        yield
    except InternalError as error:
        if "aren't finite" not in str(error):
            raise
        reject()


def searched(case: Case, mode: str) -> Search | None:
    """A search on a random network, ranked; None if nothing in it can be pruned."""
    graph = Graph(case.model())
    x = np.random.default_rng(0).normal(size=(24, 4, 4, 4)).astype(np.float32)
    options = Options((Target("macs", 0.5),), reconstruct=mode, round_to=1, runtime=models.RUNTIME)
    found = Search(prepare(graph, load(x, inputs_of(graph)), options))
    try:
        found.ready()
    except BudgetError:
        return None
    return found


def check(search: Search, target: Target) -> None:
    """What is written costs what was counted, at most what was asked for, and nearly that; or as widths allow."""
    best, failure = search.best()
    left = search.left(target.kind, best.model)
    least, most = (search.share(target.kind, best.plan.keep, biased=biased) for biased in (False, True))
    assert least - 1e-9 <= left <= most + 1e-9
    if failure is not None:
        assert target.value < left <= failure.reachable + 1e-9
        return
    assert left <= target.value + 1e-9
    for ranking in search.ranked.rankings if left < (1 - SHORT) * target.value else ():
        width = len(best.plan.keep[ranking.group.name])
        for wider in ranking.levels[ranking.levels > width][:1]:
            keep = dict(best.plan.keep) | {ranking.group.name: ranking.kept(int(wider))}
            assert search.share(target.kind, keep) > target.value


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.sampled_from(MODES), st.data())
def test_costs_are_met_on_random_networks(case: Case, mode: str, data: st.DataObject) -> None:
    with finite():
        found = searched(case, mode)
        for kind in COSTS if found is not None else ():
            least = found.share(kind, found.kept([int(r.levels[0]) for r in found.ranked.rankings]))
            goal = min(0.95 * least + data.draw(st.floats(0, 1), label=kind) * (1 - 0.95 * least), 1.0)
            one = found.other(targets=(Target(kind, goal),))
            one.run.options = replace(one.run.options, allocate=data.draw(st.sampled_from(sorted(ALLOCATORS))))
            check(one, Target(kind, goal))


def test_a_choice_that_leaves_room_is_not_close(monkeypatch) -> None:
    """The check above notices what is neither close nor as wide as it can be."""
    model = models.mlp()
    options = Options((Target("macs", 0.6),), round_to=1, runtime=models.RUNTIME)
    found = Search(prepare(Graph(model), load(models.data(model, 60), inputs_of(Graph(model))), options))
    check(found, Target("macs", 0.6))
    monkeypatch.setattr(found, "within", lambda limits: found.kept([4, 4]))
    with np.testing.assert_raises(AssertionError):
        check(found, Target("macs", 0.6))
