"""Widths from curves and a budget, against trying all of them."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.allocation import ALLOCATORS, Bilinear, Curve, Stepped, dp, pro, uniform
from onnxprune.errors import BudgetError

seeds = st.integers(0, 10**6)


def chain(inputs, widths, outputs):
    """The weights of a perceptron with one group per hidden layer."""
    groups, layers = len(widths), len(widths) + 1
    ins, outs = np.eye(layers, groups, -1), np.eye(layers, groups)
    in_fixed, out_fixed = np.zeros(layers), np.zeros(layers)
    in_fixed[0], out_fixed[-1] = inputs, outputs
    return Bilinear(np.ones(layers), ins, in_fixed, outs, out_fixed)


def curve(rng, width, levels, monotone=True):
    errors = rng.exponential(size=levels) ** 3 * rng.choice([0.1, 1.0, 10.0])
    errors[-1] = 0
    return Curve(
        np.unique(np.linspace(width / levels, width, levels).astype(int)),
        np.cumsum(errors[::-1])[::-1] if monotone else errors,
    )


def instance(seed, levels=8, monotone=True):
    rng = np.random.default_rng(seed)
    widths = rng.integers(levels, 300, rng.integers(1, 4))
    curves = [curve(rng, width, rng.integers(1, levels) + 1, monotone) for width in widths]
    return curves, chain(rng.integers(3, 800), widths, rng.integers(2, 100))


def original(curves):
    return np.array([curve.levels[-1] for curve in curves])


def smallest(curves):
    return np.array([curve.levels[0] for curve in curves])


def error(curves, widths):
    return sum(curve.errors[curve.levels == width].item() for curve, width in zip(curves, widths, strict=True))


def budget_of(curves, cost, part):
    low, high = cost.total(smallest(curves)), cost.total(original(curves))
    return low + part * (high - low)


def affordable(curves, cost, budget):
    """Every choice of widths within the budget."""
    return [widths for widths in product(*(curve.levels for curve in curves)) if cost.total(np.array(widths)) <= budget]


@settings(max_examples=40, deadline=None)
@given(seed=seeds, part=st.floats(0, 1), monotone=st.booleans())
def test_dp_is_as_good_as_trying_everything(seed, part, monotone):
    curves, cost = instance(seed, monotone=monotone)
    budget = budget_of(curves, cost, part)
    best = min(error(curves, widths) for widths in affordable(curves, cost, budget))
    assert error(curves, dp(curves, cost, budget)) <= 1.1 * best + 1e-9


def test_dp_usually_finds_the_optimum():
    hits = 0
    for seed in range(60):
        curves, cost = instance(seed)
        budget = budget_of(curves, cost, 0.4)
        best = min(error(curves, widths) for widths in affordable(curves, cost, budget))
        hits += error(curves, dp(curves, cost, budget)) <= best * (1 + 1e-9)
    assert hits >= 57


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9])
def test_dp_on_a_perceptron_whose_widths_multiply(fraction):
    cost = chain(784, [300, 100], 10)
    kept = np.linspace(0.05, 1, 20)
    curves = [
        Curve((300 * kept).astype(int), (1 - kept) ** 2 / kept),
        Curve((100 * kept).astype(int), 3 * (1 - kept) ** 4),
    ]
    budget = fraction * cost.total(original(curves))
    best = min(error(curves, widths) for widths in affordable(curves, cost, budget))
    assert error(curves, dp(curves, cost, budget)) == pytest.approx(best)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, part=st.floats(0, 1), name=st.sampled_from(sorted(ALLOCATORS)), monotone=st.booleans())
def test_budget_is_never_exceeded_and_widths_are_levels(seed, part, name, monotone):
    curves, cost = instance(seed, monotone=monotone)
    budget = budget_of(curves, cost, part)
    widths = ALLOCATORS[name](curves, cost, budget)
    assert cost.total(widths) <= budget
    assert all(width in curve.levels for curve, width in zip(curves, widths, strict=True))


@settings(max_examples=40, deadline=None)
@given(seed=seeds, part=st.floats(0, 1))
def test_dp_leaves_no_raise_that_fits(seed, part):
    curves, cost = instance(seed)
    budget = budget_of(curves, cost, part)
    widths = dp(curves, cost, budget)
    for group, one in enumerate(curves):
        for level in one.levels[one.levels > widths[group]]:
            raised = widths.copy()
            raised[group] = level
            assert cost.total(raised) > budget or error(curves, raised) >= error(curves, widths)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, part=st.floats(0, 1))
def test_dp_is_never_worse_than_uniform(seed, part):
    curves, cost = instance(seed, monotone=seed % 2 == 0)
    budget = budget_of(curves, cost, part)
    assert error(curves, dp(curves, cost, budget)) <= error(curves, uniform(curves, cost, budget))


@settings(max_examples=40, deadline=None)
@given(seed=seeds, part=st.floats(0, 1))
def test_uniform_takes_the_largest_ratio(seed, part):
    curves, cost = instance(seed)
    budget = budget_of(curves, cost, part)
    fitting = []
    for ratio in {level / one.levels[-1] for one in curves for level in one.levels}:
        widths = [max(one.levels[0], *one.levels[one.levels / one.levels[-1] <= ratio], 0) for one in curves]
        if cost.total(np.array(widths)) <= budget:
            fitting.append(widths)
    assert uniform(curves, cost, budget).tolist() == max(fitting)


@settings(max_examples=20, deadline=None)
@given(seed=seeds, parts=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_more_budget_is_never_worse_uniformly(seed, parts):
    curves, cost = instance(seed)
    less, more = (uniform(curves, cost, budget_of(curves, cost, part)) for part in sorted(parts))
    assert (less <= more).all()


def test_more_budget_is_never_worse():
    curves, cost = instance(1)
    errors = [error(curves, dp(curves, cost, budget_of(curves, cost, part))) for part in np.linspace(0, 1, 21)]
    assert (np.diff(errors) <= 1e-9).all()
    assert errors[-1] == 0


@pytest.mark.parametrize("name", ALLOCATORS)
def test_all_of_the_budget_and_least_of_it(name):
    curves, cost = instance(2)
    for widths in (original(curves), smallest(curves)):
        np.testing.assert_array_equal(ALLOCATORS[name](curves, cost, cost.total(widths)), widths)


@pytest.mark.parametrize("name", ALLOCATORS)
def test_unreachable_budget_says_what_is_reachable(name):
    curves = [
        Curve(np.array([10, 100]), np.array([1.0, 0.0])),
        Curve(np.array([5, 50]), np.array([1.0, 0.0])),
    ]
    cost = chain(20, [100, 50], 10)
    with pytest.raises(BudgetError, match=r"target is 3\.0% .* 4\.0% stay") as caught:
        ALLOCATORS[name](curves, cost, 0.03 * cost.total(original(curves)))
    assert caught.value.reachable == pytest.approx(300 / 7500)


def test_channels_that_cost_no_error_go_even_within_the_budget():
    curves = [
        Curve(np.array([1, 2, 3]), np.array([1.0, -0.5, 0.0])),
        Curve(np.array([1, 3]), np.array([1.0, 0.0])),
    ]
    assert dp(curves, chain(1, [3, 3], 1), 1e9).tolist() == [2, 3]


def test_large_instances_use_the_budget_up():
    rng = np.random.default_rng(3)
    widths = rng.integers(64, 512, 40)
    curves, cost = [curve(rng, width, 32) for width in widths], chain(3, widths, 1000)
    budget = cost.total(widths) // 2
    assert 0.99 * budget <= cost.total(dp(curves, cost, budget)) <= budget


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_cost_is_the_quadratic_form_of_its_derivatives(seed):
    rng = np.random.default_rng(seed)
    cost = Bilinear(rng.random(7), rng.random((7, 3)), rng.random(7), rng.random((7, 3)), rng.random(7))
    widths, change = rng.integers(1, 9, 3), rng.normal(size=3)
    expected = cost.total(widths) + cost.slope(widths) @ change + change @ cost.curvature @ change / 2
    assert cost.total(widths + change) == pytest.approx(expected)


def test_pro_takes_the_step_that_costs_least_per_cost_saved():
    """Against a plain loop over single groups; every channel is a level."""
    rng = np.random.default_rng(3)
    curves = [curve(rng, width, width) for width in (32, 48, 16)]
    cost = chain(20, [32, 48, 16], 10)
    for part in (0.8, 0.5, 0.2, 0.0):
        budget = budget_of(curves, cost, part)
        widths = np.array([32, 48, 16])
        while cost.total(widths) > budget:
            best = None
            for group, c in enumerate(curves):
                following = widths.copy()
                following[group] = max(widths[group] - (2, 3, 1)[group], 1)
                saved = cost.total(widths) - cost.total(following)
                if saved > 0:
                    rate = (c.errors[following[group] - 1] - c.errors[widths[group] - 1]) / saved
                    best = min(best or (rate, group, following), (rate, group, following), key=lambda b: b[:2])
            widths = best[2]
        np.testing.assert_array_equal(pro(curves, cost, budget), widths)


def stepped(rng, curves, step):
    """A cost of independent groups that counts widths in steps."""
    known = [curve.levels for curve in curves]
    counted = []
    for levels in known:
        rounded = np.minimum(-(-levels // step) * step, levels[-1]).astype(float)
        counted.append(rounded)
    slopes = rng.uniform(0.5, 2.0, len(curves))
    return Stepped(
        float(slopes @ [levels[-1] for levels in known]) + 1.0, slopes, np.zeros((len(curves),) * 2), known, counted
    )


@settings(max_examples=40, deadline=None)
@given(seed=seeds, part=st.floats(0, 1), name=st.sampled_from(sorted(ALLOCATORS)), step=st.integers(2, 60))
def test_widths_within_a_step_are_the_widest_that_cost_the_same(seed, part, name, step):
    curves, _ = instance(seed)
    cost = stepped(np.random.default_rng(seed), curves, step)
    widths = ALLOCATORS[name](curves, cost, budget_of(curves, cost, part))
    assert cost.total(widths) <= budget_of(curves, cost, part)
    for place, curve in enumerate(curves):
        for level in curve.levels[curve.levels > widths[place]]:
            raised = widths.copy()
            raised[place] = level
            assert cost.total(raised) > cost.total(widths)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, part=st.floats(0, 1), step=st.integers(2, 60))
def test_dp_in_steps_is_as_good_as_trying_everything(seed, part, step):
    curves, _ = instance(seed)
    cost = stepped(np.random.default_rng(seed), curves, step)
    budget = budget_of(curves, cost, part)
    best = min(error(curves, widths) for widths in affordable(curves, cost, budget))
    assert error(curves, dp(curves, cost, budget)) <= 1.1 * best + 1e-9


def test_stepped_cost_is_what_bilinear_is_where_sizes_are_widths():
    cost = chain(30, [20, 12, 8], 5)
    full = np.array([20, 12, 8])
    every = [np.arange(1, n + 1) for n in full]
    same = Stepped(cost.total(full), cost.slope(full), cost.curvature, every, [n.astype(float) for n in every])
    for widths in np.random.default_rng(0).integers(1, full + 1, (20, 3)):
        assert same.total(widths) == pytest.approx(cost.total(widths))
        assert same.slope(widths) == pytest.approx(cost.slope(widths))
