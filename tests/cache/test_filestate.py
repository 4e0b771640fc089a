"""What is in files: read when it may have changed, and only then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nbflow.cache import CacheStore, filestate
from nbflow.cache.filestate import MISSING, is_pattern, members, state_of
from nbflow.cache.parts import Undigestable


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are really read, in order."""
    seen: list[str] = []
    read = filestate._read

    def noting(path: str) -> str:
        seen.append(os.path.basename(path))
        return read(path)

    monkeypatch.setattr(filestate, "_read", noting)
    return seen


def _old(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an hour pass: to the file system that is when the file was modified."""
    now = os.stat(path).st_ctime_ns + 3600 * 10**9
    monkeypatch.setattr(filestate.time, "time_ns", lambda: now)


def test_a_settled_file_is_read_once(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Size, times and inode tell that it is the same; any write shows."""
    file = tmp_path / "a"
    file.write_bytes(b"12")
    _old(file, monkeypatch)
    first = state_of(str(file))
    assert state_of(str(file)) == first
    assert first.text == "2 B"
    assert reads == ["a"]
    file.write_bytes(b"13")
    assert state_of(str(file)).digest != first.digest
    assert reads == ["a", "a"]


def test_times_that_were_set_back_do_not_hide_a_change(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of the last change of the inode cannot be set, so `utime` does not fool us."""
    file = tmp_path / "a"
    file.write_bytes(b"12")
    status = os.stat(file)
    _old(file, monkeypatch)
    first = state_of(str(file))
    file.write_bytes(b"13")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert state_of(str(file)).digest != first.digest


def test_a_file_modified_just_now_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    """Within a tick of the clock a second change would leave no mark, so the stamp is not trusted yet."""
    file = tmp_path / "a"
    file.write_bytes(b"12")
    state_of(str(file))
    state_of(str(file))
    assert reads == ["a", "a"]


def test_large_files_are_streamed(tmp_path: Path) -> None:
    """The digest is that of all bytes, whatever the size of the pieces."""
    from xxhash import xxh3_128_hexdigest

    data = os.urandom(1024) * 3000 + b"end"
    (tmp_path / "a").write_bytes(data)
    assert state_of(str(tmp_path / "a")) == (xxh3_128_hexdigest(data), "3.1 MB")


def test_folders_count_by_names_and_contents(tmp_path: Path) -> None:
    """Renaming, moving between files and adding all count; the name of the folder itself does not."""
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a").write_text("ab")
        (tmp_path / name / "b").write_text("c")
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert state_of(one) == state_of(two)
    assert state_of(one).text == "2 files, 3 B"
    (tmp_path / "two" / "sub" / "a").write_text("a")
    (tmp_path / "two" / "b").write_text("bc")
    assert state_of(one).digest != state_of(two).digest
    before = state_of(one)
    os.rename(tmp_path / "one" / "b", tmp_path / "one" / "c")
    assert state_of(one).digest != before.digest


def test_links_in_a_circle_come_to_an_end(tmp_path: Path) -> None:
    """A folder that links to itself is walked once."""
    (tmp_path / "a").write_text("a")
    os.symlink(tmp_path, tmp_path / "again", target_is_directory=True)
    assert state_of(str(tmp_path)).text == "1 file, 1 B"


def test_patterns(tmp_path: Path) -> None:
    """A name with brackets that exists is a name; otherwise it is a pattern."""
    (tmp_path / "x[1].csv").write_text("a")
    (tmp_path / "x1.csv").write_text("b")
    assert not is_pattern(str(tmp_path / "x[1].csv"))
    assert is_pattern(str(tmp_path / "x[12].csv"))
    assert members(str(tmp_path / "x[12].csv")) == [str(tmp_path / "x1.csv")]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "y.csv").write_text("c")
    assert len(members(str(tmp_path / "**" / "*.csv"))) == 3
    assert state_of(str(tmp_path / "*.txt")) == (MISSING, MISSING)


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    """Absence is a state like any other."""
    assert state_of(str(tmp_path / "none")) == (MISSING, MISSING)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_not_read(tmp_path: Path) -> None:
    """A pipe would block, and is used up by reading."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Undigestable, match="no regular file"):
        state_of(str(tmp_path / "pipe"))


def test_large_files_are_not_read_by_the_next_process(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A settled digest is noted in the store, signed; the file is read again only when it has changed."""
    monkeypatch.setattr(filestate, "_NOTED", 2)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"12")
    _old(tmp_path / "a", monkeypatch)
    store = CacheStore(tmp_path / "cache")
    store.save("k", 1)
    first = state_of(str(tmp_path / "a"))
    store.close()
    filestate._seen.clear()
    again = CacheStore(tmp_path / "cache")
    assert state_of(str(tmp_path / "a")) == first
    assert reads == ["a"]
    (tmp_path / "a").write_bytes(b"13")
    filestate._seen.clear()
    assert state_of(str(tmp_path / "a")).digest != first.digest
    assert reads == ["a", "a"]
    again.close()
