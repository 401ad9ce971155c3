"""Timing of models in turns, and the ratio of their times with its spread."""

import numpy as np
import onnxruntime
import pytest

from models import RUNTIME, feeds, mlp
from onnxprune import clock, files, pipeline
from onnxprune.errors import DataError
from onnxprune.files import Model
from onnxprune.runtime import Runtime


def test_ratio_of_steady_times():
    found = clock.paired(np.full(21, 4.0), np.full(21, 3.0))
    assert found == clock.Ratio(4.0, 3.0, 0.75, 0.75, 0.75)


def test_a_machine_that_slows_down_changes_no_ratio():
    pace = np.linspace(1, 10, 31)
    found = clock.paired(2 * pace, pace)
    assert (found.low, found.ratio, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_one_pause_in_between_changes_no_ratio():
    before, after = np.full(41, 2.0), np.full(41, 1.0)
    after[7] = 500.0
    assert clock.paired(before, after).ratio == 0.5


@pytest.mark.parametrize("rounds", [7, 15, 41])
def test_the_interval_holds_the_true_median_at_least_as_often_as_it_says(rounds):
    rng = np.random.default_rng(rounds)
    found = [clock.paired(np.ones(rounds), rng.lognormal(0, 0.3, rounds)) for _ in range(600)]
    assert np.mean([one.low <= 1.0 <= one.high for one in found]) >= 0.93


def test_more_rounds_give_a_narrower_interval():
    rng = np.random.default_rng(0)
    few, many = (clock.paired(np.ones(n), rng.lognormal(0, 0.3, n)) for n in (11, 301))
    assert many.high - many.low < few.high - few.low


def test_models_take_turns_in_alternating_order(monkeypatch):
    model = mlp()
    sessions = []
    run = type(RUNTIME.session(model)).run
    monkeypatch.setattr(clock, "ONE", 0.0)
    monkeypatch.setattr("onnxprune.runtime.Session.run", lambda self, *a: (sessions.append(id(self)), run(self, *a))[1])
    times = clock.in_turns([model, mlp((12, 8, 4))], feeds(model, 2)[0], RUNTIME, rounds=4)
    assert times.shape == (4, 2)
    assert (times > 0).all()
    a, b = sessions[0], sessions[2]
    assert sessions == [a, a, b, b, b, a, a, b, b, a, a, b]


def test_no_fewer_rounds_than_the_least_and_no_more_than_asked_for():
    model = mlp()
    feed = feeds(model, 1)[0]
    assert len(clock.in_turns([model], feed, RUNTIME, seconds=0.0)) == clock.LEAST
    assert len(clock.in_turns([model], feed, Runtime(), rounds=2)) == 2


def test_a_fresh_process_measures_the_same_models():
    model = mlp((12, 400, 400, 4))
    times = clock.apart([model, mlp((12, 4, 4, 4))], feeds(model, 64, batch=64)[0], RUNTIME, rounds=9)
    assert times.shape == (9, 2)
    assert clock.paired(times[:, 0], times[:, 1]).ratio < 1


def test_a_fresh_process_that_fails_says_why():
    model = mlp()
    with pytest.raises(DataError, match=r"process of their own: .*nothing"):
        clock.apart([model], feeds(model, 1)[0], Runtime(provider="nothing"))


def test_big_models_are_timed_one_after_the_other(monkeypatch):
    """Memory has room for one at a time. What is timed for longer is cut to as many rounds as the other."""
    model, made = mlp(), []
    monkeypatch.setattr(files, "BIG", 1)
    given = [Model(model, arrays) for arrays in ({"w": np.zeros(1)}, {})]
    rows = iter((np.full((5, 1), 4.0), np.full((3, 1), 2.0)))
    monkeypatch.setattr(clock, "in_turns", lambda some, *_, **__: made.append(list(some)) or next(rows))
    times = pipeline._times(given, feeds(model, 1)[0], RUNTIME)
    assert made == [[given[0]], [given[1]]]
    assert [row.tolist() for row in times] == [[4.0] * 3, [2.0] * 3]


def test_a_big_model_and_one_that_is_not_are_run_alike(monkeypatch):
    """In two ways their times would tell of these, not of the models."""
    given = [Model(mlp((12, 400, 4))), Model(mlp((12, 4, 4)))]
    monkeypatch.setattr(files, "BIG", files.size(given[1]) + 1)
    monkeypatch.setattr(files, "LARGE", 64)
    assert list(map(files.big, given)) == [True, False]
    ways, make = [], onnxruntime.InferenceSession

    def session(message, options, **others):
        ways.append(options.graph_optimization_level)
        return make(message, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    feed = feeds(given[1].proto, 2)[0]
    clock.in_turns(given, feed, RUNTIME, rounds=1)
    pipeline._times(given, feed, RUNTIME)
    assert len(ways) == 4
    assert len(set(ways)) == 1
