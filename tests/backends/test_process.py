"""The process backend against the promises, and what it promises beyond them."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import pytest

from nbflow.backends import Backend
from nbflow.backends.process import ProcessBackend
from nbflow.backends.process.jobs import ProcessJob
from nbflow.backends.remote import tell
from nbflow.errors import BackendError, TransferError, WorkerLostError
from nbflow.sessions import session
from nbflow.settings import load_settings
from nbflow.testing.backends import RemoteBackendContract

_LIMIT_S = 60.0


class TestProcess(RemoteBackendContract):
    """The process backend."""

    @pytest.fixture
    def backend_class(self) -> type[Backend]:
        return ProcessBackend


class Alone(ProcessBackend):
    _alone = True


def started(kind: type[ProcessBackend] = ProcessBackend, size: int = 2) -> ProcessBackend:
    with session(settings=load_settings(max_parallel_processes=size)) as context:
        backend = kind()
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
    backend = started(size=1)
    yield backend
    backend.stop()


@pytest.fixture
def give() -> Callable[[Any], Any]:
    return lambda value: value


def waiter(path: Path) -> Callable[[], str]:
    """Return a function that waits for a file."""

    def wait_for_file() -> str:
        tell("running")
        pause = threading.Event()
        while not path.exists():
            pause.wait(0.005)
        return path.name

    return wait_for_file


# --- start and life


def test_starts_nothing_before_the_first_call(pool: ProcessBackend) -> None:
    """A backend that nobody uses costs no thread and no process."""
    before = set(threading.enumerate())
    assert pool.workers() == 2
    assert set(threading.enumerate()) == before
    assert pool._pool is None


def test_starts_as_many_workers_as_calls_wait(pool: ProcessBackend, tmp_path: Path) -> None:
    """One call alone needs one worker; two that run at the same time meet in two processes."""
    assert len({pool.dispatch(os.getpid).result(_LIMIT_S) for _ in range(10)}) == 1
    running = threading.Semaphore(0)
    jobs = [pool.dispatch(waiter(tmp_path / "go"), listen=lambda _: running.release()) for _ in range(2)]
    assert all(running.acquire(timeout=_LIMIT_S) for _ in jobs)
    (tmp_path / "go").touch()
    wait(jobs, _LIMIT_S)
    assert {job.worker for job in jobs} == {"process-1", "process-2"}


def test_workers_started_by_themselves() -> None:
    """Where nothing can be forked, calls run, die and are stopped in the same way."""
    backend = started(Alone, size=1)
    try:
        assert backend.dispatch(lambda: (os.getppid(), 3)).result(_LIMIT_S) == (os.getpid(), 3)
        lost = backend.dispatch(os._exit, (4,)).exception(_LIMIT_S)
        assert isinstance(lost, WorkerLostError)
        assert lost.exitcode == 4
        heard = threading.Event()
        job = backend.dispatch(waiter(Path("/nowhere/at/all")), listen=lambda _: heard.set())
        assert heard.wait(_LIMIT_S)
        assert job.stop()
        assert job.cancelled()
        assert backend.dispatch(abs, (-5,)).result(_LIMIT_S) == 5
    finally:
        backend.stop()


def test_the_users_main_is_not_run_again(tmp_path: Path) -> None:
    """A script without a guard around its main part works, with functions and classes of its own."""
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\n"
        "from nbflow.backends.process import ProcessBackend\n"
        "class Point:\n"
        "    def __init__(self, x): self.x = x\n"
        "def moved(point): return Point(point.x + 1)\n"
        "backend = ProcessBackend(); backend.start()\n"
        "point = backend.dispatch(moved, (Point(1),)).result(60)\n"
        "print(type(point) is Point, point.x)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("once\nTrue 2\n", "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are not forked here")
def test_forked_workers_draw_numbers_of_their_own(tmp_path: Path) -> None:
    """No two workers have the same state of NumPy's generator, and none loads that for its sake: it takes long."""
    pytest.importorskip("numpy")
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, numpy\n"
        "from nbflow.backends.process import nursery\n"
        "def forked(ask):\n"
        "    if nursery._fork(lambda: None) == 0:\n"
        "        print(ask(), flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "had = 'numpy.random' in sys.modules\n"
        "forked(lambda: ('numpy.random' in sys.modules) == had)\n"
        "import numpy.random\n"
        "for _ in range(2): forked(numpy.random.random)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=_LIMIT_S, check=True)
    kept, one, two = done.stdout.split()
    assert kept == "True"
    assert one != two


