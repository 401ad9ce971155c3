"""What users get wrong: one sentence on stderr, the exit code, no traceback, no file."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from onnxprune.cli import main
from onnxprune.plan import Plan

MODELS = Path(__file__).parent.parent / "models"
MLP = MODELS / "digits_mlp.onnx"


def fails(code: int, *args: object, says: str = "") -> None:
    """Run, and check what every failure has in common."""
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == code, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    first, *others = result.stderr.splitlines()
    assert first.startswith("error: ")
    assert first.endswith((".", "?", ")")), first
    assert not others or (code == 2 and len(others) == 1 and others[0].startswith("Try ")), result.stderr
    assert says in first, first
    assert result.stdout == ""


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A path to write to, in a folder that must stay empty."""
    folder = tmp_path / "results"
    folder.mkdir()
    yield folder / "out.onnx"
    assert not list(folder.iterdir())


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# ---- models


def unknown_operator() -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "nowhere" : 1]>'
        " g (float[N,4] x) => (float[N,4] y) { y = nowhere.Mystery(x) }"
    )


def quantized() -> onnx.ModelProto:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y)
    <float s = {0.1}, int8 z = {0}> { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"""
    return onnx.parser.parse_model(text)


def wrong_types() -> onnx.ModelProto:
    """A model that onnxruntime refuses: its weight has another type than its input."""
    weight = helper.make_tensor("w", TensorProto.INT64, [4, 4], [1] * 16)
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "mm")], "g", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("command", ["prune", "inspect", "compare"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"", "not an ONNX model"),
        (b"hello, I am a text file\n" * 9, "not a readable ONNX model"),
        (MLP.read_bytes()[:40_000], "not a readable ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "not a readable ONNX model"),
    ],
)
def test_unreadable_model(command: str, content: bytes | None, says: str, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "in.onnx"
    if content is not None:
        path.write_bytes(content)
    rest: tuple[object, ...] = {"prune": (out,), "inspect": (), "compare": (MLP,)}[command]
    fails(1, command, path, *rest, says=says)
    fails(1, command, path, *rest, says=str(path))


def test_model_that_is_a_folder(tmp_path: Path, out: Path) -> None:
    fails(1, tmp_path, out, says="is a folder")
    fails(1, "inspect", tmp_path, says="is a folder")


def test_model_without_permission(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    fails(1, MLP, out, says="no permission")


@pytest.mark.parametrize(("make", "says"), [(unknown_operator, "onnxruntime can't load"), (wrong_types, "onnxruntime")])
def test_model_that_onnxruntime_cannot_load(
    make: Callable[[], onnx.ModelProto], says: str, tmp_path: Path, out: Path
) -> None:
    onnx.save(make(), tmp_path / "in.onnx")
    fails(1, tmp_path / "in.onnx", out, says=says)


def test_quantized_model(tmp_path: Path, out: Path) -> None:
    onnx.save(quantized(), tmp_path / "in.onnx")
    fails(1, tmp_path / "in.onnx", out, says="prune the floating-point model, then quantize")
    fails(1, "inspect", tmp_path / "in.onnx", says="is quantized (QuantizeLinear")


# ---- data


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"pixels": np.zeros((9, 64), "f4"), "more": np.zeros(3)}, "holds pixels, more, but the model takes x"),
        ({"x": np.zeros((9, 32), "f4")}, "doesn't fit input 'x'"),
        ({"x": np.zeros((9, 8, 8), "f4")}, "doesn't fit input 'x'"),
        ({"x": np.array([["a"] * 64] * 9)}, "can't be fed to input 'x'"),
        ({"x": np.zeros((9, 64), "c8")}, "can't be fed to input 'x'"),
        ({"x": np.zeros((0, 64), "f4")}, "holds no samples"),
        ({"x": np.full((9, 64), np.nan, "f4")}, "x"),
        ({"x": np.full((9, 64), np.inf, "f4")}, "x"),
        ({}, "holds no arrays"),
    ],
)
def test_arrays_that_do_not_fit(arrays: dict[str, Any], says: str, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    fails(1, MLP, out, "--calib", path, says=says)
    fails(1, MLP, out, "--calib", path, says=str(path))
    fails(1, "compare", MLP, MLP, "--data", path, says=says)


@pytest.mark.parametrize("name", ["data.npz", "data.npy", "data.csv", "data.py", "folder", "data.py:reader"])
def test_data_that_is_missing(name: str, tmp_path: Path, out: Path) -> None:
    fails(1, MLP, out, "--calib", tmp_path / name, says=str(tmp_path / "data") if "data" in name else "does not exist")


def test_data_that_is_no_data(tmp_path: Path, out: Path) -> None:
    fails(1, MLP, out, "--calib", written(tmp_path / "a.npz", b"PK\x03\x04 and not much else"), says="can't be read")
    np.save(tmp_path / "b.npy", np.array([{"a": 1}], object), allow_pickle=True)
    fails(1, MLP, out, "--calib", tmp_path / "b.npy", says="Python objects")
    (tmp_path / "empty").mkdir()
    fails(1, MLP, out, "--calib", tmp_path / "empty", says="holds no samples")
    script = written(tmp_path / "c.py", b"def reader():\n    raise RuntimeError('the disk is on fire')\n")
    fails(1, MLP, out, "--calib", f"{script}:reader", says="the disk is on fire")
    fails(1, MLP, out, "--calib", f"{script}:other", says="no object 'other'")


def test_damaged_sidecar(tmp_path: Path, out: Path) -> None:
    shutil.copy(MLP, tmp_path / "in.onnx")
    (tmp_path / "in.calib.npz").write_bytes(b"PK")
    fails(1, tmp_path / "in.onnx", out, says="in.calib.npz")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((9, 64), "f4")}, "has no labels"),
        ({"x": np.zeros((9, 64), "f4"), "y": np.zeros(8, int)}, "one label for each of the 9 samples"),
        ({"x": np.zeros((9, 64), "f4"), "y": np.full(9, 0.5)}, "class numbers"),
        ({"x": np.zeros((9, 64), "f4"), "y": np.full(9, 10)}, "label 10 is larger"),
    ],
)
def test_labels_that_do_not_fit(arrays: dict[str, Any], says: str, tmp_path: Path, out: Path) -> None:
    np.savez(tmp_path / "eval.npz", **arrays)
    fails(1, MLP, out, "--eval", tmp_path / "eval.npz", says=says)


def test_evaluation_that_is_missing(tmp_path: Path, out: Path) -> None:
    fails(1, MLP, out, "--eval", tmp_path / "eval.npz", says="does not exist")
    fails(1, MLP, out, "--eval", f"{tmp_path}/eval.py:score", says="no such file")
    script = written(tmp_path / "eval.py", b"")
    fails(1, MLP, out, "--eval", f"{script}:score", says="no function 'score'")


def test_shape_of_an_input_that_is_not_there(out: Path) -> None:
    fails(1, MLP, out, "--input-shapes", "z:1,64", says="a shape is given for z")


def test_models_that_cannot_be_compared(out: Path) -> None:
    fails(1, "compare", MLP, MODELS / "digits_resnet.onnx", "--data", MODELS / "digits_mlp.calib.npz")


# ---- output


def test_output_that_cannot_be_written(tmp_path: Path, out: Path) -> None:
    fails(1, MLP, tmp_path / "no" / "folder" / "out.onnx", says="there is no folder")
    fails(1, MLP, tmp_path, "--force", says="is not a file that can be written")
    fails(1, MLP, os.devnull, "--force", says="is not a file that can be written")
    fails(1, MLP, written(tmp_path / "old.onnx", b"old"), says="--force")
    assert (tmp_path / "old.onnx").read_bytes() == b"old"
    fails(1, MLP, MLP, says="the input model itself")
    dangling = tmp_path / "link.onnx"
    dangling.symlink_to(tmp_path / "nowhere.onnx")
    fails(1, MLP, dangling, says="exists already")


def test_folder_without_permission(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    fails(1, MLP, out, says="Permission denied")


@pytest.mark.parametrize("options", [(), ("--save-plan",)])
def test_full_disk(out: Path, tmp_path: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((np, "savez_compressed") if options else (os, "fsync")), full)
    more = (*options, out.parent / "plan.npz") if options else ()
    fails(1, MLP, out, "--target", "macs=0.5", *more, says="No space left on device")


@pytest.mark.parametrize(
    ("raised", "says"),
    [(MemoryError(), "not enough memory"), (OSError(errno.EIO, "Input/output error"), "Input/output")],
)
def test_machine_that_gives_up(raised: Exception, says: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("onnxprune.steps.collect", fail)
    fails(1, MLP, out, "--target", "macs=0.5", says=says)


# ---- options


def test_provider_that_is_not_there(out: Path) -> None:
    fails(1, MLP, out, "--provider", "abacus", says="execution provider 'abacus' isn't available")
    fails(1, "compare", MLP, MLP, "--provider", "abacus", says="it has: ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--method", "voodoo"), "'voodoo' is not one of 'apoz', 'energy'"),
        (("--allocate", "voodoo"), "--allocate"),
        (("--reconstruct", "voodoo"), "--reconstruct"),
        (("--target", "voodoo=1"), "voodoo=1"),
        (("--target", "watts=0.5"), "isn't known"),
        (("--target", "speed=0.5"), "isn't known"),
        (("--target", "macs=half"), "needs a number"),
        (("--target", "macs=1.5"), "out of range"),
        (("--target", "macs=nan"), "out of range"),
        (("--target", "drop=-1"), "out of range"),
        (("--target", "0.5"), "isn't known"),
        (("--samples", "0"), "--samples"),
        (("--batch", "many"), "--batch"),
        (("--round-to", "0"), "--round-to"),
        (("--round-to", "four"), "--round-to"),
        (("--keep", "fc1"), "write one like 'conv1*=0.5'"),
        (("--keep", "fc1=0"), "write one like 'conv1*=0.5'"),
        (("--keep", "=0.5"), "write one like 'conv1*=0.5'"),
        (("--keep", "fc1=nan"), "write one like 'conv1*=0.5'"),
        (("--min-channels", "0"), "--min-channels"),
        (("--max-memory", "lots"), "500MB"),
        (("--input-shapes", "1,3,224,224"), "x:1,3,224,224"),
        (("--input-shapes", "x:a,b"), "x:1,3,224,224"),
        (("--input-shapes", "x:1,-3"), "x:1,3,224,224"),
        (("--mean", "grey"), "--mean"),
        (("--std", "0"), "positive std"),
        (("--resize", "big"), "--resize"),
        (("--resize", "0"), "sizes start at 1"),
        (("--layout", "nhcw"), "--layout"),
        (("--plan", "plan.npz", "--target", "macs=0.5"), "leave out --target"),
        (("--what",), "--what"),
        (("third.onnx",), "third.onnx"),
    ],
)
def test_usage(options: tuple[str, ...], says: str, out: Path) -> None:
    fails(2, MLP, out, *options, says=says)


@pytest.mark.parametrize(
    "option",
    [
        ("--recover", "distill"),
        ("--cache", "folder"),
        ("--workers", "2"),
        ("--scheduler", "host"),
        ("--report", "page.html"),
    ],
)
def test_options_that_are_not_there_yet_are_refused(option: tuple[str, ...], out: Path) -> None:
    fails(2, MLP, out, *option, says=option[0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--retrain", "train"), "must say {in} and {out}"),
        (("--serialize", "sometimes"), "'--serialize'"),
        (("--serialize", "auto", "--iterations", "2", "--target", "macs=0.5"), "in steps"),
        (("--iterations", "0"), "'--iterations'"),
        (("--iterations", "2"), "give a target such as macs="),
        (("--iterations", "2", "--target", "macs=0.5", "--save-plan", "p.npz"), "a plan holds one step"),
    ],
)
def test_steps_and_training_that_make_no_sense(options: tuple[str, ...], says: str, out: Path) -> None:
    fails(2, MLP, out, *options, says=says)


def test_arguments_that_are_missing(out: Path) -> None:
    fails(2, MLP, says="Give OUT.onnx")
    fails(2, "prune", says="IN.onnx")
    fails(2, "inspect", says="IN.onnx")
    fails(2, "compare", MLP, says="B.onnx")
    fails(2, "sweep", MLP, says="--to")


# ---- plans


def test_plans_that_do_not_fit(tmp_path: Path, out: Path) -> None:
    plan = tmp_path / "plan.npz"
    fails(1, MLP, out, "--plan", plan, says="does not exist")
    fails(1, MLP, out, "--plan", written(plan, b"PK and nothing"), says="is not a readable plan")
    Plan({"fc1/Gemm": np.arange(500)}).save(plan)
    fails(1, MLP, out, "--plan", plan, says="don't fit its 128 channels")
    fails(1, MODELS / "digits_resnet.onnx", out, "--plan", plan, says="a group 'fc1/Gemm' that this model doesn't have")


def test_plan_over_a_model(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "in.onnx"
    shutil.copy(MLP, source)
    fails(1, source, out, "--save-plan", source, "--force", says="is a model")
    fails(1, source, out, "--save-plan", out, "--force", says="is a model")
    fails(1, source, out, "--save-plan", written(tmp_path / "plan.npz", b""), says="exists already")
    assert source.read_bytes() == MLP.read_bytes()
