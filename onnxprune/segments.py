"""What it costs to let blocks go and the one behind them do their work, at every width.

A segment is a run of blocks that become one (see `merging`), or a single block. Its error is measured at what its last
block adds up to, on the original's inputs: the first layers are fitted to what the first layers of all its blocks make,
one elimination orders all hidden channels, and least squares along that order gives the error at each width, judged on
samples that weren't fitted. How much of it reaches the final output is taken from the probe of the last block's own
channels (see `selection`). That the next block, refitted, makes up for some of it is left out: it does so for merged
blocks and narrower ones alike (of ResNet-56 0.6 to 0.9 of the error remain), and to choose by probes of that was no
better. Runs that begin with the same block share their sums: a shorter one is the leading part of a longer one. One
walk through the original serves all.

Blocks of other kinds go without a trace: the next few layers are refitted to what they gave before, on the inputs that
they get now, and the change of the final output is the block's error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune import oracle
from onnxprune.allocation import Curve
from onnxprune.blocks import find, residual, without
from onnxprune.correlation import Nested, square, squared_error
from onnxprune.cost import total_macs
from onnxprune.coupling import Coupling, Group, couple
from onnxprune.elimination import Problem, eliminate, ranked_rows
from onnxprune.evaluation import affordable, collected
from onnxprune.fitting import DEFAULT_DAMPING, refit
from onnxprune.graph import Array, Block, Graph
from onnxprune.merging import Branch, mergeable, merged
from onnxprune.ops.linear import Linear
from onnxprune.plan import Weights
from onnxprune.reconstruct import front_to_back
from onnxprune.rewrite import with_weights
from onnxprune.run import Run
from onnxprune.scope import may_go
from onnxprune.selection import NEGLIGIBLE, Ranking, change, whole
from onnxprune.statistics import Moments, draw, parted, positions_wanted
from onnxprune.steps import Ranked
from onnxprune.walk import Walk, layers_in_order, part

Float = NDArray[np.float64]
Ints = NDArray[np.int64]
SAMPLES = 512, 256  # to fit, and to judge by
MACS = 2e12  # multiplications for all removed blocks that more than the least samples may take
LEAST = 64  # samples to fit when a block is removed
AHEAD = 3  # layers, one behind the other, that make up for a removed block
WIDEST = 2500  # rows of a merged block's last layer
LONGEST = 3  # blocks that go into one; with four it takes a fifth longer to tell, and ResNet-56 loses no less


@dataclass(frozen=True)
class Segment:
    """`blocks` that become the last one of them, by what they make, and the `group` of its hidden channels then.

    The curve is in the unit of the final output. Other than a group's, its last error, that of all the channels of
    all the blocks, isn't 0, unless there is only one block.
    """

    blocks: tuple[str, ...]
    group: str
    curve: Curve


def segments(run: Run, ranked: Ranked, longest: int = LONGEST) -> list[Segment]:
    """All segments of at most `longest` blocks that go and one that stays, where that has one group of channels."""
    known = {r.group.name: _Known(r, c) for r, c in zip(ranked.rankings, ranked.curves, strict=True)}
    found, hidden = list[Segment](), dict[str, _Known]()
    blocks = {block.shortcut: block for block in find(run.coupling.graph)}
    for block in blocks.values():
        name = _group(run, block, known)
        if name:
            hidden[block.output] = known[name]
            found.append(Segment((block.output,), name, known[name].curve))
    chains = [_chain(run, block, blocks, hidden, longest) for block in blocks.values()]
    return found + _merged(run, [chain for chain in chains if len(chain) > 1], hidden)


@dataclass(frozen=True)
class _Known:
    """What is known of a block's own hidden channels."""

    ranking: Ranking
    curve: Curve

    @property
    def factor(self) -> float:
        """How much of the block's error, relative to the variance of what it adds, reaches the final output."""
        local = float(self.ranking.errors[self.ranking.middle])
        return float(self.curve.errors[self.ranking.middle]) / local if local > NEGLIGIBLE else 1.0


