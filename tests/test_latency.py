"""Time as a cost of widths, with a clock that counts instead of measuring."""

from itertools import pairwise

import numpy as np
import pytest
from onnx import numpy_helper

from models import RUNTIME, build, coupled, feeds, group, mlp, residual
from onnxprune import latency
from onnxprune.blocks import find
from onnxprune.cost import macs_of_widths
from onnxprune.files import Model
from onnxprune.graph import Graph
from onnxprune.plan import Plan
from onnxprune.rewrite import pruned
from onnxprune.runtime import Runtime
from onnxprune.selection import Ranking

STEP = 4


def steps_of(model):
    """Made-up milliseconds: products of widths rounded up to a step, and a constant."""
    proto = model.proto if isinstance(model, Model) else model
    matrices = [numpy_helper.to_array(t) for t in proto.graph.initializer if len(t.dims) > 1]
    return 5.0 + 0.01 * sum(np.prod([-(-n // STEP) * STEP for n in m.shape[:2]]) for m in matrices)


@pytest.fixture(autouse=True)
def _counting(monkeypatch):
    def in_turns(found, feed, runtime, **limits):
        return np.tile([steps_of(model) for model in found], (3, 1))

    monkeypatch.setattr(latency.clock, "in_turns", in_turns)


def rankings(coupling, step=1):
    return [
        Ranking(g, np.arange(g.channels), np.append(np.arange(step, g.channels, step), g.channels), np.zeros(0), {})
        for g in coupling.groups
    ]


def table(model, step=1):
    coupling = coupled(model)
    found = rankings(coupling, step)
    macs = macs_of_widths(coupling, [r.group for r in found])
    return coupling, found, latency.time_of_widths(coupling, found, macs, feeds(model, 1)[0], RUNTIME)


def test_all_channels_take_the_original_s_time():
    model = mlp()
    _, found, cost = table(model)
    assert cost.total(np.array([r.group.channels for r in found])) == pytest.approx(steps_of(model))


def test_a_group_alone_costs_what_was_measured():
    model = mlp((12, 24, 16, 4))
    coupling, found, cost = table(model, step=4)
    for place, ranking in enumerate(found):
        for width in ranking.levels:
            widths = np.array([r.group.channels for r in found])
            widths[place] = width
            cut = pruned(coupling, Plan({ranking.group.name: ranking.kept(int(width))}))
            assert cost.total(widths) == pytest.approx(steps_of(cut))


def test_widths_within_a_step_count_alike():
    _, _, cost = table(mlp((12, 16, 4)), step=2)
    sizes = [cost.sizes(np.array([width]))[0] for width in (2, 4, 6, 8, 10, 12)]
    assert sizes[0] == sizes[1] < sizes[2] == sizes[3] < sizes[4] == sizes[5] < 16


def test_what_two_groups_save_at_one_layer_overlaps():
    model = mlp((12, 24, 24, 4))
    coupling, found, cost = table(model, step=4)
    smallest = np.array([4, 4])
    cut = pruned(coupling, Plan({r.group.name: r.kept(4) for r in found}))
    alone = [cost.total(np.array(w)) for w in ([4, 24], [24, 4])]
    added = sum(alone) - cost.whole
    assert added < cost.total(smallest)
    assert cost.total(smallest) == pytest.approx(steps_of(cut), rel=0.02)


def test_groups_of_one_shape_are_measured_together(monkeypatch):
    asked = counting(monkeypatch)
    model = mlp((16, 16, 16, 16, 16))
    coupling, _, cost = table(model, step=4)
    assert list(latency.classes(coupling, coupling.groups).values()) == [[0, 1, 2]]
    assert asked == [3 + 1, 1]  # three widths and the original; the original alone
    assert len({tuple(counted) for counted in cost.counted}) == 1


def test_groups_of_other_shapes_are_not():
    coupling = coupled(mlp((16, 16, 16, 24, 16)))
    assert len(latency.classes(coupling, coupling.groups)) == 3
    strided = coupled(residual())
    for one, other in pairwise(latency.classes(strided, strided.groups).values()):
        assert one != other


def test_noise_never_makes_a_narrower_group_slower(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        latency.clock,
        "in_turns",
        lambda m, *a, **k: np.array([[steps_of(x) * rng.normal(1, 0.05) for x in m] for _ in range(5)]),
    )
    _, found, cost = table(mlp((12, 40, 40, 4)), step=4)
    for place, ranking in enumerate(found):
        widths = np.array([r.group.channels for r in found])
        totals = []
        for width in ranking.levels:
            widths[place] = width
            totals.append(cost.total(widths))
        assert (np.diff(totals) >= -1e-9).all()


def test_a_group_that_saves_no_time_costs_nothing(monkeypatch):
    monkeypatch.setattr(latency.clock, "in_turns", lambda m, *a, **k: np.full((3, len(m)), 2.0))
    _, found, cost = table(mlp())
    assert cost.total(np.array([r.levels[0] for r in found])) == 2.0


@pytest.mark.parametrize("step", [4, 8, 16, 32])
def test_the_step_of_the_machine_is_found(step, monkeypatch):
    def in_turns(found, feed, runtime, **limits):
        widths = [m.graph.initializer[0].dims[0] for m in found]
        return np.tile([1.0 + -(-n // step) * step / 10 for n in widths], (3, 1))

    monkeypatch.setattr(latency.clock, "in_turns", in_turns)
    assert latency.step(RUNTIME) == step


def test_a_smooth_machine_has_the_finest_step(monkeypatch):
    monkeypatch.setattr(
        latency.clock, "in_turns", lambda m, *a, **k: np.array([[x.graph.initializer[0].dims[0] for x in m]], float)
    )
    assert latency.step(RUNTIME) == latency.FINE


def test_names_of_groups_do_not_matter():
    coupling = coupled(mlp((16, 16, 16, 16)))
    assert group(coupling, coupling.groups[0].name).name != coupling.groups[1].name
    assert list(latency.classes(coupling, coupling.groups).values()) == [[0, 1]]


def counting(monkeypatch):
    asked = []

    def in_turns(found, feed, runtime, **limits):
        asked.append(len(found))
        return np.tile([steps_of(model) for model in found], (3, 1))

    monkeypatch.setattr(latency.clock, "in_turns", in_turns)
    return asked


def test_what_is_known_is_not_measured_again(monkeypatch):
    asked = counting(monkeypatch)
    _, _, first = table(mlp((16, 16, 16, 16, 16)), step=4)
    _, _, again = table(mlp((16, 16, 16, 16, 16), seed=3), step=4)
    assert asked == [4, 1]
    assert again.slopes == pytest.approx(first.slopes)


def test_a_network_with_fewer_such_groups_shares_what_one_of_them_saves(monkeypatch):
    many = mlp((16, 16, 16, 16, 16, 16))
    _, _, first = table(many, step=4)
    asked = counting(monkeypatch)
    _, _, cost = table(mlp((16, 16, 16)), step=4)
    assert asked == [1]
    assert cost.slopes[0] == pytest.approx(first.slopes[0])


def test_another_batch_or_provider_is_measured_anew(monkeypatch):
    asked = counting(monkeypatch)
    model = mlp((12, 16, 4))
    coupling = coupled(model)
    found = rankings(coupling, 4)
    macs = macs_of_widths(coupling, coupling.groups)
    for batch, runtime in ((1, RUNTIME), (2, RUNTIME), (1, Runtime(threads=2)), (1, RUNTIME)):
        latency.time_of_widths(coupling, found, macs, feeds(model, batch, batch=batch)[0], runtime)
    assert asked == [4, 1] * 3


def test_blocks_take_their_own_time_with_them():
    body, weights = "", {}
    for i in range(3):
        body += f"h{i} = Gemm(r{i}, u{i})  a{i} = Relu(h{i})  b{i} = Gemm(a{i}, d{i})  r{i + 1} = Add(r{i}, b{i})\n"
        weights |= {f"u{i}": (8, 16 if i < 2 else 24), f"d{i}": (16 if i < 2 else 24, 8)}
    model = build("float[N,8] r0", "float[N,4] y", body + "y = Gemm(r3, w)", weights | {"w": (8, 4)})
    graph = Graph(model)
    blocks = find(graph)
    whole, saved = latency.time_of_blocks(graph, blocks, feeds(model, 1)[0], RUNTIME)
    assert whole == pytest.approx(steps_of(model))
    assert saved == pytest.approx([0.01 * 2 * 8 * n for n in (16, 16, 24)])
