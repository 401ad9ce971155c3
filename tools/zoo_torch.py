"""The zoo's models from PyTorch: torchvision, timm, and the libraries in `LIBRARIES`, by both its exporters.

Needs torch 2.13.0 (CPU), then `pip install --no-deps torchvision==0.28.0 timm` and the other libraries that are to be
built, and what they import: pillow, pyyaml, safetensors, huggingface_hub, tokenizers, regex, tqdm, onnxscript.
Exporters are called `torchscript` (opset 17), `torchscript7` to `torchscript12` (older opsets), and `dynamo`.

A library is a module with its name as `LIBRARY`, `names()`, which imports nothing of it, and `make(torch, name)`: a
model with random weights, and inputs for it at batch 2. Axis 0 of each input and output is the batch, unless the model
has `axes`: names of the symbolic axes of each input and output, by its name, in their order; sums of names may stand
there. With `first`, what `make` returns for the same decoder without a cache, both are merged.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import zoo_images
import zoo_merged
import zoo_torchaudio
import zoo_transformers

Record = dict[str, Any]
Axes = dict[str, dict[int, str]]

OPSET = 17
EMBEDDED = 450  # million parameters; a file holds 2 GB at most, so the weights of larger models lie beside it
OLD = ("resnet18", "mobilenet_v2", "densenet121")
VIDEO = {"r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t", "swin3d_s", "swin3d_b", "mvit_v1_b", "mvit_v2_s"}
SIDES = {"inception_v3": 107, "maxvit_t": 224, "raft_small": 128, "raft_large": 128, "s3d": 224, "alexnet": 224}

TIMM = """
resnet18 resnetv2_50 resnext26ts seresnet18 skresnet18 resnest14d res2net50_14w_8s regnety_002 efficientnet_lite0
mobilenetv3_small_050 mobilenetv4_conv_small mobilenetv1_100 mnasnet_small fbnetc_100 ghostnet_050 repghostnet_050
hardcorenas_a lcnet_035 tinynet_e rexnet_100 densenet121 dla34 dpn48b cspresnet50 cspdarknet53 darknet17 vovnet39a
ese_vovnet19b_dw selecsls42b hrnet_w18_small xception41 legacy_xception inception_v4 inception_resnet_v2 nasnetalarge
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
botnet26t_256 halonet26t samvit_base_patch16_224 iformer_t efficientvim_m1 lowformer_b0 csatv2 cpubone_nano cspnext_tiny
hieradet_small inception_v3 lcnetv2_small legacy_seresnet18 mobilenetv5_base naflexvit_base_patch16_gap qwen3_vit_88m
deepseek_vit_412m gemma4_vit_167m
"""

LIBRARIES: dict[str, Any] = {m.LIBRARY: m for m in (zoo_transformers, zoo_torchaudio, *zoo_images.LIBRARIES)}


def exporters() -> list[str]:
    """The ways this library's models are exported."""
    return ["torchscript", "dynamo", *(f"torchscript{n}" for n in range(7, 13))]


def names(exporter: str) -> list[str]:
    """Every model that is tried, small ones first within torchvision; few in the old opsets."""
    libraries()
    if exporter[-1].isdigit():
        return [f"torchvision/{n}" for n in OLD]
    tv = importlib.import_module("torchvision").models
    found = [f"torchvision/{n}" for n in sorted(tv.list_models(), key=lambda n: parameters_of(tv, n))]
    timm = importlib.import_module("timm")
    found += [f"timm/{n}" for n in TIMM.split() if n in timm.list_models()]
    return found + [f"{library}/{n}" for library, module in LIBRARIES.items() for n in module.names()]


def parameters_of(tv: Any, name: str) -> int:
    """What torchvision says of a model's size."""
    weights = tv.get_model_weights(name)
    return int(next(iter(weights)).meta["num_params"])


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


def export(name: str, exporter: str, path: Path, largest: float) -> Record:
    """Build one model with random weights and write it; its size in millions, and its family where timm has one."""
    torch = libraries()
    torch.manual_seed(0)
    model, inputs = make(name)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    if size > largest:
        return {"error": f"left out: {size:.0f} million parameters", "parameters": size}
    randomize(torch, model, inputs)
    model.eval()
    given = write(torch, model, inputs, path, exporter, size)
    if hasattr(model, "first"):
        with_past, without = (path.with_suffix(f".{part}.onnx") for part in ("later", "first"))
        path.rename(with_past)
        first, own = model.first
        write(torch, first, own, without, exporter, size)
        zoo_merged.merge(with_past, without, path)
        given["use_cache_branch"] = torch.tensor([True])
        with_past.unlink()
        without.unlink()
    runs(path, given)
    facts = {"family": type(model).__module__} if name.startswith("timm/") else {}
    return {"parameters": size, **facts}


def write(torch: Any, model: Any, inputs: list[Any], path: Path, exporter: str, size: float) -> Record:
    """Export a model; its inputs, by name."""
    with torch.no_grad():
        outputs = flat(model(*inputs))
        (with_dynamo if exporter == "dynamo" else traced)(torch, model, inputs, outputs, path, exporter, size)
    return dict(zip(axes_of(model, inputs, outputs)[0], flat(inputs), strict=False))


