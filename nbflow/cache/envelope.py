"""One shared result as files: a small sealed envelope under its key, and a blob where the result is large.

    keys/<2 hex>/<30 hex>             magic | id of the sealing key | MAC | length of facts | facts | sealed record
    blobs/<id of the key>/<2>/<30>    the blob, named by content, its head sealed as well

The MAC covers the cache key and everything behind it, and is checked before any of that is read. An older envelope of
the same key holds a result of the same code and inputs, so replaying one gains nobody anything.
"""

from __future__ import annotations

import json
import re
import struct
from typing import Any

from nbflow.cache.blob import Damaged, Packed
from nbflow.cache.keyring import NamedKey
from nbflow.cache.memory import EntryInfo
from nbflow.cache.parts import KeyPart
from nbflow.cache.seal import FILE, Loaded, Parcel, Record, peek, wrap
from nbflow.cache.trust import MAC_BYTES, Signer

__all__ = [
    "ENVELOPES",
    "blob_name",
    "envelope_name",
    "is_blob_name",
    "is_key",
    "key_of_name",
    "open_envelope",
    "pack_up",
    "peek_envelope",
    "sealed_by",
    "with_info",
]

ENVELOPES = "keys/"
_MAGIC = b"nbflow-shared-1\n"
_ID = slice(len(_MAGIC), len(_MAGIC) + 8)
_BEGIN = _ID.stop + MAC_BYTES
_LENGTH = struct.Struct("<I")
_KEY = re.compile(r"[0-9a-f]{32}")
_BLOB = re.compile(r"blobs/[0-9a-f]{16}/[0-9a-f]{2}/[0-9a-f]{30}")


def is_key(key: str) -> bool:
    """Return whether `key` is a digest, hence fit to be a file name; other keys are not shared."""
    return _KEY.fullmatch(key) is not None


def envelope_name(key: str) -> str:
    """Return the name of the envelope under a key."""
    return f"{ENVELOPES}{key[:2]}/{key[2:]}"


def key_of_name(name: str) -> str | None:
    """Return the key whose envelope has that name, or None."""
    key = name.removeprefix(ENVELOPES).replace("/", "")
    return key if is_key(key) and envelope_name(key) == name else None


def blob_name(key_id: str, result: str) -> str:
    """Return the name of the blob of a result, sealed by the key of that id."""
    return f"blobs/{key_id}/{result[:2]}/{result[2:]}"


def is_blob_name(name: str) -> bool:
    """Return whether a file of that name is a blob of ours."""
    return _BLOB.fullmatch(name) is not None


def pack_up(key: NamedKey, loaded: Loaded) -> tuple[bytes, Parcel]:
    """Seal a result that a local store exported.

    Args:
        key: The key that seals it.
        loaded: The result, with `info`.

    Returns:
        The envelope, and the parcel whose blob (if it has one) belongs beside it.
    """
    info = loaded.info
    assert info is not None
    parcel = wrap(key.signer, info, Packed(bytes(loaded.head), loaded.buffers), loaded.record.content)
    parts = [[part.kind, part.name, part.digest, part.text, part.where] for part in info.parts]
    facts = json.dumps({"task": info.task, "cell": info.cell, "size": parcel.size, "parts": parts}).encode()
    rest = _LENGTH.pack(len(facts)) + facts + parcel.sealed
    return _MAGIC + bytes.fromhex(key.id) + _mac(key.signer, info.key, rest) + rest, parcel


def sealed_by(data: bytes) -> str:
    """Return the id of the key that an envelope says it was sealed by.

    Raises:
        Damaged: It is no envelope.
    """
    if not data.startswith(_MAGIC):
        raise Damaged("it is no shared result of this version of nbflow")
    if len(data) < _BEGIN + _LENGTH.size:
        raise Damaged("it is cut off")
    return data[_ID].hex()


def open_envelope(signer: Signer, key: str, data: bytes) -> tuple[dict[str, Any], bytes]:
    """Check an envelope and return its facts and the sealed record.

    Args:
        signer: Of the key that it says it was sealed by.
        key: The cache key that it should be under.
        data: The envelope.

    Raises:
        Damaged: It was sealed by another key or for another cache key, or was changed.
    """
    rest = data[_BEGIN:]
    if data[_ID.stop : _BEGIN] != _mac(signer, key, rest):
        raise Damaged("its seal is broken: it was changed, or made by somebody without the key")
    (length,) = _LENGTH.unpack_from(rest)
    end = _LENGTH.size + length
    return json.loads(rest[_LENGTH.size : end]), rest[end:]


def peek_envelope(data: bytes) -> tuple[Record, str | None]:
    """Return what an envelope says of its result, and the name of the blob that it needs, whoever sealed it.

    Nothing of it is vouched for: good enough to count and to remove, never to open.

    Raises:
        Damaged: It is no envelope, or is cut off.
    """
    sealer = sealed_by(data)
    (length,) = _LENGTH.unpack_from(data, _BEGIN)
    record = peek(data[_BEGIN + _LENGTH.size + length :])
    return record, blob_name(sealer, record.result.hex()) if record.kind == FILE else None


def with_info(key: str, loaded: Loaded, facts: dict[str, Any]) -> Loaded:
    """Return the same entry with what its envelope tells of it."""
    created, ttl, cost = loaded.record.created, loaded.record.ttl, loaded.record.cost
    parts = tuple(KeyPart(*part) for part in facts["parts"])
    info = EntryInfo(key, facts["task"], facts["cell"], created, created, cost, loaded.size, ttl, parts)
    return loaded._replace(info=info)


def _mac(signer: Signer, key: str, rest: bytes) -> bytes:
    return signer.sign(_MAGIC, key.encode("ascii"), b"\n", rest)
