"""Plans on disk."""

from __future__ import annotations

import numpy as np
import pytest
from ml_dtypes import bfloat16

from onnxprune.errors import DataError
from onnxprune.plan import Plan, Weights


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, bfloat16])
def test_a_plan_survives_the_disk(tmp_path, dtype):
    weights = Weights(np.arange(12.0).reshape(1, 4, 3).astype(dtype), np.arange(3.0))
    plan = Plan({"conv/1": np.asarray([0, 2]), "ö": np.asarray([1])}, {"layer": weights})
    plan.save(tmp_path / "p.npz")
    again = Plan.load(tmp_path / "p.npz")
    assert list(again.keep) == list(plan.keep)
    assert all(np.array_equal(again.keep[n], plan.keep[n]) for n in plan.keep)
    np.testing.assert_array_equal(again.weights["layer"].matrix.astype(dtype), weights.matrix)
    np.testing.assert_array_equal(again.weights["layer"].offset, weights.offset)


def test_an_empty_plan_survives_the_disk(tmp_path):
    Plan().save(tmp_path / "p.npz")
    assert Plan.load(tmp_path / "p.npz") == Plan()


@pytest.mark.parametrize("content", [b"", b"no plan", b"PK\x03\x04"])
def test_what_is_no_plan(tmp_path, content):
    (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"p\.npz"):
        Plan.load(tmp_path / "p.npz")


def test_a_missing_plan(tmp_path):
    with pytest.raises(DataError, match="missing"):
        Plan.load(tmp_path / "missing.npz")


def test_other_arrays_are_no_plan(tmp_path):
    np.savez(tmp_path / "p.npz", x=np.zeros(3))
    with pytest.raises(DataError, match="plan"):
        Plan.load(tmp_path / "p.npz")
