"""Runs of residual blocks as one wide block each.

Of consecutive blocks that add to the same stream, all but the last are taken out, and their hidden channels join those
of the last one: x + f₁(x) + f₂(x + f₁(x)) ≈ x + f₁(x) + f₂(x). The first layers stand side by side, the last ones add
up. That alone is a rough start. But the wide block is an ordinary one, so that it is refitted front to back: its first
layers to what the first layers of all these blocks really gave, its last one to what the last block really added up
to. Then its hidden channels are pruned like any others. The result costs as much as if blocks had been taken out, and
loses less.

What the wide block should make isn't told by weights, because they read another input now. So the graph knows what it
is to be fitted to (`standard`): the original, with nodes that put side by side what the layers in question make there.
What a layer of the wide block makes has the name of what such a node makes.

Blocks can be merged if their branches are built alike: layers with constant weights and, between them, what treats
every element by itself. What stands before the first layers (a normalization) is that of the run's first block alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from onnx import NodeProto, helper
from scipy.linalg import block_diag

from onnxprune.assembly import Draft, copied
from onnxprune.blocks import SILENT, find, source, without
from onnxprune.errors import DataError
from onnxprune.graph import Block, Graph, attributes, key
from onnxprune.ops.elementwise import elementwise_alone
from onnxprune.ops.linear import Linear, describe
from onnxprune.plan import Plan
from onnxprune.rewrite import renewed_nodes


class _Unlike(Exception):
    """Why some blocks can't be merged."""


def merged(graph: Graph, runs: Iterable[Sequence[str]]) -> Graph:
    """The graph with each run of blocks, given by what they make, as one block. DataError if one can't be merged."""
    listed = tuple(tuple(run) for run in runs)
    if not listed:
        return graph
    if len({name for run in listed for name in run}) < sum(map(len, listed)):
        raise DataError("a block can be merged only once.")
    known = {block.output: block for block in find(graph)}
    draft, instead, beside = Draft(graph), dict[int, list[NodeProto]](), list[NodeProto]()
    for run in listed:
        if unknown := [name for name in run if name not in known]:
            raise DataError(f"'{unknown[0]}' isn't made by a residual block; was the plan made for this model?")
        try:
            wide = _Wide(draft, [known[name] for name in run])
        except _Unlike as reason:
            raise DataError(f"the blocks that make {', '.join(run)} can't be merged: {reason}") from None
        instead[wide.branches[-1].sum] = wide.nodes
        beside += wide.targets
    nodes = [new for i, node in enumerate(graph.nodes) for new in instead.get(i, [node])]
    return replace(draft.graph_of(nodes), standard=draft.graph_of([*graph.nodes, *beside]), merged=listed)


def planned(graph: Graph, plan: Plan) -> Graph:
    """The graph that a plan's channels and weights are those of: its runs of blocks merged, and others taken out."""
    return without(merged(graph, plan.merged), plan.removed)


def passed(graph: Graph) -> set[str]:
    """What those blocks of the original made that a graph lacks, because they were taken out or merged with others."""
    return {*graph.removed, *(name for run in graph.merged for name in run[:-1])}


def mergeable(graph: Graph, blocks: Sequence[Block]) -> bool:
    """Whether these blocks can be merged."""
    try:
        _Wide(Draft(graph), blocks)
    except _Unlike:
        return False
    return True


