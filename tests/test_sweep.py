"""Several models from one calibration, their knee, and their picture."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import models
import onnxprune
from onnxprune import search
from onnxprune.cli import main
from onnxprune.cost import total_macs
from onnxprune.errors import BudgetError, UsageError
from onnxprune.graph import Graph
from onnxprune.picture import Dot, _ticks, pareto
from onnxprune.report import Target
from onnxprune.sweep import Point, counted, expanded, knee

MLP = Path(__file__).parent.parent / "models" / "digits_mlp.onnx"
FAST = ("--samples", "80")
GIVEN = {"round_to": 1, "runtime": models.RUNTIME, "measure_latency": False}


def run(*args):
    return CliRunner().invoke(main, ["sweep", *map(str, args)])


# ---- Points


def test_one_ranking_serves_all_targets_and_each_model_is_that_of_a_run_of_its_own(monkeypatch):
    model, ranked, rank = models.convs(), [], search.rank
    data = models.data(model, 80)
    monkeypatch.setattr(search, "rank", lambda run: ranked.append(run) or rank(run))
    points = list(onnxprune.sweep(model, ["macs=0.8,0.5", "params=0.6"], calibration=data, **GIVEN))
    assert len(ranked) == 1
    assert [p.target for p in points] == [Target("macs", 0.8), Target("macs", 0.5), Target("params", 0.6)]
    for point in points:
        target = f"{point.target.kind}={point.target.value}"
        alone = onnxprune.prune(model, target=target, calibration=data, **GIVEN)
        assert point.result.model == alone.model
        assert point.result.report.loss == alone.report.loss
        assert point.result.report.seconds.keys() == alone.report.seconds.keys()


def test_losses_may_be_targets():
    model = models.tokens()
    points = list(onnxprune.sweep(model, ["drop=0.05,0.3"], calibration=models.data(model, 100), **GIVEN))
    losses = [point.result.report.loss for point in points]
    assert losses[0].value <= 0.05 < losses[1].value <= 0.3
    assert losses[0].samples == 20


def test_blocks_go_in_a_sweep_too():
    model = models.residual("identity")
    given = GIVEN | {"calibration": models.data(model, 100), "method": "shallow"}
    points = list(onnxprune.sweep(model, "macs=0.8,0.3", **given))
    gone = [{b.name for b in p.result.report.blocks if b.removed} for p in points]
    assert gone[0] < gone[1]


def test_what_is_out_of_reach_is_a_point_with_the_best_there_is():
    model = models.mlp()
    points = list(onnxprune.sweep(model, "macs=0.01,0.7", calibration=models.data(model, 60), **GIVEN))
    assert "ask for that or more" in str(points[0].failure)
    assert not points[0].result.report.targets[0].reached
    assert total_macs(Graph(points[0].result.model)) / total_macs(Graph(model)) <= points[0].failure.reachable
    assert points[1].failure is None
    assert total_macs(Graph(points[1].result.model)) <= 0.7 * total_macs(Graph(model))


def test_where_nothing_can_be_pruned_there_are_no_points():
    model = models.mlp()
    with pytest.raises(BudgetError, match="nothing in this model can be pruned"):
        next(onnxprune.sweep(model, "macs=0.5", calibration=models.data(model, 60), exclude=("*",), **GIVEN))


@pytest.mark.parametrize(
    ("targets", "options", "said"),
    [
        ((), {}, "a sweep needs targets"),
        ("macs=0.5,half", {}, "needs a number"),
        ("speed=2", {}, "isn't known"),
        ("macs", {}, "needs a number"),
        ("macs=0.5", {"iterations": 2}, "leave out iterations"),
        ("macs=0.5", {"plan": onnxprune.Plan()}, "leave out plan"),
    ],
)
def test_sweeps_that_make_no_sense(targets, options, said):
    with pytest.raises(UsageError, match=said):
        next(onnxprune.sweep(models.mlp(), targets, **options))


def test_targets_are_taken_once_and_in_order():
    every = Target("macs", 0.8), Target("macs", 0.4), Target("drop", 0.1)
    assert expanded(["macs=0.8,0.4", "drop=0.1", "macs=0.40"]) == every
    assert expanded(["macs=0.8,macs=0.4,drop=0.1"]) == every
    assert expanded(["macs=0.8,0.4,drop=0.1,macs=0.8"]) == every


# ---- The knee


def points(*known, kind="macs"):
    """Points of (share kept, loss); None is one that wasn't reached."""
    made = []
    for one in known:
        if one is None:
            made.append(Point(Target(kind, 0.01), None, BudgetError("no")))
            continue
        kept, loss = one
        report = SimpleNamespace(kept=lambda what, kept=kept: kept if what == kind else None)
        report.loss = SimpleNamespace(value=loss, low=None, high=None, of="agreement")
        made.append(Point(Target(kind, kept), SimpleNamespace(report=report)))
    return made


