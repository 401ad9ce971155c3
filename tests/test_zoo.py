"""What the zoo of real architectures taught, as small graphs; and the zoo's own tool on small models."""

from __future__ import annotations

import itertools
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import CASES, Case
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import zoo
import zoo_checks
import zoo_merged
import zoo_producers
import zoo_table

from onnxprune.coupling import couple
from onnxprune.graph import Graph
from onnxprune.oracle import check, comparable
from onnxprune.plan import Plan
from onnxprune.rewrite import rewrite
from onnxprune.runtime import Runtime

X = "float[N,3,8,8] x"
RUNTIME = Runtime(threads=1)
MODELS = sorted((Path(__file__).parent.parent / "models").glob("*.onnx"))


def graph(body: str, outputs: str, inputs: str = X, **weights: object) -> Graph:
    return Graph(Case("taught", inputs, outputs, body, weights).model())


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_small_trained_models_pass(path):
    record = zoo_checks.surgery(path)
    assert record["failures"] == []
    assert record["signature"]
    assert record["difference"] <= 1e-4
    assert 0 < record["kept"] < 1


@pytest.mark.parametrize(
    "name",
    ["residual_projection", "densenet", "inverted_residual", "shufflenet_v2", "unet", "lstm_in_both_directions"],
)
def test_topologies_pass(name, tmp_path):
    onnx.save(CASES[name].model(), tmp_path / "m.onnx")
    assert zoo_checks.surgery(tmp_path / "m.onnx")["failures"] == []


def test_dims_of_one_head_go(tmp_path):
    onnx.save(CASES["attention_of_one_head_with_filters"].model(), tmp_path / "m.onnx")
    found = {stage: zoo_checks.STAGES[stage](tmp_path / "m.onnx") for stage in ("surgery", "dims")}
    assert {stage: (record["groups"], record["failures"]) for stage, record in found.items()} == {
        "surgery": (1, []),
        "dims": (2, []),
    }


@pytest.mark.parametrize("stage", ["magnitude", "reap"])
def test_a_third_goes_by_the_whole_tool(stage):
    record = zoo_checks.STAGES[stage](MODELS[0])
    assert record["failures"] == []
    assert record["target"] - 0.1 < record["kept"] <= record["target"] < 0.9
    assert {"calibrate", "select", "rewrite", "verify"} <= set(record["stages"])


@pytest.mark.parametrize("stage", ["basic", "extended"])
def test_optimizations_leave_the_groups(stage):
    """A graph that onnxruntime has optimized has the groups that it had."""
    record = zoo_checks.STAGES[stage](MODELS[0])
    assert record["failures"] == []
    assert record["signature"] == zoo_checks.surgery(MODELS[0])["signature"]


LAST = Case("last", X, "float[N,2,8,8] y", "y = Conv (x, w)", {"w": (2, 3, 1, 1)})
CHOICE = Case("choice", X + ", bool c", "float[N,2,8,8] y", """
    a = Conv(x, w1)
    b = If(c) <then_branch = t () => (float[N,6,8,8] q) { q = Relu(a) },
               else_branch = e () => (float[N,6,8,8] q) { q = Neg(a) }>
    y = Conv(b, w2)
""", {"w1": (6, 3, 1, 1), "w2": (2, 6, 1, 1)})  # fmt: skip


@pytest.mark.parametrize("case", [LAST, CASES["gate_over_places"]])
def test_nothing_is_wrong_where_nothing_can_go(case, tmp_path):
    onnx.save(case.model(), tmp_path / "m.onnx")
    record = zoo_checks.surgery(tmp_path / "m.onnx")
    assert (record["groups"], record["failures"]) == (0, [])
    assert "skipped" in zoo_checks.STAGES["reap"](tmp_path / "m.onnx")


