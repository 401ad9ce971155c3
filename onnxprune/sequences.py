"""Sequences of tensors whose elements are known one by one.

Exporters write lists of Python as sequences: what a loop appends to one is read again by its constant place. A `Graph`
lists a node that takes such an element out as an Identity of it, one that joins them as a Concat, and leaves out what
only makes sequences that nothing reads any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from onnxprune.bodies import stacked
from onnxprune.nodes import needed

MAKING = {"SequenceEmpty", "SequenceConstruct", "SequenceInsert", "SequenceErase"}
READING = {"SequenceAt", "SequenceLength", "ConcatFromSequence"}


class Sequences:
    """The elements of the sequences that are made so far, by their names.

    `values` are the constants known so far, `name` makes a name that isn't taken.
    """

    def __init__(self, values: Mapping[str, NDArray[Any]], name: Callable[[str], str], opset: int) -> None:
        self.values, self.name, self.opset = values, name, opset
        self.elements: dict[str, list[str]] = {}

    def apart(self, node: NodeProto) -> list[NodeProto]:
        """The nodes in the place of one that reads a known sequence; else the node itself, which may make one."""
        try:
            if node.op_type in MAKING or (node.op_type == "Identity" and node.input[0] in self.elements):
                self.elements[node.output[0]] = self._made(node)
            elif node.op_type in READING:
                return self._read(node, self.elements[node.input[0]])
        except (KeyError, IndexError):  # the sequence or the place isn't known, or there is none
            pass
        return [node]

    def needed(self, nodes: list[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
        """The nodes without those that make a known sequence that nothing reads."""
        return needed(nodes, outputs, always=lambda node: self.elements.keys().isdisjoint(node.output))

    def _made(self, node: NodeProto) -> list[str]:
        if node.op_type in ("SequenceEmpty", "SequenceConstruct"):
            return list(node.input)
        elements = list(self.elements[node.input[0]])
        length = len(elements)
        if node.op_type == "SequenceInsert":
            place = self._place(node.input[2], length + 1) if len(node.input) > 2 else length
            elements.insert(place, node.input[1])
        elif node.op_type == "SequenceErase":
            del elements[self._place(node.input[1], length) if len(node.input) > 1 else -1]
        return elements

    def _read(self, node: NodeProto, elements: list[str]) -> list[NodeProto]:
        if node.op_type == "SequenceAt":
            element = elements[self._place(node.input[1], len(elements))]
            return [helper.make_node("Identity", [element], node.output, node.name)]
        if node.op_type == "SequenceLength":
            length = numpy_helper.from_array(np.asarray(len(elements), np.int64))
            return [helper.make_node("Constant", [], node.output, node.name, value=length)]
        axis, new = (next((a.i for a in node.attribute if a.name == n), 0) for n in ("axis", "new_axis"))
        if not elements:
            raise IndexError(node.op_type)
        if new:
            return stacked(elements, node.output[0], self.name, self.opset, axis)
        return [helper.make_node("Concat", elements, node.output, node.name, axis=axis)]

    def _place(self, name: str, length: int) -> int:
        """A constant place in a sequence, counted from its start."""
        place = int(self.values[name].item())
        if not -length <= place < length:
            raise IndexError(place)
        return place % length
