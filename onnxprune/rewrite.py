"""The model that a plan describes, and its full-size twin.

`rewrite` cuts: it is pure, and touches only what the plan names. `twin` gives the model that must behave the same
without a single channel having been cut: new weights are zero at removed inputs, and every layer that reads removed
channels gets them multiplied by zero; what a removed block makes is its shortcut and zero times what it made. Comparing
the two (see `oracle`) separates an error of surgery from the approximation that pruning is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from onnxprune import files
from onnxprune.assembly import Draft, assembled, copied
from onnxprune.coupling import Coupling, Mask
from onnxprune.errors import DataError
from onnxprune.files import Model
from onnxprune.graph import Array, Graph, fresh, key
from onnxprune.ids import narrow
from onnxprune.ops import Cut, View, find
from onnxprune.ops.linear import Linear, same
from onnxprune.plan import Plan, Weights

__all__ = ["annotate", "assembled", "pruned", "renewed_nodes", "rewrite", "silenced", "twin", "validate"]
__all__ += ["silenced_input", "with_weights", "without_feedback"]

Cuts = dict[tuple[int, int], dict[int, tuple[tuple[int, ...], ...]]]  # (node, input) -> axis -> places of each lane


class _Draft(Draft):
    """The model that a plan makes of the original's. Nodes are copied when they change."""

    def __init__(self, coupling: Coupling, plan: Plan) -> None:
        super().__init__(coupling.graph.original)
        self.coupling, self.graph = coupling, coupling.graph
        self.mask: Mask = coupling.mask(plan.keep)
        self.replaced: dict[str, Array] = {}
        self.renewed: dict[int, list[Linear]] = {}
        for name, new in plan.weights.items():
            layer = with_weights(coupling.layers[name], new)
            self.renewed.setdefault(layer.index, []).append(layer)
        layers = [layer for several in self.renewed.values() for layer in several]
        self.dropped = {i for layer in layers for i in layer.tail}
        self.rewritten = {(layer.index, i) for layer in layers for i in (layer.weight_at, layer.bias_at)}

    def renew(self, name: str, value: Array, index: int, hint: str) -> str:
        """A constant in the place of `name` for node `index`; it keeps its name if all who read that are one layer."""
        own = name in self.graph.initializers and name not in self.graph.outputs
        if own and all(self._one(index, i) for i in self.readers(name)):
            self.replaced[name] = self.kept(value)
            return name
        return self.constant(value, hint)

    def readers(self, name: str) -> list[int]:
        """Nodes that read a value and make something that is read, too."""
        read = self.graph.consumers.keys() | set(self.graph.outputs)
        return [i for i in self.graph.consumers[name] if not read.isdisjoint(self.graph.nodes[i].output)]

    def _one(self, index: int, other: int) -> bool:
        """Whether a node gets the same new weights as another, which it shares its old ones with."""
        if index == other:
            return True
        (a, *_), (b, *_) = self.renewed[index], self.renewed.get(other, [None])
        return b is not None and (a.weight, a.bias) == (b.weight, b.bias) and same(a, b)

    def uses(self, name: str) -> list[tuple[int, int]]:
        """(node, input) where a value is read; input -1 stands for a node's body."""
        found = []
        for j in self.readers(name):
            found += [(j, k) for k, n in enumerate(self.graph.nodes[j].input) if n == name] or [(j, -1)]
        return found

    def build(self, nodes: Iterable[NodeProto]) -> Model:
        """The model with these nodes."""
        replaced = {name: self.tensor(value, name) for name, value in self.replaced.items()}
        model = assembled(self.base, nodes, self.added, replaced, self.arrays)
        for array in self.graph.arrays.values():
            files.release(array)
        return model


def rewrite(coupling: Coupling, plan: Plan) -> ModelProto:
    """The pruned model as one message."""
    return files.embedded(pruned(coupling, plan))