def test_merged_decoders_answer_as_each_and_share_their_weights(tmp_path):
    body, weights = "h = MatMul(x, w1) r = Relu(h) {} y = MatMul(c, w2)", {"w1": (3, 5), "w2": (5, 2)}
    first = Case("first", "float[N,3] x", "float[M,2] y", body.format("c = Identity(r)"), weights)
    later = Case(
        "later", "float[N,3] x, float[P,5] past", "float[M,2] y", body.format("c = Concat<axis=0>(past, r)"), weights
    )
    for case in (first, later):
        onnx.save(case.model(), tmp_path / f"{case.name}.onnx")
    zoo_merged.merge(tmp_path / "later.onnx", tmp_path / "first.onnx", tmp_path / "merged.onnx")
    feed = {"x": np.ones((2, 3), np.float32), "past": np.ones((4, 5), np.float32)}
    merged = RUNTIME.session(onnx.load(tmp_path / "merged.onnx"))
    for case, given in ((first, {"x": feed["x"]}), (later, feed)):
        found = merged.run(feed | {"use_cache_branch": np.array([case is later])})
        np.testing.assert_array_equal(found["y"], RUNTIME.session(case.model()).run(given)["y"])
    assert len(onnx.load(tmp_path / "merged.onnx").graph.initializer) == 2
    assert zoo_checks.surgery(tmp_path / "merged.onnx")["reasons"] == [("If has a body that isn't looked into", 1)]


def test_nothing_to_prune_fails_where_something_might_go(tmp_path):
    onnx.save(CHOICE.model(), tmp_path / "m.onnx")
    assert zoo_checks.surgery(tmp_path / "m.onnx")["failures"] == ["nothing goes: If has a body that isn't looked into"]


def test_another_interface_is_noticed():
    before, after = CASES["unet"].model(), CASES["unet"].model()
    assert zoo_checks.redeclared(before, after) == ""
    after.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert "outputs" in zoo_checks.redeclared(before, after)


