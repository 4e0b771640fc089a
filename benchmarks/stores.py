"""Scenarios of the store: small results saved and found, large ones, many entries, a process that starts cold.

What is measured is what a user waits for: `save` of a store until it is closed, a hit with the whole call around it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.cached import computed, describer, diskcache_hits, nbflow_hits
from benchmarks.method import Contestant, Goal, Round, Scenario, new_folder, sized, timed

__all__ = ["MAKERS"]


# -- small results, computed and kept


def _save_scenario(quick: bool) -> Scenario:
    count = sized(2_000, quick)

    def ours(stack: ExitStack) -> Round:
        import nbflow

        call = nbflow.task(cache=True)(describer())

        def one_round() -> float:
            with tempfile.TemporaryDirectory() as place, nbflow.session(cache_store=place) as context:
                return computed(call, count, context.close)

        return one_round

    def with_diskcache(stack: ExitStack) -> Round:
        import diskcache

        function = describer()

        def one_round() -> float:
            with tempfile.TemporaryDirectory() as place:
                cache = diskcache.Cache(place)
                return computed(cache.memoize()(function), count, cache.close)

        return one_round

    def with_daglite(stack: ExitStack) -> Round:
        import daglite

        call = daglite.task(cache=True)(describer())

        def one_round() -> float:
            with tempfile.TemporaryDirectory() as place, daglite.session(cache_store=place):
                return computed(call, count, lambda: None)

        return one_round

    return Scenario(
        "save",
        f"{count:,} calls that compute a small value and keep it, the store closed afterwards",
        "µs",
        1e6,
        (Contestant("diskcache", with_diskcache), Contestant("nbflow", ours), Contestant("daglite", with_daglite)),
        (Goal("nbflow", 0.5, "diskcache"),),
        rounds=7,
    )


# -- a process that starts cold

_PROCESSES = 5  # of a round, as a single one is at the mercy of what else the machine does
_NBFLOW = """
import os
import nbflow
def describe(n):
    if {cold}: raise SystemExit("not a hit")
    return f"value {{n}}"
with nbflow.session(cache_store={place!r}):
    assert nbflow.task(cache=True)(describe)(3) == "value 3"
"""
_DISKCACHE = """
import os
import diskcache
def describe(n):
    if {cold}: raise SystemExit("not a hit")
    return f"value {{n}}"
with diskcache.Cache({place!r}) as cache:
    assert cache.memoize(name="describe")(describe)(3) == "value 3"
