"""The four drivers: how the steps of `core.attempts` are performed in a blocking, awaiting or iterating world.

A driver is one loop: send the last reply, perform the step, repeat. What does not depend on the world (cache, dataset,
facts) is in `steps`; the drivers differ in how they call and wait. Calls that need none of this take the short lanes
of `lanes`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from nbflow._typing import Any
from nbflow.core.attempts import Call as CallStep
from nbflow.core.attempts import Emit, Outcome, Raised, Returned, Wait
from nbflow.core.spec import TaskSpec
from nbflow.runtime.current import Call, Remote, enter, frame, restore
from nbflow.runtime.emit import emit
from nbflow.runtime.steps import Steps, as_failure, cancelled_error, failed, timed_out
from nbflow.runtime.stopping import Alarm, DeadlineReached, Region, Stopped, call_detached, can_alarm

__all__ = [
    "attempt",
    "drive_async",
    "drive_sync",
    "failed",
    "run_async",
    "run_async_stream",
    "run_stream",
    "run_sync",
]

_monotonic = time.perf_counter


def run_sync(
    spec: TaskSpec,
    session: Any,
    parent: Call | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    index: int | None = None,
    map: Any = None,
    remote: Remote | None = None,
) -> Any:
    """Run one call of a synchronous task to its end.

    Args:
        spec: The task.
        session: The session to run in.
        parent: The call that makes this one, if any.
        args: Positional arguments.
        kwargs: Keyword arguments.
        index: Position in a map.
        map: The map that the call is an item of.
        remote: How to make its attempts, where that is not in this process; a task of any kind then gives a value.

    Returns:
        What the function returned, now or when its result was cached.

    Raises:
        ParameterError: The arguments do not fit the signature.
        BaseException: What the function raised, with a note.
    """
    __tracebackhide__ = True
    call = Call(spec, session, parent, args, kwargs, index, map)
    call.remote = remote
    return drive_sync(call)


def drive_sync(call: Call) -> Any:
    """Run a call that was made before; see `run_sync`."""
    __tracebackhide__ = True
    steps = Steps(call)
    outer = frame()
    try:
        enter(call)
        step = steps.begin()
        while step is not None:
            kind = type(step)
            if kind is Emit:
                emit(call, step.fact, step.data, step.value)
                step = steps.send(None)
            elif kind is CallStep:
                step = steps.send(attempt(call))
            elif kind is Wait:
                step = steps.send(_wait(call, step.delay_s))
            else:
                step = steps.send(steps.perform(step))
    except BaseException as error:
        final = steps.abort(error)
        if final is error:
            raise
        raise final from final.__cause__
    finally:
        enter(outer)
    return steps.finish()


async def run_async(
    spec: TaskSpec,
    session: Any,
    parent: Call | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    index: int | None = None,
    map: Any = None,
) -> Any:
    """Run one call of an asynchronous task to its end, on the running loop; see `run_sync`."""
    __tracebackhide__ = True
    return await drive_async(Call(spec, session, parent, args, kwargs, index, map))


async def drive_async(call: Call) -> Any:
    """Run a call that was made before; see `run_async`."""
    __tracebackhide__ = True
    import asyncio

    steps = Steps(call)
    token = enter(call)
    try:
        step = steps.begin()
        while step is not None:
            if type(step) is CallStep:
                step = steps.send(await _attempt_async(call, asyncio))
            elif type(step) is Wait:
                step = steps.send(await _wait_async(call, step.delay_s, asyncio))
            elif type(step) is Emit or not steps.blocks(step):
                step = steps.send(steps.perform(step))
            else:
                step = steps.send(await steps.perform_async(step, asyncio))
    except BaseException as error:
        final = steps.abort(error)
        if final is error:
            raise
        raise final from final.__cause__
    finally:
        restore(token)
    return steps.finish()


def run_stream(
    spec: TaskSpec, session: Any, parent: Call | None, args: tuple[Any, ...], kwargs: dict[str, Any], *place: Any
) -> Iterator[Any]:
    """Run one call of a stream task, handing out its items; the frame is set around each resumption only."""
    __tracebackhide__ = True
    call = Call(spec, session, parent, args, kwargs, *place)
    steps = Steps(call)
    items: list[Any] | None = [] if spec.dataset else None
    try:
        step = steps.begin()
        while step is not None:
            if type(step) is not CallStep:
                step = steps.send(_inside(call, steps.perform, step))
                continue
            out: Outcome | None = None
            source: Iterator[Any] | None = None
            number = 0
            while out is None:
                try:
                    if source is None:
                        source = iter(_inside(call, spec.func, *args, **kwargs))
                    item = _inside(call, _next_item, call, source)
                except BaseException as error:
                    _inside(call, getattr(source, "close", _nothing))
                    out = Raised(as_failure(call, error))
                    break
                if item is _END:
                    out = Returned(items)
                    break
                emit(call, "ItemYielded", {"index": number})
                number += 1
                if items is not None:
                    items.append(item)
                try:
                    yield item
                except BaseException as error:  # closed early, or thrown into
                    _inside(call, getattr(source, "close", _nothing))
                    out = Raised(error)
            step = steps.send(out)
    except BaseException as error:
        final = steps.abort(error)
        if final is error:
            raise
        raise final from final.__cause__
    out = steps.outcome
    if isinstance(out, Raised) and isinstance(out.error, GeneratorExit):
        return
    steps.finish()


async def run_async_stream(
    spec: TaskSpec, session: Any, parent: Call | None, args: tuple[Any, ...], kwargs: dict[str, Any], *place: Any
) -> AsyncIterator[Any]:
    """Run one call of an async stream task, handing out its items; see `run_stream`."""
    __tracebackhide__ = True
    import asyncio

    call = Call(spec, session, parent, args, kwargs, *place)
    steps = Steps(call)
    items: list[Any] | None = [] if spec.dataset else None
    try:
        step = steps.begin()
        while step is not None:
            if type(step) is not CallStep:
                blocks = type(step) is not Emit and steps.blocks(step)
                step = steps.send(
                    await steps.perform_async(step, asyncio) if blocks else _inside(call, steps.perform, step)
                )
                continue
            out: Outcome | None = None
            source: Any = None
            number = 0
            while out is None:
                token = enter(call)
                try:
                    if source is None:
                        source = aiter(spec.func(*args, **kwargs))
                    with _cancellable(call, asyncio):
                        item = await anext(source, _END)
                except BaseException as error:
                    if source is not None and hasattr(source, "aclose"):
                        await source.aclose()
                    out = Raised(as_failure(call, error))
                    break
                finally:
                    restore(token)
                if item is _END:
                    out = Returned(items)
                    break
                emit(call, "ItemYielded", {"index": number})
                number += 1
                if items is not None:
                    items.append(item)
                try:
                    yield item
                except BaseException as error:  # closed early, or thrown into
                    if hasattr(source, "aclose"):
                        await source.aclose()
                    out = Raised(error)
            step = steps.send(out)
    except BaseException as error:
        final = steps.abort(error)
        if final is error:
            raise
        raise final from final.__cause__
    out = steps.outcome
    if isinstance(out, Raised) and isinstance(out.error, GeneratorExit):
        return
    steps.finish()


_END = object()


def _nothing() -> None:
    """Stand in for the `close` of an iterator that has none."""


def _next_item(call: Call, source: Iterator[Any]) -> Any:
    """Return the next item, or `_END`; in a region that can be stopped."""
    __tracebackhide__ = True
    try:
        with Region() as region:
            call.stop = region.stop
            if call.cancel_reason is not None:
                raise Stopped
            return next(source, _END)
    finally:
        call.stop = None


def _inside(call: Call, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Call `func` with `call` as the current frame."""
    __tracebackhide__ = True
    outer = frame()
    try:
        enter(call)
        return func(*args, **kwargs)
    finally:
        enter(outer)


