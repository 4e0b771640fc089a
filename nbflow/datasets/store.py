"""Values under keys: the extension of a key decides the format, the driver keeps the bytes.

Format, type and options are checked before anything is written or read, so what cannot work leaves no trace. All
failures are `DatasetError`s that name the key and carry the cause.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import PurePath
from types import UnionType
from typing import Any, Final, TypeVar, cast, get_origin, overload

from nbflow.datasets.base import AbstractDataset
from nbflow.datasets.registry import type_name
from nbflow.errors import DatasetError, DatasetNotFoundError
from nbflow.storage import Driver, FileDriver, check_key

__all__ = ["DatasetStore"]

T = TypeVar("T")
Options = Mapping[str, Any]

_EXTRA: Final = "nbflow[data]"
_SAVING: Final = "Change the value or the options, or choose another extension"
_LOADING: Final = (
    "The file may be damaged, or the options do not fit it, or it is in another format than its name says (give that "
    "by format=…)"
)
_DRIVING: Final = "Check that the place is there and that you may use it"


class DatasetStore:
    """Saves and loads values under keys such as `"results/fit.parquet"`.

    Args:
        base: A folder, a URL that fsspec knows, or a driver. Nothing is created before the first save.
        allow_outside: Accept keys that lead out of `base` (absolute paths, `..`, links).

    Raises:
        DatasetError: `base` is none of these.

    Picklable if its driver is. Safe from any thread, and against other processes that use the same base.
    """

    def __init__(self, base: str | os.PathLike[str] | Driver, allow_outside: bool = False) -> None:
        driver = base if isinstance(base, Driver) else FileDriver(base)
        self._driver = driver.allowing_outside() if allow_outside else driver
        self._allow_outside = allow_outside or driver.allow_outside

    def __repr__(self) -> str:
        return f"DatasetStore({self._driver!r})"

    @property
    def driver(self) -> Driver:
        """The driver that keeps the bytes."""
        return self._driver

    @property
    def base_path(self) -> str:
        """Folder or URL below which the keys live."""
        return self._driver.base_path

    @property
    def is_local(self) -> bool:
        """Whether only this machine sees the datasets, so that remote workers cannot save them."""
        return self._driver.is_local

    @property
    def in_process(self) -> bool:
        """Whether only this process sees the datasets, so that worker processes cannot save them either."""
        return self._driver.in_process

    def save(
        self, key: str | PurePath, value: Any, *, format: str | None = None, options: Options | None = None
    ) -> str:
        """Save `value`, replacing in one step what was there.

        Args:
            key: Relative name; its extension decides the format, and without one it is pickle.
            value: What to save.
            format: Name of the format, for keys whose extension does not say it.
            options: Options of the format, as of its class's constructor.

        Returns:
            The full path or URL.

        Raises:
            DatasetError: The key is refused, format, extension and type do not fit, an option is unknown, a library
                is missing, or writing failed; what was there before is then still there.
        """
        name = self._checked(key)
        dataset = self._dataset(name, type(value), format, loading=False)
        writer = _configured(dataset, name, options)
        try:
            data = writer.serialize(value)
        except Exception as error:
            raise _failure(f"save {name!r} as {dataset.format}", name, error, _SAVING) from error
        if not isinstance(data, bytes | bytearray | memoryview):
            raise DatasetError(
                f"Cannot save {name!r}: {type_name(dataset)}.serialize returned {type(data).__name__}, not bytes. "
                "Repair the format.",
                key=name,
            )
        try:
            return self._driver.save(name, bytes(data))
        except DatasetError:
            raise
        except Exception as error:
            raise _failure(f"save {name!r} in {self._driver!r}", name, error, _DRIVING) from error

    @overload
    def load(
        self, key: str | PurePath, return_type: type[T], *, format: str | None = None, options: Options | None = None
    ) -> T: ...

    @overload
    def load(
        self,
        key: str | PurePath,
        return_type: None = None,
        *,
        format: str | None = None,
        options: Options | None = None,
    ) -> Any: ...

    def load(
        self,
        key: str | PurePath,
        return_type: type[Any] | None = None,
        *,
        format: str | None = None,
        options: Options | None = None,
    ) -> Any:
        """Load the value under `key`.

        Args:
            key: Relative name; its extension decides the format, and without one it is pickle.
            return_type: The type wanted; None for the natural one of the format (a table is a `pandas.DataFrame`).
            format: Name of the format, for keys whose extension does not say it.
            options: Options of the format, as of its class's constructor.

        Returns:
            The value, of type `return_type` if one was given.

        Raises:
            DatasetNotFoundError: Nothing is saved under the key.
            DatasetError: The key is refused, format, extension and type do not fit, an option is unknown, a library
                is missing, or the file does not hold what its name says.
        """
        name = self._checked(key)
        wanted = _class_of(return_type)
        dataset = self._dataset(name, wanted, format, loading=True)
        reader = _configured(dataset, name, options)
        data = self._bytes(name)
        try:
            value = reader.deserialize(data)
        except Exception as error:
            raise _failure(f"load {name!r} as {dataset.format}", name, error, _LOADING) from error
        if wanted is not None and not isinstance(value, wanted):
            found = type_name(type(value))
            raise DatasetError(
                f"Dataset {name!r} ({dataset.format}) holds a {found}, not a {type_name(wanted)}. Load it without "
                f"return_type, or with return_type={found}.",
                key=name,
                return_type=type_name(wanted),
            )
        return value

    def exists(self, key: str | PurePath) -> bool:
        """Return whether anything is saved under `key`; a refused key raises `DatasetError`."""
        return self._driver.exists(self._checked(key))

    def delete(self, key: str | PurePath) -> bool:
        """Delete what is saved under `key` and return whether there was anything; a refused key raises."""
        return self._driver.delete(self._checked(key))

    def list_keys(self, prefix: str = "", *, hidden: bool = False) -> list[str]:
        """Return the keys of everything below the base, in order.

        Args:
            prefix: Only keys that start with it.
            hidden: Whether to include keys with a part that starts with a dot.
        """
        return [
            key
            for key in self._driver.list_keys()
            if key.startswith(prefix) and (hidden or not any(part.startswith(".") for part in key.split("/")))
        ]

    def format_of(self, key: str | PurePath, value_or_type: Any = None, format: str | None = None) -> str:
        """Return the name of the format that `save` or `load` would use, or raise as they would.

        Args:
            key: The key.
            value_or_type: The value to save, or its type, or the type to load; None if it is not known.
            format: The format asked for, if any.

        Raises:
            DatasetError: Format, extension and type do not fit.
        """
        loading = value_or_type is None or isinstance(value_or_type, type)
        type_ = value_or_type if loading else type(value_or_type)
        return self._dataset(self._checked(key), type_, format, loading=loading).format

    def _checked(self, key: str | PurePath) -> str:
        """Return `key` in its canonical spelling, or refuse it, whatever the driver would accept."""
        return check_key(key, allow_outside=self._allow_outside)

    def _bytes(self, key: str) -> bytes:
        """Return what the driver has under `key`; drivers may report absence by a plain `KeyError`."""
        try:
            return self._driver.load(key)
        except DatasetError:
            raise
        except KeyError:
            raise DatasetNotFoundError(
                f"There is no dataset {key!r} in {self._driver!r}. Save it first, or look at list_keys().", key=key
            ) from None
        except Exception as error:
            raise _failure(f"load {key!r} from {self._driver!r}", key, error, _DRIVING) from error

    def _dataset(self, key: str, type_: type | None, format: str | None, *, loading: bool) -> type[AbstractDataset]:
        """Return the class for `key`, in the format asked for, if the extension allows it, else in the extension's."""
        extension = self._driver.get_format_hint(key)
        try:
            if format is None:
                name = AbstractDataset.infer_format(type_, extension, loading=loading)
            else:
                name = AbstractDataset.canonical_format(format)
                allowed = () if extension is None else AbstractDataset.formats_of_extension(extension)
                if allowed and name not in allowed:
                    raise DatasetError(
                        f"the extension '.{extension}' stands for {' or '.join(allowed)}, but format={format!r} was "
                        "asked for. Leave out format, or give the key an extension of that format.",
                        format=name,
                        extension=extension,
                    )
            return AbstractDataset.get(type_, name, loading=loading)
        except DatasetError as error:
            raise DatasetError(f"Dataset {key!r}: {error}", **{**vars(error), "key": key}) from None


