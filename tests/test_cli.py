"""The command line as users meet it: forms, options, output, exit codes."""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

import onnxprune
from onnxprune import options, pipeline, tables, terminal
from onnxprune.cli import main
from onnxprune.methods import catalogue
from onnxprune.oracle import Verdict
from onnxprune.report import Loss, Target

MODELS = Path(__file__).parent.parent / "models"
MLP = MODELS / "digits_mlp.onnx"
EVAL = MODELS / "digits_mlp.eval.npz"
FAST = ("--samples", "80", "--target", "macs=0.5")


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def done(*args: object) -> Result:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result


def process(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    command = [sys.executable, "-m", "onnxprune", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=settings, check=False)


def load(path: Path) -> onnx.ModelProto:
    return onnx.load(path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.onnx"


# ---- forms of the command


def test_bare_form_is_prune(tmp_path: Path) -> None:
    done(MLP, tmp_path / "a.onnx", *FAST)
    done("prune", MLP, tmp_path / "b.onnx", *FAST)
    done(*FAST, MLP, tmp_path / "c.onnx")
    assert len({(tmp_path / name).read_bytes() for name in ("a.onnx", "b.onnx", "c.onnx")}) == 1
    onnx.checker.check_model(load(tmp_path / "a.onnx"), full_check=True)


def test_module_and_version() -> None:
    found = process("--version")
    assert (found.returncode, found.stderr) == (0, "")
    assert onnxprune.__version__ in found.stdout
    assert found.stdout.startswith("onnxprune")


@pytest.mark.parametrize("args", [("-h",), ("--help",), ("prune", "-h"), ("a.onnx", "b.onnx", "--help")])
def test_help_shows_every_option_with_its_default(args: tuple[str, ...]) -> None:
    text = done(*args).stdout
    for param in main.commands["prune"].params:
        if isinstance(param, click.Option):
            assert param.opts[-1] in text
            assert param.help
    for words in ("[default: reap]", "[default: dp]", "drop=0.01", "[default: 2GB]", "--help"):
        assert words in text


@pytest.mark.parametrize("command", ["inspect", "compare", "methods"])
def test_help_of_commands(command: str) -> None:
    text = done(command, "-h").stdout
    assert all(p.opts[-1] in text for p in main.commands[command].params if isinstance(p, click.Option))
    assert command in done("-h").stdout


def test_every_option_has_its_place_in_help() -> None:
    placed = {name for names in options.SECTIONS.values() for name in names}
    names = {p.opts[-1][2:] for c in main.commands.values() for p in c.params if isinstance(p, click.Option)}
    assert placed == names | {"version", "help"}


def test_running_the_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["onnxprune", "--version"])
    importlib.import_module("onnxprune.__main__")  # does nothing by itself
    with pytest.raises(SystemExit, match="0"), warnings.catch_warnings(action="ignore"):
        runpy.run_module("onnxprune", run_name="__main__")
    assert capsys.readouterr().out == f"onnxprune, version {onnxprune.__version__}\n"


def test_no_arguments_is_a_usage_error_with_help() -> None:
    result = run()
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert result.stdout == ""


def test_methods_lists_the_registry() -> None:
    text = " ".join(done("methods").stdout.split())
    listed = json.loads(done("methods", "--json").stdout)["methods"]
    assert [m["name"] for m in listed] == [m.name for m in catalogue()]
    for found in catalogue():
        assert found.name in text
        assert found.summary[:20] in text
        assert found.paper[:20] in text


# ---- a run


def test_final_table(out: Path) -> None:
    result = done(MLP, out, *FAST, "--eval", EVAL)
    rows = {line.strip()[:14].strip(): line for line in result.stdout.splitlines()}
    for label in ("parameters", "MACs", "file size", "latency", "agreement", "relative error", "accuracy"):
        assert label in rows, label
    assert "17,024" in rows["MACs"]
    assert "ok" in rows["surgery check"]
    assert "reached" in rows["target macs=0."]
    assert re.search(r"500 samples \(given\), 95 % interval \d\d\.\d to (100|\d\d)\.\d$", rows["agreement"])
    assert "interval" not in rows["relative error"]
    assert re.search(r"loss, 95 % interval -?\d\.\d to \d\.\d points$", rows["accuracy"])
    assert result.stdout.splitlines()[-1].startswith("Go further: ")
    assert "\x1b" not in result.stdout + result.stderr
    assert not any(line.endswith(" ") for line in result.stdout.splitlines())
    assert "kept" not in result.stdout


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        ("digits_resnet.onnx", ("--target", "macs=0.9"), True),
        ("digits_resnet.onnx", ("--target", "macs=0.9", "--serialize", "auto"), False),
        ("digits_resnet.onnx", ("--target", "macs=0.9", "--method", "l1"), False),
        ("digits_resnet.onnx", ("--target", "drop=0.9"), False),
        ("digits_mlp.onnx", ("--target", "macs=0.9"), False),
    ],
)
def test_residual_streams_of_a_target_of_cost_can_be_serialized(
    out: Path, model: str, options: tuple[str, ...], told: bool
) -> None:
    given = "--samples", "100", "--threads", "1", "--dry-run"
    assert ("--serialize auto" in done(MODELS / model, out, *options, *given).stdout) == told


