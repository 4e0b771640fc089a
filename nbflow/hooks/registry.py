"""The plugins that every new session gets: those that were registered, and those that installed packages bring.

Kept apart from how hooks are called, so that a program without plugins never imports pluggy. All functions are safe
from any thread; plugins are compared by identity.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator

from nbflow._typing import Any
from nbflow._util import one_line, report

__all__ = ["add", "drop", "installed_plugins", "registered_plugins"]

GROUP = "nbflow.hooks"
_CHUNK = 1 << 16  # bytes that are read at once; memory for many more would be asked of the system for each file

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
        found = tuple(_load_installed()) if _is_any_installed() else ()
        with _lock:
            if _installed is None:
                _installed = found
    return _installed


def _is_any_installed() -> bool:
    """Whether an installed package declares entry points of our group.

    `importlib.metadata` takes a tenth of a second to say no; looking for the group's name in the files takes a few
    milliseconds, and hardly anybody has such a package.
    """
    wanted = f"[{GROUP}]".encode()
    for folder in sys.path:
        try:
            with os.scandir(folder or ".") as entries:
                packages = [entry.path for entry in entries if entry.name.endswith((".dist-info", ".egg-info"))]
        except OSError:  # an archive, or nothing
            continue
        for package in packages:
            try:
                file = os.open(f"{package}/entry_points.txt", os.O_RDONLY)  # a third of what a file object costs
            except OSError:  # most have none
                continue
            try:
                text = data = os.read(file, _CHUNK)
                while len(data) == _CHUNK:
                    data = os.read(file, _CHUNK)
                    text += data
                if wanted in text:
                    return True
            finally:
                os.close(file)
    return False


def _load_installed() -> Iterator[Any]:
    from importlib.metadata import entry_points  # slow, hence only where there is something to find

    from nbflow.hooks.manager import Hooks  # brings pluggy, which a program with plugins needs anyway

    for point in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        try:
            plugin = point.load()
            plugin = plugin() if isinstance(plugin, type) else plugin
            Hooks((plugin,))  # else it would fail each session
        except Exception as error:
            report(f"The plugin {point.name!r} ({point.value}) cannot be loaded and is left out: {one_line(error)}.")
        else:
            yield plugin
