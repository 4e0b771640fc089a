"""What a cache key is made of: named parts, each with its digest, and the key that they add up to.

The parts are kept beside every stored result, because a question like "why did this run again?" is answered by
comparing them. A part is digested on its own and never contains another part, so one edit changes one part.
`short_text` writes small values the way people recognise them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from functools import lru_cache

from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from nbflow._typing import Any, NamedTuple
from nbflow._util import one_line
from nbflow.cache import memo
from nbflow.errors import NbflowError

__all__ = [
    "KEY_FORMAT",
    "LEAD",
    "PACKED_FROM",
    "CacheKey",
    "Fingerprint",
    "KeyPart",
    "Undigestable",
    "combine",
    "framed",
    "hashed",
    "part_bytes",
    "part_head",
    "short_text",
    "text_bytes",
]

KEY_FORMAT = b"nbflow-key-4"
"""Names how keys are made; any change of a digest changes it, so that old entries are left alone instead of misread."""


class Undigestable(NbflowError, TypeError):
    """A value has no digest that would mean the same tomorrow.

    Attributes:
        path: Where inside the value, as Python would write it (`".lock"`, `"[3]['file']"`); empty for the value itself.
        reason: What is there and why it cannot be digested.
    """

    path: str
    reason: str

    def __init__(self, path: str = "", reason: str = "") -> None:
        super().__init__(f"{path or 'the value'} cannot be digested: {reason}", path=path, reason=reason)

    def under(self, step: str) -> Undigestable:
        """Return the same fault as seen from one level further out."""
        return Undigestable(step + self.path, self.reason)

    def __reduce__(self) -> tuple[Any, ...]:
        return Undigestable, (self.path, self.reason)


class KeyPart(NamedTuple):
    """One thing that a key depends on.

    Attributes:
        kind: "code", "closure", "default", "global", "helper", "class", "module", "argument", "input", "version",
            "depends" or "format".
        name: Name that the user knows it by.
        digest: Digest of this part alone, 32 hex digits.
        text: A small value as text, else its type and size.
        where: The cell or file it comes from.
    """

    kind: str
    name: str
    digest: str
    text: str = ""
    where: str = ""


LEAD = KeyPart("reads", "", "")
"""Marks an entry that is no result itself but leads to one: it names the files that a call read."""


class CacheKey(NamedTuple):
    """The key of one call.

    Attributes:
        digest: 32 lower-case hex digits.
        task: Name of the task (template unfilled) or cell.
        scope: "disk", or "session" where the entry may only live in the memory of this session.
        parts: What the key was made of.
        notes: Why it is session-only, in words that name argument and path.
    """

    digest: str
    task: str
    scope: str = "disk"
    parts: tuple[KeyPart, ...] = ()
    notes: tuple[str, ...] = ()


class Fingerprint(NamedTuple):
    """What a piece of code is: its digest, the parts that it reaches, and what of them could not be digested."""

    digest: str
    parts: tuple[KeyPart, ...] = ()
    notes: tuple[str, ...] = ()


def hashed(tag: bytes, *pieces: bytes) -> bytes:
    """Return `tag` and 16 bytes that stand for the pieces, each counted with its length."""
    return tag + xxh3_128_digest(b"".join(map(framed, pieces)))


def framed(data: bytes) -> bytes:
    """Return `data` behind its length, so that neighbours cannot run into each other."""
    return struct.pack("<Q", len(data)) + data


PACKED_FROM = 8
"""Members from which a sequence of simple types is packed, see `packed`."""

_INLINE = 256  # bytes of a text that are written out; longer ones are hashed


def text_bytes(value: str) -> bytes:
    """Encode an exact `str`."""
    if len(value) >= memo.LARGE and (known := memo.recall(value)) is not None:
        return known
    data = value.encode("utf-8", "surrogatepass")
    if len(data) > _INLINE:
        return b"S" + xxh3_128_digest(data)
    return b"s%x:" % len(data) + data


@lru_cache(maxsize=4096)
def part_head(kind: str, name: str, length: int = 32) -> bytes:
    """Return the bytes with which those of a part begin; no head begins with another one."""
    return framed(f"{kind}\0{name}".encode("utf-8", "surrogatepass")) + b"%d:" % length


def part_bytes(kind: str, name: str, digest: str) -> bytes:
    """Return the bytes by which a part enters a key; text and place are for people and do not count."""
    return part_head(kind, name, len(digest)) + digest.encode()


def combine(chunks: Iterable[bytes]) -> str:
    """Return the digest of parts in any order."""
    return xxh3_128_hexdigest(KEY_FORMAT + b"".join(sorted(chunks)))


def _short_container(value: Any) -> str:
    if len(value) <= 8:
        members = [*value.keys(), *value.values()] if type(value) is dict else list(value)
        if all(type(member) in _SHORT for member in members) and len(text := repr(value)) <= _LIMIT:
            return text
    return f"{type(value).__name__} of {len(value)}"


_SHORT = frozenset({int, float, complex, bool, str, bytes, type(None)})
_LIMIT = 60
_SMALL = 10**15


def short_text(value: Any) -> str:
    """Return a small value as Python writes it, else its type and size (`"DataFrame 336776×19"`); never raises."""
    kind = type(value)
    if kind is float or kind is bool or value is None or (kind is int and -_SMALL < value < _SMALL):
        return repr(value)
    if kind in _SHORT:
        if isinstance(value, (str, bytes)) and len(value) > _LIMIT:
            return f"{value[: _LIMIT - 1]!r}…"
        if isinstance(value, int) and value.bit_length() > 200:
            return f"int of {value.bit_length()} bits"
        text = repr(value)
        return text if len(text) <= _LIMIT + 8 else text[:_LIMIT] + "…"
    try:
        shape = getattr(value, "shape", None) if hasattr(kind, "shape") else None  # `__getattr__` may do anything
        if isinstance(shape, tuple) and shape:
            return f"{kind.__name__} {'×'.join(map(str, shape))}"
        if kind in (list, tuple, set, frozenset, dict):
            return _short_container(value)
        if callable(value) and hasattr(value, "__qualname__"):
            return str(value.__qualname__)
        if isinstance(value, os.PathLike) and len(text := repr(value)) <= _LIMIT + 8:
            return text
    except Exception as error:  # a property of the user's object failed
        return f"{kind.__name__} ({one_line(error, 40)})"
    return kind.__name__
