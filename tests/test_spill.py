"""Arrays in files."""

import gc
import resource
from pathlib import Path

import numpy as np
import pytest

import models
from onnxprune import files, spill
from onnxprune.errors import OutputError
from onnxprune.spill import Spill
from onnxprune.walk import Walk


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    gc.collect()
    assert not list(tmp_path.iterdir())


def arrays(count, seed=0):
    rng = np.random.default_rng(seed)
    kinds = (np.float32, np.float64, np.int64, np.uint8, np.bool_)
    return [(100 * rng.random((3, i % 7 + 1))).astype(kinds[i % len(kinds)])[:, ::-1] for i in range(count)]


@pytest.mark.parametrize("size", [1, 500, spill.SIZE])
def test_arrays_are_what_they_were(folder, monkeypatch, size):
    monkeypatch.setattr(spill, "SIZE", size)
    kept, given = Spill(), [*arrays(50), np.array(3.5)]
    several = [kept.keep(one) for one in given]
    for expected, found in zip(given, several, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert found.ctypes.data % found.itemsize == 0
    assert (len(list(folder.iterdir())) == 1) == (size == 2**27)


def test_a_file_goes_with_the_last_of_its_arrays(folder, monkeypatch):
    monkeypatch.setattr(spill, "SIZE", 2 * spill.ALIGNED)
    kept = Spill()
    first, second, third = (kept.keep(np.full(8, i)) for i in range(3))
    assert len(list(folder.iterdir())) == 2
    del second
    assert len(list(folder.iterdir())) == 2
    part = first[2:5]
    del first
    np.testing.assert_array_equal(part, np.zeros(3))
    assert len(list(folder.iterdir())) == 2
    del part
    assert len(list(folder.iterdir())) == 1
    np.testing.assert_array_equal(third, np.full(8, 2))
    del third
    np.testing.assert_array_equal(kept.keep(np.arange(4)), np.arange(4))


def test_where_arrays_lie_is_known_of_parts_of_them_too():
    kept = Spill()
    for one in (kept.keep(np.arange(60.0)), kept.keep(np.arange(24, dtype=np.float32))):
        for view in (one, one[5:9], one.reshape(6, -1)[2:4], np.asarray(one)[3:], one[::2], one.reshape(4, -1).T):
            found = files.place(view)
            assert (found is not None) == view.flags.c_contiguous
            if found is not None:
                file, offset = found
                np.testing.assert_array_equal(np.fromfile(file, view.dtype, view.size, offset=offset), view.ravel())
    assert files.place(np.arange(3)) is None


@pytest.mark.parametrize("room", [0, 10**6, 1000])
def test_a_full_disk_is_said(folder, monkeypatch, room):
    """Wherever it is noticed; what is kept stays, and no file is left."""
    monkeypatch.setattr(spill, "SIZE", 10**6)
    kept, soft, hard = Spill(), *resource.getrlimit(resource.RLIMIT_FSIZE)
    first = kept.keep(np.arange(3)) if room else None
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        for size in (200, 20_000, 200_000) if room == 1000 else (200_000,):
            with pytest.raises(OutputError, match=rf"{folder} \(File too large\); set TMPDIR"):
                kept.keep(np.ones(size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    np.testing.assert_array_equal(kept.keep(np.arange(9)), np.arange(9))
    if first is not None:
        np.testing.assert_array_equal(first, np.arange(3))


def test_pages_that_are_given_back_are_read_again(folder):
    kept = Spill()
    values = np.random.default_rng(0).normal(size=100_000)
    several = [kept.keep(values + i) for i in range(3)]
    for _ in range(2):
        for i, one in enumerate(several):
            np.testing.assert_array_equal(one[7:90_000], (values + i)[7:90_000])
            files.release(one[7:90_000])
    files.release(values)  # nothing to give back


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
