"""AsyncFlow's real engine on nbflow's backends, the backends by themselves, and its backends under nbflow."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nbflow import map_tasks, session, task
from nbflow.backends import Backend
from nbflow.errors import BackendError, CommandError, DefinitionError, TaskError, TaskTimeoutError, WorkerLostError
from nbflow.events import LogLine, TaskCancelled, TaskCompleted, TaskStarted
from nbflow.integrations.asyncflow import (
    AsyncFlowBackend,
    LocalExecutionBackend,
    NbflowExecutionBackend,
    NoopExecutionBackend,
    StateMapper,
)
from nbflow.testing import EventRecorder
from nbflow.testing.backends import BackendContract
from tests.processes import is_running

asyncflow = pytest.importorskip("radical.asyncflow")

_LIMIT_S = 60.0
_PYTHON = sys.executable


def looped(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on a loop of its own, and look whether it left signal handlers of nbflow's."""
    import functools
    import inspect

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            async with asyncio.timeout(_LIMIT_S):
                await test(**fixtures)

        asyncio.run(main())

    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


@asynccontextmanager
async def engine(*backends: Any, folder: Path) -> AsyncIterator[Any]:
    """Return the real engine on these backends; it is shut down afterwards, and its signal handlers are removed."""
    flow = await asyncflow.WorkflowEngine.create(backend=list(backends), work_dir=str(folder))
    try:
        yield flow
    finally:
        await flow.shutdown()
        for name in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(name)


class Told:
    """A callback that keeps what it was told, and on which thread."""

    def __init__(self, backend: Any) -> None:
        self.states: list[tuple[str, str]] = []
        self.threads: set[int] = set()
        self.changed = asyncio.Event()
        backend.register_callback(self)

    def __call__(self, task: Any, state: str) -> None:
        self.states.append((task["uid"], state))
        self.threads.add(threading.get_ident())
        self.changed.set()

    async def until(self, uid: str, state: str) -> None:
        while (uid, state) not in self.states:
            self.changed.clear()
            await self.changed.wait()


def function_task(function: Any, *args: Any, uid: str = "task.1", **more: Any) -> dict[str, Any]:
    return {"uid": uid, "name": "work", "function": function, "args": args, "kwargs": {}, **more}


def command_task(*words: str, uid: str = "task.1", **more: Any) -> dict[str, Any]:
    return {"uid": uid, "name": "work", "function": None, "executable": words[0], "arguments": [*words[1:]], **more}


async def double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


# -- the real engine --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["local", "executor", "nbflow"])
@looped
async def test_engine(kind: str, tmp_path: Path) -> None:
    """Functions, commands, dependencies, failures and blocks work, on threads of ours and on an executor."""
    made: dict[str, Callable[[], Any]] = {
        "local": LocalExecutionBackend,
        "executor": lambda: LocalExecutionBackend(ThreadPoolExecutor(2)),
        "nbflow": lambda: NbflowExecutionBackend("thread", workers=2),
    }
    async with engine(await made[kind](), folder=tmp_path) as flow:

        @flow.function_task
        async def add(first: int, second: int) -> int:
            return first + second

        @flow.function_task
        async def fail() -> None:
            raise KeyError("no such thing")

        @flow.executable_task
        async def echo(text: str) -> str:
            return f"{_PYTHON} -c 'import sys; print(sys.argv[1])' '{text}'"

        @flow.block
        async def both() -> int:
            return int(await add(1, 1)) + int(await add(2, 2))

        future = add(add(1, 2), 3)
        assert await future == 6
        assert future.state == "DONE"
        assert await echo("it is $HOME; a b") == "it is $HOME; a b\n"
        assert await both() == 6
        with pytest.raises(KeyError, match="no such thing"):
            await fail()
        with pytest.raises(asyncflow.errors.DependencyFailureError):
            await add(fail(), 1)
        assert await asyncio.gather(*(add(n, n) for n in range(50))) == [2 * n for n in range(50)]
        assert flow.backend.tasks == {}


@looped
async def test_engine_runs_dry(tmp_path: Path) -> None:
    """The noop backend gives dummy output at once."""
    async with engine(NoopExecutionBackend(), folder=tmp_path) as flow:

        @flow.function_task
        async def work() -> int:
            raise AssertionError("it ran")

        @flow.prompt_task
        async def ask() -> str:
            return "why?"

        assert await work() == "Dummy Output"
        assert await ask() == "Dummy Prompt Output"


