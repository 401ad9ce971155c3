"""Operators that move elements and leave their values alone: they are run on the ids themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.graph import key
from onnxprune.ids import Ids, reshape, widen
from onnxprune.ops.choice import everything, filling, fills_up, pads
from onnxprune.ops.registry import Cut, View, Visit, always, rule

STAYS = "moves them in a way that can't be written for fewer channels"


@rule("Transpose", commutes=always)
def transpose(v: Visit) -> None:
    """Permutes the axes."""
    ids = v.ids(0, lanes=True)
    v.set(ids.transpose(v.attr("perm", range(ids.ndim)[::-1])))


# ---------------------------------------------------------------------------------------------- reshaping


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
    stated = target(cut.view)
    assert stated is not None  # coupling froze the channels otherwise
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
    else:
        run_time(v, v.ids(0), 1)
    v.set(reshape(v.ids(0, lanes=True), v.shape(0), v.out_shape()))


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
    if v.fixed(1) or repeats(v) is not None:
        v.accept(1)
        if makes_copies(v, ids):
            return
    elif not v.follows(1, ids, range(rank - stated, rank)):
        run_time(v, ids, 1)
    v.set(ids)


def repeat_constant(v: Visit) -> None:
    """A constant vector that is repeated (the class token of every image) makes channels along its axis."""
    shape, axes = v.shape(0), [axis for axis, n in enumerate(v.shape(0)) if n > 1]
    if not v.fixed(1) and repeats(v) is None:
        v.set(v.staying("repeats it to a size that is known only at run time"))
    elif len(axes) == 1:
        v.accept(1)
        v.set_channels(v.parameter(0, axes[0]), axes[0] - len(shape) + len(v.out_shape()))


def run_time(v: Visit, ids: Ids, *inputs: int) -> None:
    """Channels stay, and those that the sizes in these inputs count."""
    for one in (ids, *(v.ids(i) for i in inputs)):
        v.freeze(one, "brings them to a size that is known only at run time")


def makes_copies(v: Visit, ids: Ids) -> bool:
    """Whether the copies along an axis that had length 1 are channels, which can go one by one.

    They are where it turned out that what is copied can only go as a whole, as keys that all heads share.
    """
    before = (1,) * (len(v.out_shape()) - len(v.shape(0))) + tuple(v.shape(0))
    made = [axis for axis, (a, b) in enumerate(zip(before, v.out_shape(), strict=True)) if a == 1 < b]
    if len(made) != 1 or ids.size == 1:
        return False
    if v.index not in v.notes.apart:
        v.notes.copied[v.index] = ids
        return False
    v.freeze(ids, "repeats them, one copy for each of several channels")
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


# ---------------------------------------------------------------------------------------------- joining, cutting


@rule("Concat", commutes=always)
def concat(v: Visit) -> None:
    """Puts values side by side."""
    axis = v.attr("axis", 1) % len(v.out_shape())
    inputs = range(len(v.node.input))
    lanes = not any(v.static(i) for i in inputs)
    active = {i: v.ids(i, lanes=lanes) for i in inputs if not v.static(i)}
    varying = [a for a in range(len(v.out_shape())) if any(ids.shape[a] > 1 for ids in active.values())]
    parts = [active[i] if i in active else _constant(v, i, varying) for i in inputs]
    if varying and axis not in varying:
        v.set(v.united(parts))
        return
    parts = [widen(part, v.shape(i), [axis]) for i, part in enumerate(parts)]
    common = np.broadcast_shapes(*(tuple(n for a, n in enumerate(p.shape) if a != axis) for p in parts))
    parts = [np.broadcast_to(p, (*common[:axis], p.shape[axis], *common[axis:])) for p in parts]
    v.set(np.concatenate(parts, axis))


def _constant(v: Visit, i: int, varying: list[int]) -> Ids:
    """A constant that is put beside channels has ids of its own along the axis on which these vary, if it is one."""
    floats = v.graph.array(v.name(i)).dtype.kind not in "iu"
    if len(varying) != 1 or not floats:
        return np.zeros((1,) * len(v.shape(i)), np.int64)
    return v.parameter(i, varying[0]).reshape([-1 if a == varying[0] else 1 for a in range(len(v.shape(i)))])


def shrink_split(cut: Cut) -> None:
    """Every part keeps its own channels."""
    axis = cut.view.attr("axis", 0) % len(cut.shape(cut.node.input[0]))
    if cut.mask(cut.node.input[0], axis).all():
        return
    sizes = np.asarray([cut.kept(name)[axis] for name in cut.node.output], np.int64)
    if cut.graph.opset < 13:
        cut.set_attr("split", sizes.tolist())
    else:
        cut.drop_attr("num_outputs")
        cut.set_input(1, sizes, "sizes")


@rule("Split", shrink=shrink_split, commutes=always)
def split(v: Visit) -> None:
    """Cuts one axis into parts."""
    axis = v.attr("axis", 0) % len(v.shape(0))
    ids = cut_along(v, {axis})
    if not v.fixed(1):
        v.freeze(ids, "cuts them at places that are known only at run time")
    ends = np.cumsum([v.out_shape(k)[axis] for k in range(len(v.node.output))])
    whole = widen(ids, v.shape(0), [axis])
    for k, part in enumerate(np.split(whole, ends[:-1], axis)):
        v.set_part(part, whole, k)


def cut_along(v: Visit, axes: set[int]) -> Ids:
    """Ids of input 0, of which parts along some axes are taken. Each lane has its own, so these are cut apart only."""
    ids = v.ids(0, lanes=True)
    varying = {axis for axis in axes if ids.shape[axis] > 1}
    return ids if varying <= set(v.ledger.lane_axes(ids)) else v.ids(0)


def slice_terms(v: View) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, stop, step) of a Slice node; None if any is unknown."""
    rank = len(v.shape(0))
    if v.graph.opset < 10:
        starts, ends = v.attr("starts"), v.attr("ends")
        axes, steps = v.attr("axes", range(len(starts))), [1] * len(starts)
    else:
        given = [v.value(i) for i in range(1, 5)]
        if given[0] is None or given[1] is None or any(v.has(i) and given[i - 1] is None for i in (3, 4)):
            return None
        starts, ends = given[0].tolist(), given[1].tolist()
        axes = given[2].tolist() if given[2] is not None else range(len(starts))
        steps = given[3].tolist() if given[3] is not None else [1] * len(starts)
    return [(a % rank, s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)]


