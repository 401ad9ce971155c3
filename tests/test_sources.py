import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from onnxprune.calibration import Input, load, load_labelled
from onnxprune.errors import DataError

I64 = np.dtype(np.int64)
RNG = np.random.default_rng(0)


def floats(shape, name="data", dtype=np.float32):
    return Input(name, np.dtype(dtype), shape)


IMAGE = floats(("N", 3, 8, 8))
ROWS = floats(("N", 4))
SCALAR = Input("sr", I64, ())


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def pixels(*shape):
    return RNG.integers(0, 256, shape).astype(np.uint8)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def images(folder, count=3, size=(8, 8)):
    folder.mkdir(exist_ok=True)
    arrays = [pixels(size[1], size[0], 3) for _ in range(count)]
    for index, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{index:03d}.png")
    return np.stack(arrays)


class Reader:
    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


@pytest.mark.parametrize(
    ("shape", "joinable", "rows"),
    [
        (("N", 3), True, 1),
        ((None, 3), True, 1),
        (None, True, 1),
        ((), False, 0),
        ((1, 3), False, 1),
        ((8, 3), False, 8),
        (("seq", "batch", 3), False, 0),
        (("batch_size", "batch_seq"), True, 1),
    ],
)
def test_which_axis_counts_samples(shape, joinable, rows):
    assert (floats(shape).joinable, floats(shape).rows) == (joinable, rows)


@pytest.mark.parametrize(
    ("shape", "picture"),
    [
        (("N", 3, "H", "W"), True),
        (("N", 3, 32, "W"), True),
        (("N", "H", "W", 3), True),
        (("N", 4, "past", 16), False),  # keys of four heads
        (("N", 1, "steps", 80), False),  # a spectrogram
    ],
)
def test_what_holds_images(shape, picture):
    assert (floats(shape).picture() is not None) == picture


def test_an_input_shows_its_type_and_shape():
    assert str(IMAGE) == "input 'data' (float32 (N, 3, 8, 8))"
    assert str(floats((None,))) == "input 'data' (float32 (?))"
    assert str(floats(None)) == "input 'data' (float32 of any shape)"


@pytest.mark.parametrize("key", ["data", "x", "images", "input", "arr_0"])
def test_npz_by_name_or_alias(tmp_path, key):
    x = normal(5, 4)
    samples = load(npz(tmp_path / "d.npz", **{key: x, "y": np.arange(5)}), [ROWS])
    assert (samples.count, samples.origin, samples.batchable) == (5, "given", True)
    np.testing.assert_array_equal(samples.feed([4, 0])["data"], x[[4, 0]])


def test_npy_is_mapped_and_a_path_may_be_a_str(tmp_path):
    np.save(tmp_path / "d.npy", x := normal(5, 4))
    samples = load(str(tmp_path / "d.npy"), [ROWS])
    feed = samples.feed(range(5))["data"]
    np.testing.assert_array_equal(feed, x)
    assert type(feed) is np.ndarray
    feed[:] = 0
    assert isinstance(samples.chunks[0].read()["arr_0"], np.memmap)


def test_npy_with_an_npz_inside_and_the_other_way_round(tmp_path):
    npz(tmp_path / "a.npz", x=normal(2, 4)).rename(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", normal(3, 4))
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    assert load(tmp_path / "a.npy", [ROWS]).count == 2
    assert load(tmp_path / "b.npz", [ROWS]).count == 3


def test_wrong_and_missing_names(tmp_path):
    with pytest.raises(DataError, match=r"d\.npz holds wrong, y, but the model takes data"):
        load(npz(tmp_path / "d.npz", wrong=normal(2, 4), y=[0, 1]), [ROWS])
    with pytest.raises(DataError, match=r"d\.npz holds no arrays, but the model takes data"):
        load(npz(tmp_path / "d.npz"), [ROWS])
    with pytest.raises(DataError, match="holds data, but the model takes mask"):
        load({"data": normal(2, 4)}, [ROWS, floats(("N", 4), "mask")])
    with pytest.raises(DataError, match="holds arr_0, but the model takes data, mask"):
        load(normal(2, 4), [ROWS, floats(("N", 4), "mask")])
    with pytest.raises(DataError, match="different numbers of samples"):
        load({"data": normal(2, 4), "mask": normal(3, 4)}, [ROWS, floats(("N", 4), "mask")])
    with pytest.raises(DataError, match="different numbers of samples"):
        load({"data": normal(2, 4), "m": normal(3, 4)}, [ROWS, floats((1, 4), "m")])


def test_files_that_cannot_be_read(tmp_path):
    for suffix in ("npz", "npy", "txt"):
        with pytest.raises(DataError, match="does not exist"):
            load(tmp_path / f"none.{suffix}", [ROWS])
    whole = npz(tmp_path / "a.npz", x=normal(50, 4)).read_bytes()
    contents = {
        "cut.npz": whole[:300],
        "bytes.npz": whole[:100] + b"\xff" * 40 + whole[140:],
        "text.npz": b"hello",
        "empty.npy": b"",
        "text.npy": b"hello",
        "header.npy": b"\x93NUMPY\x01\x00\x10\x00{'descr': ",
    }
    np.save(tmp_path / "full.npy", normal(50, 4))
    contents["cut.npy"] = (tmp_path / "full.npy").read_bytes()[:300]
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="can't be read"):
            load(tmp_path / name, [ROWS])
    (tmp_path / "data.txt").write_text("1 2 3")
    with pytest.raises(DataError, match="no kind of data we read"):
        load(tmp_path / "data.txt", [ROWS])


