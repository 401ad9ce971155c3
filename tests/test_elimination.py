"""Backward elimination and nested least squares, against refitting everything from the data."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune import elimination
from onnxprune.correlation import Correlation, Nested, Removal, solve, squared_error
from onnxprune.elimination import Compression, Problem, eliminate, ranked_rows
from onnxprune.errors import DataError, InternalError


class Data:
    """A problem together with the data X [S, N], Y [S, o] that it is made from."""

    def __init__(self, seed, n=6, b=1, o=3, fixed=0, importance=1.0, changed=False):
        rng = np.random.default_rng(seed)
        size = n * b + fixed
        mixing = rng.normal(size=(size, size)) * rng.uniform(0.1, 10, size)
        self.x = rng.normal(size=(3 * size, size)) @ mixing
        self.w = rng.normal(size=(size, o)) * rng.uniform(0.1, 3, (size, 1))
        before = self.x + rng.normal(size=self.x.shape) if changed else self.x
        self.y = before @ self.w
        rows = rng.permutation(size)[: n * b].reshape(n, b)
        cross = self.x.T @ self.y if changed else None
        self.problem = Problem(self.x.T @ self.x, self.w, rows, importance, cross)

    def kept_rows(self, channels):
        fixed = np.setdiff1d(np.arange(len(self.w)), self.problem.rows)
        return np.concatenate([self.problem.rows[channels].ravel(), fixed]).astype(int)

    def fit(self, rows, damping):
        """The best weights of these rows and the whole damped objective, from the rows of the data."""
        spread = np.sqrt(damping * (self.x**2).sum(0))[:, None]
        x = np.concatenate([self.x, np.diag(spread[:, 0])])[:, rows]
        y = np.concatenate([self.y, np.where(np.isin(np.arange(len(self.w)), rows)[:, None], spread * self.w, 0)])
        v = np.linalg.lstsq(x, y, rcond=None)[0]
        gone = np.setdiff1d(np.arange(len(self.w)), rows)
        return v, ((y - x @ v) ** 2).sum() + ((spread * self.w)[gone] ** 2).sum()

    def error(self, channels, damping):
        return self.problem.importance * self.fit(self.kept_rows(channels), damping)[1]


def brute_force(datas, damping, keep=1, cells=None):
    """Refit for every candidate at every step."""
    n = len(datas[0].problem.rows)
    cells = np.zeros(n, int) if cells is None else np.asarray(cells)
    alive, order, errors = list(range(n)), [], []

    def error(channels):
        return sum(data.error(channels, damping) for data in datas)

    errors.append(error(alive))
    while len(alive) > keep:
        taken = {cells[c] for c in order[len(order) - len(order) % len(set(cells)) :]}
        candidates = [c for c in alive if cells[c] not in taken]
        best = min(candidates, key=lambda c: error([a for a in alive if a != c]))
        alive.remove(best)
        order.append(best)
        errors.append(error(alive))
    return order, np.array(errors)


def assert_like_brute_force(datas, damping=1e-4, **options):
    order, errors = brute_force(datas, damping, **options)
    result = eliminate([data.problem for data in datas], damping=damping, **options)
    np.testing.assert_array_equal(result.order, order)
    np.testing.assert_allclose(result.losses, np.diff(errors), rtol=1e-6, atol=1e-8 * errors[-1])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), b=st.sampled_from([1, 2, 4]), fixed=st.integers(0, 2), changed=st.booleans())
def test_same_as_refitting_every_candidate(seed, b, fixed, changed):
    assert_like_brute_force([Data(seed, b=b, fixed=fixed, changed=changed)])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_readers_add_up(seed):
    assert_like_brute_force([Data(seed, b=1, o=2), Data(seed + 1, b=4, o=5, fixed=1, importance=0.01)])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_cells_take_turns(seed):
    cells = np.random.default_rng(seed).permutation([7, 7, 2, 2, 5, 5])
    assert_like_brute_force([Data(seed)], cells=cells, keep=3)


def test_only_whole_rounds_are_made():
    result = eliminate([Data(0).problem], cells=np.array([0, 0, 0, 1, 1, 1]), keep=1)
    assert len(result.order) == 4


@pytest.mark.parametrize("changed", [False, True])
def test_losses_sum_to_the_error_of_the_solution(changed):
    data = Data(3, n=12, b=2, changed=changed)
    result = eliminate([data.problem], damping=1e-9, keep=4)
    kept = data.kept_rows(np.setdiff1d(np.arange(12), result.order))
    cross = data.x.T @ data.y
    whole, part = (
        squared_error(data.problem.gram, cross, (data.y**2).sum(), v)
        for v in (solve(data.problem.gram, cross, data.w, rows, damping=1e-9) for rows in (np.arange(24), kept))
    )
    assert whole + result.losses.sum() == pytest.approx(part, rel=1e-6)


def test_losses_sum_to_the_cost_of_removing_the_set_at_once():
    data = Data(4, n=12, b=2)
    result = eliminate([data.problem], damping=1e-9, keep=5)
    gone = data.problem.rows[result.order].ravel()
    inverse, w = np.linalg.inv(data.problem.gram), data.w[gone]
    at_once = np.sum(w * np.linalg.solve(inverse[np.ix_(gone, gone)], w))
    assert result.losses.sum() == pytest.approx(at_once, rel=1e-5)


@pytest.mark.parametrize("b", [1, 3])
def test_panels_only_change_the_speed(b):
    problem = Data(5, n=40, b=b, fixed=2).problem
    reference = eliminate([problem], panel=1)
    for panel in (None, 2, 7, 100):
        result = eliminate([problem], panel=panel)
        np.testing.assert_array_equal(result.order, reference.order)
        np.testing.assert_allclose(result.losses, reference.losses, rtol=1e-8)


def test_numbering_of_channels_and_rows_does_not_matter():
    problem = Data(6, n=9, b=2).problem
    rng = np.random.default_rng(0)
    channels, rows = rng.permutation(9), rng.permutation(18)
    place = np.argsort(rows)
    shuffled = Problem(problem.gram[np.ix_(rows, rows)], problem.weight[rows], place[problem.rows][channels])
    result, reference = eliminate([shuffled]), eliminate([problem])
    np.testing.assert_array_equal(channels[result.order], reference.order)
    np.testing.assert_allclose(result.losses, reference.losses, rtol=1e-8)


def test_units_of_channels_do_not_matter():
    problem = Data(7, n=9).problem
    unit = np.logspace(-3, 3, 9)
    scaled = replace(problem, gram=problem.gram * np.outer(unit, unit), weight=problem.weight / unit[:, None])
    result, reference = eliminate([scaled]), eliminate([problem])
    np.testing.assert_array_equal(result.order, reference.order)
    np.testing.assert_allclose(result.losses, reference.losses, rtol=1e-8)


def test_duplicates_go_first_and_for_free():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(100, 10))[:, [0, 1, 2, 3, 4, 5, 6, 7, 2, 5]]
    result = eliminate([Problem(x.T @ x, rng.normal(size=(10, 4)), np.arange(10)[:, None])], damping=1e-9)
    assert {{8: 2, 9: 5}.get(c, c) for c in result.order[:2].tolist()} == {2, 5}
    assert result.losses[:2].max() < 1e-6 * result.losses[2]


@pytest.mark.parametrize("b", [1, 2])
def test_dead_channels_go_first_by_index(b):
    data = Data(9, n=8, b=b)
    dead = data.problem.rows[[6, 1, 4]].ravel()
    gram = data.problem.gram.copy()
    gram[dead] = gram[:, dead] = 0
    result = eliminate([replace(data.problem, gram=gram)], damping=0.0)
    assert result.order[:3].tolist() == [1, 4, 6]
    np.testing.assert_array_equal(result.losses[:3], 0)
    assert result.losses[3:].min() > 0


def test_everything_dead():
    result = eliminate([Problem(np.zeros((4, 4)), np.ones((4, 2)), np.arange(4)[:, None])])
    assert result.order.tolist() == [0, 1, 2]


def test_ties_go_to_the_lowest_index():
    result = eliminate([Problem(np.eye(5), np.ones((5, 1)), np.arange(5)[:, None])], keep=0)
    assert result.order.tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), b=st.sampled_from([1, 2]), damping=st.sampled_from([0.0, 1e-10, 1e-4]))
def test_ill_conditioned_input(seed, b, damping):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 8)) @ rng.normal(size=(8, 48)) + 1e-6 * rng.normal(size=(200, 48))
    gram, w = x.T @ x, rng.normal(size=(48, 5))
    result = eliminate([Problem(gram, w, np.arange(48).reshape(-1, b))], damping=damping, keep=4)
    assert len(set(result.order.tolist())) == 48 // b - 4
    assert (result.losses >= 0).all()
    used_up = eliminate([Problem(gram, w, np.arange(48).reshape(-1, b))], damping=damping, keep=4, panel=1000)
    np.testing.assert_allclose(used_up.losses.sum(), result.losses.sum(), rtol=0.1)


def test_used_up_inverse_is_computed_afresh(monkeypatch):
    problem = Data(10, n=8).problem
    reference = eliminate([problem])
    costs, calls = elimination._Reader.costs, []

    def failing(self):
        calls.append(self)
        return costs(self) * (-1 if len(calls) == 4 else 1)

    monkeypatch.setattr(elimination._Reader, "costs", failing)
    result = eliminate([problem])
    assert len(calls) == len(result.order) + 1
    np.testing.assert_array_equal(result.order, reference.order)


@pytest.mark.parametrize("changed", [False, True])
def test_more_outputs_than_inputs(changed):
    assert_like_brute_force([Data(11, n=5, o=40, changed=changed)])


def test_inputs_are_not_written_to():
    data = Data(12, n=6, b=2, fixed=1, changed=True)
    problem = data.problem
    for array in (problem.gram, problem.weight, problem.rows, problem.cross):
        array.flags.writeable = False
    order = ranked_rows(problem.rows, eliminate([problem]).order, len(problem.gram))
    Nested(problem.gram, problem.cross, problem.weight, order).solve(5)


def test_damping_grows_until_the_gram_matrix_can_be_factored():
    gram = np.ones((4, 4))
    nested = Nested(gram, gram @ np.ones((4, 1)), np.ones((4, 1)), np.arange(4), damping=0.0)
    assert 0 < nested.damping < 1e-6
    np.testing.assert_allclose(nested.solve(1)[0], 4)
    assert len(eliminate([Problem(gram, np.ones((4, 1)), np.arange(4)[:, None])], damping=0.0).order) == 3


@pytest.mark.parametrize(("value", "kind"), [(np.nan, DataError), (np.inf, DataError), (1e15, InternalError)])
def test_no_gram_matrix(value, kind):
    gram = np.eye(3)
    gram[0, 1] = gram[1, 0] = value
    with pytest.raises(kind):
        eliminate([Problem(gram, np.ones((3, 1)), np.arange(3)[:, None])])


def test_mismatches():
    a, b = Data(0, n=4).problem, Data(0, n=5).problem
    with pytest.raises(ValueError, match=r"\[4, 5\]"):
        eliminate([a, b])
    with pytest.raises(ValueError, match="equally large"):
        eliminate([b], cells=np.array([0, 0, 1, 1, 1]))


# ---- Smaller problems


def compressed(problem, most):
    found = Compression.of(problem, most)
    return problem if found is None else found.problem(problem)


@pytest.mark.parametrize(("k", "fixed", "changed"), [(2, 0, False), (2, 3, False), (3, 2, True)])
def test_compressed_channels_are_their_leading_directions(k, fixed, changed):
    """What is left of each channel makes the best approximation of rank k of what it adds to the outputs."""
    data = Data(15, n=6, b=4, o=5, fixed=fixed, changed=changed)
    problem = compressed(data.problem, 6 * k + k - 1)
    assert problem.rows.tolist() == np.arange(6 * k).reshape(6, k).tolist()
    assert len(problem.gram) == 6 * k + fixed
    y = data.x[:, data.kept_rows([])] @ data.w[data.kept_rows([])]
    for own in data.problem.rows:
        u, s, v = np.linalg.svd(data.x[:, own] @ data.w[own], full_matrices=False)
        y = y + (u[:, :k] * s[:k]) @ v[:k]
    made = problem.weight.T @ problem.gram @ problem.weight
    np.testing.assert_allclose(made, y.T @ y, rtol=1e-6, atol=1e-9 * np.trace(made))
    if changed:
        np.testing.assert_allclose(problem.weight.T @ problem.cross, y.T @ data.y, atol=1e-9 * np.trace(made))


def test_channels_of_lower_rank_lose_nothing():
    rng = np.random.default_rng(16)
    x = np.einsum("snk,nkb->snb", rng.normal(size=(100, 8, 2)), rng.normal(size=(8, 2, 4))).reshape(100, 32)
    problem = Problem(x.T @ x, rng.normal(size=(32, 6)), np.arange(32).reshape(8, 4))
    result, reference = eliminate([compressed(problem, 16)], damping=1e-9), eliminate([problem], damping=1e-9)
    np.testing.assert_array_equal(result.order, reference.order)
    np.testing.assert_allclose(result.losses, reference.losses, rtol=1e-4)


def test_problems_that_are_small_enough_stay():
    problem = Data(17, n=6, b=4).problem
    assert compressed(problem, 24) is problem
    assert compressed(problem, 23) is not problem
    for b in (1, 2):
        few = Data(17, n=6, b=b).problem
        assert compressed(few, 2) is few


def test_dead_channels_stay_dead_when_compressed():
    data = Data(18, n=4, b=3)
    dead = data.problem.rows[2]
    data.problem.gram[dead] = data.problem.gram[:, dead] = 0
    result = eliminate([compressed(data.problem, 8)])
    assert result.order[0] == 2
    assert result.losses[0] == 0


# ---- Least squares


def test_nothing_removed_gives_the_weights_back():
    data = Data(13, n=10)
    data.problem.gram[3] = data.problem.gram[:, 3] = 0
    v = solve(data.problem.gram, data.problem.gram @ data.w, data.w, np.arange(10), damping=0.1)
    np.testing.assert_allclose(v, data.w, rtol=1e-9)


def test_everything_removed_gives_zeros():
    data = Data(13)
    v = solve(data.problem.gram, data.x.T @ data.y, data.w, np.arange(0))
    np.testing.assert_array_equal(v, np.zeros_like(data.w))
    assert squared_error(data.problem.gram, data.x.T @ data.y, 5.0, v) == 5.0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), changed=st.booleans())
def test_every_level_is_the_refitted_solution(seed, changed):
    data = Data(seed, n=5, b=2, fixed=2, changed=changed)
    problem, cross = data.problem, data.x.T @ data.y
    result = eliminate([problem], damping=1e-3)
    order = ranked_rows(problem.rows, result.order, 12)
    nested = Nested(problem.gram, cross, data.w, order, damping=1e-3)
    for k in range(13):
        expected = np.zeros_like(data.w)
        expected[order[:k]] = data.fit(order[:k], 1e-3)[0]
        np.testing.assert_allclose(nested.solve(k), expected, atol=1e-6)
        np.testing.assert_allclose(solve(problem.gram, cross, data.w, order[:k], 1e-3), expected, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), dead=st.booleans())
def test_removal_of_any_of_a_few_rows_is_the_refitted_solution(seed, dead):
    data = Data(seed, n=8, fixed=4)
    gram, few = data.problem.gram, data.problem.rows[:5].ravel()
    if dead:
        gram[few[1]] = gram[:, few[1]] = 0
    removal = Removal(gram, few, 1e-3)
    for gone in ([], [3], [4, 0], [0, 1, 2, 3, 4]):
        kept = np.setdiff1d(np.arange(12), few[gone])
        expected = solve(gram, gram @ data.w, data.w, kept, 1e-3)
        found = data.w - removal.influence[:, gone] @ removal.shares(gone, data.w[few[gone]])
        np.testing.assert_allclose(found[kept], expected[kept], atol=1e-6)


def test_wide_factors_are_coarse_and_solutions_as_good():
    """In float32 where the damping is far above its rounding, in float64 where it isn't."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 600)) @ rng.normal(size=(600, 600)) + 30 * rng.normal(size=(800, 1))
    gram, w = x.T @ x, rng.normal(size=(600, 3))
    rows = np.arange(550)
    root = np.sqrt(np.diagonal(gram))[:550, None]
    for damping, dtype in ((1e-2, np.float32), (1e-3, np.float64)):
        factor = Correlation.of(gram, np.arange(600)).factor(damping)
        assert (factor.lower.dtype, factor.damping) == (dtype, damping)
        scaled = gram[:550, :550] / root / root.T + damping * np.eye(550)
        expected = np.linalg.solve(scaled, (gram @ w)[:550] / root + damping * w[:550] * root) / root
        found = solve(gram, gram @ w, w, rows, damping)[:550]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


def test_error_on_other_data():
    data = Data(14)
    v = np.random.default_rng(0).normal(size=data.w.shape)
    expected = ((data.y - data.x @ v) ** 2).sum()
    actual = squared_error(data.problem.gram, data.x.T @ data.y, (data.y**2).sum(), v)
    assert actual == pytest.approx(expected)


def test_ranking_puts_fixed_rows_first():
    rows = np.array([[0, 1], [5, 6], [3, 4]])
    assert ranked_rows(rows, np.array([2, 0]), 8).tolist() == [2, 7, 5, 6, 0, 1, 3, 4]
