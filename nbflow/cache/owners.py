"""Whose attribute it is that code changes, and by what name that owner is found again.

A chain of names in code (`config.limits.low = 3`) leads through modules, classes and functions to the one that has
what is changed. Such an owner has a name that holds in every process, so that a change can be made again elsewhere:
see `owner_name`. A few builtins reach any global at all; those end all following.
"""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType, ModuleType

from nbflow._typing import Any
from nbflow.cache.places import is_local
from nbflow.cache.source import REBOUND

__all__ = ["ABSENT", "OPAQUE", "is_local_owner", "note_owned", "owner_name", "owner_of", "reaches_all"]

ABSENT = object()
"""Stands for what is not there."""

OPAQUE = frozenset({"eval", "exec", "globals"})
"""Builtins that reach any global."""

_REACHING = {"builtins": OPAQUE | {"__import__"}, "importlib": {"import_module", "reload"}, "sys": {"modules"}}


def reaches_all(value: Any, chain: tuple[str, ...]) -> bool:
    """Whether a chain of names leads to what reaches any global or module, under whatever name."""
    if isinstance(value, ModuleType):
        return chain[1:2] != () and chain[1] in _REACHING.get(value.__name__, ())
    is_function = isinstance(value, (BuiltinFunctionType, FunctionType))
    return is_function and value.__name__ in _REACHING.get(value.__module__, ())


def owner_of(chain: tuple[str, ...], value: Any) -> tuple[Any, str]:
    """Return whose attribute a chain of names is that begins at `value`, and its name; None for the first name alone.

    What follows an attribute that is no module, class or function is inside of it.
    """
    owner = None
    name, *rest = (each for each in chain if each != REBOUND)
    while rest and isinstance(value, (ModuleType, type, FunctionType)):
        owner, name = value, rest.pop(0)
        value = vars(owner).get(name, ABSENT)
    return owner, name


def is_local_owner(owner: Any) -> bool:
    """Whether a module, class or function is the notebook's, or from a file that may be edited at any time."""
    return is_local(owner.__name__ if isinstance(owner, ModuleType) else getattr(owner, "__module__", None) or "")


def owner_name(owner: Any) -> str:
    """Return by what name a module, a class or a function is found again."""
    if isinstance(owner, ModuleType):
        return f"module {owner.__name__}"
    module = owner.__module__
    return str(owner.__qualname__ if module == "__main__" else f"{module}:{owner.__qualname__}")


def note_owned(known: dict[tuple[str, str], Any], owner: Any, attribute: str) -> None:
    """Note an attribute by the name of its owner; functions that one decorator has made get a number."""
    name = base = owner_name(owner)
    count = 1
    while known.setdefault((name, attribute), owner) is not owner:
        count += 1
        name = f"{base}#{count}"
