"""One job and one worker, as the coordinator sees them.

A job is the future of a call that lies in a queue or in the socket of a worker; a worker is a process with its sockets.
Who may run a call that lies in a socket is decided by its token, see `Worker.take_back`.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbflow.backends.process import wire
from nbflow.backends.process.buffers import Ref
from nbflow.backends.process.nursery import start_worker
from nbflow.backends.process.worker import TOKEN
from nbflow.backends.remote import RemoteJob
from nbflow.errors import WorkerLostError

if TYPE_CHECKING:
    from nbflow.backends.process.pool import Pool

__all__ = ["SIGKILL", "ProcessJob", "Worker", "how_it_ended"]

SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)


class ProcessJob(RemoteJob):
    """A call on its way to a worker, on it, or back."""

    def __init__(
        self,
        pool: Pool,
        number: int,
        body: bytes,
        refs: list[Ref],
        listen: Callable[[Any], object] | None,
        label: str,
    ) -> None:
        super().__init__(self._give_up)
        self.pool = pool
        self.number = number
        self.body: bytes | None = body
        self.refs = refs
        self.listen = listen
        self.label = label
        self.holder: Worker | None = None  # who has it in its socket, though it may not have begun
        self.withdrawn = False  # guarded by the condition, as is the holder until the job has begun

    def _give_up(self, _: RemoteJob) -> None:
        self.pool.post(self.pool.end, self)
        self.settle_stopped()

    def offer_to(self, worker: Worker) -> bytes | None:
        """Give the job to a worker and return what is to be sent there; None if it has ended, or nobody wants it."""
        with self._condition:
            if self.withdrawn or self.done() or not (self.running() or self.set_running_or_notify_cancel()):
                return None
            return worker.offer(self)

    def reclaim(self) -> bool:
        """Take the job back from its worker, for another; False if it has begun, or ended."""
        with self._condition:
            if self.holder is None or not self.holder.take_back(self):
                return False
            self.holder = self.worker = None
            return not self.done()

    def cancel(self) -> bool:
        """Withdraw the call, unless it has begun."""
        if super().cancel():
            with self._condition:  # so that `wait` is told now, and not when the pool comes across the job
                if self._state == "CANCELLED":
                    self.set_running_or_notify_cancel()
            return True
        with self._condition:
            if self.done() or (self.holder is not None and not self.holder.take_back(self)):
                return False
            self.withdrawn = True  # whether a worker had it, or it waits for another one
        self.settle_stopped()
        self.pool.post(self.pool.forget, self)
        return True


class Worker:
    """A worker process, as the pool's thread sees it; only `take_back` is for any thread.

    Attributes:
        jobs: At most two: the one that runs or is about to, and the one that waits behind it.
    """

    def __init__(self, name: str, *, alone: bool) -> None:
        self.name = name
        self.pid: int | None = None
        self.ready = False
        self.exitcode: int | None = None
        self.jobs: deque[ProcessJob] = deque()
        self.frames = wire.Frames()
        self.outbox = bytearray()
        self.around = 0
        self.kill_at: float | None = None
        self.connection, theirs = socket.socketpair()
        self._tokens, self._theirs = socket.socketpair()
        self._taking = threading.Lock()
        self.connection.setblocking(False)
        self._tokens.setblocking(False)
        self._theirs.setblocking(False)
        try:
            self.status = start_worker(name, theirs, self._theirs.dup(), alone=alone)
        except BaseException:
            for each in (self.connection, self._tokens, self._theirs):
                each.close()
            raise
        self.status.setblocking(False)

    def offer(self, job: ProcessJob) -> bytes:
        """Take in a job and return its frame; unless the worker will begin at once, a token is laid down first."""
        kind = wire.CALL
        if self.jobs or not self.ready:
            kind = wire.OFFER
            with self._taking:
                self._tokens.send(TOKEN.pack(job.number))
        self.jobs.append(job)
        job.holder = self
        if self.jobs[0] is job:
            job.worker = self.name
        return wire.frame(kind, job.number, job.body or b"")

    @property
    def takes_more(self) -> bool:
        """Whether it may be given a call to wait behind the one that it runs; there is never more than one token."""
        if not self.ready or len(self.jobs) != 1:
            return False
        try:
            return not self._theirs.recv(TOKEN.size, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:  # closed
            return False

    def take_back(self, job: ProcessJob) -> bool:
        """Take the token of a job; False if the worker, or somebody else, has done so before."""
        with self._taking:
            try:
                # Only the worker could take it between these two, and then there is none.
                if self._theirs.recv(TOKEN.size, socket.MSG_PEEK) != TOKEN.pack(job.number):
                    return False
                return len(self._theirs.recv(TOKEN.size)) == TOKEN.size
            except OSError:  # nothing there, or closed
                return False

    def signal(self, number: int) -> None:
        """Send a signal to the worker and all that it started."""
        if self.pid is None:
            return
        try:
            if hasattr(os, "killpg"):
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, signal.SIGTERM)
        except OSError:  # it has ended
            pass

    def close(self) -> None:
        """Close all sockets."""
        for each in (self.connection, self._tokens, self._theirs, self.status):
            each.close()

    def lost(self, job: ProcessJob) -> WorkerLostError:
        """Return the error of a job that ran here when the process ended."""
        text = f"{job.label or 'A call'}: worker {self.name} {how_it_ended(self.exitcode)} while it ran."
        return WorkerLostError(text, worker=self.name, exitcode=self.exitcode)


def how_it_ended(code: int | None) -> str:
    """Say how a process ended."""
    if code is None:
        return "was lost"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    return f"was killed by signal {-code} ({name}{'; out of memory?' if name == 'SIGKILL' else ''})"
