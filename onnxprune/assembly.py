"""Models of other nodes in the place of a graph's own: names that aren't taken, constants beside the old ones.

What nothing reads any more is left out, nodes and constants alike; all else in the file is as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import TypeVar

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxprune import files
from onnxprune.files import Model
from onnxprune.graph import Array, Graph, fresh, names
from onnxprune.nodes import needed
from onnxprune.spill import Spill

Message = TypeVar("Message", ModelProto, NodeProto, ValueInfoProto)


class Draft:
    """A model under construction, made of a graph's: names that are taken, constants that are added."""

    def __init__(self, base: Graph) -> None:
        self.base = base
        self.taken = names(base.model.graph, base.nodes)
        self.added: list[TensorProto] = []
        self.arrays: dict[str, Array] = {}
        self._known: dict[tuple[object, ...], str] = {}
        self._spill = Spill()

    def fresh(self, name: str) -> str:
        """A new name like another."""
        return fresh(name, self.taken)

    def constant(self, value: Array, hint: str) -> str:
        """Add an initializer, or take one that was added with this value; the name of a new one is like `hint`."""
        value = self.kept(value)
        same = value.dtype, value.shape, blake2b(value.reshape(-1).view(np.uint8).data).digest()
        if same not in self._known:
            self._known[same] = name = self.fresh(hint)
            self.added.append(self.tensor(value, name))
        files.release(value)
        return self._known[same]

    def kept(self, value: Array) -> Array:
        """The value in one piece; a large one of a big model in a file."""
        value = np.asarray(value, order="C")
        if not self.base.big or value.nbytes < files.LARGE or files.mapping(value) is not None:
            return value
        return self._spill.keep(value)

    def tensor(self, value: Array, name: str) -> TensorProto:
        """An initializer; a large one is kept beside the message if the graph's own are."""
        return files.tensor(name, value, self.arrays if self.base.arrays else None)

    def graph_of(self, nodes: Iterable[NodeProto]) -> Graph:
        """The graph with these nodes in the place of its own."""
        return graph_of(self.base, nodes, self.added, self.arrays)


def graph_of(
    base: Graph,
    nodes: Iterable[NodeProto],
    added: Iterable[TensorProto] = (),
    arrays: Mapping[str, Array] | None = None,
) -> Graph:
    """The graph with these nodes in the place of its own; what the file says of values that are left still holds."""
    model = assembled(base, nodes, added, arrays=arrays)
    made = {name for node in model.proto.graph.node for name in node.output}
    model.proto.graph.value_info.extend(v for v in base.model.graph.value_info if v.name in made)
    return Graph.of(model, base.dims)


def open_ended(graph: Graph) -> ModelProto:
    """A model of the graph's nodes to which nodes and constants may be appended, and outputs, of which it has none."""
    model = files.without(graph.model, ("graph",))
    model.graph.CopyFrom(files.without(graph.model.graph, ("node", "output")))
    model.graph.node.extend(graph.nodes)
    if model.ir_version < 4:  # from then on constants needn't be inputs, and may be replaced if they are
        model.ir_version = 4
        given = [copied(value) for value in model.graph.input if value.name not in graph.initializers]
        del model.graph.input[:]
        model.graph.input.extend(given)
    return model


def assembled(
    graph: Graph,
    nodes: Iterable[NodeProto],
    added: Iterable[TensorProto],
    replaced: Mapping[str, TensorProto] | None = None,
    arrays: Mapping[str, Array] | None = None,
) -> Model:
    """The graph's model with these nodes and these constants added or replaced; what nothing reads any more goes.

    What nothing read before stays. What is known of values that nodes make isn't said any more. `arrays` are those of
    added constants that are only declared.
    """
    old, replaced = graph.model, replaced or {}
    model = files.without(old, ("graph",))
    model.graph.CopyFrom(files.without(old.graph, ("node", "initializer", "value_info")))
    read = graph.consumers.keys() | set(graph.outputs)
    live = needed(list(nodes), graph.outputs, always=lambda node: read.isdisjoint(node.output))
    model.graph.node.extend(live)
    used = {name for node in live for name in graph.reads(node)} | set(graph.outputs)
    for tensor in old.graph.initializer:
        if tensor.name in replaced or tensor.name in used or tensor.name not in graph.consumers:
            model.graph.initializer.append(replaced.get(tensor.name, tensor))
    model.graph.initializer.extend(tensor for tensor in added if tensor.name in used)
    _fit_inputs(model, set(graph.initializers))
    beside = [t.name for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    known = {**graph.arrays, **(arrays or {})}
    return Model(model, {name: known[name] for name in beside if name in known})


def _fit_inputs(model: ModelProto, optional: set[str]) -> None:
    """Initializers that are also inputs: the input states the new shape, or goes with its initializer.

    Files before IR version 4 list every initializer as an input, so there the new ones join them.
    """
    tensors = {t.name: t for t in model.graph.initializer}
    kept = [copied(v) for v in model.graph.input if v.name in tensors or v.name not in optional]
    if model.ir_version < 4:
        kept += [helper.make_tensor_value_info(n, 1, None) for n in tensors if n not in {v.name for v in kept}]
    for value in kept:
        if value.name in tensors:
            tensor = tensors[value.name]
            value.type.CopyFrom(helper.make_tensor_type_proto(tensor.data_type, tensor.dims))
    del model.graph.input[:]
    model.graph.input.extend(kept)


def copied(message: Message) -> Message:
    """A copy of a message."""
    new = type(message)()
    new.CopyFrom(message)
    return new
