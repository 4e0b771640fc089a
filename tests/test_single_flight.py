"""Identical calls at the same time run once: threads, asyncio tasks, maps, processes; and never wait in a circle."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

import nbflow
from nbflow import session, task
from nbflow.cache import flight as flights
from nbflow.errors import TaskCancelledError

ROOT = str(Path(__file__).parents[1])


class Gate:
    """Lets a body wait until the test says go, and counts how often it ran."""

    def __init__(self) -> None:
        self.runs = 0
        self.entered = threading.Event()
        self.go = threading.Event()
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.runs += 1
        self.entered.set()
        assert self.go.wait(20)


def in_threads(count: int, work: Any) -> list[threading.Thread]:
    """Start `count` threads that run `work(number)` in the session of this one."""
    threads = [threading.Thread(target=copy_context().run, args=(work, number)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def until(condition: Any) -> None:
    """Wait until something that other threads do has happened."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def waiting_for(store: Any) -> int:
    """Return how many calls wait for flights of a store."""
    return sum(len(flight._wakers) for flight in list(store.flights._flights.values()))


@pytest.mark.parametrize("place", [None, "off"])
@pytest.mark.parametrize("mode", [True, "session"])
def test_threads_share_one_run(tmp_path: Path, place: Any, mode: Any) -> None:
    """Eight threads that ask for the same at once: one computes, seven wait, all get a value of their own."""
    gate = Gate()

    @task(cache=mode, ignore=["gate"])
    def slow(n: int, gate: Any) -> list[int]:
        gate()
        return [n]

    found: list[Any] = []
    with session(cache_store=place or tmp_path / "cache") as context:
        threads = in_threads(8, lambda _: found.append(slow(3, gate)))
        gate.entered.wait(20)
        until(lambda: waiting_for(context.cache_store) == 7)
        gate.go.set()
        for thread in threads:
            thread.join()
        assert found == [[3]] * 8
        assert len({id(value) for value in found}) == 8
        assert gate.runs == 1
        waited = [call for call in context.records if call.notes]
        assert len(waited) == 7
        assert all(call.cached and f"in process {os.getpid()}" in call.notes[-1] for call in waited)


def test_a_failed_leader_lets_the_next_one_run(tmp_path: Path) -> None:
    """Failures are not shared: each waiting call tries for itself, one after the other, until one succeeds."""
    gate = Gate()

    @task(cache=True, ignore=["gate"])
    def fails_twice(gate: Any) -> int:
        gate()
        if gate.runs < 3:
            raise ValueError(gate.runs)
        return gate.runs

    outcomes: list[Any] = []

    def work(_: int) -> None:
        try:
            outcomes.append(fails_twice(gate))
        except ValueError as error:
            outcomes.append(error.args[0])

    with session(cache_store=tmp_path / "cache") as context:
        threads = in_threads(6, work)
        gate.entered.wait(20)
        until(lambda: waiting_for(context.cache_store) == 5)
        gate.go.set()
        for thread in threads:
            thread.join()
    assert sorted(outcomes) == [1, 2, 3, 3, 3, 3]
    assert gate.runs == 3


def test_a_result_that_cannot_be_stored_is_not_waited_for_again(tmp_path: Path) -> None:
    """Where the leader's result cannot be kept, the others compute at the same time and not in a row."""
    gate, together = Gate(), threading.Barrier(4)

    @task(cache=True, ignore=["gate"])
    def unstorable(gate: Any) -> Any:
        leads = gate.runs == 0
        gate()
        if not leads:
            together.wait(20)
        return threading.Lock()

    found: list[Any] = []
    with session(cache_store=tmp_path / "cache") as context:
        threads = in_threads(5, lambda _: found.append(unstorable(gate)))
        gate.entered.wait(20)
        until(lambda: waiting_for(context.cache_store) == 4)
        gate.go.set()
        for thread in threads:
            thread.join()
    assert len(found) == gate.runs == 5


