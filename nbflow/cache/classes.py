"""What of a class counts as its content.

A class is read from the object rather than from its text, so that what decorators and metaclasses did to it counts
and notebooks (where the text of a class is hard to find) are no special case. What Python or a library generates from
other content (the `__init__` of a dataclass, the maps of an enum) is left out, because it varies between versions;
the content it was generated from is taken instead.
"""

from __future__ import annotations

import sys
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType, SimpleNamespace

from nbflow._typing import Any
from nbflow.cache.described import annotation_content, annotations_of

__all__ = ["class_members", "has_only_attributes", "is_enum", "is_plain_object"]

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_GENERATED = frozenset(
    "__dict__ __weakref__ __doc__ __module__ __qualname__ __firstlineno__ __static_attributes__ __annotations__ "
    "__annotate__ __annotate_func__ __annotations_cache__ __abstractmethods__ _abc_impl "
    "__orig_bases__ __parameters__ __type_params__ __protocol_attrs__ _is_protocol _is_runtime_protocol "
    "__classdictcell__ __non_callable_proto_members__ __callable_proto_members_only__ "
    "__replace__ __dataclass_fields__ __dataclass_params__ __attrs_attrs__ __attrs_props__ __attrs_own_setattr__ "
    "__slotnames__ __private_attributes__".split()
)
_OF_FIELDS = frozenset({"_fields", "_field_defaults", "__getnewargs__"})
_WRITTEN = frozenset(
    "__init__ __repr__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__ __hash__ __setattr__ __delattr__ __new__ "
    "_make _replace __replace__ _asdict __getnewargs__ __getstate__ __setstate__".split()
)
_WRITERS = ("attr._make", "collections", "dataclasses", "enum", "reprlib", "typing")
_ENUM = frozenset(
    "_member_names_ _member_map_ _value2member_map_ _member_type_ _value_repr_ _new_member_ _use_args_ "
    "_generate_next_value_ "
    "_unhashable_values_ _hashable_values_ _unhashable_values_map_ _singles_mask_ _flag_mask_ _all_bits_ _boundary_ "
    "_inverted_ __new__ __format__ __reduce_ex__ __or__ __and__ __xor__ __ror__ __rand__ __rxor__ __invert__".split()
)
_FIELD = (
    "name",
    "default",
    "default_factory",
    "init",
    "repr",
    "compare",
    "hash",
    "kw_only",
    "factory",
    "converter",
    "validator",
    "eq",
    "order",
    "alias",
)


def class_members(cls: type) -> list[tuple[str, Any, bool]]:
    """Return the content of a class, sorted by name.

    Args:
        cls: A class whose code is local.

    Returns:
        Triples of name, value, and whether the value is the attribute itself (so that its identity can be watched).
    """
    if is_enum(cls):
        members = _enum_members(cls)
    else:
        generated = _has_generated_methods(cls)
        members = [
            (name, value, True)
            for name, value in vars(cls).items()
            if name not in _GENERATED
            and not name.startswith("__pydantic_")
            and not isinstance(value, (GetSetDescriptorType, MemberDescriptorType))
            and not (generated and (_is_generated(value) or _is_of_fields(cls, name, value)))
            and not (generated and name == "__hash__" and value is None)
            and not (name == "__subclasshook__" and "_is_protocol" in vars(cls))
        ]
        members += _field_members(cls)
    return sorted(members, key=lambda member: member[0])


def is_enum(cls: type) -> bool:
    """Whether a class is an enumeration; without importing what makes them."""
    enum = sys.modules.get("enum")
    return enum is not None and issubclass(cls, enum.Enum)


class _Plain:
    """As large as every object that is nothing but its `__dict__`."""


def has_only_attributes(kind: Any) -> bool:
    """Whether instances of a class hold nothing beside their attributes: no content of a built-in type, no slots."""
    return bool(kind.__basicsize__ == _Plain.__basicsize__ and kind.__itemsize__ == 0)


def is_plain_object(value: Any) -> bool:
    """Whether an object is just its attributes: its class says nothing special about how it is taken apart."""
    kind: Any = type(value)
    own: Any = object
    return kind is SimpleNamespace or (
        has_only_attributes(kind)
        and all(base.__flags__ & _HEAP_TYPE for base in kind.__mro__[:-1])
        and kind.__reduce_ex__ is own.__reduce_ex__
        and kind.__reduce__ is own.__reduce__
        and kind.__getstate__ is own.__getstate__
        and hasattr(value, "__dict__")
    )


def _enum_members(cls: Any) -> list[tuple[str, Any, bool]]:
    members: list[tuple[str, Any, bool]] = [
        (f"member {name}", member._value_, False) for name, member in cls.__members__.items()
    ]
    for name, member in cls.__members__.items():
        if own := _own_attributes(member):
            members.append((f"member {name} attributes", own, False))
    for name, value in vars(cls).items():
        generated = name in _ENUM and (_is_generated(value) or not isinstance(_function_of(value), FunctionType))
        if name not in _GENERATED and not generated and name not in cls.__members__:
            members.append((name, value, True))
    order = list(cls.__members__)
    return [*members, ("members", tuple(order), False)]


