"""Files of a shared store: any URL of fsspec, a plain folder, or a zip that is only read.

Names are exact: only `names` and `listing` list, and what is read, written or removed is one file at a time. A file
appears whole or not at all: object stores do that by themselves, elsewhere it is written beside and renamed. fsspec is
imported when the first file is asked for.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from inspect import signature
from typing import TYPE_CHECKING, Any

from nbflow._mapping import map_part
from nbflow.errors import CacheError
from nbflow.storage.base import FileFacts
from nbflow.storage.local import LocalFiles

if TYPE_CHECKING:
    from nbflow.storage.remote import RemoteFiles

__all__ = ["Place", "is_zip"]

_LARGE = 32 * 1024**2  # bytes from which a file goes through the disk instead of through memory
_PATIENCE_S = 10.0  # seconds that one answer about a small file may take
# Without these, a lost connection is only noticed after minutes.
_BOTO = {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 0}}
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": _BOTO},
    "s3a": {"config_kwargs": _BOTO},
}


def is_zip(url: str) -> bool:
    """Return whether the URL is that of a zip file."""
    return url.lower().endswith(".zip") or url.startswith("zip://")


class Place:
    """Files below a URL; safe from any thread, and after a fork.

    Args:
        url: A folder, or a URL that fsspec knows, or the path or URL of a zip file.
        options: Options of the file system, as fsspec takes them.

    Methods raise what the file system raises; `FileNotFoundError` where there is no such file.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        if "://" not in url:
            url = os.path.abspath(os.path.expanduser(url))
        self.url = url
        self.readonly = is_zip(url)
        self._options = dict(options or {})
        self._lock = threading.Lock()
        self._files: LocalFiles | RemoteFiles | None = None
        self._pid = 0

    def read(self, name: str) -> bytes:
        """Return the bytes of a small file."""
        files = self._open()
        path = self._path(name)
        if isinstance(files, LocalFiles):
            return files.read(path)
        if not getattr(files.fs, "async_impl", False):
            return files.read(path)
        known = signature(type(files.fs)._cat_file).parameters
        single = {"max_concurrency": 1} if "max_concurrency" in known else {}  # else it asks for the size first
        return bytes(files.fs.cat_file(path, timeout=_PATIENCE_S, **single))

    @contextmanager
    def fetched(self, name: str, size: int) -> Iterator[memoryview]:
        """Give the bytes of a file that may be large, as a view of our own that can be written.

        Args:
            name: The file.
            size: Bytes that it should have; decides whether it goes through memory.
        """
        files = self._open()
        path = self._path(name)
        if size < _LARGE:
            yield memoryview(bytearray(files.read(path)))
            return
        with tempfile.TemporaryDirectory(prefix="nbflow-", ignore_cleanup_errors=True) as folder:
            beside = os.path.join(folder, "blob")
            # A copy also of what is on a disk of ours: others may change it between our check and our use.
            if isinstance(files, LocalFiles):
                shutil.copyfile(path, beside)
            else:
                files.fetch(path, beside)
            with open(beside, "rb") as stream:
                mapped = map_part(stream.fileno(), os.fstat(stream.fileno()).st_size, mmap.ACCESS_COPY)
            yield mapped

    def write(self, name: str, pieces: Sequence[Any]) -> None:
        """Write a file, replacing what is there in one step."""
        if self.readonly:
            raise PermissionError(f"{self.url} is only read")
        files = self._open()
        path = self._path(name)
        size = sum(memoryview(piece).nbytes for piece in pieces)
        if size < _LARGE:
            files.write(path, b"".join(pieces))
            return
        folder = os.path.dirname(path) if isinstance(files, LocalFiles) else None
        if folder:
            os.makedirs(folder, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(prefix=".nbflow-", dir=folder)
        try:
            with open(descriptor, "wb") as stream:
                for piece in pieces:
                    stream.write(piece)
            if isinstance(files, LocalFiles):
                os.replace(beside, path)
            else:
                files.write_from(path, beside)
        finally:
            if os.path.exists(beside):
                os.unlink(beside)

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        return self._open().is_file(self._path(name))

    def names(self, prefix: str) -> list[str]:
        """Return the names of all files below a folder, in order."""
        return sorted(name for name in self._open().walk() if name.startswith(prefix))

    def listing(self) -> dict[str, FileFacts]:
        """Return the names of all files with size and age."""
        return dict(self._open().listing())

    def remove(self, name: str) -> None:
        """Remove a file; none is there afterwards."""
        files = self._open()
        path = self._path(name)
        if isinstance(files, LocalFiles):
            files.remove(path)
            return
        with suppress(FileNotFoundError):
            files.fs.rm_file(path)

    def _path(self, name: str) -> str:
        return self._open().path_of(name)

    def _open(self) -> LocalFiles | RemoteFiles:
        files = self._files
        if files is None or self._pid != os.getpid():
            with self._lock if self._pid in (0, os.getpid()) else threading.Lock():
                files = self._files = self._connect()
                self._pid = os.getpid()
        return files

    def _connect(self) -> LocalFiles | RemoteFiles:
        url = self.url
        if "://" not in url and not self.readonly:
            return LocalFiles(url)
        import fsspec.core

        from nbflow.storage.remote import RemoteFiles  # its errors and abilities are those of fsspec's classes

        options = dict(self._options)
        if self.readonly:
            inner = url.removeprefix("zip://::")
            protocol = inner.partition("://")[0] if "://" in inner else "file"
            nested = {protocol: {**_OPTIONS.get(protocol, {}), **options}}
            try:
                fs, path = fsspec.core.url_to_fs(f"zip://::{inner}", skip_instance_cache=True, **nested)
            except FileNotFoundError:
                raise CacheError(f"There is no bundle {inner}.") from None
        else:
            fs, path = fsspec.core.url_to_fs(url, **{**_OPTIONS.get(url.partition("://")[0], {}), **options})
        return RemoteFiles(path, fs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Place, (self.url, self._options)
