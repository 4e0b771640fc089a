"""Pickling by value, for results that plain pickle does not take: functions and classes of a notebook, lambdas.

Only loaded for those, since cloudpickle takes a moment to import. Open files, memoryviews and views on classes are
refused here: cloudpickle would keep a copy of what they show, and a hit would hand out something else than the call.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any

import cloudpickle

from nbflow._util import OPEN_FILE, WINDOWS, why_no_copy

__all__ = ["dumps"]


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, io.TextIOWrapper) and obj not in (sys.stdin, sys.stdout, sys.stderr):
            raise TypeError(OPEN_FILE)
        if type(obj) in WINDOWS and (why := why_no_copy(obj)):
            raise TypeError(why)
        return super().reducer_override(obj)


def dumps(value: Any, keep: Callable[[PickleBuffer], bool]) -> bytes:
    """Return the pickle of a value.

    Args:
        value: The value.
        keep: Takes each buffer, and says whether it stays in the pickle.

    Raises:
        Exception: It cannot be pickled; whatever pickle and cloudpickle say.
    """
    file = io.BytesIO()
    _Pickler(file, protocol=5, buffer_callback=keep).dump(value)
    return file.getvalue()
