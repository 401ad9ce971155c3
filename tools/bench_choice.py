"""How a convolution best reads some channels of a residual stream: CPU time of four forms, relative to reading all.

python tools/bench_choice.py

Chains of residual blocks with a fixed inner width, batch 8, one thread. Each block's first convolution reads the whole
stream, or some of its channels: scattered ones by Gather, the first ones by Slice (the best that a permutation of the
stream could give, but not to all readers at once), scattered ones by a 1×1 convolution with one-hot filters. The forms
take turns, so that all see the same machine; what counts is the ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import thread_time

import click
import numpy as np
from onnx import ModelProto, numpy_helper, parser

from onnxprune.graph import Array
from onnxprune.runtime import Runtime

SHAPES = ((16, 32, 8, 8), (32, 16, 16, 16), (64, 8, 32, 32), (64, 8, 32, 48), (256, 14, 64, 128))
BLOCKS = 4
FORMS = {
    "all": "",
    "Gather": "g{i} = Gather<axis=1>(r{i}, chosen)",
    "Slice": "g{i} = Slice(r{i}, zero, count, one)",
    "one-hot": "g{i} = Conv(r{i}, onehot)",
}


def chain(stream: int, size: int, inner: int, read: int, form: str) -> ModelProto:
    """Residual blocks whose first convolution reads `read` channels of the stream in a form, or all."""
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(stream, read, replace=False))
    first = stream if form == "all" else read
    lines = ["r0 = Relu(x)"]
    for i in range(BLOCKS):
        lines += [FORMS[form].format(i=i)] if FORMS[form] else []
        lines += [
            f"a{i} = Conv<pads=[1,1,1,1]>({'r' if form == 'all' else 'g'}{i}, w1, b1)",
            f"q{i} = Relu(a{i})",
            f"c{i} = Conv<pads=[1,1,1,1]>(q{i}, w2, b2)",
            f"z{i} = Add(c{i}, r{i})",
            f"r{i + 1} = Relu(z{i})",
        ]
    lines.append(f"y = GlobalAveragePool(r{BLOCKS})")
    text = f"net (float[8,{stream},{size},{size}] x) => (float[8,{stream},1,1] y) {{ {' '.join(lines)} }}"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    constants: dict[str, Array] = {
        "w1": rng.normal(size=(inner, first, 3, 3)) / 3 / np.sqrt(first),
        "b1": np.zeros(inner),
        "w2": rng.normal(size=(stream, inner, 3, 3)) / 9 / np.sqrt(inner),
        "b2": np.zeros(stream),
        "chosen": chosen,
        "zero": np.array([0]),
        "one": np.array([1]),
        "count": np.array([read]),
        "onehot": np.eye(stream)[chosen][:, :, None, None],
    }
    used = {name for node in model.graph.node for name in node.input}
    for name, value in constants.items():
        if name in used:
            array = value.astype(np.float32) if value.dtype == np.float64 else value
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def ratios(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """CPU times of the calling thread relative to the first run's: lower quintiles of alternating repeats."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = thread_time()
            run()
            times[name].append(thread_time() - start)
    quintiles = {name: float(np.quantile(several, 0.2)) for name, several in times.items()}
    return {name: value / next(iter(quintiles.values())) for name, value in quintiles.items()}


@click.command(help=__doc__.splitlines()[0] if __doc__ else None)
@click.option("--repeats", default=25, show_default=True, type=click.IntRange(1))
def main(repeats: int) -> None:
    """Print one row per shape of the stream."""
    runtime = Runtime(threads=1)
    click.echo("stream     inner  read  " + "  ".join(f"{form:>7}" for form in FORMS))
    for stream, size, inner, read in SHAPES:
        x = np.random.default_rng(1).normal(size=(8, stream, size, size)).astype(np.float32)
        sessions = {form: runtime.session(chain(stream, size, inner, read, form)) for form in FORMS}
        found = ratios({form: partial(one.run, {"x": x}) for form, one in sessions.items()}, repeats)
        row = "  ".join(f"{found[form]:7.2f}" for form in FORMS)
        click.echo(f"{stream:3} × {size:2}²  {inner:6} {read:5}  {row}")


if __name__ == "__main__":
    main()
