"""Compression of results: which parts of one are worth it, and how they become plain again.

By itself ("auto") only what is read whole anyway is compressed, and only where it shrinks to less than half: heads up
to 16 MiB, and the buffers of results that are small enough to be part of their record. Buffers in files are mapped,
which is a thousand times faster than inflating them, so they are compressed only where the user asks for it ("zlib",
"zstd"), and left as they are where a sample hardly shrinks. What is inflated has a known length, which is signed.
"""

from __future__ import annotations

from collections.abc import Iterable

from nbflow._typing import Any
from nbflow.cache.blob import Damaged, Packed
from nbflow.errors import CacheError, SettingsError

__all__ = ["AUTO", "FLOOR", "MODES", "check_mode", "inflated", "squeezed"]

AUTO = "auto"
MODES = (AUTO, "off", "zlib", "zstd")
"""What can be asked for."""

FLOOR = 4096
"""Bytes below which nothing is compressed."""

_RAW, _ZLIB, _ZSTD = range(3)  # how a part is stored; written into blobs
_CEILING = 1024**2  # bytes beyond which a sample is compressed first
_MOST = 16 * 1024**2  # bytes of a head that "auto" compresses at most, in about a tenth of a second
_HALF, _HARDLY = 0.5, 0.9  # parts of its size to which a part must shrink: by itself, and where it was asked for
_SAMPLES, _SAMPLE = 16, 64 * 1024  # how many pieces of how many bytes make a sample
_LEVELS = {_ZLIB: 1, _ZSTD: 3}


def check_mode(mode: str) -> str:
    """Return `mode` if it can be used here.

    Raises:
        SettingsError: There is no such mode, or the package that it needs is missing.
    """
    if mode not in MODES:
        raise SettingsError(f"cache_compress={mode!r}: use one of {', '.join(MODES)}.", field="cache_compress")
    if mode == "zstd":
        try:
            _zstd()
        except CacheError as error:
            raise SettingsError(f"cache_compress='zstd': {error}", field="cache_compress") from None
    return mode


def squeezed(packed: Packed, mode: str, *, inline: int, mapped: bool) -> Packed:
    """Return a result with those of its parts compressed that are worth it.

    Args:
        packed: The result.
        mode: One of `MODES`.
        inline: Bytes below which "auto" may compress buffers too, since the result is not mapped from a file.
        mapped: Whether buffers are to stay as they are in any case.
    """
    if mode == "off":
        return packed
    parts = [packed.head, *packed.buffers]
    auto, codec = mode == AUTO, _ZSTD if mode == "zstd" else _ZLIB
    keep = mapped or (auto and packed.size >= inline)
    stored: list[Any] = []
    plain: list[tuple[int, int]] = []
    for part in parts:
        length = memoryview(part).nbytes
        shorter = None
        if length >= FLOOR and not (stored and keep) and not (auto and length > _MOST):
            shorter = _shorter(part, codec, _HALF if auto else _HARDLY)
        stored.append(part if shorter is None else shorter)
        plain.append((_RAW if shorter is None else codec, length))
    if all(how == _RAW for how, _ in plain):
        return packed
    return Packed(stored[0], tuple(stored[1:]), tuple(plain))


def inflated(packed: Packed) -> Packed:
    """Return a result as it was before `squeezed`; what was compressed comes back in memory that can be written.

    Raises:
        Damaged: Something is torn, or has another length than it should.
        CacheError: The package that is needed is missing.
    """
    if not packed.plain:
        return packed
    parts: Iterable[Any] = (packed.head, *packed.buffers)
    head, *buffers = [_plain(part, *known) for part, known in zip(parts, packed.plain, strict=True)]
    return Packed(head, tuple(buffers))


def _shorter(part: Any, codec: int, ratio: float) -> bytes | None:
    """Return a part compressed, or None where it does not shrink to less than `ratio` of its size."""
    view = memoryview(part).cast("B")
    length = view.nbytes
    if length > _CEILING:
        step = length // _SAMPLES
        sample = b"".join(view[start : start + _SAMPLE] for start in range(0, step * _SAMPLES, step))
        if len(_compress(sample, codec)) >= len(sample) * ratio:
            return None
    data = _compress(view, codec)
    return data if len(data) < length * ratio else None


def _compress(data: Any, codec: int) -> bytes:
    if codec == _ZLIB:
        import zlib  # most results are small

        return zlib.compress(data, _LEVELS[codec])
    module = _zstd()
    if module.__name__ == "zstandard":
        return bytes(module.ZstdCompressor(level=_LEVELS[codec]).compress(data))
    return bytes(module.compress(data, _LEVELS[codec]))


def _plain(part: Any, codec: int, length: int) -> Any:
    """Return a part as it was; never more than `length` bytes and one are inflated."""
    if codec == _RAW:
        return part
    try:
        if codec == _ZLIB:
            import zlib

            data = _bounded(zlib.decompressobj(), part, length)
        elif codec == _ZSTD:
            module = _zstd()
            if module.__name__ == "zstandard":
                with module.ZstdDecompressor().stream_reader(part) as reader:
                    data = bytearray(reader.read(length + 1))
            else:
                data = _bounded(module.ZstdDecompressor(), part, length)
        else:
            raise Damaged(f"it is compressed in a way ({codec}) that this nbflow does not know")
    except (Damaged, CacheError, MemoryError):
        raise
    except Exception as error:  # each package has its own type for torn data
        raise Damaged(f"its compressed data are torn ({error})") from None
    if len(data) != length:
        raise Damaged("its compressed data have another length than was signed")
    return data


def _bounded(inflater: Any, part: Any, length: int) -> bytearray:
    data = bytearray(inflater.decompress(part, length + 1))
    if not inflater.eof:
        raise Damaged("its compressed data are cut off, or longer than was signed")
    return data


def _zstd() -> Any:
    """Return the module that has zstd: that of the standard library (Python 3.14), else `zstandard`.

    Raises:
        CacheError: There is none.
    """
    from importlib import import_module

    for name in ("compression.zstd", "zstandard"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise CacheError(
        "zstd is in Python's library from 3.14 on; run `pip install zstandard`, or set cache_compress to 'zlib'."
    )