def test_workers_that_die_at_once_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls do not wait for workers that will never be ready."""
    monkeypatch.setattr(sys, "executable", "/bin/false" if os.path.exists("/bin/false") else "/usr/bin/false")
    backend = started(Alone, size=1)
    try:
        error = backend.dispatch(os.getpid).exception(_LIMIT_S)
        assert isinstance(error, BackendError)
        assert "before they are ready" in str(error)
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        error = backend.dispatch(os.getpid).exception(_LIMIT_S)
        assert isinstance(error, BackendError)
        assert "No worker process can be started" in str(error)
    finally:
        backend.stop()


# --- what is around a call


def test_surroundings_travel(pool: ProcessBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directory, environment and module path are those of the coordinator when the call was made."""
    probe = lambda: (os.getcwd(), os.environ.get("NBFLOW_PROBE"), sys.path[0])  # noqa: E731
    pool.dispatch(probe).result(_LIMIT_S)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBFLOW_PROBE", "one")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert pool.dispatch(probe).result(_LIMIT_S) == (str(tmp_path), "one", str(tmp_path))
    monkeypatch.delenv("NBFLOW_PROBE")
    assert pool.dispatch(probe).result(_LIMIT_S)[1] is None


def test_a_call_leaves_no_surroundings_behind(single: ProcessBackend, tmp_path: Path) -> None:
    """What a call does to directory, environment and module path ends with it."""

    def change() -> int:
        os.chdir("/")
        os.environ["NBFLOW_PROBE"] = "left behind"
        sys.path.insert(0, "/nowhere")
        return os.getpid()

    here = os.getcwd()
    changed = single.dispatch(change)
    after = single.dispatch(lambda: (os.getpid(), os.getcwd(), os.environ.get("NBFLOW_PROBE"), sys.path[0]))
    assert after.result(_LIMIT_S) == (changed.result(_LIMIT_S), here, None, sys.path[0])


def test_edited_modules_take_effect(single: ProcessBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has imported an older version of a local module is replaced before the next call."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "nbflow_edited_module.py"
    file.write_text("def version(): return 1\n")
    module = importlib.import_module("nbflow_edited_module")
    try:
        assert single.dispatch(module.version).result(_LIMIT_S) == 1
        first = single.dispatch(os.getpid).result(_LIMIT_S)
        assert single.dispatch(os.getpid).result(_LIMIT_S) == first
        file.write_text("def version(): return 2\n")
        os.utime(file, (1, 1))
        importlib.reload(module)
        assert single.dispatch(module.version).result(_LIMIT_S) == 2
        assert single.dispatch(os.getpid).result(_LIMIT_S) != first
    finally:
        del sys.modules["nbflow_edited_module"]


# --- what travels


def test_names_the_path_of_what_cannot_travel(pool: ProcessBackend) -> None:
    """Attributes, items and captured variables on the way to the culprit are all named."""

    class Model:
        def __init__(self) -> None:
            self.parts = [1, {"lock": threading.Lock()}]

    lock = threading.Lock()
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (abs, {"args": (Model(),)}, "args[0].parts[1]['lock']"),
        (abs, {"kwargs": {"model": Model()}}, "kwargs['model'].parts[1]['lock']"),
        (lambda: lock, {}, "the function variable lock"),
    ]
    for function, call, path in cases:
        error = pool.dispatch(function, **call).exception(_LIMIT_S)
        assert isinstance(error, TransferError)
        assert error.path == path
        assert path in str(error)
    error = pool.dispatch(lambda: {"found": [threading.Lock()]}).exception(_LIMIT_S)
    assert isinstance(error, TransferError)
    assert error.path == "result['found'][0]"


def test_result_that_cannot_be_rebuilt_fails_its_job_only(pool: ProcessBackend) -> None:
    """A result that raises while it is unpickled here is an error of that job."""

    class Bomb:
        def __reduce__(self) -> Any:
            return int, ("no number",)

    error = pool.dispatch(lambda: Bomb()).exception(_LIMIT_S)
    assert isinstance(error, TransferError)
    assert "no number" in error.reason
    assert pool.dispatch(abs, (-5,)).result(_LIMIT_S) == 5


def test_argument_that_cannot_be_rebuilt_fails_its_job_only(pool: ProcessBackend) -> None:
    """An argument that raises while it is unpickled by the worker is an error of that job."""

    class Bomb:
        def __reduce__(self) -> Any:
            return int, ("no number",)

    error = pool.dispatch(abs, (Bomb(),)).exception(_LIMIT_S)
    assert isinstance(error, TransferError)
    assert "no number" in str(error)
    assert pool.dispatch(abs, (-5,)).result(_LIMIT_S) == 5


