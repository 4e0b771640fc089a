"""Taps on streams and display publishers: pass on everything, tell only the sink of the context."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from contextvars import copy_context
from typing import Any

import pytest
from IPython.core.error import UsageError

from nbflow.notebook.output import DisplayTap, Mute, StreamTap, Taps, recording, refusing_input
from nbflow.notebook.recorder import Recorder


class Publisher:
    def __init__(self) -> None:
        self.shown: list[Any] = []

    def publish(self, data: Any, metadata: Any = None, *, transient: Any = None, update: bool = False) -> None:
        self.shown.append(data)

    def clear_output(self, wait: bool = False) -> None:
        self.shown.append(("clear", wait))


class Shell:
    def __init__(self) -> None:
        self.display_pub = Publisher()


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """A shell; what is printed goes to pytest."""
    return Shell()


def texts(recorder: Recorder) -> list[str]:
    return [item[2] for item in recorder.items() if item[0] == "stream"]


def test_everything_is_passed_on_live(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed while recording reaches the stream behind at once, and the recorder."""
    behind = sys.stdout
    recorder = Recorder()
    with recording(recorder, shell):
        print("seen")
        assert capsys.readouterr().out == "seen\n"
    print("later")
    assert texts(recorder) == ["seen\n"]
    assert sys.stdout is behind


def test_taps_are_installed_once_and_removed(shell: Shell) -> None:
    """With taps in place `recording` adds none; `remove` leaves what somebody else has put there."""
    before = sys.stdout
    taps = Taps(shell)
    assert isinstance(sys.stdout, StreamTap)
    inner = sys.stdout
    with recording(Recorder(), shell):
        assert sys.stdout is inner
    taps.remove()
    assert sys.stdout is before
    assert "publish" not in shell.display_pub.__dict__
    taps = Taps(shell)
    foreign = sys.stderr = io.StringIO()
    taps.remove()
    assert sys.stderr is foreign


def test_overlapping_recordings_do_not_take_each_others_output(shell: Shell) -> None:
    """Two tasks of one loop that print in turn each keep their own lines."""
    taps = Taps(shell)

    async def prints(name: str, recorder: Recorder) -> None:
        with recording(recorder, shell):
            for _ in range(3):
                print(name, end="")
                await asyncio.sleep(0)

    async def both(one: Recorder, two: Recorder) -> None:
        await asyncio.gather(prints("a", one), prints("b", two))

    one, two = Recorder(), Recorder()
    asyncio.run(both(one, two))
    taps.remove()
    assert texts(one) == ["aaa"]
    assert texts(two) == ["bbb"]


def test_threads_belong_to_whom_they_were_started_for(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """With a copy of the context, or begun meanwhile without, they are recorded; one from before is only passed on."""
    recorder = Recorder()
    turn = threading.Event()
    before = threading.Thread(target=lambda: (turn.wait(60), print("z", end="")))
    before.start()
    with recording(recorder, shell):
        for run in (copy_context().run, lambda work: work()):
            thread = threading.Thread(target=run, args=(lambda: print("x", end=""),))
            thread.start()
            thread.join()
        turn.set()
        before.join()
    assert texts(recorder) == ["xx"]
    assert capsys.readouterr().out == "xxz"


def test_displays_are_told_and_may_be_held_back(shell: Shell) -> None:
    """The sink sees data, updates and clears; what it holds back is not shown."""
    recorder = Recorder()
    with recording(recorder, shell):
        shell.display_pub.publish({"text/plain": "1"})
        shell.display_pub.clear_output(wait=True)
        recorder.holding = True
        shell.display_pub.publish({"text/plain": "2"})
    shell.display_pub.publish({"text/plain": "3"})
    assert shell.display_pub.shown == [{"text/plain": "1"}, ("clear", True), {"text/plain": "3"}]
    assert [item[1] for item in recorder.held] == [{"text/plain": "2"}]


def test_mute_lets_nothing_through(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    """Under `Mute` neither text nor displays appear."""
    with recording(Mute(), shell):
        print("quiet")
        shell.display_pub.publish({"text/plain": "1"})
    assert capsys.readouterr().out == ""
    assert shell.display_pub.shown == []


def test_a_tap_behaves_as_the_stream_behind(shell: Shell) -> None:
    """Other attributes are those of the stream; `writelines` is told as well."""
    recorder = Recorder()
    with recording(recorder, shell):
        sys.stdout.writelines(["a", "b"])
        assert sys.stdout.writable()
        assert not hasattr(sys.stdout, "no_such_thing")
    assert texts(recorder) == ["ab"]


def test_a_display_tap_is_removed_twice_without_harm() -> None:
    """Removing is idempotent."""
    publisher = Publisher()
    tap = DisplayTap(publisher)
    tap.remove()
    tap.remove()
    publisher.publish({"a": 1})
    assert publisher.shown == [{"a": 1}]


class Flushed(io.StringIO):
    """A stream that counts how often it is flushed."""

    times = 0

    def flush(self) -> None:
        self.times += 1


def test_only_what_was_printed_is_flushed_before_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that says that nothing waits is left alone; one that says otherwise, or nothing, is flushed."""

    class Flushing(Publisher):
        def _flush_streams(self) -> None:
            raise AssertionError("it is in the way of the tap")

        def publish(self, *args: Any, **options: Any) -> None:
            self._flush_streams()
            super().publish(*args, **options)

    publisher, out, err = Flushing(), Flushed(), Flushed()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    tap = DisplayTap(publisher)
    out._flush_pending = False  # type: ignore[attr-defined]
    publisher.publish({"a": 1})
    assert (out.times, err.times) == (0, 1)
    out._flush_pending = True  # type: ignore[attr-defined]
    publisher.publish({"a": 1})
    assert (out.times, err.times) == (1, 2)
    tap.remove()
    with pytest.raises(AssertionError, match="in the way"):
        publisher.publish({"a": 1})


def test_input_is_refused_in_this_context_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell's own `input()` raises; another thread may still ask; afterwards all is as before."""
    monkeypatch.setattr("builtins.input", lambda prompt="": "answer")
    answers: list[str] = []
    with refusing_input("not here"):
        with pytest.raises(UsageError, match="not here"):
            input("?")
        thread = threading.Thread(target=lambda: answers.append(input("?")))
        thread.start()
        thread.join()
    assert answers == ["answer"]
    assert input("?") == "answer"
