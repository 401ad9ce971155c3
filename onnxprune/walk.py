"""Two networks side by side: the original and the pruned one, carried together from layer to layer.

To refit a layer one needs what it reads and should give in the original, and what it reads in the network pruned so
far. A forward run per layer would cost the square of the depth. So the graph is cut where layers are refitted, and
only the values that are alive at the cut are kept, for all samples and both networks; they move to files in a
temporary folder when they outgrow the memory granted. The pruned network keeps its full size here (removed channels
have zero weights where they are read), so both run the same nodes, and what hasn't drifted apart is stored once.

The pruned network may be of another form: blocks of the original may be missing in it (see `blocks`), or be one (see
`merging`). Values of the same name stand for each other, however they are made; for each node of the pruned network the
original runs what it takes to know them.

What the original chooses (the best boxes, what isn't zero), the pruned network takes over: so rows of the same number
stand for each other, and are as many, behind it, too.

Nodes run by depth, counted in layers, not in the order of the file: what a layer doesn't depend on is done before it,
so that a shortcut is known when the last layer of its branch is refitted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxprune import files
from onnxprune.coupling import Coupling, Mask
from onnxprune.decisions import CHOICES, decisions
from onnxprune.files import Model
from onnxprune.graph import Array, Graph, fresh, key
from onnxprune.ops.linear import Linear
from onnxprune.plan import Weights
from onnxprune.rewrite import renewed_nodes, silenced_input, with_weights, without_feedback
from onnxprune.runtime import Chain, Runtime, Session
from onnxprune.spill import Spill

Batch = dict[str, Array]
STRETCHES = 16  # parts of the network that run one after the other behind a place where something is changed


class Store:
    """Where new weights lie: those of a big model in files, as precise as the old ones."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self._spill = graph, Spill()

    def keep(self, linear: Linear, new: Weights) -> Weights:
        """A layer's new weights as they are kept from now on."""
        if not self.graph.big:
            return new
        dtype = self.graph.array(linear.weight).dtype
        kept = self._spill.keep(new.matrix.astype(dtype, copy=False))
        linear.release()
        return replace(new, matrix=kept)


