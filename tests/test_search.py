"""Widths that meet targets, and what is said where they can't be met."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from onnxprune import evaluation, fitting, oracle, reconstruct, scope, search, selection, statistics, steps
from onnxprune.allocation import ALLOCATORS, Bilinear
from onnxprune.calibration import load, synthetic
from onnxprune.cost import COSTS, total_macs
from onnxprune.data import inputs_of
from onnxprune.errors import BudgetError, UsageError
from onnxprune.evaluation import Labelled
from onnxprune.graph import Graph
from onnxprune.reconstruct import MODES
from onnxprune.report import Target
from onnxprune.run import Options, prepare
from onnxprune.scope import prunable, why_left_out
from onnxprune.search import Search, parse_targets, stamp
from onnxprune.spill import Spill
from onnxprune.statistics import moments_bytes
from onnxprune.steps import rank


def lenet():
    """Convolutions that have the operations, and a Gemm that has the parameters."""
    body = """
        [c1] a = Conv<pads=[1,1,1,1]>(x, w1, b1)
        r1 = Relu(a)
        [c2] b = Conv<pads=[1,1,1,1]>(r1, w2, b2)
        r2 = Relu(b)
        p = MaxPool<kernel_shape=[4,4], strides=[4,4]>(r2)
        f = Flatten(p)
        [f1] h = Gemm<transB=1>(f, w3, b3)
        r3 = Relu(h)
        [f2] y = Gemm<transB=1>(r3, w4, b4)"""
    weights = {"w1": (8, 1, 3, 3), "b1": (8,), "w2": (8, 8, 3, 3), "b2": (8,), "w3": (60, 72), "b3": (60,)}
    return models.build("float[N,1,12,12] x", "float[N,5] y", body, weights | {"w4": (5, 60), "b4": (5,)})


def numbers():
    """A classifier that gives class numbers."""
    text = "h = Gemm(x, w0)\nr = Relu(h)\nz = Gemm(r, w1)\ny = ArgMax<axis=1>(z)"
    return models.build("float[N,12] x", "int64[N,1] y", text, {"w0": (12, 20), "w1": (20, 6)})


def products():
    """A product of two factors that drifts: as it is in the file, it has nodes that are part of its new weights."""
    body = """
        [a] h = Gemm(x, w0, b0)
        r = Relu(h)
        [b] g = MatMul(r, w1)
        t = Tanh(g)
        [c] y = com.microsoft.FusedMatMul<alpha=0.5, transB=1>(t, w2)"""
    weights = {"w0": (6, 12), "b0": (12,), "w1": (12, 8), "w2": (1, 8)}
    return models.build("float[N,6] x", "float[N,1] y, float[N,8] t", body, weights)


MADE = models.ALL | {
    "lenet": lenet,
    "without biases": lambda: models.mlp(bias=False),
    "numbers": numbers,
    "products": products,
}


def run(name="mlp", count=60, labelled=None, **options):
    model = MADE[name]() if isinstance(name, str) else name
    samples = load(models.data(model, count), inputs_of(Graph(model)))
    targets = parse_targets(options.pop("targets", ["macs=0.6"]))
    given = {"round_to": 1, "runtime": models.RUNTIME, "measure_latency": False} | options
    return prepare(Graph(model), samples, Options(targets=targets, **given), labelled)


@cache
def ready(name, **options):
    """A search whose ranking is done once."""
    found = Search(run(name, **options))
    assert found.ranked
    return found


# ---- What a target says


def test_targets_are_parsed():
    assert parse_targets(["macs=0.5", "params=1", "drop=0", "drop=0.01"]) == (
        Target("macs", 0.5), Target("params", 1.0), Target("drop", 0.0), Target("drop", 0.01),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (0.5, "target '0.5' isn't known"),
        ("speed=2", "isn't known; give one of macs=NUMBER, params=NUMBER, size=NUMBER, latency=NUMBER, drop=NUMBER"),
        ("macs", "needs a number, as in macs=0.5"),
        ("macs=half", "needs a number, as in macs=0.5"),
        ("macs=0", "out of range"),
        ("macs=1.1", "out of range"),
        ("drop=1", "out of range"),
        ("drop=-0.1", "out of range"),
        ("params=nan", "out of range"),
    ],
)
def test_targets_that_make_no_sense(text, said):
    with pytest.raises(UsageError, match=said):
        parse_targets([text])


def test_without_a_target_little_may_be_lost():
    given = run(targets=[])
    assert given.options.targets == (Target("drop", 0.01),)
    assert given.warnings == []
    assert len(given.division.judge) == 12
    graph = Graph(models.mlp())
    made_up = prepare(graph, synthetic(inputs_of(graph), count=40, seed=0, shapes={}), Options(round_to=1))
    assert made_up.options.targets == (Target("drop", 0.001),)
    assert "synthetic" in made_up.warnings[0]


def test_labelled_samples_judge_and_none_are_held_back():
    model = models.mlp()
    x = models.data(model, 30, seed=4)
    y = models.values(model, {"x": x})["y"].argmax(1)
    one = run(labelled=Labelled(load(x, inputs_of(Graph(model))), y))
    assert len(one.division.judge) == 0
    assert len(one.division.fit) + len(one.division.tune) == 60
    found = Search(one)
    assert found.judge.accuracy == 1.0
    best, failure = found.best()
    assert failure is None
    assert best.fidelity.samples == 30
    assert best.fidelity.top1_agreement == best.accuracy
    assert best.loss.value == pytest.approx(1 - best.accuracy)


def test_a_function_judges_files():
    seen = []

    def score(path):
        seen.append(path)
        return 0.9 if len(seen) == 1 else 0.7

    found = Search(run(labelled=Labelled(function=score)))
    best, _ = found.best()
    assert (found.judge.accuracy, best.accuracy) == (0.9, 0.7)
    assert best.loss.value == pytest.approx(0.2)
    assert all(not evaluation.Path(path).exists() for path in seen)


# ---- Costs


def one_step(found, kind):
    """The largest share of a cost that one step of one group's width makes."""
    groups = [r.group for r in found.ranked.rankings]
    full = np.array([g.channels for g in groups])
    cost: Bilinear = COSTS[kind].of_widths(found.run.coupling, groups)
    steps = [r.levels[-1] - r.levels[-2] for r in found.ranked.rankings]
    less = [full - step * (np.arange(len(full)) == i) for i, step in enumerate(steps)]
    return max(cost.total(full) - cost.total(width) for width in less) / cost.total(full)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(MADE)),
    st.sampled_from(sorted(COSTS)),
    st.floats(0.3, 0.95),
    st.sampled_from(["dp", "uniform"]),
    st.sampled_from(["ls", "local", "mean", "none"]),
)
def test_a_cost_is_never_exceeded_and_met_within_a_step(name, kind, goal, allocate, mode):
    found = ready(name, count=60)
    options = replace(found.run.options, targets=(Target(kind, goal),), allocate=allocate, reconstruct=mode)

    other = Search.__new__(Search)
    moments = ready(name, count=60, reconstruct="mean").ranked.moments
    ranked = steps.Ranked(found.ranked.rankings, found.ranked.curves, moments)
    other.__dict__ = dict(found.__dict__) | {"run": replace(found.run, options=options), "ranked": ranked}
    best, failure = other.best()
    model = Graph.of(best.model)
    stamp(best.model.proto, options)
    count = COSTS[kind].count
    left = count(model) / count(found.run.coupling.graph)
    if failure is not None:
        assert left > goal - one_step(found, kind)
        assert 0 < failure.reachable <= 1
        return
    assert left <= goal + 1e-9
    if allocate == "dp":
        assert left >= goal - max(0.01, one_step(found, kind)) - {"macs": 0, "params": 0.02, "size": 0.05}[kind]


