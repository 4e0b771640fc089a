"""The panel in a real JupyterLab and Notebook 7: seen, moving and clickable while a cell blocks, static afterwards."""

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
FRONTS = [
    pytest.param({}, id="lab"),
    pytest.param({"front": "notebook"}, id="notebook 7"),
    pytest.param({"settings": NO_SUBSHELLS}, id="lab, subshells off"),
]
SETUP = """
%load_ext nbflow
import asyncio, time
from pathlib import Path
import nbflow
from nbflow import map_tasks, progress, submit, task

def hold(name):
    while Path(name).exists():
        time.sleep(0.05)

@task(cache=True)
def load(table):
    time.sleep(0.05)
    return table

@task
def fit(depth):
    if depth == 4 and Path("deep").exists():
        raise ValueError("depth 4 is too deep")
    if depth >= 20:
        hold("first")
    time.sleep(depth % 4 / 50)
    return depth

@task
def report(tables):
    print("writing page 3 of 12")
    Path("writing").touch()
    for page in progress(range(12), label="pages"):
        if page == 3:
            hold("first")
    return tables

@task
def block(seconds):
    time.sleep(seconds)
    return "slept"

@task
def wait_for(name):
    hold(name)
    return "released"

@task
async def sleep(seconds):
    await asyncio.sleep(seconds)

@task
def same(n):
    return n
"""


def shoot(page: Any, name: str) -> None:
    """Keep a picture of the panel, if asked to."""
    if SHOTS:
        page.portrait(Path(SHOTS) / f"panel-{name}.png")


def count(page: Any, total: int) -> int:
    """Read how many items of the map are finished."""
    found = re.search(rf"(\d+)/{total}\b", "\n".join(page.texts()))
    return int(found.group(1)) if found else -1


def touch(lab: Any, *names: str) -> list[Path]:
    """Make files that tasks wait for to go."""
    files = [lab.root / name for name in names]
    for file in files:
        file.touch()
    return files


def is_static(page: Any, cell: int) -> bool:
    """Whether a panel is there, and no widget."""
    bundles = [output.get("data", {}) for output in page.outputs(cell)]
    return any("text/html" in each for each in bundles) and not any(WIDGET in each for each in bundles)


def check_contrast(page: Any) -> None:
    """All text of the panel can be read (WCAG 2.1, 1.4.3)."""
    lowest = page.contrasts()[:3]
    assert lowest[0][0] >= 4.5, lowest


def test_map_moves_while_the_cell_blocks_and_ends_static(lab: Any) -> None:
    """Rows, traceback, retry and tabs work while the main thread waits; the saved file shows a summary by itself."""
    first, deep = touch(lab, "first", "deep")
    cell = (
        "for table in ('flights', 'weather'): load(table)\n"
        "done = submit(report, submit(load, 'planes'))\n"
        "while not Path('writing').exists():\n"  # else the map takes all threads
        "    time.sleep(0.02)\n"
        "results = map_tasks(fit, range(60), backend='thread', on_error='collect'); len(results)"
    )
    page = lab.open([SETUP, cell])
    page.run_all()
    page.wait(lambda: count(page, 60) == 20, 40, "no progress seen")
    page.wait_text("depth 4 is too deep")
    page.wait_text("writing page 3 of 12")
    page.page.wait_for_timeout(1500 if SHOTS else 0)  # for the picture: the parallelism is only known after a second
    page.theme("Dark")
    shoot(page, "dark")
    check_contrast(page)
    page.theme("Light")
    shoot(page, "light")
    page.click("Traceback")
    page.wait_text('raise ValueError("depth 4 is too deep")')
    assert 'nbflow.panel().rerun("fit[4]")' in page.texts()[1]
    check_contrast(page)
    shoot(page, "failure")
    page.click("Hide")
    deep.unlink()
    page.click("Retry")
    page.wait_text("queued\nfit[4]")  # all threads are busy
    page.page.locator(".nbflow-tabname:visible").first.focus()
    page.page.keyboard.press("ArrowRight")
    page.page.wait_for_selector(".nbflow-call:visible")
    page.page.keyboard.press("ArrowRight")
    page.page.wait_for_selector(".nbflow-stretch:visible")
    shoot(page, "timeline")
    check_contrast(page)
    page.page.keyboard.press("ArrowRight")
    page.page.wait_for_selector(".nbflow-graph svg:visible")
    graph = page.page.locator(".nbflow-graph:visible").last
    page.wait(lambda: "load → report: result" in graph.inner_html(), 20, "no arrow")
    shoot(page, "graph")
    page.page.keyboard.press("Home")
    first.unlink()
    page.wait_idle()
    page.wait(lambda: is_static(page, 1), 20, "it does not end")  # what is tried again may run a moment longer
    page.wait_text("1 retry")
    bundles = [output["data"] for output in page.outputs(1) if "data" in output]
    assert any("1 failed" in "".join(bundle["text/plain"]) for bundle in bundles)
    assert page.errors() == []
    reopen_without_a_kernel(lab, page.save())


def reopen_without_a_kernel(lab: Any, file: Path) -> None:
    """The saved notebook shows the final summary by itself, and no widget that waits for a kernel."""
    assert WIDGET not in file.read_text()
    notebook = nbformat.read(file, as_version=4)
    notebook.metadata["kernelspec"] = {"name": "no-such-kernel", "display_name": "None", "language": "python"}
    nbformat.write(notebook, lab.root / "reopened.ipynb")
    lab.clear()
    reopened = lab.open(name="reopened.ipynb")
    reopened.wait_text("1 retry")
    assert "1 failed" in reopened.texts()[1]
    assert [text for text in reopened.texts() if "Loading widget" in text] == []


