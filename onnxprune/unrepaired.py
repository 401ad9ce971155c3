"""Groups for which no layer that reads them makes up: their channels go as they are, whatever is repaired elsewhere.

Such readers can't be refitted (a deformable convolution, a product with matrices that data choose), or are products of
queries and keys whose dims can't be turned (see `heads`). What goes first is what changes least of what they make:

    queries, keys   Σ E[qᵢqⱼ] E[kᵢkⱼ] over the dims that go, for each head; the rest of a head's dims can't help
    other readers   E[x²] ‖w‖² for what they read and their weights, each as a share of that of all channels

Where nothing is repaired anyway and the method looks at weights alone, that decides instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune import selection
from onnxprune.coupling import Coupling, Group
from onnxprune.graph import key
from onnxprune.ids import Ids, varying
from onnxprune.methods import by_score
from onnxprune.ops.linear import Linear
from onnxprune.selection import Ranking
from onnxprune.statistics import Moments

Float = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """One of two values whose dims are compared, `seen` by a layer that isn't there.

    places [heads, D] are those of the dims among the channels of that layer, dims [D] their channels in the group.
    """

    seen: Linear
    places: Ints
    dims: Ints


def comparisons(coupling: Coupling, group: Group) -> list[tuple[Side, Side]]:
    """Both sides of the products by which unturned dims of a group are compared."""
    if not group.unturned:
        return []
    here = [(p.index, p.left, p.right) for p in coupling.notes.products if p.index in group.reads]
    return [
        (_side(coupling, group, i, left), _side(coupling, group, i, right))
        for i, left, right in here
        if right is not None
    ]


def _side(coupling: Coupling, group: Group, index: int, ids: Ids) -> Side:
    """Where a product (node index) has the dims with these ids [heads, D] of a group."""
    inputs = [coupling.notes.ids.get(name) for name in coupling.graph.nodes[index].input]
    place = next(i for i, known in enumerate(inputs) if known is not None and np.isin(ids, known).all())
    linear, flat = _seen_at(coupling, index, place)
    order = np.argsort(flat, kind="stable")
    heads = ids[np.isin(ids, flat).all(1)]
    return Side(linear, order[np.searchsorted(flat, heads, sorter=order)], _channels(coupling, group, ids[0]))


def _channels(coupling: Coupling, group: Group, ids: Ids) -> Ints:
    """The channel of a group to which each id belongs; -1 for others."""
    number = np.full(len(coupling.components.label) + 1, -1)  # the last one is for "no channel", component -1
    number[group.components] = np.arange(group.channels)
    return number[coupling.components.of(ids)]


def _seen_at(coupling: Coupling, index: int, place: int) -> tuple[Linear, Ids]:
    """An input of a node as a layer would read it, and the id of each channel of that layer.

    Heads that lie along an axis of their own, of which no size of a batch is a part, are told apart.
    """
    node = coupling.graph.nodes[index]
    name = node.input[place]
    ids, labels = coupling.notes.ids[name], coupling.components
    axis, rank = varying(labels.of(ids))[-1], ids.ndim
    others = [a for a in varying(ids) if a != axis]
    lengths = {probe.shapes[name][a] for probe in coupling.graph.probes for a in others}
    lane = others[0] if len(others) == 1 and lengths == {ids.shape[others[0]]} else None
    rows = np.moveaxis(ids, axis, -1) if lane is None else np.moveaxis(ids, [lane, axis], [-2, -1])
    first = rows[(0,) * (rank - (1 if lane is None else 2))].ravel()
    matrix, at = np.zeros((1, len(first), 1)), None if lane is None else lane - rank
    unseen = f"{key(node)}/{place}", name, "", "", ""
    return Linear(index, *unseen, matrix, np.zeros(1), axis=axis - rank, lane_axis=at), first


def seen(coupling: Coupling, group: Group) -> list[Linear]:
    """Layers that aren't there, and read what the readers of a group read, where not all of these can be refitted."""
    if group.heads or selection.readers(coupling, group):
        return []
    pairs = comparisons(coupling, group)
    places = coupling.notes.places
    found = [side.seen for pair in pairs for side in pair]
    return found or [_seen_at(coupling, index, places[index])[0] for index in group.reads]


def rank(coupling: Coupling, group: Group, moments: Mapping[str, Sequence[Moments]], allowed: Ints) -> Ranking:
    """The channels of a group by what is lost without them, and that as a share of all at the allowed widths."""
    whole = {linear.key: selection.whole(moments[linear.key]) for linear in seen(coupling, group)}
    pairs = comparisons(coupling, group)
    error = _compared(group, pairs, whole) if pairs else np.diag(_read(coupling, group, whole))
    order = by_score(np.argsort(_backwards(error)).astype(np.float64), group.cells)
    among = np.append(order, np.setdiff1d(np.arange(group.channels), order))
    gone = np.cumsum(np.cumsum(error[np.ix_(among, among)], 0), 1).diagonal()
    errors = np.append(np.maximum(gone, 0.0)[::-1], 0.0) / (float(error.sum()) or 1.0)
    return Ranking(group, order, allowed, errors[allowed], {})


def _compared(group: Group, pairs: Sequence[tuple[Side, Side]], moments: Mapping[str, Moments]) -> Float:
    """Σ E[qᵢqⱼ] E[kᵢkⱼ] over heads, for all pairs of dims [n, n]."""
    error = np.zeros((group.channels, group.channels))
    for pair in pairs:
        one, other = (moments[side.seen.key].gram_about(np.zeros(side.seen.channels)) for side in pair)
        dims = pair[0].dims
        for left, right in zip(*(side.places for side in pair), strict=True):
            np.add.at(error, (dims[:, None], dims), one[np.ix_(left, left)] * other[np.ix_(right, right)])
    return error


def _read(coupling: Coupling, group: Group, moments: Mapping[str, Moments]) -> Float:
    """E[x²] ‖w‖² of each channel [n]."""
    power, weight = np.zeros(group.channels), np.zeros(group.channels)
    for index in group.reads:
        linear, ids = _seen_at(coupling, index, coupling.notes.places[index])
        own, found = _channels(coupling, group, ids), moments[linear.key]
        squares = np.where(own < 0, 0.0, found.variances + np.square(found.mean))
        power += np.bincount(np.maximum(own, 0), squares, group.channels) / (float(squares.sum()) or 1.0)
    for member in group.members:
        if member.role == "reader":
            tensor = member.slices(coupling.graph.array(member.tensor)).astype(np.float64)
            squares = np.square(tensor.reshape(len(tensor), -1)).sum(1)[member.index].sum(1)
            weight += squares / (float(squares.sum()) or 1.0)
    return power * (weight if weight.any() else 1.0)


def _backwards(error: Float) -> Ints:
    """All channels, each the one that adds least to Σ error over those that are gone."""
    added, order = error.diagonal().copy(), []
    for _ in range(len(error)):
        order.append(int(np.argmin(added)))
        added += 2 * error[order[-1]]
        added[order[-1]] = np.inf
    return np.asarray(order)
