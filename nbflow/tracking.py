"""`progress`: tell the panel how far a loop inside a task is.

Wrapping an iterable costs a counter and a look at the clock per item; an event is only made ten times a second, and
only while somebody listens. Outside of a running call the items are simply passed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from nbflow.errors import DefinitionError
from nbflow.runtime.current import current_call
from nbflow.runtime.emit import emit

__all__ = ["progress"]

T = TypeVar("T")

_EVERY_S = 0.1


def progress(iterable: Iterable[T], *, total: float | None = None, label: str | None = None) -> Iterator[T]:
    """Pass on the items of a loop, and tell how many of them are done.

    Args:
        iterable: What to loop over.
        total: How many items there will be; None for its length, where it has one.
        label: What is being counted, in a word.

    Returns:
        An iterator over the same items. The row of the task that runs it shows done, total and label.

    Raises:
        DefinitionError: `iterable` cannot be iterated, or `total` is no number ≥ 0.
    """
    if not isinstance(iterable, Iterable):
        raise DefinitionError(f"progress({iterable!r}): this cannot be iterated; give a list, a range, a generator …")
    if total is not None and (isinstance(total, bool) or not isinstance(total, (int, float)) or not total >= 0):
        raise DefinitionError(f"progress(total={total!r}) must be a number of items ≥ 0, or None.")
    known = len(iterable) if total is None and isinstance(iterable, Sized) else total
    return _told(iterable, known, label)


def _told(iterable: Iterable[T], total: float | None, label: str | None) -> Iterator[T]:
    call = current_call()
    if call is None or not (call.session.listening or call.progress is not None):
        yield from iterable
        return
    clock = call.session.clock.monotonic
    done, due = 0, clock() + _EVERY_S
    emit(call, "ProgressMade", {"done": 0, "total": total, "label": label})
    for item in iterable:
        yield item
        done += 1
        if clock() >= due:
            due = clock() + _EVERY_S
            emit(call, "ProgressMade", {"done": done, "total": total, "label": label})
    emit(call, "ProgressMade", {"done": done, "total": total, "label": label})
