"""The options of the command line: what they are called, what they hold, what help says of them.

A value that makes no sense raises click's BadParameter, which says how to write it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from onnxprune import serialize
from onnxprune.allocation import ALLOCATORS
from onnxprune.coupling import GRANULARITIES
from onnxprune.heads import ATTENTION
from onnxprune.methods import catalogue
from onnxprune.reconstruct import MODES
from onnxprune.run import BLOCKS, STREAMS

F = TypeVar("F", bound=Callable[..., Any])

POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
RECONSTRUCTIONS = ("auto", *MODES)
SECTIONS = {
    "How much, and how": (
        "target",
        "targets",
        "method",
        "allocate",
        "reconstruct",
        "granularity",
        "attention",
        "refine",
        "iterations",
        "retrain",
        "threshold",
        "plan",
    ),
    "Which layers": ("blocks", "streams", "serialize", "include", "exclude", "keep", "round-to", "min-channels"),
    "Data": ("data", "calib", "samples", "eval", "input-shapes", "mean", "std", "layout", "resize", "mirror"),
    "Machine": ("provider", "threads", "custom-ops", "batch", "max-memory", "seed"),
    "Output": (
        "to",
        "save-plan",
        "save-as-external-data",
        "dry-run",
        "force",
        "json",
        "quiet",
        "verbose",
        "version",
        "help",
    ),
}


class Sectioned(click.Command):
    """A command whose help lists its options by subject."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        write_sections(self.get_params(ctx), ctx, formatter)


def write_sections(params: Iterable[click.Parameter], ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write options into a help text, section by section."""
    records = {p.opts[-1].strip("-"): record for p in params if (record := p.get_help_record(ctx)) is not None}
    for title, names in SECTIONS.items():
        if rows := [records[name] for name in names if name in records]:
            with formatter.section(title):
                formatter.write_dl(rows)


def memory(text: str) -> float:
    """Bytes, from a text like 2GB or 1.5GiB."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)(i?)b?", text.strip().lower())
    if match is None or not (size := float(match[1]) * float(1024 if match[3] else 1000) ** POWERS[match[2]]):
        raise click.BadParameter(f"'{text}' is not a size; write one like 500MB or 2GB.")
    return size


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """An input and its sizes, from x:1,3,224,224 or x:[1,3,224,224]."""
    name, _, sizes = text.rpartition(":")
    try:
        found = tuple(int(size) for size in sizes.strip().removeprefix("[").removesuffix("]").split(","))
    except ValueError:
        found = ()
    if not name or not found or min(found) < 1:
        raise click.BadParameter(f"'{text}' is not an input's shape; write one like x:1,3,224,224.")
    return name, found


def numbers(text: str) -> tuple[float, ...]:
    """Numbers between commas."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"'{text}' is not numbers; write one, or one per channel like 0.5,0.5,0.5.") from None


def resize(text: str) -> int | tuple[int, int]:
    """A shorter side, or height and width."""
    match = re.fullmatch(r"(\d+)(?:[x,](\d+))?", text)
    if match is None:
        raise click.BadParameter(f"'{text}' is not a size; write 256 (shorter side, then cropped) or 224,224.")
    return (int(match[1]), int(match[2])) if match[2] else int(match[1])


def limit(text: str) -> tuple[str, float]:
    """Names of layers, and a share, from conv1*=0.5."""
    name, _, share = text.rpartition("=")
    try:
        found = float(share)
    except ValueError:
        found = 0.0
    if not name or not 0 < found <= 1:
        raise click.BadParameter(f"'{text}' is not a share of channels that stays; write one like 'conv1*=0.5'.")
    return name, found


def multiple(text: str) -> int | None:
    """A number from 1; None for auto."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise click.BadParameter(f"'{text}' is not a multiple; write auto or a number from 1.")
    return int(text)


