"""A model as a read-only graph: who writes and who reads each value, constants, concrete shapes.

*Probes.* Shapes are computed twice, by walking the nodes once for each of two assignments of the symbolic
dimensions (batch 1, then batch 2 and the others changed too). Everything that depends on shapes must hold for
both, and whatever differs between them is known to be dynamic. Small integer values (shape arithmetic) are evaluated
on the way, so `Shape -> Gather -> Concat -> Reshape` is as clear as a constant.

*Sizes that data decide* (how many boxes a detector finds) are treated like symbolic dimensions: each probe puts a
size of its own in their place. What is computed from such a size by more than moving and adding stays unknown, because
a comparison could come out alike for both. Sizes that don't fit together then are unknown, too, and no error.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import infer_node_outputs

from onnxprune import contrib
from onnxprune.bodies import chosen, constant, subgraphs, unrolled
from onnxprune.contrib import STANDARD
from onnxprune.errors import ModelError
from onnxprune.files import Model
from onnxprune.nodes import (
    NOT_FUNCTIONS,
    attributes,
    constants,
    foreseeable,
    fresh,
    key,
    names,
    needed,
    reads,
)
from onnxprune.sequences import READING, Sequences

__all__ = ["Array", "Block", "Graph", "Probe", "Shape", "attributes", "evaluate", "fresh", "key", "names"]

Array = NDArray[Any]
Shape = tuple[int, ...]
Sizes = tuple[int, int, int]  # of the batch; a factor of other symbolic dimensions; what stands for what data decide

SMALL = 4096  # elements up to which values are evaluated while shapes are inferred
DEFAULT_DIM = {4: 224, 5: 32}  # a symbolic height or width of an image or a video; other axes get 16
SIZED_BY_DATA = {"NonZero", "Unique", "Compress", "TopK", "NonMaxSuppression", "Range", "If", "Loop"}
FAITHFUL = {
    *("Shape", "Size", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten", "Expand"),
    *("Gather", "Slice", "Concat", "Split", "Add", "Sub", "Mul", "Neg"),
}  # what they make of different sizes is different where it depends on them
PLACEHOLDERS = (60, 84)  # sizes that data decide, per probe: what often divides such a size divides them
QUANTIZED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
}


def decided(node: NodeProto, fixed: Container[str]) -> bool:
    """Whether a node is an If of a condition, or a Loop of a number of iterations, that no input changes."""
    if node.domain not in STANDARD or node.op_type not in ("If", "Loop"):
        return False
    return node.input[0] in fixed and (node.op_type == "If" or not node.input[1] or node.input[1] in fixed)


@dataclass(frozen=True)
class Probe:
    """Concrete shapes of all values, and the values of shape arithmetic, for one size of every symbolic dimension.

    `placed` are the values whose shape or content may depend on a size that data decide.
    """

    shapes: dict[str, Shape]
    values: dict[str, Array]
    types: dict[str, int]
    placed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Block:
    """A part that can be taken out: what reads `output` then reads `shortcut`, a value of the same shape.

    nodes: what nothing needs any more then, in the order of the file; reads: the values that these take from outside.
    """

    output: str
    shortcut: str
    nodes: tuple[int, ...]
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """A read-only index over a ModelProto, which is never changed. `probes` holds two assignments of sizes.

    `arrays` are the contents of initializers that the message only declares (see `files`). A graph made by taking
    blocks out of another one knows that (`full`) and them, by their output, which an Identity makes now (`removed`).
    One in which runs of blocks are `merged` knows these, by the outputs of their blocks, and the graph whose values
    its own of the same names are to come close to (`standard`).
    """

    model: ModelProto
    dims: Mapping[str, Sequence[int]] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)
    full: Graph | None = None
    removed: Mapping[str, Block] = field(default_factory=dict)
    standard: Graph | None = None
    merged: tuple[tuple[str, ...], ...] = ()

    @staticmethod
    def of(model: Model, dims: Mapping[str, Sequence[int]] | None = None) -> Graph:
        """The graph of a model."""
        return Graph(model.proto, dict(dims or {}), model.arrays)

    def resized(self, dims: Mapping[str, Sequence[int]]) -> Graph:
        """The same graph at other sizes of its symbolic dimensions."""
        return Graph(self.model, dims, self.arrays)

    @property
    def original(self) -> Graph:
        """The graph before any block was taken out."""
        return self.full or self

    @property
    def reference(self) -> Graph:
        """The graph whose values those of the same names stand for: of one made of another, the other."""
        return self.standard or self.original

    def past(self, name: str) -> str:
        """The value that is read in the place of `name` where removed blocks are passed by."""
        while name in self.removed:
            name = self.removed[name].shortcut
        return name

    @cached_property
    def nodes(self) -> list[NodeProto]:
        """All nodes in the order of the file, which ONNX requires to be topological; merged ones taken apart."""
        nodes = list(self.model.graph.node)
        static = constants(self.initializers, nodes)
        branches = any(node.op_type in ("If", "Loop") for node in nodes)
        if not branches and not any(contrib.merged(node, static) or node.op_type in READING for node in nodes):
            return nodes
        others = ((2, 2), (2, 1), (1, 2)) if self.symbolic else ((1, 1),)
        for batch, factor in others if branches else ():
            try:
                return self._apart(nodes, set(static), (1, 1, PLACEHOLDERS[0]), (batch, factor, PLACEHOLDERS[1]))
            except ModelError:
                continue
        return self._apart(nodes, static, (1, 1, PLACEHOLDERS[0]))

    def _apart(self, nodes: list[NodeProto], static: set[str], *sizes: Sizes) -> list[NodeProto]:
        """The nodes with the parts of those that stand for several, and the bodies that sizes or constants choose.

        What is the same for both `sizes`, if there are two, doesn't depend on symbolic dimensions.
        """
        plain: list[NodeProto] = []
        walks = [self._inference(self.input_shapes(batch, factor), filler) for batch, factor, filler in sizes]
        walk = walks[0]
        taken = names(self.model.graph, nodes)
        sequences = Sequences(walk.values, lambda like: fresh(like, taken), self.opset)
        fixed, compared = set(static), set[str]()
        waiting = nodes[::-1]
        while waiting:
            node = waiting.pop()
            parts = self._parts(node, walk, static, fixed, sequences)
            if parts[0] is not node:
                waiting += parts[::-1]
                continue
            plain.append(node)
            for each in walks:
                each.visit(node)
            if len(walks) > 1:
                fixed.update(_agreed(node, walk, walks[1], fixed, compared))
            if foreseeable(node, static):
                static.update(name for name in node.output if name)
                fixed.update(name for name in node.output if name)
        self._known.update(zip(sizes, (each.probe() for each in walks), strict=True))
        return sequences.needed(plain, self.outputs)

    @cached_property
    def _known(self) -> dict[Sizes, Probe]:
        """What was learnt while the nodes were listed."""
        return {}

    def _parts(
        self, node: NodeProto, walk: _Inference, static: set[str], fixed: set[str], sequences: Sequences
    ) -> list[NodeProto]:
        """What stands in the place of a node: those that it merges, the body that is chosen, or all iterations."""
        name = sequences.name
        if not decided(node, fixed):
            parts = contrib.apart(node, walk.types, static, self.opset, name)
            return sequences.apart(node) if parts[0] is node else parts
        try:
            if node.op_type == "If":
                return chosen(node, bool(walk.values[node.input[0]]), name)
            count = walk.values[node.input[0]].item() if walk.values.get(node.input[1], True) else 0
            values = {
                x: self.array(x) if x in self.initializers else walk.values[x] for x in self.reads(node) if x in static
            }
            return unrolled(node, count, values, name, self.opset)
        except (KeyError, ValueError):  # a constant too large to be known here, or a body of another form
            return [node]

    @cached_property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return next((o.version for o in self.model.opset_import if o.domain in STANDARD), 1)

    @cached_property
    def initializers(self) -> dict[str, TensorProto]:
        """The initializers by name."""
        return {t.name: t for t in self.model.graph.initializer}

    @cached_property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """Graph inputs that a caller must feed (an initializer that is also an input is a constant here)."""
        return [i for i in self.model.graph.input if i.name not in self.initializers]

    @cached_property
    def outputs(self) -> list[str]:
        """Names of the graph outputs."""
        return [o.name for o in self.model.graph.output]

    @cached_property
    def producer(self) -> dict[str, int]:
        """Value name -> index of the node that writes it."""
        return {name: i for i, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[int]]:
        """Value name -> indices of the nodes that read it, also from within their bodies."""
        readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in self.reads(node):
                readers.setdefault(name, []).append(i)
        return readers

    def reads(self, node: NodeProto) -> list[str]:
        """All values a node depends on, including those its bodies take from outside."""
        return reads(node)

    def needed(self, indices: Sequence[int], values: Iterable[str]) -> list[int]:
        """Which of these nodes, which are in the order in which they run, it takes to know some values."""
        return [self.producer[key(node)] for node in needed([self.nodes[i] for i in indices], values)]

    @cached_property
    def static(self) -> set[str]:
        """Values that no input can change: initializers and all that is computed from them alone."""
        return constants(self.initializers, self.nodes)

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        return {}

    def array(self, name: str) -> Array:
        """The value of a static name; large results of constant subgraphs are computed when first asked for."""
        if name in self.arrays:
            return self.arrays[name]
        if name not in self._arrays:
            if name in self.initializers:
                self._arrays[name] = numpy_helper.to_array(self.initializers[name])
            else:
                node = self.nodes[self.producer[name]]
                values = evaluate(node, [self.array(n) if n else None for n in node.input], self.opset)
                self._arrays.update(zip(node.output, values, strict=False))
        return self._arrays[name]

    def numbers(self, name: str) -> Array:
        """A constant to compute with, in float64; one that is kept beside the message stays as precise as it is.

        A big model's weights in float64 would take twice the memory of the model; sums over them are in float64 anyway.
        """
        value = self.array(name)
        known = name in self.arrays and value.dtype in (np.float32, np.float64)
        return np.asarray(value) if known else value.astype(np.float64)

    @cached_property
    def symbolic(self) -> list[str]:
        """Graph inputs with at least one dimension that isn't fixed."""
        return [i.name for i in self.inputs if any(not d.dim_value for d in i.type.tensor_type.shape.dim)]

    @cached_property
    def probes(self) -> tuple[Probe, ...]:
        """Shapes at batch 1, and again with every symbolic dimension changed, or as many of them as can be."""
        first = self._probe(batch=1, factor=1)
        if not self.symbolic and not first.placed:
            return (first,)
        for batch, factor in ((2, 2), (2, 1), (1, 2), (1, 1)):
            if (batch, factor) == (1, 1) and not first.placed:
                continue
            try:
                return (first, self._probe(batch, factor, PLACEHOLDERS[1]))
            except ModelError:
                continue
        return (first,)

    @cached_property
    def uncounted(self) -> set[str]:
        """Values whose shape depends on a size that data decide, so that the model's inputs don't tell it."""
        first = self.probes[0]
        if not first.placed:
            return set()
        other = self._probe(1, 1, PLACEHOLDERS[1])
        return {name for name in first.placed if first.shapes.get(name) != other.shapes.get(name)}

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shapes at batch 1; a value of unknown shape is missing."""
        return self.probes[0].shapes

    def shapes_for(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """Shapes of all values for inputs of exactly these sizes."""
        return self._infer(inputs).shapes

    def input_shapes(self, batch: int = 1, factor: int = 1) -> dict[str, Shape]:
        """Sizes for every graph input: the declared ones, then `dims`, then defaults; symbolic ones times `factor`.

        An input of unknown rank, or one that is no tensor, is missing unless it is in `dims`.
        """
        sizes: dict[str, int] = {}
        shapes: dict[str, Shape] = {}
        for value in self.inputs:
            declared = value.type.tensor_type.shape.dim
            given = self.dims.get(value.name)
            if not value.type.tensor_type.HasField("shape"):
                if given is not None:
                    shapes[value.name] = tuple(given)
                continue
            if given is not None and len(given) != len(declared):
                raise ModelError(
                    f"input '{value.name}' has {len(declared)} dimensions, but {list(given)} was given as its shape."
                )
            shape = []
            for axis, d in enumerate(declared):
                if d.dim_value:
                    size = d.dim_value
                elif axis == 0:
                    size = sizes.setdefault(d.dim_param, batch) if d.dim_param else batch
                else:
                    default = DEFAULT_DIM.get(len(declared), 16) if axis > 1 else 16
                    size = factor * (given[axis] if given is not None else default)
                    size = sizes.setdefault(d.dim_param, size) if d.dim_param else size
                shape.append(size)
            shapes[value.name] = tuple(shape)
        return shapes

    def _probe(self, batch: int, factor: int, placeholder: int = PLACEHOLDERS[0]) -> Probe:
        known = self._known.get((batch, factor, placeholder)) if self.nodes else None
        return known or self._infer(self.input_shapes(batch, factor), placeholder)

    def _infer(self, inputs: Mapping[str, Shape], placeholder: int = PLACEHOLDERS[0]) -> Probe:
        return self._inference(inputs, placeholder).run()

    def _inference(self, inputs: Mapping[str, Shape], placeholder: int) -> _Inference:
        return _Inference(self, self._input_types(inputs), placeholder)

    def _input_types(self, inputs: Mapping[str, Shape]) -> dict[str, TypeProto]:
        types = {value.name: value.type for value in self.inputs}
        for name, shape in inputs.items():
            types[name] = onnx.helper.make_tensor_type_proto(types[name].tensor_type.elem_type, shape)
        return types

    @cached_property
    def declared(self) -> dict[str, TypeProto]:
        """Types that the file itself states, used where inference fails."""
        infos = [*self.model.graph.value_info, *self.model.graph.output]
        return {info.name: info.type for info in infos}

    @cached_property
    def types(self) -> dict[str, int]:
        """Element type of every value whose type is known (TensorProto.DataType)."""
        known = {i.name: i.type.tensor_type.elem_type for i in self.model.graph.input}
        known |= {name: t.tensor_type.elem_type for name, t in self.declared.items()}
        known |= {name: t.data_type for name, t in self.initializers.items()}
        return known | self.probes[0].types


def evaluate(node: NodeProto, values: Sequence[Array | None], opset: int) -> list[Array]:
    """Run one node on NumPy arrays by ONNX's reference implementation."""
    if node.op_type == "Constant":
        return [constant(node)]
    if node.op_type == "GatherElements" and values[0] is not None and values[1] is not None:
        return [_gather_elements(values[0], values[1], attributes(node).get("axis", 0))]
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


