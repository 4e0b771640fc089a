"""Files that a call opens or names: what counts, and what was its own doing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbflow.cache.filestate import LISTED, state_of
from nbflow.runtime import opened
from nbflow.runtime.opened import Following, Watch, _is_data

BEFORE_NS = 10**9  # long before anything here is written


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(opened, "_foreign", lambda: ("/usr/", "/opt/"))  # these folders are temporary ones
    opened._is_data.cache_clear()
    path = tmp_path / "data.csv"
    path.write_text("1")
    os.utime(path, ns=(BEFORE_NS, BEFORE_NS))
    yield path
    opened._is_data.cache_clear()


def watch(found: dict[str, Any]) -> Watch:
    return Watch(Following((), time.time() * 1e9, os.getcwd()), found)


def test_what_is_only_named_counts_if_it_stays_what_it_is(data: Path) -> None:
    state = state_of("data.csv")
    found: dict[str, Any] = {}
    seen = watch(found)
    seen.named("data.csv")
    seen.named("nothing.csv")
    assert found == {}  # not before the end
    seen.end()
    assert found == {"data.csv": state}
    written: dict[str, Any] = {}
    seen = watch(written)
    seen.named("data.csv")
    data.write_text("22")
    seen.end()
    assert written == {}


def test_what_python_opens_counts_whatever_becomes_of_it(data: Path) -> None:
    """A file that is named, opened, and then changed by somebody else: its state differs when the result is stored."""
    state = state_of("data.csv")
    found: dict[str, Any] = {}
    seen = watch(found)
    seen.named("data.csv")
    seen.opened("data.csv", writes=False)
    data.write_text("22")
    seen.end()
    assert found == {"data.csv": state}
    seen = watch(found := {})
    seen.opened("data.csv", writes=True)
    seen.opened("data.csv", writes=False)
    seen.named("data.csv")
    seen.end()
    assert found == {}


def test_what_the_key_has_is_not_noted_again(data: Path) -> None:
    found: dict[str, Any] = {str(data): None}
    seen = watch(found)
    seen.opened("data.csv", writes=False)
    seen.named("data.csv")
    seen.end()
    assert found == {str(data): None}


@pytest.mark.parametrize(("shift_s", "counts"), [(-3600, True), (0, False), (3600, True)])
def test_files_of_the_past_and_of_the_future_are_nobodys_doing(data: Path, shift_s: int, counts: bool) -> None:
    """The clock of another machine may be ahead."""
    found: dict[str, Any] = {}
    seen = watch(found)
    when = int((time.time() + shift_s) * 1e9)
    os.utime(data, ns=(when, when))
    seen.opened("data.csv", writes=False)
    seen.end()
    assert (found == {"data.csv": state_of("data.csv")}) is counts


def test_paths_of_another_folder_are_whole(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "more.csv").write_text("2")
    os.utime(inner / "more.csv", ns=(BEFORE_NS, BEFORE_NS))
    found: dict[str, Any] = {}
    seen = watch(found)
    monkeypatch.chdir(inner)
    seen.opened("more.csv", writes=False)
    seen.opened("../data.csv", writes=False)
    seen.listed(".")
    seen.end()
    assert set(found) == {str(inner / "more.csv"), str(data), f"{inner}{LISTED}"}


def test_what_workers_heard_of(data: Path) -> None:
    """It counts as what was opened here, unless it was written here."""
    state = state_of("data.csv")
    found: dict[str, Any] = {}
    seen = watch(found)
    seen.opened("made.csv", writes=True)
    seen.heard({"data.csv": state, "made.csv": state, "." + LISTED: state})
    seen.end()
    assert found == {"data.csv": state}  # and the folder was written to


def test_databases_of_sqlite(data: Path) -> None:
    found: dict[str, Any] = {}
    seen = watch(found)
    for name in (":memory:", "", "file:data.csv?mode=ro"):
        seen.connected(name)
    seen.end()
    assert set(found) == {"data.csv", "data.csv-wal"}


@pytest.mark.parametrize(
    ("place", "counts"),
    [
        ("/home/me/data.csv", True),
        ("/home/me/.hidden/data.csv", False),
        ("/home/me/code.py", False),
        ("/mnt/data.csv", True),
        ("/usr/share/data.csv", False),
        ("/opt/app/data.csv", False),
        ("/opt/ml/input/data.csv", True),
    ],
)
@pytest.mark.usefixtures("data")
def test_what_may_be_data(place: str, counts: bool) -> None:
    assert _is_data(place, "/home/me", ()) is counts
