"""Finding backends by name, and owning them.

A manager belongs to one session; it makes each backend on first use and stops all of them when the session ends.
Aliases lead to one shared instance. Further backends come from `register` (one session), `register_backend` (all later
ones), the entry-point group `nbflow.backends`, or as objects: a backend, an executor, or a Dask client. The address of
a Dask scheduler is a name, too.
"""

from __future__ import annotations

import logging
import sys
import threading
from importlib import import_module
from typing import Any

from nbflow._installed import entry_points
from nbflow._util import perhaps
from nbflow.backends.base import Abilities, Backend
from nbflow.errors import BackendError, DefinitionError

__all__ = ["BackendManager", "register_backend"]

_ALIASES = {
    "distributed": "dask",
    "dry-run": "noop",
    "multiprocessing": "process",
    "processes": "process",
    "sequential": "inline",
    "synchronous": "inline",
    "threading": "thread",
    "threads": "thread",
}
# Where the classes are: most sessions use one or two of them, and some bring in a lot.
_BUILTIN = {
    "dask": "nbflow.backends.dask:DaskBackend",
    "inline": "nbflow.backends.inline:InlineBackend",
    "noop": "nbflow.backends.noop:NoopBackend",
    "process": "nbflow.backends.process:ProcessBackend",
    "thread": "nbflow.backends.thread:ThreadBackend",
}
_SCHEMES = {"dask://": "tcp://", "inproc://": "inproc://", "tcp://": "tcp://", "tls://": "tls://", "ucx://": "ucx://"}
_STOP_S = 5.0

_log = logging.getLogger("nbflow.backends")
_registered: dict[str, type[Backend]] = {}
_entry_points: dict[str, Any] | None = None


def register_backend(name: str, cls: type[Backend]) -> None:
    """Make `cls` available under `name` in every session.

    Raises:
        DefinitionError: `cls` is no Backend class, or `name` no usable name.
    """
    _check(name, cls)
    _registered[name] = cls


def _check(name: str, cls: type[Backend]) -> None:
    if not isinstance(name, str) or not name:
        raise DefinitionError(f"{name!r} cannot name a backend; give a non-empty string.")
    if not (isinstance(cls, type) and issubclass(cls, Backend)):
        raise DefinitionError(f"{cls!r} is not a subclass of nbflow.backends.Backend.")


def _found_by_entry_point() -> dict[str, Any]:
    global _entry_points
    if _entry_points is None:
        _entry_points = {point.name: point for point in entry_points("nbflow.backends")}
    return _entry_points