def test_a_waiting_call_can_be_cancelled(tmp_path: Path) -> None:
    """A call that waits for another ends when it is cancelled; the other goes on."""
    gate = Gate()

    @task(cache=True, ignore=["gate"])
    def slow(gate: Any) -> int:
        gate()
        return 1

    found: list[Any] = []

    def work(_: int) -> None:
        try:
            found.append(slow(gate))
        except TaskCancelledError as error:
            found.append(error)

    with session(cache_store=tmp_path / "cache") as context:
        first = in_threads(1, work)
        gate.entered.wait(20)
        second = in_threads(1, work)
        until(lambda: waiting_for(context.cache_store) == 1)
        waiting = max(context.live_calls(), key=lambda call: call.id)
        assert waiting.cancel("enough")
        second[0].join(20)
        assert isinstance(found[0], TaskCancelledError)
        gate.go.set()
        first[0].join()
    assert found[1] == 1
    assert gate.runs == 1


def test_an_interrupt_while_waiting(tmp_path: Path) -> None:
    """■ ends a call on the main thread that waits for another one."""
    gate = Gate()

    @task(cache=True, ignore=["gate"])
    def slow(gate: Any) -> int:
        gate()
        return 1

    with session(cache_store=tmp_path / "cache") as context:
        threads = in_threads(1, lambda _: slow(gate))
        gate.entered.wait(20)

        def interrupt() -> None:
            until(lambda: waiting_for(context.cache_store) == 1)
            os.kill(os.getpid(), signal.SIGINT)

        killer = threading.Thread(target=interrupt)
        killer.start()
        with pytest.raises(KeyboardInterrupt):
            slow(gate)
        killer.join()
        assert waiting_for(context.cache_store) == 0
        gate.go.set()
        threads[0].join()
        assert slow(gate) == 1


def test_many_coroutines_share_one_run(tmp_path: Path) -> None:
    """A hundred awaits of the same call: one runs, and no thread of the loop's pool is held up by those that wait."""
    runs = 0

    @task(cache=True)
    async def fetch(n: int) -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.02)
        return n

    async def main() -> list[int]:
        return await asyncio.gather(*(fetch(7) for _ in range(100)))

    with session(cache_store=tmp_path / "cache"):
        assert asyncio.run(main()) == [7] * 100
    assert runs == 1


def test_a_cancelled_leader_among_coroutines(tmp_path: Path) -> None:
    """When the asyncio task of the leader is cancelled, one of those that wait takes over."""
    runs: list[int] = []

    @task(cache=True)
    async def fetch(n: int) -> int:
        runs.append(n)
        if len(runs) == 1:
            await asyncio.sleep(60)
        return n

    async def main() -> list[Any]:
        leader = asyncio.create_task(fetch(7))
        while not runs:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(fetch(7)) for _ in range(3)]
        await asyncio.sleep(0.02)
        leader.cancel()
        return await asyncio.gather(leader, *others, return_exceptions=True)

    with session(cache_store=tmp_path / "cache"):
        found = asyncio.run(main())
    assert isinstance(found[0], (asyncio.CancelledError, TaskCancelledError))
    assert found[1:] == [7] * 3
    assert len(runs) == 2


def test_equal_items_of_a_map_run_once(tmp_path: Path) -> None:
    """Equal items of a map over threads are computed once."""
    runs: list[int] = []

    @task(cache=True)
    def slow(n: int) -> int:
        runs.append(n)
        time.sleep(0.02)
        return n * n

    with session(cache_store=tmp_path / "cache", backend="thread"):
        assert nbflow.map_tasks(slow, [4, 5] * 8) == [16, 25] * 8
    assert sorted(runs) == [4, 5]


def test_a_call_inside_itself_does_not_wait(tmp_path: Path) -> None:
    """A call that makes the same call again does not wait for itself, through whatever calls lie between."""
    depth = 0

    @task(cache=True)
    def outer(n: int) -> int:
        nonlocal depth
        depth += 1
        return inner(n) if depth < 3 else 42

    @task(cache=True)
    def inner(n: int) -> int:
        return outer(n)

    with session(cache_store=tmp_path / "cache"):
        assert outer(1) == 42


def test_two_threads_do_not_wait_in_a_circle(tmp_path: Path) -> None:
    """f calls g and g calls f, begun at both ends at once: one of the two computes for itself."""
    meet = threading.Barrier(2)
    met = threading.local()

    @task(cache=True)
    def left(n: int) -> str:
        if not getattr(met, "before", False):
            met.before = True
            meet.wait(20)
            return "left of " + right(n)
        return "left"

    @task(cache=True)
    def right(n: int) -> str:
        if not getattr(met, "before", False):
            met.before = True
            meet.wait(20)
            return "right of " + left(n)
        return "right"

    found: list[str] = []
    with session(cache_store=tmp_path / "cache"):
        threads = in_threads(2, lambda number: found.append((left, right)[number](1)))
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
    assert len(found) == 2


