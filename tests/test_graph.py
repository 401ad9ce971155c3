"""Graphs: nodes and their bodies, names, shapes at two sizes, values of shape arithmetic, constants."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from cases import CASES, Case, scalar
from onnx import helper, numpy_helper

from onnxprune.bodies import constant, outer_names, subgraphs
from onnxprune.errors import ModelError
from onnxprune.graph import Graph, attributes, fresh, key
from onnxprune.inference import evaluate
from onnxprune.nodes import needed


def graph(name: str, **dims) -> Graph:
    return Graph(CASES[name].model(), dims)


def test_who_reads_and_who_writes():
    g = graph("if_body")
    assert key(g.nodes[g.producer["i"]]) == "i"
    assert [key(g.nodes[i]) for i in g.consumers["a"]] == ["i"]
    assert g.reads(g.nodes[1]) == ["c", "a", "k"]
    assert "i" not in g.static
    assert g.inputs[1].name == "c"


def test_which_nodes_it_takes_to_know_a_value():
    g = graph("if_body")
    assert g.needed(range(5), ["b"]) == [0, 1, 2]  # a is read within the bodies of i
    assert g.needed([0, 2, 3], ["d"]) == [2, 3]
    assert g.needed(range(5), ["x"]) == []
    kept = needed(g.nodes, ["a"], always=lambda node: key(node) == "d")
    assert [key(node) for node in kept] == ["a", "i", "b", "d"]


def test_nested_bodies_see_outward():
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, bool c) => (float[2] y) {
        y = If(c) <then_branch = t () => (float[2] p) {
                     p = If(c) <then_branch = tt () => (float[2] q) { q = Add(x, k) },
                                else_branch = te () => (float[2] r) { r = Neg(x) }> },
                   else_branch = e () => (float[2] s) { s = Abs(x) }>
    }"""
    model = onnx.parser.parse_model(text)
    bodies = list(subgraphs(model.graph.node[0]))
    assert [outer_names(body) for body in bodies] == [{"c", "x", "k"}, {"x"}]


def test_loops_hide_their_own_names():
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "w"], ["next"]), helper.make_node("Identity", ["cond"], ["again"])],
        "body",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", 7, []), ("cond", 9, []), ("state", 1, [2]))],
        [helper.make_tensor_value_info("again", 9, []), helper.make_tensor_value_info("next", 1, [2])],
    )
    assert outer_names(body) == {"w"}
    node = helper.make_node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)
    assert list(subgraphs(node)) == [body]


def test_nodes_without_outputs_have_their_name():
    assert key(helper.make_node("Print", ["x"], [], name="p")) == "p"
    assert key(helper.make_node("Split", ["x"], ["", "b"])) == "b"


def test_attributes_are_python_values():
    node = helper.make_node("Conv", ["x"], ["y"], group=2, auto_pad="VALID", pads=[1, 2])
    node.attribute.add(name="kernel_shape", type=onnx.AttributeProto.INTS, ref_attr_name="outer")
    assert attributes(node) == {"group": 2, "auto_pad": "VALID", "pads": [1, 2]}


def test_fresh_names():
    taken = {"a", "a_1"}
    assert fresh("b", taken) == "b"
    assert fresh("a", taken) == "a_2"
    assert taken == {"a", "a_1", "a_2", "b"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [({"value_int": 3}, np.asarray(3)), ({"value_ints": [1, 2]}, np.asarray([1, 2])),
     ({"value_float": 0.5}, scalar(0.5)), ({"value_floats": [0.5]}, np.asarray([0.5], np.float32)),
     ({"value_string": "a"}, np.asarray("a")),
     ({"value": numpy_helper.from_array(np.arange(3))}, np.arange(3))],
)  # fmt: skip
def test_constants_in_all_forms(value, expected):
    found = constant(helper.make_node("Constant", [], ["c"], **value))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


def test_one_node_is_evaluated():
    node = helper.make_node("Slice", ["x", "s", "e", "", "t"], ["y"])
    values = [np.arange(6), np.asarray([0]), np.asarray([6]), None, np.asarray([2])]
    assert evaluate(node, values, 17)[0].tolist() == [0, 2, 4]


def test_constants_are_folded():
    g = graph("weights_through_nodes")
    assert {"wi", "wr", "wt", "k", "wc"} <= g.static
    np.testing.assert_array_equal(g.array("wt"), g.array("w3").T)
    assert g.array("wc").dtype == np.float32
    assert g.array("k").tolist() == [1, 2, 3, 4, 5]


def test_two_sizes_of_symbolic_dimensions():
    g = graph("dynamic_space")
    assert [p.shapes["x"] for p in g.probes] == [(1, 3, 224, 224), (2, 3, 448, 448)]
    assert [p.shapes["y"] for p in g.probes] == [(1, 2), (2, 2)]
    assert g.symbolic == ["x"]
    assert len(graph("two_inputs").probes) == 2
    assert len(graph("concat_with_a_constant").probes) == 1


def test_sizes_that_are_given():
    g = graph("dynamic_space", x=[1, 3, 10, 12])
    assert [p.shapes["x"] for p in g.probes] == [(1, 3, 10, 12), (2, 3, 20, 24)]
    with pytest.raises(ModelError, match="4 dimensions"):
        graph("dynamic_space", x=[3, 10]).input_shapes()


