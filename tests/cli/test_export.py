"""`nbflow export`: a notebook file becomes a script file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any


def test_export_writes_a_script_that_runs(cli: Any, notebook: Any, tmp_path: Path) -> None:
    """The script stands beside the notebook and prints what its cells print."""
    notebook("%load_ext nbflow", "%%task total\ntotal = sum(range(5))", "print('total', total)")
    done = cli("export", "book.ipynb")
    assert done.returncode == 0, done.stderr
    assert "wrote book.py" in done.stderr
    shown = subprocess.run([sys.executable, "book.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shown.stdout == "total 10\n"


def test_export_replaces_nothing_unasked(cli: Any, notebook: Any, tmp_path: Path) -> None:
    """A file that is there stays, unless --force says otherwise; `-o -` prints."""
    notebook("x = 1")
    (tmp_path / "book.py").write_text("mine")
    refused = cli("export", "book.ipynb")
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert (tmp_path / "book.py").read_text() == "mine"
    assert "x = 1" in cli("export", "book.ipynb", "-o", "-").stdout
    assert cli("export", "book.ipynb", "-f").returncode == 0
    assert "x = 1" in (tmp_path / "book.py").read_text()


def test_export_names_what_is_wrong(cli: Any, notebook: Any) -> None:
    """Missing files and cells that are no Python are one line each, exit code 2."""
    assert "no such file" in cli("export", "nothing.ipynb").stderr
    notebook("x = 1", "y = = 2")
    wrong = cli("export", "book.ipynb")
    assert wrong.returncode == 2
    assert "cell 2 is no valid Python" in wrong.stderr
