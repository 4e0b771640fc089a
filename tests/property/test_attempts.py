"""Whatever attempts come to and whatever hooks and observers do, a call is told by the grammar of events."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nbflow import gather_tasks, map_tasks, session, task
from nbflow.core.attempts import Call, Emit, Hit, Lookup, Publish, Raised, Returned, Wait, attempts, is_cancellation
from nbflow.core.policy import Policy
from nbflow.errors import DatasetError, TaskCancelledError, TaskTimeoutError
from nbflow.events import Event
from nbflow.hooks import hook_impl
from nbflow.settings import load_settings
from nbflow.testing import EventRecorder, FakeClock

TERMINAL = {"TaskCancelled", "TaskCompleted", "TaskFailed", "TaskTimedOut"}
ERRORS: list[Callable[[], BaseException]] = [
    lambda: ValueError("v"),
    lambda: OSError("o"),
    lambda: TaskTimeoutError("t"),
    lambda: TaskCancelledError("c", reason="r"),
    KeyboardInterrupt,
    SystemExit,
]
outcomes = st.lists(st.one_of(st.just(None), st.sampled_from(ERRORS)), min_size=1, max_size=6)
policies = st.builds(
    Policy,
    retries=st.integers(0, 5),
    delay_s=st.floats(0, 10),
    backoff=st.floats(1, 3),
    jitter=st.floats(0, 1),
    retry_on=st.sampled_from([(Exception,), (ValueError,), (OSError, TimeoutError)]),
    timeout_s=st.one_of(st.none(), st.just(1.0)),
)


@given(policies, outcomes, st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.floats(0, 0.99))
def test_the_core(
    policy: Policy, script: list[Any], cached: bool, hit: bool, published: bool, broken: bool, drawn: float
) -> None:
    """The generator emits one terminal fact, last; calls at most retries + 1 times; and returns what it told."""
    life = attempts(policy, cached=cached, published=published, random=lambda: drawn)
    facts: list[str] = []
    calls = 0
    reply: Any = None
    try:
        while True:
            step = life.send(reply)
            assert not (facts and facts[-1] in TERMINAL), f"{step} after {facts[-1]}"
            reply = None
            if isinstance(step, Emit):
                facts.append(step.fact)
            elif isinstance(step, Call):
                calls += 1
                assert step.number == calls
                make = script[calls - 1] if calls <= len(script) else None
                reply = Returned("value") if make is None else Raised(make())
            elif isinstance(step, Lookup):
                assert cached
                reply = Hit("value", "key", 1.0) if hit else None
            elif isinstance(step, Publish):
                assert published
                reply = Raised(DatasetError("full")) if broken else None
            elif isinstance(step, Wait):
                assert step.delay_s >= 0
    except StopIteration as stop:
        out = stop.value
    assert calls <= policy.retries + 1
    assert (calls == 0) is (cached and hit)
    assert sum(fact in TERMINAL for fact in facts) == 1
    assert facts[-1] in TERMINAL
    assert (facts[-1] == "TaskCompleted") is isinstance(out, Returned)
    assert (facts[-1] == "TaskCancelled") is (isinstance(out, Raised) and is_cancellation(out.error))


class Chaos:
    """A plugin and observer that raises where it is told to."""

    def __init__(self, hooks: set[str], wrappers: set[str], events: set[str]) -> None:
        self._hooks = hooks
        self._wrappers = wrappers
        self._events = events

    def _raise(self, name: str, where: set[str]) -> None:
        if name in where:
            raise RuntimeError(f"chaos in {name}")

    def __call__(self, event: Event) -> None:
        self._raise(type(event).__name__, self._events)


HOOKS = [
    "before_node_execute",
    "after_node_execute",
    "on_node_error",
    "before_node_retry",
    "after_node_retry",
    "on_node_cancelled",
]


def _plain(name: str) -> Callable[..., None]:
    def call(self: Chaos) -> None:
        self._raise(name, self._hooks)

    call.__name__ = name
    return hook_impl(call)


def _wrapping(name: str) -> Callable[..., Any]:
    def call(self: Chaos) -> Generator[None, Any, Any]:
        result = yield
        self._raise(name, self._wrappers)
        return result

    call.__name__ = f"around_{name}"
    return hook_impl(call, wrapper=True, specname=name)


for _name in HOOKS:
    setattr(Chaos, _name, _plain(_name))
    setattr(Chaos, f"around_{_name}", _wrapping(_name))

EVENTS = [
    "TaskStarted",
    "AttemptStarted",
    "AttemptFailed",
    "RetryScheduled",
    "TaskCompleted",
    "TaskFailed",
    "ItemYielded",
]
chaos = st.builds(
    Chaos,
    st.sets(st.sampled_from(HOOKS)),
    st.sets(st.sampled_from(HOOKS), max_size=2),
    st.sets(st.sampled_from(EVENTS)),
)


def body(script: list[Any]) -> Callable[[], str]:
    left = list(script)

    def step() -> str:
        make = left.pop(0) if left else None
        if make is not None:
            raise make()
        return "value"

    return step


def run(kind: str, step: Callable[[], str], retries: int) -> None:
    async def asynchronous() -> str:
        await asyncio.sleep(0)
        return step()

    def stream() -> Iterator[str]:
        yield "first"
        yield step()

    async def async_stream() -> AsyncIterator[str]:
        yield "first"
        yield step()

    async def collect() -> list[str]:
        return [item async for item in task(async_stream)()]

    options = {"retries": retries, "retry_delay": 1.0} if retries else {}
    {
        "sync": lambda: task(**options)(lambda: step())(),
        "async": lambda: asyncio.run(task(**options)(asynchronous)()),
        "stream": lambda: list(task(stream)()),
        "async stream": lambda: asyncio.run(collect()),
    }[kind]()


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["sync", "async", "stream", "async stream"]), outcomes, st.integers(0, 3), chaos)
def test_the_drivers(kind: str, script: list[Any], retries: int, trouble: Chaos) -> None:
    """Though hooks, wrappers and observers raise, each call ends in one terminal event, and leaves no frame."""
    recorder = EventRecorder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with session(observers=[recorder, trouble], plugins=[trouble], clock=FakeClock()) as context:
            with contextlib.suppress(Exception, KeyboardInterrupt, SystemExit):
                run(kind, body(script), retries)
            assert context.live_calls() == []
            assert len(context.records) == 1
    recorder.check()


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["inline", "thread", "gather"]),
    st.lists(st.one_of(st.just(None), st.sampled_from(ERRORS[:4])), max_size=8),
    st.sampled_from(["raise", "collect"]),
    st.one_of(st.none(), st.integers(1, 3)),
    st.booleans(),
)
def test_the_maps(where: str, script: list[Any], on_error: Any, concurrency: int | None, quiet: bool) -> None:
    """Every map ends once, its tallies add up, and each of its items that started ends once."""

    def item(make: Any) -> str:
        if make is not None:
            raise make()
        return "value"

    async def item_async(make: Any) -> str:
        await asyncio.sleep(0)
        return item(make)

    recorder = EventRecorder()
    failing = any(make is not None for make in script)
    with session(observers=[] if quiet else [recorder], settings=load_settings(max_backend_threads=2)) as context:
        try:
            if where == "gather":
                results = asyncio.run(
                    gather_tasks(task(item_async), script, on_error=on_error, concurrency=concurrency)
                )
            else:
                results = map_tasks(task(item), script, backend=where, on_error=on_error, concurrency=concurrency)
        except Exception:
            assert failing
            assert on_error == "raise"
        else:
            assert [isinstance(found, Exception) for found in results] == [make is not None for make in script]
        assert context.live_maps() == context.live_calls() == []
    recorder.check()
