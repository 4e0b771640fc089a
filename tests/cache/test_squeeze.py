"""Compression: every kind of value in every mode, what stays mapped, bounded sizes, damage, and missing packages."""

from __future__ import annotations

import mmap
import pickle
import random
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nbflow.cache import CacheStore
from nbflow.cache import squeeze as squeezing
from nbflow.cache.blob import Damaged, Packed, check_buffers, front_of, pack, pieces, read_front, unpack
from nbflow.cache.opening import open_store
from nbflow.cache.seal import INLINE
from nbflow.cache.squeeze import AUTO, MODES, check_mode, inflated, squeezed
from nbflow.cache.trust import make_signer
from nbflow.errors import SettingsError
from nbflow.settings import load_settings

NOISE = random.Random(7)
ROWS = [{"id": number, "name": f"row {number}", "tag": "abc"} for number in range(2000)]
VALUES: dict[str, Any] = {
    "nothing": None,
    "small": {"a": [1, 2]},
    "rows": ROWS,
    "text": "the same words again " * 5000,
    "noise": NOISE.randbytes(100_000),
    "zeros": np.zeros(3_000_000),
    "numbers": np.random.default_rng(7).random(200_000),
    "small zeros": np.zeros(1000),
    "empty": np.zeros(0),
    "matrix": np.asfortranarray(np.arange(600_000, dtype="int32").reshape(600, 1000)),
    "frame": pd.DataFrame({"n": np.arange(50_000), "t": ["a", "b"] * 25_000}),
    "mixed": {"rows": ROWS, "zeros": np.zeros(100_000), "noise": np.random.default_rng(1).random(10_000)},
}


def equal(one: Any, other: Any) -> bool:
    """Whether two values are the same, down to the order in memory."""
    return type(one) is type(other) and pickle.dumps(one) == pickle.dumps(other)


def disk_bytes(folder: Path) -> int:
    """Return the bytes that a store reports for its results."""
    store = CacheStore(folder)
    size = store.stats()["bytes"]
    store.close()
    return int(size)


def mapped(value: np.ndarray[Any, Any]) -> bool:
    """Whether an array lies over a file."""
    base: Any = value
    while base is not None and not isinstance(base, mmap.mmap):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    return isinstance(base, mmap.mmap)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("readonly", [False, True])
def test_every_value_comes_back(folder: Path, name: str, mode: str, readonly: bool) -> None:
    """By another store, whatever that would use itself; writable unless it is to be read-only."""
    store = CacheStore(folder, compress=mode)
    store.save("k", VALUES[name], readonly=readonly)
    size = store.stats()["bytes"]
    store.close()
    for reader in MODES:
        again = CacheStore(folder, compress=reader)
        found = again.fetch("k")
        assert found is not None, again.stats()
        if name != "frame":
            assert equal(found.value, VALUES[name])
        else:
            pd.testing.assert_frame_equal(found.value, VALUES[name])
        if isinstance(found.value, np.ndarray) and found.value.size:
            assert found.value.flags.writeable is not readonly
        assert again.verify() == []
        again.close()
    packed = pack(VALUES[name])
    assert size <= packed.size + 4096 + 64 * len(packed.buffers)


@pytest.mark.parametrize("mode", ["zlib", "zstd"])
def test_what_was_asked_for_shrinks(folder: Path, mode: str) -> None:
    """Large buffers too, which then are in memory; numbers without a pattern stay mapped."""
    store = CacheStore(folder, compress=mode)
    store.save("zeros", VALUES["zeros"])
    store.save("numbers", VALUES["numbers"])
    store.close()
    sizes = {info.key: info.size_bytes for info in store.entries()}
    assert sizes["zeros"] < VALUES["zeros"].nbytes / 50
    assert sizes["numbers"] >= VALUES["numbers"].nbytes
    assert not mapped(store.get("zeros"))
    assert mapped(store.get("numbers"))
    store.close()


def test_by_itself_only_what_is_read_whole_is_compressed(folder: Path) -> None:
    """Heads and what is part of a record; arrays in files stay mapped, however well they would shrink."""
    store = CacheStore(folder)
    for name in ("rows", "zeros", "small zeros", "small"):
        store.save(name, VALUES[name])
    store.close()
    sizes = {info.key: info.size_bytes for info in store.entries()}
    assert sizes["rows"] < pack(ROWS).size / 2
    assert sizes["zeros"] >= VALUES["zeros"].nbytes
    assert mapped(store.get("zeros"))
    assert sizes["small zeros"] < VALUES["small zeros"].nbytes / 2
    assert sizes["small"] == front_of(pack(VALUES["small"]), make_signer())[0].size
    store.close()


def test_off_means_off(folder: Path) -> None:
    """Nothing is compressed, and the blob has the first form."""
    packed = pack(ROWS)
    assert squeezed(packed, "off", inline=INLINE, mapped=False) is packed
    store = CacheStore(folder, compress="off")
    store.save("rows", ROWS)
    assert store.stats()["bytes"] >= packed.size
    store.close()


def test_read_only_results_stay_mapped(folder: Path) -> None:
    """Whatever the mode, since that is what they are for."""
    store = CacheStore(folder, compress="zlib")
    saved = store.save("k", VALUES["zeros"], readonly=True)
    assert saved.size_bytes >= VALUES["zeros"].nbytes
    store.close()
    assert mapped(store.get("k"))
    store.close()


def test_results_without_compression_are_read_by_all(folder: Path) -> None:
    """What was stored before there was compression has the first form, and stays."""
    store = CacheStore(folder, compress="off")
    store.save("rows", ROWS)
    store.save("zeros", VALUES["zeros"])
    store.close()
    assert {path.read_bytes()[:8] for path in (folder / "blobs").glob("??/*")} == {b"nbflow\x01\n"}
    again = CacheStore(folder, compress="zlib")
    assert again.get("rows") == ROWS
    assert equal(again.get("zeros"), VALUES["zeros"])
    again.close()


