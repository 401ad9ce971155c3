"""Shapes of all values, and the content of small ones: one walk over the nodes at given sizes of the inputs.

Small integer values (shape arithmetic) are evaluated on the way, so `Shape -> Gather -> Concat -> Reshape` is as clear
as a constant.

*Sizes that data decide* (how many boxes a detector finds) are treated like symbolic dimensions: each probe puts a
size of its own in their place. What is computed from such a size by more than moving and adding stays unknown, because
a comparison could come out alike for both. Sizes that don't fit together then are unknown, too, and no error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import infer_node_outputs

from onnxprune import contrib
from onnxprune.bodies import constant, subgraphs
from onnxprune.contrib import STANDARD
from onnxprune.declared import Array, Declared, Shape, length
from onnxprune.errors import ModelError
from onnxprune.nodes import NOT_FUNCTIONS, attributes, key, reads

SMALL = 4096  # elements up to which values are evaluated while shapes are inferred
SIZED_BY_DATA = {"NonZero", "Unique", "Compress", "TopK", "NonMaxSuppression", "Range", "If", "Loop"}
FAITHFUL = {
    *("Shape", "Size", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten", "Expand"),
    *("Gather", "Slice", "Concat", "Split", "Add", "Sub", "Mul", "Neg"),
}  # what they make of different sizes is different where it depends on them
PLACEHOLDERS = (60, 84)  # sizes that data decide, per probe: what often divides such a size divides them


class Sizes(NamedTuple):
    """Of the batch, a factor of other symbolic dimensions, and what stands for sizes that data decide."""

    batch: int = 1
    factor: int = 1
    placeholder: int = PLACEHOLDERS[0]


@dataclass(frozen=True)
class Probe:
    """Concrete shapes of all values, and the values of shape arithmetic, for one size of every symbolic dimension.

    `placed` are the values whose shape or content may depend on a size that data decide.
    """

    shapes: dict[str, Shape]
    values: dict[str, Array]
    types: dict[str, int]
    placed: frozenset[str] = frozenset()


def evaluate(node: NodeProto, values: Sequence[Array | None], opset: int) -> list[Array]:
    """Run one node on NumPy arrays by ONNX's reference implementation."""
    if node.op_type == "Constant":
        return [constant(node)]
    if node.op_type == "GatherElements" and values[0] is not None and values[1] is not None:
        return [_gather_elements(values[0], values[1], attributes(node).get("axis", 0))]
    if node.op_type == "Expand" and values[0] is not None and values[1] is not None:  # without writing the copies
        return [np.broadcast_to(values[0], np.broadcast_shapes(values[0].shape, tuple(values[1].tolist())))]
    evaluator = ReferenceEvaluator(_alone(node, opset))
    feeds = {name: value for name, value in zip(node.input, values, strict=True) if name}
    with np.errstate(all="ignore"):  # what is infinite here is so when the model runs
        return [np.asarray(v) for v in evaluator.run(None, feeds)]


def _gather_elements(data: Array, indices: Array, axis: int) -> Array:
    """GatherElements, in which the reference implementation fails on a single row."""
    axis %= data.ndim
    part = data[tuple(slice(None) if a == axis else slice(n) for a, n in enumerate(indices.shape))]
    return np.take_along_axis(part, indices % data.shape[axis], axis)


