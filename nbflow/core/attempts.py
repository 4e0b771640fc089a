"""The life of one call, as a plain generator that yields *steps* and is sent *replies*.

Every decision of a call is made here, once for all four kinds of task: look up → attempt → save → finish. A driver
performs the steps in whatever way its world demands (blocking, awaiting, over a pipe) and sends back what came of
them; failures travel as values, so the user's traceback stays clean. The rules:

* Only `Call` runs the user's function. A failing save can fail the call (`Publish`) or be noted (`Save`), never re-run
  it.
* Anything raised that is not an `Exception`, and `TaskCancelledError`, is a cancellation: no retry, no cache.
* Exactly one terminal fact is emitted, and nothing after it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from nbflow._typing import Any, Literal, NamedTuple, TypeAlias
from nbflow.core.policy import Policy
from nbflow.errors import TaskCancelledError, TaskTimeoutError

__all__ = [
    "LOOKUP",
    "Call",
    "Emit",
    "Fact",
    "Hit",
    "Lookup",
    "Outcome",
    "Publish",
    "Raised",
    "Returned",
    "Save",
    "Wait",
    "attempts",
    "ending",
    "is_cancellation",
]


Fact: TypeAlias = Literal[
    "AttemptFailed",
    "AttemptStarted",
    "RetryScheduled",
    "TaskCancelled",
    "TaskCompleted",
    "TaskFailed",
    "TaskStarted",
    "TaskTimedOut",
]


class Returned(NamedTuple):
    """The function returned `value`."""

    value: Any


class Raised(NamedTuple):
    """The function (or a wait) raised `error`."""

    error: BaseException


Outcome: TypeAlias = Returned | Raised


class Hit(NamedTuple):
    """The cache has the result: what it is, its key, and the seconds it had cost."""

    value: Any
    key: str
    saved_s: float


class Emit(NamedTuple):
    """Make this fact (an event class of `core.events`, by name) known; the driver adds call, name and time.

    `value` is the result, where there is one. No reply.
    """

    fact: Fact
    data: dict[str, Any]
    value: Any = None


class Lookup(NamedTuple):
    """Ask the cache. Reply: `Hit` or None; never fails."""


class Call(NamedTuple):
    """Run the user's function. Reply: `Returned` or `Raised`."""

    number: int


class Save(NamedTuple):
    """Store the result in the cache. Reply: None, or `Returned` with what to hand out instead; never fails."""

    value: Any


class Publish(NamedTuple):
    """Save the result as a dataset. Reply: None, or `Raised`."""

    value: Any
    cached: bool


class Wait(NamedTuple):
    """Let `delay_s` seconds pass. Reply: None, or `Raised` when the wait was interrupted."""

    delay_s: float


Step: TypeAlias = Emit | Lookup | Call | Save | Publish | Wait

LOOKUP = Lookup()


def attempts(
    policy: Policy,
    *,
    cached: bool = False,
    published: bool = False,
    random: Callable[[], float] = lambda: 0.0,
) -> Generator[Step, Any, Outcome]:
    """Run one call to its end.

    Args:
        policy: Retries and delays.
        cached: Whether the call takes part in caching.
        published: Whether its result is to be saved as a dataset.
        random: Source of numbers in [0, 1) for jitter.

    Returns:
        The outcome of the call, as the generator's return value.
    """
    yield Emit("TaskStarted", {})
    if cached and (hit := (yield LOOKUP)) is not None:
        out: Outcome = Returned(hit.value)
        if published and isinstance(failed := (yield Publish(hit.value, True)), Raised):
            out = failed
        if isinstance(out, Returned):
            yield Emit("TaskCompleted", {"cached": True, "saved_s": hit.saved_s, "key": hit.key}, hit.value)
        else:
            yield ending(out.error, policy)
        return out
    number = 1
    while True:
        yield Emit("AttemptStarted", {"number": number})
        out = yield Call(number)
        if isinstance(out, Returned):
            if cached and isinstance(kept := (yield Save(out.value)), Returned):
                out = kept
            if published and isinstance(failed := (yield Publish(out.value, False)), Raised):
                yield ending(failed.error, policy)
                return failed
            yield Emit("TaskCompleted", {}, out.value)
            return out
        error = out.error
        if is_cancellation(error):
            break
        yield Emit("AttemptFailed", {"number": number, "error": error})
        delay = policy.delay_after(number, error, random)
        if delay is None:
            break
        number += 1
        yield Emit("RetryScheduled", {"number": number, "delay_s": delay})
        if isinstance(waited := (yield Wait(delay)), Raised):
            out = waited
            break
    yield ending(out.error, policy)
    return out


def is_cancellation(error: BaseException) -> bool:
    """Whether `error` means that somebody stopped the call, rather than that it failed."""
    return not isinstance(error, Exception) or isinstance(error, TaskCancelledError)


def ending(error: BaseException, policy: Policy) -> Emit:
    """Return the terminal fact of a call that ended with `error`."""
    if is_cancellation(error):
        return Emit("TaskCancelled", {"error": error})
    if isinstance(error, TaskTimeoutError) and policy.timeout_s is not None:
        return Emit("TaskTimedOut", {"timeout_s": policy.timeout_s, "error": error})
    return Emit("TaskFailed", {"error": error})
