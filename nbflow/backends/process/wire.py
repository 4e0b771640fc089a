"""What coordinator and workers say to each other: frames on a stream, each with a kind, a job and a body.

The body of a call or result is a pickle, or, where large buffers lie beside it, the names of their files. Nothing here
reads or writes a socket.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator
from typing import Any

from nbflow.backends.process.buffers import BESIDE_BYTES, Ref, map_file
from nbflow.backends.travel import flatten, restore

__all__ = [
    "CALL",
    "ERROR",
    "MESSAGE",
    "OFFER",
    "READY",
    "RESULT",
    "STALE",
    "SURROUNDINGS",
    "Frames",
    "frame",
    "pack",
    "unpack",
]

CALL, OFFER, SURROUNDINGS = 1, 2, 3  # to a worker; an offered call is run only by who takes its token
READY, MESSAGE, RESULT, ERROR, STALE = 11, 12, 13, 14, 15  # from a worker

_HEADER = struct.Struct("<BQQ")
_PLAIN, _WITH_FILES = b"p", b"f"


def frame(kind: int, job: int, body: bytes = b"") -> bytes:
    """Return a frame as bytes."""
    return _HEADER.pack(kind, job, len(body)) + body


class Frames:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Take the next bytes and yield the frames that are complete, as kind, job and body."""
        source: bytes | bytearray = data
        if self._rest:
            self._rest += data
            source = self._rest
        start, end = 0, len(source)
        while end - start >= _HEADER.size:
            kind, job, length = _HEADER.unpack_from(source, start)
            stop = start + _HEADER.size + length
            if stop > end:
                break
            yield kind, job, bytes(source[start + _HEADER.size : stop])
            start = stop
        if start or source is not self._rest:
            self._rest = bytearray(source[start:])


def pack(
    value: Any, put: Callable[[memoryview], Ref], find: Callable[[memoryview], Ref | None] | None = None
) -> tuple[bytes, list[Ref]]:
    """Return a value as a body.

    Args:
        value: Anything that can travel.
        put: Puts a large buffer into a file. Where it raises OSError the buffer travels in the body.
        find: Returns the file that a large buffer is mapped from, if there is one.

    Returns:
        The body and the files that were written for it.

    Raises:
        Exception: Whatever the picklers say of the value.
    """
    head, buffers = flatten(value, BESIDE_BYTES)
    if not buffers and len(head) < BESIDE_BYTES:
        return _PLAIN + head, []
    pieces: list[Any] = []
    written: list[Ref] = []
    for piece in [memoryview(head), *buffers]:
        if piece.nbytes < BESIDE_BYTES:
            pieces.append(bytes(piece))
        elif find is not None and (found := find(piece)) is not None:
            pieces.append(found)
        else:
            try:
                written.append(put(piece))
                pieces.append(written[-1])
            except OSError:  # no room on the disk
                pieces.append(bytes(piece))
    return _WITH_FILES + pickle.dumps(pieces, protocol=5), written


def unpack(body: bytes, *, home: bool = False, taken: Callable[[str], object] | None = None) -> Any:
    """Return the value of a body.

    Args:
        body: From `pack`.
        home: As for `restore`.
        taken: Called with the path of each file once it is mapped.

    Raises:
        Exception: It cannot be built here.
    """
    if body[:1] == _PLAIN:
        return restore(memoryview(body)[1:], home=home)
    views: list[Any] = []
    for piece in pickle.loads(memoryview(body)[1:]):
        if isinstance(piece, Ref):
            views.append(map_file(piece))
            if taken is not None:
                taken(piece.path)
        else:
            views.append(bytearray(piece) if views else piece)  # arrays that were writable stay so
    head, *buffers = views
    return restore(head, buffers, home=home)


# --- calls --------------------------------------------------------------------------------------------------------


def close_call(folder: str, call: bytes, shared: dict[int | str, bytes]) -> bytes:
    """Return the body of a call.

    Args:
        folder: Where the worker shall put large buffers of the result.
        call: Function, arguments and keyword arguments, packed.
        shared: Shared values, packed, by position or name of the argument in whose place they belong.
    """
    return pickle.dumps((folder, call, shared), protocol=5)


def open_call(body: bytes) -> tuple[str, tuple[Any, tuple[Any, ...], dict[str, Any]], dict[int | str, Any]]:
    """Return folder, call and shared values of a call's body.

    Raises:
        Exception: Something of it cannot be built here.
    """
    folder, call, shared = pickle.loads(body)
    return folder, unpack(call), {place: unpack(value) for place, value in shared.items()}


def fill(
    args: tuple[Any, ...], kwargs: dict[str, Any], shared: dict[int | str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments with shared values in their places."""
    filled = list(args)
    for place, value in shared.items():
        if isinstance(place, int):
            filled[place] = value
        else:
            kwargs[place] = value
    return tuple(filled), kwargs
