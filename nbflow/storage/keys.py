"""Which keys a driver accepts, decided on the text of the key alone.

A key is a relative name that means the same on every machine: so `..`, absolute paths and URLs are refused, and so are
names that some system reads as something else than a file (`aux.csv`, a trailing dot, a backslash). What a symbolic
link below the folder does to a good key is not seen here; `local` looks at that.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePath
from typing import Final

from nbflow.errors import DatasetError

__all__ = ["TEMPORARY_SUFFIX", "check_key", "refusal"]

MAX_KEY_BYTES: Final = 1024  # the longest key of S3, the narrowest of the common stores
MAX_PART_BYTES: Final = 255  # the longest file name of the common file systems
TEMPORARY_SUFFIX: Final = ".nbflow-tmp"  # ends the names of half-written files, which no key can reach

_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul", "conin$", "conout$"}
    | {f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"}
)
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_WINDOWS_ONLY: Final = frozenset('<>:"|?*')
_SHOWN: Final = 80


def check_key(key: str | PurePath, *, allow_outside: bool = False) -> str:
    """Return `key` in its one canonical spelling, or refuse it.

    Args:
        key: A relative name with `/` between its parts; `.` and empty parts are dropped.
        allow_outside: Accept `..`, absolute paths and URLs, too, and return them as they are.

    Returns:
        The key to use.

    Raises:
        DatasetError: The key is refused; the message says why, `reason` holds the same in short.
    """
    text = key.as_posix() if isinstance(key, PurePath) else key
    if not isinstance(text, str):
        raise refusal(text, f"is of type {type(text).__name__}, not text")
    if (reason := _unusable(text)) is not None:
        raise refusal(key, reason)
    if allow_outside:
        return text
    parts = [part for part in text.split("/") if part not in ("", ".")]
    spelling = "/".join(parts)
    # Twice, because dropping parts can bring a drive or a home folder to the front: './~/x'.
    if (reason := _outside(text) or _outside(spelling)) is not None:
        raise refusal(key, reason, outside=True)
    if not parts:
        raise refusal(key, "names the folder itself")
    if (reason := _unusable(spelling)) is not None:  # 'x.nbflow-tmp/.' ends in no reserved name, but means one
        raise refusal(key, reason)
    for part in parts:
        if (reason := _bad_part(part)) is not None:
            raise refusal(key, reason)
    return spelling


def refusal(key: object, reason: str, *, outside: bool = False) -> DatasetError:
    """Return the error for a key that is refused because it `reason` ("is empty").

    Args:
        key: The key as it was given.
        reason: What it does wrong, to follow "it".
        outside: Whether `allow_outside` would accept it.
    """
    shown = repr(str(key) if isinstance(key, PurePath) else key)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}…"
    advice = "Use a relative name such as 'results/table.csv'"
    if outside:
        advice += ", or allow_outside=True if this place is meant"
    return DatasetError(f"Dataset key {shown} is refused: it {reason}. {advice}.", key=str(key), reason=reason)


def _unusable(text: str) -> str | None:
    """Say why no file system could use `text`, wherever it leads."""
    if not text.strip():
        return "is empty"
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        return "contains a control character"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "contains a lone surrogate, which is not text"
    if size > MAX_KEY_BYTES:
        return f"is {size} bytes long, more than {MAX_KEY_BYTES}"
    if text.endswith("/"):
        return "ends in '/', so it names a folder"
    if text.endswith(TEMPORARY_SUFFIX):
        return f"ends in {TEMPORARY_SUFFIX!r}, the mark of half-written files"
    return None


def _outside(text: str) -> str | None:
    """Say why `text` would not be a name below the folder."""
    if "://" in text:
        return "is a URL"
    if "\\" in text:
        return "contains a backslash (use '/' between parts)"
    if text.startswith("/") or _DRIVE.match(text):
        return "is an absolute path"
    if text.startswith("~"):
        return "starts with '~', which stands for a home folder"
    if ".." in text.split("/"):
        return "contains '..'"
    return None


def _bad_part(part: str) -> str | None:
    """Say why `part` is not a file name everywhere; refused on all systems, so that a notebook keeps its keys."""
    if part[-1] in ". ":
        return f"has a part that ends in a dot or space, {part!r}, which Windows drops"
    if part.partition(".")[0].rstrip(" ").casefold() in _DEVICES:
        return f"has a part, {part!r}, that is the name of a device on Windows"
    if (size := len(part.encode())) > MAX_PART_BYTES:
        return f"has a part of {size} bytes, more than {MAX_PART_BYTES}"
    if os.name == "nt" and (bad := sorted(_WINDOWS_ONLY.intersection(part))):
        return f"contains {bad[0]!r}, which Windows does not allow in names"
    return None
