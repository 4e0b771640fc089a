"""Ways to objects of the notebook: how a record says what it means, and how that is found again in another process.

A way begins at a name and goes on by items, keys, attributes, closures and defaults. Where there is no name of the
notebook, it begins at an *owner*: a module, a class or a function, and an attribute or a captured variable of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

__all__ = [
    "Way",
    "attribute_of",
    "cell_of",
    "follow",
    "named",
    "owner_at",
    "plain_function",
    "set_attribute",
]

Way = tuple[Any, ...]
"""A name, see `named`; then steps: ("i", position), ("k", key), ("a", attribute), ("c", closure), ("d", default)."""

_MISSING = object()


def follow(way: Way, namespace: Mapping[str, Any]) -> Any:
    """Return the object at the end of a way.

    Raises:
        LookupError, AttributeError, TypeError: There is no such way any more.
    """
    value = named(way[0], namespace)
    for kind, step in way[1:]:
        if kind in ("i", "k"):
            value = value[step]
        elif kind == "a":
            own = {} if isinstance(value, partial) else getattr(value, "__dict__", {})  # to ask a partial changes it
            value = plain_function(own[step] if step in own else getattr(value, step))
        elif kind == "c":
            value = value.__closure__[step].cell_contents
        else:
            value = value.__defaults__[step] if isinstance(step, int) else value.__kwdefaults__[step]
    return value


def named(name: str, namespace: Mapping[str, Any]) -> Any:
    """Return what a name of the notebook stands for, or the attribute of an owner, see `owner_at`.

    Raises:
        LookupError, AttributeError, TypeError: There is none.
    """
    owner, _, attribute = name.rpartition(".")
    if not owner:
        return namespace[name]
    value = attribute_of(owner_at(owner, namespace), attribute, _MISSING)
    if value is _MISSING:
        raise LookupError(name)
    return value


def owner_at(name: str, namespace: Mapping[str, Any]) -> Any:
    """Return the module (`module a.b`), class or function (`Class`, `Class.method`, `a.b:Class`) of a name.

    A step in angles leads to what a function has captured: `f.<g>`.

    Raises:
        LookupError, AttributeError, TypeError, ImportError: There is none.
    """
    kind, _, module = name.rpartition(" ")
    if kind:  # loaded now, if what was to load it did not run
        return import_module(module)
    module, _, path = name.rpartition(":")
    first, *rest = path.split(".")
    found = plain_function(vars(import_module(module))[first] if module else namespace[first])
    for step in rest:
        found = cell_of(found, step).cell_contents if step[0] == "<" else plain_function(vars(found)[step])
    return found


def attribute_of(owner: Any, attribute: str, default: Any) -> Any:
    """Return an attribute that an owner has itself, or the defaults of a function, or what it has captured."""
    if attribute in ("__defaults__", "__kwdefaults__"):
        return getattr(owner, attribute)
    if attribute[0] == "<":
        return getattr(cell_of(owner, attribute), "cell_contents", default)
    return vars(owner).get(attribute, default)


def set_attribute(owner: Any, attribute: str, value: Any) -> None:
    """Set what `attribute_of` returns."""
    if attribute[0] == "<":
        cell_of(owner, attribute).cell_contents = value
    else:
        setattr(owner, attribute, value)


def cell_of(function: Any, step: str) -> Any:
    """Return the cell of what a function has captured under a name, given in angles.

    Raises:
        LookupError, AttributeError, TypeError: There is none.
    """
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    return cells[step[1:-1]]


def plain_function(value: Any) -> Any:
    """Return the function inside a static or class method; anything else as it is."""
    return value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
