"""The four drivers: how the steps of `core.attempts` are performed in a blocking, awaiting, iterating or async-iterating world.

A driver is one loop: send the last reply, perform the step, repeat. What does not depend on the world (cache, dataset, facts)
is in `Steps`; the drivers differ in how they call and wait. Calls that need none of this take the short lanes of `lanes`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

from nbflow._util import one_line
from nbflow.core.attempts import (
    Call as CallStep,
)
from nbflow.core.attempts import (
    Emit,
    Hit,
    Lookup,
    Outcome,
    Publish,
    Raised,
    Returned,
    Save,
    Wait,
    attempts,
    ending,
)
from nbflow.core.spec import TaskSpec
from nbflow.errors import DatasetError, ParameterError, TaskCancelledError, TaskError, TaskTimeoutError
from nbflow.runtime.current import Call, enter, restore
from nbflow.runtime.emit import emit
from nbflow.runtime.stopping import Alarm, DeadlineReached, Region, Stopped, call_detached, can_alarm

__all__ = ["drive_async", "drive_sync", "failed", "run_async", "run_async_stream", "run_stream", "run_sync"]

_monotonic = time.perf_counter


def run_sync(
    spec: TaskSpec,
    session: Any,
    parent: Call | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    index: int | None = None,
    map: Any = None,
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

    Returns:
        What the function returned, now or when its result was cached.

    Raises:
        ParameterError: The arguments do not fit the signature.
        BaseException: What the function raised, with a note.
    """
    __tracebackhide__ = True
    return drive_sync(Call(spec, session, parent, args, kwargs, index, map))


def drive_sync(call: Call) -> Any:
    """Run a call that was made before; see `run_sync`."""
    __tracebackhide__ = True
    steps = Steps(call)
    token = enter(call)
    try:
        step = steps.begin()
        while step is not None:
            if type(step) is CallStep:
                step = steps.send(_attempt(call))
            elif type(step) is Wait:
                step = steps.send(_wait(call, step.delay_s))
            else:
                step = steps.send(steps.perform(step))
    except BaseException as error:
        final = steps.abort(error)
        if final is error:
            raise
        raise final
    finally:
        restore(token)
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
                step = steps.send(await asyncio.to_thread(steps.perform, step))
    except BaseException as error:
        final = steps.abort(error)
        if final is error:
            raise
        raise final
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
                    item = _inside(call, next, source, _END)
                except BaseException as error:
                    out = Raised(_as_failure(call, error))
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
        raise final
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
                    await asyncio.to_thread(steps.perform, step) if blocks else _inside(call, steps.perform, step)
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
                    item = await anext(source, _END)
                except BaseException as error:
                    out = Raised(_as_failure(call, error))
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
        raise final
    out = steps.outcome
    if isinstance(out, Raised) and isinstance(out.error, GeneratorExit):
        return
    steps.finish()


_END = object()


def _nothing() -> None:
    """Stand in for the `close` of an iterator that has none."""


def _inside(call: Call, func: Any, *args: Any, **kwargs: Any) -> Any:
    """Call `func` with `call` as the current frame."""
    __tracebackhide__ = True
    token = enter(call)
    try:
        return func(*args, **kwargs)
    finally:
        restore(token)


def failed(call: Call, error: BaseException) -> BaseException:
    """End a call of the short lane that raised `error`, and return what its caller should see."""
    if type(error) is TypeError and error.__traceback__ is not None and error.__traceback__.tb_next is None:
        _check_arguments(call)  # raised by the call itself, not inside the function
    call.attempts = 1
    failure = _as_failure(call, error)
    step = ending(failure, call.spec.policy)
    emit(call, step.fact, step.data)
    return _for_user(call, failure)


def _check_arguments(call: Call) -> None:
    """Raise `ParameterError` unless the arguments fit the signature."""
    try:
        call.spec.bind(*call.args, **call.kwargs)
    except TypeError as error:
        spec = call.spec
        text = str(error).replace("<lambda>", getattr(spec.func, "__name__", spec.name))
        call.forget()
        raise ParameterError(f"{text} (signature: {spec.name}{spec.signature})", task=spec.name) from None