def _group(run: Run, block: Block, known: Mapping[str, _Known]) -> str:
    """The one group that may be pruned of what a residual block's first layers make and its last one reads, if so."""
    layers = Branch(run.coupling.graph, block).layers
    if len(layers) < 2:
        return ""
    for name, one in known.items():
        group = one.ranking.group
        if makes_all(group, layers[-1]) and layers[0].index in group.writers and len(set(group.cells)) == 1:
            return name
    return ""


def makes_all(group: Group, linear: Linear) -> bool:
    """Whether a group's channels, each in its place, are all that a layer reads."""
    reads = group.reads.get(linear.index)
    return reads is not None and np.array_equal(reads, np.arange(linear.channels)[:, None])


def _chain(
    run: Run, block: Block, blocks: Mapping[str, Block], hidden: Mapping[str, _Known], longest: int
) -> list[Block]:
    """A block and as many behind it as can be merged with it; all but the last one go."""
    graph, chain, rows = run.coupling.graph, list[Block](), 0
    behind: Block | None = block
    while behind is not None and behind.output in hidden and len(chain) <= longest:
        rows += Branch(graph, behind).layers[-1].size
        if rows > WIDEST or (chain and not (may_go(run, chain[-1]) and mergeable(graph, [*chain, behind]))):
            break
        chain.append(behind)
        behind = blocks.get(behind.output)
    return chain


def _merged(run: Run, chains: Sequence[Sequence[Block]], hidden: Mapping[str, _Known]) -> list[Segment]:
    """The segments of several blocks."""
    parts = [run.division.fit[: SAMPLES[0]], run.division.tune[: SAMPLES[1]]]
    fit, judge = (list(run.feeds(indices)) if len(indices) else [] for indices in parts)
    graph, found = run.coupling.graph, list[Segment]()
    with Walk(run.coupling, fit + judge, run.options.runtime, run.options.max_memory) as walk:
        ends = [(Branch(graph, chain[-1]).sum, chain) for chain in chains]
        for end, chain in ends:
            walk.keep(_needed(graph, chain), end)
        with run.timed("select") as progress:
            for done, (end, chain) in enumerate(sorted(ends, key=lambda pair: walk.place[pair[0]])):
                walk.advance(end)
                walk.recall([end])
                found += _Pool(run, walk, chain, len(fit), sum(map(len, parts))).segments(hidden)
                progress(done + 1, len(chains))
    return found


def _needed(graph: Graph, chain: Sequence[Block]) -> list[str]:
    """What has to be known of the original until the last sum of a chain."""
    branches = [Branch(graph, block) for block in chain]
    made = [layer.output for branch in branches for layer in branch.layers]
    sums = [name for branch in branches for name in graph.nodes[branch.sum].output]
    return [*made, *sums, chain[0].shortcut, *(layer.input for layer in branches[0].layers)]