def test_a_pooled_call_waits_only_for_a_while_for_one_that_may_need_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All workers wait for a call that itself waits for a worker: after a while they compute for themselves."""
    monkeypatch.setattr(flights, "PATIENCE_S", 0.2)
    gate = Gate()

    @task(cache=True)
    def leaf(n: int) -> int:
        return n

    @task(cache=True, ignore=["gate", "wait"])
    def needed(gate: Any, wait: Any) -> int:
        if threading.current_thread() is not threading.main_thread():
            return 6
        gate.entered.set()
        wait()
        return sum(nbflow.map_tasks(leaf, [1, 2, 3], backend="thread"))

    @task
    def wants(n: int) -> int:
        gate.entered.wait(20)
        return needed(gate, None)

    found: list[Any] = []
    settings = nbflow.settings.load_settings(max_backend_threads=1)
    with session(cache_store=tmp_path / "cache", settings=settings) as context:
        mapping = in_threads(1, lambda _: found.append(nbflow.map_tasks(wants, [1, 2], backend="thread")))
        assert needed(gate, lambda: until(lambda: waiting_for(context.cache_store) >= 1)) == 6
        mapping[0].join(20)
    assert found == [[6, 6]]


def test_force_does_not_wait(tmp_path: Path) -> None:
    """A call that is to be recomputed runs at once, though the same one is running."""
    gate = Gate()

    @task(cache=True, ignore=["gate"])
    def slow(gate: Any) -> int:
        gate()
        return 1

    with session(cache_store=tmp_path / "cache"):
        threads = in_threads(1, lambda _: slow(gate))
        gate.entered.wait(20)
        with session(settings=nbflow.settings.load_settings(force=True), cache_store=tmp_path / "cache"):
            forced = in_threads(1, lambda _: slow(gate))
            until(lambda: gate.runs == 2)
            gate.go.set()
            for thread in (*threads, *forced):
                thread.join()


PROCESS = """
import sys, time; sys.path.insert(0, {root!r})
import nbflow
@nbflow.task(cache=True)
def slow(n):
    with open({log!r}, "a") as file: file.write("ran\\n")
    print("running", flush=True)
    if {dies}: sys.stdin.readline()
    time.sleep({seconds})
    return [n, "x" * 50]
with nbflow.session(cache_store={place!r}) as context:
    print("ready", flush=True)
    sys.stdin.readline()
    assert slow(3) == [3, "x" * 50]
    print(context.records[-1].cached, *context.records[-1].notes)
"""


def start(tmp_path: Path, *, seconds: float = 0.3, dies: bool = False) -> Any:
    """Start a process that calls `slow(3)` as soon as it gets a line."""
    text = PROCESS.format(
        root=ROOT, log=str(tmp_path / "log"), place=str(tmp_path / "cache"), seconds=seconds, dies=dies
    )
    (tmp_path / "script.py").write_text(text)
    child = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


needs_seats = pytest.mark.skipif(sys.platform != "linux", reason="needs locks that belong to an open file")


@needs_seats
def test_processes_share_one_run(tmp_path: Path) -> None:
    """Four processes that ask for the same at once: one computes, three wait and say so."""
    children = [start(tmp_path) for _ in range(4)]
    for child in children:
        child.stdin.write("go\n")
    said = [child.communicate(timeout=60)[0].splitlines()[-1] for child in children]
    assert all(child.returncode == 0 for child in children)
    assert (tmp_path / "log").read_text() == "ran\n"
    assert sorted(said) == ["False", *["True waited for the same call in another process"] * 3]


@needs_seats
def test_a_killed_leader_is_followed_by_another(tmp_path: Path) -> None:
    """When the process that computes is killed, one that waits takes over."""
    first, second = start(tmp_path, dies=True), start(tmp_path, seconds=0)
    first.stdin.write("go\n")
    assert first.stdout.readline() == "running\n"
    second.stdin.write("go\n")
    time.sleep(0.1)  # the outcome is the same, whether it waits already or not
    first.kill()
    first.communicate()
    out, _ = second.communicate("\n", timeout=60)
    assert second.returncode == 0
    assert (tmp_path / "log").read_text() == "ran\nran\n"
    assert out.splitlines()[0] == "running"
