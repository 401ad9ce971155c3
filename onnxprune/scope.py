"""Which groups may be pruned, and why the others aren't: what a user left out, and what can't be refitted."""

from __future__ import annotations

from fnmatch import fnmatch
from math import ceil

import numpy as np
from numpy.typing import NDArray

from onnxprune import factorize, selection
from onnxprune.coupling import Coupling, Group
from onnxprune.graph import Block
from onnxprune.run import Options, Run

Ints = NDArray[np.int64]


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
    if factorize.measured(coupling, group) or (options and options.looks_at_weights_alone):
        return ""
    return f"{_unfit(coupling, group)}: it goes without repair alone, by weights (as with --method l1)"


def may_go(run: Run, block: Block) -> bool:
    """Whether --include, --exclude and --keep let a block go."""
    options, names = run.options, [run.coupling.layer(i) for i in block.nodes]
    left = any(fnmatch(name, pattern) for pattern in (*options.exclude, *options.limits) for name in names)
    return not left and (not options.include or any(fnmatch(n, p) for p in options.include for n in names))


def _unfit(coupling: Coupling, group: Group) -> str:
    """Which reader of a group can't be refitted, and why."""
    for index, linear in [
        *((i, coupling.linear(i)) for i in group.reads),
        *((i, coupling.loop(i)) for i in group.loops),
    ]:
        if linear is None:
            return f"{coupling.layer(index)} reads its channels in a way that can't be refitted"
        if not linear.refittable:
            return f"{coupling.layer(index)} reads {linear.size} values, too many to refit"
    return ""


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
