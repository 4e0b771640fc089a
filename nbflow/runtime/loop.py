"""How a coroutine runs, wherever one is: the one place that knows event loops.

`run` is called by synchronous code that needs the result of a coroutine. It takes the first of these that fits:

1. inside a cell that nbflow made asynchronous: switch to the cell's driver, which awaits on the kernel's own loop
   (`bridged`);
2. no loop runs in this thread: `asyncio.run`; in a worker, a loop that the thread keeps from call to call;
3. `loop_bridge="thread"`, or a loop that cannot be patched (uvloop): a loop in a thread of its own;
4. a loop that is patched already, or the kernel's loop under a plain cell: nest-asyncio2, applied once, and said once.

An interrupt cancels and awaits what was started here; nothing goes on behind the prompt. asyncio is only imported when
needed.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

from nbflow._inside import stand_in
from nbflow._shield import shielded
from nbflow._steady import SteadyEvent
from nbflow._util import report
from nbflow.runtime.current import is_worker
from nbflow.runtime.stopping import wake_s

__all__ = ["bridged", "heartbeat", "run", "running_loop", "start_beat"]

T = TypeVar("T")

TICK_S = 0.05
"""How often a loop under `heartbeat` wakes; an interrupt of an awaiting cell is noticed at the next tick."""

_bridge: ContextVar[Any] = ContextVar("nbflow_bridge", default=None)


def running_loop() -> Any:
    """Return the event loop that runs in this thread, or None; does not import asyncio."""
    import sys

    if "asyncio" not in sys.modules:
        return None
    return sys.modules["asyncio"]._get_running_loop()


def run(coroutine: Coroutine[Any, Any, T], *, bridge: str = "auto") -> T:
    """Run a coroutine to its end from synchronous code and return its result.

    Args:
        coroutine: What to run.
        bridge: "auto", or "thread" to use a loop thread whenever a loop is running already.

    Raises:
        BaseException: What the coroutine raised; on KeyboardInterrupt its tasks were cancelled and awaited first.
    """
    __tracebackhide__ = True
    import asyncio

    loop = running_loop()
    if loop is None:
        if is_worker() or threading.current_thread() is not threading.main_thread():
            return _run_kept(coroutine)
        return asyncio.run(coroutine)
    if (switch := _switch()) is not None:
        result: T = switch(coroutine)
        return result
    if bridge == "thread" or not isinstance(loop, asyncio.BaseEventLoop):
        return _run_in_thread(coroutine)
    return _run_nested(loop, coroutine)


def _switch() -> Callable[[Awaitable[Any]], Any] | None:
    """Return how to await from here, if this code runs under `bridged` in this very greenlet."""
    bridge = _bridge.get()
    if bridge is None:
        return None
    import greenlet

    return bridge.wait_for if greenlet.getcurrent() is bridge.greenlet else None


class _Bridge:
    """A greenlet in which synchronous code can wait for awaitables of the loop around it."""

    __slots__ = ("greenlet",)

    def __init__(self, func: Callable[[], Any]) -> None:
        import greenlet

        self.greenlet: Any = greenlet.greenlet(func)

    def wait_for(self, awaitable: Awaitable[Any]) -> Any:
        return self.greenlet.parent.switch(awaitable)


async def bridged(func: Callable[[], Any]) -> Any:
    """Call synchronous `func` so that it may `run` coroutines on the loop that awaits this.

    Args:
        func: Called in a greenlet and a copy of the current context; if it returns a coroutine, that is driven
            in the same greenlet, so that synchronous code inside it can `run` coroutines too.

    Returns:
        What `func`, or its coroutine, returned.
    """
    __tracebackhide__ = True

    def body() -> Any:
        _bridge.set(bridge)
        value = func()
        if not isinstance(value, Coroutine):
            return value
        sent: Any = None
        error: BaseException | None = None
        while True:
            try:
                wanted = value.throw(error) if error is not None else value.send(sent)
            except StopIteration as stop:
                return stop.value
            try:
                sent, error = bridge.wait_for(_Raw(wanted)), None
            except BaseException as raised:
                sent, error = None, raised

    bridge = _Bridge(body)
    bridge.greenlet.gr_context = copy_context()
    wanted = bridge.greenlet.switch()
    while not bridge.greenlet.dead:
        try:
            reply = await wanted
        except BaseException as error:
            wanted = bridge.greenlet.throw(error)
        else:
            wanted = bridge.greenlet.switch(reply)
    return wanted


class _Raw:
    """Hand a value that a coroutine yielded to the event loop as it is."""

    __slots__ = ("wanted",)

    def __init__(self, wanted: Any) -> None:
        self.wanted = wanted

    def __await__(self) -> Any:
        return (yield self.wanted)


class _Kept:
    """A loop of one thread; to make one takes several times as long as to run a short coroutine on it."""

    __slots__ = ("_loop", "runner")

    def __init__(self) -> None:
        import asyncio

        self.runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)  # so that nobody else finds it
        self._loop = self.runner.get_loop()

    def __del__(self) -> None:
        self._loop.close()  # its thread has ended


_here = threading.local()


def _run_kept(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine on the loop that this thread keeps; one on which anything is left, or an error, is closed."""
    __tracebackhide__ = True

    kept: _Kept = getattr(_here, "kept", None) or _Kept()
    _here.kept = None
    runner, clean = kept.runner, False
    try:
        value = runner.run(coroutine, context=copy_context())
        clean = _is_empty(runner.get_loop())
    finally:
        if not clean:
            runner.close()
    if clean:
        _here.kept = kept
    return value


