"""Inputs that need not be read again: files that are at rest, and results that nobody can have changed."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.method import Contestant, Goal, Round, Scenario, new_folder, timed

__all__ = ["MAKERS"]

_SIZE = 100 * 1024**2


def _large_file(stack: ExitStack, quick: bool) -> Path:
    """Write a file that has been at rest for an hour, as far as its time of modification goes."""
    path = new_folder(stack) / "large.bin"
    path.write_bytes(os.urandom(1024**2) * ((_SIZE // 10 if quick else _SIZE) // 1024**2))
    return path


def _file_scenario(quick: bool) -> Scenario:
    def read(stack: ExitStack) -> Round:
        """The least without a memory: read the file and digest it."""
        from xxhash import xxh3_128_digest

        path = _large_file(stack, quick)
        return lambda: timed(lambda: xxh3_128_digest(path.read_bytes()), 1)

    def nbflow_file(stack: ExitStack) -> Round:
        import nbflow
        from nbflow.cache import filestate

        path = _large_file(stack, quick)
        stack.callback(setattr, filestate, "_RACY_NS", filestate._RACY_NS)
        filestate._RACY_NS = 0  # or the first seconds would read it again, as they should
        ran: list[int] = []

        @nbflow.task(cache=True)
        def size() -> int:
            ran.append(1)
            return len(nbflow.File(path).path.read_bytes())

        count = 20 if quick else 200

        def one_round() -> float:
            with nbflow.session(cache_store=path.parent / "cache"):
                size()
                took = timed(lambda: [size() for _ in range(count)], count)
            assert len(ran) == 1, "it is read once"
            return took

        return one_round

    contestants = (Contestant("read and digest", read), Contestant("nbflow", nbflow_file))
    title = "hit of a task that reads a file of 100 MB"
    return Scenario("file", title, "µs", 1e6, contestants, (Goal("nbflow", 0.05, "read and digest"),), rounds=7)


def _sealed_scenario(quick: bool) -> Scenario:
    size = _SIZE // 10 if quick else _SIZE

    def raw(stack: ExitStack) -> Round:
        import numpy as np
        from xxhash import xxh3_128_digest

        array = np.ones(size // 8)
        return lambda: timed(lambda: xxh3_128_digest(array), 1)

    def key_of(sealed: bool) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            import numpy as np

            from nbflow.cache import digest, memo
            from nbflow.cache.fingerprint import content_bytes

            array = np.ones(size // 8)
            if sealed:
                path = new_folder(stack) / "array"
                array.tofile(path)
                with open(path, "rb") as stream:
                    array = np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
                assert memo.remember(array, content_bytes(array), "")
            count = 1000 if sealed else 1
            wanted = digest(np.ones(size // 8))

            def one_round() -> float:
                assert digest(array) == wanted
                return timed(lambda: [digest(array) for _ in range(count)], count)

            return one_round

        return prepare

    contestants = (
        Contestant("raw xxh3", raw),
        Contestant("nbflow, any array", key_of(False)),
        Contestant("nbflow, a read-only result", key_of(True)),
    )
    goals = (Goal("nbflow, any array", 1.6, "raw xxh3"), Goal("nbflow, a read-only result", 20.0))
    return Scenario("same-array", "digest of an array of 100 MB", "µs", 1e6, contestants, goals, rounds=9)


MAKERS = (_file_scenario, _sealed_scenario)
"""Functions that make these scenarios; each takes whether to make them small."""
