"""Dims of attention heads as channels: where that is possible, and what belongs together.

Between the values and the output projection of a head, and between its queries and keys, stand only movement, sums over
positions and scaling. So the dims of a head may be turned: the columns of the layers on one side are multiplied by a
matrix T, and what meets them on the other side by the inverse of it. `factorize` turns them so that the last dims
matter least; here is found out which dims that is true of.

A *head* is one set of D dims with all its parts: the layers that make it (or several of it, as query heads that share
a key head) and those that read it. All heads of a group lose equally many dims. An operator stands in the way unless
its rule says that it commutes with a matrix. The dims of a group in which one does go as they are, if linear layers
make them, or stay; if that holds for all of an attention block, its heads are offered instead, unless more goes with
the dims.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from onnxprune.coupling import Coupling, Group, Part, couple
from onnxprune.errors import DataError
from onnxprune.graph import Graph, key
from onnxprune.ids import Ids
from onnxprune.ops.linear import Linear
from onnxprune.ops.registry import Product

Dims = tuple[int, ...]  # the ids of a head's dims, in the order of the group's channels
ATTENTION = ("auto", "heads", "rank")
NEARLY = 0.75  # of what goes with whole heads; without queries and keys it is about half


class _Stays(Exception):
    """Why the dims of a group can't be turned."""


def attend(graph: Graph, attention: str = "heads", granularity: str = "auto", *, turn: bool = True) -> Coupling:
    """Couple a graph with whole heads as channels ("heads"), or with dims of heads.

    "rank": wherever some dims of an attention block can be turned; "auto": only where nearly as much can go as with
    whole heads. Dims of blocks in which none can be turned are channels where more goes with them, as where there is
    only one head. Without `turn` this holds for all.
    """
    by_heads = _coupled(graph, (), granularity)
    if attention == "heads" or not by_heads.notes.heads:
        return by_heads
    everywhere = _offered(_coupled(graph, by_heads.notes.heads, granularity), turn)
    turned, unturned = set[int](), set[int]()
    for block, own in _blocks(by_heads):
        whole = [group for group in by_heads.groups if not own.isdisjoint(group.components.tolist())]
        dims = [g for g in everywhere.groups if g.dims and any(p.index in block for p in _products(everywhere, g))]
        most, found = _size(by_heads, whole), _size(everywhere, dims)
        if any(g.heads for g in dims) and (attention == "rank" or found >= NEARLY * most):
            turned |= block
        elif found > most:
            unturned |= block

    def by_dims(chosen: set[int]) -> Coupling:
        if not chosen:
            return by_heads
        return everywhere if chosen == by_heads.notes.heads else _offered(_coupled(graph, chosen, granularity), turn)

    least = by_dims(turned)
    if not unturned:
        return least
    more = by_dims(turned | unturned)
    return more if _size(more, more.groups) > _size(least, least.groups) else least


def _size(coupling: Coupling, groups: Sequence[Group]) -> float:
    """The elements of all slices of tensors that go with the channels of groups, but for streams."""
    slices = [(coupling.graph.shapes[m.tensor], m) for group in groups if not group.stream for m in group.members]
    return sum(m.index.size * prod(shape) / shape[m.axis] / (shape[0] if m.lanes else 1) for shape, m in slices)


def _coupled(graph: Graph, by_rank: Collection[int], granularity: str) -> Coupling:
    return replace(couple(graph, by_rank), granularity=granularity)


def restored(graph: Graph, by_rank: Sequence[str], granularity: str = "auto") -> Coupling:
    """The coupling of a plan, which names the products by their nodes' keys; DataError if one isn't there."""
    unknown = [name for name in by_rank if name not in graph.producer]
    if unknown:
        raise DataError(
            f"the plan names a node '{unknown[0]}' that this model doesn't have; was it made for another one?"
        )
    chosen = [graph.producer[name] for name in by_rank]
    return _offered(_coupled(graph, chosen, granularity))