# -- damage


def blob(mode: str = "zlib") -> tuple[Packed, bytes]:
    """Return a compressed result and its file."""
    packed = squeezed(pack(VALUES["mixed"]), mode, inline=INLINE, mapped=False)
    front, data = front_of(packed, make_signer())
    return packed, b"".join(map(bytes, pieces(front, data, packed.buffers)))


@pytest.mark.parametrize("mode", ["zlib", "zstd"])
def test_a_changed_bit_or_a_cut_is_damage(mode: str) -> None:
    """Anywhere in the file, before anything is inflated; the padding between buffers does not count."""
    packed, data = blob(mode)
    signer = make_signer()
    front = read_front(data, signer)
    assert front.plain == packed.plain
    places = [*range(0, front.length, 97), *(offset + length // 2 for offset, length, _ in front.table)]
    for place in places:
        torn = bytearray(data)
        torn[place] ^= 4
        with pytest.raises(Damaged):
            check_buffers(read_front(bytes(torn), signer), memoryview(torn))
    for length in range(0, front.length, 211):
        with pytest.raises(Damaged):
            read_front(data[:length], signer)


@pytest.mark.parametrize("mode", ["zlib", "zstd"])
@pytest.mark.parametrize("what", ["longer", "shorter", "torn", "cut", "empty"])
def test_never_more_is_inflated_than_was_signed(mode: str, what: str) -> None:
    """A bomb stops at the signed length; torn data are damage, whatever the package calls it."""
    size = 50_000_000 if what == "longer" else 100_000
    squeezed_zeros = squeezed(Packed(bytes(size)), mode, inline=INLINE, mapped=False)
    data, codec = squeezed_zeros.head, squeezed_zeros.plain[0][0]
    if what == "torn":
        data = data[:4] + bytes(255 - byte for byte in data[4:])
    if what == "cut":
        data = data[: len(data) // 2]
    length = {"longer": 10_000, "shorter": 200_000}.get(what, size)
    with pytest.raises(Damaged):
        inflated(Packed(b"" if what == "empty" else data, (), ((codec, length),)))


def test_an_unknown_codec_is_damage() -> None:
    """Of a later version, say."""
    with pytest.raises(Damaged, match=r"compressed in a way \(9\)"):
        inflated(Packed(b"x", (), ((9, 1),)))


@pytest.mark.parametrize("mode", ["zlib", "zstd"])
def test_a_damaged_file_is_a_miss(folder: Path, mode: str) -> None:
    """It is set aside, said why, and made anew."""
    store = CacheStore(folder, compress=mode)
    store.save("k", VALUES["mixed"])
    store.close()
    (path,) = (folder / "blobs").glob("??/*")
    data = bytearray(path.read_bytes())
    data[-3000] ^= 1
    path.write_bytes(bytes(data))
    again = CacheStore(folder, compress=mode)
    assert again.fetch("k") is None
    assert again.stats()["quarantined"] == 1
    again.save("k", VALUES["mixed"])
    again.close()
    assert equal(again.get("k"), VALUES["mixed"])
    again.close()


# -- modes


def test_bad_modes_are_errors(folder: Path) -> None:
    """With the words that can be used."""
    with pytest.raises(SettingsError, match="'lzma': use one of auto, off, zlib, zstd"):
        CacheStore(folder, compress="lzma")
    with pytest.raises(SettingsError, match="cache_compress"):
        load_settings(cache_compress="lzma")


def test_zstd_that_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To ask for it is an error that says what to install; entries of it are misses, and are not set aside."""
    store = CacheStore(folder, compress="zstd")
    store.save("k", VALUES["zeros"])
    store.close()
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "compression.zstd", None)
        without.setitem(sys.modules, "zstandard", None)
        with pytest.raises(SettingsError, match="pip install zstandard"):
            check_mode("zstd")
        again = CacheStore(folder)
        assert again.fetch("k") is None
        assert again.disk is not None
        assert "pip install zstandard" in again.disk.faults["k"]
        assert again.stats()["quarantined"] == 0
        again.close()
    assert equal(store.get("k"), VALUES["zeros"])
    store.close()


def test_the_module_of_the_standard_library_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen with one that has the same functions, over zlib."""

    class Library:
        __name__ = "compression.zstd"
        ZstdDecompressor = staticmethod(zlib.decompressobj)

        @staticmethod
        def compress(data: Any, level: int) -> bytes:
            return zlib.compress(data, level)

    monkeypatch.setattr(squeezing, "_zstd", Library)
    packed = pack(ROWS)
    small = squeezed(packed, "zstd", inline=INLINE, mapped=False)
    assert len(small.head) < len(packed.head)
    assert bytes(inflated(small).head) == packed.head


def test_a_store_keeps_its_mode_when_it_travels(folder: Path) -> None:
    """To a worker, and from settings."""
    store = pickle.loads(pickle.dumps(CacheStore(folder, compress="zlib")))
    assert store.disk.compress == "zlib"
    opened = open_store(folder, load_settings(cache_compress="off"))
    assert opened.disk is not None
    assert opened.disk.compress == "off"
    assert CacheStore(folder).disk.compress == AUTO  # type: ignore[union-attr]


def test_what_is_inflated_can_be_unpickled() -> None:
    """Parts keep their order, those that are not compressed too."""
    packed = squeezed(pack(VALUES["mixed"]), "zlib", inline=INLINE, mapped=False)
    assert {codec for codec, _ in packed.plain} == {0, 1}
    plain = inflated(packed)
    assert equal(unpack(plain.head, plain.buffers), VALUES["mixed"])
