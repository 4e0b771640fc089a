"""Calls, sessions and interrupts in a real kernel."""

from __future__ import annotations

import time
from typing import Any

import pytest

SETUP = """
import asyncio, threading, time
from nbflow import task, session, map_tasks, gather_tasks, submit
began, ended = [], []

@task
def slow(x):
    began.append(x)
    print("began", flush=True)
    for _ in range(600):
        time.sleep(0.05)
    ended.append(x)

@task
async def lazy(x):
    began.append(x)
    print("began", flush=True)
    await asyncio.sleep(30)
    ended.append(x)
"""

PROMPT_S = 3.0
"""How long an interrupt may take here: far less than the 30 s of the bodies, far more than a loaded machine needs."""


@pytest.fixture(scope="module")
def ready(shared: Any) -> Any:
    shared.ok(SETUP)
    return shared


@pytest.mark.kernel
@pytest.mark.parametrize(
    "cell",
    [
        "slow(1)",
        "map_tasks(slow, range(50))",
        "map_tasks(slow, range(50), backend='thread')",
        "submit(slow, 1).get()",
        "await lazy(1)",
        "await gather_tasks(lazy, range(5))",
        "await gather_tasks(lazy, range(5), concurrency=1)",
        "await gather_tasks(lazy, range(5), backend='thread')",
    ],
)
def test_an_interrupt_ends_the_cell_and_leaves_nothing_running(ready: Any, cell: str) -> None:
    """After ■ the prompt is back at once, no body goes on or starts, and the next cell works."""
    ready.ok("began.clear(); ended.clear()")
    sent: list[float] = []

    def stop() -> None:
        sent.append(time.monotonic())
        ready.interrupt()

    result = ready.run(cell, when=lambda found: "began" in found.stdout, then=stop)
    assert result.status == "error"
    assert time.monotonic() - sent[0] < PROMPT_S
    assert "KeyboardInterrupt" in result.traceback or "Cancelled" in result.traceback
    count = ready.value("len(began)")
    assert ready.value("1 + 1") == 2
    busy = "[t.name for t in threading.enumerate() if t.name.startswith('nbflow-loop')]"
    assert ready.value(busy) == []
    assert ready.value("(len(began), ended)") == (count, [])


@pytest.mark.kernel
def test_interrupts_while_a_map_hands_out_its_work_leave_the_pool_usable(ready: Any) -> None:
    """An interrupt that strikes in the middle of a submission must not leave the pool locked."""
    for _ in range(12):
        for cell in ("map_tasks(slow, range(50), backend='thread')", "submit(slow, 1).get()"):
            assert ready.run(cell, when=lambda found: "began" in found.stdout, then=ready.interrupt).status == "error"
    assert ready.value("submit(abs, -7).get()") == 7


@pytest.mark.kernel
@pytest.mark.parametrize("wait", ["time.sleep(30)", "await asyncio.sleep(30)"])
def test_an_interrupt_that_strikes_in_a_destructor_is_not_lost(ready: Any, wait: str) -> None:
    """Python drops what is raised there, and a collection of garbage is where many an interrupt is first noticed."""
    ready.ok("import signal\nclass Late:\n    def __del__(self): signal.raise_signal(signal.SIGINT)")
    sent = time.monotonic()
    result = ready.run(f"Late()\n{wait}")
    assert result.status == "error"
    assert "ignored" not in result.stderr
    assert time.monotonic() - sent < 10
    assert ready.value("1 + 1") == 2


@pytest.mark.kernel
def test_a_session_opened_in_an_awaiting_cell_is_there_in_the_next_one(kernel: Any) -> None:
    """A context variable set after an await is lost to the next cell; the session must not be."""
    kernel.ok(
        "import asyncio\nfrom nbflow import session\nfrom nbflow.sessions import current_session\n"
        "outer = current_session()\nawait asyncio.sleep(0)\n"
        "opened = session(backend='thread'); inner = opened.__enter__()"
    )
    assert kernel.value("current_session() is inner")
    assert kernel.value("current_session().backend") == "thread"
    kernel.ok("await asyncio.sleep(0)\nopened.__exit__(None, None, None)")
    assert kernel.value("current_session() is outer")


@pytest.mark.kernel
def test_a_session_opened_in_a_plain_cell_can_be_closed_in_an_awaiting_one(kernel: Any) -> None:
    """Whatever kind of cell closes it, the session is gone afterwards, and calls go to the one around it."""
    kernel.ok(
        "import asyncio\nfrom nbflow import session, task\nfrom nbflow.sessions import current_session\n"
        "outer = current_session()\nopened = session(); inner = opened.__enter__()"
    )
    assert kernel.value("current_session() is inner")
    kernel.ok("await asyncio.sleep(0)\nopened.__exit__(None, None, None)")
    assert kernel.value("current_session() is outer")
    kernel.ok("@task\ndef one(): return current_session() is outer")
    assert kernel.value("one()") is True


@pytest.mark.kernel
def test_coroutines_run_from_plain_cells_on_the_kernels_own_loop(ready: Any) -> None:
    """A plain cell may map an async task; a background task of the notebook goes on meanwhile."""
    ready.ok(
        "@task\nasync def here(x):\n    await asyncio.sleep(0.01)\n    return id(asyncio.get_running_loop())\n"
        "loop_id = id(asyncio.get_running_loop())"
    )
    assert ready.value("set(map_tasks(here, range(3))) == {loop_id}")
    ready.ok("there = await gather_tasks(here, range(3))")
    assert ready.value("set(there) == {loop_id}")


@pytest.mark.kernel
def test_prints_of_tasks_on_threads_land_in_their_own_cell(ready: Any) -> None:
    """What a thread prints belongs to the cell that started it."""
    ready.ok(
        "@task\ndef say(x):\n    print(f'line {x}\\n', end='')"
    )  # one write: print itself makes four, which may mix
    result = ready.ok("map_tasks(say, range(6), backend='thread'); None")
    assert sorted(result.stdout.split("\n")[:-1]) == [f"line {x}" for x in range(6)]


@pytest.mark.kernel
def test_closures_helpers_globals_and_types_never_share_a_result(kernel: Any) -> None:
    """The wrong answers of other caches: equal closures, edited helpers, edited globals, equal-looking arguments."""
    kernel.ok(
        "from nbflow import task\ndef make(n):\n    @task(cache=True)\n    def add(x): return x + n\n    return add"
    )
    assert kernel.value("make(1)(1), make(100)(1)") == (2, 101)
    kernel.ok("def helper(x): return x + 1\nLIMIT = 5\n@task(cache=True)\ndef use(x): return helper(x) * LIMIT")
    assert kernel.value("use(1)") == 10
    kernel.ok("def helper(x): return x + 2")
    assert kernel.value("use(1)") == 15
    kernel.ok("LIMIT = 7")
    assert kernel.value("use(1)") == 21
    kernel.ok("@task(cache=True)\ndef kind(x): return type(x).__name__")
    assert kernel.value("[kind(x) for x in ([1, 2], {1, 2}, (1, 2), 1, 1.0, True, '1')]") == [
        "list", "set", "tuple", "int", "float", "bool", "str",
    ]  # fmt: skip
    kernel.restart()
    kernel.ok("from nbflow import task\ndef helper(x): return x + 2\nLIMIT = 7\nran = []")
    kernel.ok("@task(cache=True)\ndef use(x): return helper(x) * LIMIT")
    kernel.ok("from nbflow.sessions import current_session")
    assert kernel.value("use(1), current_session().records[-1].cached") == (21, True)
