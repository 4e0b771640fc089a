"""Ending code from outside: regions, alarms, detached calls."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from nbflow._shield import shielded
from nbflow.runtime import stopping
from nbflow.runtime.stopping import Alarm, DeadlineReached, Region, Stopped, call_detached, can_alarm

_LIMIT_S = 60.0


def forever() -> None:
    while True:
        threading.Event().wait(0.001)


class Worker(threading.Thread):
    """A thread that runs code in a region and keeps what became of it."""

    def __init__(self, func: Any) -> None:
        super().__init__()
        self.region = Region()
        self.begun = threading.Event()
        self.func = func
        self.out: Any = None
        self.after = False

    def run(self) -> None:
        try:
            with self.region:
                self.begun.set()
                self.out = self.func()
        except BaseException as error:
            self.out = error
        for _ in range(1000):  # enough bytecode for an exception that came late
            pass
        self.after = True


def test_region_in_a_thread() -> None:
    """Code in another thread is stopped by an exception that `except Exception` does not catch."""

    def stubborn() -> None:
        while True:
            try:
                threading.Event().wait(0.001)
            except Exception:  # a user's own retry loop
                continue

    worker = Worker(stubborn)
    worker.start()
    assert worker.begun.wait(_LIMIT_S)
    assert worker.region.stop()
    assert not worker.region.stop()
    worker.join(_LIMIT_S)
    assert isinstance(worker.out, Stopped)
    assert worker.after


def test_region_that_has_ended() -> None:
    """Code that has left its region is never hit."""
    worker = Worker(lambda: "done")
    worker.start()
    worker.join(_LIMIT_S)
    assert not worker.region.stop()
    assert worker.out == "done"
    assert not Region().stop()


def test_region_that_ends_as_it_is_stopped() -> None:
    """Whatever comes first, the exception strikes inside the region or not at all."""
    for _ in range(200):
        worker = Worker(lambda: "done")
        worker.start()
        worker.begun.wait(_LIMIT_S)
        worker.region.stop()
        worker.join(_LIMIT_S)
        assert worker.after
        assert worker.out == "done" or isinstance(worker.out, Stopped)


def test_region_on_the_main_thread() -> None:
    """On the main thread even a blocking wait is broken, by KeyboardInterrupt."""
    region = Region()
    helper = threading.Timer(0, region.stop)
    with pytest.raises(KeyboardInterrupt):
        with region:
            helper.start()
            threading.Event().wait(_LIMIT_S)
    helper.join(_LIMIT_S)


def test_region_on_the_main_thread_from_itself() -> None:
    """An observer that cancels the call it hears of stops it at once."""
    region = Region()
    with pytest.raises(KeyboardInterrupt), region:
        region.stop()


def test_late_signal_strikes_inside() -> None:
    """A signal that was sent just before the region ends does not strike afterwards."""
    for _ in range(50):
        region, go = Region(), threading.Event()
        helper = threading.Thread(target=lambda region=region, go=go: (go.wait(_LIMIT_S), region.stop()))
        helper.start()
        try:
            with region:
                go.set()
        except KeyboardInterrupt:
            pass
        helper.join(_LIMIT_S)


def test_alarm() -> None:
    """A block on the main thread ends at its deadline; handler and timer are as before."""
    handler, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    alarm = Alarm(0.01)
    with pytest.raises(DeadlineReached) as caught, alarm:
        threading.Event().wait(_LIMIT_S)
    alarm.silence()
    assert caught.value.alarm is alarm
    assert signal.getsignal(signal.SIGALRM) is handler
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) is (timer[0] > 0)
    assert Alarm._stack == []


def test_alarm_that_does_not_ring() -> None:
    """A block that ends in time leaves nothing behind."""
    handler = signal.getsignal(signal.SIGALRM)
    with Alarm(_LIMIT_S) as alarm:
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    alarm.silence()
    assert not alarm.rang
    assert signal.getsignal(signal.SIGALRM) is handler
    assert Alarm._stack == []


@pytest.mark.parametrize(("outer_s", "inner_s", "rings"), [(0.01, _LIMIT_S, "outer"), (_LIMIT_S, 0.01, "inner")])
def test_alarms_nest(outer_s: float, inner_s: float, rings: str) -> None:
    """The nearest deadline rings, and says whose it is."""
    outer, inner = Alarm(outer_s), Alarm(inner_s)
    with pytest.raises(DeadlineReached) as caught:
        with outer, inner:
            threading.Event().wait(_LIMIT_S)
    assert caught.value.alarm is {"outer": outer, "inner": inner}[rings]
    assert Alarm._stack == []


def test_outer_alarm_still_rings_after_an_inner_one() -> None:
    """When an inner alarm has rung, the outer deadline still holds."""
    outer = Alarm(0.05)
    with pytest.raises(DeadlineReached) as caught, outer:
        with pytest.raises(DeadlineReached), Alarm(0.01):
            threading.Event().wait(_LIMIT_S)
        threading.Event().wait(_LIMIT_S)
    assert caught.value.alarm is outer


def test_handler_of_the_user_is_kept() -> None:
    """A handler and a timer that the program set itself are put back, the timer with what is left of it."""
    rung = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda *_: rung.set())
    timer = signal.setitimer(signal.ITIMER_REAL, _LIMIT_S)
    try:
        with pytest.raises(DeadlineReached), Alarm(0.01):
            threading.Event().wait(_LIMIT_S)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= _LIMIT_S
        signal.raise_signal(signal.SIGALRM)
        assert rung.is_set()
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def test_can_alarm() -> None:
    """Timer signals reach the main thread only."""
    out: list[bool] = []
    thread = threading.Thread(target=lambda: out.append(can_alarm()))
    thread.start()
    thread.join(_LIMIT_S)
    assert can_alarm() is True
    assert out == [False]


def detached(func: Any, timeout: float, cancelled: threading.Event | None = None) -> tuple[Any, list[str]]:
    left: list[str] = []
    try:
        return call_detached(func, timeout, cancelled=cancelled or threading.Event(), left=left.append), left
    except BaseException as error:
        return error, left


def fail() -> None:
    raise ValueError("oops")


def test_detached_call() -> None:
    """Results and errors come through."""
    assert detached(lambda: 5, _LIMIT_S) == (5, [])
    found, left = detached(fail, _LIMIT_S)
    assert isinstance(found, ValueError)
    assert left == []


def test_detached_call_that_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python code ends at the deadline, and nothing is left behind."""
    monkeypatch.setattr(stopping, "GRACE_S", _LIMIT_S)
    found, left = detached(forever, 0.01)
    assert isinstance(found, DeadlineReached)
    assert left == []


