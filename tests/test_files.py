"""Model files: weights beside them, where those may lie, and writing that loses nothing."""

from __future__ import annotations

import os
from itertools import groupby
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import CASES
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import files, oracle, selection
from onnxprune.cli import main
from onnxprune.coupling import couple
from onnxprune.errors import ModelError, OutputError
from onnxprune.files import embedded, load, on_disk, save, size, whole
from onnxprune.graph import Graph
from onnxprune.ops.linear import Later, Linear
from onnxprune.plan import Plan
from onnxprune.rewrite import pruned, rewrite, silenced, twin
from onnxprune.runtime import Runtime
from onnxprune.spill import Spill

MODELS = Path(__file__).parent.parent / "models"
MLP = MODELS / "digits_mlp.onnx"


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the smallest tensors are large, and every model is big."""
    monkeypatch.setattr(files, "LARGE", 64)
    monkeypatch.setattr(files, "BIG", 1)


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model with its weights beside it."""
    path = tmp_path / "m.onnx"
    written(path)
    return path


def written(path: Path, location: str = "") -> None:
    model = onnx.load(MODELS / "digits_mlp.onnx")
    onnx.save(model, path, save_as_external_data=True, size_threshold=0, location=location or f"{path.name}.data")


def relocated(path: Path, location: str, **entries: object) -> None:
    """Change where a model says that its weights are."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        known = {e.key: e.value for e in tensor.external_data} | {"location": location} | entries
        del tensor.external_data[:]
        for key, value in known.items():
            tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())


def run(*args: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr


# ---- reading


def test_a_file_is_read(tmp_path):
    model = CASES["chain"].model()
    save(model, tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx").proto == model
    assert load(str(tmp_path / "m.onnx")).data == ()


def test_weights_beside_a_file_are_mapped(external, monkeypatch):
    monkeypatch.setattr(files, "LARGE", 1000)
    found, expected = load(external), onnx.load(external)
    assert found.data == (external.parent.resolve() / "m.onnx.data",)
    large = {t.name for t in expected.graph.initializer if len(t.raw_data) >= 1000}
    assert large
    assert set(found.arrays) == large
    graph = Graph.of(found)
    for tensor in expected.graph.initializer:
        np.testing.assert_array_equal(graph.array(tensor.name), numpy_helper.to_array(tensor))
        assert (files.place(graph.array(tensor.name)) is not None) == (tensor.name in large)
    assert embedded(found) == onnx.load(MODELS / "digits_mlp.onnx")
    assert size(found) == pytest.approx(expected.ByteSize(), rel=0.01)
    assert on_disk(external) == external.stat().st_size + (external.parent / "m.onnx.data").stat().st_size


def test_a_file_of_many_weights_is_opened_once(external, monkeypatch):
    monkeypatch.setattr(files, "LARGE", 1)
    before = len(list(Path("/dev/fd").iterdir()))
    found = load(external)
    assert len(found.arrays) > 5
    assert len(list(Path("/dev/fd").iterdir())) == before + 1


def test_tensors_of_nodes_and_bodies_are_read_too(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, bool c) => (float[2] y) {
        k = Constant<value = float[2] {1, 2}>() z = Add(x, k)
        y = If(c) <then_branch = t () => (float[2] p) { l = Constant<value = float[2] {3, 4}>() p = Add(z, l) },
                   else_branch = e () => (float[2] q) { q = Neg(z) }> }"""
    model = onnx.parser.parse_model(text)
    for node in (model.graph.node[0], model.graph.node[2].attribute[0].g.node[0]):
        node.attribute[0].t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(node.attribute[0].t)))
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, convert_attribute=True, location="d"
    )
    assert str(onnx.load(tmp_path / "m.onnx", load_external_data=False)).count("location") == 4
    found = load(tmp_path / "m.onnx").proto
    assert "external" not in str(found)
    assert numpy_helper.to_array(found.graph.node[0].attribute[0].t).tolist() == [1, 2]


