"""Pruning on one page.

    graph ─couple─▶ groups ─calibrate─▶ moments ─rank─▶ curves ─allocate─▶ widths ─reconstruct─▶ plan ─rewrite─▶ model

`prune` is that line: what was asked for stands in `run`, what may be pruned in `scope`, the way to widths in `steps`,
from there to weights in `repair`, their use for a target in `search`. Samples are divided once: most are fitted, some
choose (dampings, error curves, probes), and some only judge the result; with labelled data given, those judge and none
are held back.

NumPy's linear algebra runs on one thread meanwhile. Its products are many and small: threads that wait for each other
between them, and for onnxruntime's, made whole runs several times slower on a busy machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto
from threadpoolctl import threadpool_limits

from onnxprune import clock, evaluation, files, oracle
from onnxprune.calibration import PLAIN, Preprocessing
from onnxprune.data import labelled_of, samples_of, shapes_of
from onnxprune.declared import length
from onnxprune.depth import Shallowing
from onnxprune.errors import BudgetError, DataError, UsageError
from onnxprune.files import Model
from onnxprune.graph import Array, Graph
from onnxprune.guide import Guide
from onnxprune.heads import ATTENTION, attend, restored
from onnxprune.iteration import iterate
from onnxprune.merging import planned
from onnxprune.plan import Plan
from onnxprune.report import Comparison, Inspection, Latency, Report, Target, group_reports, left_alone
from onnxprune.run import TIMED_BATCH, Options, Progress, Run, prepare
from onnxprune.runtime import Runtime
from onnxprune.scope import why_left_out
from onnxprune.search import Candidate, Search, parse_targets, stamp
from onnxprune.serialize import carried_out, serialize
from onnxprune.shortening import Shortening

SPREAD = 0.05  # by which the upper bound of the measured time may exceed what was asked for
BRIEFLY: dict[str, Any] = {"rounds": 15, "seconds": 6.0}  # timing where nothing depends on it


@dataclass(frozen=True)
class Result:
    """The pruned model, the report, and the plan that made it. `written` is the model as `save` writes it.

    Of a run in several steps, or with training in between, the plan has the channels that are left, and no weights.
    """

    written: Model
    report: Report
    plan: Plan

    @cached_property
    def model(self) -> ModelProto:
        """The pruned model with all its data in it; `onnx.save` needs save_as_external_data=True above 2 GB."""
        return files.embedded(self.written)

    def save(self, path: str | Path, *, external: bool | None = None) -> None:
        """Write the model whole or not at all; its weights in one file beside it if `external`.

        By default as the input had them, and beside it where they don't fit into one file. Raises OutputError.
        """
        files.save(self.written, path, external=external)


def prune(
    model: ModelProto | str | Path,
    *,
    target: str | Sequence[str] | None = None,
    calibration: Any = None,
    eval: Any = None,
    preprocessing: Preprocessing = PLAIN,
    samples: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress = lambda stage, done, total: None,
    **options: Any,
) -> Result:
    """Prune a model.

    model: a path or a ModelProto, which is never changed. target: "macs=0.5", "params=0.5", "size=0.5" (fractions
    kept; size: of the file), "latency=0.7" (of the time a run takes) or "drop=0.01" (largest loss of fidelity, the
    default), or several of them; the tightest wins. calibration: what `onnxprune.calibration.load` takes (a path,
    arrays, a CalibrationDataReader, an iterable of feeds); without it the model's `.calib.npz` beside it, else
    synthetic inputs. eval: labelled `.npz`, (samples, labels), or a function of a path. preprocessing: how images
    become inputs. samples: as many are drawn at random; all without it. input_shapes: sizes for inputs of symbolic
    dimensions. progress: is called with a stage, and how much of it is done of how much. Further options: the fields
    of `Options`. Raises OnnxPruneError: UsageError, ModelError, DataError, ProviderError, BudgetError (its `result` is
    the best that was found), InternalError.
    """
    texts: list[Any] = list(target) if isinstance(target, list | tuple) else [] if target is None else [target]
    targets = parse_targets(texts)
    with threadpool_limits(1, user_api="blas"):
        search, given = begun(
            model, targets, calibration, eval, preprocessing, samples, input_shapes, progress, **options
        )
        return finished(search, given)


def begun(
    model: ModelProto | str | Path,
    targets: tuple[Target, ...],
    calibration: Any = None,
    eval: Any = None,
    preprocessing: Preprocessing = PLAIN,
    samples: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress = lambda stage, done, total: None,
    **options: Any,
) -> tuple[Search, Model]:
    """The search for what meets the targets, with its data read, and the model that was given; see `prune`."""
    unknown = sorted(set(options) - {f.name for f in fields(Options)})
    if unknown:
        raise UsageError(f"unknown option '{unknown[0]}'; options are: {', '.join(f.name for f in fields(Options))}.")
    chosen = Options(targets=targets, **options)
    given = files.read(model)
    graph = Graph.of(given, input_shapes)
    chosen.runtime.session(given)  # a model that onnxruntime can't load is an error now, not later
    found = samples_of(graph, given.path, calibration, preprocessing, samples, chosen.seed, input_shapes)
    labelled = labelled_of(eval, graph, preprocessing) if eval is not None else None
    on_disk = files.on_disk(given.path) if given.path is not None else None
    copies = 2 if preprocessing.mirror else 1
    if chosen.beside is None and given.data:
        chosen = replace(chosen, beside=given.data[0].name)
    return searching(prepare(graph, found, chosen, labelled, progress, copies=copies, on_disk=on_disk)), given


def finished(search: Search, given: Model) -> Result:
    """What meets the targets, checked and reported. Raises BudgetError like `prune`."""
    options = search.run.options
    if options.iterations > 1 or options.retrain is not None:
        return _finish(search, given, *iterate(search, _verified))
    best, failure = search.best()
    return _finish(search, given, best, _verified(search, best), failure)


def searching(run: Run) -> Search:
    """The search that finds what a run's options ask for."""
    if run.options.plan is not None:
        return Search(run)
    return Shallowing(run) if run.options.by_blocks else Shortening(run) if run.options.shortens else Search(run)


