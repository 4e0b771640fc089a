"""What type checkers read from `typing`, and type variables and aliases that several floors share.

A fresh process that only wants a result from the cache spends a tenth of its time on importing `typing` and what that
imports, so the modules of that short way take these names from here: the checkers see the real ones, and at run time
there are stand-ins that do as much as our code needs. `P` and `R` are the parameters and the result of a task's
function, `CacheHash` is the shape of a user's own hash function.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import (
        Any,
        ClassVar,
        Generic,
        Literal,
        NamedTuple,
        ParamSpec,
        Protocol,
        TypeAlias,
        TypeVar,
        cast,
        dataclass_transform,
        overload,
    )

    P = ParamSpec("P")
    R = TypeVar("R")

    CacheHash: TypeAlias = Callable[[Callable[..., Any], Mapping[str, Any]], str]
    CacheOption: TypeAlias = bool | Literal["session", "disk"] | str
    OnError: TypeAlias = Literal["raise", "collect"]
else:
    from collections import _tuplegetter  # what reads a field of a named tuple
    from types import GenericAlias

    class Any:
        """Stands for `typing.Any`, which is only ever named in annotations."""

    P = R = ClassVar = CacheHash = CacheOption = OnError = TypeAlias = Any

    class Protocol:
        """Stands for `typing.Protocol`: a class that says what others have."""

    class Generic:
        """Stands for `typing.Generic` and `typing.Literal`: a class that can be subscribed."""

        __class_getitem__ = classmethod(GenericAlias)

    Literal = Generic

    class _NamedTupleMaker(type):
        def __new__(cls, name, bases, space):
            if bases == (tuple,):
                return super().__new__(cls, name, bases, space)
            fields = tuple(space.get("__annotations__", ()))
            defaults = {field: space[field] for field in fields if field in space}
            given, taken = "".join(f", {field}" for field in fields), "".join(f"{field}, " for field in fields)
            make = eval(f"lambda cls{given}: new(cls, ({taken}))", {"new": tuple.__new__})
            make.__defaults__ = tuple(defaults.values())
            space |= {field: _tuplegetter(place, None) for place, field in enumerate(fields)}
            space |= {"_fields": fields, "_field_defaults": defaults, "__match_args__": fields}
            return super().__new__(cls, name, bases, space | {"__new__": make, "__slots__": ()})

    class NamedTuple(tuple, metaclass=_NamedTupleMaker):
        """Does what `typing.NamedTuple` does, in a sixth of the time: methods are shared, annotations not compiled."""

        __slots__ = ()

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _replace(self, **changes):
            return type(self)(**(self._asdict() | changes))

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __getnewargs__(self):
            return tuple(self)

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._asdict().items())})"

    def cast(kind, value):
        """Return `value`."""
        return value

    def overload(function):
        """Return `function`, which the next definition of its name replaces."""
        return function

    def dataclass_transform(**options):
        """Return what leaves a class as it is."""
        return lambda cls: cls


__all__ = [
    "TYPE_CHECKING",
    "Any",
    "CacheHash",
    "CacheOption",
    "ClassVar",
    "Generic",
    "Literal",
    "NamedTuple",
    "OnError",
    "P",
    "Protocol",
    "R",
    "TypeAlias",
    "cast",
    "dataclass_transform",
    "overload",
]
