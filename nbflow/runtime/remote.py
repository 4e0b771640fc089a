"""How calls run on a `RemoteBackend`: the coordinator's side.

A `Route` is how the calls of one task reach a backend: it makes their attempts there and hears what they tell. The
coordinator keeps all policy (cache, retries, timeouts, saving, records); a worker only runs the function. Calls are
driven by a *crew*, a few threads for each backend, one more than it has workers; whoever waits there hears what the
call tells, in a copy of the submitter's context, so that prints land in the cell that they belong to.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from concurrent.futures import CancelledError
from contextlib import ExitStack
from itertools import chain
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary, ref

from nbflow._util import lazy
from nbflow.backends.base import Backend
from nbflow.backends.inline import InlineBackend
from nbflow.backends.remote import RemoteBackend, RemoteJob
from nbflow.backends.thread import ThreadBackend
from nbflow.backends.travel import refusal
from nbflow.core.attempts import Outcome, Raised, Returned
from nbflow.core.spec import TaskSpec
from nbflow.errors import BackendError, TaskCancelledError, TransferError, WorkerLostError
from nbflow.runtime.current import Call
from nbflow.runtime.emit import emit
from nbflow.runtime.maps import MapState
from nbflow.runtime.replies import hear, lost_words, note_files, rename_path, unreadable
from nbflow.runtime.steps import as_failure, cancelled_error, timed_out
from nbflow.runtime.stopping import WAKE_S

opened: Any = lazy("nbflow.runtime.opened")  # only cells that are cached follow what is opened
worker: Any = lazy("nbflow.runtime.worker")  # the coordinator needs it only once something travels

__all__ = [
    "DRY",
    "DryRoute",
    "Route",
    "check_abilities",
    "crew",
    "is_dry_run",
    "route_for",
]

_FIXED = 5
"""Arguments of `run_call` before those of the function."""


def check_abilities(spec: TaskSpec, backend: Backend) -> None:
    """Refuse a task whose options a backend cannot honour.

    Raises:
        BackendError: The message names task, option and backend, and what to do.
    """
    able = backend.abilities
    if spec.policy.timeout_s is not None and not able.timeout and not able.dry:
        raise BackendError(
            f"Task {spec.name!r} has timeout={spec.policy.timeout_s:g}, and the backend {backend.name!r} cannot end a "
            'call that runs. Use backend="process" or "thread", or drop the timeout.'
        )
    if spec.kind.is_async and not able.local and not isinstance(backend, RemoteBackend):
        raise BackendError(
            f"Task {spec.name!r} is async, and the backend {backend.name!r} is neither local nor a RemoteBackend, so "
            "nobody would run its coroutine there."
        )


def route_for(spec: TaskSpec, session: Any, backend: Backend, parent: Call | None, map: Any = None) -> Any:
    """Return how calls of a task reach a backend; None where they run in this process.

    Raises:
        BackendError: The backend cannot honour an option of the task.
    """
    check_abilities(spec, backend)
    if backend.abilities.dry:
        return DRY
    if isinstance(backend, RemoteBackend) and not backend.abilities.local:
        return Route(spec, session, backend, parent, map)
    return None


# --- dry runs -----------------------------------------------------------------------------------------------------

_DRY = "dry run"


class DryRoute:
    """Attempts that are not made: the cache was asked, the function does not run, and nothing is saved."""

    def attempt(self, call: Call) -> Outcome:
        """Let the call end as cancelled."""
        return Raised(cancelled_error(call, _DRY))

    def close(self) -> None:
        """Nothing to let go."""


DRY = DryRoute()


def is_dry_run(error: BaseException) -> bool:
    """Whether a call only ended because nothing was to run."""
    return isinstance(error, TaskCancelledError) and getattr(error, "reason", None) == _DRY


# --- the crew -----------------------------------------------------------------------------------------------------


class _Crew(ThreadBackend):
    """As many threads as the backend has workers now, and one more, so that none waits for what it is to do next."""

    name = "remote"
    backend: ref[Backend]

    def workers(self) -> int:
        """Return the limit of threads, which follows a cluster that grows or shrinks."""
        if (backend := self.backend()) is not None and self._limit != (now := backend.workers() + 1):
            self.limit(now)
        return self._limit


_crews: WeakKeyDictionary[Backend, Any] = WeakKeyDictionary()
_crews_lock = threading.Lock()


def crew(backend: Backend) -> Any:
    """Return the threads that drive the calls of a remote backend; they end when it stops. Safe from any thread."""
    with _crews_lock:
        found = _crews.get(backend)
        if found is None:
            found = InlineBackend() if backend.abilities.dry else _Crew()
            found.start(SimpleNamespace(settings=SimpleNamespace(max_backend_threads=1), session_id=None))
            if isinstance(found, _Crew):
                found.backend = ref(backend)
            _crews[backend] = found
            backend.at_stop(found.stop)
        if isinstance(found, _Crew):
            found.workers()
        return found


# --- the way there ------------------------------------------------------------------------------------------------


class Route:
    """How the calls of one task reach a remote backend; safe from any thread.

    Args:
        spec: The task.
        session: The session that the calls run in.
        backend: The backend, started.
        parent: The call that makes them, if any.
        map: The map that they are items of; its arguments that many items have travel once.
    """

    def __init__(
        self, spec: TaskSpec, session: Any, backend: RemoteBackend, parent: Call | None, map: MapState | None = None
    ) -> None:
        self.spec = spec
        self.session = session
        self.backend = backend
        self._parent_id = None if parent is None else parent.id
        watch = opened.nearest(parent) if parent is not None and parent.is_followed else None
        self._opened = None if watch is None else watch.about
        self._map = map
        self._lock = threading.Lock()
        self._plan: Any = None
        self._shared: list[Any] = []
        self._by_id: dict[int, Any] = {}
        self._kwargs: dict[str, Any] | None = None

    # -- what travels

    def plan(self, *, heard: bool = False) -> Any:
        """Return the packed plan of the calls, shared where there are many.

        Raises:
            TransferError: The function cannot travel.
        """
        with self._lock:
            if self._plan is None:
                packed = self._pack(heard)
                self._plan = packed if self._map is None else self._share(packed, "the function")
            return self._plan

    def _pack(self, heard: bool) -> Any:
        spec, session = self.spec, self.session
        heard = heard or session.fanout.listening
        plan = worker.Plan(
            home=worker.home(),
            session=session.session_id,
            reopen=session.portable(),
            label=session.label(),
            heard=heard,
            items=heard and session.fanout.wants_items,
            levels=_levels(),
            func=worker.portable(spec.func),
            kind=spec.kind,
            name=spec.name,
            description=spec.description,
            dataset_store=spec.dataset_store,
            template_names=spec.template_names,
            backend=self.backend.name,
            map_id=None if self._map is None else self._map.id,
            parent_id=self._parent_id,
            follow=self._opened,
        )
        try:
            return worker.pack(plan, uuid.uuid4().hex)
        except Exception as error:
            parts = [("function", spec.func), ("dataset_store", spec.dataset_store), ("session", plan.reopen)]
            raise refusal(f"Task {spec.name!r}", parts, error, "to a worker") from None

    def _share(self, value: Any, what: str) -> Any:
        shared = self.backend.share(value, f"Task {self.spec.name!r}, {what}")
        self._shared.append(shared)
        return shared

    def common(self) -> dict[int, Any]:
        """Return the arguments that several items have, shared, by the identity of the argument."""
        self._share_arguments()
        return self._by_id

    def kwargs(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return keyword arguments as they travel."""
        if self._map is None or not given:
            return given
        self._share_arguments()
        assert self._kwargs is not None
        return self._kwargs

    def _share_arguments(self) -> None:
        """Share what several items have, once."""
        if self._kwargs is not None or self._map is None:
            return
        with self._lock:
            if self._kwargs is not None:
                return
            kwargs = {
                name: value if _is_small(value) else self._share(value, f"kwargs[{name!r}]")
                for name, value in self._map.kwargs.items()
            }
            for identity, value in _repeated(self._map.items).items():
                self._by_id[identity] = self._share(value, "an argument of several items")
            self._kwargs = kwargs

    def close(self) -> None:
        """Let workers forget what was shared; idempotent."""
        with self._lock:
            shared, self._shared, self._plan = self._shared, [], None
            self._by_id, self._kwargs = {}, None
        for value in shared:
            value.release()

    # -- one attempt

    def attempt(self, call: Call) -> Outcome:
        """Call the function on a worker, once; again only where a worker was lost that ran it."""
        __tracebackhide__ = True
        losses = 0
        while True:
            out = self._try(call)
            lost = isinstance(out, Raised) and isinstance(out.error, WorkerLostError)
            if not lost or losses >= self.session.settings.max_worker_losses:
                return out
            losses += 1

    def _try(self, call: Call) -> Outcome:
        __tracebackhide__ = True
        if (reason := call.cancel_reason) is not None:
            return Raised(cancelled_error(call, reason))
        inbox: SimpleQueue[Any] = SimpleQueue()
        job: RemoteJob | None = None
        try:
            job = self._dispatch(call, inbox)
            call.stop = job.stop
            if call.cancel_reason is not None:
                job.stop()
            job.add_done_callback(lambda _: inbox.put(None))
            with ExitStack() as shown:
                late = self._follow(call, job, inbox, shown)
        except BaseException as error:
            if job is not None:
                job.stop()
            return Raised(as_failure(call, error))
        finally:
            call.stop = None
        if job.left is not None:
            emit(call, "StragglerLeft", {"worker": job.left})
        if late:
            return Raised(timed_out(call, stopped=job.left is None))
        return self._outcome(call, job)

    def _dispatch(self, call: Call, inbox: SimpleQueue[Any]) -> RemoteJob:
        plan = self.plan(heard=call.progress is not None)
        common = self.common()
        args = [common.get(id(arg), arg) for arg in call.args] if common else call.args
        timed = call.spec.policy.timeout_s is not None
        watched = timed or self._map is not None or self.session.listening
        fixed = (plan, call.id, call.index, watched, call.is_followed)
        return self.backend.dispatch(
            worker.run_call, (*fixed, *args), self.kwargs(call.kwargs), listen=inbox.put, label=f"Task {call.name!r}"
        )

    def _follow(self, call: Call, job: RemoteJob, inbox: SimpleQueue[Any], shown: ExitStack) -> bool:
        """Hear what the job tells until it is done; True if its time was over and it was stopped."""
        timeout, deadline, late = call.spec.policy.timeout_s, None, False
        while True:
            wait = WAKE_S if deadline is None or late else max(0.0, min(WAKE_S, deadline - time.monotonic()))
            try:
                message = inbox.get(timeout=wait)
            except Empty:
                if deadline is not None and not late and time.monotonic() >= deadline:
                    late = job.stop()
                continue
            if message is None:
                return late
            for entry in message:
                if entry == worker.BEGUN:
                    deadline = None if timeout is None else time.monotonic() + timeout
                    self._begun(call, job.worker, shown)
                else:
                    hear(self.session, entry, call)

    def _begun(self, call: Call, name: str | None, shown: ExitStack) -> None:
        """Make known that a worker runs a call, until `shown` is closed."""
        call.worker = name
        emit(call, "AttemptPlaced", {"worker": name or self.backend.name})
        if self._map is not None and call.index is not None:
            shown.close()  # another worker had it, and was lost
            shown.enter_context(self._map.tracked(call.index, name or self.backend.name))

    def _outcome(self, call: Call, job: RemoteJob) -> Outcome:
        error = CancelledError() if job.cancelled() else job.exception()
        call.worker = job.worker or call.worker
        if error is None:
            answer = job.result()
            note_files(call, answer.reads, answer.opened)
            try:
                return Returned(worker.unpack(answer.result, home=True))
            except Exception as found:
                return Raised(unreadable(call.name, found))
        if isinstance(error, CancelledError):
            return Raised(cancelled_error(call, call.cancel_reason or "the backend stopped it"))
        if isinstance(error, WorkerLostError):
            error = lost_words(call.name, error)
            emit(call, "WorkerLost", {"worker": str(error.worker), "reason": str(error)})
        elif isinstance(error, TransferError):
            number = str(getattr(error, "path", ""))[5:].partition("]")[0]
            if number.isdecimal() and int(number) >= _FIXED:
                error = rename_path(error, f"args[{number}]", f"args[{int(number) - _FIXED}]")
        return Raised(as_failure(call, error))


# --- helpers ------------------------------------------------------------------------------------------------------


def _levels() -> dict[str, int]:
    """Return the levels of loggers as they were set here, the root's as ""."""
    loggers = logging.root.manager.loggerDict
    levels = {name: each.level for name, each in list(loggers.items()) if isinstance(each, logging.Logger)}
    return {"": logging.root.level, **{name: level for name, level in levels.items() if level}}


_SMALL = frozenset({bool, int, float, str, type(None)})


def _is_small(value: Any) -> bool:
    return type(value) in _SMALL


def _repeated(items: list[tuple[Any, ...]]) -> dict[int, Any]:
    """Return the arguments that several items have and that are worth sharing, by identity."""
    seen: set[int] = set()
    again: dict[int, Any] = {}
    if set(map(type, chain.from_iterable(items))) <= _SMALL:
        return again
    for item in items:
        for value in item:
            if type(value) not in _SMALL:
                identity = id(value)
                if identity not in seen:
                    seen.add(identity)
                else:
                    again[identity] = value
    return again
