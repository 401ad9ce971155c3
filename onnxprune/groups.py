"""Groups: channels that occur at the same places, equally often, and so can be removed one like the other.

A component of ties is one removable channel. Where it occurs is told by the notes of the walk: on axes of constants, as
inputs of layers, in parts that are cut out of a value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph import Array, Graph, fresh, key
from onnxprune.ids import Components, Ids, Ledger
from onnxprune.ops.registry import Notes, Parameter

Ints = NDArray[np.int64]

SINGLE = "each of its channels is the only one of a layer, of a part of its output or of a convolution group"


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
    together when its dims are turned (see `heads`); or they are `unturned` and go as they are.
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
    unturned: bool = False

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.components)

    @property
    def dims(self) -> bool:
        """Whether the channels are dims of attention heads."""
        return bool(self.heads) or self.unturned

    @property
    def rows(self) -> int:
        """Rows that a channel owns in every tensor, at least: the size of an attention head, else 1."""
        return gcd(*(m.index.shape[1] for m in self.members))


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


def uneven(ledger: Ledger, notes: Notes, components: Components) -> list[Ids]:
    """Partitions that channels of one group don't keep even, however they are labelled: their rows have to be tied."""
    found = (_cells(ledger, components, channels)[1] for channels, _ in _locate(notes, components).alike.values())
    return [rows for rows in found if rows is not None]


def grouped(graph: Graph, ledger: Ledger, notes: Notes, components: Components) -> tuple[Group, ...]:
    """The groups of what can go, by the layers that make it; what is alone in its cell is frozen."""
    located = _locate(notes, components)
    groups, names = [], set[str]()
    streams, steps = _streams(ledger, notes), _steps(graph, notes, components)
    made = [components.of(ids).ravel() for ids in notes.writers.values()]
    makers = np.repeat([*notes.writers], [len(own) for own in made]), np.concatenate([np.zeros(0, np.int64), *made])
    for signature, (channels, places) in located.alike.items():
        cells, _ = _cells(ledger, components, channels)
        if np.bincount(cells)[0] == 1:
            components.freeze(channels, SINGLE)
            continue
        at = [(located.ports[n], places[:, np.equal(signature, n)]) for n in sorted(set(signature))]
        group = _group(graph, notes, components, channels, at, cells, makers, streams, steps)
        if group is not None:
            groups.append(replace(group, name=fresh(group.name, names)))
    return tuple(sorted(groups, key=lambda g: min(g.writers or g.reads)))


def _streams(ledger: Ledger, notes: Notes) -> list[Ids]:
    """Ids that pass through the sum of what different layers make."""
    maker = np.zeros(ledger.count, np.int64)
    for index, ids in notes.writers.items():
        maker[ids] = index + 1
    makers = [(a, set(maker[a].flat) - {0}, set(maker[b].flat) - {0}) for a, b in notes.sums]
    return [ids for ids, one, other in makers if one and other and one.isdisjoint(other)]


def _steps(graph: Graph, notes: Notes, components: Components) -> dict[int, bool]:
    """Layers with weights that others have, too, and whether they read what they make.

    Those that do are steps of a recurrent layer in a row, if all that is added to what they make is repeated as well.
    """
    found = {}
    for index, made in notes.writers.items():
        weights = [name for name in graph.nodes[index].input if name in graph.static]
        if any(len(graph.consumers[name]) > 1 for name in weights):
            read = components.of(notes.readers.get(index, np.zeros(0, np.int64)))
            found[index] = bool(np.isin(read[read >= 0], components.of(made)).any())
    return found


def _group(
    graph: Graph,
    notes: Notes,
    components: Components,
    channels: Ints,
    at: list[tuple[_Port, Ints]],
    cells: Ints,
    makers: tuple[Ints, Ints],
    streams: list[Ids],
    steps: dict[int, bool],
) -> Group | None:
    """The group of these components, or None if no layer reads them, or nothing would be saved.

    makers: node indices of all layers that make channels, once for each, and the components of these. steps: see
    `_steps`; what they read of the step before is no shortcut.
    """
    named = [(port.parameter, index) for port, index in at if port.parameter is not None]
    members = tuple(Member(p.tensor, p.axis, p.role, index, p.lanes) for p, index in named)
    reads = {port.reader: index for port, index in at if port.reader is not None}
    loops = {port.loop: index for port, index in at if port.loop is not None}
    if not reads or not members:
        return None
    own = np.zeros(len(components.label) + 1, bool)  # the last one is for "no channel", component -1
    own[channels] = True
    writers = tuple(np.unique(makers[0][own[makers[1]]]).tolist())
    written = {m.tensor for m in members if m.role == "writer"}
    made = [i for i in writers if not written.isdisjoint(graph.nodes[i].input)]
    first = graph.nodes[(made or writers or tuple(reads))[0]]
    summed = len(made) > 1 and any(own[components.of(ids)].any() for ids in streams)
    again = {i for i, own in steps.items() if own} if steps.keys() >= set(made) else set[int]()
    ends = [i for i in made if i not in again]
    residual = summed and bool(ends) and _residual(graph, notes, components, reads, ends, again)
    name = ("" if writers else "input of ") + (first.name or key(first))
    return Group(name, channels, members, writers, reads, loops, cells, residual)


def _residual(
    graph: Graph, notes: Notes, components: Components, reads: Iterable[int], made: Sequence[int], steps: set[int]
) -> bool:
    """Whether a layer that makes the channels depends on one that reads them, or that starts where another one starts.

    That is the branch of a residual block, whose shortcut is the identity or a layer of its own. Sums of layers side by
    side (towers, or the parallel convolutions of RepVGG) are none.
    """
    sources = [components.of(notes.readers[i]).ravel() for i in made if i in notes.readers]
    apart = {
        i for i, ids in notes.readers.items() if sources and np.isin(components.of(ids), np.concatenate(sources)).any()
    }
    starts = {*reads, *(apart - set(made))} - steps
    reached = set[str]()
    for index in range(min(starts, default=max(made)), max(made) + 1):
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
