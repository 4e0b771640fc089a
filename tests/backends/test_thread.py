"""The pool of threads: growth, limits, detached workers."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FrameType
from typing import Any

import pytest

from nbflow.backends import BackendContext, ThreadBackend
from nbflow.backends import thread as thread_module
from nbflow.settings import load_settings

_LIMIT_S = 60.0
variable: ContextVar[str] = ContextVar("variable", default="default")


class Holder:
    """Stands in for a session: settings and an id are all that a backend wants."""

    session_id = "s"

    def __init__(self, threads: int) -> None:
        self.settings = load_settings(max_backend_threads=threads)


@pytest.fixture
def two() -> Iterator[ThreadBackend]:
    """Return a pool of at most two threads."""
    backend = ThreadBackend()
    backend.start(Holder(2))
    yield backend
    backend.stop()


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("nbflow-thread")}


def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so."""
    pause, deadline = threading.Event(), time.monotonic() + _LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline
        pause.wait(0.0005)


def test_starts_no_thread_before_the_first_job(two: ThreadBackend) -> None:
    """An unused pool costs nothing."""
    assert names() == set()
    assert two.workers() == 2


def test_reuses_an_idle_worker(two: ThreadBackend) -> None:
    """One job after the other needs one thread only."""
    ran = {two.submit(lambda: threading.current_thread().name).result(_LIMIT_S) for _ in range(1)}
    # The worker counts as idle a moment after its future is done; a second job may start one more, a third none.
    for _ in range(20):
        ran.add(two.submit(lambda: threading.current_thread().name).result(_LIMIT_S))
    assert len(ran) <= 2


def test_keeps_to_its_limit(two: ThreadBackend) -> None:
    """However many jobs wait, there are never more workers than the limit."""
    free = threading.Event()
    futures = [two.submit(free.wait, (_LIMIT_S,)) for _ in range(10)]
    assert len(names()) == 2
    free.set()
    assert all(future.result(_LIMIT_S) for future in futures)


def test_workers_are_daemons(two: ThreadBackend) -> None:
    """A stuck worker cannot keep the interpreter from ending."""
    assert two.submit(lambda: threading.current_thread().daemon).result(_LIMIT_S)


def test_sees_the_submitters_context(two: ThreadBackend) -> None:
    """A job runs in a copy of the submitter's context: it sees it and cannot change it."""
    token = variable.set("submitter")
    try:
        assert two.submit(variable.get).result(_LIMIT_S) == "submitter"
        two.submit(variable.set, ("worker",)).result(_LIMIT_S)
        assert variable.get() == "submitter"
    finally:
        variable.reset(token)


def test_knows_its_own_workers(two: ThreadBackend) -> None:
    """`inside` is true in its own workers and nowhere else."""
    assert not two.inside()
    assert two.submit(two.inside).result(_LIMIT_S)
    other = ThreadBackend()
    other.start(Holder(1))
    try:
        assert not other.submit(two.inside).result(_LIMIT_S)
    finally:
        other.stop()


def test_idle_workers_keep_nothing_alive(two: ThreadBackend) -> None:
    """A result can be freed as soon as its future is."""

    class Big:
        pass

    future = two.submit(Big)
    alive = weakref.ref(future.result(_LIMIT_S))
    freed = threading.Event()
    weakref.finalize(future.result(), freed.set)
    del future
    gc.collect()
    assert freed.wait(_LIMIT_S)
    assert alive() is None


def fill(pool: ThreadBackend) -> None:
    """Have two workers run two jobs that wait for each other."""
    together = threading.Barrier(2)
    futures = [pool.submit(together.wait, (_LIMIT_S,)) for _ in range(2)]
    assert sorted(future.result(_LIMIT_S) for future in futures) == [0, 1]


def test_wakes_only_as_many_as_there_is_work_for(two: ThreadBackend) -> None:
    """Of two idle workers one runs all jobs that come one after the other; the other one sleeps on."""
    fill(two)
    ran = []
    for _ in range(50):
        until(lambda: len(two._idle) == 2)
        ran.append(two.submit(lambda: threading.current_thread().name).result(_LIMIT_S))
    assert len(set(ran)) == 1


def test_no_job_is_overlooked(two: ThreadBackend) -> None:
    """Jobs of several threads, brought while workers are about to sleep, are all run."""
    ended: list[int] = []

    def bring(first: int) -> None:
        for number in range(first, first + 500):
            two.submit(ended.append, (number,)).result(_LIMIT_S)

    threads = [threading.Thread(target=bring, args=(first,)) for first in range(0, 2000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LIMIT_S)
    assert sorted(ended) == list(range(2000))


def test_interrupts_lose_no_worker(two: ThreadBackend) -> None:
    """An interrupt at any step of handing a job over leaves no worker asleep for ever."""
    fill(two)
    before = sys.gettrace()
    for step in itertools.count(1):
        until(lambda: len(two._idle) == 2)
        left = [step]

        def strike(frame: FrameType, event: str, _: object, left: list[int] = left) -> Any:
            if frame.f_code.co_filename != thread_module.__file__:
                return None
            frame.f_trace_opcodes = True
            left[0] -= event in ("line", "opcode")  # early versions of Python 3.12 tell of lines only
            if not left[0]:
                raise KeyboardInterrupt
            return strike

        sys.settrace(strike)
        try:
            future = two.submit(int)
        except KeyboardInterrupt:
            future = None
        finally:
            sys.settrace(before)
        assert two.submit(int).result(_LIMIT_S) == 0
        if future is not None:
            assert future.result(_LIMIT_S) == 0
            assert step > 5
            fill(two)
            return


def test_detached_worker_is_replaced(two: ThreadBackend) -> None:
    """Jobs that wait are taken up by a new worker when a stuck one is given up, and that one ends with its code."""
    free, begun = threading.Event(), threading.Semaphore(0)
    stuck = [two.submit(lambda: (threading.current_thread(), begun.release(), free.wait(_LIMIT_S))) for _ in range(2)]
    assert all(begun.acquire(timeout=_LIMIT_S) for _ in stuck)
    waiting = two.submit(lambda: "ran")
    for name in sorted(names()):
        two.detach(name)
    assert waiting.result(_LIMIT_S) == "ran"
    free.set()
    for future in stuck:
        thread, *_ = future.result(_LIMIT_S)
        thread.join(_LIMIT_S)
        assert not thread.is_alive()
    assert two.submit(lambda: "goes on").result(_LIMIT_S) == "goes on"


def test_detaching_an_unknown_worker_is_harmless(two: ThreadBackend) -> None:
    """A name that is no worker of this pool is ignored."""
    two.detach("MainThread")
    assert two.submit(lambda: 1).result(_LIMIT_S) == 1


def test_stop_withdraws_what_waits() -> None:
    """Jobs that no worker took up are cancelled; `stop` does not wait for what runs."""
    backend = ThreadBackend()
    backend.start(Holder(1))
    free, begun = threading.Event(), threading.Event()
    running = backend.submit(lambda: (begun.set(), free.wait(_LIMIT_S), "ended")[-1])
    waiting = backend.submit(lambda: "never")
    assert begun.wait(_LIMIT_S)
    backend.stop()
    assert waiting.cancelled()
    assert not running.done()
    free.set()
    assert running.result(_LIMIT_S) == "ended"


def test_takes_its_limit_from_the_settings() -> None:
    """`max_backend_threads` of the session counts."""
    backend = ThreadBackend()
    backend._start(context=BackendContext(name="thread", settings=load_settings(max_backend_threads=7)))
    assert backend.workers() == 7
