"""The documentation is true: its Python runs, its cells run in a kernel, its commands exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nbflow
from tests.kernel import warm

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Return the fenced blocks of one language, with the line on which each begins."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, found.start(2)), found[2]) for found in _FENCE.finditer(text) if found[1] == language]


def with_blocks(language: str) -> list[str]:
    """Return the pages that have such blocks."""
    return [str(page.relative_to(ROOT)) for page in PAGES if blocks(page, language)]


def _env(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(nbflow.__file__).parents[1]), "NBFLOW_HOME": str(folder / ".nbflow")}


@pytest.mark.parametrize("name", with_blocks("python"))
def test_python_runs(name: str, tmp_path: Path) -> None:
    """The Python of a page runs from top to bottom as one script; its lines keep their numbers."""
    lines: list[str] = []
    for start, code in blocks(ROOT / name, "python"):
        lines += [""] * (start - len(lines)) + code.splitlines()
    script = tmp_path / f"page_{Path(name).stem.replace('-', '_').lower()}.py"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(
        command, cwd=tmp_path, env=_env(tmp_path), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, f"{name}:\n{done.stderr}"


@pytest.mark.kernel
@pytest.mark.parametrize("name", with_blocks("ipython"))
def test_cells_run(name: str, tmp_path: Path) -> None:
    """The cells of a page run from top to bottom in a kernel, and again from the cache."""
    import nbformat

    cells = [nbformat.v4.new_code_cell(code.rstrip("\n")) for _, code in blocks(ROOT / name, "ipython")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "page.ipynb")
    for again in (False, True):
        command = ["-m", "nbflow", "run", "page.ipynb", "--json"]
        done = warm.run(*command, cwd=tmp_path, env=_env(tmp_path), timeout=100)
        assert done.returncode == 0, f"{name}:\n{done.stdout}\n{done.stderr}"
        tasks = json.loads(done.stdout)["tasks"]
        assert [row["task"] for row in tasks if row["ran"] and again] == []


def test_commands_exist(tmp_path: Path) -> None:
    """Every `nbflow …` command that a page shows is one that there is, with options that it has."""
    shown = {
        line.strip()
        for page in PAGES
        for _, code in blocks(page, "sh")
        for part in re.split(r"\n|&&", code)
        if (line := part.strip()).startswith("nbflow ")
    }
    assert shown
    for command in sorted(shown):
        words = command.split()
        depth = 2 if words[1] != "cache" else 4 if words[2] == "key" else 3  # its actions have options of their own
        done = warm.run("-m", "nbflow", *words[1:depth], "--help", cwd=tmp_path, env=_env(tmp_path), timeout=100)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        unknown = [
            word for word in words[2:] if word.startswith("-") and not re.search(rf"(?<![\w-]){word}\b", done.stdout)
        ]
        assert not unknown, f"{command}: there is no option {unknown}"


def test_pages_show_no_stubs() -> None:
    """A page has content, or it is not there."""
    written = [page for page in PAGES if page.parent.name != "reference"]  # those are filled from docstrings
    short = [page.name for page in written if len(page.read_text(encoding="utf-8")) < 500]
    assert short == []
