"""The tool that sets all methods side by side, on a small model of the repository."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import compare_methods

MODELS = Path(__file__).parent.parent / "models"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    calibration, judged = (np.load(MODELS / f"digits_mlp.{part}.npz") for part in ("calib", "eval"))
    arrays = {"x_train": next(iter(calibration.values())), "x_test": judged["x"]}
    images = {name: np.rint(x.reshape(-1, 8, 8) * 255).astype(np.uint8) for name, x in arrays.items()}
    np.savez(path, **images, y_test=judged["y"])
    return path


def run(digits, folder, *options):
    arguments = [MODELS / "digits_mlp.onnx", digits, "--samples", 100, "--mean", 0, "--std", 1]
    arguments += ["--results", folder / "r.jsonl", "--table", folder / "t.md", "--picture", folder / "p.svg", *options]
    result = CliRunner().invoke(compare_methods.main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in (folder / "r.jsonl").read_text().splitlines()]


def test_every_method_gets_the_same_budget_and_none_is_measured_twice(digits, tmp_path):
    few = ["--method", "reap", "--method", "l1", "--reconstruct", "none", "--reconstruct", "ls"]
    rows = run(digits, tmp_path, *few, "--target", 0.5)
    assert [row["spec"] for row in rows] == ["reap:ls", "reap:none", "l1:none", "l1:ls"]
    assert len({row["macs"] for row in rows}) == 1
    assert rows[0]["macs"] <= 0.5
    more = run(digits, tmp_path, *few, "--target", 0.5, "--target", 0.4)
    assert more[:4] == rows
    assert [row["target"] for row in more[4:]] == [0.4] * 4
    table = (tmp_path / "t.md").read_text().splitlines()
    assert "| method | reconstruct | macs=0.5 | macs=0.4 |" in table
    assert len([line for line in table if line.startswith(("| reap |", "| l1 |"))]) == 4
    assert "<svg" in (tmp_path / "p.svg").read_text()


def test_the_table_holds_means_over_draws_best_agreement_first():
    def row(spec, draw, right):
        return {"spec": spec, "draw": draw, "target": 0.5, "accuracy": right, "agreement": right, "zerr": 1 - right}

    rows = [row("l1:none", 0, 0.2), row("reap:ls", 0, 0.8), row("l1:none", 1, 0.4), row("reap:ls", 1, 0.9)]
    lines = compare_methods.table("title", rows).splitlines()
    assert lines[-2:] == [
        "| reap | ls | 85.00 / 85.00 / 0.1500 |",
        "| l1 | none | 30.00 / 30.00 / 0.7000 |",
    ]
