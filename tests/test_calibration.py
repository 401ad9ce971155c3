import pickle
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from onnxprune.calibration import Input, Preprocessing, load, load_labelled, sidecar, synthetic
from onnxprune.errors import DataError, UsageError

F32 = np.dtype(np.float32)
I64 = np.dtype(np.int64)
RNG = np.random.default_rng(0)


def floats(shape, name="data", dtype=F32):
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


def images(folder, count=3, size=(8, 8), mode="RGB"):
    folder.mkdir(exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    arrays = [pixels(*shape) for _ in range(count)]
    for index, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{index:03d}.png")
    return np.stack(arrays)


class Reader:
    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


# ---- Inputs and options


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


def test_an_input_shows_its_type_and_shape():
    assert str(IMAGE) == "input 'data' (float32 (N, 3, 8, 8))"
    assert str(floats((None,))) == "input 'data' (float32 (?))"
    assert str(floats(None)) == "input 'data' (float32 of any shape)"


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "chw"},
        {"resize": 0},
        {"resize": (8, -1)},
        {"std": (0.0,)},
        {"std": (float("nan"),)},
        {"mean": (float("inf"),)},
    ],
)
def test_senseless_preprocessing(options):
    with pytest.raises(UsageError):
        Preprocessing(**options)


@pytest.mark.parametrize("samples", [0, -1])
def test_senseless_numbers_of_samples(samples):
    with pytest.raises(UsageError, match="at least 1"):
        load(normal(3, 4), [ROWS], samples=samples)
    with pytest.raises(UsageError, match="at least 1"):
        synthetic([ROWS], count=samples)


# ---- .npz and .npy


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


def test_batches_keep_the_order_and_the_remainder():
    x = normal(5, 4)
    feeds = list(load({"data": x}, [ROWS]).batches([4, 3, 2, 1, 0], 2))
    assert [len(feed["data"]) for feed in feeds] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([feed["data"] for feed in feeds]), x[::-1])


def test_limit_is_random_seeded_and_without_replacement():
    x = np.arange(100, dtype=np.float32)[:, None]
    taken = [load(x, [floats(("N", 1))], samples=20, seed=s).feed(range(20))["data"].ravel() for s in (1, 1, 2)]
    assert len(set(taken[0])) == 20
    np.testing.assert_array_equal(taken[0], taken[1])
    assert set(taken[0]) != set(taken[2])
    assert load(x, [floats(("N", 1))], samples=200).count == 100


def test_inputs_that_are_not_per_sample_pass_as_they_are():
    inputs = [ROWS, SCALAR, floats((2,), "scale")]
    samples = load({"data": normal(6, 4), "sr": np.int64(16000), "scale": np.float32([1, 2])}, inputs)
    feed = samples.feed([1, 2, 3])
    assert samples.batchable
    assert {name: value.shape for name, value in feed.items()} == {"data": (3, 4), "sr": (), "scale": (2,)}
    assert feed["sr"] == 16000


def test_inputs_off_axis_0_can_be_given_per_sample():
    samples = load({"data": normal(6, 4), "sr": np.arange(6)}, [ROWS, SCALAR])
    assert (samples.count, samples.batchable) == (6, False)
    feed = samples.feed([4])
    assert feed["sr"] == 4
    assert feed["data"].shape == (1, 4)
    with pytest.raises(DataError, match="one at a time, not 2"):
        samples.feed([0, 1])
    assert len(list(samples.batches(range(6), 4))) == 6


def test_a_batch_elsewhere_than_on_axis_0_cannot_be_joined():
    state = floats((2, "N", 5), "state")
    assert not load({"data": normal(6, 4), "state": normal(2, 1, 5)}, [ROWS, state]).batchable


def test_a_fixed_batch_makes_each_feed_a_sample():
    samples = load(x := normal(7, 4), [floats((2, 4))])
    assert (samples.count, samples.batchable) == (3, False)
    np.testing.assert_array_equal(samples.feed([2])["data"], x[4:6])
    assert load(normal(7, 4), [floats((1, 4))]).count == 7


def test_models_without_a_batch_axis():
    samples = load(x := normal(5, 3, 8, 8), [floats((3, 8, 8))])
    assert (samples.count, samples.batchable) == (5, False)
    np.testing.assert_array_equal(samples.feed([3])["data"], x[3])
    assert load(normal(1, 3, 8, 8)[0], [IMAGE]).feed([0])["data"].shape == (1, 3, 8, 8)