def _verified(search: Search, found: Candidate) -> oracle.Verdict:
    """Check the surgery; raises InternalError if it wasn't exact."""
    run = search.run
    few: list[int] = run.division.fit[:2].tolist()
    with run.timed("verify"):
        first = next(iter(run.samples.batches(few, 2)))
        verdict = oracle.check(found.coupling, found.plan, found.model, [first])
        oracle.demand(verdict)
        if verdict.rounding:
            search.run.warnings.append(
                f"the pruned network amplifies rounding: a millionth of its inputs becomes {verdict.rounding:.0e} of "
                "its outputs; more or other calibration data may help."
            )
        if run.options.serialize != "never":
            oracle.demand(oracle.check(run.coupling, Plan(), Model(run.original.model, run.original.arrays), [first]))
    return verdict


def _finish(
    search: Search, given: Model, found: Candidate, verdict: oracle.Verdict, failure: BudgetError | None
) -> Result:
    """Report; raises BudgetError with the result when a target was missed."""
    run = search.run
    stamp(found.model.proto, run.options)
    time = _timed(search, given, found)
    targets = [replace(t, reached=_reached(search, found, time, t)) for t in run.options.targets]
    if failure is None and time is not None and any(t.kind == "latency" and not t.reached for t in targets):
        failure = BudgetError(
            f"what was written takes {time.ratio:.3f} of the time ({time.low:.3f} to {time.high:.3f}), more than "
            "when its widths were tried: ask for less, or time it on a quieter machine",
            time.ratio,
        )
    run.seconds["total"] = sum(run.seconds.values())
    report = _report(search, found, verdict, targets, time)
    result = Result(replace(found.model, path=given.path, data=given.data), report, found.plan)
    if failure is not None:
        failure.result = result if found.plan.keep or found.plan.removed or found.plan.merged else None
        raise failure
    return result


def _timed(search: Search, given: Model, found: Candidate) -> clock.Ratio | None:
    """The time of what was found against what was given; None where nobody asks, or where it can't be told."""
    run = search.run
    if run.options.for_time:
        return search.timed(found.model, given)
    if run.options.measure_latency:
        with run.timed("latency"), suppress(DataError):  # a detector that finds nothing may fail
            return clock.paired(*_times([given, found.model], run.timed_feed, run.options.runtime))
    return None


def _times(models: Sequence[Model], feed: Mapping[str, Array], runtime: Runtime) -> list[NDArray[np.float64]]:
    """Milliseconds per run of each model: in turns, but for big ones, of which memory has room for one at a time."""
    big = any(map(files.big, models))
    sets = [[model] for model in models] if big else [models]
    times = [row for one in sets for row in clock.in_turns(one, feed, runtime, in_parts=big, **BRIEFLY).T]
    return [row[: min(map(len, times))] for row in times]


def _reached(search: Search, found: Candidate, time: clock.Ratio | None, target: Target) -> bool:
    """Whether what was found meets a target."""
    if target.kind == "drop":
        return found.loss.value <= target.value
    if target.kind == "latency":
        assert time is not None
        return time.high <= target.value * (1 + SPREAD)
    return search.left(target.kind, found.model) <= target.value + 1e-9


def _report(
    search: Search, found: Candidate, verdict: oracle.Verdict, targets: list[Target], time: clock.Ratio | None
) -> Report:
    """What was done, and what it cost and saved."""
    run = search.run
    after = Graph.of(found.model, run.original.dims)
    planned = run.options.plan is not None
    return Report(
        method="plan" if planned else run.options.method,
        allocate="plan" if planned else run.options.allocate,
        reconstruct="plan" if planned else run.mode,
        targets=targets,
        before=evaluation.size(run.original, run.on_disk, time.before_ms if time else None),
        after=evaluation.size(after, None, time.after_ms if time else None),
        latency=_told(time, run.options.runtime, run.options.batch) if time else None,
        fidelity=found.fidelity,
        accuracy=None if found.accuracy is None else {"before": search.judge.accuracy or 0.0, "after": found.accuracy},
        loss=found.loss,
        surgery_check={"max_abs_diff": verdict.max_abs_diff, "ok": verdict.ok},
        groups=group_reports(found.coupling, found.plan, found.errors),
        blocks=search.blocks(found.coupling),
        left_alone=left_alone(
            found.coupling,
            lambda g: "" if g.name in found.plan.keep else why_left_out(found.coupling, g, run.options),
        )
        + [{"layer": layer, "reason": f"it stays a sum: {reason}"} for layer, reason in run.left.items()],
        seconds={k: round(v, 3) for k, v in run.seconds.items()},
        warnings=list(dict.fromkeys(run.warnings)),
    )


