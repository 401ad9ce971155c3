"""A model as a read-only graph: who writes and who reads each value, constants, concrete shapes.

What the file says by itself is in `declared`, which nodes there are in `listing`, how their shapes follow in
`inference`.

*Probes.* Shapes are computed twice, by walking the nodes once for each of two assignments of the symbolic
dimensions (batch 1, then batch 2 and the others changed too). Everything that depends on shapes must hold for
both, and whatever differs between them is known to be dynamic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from onnx import NodeProto

from onnxprune import files
from onnxprune.declared import Array, Declared, Shape, length
from onnxprune.errors import ModelError
from onnxprune.files import Model
from onnxprune.inference import PLACEHOLDERS, Inference, Probe, Sizes, evaluate
from onnxprune.listing import Listing, listed
from onnxprune.nodes import attributes, constants, fresh, key, names, needed, reads

__all__ = ["Array", "Block", "Graph", "Probe", "Shape", "attributes", "fresh", "key", "names"]


@dataclass(frozen=True)
class Block:
    """A part that can be taken out: what reads `output` then reads `shortcut`, a value of the same shape.

    nodes: what nothing needs any more then, in the order of the file; reads: the values that these take from outside.
    """

    output: str
    shortcut: str
    nodes: tuple[int, ...]
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Graph(Declared):
    """A read-only index over a model. `probes` holds two assignments of sizes.

    A graph made by taking blocks out of another one knows that (`full`) and them, by their output, which an Identity
    makes now (`removed`). One in which runs of blocks are `merged` knows these, by the outputs of their blocks, and the
    graph whose values its own of the same names are to come close to (`standard`).
    """

    full: Graph | None = None
    removed: Mapping[str, Block] = field(default_factory=dict)
    standard: Graph | None = None
    merged: tuple[tuple[str, ...], ...] = ()

    @staticmethod
    def of(model: Model, dims: Mapping[str, Sequence[int]] | None = None) -> Graph:
        """The graph of a model."""
        return Graph(model.proto, dict(dims or {}), model.arrays)

    def resized(self, dims: Mapping[str, Sequence[int]]) -> Graph:
        """The same graph at other sizes of its symbolic dimensions."""
        return Graph(self.model, dims, self.arrays)

    @property
    def original(self) -> Graph:
        """The graph before any block was taken out."""
        return self.full or self

    @property
    def reference(self) -> Graph:
        """The graph whose values those of the same names stand for: of one made of another, the other."""
        return self.standard or self.original

    def past(self, name: str) -> str:
        """The value that is read in the place of `name` where removed blocks are passed by."""
        while name in self.removed:
            name = self.removed[name].shortcut
        return name

    @cached_property
    def big(self) -> bool:
        """Whether the model is handled in parts, and what is made of it in files."""
        return files.big(Model(self.model, self.arrays))

    @cached_property
    def _listing(self) -> Listing:
        return listed(self)

    @cached_property
    def nodes(self) -> list[NodeProto]:
        """All nodes in the order of the file, which ONNX requires to be topological; see `listing`."""
        return self._listing.nodes

    @cached_property
    def producer(self) -> dict[str, int]:
        """Value name -> index of the node that writes it."""
        return {name: i for i, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[int]]:
        """Value name -> indices of the nodes that read it, also from within their bodies."""
        readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in self.reads(node):
                readers.setdefault(name, []).append(i)
        return readers

    def reads(self, node: NodeProto) -> list[str]:
        """All values a node depends on, including those its bodies take from outside."""
        return reads(node)

    def needed(self, indices: Sequence[int], values: Iterable[str]) -> list[int]:
        """Which of these nodes, which are in the order in which they run, it takes to know some values."""
        return [self.producer[key(node)] for node in needed([self.nodes[i] for i in indices], values)]

    @cached_property
    def static(self) -> set[str]:
        """Values that no input can change: initializers and all that is computed from them alone."""
        return constants(self.initializers, self.nodes)

    @cached_property
    def _computed(self) -> dict[str, Array]:
        return {}

    def array(self, name: str) -> Array:
        """The value of a static name; large results of constant subgraphs are computed when first asked for."""
        if name in self.initializers:
            return self.stored(name)
        if name in self._computed:
            return self._computed[name]
        node = self.nodes[self.producer[name]]
        values = evaluate(node, [self.array(n) if n else None for n in node.input], self.opset)
        found: dict[str, Array] = dict(zip(node.output, values, strict=False))
        kept = (n for n, x in found.items() if not self.big or x.nbytes < files.LARGE or files.mapping(x) is not None)
        self._computed.update((n, found[n]) for n in kept)
        return found[name]

    def numbers(self, name: str) -> Array:
        """A constant to compute with, in float64; a large one of a big model in no more than float32, if it isn't.

        Sums over them are in float64 anyway.
        """
        value = self.array(name)
        if not self.big or value.nbytes < files.LARGE:
            return value.astype(np.float64)
        return np.asarray(value) if value.dtype in (np.float32, np.float64) else value.astype(np.float32)

    @cached_property
    def probes(self) -> tuple[Probe, ...]:
        """Shapes at batch 1, and again with every symbolic dimension changed, or as many of them as can be."""
        first = self._probe(Sizes())
        if not self.symbolic and not first.placed:
            return (first,)
        for batch, factor in ((2, 2), (2, 1), (1, 2), (1, 1)):
            if (batch, factor) == (1, 1) and not first.placed:
                continue
            try:
                return (first, self._probe(Sizes(batch, factor, PLACEHOLDERS[1])))
            except ModelError:
                continue
        return (first,)

    @property
    def batched(self) -> bool:
        """Whether more samples than one fit at once, as far as shapes tell: a named batch may be fixed further on."""
        first, last = (self.probes[i].shapes for i in (0, -1))
        dims = {v.name: v.type.tensor_type.shape.dim for v in self.inputs if first.get(v.name)}
        named = [name for name, own in dims.items() if own and length(own[0]) is None]
        return not named or any(first[name][0] != last[name][0] for name in named)

    @cached_property
    def uncounted(self) -> set[str]:
        """Values whose shape depends on a size that data decide, so that the model's inputs don't tell it."""
        first = self.probes[0]
        if not first.placed:
            return set()
        other = self._probe(Sizes(placeholder=PLACEHOLDERS[1]))
        return {name for name in first.placed if first.shapes.get(name) != other.shapes.get(name)}

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shapes at batch 1; a value of unknown shape is missing."""
        return self.probes[0].shapes

    def shapes_for(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """Shapes of all values for inputs of exactly these sizes."""
        return Inference(self, inputs).over(self.nodes).shapes

    def _probe(self, sizes: Sizes) -> Probe:
        return self._listing.probes.get(sizes) or Inference.at(self, sizes).over(self.nodes)

    @cached_property
    def types(self) -> dict[str, int]:
        """Element type of every value whose type is known (TensorProto.DataType)."""
        known = {i.name: i.type.tensor_type.elem_type for i in self.model.graph.input}
        known |= {name: t.tensor_type.elem_type for name, t in self.stated.items()}
        known |= {name: t.data_type for name, t in self.initializers.items()}
        return known | self.probes[0].types
