"""What may happen to worker processes and to the kernel, and what must be left of it: everything else, and no hang."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pytest

from nbflow.backends.process import ProcessBackend, nursery
from nbflow.backends.process import worker as worker_module
from nbflow.backends.process.worker import TOKEN
from nbflow.backends.remote import tell
from nbflow.errors import WorkerLostError
from nbflow.sessions import session
from nbflow.settings import load_settings
from tests.processes import is_running

_LIMIT_S = 60.0

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="is about POSIX processes")


def started(size: int = 2) -> ProcessBackend:
    with session(settings=load_settings(max_parallel_processes=size)) as context:
        backend = ProcessBackend()
        backend.start(context)
    return backend


@pytest.fixture
def pool() -> Iterator[ProcessBackend]:
    """Two workers."""
    backend = started()
    yield backend
    backend.stop()


@pytest.fixture
def single() -> Iterator[ProcessBackend]:
    """One worker."""
    backend = started(1)
    yield backend
    backend.stop()


def until(condition: Callable[[], bool]) -> bool:
    """Wait until something holds, for things that give no sign."""
    deadline = time.monotonic() + _LIMIT_S
    pause = threading.Event()
    while not condition() and time.monotonic() < deadline:
        pause.wait(0.005)
    return condition()


# --- the end of a worker


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (lambda: os._exit(3), 3),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), -signal.SIGTERM),
        (lambda: ctypes.string_at(0), -signal.SIGSEGV),
    ],
    ids=["exit", "kill", "term", "segfault"],
)
def test_worker_that_dies_loses_its_call_only(pool: ProcessBackend, how: Callable[[], Any], code: int) -> None:
    """The error names call, worker and exit code; calls before, beside and after are not touched."""
    before = [pool.dispatch(abs, (-number,)) for number in range(20)]
    error = pool.dispatch(how, label="fit[3]").exception(_LIMIT_S)
    after = [pool.dispatch(abs, (-number,)) for number in range(20)]
    assert isinstance(error, WorkerLostError)
    assert error.exitcode == code
    assert error.worker.startswith("process-")
    assert "fit[3]" in str(error)
    assert [job.result(_LIMIT_S) for job in before + after] == [*range(20)] * 2


def test_messages_of_a_dying_worker_arrive(single: ProcessBackend) -> None:
    """What a call has said before its worker died is heard."""

    def talk_and_die() -> None:
        for number in range(100):
            tell(number)
        os._exit(1)

    heard: list[int] = []
    job = single.dispatch(talk_and_die, listen=heard.append)
    assert isinstance(job.exception(_LIMIT_S), WorkerLostError)
    assert heard == list(range(100))


def test_worker_without_its_sockets_is_replaced(single: ProcessBackend) -> None:
    """A call that closes all descriptors ends its worker, and nothing hangs."""

    def close_all() -> None:
        os.closerange(3, 300)
        threading.Event().wait(600)

    assert isinstance(single.dispatch(close_all).exception(_LIMIT_S), WorkerLostError)
    assert single.dispatch(abs, (-5,)).result(_LIMIT_S) == 5


def test_children_of_a_call_go_with_it(single: ProcessBackend) -> None:
    """Programs that a stopped call had started are ended as well, even if they do not want to."""

    def start_sleepers() -> None:
        stubborn = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); sys.stdin.read()"
        polite = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
        other = subprocess.Popen([sys.executable, "-c", stubborn], stdin=subprocess.PIPE)
        tell((polite.pid, other.pid))
        threading.Event().wait(600)

    heard: list[tuple[int, int]] = []
    told = threading.Event()
    job = single.dispatch(start_sleepers, listen=lambda message: (heard.append(message), told.set()))
    assert told.wait(_LIMIT_S)
    assert job.stop()
    assert until(lambda: not any(is_running(pid) for pid in heard[0]))
    assert single.dispatch(abs, (-5,)).result(_LIMIT_S) == 5


def test_stuck_worker_is_killed(single: ProcessBackend) -> None:
    """A call that ignores the polite signal is killed; its job has ended long before."""

    def stuck() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tell(os.getpid())
        time.sleep(600)

    heard: list[int] = []
    told = threading.Event()
    job = single.dispatch(stuck, listen=lambda message: (heard.append(message), told.set()))
    assert told.wait(_LIMIT_S)
    assert job.stop()
    assert job.cancelled()
    assert single.dispatch(abs, (-5,)).result(_LIMIT_S) == 5
    assert until(lambda: not is_running(heard[0]))


def test_workers_ignore_the_interrupt(single: ProcessBackend) -> None:
    """An interrupt is for the coordinator, whoever gets it."""
    interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    assert single.dispatch(interrupt).result(_LIMIT_S) is None
    assert single.dispatch(lambda: os.getpgid(0) == os.getpid()).result(_LIMIT_S)


@pytest.fixture
def held_nursery(single: ProcessBackend) -> Iterator[Callable[[], None]]:
    """The nursery does nothing, so that ends of workers are seen but not told; returns what lets it go on."""
    assert single.dispatch(abs, (-5,)).result(_LIMIT_S) == 5
    assert nursery._nursery is not None
    server = nursery._nursery.process
    server.send_signal(signal.SIGSTOP)
    go_on = lambda: server.send_signal(signal.SIGCONT)  # noqa: E731
    yield go_on
    go_on()


@pytest.mark.parametrize("replaced", [False, True], ids=["alone", "replaced"])
def test_stop_just_after_a_workers_death(
    single: ProcessBackend, held_nursery: Callable[[], None], replaced: bool
) -> None:
    """A call whose worker is gone, while nobody knows yet how it ended, can be stopped, and others go on."""
    dying = single.dispatch(os._exit, (1,))
    pool = single._pool
    assert pool is not None
    assert until(lambda: len(pool._dying) == 1)
    after = [single.dispatch(abs, (-7,))] if replaced else []
    assert until(lambda: len(pool._workers) == len(after))
    assert dying.stop()
    ended = threading.Event()
    pool.post(lambda _: ended.set(), None)
    assert until(lambda: ended.is_set() or pool._ended)
    after.append(single.dispatch(abs, (-7,)))
    held_nursery()
    assert [job.result(_LIMIT_S) for job in after] == [7] * len(after)
    assert dying.cancelled()
    assert until(lambda: not pool._dying)


@pytest.mark.parametrize("told", [False, True], ids=["untold", "told"])
def test_end_of_all_just_after_a_workers_death(
    single: ProcessBackend,
    held_nursery: Callable[[], None],
    told: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All calls of a lost worker end with the backend, whether it is told in time how the worker ended, or never."""

    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def die_when_told() -> None:
        gate.read_bytes()
        os._exit(1)

    jobs: list[Any] = [single.dispatch(die_when_told), single.dispatch(abs, (-5,))]
    pool = single._pool
    assert pool is not None
    assert until(lambda: all(job.holder is not None for job in jobs))
    gate.write_bytes(b"")
    assert until(lambda: len(pool._dying) == 1)
    if told:
        await_ends = pool._await_ends
        monkeypatch.setattr(pool, "_await_ends", lambda: (held_nursery(), await_ends()))
    single.stop()
    assert [job.done() for job in jobs] == [True, True]


