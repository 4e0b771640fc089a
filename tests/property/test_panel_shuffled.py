"""The panel's reducer under hypothesis: late, doubled and missing events never change where a run ends."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nbflow.core import events
from nbflow.notebook.panel import rows as r
from nbflow.notebook.panel.html import render_html
from nbflow.notebook.panel.model import Model
from nbflow.notebook.panel.text import render_text
from nbflow.notebook.panel.widget import encode

ENDS = ("done", "cached", "failed", "cancelled", "timed out")


def call_events(number: int, task: str, parent: int | None, attempts: int, end: str, at: float) -> list[events.Event]:
    """Return a whole call by the grammar of events."""
    common: dict[str, Any] = {"call_id": number, "name": task}
    facts: list[events.Event] = [
        events.TaskStarted(**common, time=at, task=task, kind="sync", backend="inline", parent_id=parent)
    ]
    if end != "cached":
        for attempt in range(1, attempts + 1):
            facts.append(events.AttemptStarted(**common, time=at + attempt, number=attempt))
            if attempt < attempts:
                facts.append(events.AttemptFailed(**common, time=at + attempt, number=attempt, error="E"))
                facts.append(events.RetryScheduled(**common, time=at + attempt, number=attempt + 1, delay_s=1.0))
    common |= {"time": at + attempts + 1, "duration_s": 1.0, "attempts": attempts}
    facts.append(
        {
            "done": lambda: events.TaskCompleted(**common),
            "cached": lambda: events.TaskCompleted(**common, cached=True, saved_s=2.0),
            "failed": lambda: events.TaskFailed(**common, error="E", error_type="E", traceback="T"),
            "cancelled": lambda: events.TaskCancelled(**common),
            "timed out": lambda: events.TaskTimedOut(**common, timeout_s=1.0, error="late"),
        }[end]()
    )
    return facts


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[events.Event], r.Counts]:
    """Return the events of a run (calls that may be nested, and a map), and the counts that it must end with."""
    facts: list[events.Event] = []
    expected = r.Counts()
    for number in range(1, draw(st.integers(1, 25)) + 1):
        end = draw(st.sampled_from(ENDS))
        parent = draw(st.none() | st.integers(1, number - 1)) if number > 1 else None
        attempts = draw(st.integers(1, 3))
        facts += call_events(number, draw(st.sampled_from("fgh")), parent, attempts, end, float(number))
        expected.add(
            r.Counts(
                done=end == "done",
                cached=end == "cached",
                failed=end in ("failed", "timed out"),
                cancelled=end == "cancelled",
                saved_s=2.0 * (end == "cached"),
            )
        )
    total = draw(st.integers(0, 8))
    if total:
        common: dict[str, Any] = {"call_id": 1000, "name": "f", "total": total}
        facts.append(events.MapStarted(**common, time=1.0, backend="thread"))
        zero = {"cached": 0, "failed": 0, "cancelled": 0}
        for done in range(total):
            facts.append(events.MapProgressed(**common, **zero, time=2.0 + done, completed=done, running=1))
        facts.append(events.MapEnded(**common, **zero, time=50.0, completed=total, duration_s=49.0))
        expected.add(r.Counts(done=total))
    return facts, expected


def folded(facts: list[events.Event]) -> Model:
    """Fold all events into a new model."""
    model = Model()
    for fact in facts:
        model.apply(fact)
    return model


@settings(deadline=None)
@given(run=runs(), data=st.data())
def test_order_and_repetition_do_not_matter_for_the_end(run: Any, data: st.DataObject) -> None:
    """Shuffled and doubled, the same events give the same totals, and nothing is left running."""
    facts, expected = run
    shuffled = data.draw(st.permutations(facts + data.draw(st.lists(st.sampled_from(facts), max_size=10))))
    for order in (facts, shuffled):
        model = folded(list(order))
        assert model.totals() == expected
        assert not model.live


@settings(deadline=None)
@given(run=runs(), data=st.data())
def test_missing_events_leave_something_that_can_be_shown_and_closed(run: Any, data: st.DataObject) -> None:
    """With events lost, every face still draws, and closing leaves nothing live."""
    facts, _ = run
    kept = [fact for fact in facts if data.draw(st.booleans())]
    model = folded(kept)
    for limit in (1, 3, 100):
        view = model.view(limit)
        assert len(view.lines) <= limit
        assert len(view.lines) + view.hidden >= min(len(model.rows), 1)
    render_html(model, now=60.0)
    render_text(model, now=60.0)
    encode(model, hears=False)
    model.close()
    assert not model.live
    assert all(count >= 0 for count in (model.totals().running, model.totals().queued, model.totals().left))
    encode(model, hears=False)


@settings(deadline=None)
@given(run=runs())
def test_terminal_events_alone_are_enough(run: Any) -> None:
    """Even if nothing but the ends arrive, the totals are right."""
    facts, expected = run
    ends = [fact for fact in facts if isinstance(fact, (events.Terminal, events.MapEnded))]
    assert folded(ends).totals() == expected
