"""The table of operator rules, and what a rule sees: a `Visit` while coupling, a `Cut` while rewriting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper
from onnx.defs import SchemaError, get_schema

from onnxprune.contrib import STANDARD
from onnxprune.graph import Array, Graph, Probe, Shape, attributes, key
from onnxprune.ids import Ids, Ledger, narrow, widen

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Parameter:
    """An axis of a constant tensor whose elements belong to channels; as a "writer" it makes them.

    A weight is the same for all who read it: two layers that share one share their channels. Of a "parameter" every
    `user` may have a copy of its own (tools that clean graphs merge all constants of equal content). With `lanes`,
    each element of axis 0 has channels of its own along the axis.
    """

    tensor: str
    axis: int
    role: str  # "writer", "reader" or "parameter"
    user: int | None = None
    lanes: bool = False


@dataclass(frozen=True)
class Product:
    """A product of two activations whose channels are the dims of its heads; ids [heads, D] as they come in.

    Dims of `left` are multiplied by those of `right` and summed up; without `right` they pass through.
    """

    index: int
    left: Ids
    right: Ids | None = None


@dataclass
class Notes:
    """What the walk writes down beside the ledger: ids of every value, parameters and the readers' input channels.

    `by_rank` names the products of activations whose channels are to be the dims of heads, not the heads.
    """

    by_rank: frozenset[int] = frozenset()

    ids: dict[str, Ids] = field(default_factory=dict)
    parameters: dict[Parameter, Ids] = field(default_factory=dict)
    uses: dict[tuple[int, int], dict[int, Ids]] = field(default_factory=dict)  # (node, input) -> axis -> ids
    readers: dict[int, Ids] = field(default_factory=dict)  # node index -> ids of the channels that it contracts
    places: dict[int, int] = field(default_factory=dict)  # node index -> the input that has those channels
    totals: set[int] = field(default_factory=set)  # readers that only add up what is left of the channels
    writers: dict[int, Ids] = field(default_factory=dict)  # node index -> ids of the channels that it makes
    sums: list[tuple[Ids, Ids]] = field(default_factory=list)  # ids of the two activations that are added
    feedback: dict[int, dict[int, Ids]] = field(default_factory=dict)  # node index -> input -> ids of its own channels
    refused: dict[int, str] = field(default_factory=dict)  # node index -> why no channels pass through it
    parts: list[Ids] = field(default_factory=list)  # ids of a part that is cut out of a value: one of them must stay
    heads: set[int] = field(default_factory=set)  # node indices of products of activations
    products: list[Product] = field(default_factory=list)  # those of `by_rank`
    bends: list[tuple[int, Ids]] = field(default_factory=list)  # (node index, ids) that are treated one by one there
    passing: dict[int, Ids] = field(default_factory=dict)  # node index -> channels that pass through a matrix product
    copied: dict[int, Ids] = field(default_factory=dict)  # node index -> channels that are repeated along another axis
    apart: dict[int, str] = field(default_factory=dict)  # node index -> why none that pass through a product can go
    grouped: dict[int, tuple[Ids, Ids]] = field(default_factory=dict)  # convolution -> what its groups read and make
    whole: set[int] = field(default_factory=set)  # node indices of convolutions whose groups go whole

    def made(self, ids: Ids) -> bool:
        """Whether a layer makes any of these channels."""
        return any(np.isin(ids, written).any() for written in self.writers.values())


class View:
    """One node, its attributes, and what one probe knows of its inputs and outputs."""

    def __init__(self, graph: Graph, probe: Probe, index: int) -> None:
        self.graph, self.probe, self.index = graph, probe, index
        self.node: NodeProto = graph.nodes[index]
        self.attrs = attributes(self.node)
        self.label = self.node.name or key(self.node)

    def __str__(self) -> str:
        return f"{self.node.op_type} '{self.label}'"

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute, or its default."""
        return self.attrs.get(name, default)

    def name(self, i: int) -> str:
        """Name of input i; empty when it isn't there."""
        return self.node.input[i] if i < len(self.node.input) else ""

    def has(self, i: int) -> bool:
        """Whether input i is given."""
        return bool(self.name(i))

    def shape(self, i: int) -> Shape:
        """Shape of input i."""
        return self.probe.shapes[self.name(i)]

    def out_shape(self, k: int = 0) -> Shape:
        """Shape of output k."""
        return self.probe.shapes[self.node.output[k]]

    def static(self, i: int) -> bool:
        """Whether input i is a constant."""
        return self.name(i) in self.graph.static

    def value(self, i: int) -> Array | None:
        """Value of input i if it is a constant or known shape arithmetic."""
        if not self.has(i):
            return None
        if self.static(i):
            return self.graph.array(self.name(i))
        return self.probe.values.get(self.name(i))

    def fixed(self, i: int) -> bool:
        """Whether input i is absent, or its value is known and the same for all sizes of the symbolic dimensions."""
        if not self.has(i) or self.static(i):
            return True
        first, *others = [probe.values.get(self.name(i)) for probe in self.graph.probes]
        return first is not None and all(other is not None and np.array_equal(first, other) for other in others)


