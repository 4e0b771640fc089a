"""Files of a shared store: whole or not there, in folders, in memory, in a zip."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from nbflow.cache.remote import Place, is_zip
from nbflow.errors import CacheError


@pytest.fixture(params=["folder", "memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    urls = {"folder": str(tmp_path / "p"), "memory": f"memory://{tmp_path.name}", "file": f"file://{tmp_path}/p"}
    return Place(urls[request.param])


@pytest.mark.parametrize("large", [False, True])
def test_written_is_read(place: Place, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one piece or several, through memory or through files; a second write replaces the first."""
    if large:
        monkeypatch.setattr("nbflow.cache.remote._LARGE", 4)
    assert not place.has("a/b")
    with pytest.raises(FileNotFoundError):
        place.read("a/b")
    place.write("a/b", [b"one", b"", memoryview(b" two")])
    assert place.has("a/b")
    assert place.read("a/b") == b"one two"
    place.write("a/b", [b"three"])
    with place.fetched("a/b", 5) as view:
        assert bytes(view) == b"three"
        view[0] = 0  # ours alone
    assert place.read("a/b") == b"three"
    place.write("a/c", [b"12345"])
    assert place.names("a/") == ["a/b", "a/c"]
    with pytest.raises(FileNotFoundError), place.fetched("a/d", 5):
        pass


@pytest.mark.parametrize("large", [False, True])
def test_a_failed_write_leaves_no_trace(tmp_path: Path, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither half a file nor one beside it."""
    monkeypatch.setattr("nbflow.cache.remote._LARGE", 4 if large else 100)
    place = Place(str(tmp_path / "p"))
    place.write("a/b", [b"old one"])

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        place.write("a/b", [b"new one"])
    monkeypatch.undo()
    assert place.read("a/b") == b"old one"
    assert place.names("") == ["a/b"]


def test_a_zip_is_only_read(tmp_path: Path) -> None:
    """Its members are files; it is never written, and a new one in its place is seen by a new place."""
    path = tmp_path / "b.zip"
    for text in (b"one", b"two"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("keys/ab/cd", text)
        place = Place(str(path))
        assert place.readonly
        assert place.read("keys/ab/cd") == text
        assert place.names("keys/") == ["keys/ab/cd"]
        with pytest.raises(PermissionError):
            place.write("x", [b""])
    with pytest.raises(CacheError, match="There is no bundle"):
        Place(str(tmp_path / "none.zip")).read("x")


def test_what_is_a_zip() -> None:
    """By its name, wherever it is."""
    found = [is_zip(url) for url in ("b.zip", "https://x/B.ZIP", "zip://::b.zip", "folder", "s3://x/zip")]
    assert found == [True, True, True, False, False]