class _Pool:
    """The channels of a chain of blocks, and all segments that begin with the first one.

    The walk stands where the last one adds up; the first `split` of its batches are fitted.
    """

    def __init__(self, run: Run, walk: Walk, chain: Sequence[Block], split: int, samples: int) -> None:
        self.run, self.walk, self.chain, self.split, self.samples = run, walk, chain, split, samples
        graph = run.coupling.graph
        self.graph = merged(graph, [[block.output for block in chain]])
        wide = next(block for block in find(self.graph) if block.output == chain[-1].output)
        branch, own = Branch(self.graph, wide), [Branch(graph, block) for block in chain]
        self.firsts = [layer for layer in branch.layers if layer.input in graph.producer]
        self.last, self.lasts = branch.layers[-1], [one.layers[-1] for one in own]
        self.sums = [graph.nodes[one.sum].output[0] for one in own]
        behind = {self.last.index, *self.last.tail, branch.sum, self.graph.producer[wide.output]}
        self.nodes = [i for i in wide.nodes if i not in behind.union(*(first.tail for first in self.firsts))]

    def segments(self, hidden: Mapping[str, _Known]) -> list[Segment]:
        """The segments of two blocks and more."""
        parts, powers = self._moments()
        fit, judge, everything = parts[0], parts[-1], whole(parts)
        grams = [one.gram_about(fit.mean) for one in (everything, fit, judge)]
        crosses = [one.cross_about(fit.mean, fit.target_mean) for one in (everything, fit, judge)]
        power = judge.power_about(fit.target_mean).reshape(len(powers) - 1, -1).sum(1)
        found, rows = list[Segment](), self.lasts[0].size
        for k, last in enumerate(self.lasts[1:], 1):
            rows += last.size
            columns = slice((k - 1) * len(last.offset), k * len(last.offset))
            known = hidden[self.chain[k].output]
            levels = _levels(known.ranking.levels, rows // last.taps)
            sums = [(gram[:rows, :rows], cross[:rows, columns]) for gram, cross in zip(grams, crosses, strict=True)]
            errors = self._errors(sums, power[k - 1], levels)
            names = tuple(block.output for block in self.chain[: k + 1])
            found.append(Segment(names, known.ranking.group.name, Curve(levels, errors * known.factor / powers[k])))
        return found

    def _errors(self, sums: Sequence[tuple[Float, Float]], power: float, levels: Ints) -> Float:
        """Squared error at each level by Gram and cross products of all rows, of those to fit and of those to judge."""
        (gram, cross), fit, judge = sums
        weight, channels = self.last.matrix[0][: len(gram)], np.arange(len(gram)).reshape(-1, self.last.taps)
        order = eliminate([Problem(gram, weight, channels, 1.0, cross)], damping=DEFAULT_DAMPING, keep=1).order
        rows = ranked_rows(channels, order, len(gram))
        nested = Nested(*fit, weight, rows, DEFAULT_DAMPING)
        gram, cross = square(judge[0], rows), judge[1][rows]
        errors = []
        for n in levels * self.last.taps:
            errors.append(squared_error(gram[:n, :n], cross[:n], power, nested.leading(n)))
        return np.maximum(errors, 0.0)

    def _moments(self) -> tuple[list[Moments], Float]:
        """Of what the last layer reads behind fitted first ones, towards all sums; and what the blocks add, squared."""
        last = self.last
        session = part(self.walk, self.graph, self.nodes, [last.input], self._fitted())
        added = list[Array]()

        def rows() -> Iterator[tuple[Array, Array]]:
            for number, batch in enumerate(self.walk.original):
                read = session.run({name: batch[name] for name in session.inputs})[last.input]
                places = self._places(last, read, number)
                start = last.outputs(batch[self.chain[0].shortcut], places)
                targets = [last.outputs(batch[name], places) - start for name in self.sums[1:]]
                added.append(np.stack([last.outputs(batch[one.output], places) for one in self.lasts]))
                yield last.sample(read, last.output_shape(read.shape), places), np.concatenate(targets, axis=1)

        parts = parted(rows(), self.split)
        return parts, np.concatenate(added, axis=1).var(1, dtype=np.float64).sum(1)

    def _fitted(self) -> dict[int, list[Linear]]:
        """The first layers, fitted to what all blocks' first layers make of their own inputs."""
        found = {}
        for first in self.firsts:
            beside = self.graph.reference
            names = beside.nodes[beside.producer[first.output]].input  # what the original makes in its place

            def rows(first: Linear = first, names: Sequence[str] = names) -> Iterator[tuple[Array, Array]]:
                for number, batch in enumerate(self.walk.original):
                    x = batch[first.input]
                    places = self._places(first, x, number)
                    targets = np.concatenate([first.outputs(batch[name], places) for name in names], axis=1)
                    yield first.sample(x, first.output_shape(x.shape), places), targets

            fit, *tune = parted(rows(), self.split)
            weights = refit(first, np.ones(first.channels, bool), fit, tune[0] if tune else None).weights
            found[first.index] = [with_weights(first, weights)]
        return found

    def _places(self, linear: Linear, x: Array, number: int) -> Ints:
        rng, shape = np.random.default_rng((self.run.options.seed, linear.index, number)), linear.output_shape(x.shape)
        return draw(rng, linear.count(x.shape, shape), positions_wanted(linear, self.samples, len(x), len(x)))


def _levels(own: Ints, channels: int) -> Ints:
    """Widths for a merged block: those that its last block may have, and on in their last step to twice its width."""
    more = np.arange(own[-1], 2 * own[-1] + 1, own[-1] - own[-2] if len(own) > 1 else own[-1])
    return np.union1d(own, more[more <= channels])


# ---------------------------------------------------------------------------------------------- removal


def removable(run: Run, beside: Iterable[Block]) -> list[Block]:
    """Residual blocks that may go and have nothing in common with one another or those `beside`; the smallest ones."""
    taken, found = {i for block in beside for i in block.nodes}, list[Block]()
    for block in sorted(residual(run.coupling.graph), key=lambda block: len(block.nodes)):
        if taken.isdisjoint(block.nodes) and may_go(run, block):
            taken.update(block.nodes)
            found.append(block)
    return sorted(found, key=lambda block: run.coupling.graph.producer[block.output])


def errors_without(run: Run, blocks: Sequence[Block]) -> list[float]:
    """Relative squared change of the final output when each block goes and layers behind it make up for that."""
    if not blocks:
        return []
    graph, division = run.coupling.graph, run.division
    signals, errors = oracle.signals(graph), list[float]()
    most = max(LEAST, min(SAMPLES[0], int(MACS // max(total_macs(graph) * len(blocks), 1))))
    fit, tune = np.split(division.fit[:most], [-(-3 * len(division.fit[:most]) // 4)])
    judge = (division.tune if len(division.tune) else division.fit)[: min(most // 2, affordable(graph, signals))]
    answers = _answers(run, run.coupling, {}, judge, signals)
    with run.timed("select") as progress:
        for done, block in enumerate(blocks):
            coupling = couple(without(graph, [block.output]))
            parts = [run.feeds(part) for part in (fit, tune) if len(part)]
            refits = front_to_back(
                coupling, {}, parts, len(fit) + len(tune), run.options.runtime, only=_ahead(coupling, block.output),
                seed=run.options.seed, max_memory=run.options.max_memory,
            )  # fmt: skip
            now = _answers(run, coupling, {name: found.weights for name, found in refits.items()}, judge, signals)
            errors.append(change(now, answers))
            progress(done + 1, len(blocks))
    return errors


def _ahead(coupling: Coupling, name: str) -> set[str]:
    """Keys of the layers behind a value, of at most `AHEAD` on a path."""
    depth, found = {name: 0}, set[str]()
    layers = {linear.index: linear.key for linear in layers_in_order(coupling)}
    for index, node in enumerate(coupling.graph.nodes):
        passed = [depth[read] for read in coupling.graph.reads(node) if read in depth]
        if passed and max(passed) < AHEAD:
            found.update([layers[index]] if index in layers else [])
        if passed:
            depth |= dict.fromkeys(node.output, max(passed) + (index in layers))
    return found


def _answers(
    run: Run, coupling: Coupling, weights: Mapping[str, Weights], indices: Ints, signals: Sequence[str]
) -> dict[str, Array]:
    """What a graph, some of whose layers have new weights, makes of samples."""
    replaced: dict[int, list[Linear]] = {}
    for name, new in weights.items():
        layer = with_weights(coupling.layers[name], new)
        replaced.setdefault(layer.index, []).append(layer)
    with Walk(coupling, run.feeds(indices), run.options.runtime, run.options.max_memory) as walk:
        return collected(walk.suffix(replaced, signals), walk.original)