def test_a_third_goes_of_each_cell():
    kept = zoo_checks.third(np.array([0] * 6 + [1] * 6 + [2] * 6), 0)
    assert [np.sum(kept // 6 == cell) for cell in range(3)] == [4, 4, 4]
    assert zoo_checks.third(np.zeros(1, np.int64), 0).tolist() == [0]


def test_caffe2_models_get_weights(tmp_path):
    zoo_producers.export("onnx/squeezenet", "caffe2", tmp_path / "m.onnx", 0)
    record = zoo_checks.surgery(tmp_path / "m.onnx")
    assert record["failures"] == []
    assert record["signature"]["128"] == 4


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_results_survive_a_crash(tmp_path, monkeypatch):
    assert "died" in zoo.apart(partial(os._exit, 3), 20)["error"]
    monkeypatch.setattr(zoo, "PATIENCE", 1)
    assert "seconds" in zoo.apart(partial(time.sleep, 30), 1)["error"]
    monkeypatch.setattr(zoo, "PATIENCE", 60)
    assert "seconds" in zoo.apart(partial(all, itertools.count(1)), 1)["error"]
    assert zoo.apart(lambda: {"x": 1}, 20) == {"x": 1}
    for number in (1, 2):
        zoo.append(tmp_path / "r.jsonl", {"x": "a", "y": np.float32(number)})
    assert zoo.latest(tmp_path / "r.jsonl", "x") == {("a",): {"x": "a", "y": 2.0}}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_runs_go_on_where_they_stopped(tmp_path):
    onnx.save(CASES["unet"].model(), tmp_path / "m.onnx")
    zoo.append(tmp_path / "built.jsonl", {"file": "m.onnx", "name": "l/m", "exporter": "e", "parameters": 0.1})
    first = CliRunner().invoke(zoo.main, ["run", str(tmp_path)])
    assert first.output.startswith("m.onnx surgery: pass")
    assert CliRunner().invoke(zoo.main, ["run", str(tmp_path)]).output == ""
    assert CliRunner().invoke(zoo.main, ["table", str(tmp_path), str(tmp_path / "t.md")]).exit_code == 0
    assert ": **1 pass, 0 fail**" in (tmp_path / "t.md").read_text("utf-8")


def test_the_table_says_what_failed():
    built = [
        {"file": f"l.{n}.{e}.onnx", "name": f"l/{n}", "exporter": e} for n in "ab" for e in ("torchscript", "dynamo")
    ]
    built[3]["error"] = "no\nway /x/y/z"
    right = {
        "nodes": 3,
        "groups": 2,
        "share": 0.5,
        "narrowed": 0.4,
        "signature": {"8": 2},
        "reasons": [["…", 7]],
        "failures": [],
    }
    right |= {"inspect": 0.1, "seconds": 0.2, "difference": 0.0, "stage": "surgery", "commit": "c0de"}
    results = [
        {"file": "l.a.torchscript.onnx"} | right,
        {"file": "l.a.torchscript.onnx"} | right | {"stage": "slim", "signature": {"8": 1, "4": 1}},
        {"file": "l.a.torchscript.onnx", "stage": "reap", "error": "took more than 9 seconds"},
        {"file": "l.a.dynamo.onnx"} | right,
        {"file": "l.b.torchscript.onnx"} | right | {"failures": ["nothing goes"]},
    ]
    built.append({"file": "l.z.e.onnx", "name": "l/z", "exporter": "e", "error": "left out: too large"})
    results.append({"file": "l.z.e.onnx", "stage": "surgery", "error": "the process died"})  # when it was there
    text = zoo_table.document(built, results, zoo.TIMEOUT | {"reap": 9})
    assert "3 models pruned (3 at c0de): **2 pass, 1 fail**" in text
    assert "- l: 3 architectures tried, 2 exported, 1 pass." in text
    assert "| l/a | torchscript | 3 | 2 | 50% (40%) | 7 × … | 0.1 / – / > 9 | 0e+00 | s −8×1 +4×1 | pass |" in text
    assert "| l/a | dynamo | 3 | 2 | 50% (40%) | 7 × … | 0.1 / – / – | 0e+00 | t = | pass |" in text
    assert "- l/b (torchscript), surgery: nothing goes" in text
    assert "## Exported otherwise\n\n- by dynamo, no way …: l/b\n" in text
    older = text.replace("l/a", "l/c") + "| l/d | e | 1 | 0 | 0% (0%) |  | – / – / – | 0e+00 |  | none can |\n"
    kept = zoo_table.before(text + older, text, "c0de")
    assert "3 models, not run again since this page was as in commit c0de" in kept
    assert ": 3 pass, 0 fail." in kept
    assert [row[0] for row in zoo_table._cells(kept)] == ["l/c", "l/c", "l/d"]
    assert zoo_table.before(text, text, "c0de") == ""
    assert "- reap: 1 models, 0 pruned, 0 fail, 1 stopped after 9 s." in text


# ---------------------------------------------------------------------------------------------- what was wrong


def test_an_empty_sequence_is_no_tensor():
    body = "s = SequenceEmpty()\nt = SequenceInsert(s, x)\ny = ConcatFromSequence<axis=1>(t)"
    found = graph(body, "float[N,3,8,8] y")
    assert "s" not in found.static
    assert "s" not in found.shapes
    couple(found)


def test_floors_of_sizes_are_exact():
    """A detector scales its image by a factor that it computes from the image's size: its layers are compared."""
    body = """
        size = Shape (x)
        real = Cast <to = 1> (size)
        half = Floor (real)
        whole = Cast <to = 7> (half)
        r = Reshape (x, whole)
        a = Conv (r, w)
        i = ArgMax <axis = 1> (a)
        y = Cast <to = 1> (i)
    """
    assert set(comparable(graph(body, "float[N,1,8,8] y", w=(6, 3, 1, 1)))) == {"a", "y"}


def test_masks_of_tokens_are_exact():
    """What only integer inputs decide doesn't differ between two models that round otherwise."""
    body = """
        f = Equal (t, pad)
        m = Unsqueeze (f, last)
        e = Gather (table, t)
        h = MatMul (e, w)
        y = Where (m, zero, h)
    """
    weights = {"pad": [0], "last": [-1], "table": (9, 4), "w": (4, 6), "zero": np.zeros(1, np.float32)}
    assert set(comparable(graph(body, "float[N,5,6] y", "int64[N,5] t", **weights))) == {"y"}


def test_a_jump_of_looked_up_values_is_a_jump():
    body = "e = Gather (table, t)\ny = Floor (e)"
    assert set(comparable(graph(body, "float[N,5,4] y", "int64[N,5] t", table=(9, 4)))) == {"e"}


def test_heads_of_swin_go_with_their_positions_and_norms():
    """A table of biases by head, looked up at computed places, and norms that are expanded to the heads' own shape."""
    body = """
        q1 = MatMul (x, wq)
        q2 = Reshape (q1, split)
        q3 = Transpose <perm = [0, 2, 1, 3]> (q2)
        n = ReduceL2 <axes = [-1], keepdims = 1> (q3)
        s = Shape (q3)
        e = Expand (n, s)
        q = Div (q3, e)
        k1 = MatMul (x, wk)
        k2 = Reshape (k1, split)
        k = Transpose <perm = [0, 2, 3, 1]> (k2)
        p = MatMul (q, k)
        b1 = Gather (table, i)
        b2 = Reshape (b1, square)
        b = Transpose <perm = [2, 0, 1]> (b2)
        z = Add (p, b)
        a = Softmax <axis = -1> (z)
        v1 = MatMul (x, wv)
        v2 = Reshape (v1, split)
        v = Transpose <perm = [0, 2, 1, 3]> (v2)
        o = MatMul (a, v)
        o1 = Transpose <perm = [0, 2, 1, 3]> (o)
        o2 = Reshape (o1, join)
        y = MatMul (o2, wo)
    """
    weights = {"wq": (6, 8), "wk": (6, 8), "wv": (6, 8), "wo": (8, 3), "table": (5, 4)}
    sizes = {"split": [0, 0, 4, 2], "square": [5, 5, 4], "join": [0, 0, 8]}
    case = Case("heads", "float[N,5,6] x, int64[25] i", "float[N,5,3] y", body, weights | sizes)
    coupling = couple(Graph(case.model()))
    (heads,) = (g for g in coupling.groups if any(m.tensor == "table" for m in g.members))
    assert heads.channels == 4
    plan = Plan({heads.name: np.asarray([0, 2])})
    pruned = rewrite(coupling, plan)
    assert {tuple(t.dims) for t in pruned.graph.initializer} >= {(6, 4), (4, 3), (5, 2)}
    assert check(coupling, plan, pruned, [case.feed()]).ok


def test_a_repeated_axis_leaves_channels_free_at_any_batch():
    """Keys repeated for their queries: the batch is known only at run time, the axis that is made is not."""
    body = """
        a = Conv (x, w1)
        u = Unsqueeze (a, two)
        s = Shape <end = 1> (x)
        t = Concat <axis = 0> (s, rest)
        e = Expand (u, t)
        r = ReduceSum <keepdims = 0> (e, two)
        y = Conv (r, w2)
    """
    weights = {"w1": (4, 3, 1, 1), "w2": (2, 4, 1, 1), "two": [2], "rest": [4, 3, 8, 8]}
    case = Case("repeated", X, "float[N,2,8,8] y", body, weights)
    coupling = couple(Graph(case.model()))
    plan = Plan({"a": np.asarray([1, 2])})
    assert check(coupling, plan, rewrite(coupling, plan), [case.feed(), case.feed(3)]).ok


def test_elements_of_a_single_row_are_gathered():
    body = "p = GatherElements <axis = 1> (row, i)\ne = Cast <to = 1> (p)\na = Add (x, e)\ny = MatMul (a, w)"
    found = graph(body, "float[N,2] y", "float[N,3] x", row=[[4, 5, 6, 7]], i=[[1, 0, -1]], w=(3, 2))
    assert found.array("p").tolist() == [[5, 4, 7]]
