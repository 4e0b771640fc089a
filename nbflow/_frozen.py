"""`Frozen`: descriptions that never change, as frozen dataclasses are, at a fraction of the price in a fresh process.

Importing `dataclasses` (and with it `inspect`) and generating the methods of a few classes takes longer than a hit in
the cache, so the descriptions that every process needs derive from this class instead. To everybody else they are
dataclasses: `dataclasses.fields`, `replace`, `asdict` and `is_dataclass` know them, and so does `inspect.signature`.
"""

from __future__ import annotations

from nbflow._typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform
from nbflow._util import perhaps

if TYPE_CHECKING:
    from collections.abc import Callable
    from inspect import Signature
    from typing import Self

__all__ = ["Frozen"]


class _WhenAsked:
    """An attribute of the class that is made when somebody looks at it."""

    def __init__(self, make: Callable[[type[Frozen]], object]) -> None:
        self._make = make

    def __get__(self, instance: object, owner: type[Frozen]) -> Any:
        return self._make(owner)


def _dataclass_fields(cls: type[Frozen]) -> dict[str, Any]:
    from dataclasses import MISSING, field, make_dataclass

    fields: list[Any] = [
        (name, cls.__annotations__[name], field(default=cls._defaults.get(name, MISSING))) for name in cls._names
    ]
    made: dict[str, Any] = vars(make_dataclass(cls.__name__, fields, kw_only=True))["__dataclass_fields__"]
    return made


def _signature(cls: type[Frozen]) -> Signature:
    from inspect import Parameter, Signature

    return Signature(
        [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=cls._defaults.get(name, Parameter.empty),
                annotation=cls.__annotations__[name],
            )
            for name in cls._names
        ]
    )


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Frozen:
    """Base of immutable descriptions; the annotations of a subclass are its fields, given by keyword.

    Raises:
        TypeError: A field is unknown, or missing.
    """

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Any]]
    else:
        __dataclass_fields__ = _WhenAsked(_dataclass_fields)
        __signature__ = _WhenAsked(_signature)

    _names: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        cls._names = tuple(cls.__annotations__)
        cls._defaults = {name: vars(cls)[name] for name in cls._names if name in vars(cls)}

    def __init__(self, **values: Any) -> None:
        if unknown := values.keys() - self._names:
            meant = perhaps(min(unknown), self._names) or "."
            known = ", ".join(self._names)
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}{meant} It has: {known}.")
        if missing := {*self._names} - self._defaults.keys() - values.keys():
            raise TypeError(f"{type(self).__name__} also needs {', '.join(sorted(missing))}.")
        vars(self).update(self._defaults, **values)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the values; subclasses may."""

    def replace(self, **changes: Any) -> Self:
        """Return the same with some fields replaced, checked as always."""
        return type(self)(**{name: vars(self)[name] for name in self._names} | changes)

    def _values(self) -> tuple[Any, ...]:
        return tuple(vars(self)[name] for name in self._names)

    def __setattr__(self, name: str, value: object) -> None:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __eq__(self, other: object, /) -> bool:
        return self._values() == other._values() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={vars(self)[name]!r}" for name in self._names)
        return f"{type(self).__name__}({given})"
