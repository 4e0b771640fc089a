"""`nbflow cache` and `nbflow doctor`."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nbflow.cli import main
from nbflow.cli.cache import format_size, open_store, parse_size

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

FLOW = """
from nbflow import map_tasks, task, workflow

FACTOR = {factor}

@task(cache=True)
def scale(x):
    return x * FACTOR

@task(cache=True)
def load(name):
    return bytes(100_000)

@workflow
def both():
    load("a")
    map_tasks(scale, range(3))
"""


@pytest.fixture
def filled(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder whose store holds the results of two tasks, one of them computed with two factors."""
    monkeypatch.delenv("NBFLOW_HOME")
    for factor in (2, 3):
        (tmp_path / "flow.py").write_text(FLOW.format(factor=factor))
        assert cli("run", "flow.py:both", NBFLOW_HOME="").returncode == 0
    monkeypatch.chdir(tmp_path)
    return tmp_path


def output(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(words) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_ls_lists_results_and_adds_up(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each result, and the totals; one task can be asked for."""
    lines = output(capsys, "cache", "ls").splitlines()
    assert lines[0].split() == ["task", "cell", "last", "used", "cost", "size", "hits", "key"]
    assert sorted(line.split()[0] for line in lines[2:-1]) == ["load"] + 6 * ["scale"]
    assert lines[-1].startswith("7 results, ")
    assert lines[-1].endswith(str(filled / ".nbflow" / "cache"))
    assert output(capsys, "cache", "ls", "load").splitlines()[-1].startswith("1 result, ")
    found = json.loads(output(capsys, "cache", "ls", "load", "--json"))
    assert found[0]["size_bytes"] >= 100_000


@pytest.mark.usefixtures("filled")
def test_why_names_what_had_changed(capsys: pytest.CaptureFixture[str]) -> None:
    """The newest result is compared with the one most like it."""
    assert "global `flow.FACTOR` 2 → 3" in output(capsys, "cache", "why", "scale")
    assert "never run before" in output(capsys, "cache", "why", "load")
    assert "tasks with results: load, scale" in output(capsys, "cache", "why", "lode", code=2)


@pytest.mark.usefixtures("filled")
def test_clear_and_prune_remove_and_say_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    """One task, a smaller budget, everything."""
    assert output(capsys, "cache", "prune", "--max-size", "50k").startswith("removed 1 result; 6 left")
    assert output(capsys, "cache", "clear", "scale").startswith("removed 6 results; 0 left")
    assert output(capsys, "cache", "clear").startswith("removed 0 results; 0 left")


def test_verify_finds_damaged_results(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 and the name of the task; the rest is counted as good."""
    assert output(capsys, "cache", "verify").startswith("7 of 7 results can be read")
    blob = max((filled / ".nbflow" / "cache" / "blobs").rglob("*"), key=lambda path: path.stat().st_size)
    blob.chmod(0o600)
    blob.write_bytes(b"\0" * blob.stat().st_size)
    text = output(capsys, "cache", "verify", code=1)
    assert "6 of 7 results can be read" in text
    assert "nbflow: load (" in text


def test_a_notebook_names_the_store_beside_it(
    filled: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """--at takes a notebook or a folder; looking at an empty store creates nothing."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert output(capsys, "cache", "ls", "--at", str(filled / "flow.py")).splitlines()[-1].startswith("7 results")
    assert output(capsys, "cache", "ls").startswith("0 results, 0 B")
    assert list(elsewhere.iterdir()) == []
    assert "no such file or folder" in output(capsys, "cache", "ls", "--at", "none", code=2)


def test_settings_decide_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home and the store of pyproject.toml count from anywhere."""
    monkeypatch.delenv("NBFLOW_HOME")
    (tmp_path / "pyproject.toml").write_text(f"[tool.nbflow]\ncache_store = '{tmp_path / 'shared'}'\n")
    (tmp_path / "sub").mkdir()
    store = open_store(tmp_path / "sub")
    assert store.location == str(tmp_path / "shared")
    store.close()


def test_sizes_are_read_and_written() -> None:
    """What people type and what they read."""
    assert [parse_size(text) for text in ("500", "1k", "1.5 MB", "2GiB")] == [500, 1024, 1572864, 2 * 1024**3]
    assert [format_size(n) for n in (0, 999, 1500, 45_000_000, 3 * 10**12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "45 MB",
        "3.0 TB",
    ]
    for text in ("", "x", "1.2.3", "5 parsecs"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_size(text)


def test_doctor_finds_nothing_wrong_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A line for Python, for each package, for settings and cache; nothing is created."""
    text = output(capsys, "doctor")
    assert "ok  nbflow " in text
    assert "ok  ipykernel " in text
    assert "ok  cache: 0 results, 0 B" in text
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_to_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package and a bad setting are failures with their remedy, and the exit code is 1."""
    import nbflow.cli.doctor as doctor

    missing = (("surely-not-there", "everything", "pip install surely-not-there"),)
    monkeypatch.setattr(doctor, "_NEEDED", missing)
    monkeypatch.setenv("NBFLOW_PROGRESS", "loud")
    text = output(capsys, "doctor", code=1)
    assert "FAIL  surely-not-there is missing (everything): pip install surely-not-there" in text
    assert "FAIL  environment variable NBFLOW_PROGRESS" in text
