"""Failed calls, kept with their inputs so that they can be run once more: by a click in the panel, or by name.

A session keeps nothing of a failed call but its record; `Retries` holds on to function and arguments of the latest
ones, a bounded number of them. `retry` runs such a call in the background, `rerun` here and now, so that a debugger
finds the frame in which it fails.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from nbflow.core.spec import TaskSpec
from nbflow.errors import DefinitionError
from nbflow.handles import TaskHandle
from nbflow.runtime import loop
from nbflow.runtime.current import Call
from nbflow.sessions import live as open_session
from nbflow.sessions import session_or_default
from nbflow.submitting import launch, prepare
from nbflow.tasks import AsyncTask, SyncTask

__all__ = ["Retries"]

_KEPT = 50


@dataclass(frozen=True, slots=True)
class _Failed:
    """What it takes to make a call again."""

    name: str
    spec: TaskSpec
    session: Any
    backend: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Retries:
    """The latest failed calls of a notebook; what `nbflow.panel()` returns. Safe from any thread.

    Args:
        kept: How many failed calls to hold on to, with their arguments.

    Attributes:
        retried: The latest retry of each call, by the call's name: a `TaskHandle`, whose `get()` gives the result.
    """

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._failed: OrderedDict[int, _Failed] = OrderedDict()
        self._retried: dict[str, TaskHandle[Any]] = {}
        self.retried = MappingProxyType(self._retried)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the failed calls that can be run again, oldest first."""
        with self._lock:
            return tuple(dict.fromkeys(call.name for call in self._failed.values()))

    def retry(self, name: str) -> TaskHandle[Any]:
        """Run a failed call again in the background, with the inputs that it had.

        Args:
            name: Its name, such as "fit[3]"; of several the latest.

        Returns:
            The handle of the new call, also found in `retried`. What the failed call stood for (a map's results, a
            variable) is not changed; a cached task keeps the result, so that the cell finds it when it runs again.

        Raises:
            DefinitionError: No failed call of that name is kept.
        """
        return self.start(self._number_of(name))

    def rerun(self, name: str) -> Any:
        """Run a failed call again in this thread, so that `%debug` finds it if it fails once more.

        Args:
            name: Its name, such as "fit[3]"; of several the latest.

        Returns:
            What the call returns.

        Raises:
            DefinitionError: No failed call of that name is kept.
            BaseException: What the call raises.
        """
        __tracebackhide__ = True
        call = self._failed[self._number_of(name)]
        result: Any = _task_of(call.spec)(*call.args, **call.kwargs)
        if call.spec.kind.is_async:
            return loop.run(result)
        return result

    # -- for the panel --------------------------------------------------------------------------------------------

    def keep(self, call: Call) -> None:
        """Hold on to a call that is about to end as failed; a stream cannot be run again and is left out."""
        if call.spec.kind.is_stream or call.args is None:
            return
        failed = _Failed(call.name, call.spec, call.session, call.backend, call.args, call.kwargs)
        with self._lock:
            self._failed[call.id] = failed
            while len(self._failed) > self._kept:
                self._failed.popitem(last=False)

    def knows(self, number: int) -> bool:
        """Whether the failed call of that id can be run again."""
        return number in self._failed

    def start(self, number: int, told: Callable[[int], None] = lambda number: None) -> TaskHandle[Any]:
        """Run the failed call of that id again in the background.

        Args:
            number: Its id.
            told: Gets the id of the new call before it begins.
        """
        with self._lock:
            call = self._failed.get(number)
        if call is None:
            raise DefinitionError(f"No failed call {number} is kept any more; run its cell again instead.")
        session = open_session(call.session) or session_or_default()
        backend = session.backends.get("thread" if call.backend == "inline" else call.backend)
        wanted = _task_of(call.spec)
        handle = prepare(wanted, session, backend, label=call.name)
        told(handle.task_id)
        self._retried[call.name] = handle
        return launch(handle, wanted, call.args, call.kwargs)

    def clear(self) -> None:
        """Let go of all calls and retries."""
        with self._lock:
            self._failed.clear()
            self._retried.clear()

    def _number_of(self, name: str) -> int:
        with self._lock:
            for number, call in reversed(self._failed.items()):
                if call.name == name:
                    return number
        kept = ", ".join(self.failed) or "none"
        raise DefinitionError(f"No failed call {name!r} is kept. Those that can be run again: {kept}.")

    def __repr__(self) -> str:
        return f"<{len(self._failed)} failed calls that can be run again>"

    def _ipython_display_(self) -> None:
        """Show nothing: `nbflow.panel()` at the end of a cell has shown the panel."""


def _task_of(spec: TaskSpec) -> AsyncTask[..., Any] | SyncTask[..., Any]:
    """Return a task that makes calls of that spec."""
    return (AsyncTask if spec.kind.is_async else SyncTask)(spec.func, spec, {})
