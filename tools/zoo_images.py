"""The zoo's models of images and volumes beside torchvision's: detectors, segmenters, diffusion, medical volumes.

Needs what `zoo_torch` needs, then `pip install --no-deps ultralytics segmentation-models-pytorch diffusers monai
effdet kornia`, and what they import: opencv-python-headless, matplotlib, psutil, requests, polars, omegaconf,
pycocotools, einops, xxhash.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zoo_wrapper import wrapped

Record = dict[str, Any]
Made = tuple[Any, list[Any]]

SIDE = 96

ULTRALYTICS = """
yolov3-tiny yolov5n yolov6n yolov8n yolov8n-seg yolov8n-pose yolov8n-obb yolov8n-cls yolov8n-ghost yolov8n-p2 yolov9t
yolov9c-seg yolov10n yolo11n yolo11n-seg yolo11n-pose yolo11n-obb yolo11n-cls yolo12n yolo12n-seg yolo26n yolo26n-seg
yolov8s-world rtdetr-resnet50 rtdetr-l
"""

SMP = """
Unet:resnet18 Unet:mobilenet_v2 Unet:timm-efficientnet-b0 Unet:densenet121 Unet:mit_b0 Unet:vgg11 Unet:tu-convnext_atto
UnetPlusPlus:resnet18 MAnet:resnet18 Linknet:resnet18 FPN:resnet18 FPN:efficientnet-b0 PSPNet:resnet18 PAN:resnet18
DeepLabV3:resnet18 DeepLabV3Plus:mobilenet_v2 UPerNet:resnet18 UPerNet:tu-swin_tiny_patch4_window7_224 Segformer:mit_b0
DPT:tu-vit_tiny_patch16_224
"""

MONAI = """
UNet BasicUNet BasicUNetPlusPlus VNet SegResNet UNETR SwinUNETR DynUNet AttentionUnet HighResNet VoxelMorph MedNeXt
VQVAE AutoEncoder DiffusionModelUNet ResNet
"""

DIFFUSERS = """
UNet2DModel UNet2DConditionModel ControlNetModel AutoencoderKL AutoencoderTiny VQModel DiTTransformer2DModel
PixArtTransformer2DModel SD3Transformer2DModel FluxTransformer2DModel UNet1DModel UNet3DConditionModel
PriorTransformer Transformer2DModel AutoencoderDC SanaTransformer2DModel AuraFlowTransformer2DModel
"""

EFFDET = "tf_efficientdet_lite0 efficientdet_d0"
KORNIA = "LoFTR DISK RRDBNet DexiNed LightGlue"


@dataclass(frozen=True)
class Library:
    """A library's models as `zoo_torch` wants them; `text` names them."""

    LIBRARY: str
    text: str
    build: Callable[[Any, str], Made]

    def names(self) -> list[str]:
        """Every architecture that is tried."""
        return self.text.split()

    def make(self, torch: Any, name: str) -> Made:
        """A model with random weights, and inputs for it at batch 2."""
        return self.build(torch, name)


def ultralytics(torch: Any, name: str) -> Made:
    """A network as it is exported: convolutions and normalizations in one, boxes decoded."""
    library = importlib.import_module("ultralytics")
    whole = library.RTDETR(f"{name}.yaml") if "rtdetr" in name else library.YOLO(f"{name}.yaml")
    model = whole.model.eval().fuse(verbose=False)
    for module in model.modules():
        if hasattr(module, "export"):
            module.export, module.format, module.dynamic = True, "onnx", True
            if hasattr(module, "max_det"):
                module.max_det = 20
        if type(module).__name__ == "C2f":
            module.forward = module.forward_split
    return model, [torch.rand(2, 3, 224 if name.endswith("-cls") else 128, 224 if name.endswith("-cls") else 128)]


def smp(torch: Any, name: str) -> Made:
    """A decoder on an encoder; two classes of pixels."""
    decoder, encoder = name.split(":")
    library = importlib.import_module("segmentation_models_pytorch")
    model = getattr(library, decoder)(encoder, encoder_weights=None, classes=2)
    side = 224 if "224" in encoder else 128 if decoder == "PAN" else SIDE
    return model, [torch.randn(2, 3, side, side)]


