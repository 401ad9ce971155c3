"""The two networks that are carried along, against whole runs of each."""

import gc
import tempfile

import numpy as np
import pytest
from cases import CASES

import models
from onnxprune import spill
from onnxprune import walk as walk_module
from onnxprune.plan import Plan, Weights
from onnxprune.rewrite import twin, with_weights
from onnxprune.spill import Spill
from onnxprune.walk import Walk, by_depth, layers_in_order

ORIGINALS = list(models.ALL)


def beside():
    """A branch without layers that runs beside a drifting one, deeper than it, and a cast that keeps its type."""
    body = """
        [a] h = Gemm<transB=1>(x, w0, b0)
        r = Relu(h)
        s1 = Tanh(x)
        s2 = Sigmoid(s1)
        s3 = Tanh(s2)
        s4 = Sigmoid(s3)
        s5 = Tanh(s4)
        [b] g = Gemm<transB=1>(r, w1, b1)
        z = Add(g, s5)
        q = Relu(z)
        [c] y = Gemm<transB=1>(q, w2, b2)"""
    weights = {"w0": (12, 8), "b0": (12,), "w1": (8, 12), "b1": (8,), "w2": (4, 8), "b2": (4,)}
    return models.build("float[N,8] x", "float[N,4] y", body, weights)


def constants():
    """Weights that Constant nodes and constant subgraphs make, and a body that reads a value from outside."""
    body = """
        w0 = Constant<value = float[5,4] {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8,9,1,2}>()
        w1 = Transpose<perm=[1,0]>(v1)
        [a] h = Gemm<transB=1>(x, w0)
        r = Relu(h)
        t = If(yes) <
            then_branch = one () => (float[N,5] u) { u = Mul(r, two) },
            else_branch = other () => (float[N,5] u) { u = Identity(r) }
        >
        [b] y = Gemm<transB=1>(t, w1)"""
    return models.build("float[N,4] x", "float[N,3] y", body, {"v1": (5, 3), "two": np.float32(2), "yes": np.bool_(1)})


def untyped():
    """A value of which no inference knows the type, alive across a layer."""
    body = """
        [a] h = Gemm<transB=1>(x, w0)
        t = com.microsoft.Trilu(h)
        r = Relu(h)
        [b] g = Gemm<transB=1>(r, w1)
        [c] k = Gemm<transB=1>(g, w2)
        y = Add(k, t)"""
    return models.build("float[N,4] x", "float[N,6] y", body, {"w0": (6, 4), "w1": (6, 6), "w2": (6, 6)})


MADE = models.ALL | {"beside": beside, "constants": constants, "untyped": untyped}


def renewed(linear, seed):
    rng = np.random.default_rng(seed)
    noise = 1 + 0.2 * rng.normal(size=linear.matrix.shape)
    return Weights(linear.matrix * noise, linear.offset + 0.1 * rng.normal(size=linear.offset.shape))


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()), rtol=0)


def walked(name, share, max_memory=2e9):
    """Walk through a model, with new weights for some layers; check every layer's input on both sides."""
    model = MADE[name]()
    coupling = models.coupled(model)
    layers, feeds = layers_in_order(coupling), models.feeds(model, 9, batch=4)
    rng = np.random.default_rng(5)
    weights = {linear.key: renewed(linear, i) for i, linear in enumerate(layers) if rng.random() < share}
    other = twin(coupling, Plan({}, weights))
    seen = []
    with Walk(coupling, iter(feeds), models.RUNTIME, max_memory) as walk:
        for linear in layers:
            walk.advance(linear.index)
            for b, feed in enumerate(feeds):
                names = [linear.input] if linear.input not in feed else []
                before = feed | (models.values(model, feed, names) if names else {})
                after = feed | (models.values(other, feed, names) if names else {})
                close(walk.original[b][linear.input], before[linear.input])
                close(walk.value(b, linear.input), after[linear.input])
                seen.append(np.asarray(walk.value(b, linear.input)))
            if linear.key in weights:
                walk.renew(linear, weights[linear.key])
        walk.advance()
        for b, feed in enumerate(feeds):
            for output, value in models.values(model, feed).items():
                close(walk.original[b][output], value)
            for output, value in models.values(other, feed).items():
                close(walk.value(b, output), value)
            assert set(walk.original[b]) == set(coupling.graph.outputs)
            assert set(walk.pruned[b]) == set(coupling.graph.outputs) & walk.drifted
    return seen


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_layer_reads_what_whole_runs_of_both_networks_say(name, share):
    walked(name, share)