def _alone(node: NodeProto, opset: int) -> ModelProto:
    inputs = [onnx.helper.make_value_info(n, onnx.TypeProto()) for n in dict.fromkeys(node.input) if n]
    outputs = [onnx.helper.make_value_info(n, onnx.TypeProto()) for n in node.output if n]
    graph = onnx.helper.make_graph([node], "one", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


class Inference:
    """One walk over the nodes that gives each value its type, and small values their content."""

    def __init__(self, declared: Declared, inputs: Mapping[str, Shape], placeholder: int = PLACEHOLDERS[0]) -> None:
        self.declared, self.placeholder = declared, placeholder
        self.types = {value.name: value.type for value in declared.inputs}
        for name, shape in inputs.items():
            elem_type = self.types[name].tensor_type.elem_type
            self.types[name] = onnx.helper.make_tensor_type_proto(elem_type, shape)
        self.placed: set[str] = set()
        self.values: dict[str, Array] = {}
        self.protos: dict[str, TensorProto] = {}
        for name, tensor in declared.initializers.items():
            self.types[name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            if np.prod(tensor.dims) <= SMALL and not tensor.external_data:
                self._know(name, declared.stored(name))

    @staticmethod
    def at(declared: Declared, sizes: Sizes) -> Inference:
        """A walk at some sizes."""
        return Inference(declared, declared.input_shapes(sizes.batch, sizes.factor), sizes.placeholder)

    def over(self, nodes: Iterable[NodeProto]) -> Probe:
        """What is known after these nodes."""
        for node in nodes:
            self.visit(node)
        return self.probe()

    def probe(self) -> Probe:
        """What is known now."""
        shapes = {name: shape for name, t in self.types.items() if (shape := _shape(t)) is not None}
        elements = {name: t.tensor_type.elem_type for name, t in self.types.items() if t.tensor_type.elem_type}
        return Probe(shapes, self.values, elements, frozenset(self.placed))

    def visit(self, node: NodeProto) -> None:
        """Learn what a node makes; everything before it has been visited."""
        if any(name in self.placed for name in reads(node)):
            self.placed.update(name for name in node.output if name)
        if not self._compute(node):
            self._infer(node)

    def _know(self, name: str, value: Array) -> None:
        self.values[name] = value
        self.protos[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        self.types[name] = onnx.helper.make_tensor_type_proto(self.protos[name].data_type, value.shape)

    def _compute(self, node: NodeProto) -> bool:
        """Evaluate the node if its inputs, or only their shapes where that is enough, are known; False if not."""
        if node.domain not in STANDARD or node.op_type in NOT_FUNCTIONS:
            return False
        if node.op_type in ("Shape", "Size"):
            shape = _shape(self.types.get(node.input[0], TypeProto()))
            if shape is None:
                return False
            a = attributes(node)
            whole = np.asarray(shape, np.int64)
            value = whole[a.get("start", 0) : a.get("end", len(shape))] if node.op_type == "Shape" else whole.prod()
            self._know(node.output[0], np.asarray(value, np.int64))
            return True
        if not all(name in self.values for name in node.input if name):
            return False
        if node.op_type not in FAITHFUL and any(name in self.placed for name in node.input):
            return False
        if node.op_type == "ConstantOfShape" and self.values[node.input[0]].prod() > SMALL:
            return False
        try:
            results = evaluate(node, [self.values.get(n) for n in node.input], self.declared.opset)
        except Exception:  # the reference implementation raises anything; inference then decides
            return False
        for name, value in zip(node.output, results, strict=False):
            if name and value.size <= SMALL:
                self._know(name, value)
            elif name:
                self.types[name] = onnx.helper.make_tensor_type_proto(
                    onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
                )
        return True

    def _infer(self, node: NodeProto) -> None:
        inferred: dict[str, TypeProto] = {}
        known = {name: t for name in reads(node) if _told(t := self.types.get(name, TypeProto()))}
        domain = "" if node.domain in STANDARD else node.domain
        versions = {o.domain if o.domain not in STANDARD else "": o.version for o in self.declared.model.opset_import}
        try:
            schema = onnx.defs.get_schema(node.op_type, versions.get(domain, 1), domain)
            if all(name in known for name in node.input if name):
                opsets = [onnx.helper.make_opsetid(d, v) for d, v in versions.items()]
                inferred = infer_node_outputs(schema, node, known, self.protos, opset_imports=opsets)
        except onnx.shape_inference.InferenceError as error:
            self._doubt(node, str(error))
        except (onnx.defs.SchemaError, onnx.checker.ValidationError):  # what the file declares must do
            pass
        if all(_shape(known.get(name, TypeProto())) is not None for name in node.input if name):
            inferred = {**inferred, **contrib.infer(node, known)}
        for name in node.output:
            if name and _shape(inferred.get(name, TypeProto())) is not None:
                self.types[name] = inferred[name]
            elif name:
                declared = self._declared(name, inferred.get(name))
                self.types[name] = declared if _shape(declared) is not None else self._placed(node, name, declared)
        if node.op_type in ("Reshape", "Conv") and node.domain in STANDARD:  # of these onnx doesn't see it
            names = (node.input[0], node.output[0] if node.op_type == "Reshape" else node.input[1])
            one, other = (_shape(self.types.get(name, TypeProto())) for name in names)
            if one is not None and other is not None:
                self._demand_fit(node, one, other)

    def _demand_fit(self, node: NodeProto, one: Shape, other: Shape) -> None:
        """Refuse a new shape of other elements, or a weight for other channels."""
        if node.op_type == "Reshape" and np.prod(one) != np.prod(other):
            self._doubt(node, f"{list(one)} can't become {list(other)}")
        if node.op_type == "Conv" and one[1] != other[1] * attributes(node).get("group", 1):
            self._doubt(node, f"its weight {list(other)} isn't for {one[1]} channels")

    def _doubt(self, node: NodeProto, why: str) -> None:
        """Refuse a node that its inputs don't fit, unless data decide their sizes."""
        if any(name in self.placed for name in node.input) or any(subgraphs(node)):  # onnx doesn't see into all bodies
            return
        advice = "; say which sizes do with --input-shapes." if self.declared.symbolic else "."
        where = f"node '{node.name or key(node)}' ({node.op_type})"
        raise ModelError(f"shapes don't fit at {where}: {why.rstrip('.')}{advice}")

    def _placed(self, node: NodeProto, name: str, known: TypeProto) -> TypeProto:
        """The type of what a node makes, with a placeholder for the one length that data decide, if there is one."""
        dims = known.tensor_type.shape.dim
        unknown = [d for d in dims if not d.HasField("dim_value")]
        if node.op_type not in SIZED_BY_DATA or node.domain not in STANDARD or len(unknown) != 1:
            return known
        if any(subgraphs(node)) and dims[0].HasField("dim_value"):  # bodies make lists of any length, no channels
            return known
        self.placed.add(name)
        shape = [d.dim_value if d.HasField("dim_value") else self.placeholder for d in dims]
        return onnx.helper.make_tensor_type_proto(known.tensor_type.elem_type, shape)

    def _declared(self, name: str, inferred: TypeProto | None) -> TypeProto:
        """What the file says of a value, with its symbolic dimensions replaced by this probe's sizes."""
        declared = self.declared.stated.get(name)
        if declared is None or not declared.tensor_type.HasField("shape"):
            return inferred or declared or TypeProto()
        sizes: dict[str, int] = {}
        for value in self.declared.inputs:
            for d, size in zip(value.type.tensor_type.shape.dim, _shape(self.types[value.name]) or (), strict=False):
                if d.dim_param:
                    sizes[d.dim_param] = size
        dims = [length(d) or sizes.get(d.dim_param) for d in declared.tensor_type.shape.dim]
        if any(d is None for d in dims):
            if inferred is not None and inferred.tensor_type.HasField("shape"):
                return inferred
            return onnx.helper.make_tensor_type_proto(declared.tensor_type.elem_type, None)
        return onnx.helper.make_tensor_type_proto(declared.tensor_type.elem_type, dims)


def _told(t: TypeProto) -> bool:
    """Whether a type says anything; tensors of no element type don't."""
    return t.tensor_type.elem_type != 0 if t.HasField("tensor_type") else t.WhichOneof("value") is not None


def _shape(t: TypeProto) -> Shape | None:
    if not t.HasField("tensor_type") or not t.tensor_type.HasField("shape"):
        return None
    dims = t.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None
