"""What every criterion must satisfy, whichever there are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune import elimination, methods
from onnxprune.elimination import Problem
from onnxprune.errors import InternalError, UsageError
from onnxprune.methods import METHODS, NEEDS, Evidence, by_score, find
from onnxprune.reconstruct import MODES
from onnxprune.takeover import NOBODY

SHAPES = st.tuples(st.integers(0, 10**6), st.integers(2, 12), st.sampled_from([1, 3]), st.sampled_from([1, 2, 3]))
METHOD = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
DETERMINISTIC = pytest.mark.parametrize(
    "method", [m for m in METHODS.values() if m.name != "random"], ids=lambda m: m.name
)


def evidence(seed, n, b=1, readers=1, cells=1, dead=()):
    """Random, correlated channels; `dead` ones have neither weights nor activations."""
    rng = np.random.default_rng(seed)
    problems, means = [], []
    for _ in range(readers):
        size = n * b + int(rng.integers(0, 3))
        rows = rng.permutation(size)[: n * b].reshape(n, b)
        x = rng.normal(size=(4 * size, size)) @ rng.normal(size=(size, size)) * rng.uniform(0.2, 3, size)
        x[:, rows[list(dead)].ravel()] = 0
        problems.append(Problem(np.cov(x.T, bias=True), rng.normal(size=(size, 5)), rows, float(rng.uniform(0.5, 2))))
        means.append(x.mean(0))
    weights = rng.normal(size=(n, 7))
    weights[list(dead)] = 0
    zeros, faint = rng.uniform(0, 0.9, (2, n))
    zeros[list(dead)] = faint[list(dead)] = 1
    return Evidence(
        problems, means, weights, np.arange(n) % cells, 1e-3, np.random.default_rng(seed), zeros=zeros, faint=faint
    )


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
    arrays = [one.weights, one.cells, one.zeros, one.faint, *one.means]
    arrays += [a for p in one.problems for a in (p.gram, p.weight, p.rows)]
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.setflags(write=False)
    np.testing.assert_array_equal(method.order(again(one, 3)), method.order(again(one, 3)))
    kept = np.arange(n)[:: 1 + seed % 3]
    first, second = (method.takeover(one, kept) for _ in range(2))
    np.testing.assert_array_equal(first.partner, second.partner)
    np.testing.assert_array_equal(first.factors, second.factors)
    for a, b_ in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b_)


@DETERMINISTIC
@settings(max_examples=25)
@given(SHAPES)
def test_the_numbering_of_channels_does_not_matter(method, shape):
    seed, n, b, readers = shape
    one = evidence(seed, n, b, readers)
    to = np.random.default_rng(seed + 1).permutation(n)
    other = renumbered(one, to)
    np.testing.assert_array_equal(to[method.order(other)], method.order(one))


def renumbered(one, to):
    """The same channels, of which number i is what was called to[i]."""
    problems = [replace(p, rows=p.rows[to]) for p in one.problems]
    alone = {name: getattr(one, name)[to] for name in ("weights", "cells", "zeros", "faint")}
    return replace(one, problems=problems, **alone)


@METHOD
@settings(max_examples=25)
@given(SHAPES, st.booleans())
def test_survivors_take_over_whatever_the_numbering(method, shape, spatial):
    """Partners are survivors, survivors have none, factors are finite, and a renumbering only renumbers."""
    seed, n, b, readers = shape
    one = replace(evidence(seed, n, b, readers), spatial=spatial)
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.permutation(n)[: int(rng.integers(1, n + 1))])
    taken = method.takeover(one, kept)
    gone = np.setdiff1d(np.arange(n), kept)
    assert set(taken.partner[gone].tolist()) <= {NOBODY, *kept.tolist()}
    assert (taken.partner[kept] == NOBODY).all()
    assert taken.factors.shape in ((1, n), (readers, n))
    assert np.isfinite(taken.factors).all()
    assert not taken.factors[:, taken.partner == NOBODY].any()
    to = rng.permutation(n)
    other = method.takeover(renumbered(one, to), np.sort(np.argsort(to)[kept]))
    np.testing.assert_allclose(other.factors, taken.factors[:, to], rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(np.where(other.partner < 0, NOBODY, to[other.partner]), taken.partner[to])


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
    assert method.needs in NEEDS


@pytest.mark.parametrize("name", [m.name for m in METHODS.values() if m.needs == "weights"])
def test_who_needs_only_weights_gets_along_without_data(name):
    one = evidence(5, 8, readers=2)
    blind = replace(one, problems=(), means=(), zeros=None, faint=None)
    np.testing.assert_array_equal(find(name).order(again(blind, 1)), find(name).order(again(one, 1)))
    if find(name).reconstruct == "unify":
        taken = find(name).takeover(blind, np.array([0, 3, 4]))
        np.testing.assert_array_equal(taken.partner, find(name).takeover(one, np.array([0, 3, 4])).partner)


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
    problem = Problem(np.cov(x.T), np.ones((5, 2)), np.arange(5)[:, None])
    one = Evidence([problem], [x.mean(0)], np.ones((5, 1)), np.zeros(5, int), 1e-9, rng)
    for name in ("reap", "obspa"):
        assert find(name).order(one)[0] in (0, 1, 4)


def test_reap_ranks_the_channels_of_wide_readers_by_smaller_problems(monkeypatch):
    one = evidence(1, 9, b=4, readers=2)
    exact = find("reap").order(evidence(1, 9, b=4, readers=2))
    monkeypatch.setattr(elimination, "WIDE", 18)
    few = [elimination.Compression.of(p, 18).problem(p) for p in one.problems]
    smaller = elimination.eliminate(few, damping=one.damping)
    np.testing.assert_array_equal(find("reap").order(one), smaller.order)
    assert smaller.order.tolist() != exact.tolist()


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


# ---- Criteria against references


def rows_seen(seed, n=7, b=2, readers=2):
    """What readers see of n channels, [S, n, b] each, and the evidence of it."""
    rng = np.random.default_rng(seed)
    seen, problems, means = [], [], []
    for _ in range(readers):
        x = (
            np.maximum(rng.normal(size=(60, n, b)) @ np.eye(b) + rng.normal(size=(60, 1, b)), 0)
            * rng.uniform(1, 3, n)[:, None]
        )
        flat = x.reshape(60, -1)
        seen.append(x)
        weight = rng.normal(size=(n * b, 4))
        problems.append(Problem(np.cov(flat.T, bias=True), weight, np.arange(n * b).reshape(n, b), rng.uniform(0.5, 2)))
        means.append(flat.mean(0))
    return seen, Evidence(problems, means, rng.normal(size=(n, 3)), np.zeros(n, int), 1e-3, rng)


def test_energy_is_the_share_of_the_mean_square():
    seen, one = rows_seen(1)
    shares = sum((e := np.square(x).sum((0, 2))) / e.sum() for x in seen)
    assert find("energy").order(one).tolist() == np.argsort(shares)[:-1].tolist()


def test_wanda_adds_up_weights_times_sizes():
    seen, one = rows_seen(2)
    total = np.zeros(7)
    for x, problem in zip(seen, one.problems, strict=True):
        scores = np.zeros(7)
        for c in range(7):
            for r in range(2):
                for o in range(4):
                    scores[c] += abs(problem.weight[2 * c + r, o]) * np.sqrt(np.mean(x[:, c, r] ** 2))
        total += scores / scores.sum()
    assert find("wanda").order(one).tolist() == np.argsort(total)[:-1].tolist()


def test_apoz_removes_what_is_off_most_often():
    one = replace(evidence(1, 4), zeros=np.array([0.2, 0.9, 0.0, 0.5]), faint=np.array([0.9, 0.8, 0.7, 0.6]))
    assert find("apoz").order(one).tolist() == [1, 3, 0]


def test_apoz_counts_faint_values_where_nothing_is_ever_zero():
    one = replace(evidence(1, 4), zeros=np.zeros(4), faint=np.array([0.1, 0.3, 0.7, 0.6]))
    assert find("apoz").order(one).tolist() == [2, 3, 1]


def test_apoz_says_so_when_nobody_measured():
    with pytest.raises(InternalError, match="activity"):
        find("apoz").order(replace(evidence(1, 4), zeros=None))


def test_gm_removes_the_smallest_sum_of_distances():
    weights = np.random.default_rng(3).normal(size=(6, 4)) + 1
    sums = [sum(np.linalg.norm(a - b) for b in weights) for a in weights]
    assert find("gm").order(replace(evidence(1, 6), weights=weights)).tolist() == np.argsort(sums)[:-1].tolist()
    weights[2] = 0  # far from the others, which are about 1
    assert find("gm").order(replace(evidence(1, 6), weights=weights))[0] == 2


@pytest.mark.parametrize(("name", "affine"), [("nu", True), ("nu-linear", False)])
@pytest.mark.parametrize("seed", range(5))
def test_nu_unifies_the_pair_after_which_the_readers_answer_most_alike(name, affine, seed):
    """Every pair is tried in every step, with the outputs that the readers then have."""
    seen, one = rows_seen(seed)
    if affine:
        seen = [x - x.mean(0) for x in seen]
    original = [p.weight.reshape(7, 2, 4) for p in one.problems]

    def factor(x, i, j):
        return (x[:, i] * x[:, j]).sum() / np.square(x[:, j]).sum()

    def after(weights, i, j):
        found = []
        for x, w in zip(seen, weights, strict=True):
            w = w.copy()
            if j != i:
                w[j] += factor(x, i, j) * w[i]
            w[i] = 0
            found.append(w)
        return found

    def error(weights):
        differences = (np.einsum("snb,nbo->so", x, w - v) for x, w, v in zip(seen, weights, original, strict=True))
        return sum(p.importance * np.square(d).sum() for p, d in zip(one.problems, differences, strict=True))

    weights, alive, order = original, list(range(7)), []
    while len(alive) > 1:
        tried = [(error(after(weights, i, j)), i, j) for i in alive for j in alive]
        _, i, j = min(tried)
        weights = after(weights, i, j)
        alive.remove(i)
        order.append(i)
        taken = find(name).takeover(one, np.array(alive))
        assert taken.affine == affine
        for q, w in enumerate(weights):
            expected = original[q].copy()
            for c in set(range(7)) - set(alive):
                expected[c] = 0
                if taken.partner[c] != NOBODY:
                    expected[taken.partner[c]] += taken.factors[q, c] * original[q][c]
            np.testing.assert_allclose(expected, w, atol=1e-9)
    assert find(name).order(one).tolist() == order


def test_nobody_is_emulated_by_a_dead_channel():
    one = evidence(4, 5, dead=(2, 3))
    taken = find("nu").takeover(one, np.array([2, 3]))
    assert not taken.factors.any()


@pytest.mark.parametrize("spatial", [False, True])
def test_merge_goes_to_the_largest_cosine_if_it_is_large_enough(spatial):
    weights = np.random.default_rng(6).normal(size=(12, 3))
    one = replace(evidence(1, 12), weights=weights, spatial=spatial)
    kept, least = np.array([0, 5]), 0.1 if spatial else 0.45
    taken = find("merge").takeover(one, kept)
    merged = 0
    for i in set(range(12)) - set(kept.tolist()):
        cosines = [weights[i] @ weights[j] / np.linalg.norm(weights[i]) / np.linalg.norm(weights[j]) for j in kept]
        j = kept[int(np.argmax(cosines))]
        if max(cosines) < least:
            assert taken.partner[i] == NOBODY
        else:
            merged += 1
            assert taken.partner[i] == j
            assert taken.factors[0, i] == pytest.approx(np.linalg.norm(weights[i]) / np.linalg.norm(weights[j]))
    assert 0 < merged < 10
    assert not taken.affine


def test_merge_stays_within_cells_and_needs_a_path_that_passes_scales():
    weights = np.abs(np.random.default_rng(6).normal(size=(6, 3)))
    one = replace(evidence(1, 6, cells=2), weights=weights)
    taken = find("merge").takeover(one, np.array([0, 1]))
    assert taken.partner.tolist() == [NOBODY, NOBODY, 0, 1, 0, 1]
    assert (find("merge").takeover(replace(one, scales=False), np.array([0, 1])).partner == NOBODY).all()


def test_merge_selects_by_the_norm_in_its_name():
    weights = np.array([[3.0, 0, 0], [-1, 1.5, 1], [0.1, 0, -0.1]])
    one = replace(evidence(1, 3), weights=weights)
    for name, alike in (("merge", "l1"), ("merge-l2", "l2"), ("merge-gm", "gm")):
        assert find(name).order(one).tolist() == find(alike).order(one).tolist()