def test_sizes_that_can_not_change():
    """A Reshape to a fixed size: then only the batch is another one at the second probe."""
    case = Case("fixed", "float[N,3,H] x", "float[N,48] y", "y = Reshape(x, s)", {"s": [-1, 48]})
    assert [p.shapes["x"] for p in Graph(case.model()).probes] == [(1, 3, 16), (2, 3, 32)]
    case = Case("flat", "float[N,3,H] x", "float[N,3] y", "f = Flatten(x)\ny = Gemm(f, w)", {"w": (48, 3)})
    assert [p.shapes["x"] for p in Graph(case.model()).probes] == [(1, 3, 16), (2, 3, 16)]
    case = Case("one", "float[N,3,H] x", "float[1,3,H] y", "y = Concat<axis=2>(x, k)", {"k": (1, 3, 1)})
    assert [p.shapes["x"] for p in Graph(case.model()).probes] == [(1, 3, 16), (1, 3, 32)]
    case = Case("none", "float[N,3,H] x", "float[1,3,16] y", "y = Concat<axis=1>(x, k)", {"k": (1, 1, 16)})
    assert len(Graph(case.model()).probes) == 1


def test_equal_names_are_equal_sizes():
    case = Case("sizes", "float[N,S] x, float[N,S] z", "float[N,S] y", "y = Add(x, z)", {})
    assert Graph(case.model()).input_shapes() == {"x": (1, 16), "z": (1, 16)}


def test_a_size_may_be_named_as_a_sum_of_others():
    case = Case(
        "sizes",
        "float[N,Both] mask, float[N,Next] z, float[N,S] x, float[N,P] past",
        "float[N,M] y",
        "both = Concat<axis=1>(past, x) y = Add(mask, both)",
    )
    model = case.model()
    for value, name in zip(model.graph.input, ("P + S", "S + 1"), strict=False):
        value.type.tensor_type.shape.dim[1].dim_param = name
    sizes = {"mask": (1, 32), "z": (1, 17), "x": (1, 16), "past": (1, 16)}
    assert Graph(model).input_shapes() == sizes
    assert [p.shapes["y"] for p in Graph(model).probes] == [(1, 32), (2, 64)]


def test_any_number_of_rows_of_one_length_are_no_image():
    case = Case("sizes", "float[N,4,P,16] keys, float[N,3,H,W] image", "float[N,4,P,16] y", "y = Relu(keys)", {})
    assert Graph(case.model()).input_shapes() == {"keys": (1, 4, 16, 16), "image": (1, 3, 224, 224)}


def test_shape_arithmetic_has_values():
    g = graph("shuffle_by_shape_arithmetic")
    assert [p.values["t1"].tolist() for p in g.probes] == [[1, 2, 4, 224, 224], [2, 2, 4, 448, 448]]
    assert g.types["t1"] == onnx.TensorProto.INT64
    assert graph("counts_elements").probes[0].values["s"] == 6 * 64


def test_shapes_that_do_not_fit_say_where():
    case = Case("wrong", "float[N,3] x", "float[N,2] y", "y = MatMul(x, w)", {"w": (4, 2)})
    with pytest.raises(ModelError, match=r"node 'y' \(MatMul\)"):
        _ = Graph(case.model()).shapes


def test_declared_shapes_serve_where_inference_fails():
    model = CASES["unknown_operator"].model()
    assert "u" not in Graph(model).shapes
    model.graph.value_info.append(helper.make_tensor_value_info("u", 1, ["N", 4, 8, 8]))
    assert [p.shapes["u"] for p in Graph(model).probes] == [(1, 4, 8, 8), (2, 4, 8, 8)]
    del model.graph.value_info[:]
    model.graph.value_info.append(helper.make_tensor_value_info("u", 1, ["M", 4, 8, 8]))
    assert "u" not in Graph(model).shapes
    assert Graph(model).types["u"] == 1


def test_large_values_are_not_computed_early():
    case = Case(
        "large", "float[1] x", "float[1] y", "z = ConstantOfShape(s)\nm = ReduceMean(z)\ny = Add(x, m)", {"s": [9999]}
    )
    g = Graph(case.model())
    assert "z" not in g.probes[0].values
    assert g.shapes["z"] == (9999,)
    assert g.array("m") == 0
    case = Case("large", "float[1] x", "float[1] y", "z = Expand(k, s)\nm = ReduceMean(z)\ny = Add(x, m)",
                {"s": [9999], "k": np.ones(1, np.float32)})  # fmt: skip
    assert Graph(case.model()).shapes["z"] == (9999,)


def test_random_values_are_no_constants():
    case = Case("random", "float[2] x", "float[2] y", "r = RandomNormal<shape=[2]>()\ny = Add(x, r)", {})
    g = Graph(case.model())
    assert "r" not in g.static
    assert g.shapes["r"] == (2,)


def test_opset_of_the_standard_domain():
    assert graph("half").opset == 17
    assert Graph(onnx.ModelProto()).opset == 1