def test_an_unknown_rank_takes_any_array():
    assert load(normal(5, 3, 2), [floats(None)]).feed([1, 2])["data"].shape == (2, 3, 2)
    assert load({"x": np.float32(3)}, [floats(None)]).feed([0])["data"].shape == ()


def test_a_model_without_inputs_takes_empty_feeds():
    assert synthetic([], count=2).feed([1]) == {}
    assert load({}, []).feed([0]) == {}


def test_time_major_inputs_are_one_sample():
    samples = load(normal(7, 1, 4), [floats(("seq", "batch", 4))])
    assert (samples.count, samples.batchable) == (1, False)


@pytest.mark.parametrize(
    ("have", "want"),
    [
        (np.float64, np.float16),
        (np.float16, np.float32),
        (np.uint8, np.float32),
        (np.int64, np.float32),
        (bool, np.float32),
        (np.int64, np.int32),
        (bool, np.int64),
        (np.int64, bool),
        (">f4", np.float32),
        (np.float32, ml_dtypes.bfloat16),
        (ml_dtypes.bfloat16, np.float32),
    ],
)
def test_casts_that_lose_no_meaning(have, want):
    x = np.array([[0, 1], [1, 1]]).astype(have)
    feed = load(x, [floats(("N", 2), dtype=want)]).feed([0, 1])["data"]
    assert feed.dtype == want
    np.testing.assert_array_equal(feed.astype(float), [[0, 1], [1, 1]])


def test_strings_feed_strings_only():
    words = Input("data", np.dtype(object), ("N",))
    assert load(np.array(["a", "bc"]), [words]).feed([1])["data"].tolist() == ["bc"]
    with pytest.raises(DataError, match="convert it to object"):
        load(np.array([1.0, 2.0]), [words])


@pytest.mark.parametrize(
    ("array", "item", "message"),
    [
        (
            normal(5, 3),
            ROWS,
            r"array 'arr_0' \(float32 \(5, 3\)\) doesn't fit input 'data' \(float32 \(N, 4\)\)",
        ),
        (normal(5), ROWS, "doesn't fit"),
        (normal(5, 4, 1, 1), ROWS, "doesn't fit"),
        (normal(5, 2, 4), ROWS, "doesn't fit"),
        (normal(1, 4), floats((8, 4)), "doesn't fit"),
        (normal(5, 4), floats(("N", 4), dtype=np.int64), "convert it to int64"),
        (normal(5, 4), floats(("N", 4), dtype=bool), "convert it to bool"),
        (normal(5, 4).astype(np.complex64), ROWS, "complex64 .* can't be fed"),
        (np.array([["a"] * 4]), ROWS, "can't be fed"),
        (np.full((2, 4), 2**40), floats(("N", 4), dtype=np.int32), "outside the range"),
        (np.full((2, 4), 2), floats(("N", 4), dtype=bool), "outside the range"),
        (normal(0, 4), ROWS, "no samples"),
        (np.full((2, 4), np.nan), ROWS, "NaN or infinite"),
        (np.array([[0.0] * 4, [0, 0, 0, np.inf]]), ROWS, "NaN or infinite"),
        (np.full((2, 4), 1e6), floats(("N", 4), dtype=np.float16), "NaN or infinite"),
    ],
)
def test_arrays_that_do_not_fit(array, item, message):
    with pytest.raises(DataError, match=message):
        load(array, [item])


def test_nan_in_an_npy_is_found_when_it_is_fed(tmp_path):
    np.save(tmp_path / "d.npy", np.array([[0.0] * 4, [np.nan] * 4]))
    samples = load(tmp_path / "d.npy", [ROWS])
    samples.feed([0])
    with pytest.raises(DataError, match=r"d\.npy: array 'arr_0' .* NaN"):
        samples.feed([1])


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
    npz(tmp_path / "d.npz", x=normal(2, 4), names=np.array(["a", None], dtype=object))
    assert load(tmp_path / "d.npz", [ROWS]).count == load(tmp_path, [ROWS]).count == 2


def test_nothing_is_unpickled(tmp_path):
    objects = np.array([{}, []], dtype=object)
    np.save(tmp_path / "d.npy", objects, allow_pickle=True)
    for path in (tmp_path / "d.npy", npz(tmp_path / "d.npz", x=objects)):
        with pytest.raises(DataError, match="Python objects"):
            load(path, [ROWS])


# ---- Pixels


