"""Operators that arrange elements anew, or repeat them, and leave their values alone.

They are run on the ids themselves. Where a shape is stated, it is stated anew for fewer channels; channels stay where
that can't be done.
"""

from __future__ import annotations

import numpy as np

from onnxprune.graph import Shape, key
from onnxprune.ids import Ids, reshape
from onnxprune.ops.registry import Cut, View, Visit, always, rule
from onnxprune.ops.sizes import always_stated, lower_sizes, read_along, repeated_along, stretched

STAYS = "moves them in a way that can't be written for fewer channels"


@rule("Transpose", commutes=always)
def transpose(v: Visit) -> None:
    """Permutes the axes."""
    ids = v.ids(0, lanes=True)
    v.set(ids.transpose(v.attr("perm", range(ids.ndim)[::-1])))


def target(v: View) -> list[int] | None:
    """The shape of output 0 as Reshape may state it: fixed lengths, 0 (copied) or one -1 where sizes are symbolic."""
    name, x = v.node.output[0], v.name(0)
    first, *others = [(p.shapes[name], p.shapes[x]) for p in v.graph.probes if name in p.shapes and x in p.shapes]
    stated = list(first[0])
    for axis, n in enumerate(stated):
        if all(out[axis] == n for out, _ in others):
            continue
        copied = axis < len(first[1]) and all(o[axis] == i[axis] for o, i in [first, *others])
        stated[axis] = 0 if copied else -1
    return stated if stated.count(-1) <= 1 else None


def shrink_reshape(cut: Cut) -> None:
    """The lengths along the axis that loses channels are those that are left; 0 and -1 follow by themselves."""
    name = key(cut.node)
    if not (cut.restated(cut.node.input[1]) or cut.changes(name) or cut.changes(cut.node.input[0])):
        return
    stated, sizes = target(cut.view), cut.node.input[1]
    if stated is None:  # several lengths depend on the input: those stay as they are calculated
        gone = np.subtract(cut.shape(name), cut.kept(name))
        cut.lower_input(1, np.where(cut.graph.probes[0].values[sizes] > 0, gone, 0).astype(np.int64))
        return
    stated = [after if s > 0 else s for s, after in zip(stated, cut.kept(name), strict=True)]
    cut.set_input(1, np.asarray(stated, np.int64), "kept")
    cut.drop_attr("allowzero")  # a 0 means "copied" again


@rule("Reshape", shrink=shrink_reshape, commutes=always)
def rereshape(v: Visit) -> None:
    """New lengths, same order. Channels stay where the new shape couldn't be written down."""
    if v.static(0):  # a constant that takes its shape from sizes: those stay
        return
    if target(v) is not None:
        v.accept(1)
    elif not always_numbers(v):
        run_time(v, v.ids(0), 1)
    v.set(reshape(v.ids(0, lanes=True), v.shape(0), v.out_shape()))


def always_numbers(v: Visit) -> bool:
    """Whether the new shape states, of all axes along which channels vary, numbers that never change."""
    stated = [probe.values.get(v.name(1)) for probe in v.graph.probes]
    axes = [axis for axis, n in enumerate(reshape(v.ids(0), v.shape(0), v.out_shape()).shape) if n > 1]
    if v.ids(1).any() or any(sizes is None for sizes in stated):
        return False
    return all(sizes[axis] in (-1, v.out_shape()[axis]) for sizes in stated for axis in axes)  # type: ignore[index]


@rule("Flatten", "Squeeze", "Unsqueeze", commutes=always)
def flatten(v: Visit) -> None:
    """Merges, drops or adds axes; nothing in it names a number of channels."""
    v.set(reshape(v.ids(0, lanes=True), v.shape(0), v.out_shape()))


def repeats(v: View) -> list[int] | None:
    """The shape as Expand may state it without naming a channel axis: 1 keeps a length; None if it can't be known."""
    x, y, stated = v.name(0), v.node.output[0], []
    known = [(p.shapes[x], p.shapes[y]) for p in v.graph.probes if x in p.shapes and y in p.shapes]
    for axis, n in enumerate(known[0][1]):
        before = [old[axis - len(new)] if len(new) - axis <= len(old) else 1 for old, new in known]
        after = [new[axis] for _, new in known]
        if before != after and (set(before) != {1} or set(after) != {n}):
            return None
        stated.append(1 if before == after else n)
    return stated


def shrink_expand(cut: Cut) -> None:
    """Lengths along the channel axis follow."""
    name, stated = key(cut.node), repeats(cut.view)
    if stated is None and not cut.view.fixed(1):
        if cut.view.static(0):
            lower_sizes(cut, 1)
        return
    if not (cut.restated(cut.node.input[1]) or cut.changes(name)):
        return
    if stated is None:
        old = cut.graph.probes[0].values[cut.node.input[1]].tolist()
        stated = [n if n == 1 else after for n, after in zip(old, cut.kept(name)[-len(old) :], strict=True)]
    stated = [n if n == 1 else after for n, after in zip(stated, cut.kept(name)[-len(stated) :], strict=True)]
    cut.set_input(1, np.asarray(stated, np.int64), "kept")


@rule("Expand", shrink=shrink_expand, commutes=always)
def expand(v: Visit) -> None:
    """Repeats along axes of length 1."""
    rank, stated = len(v.out_shape()), v.shape(1)[0]
    if v.static(0):
        repeat_constant(v)
        return
    ids = v.ids(0).reshape((1,) * (rank - v.ids(0).ndim) + v.ids(0).shape)
    if repeats_by_count(v, ids):
        return
    if v.fixed(1) or repeats(v) is not None:
        v.accept(1)
        if makes_copies(v, ids):
            return
    elif not (keeps(v, ids.shape) or v.follows(1, ids, range(rank - stated, rank))):
        run_time(v, ids, 1)
    v.set(ids)


