"""Einsum: what is known of matrix products and of attention, with axes named by the letters of the equation.

A letter of both factors and the result is a batch axis: along it lie heads, which go whole. A letter of both that the
result lacks is contracted, one of a single factor and the result passes through. With a constant factor this is a
layer: its channels lie along the first letter that it alone brings into the result.
"""

from __future__ import annotations

from math import prod

import numpy as np

from onnxprune.graph import Graph, key
from onnxprune.ids import Ids
from onnxprune.ops.attention import ONE_HEAD, SEVERAL
from onnxprune.ops.layers import weights_fixed
from onnxprune.ops.linear import Float, Linear, floating
from onnxprune.ops.registry import View, Visit, rule

Letters = list[str]


def letters(v: View) -> tuple[list[Letters], Letters]:
    """The letters of every factor's axes and of the result's; an ellipsis stands for letters of its own."""
    left, arrow, right = v.attr("equation").replace(" ", "").partition("->")
    terms = left.split(",")
    factors = [_spell(term, len(v.shape(i))) for i, term in enumerate(terms)]
    if arrow:
        return factors, _spell(right, len(v.out_shape()))
    once = sorted(c for c in set(left) - {",", "."} if left.count(c) == 1)
    dots = max((f for f in factors), key=lambda f: sum(len(c) > 1 for c in f))
    return factors, [c for c in dots if len(c) > 1] + once


def _spell(term: str, rank: int) -> Letters:
    """The letters of one term; an ellipsis is counted from the right, as operands are broadcast."""
    before, _, after = term.partition("...")
    hidden = rank - len(before) - len(after)
    return [*before, *(f"...{n}" for n in range(hidden, 0, -1)), *after]


def products(v: View) -> int:
    """Number of products of elements of two factors that are summed up; 0 for any other number of factors."""
    factors, _ = letters(v)
    lengths = {c: n for i, f in enumerate(factors) for c, n in zip(f, v.shape(i), strict=True) if n > 1}
    return prod(lengths.values()) if len(factors) == 2 else 0


def einsum_linear(graph: Graph, index: int) -> Linear | None:
    """Einsum with a constant of which one axis is made, the other one or two contracted (heads, then their dims)."""
    v = View(graph, graph.probes[0], index)
    if len(v.node.input) != 2 or v.static(0) == v.static(1):
        return None
    weight = 1 if v.static(1) else 0
    array, (factors, result) = graph.array(v.name(weight)), letters(v)
    x, w = factors[1 - weight], factors[weight]
    made, contracted = [c for c in w if c not in x], _contracted(x, w, result)
    if not floating(array) or len(made) != 1 or len(w) - 1 != len(contracted) or not 1 <= len(contracted) <= 2:
        return None
    if [c for c in x if c not in contracted] != [c for c in result if c not in made]:
        return None
    if len(contracted) == 2 and result[-1:] != made:
        return None
    order = [w.index(c) for c in contracted + made]
    _, *inner, width = array.transpose(order).shape
    matrix: Float = array.transpose(order).reshape(-1, width).astype(np.float64)
    out_axis = result.index(made[0]) - len(result)

    def tensors(linear: Linear) -> tuple[Float, Float]:
        """Heads may have gone, but each that is left has all its dims."""
        whole = linear.matrix[0].reshape(-1, *inner, linear.shape[2])
        return whole.transpose(np.argsort(order)), linear.offset.reshape([-1] + [1] * (-out_axis - 1))

    names = (v.name(1 - weight), key(v.node), v.name(weight), "")
    *lane_axis, axis = (x.index(c) - len(x) for c in contracted)
    return Linear(index, key(v.node), *names, matrix[None], np.zeros(width), axis=axis, out_axis=out_axis,
                  weight_at=weight, bias_at=0, tensors=tensors,
                  lane_axis=lane_axis[0] if lane_axis else None)  # fmt: skip


def _contracted(x: Letters, w: Letters, result: Letters) -> Letters:
    """What a layer sums over, in the order of its input."""
    return [c for c in x if c in w and c not in result]


@rule("Einsum", linear=einsum_linear)
def einsum(v: Visit) -> None:
    """Sums one value, or multiplies two, of which one may be constant."""
    factors, result = letters(v)
    constants = [i for i in range(len(factors)) if v.static(i)]
    if len(factors) > 2 or any(len(set(f)) < len(f) for f in factors) or len(constants) == len(factors):
        v.freeze_all("multiplies more than two values, or takes a diagonal")
    elif len(factors) == 1:
        summed = {a for a, c in enumerate(factors[0]) if c not in result}
        v.set(_arrange(v.gather(v.ids(0), summed, "sums all of them"), factors[0], result))
    elif constants:
        _layer(v, factors, result, constants[0])
    else:
        v.set(_product(v, factors, result))


