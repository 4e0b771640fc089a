"""`File`: a file as an input, by content.

A `File` among the arguments of a task counts by what is in it. One that is made or opened while a cached task or cell
runs is noticed, and from then on belongs to what the result depends on: the next run compares the file and computes
again only when its content has changed. It is an ordinary path for everything that opens files.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

from nbflow.cache.filestate import expand, is_pattern, members, state_of
from nbflow.errors import DefinitionError, FileMissingError
from nbflow.runtime.current import current_call

__all__ = ["File"]


class File(os.PathLike[str]):
    """A file, a folder, or all files that match a pattern, as an input by content; safe from any thread.

    The name counts too (a function may go by it), the folder that it is in does not. Digests are remembered while
    size, times and inode of a file are the same, so looking again costs some microseconds.

    Args:
        path: A local path, relative to the working directory; `~` is your home, and `data/*.csv` or `data/**/*.csv`
            stand for all files that match. Of a folder, all files below it count, caches excepted.

    Raises:
        FileMissingError: There is no such file, or nothing matches.
        DefinitionError: It is a URL, or not a path.
    """

    __slots__ = ("_text",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        __tracebackhide__ = True
        if not isinstance(path, (str, os.PathLike)) or not isinstance(text := os.fspath(path), str) or not text:
            raise DefinitionError(
                f"File({path!r}): give the path of a file, a folder, or a pattern such as 'data/*.csv'."
            )
        if "://" in text:
            raise DefinitionError(f"File({text!r}): only local files can be followed; download it first.")
        self._text = text
        _note_read(text)  # its absence too may be what the result depends on
        if not os.path.exists(expand(text)) and not members(text):
            raise FileMissingError(_missing(text), path=text)

    @property
    def path(self) -> Path:
        """The path, as an object that belongs to nobody; taking it counts as reading the file."""
        return Path(self.__fspath__())

    @property
    def name(self) -> str:
        """The last part of the path."""
        return os.path.basename(os.path.normpath(self._text))

    @property
    def digest(self) -> str:
        """Digest of what is there now, 32 hex digits; "missing" where there is nothing."""
        return state_of(self._text).digest

    def __fspath__(self) -> str:
        __tracebackhide__ = True
        if is_pattern(self._text):
            raise DefinitionError(f"{self!r} stands for several files: go through them with `for path in file`.")
        _note_read(self._text)
        return os.path.expanduser(self._text)

    def __iter__(self) -> Iterator[Path]:
        """Go through the files, sorted by name: those that match, those in the folder, or the one that it is."""
        _note_read(self._text)
        return map(Path, members(self._text))

    def __nbflow_digest__(self) -> str:
        """Say what counts in a cache key: name and content."""
        call = current_call()
        if call is not None and call.reads is not None and call.attempts == 0:
            call.reads[self._text] = None  # its key is being made, and has it by content from now on
        return f"{self.name}\0{self.digest}"

    def __str__(self) -> str:
        _note_read(self._text)
        return os.path.expanduser(self._text)

    def __repr__(self) -> str:
        return f"File({self._text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, File) and other._text == self._text

    def __hash__(self) -> int:
        return hash(("nbflow.File", self._text))

    def __reduce__(self) -> tuple[object, ...]:
        return _restored, (self._text,)


def _restored(text: str) -> File:
    """Rebuild a `File` that was stored or sent; whether the file is still there shows when it is used."""
    file = File.__new__(File)
    file._text = text
    return file


def _note_read(text: str) -> None:
    """Tell the calls that run here that they read a file, unless they know; whoever does not care costs nothing."""
    inner = call = current_call()
    while inner is not None and call is not None:
        if call.reads is not None and text not in call.reads:
            inner.note_reads({text: state_of(text)})
            return
        call = call.parent


def _missing(text: str) -> str:
    place = expand(text)
    if is_pattern(text):
        return f"File({text!r}): no file matches {place}."
    folder = os.path.dirname(place)
    if not os.path.isdir(folder):
        return f"File({text!r}): there is no folder {folder}."
    near = difflib.get_close_matches(os.path.basename(place), os.listdir(folder), n=1)
    hint = f" Did you mean {os.path.join(os.path.dirname(text), near[0])!r}?" if near else ""
    return f"File({text!r}): there is no file {place}.{hint}"
