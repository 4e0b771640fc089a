"""Keys: what it costs to know that a call is the same as before, from two numbers to tables of text."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks.method import Contestant, Goal, Round, Scenario, timed

__all__ = ["MAKERS"]

_SIZE = 100 * 1000**2
_FACTOR = 3


def _helper(x: float) -> float:
    return x * _FACTOR


def _body(x: float, y: int = 2) -> float:
    return _helper(x) + y


def _call_scenario(quick: bool) -> Scenario:
    """A call with two small arguments, of a function with a helper and a global."""
    count = 200 if quick else 2_000

    def pickled(stack: ExitStack) -> Round:
        from xxhash import xxh3_128_digest

        def work() -> None:
            for _ in range(count):
                xxh3_128_digest(pickle.dumps(("_body", {"x": 1.5, "y": 2}), 5))

        return lambda: timed(work, count)

    def nbflow_keyer(method: str) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            from nbflow.cache import FunctionKeyer

            keyer = FunctionKeyer(_body, name="body")
            inputs = {"x": 1.5, "y": 2}
            expected = keyer.key(inputs, (1.5,), {}).digest
            assert keyer.quick((1.5,), {}) == expected

            def whole() -> None:
                for _ in range(count):
                    keyer.key(inputs, (1.5,), {})

            def known() -> None:
                for _ in range(count):
                    keyer.quick((1.5,), {})

            return lambda: timed(whole if method == "key" else known, count)

        return prepare

    def daglite_key(stack: ExitStack) -> Round:
        from daglite.cache import default_cache_hash

        few = max(1, count // 10)

        def work() -> None:
            for _ in range(few):
                default_cache_hash(_body, {"x": 1.5, "y": 2})

        return lambda: timed(work, few)

    def joblib_key(stack: ExitStack) -> Round:
        import joblib

        few = max(1, count // 10)

        def work() -> None:
            for _ in range(few):
                joblib.hash({"x": 1.5, "y": 2})

        return lambda: timed(work, few)

    return Scenario(
        "key-call",
        "the key of a call with two numbers",
        "µs",
        1e6,
        (
            Contestant("pickle and xxh3 of name and arguments", pickled),
            Contestant("nbflow, made anew", nbflow_keyer("key")),
            Contestant("nbflow, recognised", nbflow_keyer("quick")),
            Contestant("daglite", daglite_key),
            Contestant("joblib.hash of the arguments", joblib_key),
        ),
        (
            Goal("nbflow, made anew", 5.0),
            Goal("nbflow, made anew", 0.1, "daglite"),
            Goal("nbflow, recognised", 1.5),
        ),
    )


def _large_scenario(
    name: str, title: str, make: Callable[[int], tuple[Any, list[Any]]], size: int, goals: tuple[Goal, ...], rounds: int
) -> Callable[[bool], Scenario]:
    """Return the maker of a scenario that digests one large value; `make` gives it and its raw buffers."""

    def scenario(quick: bool) -> Scenario:
        kept: list[Any] = []

        def made() -> tuple[Any, list[Any]]:
            if not kept:
                kept.extend(make(size // 10 if quick else size))
            return kept[0], kept[1]

        def contestant(library: str) -> Callable[[ExitStack], Round]:
            def prepare(stack: ExitStack) -> Round:
                hasher = _HASHERS[library]()
                value, buffers = made()
                stack.callback(kept.clear)
                subject = buffers if library == "raw" else value
                return lambda: timed(lambda: hasher(subject), 1)

            return prepare

        return Scenario(
            name,
            title,
            "ms",
            1e3,
            (
                Contestant("xxh3 of the bare buffers", contestant("raw")),
                Contestant("nbflow", contestant("nbflow")),
                Contestant("dask tokenize", contestant("dask")),
                Contestant("joblib.hash", contestant("joblib")),
            ),
            goals,
            rounds,
        )

    return scenario


def _raw() -> Callable[[Any], Any]:
    from xxhash import xxh3_128_digest

    return lambda buffers: [xxh3_128_digest(buffer) for buffer in buffers]


def _nbflow() -> Callable[[Any], Any]:
    from nbflow.cache import digest

    assert digest(["a-b", "c"]) != digest(["a", "b-c"])
    return digest


def _dask() -> Callable[[Any], Any]:
    from dask.base import tokenize

    return lambda value: tokenize(value)


def _joblib() -> Callable[[Any], Any]:
    import joblib

    return lambda value: joblib.hash(value)


_HASHERS = {"raw": _raw, "nbflow": _nbflow, "dask": _dask, "joblib": _joblib}


def _numbers(size: int) -> tuple[Any, list[Any]]:
    import numpy as np

    array = np.random.default_rng(1).random(size // 8)
    return array, [array.view("u1")]


def _texts(size: int) -> tuple[Any, list[Any]]:
    """Return a frame of `str` columns, and the buffers of its Arrow arrays."""
    import pandas as pd

    rows = size // 5 // 22
    frame = pd.DataFrame(
        {
            f"c{place}": pd.Series([f"text {number % 5000} abcd" for number in range(rows)], dtype="str")
            for place in range(5)
        }
    )
    chunks = [chunk for name in frame for chunk in frame[name].array.__arrow_array__().chunks]
    return frame, [memoryview(buffer) for chunk in chunks for buffer in chunk.buffers() if buffer is not None]


def _objects(size: int) -> tuple[Any, list[Any]]:
    frame, buffers = _texts(size)
    return frame.astype(object), buffers


def _against_raw(*others: Goal) -> tuple[Goal, ...]:
    return (Goal("nbflow", 1.6, "xxh3 of the bare buffers"), Goal("nbflow", 1.1, "dask tokenize"), *others)


MAKERS = (
    _call_scenario,
    _large_scenario("key-array", "the key of a 100 MB array", _numbers, _SIZE, _against_raw(), 11),
    _large_scenario("key-text", "the key of a 100 MB frame of `str` columns", _texts, _SIZE, _against_raw(), 11),
    _large_scenario(
        "key-objects",
        "the key of a frame of `object` columns, 20 MB of text (dask's key is quick but not safe)",
        _objects,
        _SIZE // 5,
        (Goal("nbflow", 0.05, "joblib.hash"),),
        5,
    ),
)
"""Makers of the scenarios; each takes whether to be quick."""
