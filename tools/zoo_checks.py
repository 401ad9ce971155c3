"""What the zoo does with a model: stages, each a function of a file that returns a record with its `failures`.

`surgery` takes a random third of each group's channels away and checks the five conditions that `zoo.py` names; `dims`
does so with the channels of attention that `prune` would choose, dims of heads where it can.
`magnitude` and `reap` are the whole of `onnxprune.prune` with synthetic samples. `basic`, `extended` and `slim` are
`surgery` on the model as onnxruntime's optimizations or onnxslim leave it; their groups should be the model's own.
"""

from __future__ import annotations

import importlib
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Record = dict[str, Any]

SAMPLES = 16
METHODS = {"magnitude": "l1", "reap": "reap"}
FORMS = ("basic", "extended", "slim")
UNAVOIDABLE = (
    r"(mixes all|along one axis with) channels( along another)?$|(is an (in|out)put of the model|one channel)$"
)
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")


def third(cells: Any, seed: int) -> Any:
    """Channels that stay when a random third goes, equally many of each cell, and at least one."""
    rng, kept = np.random.default_rng(seed), []
    for cell in np.unique(cells):
        mine = np.flatnonzero(cells == cell)
        kept += rng.choice(mine, max(1, len(mine) - len(mine) // 3), replace=False).tolist()
    return np.sort(np.asarray(kept, np.int64))


# ---------------------------------------------------------------------------------------------- surgery


def surgery(path: Path, attention: str = "heads") -> Record:
    """Prune a third of each group's channels of one model and check what came out."""
    from onnxprune import oracle
    from onnxprune.calibration import PLAIN
    from onnxprune.cost import parameters
    from onnxprune.data import samples_of
    from onnxprune.files import embedded, load
    from onnxprune.graph import Graph
    from onnxprune.heads import attend, names
    from onnxprune.plan import Plan
    from onnxprune.rewrite import rewrite, twin

    started = time.process_time()
    graph = Graph(embedded(load(path)))
    coupling = attend(graph, attention)
    found = time.process_time() - started
    plan = Plan({g.name: third(g.cells, number) for number, g in enumerate(coupling.groups)}, {}, names(coupling))
    pruned = rewrite(coupling, plan)
    seconds = time.process_time() - started
    sample = samples_of(graph, path, None, PLAIN, 2, 0, None)
    feed = next(iter(sample.batches([0, 1], 2)))
    verdict, points = oracle.check(coupling, plan, pruned, [feed]), oracle.comparable(graph)
    reasons = Counter(map(anonymous, coupling.left_alone.values())).most_common()
    failures = [
        unnamed(coupling),
        stuck(removable(coupling), [reason for reason, _ in reasons]),
    ]
    if not verdict.ok:
        failures.append(f"surgery differs by {verdict.max_abs_diff:.1e} at '{verdict.where}'")
    if coupling.groups and not seen_by(coupling, points):
        failures.append("nothing behind a pruned layer could be compared")
    failures += [accepted(graph.model, pruned), runs(graph, pruned, twin(coupling, plan), feed)]
    whole, left = parameters(graph), parameters(Graph(pruned))
    return {
        "nodes": len(graph.nodes),
        "share": removable(coupling),
        "narrowed": removable(coupling, narrowed(coupling)),
        "kept": left / max(whole, 1),
        "layers": len(weighted(coupling)),
        "groups": len(coupling.groups),
        "signature": signature(coupling),
        "reasons": reasons,
        "inspect": found,
        "seconds": seconds,
        "difference": verdict.max_abs_diff,
        "failures": [f for f in failures if f],
    }


def stuck(share: float, reasons: Iterable[str]) -> str:
    """Why nothing goes where something might; empty if every layer stays for a reason that no surgery overcomes."""
    avoidable = [reason for reason in reasons if not re.search(UNAVOIDABLE, reason)]
    return f"nothing goes: {avoidable[0]}" if avoidable and not share else ""


def signature(coupling: Any) -> dict[str, int]:
    """How many groups there are of how many channels (and of how many cells, where it isn't one)."""
    sizes = ((g.channels, len(np.unique(g.cells))) for g in coupling.groups)
    return dict(Counter(f"{n}" if cells == 1 else f"{n}/{cells}" for n, cells in sizes))


def narrowed(coupling: Any) -> list[Any]:
    """The groups that `prune` narrows."""
    from onnxprune.scope import why_left_out

    return [g for g in coupling.groups if not why_left_out(coupling, g)]


def weighted(coupling: Any) -> list[int]:
    """Nodes that compute with a constant matrix as a layer does."""
    graph, found = coupling.graph, []
    for i, node in enumerate(graph.nodes):
        computed = any(name and name not in graph.static for name in node.output)
        constant = any(name in graph.static and len(graph.shapes.get(name, ())) > 1 for name in node.input)
        if node.op_type in LAYERS and computed and constant:
            found.append(i)
    return found


def unnamed(coupling: Any) -> str:
    """Which layers are neither pruned nor named with a reason; empty if none."""
    pruned = {i for g in coupling.groups for i in g.writers}
    pruned |= {  # products of several matrices, of which some go
        i
        for g in coupling.groups
        for m in g.members
        for i in coupling.graph.consumers.get(m.tensor, [])
        if coupling.graph.nodes[i].op_type == "MatMul" and m.axis < len(coupling.graph.shapes[m.tensor]) - 2
    }
    found = [i for i in weighted(coupling) if i not in pruned and not coupling.left_alone.get(i)]
    return f"{len(found)} layers are neither pruned nor named ('{coupling.layer(found[0])}')" if found else ""


def seen_by(coupling: Any, points: Iterable[str]) -> bool:
    """Whether any of these values depends on a layer that reads channels of a group."""
    readers = {i for group in coupling.groups for i in group.reads}
    behind = set[str]()
    for i, node in enumerate(coupling.graph.nodes):
        if i in readers or not behind.isdisjoint(coupling.graph.reads(node)):
            behind.update(node.output)
    return not behind.isdisjoint(points)


def removable(coupling: Any, groups: Iterable[Any] | None = None) -> float:
    """Share of the parameters that layers read which goes when every one of these groups (all, if None) goes."""
    taken: dict[str, Any] = {}
    for group in coupling.groups if groups is None else groups:
        for member in group.members:
            shape = coupling.graph.shapes[member.tensor]
            places = shape[member.axis] * (shape[0] if member.lanes else 1)
            taken.setdefault(member.tensor, {}).setdefault(member.axis, np.zeros(places, bool))
            taken[member.tensor][member.axis][member.index.ravel()] = True
    total = 0.0
    for name, axes in taken.items():
        stays = np.prod([1 - flags.mean() for flags in axes.values()])
        total += float(np.prod(coupling.graph.shapes[name])) * (1 - float(stays))
    return total / max(used(coupling.graph), 1)


def used(graph: Any) -> int:
    """Floating-point constants that layers read, as they read them (weights may be computed from others)."""
    names = {n for node in graph.nodes if not graph.static.issuperset(node.output) for n in node.input}
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return sum(int(np.prod(graph.shapes[n])) for n in names & graph.static if graph.types.get(n) in kinds)


def anonymous(reason: str) -> str:
    """A reason without names and numbers of channels, so that layers share it."""
    text = re.sub(r" \(?'[^']*'\)?", "", re.sub(r"^'[^']*'", "it", reason))
    return re.sub(r"\b(all|its|the) \d+ ", r"\1 ", text)


def accepted(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """What onnx.checker has against the result and not against the original; empty if nothing."""
    for full in (True, False):
        try:
            onnx.checker.check_model(before, full_check=full)
        except Exception:
            continue
        try:
            onnx.checker.check_model(after, full_check=full)
        except Exception as error:
            return f"onnx.checker: {str(error).splitlines()[0][:200]}"
        return ""
    return ""


def runs(graph: Any, after: onnx.ModelProto, same: onnx.ModelProto, feed: Record) -> str:
    """Why the result doesn't run as the original does at batch 1 and 3; empty if it does.

    Where its full-size twin fails too, the fault isn't the surgery's (a detector that can't bear to find nothing).
    """
    from onnxprune.runtime import Runtime

    before, counted = graph.model, graph.shapes.keys() - graph.uncounted
    if reason := redeclared(before, after):
        return reason
    runtime = Runtime("cpu", 1)
    first, second = runtime.session(before), runtime.session(after)
    for batch in (1, 3):
        given = resized(before, feed, batch)
        try:
            expected = first.run(given)
        except Exception:
            continue
        try:
            found = second.run(given)
        except Exception as error:
            if fails(runtime.session(same), given):
                continue
            return f"onnxruntime fails at batch {batch}: {error}"
        for name, value in expected.items():
            if (value.dtype, value.ndim) != (found[name].dtype, found[name].ndim):
                return f"output '{name}' has another type at batch {batch}"
            if name in counted and value.shape != found[name].shape:  # a detector finds as many things as it finds
                return f"output '{name}' has another shape at batch {batch}"
    return ""


def redeclared(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    """Whether the inputs that must be given or the outputs have other names, types or dimensions; empty if not."""
    for side in ("input", "output"):
        if declared(before, side) != declared(after, side):
            return f"the {side}s are declared otherwise"
    return ""


def declared(model: onnx.ModelProto, side: str) -> list[bytes]:
    """Inputs or outputs as they are declared; an input with a default is an initializer."""
    defaults = {t.name for t in model.graph.initializer} if side == "input" else set()
    return [v.SerializeToString() for v in getattr(model.graph, side) if v.name not in defaults]


def resized(model: onnx.ModelProto, feed: Record, batch: int) -> Record:
    """Inputs of another batch, where the batch is symbolic."""
    symbolic = {
        v.name
        for v in model.graph.input
        if v.type.tensor_type.shape.dim and not v.type.tensor_type.shape.dim[0].dim_value
    }
    return {n: np.concatenate([x] * 3)[:batch] if n in symbolic and len(x) in (1, 2) else x for n, x in feed.items()}


def fails(session: Any, feed: Record) -> bool:
    """Whether a model fails on this input."""
    try:
        session.run(feed)
    except Exception:
        return True
    return False


# ---------------------------------------------------------------------------------------------- methods


def method(path: Path, name: str) -> Record:
    """The whole tool, every group narrowed alike, to the parameters that are left without a third of the channels."""
    import onnxprune
    from onnxprune.calibration import PLAIN
    from onnxprune.data import samples_of
    from onnxprune.files import embedded, load
    from onnxprune.graph import Graph

    before = embedded(load(path))
    graph, left = Graph(before), parameters_without_a_third(before)
    if left > 0.999:
        return {"failures": [], "skipped": "nothing that prune narrows"}
    started = time.process_time()
    options: Record = {"samples": SAMPLES, "batch": 8, "allocate": "uniform", "measure_latency": False}
    options |= {"method": METHODS[name], "target": f"params={left:.4f}"}
    result = onnxprune.prune(path, **options)
    seconds = time.process_time() - started
    report = result.report
    feed = next(iter(samples_of(graph, path, None, PLAIN, 2, 0, None).batches([0, 1], 2)))
    failures = [accepted(before, result.model), runs(graph, result.model, before, feed)]
    if not report.surgery_check["ok"]:
        failures.append(f"surgery differs by {report.surgery_check['max_abs_diff']:.1e}")
    return {
        "seconds": seconds,
        "stages": report.seconds,
        "target": left,
        "kept": report.after.params / report.before.params,
        "relative_error": report.fidelity.relative_error,
        "failures": [f for f in failures if f],
    }


def parameters_without_a_third(model: onnx.ModelProto) -> float:
    """Share of the parameters that stays when a third of each group that `prune` narrows goes."""
    from onnxprune.cost import parameters
    from onnxprune.coupling import couple
    from onnxprune.graph import Graph
    from onnxprune.plan import Plan
    from onnxprune.rewrite import rewrite

    coupling = couple(Graph(model))
    pruned = rewrite(coupling, Plan({g.name: third(g.cells, 0) for g in narrowed(coupling)}, {}))
    return parameters(Graph(pruned)) / max(parameters(coupling.graph), 1)


# ---------------------------------------------------------------------------------------------- forms


def form(path: Path, name: str) -> Record:
    """`surgery` on what a cleaner makes of the model."""
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        cleaned = Path(folder) / "cleaned.onnx"
        if name == "slim":
            onnx.save(importlib.import_module("onnxslim").slim(onnx.load(path)), cleaned)
        else:
            optimized(path, name, cleaned)
        return surgery(cleaned)


def optimized(path: Path, level: str, result: Path) -> None:
    """Write the model as onnxruntime optimizes it, basic or extended."""
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    options.optimized_model_filepath = str(result)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


STAGES: dict[str, Callable[[Path], Record]] = {
    "surgery": surgery,
    "dims": partial(surgery, attention="auto"),
    **{name: partial(method, name=name) for name in METHODS},
    **{name: partial(form, name=name) for name in FORMS},
}