@dataclass(frozen=True)
class Branch:
    """A residual block taken apart. Copies (Identity) are passed by."""

    graph: Graph
    block: Block

    @cached_property
    def sum(self) -> int:
        """The node that adds the branch to the shortcut."""
        index = self.graph.producer[self.block.output]
        if self.graph.nodes[index].op_type != "Add":  # the activation behind it
            index = self.graph.producer.get(self.graph.nodes[index].input[0], index)
        return index

    @cached_property
    def side(self) -> int:
        """Which input of the sum is the branch."""
        node = self.graph.nodes[self.sum]
        other = [source(self.graph, name) != self.block.shortcut for name in node.input]
        if node.op_type != "Add" or sum(other) != 1:
            raise _Unlike("one of them isn't a residual block")
        return other.index(True)

    @cached_property
    def end(self) -> str:
        """What the branch makes."""
        return source(self.graph, self.graph.nodes[self.sum].input[self.side])

    @cached_property
    def parts(self) -> list[Linear | NodeProto]:
        """The branch's layers, each with its tail, and other nodes in the order of the file."""
        passed = {self.sum, self.graph.producer[self.block.output]}
        found = list[Linear | NodeProto]()
        for index in self.block.nodes:
            node = self.graph.nodes[index]
            if index not in passed and key(node) not in self.graph.static and node.op_type not in SILENT:
                linear = describe(self.graph, index)
                passed.update(linear.tail if linear is not None else ())
                found.append(node if linear is None else linear)
        return found

    def reads(self, part: Linear | NodeProto) -> list[int]:
        """Which parts make what a part reads of all that isn't constant; the shortcut counts as -1."""
        place = {self.block.shortcut: -1} | {_made(p): i for i, p in enumerate(self.parts)}
        values = [part.input] if isinstance(part, Linear) else self.graph.reads(part)
        values = [source(self.graph, name) for name in values if name not in self.graph.static]
        if any(name not in place for name in values):
            raise _Unlike("one of them reads a value from elsewhere")
        return [place[name] for name in values]

    @property
    def layers(self) -> list[Linear]:
        """The layers among the parts."""
        return [part for part in self.parts if isinstance(part, Linear)]


def _made(part: Linear | NodeProto) -> str:
    return part.output if isinstance(part, Linear) else key(part)


