"""Decoders with and without earlier keys and values in one file, as Hugging Face's optimum merges them.

An If node chooses between two bodies by the input `use_cache_branch`; the weights of both are the outer graph's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper


def merge(with_past: Path, without: Path, path: Path) -> None:
    """Write both files as one. Weights that are equal are kept once."""
    first, later = onnx.load(without), onnx.load(with_past)
    weights: dict[bytes, TensorProto] = {}
    outputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in later.graph.output]
    bodies = [body(model.graph, prefix, weights) for model, prefix in ((later, "later"), (first, "first"))]
    node = helper.make_node(
        "If", ["use_cache_branch"], [o.name for o in outputs], "choice", then_branch=bodies[0], else_branch=bodies[1]
    )
    flag = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    graph = helper.make_graph([node], "merged", [*later.graph.input, flag], outputs, list(weights.values()))
    onnx.save(helper.make_model(graph, opset_imports=later.opset_import, ir_version=later.ir_version), path)


def body(graph: Any, prefix: str, weights: dict[bytes, TensorProto]) -> Any:
    """A graph as a body: it reads what is outside, and every name of its own has a prefix; weights are put outside."""
    outside = {value.name: value.name for value in graph.input}
    for tensor in graph.initializer:
        name, tensor.name = tensor.name, ""
        kept = weights.setdefault(tensor.SerializeToString(), tensor)
        outside[name] = kept.name = kept.name or f"weight_{len(weights)}"
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [name and outside.get(name, f"{prefix}/{name}") for name in side]
        node.name = node.name and f"{prefix}{node.name}"
        if any(a.HasField("g") for a in node.attribute):
            raise ValueError(f"{node.name} has a body of its own")
    for value in graph.output:
        value.name = f"{prefix}/{value.name}"
    return helper.make_graph(graph.node, prefix, [], graph.output)
