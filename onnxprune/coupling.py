"""Which channels must be removed together: the graph is run on channel ids.

Every activation carries ids (see `ids`), every operator says what its output's ids are and which ids it ties
(`ops`), and the connected components of all ties are the channels that can be removed. Components that touch the same
tensors form a `Group`. Nothing in this file knows an operator by name. What no rule explains is frozen, with a reason.

A matrix product may act on another axis than that of the channels. They pass through; but where they can't go anyway,
the graph is walked once more, and the product makes channels of its own (the hidden units of a mixer of places).
Likewise for copies: keys that all heads share can only go as a whole, so then the copies are the channels.

Both probes of the graph are walked with the same ids of parameters, so a coupling has to hold for every size of the
symbolic dimensions. One invariant is enforced afterwards: the ids of a value vary along one axis only. Otherwise a
Reshape that splits channels (a shuffle, attention heads) couldn't be written for fewer of them. The exception are
*lanes*, channels that lie side by side and of which each lane keeps equally many (the directions of an LSTM).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import gcd

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxprune import contrib
from onnxprune.bodies import subgraphs
from onnxprune.contrib import STANDARD
from onnxprune.errors import ModelError
from onnxprune.graph import Array, Graph, fresh, key
from onnxprune.ids import Components, Ids, Ledger, varying
from onnxprune.ops import Visit, find
from onnxprune.ops.linear import Linear, describe, loop, same, share
from onnxprune.ops.registry import Notes, Parameter, Rule
from onnxprune.ops.unfollowed import REASONS

Ints = NDArray[np.int64]

QUANTIZED = {*("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")}
OLDEST = 7  # the opset since which operands broadcast from the right
GRANULARITIES = ("auto", "tap", "channel")  # see `ops.linear`; auto: by taps, but by channels what is too wide for that
UNEQUAL = "its channels can't be removed in equal number from each group of a grouped convolution"
SINGLE = "each of its channels is the only one of a layer, of a part of its output or of a convolution group"
ONLY = "it makes only one channel"


@dataclass(frozen=True)
class Member:
    """A slice of a tensor that goes with the channels: index [n, r] are channel i's places along the axis.

    With `lanes`, places are counted through the elements of axis 0, each of which has channels of its own.
    """

    tensor: str
    axis: int
    role: str
    index: Ints
    lanes: bool = False

    def slices(self, array: Array) -> Array:
        """The tensor as [places, ...]."""
        moved = np.moveaxis(array, self.axis, 1 if self.lanes else 0)
        return moved.reshape(-1, *moved.shape[2:]) if self.lanes else moved


@dataclass(frozen=True)
class Part:
    """Where the dims of a head occur in a linear layer: output channels `places` [D] where `written`, else inputs.

    `side` is 1 for what the dims of side 0 are multiplied by.
    """

    layer: int
    places: Ints
    written: bool
    side: int


@dataclass(frozen=True)
class Group:
    """`channels` independently removable channels. `reads` [n, r] per reader: the input channels that channel i feeds.

    `loops` says the same of the nodes that make them and read them again a step later.
    `cells` labels the channels whose counts must stay equal between labels (the groups of a grouped convolution, the
    directions of a recurrent layer); `stream` marks those of a residual stream: sums of several layers' outputs, of
    which one has a longer way. Where the channels are dims of attention heads, `heads` says of each what belongs
    together when its dims are turned (see `heads`).
    """

    name: str
    components: Ints
    members: tuple[Member, ...]
    writers: tuple[int, ...]
    reads: dict[int, Ints]
    loops: dict[int, Ints]
    cells: Ints
    stream: bool
    heads: tuple[tuple[Part, ...], ...] = ()

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.components)

    @property
    def rows(self) -> int:
        """Rows that a channel owns in every tensor, at least: the size of an attention head, else 1."""
        return gcd(*(m.index.shape[1] for m in self.members))


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
        """A node as a linear layer, if it is one that can be fitted: its rows are told by the sizes of the inputs."""
        if index not in self._linears:
            found = describe(self.graph, index)
            found = self._folded(found) if found is not None else None
            if found is not None and found.input not in self.graph.uncounted:
                self._linears[index] = self._at_granularity(found)
            else:
                self._linears[index] = None
        return self._linears[index]

    def _folded(self, linear: Linear) -> Linear | None:
        """The layer with its tail; without it if its weight is read elsewhere, too, with another one behind."""
        users = self.graph.consumers[linear.weight] if linear.tail else []
        if len(users) > 1 and linear.weight not in self._alike:
            found = [describe(self.graph, i) for i in users]
            self._alike[linear.weight] = all(one is not None and same(one, linear) for one in found)
        return linear if self._alike.get(linear.weight, True) else describe(self.graph, linear.index, tail=False)

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
        """What stays of a value of the full size."""
        ids = self.coupling.notes.ids.get(name)
        if ids is None or not (axes := varying(self.coupling.components.free(ids))):
            return value
        *lanes, axis = axes
        if not lanes:
            return value.compress(self(name, axis), axis)
        flags = np.broadcast_to(self.of(ids), value.shape)
        return value[flags].reshape(*value.shape[:axis], -1, *value.shape[axis + 1 :])

    def feeds_back(self, index: int) -> bool:
        """Whether a node reads its own channels, and some of these go."""
        return any(not self.of(ids).all() for ids in self.coupling.notes.feedback.get(index, {}).values())

    def restated(self, name: str) -> bool:
        """Whether a computed size depends on a number of channels of which some go."""
        if name not in self.coupling.notes.ids:
            return False
        labels = self.coupling.components.of(self.coupling.notes.ids[name])
        return any(size in labels and not self.of(ids).all() for size, ids in self.coupling.components.sizes)


def couple(graph: Graph, by_rank: Collection[int] = ()) -> Coupling:
    """Find the groups; those of the products of activations `by_rank` (node indices) are dims of heads, not heads.

    Raises ModelError for a model of a kind that can't be pruned.
    """
    _demand_prunable(graph)
    apart: dict[int, str] = {}
    while True:
        ledger, walks = _walk(graph, frozenset(by_rank), apart)
        components = _one_axis(ledger, walks)
        while uneven := _uneven(ledger, walks[0], components):
            for rows in uneven:
                ledger.tie(rows, rows[:1], UNEQUAL)
            components = _one_axis(ledger, walks)
        stuck = {i: why for i, ids in walks[0].passing.items() if (why := components.why(ids))}
        moved = [*walks[0].passing.items(), *walks[0].copied.items()]
        stuck |= {i: SINGLE for i, ids in moved if components.one(ids)}
        if not stuck:
            return _groups(graph, ledger, walks[0], components)
        apart |= stuck


def _walk(graph: Graph, by_rank: frozenset[int], apart: dict[int, str]) -> tuple[Ledger, list[Notes]]:
    """What the operators say of each probe's ids."""
    ledger, walks = Ledger(), []
    for probe in graph.probes:
        notes = Notes(by_rank, apart=apart)
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