class _Wide:
    """Several blocks as one: the `nodes` in the place of the last one's sum, and `targets` for the standard."""

    def __init__(self, draft: Draft, blocks: Sequence[Block]) -> None:
        self.draft, self.graph = draft, draft.base
        self.branches = [Branch(self.graph, block) for block in blocks]
        self.nodes: list[NodeProto] = []
        self.targets: list[NodeProto] = []
        self._demand_run(blocks)
        self.values: dict[int, str] = {-1: blocks[0].shortcut}  # by the part that makes it
        self.wide: dict[int, int] = {}  # the axis of channels of what the branches make apart
        for place, parts in enumerate(zip(*(branch.parts for branch in self.branches), strict=True)):
            reads = self._alike(parts)
            layers = [part for part in parts if isinstance(part, Linear)]
            if layers:
                self._layer(place, layers, reads[0])
            else:
                self._node(place, [part for part in parts if isinstance(part, NodeProto)], reads)
        self._add()

    def _demand_run(self, blocks: Sequence[Block]) -> None:
        if len(blocks) < 2:
            raise _Unlike("there is only one")
        for before, after in pairwise(blocks):
            if after.shortcut != before.output:
                raise _Unlike("they don't follow each other")
            read = self.graph.consumers[before.output]
            if before.output in self.graph.outputs or not set(after.nodes).issuperset(read):
                raise _Unlike(f"'{before.output}' is read elsewhere, too")
        if len({(branch.end == _made(branch.parts[-1]), len(branch.parts)) for branch in self.branches}) > 1:
            raise _Unlike("they aren't built alike")

    def _alike(self, parts: Sequence[Linear | NodeProto]) -> list[int]:
        """Which parts these parts read, one of each branch, if they are of a kind."""
        reads = [branch.reads(part) for branch, part in zip(self.branches, parts, strict=True)]
        if any(r != reads[0] for r in reads) or len({self._kind(part) for part in parts}) > 1:
            raise _Unlike("they aren't built alike")
        return reads[0]

    def _kind(self, part: Linear | NodeProto) -> tuple[object, ...]:
        """What must be the same of parts that are joined."""
        if isinstance(part, Linear):
            node = self.graph.nodes[part.index]
            return (node.op_type, part.window, part.axis, part.out_axis, part.conv_group > 1)
        said = sorted((name, str(value)) for name, value in attributes(part).items())
        return (part.op_type, part.domain, *said, *((name != "", name in self.graph.static) for name in part.input))

    def _layer(self, place: int, layers: Sequence[Linear], read: int) -> None:
        """Append one layer for all: side by side, the last ones as a sum."""
        name = layers[-1].output
        last, apart = name == self.branches[-1].end, read in self.wide
        groups = layers[0].conv_group > 1
        if ((last or groups) and not apart) or (last and groups) or not name:
            raise _Unlike("there is no hidden layer whose channels could be joined")
        matrices, offset = [layer.matrix for layer in layers], np.concatenate([layer.offset for layer in layers])
        if last:
            matrix, offset = np.concatenate(matrices, axis=1), np.sum([layer.offset for layer in layers], axis=0)
        elif groups:
            if len({m.shape[1:] for m in matrices}) > 1:
                raise _Unlike("they aren't built alike")
            matrix = np.concatenate(matrices)
        else:
            matrix = block_diag(*(m[0] for m in matrices))[None] if apart else np.concatenate(matrices, axis=2)
        axis = layers[-1].out_axis % len(self.graph.shapes[name])
        name = self.draft.fresh(f"{name}_merged")
        layer = replace(layers[-1], held=matrix, offset=offset, output=name)
        old = self.graph.nodes[layer.index]
        add = self.draft.constant
        nodes = renewed_nodes(self.graph, old, [layer], lambda _, value, hint: add(value, hint), self.draft.taken)
        nodes[0].input[list(old.input).index(layer.input)] = self.values[read]
        if groups:
            next(a for a in nodes[0].attribute if a.name == "group").i = layer.conv_group
        nodes[-1].output[0] = name
        self.nodes += nodes
        self.values[place] = name
        if last:
            self.targets.append(helper.make_node("Sub", [self._sum.output[0], self.values[-1]], [name]))
        else:
            self.wide[place] = axis
            self.targets.append(helper.make_node("Concat", [one.output for one in layers], [name], axis=axis))

    def _node(self, place: int, nodes: Sequence[NodeProto], reads: Sequence[int]) -> None:
        """Append a node for all branches' channels; where they aren't apart yet, the first one's node stays."""
        if self.wide.keys().isdisjoint(reads):
            self.values[place] = key(nodes[0])
            return
        single = sum(bool(name) for name in nodes[0].output) == 1
        if not elementwise_alone(nodes[0]) or not self.wide.keys() >= set(reads) or not single:
            raise _Unlike(f"there is a {nodes[0].op_type} between their layers, which isn't followed")
        self.wide[place] = self.wide[reads[0]]
        self.values[place] = self.draft.fresh(f"{key(nodes[0])}_merged")
        made, waiting = copied(nodes[-1]), iter(reads)
        for i, name in enumerate(made.input):
            if name in self.graph.static:
                made.input[i] = self._constant([node.input[i] for node in nodes], self.wide[place], key(nodes[0]))
            elif name:
                made.input[i] = self.values[next(waiting)]
        made.output[0] = self.values[place]
        self.nodes.append(made)

    def _constant(self, constants: Sequence[str], axis: int, beside: str) -> str:
        """A constant for all branches' channels."""
        values = [self.graph.array(name) for name in constants]
        if all(v.size == 1 and np.array_equal(v, values[0]) for v in values):
            return constants[-1]
        axis -= len(self.graph.shapes[beside]) - values[0].ndim
        if axis < 0 or any(v.ndim != values[0].ndim or v.size != v.shape[axis] or v.size == 1 for v in values):
            raise _Unlike("there are constants between their layers that can't be joined")
        return self.draft.constant(np.concatenate(values, axis), f"{constants[-1]}_merged")

    @property
    def _sum(self) -> NodeProto:
        return self.graph.nodes[self.branches[-1].sum]

    def _add(self) -> None:
        """Append the sum of the wide branch and the shortcut of the first block."""
        last = len(self.values) - 2
        if last in self.wide:
            raise _Unlike("their branches don't end in a layer")
        made, side = copied(self._sum), self.branches[-1].side
        made.input[side], made.input[1 - side] = self.values[last], self.values[-1]
        self.nodes.append(made)