def names(coupling: Coupling) -> tuple[str, ...]:
    """Keys of the products whose channels are dims of heads."""
    return tuple(key(coupling.graph.nodes[i]) for i in sorted(coupling.by_rank))


def _blocks(coupling: Coupling) -> list[tuple[set[int], set[int]]]:
    """Products that have heads in common, and the components of all that they read and make."""
    blocks: list[tuple[set[int], set[int]]] = []
    for index in sorted(coupling.notes.heads):
        node, own = coupling.graph.nodes[index], set[int]()
        for name in (*node.input, *node.output):
            if name in coupling.notes.ids:
                own |= set(np.unique(coupling.components.of(coupling.notes.ids[name])).tolist()) - {-1}
        joined = [block for block in blocks if not own.isdisjoint(block[1])]
        blocks = [block for block in blocks if block not in joined]
        blocks.append(({index}.union(*(b[0] for b in joined)), own.union(*(b[1] for b in joined))))
    return blocks


def _offered(coupling: Coupling, turn: bool = True) -> Coupling:
    """The coupling with the heads of every group of dims, if they can be turned; else they go as they are, or stay."""
    groups, left_alone = list[Group](), dict(coupling.left_alone)
    for group in coupling.groups:
        if not _products(coupling, group):
            groups.append(group)
            continue
        try:
            found = replace(group, heads=_Finder(coupling, group).heads())
        except _Stays as reason:
            if not _go_as_they_are(coupling, group):
                left_alone |= dict.fromkeys(group.writers, f"the dims of its heads can't be factorized: {reason}")
                continue
            found = replace(group, unturned=True)
        groups.append(found if turn else replace(group, unturned=True))
    return replace(coupling, groups=tuple(groups), left_alone=dict(sorted(left_alone.items())))


def _go_as_they_are(coupling: Coupling, group: Group) -> bool:
    """Whether dims that can't be turned can be told apart: linear layers make them, and they are compared or read.

    Those of a single head may be both, as embeddings that are multiplied by each other beside a layer that reads them.
    """
    compared = {p.index for p in coupling.notes.products if p.right is not None}
    made = [coupling.linear(i) for i in group.writers]
    apart = group.reads.keys() <= compared or compared.isdisjoint(group.reads) or group.rows == 1
    return apart and all(linear is not None and linear.output for linear in made)


def _products(coupling: Coupling, group: Group) -> list[Product]:
    """The products whose dims are the channels of a group."""
    return [p for p in coupling.notes.products if np.isin(coupling.components.of(p.left), group.components).any()]