def _told(time: clock.Ratio, runtime: Runtime, batch: int | None) -> Latency:
    return Latency(time.ratio, time.low, time.high, batch or TIMED_BATCH, runtime.threads, runtime.provider)


def inspect(
    model: ModelProto | str | Path,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    attention: str = "auto",
) -> Inspection:
    """What a model consists of, what can be pruned in it, and why the rest can't. Raises ModelError.

    attention: "heads" lists whole heads, "rank" and "auto" the dims of heads where these can be factorized.
    """
    if attention not in ATTENTION:
        raise UsageError(f"there is no way to prune attention '{attention}'; choose one of: {', '.join(ATTENTION)}.")
    graph = Graph.of(files.read(model), input_shapes)
    coupling = attend(graph, attention)
    file_bytes = files.on_disk(Path(model)) if isinstance(model, str | Path) else None
    ends = [{v.name: _declared(v) for v in values} for values in (graph.inputs, graph.model.graph.output)]
    alone = left_alone(coupling, lambda group: why_left_out(coupling, group))
    return Inspection(evaluation.size(graph, file_bytes), group_reports(coupling, Plan(), {}), alone, *ends)


def _declared(value: ValueInfoProto) -> list[Any]:
    return [length(d) or d.dim_param or "?" for d in value.type.tensor_type.shape.dim]


def apply(model: ModelProto | str | Path, plan: Plan) -> ModelProto:
    """Carry out a saved plan on the model it was made for. Raises DataError if it doesn't fit."""
    graph = planned(serialize(Graph.of(files.read(model)), plan.serialize).graph, plan)
    return files.embedded(carried_out(restored(graph, plan.by_rank), plan))


def compare(
    before: ModelProto | str | Path,
    after: ModelProto | str | Path,
    data: Any = None,
    *,
    eval: Any = None,
    preprocessing: Preprocessing = PLAIN,
    samples: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    runtime: Runtime | None = None,
    batch: int | None = None,
) -> Comparison:
    """Two models with the same inputs side by side: size, time, and how alike they answer to `data`.

    data, eval, preprocessing, samples, input_shapes: as the `calibration` and so on of `prune`; with labelled samples
    and no data, those. batch: samples in a run; without it up to 64, but 1 where the models are timed. Raises
    DataError if the outputs have different shapes.
    """
    runtime = runtime or Runtime()
    models = [files.read(m) for m in (before, after)]
    graphs = [Graph.of(m, input_shapes) for m in models]
    path = Path(before) if isinstance(before, str | Path) else None
    labelled = labelled_of(eval, graphs[0], preprocessing) if eval is not None else None
    if data is None and labelled is not None and labelled.samples is not None:
        found = labelled.samples
    else:
        found = samples_of(graphs[0], path, data, preprocessing, samples, 0, input_shapes)
    count = min(found.count, evaluation.affordable(graphs[0], graphs[0].outputs))
    guide = Guide.of(graphs[0], runtime, lambda name: graphs[0].shapes.get(name) == graphs[1].shapes.get(name, ()))
    at_once = batch or evaluation.at_once(graphs[0].resized({**shapes_of(found), **graphs[0].dims}))
    if guide is not None:
        answers = [guide.answers(p, found, range(count), at_once) for p in models]
    else:
        answers = [evaluation.answers(p, found, range(count), runtime, at_once) for p in models]
    if [a.shape for a in answers[0]] != [a.shape for a in answers[1]]:
        raise DataError("the two models don't have the same outputs, so they can't be compared.")
    size = batch or TIMED_BATCH
    feed = next(iter(found.batches([i % found.count for i in range(size)], size)))
    time = clock.paired(*_times(models, feed, runtime))
    sizes = []
    for graph, model, milliseconds in zip(graphs, (before, after), (time.before_ms, time.after_ms), strict=True):
        file_bytes = files.on_disk(Path(model)) if isinstance(model, str | Path) else None
        sizes.append(evaluation.size(graph, file_bytes, milliseconds))
    told = _told(time, runtime, batch)
    fidelity = evaluation.fidelity(answers[0], answers[1], count, found.origin, guided=guide is not None)
    if labelled is None:
        return Comparison(sizes[0], sizes[1], fidelity, None, evaluation.loss(fidelity), told)
    scores = [evaluation.scores(p, m, labelled, runtime, at_once) for p, m in zip(models, (before, after), strict=True)]
    accuracy = {when: float(found.mean()) for when, found in zip(("before", "after"), scores, strict=True)}
    return Comparison(sizes[0], sizes[1], fidelity, accuracy, evaluation.loss(fidelity, *scores), told)
