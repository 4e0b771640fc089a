"""Plugins and how their hooks are called.

A session resolves its plugins once, when it opens; without any, no hook costs anything. Each plain hookimpl is
guarded: the first time that it raises, it is reported by one warning and switched off. Wrappers are not guarded, so
that they can fail a call on purpose.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import pluggy

from nbflow._util import one_line, report
from nbflow.errors import DefinitionError
from nbflow.hooks.registry import add, drop, registered_plugins
from nbflow.hooks.specs import HOOK_NAMES, HookSpecs

__all__ = ["Hooks", "has_plugin", "register_plugins", "unregister_plugins"]


def register_plugins(*plugins: Any) -> None:
    """Add plugins to every session that opens from now on; registering one twice has no effect.

    Args:
        *plugins: Objects (or modules) with methods marked by `hook_impl`.

    Raises:
        DefinitionError: A plugin has no hookimpl, or one that fits no hook.
    """
    for plugin in plugins:
        check_plugin(plugin)
    add(plugins)


def unregister_plugins(*plugins: Any) -> None:
    """Take plugins out of sessions that open from now on; unknown ones are ignored."""
    drop(plugins)


def has_plugin(*types: type) -> bool:
    """Whether a plugin of each of `types` is registered."""
    plugins = registered_plugins()
    return all(any(isinstance(plugin, kind) for plugin in plugins) for kind in types)


def check_plugin(plugin: Any) -> None:
    """Raise `DefinitionError` unless `plugin` implements at least one hook and only known ones."""
    marked = [name for name in dir(plugin) if hasattr(getattr(plugin, name, None), "nbflow_impl")]
    if not marked:
        raise DefinitionError(
            f"{plugin!r} is not a plugin: none of its methods is marked with @hook_impl (from nbflow.hooks)."
        )
    unknown = [
        name for name in marked if ((getattr(plugin, name).nbflow_impl or {}).get("specname") or name) not in HOOK_NAMES
    ]
    if unknown:
        raise DefinitionError(
            f"{plugin!r} implements {', '.join(unknown)}, which is no hook. Known: {', '.join(sorted(HOOK_NAMES))}."
        )


class Hooks:
    """The hooks of one session's plugins; attributes are pluggy's hook callers.

    Args:
        plugins: The plugins, in order of registration (pluggy calls the last one first).

    Raises:
        DefinitionError: A plugin is none, or its hookimpl asks for an argument that the hook does not have.
    """

    __slots__ = ("_manager", "call", "plugins")

    def __init__(self, plugins: Iterable[Any]) -> None:
        self.plugins = tuple(plugins)
        self._manager = pluggy.PluginManager("nbflow")
        self._manager.add_hookspecs(HookSpecs)
        for plugin in self.plugins:
            check_plugin(plugin)
            try:
                self._manager.register(plugin)
            except pluggy.PluginValidationError as error:
                raise DefinitionError(f"Plugin {plugin!r} does not fit: {error}") from None
            self._guard(plugin)
        self.call = self._manager.hook

    def _guard(self, plugin: Any) -> None:
        for caller in self._manager.get_hookcallers(plugin) or ():
            for impl in caller.get_hookimpls():
                if impl.plugin is plugin and not (impl.wrapper or impl.hookwrapper):
                    impl.function = _guarded(  # type: ignore[misc]
                        impl.function, f"{impl.plugin_name}.{caller.name}"
                    )


def _guarded(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    broken = False

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        nonlocal broken
        if broken:
            return None
        try:
            return function(*args)
        except Exception as error:
            broken = True
            report(f"Hook {label} raised {one_line(error)}. It is switched off for this session; the run goes on.")
            return None

    return call