def shrink_slice(cut: Cut) -> None:
    """Starts and ends along the channel axis count the channels kept before them."""
    x, terms = cut.node.input[0], slice_terms(cut.view)
    counted = [name for name in cut.node.input[1:3] if cut.restated(name)]
    if terms is None or not (counted or any(not cut.mask(x, axis).all() for axis, *_ in terms)):
        return
    shape, starts, ends = cut.shape(x), [], []
    for axis, start, end, step in terms:
        mask = cut.mask(x, axis)
        if not mask.all():
            first, stop, _ = slice(start, end, step).indices(shape[axis])
            start, end = int(mask[:first].sum()), int(mask[: max(stop, first)].sum())
        starts.append(start)
        ends.append(end)
    if cut.graph.opset < 10:
        cut.set_attr("starts", starts)
        cut.set_attr("ends", ends)
    else:
        cut.set_input(1, np.asarray(starts, np.int64), "starts")
        cut.set_input(2, np.asarray(ends, np.int64), "ends")


@rule("Slice", shrink=shrink_slice, commutes=always)
def cut_out(v: Visit) -> None:
    """Takes a part; a channel axis only in steps of one and at known places."""
    terms = slice_terms(v)
    if terms is None:
        v.freeze_all("cuts them at places that are known only at run time")
        return
    whole = ids = cut_along(v, {axis for axis, *_ in terms})
    for axis, start, end, step in terms:
        if ids.shape[axis] > 1:
            if step != 1 or not all(v.fixed(i) for i in range(1, 5)):
                v.freeze(ids, STAYS)
            ids = ids[(slice(None),) * axis + (slice(start, end, step),)]
            v.accept(1, 2)
    v.set_part(ids, whole)


def shrink_gather(cut: Cut) -> None:
    """Indices along the channel axis count the channels kept before them, and stay where their own channel does.

    Where that stays but the channel that was picked doesn't, the first one is picked: the padding (see `fills_up`).
    """
    x, y = cut.node.input[0], key(cut.node)
    axis = int(cut.attrs.get("axis", 0)) % len(cut.shape(x))
    mask, listed = cut.mask(x, axis), len(cut.shape(x)) == len(cut.shape(y))
    if mask.all() and (not listed or cut.mask(y, axis).all()):
        return
    indices = cut.graph.array(cut.node.input[1]) % len(mask)
    places = np.cumsum(mask) - 1
    places[~mask] = 0
    cut.set_input(1, places[indices[cut.mask(y, axis)]], "kept")