@pytest.mark.parametrize("name", ["lenet", "mlp", "convs", "transposed"])
@pytest.mark.parametrize("goals", [(0.5, 0.5), (0.6, 0.4), (0.4, 0.7)])
def test_several_costs_are_all_met(name, goals):
    found = ready(name, count=60)
    limits = [("macs", goals[0]), ("params", goals[1]), ("macs", 0.9)]
    keep = found.within(limits)
    slack = [goal - found.share(kind, keep) for kind, goal in zip(("macs", "params"), goals, strict=True)]
    assert min(slack) >= -1e-9
    assert min(slack) <= max(0.01, one_step(found, "macs"), one_step(found, "params"))


@pytest.mark.parametrize("helps", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["without biases", "convs", "dense", "identity", "products"])
def test_the_share_is_that_of_the_model_that_is_written(name, mode, helps, monkeypatch):
    """But for biases of layers that have none, whether layers that lose nothing are better with new weights or not."""
    if not helps:
        monkeypatch.setattr(reconstruct, "error_as_it_is", lambda linear, moments: 0.0)
    found = ready(name, count=60, reconstruct=mode, method="merge" if mode == "unify" else "reap")
    keep = found.within([("params", 0.6)])
    written = found.candidate(keep).model
    assert found.left("macs", written) == found.share("macs", keep)
    for kind in ("params", "size"):
        least, most = (found.share(kind, keep, biased=biased) for biased in (False, True))
        assert least <= found.left(kind, written) <= most


