"""Values under keys: the extension of a key decides the format, the driver keeps the bytes, the catalog their history.

Format, type and options are checked before anything is written or read, so what cannot work leaves no trace. All
failures are `DatasetError`s that name the key and carry the cause.
"""

from __future__ import annotations

import os
import time
from pathlib import PurePath
from typing import Any, Final, TypeVar, overload

from nbflow.datasets.base import AbstractDataset
from nbflow.datasets.catalog import FOLDER, Catalog, DatasetInfo, Origin, Version, shape_of, version_id
from nbflow.datasets.checking import Options, class_of, configured, failure
from nbflow.datasets.diff import Diff, diff_values
from nbflow.datasets.registry import type_name
from nbflow.errors import DatasetError, DatasetNotFoundError
from nbflow.storage import Driver, FileDriver, check_key
from nbflow.storage.keys import refusal

__all__ = ["DatasetStore"]

T = TypeVar("T")

_SAVING: Final = "Change the value or the options, or choose another extension"
_LOADING: Final = (
    "The file may be damaged, or the options do not fit it, or it is in another format than its name says (give that "
    "by format=…)"
)
_CLOCKS_DIFFER_S: Final = 60.0  # a file server's clock need not be ours
_DRIVING: Final = "Check that the place is there and that you may use it"