def test_images_are_scaled_and_transposed(tmp_path):
    given = images(tmp_path / "i")
    samples = load(tmp_path / "i", [IMAGE])
    assert (samples.count, samples.batchable) == (3, True)
    feed = samples.feed([0, 1, 2])["data"]
    assert feed.dtype == np.float32
    np.testing.assert_allclose(feed, given.transpose(0, 3, 1, 2) / 255, rtol=1e-6)


def test_images_for_nhwc_grey_rgba_and_uint8_models(tmp_path):
    given = images(tmp_path / "i")
    nhwc = load(tmp_path / "i", [floats(("N", 8, 8, 3))]).feed([1])["data"]
    np.testing.assert_allclose(nhwc[0], given[1] / 255, rtol=1e-6)
    raw = load(tmp_path / "i", [floats(("N", 8, 8, 3), dtype=np.uint8)], preprocessing=Preprocessing(mean=(9,)))
    np.testing.assert_array_equal(raw.feed([1])["data"][0], given[1])
    assert load(tmp_path / "i", [floats((1, 1, 8, 8))]).feed([0])["data"].shape == (1, 1, 8, 8)
    assert load(tmp_path / "i", [floats((1, 4, 8, 8))]).feed([0])["data"].shape == (1, 4, 8, 8)
    assert load(tmp_path / "i", [floats((3, 8, 8))]).feed([0])["data"].shape == (3, 8, 8)
    assert load(tmp_path / "i", [floats((None,) * 4)]).feed([0, 1])["data"].shape == (2, 3, 8, 8)
    nhwc = load(tmp_path / "i", [floats((None,) * 4)], preprocessing=Preprocessing(layout="nhwc"))
    assert nhwc.feed([0])["data"].shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ((0.5,), (0.25,), lambda x: (x / 255 - 0.5) / 0.25),
        ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), lambda x: (x / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]),
        ((120, 110, 100), None, lambda x: x - [120, 110, 100]),
        ((127.5,), (128,), lambda x: (x - 127.5) / 128),
        ((0,), (255,), lambda x: x / 255),
        (None, (1,), lambda x: x / 255),
    ],
)
def test_mean_and_std(tmp_path, mean, std, expected):
    given = images(tmp_path / "i")
    plan = Preprocessing(mean=mean, std=std)
    wanted = expected(given.astype(float)).transpose(0, 3, 1, 2)
    for source in (tmp_path / "i", given, given.transpose(0, 3, 1, 2)):
        feed = load(source, [IMAGE], preprocessing=plan).feed([0, 1, 2])["data"]
        np.testing.assert_allclose(feed, wanted, atol=1e-4)


def test_uint8_arrays_are_just_cast_without_preprocessing():
    x = pixels(2, 3, 8, 8)
    np.testing.assert_array_equal(load(x, [IMAGE]).feed([0, 1])["data"], x)
    turned = load(x.transpose(0, 2, 3, 1), [IMAGE], preprocessing=Preprocessing(layout="nchw"))
    np.testing.assert_array_equal(turned.feed([0, 1])["data"], x)
    with pytest.raises(DataError, match="doesn't fit"):
        load(x.transpose(0, 2, 3, 1), [IMAGE])
    with pytest.raises(DataError, match="doesn't fit"):
        load(pixels(2, 8, 8), [IMAGE], preprocessing=Preprocessing(mean=(0.5,)))


def test_uint8_arrays_are_resized_when_asked():
    plan = Preprocessing(resize=(8, 8), std=(1,))
    assert load(pixels(2, 20, 16, 3), [IMAGE], preprocessing=plan).feed([0, 1])["data"].shape == (2, 3, 8, 8)
    assert load(pixels(20, 16, 3), [floats((3, 8, 8))], preprocessing=plan).feed([0])["data"].shape == (
        3,
        8,
        8,
    )
    fixed = load(pixels(5, 20, 16, 3), [floats((2, 3, 8, 8))], preprocessing=plan)
    assert fixed.count == 2
    assert fixed.feed([1])["data"].shape == (2, 3, 8, 8)


