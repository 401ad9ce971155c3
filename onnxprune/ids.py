"""Channel ids: integer arrays that say, for every element of a value, which channel it belongs to.

An id array has the rank of its value; an axis along which nothing varies has length 1, whatever the value's real
length there, so ids stay as small as the structure they describe. Id 0 means "no channel". The `Ledger` collects what
the operators say about ids (tied, frozen, equal in number), and `Ledger.solve` turns it into connected components.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Ids = NDArray[np.int64]


def widen(ids: Ids, shape: Sequence[int], axes: Sequence[int] | None = None) -> Ids:
    """`ids` repeated to the real length along `axes` (all axes when None)."""
    full = [shape[a] if axes is None or a in axes else n for a, n in enumerate(ids.shape)]
    return np.broadcast_to(ids, full)


def varying(labels: Ids) -> list[int]:
    """The axes of an array along which anything varies."""
    return [a for a, n in enumerate(labels.shape) if n > 1 and (labels != labels.take([0], a)).any()]


def narrow(ids: Ids) -> Ids:
    """`ids` with every axis along which nothing varies cut to length 1."""
    for axis in range(ids.ndim):
        if ids.shape[axis] > 1 and (ids == ids.take([0], axis)).all():
            ids = ids.take([0], axis)
    return ids


def reshape(ids: Ids, old: Sequence[int], new: Sequence[int]) -> Ids:
    """The ids after Reshape from `old` to `new`; only the blocks of axes in which ids vary are written out."""
    pieces_in: list[int] = []
    pieces_out: list[int] = []
    widened = list(ids.shape)
    for rows, columns in _blocks(old, new):
        varies = any(ids.shape[a] != 1 for a in rows)  # none at all, where a part is empty
        for a in rows:
            widened[a] = old[a] if varies else 1
        pieces_in.append(prod(widened[a] for a in rows))
        pieces_out.extend(new[a] if varies else 1 for a in columns)
    return narrow(np.broadcast_to(ids, widened).reshape(pieces_out))


def _blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of axes of `old` and `new` with equal products, in order."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        rows, columns = [], []
        left = right = 1
        if i < len(old):
            rows, left, i = [i], old[i], i + 1
        if j < len(new):
            columns, right, j = [j], new[j], j + 1
        while left != right and (i < len(old) or j < len(new)):
            if (left < right or j == len(new)) and i < len(old):
                rows, left, i = [*rows, i], left * old[i], i + 1
            else:
                columns, right, j = [*columns, j], right * new[j], j + 1
        blocks.append((rows, columns))
    return blocks


@dataclass(frozen=True)
class Components:
    """What the ledger amounts to: a component number per id, and why some components can't lose channels."""

    label: Ids  # id -> component; -1 for id 0
    frozen: dict[int, str]  # component -> the first reason
    sizes: list[tuple[int, Ids]]  # component of a computed size -> ids of the channels that it counts

    def of(self, ids: Ids) -> Ids:
        """Component of each id; -1 for id 0."""
        return self.label[ids]

    def free(self, ids: Ids) -> Ids:
        """Component of each id; -1 for id 0 and for what is frozen."""
        return self._open[ids]

    def freeze(self, components: Ids, reason: str) -> None:
        """No channels of these components can go after all."""
        self.frozen.update(dict.fromkeys(components.tolist(), reason))
        self.__dict__.pop("_open", None)

    @cached_property
    def _open(self) -> Ids:
        return np.where(np.isin(self.label, list(self.frozen)), -1, self.label)

    def one(self, ids: Ids) -> bool:
        """Whether these can go, but only all at once."""
        labels = np.unique(self.free(ids))
        return len(labels) == 1 and int(labels[0]) >= 0

    def why(self, ids: Ids) -> str:
        """Why all of these stay; empty if any of them can go."""
        reasons = [self.frozen.get(int(component), "") for component in np.unique(self.of(ids[ids != 0]))]
        return reasons[0] if reasons and all(reasons) else ""