def test_counting_a_big_model_writes_no_weights(monkeypatch):
    """What stands in for them takes no room on the disk."""
    found = ready("mlp", count=60)
    keep = found.kept(found.smallest)
    expected = found.share("params", keep)
    monkeypatch.setitem(found.run.coupling.graph.__dict__, "big", True)
    kept, room = Spill.keep, []

    def measured(self, value):
        found = kept(self, value)
        room.append(Path(found.filename).stat().st_blocks)
        return found

    monkeypatch.setattr(Spill, "keep", measured)
    assert found.share("params", keep) == expected
    assert room
    assert not any(room)


# ---- Losses


@pytest.mark.parametrize("name", ["mlp", "convs", "tokens", "depthwise", "numbers"])
@pytest.mark.parametrize("allowed", [0.05, 0.3])
def test_a_loss_is_not_exceeded_on_the_samples_that_judge(name, allowed):
    found = Search(run(name, count=100, targets=[f"drop={allowed}"]))
    best, failure = found.best()
    assert failure is None
    assert best.loss.value <= allowed
    samples, indices = found.judge.judged
    before, after = (
        evaluation.answers(m, samples, indices, models.RUNTIME, 64)
        for m in (found.run.coupling.graph.model, best.model.proto)
    )
    assert evaluation.fidelity(before, after, len(indices), "given").loss == best.fidelity.loss
    if allowed == 0.3:
        assert total_macs(Graph.of(best.model)) < total_macs(found.run.coupling.graph)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("target", ["macs=0.5", "drop=0.3"])
def test_samples_that_judge_decide_nothing_else(labels, target, monkeypatch):
    """With other samples in their place all that is made of the same widths is the same."""
    model = models.mlp()
    x, other = models.data(model, 100), 9 * models.data(model, 100, seed=8)

    def made(x, labelled):
        y = models.values(model, {"x": labelled})["y"].argmax(1)
        data = Labelled(load(labelled, inputs_of(Graph(model))), y) if labels else None
        one = Search(prepare(Graph(model), load(x, inputs_of(Graph(model))), options, data))
        return one, one.candidate(one.kept([8, 6]))

    options = Options(parse_targets([target]), round_to=1, runtime=models.RUNTIME)
    (first, a), judge = made(x, x[:20]), None
    judge = first.run.division.judge
    assert len(judge) == (0 if labels else 20 if target == "drop=0.3" else 10)
    changed = x.copy()
    changed[judge] = other[judge]
    second, b = made(changed, other[:20])
    for one, same in zip(first.ranked.curves, second.ranked.curves, strict=True):
        np.testing.assert_array_equal(one.errors, same.errors)
    assert a.model.proto == b.model.proto
    assert a.loss != b.loss


