"""What is prunable in every case: golden listings, and the rules that no listing can state."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES

from onnxprune.coupling import Coupling, Group, couple
from onnxprune.graph import Graph


def listing(coupling: Coupling) -> str:
    """Groups with their members and readers, then the layers left alone."""
    lines = []
    for group in coupling.groups:
        cells = np.bincount(group.cells)
        kinds = [f"{len(cells)} cells of {cells[0]}"] if len(cells) > 1 else []
        kinds += ["stream"] if group.stream else []
        lines.append(", ".join([f"{group.name}: {group.channels} channels", *kinds]))
        lines += sorted(f"    {_member(group, i)}" for i in range(len(group.members)))
        lines += [f"    read by {coupling.layer(i)}{_rows(index)}" for i, index in group.reads.items()]
    for index, reason in coupling.left_alone.items():
        lines.append(f"{coupling.layer(index)} stays: {reason}")
    return "".join(f"{line}\n" for line in lines)


def _member(group: Group, i: int) -> str:
    member = group.members[i]
    return f"{member.role} {member.tensor} axis {member.axis}{_rows(member.index)}"


def _rows(index: np.ndarray) -> str:
    return f", {index.shape[1]} rows each" if index.shape[1] > 1 else ""


@pytest.mark.parametrize("name", [n for n in CASES if not n.startswith("opset")])
def test_listing(name, golden):
    golden(name, listing(couple(Graph(CASES[name].model()))))


def test_all_opsets_are_alike(golden):
    listings = {listing(couple(Graph(c.model()))) for n, c in CASES.items() if n.startswith("opset")}
    assert len(listings) == 1
    golden("opsets", listings.pop())