class BackendManager:
    """The backends of one session; safe from any thread.

    Args:
        session: The session, for its settings; None for the global ones.
    """

    def __init__(self, session: Any = None) -> None:
        self._session = session
        self._own: dict[str, type[Backend]] = {}
        self._given: dict[str, tuple[Any, Backend]] = {}
        self._running: dict[str, Backend] = {}
        self._lock = threading.RLock()

    def register(self, name: str, cls: type[Backend]) -> None:
        """Make `cls` available under `name` in this session only."""
        _check(name, cls)
        self._own[name] = cls

    def names(self) -> list[str]:
        """Return every name that `get` accepts, aliases included."""
        return sorted({*_BUILTIN, *_ALIASES, *_registered, *self._own, *_found_by_entry_point()})

    def describe(self) -> dict[str, Abilities]:
        """Return what each backend is able to do, by its own name; one that cannot be imported is left out."""
        found: dict[str, Abilities] = {}
        for name in sorted({*_BUILTIN, *_registered, *self._own, *_found_by_entry_point()}):
            try:
                found[name] = self._class(name).abilities
            except Exception as error:
                _log.warning("The backend %r cannot be imported: %s: %s", name, type(error).__name__, error)
        return found

    def resolve(self, backend: Any) -> str:
        """Return the backend's own name for a name, an alias, the address of a Dask scheduler, or an object.

        An object (a `Backend`, an executor, a Dask client) gets a name in this session; the same object always gets
        the same one.

        Raises:
            BackendError: There is no such backend.
        """
        if isinstance(backend, str):
            if backend in self._own or backend in _registered or backend in _BUILTIN or backend in self._given:
                return backend
            if backend in _ALIASES:
                return _ALIASES[backend]
            if backend in _found_by_entry_point():
                return backend
            for scheme, real in _SCHEMES.items():
                if backend.startswith(scheme) and len(backend) > len(scheme):
                    return real + backend.removeprefix(scheme)
        elif (name := self._adopt(backend)) is not None:
            return name
        known = self.names()
        raise BackendError(
            f"There is no backend {backend!r}{perhaps(str(backend), known) or '.'} Known: {', '.join(known)}. The "
            "address of a Dask scheduler, a Backend, an executor and a Dask client will do, too."
        )

    def _adopt(self, thing: Any) -> str | None:
        """Return the name of an object that is a backend or can be made one; None if it is nothing of the kind."""
        with self._lock:
            for name, (known, _) in self._given.items():
                if known is thing:
                    return name
            backend = _as_backend(thing)
            if backend is None:
                return None
            name, number, taken = backend.name, 1, {*self.names(), *self._given}
            while name in taken:
                number += 1
                name = f"{backend.name}-{number}"
            self._given[name] = (thing, backend)
            return name

    def get(self, backend: Any) -> Backend:
        """Return a running backend, starting it if need be; `backend` is what `resolve` takes.

        Raises:
            BackendError: There is none of that name, or it cannot be started.
        """
        if isinstance(backend, str) and (running := self._running.get(backend)) is not None:
            return running
        name = self.resolve(backend)
        with self._lock:
            if name not in self._running:
                made = self._given[name][1] if name in self._given else self._make(name)
                if made.started:
                    return made  # by its owner, who will stop it
                made.start(self._session)
                self._running[name] = made
            return self._running[name]

    def abilities(self, backend: Any) -> Abilities:
        """Return what a backend is able to do, without starting it; `backend` is what `resolve` takes."""
        name = self.resolve(backend)
        with self._lock:
            made = self._running.get(name) or (self._given[name][1] if name in self._given else None)
        if made is not None:
            return made.abilities
        return self._class("dask" if "://" in name and name not in self.names() else name).abilities

    def _make(self, name: str) -> Backend:
        """Return a new backend of that name."""
        if "://" in name and name not in self._own and name not in _registered:
            return self._class("dask")(address=name)  # type: ignore[call-arg]
        return self._class(name)()

    def _class(self, name: str) -> type[Backend]:
        """Return the class behind a backend's own name, importing it if need be."""
        cls = self._own.get(name) or _registered.get(name)
        if cls is None and name in _BUILTIN:
            module, _, attribute = _BUILTIN[name].partition(":")
            cls = getattr(import_module(module), attribute)
        if cls is None:
            cls = _found_by_entry_point()[name].load()
            _check(name, cls)
        return cls

    def stop(self) -> None:
        """Stop every backend that was started here, side by side; nobody waits longer than five seconds.

        The manager can be used again afterwards.
        """
        with self._lock:
            running, self._running = list(self._running.values()), {}
            self._given.clear()
        stopping = [threading.Thread(target=_stop, args=(backend,), daemon=True) for backend in running]
        for thread in stopping:
            thread.start()
        for thread, backend in zip(stopping, running, strict=True):
            thread.join(_STOP_S)
            if thread.is_alive():
                _log.warning("The backend %r takes long to stop; it goes on doing so in the background.", backend.name)


def _stop(backend: Backend) -> None:
    try:
        backend.stop()
    except Exception:
        _log.exception("The backend %r failed to stop.", backend.name)


def _as_backend(thing: Any) -> Backend | None:
    """Return a backend for an object, or None."""
    if isinstance(thing, Backend):
        return thing
    distributed = sys.modules.get("distributed")
    if distributed is not None and isinstance(thing, distributed.Client):
        from nbflow.backends.dask import DaskBackend  # only whoever has a client needs it

        return DaskBackend(thing)
    if callable(getattr(thing, "submit", None)) and not isinstance(thing, type):
        from nbflow.backends.executor import ExecutorBackend  # only whoever has an executor needs it

        return ExecutorBackend(thing)
    return None