def test_elements_that_are_no_whole_bytes(tmp_path, beside):
    tensor = helper.make_tensor("w", TensorProto.INT4, [3], bytes([0x21, 0x03]), raw=True)
    ends = [helper.make_tensor_value_info(n, t, [3]) for n, t in (("x", 1), ("y", 1), ("w", TensorProto.INT4))]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ends[:1], ends[1:], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="d")
    found = load(tmp_path / "m.onnx")
    assert not found.arrays
    assert numpy_helper.to_array(found.proto.graph.initializer[0]).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "location", ["", "../w", "a/../../w", "..\\w", "/etc/hostname", "C:\\w", "C:w", "\\\\server\\w", "/", "."]
)
def test_weights_from_elsewhere_are_refused(location, external):
    (external.parent.parent / "w").write_bytes(bytes(10**6))
    relocated(external, location)
    with pytest.raises(ModelError, match=r"that is refused|can't be read as a file"):
        load(external)
    code, says = run("inspect", external)
    assert (code, says.count("\n")) == (1, 1)


def test_links_that_lead_out_are_refused(external, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    data = external.parent / "m.onnx.data"
    data.rename(outside / "w")
    data.symlink_to(outside / "w")
    with pytest.raises(ModelError, match=r"a link that leads out of its own folder; that is refused"):
        load(external)
    assert run(external, external.parent / "o.onnx")[0] == 1
    data.unlink()
    (external.parent / "folder").symlink_to(outside)
    relocated(external, "folder/w")
    with pytest.raises(ModelError, match="leads out"):
        load(external)
    (outside / "w").rename(external.parent / "w")
    data.symlink_to("w")
    relocated(external, "m.onnx.data")
    assert load(external).data == ((external.parent / "w").resolve(),)


def test_a_linked_model_has_the_folder_of_the_real_one(external, tmp_path_factory):
    """A download cache keeps the files under other names in one folder, and links to them."""
    cache, data = tmp_path_factory.mktemp("cache"), external.parent / "m.onnx.data"
    for file in (external, data):
        file.rename(cache / file.name[::-1])
        file.symlink_to(cache / file.name[::-1])
    assert load(external).data == ((cache / data.name[::-1]).resolve(),)


def test_weights_that_are_not_all_there(external):
    data = external.parent / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"m\.onnx\.data is too short.*is it complete\?"):
        load(external)
    data.unlink()
    with pytest.raises(ModelError, match=r"m\.onnx keeps its weights in 'm\.onnx\.data', which isn't there"):
        load(external)
    code, says = run(external, external.parent / "o.onnx")
    assert (code, says.count("\n")) == (1, 1)


@pytest.mark.parametrize("entries", [{"length": 3}, {"offset": -4}, {"length": -1}, {"offset": "x"}, {"length": ""}])
def test_places_that_make_no_sense(entries, external):
    relocated(external, "m.onnx.data", **entries)
    with pytest.raises(ModelError, match="is damaged"):
        load(external)


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x08"])
def test_what_is_no_model(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx"):
        load(tmp_path / "m.onnx")


def test_what_is_no_file(tmp_path):
    with pytest.raises(ModelError, match="folder"):
        load(tmp_path)
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "m.onnx")


def test_a_callers_model_has_its_data(external):
    with pytest.raises(ModelError, match="without its external data"):
        onnxprune.inspect(onnx.load(external, load_external_data=False))
    assert onnxprune.inspect(onnx.load(external)).groups


def test_a_callers_big_model_is_taken_apart(beside):
    model = CASES["chain"].model()
    model.graph.initializer[0].doc_string = "said of it"
    model.graph.initializer[0].metadata_props.add(key="more", value="of it")
    before = model.SerializeToString()
    found = whole(model)
    assert set(found.arrays) == {t.name for t in model.graph.initializer if len(t.raw_data) >= 64}
    assert len(found.proto.SerializeToString()) < len(before)
    assert embedded(found) == model
    assert model.SerializeToString() == before


# ---- writing


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    model = CASES["chain"].model()
    save(model, tmp_path / "m.onnx")
    old = (tmp_path / "m.onnx").read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    for external in (False, True):
        with pytest.raises(OutputError, match="No space left"):
            save(model, tmp_path / "m.onnx", external=external)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == old


def test_weights_stay_beside(external, tmp_path):
    out = tmp_path / "out.onnx"
    assert run(external, out, "--target", "macs=0.5", "--reconstruct", "none", "-q")[0] == 0
    tensors = onnx.load(out, load_external_data=False).graph.initializer
    places = [{e.key: e.value for e in t.external_data} for t in tensors if t.external_data]
    assert places
    assert {p["location"] for p in places} == {"out.onnx.data"}
    assert all(int(p["offset"]) % 64 == 0 for p in places)
    onnx.checker.check_model(str(out), full_check=True)
    inside = tmp_path / "inside.onnx"
    assert run(MODELS / "digits_mlp.onnx", inside, "--target", "macs=0.5", "--reconstruct", "none", "--calib",
               MODELS / "digits_mlp.calib.npz", "-q")[0] == 0  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {"inside.onnx", "m.onnx", "m.onnx.data", "out.onnx", "out.onnx.data"}


