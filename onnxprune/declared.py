"""What a model says by itself: inputs and outputs, constants, the opset, the types that it states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, TensorShapeProto, TypeProto, numpy_helper

from onnxprune.contrib import STANDARD
from onnxprune.errors import ModelError

Array = NDArray[Any]
Shape = tuple[int, ...]

FLOATS = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE}
DEFAULT_DIM = {4: 224, 5: 32}  # a symbolic height or width of an image or a video; other axes get 16


def length(dimension: TensorShapeProto.Dimension) -> int | None:
    """The length that a dimension is fixed to, if it is; some exporters write -1 for one that isn't."""
    return dimension.dim_value if dimension.dim_value > 0 else None


def summed(name: str, sizes: Mapping[str, int]) -> int | None:
    """The length that a name like `past + sequence` or `length + 1` states, where all its terms are known."""
    terms = [int(term) if term.isdecimal() else sizes.get(term) for term in map(str.strip, name.split("+"))]
    return sum(term or 0 for term in terms) if len(terms) > 1 and None not in terms else None


@dataclass(frozen=True)
class Declared:
    """An index over what a ModelProto, which is never changed, says by itself.

    `arrays` are the contents of initializers that the message only declares (see `files`), `dims` sizes for inputs.
    """

    model: ModelProto
    dims: Mapping[str, Sequence[int]] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)

    @cached_property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return next((o.version for o in self.model.opset_import if o.domain in STANDARD), 1)

    @cached_property
    def initializers(self) -> dict[str, TensorProto]:
        """The initializers by name."""
        return {t.name: t for t in self.model.graph.initializer}

    @cached_property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """Graph inputs that a caller must feed (an initializer that is also an input is a constant here)."""
        return [i for i in self.model.graph.input if i.name not in self.initializers]

    @cached_property
    def outputs(self) -> list[str]:
        """Names of the graph outputs."""
        return [o.name for o in self.model.graph.output]

    @cached_property
    def symbolic(self) -> list[str]:
        """Graph inputs with at least one dimension that isn't fixed."""
        return [i.name for i in self.inputs if any(length(d) is None for d in i.type.tensor_type.shape.dim)]

    @cached_property
    def stated(self) -> dict[str, TypeProto]:
        """Types that the file itself states of outputs and of values in between."""
        infos = [*self.model.graph.value_info, *self.model.graph.output]
        return {info.name: info.type for info in infos}

    @cached_property
    def _stored(self) -> dict[str, Array]:
        return {}

    def stored(self, name: str) -> Array:
        """The content of an initializer."""
        if name in self.arrays:
            return self.arrays[name]
        if name not in self._stored:
            self._stored[name] = numpy_helper.to_array(self.initializers[name])
        return self._stored[name]

    def input_shapes(self, batch: int = 1, factor: int = 1) -> dict[str, Shape]:
        """Sizes for every graph input: the declared ones, then `dims`, then defaults; symbolic ones times `factor`.

        An input of unknown rank, or one that is no tensor, is missing unless it is in `dims`.
        """
        sizes: dict[str, int] = {}
        shapes: dict[str, Shape] = {}
        for value in sorted(self.inputs, key=_sums):
            declared = value.type.tensor_type.shape.dim
            given = self.dims.get(value.name)
            if not value.type.tensor_type.HasField("shape"):
                if given is not None:
                    shapes[value.name] = tuple(given)
                continue
            if given is not None and len(given) != len(declared):
                raise ModelError(
                    f"input '{value.name}' has {len(declared)} dimensions, but {list(given)} was given as its shape."
                )
            shape = []
            for axis, d in enumerate(declared):
                if (fixed := length(d) or summed(d.dim_param, sizes)) is not None:
                    size = fixed
                elif axis == 0:
                    size = sizes.setdefault(d.dim_param, batch) if d.dim_param else batch
                else:
                    rows = axis == len(declared) - 2 and (length(declared[-1]) or 1) > 4  # of one length: no image
                    default = DEFAULT_DIM.get(len(declared), 16) if axis > 1 and not rows else 16
                    size = factor * (given[axis] if given is not None else default)
                    size = sizes.setdefault(d.dim_param, size) if d.dim_param else size
                shape.append(size)
            shapes[value.name] = tuple(shape)
        return shapes


def _sums(value: onnx.ValueInfoProto) -> bool:
    """Whether a length is named as a sum of others, which are to be known first."""
    return any("+" in d.dim_param for d in value.type.tensor_type.shape.dim)
