"""Which channels must be removed together: the graph is run on channel ids.

Every activation carries ids (see `ids`), every operator says what its output's ids are and which ids it ties
(`ops`), and the connected components of all ties are the channels that can be removed. Components that touch the same
tensors form a `Group`. Nothing in this file knows an operator by name. What no rule explains is frozen, with a reason.

Both probes of the graph are walked with the same ids of parameters, so a coupling has to hold for every size of the
symbolic dimensions. One invariant is enforced afterwards: the ids of a value vary along one axis only. Otherwise a
Reshape that splits channels (a shuffle, attention heads) couldn't be written for fewer of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import ModelError
from onnxprune.graph import QUANTIZED, Graph, fresh, key
from onnxprune.ids import Components, Ids, Ledger
from onnxprune.ops import Visit, find
from onnxprune.ops.linear import Linear, describe
from onnxprune.ops.registry import Notes, Parameter

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Member:
    """A slice of a tensor that goes with the channels: index [n, r] are channel i's places along the axis."""

    tensor: str
    axis: int
    role: str
    index: Ints


@dataclass(frozen=True)
class Group:
    """`channels` independently removable channels. `reads` [n, r] per reader: the input channels that channel i feeds.

    `cells` labels the channels whose counts must stay equal between labels (the groups of a grouped convolution);
    `stream` marks channels that pass through the sum of two activations, as in a residual network.
    """

    name: str
    components: Ints
    members: tuple[Member, ...]
    writers: tuple[int, ...]
    reads: dict[int, Ints]
    cells: Ints
    stream: bool

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.components)


@dataclass(frozen=True)
class Coupling:
    """The groups of a graph, its linear layers, and why everything else stays."""

    graph: Graph
    groups: tuple[Group, ...]
    left_alone: dict[int, str]  # node index of a layer -> why its output channels all stay
    notes: Notes
    components: Components
    _linears: dict[int, Linear | None] = field(default_factory=dict)

    def linear(self, index: int) -> Linear | None:
        """A node as a linear layer, if it is one."""
        if index not in self._linears:
            self._linears[index] = describe(self.graph, index)
        return self._linears[index]

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

    def __call__(self, name: str, axis: int) -> NDArray[np.bool_]:
        """Kept flags along one axis of a value, real length."""
        ids, length = self.coupling.notes.ids.get(name), self.coupling.graph.shapes[name][axis]
        if ids is None or ids.shape[axis] == 1:
            return np.ones(length, bool)
        return self.of(np.moveaxis(ids, axis, 0).reshape(length, -1)[:, 0])


def couple(graph: Graph) -> Coupling:
    """Find the groups. Raises ModelError for a quantized model, whose scales pruning would make meaningless."""
    quantized = next((n for n in graph.nodes if n.op_type in QUANTIZED), None)
    if quantized is not None:
        raise ModelError(
            f"the model is quantized ({quantized.op_type} '{quantized.name or key(quantized)}'); "
            "prune the floating-point model, then quantize the result."
        )
    ledger, walks = Ledger(), []
    for probe in graph.probes:
        notes = Notes()
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
    components = _one_axis(ledger, walks, graph)
    return _groups(graph, ledger, walks[0], components)


def _visit(v: Visit) -> None:
    """Apply the node's rule; without one, or without the shapes it needs, everything that the node touches stays."""
    if all(name in v.graph.static for name in v.node.output if name):
        return
    known = find(v.node)
    missing = [n for n in (*v.node.input, *v.node.output) if n and n not in v.probe.shapes]
    if known is None:
        v.freeze_all("is an operator that isn't known")
    elif missing:
        v.freeze_all(f"has a value of unknown shape ('{missing[0]}')")
    else:
        known.couple(v)
    for name in v.node.output:
        if name and name in v.probe.shapes and name not in v.notes.ids and name not in v.graph.static:
            v.notes.ids[name] = np.zeros((1,) * len(v.probe.shapes[name]), np.int64)


def _one_axis(ledger: Ledger, walks: Iterable[Notes], graph: Graph) -> Components:
    """Tie until the components of every value vary along one axis only; the innermost such axis wins."""
    while True:
        components, done = ledger.solve(), True
        for notes in walks:
            for name, ids in notes.ids.items():
                if sum(n > 1 for n in ids.shape) < 2:
                    continue
                labels = components.of(ids)
                varying = [a for a, n in enumerate(ids.shape) if n > 1 and (labels != labels.take([0], a)).any()]
                if len(varying) > 1:
                    rows = np.moveaxis(ids, varying[-1], 0).reshape(ids.shape[varying[-1]], -1)
                    ledger.tie(rows, rows[:, :1], f"'{name}' arranges channels along two axes")
                    done = False
        if done:
            return components


