"""All nodes of a model, with those taken apart that stand for several.

In the place of a node that onnxruntime's optimizer merged stand its parts (see `contrib`), in that of an If the body
that is chosen, in that of a Loop all its iterations, where constants or sizes decide that (see `bodies`), and elements
of known sequences are read as what they are (see `sequences`). A size that no input can change is written down where a
constant is cut or arranged by it, which makes that a constant, too: MXNet cuts all weights of a recurrent layer out of
one vector, by sizes of its input. Inference goes along, because all of these ask for what is known of the values before
them. A constant that several nodes compute alike is listed once: where a recurrent layer is written step by step, its
weights may be put together anew in each. Zeros that several nodes read are listed for each of these: the states that
layers start from have channels of their own, though optimizers make them one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, helper
from onnx.numpy_helper import from_array

from onnxprune import contrib
from onnxprune.bodies import ITERATIONS, chosen, constant, outer_names, stored, subgraphs, unrolled
from onnxprune.contrib import STANDARD
from onnxprune.declared import Array, Declared
from onnxprune.errors import ModelError
from onnxprune.inference import FAITHFUL, PLACEHOLDERS, Inference, Probe, Sizes, evaluate
from onnxprune.nodes import NOT_FUNCTIONS, constants, foreseeable, fresh, key, names, needed, reads
from onnxprune.sequences import READING, Sequences


@dataclass(frozen=True)
class Listing:
    """The nodes in the order of the file, which ONNX requires to be topological, and what was learnt on the way."""

    nodes: list[NodeProto]
    probes: dict[Sizes, Probe]


def listed(declared: Declared) -> Listing:
    """All nodes of a model."""
    nodes = list(declared.model.graph.node)
    static = constants(declared.initializers, nodes)
    nodes = fills_apart(declared, nodes, static)
    branches = any(node.op_type in ("If", "Loop") or _sized(node, static) for node in nodes)
    if not branches and not any(contrib.merged(node, static) or node.op_type in READING for node in nodes):
        return Listing(told_once(nodes, static, declared.outputs), {})
    others = ((2, 2), (2, 1), (1, 2)) if declared.symbolic else ((1, 1),)
    for batch, factor in others if branches else ():
        try:
            return _Walk(declared, nodes, static, Sizes(), Sizes(batch, factor, PLACEHOLDERS[1])).listing()
        except ModelError:
            continue
    return _Walk(declared, nodes, static, Sizes()).listing()


class _Walk:
    """A walk over the nodes at one or two assignments of sizes.

    static: values that no input can change. fixed: those and, where there are two assignments, what is the same for
    both, and so doesn't depend on symbolic dimensions. compared: what is made by comparing sizes, which can come out
    alike by chance.
    """

    def __init__(self, declared: Declared, nodes: Sequence[NodeProto], static: set[str], *sizes: Sizes) -> None:
        self.declared, self.nodes, self.sizes = declared, nodes, sizes
        self.inferences = [Inference.at(declared, one) for one in sizes]
        self.static, self.fixed, self.compared = set(static), set(static), set[str]()
        taken = names(declared.model.graph, nodes)
        self.sequences = Sequences(self.inferences[0].values, lambda like: fresh(like, taken), declared.opset)

    def listing(self) -> Listing:
        """The nodes with the parts of those that stand for several."""
        plain, waiting = list[NodeProto](), list(self.nodes)[::-1]
        while waiting:
            node = waiting.pop()
            parts = self._parts(node)
            if parts[0] is node:
                plain.append(node)
                self._learn(node)
            else:
                waiting += parts[::-1]
        probes = dict(zip(self.sizes, (one.probe() for one in self.inferences), strict=True))
        nodes = self.sequences.needed(plain, self.declared.outputs)
        return Listing(told_once(nodes, self.static, self.declared.outputs), probes)

    def _parts(self, node: NodeProto) -> list[NodeProto]:
        """What stands in the place of a node: those that it merges, the body that is chosen, or all iterations."""
        walk, opset, name = self.inferences[0], self.declared.opset, self.sequences.name
        if _sized(node, self.static) and self.fixed.issuperset(filter(None, node.input)):
            return self._written(node)
        if not decided(node, self.fixed):
            parts = contrib.apart(node, walk.types, self.static, opset, name)
            return self.sequences.apart(node) if parts[0] is node else parts
        try:
            if node.op_type == "If":
                return chosen(node, bool(walk.values[node.input[0]]), name)
            count = walk.values[node.input[0]].item() if walk.values.get(node.input[1], True) else 0
            around = [x for x in reads(node) if x in self.static]
            values = {x: self.declared.stored(x) if x in self.declared.initializers else walk.values[x] for x in around}
            return unrolled(node, turns(node, count, values, opset), name, opset)
        except (KeyError, ValueError):  # a constant too large to be known here, or a body of another form
            return [node]

    def _written(self, node: NodeProto) -> list[NodeProto]:
        """The node with the sizes that it reads as constants, and these before it."""
        known, written = self.inferences[0].values, NodeProto()
        written.CopyFrom(node)
        before = []
        for i, x in enumerate(node.input):
            if x and x not in self.static:
                written.input[i] = self.sequences.name(f"{x}_known")
                before.append(helper.make_node("Constant", [], [written.input[i]], value=from_array(known[x])))
        return [*before, written]

    def _learn(self, node: NodeProto) -> None:
        """Go past a node."""
        for one in self.inferences:
            one.visit(node)
        if len(self.inferences) > 1:
            self.fixed.update(self._agreed(node, *self.inferences))
        if foreseeable(node, self.static):
            self.static.update(name for name in node.output if name)
            self.fixed.update(name for name in node.output if name)

    def _agreed(self, node: NodeProto, one: Inference, two: Inference) -> set[str]:
        """Which small values that a node makes are the same whatever the symbolic sizes are.

        A comparison tells only where what it compares is fixed.
        """
        computed = all(name in self.fixed for name in node.input if name)
        faithful = node.op_type in FAITHFUL and self.compared.isdisjoint(node.input)
        if not (computed or faithful or node.op_type in ("Shape", "Size")):
            self.compared.update(name for name in node.output if name)
            return set()
        known = (name for name in node.output if name in one.values and name in two.values)
        return {name for name in known if np.array_equal(one.values[name], two.values[name])}


def fills_apart(declared: Declared, nodes: list[NodeProto], static: Container[str]) -> list[NodeProto]:
    """The nodes, with those that repeat one number, in sizes that aren't constant, listed for every node that reads it.

    Where bodies read it, or it is an output, there is one.
    """
    fills = set[str]()
    for node in nodes:
        made = node.op_type == "ConstantOfShape" and (not node.attribute or constant(node).dtype.kind not in "biu")
        if (made and node.input[0] not in static) or (node.op_type in ("Cast", "Identity") and node.input[0] in fills):
            fills.update(node.output)
    fills -= _read_apart(declared.outputs, nodes)
    if max(Counter(x for node in nodes for x in fills.intersection(node.input)).values(), default=1) == 1:
        return nodes
    taken, wanted, kept = names(declared.model.graph, nodes), dict[str, list[str]](), list[NodeProto]()
    for node in reversed(nodes):
        for output in wanted.get(key(node), [key(node)]):
            one = NodeProto()
            one.CopyFrom(node)
            for x in fills.intersection(node.input):
                own = fresh(x, taken) if x in wanted else x
                wanted.setdefault(x, []).append(own)
                one.input[:] = [own if name == x else name for name in one.input]
            if output not in node.output:
                one.name, one.output[0] = "", output
            kept.append(one)
    return kept[::-1]


def _read_apart(outputs: Iterable[str], nodes: Iterable[NodeProto]) -> set[str]:
    """The outputs, and values that bodies read."""
    return set(outputs).union(*(outer_names(body) for node in nodes for body in subgraphs(node)))


def told_once(nodes: Sequence[NodeProto], static: Container[str], outputs: Iterable[str]) -> list[NodeProto]:
    """The nodes without those that compute a constant of others just as an earlier one does, which is read instead.

    Those stay whose values bodies read, or that are outputs.
    """
    apart = _read_apart(outputs, nodes)
    first, same, kept = dict[tuple[object, ...], NodeProto](), dict[str, str](), list[NodeProto]()
    for node in nodes:
        if not same.keys().isdisjoint(node.input):
            node, read = NodeProto(), node
            node.CopyFrom(read)
            node.input[:] = [same.get(name, name) for name in read.input]
        if node.input and foreseeable(node, static) and apart.isdisjoint(node.output):
            attributes = tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
            said = (node.op_type, node.domain, attributes, *node.input, None, *map(bool, node.output))
            if said in first:
                same.update(zip(node.output, first[said].output, strict=True))
                continue
            first[said] = node
        kept.append(node)
    return kept


def _sized(node: NodeProto, static: Container[str]) -> bool:
    """Whether a node cuts or arranges a constant by sizes that aren't constants."""
    moves = node.domain in STANDARD and node.op_type in ("Slice", "Reshape") and node.input[0] in static
    return moves and any(x not in static for x in node.input if x)