# --- what user code may do to its worker


def test_call_that_forks_itself_answers_once(single: ProcessBackend) -> None:
    """Only the worker answers, not the copy that came back from `fork` as well."""

    def fork() -> int:
        if (pid := os.fork()) == 0:
            return -1
        os.waitpid(pid, 0)
        return os.getpid()

    assert single.dispatch(fork).result(_LIMIT_S) == single.dispatch(os.getpid).result(_LIMIT_S)


def test_death_is_seen_though_a_copy_lives(single: ProcessBackend, tmp_path: Path) -> None:
    """A process that a call forked keeps no connection open."""

    def fork_and_die() -> None:
        if os.fork() == 0:
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)

    assert isinstance(single.dispatch(fork_and_die).exception(_LIMIT_S), WorkerLostError)
    assert single.dispatch(abs, (-5,)).result(_LIMIT_S) == 5


def test_closed_standard_streams_do_no_harm(single: ProcessBackend) -> None:
    """A call may close what it reads and prints with."""

    def close() -> int:
        for number in range(3):
            os.close(number)
        sys.stdout.close()
        return os.getpid()

    assert single.dispatch(close).result(_LIMIT_S) == single.dispatch(os.getpid).result(_LIMIT_S)


def test_threads_that_a_call_leaves_do_no_harm(single: ProcessBackend) -> None:
    """What threads say after their call has ended belongs to nobody, and the next call is not disturbed."""

    def leave() -> int:
        threading.Thread(target=lambda: [tell("late") for _ in iter(int, 1)], daemon=True).start()
        return os.getpid()

    first = single.dispatch(leave).result(_LIMIT_S)
    assert [single.dispatch(os.getpid).result(_LIMIT_S) for _ in range(20)] == [first] * 20


