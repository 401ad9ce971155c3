"""Ids in themselves: reshaping, ties, freezes, equal counts."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.ids import Ledger, narrow, reshape, widen


@st.composite
def shapes(draw):
    """Two shapes of equal size, and ids on the first that vary along some axes."""
    factors = [draw(st.sampled_from([1, 2, 3, 4])) for _ in range(draw(st.integers(1, 5)))]

    def merged():
        shape = [1]
        for factor in factors:
            if draw(st.booleans()):
                shape.append(factor)
            else:
                shape[-1] *= factor
        return shape

    old, new = merged(), merged()
    ids = np.arange(1, prod(old) + 1).reshape(old)
    for axis in range(len(old)):
        if draw(st.booleans()):
            ids = ids.take([0], axis)
    return ids, old, new


@given(shapes())
def test_reshape_is_that_of_the_full_array(case):
    ids, old, new = case
    found = reshape(ids, old, new)
    expected = np.broadcast_to(ids, old).reshape(new)
    np.testing.assert_array_equal(np.broadcast_to(found, new), expected)
    assert found.shape == narrow(expected).shape


def test_widen_takes_the_real_lengths():
    ids = np.asarray([[1], [2]])
    assert widen(ids, [2, 3]).tolist() == [[1, 1, 1], [2, 2, 2]]
    assert widen(ids, [2, 3], [0]).shape == (2, 1)


def test_ties_make_components():
    ledger = Ledger()
    a, b, c = (ledger.fresh(name, 3) for name in "abc")
    assert ledger.fresh("a", 3) is a
    ledger.tie(a, b, "")
    ledger.tie(b[:1], c, "")
    components = ledger.solve()
    assert components.of(a).tolist() == components.of(b).tolist()
    assert set(components.of(c)) == {components.of(a)[0]}
    assert components.of(np.zeros(1, int)).tolist() == [-1]


def test_a_tie_with_no_channel_freezes():
    ledger = Ledger()
    a, b = ledger.fresh("a", 3), ledger.fresh("b", 3)
    ledger.tie(a, np.asarray([0, b[1], b[2]]), "for this reason")
    components = ledger.solve()
    assert list(components.frozen.values()) == ["for this reason"]
    assert components.free(a).tolist() == [-1, *components.of(b[1:])]


def test_the_first_reason_counts():
    ledger = Ledger()
    a = ledger.fresh("a", 2)
    ledger.freeze(a, "first")
    ledger.freeze(a, "second")
    assert set(ledger.solve().frozen.values()) == {"first"}


def test_a_frozen_size_freezes_what_it_counts():
    ledger = Ledger()
    a, b = ledger.fresh("a", 2), ledger.fresh("b", 2)
    m, n = ledger.fresh("m", 1), ledger.fresh("n", 1)
    ledger.measured(int(m[0]), np.concatenate([a, n]), 0)  # chained on purpose
    ledger.measured(int(n[0]), b, 0)
    assert ledger.counts(int(n[0]), b.reshape(1, 2, 1))
    assert not ledger.counts(int(n[0]), a)
    assert not ledger.counts(0, b)
    ledger.freeze(m, "calculates")
    components = ledger.solve()
    assert (components.free(np.concatenate([a, b])) == -1).all()
