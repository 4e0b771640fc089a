"""Results of calls that read files: looked up and stored by what is in these files now.

The key of such a call leads to `Reads`, the names of the files; the key *with* a part for each file leads to the
result. So a changed file is a changed part, which `explain` names as any other, and a file that is put back finds the
old result again. A call that reads no file costs no second look.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nbflow._typing import TYPE_CHECKING, Any
from nbflow._util import lazy, one_line
from nbflow.cache.parts import LEAD, CacheKey, KeyPart, combine, part_bytes
from nbflow.cache.store import CacheStore, Found, Saved
from nbflow.core.reads import Reads

if TYPE_CHECKING:
    from nbflow.cache import filestate
    from nbflow.cache.filestate import FileState
else:
    filestate = lazy("nbflow.cache.filestate")  # most calls read no file

__all__ = ["FILE", "FileChanged", "fetch", "save", "states", "with_files"]

FILE = "file"
"""Kind of the parts that stand for files read at run time."""


class FileChanged(Exception):
    """A file changed between its digest and the end of the call, so nobody knows what the result was made from."""


def with_files(key: CacheKey, paths: Iterable[str]) -> CacheKey:
    """Return `key` with a part for each file as it is now; never raises.

    Args:
        key: The key of the call without files.
        paths: Files, folders and patterns, as the call named them.
    """
    return _joined(key, {path: _state(path) for path in paths})


def _state(path: str) -> FileState:
    try:
        return filestate.state_of(path)
    except Exception as error:  # the body will find the same, and tell
        return filestate.FileState("unreadable", one_line(error, 60))


def _joined(key: CacheKey, states: Mapping[str, FileState]) -> CacheKey:
    parts = tuple(KeyPart(FILE, path, states[path].digest, states[path].text) for path in sorted(states))
    if not parts:
        return key
    pieces = [key.digest.encode(), *(part_bytes(part.kind, part.name, part.digest) for part in parts)]
    return key._replace(digest=combine(pieces), parts=(*key.parts, *parts))


def states(key: CacheKey) -> dict[str, FileState]:
    """Return the files that a key was made with, as they were then."""
    return {part.name: filestate.FileState(part.digest, part.text) for part in key.parts if part.kind == FILE}


def fetch(store: CacheStore, key: CacheKey, *, ttl: float | None = None) -> tuple[CacheKey, Found | None]:
    """Look up a result, by the present state of the files that it was made from; never raises.

    Args:
        store: Where to look.
        key: The key without files.
        ttl: Seconds after which an entry is too old; None for its own limit.

    Returns:
        The key with files, and what is there.
    """
    found = store.fetch(key, ttl=ttl)
    if found is None or type(found.value) is not Reads:
        return key, found
    key = with_files(key, found.value.paths)
    return key, store.fetch(key, ttl=ttl)


def save(
    store: CacheStore, key: CacheKey, reads: Mapping[str, FileState], value: Any, **facts: Any
) -> tuple[CacheKey, Saved]:
    """Store a result under its key and the files that it was made from.

    Args:
        store: Where to.
        key: The key without files.
        reads: The files as they were when the call first touched them.
        value: The result.
        **facts: As for `CacheStore.save`.

    Returns:
        The key with files, and what became of the result.

    Raises:
        FileChanged: A file changed while the call ran, so nobody knows which state the result belongs to.
        Exception: As `CacheStore.save` does.
    """
    if not reads:
        return key, store.save(key, value, **facts)
    for path, state in reads.items():
        if _state(path).digest != state.digest:
            raise FileChanged(f"file `{path}` changed while it ran")
    full = _joined(key, reads)
    saved = store.save(full, value, **facts)
    # The result first: a list of files that leads to nothing would cost a look for nothing.
    facts.pop("readonly", None)
    store.save(key._replace(parts=(LEAD,)), Reads(tuple(sorted(reads))), **facts)
    return full, saved