def _groups(graph: Graph, ledger: Ledger, notes: Notes, components: Components) -> Coupling:
    """Components that touch the same tensors in equal measure are the channels of one group."""
    ports = [*notes.parameters.items(), *notes.readers.items()]
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)  # component -> (port, position)
    for number, (_, ids) in enumerate(ports):
        for position, component in enumerate(components.of(ids).tolist()):
            if component >= 0 and component not in components.frozen:
                places[component].append((number, position))
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for component, where in places.items():
        alike[tuple(number for number, _ in where)].append(component)
    summed = {int(c) for ids in notes.streams for c in np.unique(components.of(ids))}
    groups, names = [], set[str]()
    for signature, members in alike.items():
        at = {n: np.asarray([[p for m, p in places[c] if m == n] for c in members], np.int64) for n in set(signature)}
        parameters = [(port, at[n]) for n in sorted(at) if isinstance(port := ports[n][0], Parameter)]
        reads = {port: at[n] for n in sorted(at) if not isinstance(port := ports[n][0], Parameter)}
        writers = tuple(i for i, y in notes.writers.items() if np.isin(components.of(y), members).any())
        cells = _cells(ledger, components, members)
        if cells is None:
            components.frozen.update(
                dict.fromkeys(members, "its channels can't be removed in equal number per conv group")
            )
        if cells is None or not reads or not parameters:
            continue
        made = [
            i for i in writers if any(p.role == "writer" and p.tensor in graph.nodes[i].input for p, _ in parameters)
        ]
        first = (made or writers or tuple(reads))[0]
        group = Group(
            fresh(graph.nodes[first].name or key(graph.nodes[first]), names),
            np.asarray(members, np.int64),
            tuple(Member(p.tensor, p.axis, p.role, index) for p, index in parameters),
            writers,
            reads,
            cells,
            len(made) > 1 and not summed.isdisjoint(members),
        )
        groups.append(group)
    groups.sort(key=lambda g: min(g.writers or g.reads))
    return Coupling(graph, tuple(groups), _left_alone(graph, ledger, notes, components, groups), notes, components)


def _cells(ledger: Ledger, components: Components, members: list[int]) -> Ints | None:
    """Labels of the channels whose counts must stay equal; None if the channels don't divide that way."""
    lookup = {component: i for i, component in enumerate(members)}
    labels = np.zeros(len(members), np.int64)
    for rows in ledger.partitions.values():
        counts = np.zeros((len(members), len(rows)), np.int64)
        for row, ids in enumerate(components.of(rows).tolist()):
            for component in ids:
                if component in lookup:
                    counts[lookup[component], row] += 1
        if (counts == counts[:, :1]).all():
            continue
        if (np.count_nonzero(counts, axis=1) != 1).any() or not (counts.sum(0) == counts.sum(0)[0]).all():
            return None
        labels = labels * len(rows) + counts.argmax(1)
    _, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return labels if (sizes == sizes[0]).all() else None


def _left_alone(
    graph: Graph, ledger: Ledger, notes: Notes, components: Components, groups: list[Group]
) -> dict[int, str]:
    """Every layer whose output channels all stay, with the reason."""
    prunable = {int(c) for g in groups for c in g.components}
    reasons = {}
    for index, node in enumerate(graph.nodes):
        if index in notes.writers:
            found = components.of(notes.writers[index]).tolist()
            if prunable.isdisjoint(found):
                known = (components.frozen[c] for c in found if c in components.frozen)
                reasons[index] = next(known, "no other layer reads its channels")
        elif _has_weights(graph, index):
            label = f"{node.op_type} '{node.name or key(node)}' "
            said = (reason for _, reason in ledger.freezes if reason.startswith(label))
            reasons[index] = next(said, label + "isn't an operator whose channels can be removed")
    return reasons


def _has_weights(graph: Graph, index: int) -> bool:
    """Whether the node computes with a constant matrix."""
    node = graph.nodes[index]
    if all(name in graph.static for name in node.output if name):
        return False
    shapes = [graph.shapes.get(name, ()) for name in node.input if name in graph.static]
    return find(node) is None and any(sum(n > 1 for n in shape) > 1 for shape in shapes)
