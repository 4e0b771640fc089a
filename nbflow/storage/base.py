"""What a place that keeps bytes under keys must offer.

A driver knows nothing of formats and types; it moves whole values. `nbflow.testing.contracts.DriverContract` is this
contract as tests: whoever writes a driver runs it on theirs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

__all__ = ["Driver", "FileFacts"]


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of stored bytes without reading them.

    Args:
        size_bytes: How many there are.
        modified: When they were written, in seconds since 1970; None where the place does not say.
    """

    size_bytes: int
    modified: float | None = None


class Driver(ABC):
    """A place that keeps bytes under keys.

    A key is a relative name with `/` between its parts (`"results/fit.csv"`). Drivers are used from many threads at
    once and travel to other processes by pickling, so keep the address in attributes and open connections when needed.
    Saving replaces a value in one step: whoever loads meanwhile gets the old or the new value, never a mixture, and a
    save that fails leaves the old one.

    Attributes:
        allow_outside: Whether keys may lead out of the driver's folder.
    """

    allow_outside: bool = False

    @abstractmethod
    def save(self, key: str, data: bytes) -> str:
        """Store `data`, replacing what was there.

        Args:
            key: Where.
            data: What; any object with the buffer protocol.

        Returns:
            The full path or URL, for people to read.

        Raises:
            DatasetError: The key is refused, or the place cannot be written.
        """

    @abstractmethod
    def load(self, key: str) -> bytes:
        """Return the bytes under `key`.

        Raises:
            DatasetNotFoundError: There are none (it is a `KeyError`, too).
            DatasetError: The key is refused, or the place cannot be read.
        """

    @abstractmethod
    def exists(self, key: str) -> bool:
        """Return whether there are bytes under `key`; a refused key raises `DatasetError`."""

    @abstractmethod
    def delete(self, key: str) -> bool:
        """Remove what is under `key` and return whether there was anything; a refused key raises `DatasetError`."""

    @abstractmethod
    def list_keys(self) -> list[str]:
        """Return all keys in order; every one of them can be loaded."""

    def facts(self, key: str) -> FileFacts:
        """Return size and age of what is under `key`; by reading it, unless a driver knows better.

        Raises:
            DatasetNotFoundError: There is nothing.
            DatasetError: The key is refused, or the place cannot be read.
        """
        return FileFacts(len(self.load(key)))

    def copy(self, source: str, target: str) -> None:
        """Make what is under `source` be under `target`, too; raises as `load` and `save` do.

        The two may share their bytes where saving replaces files and never changes them.
        """
        self.save(target, self.load(source))

    @property
    def base_path(self) -> str:
        """Folder or URL below which the keys live, for messages; empty where there is no such thing."""
        return ""

    @property
    def is_local(self) -> bool:
        """Whether only this machine sees the values (a local disk, memory), so that remote workers cannot save them."""
        return True

    @property
    def in_process(self) -> bool:
        """Whether only this process sees the values (memory), so that worker processes cannot save them either."""
        return False

    def get_format_hint(self, key: str) -> str | None:
        """Return the extension of `key` in lower case without its dot, or None if it has none.

        A driver that keeps a content type beside the bytes may return the extension that fits it instead.
        """
        stem, dot, extension = key.rpartition("/")[2].rpartition(".")
        return extension.lower() if dot and stem.strip(".") and extension else None

    def allowing_outside(self) -> Driver:
        """Return a driver to the same place whose keys may leave its folder; itself where there is no outside."""
        return self
