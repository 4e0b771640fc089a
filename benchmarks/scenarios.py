"""The scenarios: what nbflow and its peers are asked to do.

Every contestant is written the way its own documentation would write it. Hits are proved by a counter of executions,
maps by comparing their results; a contestant that gets something wrong raises, and the run ends.
"""

from __future__ import annotations

import functools
import pickle
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

from benchmarks import cells, clusters, engines, fanout, headless, inputs, keys, panel, processes, sharing, stores
from benchmarks.cached import asked, describer, diskcache_hits, nbflow_hits, runs
from benchmarks.method import Contestant, Goal, Round, Scenario, new_folder, sized, timed

__all__ = ["scenarios"]

Prepare = Callable[[ExitStack], Round]


def _repeat(call: Callable[[int], Any], count: int) -> Callable[[], None]:
    """Return a loop of `count` calls; the argument stays the same, as a hit's must."""

    def loop() -> None:
        for _ in range(count):
            call(3)

    return loop


def _double(n: int) -> int:
    return 2 * n


# -- one trivial call


def _call_scenario(quick: bool) -> Scenario:
    many, few = sized(50_000, quick), sized(5_000, quick)

    def plain(stack: ExitStack) -> Round:
        return lambda: timed(_repeat(_double, many), many)

    def record(stack: ExitStack) -> Round:
        """The least that a runtime can do: wrap, set a context variable, read the clock twice, keep a record."""
        frame: ContextVar[Any] = ContextVar("frame", default=None)
        clock = time.perf_counter
        kept: list[Any] = []

        def call(*args: Any, **kwargs: Any) -> Any:
            token = frame.set(args)
            began = clock()
            try:
                return _double(*args, **kwargs)
            finally:
                kept.append((began, clock()))
                frame.reset(token)

        def one_round() -> float:
            kept.clear()
            return timed(_repeat(call, many), many)

        return one_round

    def nbflow_inside(stack: ExitStack) -> Round:
        import nbflow

        double = nbflow.task(_double)

        def one_round() -> float:
            with nbflow.session() as context:
                took = timed(_repeat(double, many), many)
                assert len(context.records) == min(many, context.settings.max_records), "every call leaves a record"
                return took

        return one_round

    def daglite_inside(stack: ExitStack) -> Round:
        import daglite

        double = daglite.task(_double)

        def one_round() -> float:
            with daglite.session():
                return timed(_repeat(double, few), few)

        return one_round

    def nbflow_outside(stack: ExitStack) -> Round:
        import nbflow

        double = nbflow.task(_double)
        return lambda: timed(_repeat(double, many), many)

    def daglite_outside(stack: ExitStack) -> Round:
        import daglite

        double = daglite.task(_double)
        return lambda: timed(_repeat(double, few // 5), few // 5)

    return Scenario(
        "call",
        "one trivial call",
        "µs",
        1e6,
        (
            Contestant("plain function", plain),
            Contestant("bare runtime (context variable, clock, record)", record),
            Contestant("nbflow, no session", nbflow_outside),
            Contestant("nbflow, in a session", nbflow_inside),
            Contestant("daglite, no session", daglite_outside),
            Contestant("daglite, in a session", daglite_inside),
        ),
        (
            Goal("nbflow, in a session", 0.25, "daglite, in a session"),
            Goal("nbflow, in a session", 3.5),
            Goal("nbflow, no session", 0.01, "daglite, no session"),
            Goal("nbflow, no session", 1.0),
        ),
    )


# -- opening and closing a session


def _session_scenario(quick: bool) -> Scenario:
    many, few = sized(2_000, quick), 1

    def pool(stack: ExitStack) -> Round:
        def work() -> None:
            for _ in range(sized(200, quick)):
                with ThreadPoolExecutor(2) as executor:
                    executor.submit(_double, 3).result()

        return lambda: timed(work, sized(200, quick))

    def ours(stack: ExitStack) -> Round:
        import nbflow

        def work() -> None:
            for _ in range(many):
                with nbflow.session():
                    pass

        return lambda: timed(work, many)

    def daglite_session(stack: ExitStack) -> Round:
        import daglite

        def work() -> None:
            for _ in range(few):
                with daglite.session():
                    pass

        return lambda: timed(work, few)

    return Scenario(
        "session",
        "opening and closing an empty session",
        "µs",
        1e6,
        (
            Contestant("thread pool with one call", pool),
            Contestant("nbflow", ours),
            Contestant("daglite", daglite_session),
        ),
        (Goal("nbflow", 0.01, "daglite"), Goal("nbflow", 1000.0)),
        rounds=9,
    )


# -- hits


def _repeated(call: Callable[[int], Any], count: int) -> float:
    """Return the time of one of `count` equal calls, which must not run the function any more."""
    assert call(3) == "value 3"
    before = runs()
    took = timed(_repeat(call, count), count)
    assert runs() == before, "not a hit"
    assert call(3) == "value 3"
    return took


def _hit_scenario(quick: bool) -> Scenario:
    many, few = sized(50_000, quick), sized(2_000, quick)

    def memory(stack: ExitStack) -> Round:
        call = functools.lru_cache(describer())
        return lambda: _repeated(call, many)

    def one_file(stack: ExitStack) -> Round:
        path = new_folder(stack) / "value.pkl"
        path.write_bytes(pickle.dumps("value 3"))

        def call(n: int) -> Any:
            with path.open("rb") as file:
                return pickle.load(file)

        return lambda: _repeated(call, few)

    def ours(stack: ExitStack) -> Round:
        import nbflow

        place = str(new_folder(stack) / "cache")
        call = nbflow.task(cache=True)(describer())

        def one_round() -> float:
            with nbflow.session(cache_store=place):
                return _repeated(call, many)

        return one_round

    def with_diskcache(stack: ExitStack) -> Round:
        import diskcache

        cache = stack.enter_context(diskcache.Cache(str(new_folder(stack))))
        call = cache.memoize()(describer())
        return lambda: _repeated(call, few)

    def with_joblib(stack: ExitStack) -> Round:
        import joblib

        call = joblib.Memory(str(new_folder(stack)), verbose=0).cache(describer())
        return lambda: _repeated(call, few // 4)

    def with_daglite(stack: ExitStack) -> Round:
        import daglite

        place = str(new_folder(stack))
        call = daglite.task(cache=True)(describer())

        def one_round() -> float:
            with daglite.session(cache_store=place):
                return _repeated(call, few // 4)

        return one_round

    return Scenario(
        "hit",
        "a repeated hit with a small value, the call's record included",
        "µs",
        1e6,
        (
            Contestant("open and unpickle one file", one_file),
            Contestant("functools.lru_cache (keeps no record)", memory),
            Contestant("nbflow", ours),
            Contestant("diskcache", with_diskcache),
            Contestant("joblib.Memory", with_joblib),
            Contestant("daglite", with_daglite),
        ),
        (Goal("nbflow", 0.25, "diskcache"), Goal("nbflow", 3.5), Goal("nbflow", 0.07, "daglite")),
    )


def _disk_scenario(quick: bool) -> Scenario:
    entries = sized(1_000, quick)

    def files(stack: ExitStack) -> Round:
        folder = new_folder(stack)
        for n in range(entries):
            (folder / f"{n}.pkl").write_bytes(pickle.dumps(f"value {n}"))

        def call(n: int) -> Any:
            with open(f"{folder}/{n}.pkl", "rb") as file:
                return pickle.load(file)

        return lambda: asked(call, range(entries))

    def table(stack: ExitStack) -> Round:
        path = new_folder(stack) / "table.db"
        base = sqlite3.connect(path)
        base.execute("create table cache (key text primary key, value blob) without rowid")
        base.executemany(
            "insert into cache values (?, ?)", ((str(n), pickle.dumps(f"value {n}")) for n in range(entries))
        )
        base.commit()
        base.close()

        def one_round() -> float:
            opened = sqlite3.connect(path)

            def call(n: int) -> Any:
                row = opened.execute("select value from cache where key = ?", (str(n),)).fetchone()
                return pickle.loads(row[0])

            took = asked(call, range(entries))
            opened.close()
            return took

        return one_round

    def with_daglite(stack: ExitStack) -> Round:
        import daglite

        place, function = str(new_folder(stack)), describer()
        call = daglite.task(cache=True)(function)
        with daglite.session(cache_store=place):
            for n in range(entries):
                call(n)

        def one_round() -> float:
            with daglite.session(cache_store=place):
                return asked(call, range(entries))

        return one_round

    return Scenario(
        "disk",
        f"first hits from disk: {entries:,} small values, each once, store opened anew",
        "µs",
        1e6,
        (
            Contestant("open and unpickle a file", files),
            Contestant("SQLite select and unpickle", table),
            Contestant("nbflow", nbflow_hits(entries, lambda: range(entries))),
            Contestant("diskcache", diskcache_hits(entries, lambda: range(entries))),
            Contestant("daglite", with_daglite),
        ),
        (Goal("nbflow", 0.75, "diskcache"), Goal("nbflow", 10.0), Goal("nbflow", 0.07, "daglite")),
        rounds=9,
    )


# -- fan-out


def _map_scenario(quick: bool) -> Scenario:
    count = sized(10_000, quick)
    workers = 2
    wanted = [2 * n for n in range(count)]

    def checked(work: Callable[[], Any]) -> float:
        found: list[Any] = []
        took = timed(lambda: found.extend(work()), count)
        assert found == wanted, "wrong results"
        return took

    def executor(stack: ExitStack) -> Round:
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        return lambda: checked(lambda: pool.map(_double, range(count)))

    def loop(stack: ExitStack) -> Round:
        return lambda: checked(lambda: [_double(n) for n in range(count)])

    def ours(stack: ExitStack) -> Round:
        import nbflow
        from nbflow.settings import load_settings

        double = nbflow.task(_double)
        settings = load_settings(max_backend_threads=workers)

        def one_round() -> float:
            with nbflow.session(backend="thread", settings=settings):
                nbflow.map_tasks(double, range(10 * workers))  # the pool of the peers has been started, too
                return checked(lambda: nbflow.map_tasks(double, range(count)))

        return one_round

    def with_joblib(stack: ExitStack) -> Round:
        import joblib

        pool = stack.enter_context(joblib.Parallel(workers, backend="threading"))
        return lambda: checked(lambda: pool(joblib.delayed(_double)(n) for n in range(count)))

    def with_daglite(stack: ExitStack) -> Round:
        import daglite

        double = daglite.task(_double)
        settings = daglite.settings.DagliteSettings(max_backend_threads=workers)

        def one_round() -> float:
            with daglite.session(backend="thread", settings=settings):
                daglite.map_tasks(double, range(10 * workers))
                return checked(lambda: daglite.map_tasks(double, range(count)))

        return one_round

    return Scenario(
        "map",
        f"map of {count:,} trivial tasks over {workers} threads",
        "µs a task",
        1e6,
        (
            Contestant("ThreadPoolExecutor.map", executor),
            Contestant("plain loop", loop),
            Contestant("nbflow", ours),
            Contestant("joblib threading", with_joblib),
            Contestant("daglite", with_daglite),
        ),
        (Goal("nbflow", 0.25, "ThreadPoolExecutor.map"), Goal("nbflow", 2.0)),
        rounds=9,
    )


def scenarios(quick: bool) -> list[Scenario]:
    """Return all scenarios; with `quick` at a tenth of their size."""
    makers = [
        _call_scenario,
        _session_scenario,
        _hit_scenario,
        _disk_scenario,
        _map_scenario,
    ]
    return [
        make(quick)
        for make in (
            *makers,
            *cells.MAKERS,
            *engines.MAKERS,
            *fanout.MAKERS,
            *headless.MAKERS,
            *inputs.MAKERS,
            *keys.MAKERS,
            *panel.MAKERS,
            *clusters.MAKERS,
            *processes.MAKERS,
            *stores.MAKERS,
            *sharing.MAKERS,
        )
    ]
