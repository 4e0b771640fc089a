"""The coordinator's side: one thread that owns all workers, and jobs that belong to whoever takes their token.

    any thread:  pack the call ──► inbox ──► wake
    pool thread: inbox ──► queue ──► worker's socket ──► (worker takes the token, runs) ──► messages, result ──► job

Other threads only append to the inbox, so an interrupt can strike them anywhere without harm. A worker may hold one
more call than it runs; that one has not begun as long as its token lies in the socket, and can be taken back for
another worker that is idle, when its worker dies, or when nobody wants it any more.
"""

from __future__ import annotations

import os
import pickle
import selectors
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable
from itertools import count
from time import monotonic
from typing import Any

from nbflow._shield import shielded
from nbflow.backends.process import wire
from nbflow.backends.process.buffers import BufferStore, Ref
from nbflow.backends.process.jobs import SIGKILL, ProcessJob, Worker, how_it_ended
from nbflow.backends.process.nursery import BORN, ENDED, STATUS
from nbflow.backends.process.worker import Surroundings
from nbflow.backends.travel import text_of
from nbflow.errors import BackendError, TransferError

__all__ = ["Pool"]

_CHUNK = 1 << 18
_GRACE_S = 0.2  # between the polite end of a worker and the other one
_STILLBORN = 3  # so many workers that die before they are ready, one after the other, are no accident


