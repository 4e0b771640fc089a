"""The hosted demo in a real JupyterLab: its first run finds all results in the bundle that its build has made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest

# The interpreter of an environment that was built as binder/ says; tests do not see NBFLOW_ variables.
DEMO_PYTHON = os.environ.get("NBFLOW_DEMO_PYTHON")
BUNDLE = Path(__file__).parents[2] / "binder" / "warm.zip"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(DEMO_PYTHON is None, reason="needs a process of its own, and NBFLOW_DEMO_PYTHON"),
]


def test_the_first_run_of_the_demo_is_cached(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The quickstart runs to its end in the browser, off the internet, and no task of it is computed."""
    harness: Any = request.getfixturevalue("harness")
    env = {"NBFLOW_CACHE_SHARED": str(BUNDLE), "NBFLOW_CACHE_TRUST": str(BUNDLE.with_suffix(".key"))}
    with harness.Lab(tmp_path / "demo", env=env, kernel_python=DEMO_PYTHON) as lab:
        quickstart = nbformat.read(BUNDLE.parents[1] / "notebooks" / "01-quickstart.ipynb", as_version=4)
        page = lab.open([cell.source for cell in quickstart.cells if cell.cell_type == "code"])
        page.run_all()
        page.wait_idle(timeout_s=150)
        shown = "\n".join(page.texts())
        assert "all cached" in shown
        assert "Traceback" not in shown
        assert page.errors() == []
        assert lab.foreign == []
        lab.clear()
