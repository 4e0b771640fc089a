"""The driver for files: a folder of this machine, or any file system of fsspec.

A plain path is served by `os` directly; fsspec is imported only for a URL or a given file system, and only at the first
access. The folder is made by the first write, so a driver that is never used leaves no trace.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any, Final

from nbflow.errors import DatasetError, DatasetNotFoundError, NbflowError
from nbflow.storage.base import Driver, FileFacts
from nbflow.storage.keys import check_key
from nbflow.storage.local import LocalFiles
from nbflow.storage.remote import IN_PROCESS, ON_DISK, RemoteFiles, is_url, open_url, protocols_of

__all__ = ["FileDriver"]

_ABSENT: Final = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


class FileDriver(Driver):
    """Keeps bytes in files.

    Args:
        base_path: A folder, or a URL that fsspec knows (`"s3://bucket/data"`). A relative folder is fixed to the
            working directory of this moment, so that workers elsewhere mean the same place.
        fs: An fsspec file system to use; `base_path` is then a path in it.
        allow_outside: Accept keys that lead out of `base_path`: absolute paths, `..`, `~`, URLs of the same kind.

    Raises:
        DatasetError: `base_path` is not a usable path, or does not belong to `fs`.

    Picklable, a given `fs` included. Safe from any thread, and against other processes that use the same place.
    """

    def __init__(
        self, base_path: str | os.PathLike[str], fs: Any | None = None, *, allow_outside: bool = False
    ) -> None:
        base = os.fspath(base_path) if isinstance(base_path, str | os.PathLike) else None
        if not isinstance(base, str) or "\0" in base or not (base or fs is not None):
            raise DatasetError(f"base_path={base_path!r} is not a folder or URL; give one such as 'data' or 's3://…'.")
        protocol, mark, _ = base.partition("://")
        if fs is not None and mark and protocol not in protocols_of(fs):
            raise DatasetError(
                f"base_path={base!r} does not belong to the given file system of type {type(fs).__name__}; give a "
                "path in that file system, or leave out fs."
            )
        if fs is None and protocol in ON_DISK and mark:
            base = base.removeprefix(f"{protocol}://")
        if fs is None and not is_url(base):
            base = os.path.abspath(os.path.expanduser(base))
        self._base = base
        self._fs = fs
        self._files: LocalFiles | RemoteFiles | None = None
        self.allow_outside = allow_outside

    def __repr__(self) -> str:
        fs = "" if self._fs is None else f", fs={type(self._fs).__name__}"
        outside = ", allow_outside=True" if self.allow_outside else ""
        return f"FileDriver({self._base!r}{fs}{outside})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": None}  # the address travels, the open file system does not

    @property
    def base_path(self) -> str:
        """The folder, absolute, or the URL."""
        return self._base

    @property
    def is_local(self) -> bool:
        """Whether only this machine sees the files."""
        return not self._protocols() or bool(self._protocols() & (ON_DISK | IN_PROCESS))

    @property
    def in_process(self) -> bool:
        """Whether only this process sees the files."""
        return bool(self._protocols() & IN_PROCESS)

    def path_of(self, key: str | PurePath) -> str:
        """Return the full path or URL that belongs to `key`, whether there is a file or not."""
        files = self._open()
        return files.shown(self._locate(key))

    def save(self, key: str | PurePath, data: bytes) -> str:
        """Write `data` beside the file of `key`, then let it take its place; see `Driver.save`."""
        files, path = self._open(), self._locate(key)
        with self._explaining("save", key):
            files.write(path, data)
        return files.shown(path)

    def load(self, key: str | PurePath) -> bytes:
        """Return the bytes under `key`; see `Driver.load`."""
        files, path = self._open(), self._locate(key)
        with self._explaining("load", key):
            try:
                return files.read(path)
            except _ABSENT:
                raise self._not_found(key) from None

    def facts(self, key: str | PurePath) -> FileFacts:
        """Return size and age of the file of `key`; see `Driver.facts`."""
        files, path = self._open(), self._locate(key)
        with self._explaining("look at", key):
            try:
                return files.facts(path)
            except _ABSENT:
                raise self._not_found(key) from None

    def copy(self, source: str | PurePath, target: str | PurePath) -> None:
        """Copy the file of `source`, without its bytes passing through here; see `Driver.copy`."""
        files, old, new = self._open(), self._locate(source), self._locate(target)
        with self._explaining("copy", source):
            try:
                files.copy(old, new)
            except _ABSENT:
                raise self._not_found(source) from None

    def exists(self, key: str | PurePath) -> bool:
        """Return whether there is a file for `key`."""
        files, path = self._open(), self._locate(key)
        with self._explaining("look for", key):
            return files.is_file(path)

    def delete(self, key: str | PurePath) -> bool:
        """Remove the file of `key` and return whether there was one."""
        files, path = self._open(), self._locate(key)
        with self._explaining("delete", key):
            return files.remove(path)

    def list_keys(self) -> list[str]:
        """Return the keys of all files below the folder, in order; names that no key can reach are left out."""
        with self._explaining("list", self._base):
            found = list(self._open().walk())
        return sorted(key for key in found if self._is_key(key))

    def allowing_outside(self) -> FileDriver:
        """Return a driver to the same place whose keys may leave the folder."""
        return FileDriver(self._base, self._fs, allow_outside=True)

    def _open(self) -> LocalFiles | RemoteFiles:
        if self._files is None:
            if self._fs is not None:
                self._files = RemoteFiles(self._base, self._fs)
            elif is_url(self._base):
                fs, path = open_url(self._base)
                self._files = RemoteFiles(path, fs)
            else:
                self._files = LocalFiles(self._base)
        return self._files

    def _locate(self, key: str | PurePath) -> str:
        """Return the path of `key`, or refuse it."""
        files = self._open()
        checked = check_key(key, allow_outside=self.allow_outside)
        return files.path_outside(checked) if self.allow_outside else files.path_of(checked)

    def _protocols(self) -> frozenset[str]:
        """Return the protocols of the place without opening it; none for a plain folder."""
        if self._fs is not None:
            return protocols_of(self._fs)
        # In a chain such as simplecache::s3://… the last part says where the values end up.
        return frozenset({self._base.rpartition("://")[0].rpartition("::")[2]}) if is_url(self._base) else frozenset()

    def _is_key(self, text: str) -> bool:
        """Return whether `text` is a key in its canonical spelling."""
        try:
            return check_key(text, allow_outside=self.allow_outside) == text
        except DatasetError:
            return False

    def _not_found(self, key: object) -> DatasetNotFoundError:
        return DatasetNotFoundError(
            f"There is no dataset {str(key)!r} in {self._base}. Save it first; a session's `datasets` lists all.",
            key=str(key),
            base_path=self._base,
        )

    @contextmanager
    def _explaining(self, what: str, key: object) -> Iterator[None]:
        """Turn failures of the file system into `DatasetError`s that name key and place."""
        try:
            yield
        except (NbflowError, MemoryError):
            raise
        except Exception as error:  # file systems raise their client's own errors, too
            reason = str(error).rstrip(". ") or type(error).__name__
            raise DatasetError(
                f"Cannot {what} dataset {str(key)!r} in {self._base}: {reason}. Check that the place is there, that "
                "you may use it, and that no folder has the name of the file.",
                key=str(key),
                base_path=self._base,
            ) from error