def test_verbose_lists_groups_and_what_is_left_alone(out: Path) -> None:
    text = done(MLP, out, *FAST, "-v").stdout
    assert "kept" in text
    assert "fc1/Gemm" in text
    assert "'logits' is an output of the model" in text


def test_json_is_one_object(out: Path) -> None:
    result = done(MLP, out, *FAST, "--eval", EVAL, "--json")
    found = json.loads(result.stdout)
    assert found["method"] == "reap"
    assert found["targets"] == [{"kind": "macs", "value": 0.5, "reached": True}]
    for when in ("before", "after"):
        assert set(found[when]) >= {"params", "macs", "bytes", "latency_ms"}
    assert found["before"]["bytes"] == MLP.stat().st_size
    assert found["after"]["bytes"] == out.stat().st_size
    assert found["after"]["macs"] <= 0.5 * found["before"]["macs"]
    assert found["fidelity"]["data"] == "given"
    assert found["fidelity"]["samples"] == 500
    assert 0.5 < found["fidelity"]["top1_agreement"] <= 1
    assert found["fidelity"]["relative_error"] > 0
    assert found["accuracy"]["before"] == pytest.approx(0.98)
    assert set(found["surgery_check"]) >= {"max_abs_diff", "ok"}
    assert found["surgery_check"]["ok"] is True
    for group in found["groups"]:
        assert set(group) >= {"name", "channels", "kept", "layers", "error"}
        assert 0 < group["kept"] <= group["channels"]
    assert found["left_alone"] == [{"layer": "fc3/Gemm", "reason": "'logits' is an output of the model"}]
    assert set(found["seconds"]) >= {"calibrate", "select", "reconstruct", "total"}
    assert (found["input"], found["output"], found["seed"]) == (str(MLP), str(out), 0)


def test_a_loss_comes_with_an_interval(out: Path) -> None:
    found = json.loads(done(MLP, out, "--target", "drop=0.02", "--json").stdout)["loss"]
    assert (found["of"], found["samples"]) == ("agreement", 120)
    assert 0 <= found["low"] <= found["value"] <= 0.02 < found["high"]
    assert found["needed"] > 120


@pytest.mark.parametrize(
    ("value", "high", "needed", "said"),
    [
        (0.01, 0.04, 13691, "to be 95 % sure: about 14,000 held-out samples"),
        (0.01, 0.019, 80, "95 % sure"),
        (0.02, 0.05, None, "no number of samples would make it sure"),
        (0.01, None, None, ""),
    ],
)
def test_how_sure_it_is_is_said(value: float, high: float | None, needed: int | None, said: str) -> None:
    loss = Loss("agreement", value, 0.0, high, 120, needed)
    assert tables._evidence(Target("drop", 0.02, True), loss) == said
    assert tables._evidence(Target("drop", 0.02, False), loss) == ""
    assert tables._evidence(Target("macs", 0.5, True), loss) == ""


