"""Real architectures with random weights: export them, prune each, and say which pass.

python tools/zoo.py build FOLDER [--only 'torchvision/resnet*'] [--exporter dynamo]
python tools/zoo.py run FOLDER --table models/ZOO.md

`build` needs an environment of its own: torch 2.13.0 (CPU), then `pip install --no-deps torchvision==0.28.0 timm
transformers`, and what they import: pillow, pyyaml, safetensors, huggingface_hub, tokenizers, regex, tqdm, onnxscript.
`run` needs onnxprune alone. Each model has a process of its own, so that a crash ends nothing else; both commands
go on where they stopped, as `built.jsonl` and `results.jsonl` beside the models say what is done.

A model passes when (1) every layer is pruned or named with a reason, (2) channels really go, (3) the
surgery is exact to 1e-4, (4) onnxruntime runs the result at batch 1 and 3 (3 only where it runs the original) with the
same inputs and outputs, (5) the checker accepts it (in full where it accepts the original in full).
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx

Record = dict[str, Any]

VIDEO = {"r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t", "swin3d_s", "swin3d_b", "mvit_v1_b", "mvit_v2_s"}
SIDES = {"inception_v3": 107, "maxvit_t": 224, "raft_small": 128, "raft_large": 128, "s3d": 224, "alexnet": 224}
TIMM_DEFAULT = 224

TIMM = """
resnet18 resnetv2_50 resnext26ts seresnet18 skresnet18 resnest14d res2net50_14w_8s regnety_002 efficientnet_lite0
mobilenetv3_small_050 mobilenetv4_conv_small mobilenetv1_100 mnasnet_small fbnetc_100 ghostnet_050 repghostnet_050
hardcorenas_a lcnet_035 tinynet_e rexnet_100 densenet121 dla34 dpn48b cspresnet50 cspdarknet53 darknet17 vovnet39a
ese_vovnet19b_dw selecsls42b hrnet_w18_small xception41 xception inception_v4 inception_resnet_v2 nasnetalarge
pnasnet5large nfnet_l0 eca_nfnet_l0 repvgg_a0 mobileone_s0 tresnet_m vgg11 convnext_atto convnextv2_atto
convmixer_768_32 edgenext_xx_small fastvit_t8 inception_next_atto starnet_s1 repvit_m0_9 fasternet_t0 hgnet_tiny
hgnetv2_b0 gernet_s mambaout_femto rdnet_tiny vit_tiny_patch16_224 deit_tiny_patch16_224 deit3_small_patch16_224
beit_base_patch16_224 eva02_tiny_patch14_224 cait_xxs24_224 coat_tiny convit_tiny crossvit_tiny_240 davit_tiny
efficientformer_l1 efficientformerv2_s0 efficientvit_b0 efficientvit_m0 focalnet_tiny_srf gcvit_xxtiny
hiera_tiny_224 levit_128s caformer_s18 poolformer_s12 mixer_s32_224 gmlp_s16_224 resmlp_12_224 mobilevit_xxs
mobilevitv2_050 mvitv2_tiny nest_tiny nextvit_small pit_ti_224 pvt_v2_b0 sequencer2d_s swin_tiny_patch4_window7_224
swinv2_tiny_window8_256 swinv2_cr_tiny_ns_224 swiftformer_xs tiny_vit_5m_224 tnt_s_legacy_patch16_224
twins_pcpvt_small visformer_tiny vit_relpos_small_patch16_224 vit_small_r26_s32_224 vitamin_small_224 volo_d1_224
xcit_nano_12_p16_224 shvit_s1 maxxvit_rmlp_nano_rw_256 coatnet_nano_rw_224 bat_resnext26ts lambda_resnet26t
botnet26t_256 halonet26t samvit_base_patch16 iformer_t efficientvim_m1 lowformer_b0 csatv2
"""

TRANSFORMERS: dict[str, tuple[str, Record]] = {
    "bert": ("BertModel", {}),
    "distilbert": ("DistilBertModel", {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4}),
    "roberta": ("RobertaModel", {}),
    "electra": ("ElectraModel", {"embedding_size": 64}),
    "gpt2": ("GPT2Model", {"n_embd": 64, "n_layer": 2, "n_head": 4}),
    "llama": ("LlamaModel", {"num_key_value_heads": 2}),
    "mistral": ("MistralModel", {"num_key_value_heads": 2}),
    "qwen2": ("Qwen2Model", {"num_key_value_heads": 2}),
    "t5": ("T5EncoderModel", {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4}),
    "vit": ("ViTModel", {"image_size": 64}),
    "deit": ("DeiTModel", {"image_size": 64}),
    "swin": ("SwinModel", {"image_size": 64, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}),
    "clip": ("CLIPVisionModel", {"image_size": 64, "patch_size": 16}),
    "segformer": ("SegformerModel", {"hidden_sizes": [16, 32, 64, 128], "num_attention_heads": [1, 2, 4, 8]}),
}
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 100,
}
TOKENS = {"bert", "distilbert", "roberta", "electra", "gpt2", "llama", "mistral", "qwen2", "t5"}


@dataclass(frozen=True)
class Entry:
    """A model of the zoo and how it is exported."""

    name: str  # library/architecture
    exporter: str  # torchscript or dynamo

    @property
    def file(self) -> str:
        """The file it is written to."""
        return f"{self.name.replace('/', '.')}.{self.exporter}.onnx"


@click.group()
def main() -> None:
    """Export real architectures, prune them, say which pass."""


# ---------------------------------------------------------------------------------------------- build


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--only", multiple=True, help="Patterns of names (library/architecture).")
@click.option("--exporter", type=click.Choice(["torchscript", "dynamo"]), default="torchscript")
@click.option("--largest", default=70.0, help="Leave out models of more million parameters.")
@click.option("--timeout", default=240, help="Seconds per model.")
@click.option("--again", is_flag=True, help="Try again what failed.")
def build(folder: Path, only: tuple[str, ...], exporter: str, largest: float, timeout: int, again: bool) -> None:
    """Export models with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = [Entry(n, exporter) for n in names() if not only or any(fnmatch(n, p) for p in only)]
    done = {r["file"]: r for r in read(folder / "built.jsonl")}
    for entry in entries:
        if entry.file in done and not (again and "error" in done[entry.file]):
            continue
        record = apart(partial(export, entry, folder, largest), timeout)
        append(folder / "built.jsonl", {"file": entry.file, "name": entry.name, "exporter": exporter} | record)
        click.echo(f"{entry.file}: {record.get('error', 'ok')[:300]}")


