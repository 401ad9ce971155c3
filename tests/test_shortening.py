"""Blocks that go for a target of time, with a clock that counts instead of measuring."""

from itertools import product

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import models
import onnxprune
from onnxprune import clock, oracle, shortening
from onnxprune.allocation import Curve
from onnxprune.errors import BudgetError
from onnxprune.files import Model
from onnxprune.segments import Segment, segments
from onnxprune.shortening import Shortened, _either, linked

STREAM, HIDDEN, BLOCKS = 6, 8, 6


def network(seed=0, answers=3):
    """Residual blocks of two layers on one stream, between a first and a last layer."""
    body, weights = "[stem] r0 = Gemm(x, w)\n", {"w": (4, STREAM), "v": (STREAM, answers)}
    for i in range(BLOCKS):
        body += f"""
            [first{i}] a{i} = Gemm(r{i}, u{i}, ub{i})
            h{i} = Relu(a{i})
            [last{i}] f{i} = Gemm(h{i}, d{i})
            r{i + 1} = Add(r{i}, f{i})"""
        weights |= {f"u{i}": (STREAM, HIDDEN), f"ub{i}": (HIDDEN,), f"d{i}": (HIDDEN, STREAM)}
    made = f"float[N,{answers}] y"
    return models.build("float[N,4] x", made, f"{body}\n y = Gemm(r{BLOCKS}, v)", weights, seed=seed)