def test_resizing(tmp_path):
    given = images(tmp_path / "i", count=1, size=(16, 8))[0]
    assert load(tmp_path / "i", [IMAGE]).feed([0])["data"].shape == (1, 3, 8, 8)
    free = floats(("N", 3, "h", "w"))
    assert load(tmp_path / "i", [free]).feed([0])["data"].shape == (1, 3, 8, 16)
    assert load(tmp_path / "i", [free], shapes={"data": (1, 3, 4, 6)}).feed([0])["data"].shape == (1, 3, 4, 6)
    assert load(tmp_path / "i", [free], preprocessing=Preprocessing(resize=(5, 6))).feed([0])["data"].shape[2:] == (
        5,
        6,
    )
    crop = load(tmp_path / "i", [free], preprocessing=Preprocessing(resize=8)).feed([0])["data"]
    np.testing.assert_allclose(crop[0].transpose(1, 2, 0), given[:, 4:12] / 255, rtol=1e-6)
    assert load(tmp_path / "i", [IMAGE], preprocessing=Preprocessing(resize=10)).feed([0])["data"].shape[2:] == (8, 8)
    grey = load(tmp_path / "i", [floats((1, 1, 4, 4))]).feed([0])["data"]
    assert grey.shape == (1, 1, 4, 4)
    with pytest.raises(DataError, match=r"resized to 6 are smaller than the model's \(8, 8\)"):
        load(tmp_path / "i", [IMAGE], preprocessing=Preprocessing(resize=6))
    with pytest.raises(DataError, match="doesn't fit"):
        load(tmp_path / "i", [IMAGE], preprocessing=Preprocessing(resize=(6, 6)))


def test_images_of_several_sizes(tmp_path):
    images(tmp_path / "i", size=(8, 8))
    Image.fromarray(pixels(9, 9, 3)).save(tmp_path / "i" / "z.png")
    free = floats(("N", 3, "h", "w"))
    with pytest.raises(DataError, match="choose one with --resize"):
        load(tmp_path / "i", [free])
    assert load(tmp_path / "i", [IMAGE]).feed(range(4))["data"].shape == (4, 3, 8, 8)
    assert load(tmp_path / "i", [free], preprocessing=Preprocessing(resize=5)).feed(range(4))["data"].shape[2:] == (
        5,
        5,
    )


def test_mirrored_copies_follow_their_originals(tmp_path):
    images(tmp_path / "i")
    plan = Preprocessing(mirror=True)
    for item, axis in ((IMAGE, 3), (floats((None, 8, 8, 3)), 2)):
        samples = load(tmp_path / "i", [item], preprocessing=plan, samples=2)
        feed = samples.feed(range(4))["data"]
        assert samples.count == 4
        np.testing.assert_array_equal(feed[1::2], np.flip(feed[::2], axis))
    x = normal(2, 3, 8, 8)
    np.testing.assert_array_equal(load(x, [IMAGE], preprocessing=plan).feed([1])["data"], x[:1, :, :, ::-1])
    both = load({"data": x, "sr": 3}, [IMAGE, SCALAR], preprocessing=plan).feed([0, 1])
    assert both["sr"] == 3
    with pytest.raises(DataError, match="only images can be mirrored"):
        load(normal(2, 4), [ROWS], preprocessing=plan)


@pytest.mark.parametrize(
    ("item", "plan", "message"),
    [
        (ROWS, {}, r"holds images, but the model takes input 'data' \(float32 \(N, 4\)\)"),
        (floats(("N", 12, 8, 8)), {}, "holds images, but"),
        (floats(("N", 8, 8)), {}, "holds images, but"),
        (IMAGE, {"layout": "nhwc"}, "holds images, but"),
        (IMAGE, {"mean": (0.1, 0.2)}, "need 3 values"),
        (floats((8, 3, 8, 8)), {}, "doesn't fit"),
        (floats(("N", 3, 8, 8), dtype=np.int8), {}, "outside the range"),
        (floats(("N", 3, 9, "w")), {}, "doesn't fit"),
    ],
)
def test_images_for_models_that_do_not_take_them(tmp_path, item, plan, message):
    images(tmp_path / "i")
    with pytest.raises(DataError, match=message):
        load(tmp_path / "i", [item], preprocessing=Preprocessing(**plan))


def test_images_do_not_feed_two_inputs(tmp_path):
    images(tmp_path / "i")
    with pytest.raises(DataError, match="holds images, but"):
        load(tmp_path / "i", [IMAGE, SCALAR])


def test_mean_and_std_are_for_pixels_only():
    with pytest.raises(DataError, match="isn't uint8 pixels"):
        load(normal(2, 3, 8, 8), [IMAGE], preprocessing=Preprocessing(mean=(0.5,)))


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


def test_without_pillow(tmp_path, monkeypatch):
    images(tmp_path / "i")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"install onnxprune\[images\]"):
        load(tmp_path / "i", [IMAGE])