def names() -> list[str]:
    """Every model that `build` tries, small ones first within torchvision."""
    libraries()
    tv = importlib.import_module("torchvision").models
    sizes = {n: tv.get_model_weights(n).DEFAULT.meta["num_params"] for n in tv.list_models() if "quantized" not in n}
    found = [f"torchvision/{n}" for n in sorted(sizes, key=lambda n: sizes[n])]
    timm = importlib.import_module("timm")
    found += [f"timm/{n}" for n in TIMM.split() if n in timm.list_models()]
    return found + [f"transformers/{n}" for n in TRANSFORMERS]


def libraries() -> Any:
    """PyTorch, with the operators defined that a build without torchvision's compiled part lacks."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # its operators can't be exported
    if not hasattr(libraries, "defined"):
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define(
            "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
            "int sampling_ratio, bool aligned) -> Tensor"
        )
        library.impl("nms", suppress, "CPU")
        module: Any = importlib.import_module("torchvision.ops.roi_align")
        library.impl("roi_align", module._roi_align, "CPU")
        for place in (module, importlib.import_module("torchvision.extension")):
            vars(place)["_has_ops"] = present
        libraries.defined = library  # type: ignore[attr-defined]
    return torch


def present() -> bool:
    """Whether torchvision's compiled operators are there (asked for by its scripted functions, too)."""
    return True


