"""Finds the file that a buffer is mapped from, so that workers map it too, instead of a copy.

Only what the system itself says is believed: a shared mapping (whose bytes are those of the file) of a file that still
has the name by which it was mapped. Where the system does not say (outside of Linux), and for private mappings, which
may differ from their file, nothing is found, and the buffer travels as any other.
"""

from __future__ import annotations

import mmap
import os
import sys
from typing import Any

from nbflow.backends.process.buffers import Ref

__all__ = ["find_file"]

_MAPS = "/proc/self/maps"


def find_file(view: memoryview) -> Ref | None:
    """Return the part of a file that a buffer is a shared mapping of; None where it is none."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not _is_mapped(view) or not os.path.exists(_MAPS):
        return None
    start = int(numpy.frombuffer(view, dtype="u1").__array_interface__["data"][0])
    return _look_up(start, view.nbytes)


def _is_mapped(view: memoryview) -> bool:
    """Whether the memory belongs to a map: a quick look, before the system is asked."""
    owner: Any = view
    for _ in range(20):
        if isinstance(owner, mmap.mmap):
            return True
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
        if owner is None:
            return False
    return False


def _look_up(start: int, size: int) -> Ref | None:
    with open(_MAPS, encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            low, _, rest = line.partition("-")
            if int(low, 16) > start:
                return None
            high, _, rest = rest.partition(" ")
            if start < int(high, 16):
                fields = rest.rstrip("\n").split(maxsplit=4)
                if len(fields) < 5 or start + size > int(high, 16) or fields[0][3] != "s":
                    return None
                offset, inode, path = int(fields[1], 16), int(fields[3]), fields[4]
                try:
                    same = os.stat(path).st_ino == inode
                except OSError:  # it was removed
                    return None
                return Ref(path, size, offset + start - int(low, 16)) if same else None
    return None