def test_what_has_not_drifted_is_stored_once():
    model = models.residual()
    coupling = models.coupled(model)
    layers = layers_in_order(coupling)
    with Walk(coupling, models.feeds(model, 4), models.RUNTIME) as walk:
        walk.advance(layers[2].index)
        assert walk.pruned == [{}]
        walk.renew(layers[2], renewed(layers[2], 0))
        walk.advance(layers[3].index)
        assert set(walk.pruned[0]) == {"r", "s"}
        assert walk.value(0, "r") is walk.pruned[0]["r"]
        assert walk.original[0]["r"] is not walk.pruned[0]["r"]


def test_only_what_is_read_later_is_held():
    model = models.mlp()
    coupling = models.coupled(model)
    layers = layers_in_order(coupling)
    with Walk(coupling, models.feeds(model, 8, batch=4), models.RUNTIME) as walk:
        held = []
        for linear in layers:
            walk.advance(linear.index)
            held.append([sorted(batch) for batch in walk.original])
            assert walk._held == sum(v.nbytes for b in (*walk.original, *walk.pruned) for v in b.values())
        assert held == [[["x"]] * 2, [["r0"]] * 2, [["r1"]] * 2]
        walk.keep(["r1"])
        walk.advance()
        assert sorted(walk.original[0]) == ["r1", "y"]


# ---- Order


@pytest.mark.parametrize("shortcut", ["identity", "projection", "option_a"])
def test_a_shortcut_runs_before_the_last_layer_of_its_branch(shortcut):
    coupling = models.coupled(models.residual(shortcut))
    place = {coupling.graph.nodes[i].output[0]: n for n, i in enumerate(by_depth(coupling))}
    file = {node.output[0]: n for n, node in enumerate(coupling.graph.nodes)}
    assert file["s"] > file["a4"]
    assert place["s"] < place["a4"]


@pytest.mark.parametrize("name", MADE)
def test_every_node_runs_once_and_after_what_it_reads(name):
    coupling = models.coupled(MADE[name]())
    graph, order = coupling.graph, by_depth(coupling)
    assert len(set(order)) == len(order)
    known = {i.name for i in graph.inputs} | graph.static
    for index in order:
        assert known.issuperset(graph.reads(graph.nodes[index]))
        known.update(graph.nodes[index].output)
    assert known.issuperset(graph.outputs)
    layers = [i for i in order if i in coupling.notes.readers and coupling.linear(i) is not None]
    assert [layer.index for layer in layers_in_order(coupling)] == layers


# ---- Disk


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["option_a", "heads", "beside"])
@pytest.mark.parametrize("granted", [0, 300])
def test_files_hold_what_memory_does_not(name, granted, folder, monkeypatch):
    written = []
    keep = Spill.keep
    monkeypatch.setattr(Spill, "keep", lambda self, value: (written.append(value), keep(self, value))[1])
    found, expected = walked(name, 0.7, granted), walked(name, 0.7)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(written) > 5
    del a, found  # what is given may lie in a file
    assert not list(folder.iterdir())


def test_files_go_when_their_values_are_not_needed_any_more(folder, monkeypatch):
    monkeypatch.setattr(spill, "SIZE", 1)  # a file for each value
    model = models.mlp()
    coupling = models.coupled(model)
    with Walk(coupling, models.feeds(model, 8, batch=4), models.RUNTIME, 0) as walk:
        for linear in layers_in_order(coupling):
            walk.advance(linear.index)
            assert len(list(folder.iterdir())) <= 3  # one of each batch, and the one that is written
    assert not list(folder.iterdir())


def test_the_users_own_mapped_files_stay(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, models.data(models.mlp(), 5))
    coupling = models.coupled(models.mlp())
    with Walk(coupling, [{"x": np.load(path, mmap_mode="r")}], models.RUNTIME) as walk:
        walk.advance()
    assert path.exists()


def test_what_is_kept_for_a_while():
    coupling = models.coupled(models.mlp())
    layers = layers_in_order(coupling)
    with Walk(coupling, models.feeds(models.mlp(), 5), models.RUNTIME) as walk:
        walk.keep(["h0"], layers[2].index)
        walk.keep(["h0"], layers[1].index)
        walk.advance(layers[2].index)
        assert set(walk.original[0]) == {"h0", "r1"}
        walk.recall([layers[2].index])
        assert set(walk.original[0]) == {"h0", "r1", "y"}
        walk.advance()
        assert set(walk.original[0]) == {"y"}


def test_no_file_is_left_after_an_exception(folder):
    model = models.mlp()
    coupling = models.coupled(model)

    def fail():
        with Walk(coupling, models.feeds(model, 5), models.RUNTIME, 0) as walk:
            walk.advance(layers_in_order(coupling)[1].index)
            assert list(folder.iterdir())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not list(folder.iterdir())