def test_much_output_does_no_harm(single: ProcessBackend, capfd: pytest.CaptureFixture[str]) -> None:
    """Ten megabytes on the standard output block nobody."""

    def shout() -> int:
        return sum(os.write(1, b"x" * 99_999 + b"\n") for _ in range(100))

    assert single.dispatch(shout).result(_LIMIT_S) == 10_000_000


def test_libraries_that_must_not_be_forked_are_no_problem(single: ProcessBackend) -> None:
    """Threads of numpy and arrow in this process and in the workers disturb nobody."""
    numpy = pytest.importorskip("numpy")
    compute = pytest.importorskip("pyarrow.compute")
    matrix = numpy.random.default_rng(1).random((300, 300))
    here = float((matrix @ matrix).sum())
    compute.sum(list(range(100_000)))

    def there(matrix: Any) -> float:
        from pyarrow import compute

        assert compute.sum(list(range(10))).as_py() == 45
        return float((matrix @ matrix).sum())

    assert [single.dispatch(there, (matrix,)).result(_LIMIT_S) for _ in range(3)] == [here] * 3


def test_files_of_calls_are_let_go_however_they_end(single: ProcessBackend, tmp_path: Path) -> None:
    """Withdrawn, stopped, lost, failed and finished calls hold no file afterwards."""
    content = bytes(2_000_000)
    running = threading.Event()

    def size(data: bytes, how: str) -> int:
        tell("running")
        if how == "wait":
            time.sleep(600)
        if how == "die":
            os._exit(1)
        return len(data) // (how == "end")

    for order in (["wait", "end", "end"], ["wait", "fail", "die", "end"], ["die", "end", "wait"], ["end", "wait"]):
        running.clear()
        jobs = [single.dispatch(size, (content, how), listen=lambda _: running.set()) for how in order]
        assert running.wait(_LIMIT_S)
        for job, how in zip(jobs, order, strict=True):
            if how == "wait" or job is jobs[1]:
                job.stop()
        assert not wait(jobs, _LIMIT_S).not_done
    assert single._pool is not None
    holds = single._pool.store._holds
    assert until(lambda: set(holds.values()) == {0})


def test_workers_draw_different_random_numbers(pool: ProcessBackend) -> None:
    """Forks of one process do not share the state of random generators."""
    numpy = pytest.importorskip("numpy")
    drawn = set()
    for _ in range(4):
        drawn.add(pool.dispatch(lambda: (random.random(), float(numpy.random.random()))).result(_LIMIT_S))
        pool.dispatch(os._exit, (0,)).exception(_LIMIT_S)
    assert len({first for first, _ in drawn}) == len({second for _, second in drawn}) == 4


def test_lost_workers_leave_no_descriptors(single: ProcessBackend) -> None:
    """Sockets and files of workers that have died are closed."""
    counts = []
    for _ in range(6):
        single.dispatch(os._exit, (0,)).exception(_LIMIT_S)
        single.dispatch(bytes, (2_000_000,)).result(_LIMIT_S)
        counts.append(len(os.listdir("/proc/self/fd")))
    assert len(set(counts[2:])) == 1


