"""Residual blocks as serial networks (SRN): no Add is left.

Kamma, Inoue & Wada, IPSJ SIG Technical Report 2021-NL-248-10. x is *carried* through the branch's own convolutions on
further channels, by filters that have a single 1 (Dirac filters), and the last convolution reads both, [f | S]. Where
an activation would change what is carried, because that can be negative, the value is split in front of it and joined
behind it; nothing is ever shifted. The full text was not at hand: the construction is ours. It is exact, and costs
about as much again as a block of two 3×3 convolutions, many times as much as one with a bottleneck; pruning has to win
that back. What isn't a residual block of a known form stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from onnxprune.assembly import Draft, copied
from onnxprune.graph import Array, Graph, Shape
from onnxprune.nodes import key
from onnxprune.ops.choice import pads
from onnxprune.ops.elementwise import UNARY, bounds
from onnxprune.ops.linear import Linear, describe
from onnxprune.ops.movement import slice_terms
from onnxprune.ops.registry import View, find

Float = NDArray[np.float64]
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Dropout", "Slice")


def serial(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """The graph in which residual blocks are serial networks, and for each Add that stays the reason."""
    draft = Draft(graph)
    left: dict[str, str] = {}
    nodes: list[NodeProto] = []
    for index, node in enumerate(graph.nodes):
        dynamic = [name for name in node.input if name not in graph.static]
        if node.op_type == "Add" and len(dynamic) == 2 and len(graph.shapes.get(key(node), ())) > 2:
            try:
                nodes += _Block(draft, index).nodes()
                continue
            except _Stays as reason:
                left[node.name or key(node)] = str(reason)
        nodes.append(node)
    return draft.graph_of(nodes), left


@dataclass(frozen=True)
class _Shortcut:
    """What a shortcut computes: x at every `strides`-th place, times matrix [n, o], plus offset [o]."""

    matrix: Float
    offset: Float
    strides: Shape


@dataclass
class _State:
    """How far a branch has been written: where its own value and what is carried stand, and their channels.

    At the fork both are the same. `joined` names the value that holds both, own channels first, if there is one.
    """

    own: str
    carried: str
    width: int
    carry: int
    joined: str = ""

    @property
    def shared(self) -> bool:
        """Whether nothing has been done to either yet."""
        return not self.joined and self.own == self.carried


class _Stays(Exception):
    """Why an Add can't be written as a serial network."""