def test_accuracy_is_null_without_labels(out: Path) -> None:
    assert json.loads(done(MLP, out, *FAST, "--json").stdout)["accuracy"] is None


def test_json_has_no_nan() -> None:
    values = {"a": float("nan"), "b": [np.float32(1.5), float("inf")], "c": {"d": (1, None)}}
    assert terminal.finite(values) == {"a": None, "b": [1.5, None], "c": {"d": [1, None]}}


def test_what_users_code_prints_stays_out_of_the_json(tmp_path: Path, out: Path) -> None:
    script = tmp_path / "data.py"
    script.write_text(
        "import numpy as np\nprint('loading')\n"
        "def reader():\n    print('reading')\n    return [{'x': np.full((1, 64), i / 80, 'f4')} for i in range(80)]\n"
        "def score(path):\n    print('scoring')\n    return 0.5\n"
    )
    given = ("--calib", f"{script}:reader", "--eval", f"{script}:score")
    result = done(MLP, out, "--target", "macs=0.5", *given, "--json")
    assert json.loads(result.stdout)["accuracy"] == {"before": 0.5, "after": 0.5}
    assert "reading" in result.stderr
    assert "scoring" in result.stderr


def test_quiet_says_nothing(out: Path) -> None:
    result = done(MLP, out, *FAST, "-q")
    assert result.stdout + result.stderr == ""
    assert out.exists()


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_synthetic_data_is_said_loudly(tmp_path: Path, out: Path, quiet: tuple[str, ...]) -> None:
    alone = tmp_path / "alone.onnx"
    shutil.copy(MLP, alone)
    result = done(alone, out, *FAST, *quiet)
    assert result.stderr.startswith("warning: no calibration data")
    assert ("(synthetic)" in result.stdout) is not bool(quiet)
    assert ("--calib PATH" in result.stdout) is not bool(quiet)


def test_dry_run_writes_nothing(out: Path) -> None:
    wet = json.loads(done(MLP, out, *FAST, "--json").stdout)
    before = out.read_bytes()
    dry = json.loads(done(MLP, out, *FAST, "--json", "--dry-run").stdout)
    assert out.read_bytes() == before
    assert dry["output"] is None
    assert dry["groups"] == wet["groups"]
    assert dry["after"]["macs"] == wet["after"]["macs"]
    assert "dry run" in done(MLP, "--dry-run", *FAST).stdout


def test_force_overwrites(out: Path) -> None:
    out.write_text("old")
    assert run(MLP, out, *FAST).exit_code == 1
    assert out.read_text() == "old"
    done(MLP, out, *FAST, "--force")
    assert load(out).graph.node


@pytest.mark.parametrize("link", ["same", "symlink", "hardlink"])
def test_input_may_be_overwritten_by_force_only(tmp_path: Path, link: str) -> None:
    source, other = tmp_path / "in.onnx", tmp_path / "link.onnx"
    shutil.copy(MLP, source)
    if link == "symlink":
        other.symlink_to(source)
    elif link == "hardlink":
        other.hardlink_to(source)
    else:
        other = source
    result = run(source, other, *FAST)
    assert result.exit_code == 1
    assert "the input model itself" in result.stderr
    assert source.read_bytes() == MLP.read_bytes()
    done(source, other, *FAST, "--force", "-q")
    assert other.stat().st_size < MLP.stat().st_size
    assert not list(tmp_path.glob(".*"))