class Walk:
    """Carries values of both networks for all batches; `original[b]` and `pruned[b]` hold what is alive in batch b.

    `pruned[b]` holds only values that differ from the original's; `value` looks in both. Recurrent layers lose the
    feedback of the channels that `mask` removes. With `full`, the original is the graph's `reference`, else the graph
    itself; `otherwise` are the nodes of the graph whose results are made in another way there, or not at all.
    """

    def __init__(
        self,
        coupling: Coupling,
        feeds: Iterable[Mapping[str, Array]],
        runtime: Runtime,
        max_memory: float = 2e9,
        mask: Mask | None = None,
        *,
        full: bool = False,
    ) -> None:
        self.coupling, self.graph, self.runtime = coupling, coupling.graph, runtime
        self.reference = self.graph.reference if full else self.graph
        self.mask = mask or coupling.mask({})
        self.chosen = self._chosen()
        self.schedule = [i for i in by_depth(coupling) if self.chosen.isdisjoint(self.graph.nodes[i].output)]
        self.place = {index: position for position, index in enumerate(self.schedule)}
        self.steps = self._steps()
        self.otherwise = {i for i in self.schedule if self._made_otherwise(self.graph.nodes[i])}
        self.last_use = self._last_use()
        self.drifted: set[str] = set()
        self.renewed: dict[int, list[Linear]] = {}
        self.skipped: set[int] = set()
        self.position = 0
        self._granted, self._held = max_memory, 0.0
        self._unchanged: dict[tuple[int, tuple[str, ...]], Session] = {}
        self._spill: Spill | None = None
        self._store = Store(self.graph)
        self.original: list[Batch] = []
        self.pruned: list[Batch] = []
        self.counts: list[int] = []  # samples in each batch
        choice: Session | None = None
        for feed in feeds:
            if self.chosen and choice is None:
                choice = self._choice(sorted(self.chosen))
            self.original.append(self._stored({**feed, **(choice.run(feed) if choice else {})}))
            self.pruned.append({})
            self.counts.append(len(next(iter(feed.values()))))

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_: object) -> None:
        self.original, self.pruned, self._spill = [], [], None

    def value(self, batch: int, name: str) -> Array:
        """A value as the pruned network has it."""
        return self.pruned[batch].get(name, self.original[batch].get(name))  # type: ignore[return-value]

    def renew(self, linear: Linear, new: Weights) -> Weights:
        """Give a layer that hasn't run yet new weights in the pruned network; its tail is part of them.

        Gives these weights as they are kept from now on (see `Store`).
        """
        new = self._store.keep(linear, new)
        self.renewed.setdefault(linear.index, []).append(with_weights(linear, new))
        self.skipped.update(linear.tail)
        return new

    def advance(self, index: int | None = None) -> None:
        """Run both networks up to a node (not including it), or to the end."""
        stop = len(self.schedule) if index is None else self.place[index]
        nodes = self.schedule[self.position : stop]
        self.position = stop
        own, made = self._drifting(nodes)
        wanted = [name for name in made if self._alive(name)]
        beside = {name for i in own for name in self.graph.reads(self.graph.nodes[i])} if wanted else set[str]()
        tails = [tail for i in nodes for linear in self.renewed.get(i, ()) for tail in linear.tail]
        self.recall([*nodes, *tails], beside - self.drifted)  # what a renewed layer makes is known of both at its turn
        if wanted and self.original:
            self._run(part(self, self.graph, own, wanted, self.renewed, self.mask), self.pruned, wanted)
        for batch in (*self.original, *self.pruned):
            for name in [n for n in batch if not self._alive(n)]:
                self._forget(batch.pop(name))

    def recall(self, nodes: Iterable[int], beside: Collection[str] = ()) -> None:
        """Run the original alone as far as it takes to know what these nodes make; `beside` is needed once more."""
        steps = [step for i in nodes for step in self.steps.pop(i, ())]
        made = [name for step in steps for name in self.reference.nodes[step].output if name]
        needed = [name for name in made if self._alive(name) or name in beside]
        if needed and self.original:
            self._run(part(self, self.reference, steps, needed), self.original, needed)

    def _chosen(self) -> set[str]:
        """Values that the original's nodes give where they choose."""
        return set(decisions(self.reference, CHOICES).taken)

    def _choice(self, names: Sequence[str]) -> Session:
        """The part of the original that makes these values of its inputs."""
        graph = self.reference
        nodes = [
            i
            for i in graph.needed(range(len(graph.nodes)), names)
            if not graph.static.issuperset(graph.nodes[i].output)
        ]
        return part(self, graph, nodes, names)

    def _steps(self) -> dict[int, list[int]]:
        """For each node of the graph the nodes that the original runs at its turn: what it makes follows from them."""
        original, known, steps = self.reference, self.reference.static | self.chosen, dict[int, list[int]]()
        for index in self.schedule:
            wanted, found = [name for name in self.graph.nodes[index].output if name in original.producer], set[int]()
            while wanted:
                if (name := wanted.pop()) not in known and name in original.producer:
                    node = original.nodes[original.producer[name]]
                    found.add(original.producer[name])
                    known.update(node.output)
                    wanted += original.reads(node)
            steps[index] = sorted(found)
        return steps

    def _made_otherwise(self, node: NodeProto) -> bool:
        """Whether the original has another node, or none, for what this one makes."""
        if self.reference is self.graph:
            return False
        index = self.reference.producer.get(key(node))
        return index is None or self.reference.nodes[index] != node

    def _alive(self, name: str) -> bool:
        """Whether a node that hasn't run yet reads a value."""
        return self.last_use.get(name, -1) >= self.position

    def _drifting(self, nodes: Sequence[int]) -> tuple[list[int], list[str]]:
        """Those of the nodes whose results differ in the pruned network, and what they make there."""
        own, made = list[int](), list[str]()
        for i in nodes:
            drifted = any(name in self.drifted for name in self.graph.reads(self.graph.nodes[i]))
            changed = i in self.renewed or i in self.otherwise or _cut(self.mask, i)
            if (drifted or changed) and i not in self.skipped:
                own.append(i)
                outputs = self._made(i, self.renewed)
                made += outputs
                self.drifted.update(outputs)
        return own, made

    def _run(self, session: Session, batches: list[Batch], names: Sequence[str]) -> None:
        for number, batch in enumerate(batches):
            feed = {
                n: (self.original[number][n] if batches is self.original else self.value(number, n))
                for n in session.inputs
            }
            batch.update(self._stored(session.run(feed, names)))

    def _stored(self, values: Batch) -> Batch:
        """The values, in memory as far as granted and else in files."""
        stored: Batch = {}
        for name, value in values.items():
            if self._held + value.nbytes > self._granted and value.size and not value.dtype.hasobject:
                self._spill = self._spill or Spill()
                stored[name] = self._spill.keep(value)
            else:
                stored[name] = value
            self._held += 0 if isinstance(stored[name], np.memmap) else stored[name].nbytes
        return stored

    def _forget(self, value: Array) -> None:
        self._held -= 0 if isinstance(value, np.memmap) else value.nbytes

    def suffix(
        self, replaced: Mapping[int, Sequence[Linear]], names: Sequence[str], mask: Mask | None = None
    ) -> Session:
        """The rest of the original from here to those of the values `names` that are still to come.

        Some layers may be `replaced` by others with other weights; recurrent ones lose the feedback of the channels
        that `mask` removes. What none of `names` needs is left out. The rest runs in stretches, and those in which
        nothing changes are the same for all: what onnxruntime is handed over each time doesn't grow with the depth.
        """
        layers = [layer for several in replaced.values() for layer in several]
        skipped = {i for layer in layers for i in layer.tail}
        self._unchanged = {own: session for own, session in self._unchanged.items() if own[0] >= self.position}
        bounds = [self.position, *(bound for bound in self._bounds if bound > self.position)]
        wanted = set(self.graph.needed(self.schedule[self.position :], names))
        read, sessions = set(names), list[Session]()
        for start, stop in reversed(list(pairwise(bounds))):
            every = [i for i in self.schedule[start:stop] if i in wanted]
            nodes = [i for i in every if i not in skipped]
            outputs = tuple(name for i in nodes for name in self._made(i, replaced) if name in read)
            read.update(name for i in nodes for name in self.graph.reads(self.graph.nodes[i]))
            changed = len(nodes) < len(every) or any(i in replaced or (mask and _cut(mask, i)) for i in nodes)
            if outputs and changed:
                sessions.append(part(self, self.graph, nodes, outputs, replaced, mask))
            elif outputs:
                known = self._unchanged.get((start, outputs))
                session = self._unchanged[start, outputs] = known or part(self, self.graph, nodes, outputs)
                sessions.append(session)
        return Chain(sessions[::-1], names)

    @cached_property
    def _bounds(self) -> list[int]:
        """Positions between stretches; no value without a type is handed from one stretch to another."""
        closed, end = set[int](), len(self.schedule)
        for position, index in enumerate(self.schedule):
            untyped = [name for name in self.graph.nodes[index].output if name and not self.graph.types.get(name)]
            last = max((self.last_use.get(name, 0) for name in untyped), default=0)
            closed.update(range(position + 1, min(last + 1, end)))
        bounds = np.linspace(0, end, STRETCHES + 1).astype(int).tolist()
        return sorted({bound for bound in bounds if bound not in closed})

    def _made(self, index: int, renewed: Mapping[int, Sequence[Linear]]) -> list[str]:
        """What a node makes, or the renewed layer in its place: that stands for its tail, too."""
        behind = [layer.output for layer in renewed.get(index, []) if layer.tail]
        return behind or [name for name in self.graph.nodes[index].output if name]

    def _last_use(self) -> dict[str, int]:
        last: dict[str, int] = {}
        for position, index in enumerate(self.schedule):
            nodes = [self.graph.nodes[index], *(self.reference.nodes[step] for step in self.steps[index])]
            last |= dict.fromkeys((name for node in nodes for name in self.graph.reads(node)), position)
        return last | dict.fromkeys(self.graph.outputs, len(self.schedule))

    def keep(self, names: Iterable[str], until: int | None = None) -> None:
        """Don't drop these values, or not before a node has its turn."""
        last = len(self.schedule) if until is None else self.place[until]
        self.last_use.update({name: max(last, self.last_use.get(name, 0)) for name in names})