@looped
async def test_a_running_function_is_cancelled(tmp_path: Path) -> None:
    """Cancelling a thread task stops its body, and shutting down afterwards neither waits nor blocks the loop."""
    begun, ended = threading.Event(), threading.Event()
    async with engine(LocalExecutionBackend(), folder=tmp_path) as flow:

        @flow.function_task
        async def work() -> None:
            begun.set()
            try:
                while True:
                    threading.Event().wait(0.001)
            finally:
                ended.set()

        future = work()
        await asyncio.to_thread(begun.wait, _LIMIT_S)
        assert future.state == "RUNNING"
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert future.state == "CANCELLED"
        assert await asyncio.to_thread(ended.wait, _LIMIT_S)


FAMILY = (
    "import os, pathlib, subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "beside = pathlib.Path(sys.argv[1] + '.tmp')\n"
    "beside.write_text(f'{os.getpid()} {child.pid}')\n"
    "beside.rename(sys.argv[1])\n"
    "time.sleep(600)\n"
)


async def numbers_in(file: Path) -> list[int]:
    """Wait until the processes of `FAMILY` have told their numbers."""
    while not file.exists():
        await asyncio.sleep(0.01)
    return [int(word) for word in file.read_text().split()]


async def gone(pids: list[int]) -> None:
    while any(is_running(pid) for pid in pids):
        await asyncio.sleep(0.01)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
@looped
async def test_a_running_command_is_killed(tmp_path: Path) -> None:
    """Cancelling a command kills it and what it started, also when it was routed to another backend than the first."""
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    first, second = NbflowExecutionBackend(name="first"), LocalExecutionBackend(name="second")
    async with engine(first, second, folder=tmp_path) as flow:

        @flow.executable_task(backend="second")
        async def work(file: str) -> str:
            return f"{_PYTHON} {script} {file}"

        future = work(str(tmp_path / "pids"))
        pids = await numbers_in(tmp_path / "pids")
        assert all(is_running(pid) for pid in pids)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        await gone(pids)


@looped
async def test_cancel_reaches_the_backend_that_runs_the_task(tmp_path: Path) -> None:
    """The engine only asks its first backend; that one passes it on."""
    begun = threading.Event()
    first, second = LocalExecutionBackend(name="first"), NbflowExecutionBackend(name="second")
    async with engine(first, second, folder=tmp_path) as flow:

        @flow.function_task(backend="second")
        async def work() -> None:
            begun.set()
            await asyncio.sleep(600)

        future = work()
        await asyncio.to_thread(begun.wait, _LIMIT_S)
        assert len(second.tasks) == 1
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert second.tasks == {}
        assert await first.cancel_task("task.999999") is False


@looped
async def test_system_exit_is_a_failure(tmp_path: Path) -> None:
    """`SystemExit` in a task fails the task; the program goes on."""
    async with engine(LocalExecutionBackend(), folder=tmp_path) as flow:

        @flow.function_task
        async def leave() -> None:
            raise SystemExit(3)

        with pytest.raises(TaskError, match="raised SystemExit: 3"):
            await leave()


@looped
async def test_captured_output(tmp_path: Path) -> None:
    """With `capture_stdio` output goes to files in the engine's folder, and the result is their path."""
    async with engine(LocalExecutionBackend(), folder=tmp_path) as flow:

        @flow.executable_task(capture_stdio=True)
        async def work() -> str:
            return f"{_PYTHON} -c 'import sys; print(1); print(2, file=sys.stderr)'"

        path = Path(await work())
        assert path.parent == tmp_path / flow.uid
        assert (path.read_text(), path.with_suffix(".stderr").read_text()) == ("1\n", "2\n")


@looped
async def test_engine_shutdown_with_running_tasks(tmp_path: Path) -> None:
    """What still runs is stopped; the loop is free all the while; the backend can serve another engine."""
    begun = threading.Event()
    ticks: list[int] = []
    backend = LocalExecutionBackend()

    async def tick() -> None:
        while True:
            ticks.append(1)
            await asyncio.sleep(0.001)

    async with engine(backend, folder=tmp_path) as flow:

        @flow.function_task
        async def work() -> None:
            begun.set()
            while True:
                threading.Event().wait(0.001)

        future = work()
        await asyncio.to_thread(begun.wait, _LIMIT_S)
        ticking = asyncio.create_task(tick())
        await flow.shutdown()
        ticking.cancel()
        assert future.cancelled()
        assert len(ticks) > 5
    assert backend.state() == "SHUTDOWN"
    async with engine(backend, folder=tmp_path) as flow:

        @flow.function_task
        async def one() -> int:
            return 1

        assert await one() == 1