@pytest.mark.parametrize(
    ("known", "place"),
    [
        ([(0.8, 0.0), (0.6, 0.01), (0.4, 0.3), (0.2, 0.5)], 1),
        ([(0.2, 0.5), (0.4, 0.03), (0.6, 0.02), (0.8, 0.0)], 1),
        ([(0.8, 0.01), None, (0.5, 0.02), (0.3, 0.3), None], 2),
        ([(0.75, 0.1), (0.5, 0.2), (0.25, 0.3)], None),  # a straight line
        ([(0.8, 0.2), (0.2, 0.3)], None),  # bent the other way
        ([(0.8, 0.0), (0.5, 0.0)], None),  # nothing is lost
        ([(0.5, 0.1)], None),
        ([None], None),
        ([], None),
    ],
)
def test_the_knee_is_farthest_below_the_line(known, place):
    assert knee(points(*known)) == place
    assert knee(points(*known, kind="size")) == place


def test_what_a_sweep_is_about():
    assert counted([Target("size", 0.5), Target("size", 0.4)]) == "size"
    assert counted([Target("size", 0.5), Target("params", 0.4)]) == "macs"
    assert counted([Target("drop", 0.5)]) == "macs"


# ---- The picture


def test_the_picture_shows_every_model_within_its_frame():
    dots = [
        Dot(1.0, 0.0, None, None, "original"),
        Dot(0.4, 0.1, -0.02, 0.3, "a<b&c", True),
        Dot(0.7, 0.01, 0, 0.02, "b"),
    ]
    root = ElementTree.fromstring(pareto("x & y", "MACs kept", "lost", dots))
    tag = "{http://www.w3.org/2000/svg}"
    circles = [(float(c.get("cx")), float(c.get("cy")), c.get("r")) for c in root.iter(f"{tag}circle")]
    assert [r for _, _, r in circles] == ["4", "4", "4", "8"]
    assert circles[2][:2] == circles[3][:2]
    assert circles[0][0] > circles[1][0] > circles[2][0]  # from right to left
    assert circles[0][1] > circles[1][1] > circles[2][1]  # more is lost
    width, height = map(float, root.get("viewBox").split()[2:])
    for line in root.iter(f"{tag}line"):
        assert all(0 < float(line.get(a)) < width for a in ("x1", "x2"))
        assert all(0 < float(line.get(a)) < height for a in ("y1", "y2"))
    assert {"a<b&c", "original", "MACs kept, %"} <= {t.text for t in root.iter(f"{tag}text")}


@pytest.mark.parametrize(("low", "high"), [(0, 100), (-3, 7.2), (0, 0.012), (0, 1), (-40, 3)])
def test_ticks_are_round_few_and_enclose(low, high):
    ticks = _ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 3 <= len(ticks) <= 8
    np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0])
    assert f"{ticks[1] - ticks[0]:e}"[0] in "125"


# ---- The command