def repeats_by_count(v: Visit, ids: Ids) -> bool:
    """Whether what has no channels is repeated as often as there are channels; then each copy belongs to one."""
    rank, stated = len(v.out_shape()), v.ids(1).ravel()
    before = (1,) * (rank - len(v.shape(0))) + tuple(v.shape(0))
    counted = [rank - len(stated) + place for place, size in enumerate(stated) if size]
    if ids.any() or len(stated) != rank or len(counted) != 1 or before[counted[0]] != 1:
        return False
    return stretched(v, 1)


def repeat_constant(v: Visit) -> None:
    """A constant that is repeated (the class token of every image) makes channels along an axis of its own.

    A single number that is repeated as often as there are channels has a copy for each of these. So has one that is
    always repeated equally often along one axis, as the first state of a recurrent layer that is written as a loop.
    """
    shape, sizes = v.shape(0), v.ids(1)
    single = np.prod(shape) == 1
    if single and sizes.any() and stretched(v, 1):
        return
    if not (known := v.fixed(1) or repeats(v) is not None):
        v.freeze(sizes, "repeats a constant as often as they say")
    if not known and not sizes.any() and single and (axis := repeated_along(v, 1)) is not None:
        v.set_channels(v.ledger.fresh(("repeated", v.index), v.out_shape()[axis]), axis)
    elif (axis := repeated_along(v)) is not None and (known or keeps(v, shape) or axis in always_stated(v, 1)):
        v.set_channels(v.parameter(0, axis - len(v.out_shape()) + len(shape)), axis)
    elif not known and not keeps(v, shape):
        v.set(v.staying("repeats it to a size that is known only at run time"))


def keeps(v: Visit, shape: Shape) -> bool:
    """Whether the stated shape is always 1, which keeps a length, where this one (aligned from the right) is not."""
    stated = [probe.values.get(v.name(1)) for probe in v.graph.probes]
    pairs = [zip(shape[::-1], sizes[::-1].tolist(), strict=False) for sizes in stated if sizes is not None]
    return len(pairs) == len(stated) and all(n == 1 or size == 1 for pair in pairs for n, size in pair)


def run_time(v: Visit, ids: Ids, *inputs: int) -> None:
    """Channels stay, and those that the sizes in these inputs count."""
    for one in (ids, *(v.ids(i) for i in inputs)):
        v.freeze(one, "brings them to a size that is known only at run time")


def makes_copies(v: Visit, ids: Ids) -> bool:
    """Whether the copies along an axis that had length 1 are channels, which can go one by one.

    They are where it turned out that what is copied can only go as a whole, as keys that all heads share, or must stay;
    and of what has no channels where the first layer behind has them along that axis.
    """
    before = (1,) * (len(v.out_shape()) - len(v.shape(0))) + tuple(v.shape(0))
    made = [axis for axis, (a, b) in enumerate(zip(before, v.out_shape(), strict=True)) if a == 1 < b]
    if len(made) == 1 and not ids.any() and read_along(v) == made[0]:
        v.set_channels(v.ledger.fresh(("copies", v.index), v.out_shape()[made[0]]), made[0])
        return True
    if len(made) != 1 or not ids.any():
        return False
    if v.index not in v.notes.apart:
        v.notes.copied[v.index] = ids
        return False
    v.ledger.freeze(ids, v.notes.apart[v.index] or f"{v} repeats them, one copy for each of several channels")
    v.set_channels(v.ledger.fresh(("copies", v.index), v.out_shape()[made[0]]), made[0])
    return True


def shrink_tile(cut: Cut) -> None:
    """As many copies as are kept."""
    x, y, stated = cut.node.input[0], key(cut.node), cut.view.value(1)
    if stated is not None and cut.kept(y) != cut.shape(y):
        axes = zip(cut.shape(x), cut.shape(y), cut.kept(y), stated.tolist(), strict=True)
        copies = [after if n == 1 and after < before else r for n, before, after, r in axes]
        cut.set_input(1, np.asarray(copies, np.int64), "kept")


@rule("Tile", shrink=shrink_tile, commutes=always)
def tile(v: Visit) -> None:
    """Repeats whole values; channels stay where their own axis is repeated."""
    ids, repeats = v.ids(0), v.value(1)
    if v.fixed(1) and makes_copies(v, ids):
        return
    if repeats is None or any(n > 1 and r != 1 for n, r in zip(ids.shape, repeats, strict=True)):
        v.freeze(ids, STAYS)
        ids = v.staying(STAYS)
    v.set(ids)


@rule("DepthToSpace")
def depth_to_space(v: Visit) -> None:
    """One channel of the result owns blocksize² of the input."""
    ids, owned = v.channels(0, 1), v.attr("blocksize") ** 2
    blocks = ids.reshape(owned, -1).T if v.attr("mode", "DCR") == "DCR" else ids.reshape(-1, owned)
    v.tie(blocks, blocks[:, :1])
    v.set_channels(np.ascontiguousarray(blocks[:, 0]))


@rule("Col2Im")
def col2im(v: Visit) -> None:
    """One channel of the image owns as many rows of the input as a block has elements."""
    ids = v.channels(0, 1).reshape(v.out_shape()[1], -1)
    v.tie(ids, ids[:, :1])
    v.set_channels(np.ascontiguousarray(ids[:, 0]))


@rule("SpaceToDepth")
def space_to_depth(v: Visit) -> None:
    """One channel of the input owns blocksize² of the result."""
    b, ids = v.attr("blocksize"), v.channels(0, 1)
    v.set_channels(np.tile(ids, b * b))