def _arrange(ids: Ids, axes: Letters, result: Letters) -> Ids:
    """Ids with axes named by letters, in the order of the result; letters that it lacks have length 1."""
    order = [a for c in result if c in axes for a in [axes.index(c)]]
    kept = ids.transpose([*order, *(a for a in range(ids.ndim) if a not in order)])
    shape = iter(kept.shape)
    return kept.reshape([next(shape) if c in axes else 1 for c in result])


def _varying(ids: Ids, axes: Letters) -> set[str]:
    return {c for c, n in zip(axes, ids.shape, strict=True) if n > 1}


def _product(v: Visit, factors: list[Letters], result: Letters) -> Ids:
    """The product of two activations: heads go whole, and may pass through beside a factor that all of them share."""
    ids = [v.ids(0), v.ids(1)]
    varying = [_varying(one, axes) for one, axes in zip(ids, factors, strict=True)]
    heads = (varying[0] | varying[1]) & set(factors[0]) & set(factors[1]) & set(result)
    if heads:
        return _by_heads(v, ids, factors, result, heads)
    through = [varying[i] & set(result) - set(factors[1 - i]) for i in (0, 1)]
    if all(through) or not any(through):
        v.freeze(np.concatenate([one.ravel() for one in ids]), ONE_HEAD)
        return v.staying(ONE_HEAD)
    i = 0 if through[0] else 1
    v.freeze(ids[1 - i], ONE_HEAD if varying[i] == through[i] else SEVERAL)
    whole = v.unite(ids[i], [a for a, c in enumerate(factors[i]) if c not in through[i]])
    return _arrange(whole, factors[i], result)


def _by_heads(v: Visit, ids: list[Ids], factors: list[Letters], result: Letters, heads: set[str]) -> Ids:
    units = []
    for i, (one, axes) in enumerate(zip(ids, factors, strict=True)):
        if all(v.shape(i)[axes.index(c)] == 1 for c in heads):
            v.freeze(one, SEVERAL)
        else:
            whole = v.unite(one, [a for a, c in enumerate(axes) if c not in heads])
            units.append(_arrange(whole, axes, result))
    return v.united(units)


def _layer(v: Visit, factors: list[Letters], result: Letters, weight: int) -> None:
    """A product with a constant. Channels that lie along another letter than those it contracts pass through."""
    if not weights_fixed(v, weight):
        return
    x, w, ids = factors[1 - weight], factors[weight], v.ids(1 - weight)
    varying = _varying(ids, x)
    own = [a for a, c in enumerate(w) if c in varying and c in result]
    made = [c for c in w if c not in x and c in result]
    outside = varying - (set(w) - set(result))
    if outside and not (made and v.index in v.notes.apart):
        rest = v.unite(ids, [a for a, c in enumerate(x) if c not in outside])
        _pass(v, rest, x, result, {w[a]: v.parameter(weight, a).reshape(-1) for a in own})
        return
    if outside:
        v.ledger.freeze(ids, v.notes.apart[v.index])
    contracted = _contracted(x, w, result)
    if not made or not contracted:
        v.freeze_all("multiplies by numbers that make no channels")
        return
    read, *others = sorted(contracted, key=lambda c: (c not in varying, x.index(c)))
    if others and read != contracted[0]:
        v.freeze(ids, "reads them along the inner one of several axes")
    rows = v.contracted(1 - weight, x.index(read))
    v.tie(rows, v.parameter(weight, w.index(read), "reader"))
    v.notes.readers[v.index] = np.repeat(rows, prod(v.shape(1 - weight)[x.index(c)] for c in others))
    y = v.notes.writers[v.index] = v.parameter(weight, w.index(made[0]), "writer")
    v.set_channels(y, result.index(made[0]))


def _pass(v: Visit, ids: Ids, x: Letters, result: Letters, own: dict[str, Ids]) -> None:
    """Channels pass through; where the constant has elements of its own for them, these go with them."""
    for letter, parameter in own.items():
        v.tie(ids, parameter.reshape([-1 if c == letter else 1 for c in x]))
    if not own:
        v.notes.refused[v.index] = f"{v} works along another axis than that of the channels, which pass through"
    v.notes.passing[v.index] = ids
    v.set(_arrange(ids, x, result))
