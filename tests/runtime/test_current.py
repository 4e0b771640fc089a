"""The current frame and the live record of a call."""

from __future__ import annotations

import contextvars
import gc
import sys
import threading
from collections.abc import Iterator
from itertools import count
from types import FrameType
from typing import Any

import pytest

from nbflow import session, task
from nbflow.runtime import current
from nbflow.runtime.current import Call


@task(name="item_{x}")
def item(x: int, y: int = 2) -> int:
    return x + y


def make(*args: Any, **kwargs: Any) -> Call:
    with session() as context:
        return Call(item.spec, context, None, args, kwargs)


def test_a_fresh_call() -> None:
    """A call that has not started yet has its arguments and defaults for all the rest."""
    call = make(1)
    assert (call.name, call.inputs, call.backend, call.state) == ("item_1", {"x": 1, "y": 2}, "inline", "running")
    assert (call.attempts, call.started, call.ended, call.cached, call.saved_s) == (0, None, None, False, 0.0)
    assert (call.key, call.reason, call.worker, call.flag, call.duration_s) == (None, None, None, None, 0.0)
    assert call.notes == ()
    with pytest.raises(AttributeError):
        _ = call.colour


def test_ids_grow() -> None:
    """Ids are unique and in order of making."""
    assert make(1).id < make(1).id


def test_a_call_without_its_arguments() -> None:
    """As long as the arguments are not known the name is the template; it is filled in later."""
    call = make()
    call.args = None
    assert (call.name, call.inputs, call.metadata.inputs) == ("item_{x}", {}, {})
    call.args = (3,)
    assert call.name == "item_3"


def test_the_first_ending_wins() -> None:
    """A call ends once; afterwards it keeps nothing alive but still knows its name."""
    call = make(1)
    assert call.close("completed", 1.0)
    assert not call.close("failed", 2.0)
    assert (call.state, call.ended, call.name) == ("completed", 1.0, "item_1")
    assert call.args is call.kwargs is call.parent is None
    assert not call.cancel()


def test_cancelling_sets_the_flag() -> None:
    """Whether a wait begins before or after the cancellation, it ends."""
    early, late = make(1), make(1)
    flag = early.wait_flag()
    assert early.wait_flag() is flag
    assert early.cancel("one")
    assert early.cancel("two")
    assert flag.is_set()
    assert early.cancel_reason == "one"
    late.cancel()
    assert late.wait_flag().is_set()


def test_cancelling_stops() -> None:
    """What stops the code that runs is called with each cancellation."""
    stopped: list[int] = []
    call = make(1)
    call.stop = lambda: stopped.append(1)
    call.cancel()
    assert stopped == [1]


def test_cancellation_is_inherited() -> None:
    """A call inside a cancelled one, or inside an item of a cancelled map, is cancelled, too."""
    outer, inner = make(1), make(2)
    inner.parent = outer
    assert inner.cancel_reason is None
    outer.map = type("Map", (), {"reason_for": lambda self, index: "panel"})()
    assert inner.cancel_reason == "panel"
    outer._cancel_reason = "own"
    assert inner.cancel_reason == "own"


def test_reading_never_undoes_a_cancellation() -> None:
    """A thread that looks whether it is cancelled cannot overwrite the answer."""
    for _ in range(300):
        call = make(1)
        go = threading.Barrier(2)

        def look(call: Call = call, go: threading.Barrier = go) -> None:
            go.wait(60)
            for _ in range(20):
                _ = call.cancel_reason

        thread = threading.Thread(target=look)
        thread.start()
        go.wait(60)
        call.cancel("now")
        thread.join(60)
        assert call.cancel_reason == "now"


def test_restoring_in_a_foreign_context() -> None:
    """Undoing in another context is harmless."""
    token = contextvars.Context().run(current.enter, "somewhere else")
    current.restore(token)
    assert current.frame() is None


def test_current_call_looks_through_sessions() -> None:
    """A `with` session inside a task does not hide the task's call."""
    seen: list[Any] = []

    @task
    def outer() -> None:
        call = current.current_call()
        with session(), session():
            seen.append(current.current_call() is call)
            item(1)

    with session() as context:
        assert current.current_call() is None
        outer()
    assert seen == [True]
    assert context.records[-1].name == "outer"


@pytest.fixture
def _uncollected() -> Iterator[None]:
    """Collect no garbage: an interrupt that strikes in a callback of the collector does not get as far as the code."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_uncollected")
@pytest.mark.parametrize(
    ("options", "heard"), [({}, False), ({}, True), ({"retries": 1}, False), ({"cache": "session"}, False)]
)
def test_an_interrupt_anywhere_leaves_no_call_behind(options: dict[str, Any], heard: bool) -> None:
    """Else whatever runs next in the kernel is taken for a part of that call, and cancelled with it."""
    left = 0

    def strike(frame: FrameType, event: str, arg: Any) -> None:  # where the interpreter looks for signals
        nonlocal left
        if event in ("call", "c_return"):
            left -= 1
            if not left:
                sys.setprofile(None)
                raise KeyboardInterrupt

    @task(**options)
    def double(n: int) -> int:
        return 2 * n

    before = sys.getprofile()
    with session() as context:
        if heard:
            context.add_observer(lambda event: None, items=False, sampler=lambda call: None)
        double(0)
        outer, found = current.frame(), None
        for number in count(1):
            left = number
            try:
                sys.setprofile(strike)
                found = double(number)
            except KeyboardInterrupt:
                pass
            finally:
                sys.setprofile(before)
            assert current.frame() is outer
            assert not context.active
            if found is not None:
                break
    assert number > 10