def attempt(call: Call) -> Outcome:
    """Call the user's function once, in a region that can be stopped and within its timeout."""
    __tracebackhide__ = True
    if call.remote is not None:
        return call.remote.attempt(call)
    spec = call.spec
    timeout = spec.policy.timeout_s
    alarm: Alarm | None = None
    if (reason := call.cancel_reason) is not None:
        return Raised(cancelled_error(call, reason))
    try:
        if timeout is not None and not can_alarm():
            return _attempt_detached(call, timeout)
        with Region() as region:
            call.stop = region.stop
            if call.cancel_reason is not None:  # asked for just before there was something to stop
                raise Stopped
            if timeout is None:
                return Returned(spec.func(*call.args, **call.kwargs))
            alarm = call.alarm = Alarm(timeout)
            with alarm:
                return Returned(spec.func(*call.args, **call.kwargs))
    except BaseException as error:
        return Raised(as_failure(call, error))
    finally:
        call.stop = None
        if alarm is not None:
            alarm.silence()


def _attempt_detached(call: Call, timeout: float) -> Outcome:
    """Call the function in a thread of its own, which may be left behind at the deadline."""
    __tracebackhide__ = True
    spec, args, kwargs = call.spec, call.args, call.kwargs
    stragglers: list[str] = []
    try:
        value = call_detached(
            lambda: spec.func(*args, **kwargs), timeout, cancelled=call.wait_flag(), left=stragglers.append
        )
    except DeadlineReached as error:
        if not error.detached:  # that of a call around this one
            raise
        return Raised(timed_out(call, stopped=not stragglers))
    finally:
        for worker in stragglers:
            emit(call, "StragglerLeft", {"worker": worker})
    return Returned(value)


