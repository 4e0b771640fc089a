"""Versions of datasets: what was saved under a key, by whom and when, and the bytes of what was there before.

All of it lies in one hidden folder beside the files, which stay plain files that anybody can read; without the folder
only the past is lost. A version is named by its content, so saving the same value again makes no new one, and its bytes
are only kept once others take their place: a key that is written once costs one small file.

    .nbflow-datasets/<hash of the key>/history.json     one line of facts for each version, oldest first
    .nbflow-datasets/<hash of the key>/<version>        the bytes of a version that is no longer the current one
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, Final

from nbflow._util import one_line, report
from nbflow.errors import DatasetError, DatasetNotFoundError
from nbflow.storage import Driver

__all__ = ["FOLDER", "Catalog", "DatasetInfo", "Origin", "Version", "shape_of", "version_id"]

FOLDER: Final = ".nbflow-datasets"
_FORMAT: Final = 1
# One lock for all stores of this process; keys that share one only wait a little longer.
_LOCKS: Final = tuple(threading.Lock() for _ in range(64))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a version came from; what is not known is empty.

    Args:
        task: Name of the task that saved it.
        call: Name of the call, with the item of its map.
        cache_key: Key of the call's result in the cache.
        cell: The cell that ran ("cell 4").
    """

    task: str = ""
    call: str = ""
    cache_key: str = ""
    cell: str = ""

    def __str__(self) -> str:
        return ", ".join(part for part in (self.call or self.task, self.cell) if part)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a dataset.

    Args:
        key: The dataset.
        id: Twelve hexadecimal digits that stand for the content.
        saved: When it was last saved, in seconds since 1970.
        size_bytes: Size of its file.
        format: Name of its format.
        type: Name of the value's type.
        shape: The value's shape or length, where it has one.
        origin: What saved it.
    """

    key: str
    id: str
    saved: float
    size_bytes: int
    format: str
    type: str
    shape: tuple[int, ...] | None = None
    origin: Origin = Origin()


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What is known of a dataset without loading it.

    Args:
        key: Its key.
        size_bytes: Size of its file.
        saved: When it was saved, in seconds since 1970; None where its place does not say.
        format: Name of its format; None where its extension says nothing.
        type: Name of the value's type; empty where it was not saved with versions.
        shape: The value's shape or length, where it was noted.
        origin: What saved it.
        version: Name of the current version; empty where there is none.
        versions: How many versions there are.
        changed: Whether another program has changed the file since.
    """

    key: str
    size_bytes: int
    saved: float | None
    format: str | None
    type: str = ""
    shape: tuple[int, ...] | None = None
    origin: Origin = Origin()
    version: str = ""
    versions: int = 0
    changed: bool = False


def version_id(data: bytes) -> str:
    """Return the name of a version with these bytes."""
    return blake2b(data, digest_size=6).hexdigest()


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Return the shape of an array or table, or the length of a container; None for anything else."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and all(isinstance(each, int) for each in shape):
        return shape
    return (len(value),) if isinstance(value, (str, bytes, bytearray, list, tuple, dict, set, frozenset)) else None


