"""Entry points of ours that installed packages declare, and what is remembered of folders that have none."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nbflow import _installed

GROUP = "nbflow.hooks"
LONG_AGO_NS = 1_700_000_000 * 10**9


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """What makes this process forget what it knows, as if it had just begun; its file is in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def forget() -> None:
        monkeypatch.setattr(_installed, "_seen", None)

    forget()
    return forget


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with many packages, the only one on the path, which changed long ago."""
    folder = tmp_path / "site-packages"
    for number in range(_installed._MANY):
        add(folder, f"package{number}")
    monkeypatch.setattr(sys, "path", [str(folder)])
    age(folder)
    return folder


def add(folder: Path, name: str, points: str = "[console_scripts]\nrun = a:b\n") -> Path:
    """Install a package that declares these entry points."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    return info


def age(folder: Path, days: int = 0) -> None:
    """Say that a folder changed long ago."""
    time_ns = LONG_AGO_NS + days * 86_400 * 10**9
    os.utime(folder, ns=(time_ns, time_ns))


def found() -> list[str]:
    """Return the names of our entry points."""
    return [point.name for point in _installed.entry_points(GROUP)]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("group", ["[nbflow.hooks]", "[nbflow.hooks]  "])
def test_they_are_sorted_and_of_the_group(packages: Path, group: str) -> None:
    """What packages declare for the group is found, by name, and what they declare for others is not."""
    add(packages, "one", f"{group}\nb = x:y\n[nbflow.digests]\nnumbers = x:z\n")
    add(packages, "two", f"[console_scripts]\nc = x:y\n{group}\na = x:y\n")
    assert found() == ["a", "b"]
    assert [point.name for point in _installed.entry_points("nbflow.digests")] == ["numbers"]
    assert _installed.entry_points("nbflow.datasets") == []


@pytest.mark.usefixtures("fresh")
def test_a_list_of_entry_points_is_read_to_its_end(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long one is read in pieces, and the name of the group may lie across two of them."""
    monkeypatch.setattr(_installed, "_CHUNK", 7)
    add(packages, "one", "[console_scripts]\nc = x:y\n[nbflow.hooks]\na = x:y\n")
    assert found() == ["a"]


def test_without_them_nothing_slow_is_imported(
    packages: Path, fresh: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later process does not even look into a folder that did not change since."""
    monkeypatch.setitem(sys.modules, "importlib.metadata", None)
    assert found() == []
    fresh()
    monkeypatch.setattr(_installed, "_look_into", lambda folder: pytest.fail(f"looked into {folder}"))
    assert found() == []


def test_what_is_declared_is_remembered_too(packages: Path, fresh: Callable[[], None]) -> None:
    """A later process finds what an unchanged folder declares."""
    add(packages, "one", "[nbflow.hooks]\na = x:y\n")
    age(packages)
    assert found() == ["a"]
    fresh()
    assert found() == ["a"]


@pytest.mark.parametrize("again", [False, True], ids=["this process", "another process"])
def test_a_package_that_comes_and_goes(packages: Path, fresh: Callable[[], None], again: bool) -> None:
    """It is found as soon as it is installed, and forgotten when it is removed, also in a process that goes on."""
    assert found() == []
    added = add(packages, "one", "[nbflow.hooks]\na = x:y\n")
    age(packages, days=1)
    if again:
        fresh()
    assert found() == ["a"]
    shutil.rmtree(added)
    age(packages, days=2)
    if again:
        fresh()
    assert found() == []


def test_what_changes_at_this_moment_is_not_remembered(packages: Path, fresh: Callable[[], None]) -> None:
    """A folder that just changed may change again within the same tick of its file system's clock."""
    os.utime(packages)
    assert found() == []
    before = packages.stat()
    add(packages, "one", "[nbflow.hooks]\na = x:y\n")
    os.utime(packages, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert found() == ["a"]
    fresh()
    assert found() == ["a"]


def test_folders_that_are_gone_are_forgotten(packages: Path, fresh: Callable[[], None], tmp_path: Path) -> None:
    """The file grows with the environments that there are, not with those that there were."""
    assert found() == []
    moved = tmp_path / "moved"
    packages.rename(moved)
    sys.path[:] = [str(moved)]
    fresh()
    assert found() == []
    text = (tmp_path / "cache" / "nbflow" / "entry-points").read_text(encoding="utf-8")
    assert str(moved) in text
    assert str(packages) not in text


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("text", ["nonsense\n\n\t\t\n1\t", "x\t\t/a/b\n", "\0"])
def test_a_damaged_file_says_nothing(fresh: Callable[[], None], tmp_path: Path, text: str) -> None:
    """Lines that cannot be read are as good as none, and the file is written anew."""
    place = tmp_path / "cache" / "nbflow" / "entry-points"
    place.parent.mkdir(parents=True)
    place.write_text(text, encoding="utf-8")
    assert found() == []
    fresh()
    assert _installed._recall().keys() == set(sys.path)


@pytest.mark.usefixtures("fresh")
def test_who_cannot_write_looks_again(packages: Path, tmp_path: Path) -> None:
    """Where there is no place for the file, all works, and nothing is left there."""
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    assert found() == []
    add(packages, "one", "[nbflow.hooks]\na = x:y\n")
    assert found() == ["a"]


@pytest.mark.usefixtures("fresh")
def test_a_path_with_things_that_are_no_folders(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives, files and names of nothing on the path are passed by."""
    add(packages, "one", "[nbflow.hooks]\na = x:y\n")
    monkeypatch.setattr(sys, "path", ["", __file__, "/nowhere", str(packages)])
    assert found() == ["a"]
