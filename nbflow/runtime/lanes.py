"""The short lanes: calls that need none of the machinery of `drivers`.

A plain task (no retry, timeout, cache or dataset) in a session that nobody listens to takes `run_plain`; a cached one
whose result is in memory takes `run_hit`, which goes on to `keeping` where it is not. They leave the same record as the
drivers do, the first two for about two microseconds; whatever is out of the ordinary goes to the drivers.
"""

from __future__ import annotations

import threading
import time

from nbflow._typing import TYPE_CHECKING, Any
from nbflow._util import lazy
from nbflow.core.reads import Reads
from nbflow.core.spec import TaskSpec
from nbflow.runtime import current
from nbflow.runtime.current import Call, Remote, enter, frame, restore
from nbflow.runtime.stopping import Region, Stopped

if TYPE_CHECKING:
    from nbflow.hooks import Sampler
    from nbflow.runtime import drivers, keeping, looking
else:
    drivers = lazy("nbflow.runtime.drivers")  # the machinery is only loaded for calls that need it
    keeping = lazy("nbflow.runtime.keeping")
    looking = lazy("nbflow.runtime.looking")

__all__ = ["drive_plain", "fail", "run_hit", "run_plain", "run_plain_async", "run_sampled"]

_monotonic = time.perf_counter


def run_plain(
    spec: TaskSpec,
    session: Any,
    parent: Call | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    index: int | None = None,
    map: Any = None,
) -> Any:
    """Run a plain synchronous task that nobody listens to; like `run_sync`, but for about two microseconds."""
    __tracebackhide__ = True
    call = Call(spec, session, parent, args, kwargs, index, map)
    outer = frame()
    try:
        enter(call)
        call.started = _monotonic()
        value = spec.func(*args, **kwargs)
    except BaseException as error:
        final = drivers.failed(call, error)
        if final is error:
            raise
        raise final from final.__cause__
    finally:
        enter(outer)
    _complete(call, _monotonic())
    return value


def run_sampled(
    spec: TaskSpec,
    session: Any,
    parent: Call | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    samplers: tuple[Sampler, ...],
) -> Any:
    """Run a plain task for listeners that only look now and then; it can be cancelled while it runs."""
    __tracebackhide__ = True
    return drive_plain(Call(spec, session, parent, args, kwargs), samplers)


def drive_plain(call: Call, samplers: tuple[Sampler, ...] = ()) -> Any:
    """Run a plain call that was made before and whose events nobody needs; it can be cancelled while it runs."""
    __tracebackhide__ = True
    outer, active = frame(), call.session.active
    try:
        enter(call)
        call.started = _monotonic()
        call.worker = threading.current_thread().name
        active[call.id] = call  # so that it can be cancelled
        for sampler in samplers:
            sampler(call)
        with Region() as region:
            call.stop = region.stop
            if call.cancel_reason is not None:  # asked for just before there was something to stop
                raise Stopped
            value = call.spec.func(*call.args, **call.kwargs)
    except BaseException as error:
        call.stop = None
        final = drivers.failed(call, error)
        if final is error:
            raise
        raise final from final.__cause__
    finally:
        try:
            active.pop(call.id, None)
        finally:
            enter(outer)
    _complete(call, _monotonic())
    return value


async def run_plain_async(
    spec: TaskSpec, session: Any, parent: Call | None, args: tuple[Any, ...], kwargs: dict[str, Any], *place: Any
) -> Any:
    """Run a plain asynchronous task that nobody listens to, on the running loop; see `run_plain`."""
    __tracebackhide__ = True
    call = Call(spec, session, parent, args, kwargs, *place)
    token = enter(call)
    call.started = _monotonic()
    try:
        value = await spec.func(*args, **kwargs)
    except BaseException as error:
        final = drivers.failed(call, error)
        if final is error:
            raise
        raise final from final.__cause__
    finally:
        restore(token)
    _complete(call, _monotonic())
    return value


def _complete(call: Call, ended: float) -> None:
    """Let a call end well that nobody was told of."""
    call.ended = ended
    call.attempts = 1
    if call.spec.template_names:
        _ = call.name
    call.state = current.COMPLETED
    call.args = call.kwargs = call.parent = call.stop = None
    call.session.records.append(call)
    if call.map is not None:
        call.map.count(call)


def fail(spec: TaskSpec, session: Any, args: Any, kwargs: Any, error: Exception) -> BaseException:
    """Return what the caller of a plain task that was called outside any session, and raised `error`, should see."""
    call = Call(spec, session, None, args, kwargs)
    call.started = session.clock.monotonic()
    return drivers.failed(call, error)


def run_hit(
    spec: TaskSpec,
    session: Any,
    parent: Call | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    index: int | None = None,
    map: Any = None,
    remote: Remote | None = None,
    samplers: tuple[Sampler, ...] = (),
) -> Any:
    """Return the result of a cached task whose events nobody needs, if the store has it; else run it by `run_sync`."""
    __tracebackhide__ = True
    store = session.cache_store_for(spec)
    digest = None if store is None else spec.keyer.quick(args, kwargs)
    if digest and store is not None:
        ttl = spec.cache_ttl
        try:
            digest += spec.key_suffix(session.settings.cache_readonly)
            look = store.peek if spec.cache == "session" else getattr(store, "refetch", store.peek)
            found = look(digest, session.settings.cache_ttl if ttl is None else ttl)
        except Exception:  # the drivers will ask again, and tell
            found = None
        if found is not None and type(found.value) is not Reads:
            call = Call(spec, session, parent, args, kwargs, index, map)
            call.started = _monotonic()
            _found(call, found.saved_s, call.started)
            for sampler in samplers:
                sampler(call)
            return found.value
    policy = spec.policy
    if remote is not None or samplers or policy.retries or policy.timeout_s is not None:
        return drivers.run_sync(spec, session, parent, args, kwargs, index, map, remote)
    return _run_first(Call(spec, session, parent, args, kwargs, index, map), store, digest == "")


def _run_first(call: Call, store: Any, unchanged: bool) -> Any:
    """Run a call that is not recognised at once: make its key and look, and compute where there is nothing."""
    __tracebackhide__ = True
    looked = inputs = None
    now = call.session.clock.monotonic
    try:
        inputs = call.spec.bind(*call.args, **call.kwargs)
        if store is not None and looking.UNCHANGING.issuperset(map(type, inputs.values())):
            call.started = now()
            looked = looking.first_look(call, store, inputs, unchanged=unchanged)
            if (found := looked.found) is not None:
                looking.watch(call, found.value)
                _found(call, found.saved_s, now())
                return found.value
    except Exception:  # arguments that do not fit, or a store that fails: all is done again, and told
        call = Call(call.spec, call.session, call.parent, call.args, call.kwargs, call.index, call.map)
        looked = inputs = None
    except BaseException as error:
        final = drivers.failed(call, error)
        if final is error:
            raise
        raise final from final.__cause__
    return keeping.run_kept(call, store, inputs, looked)


def _found(call: Call, saved_s: float, ended: float) -> None:
    """Let a call end whose result was found, and that nobody was told of."""
    call.ended = ended
    if call.spec.template_names:
        _ = call.name
    call.cached = True
    call.saved_s = saved_s
    call.state = current.COMPLETED
    call.args = call.kwargs = call.parent = None
    call.session.records.append(call)
    if call.map is not None:
        call.map.count(call)
