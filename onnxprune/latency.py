"""Time as a cost of widths, measured where the model will run: provider, threads, batch.

Multiplications don't say how long a layer takes: convolutions cost in steps of the machine's vectors, thin layers are
bound by memory, and shortcuts cost something, too. So groups are narrowed in the model itself, and the model is timed
against the original, in turns. Groups between layers of the same shapes cost the same: they are narrowed together and
share the difference, which also makes it large enough to be measured. Of a group's widths a few are measured; all of
them count as sizes (see `allocation.Stepped`) such that the group alone saves just what was measured. What two groups
save at the same layer overlaps as multiplications do. Blocks that can go whole are timed in the same way.

What was measured is kept in `$ONNXPRUNE_CACHE`, by default `onnxprune` in the user's folder for caches, for each
machine, provider, number of threads and version of onnxruntime; other models with layers of the same shapes share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper, parser
from scipy.optimize import isotonic_regression

from onnxprune import clock
from onnxprune.allocation import Bilinear, Stepped
from onnxprune.blocks import outermost, without
from onnxprune.coupling import Coupling, Group
from onnxprune.files import Model
from onnxprune.graph import Array, Block, Graph, attributes
from onnxprune.notebook import Notebook
from onnxprune.plan import Plan
from onnxprune.rewrite import pruned
from onnxprune.runtime import Runtime
from onnxprune.selection import Ranking, spread

Float = NDArray[np.float64]
Ints = NDArray[np.int64]
Progress = Callable[[int, int], None]
MEASURED = 7  # widths of a group that are measured, besides the full one
ROUNDS = 31
SECONDS = 60.0  # for all measurements together, about
STEPS = (32, 16, 8)  # of channels in which convolutions may cost; else FINE
FINE = 4  # other widths don't fit onnxruntime's blocked convolutions and can be slower than wider ones
TOLERANCE = 0.06  # of the time within a step


def step(runtime: Runtime) -> int:
    """The step of channels in which convolutions cost here: widths between its multiples cost as the next one."""
    widths = range(36, 65, FINE)
    feed = {"x": np.ones((8, 64, 16, 16), np.float32)}
    taken = clock.in_turns([_convolutions(n) for n in widths], feed, runtime, rounds=ROUNDS)
    times = dict(zip(widths, np.median(taken, axis=0), strict=True))
    for size in STEPS:
        if all(abs(times[n] / times[-(-n // size) * size] - 1) < TOLERANCE for n in widths):
            return size
    return FINE


def _convolutions(inner: int) -> ModelProto:
    """Two convolutions with `inner` channels between them."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 13]> pair (float[8,64,16,16] x) => (float[8,64,16,16] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1)  b = Relu(a)  y = Conv<pads=[1,1,1,1]>(b, w2)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (inner, 64, 3, 3)), ("w2", (64, inner, 3, 3))):
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return model


def time_of_widths(
    coupling: Coupling,
    rankings: Sequence[Ranking],
    macs: Bilinear,
    feed: Mapping[str, Array],
    runtime: Runtime,
    progress: Progress = lambda done, total: None,
) -> Stepped:
    """Milliseconds per run as a function of the groups' widths; `macs` says which groups meet in which layers."""
    form = Plan(removed=tuple(coupling.graph.removed), merged=coupling.graph.merged)
    groups, clocked = [r.group for r in rankings], Clocked(coupling.graph, feed, runtime)
    full = np.array([g.channels for g in groups])
    alike = classes(coupling, groups)
    known: list[Ints] = [np.array([n]) for n in full]
    saved: list[Float] = [np.zeros(1) for _ in full]
    for number, (kind, members) in enumerate(alike.items()):
        widths = spread(rankings[members[0]].levels[:-1], MEASURED)
        apart = _independent(members, macs)

        def models(apart: Sequence[int] = apart, widths: Ints = widths) -> list[Model]:
            keeps = [{groups[g].name: rankings[g].kept(int(width)) for g in apart} for width in widths]
            return [pruned(coupling, replace(form, keep=keep)) for keep in keeps]

        less = clocked.saved((kind, widths.tolist()), models, len(apart), SECONDS / len(alike))
        for g in members:
            known[g], saved[g] = np.append(widths, full[g]), np.append(less, 0.0)
        progress(number + 1, len(alike))
    return _stepped(clocked.whole, macs, known, saved)


