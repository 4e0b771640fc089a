"""`FaultyDriver` breaks what it is told to break."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from nbflow.storage import FileDriver
from nbflow.testing import FakeClock
from nbflow.testing.faults import FaultyDriver


def test_failing_saves(tmp_path: Path) -> None:
    """Exactly the chosen saves fail, with the chosen error, and leave what was there."""
    driver = FaultyDriver(FileDriver(tmp_path), fail={2}, error=ConnectionError)
    driver.save("a.bin", b"one")
    with pytest.raises(ConnectionError, match="save 2"):
        driver.save("a.bin", b"two")
    assert driver.load("a.bin") == b"one"
    driver.save("a.bin", b"three")
    assert (driver.load("a.bin"), driver.saves) == (b"three", 3)


def test_torn_saves(tmp_path: Path) -> None:
    """Half of the bytes arrive, without an error."""
    driver = FaultyDriver(FileDriver(tmp_path), torn=range(2, 3))
    driver.save("a.bin", b"whole")
    driver.save("b.bin", b"torn")
    assert (driver.load("a.bin"), driver.load("b.bin")) == (b"whole", b"to")


def test_slow(tmp_path: Path) -> None:
    """Every save and load takes its time, on the clock it was given."""
    clock = FakeClock()
    driver = FaultyDriver(FileDriver(tmp_path), delay_s=0.3, clock=clock)
    driver.save("a.bin", b"x")
    driver.load("a.bin")
    driver.exists("a.bin")
    assert clock.sleeps == [0.3, 0.3]


def test_copy_counts_for_itself(tmp_path: Path) -> None:
    """A pickled copy goes on from the count it was made at."""
    driver = FaultyDriver(FileDriver(tmp_path), fail={2})
    driver.save("a.bin", b"x")
    copy = pickle.loads(pickle.dumps(driver))
    with pytest.raises(OSError, match="save 2"):
        copy.save("a.bin", b"y")
    assert driver.saves == 1


def test_faults_stay_when_outside_is_allowed(tmp_path: Path) -> None:
    """The less strict driver has the same faults."""
    driver = FaultyDriver(FileDriver(tmp_path / "base"), torn={1}).allowing_outside()
    driver.save("../a.bin", b"torn")
    assert (tmp_path / "a.bin").read_bytes() == b"to"
    assert str(tmp_path) in repr(driver)