def _cut(mask: Mask, index: int) -> bool:
    """Whether a node itself computes without what a mask removes; layers do so by the weights that they are given."""
    return mask.feeds_back(index) or mask.unrepaired(index)


def by_depth(coupling: Coupling) -> list[int]:
    """Nodes that depend on the input, by the number of layers on the longest path to them, and by that of the file.

    A layer runs after everything that doesn't depend on it or on another layer of its depth.
    """
    graph, layers = coupling.graph, coupling.notes.readers
    depth: dict[str, int] = {}
    order = []
    for index, node in enumerate(graph.nodes):
        if all(name in graph.static for name in node.output if name):
            continue
        level = max((depth.get(name, 0) for name in graph.reads(node)), default=0) + (index in layers)
        depth.update((name, level) for name in node.output)
        order.append((level, index not in layers, index))
    return [index for *_, index in sorted(order)]


def part(
    walk: Walk,
    graph: Graph,
    nodes: Sequence[int],
    outputs: Sequence[str],
    replaced: Mapping[int, Sequence[Linear]] | None = None,
    mask: Mask | None = None,
) -> Session:
    """A session for some nodes of a graph: what they read from before them is input, constants are made in it."""
    model = ModelProto()
    arrays = dict(graph.arrays)
    model.ir_version = max(graph.model.ir_version, 4)
    model.opset_import.extend(graph.model.opset_import)
    model.functions.extend(graph.model.functions)
    model.graph.name = "segment"
    made: list[NodeProto] = []
    constants = dict(graph.initializers)
    taken = {name for node in graph.nodes for name in (*node.input, *node.output)} | set(graph.initializers)

    def constant(_: str, value: Array, hint: str) -> str:
        name = fresh(hint, taken)
        constants[name] = files.tensor(name, value, arrays if graph.arrays else None)
        return name

    for i in nodes:
        node = graph.nodes[i]
        if mask is not None and mask.feeds_back(i):
            node = without_feedback(mask, i, lambda value, hint: constant("", value, hint))
        if replaced and i in replaced:
            made += renewed_nodes(graph, node, replaced[i], constant, taken)
        elif mask is not None and mask.unrepaired(i):
            made += silenced_input(mask, i, node, lambda v, hint: constant("", v, hint), lambda n: fresh(n, taken))
        else:
            made.append(node)
    made = _constants(graph, {name for node in made for name in graph.reads(node)}) + made
    model.graph.node.extend(made)
    produced = {name for node in made for name in node.output}
    read = dict.fromkeys(name for node in made for name in graph.reads(node) if name not in produced)
    model.graph.initializer.extend(constants[name] for name in read if name in constants)
    model.graph.input.extend(_info(walk, graph, name) for name in read if name not in constants)
    model.graph.output.extend(_info(walk, graph, name) for name in outputs)
    return walk.runtime.session(Model(model, arrays))