class Visit(View):
    """A node as its coupling rule sees it. What becomes of an input whose ids the rule doesn't ask for: it stays."""

    def __init__(self, graph: Graph, probe: Probe, index: int, ledger: Ledger, notes: Notes) -> None:
        super().__init__(graph, probe, index)
        self.ledger, self.notes = ledger, notes
        self.seen: set[int] = set()

    def ids(self, i: int, *, lanes: bool = False) -> Ids:
        """Ids of input i; none for constants, whose axes `parameter` names one by one.

        Where lanes lie side by side along an axis of their own, they are tied, unless the rule can do with `lanes`.
        """
        self.seen.add(i)
        ids = self.notes.ids.get(self.name(i), np.zeros((1,) * len(self.shape(i)), np.int64))
        axes = [] if lanes else self.ledger.lane_axes(ids)
        return self.unite(ids, axes) if axes else ids

    def accept(self, *inputs: int) -> None:
        """Inputs that state sizes, and that `shrink` states anew when channels go: they hinder none from going."""
        self.seen.update(inputs)

    def follows(self, i: int, ids: Ids, axes: Sequence[int]) -> bool:
        """Whether the sizes in input i, computed for `axes`, state for channels of `ids` just how many those are."""
        stated = dict(zip(axes, widen(self.ids(i), self.shape(i)), strict=True))
        varying = [axis for axis, n in enumerate(ids.shape) if n > 1 and axis in stated]
        return all(self.ledger.counts(int(stated[axis]), ids) for axis in varying)

    def channels(self, i: int, axis: int, why: str = "mixes neighbouring channels") -> Ids:
        """Ids of input i along one axis, as a vector; what varies along other axes too is tied there."""
        return self.vector(self.ids(i), self.shape(i), axis, why)

    def contracted(self, i: int, axis: int) -> Ids:
        """Ids of input i along an axis over which the node sums: it is noted as a reader of these channels."""
        ids = self.notes.readers[self.index] = self.channels(i, axis)
        self.notes.places[self.index] = i
        return ids

    def vector(self, ids: Ids, shape: Shape, axis: int, why: str = "mixes neighbouring channels") -> Ids:
        """The ids along `axis`, real length, tied across all other axes; channels that only vary along those stay."""
        if ids.shape[axis] == 1 and any(n > 1 for n in ids.shape):
            self.freeze(ids, why)
        return self.unite(widen(ids, shape, [axis]), set(range(ids.ndim)) - {axis}).ravel()

    def unite(self, ids: Ids, axes: Iterable[int]) -> Ids:
        """The ids with those along some axes tied, which get length 1: what varies along the others goes whole."""
        whole = {axis % ids.ndim for axis in axes}
        first = ids[(*(slice(0, 1) if axis in whole else slice(None) for axis in range(ids.ndim)), ...)]
        self.tie(ids, first)
        return first

    def gather(self, ids: Ids, axes: set[int], why: str) -> Ids:
        """The ids of what takes all along some axes, which get length 1.

        Channels that vary along other axes, too, go together along these, as all those of an attention head or of a
        norm group; those that vary along nothing else stay.
        """
        varying = {axis for axis, n in enumerate(ids.shape) if n > 1}
        if varying and varying <= axes:
            self.freeze(ids, why)
            return self.staying(why, ids.ndim)
        return self.unite(ids, axes)

    def united(self, parts: Sequence[Ids]) -> Ids:
        """The ids of several values at once, which are tied at equal places."""
        result = parts[0]
        for part in parts[1:]:
            self.tie(result, part)
            result = np.where(result == 0, part, result)
        return result

    def staying(self, why: str, rank: int | None = None) -> Ids:
        """Ids of a result (of output 0 when no rank is given) of which everything stays, and what it is joined with."""
        one = self.ledger.fresh(("staying", self.index), 1)
        self.freeze(one, why)
        return one.reshape((1,) * (len(self.out_shape()) if rank is None else rank))

    def parameter(self, i: int, axis: int, role: str = "parameter", *, lanes: bool = False) -> Ids:
        """Ids of an axis of the constant input i; with `lanes` [length of axis 0, length]."""
        user, shape = self.index if role == "parameter" else None, self.shape(i)
        ids = self.ledger.fresh(("constant", self.name(i), axis, user), shape[axis] * (shape[0] if lanes else 1))
        ids = ids.reshape(shape[0], -1) if lanes else ids
        self.notes.parameters.setdefault(Parameter(self.name(i), axis, role, user, lanes), ids)
        self.notes.uses.setdefault((self.index, i), {})[axis] = ids
        return ids

    def set(self, ids: Ids, k: int = 0) -> None:
        """Ids of output k."""
        if k < len(self.node.output) and self.node.output[k]:
            self.notes.ids[self.node.output[k]] = narrow(ids)

    def set_channels(self, vector: Ids, axis: int = 1, k: int = 0) -> None:
        """Ids of output k that vary along one axis."""
        shape = [1] * len(self.out_shape(k))
        shape[axis] = len(vector)
        self.set(vector.reshape(shape), k)

    def set_part(self, ids: Ids, whole: Ids, k: int = 0) -> None:
        """Ids of output k, cut out of an axis of `whole`: a part never loses all its channels, nor does a lane."""
        cut = [axis for axis, n in enumerate(whole.shape) if ids.shape[axis] < n]
        if not set(cut) <= set(self.ledger.lane_axes(whole)):
            self.notes.parts.append(np.unique(ids[ids != 0]))
        self.set(ids, k)

    def tie(self, a: Ids, b: Ids) -> None:
        """Channels that stay or go together."""
        self.ledger.tie(a, b, f"{self} combines them with values that don't belong to channels of a layer")

    def freeze(self, ids: Ids, why: str) -> None:
        """Channels that must stay; `why` completes the sentence "Conv 'x' ..."."""
        self.ledger.freeze(ids, f"{self} {why}")

    @property
    def by_rank(self) -> bool:
        """Whether the channels of this product of activations are to be the dims of its heads."""
        return self.index in self.notes.by_rank

    def freeze_all(self, why: str) -> None:
        """All channels that reach this node stay, and so does all that its outputs are joined with."""
        self.notes.refused.setdefault(self.index, f"{self} {why}")
        for name in self.graph.reads(self.node):
            if name in self.notes.ids:
                self.freeze(self.notes.ids[name], why)
        for k, name in enumerate(self.node.output):
            if name in self.probe.shapes:
                self.set(self.staying(why, len(self.out_shape(k))), k)

    def purpose(self, i: int) -> str:
        """What input i is called in the definition of the operator; empty when that isn't known."""
        try:
            formal = get_schema(self.node.op_type, self.graph.opset, "" if self.node.domain in STANDARD else "?").inputs
        except SchemaError:
            return ""
        return formal[i].name if i < len(formal) else ""


