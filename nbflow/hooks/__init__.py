"""Who listens to a run: plugins by named hooks, observers by events.

`specs` documents the hooks, `manager` calls them safely, `registry` keeps the plugins that every session gets,
`observers` fans events out. What needs pluggy is imported on first use only.
"""

from __future__ import annotations

import importlib

from nbflow._typing import TYPE_CHECKING, Any
from nbflow.hooks.observers import Fanout, Observer, Sampler
from nbflow.hooks.registry import installed_plugins, registered_plugins

if TYPE_CHECKING:
    from nbflow.hooks.manager import Hooks, has_plugin, register_plugins, unregister_plugins
    from nbflow.hooks.specs import HOOK_NAMES, hook_impl, hook_spec

__all__ = [
    "HOOK_NAMES",
    "Fanout",
    "Hooks",
    "Observer",
    "Sampler",
    "has_plugin",
    "hook_impl",
    "hook_spec",
    "installed_plugins",
    "register_plugins",
    "registered_plugins",
    "unregister_plugins",
]

_LAZY = {
    "HOOK_NAMES": "nbflow.hooks.specs",
    "Hooks": "nbflow.hooks.manager",
    "has_plugin": "nbflow.hooks.manager",
    "hook_impl": "nbflow.hooks.specs",
    "hook_spec": "nbflow.hooks.specs",
    "register_plugins": "nbflow.hooks.manager",
    "unregister_plugins": "nbflow.hooks.manager",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