class _Block:
    """One Add with its branch and its shortcut, both back to the value where they part."""

    def __init__(self, draft: Draft, index: int) -> None:
        self.draft, self.graph = draft, draft.base
        self.index, self.add = index, draft.base.nodes[index]
        self.made: list[NodeProto] = []
        self.positive = False

    def nodes(self) -> list[NodeProto]:
        """The nodes that take the place of the Add; the old branch is dead then."""
        fork, branch, shortcut = self._parts()
        way, self.positive = self._shortcut(fork, shortcut), positive(self.graph, fork)
        layers = self._layers(branch)
        tails = {i for linear in layers.values() for i in linear.tail}
        width, strides = self.graph.shapes[fork][1], np.ones(len(way.strides), int)
        state = _State(fork, fork, width, width)
        for place, index in enumerate(branch):
            if index in layers:
                linear = layers[index]
                assert linear.window is not None  # `_layers` takes no others
                strides *= linear.window.strides
                last = place + len(linear.tail) + 1 == len(branch)
                if last and tuple(strides) != way.strides:
                    raise _Stays("its shortcut skips other places than its branch")
                self._convolve(state, linear, way if last else None)
            elif index not in tails:
                self._activate(state, index)
        if not state.joined or self.made[-1].op_type != "Conv":
            raise _Stays("its branch doesn't end in a convolution")
        self.made[-1].output[0] = key(self.add)
        return self.made

    def _parts(self) -> tuple[str, list[int], list[int]]:
        """The fork, and the nodes of branch and shortcut from there on."""
        one, other = (self._back(name) for name in self.add.input)
        fork = next((name for name in one if name in other), None)
        if fork is None or self.add.input[0] == self.add.input[1]:
            raise _Stays("what it adds doesn't come from one value by two ways")
        ways = [list(reversed(way[: list(way).index(fork)])) for way in (list(one), list(other))]
        indices = [[self.graph.producer[name] for name in way] for way in ways]
        branch, shortcut = sorted(indices, key=lambda way: -sum(map(self._taps, way)))
        if not any(self._convolves(i) for i in branch):
            raise _Stays("there is no convolution in its branch")
        alone = all(
            len(self.graph.consumers[key(self.graph.nodes[i])]) == 1
            and key(self.graph.nodes[i]) not in self.graph.outputs
            for i in branch
        )
        if not alone:
            raise _Stays("a value inside its branch is read elsewhere")
        return fork, branch, shortcut

    def _back(self, name: str) -> list[str]:
        """The values on the way back from one, as long as each is made of one other and constants."""
        found = [name]
        while (index := self.graph.producer.get(found[-1])) is not None:
            reads = [n for n in self.graph.reads(self.graph.nodes[index]) if n not in self.graph.static]
            if len(reads) != 1:
                break
            found.append(reads[0])
        return found

    def _convolves(self, index: int) -> bool:
        return self.graph.nodes[index].op_type == "Conv"

    def _taps(self, index: int) -> int:
        """Taps of a convolution, and one more; 0 for other nodes."""
        return 1 + prod(self.graph.shapes[self.graph.nodes[index].input[1]][2:]) if self._convolves(index) else 0

    def _layers(self, branch: Sequence[int]) -> dict[int, Linear]:
        """The branch's convolutions, with the affine operations behind each of them."""
        found = {}
        for index in branch:
            if self._convolves(index):
                linear = describe(self.graph, index)
                if linear is None or linear.window is None:
                    raise _Stays("a convolution in its branch has weights that aren't constant")
                found[index] = linear
        return found

    def _shortcut(self, fork: str, nodes: Sequence[int]) -> _Shortcut:
        """What the shortcut computes, if that is a linear function of the channels at every place."""
        shape = self.graph.shapes[fork]
        way = _Shortcut(np.eye(shape[1]), np.zeros(shape[1]), (1,) * (len(shape) - 2))
        for index in nodes:
            step = _step(self.graph, index)
            if step is None:
                raise _Stays(f"its shortcut holds a {self.graph.nodes[index].op_type} that can't be carried along")
            strides = tuple(a * b for a, b in zip(way.strides, step.strides, strict=True))
            way = _Shortcut(way.matrix @ step.matrix, way.offset @ step.matrix + step.offset, strides)
        return way

    # ------------------------------------------------------------------------------------------ writing

    def _activate(self, state: _State, index: int) -> None:
        """Apply what stands between the branch's layers to its own channels alone."""
        node = self.graph.nodes[index]
        known = find(node)
        if node.op_type not in (*UNARY, "Clip", "PRelu", "Dropout") and (known is None or known.affine is None):
            raise _Stays(f"its branch holds a {node.op_type}, which isn't followed")
        if state.joined and node.op_type == "Relu" and self.positive:
            state.joined = self._emit(helper.make_node("Relu", [state.joined], [""], node.name), key(node))
            return
        if state.joined:
            sizes, outputs = (
                [state.width, state.carry],
                [self.draft.fresh(f"{state.joined}_{i}") for i in ("own", "carried")],
            )
            self.made.append(_split(self.draft, state.joined, sizes, outputs))
            state.own, state.carried = outputs
        new = copied(node)
        new.input[list(node.input).index(next(n for n in node.input if n not in self.graph.static))] = state.own
        del new.output[1:]
        new.output[0] = state.own = self.draft.fresh(f"{key(node)}_serial")
        self.made.append(new)
        state.joined = ""

    def _convolve(self, state: _State, linear: Linear, way: _Shortcut | None) -> None:
        """Append a layer that carries, too, or, as the last one, adds what the shortcut makes of what is carried."""
        x = state.joined or state.own
        if not state.joined and not state.shared:
            x = self._emit(helper.make_node("Concat", [state.own, state.carried], [""], axis=1), state.own)
        if linear.conv_group == 1:
            matrix, offset = _beside(linear, state, self._middle(linear), way)
        elif way is None and not state.shared and linear.shape[1:] == (linear.taps, 1):
            through = np.zeros((state.carry, linear.taps, 1))
            through[:, self._middle(linear)] = 1.0
            matrix = np.concatenate([linear.matrix, through])
            offset = np.concatenate([linear.offset, np.zeros(state.carry)])
        else:
            raise _Stays("a convolution in groups begins or ends its branch, or isn't depthwise")
        new = replace(linear, held=matrix, offset=offset, tail=())
        node = copied(self.graph.nodes[linear.index])
        for a in [a for a in node.attribute if a.name == "group"]:
            node.attribute.remove(a)
        node.attribute.append(helper.make_attribute("group", new.conv_group))
        dtype = self.graph.array(linear.weight).dtype
        weight, bias = (value.astype(dtype) for value in new.tensors(new))
        del node.input[:]
        node.input.extend(
            [
                x,
                self.draft.constant(weight, f"{linear.weight}_serial"),
                self.draft.constant(bias, f"{linear.weight}_bias"),
            ]
        )
        state.joined = self._emit(node, linear.output)
        state.width = len(offset) - (state.carry if way is None else 0)

    def _emit(self, node: NodeProto, like: str) -> str:
        """Append a node; the name of its output, which is like another one."""
        name = node.output[0] = self.draft.fresh(f"{like}_serial")
        self.made.append(node)
        return name

    def _middle(self, linear: Linear) -> int:
        """The kernel tap that reads the place at which the output stands, times the stride."""
        assert linear.window is not None
        found = None
        for probe in self.graph.probes:
            extent = probe.shapes[linear.input][2:]
            out = linear.window.out_extent(extent)
            positions = np.arange(prod(out))
            index, inside = linear.window.reads(extent, out, positions)
            places = [p * s for p, s in zip(np.unravel_index(positions, out), linear.window.strides, strict=True)]
            if any((p >= n).any() for p, n in zip(places, extent, strict=True)):
                raise _Stays("a convolution in its branch reads places that its shortcut doesn't have")
            wanted = np.ravel_multi_index(tuple(places), extent)
            taps = np.flatnonzero(((index == wanted[:, None]) & inside).all(0))
            if not len(taps) or (found is not None and found != taps[0]):
                raise _Stays("a convolution in its branch doesn't read the place at which its output stands")
            found = int(taps[0])
        assert found is not None
        return found


