"""Arrays in files."""

import resource
from pathlib import Path

import numpy as np
import pytest

import models
from onnxprune import spill
from onnxprune.spill import Spill
from onnxprune.walk import Walk


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = Spill()
    yield found
    found.close()
    assert not list(tmp_path.iterdir())


def arrays(count, seed=0):
    rng = np.random.default_rng(seed)
    kinds = (np.float32, np.float64, np.int64, np.uint8, np.bool_)
    return [(100 * rng.random((3, i % 7 + 1))).astype(kinds[i % len(kinds)])[:, ::-1] for i in range(count)]


@pytest.mark.parametrize("size", [1, 500, spill.SIZE])
def test_arrays_are_what_they_were(kept, tmp_path, monkeypatch, size):
    monkeypatch.setattr(spill, "SIZE", size)
    given = [*arrays(50), np.array(3.5)]
    for expected, found in zip(given, [kept.keep(one) for one in given], strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert kept.has(found)
        assert found.ctypes.data % found.itemsize == 0
    assert (len(list(tmp_path.glob("*/*"))) == 1) == (size == 2**27)


def test_a_file_goes_with_the_last_of_its_arrays(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(spill, "SIZE", 2 * spill.ALIGNED)
    first, second, third = (kept.keep(np.full(8, i)) for i in range(3))
    assert len(list(tmp_path.glob("*/*"))) == 2
    kept.forget(second)
    assert len(list(tmp_path.glob("*/*"))) == 2
    kept.forget(first)
    assert len(list(tmp_path.glob("*/*"))) == 1
    np.testing.assert_array_equal(third, np.full(8, 2))
    kept.forget(third)
    np.testing.assert_array_equal(kept.keep(np.arange(4)), np.arange(4))


def test_others_arrays_are_not_its_own(kept, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, np.arange(3))
    assert not kept.has(np.load(path, mmap_mode="r"))


def test_few_files_are_open_however_many_batches_there_are():
    model = models.mlp()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/dev/fd").iterdir())) + 20, hard))
    try:
        with Walk(models.coupled(model), models.feeds(model, 100, batch=1), models.RUNTIME, 0) as walk:
            walk.advance()
            assert len(walk.original) == 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
