"""A session's datasets: saving and loading with hooks and events, and all of them as one mapping.

`session.datasets` is what one looks at: keys are attributes, values are loaded when they are asked for, and every
version can be listed, compared and brought back. In a notebook it shows itself as a browser, elsewhere as a table.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from nbflow._util import format_duration
from nbflow.datasets import DatasetInfo, DatasetStore, Diff, Origin, Version
from nbflow.errors import DatasetNotFoundError
from nbflow.runtime.current import Call, ambient
from nbflow.runtime.emit import emit_session

__all__ = ["COLUMNS", "Datasets", "age_words", "load", "save", "shape_words", "size_words"]

COLUMNS = ("key", "type", "shape", "size", "age", "versions", "made by")
_SHOWN = 50


def save(
    session: Any,
    key: str,
    value: Any,
    *,
    format: str | None,
    options: dict[str, Any] | None,
    store: Any,
    call: Call | None,
) -> str:
    """Save a dataset for a session; see `SessionContext.save_dataset`."""
    place = session.dataset_store_for(store)
    common: dict[str, Any] = {"key": key, "value": value, "format": format, "options": options}
    if session.hooks is not None:
        common["metadata"] = None if call is None else call.metadata
        session.hooks.call.before_dataset_save(**common)
    began = session.clock.monotonic()
    path: str = place.save(key, value, format=format, options=options, origin=_origin(session, call))
    _tell(session, "DatasetSaved", place, key, value, format, call, began, size_bytes=None)
    if session.hooks is not None:
        session.hooks.call.after_dataset_save(**common)
    return path


def load(
    session: Any,
    key: str,
    return_type: type | None,
    *,
    format: str | None,
    options: dict[str, Any] | None,
    store: Any,
    version: str | int | None,
    call: Call | None,
) -> Any:
    """Load a dataset for a session; see `SessionContext.load_dataset`."""
    place = session.dataset_store_for(store)
    common: dict[str, Any] = {"key": key, "return_type": return_type, "format": format, "options": options}
    if session.hooks is not None:
        common["metadata"] = None if call is None else call.metadata
        session.hooks.call.before_dataset_load(**common)
    began = session.clock.monotonic()
    value = place.load(key, return_type, format=format, options=options, version=version)
    _tell(session, "DatasetLoaded", place, key, value, format, call, began)
    if session.hooks is not None:
        took = session.clock.monotonic() - began
        session.hooks.call.after_dataset_load(**common, result=value, duration=took)
    return value


def _origin(session: Any, call: Call | None) -> Origin:
    """Return what a version says of the call that saves it."""
    cell = session.label() or ""
    if call is None:
        return Origin(cell=cell)
    key = getattr(call.key, "digest", None)
    return Origin(task=call.spec.name, call=call.name, cache_key=str(key or ""), cell=cell)


def _tell(
    session: Any,
    fact: str,
    place: DatasetStore,
    key: str,
    value: Any,
    format: str | None,
    call: Call | None,
    began: float,
    **more: Any,
) -> None:
    if session.fanout.listening:
        emit_session(
            session,
            fact,
            0 if call is None else call.id,
            "" if call is None else call.name,
            key=key,
            format=place.format_of(key, value, format),
            duration_s=session.clock.monotonic() - began,
            **more,
        )


class Datasets(Mapping[str, Any]):
    """The datasets of a session, by key.

    `datasets["fits/a.json"]` loads a value; so does `datasets.fits.a`, for a key whose name without folder and
    extension is an identifier that no method has. Looking at keys, versions and facts loads nothing.

    Args:
        session: The session.
        prefix: The folder whose keys are meant, with its `/`; empty for all.

    Safe from any thread.
    """

    def __init__(self, session: Any, prefix: str = "") -> None:
        self._session = session
        self._prefix = prefix

    @property
    def session(self) -> Any:
        """The session whose datasets they are."""
        return self._session

    @property
    def prefix(self) -> str:
        """The folder whose keys are meant, with its `/`; empty for all."""
        return self._prefix

    @property
    def store(self) -> DatasetStore:
        """The store that keeps them."""
        found: DatasetStore = self._session.dataset_store
        return found

    # -- as a mapping

    def __getitem__(self, key: str) -> Any:
        return self._session.load_dataset(self._prefix + key)

    def __iter__(self) -> Iterator[str]:
        return (each.key.removeprefix(self._prefix) for each in self.catalog())

    def __len__(self) -> int:
        return len(self.catalog())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.store.exists(self._prefix + key)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # copy, pickle and IPython ask for many such names
        keys = list(self)
        found = [key for key in keys if "/" not in key and _stem(key) == name]
        if len(found) == 1:
            return self[found[0]]
        if any(key.startswith(f"{name}/") for key in keys):
            return Datasets(self._session, f"{self._prefix}{name}/")
        if found:
            raise AttributeError(f"Several datasets are named {name!r}: {', '.join(found)}. Use datasets[key].")
        raise AttributeError(f"There is no dataset {name!r}; there are: {', '.join(keys[:10]) or 'none'}.")

    def __dir__(self) -> list[str]:
        names = {key.partition("/")[0] if "/" in key else _stem(key) for key in self}
        return sorted({*super().__dir__(), *(name for name in names if name.isidentifier())})

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    # -- looking, loading, comparing, deleting

    def catalog(self, *, limit: int | None = None) -> list[DatasetInfo]:
        """Return what is known of each dataset without loading it, in the order of the keys.

        Args:
            limit: At most so many; None for all.
        """
        return self.store.catalog(self._prefix, limit=limit)

    def info(self, key: str) -> DatasetInfo:
        """Return type, shape, size, age and origin of a dataset; raises `DatasetNotFoundError` where there is none."""
        return self.store.info(self._prefix + key)

    def versions(self, key: str) -> list[Version]:
        """Return the versions of a dataset, the last one saved first."""
        return self.store.versions(self._prefix + key)

    def load(self, key: str, return_type: type | None = None, *, version: str | int | None = None) -> Any:
        """Load a dataset.

        Args:
            key: Its key.
            return_type: The type wanted; None for the natural one of the format.
            version: Name of a version or the beginning of it, 0 for the last one, -1 for the one before; None for what
                is there now.

        Raises:
            DatasetNotFoundError: There is no such dataset or version.
            DatasetError: It cannot be loaded.
        """
        return self._session.load_dataset(self._prefix + key, return_type, version=version)

    def diff(self, key: str, old: str | int = -1, new: str | int | None = None) -> Diff:
        """Return what differs between two versions, by default the one before and what is there now."""
        return self.store.diff(self._prefix + key, old, new)

    def delete(self, key: str, version: str | int | None = None) -> None:
        """Delete a dataset with all its versions, or one version that is not the last.

        Raises:
            DatasetNotFoundError: There is none.
            DatasetError: It cannot be deleted.
        """
        if not self.store.delete(self._prefix + key, version):
            raise DatasetNotFoundError(f"There is no dataset {key!r} to delete.", key=key)

    # -- shown

    def rows(self) -> list[tuple[str, ...]]:
        """Return a row of text for each of the first datasets, as `COLUMNS` name it."""
        now = time.time()
        return [
            (
                info.key.removeprefix(self._prefix),
                info.type or info.format or "",
                shape_words(info.shape),
                size_words(info.size_bytes),
                age_words(info.saved, now),
                str(info.versions or ""),
                "changed by another program" if info.changed else str(info.origin),
            )
            for info in self.catalog(limit=_SHOWN + 1)
        ]

    def __repr__(self) -> str:
        rows = self.rows()
        if not rows:
            return f"no datasets in {self.store.base_path}"
        table = [COLUMNS, *rows[:_SHOWN]]
        widths = [max(len(row[column]) for row in table) for column in range(len(COLUMNS))]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        return "\n".join([*lines, *(["…"] if len(rows) > _SHOWN else [])])

    def _repr_html_(self) -> str:
        from html import escape  # few programs show them

        rows = self.rows()
        if not rows:
            return f"<p>No datasets in <code>{escape(self.store.base_path)}</code>.</p>"
        head = "".join(f'<th style="text-align:left">{name}</th>' for name in COLUMNS)
        lines = "".join(
            "<tr>" + "".join(f'<td style="text-align:left">{escape(text)}</td>' for text in row) + "</tr>"
            for row in rows[:_SHOWN]
        )
        more = f"<p>The first {_SHOWN}; there are more.</p>" if len(rows) > _SHOWN else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>{more}"

    def _ipython_display_(self) -> None:
        if ambient.browse is None:
            raise NotImplementedError  # IPython then takes HTML and text
        ambient.browse(self)


def _stem(key: str) -> str:
    return key.rpartition("/")[2].partition(".")[0]


def shape_words(shape: tuple[int, ...] | None) -> str:
    """Return a shape as people read it: `1,200 × 3`."""
    return "" if shape is None else " × ".join(f"{each:,}" for each in shape)


def size_words(size: int) -> str:
    """Return a number of bytes as people read it: `1.2 MB`."""
    number, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 999.5:
            break
        number, unit = number / 1000, larger
    return f"{number:.0f} {unit}" if unit == "B" or number >= 99.5 else f"{number:.1f} {unit}"


def age_words(saved: float | None, now: float) -> str:
    """Return how long ago something was saved: `3 min 20 s ago`."""
    return "" if saved is None else f"{format_duration(max(0.0, now - saved))} ago"
