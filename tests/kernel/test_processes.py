"""Worker processes under a real kernel: code and classes of cells, prints in their cells, interrupts, dead workers."""

from __future__ import annotations

import time
from typing import Any

import pytest

SETUP = """
from tests.processes import is_running
import os, signal, sys, time, asyncio, threading
from pathlib import Path
from nbflow import task, session, map_tasks, gather_tasks, submit
from nbflow.sessions import current_session

started = Path("started"); started.mkdir(exist_ok=True)

@task
def slow(x):
    (started / f"{x}-{os.getpid()}").touch()
    print("began", flush=True)
    time.sleep(600)

@task
async def lazy(x):
    (started / f"{x}-{os.getpid()}").touch()
    print("began", flush=True)
    await asyncio.sleep(600)

@task(retries=1, timeout=500)
def stubborn(x):
    (started / f"{x}-{os.getpid()}").touch()
    print("began", flush=True)
    time.sleep(600)

def alive():
    found = []
    for file in started.iterdir():
        pid = int(file.name.partition("-")[2])
        if is_running(pid):
            found.append(pid)
    return found
"""

PROMPT_S = 3.0
"""How long an interrupt may take here: far less than the bodies do, far more than a loaded machine needs."""


CELLS = (
    "map_tasks(slow, range(50), backend='process')",
    "map_tasks(stubborn, range(50), backend='process')",
    "submit(slow.with_options(backend='process'), 1).get()",
    "await gather_tasks(lazy, range(5), backend='process')",
)


@pytest.fixture
def ready(start_kernel: Any) -> Any:
    kernel = start_kernel(env={"NBFLOW_MAX_PARALLEL_PROCESSES": "2"})
    kernel.ok(SETUP)
    return kernel


def _interrupted(kernel: Any, cell: str) -> None:
    sent: list[float] = []

    def stop() -> None:
        sent.append(time.monotonic())
        kernel.interrupt()

    result = kernel.run(cell, when=lambda found: "began" in found.stdout, then=stop)
    assert result.status == "error"
    assert time.monotonic() - sent[0] < PROMPT_S
    assert "KeyboardInterrupt" in result.traceback or "Cancelled" in result.traceback


@pytest.mark.kernel
def test_an_interrupt_ends_the_cell_and_its_workers_code(ready: Any) -> None:
    """After ■ the prompt is back at once, nothing runs on or begins, and the next cell works."""
    ready.ok("handlers = [signal.getsignal(n) for n in (2, 14)]")
    for cell in CELLS:
        ready.ok("[file.unlink() for file in started.iterdir()]")
        _interrupted(ready, cell)
        ready.ok("until = time.monotonic() + 2\nwhile alive() and time.monotonic() < until: time.sleep(0.02)")
        assert ready.value("alive()") == []
        count = ready.value("len(list(started.iterdir()))")
        assert ready.value("map_tasks(abs, [-1, 2], backend='process')") == [1, 2]
        assert ready.value("len(list(started.iterdir()))") == count
        assert ready.value("handlers == [signal.getsignal(n) for n in (2, 14)]") is True


@pytest.mark.kernel
def test_twenty_interrupts_in_a_row(ready: Any) -> None:
    """Interrupts that strike again and again leave the pool usable."""
    ready.ok("[file.unlink() for file in started.iterdir()]")
    for number in range(20):
        cell = ("map_tasks(slow, range(9), backend='process')", "map_tasks(stubborn, range(9), backend='process')")
        _interrupted(ready, cell[number % 2])
    assert ready.value("map_tasks(abs, range(-3, 1), backend='process')") == [3, 2, 1, 0]


@pytest.mark.kernel
def test_prints_land_in_the_cell_that_submitted_them(ready: Any) -> None:
    """A worker's prints are live, and stay with their cell when another one runs by then."""
    first = ready.ok(
        "@task(backend='process')\n"
        "def late(x):\n"
        "    print('one', flush=True)\n"
        "    while not Path('go').exists(): time.sleep(0.01)\n"
        "    print('two'); print('wrong', file=sys.stderr)\n"
        "    return x\n"
        "handle = submit(late, 4)\n"
        "until = time.monotonic() + 30\n"
        "while not handle.done() and time.monotonic() < until and not Path('seen').exists(): time.sleep(0.01)",
        when=lambda found: "one" in found.stdout,
        then=lambda: (ready.folder / "seen").touch(),
    )
    assert first.stdout == "one\n"
    second = ready.ok("Path('go').touch(); print('mine'); handle.get()")
    assert second.result == "4"
    assert "two" not in second.stdout
    assert second.stderr == ""
    third = ready.ok("map_tasks(lambda n: print('item', n), range(2), backend='process')")
    assert sorted(third.stdout.splitlines()) == ["item 0", "item 1"]


@pytest.mark.kernel
def test_functions_and_classes_of_cells(ready: Any) -> None:
    """What a cell defines reaches workers by value, results are of its classes, and an edit counts at once."""
    ready.ok(
        "class Point:\n    def __init__(self, x): self.x = x\n"
        "def step(): return 1\n"
        "@task\ndef move(p): return Point(p.x + step())"
    )
    assert ready.value(
        "[type(p) is Point and p.x for p in map_tasks(move, [Point(1), Point(5)], backend='process')]"
    ) == [
        2,
        6,
    ]
    ready.ok("def step(): return 100")
    assert ready.value("[p.x for p in map_tasks(move, [Point(1)], backend='process')]") == [101]
    ready.ok("class Point:\n    def __init__(self, x): self.x = -x")
    assert ready.value("[type(p) is Point and p.x for p in map_tasks(move, [Point(1)], backend='process')]") == [-99]


@pytest.mark.kernel
def test_a_killed_worker(ready: Any) -> None:
    """Killing a worker costs the kernel nothing: the item is run again, or named where it kills each one."""
    ready.ok(
        "@task\n"
        "def victim(x):\n"
        "    mark = Path(f'killed-{x}')\n"
        "    if x == 3 and not mark.exists():\n"
        "        mark.touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return x\n"
    )
    assert ready.value("map_tasks(victim, range(6), backend='process')") == [0, 1, 2, 3, 4, 5]
    result = ready.run("map_tasks(lambda x: os.kill(os.getpid(), signal.SIGKILL), [7], backend='process')")
    assert result.status == "error"
    assert "WorkerLostError" in result.traceback
    assert "killed by signal 9" in result.traceback
    assert ready.value("map_tasks(victim, range(2), backend='process')") == [0, 1]


@pytest.mark.kernel
def test_task_cells_keep_what_workers_print(ready: Any) -> None:
    """A `%%task` cell replays the prints of workers on a hit."""
    cell = "%%task printed\nfound = map_tasks(lambda n: print('from afar', n) or n, [8], backend='process')\nfound"
    first, second = ready.ok(cell), ready.ok(cell)
    assert first.stdout == second.stdout == "from afar 8\n"
    assert first.result == second.result == "[8]"
    assert second.badges
