"""What `explore` makes of its ranges: a control for each parameter that may vary.

The front end knows *positions* only: the number of a slider's step or of a choice, a text, a date as text, a boolean.
`Control.value` turns a position into the value that the task gets, and refuses what is out of range, since positions
come from outside. Values that cannot vary are no controls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, TypeAlias

from nbflow.errors import DefinitionError

__all__ = ["Control", "Position", "read_ranges"]

Position: TypeAlias = int | str | bool
FLOAT_STEPS = 100
MAX_STEPS = 100_000


@dataclass(frozen=True, slots=True)
class Control:
    """One parameter that may vary.

    Args:
        name: The parameter.
        kind: slider, choice, text, check, date or datetime.
        start: Its first position.
        values: Of a choice: the values.
        labels: Of a choice: what people read.
        low, high, step: Of a slider: the numbers. Of dates: the first and the last.
        digits: Of a slider of floats: decimals of its values; None for whole numbers.
    """

    name: str
    kind: str
    start: Position
    values: tuple[Any, ...] = ()
    labels: tuple[str, ...] = ()
    low: Any = None
    high: Any = None
    step: Any = 1
    digits: int | None = None

    @property
    def steps(self) -> int | None:
        """Number of its positions, which are then 0, 1, …; None where they are no numbers."""
        if self.kind == "slider":
            return int((self.high - self.low) / self.step + 1e-9) + 1
        return len(self.values) if self.kind == "choice" else None

    def value(self, position: Any) -> Any:
        """Return the value at a position.

        Raises:
            DefinitionError: There is no such position.
        """
        steps = self.steps
        if steps is not None:
            if isinstance(position, bool) or not isinstance(position, int) or not 0 <= position < steps:
                raise DefinitionError(f"{self.name}: there is no position {position!r}; there are 0 to {steps - 1}.")
            if self.kind == "choice":
                return self.values[position]
            found = self.low + position * self.step
            return found if self.digits is None else round(float(found), self.digits)
        if self.kind == "check":
            return bool(position)
        if not isinstance(position, str):
            raise DefinitionError(f"{self.name}: {position!r} is no text.")
        if self.kind == "text":
            return position
        try:
            found = (datetime if self.kind == "datetime" else date).fromisoformat(position)
        except ValueError:
            raise DefinitionError(f"{self.name}: {position!r} is no date; write it as 2013-01-31.") from None
        return min(max(found, self.low), self.high)

    def position(self, value: Any) -> Position:
        """Return the position of a value, the nearest one on a slider.

        Raises:
            DefinitionError: The value is out of range.
        """
        try:
            if self.kind == "choice":
                same = (at for at, each in enumerate(self.values) if each is value or bool(each == value))
                return next(same)
            if self.kind == "slider" and self.low <= value <= self.high:
                nearest: int = round(float(value - self.low) / float(self.step))
                return min(nearest, (self.steps or 1) - 1)
            if self.kind == "check" and isinstance(value, bool):
                return value
            if self.kind == "text" and isinstance(value, str):
                return value
            if self.kind in ("date", "datetime") and self.low <= value <= self.high:
                return str(value.isoformat())
        except (TypeError, ValueError, StopIteration):
            pass
        raise DefinitionError(f"{self.name}={value!r} is not in its range, {self.range_words()}.")

    def range_words(self) -> str:
        """Return the range as people read it."""
        if self.kind == "choice":
            return ", ".join(self.labels[:8]) + (" …" if len(self.labels) > 8 else "")
        return {"check": "True or False", "text": "a text"}.get(self.kind, f"{self.low} to {self.high}")

    def label(self, position: Position) -> str:
        """Return a position as people read it."""
        if self.kind == "choice":
            return self.labels[int(position)]
        return str(self.value(position))

    def neighbours(self, position: Position) -> Iterator[Position]:
        """Yield the positions one step away."""
        if self.kind == "check":
            yield not position
        elif (steps := self.steps) is not None:
            yield from (each for each in (int(position) + 1, int(position) - 1) if 0 <= each < steps)

    def describe(self) -> dict[str, Any]:
        """Return what the front end needs to draw it."""
        facts: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.kind == "slider":
            facts |= {"steps": self.steps, "low": self.low, "step": self.step, "digits": self.digits}
        elif self.kind == "choice":
            facts |= {"labels": list(self.labels)}
        elif self.kind in ("date", "datetime"):
            facts |= {"low": self.low.isoformat(), "high": self.high.isoformat()}
        return facts


def read_ranges(ranges: Mapping[str, Any], starts: Mapping[str, Any]) -> tuple[list[Control], dict[str, Any]]:
    """Return the controls for what may vary, and the values of the rest.

    Args:
        ranges: The keyword arguments of `explore`.
        starts: Values to begin with, where they lie within the range.

    Raises:
        DefinitionError: A range is empty, or goes down.
    """
    controls: list[Control] = []
    fixed: dict[str, Any] = {}
    for name, given in ranges.items():
        control = _control(name, given)
        if control is None:
            fixed[name] = given
            continue
        if name in starts and control.kind not in ("text", "check"):
            try:
                control = replace(control, start=control.position(starts[name]))
            except DefinitionError:
                pass  # a default outside of the range is nobody's fault
        controls.append(control)
    return controls, fixed


def _control(name: str, given: Any) -> Control | None:
    """Return the control for a range, or None for a value."""
    if isinstance(given, bool):
        return Control(name, "check", given)
    if isinstance(given, str):
        return Control(name, "text", given)
    if isinstance(given, range):
        given = _ascending(name, given)
    if isinstance(given, (list, Mapping)):
        if not given:
            raise DefinitionError(f"{name}={given!r}: there is nothing to choose from.")
        labels = [str(each) for each in given]
        values = list(given.values()) if isinstance(given, Mapping) else given
        return Control(name, "choice", 0, values=tuple(values), labels=tuple(labels))
    if not isinstance(given, tuple) or len(given) not in (2, 3):
        return None
    if all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in given):
        return _slider(name, *given)
    if len(given) == 2 and all(isinstance(each, date) for each in given):
        kind = "datetime" if all(isinstance(each, datetime) for each in given) else "date"
        if type(given[0]) is not type(given[1]):
            raise DefinitionError(f"{name}={given!r}: give two dates, or two datetimes.")
        if given[0] > given[1]:
            raise DefinitionError(f"{name}={given!r}: the first date must not be later than the last.")
        return Control(name, kind, given[0].isoformat(), low=given[0], high=given[1])
    return None


def _ascending(name: str, given: range) -> tuple[int, int, int]:
    if not given:
        raise DefinitionError(f"{name}={given!r} is empty.")
    return (min(given), max(given), abs(given.step))


def _slider(name: str, low: Any, high: Any, step: Any = None) -> Control:
    if not all(math.isfinite(each) for each in (low, high, *([] if step is None else [step]))):
        raise DefinitionError(f"{name}=({low!r}, {high!r}): give finite numbers.")
    if low > high or (step is not None and not step > 0):
        raise DefinitionError(f"{name}: give (low, high) or (low, high, step) with low ≤ high and step > 0.")
    whole = all(isinstance(each, int) for each in (low, high, step) if each is not None)
    if step is None:
        step = 1 if whole else (_round_step((high - low) / FLOAT_STEPS) or 1.0)
    if (high - low) / step > MAX_STEPS:
        raise DefinitionError(f"{name}: more than {MAX_STEPS:,} steps; give a larger step: ({low}, {high}, step).")
    digits = None if whole else max(_decimals(low), _decimals(step))
    return Control(name, "slider", 0, low=low, high=high, step=step, digits=digits)


def _round_step(step: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above `step`, so that values read well."""
    if step <= 0:
        return 0.0
    power = math.floor(math.log10(step))
    return next(factor for factor in (5, 2, 1) if factor * 10.0**power <= step * (1 + 1e-9)) * 10.0**power


def _decimals(number: float) -> int:
    text = f"{number:.12f}".rstrip("0")
    return len(text.partition(".")[2])