class _Inference:
    """One walk over the nodes that gives each value its type, and small values their content."""

    def __init__(self, graph: Graph, types: dict[str, TypeProto], placeholder: int) -> None:
        self.graph, self.types, self.placeholder = graph, types, placeholder
        self.placed: set[str] = set()
        self.values: dict[str, Array] = {}
        self.protos: dict[str, TensorProto] = {}
        for name, tensor in graph.initializers.items():
            self.types[name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
            if np.prod(tensor.dims) <= SMALL and not tensor.external_data:
                self._know(name, graph.array(name))

    def run(self) -> Probe:
        for node in self.graph.nodes:
            self.visit(node)
        return self.probe()

    def probe(self) -> Probe:
        """What is known now."""
        shapes = {name: shape for name, t in self.types.items() if (shape := _shape(t)) is not None}
        elements = {name: t.tensor_type.elem_type for name, t in self.types.items() if t.tensor_type.elem_type}
        return Probe(shapes, self.values, elements, frozenset(self.placed))

    def visit(self, node: NodeProto) -> None:
        """Learn what a node makes; everything before it has been visited."""
        if any(name in self.placed for name in self.graph.reads(node)):
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
            results = evaluate(node, [self.values.get(n) for n in node.input], self.graph.opset)
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
        known = {name: t for name in self.graph.reads(node) if _told(t := self.types.get(name, TypeProto()))}
        domain = "" if node.domain in STANDARD else node.domain
        versions = {o.domain if o.domain not in STANDARD else "": o.version for o in self.graph.model.opset_import}
        try:
            schema = onnx.defs.get_schema(node.op_type, versions.get(domain, 1), domain)
            if all(name in known for name in node.input if name):
                opsets = [onnx.helper.make_opsetid(d, v) for d, v in versions.items()]
                inferred = infer_node_outputs(schema, node, known, self.protos, opset_imports=opsets)
        except onnx.shape_inference.InferenceError as error:
            placed = any(name in self.placed for name in node.input)
            if not placed and not any(subgraphs(node)):  # onnx doesn't see through every body
                advice = "; say which sizes do with --input-shapes." if self.graph.symbolic else "."
                where = f"node '{node.name or key(node)}' ({node.op_type})"
                raise ModelError(f"shapes don't fit at {where}: {str(error).rstrip('.')}{advice}") from error
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
        declared = self.graph.declared.get(name)
        if declared is None or not declared.tensor_type.HasField("shape"):
            return inferred or declared or TypeProto()
        sizes: dict[str, int] = {}
        for value in self.graph.inputs:
            for d, size in zip(value.type.tensor_type.shape.dim, _shape(self.types[value.name]) or (), strict=False):
                sizes[d.dim_param] = size
        dims = [d.dim_value or sizes.get(d.dim_param) for d in declared.tensor_type.shape.dim]
        if any(d is None for d in dims):
            if inferred is not None and inferred.tensor_type.HasField("shape"):
                return inferred
            return onnx.helper.make_tensor_type_proto(declared.tensor_type.elem_type, None)
        return onnx.helper.make_tensor_type_proto(declared.tensor_type.elem_type, dims)


def _agreed(node: NodeProto, one: _Inference, two: _Inference, fixed: set[str], compared: set[str]) -> set[str]:
    """Which small values that a node makes are the same whatever the symbolic sizes are: they are in both inferences.

    A comparison of sizes can come out alike for both by chance: it tells only where what it compares is fixed. What is
    made of others is added to `compared`.
    """
    computed = all(name in fixed for name in node.input if name)
    faithful = node.op_type in FAITHFUL and compared.isdisjoint(node.input)
    if not (computed or faithful or node.op_type in ("Shape", "Size")):
        compared.update(name for name in node.output if name)
        return set()
    known = (name for name in node.output if name in one.values and name in two.values)
    return {name for name in known if np.array_equal(one.values[name], two.values[name])}


def _told(t: TypeProto) -> bool:
    """Whether a type says anything; tensors of no element type don't."""
    return t.tensor_type.elem_type != 0 if t.HasField("tensor_type") else t.WhichOneof("value") is not None


def _shape(t: TypeProto) -> Shape | None:
    if not t.HasField("tensor_type") or not t.tensor_type.HasField("shape"):
        return None
    dims = t.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None
