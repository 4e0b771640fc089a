"""One result as bytes: a small head that is unpickled, and raw buffers that are only ever mapped.

    magic, lengths | offset, length, checksum of each buffer | head | MAC of all this | … buffers, each at 64 bytes

    magic, lengths | the same table | how head and buffers are compressed, and their plain lengths | head | …

The head is a pickle (protocol 5) without the large buffers of arrays and frames; those follow it as they are in
memory. So a store writes a large array at the speed of the disk, and loads it by mapping the file: private and
copy-on-write, hence writable, with no byte read before it is needed. A blob is named by the digest of its front,
which contains the checksums of its buffers. Functions and classes that plain pickle cannot find again go by value
(cloudpickle). The second form is that of blobs of which a part is compressed, see `squeeze`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from nbflow._typing import TYPE_CHECKING, Any, NamedTuple
from nbflow._util import lazy
from nbflow.cache.trust import MAC_BYTES, Signer

if TYPE_CHECKING:
    import pickle

    from nbflow.cache import byvalue
else:
    byvalue = lazy("nbflow.cache.byvalue")
    try:
        import _pickle as pickle  # all of it that is used here, without what takes as long as a hit to import
    except ImportError:
        import pickle

__all__ = ["Damaged", "Front", "Packed", "Unloadable", "front_of", "pack", "read_front", "unpack"]

_MAGIC = b"nbflow\x01\n"
_SQUEEZED = b"nbflow\x02\n"
_LENGTHS = struct.Struct("<8sQQ")
_ROW = struct.Struct("<QQ16s")
_PLAIN = struct.Struct("<BQ")
_ALIGN = 64
_IN_BAND = 2048  # bytes up to which a buffer stays in the head
_BARE = frozenset({int, float, bool, str, bytes, type(None)})  # types of values that have no buffers


class Damaged(Exception):
    """A blob that is torn, changed, or not ours; never unpickled."""


class Unloadable(Exception):
    """A sound blob of our own whose value cannot be built here and now (a class that is not defined yet)."""


class Packed(NamedTuple):
    """A value taken apart: its head and its buffers (which may be views of the value's own memory).

    Where a part is compressed, `plain` has the codec and the plain length of the head and of each buffer.
    """

    head: bytes
    buffers: tuple[Any, ...] = ()
    plain: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> int:
        """Bytes of head and buffers."""
        return len(self.head) + (sum(memoryview(buffer).nbytes for buffer in self.buffers) if self.buffers else 0)

    def detached(self) -> Packed:
        """Return the same with buffers of its own."""
        return Packed(self.head, tuple(bytes(buffer) for buffer in self.buffers))


class Front(NamedTuple):
    """What is before the buffers: `table` has (offset, length, checksum) of each, `digest` names the whole blob.

    `plain` is that of `Packed`.
    """

    length: int
    head: bytes | memoryview
    table: tuple[tuple[int, int, bytes], ...]
    digest: str
    plain: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the whole blob."""
        return self.table[-1][0] + self.table[-1][1] if self.table else self.length


def pack(value: Any, *, in_band: int = _IN_BAND) -> Packed:
    """Take a value apart.

    Args:
        value: The value.
        in_band: Bytes up to which a buffer stays in the head.

    Raises:
        Exception: It cannot be pickled; whatever pickle and cloudpickle say.
    """
    if type(value) in _BARE:
        return tuple.__new__(Packed, (pickle.dumps(value, protocol=5), (), ()))
    buffers: list[Any] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes <= in_band:
            return True
        buffers.append(view)
        return False

    try:
        head = pickle.dumps(value, protocol=5, buffer_callback=keep)
    except Exception:  # pickle itself names many types of errors here
        buffers.clear()
        head = byvalue.dumps(value, keep)
    return Packed(head, tuple(buffers))


def unpack(head: bytes | memoryview, buffers: Sequence[Any]) -> Any:
    """Build the value anew; buffers that can be written give arrays that can be written.

    Raises:
        Unloadable: It cannot be built.
    """
    try:
        return pickle.loads(head, buffers=buffers) if buffers else pickle.loads(head)
    except Exception as error:
        raise Unloadable(f"{type(error).__name__}: {error}") from error


def front_of(packed: Packed, signer: Signer) -> tuple[Front, bytes]:
    """Return the front of a blob, and its bytes with the MAC."""
    plain = b"".join(_PLAIN.pack(*known) for known in packed.plain)
    start = _LENGTHS.size + _ROW.size * len(packed.buffers) + len(plain) + len(packed.head) + MAC_BYTES
    table: list[tuple[int, int, bytes]] = []
    for buffer in packed.buffers:
        start += -start % _ALIGN
        view = memoryview(buffer)
        table.append((start, view.nbytes, xxh3_128_digest(view)))
        start += view.nbytes
    rows = b"".join(_ROW.pack(*row) for row in table)
    magic = _SQUEEZED if plain else _MAGIC
    data = _LENGTHS.pack(magic, len(packed.head), len(table)) + rows + plain + packed.head
    front = Front(len(data) + MAC_BYTES, packed.head, tuple(table), _name(data), packed.plain)
    return front, data + signer.sign(data)


def plain_digest(head: bytes) -> bytes:
    """Return the digest that names the blob of a head alone, without making one."""
    return _digest(_LENGTHS.pack(_MAGIC, len(head), 0) + head)


def plain_size(head: bytes) -> int:
    """Return the bytes of the blob of a head alone."""
    return _LENGTHS.size + len(head) + MAC_BYTES


def pieces(front: Front, data: bytes, buffers: Sequence[Any]) -> Iterable[Any]:
    """Return what is to be written, in order."""
    yield data
    position = front.length
    for (offset, length, _), buffer in zip(front.table, buffers, strict=True):
        yield b"\0" * (offset - position)
        yield buffer
        position = offset + length


def read_front(data: bytes | memoryview, signer: Signer | None) -> Front:
    """Check and return the front of a blob.

    Args:
        data: The blob, or at least its front.
        signer: Of the user's key; None where a MAC over all of it has been checked already.

    Raises:
        Damaged: It is no blob, is torn, or was not written under this key.
    """
    if len(data) < _LENGTHS.size:
        raise Damaged("it is cut off")
    magic, head_length, count = _LENGTHS.unpack_from(data)
    if magic not in (_MAGIC, _SQUEEZED):
        raise Damaged("it is no cached result")
    known = _LENGTHS.size + _ROW.size * count
    begin = known + (_PLAIN.size * (count + 1) if magic == _SQUEEZED else 0)
    end = begin + head_length
    if end + MAC_BYTES > len(data):
        raise Damaged("it is cut off")
    view = memoryview(data)
    if signer is not None and signer.sign(view[:end]) != bytes(view[end : end + MAC_BYTES]):
        raise Damaged("it was not sealed by your key on this machine, or was changed")
    table = tuple(_ROW.unpack_from(data, _LENGTHS.size + _ROW.size * index) for index in range(count)) if count else ()
    plain = tuple(_PLAIN.iter_unpack(view[known:begin]))
    return Front(end + MAC_BYTES, view[begin:end], table, _name(view[:end]), plain)


def check_buffers(front: Front, data: memoryview) -> None:
    """Compare every buffer with its checksum.

    Raises:
        Damaged: One differs.
    """
    for offset, length, checksum in front.table:
        if xxh3_128_digest(data[offset : offset + length]) != checksum:
            raise Damaged("its data were changed")


_name = xxh3_128_hexdigest
_digest = xxh3_128_digest
