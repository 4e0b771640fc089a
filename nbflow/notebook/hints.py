"""A word of help below a cell that has forgotten to await, or to ask a handle for its result.

What async tasks and `gather_tasks` return without `await` is a coroutine: it has not begun to run, and Python's own
messages (`'coroutine' object is not iterable`) do not say what to type. Only coroutines of ours are spoken of, each
variable once.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from types import CoroutineType
from typing import Any

from nbflow._util import PACKAGE_ROOT

__all__ = ["after_cell"]


def after_cell(result: Any, names: Mapping[str, Any], told: set[str]) -> None:
    """Say what to type, if the cell that has ended looks as if it had forgotten to.

    Args:
        result: What IPython tells of the cell (an `ExecutionResult`).
        names: The user's names.
        told: Variables that were spoken of before; changed in place.
    """
    error = result.error_in_exec
    if isinstance(error, (TypeError, AttributeError)) and "coroutine" in str(error):
        _say("a coroutine was used as if it were a result; put `await` before the call that made it.")
    elif isinstance(error, (TypeError, AttributeError)) and "'TaskHandle'" in str(error):
        _say("a handle was used as if it were a result; `.get()` waits for the result and returns it.")
    elif _is_waiting(result.result):
        _say("this is a coroutine, nothing has run yet; put `await` before the call.")
    else:
        for name, value in list(names.items()):
            if type(value) is CoroutineType and not name.startswith("_") and name not in told and _is_waiting(value):
                told.add(name)
                _say(f"`{name}` is a coroutine, nothing has run yet; `await {name}` gives its result.")


def _is_waiting(value: Any) -> bool:
    """Whether this is a coroutine of ours that has not begun."""
    return (
        type(value) is CoroutineType
        and value.cr_code.co_filename.startswith(PACKAGE_ROOT)
        and inspect.getcoroutinestate(value) == inspect.CORO_CREATED
    )


def _say(text: str) -> None:
    sys.stderr.write(f"nbflow: {text}\n")
