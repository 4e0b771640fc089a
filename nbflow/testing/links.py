"""A remote backend behind a bad link: late messages, a late start, workers that die in the middle, lost answers.

`FaultyRemoteBackend` wraps any remote backend. What goes wrong is counted, never random, so that a failing test fails
again. Behind a link that is only slow, late, or that loses workers of other calls, every promise of
`RemoteBackendContract` has to hold; a lost answer is a lost worker to whoever waits for it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Container
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import Any, ClassVar

from nbflow.backends import BackendContext
from nbflow.backends.remote import RemoteBackend, RemoteJob, Shared
from nbflow.errors import BackendError

__all__ = ["FaultyRemoteBackend"]

_JOIN_S = 5.0


class FaultyRemoteBackend(RemoteBackend):
    """A remote backend whose link and workers fail where they are told to.

    Set the attributes on a subclass: a manager makes its backends itself. Submissions are counted from 1.

    Attributes:
        inner: Class of the backend that does the work; override `make_inner` where it needs arguments.
        delay_s: Seconds that every message and every outcome comes late.
        late_s: Seconds after the start before anything reaches a worker.
        kill: Numbers of the submissions beside which another call is sent that kills its worker.
        lose: Numbers of the submissions whose function runs, and whose worker dies before it has answered.
    """

    name: ClassVar[str] = "faulty remote"
    inner: ClassVar[type[RemoteBackend]]
    delay_s: ClassVar[float] = 0.0
    late_s: ClassVar[float] = 0.0
    kill: ClassVar[Container[int]] = ()
    lose: ClassVar[Container[int]] = ()

    def make_inner(self) -> RemoteBackend:
        """Return the backend that does the work, not started."""
        return self.inner()

    def _start(self, *, context: BackendContext) -> None:
        self._inner = self.make_inner()
        self._inner.start(context)
        self._begins = monotonic() + self.late_s
        self._count = 0
        self._lock = threading.Lock()
        self._line: SimpleQueue[tuple[float, Callable[[], object]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._carry, name="nbflow-faulty-link", daemon=True)
        self._thread.start()

    def _stop(self) -> None:
        self._inner.stop()
        self._line.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)

    def workers(self) -> int:
        """Return those of the inner backend."""
        return self._inner.workers()

    def share(self, value: Any, label: str = "") -> Shared:
        """Share by the inner backend."""
        self._check_started()
        return self._inner.share(value, label)

    def _dispatch(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        listen: Callable[[Any], object] | None,
        label: str,
    ) -> RemoteJob:
        with self._lock:
            self._count += 1
            number = self._count
        job = _Mirror()
        if number in self.lose:
            func, args = _run_and_die, (func, *args)

        def send() -> None:
            if job.done():
                return
            heard = None if listen is None else partial(self._hear, job, listen)
            try:
                if number in self.kill:
                    self._inner.dispatch(_die)
                inner = self._inner.dispatch(func, args, kwargs, listen=heard, label=label)
            except BackendError:  # stopped meanwhile
                job.settle_stopped()
                return
            job.mirror(inner)
            inner.add_done_callback(lambda _: self._later(job.take))

        if monotonic() < self._begins:
            self._line.put((self._begins, send))
        else:
            send()
        return job

    def _hear(self, job: _Mirror, listen: Callable[[Any], object], message: Any) -> None:
        self._later(lambda: job.hear(listen, message))

    def _later(self, act: Callable[[], object]) -> None:
        if self.delay_s:
            self._line.put((monotonic() + self.delay_s, act))
        else:
            act()

    def _carry(self) -> None:
        """Do one thing after the other, each at its time."""
        pause = threading.Event()
        while (due := self._line.get()) is not None:
            pause.wait(max(0.0, due[0] - monotonic()))
            due[1]()


class _Mirror(RemoteJob):
    """The job that its submitter sees: that of the inner backend, later."""

    def __init__(self) -> None:
        super().__init__(lambda _: self._end_inner())
        self.inner: RemoteJob | None = None

    def mirror(self, inner: RemoteJob) -> None:
        """Follow that job; end it at once if nobody waits for it any more."""
        self.inner = inner
        if self.done():
            inner.stop()

    def hear(self, listen: Callable[[Any], object], message: Any) -> None:
        """Pass on a message; a listener that raises fails its job."""
        self._name()
        try:
            listen(message)
        except Exception as error:
            self.settle(error=error)

    def take(self) -> None:
        """Take over the outcome."""
        assert self.inner is not None
        self._name()
        if self.inner.cancelled():
            self.settle_stopped()
        else:
            error = self.inner.exception()
            self.settle(None if error is not None else self.inner.result(), error)

    def cancel(self) -> bool:
        """Withdraw the job, unless it has begun."""
        if self.done():
            return super().cancel()
        if self.inner is not None and not self.inner.cancel():
            return False
        return self.settle_stopped() or self.cancelled()  # its end may have been heard of already

    def _end_inner(self) -> None:
        if self.inner is not None:
            self.inner.stop()
            self.left = self.inner.left
        self.settle_stopped()

    def _name(self) -> None:
        if self.inner is not None:
            self.worker = self.inner.worker


def _die() -> None:
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def _run_and_die(func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    func(*args, **kwargs)
    _die()
