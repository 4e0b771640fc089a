"""`Frozen`: descriptions that never change, as frozen dataclasses are, at a fraction of the price in a fresh process.

Importing `dataclasses` (and with it `inspect`) and generating the methods of a few classes takes longer than a hit in
the cache, so the descriptions that every process needs derive from this class instead. To everybody else they are
dataclasses: `dataclasses.fields`, `replace`, `asdict` and `is_dataclass` know them.
"""

from __future__ import annotations

from nbflow._typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Frozen"]


class _DataclassFields:
    """What `dataclasses` looks for, made when it looks."""

    def __get__(self, instance: object, owner: type[Frozen]) -> dict[str, Any]:
        from dataclasses import MISSING, field, make_dataclass

        fields: list[Any] = [
            (name, owner.__annotations__[name], field(default=owner._defaults.get(name, MISSING)))
            for name in owner._names
        ]
        made: dict[str, Any] = vars(make_dataclass(owner.__name__, fields, kw_only=True))["__dataclass_fields__"]
        return made


class _Signature:
    """What `inspect.signature` looks for, and with it whoever shows or completes a call; made when it looks."""

    def __get__(self, instance: object, owner: type[Frozen]) -> Any:
        from inspect import Parameter, Signature

        given = [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=owner._defaults.get(name, Parameter.empty),
                annotation=owner.__annotations__[name],
            )
            for name in owner._names
        ]
        return Signature(sorted(given, key=lambda one: one.default is not Parameter.empty))


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Frozen:
    """Base of immutable descriptions; the annotations of a subclass are its fields, given by keyword.

    Raises:
        TypeError: A field is unknown, or missing.
    """

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Any]]
    else:
        __dataclass_fields__ = _DataclassFields()
        __signature__ = _Signature()

    _names: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        cls._names = tuple(cls.__annotations__)
        cls._defaults = {name: vars(cls)[name] for name in cls._names if name in vars(cls)}

    def __init__(self, **values: Any) -> None:
        wrong = values.keys() - self._names or {*self._names} - self._defaults.keys() - values.keys()
        if wrong:
            raise TypeError(f"{type(self).__name__} needs {', '.join(self._names)}; look at {', '.join(sorted(wrong))}")
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
