"""Which channels must be removed together: the graph is run on channel ids.

Every activation carries ids (see `ids`), every operator says what its output's ids are and which ids it ties
(`ops`), and the connected components of all ties are the channels that can be removed. Components that touch the same
tensors form a group (see `groups`). Nothing in this file knows an operator by name. What no rule explains is frozen,
with a reason.

A matrix product may act on another axis than that of the channels. They pass through; but where they can't go anyway,
the graph is walked once more, and the product makes channels of its own (the hidden units of a mixer of places).
Likewise for copies: keys that all heads share can only go as a whole, and those that a decoder is given not at all, so
then the copies are the channels. And for
grouped convolutions: where what a group reads goes together (a head), and what it makes, the groups go.

Both probes of the graph are walked with the same ids of parameters, so a coupling has to hold for every size of the
symbolic dimensions. One invariant is enforced afterwards: the ids of a value vary along one axis only. Otherwise a
Reshape that splits channels (a shuffle, attention heads) couldn't be written for fewer of them. The exception are
*lanes*, channels that lie side by side and of which each lane keeps equally many (the directions of an LSTM).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto

from onnxprune import contrib
from onnxprune.bodies import subgraphs
from onnxprune.contrib import STANDARD
from onnxprune.errors import ModelError
from onnxprune.graph import Array, Graph, key
from onnxprune.groups import SINGLE, Group, Part, grouped, uneven
from onnxprune.ids import Components, Ids, Ledger, varying
from onnxprune.ops import Visit, find
from onnxprune.ops.linear import Linear, describe, loop, same, share
from onnxprune.ops.registry import Notes, Rule
from onnxprune.ops.unfollowed import REASONS

__all__ = ["Coupling", "Group", "Mask", "Part", "couple"]

Ints = NDArray[np.int64]

QUANTIZED = {*("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")}
UNEQUAL = "its channels can't be removed in equal number from each group of a grouped convolution"
ONLY = "it makes only one channel"
OLDEST = 7  # the opset since which operands broadcast from the right
GRANULARITIES = ("auto", "tap", "channel")  # see `ops.linear`; auto: by taps, but by channels what is too wide for that


@dataclass(frozen=True)
class Coupling:
    """The groups of a graph, its linear layers, and why everything else stays."""

    graph: Graph
    groups: tuple[Group, ...]
    left_alone: dict[int, str]  # node index of a layer -> why its output channels all stay
    notes: Notes
    components: Components
    granularity: str = "auto"
    _linears: dict[int, Linear | None] = field(default_factory=dict)
    _loops: dict[int, Linear | None] = field(default_factory=dict)
    _alike: dict[str, bool] = field(default_factory=dict)

    def linear(self, index: int) -> Linear | None:
        """A node as a linear layer, if it is one that can be fitted."""
        if index not in self._linears:
            found = describe(self.graph, index)
            self._linears[index] = self._at_granularity(self._folded(found)) if found is not None else None
        return self._linears[index]

    def _folded(self, linear: Linear) -> Linear:
        """The layer with its tail; without it if its weight is read elsewhere, too, with another one behind."""
        users = self.graph.consumers[linear.weight] if linear.tail else []
        if len(users) > 1 and linear.weight not in self._alike:
            found = [describe(self.graph, i) for i in users]
            self._alike[linear.weight] = all(one is not None and same(one, linear) for one in found)
        alike = self._alike.get(linear.weight, True)
        return linear if alike else describe(self.graph, linear.index, tail=False) or linear

    @cached_property
    def tied(self) -> dict[str, tuple[Linear, ...]]:
        """Layers that are one in several places, with one weight and one bias: key of each -> all of them."""
        found = defaultdict[tuple[str, str], list[list[Linear]]](list)
        for linear in self.layers.values():
            if not linear.loops:
                alike = found[linear.weight, linear.bias]
                several = next((s for s in alike if self._one(s[0], linear)), None)
                several.append(linear) if several is not None else alike.append([linear])
        sets = [tuple(several) for alike in found.values() for several in alike if len(several) > 1]
        return {one.key: several for several in sets for one in several}

    def _one(self, first: Linear, other: Linear) -> bool:
        """Whether two layers with one weight read the same channels and compute the same."""
        a, b = (self.components.of(self.notes.readers[linear.index]) for linear in (first, other))
        return np.array_equal(a, b) and len(first.tail) == len(other.tail) and same(first, other)

    def _at_granularity(self, linear: Linear) -> Linear:
        wanted = self.granularity == "channel" or (self.granularity == "auto" and not linear.refittable)
        if not wanted or linear.index not in self.notes.readers:
            return linear
        return share(linear, self.components.of(self.notes.readers[linear.index]))

    def loop(self, index: int) -> Linear | None:
        """How a node reads its own channels, if it does."""
        if index not in self._loops:
            self._loops[index] = loop(self.graph, index) if index in self.notes.feedback else None
        return self._loops[index]

    @cached_property
    def layers(self) -> dict[str, Linear]:
        """All linear layers, loops included, by key."""
        found = [one(i) for i in self.notes.readers for one in (self.linear, self.loop)]
        return {linear.key: linear for linear in found if linear is not None}

    def mask(self, keep: Mapping[str, Ints]) -> Mask:
        """Flags of what stays, from the channels kept per group; groups that aren't named stay whole."""
        flags = np.ones(len(self.components.label) + 1, bool)  # the last one is for "no channel", component -1
        for group in self.groups:
            if group.name in keep:
                flags[group.components] = False
                flags[group.components[keep[group.name]]] = True
        return Mask(self, flags)

    @cached_property
    def by_name(self) -> dict[str, Group]:
        """Groups by name."""
        return {g.name: g for g in self.groups}

    @property
    def by_rank(self) -> frozenset[int]:
        """The products of activations whose channels are dims of heads."""
        return self.notes.by_rank

    def layer(self, index: int) -> str:
        """How a node is called towards users."""
        return self.graph.nodes[index].name or key(self.graph.nodes[index])