def test_errors_with_their_own_init_keep_their_type(pool: ProcessBackend) -> None:
    """An exception whose arguments are not those of its `__init__` arrives as what it is."""

    class Odd(ValueError):
        def __init__(self, name: str, size: int) -> None:
            super().__init__(f"{name} has {size}")
            self.size = size

    def fail() -> None:
        raise Odd("it", 3)

    error = pool.dispatch(fail).exception(_LIMIT_S)
    assert type(error) is Odd
    assert (str(error), error.size) == ("it has 3", 3)


def test_classes_stay_as_they_are_here(pool: ProcessBackend) -> None:
    """Methods of a class are not replaced by copies of themselves when an instance comes back."""

    class Model:
        def fit(self) -> Model:
            return self

    fit = Model.__dict__["fit"]
    assert type(pool.dispatch(Model.fit, (Model(),)).result(_LIMIT_S)) is Model
    assert Model.__dict__["fit"] is fit


# --- large buffers


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("writable", [True, False])
def test_large_arrays_travel_as_they_are(single: ProcessBackend, order: Any, writable: bool) -> None:
    """Order, alignment and permission to write are the same there and back."""
    numpy = pytest.importorskip("numpy")
    array = numpy.asarray(numpy.random.default_rng(1).random((600, 700)), order=order)
    array.flags.writeable = writable
    look = lambda a: (a, a.flags.writeable, a.flags.aligned, a.flags.f_contiguous, a.sum())  # noqa: E731
    back, *found = single.dispatch(look, (array,)).result(_LIMIT_S)
    assert found == [writable, True, order == "F", array.sum()]
    assert (back == array).all()
    assert back.flags.writeable == writable


def test_large_buffers_are_written_once(pool: ProcessBackend) -> None:
    """The same content has one file, however many calls and shared values it belongs to; after the stop it has none."""
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(200_000.0)
    shared = pool.share(array)
    jobs = [pool.dispatch(lambda a, n: a[n], (each, 3)) for each in [array, array.copy(), shared, shared]]
    assert [job.result(_LIMIT_S) for job in jobs] == [3.0] * 4
    assert pool._pool is not None
    folder = Path(pool._pool.store.folder())
    assert len(list(folder.iterdir())) == 1
    shared.release()
    back = pool.dispatch(lambda a: a + 1, (array,)).result(_LIMIT_S)
    assert len(list(folder.iterdir())) == 1, "the file of a result goes as soon as it is mapped"
    pool.stop()
    assert not folder.exists()
    assert back[5] == 6.0


def test_frames_and_tables_travel(single: ProcessBackend) -> None:
    """Large frames of pandas and tables of arrow arrive equal."""
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": range(300_000), "b": [f"text {n}" for n in range(300_000)]})
    table = pyarrow.table({"a": list(range(300_000))})
    back, other = single.dispatch(lambda *both: both, (frame, table)).result(_LIMIT_S)
    pandas.testing.assert_frame_equal(back, frame)
    assert other.equals(table)


def test_large_objects_without_buffers_travel(single: ProcessBackend, give: Callable[[Any], Any]) -> None:
    """Long texts, bytes and lists do as well, also as shared values."""
    for value in ["text" * 500_000, b"bytes" * 500_000, list(range(400_000))]:
        assert single.dispatch(give, (value,)).result(_LIMIT_S) == value
        shared = single.share(value)
        assert single.dispatch(give, (shared,)).result(_LIMIT_S) == value
        shared.release()


