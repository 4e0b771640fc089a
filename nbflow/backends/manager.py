"""Finding backends by name, and owning them.

A manager belongs to one session; it makes each backend on first use and stops all of them when the session ends.
Aliases lead to one shared instance. Further backends come from `register` (one session), `register_backend` (all later
ones), or the entry-point group `nbflow.backends`.
"""

from __future__ import annotations

import threading
from typing import Any

from nbflow.backends.base import Backend
from nbflow.backends.inline import InlineBackend
from nbflow.backends.thread import ThreadBackend
from nbflow.errors import BackendError, DefinitionError

__all__ = ["BackendManager", "register_backend"]

_ALIASES = {
    "sequential": "inline",
    "synchronous": "inline",
    "threading": "thread",
    "threads": "thread",
}
_BUILTIN: dict[str, type[Backend]] = {"inline": InlineBackend, "thread": ThreadBackend}
_registered: dict[str, type[Backend]] = {}
_entry_points: dict[str, Any] | None = None
_lock = threading.Lock()


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
        from importlib.metadata import entry_points

        _entry_points = {point.name: point for point in entry_points(group="nbflow.backends")}
    return _entry_points


class BackendManager:
    """The backends of one session; safe from any thread.

    Args:
        session: The session, for its settings; None for the global ones.
    """

    def __init__(self, session: Any = None) -> None:
        self._session = session
        self._own: dict[str, type[Backend]] = {}
        self._running: dict[str, Backend] = {}
        self._lock = threading.RLock()

    def register(self, name: str, cls: type[Backend]) -> None:
        """Make `cls` available under `name` in this session only."""
        _check(name, cls)
        self._own[name] = cls

    def names(self) -> list[str]:
        """Return every name that `get` accepts, aliases included."""
        return sorted({*_BUILTIN, *_ALIASES, *_registered, *self._own, *_found_by_entry_point()})

    def resolve(self, name: str) -> str:
        """Return the backend's own name for a name or alias.

        Raises:
            BackendError: There is no such backend.
        """
        if isinstance(name, str):
            if name in _BUILTIN or name in self._own or name in _registered:
                return name
            if name in _ALIASES:
                return _ALIASES[name]
            if name in _found_by_entry_point():
                return name
        raise BackendError(f"There is no backend {name!r}. Known: {', '.join(self.names())}.")

    def get(self, name: str) -> Backend:
        """Return the running backend of that name, starting it if need be.

        Raises:
            BackendError: There is none of that name, or it cannot be started.
        """
        name = self.resolve(name)
        with self._lock:
            if name not in self._running:
                cls = self._own.get(name) or _registered.get(name) or _BUILTIN.get(name)
                if cls is None:
                    cls = _found_by_entry_point()[name].load()
                    _check(name, cls)
                backend = cls()
                backend.start(self._session)
                self._running[name] = backend
            return self._running[name]

    def stop(self) -> None:
        """Stop every backend; the manager can be used again afterwards."""
        with self._lock:
            running, self._running = list(self._running.values()), {}
        for backend in reversed(running):
            backend.stop()
