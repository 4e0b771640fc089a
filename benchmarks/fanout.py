"""Fan-out: maps over processes, handles, gathering, chains, and what the panel's observer costs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.method import Contestant, Goal, Round, Scenario, timed

__all__ = ["MAKERS"]

_WORKERS = 2
_COSTS_S = 0.005


def _double(n: int) -> int:
    return 2 * n


def _busy(n: int) -> int:
    until = time.perf_counter() + _COSTS_S
    while time.perf_counter() < until:
        pass
    return 2 * n


async def _double_later(n: int) -> int:
    return 2 * n


def _checked(work: Callable[[], Any], count: int) -> float:
    found: list[Any] = []
    took = timed(lambda: found.extend(work()), count)
    assert found == [2 * n for n in range(count)], "wrong results"
    return took


@contextmanager
def _session(backend: str, **options: Any) -> Iterator[Any]:
    import nbflow
    from nbflow.settings import load_settings

    settings = load_settings(max_backend_threads=_WORKERS, max_parallel_processes=_WORKERS)
    with nbflow.session(backend=backend, settings=settings, **options) as context:
        yield context


def _process_scenario(
    name: str, title: str, func: Callable[[int], int], count: int, goals: tuple[Goal, ...]
) -> Scenario:
    """Return a scenario of one map over processes; all pools have been started, and stay."""

    def executor(chunksize: int) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            pool = stack.enter_context(ProcessPoolExecutor(_WORKERS))
            list(pool.map(_double, range(10)))
            return lambda: _checked(lambda: pool.map(func, range(count), chunksize=chunksize), count)

        return prepare

    def ours(stack: ExitStack) -> Round:
        import nbflow

        context = stack.enter_context(_session("process"))
        mapped = nbflow.task(func)
        nbflow.map_tasks(_double, range(100))

        def one_round() -> float:
            context.records.clear()
            took = _checked(lambda: nbflow.map_tasks(mapped, range(count)), count)
            assert len(context.records) == min(count, context.settings.max_records), "every item leaves a record"
            return took

        return one_round

    def with_joblib(stack: ExitStack) -> Round:
        import joblib

        pool = stack.enter_context(joblib.Parallel(_WORKERS))
        pool(joblib.delayed(_double)(n) for n in range(10))
        return lambda: _checked(lambda: pool(joblib.delayed(func)(n) for n in range(count)), count)

    contestants = (
        Contestant("ProcessPoolExecutor", executor(1)),
        Contestant("ProcessPoolExecutor chunk=64", executor(64)),
        Contestant("nbflow", ours),
        Contestant("joblib loky", with_joblib),
    )
    return Scenario(name, title, "µs a task", 1e6, contestants, goals, rounds=7)


def _trivial(quick: bool) -> Scenario:
    count = 1_000 if quick else 10_000
    goals = (Goal("nbflow", 0.05, "ProcessPoolExecutor"), Goal("nbflow", 0.5, "joblib loky"))
    return _process_scenario(
        "map-process", f"map of {count:,} trivial tasks over {_WORKERS} processes", _double, count, goals
    )


def _five_ms(quick: bool) -> Scenario:
    count = 40 if quick else 200
    goals = (Goal("nbflow", 1.03, "ProcessPoolExecutor"), Goal("nbflow", 1.03, "joblib loky"))
    return _process_scenario("map-5ms", f"map of {count} tasks of 5 ms over {_WORKERS} processes", _busy, count, goals)


def _one_at_a_time(few: int, *, on_one_cpu: bool = False) -> tuple[Contestant, Callable[[int], Contestant]]:
    """Return the executor of Python, and what makes nbflow a contestant for so many calls.

    To wake a thread on another processor takes longer than all the rest, and how much depends on the machine. On one
    processor the two threads take turns, and what is left is the work that a call makes.
    """

    def place(stack: ExitStack) -> None:
        if on_one_cpu:
            stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    def executor(stack: ExitStack) -> Round:
        place(stack)
        pool = stack.enter_context(ThreadPoolExecutor(_WORKERS))

        def work() -> list[int]:
            return [pool.submit(_double, n).result() for n in range(few)]

        return lambda: _checked(work, few)

    def ours(count: int) -> Contestant:
        def prepare(stack: ExitStack) -> Round:
            import nbflow

            place(stack)
            stack.enter_context(_session("thread"))
            double = nbflow.task(_double)
            return lambda: _checked(lambda: [nbflow.submit(double, n).get() for n in range(count)], count)

        return Contestant(f"nbflow, {count:,}", prepare)

    return Contestant("ThreadPoolExecutor", executor), ours


def _submit(quick: bool) -> Scenario:
    few, many = (1_000, 5_000) if quick else (1_000, 100_000)
    executor, ours = _one_at_a_time(few)
    return Scenario(
        "submit",
        "submit and get, one call at a time, on threads",
        "µs a call",
        1e6,
        (executor, ours(few), ours(many)),
        (
            Goal(f"nbflow, {few:,}", 30.0),
            Goal(f"nbflow, {many:,}", 1.2, f"nbflow, {few:,}"),
        ),
        rounds=5,
    )


def _submit_here(quick: bool) -> Scenario:
    few = 1_000 if quick else 5_000
    executor, ours = _one_at_a_time(few, on_one_cpu=True)
    return Scenario(
        "submit-one-cpu",
        "submit and get, one call at a time, on threads of one processor",
        "µs a call",
        1e6,
        (executor, ours(few)),
        (Goal(f"nbflow, {few:,}", 30.0), Goal(f"nbflow, {few:,}", 1.5, "ThreadPoolExecutor")),
    )


def _gather(quick: bool) -> Scenario:
    few, many = (1_000, 5_000) if quick else (1_000, 100_000)

    def plain(count: int) -> Callable[[ExitStack], Round]:
        async def work() -> list[int]:
            return await asyncio.gather(*[_double_later(n) for n in range(count)])

        return lambda stack: lambda: _checked(lambda: asyncio.run(work()), count)

    def ours(count: int) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            import nbflow

            stack.enter_context(_session("inline"))
            later = nbflow.task(_double_later)

            async def work() -> list[int]:
                return await nbflow.gather_tasks(later, range(count))

            return lambda: _checked(lambda: asyncio.run(work()), count)

        return prepare

    return Scenario(
        "gather",
        "gather of trivial coroutines",
        "µs a task",
        1e6,
        (
            Contestant(f"asyncio.gather, {few:,}", plain(few)),
            Contestant(f"nbflow, {few:,}", ours(few)),
            Contestant(f"asyncio.gather, {many:,}", plain(many)),
            Contestant(f"nbflow, {many:,}", ours(many)),
        ),
        (
            Goal(f"nbflow, {few:,}", 1.6, f"asyncio.gather, {few:,}"),
            Goal(f"nbflow, {many:,}", 1.6, f"asyncio.gather, {many:,}"),
        ),
        rounds=5,
    )


def _nap(n: int) -> int:
    time.sleep(0.02)
    return n + 1


def _chain(quick: bool) -> Scenario:
    def ours(backend: str) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            import nbflow

            stack.enter_context(_session(backend))
            nap = nbflow.task(_nap)
            nbflow.submit(nap, 0).get()

            def one_round() -> float:
                began = time.perf_counter()
                handle: Any = 0
                for _ in range(10):
                    handle = nbflow.submit(nap, handle)
                assert handle.get() == 10
                return time.perf_counter() - began

            return one_round

        return prepare

    def plain(stack: ExitStack) -> Round:
        def one_round() -> float:
            began = time.perf_counter()
            for n in range(10):
                _nap(n)
            return time.perf_counter() - began

        return one_round

    return Scenario(
        "chain",
        "a chain of 10 submitted calls of 20 ms, each waiting for the one before",
        "s",
        1.0,
        (Contestant("plain loop", plain), Contestant("thread", ours("thread")), Contestant("process", ours("process"))),
        (Goal("thread", 0.3), Goal("process", 0.3)),
        rounds=5,
    )


def _listened(quick: bool) -> Scenario:
    """An observer of the panel's kind (no routine events of single items), which also reads the live counters."""
    count = 1_000 if quick else 10_000

    def ours(backend: str, *, heard: bool) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            import nbflow

            context = stack.enter_context(_session(backend))
            seen: list[Any] = []
            if heard:
                context.add_observer(seen.append, items=False)
            double = nbflow.task(_double)
            nbflow.map_tasks(double, range(100))

            def one_round() -> float:
                seen.clear()
                took = _checked(lambda: nbflow.map_tasks(double, range(count)), count)
                assert len(seen) == (2 if heard else 0), "the map begins and ends"
                return took

            return one_round

        return prepare

    kinds = ("thread", "process")
    return Scenario(
        "map-heard",
        f"map of {count:,} trivial tasks with and without an observer",
        "µs a task",
        1e6,
        tuple(
            Contestant(f"{kind}{', heard' if heard else ''}", ours(kind, heard=heard))
            for kind in kinds
            for heard in (False, True)
        ),
        tuple(Goal(f"{kind}, heard", 1.05, kind) for kind in kinds),
        rounds=9,
    )


MAKERS = (_trivial, _five_ms, _submit, _submit_here, _gather, _chain, _listened)