def test_copy_of_the_kernel_is_told(single: ProcessBackend) -> None:
    """A fork of the coordinator's process cannot use its workers, and does not wait for them."""
    assert single.dispatch(abs, (-5,)).result(_LIMIT_S) == 5
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            single.dispatch(abs, (-5,))
        except BaseException as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as told:
        assert "was forked" in told.read()
    assert single.dispatch(abs, (-5,)).result(_LIMIT_S) == 5


# --- the end of the kernel, and of the nursery


_KERNEL = """
import os, sys, threading, time
from nbflow.backends.process import ProcessBackend
from nbflow.backends.process.worker import TOKEN
from nbflow.backends.remote import tell
def sleep(size):
    import subprocess
    child = subprocess.Popen(["sleep", "600"])
    tell((os.getpid(), child.pid))
    time.sleep(600)
backend = ProcessBackend(); backend.start()
said = threading.Semaphore(0)
for _ in range(2):
    backend.dispatch(sleep, (bytes(3_000_000),), listen=lambda pids: (print(*pids, flush=True), said.release()))
said.acquire(); said.acquire()
from nbflow.backends.process import nursery
print(nursery._nursery.process.pid, backend._pool.store.folder(), flush=True)
{end}
"""


def kernel(end: str) -> tuple[subprocess.Popen[str], list[int], Path]:
    """Start a program with two busy workers; return it, the ids of its processes, and its folder of buffers."""
    environ = {**os.environ, "NBFLOW_MAX_PARALLEL_PROCESSES": "2"}
    program = subprocess.Popen(
        [sys.executable, "-c", _KERNEL.format(end=end)], stdout=subprocess.PIPE, text=True, env=environ
    )
    assert program.stdout is not None
    first, second, (server, folder) = (program.stdout.readline().split() for _ in range(3))
    return program, [int(pid) for pid in (*first, *second, server)], Path(folder)


def test_killed_kernel_leaves_no_process(tmp_path: Path) -> None:
    """Workers, what they started, and the nursery end with a kernel that could not say good-bye; files are swept."""
    program, pids, folder = kernel("time.sleep(600)")
    assert all(is_running(pid) for pid in pids)
    assert list(folder.iterdir())
    program.kill()
    with program:
        pass
    assert until(lambda: not any(is_running(pid) for pid in pids))
    os.utime(folder, (1, 1))  # as if some minutes had passed
    other = started(1)
    assert other.dispatch(len, (bytes(2_000_000),)).result(_LIMIT_S) == 2_000_000
    other.stop()
    assert not folder.exists()


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)"], ids=["end", "exit"])
def test_program_ends_though_workers_are_busy(end: str) -> None:
    """A program that ends without stopping its backend ends at once and leaves neither processes nor files."""
    program, pids, folder = kernel(end)
    with program:
        assert program.wait(_LIMIT_S) == (3 if end else 0)
    assert until(lambda: not any(is_running(pid) for pid in pids))
    assert not folder.exists()


def test_killed_nursery_is_replaced(pool: ProcessBackend) -> None:
    """Its workers go with it, and what they ran is lost; the next calls have new ones."""
    heard = threading.Event()

    def sleep() -> None:
        tell("running")
        time.sleep(600)

    job = pool.dispatch(sleep, listen=lambda _: heard.set())
    assert heard.wait(_LIMIT_S)
    assert nursery._nursery is not None
    nursery._nursery.process.kill()
    assert isinstance(job.exception(_LIMIT_S), WorkerLostError)
    nursery._nursery.process.wait()
    assert [pool.dispatch(abs, (-number,)).result(_LIMIT_S) for number in range(5)] == [0, 1, 2, 3, 4]


# --- storms


