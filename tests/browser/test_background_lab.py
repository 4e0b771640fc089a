"""Cells in the background, in both front ends: outputs below their own cell, rows that can be cancelled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(240)]

SHOTS = os.environ.get("NBFLOW_SCREENSHOTS")
CELLS = [
    "%load_ext nbflow\nimport time\nfrom pathlib import Path",
    "%%task model --bg\nprint('begins')\nwhile not Path('go').exists():\n    time.sleep(0.05)\nmodel = 6 * 7\nmodel",
    "%%task report --bg\nreport = f'the model is {model}'\nreport",
    "%%task endless --bg\nwhile True:\n    time.sleep(0.05)",
    "print('in front')\n1 + 1",
    "%flow",
]


def test_outputs_stay_in_their_cells_and_rows_can_be_cancelled(lab: Any) -> None:
    """Cells in front run meanwhile; Cancel ends one cell; the others' values appear below them, and are saved there."""
    page = lab.open(CELLS)
    page.run_all()
    page.wait(lambda: "in front" in page.texts()[4], 30, "the prompt did not come back")
    page.wait(lambda: all("Cancel" in page.texts()[cell] for cell in (1, 2, 3)), 30, "not three live panels")
    page.wait(lambda: "waiting" in page.texts()[5], 30, "no table")
    if SHOTS:
        page.screenshot(Path(SHOTS) / "background-running.png")
    page.click("Cancel", nth=2)
    page.wait(lambda: "cancelled endless" in page.texts()[3], 20, "it was not cancelled")
    (lab.root / "go").touch()
    page.wait(lambda: "the model is 42" in page.texts()[2], 30, "the chain did not flow")
    page.wait(lambda: "Cancel" not in "".join(page.texts()), 30, "a panel stays live")
    if SHOTS:
        page.screenshot(Path(SHOTS) / "background-done.png")
    assert "begins" in page.texts()[1]
    results = [[each["execution_count"] for each in page.outputs(cell) if "execution_count" in each] for cell in (1, 2)]
    assert results == [[2], [3]]
    assert "begins" not in page.texts()[4]
    assert page.errors() == []
