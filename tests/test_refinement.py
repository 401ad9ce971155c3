"""Swaps, against errors of all subsets and of naive fits."""

from itertools import combinations

import numpy as np
import pytest

from onnxprune.correlation import solve
from onnxprune.elimination import Problem, eliminate
from onnxprune.refinement import _Reader, swapped

DAMPING = 1e-3


def problems(seed, n=8, b=1, readers=1, fixed=0, correlated=True):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(readers):
        size = n * b + fixed
        x = rng.normal(size=(200, size)) @ (rng.normal(size=(size, size)) if correlated else np.eye(size))
        rows = rng.permutation(size)[: n * b].reshape(n, b)
        found.append(Problem(np.cov(x.T), rng.normal(size=(size, 4)), rows, float(rng.uniform(0.5, 2))))
    return found


def error(found, kept):
    """The damped squared error of the refitted weights, over all problems, in the unit of each's importance."""
    total = 0.0
    for p in found:
        rows = np.setdiff1d(np.arange(len(p.gram)), np.delete(p.rows, kept, axis=0))
        weights = solve(p.gram, p.gram @ p.weight, p.weight, rows, DAMPING)
        change = p.weight - weights
        damped = np.square(change) * np.diag(p.gram)[:, None]
        total += p.importance * float(np.sum(change * (p.gram @ change)) + DAMPING * damped.sum())
    return total


@pytest.mark.parametrize(("b", "readers", "fixed"), [(1, 1, 0), (3, 1, 2), (2, 3, 1)])
def test_errors_and_changes_are_those_of_fits(b, readers, fixed):
    found = problems(0, 6, b, readers, fixed)
    kept = np.array([0, 2, 3])
    sites = [_Reader(p, kept, DAMPING) for p in found]
    assert sum(s.error(kept) for s in sites) == pytest.approx(error(found, kept))
    for channel in (1, 4, 5):
        changes = sum(s.changes(channel) for s in sites)
        for other in kept:
            now = np.sort([channel, *kept[kept != other]])
            assert changes[other] == pytest.approx(error(found, now) - error(found, kept))
    for s in sites:
        s.add(4)
        s.remove(2)
    now = np.array([0, 3, 4])
    for s, p in zip(sites, found, strict=True):
        fresh = _Reader(p, now, DAMPING)
        np.testing.assert_allclose(s.inverse, fresh.inverse, atol=1e-8)
        np.testing.assert_allclose(s.weight, fresh.weight, atol=1e-8)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("b", "readers"), [(1, 1), (2, 2)])
def test_no_swap_is_left_that_would_help(seed, b, readers):
    found = problems(seed, 8, b, readers)
    start = np.sort(np.random.default_rng(seed).permutation(8)[:4])
    kept = swapped(found, start, damping=DAMPING, cells=np.zeros(8, int))
    assert len(kept) == 4
    assert (np.diff(kept) > 0).all()
    best = error(found, kept)
    assert best <= error(found, start)
    for out in kept:
        for back in set(range(8)) - set(kept.tolist()):
            assert error(found, np.sort([back, *kept[kept != out]])) >= best * (1 - 1e-5)


def test_greedy_choices_are_improved():
    """Over many small problems swaps come closer to the best subset than greedy elimination alone."""
    greedy = better = best = 0.0
    for seed in range(20):
        found = problems(seed, 8)
        order = eliminate(found, damping=DAMPING).order
        start = np.setdiff1d(np.arange(8), order[:5])
        kept = swapped(found, start, damping=DAMPING, cells=np.zeros(8, int))
        greedy += error(found, start)
        better += error(found, kept)
        best += min(error(found, np.array(c)) for c in combinations(range(8), 3))
    assert best <= better < greedy
    assert better - best < 0.5 * (greedy - best)


def test_swaps_stay_within_cells():
    cells = np.arange(8) % 2
    for seed in range(5):
        kept = swapped(problems(seed), np.array([0, 1, 2, 3]), damping=DAMPING, cells=cells)
        assert np.bincount(cells[kept]).tolist() == [2, 2]


def test_the_best_choice_stays_as_it_is():
    found = problems(3, 6)
    best = min(combinations(range(6), 3), key=lambda c: error(found, np.array(c)))
    assert swapped(found, np.array(best), damping=DAMPING, cells=np.zeros(6, int)).tolist() == list(best)