def _class_of(return_type: Any) -> type | None:
    """Return the class to check a loaded value against; None where anything will do."""
    wanted = get_origin(return_type) or return_type
    if wanted in (None, Any, object):
        return None
    try:
        isinstance(None, wanted)
        usable = isinstance(wanted, type) and wanted is not UnionType
    except TypeError:  # a protocol that cannot be checked, or no class at all
        usable = False
    if not usable:
        raise DatasetError(
            f"return_type={return_type!r} is not a class that a value can be checked against. Give a class, or leave "
            "it out."
        )
    return cast("type", wanted)


def _configured(dataset: type[AbstractDataset], key: str, options: Options | None) -> AbstractDataset:
    """Return an instance of `dataset` with `options`, or say what is missing or unknown."""
    if missing := dataset.missing():
        ours = dataset.__module__.startswith("nbflow.")
        raise DatasetError(
            f"Dataset {key!r}: format {dataset.format!r} needs {' and '.join(missing)}, which is not installed. "
            f"Install it: pip install {repr(_EXTRA) if ours else ' '.join(missing)}.",
            key=key,
            format=dataset.format,
            missing=missing,
        )
    try:
        given = dict(options or {})
        inspect.signature(dataset).bind(**given)
        return dataset(**given)
    except Exception as error:
        taken = ", ".join(inspect.signature(dataset).parameters) or "none"
        raise DatasetError(
            f"Dataset {key!r}: options={options!r} do not fit format {dataset.format!r}: {error}. "
            f"Its options: {taken}.",
            key=key,
            format=dataset.format,
        ) from error


def _failure(what: str, key: str, error: Exception, advice: str) -> DatasetError:
    """Return the error for failing to do `what` ("save 'x.csv' as csv"), with `advice` what to do next."""
    reason = f"{type(error).__name__}: {error}".rstrip(". :")
    return DatasetError(f"Cannot {what}: {reason}. {advice}.", key=key)
