"""One result as it is signed: a small record of what a hit depends on, and the blob that it may need.

    MAC | created, ttl, cost, result, kind, length of content | content | payload

The MAC covers the key too, so a record under another key, or with one bit changed, is noticed before anything of it is
used. The payload is the result itself where it is small, else the stamp of the file that has it. `wrap` makes both
from a value that was taken apart, under any signer; `unwrap` takes them back: so a local store, a shared one and a
bundle differ in where they keep bytes, and in whose key signs them.
"""

from __future__ import annotations

import struct

from nbflow._typing import Any, NamedTuple
from nbflow.cache.blob import (
    Damaged,
    Front,
    Packed,
    check_buffers,
    front_of,
    pieces,
    plain_digest,
    plain_size,
    read_front,
)
from nbflow.cache.memory import EntryInfo
from nbflow.cache.squeeze import AUTO, FLOOR, inflated, squeezed
from nbflow.cache.trust import MAC_BYTES, Signer

__all__ = [
    "FILE",
    "HEAD",
    "INLINE",
    "WHOLE",
    "Loaded",
    "Parcel",
    "Record",
    "loaded_from",
    "named_front",
    "opened",
    "peek",
    "seal",
    "unseal",
    "unwrap",
    "wrap",
]

FILE = 0  # the payload is the stamp of a file
HEAD = 1  # the payload is the pickled head of a result without buffers
WHOLE = 2  # the payload is a blob

INLINE = 32 * 1024
"""Bytes below which a result is part of its record."""

_FIELDS = struct.Struct("<ddd16sBB")
_unpack = _FIELDS.unpack_from
_new = tuple.__new__  # of a named tuple in a third of the time, where every hit makes one
_BEGIN = MAC_BYTES + _FIELDS.size
_NONE = float("nan")


class Record(NamedTuple):
    """What a hit depends on; `result` is the digest of the result as bytes (16 bytes).

    Where there is a `content`, the result is to be handed out read-only: it has the canonical bytes of the value, or is
    `memory.UNKNOWN`.
    """

    created: float
    ttl: float | None
    cost: float
    result: bytes
    kind: int
    payload: bytes
    content: bytes = b""


class Loaded(NamedTuple):
    """A sound entry: its head, its buffers (mapped, or bytes of their own), what its seal says, and its stored size.

    `info` is what else is known of it; only entries that came from elsewhere carry it.
    """

    head: bytes | memoryview
    buffers: tuple[Any, ...]
    record: Record
    size: int
    info: EntryInfo | None = None


class Parcel(NamedTuple):
    """A result as one signer hands it on.

    `sealed` is the signed record. `blob` are the pieces of the file that it needs, in order, and `name` is that file's
    name by content; without pieces all is in the record.
    """

    sealed: bytes
    blob: tuple[Any, ...]
    name: str
    size: int


def seal(signer: Signer, key: str, record: Record) -> bytes:
    """Return the signed bytes of a record under `key`."""
    created, ttl, cost, result, kind, payload, content = record
    data = _FIELDS.pack(created, _NONE if ttl is None else ttl, cost, result, kind, len(content)) + content + payload
    return signer.sign(_framed_key(key) + data) + data


def unseal(signer: Signer, key: str, data: object) -> Record:
    """Return the record that was sealed under `key`.

    Raises:
        Damaged: It was not, or not by this user, or was changed.
    """
    if type(data) is not bytes or len(data) < _BEGIN:
        raise Damaged("its index entry is cut off")
    if signer.sign(_framed_key(key), data[MAC_BYTES:]) != data[:MAC_BYTES]:
        raise Damaged("its index entry was not sealed by your key on this machine, or was changed")
    created, ttl, cost, result, kind, length = _unpack(data, MAC_BYTES)
    ttl = ttl if ttl == ttl else None
    if not length:
        return _new(Record, (created, ttl, cost, result, kind, data[_BEGIN:], b""))
    end = _BEGIN + length
    return Record(created, ttl, cost, result, kind, data[end:], data[_BEGIN:end])