def monai(torch: Any, name: str) -> Made:
    """A network of volumes."""
    nets = importlib.import_module("monai.networks.nets")
    kernel = [3, 3, 3]
    options: dict[str, Record] = {
        "UNet": {"channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 2},
        "BasicUNet": {"features": (8, 8, 16, 16, 32, 8)},
        "BasicUNetPlusPlus": {"features": (8, 8, 16, 16, 32, 8)},
        "VNet": {},
        "SegResNet": {"init_filters": 8},
        "UNETR": {"img_size": 32, "feature_size": 8, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4},
        "SwinUNETR": {"feature_size": 12},
        "DynUNet": {"kernel_size": [kernel] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2, 2],
                    "filters": [8, 16, 32]},
        "AttentionUnet": {"channels": (8, 16, 32), "strides": (2, 2)},
        "HighResNet": {},
        "MedNeXt": {"init_filters": 8},
        "VQVAE": {"channels": (16, 32), "downsample_parameters": ((2, 4, 1, 1), (2, 4, 1, 1)),
                  "upsample_parameters": ((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)), "num_res_channels": 16,
                  "num_res_layers": 1, "num_embeddings": 16, "embedding_dim": 8},
        "AutoEncoder": {"channels": (8, 16), "strides": (2, 2)},
    }  # fmt: skip
    if name == "ResNet":
        model = nets.resnet10(spatial_dims=3, n_input_channels=1, num_classes=3)
        return model, [torch.randn(2, 1, 32, 32, 32)]
    if name == "VoxelMorph":
        return nets.VoxelMorphUNet(
            spatial_dims=3,
            in_channels=2,
            unet_out_channels=8,
            channels=(8, 16, 16, 16, 16, 16),
            final_conv_channels=(8,),
        ), [torch.randn(2, 2, 32, 32, 32)]
    if name == "DiffusionModelUNet":
        model = nets.DiffusionModelUNet(
            spatial_dims=2, in_channels=1, out_channels=1, channels=(16, 32), attention_levels=(False, True),
            num_head_channels=8, num_res_blocks=1, norm_num_groups=8, use_flash_attention=False,
        )  # fmt: skip
        return model, [torch.randn(2, 1, 32, 32), torch.randint(0, 100, (2,))]
    given = {"in_channels": 1, "out_channels": 2, "spatial_dims": 3}
    side = 64 if name == "SwinUNETR" else 32
    return getattr(nets, name)(**given, **options[name]), [torch.randn(2, 1, side, side, side)]


BLOCKS = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
TINY: dict[str, Record] = {
    "UNet2DModel": BLOCKS | {
        "sample_size": 16, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 8,
    },
    "UNet2DConditionModel": BLOCKS | {
        "sample_size": 16, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 4, "cross_attention_dim": 24,
    },
    "UNet3DConditionModel": BLOCKS | {
        "sample_size": 16, "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"), "attention_head_dim": 8, "cross_attention_dim": 24,
    },
    "ControlNetModel": BLOCKS | {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": 4,
        "cross_attention_dim": 24, "conditioning_embedding_out_channels": (16, 32),
    },
    "AutoencoderKL": BLOCKS | {
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
    "AutoencoderTiny": {"encoder_block_out_channels": (16, 16, 16, 16), "decoder_block_out_channels": (16,) * 4},
    "VQModel": BLOCKS | {
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
        "num_vq_embeddings": 32,
    },
    "DiTTransformer2DModel": {
        "num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2,
        "sample_size": 8, "num_embeds_ada_norm": 10,
    },
    "PixArtTransformer2DModel": {
        "num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8,
        "cross_attention_dim": 32, "caption_channels": 24, "use_additional_conditions": False,
    },
    "SD3Transformer2DModel": {
        "sample_size": 16, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4,
        "joint_attention_dim": 24, "caption_projection_dim": 32, "pooled_projection_dim": 20, "out_channels": 16,
        "in_channels": 16,
    },
    "FluxTransformer2DModel": {
        "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 24, "pooled_projection_dim": 20, "axes_dims_rope": (4, 6, 6),
    },
    "UNet1DModel": {
        "block_out_channels": (16, 16, 32), "in_channels": 2, "out_channels": 2, "sample_size": 64,
        "extra_in_channels": 32, "layers_per_block": 1,
    },
    "PriorTransformer": {
        "num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2, "embedding_dim": 24, "num_embeddings": 5,
    },
    "Transformer2DModel": {
        "num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 32, "norm_num_groups": 8,
    },
    "AutoencoderDC": {
        "latent_channels": 8, "attention_head_dim": 8, "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"), "encoder_block_out_channels": (16, 32),
        "decoder_block_out_channels": (16, 32), "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1), "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)),
    },
    "SanaTransformer2DModel": {
        "in_channels": 8, "out_channels": 8, "num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2,
        "num_cross_attention_heads": 2, "cross_attention_head_dim": 16, "cross_attention_dim": 32,
        "caption_channels": 24, "sample_size": 8,
    },
    "AuraFlowTransformer2DModel": {
        "sample_size": 8, "num_mmdit_layers": 1, "num_single_dit_layers": 1, "attention_head_dim": 8,
        "num_attention_heads": 4, "joint_attention_dim": 24, "caption_projection_dim": 32, "pos_embed_max_size": 64,
    },
}  # fmt: skip


