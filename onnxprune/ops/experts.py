"""Mixtures of experts: products with matrices that data choose from a constant stack, one for each row of the input.

All experts lose the same hidden units, for nobody knows beforehand which of them a row is sent to.
"""

from __future__ import annotations

import numpy as np

from onnxprune.graph import Graph, attributes
from onnxprune.ops.registry import Visit


def chooses(graph: Graph, index: int) -> bool:
    """Whether a node (Gather or GatherND) chooses whole matrices from a constant stack, for products alone."""
    node, result = graph.nodes[index], graph.nodes[index].output[0]
    first = not any(attributes(node).get(name, 0) for name in ("axis", "batch_dims"))
    one = node.op_type == "Gather" or graph.shapes[node.input[1]][-1] == 1
    stack = node.input[0] in graph.static and len(graph.shapes[node.input[0]]) == 3
    readers = [graph.nodes[i] for i in graph.consumers.get(result, [])]
    alone = result not in graph.outputs and all(n.op_type == "MatMul" and len(set(n.input)) == 2 for n in readers)
    return first and one and stack and alone


def chosen(v: Visit, i: int) -> int | None:
    """The node that chooses the matrices that are input i, if one does."""
    maker = v.graph.producer.get(v.name(i))
    known = maker is not None and v.graph.nodes[maker].op_type in ("Gather", "GatherND")
    return maker if known and not v.static(i) and chooses(v.graph, maker or 0) else None


def multiply_by_chosen(v: Visit, weight: int, maker: int) -> None:
    """Contracts and makes channels as by a single matrix, input `weight`, whose axes are those of the stack."""
    stack, x = Visit(v.graph, v.probe, maker, v.ledger, v.notes), 1 - weight
    v.accept(weight)
    read, write = (1, 2) if weight else (2, 1)
    inner = v.contracted(x, len(v.shape(x)) - 2 + weight)
    v.tie(inner, stack.parameter(0, read, "reader"))
    y = v.notes.writers[v.index] = stack.parameter(0, write, "writer")
    v.set_channels(y, axis=len(v.out_shape()) - 2 + weight)


def choose(v: Visit) -> None:
    """What is chosen has no channels of its own: the products name those of the stack."""
    v.freeze(v.ids(1), "chooses matrices by them")
    v.set(np.zeros((1,) * len(v.out_shape()), np.int64))
