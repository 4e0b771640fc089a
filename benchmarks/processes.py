"""Scenarios on worker processes: the first result, a single call, and one large array for many calls.

All pools have two workers. "First result" is that of a new pool in a program that has had one before, as in a notebook
after its first map; what is measured includes the making of the pool, not its end, and no import of a module (which an
executor that forks this program has done already). The array is a new one each round,
or the same one again; joblib is asked the way its documentation asks, and maps the array as nbflow does.
"""

from __future__ import annotations

import operator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from time import perf_counter
from typing import Any

from benchmarks.method import Contestant, Goal, Round, Scenario, timed

__all__ = ["MAKERS"]

_WORKERS = 2


def _negative(number: int) -> int:
    return -number


def _item(array: Any, index: int) -> float:
    return float(array[index])


def _session(stack: ExitStack) -> Any:
    import nbflow
    from nbflow.settings import load_settings

    return stack.enter_context(nbflow.session(settings=load_settings(max_parallel_processes=_WORKERS)))


def _backend(session: Any) -> Any:
    from nbflow.backends import ProcessBackend

    backend = ProcessBackend()
    backend.start(session)
    return backend


def _started(stack: ExitStack) -> Any:
    backend = _backend(_session(stack))
    stack.callback(backend.stop)
    assert [backend.dispatch(_negative, (number,)).result() for number in range(4)] == [0, -1, -2, -3]
    return backend


def _first_scenario(quick: bool) -> Scenario:
    def executor(stack: ExitStack) -> Round:
        def one_round() -> float:
            began = perf_counter()
            with ProcessPoolExecutor(_WORKERS) as pool:
                assert pool.submit(operator.neg, 3).result() == -3
                return perf_counter() - began

        return one_round

    def loky(stack: ExitStack) -> Round:
        from loky import ProcessPoolExecutor as LokyExecutor

        def one_round() -> float:
            began = perf_counter()
            with LokyExecutor(_WORKERS) as pool:
                assert pool.submit(operator.neg, 3).result() == -3
                return perf_counter() - began

        return one_round

    def nbflow(stack: ExitStack) -> Round:
        session = _session(stack)

        def one_round() -> float:
            began = perf_counter()
            backend = _backend(session)
            try:
                assert backend.dispatch(operator.neg, (3,)).result() == -3
                return perf_counter() - began
            finally:
                backend.stop()

        return one_round

    return Scenario(
        "process-first",
        "first result of a new pool of processes",
        "ms",
        1e3,
        (Contestant("ProcessPoolExecutor", executor), Contestant("nbflow", nbflow), Contestant("loky", loky)),
        (Goal("nbflow", 1.5, "ProcessPoolExecutor"),),
    )


def _call_scenario(quick: bool) -> Scenario:
    count = 50 if quick else 500

    def measured(submit: Any) -> Round:
        def calls() -> None:
            for number in range(count):
                assert submit(_negative, number).result() == -number

        return lambda: timed(calls, count)

    def executor(stack: ExitStack) -> Round:
        return measured(stack.enter_context(ProcessPoolExecutor(_WORKERS)).submit)

    def loky(stack: ExitStack) -> Round:
        from loky import ProcessPoolExecutor as LokyExecutor

        return measured(stack.enter_context(LokyExecutor(_WORKERS)).submit)

    def nbflow(stack: ExitStack) -> Round:
        backend = _started(stack)
        return measured(lambda work, number: backend.dispatch(work, (number,)))

    return Scenario(
        "process-call",
        "one call on a process, there and back",
        "µs",
        1e6,
        (Contestant("ProcessPoolExecutor", executor), Contestant("nbflow", nbflow), Contestant("loky", loky)),
        (Goal("nbflow", 1.0, "ProcessPoolExecutor"),),
    )


def _array_scenario(quick: bool, again: bool) -> Scenario:
    length, tasks = (1_250_000, 10) if quick else (12_500_000, 100)

    def measured(run: Any) -> Round:
        import numpy

        def one_round() -> float:
            array = numpy.random.default_rng().random(length)
            if again:
                run(array)
            found: list[float] = []
            took = timed(lambda: found.extend(run(array)), 1)
            assert found == array[:tasks].tolist(), "wrong results"
            return took

        return one_round

    def joblib(stack: ExitStack) -> Round:
        from joblib import Parallel, delayed

        return measured(lambda array: Parallel(n_jobs=_WORKERS)(delayed(_item)(array, index) for index in range(tasks)))

    def nbflow(stack: ExitStack) -> Round:
        import nbflow

        _session(stack)
        item = nbflow.task(_item)
        return measured(lambda array: nbflow.map_tasks(item, [array] * tasks, range(tasks), backend="process"))

    which = "the same 100 MB array again" if again else "a new array of 100 MB"
    return Scenario(
        "process-again" if again else "process-array",
        f"{tasks} calls on processes that share {which}",
        "ms",
        1e3,
        (Contestant("joblib", joblib), Contestant("nbflow", nbflow)),
        (Goal("nbflow", 0.25 if again else 0.6, "joblib"),),
        rounds=9,
    )


MAKERS = (
    _first_scenario,
    _call_scenario,
    lambda quick: _array_scenario(quick, False),
    lambda quick: _array_scenario(quick, True),
)
"""Each makes one scenario."""