class Steps:
    """One call's way through `attempts`, and the steps that do not depend on the driver's world."""

    __slots__ = ("_generator", "_store", "call", "outcome")

    def __init__(self, call: Call) -> None:
        spec = call.spec
        self.call = call
        self.outcome: Outcome | None = None
        self._store: Any = None
        self._generator: Generator[Any, Any, Outcome] = attempts(
            spec.policy,
            cached=bool(spec.cache),
            published=spec.dataset is not None,
            random=call.session.random,
        )

    def begin(self) -> Any:
        """Check the arguments and return the first step."""
        call = self.call
        _check_arguments(call)
        if call.spec.cache:
            self._store = call.session.cache_store_for(call.spec)
        return self.send(None)

    def send(self, reply: Any) -> Any:
        """Give the reply to the last step and return the next one, or None at the end."""
        try:
            return self._generator.send(reply)
        except StopIteration as stop:
            self.outcome = stop.value
            return None

    def blocks(self, step: Any) -> bool:
        """Whether performing `step` may take long, so that an event loop should not do it itself."""
        if type(step) is Lookup:
            digest = self.call.spec.keyer.quick(self.call.args, self.call.kwargs)
            return digest is None or self._store is None or self._store.peek(digest) is None
        return True

    def perform(self, step: Any) -> Any:
        """Perform a step other than `Call` and `Wait`."""
        kind = type(step)
        if kind is Emit:
            emit(self.call, step.fact, step.data, step.value)
            return None
        if kind is Lookup:
            return self._lookup()
        if kind is Save:
            return self._save(step.value)
        return self._publish(step)

    def _lookup(self) -> Hit | None:
        call, store = self.call, self._store
        spec = call.spec
        if store is None:
            return None
        ttl = spec.cache_ttl if spec.cache_ttl is not None else call.session.settings.cache_ttl
        try:
            digest = spec.keyer.quick(call.args, call.kwargs)
            if digest is not None and not call.session.settings.force:
                found = store.peek(digest, ttl)
                if found is not None:
                    return Hit(found.value, digest, found.saved_s)
            key = call.key = spec.keyer.key(call.inputs, call.args, call.kwargs)
            if spec.cache == "session" and key.scope != "session":
                key = call.key = _session_scoped(key)
            call.notes.extend(key.notes)
            if call.session.settings.force:
                call.reason = "recomputing was forced"
                return None
            found = store.fetch(key, ttl=ttl)
            if found is not None:
                return Hit(found.value, key.digest, found.saved_s)
            call.reason = store.explain(key)
        except Exception as error:
            self._cache_failed("read", error)
            return None
        emit(call, "CacheMiss", {"key": call.key.digest, "reason": call.reason})
        return None

    def _save(self, value: Any) -> None:
        call, store = self.call, self._store
        if store is None or call.key is None:
            return
        spec = call.spec
        began = call.session.clock.monotonic()
        try:
            saved = store.save(
                call.key,
                value,
                ttl=spec.cache_ttl if spec.cache_ttl is not None else call.session.settings.cache_ttl,
                cost_s=began - call.started,
                cell=call.session.label(),
            )
        except Exception as error:
            self._cache_failed("write", error)
            return
        took = call.session.clock.monotonic() - began
        emit(call, "CacheWritten", {"key": call.key.digest, "size_bytes": saved.size_bytes, "duration_s": took})

    def _cache_failed(self, stage: str, error: Exception) -> None:
        self.call.notes.append(f"not cached: {stage} failed: {one_line(error)}")
        emit(self.call, "CacheFailed", {"stage": stage, "error": one_line(error)})

    def _publish(self, step: Publish) -> Raised | None:
        """Save the result as a dataset; on a hit only where there is none yet."""
        call = self.call
        spec = call.spec
        try:
            store = call.session.dataset_store_for(spec.dataset_store)
            values = {**call.inputs, "map_index": "" if call.index is None else call.index}
            key = str(spec.dataset).format_map(values)
            if not (step.cached and store.exists(key)):
                call.session.save_dataset(key, step.value, format=spec.dataset_format, store=store, call=call)
        except Exception as error:
            if isinstance(error, DatasetError):
                return Raised(error)
            wrong = DatasetError(f"The result of {call.name!r} was computed but not saved as dataset: {one_line(error)}")
            wrong.__cause__ = error
            return Raised(wrong)
        return None

    def abort(self, error: BaseException) -> BaseException:
        """End a call whose driver itself was interrupted (a wrapper hook raised, an interrupt between two steps)."""
        call = self.call
        if isinstance(error, ParameterError) and call.started is None:
            return error
        failure = _as_failure(call, error)
        step = ending(failure, call.spec.policy)
        emit(call, step.fact, step.data)
        self._generator.close()
        return _for_user(call, failure)

    def finish(self) -> Any:
        """Return the result, or raise what the call ended with."""
        __tracebackhide__ = True
        out = self.outcome
        if isinstance(out, Returned):
            return out.value
        assert isinstance(out, Raised)
        raise _for_user(self.call, out.error)


def _session_scoped(key: Any) -> Any:
    from dataclasses import replace

    return replace(key, scope="session")


def _as_failure(call: Call, error: BaseException) -> BaseException:
    """Translate what reached the driver into what the call failed with."""
    reason = call.cancel_reason
    if isinstance(error, DeadlineReached):
        if error.alarm is None or error.alarm is call.alarm:
            return _timed_out(call, stopped=True)
        return error
    if isinstance(error, (KeyboardInterrupt, Stopped)) and reason is not None:
        return TaskCancelledError(f"Task {call.name!r} was cancelled ({reason}).", task=call.name, reason=reason)
    if isinstance(error, Stopped):
        return TaskCancelledError(f"Task {call.name!r} was stopped.", task=call.name, reason="stopped")
    if type(error).__name__ == "CancelledError" and call._cancel_reason is not None:
        return TaskCancelledError(f"Task {call.name!r} was cancelled ({reason}).", task=call.name, reason=reason)
    return error