def diffusers(torch: Any, name: str) -> Made:
    """A small configuration of a denoiser or of an autoencoder."""
    library = importlib.import_module("diffusers")
    model = getattr(library, name)(**TINY[name])
    random, when = torch.randn, torch.tensor([3, 5])
    picture, text = random(2, TINY[name].get("in_channels", 3), 16, 16), random(2, 5, 24)
    calls: dict[str, tuple[Callable[..., Any], list[Any]]] = {
        "UNet2DModel": (lambda m, x, t: m(x, t).sample, [picture, when]),
        "UNet2DConditionModel": (lambda m, x, t, e: m(x, t, e).sample, [random(2, 4, 16, 16), when, text]),
        "UNet3DConditionModel": (lambda m, x, t, e: m(x, t, e).sample, [random(2, 4, 3, 16, 16), when, text]),
        "ControlNetModel": (
            lambda m, x, t, e, c: m(x, t, e, c, return_dict=False),
            [random(2, 4, 16, 16), when, text, random(2, 3, 32, 32)],
        ),
        "AutoencoderKL": (lambda m, x: m(x).sample, [picture]),
        "AutoencoderTiny": (lambda m, x: m(x).sample, [picture]),
        "VQModel": (lambda m, x: m(x).sample, [picture]),
        "AutoencoderDC": (lambda m, x: m(x).sample, [picture]),
        "DiTTransformer2DModel": (
            lambda m, x, t, c: m(x, timestep=t, class_labels=c).sample,
            [random(2, 4, 8, 8), when, torch.tensor([1, 2])],
        ),
        "PixArtTransformer2DModel": (
            lambda m, x, e, t: m(x, encoder_hidden_states=e, timestep=t, added_cond_kwargs={}).sample,
            [random(2, 4, 8, 8), text, when],
        ),
        "SanaTransformer2DModel": (
            lambda m, x, e, t: m(x, encoder_hidden_states=e, timestep=t).sample,
            [random(2, 8, 8, 8), text, when],
        ),
        "SD3Transformer2DModel": (
            lambda m, x, e, p, t: m(x, encoder_hidden_states=e, pooled_projections=p, timestep=t).sample,
            [picture, text, random(2, 20), when],
        ),
        "FluxTransformer2DModel": (
            lambda m, x, e, p, t: m(
                x, encoder_hidden_states=e, pooled_projections=p, timestep=t,
                img_ids=torch.arange(27.0).reshape(9, 3), txt_ids=torch.zeros(5, 3),
            ).sample,
            [random(2, 9, 16), text, random(2, 20), torch.tensor([0.3, 0.5])],
        ),
        "AuraFlowTransformer2DModel": (
            lambda m, x, e, t: m(x, encoder_hidden_states=e, timestep=t).sample,
            [random(2, 4, 8, 8), text, torch.tensor([0.3, 0.5])],
        ),
        "UNet1DModel": (lambda m, x, t: m(x, t).sample, [random(2, 2, 64), when]),
        "PriorTransformer": (
            lambda m, x, t, p, e: m(x, t, p, e).predicted_image_embedding,
            [random(2, 24), when, random(2, 24), text],
        ),
        "Transformer2DModel": (lambda m, x: m(x).sample, [random(2, 32, 8, 8)]),
    }  # fmt: skip
    call, inputs = calls[name]
    return wrapped(torch, model, call), inputs


