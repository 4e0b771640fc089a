"""What can be explored without a kernel: ranges as controls, and which setting runs next."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest

from nbflow import explore
from nbflow.errors import DefinitionError, SessionError
from nbflow.notebook.explore.controls import Control, read_ranges
from nbflow.notebook.explore.latest import PATIENCE_S, REST_S, Latest


def control(given: Any, **starts: Any) -> Control:
    """Return the control that a range makes."""
    return read_ranges({"a": given}, starts)[0][0]


class TestControls:
    """Ranges, positions, values."""

    @pytest.mark.parametrize(
        ("given", "kind", "values"),
        [
            ((1, 4), "slider", [1, 2, 3, 4]),
            ((0, 10, 5), "slider", [0, 5, 10]),
            ((0, 9, 5), "slider", [0, 5]),
            ((0.0, 0.3, 0.1), "slider", [0.0, 0.1, 0.2, 0.3]),
            ((2, 2), "slider", [2]),
            (range(0, 10, 4), "slider", [0, 4, 8]),
            (["x", None, 3], "choice", ["x", None, 3]),
            ({"few": 1, "many": 9}, "choice", [1, 9]),
        ],
    )
    def test_numbered_positions(self, given: Any, kind: str, values: list[Any]) -> None:
        """Every position has its value, every value its position."""
        found = control(given)
        assert found.kind == kind
        assert [found.value(at) for at in range(found.steps or 0)] == values
        assert [found.position(value) for value in values] == list(range(len(values)))
        for wrong in (-1, len(values), True, "0", 1.0, None):
            with pytest.raises(DefinitionError, match="no position"):
                found.value(wrong)

    def test_other_controls(self) -> None:
        """Texts, booleans and dates are positions of their own; a date never leaves its range."""
        assert (control("x").kind, control("x").value("y"), control(True).kind) == ("text", "y", "check")
        days = control((date(2013, 1, 1), date(2013, 1, 31)))
        assert (days.kind, days.start, days.value("2013-01-09")) == ("date", "2013-01-01", date(2013, 1, 9))
        assert days.value("2099-01-01") == date(2013, 1, 31)
        times = control((datetime(2013, 1, 1), datetime(2013, 1, 2)))
        assert times.value("2013-01-01T12:30") == datetime(2013, 1, 1, 12, 30)
        with pytest.raises(DefinitionError, match="no date"):
            days.value("yesterday")

    def test_a_hundred_steps_of_a_float(self) -> None:
        """Without a step, floats go by round numbers and read as such."""
        found = control((0.0, 1.5))
        assert (found.step, found.steps, found.label(1)) == (0.01, 151, "0.01")
        assert control((0.0, 1.5), a=0.2).start == 20

    @pytest.mark.parametrize(("given", "start", "at"), [((1, 9), 4, 3), ((1, 9), 99, 0), (["x", "y"], "y", 1)])
    def test_the_default_is_where_it_begins(self, given: Any, start: Any, at: int) -> None:
        """A parameter's default, where it lies within the range."""
        assert control(given, a=start).start == at

    @pytest.mark.parametrize("value", [3, None, (1, 2, 3, 4), ("a", "b"), b"x", 2.5])
    def test_values_do_not_vary(self, value: Any) -> None:
        """What is no range is the value itself."""
        assert read_ranges({"a": value}, {}) == ([], {"a": value})

    @pytest.mark.parametrize(
        "given", [(3, 1), (0, 1, 0), (0, 1, -1), (0.0, float("inf")), [], {}, range(0), (0, 10**9),
                  (date(2014, 1, 1), date(2013, 1, 1))],
    )  # fmt: skip
    def test_bad_ranges(self, given: Any) -> None:
        """What is empty, goes down or has no end is refused with its name."""
        with pytest.raises(DefinitionError, match="^a"):
            control(given)

    def test_neighbours(self) -> None:
        """One step away, as far as there is one."""
        assert list(control((0, 2)).neighbours(1)) == [2, 0]
        assert list(control((0, 2)).neighbours(2)) == [1]
        assert list(control(True).neighbours(True)) == [False]
        assert list(control("x").neighbours("x")) == []


