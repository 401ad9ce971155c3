"""The same network gives the same groups in whatever form its file is: optimized, converted, of another type.

Names and the order of nodes differ between forms, so groups are compared by what they are: how many channels, how many
rows each owns, in which cells, and the matrices of the layers that make and read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from cases import CASES
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper, version_converter
from strategies import random_plan

from onnxprune.bodies import subgraphs
from onnxprune.coupling import Coupling, couple
from onnxprune.graph import Graph
from onnxprune.oracle import check
from onnxprune.rewrite import rewrite

Form = Callable[[ModelProto], ModelProto]
LEVELS = {
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}
NAMES = [name for name, case in CASES.items() if case.runs and not name.startswith("opset")]
KEPT_IN_FLOAT = {"Resize": (1, 2), "Upsample": (1,)}  # inputs whose type isn't that of the network


def groups(coupling: Coupling) -> Counter[tuple[object, ...]]:
    """What the groups are, up to names."""

    def layers(indices) -> tuple[str, ...]:
        linears = [(coupling.linear(i), coupling.graph.nodes[i].op_type) for i in indices]
        return tuple(sorted(str(linear.matrix.shape) if linear else op for linear, op in linears))

    return Counter(
        (g.channels, g.rows, len(np.unique(g.cells)), g.stream, layers(g.reads), layers(g.writers))
        for g in coupling.groups
    )


def compare(name: str, model: ModelProto, runs: bool = True) -> None:
    """The groups of a case in another form are those of the case, and surgery on it is exact."""
    found = couple(Graph(model))
    assert groups(found) == groups(couple(Graph(CASES[name].model())))
    if runs:
        plan = random_plan(found, seed=1)
        kinds = {i.name: helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type) for i in found.graph.inputs}
        feed = {i: value.astype(kinds[i]) for i, value in CASES[name].feed(2).items()}
        verdict = check(found, plan, rewrite(found, plan), [feed])
        assert verdict.ok, verdict


# ------------------------------------------------------------------------------------------------ onnxruntime


def optimized(model: ModelProto, level: str, folder: Path) -> ModelProto:
    """The model as onnxruntime's offline optimizer writes it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", NAMES)
def test_optimized_by_onnxruntime(name, level, tmp_path):
    compare(name, optimized(CASES[name].model(), level, tmp_path))


# ------------------------------------------------------------------------------------------------ types


