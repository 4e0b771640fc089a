"""The clock of tests."""

from __future__ import annotations

import threading

import pytest

from nbflow._clock import Clock
from nbflow.testing import FakeClock


def test_it_stands_still_until_it_is_moved(fake_clock: FakeClock) -> None:
    """Reading the clock does not move it; advancing moves both of its faces alike."""
    before = fake_clock.monotonic(), fake_clock.wall()
    assert (fake_clock.monotonic(), fake_clock.wall()) == before
    fake_clock.advance(2.5)
    assert (fake_clock.monotonic(), fake_clock.wall()) == (before[0] + 2.5, before[1] + 2.5)


def test_sleeping_moves_it_and_is_written_down(fake_clock: FakeClock) -> None:
    """A sleep takes no real time, but the clock shows it."""
    clock: Clock = fake_clock
    clock.sleep(3600.0)
    clock.sleep(0.5)
    assert fake_clock.sleeps == [3600.0, 0.5]
    assert clock.monotonic() == 3600.5


def test_it_never_goes_back(fake_clock: FakeClock) -> None:
    """Negative and undefined durations are refused."""
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="only goes forward"):
            fake_clock.advance(wrong)


def test_it_may_tick_at_each_reading() -> None:
    """With a tick no two readings are the same."""
    clock = FakeClock(tick=0.25)
    assert [clock.monotonic() for _ in range(3)] == [0.0, 0.25, 0.5]


def test_threads_may_move_it_together(fake_clock: FakeClock) -> None:
    """No step is lost when several threads advance it."""
    threads = [threading.Thread(target=lambda: [fake_clock.advance(1.0) for _ in range(1000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fake_clock.monotonic() == 4000.0
