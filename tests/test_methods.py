"""What every criterion must satisfy, whichever there are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune import methods
from onnxprune.elimination import Problem
from onnxprune.errors import UsageError
from onnxprune.methods import METHODS, Evidence, by_score, find
from onnxprune.reconstruct import MODES

SHAPES = st.tuples(st.integers(0, 10**6), st.integers(2, 12), st.sampled_from([1, 3]), st.sampled_from([1, 2, 3]))
METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
DETERMINISTIC = pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m.name != "random"], ids=lambda m: m.name
)


def evidence(seed, n, b=1, readers=1, cells=1, dead=()):
    """Random, correlated channels; `dead` ones have neither weights nor activations."""
    rng = np.random.default_rng(seed)
    problems = []
    for _ in range(readers):
        size = n * b + int(rng.integers(0, 3))
        rows = rng.permutation(size)[: n * b].reshape(n, b)
        x = rng.normal(size=(4 * size, size)) @ rng.normal(size=(size, size)) * rng.uniform(0.2, 3, size)
        x[:, rows[list(dead)].ravel()] = 0
        problems.append(Problem(x.T @ x / len(x), rng.normal(size=(size, 5)), rows, float(rng.uniform(0.5, 2))))
    weights = rng.normal(size=(n, 7))
    weights[list(dead)] = 0
    return Evidence(problems, weights, np.arange(n) % cells, 1e-3, np.random.default_rng(seed))


def again(one, seed):
    return replace(one, rng=np.random.default_rng(seed))


@METHOD
@settings(max_examples=25)
@given(SHAPES)
def test_the_order_holds_all_channels_but_one(method, shape):
    seed, n, b, readers = shape
    order = method.order(evidence(seed, n, b, readers))
    assert order.dtype.kind == "i"
    assert len(order) == len(set(order.tolist())) == n - 1
    assert set(order.tolist()) <= set(range(n))


@METHOD
@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([2, 3]), st.sampled_from([1, 2]))
def test_every_round_takes_one_channel_of_each_cell(method, seed, per_cell, cells, b):
    one = evidence(seed, per_cell * cells, b, cells=cells)
    order = method.order(one)
    assert len(order) == (per_cell - 1) * cells
    for rounds in one.cells[order].reshape(-1, cells):
        assert sorted(rounds.tolist()) == list(range(cells))


@METHOD
@settings(max_examples=25)
@given(SHAPES)
def test_a_seed_makes_it_reproducible_and_nothing_is_written_to(method, shape):
    seed, n, b, readers = shape
    one = evidence(seed, n, b, readers)
    arrays = [one.weights, one.cells, *(a for p in one.problems for a in (p.gram, p.weight, p.rows))]
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.setflags(write=False)
    np.testing.assert_array_equal(method.order(again(one, 3)), method.order(again(one, 3)))
    for a, b_ in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b_)


@DETERMINISTIC
@settings(max_examples=25)
@given(SHAPES)
def test_the_numbering_of_channels_does_not_matter(method, shape):
    seed, n, b, readers = shape
    one = evidence(seed, n, b, readers)
    to = np.random.default_rng(seed + 1).permutation(n)
    other = Evidence(
        [replace(p, rows=p.rows[to]) for p in one.problems], one.weights[to], one.cells[to], one.damping, one.rng
    )
    np.testing.assert_array_equal(to[method.order(other)], method.order(one))


@DETERMINISTIC
@settings(max_examples=25)
@given(SHAPES, st.integers(1, 3))
def test_dead_channels_go_first(method, shape, count):
    seed, n, b, readers = shape
    dead = np.random.default_rng(seed).permutation(n)[: min(count, n - 1)]
    order = method.order(evidence(seed, n, b, readers, dead=dead))
    assert set(order[: len(dead)].tolist()) == set(dead.tolist())


@METHOD
def test_channels_that_are_all_dead_or_all_alike_have_an_order(method):
    for one in (evidence(1, 6, dead=range(6)), replace(evidence(1, 6), weights=np.ones((6, 7)))):
        assert len(set(method.order(one).tolist())) == 5


@METHOD
def test_a_method_says_what_it_is(method):
    assert find(method.name) is method
    assert method.reconstruct in MODES
    assert method.paper
    assert method.summary[0].islower()
    assert not method.summary.endswith(".")
    assert method.order.__doc__


def test_random_orders_follow_the_seed():
    one = evidence(1, 12)
    first, other = (find("random").order(again(one, seed)).tolist() for seed in (1, 2))
    assert first != other


def test_magnitudes_are_sums_and_norms():
    weights = np.array([[3.0, 0, 0], [-1, 1.5, 1], [0.1, 0, -0.1]])  # l1: 3, 3.5, 0.2; l2: 3, 2.06, 0.14
    one = replace(evidence(1, 3), weights=weights)
    assert find("l1").order(one).tolist() == [2, 0]
    assert find("l2").order(one).tolist() == [2, 1]


def test_reap_removes_what_the_others_can_stand_in_for():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 4))
    x = np.column_stack([x, x[:, 0] + x[:, 1]])
    one = Evidence([Problem(x.T @ x, np.ones((5, 2)), np.arange(5)[:, None])], np.ones((5, 1)), np.zeros(5, int), 1e-9,
                   rng)  # fmt: skip
    assert find("reap").order(one)[0] in (0, 1, 4)


@pytest.mark.parametrize(
    ("cells", "expected"), [([0, 0, 0, 0], [2, 0, 3]), ([0, 1, 0, 1], [2, 3]), ([0, 0, 1, 1], [2, 0])]
)
def test_by_score(cells, expected):
    assert by_score(np.array([1.0, 5.0, 0.5, 2.0]), np.array(cells)).tolist() == expected


def test_ties_go_to_the_lowest_number():
    assert by_score(np.zeros(4), np.zeros(4, int)).tolist() == [0, 1, 2]


def test_an_unknown_method_names_those_there_are():
    with pytest.raises(UsageError, match=r"no method 'none'; choose one of: .*reap"):
        find("none")


def test_a_file_is_a_method(monkeypatch):
    monkeypatch.setattr(methods, "METHODS", {})

    @methods.method("name", reconstruct="none", summary="does nothing", paper="-")
    def order(evidence):
        return np.arange(len(evidence.cells) - 1)

    assert methods.find("name").order is order
