"""What runs in a Dask worker: one call, heard while it runs and stopped where Python allows.

The coordinator submits `perform` and, to stop a call, runs `stop_job` on the worker's event loop. Messages go as
worker events, numbered, and the last of them once more with the outcome, so that none is missed and no job has to wait
for a straggling one. A thread of a Dask worker cannot be killed: stopping raises `JobStopped` in it at its next
bytecode.
"""

from __future__ import annotations

import asyncio
import platform
import threading
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pickle import dumps, loads
from typing import Any

from nbflow._version import __version__
from nbflow.backends.parcels import Parcel, pack_outcome, run_call
from nbflow.backends.remote import working
from nbflow.errors import BackendError

__all__ = ["Answer", "JobStopped", "Ticket", "perform", "stop_job", "withdraw_jobs"]

_TAIL_BYTES = 1 << 16
"""So many bytes of messages travel a second time, with the outcome."""

_SMALL_BYTES = 1 << 16
"""Answers up to this size go as an event, too: that is quicker, and is not lost when the worker dies a moment later."""

_FLUSH_S = 1.0

_CHECKS = 100
"""Rounds of an empty loop, each of which delivers an exception that is pending."""


class JobStopped(BaseException):
    """Raised inside a job that was told to stop."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a worker has to know of a job besides the call.

    Args:
        job: Id of the job.
        topic: Where its messages go.
        heard: Whether anybody listens to what the call tells.
        nbflow: Version of the coordinator.
        python: Its Python version; code travels between equal minor versions only.
    """

    job: str
    topic: str
    heard: bool
    nbflow: str = __version__
    python: str = ".".join(platform.python_version_tuple()[:2])

    def complaint(self) -> str | None:
        """Return why this process cannot run calls of that coordinator, or None."""
        python = ".".join(platform.python_version_tuple()[:2])
        if python != self.python:
            return (
                f"runs Python {python} and the notebook {self.python}; code travels between equal versions only, so "
                f"start the worker with Python {self.python}"
            )
        if __version__ != self.nbflow:
            return f"has nbflow {__version__} and the notebook {self.nbflow}; install nbflow=={self.nbflow} there"
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """What `perform` returns.

    Args:
        run: Which run of the job this is; a job that Dask runs again gets another.
        worker: Name of the worker.
        sent: How many messages were sent.
        tail: The last ones, with their numbers.
        outcome: From `run_call`.
    """

    run: str
    worker: str
    sent: int
    tail: tuple[tuple[int, bytes], ...]
    outcome: Parcel


class _Run:
    """A job that runs in this thread; it can be stopped from another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ident: int | None = threading.get_ident()
        self._told = False
        self._over: list[Callable[[], object]] = []

    def stop(self) -> bool:
        """Raise `JobStopped` in the job, once; False if it is over."""
        import ctypes

        with self._lock:
            if self._ident is None:
                return False
            if not self._told:
                self._told = True
                ident, error = ctypes.c_ulong(self._ident), ctypes.py_object(JobStopped)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, error)
            return True

    def when_over(self, call: Callable[[], object]) -> None:
        """Call that when the job is over; at once if it is."""
        with self._lock:
            if self._ident is not None:
                self._over.append(call)
                return
        call()

    def end(self) -> None:
        """Close the job to `stop`, and let come here what is still on its way, where it does no harm."""
        while True:
            try:
                with self._lock:
                    self._ident = None
                if self._told:
                    for _ in range(_CHECKS):
                        pass
                break
            except JobStopped:
                pass
        for call in self._over:
            call()


class _Channel:
    """The way of a job's messages to the coordinator; safe from any thread."""

    def __init__(self, worker: Any, name: str, ticket: Ticket) -> None:
        self._worker = worker
        self._name = name
        self._ticket = ticket
        self._lock = threading.Lock()
        self._tail: deque[tuple[int, bytes]] = deque()
        self._size = 0
        self.run = uuid.uuid4().hex
        self.sent = 0

    def begin(self) -> None:
        """Say that the job begins, and where; that is on its way when this returns, whatever the job then does."""
        self._log({"begin": self._name, "worker": self._worker.address})
        flushed = asyncio.run_coroutine_threadsafe(_flush(self._worker), self._worker.loop.asyncio_loop)
        try:
            flushed.result(_FLUSH_S)
        except TimeoutError:
            flushed.cancel()

    def tell(self, message: Any) -> None:
        """Send a message."""
        data = dumps(message)
        with self._lock:
            number = self.sent
            self.sent += 1
            self._tail.append((number, data))
            self._size += len(data)
            while self._size > _TAIL_BYTES:
                self._size -= len(self._tail.popleft()[1])
            self._log({"number": number, "data": data})

    def _log(self, fact: dict[str, Any]) -> None:
        self._worker.log_event(self._ticket.topic, {"job": self._ticket.job, "run": self.run, **fact})

    def answer(self, outcome: Parcel) -> Answer:
        """Return what the job answers, after having sent it if it is small."""
        with self._lock:
            answer = Answer(self.run, self._name, self.sent, tuple(self._tail), outcome)
            if outcome.nbytes <= _SMALL_BYTES:
                self._log({"answer": dumps(replace(answer, tail=()))})
            return answer


async def _flush(worker: Any) -> None:
    """Wait until what a worker had to send is sent (on its event loop)."""
    stream = worker.batched_stream
    while stream.buffer and not stream.closed():
        await asyncio.sleep(0.0005)


_runs: dict[str, _Run] = {}
_withdrawn: deque[str] = deque(maxlen=1000)


def perform(job: bytes, *large: Parcel) -> Answer:
    """Run a job in this thread of a Dask worker; never raises what the call raises.

    Args:
        job: Ticket, and the packed call with its shared values, pickled; None for each that is large.
        large: Those.
    """
    from distributed import get_worker

    ticket, values = loads(job)
    others = iter(large)
    call, *shared = [next(others) if value is None else value for value in values]
    worker = get_worker()
    name = worker_name(worker)
    channel = _Channel(worker, name, ticket)
    if (complaint := ticket.complaint()) is not None:
        return channel.answer(pack_outcome(error=BackendError(f"The Dask worker {name} {complaint}.")))
    if ticket.job in _withdrawn:
        return channel.answer(pack_outcome(error=JobStopped()))
    run = _runs[ticket.job] = _Run()
    try:
        channel.begin()
        with working(name, channel.tell if ticket.heard else _unheard):
            outcome = run_call(call, shared)
    except JobStopped:
        outcome = pack_outcome(error=JobStopped())
    finally:
        run.end()
        _runs.pop(ticket.job, None)
    return channel.answer(outcome)


def _unheard(message: Any) -> None:
    """Drop a message that nobody listens to."""


def worker_name(worker: Any) -> str:
    """Return what people call a Dask worker."""
    name = worker.name
    return f"dask-{name}" if isinstance(name, int) else str(name)


def withdraw_jobs(jobs: list[str]) -> None:
    """Never begin these jobs; runs on the event loop of every worker, where Dask's own cancelling may be late."""
    _withdrawn.extend(jobs)


async def stop_job(job: str, grace_s: float) -> bool:
    """Tell a job of this process to stop; returns whether it ended within `grace_s` seconds.

    Runs on the worker's event loop, which is free while its threads are busy.
    """
    run = _runs.get(job)
    if run is None:
        return True
    run.stop()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    run.when_over(lambda: loop.call_soon_threadsafe(ended.set))
    try:
        await asyncio.wait_for(ended.wait(), grace_s)
    except TimeoutError:
        return False
    return True