class _Finder:
    """Finds the heads of one group of dims; raises _Stays where something stands in the way."""

    def __init__(self, coupling: Coupling, group: Group) -> None:
        self.coupling, self.group = coupling, group
        self.number = {int(c): i for i, c in enumerate(group.components)}
        self.owner: dict[int, Dims] = {}  # id -> the dims that it is one of
        self.partners: dict[Dims, set[Dims]] = {}  # dims -> those that they are multiplied by
        self.parts: dict[Dims, list[Part]] = {}

    def heads(self) -> tuple[tuple[Part, ...], ...]:
        """All heads, each with all its parts."""
        self._meet()
        linears = [self._linear(i) for i in self.group.writers]
        self._demand_straight({i for linear in linears for i in (linear.index, *linear.tail)})
        self.parts = {dims: [] for dims in self.partners}
        for linear in linears:
            self._find(linear.index, self.coupling.notes.writers[linear.index], written=True)
        if any(len(parts) != 1 for parts in self.parts.values()):
            raise _Stays("they aren't made by one layer")
        compared = {p.index for p in self.coupling.notes.products if p.right is not None}
        for index in self.group.reads.keys() - compared:
            self._find(self._linear(index).index, self.coupling.notes.readers[index], written=False)
        return tuple(self._head(dims) for dims in self._components())

    def _meet(self) -> None:
        """Which dims are multiplied by which."""
        for product in _products(self.coupling, self.group):
            rows = [product.left] if product.right is None else [product.left, product.right]
            for pair in zip(*rows, strict=True):
                dims = [self._dims(ids) for ids in pair]
                if len(dims) > len(set(dims)):
                    raise _Stays("they are multiplied by themselves")
                for one in dims:
                    self.partners.setdefault(one, set()).update(other for other in dims if other != one)

    def _dims(self, ids: Ids) -> Dims:
        """Ids of a head's dims in the order of the group's channels."""
        numbers = [self.number.get(int(c), -1) for c in self.coupling.components.of(ids)]
        if sorted(numbers) != list(range(self.group.channels)):
            raise _Stays("they don't go one by one")
        dims = tuple(ids[np.argsort(numbers)].tolist())
        if any(self.owner.setdefault(i, dims) != dims for i in dims):
            raise _Stays("they are used in different orders")
        return self.owner[dims[0]]

    def _linear(self, index: int) -> Linear:
        linear = self.coupling.linear(index)
        if linear is None or linear.conv_group > 1 or not linear.output:
            raise _Stays(f"{self.coupling.layer(index)} isn't a layer whose weights can be turned")
        if linear.shared is not None:
            raise _Stays(f"{self.coupling.layer(index)} isn't fitted weight by weight")
        return linear

    def _demand_straight(self, own: set[int]) -> None:
        """Nothing but the layers themselves (nodes `own`) treats the dims one by one."""
        components = self.coupling.components
        touching = [
            i for i, ids in self.coupling.notes.bends if np.isin(components.of(ids), self.group.components).any()
        ]
        for parameter, ids in self.coupling.notes.parameters.items():
            if parameter.role == "parameter" and np.isin(components.of(ids), self.group.components).any():
                touching.append(-1 if parameter.user is None else parameter.user)
        for index in touching:
            if index not in own:
                raise _Stays(
                    f"{self.coupling.graph.nodes[index].op_type} '{self.coupling.layer(index)}' stands between"
                )

    def _find(self, index: int, ids: Ids, written: bool) -> None:
        """Note where a layer makes or reads dims: of all of them equally often."""
        places: dict[Dims, dict[int, list[int]]] = {}
        mine = np.isin(self.coupling.components.of(ids), self.group.components)
        for place in np.flatnonzero(mine).tolist():
            dims = self.owner.get(int(ids[place]))
            if dims is None:
                raise _Stays(f"{self.coupling.layer(index)} has a part in them")
            places.setdefault(dims, {}).setdefault(int(ids[place]), []).append(place)
        for dims, found in places.items():
            if len({len(found.get(i, [])) for i in dims}) != 1:
                raise _Stays(f"{self.coupling.layer(index)} doesn't use all of them alike")
            for copy in zip(*(found[i] for i in dims), strict=True):
                self.parts[dims].append(Part(index, np.asarray(copy, np.int64), written, 0))

    def _components(self) -> list[dict[Dims, int]]:
        """Dims that belong together, each with its side."""
        found: list[dict[Dims, int]] = []
        for start in self.partners:
            if any(start in sides for sides in found):
                continue
            sides, stack = {start: 0}, [start]
            while stack:
                dims = stack.pop()
                for other in self.partners[dims]:
                    if other not in sides:
                        sides[other] = 1 - sides[dims]
                        stack.append(other)
                    elif sides[other] == sides[dims]:
                        raise _Stays("they are multiplied by themselves")
            found.append(sides)
        return found

    def _head(self, sides: dict[Dims, int]) -> tuple[Part, ...]:
        """The parts of dims that belong together: of layers that make what is compared, or that make it and read it."""
        parts = tuple(replace(part, side=side) for dims, side in sides.items() for part in self.parts[dims])
        read = sum(not part.written for part in parts)
        if len(sides) > 1 and read:
            raise _Stays("they are both compared and read")
        if len(sides) == 1 and not read:
            raise _Stays("no layer reads them")
        return parts