@dataclass
class Ledger:
    """What is known of ids: which belong together, which must stay, which must keep equal counts."""

    count: int = 1
    keys: dict[Hashable, Ids] = field(default_factory=dict)
    ties: list[tuple[Ids, Ids]] = field(default_factory=list)
    freezes: list[tuple[Ids, str]] = field(default_factory=list)
    dimensions: list[tuple[int, Ids]] = field(default_factory=list)
    rows: dict[int, Ids] = field(default_factory=dict)
    partitions: dict[Hashable, Ids] = field(default_factory=dict)
    lanes: list[Ids] = field(default_factory=list)

    def fresh(self, key: Hashable, n: int) -> Ids:
        """`n` ids that belong to `key`: the same ones whenever it is asked for again."""
        if key not in self.keys:
            self.keys[key] = np.arange(self.count, self.count + n)
            self.count += n
        return self.keys[key]

    def tie(self, a: Ids, b: Ids, reason: str) -> None:
        """The channels at equal (broadcast) places of `a` and `b` stay or go together; with id 0 they stay."""
        a, b = (x.ravel() for x in np.broadcast_arrays(a, b))
        self.freeze(np.where(a == 0, b, np.where(b == 0, a, 0)), reason)
        differ = (a != b) & (a != 0) & (b != 0)
        if differ.any():
            self.ties.append((a[differ], b[differ]))

    def freeze(self, ids: Ids, reason: str) -> None:
        """These channels stay, for this reason."""
        real = np.unique(ids[ids != 0])
        if real.size:
            self.freezes.append((real, reason))

    def measured(self, dimension: int, ids: Ids, axis: int) -> None:
        """`dimension` stands for the number of channels in `ids` along `axis`: if it is frozen, so are they."""
        self.dimensions.append((dimension, np.unique(ids[ids != 0])))
        self.rows[dimension] = np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)

    def derived(self, key: Hashable, sizes: Ids) -> int:
        """A number that is calculated from sizes: it counts nothing, but if it is frozen, so is what they count."""
        number = int(self.fresh(key, 1)[0])
        self.dimensions.append((number, np.concatenate([known for size, known in self.dimensions if size in sizes])))
        return number

    def sizes(self, ids: Ids) -> bool:
        """Whether these are ids of numbers of channels, not of channels."""
        return bool(np.isin(ids[ids != 0], [dimension for dimension, _ in self.dimensions]).all())

    def counts(self, dimension: int, ids: Ids) -> bool:
        """Whether `dimension` stands for the number of exactly these channels.

        Where each of them is one of a row of channels (a head), the row is tied to it.
        """
        real, rows, each = np.unique(ids[ids != 0]), self.rows.get(dimension), ids.reshape(-1, 1)
        if rows is None:  # calculated from a size
            return False
        if any(d == dimension and np.array_equal(known, real) for d, known in self.dimensions):
            return True
        if len(rows) != len(each) or not (rows == each).any(1).all():
            return False
        self.tie(rows, each, "a size counts them")
        return True

    def partition(self, key: Hashable, rows: Ids) -> None:
        """Every row of the matrix `rows` must lose equally many channels (conv groups, for example)."""
        self.partitions.setdefault(key, rows)

    def side_by_side(self, key: Hashable, rows: Ids) -> None:
        """A partition whose rows, its *lanes*, lie side by side along an axis of their own in some values."""
        if len(rows) > 1 and key not in self.partitions:
            self.partition(key, rows)
            self.lanes.append(rows)

    def lane_axes(self, ids: Ids) -> list[int]:
        """The axes along which lanes lie, if ids vary along others, too."""
        if not self.lanes or ids.size == 1:
            return []
        number = np.zeros(ids.shape, np.int64)
        for rows in self.lanes:
            for lane, row in enumerate(rows, 1):
                number[np.isin(ids, row)] = lane
        axes = varying(number)
        return axes if len(axes) < len(varying(ids)) else []

    def solve(self) -> Components:
        """Connected components of all ties, and the frozen ones with their reason."""
        empty = np.zeros(0, np.int64)
        a = np.concatenate([empty, *(t[0] for t in self.ties)])
        b = np.concatenate([empty, *(t[1] for t in self.ties)])
        links = coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(self.count, self.count))
        label = connected_components(links, directed=False)[1].astype(np.int64)
        frozen: dict[int, str] = {}
        for ids, reason in self.freezes:
            for component in np.unique(label[ids]):
                frozen.setdefault(int(component), reason)
        changed = True
        while changed:
            changed = False
            for dimension, ids in self.dimensions:
                reason = frozen.get(int(label[dimension]), "")
                for component in np.unique(label[ids]) if reason else ():
                    changed |= int(component) not in frozen
                    frozen.setdefault(int(component), reason)
        sizes = [(int(label[d]), ids) for d, ids in self.dimensions]
        label[0] = -1
        return Components(label, frozen, sizes)
