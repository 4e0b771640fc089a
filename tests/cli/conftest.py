"""The command line as a user meets it: a process of its own, in an empty folder.

Its imports and those of its kernels are warm, except in tests that are marked `cold`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

import nbflow
from tests.kernel import warm


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the environment for a command: this very package, no terminal."""
    env = dict(os.environ)
    env["PYTHONPATH"] = str(Path(nbflow.__file__).parents[1])
    env.pop("NO_COLOR", None)
    return env


@pytest.fixture
def cli(
    request: pytest.FixtureRequest, tmp_path: Path, environment: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs `nbflow` with some arguments in `tmp_path`."""
    cold = request.node.get_closest_marker("cold") is not None

    def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        if not cold:
            return warm.run("-m", "nbflow", *arguments, cwd=tmp_path, env=environment | env, timeout=100)
        return subprocess.run(
            [sys.executable, "-m", "nbflow", *arguments],
            cwd=tmp_path,
            env=environment | env,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    return run


@pytest.fixture
def notebook(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a notebook of code cells; a first line `# tags: a, b` becomes tags."""

    def write(*sources: str, name: str = "book.ipynb", **metadata: Any) -> Path:
        book = nbformat.v4.new_notebook(metadata=metadata)
        for number, source in enumerate(sources):
            cell = nbformat.v4.new_code_cell(source, id=f"cell-{number}")
            first = source.splitlines()[0] if source else ""
            if first.startswith("# tags: "):
                cell.metadata["tags"] = first.removeprefix("# tags: ").split(", ")
            book.cells.append(cell)
        path = tmp_path / name
        nbformat.write(book, path)
        return path

    return write