def counted(model, step):
    """Made-up milliseconds: products of widths, hidden ones rounded up to a step."""
    proto = onnx.load(model) if isinstance(model, str) else model.proto if isinstance(model, Model) else model
    matrices = [numpy_helper.to_array(t) for t in proto.graph.initializer if len(t.dims) > 1]
    return 50.0 + sum(np.prod([n if n in (STREAM, 4, 3) else -(-n // step) * step for n in m.shape]) for m in matrices)


@pytest.fixture(params=[2, HIDDEN])
def step(request, monkeypatch):
    """The step in which time goes; with that of all hidden channels only whole blocks save any."""

    def in_turns(found, feed, runtime, **limits):
        return np.tile([counted(model, request.param) for model in found], (7, 1))

    monkeypatch.setattr(clock, "in_turns", in_turns)
    monkeypatch.setattr(clock, "apart", in_turns)
    return request.param


def pruned(model, target, **options):
    given = {"calibration": models.data(model, 200, rank=4), "runtime": models.RUNTIME, "round_to": 2} | options
    return onnxprune.prune(model, target=target, **given)


def test_blocks_go_where_only_they_save_time(step):
    model = network()
    result = pruned(model, "latency=0.7")
    ratio = counted(result.model, step) / counted(model, step)
    assert ratio <= 0.7
    assert result.report.latency.ratio == pytest.approx(ratio)
    assert result.report.targets[0].reached
    assert result.report.surgery_check["ok"]
    adds = sum(node.op_type == "Add" for node in result.model.graph.node)
    assert adds < BLOCKS
    assert sum(len(run) - 1 for run in result.plan.merged) == BLOCKS - adds
    feed = {"x": models.data(model, 10)}
    again = onnxprune.apply(model, result.plan)
    assert models.values(again, feed)["y"] == pytest.approx(models.values(result.model, feed)["y"], abs=1e-5)


def test_blocks_can_be_kept(step):
    model = network()
    if step == HIDDEN:
        with pytest.raises(BudgetError, match="stay with every group at its smallest"):
            pruned(model, "latency=0.7", blocks="keep")
    else:
        result = pruned(model, "latency=0.7", blocks="keep")
        assert sum(node.op_type == "Add" for node in result.model.graph.node) == BLOCKS
        assert result.report.latency.ratio <= 0.7


def test_merged_blocks_answer_better_than_blocks_taken_out(step):
    model = network()
    merged = pruned(model, "latency=0.7")
    removed = pruned(model, "latency=0.7", method="shallow")
    assert merged.report.fidelity.relative_error < removed.report.fidelity.relative_error


def test_a_target_of_both_time_and_multiplications(step):
    model = network()
    result = pruned(model, ["latency=0.8", "macs=0.5"])
    assert all(target.reached for target in result.report.targets)


def test_a_target_of_both_time_and_loss(step):
    """Where both can hold, they do; else it is the loss that holds, at less time than if all blocks stayed."""
    model = network(seed=2, answers=1)
    loose = pruned(model, ["latency=0.5", "drop=0.5"])
    assert [target.reached for target in loose.report.targets] == [True, True]
    found = {}
    for blocks in ("auto", "keep"):
        with pytest.raises(BudgetError, match=r"more than the 0.065 allowed|stay with every group") as caught:
            pruned(model, ["latency=0.5", "drop=0.065"], blocks=blocks)
        found[blocks] = caught.value.result
        assert [target.reached for target in found[blocks].report.targets] == [False, True]
        assert 0.03 < found[blocks].report.loss.value <= 0.065
    assert found["auto"].plan.merged
    assert counted(loose.model, step) < counted(found["auto"].model, step) < counted(found["keep"].model, step)


def test_channels_alone_have_a_try(step):
    """Of this network blocks that go lose more than channels, so they go only where channels save no time."""
    result = pruned(network(seed=4, answers=1), ["latency=0.5", "drop=0.1"])
    assert bool(result.plan.merged) == (step == HIDDEN)
    assert all(target.reached for target in result.report.targets)


def test_a_sweep_measures_blocks_once(step, monkeypatch):
    model, measured = network(answers=1), []
    monkeypatch.setattr(shortening, "segments", lambda *known: measured.append(known) or segments(*known))
    given = {"calibration": models.data(model, 200, rank=4), "runtime": models.RUNTIME, "round_to": 2}
    points = list(onnxprune.sweep(model, ["latency=0.8,0.5", "drop=0.3"], **given))
    assert len(measured) == 1
    assert [point.failure for point in points] == [None] * 3
    assert [bool(point.result.plan.merged) for point in points] == [True, True, False]
    assert points[1].result.report.latency.ratio <= 0.5 < points[0].result.report.latency.ratio <= 0.8


def test_a_loss_that_no_shorter_network_keeps_to(step):
    model = network(answers=1)
    with pytest.raises(BudgetError, match="more than the 0 allowed") as caught:
        pruned(model, ["latency=0.5", "drop=0"])
    assert caught.value.result is None


def test_no_block_goes_for_a_target_without_time(step):
    result = pruned(network(), "macs=0.5")
    assert result.plan.merged == ()


def bottlenecks(seed=0):
    """Residual blocks of three layers."""
    body, weights = "[stem] r0 = Gemm(x, w)\n", {"w": (4, STREAM), "v": (STREAM, 3)}
    for i in range(BLOCKS):
        body += f"""
            [first{i}] a{i} = Gemm(r{i}, u{i}, ub{i})
            h{i} = Relu(a{i})
            [middle{i}] b{i} = Gemm(h{i}, m{i})
            g{i} = Relu(b{i})
            [last{i}] f{i} = Gemm(g{i}, d{i})
            r{i + 1} = Add(r{i}, f{i})"""
        weights |= {
            f"u{i}": (STREAM, HIDDEN),
            f"ub{i}": (HIDDEN,),
            f"m{i}": (HIDDEN, HIDDEN),
            f"d{i}": (HIDDEN, STREAM),
        }
    return models.build("float[N,4] x", "float[N,3] y", f"{body}\n y = Gemm(r{BLOCKS}, v)", weights, seed=seed)


def transformer(seed=0, layers=3):
    """Attention of two heads and a perceptron in turns, each with a shortcut past it."""
    body = "[stem] r0 = MatMul(x, w)\n"
    weights = {"w": (4, STREAM), "v": (STREAM, 3), "apart": [0, -1, 2, 3], "joined": [0, -1, STREAM], "mid": [1]}
    weights["root"] = np.float32(3**0.5)
    for i in range(layers):
        body += f"""
            l{i} = LayerNormalization(r{i}, lg{i}, lb{i})
            [q{i}] q{i} = MatMul(l{i}, wq{i})
            [k{i}] k{i} = MatMul(l{i}, wk{i})
            [v{i}] v{i} = MatMul(l{i}, wv{i})
            qa{i} = Reshape(q{i}, apart)
            ka{i} = Reshape(k{i}, apart)
            va{i} = Reshape(v{i}, apart)
            qt{i} = Transpose<perm=[0,2,1,3]>(qa{i})
            kt{i} = Transpose<perm=[0,2,3,1]>(ka{i})
            vt{i} = Transpose<perm=[0,2,1,3]>(va{i})
            s{i} = MatMul(qt{i}, kt{i})
            sd{i} = Div(s{i}, root)
            p{i} = Softmax<axis=-1>(sd{i})
            o{i} = MatMul(p{i}, vt{i})
            ot{i} = Transpose<perm=[0,2,1,3]>(o{i})
            oj{i} = Reshape(ot{i}, joined)
            [proj{i}] f{i} = MatMul(oj{i}, wo{i})
            t{i} = Add(r{i}, f{i})
            n{i} = LayerNormalization(t{i}, ng{i}, nb{i})
            [first{i}] a{i} = MatMul(n{i}, u{i})
            h{i} = Relu(a{i})
            [last{i}] c{i} = MatMul(h{i}, d{i})
            r{i + 1} = Add(t{i}, c{i})"""
        weights |= {f"w{name}{i}": (STREAM, STREAM) for name in "qkvo"}
        weights |= {f"u{i}": (STREAM, HIDDEN), f"d{i}": (HIDDEN, STREAM)}
        weights |= {f"{name}{i}": (STREAM,) for name in ("lg", "lb", "ng", "nb")}
    body += f"\n m = ReduceMean<keepdims=0>(r{layers}, mid)\n y = MatMul(m, v)"
    return models.build("float[N,5,4] x", "float[N,3] y", body, weights, seed=seed, opset=18)


@pytest.mark.parametrize("network", [bottlenecks, transformer])
def test_blocks_that_no_other_can_take_over_go_alone(network, step):
    model = network()
    result = pruned(model, "latency=0.7")
    ratio = counted(result.model, step) / counted(model, step)
    assert ratio <= 0.7
    assert result.report.targets[0].reached
    assert result.report.surgery_check["ok"]
    if step == HIDDEN:
        assert result.plan.removed
    gone = sum(block.removed for block in result.report.blocks)
    assert gone == len(result.plan.removed)
    assert gone < len(result.report.blocks) or not gone
    again = onnxprune.apply(model, result.plan)
    feed = {"x": models.data(model, 10)}
    assert models.values(again, feed)["y"] == pytest.approx(models.values(result.model, feed)["y"], abs=1e-5)


def test_blocks_that_seem_to_lose_nothing_go_only_if_they_lose_less_than_channels(monkeypatch):
    timing(monkeypatch, lambda ms: ms, lambda ms: ms)
    monkeypatch.setattr(shortening, "errors_without", lambda run, blocks: [0.0] * len(blocks))
    found = {blocks: pruned(bottlenecks(), "latency=0.8", blocks=blocks) for blocks in ("auto", "keep")}
    assert not found["auto"].plan.removed
    assert found["auto"].report.fidelity == found["keep"].report.fidelity


def test_blocks_that_are_named_stay(step):
    model = bottlenecks()
    kept = tuple(f"middle{i}" for i in range(0, BLOCKS, 2))
    result = pruned(model, "latency=0.8", exclude=kept)
    layers = {node.name for node in result.model.graph.node}
    assert layers.issuperset(kept)
    assert result.report.targets[0].reached


@pytest.mark.parametrize("place", range(BLOCKS))
def test_a_layer_that_keeps_channels_doesn_t_go_in_a_run_of_blocks(place, step):
    result = pruned(network(), "latency=0.6", keep={f"first{place}": 0.75})
    tensors = {t.name: t for t in result.model.graph.initializer}
    (layer,) = (node for node in result.model.graph.node if node.name == f"first{place}")
    assert tensors[layer.input[1]].dims[1] >= 0.75 * HIDDEN
    assert result.plan.merged or result.plan.removed


def test_runs_become_one_while_other_blocks_go():
    model = network()
    search = onnxprune.pipeline.begun(model, (), models.data(model, 200, rank=4), runtime=models.RUNTIME, round_to=2)[0]
    runs = [one for one in segments(search.run, search.ranked) if one.blocks == ("r2", "r3")]
    found = Shortened(search, runs, ["r5"]).candidate({})
    assert found.plan.merged == (("r2", "r3"),)
    assert found.plan.removed == ("r5",)
    assert sum(node.op_type == "Add" for node in found.model.proto.graph.node) == BLOCKS - 2
    feed = {"x": models.data(model, 10)}
    assert oracle.check(found.coupling, found.plan, found.model, [feed]).ok
    again = onnxprune.apply(model, found.plan)
    assert models.values(again, feed)["y"] == pytest.approx(models.values(found.model.proto, feed)["y"], abs=1e-5)


def segment(*blocks):
    return Segment(blocks, blocks[-1], Curve(np.array([1]), np.zeros(1)))


def test_runs_are_linked_to_chains():
    runs = [segment("a", "b"), segment("b", "c"), segment("a", "b", "c"), segment("x", "y")]
    assert linked(runs) == [["a", "b", "c"], ["x", "y"]]


def test_what_two_groups_can_do_together():
    rng = np.random.default_rng(0)
    one, other = ((np.sort(rng.random(5))[::-1], np.sort(rng.random(5))[::-1]) for _ in range(2))
    errors, saved = _either(one, other)
    every = [(a + b, s + t) for (a, s), (b, t) in product(zip(*one, strict=True), zip(*other, strict=True))]
    for error, gain in every:
        assert ((errors <= error + 1e-12) & (saved >= gain - 1e-12)).any()
    for i, (error, gain) in enumerate(zip(errors, saved, strict=True)):
        assert (error, gain) in [pytest.approx(pair) for pair in every]
        assert not ((np.delete(errors, i) <= error) & (np.delete(saved, i) >= gain)).any()


# ---- What is predicted and what is timed


def timing(monkeypatch, predicted, true, step=2):
    """Clocks that say what a function of the milliseconds counted says: in this process, and in one of its own."""

    def clocked(change):
        return lambda found, feed, runtime, **limits: np.tile([change(counted(m, step)) for m in found], (7, 1))

    monkeypatch.setattr(clock, "in_turns", clocked(predicted))
    monkeypatch.setattr(clock, "apart", clocked(true))


def test_a_prediction_that_promises_too_much_is_corrected(monkeypatch):
    model = network()
    whole = counted(model, 2)
    timing(monkeypatch, lambda ms: ms, lambda ms: whole - 0.7 * (whole - ms))
    result = pruned(model, "latency=0.7", blocks="keep")
    assert 0.65 < result.report.latency.ratio <= 0.7


def test_a_prediction_that_promises_too_little_is_corrected(monkeypatch):
    model = network()
    whole = counted(model, 2)
    timing(monkeypatch, lambda ms: whole - 0.2 * (whole - ms), lambda ms: ms)
    assert pruned(model, "latency=0.7", blocks="keep").report.latency.ratio <= 0.7


def test_more_blocks_go_where_each_saves_less_than_was_predicted(monkeypatch):
    model = bottlenecks()
    whole = counted(model, HIDDEN)
    timing(monkeypatch, lambda ms: ms, lambda ms: whole - 0.8 * (whole - ms), HIDDEN)
    result = pruned(model, "latency=0.6")
    assert result.report.latency.ratio <= 0.6
    assert result.report.targets[0].reached


def test_times_far_below_a_millisecond(monkeypatch):
    timing(monkeypatch, lambda ms: ms / 1e5, lambda ms: ms / 1e5)
    assert 0.65 < pruned(network(), "latency=0.7", blocks="keep").report.latency.ratio <= 0.7


@pytest.mark.parametrize(("promised", "true"), [(1.0, 0.3), (1.0, 0.6), (1.0, 1.3), (0.2, 0.6), (0.3, 1.0)])
def test_widths_that_save_less_or_more_than_predicted(monkeypatch, promised, true):
    model = network()
    whole = counted(model, 2)
    timing(monkeypatch, lambda ms: whole - promised * (whole - ms), lambda ms: whole - true * (whole - ms))
    goal = 1 - 0.4 * true
    assert goal - 0.1 * true < pruned(model, f"latency={goal}", blocks="keep").report.latency.ratio <= goal


def test_a_time_out_of_reach_says_what_is_within_and_keeps_the_best(monkeypatch):
    model = network()
    whole = counted(model, 2)
    timing(monkeypatch, lambda ms: whole - 0.1 * (whole - ms), lambda ms: whole - 0.1 * (whole - ms))
    with pytest.raises(BudgetError, match=r"stay with every group at its smallest.*what stands in the way") as caught:
        pruned(model, "latency=0.7")
    report = caught.value.result.report
    assert caught.value.reachable == pytest.approx(report.latency.ratio)
    assert not report.targets[0].reached


def test_a_model_that_turns_out_slower_in_the_end_misses_the_target(monkeypatch):
    timing(monkeypatch, lambda ms: ms, lambda ms: ms)
    search = onnxprune.pipeline.Shortening
    timed = search.timed
    slow = clock.Ratio(1.0, 0.8, 0.8, 0.79, 0.81)
    monkeypatch.setattr(search, "timed", lambda self, model, original=None: slow if original else timed(self, model))
    with pytest.raises(BudgetError, match=r"takes 0.800 of the time \(0.790 to 0.810\)") as caught:
        pruned(network(), "latency=0.7")
    assert not caught.value.result.report.targets[0].reached