def test_without_room_on_the_disk_buffers_travel_inline(
    single: ProcessBackend, give: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk makes calls slower, not wrong."""
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(400_000.0)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nbflow.backends.process.buffers.write_file", full)
    back = single.dispatch(give, (array,)).result(_LIMIT_S)
    assert (back == array).all()
    back[0] = 1


def test_shared_value_inside_an_argument_is_refused(single: ProcessBackend) -> None:
    """A shared value among the items of an argument would never be filled in."""
    shared = single.share(1)
    error = single.dispatch(abs, ([shared],)).exception(_LIMIT_S)
    assert isinstance(error, TransferError)
    assert error.path == "args[0][0]"
    shared.release()


# --- who runs what


def test_what_waits_behind_a_long_call_is_moved(pool: ProcessBackend, tmp_path: Path) -> None:
    """Calls that wait in the pipe of a busy worker are run by one that is idle."""
    long = pool.dispatch(waiter(tmp_path / "long"))
    short = pool.dispatch(waiter(tmp_path / "short"))
    behind = [pool.dispatch(abs, (-number,)) for number in range(4)]
    (tmp_path / "short").touch()
    assert [job.result(_LIMIT_S) for job in behind] == [0, 1, 2, 3]
    assert not long.done()
    (tmp_path / "long").touch()
    assert [long.result(_LIMIT_S), short.result(_LIMIT_S)] == ["long", "short"]


def test_what_waits_behind_a_dying_call_is_moved(single: ProcessBackend, tmp_path: Path) -> None:
    """Only the call that ran is lost with its worker, and the error names it."""

    def die() -> None:
        while not (tmp_path / "go").exists():
            threading.Event().wait(0.005)
        os.kill(os.getpid(), signal.SIGKILL)

    dying = single.dispatch(die, label="fit[3]")
    behind = [single.dispatch(abs, (-number,)) for number in range(5)]
    (tmp_path / "go").touch()
    assert [job.result(_LIMIT_S) for job in behind] == [0, 1, 2, 3, 4]
    error = dying.exception(_LIMIT_S)
    assert isinstance(error, WorkerLostError)
    assert (error.worker, error.exitcode) == ("process-1", -9)
    assert "fit[3]" in str(error)


def test_stopping_a_call_leaves_what_waits_behind_it(single: ProcessBackend, tmp_path: Path) -> None:
    """The worker of a stopped call is replaced, and the next calls run there."""
    heard = threading.Event()
    running = single.dispatch(waiter(tmp_path / "never"), listen=lambda _: heard.set())
    behind = [single.dispatch(abs, (-number,)) for number in range(5)]
    assert heard.wait(_LIMIT_S)
    assert behind[0].cancel()
    assert behind[1].cancel()
    assert behind[4].stop()
    assert running.stop()
    assert [job.result(_LIMIT_S) for job in behind[2:4]] == [2, 3]
    assert behind[0].cancelled()
    assert behind[1].cancelled()


def test_a_call_between_two_workers_can_be_withdrawn() -> None:
    """A call that no worker holds any more, or yet, has not begun: it is cancelled, and no worker gets it."""

    class PoolOfNone:
        forget = None

        def post(self, act: Any, argument: Any) -> None:
            """Do nothing."""

    class Holder:
        jobs = ()

        def offer(self, job: ProcessJob) -> bytes:
            job.holder = cast("Any", self)
            return b"sent"

        def take_back(self, job: ProcessJob) -> bool:
            return True

    job = ProcessJob(cast("Any", PoolOfNone()), 1, b"", [], None, "a call")
    first = cast("Any", Holder())
    assert job.offer_to(first) == b"sent"
    assert job.reclaim()
    assert job.cancel()
    assert job.cancelled()
    assert job.offer_to(first) is None


def test_stop_is_quick_and_ends_everything(pool: ProcessBackend, tmp_path: Path) -> None:
    """Stopping waits for no call; all jobs end, and no worker is left."""
    heard = threading.Semaphore(0)
    running = [pool.dispatch(waiter(tmp_path / "never"), listen=lambda _: heard.release()) for _ in range(2)]
    waiting = [pool.dispatch(abs, (-number,)) for number in range(10)]
    assert all(heard.acquire(timeout=_LIMIT_S) for _ in running)
    pool.stop()
    assert all(job.cancelled() for job in [*running, *waiting])


def _say_and_stay() -> None:
    tell(os.getpid())
    threading.Event().wait(_LIMIT_S)


def test_an_interrupt_in_the_middle_of_a_dispatch_stops_what_has_begun(single: ProcessBackend) -> None:
    """Nobody will ever know of the job, so its worker must not go on with it."""
    told: SimpleQueue[Any] = SimpleQueue()
    inner = single._running()
    post, queue, pids = inner.post, inner._queue.append, []

    def interrupted(act: Callable[[Any], object], argument: Any) -> None:
        post(act, argument)
        if act == queue:
            inner.post = post  # type: ignore[method-assign]
            pids.append(told.get(timeout=_LIMIT_S))
            raise KeyboardInterrupt

    inner.post = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        single.dispatch(_say_and_stay, listen=told.put)
    assert single.submit(os.getpid).result(_LIMIT_S) not in pids
