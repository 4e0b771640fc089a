"""The two short lanes: calls that need none of the machinery of `drivers`.

A plain task (no retry, timeout, cache or dataset) in a session that nobody listens to takes `run_plain`; a cached one
whose result is in memory takes `run_hit`. Both leave the same record as the drivers do, for about two microseconds;
whatever is out of the ordinary goes to the drivers.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nbflow._util import lazy
from nbflow.core.spec import TaskSpec
from nbflow.runtime import current
from nbflow.runtime.current import Call, enter, restore

if TYPE_CHECKING:
    from nbflow.runtime import drivers
else:
    drivers = lazy("nbflow.runtime.drivers")  # the machinery is only loaded for calls that need it

__all__ = ["fail", "run_hit", "run_plain"]

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
    token = enter(call)
    call.started = _monotonic()
    try:
        value = spec.func(*args, **kwargs)
    except BaseException as error:
        final = drivers.failed(call, error)
        if final is error:
            raise
        raise final from final.__cause__
    finally:
        restore(token)
    call.ended = _monotonic()
    call.attempts = 1
    if spec.template_names:
        _ = call.name
    call.state = current.COMPLETED
    call.args = call.kwargs = call.parent = None
    session.records.append(call)
    if map is not None:
        map.count(call)
    return value


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
) -> Any:
    """Return the result of a cached task that nobody listens to, if memory has it; else run it by `run_sync`."""
    __tracebackhide__ = True
    store = session.cache_store_for(spec)
    if store is not None and (digest := spec.keyer.quick(args, kwargs)) is not None:
        ttl = spec.cache_ttl
        try:
            found = store.peek(digest, session.settings.cache_ttl if ttl is None else ttl)
        except Exception:  # the drivers will ask again, and tell
            found = None
        if found is not None:
            call = Call(spec, session, parent, args, kwargs, index, map)
            call.started = call.ended = _monotonic()
            if spec.template_names:
                _ = call.name
            call.cached = True
            call.saved_s = found.saved_s
            call.state = current.COMPLETED
            call.args = call.kwargs = call.parent = None
            session.records.append(call)
            if map is not None:
                map.count(call)
            return found.value
    return drivers.run_sync(spec, session, parent, args, kwargs, index, map)