@pytest.mark.parametrize(("batch", "memory", "size"), [(None, 2e9, 51), (None, 1.0, 1), (None, 0, 7), (20, 0, 20)])
def test_what_is_gathered_at_once_fits_into_the_memory_granted(batch, memory, size, monkeypatch):
    """Unless somebody says how many samples are run at once; all are run."""
    one, sizes = run("lenet", batch=batch), []
    linears = [linear for g in prunable(one) for linear in selection.readers(one.coupling, g)]
    each = sum(statistics.gathered_bytes(one.coupling.graph, linear, 54) for linear in linears)
    assert each == 4 * (11 * 8 * 9 + 72 + 60)  # 8 * 72 rows of the map in 54 samples; one row of each Gemm
    monkeypatch.setattr(steps, "collect", lambda graph, linears, parts, *_: sizes.extend(map(list, parts)))
    monkeypatch.setattr(evaluation, "at_once", lambda graph, granted: evaluation.BATCH)
    one.options = replace(one.options, max_memory=memory or 7.5 * each / steps.GATHERED)
    steps.moments_of(one, prunable(one), 1)
    counts = [[len(feed["x"]) for feed in part] for part in sizes]
    assert [sum(part) for part in counts] == [len(one.division.fit), len(one.division.tune)]
    assert max(counts[0]) == min(size, len(one.division.fit))


def test_one_share_for_all_needs_no_predictions(monkeypatch):
    """Orders are the same without error curves; a loss that is allowed needs them."""
    chosen = Search(run("tokens", targets=["macs=0.6"]))
    orders = {r.group.name: r.order.tolist() for r in chosen.ranked.rankings}
    for name in ("probe", "judged"):
        monkeypatch.setattr(selection, name, None)
    alike = Search(run("tokens", targets=["macs=0.6"], allocate="uniform"))
    assert {r.group.name: r.order.tolist() for r in alike.ranked.rankings} == orders
    best, failure = alike.best()
    assert failure is None
    assert 0.55 < alike.left("macs", best.model) <= 0.6
    with pytest.raises(TypeError):
        assert alike.other(targets=parse_targets(["drop=0.1"])).ranked


@pytest.mark.parametrize("name", ["tokens", "depthwise", "transposed"])
@pytest.mark.parametrize("allowed", [0.02, 0.1, 0.3])
def test_few_candidates_find_what_is_allowed(name, allowed, monkeypatch):
    """From one calibration: most of what is allowed is lost, or any narrower widths would lose more than that."""
    found, losses = Search(run(name, count=200, targets=[f"drop={allowed}"])), []
    ranked, candidate = found.ranked, found.candidate

    def spy(keep):
        made = candidate(keep)
        losses.append(made.loss.value)
        return made

    monkeypatch.setattr("onnxprune.search.rank", None)
    monkeypatch.setattr(found, "candidate", spy)
    best, failure = found.best()
    assert failure is None
    assert found.ranked is ranked
    assert 1 <= len(losses) <= 4 < search.CANDIDATES
    assert best.loss.value <= allowed
    smallest = all(len(best.plan.keep[r.group.name]) == r.levels[0] for r in ranked.rankings)
    if best.loss.value < search.ENOUGH * allowed and not smallest:
        budgets = np.arange(found.share("macs", best.plan.keep), 0, -0.005)
        narrower = (found.kept(steps.allocate(found.run, ranked, "macs", budget)) for budget in budgets)
        following = next(keep for keep in narrower if found.share("macs", keep) < budgets[0])
        assert candidate(following).loss.value > allowed


def test_more_loss_buys_more_pruning():
    macs = []
    for allowed in (0.02, 0.5):
        best, _ = Search(run("tokens", count=100, targets=[f"drop={allowed}"])).best()
        macs.append(total_macs(Graph.of(best.model)))
    assert macs[1] < macs[0]


