"""What code says about itself: annotations and docstrings, which count only where code reads them.

The types of fields always count, for libraries build and check objects by them (see `classes`). Other annotations and
all docstrings do so once a reached function says a name by which they are read.
"""

from __future__ import annotations

import sys

from nbflow._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbflow.cache.graph import Graph

__all__ = ["add_described", "annotation_content", "annotations_of"]

_READERS = {
    "__annotations__": frozenset(
        "__annotations__ __annotate__ get_annotations get_type_hints signature "
        "annotationlib.get_annotations inspect.get_annotations inspect.signature typing.get_type_hints".split()
    ),
    "__doc__": frozenset({"__doc__", "getdoc", "inspect.getdoc"}),
}
"""What is read, by names that code says and by labels of functions, which may have been given other names."""


def add_described(graph: Graph) -> None:
    """Count annotations and docstrings of reached code, where reached code reads such."""
    said = graph.claims.said()
    for role, readers in _READERS.items():
        if readers.isdisjoint(said) and readers.isdisjoint(graph.labels.values()):
            continue
        for value, label in graph.described:
            key = (id(value), role)
            if key in graph.values:
                continue
            content = annotations_of(value) if role == "__annotations__" else _docstring(value)
            graph.watch(value, "__doc__")
            graph.values[key] = ("class" if isinstance(value, type) else "helper", f"{label}.{role}", content)


def annotations_of(value: Any) -> dict[str, Any]:
    """Return the annotations of a function or class, in a form that does not vary over versions of Python."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format, get_annotations

        found = get_annotations(value, format=Format.FORWARDREF)
    else:
        found = vars(value).get("__annotations__", {}) if isinstance(value, type) else value.__annotations__
    return {name: annotation_content(each) for name, each in found.items()}


def annotation_content(value: Any) -> Any:
    """Return what an annotation says, in a form that does not vary over versions of Python."""
    arguments = getattr(value, "__args__", None)
    if arguments is None:
        if value is None or isinstance(value, (str, type)):
            return value
        return str(getattr(value, "__forward_arg__", None) or repr(value))
    origin = getattr(value, "__origin__", None)
    if origin is None or getattr(origin, "__name__", getattr(origin, "_name", "")) == "Union":
        origin = "Union"  # `int | None` is of another type than `Optional[int]`, and not in all versions
    return (
        annotation_content(origin),
        tuple(map(annotation_content, arguments)),
        tuple(getattr(value, "__metadata__", ())),
    )


def _docstring(value: Any) -> str:
    """Return a docstring without its indentation, which some versions of Python take away."""
    from inspect import cleandoc  # few functions read docstrings

    text = value.__doc__ or ""
    generated = "__dataclass_fields__" in vars(value) and text.startswith(f"{value.__name__}(")
    return "" if generated else cleandoc(text)