def test_a_sweep_writes_models_a_table_and_a_picture(tmp_path):
    folder = tmp_path / "new" / "models"
    result = run(MLP, "--to", folder, "--targets", "macs=0.7,0.4", *FAST, "--eval", MLP.with_suffix(".eval.npz"))
    assert result.exit_code == 0, result.output
    names = ["digits_mlp-macs0.4.onnx", "digits_mlp-macs0.7.onnx", "digits_mlp-pareto.svg"]
    assert sorted(p.name for p in folder.iterdir()) == names
    for name, share in zip(names[:2], (0.4, 0.7), strict=True):
        assert total_macs(Graph(onnx.load(folder / name))) <= share * 17024
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert re.search(r"17,024 .* 98\.0 % +original$", rows["digits_mlp.onnx"])
    assert rows["macs=0.7"].split()[1].startswith("0.6")
    assert rows["macs=0.4"].split()[1].startswith("0.3")
    assert re.search(r"\(\d\d\.\d–\d+\.\d\)", result.stdout)
    assert "digits_mlp-pareto.svg" in result.stdout.splitlines()[-1]
    ElementTree.parse(folder / names[2])


def test_json_of_a_sweep(tmp_path):
    result = run(MLP, "--to", tmp_path, "--targets", "macs=0.7,0.3,0.15", "--targets", "macs=0.001", *FAST, "--json")
    assert result.exit_code == 3
    found = json.loads(result.stdout)
    assert [p["targets"][0]["reached"] for p in found["points"]] == [True, True, True, False]
    outs = [str(tmp_path / f"digits_mlp-macs{value}.onnx") for value in (0.7, 0.3, 0.15, 0.001)]
    assert [p["output"] for p in found["points"]] == outs
    assert found["points"][0]["after"]["bytes"] == (tmp_path / "digits_mlp-macs0.7.onnx").stat().st_size
    assert "ask for that or more" in found["points"][3]["error"]
    assert 0 < found["points"][3]["reachable"] < 0.1
    assert found["knee"] in outs
    assert found["picture"] == str(tmp_path / "digits_mlp-pareto.svg")


def test_what_is_out_of_reach_is_a_row_and_exit_code_3(tmp_path):
    result = run(MLP, "--to", tmp_path, "--targets", "macs=0.001,0.5", *FAST)
    assert result.exit_code == 3
    assert re.search(r"^ macs=0.001 +0.0\d\d .* out of reach$", result.stdout, re.MULTILINE)
    assert "macs=0.001: the target is 0.1% of the original" in result.stdout
    assert "error: 1 of 2 targets can't be reached: the target is 0.1%" in result.stderr
    left = {p.name: total_macs(Graph(onnx.load(p))) / 17024 for p in tmp_path.glob("*.onnx")}
    assert left.keys() == {"digits_mlp-macs0.001.onnx", "digits_mlp-macs0.5.onnx"}
    assert 0.001 < left["digits_mlp-macs0.001.onnx"] < 0.1


def test_where_nothing_was_found_there_is_no_model(tmp_path):
    score = tmp_path / "score.py"
    score.write_text(f"import os\ndef score(path): return float(os.path.getsize(path) > {MLP.stat().st_size - 100})\n")
    result = run(MLP, "--to", tmp_path / "out", "--targets", "drop=0.1", *FAST, "--eval", f"{score}:score")
    assert result.exit_code == 3, result.output
    assert re.search(r"^ drop=0.1 +– .* out of reach$", result.stdout, re.MULTILINE)
    assert "error: 1 of 1 targets can't be reached: no pruning was found" in result.stderr
    assert not list((tmp_path / "out").iterdir())


def test_nothing_is_overwritten_without_force(tmp_path):
    old = tmp_path / "digits_mlp-macs0.5.onnx"
    old.write_text("old")
    args = (MLP, "--to", tmp_path, "--targets", "macs=0.7,0.5", *FAST)
    result = run(*args)
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == [old.name]
    assert run(*args, "--force", "-q").output == ""
    assert len(onnx.load(old).graph.node)
    assert run(MLP, "--to", old).exit_code == 1
    assert run(MLP).exit_code == 2


def test_an_interrupt_keeps_what_is_finished(tmp_path, monkeypatch):
    sweep = onnxprune.sweep

    def interrupted(*args, **options):
        yield next(sweep(*args, **options))
        raise KeyboardInterrupt

    monkeypatch.setattr(onnxprune, "sweep", interrupted)
    result = run(MLP, "--to", tmp_path, "--targets", "macs=0.7,0.5", *FAST)
    assert result.exit_code == 130
    assert "interrupted; 1 of 2 models were written" in result.stderr
    assert "macs=0.7" in result.stdout
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".onnx", ".svg"]