def effdet(torch: Any, name: str) -> Made:
    """A detector's network up to scores and boxes of every anchor."""
    library = importlib.import_module("effdet")
    config = library.get_efficientdet_config(name)
    config.image_size, config.num_classes = [128, 128], 5
    return library.EfficientDet(config, pretrained_backbone=False), [torch.randn(2, 3, 128, 128)]


def kornia(torch: Any, name: str) -> Made:
    """Features of pictures, and what matches or sharpens them."""
    random, feature = torch.randn, importlib.import_module("kornia.feature")
    if name == "LightGlue":
        layer = importlib.import_module("kornia.feature.lightglue").TransformerLayer(64, 4, False)
        turn = random(2, 2, 1, 9, 16)  # cosines and sines
        axes = {
            "x": {0: "N"},
            "y": {0: "N"},
            "x_turn": {1: "N"},
            "y_turn": {1: "N"},
            "x_out": {0: "N"},
            "y_out": {0: "N"},
        }
        return wrapped(torch, layer, torch.nn.Module.__call__, axes), [*random(2, 2, 9, 64), turn, turn + 1]
    if name == "LoFTR":
        return feature.LoFTR(pretrained=None).backbone, [random(2, 1, 64, 64)]
    if name == "DISK":
        return wrapped(torch, feature.DISK(), lambda m, x: m.heatmap_and_dense_descriptors(x)), [random(2, 3, 64, 64)]
    if name == "RRDBNet":
        net = importlib.import_module("kornia.models.rrdbnet").RRDBNet(3, 3, 4, 16, 2, 8)
        return net, [random(2, 3, 24, 24)]
    return importlib.import_module("kornia.models.dexined").DexiNed(pretrained=False), [random(2, 3, 64, 64)]


GRAPH = "GCN GAT GraphSAGE GIN PNA EdgeCNN"


def torch_geometric(torch: Any, name: str) -> Made:
    """A network of graphs, which reads features of 9 nodes and where 14 edges start and end."""
    models = importlib.import_module("torch_geometric.nn.models")
    options: Record = {
        "GAT": {"heads": 2, "v2": True},
        "PNA": {"aggregators": ["mean", "max"], "scalers": ["identity"]},
    }
    if name == "PNA":
        options[name]["deg"] = torch.tensor([0, 3, 5, 1])
    model = getattr(models, name)(12, 16, 2, 5, **options.get(name, {}))
    axes: dict[str, dict[int, str]] = {"x": {}, "edges": {}, "y": {}}
    return wrapped(torch, model, lambda m, x, e: m(x, e), axes), [torch.randn(9, 12), torch.randint(0, 9, (2, 14))]


def written(_: Any, name: str) -> Made:
    """One of the networks that are written out."""
    module = importlib.import_module("zoo_written")
    made: Made = module.MODELS[name]()
    return made


class Written(Library):
    """Networks of `zoo_written`, which lists them itself."""

    def names(self) -> list[str]:
        """Every network, once PyTorch is there."""
        return list(importlib.import_module("zoo_written").MODELS)


LIBRARIES = (
    Library("ultralytics", ULTRALYTICS, ultralytics),
    Library("smp", SMP, smp),
    Library("diffusers", DIFFUSERS, diffusers),
    Library("monai", MONAI, monai),
    Library("effdet", EFFDET, effdet),
    Library("kornia", KORNIA, kornia),
    Library("torch_geometric", GRAPH, torch_geometric),
    Written("written", "", written),
)