def decided(node: NodeProto, fixed: Container[str]) -> bool:
    """Whether a node is an If of a condition, or a Loop of a number of iterations, that no input changes."""
    if node.domain not in STANDARD or node.op_type not in ("If", "Loop"):
        return False
    return node.input[0] in fixed and (node.op_type == "If" or not node.input[1] or node.input[1] in fixed)


def turns(node: NodeProto, most: int, values: Mapping[str, Array], opset: int) -> int:
    """How many iterations a Loop has that may have `most` of them; `values` are those of constants around it.

    Raises KeyError or ValueError where its body asks for more than constants and the number of the iteration, in order
    to say whether it goes on.
    """
    body = next(subgraphs(node))
    (step, go, *states), (on, *made) = ([value.name for value in side] for side in (body.input, body.output))
    known, wanted = {**values, **stored(body), go: np.asarray(True)}, {on}
    while True:
        nodes = needed(body.node, wanted)
        asked = wanted.union(*map(reads, nodes))
        carried = {new: old for new, old in zip(made, states, strict=False) if old in asked}
        if wanted.issuperset(carried):
            break
        wanted.update(carried)
    if any(one.op_type in NOT_FUNCTIONS for one in nodes):
        raise ValueError(node.op_type)
    known |= {old: known[given] for old, given in zip(states, node.input[2:], strict=True) if old in asked}
    for number in range(min(most, ITERATIONS + 1)):
        known[step] = np.asarray(number)
        for one in nodes:
            known.update(zip(one.output, evaluate(one, [known[x] for x in one.input if x], opset), strict=False))
        if not known[on].all():
            return number + 1
        known |= {old: known[new] for new, old in carried.items()}
    return most