def test_plan_gives_the_same_model(tmp_path: Path, out: Path) -> None:
    plan, again = tmp_path / "plan.npz", tmp_path / "again.onnx"
    first = json.loads(done(MLP, out, *FAST, "--save-plan", plan, "--json").stdout)
    second = json.loads(done(MLP, again, "--plan", plan, "--json").stdout)
    assert load(out).graph.SerializeToString(deterministic=True) == load(again).graph.SerializeToString(
        deterministic=True
    )
    assert second["method"] == "plan"
    assert second["targets"] == []
    assert [g["kept"] for g in first["groups"]] == [g["kept"] for g in second["groups"]]
    assert second["surgery_check"]["ok"] is True
    assert "--target" not in done(MLP, again, "--plan", plan, "--force").stdout.splitlines()[-1]


def test_drop_is_the_default_target(out: Path) -> None:
    found = json.loads(done(MLP, out, "--json", "--samples", "100").stdout)
    assert found["targets"] == [{"kind": "drop", "value": 0.01, "reached": True}]
    assert found["after"]["macs"] < found["before"]["macs"]
    assert "--target macs=0.5 for a size" in done(MLP, "--dry-run", "--samples", "100").stdout


@pytest.mark.parametrize(
    "more",
    [
        ("--method", "L1"),
        ("--method", "random", "--seed", "7"),
        ("--allocate", "uniform", "--reconstruct", "local", "--granularity", "channel"),
        ("--reconstruct", "mean", "--round-to", "8", "--min-channels", "16"),
        ("--include", "fc1*", "--provider", "CPUExecutionProvider", "--threads", "1", "--batch", "16"),
        ("--exclude", "fc3*", "--max-memory", "64MB", "--round-to", "auto"),
        ("--input-shapes", "x:1,64"),
        ("--input-shapes", "x:[1,64]"),
        ("--layout", "nchw"),
        ("--keep", "fc1*=0.75", "--keep", "fc[2-9]=0.1"),
    ],
)
def test_options(out: Path, more: tuple[str, ...]) -> None:
    found = json.loads(done(MLP, out, "--samples", "80", "--target", "macs=0.6", "--json", *more).stdout)
    kept = {g["name"]: g["kept"] for g in found["groups"]}
    if "--round-to" in more and "8" in more:
        assert all(n % 8 == 0 and n >= 16 for n in kept.values())
    if "--keep" in more:
        assert kept["fc1/Gemm"] >= 96
        assert kept["fc2/Gemm"] < 64
    if "--include" in more:
        assert kept["fc2/Gemm"] == 64
    if "--exclude" in more:
        assert kept["fc2/Gemm"] == 64
        assert {"layer": "fc2/Gemm", "reason": "left out by --exclude"} in found["left_alone"]


def test_images(tmp_path: Path, out: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 10, 10, 1), np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    given = ("--calib", tmp_path / "images.npy", "--mean", "0.5", "--std", "0.5", "--resize", "8x8", "--mirror")
    done(MODELS / "digits_resnet.onnx", out, "--target", "macs=0.6", *given)


@pytest.mark.parametrize(
    ("text", "value"),
    [("2GB", 2e9), ("500 mb", 5e8), ("1.5GiB", 1.5 * 2**30), ("1e", None), ("0", None), ("4096", 4096)],
)
def test_memory_sizes(text: str, value: float | None) -> None:
    if value is None:
        with pytest.raises(click.BadParameter, match="write one like"):
            options.memory(text)
    else:
        assert options.memory(text) == value


def test_shapes_of_inputs_with_colons() -> None:
    assert options.shape("input:0:[1,3,4]") == ("input:0", (1, 3, 4))
    assert options.resize("256") == 256
    assert options.resize("224,200") == (224, 200)


# ---- other commands


def test_inspect() -> None:
    text = done("inspect", MODELS / "digits_resnet.onnx").stdout
    for words in ("x [N, 1, 8, 8]", "1,123,648", "block1/conv1/Conv", "stream", "26.2 %", "'logits' is an output"):
        assert words in text
    assert "6 layers:" in text
    assert "3 more" in text
    assert "block4/conv2/Conv" in done("inspect", MODELS / "digits_resnet.onnx", "-v").stdout
    assert "stream" not in done("inspect", MLP).stdout


