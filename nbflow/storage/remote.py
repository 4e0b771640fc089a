"""Files of any fsspec file system, by its exact-path methods alone.

Methods of fsspec that expand patterns (`mv`, `rm`, `copy`) are avoided, because a key such as `fit[3].csv` is a name
and not a pattern. Object stores replace a whole object in one step by themselves; elsewhere a file is written beside
its target and then moved onto it.
"""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final

from nbflow.errors import DatasetError
from nbflow.storage.base import FileFacts
from nbflow.storage.keys import TEMPORARY_SUFFIX, refusal
from nbflow.storage.local import check_links

__all__ = ["IN_PROCESS", "ON_DISK", "RemoteFiles", "is_url", "open_url", "protocols_of"]

ON_DISK: Final = frozenset({"file", "local"})
IN_PROCESS: Final = frozenset({"memory"})
# These upload a value as one object that appears when it is complete.
_WHOLE_OBJECTS: Final = frozenset(
    {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "azure", "oci", "ocilake", "oss", "r2", "hf"}
)
_READ_ONLY: Final = frozenset({"http", "https", "zip", "tar", "libarchive", "github", "git", "data", "reference"})
_AGES: Final = ("mtime", "modified", "LastModified", "last_modified", "updated", "created")
_DIRFS: Final = "fsspec.implementations.dirfs"


def is_url(path: str) -> bool:
    """Return whether `path` is for fsspec: a URL, or a chain of them."""
    return "://" in path


def open_url(url: str) -> tuple[Any, str]:
    """Return the file system of `url` and the path in it; `DatasetError` where a library is missing."""
    try:
        import fsspec.core

        fs, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DatasetError(
            f"Cannot open {url!r}: {error}. Install the library that this kind of place needs (for S3: "
            "pip install 'nbflow[s3]'), or use a folder.",
            url=url,
        ) from None
    return fs, path


def protocols_of(fs: Any) -> frozenset[str]:
    """Return the protocol names of a file system; those of the inner one if `fs` only moves its root."""
    while type(fs).__module__ == _DIRFS:
        fs = fs.fs
    protocol = getattr(fs, "protocol", ())
    return frozenset((protocol,) if isinstance(protocol, str) else protocol)


class RemoteFiles:
    """Whole files below `root` of an fsspec file system; nothing is created before the first write.

    Args:
        root: Path in the file system, with or without its protocol.
        fs: The file system.

    As safe from threads as `fs` is (those of fsspec are).
    """

    def __init__(self, root: str, fs: Any) -> None:
        while type(fs).__module__ == _DIRFS:  # work on the inner one, whose abilities and links we can see
            fs, root = fs.fs, posixpath.join(fs.path, root)
        self.fs = fs
        self.root = str(fs._strip_protocol(root)).rstrip("/") if root else ""
        self.protocols = protocols_of(fs)

    def path_of(self, key: str) -> str:
        """Return the path of a checked key; raise `DatasetError` where a link leads it out of the folder."""
        path = f"{self.root}/{key}" if self.root else key
        if ON_DISK & self.protocols:
            check_links(key, path, self.root)
        return path

    def path_outside(self, key: str) -> str:
        """Return the path of a key that may lead anywhere in the same file system."""
        protocol, mark, _ = key.partition("://")
        if mark and protocol not in self.protocols:
            raise refusal(key, f"is on {protocol!r}, but this store is on {', '.join(sorted(self.protocols))}")
        if mark:
            return str(self.fs._strip_protocol(key))
        return posixpath.normpath(posixpath.join(self.root, key))

    def write(self, path: str, data: bytes) -> None:
        """Put `data` at `path` in one step."""
        data = bytes(data)
        self._put(path, lambda target: self.fs.pipe_file(target, data))

    def write_from(self, path: str, local: str) -> None:
        """Put the bytes of a file of this machine at `path` in one step, without having them all in memory."""
        self._put(path, lambda target: self.fs.put_file(local, target))

    def _put(self, path: str, send: Callable[[str], object]) -> None:
        """Have `send` write at `path`, or beside it where a file appears before it is complete."""
        if read_only := sorted(self.protocols & _READ_ONLY):
            raise DatasetError(
                f"Cannot save in {self.shown(self.root)}: places of the kind {read_only[0]!r} can only be read. "
                "Save in a folder or a bucket, and load from here by store=…"
            )
        if self.protocols & _WHOLE_OBJECTS:
            send(path)
            return
        folder = posixpath.dirname(path)
        if folder:
            self.fs.makedirs(folder, exist_ok=True)
        if self.fs.isdir(path):
            raise IsADirectoryError(f"{path} is a folder")
        temporary = posixpath.join(folder, f".{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
        try:
            send(temporary)
            self._move(temporary, path)
        except BaseException:
            with suppress(Exception):
                self.fs.rm_file(temporary)
            raise

    def _move(self, source: str, target: str) -> None:
        """Let `source` take the place of `target`, by the file system's own renaming where it has one."""
        from fsspec import AbstractFileSystem

        if type(self.fs).mv is not AbstractFileSystem.mv:
            self.fs.mv(source, target)
        else:
            self.fs.cp_file(source, target)
            self.fs.rm_file(source)

    def read(self, path: str) -> bytes:
        """Return all bytes of the file; `FileNotFoundError` where there is none."""
        with _missing(path):
            return bytes(self.fs.cat_file(path))

    def fetch(self, path: str, local: str) -> None:
        """Put the bytes of the file into one of this machine; `FileNotFoundError` where there is none."""
        with _missing(path):
            self.fs.get_file(path, local)

    def copy(self, source: str, target: str) -> None:
        """Copy the file where it is, without fetching it."""
        self._put(target, lambda place: self.fs.cp_file(source, place))

    def facts(self, path: str) -> FileFacts:
        """Return size and age of the file."""
        self.fs.invalidate_cache()
        found = self.fs.info(path)
        return FileFacts(int(found.get("size") or 0), _seconds(found))

    def is_file(self, path: str) -> bool:
        """Return whether `path` is a file now, whoever wrote it."""
        self.fs.invalidate_cache()
        try:
            return bool(self.fs.info(path)["type"] == "file")
        except (FileNotFoundError, NotADirectoryError):
            return False

    def remove(self, path: str) -> bool:
        """Remove the file and return True, or return False where there is none."""
        if not self.is_file(path):
            return False
        self.fs.rm_file(path)
        return True

    def walk(self) -> Iterator[str]:
        """Yield the keys of all files."""
        for key, _ in self.listing():
            yield key

    def listing(self) -> Iterator[tuple[str, FileFacts]]:
        """Yield the keys of all files with size and age, as the place lists them."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.find(self.root, detail=True)
        except FileNotFoundError:
            return
        prefix = f"{self.root}/" if self.root else ""
        for path, info in found.items():
            if path.startswith(prefix):
                yield path.removeprefix(prefix), FileFacts(int(info.get("size") or 0), _seconds(info))

    def shown(self, path: str) -> str:
        """Return `path` as people know it, with its protocol."""
        return path if ON_DISK & self.protocols else str(self.fs.unstrip_protocol(path))


@contextmanager
def _missing(path: str) -> Iterator[None]:
    """Say that a file is not there the way everybody does; archives of older versions of fsspec do not."""
    try:
        yield
    except KeyError as error:
        raise FileNotFoundError(path) from error


def _seconds(info: dict[str, Any]) -> float | None:
    """Return when a file was written, by whatever name and in whatever form its file system says so."""
    for name in _AGES:
        found = info.get(name)
        if isinstance(found, (int, float)):
            return float(found)
        if isinstance(found, datetime):
            return found.timestamp()
    return None
