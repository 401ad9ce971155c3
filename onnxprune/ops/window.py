"""The geometry of convolutions: which places of the input each place of the output sees."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from onnxprune.graph import Shape

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """Geometry of a (transposed) convolution over any number of spatial axes.

    A transposed one may state the sizes of its output (`output_shape`), which then tell how much of it is cut off.
    """

    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: Shape  # begins, then ends
    auto_pad: str = "NOTSET"
    transposed: bool = False
    output_padding: Shape = ()
    output_shape: Shape = ()

    def taps(self) -> int:
        """Number of kernel taps."""
        return prod(self.kernel)

    def begins(self, extent: Shape) -> Shape:
        """Padding before the first element of each spatial axis of an input of this extent."""
        if self.transposed and (self.output_shape or self.auto_pad.startswith("SAME")):
            sizes = zip(self._full(extent), self.out_extent(extent), strict=True)
            totals = [max(full - out, 0) for full, out in sizes]
            return tuple(t // 2 if self.auto_pad == "SAME_UPPER" else t - t // 2 for t in totals)
        if self.auto_pad in ("NOTSET", ""):
            return self.pads[: len(self.kernel)]
        if self.auto_pad == "VALID":
            return (0,) * len(self.kernel)
        totals = [
            max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
            for n, k, s, d in zip(extent, self.kernel, self.strides, self.dilations, strict=True)
        ]
        return tuple(t // 2 if self.auto_pad == "SAME_UPPER" else t - t // 2 for t in totals)

    def out_extent(self, extent: Shape) -> Shape:
        """Size of each spatial axis of the output for an input of this extent."""
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        if self.transposed and self.output_shape:
            return self.output_shape
        if self.transposed and self.auto_pad.startswith("SAME"):
            wanted = (n * s for n, s in zip(extent, self.strides, strict=True))
            return tuple(min(full, size) for full, size in zip(self._full(extent), wanted, strict=True))
        if self.auto_pad.startswith("SAME"):
            return tuple(-(-n // s) for n, s in zip(extent, self.strides, strict=True))
        pads = self.pads if self.auto_pad != "VALID" else (0,) * 2 * len(self.kernel)
        totals = [a + b for a, b in zip(pads[: len(reach)], pads[len(reach) :], strict=True)]
        if self.transposed:
            return tuple(full - t for full, t in zip(self._full(extent), totals, strict=True))
        return tuple((n + t - r) // s + 1 for n, s, r, t in zip(extent, self.strides, reach, totals, strict=True))

    def _full(self, extent: Shape) -> Shape:
        """Size of each spatial axis of a transposed convolution's output before any of it is cut off."""
        extra = self.output_padding or (0,) * len(extent)
        sizes = zip(extent, self.strides, self.kernel, self.dilations, extra, strict=True)
        return tuple((n - 1) * s + (k - 1) * d + 1 + e for n, s, k, d, e in sizes)

    def reads(self, extent: Shape, out_extent: Shape, positions: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Flat input index under each (output position, tap), and whether it lies inside the input: both [P, taps]."""
        begins = self.begins(extent)
        places = np.unravel_index(positions, out_extent)
        taps = np.unravel_index(np.arange(self.taps()), self.kernel)
        index = np.zeros((len(positions), self.taps()), np.int64)
        inside = np.ones(index.shape, bool)
        for axis, n in enumerate(extent):
            stride, reach = self.strides[axis], taps[axis] * self.dilations[axis]
            if self.transposed:
                numerator = places[axis][:, None] + begins[axis] - reach
                at = numerator // stride
                inside &= numerator % stride == 0
            else:
                at = places[axis][:, None] * stride + reach - begins[axis]
            inside &= (at >= 0) & (at < n)
            index = index * n + at
        return np.where(inside, index, 0), inside
