"""Scenarios on a Dask cluster: `map_tasks` beside `client.map`, on the same two workers.

The cluster is started once and is warm. nbflow uses it as it would a user's own: by its client. Since figures of single
tasks of 5 ms hardly differ, and those of trivial ones do, both are measured.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks.method import Contestant, Goal, Round, Scenario, timed

__all__ = ["MAKERS"]


def _trivial(n: int) -> int:
    return 2 * n


def _short(n: int) -> int:
    until = time.perf_counter() + 0.005
    while time.perf_counter() < until:
        pass
    return 2 * n


@functools.cache
def _client() -> Any:
    """Return the client of a cluster of two worker processes, which ends with this process."""
    from distributed import Client

    return Client(n_workers=2, threads_per_worker=1, dashboard_address=":0", set_as_default=False)


def _scenario(name: str, what: str, work: Callable[[int], int], count: int) -> Scenario:
    wanted = [2 * n for n in range(count)]

    def checked(run: Callable[[], list[int]]) -> float:
        found: list[int] = []
        took = timed(lambda: found.extend(run()), count)
        assert found == wanted, "wrong results"
        return took

    def dask(stack: ExitStack) -> Round:
        client = _client()
        return lambda: checked(lambda: client.gather(client.map(work, range(count), pure=False)))

    def ours(stack: ExitStack) -> Round:
        import nbflow

        session = stack.enter_context(nbflow.session(backend=_client()))
        task = nbflow.task(work)
        assert nbflow.map_tasks(task, range(20), backend=session.backend) == wanted[:20]
        return lambda: checked(lambda: nbflow.map_tasks(task, range(count), backend=session.backend))

    return Scenario(
        name,
        f"map of {count:,} {what} tasks on a warm Dask cluster of two workers",
        "µs a task",
        1e6,
        (Contestant("client.map", dask), Contestant("nbflow", ours)),
        (Goal("nbflow", 1.3, "client.map"),),
        rounds=7,
    )


def _trivial_scenario(quick: bool) -> Scenario:
    return _scenario("dask", "trivial", _trivial, 100 if quick else 1_000)


def _short_scenario(quick: bool) -> Scenario:
    return _scenario("dask-short", "5 ms", _short, 20 if quick else 200)


MAKERS = (_trivial_scenario, _short_scenario)
