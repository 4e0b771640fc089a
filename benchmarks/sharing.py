"""Scenario of the shared tier: results that somebody else computed, found in a folder that a team shares.

Every round begins with an empty store of one's own, so each hit is read from the shared folder, checked and kept here.
"""

from __future__ import annotations

import pickle
import random
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.method import Contestant, Goal, Round, Scenario, timed

__all__ = ["MAKERS"]

# Module level, so that every peer finds source and name; the counter is not part of anybody's key.
_runs = [0]


def _count() -> None:
    _runs[0] += 1


def _describe(n: int) -> str:
    _count()
    return f"value {n}"


def _folder(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nbflow-bench-")))


def _shared_scenario(quick: bool) -> Scenario:
    count = 300 if not quick else 30
    keys = [f"{random.Random(n).getrandbits(128):032x}" for n in range(count)]

    def plain(stack: ExitStack) -> Round:
        folder = _folder(stack)
        for key in keys:
            (folder / key).write_bytes(pickle.dumps(f"value {key}"))

        def read(key: str) -> Any:
            with open(folder / key, "rb") as stream:
                return pickle.load(stream)

        return lambda: _hits(read, keys)

    def ours(stack: ExitStack) -> Round:
        from nbflow.cache import CacheStore
        from nbflow.cache.shared import SharedTier

        folder = _folder(stack)
        url = str(folder / "shared")
        giver = CacheStore(folder / "giver", shared=SharedTier(url, flush_s=60.0))
        for key in keys:
            giver.save(key, f"value {key}", cost_s=0.001)
        giver.close()

        def one_round() -> float:
            with tempfile.TemporaryDirectory() as place:
                taker = CacheStore(place + "/cache", shared=SharedTier(url, readonly=True))
                taker.save("warm", 1, cost_s=1.0)
                took = _hits(taker.get, keys)
                taker.close()
            return took

        return one_round

    def with_daglite(stack: ExitStack) -> Round:
        import daglite

        call = daglite.task(cache=True)(_describe)
        place = str(_folder(stack))
        numbers = list(range(count))
        with daglite.session(cache_store=place):
            for number in numbers:
                call(number)

        def one_round() -> float:
            before = _runs[0]
            with daglite.session(cache_store=place):
                took = timed(lambda: [call(number) for number in numbers], count)
            assert _runs[0] == before, "not a hit"
            return took

        return one_round

    return Scenario(
        "shared",
        f"{count:,} small results from a folder that a team shares, checked and kept here too",
        "µs",
        1e6,
        (Contestant("plain file", plain), Contestant("nbflow", ours), Contestant("daglite", with_daglite)),
        (Goal("nbflow", 1.0, "daglite"),),
        rounds=7,
    )


def _hits(get: Callable[[str], Any], keys: list[str]) -> float:
    found: list[Any] = []
    took = timed(lambda: found.extend(map(get, keys)), len(keys))
    assert found == [f"value {key}" for key in keys]
    return took


MAKERS: tuple[Callable[[bool], Scenario], ...] = (_shared_scenario,)
