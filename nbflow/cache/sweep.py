"""Removing results from a shared place: by their own limit, by age, by size, and what nothing leads to any more.

Only files that this package wrote are touched: a name of its form and, for an envelope, its first bytes. Envelopes go
before the blobs that they need, so whoever reads meanwhile finds a whole result or none; a sweep that was cut short
leaves blobs without an envelope, which the next one removes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from nbflow.cache.blob import Damaged
from nbflow.cache.envelope import is_blob_name, key_of_name, peek_envelope
from nbflow.cache.remote import Place
from nbflow.storage.base import FileFacts
from nbflow.storage.keys import TEMPORARY_SUFFIX

__all__ = ["Swept", "sweep"]

_GRACE_S: Final = 86400.0  # a blob is sent before its envelope, and clocks differ: younger ones may still be needed
_AT_ONCE: Final = 16  # requests; a place far away answers each of them late
_HALF_WRITTEN = re.compile(
    rf"(keys/[0-9a-f]{{2}}|blobs/[0-9a-f]{{16}}/[0-9a-f]{{2}})/\.(nbflow-\w+|[0-9a-f]{{16}}{re.escape(TEMPORARY_SUFFIX)})"
)


class Swept(NamedTuple):
    """What was removed from a shared place (or would be), and what is left of nbflow's files there.

    `removed` and `left` count results, the other two are bytes. Blobs without a result count as bytes alone.
    """

    removed: int
    removed_bytes: int
    left: int
    left_bytes: int


class _Entry(NamedTuple):
    """One envelope: when its result was computed, its own limit, and the blob that it needs."""

    created: float
    ttl: float | None
    name: str
    blob: str | None


def sweep(place: Place, now: float, max_bytes: int | None, older_s: float | None, dry_run: bool) -> Swept:
    """Remove results from a place, and what nothing leads to; blocks until it is done.

    Args:
        place: Where; it is listed once, and each envelope in it is read.
        now: Seconds since 1970.
        max_bytes: Keep at most so much: those computed first go first. None for no limit.
        older_s: Remove what was computed more than so many seconds ago; None for no limit.
        dry_run: Remove nothing.

    Raises:
        OSError: What the file system raises; what was removed until then stays removed.
    """
    files = {name: facts for name, facts in place.listing().items() if _is_ours(name)}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="nbflow-sweep") as pool:
        envelopes = [name for name in files if key_of_name(name)]
        found = list(pool.map(lambda name: _entry(place, name), envelopes))
        entries = sorted((entry for entry in found if entry is not None), key=lambda entry: (entry.created, entry.name))
        for name, entry in zip(envelopes, found, strict=True):
            if entry is None:  # gone meanwhile, or somebody else's file
                del files[name]
        kept = _kept(entries, files, now, max_bytes, older_s)
        names = {entry.name for entry in kept}
        needed = {entry.blob for entry in kept}
        first = [entry.name for entry in entries if entry.name not in names]
        let_go = {entry.blob for entry in entries} - needed
        rest = [name for name in files if name not in needed and (name in let_go or _is_lost(name, files[name], now))]
        if not dry_run:
            for group in (first, rest):
                for _ in pool.map(place.remove, group):  # waits, and raises what went wrong
                    pass
    gone = _bytes([*first, *rest], files)
    return Swept(len(first), gone, len(kept), _bytes(files, files) - gone)


def _is_ours(name: str) -> bool:
    return key_of_name(name) is not None or is_blob_name(name) or _HALF_WRITTEN.fullmatch(name) is not None


def _is_lost(name: str, facts: FileFacts, now: float) -> bool:
    """Return whether nothing can lead to a file any more that no result needs."""
    return key_of_name(name) is None and facts.modified is not None and now - facts.modified > _GRACE_S


def _entry(place: Place, name: str) -> _Entry | None:
    try:
        record, blob = peek_envelope(place.read(name))
    except (FileNotFoundError, Damaged):
        return None
    return _Entry(record.created, record.ttl, name, blob)


def _kept(
    entries: list[_Entry], files: dict[str, FileFacts], now: float, max_bytes: int | None, older_s: float | None
) -> list[_Entry]:
    """Return those of `entries` (oldest first) that stay."""
    limits = [(entry, [limit for limit in (entry.ttl, older_s) if limit is not None]) for entry in entries]
    kept = [entry for entry, limit in limits if not limit or now - entry.created <= min(limit)]
    if max_bytes is None:
        return kept
    users = Counter(entry.blob for entry in kept if entry.blob is not None and entry.blob in files)
    size = _bytes([*(entry.name for entry in kept), *users], files)
    gone = 0
    while size > max_bytes:
        _, _, name, blob = kept[gone]
        gone += 1
        size -= files[name].size_bytes
        if blob in files:
            users[blob] -= 1
            if not users[blob]:  # the last that needed it
                size -= files[blob].size_bytes
    return kept[gone:]


def _bytes(names: Iterable[str], files: dict[str, FileFacts]) -> int:
    return sum(files[name].size_bytes for name in names)