@dataclass
class Cut:
    """One node as its shrinking rule sees it while the model is rewritten: which channels of each value are kept."""

    view: View
    node: NodeProto  # a copy that the rule may change
    mask: Callable[[str, int], Bools]  # (value, axis) -> kept flags, real length
    restated: Callable[[str], bool]  # whether a computed size counts channels of which some go
    constant: Callable[[Array, str], str]  # adds an initializer, gives its name
    fresh: Callable[[str], str]  # makes a name that isn't taken
    before: list[NodeProto] = field(default_factory=list)  # nodes that run first

    @property
    def graph(self) -> Graph:
        """The graph before pruning."""
        return self.view.graph

    @property
    def attrs(self) -> dict[str, Any]:
        """The node's attributes."""
        return attributes(self.node)

    def shape(self, name: str) -> Shape:
        """Shape before pruning."""
        return self.graph.shapes[name]

    def kept(self, name: str) -> Shape:
        """Shape after pruning."""
        return tuple(int(self.mask(name, axis).sum()) for axis in range(len(self.shape(name))))

    def changes(self, name: str) -> bool:
        """Whether the value loses channels."""
        return self.kept(name) != self.shape(name)

    def set_attr(self, name: str, value: Any) -> None:
        """Replace an attribute."""
        self.drop_attr(name)
        self.node.attribute.append(helper.make_attribute(name, value))

    def drop_attr(self, name: str) -> None:
        """Remove an attribute, so that its default holds."""
        for a in [a for a in self.node.attribute if a.name == name]:
            self.node.attribute.remove(a)

    def set_input(self, i: int, value: Array, hint: str) -> None:
        """Replace input i by a new constant; one of the sort of the old one where that is given."""
        old = self.view.value(i)
        value = value if old is None else value.astype(old.dtype)
        self.node.input.extend([""] * (i + 1 - len(self.node.input)))
        self.node.input[i] = self.constant(value, f"{self.node.input[i] or key(self.node)}_{hint}")

    def lower_input(self, i: int, by: Array) -> None:
        """Replace input i by itself less `by`; a node that runs first calculates that."""
        old, new = self.node.input[i], self.fresh(f"{self.node.input[i]}_lowered")
        self.before.append(helper.make_node("Sub", [old, self.constant(by, f"{old}_less")], [new], new))
        self.node.input[i] = new


