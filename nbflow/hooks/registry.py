"""The plugins that every new session gets.

Kept apart from how hooks are called, so that a program without plugins never imports pluggy. All functions are safe
from any thread; plugins are compared by identity.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

__all__ = ["add", "drop", "registered_plugins"]

_lock = threading.Lock()
_registered: list[Any] = []


def add(plugins: Iterable[Any]) -> None:
    """Add plugins that are not there yet."""
    with _lock:
        _registered.extend(plugin for plugin in plugins if not any(plugin is known for known in _registered))


def drop(plugins: Iterable[Any]) -> None:
    """Take plugins away; unknown ones are ignored."""
    gone = tuple(plugins)
    with _lock:
        _registered[:] = [known for known in _registered if not any(known is plugin for plugin in gone)]


def registered_plugins() -> tuple[Any, ...]:
    """Return the plugins that every new session gets."""
    with _lock:
        return tuple(_registered)