def peek(data: bytes) -> Record:
    """Return what a record says without asking who signed it, for whoever only counts and removes.

    Raises:
        Damaged: It is cut off.
    """
    if len(data) < _BEGIN:
        raise Damaged("its index entry is cut off")
    created, ttl, cost, result, kind, length = _unpack(data, MAC_BYTES)
    end = _BEGIN + length
    return Record(created, ttl if ttl == ttl else None, cost, result, kind, data[end:], data[_BEGIN:end])


def wrap(signer: Signer, info: EntryInfo, packed: Packed, content: bytes = b"", compress: str = AUTO) -> Parcel:
    """Return a result as bytes that are signed.

    Args:
        signer: Of the key under which whoever opens it will look.
        info: What is known of it; key, time, limit and cost are signed too.
        packed: The result.
        content: Of a result that is to be handed out read-only, see `Record`; its buffers are never compressed.
        compress: What to compress, see `squeeze.MODES`.
    """
    head = packed.head
    if not packed.buffers and len(head) < FLOOR:  # most results
        digest = plain_digest(head)
        record = _new(Record, (info.created, info.ttl, info.cost_s, digest, HEAD, head, content))
        return _new(Parcel, (seal(signer, info.key, record), (), digest.hex(), plain_size(head)))
    packed = squeezed(packed, compress, inline=INLINE, mapped=bool(content))
    front, begin = front_of(packed, signer)
    blob: tuple[Any, ...] = ()
    if front.size >= INLINE:
        kind, payload, blob = FILE, b"", tuple(pieces(front, begin, packed.buffers))
    elif packed.buffers or packed.plain:
        kind, payload = WHOLE, b"".join(pieces(front, begin, packed.buffers))
    else:
        kind, payload = HEAD, packed.head
    record = Record(info.created, info.ttl, info.cost_s, bytes.fromhex(front.digest), kind, payload, content)
    return Parcel(seal(signer, info.key, record), blob, front.digest, front.size)


def unwrap(signer: Signer, key: str, sealed: bytes, blob: bytes | memoryview | None = None) -> Loaded:
    """Check all that `wrap` made, down to the last buffer, and return what is in it; nothing is unpickled.

    Args:
        signer: Of the key that it should be signed under.
        key: Digest of the key that it should be under.
        sealed: The signed record.
        blob: The bytes of its file, where it has one.

    Raises:
        Damaged: Anything of it is torn, changed, or signed by somebody else.
    """
    record = unseal(signer, key, sealed)
    if record.kind != FILE:
        return loaded_from(record)
    if blob is None:
        raise Damaged("its file is gone")
    view = memoryview(blob)
    front = named_front(view, signer, record, len(view))
    check_buffers(front, view)
    return opened(front, view, record)


def loaded_from(record: Record) -> Loaded:
    """Return what is in a record that has the whole result."""
    if record.kind == HEAD:
        return _new(Loaded, (record.payload, (), record, len(record.payload), None))
    view = memoryview(record.payload if record.content else bytearray(record.payload))
    front = read_front(view, None)  # the seal vouches for all of it
    return opened(front, view, record)


def named_front(view: memoryview, signer: Signer, record: Record, size: int) -> Front:
    """Return the front of the file that a record names.

    Raises:
        Damaged: It is another file, is torn, or was not written under this key.
    """
    front = read_front(view, signer)
    if front.digest != record.result.hex():
        raise Damaged("it holds another result")
    if front.size != size:
        raise Damaged("it is cut off")
    return front


def opened(front: Front, view: memoryview, record: Record) -> Loaded:
    """Return what is in a sound blob, inflated where it is compressed.

    Raises:
        Damaged: Compressed data are torn.
        CacheError: They cannot be read here, since a package is missing.
    """
    buffers = tuple(view[offset : offset + length] for offset, length, _ in front.table)
    if not front.plain:
        return Loaded(front.head, buffers, record, len(view))
    packed = inflated(Packed(bytes(front.head), buffers, front.plain))
    return Loaded(packed.head, packed.buffers, record, len(view))


def _framed_key(key: str) -> bytes:
    data = key.encode("utf-8", "surrogatepass")
    return b"%d:%b" % (len(data), data)
