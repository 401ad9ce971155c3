"""What a target may count: MACs, parameters, bytes; in a model, and as functions of the groups' widths.

MACs are multiplications of convolutions, Gemm, MatMul and Einsum (and of the matrices in RNN cells) at batch 1;
parameters are the floating-point elements of initializers and Constant nodes; bytes are those of the file. All are sums
of products of a number of input channels and a number of output channels, so pruning changes them bilinearly in the
widths; but for what is added or folded when a model is written, which no function of widths knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnxprune import files
from onnxprune.allocation import Bilinear
from onnxprune.bodies import constant
from onnxprune.contrib import DOMAIN
from onnxprune.coupling import Coupling, Group
from onnxprune.declared import FLOATS
from onnxprune.files import Model
from onnxprune.graph import Graph, attributes, key
from onnxprune.ids import Ids
from onnxprune.ops.einsum import products as einsum_products
from onnxprune.ops.linear import floating
from onnxprune.ops.recurrent import GATES, R, W
from onnxprune.ops.registry import View


def parameters(graph: Graph) -> int:
    """Number of floating-point elements in initializers and Constant nodes."""
    total = sum(prod(t.dims) for t in graph.model.graph.initializer if t.data_type in FLOATS)
    for node in graph.nodes:
        if node.op_type == "Constant":
            value = constant(node)
            total += value.size if floating(value) else 0
    return int(total)


def macs(graph: Graph, index: int) -> int:
    """Multiply-accumulates of one node at batch 1; 0 for nodes that aren't counted or whose shapes aren't known."""
    node, shapes = graph.nodes[index], graph.shapes
    if any(name and name not in shapes for name in (*node.input, *node.output)):
        return 0
    if node.op_type in ("Conv", "DeformConv"):
        return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type == "Gemm":
        depth = shapes[node.input[0]][0 if attributes(node).get("transA", 0) else 1]
        return prod(shapes[node.output[0]]) * depth
    if node.op_type == "MatMul":
        return prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    if node.op_type == "Einsum":
        return einsum_products(View(graph, graph.probes[0], index))
    if node.op_type == "Attention" and node.domain == DOMAIN:  # of which the layer in front counts
        return prod(shapes[node.input[0]]) * shapes[node.input[1]][1]
    if node.op_type in GATES:
        weights = prod(shapes[node.input[W]]) + prod(shapes[node.input[R]])
        return weights * prod(shapes[node.input[0]][:2])
    return 0


def total_macs(graph: Graph) -> int:
    """Multiply-accumulates of a whole model at batch 1 (bodies of If, Loop and Scan aren't counted)."""
    return sum(macs(graph, i) for i in range(len(graph.nodes)))


def file_bytes(graph: Graph) -> int:
    """Bytes of a whole model in a file."""
    return files.size(Model(graph.model, graph.arrays))


class _Terms:
    """Collects products of two affine functions of the widths."""

    def __init__(self, coupling: Coupling, groups: list[Group]) -> None:
        self.coupling, self.size = coupling, len(groups)
        self.owner = np.full(len(coupling.components.label) + 1, -1)
        for number, group in enumerate(groups):
            self.owner[group.components] = number
        self.rows: list[tuple[float, NDArray[np.float64], float, NDArray[np.float64], float]] = []

    def affine(self, ids: Ids) -> tuple[NDArray[np.float64], float]:
        """How many of these channels are kept: a coefficient per group, and those that always stay.

        A channel may own several places, so a group's coefficient is places per channel.
        """
        components = self.coupling.components.of(ids)
        owners = self.owner[components]
        coefficients = np.zeros(self.size)
        for number in np.unique(owners[owners >= 0]):
            mine = components[owners == number]
            coefficients[number] = len(mine) / len(np.unique(mine))
        return coefficients, float((owners < 0).sum())

    def add(self, scale: float, first: Ids, second: Ids | None = None) -> None:
        """Add scale * kept(first) * kept(second)."""
        one = (np.zeros(self.size), 1.0)
        self.rows.append((scale, *self.affine(first), *(one if second is None else self.affine(second))))

    def constant(self, value: float) -> None:
        """Add a number that no width changes."""
        self.rows.append((value, np.zeros(self.size), 1.0, np.zeros(self.size), 1.0))

    def bilinear(self) -> Bilinear:
        """All terms as arrays."""
        scale, ins, in_fixed, outs, out_fixed = zip(*self.rows, strict=True)
        return Bilinear(np.array(scale), np.array(ins), np.array(in_fixed), np.array(outs), np.array(out_fixed))


def macs_of_widths(coupling: Coupling, groups: list[Group]) -> Bilinear:
    """MACs as a function of the widths of `groups` (what isn't in them stays)."""
    terms, graph, notes = _Terms(coupling, groups), coupling.graph, coupling.notes
    terms.constant(0.0)
    for index in range(len(graph.nodes)):
        count = macs(graph, index)
        if not count:
            continue
        if key(graph.nodes[index]) not in notes.ids:  # a product of constants
            terms.constant(count)
            continue
        inputs = notes.readers.get(index)
        outputs = notes.writers.get(index, notes.ids[key(graph.nodes[index])].ravel())
        if inputs is not None and index in notes.feedback:  # a matrix for the input, and one for its own channels
            lanes = graph.shapes[graph.nodes[index].input[R]][0]  # each reads its own
            each = count / len(outputs) / (len(inputs) + len(outputs) / lanes)
            terms.add(each, inputs, outputs)
            terms.add(each / lanes, outputs, outputs)
        elif inputs is not None:
            terms.add(count / len(inputs) / len(outputs), inputs, outputs)
        else:  # a depthwise convolution, a product of activations by heads
            terms.add(count / len(outputs), outputs)
    return terms.bilinear()


def parameters_of_widths(coupling: Coupling, groups: list[Group]) -> Bilinear:
    """Parameters as a function of the widths of `groups`, before any bias is added or BatchNormalization folded."""
    return _stored(coupling, groups, lambda name: 1, parameters(coupling.graph))


def bytes_of_widths(coupling: Coupling, groups: list[Group]) -> Bilinear:
    """Bytes of the file as a function of the widths of `groups`, before anything is added or folded."""
    types = coupling.graph.types
    itemsize = {t: helper.tensor_dtype_to_np_dtype(t).itemsize for t in set(types.values()) if t}
    return _stored(coupling, groups, lambda name: itemsize[types[name]], file_bytes(coupling.graph))


def _stored(coupling: Coupling, groups: list[Group], each: Callable[[str], int], total: int) -> Bilinear:
    """The sum over all tensors of `each` (per element) as a function of widths; what isn't cut makes up the `total`."""
    terms, graph, notes = _Terms(coupling, groups), coupling.graph, coupling.notes
    tensors: dict[str, dict[int, Ids]] = {}
    for (index, i), axes in notes.uses.items():
        tensors.setdefault(graph.nodes[index].input[i], {}).update(axes)
    for index, inputs in notes.readers.items():  # grouped convolutions: axis 1 holds one conv group's channels
        name = "".join(graph.nodes[index].input[1:2])
        if len(tensors.get(name, {})) == 1:
            outputs = notes.writers[index]
            terms.add(each(name) * prod(graph.shapes[name]) / len(inputs) / len(outputs), inputs, outputs)
            tensors.pop(name)
    for name, axes in tensors.items():
        if graph.shapes[name] and all(graph.shapes[name]):  # constants of no elements cost nothing
            rest = prod(graph.shapes[name]) / prod(ids.size for ids in axes.values())
            terms.add(each(name) * rest, *axes.values())
    everything = np.array([g.channels for g in groups], float)
    terms.constant(0.0)
    terms.constant(total - terms.bilinear().total(everything))
    return terms.bilinear()


@dataclass(frozen=True)
class Cost:
    """What a target of one kind counts: in a model as it would be written, and what to allocate by."""

    count: Callable[[Graph], int]
    of_widths: Callable[[Coupling, list[Group]], Bilinear]


COSTS = {
    "macs": Cost(total_macs, macs_of_widths),
    "params": Cost(parameters, parameters_of_widths),
    "size": Cost(file_bytes, bytes_of_widths),
}
