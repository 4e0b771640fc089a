"""What differs between two values: of tables the columns and rows, of arrays the elements, of text the lines.

The answer is short whatever the size of the values: counts, and a few examples. No library is imported for it; tables
and arrays are compared by what they offer themselves.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from nbflow.datasets.catalog import shape_of
from nbflow.datasets.registry import type_name

__all__ = ["Diff", "diff_values"]

_LINES: Final = 60
_NAMES: Final = 12
_SHOWN: Final = 120


class Diff(str):
    """What differs, as text of a few lines; empty where nothing does, so that `if not diff` reads as it should."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The same, line by line."""
        return tuple(self.splitlines())

    def __repr__(self) -> str:
        return str(self) or "no difference"


def diff_values(old: Any, new: Any) -> Diff:
    """Return what differs between `old` and `new`.

    Args:
        old: A value.
        new: Another one, of any type.

    Returns:
        Lines that start with `-` for what is gone, `+` for what came, `~` for what changed.
    """
    if type(old) is not type(new):
        return _diff([f"~ type: {type_name(type(old))} → {type_name(type(new))}", *_shapes(old, new)])
    if isinstance(old, str):
        return _diff(_of_text(old, new))
    if isinstance(old, Mapping):
        return _diff(_of_mappings(old, new))
    if isinstance(old, (list, tuple)):
        return _diff(_of_sequences(old, new))
    if _columns(old) is not None:
        return _diff(_of_tables(old, new))
    if hasattr(old, "dtype") and shape_of(old) is not None:
        return _diff(_of_arrays(old, new))
    if _equal(old, new):
        return _diff([])
    return _diff(_shapes(old, new) or [f"- {_short(old)}", f"+ {_short(new)}"])


def _diff(lines: Iterable[str]) -> Diff:
    return Diff("\n".join(lines))


def _shapes(old: Any, new: Any) -> list[str]:
    before, after = shape_of(old), shape_of(new)
    return [f"~ shape: {_by(before)} → {_by(after)}"] if before != after else []


def _of_text(old: str, new: str) -> Iterator[str]:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1)
    yield from _limited(line for line in lines if not line.startswith(("---", "+++", "@@")))


def _of_mappings(old: Mapping[Any, Any], new: Mapping[Any, Any], path: str = "") -> Iterator[str]:
    def changes() -> Iterator[str]:
        for key, value in old.items():
            where = f"{path}[{key!r}]"
            if key not in new:
                yield f"- {where}: {_short(value)}"
            elif isinstance(value, Mapping) and isinstance(new[key], Mapping):
                yield from _of_mappings(value, new[key], where)
            elif not _equal(value, new[key]):
                yield f"~ {where}: {_short(value)} → {_short(new[key])}"
        yield from (f"+ {path}[{key!r}]: {_short(value)}" for key, value in new.items() if key not in old)

    yield from _limited(changes())


def _of_sequences(old: Any, new: Any) -> Iterator[str]:
    yield from _shapes(old, new)
    pairs = enumerate(zip(old, new, strict=False))
    yield from _limited(f"~ [{at}]: {_short(a)} → {_short(b)}" for at, (a, b) in pairs if not _equal(a, b))


def _of_tables(old: Any, new: Any) -> Iterator[str]:
    before, after = _columns(old) or {}, _columns(new) or {}
    yield from _shapes(old, new)
    if gone := [name for name in before if name not in after]:
        yield f"- columns: {_names(gone)}"
    if came := [name for name in after if name not in before]:
        yield f"+ columns: {_names(came)}"
    shared = [name for name in before if name in after]
    retyped = [name for name in shared if before[name] != after[name]]
    for name in retyped[:_NAMES]:
        yield f"~ column {name}: {before[name]} → {after[name]}"
    if len(old) != len(new):
        return
    for name in islice((each for each in shared if each not in retyped), _LINES):
        changed = _count_changed(old[name], new[name])
        if changed:
            yield f"~ column {name}: {changed:,} of {len(old):,} rows differ"


def _of_arrays(old: Any, new: Any) -> Iterator[str]:
    yield from _shapes(old, new)
    if old.dtype != new.dtype:
        yield f"~ dtype: {old.dtype} → {new.dtype}"
    if shape_of(old) != shape_of(new):
        return
    changed = _count_changed(old, new)
    if changed:
        most = ""
        if getattr(old.dtype, "kind", "") in "iuf" and getattr(new.dtype, "kind", "") in "iuf":
            apart = abs(old.astype(float) - new.astype(float))
            most = f", by at most {float(apart[apart == apart].max()):g}" if (apart == apart).any() else ""
        yield f"~ {changed:,} of {old.size:,} elements differ{most}"


def _columns(value: Any) -> dict[str, str] | None:
    """Return the columns of a table and their types, for pandas, polars and pyarrow alike; None for what is none."""
    names = getattr(value, "column_names", None)
    if names is not None and hasattr(value, "schema"):  # pyarrow
        return {name: str(value.schema.field(name).type) for name in names}
    columns, types = getattr(value, "columns", None), getattr(value, "dtypes", None)
    if columns is None or types is None:
        return None
    return {str(name): str(kind) for name, kind in zip(columns, types, strict=False)}


def _count_changed(old: Any, new: Any) -> int:
    """Return how many elements differ; missing values equal each other."""
    if hasattr(old, "ne_missing"):  # polars
        return int(old.ne_missing(new).sum())
    if hasattr(old, "to_pylist"):  # pyarrow
        return sum(a != b and not (a != a and b != b) for a, b in zip(old.to_pylist(), new.to_pylist(), strict=True))
    if hasattr(old, "to_numpy"):  # pandas: by position, as rows of a file have no other name
        both = old.isna().to_numpy() & new.isna().to_numpy()
        old, new = old.to_numpy(), new.to_numpy()
        return int(((old != new) & ~both).sum())
    kind = getattr(old.dtype, "kind", "")
    different = old != new
    if kind in "fc":
        different = different & ~((old != old) & (new != new))
    return int(different.sum())


def _equal(old: Any, new: Any) -> bool:
    """Return whether two values are the same; what cannot say so is taken to differ."""
    try:
        same = old == new
        return bool(same if isinstance(same, bool) else same.all())
    except Exception:
        return False


def _limited(lines: Iterator[str]) -> Iterator[str]:
    yield from islice(lines, _LINES)
    rest = sum(1 for _ in lines)
    if rest:
        yield f"… {rest:,} more"


def _names(names: list[str]) -> str:
    more = f" … {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def _by(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else " × ".join(f"{each:,}" for each in shape)


def _short(value: Any) -> str:
    text = repr(value).replace("\n", " ")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