def converted(model: ModelProto, elem_type: int) -> ModelProto:
    """The model with all that is float32 in another floating-point type."""
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    kept = {
        node.input[i] for node in model.graph.node for i in KEPT_IN_FLOAT.get(node.op_type, ()) if i < len(node.input)
    }

    def cast(tensor: TensorProto) -> None:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))

    def convert(graph: GraphProto) -> None:
        for tensor in graph.initializer:
            cast(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            sequence = value.type.HasField("sequence_type")
            tensor = (value.type.sequence_type.elem_type if sequence else value.type).tensor_type
            if tensor.elem_type == TensorProto.FLOAT:
                tensor.elem_type = elem_type
        for node in graph.node:
            if node.op_type == "ConstantOfShape" and not node.attribute:
                zero = helper.make_tensor("value", TensorProto.FLOAT, [1], [0])
                node.attribute.append(helper.make_attribute("value", zero))
            if node.op_type == "SequenceEmpty":
                node.attribute.append(helper.make_attribute("dtype", elem_type))
            for a in node.attribute:
                if a.type == AttributeProto.TENSOR and not kept.intersection(node.output):
                    cast(a.t)
                elif node.op_type == "Cast" and a.name == "to" and a.i == TensorProto.FLOAT:
                    a.i = elem_type
            for body in subgraphs(node):
                convert(body)

    convert(model.graph)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_float16(name):
    """Of what onnxruntime can't run in float16, AffineGrid and sums of elements, the groups alone are compared."""
    model = converted(CASES[name].model(), TensorProto.FLOAT16)
    body = CASES[name].body
    compare(name, model, runs="AffineGrid" not in body and 'ScatterElements<axis=0, reduction="add">' not in body)


def test_bfloat16():
    """Convolutions take it since opset 22. Few of onnxruntime's kernels for CPUs do, so nothing runs here."""
    compared = 0
    for name in NAMES:
        if (model := of_opset(CASES[name].model(), 22)) is not None:
            compare(name, converted(model, TensorProto.BFLOAT16), runs=False)
            compared += 1
    assert compared > 100


# ------------------------------------------------------------------------------------------------ opsets


def of_opset(model: ModelProto, opset: int) -> ModelProto | None:
    """The model in another opset, or None if onnx can't convert it."""
    try:
        model = version_converter.convert_version(model, opset)
        onnx.checker.check_model(model)
    except Exception:  # RuntimeError, ValidationError and others: not every operator has an adapter
        return None
    return model


OPSETS = [7, 9, 11, 13, 18, 20, 21, 23, 26]


@pytest.mark.parametrize("opset", OPSETS)
def test_opsets(opset):
    """What the cases, most of them of opset 17, are in other opsets; to be quick, a third of them in each newer one."""
    compared = 0
    for name in NAMES if opset < 13 else NAMES[OPSETS.index(opset) % 3 :: 3]:
        if (model := of_opset(CASES[name].model(), opset)) is not None:
            compare(name, model, runs=False)
            compared += 1
    assert compared > 10


# ------------------------------------------------------------------------------------------------ constants


def behind(model: ModelProto, kind: str) -> ModelProto:
    """The model with its weights behind a node."""
    optional = {i.name for i in model.graph.input}
    nodes = []
    for tensor in [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and t.name not in optional]:
        value, name, rank = numpy_helper.to_array(tensor), tensor.name, len(tensor.dims)
        stored, attrs, extra = value, {}, []
        if kind == "Transpose" and rank:
            perm = list(range(rank))[::-1]
            stored, attrs = value.transpose(perm), {"perm": perm}
        elif kind == "Reshape" and rank:
            stored, extra = value.ravel(), [f"{name}_shape"]
            model.graph.initializer.append(helper.make_tensor(f"{name}_shape", TensorProto.INT64, [rank], value.shape))
        elif kind == "Cast":
            stored, attrs = value.astype(np.float64), {"to": TensorProto.FLOAT}
        if kind == "Constant":
            model.graph.initializer.remove(tensor)
            nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
            continue
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(stored).reshape(stored.shape), f"{name}_stored"))
        plain = not rank and kind in ("Transpose", "Reshape")
        nodes.append(helper.make_node("Identity" if plain else kind, [f"{name}_stored", *extra], [name], **attrs))
    rest = [*nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(rest)
    return model


KINDS = ["Identity", "Transpose", "Reshape", "Cast", "Constant"]


@pytest.mark.parametrize(("name", "kind"), [*zip(NAMES, cycle(KINDS), strict=False)])
def test_weights_behind_a_node(name, kind):
    compare(name, behind(CASES[name].model(), kind))


def as_initializers(model: ModelProto) -> ModelProto:
    """The model with its Constant nodes as initializers."""
    graph = Graph(model)
    made = [node for node in model.graph.node if node.op_type == "Constant"]
    for node in made:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(graph.array(node.output[0])), node.output[0]))
        model.graph.node.remove(node)
    return model


WITH_CONSTANTS = [name for name in NAMES if "= Constant" in CASES[name].body]


@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_constants_as_initializers(name):
    compare(name, as_initializers(CASES[name].model()))


# ------------------------------------------------------------------------------------------------ attention

ATTENTION = ["packed_attention", "fused_attention_packed", "fused_attention_across", "fused_attention_with_packed_keys"]
ATTENTION += ["rotated_heads", "rotated_heads_of_the_standard"]


@pytest.mark.parametrize("name", ATTENTION)
def test_heads_are_the_same_whoever_attends(name):
    """Three heads of four rows each, from the layers in front, packed or not, to the projection behind."""
    (group,) = couple(Graph(CASES[name].model())).groups
    rows = {m.tensor: m.index.shape[1] for m in group.members if m.role in ("writer", "reader")}
    assert (group.channels, rows.pop("wo"), sum(rows.values())) == (3, 4, 12)
