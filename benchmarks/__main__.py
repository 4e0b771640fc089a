"""`python -m benchmarks [SCENARIO ...] [--json FILE]`: run scenarios and print their tables.

Goals are printed beside what was reached. They never decide the exit code: a busy machine can miss one, so a person (or
a script that reads the JSON) has to judge. A scenario whose results are wrong does end the run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.method import Goal, Result, chosen, measure
from benchmarks.scenarios import scenarios

__all__ = ["main"]

_PEERS = ("nbflow", "daglite", "diskcache", "joblib")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=sys.modules["benchmarks"].__doc__)
    parser.add_argument("scenario", nargs="*", help="names of scenarios; default: all")
    parser.add_argument("--list", action="store_true", help="say which scenarios there are")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write all figures there")
    parser.add_argument("--rounds", type=int, help="rounds of each scenario; default: its own number, 9 to 15")
    parser.add_argument("--quick", action="store_true", help="three rounds of a tenth of the size: does it run at all?")
    parser.add_argument("--seed", type=int, help="seed of the random order; default: a new one, which is printed")
    options = parser.parse_args(argv)
    known = scenarios(options.quick)
    if options.list:
        for scenario in known:
            print(f"{scenario.name:14} {scenario.title}")
        return 0
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    about = machine(seed)
    print(" · ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    results = []
    for scenario in chosen(known, options.scenario):
        rounds = options.rounds or (3 if options.quick else scenario.rounds)
        began = perf_counter()
        result = measure(scenario, rounds=rounds, seed=seed)
        results.append(result)
        print(f"\n{table(result)}\n({rounds} rounds, {perf_counter() - began:.0f} s)", flush=True)
    print(f"\n{verdict(results)}")
    if options.json is not None:
        whole = {"machine": about, "results": [result.as_json() for result in results]}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return 0


def machine(seed: int) -> dict[str, Any]:
    """Return what the figures depend on."""
    found: dict[str, Any] = {"Python": platform.python_version(), "CPUs": os.cpu_count(), "system": platform.system()}
    for name in _PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return {**found, "seed": seed}


def table(result: Result) -> str:
    """Return a scenario's table, with its goals below."""
    scenario = result.scenario
    floor = scenario.contestants[0].name
    widest = max(len(contestant.name) for contestant in scenario.contestants)
    lines = [f"{scenario.name}: {scenario.title}", f"  {'':{widest}}  {scenario.unit:>12}  {'× first':>10}"]
    for contestant in scenario.contestants:
        name = contestant.name
        middle, ratio, missing = result.middle(name), result.ratio(name, floor), result.figures[name].missing
        if middle is None:
            lines.append(f"  {name:{widest}}  {missing}")
        else:
            lines.append(f"  {name:{widest}}  {_short(middle):>12}  {'–' if ratio is None else _short(ratio):>10}")
    return "\n".join([*lines, *(f"  {_judged(result, goal)}" for goal in scenario.goals)])


def _judged(result: Result, goal: Goal) -> str:
    reached = result.reached(goal)
    against = f"× {goal.peer}" if goal.peer is not None else result.scenario.unit
    wanted = f"{goal.who} ≤ {goal.limit:g} {against}"
    if reached is None:
        return f"goal  {wanted}: not measured"
    return f"goal  {wanted}: {_short(reached)}, {'passed' if reached <= goal.limit else 'FAILED'}"


def verdict(results: list[Result]) -> str:
    """Return one line about all goals."""
    counts = {True: 0, False: 0, None: 0}
    for result in results:
        for goal in result.scenario.goals:
            reached = result.reached(goal)
            counts[None if reached is None else reached <= goal.limit] += 1
    return f"goals: {counts[True]} passed, {counts[False]} failed, {counts[None]} not measured"


def _short(number: float) -> str:
    """Return a number with three digits that count, without an exponent."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


if __name__ == "__main__":
    sys.exit(main())