def _timed_out(call: Call, *, stopped: bool) -> TaskTimeoutError:
    limit = call.spec.policy.timeout_s
    return TaskTimeoutError(
        f"Task {call.name!r} passed its timeout of {limit:g} s."
        + ("" if stopped else " Its code could not be stopped and still runs in the background."),
        task=call.name,
        timeout_s=limit,
        stopped=stopped,
    )


_NOTE = "nbflow: "


def _for_user(call: Call, error: BaseException) -> BaseException:
    """Return the error as its caller should see it: the user's own, with a note; or wrapped, where settings say so."""
    if isinstance(error, Exception):
        tries = call.attempts
        detail = f" after {tries} attempts" if tries > 1 else ""
        if call.session.settings.wrap_errors and not isinstance(error, TaskError):
            wrapped = TaskError(f"Task {call.name!r} failed{detail} with error: {error}", task=call.name, attempts=tries)
            wrapped.__cause__ = error
            return wrapped
        if not any(note.startswith(_NOTE) for note in getattr(error, "__notes__", ())):
            where = call.session.label()
            error.add_note(f"{_NOTE}in task {call.name!r}{detail}" + (f", {where}" if where else ""))
    return error


def _attempt(call: Call) -> Outcome:
    """Call the user's function once, in a region that can be stopped and within its timeout."""
    __tracebackhide__ = True
    spec = call.spec
    timeout = spec.policy.timeout_s
    if (reason := call.cancel_reason) is not None:
        return Raised(TaskCancelledError(f"Task {call.name!r} was cancelled ({reason}).", task=call.name, reason=reason))
    try:
        if timeout is not None and not can_alarm():
            return _attempt_detached(call, timeout)
        with Region() as region:
            call.stop = region.stop
            if call.cancel_reason is not None:  # asked for just before there was something to stop
                raise Stopped
            if timeout is None:
                return Returned(spec.func(*call.args, **call.kwargs))
            with Alarm(timeout) as alarm:
                call.alarm = alarm
                return Returned(spec.func(*call.args, **call.kwargs))
    except BaseException as error:
        return Raised(_as_failure(call, error))
    finally:
        call.stop = None


def _attempt_detached(call: Call, timeout: float) -> Outcome:
    """Call the function in a thread of its own, which may be left behind at the deadline."""
    __tracebackhide__ = True
    spec, args, kwargs = call.spec, call.args, call.kwargs
    stragglers: list[str] = []
    try:
        value = call_detached(
            lambda: spec.func(*args, **kwargs), timeout, cancelled=call.wait_flag(), left=stragglers.append
        )
    except DeadlineReached:
        for worker in stragglers:
            emit(call, "StragglerLeft", {"worker": worker})
        return Raised(_timed_out(call, stopped=not stragglers))
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
        return Raised(_as_failure(call, error))
    finally:
        call.stop = None
    if (reason := call.cancel_reason) is not None:
        return Raised(TaskCancelledError(f"Task {call.name!r} was cancelled ({reason}).", task=call.name, reason=reason))
    return None


async def _attempt_async(call: Call, asyncio: Any) -> Outcome:
    """Await the user's coroutine once, within its timeout."""
    __tracebackhide__ = True
    if (reason := call.cancel_reason) is not None:
        return Raised(TaskCancelledError(f"Task {call.name!r} was cancelled ({reason}).", task=call.name, reason=reason))
    timeout = call.spec.policy.timeout_s
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    own = False

    def stop() -> None:
        loop.call_soon_threadsafe(task.cancel)

    call.stop = stop
    if call.cancel_reason is not None:
        stop()
    scope = asyncio.timeout(timeout)
    try:
        async with scope:
            return Returned(await call.spec.func(*call.args, **call.kwargs))
    except TimeoutError as error:
        own = timeout is not None and scope.expired()
        return Raised(_timed_out(call, stopped=True) if own else error)
    except asyncio.CancelledError as error:
        if call._cancel_reason is not None and hasattr(task, "uncancel"):
            task.uncancel()  # it was ours: the call is cancelled, the task around it goes on
        return Raised(_as_failure(call, error))
    except BaseException as error:
        return Raised(_as_failure(call, error))
    finally:
        call.stop = None


async def _wait_async(call: Call, delay_s: float, asyncio: Any) -> Raised | None:
    """Sleep on the loop before the next attempt."""
    try:
        if call.session.clock.monotonic is _monotonic:
            await asyncio.sleep(delay_s)
        else:
            call.session.clock.sleep(delay_s)
            await asyncio.sleep(0)
    except BaseException as error:
        return Raised(_as_failure(call, error))
    return None


