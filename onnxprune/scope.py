"""Which groups may be pruned, and why the others aren't: what a user left out, and what can't be refitted."""

from __future__ import annotations

from fnmatch import fnmatch
from math import ceil

import numpy as np
from numpy.typing import NDArray

from onnxprune import selection, unrepaired
from onnxprune.coupling import Coupling, Group
from onnxprune.graph import Block
from onnxprune.run import Options, Run

Ints = NDArray[np.int64]
ALONE = ": they go without repair alone, by weights (as with --method l1)"


def prunable(run: Run) -> list[Group]:
    """The groups that the allocator may narrow."""
    return [g for g in run.coupling.groups if not why_left_out(run.coupling, g, run.options)]


def least_width(coupling: Coupling, group: Group, options: Options) -> int:
    """How many of a group's channels stay at least, for the sake of the layers that make them."""
    makers = _makers(coupling, group)
    shares = [share for pattern, share in options.limits.items() if any(fnmatch(name, pattern) for name in makers)]
    return max(options.min_channels, ceil(max(shares, default=0.0) * group.channels - 1e-9))


def _makers(coupling: Coupling, group: Group) -> list[str]:
    return [coupling.layer(i) for i in group.writers] + [group.name]


def why_left_out(coupling: Coupling, group: Group, options: Options | None = None) -> str:
    """Why a group that could be cut stays whole; empty if it doesn't."""
    makers = _makers(coupling, group)
    touched = [*makers, *(coupling.layer(i) for i in group.reads)]
    if group.stream and (options is None or options.streams == "keep"):
        many = f"{len(group.writers)} layers write to"
        return f"its channels are a residual stream that {many}: it stays whole without --streams prune"
    if options and any(fnmatch(name, pattern) for pattern in options.exclude for name in touched):
        return "left out by --exclude"
    if options and options.include and not any(fnmatch(name, p) for p in options.include for name in makers):
        return "left out by --include"
    if options and len(selection.widths(group, options.step, least_width(coupling, group, options))) == 1:
        return f"its {group.channels} channels are as few as it may have: {_spelt(options)}"
    return "" if options and options.looks_at_weights_alone else _unknown(coupling, group, options)


def may_go(run: Run, block: Block) -> bool:
    """Whether --include, --exclude and --keep let a block go."""
    options, names = run.options, [run.coupling.layer(i) for i in block.nodes]
    left = any(fnmatch(name, pattern) for pattern in (*options.exclude, *options.limits) for name in names)
    return not left and (not options.include or any(fnmatch(n, p) for p in options.include for n in names))


def _unknown(coupling: Coupling, group: Group, options: Options | None) -> str:
    """Why it can't be told what the layers that read a group lose with it, or made up for if it has to be."""
    if group.heads or selection.readers(coupling, group):
        return ""
    if options and options.mode == "unify":
        return "not all layers that read its channels can be refitted, so none can take over"
    if not group.reads:
        return "what its channels do in the layer that makes them can't be told"
    wide = [one for one in unrepaired.seen(coupling, group) if not one.refittable]
    return f"{coupling.layer(wide[0].index)} reads {wide[0].size} values, too many to refit{ALONE}" if wide else ""


def what_stands_in_the_way(run: Run) -> str:
    """Why a run can't prune more, in one sentence."""
    coupling, options = run.coupling, run.options
    reasons = [reason for i, reason in coupling.left_alone.items() if not _makes_output(coupling, i)]
    reasons += [reason for g in coupling.groups if (reason := why_left_out(coupling, g, options))]
    told = [_spelt(options)] if not reasons or options.limits or options.min_channels > 1 else []
    if reasons:
        named = "; ".join(list(dict.fromkeys(reasons))[:3])
        count = f"{len(reasons)} layers or groups stay" if len(reasons) > 1 else "one layer or group stays"
        told.append(f"{count} ({named}); `onnxprune inspect` lists all")
    return f"what stands in the way: {'; '.join(told)}"


def _spelt(options: Options) -> str:
    """What options allow of widths."""
    limits = "".join(f", {100 * share:g} % of '{name}'" for name, share in options.limits.items())
    return f"widths are multiples of {options.step} and at least {options.min_channels}{limits}"


def _makes_output(coupling: Coupling, index: int) -> bool:
    return "is an output of the model" in coupling.left_alone[index]