def test_the_tightest_target_wins():
    loose = Search(run("tokens", count=100, targets=["macs=0.9", "drop=0.9", "macs=0.7", "drop=0.5"]))
    best, failure = loose.best()
    assert failure is None
    assert total_macs(Graph.of(best.model)) <= 0.7 * total_macs(loose.run.coupling.graph)
    tight = Search(run("tokens", count=100, targets=["macs=0.15", "drop=0.05"]))
    best, failure = tight.best()
    assert "more than the 0.05 allowed" in str(failure)
    assert best.loss.value <= 0.05
    assert 0 < failure.reachable < 0.2


def test_a_loss_that_nothing_keeps_to():
    found = Search(run("tokens", targets=["drop=0"], round_to=7))
    best, failure = found.best()
    assert "no pruning was found with a loss of at most 0 (the smallest was" in str(failure)
    assert dict(best.plan.keep) == {}
    assert best.model.proto.SerializeToString() == found.run.coupling.graph.model.SerializeToString()


def test_a_goal_is_met_where_cutting_takes_away_more_than_widths_say(monkeypatch):
    """Weights computed from two constants of their size are one constant when they are cut."""
    text = """
        m0 = ReduceMean<axes=[1]>(a0)
        w0 = Sub(b0, m0)
        h = MatMul(x, w0)
        r = Relu(h)
        m1 = ReduceMean<axes=[1]>(a1)
        w1 = Sub(b1, m1)
        y = MatMul(r, w1)"""
    weights = {"a0": (8, 40), "b0": (8, 40), "a1": (40, 6), "b1": (40, 6)}
    found = Search(run(models.build("float[N,8] x", "float[N,6] y", text, weights), targets=["params=0.3"]))
    monkeypatch.setattr(Search, "widened", lambda self, kind, goal, widths, most: widths)
    best, failure = found.best()
    assert failure is None
    left = COSTS["params"].count(Graph.of(best.model)) / COSTS["params"].count(found.run.coupling.graph)
    assert 0.27 < left <= 0.3


# ---- Out of reach


@pytest.mark.parametrize("kind", COSTS)
@pytest.mark.parametrize("name", ["mlp", "identity"])
def test_out_of_reach_the_smallest_is_made_and_what_is_reachable_is_said(name, kind):
    found = Search(run(name, targets=[f"{kind}=0.01"]))
    best, failure = found.best()
    assert isinstance(failure, BudgetError)
    assert 0.01 < failure.reachable < 1
    assert "%" in str(failure)
    assert all(len(kept) == 1 for kept in best.plan.keep.values())
    stamp(best.model.proto, found.run.options)
    left = COSTS[kind].count(Graph.of(best.model)) / COSTS[kind].count(found.run.coupling.graph)
    assert left == pytest.approx(failure.reachable)
    _, failure = Search(run(name, targets=[f"{kind}={failure.reachable + 0.005:.4f}"])).best()
    assert failure is None


def test_what_stands_in_the_way_is_named():
    said = str(Search(run("identity", targets=["macs=0.01"])).best()[1])
    assert "residual stream" in said
    said = str(Search(run("mlp", targets=["macs=0.01"])).best()[1])
    assert "at least 1" in said
    said = str(Search(run("lenet", targets=["macs=0.01"], exclude=("f2",))).best()[1])
    assert "left out by --exclude" in said


def test_nothing_can_be_pruned():
    model = models.build("float[N,3] x", "float[N,2] y", "y = Gemm(x, w)", {"w": (3, 2)})
    with pytest.raises(BudgetError, match="nothing in this model can be pruned"):
        Search(run(model)).best()
    with pytest.raises(BudgetError, match=r"--exclude"):
        rank(run("mlp", exclude=("*",)))


# ---- Which groups


def names(**options):
    name = options.pop("name", "residual")
    one = run("projection" if name == "residual" else name, **options)
    return [g.name for g in prunable(one)]


def test_streams_stay_whole():
    one = run("projection")
    assert [g.name for g in prunable(one)] == ["one_a", "two_a"]
    stream = one.coupling.by_name["stem"]
    assert "residual stream that 2 layers write to" in why_left_out(one.coupling, stream)


