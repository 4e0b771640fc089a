"""Tracebacks end in the user's line."""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any

import pytest

from nbflow import NbflowError, session, task
from nbflow.notebook.tracebacks import shorten, without_our_end


def names(trace: TracebackType | None) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(trace)]


def wrong(**options: Any) -> Any:
    return task(**options)(wrong)


def test_our_checks_are_left_out() -> None:
    """What follows the user's last line is not shown; the exception itself keeps all of it."""
    with pytest.raises(NbflowError) as caught:
        wrong(retries=-1)
    whole = names(caught.value.__traceback__)
    assert names(without_our_end(caught.value.__traceback__)) == ["test_our_checks_are_left_out", "wrong"]
    assert len(whole) > 3
    assert names(caught.value.__traceback__) == whole


def test_what_lies_between_is_left_out() -> None:
    """Frames of the standard library that lead into ours say no more than these."""
    with pytest.raises(NbflowError) as caught:
        with session(backend="no such backend"):
            pass
    assert names(without_our_end(caught.value.__traceback__)) == ["test_what_lies_between_is_left_out"]


def test_users_frames_stay() -> None:
    """What the user's own code raised, below ours, is shown to its end; and so is what has only frames of ours."""

    @task
    def fails() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError) as caught:
        fails()
    assert names(without_our_end(caught.value.__traceback__)) == names(caught.value.__traceback__)
    trace = caught.value.__traceback__
    assert trace is not None
    only_ours = trace.tb_next
    assert only_ours is not None
    only_ours = TracebackType(None, only_ours.tb_frame, only_ours.tb_lasti, only_ours.tb_lineno)
    assert names(without_our_end(only_ours)) == names(only_ours)
    assert without_our_end(None) is None


def test_ipython_is_asked_while_the_extension_is_loaded() -> None:
    """IPython asks the exception; after unloading it makes its own rendering again."""

    class Shell:
        class InteractiveTB:
            @staticmethod
            def structured_traceback(kind: type, error: BaseException, trace: TracebackType | None) -> list[str]:
                return names(trace)

    with pytest.raises(NbflowError) as caught:
        wrong(no_such=1)
    error: Any = caught.value
    shorten(Shell)
    try:
        assert error._render_traceback_() == ["test_ipython_is_asked_while_the_extension_is_loaded", "wrong"]
    finally:
        shorten(None)
    shorten(None)
    assert not hasattr(error, "_render_traceback_")