@rule("Gather", shrink=shrink_gather, commutes=always, linear=filling)
def gather(v: Visit) -> None:
    """Picks places of one axis: of a channel axis only by a constant list.

    One that picks all channels in their order does nothing, unless it is there to let what reads it do with fewer: its
    result has channels of its own, and those of its input stay. With one that fills up it is the other way round.
    """
    if v.static(0):
        look_up(v)
        return
    axis, indices, inner = v.attr("axis", 0) % len(v.shape(0)), v.value(1), len(v.shape(1))
    ids = cut_along(v, {axis})
    counted = v.value(0) is not None  # sizes, of which any may be picked
    if not counted and fills_up(v.graph, v.index):
        v.contracted(0, axis)
        filled = v.ledger.fresh(("filled", v.index), v.out_shape()[axis])
        v.freeze(filled, "lets what writes them leave some out, so they stay")
        v.set_channels(filled, axis)
        return
    if ids.size == ids.shape[axis] > 1 and v.static(1) and everything(v.shape(0), axis, indices):
        v.freeze(ids, "lets what reads it choose among them, so they stay")
        v.set_channels(v.ledger.fresh(("choice", v.index), ids.size), axis)
        return
    if ids.shape[axis] > 1 and indices is not None and (counted or (v.static(1) and inner == 1)):
        picked = ids.take(indices, axis)
        v.set(picked) if counted else v.set_part(picked, ids)
        return
    if ids.shape[axis] > 1:
        one = v.static(1) and v.graph.array(v.name(1)).size == 1
        lane = one and axis in v.ledger.lane_axes(ids)
        whole = ids if lane else v.gather(ids, {axis}, "picks single channels")
        known = one and whole.any()
        ids = ids.take(v.graph.array(v.name(1)).ravel(), axis) if known else whole  # one of those that go together
    v.set(ids.reshape(ids.shape[:axis] + (1,) * inner + ids.shape[axis + 1 :]))


def look_up(v: Visit) -> None:
    """Rows of a constant table, whose columns are channels (an embedding, the bias of each head by position)."""
    shape, axis = v.shape(0), v.attr("axis", 0) % len(v.shape(0))
    columns = [a for a, n in enumerate(shape) if a != axis and n > 1]
    v.freeze(v.ids(1), "looks its values up in a table")
    if len(columns) != 1 or v.node.input[0] == v.name(1):
        v.set(v.staying("looks its values up in a table"))
        return
    place = columns[0] if columns[0] < axis else columns[0] + len(v.shape(1)) - 1
    v.set_channels(v.parameter(0, columns[0]), place)


# ---------------------------------------------------------------------------------------------- padding, resizing


def shrink_pad(cut: Cut) -> None:
    """Added channels are removable like others: the new amounts count those that are kept on each side."""
    x, y, found = cut.node.input[0], key(cut.node), pads(cut.view)
    cuts = [axis for axis in range(len(cut.shape(y))) if not cut.mask(y, axis).all()]
    if found is None or not any(side[axis] for axis in cuts for side in found):
        return
    begins, ends = found
    for axis in cuts:
        mask, n = cut.mask(y, axis), cut.shape(x)[axis]
        begins[axis], ends[axis] = int(mask[: begins[axis]].sum()), int(mask[begins[axis] + n :].sum())
    if cut.graph.opset < 11:
        cut.set_attr("pads", begins + ends)
        return
    cut.set_input(1, np.asarray(begins + ends, np.int64), "kept")
    del cut.node.input[3:]  # the axes: all are stated now


@rule("Pad", shrink=shrink_pad)
def pad(v: Visit) -> None:
    """Channels that are added have ids of their own: they can go, too. They hold a constant."""
    ids, found = v.ids(0), pads(v)
    if found is None:
        if any(n > 1 for n in ids.shape):
            v.freeze(ids, "pads them by sizes that are known only at run time")
        v.set(ids)
        return
    begins, ends = found
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if ids.shape[axis] == 1 or begin == end == 0:
            continue
        if min(begin, end) < 0 or v.attr("mode", "constant") != "constant" or not v.fixed(1):
            v.freeze(ids, STAYS)
        ids = _padded(v, ids, axis, max(begin, 0), max(end, 0))
    v.set(ids)


