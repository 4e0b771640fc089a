"""Code that no name leads to: subclasses that are asked for, and what users attach to classes of packages.

A class of a package is known by its version. A method that the notebook has given to it, or an accessor that it has
registered with a library of frames, is found by the name that code says, wherever the object comes from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FunctionType

from nbflow._typing import TYPE_CHECKING, Any
from nbflow.cache.owners import is_local_owner
from nbflow.cache.parts import text_bytes

if TYPE_CHECKING:
    from nbflow.cache.graph import Graph

__all__ = ["add_attached"]

_EXTENDED = {
    "pandas": ("DataFrame", "Index", "Series"),
    "polars": ("DataFrame", "Expr", "LazyFrame", "Series"),
    "xarray": ("DataArray", "Dataset"),
}


def add_attached(graph: Graph) -> None:
    """Follow what reached code can only reach through a class."""
    said = graph.claims.said()
    for holder in _holders(graph):
        space = vars(holder)
        for name in sorted(each for each in said if each in space):
            code = _local_code(space[name])
            label = f"{holder.__module__}.{holder.__qualname__}.{name}"
            if code is not None and label not in graph.parts:
                graph.names.append((space.get, name, space[name]))
                graph.part("helper", label, [type(space[name]).__qualname__.encode(), text_bytes(graph.label(code))])
    if "__subclasses__" in said:
        graph.solid = False  # what comes to be, or goes, is not noticed otherwise
        for value, label in graph.described:
            if isinstance(value, type) and f"{label}.__subclasses__" not in graph.parts:
                pieces = [text_bytes(graph.label(each)) for each in _subclasses(value)]
                graph.part("class", f"{label}.__subclasses__", pieces)


def _subclasses(cls: type) -> list[type]:
    return sorted(cls.__subclasses__(), key=lambda each: (each.__module__, each.__qualname__))


def _holders(graph: Graph) -> Iterator[type]:
    """Yield classes of packages that the code, or what it is given, may be using."""
    yield from {base: None for cls in graph.foreign for base in cls.__mro__[:-1]}
    for module, names in _EXTENDED.items():
        if module in sys.modules:
            yield from (cls for name in names if isinstance(cls := getattr(sys.modules[module], name, None), type))


def _local_code(value: Any) -> Any:
    """Return the function or class of the user's in a member of a class of a package; None where there is none."""
    if isinstance(value, property):
        value = value.fget
    elif isinstance(value, (classmethod, staticmethod)):
        value = value.__func__
    elif not isinstance(value, (FunctionType, type)):
        own = getattr(value, "__dict__", {})
        value = own.get("_accessor", own.get("_ns"))  # of pandas and xarray, of polars
    return value if isinstance(value, (FunctionType, type)) and is_local_owner(value) else None
