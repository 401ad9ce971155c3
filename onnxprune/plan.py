"""What is to be done to a model: channels kept per group, new weights for layers, and blocks removed.

A plan can be saved and applied again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import DataError

Ints = NDArray[np.int64]
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Weights:
    """New weights of one linear layer at full size: matrix [conv_group, N, o] as in `Linear`, offset [conv_group * o].

    Rows of removed input channels are zero; what stands in columns of removed output channels doesn't matter.
    """

    matrix: Float
    offset: Float


@dataclass(frozen=True)
class Plan:
    """keep: group -> numbers of the channels that stay, ascending. weights: layer (its node's key) -> new weights.

    by_rank: keys of the products of activations whose channels are dims of heads. removed: what the blocks make that
    are taken out. merged: for each run of blocks that become one, what they make. Groups and layers are those of the
    graph after that, in the form that `serialize` names.
    """

    keep: Mapping[str, Ints] = field(default_factory=dict)
    weights: Mapping[str, Weights] = field(default_factory=dict)
    by_rank: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    serialize: str = "never"
    merged: tuple[tuple[str, ...], ...] = ()

    def save(self, path: str | Path) -> None:
        """Write the plan as an .npz of arrays; nothing in it is pickled."""
        names: dict[str, Any] = {"keep": list(self.keep), "weights": list(self.weights), "serialize": self.serialize}
        names |= {"by_rank": list(self.by_rank), "removed": list(self.removed), "merged": self.merged}
        arrays: dict[str, NDArray[Any]] = {f"keep{i}": kept for i, kept in enumerate(self.keep.values())}
        for i, new in enumerate(self.weights.values()):
            own = new.matrix.dtype.kind == "f"  # bfloat16 isn't a type of NumPy's own, and files know no other
            arrays |= {f"matrix{i}": new.matrix if own else new.matrix.astype(np.float32), f"offset{i}": new.offset}
        with Path(path).open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, names=np.asarray(json.dumps(names)), **arrays)

    @staticmethod
    def load(path: str | Path) -> Plan:
        """Read a plan; DataError if the file isn't one."""
        try:
            with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                names = json.loads(str(file["names"]))
                keep = {name: file[f"keep{i}"] for i, name in enumerate(names["keep"])}
                pairs = ((file[f"matrix{i}"], file[f"offset{i}"]) for i in range(len(names["weights"])))
                weights = {n: Weights(*pair) for n, pair in zip(names["weights"], pairs, strict=True)}
                form = tuple(names.get("by_rank", ())), tuple(names.get("removed", ())), names.get("serialize", "never")
                return Plan(keep, weights, *form, tuple(map(tuple, names.get("merged", ()))))
        except FileNotFoundError:
            raise DataError(f"{path} does not exist: give a plan written by --save-plan.") from None
        except Exception as error:  # a zip file can be damaged in many ways
            raise DataError(f"{path} is not a readable plan: give a file written by --save-plan.") from error
