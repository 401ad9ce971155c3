"""Low-rank factors of heads against plain singular value decompositions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import CASES

import onnxprune
from onnxprune import factorize, files, unrepaired
from onnxprune.errors import UsageError
from onnxprune.graph import Graph
from onnxprune.heads import attend, names
from onnxprune.ops.linear import Later
from onnxprune.plan import Plan
from onnxprune.runtime import Runtime
from onnxprune.statistics import Moments


def moment(rng: np.random.Generator, n: int) -> np.ndarray:
    root = rng.normal(size=(n, n))
    return root @ root.T


def sums(rows: np.ndarray) -> Moments:
    found = Moments.starting_with(rows)
    found.add(rows)
    return found


def truncated(product: np.ndarray, rank: int) -> np.ndarray:
    u, s, v = np.linalg.svd(product)
    return (u[:, :rank] * s[:rank]) @ v[:rank]


def root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


@pytest.mark.parametrize("n", [1, 2, 7])
def test_factors_are_inverse_and_their_tail_is_the_error(n):
    rng = np.random.default_rng(n)
    first, second = moment(rng, n), moment(rng, n)
    t, s, energy = factorize.factor(first, second)
    np.testing.assert_allclose(t @ s.T, np.eye(n), atol=1e-8)
    assert (np.diff(energy) <= 0).all()
    for rank in range(n + 1):
        lost = np.eye(n) - t[:, :rank] @ s[:, :rank].T
        error = np.trace(lost.T @ first @ lost @ second)
        assert error == pytest.approx(energy[rank:].sum(), rel=1e-3, abs=1e-4 * energy.sum())


def test_dead_heads_can_be_turned():
    for first, second in (
        (np.zeros((3, 3)), np.eye(3)),
        (np.zeros((3, 3)), np.zeros((3, 3))),
        (np.diag([1.0, 0, 0]),) * 2,
    ):
        t, s, energy = factorize.factor(first, second)
        assert np.isfinite(energy).all()
        np.testing.assert_allclose(t @ s.T, np.eye(3), atol=1e-6)


def test_queries_and_keys_are_the_truncated_whitened_product():
    """Per head: the SVD of C^½ Wq Wkᵀ C'^½ with the biases as one more row, where C is the inputs' second moment."""
    rng, case = np.random.default_rng(0), CASES["attention_across"]
    coupling = attend(Graph(case.model()), "rank")
    group = coupling.by_name["q0"]
    rows = {"q0": rng.normal(1, 1, (400, 6)).astype(np.float32), "k0": rng.normal(0, 2, (400, 7)).astype(np.float32)}
    found = factorize.turn(coupling, group, {key: sums(x) for key, x in rows.items()})
    layers = factorize.layers(coupling, [found])
    total = lost = 0.0
    for head in range(3):
        places = slice(2 * head, 2 * head + 2)
        old, new, whitened = [], [], []
        for key, x in rows.items():
            linear = coupling.linear(coupling.graph.producer[key])
            after = layers[linear.index].after
            old.append(np.vstack([linear.matrix[0][:, places], linear.offset[places]]))
            new.append(np.vstack([after.matrix[0][:, places], after.offset[places]]))
            x1 = np.hstack([x, np.ones((len(x), 1))]).astype(np.float64)
            whitened.append(root(x1.T @ x1 / len(x1)))
        product = whitened[0] @ old[0] @ old[1].T @ whitened[1]
        np.testing.assert_allclose(whitened[0] @ new[0] @ new[1].T @ whitened[1], product, atol=1e-6)
        low = whitened[0] @ new[0][:, :1] @ new[1][:, :1].T @ whitened[1]
        np.testing.assert_allclose(low, truncated(product, 1), atol=1e-2 * np.abs(product).max())
        total += float(np.square(product).sum())
        lost += float(np.square(product - truncated(product, 1)).sum())
    np.testing.assert_allclose(found.tail, [1, lost / total, 0], rtol=1e-3)


def test_values_are_the_truncated_product_with_the_projection():
    """Per head: the SVD of C^½ O, where C is the covariance of what the head hands over."""
    rng, case = np.random.default_rng(1), CASES["attention_across"]
    coupling = attend(Graph(case.model()), "rank")
    group, projection = coupling.by_name["v0"], coupling.linear(coupling.graph.producer["y"])
    z = (rng.normal(1, 1, (500, 12)) @ rng.normal(size=(12, 12))).astype(np.float32)
    layers = factorize.layers(coupling, [factorize.turn(coupling, group, {"y": sums(z)})])
    values = coupling.linear(coupling.graph.producer["v0"])
    for head in range(3):
        places = slice(4 * head, 4 * head + 4)
        whitened = root(np.cov(z[:, places].T, bias=True))
        v, o = values.matrix[0][:, places], projection.matrix[0][places]
        v1, o1 = layers[values.index].after.matrix[0][:, places], layers[projection.index].after.matrix[0][places]
        np.testing.assert_allclose(v1 @ o1, v @ o, atol=1e-6)
        for rank in (1, 2):
            mixed = np.linalg.lstsq(v, v1[:, :rank], rcond=None)[0] @ o1[:rank]
            np.testing.assert_allclose(
                whitened @ mixed, truncated(whitened @ o, rank), atol=2e-3 * np.abs(o).max() * 10
            )


@pytest.mark.parametrize("name", ["attention", "attention_of_one_head", "attention_in_one_node"])
def test_unturned_dims_go_by_what_their_products_change(name):
    """All queries against all keys: the squares of what the products of the dims that are gone add up to."""
    rng, coupling = np.random.default_rng(4), attend(Graph(CASES[name].model()), "rank")
    group = next(g for g in coupling.groups if g.heads and all(part.written for head in g.heads for part in head))
    group, dims = replace(group, heads=(), unturned=True), group.channels
    (pair,) = unrepaired.comparisons(coupling, group)
    rows = [rng.normal(1, 1, (30, side.seen.channels)).astype(np.float32) for side in pair]
    moments = {side.seen.key: [sums(x)] for side, x in zip(pair, rows, strict=True)}
    ranking = unrepaired.rank(coupling, group, moments, np.arange(1, dims + 1))
    products = []
    for left, right in zip(pair[0].places, pair[1].places, strict=True):
        q, k = np.zeros((2, 30, dims))
        q[:, pair[0].dims], k[:, pair[1].dims] = rows[0][:, left], rows[1][:, right]
        products.append(q[:, None] * k)
    before = sum(np.square(one.sum(-1)).mean() for one in products)
    for width, error in zip(ranking.levels, ranking.errors, strict=True):
        gone = ranking.removed(int(width))
        assert error == pytest.approx(sum(np.square(one[..., gone].sum(-1)).mean() for one in products) / before)
    least = min(range(dims), key=lambda i: sum(np.square(one[..., i]).mean() for one in products))
    assert ranking.order[0] == least


def test_moments_of_turned_inputs():
    rng = np.random.default_rng(2)
    rows = rng.normal(3, 1, (40, 12)).astype(np.float32)
    coupling = attend(Graph(CASES["attention_across"].model()), "rank")
    found = factorize.turn(coupling, coupling.by_name["v0"], {"y": sums(rows)})
    one = factorize.layers(coupling, [found])[coupling.graph.producer["y"]]
    expected = rows.astype(np.float64)
    for places, block in one.rows:
        expected[:, places] = rows[:, places] @ block
    np.testing.assert_allclose(one.moments(sums(rows)).mean, expected.mean(0), rtol=1e-5)
    gram = one.moments(sums(rows)).gram_about(expected.mean(0))
    np.testing.assert_allclose(gram, np.cov(expected.T, bias=True), rtol=1e-4, atol=1e-6)


def test_turned_matrices_of_a_big_model_are_made_when_asked_for(monkeypatch):
    found, moments = [], {"y": sums(np.random.default_rng(2).normal(3, 1, (40, 12)))}
    for size in (files.BIG, 1):
        monkeypatch.setattr(files, "BIG", size)
        coupling = attend(Graph(CASES["attention_across"].model()), "rank")
        turn = factorize.turn(coupling, coupling.by_name["v0"], moments)
        found.append(factorize.layers(coupling, [turn]))
    for index, one in found[0].items():
        for plain, big in ((one.before, found[1][index].before), (one.after, found[1][index].after)):
            assert isinstance(big.held, Later)
            assert isinstance(plain.held, np.ndarray)
            np.testing.assert_allclose(big.matrix, plain.matrix, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(big.offset, plain.offset, rtol=1e-5, atol=1e-6)


CORRELATED = np.random.default_rng(5).normal(size=(6, 6)) * np.asarray([4, 2, 1, 0.5, 0.2, 0.1])


def data(count: int = 120) -> dict[str, np.ndarray]:
    x = np.random.default_rng(3).normal(size=(count, 4, 6)) @ CORRELATED
    return {"x": x.astype(np.float32)}


@pytest.mark.parametrize("reconstruct", ["ls", "local", "mean", "none"])
@pytest.mark.parametrize("name", ["attention_packed", "attention_scaled_by_a_size", "attention_of_shared_keys"])
def test_a_whole_run(name, reconstruct):
    """The written model answers as the plan that it was made by, and smaller ranks answer worse."""
    case, errors = CASES[name], []
    for target in (0.85, 0.6):
        result = onnxprune.prune(
            case.model(), target=f"macs={target}", calibration=data(), attention="rank", reconstruct=reconstruct,
            round_to=1, measure_latency=False,
        )  # fmt: skip
        assert result.report.surgery_check["ok"]
        assert result.plan.by_rank
        assert any(g.dims and g.kept < g.channels for g in result.report.groups)
        errors.append(result.report.fidelity.relative_error)
        assert onnxprune.apply(case.model(), result.plan).graph == result.model.graph
    assert errors[0] <= errors[1]


@pytest.mark.parametrize("allocate", ["dp", "uniform"])
@pytest.mark.parametrize("method", ["reap", "l1", "wanda", "merge", "apoz"])
def test_a_whole_run_with_one_head(method, allocate):
    """Dims of one head go with every method but those that need stand-ins."""
    case = CASES["attention_of_one_head_with_filters"]
    x = np.random.default_rng(3).normal(size=(60, 3, 8, 8)).astype(np.float32)
    result = onnxprune.prune(
        case.model(), target="params=0.75", calibration={"x": x}, method=method, allocate=allocate, round_to=1,
        measure_latency=False,
    )  # fmt: skip
    assert result.report.surgery_check["ok"]
    assert any(g.dims and g.kept < g.channels for g in result.report.groups) is (method != "merge")
    assert onnxprune.apply(case.model(), result.plan).graph == result.model.graph


def test_methods_that_need_no_data_take_dims_by_their_weights():
    """Without calibration l1 takes the dims that the smallest weights make."""
    case = CASES["attention_of_one_head"]
    result = onnxprune.prune(case.model(), method="l1", allocate="uniform", target="params=0.6", round_to=1)
    weights = [Graph(case.model()).array(name) for name in ("wq", "wk")]
    norms = sum(np.abs(w).sum(0) for w in weights)
    kept = result.plan.keep["q"]
    assert 0 < len(kept) < len(norms)
    assert set(kept.tolist()) == set(np.argsort(norms)[-len(kept) :].tolist())
    assert any("none was needed" in warning for warning in result.report.warnings)


def test_dims_that_the_data_doesnt_need_cost_nothing():
    """Inputs of rank 3: of 8 dims per head 5 can go without a loss, while both heads are needed."""
    case = replace(
        CASES["attention_across"],
        inputs="float[N,4,6] x, float[N,5,7] z, float[N,1,1,5] mask",
        weights=CASES["attention_across"].weights
        | {"wq": (6, 16), "wk": (7, 16), "wv": (7, 16), "wo": (16, 3), "join": [0, 4, 16]}
        | {"queries": [0, 4, 2, 8], "keys": [0, 5, 2, 8], "values": [0, 5, 2, 8]},
    )
    rng, found = np.random.default_rng(0), {}
    feed = {name: rng.normal(size=(80, n, 3)) @ rng.normal(size=(3, m)) for name, n, m in (("x", 4, 6), ("z", 5, 7))}
    feed = {name: value.astype(np.float32) for name, value in feed.items()} | {
        "mask": np.zeros((80, 1, 1, 5), np.float32)
    }
    for attention in ("rank", "heads"):
        result = onnxprune.prune(
            case.model(), target="macs=0.52", calibration=feed, attention=attention, round_to=1, measure_latency=False
        )
        found[attention] = result.report.fidelity.relative_error
    assert found["rank"] < 1e-4
    assert found["heads"] > 1e-2


def test_auto_turns_heads_where_layers_are_repaired():
    case = CASES["attention_packed"]
    for method, turned in (("reap", True), ("l1", False)):
        result = onnxprune.prune(case.model(), target="macs=0.8", calibration=data(), method=method, round_to=1)
        assert bool(result.plan.by_rank) is turned


def test_a_plan_remembers_what_its_channels_are(tmp_path):
    coupling = attend(Graph(CASES["attention"].model()), "rank")
    plan = Plan({"q0": np.asarray([0, 1])}, {}, names(coupling))
    plan.save(tmp_path / "plan.npz")
    assert Plan.load(tmp_path / "plan.npz").by_rank == plan.by_rank == ("s", "o")
    model = onnxprune.apply(CASES["attention"].model(), Plan.load(tmp_path / "plan.npz"))
    assert Graph(model).shapes["q"] == (1, 2, 4, 2)
    Runtime().session(model).run(CASES["attention"].feed())


def test_unknown_ways_are_usage_errors():
    with pytest.raises(UsageError, match="no way to prune attention 'both'"):
        onnxprune.inspect(CASES["attention"].model(), attention="both")
    with pytest.raises(UsageError, match="no way to prune attention 'both'"):
        onnxprune.prune(CASES["attention"].model(), attention="both")
