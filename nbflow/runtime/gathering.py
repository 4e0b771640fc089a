"""Running the items of a map on the running event loop, at most so many at a time.

Each item is awaited by an asyncio task; with a limit, so many tasks take one item after the other. The first failure
cancels all tasks and awaits them. An item that is cancelled alone ends, and the task that ran it goes on to the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from nbflow.runtime import loop
from nbflow.runtime.maps import MapState

__all__ = ["gather"]


async def gather(state: MapState, one: Callable[[int], Awaitable[Any]], *, limit: int | None) -> list[Any]:
    """Await every item of `state` and return the results in order.

    Args:
        state: The map; where it is `untracked`, single items are cancelled by cancelling the task that awaits them.
        one: Returns what awaits item `index`.
        limit: At most so many items at a time; None for all of them.

    Raises:
        BaseException: The first failure, or the interrupt, that stopped the map.
    """
    __tracebackhide__ = True
    work = _Gathering(state, one)
    state.begin()
    try:
        async with loop.heartbeat():
            await work.run(limit)
    except BaseException as error:
        state.stop("interrupt" if isinstance(error, KeyboardInterrupt) else type(error).__name__, error)
        await work.cancel()
    finally:
        state.end()
    try:
        return state.outcome()
    finally:
        state.forget()


class _Gathering:
    def __init__(self, state: MapState, one: Callable[[int], Awaitable[Any]]) -> None:
        self._state = state
        self._one = one
        self._indices = iter(range(state.total))
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: Callable[[int], asyncio.Task[None]] = self._tasks.__getitem__  # whichever task awaits an item
        self._slots = state.slots
        self._clock = state.session.clock.monotonic
        here = asyncio.get_running_loop()
        state.on_stop = lambda: here.call_soon_threadsafe(self._cancel_all)
        if state.untracked:  # else its call ends itself
            state.on_drop = lambda index: here.call_soon_threadsafe(self._cancel_item, index)

    async def run(self, limit: int | None) -> None:
        """Run all items."""
        total, create = self._state.total, asyncio.get_running_loop().create_task
        if limit is not None and limit < total:
            running: dict[int, asyncio.Task[None]] = {}
            self._runner = running.__getitem__
            self._tasks.extend(create(self._several(running)) for _ in range(limit))
        else:
            self._tasks.extend(create(self._item(index)) for index in range(total))
        await asyncio.gather(*self._tasks)

    async def cancel(self) -> None:
        """End what runs, and wait for that."""
        self._cancel_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _cancel_item(self, index: int) -> None:
        if index in self._slots:  # else it has not begun, or has ended
            self._runner(index).cancel()

    async def _several(self, running: dict[int, Any]) -> None:
        me = asyncio.current_task()
        for index in self._indices:
            if self._state.cancel_reason is not None:
                return
            running[index] = me
            await self._item(index)
            del running[index]

    async def _item(self, index: int) -> None:
        state = self._state
        if index in state.dropped:
            state.drop(index)
            return
        self._slots[index] = [index, self._clock(), "loop"]
        try:
            state.results[index] = await self._one(index)
        except asyncio.CancelledError:
            if state.cancel_reason is None:
                raise
        except Exception as error:
            state.keep(index, error)
            if state.untracked and index in state.dropped and (me := asyncio.current_task()) is not None:
                me.uncancel()  # only this item was cancelled
        finally:
            del self._slots[index]