def suppress(boxes: Any, scores: Any, threshold: float) -> Any:
    """Non-maximum suppression, for tracing."""
    torch = importlib.import_module("torch")
    order, kept = scores.argsort(descending=True).tolist(), list[int]()
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in order[:50]:
        low, high = torch.maximum(boxes[i, :2], boxes[kept, :2]), torch.minimum(boxes[i, 2:], boxes[kept, 2:])
        inner = (high - low).clamp(min=0).prod(-1)
        if not len(kept) or bool((inner / (area[i] + area[kept] - inner) <= threshold).all()):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


def export(entry: Entry, folder: Path, largest: float) -> Record:
    """Build one model and write it."""
    torch = libraries()
    torch.manual_seed(0)
    model, inputs = make(entry.name)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    if size > largest:
        return {"error": f"left out: {size:.0f} million parameters", "parameters": size}
    randomize(torch, model, inputs)
    model.eval()
    labels = [f"x{i}" if i else "x" for i in range(len(inputs))]
    path, options = folder / entry.file, dict[str, Any]()
    with torch.no_grad():
        outputs = flat(model(*inputs))
        results = [f"y{i}" if i else "y" for i in range(len(outputs))]
        listed = isinstance(inputs[0], list)  # detectors take a list of images
        if listed:
            inputs, labels = [inputs[0]], ["x"]
        if entry.exporter == "torchscript":
            import_nms(torch)
            if not listed:
                options["dynamic_axes"] = {n: {0: "N"} for n in labels + results}
            torch.onnx.export(
                model, tuple(inputs), path, dynamo=False, opset_version=17, input_names=labels, output_names=results,
                **options,
            )  # fmt: skip
        else:
            batch = torch.export.Dim("N", min=1, max=64)
            shapes = tuple({0: batch} for _ in inputs)
            try:
                torch.onnx.export(
                    model, tuple(inputs), path, dynamo=True, input_names=labels, external_data=False, verbose=False,
                    dynamic_shapes=shapes,
                )  # fmt: skip
            except Exception:  # the batch can't be symbolic everywhere
                torch.onnx.export(
                    model, tuple(inputs), path, dynamo=True, input_names=labels, external_data=False, verbose=False
                )
    return {"parameters": size, "bytes": path.stat().st_size}


def import_nms(torch: Any) -> None:
    """Teach the TorchScript exporter what torchvision's compiled operators mean."""
    importlib.import_module("torchvision.ops._register_onnx_ops")


def make(name: str) -> tuple[Any, list[Any]]:
    """A model with random weights, and inputs for it at batch 2."""
    torch = libraries()
    library, architecture = name.split("/")
    if library == "timm":
        model = importlib.import_module("timm").create_model(architecture, pretrained=False, exportable=True)
        side = model.default_cfg.get("input_size", (3, TIMM_DEFAULT, TIMM_DEFAULT))[-1]
        convolutional = model.default_cfg.get("pool_size") is not None and not model.default_cfg.get("fixed_input_size")
        convolutional = convolutional and not architecture.startswith(("bat_", "halonet", "csatv2"))
        return model, [torch.randn(2, 3, *[96 if convolutional and side >= 192 else side] * 2)]
    if library == "transformers":
        return transformer(torch, architecture)
    tv = importlib.import_module("torchvision").models
    options: Record = {"weights": None}
    if any(part in architecture for part in ("rcnn", "retinanet", "fcos", "ssd", "deeplab", "fcn", "lraspp")):
        options["weights_backbone"] = None
    side = SIDES.get(architecture, 64)
    if architecture.startswith(("vit_b", "vit_l", "vit_h", "mvit", "vgg")):
        side = 224
    if any(part in architecture for part in ("rcnn", "retinanet", "fcos")):
        options |= {"min_size": 96, "max_size": 96}
    if architecture.startswith("mvit"):
        return tv.get_model(architecture, **options), [torch.randn(1, 3, 16, 224, 224)]
    if architecture in VIDEO:
        frames = 16 if architecture == "s3d" else 8
        return tv.get_model(architecture, **options), [torch.randn(2, 3, frames, side, side)]
    if architecture.startswith("raft"):
        model = tv.get_model(architecture, **options)
        return model, [torch.randn(2, 3, side, side), torch.randn(2, 3, side, side)]
    model = tv.get_model(architecture, **options)
    if "rcnn" in architecture or architecture.startswith(("retinanet", "fcos", "ssd")):
        return model, [[torch.rand(3, 96, 96)]]
    return model, [torch.randn(2, 3, side, side)]


