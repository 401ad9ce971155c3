"""The topologies that must be prunable, and the cases that stand for them; `golden` says what goes in each.

That quantized models are refused, and that all opsets give the same groups, is tested in `test_coupling`.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from cases import CASES
from onnx import numpy_helper

from onnxprune.coupling import couple
from onnxprune.graph import Graph
from onnxprune.runtime import Runtime

TOPOLOGIES = {
    "plain chain of convolutions": "chain",
    "Conv-BN-ReLU, BN as a node": "batchnorm_node",
    "Conv-BN-ReLU, BN folded": "bottleneck",
    "BN before the activation of another branch": "batchnorm_of_another_branch",
    "LeNet, convolution to Flatten to Gemm": "lenet_flatten",
    "Flatten by Reshape to [0, -1]": "lenet_reshape lenet_reshape_fixed",
    "Flatten by Shape, Gather, Concat": "lenet_dynamic flatten_by_counting_channels",
    "ResNet, basic blocks": "residual_identity residual_projection",
    "ResNet, bottleneck": "bottleneck",
    "ResNet, option-A shortcut": "residual_option_a shortcut_of_every_other_channel",
    "ResNet, pre-activation": "preactivation",
    "DenseNet": "densenet",
    "Inception with a pool branch": "inception concat_of_a_raw_pool_branch",
    "MobileNetV2, inverted residual": "inverted_residual",
    "MobileNetV3, squeeze-and-excite by HardSigmoid": "squeeze_excite",
    "EfficientNet, SiLU": "silu",
    "hard-swish, decomposed": "hard_swish",
    "GELU, decomposed": "gelu_erf gelu_tanh",
    "ResNeXt": "conv_grouped resnext",
    "two grouped convolutions in a row": "grouped_twice grouped_twice_out_of_step",
    "grouped convolution behind Concat": "grouped_after_concat",
    "grouped transposed convolution": "conv_transpose_grouped",
    "depthwise with multiplier 2": "depthwise_multiplier",
    "convolution of one output channel": "one_output_channel",
    "ShuffleNet V1 and V2": "shufflenet_v1 shufflenet_v2 shuffle_by_shape_arithmetic shuffles_that_do_not_nest",
    "YOLO, C2f and CSP": "c2f",
    "YOLO, ELAN": "elan",
    "YOLO, SPPF": "sppf",
    "YOLO, detect head with DFL": "detect",
    "coordinate attention": "coordinate_attention",
    "U-Net": "unet",
    "pixel shuffle, both ways": "pixel_shuffle",
    "InstanceNormalization, PRelu": "instance_norm",
    "LRN": "lrn",
    "GroupNormalization, native and decomposed": "group_norm group_norm_by_reshape",
    "ConvNeXt": "convnext",
    "ConvNeXt V2: response normalization": "global_response_normalization",
    "tf2onnx, NHWC with Transposes and Pad": "nhwc",
    "gate of two convolutions": "gate_of_a_conv",
    "two heads from one trunk": "two_heads",
    "inner value that is an output": "inner_value_is_an_output",
    "tied initializers": "tied_weights tied_branches merged_constants",
    "weights through other nodes": "weights_through_nodes",
    "transformer, separate Q, K, V, post-norm": "attention",
    "transformer, packed QKV, pre-norm, decomposed LayerNorm": "attention_packed encoder_of_decomposed_norms",
    "grouped and shared keys": "attention_of_grouped_queries attention_of_many_queries",
    "attention by Einsum": "einsum_attention einsum_of_split_heads",
    "attention in one node, also of grouped keys": "attention_in_one_node fused_attention_of_grouped_queries_packed",
    "nodes of com.microsoft": "packed_attention fused_attention gelu_of_a_library normalization_with_a_shortcut "
    "fused_convolutions fused_gemm fused_matmul",
    "gated FFN with RMSNorm": "gated_ffn",
    "MLP-Mixer": "mixer mixer_without_normalization",
    "LSTM, GRU, RNN": "lstm gru_to_its_last_state rnn_after_another",
    "recurrent, bidirectional and stacked": "lstm_in_both_directions last_states_of_both_directions",
    "Conv1d and Conv3d": "conv1d conv3d",
    "MLP of scikit-learn": "mlp_matmul",
    "several inputs and outputs": "two_inputs two_heads",
    "bodies of If and Loop": "if_body loop_body constant_read_by_a_body",
    "If and Loop that constants or fixed sizes decide": "if_that_is_decided if_that_a_size_decides "
    "loop_of_a_constant_number sequence_of_a_loop",
    "float16 and bfloat16": "half bfloat16",
}
NOTHING_GOES = {  # and rightly so: what would have to go with a channel can't be cut
    "no prunable layer": "nothing_prunable no_layers",
    "empty graph": "empty",
    "an output that lists every channel": "attention_that_is_an_output pool_with_indices",
    "gMLP: a gate behind a normalization over all channels": "gate_over_places",
}


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_channels_go(topology):
    for name in TOPOLOGIES[topology].split():
        assert couple(Graph(CASES[name].model())).groups, name


@pytest.mark.parametrize("topology", NOTHING_GOES)
def test_nothing_can_go(topology):
    for name in NOTHING_GOES[topology].split():
        assert not couple(Graph(CASES[name].model())).groups, name


@pytest.mark.parametrize(("name", "width"), [("gate_over_places", 5)])
def test_cutting_would_not_be_exact_where_nothing_can_go(name, width):
    """Without a channel that nothing reads, a normalization over all of them makes something else of the others."""
    case, stays = CASES[name], np.arange(width) != 2
    model, silent = case.model(), case.model()
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        for axis, length in enumerate(value.shape):
            if value.dtype == np.float32 and length in (width, 2 * width):
                value = value.compress(np.resize(stays, length), axis)
        value = np.full_like(value, width - 1) if tensor.name == "halves" else value
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    reader = next(t for t in silent.graph.initializer if t.name == "w2")
    reader.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(reader) * stays[:, None].astype(np.float32), "w2"))
    cut, full = (Runtime(threads=1).session(m).run(case.feed())["y"] for m in (model, silent))
    assert np.abs(cut - full).max() > 0.01 * np.abs(full).max()


def test_a_local_function_keeps_what_it_touches():
    """Its body isn't looked into; the layers before and behind it are named or pruned like any other."""
    model = CASES["unknown_operator"].model()
    body = [onnx.helper.make_node("Relu", ["i"], ["o"])]
    opset = [onnx.helper.make_opsetid("", 17)]
    model.functions.append(onnx.helper.make_function("custom", "Frobnicate", ["i"], ["o"], body, opset))
    coupling = couple(Graph(model))
    assert [g.name for g in coupling.groups][:1] == ["a"]
