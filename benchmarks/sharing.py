"""Scenario of the shared tier: results that somebody else computed, found in a folder that a team shares.

Every round begins with an empty store of one's own, so each hit is read from the shared folder, checked and kept here.
"""

from __future__ import annotations

import pickle
import random
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks.cached import asked, describer
from benchmarks.method import Contestant, Goal, Round, Scenario, new_folder, timed

__all__ = ["MAKERS"]


def _shared_scenario(quick: bool) -> Scenario:
    count = 300 if not quick else 30
    keys = [f"{random.Random(n).getrandbits(128):032x}" for n in range(count)]

    def plain(stack: ExitStack) -> Round:
        folder = new_folder(stack)
        for key in keys:
            (folder / key).write_bytes(pickle.dumps(f"value {key}"))

        def read(key: str) -> Any:
            with open(folder / key, "rb") as stream:
                return pickle.load(stream)

        return lambda: _hits(read, keys)

    def ours(stack: ExitStack) -> Round:
        from nbflow.cache import CacheStore
        from nbflow.cache.shared import SharedTier

        folder = new_folder(stack)
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

        call = daglite.task(cache=True)(describer())
        place = str(new_folder(stack))
        with daglite.session(cache_store=place):
            for n in range(count):
                call(n)

        def one_round() -> float:
            with daglite.session(cache_store=place):
                return asked(call, range(count))

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
