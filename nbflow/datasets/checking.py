"""What a dataset store asks before it reads or writes: is this a class, do the options fit, is the library there.

Each answer is the thing itself or a `DatasetError` that names the value, the reason and what to do next.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import UnionType
from typing import Any, Final, cast, get_origin

from nbflow.datasets.base import AbstractDataset
from nbflow.errors import DatasetError

__all__ = ["Options", "class_of", "configured", "failure"]

Options = Mapping[str, Any]

_EXTRA: Final = "nbflow[data]"


def class_of(return_type: Any) -> type | None:
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


def configured(dataset: type[AbstractDataset], key: str, options: Options | None) -> AbstractDataset:
    """Return an instance of `dataset` with `options`, or say what is missing or unknown."""
    if missing := dataset.missing():
        ours = dataset.__module__.startswith("nbflow.")
        raise DatasetError(
            f"Dataset {key!r}: format {dataset.format!r} needs {' and '.join(missing)}, not installed here. "
            f"Run: pip install {repr(_EXTRA) if ours else ' '.join(missing)}.",
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


def failure(what: str, key: str, error: Exception, advice: str) -> DatasetError:
    """Return the error for failing to do `what` ("save 'x.csv' as csv"), with `advice` what to do next."""
    reason = f"{type(error).__name__}: {error}".rstrip(". :")
    return DatasetError(f"Cannot {what}: {reason}. {advice}.", key=key)
