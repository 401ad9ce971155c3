"""How well models answer like the one that is pruned, or by labels: on samples that took no part in making them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxprune import evaluation, files
from onnxprune.calibration import Samples
from onnxprune.coupling import Coupling
from onnxprune.files import Model
from onnxprune.graph import Array
from onnxprune.guide import Guide
from onnxprune.ids import varying
from onnxprune.report import Fidelity, Loss
from onnxprune.run import Run

FARTHEST = 8.0  # times that a change of the answers is scaled
HALVINGS = 12


class Judgement(NamedTuple):
    """How well a model answers: its accuracy where there are labels, and so many times its change loses the allowed."""

    fidelity: Fidelity
    accuracy: float | None
    loss: Loss
    reach: float


@dataclass(frozen=True)
class Judge:
    """Compares models with the original of a run, whose answers and scores (where there are labels) it knows."""

    run: Run
    guide: Guide | None
    before: list[Array]
    scores: NDArray[np.float64] | None

    @staticmethod
    def of(run: Run) -> Judge:
        """One that has asked the original."""
        guide = Guide.of(run.original, run.options.runtime, partial(_stays, run.coupling))
        judge, original = Judge(run, guide, [], None), Model(run.original.model, run.original.arrays)
        return replace(judge, before=judge._answers(original, *judge.judged), scores=_scores(run, original))

    @property
    def allowed(self) -> float | None:
        """The largest loss that a target allows, if one does."""
        return min((t.value for t in self.run.options.targets if t.kind == "drop"), default=None)

    @property
    def accuracy(self) -> float | None:
        """Of the model that is pruned, where there are labels."""
        return None if self.scores is None else float(self.scores.mean())

    @property
    def judged(self) -> tuple[Samples, list[int]]:
        """The samples that judge: labelled ones if there are any, as many as memory has room for answers."""
        labelled = self.run.labelled
        if labelled is not None and labelled.samples is not None:
            return labelled.samples, list(range(min(labelled.samples.count, self._room)))
        return self.run.samples, self.run.division.judge[: self._room].tolist()

    @property
    def _room(self) -> int:
        """Samples whose answers memory has room for."""
        graph, guide = self.run.original, self.guide
        return evaluation.affordable(graph, [*guide.points, *guide.choices] if guide else graph.outputs)

    def judgement(self, model: Model) -> Judgement:
        """How well a model answers the samples that judge."""
        with self.run.timed("judge"):
            samples, indices = self.judged
            answers, scores = self._answers(model, samples, indices, changed=True), _scores(self.run, model)
            fidelity = self._fidelity(self.before, answers, len(indices))
            loss = evaluation.loss(fidelity, self.scores, scores)
            accuracy = None if scores is None else float(scores.mean())
            if self.allowed is None:
                return Judgement(fidelity, accuracy, loss, 1.0)
            loss = replace(loss, needed=evaluation.needed(loss, self.allowed))
            return Judgement(fidelity, accuracy, loss, self.reach(answers, loss.value))

    def changed(self, model: Model) -> float:
        """The relative change of the answers to the samples that choose: not to those that judge."""
        chosen, before = self._chosen
        with self.run.timed("judge"):
            after = self._answers(model, self.run.samples, chosen, changed=True)
        return self._fidelity(before, after, len(chosen)).relative_error

    @cached_property
    def _chosen(self) -> tuple[list[int], list[Array]]:
        """The samples that choose, as many as memory has room for answers, and what the original answers to them."""
        run, division = self.run, self.run.division
        chosen = (division.tune if len(division.tune) else division.fit)[: self._room].tolist()
        with run.timed("judge"):
            original = Model(run.original.model, run.original.arrays)
            return chosen, self._answers(original, run.samples, chosen)

    def _answers(self, model: Model, samples: Samples, indices: Sequence[int], *, changed: bool = False) -> list[Array]:
        """What is compared of a model; of a `changed` one that fails, empty arrays."""
        runtime, batch = self.run.options.runtime, self.run.at_once
        if self.guide is not None:
            found = self.guide.answers(model, samples, indices, batch, changed=changed)
        else:
            found = evaluation.answers(model, samples, indices, runtime, batch, changed=changed)
        return found or ([np.empty(0)] * len(self.before) if changed else [])

    def _fidelity(self, before: Sequence[Array], after: Sequence[Array], count: int) -> Fidelity:
        origin, guided = self.run.samples.origin, self.guide is not None
        return evaluation.fidelity(before, after, count, origin, guided=guided)

    def reach(self, answers: Sequence[Array], loss: float) -> float:
        """By what factor the change of the answers may grow until it loses what is allowed; at most FARTHEST."""
        allowed, labelled = self.allowed or 0.0, self.run.labelled
        unseen = labelled is not None and labelled.labels is None  # a function judges, and only files
        alike = bool(answers) and answers[0].shape == self.before[0].shape
        share = None if labelled else evaluation.unexplained(self.before, answers, self.run.samples.origin)
        farthest = min(FARTHEST, float(np.sqrt(allowed / share))) if share else FARTHEST
        if self.guide or unseen or not alike or not evaluation.looks_like_scores(answers[0]):
            return min(allowed / loss, farthest) if loss > 0 else farthest
        before, change = self.before[0], answers[0] - self.before[0]
        own = before.argmax(1)
        truth = own if labelled is None or labelled.labels is None else labelled.labels.ravel()[: len(own)]

        def within(factor: float) -> bool:
            right = (before + factor * change).argmax(1) == truth
            return float((own == truth).mean() - right.mean()) <= allowed

        low, high = farthest if within(farthest) else 0.0, farthest
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if within(middle) else (low, middle)
        return low

    def noise(self) -> list[Array]:
        """The answers changed by as much as they are, at random; labels in another order."""
        rng = np.random.default_rng(self.run.options.seed)

        def noisy(answer: Array) -> Array:
            if evaluation.are_labels(answer):
                return np.asarray(rng.permutation(answer))
            return np.asarray(answer + rng.normal(size=answer.shape) * np.sqrt(np.square(answer).mean()))

        return [noisy(answer) for answer in self.before]


def _stays(coupling: Coupling, name: str) -> bool:
    """Whether a value keeps its shape whatever is pruned."""
    ids = coupling.notes.ids.get(name)
    return ids is None or not varying(coupling.components.free(ids))


def _scores(run: Run, model: Model) -> NDArray[np.float64] | None:
    if run.labelled is None:
        return None
    if run.labelled.function is None:
        return evaluation.scores(model, None, run.labelled, run.options.runtime, run.at_once)
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        path = Path(folder) / "model.onnx"
        files.save(model, path)
        return evaluation.scores(model, path, run.labelled, run.options.runtime, run.at_once)
