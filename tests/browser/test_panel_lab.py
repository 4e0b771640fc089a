"""The panel in a real JupyterLab: seen, moving and clickable while a cell blocks, and static afterwards."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

# Where to keep pictures, for people who want to look; read here, since tests do not see the user's NBFLOW_ variables.
SHOTS = os.environ.get("NBFLOW_SCREENSHOTS")
WIDGET = "application/vnd.jupyter.widget-view+json"
# Stands in for front ends that send all messages to the main shell, such as VS Code.
NO_SUBSHELLS = {"@jupyterlab/apputils-extension:kernels-settings": {"commsOverSubshells": "disabled"}}
SETUP = """
%load_ext nbflow
import time
from pathlib import Path
from nbflow import map_tasks, submit, task

def hold(name):
    while Path(name).exists():
        time.sleep(0.05)

@task
def fit(depth):
    if depth >= 40:
        hold("second")
    elif depth >= 20:
        hold("first")
    if depth == 4:
        raise ValueError("depth 4 is too deep")
    return depth

@task
def block(seconds):
    time.sleep(seconds)
    return "slept"

@task
def wait_for(name):
    hold(name)
    return "released"
"""


def shoot(page: Any, name: str) -> None:
    """Keep a picture, if asked to."""
    if SHOTS:
        page.screenshot(Path(SHOTS) / f"{name}.png")


def count(page: Any, total: int) -> int:
    """Read how many items of the map are finished."""
    found = re.search(rf"(\d+)/{total}\b", "\n".join(page.texts()))
    return int(found.group(1)) if found else -1


def test_map_moves_while_the_cell_blocks_and_ends_static(lab: Any) -> None:
    """The count grows while the main thread waits for the map; the saved file has a summary and no widget."""
    page = lab.open([SETUP, "results = map_tasks(fit, range(60), backend='thread', on_error='collect'); len(results)"])
    first, second = (lab.root / name for name in ("first", "second"))
    first.touch()
    second.touch()
    page.run_all()
    page.wait(lambda: count(page, 60) == 20, 30, "no progress seen")
    first.unlink()
    page.wait(lambda: count(page, 60) == 40, 30, "the panel does not move")
    page.wait_text("depth 4 is too deep")
    shoot(page, "map-running")
    page.click("Traceback")
    page.wait_text('raise ValueError("depth 4 is too deep")')
    shoot(page, "map-traceback")
    second.unlink()
    page.wait_idle()
    shoot(page, "map-finished")
    bundles = [output["data"] for output in page.outputs(1) if "data" in output]
    assert not any(WIDGET in bundle for bundle in bundles)
    assert any("60 tasks · 59 done · 1 failed" in "".join(bundle["text/plain"]) for bundle in bundles)
    assert page.errors() == []


@pytest.mark.parametrize("lab", [{}, NO_SUBSHELLS], ids=["default", "subshells off"], indirect=True)
def test_cancel_of_one_row_stops_blocking_inline_code(lab: Any) -> None:
    """Cancel in the row of a blocked inline call stops it at once, and the next cell works."""
    page = lab.open([SETUP, "block(60)", "block(0.01)"])
    page.run_all()
    page.wait_text("Cancel")
    shoot(page, "inline-running")
    page.click("Cancel")
    page.wait_idle(20)
    assert any(output["output_type"] == "error" for output in page.outputs(1))
    assert "cancelled" in page.texts()[1]
    page.run_cell(2)
    page.wait_text("slept")
    shoot(page, "inline-cancelled")
    assert page.errors() == []


def test_stop_all_ends_a_map_on_threads(lab: Any) -> None:
    """Stop all ends the map of a blocked cell; what never ran counts as cancelled."""
    page = lab.open([SETUP, "map_tasks(block, [0.5] * 200, backend='thread')", "1 + 1"])
    page.run_all()
    page.wait(lambda: count(page, 200) >= 2, 30, "no progress seen")
    page.click("Stop all")
    page.wait_idle(20)
    text = page.texts()[1]
    assert "cancelled" in text
    assert 2 <= count(page, 200) <= 200
    page.run_cell(2)
    page.wait_text("2")
    shoot(page, "stopped")
    assert page.errors() == []


def test_submitted_work_keeps_its_panel_when_the_cell_is_over(lab: Any) -> None:
    """A handle's task stays live under its own cell while the next one runs, then its panel becomes static."""
    page = lab.open([SETUP, "handle = submit(wait_for, 'first')", "wait_for('second')", "handle.get()"])
    first, second = (lab.root / name for name in ("first", "second"))
    first.touch()
    second.touch()
    page.run_all()
    page.wait(lambda: all("Cancel" in page.texts()[cell] for cell in (1, 2)), 30, "not two live panels")
    shoot(page, "submitted")
    second.unlink()
    page.wait(lambda: "done" in page.texts()[2], 30, "the cell's own panel did not end")
    assert "Cancel" in page.texts()[1]
    first.unlink()
    page.wait_idle()
    assert "done" in page.texts()[1]
    assert "Cancel" not in page.texts()[1]
    assert not any(WIDGET in output.get("data", {}) for output in page.outputs(1))
    assert page.errors() == []


def test_saved_notebook_shows_the_summary_without_a_kernel(lab: Any) -> None:
    """Reopened with no kernel, the notebook shows the final summary and no widget that waits for one."""
    page = lab.open([SETUP, "results = map_tasks(fit, range(12), backend='thread', on_error='collect')\nblock(0.5)"])
    page.run_all()
    page.wait_idle()
    file = page.save()
    assert WIDGET not in file.read_text()
    lab.end_kernels()
    notebook = nbformat.read(file, as_version=4)
    notebook.metadata["kernelspec"] = {"name": "no-such-kernel", "display_name": "None", "language": "python"}
    nbformat.write(notebook, lab.root / "reopened.ipynb")
    reopened = lab.open(name="reopened.ipynb")
    reopened.wait_text("13 tasks · 12 done · 1 failed")
    shoot(reopened, "reopened")
    assert [text for text in reopened.texts() if "Loading widget" in text] == []
