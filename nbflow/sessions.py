"""Sessions: opening them, and finding the one that counts.

A session is opened with `with session(...)`; an inner one inherits whatever it does not override. The notebook's
session belongs to the shell, not to a context variable, so every cell and every thread sees it. Lookup, always:
argument, current call, `with` session, notebook's session, defaults.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager

from nbflow._clock import Clock
from nbflow._context import SessionContext
from nbflow._typing import Any
from nbflow.errors import DefinitionError
from nbflow.hooks import Observer
from nbflow.runtime import current
from nbflow.runtime.current import ambient
from nbflow.settings import Settings, get_global_settings

__all__ = [
    "SessionContext",
    "adopt_sessions",
    "async_session",
    "cell_opener",
    "close_notebook_session",
    "current_session",
    "open_notebook_session",
    "session",
]


def current_session() -> SessionContext | None:
    """Return the session of this context: of the current call, `with` block, or notebook; None if there is none."""
    found = current.frame()
    session: SessionContext | None = ambient.session if found is None else found.session
    return live(session) if session is not None and session.closed else session


def live(session: SessionContext) -> SessionContext | None:
    """Return the nearest open session around a closed one: a context may still hold one that was closed elsewhere."""
    found: SessionContext | None = session
    while found is not None and found.closed:
        found = found.parent
    return found if found is not None else ambient.session


_roots: list[SessionContext] = []


def _opener() -> tuple[int, int]:
    """Return what opens a session: this thread, and the asyncio task in it."""
    import sys

    asyncio = sys.modules.get("asyncio")
    running = asyncio is not None and asyncio._get_running_loop() is not None
    return threading.get_ident(), id(asyncio.current_task()) if asyncio is not None and running else 0


def adopt_sessions(opener: tuple[int, int] | None = None) -> None:
    """Make a session that a cell opened and left open the notebook's, until it is closed.

    A context variable that was set after an `await` is lost to the next cell; the shell calls this after each cell.

    Args:
        opener: Thread and asyncio task (as of `cell_opener`) whose sessions count; None for this one's.
    """
    wanted = opener or _opener()
    for context in [found for found in _roots if not found.closed and found.opener == wanted]:
        _roots.remove(context)
        if ambient.session is not None and context.parent is ambient.session:
            ambient.session = context


def cell_opener() -> tuple[int, int]:
    """Return what identifies sessions that are opened by the code that runs now; see `adopt_sessions`."""
    return _opener()


_default: SessionContext | None = None
_default_lock = threading.Lock()


def session_or_default() -> SessionContext:
    """Return the session of this context, or the default one that global settings describe."""
    global _default
    found = current_session()
    if found is not None:
        return found
    older = None
    with _default_lock:
        if _default is None or _default.closed or _default.settings is not get_global_settings():
            older, _default = _default, SessionContext()
            _watch(_default, None)
        found = _default
    if older is not None:  # not under the lock: what waits there is cancelled, and its callbacks may need a session
        older.close()
    return found


def close_default_session() -> None:
    """Close the default session, if one was needed; the next call that needs one makes a new one."""
    global _default
    with _default_lock:
        older, _default = _default, None
    if older is not None:
        older.close()


@contextmanager
def session(
    *,
    backend: Any = None,
    cache_store: Any = None,
    cache_shared: Any = None,
    dataset_store: Any = None,
    plugins: Any = None,
    settings: Settings | None = None,
    observers: Iterable[Observer] = (),
    telemetry: Any = None,
    clock: Clock | None = None,
    seed: int | None = None,
) -> Iterator[SessionContext]:
    """Open a session for the block; what is not given is inherited from the session around it.

    Args:
        backend: The default backend: its name, a `Backend`, an executor, or a Dask client.
        cache_store: `CacheStore`, or its folder, or "off" for memory only.
        cache_shared: A store further away: folder, URL or bundle, a `SharedStore`, or "off" for none.
        dataset_store: `DatasetStore`, path or URL.
        plugins: A plugin or a list of them, in addition to those around.
        settings: Settings that replace those around, with all they imply.
        observers: Functions called with every event.
        telemetry: Path of an event log, "opentelemetry", an observer of `nbflow.telemetry`, or a list of these.
        clock: Source of time; for tests.
        seed: Seed of the jitter of retries.

    Yields:
        The session.

    Raises:
        BackendError: There is no such backend.
        DefinitionError: A plugin, an observer or telemetry is none.
    """
    context = SessionContext(
        backend=backend,
        cache_store=cache_store,
        cache_shared=cache_shared,
        dataset_store=dataset_store,
        plugins=plugins,
        settings=_checked(settings),
        observers=observers,
        clock=clock,
        seed=seed,
        parent=current_session(),
    )
    _watch(context, telemetry)
    context.outer_frame = current.frame()
    if context.outer_frame is None and ambient.session is not None:
        context.opener = _opener()
        _roots.append(context)
    current.enter(context)
    try:
        context.open()
        yield context
    finally:
        _leave(context)
        if context in _roots:
            _roots.remove(context)
        context.close()


def _watch(context: SessionContext, telemetry: Any) -> None:
    """Send the events of a session where it was said to, or where its settings say; once, not for sessions inside."""
    if context.collector is None and context.settings.history == "on":
        from nbflow.history import Collector, History  # few sessions need it

        context.collector = Collector(History.open(context.home))
    wanted = telemetry
    if wanted is None and (context.parent is None or context._own_settings):
        wanted = context.settings.event_log
    if wanted is not None:
        from nbflow.telemetry.attach import attach  # few sessions need it

        context._telemetry += attach(wanted, context.fanout)


def _leave(context: SessionContext) -> None:
    """Make what was current before `context` current again, unless it was closed elsewhere or before one inside it."""
    if current.frame() is context:
        found = context.outer_frame
        while isinstance(found, SessionContext) and found.closed:
            found = found.outer_frame
        current.enter(found)


@asynccontextmanager
async def async_session(
    *,
    backend: Any = None,
    cache_store: Any = None,
    cache_shared: Any = None,
    dataset_store: Any = None,
    plugins: Any = None,
    settings: Settings | None = None,
    observers: Iterable[Observer] = (),
    telemetry: Any = None,
    clock: Clock | None = None,
    seed: int | None = None,
) -> AsyncIterator[SessionContext]:
    """Open a session for an `async with` block; takes what `session` takes.

    Closing runs off the loop where it may wait.
    """
    with session(
        backend=backend,
        cache_store=cache_store,
        cache_shared=cache_shared,
        dataset_store=dataset_store,
        plugins=plugins,
        settings=settings,
        observers=observers,
        telemetry=telemetry,
        clock=clock,
        seed=seed,
    ) as context:
        try:
            yield context
        finally:
            import asyncio

            if context._manager is not None:
                await asyncio.to_thread(context._manager.stop)
            for store in list(context._stores.values()):
                if getattr(store, "shared", None) is not None:  # may wait for what is still to be sent
                    await asyncio.to_thread(store.close)


def open_notebook_session(**options: Any) -> SessionContext:
    """Open the notebook's session, closing an older one; options are those of `session`.

    The shell's owner calls this.
    """
    options["settings"] = _checked(options.get("settings"))
    telemetry = options.pop("telemetry", None)
    context = SessionContext(**options)
    _watch(context, telemetry)
    older, ambient.session = ambient.session, context
    if older is not None:
        older.close()
    return context.open()


def close_notebook_session() -> None:
    """Close the notebook's session, if there is one."""
    older, ambient.session = ambient.session, None
    if older is not None:
        older.close()


def _checked(settings: Settings | None) -> Settings | None:
    if settings is not None and not isinstance(settings, Settings):
        raise DefinitionError(
            f"settings={settings!r} is not a Settings object; use nbflow.settings.load_settings(...)."
        )
    return settings
