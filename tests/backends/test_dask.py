"""Dask as a backend: a cluster of this machine, and one of somebody else's."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

distributed = pytest.importorskip("distributed")
numpy = pytest.importorskip("numpy")

from nbflow.backends import Backend, DaskBackend, RemoteJob  # noqa: E402
from nbflow.backends.dask import link as link_module  # noqa: E402
from nbflow.backends.dask import worker as worker_module  # noqa: E402
from nbflow.backends.dask.shared import DaskShared, Shelf  # noqa: E402
from nbflow.backends.parcels import Parcel  # noqa: E402
from nbflow.backends.remote import RemoteBackend, inside_worker, tell  # noqa: E402
from nbflow.errors import BackendError, DefinitionError, TransferError, WorkerLostError  # noqa: E402
from nbflow.settings import load_settings  # noqa: E402
from nbflow.testing.backends import BackendContract, RemoteBackendContract  # noqa: E402
from nbflow.testing.links import FaultyRemoteBackend  # noqa: E402
from tests.processes import is_running  # noqa: E402

_LIMIT_S = 60.0


class Holder:
    """Stands in for a session."""

    session_id = "s"

    def __init__(self, **settings: Any) -> None:
        self.settings = load_settings(**settings)


@pytest.fixture(scope="module")
def own() -> Iterator[DaskBackend]:
    """Return a backend with a cluster of this machine, which the tests of this module share."""
    backend = DaskBackend()
    backend.start(Holder(max_parallel_processes=2))
    meet(backend, 2)
    yield backend
    backend.stop()


@pytest.fixture
def mortal() -> Iterator[DaskBackend]:
    """Return a backend with a cluster of its own, whose workers may die."""
    backend = DaskBackend()
    backend.start(Holder(max_parallel_processes=2))
    meet(backend, 2)
    yield backend
    backend.stop()


@pytest.fixture(scope="module")
def address(own: DaskBackend) -> str:
    """Return the address of that cluster's scheduler."""
    assert own._link.cluster is not None
    return own._link.cluster.address


@pytest.fixture
def foreign(own: DaskBackend, address: str) -> Iterator[DaskBackend]:
    """Return a backend that was given the address of a cluster."""
    meet(own, 2)
    backend = DaskBackend(address=address)
    backend.start()
    yield backend
    backend.stop()


def meet(backend: DaskBackend, count: int) -> None:
    """Return when that many workers are there."""
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline:
        if len({backend.dispatch(pause, (0.05,)).result(_LIMIT_S) for _ in range(1)}) and ready(backend) >= count:
            return
    pytest.fail("the workers of the cluster did not start")


def ready(backend: DaskBackend) -> int:
    return len(backend._link.client.nthreads())