def test_weights_go_beside_when_asked_to(tmp_path):
    out = tmp_path / "o.onnx"
    assert run(MODELS / "digits_mlp.onnx", out, "--save-as-external-data", "--target", "macs=0.5", "-q")[0] == 0
    assert (tmp_path / "o.onnx.data").stat().st_size > 10_000 > out.stat().st_size
    assert Runtime(threads=1).session(out).inputs == ["x"]
    save(load(MODELS / "digits_mlp.onnx"), out)
    assert [p.name for p in tmp_path.iterdir()] == ["o.onnx"], "the old model's data goes with it"


@pytest.mark.parametrize("goal", [0.9, 0.5])
def test_size_counts_the_file_that_weights_are_moved_to(goal, tmp_path):
    for out in ("o.onnx", f"a-{'long-' * 30}name.onnx"):
        code, _ = run(MLP, tmp_path / out, "--samples", "60", "--target", f"size={goal}", "--save-as-external-data")
        both = [(tmp_path / f"{out}{end}").stat().st_size for end in ("", ".data")]
        assert code == 0
        assert 0.98 * goal < sum(both) / MLP.stat().st_size <= goal


def test_size_counts_both_files_in_a_sweep(tmp_path):
    given = ("--samples", "60", "--targets", "size=0.9,0.51", "--round-to", "1", "--save-as-external-data", "-q")
    assert run("sweep", MLP, "--to", tmp_path, *given)[0] == 0
    for goal in (0.9, 0.51):
        out = tmp_path / f"digits_mlp-size{goal}.onnx"
        both = out.stat().st_size + out.with_name(f"{out.name}.data").stat().st_size
        assert 0.98 * goal < both / MLP.stat().st_size <= goal


@pytest.mark.parametrize("location", ["m.onnx.data", "m.onnx_data"])
def test_a_model_is_overwritten_in_place(location, tmp_path, beside):
    path = tmp_path / "m.onnx"
    written(path, location)
    before = (tmp_path / location).stat().st_size
    assert run(path, path, "--target", "macs=0.5", "-q")[0] == 1
    assert run(path, path, "--target", "macs=0.5", "--force", "-q")[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["m.onnx", location])
    assert (tmp_path / location).stat().st_size < 0.8 * before
    (scores,) = Runtime(threads=1).session(path).run({"x": np.ones((1, 64), np.float32)}).values()
    assert np.isfinite(scores).all()


def test_weights_of_another_name_are_left_for_others(tmp_path):
    path = tmp_path / "m.onnx"
    written(path, "shared.bin")
    code, says = run(path, path, "--target", "macs=0.5", "--force", "-q")
    assert code == 0
    assert "doesn't read" in says
    assert "shared.bin" in says
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data", "shared.bin"}


def test_files_in_the_way(external, tmp_path):
    (tmp_path / "o.onnx.data").write_bytes(b"precious")
    code, says = run(external, tmp_path / "o.onnx", "--target", "macs=0.5", "-q")
    assert code == 1
    assert "o.onnx.data exists already" in says
    assert run(external, tmp_path / "o.onnx", "--target", "macs=0.5", "-q", "--force")[0] == 0
    written(tmp_path / "n.onnx", "p.onnx.data")
    code, says = run(tmp_path / "n.onnx", tmp_path / "p.onnx", "--force", "-q")
    assert code == 1
    assert "holds the weights of" in says
    with pytest.raises(OutputError, match="holds the weights"):
        save(load(tmp_path / "n.onnx"), tmp_path / "p.onnx")
    assert load(tmp_path / "n.onnx").data


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("step", range(3))
def test_what_is_replaced_comes_back_when_that_fails(step, error, external, monkeypatch):
    """Any of the three renames may be the last thing that happens."""
    model, calls, replace = load(external), [], Path.replace
    before = {p.name: p.read_bytes() for p in external.parent.iterdir()}

    def interrupted(self, target):
        calls.append(target)
        if len(calls) == step + 1:
            raise error
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else OutputError):
        save(model, external)
    assert {p.name: p.read_bytes() for p in external.parent.iterdir()} == before