@pytest.mark.parametrize("name", ["identity", "projection", "option_a"])
def test_streams_are_pruned_when_asked_for(name):
    found = Search(run(name, streams="prune", targets=["macs=0.4"], include=("stem", "one_b", "two_b")))
    streams = [g.name for g in found.run.coupling.groups if g.stream]
    best, failure = found.best()
    assert failure is None
    assert [g.name for g in prunable(found.run) if g.stream] == streams
    assert any(len(best.plan.keep[n]) < found.run.coupling.by_name[n].channels for n in streams)
    feed = next(iter(found.run.samples.batches([0, 1], 2)))
    assert oracle.check(found.run.coupling, best.plan, best.model, [feed]).ok


@pytest.mark.parametrize("name", ["identity", "projection", "option_a"])
def test_copies_in_a_stream_go_for_free(name, monkeypatch):
    """Of channels that all writers make twice, one of each pair goes first, and nothing changes."""
    monkeypatch.setattr(fitting, "DAMPINGS", (1e-9,) * 6)
    model, keep = models.doubled(MADE[name](), streams=True)
    found = Search(run(model, count=120, streams="prune"))
    for ranking in found.ranked.rankings:
        kept = len(keep[ranking.group.name])
        free = ranking.levels >= kept
        assert ranking.errors[free].max() < 1e-6
        assert ranking.errors[~free].min(initial=np.inf) > 1e-4
    widths = [len(keep[r.group.name]) for r in found.ranked.rankings]
    assert found.candidate(found.kept(widths)).fidelity.relative_error < 1e-4


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, ["one_a", "two_a"]),
        ({"include": ("one*",)}, ["one_a"]),
        ({"include": ("one_b",)}, []),  # it makes a stream
        ({"include": ("*_a",), "exclude": ("two_a",)}, ["one_a"]),
        ({"exclude": ("two_b",)}, ["one_a"]),  # it reads two_a's channels
        ({"exclude": ("head",)}, ["one_a", "two_a"]),
        ({"exclude": ("one_a", "two_*")}, []),
    ],
)
def test_layers_are_included_and_excluded_by_name(options, left):
    assert names(**options) == left


LIMITS = {
    "include": ({"include": ("c2", "f1")}, lambda name, kept, n: kept == n or name != "c1"),
    "exclude": ({"exclude": ("c1",)}, lambda name, kept, n: kept == n or name != "c1"),
    "round_to": ({"round_to": 3}, lambda name, kept, n: kept == n or kept % 3 == 0),
    "min_channels": ({"min_channels": 5}, lambda name, kept, n: kept >= 5),
    "keep": ({"keep": (("c*", 0.7), ("f1", 0.11))}, lambda name, kept, n: kept >= (7 if name == "f1" else 6)),
}


@pytest.mark.parametrize("allocate", ALLOCATORS)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("target", ["macs=0.75", "params=0.5", "size=0.5", "drop=0.4"])
def test_every_allocator_honours_limits(limit, allocate, target):
    options, allowed = LIMITS[limit]
    found = ready("lenet", count=60, **options)
    found = found.other(targets=parse_targets([target]))
    found.run.options = replace(found.run.options, allocate=allocate)
    best, failure = found.best()
    assert failure is None
    widths = {
        g.name: (len(best.plan.keep.get(g.name, range(g.channels))), g.channels) for g in found.run.coupling.groups
    }
    assert all(allowed(name, kept, n) for name, (kept, n) in widths.items())
    assert any(kept < n for kept, n in widths.values())


