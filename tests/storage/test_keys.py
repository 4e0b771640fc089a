"""`check_key`: spelling, refusals and what they say."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import pytest

from nbflow.errors import DatasetError
from nbflow.storage import check_key, keys


@pytest.mark.parametrize(
    ("key", "spelling"),
    [
        ("a.csv", "a.csv"),
        ("./a//b/./c.csv", "a/b/c.csv"),
        (PurePosixPath("a/b.csv"), "a/b.csv"),
        (PureWindowsPath("a\\b.csv"), "a/b.csv"),
        ("a:b.csv"[2:], "b.csv"),
        ("2013-01-01T12:00.csv", "2013-01-01T12:00.csv"),
        ("console.csv", "console.csv"),
        ("com10.csv", "com10.csv"),
    ],
)
def test_canonical(key: Any, spelling: str) -> None:
    """A good key has one spelling, whatever it was made of."""
    assert check_key(key) == spelling


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("", "is empty"),
        ("../x", "contains '..'"),
        ("/x", "absolute"),
        ("C:/x", "absolute"),
        ("s3://b/x", "URL"),
        ("a\\b", "backslash"),
        ("~/x", "home folder"),
        ("a\0b", "control character"),
        ("x/", "names a folder"),
        (".", "the folder itself"),
        ("aux.csv", "device"),
        ("a. ", "Windows drops"),
        ("n" * 300, "300 bytes"),
        ("a/" * 700 + "b", "1401 bytes"),
        (7, "of type int"),
    ],
)
def test_refusal_names_value_reason_next_step(key: Any, reason: str) -> None:
    """The message shows the key (shortened), why it is refused, and what to use instead."""
    with pytest.raises(DatasetError) as caught:
        check_key(key)
    message = str(caught.value)
    assert reason in message
    assert repr(key)[:40] in message
    assert "Use a relative name" in message
    assert len(message) < 400
    assert caught.value.reason in message  # type: ignore[attr-defined]


def test_opt_out_is_offered_where_it_helps() -> None:
    """`allow_outside` is only mentioned for keys that it would accept."""
    with pytest.raises(DatasetError, match="allow_outside=True"):
        check_key("../x")
    with pytest.raises(DatasetError) as caught:
        check_key("a\0b")
    assert "allow_outside" not in str(caught.value)


def test_allow_outside_keeps_the_text() -> None:
    """Keys that may lead outside are not changed."""
    assert check_key("../a//b", allow_outside=True) == "../a//b"


def test_windows_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, signs that its names cannot hold are refused instead of opening a hidden stream."""
    with monkeypatch.context() as patch, pytest.raises(DatasetError) as caught:
        patch.setattr(keys.os, "name", "nt")
        check_key("notes.txt:hidden")
    assert "':'" in str(caught.value)
