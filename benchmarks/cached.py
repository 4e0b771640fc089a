"""Small cached results, for every scenario that fills a cache with them or asks for them.

A counter of executions proves hits. Each contestant has a function of its own, as peers write into what they are given,
and meets its entries anew in every round: store opened, keys not yet known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from benchmarks.method import Round, new_folder, timed

__all__ = ["asked", "computed", "describer", "diskcache_hits", "nbflow_hits", "runs"]

_runs = [0]  # at module level, so that it is part of nobody's key


def _count() -> None:
    _runs[0] += 1


def runs() -> int:
    """Return how often any such function has been run."""
    return _runs[0]


def describer() -> Callable[[int], str]:
    """Return a new function with a small result."""

    def describe(n: int) -> str:
        _count()
        return f"value {n}"

    return describe


def asked(call: Callable[[int], Any], numbers: Iterable[int]) -> float:
    """Return the seconds of one call; none of them may run the function."""
    numbers, before = list(numbers), runs()
    found: list[Any] = []
    took = timed(lambda: found.extend(map(call, numbers)), len(numbers))
    assert runs() == before, "not a hit"
    assert found == [f"value {n}" for n in numbers]
    return took


def computed(call: Callable[[int], Any], count: int, close: Callable[[], object]) -> float:
    """Return the seconds of one call, closing included; all of them must run the function."""
    before = runs()

    def work() -> None:
        for n in range(count):
            call(n)
        close()

    took = timed(work, count)
    assert runs() == before + count, "found what was not there"
    return took


def nbflow_hits(entries: int, ask: Callable[[], Iterable[int]]) -> Callable[[ExitStack], Round]:
    """Return a contestant that asks nbflow for some of its entries, other ones in each round if `ask` says so."""

    def prepare(stack: ExitStack) -> Round:
        import nbflow

        place, function = str(new_folder(stack) / "cache"), describer()
        call = nbflow.task(cache=True)(function)
        with nbflow.session(cache_store=place):
            for n in range(entries):
                call(n)

        def one_round() -> float:
            with nbflow.session(cache_store=place):
                return asked(nbflow.task(cache=True)(function), ask())  # a new task knows no keys

        return one_round

    return prepare


def diskcache_hits(entries: int, ask: Callable[[], Iterable[int]]) -> Callable[[ExitStack], Round]:
    """Return a contestant that asks diskcache for some of its entries."""

    def prepare(stack: ExitStack) -> Round:
        import diskcache

        place, function = str(new_folder(stack)), describer()
        with diskcache.Cache(place, size_limit=1 << 40) as cache:
            call = cache.memoize()(function)
            for n in range(entries):
                call(n)

        def one_round() -> float:
            with diskcache.Cache(place, size_limit=1 << 40) as cache:
                return asked(cache.memoize()(function), ask())

        return one_round

    return prepare
