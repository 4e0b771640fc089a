"""The page that `tools/matrix.py` writes, and that it reads again."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "matrix.py"


@pytest.fixture
def matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the script as a module that writes to a page of its own."""
    spec = importlib.util.spec_from_file_location("nbflow_matrix", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAGE", tmp_path / "tested.md")
    return module


def outcome(python: str, kernel: str, *failed: str) -> dict[str, Any]:
    return {
        "python": python,
        "ipykernel": kernel,
        "ipython": "9.0.0",
        "files": 4,
        "passed": 14,
        "skipped": 1,
        "failed": list(failed),
        "date": "2026-01-02",
        "system": "Linux x86_64",
    }


def test_page(matrix: Any) -> None:
    """One row per combination, in order of versions; failures by name; a later run replaces its own row only."""
    assert matrix.known() == {}
    matrix.write_page({"3.12/7.0": outcome("3.12.1", "7.0.1"), "3.12/6.31": outcome("3.12.1", "6.31.0", "test_x::one")})
    matrix.write_page({**matrix.known(), "3.12/7.0": outcome("3.12.1", "7.0.10")})
    text = matrix.PAGE.read_text(encoding="utf-8")
    rows = [line.split(" | ")[:3] for line in text.splitlines() if line.startswith("| 3.")]
    assert rows == [["| 3.12.1", "6.31.0", "9.0.0"], ["| 3.12.1", "7.0.10", "9.0.0"]]
    assert "Failed under Python 3.12.1 with ipykernel 6.31.0:\n\n- `test_x::one`\n" in text
    assert sorted(matrix.known()) == ["3.12/6.31", "3.12/7.0"]


def test_pythons(matrix: Any) -> None:
    """This Python is found as itself, and one that nobody has is not found."""
    assert matrix.find_python(f"{sys.version_info[0]}.{sys.version_info[1]}") == sys.executable
    assert matrix.find_python("2.99") is None


def test_what_it_runs_is_there(matrix: Any) -> None:
    """The files that it runs by itself exist."""
    assert all((TOOL.parents[1] / name).is_file() for name in matrix.TESTS)