@pytest.mark.parametrize("allocate", ALLOCATORS)
@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("include", "left out by --include"),
        ("exclude", "left out by --exclude"),
        ("round_to", "widths are multiples of 3 and at least 1"),
        ("min_channels", "widths are multiples of 1 and at least 5"),
        ("keep", "at least 1, 70 % of 'c*', 11 % of 'f1'"),
    ],
)
def test_a_limit_that_stands_in_the_way_is_named(limit, said, allocate):
    found = Search(run("lenet", allocate=allocate, targets=["macs=0.01"], **LIMITS[limit][0]))
    best, failure = found.best()
    assert said in str(failure)
    written = Graph.of(best.model)
    assert total_macs(written) / total_macs(found.run.coupling.graph) == pytest.approx(failure.reachable, abs=0.005)
    assert all(LIMITS[limit][1](name, len(kept), found.run.coupling.by_name[name].channels)
               for name, kept in best.plan.keep.items())  # fmt: skip


def test_several_limits_of_one_layer_are_all_honoured():
    one = run("mlp", keep={"fc*": 0.25, "fc0": 0.5, "fc1": 0.3}, min_channels=2)
    first, second = one.coupling.groups
    assert scope.least_width(one.coupling, first, one.options) == 8
    assert scope.least_width(one.coupling, second, one.options) == 3
    whole = run("mlp", keep={"fc0": 1.0})
    assert [g.name for g in prunable(whole)] == ["fc1"]
    assert "100 % of 'fc0'" in why_left_out(whole.coupling, whole.coupling.groups[0], whole.options)


def test_a_group_of_a_single_width_stays_and_says_why():
    one = run("mlp", round_to=12)
    first, second = one.coupling.groups
    assert why_left_out(one.coupling, first, one.options) == ""
    said = why_left_out(one.coupling, second, one.options)
    assert said == "its 10 channels are as few as it may have: widths are multiples of 12 and at least 1"


def test_names_that_no_layer_has_are_warned_of():
    one = run("mlp", include=("fc*", "conv*"), exclude=("fc9",), keep={"fc0": 0.5, "fd0": 0.5})
    assert one.warnings == [
        "no layer is called like --include 'conv*'.",
        "no layer is called like --exclude 'fc9'.",
        "no layer is called like --keep 'fd0'.",
    ]


@pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan")])
def test_limits_that_make_no_sense(share):
    with pytest.raises(UsageError, match="layers can't keep"):
        Options(keep={"fc0": share})


ALONE = ": they go without repair alone, by weights (as with --method l1)"


def test_what_is_left_out_says_why(monkeypatch):
    one = run("mlp", include=("fc0",), exclude=("fc0",))
    first, second = one.coupling.groups
    assert why_left_out(one.coupling, first, one.options) == "left out by --exclude"
    assert why_left_out(one.coupling, first) == ""
    one = run("mlp", include=("fc0",))
    assert why_left_out(one.coupling, one.coupling.groups[1], one.options) == "left out by --include"
    monkeypatch.setattr("onnxprune.ops.linear.WIDEST", 12)
    assert why_left_out(one.coupling, first) == "fc1 reads 16 values, too many to refit" + ALONE
    assert why_left_out(one.coupling, second) == ""
    assert why_left_out(one.coupling, first, Options(method="l1")) == ""
    assert why_left_out(one.coupling, first, Options(method="wanda")) != ""
    assert why_left_out(one.coupling, first, Options(method="l1", reconstruct="ls")) != ""
    monkeypatch.setattr("onnxprune.ops.linear.WIDEST", 16)
    one.coupling._linears[first.writers[0] + 2] = None
    assert why_left_out(one.coupling, first) == ""
    assert "none can take over" in why_left_out(one.coupling, first, Options(method="merge"))


@pytest.mark.parametrize(("step", "smallest"), [(4, 1), (3, 5), (None, 1), (16, 1)])
def test_widths_are_multiples_and_not_too_small(step, smallest):
    found = Search(run("lenet", round_to=step, min_channels=smallest, targets=["macs=0.5"]))
    best, _ = found.best()
    step = step or 4
    for g in found.run.coupling.groups:
        width = len(best.plan.keep.get(g.name, range(g.channels)))
        assert width == g.channels or (width % step == 0 and width >= smallest)
    assert any(len(kept) < found.run.coupling.by_name[name].channels for name, kept in best.plan.keep.items())


