"""Trim a little, recover, repeat: a target reached in several steps, each from what the one before it made.

Network Trimming's loop (Hu et al. 2016), for any method. Recovery is the repair of each step, towards the answers of
the model that the step began with, and the user's own training where it is given: a command that reads one .onnx file
and writes another, in whatever framework, or a function. What comes back is looked at before anything is built on it.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from onnxprune import files, heads
from onnxprune.cost import COSTS, total_macs
from onnxprune.coupling import Group
from onnxprune.declared import length
from onnxprune.errors import BudgetError, DataError, ModelError
from onnxprune.files import Model
from onnxprune.graph import Array, Graph
from onnxprune.oracle import Verdict
from onnxprune.plan import Plan
from onnxprune.report import Target
from onnxprune.run import Retrain
from onnxprune.runtime import Runtime
from onnxprune.search import Candidate, Search

Ints = NDArray[np.int64]
STDERR = 2  # what training prints isn't a result


def iterate(
    search: Search, verify: Callable[[Search, Candidate], Verdict]
) -> tuple[Candidate, Verdict, BudgetError | None]:
    """What the last step made, judged against the original; the worst of all surgery checks; why a target was missed.

    The plan that comes with it says which of the original's channels are left, and no weights.
    """
    options, graph = search.run.options, search.run.coupling.graph
    here, model, failure = search, Model(graph.model, graph.arrays), None
    left = {g.name: np.arange(g.channels) for g in search.run.coupling.groups}
    verdicts, errors = [], dict[str, float]()
    for number, goals in enumerate(schedule(options.targets, options.iterations), 1):
        here = here.other(targets=relative(goals, graph, here.run.coupling.graph))
        try:
            found, failure = here.best()
        except BudgetError as error:
            if number == 1:
                raise
            failure = error
            break
        verdicts.append(verify(here, found))
        left, model, errors = _followed(left, here.run.coupling.groups, found.plan.keep), found.model, found.errors
        if options.retrain is not None:
            with search.run.timed("retrain"):
                feed = next(iter(search.run.samples.batches(search.run.division.fit[:2].tolist(), 2)))
                model = retrained(model, options.retrain, feed, options.runtime)
        if failure is not None or number == options.iterations:
            break
        here = search.on(model)
    if failure is not None and options.iterations > 1:
        share = _share(options.targets[0].kind, here.run.coupling.graph, graph)
        failure = BudgetError(
            f"in step {number} of {options.iterations}, counted from its start: {failure}", failure.reachable * share
        )
    keep = {g.name: left[g.name] for g in search.run.coupling.groups if len(left[g.name]) < g.channels}
    plan = Plan(keep, {}, heads.names(search.run.coupling))
    found = Candidate(search.run.coupling, plan, model, errors, *search.judge.judgement(model))
    return found, max(verdicts, key=lambda v: (not v.ok, v.max_abs_diff)), failure


def schedule(targets: Sequence[Target], steps: int) -> Iterator[tuple[Target, ...]]:
    """Targets of each step: every step keeps the same share of what the one before it left."""
    for number in range(1, steps + 1):
        yield tuple(t if number == steps else replace(t, value=t.value ** (number / steps)) for t in targets)


def relative(targets: Sequence[Target], original: Graph, now: Graph) -> tuple[Target, ...]:
    """The same targets as fractions of what there is now; losses as they are."""
    return tuple(
        t if t.kind == "drop" else replace(t, value=min(t.value / _share(t.kind, now, original), 1.0)) for t in targets
    )


def _share(kind: str, now: Graph, original: Graph) -> float:
    """What is left of a cost."""
    count = COSTS[kind].count
    return max(count(now), 1) / max(count(original), 1)


def _followed(left: Mapping[str, Ints], groups: Sequence[Group], keep: Mapping[str, Ints]) -> dict[str, Ints]:
    """Which of the original's channels are left after a step; DataError if its groups aren't those that were left.

    A group is known by its name; where training has renamed the nodes, all are by their order.
    """
    sizes = {g.name: g.channels for g in groups}
    names = {name: name for name in left if name in sizes}
    if not names:
        names = dict(zip(left, sizes, strict=False))
    if any(sizes[now] != len(left[name]) for name, now in names.items()) or len(names) < len(sizes):
        raise DataError(
            "the retrained model has other groups of channels than the one that was given to training; "
            "export it with the same layers."
        )
    return {n: kept[keep[names[n]]] if n in names and names[n] in keep else kept for n, kept in left.items()}


# ---------------------------------------------------------------------------------------------- retraining


def retrained(model: Model, how: Retrain, feed: Mapping[str, Array], runtime: Runtime) -> Model:
    """The model after the user's training: a command with {in} and {out}, or a function of a ModelProto.

    Raises DataError if training fails, or if its result isn't the same model with other weights, as far as can be seen:
    inputs and outputs, a run on `feed`, and no more multiplications.
    """
    new = _by_command(model, how) if isinstance(how, str) else _by_function(model, how)
    try:
        _demand_alike(model, new, feed, runtime)
    except ModelError as error:
        raise DataError(f"the retrained model can't be used: {error}") from error
    known = {p.key for p in new.proto.metadata_props}
    new.proto.metadata_props.extend(p for p in model.proto.metadata_props if p.key not in known)
    return new


def _by_command(model: Model, command: str) -> Model:
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        before, after = Path(folder) / "pruned.onnx", Path(folder) / "retrained.onnx"
        files.save(model, before)
        words = [w.replace("{in}", str(before)).replace("{out}", str(after)) for w in shlex.split(command)]
        try:
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=STDERR, check=False)
        except OSError as error:
            raise DataError(f"the retraining command can't be run: {words[0]}: {error.strerror or error}.") from error
        if done.returncode:
            raise DataError(f"the retraining command failed with exit code {done.returncode}: {shlex.join(words)}")
        if not after.exists():
            raise DataError(f"the retraining command wrote no model to {{out}}: {shlex.join(words)}")
        try:
            return replace(files.load(after), path=None, data=())  # mapped files stay readable when they are gone
        except ModelError as error:
            raise DataError(f"what the retraining command wrote to {{out}} can't be read: {error}") from error


def _by_function(model: Model, function: Callable[[ModelProto], ModelProto]) -> Model:
    given = ModelProto()
    given.CopyFrom(files.embedded(model))
    try:
        new = function(given)
    except Exception as error:  # the user's own code may raise anything
        raise DataError(f"the function given as retrain failed: {type(error).__name__}: {error}") from error
    if not isinstance(new, ModelProto):
        raise DataError(f"the function given as retrain must return a ModelProto, not a {type(new).__name__}.")
    return files.whole(new)


def _demand_alike(model: Model, new: Model, feed: Mapping[str, Array], runtime: Runtime) -> None:
    """Raise DataError or ModelError where the new model can't stand in for the one that was given to training."""
    before, after = Graph.of(model), Graph.of(new)
    for kind, old, now in (
        ("inputs", before.inputs, after.inputs),
        ("outputs", model.proto.graph.output, new.proto.graph.output),
    ):
        wanted, got = (", ".join(_stated(v) for v in values) for values in (old, now))
        if wanted != got:
            raise DataError(
                f"the retrained model has other {kind} than the one given to training: {got}, not {wanted}."
            )
    expected, found = (runtime.session(one).run(feed) for one in (model, new))
    for name, value in found.items():
        if value.shape != expected[name].shape:
            raise DataError(
                f"output '{name}' of the retrained model is of shape {value.shape}, not {expected[name].shape}."
            )
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise DataError(f"output '{name}' of the retrained model isn't finite: did training diverge?")
    more, most = total_macs(after), total_macs(before)
    if more > most:
        raise DataError(
            f"the retrained model takes {more} multiplications, more than the {most} of the one given to training: "
            "train that one, not the original."
        )


def _stated(value: ValueInfoProto) -> str:
    """A value's name and shape; sizes that aren't fixed are question marks."""
    sizes = (str(length(d) or "?") for d in value.type.tensor_type.shape.dim)
    return f"{value.name}[{','.join(sizes)}]"
