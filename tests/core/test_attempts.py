"""The life of a call, by replies fed to the generator by hand: no clock, no thread, no loop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest

from nbflow.core.attempts import (
    Call,
    Emit,
    Hit,
    Lookup,
    Publish,
    Raised,
    Returned,
    Wait,
    attempts,
    ending,
    is_cancellation,
)
from nbflow.core.policy import NO_RETRY, Policy
from nbflow.errors import DatasetError, TaskCancelledError, TaskTimeoutError


def feed(
    life: Generator[Any, Any, Any],
    *,
    outcomes: Sequence[Any] = (),
    hit: Any = None,
    published: Any = None,
    waited: Any = None,
) -> tuple[list[str], Any]:
    """Answer every step and return the trace of steps and the outcome."""
    left = list(outcomes)
    trace: list[str] = []
    reply: Any = None
    while True:
        try:
            step = life.send(reply)
        except StopIteration as stop:
            assert not left, f"{len(left)} outcomes were never asked for"
            return trace, stop.value
        kind = type(step)
        trace.append(step.fact if kind is Emit else kind.__name__)
        reply = {Lookup: hit, Publish: published, Wait: waited}.get(kind)
        if kind is Call:
            reply = left.pop(0)


OOPS = ValueError("oops")


def test_success() -> None:
    """A call that returns is started, attempted and completed."""
    trace, out = feed(attempts(NO_RETRY), outcomes=[Returned(3)])
    assert trace == ["TaskStarted", "AttemptStarted", "Call", "TaskCompleted"]
    assert out == Returned(3)


def test_hit() -> None:
    """A hit completes the call without any attempt, and says what it saved."""
    life = attempts(NO_RETRY, cached=True)
    next(life)
    assert life.send(None) == Lookup()
    assert life.send(Hit(3, "abc", 9.0)) == Emit("TaskCompleted", {"cached": True, "saved_s": 9.0, "key": "abc"}, 3)
    with pytest.raises(StopIteration) as stop:
        life.send(None)
    assert stop.value.value == Returned(3)


def test_hit_of_none() -> None:
    """None is a result like any other: a hit of it is a hit."""
    trace, out = feed(attempts(NO_RETRY, cached=True), hit=Hit(None, "abc", 0.0))
    assert trace == ["TaskStarted", "Lookup", "TaskCompleted"]
    assert out == Returned(None)


def test_miss_saves() -> None:
    """After a miss the result is stored before the call is told to be complete."""
    trace, _ = feed(attempts(NO_RETRY, cached=True), outcomes=[Returned(3)])
    assert trace == ["TaskStarted", "Lookup", "AttemptStarted", "Call", "Save", "TaskCompleted"]


def test_retry() -> None:
    """A failed attempt is told, waited for and followed by the next."""
    trace, out = feed(attempts(Policy(retries=2, delay_s=1.0)), outcomes=[Raised(OOPS), Raised(OOPS), Returned(3)])
    again = ["AttemptStarted", "Call", "AttemptFailed", "RetryScheduled", "Wait"]
    assert trace == ["TaskStarted", *again, *again, "AttemptStarted", "Call", "TaskCompleted"]
    assert out == Returned(3)


def test_gives_up() -> None:
    """When no retry is left the call fails with the last error, and nothing is saved."""
    life = attempts(Policy(retries=1), cached=True, published=True)
    trace, out = feed(life, outcomes=[Raised(KeyError()), Raised(OOPS)])
    assert trace[-3:] == ["Call", "AttemptFailed", "TaskFailed"]
    assert "Save" not in trace
    assert "Publish" not in trace
    assert out == Raised(OOPS)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit(), TaskCancelledError("no")])
def test_cancellation_is_final(error: BaseException) -> None:
    """Interrupts and cancellation are never retried nor told as a failed attempt."""
    trace, out = feed(attempts(Policy(retries=9), cached=True), outcomes=[Raised(error)])
    assert trace == ["TaskStarted", "Lookup", "AttemptStarted", "Call", "TaskCancelled"]
    assert out == Raised(error)


def test_interrupted_wait() -> None:
    """An interrupt while waiting for the next attempt cancels the call."""
    trace, out = feed(attempts(Policy(retries=9)), outcomes=[Raised(OOPS)], waited=Raised(KeyboardInterrupt()))
    assert trace[-2:] == ["Wait", "TaskCancelled"]
    assert isinstance(out.error, KeyboardInterrupt)


def test_retry_on() -> None:
    """An error of a type that is not to be retried ends the call at once."""
    trace, _ = feed(attempts(Policy(retries=9, retry_on=(OSError,))), outcomes=[Raised(OOPS)])
    assert trace[-2:] == ["AttemptFailed", "TaskFailed"]


def test_publishing() -> None:
    """A result is saved as a dataset after it was cached, and before the call is told to be complete."""
    trace, _ = feed(attempts(NO_RETRY, cached=True, published=True), outcomes=[Returned(3)])
    assert trace[-4:] == ["Call", "Save", "Publish", "TaskCompleted"]


def test_failing_publishing() -> None:
    """A dataset that cannot be saved fails the call and never re-runs the function."""
    wrong = Raised(DatasetError("full"))
    trace, out = feed(attempts(Policy(retries=9), published=True), outcomes=[Returned(3)], published=wrong)
    assert trace == ["TaskStarted", "AttemptStarted", "Call", "Publish", "TaskFailed"]
    assert out == wrong


def test_failing_publishing_of_a_hit() -> None:
    """A hit whose dataset cannot be saved fails too, without an attempt."""
    wrong = Raised(DatasetError("full"))
    life = attempts(NO_RETRY, cached=True, published=True)
    trace, out = feed(life, hit=Hit(3, "abc", 0.0), published=wrong)
    assert trace == ["TaskStarted", "Lookup", "Publish", "TaskFailed"]
    assert out == wrong


def test_publishing_says_where_from() -> None:
    """The step says whether the value is a hit, since its dataset may be there already."""
    life = attempts(NO_RETRY, cached=True, published=True)
    next(life), life.send(None)
    assert life.send(Hit(3, "abc", 0.0)) == Publish(3, True)


def test_steps_carry_numbers_and_delays() -> None:
    """Attempts count from 1, and waits grow by the back-off."""
    life = attempts(Policy(retries=2, delay_s=1.0, backoff=3.0))
    steps: list[Any] = [next(life)]
    while len(steps) < 13:
        steps.append(life.send(Raised(OOPS) if isinstance(steps[-1], Call) else None))
    assert [step.number for step in steps if isinstance(step, Call)] == [1, 2, 3]
    assert [step.delay_s for step in steps if isinstance(step, Wait)] == [1.0, 3.0]
    assert [step.data["number"] for step in steps if isinstance(step, Emit) and "number" in step.data] == [
        1,
        1,
        2,
        2,
        2,
        3,
        3,
    ]


def test_jitter_takes_its_numbers_from_outside() -> None:
    """Randomness comes in as an argument."""
    life = attempts(Policy(retries=1, delay_s=2.0, jitter=0.5), random=lambda: 0.5)
    step: Any = next(life)
    while not isinstance(step, Wait):
        step = life.send(Raised(OOPS) if isinstance(step, Call) else None)
    assert step.delay_s == 2.5


@pytest.mark.parametrize(
    ("error", "timeout", "fact"),
    [
        (OOPS, None, "TaskFailed"),
        (TaskTimeoutError("late"), 1.0, "TaskTimedOut"),
        (TaskTimeoutError("that of an inner call"), None, "TaskFailed"),
        (TimeoutError("the user's own"), 1.0, "TaskFailed"),
        (KeyboardInterrupt(), 1.0, "TaskCancelled"),
        (TaskCancelledError("no"), None, "TaskCancelled"),
    ],
)
def test_endings(error: BaseException, timeout: float | None, fact: str) -> None:
    """The terminal fact follows from the error, and from whether the call itself has a timeout."""
    assert ending(error, Policy(timeout_s=timeout)).fact == fact


@pytest.mark.parametrize(
    ("make", "is_one"),
    [(KeyboardInterrupt, True), (ValueError, False), (TaskCancelledError, True), (TimeoutError, False)],
)
def test_is_cancellation(make: Callable[[], BaseException], is_one: bool) -> None:
    """What is no `Exception`, and `TaskCancelledError`, mean that somebody stopped the call."""
    assert is_cancellation(make()) is is_one
