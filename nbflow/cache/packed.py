"""Long sequences of simple values, encoded at the speed of memory.

What a sequence says decides how it is written, never how it is stored: members of one type are packed as numbers or
as one text, mixed ones by type with a list of who is where. Text is read in blocks that fit into the processor's
cache, so that each string is fetched from memory once.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Sequence

from xxhash import xxh3_128

from nbflow._typing import Any
from nbflow.cache.parts import hashed

__all__ = ["packed", "packed_texts"]

_BLOCK = 2048
_TEXT = {str}
_SIMPLE = frozenset({str, int, float, bool, type(None)})
_LITTLE = sys.byteorder == "little"


def packed(items: list[Any] | tuple[Any, ...]) -> bytes | None:
    """Encode members of simple types, or return None where one is of another type or does not fit."""
    if type(items[0]) is str:
        texts = packed_texts(items.__getitem__, len(items))
        if texts is not None:
            return texts
    kinds = set(map(type, items))
    if not kinds <= _SIMPLE:
        return None
    if len(kinds) == 1:
        return _alike(kinds.pop(), items)
    order = sorted(kinds, key=lambda kind: kind.__name__)
    places = {kind: place for place, kind in enumerate(order)}
    pieces = [" ".join(kind.__name__ for kind in order).encode(), bytes(map(places.__getitem__, map(type, items)))]
    for kind in order:
        piece = _alike(kind, [item for item in items if type(item) is kind])
        if piece is None:
            return None
        pieces.append(piece)
    return hashed(b"px", *pieces)


def packed_texts(read: Callable[[slice], Sequence[Any]], count: int) -> bytes | None:
    """Encode texts, joined by NUL; only where that is in a text itself, lengths are needed to tell them apart.

    Args:
        read: Returns the members in a slice.
        count: How many there are, at least one.

    Returns:
        Their encoding, or None where one is no exact `str` or is not valid Unicode.
    """
    state, seams = xxh3_128(), -1
    try:
        for start in range(0, count, _BLOCK):
            block = read(slice(start, start + _BLOCK))
            if set(map(type, block)) != _TEXT:
                return None
            text = "\0".join(block)
            if start:
                state.update(b"\0")
            state.update(text.encode())
            seams += text.count("\0") + 1
    except UnicodeEncodeError:
        return None
    if seams == count - 1:
        return b"pt" + state.digest()
    lengths = [len(text) for start in range(0, count, _BLOCK) for text in read(slice(start, start + _BLOCK))]
    return hashed(b"ps", _longs(lengths), state.digest())


def _alike(kind: type, items: list[Any] | tuple[Any, ...]) -> bytes | None:
    """Encode members that are all of one type."""
    if kind is str:
        return packed_texts(items.__getitem__, len(items))
    if kind is int:
        try:
            return hashed(b"pi", _longs(items))
        except OverflowError:
            return None
    if kind is float:
        total = sum(items)
        numbers = array("d", items if total == total else [item if item == item else float("nan") for item in items])
        if not _LITTLE:
            numbers.byteswap()
        return hashed(b"pf", numbers.tobytes())
    return hashed(b"pb", bytes(items)) if kind is bool else hashed(b"pn", b"%x" % len(items))


def _longs(items: Iterable[int]) -> bytes:
    numbers = array("q", items)
    if not _LITTLE:
        numbers.byteswap()
    return numbers.tobytes()
