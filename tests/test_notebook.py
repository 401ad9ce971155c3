"""Measurements kept between runs."""

import numpy as np
import pytest

from onnxprune import notebook
from onnxprune.notebook import Notebook


def test_values_are_found_again_in_the_same_circumstances_only():
    Notebook(("here", 1)).put("a key", np.array([1.5, 2.0]))
    assert Notebook(("here", 1)).get("a key").tolist() == [1.5, 2.0]
    assert Notebook(("here", 1)).get("another") is None
    assert Notebook(("there", 1)).get("a key") is None


def test_notes_add_up_and_the_last_one_counts():
    book, other = Notebook(("here",)), Notebook(("here",))
    book.put("a", np.array([1.0]))
    other.put("b", np.array([2.0]))
    book.put("a", np.array([3.0]))
    assert (other.get("a"), other.get("b")) == ([3.0], [2.0])


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null"])
def test_a_damaged_file_is_done_without(text):
    book = Notebook(("here",))
    book.put("a", np.array([1.0]))
    book.file.write_text(text)
    assert book.get("a") is None
    book.put("a", np.array([4.0]))
    assert book.get("a") == [4.0]


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "file" / "within"))
    assert Notebook(("here",)).put("a", np.array([1.0])) == [1.0]
    assert Notebook(("here",)).get("a") is None


def test_where_notes_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path))
    assert notebook.folder() == tmp_path
    monkeypatch.delenv("ONNXPRUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert notebook.folder() == tmp_path / "onnxprune"