def pruned(coupling: Coupling, plan: Plan) -> Model:
    """The pruned model. An empty plan gives an equal model. Raises DataError if the plan names what isn't there."""
    validate(coupling, plan)
    draft = _Draft(coupling, plan)
    if not plan.weights and draft.mask.flags.all() and not draft.graph.removed:
        return Model(copied(coupling.graph.model), coupling.graph.arrays)
    cuts = _cuts(draft)
    nodes: list[NodeProto] = []
    for index, node in enumerate(draft.graph.nodes):
        if index in draft.dropped:
            continue
        *before, node = _shrink(draft, index, node)
        node, *behind = _renew(draft, index, node, cut=True)
        nodes += [*before, _cut_inputs(draft, index, node, cuts), *behind]
    model = draft.build(_passing_by(draft.graph, node) for node in nodes)
    return replace(model, proto=annotate(model.proto, {v.name for v in draft.graph.model.graph.value_info}))


def _passing_by(graph: Graph, node: NodeProto) -> NodeProto:
    """The node reading shortcuts in the place of what removed blocks made."""
    names = [graph.past(name) for name in node.input]
    if names == list(node.input):
        return node
    node = copied(node)
    node.input[:] = names
    return node


def twin(coupling: Coupling, plan: Plan) -> ModelProto:
    """The original with removed channels silenced, as one message."""
    return files.embedded(silenced(coupling, plan))


def silenced(coupling: Coupling, plan: Plan) -> Model:
    """The original at full size with the plan's weights, removed channels silenced where they are read."""
    draft = _Draft(coupling, plan)
    nodes: list[NodeProto] = []
    place = {key(node): index for index, node in enumerate(draft.graph.nodes)}
    for node in draft.graph.original.nodes:
        index = place.get(key(node), -1)
        if index in draft.dropped:
            continue
        if key(node) in draft.graph.removed:
            nodes += _undone(draft, node)
        elif index in draft.coupling.notes.readers:
            flags = draft.mask.of(draft.coupling.notes.readers[index])
            node = without_feedback(draft.mask, index, draft.constant)
            layer = _renew(draft, index, node, cut=False)
            if not flags.all():
                layer[:1] = silenced_input(draft.mask, index, layer[0], draft.constant, draft.fresh)
            nodes += layer
        else:
            nodes.append(node)
    return draft.build(nodes)


def _undone(draft: _Draft, node: NodeProto) -> list[NodeProto]:
    """The last node of a removed block, and nodes that put the shortcut in the place of what it makes."""
    output = node.output[0]
    node = copied(node)
    node.output[0], nothing = draft.fresh(f"{output}_whole"), draft.fresh(f"{output}_nothing")
    zero = np.zeros((), helper.tensor_dtype_to_np_dtype(draft.graph.types[output]))
    times = helper.make_node("Mul", [node.output[0], draft.constant(zero, f"{output}_zero")], [nothing])
    return [node, times, helper.make_node("Add", [nothing, draft.graph.removed[output].shortcut], [output])]


def validate(coupling: Coupling, plan: Plan) -> None:
    """Check that a plan fits a model; DataError names the first thing that doesn't."""
    if set(plan.removed) != set(coupling.graph.removed):
        raise DataError("the plan removes other blocks than those that the graph is coupled without.")
    if plan.merged != coupling.graph.merged:
        raise DataError("the plan merges other blocks than the graph that is coupled.")
    for name, kept in plan.keep.items():
        group = coupling.by_name.get(name)
        if group is None:
            raise DataError(
                f"the plan names a group '{name}' that this model doesn't have; was it made for another one?"
            )
        fits = kept.ndim == 1 and kept.dtype.kind == "i" and kept.size > 0 and (np.diff(kept) > 0).all()
        fits = fits and kept[0] >= 0 and kept[-1] < group.channels
        sizes = np.bincount(group.cells[kept], minlength=group.cells.max() + 1) if fits else np.zeros(1)
        if not sizes[0] or not (sizes == sizes[0]).all():
            raise DataError(f"the plan's channels for group '{name}' don't fit its {group.channels} channels.")
    for name, new in plan.weights.items():
        linear = coupling.layers.get(name)
        if linear is None or linear.shape != new.matrix.shape or linear.offset.shape != new.offset.shape:
            raise DataError(f"the plan's weights for layer '{name}' don't fit this model; was it made for another one?")


