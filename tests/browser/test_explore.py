"""`explore` and the dataset browser in a real JupyterLab and Notebook 7, moved by mouse and keys."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

# Where to keep pictures, for people who want to look; read here, since tests do not see the user's NBFLOW_ variables.
SHOTS = os.environ.get("NBFLOW_SCREENSHOTS")
EXPLORE = """
%load_ext nbflow
import time
import matplotlib.pyplot as plt
import numpy as np
from nbflow import explore, save_dataset, task
from nbflow.sessions import current_session

@task(cache=True)
def fit(depth: int, noise: float = 0.2, kind: str = "sine", points: bool = True):
    with open("ran", "a") as file:
        file.write(f"{depth} ")
    time.sleep(0.5)
    x = np.linspace(0, 1, 200)
    wave = np.sin if kind == "sine" else np.cos
    y = wave(8 * x) + np.random.default_rng(1).normal(0, noise, x.size)
    fig, ax = plt.subplots(figsize=(6, 2.6))
    if points:
        ax.plot(x, y, ".", ms=3)
    ax.plot(x, np.polyval(np.polyfit(x, y, depth), x))
    print(f"depth is {depth}")
    return fig

explore(fit, depth=(1, 12), noise=(0.0, 1.0), kind=["sine", "cosine"], points=True)
"""
DATA = """
import pandas as pd
for n in range(3):
    save_dataset("results/summary.json", {"rows": 100 + n, "mean": 0.5 * n})
for last in ("carrier", "tail"):
    frame = pd.DataFrame({"year": np.arange(500) % 4 + 2010, "delay": np.arange(500) / 4, last: ["UA", "AA"] * 250})
    save_dataset("flights.parquet", frame)
save_dataset("notes.txt", "one\\ntwo\\n")
current_session().datasets
"""
DRAG = """() => {
    const slider = document.querySelector('.nbflow-explore input[type=range]');
    const seen = window.seen = [];
    new MutationObserver(() => seen.push(document.querySelector('.nbflow-result').innerText))
        .observe(document.querySelector('.nbflow-result'), {childList: true});
    let step = 0;
    const timer = setInterval(() => {
        step += 1;
        slider.value = step < 50 ? step % 11 : 8;
        slider.dispatchEvent(new Event('input', {bubbles: true}));
        if (step === 50) clearInterval(timer);
    }, 20);
}"""


def shoot(page: Any, selector: str, name: str) -> None:
    """Keep a picture in a light and in a dark theme, if asked to; in both, everything can be read."""
    for theme in ("Dark", "Light"):
        page.theme(theme)
        lowest = page.contrasts(selector)[:3]
        assert lowest[0][0] >= 4.5, (theme, lowest)
        if SHOTS:
            page.page.locator(selector).first.screenshot(path=str(Path(SHOTS) / f"{name}-{theme.lower()}.png"))


def test_sliders_and_datasets(lab: Any) -> None:
    """A task is moved by mouse and keys, and what was saved is browsed by keys, in one notebook, in a busy page."""
    page = lab.open([EXPLORE, DATA])
    page.be_busy()
    page.run_cell(0)
    page.wait_idle()
    move_sliders(page, lab.root)
    assert page.was_busy()
    page.be_busy()
    page.run_cell(1)
    browse_datasets(page, lab.root)
    assert page.was_busy()
    assert page.errors() == []


def move_sliders(page: Any, folder: Path) -> None:
    """Fifty movements in a second run at most three calls and end with the last; keys move, and text can be kept."""
    view = page.page
    page.wait_text("depth is 1")
    (folder / "ran").unlink()
    view.evaluate(DRAG)
    page.wait(lambda: "depth is 9" in page.texts()[0], 20, "the last movement is not shown")
    view.wait_for_timeout(700)  # nothing may follow
    assert "depth is 9" in page.texts()[0]
    ran = (folder / "ran").read_text().split()
    assert len(ran) <= 3
    assert ran[-1] == "9"
    assert view.evaluate("window.seen.at(-1)").startswith("depth is 9")
    slider = view.locator(".nbflow-explore input[type=range]").first
    slider.press("ArrowRight")
    page.wait(lambda: view.locator('.nbflow-explore[data-stale="true"]').count() == 1, 5, "not greyed")
    page.wait_text("depth is 10")
    slider.press("b")  # a shortcut of the notebook that puts in a cell
    before = (folder / "test.ipynb").read_text()
    slider.press("Control+s")
    page.wait(lambda: (folder / "test.ipynb").read_text() != before, 10, "the notebook's own shortcuts do not work")
    assert view.locator(".jp-Cell").count() == 2
    page.click("Keep")
    page.wait(lambda: view.locator(".nbflow-kept textarea").count() == 1, 10, "nothing to keep")
    assert view.locator(".nbflow-kept textarea").input_value() == "fit(depth=10, noise=0.2, kind='sine', points=True)"
    view.locator('.nbflow-kept button[aria-label="Close"]').click()
    shoot(page, ".nbflow-explore", "explore")
    slider.press("Home")
    page.wait(lambda: "cached" in view.locator(".nbflow-explore .nbflow-status").inner_text(), 10, "was computed again")
    assert "depth is 1" in page.texts()[0]


def browse_datasets(page: Any, folder: Path) -> None:
    """By keys alone: down, open, page, compare; a dataset only goes after a second question."""
    view = page.page
    page.wait_text("results/summary.json")
    head = view.locator(".nbflow-datasets .nbflow-base")
    assert (head.inner_text(), head.get_attribute("title")) == ("./", str(folder))
    rows = view.locator(".nbflow-list tbody tr")
    rows.first.focus()
    view.keyboard.press("Enter")
    page.wait_text("page 1 of 10")
    view.keyboard.press("ArrowDown")
    view.keyboard.press("Enter")
    page.wait(lambda: "load_dataset('notes.txt')" in page.texts()[1], 10, "the second is not opened")
    view.keyboard.press("ArrowUp")
    view.keyboard.press("Enter")
    page.wait_text("page 1 of 10")
    view.locator('.nbflow-foot button[aria-label="Next page"]').click()
    page.wait_text("page 2 of 10")
    page.click("Compare")
    page.wait_text("- columns: carrier")
    shoot(page, ".nbflow-datasets", "datasets")
    rows.nth(1).focus()
    view.keyboard.press("Delete")
    page.wait_text("This cannot be undone")
    assert (folder / "notes.txt").exists()
    page.click("Delete")
    page.wait(lambda: not (folder / "notes.txt").exists(), 10, "not deleted")
    page.wait(lambda: rows.count() == 2, 10, "still listed")