@dataclass(frozen=True)
class _Port:
    """Where channels occur: an axis of a constant, the input of a reader, or a part that is cut out of a value."""

    ids: Ids
    parameter: Parameter | None = None
    reader: int | None = None
    loop: int | None = None


@dataclass(frozen=True)
class _Places:
    """Where every component occurs; those that occur at the same ports, equally often, are channels of one group.

    alike: the ports [k] of each group -> its components [n] and the places [n, k] at these ports.
    """

    ports: list[_Port]
    alike: dict[tuple[int, ...], tuple[Ints, Ints]]


def _locate(notes: Notes, components: Components) -> _Places:
    """All occurrences of what isn't frozen; components in the order in which they occur."""
    ports = [_Port(ids, parameter=p) for p, ids in notes.parameters.items()]
    ports += [_Port(ids, reader=index) for index, ids in notes.readers.items()]
    ports += [_Port(ids, loop=index) for index, own in notes.feedback.items() for ids in own.values()]
    ports += [_Port(ids) for ids in notes.parts]
    labels = [components.free(port.ids).ravel() for port in ports]
    found = np.concatenate([np.zeros(0, np.int64), *labels])
    numbers = np.repeat(np.arange(len(ports)), [len(own) for own in labels])
    places = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(own)) for own in labels)])
    by_component = np.argsort(found, kind="stable")
    by_component = by_component[np.searchsorted(found[by_component], 0) :]  # without what is frozen, or no channel
    every, starts = np.unique(found[by_component], return_index=True)
    spans = np.split(by_component, starts[1:]) if len(every) else []
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i in np.argsort(by_component[starts]).tolist():
        alike[tuple(numbers[spans[i]].tolist())].append(i)
    return _Places(ports, {at: (every[own], places[np.stack([spans[i] for i in own])]) for at, own in alike.items()})


def _uneven(ledger: Ledger, notes: Notes, components: Components) -> list[Ids]:
    """Partitions that channels of one group don't keep even, however they are labelled: their rows have to be tied."""
    found = (_cells(ledger, components, channels)[1] for channels, _ in _locate(notes, components).alike.values())
    return [rows for rows in found if rows is not None]


def _groups(graph: Graph, ledger: Ledger, notes: Notes, components: Components) -> Coupling:
    """The groups of what can go."""
    located = _locate(notes, components)
    groups, names = [], set[str]()
    streams = _streams(ledger, notes)
    for signature, (channels, places) in located.alike.items():
        cells, _ = _cells(ledger, components, channels)
        if np.bincount(cells)[0] == 1:
            components.frozen.update(dict.fromkeys(channels.tolist(), SINGLE))
            continue
        at = [(located.ports[n], places[:, np.equal(signature, n)]) for n in sorted(set(signature))]
        group = _group(graph, notes, components, channels, at, cells, streams)
        if group is not None:
            groups.append(replace(group, name=fresh(group.name, names)))
    groups.sort(key=lambda g: min(g.writers or g.reads))
    return Coupling(graph, tuple(groups), _left_alone(graph, notes, components, groups), notes, components)