def transformer(torch: Any, name: str) -> tuple[Any, list[Any]]:
    """A small configuration of one of transformers' architectures; it answers with plain tensors."""
    library = importlib.import_module("transformers")
    kind, special = TRANSFORMERS[name]
    config_class = getattr(library, kind).config_class
    config = config_class(**(SMALL | special))
    config._attn_implementation = "eager"
    for switch in ("use_cache", "return_dict"):
        if hasattr(config, switch):
            setattr(config, switch, False)
    inner = getattr(library, kind)(config)

    class Plain(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Any) -> Any:
            return self.inner(x)[0]

    given = torch.randint(0, 100, (2, 12)) if name in TOKENS else torch.randn(2, 3, 64, 64)
    return Plain(), [given]


def flat(value: Any) -> list[Any]:
    """The tensors in a model's answer."""
    if isinstance(value, dict):
        return [t for v in value.values() for t in flat(v)]
    if isinstance(value, list | tuple):
        return [t for v in value for t in flat(v)]
    return [value] if hasattr(value, "shape") else []


def randomize(torch: Any, model: Any, inputs: list[Any]) -> None:
    """No parameter is left constant (scales of 1e-6, zero biases hide errors), and normalization fits its input."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and parameter.std() <= 1e-3 * parameter.abs().max():
                noise = torch.rand_like(parameter)
                parameter.copy_(noise * 0.2 - 0.1 if parameter.flatten()[0] == 0 else noise + 0.5)
        model.eval()
        for module in model.modules():
            if "BatchNorm" in type(module).__name__ and getattr(module, "momentum", None) is not None:
                module.train()
                module.momentum = 1.0
        try:
            model(*inputs)
        except Exception:  # a map of one element has no statistics: those that it starts with must do
            return


# ---------------------------------------------------------------------------------------------- run


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--table", type=click.Path(path_type=Path), help="Write a table of all results here.")
@click.option("--only", multiple=True, help="Patterns of names (library/architecture).")
@click.option("--timeout", default=300, help="Seconds per model.")
@click.option("--again", type=click.Choice(["no", "failed", "all"]), default="no", help="What to run once more.")
@click.option("--full", is_flag=True, help="Also the whole of onnxprune.prune, with synthetic samples.")
def run(folder: Path, table: Path | None, only: tuple[str, ...], timeout: int, again: str, full: bool) -> None:
    """Prune every model of a folder and write the table."""
    built = {r["file"]: r for r in read(folder / "built.jsonl")}
    importlib.import_module("onnxprune")  # once, before the processes part
    results = {r["file"]: r for r in read(folder / "results.jsonl")}
    for file, origin in built.items():
        if "error" in origin or (only and not any(fnmatch(origin["name"], p) for p in only)):
            continue
        old = results.get(file, {})
        finished = bool(old) and ("full" in old or not full)
        if finished and (again == "no" or (again == "failed" and old.get("pass"))):
            continue
        record = apart(partial(examine, folder / file, full), timeout)
        results[file] = {k: origin[k] for k in ("file", "name", "exporter")} | record
        append(folder / "results.jsonl", results[file])
        verdict = "pass" if record.get("pass") else "FAIL " + "; ".join(record.get("failures", [record.get("error")]))
        click.echo(
            f"{file}: {verdict[:400]} [{record.get('groups')} groups, {record.get('share', 0):.0%}, "
            f"{record.get('seconds', 0):.1f} s] {record.get('alone', '')[:200]}"
        )
    if table is not None:
        table.write_text(document(built, results), "utf-8")


def examine(path: Path, full: bool) -> Record:
    """Prune a third of each group's channels of one model and check what came out."""
    from onnxprune import oracle
    from onnxprune.calibration import PLAIN
    from onnxprune.cost import parameters
    from onnxprune.coupling import couple
    from onnxprune.data import samples_of
    from onnxprune.graph import Graph, load
    from onnxprune.plan import Plan
    from onnxprune.rewrite import rewrite, twin
    from onnxprune.steps import why_left_out

    started = time.perf_counter()
    graph = Graph(load(path))
    coupling = couple(graph)
    plan = Plan({g.name: third(g.cells, number) for number, g in enumerate(coupling.groups)}, {})
    found = time.perf_counter() - started
    pruned = rewrite(coupling, plan)
    seconds = time.perf_counter() - started
    sample = samples_of(graph, path, None, PLAIN, 2, 0, None)
    feed = next(iter(sample.batches([0, 1], 2)))
    verdict = oracle.check(coupling, plan, pruned, [feed])
    failures = []
    unnamed = [i for i in weighted(coupling) if not any(i in g.writers for g in coupling.groups)]
    unnamed = [i for i in unnamed if not coupling.left_alone.get(i)]
    if unnamed:
        failures.append(f"{len(unnamed)} layers are neither pruned nor named ('{coupling.layer(unnamed[0])}')")
    if not verdict.ok:
        failures.append(f"surgery differs by {verdict.max_abs_diff:.1e} at '{verdict.where}'")
    if coupling.groups and not seen_by(coupling, oracle.comparable(graph)):
        failures.append("nothing behind a pruned layer could be compared")
    failures += [f for f in (accepted(graph.model, pruned), runs(graph.model, pruned, twin(coupling, plan), feed)) if f]
    whole, left = parameters(graph), parameters(Graph(pruned))
    record: Record = {
        "nodes": len(graph.nodes),
        "groups": len(coupling.groups),
        "share": share(coupling, coupling.groups) / max(used(graph), 1),
        "narrowed": share(coupling, [g for g in coupling.groups if not why_left_out(coupling, g)])
        / max(used(graph), 1),
        "kept": left / max(whole, 1),
        "layers": len(weighted(coupling)),
        "alone": why(coupling.left_alone.values()),
        "reasons": Counter(anonymous(r) for r in coupling.left_alone.values()).most_common(4),
        "seconds": seconds,
        "couple": found,
        "difference": verdict.max_abs_diff,
        "compared": len(oracle.comparable(graph)),
    }
    if full:
        record["full"] = everything(path)
        failures += [record["full"]] if record["full"] != "ok" else []
    return record | {"pass": not failures, "failures": failures}


