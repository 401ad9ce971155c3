"""The zoo's small configurations of transformers: `pip install --no-deps transformers==5.23.0`."""

from __future__ import annotations

import importlib
from typing import Any

Record = dict[str, Any]

LIBRARY = "transformers"

BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 100,
}
TOKENS, IMAGE = (2, 12), (2, 3, 64, 64)
SMALL_RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "out_features": ["stage2"]}
WHISPER = {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128}
DETR = WHISPER | {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 128, "num_queries": 7}
T5 = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4}

TRANSFORMERS: dict[str, tuple[str, Record, tuple[int, ...]]] = {
    "bert": ("BertModel", BASE, TOKENS),
    "distilbert": (
        "DistilBertModel",
        {"vocab_size": 100, "dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4},
        TOKENS,
    ),
    "roberta": ("RobertaModel", BASE, TOKENS),
    "albert": ("AlbertModel", BASE | {"embedding_size": 32}, TOKENS),
    "electra": ("ElectraModel", BASE | {"embedding_size": 64}, TOKENS),
    "mobilebert": ("MobileBertModel", BASE | {"embedding_size": 32, "intra_bottleneck_size": 32}, TOKENS),
    "gpt2": ("GPT2Model", {"vocab_size": 100, "n_embd": 64, "n_layer": 2, "n_head": 4}, TOKENS),
    "opt": ("OPTModel", BASE | {"ffn_dim": 128, "word_embed_proj_dim": 64}, TOKENS),
    "llama": ("LlamaModel", BASE | {"num_key_value_heads": 2}, TOKENS),
    "mistral": ("MistralModel", BASE | {"num_key_value_heads": 2}, TOKENS),
    "mixtral": ("MixtralModel", BASE | {"num_key_value_heads": 2, "num_local_experts": 3}, TOKENS),
    "qwen2": ("Qwen2Model", BASE | {"num_key_value_heads": 2}, TOKENS),
    "phi": ("PhiModel", BASE, TOKENS),
    "gemma": ("GemmaModel", BASE | {"num_key_value_heads": 2, "head_dim": 16}, TOKENS),
    "t5": ("T5EncoderModel", T5 | {"vocab_size": 100}, TOKENS),
    "whisper": ("WhisperEncoder", WHISPER | {"num_mel_bins": 16, "max_source_positions": 20}, (2, 16, 40)),
    "wav2vec2": ("Wav2Vec2Model", BASE | {"conv_dim": [32] * 7, "num_conv_pos_embedding_groups": 4}, (2, 3200)),
    "vit": ("ViTModel", BASE | {"image_size": 64}, IMAGE),
    "deit": ("DeiTModel", BASE | {"image_size": 64}, IMAGE),
    "swin": (
        "SwinModel",
        {"image_size": 64, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        IMAGE,
    ),
    "clip": ("CLIPVisionModel", BASE | {"image_size": 64, "patch_size": 16}, IMAGE),
    "mobilevit": ("MobileViTModel", {"image_size": 64, "neck_hidden_sizes": [16, 24, 32, 48, 64, 80, 160]}, IMAGE),
    "segformer": (
        "SegformerModel",
        {"hidden_sizes": [16, 32, 64, 128], "num_attention_heads": [1, 2, 4, 8]},
        IMAGE,
    ),
    "detr": ("DetrModel", DETR, IMAGE),
}


def names() -> list[str]:
    """Every architecture that is tried."""
    return list(TRANSFORMERS)


def make(torch: Any, name: str) -> tuple[Any, list[Any]]:
    """A small configuration of one of transformers' architectures; it answers with one plain tensor."""
    library = importlib.import_module("transformers")
    kind, special, shape = TRANSFORMERS[name]
    tokens = len(shape) == 2 and name != "wav2vec2"
    if name == "detr":
        backbone = library.ResNetConfig(**SMALL_RESNET)
        special = special | {"use_timm_backbone": False, "backbone": None, "backbone_config": backbone}
    if name == "whisper":
        encoder = importlib.import_module("transformers.models.whisper.modeling_whisper").WhisperEncoder
    else:
        encoder = getattr(library, kind)
    config = encoder.config_class(**special)
    config._attn_implementation = "eager"
    config._experts_implementation = "batched_mm"  # the others loop over what the data chooses
    if hasattr(config, "use_cache"):
        config.use_cache = False
    inner = encoder(config)

    class Plain(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Any) -> Any:
            return self.inner(x, attention_mask=torch.ones_like(x))[0] if tokens else self.inner(x)[0]

    return Plain(), [torch.randint(0, 100, shape) if tokens else torch.randn(*shape)]
