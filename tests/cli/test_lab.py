"""`nbflow lab`."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nbflow.cli import lab, main


def test_the_quickstart_of_the_checkout_is_found() -> None:
    """Without a file the quickstart is opened where it is."""
    assert lab.quickstart() == Path(__file__).parents[2] / "notebooks" / "01-quickstart.ipynb"


def test_missing_jupyterlab_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with the command to type."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["lab"]) == 2
    assert capsys.readouterr().err == 'nbflow: JupyterLab is not installed; pip install "nbflow[lab]"\n'


def test_arguments_go_to_jupyterlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file comes first, then what stands after `--`, untouched."""
    seen: list[Any] = []
    labapp = pytest.importorskip("jupyterlab.labapp")
    monkeypatch.setattr(labapp, "main", seen.append)
    monkeypatch.setattr(sys, "argv", ["nbflow"])
    book = tmp_path / "book.ipynb"
    book.write_text("{}")
    assert main(["lab", str(book), "--", "--no-browser", "--port=8899"]) == 0
    assert seen == [[str(book), "--no-browser", "--port=8899"]]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jupyterlab") is None, reason="needs JupyterLab")
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_jupyterlab_really_starts_on_the_file(tmp_path: Path, environment: dict[str, str]) -> None:
    """The server comes up, serves this very path, and ends when told to."""
    book = tmp_path / "book.ipynb"
    book.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    options = ["--no-browser", "--port=0", "--ip=127.0.0.1", "--allow-root"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nbflow", "lab", str(book), "--", *options],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        assert any(str(tmp_path) in line for line in lines)
        assert any("/lab?token=" in line or "/lab/tree/" in line for line in lines)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=30)