class TestLatest:
    """One runs, one waits, the latest wins."""

    def run(self, events: list[tuple[float, int]], takes_s: float, *, known: bool = True) -> list[tuple[float, int]]:
        """Play movements (time, setting) against calls that cannot be stopped, and return what was started when."""
        latest, started, now, ends = Latest(), [], 0.0, None
        if known:  # a first call has shown how long they take
            latest.want(0, -9.0)
            latest.started(0, -9.0)
            latest.ended(-9.0 + takes_s)
        waiting = list(events)
        while now < 20.0:
            if ends is not None and now >= ends:
                latest.ended(now)
                ends = None
            while waiting and waiting[0][0] <= now:
                latest.want(waiting.pop(0)[1], now)
            step = latest.next(now)
            if step is not None and step.do == "start":
                latest.started(step.setting, now)
                started.append((round(now, 2), step.setting))
                ends = now + takes_s
            now += 0.005
        return started

    def test_fifty_movements_in_a_second(self) -> None:
        """At most three calls of half a second, and the last movement is one of them."""
        for known in (True, False):
            started = self.run([(0.02 * n, n) for n in range(1, 51)], 0.5, known=known)
            assert len(started) <= 3 - known
            assert started[-1][1] == 50

    def test_quick_calls_follow_the_hand(self) -> None:
        """What takes no time runs for every movement."""
        assert len(self.run([(0.05 * n, n) for n in range(1, 11)], 0.01)) == 10

    def test_a_slow_call_starts_when_the_hand_rests(self) -> None:
        """A single movement waits for a moment; one that goes on and on is followed once a second."""
        assert self.run([(1.0, 7)], 0.5) == [(pytest.approx(1.0 + REST_S, abs=0.02), 7)]
        started = self.run([(0.05 * n, n) for n in range(1, 101)], 0.5)
        assert started[0][0] == pytest.approx(PATIENCE_S + 0.05, abs=0.05)
        assert 3 <= len(started) <= 6

    def test_what_runs_for_nobody_is_cancelled(self) -> None:
        """Once the hand rests elsewhere, and once only; what was computed ahead goes at once."""
        latest = Latest()
        latest.started(1, 0.0)
        latest.want(2, 0.1)
        assert latest.next(0.1).do == "wait"  # type: ignore[union-attr]
        assert latest.next(0.3).do == "cancel"  # type: ignore[union-attr]
        assert latest.next(0.4) is None
        latest.ended(0.5, stopped=True)
        assert latest.next(0.5) == ("start", 2, 0.0)
        latest.started(2, 0.5)
        latest.ended(0.6)
        latest.started(3, 1.0, ahead=True)
        latest.want(4, 1.1)
        assert latest.next(1.1).do == "cancel"  # type: ignore[union-attr]

    def test_back_to_what_runs(self) -> None:
        """Who returns to the setting that runs waits for it; if it was cancelled, it runs again."""
        latest = Latest()
        latest.started(1, 0.0)
        latest.want(2, 0.1)
        latest.want(1, 0.2)
        assert latest.next(5.0) is None
        latest.want(2, 0.3)
        assert latest.next(5.0).do == "cancel"  # type: ignore[union-attr]
        latest.want(1, 5.1)
        latest.ended(5.2, stopped=True)
        assert latest.next(9.0) == ("start", 1, 0.0)

    def test_a_cached_setting_does_not_wait(self) -> None:
        """It costs nothing, so it is shown at once."""
        latest = Latest()
        latest.started(1, 0.0)
        latest.ended(3.0)
        latest.want(2, 4.0)
        assert latest.next(4.0, cached=True) == ("start", 2, 0.0)
        assert latest.next(4.0).do == "wait"  # type: ignore[union-attr]


def test_without_a_notebook() -> None:
    """There is nothing to show controls in, which is said."""
    with pytest.raises(SessionError, match="%load_ext nbflow"):
        explore(lambda n: n, n=(1, 2))