def pause(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def begun(job: RemoteJob) -> str:
    """Return the worker of a job as soon as it runs."""
    deadline = time.monotonic() + _LIMIT_S
    while not job.running():
        assert not job.done(), job
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert job.worker is not None
    return job.worker


def until(condition: Callable[[], bool]) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + _LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def traces(backend: DaskBackend) -> list[str]:
    """Return the jobs labelled so that the cluster knows anywhere."""

    def known(dask_worker: Any) -> list[str]:
        return [str(key) for key in dask_worker.state.tasks]

    link = backend._link
    assert link.cluster is not None
    assert link._loop is not None
    scheduler = link.cluster._cluster.scheduler

    async def ask() -> Any:
        return await link.client.run(known)

    on_workers = asyncio.run_coroutine_threadsafe(ask(), link._loop).result(_LIMIT_S)
    keys = [str(key) for key in list(scheduler.tasks)] + [key for keys in on_workers.values() for key in keys]
    return ["a submission"] * scheduler._active_graph_updates + [key for key in keys if key.startswith("trace")]


class TestContract(RemoteBackendContract):
    """The promises of every backend, on a cluster that is given by its address."""

    @pytest.fixture
    def backend_class(self, address: str) -> type[Backend]:
        class ByAddress(DaskBackend):
            def __init__(self) -> None:
                super().__init__(address=address)

        return ByAddress


class TestSlowLink:
    """Promises that depend on the order of things, again where messages and outcomes come late."""

    @pytest.fixture
    def backend(self, address: str) -> Iterator[RemoteBackend]:
        class Slow(FaultyRemoteBackend):
            delay_s = 0.01

            def make_inner(self) -> RemoteBackend:
                return DaskBackend(address=address)

        backend = Slow()
        backend.start()
        yield backend
        backend.stop()

    test_relays_messages_in_order = RemoteBackendContract.test_relays_messages_in_order
    test_relays_while_it_runs = RemoteBackendContract.test_relays_while_it_runs
    test_stops_what_waits = RemoteBackendContract.test_stops_what_waits
    test_stops = BackendContract.test_stops


def test_functions_and_classes_travel_by_value(own: DaskBackend) -> None:
    """A closure over a local class runs in a process that never saw either, and gives an object of that class."""

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    factor = 3
    pid, point = own.dispatch(lambda point: (os.getpid(), Point(point.x * factor)), (Point(2),)).result(_LIMIT_S)
    assert pid != os.getpid()
    assert type(point) is Point
    assert point.x == 6


def test_says_what_cannot_travel(own: DaskBackend) -> None:
    """An argument or a result that cannot travel fails its job only, with its name."""
    with pytest.raises(TransferError, match=r"send: args\[1\]"):
        own.dispatch(print, (1, threading.Lock()), label="send").result(_LIMIT_S)
    with pytest.raises(TransferError, match="result cannot travel from a worker"):
        own.dispatch(lambda: __import__("threading").Lock()).result(_LIMIT_S)
    with pytest.raises(TransferError, match="value cannot travel"):
        own.share(threading.Lock())
    assert own.dispatch(abs, (-1,)).result(_LIMIT_S) == 1


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, ValueError])
def test_errors_come_home(own: DaskBackend, kind: type[BaseException]) -> None:
    """Whatever is raised is an error of that job, with the worker's lines, and the worker lives."""

    def fail() -> None:
        raise kind("no", 3)

    before = own.dispatch(os.getpid).result(_LIMIT_S)
    error = own.dispatch(fail).exception(_LIMIT_S)
    assert type(error) is kind
    assert error.args == ("no", 3)
    assert "in fail" in error.__notes__[-1]
    assert own.dispatch(os.getpid).result(_LIMIT_S) > 0
    assert before > 0


def test_messages_are_heard_while_the_job_runs(own: DaskBackend, tmp_path: Path) -> None:
    """A message arrives before the job ends: here the job only ends when it was heard."""
    heard, gate = threading.Event(), tmp_path / "gate"

    def talk(path: str) -> str | None:
        tell("here")
        while not os.path.exists(path):
            time.sleep(0.01)
        return inside_worker()

    job = own.dispatch(talk, (str(gate),), listen=lambda message: heard.set())
    assert heard.wait(_LIMIT_S)
    assert not job.done()
    gate.touch()
    assert job.result(_LIMIT_S) == job.worker


@pytest.mark.parametrize("size", [1, 2000])
def test_messages_arrive_in_order_before_the_result(own: DaskBackend, size: int) -> None:
    """None is missing, doubled or late, however much of them there is."""
    heard: list[int] = []
    at_the_end: SimpleQueue[int] = SimpleQueue()

    def talk(count: int, size: int) -> None:
        for number in range(count):
            tell((number, "x" * size))

    job = own.dispatch(talk, (300, size), listen=lambda message: heard.append(message[0]))
    job.add_done_callback(lambda job: at_the_end.put(len(heard)))
    job.result(_LIMIT_S)
    assert heard == list(range(300))
    assert at_the_end.get(timeout=_LIMIT_S) == 300


