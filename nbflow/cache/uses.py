"""Uses of results that are not in the index yet: a file beside it, to which a process adds those of its own at its end.

A process that only had hits has changed nothing. To commit its few uses would cost it several times what the hits did,
since whoever closes a database last has to wait for the disk. A line more in a file costs nothing, and the next change
of the index, or whoever asks for uses, moves what is there into it. Uses only weigh in what is evicted first, so a torn
line, or one that is lost while two processes meet here, does no harm.
"""

from __future__ import annotations

import os
import struct

__all__ = ["Uses"]

_LINE = struct.Struct("<qqd")  # number of the entry, times, when last


class Uses:
    """The uses that wait beside one index; safe from any thread and process.

    Args:
        path: The file.
    """

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def add(self, uses: dict[int, tuple[int, float]]) -> None:
        """Add what was used: times, and when last, by the number of the entry.

        Raises:
            OSError: It cannot be written.
        """
        lines = b"".join([_LINE.pack(number, *used) for number, used in uses.items()])
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        try:
            os.write(file, lines)
        finally:
            os.close(file)

    def waiting(self) -> bool:
        """Whether there are any."""
        return os.path.exists(self._path)

    def take(self) -> dict[int, tuple[int, float]]:
        """Return what waits, which from now on is the caller's to keep; never raises."""
        if not self.waiting():
            return {}
        taken = f"{self._path}.{os.getpid()}.{os.urandom(4).hex()}"
        try:
            os.replace(self._path, taken)
            with open(taken, "rb") as stream:
                data = stream.read()
            os.unlink(taken)
        except OSError:  # another process takes them, or we may only read here
            return {}
        found: dict[int, tuple[int, float]] = {}
        for number, times, when in _LINE.iter_unpack(data[: len(data) - len(data) % _LINE.size]):
            before, last = found.get(number, (0, 0.0))
            found[number] = (before + times, max(last, when))
        return found
