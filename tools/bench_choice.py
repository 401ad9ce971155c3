"""How a convolution best reads or writes some channels of a residual stream: CPU time relative to taking all.

python tools/bench_choice.py

Chains of residual blocks with a fixed inner width, batch 8, one thread. Each block's first convolution reads the whole
stream, or some of its channels: scattered ones by Gather, the first ones by Slice (the best that a permutation of the
stream could give, but not to all readers at once), scattered ones by a 1×1 convolution with one-hot filters. Or its
last convolution makes only some of the channels that are added to the stream, and constants take the place of the
others: by a Pad, a Gather and an Add; by a Pad and an Add, for the first ones; by such a 1×1 convolution with a bias.
The forms take turns, so that all see the same machine; what counts is the ratio.
"""

from __future__ import annotations

import click
import numpy as np
from onnx import ModelProto, numpy_helper, parser

from onnxprune.clock import in_turns
from onnxprune.graph import Array
from onnxprune.runtime import Runtime

SHAPES = ((16, 32, 8, 8), (32, 16, 16, 16), (64, 8, 32, 32), (64, 8, 32, 48), (256, 14, 64, 128))
BLOCKS = 4
READS = {
    "Gather": "g{i} = Gather<axis=1>(r{i}, chosen)",
    "Slice": "g{i} = Slice(r{i}, zero, count, one)",
    "one-hot": "g{i} = Conv(r{i}, onehot)",
}
WRITES = {
    "Pad, Gather": "p{i} = Pad(c{i}, front)\nf{i} = Gather<axis=1>(p{i}, places)\nh{i} = Add(f{i}, constants)",
    "Pad": "p{i} = Pad(c{i}, behind)\nh{i} = Add(p{i}, constants)",
    "one-hot 1×1": "h{i} = Conv(c{i}, filled, b2)",
}


def chain(stream: int, size: int, inner: int, some: int, read: str = "", written: str = "") -> ModelProto:
    """Residual blocks that read or write `some` channels of the stream in a form; all where none is given."""
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(stream, some, replace=False))
    first, last = some if read else stream, some if written else stream
    lines = ["r0 = Relu(x)"]
    for i in range(BLOCKS):
        lines += [
            READS.get(read, "").format(i=i),
            f"a{i} = Conv<pads=[1,1,1,1]>({'g' if read else 'r'}{i}, w1, b1)",
            f"q{i} = Relu(a{i})",
            f"c{i} = Conv<pads=[1,1,1,1]>(q{i}, w2{'' if written else ', b2'})",
            WRITES.get(written, "").format(i=i),
            f"z{i} = Add({'h' if written else 'c'}{i}, r{i})",
            f"r{i + 1} = Relu(z{i})",
        ]
    lines.append(f"y = GlobalAveragePool(r{BLOCKS})")
    text = f"net (float[8,{stream},{size},{size}] x) => (float[8,{stream},1,1] y) {{ {' '.join(lines)} }}"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    places = np.zeros(stream, np.int64)
    places[chosen] = np.arange(some) + 1
    constants: dict[str, Array] = {
        "w1": rng.normal(size=(inner, first, 3, 3)) / 3 / np.sqrt(first),
        "b1": np.zeros(inner),
        "w2": rng.normal(size=(last, inner, 3, 3)) / 9 / np.sqrt(inner),
        "b2": np.zeros(stream),
        "chosen": chosen,
        "zero": np.array([0]),
        "one": np.array([1]),
        "count": np.array([some]),
        "onehot": np.eye(stream)[chosen][:, :, None, None],
        "front": np.array([0, 1, 0, 0, 0, 0, 0, 0]),
        "behind": np.array([0, 0, 0, 0, 0, stream - some, 0, 0]),
        "places": places,
        "constants": np.zeros((stream, 1, 1)),
        "filled": np.eye(stream)[:, chosen][:, :, None, None],
    }
    used = {name for node in model.graph.node for name in node.input}
    for name, value in constants.items():
        if name in used:
            array = value.astype(np.float32) if value.dtype == np.float64 else value
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--repeats", default=25, show_default=True, type=click.IntRange(1))
def main(repeats: int) -> None:
    """Print one row per shape of the stream, for what reads it and for what writes to it."""
    runtime = Runtime(threads=1)
    for way, forms in (("read", READS), ("written", WRITES)):
        click.echo(f"stream     inner  {way:>7}  " + "  ".join(f"{form:>11}" for form in ("all", *forms)))
        for stream, size, inner, some in SHAPES:
            x = np.random.default_rng(1).normal(size=(8, stream, size, size)).astype(np.float32)
            models = [chain(stream, size, inner, some, **{way: form}) for form in ("", *forms)]
            times = in_turns(models, {"x": x}, runtime, rounds=repeats)
            row = "  ".join(f"{ratio:11.2f}" for ratio in np.median(times / times[:, :1], axis=0))
            click.echo(f"{stream:3} × {size:2}²  {inner:6} {some:8}  {row}")


if __name__ == "__main__":
    main()