# ---------------------------------------------------------------------------------------------- nodes


def _shrink(draft: _Draft, index: int, node: NodeProto) -> list[NodeProto]:
    """The node with what it says about sizes brought in line with the channels that are kept, and what runs first."""
    known = find(node)
    shapes = draft.graph.shapes
    touched = [n for n in (*node.input, *node.output) if n in draft.coupling.notes.ids and n in shapes]
    if known is None or known.shrink is None:
        return [node]
    whole = all(draft.mask(n, a).all() for n in touched for a in range(len(shapes[n])))
    if whole and not any(draft.mask.restated(n) for n in node.input):
        return [node]
    node = copied(node)
    view = View(draft.graph, draft.graph.probes[0], index)
    cut = Cut(view, node, draft.mask, draft.mask.restated, draft.constant, draft.fresh)
    known.shrink(cut)
    return [*cut.before, node]


def _cuts(draft: _Draft) -> Cuts:
    """What stays of every use of a constant that loses something."""
    cuts: Cuts = {}
    for use, axes in draft.coupling.notes.uses.items():
        masks = {axis: draft.mask.of(ids) for axis, ids in axes.items()}
        found = {axis: tuple(map(_places, np.atleast_2d(m))) for axis, m in masks.items() if not m.all()}
        if found:
            cuts[use] = found
    return cuts


def _places(flags: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(flags).tolist())


def _taken(value: Array, axis: int, lanes: Sequence[Sequence[int]]) -> Array:
    """The places of an axis that stay: the same everywhere, or those of each lane, an element of axis 0."""
    if len(lanes) == 1:
        return value.take(lanes[0], axis)
    return np.stack([part.take(places, axis - 1) for part, places in zip(value, lanes, strict=True)])


def _cut_inputs(draft: _Draft, index: int, node: NodeProto, cuts: Cuts) -> NodeProto:
    """The node with its constants cut; one that all its readers cut alike keeps its name."""
    for i, name in enumerate(draft.graph.nodes[index].input):
        if (index, i) not in cuts or node.input[i] != name or name in draft.replaced:
            continue
        uses = draft.uses(name)
        alike = all(cuts.get(use) == cuts[index, i] and use not in draft.rewritten for use in uses)
        value = draft.graph.array(name)
        for axis, places in cuts[index, i].items():
            value = _taken(value, axis, places)
        if alike and name in draft.graph.initializers and name not in draft.graph.outputs:
            draft.replaced[name] = draft.kept(value)
        else:
            if node is draft.graph.nodes[index]:
                node = copied(node)
            node.input[i] = draft.constant(value, f"{name}_cut")
    return node


def _renew(draft: _Draft, index: int, node: NodeProto, cut: bool) -> list[NodeProto]:
    """The node, with its new weights (cut or at full size) if the plan has any."""
    if index not in draft.renewed:
        return [node]
    layers = draft.renewed[index]
    if cut:
        layers = [layer.cut(draft.mask.inputs(layer), draft.mask.outputs(layer)) for layer in layers]

    def constant(name: str, value: Array, hint: str) -> str:
        return draft.renew(name, value, index, hint)

    renewed = renewed_nodes(draft.graph, node, layers, constant, draft.taken)
    for layer in draft.renewed[index]:
        layer.release()
    return renewed


def with_weights(linear: Linear, new: Weights) -> Linear:
    """The layer with other weights."""
    return replace(linear, held=new.matrix, offset=new.offset)