def _constants(graph: Graph, names: Collection[str]) -> list[NodeProto]:
    """The nodes that make those of these values that no input can change."""
    computed = [name for name in names if name in graph.static and name not in graph.initializers]
    nodes = [i for i, node in enumerate(graph.nodes) if graph.static.issuperset(node.output)] if computed else []
    return [graph.nodes[i] for i in graph.needed(nodes, computed)]


def _info(walk: Walk, graph: Graph, name: str) -> ValueInfoProto:
    """A value with its type: as inferred, or as it is held. Without one onnxruntime infers it.

    Lists of sizes come with their lengths: without them ONNX's inference takes them for empty.
    """
    known = graph.types.get(name)
    held = walk.original[0].get(name) if walk.original else None
    if not known and held is not None:
        known = int(helper.np_dtype_to_tensor_dtype(held.dtype))
    lengths = {probe.shapes.get(name) for probe in graph.probes}
    listed = known == TensorProto.INT64 and len(lengths) == 1 and len(next(iter(lengths)) or ()) == 1
    shape = next(iter(lengths)) if listed else None
    return helper.make_tensor_value_info(name, known, shape) if known else ValueInfoProto(name=name)


def layers_in_order(coupling: Coupling) -> list[Linear]:
    """All linear layers by depth."""
    place = {index: position for position, index in enumerate(by_depth(coupling))}
    linears = [linear for i in coupling.notes.readers if (linear := coupling.linear(i)) is not None]
    return sorted(linears, key=lambda linear: place[linear.index])
