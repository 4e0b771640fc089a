"""Whose entries may be opened.

A pickle is code, so nothing is unpickled that was not written under the user's own key. The key is 32 random bytes in
a file that only the user can read (`NBFLOW_KEY_FILE`, else `nbflow/key` in the configuration folder), made when the
first entry is saved. It never travels with a store: a store that was copied here from elsewhere has no entries for
us.
"""

from __future__ import annotations

import os
import threading

from nbflow._typing import TYPE_CHECKING
from nbflow.errors import CacheError

if TYPE_CHECKING:
    from pathlib import Path  # a hit needs the key, but no path objects

__all__ = ["KEY_BYTES", "MAC_BYTES", "Signer", "key_file", "load_signer", "make_signer", "own_secret", "publish"]

MAC_BYTES = 32
KEY_BYTES = 32
_loaded: dict[str, Signer] = {}
_lock = threading.Lock()


def key_file() -> Path:
    """Return where the user's key is, or will be."""
    from pathlib import Path

    return Path(_key_place())


def _key_place() -> str:
    if named := os.environ.get("NBFLOW_KEY_FILE"):
        return os.path.expanduser(named)
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return os.path.join(base, "nbflow", "key")


def load_signer() -> Signer | None:
    """Return the signer of the user's key, or None where there is none that can be used."""
    place = _key_place()
    known = _loaded.get(place)
    if known is None:
        secret = own_secret()
        if secret is None:
            return None
        known = _loaded[place] = Signer(secret)
    return known


def own_secret() -> bytes | None:
    """Return the user's key itself, or None where there is none that can be used."""
    try:
        with open(_key_place(), "rb") as stream:
            data = stream.read()
    except OSError:
        return None
    return data if len(data) == KEY_BYTES else None


def make_signer() -> Signer:
    """Return the signer of the user's key, making the key first where there is none.

    Raises:
        CacheError: The file cannot be made, or holds something else.
    """
    with _lock:
        known = load_signer()
        if known is not None:
            return known
        path = key_file()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            publish(path, os.urandom(KEY_BYTES))
        except OSError as error:
            raise CacheError(
                f"The key that protects cached results cannot be made at {path} ({error}); set NBFLOW_KEY_FILE to a "
                "file that can be written."
            ) from None
        known = load_signer()
        if known is None:
            raise CacheError(
                f"{path} is not a key of {KEY_BYTES} bytes; remove it, or set NBFLOW_KEY_FILE to another file."
            )
        return known


def publish(path: Path, data: bytes) -> bool:
    """Write a file for its user only, unless there is one; return whether it was written.

    It is written beside and linked, so that of several processes one wins and none sees half a key.
    """
    beside = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        try:
            os.link(beside, path)
        except FileExistsError:
            return False
        except OSError:  # no hard links here
            if path.exists():
                return False
            os.replace(beside, path)
        return True
    finally:
        beside.unlink(missing_ok=True)


class Signer:
    """Makes keyed checksums (BLAKE2b); the key is prepared once."""

    __slots__ = ("_begin",)

    def __init__(self, key: bytes) -> None:
        try:
            from _blake2 import blake2b  # what hashlib has, without loading OpenSSL for it
        except ImportError:
            from hashlib import blake2b

        self._begin = blake2b(key=key, digest_size=MAC_BYTES)

    def sign(self, *pieces: bytes | memoryview) -> bytes:
        """Return the checksum of the pieces, joined."""
        state = self._begin.copy()
        for piece in pieces:
            state.update(piece)
        return state.digest()
