"""Digests of values that Python's own modules make, beyond the types that everybody uses.

Dates and times are known by their fields, with time zone and fold; paths, numbers and patterns by what they say.
Streams in memory count by content and position. What belongs to this process, or can be read only once, is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from nbflow._typing import TYPE_CHECKING, Any
from nbflow.cache.parts import Undigestable, hashed, text_bytes

if TYPE_CHECKING:
    from nbflow.cache.digest import Walk

__all__ = ["STANDARD", "fields", "refuse", "volatile"]


def _by_code(walk: Walk, value: Any) -> bytes:
    return walk.code(value)


def refuse(value: Any, why: str = "it has no content that would last") -> bytes:
    """Raise `Undigestable` for a value."""
    raise Undigestable("", f"{type(value).__module__}.{type(value).__qualname__}: {why}")


def _timezone(walk: Walk, zone: Any) -> bytes:
    """Encode a tzinfo by what it says, not by how it is stored (zoneinfo loads its tables from files)."""
    if zone is None:
        return b"N"
    kind = type(zone)
    key = getattr(zone, "key", None) if kind.__module__.startswith(("zoneinfo", "backports")) else None
    if key is not None:
        return hashed(b"zi", text_bytes(key))
    return walk.encode(zone)


def _datetime(walk: Walk, value: Any) -> bytes:
    fields = (value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, value.fold)
    return hashed(b"dt", walk.sequence(fields), _timezone(walk, value.tzinfo))


def _time(walk: Walk, value: Any) -> bytes:
    fields = (value.hour, value.minute, value.second, value.microsecond, value.fold)
    return hashed(b"ti", walk.sequence(fields), _timezone(walk, value.tzinfo))


def _path(walk: Walk, value: Any) -> bytes:
    return hashed(b"pa", type(value).__name__.encode(), text_bytes(str(value)))


def _context_variable(walk: Walk, variable: Any) -> bytes:
    """Encode a context variable by its name and what it is set to where the call is made."""
    try:
        value = variable.get()
    except LookupError:
        return hashed(b"cv", text_bytes(variable.name))
    return hashed(b"cv", text_bytes(variable.name), walk.encode(value))


def fields(tag: bytes, *names: str) -> Callable[[Walk, Any], bytes]:
    """Return a handler for values that are their attributes of these names."""
    return lambda walk, value: hashed(tag, *(walk.attribute(value, name) for name in names))


def volatile(why: str) -> Callable[[Walk, Any], bytes]:
    """Return a handler that refuses every value."""
    return lambda walk, value: refuse(value, why)


STANDARD: dict[str, Callable[[Walk, Any], bytes]] = {
    "datetime.date": fields(b"da", "year", "month", "day"),
    "datetime.time": _time,
    "datetime.datetime": _datetime,
    "datetime.timedelta": fields(b"td", "days", "seconds", "microseconds"),
    "datetime.timezone": lambda walk, value: hashed(b"tz", text_bytes(repr(value))),
    "zoneinfo.ZoneInfo": lambda walk, value: _timezone(walk, value) if value.key else refuse(value, "it has no key"),
    "decimal.Decimal": lambda walk, value: hashed(b"de", text_bytes(str(value))),
    "fractions.Fraction": fields(b"fr", "numerator", "denominator"),
    "uuid.UUID": fields(b"uu", "int"),
    "re.Pattern": fields(b"re", "pattern", "flags"),
    "collections.deque": lambda walk, value: hashed(b"dq", walk.encode(value.maxlen), walk.sequence([*value])),
    "_contextvars.ContextVar": _context_variable,
    "functools._lru_cache_wrapper": _by_code,
    "_io.BytesIO": lambda walk, value: hashed(b"io", walk.encode(value.getvalue()), walk.encode(value.tell())),
    "_io.StringIO": lambda walk, value: hashed(b"it", walk.encode(value.getvalue()), walk.encode(value.tell())),
    **{
        f"{module}.{name}": _path
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "PurePath", "Path")
    },
    **dict.fromkeys(
        ("weakref.ReferenceType", "weakref.WeakValueDictionary", "weakref.WeakKeyDictionary", "weakref.WeakSet"),
        volatile("it holds weak references"),
    ),
    **dict.fromkeys(
        ("threading.Thread", "_thread._local", "contextvars.Context"),
        volatile("it belongs to this process"),
    ),
    **dict.fromkeys(
        ("polars.lazyframe.frame.LazyFrame", "pyarrow._dataset.FileSystemDataset"),
        volatile("it stands for data that are read later"),
    ),
}
"""Handlers of exactly these types, by dotted name."""
