"""Backends for AsyncFlow's `WorkflowEngine`, with the methods that it calls and those that users of its own expect.

States are told on the thread of the loop, RUNNING before any ending; a task that is cancelled is stopped wherever it
runs, a command with everything that it started. Nothing blocks the loop, and no signal handler is installed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from functools import lru_cache
from typing import Any, ClassVar

from nbflow._util import one_line, report
from nbflow.core.spec import kind_of
from nbflow.engine import Runtime
from nbflow.errors import CommandError, DefinitionError, TaskCancelledError, TaskError
from nbflow.handles import TaskHandle
from nbflow.integrations.asyncflow.calls import call_coroutine, call_function
from nbflow.runtime import drivers
from nbflow.runtime.current import Call, current_call
from nbflow.sessions import session_or_default
from nbflow.shell.execute import ShellResult, execute_async
from nbflow.shell.process import Program
from nbflow.tasks import task as make_task

__all__ = ["LocalExecutionBackend", "NbflowExecutionBackend", "NoopExecutionBackend", "StateMapper"]

_LEAVE_S = 2.0
"""How long cancelled tasks are waited for; code that cannot be stopped is left behind sooner than that."""


class StateMapper:
    """The states of a task, by the names that the engine uses."""

    DONE = "DONE"
    RUNNING = "RUNNING"
    CANCELED = "CANCELED"
    FAILED = "FAILED"
    terminal_states: ClassVar[frozenset[str]] = frozenset({"DONE", "CANCELED", "FAILED"})


class NoopExecutionBackend:
    """Runs nothing: every task is done at once, with dummy output. For trying out the logic of a workflow.

    Args:
        name: Name of the backend in its engine.

    Attributes:
        tasks: The tasks that have not ended, by uid.
        is_attached: Whether an engine has taken it.
        attached_to: The uids of the engines that did, the latest one last.
    """

    supports_implicit_data_linking = False
    supports_explicit_data_linking = False

    def __init__(self, name: str = "default") -> None:
        self.name = name
        self.tasks: dict[str, dict[str, Any]] = {}
        self.is_attached = False
        self.attached_to: list[str] = []
        self._work_dir = os.getcwd()
        self._callback: Callable[[Any, str], object] = _nobody

    def state(self) -> str:
        """Return the state of the backend: "IDLE"."""
        return "IDLE"

    def register_callback(self, func: Callable[[Any, str], object]) -> None:
        """Call `func(task, state)` when the state of a task changes, on the loop that it was submitted on."""
        self._callback = func

    def get_task_states_map(self) -> StateMapper:
        """Return the names of states."""
        return StateMapper()

    def task_state_cb(self, task: dict[str, Any], state: str) -> None:
        """Tell who registered a callback that a task has a new state; what that raises is reported."""
        try:
            self._callback(task, state)
        except Exception as error:
            report(f"The callback of backend {self.name!r} raised {one_line(error)} for {task.get('uid')} {state}.")

    def build_task(self, uid: str, task_desc: dict[str, Any], task_specific_kwargs: dict[str, Any]) -> None:
        """Prepare a task: there is nothing to do, tasks are taken as they are."""

    def link_implicit_data_deps(self, src_task: dict[str, Any], dst_task: dict[str, Any]) -> None:
        """Link the data of two tasks: there is nothing to do, they see the same files."""

    def link_explicit_data_deps(
        self,
        src_task: dict[str, Any] | None = None,
        dst_task: dict[str, Any] | None = None,
        file_name: str | None = None,
        file_path: str | None = None,
    ) -> None:
        """Link a file to a task: there is nothing to do, tasks see the same files."""

    async def submit_tasks(self, tasks: list[dict[str, Any]]) -> Any:
        """Mark all tasks as done, with dummy output."""
        for task in tasks:
            text = "Dummy Prompt Output" if task.get("prompt") else "Dummy Output"
            self.task_state_cb(task, StateMapper.RUNNING)
            task.update(stdout=text, return_value=text)
            self.task_state_cb(task, StateMapper.DONE)

    async def cancel_task(self, uid: str) -> bool:
        """Cancel a task: none is ever running, so this returns False."""
        return False

    async def cancel_all_tasks(self) -> int:
        """Cancel all tasks and return how many: none."""
        return 0

    async def shutdown(self) -> None:
        """End the backend: it holds nothing."""


class NbflowExecutionBackend(NoopExecutionBackend):
    """Runs tasks on any backend of nbflow, as calls that observers and the panel see.

    Functions, sync and async, run in the backend's workers; commands are run from the loop, as argument lists, with
    `shell`, `cwd`, `env` and `timeout` (seconds) as their backend-specific arguments. Functions take `timeout`.

    Args:
        backend: Name of a backend, a `Backend`, an executor, or a Dask client.
        name: Name of the backend in its engine.
        workers: How many functions run at a time, where the backend is named; 0 for as many as it likes.

    Raises:
        DefinitionError: `workers` is no number of workers.
    """

    def __init__(self, backend: Any = "thread", name: str = "nbflow", *, workers: int = 0) -> None:
        super().__init__(name)
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise DefinitionError(f"workers={workers!r} must be a whole number ≥ 0; 0 leaves it to the backend.")
        if workers and not isinstance(backend, str):
            raise DefinitionError(f"workers={workers} has no effect with backend={backend!r}; leave it out.")
        self._backend = backend
        self._workers = workers or (min(32, (os.cpu_count() or 1) + 4) if isinstance(backend, str) else 0)
        self._state = "IDLE"
        self._runtime: Runtime | None = None
        self._making = asyncio.Lock()
        self._jobs: dict[str, asyncio.Task[str]] = {}

    # -- life -----------------------------------------------------------------------------------------------------

    @classmethod
    async def create(cls, *args: Any, **kwargs: Any) -> Any:
        """Make a backend and await its start."""
        return await cls(*args, **kwargs)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._started().__await__()

    async def __aenter__(self) -> Any:
        return await self._started()

    async def __aexit__(self, *exc: object) -> None:
        await self.shutdown()

    async def _started(self) -> Any:
        await self._ready()
        return self

    async def _ready(self) -> Runtime:
        """Return the runtime, made off the loop: some backends take a while to start."""
        async with self._making:
            if self._runtime is None:
                self._runtime = await asyncio.to_thread(Runtime, self._workers, backend=self._backend)
                self._state = "INITIALIZED"
            return self._runtime

    def state(self) -> str:
        """Return the state of the backend: IDLE (not started), INITIALIZED, RUNNING or SHUTDOWN."""
        return "RUNNING" if self._jobs else self._state

    def register_callback(self, func: Callable[[Any, str], object]) -> None:
        """Call `func(task, state)` when the state of a task changes; a backend that was shut down can be used again."""
        super().register_callback(func)
        if self._state == "SHUTDOWN":
            self._state = "IDLE"

    async def shutdown(self) -> None:
        """Cancel what runs and stop the backend; bounded in time, off the loop, idempotent."""
        self._state = "SHUTDOWN"
        await self.cancel_all_tasks()
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            await asyncio.to_thread(runtime.shutdown, False)

    # -- tasks ----------------------------------------------------------------------------------------------------

    async def submit_tasks(self, tasks: list[dict[str, Any]]) -> list[asyncio.Task[str]]:
        """Start tasks, and return an `asyncio.Task` for each; a task that cannot run fails, and only that one."""
        return [self._begin(task) for task in tasks]

    def _begin(self, task: dict[str, Any]) -> asyncio.Task[str]:
        uid = task["uid"]
        job = asyncio.create_task(self._perform(task), name=f"nbflow-{uid}")
        self.tasks[uid], self._jobs[uid] = task, job

        def ended(job: asyncio.Task[str]) -> None:  # also if it was cancelled before its first step
            if self._jobs.get(uid) is job:
                del self._jobs[uid], self.tasks[uid]
            self.task_state_cb(task, StateMapper.CANCELED if job.cancelled() else job.result())

        job.add_done_callback(ended)
        return job

    async def cancel_task(self, uid: str) -> bool:
        """Cancel a task, and wait until it has ended.

        The engine asks its default backend only; a task of another one is looked for among the engine's backends.

        Returns:
            False if no such task is running.
        """
        job = self._jobs.get(uid)
        if job is None:
            others = getattr(getattr(self._callback, "__self__", None), "_backends", {})
            for other in [found for found in others.values() if found is not self and uid in _running_in(found)]:
                return bool(await other.cancel_task(uid))
            return False
        job.cancel()
        await asyncio.wait([job], timeout=_LEAVE_S)
        return True

    async def cancel_all_tasks(self) -> int:
        """Cancel every task that has not ended, wait until they have, and return how many there were."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        if jobs:
            await asyncio.wait(jobs, timeout=_LEAVE_S)
        return len(jobs)

    async def _perform(self, task: dict[str, Any]) -> str:
        """Run a task, write into it what came of it, and return its last state."""
        try:
            if self._state == "SHUTDOWN":
                raise TaskError(f"Backend {self.name!r} was shut down; make another one.")
            if task.get("prompt"):
                raise NotImplementedError(
                    f"Backend {self.name!r} runs functions and commands, no prompts; register a backend that does, and "
                    "name it in prompt_task(backend=...)."
                )
            if task.get("function"):
                return await self._run_function(task)
            return await self._run_command(task)
        except CommandError as error:
            code = vars(error)["returncode"]
            task.update(return_value=None, exit_code=127 if code is None else code, exception=error)
            task.setdefault("stdout", None)
            task["stderr"] = task.get("stderr") or str(error)
        except Exception as error:
            task.update(return_value=None, stdout=None, stderr=str(error), exit_code=1, exception=error)
        return StateMapper.FAILED

    async def _run_function(self, task: dict[str, Any]) -> str:
        timeout = _arguments(task, ("timeout",)).get("timeout")
        runtime = await self._ready()
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        shown: list[str] = []

        def on_loop(func: Callable[..., object], *args: Any) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(func, *args)

        def ended(handle: TaskHandle[Any]) -> None:
            if handle.exception is None:
                shown.append(_text(handle.get()))  # here: the loop has better things to do
            on_loop(over.set)

        begun: Callable[[], None] | None = None
        if runtime.local:
            begun = lambda: on_loop(self.task_state_cb, task, StateMapper.RUNNING)  # noqa: E731
        else:
            self.task_state_cb(task, StateMapper.RUNNING)
        caller = _caller(kind_of(task["function"]).is_async, _name(task).translate(_PLAIN))
        if timeout is not None:
            caller = caller.with_options(timeout=timeout)
        args, kwargs = tuple(task.get("args") or ()), dict(task.get("kwargs") or {})
        handle = runtime.submit(caller, task["function"], args, kwargs, begun, name=_name(task))
        handle.add_done_callback(ended)
        try:
            await over.wait()
        except asyncio.CancelledError:
            handle.cancel("asyncflow")
            await over.wait()
            raise
        error = handle.exception
        if error is None:
            task.update(return_value=handle.get(), stdout=shown[0], stderr="", exit_code=0)
            return StateMapper.DONE
        if isinstance(error, TaskCancelledError):
            return StateMapper.CANCELED
        if isinstance(error, StopIteration) or not isinstance(error, Exception):  # no future takes these
            raise TaskError(f"Task {_name(task)!r} raised {one_line(error)}.", task=_name(task)) from error
        raise error

    async def _run_command(self, task: dict[str, Any]) -> str:
        given = _arguments(task, ("cwd", "env", "shell", "timeout"))
        args = [str(task["executable"]), *(str(arg) for arg in task.get("arguments") or ())]
        if given.get("shell"):
            args = ["cmd", "/c", " ".join(args)] if os.name == "nt" else ["/bin/sh", "-c", " ".join(args)]
        files: dict[str, str] = {}
        if task.get("capture_stdio"):
            os.makedirs(self._work_dir, exist_ok=True)
            files = {stream: os.path.abspath(f"{self._work_dir}/{task['uid']}.{stream}") for stream in _STREAMS}
        cwd = None if given.get("cwd") is None else os.fspath(given["cwd"])
        program = Program(
            args=tuple(args), cwd=cwd, env=given.get("env"), stdout=files.get("stdout"), stderr=files.get("stderr")
        )
        self.task_state_cb(task, StateMapper.RUNNING)
        call = Call(_command.spec, session_or_default(), current_call(), (program, given.get("timeout")), {})
        call._name = _name(task)
        try:
            result: ShellResult = await drivers.drive_async(call)
        except CommandError as error:
            task.update({stream: files.get(stream, getattr(error, stream)) for stream in _STREAMS})
            raise
        task.update({stream: files.get(stream, getattr(result, stream)) for stream in _STREAMS})
        task.update(return_value=None, exit_code=result.returncode)
        return StateMapper.DONE


