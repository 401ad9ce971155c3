"""Cutting chains of blocks into segments, against trying all cuts."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.chains import Choice, Segment, cut, shortest
from onnxprune.errors import BudgetError

seeds = st.integers(0, 10**6)


def chain(rng, links):
    """Every run that fits, with random errors and times; runs err more and take no longer than their last link."""
    found = []
    for end in range(1, links + 1):
        for length in range(1, min(end, 3) + 1):
            options = rng.integers(1, 4)
            errors = np.sort(rng.exponential(length, options))[::-1]
            found.append(Segment(end, length, errors, np.sort(rng.uniform(0.1, 1.0, options))))
    return found


def every(segments):
    """All cuts of one chain."""
    links = max(s.end for s in segments)

    def cuts(end):
        if end == 0:
            yield []
        for segment in (s for s in segments if s.end == end):
            for front in cuts(end - segment.length):
                for option in range(len(segment.times)):
                    yield [*front, Choice(segment, option)]

    return list(cuts(links))


def error(choices):
    return sum(choice.segment.errors[choice.option] for choice in choices)


def time(choices):
    return sum(choice.segment.times[choice.option] for choice in choices)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, part=st.floats(0.02, 1))
def test_a_cut_is_as_good_as_the_best_of_all(seed, part):
    rng = np.random.default_rng(seed)
    chains = [chain(rng, links) for links in rng.integers(1, 4, 2)]
    both = [[*one, *other] for one, other in product(*map(every, chains))]
    shortest, longest = (pick(time(c) for c in both) for pick in (min, max))
    budget = 1.004 * shortest + part * (longest - shortest)
    found = [choice for part in cut(chains, budget) for choice in part]
    assert time(found) <= budget * 1.003
    assert error(found) <= min(error(c) for c in both if time(c) <= budget * 0.997) + 1e-9


def test_choices_cover_every_chain_from_front_to_back():
    chains = [chain(np.random.default_rng(seed), 6) for seed in range(3)]
    for segments, choices in zip(chains, cut(chains, 6.0), strict=True):
        ends = [choice.segment.end for choice in choices]
        starts = [choice.segment.end - choice.segment.length for choice in choices]
        assert starts == [0, *ends[:-1]]
        assert ends[-1] == 6
        assert all(choice.segment in segments for choice in choices)


def test_a_budget_out_of_reach():
    segments = [Segment(1, 1, np.array([1.0, 0.0]), np.array([2.0, 4.0]))]
    assert sum(map(shortest, [segments, segments])) == 4.0
    with pytest.raises(BudgetError):
        cut([segments, segments], 3.0)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, links=st.integers(1, 5))
def test_the_shortest_cut(seed, links):
    segments = chain(np.random.default_rng(seed), links)
    least = min(time(choices) for choices in every(segments))
    assert shortest(segments) == pytest.approx(least)
    assert time(cut([segments], 1.01 * least)[0]) <= 1.01 * least


def test_plenty_of_time_changes_nothing():
    segments = chain(np.random.default_rng(0), 4)
    best = min(every(segments), key=error)
    assert error(cut([segments], 100.0)[0]) == pytest.approx(error(best))
