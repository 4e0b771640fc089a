"""Arrays of NumPy that share memory: which of them do, which has all of it, and views of it made again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["carrier_of", "covers", "groups_in_memory", "is_array", "make_view", "owner_of", "view_of"]


def is_array(value: Any) -> bool:
    """Whether `value` is a NumPy array, without importing NumPy."""
    return any(kind.__module__ == "numpy" and kind.__name__ == "ndarray" for kind in type(value).__mro__[:-1])


def owner_of(value: Any) -> Any:
    """Return the object at the bottom that has the memory of an array."""
    while getattr(value, "base", None) is not None:
        value = value.base
    return value


def _bounds(value: Any) -> tuple[int, int]:
    import numpy

    module: Any = numpy.lib.array_utils if hasattr(numpy.lib, "array_utils") else numpy
    low, high = module.byte_bounds(value)
    return int(low), int(high)


def covers(known: Any, value: Any) -> bool:
    """Whether the memory of `value` lies in that of `known`, which has no gaps."""
    if not (known.flags.c_contiguous or known.flags.f_contiguous):
        return False
    (low, high), (first, last) = _bounds(known), _bounds(value)
    return low <= first and last <= high


def view_of(base: Any, value: Any) -> tuple[Any, ...]:
    """Return how to make the view `value` from `base`: offset in bytes, shape, strides, type, if it is writable."""
    place = value.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return place, value.shape, value.strides, value.dtype, bool(value.flags.writeable)


def make_view(base: Any, place: int, shape: Any, strides: Any, dtype: Any, writeable: bool) -> Any:
    """Return the view of `base` that `view_of` described."""
    import numpy

    flat: Any = base.reshape(-1, order="A").view("u1")
    view: Any = numpy.ndarray(shape, dtype, buffer=flat.data, offset=place, strides=strides)
    view.flags.writeable = writeable
    return view


def carrier_of(arrays: list[Any]) -> Any:
    """Return an array that has the memory of all these, which share one owner; None if there is none."""
    owner = owner_of(arrays[0])
    found = [*sorted(arrays, key=lambda each: -each.nbytes), *([owner] if is_array(owner) else [])]
    return next((each for each in found if all(covers(each, other) for other in arrays)), None)


def groups_in_memory(arrays: Iterable[Any]) -> list[list[Any]]:
    """Return those of different arrays that share memory, by the owner of that."""
    found: dict[int, list[Any]] = {}
    for array in arrays:
        if not array.dtype.hasobject:
            found.setdefault(id(owner_of(array)), []).append(array)
    return [group for group in found.values() if len(group) > 1]
