"""Bundles: the results of a store, sealed by one key, as a zip file or a folder to take along.

A bundle has the layout of a shared store, so `cache_shared = "warm.zip"` serves from it as it is, and `load_bundle`
moves all of it into a local store. Made from the same results under the same key it is the same file, byte by byte, so
that it can be kept in version control.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbflow.cache.envelope import ENVELOPES, blob_name, envelope_name, is_key, key_of_name, pack_up
from nbflow.cache.keyring import NamedKey
from nbflow.cache.remote import Place, is_zip
from nbflow.cache.shared import SharedTier
from nbflow.cache.store import CacheStore
from nbflow.errors import CacheError

__all__ = ["Bundled", "load_bundle", "write_bundle"]

_EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in a zip, so that equal bundles are equal files
_Write = Callable[[str, Sequence[Any]], None]


@dataclass(frozen=True, slots=True)
class Bundled:
    """What went into a bundle, or came out of it.

    Args:
        count: Results that did.
        size_bytes: Bytes that they take.
        skipped: Results that did not, with the reason for each kind.
    """

    count: int
    size_bytes: int
    skipped: dict[str, int]


def write_bundle(store: CacheStore, out: Path, key: NamedKey, tasks: Iterable[str] | None = None) -> Bundled:
    """Write the results of a store into a bundle, replacing an older file of that name.

    Args:
        store: The store; its disk is read.
        out: A path that ends in `.zip`, or a folder, which gets the results in addition to those it has.
        key: The key that seals them.
        tasks: Names of the tasks whose results to take; None for all.

    Raises:
        CacheError: The store has no disk, or no result, or none of one of the tasks.
        OSError: The bundle cannot be written.
    """
    disk = _disk_of(store)
    wanted = None if tasks is None else list(tasks)
    entries = [info for info in store.entries(leads=True) if info.tier == "disk" and is_key(info.key)]
    if not entries:
        raise CacheError(f"There is no result to bundle in {store.location}; run the notebook first.")
    known = {info.task for info in entries}
    for task in wanted or ():
        if task not in known:
            raise CacheError(
                f"No result of {task!r} is stored; tasks with results: {', '.join(sorted(known)) or 'none'}."
            )
    count = size = damaged = 0
    blobs: set[str] = set()
    with _zip(out) if is_zip(str(out)) else _folder(out) as write:
        for info in sorted(entries, key=lambda entry: entry.key):
            if wanted is not None and info.task not in wanted:
                continue
            loaded = disk.export(info.key)
            if loaded is None:
                damaged += 1
                continue
            envelope, parcel = pack_up(key, loaded)
            name = blob_name(key.id, parcel.name)
            if parcel.blob and name not in blobs:
                blobs.add(name)
                write(name, parcel.blob)
            write(envelope_name(info.key), [envelope])
            count += 1
            size += parcel.size
    return Bundled(count, size, {"damaged": damaged} if damaged else {})


def load_bundle(store: CacheStore, source: str, trust: Iterable[str] | None = None) -> Bundled:
    """Take the results of a bundle (or of any shared store) into a store, under the user's own key.

    Args:
        store: The store; what it has already stays.
        source: Path or URL of the bundle.
        trust: Keys whose results are taken: names in the key ring, paths of key files; None for the whole ring.

    Raises:
        CacheError: The store has no disk, or the bundle cannot be read.
    """
    disk = _disk_of(store)
    tier = SharedTier(source, trust=trust, readonly=True)
    try:
        names = Place(source).names(ENVELOPES)
    except Exception as error:
        raise CacheError(f"The bundle {source} cannot be read: {error}") from error
    count = size = there = 0
    for name in names:
        key = key_of_name(name)
        if key is None:
            continue
        if disk.export(key) is not None:
            there += 1
        elif (loaded := tier.fetch(key, None)) is not None:
            size += disk.adopt(loaded)[0]
            count += 1
    facts = tier.stats()
    if facts["faults"]:
        raise CacheError(f"The bundle {source} cannot be read: {facts['last_fault']}.")
    skipped = {"there already": there, **{what: facts[what] for what in ("refused", "damaged", "expired")}}
    return Bundled(count, size, {what: number for what, number in skipped.items() if number})


def _disk_of(store: CacheStore) -> Any:
    if store.disk is None:
        raise CacheError("This cache is in memory only; bundles are made from, and loaded into, a cache in a folder.")
    return store.disk


@contextmanager
def _folder(out: Path) -> Iterator[_Write]:
    yield Place(str(out)).write


@contextmanager
def _zip(out: Path) -> Iterator[_Write]:
    """Write a zip beside its place, and rename it when it is complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:

            def write(name: str, pieces: Sequence[Any]) -> None:
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(entry, "w", force_zip64=True) as stream:
                    for piece in pieces:
                        stream.write(piece)

            yield write
        os.replace(beside, out)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