def _padded(v: Visit, ids: Ids, axis: int, begin: int, end: int) -> Ids:
    new = v.ledger.fresh(("pad", v.index, axis), begin + end)
    shape: Sequence[int] = [-1 if a == axis else 1 for a in range(ids.ndim)]
    sides = [new[:begin].reshape(shape), ids, new[begin:].reshape(shape)]
    common = [max(s.shape[a] for s in sides) for a in range(ids.ndim)]
    return np.concatenate(
        [np.broadcast_to(s, [*common[:axis], s.shape[axis], *common[axis + 1 :]]) for s in sides], axis
    )


def shrink_resize(cut: Cut) -> None:
    """A target size names the channels that are kept."""
    name = cut.view.name(3)
    if name and cut.view.fixed(3) and (cut.changes(key(cut.node)) or cut.restated(name)):
        kept = cut.kept(key(cut.node))
        cut.set_input(3, np.asarray([kept[axis] for axis in cut.view.attr("axes", range(len(kept)))]), "kept")


@rule("Resize", "Upsample", shrink=shrink_resize)
def resize(v: Visit) -> None:
    """Interpolates over space; channels stay where their own axis is resized or a size is known only at run time."""
    ids = v.ids(0)
    if any(n > 1 and a != b for n, a, b in zip(ids.shape, v.shape(0), v.out_shape(), strict=True)):
        v.freeze(ids, STAYS)
        ids = v.staying(STAYS)
    elif v.fixed(3):
        v.accept(3)
    elif not v.follows(3, ids, v.attr("axes", range(ids.ndim))):
        run_time(v, ids, 3)
    v.set(ids)


# ---------------------------------------------------------------------------------------------- places in space


@rule("GridSample", "RoiAlign", "MaxRoiPool")
def sample(v: Visit) -> None:
    """Reads places of space that other inputs name, which stay; channel by channel."""
    v.set_channels(v.channels(0, 1))


@rule("AffineGrid")
def affine_grid(v: Visit) -> None:
    """Makes places of space; of the size that it is given, the number of channels doesn't count."""
    v.freeze(v.ids(0), "computes places in space of them")
    v.accept(1)
    v.set(v.staying("computes places in space"))


@rule("CenterCropPad")
def center(v: Visit) -> None:
    """Cuts or pads both ends of some axes; channels stay along these."""
    ids = v.ids(0)
    axes = {axis % ids.ndim for axis in v.attr("axes", range(ids.ndim))}
    v.set(v.gather(ids, axes, STAYS))


@rule("ReverseSequence")
def reverse(v: Visit) -> None:
    """Reverses the first elements along one axis, a number of its own for each place along another."""
    v.set(v.gather(v.ids(0), {v.attr("batch_axis", 1), v.attr("time_axis", 0)}, "reverses their order"))


@rule("TensorScatter")
def write_cache(v: Visit) -> None:
    """Writes new places along one axis of a cache."""
    axis = v.attr("axis", -2) % len(v.shape(0))
    past, update = (v.gather(v.ids(i), {axis}, "writes them at other places") for i in (0, 1))
    v.set(v.united([past, update]))


# ---------------------------------------------------------------------------------------------- sizes


@rule("Shape", commutes=always)
def shape_of(v: Visit) -> None:
    """Each length along which channels vary is an id of its own: calculating with it freezes those channels.

    A list of sizes is as long as ever, whatever the sizes are.
    """
    ids = v.ids(0, lanes=True)
    if v.ledger.sizes(ids):
        ids = np.zeros((1,) * ids.ndim, np.int64)
    lengths = np.zeros(ids.ndim, np.int64)
    for axis, n in enumerate(ids.shape):
        if n > 1 and axis not in v.ledger.lane_axes(ids):
            lengths[axis] = v.ledger.fresh(("length", v.name(0), axis), 1)[0]
            v.ledger.measured(int(lengths[axis]), ids, axis)
    v.set(lengths[v.attr("start", 0) : v.attr("end", len(lengths))])


@rule("Size")
def size_of(v: Visit) -> None:
    """A total over all axes."""
    v.freeze(v.ids(0), "counts all elements")


@rule(
    "ConstantOfShape",
    "Range",
    "RandomNormal",
    "RandomUniform",
    "EyeLike",
    "RandomNormalLike",
    "RandomUniformLike",
)
def made(v: Visit) -> None:
    """Makes a value from sizes: it has no channels, and sizes that are channels stay."""
    if any(v.ids(i).any() for i in range(len(v.node.input))):
        v.freeze_all("makes a value of this size")
    else:
        v.set(np.zeros((1,) * len(v.out_shape()), np.int64))
