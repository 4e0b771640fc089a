"""How a scenario is measured: interleaved rounds in random order, ratios within a round, medians over rounds.

Nothing here knows what is measured. A contestant is prepared once and then gives one figure a round; whoever cannot be
imported is reported as missing. A contestant checks its own results: a figure for wrong work is worth nothing.
"""

from __future__ import annotations

import gc
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

__all__ = ["Contestant", "Figures", "Goal", "Result", "Scenario", "chosen", "measure", "new_folder", "sized", "timed"]

Round = Callable[[], float]


@dataclass(frozen=True)
class Contestant:
    """Who takes part: `prepare` gets a stack for whatever must be closed, and returns what gives one figure a round."""

    name: str
    prepare: Callable[[ExitStack], Round]


@dataclass(frozen=True)
class Goal:
    """What `who` should reach: at most `limit` times `peer`, or at most `limit` units where there is no peer."""

    who: str
    limit: float
    peer: str | None = None


@dataclass(frozen=True)
class Scenario:
    """Some contestants doing the same work; the first one is the floor."""

    name: str
    title: str
    unit: str
    scale: float
    contestants: tuple[Contestant, ...]
    goals: tuple[Goal, ...] = ()
    rounds: int = 15


@dataclass
class Figures:
    """The figures of one contestant, one a round, in the scenario's unit; or why there are none."""

    rounds: list[float] = field(default_factory=list)
    missing: str | None = None


@dataclass
class Result:
    """All figures of one scenario."""

    scenario: Scenario
    figures: dict[str, Figures]

    def middle(self, name: str) -> float | None:
        """Return the median figure of a contestant, or None if it was missing."""
        rounds = self.figures[name].rounds
        return median(rounds) if rounds else None

    def ratio(self, name: str, peer: str) -> float | None:
        """Return the median of same-round ratios of two contestants, or None if one of them was missing."""
        pairs = zip(self.figures[name].rounds, self.figures[peer].rounds, strict=False)
        ratios = [mine / theirs for mine, theirs in pairs if theirs]
        return median(ratios) if ratios else None

    def reached(self, goal: Goal) -> float | None:
        """Return what a goal's `limit` is to be compared with."""
        return self.middle(goal.who) if goal.peer is None else self.ratio(goal.who, goal.peer)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        floor = self.scenario.contestants[0].name
        return {
            "scenario": self.scenario.name,
            "title": self.scenario.title,
            "unit": self.scenario.unit,
            "contestants": [
                {
                    "name": name,
                    "missing": found.missing,
                    "median": self.middle(name),
                    "ratio_to_floor": self.ratio(name, floor),
                    "rounds": found.rounds,
                }
                for name, found in self.figures.items()
            ],
            "goals": [
                {
                    "who": goal.who,
                    "peer": goal.peer,
                    "limit": goal.limit,
                    "reached": (reached := self.reached(goal)),
                    "passed": None if reached is None else reached <= goal.limit,
                }
                for goal in self.scenario.goals
            ],
        }


def measure(scenario: Scenario, *, rounds: int, seed: int) -> Result:
    """Run a scenario.

    Args:
        scenario: What to run.
        rounds: How often each contestant runs; one more round before the first is not counted.
        seed: Of the order within rounds.
    """
    order = random.Random(seed)
    figures = {contestant.name: Figures() for contestant in scenario.contestants}
    with ExitStack() as stack:
        runners: list[tuple[str, Round]] = []
        for contestant in scenario.contestants:
            try:
                runners.append((contestant.name, contestant.prepare(stack)))
            except ImportError as error:
                if (error.name or "").startswith("nbflow"):
                    raise
                figures[contestant.name].missing = f"not installed ({error.name or error})"
        for number in range(rounds + 1):
            order.shuffle(runners)
            for name, run in runners:
                figure = run() * scenario.scale
                if number:
                    figures[name].rounds.append(figure)
    return Result(scenario, figures)


def timed(work: Callable[[], Any], count: int) -> float:
    """Return the seconds of each of the `count` operations that `work` does; the garbage collector waits meanwhile."""
    gc.collect()
    gc.disable()
    try:
        began = perf_counter()
        work()
        return (perf_counter() - began) / count
    finally:
        gc.enable()


def new_folder(stack: ExitStack) -> Path:
    """Return an empty folder that goes with the stack."""
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nbflow-bench-")))


def sized(size: int, quick: bool) -> int:
    """Return a tenth of a size where the run is to be quick."""
    return max(1, size // 10) if quick else size


def chosen(known: list[Scenario], names: list[str]) -> Iterator[Scenario]:
    """Yield the scenarios of these names, or all of them."""
    unknown = set(names) - {scenario.name for scenario in known}
    if unknown:
        raise SystemExit(
            f"no scenario {', '.join(sorted(unknown))}; there are: {', '.join(each.name for each in known)}"
        )
    yield from (scenario for scenario in known if not names or scenario.name in names)
