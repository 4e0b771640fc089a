"""Notebook linters and notebooks with `%%task` cells: what the page on cells says about them is so."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

CELLS = [
    "%load_ext nbflow",
    "import os",
    "%%task raw --ttl 1d\nimport   sys\nraw = [ n*2 for n in range(3) ]\nsaid = !echo {raw}",
    "%flow why raw",
    "%%task\nimport asyncio\nawait asyncio.sleep(0)",
    "x=raw\nprint( x, os.sep)",
]


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    """A notebook of these cells."""
    made: Any = nbformat.v4.new_notebook()
    made.cells = [nbformat.v4.new_code_cell(cell, id=f"cell-{number}") for number, cell in enumerate(CELLS)]
    made.metadata = {"language_info": {"name": "python"}}
    path = tmp_path / "book.ipynb"
    nbformat.write(made, path)
    return path


def tool(*command: str) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)


def sources(path: Path) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]


def test_ruff_reads_the_notebook_and_leaves_task_cells_alone(notebook: Path) -> None:
    """All that it has to say is that it does not know the names that task cells bind; it formats the other cells."""
    found = tool("ruff", "check", "--isolated", "--output-format=concise", str(notebook)).stdout.splitlines()
    assert [line.split(": ", 1)[1] for line in found if ".ipynb:" in line] == ["F821 Undefined name `raw`"]
    assert tool("ruff", "check", "--isolated", "--ignore=F821", str(notebook)).returncode == 0
    assert tool("ruff", "format", "--isolated", str(notebook)).returncode == 0
    assert sources(notebook) == [*CELLS[:-1], "x = raw\nprint(x, os.sep)"]


def test_nbqa_lints_the_inside_of_task_cells_when_it_is_told_to(notebook: Path) -> None:
    """With `process_cells` the names are known and the bodies are looked at; the line of the magic stays."""
    found = tool("nbqa", "ruff check --isolated --ignore=F704,PLE1142", str(notebook), "--nbqa-process-cells=task")
    assert "F821" not in found.stdout
    assert "F401" in found.stdout
    tool("nbqa", "ruff format --isolated", str(notebook), "--nbqa-process-cells=task")
    assert sources(notebook)[2].startswith("%%task raw --ttl 1d\nimport sys\n\nraw = [n * 2 for n in range(3)]")
