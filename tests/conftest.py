"""What holds for every test: nothing is left behind, nothing of the user's own home is touched."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

import hypothesis
import pytest

from nbflow import sessions
from nbflow.cli.console import without_formats
from nbflow.runtime import current
from nbflow.settings import set_global_settings
from nbflow.testing import EventRecorder, FakeClock
from tests.processes import is_running

# How long something that was told to end may take to do so; on a loaded machine a thread needs its turn.
_GRACE_S = 5.0


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until all modules are there; see `pytest_collection_finish`
    # Read by jupyter_core when it is imported, hence before any test module is.
    os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")
    os.environ.setdefault("MPLBACKEND", "agg")
    with without_formats():  # else each process of the tests spends two seconds on a grammar
        import_module("nbformat")
    # The same examples in each run, so that a run speaks of the change at hand; `NBFLOW_LONG=1` looks for new ones.
    hypothesis.settings.register_profile("steady", derandomize=True)
    if not os.environ.get("NBFLOW_LONG"):
        hypothesis.settings.load_profile("steady")
    # A shell that starts a job in the background has it ignore interrupts, and many tests send themselves one.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, and leave out browser tests where there is no browser.

    Processes that share the tests take file by file, so a long one at the end would keep all but one waiting. That
    there is no browser can be made an error by `NBFLOW_REQUIRE_BROWSER=1`.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if os.environ.get("NBFLOW_REQUIRE_BROWSER"):
        return
    if find_spec("playwright") is None or not (shutil.which("chromium") or shutil.which("chromium-browser")):
        reason = "needs playwright and Chromium"
    elif "PYTEST_XDIST_WORKER" in os.environ:  # playwright keeps a loop running in the thread of the tests
        reason = "needs a process without other tests: python -m pytest tests/browser"
    else:
        return
    skip = pytest.mark.skip(reason=reason)
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what belongs to no test: all modules, and thousands of tests."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep kernels and stores that outlive a single test away from the user's home."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("NBFLOW_") and name != "NBFLOW_REQUIRE_BROWSER"]:
            patch.delenv(name)
        patch.setenv("NBFLOW_HOME", str(folder / ".nbflow"))
        patch.setenv("NBFLOW_KEY_FILE", str(folder / "key"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR") or os.path.expanduser("~/.cache/matplotlib"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))  # all but the fonts, which take seconds to find
        yield


@pytest.fixture(autouse=True)
def _isolated(_no_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test its own cache, key and settings."""
    # Python tells compiled code of a module that a test writes twice apart by size and whole seconds only.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("NBFLOW_HOME", str(tmp_path / ".nbflow"))
    monkeypatch.setenv("NBFLOW_KEY_FILE", str(tmp_path / "key"))
    set_global_settings(None)
    yield
    set_global_settings(None)


@pytest.fixture(autouse=True)
def _nothing_left(_isolated: None) -> Iterator[None]:
    """Fail a test that leaves a call, a session, a thread, a child process, an asyncio task or a comm behind."""
    threads, children, comms = set(threading.enumerate()), _children(), _comms()
    loops = {id(task.get_loop()) for task in _pending_tasks()}  # of a cluster that several tests share
    yield
    left: list[str] = []
    if (found := current.frame()) is not None:
        left.append(f"the current frame {found!r}")
        current.enter(None)
    if current.ambient.session is not None:
        left.append(f"the notebook's session {current.ambient.session!r}")
        sessions.close_notebook_session()
        current.ambient.session = None
    sessions.close_default_session()
    left += [f"the comm {comm}" for comm in _comms() - comms]
    deadline = monotonic() + _GRACE_S
    # What a loop in another thread does, such as that of fsspec, may still be on its way to its end.
    pending = _gone(lambda: {task for task in _pending_tasks() if id(task.get_loop()) not in loops}, deadline)
    left += [f"the asyncio task {task!r}" for task in pending]
    left += [f"the thread {thread.name!r}" for thread in threading.enumerate() if _lives(thread, threads, deadline)]
    if extra := _gone(lambda: _children() - children, deadline):
        left += [f"the process {pid} ({_command(pid)})" for pid in extra]
    if left:
        pytest.fail(f"This test leaves behind: {', '.join(left)}.", pytrace=False)


def _lives(thread: threading.Thread, before: set[threading.Thread], deadline: float) -> bool:
    """Whether a thread that a test started is still there at the deadline."""
    if thread in before or thread.name.startswith(("pytest_timeout", "pydevd", "IPythonHistorySavingThread")):
        return False
    pause = threading.Event()
    while True:
        try:
            thread.join(max(0.0, deadline - monotonic()))
            return thread.is_alive()
        except RuntimeError:  # it is listed before its first step is done
            if monotonic() > deadline:
                return True
            pause.wait(0.01)


def _gone(rest: Callable[[], set[Any]], deadline: float) -> set[Any]:
    """Return what is still there at the deadline."""
    pause = threading.Event()
    while (found := rest()) and monotonic() < deadline:
        pause.wait(0.01)
    return found


def _children() -> set[int]:
    """Return the ids of all descendants of this process that have not ended, but for multiprocessing's own servers."""
    if not sys.platform.startswith("linux"):
        import multiprocessing

        return {child.pid for child in multiprocessing.active_children() if child.pid is not None}
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            try:
                text = task.read_text()
            except OSError:
                continue  # it has ended meanwhile
            new = {int(pid) for pid in text.split()} - found
            found |= new
            waiting += new
    return {pid for pid in found if pid not in _servers() and is_running(pid)}


def _servers() -> set[int | None]:
    """Return the ids of the helpers that multiprocessing, nbflow and tests keep for the life of this process."""
    forkserver, tracker = (
        sys.modules.get("multiprocessing.forkserver"),
        sys.modules.get("multiprocessing.resource_tracker"),
    )
    nursery = getattr(sys.modules.get("nbflow.backends.process.nursery"), "_nursery", None)
    return {
        *getattr(sys.modules.get("tests.kernel.warm"), "pids", list)(),
        getattr(getattr(nursery, "process", None), "pid", None),
        getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None),
        getattr(getattr(tracker, "_resource_tracker", None), "_pid", None),
    }


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:120]
    except OSError:
        return "ended"


def _pending_tasks() -> list[Any]:
    """Return the tasks of loops that are not closed; asyncio keeps them in a set whose name has changed over time."""
    tasks = sys.modules.get("asyncio.tasks")
    known = getattr(tasks, "_scheduled_tasks", None) or getattr(tasks, "_all_tasks", ())
    for _ in range(1000):
        try:
            return [task for task in list(known) if not task.done() and not task.get_loop().is_closed()]
        except RuntimeError:  # the loop of another thread has just got one; `asyncio.all_tasks` looks again, too
            continue
    raise AssertionError("other loops never stop to make tasks")


def _comms() -> set[str]:
    """Return the ids of open comms: one behind each live widget."""
    comm = sys.modules.get("comm")
    return set() if comm is None else set(comm.get_comm_manager().comms)


@pytest.fixture
def fake_clock() -> FakeClock:
    """Return a clock that only moves when told to."""
    return FakeClock()


@pytest.fixture
def recorder() -> EventRecorder:
    """Return an observer that keeps every event."""
    return EventRecorder()
