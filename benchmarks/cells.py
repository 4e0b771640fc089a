"""Cells as tasks: what `%%task` adds to a trivial cell in a real kernel, when it runs and when it is restored.

A cell is timed from the request to the kernel's word that it is idle, as a front end sees it. Each figure is the median
of differences between a task cell and a plain cell that run right after each other, so that the load of the machine
counts for both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.method import Contestant, Goal, Round, Scenario, new_folder

__all__ = ["MAKERS"]

_LIMIT_S = 60.0
_PLAIN = "plain = {0} + 1"
_TASK = "%%task\nmade = {0} + 1"


def _kernel(stack: ExitStack) -> Callable[[str], float]:
    """Start a kernel with nbflow; return what runs a cell in it and returns the seconds that it took."""
    from jupyter_client.manager import start_new_kernel

    folder = str(new_folder(stack))
    home = str(Path(folder) / ".nbflow")
    manager, client = start_new_kernel(
        startup_timeout=_LIMIT_S, cwd=folder, env={**os.environ, "NBFLOW_HOME": home, "IPYTHONDIR": folder}
    )
    stack.callback(manager.shutdown_kernel, now=True)
    stack.callback(client.stop_channels)

    def run(code: str) -> float:
        began = perf_counter()
        reply: Any = client.execute_interactive(code, timeout=_LIMIT_S, output_hook=lambda message: None)
        took = perf_counter() - began
        assert reply["content"]["status"] == "ok", reply["content"]
        return took

    run("%load_ext nbflow")
    return run


def _plain(number: int) -> Callable[[ExitStack], Round]:
    def prepare(stack: ExitStack) -> Round:
        run, numbers = _kernel(stack), count()
        return lambda: median(run(_PLAIN.format(next(numbers))) for _ in range(number))

    return prepare


def _over_plain(number: int, task: Callable[[int], str]) -> Callable[[ExitStack], Round]:
    """Return a contestant whose figure is what the cell `task(n)` takes more than a plain one."""

    def prepare(stack: ExitStack) -> Round:
        run, numbers = _kernel(stack), count()
        run(task(next(numbers)))

        def one_round() -> float:
            found = []
            for _ in range(number):
                here = next(numbers)
                plain = run(_PLAIN.format(here))
                found.append(run(task(here)) - plain)
            return median(found)

        return one_round

    return prepare


def _cells(quick: bool) -> Scenario:
    number = 5 if quick else 20
    return Scenario(
        "cell",
        "a trivial cell in a kernel; for tasks, what they take more than a plain one",
        "ms a cell",
        1e3,
        (
            Contestant("plain", _plain(number)),
            Contestant("computed", _over_plain(number, _TASK.format)),
            Contestant("restored", _over_plain(number, lambda here: _TASK.format(0))),
        ),
        (Goal("computed", 10.0), Goal("restored", 3.0)),
        rounds=7,
    )


MAKERS: tuple[Callable[[bool], Scenario], ...] = (_cells,)