@looped
async def test_engine_on_processes(tmp_path: Path) -> None:
    """On processes a blocking task is killed, one that dies fails alone, and the next one runs."""
    async with engine(await NbflowExecutionBackend("process", workers=1), folder=tmp_path) as flow:

        @flow.function_task
        async def where() -> int:
            return os.getpid()

        @flow.function_task
        async def block() -> None:
            time.sleep(600)

        @flow.function_task
        async def die() -> None:
            os._exit(3)

        assert await where() != os.getpid()
        future = block()
        while getattr(future, "state", None) != "RUNNING":
            await asyncio.sleep(0.01)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future
        with pytest.raises(WorkerLostError):
            await die()
        assert await where() != os.getpid()


@looped
async def test_telemetry_of_the_engine(tmp_path: Path) -> None:
    """The engine's own counters are right, since RUNNING is always told."""
    pytest.importorskip("rhapsody")
    async with engine(await NbflowExecutionBackend(), folder=tmp_path) as flow:
        telemetry = await flow.start_telemetry()
        started: list[str] = []
        telemetry.subscribe(lambda event: started.append(event.event_type))

        @flow.function_task
        async def one() -> int:
            return 1

        await asyncio.gather(*(one() for _ in range(4)))
        while started.count("TaskCompleted") < 4:
            await asyncio.sleep(0.01)
        await telemetry.stop()
    assert started.count("TaskStarted") == 4
    counts = telemetry.summary()["tasks"]
    assert (counts["submitted"], counts["completed"], counts["running"]) == (4, 4, 0)


@looped
async def test_a_session_of_rhapsody(tmp_path: Path) -> None:
    """Sessions of Rhapsody, which use the same protocol, run on our backends too."""
    api = pytest.importorskip("rhapsody.api")
    backend = await NbflowExecutionBackend(name="ours")
    async with api.Session([backend], work_dir=str(tmp_path)) as found:
        tasks = [
            api.ComputeTask(function=lambda x: x + 1, args=(1,)),
            api.ComputeTask(executable="echo", arguments=["a b"]),
        ]
        await found.submit_tasks(tasks)
        await found.wait_tasks(tasks, timeout=_LIMIT_S)
    assert (tasks[0]["return_value"], tasks[1]["stdout"]) == (2, "a b\n")


@looped
async def test_calls_are_seen(tmp_path: Path, recorder: EventRecorder) -> None:
    """Tasks of the engine are calls, under their names, with what commands print."""
    with session(observers=[recorder]):
        async with engine(LocalExecutionBackend(), folder=tmp_path) as flow:

            @flow.function_task
            async def compute() -> int:
                return 1

            @flow.executable_task
            async def shout() -> str:
                return f"{_PYTHON} -c 'print(1)'"

            await compute()
            await shout()
    assert [event.name for event in recorder.of(TaskStarted)] == ["compute", "shout"]
    assert [event.name for event in recorder.of(TaskCompleted)] == ["compute", "shout"]
    assert [event.text for event in recorder.of(LogLine)] == ["1"]
    recorder.check()


# -- backends by themselves -------------------------------------------------------------------------------------------


