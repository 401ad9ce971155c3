"""Cutting chains of blocks into segments, against trying all cuts."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.allocation import Curve
from onnxprune.chains import Choice, Segment, cut
from onnxprune.errors import BudgetError

seeds = st.integers(0, 10**6)


def chain(rng, links):
    """Every run that fits, with random errors and times; runs err more and take no longer than their last link."""
    found = []
    for end in range(1, links + 1):
        for length in range(1, min(end, 3) + 1):
            levels = np.sort(rng.choice(np.arange(1, 65), rng.integers(1, 4), replace=False))
            errors = np.sort(rng.exponential(length, len(levels)))[::-1]
            found.append(Segment(end, length, Curve(levels, errors), np.sort(rng.uniform(0.1, 1.0, len(levels)))))
    return found


def every(segments):
    """All cuts of one chain."""
    links = max(s.end for s in segments)

    def cuts(end):
        if end == 0:
            yield []
        for segment in (s for s in segments if s.end == end):
            for front in cuts(end - segment.length):
                for level in segment.curve.levels:
                    yield [*front, Choice(segment, int(level))]

    return list(cuts(links))


def place(choice):
    return choice.segment.curve.levels.tolist().index(choice.width)


def error(choices):
    return sum(choice.segment.curve.errors[place(choice)] for choice in choices)


def time(choices):
    return sum(choice.segment.times[place(choice)] for choice in choices)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, part=st.floats(0.02, 1))
def test_a_cut_is_as_good_as_the_best_of_all(seed, part):
    rng = np.random.default_rng(seed)
    chains = [chain(rng, links) for links in rng.integers(1, 4, 2)]
    both = [[*one, *other] for one, other in product(*map(every, chains))]
    shortest, longest = (pick(time(c) for c in both) for pick in (min, max))
    budget = shortest + part * (longest - shortest)
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


def test_a_budget_out_of_reach_says_what_is_within():
    levels, errors = np.array([4, 8]), np.array([1.0, 0.0])
    segments = [Segment(1, 1, Curve(levels, errors), np.array([2.0, 4.0])) for _ in range(1)]
    with pytest.raises(BudgetError, match=r"50.0% stay") as caught:
        cut([segments, segments], 3.0)
    assert caught.value.reachable == pytest.approx(0.5)


def test_plenty_of_time_changes_nothing():
    segments = chain(np.random.default_rng(0), 4)
    best = min(every(segments), key=error)
    assert error(cut([segments], 100.0)[0]) == pytest.approx(error(best))
