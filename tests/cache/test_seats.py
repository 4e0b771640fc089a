"""Seats between processes: never two at once, free again when a process ends, and marks of what others changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nbflow.cache import seats as module
from nbflow.cache.seats import Seats

ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def place(tmp_path: Path) -> str:
    """Where the shared file may be made."""
    return str(tmp_path / "flights")


def test_a_seat_is_taken_by_one(place: str) -> None:
    """What one has taken the other cannot take, until it is given back as often as it was taken."""
    one, other = Seats(place), Seats(place)
    assert one.take("k")
    assert one.take("k")
    assert not other.take("k")
    assert other.take("l")
    assert not one.take("l")
    one.give_back("k")
    assert not other.take("k")
    one.give_back("k")
    assert other.take("k")
    one.give_back("never taken")


def test_a_seat_is_free_when_its_owner_is_gone(place: str) -> None:
    """A process that ends without a word, or is dropped, holds nothing; its desk is used again."""
    text = (
        f"import os, sys; sys.path.insert(0, {ROOT!r})\n"
        "from nbflow.cache.seats import Seats\n"
        f"seats = Seats({place!r})\n"
        "print(seats.take('k'), flush=True)\n"
        "sys.stdin.read()\n"
        "os._exit(1)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "True\n"
    seats = Seats(place)
    assert not seats.take("k")
    child.stdin.close()
    child.wait()
    child.stdout.close()
    assert seats.take("k")
    fresh = Seats(place)
    assert fresh.take("l")
    assert fresh._desk == 0


def test_as_many_seats_as_one_likes(place: str) -> None:
    """Thousands of keys at once: what is taken is seen by others, and no seat stays when all are given back."""
    one, other = Seats(place), Seats(place)
    keys = [f"k{n}" for n in range(1000)]
    assert all(map(one.take, keys))
    assert not any(map(other.take, keys))
    for key in keys:
        one.give_back(key)
    assert all(map(other.take, keys))


def test_a_crowded_window_takes_without_telling(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room to tell of a key, it is computed all the same."""
    monkeypatch.setattr(module, "_PLACES", 1)
    one, other = Seats(place), Seats(place)
    assert all(one.take(f"k{n}") for n in range(17))
    assert not other.take("k15")
    assert other.take("k16")
    one.give_back("k16")


def test_no_desk_is_left(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process more than there are desks computes for itself, and changes a mark that others see."""
    monkeypatch.setattr(module, "_DESKS", 2)
    many = [Seats(place) for _ in range(3)]
    assert [seats.take("k") for seats in many] == [True, False, True]
    before = many[0].marks()
    many[2].change()
    assert many[0].marks() != before
    assert many[2].marks() == b""


def test_marks_change_with_what_others_do(place: str) -> None:
    """A change by another process changes the marks, a change of one's own does not; none before the first seat."""
    one, other = Seats(place), Seats(place)
    assert one.marks() == b""
    assert one.take("k")
    before = one.marks()
    assert before
    one.change()
    assert one.marks() == before
    other.change()
    assert one.marks() != before


def test_the_file_is_made_anew(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After somebody deleted the folder, the next seat is taken where others would look."""
    monkeypatch.setattr(module, "_CHECK_S", 0.0)
    one = Seats(place)
    assert one.take("k")
    before = one.marks()
    one.give_back("k")
    os.unlink(place)
    other = Seats(place)
    assert other.take("k")
    assert not one.take("k")
    assert one.marks() != before


def test_no_folder_no_locks(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be shared every seat is free; a folder that is made later is used."""
    later = tmp_path / "later"
    seats = Seats(str(later / "flights"))
    assert seats.take("k")
    seats.change()
    later.mkdir()
    monkeypatch.setattr(module, "_CHECK_S", 0.0)
    assert seats.take("l")
    assert not Seats(str(later / "flights")).take("l")

    def fails(*_: object) -> None:
        raise OSError("no locks that belong to an open file")

    monkeypatch.setattr(module, "_set_lock", fails)
    one, other = Seats(place), Seats(place)
    assert one.take("k")
    assert other.take("k")
    one.change()
    assert one.marks() == b""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_another_process(place: str) -> None:
    """The child cannot take what its parent holds, holds nothing itself, and leaves the parent's seats alone."""
    seats = Seats(place)
    assert seats.take("k")
    child = os.fork()
    if not child:
        os._exit(0 if not seats.take("k") and seats.take("l") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    other = Seats(place)
    assert not other.take("k")
    assert other.take("l")
