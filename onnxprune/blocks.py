"""Parts of a network that can be taken out whole, and the graph without some of them.

Blocks are found by structure, never by name:

*Residual.* A sum of two values of the same shape, one of which the other is computed from: the branch can go, and the
sum becomes its shortcut. So it is for both parts of a transformer's block. All that stands between must serve the
branch alone, and no layer that goes with it may read anything but what comes from the shortcut (a mask may come from
elsewhere, an encoder may not). Where the shortcut has been through the activation behind the sum, that goes, too.

*Plain.* A layer, and what treats every element by itself up to the first activation, if what comes out has the shape
of what goes in, outside of residual blocks.

A block that is taken out leaves an Identity from the shortcut to what it made, under the old name: all names of the
smaller graph are names of the original with the same meaning, so the two can be walked side by side (see `walk`), and
whatever else works on graphs needn't know.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from onnx import NodeProto, helper

from onnxprune.assembly import graph_of
from onnxprune.bodies import subgraphs
from onnxprune.cost import macs
from onnxprune.declared import FLOATS
from onnxprune.errors import DataError
from onnxprune.graph import Block, Graph
from onnxprune.ops.elementwise import UNARY, bounds

SILENT = {"Identity", "Dropout"}
PER_CHANNEL = {"BatchNormalization", "Add", "Mul", "Sub", "Div"}
ACTIVATIONS = set(UNARY) - SILENT | {"Clip", "PRelu"}


def find(graph: Graph) -> list[Block]:
    """All blocks of a graph in the order of the file; one may lie within another."""
    found = residual(graph)
    within = {i for block in found for i in block.nodes}
    layers = (i for i in range(len(graph.nodes)) if i not in within and macs(graph, i))
    found += [block for i in layers if (block := _plain(graph, i)) is not None]
    return sorted(found, key=lambda block: graph.producer[block.output])


def residual(graph: Graph) -> list[Block]:
    """The residual blocks among them."""
    return [block for i in range(len(graph.nodes)) if (block := _residual(graph, i)) is not None]


def without(graph: Graph, outputs: Collection[str]) -> Graph:
    """The graph without the blocks that make these values. Raises DataError if there is no such block."""
    if not outputs:
        return graph
    known = {block.output: block for block in find(graph)}
    if unknown := [name for name in outputs if name not in known]:
        raise DataError(f"'{unknown[0]}' isn't made by a block that can be removed; was the plan made for this model?")
    blocks = outermost(block for name, block in known.items() if name in outputs)
    gone = {i for block in blocks for i in block.nodes}
    bridges = {graph.producer[block.output]: block for block in blocks}
    nodes = [
        _bridge(graph.nodes[i], bridges[i]) if i in bridges else node
        for i, node in enumerate(graph.nodes)
        if i in bridges or i not in gone
    ]
    taken = {block.output: block for block in blocks}
    return replace(graph_of(graph, nodes), full=graph, removed=taken, standard=graph.standard, merged=graph.merged)


def outermost(blocks: Iterable[Block]) -> list[Block]:
    """The blocks without those that lie within another of them."""
    blocks = list(blocks)
    return [one for one in blocks if not any(set(one.nodes) < set(other.nodes) for other in blocks)]


def _bridge(node: NodeProto, block: Block) -> NodeProto:
    return helper.make_node("Identity", [block.shortcut], [block.output], node.name)


def _residual(graph: Graph, index: int) -> Block | None:
    """The block that ends in this sum, or in the activation behind it."""
    node = graph.nodes[index]
    if node.op_type != "Add" or len(set(node.input)) != 2 or any(name in graph.static for name in node.input):
        return None
    for branch, operand in (node.input, node.input[::-1]):
        shortcut = source(graph, operand)
        if branch in graph.producer and _alike(graph, [branch, operand, shortcut, node.output[0]]):
            path = _between(graph, shortcut, branch)
            if path and graph.producer[branch] in path and any(macs(graph, i) for i in path):
                return _whole(graph, _behind(graph, node.output[0], shortcut), shortcut, path)
    return None


def source(graph: Graph, name: str) -> str:
    """The value of which this one is a copy."""
    while name in graph.producer and graph.nodes[graph.producer[name]].op_type in SILENT:
        name = graph.nodes[graph.producer[name]].input[0]
    return name


def _alike(graph: Graph, names: Iterable[str]) -> bool:
    """Whether these values have the same known shape, whatever the sizes, and hold numbers to calculate with."""
    names = list(names)
    shapes = [{probe.shapes.get(name) for name in names} for probe in graph.probes]
    return all(len(s) == 1 and None not in s for s in shapes) and all(graph.types.get(n) in FLOATS for n in names)


def _between(graph: Graph, start: str, end: str) -> list[int]:
    """Nodes on the paths from one value to another, in the order of the file."""
    first, last = graph.producer.get(start, -1), graph.producer[end]
    reached, forward = {start}, []
    for i in range(first + 1, last + 1):
        if not reached.isdisjoint(graph.reads(graph.nodes[i])):
            forward.append(i)
            reached.update(graph.nodes[i].output)
    return graph.needed(forward, [end])


def _behind(graph: Graph, name: str, shortcut: str) -> str:
    """What comes out behind a sum: of its activation, where that would change nothing of the shortcut any more."""
    readers = graph.consumers.get(name, [])
    if len(readers) != 1 or name in graph.outputs or shortcut not in graph.producer:
        return name
    node, maker = graph.nodes[readers[0]], graph.nodes[graph.producer[shortcut]]
    cut = bounds(graph, node)
    return node.output[0] if cut is not None and cut == bounds(graph, maker) else name


def _whole(graph: Graph, output: str, shortcut: str, path: Collection[int]) -> Block | None:
    """The block between two values, if what is on the `path` goes with it, and no layer but that."""
    gone = _gone(graph, output, shortcut)
    numbers = {i for i in path if any(graph.types.get(name) in FLOATS for name in graph.nodes[i].output)}
    layers = {i for i in gone if macs(graph, i)}
    if not numbers <= gone or not layers <= set(path) or any(any(subgraphs(graph.nodes[i])) for i in gone):
        return None
    made = {name for i in gone for name in graph.nodes[i].output}
    reads = {name for i in gone for name in graph.reads(graph.nodes[i])} - made - graph.static
    return Block(output, shortcut, tuple(sorted(gone)), tuple(sorted(reads)))


def _gone(graph: Graph, output: str, shortcut: str) -> set[int]:
    """What nothing needs any more once all that reads `output` reads `shortcut`."""
    last = graph.producer[output]
    gone = {last}
    for i in range(last - 1, -1, -1):
        names = [name for name in graph.nodes[i].output if name]
        readers = [j for name in names for j in graph.consumers.get(name, [])]
        if readers and gone.issuperset(readers) and not {shortcut, *graph.outputs}.intersection(names):
            gone.add(i)
    return gone


def _plain(graph: Graph, index: int) -> Block | None:
    """The block that begins with this layer and ends with the first activation behind it."""
    inputs = [name for name in graph.nodes[index].input if name and name not in graph.static]
    path, node = [index], graph.nodes[index]
    while len(inputs) == 1 and node.op_type not in ACTIVATIONS:
        readers = graph.consumers.get(node.output[0], [])
        if len(readers) != 1 or node.output[0] in graph.outputs:
            return None
        path.append(readers[0])
        node = graph.nodes[readers[0]]
        moving = [name for name in node.input if name and name not in graph.static]
        if len(moving) != 1 or node.op_type not in ACTIVATIONS | PER_CHANNEL | SILENT:
            return None
    if len(inputs) != 1 or not _alike(graph, [inputs[0], node.output[0]]) or not graph.consumers.get(node.output[0]):
        return None
    return _whole(graph, node.output[0], inputs[0], path)