# ---- Folders of arrays


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


def test_files_that_differ_in_length_are_fed_one_at_a_time(tmp_path):
    for length in (3, 5):
        np.save(tmp_path / f"{length}.npy", normal(1, length))
    samples = load(tmp_path, [floats(("N", "time"))])
    assert (samples.count, samples.batchable) == (2, False)
    assert samples.feed([1])["data"].shape == (1, 5)


def test_folders_without_one_kind_of_sample(tmp_path):
    with pytest.raises(DataError, match="holds no samples"):
        load(tmp_path, [ROWS])
    np.save(tmp_path / "a.npy", normal(4))
    npz(tmp_path / "b.npz", x=normal(4))
    with pytest.raises(DataError, match=r"holds \.npy and \.npz"):
        load(tmp_path, [ROWS])


# ---- Readers, iterables, scripts


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


def test_the_first_samples_of_an_endless_iterable():
    def endless():
        value = 0
        while True:
            yield {"data": [[float(value)] * 4, [value + 1.0] * 4]}
            value += 2

    samples = load(endless, [ROWS], samples=5)
    assert samples.feed(range(5))["data"][:, 0].tolist() == [0, 1, 2, 3, 4]


def test_feeds_of_a_fixed_batch():
    samples = load(feeds([1, 1]), [floats((1, 4))])
    assert (samples.count, samples.batchable) == (2, False)


def test_feeds_that_cannot_be_split_are_samples():
    boxes = floats(("boxes", 2), "boxes")
    given = [{"data": normal(1, 4), "boxes": normal(n, 2)} for n in (3, 5)]
    samples = load(given, [ROWS, boxes])
    assert (samples.count, samples.batchable) == (2, False)
    assert samples.feed([1])["boxes"].shape == (5, 2)
    assert load(given, [ROWS, boxes], samples=1).count == 1


def test_feeds_that_disagree_on_what_is_not_per_sample():
    same = load(feeds([2], sr=1) + feeds([2], sr=1), [ROWS, SCALAR])
    other = load(feeds([2], sr=1) + feeds([2], sr=2), [ROWS, SCALAR])
    assert (same.batchable, other.batchable) == (True, False)
    assert [int(feed["sr"]) for feed in other.batches(range(4), 4)] == [1, 1, 2, 2]


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


def test_samples_travel_between_processes(tmp_path):
    images(tmp_path / "i")
    for samples in (load(tmp_path / "i", [IMAGE]), load(normal(3, 4), [ROWS]), synthetic([ROWS], count=3)):
        copy = pickle.loads(pickle.dumps(samples))
        for name, value in samples.feed([0, 2]).items():
            np.testing.assert_array_equal(copy.feed([0, 2])[name], value)


# ---- Synthetic


def test_synthetic_samples_are_random_access_and_seeded():
    samples = synthetic([IMAGE, SCALAR], count=100, seed=3)
    assert (samples.count, samples.origin, samples.batchable) == (100, "synthetic", True)
    feed = samples.feed(range(100))
    assert feed["data"].shape == (100, 3, 8, 8)
    assert feed["data"].dtype == np.float32
    assert abs(feed["data"].std() - 1) < 0.05
    assert feed["sr"].shape == ()
    np.testing.assert_array_equal(samples.feed([7])["data"][0], feed["data"][7])
    assert not np.array_equal(synthetic([IMAGE], count=1, seed=4).feed([0])["data"], feed["data"][:1])


def test_synthetic_kinds():
    mask = Input("attention_mask", I64, ("N", "seq"))
    ids, flags = Input("ids", np.dtype(np.int32), ("N", "seq")), Input("flags", np.dtype(bool), ("N", 50))
    raw = Input("raw", np.dtype(np.uint8), ("N", 8, 8, 3))
    half = floats(("N", 2), "half", ml_dtypes.bfloat16)
    feed = synthetic([mask, ids, flags, raw, half], count=4).feed(range(4))
    assert feed["attention_mask"].shape == (4, 16)
    assert feed["attention_mask"].all()
    assert set(feed["ids"].ravel()) == {0, 1}
    assert feed["flags"].dtype == bool
    assert 0 < feed["flags"].mean() < 1
    assert feed["raw"].max() > 1
    assert feed["half"].dtype == ml_dtypes.bfloat16
    with pytest.raises(DataError, match="can't be made up"):
        synthetic([Input("s", np.dtype(object), ("N",))], count=1)


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [
        (("N", 3, "h", "w"), (1, 3, 224, 224)),
        (("N", "h", "w", 1), (1, 224, 224, 1)),
        ((None, None, None, None), (1, 3, 224, 224)),
        (("N", "time", 80), (1, 16, 80)),
        (("N", 8, "past", 64), (1, 8, 16, 64)),
        ((2, "batch", 64), (2, 1, 64)),
        ((), ()),
    ],
)
def test_synthetic_sizes(shape, drawn):
    assert synthetic([floats(shape)], count=1).feed([0])["data"].shape == drawn