def test_arrays_that_the_model_does_not_take_are_not_read(tmp_path):
    path = npz(tmp_path / "d.npz", x=normal(2, 4), y=np.arange(2), names=np.array(["a", None], dtype=object))
    assert load(path, [ROWS]).count == load(tmp_path, [ROWS]).count == load_labelled(path, [ROWS])[0].count == 2


def test_nothing_is_unpickled(tmp_path):
    objects = np.array([{}, []], dtype=object)
    np.save(tmp_path / "d.npy", objects, allow_pickle=True)
    for path in (tmp_path / "d.npy", npz(tmp_path / "d.npz", x=objects)):
        with pytest.raises(DataError, match="Python objects"):
            load(path, [ROWS])


def test_unreadable_images(tmp_path):
    images(tmp_path / "i", count=1)
    good = (tmp_path / "i" / "000.png").read_bytes()
    (tmp_path / "i" / "001.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "i" / "002.jpg").write_bytes(b"no image")
    samples = load(tmp_path / "i", [IMAGE])
    for index, name in ((1, r"001\.png"), (2, r"002\.jpg")):
        with pytest.raises(DataError, match=f"{name} can't be read"):
            samples.feed([index])
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "i" / "000.png")
    with pytest.raises(DataError, match="more than 8 bits"):
        load(tmp_path / "i", [IMAGE])


def test_pillow_is_imported_for_images_only():
    code = "import sys, onnxprune.calibration; assert 'PIL' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_pillow(tmp_path, monkeypatch):
    images(tmp_path / "i")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"install onnxprune\[images\]"):
        load(tmp_path / "i", [IMAGE])


def test_a_folder_of_npy_with_and_without_a_batch_axis(tmp_path):
    (tmp_path / "sub").mkdir()
    x = normal(3, 4)
    np.save(tmp_path / "a.npy", x[0])
    np.save(tmp_path / "b.npy", x[1:2])
    np.save(tmp_path / "sub" / "c.npy", x[2])
    (tmp_path / "._c.npy").write_bytes(b"junk")
    (tmp_path / "notes.txt").write_text("ignored")
    samples = load(tmp_path, [ROWS])
    np.testing.assert_array_equal(samples.feed([2, 1, 0])["data"], x[::-1])


def test_a_folder_of_npz_is_split_and_read_once_per_feed(tmp_path, monkeypatch):
    x = normal(6, 4)
    for index in range(3):
        npz(tmp_path / f"{index}.npz", data=x[2 * index : 2 * index + 2], sr=16000)
    samples = load(tmp_path, [ROWS, SCALAR])
    assert (samples.count, samples.batchable) == (6, True)
    reads = []
    monkeypatch.setattr(
        "numpy.load", lambda path, *a, np_load=np.load, **k: reads.append(path) or np_load(path, *a, **k)
    )
    np.testing.assert_array_equal(samples.feed([0, 1, 5])["data"], x[[0, 1, 5]])
    assert len(reads) == 2