def _wait(call: Call, delay_s: float) -> Raised | None:
    """Sleep before the next attempt; a cancellation ends it early."""
    try:
        with Region() as region:
            call.stop = region.stop
            if call.session.clock.monotonic is _monotonic:
                call.wait_flag().wait(delay_s)
            else:
                call.session.clock.sleep(delay_s)
    except BaseException as error:
        return Raised(as_failure(call, error))
    finally:
        call.stop = None
    if (reason := call.cancel_reason) is not None:
        return Raised(cancelled_error(call, reason))
    return None


async def _attempt_async(call: Call, asyncio: Any) -> Outcome:
    """Await the user's coroutine once, within its timeout."""
    __tracebackhide__ = True
    if (reason := call.cancel_reason) is not None:
        return Raised(cancelled_error(call, reason))
    timeout = call.spec.policy.timeout_s
    scope = asyncio.timeout(timeout)
    try:
        with _cancellable(call, asyncio):
            async with scope:
                return Returned(await call.spec.func(*call.args, **call.kwargs))
    except TimeoutError as error:
        own = timeout is not None and scope.expired()
        return Raised(timed_out(call, stopped=True) if own else error)
    except BaseException as error:
        return Raised(as_failure(call, error))


async def _wait_async(call: Call, delay_s: float, asyncio: Any) -> Raised | None:
    """Sleep on the loop before the next attempt; a cancellation ends it early."""
    try:
        with _cancellable(call, asyncio):
            if call.session.clock.monotonic is _monotonic:
                await asyncio.sleep(delay_s)
            else:
                call.session.clock.sleep(delay_s)
                await asyncio.sleep(0)
    except BaseException as error:
        return Raised(as_failure(call, error))
    return None


@contextmanager
def _cancellable(call: Call, asyncio: Any) -> Iterator[None]:
    """Let `call.cancel` end what the block awaits, by cancelling the asyncio task that awaits it."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()

    def cancel() -> None:
        if call.stop is stop:  # else the block is over, and the task does something else by now
            task.cancel()

    def stop() -> None:
        loop.call_soon_threadsafe(cancel)

    call.stop = stop
    if call.cancel_reason is not None:
        stop()
    try:
        yield
    except asyncio.CancelledError:
        if call._cancel_reason is not None:
            task.uncancel()  # it was ours: the call is cancelled, the task around it goes on
        raise
    finally:
        call.stop = None