def never(v: Visit) -> bool:
    """No."""
    return False


def always(v: Visit) -> bool:
    """Yes."""
    return True


@dataclass(frozen=True)
class Rule:
    """All that is known of one operator."""

    couple: Callable[[Visit], None]
    shrink: Callable[[Cut], None] | None = None
    linear: Callable[..., Any] | None = None  # (Graph, node index) -> linear.Linear or None
    loop: Callable[..., Any] | None = None  # the same for how the node reads its own channels, a step later
    affine: Callable[..., Any] | None = None  # (Graph, node, input position) -> (scale, shift) or None
    commutes: Callable[[Visit], bool] = never  # whether channels may be mixed by a matrix before it as well as behind


RULES: dict[tuple[str, str], Rule] = {}


def rule(*names: str, domain: str = "", **parts: Any) -> Callable[[Callable[[Visit], None]], Callable[[Visit], None]]:
    """Register a coupling rule (and its further parts) for operators."""

    def register(couple: Callable[[Visit], None]) -> Callable[[Visit], None]:
        for name in names:
            RULES[domain, name] = Rule(couple, **parts)
        return couple

    return register


def find(node: NodeProto) -> Rule | None:
    """The rule of a node's operator, if someone taught it."""
    return RULES.get(("" if node.domain in STANDARD else node.domain, node.op_type))