class DatasetStore:
    """Saves and loads values under keys such as `"results/fit.parquet"`.

    Args:
        base: A folder, a URL that fsspec knows, or a driver. Nothing is created before the first save.
        allow_outside: Accept keys that lead out of `base` (absolute paths, `..`, links).
        versions: Most versions of each dataset that are kept, the current one included; 0 for plain files alone.

    Raises:
        DatasetError: `base` is none of these, or `versions` is no number of versions.

    Picklable if its driver is. Safe from any thread, and against other processes that use the same base.
    """

    def __init__(
        self, base: str | os.PathLike[str] | Driver, allow_outside: bool = False, *, versions: int = 0
    ) -> None:
        if isinstance(versions, bool) or not isinstance(versions, int) or versions < 0:
            raise DatasetError(f"versions={versions!r} must be a whole number ≥ 0; 0 keeps none.")
        driver = base if isinstance(base, Driver) else FileDriver(base)
        self._driver = driver.allowing_outside() if allow_outside else driver
        self._allow_outside = allow_outside or driver.allow_outside
        self._keep = versions
        self._catalog = Catalog(self._driver, max(1, versions))

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
        self,
        key: str | PurePath,
        value: Any,
        *,
        format: str | None = None,
        options: Options | None = None,
        origin: Origin | None = None,
    ) -> str:
        """Save `value`, replacing in one step what was there.

        Args:
            key: Relative name; its extension decides the format, and without one it is pickle.
            value: What to save.
            format: Name of the format, for keys whose extension does not say it.
            options: Options of the format, as of its class's constructor.
            origin: What saves it, to be noted with the version.

        Returns:
            The full path or URL.

        Raises:
            DatasetError: The key is refused, format, extension and type do not fit, an option is unknown, a library
                is missing, or writing failed; what was there before is then still there.
        """
        name = self._checked(key)
        dataset = self._dataset(name, type(value), format, loading=False)
        writer = configured(dataset, name, options)
        try:
            data = writer.serialize(value)
        except Exception as error:
            raise failure(f"save {name!r} as {dataset.format}", name, error, _SAVING) from error
        if not isinstance(data, bytes | bytearray | memoryview):
            raise DatasetError(
                f"Cannot save {name!r}: {type_name(dataset)}.serialize returned {type(data).__name__}, not bytes. "
                "Repair the format.",
                key=name,
            )
        data = bytes(data)
        try:
            if not self._has_versions(name):
                return self._driver.save(name, data)
            version = Version(
                key=name,
                id=version_id(data),
                saved=time.time(),
                size_bytes=len(data),
                format=dataset.format,
                type=type_name(type(value)),
                shape=shape_of(value),
                origin=origin or Origin(),
            )
            return self._catalog.save(version, data)
        except DatasetError:
            raise
        except Exception as error:
            raise failure(f"save {name!r} in {self._driver!r}", name, error, _DRIVING) from error

    @overload
    def load(
        self,
        key: str | PurePath,
        return_type: type[T],
        *,
        format: str | None = None,
        options: Options | None = None,
        version: str | int | None = None,
    ) -> T: ...

    @overload
    def load(
        self,
        key: str | PurePath,
        return_type: None = None,
        *,
        format: str | None = None,
        options: Options | None = None,
        version: str | int | None = None,
    ) -> Any: ...

    def load(
        self,
        key: str | PurePath,
        return_type: type[Any] | None = None,
        *,
        format: str | None = None,
        options: Options | None = None,
        version: str | int | None = None,
    ) -> Any:
        """Load the value under `key`.

        Args:
            key: Relative name; its extension decides the format, and without one it is pickle.
            return_type: The type wanted; None for the natural one of the format (a table is a `pandas.DataFrame`).
            format: Name of the format, for keys whose extension does not say it.
            options: Options of the format, as of its class's constructor.
            version: Its name or the beginning of it, or a number: 0 for the last one saved, -1 for the one before;
                None for what is there now.

        Returns:
            The value, of type `return_type` if one was given.

        Raises:
            DatasetNotFoundError: Nothing is saved under the key, or there is no such version.
            DatasetError: The key is refused, format, extension and type do not fit, an option is unknown, a library
                is missing, or the file does not hold what its name says.
        """
        name = self._checked(key)
        wanted = class_of(return_type)
        chosen = None if version is None else self._version(name, version)
        if chosen is not None and format is None:
            format = chosen.format
        dataset = self._dataset(name, wanted, format, loading=True)
        reader = configured(dataset, name, options)
        data = self._bytes(name) if chosen is None else self._catalog.load(chosen)
        try:
            value = reader.deserialize(data)
        except Exception as error:
            raise failure(f"load {name!r} as {dataset.format}", name, error, _LOADING) from error
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

    def delete(self, key: str | PurePath, version: str | int | None = None) -> bool:
        """Delete what is saved under `key`.

        Args:
            key: The key.
            version: One version, as for `load`, that is not the last one; None for the dataset with all its versions.

        Returns:
            Whether there was anything.

        Raises:
            DatasetError: The key is refused, or the version is the last one.
            DatasetNotFoundError: There is no such version.
        """
        name = self._checked(key)
        if version is not None:
            chosen = self._version(name, version)
            if chosen.id == self._catalog.versions(name)[-1].id:
                raise DatasetError(
                    f"Version {chosen.id} of dataset {name!r} is the last one saved; delete the dataset, or another "
                    "version.",
                    key=name,
                )
            self._catalog.forget(chosen)
            return True
        return self._catalog.delete(name) if self._has_versions(name) else self._driver.delete(name)

    def list_keys(self, prefix: str = "", *, hidden: bool = False) -> list[str]:
        """Return the keys of everything below the base, in order.

        Args:
            prefix: Only keys that start with it.
            hidden: Whether to include keys with a part that starts with a dot.
        """
        return [
            key
            for key in self._driver.list_keys()
            if key.startswith(prefix)
            and not key.startswith(f"{FOLDER}/")
            and (hidden or not any(part.startswith(".") for part in key.split("/")))
        ]

    def versions(self, key: str | PurePath) -> list[Version]:
        """Return the versions of a dataset, the last one saved first; none where none were kept.

        Raises:
            DatasetError: The key is refused.
        """
        name = self._checked(key)
        return self._catalog.versions(name)[::-1] if self._is_inside(name) else []

    def info(self, key: str | PurePath) -> DatasetInfo:
        """Return what is known of a dataset without loading it.

        Raises:
            DatasetNotFoundError: Nothing is saved under the key.
            DatasetError: The key is refused.
        """
        name = self._checked(key)
        try:
            facts = self._driver.facts(name)
        except DatasetError:
            raise
        except KeyError:
            raise self._not_found(name) from None
        versions = self.versions(name)
        if not versions:
            return DatasetInfo(name, facts.size_bytes, facts.modified, self._format_or_none(name))
        last = versions[0]
        later = facts.modified is not None and facts.modified > last.saved + _CLOCKS_DIFFER_S
        changed = facts.size_bytes != last.size_bytes or later
        return DatasetInfo(
            key=name,
            size_bytes=facts.size_bytes,
            saved=facts.modified if changed else last.saved,
            format=last.format,
            type=last.type,
            shape=None if changed else last.shape,
            origin=Origin() if changed else last.origin,
            version="" if changed else last.id,
            versions=len(versions),
            changed=changed,
        )

    def catalog(self, prefix: str = "", *, limit: int | None = None) -> list[DatasetInfo]:
        """Return what is known of all datasets, in the order of their keys.

        Files that others put there count as well, where their extension is that of a format.

        Args:
            prefix: Only keys that start with it.
            limit: At most so many; None for all.
        """
        stored = self._driver.list_keys()
        noted = self._catalog.noted(stored)
        found: list[DatasetInfo] = []
        for key in stored:
            hidden = any(part.startswith(".") for part in key.split("/"))
            if not key.startswith(prefix) or hidden or (limit is not None and len(found) >= limit):
                continue
            known = self._catalog.is_noted(key, noted)
            hint = self._driver.get_format_hint(key)
            if known or (hint is not None and AbstractDataset.formats_of_extension(hint)):
                try:
                    found.append(self.info(key) if known else self._plain_info(key))
                except KeyError:
                    continue  # deleted since it was listed
        return found

    def diff(self, key: str | PurePath, old: str | int = -1, new: str | int | None = None) -> Diff:
        """Return what differs between two versions of a dataset.

        Args:
            key: The key.
            old: The one version, as for `load`.
            new: The other; None for what is there now.

        Returns:
            Lines of text: `-` for what is gone, `+` for what came, `~` for what changed; empty where nothing did.

        Raises:
            DatasetNotFoundError: There is no such dataset or version.
            DatasetError: One of them cannot be loaded.
        """
        return diff_values(self.load(key, version=old), self.load(key, version=new))

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
        name = check_key(key, allow_outside=self._allow_outside)
        if FOLDER in name.casefold().split("/"):
            raise refusal(key, f"leads into {FOLDER!r}, where the versions are")
        return name

    def _is_inside(self, name: str) -> bool:
        """Return whether a checked key is below the base, where versions can be kept."""
        try:
            return not self._allow_outside or check_key(name) == name
        except DatasetError:
            return False

    def _has_versions(self, name: str) -> bool:
        return self._keep > 0 and self._is_inside(name)

    def _version(self, name: str, version: str | int) -> Version:
        """Return one version, by name, by the beginning of its name, or by how many were saved after it."""
        found = self.versions(name)
        if isinstance(version, str):
            chosen = [each for each in found if version and each.id.startswith(version)]
        else:
            chosen = found[-version : 1 - version] if version <= 0 else []
        if len(chosen) == 1:
            return chosen[0]
        known = ", ".join(each.id for each in found) or "none were kept"
        raise DatasetNotFoundError(
            f"Dataset {name!r} has {'several versions' if chosen else 'no version'} {version!r}; there are: {known}. "
            "Give one of these, or 0 for the last one saved, -1 for the one before.",
            key=name,
            version=version,
        )

    def _plain_info(self, key: str) -> DatasetInfo:
        facts = self._driver.facts(key)
        return DatasetInfo(key, facts.size_bytes, facts.modified, self._format_or_none(key))

    def _format_or_none(self, key: str) -> str | None:
        hint = self._driver.get_format_hint(key)
        return next(iter(AbstractDataset.formats_of_extension(hint)), None) if hint is not None else None

    def _not_found(self, key: str) -> DatasetNotFoundError:
        return DatasetNotFoundError(
            f"There is no dataset {key!r} in {self._driver!r}. Save it first; a session's `datasets` lists all.",
            key=key,
        )

    def _bytes(self, key: str) -> bytes:
        """Return what the driver has under `key`; drivers may report absence by a plain `KeyError`."""
        try:
            return self._driver.load(key)
        except DatasetError:
            raise
        except KeyError:
            raise self._not_found(key) from None
        except Exception as error:
            raise failure(f"load {key!r} from {self._driver!r}", key, error, _DRIVING) from error

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