def _own_attributes(member: Any) -> dict[str, Any]:
    """Return what `__new__` or `__init__` has given to a member of an enum, without what is computed on demand."""
    return {
        name: value
        for name, value in vars(member).items()
        if not (name[0] == name[-1] == "_") and not any(name in vars(base) for base in type(member).__mro__)
    }


def _has_generated_methods(cls: type) -> bool:
    space = vars(cls)
    return (
        "__dataclass_fields__" in space or "__attrs_attrs__" in space or (issubclass(cls, tuple) and "_fields" in space)
    )


def _is_of_fields(cls: type, name: str, value: Any) -> bool:
    """Whether an attribute says no more than the fields do, which are taken instead."""
    space = vars(cls)
    named = issubclass(cls, tuple) and "_fields" in space
    if name != "__match_args__":
        return named and name in _OF_FIELDS
    if named:
        return bool(value == space["_fields"])
    fields = (*space.get("__dataclass_fields__", {}).values(), *space.get("__attrs_attrs__", ()))
    taken = (field for field in fields if field.init and not field.kw_only and _kind(field) != "_FIELD_CLASSVAR")
    return bool(value == tuple(field.name for field in taken))


def _kind(field: Any) -> str:
    """Return what a field of a dataclass is: `_FIELD`, `_FIELD_INITVAR` or `_FIELD_CLASSVAR`."""
    return repr(getattr(field, "_field_type", ""))


def _function_of(value: Any) -> Any:
    return getattr(value, "__func__", value)


def _is_generated(value: Any) -> bool:
    """Whether a function was written by a library: in its own file, or in none, as the libraries here do."""
    function = _function_of(value)
    if not isinstance(function, FunctionType):
        return type(value).__name__ == "_tuplegetter"
    file = function.__code__.co_filename
    if file.startswith("<"):
        return file.startswith(("<attrs generated", "<frozen ")) or (
            file == "<string>" and function.__name__ in _WRITTEN
        )
    return any(getattr(sys.modules.get(name), "__file__", None) == file for name in _WRITERS)


def _field_members(cls: type) -> list[tuple[str, Any, bool]]:
    """Return what dataclasses, attrs, named tuples and pydantic models declare."""
    space = vars(cls)
    members: list[tuple[str, Any, bool]] = []
    fields: list[Any] = [*space.get("__dataclass_fields__", {}).values(), *space.get("__attrs_attrs__", ())]
    for position, field in enumerate(fields):
        for role in _FIELD:
            value = getattr(field, role, None)
            if value is not None and not _is_sentinel(value):
                members.append((f"field {position} {role}", value, False))
        members.append((f"field {position} type", annotation_content(field.type), False))
        if setter := getattr(field, "on_setattr", None):
            members.append((f"field {position} setter", setter if callable(setter) else False, False))
        if metadata := getattr(field, "metadata", None):
            members.append((f"field {position} metadata", dict(metadata), False))
        if (kind := _kind(field)) not in ("''", "_FIELD"):
            members.append((f"field {position} kind", kind, False))
    if fields:
        members.append(("fields", tuple(field.name for field in fields), False))
        members.append(("params", _params(space.get("__dataclass_params__")), False))
        members.append(("frozen", getattr(cls.__setattr__, "__name__", "") == "_frozen_setattrs", False))  # of attrs
    if issubclass(cls, tuple) and "_fields" in space:
        members.append(("fields", tuple(space["_fields"]), False))
        members.append(("field types", annotations_of(cls), False))
        members.append(("field defaults", dict(space.get("_field_defaults", {})), False))
    return members + _model_members(space)


def _model_members(space: Any) -> list[tuple[str, Any, bool]]:
    """Return what the class of a pydantic model declares: fields, private attributes, and what its methods are for."""
    members: list[tuple[str, Any, bool]] = []
    for name, info in (space.get("__pydantic_fields__") or {}).items():
        members.append((f"field {name} annotation", annotation_content(getattr(info, "annotation", "")), False))
        members.append((f"field {name} default", repr(getattr(info, "default", "")), False))
    for name, info in (space.get("__private_attributes__") or {}).items():  # they keep what they have worked out, too
        members.append((f"private {name}", (info.default, info.default_factory), False))
    decorators = space.get("__pydantic_decorators__")
    for kind in getattr(decorators, "__dataclass_fields__", ()):
        named = getattr(decorators, kind)
        for name, decorator in named.items() if isinstance(named, dict) else ():
            info = decorator.info
            said = ((role, getattr(info, role)) for role in info.__dataclass_fields__)
            members.append((f"{kind} {name}", tuple(pair for pair in said if _is_plain(pair[1])), False))
    return members


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, str, type(None))) or (type(value) is tuple and all(map(_is_plain, value)))


def _is_sentinel(value: Any) -> bool:
    return type(value).__name__ in ("_MISSING_TYPE", "_Nothing") or repr(value) in ("NOTHING", "<NOTHING>")


def _params(params: Any) -> tuple[tuple[str, bool], ...]:
    names = ("init", "repr", "eq", "order", "unsafe_hash", "frozen")
    return tuple((name, bool(getattr(params, name, False))) for name in names)
