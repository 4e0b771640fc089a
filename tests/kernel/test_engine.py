"""A runtime, commands, and AsyncFlow's engine in a real kernel: interrupts end what runs, and the next cell works."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import pytest

SETUP = """
from tests.processes import is_running
import asyncio, os, sys, threading, time
from nbflow import Runtime, shell, submit

rt = Runtime(python_threads=2)

def slow():
    print("began", flush=True)
    for _ in range(600):
        time.sleep(0.05)

def nap():
    for _ in range(600):
        time.sleep(0.05)

def announce(name):
    # Print "began" as soon as the main thread waits in a function of that name.
    main = threading.main_thread().ident

    def look():
        names = []
        while not (name in names and names[0] in ("wait", "_wait")):
            time.sleep(0.001)
            frame, names = sys._current_frames()[main], []
            while frame is not None:
                names.append(frame.f_code.co_name)
                frame = frame.f_back
        print("began", flush=True)

    threading.Thread(target=look, daemon=True).start()

def pids(path):
    while not (os.path.exists(path) and open(path).read().endswith("\\n")):
        time.sleep(0.01)
    return int(open(path).read())

CODE = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'w'), flush=True); time.sleep(600)"
sleeper = shell.command([sys.executable, "-c", CODE, "{path}"], name="sleeper")
"""

PROMPT_S = 3.0
"""How long an interrupt may take here: far less than the 30 s of the bodies, far more than a loaded machine needs."""


@pytest.fixture(scope="module")
def ready(shared: Any) -> Any:
    shared.ok(SETUP)
    return shared


def interrupted(kernel: Any, cell: str) -> None:
    """Run a cell, interrupt it when it has printed "began", and look whether the prompt is back in time."""
    sent: list[float] = []

    def stop() -> None:
        sent.append(time.monotonic())
        kernel.interrupt()

    result = kernel.run(cell, when=lambda found: "began" in found.stdout, then=stop)
    assert result.status == "error"
    assert "KeyboardInterrupt" in result.traceback or "Cancelled" in result.traceback
    assert time.monotonic() - sent[0] < PROMPT_S


@pytest.mark.kernel
def test_interrupt_while_waiting_for_all(ready: Any) -> None:
    """What was waited for is cancelled, queued or running, and the runtime works on."""
    interrupted(ready, "handles = [rt.submit(nap) for _ in range(5)]\nannounce('wait_all')\nrt.wait_all()")
    ready.ok("rt.wait_all()")
    assert ready.value("[handle.cancelled() for handle in handles]") == [True] * 5
    assert ready.value("rt.submit(len, [1, 2]).get()") == 2


@pytest.mark.kernel
@pytest.mark.parametrize(
    "cell",
    [
        "h = submit(sleeper, 'a'); pid = pids('a'); announce('get'); h.get()",
        "t = asyncio.create_task(shell.run_async([sys.executable, '-c', CODE, 'b']))\n"
        "pid = await asyncio.to_thread(pids, 'b')\nprint('began', flush=True)\nawait t",
    ],
)
def test_interrupted_commands_are_gone(ready: Any, cell: str) -> None:
    """A command that a cell waits for ends with the interrupt, whether the cell awaits or blocks."""
    interrupted(ready, cell)
    ready.ok("while is_running(pid):\n    time.sleep(0.01)")


@pytest.mark.kernel
@pytest.mark.skipif(importlib.util.find_spec("radical") is None, reason="needs radical.asyncflow")
def test_asyncflow(kernel: Any) -> None:
    """The engine runs on the kernel's loop, and a task can be cancelled by a later cell."""
    kernel.ok(SETUP)
    kernel.ok(
        "import warnings; warnings.simplefilter('ignore')\n"
        "from radical.asyncflow import WorkflowEngine\n"
        "from nbflow.integrations.asyncflow import NbflowExecutionBackend\n"
        "flow = await WorkflowEngine.create(backend=await NbflowExecutionBackend())\n"
        "@flow.function_task\nasync def work(x):\n    return 2 * x\n"
        "@flow.function_task\nasync def block():\n    time.sleep(0.01)\n    while True:\n        time.sleep(0.01)"
    )
    assert kernel.ok("print(await work(work(2)))").stdout.splitlines()[-1] == "8"
    kernel.ok("f = block()\nwhile getattr(f, 'state', '') != 'RUNNING':\n    await asyncio.sleep(0.01)")
    kernel.ok("f.cancel()\ntry:\n    await f\nexcept asyncio.CancelledError:\n    print(f.state)")
    assert kernel.value("f.state") == "CANCELLED"
    assert kernel.ok("print(await work(5))").stdout.splitlines()[-1] == "10"
    kernel.ok("await flow.shutdown()")
