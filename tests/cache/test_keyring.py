"""Named keys: made, handed over, and asked whose results may be opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nbflow.cache.keyring import Trust, add_key, find_key, make_key, ring, ring_folder
from nbflow.cache.trust import make_signer
from nbflow.errors import CacheError


def test_a_key_is_for_its_user_only(tmp_path: Path) -> None:
    """The file is private, its text says what it is, and its name and id come back."""
    key = make_key("team")
    assert key.path == ring_folder() / "team.key"
    if os.name == "posix":
        assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(key.path.parent.stat().st_mode) == 0o700
    assert key.path.read_text().startswith("# A key of nbflow.")
    found = find_key("team")
    assert (found.name, found.id) == ("team", key.id)
    assert found.signer.sign(b"x") == key.signer.sign(b"x")
    assert [each.name for each in ring()] == ["team"]
    assert make_key("other", tmp_path / "deep" / "other.key").id != key.id
    assert [each.name for each in ring()] == ["team"]


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    """Neither by a new one nor by another of the same name."""
    key = make_key("team")
    with pytest.raises(CacheError, match="There is a key in .* already"):
        make_key("team")
    stranger = make_key("team", tmp_path / "theirs.key")
    with pytest.raises(CacheError, match="There is another key called 'team'"):
        add_key(stranger.path)
    assert find_key("team").id == key.id
    assert add_key(stranger.path, "theirs").id == stranger.id
    assert add_key(stranger.path, "theirs").id == stranger.id  # again: nothing to do
    assert {each.name for each in ring()} == {"team", "theirs"}


@pytest.mark.parametrize("name", ["", "a b", "../x", "own", ".hidden", "a/b", "x" * 65])
def test_names_that_are_none(name: str) -> None:
    """A name is a file name everywhere, and not that of the user's own key."""
    with pytest.raises(CacheError, match="no name for a key"):
        make_key(name)


@pytest.mark.parametrize("text", ["", "secret", "nbflow-key-1:team:abc", "nbflow-key-1:team:" + "0" * 64 + "\nmore"])
def test_files_that_hold_no_key(text: str, tmp_path: Path) -> None:
    """A file that is no key is refused by name, and skipped in the ring."""
    path = tmp_path / "x.key"
    path.write_text(text)
    with pytest.raises(CacheError, match=r"x\.key is no key of nbflow"):
        add_key(path)
    with pytest.raises(CacheError, match="cannot be read"):
        add_key(tmp_path / "none.key")
    ring_folder().mkdir(parents=True)
    (ring_folder() / "bad.key").write_text(text)
    assert ring() == []


def test_finding(tmp_path: Path) -> None:
    """By name, by path, and the user's own; a missing one says what to do."""
    with pytest.raises(CacheError, match="nbflow cache key new team"):
        find_key("team")
    with pytest.raises(CacheError, match="You have no key yet"):
        find_key("own")
    assert find_key("own", make=True).name == "own"
    made = find_key(str(tmp_path / "warm up.key"), make=True)
    assert made.name == "warm-up"
    assert find_key(str(tmp_path / "warm up.key"), make=True).id == made.id


def test_trust(tmp_path: Path) -> None:
    """The user's own key always, the whole ring unless named, and nobody else; what is missing is told, not raised."""
    make_signer()
    own, team, ci = find_key("own"), make_key("team"), make_key("ci", tmp_path / "ci.key")
    everybody = Trust()
    assert everybody.get(own.id) is not None
    assert everybody.get(team.id) is not None
    assert everybody.get(ci.id) is None
    some = Trust([str(ci.path), "stranger"])
    assert some.get(ci.id) is not None
    assert some.get(team.id) is None
    assert some.get(own.id) is not None
    assert "stranger" in some.missing[0]
    assert [key.id for key in some] == [ci.id]


def test_ids_tell_nothing_of_the_key() -> None:
    """An id is no part of the secret."""
    key = make_key("team")
    assert len(key.id) == 16
    assert key.id not in key.path.read_text()