@looped
async def test_states_are_told_on_the_loop() -> None:
    """RUNNING comes before the ending, once each, on the thread of the loop, for every way to end."""
    backend = await NbflowExecutionBackend(workers=2)
    told = Told(backend)
    await backend.submit_tasks(
        [
            function_task(double, 2, uid="good"),
            function_task(lambda: 1 // 0, uid="bad"),
            command_task(_PYTHON, "-c", "pass", uid="command"),
            command_task("no-such-program", uid="missing"),
        ]
    )
    for uid, state in (("good", "DONE"), ("bad", "FAILED"), ("command", "DONE"), ("missing", "FAILED")):
        await told.until(uid, state)
        assert [found for number, found in told.states if number == uid] == ["RUNNING", state]
    assert told.threads == {threading.get_ident()}
    await backend.shutdown()


@looped
async def test_outcomes_are_written_back() -> None:
    """Value, output, exit code and error are in the task when its ending is told."""
    async with NbflowExecutionBackend() as backend:
        tasks = [
            function_task(double, 2, uid="async"),
            function_task(lambda x, *, y: (x, y), 1, uid="sync", kwargs={"y": 2}),
            function_task(lambda: 1 // 0, uid="bad"),
            command_task(_PYTHON, "-c", "import sys; print(sys.argv[1:])", "a b", "$HOME", "it's", uid="command"),
            command_task(_PYTHON, "-c", "import sys; print(1); sys.exit('why')", uid="failing"),
            command_task("no-such-program", uid="missing"),
            {"uid": "prompt", "prompt": "why?", "function": None, "executable": None},
        ]
        jobs = await backend.submit_tasks(tasks)
        states = await asyncio.gather(*jobs)
    found = {task["uid"]: task for task in tasks}
    assert states == ["DONE", "DONE", "FAILED", "DONE", "FAILED", "FAILED", "FAILED"]
    assert (found["async"]["return_value"], found["async"]["stdout"], found["async"]["exit_code"]) == (4, "4", 0)
    assert found["sync"]["return_value"] == (1, 2)
    assert isinstance(found["bad"]["exception"], ZeroDivisionError)
    assert (found["bad"]["return_value"], found["bad"]["exit_code"]) == (None, 1)
    assert found["command"]["stdout"] == "['a b', '$HOME', \"it's\"]\n"
    assert (found["command"]["exit_code"], found["command"]["stderr"]) == (0, "")
    assert (found["failing"]["stdout"], found["failing"]["stderr"], found["failing"]["exit_code"]) == (
        "1\n",
        "why\n",
        1,
    )
    assert isinstance(found["failing"]["exception"], CommandError)
    assert found["missing"]["exit_code"] == 127
    assert isinstance(found["prompt"]["exception"], NotImplementedError)


@looped
async def test_arguments_of_tasks(tmp_path: Path) -> None:
    """Shell, folder, environment and timeout are honoured; others fail the task and name themselves."""
    code = "import os; print(os.getcwd(), sorted(os.environ)[:1])"
    async with NbflowExecutionBackend() as backend:
        tasks = [
            command_task("echo", "$((1 + 1))", "|", "cat", task_backend_specific_kwargs={"shell": True}),
            command_task(
                _PYTHON, "-c", code, uid="2", task_backend_specific_kwargs={"cwd": tmp_path, "env": {"AAA": "1"}}
            ),
            command_task(_PYTHON, "-c", "import time; time.sleep(600)", uid="3"),
            function_task(asyncio.sleep, 600, uid="4", task_backend_specific_kwargs={"timeout": 0.05}),
            function_task(double, 1, uid="5", task_backend_specific_kwargs={"ranks": 4}),
        ]
        tasks[2]["task_backend_specific_kwargs"] = {"timeout": 0.05}
        await asyncio.gather(*await backend.submit_tasks(tasks))
    assert tasks[0]["stdout"] == "2\n"
    assert tasks[1]["stdout"] == f"{tmp_path.resolve()} ['AAA']\n"
    assert isinstance(tasks[2]["exception"], TaskTimeoutError)
    assert isinstance(tasks[3]["exception"], TaskTimeoutError)
    assert "ranks: this backend's functions only take timeout" in str(tasks[4]["exception"])


@looped
async def test_context_variables() -> None:
    """A function sees the context variables of whoever submitted it."""
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")
    who.set("me")
    async with NbflowExecutionBackend() as backend:
        work = function_task(who.get)
        await asyncio.gather(*await backend.submit_tasks([work]))
    assert work["return_value"] == "me"


@looped
async def test_cancelling(recorder: EventRecorder) -> None:
    """A task that waits, one that was just submitted, and one that runs are cancelled; others are not found."""
    begun = threading.Event()

    def block() -> None:
        begun.set()
        while True:
            threading.Event().wait(0.001)

    with session(observers=[recorder]):
        backend = await NbflowExecutionBackend(workers=1)
        told = Told(backend)
        await backend.submit_tasks([function_task(block, uid="runs"), function_task(double, 1, uid="waits")])
        await asyncio.to_thread(begun.wait, _LIMIT_S)
        await backend.submit_tasks([function_task(double, 1, uid="new")])
        assert await backend.cancel_task("new") is True
        assert await backend.cancel_task("waits") is True
        assert await backend.cancel_task("runs") is True
        assert await backend.cancel_task("runs") is False
        assert [uid for uid, state in told.states if state == "CANCELED"] == ["new", "waits", "runs"]
        assert backend.tasks == {}
        await backend.submit_tasks([function_task(block, uid=str(number)) for number in range(3)])
        assert await backend.cancel_all_tasks() == 3
        assert await backend.cancel_all_tasks() == 0
        await backend.shutdown()
    assert {event.reason for event in recorder.of(TaskCancelled)} == {"asyncflow"}
    recorder.check()


@looped
async def test_life() -> None:
    """A backend starts by being awaited, entered or used, says how it is, and takes nothing after its end."""
    backend = NbflowExecutionBackend()
    assert backend.state() == "IDLE"
    assert await backend is backend
    assert backend.state() == "INITIALIZED"
    [job] = await backend.submit_tasks([function_task(double, 1)])
    assert backend.state() == "RUNNING"
    assert await job == "DONE"
    await backend.shutdown()
    await backend.shutdown()
    assert backend.state() == "SHUTDOWN"
    late = function_task(double, 1)
    await asyncio.gather(*await backend.submit_tasks([late]))
    assert "was shut down" in str(late["exception"])
    executor = ThreadPoolExecutor(1)
    local = await LocalExecutionBackend.create(executor)
    assert local.executor is executor
    await local.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(len, [])


def test_what_the_engine_expects() -> None:
    """Names, states and hooks are those of the protocol."""
    backend = NoopExecutionBackend("dry")
    assert (backend.name, backend.state(), backend.attached_to, backend.is_attached) == ("dry", "IDLE", [], False)
    states = backend.get_task_states_map()
    assert isinstance(states, StateMapper)
    assert (states.DONE, states.RUNNING, states.CANCELED, states.FAILED) == ("DONE", "RUNNING", "CANCELED", "FAILED")
    assert states.terminal_states == {"DONE", "CANCELED", "FAILED"}
    assert backend.build_task("1", {}, {}) is None  # type: ignore[func-returns-value]
    assert backend.link_implicit_data_deps({}, {}) is None  # type: ignore[func-returns-value]
    assert backend.link_explicit_data_deps() is None  # type: ignore[func-returns-value]
    assert asyncio.run(backend.cancel_task("1")) is False
    assert asyncio.run(backend.cancel_all_tasks()) == 0
    asyncio.run(backend.shutdown())


def test_wrong_options() -> None:
    """What is no executor, no number of workers, or no backend is refused."""
    with pytest.raises(TypeError, match="is no executor"):
        LocalExecutionBackend(3)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="workers=-1"):
        NbflowExecutionBackend(workers=-1)
    with pytest.raises(DefinitionError, match="has no effect"):
        NbflowExecutionBackend(ThreadPoolExecutor(), workers=2)
    with pytest.raises(DefinitionError, match="has no method 'submit_tasks'"):
        AsyncFlowBackend(3)


@looped
async def test_a_callback_that_raises(capfd: pytest.CaptureFixture[str]) -> None:
    """It is reported, and breaks nothing."""

    def callback(task: Any, state: str) -> None:
        raise LookupError("where?")

    async with NbflowExecutionBackend() as backend:
        backend.register_callback(callback)
        work = function_task(double, 4)
        await asyncio.gather(*await backend.submit_tasks([work]))
    assert work["return_value"] == 8
    assert "raised LookupError: where? for task.1 DONE" in capfd.readouterr().err


# -- the other way round ----------------------------------------------------------------------------------------------


class OnTheirs(AsyncFlowBackend):
    """Their local backend as one that a manager can make."""

    def __init__(self) -> None:
        executor: Executor = ThreadPoolExecutor(2)
        super().__init__(asyncflow.LocalExecutionBackend(executor), own=True)


class TestContract(BackendContract):
    """A backend of AsyncFlow keeps the promises of one of nbflow's."""

    @pytest.fixture
    def backend_class(self) -> type[Backend]:
        """Return the class to test."""
        return OnTheirs


def test_maps_on_theirs() -> None:
    """A map runs on their backend; failures come back with their own type."""

    @task
    def work(x: int) -> int:
        if x == 7:
            raise KeyError(x)
        return x + os.getpid() * 0

    theirs = AsyncFlowBackend(asyncflow.LocalExecutionBackend(ThreadPoolExecutor(2)), own=True)
    with session():
        assert map_tasks(work, range(5), backend=theirs) == [0, 1, 2, 3, 4]
        with pytest.raises(KeyError, match="7"):
            map_tasks(work, range(10), backend=theirs)


def test_maps_on_rhapsody() -> None:
    """Backends of Rhapsody serve as well."""
    theirs = pytest.importorskip("rhapsody.backends.execution.concurrent")
    backend = AsyncFlowBackend(theirs.ConcurrentExecutionBackend(ThreadPoolExecutor(2)), own=True)
    with session(backend=backend):
        assert map_tasks(lambda x: x * x, range(5)) == [0, 1, 4, 9, 16]


def test_theirs_that_cannot_start() -> None:
    """Why it cannot be started is said."""

    class Broken:
        def __await__(self) -> Any:
            raise OSError("no licence")
            yield

        def submit_tasks(self, tasks: Any) -> None: ...
        def register_callback(self, func: Any) -> None: ...

    backend = AsyncFlowBackend(Broken())
    with pytest.raises(BackendError, match="The Broken could not be started: OSError: no licence"):
        backend.start()
