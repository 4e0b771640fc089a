"""Scenarios of importing: how long it takes in a fresh process, and how much memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.method import Contestant, Goal, Round, Scenario

__all__ = ["MAKERS"]

_CHILD = """
import json, sys, time
began = time.perf_counter()
{statement}
took = time.perf_counter() - began
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([took, int(peak.split()[1]) / 1024]))
"""


def _import_scenario(module: str, what: str) -> Callable[[bool], Scenario]:
    position = ("time", "memory").index(what)

    def importing(name: str | None) -> Callable[[ExitStack], Round]:
        code = _CHILD.format(statement=f"import {name}" if name else "pass")

        def child() -> list[float]:
            env = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
            if done.returncode:
                raise ImportError(done.stderr.strip().splitlines()[-1], name=name)
            found: list[float] = json.loads(done.stdout)
            return found

        def prepare(stack: ExitStack) -> Round:
            child()
            return lambda: child()[position]

        return prepare

    names = ["diskcache", "nbflow", "daglite", "joblib", "asyncio"]
    contestants = [Contestant(name, importing(name)) for name in names]
    if what == "memory":
        contestants.insert(0, Contestant("Python alone", importing(None)))
    by_time = (Goal("nbflow", 0.35, "daglite"), Goal("nbflow", 40.0))
    goals = by_time if what == "time" else (Goal("nbflow", 20.0),)
    title = "time of `import` in a fresh process" if what == "time" else "peak memory of a process that only imports"
    unit, scale = ("ms", 1e3) if what == "time" else ("MiB", 1.0)
    return lambda quick: Scenario(module, title, unit, scale, tuple(contestants), goals, rounds=9)


MAKERS: tuple[Callable[[bool], Scenario], ...] = (
    _import_scenario("import", "time"),
    *([_import_scenario("import-memory", "memory")] if os.path.exists("/proc/self/status") else []),
)