def runs(path: Path, inputs: Record) -> None:
    """Raise unless onnxruntime runs what was exported, also at batch 1 if that is to be free.

    Exporters get shapes wrong, write what nothing can load, and write down the batch where they shouldn't.
    """
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = {value.name: inputs[value.name].numpy() for value in session.get_inputs()}
    session.run(None, given)
    if all(value.shape and isinstance(value.shape[0], str) for value in session.get_inputs()):
        session.run(None, {name: value[:1] for name, value in given.items()})


def axes_of(model: Any, inputs: list[Any], outputs: list[Any]) -> tuple[Axes, Axes]:
    """Names of the inputs and outputs, and of their symbolic axes."""
    if axes := getattr(model, "axes", None):
        return dict(list(axes.items())[: len(inputs)]), dict(list(axes.items())[len(inputs) :])
    sides = (("x", inputs), ("y", outputs))
    ins, outs = ({f"{n}{i}" if i else n: {0: "N"} for i in range(len(side))} for n, side in sides)
    return ins, outs


def traced(torch: Any, model: Any, inputs: list[Any], outputs: list[Any], path: Path, exporter: str, _: float) -> None:
    """Export by the TorchScript exporter, which is taught what torchvision's compiled operators mean."""
    importlib.import_module("torchvision.ops._register_onnx_ops")
    ins, outs = axes_of(model, inputs, outputs)
    batched = not isinstance(inputs[0], list)  # detectors take a list of images
    torch.onnx.export(
        model, tuple(inputs), path, dynamo=False, input_names=list(ins), output_names=list(outs),
        opset_version=int(re.sub(r"\D", "", exporter) or OPSET),
        dynamic_axes=ins | outs if batched else {},
    )  # fmt: skip


def with_dynamo(torch: Any, model: Any, inputs: list[Any], outs: list[Any], path: Path, _: str, size: float) -> None:
    """Export by the exporter of PyTorch 2, with symbolic axes where the model allows them."""
    names, dim = axes_of(model, inputs, outs)[0], torch.export.Dim
    shapes: Any = tuple(
        {i: dim(n, min=1, max=64) if n == "N" else n for i, n in axes.items()} for axes in names.values()
    )
    kinds = {p.kind for p in inspect.signature(model.forward).parameters.values()}
    shapes = (shapes,) if inspect.Parameter.VAR_POSITIONAL in kinds else shapes
    options = {"dynamo": True, "input_names": list(names), "verbose": False}
    options["external_data"] = size > EMBEDDED
    try:
        torch.onnx.export(model, tuple(inputs), path, dynamic_shapes=shapes, **options)
    except Exception:
        torch.onnx.export(model, tuple(inputs), path, **options)


def make(name: str) -> tuple[Any, list[Any]]:
    """A model with random weights, and inputs for it at batch 2."""
    torch = libraries()
    library, architecture = name.split("/")
    if library == "timm":
        model = importlib.import_module("timm").create_model(architecture, pretrained=False, exportable=True)
        side = model.default_cfg.get("input_size", (3, 224, 224))[-1]
        convolutional = model.default_cfg.get("pool_size") is not None and not model.default_cfg.get("fixed_input_size")
        convolutional = convolutional and not architecture.startswith(("bat_", "halonet", "csatv2", "vgg"))
        return model, [torch.randn(2, 3, *[96 if convolutional and side >= 192 else side] * 2)]
    if library in LIBRARIES:
        model, inputs = LIBRARIES[library].make(torch, architecture)
        return model, inputs
    tv = importlib.import_module("torchvision").models
    options: Record = {"weights": None}
    if architecture.startswith("quantized_"):  # as it is before quantization: what prunes comes first
        options["quantize"], architecture = False, architecture.removeprefix("quantized_")
    if any(part in architecture for part in ("rcnn", "retinanet", "fcos", "ssd", "deeplab", "fcn", "lraspp")):
        options["weights_backbone"] = None
    side = SIDES.get(architecture, 64)
    if architecture.startswith(("vit_b", "vit_l", "vit_h", "mvit", "vgg")):
        side = 224
    if any(part in architecture for part in ("rcnn", "retinanet", "fcos")):
        options |= {"min_size": 96, "max_size": 96}
    if architecture.startswith("mvit"):
        return tv.get_model(name.split("/")[1], **options), [torch.randn(1, 3, 16, 224, 224)]
    if architecture in VIDEO:
        frames = 16 if architecture == "s3d" else 8
        return tv.get_model(name.split("/")[1], **options), [torch.randn(2, 3, frames, side, side)]
    if architecture.startswith("raft"):
        model = tv.get_model(name.split("/")[1], **options)
        return model, [torch.randn(2, 3, side, side), torch.randn(2, 3, side, side)]
    model = tv.get_model(name.split("/")[1], **options)
    if "rcnn" in architecture or architecture.startswith(("retinanet", "fcos", "ssd")):
        return model, [[torch.rand(3, 96, 96)]]
    return model, [torch.randn(2, 3, side, side)]


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