def test_folders_without_one_kind_of_sample(tmp_path):
    with pytest.raises(DataError, match="holds no samples"):
        load(tmp_path, [ROWS])
    np.save(tmp_path / "a.npy", normal(4))
    npz(tmp_path / "b.npz", x=normal(4))
    with pytest.raises(DataError, match=r"holds \.npy and \.npz"):
        load(tmp_path, [ROWS])


def feeds(sizes, **fixed):
    return [{"data": normal(size, 4), **fixed} for size in sizes]


def test_everything_that_yields_dicts():
    given = feeds([2, 3, 1])
    wanted = np.concatenate([feed["data"] for feed in given])
    sources = [given, iter(given), Reader(given), lambda: given, lambda: Reader(given), (f for f in given)]
    for source in [
        *sources,
        type("Mine", (Reader,), {"__init__": lambda self: Reader.__init__(self, given)}),
    ]:
        samples = load(source, [ROWS])
        assert (samples.count, samples.batchable) == (6, True)
        np.testing.assert_array_equal(samples.feed(range(6))["data"], wanted)


def test_a_buffer_that_is_used_again_is_copied():
    def reuse():
        buffer = np.zeros((1, 4), np.float32)
        for value in range(3):
            buffer[:] = value
            yield {"data": buffer}

    assert load(reuse, [ROWS]).feed([0, 1, 2])["data"][:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "yields nothing"),
        (Reader([]), "yields nothing"),
        ([normal(1, 4)], "feed 0 is of type ndarray: give a dict"),
        ([(normal(1, 4), 3)], "type tuple: give a dict"),
        (7, "type int: give a reader"),
        (lambda: 1 / 0, "failed with ZeroDivisionError"),
        ((1 // n for n in (0,)), "failed with ZeroDivisionError"),
        ([{"data": [[1.0], [1.0, 2.0]]}], "failed with ValueError"),
        ([{"wrong": normal(1, 4)}], "feed 0 holds wrong, but the model takes data"),
        ([{"data": normal(1, 4)}, {"data": normal(1, 5)}], "feed 1: array 'data' .* doesn't fit"),
        ([{"data": normal(0, 4)}], "feed 0 holds no samples"),
        ([{"data": np.full((1, 4), np.nan)}], "feed 0: array 'data' .* NaN"),
    ],
)
def test_sources_that_give_nothing_usable(source, message):
    with pytest.raises(DataError, match=message):
        load(source, [ROWS])


SCRIPT = """
import numpy as np
from dataclasses import dataclass
from neighbour import value

@dataclass
class Sample:
    value: float

def generate():
    import lazy
    for n in range(3):
        yield {"data": np.full((1, 4), Sample(value + n).value, np.float32)}

class Mine:
    def __init__(self):
        self.feeds = generate()
    def get_next(self):
        return next(self.feeds, None)

ready, array, arrays = Mine(), np.ones((2, 4)), {"data": np.ones((2, 4))}
"""


def script(folder, text=SCRIPT, value=7):
    folder.mkdir(exist_ok=True)
    (folder / "calib.py").write_text(text)
    (folder / "neighbour.py").write_text(f"value = {value}")
    (folder / "lazy.py").write_text("")
    return folder / "calib.py"


@pytest.mark.parametrize(("name", "count"), [("generate", 3), ("Mine", 3), ("ready", 3), ("array", 2), ("arrays", 2)])
def test_objects_in_scripts(tmp_path, name, count):
    assert load(f"{script(tmp_path)}:{name}", [ROWS]).count == count


def test_scripts_leave_nothing_behind(tmp_path):
    path, modules = list(sys.path), set(sys.modules)
    for value in (7, 8):
        source = f"{script(tmp_path / str(value), value=value)}:generate"
        assert load(source, [ROWS]).feed([0])["data"][0, 0] == value
    assert (sys.path, set(sys.modules)) == (path, modules)


def test_scripts_that_do_not_work(tmp_path):
    with pytest.raises(DataError, match="no object 'absent'"):
        load(f"{script(tmp_path)}:absent", [ROWS])
    with pytest.raises(DataError, match=r"none\.py does not exist"):
        load(f"{tmp_path / 'none.py'}:ready", [ROWS])
    with pytest.raises(DataError, match=r"is a script: name the object"):
        load(script(tmp_path), [ROWS])
    with pytest.raises(DataError, match=r"calib\.py failed with SyntaxError"):
        load(f"{script(tmp_path, 'def')}:ready", [ROWS])