def _is_empty(loop: Any) -> bool:
    """Whether nothing of the calls before is left on a loop: no task, callback, timer, file, generator or thread.

    asyncio has no question for that, so this looks at what its own loops keep; of any other loop it says no.
    """
    import asyncio

    try:
        timers = [each for each in loop._scheduled if not each.cancelled()]
        files = len(loop._selector.get_map()) - 1  # the loop's own pipe, by which other threads wake it
        rest = timers or files or loop._ready or loop._asyncgens or loop._default_executor
        return not (rest or asyncio.all_tasks(loop))
    except AttributeError:
        return False


def _run_in_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine on a new loop in another thread, in a copy of this context."""
    __tracebackhide__ = True
    import asyncio

    over, interrupted = SteadyEvent(), threading.Event()
    out: list[Any] = []
    started: list[Any] = []

    async def main() -> T:
        started.append((asyncio.get_running_loop(), asyncio.current_task()))
        if interrupted.is_set():
            coroutine.close()
            raise asyncio.CancelledError
        return await coroutine

    def work() -> None:
        try:
            out.extend((True, asyncio.run(main())))
        except BaseException as error:
            out.extend((False, error))
        finally:
            over.set()

    thread = threading.Thread(target=copy_context().run, args=(stand_in(work),), name="nbflow-loop", daemon=True)
    try:
        shielded(thread.start)
        while not over.wait(wake_s(None)):
            pass
    except BaseException:
        interrupted.set()
        if started:
            loop, task = started[0]
            loop.call_soon_threadsafe(task.cancel)
        over.wait(2.0)
        raise
    thread.join()
    good, value = out
    if not good:
        raise value
    return value  # type: ignore[no-any-return]


_told = False


def _run_nested(loop: Any, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine on the loop that runs already, patching it on first use."""
    __tracebackhide__ = True
    import asyncio

    global _told
    if not hasattr(loop, "_nest_patched") and not hasattr(asyncio, "_nest_patched"):
        import nest_asyncio2

        nest_asyncio2.apply(loop)
        if not _told:
            _told = True
            report(
                "A plain cell asked for the result of a coroutine, so the kernel's event loop was patched with "
                "nest_asyncio2. To avoid that, `await` in the cell, or set NBFLOW_LOOP_BRIDGE=thread.",
                stacklevel=6,
            )
    task = loop.create_task(coroutine)
    try:
        return loop.run_until_complete(task)  # type: ignore[no-any-return]
    except BaseException:
        if not task.done():
            task.cancel()
            loop.run_until_complete(asyncio.wait([task], timeout=2.0))
        raise


class _Beat:
    """The ticker of one loop, shared by all blocks that want it."""

    __slots__ = ("blocks", "handle", "loop")

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.blocks = 0
        self.handle: Any = None

    def tick(self) -> None:
        self.handle = self.loop.call_later(TICK_S, self.tick)


_beats: dict[int, _Beat] = {}


def start_beat() -> Callable[[], None]:
    """Keep the loop of this thread waking every `TICK_S`, and return what stops that; without a loop nothing happens.

    ipykernel's handler for an awaiting cell schedules a cancellation without waking the loop's selector, so without a
    tick an interrupt waits for whatever the cell waits for. Only one ticker runs per loop, however many asked for it.
    """
    loop = running_loop()
    if loop is None:
        return lambda: None
    beat = _beats.setdefault(id(loop), _Beat(loop))
    beat.blocks += 1
    if beat.blocks == 1:
        beat.tick()
    done = False

    def stop() -> None:
        nonlocal done
        if not done:
            done = True
            beat.blocks -= 1
            if not beat.blocks:
                beat.handle.cancel()
                _beats.pop(id(loop), None)

    return stop


@asynccontextmanager
async def heartbeat() -> AsyncIterator[None]:
    """Keep the running loop waking while the block runs; see `start_beat`."""
    stop = start_beat()
    try:
        yield
    finally:
        stop()