class Catalog:
    """The versions of the datasets of one driver.

    Args:
        driver: Keeps the bytes.
        keep: Most versions of a key, the current one included.

    Safe from any thread. Two processes that save the same key at the same moment may lose one line of its history;
    what `load` returns is always the version that was asked for, or an error.
    """

    def __init__(self, driver: Driver, keep: int) -> None:
        self.driver = driver
        self.keep = keep
        self._told = False

    def save(self, version: Version, data: bytes) -> str:
        """Save a dataset and note its version; returns where it is.

        A catalog that cannot be written costs the version, not the dataset, and is told once.
        """
        key = version.key
        with self._lock(key):
            past = self._try(lambda: self.versions(key)) or []
            if past and past[-1].id != version.id:
                self._try(lambda: self._preserve(past[-1]))
            path = self.driver.save(key, data)
            others = [each for each in past if each.id != version.id]
            gone = others[: max(0, len(others) + 1 - self.keep)]
            self._try(lambda: self._write(key, [*others[len(gone) :], version]))
            self._try(lambda: self._drop(gone))
        return path

    def versions(self, key: str) -> list[Version]:
        """Return the versions of `key`, oldest first; none where nothing was noted, or in a way we do not know."""
        try:
            text = self.driver.load(_place(key, "history.json"))
        except KeyError:
            return []
        try:
            table = json.loads(text)
            return [_version(key, entry) for entry in table["versions"]] if table["format"] == _FORMAT else []
        except (ValueError, TypeError, KeyError):  # torn, or not ours
            return []

    def load(self, version: Version) -> bytes:
        """Return the bytes of a version.

        Raises:
            DatasetNotFoundError: They are gone.
            DatasetError: The file holds something else by now.
        """
        for place in (_place(version.key, version.id), version.key):
            with suppress(KeyError):
                data = self.driver.load(place)
                if version_id(data) == version.id:
                    return data
        raise DatasetNotFoundError(
            f"Version {version.id} of dataset {version.key!r} is no longer there: another program has changed or "
            "removed its file. Load another version; versions(key) lists them.",
            key=version.key,
            version=version.id,
        )

    def delete(self, key: str) -> bool:
        """Delete a dataset with all its versions and return whether there was any."""
        with self._lock(key):
            past = self._try(lambda: self.versions(key)) or []
            self._try(lambda: self._drop(past))
            self._try(lambda: self.driver.delete(_place(key, "history.json")))
            return self.driver.delete(key)

    def forget(self, version: Version) -> None:
        """Delete one version that is not the current one."""
        with self._lock(version.key):
            self._write(version.key, [each for each in self.versions(version.key) if each.id != version.id])
            self._drop([version])

    def noted(self, stored: Iterable[str]) -> frozenset[str]:
        """Return the hashes of the keys that have a history, out of everything that is stored."""
        return frozenset(key.split("/")[1] for key in stored if key.startswith(FOLDER) and key.count("/") == 2)

    @staticmethod
    def is_noted(key: str, noted: frozenset[str]) -> bool:
        """Return whether `key` is among what `noted` returned."""
        return _hash(key) in noted

    def _preserve(self, version: Version) -> None:
        """Keep the bytes of a version whose place others are about to take."""
        place = _place(version.key, version.id)
        if not self.driver.exists(place):
            with suppress(DatasetNotFoundError):
                self.driver.copy(version.key, place)

    def _write(self, key: str, versions: list[Version]) -> None:
        entries = []
        for version in versions:
            facts = asdict(version)
            del facts["key"]
            entries.append(facts)
        text = json.dumps({"format": _FORMAT, "key": key, "versions": entries}, indent=1)
        self.driver.save(_place(key, "history.json"), text.encode())

    def _drop(self, versions: Iterable[Version]) -> None:
        for version in versions:
            self.driver.delete(_place(version.key, version.id))

    def _try(self, act: Any) -> Any:
        """Do something that a dataset does not depend on; a failure is told once."""
        try:
            return act()
        except DatasetError as error:
            if not self._told:
                self._told = True
                report(f"Versions of datasets cannot be kept in {self.driver!r}: {one_line(error)}")
            return None

    def _lock(self, key: str) -> threading.Lock:
        return _LOCKS[hash((self.driver.base_path, key)) % len(_LOCKS)]


def _hash(key: str) -> str:
    return blake2b(key.encode(), digest_size=16).hexdigest()


def _place(key: str, name: str) -> str:
    return f"{FOLDER}/{_hash(key)}/{name}"


def _version(key: str, entry: Mapping[str, Any]) -> Version:
    shape = entry["shape"]
    return Version(
        key=key,
        id=str(entry["id"]),
        saved=float(entry["saved"]),
        size_bytes=int(entry["size_bytes"]),
        format=str(entry["format"]),
        type=str(entry["type"]),
        shape=None if shape is None else tuple(int(each) for each in shape),
        origin=Origin(**entry["origin"]),
    )