def renewed_nodes(
    graph: Graph, node: NodeProto, layers: Sequence[Linear], constant: Callable[[str, Array, str], str], taken: set[str]
) -> list[NodeProto]:
    """The nodes that compute what `node` and its tail do, with the weights of its `layers` (two if it is recurrent).

    `constant(name, value, hint)` stores a value in the place of the constant `name` (there may be none: "") and gives
    its name; `taken` are the names in use. A layer without a bias gets one where the offset isn't zero.
    """
    node = copied(node)
    for a in [a for a in node.attribute if a.name in ("alpha", "beta")]:
        node.attribute.remove(a)  # they are part of the matrix and the offset
    if len(layers) > 1:  # one tensor holds the biases of both
        one, other = layers
        layers = [replace(one, beside=other.offset), replace(other, beside=one.offset)]
    return [node, *(behind for layer in layers for behind in _renew_node(graph, node, layer, constant, taken))]


def _renew_node(
    graph: Graph, node: NodeProto, layer: Linear, constant: Callable[[str, Array, str], str], taken: set[str]
) -> list[NodeProto]:
    """Give the node a layer's weights; the nodes that must come behind it."""
    weight, offset = layer.tensors(layer)
    weight = weight.astype(graph.array(layer.weight).dtype, copy=False)
    offset = offset.astype(helper.tensor_dtype_to_np_dtype(graph.types[layer.input]), copy=False)
    node.input[layer.weight_at] = constant(layer.weight, weight, f"{layer.weight}_new")
    if layer.tail:
        node.output[0] = layer.output
    if layer.bias == "" and not layer.tail and not offset.any():
        return []
    if not layer.bias_at:
        node.output[0] = fresh(f"{layer.output}_product", taken)
        inputs = [node.output[0], constant("", offset, f"{layer.output}_bias")]
        return [helper.make_node("Add", inputs, [layer.output], fresh(f"{node.name}_bias", taken))]
    node.input.extend([""] * (layer.bias_at + 1 - len(node.input)))
    node.input[layer.bias_at] = constant(layer.bias, offset, layer.bias or f"{layer.weight}_bias")
    return []


def without_feedback(mask: Mask, index: int, constant: Callable[[Array, str], str]) -> NodeProto:
    """A copy of a recurrent node in which removed channels have no effect on the other channels that it makes."""
    graph = mask.coupling.graph
    node = copied(graph.nodes[index])
    for i, ids in mask.coupling.notes.feedback.get(index, {}).items():
        value, flags = graph.array(node.input[i]), mask.of(ids)
        if not flags.all():
            node.input[i] = constant(value * flags.astype(value.dtype), f"{node.input[i]}_silenced")
    return node


def silenced_input(
    mask: Mask, index: int, node: NodeProto, constant: Callable[[Array, str], str], new: Callable[[str], str]
) -> list[NodeProto]:
    """A node that multiplies the removed channels of what `node` reads by zero, and `node` behind it."""
    node, notes = copied(node), mask.coupling.notes
    x = node.input[i := notes.places[index]]
    dtype = helper.tensor_dtype_to_np_dtype(mask.coupling.graph.types[x])
    flags = narrow(mask.of(notes.ids[x]).astype(np.int64)).astype(dtype)
    node.input[i] = new(f"{x}_silenced")
    return [helper.make_node("Mul", [x, constant(flags, f"{x}_mask")], [node.input[i]]), node]


# ---------------------------------------------------------------------------------------------- protobuf


def annotate(model: ModelProto, described: Collection[str]) -> ModelProto:
    """The model with the shapes of these values inferred anew; what it says of its outputs stays as it was.

    Values of which the original says nothing stay undescribed: more knowledge makes onnxruntime fuse more, and some
    fusions of it fail (a Reshape of no elements, in a detector that finds nothing).
    """
    if not described:
        return model
    outputs = [copied(o) for o in model.graph.output]
    try:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # a hint for viewers, not a part of the computation: better none than a failure
        return model
    infos = [copied(v) for v in model.graph.value_info if v.name in described]
    for field, values in ((model.graph.value_info, infos), (model.graph.output, outputs)):
        del field[:]
        field.extend(values)
    return model
