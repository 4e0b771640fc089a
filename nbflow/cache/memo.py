"""Digests of large values that provably did not change, remembered by identity.

A result that is mapped read-only from its blob cannot change, so its digest need not be worked out again at every
step of a chain, whatever its size. `remember` is told such digests, `recall` returns one after a look of some
microseconds at whether the value is still the same; nothing here keeps a large value alive. The proofs:

* An array counts while neither it nor any array below it can be written, down to bytes or a read-only map. An array
  whose owner merely switched writing off is no proof: the owner can switch it on again.
* A frame or series counts while it is made of the same blocks of such arrays, under the same labels and names.
* Arrow's tables and arrays cannot be changed once their buffers are of that kind too.
* Long text and bytes cannot change at all; a bounded number of them is kept, as nothing else vouches for an `id`.
* A tuple, list or dict counts by its members, which must be the same objects.

What has no proof is not remembered and is digested each time. There is no code in any of these values, so their
digests mean the same in every walk.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable

from nbflow._typing import Any, TypeAlias
from nbflow._util import package_of

__all__ = ["LARGE", "known", "recall", "remember"]

LARGE = 64 * 1024
"""Bytes from which remembering a digest is quicker than working it out again."""

_Proof: TypeAlias = Callable[[Any], bool]

_TEXT_BYTES = 256 * 1024**2  # of long text and bytes that are kept
_SMALL = 2048  # bytes that are quicker compared than proved
_MEMBERS = 64  # members of a container, blocks of a frame and labels of an axis that are looked at
_SIMPLE = frozenset({int, float, complex, bool, str, bytes, type(None)})
_CONTAINERS = frozenset({tuple, list, dict})
_lock = threading.RLock()


class _Known:
    """A digest, the proof that it still holds, and what dies with the value."""

    __slots__ = ("content", "holds", "ref")

    def __init__(self, content: bytes, holds: _Proof, ref: Any) -> None:
        self.content = content
        self.holds = holds
        self.ref = ref


known: dict[Any, _Known] = {}
"""What is remembered, by `id`, or by the ids of members; empty in most programs, so walks look here first."""

_containers: OrderedDict[tuple[Any, ...], None] = OrderedDict()  # keys of them in `known`, oldest first
_texts: OrderedDict[int, tuple[Any, bytes]] = OrderedDict()
_text_bytes = 0


def remember(value: object, content: bytes, origin: str = "") -> bool:
    """Remember the canonical bytes of a value for as long as it provably does not change; safe from any thread.

    Args:
        value: A value that was made over read-only memory.
        content: What `content_bytes(value)` returns.
        origin: The task that made it, for people; not kept for values without a proof.

    Returns:
        Whether there is a proof; without one nothing is remembered.
    """
    kind = type(value)
    if kind in (bytes, str):
        return _remember_text(value, content)
    if kind in _CONTAINERS:
        return _remember_container(value, content)
    holds = _proof(value)
    if holds is None:
        return False
    key = id(value)
    try:
        ref = weakref.ref(value, lambda _: known.pop(key, None))
    except TypeError:
        return False
    known[key] = _Known(content, holds, ref)
    return True


def recall(value: object) -> bytes | None:
    """Return the canonical bytes of a value that was remembered and did not change since; safe from any thread."""
    kind = type(value)
    if kind in (bytes, str):
        text = _texts.get(id(value))
        return text[1] if text is not None and text[0] is value else None
    key = _container_key(value) if kind in _CONTAINERS else id(value)
    found = known.get(key)
    if found is None:
        return None
    if (found.ref is None or found.ref() is value) and found.holds(value):
        return found.content
    known.pop(key, None)
    return None


# -- text and containers


def _remember_text(value: Any, content: bytes) -> bool:
    global _text_bytes
    size = sys.getsizeof(value)
    if not LARGE <= size <= _TEXT_BYTES:
        return False
    with _lock:
        if id(value) not in _texts:
            _text_bytes += size
        _texts[id(value)] = (value, content)
        while _text_bytes > _TEXT_BYTES:
            _text_bytes -= sys.getsizeof(_texts.popitem(last=False)[1][0])
    return True


def _container_key(value: Any) -> tuple[Any, ...] | None:
    """Return what is the same for every container of the same members; None for a large one."""
    if len(value) > _MEMBERS:
        return None
    if type(value) is not dict:
        return (type(value), *map(id, value))
    return (dict, *value, *map(id, value.values())) if all(type(name) is str for name in value) else None


def _remember_container(value: Any, content: bytes) -> bool:
    members = tuple(value.values()) if type(value) is dict else tuple(value)
    key = _container_key(value)
    if key is None or all(type(member) in _SIMPLE for member in members):
        return False
    kept: list[tuple[Callable[[], Any], _Proof | None]] = []
    for member in members:
        if type(member) in _SIMPLE and sys.getsizeof(member) < LARGE:
            kept.append(((lambda same: lambda: same)(member), None))
            continue
        holds = _proof(member)
        if holds is None:
            return False
        try:
            kept.append((weakref.ref(member, lambda _: known.pop(key, None)), holds))
        except TypeError:
            return False

    def same(found: Any) -> bool:
        others = found.values() if type(found) is dict else found
        return all(
            ref() is other and (holds is None or holds(other)) for (ref, holds), other in zip(kept, others, strict=True)
        )

    with _lock:
        known[key] = _Known(content, same, None)
        _containers[key] = None
        while len(_containers) > _MEMBERS:
            known.pop(_containers.popitem(last=False)[0], None)
    return True


# -- proofs


def _proof(value: Any) -> _Proof | None:
    """Return a function that tells whether `value` is still what it is now, or None where nothing can tell."""
    kind = type(value)
    find = _PROOFS.get(f"{package_of(kind)}.{kind.__qualname__}")
    return find(value) if find is not None else None


def _is_sealed(memory: Any) -> bool:
    """Whether nobody in this process can write to a piece of memory."""
    while type(memory).__name__ == "ndarray":
        if memory.flags.writeable:
            return False
        memory = memory.base
    if isinstance(memory, memoryview):
        if not memory.readonly:
            return False
        memory = memory.obj
    return isinstance(memory, bytes) or (type(memory).__module__ == "mmap" and memoryview(memory).readonly)


def _array(value: Any) -> _Proof | None:
    if value.dtype.hasobject or value.flags.writeable or not _is_sealed(value.base):
        return None
    shape, strides, dtype, base = value.shape, value.strides, value.dtype, value.base
    return lambda now: now.base is base and now.shape == shape and now.strides == strides and now.dtype is dtype


def _extension(values: Any) -> _Proof | None:
    """Prove a column that pandas keeps in a class of its own: by the arrays that it is made of, and its type."""
    name = type(values).__name__
    places = ("_pa_array",) if name.startswith("Arrow") else _PLACES.get(name)
    if places is None:
        return None
    dtype = values.dtype
    proofs = [(place, memory, _proof(memory)) for place in places for memory in (getattr(values, place),)]
    if name == "Categorical":
        proofs.append(("categories", dtype.categories, _labels(dtype.categories)))
    if any(holds is None for _, _, holds in proofs):
        return None

    def same(now: Any) -> bool:
        if now.dtype is not dtype and now.dtype != dtype:
            return False
        for place, memory, holds in proofs:
            found = getattr(now, place)
            if found is not memory or holds is None or not holds(found):
                return False
        return True

    return same


_PLACES = {
    "BooleanArray": ("_data", "_mask"),
    "Categorical": ("_ndarray",),
    "DatetimeArray": ("_ndarray",),
    "FloatingArray": ("_data", "_mask"),
    "IntegerArray": ("_data", "_mask"),
    "TimedeltaArray": ("_ndarray",),
}


def _labels(index: Any) -> _Proof | None:
    """Prove the labels of an axis: a range, few enough to be compared, or over sealed memory."""
    name = index.name
    if type(name) not in _SIMPLE or type(index).__name__ == "MultiIndex":
        return None
    if type(index).__name__ == "RangeIndex":
        return lambda now: now is index and now.name == name
    memory = index._data
    holds = _array(memory) if type(memory).__name__ == "ndarray" else _extension(memory)
    if holds is not None:
        return lambda now: now is index and now.name == name and now._data is memory and holds(memory)
    labels = list(index) if len(index) <= _MEMBERS else [None, ()]
    if not all(type(label) in _SIMPLE for label in labels):
        return None
    return lambda now: now is index and now.name == name and list(now) == labels


def _frame(value: Any) -> _Proof | None:
    """Prove a frame or series by its blocks and axes, without touching its data."""
    manager = value._mgr
    blocks, axes = tuple(manager.blocks), tuple(manager.axes)
    if value.attrs or len(blocks) > _MEMBERS:
        return None
    kept: list[tuple[Any, Any, _Proof]] = []
    for block in blocks:
        values = block.values
        plain = type(values).__name__ == "ndarray"
        proof = _array(values) if plain else _extension(values)
        if proof is None:
            return None
        kept.append((values, block.mgr_locs, proof))
    labels = [_labels(axis) for axis in axes]
    if None in labels:
        return None
    named = hasattr(value, "name") and value.ndim == 1
    name = value.name if named else None
    if name is not None and type(name) not in _SIMPLE:
        return None

    def same(now: Any) -> bool:
        manager = now._mgr
        if now.attrs or len(manager.blocks) != len(kept) or (named and now.name != name):
            return False
        for block, (values, places, proof) in zip(manager.blocks, kept, strict=True):
            if block.values is not values or block.mgr_locs is not places or not proof(values):
                return False
        return all(holds is not None and holds(axis) for holds, axis in zip(labels, manager.axes, strict=True))

    return same


def _arrow(value: Any) -> _Proof | None:
    """Prove an Arrow value: it has no way to be changed, if its buffers have none."""
    arrays = getattr(value, "chunks", None)
    if hasattr(value, "columns"):
        arrays = [chunk for column in value.columns for chunk in getattr(column, "chunks", [column])]
    small: list[tuple[Any, bytes]] = []  # of those that can be written, which are compared
    for array in [value] if arrays is None else arrays:
        for buffer in array.buffers():
            if buffer is None or not buffer.is_mutable:
                continue
            if buffer.size > _SMALL or len(small) >= _MEMBERS:
                return None
            small.append((buffer, buffer.to_pybytes()))
    return lambda _: all(buffer.to_pybytes() == data for buffer, data in small)


_PROOFS: dict[str, Callable[[Any], _Proof | None]] = {
    "numpy.ndarray": _array,
    "pandas.DataFrame": _frame,
    "pandas.Series": _frame,
    "pyarrow.Table": _arrow,
    "pyarrow.RecordBatch": _arrow,
    "pyarrow.ChunkedArray": _arrow,
}