def _beside(linear: Linear, state: _State, tap: int, way: _Shortcut | None) -> tuple[Array, Array]:
    """Matrix and offset of a layer that reads its own channels and carried ones, and makes both, or their sum."""
    rows, o = linear.shape[1:]
    start = 0 if state.shared else rows
    matrix, into = (np.eye(state.carry), o) if way is None else (way.matrix, 0)
    whole = np.zeros((start + state.carry * linear.taps if start else rows, max(o, into + matrix.shape[1])))
    whole[:rows, :o] = linear.matrix[0]
    whole[start + tap + linear.taps * np.arange(state.carry), into : into + matrix.shape[1]] += matrix
    offset = np.concatenate([linear.offset, np.zeros(state.carry)]) if way is None else linear.offset + way.offset
    return whole[None], offset


def _split(draft: Draft, x: str, sizes: Sequence[int], outputs: Sequence[str]) -> NodeProto:
    if draft.base.opset < 13:
        return helper.make_node("Split", [x], outputs, axis=1, split=sizes)
    return helper.make_node("Split", [x, draft.constant(np.asarray(sizes, np.int64), f"{x}_sizes")], outputs, axis=1)


def _step(graph: Graph, index: int) -> _Shortcut | None:
    """What one node of a shortcut computes, if that is the same linear function of the channels at every place."""
    node, view = graph.nodes[index], View(graph, graph.probes[0], index)
    known, shape = find(node), graph.shapes[next(n for n in node.input if n not in graph.static)]
    plain = _Shortcut(np.eye(shape[1]), np.zeros(shape[1]), (1,) * (len(shape) - 2))
    if node.op_type in ("Identity", "Dropout"):
        return plain
    if node.op_type == "Conv" and known is not None and known.linear is not None:
        linear = known.linear(graph, index)
        if linear is None or linear.conv_group > 1 or linear.taps > 1 or any(linear.window.pads):
            return None
        return _Shortcut(linear.matrix[0], linear.offset, linear.window.strides)
    if node.op_type == "Slice":
        return _skipping(plain, shape, slice_terms(view))
    if node.op_type == "Pad":
        found, value = pads(view), view.value(2) if graph.opset >= 11 else view.attr("value", 0.0)
        others = found is None or any(n for side in found for axis, n in enumerate(side) if axis != 1)
        if found is None or others or min(found[0][1], found[1][1]) < 0 or np.any(value if value is not None else 0):
            return None
        wide = np.pad(plain.matrix, ((0, 0), (found[0][1], found[1][1])))
        return replace(plain, matrix=wide, offset=np.zeros(wide.shape[1]))
    if known is None or known.affine is None or graph.shapes[key(node)] != shape:
        return None
    position = next(i for i, n in enumerate(node.input) if n not in graph.static)
    scaled = known.affine(graph, node, position, 1, len(shape))
    if scaled is None:
        return None
    scale, shift = (np.broadcast_to(np.asarray(v, np.float64), shape[1:2]) for v in scaled)
    return replace(plain, matrix=np.diag(scale), offset=np.array(shift))


def _skipping(plain: _Shortcut, shape: Shape, terms: Sequence[tuple[int, int, int, int]] | None) -> _Shortcut | None:
    """A Slice that takes every so many places of the spatial axes, from the first to the last."""
    strides = list(plain.strides)
    for axis, start, end, step in terms or [(0, 1, 0, 1)]:
        if axis < 2 or step < 1 or slice(start, end, step).indices(shape[axis])[:2] != (0, shape[axis]):
            return None
        strides[axis - 2] *= step
    return replace(plain, strides=tuple(strides))


def positive(graph: Graph, name: str) -> bool:
    """Whether a value can't be negative, as far as the nodes in front of it tell."""
    index = graph.producer.get(name)
    if index is None:
        return False
    node = graph.nodes[index]
    if node.op_type in POOLS:
        return positive(graph, node.input[0])
    found = bounds(graph, node)
    return found is not None and found[0] >= 0
