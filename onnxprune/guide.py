"""How alike two networks answer where what they find decides how much they answer.

Two detectors seldom give the same number of boxes, and then nothing says which box of one to compare with which of the
other. But one of them can go on with what the other chooses. They are compared by what they would choose by (maps of
scores, in front of the choice) and by what they make of the same choices. Each of these values counts alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnxprune.calibration import Samples
from onnxprune.decisions import CHOICES, exposed
from onnxprune.evaluation import collected
from onnxprune.files import Model
from onnxprune.graph import Array, Graph
from onnxprune.oracle import compared
from onnxprune.runtime import Runtime, Session


@dataclass(frozen=True)
class Guide:
    """A network's choices, which others are given, and the values by which they are compared; names and types.

    What it chooses for some samples is known from then on.
    """

    session: Session  # makes the choices
    choices: Mapping[str, int]
    points: Mapping[str, int]
    runtime: Runtime
    chosen: dict[tuple[int, ...], list[Mapping[str, Array]]] = field(default_factory=dict)  # by samples and places

    @staticmethod
    def of(graph: Graph, runtime: Runtime, same: Callable[[str], bool]) -> Guide | None:
        """Of a network some of whose outputs have sizes that data decide; None of others.

        same: whether a value has the same shape in the network that is compared with it.
        """
        if graph.uncounted.isdisjoint(graph.outputs):
            return None
        points, choices = ({n: t for n, t in one.items() if same(n)} for one in compared(graph, CHOICES))
        if not choices or not points:
            return None
        session = runtime.session(exposed(Model(graph.model, graph.arrays), choices, {}))
        return Guide(session, choices, points, runtime)

    def answers(
        self, model: Model, samples: Samples, indices: Sequence[int], batch: int, *, changed: bool = False
    ) -> list[Array]:
        """The values at the points for these samples; none if a `changed` model makes no such values, or fails."""
        made = {name for node in model.proto.graph.node for name in node.output}
        if not self.points.keys() <= made:
            return []
        session = self.runtime.session(exposed(model, self.points, self.choices))
        return list(collected(session, self._given(samples, indices, batch), list(self.points), changed).values())

    def _given(self, samples: Samples, indices: Sequence[int], batch: int) -> Iterator[Mapping[str, Array]]:
        known = self.chosen.setdefault((id(samples), batch, *indices), [])
        for number, feed in enumerate(samples.batches(indices, batch)):
            if number == len(known):
                known.append(self.session.run(feed))
            yield {**feed, **known[number]}