def test_the_cells_of_a_grouped_convolution_stay_equal():
    best, failure = Search(run("grouped", targets=["macs=0.5"])).best()
    assert failure is None
    coupling = models.coupled(models.grouped())
    for name, kept in best.plan.keep.items():
        counts = np.bincount(coupling.by_name[name].cells[kept])
        assert len(set(counts.tolist())) == 1


# ---- How


def test_the_moments_of_a_layer_that_several_groups_share_are_held_once():
    whole = run("dense")
    parts = [len(whole.division.fit), len(whole.division.tune)]
    graph, layers = whole.coupling.graph, whole.coupling.layers
    c1, c2, y = (moments_bytes(graph, layers[name], parts) for name in ("c1", "c2", "y"))
    room = 24 * 54**2
    for granted, expected in ((c1 + c2 + y, [3]), (c1 + c2 + y - 1, [2, 1]), (c1 + c2 - 1, [1, 2])):
        one = run("dense", max_memory=granted + room)
        portions = list(steps.in_portions(one, prunable(one)))
        assert [len(portion) for portion in portions] == expected


@pytest.mark.parametrize(("macs", "expected"), [(1e3, 256), (2e12 / 1.5 / 100, 100), (1e12, 32)])
def test_long_probes_take_fewer_samples(monkeypatch, macs, expected):
    one = run("dense")
    monkeypatch.setitem(steps.COSTS, "macs", replace(steps.COSTS["macs"], count=lambda _: macs))
    assert steps._probe_samples(one, prunable(one)) == expected


def test_groups_are_ranked_in_portions_that_fit_into_memory():
    whole, seen = run("lenet"), []
    split = run("lenet", max_memory=1.0)
    split.progress = lambda *what: seen.append(what)
    assert [len(p) for p in steps.in_portions(whole, prunable(whole))] == [3]
    assert [len(p) for p in steps.in_portions(split, prunable(split))] == [1, 1, 1]
    for a, b in zip(rank(whole).rankings, rank(split).rankings, strict=True):
        assert a.group.name == b.group.name
        if a.group.name == "f1":  # all its positions are taken, in any portion
            np.testing.assert_array_equal(a.order, b.order)
    calibrated = [(done, total) for stage, done, total in seen if stage == "calibrate"]
    assert calibrated[-1] == (162, 162)
    selected = [(done, total) for stage, done, total in seen if stage == "select"]
    assert selected == [(i + 1, 6) for i in range(6)]


def test_few_samples_are_warned_of():
    one = run("lenet", count=50)
    rank(one)
    assert any("fewer than the input channels of 2 layers (up to 72)" in w for w in one.warnings)
    many = run("mlp", count=100)
    rank(many)
    assert many.warnings == []


@pytest.mark.parametrize(
    ("method", "mode", "expected"),
    [("reap", "auto", "ls"), ("l1", "auto", "none"), ("l1", "ls", "ls"), ("reap", "mean", "mean")],
)
def test_the_mode_is_the_methods_own_unless_another_is_asked_for(method, mode, expected):
    assert run(method=method, reconstruct=mode).mode == expected


def test_modes_do_what_they_say():
    losses = {}
    for mode in ("none", "mean", "local", "ls"):
        best, _ = Search(run("convs", count=200, targets=["macs=0.5"], reconstruct=mode)).best()
        losses[mode] = best.fidelity.relative_error
        assert bool(best.plan.weights) == (mode != "none")
        assert bool(best.errors) == (mode in ("local", "ls"))
        if mode in ("mean", "local"):
            assert set(best.plan.weights) == {"c2", "y"}
    assert losses["ls"] < losses["mean"] < losses["none"]
    assert losses["local"] < losses["mean"]


def test_a_search_is_reproducible():
    def keep(seed, method="reap"):
        return {k: v.tolist() for k, v in Search(run("lenet", seed=seed, method=method)).best()[0].plan.keep.items()}

    assert keep(0) == keep(0)
    assert keep(1, "random") == keep(1, "random")
    assert keep(1, "random") != keep(2, "random")
