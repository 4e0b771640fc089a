"""Every notebook that is shipped runs from top to bottom in a fresh kernel, and the second time from the cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nbflow
from tests.kernel import warm

FOLDER = Path(__file__).parents[2] / "notebooks"
UNCACHED = {"06-coming-from.ipynb": ["cell 7"]}  # cells that run each time: the engine of AsyncFlow has no cache
NOTEBOOKS = sorted(path for path in FOLDER.glob("*.ipynb") if not path.name.endswith(".executed.ipynb"))


def _run(notebook: Path, *, cold: bool) -> dict[str, Any]:
    env = {**os.environ, "PYTHONPATH": str(Path(nbflow.__file__).parents[1])}
    del env["NBFLOW_HOME"]  # as for a user: the cache is beside the notebook
    words = ["-m", "nbflow", "run", notebook.name, "--json"]
    if cold:
        command = [sys.executable, *words]
        done = subprocess.run(
            command, cwd=notebook.parent, env=env, capture_output=True, text=True, timeout=280, check=False
        )
    else:
        done = warm.run(*words, cwd=notebook.parent, env=env, timeout=280)
    assert done.returncode == 0, f"{notebook.name}:\n{done.stdout}\n{done.stderr}"
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _own(report: dict[str, Any]) -> list[str]:
    """Return the tasks that the notebook itself called; those inside of a cached one are not called again."""
    return [row["task"] for row in report["tasks"] if not row["nested"]]


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS])
def test_a_notebook_runs_and_then_comes_from_the_cache(name: str, tmp_path: Path) -> None:
    """The first run computes every task, the second one none."""
    notebook = tmp_path / name
    shutil.copy(FOLDER / name, notebook)
    first, second = _run(notebook, cold=True), _run(notebook, cold=False)
    assert first["tasks"]
    assert sum(row["ran"] for row in first["tasks"]) > 0
    again = [(row["task"], row["cell"], row["why"]) for row in second["tasks"] if row["ran"]]
    assert [each for each in again if each[1] not in UNCACHED.get(name, ())] == []
    assert _own(second) == _own(first)
    assert sum(row["cached"] for row in second["tasks"]) > 0
    assert second["saved_s"] > 0


@pytest.mark.parametrize("name", [path.name for path in NOTEBOOKS])
def test_a_notebook_is_shipped_clean(name: str) -> None:
    """A notebook in the repository has no outputs, no execution counts, and ids for its cells."""
    content = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert [cell["source"] for cell in code if cell["outputs"] or cell["execution_count"]] == []
    assert all(cell.get("id") for cell in content["cells"])


def test_there_are_notebooks() -> None:
    """The quickstart is among them: the README and `nbflow lab` open it."""
    assert "01-quickstart.ipynb" in [path.name for path in NOTEBOOKS]