@pytest.mark.slow
def test_a_hundred_killed_workers_in_two_thousand_calls(pool: ProcessBackend) -> None:
    """Whoever is killed at random moments: lost calls say so, all others have the right result, nothing hangs."""
    chance = random.Random(7)
    pids: set[int] = set()

    def square(number: int) -> int:
        tell(os.getpid())
        time.sleep(0.001)
        return number * number

    wanted, results, kills, lost = list(range(2000)), {}, 0, 0
    while wanted or kills < 100:
        jobs = {number: pool.dispatch(square, (number,), listen=pids.add) for number in wanted or range(200)}
        for _ in range(100 - kills):
            over, _ = wait(list(jobs.values()), chance.random() * 0.02)
            if len(over) == len(jobs):
                break
            if living := [pid for pid in list(pids) if is_running(pid)]:
                victim = chance.choice(living)
                pids.discard(victim)
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:  # an earlier kill has just been noticed
                    continue
                kills += 1
        for number, job in jobs.items():
            if isinstance(error := job.exception(_LIMIT_S), WorkerLostError):
                lost += 1
            else:
                assert error is None
                results[number] = job.result()
        wanted = [number for number in wanted if number not in results]
    assert results == {number: number * number for number in range(2000)}
    assert lost <= kills == 100


_STORM = """
import os, random, signal, sys, threading
from nbflow.backends.process import ProcessBackend
sys.unraisablehook = lambda _: None  # an interrupt may strike where nobody can catch it
armed = False
def interrupt(*_):
    global armed
    if armed:
        armed = False  # one at a time: this program has to count them
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, interrupt)
backend = ProcessBackend(); backend.start()
main, chance, over = threading.main_thread().ident, random.Random(3), threading.Event()
def strike():
    while not over.wait(chance.random() * 0.004):
        signal.pthread_kill(main, signal.SIGINT)
striker = threading.Thread(target=strike)
striker.start()
for struck in range(300):
    try:
        armed = True
        while True:
            number = chance.randrange(10**6)
            assert backend.dispatch(abs, (-number,)).result(60) == number
            armed = True  # it may have struck where nobody can catch it
    except KeyboardInterrupt:
        pass
    except RuntimeError as error:  # it has struck while a condition let go of its lock
        assert "un-acquired lock" in str(error), error
over.set()
striker.join()
assert [backend.dispatch(abs, (-number,)).result(60) for number in range(100)] == list(range(100))
backend.stop()
print("usable,", threading.active_count(), "thread")
"""


def test_interrupts_at_any_moment_leave_the_pool_usable() -> None:
    """Whatever the main thread was about when it was interrupted, be it the first call, the next calls work."""
    environ = {**os.environ, "NBFLOW_MAX_PARALLEL_PROCESSES": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _STORM], capture_output=True, text=True, timeout=_LIMIT_S, env=environ, check=False
    )
    assert (done.returncode, done.stdout) == (0, "usable, 1 thread\n"), done.stderr


def test_what_waits_behind_a_long_call_goes_to_the_worker_that_replaces_a_lost_one(
    pool: ProcessBackend, tmp_path: Path
) -> None:
    """A call that was given to a busy worker while the other one was about to die does not wait for the busy one."""
    go_on = tmp_path / "go on"

    def wait_for(path: str) -> str:
        pause = threading.Event()
        while not os.path.exists(path):
            pause.wait(0.005)
        return "went on"

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    long = pool.dispatch(wait_for, (str(go_on),))
    for _ in range(3):
        pool.dispatch(die)
        assert pool.dispatch(abs, (-5,)).result(30) == 5
    go_on.touch()
    assert long.result(30) == "went on"


def test_a_call_that_was_taken_back_costs_no_other_its_token() -> None:
    """A worker that finds such a call leaves the token of the next one alone, which may still be taken back, too."""
    ours, theirs = socket.socketpair()
    connection, other = socket.socketpair()
    with ours, theirs, connection, other:
        theirs.setblocking(False)
        worker = worker_module._Worker("process-1", connection, theirs)
        assert not worker._may(1), "nothing was laid down"
        ours.send(TOKEN.pack(3))
        assert not worker._may(2)
        assert worker._may(3)
        assert not worker._may(3)