def test_synthetic_models_of_a_fixed_batch():
    samples = synthetic([floats((2, 4))], count=3)
    assert not samples.batchable
    assert not np.array_equal(samples.feed([0])["data"], samples.feed([1])["data"])


def test_synthetic_batches_off_axis_0():
    samples = synthetic([floats(("B", 4)), floats((2, "B", 4), "state")], count=3)
    assert not samples.batchable
    assert samples.feed([1])["state"].shape == (2, 1, 4)


def test_shapes_choose_symbolic_sizes_wherever_their_names_recur():
    ids, mask = Input("ids", I64, ("N", "seq")), Input("mask", I64, ("N", "seq"))
    feed = synthetic([ids, mask], count=3, shapes={"ids": (8, 5)}).feed(range(3))
    assert (feed["ids"].shape, feed["mask"].shape) == ((3, 5), (3, 5))
    assert synthetic([floats(None)], count=2, shapes={"data": (1, 6)}).feed([0, 1])["data"].shape == (2, 6)
    with pytest.raises(DataError, match="a shape is given for x, but the model takes input 'ids'"):
        synthetic([ids], count=1, shapes={"x": (1, 2)})
    for shape in ((1, 3, 8, 9), (1, 3, 8)):
        with pytest.raises(DataError, match="only symbolic sizes can be chosen"):
            synthetic([IMAGE], count=1, shapes={"data": shape})
    with pytest.raises(DataError, match="declares no shape"):
        synthetic([floats(None)], count=1)


# ---- Labels and the sidecar


@pytest.mark.parametrize("labels", [np.arange(5), np.arange(5.0), np.arange(5)[:, None], np.arange(5, dtype=np.uint8)])
def test_labelled_samples(tmp_path, labels):
    x = normal(5, 4)
    samples, y = load_labelled(npz(tmp_path / "d.npz", x=x, y=labels), [ROWS])
    assert (samples.count, y.dtype, y.tolist()) == (5, np.int64, [0, 1, 2, 3, 4])
    few, y = load_labelled(str(tmp_path / "d.npz"), [ROWS], samples=3, seed=1)
    np.testing.assert_array_equal(few.feed(range(3))["data"], x[y])


def test_labels_of_a_fixed_batch_and_no_mirroring(tmp_path):
    path = npz(tmp_path / "d.npz", data=normal(5, 4), labels=np.arange(5))
    samples, y = load_labelled(path, [floats((2, 4))])
    assert (samples.count, y.tolist()) == (2, [[0, 1], [2, 3]])
    path = npz(tmp_path / "d.npz", data=normal(2, 3, 8, 8), labels=np.arange(2))
    assert load_labelled(path, [IMAGE], preprocessing=Preprocessing(mirror=True))[0].count == 2


def test_an_input_called_y_is_no_label(tmp_path):
    item = floats(("N", 4), "y")
    samples, y = load_labelled(npz(tmp_path / "d.npz", y=normal(2, 4), labels=[1, 0]), [item])
    assert (samples.count, y.tolist()) == (2, [1, 0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "has no labels"),
        ({"y": np.arange(4)}, "one label for each of the 5 samples"),
        ({"y": np.zeros((5, 10))}, "one label for each"),
        ({"y": np.full(5, 0.5)}, "class numbers"),
        ({"y": np.full(5, np.nan)}, "class numbers"),
        ({"y": np.array(["a"] * 5)}, "class numbers"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load_labelled(npz(tmp_path / "d.npz", x=normal(5, 4), **arrays), [ROWS])


def test_sidecar(tmp_path):
    model = tmp_path / "net.v1.onnx"
    assert sidecar(model) is None
    beside = npz(tmp_path / "net.v1.calib.npz", x=normal(1, 4))
    assert sidecar(str(model)) == beside == Path(beside)


def test_no_runtime_is_needed():
    import subprocess

    code = "import sys, onnxprune.calibration; assert not {'onnxruntime', 'PIL', 'onnx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
