"""Endings, stops and arguments out of the ordinary: nobody waits for ever, or gets what was meant for others."""

from __future__ import annotations

import asyncio
import ctypes
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from nbflow import as_completed, session, submit, task
from nbflow._steady import SteadyEvent, SteadySemaphore
from nbflow.runtime.records import Records
from nbflow.runtime.stopping import Region, Stopped
from nbflow.settings import load_settings, set_global_settings

LONG = 60.0


def one_thread() -> Any:
    return session(backend="thread", settings=load_settings(max_backend_threads=1))


def add(one: Any, other: Any = 0) -> Any:
    return one + other


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError, GeneratorExit])
def test_an_ending_that_is_no_exception(kind: type[BaseException]) -> None:
    """It reaches all that need the call; the worker goes on."""
    go = threading.Event()

    def ends() -> None:
        go.wait(LONG)
        raise kind

    with one_thread():
        first = submit(ends)
        needing = [submit(add, first), submit(add, [first][0])]
        last = submit(add, 5)
        go.set()
        for handle in (first, *needing):
            with pytest.raises(kind):
                handle.get(timeout=LONG)
        assert last.get(timeout=LONG) == 5
        with pytest.raises(kind):
            submit(add, first).get(timeout=LONG)


def test_all_callbacks_are_told() -> None:
    """One that raises what is no `Exception` keeps it from nobody, and its worker from nothing."""
    go, told = threading.Event(), threading.Event()

    def stops(_: Any) -> None:
        raise Stopped

    with one_thread():
        handle = submit(go.wait, LONG)
        handle.add_done_callback(stops)
        handle.add_done_callback(lambda _: told.set())
        go.set()
        assert told.wait(LONG)
        assert submit(add, 1).get(timeout=LONG) == 1


def test_arguments_stay_the_objects_that_they_are() -> None:
    """Only what holds a handle is built anew; what holds itself is no trouble."""
    items: list[Any] = []
    held: list[Any] = [1]
    held.append(held)
    with one_thread():
        submit(list.append, items, 1).get(timeout=LONG)
        assert items == [1]
        assert submit(lambda one, other: one is other, items, items).get(timeout=LONG)
        assert submit(len, held).get(timeout=LONG) == 2
        first = submit(add, 3)
        inner = [1]
        found = submit(lambda data: data, {"a": [first, (first, inner)], "b": inner}).get(timeout=LONG)
    assert found == {"a": [3, (3, [1])], "b": [1]}
    assert found["b"] is found["a"][1][1] is inner


def test_a_long_chain_is_waited_for_inside_its_pool() -> None:
    """Whoever waits gets help, however many calls need each other."""

    def chained() -> Any:
        handle = submit(add, 0)
        for _ in range(1500):
            handle = submit(add, handle, 1)
        return handle.get()

    with one_thread():
        assert submit(chained).get(timeout=LONG) == 1500


def test_calls_that_are_needed_twice_are_looked_at_once() -> None:
    """Else forty in a row, each needed twice by the next, would be looked at a billion of billion times."""
    go = threading.Event()

    def doubled() -> Any:
        handle = submit(lambda: (go.wait(LONG), 1)[1])
        for _ in range(40):
            handle = submit(add, handle, handle)
        helper = handle._helper()
        go.set()
        assert helper is not None
        return handle.get()

    with session(backend="thread", settings=load_settings(max_backend_threads=2)):
        assert submit(doubled).get(timeout=LONG) == 1 << 40


def test_waiting_in_a_coroutine_that_runs_in_a_thread_of_its_own() -> None:
    """That thread counts as the worker which waits for it."""

    async def middle() -> Any:
        return submit(add, 1).get()

    async def outer() -> Any:
        return submit(middle).get()

    with one_thread():
        assert submit(outer).get(timeout=LONG) == 1


def test_as_completed_awaited_inside_an_executor() -> None:
    """A worker of a pool of others gets help as well."""

    async def outer() -> list[Any]:
        return [handle.get() async for handle in as_completed([submit(add, 1), submit(add, 2)])]

    with ThreadPoolExecutor(1) as executor, session(backend=executor):
        assert sorted(submit(outer).get(timeout=LONG)) == [1, 2]


@dataclass(frozen=True)
class Frozen(Exception):
    """An error that takes no note."""

    code: int


@pytest.mark.parametrize("backend", ["inline", "thread", "process"])
def test_errors_that_take_no_note(backend: str) -> None:
    """They reach the caller as they are."""

    @task
    def fails() -> None:
        raise Frozen(7)

    with session(backend=backend), pytest.raises(Frozen) as found:
        submit(fails).get(timeout=LONG)
    assert found.value.code == 7


def test_the_default_session_is_replaced_while_its_callbacks_use_another() -> None:
    """What waited in it is cancelled, and a callback of that may submit at once."""
    go, told = threading.Event(), threading.Event()
    try:
        set_global_settings(load_settings(backend="thread", max_backend_threads=1))
        submit(go.wait, LONG)
        waiting = submit(add, 1)
        waiting.add_done_callback(lambda _: (submit(add, 2), told.set()))
        set_global_settings(load_settings(backend="thread"))
        over = ThreadPoolExecutor(1).submit(lambda: submit(add, 3).get(timeout=LONG))
        assert over.result(timeout=LONG) == 3
        assert told.wait(LONG)
    finally:
        go.set()
        set_global_settings(None)


def test_records_are_looked_at_while_calls_end() -> None:
    """Neither order is disturbed by what ends meanwhile."""
    records: Any = Records(10_000)
    over = threading.Event()

    def append() -> None:
        while not over.is_set():
            records.append(object())

    thread = threading.Thread(target=append)
    thread.start()
    try:
        for _ in range(100):
            assert len(list(records)) <= 10_000
            assert len(list(reversed(records))) <= 10_000
    finally:
        over.set()
        thread.join(LONG)


def test_an_inner_region_passes_on_what_is_meant_for_the_outer() -> None:
    """A stop that strikes at the very end of the inner one ends the code of the outer one."""
    outer, inner, go, on = Region(), Region(), threading.Event(), threading.Event()
    out: list[str] = []

    def work() -> None:
        try:
            with outer:
                with inner:
                    go.wait(LONG)
                on.wait(LONG)
                out.append("went on")
        except Stopped:
            out.append("stopped")

    thread = threading.Thread(target=work)
    thread.start()
    with inner._lock:
        go.set()
        while sys._current_frames()[thread.ident or 0].f_code.co_name != "__exit__":
            pass
        assert outer.stop()
    on.set()
    thread.join(LONG)
    assert out == ["stopped"]


@pytest.mark.parametrize("act", [lambda: SteadyEvent().set, lambda: SteadySemaphore(0).release])
def test_what_is_waited_for_is_never_left_locked(act: Callable[[], Any]) -> None:
    """However often a stop strikes a thread that tells that something is over."""
    tell = act()

    def telling() -> None:
        try:
            begun.set()
            while True:
                tell()
        except Stopped:
            return

    for _ in range(200):
        begun = threading.Event()
        thread = threading.Thread(target=telling)
        thread.start()
        assert begun.wait(LONG)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stopped))
        thread.join(LONG)
        assert not thread.is_alive()
        condition = tell.__self__._cond
        assert condition.acquire(timeout=LONG)
        condition.release()
