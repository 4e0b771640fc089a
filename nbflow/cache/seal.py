"""The row of one entry as it is signed: what a hit depends on, in one piece of bytes.

    MAC | created, ttl, cost, result, kind | payload

The MAC covers the key too, so a row under another key, or with one bit changed, is noticed before anything of it is
used. The payload is the result itself where it is small, else the stamp of the file that has it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from nbflow.cache.blob import Damaged
from nbflow.cache.trust import MAC_BYTES, Signer

__all__ = ["FILE", "HEAD", "WHOLE", "Record", "seal", "unseal"]

FILE = 0  # the payload is the stamp of a file
HEAD = 1  # the payload is the pickled head of a result without buffers
WHOLE = 2  # the payload is a blob

_FIELDS = struct.Struct("<ddd16sB")
_BEGIN = MAC_BYTES + _FIELDS.size
_NONE = float("nan")


class Record(NamedTuple):
    """What a hit depends on; `result` is the digest of the result, 16 bytes."""

    created: float
    ttl: float | None
    cost: float
    result: bytes
    kind: int
    payload: bytes


def seal(signer: Signer, key: str, record: Record) -> bytes:
    """Return the signed bytes of a record under `key`."""
    created, ttl, cost, result, kind, payload = record
    data = _FIELDS.pack(created, _NONE if ttl is None else ttl, cost, result, kind) + payload
    return signer.sign(_framed_key(key), data) + data


def unseal(signer: Signer, key: str, data: object) -> Record:
    """Return the record that was sealed under `key`.

    Raises:
        Damaged: It was not, or not by this user, or was changed.
    """
    if type(data) is not bytes or len(data) < _BEGIN:
        raise Damaged("its index entry is cut off")
    if signer.sign(_framed_key(key), memoryview(data)[MAC_BYTES:]) != data[:MAC_BYTES]:
        raise Damaged("its index entry was not written by you, or was changed")
    created, ttl, cost, result, kind = _FIELDS.unpack_from(data, MAC_BYTES)
    return Record(created, ttl if ttl == ttl else None, cost, result, kind, data[_BEGIN:])


def _framed_key(key: str) -> bytes:
    data = key.encode("utf-8", "surrogatepass")
    return b"%d:%b" % (len(data), data)