class LocalExecutionBackend(NbflowExecutionBackend):
    """Runs tasks on this machine: in nbflow's threads, or in an executor of yours, which is then shut down with it.

    Args:
        executor: A `concurrent.futures` executor; None for threads of nbflow's own.
        name: Name of the backend in its engine.

    Raises:
        DefinitionError: `executor` is none. (It is a TypeError too.)
    """

    def __init__(self, executor: Executor | None = None, name: str = "default") -> None:
        if executor is not None and not isinstance(executor, Executor):
            raise DefinitionError(f"{executor!r} is no executor; give one of concurrent.futures, or None.")
        super().__init__("thread" if executor is None else executor, name)
        self.executor = executor

    async def shutdown(self) -> None:
        """Cancel what runs and shut the executor down, without waiting for code that cannot be stopped."""
        await super().shutdown()
        if self.executor is not None:
            await asyncio.to_thread(self.executor.shutdown, wait=False, cancel_futures=True)


_STREAMS = ("stdout", "stderr")


@make_task(name="command")
async def _command(program: Program, timeout: float | None) -> ShellResult:
    __tracebackhide__ = True
    return await execute_async(program, timeout, check=True)


def _arguments(task: dict[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """Return the backend-specific arguments of a task; what cannot be honoured is an error."""
    given = dict(task.get("task_backend_specific_kwargs") or {})
    if unknown := sorted(given.keys() - set(known)):
        kind = "functions" if task.get("function") else "commands"
        raise DefinitionError(f"{', '.join(unknown)}: this backend's {kind} only take {', '.join(known)}.")
    return given


_PLAIN = str.maketrans(".{}", "-()")
"""Characters that mean something in the name of a task of ours, and what stands for them."""


@lru_cache(maxsize=256)
def _caller(is_async: bool, name: str) -> Any:
    """Return the task that calls a function of that kind; to make one takes longer than to run it."""
    return (call_coroutine if is_async else call_function).with_options(name=name)


def _name(task: dict[str, Any]) -> str:
    return str(task.get("name") or task["uid"])


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__}, whose text cannot be had: {one_line(error)}>"


def _running_in(backend: Any) -> Any:
    return getattr(backend, "tasks", None) or ()


def _nobody(task: Any, state: str) -> None:
    """Stand in for a callback that nobody registered."""