def test_inspect_json() -> None:
    found = json.loads(done("inspect", MODELS / "digits_resnet.onnx", "--json").stdout)
    assert found["size"]["macs"] == 1123648
    assert len(found["groups"]) == 6
    assert sum(g["stream"] for g in found["groups"]) == 2
    assert {"layer": "fc/Gemm", "reason": "'logits' is an output of the model"} in found["left_alone"]
    assert found["inputs"] == {"x": ["N", 1, 8, 8]}


def test_inspect_says_when_nothing_can_go(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'
    )
    onnx.save(model, tmp_path / "relu.onnx")
    result = done("inspect", tmp_path / "relu.onnx", "--input-shapes", "x:2,4")
    assert "No group of channels can be removed." in result.stdout
    assert run("inspect", tmp_path / "relu.onnx", "--input-shapes", "z:2,4").exit_code == 1


def test_compare(out: Path) -> None:
    done(MLP, out, *FAST)
    text = done("compare", MLP, out, "--data", EVAL).stdout
    for words in ("digits_mlp.onnx", "out.onnx", "parameters", "latency", "agreement", "98.0 %", "500 samples"):
        assert words in text
    found = json.loads(done("compare", MLP, out, "--data", MODELS / "digits_mlp.calib.npz", "--json").stdout)
    assert found["accuracy"] is None
    assert found["before"]["macs"] == 17024
    assert found["after"]["bytes"] == out.stat().st_size
    assert found["fidelity"]["samples"] == 600
    same = json.loads(done("compare", MLP, MLP, "--eval", EVAL, "--json").stdout)
    assert same["fidelity"]["relative_error"] == 0
    assert same["accuracy"]["before"] == same["accuracy"]["after"] == pytest.approx(0.98)


def test_compare_on_other_kinds_of_data(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.load(EVAL)["x"][:40])
    assert "40 samples" in done("compare", MLP, MLP, "--data", tmp_path / "x.npy").stdout
    (tmp_path / "cut.npz").write_bytes(EVAL.read_bytes()[:500])
    assert run("compare", MLP, MLP, "--data", tmp_path / "cut.npz").exit_code == 1


def test_outputs_that_are_no_scores_have_no_agreement(tmp_path: Path, out: Path) -> None:
    model = load(MODELS / "digits_resnet.onnx")
    pooled = next(n for n in model.graph.node if n.op_type == "GlobalAveragePool")
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(pooled.output[0], onnx.TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "pool.onnx")
    text = done(tmp_path / "pool.onnx", out, *FAST, "--calib", MODELS / "digits_resnet.calib.npz").stdout
    assert "agreement" not in text
    assert "relative error" in text


def test_compare_without_data_warns(tmp_path: Path) -> None:
    alone = tmp_path / "alone.onnx"
    shutil.copy(MLP, alone)
    result = done("compare", alone, MLP, "--samples", "4")
    assert "warning: no data" in result.stderr
    assert "(synthetic)" in result.stdout


# ---- exit codes 3, 4, 130


def test_unreachable_target_writes_the_best_and_exits_3(tmp_path: Path, out: Path) -> None:
    plan = tmp_path / "plan.npz"
    result = run(MLP, out, "--samples", "80", "--target", "macs=0.001", "--save-plan", plan)
    assert result.exit_code == 3
    assert "missed" in result.stdout
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "stay with every group at its smallest" in result.stderr
    assert "what stands in the way" in result.stderr
    onnx.checker.check_model(load(out), full_check=True)
    assert plan.exists()
    assert not list(tmp_path.glob(".*"))
    found = json.loads(run(MLP, out, "--samples", "80", "--target", "macs=0.001", "--force", "--json").stdout)
    assert found["targets"][0]["reached"] is False
    assert 0 < found["reachable"] < 0.1
    assert found["error"] in result.stderr


def test_nothing_prunable_exits_3_without_a_file(out: Path) -> None:
    result = run(MLP, out, "--exclude", "*", *FAST, "-v")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: nothing in this model can be pruned")
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not out.exists()


