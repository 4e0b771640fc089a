"""`as_completed`: handles in the order in which they end.

It works with `for` and `async for`. Whoever iterates inside a pool gets help while it waits, so that never deadlocks;
an interrupt while it waits ends what it waits for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from nbflow._clock import SYSTEM_CLOCK
from nbflow._helping import Helper
from nbflow.errors import DefinitionError, TaskTimeoutError
from nbflow.handles import TaskHandle
from nbflow.runtime.stopping import wake_s

__all__ = ["as_completed"]

T = TypeVar("T")


class as_completed(Generic[T]):  # noqa: N801 - a function to its users, as in concurrent.futures
    """Iterate over handles in the order in which they end; works with `for` and `async for`.

    Args:
        handles: Handles from `submit`.
        timeout: Seconds for all of them together; None for as long as it takes.

    Raises:
        TaskTimeoutError: Some have not ended within `timeout` (raised while iterating).

    An interrupt while it waits cancels all of them that have not ended, as does the cancellation of its awaiting task.
    """

    def __init__(self, handles: Iterable[TaskHandle[T]], timeout: float | None = None) -> None:
        self._handles = list(handles)
        for handle in self._handles:
            if not isinstance(handle, TaskHandle):
                raise DefinitionError(f"as_completed needs handles from submit(...), not {handle!r}.")
        self._timeout = timeout

    def __iter__(self) -> Iterator[TaskHandle[T]]:
        ended: SimpleQueue[TaskHandle[T]] = SimpleQueue()
        deadline = None if self._timeout is None else SYSTEM_CLOCK.monotonic() + self._timeout
        handles, tell = dict.fromkeys(self._handles), ended.put
        helper = Helper(handles)
        for handle in handles:
            handle.add_done_callback(tell)
        try:
            for left in range(len(handles), 0, -1):
                helper.begin()
                found = _next(ended, deadline)
                helper.pause()
                if found is None:
                    raise self._too_late(left)
                yield found
        except KeyboardInterrupt:
            self._give_up("interrupt")
            raise
        finally:
            helper.end()
            for handle in handles:
                handle._drop_callback(tell)

    def _give_up(self, reason: str) -> None:
        for handle in reversed(self._handles):  # a worker that is freed must not find one that waits
            handle._give_up(reason)

    def _too_late(self, left: int) -> TaskTimeoutError:
        return TaskTimeoutError(
            f"{left} of {len(self._handles)} tasks have not ended within {self._timeout:g} s; they go on.",
            timeout_s=self._timeout,
            stopped=False,
        )

    async def __aiter__(self) -> AsyncIterator[TaskHandle[T]]:
        import asyncio

        here = asyncio.get_running_loop()
        ended: asyncio.Queue[TaskHandle[T]] = asyncio.Queue()

        def tell(found: TaskHandle[T]) -> None:
            if not here.is_closed():  # else nobody waits any more
                here.call_soon_threadsafe(ended.put_nowait, found)

        handles = dict.fromkeys(self._handles)
        helper = Helper(handles)
        for handle in handles:
            handle.add_done_callback(tell)
        deadline = None if self._timeout is None else here.time() + self._timeout
        try:
            for left in range(len(handles), 0, -1):
                helper.begin()
                try:
                    async with asyncio.timeout_at(deadline):
                        found = await ended.get()
                except TimeoutError:
                    raise self._too_late(left) from None
                except asyncio.CancelledError:
                    self._give_up("its awaiting task was cancelled")
                    raise
                helper.pause()
                yield found
        finally:
            helper.end()
            for handle in handles:
                handle._drop_callback(tell)


def _next(ended: SimpleQueue[TaskHandle[T]], deadline: float | None) -> TaskHandle[T] | None:
    """Return the next one to end, or None at the deadline."""
    while True:
        try:
            return ended.get(timeout=wake_s(deadline))
        except Empty:
            if deadline is not None and SYSTEM_CLOCK.monotonic() >= deadline:
                return None
