"""Files mapped into memory, as many as there are: no matter how few descriptors a process may have."""

from __future__ import annotations

import errno
import mmap
import os
import sys
import weakref

__all__ = ["map_part"]

_SHARE = 4  # one in so many of the descriptors that a process may have may be held by mappings
_COPY_BYTES = 1 << 20

_holding: set[weakref.ref[mmap.mmap]] = set()  # the mappings that hold a descriptor, while they live


def map_part(descriptor: int, size: int, access: int, offset: int = 0) -> memoryview:
    """Return the bytes of a part of a file, mapped; the descriptor may be closed afterwards.

    Before Python 3.13 a mapping holds a descriptor of its own for as long as it lives, and a process may have few. So
    once many are held, or none is left, the bytes are read into memory instead, as private as if they were mapped.

    Args:
        descriptor: Of the open file; where it stands in it does not matter, and stays as it is.
        size: How many bytes.
        access: `mmap.ACCESS_COPY`, or `mmap.ACCESS_READ` for a view that nobody can write to.
        offset: Where the part begins, a multiple of `mmap.ALLOCATIONGRANULARITY`.

    Raises:
        OSError, ValueError: It cannot be mapped, or the file is shorter.
    """
    if sys.platform == "win32":  # where handles are not scarce
        return memoryview(mmap.mmap(descriptor, size, access=access, offset=offset))
    if sys.version_info >= (3, 13):
        return memoryview(mmap.mmap(descriptor, size, access=access, offset=offset, trackfd=False))
    if _may_hold():
        try:
            whole = mmap.mmap(descriptor, size, access=access, offset=offset)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        else:
            _holding.add(weakref.ref(whole, _holding.discard))
            return memoryview(whole)
    copy = memoryview(_read_part(descriptor, size, offset))
    return memoryview(bytes(copy)) if access == mmap.ACCESS_READ else copy  # memory that nobody at all can write to


def _may_hold() -> bool:
    """Whether one more mapping may hold a descriptor."""
    import resource  # there is none on Windows

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]  # asked for each time, since a program may change it
    return limit == resource.RLIM_INFINITY or len(_holding) < limit // _SHARE


def _read_part(descriptor: int, size: int, offset: int) -> mmap.mmap:
    """Read a part of a file into memory of its own, which begins where a page does, as that of a mapping."""
    memory = mmap.mmap(-1, size, access=mmap.ACCESS_COPY)
    done = 0
    while done < size:
        piece = os.pread(descriptor, min(_COPY_BYTES, size - done), offset + done)
        if not piece:
            raise ValueError(f"the file ends after {offset + done} bytes")
        memory[done : done + len(piece)] = piece
        done += len(piece)
    return memory