def test_no_file_is_left_when_the_samples_cannot_be_read(folder):
    def broken():
        yield from models.feeds(models.mlp(), 5, batch=2)
        raise OSError

    with pytest.raises(OSError):
        Walk(models.coupled(models.mlp()), broken(), models.RUNTIME, 0)
    assert not list(folder.iterdir())
    gc.collect()


# ---- Suffixes


@pytest.mark.parametrize("name", [n for n in MADE if n != "lstm"])
def test_a_suffix_gives_the_whole_models_outputs(name):
    model = MADE[name]()
    coupling = models.coupled(model)
    layers, feeds = layers_in_order(coupling), models.feeds(model, 6, batch=3)
    outputs = coupling.graph.outputs
    with Walk(coupling, feeds, models.RUNTIME) as walk:
        walk.keep(outputs)
        for linear in layers:
            walk.advance(linear.index)
            new = renewed(linear, 1)
            replaced = {linear.index: [with_weights(linear, new)]}
            other = twin(coupling, Plan({}, {linear.key: new}))
            plain, changed = walk.suffix({}, outputs), walk.suffix(replaced, outputs)
            for b, feed in enumerate(feeds):
                for session, whole in ((plain, model), (changed, other)):
                    found = session.run({n: walk.original[b][n] for n in session.inputs})
                    expected = models.values(whole, feed)
                    assert set(found) | set(walk.original[b]) >= set(outputs)
                    for output, value in found.items():
                        close(value, expected[output])


def test_a_suffix_leaves_out_what_nobody_asks_for(monkeypatch):
    """Such as what a detector makes of the boxes that it finds: without any it may fail."""
    model, built, part = CASES["two_heads"].model(), list[int](), walk_module.part
    coupling = models.coupled(model)
    monkeypatch.setattr(walk_module, "part", lambda *args: built.extend(args[2]) or part(*args))
    with Walk(coupling, [CASES["two_heads"].feed(2)], models.RUNTIME) as walk:
        first = coupling.graph.outputs[0]
        walk.keep([first])
        assert walk.suffix({}, [first]).outputs == [first]
    makes = {name for index in built for name in coupling.graph.nodes[index].output}
    assert first in makes
    assert makes.isdisjoint(coupling.graph.outputs[1:])


def test_only_the_stretch_in_which_something_changes_is_built_anew(monkeypatch):
    model = models.mlp((8,) * 25)
    coupling = models.coupled(model)
    layers, built, part = layers_in_order(coupling), [], walk_module.part
    with Walk(coupling, models.feeds(model, 4), models.RUNTIME) as walk:
        walk.keep(["y"])
        walk.suffix({}, ["y"])
        for linear in layers:
            walk.advance(linear.index)
            monkeypatch.setattr(walk_module, "part", lambda *args: built.append(args[2]) or part(*args))
            chain = walk.suffix({linear.index: [with_weights(linear, renewed(linear, 1))]}, ["y"])
            monkeypatch.setattr(walk_module, "part", part)
            assert len(chain.sessions) <= walk_module.STRETCHES
    assert [linear.index in nodes for linear, nodes in zip(layers, built, strict=True)] == [True] * len(layers)
    assert max(map(len, built)) <= -(-len(walk.schedule) // walk_module.STRETCHES)


def test_the_weights_of_a_suffix_are_the_originals_even_where_the_pruned_network_has_others():
    model = models.mlp()
    coupling = models.coupled(model)
    layers, feed = layers_in_order(coupling), models.feeds(model, 4)[0]
    with Walk(coupling, [feed], models.RUNTIME) as walk:
        walk.renew(layers[0], renewed(layers[0], 0))
        walk.advance(layers[1].index)
        session = walk.suffix({}, ["y"])
        close(session.run(walk.original[0])["y"], models.values(model, feed)["y"])


def test_lists_of_sizes_come_with_their_lengths():
    """Without them, ONNX's inference takes a list that two parts are joined to for an empty one."""
    body = """
        [a] h = Gemm<transB=1>(x, w0, b0)
        s = Shape(h)
        r = Relu(h)
        [b] y = Gemm<transB=1>(r, w1, b1)"""
    weights = {"w0": (12, 8), "b0": (12,), "w1": (4, 12), "b1": (4,)}
    model = models.build("float[N,8] x", "float[N,4] y, int64[2] s", body, weights)
    with Walk(models.coupled(model), models.feeds(model, 2), models.RUNTIME) as walk:
        assert [d.dim_value for d in walk_module._info(walk, walk.graph, "s").type.tensor_type.shape.dim] == [2]
        assert not walk_module._info(walk, walk.graph, "h").type.tensor_type.HasField("shape")
