"""Parcels: what one signer wraps, only those who trust that signer can open, and any change is noticed."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from nbflow.cache import CacheStore
from nbflow.cache.blob import Damaged, pack, unpack
from nbflow.cache.memory import EntryInfo
from nbflow.cache.seal import unwrap, wrap
from nbflow.cache.trust import Signer

MINE, OTHER = Signer(b"m" * 32), Signer(b"o" * 32)
VALUES = {"head": [1, "two"], "row": np.arange(800.0), "file": np.arange(9_000.0)}


def info(key: str = "k") -> EntryInfo:
    """What is known of an entry."""
    return EntryInfo(key, "task", "cell 1", 1.0, 1.0, 2.0, 0, 60.0, ())


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("content", [b"", b"digest"])
def test_what_is_wrapped_comes_out(name: str, content: bytes) -> None:
    """Value, times and content come back, whether the result is in the record or in a file."""
    parcel = wrap(MINE, info(), pack(VALUES[name]), content)
    assert bool(parcel.blob) == (name == "file")
    loaded = unwrap(MINE, "k", parcel.sealed, b"".join(parcel.blob) or None)
    assert (unpack(loaded.head, loaded.buffers) == VALUES[name]) if name == "head" else True
    if name != "head":
        assert (unpack(loaded.head, loaded.buffers) == VALUES[name]).all()
    assert (loaded.record.created, loaded.record.ttl, loaded.record.cost) == (1.0, 60.0, 2.0)
    assert loaded.record.content == content


@pytest.mark.parametrize("name", VALUES)
def test_nobody_else_can_open_it(name: str) -> None:
    """Another signer, another key, another file, no file, and a flipped bit anywhere: all are noticed."""
    parcel = wrap(MINE, info(), pack(VALUES[name]))
    blob = b"".join(parcel.blob) or None
    for signer, key in ((OTHER, "k"), (MINE, "l")):
        with pytest.raises(Damaged):
            unwrap(signer, key, parcel.sealed, blob)
    for place in random.Random(1).sample(range(len(parcel.sealed)), 40):
        broken = bytearray(parcel.sealed)
        broken[place] ^= 8
        with pytest.raises(Damaged):
            unwrap(MINE, "k", bytes(broken), blob)
    if blob is not None:
        other = wrap(OTHER, info(), pack(VALUES[name]))
        different = wrap(MINE, info(), pack(VALUES[name] + 1))
        for wrong in (None, b"", blob[:-1], blob + b"x", b"".join(other.blob), b"".join(different.blob)):
            with pytest.raises(Damaged):
                unwrap(MINE, "k", parcel.sealed, wrong)


@pytest.mark.parametrize("name", VALUES)
def test_an_entry_goes_from_store_to_store(tmp_path: Path, name: str) -> None:
    """What one tier exports another adopts, with all that was known of it, read-only results included."""
    one, other = CacheStore(tmp_path / "one"), CacheStore(tmp_path / "other")
    assert one.disk is not None
    assert other.disk is not None
    one.save("k", VALUES[name], cost_s=3.0, ttl=1e6, cell="cell 4")
    one.save("r", VALUES[name], readonly=True)
    for key in ("k", "r"):
        exported = one.disk.export(key)
        assert exported is not None
        other.disk.adopt(exported)
    (known,) = [entry for entry in other.entries() if entry.key == "k"]
    assert (known.cost_s, known.ttl, known.cell) == (3.0, 1e6, "cell 4")
    fresh = CacheStore(tmp_path / "other")
    assert np.array_equal(fresh.get("k"), VALUES[name])
    assert np.array_equal(fresh.get("r"), VALUES[name])
    if name != "head":
        assert fresh.get("k").flags.writeable
        assert not fresh.get("r").flags.writeable
    assert one.disk.export("nothing") is None
    for store in (one, other, fresh):
        store.close()