"""


def _cold_scenario(quick: bool) -> Scenario:
    def child(code: str, times: int = _PROCESSES) -> float:
        with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
            script.write(code)
            script.flush()
            env = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
            began = time.perf_counter()
            for _ in range(times):
                done = subprocess.run(
                    [sys.executable, script.name], stderr=subprocess.PIPE, text=True, env=env, cwd="/"
                )
                if done.returncode:
                    raise ImportError(done.stderr.strip().splitlines()[-1])
            return (time.perf_counter() - began) / times

    def nothing(stack: ExitStack) -> Round:
        return lambda: child("")

    def of(text: str) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            place = str(new_folder(stack) / "cache")
            # The text of the function must be the same in both, so what differs is read from the environment.
            cold = "os.environ.get('COLD')"
            code = text.format(place=place, cold=cold)
            child(code, 1)

            def one_round() -> float:
                os.environ["COLD"] = "1"
                try:
                    return child(code)
                finally:
                    del os.environ["COLD"]

            return one_round

        return prepare

    return Scenario(
        "cold",
        "a whole process: Python, import, open the store, one hit",
        "ms",
        1e3,
        (
            Contestant("nothing", nothing),
            Contestant("nbflow", of(_NBFLOW)),
            Contestant("diskcache", of(_DISKCACHE)),
        ),
        (Goal("nbflow", 1.1, "diskcache"),),
        rounds=9,
    )


# -- large results


def _large_scenarios(quick: bool) -> list[Scenario]:
    import numpy as np

    megabytes = sized(100, quick)
    array = np.random.default_rng(7).random(megabytes * 131_072)

    def raw(what: str) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            folder = new_folder(stack)

            def one_round() -> float:
                path = folder / "raw"
                took = timed(lambda: _write(path, array), 1)
                if what != "store":
                    took = timed(lambda: path.read_bytes(), 1)
                path.unlink()
                return took

            return one_round

        return prepare

    def ours(what: str, *, readonly: bool = False) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            from nbflow.cache import CacheStore

            def one_round() -> float:
                with tempfile.TemporaryDirectory() as place:
                    store = CacheStore(place + "/cache")
                    store.save("warm", 1, cost_s=1.0)
                    store.get("warm")
                    saved = timed(lambda: store.save("k", array, cost_s=1.0, readonly=readonly), 1)
                    store.close()
                    store.get("nothing")  # not in memory, so the index is open again, as that of the peers is
                    if what == "store":
                        return saved
                    found: list[Any] = []
                    took = timed(lambda: found.append(store.get("k")), 1)
                    whole = took + timed(lambda: found[0].sum(), 1)
                    assert (found[0][::1000] == array[::1000]).all()
                    store.close()
                    return whole if what == "read" else took

            return one_round

        return prepare

    def with_diskcache(what: str) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            import diskcache

            def one_round() -> float:
                with tempfile.TemporaryDirectory() as place, diskcache.Cache(place) as cache:
                    saved = timed(lambda: cache.set("k", array), 1)
                    found: list[Any] = []
                    took = timed(lambda: found.append(cache.get("k")), 1)
                    whole = took + timed(lambda: found[0].sum(), 1)
                    return {"store": saved, "load": took, "read": whole}[what]

            return one_round

        return prepare

    def with_daglite(what: str) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            import daglite

            call = daglite.task(cache=True)(_make)

            def one_round() -> float:
                _made[0] = array
                with tempfile.TemporaryDirectory() as place, daglite.session(cache_store=place):
                    saved = timed(lambda: call(megabytes), 1)
                    found: list[Any] = []
                    _made[0] = None
                    took = timed(lambda: found.append(call(megabytes)), 1)
                    whole = took + timed(lambda: found[0].sum(), 1)
                    return {"store": saved, "load": took, "read": whole}[what]

            return one_round

        return prepare

    titles = {"store": "store", "load": "load", "read": "load and read all of"}
    goals = {
        "store": (Goal("nbflow", 1.2, "raw file"), Goal("nbflow", 0.35, "daglite")),
        "load": (Goal("nbflow", 1.0), Goal("nbflow", 0.02, "daglite")),
        "read": (Goal("nbflow", 0.15, "daglite"),),
    }
    return [
        Scenario(
            f"large-{what}",
            f"{titles[what]} an array of {megabytes} MB",
            "ms",
            1e3,
            (
                Contestant("raw file", raw(what)),
                Contestant("nbflow", ours(what)),
                Contestant("nbflow, read-only", ours(what, readonly=True)),
                Contestant("diskcache", with_diskcache(what)),
                Contestant("daglite", with_daglite(what)),
            ),
            goals[what],
            rounds=7,
        )
        for what in titles
    ]


_made: list[Any] = [None]


def _make(megabytes: int) -> Any:
    assert _made[0] is not None, "not a hit"
    return _made[0]


def _write(path: Path, array: Any) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(array)


def _gigabyte_scenario(quick: bool) -> Scenario:
    size = sized(1 << 30, quick) // 8 * 8

    def ours(stack: ExitStack) -> Round:
        import numpy as np

        from nbflow.cache import CacheStore

        place = new_folder(stack) / "cache"
        store = CacheStore(place, max_bytes=8 << 30)
        store.save("k", np.zeros(size // 8), cost_s=1.0)
        store.get("k")  # compared with its checksums, once and for all
        store.close()

        def one_round() -> float:
            store = CacheStore(place, max_bytes=8 << 30)
            found: list[Any] = []
            took = timed(lambda: found.append(store.get("k")), 1)
            assert found[0].nbytes == size
            store.close()
            return took

        return one_round

    title = f"a hit of an array of {size >> 20} MiB, store opened anew"
    return Scenario("gigabyte", title, "ms", 1e3, (Contestant("nbflow", ours),), (Goal("nbflow", 20.0),), rounds=5)


# -- many entries


def _many_scenarios(quick: bool) -> list[Scenario]:
    few, many = 1_000, sized(100_000, quick)
    keys = [f"{random.Random(n).getrandbits(128):032x}" for n in range(many)]

    def some(count: int) -> Callable[[], list[int]]:
        """A thousand of them in random order, each once."""
        return lambda: random.sample(range(count), min(1_000, count))

    def ours(what: str) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            from nbflow.cache import CacheStore

            place = str(new_folder(stack) / "cache")

            def fill() -> None:
                store = CacheStore(place, max_bytes=1 << 40)
                for key in keys:
                    store.save(key, f"value {key}", cost_s=0.001 + random.random() / 1000)
                store.close()

            def one_round() -> float:
                if what == "fill":
                    CacheStore(place).clear()
                    return timed(fill, many)
                store = CacheStore(place, max_bytes=1 << 40)
                try:
                    entries, size = store.stats()["entries"], store.stats()["bytes"]
                    if what == "size":
                        return timed(store.stats, 1)
                    assert entries == many
                    took = timed(lambda: store.prune(size // 2), 1)
                    assert abs(store.stats()["entries"] - many / 2) < many / 20
                    return took
                finally:
                    store.close()
                    if what == "evict":
                        fill()

            fill()
            return one_round

        return prepare

    def with_diskcache(what: str) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            import diskcache

            place = str(new_folder(stack))

            def fill() -> None:
                with diskcache.Cache(place, size_limit=1 << 40) as cache:
                    for key in keys:
                        cache.set(key, f"value {key}")

            def one_round() -> float:
                if what == "fill":
                    with diskcache.Cache(place) as cache:
                        cache.clear()
                    return timed(fill, many)
                with diskcache.Cache(place, size_limit=1 << 40) as cache:
                    if what == "size":
                        return timed(cache.volume, 1)
                    # Its size counts pages that are free already, so it cannot be told to stop at half: half of all.
                    cache.reset("size_limit", 0)
                    took = timed(cache.cull, 2)
                    assert len(cache) == 0
                fill()
                return took

            fill()
            return one_round

        return prepare

    def scenario(what: str, title: str, unit: str, scale: float, *goals: Goal) -> Scenario:
        contestants = [Contestant("diskcache", with_diskcache(what)), Contestant("nbflow", ours(what))]
        if what == "hit":
            contestants = [
                Contestant("diskcache", diskcache_hits(many, some(many))),
                Contestant("nbflow", nbflow_hits(many, some(many))),
                Contestant("nbflow, 1,000 entries", nbflow_hits(few, some(few))),
            ]
        rounds = 3 if what in ("fill", "evict") else 11  # others are filled once
        return Scenario(
            f"many-{what}", f"{many:,} entries: {title}", unit, scale, tuple(contestants), goals, rounds=rounds
        )

    return [
        scenario("fill", "storing one", "µs", 1e6, Goal("nbflow", 0.5, "diskcache")),
        scenario(
            "hit",
            "a first hit, in random order",
            "µs",
            1e6,
            Goal("nbflow", 1.2, "nbflow, 1,000 entries"),
            Goal("nbflow", 1.0, "diskcache"),
        ),
        scenario("size", "their total size", "ms", 1e3, Goal("nbflow", 1.0)),
        scenario("evict", "evicting half", "ms", 1e3, Goal("nbflow", 0.15, "diskcache")),
    ]


MAKERS: tuple[Callable[[bool], Scenario], ...] = (
    _save_scenario,
    _cold_scenario,
    *(lambda quick, number=number: _large_scenarios(quick)[number] for number in range(3)),
    _gigabyte_scenario,
    *(lambda quick, number=number: _many_scenarios(quick)[number] for number in range(4)),
)