def time_of_blocks(
    graph: Graph, blocks: Sequence[Block], feed: Mapping[str, Array], runtime: Runtime
) -> tuple[float, Float]:
    """Milliseconds per run of a graph, and how many of them each block takes with it when it goes, [blocks]."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for place, block in enumerate(blocks):
        alike.setdefault(tuple(_kind(graph, i) for i in block.nodes), []).append(place)
    clocked, found = Clocked(graph, feed, runtime), np.zeros(len(blocks))
    for kinds, places in alike.items():
        gone = outermost(blocks[place] for place in places)

        def models(gone: Sequence[Block] = gone) -> list[Model]:
            less = without(graph, [block.output for block in gone])
            return [Model(less.model, less.arrays)]

        found[places] = clocked.saved(("block", *kinds), models, len(gone), SECONDS / len(alike))[0]
    return clocked.whole, found


class Clocked:
    """A model timed against others that lack some of it; differences are looked up where they are known."""

    def __init__(self, graph: Graph, feed: Mapping[str, Array], runtime: Runtime) -> None:
        self.original, self.feed, self.runtime = Model(graph.model, graph.arrays), feed, runtime
        self._shapes = sorted((name, value.shape) for name, value in feed.items())
        self._known = Notebook((clock.machine(), runtime.provider, runtime.threads, runtime.version))
        self._graph = graph

    @cached_property
    def whole(self) -> float:
        """Milliseconds per run of the model itself; kept, too, because what is saved is a part of what it was then."""
        kinds = [_kind(self._graph, index) for index in range(len(self._graph.nodes))]
        text = repr((self._shapes, "whole", kinds))
        if (known := self._known.get(text)) is not None:
            return float(known[0])
        taken = clock.in_turns([self.original], self.feed, self.runtime, rounds=ROUNDS)
        return float(self._known.put(text, np.median(taken, axis=0))[0])

    def saved(
        self, key: tuple[object, ...], models: Callable[[], Sequence[Model]], count: int, seconds: float
    ) -> Float:
        """Milliseconds that each of the models saves for each of the `count` parts that it lacks.

        The models ascend in size, so that each saves at most what those before it do. key: what a part's time depends
        on.
        """
        text = repr((self._shapes, key))
        if (known := self._known.get(text)) is not None:
            return known
        smaller = models()
        times = clock.in_turns([*smaller, self.original], self.feed, self.runtime, rounds=ROUNDS, seconds=seconds)
        rising = isotonic_regression(np.median(times, axis=0)).x
        return self._known.put(text, (rising[-1] - rising[:-1]) / count)


def _stepped(whole: float, macs: Bilinear, known: Sequence[Ints], saved: Sequence[Float]) -> Stepped:
    """The cost of which each group alone saves what was measured.

    The lowest width counts as itself, those between in proportion to what they save.
    """
    full = np.array([widths[-1] for widths in known])
    most = np.array([less[0] for less in saved])
    spans = np.array([widths[-1] - widths[0] for widths in known], float)
    slopes = np.divide(most, spans, out=np.zeros_like(most), where=spans > 0)
    counted = [
        n - (n - widths[0]) * (less / less[0] if less[0] > 0 else np.zeros(len(less)))
        for n, widths, less in zip(full, known, saved, strict=True)
    ]
    expected = macs.slope(full)
    rates = np.sqrt(np.divide(slopes, expected, out=np.zeros_like(slopes), where=expected > 0))
    curvature = macs.curvature * np.outer(rates, rates)
    np.fill_diagonal(curvature, 0.0)  # it is in what was measured
    return Stepped(whole, slopes, curvature, known, counted)


def classes(coupling: Coupling, groups: Sequence[Group]) -> dict[tuple[object, ...], list[int]]:
    """Places of groups between layers of the same kinds and shapes, together, by what they have in common."""
    found: dict[tuple[object, ...], list[int]] = {}
    for place, group in enumerate(groups):
        layers = [_kind(coupling.graph, index) for index in (*group.writers, *group.reads, *group.loops)]
        found.setdefault((group.channels, group.dims, *sorted(layers, key=str)), []).append(place)
    return found


def _kind(graph: Graph, index: int) -> tuple[object, ...]:
    """What the time of a node depends on: its operator, its settings, and the shapes of what it reads and makes."""
    node = graph.nodes[index]
    shapes = [graph.shapes.get(name) for name in (*node.input, *node.output)]
    settings = sorted((k, str(v)) for k, v in attributes(node).items())
    return (node.op_type, *shapes, *settings)


def _independent(members: Sequence[int], macs: Bilinear) -> list[int]:
    """As many of the groups as meet in no layer."""
    chosen: list[int] = []
    for g in members:
        if not macs.curvature[g, chosen].any():
            chosen.append(g)
    return chosen