@dataclass(frozen=True)
class Mask:
    """Which channels stay, seen from values, parameters and readers."""

    coupling: Coupling
    flags: NDArray[np.bool_]  # per component

    def of(self, ids: Ids) -> NDArray[np.bool_]:
        """Kept flags of an id array."""
        return self.flags[self.coupling.components.of(ids)]

    def inputs(self, linear: Linear) -> NDArray[np.bool_]:
        """Kept flags of a layer's input channels."""
        notes = self.coupling.notes
        ids = notes.feedback[linear.index][linear.weight_at] if linear.loops else notes.readers[linear.index]
        return self.of(ids.ravel())

    def outputs(self, linear: Linear) -> NDArray[np.bool_]:
        """Kept flags of a layer's output channels; all True where it only puts them into their places."""
        ids = self.coupling.notes.writers.get(linear.index)
        return np.ones(len(linear.offset), bool) if ids is None else self.of(ids)

    def __call__(self, name: str, axis: int) -> NDArray[np.bool_]:
        """Kept flags along one axis of a value, real length; all True on an axis along which channels don't vary.

        Of lanes that lie side by side along another axis, the flags are those of the first; all keep equally many.
        """
        ids, length = self.coupling.notes.ids.get(name), self.coupling.graph.shapes[name][axis]
        if ids is None or varying(self.coupling.components.free(ids))[-1:] != [axis]:
            return np.ones(length, bool)
        return self.of(np.moveaxis(ids, axis, 0).reshape(length, -1)[:, 0])

    def kept(self, name: str, value: Array) -> Array:
        """What stays of a value of the full size; samples may lie in front of channels along the same axis."""
        ids = self.coupling.notes.ids.get(name)
        if ids is None or not (axes := varying(self.coupling.components.free(ids))):
            return value
        *lanes, axis = axes
        if not lanes:
            flags = self(name, axis)
            return value.compress(np.tile(flags, value.shape[axis] // len(flags)), axis)
        along = ids[tuple(slice(None) if a in axes else slice(1) for a in range(ids.ndim))]
        flags = np.broadcast_to(self.of(along), value.shape)
        return value[flags].reshape(*value.shape[:axis], -1, *value.shape[axis + 1 :])

    def feeds_back(self, index: int) -> bool:
        """Whether a node reads its own channels, and some of these go."""
        return any(not self.of(ids).all() for ids in self.coupling.notes.feedback.get(index, {}).values())

    def unrepaired(self, index: int) -> bool:
        """Whether a node that can't be refitted reads channels of which some go."""
        ids = self.coupling.notes.readers.get(index)
        linear = None if ids is None else self.coupling.linear(index)
        return ids is not None and (linear is None or not linear.refittable) and not self.of(ids).all()

    def restated(self, name: str) -> bool:
        """Whether a computed size depends on a number of channels of which some go."""
        ids = self.coupling.notes.ids.get(name)
        return ids is not None and not self._lower.isdisjoint(self.coupling.components.of(ids).ravel().tolist())

    @cached_property
    def _lower(self) -> frozenset[int]:
        """The components of computed sizes that count channels of which some go."""
        return frozenset(size for size, ids in self.coupling.components.sizes if not self.of(ids).all())


def couple(graph: Graph, by_rank: Collection[int] = ()) -> Coupling:
    """Find the groups; those of the products of activations `by_rank` (node indices) are dims of heads, not heads.

    Raises ModelError for a model of a kind that can't be pruned.
    """
    _demand_prunable(graph)
    apart: dict[int, str] = {}
    whole = set[int]()
    while True:
        ledger, walks = _walk(graph, frozenset(by_rank), apart, whole)
        components = _one_axis(ledger, walks)
        if found := _whole_groups(walks[0], components):
            whole |= found
            continue
        while rows_of_groups := uneven(ledger, walks[0], components):
            for rows in rows_of_groups:
                ledger.tie(rows, rows[:1], UNEQUAL)
            components = _one_axis(ledger, walks)
        passing, copied = walks[0].passing, walks[0].copied
        moved = {i: (components.why(ids), components.one(ids)) for i, ids in (passing | copied).items()}
        stuck = {i: why or (SINGLE if i in passing else "") for i, (why, one) in moved.items() if why or one}
        if stuck.keys() <= apart.keys():
            groups = grouped(graph, ledger, walks[0], components)
            return Coupling(graph, groups, _left_alone(graph, walks[0], components, groups), walks[0], components)
        apart |= stuck


def _whole_groups(notes: Notes, components: Components) -> set[int]:
    """Grouped convolutions of which all that a group reads goes together, and all that it makes, but not all groups."""
    found = set[int]()
    for index, sides in notes.grouped.items():
        rows = [components.free(ids) for ids in sides]
        if all((own >= 0).all() and (own == own[:, :1]).all() and (own != own[0, 0]).any() for own in rows):
            found.add(index)
    return found


def _walk(graph: Graph, by_rank: frozenset[int], apart: dict[int, str], whole: set[int]) -> tuple[Ledger, list[Notes]]:
    """What the operators say of each probe's ids."""
    ledger, walks = Ledger(), []
    for probe in graph.probes:
        notes = Notes(by_rank, apart=apart, whole=whole)
        for value in graph.inputs:
            if value.name in probe.shapes:
                ids = ledger.fresh(("input", value.name), 1)
                ledger.freeze(ids, f"'{value.name}' is an input of the model")
                notes.ids[value.name] = ids.reshape((1,) * len(probe.shapes[value.name]))
        for index in range(len(graph.nodes)):
            _visit(Visit(graph, probe, index, ledger, notes))
        for name in graph.outputs:
            ledger.freeze(notes.ids.get(name, np.zeros(0, np.int64)), f"'{name}' is an output of the model")
        walks.append(notes)
    return ledger, walks


def _demand_prunable(graph: Graph) -> None:
    """Refuse quantized models, whose scales pruning would make meaningless, and operators of another meaning."""
    quantized = next((n for n in graph.nodes if n.op_type in QUANTIZED), None)
    if quantized is not None:
        raise ModelError(
            f"the model is quantized ({quantized.op_type} '{quantized.name or key(quantized)}'); "
            "prune the floating-point model, then quantize the result."
        )
    if any(o.domain in STANDARD and o.version < OLDEST for o in graph.model.opset_import):
        raise ModelError(
            f"the model is of opset {graph.opset}, and {OLDEST} is the oldest that can be pruned; "
            "convert it with onnx.version_converter first."
        )


def _visit(v: Visit) -> None:
    """Apply the node's rule. What no rule explains stays: unknown operators, unknown shapes, inputs left aside."""
    outputs = [name for name in v.node.output if name and name not in v.graph.static]
    if not outputs:
        return
    known = find(v.node)
    unread = {name for name in v.node.output[1:] if name not in v.graph.consumers and name not in v.graph.outputs}
    needed = [name for name in (*v.node.input, *outputs) if name and name not in unread]
    missing = [name for name in needed if name not in v.probe.shapes]
    if known is None:
        standard = v.node.domain in STANDARD and v.node.op_type in REASONS
        unknown = REASONS[v.node.op_type] if standard else contrib.unknown(v.node)
        v.freeze_all("has a body that isn't looked into" if any(subgraphs(v.node)) else unknown)
    elif missing:
        v.freeze_all(f"has a value of unknown shape ('{missing[0]}')")
    elif _fits(v, known):
        if not known.commutes(v):
            v.notes.bends += [(v.index, v.notes.ids[name]) for name in v.graph.reads(v.node) if name in v.notes.ids]
        for i, name in enumerate(v.node.input):
            if name in v.notes.ids and i not in v.seen:
                purpose = f" for its '{v.purpose(i)}'" if v.purpose(i) else ""
                v.freeze(v.notes.ids[name], f"takes '{name}'{purpose} as it is")
    for name in outputs:
        if name in v.probe.shapes and name not in v.notes.ids:
            v.freeze_all(f"makes '{name}', which has no part for each channel")


def _fits(v: Visit, known: Rule) -> bool:
    """Apply a node's rule. False if sizes that data decide don't fit the others: then the node keeps all it touches."""
    try:
        known.couple(v)
    except ValueError:
        if v.graph.uncounted.isdisjoint(v.node.input):
            raise
        for notes in (v.notes.readers, v.notes.places, v.notes.writers, v.notes.feedback):
            notes.pop(v.index, None)
        for use in [use for use in v.notes.uses if use[0] == v.index]:
            del v.notes.uses[use]
        v.freeze_all("has a size that data decide, and that doesn't fit its weights")
        return False
    return True


def _one_axis(ledger: Ledger, walks: Sequence[Notes]) -> Components:
    """Tie until what is free in every value varies along one axis only; the innermost such axis wins.

    But lanes may lie along another one in front of it, since all keep equally many channels.
    """
    components = ledger.solve()
    for notes in walks:
        for name, ids in notes.ids.items():
            if sum(n > 1 for n in ids.shape) < 2 or len(axes := varying(components.free(ids))) < 2:
                continue
            alike = len({walk.ids[name].shape for walk in walks if name in walk.ids}) == 1
            if alike and len(axes) == 2 and _in_lanes(ledger, components, ids, axes[1]):
                continue
            lanes = ledger.lane_axes(ids)
            axis = next((a for a in axes[::-1] if a not in lanes), axes[-1])
            rows = np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)
            ledger.tie(rows, rows[:, :1], f"'{name}' arranges channels along two axes")
            components = ledger.solve()
    return components


def _in_lanes(ledger: Ledger, components: Components, ids: Ids, axis: int) -> bool:
    """Whether every row along an axis holds the channels of one lane, of those that belong together."""

    def rows(ids: Ids) -> set[tuple[int, ...]]:
        return {tuple(sorted(row)) for row in components.free(ids).reshape(-1, ids.shape[-1]).tolist()}

    found = rows(np.moveaxis(ids, axis, -1))
    return any(found <= rows(lanes) for lanes in ledger.lanes)


def _left_alone(graph: Graph, notes: Notes, components: Components, groups: Iterable[Group]) -> dict[int, str]:
    """Every layer whose output channels all stay, with the reason."""
    prunable = {int(c) for g in groups for c in g.components}
    reasons = {}
    for index, node in enumerate(graph.nodes):
        if index in notes.writers:
            found = components.of(notes.writers[index]).tolist()
            if prunable.isdisjoint(found):
                known = (components.frozen[c] for c in found if c in components.frozen)
                reason = next(known, "no other layer reads its channels")
                reasons[index] = ONLY if len(found) == 1 else reason
        elif index in notes.refused and _has_weights(graph, node):
            reasons[index] = notes.refused[index]
    return reasons


def _has_weights(graph: Graph, node: NodeProto) -> bool:
    """Whether the node, or one in its bodies, computes with a constant matrix, or is of a kind that does as a rule."""
    if all(name in graph.static for name in node.output if name):
        return False
    if any(subgraphs(node)):
        return any(_layers_inside(graph, body) for body in subgraphs(node))
    shapes = [graph.shapes.get(name, ()) for name in node.input if name in graph.static]
    known, column = find(node), node.op_type == "MatMul"
    matrix = any((len(shape) if column else sum(n > 1 for n in shape)) > 1 for shape in shapes)
    alone = node.op_type not in ("MatMul", "Gather")
    return matrix if known is None else known.linear is not None and (matrix or alone)


def _layers_inside(graph: Graph, body: GraphProto) -> bool:
    """Whether a body, or one in it, has a layer with weights of its own or of the graph around it."""
    matrices = {t.name for t in body.initializer if len(t.dims) > 1}
    matrices |= {name for name in graph.static if len(graph.shapes.get(name, ())) > 1}
    layers = [node for node in body.node if (known := find(node)) is not None and known.linear is not None]
    inside = (inner for node in body.node for inner in subgraphs(node))
    return any(not matrices.isdisjoint(node.input) for node in layers) or any(_layers_inside(graph, b) for b in inside)