class Dropping:
    """Something with a `__del__` that ends when an exception strikes in it, which Python drops there."""

    def __init__(self, begun: threading.Event) -> None:
        self.begun = begun

    def __del__(self) -> None:
        self.begun.set()
        while True:
            pass


@pytest.mark.parametrize("times", [1, 3])
def test_what_python_drops_is_sent_again(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop that strikes in `__del__` comes again, until it strikes where it can be raised; the hook is put back."""
    monkeypatch.setattr(stopping, "GRACE_S", _LIMIT_S)
    hook, begun = sys.unraisablehook, [threading.Event() for _ in range(times)]

    def work() -> None:
        for each in begun:
            Dropping(each)
        forever()

    found, left = detached(work, 0.01)
    assert isinstance(found, DeadlineReached)
    assert all(each.is_set() for each in begun)
    assert left == []
    assert sys.unraisablehook is hook


def test_an_alarm_that_python_drops_rings_again() -> None:
    """A deadline of the main thread that is reached in `__del__` is not lost; the hook is put back."""
    hook, begun = sys.unraisablehook, [threading.Event() for _ in range(3)]
    with pytest.raises(DeadlineReached) as found, Alarm(0.01) as alarm:
        for each in begun:
            Dropping(each)
        forever()
    assert found.value.alarm is alarm
    assert all(each.is_set() for each in begun)
    assert sys.unraisablehook is hook


def stubborn(begun: threading.Event, free: threading.Event) -> None:
    """Go on whatever is raised in it, until it is free."""
    while not free.is_set():
        try:
            begun.set()
            free.wait(_LIMIT_S)
        except BaseException:
            continue


def test_detached_call_that_cannot_be_stopped() -> None:
    """Code that does not end is left behind under its thread's name."""
    begun, free = threading.Event(), threading.Event()
    found, left = detached(lambda: stubborn(begun, free), 0.1)
    free.set()
    assert isinstance(found, DeadlineReached)
    assert left == ["nbflow-timed"]


def test_cancelled_detached_call() -> None:
    """The flag ends the wait before the deadline."""
    cancelled, begun = threading.Event(), threading.Event()

    def item() -> None:
        begun.set()
        forever()

    helper = threading.Thread(target=lambda: (begun.wait(_LIMIT_S), cancelled.set()))
    helper.start()
    found, left = detached(item, _LIMIT_S, cancelled)
    helper.join(_LIMIT_S)
    assert isinstance(found, Stopped)
    assert left == []


def test_interrupted_detached_call() -> None:
    """An interrupt of whoever waits stops the code, too, and reports it where it does not end."""
    begun, free = threading.Event(), threading.Event()
    region = Region()
    helper = threading.Thread(target=lambda: (begun.wait(_LIMIT_S), region.stop()))
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        with region:
            left: list[str] = []
            try:
                call_detached(lambda: stubborn(begun, free), _LIMIT_S, cancelled=threading.Event(), left=left.append)
            finally:
                free.set()
    helper.join(_LIMIT_S)
    assert left == ["nbflow-timed"]


_LATE_STOPS = """
import sys, threading
from nbflow.runtime.stopping import Region, Stopped

struck, regions, go, over = [], [], threading.Semaphore(0), threading.Event()

def work():
    for _ in range(300):
        region = Region()
        try:
            with region:
                regions.append(region)
                go.release()
                for _ in range(20_000):
                    pass
        except Stopped:
            struck.append(region)
    sys.settrace(lambda *_: None)
    (lambda: None)()
    sys.settrace(None)
    over.set()

thread = threading.Thread(target=work, daemon=True)
thread.start()
for index in range(300):
    go.acquire()
    regions[index].stop()
print(len(struck) > 0, over.wait(30))
"""


def test_late_stops_leave_the_interpreter_as_it_was() -> None:
    """After stops, also such as come too late, code goes on as ever, even under the trace of a debugger."""
    done = subprocess.run([sys.executable, "-c", _LATE_STOPS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_a_shield_puts_off_a_stop() -> None:
    """What is shielded runs to its end, also from inside another shield; then the stop strikes."""
    inside, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def told() -> None:
        inside.set()
        assert go_on.wait(_LIMIT_S)
        shielded(done.append, "inner")
        for _ in range(1000):
            pass
        done.append("outer")

    def code() -> None:
        shielded(told)
        done.append("never")

    worker = Worker(code)
    worker.start()
    assert inside.wait(_LIMIT_S)
    assert worker.region.stop()
    go_on.set()
    worker.join(_LIMIT_S)
    assert isinstance(worker.out, Stopped)
    assert worker.after
    assert done == ["inner", "outer"]


def test_a_stop_that_is_on_its_way_strikes_before_the_shield() -> None:
    """Nothing is begun by a thread that has been told to stop, and its next work is not disturbed."""
    done: list[str] = []

    def code() -> None:
        worker.region.stop()
        shielded(done.append, "begun")

    worker = Worker(code)
    worker.start()
    worker.join(_LIMIT_S)
    assert isinstance(worker.out, Stopped)
    assert done == []
    shielded(done.append, "next")
    assert done == ["next"]


def test_a_shield_of_the_main_thread() -> None:
    """A stop from another thread waits, and so does an alarm."""
    done: list[str] = []
    region = Region()

    def told() -> None:
        thread = threading.Thread(target=region.stop)
        thread.start()
        thread.join(_LIMIT_S)
        done.append("told")

    with pytest.raises(KeyboardInterrupt):
        with region:
            shielded(told)
            done.append("never")
    assert done == ["told"]
    if not can_alarm():
        return

    def late() -> None:
        while not alarm.rang:
            threading.Event().wait(0.001)
        done.append("late")

    alarm = Alarm(0.005)
    with pytest.raises(DeadlineReached) as caught:
        with alarm:
            shielded(late)
            done.append("never")
    assert caught.value.alarm is alarm
    assert done == ["told", "late"]


def test_a_shield_lets_errors_through() -> None:
    """What the shielded code returns or raises is what the caller gets."""
    assert shielded(int, "7") == 7
    with pytest.raises(ValueError, match="x"):
        shielded(int, "x")
