"""The zoo's speech models of torchaudio, in small configurations.

Needs `pip install --no-deps torchaudio==2.11.0`, and its folder `lib` removed where that is built for another PyTorch:
no model needs what is compiled.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from zoo_wrapper import wrapped

Record = dict[str, Any]
Made = tuple[Any, list[Any]]

LIBRARY = "torchaudio"

SPEECH: Record = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(32, 10, 5), (32, 3, 2), (32, 3, 2)],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 64,
    "encoder_projection_dropout": 0.0,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 2,
    "encoder_num_heads": 4,
    "encoder_attention_dropout": 0.0,
    "encoder_ff_interm_features": 128,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.0,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.0,
    "aux_num_out": 29,
}
LARGE = SPEECH | {"extractor_mode": "layer_norm", "extractor_conv_bias": True, "encoder_layer_norm_first": True}
RNNT: Record = {
    "input_dim": 20,
    "encoding_dim": 48,
    "num_symbols": 30,
    "segment_length": 16,
    "right_context_length": 4,
    "time_reduction_input_dim": 16,
    "time_reduction_stride": 4,
    "transformer_num_heads": 4,
    "transformer_ffn_dim": 96,
    "transformer_num_layers": 2,
    "transformer_dropout": 0.0,
    "transformer_activation": "gelu",
    "transformer_left_context_length": 8,
    "transformer_max_memory_size": 0,
    "transformer_weight_init_scale_strategy": "depthwise",
    "transformer_tanh_on_mem": True,
    "symbol_embedding_dim": 32,
    "num_lstm_layers": 2,
    "lstm_layer_norm": True,
    "lstm_layer_norm_epsilon": 1e-3,
    "lstm_dropout": 0.0,
}
TACOTRON: Record = {
    "n_mels": 20,
    "symbol_embedding_dim": 64,
    "encoder_embedding_dim": 64,
    "decoder_rnn_dim": 96,
    "attention_rnn_dim": 96,
    "attention_hidden_dim": 32,
    "prenet_dim": 48,
    "postnet_embedding_dim": 64,
}


def lengths(torch: Any, x: Any, axis: int = 1) -> Any:
    """Every sample is as long as the batch."""
    return torch.full((x.shape[0],), x.shape[axis])


def _conv_tasnet(torch: Any, m: Any) -> Made:
    sizes = {"enc_num_feats": 64, "msk_num_feats": 32, "msk_num_hidden_feats": 64, "msk_num_layers": 3}
    return m.ConvTasNet(num_sources=2, **sizes, msk_num_stacks=2), [torch.randn(2, 1, 800)]


def _deepspeech(torch: Any, m: Any) -> Made:
    return m.DeepSpeech(40, n_hidden=96, n_class=30), [torch.randn(2, 1, 30, 40)]


def _wav2letter(torch: Any, m: Any) -> Made:
    return m.Wav2Letter(num_classes=30, input_type="mfcc", num_features=20), [torch.randn(2, 20, 120)]


def _wavernn(torch: Any, m: Any) -> Made:
    sizes = {"n_res_block": 3, "n_rnn": 48, "n_fc": 64, "n_freq": 20, "n_hidden": 32, "n_output": 32}
    model = m.WaveRNN(upsample_scales=[3, 2], n_classes=30, hop_length=6, **sizes)
    return model, [torch.randn(2, 1, 36), torch.randn(2, 1, 20, 10)]


def _conformer(torch: Any, m: Any) -> Made:
    model = m.Conformer(input_dim=48, num_heads=4, ffn_dim=96, num_layers=2, depthwise_conv_kernel_size=7)
    return wrapped(torch, model, lambda inner, x: inner(x, lengths(torch, x))[0]), [torch.randn(2, 20, 48)]


def _emformer(torch: Any, m: Any) -> Made:
    sizes = {"segment_length": 4, "right_context_length": 2, "left_context_length": 4, "max_memory_size": 2}
    model = m.Emformer(input_dim=48, num_heads=4, ffn_dim=96, num_layers=2, **sizes)
    return wrapped(torch, model, lambda inner, x: inner(x, lengths(torch, x) - 2)[0]), [torch.randn(2, 18, 48)]


def heard(build: str, sizes: Record) -> Callable[[Any, Any], Made]:
    """wav2vec 2.0 and what has its form."""

    def make(torch: Any, m: Any) -> Made:
        return wrapped(torch, getattr(m, build)(**sizes), lambda inner, x: inner(x)[0]), [torch.randn(2, 1600)]

    return make


def _tacotron2_encoder(torch: Any, m: Any) -> Made:
    def call(inner: Any, text: Any) -> Any:
        return inner.encoder(inner.embedding(text).transpose(1, 2), lengths(torch, text))

    return wrapped(torch, m.Tacotron2(**TACOTRON), call), [torch.randint(0, 100, (2, 12))]


def _tacotron2_step(torch: Any, m: Any) -> Made:
    def call(inner: Any, frame: Any, *given: Any) -> Any:
        *state, memory = given
        decoder = inner.decoder
        mask = torch.zeros(memory.shape[:2], dtype=torch.bool)
        return decoder.decode(decoder.prenet(frame), *state, memory, decoder.attention_layer.memory_layer(memory), mask)

    states = [torch.randn(2, n) for n in (96, 96, 96, 96, 12, 12, 64)]
    return wrapped(torch, m.Tacotron2(**TACOTRON), call), [torch.randn(2, 20), *states, torch.randn(2, 12, 64)]


def _tacotron2_postnet(torch: Any, m: Any) -> Made:
    return wrapped(torch, m.Tacotron2(**TACOTRON).postnet, lambda inner, x: x + inner(x)), [torch.randn(2, 20, 16)]


def _hdemucs(torch: Any, m: Any) -> Made:
    def call(inner: Any, wave: Any, spectrum: Any) -> Any:  # transforms of complex numbers stay outside
        inner._spec = inner._mask = lambda x: x
        inner._magnitude = lambda _: spectrum
        inner._ispec = lambda x, _: x[:, :, :2].mean((-2, -1))[..., None]
        return inner(wave)

    model = m.HDemucs(["drums", "vocals"], channels=16, nfft=256, depth=3)
    return wrapped(torch, model, call), [torch.randn(2, 2, 4096), torch.randn(2, 4, 128, 64)]


def _rnnt_transcriber(torch: Any, m: Any) -> Made:
    model = m.emformer_rnnt_model(**RNNT).transcriber
    return wrapped(torch, model, lambda inner, x: inner(x, lengths(torch, x))[0]), [torch.randn(2, 40, 20)]


def _rnnt_predictor(torch: Any, m: Any) -> Made:
    model = m.emformer_rnnt_model(**RNNT).predictor
    return wrapped(torch, model, lambda inner, x: inner(x, lengths(torch, x))[0]), [torch.randint(0, 30, (2, 6))]


def _rnnt_joiner(torch: Any, m: Any) -> Made:
    model = m.emformer_rnnt_model(**RNNT).joiner

    def call(inner: Any, x: Any, y: Any) -> Any:
        return inner(x, lengths(torch, x), y, lengths(torch, y))[0]

    return wrapped(torch, model, call), [torch.randn(2, 9, 48), torch.randn(2, 5, 48)]


def _rnnt(torch: Any, m: Any) -> Made:
    model = m.emformer_rnnt_model(**RNNT)

    def call(inner: Any, x: Any, y: Any) -> Any:
        return inner(x, lengths(torch, x), y, lengths(torch, y))[0]

    return wrapped(torch, model, call), [torch.randn(2, 40, 20), torch.randint(0, 30, (2, 6))]


def _squim_objective(torch: Any, m: Any) -> Made:
    sizes = {"feat_dim": 32, "win_len": 16, "d_model": 32, "nhead": 4, "hidden_dim": 32, "num_blocks": 2}
    return m.squim_objective_model(**sizes, rnn_type="LSTM", chunk_size=15), [torch.randn(2, 400)]


def _squim_subjective(torch: Any, m: Any) -> Made:
    subjective = importlib.import_module("torchaudio.models.squim.subjective")
    encoder = m.wav2vec2_model(**(SPEECH | {"aux_num_out": None}))
    model = m.SquimSubjective(encoder, torch.nn.Linear(64, 16), subjective.Predictor(32, 16))
    return model, [torch.randn(2, 1600), torch.randn(2, 1600)]


MODELS: dict[str, Callable[[Any, Any], Made]] = {
    "conv_tasnet": _conv_tasnet,
    "deepspeech": _deepspeech,
    "wav2letter": _wav2letter,
    "wavernn": _wavernn,
    "conformer": _conformer,
    "emformer": _emformer,
    "wav2vec2": heard("wav2vec2_model", SPEECH),
    "hubert_large": heard("wav2vec2_model", LARGE),
    "wavlm": heard("wavlm_model", SPEECH | {"encoder_num_buckets": 32, "encoder_max_distance": 80}),
    "tacotron2_encoder": _tacotron2_encoder,
    "tacotron2_step": _tacotron2_step,
    "tacotron2_postnet": _tacotron2_postnet,
    "hdemucs": _hdemucs,
    "rnnt_transcriber": _rnnt_transcriber,
    "rnnt_predictor": _rnnt_predictor,
    "rnnt_joiner": _rnnt_joiner,
    "rnnt": _rnnt,
    "squim_objective": _squim_objective,
    "squim_subjective": _squim_subjective,
}


def names() -> list[str]:
    """Every architecture that is tried."""
    return list(MODELS)


def make(torch: Any, name: str) -> Made:
    """A small configuration of one architecture with random weights, and inputs for it."""
    return MODELS[name](torch, importlib.import_module("torchaudio.models"))