class Pool:
    """The workers of one backend; `start`, `put`, `post` and `stop` are for any thread, all else for the pool's own.

    Args:
        size: How many workers there may be; they are started when calls wait.
        alone: Start each worker by itself, even where it could be forked.
    """

    def __init__(self, size: int, *, alone: bool = False) -> None:
        self.store = BufferStore()
        self._size = size
        self._alone = alone
        self._pid = os.getpid()
        self._inbox: deque[tuple[Callable[[Any], object], Any]] = deque()
        self._queue: deque[ProcessJob] = deque()
        self._workers: dict[str, Worker] = {}
        self._dying: list[Worker] = []
        self._numbers = count(1)
        self._stillborn = 0
        self._around = Surroundings()
        self._around_body = pickle.dumps(self._around, protocol=5)
        self._around_number = 1
        self._ended = False
        self._asleep = False
        self._thread: threading.Thread | None = None
        self._only = threading.Lock()
        self._over = threading.Event()

    # --- for any thread

    def start(self) -> None:
        """See to it that the pool's thread runs; an interrupt may have struck whoever should have started it."""
        if self._thread is None:
            shielded(threading.Thread(target=self._run, name="nbflow-process-pool", daemon=True).start)

    def put(self, body: bytes, refs: list[Ref], listen: Callable[[Any], object] | None, label: str) -> ProcessJob:
        """Take a packed call; the files are let go when it has ended.

        Raises:
            BackendError: This is a copy of the process that the workers belong to.
        """
        if os.getpid() != self._pid:
            raise BackendError("This process was forked from the one that the workers belong to; start a new backend.")
        job = ProcessJob(self, next(self._numbers), body, refs, listen, label)
        try:
            if not self._around.hold():
                self._renew_surroundings()
            self.post(self._queue.append, job)
            if self._ended:  # and so nobody looks into the inbox any more
                job.settle_stopped()
        except BaseException:  # an interrupt: nobody will ever know of the job, which a worker may have begun by now
            job.stop()
            raise
        return job

    def post(self, act: Callable[[Any], object], argument: Any) -> None:
        """Let the pool's thread do something."""
        self._inbox.append((act, argument))
        if self._asleep:
            try:
                self._wake.send(b"\0")
            except OSError:  # it is full, so it wakes; or closed, so nobody does
                pass

    def stop(self, wait_s: float) -> None:
        """End all workers, whatever they do, and settle all jobs."""
        self.start()
        self.post(self._end_all, None)
        if threading.current_thread() is not self._thread and self._over.wait(wait_s) and self._thread is not None:
            self._thread.join(wait_s)

    def _renew_surroundings(self) -> None:
        around = Surroundings()
        body = pickle.dumps(around, protocol=5)
        self.post(self._set_surroundings, body)
        self._around = around

    # --- the pool's thread

    def _run(self) -> None:
        if not self._only.acquire(blocking=False):
            return
        self._thread = threading.current_thread()
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, lambda _: self._woken.recv(4096))
        try:
            while not self._ended:
                self._asleep = True
                timeout = 0.0 if self._inbox else self._patience()
                events = self._selector.select(timeout)
                self._asleep = False
                for key, mask in events:
                    key.data(mask)
                while self._inbox:
                    act, argument = self._inbox.popleft()
                    act(argument)
                self._end_overdue()
                if not self._ended:
                    self._assign()
        finally:
            self._end_all(None)
            self._over.set()

    def _patience(self) -> float | None:
        times = [worker.kill_at for worker in self._dying if worker.kill_at is not None]
        return max(0.0, min(times) - monotonic()) if times else None

    def _set_surroundings(self, body: bytes) -> None:
        self._around_body = body
        self._around_number += 1

    # --- jobs to workers

    def _assign(self) -> None:
        """Give waiting jobs to workers: idle ones first, then new ones, then one more to each that is busy."""
        while self._queue:
            if self._queue[0].done():
                self._release(self._queue.popleft())
                continue
            try:
                worker = self._choose()
            except OSError as error:
                self._fail_all(BackendError(f"No worker process can be started: {text_of(error)}."))
                return
            if worker is None:
                return
            self._send_call(worker, self._queue.popleft())
        self._replace_lost()
        for worker in self._workers.values():
            if worker.ready and not worker.jobs and not self._steal(worker):
                return

    def _replace_lost(self) -> None:
        """Start a worker for what waits behind another call since there was no room, if a lost one has left some."""
        room = len(self._workers) < self._size and not self._stillborn
        if room and any(len(worker.jobs) > 1 for worker in self._workers.values()):
            try:
                self._start()
            except OSError:  # then it waits on
                pass

    def _choose(self) -> Worker | None:
        idle = [worker for worker in self._workers.values() if not worker.jobs]
        if idle:
            return next((worker for worker in idle if worker.ready), idle[0])
        if len(self._workers) < self._size:
            return self._start()
        return next((worker for worker in self._workers.values() if worker.takes_more), None)

    def _start(self) -> Worker:
        name = next(name for number in count(1) if (name := f"process-{number}") not in self._workers)
        worker = Worker(name, alone=self._alone)
        self._workers[name] = worker
        self._selector.register(worker.connection, selectors.EVENT_READ, lambda mask: self._on_connection(worker, mask))
        self._selector.register(worker.status, selectors.EVENT_READ, lambda _: self._on_status(worker))
        return worker

    def _send_call(self, worker: Worker, job: ProcessJob) -> None:
        data = job.offer_to(worker)
        if data is None:
            self._release(job)
            return
        if worker.around != self._around_number:
            worker.around = self._around_number
            data = wire.frame(wire.SURROUNDINGS, 0, self._around_body) + data
        self._send(worker, data)

    def _send(self, worker: Worker, data: bytes) -> None:
        if not worker.outbox:
            try:
                sent = worker.connection.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:  # it has died, and its end will be seen in a moment
                return
            if sent == len(data):
                return
            data = data[sent:]
            self._watch(worker, selectors.EVENT_READ | selectors.EVENT_WRITE)
        worker.outbox += data

    def _watch(self, worker: Worker, events: int) -> None:
        self._selector.modify(worker.connection, events, lambda mask: self._on_connection(worker, mask))

    def _steal(self, idle: Worker) -> bool:
        """Give an idle worker what waits behind another call; False if nothing does."""
        for worker in self._workers.values():
            waiting = [job for job in list(worker.jobs)[0 if not worker.ready else 1 :] if not job.done()]
            for job in waiting:
                if job.reclaim():
                    worker.jobs.remove(job)
                    self._send_call(idle, job)
                    return True
        return False

    # --- workers to jobs

    def _on_connection(self, worker: Worker, mask: int) -> None:
        if not self._counts(worker):
            return
        if mask & selectors.EVENT_WRITE:
            self._flush(worker)
        if mask & selectors.EVENT_READ and self._read(worker) == b"" and self._counts(worker):
            self._lose(worker)

    def _flush(self, worker: Worker) -> None:
        try:
            del worker.outbox[: worker.connection.send(worker.outbox)]
        except BlockingIOError:
            return
        except OSError:
            worker.outbox.clear()
        if not worker.outbox:
            self._watch(worker, selectors.EVENT_READ)

    def _read(self, worker: Worker) -> bytes | None:
        """Take what a worker has sent; None if there is nothing, no bytes if nothing will ever come."""
        try:
            data = worker.connection.recv(_CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        for kind, number, body in worker.frames.feed(data):
            self._take(worker, kind, number, body)
        return data

    def _counts(self, worker: Worker) -> bool:
        """Whether it is one of the workers; others may have had its name."""
        return self._workers.get(worker.name) is worker

    def _take(self, worker: Worker, kind: int, number: int, body: bytes) -> None:
        if kind == wire.READY:
            worker.ready = True
            self._stillborn = 0
            return
        job = next((job for job in worker.jobs if job.number == number), None)
        if job is None:
            return
        if kind == wire.MESSAGE:
            self._hear(job, body)
        elif kind == wire.STALE:
            worker.jobs.remove(job)
            self._requeue([job])
            self._retire(worker)
        else:
            while worker.jobs and worker.jobs.popleft() is not job:
                pass
            self._settle(worker, job, kind, body)
            self._release(job)
            self._promote(worker)

    def _hear(self, job: ProcessJob, body: bytes) -> None:
        if job.listen is None or job.done():
            return
        try:
            job.listen(pickle.loads(body))
        except Exception as error:  # the pool must go on; whoever waits for the job is told
            job.settle(error=error)

    def _settle(self, worker: Worker, job: ProcessJob, kind: int, body: bytes) -> None:
        try:
            if kind == wire.ERROR:
                job.settle(error=pickle.loads(body).open(worker.name))
                return
            value = wire.unpack(body, home=True, taken=os.unlink)
        except BaseException as error:
            what = f"{job.label or 'A call'}: the result arrived from {worker.name}, but cannot be rebuilt here"
            reason = text_of(error)
            failed = TransferError(f"{what}: {type(error).__name__}: {reason}.", path="result", reason=reason)
            failed.__cause__ = error
            job.settle(error=failed)
        else:
            job.settle(value)

    def _promote(self, worker: Worker) -> None:
        """See to it that the next job of a worker is still wanted, and let it know who runs it."""
        while worker.jobs and worker.jobs[0].done():
            job = worker.jobs.popleft()
            begun = job.holder is worker and not worker.take_back(job)
            self._release(job)
            if begun:  # though nobody waits for it
                self._retire(worker)
                return
        if worker.jobs:
            worker.jobs[0].worker = worker.name

    # --- the end of jobs and workers

    def forget(self, job: ProcessJob) -> None:
        """Remove a job that was taken back from its worker."""
        if job.holder is not None and job in job.holder.jobs:
            job.holder.jobs.remove(job)
        job.holder = None
        self._release(job)

    def end(self, job: ProcessJob) -> None:
        """See to it that a job that was stopped does not run, or not on."""
        worker = job.holder
        if worker is None or job not in worker.jobs:  # it waits in the queue and will be left out, or has ended
            return
        if worker.take_back(job):
            self.forget(job)
        elif worker.jobs[0] is job:
            worker.jobs.popleft()
            self._release(job)
            if self._counts(worker):  # else it was lost a moment ago, and its status is still on its way
                self._retire(worker)

    def _release(self, job: ProcessJob) -> None:
        refs, job.refs, job.body = job.refs, [], None
        job.holder = job.listen = None
        if refs:
            self.store.release(refs)

    def _requeue(self, jobs: list[ProcessJob]) -> None:
        for job in reversed(jobs):
            job.holder = job.worker = None
            self._queue.appendleft(job)

    def _retire(self, worker: Worker) -> None:
        """Take a worker out and end it; what waited there goes elsewhere."""
        self._take_out(worker)
        self._hand_over(worker)
        worker.signal(signal.SIGTERM)
        worker.kill_at = monotonic() + _GRACE_S

    def _lose(self, worker: Worker) -> None:
        """Take out a worker whose connection is at its end; its status will say what became of it."""
        self._take_out(worker)
        worker.signal(SIGKILL)  # it may live on, having closed what it did not know

    def _take_out(self, worker: Worker) -> None:
        self._workers.pop(worker.name, None)
        self._dying.append(worker)
        self._selector.unregister(worker.connection)
        worker.connection.close()

    def _hand_over(self, worker: Worker) -> None:
        """Let the jobs of a worker go: to others, if they have not begun."""
        jobs, worker.jobs = list(worker.jobs), deque()
        waiting = [job for job in jobs if job.reclaim()]
        for job in jobs:
            if job not in waiting:
                if not job.withdrawn:
                    job.settle(error=worker.lost(job))
                self._release(job)
        self._requeue(waiting)

    def _on_status(self, worker: Worker) -> None:
        try:
            data = worker.status.recv(STATUS.size)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        what, number = STATUS.unpack(data) if len(data) == STATUS.size else (ENDED, None)
        if what == BORN:
            worker.pid = number
            if worker.kill_at is not None:  # nobody wants it any more
                worker.signal(signal.SIGTERM)
            return
        worker.exitcode = number
        self._selector.unregister(worker.status)
        while self._counts(worker) and self._read(worker):
            pass
        if self._counts(worker):
            self._take_out(worker)
        if not worker.ready and worker.kill_at is None:
            self._stillborn += 1
        worker.signal(SIGKILL)  # what it may have left in its group
        self._hand_over(worker)
        self._dying.remove(worker)
        worker.close()
        if worker.pid is not None:
            self.store.forget_worker(str(worker.pid))
        if self._stillborn >= _STILLBORN:
            self._stillborn = 0
            self._fail_all(
                BackendError(f"Worker processes die before they are ready: {how_it_ended(worker.exitcode)}.")
            )

    def _end_overdue(self) -> None:
        now = monotonic()
        for worker in self._dying:
            if worker.kill_at is not None and worker.kill_at <= now:
                worker.kill_at = None
                worker.signal(SIGKILL)

    def _fail_all(self, error: BackendError) -> None:
        while self._queue:
            job = self._queue.popleft()
            job.settle(error=error)
            self._release(job)

    def _end_all(self, _: None) -> None:
        """End all workers and settle all jobs."""
        if self._ended:
            return
        self._ended = True
        for worker in [*self._workers.values(), *self._dying]:  # lost ones have jobs until their status comes, if ever
            for job in worker.jobs:
                job.settle_stopped()
        for worker in list(self._workers.values()):
            self._retire(worker)
        while self._inbox:
            act, argument = self._inbox.popleft()
            act(argument)
        for job in self._queue:
            if not job.cancel():
                job.settle_stopped()
        self._await_ends()
        self._selector.close()
        self._woken.close()
        self._wake.close()
        self.store.close()

    def _await_ends(self) -> None:
        """Wait a moment for the ends of all workers."""
        deadline = monotonic() + 2 * _GRACE_S
        while self._dying and (rest := deadline - monotonic()) > 0:
            patience = self._patience()
            for key, mask in self._selector.select(rest if patience is None else min(rest, patience)):
                key.data(mask)
            self._end_overdue()
        for worker in self._dying:
            worker.close()