def _remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.meta["verbose"] = value
    return value


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator."""

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


PATH = click.Path(path_type=Path, readable=False)  # what is wrong with a file is said by us, with exit code 1
IN = click.argument("source", metavar="IN.onnx", type=PATH)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout instead of tables.")
VERBOSE = click.option(
    "-v", "--verbose", is_flag=True, callback=_remember, help="More detail: every group, long names, tracebacks."
)
SHAPES = click.option(
    "--input-shapes",
    metavar="NAME:SHAPE",
    type=shape,
    multiple=True,
    help="Sizes of an input's symbolic dimensions for calibration and counting, x:1,3,224,224 or x:[1,3,224,224]; "
    "the saved model keeps them symbolic. Repeatable.",
)
HEADS = click.option(
    "--attention",
    type=click.Choice(ATTENTION),
    default="auto",
    help="What goes from attention: heads: whole heads; rank: dims of all heads, turned first so that the last ones "
    "matter least, where nothing stands in the way, else heads; auto: rank if layers are repaired and "
    "nearly as much can go, else heads; where there is only one, its dims.",
)
DATA = _options(
    click.option(
        "--samples", metavar="N", type=click.IntRange(1), help="Samples used, drawn at random.  [default: all]"
    ),
    SHAPES,
    click.option("--mean", metavar="NUMBERS", type=numbers, help="Mean of each channel that pixels are centred by."),
    click.option("--std", metavar="NUMBERS", type=numbers, help="Deviation of each channel that they are divided by."),
    click.option(
        "--layout", type=click.Choice(["auto", "nchw", "nhwc"]), default="auto", help="Axes of the model's image input."
    ),
    click.option("--resize", metavar="SIZE", type=resize, help="Size of images: 224,224, or 256 for the shorter side."),
)
MACHINE = _options(
    click.option(
        "--provider", metavar="NAME", default="cpu", help="Execution provider: cpu, cuda, ... or a full name."
    ),
    click.option(
        "--threads", metavar="N", type=click.IntRange(0), default=0, help="Threads of onnxruntime; 0: its choice."
    ),
    click.option(
        "--custom-ops",
        metavar="FILE",
        multiple=True,
        help="Library of the model's custom operators, for onnxruntime. Repeatable.",
    ),
    click.option(
        "--batch",
        metavar="N",
        type=click.IntRange(1),
        help="Samples that are run at once, also where models are timed.  [default: up to 64, fewer where activations "
        "are large; 1 where models are timed]",
    ),
)
HOW = _options(
    click.option(
        "--method",
        type=click.Choice([m.name for m in catalogue()], case_sensitive=False),
        default="reap",
        help="Which channels (or blocks) go first; see `onnxprune methods`.",
    ),
    click.option(
        "--allocate",
        type=click.Choice(sorted(ALLOCATORS)),
        default="dp",
        help="How a budget is spread over layers: dp: where it costs least; pro: greedy steps by the "
        "error of the final output; uniform: the same ratio everywhere.",
    ),
    click.option(
        "--reconstruct",
        type=click.Choice(RECONSTRUCTIONS),
        default="auto",
        help="Repair of the layers that read removed channels: auto: what the method's paper does; none; mean: biases "
        "only; unify: for each channel that goes, one that stays takes over; local: least squares, each layer by "
        "itself; ls: least squares, front to back.",
    ),
    click.option(
        "--granularity",
        type=click.Choice(GRANULARITIES),
        default="auto",
        help="What least squares is free to choose: tap: every weight; channel: one number for each pair of channels, "
        "coarser and much faster for wide layers; auto: tap, but channel for layers that are too wide for that.",
    ),
    HEADS,
    click.option(
        "--refine",
        is_flag=True,
        help="Swap channels that stay for ones that go while that lowers the least-squares error; takes longer.",
    ),
)
FORM = _options(
    click.option(
        "--threshold",
        metavar="GAIN",
        type=click.FloatRange(0, 1),
        help="Of shallow: blocks go that add less than this to the share of right answers (with --eval), or to the "
        "share of the answers' variance that their features explain. Without a target, all of them.",
    ),
    click.option(
        "--blocks",
        type=click.Choice(BLOCKS),
        default="auto",
        help="Residual blocks: auto: with --target latency whole ones go where that costs least, and the next one "
        "takes their work over; keep: all stay, and only channels go.",
    ),
    click.option(
        "--streams",
        type=click.Choice(STREAMS),
        default="keep",
        help="Residual streams, the sums of several layers' outputs: keep: they stay whole, and channels inside the "
        "blocks go; prune: their channels go, too, in all layers that write and read them.",
    ),
    click.option(
        "--serialize",
        type=click.Choice(serialize.MODES),
        default="never",
        help="Residual blocks in another form, so that every layer prunes the stream by itself: never; auto: each "
        "convolution reads, and adds to, its own channels of the stream; always: no sums, the stream is carried "
        "through the blocks' convolutions (SRN).",
    ),
)
LAYERS = _options(
    click.option("--include", metavar="GLOB", multiple=True, help="Prune only layers with such names. Repeatable."),
    click.option(
        "--exclude", metavar="GLOB", multiple=True, help="Keep the inputs and outputs of such layers. Repeatable."
    ),
    click.option(
        "--keep",
        metavar="GLOB=SHARE",
        type=limit,
        multiple=True,
        help="Keep at least this share of the outputs of such layers, 'block1/*=0.5' half of them. Repeatable.",
    ),
    click.option(
        "--round-to",
        metavar="N|auto",
        type=multiple,
        default="auto",
        help="Widths are multiples of N; auto: of the 4 below which convolutions get slower.",
    ),
    click.option(
        "--min-channels", metavar="N", type=click.IntRange(1), default=1, help="Channels that every layer keeps."
    ),
)
GIVEN = _options(
    click.option(
        "--calib",
        metavar="PATH",
        help="Data to calibrate on, without labels: .npz, .npy, a folder of images or arrays, or file.py:object.  "
        "[default: IN.calib.npz beside the model, else synthetic]",
    ),
    DATA,
    click.option("--mirror", is_flag=True, help="Add mirrored copies of image samples."),
    click.option(
        "--eval", "evaluate", metavar="PATH", help="Labelled .npz (x, y), or file.py:function(model path) -> score."
    ),
    MACHINE,
    click.option(
        "--max-memory", metavar="SIZE", type=memory, default="2GB", help="Activations above it are kept on disk."
    ),
    click.option(
        "--seed", metavar="N", type=click.IntRange(0), default=0, help="Seed of everything that is drawn at random."
    ),
)
WRITTEN = _options(
    click.option(
        "--save-as-external-data",
        is_flag=True,
        help="Write the weights to OUT.onnx.data.  [default: where IN has them; always above 2 GB]",
    ),
    JSON,
    click.option("-q", "--quiet", is_flag=True, help="No table, no progress, no warnings but that of synthetic data."),
    VERBOSE,
)
PRUNE = _options(
    click.option(
        "--target",
        metavar="KIND=V",
        multiple=True,
        help="macs=0.5, params=0.5, size=0.5 or latency=0.7 (fractions kept; size: of the file, latency: of the time "
        "that a run takes with --provider, --threads and --batch), or drop=0.01 (the most pruned "
        "model whose loss stays under that: of accuracy with --eval, else of agreement with the original). "
        "Repeatable; the tightest wins.  "
        "[default: drop=0.01; drop=0.001 on synthetic data]",
    ),
    HOW,
    click.option(
        "--iterations",
        metavar="N",
        type=click.IntRange(1),
        default=1,
        help="Reach the cost in N steps, each from what the one before it left and repaired.",
    ),
    click.option(
        "--retrain",
        metavar="COMMAND",
        help="Your own training, run after every step: a command with {in} and {out} in it, the .onnx files that it "
        "reads and writes.",
    ),
    FORM,
    click.option("--plan", metavar="FILE", type=PATH, help="Carry out a saved plan instead of choosing one."),
    click.option("--save-plan", metavar="FILE", type=PATH, help="Write the plan, to be carried out again with --plan."),
    LAYERS,
    GIVEN,
    click.option("--dry-run", is_flag=True, help="Do everything but write OUT, which may be left out."),
    click.option("--force", is_flag=True, help="Overwrite OUT, even if it is IN."),
    WRITTEN,
)
SWEEP = _options(
    click.option("--to", metavar="DIR", type=PATH, required=True, help="Folder for the models and the picture."),
    click.option(
        "--targets",
        metavar="KIND=V,V,...",
        multiple=True,
        default=("macs=0.8,0.6,0.4",),
        help="A model for each value of macs, params, size, latency or drop; see --target. Repeatable.",
    ),
    HOW,
    FORM,
    LAYERS,
    GIVEN,
    click.option("--force", is_flag=True, help="Overwrite what DIR has of the same name."),
    WRITTEN,
)
COMPARE = _options(
    click.option(
        "--data",
        metavar="PATH",
        help="Data to compare on; labels in an .npz (y) give accuracies too.  [default: A.calib.npz, else synthetic]",
    ),
    click.option(
        "--eval", "evaluate", metavar="PATH", help="Labelled .npz (x, y), or file.py:function(model path) -> score."
    ),
    DATA,
    MACHINE,
    JSON,
    VERBOSE,
)
