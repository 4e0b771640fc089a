"""The files of a store: written whole or not at all, once for equal content, and kept out of the way when damaged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nbflow.cache import files as module
from nbflow.cache.files import Files

NAME = "ab" * 16


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A folder with a place for files."""
    (tmp_path / "blobs").mkdir()
    return Files(str(tmp_path))


def test_a_file_is_written_once(files: Files) -> None:
    """What was seen sound is not written again; what somebody changed is."""
    stamp = files.write(NAME, (b"a", b"bc"), 3)
    assert files.is_sound(NAME, stamp)
    assert files.write(NAME, (b"never", b"written"), 12) == stamp
    view, seen = files.map(NAME, shared=True)
    assert (bytes(view), seen) == (b"abc", stamp)
    view.release()
    Path(files.path(NAME)).write_bytes(b"other")
    files.write(NAME, (b"abc",), 3)
    assert Path(files.path(NAME)).read_bytes() == b"abc"
    files.remove([NAME, "cd" * 16])
    assert not files.exists(NAME)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room cannot be made here")
def test_room_is_made_first(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without room for a large file says so before anything is written, and nothing is left."""
    size = module._RESERVED
    asked: list[int] = []
    real = os.posix_fallocate
    monkeypatch.setattr(
        os, "posix_fallocate", lambda file, begin, count: asked.append(count) or real(file, begin, count)
    )
    files.write(NAME, (bytes(size),), size)
    assert asked == [size]
    assert os.stat(files.path(NAME)).st_size == size
    files.remove([NAME])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        files.write(NAME, (bytes(size),), size)
    assert not list(Path(files.path(NAME)).parent.iterdir())
