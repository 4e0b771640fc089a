"""Files below a folder of this machine, by `os` alone.

Writes go to a file beside the target, which then takes its place in one step. Links are resolved before every access,
so a link inside the folder cannot lead a key out of it; whoever can swap links while we work owns the folder anyway.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress

from nbflow.storage.base import FileFacts
from nbflow.storage.keys import TEMPORARY_SUFFIX, refusal

__all__ = ["LocalFiles", "check_links", "is_below"]


class LocalFiles:
    """Whole files below `root`; nothing is created before the first write.

    Args:
        root: Absolute path of the folder.

    All methods are safe from any thread, and against other processes that use the same folder.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def path_of(self, key: str) -> str:
        """Return the path of a checked key; raise `DatasetError` where a link leads it out of the folder."""
        path = os.path.join(self.root, *key.split("/"))
        check_links(key, path, self.root)
        return path

    def path_outside(self, key: str) -> str:
        """Return the path of a key that may lead anywhere."""
        return os.path.normpath(os.path.join(self.root, os.path.expanduser(key.removeprefix("file://"))))

    def write(self, path: str, data: bytes) -> None:
        """Put `data` at `path` in one step."""
        folder = os.path.dirname(path)
        temporary = os.path.join(folder, f".{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
        try:
            file = open(temporary, "xb")  # noqa: SIM115 - closed below, inside the guard that removes it
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)
            file = open(temporary, "xb")  # noqa: SIM115
        try:
            with file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave the new name with none of its bytes
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise

    def read(self, path: str) -> bytes:
        """Return all bytes of the file; `FileNotFoundError` where there is none."""
        with open(path, "rb") as file:
            return file.read()

    def copy(self, source: str, target: str) -> None:
        """Give the file a second name, or copy it where that cannot be; what is at `target` stays."""
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            os.link(source, target)
        except FileExistsError:
            return
        except FileNotFoundError:
            raise
        except OSError:  # this file system has no second names
            self.write(target, self.read(source))

    def facts(self, path: str) -> FileFacts:
        """Return size and age of the file."""
        found = os.stat(path)
        return FileFacts(found.st_size, found.st_mtime)

    def is_file(self, path: str) -> bool:
        """Return whether `path` is a file."""
        return os.path.isfile(path)

    def remove(self, path: str) -> bool:
        """Remove the file and return True, or return False where there is none."""
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def walk(self) -> Iterator[str]:
        """Yield the keys of all files; linked folders are not entered, links that lead out are left out."""
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and (not os.path.islink(path) or is_below(path, self.root)):
                    yield os.path.relpath(path, self.root).replace(os.sep, "/")

    def listing(self) -> Iterator[tuple[str, FileFacts]]:
        """Yield the keys of all files with size and age."""
        for key in self.walk():
            try:
                yield key, self.facts(os.path.join(self.root, *key.split("/")))
            except FileNotFoundError:  # removed meanwhile
                continue

    def shown(self, path: str) -> str:
        """Return `path` as people know it."""
        return path


def check_links(key: str, path: str, root: str) -> None:
    """Raise `DatasetError` where a link leads `path` out of the folder `root`."""
    if not is_below(path, root):
        raise refusal(key, f"leads by a symbolic link to {os.path.realpath(path)}, outside {root}", outside=True)


def is_below(path: str, root: str) -> bool:
    """Return whether `path`, with all links followed, lies below `root`."""
    top = os.path.realpath(root)
    return os.path.realpath(path).startswith(top.rstrip(os.sep) + os.sep)
