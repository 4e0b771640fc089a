"""A backend of AsyncFlow or Rhapsody as a backend of nbflow: an executor over it, with a loop in a thread of its own.

Every call becomes a function task; what it returns or raises comes back as bytes, so that it does not matter where the
other backend runs it. What that backend cannot do (stop a running task, in most cases) is not promised.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from itertools import count
from typing import Any

from nbflow.backends.base import BackendContext
from nbflow.backends.executor import ExecutorBackend
from nbflow.errors import BackendError, DefinitionError, TaskCancelledError

__all__ = ["AsyncFlowBackend"]

_STOP_S = 2.0
_number = count(1).__next__


class AsyncFlowBackend(ExecutorBackend):
    """Run calls on a backend of AsyncFlow or Rhapsody.

    Args:
        backend: The other backend. It is awaited, if it can be, when this one starts; it stays its owner's and is not
            shut down, unless `own` says so.
        max_workers: How many calls it runs at a time; None to ask its executor, if it has one.
        own: Shut it down when this one stops.

    Raises:
        DefinitionError: `backend` has no `submit_tasks` and `register_callback`.
    """

    name = "asyncflow"

    def __init__(self, backend: Any, max_workers: int | None = None, *, own: bool = False) -> None:
        for method in ("submit_tasks", "register_callback"):
            if not callable(getattr(backend, method, None)):
                raise DefinitionError(f"{backend!r} is no backend of AsyncFlow: it has no method {method!r}.")
        workers = max_workers or getattr(getattr(backend, "executor", None), "_max_workers", None)
        self._flow = _FlowExecutor(backend, own)
        super().__init__(self._flow, workers)

    def _start(self, *, context: BackendContext) -> None:
        self._flow.start()

    def _stop(self) -> None:
        super()._stop()
        self._flow.stop()


class _FlowExecutor:
    """The `submit` of an executor, over a backend that takes task dictionaries on a loop."""

    def __init__(self, backend: Any, own: bool) -> None:
        self._backend = backend
        self._own = own
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._futures: dict[str, Future[Any]] = {}

    def start(self) -> None:
        """Start the loop and the backend.

        Raises:
            BackendError: The backend could not be started.
        """
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nbflow-asyncflow", daemon=True)
        self._thread.start()
        try:
            self._on_loop(self._open()).result()
        except BaseException as error:
            self._end_loop()
            kind = type(self._backend).__name__
            if isinstance(error, Exception):
                raise BackendError(f"The {kind} could not be started: {type(error).__name__}: {error}.") from error
            raise

    async def _open(self) -> None:
        backend = self._backend
        if inspect.isawaitable(backend):
            await backend
        self._backend.register_callback(self._changed)

    def submit(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a call as a function task."""
        uid = f"nbflow.{_number():06d}"
        future: Future[Any] = Future()
        self._futures[uid] = future
        task: dict[str, Any] = {
            "uid": uid,
            "name": getattr(func, "__qualname__", uid),
            "function": _call,
            "args": (func, args, kwargs),
            "kwargs": {},
            "executable": None,
            "prompt": None,
            "is_service": False,
            "capture_stdio": False,
            "task_backend_specific_kwargs": {},
        }
        self._on_loop(self._begin(uid, task))
        return future

    async def _begin(self, uid: str, task: dict[str, Any]) -> None:
        future = self._futures[uid]
        if not future.set_running_or_notify_cancel():  # withdrawn meanwhile
            del self._futures[uid]
            return
        try:
            await self._backend.submit_tasks([task])
        except Exception as error:
            self._settle(uid, error=error)

    def _changed(self, task: Any, state: str) -> None:
        """Take over what became of a task; called by the backend."""
        if state == "DONE":
            self._settle(task["uid"], task.get("return_value"))
        elif state in ("CANCELED", "FAILED"):
            reason = task.get("exception") or task.get("stderr") or "no reason was given"
            error = reason if isinstance(reason, BaseException) else BackendError(f"The task failed: {reason}")
            if state == "CANCELED":
                error = TaskCancelledError("The other backend cancelled the task.", task=task["uid"], reason="backend")
            self._settle(task["uid"], error=error)

    def _settle(self, uid: str, value: Any = None, error: BaseException | None = None) -> None:
        future = self._futures.pop(uid, None)
        if future is None:
            return
        try:
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        except InvalidStateError:  # somebody was first
            pass

    def _on_loop(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        if self._loop is None:
            work.close()
            raise BackendError("This backend is not started; nothing can be submitted to it.")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def stop(self) -> None:
        """End the loop, and the backend, if it is ours; bounded in time. What has not ended fails."""
        if self._loop is None:
            return
        if self._own:
            try:
                self._on_loop(self._backend.shutdown()).result(_STOP_S)
            except Exception:  # it had its time; its threads are its own
                pass
        for uid in list(self._futures):
            self._settle(uid, error=BackendError("The backend was stopped before the task had ended."))
        self._end_loop()

    def _end_loop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return

        async def leave() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            if others:
                await asyncio.wait(others, timeout=_STOP_S)
            loop.stop()

        asyncio.run_coroutine_threadsafe(leave(), loop)
        self._thread.join(_STOP_S + 1)
        if not self._thread.is_alive():
            loop.close()


async def _call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function where a backend wants a coroutine function."""
    return func(*args, **kwargs)
