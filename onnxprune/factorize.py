"""Low-rank factors for attention heads: their dims are turned so that the last ones matter least.

What a head does with its dims is a product of two things: queries times keys, or values times the output projection.
With M₀ and M₁ the second moments [D, D] of the two, the matrix M₀^½ M₁^½ = U Σ Vᵀ says how far the product needs its
dims: no r dims have a smaller expected squared error than the sum of σᵢ² over i > r, and those that reach it are the
first r after one side was multiplied by T = M₁^½ V Σ^-½ and the other by S = M₀^½ U Σ^-½ = T^-ᵀ. As T Sᵀ is the
identity, turning changes nothing as long as all dims stay.

    queries, keys        M₀ and M₁ are the moments of the queries and of the keys, biases and means included
    values, projection   M₀ is the covariance of what the head really hands over, that is behind the attention weights;
                         M₁ is O Oᵀ for the rows O of the projection that read it (its bias takes up the means)

Several heads that share one (grouped queries) add their moments up. What is left out of the values is then made up for
by the projection's least squares, like any other layer's, and layers whose input has drifted are refitted to the turned
targets. The idea is that of SVD-LLM and of PALU (2024), here per head and with both sides' moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxprune import selection, unrepaired
from onnxprune.coupling import Coupling, Group, Part
from onnxprune.fitting import silent
from onnxprune.ops.linear import Later, Linear
from onnxprune.plan import Weights
from onnxprune.rewrite import with_weights
from onnxprune.selection import Ranking
from onnxprune.statistics import Moments

Float = NDArray[np.float64]
Ints = NDArray[np.int64]
Block = tuple[Ints, Float]  # channels of a layer, and the matrix [D, D] that they are multiplied by
FLOOR = 1e-6  # smallest variance of a direction, relative to the mean of all: keeps T and S finite


@dataclass(frozen=True)
class Turn:
    """How the heads of a group are turned: blocks by layer. tail [D + 1]: relative squared error of r dims compared."""

    columns: Mapping[int, Sequence[Block]]
    rows: Mapping[int, Sequence[Block]]
    tail: Float

    def on(self, places: Callable[[int], int]) -> Turn:
        """The same for a graph in which the layers stand in other places."""
        columns, rows = ({places(i): own for i, own in blocks.items()} for blocks in (self.columns, self.rows))
        return Turn(columns, rows, self.tail)


@dataclass(frozen=True)
class Turned:
    """A layer amid turned heads. `before` gives turned outputs for the inputs of the original, `after` for turned ones.

    `rows` are the blocks by which its inputs are turned.
    """

    before: Linear
    after: Linear
    rows: Sequence[Block]

    def moments(self, moments: Moments) -> Moments:
        """Moments of the turned inputs."""
        return moments.mixed(self._matrix()) if self.rows else moments

    def _matrix(self) -> Float:
        taps = np.arange(self.after.taps)
        matrix = np.eye(self.after.channels * self.after.taps)
        for places, block in self.rows:
            for rows in (places[:, None] * self.after.taps + taps).T:
                matrix[np.ix_(rows, rows)] = block
        return matrix


def factor(first: Float, second: Float) -> tuple[Float, Float, Float]:
    """T and S [D, D] with T Sᵀ = 1 for two second moments, and the squared singular values in descending order."""
    roots = [_root(moment) for moment in (first, second)]
    u, sigma, v = np.linalg.svd(roots[0] @ roots[1])
    return roots[1] @ v.T / np.sqrt(sigma), roots[0] @ u / np.sqrt(sigma), np.square(sigma)


def _root(moment: Float) -> Float:
    """The symmetric square root, every direction of which has some variance."""
    values, vectors = np.linalg.eigh((moment + moment.T) / 2)
    mean = float(np.mean(np.maximum(values, 0.0))) or 1.0
    root: Float = vectors * np.sqrt(np.maximum(values, 0.0) + FLOOR * mean) @ vectors.T
    return root


def turn(coupling: Coupling, group: Group, moments: Mapping[str, Moments]) -> Turn:
    """Turn all heads of a group, given the moments of what the layers in `measured` read."""
    columns, rows = dict[int, list[Block]](), dict[int, list[Block]]()
    tail = np.zeros(group.channels + 1)
    known = _Known(coupling, moments)
    for head in group.heads:
        sides = [np.zeros((group.channels, group.channels)) for _ in range(2)]
        compared = all(part.written for part in head)
        for part in head:
            if compared:
                sides[part.side] += known.made(part)
            elif not part.written:
                sides[part.side] += known.handed(part)
                sides[1 - part.side] += known.projected(part)
        *matrices, energy = factor(*sides)
        for part in head:
            (columns if part.written else rows).setdefault(part.layer, []).append((part.places, matrices[part.side]))
        if compared:
            tail[:-1] += np.cumsum(energy[::-1])[::-1]
    return Turn(columns, rows, tail / (tail[0] or 1.0))


class _Known:
    """Second moments [D, D] of the dims of heads."""

    def __init__(self, coupling: Coupling, moments: Mapping[str, Moments]) -> None:
        self.coupling, self.moments = coupling, moments

    def made(self, part: Part) -> Float:
        """E[y yᵀ] of outputs of a layer."""
        linear = self._linear(part)
        moments, weight = self.moments[linear.key], linear.matrix[0][:, part.places]
        mean = moments.mean @ weight + linear.offset[part.places]
        moment: Float = weight.T @ moments.gram_about(moments.mean) @ weight + np.outer(mean, mean)
        return moment

    def handed(self, part: Part) -> Float:
        """Covariance of inputs of a layer, summed over the taps of a kernel."""
        moments = self.moments[self._linear(part).key]
        gram = moments.gram_about(moments.mean)
        moment: Float = np.sum([gram[np.ix_(rows, rows)] for rows in self._rows(part)], axis=0)
        return moment

    def projected(self, part: Part) -> Float:
        """O Oᵀ for the rows O of a layer that read inputs."""
        matrix = self._linear(part).matrix[0]
        moment: Float = np.sum([matrix[rows] @ matrix[rows].T for rows in self._rows(part)], axis=0)
        return moment

    def _linear(self, part: Part) -> Linear:
        linear = self.coupling.linear(part.layer)
        assert linear is not None
        return linear

    def _rows(self, part: Part) -> list[Ints]:
        taps = self._linear(part).taps
        return [part.places * taps + tap for tap in range(taps)]


def measured(coupling: Coupling, group: Group) -> list[Linear]:
    """The layers of whose inputs the moments are needed: readers, and those that make dims which are compared.

    Where no layer that reads a group can be refitted, it is what is read itself.
    """
    compared = {part.layer for head in group.heads if all(p.written for p in head) for part in head}
    made = [linear for i in sorted(compared) if (linear := coupling.linear(i)) is not None]
    seen = unrepaired.seen(coupling, group)
    found = {linear.key: linear for linear in (*selection.readers(coupling, group), *made, *seen)}
    return list(found.values())


def layers(coupling: Coupling, turns: Iterable[Turn]) -> dict[int, Turned]:
    """All layers that these turns concern."""
    columns, rows = dict[int, list[Block]](), dict[int, list[Block]]()
    for one in turns:
        for total, blocks in ((columns, one.columns), (rows, one.rows)):
            for index, own in blocks.items():
                total.setdefault(index, []).extend(own)
    found = {}
    for index in columns.keys() | rows.keys():
        linear = coupling.linear(index)
        assert linear is not None
        offset = linear.offset.copy()
        for places, block in columns.get(index, []):
            offset[places] = linear.offset[places] @ block
        before = _made_of(linear, _turned_columns, columns.get(index, []), later=coupling.graph.big)
        before = replace(before, offset=offset)
        after = _made_of(before, _turned_rows, rows.get(index, []), later=coupling.graph.big)
        found[index] = Turned(before, after, rows.get(index, []))
    return found


def _made_of(
    linear: Linear, make: Callable[[Linear, Sequence[Block]], Float], blocks: Sequence[Block], *, later: bool
) -> Linear:
    """The layer with the matrix that is made of its own, or that will be when it is asked for."""
    held = Later(linear.shape, linear.dtype, partial(make, linear, blocks)) if later else make(linear, blocks)
    return replace(linear, held=held)


def _turned_columns(linear: Linear, blocks: Sequence[Block]) -> Float:
    """The matrix of the layer with its outputs turned."""
    own = linear.matrix
    matrix = own.copy()
    for places, block in blocks:
        matrix[0][:, places] = own[0][:, places] @ block
    return matrix


def _turned_rows(linear: Linear, blocks: Sequence[Block]) -> Float:
    """The matrix of the layer as it reads inputs that are turned."""
    own = linear.matrix
    matrix = own.copy()
    for places, block in blocks:
        for tap in range(linear.taps):
            rows = places * linear.taps + tap
            matrix[0][rows] = np.linalg.solve(block, own[0][rows])
    return matrix


def rank(
    coupling: Coupling,
    group: Group,
    moments: Mapping[str, Sequence[Moments]],
    allowed: Ints,
    *,
    predict: bool = True,
) -> tuple[Ranking, Turn]:
    """Turn the heads of a group; its dims go from the last to the first. See `selection.rank`."""
    whole = {linear.key: selection.whole(moments[linear.key]) for linear in measured(coupling, group)}
    found = turn(coupling, group, whole)
    turned = layers(coupling, [found])
    linears = [turned[linear.index].after for linear in selection.readers(coupling, group)]
    own = {linear.key: [turned[linear.index].moments(m) for m in moments[linear.key]] for linear in linears}
    order = np.arange(group.channels - 1, 0, -1)
    if not predict:
        return Ranking(group, order, allowed, selection.errors_of_white(linears, group, order)[allowed], {}), found
    problems = [selection.problem_of(linear, group, own[linear.key]) for linear in linears]
    dampings = selection.dampings_of(linears, group, problems, own)
    ranking = selection.judged(group, linears, problems, dampings, own, order, allowed, found.tail[allowed])
    mask = coupling.mask({group.name: ranking.kept(int(allowed[ranking.middle]))})
    trial = dict(ranking.trial)
    for index in found.columns:
        after = turned[index].after
        trial.setdefault(
            index, [with_weights(after, silent(coupling, mask, after, Weights(after.matrix, after.offset)))]
        )
    return replace(ranking, trial=trial), found