def third(cells: Any, seed: int) -> Any:
    """Channels that stay when a random third goes, equally many of each cell, and at least one."""
    rng, kept = np.random.default_rng(seed), []
    for cell in np.unique(cells):
        mine = np.flatnonzero(cells == cell)
        kept += rng.choice(mine, max(1, len(mine) - len(mine) // 3), replace=False).tolist()
    return np.sort(np.asarray(kept, np.int64))


def weighted(coupling: Any) -> list[int]:
    """Nodes that compute with a constant matrix as a layer does."""
    graph, layers = coupling.graph, ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")
    found = []
    for i, node in enumerate(graph.nodes):
        computed = any(name and name not in graph.static for name in node.output)
        constant = any(name in graph.static and len(graph.shapes.get(name, ())) > 1 for name in node.input)
        if node.op_type in layers and computed and constant:
            found.append(i)
    return found


def seen_by(coupling: Any, points: Iterable[str]) -> bool:
    """Whether any of these values depends on a layer that reads channels of a group."""
    readers = {i for group in coupling.groups for i in group.reads}
    behind = set[str]()
    for i, node in enumerate(coupling.graph.nodes):
        if i in readers or not behind.isdisjoint(coupling.graph.reads(node)):
            behind.update(node.output)
    return not behind.isdisjoint(points)


def share(coupling: Any, groups: Iterable[Any]) -> float:
    """Parameters that go when every one of these groups goes."""
    taken: dict[str, Any] = {}
    for group in groups:
        for member in group.members:
            shape = coupling.graph.shapes[member.tensor]
            taken.setdefault(member.tensor, {}).setdefault(member.axis, np.zeros(shape[member.axis], bool))
            taken[member.tensor][member.axis][member.index.ravel()] = True
    total = 0.0
    for name, axes in taken.items():
        stays = np.prod([1 - flags.mean() for flags in axes.values()])
        total += float(np.prod(coupling.graph.shapes[name])) * (1 - float(stays))
    return total


def used(graph: Any) -> int:
    """Floating-point constants that layers read, as they read them (weights may be computed from others)."""
    names = {n for node in graph.nodes if not graph.static.issuperset(node.output) for n in node.input}
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return sum(int(np.prod(graph.shapes[n])) for n in names & graph.static if graph.types.get(n) in kinds)


def anonymous(reason: str) -> str:
    """A reason without the names in it."""
    return re.sub(r" '[^']*'", "", reason)


def why(reasons: Iterable[str]) -> str:
    """How many layers stay whole, and the most frequent reason."""
    counts = Counter(anonymous(r) for r in reasons)
    if not counts:
        return "none"
    reason, number = counts.most_common(1)[0]
    return f"{counts.total()} layers, {number} of them: {reason}"


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


def runs(before: onnx.ModelProto, after: onnx.ModelProto, same: onnx.ModelProto, feed: Record) -> str:
    """Why the result doesn't run as the original does at batch 1 and 3; empty if it does.

    Where its full-size twin fails too, the fault isn't the surgery's (a detector that can't bear to find nothing).
    """
    from onnxprune.runtime import Runtime

    old = [[v.SerializeToString() for v in side] for side in (before.graph.input, before.graph.output)]
    initializers = {t.name for t in before.graph.initializer}
    if [v.SerializeToString() for v in after.graph.output] != old[1]:
        return "the outputs are declared otherwise"
    kept = [v.SerializeToString() for v in after.graph.input if v.name not in initializers]
    if kept != [v.SerializeToString() for v in before.graph.input if v.name not in initializers]:
        return "the inputs are declared otherwise"
    runtime = Runtime("cpu", 1)
    first, second = runtime.session(before), runtime.session(after)
    symbolic = {v.name for v in before.graph.input if v.type.tensor_type.shape.dim and
                not v.type.tensor_type.shape.dim[0].dim_value}  # fmt: skip
    for batch in (1, 3):
        given = {
            n: np.concatenate([x] * 3)[:batch] if n in symbolic and len(x) in (1, 2) else x for n, x in feed.items()
        }
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
            if value.dtype != found[name].dtype or value.ndim != found[name].ndim:
                return f"output '{name}' has another type at batch {batch}"
    return ""


def fails(session: Any, feed: Record) -> bool:
    """Whether a model fails on this input."""
    try:
        session.run(feed)
    except Exception:
        return True
    return False


def everything(path: Path) -> str:
    """Why the whole tool fails on a model with synthetic samples; "ok" if it doesn't."""
    import onnxprune
    from onnxprune.errors import BudgetError

    try:
        onnxprune.prune(path, target="macs=0.8", samples=16, batch=8)
    except BudgetError:
        return "ok"
    except Exception as error:
        return f"prune: {type(error).__name__}: {str(error)[:200]}"
    return "ok"


# ---------------------------------------------------------------------------------------------- the table


def document(built: dict[str, Record], results: dict[str, Record]) -> str:
    """The results as Markdown."""
    results = {file: judged(r) for file, r in results.items()}
    failed = {f: r for f, r in built.items() if "error" in r}
    exported = len(built) - len(failed)
    passed = [r for r in results.values() if r.get("pass")]
    lines = [
        "# Zoo",
        "",
        "Real architectures with random weights, exported and pruned by `tools/zoo.py`: a random third of each group's",
        "channels goes. What a pass is stands at the head of that file. Share: of the parameters, those that go when",
        "every group goes; in brackets without the groups that `prune` keeps whole, as residual streams. Surgery: the",
        "largest difference between the pruned model and its full-size twin, relative to the size of the value.",
        "Seconds: to load, find the groups and rewrite.",
        "",
        f"{exported} models exported, {len(results)} pruned: "
        f"**{len(passed)} pass, {len(results) - len(passed)} fail**.",
    ]
    for library in sorted({r["name"].split("/")[0] for r in built.values()}):
        mine = [r for r in results.values() if r["name"].startswith(library + "/")]
        tried = {r["name"] for r in built.values() if r["name"].startswith(library + "/")}
        out = {r["name"] for r in built.values() if r["name"].startswith(library + "/") and "error" not in r}
        good = {r["name"] for r in mine if r.get("pass")} - {r["name"] for r in mine if not r.get("pass")}
        lines.append(f"- {library}: {len(tried)} architectures tried, {len(out)} exported, {len(good)} pass.")
    if results:
        seconds = sorted((r.get("seconds", 0.0), r["name"]) for r in results.values())
        lines.append(
            f"- Seconds per model: median {seconds[len(seconds) // 2][0]:.1f}, most {seconds[-1][0]:.1f} "
            f"({seconds[-1][1]})."
        )
    whole = [r for r in results.values() if "full" in r]
    if whole:
        good_runs = sum(r["full"] == "ok" for r in whole)
        lines.append(f"- Pruned by the whole tool, too (16 synthetic samples, macs=0.8): {good_runs} of {len(whole)}.")
    lines += ["", "| model | exporter | nodes | groups | share | left alone | seconds | surgery | result |"]
    lines += ["|---|---|--:|--:|--:|---|--:|--:|---|"]
    lines += [row(r) for r in sorted(results.values(), key=lambda r: str(r["name"]))]
    if failed:
        lines += ["", "Not exported:", ""]
        lines += [
            f"- {r['name']} ({r['exporter']}): {clean(r['error'])}"
            for r in sorted(failed.values(), key=lambda r: str(r["name"]))
        ]
    return "\n".join(lines) + "\n"


def judged(r: Record) -> Record:
    """A result that counts as failed where nothing goes, however exact that is."""
    if r.get("pass") and r["share"] < 0.005:
        return r | {"pass": False, "failures": ["nothing goes"]}
    return r


def row(r: Record) -> str:
    """One line of the table."""
    if "error" in r:
        cells = [r["name"], r["exporter"], "", "", "", "", "", "", f"FAIL: {clean(r['error'])}"]
    else:
        verdict = "pass" if r["pass"] else "FAIL: " + clean("; ".join(r["failures"]))
        numbers = [str(r["nodes"]), str(r["groups"]), f"{r['share']:.0%} ({r['narrowed']:.0%})", clean(r["alone"])]
        cells = [r["name"], r["exporter"], *numbers, f"{r['seconds']:.1f}", f"{r['difference']:.0e}", verdict]
    return "| " + " | ".join(cells) + " |"


def clean(text: str) -> str:
    """A text on one line of a table, without places of this machine."""
    text = re.sub(r"(/[\w.+-]+){2,}", "…", " ".join(text.split()))
    return text.replace("|", "\\|")[:220]


# ---------------------------------------------------------------------------------------------- processes, files


def apart(work: Callable[[], Record], timeout: int) -> Record:
    """What `work` returns, run in a process of its own; a record with an error if it fails or takes too long."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def task() -> None:
        try:
            theirs.send(work())
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            theirs.send({"error": f"{type(error).__name__} in {Path(last.filename).name}: {str(error)[:600]}"})

    process = context.Process(target=task)
    process.start()
    theirs.close()
    try:
        record: Record = ours.recv() if ours.poll(timeout) else {"error": f"took more than {timeout} seconds"}
    except EOFError:
        record = {"error": "the process died"}
    process.kill()
    process.join()
    return record


def read(path: Path) -> list[Record]:
    """The records in a file of JSON lines."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def append(path: Path, record: Record) -> None:
    """Add a record to a file of JSON lines."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, default=float) + "\n")


if __name__ == "__main__":
    main()
