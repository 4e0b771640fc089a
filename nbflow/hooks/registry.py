"""The plugins that every new session gets: those that were registered, and those that installed packages bring.

Kept apart from how hooks are called, so that a program without plugins never imports pluggy. All functions are safe
from any thread; plugins are compared by identity.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from nbflow._installed import entry_points
from nbflow._typing import Any
from nbflow._util import one_line, report

__all__ = ["add", "drop", "installed_plugins", "registered_plugins"]

GROUP = "nbflow.hooks"

_lock = threading.Lock()
_registered: list[Any] = []
_installed: tuple[Any, ...] | None = None


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


def installed_plugins() -> tuple[Any, ...]:
    """Return the plugins of installed packages (entry points `nbflow.hooks`); looked for once, loaded then.

    One that cannot be loaded is reported by a warning and left out.
    """
    global _installed
    if _installed is None:
        found = tuple(_load_installed())
        with _lock:
            if _installed is None:
                _installed = found
    return _installed


def _load_installed() -> Iterator[Any]:
    for point in entry_points(GROUP):
        from nbflow.hooks.manager import Hooks  # brings pluggy, which a program with plugins needs anyway

        try:
            plugin = point.load()
            plugin = plugin() if isinstance(plugin, type) else plugin
            Hooks((plugin,))  # else it would fail each session
        except Exception as error:
            report(f"The plugin {point.name!r} ({point.value}) cannot be loaded and is left out: {one_line(error)}.")
        else:
            yield plugin
