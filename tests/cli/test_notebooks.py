"""Reading, changing and writing notebook files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from nbflow.cli import notebooks
from nbflow.cli.console import CliError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "broken JSON"),
        ("", "broken JSON"),
        ("[1]", "no nbformat field"),
        ('{"cells": []}', "no nbformat field"),
        (
            '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}',
            "not a valid notebook",
        ),
        ('{"nbformat": 99, "nbformat_minor": 0}', "not a valid notebook"),
    ],
)
def test_what_is_no_notebook_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    """Every kind of broken file has a message of one line that names the file."""
    path = tmp_path / "book.ipynb"
    path.write_text(text)
    with pytest.raises(CliError, match=message) as caught:
        notebooks.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_folders_and_bytes_are_told_apart(tmp_path: Path) -> None:
    """A wrong path says what is wrong with it."""
    with pytest.raises(CliError, match="no such file"):
        notebooks.read(tmp_path / "none.ipynb")
    with pytest.raises(CliError, match="is a folder"):
        notebooks.read(tmp_path)
    (tmp_path / "x.ipynb").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CliError, match="cannot be read"):
        notebooks.read(tmp_path / "x.ipynb")


def test_parameters_are_injected_behind_their_cell(notebook: Callable[..., Path]) -> None:
    """The new cell is tagged as papermill tags it, and follows the defaults that it overrides."""
    book = notebooks.read(notebook("import os", "# tags: parameters\nyear = 2013\nname = 'x'", "print(year)"))
    assert notebooks.inject(book, {"year": "2014", "name": "it's"}) == {"year": 2014, "name": "it's"}
    cell = book.cells[2]
    assert cell.metadata["tags"] == ["injected-parameters"]
    scope: dict[str, object] = {}
    exec(cell.source, scope)
    assert (scope["year"], scope["name"]) == (2014, "it's")
    nbformat.validate(book)


def test_injecting_again_replaces_the_first_injection(notebook: Callable[..., Path]) -> None:
    """Running an executed notebook again does not pile up cells."""
    book = notebooks.read(notebook("# tags: parameters\nyear = 2013"))
    notebooks.inject(book, {"year": "2014"})
    notebooks.inject(book, {"year": "2015"})
    assert len(book.cells) == 2
    assert "2015" in book.cells[1].source


def test_a_notebook_without_parameters_says_how_to_have_some(notebook: Callable[..., Path]) -> None:
    """The message names the tag."""
    with pytest.raises(CliError, match="tag the cell that assigns them `parameters`"):
        notebooks.inject(notebooks.read(notebook("x = 1")), {"x": "2"})


def test_no_parameters_change_nothing(notebook: Callable[..., Path]) -> None:
    """Without -p no cell is added."""
    book = notebooks.read(notebook("# tags: parameters\nx = 1"))
    assert notebooks.inject(book, {}) == {}
    assert len(book.cells) == 1


def test_notebooks_before_cell_ids_stay_valid(tmp_path: Path) -> None:
    """Format 4.4 has no cell ids; the injected cell has none either."""
    path = tmp_path / "old.ipynb"
    cell = {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {"tags": ["parameters"]},
        "outputs": [],
        "source": "a = 1",
    }
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [cell]}))
    book = notebooks.read(path)
    notebooks.inject(book, {"a": "2"})
    assert "id" not in book.cells[1]
    nbformat.validate(book)


def test_executable_cells_are_numbered_as_the_kernel_numbers_them(notebook: Callable[..., Path]) -> None:
    """Empty cells, text and skipped cells get no number."""
    book = notebooks.read(notebook("a", "  ", "# tags: skip-execution\nb", "c"))
    book.cells.insert(0, nbformat.v4.new_markdown_cell("text"))
    assert [cell.source for _, cell in notebooks.executable_cells(book)] == ["a", "c"]
    assert [position for position, _ in notebooks.executable_cells(book)] == [1, 4]


def test_old_outputs_are_cleared(notebook: Callable[..., Path]) -> None:
    """A run that fails half-way must not show results of an earlier one."""
    book = notebooks.read(notebook("1"))
    book.cells[0].outputs = [nbformat.v4.new_output("stream", text="old")]
    book.cells[0].execution_count = 7
    notebooks.clear_outputs(book)
    assert book.cells[0].outputs == []
    assert book.cells[0].execution_count is None


def test_writing_keeps_the_mode_and_leaves_nothing_beside(notebook: Callable[..., Path]) -> None:
    """The file is replaced as a whole; permissions stay; a link keeps pointing to it."""
    path = notebook("1")
    path.chmod(0o640)
    link = path.with_name("link.ipynb")
    link.symlink_to(path)
    notebooks.write(notebooks.read(path), link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(path.parent)) == ["book.ipynb", "link.ipynb"]


def test_a_failed_write_leaves_the_old_file(notebook: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk costs the new version, never the old one."""
    path = notebook("1")
    before = path.read_bytes()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CliError, match="No space left on device"):
        notebooks.write(notebooks.read(path), path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["book.ipynb"]


def test_parameters_are_described_with_type_and_default(notebook: Callable[..., Path]) -> None:
    """`nbflow describe` shows what `-p` takes."""
    book = notebooks.read(notebook("# tags: parameters\nyear = 2013\nday = today()"))
    assert notebooks.parameters(book) == {"year": ("int", "2013"), "day": (None, "(computed)")}