# ---- the same results, however the weights are kept


@pytest.mark.parametrize("name", ["chain", "lenet_flatten", "weights_through_nodes", "gated_ffn", "depthwise"])
def test_big_models_are_cut_the_same(name, beside, tmp_path):
    case = CASES[name]
    model = case.model()
    onnx.save(case.model(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="d")
    plain, mapped = couple(Graph(model)), couple(Graph.of(load(tmp_path / "m.onnx")))
    assert mapped.graph.arrays
    keep = {}
    for group in plain.groups:
        cells = int(group.cells.max()) + 1
        firsts = np.concatenate([np.flatnonzero(group.cells == c)[:1] for c in range(cells)])
        keep[group.name] = np.sort(firsts)
    plan = Plan(keep, {})
    feed = case.feed()
    for one, other in ((rewrite(plain, plan), pruned(mapped, plan)), (twin(plain, plan), silenced(mapped, plan))):
        expected = Runtime(threads=1).session(one).run(feed)
        found = Runtime(threads=1).session(other).run(feed)
        for value in expected:
            np.testing.assert_allclose(found[value], expected[value], rtol=1e-5, atol=1e-6)
        tensors = {t.name: numpy_helper.to_array(t) for t in embedded(other).graph.initializer}
        assert list(tensors) == [t.name for t in one.graph.initializer]
        for tensor in one.graph.initializer:
            np.testing.assert_array_equal(tensors[tensor.name], numpy_helper.to_array(tensor))


FORMS = ["chain", "half", "weights_through_nodes", "batchnorm_node", "depthwise", "lstm", "conv_transpose", "gated_ffn"]
FORMS += ["attention_across"]


@pytest.mark.parametrize("name", FORMS)
def test_the_matrices_of_a_big_model_take_no_memory(name, beside, tmp_path):
    """They are views of the file, or made when they are asked for."""
    model = CASES[name].model()
    plain = couple(Graph(model))
    onnx.save(CASES[name].model(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="d")
    big = couple(Graph.of(load(tmp_path / "m.onnx")))
    for key, layer in big.layers.items():
        held = layer.held
        assert isinstance(held, Later) or held.nbytes < files.LARGE or files.mapping(held) is not None
        assert layer.shape == layer.matrix.shape
        assert layer.dtype == layer.matrix.dtype
        np.testing.assert_allclose(layer.matrix, plain.layers[key].matrix, rtol=1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_the_new_matrices_of_a_big_model_take_no_memory(name, beside, tmp_path, monkeypatch):
    """They are put away in a file one after the other, however they are found; so are those that the oracle asks by."""
    case, made = CASES[name], list[str]()
    onnx.save(case.model(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="d")
    data = [case.feed(4, seed=seed) for seed in range(6)]
    probe, tried = selection.probe, list[Linear]()

    def probed(coupling, rankings, *others):
        tried.extend(layer for one in rankings for layers in one.trial.values() for layer in layers)
        return probe(coupling, rankings, *others)

    monkeypatch.setattr(selection, "probe", probed)
    for mode in ("ls", "local", "mean", "unify"):
        options = {"target": "params=0.8", "round_to": 1, "calibration": data, "batch": 4, "measure_latency": False}
        plan = onnxprune.prune(tmp_path / "m.onnx", reconstruct=mode, **options).plan
        assert plan.weights
        assert tried
        assert all(files.mapping(new.matrix) is not None for new in (*plan.weights.values(), *tried))
    own, keep = Linear.matrix, Spill.keep
    monkeypatch.setattr(Linear, "matrix", property(lambda self: made.append("made") or own.fget(self)))
    monkeypatch.setattr(Spill, "keep", lambda self, value: made.append("kept") or keep(self, value))
    coupling = couple(Graph.of(load(tmp_path / "m.onnx")))
    assert coupling.layers
    made.clear()
    moved = oracle._moved_weights(coupling, Plan())
    assert moved.keys() == coupling.layers.keys()
    assert [what for what, _ in groupby(made)] == ["made", "kept"] * len(moved)


@pytest.mark.parametrize("name", FORMS)
def test_big_models_are_refitted_the_same(name, beside, tmp_path, monkeypatch):
    case = CASES[name]
    data = [case.feed(4, seed=seed) for seed in range(12)]
    options = {"target": "params=0.8", "round_to": 1, "calibration": data, "batch": 4, "measure_latency": False}
    onnx.save(case.model(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="d")
    big = onnxprune.prune(tmp_path / "m.onnx", **options)
    monkeypatch.setattr(files, "BIG", 1 << 30)
    plain = onnxprune.prune(case.model(), **options)
    assert big.plan.keep.keys() == plain.plan.keep.keys()
    for group, kept in plain.plan.keep.items():
        np.testing.assert_array_equal(big.plan.keep[group], kept)
    found, expected = (Runtime(threads=1).session(r.model).run(data[0]) for r in (big, plain))
    tolerance = 1e-2 if case.half else 1e-3
    for value in expected:
        scale = np.abs(expected[value]).max()
        np.testing.assert_allclose(found[value], expected[value], rtol=tolerance, atol=tolerance * scale)


def test_a_big_model_runs_when_its_files_are_gone(beside, external):
    """As where the user's training wrote it."""
    feed = {"x": np.load(MODELS / "digits_mlp.calib.npz")["x"][:4]}
    model, expected = load(external), Runtime(threads=1).session(MLP).run(feed)
    for path in external.parent.iterdir():
        path.unlink()
    found = Runtime(threads=1).session(model).run(feed)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)


def test_a_big_model_may_lie_in_several_files_at_odd_places(beside, tmp_path):
    model, feed = onnx.load(MLP), {"x": np.load(MODELS / "digits_mlp.calib.npz")["x"][:4]}
    expected = Runtime(threads=1).session(model).run(feed)
    for number, tensor in enumerate(model.graph.initializer):
        file = tmp_path / "weights" / f"{number % 2}.bin"
        file.parent.mkdir(exist_ok=True)
        before, content = file.read_bytes() if file.exists() else b"odd", numpy_helper.to_array(tensor).tobytes()
        file.write_bytes(before + content)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", f"weights/{file.name}"), ("offset", len(before)), ("length", len(content))):
            tensor.external_data.add(key=key, value=str(value))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    found = load(tmp_path / "m.onnx")
    assert len(found.data) == 2
    save(found, tmp_path / "o.onnx")
    assert len(load(tmp_path / "o.onnx").data) == 1
    for path in (tmp_path / "m.onnx", tmp_path / "o.onnx"):
        for name, value in Runtime(threads=1).session(path).run(feed).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "uint8", "bool"])
def test_weights_of_any_type_that_a_big_model_holds_in_memory(dtype, beside):
    weight = np.tri(32).astype(dtype)
    stored, narrow = numpy_helper.from_array(weight, "w"), helper.make_node("Cast", ["w"], ["v"], to=TensorProto.FLOAT)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 32]) for name in "xy"]
    nodes = [narrow, helper.make_node("MatMul", ["x", "v"], ["y"])]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [stored])
    model = whole(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10))
    assert "w" in model.arrays
    found = Runtime(threads=1).session(model).run({"x": np.eye(32, dtype=np.float32)})
    np.testing.assert_array_equal(found["y"], np.tri(32))


@pytest.mark.parametrize("method", ["reap", "l1", "apoz"])
def test_big_models_are_pruned_the_same(method, external, tmp_path, monkeypatch):
    options = {"target": "macs=0.5", "method": method, "calibration": MODELS / "digits_mlp.calib.npz", "samples": 100}
    expected = onnxprune.prune(MODELS / "digits_mlp.onnx", **options)
    monkeypatch.setattr(files, "LARGE", 64)
    monkeypatch.setattr(files, "BIG", 1)
    for model in (external, MLP, onnx.load(external)):
        found = onnxprune.prune(model, **options)
        assert found.written.arrays
        tensors = {t.name: numpy_helper.to_array(t) for t in found.model.graph.initializer}
        for tensor in expected.model.graph.initializer:
            np.testing.assert_allclose(tensors[tensor.name], numpy_helper.to_array(tensor), rtol=1e-4, atol=1e-5)
    found.save(tmp_path / "o.onnx", external=True)
    assert onnxprune.compare(tmp_path / "o.onnx", expected.model).fidelity.relative_error < 1e-4
    assert os.path.lexists(tmp_path / "o.onnx.data")