def test_five_thousand_calls_are_found_by_the_page(lab: Any) -> None:
    """Calls behind a loop and a map of thousands are searched and scrolled, until the kernel ends, which is said."""
    touch(lab, "first")
    page = lab.open(
        [SETUP, "for n in range(2500): same(n)\nmap_tasks(same, range(2500), backend='thread')\nwait_for('first')"]
    )
    page.run_all()
    page.wait_text("5,001 tasks")
    page.tab("Calls")
    page.wait_text("5,001 calls")
    search = page.page.locator(".nbflow-find input:visible")
    search.fill("[2499")
    page.wait_text("same[2499]")
    page.wait_text("1 call\n")
    search.fill("")
    page.wait_text("5,001 calls")
    page.page.locator(".nbflow-list:visible").evaluate("node => { node.scrollTop = node.scrollHeight; }")
    calls = page.page.locator(".nbflow-call:visible")
    page.wait(lambda: "wait_for" not in "".join(calls.all_inner_texts()), 20, "the first call is still there")
    assert 5 < calls.count() < 40
    page.page.locator(".nbflow-list:visible").evaluate("node => { node.scrollTop = 0; }")
    page.wait(lambda: "wait_for" in "".join(calls.all_inner_texts()), 20, "the first call does not come back")
    shoot(page, "calls")
    page.page.evaluate("() => window.currentNotebook().sessionContext.session.kernel.restart()")
    page.wait_text("the kernel has ended")
    assert not any(word in page.texts()[1] for word in ("Cancel", "Stop all", "running\n"))
    assert [error for error in page.errors() if "Comm not found" not in error] == []  # a kernel that ends closes all


def test_submitted_work_keeps_its_panel_and_survives_a_reload(lab: Any) -> None:
    """A handle's task stays live under its own cell, and after a reload `nbflow.panel()` shows it as it is by then."""
    first, second = touch(lab, "first", "second")
    page = lab.open([SETUP, "handle = submit(wait_for, 'first')", "wait_for('second')", "panel = nbflow.panel()"])
    for cell in range(3):
        page.run_cell(cell)
    page.wait(lambda: all("Cancel" in page.texts()[cell] for cell in (1, 2)), 30, "not two live panels")
    second.unlink()
    page.wait(lambda: "done" in page.texts()[2], 30, "the cell's own panel did not end")
    assert "Cancel" in page.texts()[1]
    page.save()
    page.reload()
    page.wait_idle()
    page.run_cell(3)
    page.wait(lambda: all("Cancel" in page.texts()[cell] for cell in (1, 3)), 30, "not shown again")
    first.unlink()
    page.wait(lambda: "done" in page.texts()[3] and is_static(page, 3), 30, "it did not end")
    assert not re.search("Loading widget|Error displaying widget", "\n".join(page.texts())), page.texts()


def test_a_widget_of_a_page_that_was_busy_goes_on(lab: Any) -> None:
    """anywidget gives up a model whose script takes more than two seconds to load; ours moves and is clickable."""
    first, second = touch(lab, "first", "second")
    gated = "@task\ndef gated(n):\n    hold('first' if n < 10 else 'second')\n    return n\n"
    page = lab.open([SETUP + gated, "map_tasks(gated, range(20), backend='thread', on_error='collect')"])
    page.run_cell(0)
    page.wait_idle()
    page.be_busy()
    page.run_cell(1)
    page.wait(lambda: count(page, 20) == 0, 30, "not drawn")
    assert page.was_busy()
    first.unlink()
    page.wait(lambda: count(page, 20) == 10, 30, "it stands still")
    page.click("Stop all")
    page.wait(lambda: is_static(page, 1), 30, "it did not stop")
    second.unlink()
    assert page.errors() == []


@pytest.mark.parametrize("lab", FRONTS, indirect=True)
def test_a_row_an_item_and_everything_are_stopped_while_a_cell_blocks_or_awaits(lab: Any) -> None:
    """A call, an item whose neighbours run on, and all that is left end at once, and the next cell works."""
    (first,) = touch(lab, "first")
    cells = [
        "block(60)",
        "map_tasks(fit, range(18, 60), backend='thread', on_error='collect')",
        "await sleep(60)",
        "await nbflow.gather_tasks(sleep, [60] * 10, on_error='collect')",
        "1 + 1",
    ]
    page = lab.open([SETUP, *cells])
    page.run_cell(0)
    for cell in (1, 3):
        page.run_cell(cell)
        page.click("Cancel")
        page.wait_idle(20)
        page.wait(lambda cell=cell: "cancelled" in page.texts()[cell], 20, "the call was not cancelled")
        assert any(output["output_type"] == "error" for output in page.outputs(cell))
    for cell, item in ((2, "fit["), (4, "sleep[")):
        page.run_cell(cell)
        items = page.page.locator(".nbflow-item:visible").filter(has_text=item)
        items.first.hover()
        items.first.get_by_role("button").click()
        page.wait(lambda cell=cell: "1 cancelled" in page.texts()[cell], 20, "the item was not cancelled")
        assert "Stop all" in page.texts()[cell], "its neighbours do not run on"
        page.page.get_by_role("button", name="Stop all").last.press("Enter")  # the notebook has a shortcut for it
        page.wait_idle(20)
        page.wait(lambda cell=cell: is_static(page, cell), 20, "it did not end")
        page.wait(lambda cell=cell: re.search(r"(\d\d|all) cancelled", page.texts()[cell]), 20, "not all stopped")
    assert first.exists()
    page.run_cell(5)
    page.wait(lambda: "2" in page.texts()[5], 20, "the next cell did not run")
    assert page.errors() == []