def _streams(ledger: Ledger, notes: Notes) -> list[Ids]:
    """Ids that pass through the sum of what different layers make."""
    maker = np.zeros(ledger.count, np.int64)
    for index, ids in notes.writers.items():
        maker[ids] = index + 1
    makers = [(a, set(maker[a].flat) - {0}, set(maker[b].flat) - {0}) for a, b in notes.sums]
    return [ids for ids, one, other in makers if one and other and one.isdisjoint(other)]


def _group(
    graph: Graph,
    notes: Notes,
    components: Components,
    channels: Ints,
    at: list[tuple[_Port, Ints]],
    cells: Ints,
    streams: list[Ids],
) -> Group | None:
    """The group of these components, or None if no layer reads them, or nothing would be saved."""
    named = [(port.parameter, index) for port, index in at if port.parameter is not None]
    members = tuple(Member(p.tensor, p.axis, p.role, index, p.lanes) for p, index in named)
    reads = {port.reader: index for port, index in at if port.reader is not None}
    loops = {port.loop: index for port, index in at if port.loop is not None}
    if not reads or not members:
        return None
    own = np.zeros(len(components.label) + 1, bool)  # the last one is for "no channel", component -1
    own[channels] = True
    writers = tuple(i for i, y in notes.writers.items() if own[components.of(y)].any())
    written = {m.tensor for m in members if m.role == "writer"}
    made = [i for i in writers if not written.isdisjoint(graph.nodes[i].input)]
    first = graph.nodes[(made or writers or tuple(reads))[0]]
    summed = any(own[components.of(ids)].any() for ids in streams)
    residual = len(made) > 1 and summed and _residual(graph, notes, components, reads, made)
    name = ("" if writers else "input of ") + (first.name or key(first))
    return Group(name, channels, members, writers, reads, loops, cells, residual)


def _residual(graph: Graph, notes: Notes, components: Components, reads: Iterable[int], made: Sequence[int]) -> bool:
    """Whether a layer that makes the channels depends on one that reads them, or that starts where another one starts.

    That is the branch of a residual block, whose shortcut is the identity or a layer of its own. Sums of layers side by
    side (towers, or the parallel convolutions of RepVGG) are none.
    """
    sources = [components.of(notes.readers[i]).ravel() for i in made if i in notes.readers]
    apart = {
        i for i, ids in notes.readers.items() if sources and np.isin(components.of(ids), np.concatenate(sources)).any()
    }
    starts = {*reads, *(apart - set(made))}
    reached = set[str]()
    for index in range(min(starts), max(made) + 1):
        node = graph.nodes[index]
        if index in starts or not reached.isdisjoint(node.input):
            if index in made:
                return True
            reached.update(filter(None, node.output))
    return False


def _cells(ledger: Ledger, components: Components, channels: Ints) -> tuple[Ints, Ids | None]:
    """Labels between which the numbers of channels must stay equal; and a partition that no labels keep even."""
    place = np.full(len(components.label) + 1, -1)  # the last one is for "no channel", component -1
    place[channels] = np.arange(len(channels))
    labels = np.zeros(len(channels), np.int64)
    for rows in ledger.partitions.values():
        found = place[components.of(rows)]
        inside = found >= 0
        counts = np.zeros((len(channels), len(rows)), np.int64)
        np.add.at(counts, (found[inside], np.nonzero(inside)[0]), 1)
        if (counts == counts[:, :1]).all():
            continue
        apart = np.count_nonzero(counts, axis=1) == 1
        _, finer, sizes = np.unique(labels * len(rows) + counts.argmax(1), return_inverse=True, return_counts=True)
        if not apart.all() or not (counts.sum(0) == counts.sum(0)[0]).all() or not (sizes == sizes[0]).all():
            return labels, rows
        labels = finer
    return labels, None


def _left_alone(graph: Graph, notes: Notes, components: Components, groups: list[Group]) -> dict[int, str]:
    """Every layer whose output channels all stay, with the reason."""
    prunable = {int(c) for g in groups for c in g.components}
    reasons = {}
    for index, node in enumerate(graph.nodes):
        if index in notes.writers:
            found = components.of(notes.writers[index]).tolist()
            if prunable.isdisjoint(found):
                known = (components.frozen[c] for c in found if c in components.frozen)
                reason = next(known, "no other layer reads its channels")
                reasons[index] = ONLY if reason == SINGLE and len(found) == 1 else reason
        elif index in notes.refused and _has_weights(graph, node):
            reasons[index] = notes.refused[index]
    return reasons


def _has_weights(graph: Graph, node: NodeProto) -> bool:
    """Whether the node computes with a constant matrix, or is an operator that does so as a rule."""
    if all(name in graph.static for name in node.output if name):
        return False
    shapes = [graph.shapes.get(name, ()) for name in node.input if name in graph.static]
    matrix = any(sum(n > 1 for n in shape) > 1 for shape in shapes)
    known = find(node)
    alone = node.op_type not in ("MatMul", "Gather")
    return matrix if known is None else known.linear is not None and (matrix or alone)
