"""The three parts as a user meets them: installed, and named."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from nbflow_example import slowest_calls
from nbflow_example.backend import PacedBackend

from nbflow import load_dataset, map_tasks, save_dataset, session, task
from nbflow.errors import DatasetError
from nbflow.testing.backends import BackendContract


class TestPaced(BackendContract):
    """The backend keeps the promises that nbflow makes for every backend."""

    @pytest.fixture
    def backend_class(self) -> type[PacedBackend]:
        return PacedBackend


@task
def where(n: int) -> tuple[int, str, float]:
    return n, threading.current_thread().name, time.monotonic()


def test_backend_is_found_by_name_and_keeps_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls never begin closer together than they may, whatever the machine does."""
    monkeypatch.setenv("PACED_PER_SECOND", "20")
    with session(backend="paced"):
        found = map_tasks(where, range(6))
    assert [number for number, _, _ in found] == list(range(6))
    assert all(name.startswith("paced") for _, name, _ in found)
    begun = sorted(at for _, _, at in found)
    assert begun[-1] - begun[0] >= 4 / 20


def test_format_is_found_by_extension(tmp_path: Path) -> None:
    """A list becomes lines; options are those of the constructor; what JSON cannot hold is an error."""
    with session(dataset_store=tmp_path):
        save_dataset("found.jsonl", [{"b": 1, "a": 2}, "x\u2028y"], options={"sort_keys": True})
        assert (tmp_path / "found.jsonl").read_text().splitlines()[0] == '{"a": 2, "b": 1}'
        assert load_dataset("found.jsonl") == [{"b": 1, "a": 2}, "x\u2028y"]
        with pytest.raises(DatasetError, match="jsonlines"):
            save_dataset("bad.jsonl", [object()])
    assert not (tmp_path / "bad.jsonl").exists()


def test_hook_is_called_in_every_session() -> None:
    """Nobody has registered it."""
    with session():
        where(1)
    assert "where" in [name for name, _ in slowest_calls()]


def test_doctor_lists_all_three(tmp_path: Path) -> None:
    """`nbflow doctor` says that they can be loaded."""
    env = {**os.environ, "NBFLOW_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "nbflow", "doctor"], capture_output=True, text=True, env=env, check=False
    )
    for name in ("paced (nbflow.backends", "jsonlines (nbflow.datasets", "slowest (nbflow.hooks"):
        assert f"ok  plug-in {name}" in done.stdout
    assert "paced" in done.stdout.split("ok  backends: ")[1].splitlines()[0]