def test_a_listener_that_raises_harms_nobody(own: DaskBackend, caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged, and the job ends well."""

    def talk() -> int:
        tell(1)
        return 5

    assert own.dispatch(talk, listen=lambda message: 1 / 0).result(_LIMIT_S) == 5
    assert "could not be delivered" in caplog.text


@pytest.mark.parametrize("size", [10, 100_000])
def test_shared_values_arrive(own: DaskBackend, size: int) -> None:
    """A shared array is the same for each job, may be changed by it, and the others do not see that."""
    array = numpy.arange(size, dtype=float)
    shared = own.share(array, "array")

    def change(values: Any, *, again: Any) -> tuple[float, int]:
        before = float(values.sum()) + float(again[1])
        values[:] = 0
        return before, values.__array_interface__["data"][0] % 64 if size > 10 else 0

    jobs = [own.dispatch(change, (shared,), {"again": shared}) for _ in range(4)]
    assert [job.result(_LIMIT_S) for job in jobs] == [(array.sum() + 1, 0)] * 4
    shared.release()
    shared.release()


def test_large_arguments_and_results_travel(own: DaskBackend) -> None:
    """They arrive writable and aligned, as they were."""
    array = numpy.random.default_rng(1).normal(size=300_000)
    result = own.dispatch(lambda values: values * 2, (array,)).result(_LIMIT_S)
    assert (result == array * 2).all()
    result[0] = 1.0
    assert result.__array_interface__["data"][0] % 64 == 0


def test_equal_values_are_scattered_once() -> None:
    """Sharing the same content again finds it on the shelf, also after its release; a budget bounds what stays."""
    shelf = Shelf()
    first, second = (DaskShared(shelf, Parcel.pack(numpy.zeros(100_000))) for _ in range(2))
    assert first.digest == second.digest
    shelf._placed[str(first.digest)] = "future"
    first.release()
    second.release()
    second.release()
    assert shelf._placed
    other = DaskShared(shelf, Parcel.pack(numpy.ones(100_000)))
    shelf._idle[str(first.digest)] = 10**9
    other.release()
    assert not shelf._placed


def test_waiting_jobs_are_withdrawn(own: DaskBackend, tmp_path: Path) -> None:
    """A job that waits for a worker never runs when it is cancelled, and whoever waits for it is told."""
    meet(own, 2)
    gate = tmp_path / "gate"

    def hold(path: str) -> None:
        while not os.path.exists(path):
            time.sleep(0.01)

    def leave_a_trace(path: str) -> None:
        Path(path).touch()

    blockers = [own.dispatch(hold, (str(gate),)) for _ in range(2)]
    for blocker in blockers:
        begun(blocker)
    waiting = [own.dispatch(leave_a_trace, (str(tmp_path / f"{number}"),), label="trace") for number in range(10)]
    assert until(lambda: len({key for key in traces(own) if key.startswith("trace")}) == 10)
    assert all(job.stop() for job in waiting)
    assert not wait(waiting, _LIMIT_S).not_done
    assert until(lambda: not traces(own))
    gate.touch()
    for blocker in blockers:
        blocker.result(_LIMIT_S)
    assert own.dispatch(abs, (-1,)).result(_LIMIT_S) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["gate"]


def test_stopping_code_that_heeds_it_spares_the_worker(own: DaskBackend) -> None:
    """Python code ends at its next line; its worker goes on with other jobs."""

    def spin() -> None:
        tell(os.getpid())
        while True:
            time.sleep(0.001)

    pids: list[int] = []
    job = own.dispatch(spin, listen=pids.append)
    begun(job)
    assert until(lambda: bool(pids))
    assert job.stop()
    with pytest.raises(CancelledError):
        job.result(_LIMIT_S)
    assert job.left is None
    os.kill(pids[0], 0)  # it is still there


def test_stopping_code_that_does_not_heed_it_ends_the_worker(mortal: DaskBackend, tmp_path: Path) -> None:
    """A long sleep ends with its worker, which is replaced; the job of another worker goes on, later ones run."""
    meet(mortal, 2)
    trace = tmp_path / "trace"

    def sleep() -> None:
        tell(os.getpid())
        time.sleep(600)
        Path(trace).touch()

    pids: list[int] = []
    job = mortal.dispatch(sleep, listen=pids.append)
    other = mortal.dispatch(pause, (0.5,))
    begun(job)
    assert until(lambda: bool(pids))
    assert job.stop()
    with pytest.raises(CancelledError):
        job.result(_LIMIT_S)
    assert until(lambda: not Path(f"/proc/{pids[0]}").exists() or not sys.platform.startswith("linux"))
    assert other.result(_LIMIT_S) != pids[0]
    meet(mortal, 2)
    assert mortal.dispatch(abs, (-1,)).result(_LIMIT_S) == 1
    assert not trace.exists()


def test_code_on_a_foreign_cluster_is_left_behind(
    foreign: DaskBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker of somebody else's is not ended: the job is over, and it is said where its code goes on."""
    trace = tmp_path / "trace"

    def sleep(path: str) -> None:
        Path(f"{path}.begun").touch()
        try:
            time.sleep(3)
        finally:
            Path(path).touch()

    job = foreign.dispatch(sleep, (str(trace),))
    worker = begun(job)
    assert until(Path(f"{trace}.begun").exists)  # a job that is stopped before that leaves nothing behind
    assert job.stop()
    with pytest.raises(CancelledError):
        job.result(_LIMIT_S)
    assert job.left == worker
    assert "goes on" in caplog.text
    assert until(trace.exists)


def test_a_lost_worker_is_named(mortal: DaskBackend) -> None:
    """The job fails at once with name and exit code, none that waits does, and the worker is replaced."""
    meet(mortal, 2)
    job = mortal.dispatch(os._exit, (3,), label="bad")
    others = [mortal.dispatch(pause, (0.02,)) for _ in range(20)]
    error = job.exception(_LIMIT_S)
    assert isinstance(error, WorkerLostError)
    assert error.exitcode == 3  # type: ignore[attr-defined]
    assert str(error).startswith("bad: the Dask worker dask-")
    lost = [other for other in others if isinstance(other.exception(_LIMIT_S), WorkerLostError)]
    assert len(lost) <= 1  # one that had ended there a moment before, and whose answer was still on its way
    assert all(other.result() > 0 for other in others if other not in lost)
    meet(mortal, 2)


def test_a_killed_worker_is_named_on_a_foreign_cluster(mortal: DaskBackend) -> None:
    """Nobody but the scheduler knows of it; Dask's own second run of the job does not hide it."""
    ran: list[int] = []
    assert mortal._link.cluster is not None
    foreign = DaskBackend(address=mortal._link.cluster.address)
    foreign.start()

    def sleep() -> None:
        tell(os.getpid())
        time.sleep(600)

    job = foreign.dispatch(sleep, listen=ran.append)
    begun(job)
    assert until(lambda: bool(ran))
    os.kill(ran[0], signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    error = job.exception(_LIMIT_S)
    assert isinstance(error, WorkerLostError)
    assert error.worker == job.worker  # type: ignore[attr-defined]
    assert len(ran) == 1
    foreign.stop()


def test_shared_data_that_went_down_is_sent_again(mortal: DaskBackend) -> None:
    """When all workers that have a shared value die, later jobs still get it."""
    meet(mortal, 2)
    array = numpy.arange(100_000.0)
    shared = mortal.share(array)

    def total(values: Any) -> tuple[float, int]:
        return float(values.sum()), os.getpid()

    assert mortal.dispatch(total, (shared,)).result(_LIMIT_S)[0] == array.sum()
    assert mortal._link.cluster is not None
    for process in list(mortal._link.cluster._workers.values()):
        process.kill()
    results = [mortal.dispatch(total, (shared,)) for _ in range(4)]
    assert [job.result(_LIMIT_S)[0] for job in results] == [array.sum()] * 4
    shared.release()
    meet(mortal, 2)


def test_dispatching_does_not_wait(address: str) -> None:
    """On an event loop a job is sent and awaited without the loop standing still, though nothing is connected yet."""

    async def work() -> int:
        backend = DaskBackend(address=address)
        backend.start()
        ticks = [0]

        async def tick() -> None:
            while True:
                ticks[0] += 1
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        assert backend.workers() >= 1
        result: int = await asyncio.wrap_future(backend.dispatch(abs, (-7,)))
        ticking.cancel()
        await asyncio.to_thread(backend.stop)
        assert ticks[0] > 3
        return result

    assert asyncio.run(work()) == 7


def test_uses_the_current_client(address: str) -> None:
    """Without an address the client that the user made is followed, and left as it was."""
    with distributed.Client(address, set_as_default=True) as client:
        for made in (DaskBackend(), DaskBackend(client)):
            made.start()
            assert made.address == address
            assert made.dispatch(abs, (-1,)).result(_LIMIT_S) == 1
            made.stop()
        assert client.status == "running"
        assert client.submit(abs, -3).result(_LIMIT_S) == 3


def test_uses_the_setting(address: str) -> None:
    """`dask_address` counts before a client that happens to be there."""
    backend = DaskBackend()
    backend.start(Holder(dask_address=address))
    assert backend.address == address
    assert backend.workers() == 2
    backend.stop()


@pytest.mark.parametrize("client", [3, "tcp://x:1", object()])
def test_needs_a_client(client: Any) -> None:
    """Anything else is refused at once."""
    with pytest.raises(DefinitionError, match="no connected Dask client"):
        DaskBackend(client)


def test_needs_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Dask the error says how to get it."""
    monkeypatch.setattr("nbflow.backends.dask.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"pip install 'nbflow\[dask\]'"):
        DaskBackend().start()


def test_an_unreachable_scheduler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that wait for the connection fail, and so do later ones."""
    monkeypatch.setattr(link_module, "_CONNECT_S", 0.2)
    backend = DaskBackend(address="tcp://127.0.0.1:9")
    backend.start()
    for _ in range(2):
        with pytest.raises(BackendError, match="No connection to the Dask scheduler at tcp://127.0.0.1:9"):
            backend.dispatch(abs, (-1,)).result(_LIMIT_S)
    assert backend.workers() == 1
    backend.stop()


def test_a_lost_scheduler_is_said() -> None:
    """When the scheduler dies, what runs and what comes later fails with clear words, and nothing hangs."""
    code = (
        "import distributed, sys\n"
        "cluster = distributed.LocalCluster(1, threads_per_worker=1, processes=False, protocol='tcp://',\n"
        "                                   dashboard_address=None)\n"
        "print(cluster.scheduler_address, flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    backend = DaskBackend(address=process.stdout.readline().strip())
    backend.start()
    job = backend.dispatch(pause, (600,))
    begun(job)
    process.kill()
    process.communicate()
    assert isinstance(job.exception(_LIMIT_S), BackendError)
    assert "is gone" in str(job.exception()) or "lost" in str(job.exception())
    with pytest.raises(BackendError, match="is gone"):
        backend.dispatch(abs, (-1,)).result(_LIMIT_S)
    backend.stop()


def test_workers_without_nbflow_are_told() -> None:
    """A worker where nbflow cannot be imported gives words on what to install there."""
    code = (
        "import sys\n"
        "sys.modules['nbflow'] = None\n"
        "import distributed\n"
        "cluster = distributed.LocalCluster(1, threads_per_worker=1, processes=False, protocol='tcp://',\n"
        "                                   dashboard_address=None)\n"
        "print(cluster.scheduler_address, flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    backend = DaskBackend(address=process.stdout.readline().strip())
    backend.start()
    with pytest.raises(BackendError, match="has no usable nbflow"):
        backend.dispatch(abs, (-1,)).result(_LIMIT_S)
    backend.stop()
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("change", "said"),
    [({}, None), ({"python": "2.7"}, "start the worker with Python 2.7"), ({"nbflow": "0"}, "install nbflow==0 there")],
)
def test_versions_must_fit(change: dict[str, str], said: str | None) -> None:
    """A worker of another version refuses the call, and says what to install."""
    complaint = worker_module.Ticket("job", "topic", False, **change).complaint()
    assert (complaint or "").endswith(said or "")
    assert (complaint is None) == (said is None)


def test_stop_ends_everything(address: str) -> None:
    """Stopping cancels what waits and what runs, and takes no long."""
    backend = DaskBackend(address=address)
    backend.start()
    running = backend.dispatch(pause, (0.3,))
    begun(running)
    waiting = [backend.dispatch(pause, (5,)) for _ in range(10)]
    backend.stop()
    assert all(job.done() for job in [running, *waiting])
    assert all(job.cancelled() for job in waiting)


def test_workers_end_with_a_killed_coordinator(tmp_path: Path) -> None:
    """When the process that started a local cluster is killed, its workers end and tidy up; they ran no main."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "from nbflow.backends import DaskBackend\n"
        "from nbflow.backends.remote import tell\n"
        "print('main', flush=True)\n"
        "def work():\n"
        "    tell(os.getpid())\n"
        "    time.sleep(600)\n"
        "backend = DaskBackend()\n"
        "backend.start()\n"
        "backend.dispatch(work, listen=lambda pid: print(pid, flush=True)).result()\n"
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = {**os.environ, "NBFLOW_MAX_PARALLEL_PROCESSES": "1", "TMPDIR": str(temporary)}
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == "main\n"
    pid = int(process.stdout.readline())
    process.kill()
    process.communicate()
    assert until(lambda: not is_running(pid))
    assert [path.name for path in temporary.iterdir() if path.name.startswith("nbflow")] == []


def test_workers_that_come_and_go_while_we_join_are_counted(
    own: DaskBackend, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told of workers counts more than a list of them that was on its way already."""
    meet(own, 2)
    backend = DaskBackend(address=address)
    nthreads = distributed.Client.nthreads
    told: list[str] = []

    async def late(client: Any) -> dict[str, int]:
        first, second = await nthreads(client)
        told.extend((first, second))
        backend._link._heard((0.0, {"left": first}))
        backend._link._heard((0.0, {"joined": second, "slots": 5, "name": "second"}))
        return {first: 1}

    monkeypatch.setattr(distributed.Client, "nthreads", late)
    backend.start()
    try:
        assert backend.workers() == 5
        assert len(told) == 2
    finally:
        backend.stop()


def test_nobody_is_missed_between_the_list_of_workers_and_what_is_told_of_them(
    own: DaskBackend, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are asked for when those that come are told of, however late the scheduler learns who listens."""
    meet(own, 2)
    send, log_event, nthreads = (
        getattr(distributed.Client, name) for name in ("_send_to_scheduler", "log_event", "nthreads")
    )
    held: list[Any] = []
    asked: list[int] = []

    def hold_back(client: Any, message: Any) -> None:
        if message.get("op") == "subscribe-topic" and message["topic"].startswith("nbflow"):
            held.append(message)
        else:
            send(client, message)

    async def let_go(client: Any, topic: str, message: Any) -> None:
        await log_event(client, topic, message)
        if held:
            send(client, held.pop())

    def ask(client: Any) -> Any:
        asked.append(len(held))
        return nthreads(client)

    monkeypatch.setattr(distributed.Client, "_send_to_scheduler", hold_back)
    monkeypatch.setattr(distributed.Client, "log_event", let_go)
    monkeypatch.setattr(distributed.Client, "nthreads", ask)
    backend = DaskBackend(address=address)
    backend.start()
    try:
        assert backend.workers() == 2
        assert asked == [0]
    finally:
        backend.stop()
