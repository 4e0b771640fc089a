"""The panel under nbclient, where nobody sees it live: what the executed notebook keeps."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.kernel

REPOSITORY = Path(__file__).parents[3]
SETUP = """
%load_ext nbflow
import time
from nbflow import map_tasks, task

@task
def fit(depth):
    time.sleep(depth)
    return depth
"""


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that executes cells in a new kernel and gives the notebook back."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])))

    def run(*cells: str, allow_errors: bool = False) -> nbformat.NotebookNode:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (SETUP, *cells)])
        resources = {"metadata": {"path": str(tmp_path)}}
        client = NotebookClient(
            notebook, timeout=60, kernel_name="python3", allow_errors=allow_errors, resources=resources
        )
        return client.execute()

    return run


def test_executed_notebook_keeps_static_summaries_and_no_widgets(execute: Any) -> None:
    """Each cell ends with HTML and text of its final state; there is no widget view and no widget state."""
    notebook = execute(
        "results = map_tasks(fit, [0.01] * 40 + [0.5] * 2, backend='thread')",
        "fit(0.5)",
        "plain = 1",
        "fit(0.5)\nraise RuntimeError('stop')",
        allow_errors=True,
    )
    texts = [
        [output["data"]["text/plain"] for output in cell.outputs if output.output_type == "display_data"]
        for cell in notebook.cells
    ]
    assert texts[1][0].startswith("42 tasks · all done")
    assert [text.rpartition(" · ")[0] for text in texts[2]] == ["✓ fit · done"]
    assert texts[0] == texts[3] == []
    assert [text.rpartition(" · ")[0] for text in texts[4]] == ["✓ fit · done"]
    assert "widget-view" not in json.dumps(notebook)
    assert "widgets" not in notebook.metadata


def test_ten_thousand_items_add_little_to_the_file(execute: Any) -> None:
    """A map of ten thousand items leaves less than 20 kB."""
    notebook = execute("results = map_tasks(fit, [0.0] * 10_000, backend='thread')\nfit(0.5)")
    assert len(json.dumps(notebook.cells[1].outputs)) < 20_000