def test_failed_surgery_check_exits_4(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.oracle, "check", lambda *_: Verdict(0.5, False, "logits"))
    result = run(MLP, out, *FAST)
    assert result.exit_code == 4
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert not list(out.parent.iterdir())
    assert "Traceback" in run(MLP, out, *FAST, "-v").stderr


def test_interrupt_leaves_nothing(tmp_path: Path, out: Path) -> None:
    script = tmp_path / "data.py"
    lines = (
        "import os, signal",
        "def reader():",
        "    signal.signal(signal.SIGINT, signal.default_int_handler)  # processes in the background ignore it",
        "    os.kill(os.getpid(), signal.SIGINT)",
        "    return []",
    )
    script.write_text("\n".join(lines))
    found = process(MLP, out, "--calib", f"{script}:reader")
    assert found.returncode == 130
    assert found.stderr == "error: interrupted; nothing was written.\n"
    assert {p.name for p in tmp_path.iterdir()} - {"__pycache__"} == {"data.py"}


def test_interrupt_while_writing_leaves_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    assert run(MLP, out, *FAST).exit_code == 130
    assert not list(out.parent.iterdir())


def test_bugs_show_a_traceback(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("onnxprune.search.rank", fail)
    assert isinstance(run(MLP, out, *FAST).exception, ZeroDivisionError)


# ---- terminals


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bars_and_colours_on_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for stream, quiet, drawn in ((Terminal(), False, True), (Terminal(), True, False), (io.StringIO(), False, False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with terminal.working(bars=not quiet) as progress:
            progress("calibrate", 1, 2)
            progress("calibrate", 2, 2)
        assert ("calibrate" in stream.getvalue()) is drawn
    monkeypatch.setattr(sys, "stderr", red := Terminal())
    terminal.say("error", "no [such] file :smile: 'a'.")
    assert red.getvalue().startswith("\x1b[1;31merror:")
    assert "no [such] file :smile: 'a'." in red.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", plain := Terminal())
    terminal.say("error", "no.")
    assert "31m" not in plain.getvalue()
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert terminal.name_width(verbose=False) in (24, tables.NAME)


def test_no_colours_when_piped_whatever_the_environment(out: Path) -> None:
    found = process(MLP, out, *FAST, FORCE_COLOR="1", TERM="xterm-256color")
    assert found.returncode == 0
    assert "\x1b" not in found.stdout + found.stderr
    assert found.stderr.startswith("warning: ")


def test_output_in_any_encoding(out: Path) -> None:
    found = process(MLP, out, *FAST, PYTHONIOENCODING="ascii")
    assert found.returncode == 0
    assert "parameters" in found.stdout


def test_closed_pipe_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: Any, **__: Any) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(click, "echo", closed)
    result = run("inspect", MLP, "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    command = f"'{sys.executable}' -m onnxprune inspect '{MLP}' --json | head -c 1"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert found.stdout == "{"
    assert "Traceback" not in found.stderr


# ---- long names


def test_short_names_keep_both_ends() -> None:
    assert tables.short("fc1") == "fc1"
    name = "model/" + "x" * 200 + "/Conv2D"
    assert len(tables.short(name)) == tables.NAME
    assert tables.short(name).startswith("model/")
    assert tables.short(name).endswith("/Conv2D")
    assert tables.short(name, tables.WHOLE) == name


def test_reasons_that_differ_in_a_name_stand_together() -> None:
    left = [{"layer": f"l{i}", "reason": f"Softmax 's{i}' mixes all channels"} for i in range(9)]
    text = _rendered(tables.untouched(left))
    assert "9 layers: l0, l1, l2 and 6 more" in text
    assert "Softmax '…' mixes" in text
    assert "Softmax 's7' mixes" in _rendered(tables.untouched(left, tables.WHOLE))
    assert "Softmax 's1' mixes" in _rendered(tables.untouched(left[:2]))


def _rendered(table: Any) -> str:
    console = terminal.console()
    with console.capture() as captured:
        console.print(table)
    return captured.get()
