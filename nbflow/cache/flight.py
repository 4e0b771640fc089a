"""Identical calls that run at the same time run once: the first one leads, the others wait and take its result.

    join ── first here ──▶ lead ── take the seat ──▶ look again ── miss ──▶ compute ──▶ save ──▶ land
      └──── someone leads ──▶ wait until it lands ──▶ look again

The rules:

* Inside a process a *flight* is an entry of a table, and waiting is for an event. Between processes the leader holds a
  *seat*, see `seats`, which is free again when its process ends, however it ends.
* A seat is given back when the result can be found by others. A leader that fails or is cancelled lets the next one
  run: failures are not shared.
* Nobody waits for a call that waits for him: not for a call around his own, nor in a circle. A call on a worker of a
  pool waits only `PATIENCE_S` for one that is not, because that one may itself wait for a free worker. Whoever does
  not wait computes for himself.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable

from nbflow._typing import Any, Protocol
from nbflow.cache.database import watch_forks
from nbflow.cache.seats import Seats

__all__ = ["PATIENCE_S", "Caller", "Flight", "Flights", "flights_of", "is_pooled"]

PATIENCE_S = 10.0
"""Seconds that a call on a worker of a pool waits for a call which may need that worker."""

_lock = threading.Lock()  # of all tables: circles may lead through several
_led: dict[int, Flight] = {}  # by the id of the leading call
_tables: weakref.WeakValueDictionary[str, Flights] = weakref.WeakValueDictionary()


class Caller(Protocol):
    """What a flight needs to know of a call."""

    id: int
    state: str
    parent: Any

    @property
    def backend(self) -> str:
        """Name of the backend that runs it."""
        raise NotImplementedError


class Flight:
    """One computation that others may wait for.

    Attributes:
        key: Digest of the key.
        leader: The call that computes.
        landed: Whether it is over.
        ending: "stored", "unstored" (it ended well, but nobody else can have its result) or "failed".
    """

    __slots__ = ("_blocked_on", "_wakers", "ending", "key", "landed", "leader", "seated")

    def __init__(self, key: str, leader: Caller) -> None:
        self.key = key
        self.leader = leader
        self.landed = False
        self.ending = "failed"
        self.seated = False
        self._wakers: list[Callable[[], object]] = []
        self._blocked_on: list[Flight] = []

    @property
    def over(self) -> bool:
        """Whether nothing is to be waited for any more; also where the leader ended without a word."""
        return self.landed or self.leader.state != "running"

    def patience_s(self, call: Caller) -> float | None:
        """Return how long `call` may wait for this flight; None for as long as it takes."""
        return PATIENCE_S if is_pooled(call) and not is_pooled(self.leader) else None

    def wait_with(self, call: Caller, wake: Callable[[], object]) -> bool:
        """Begin to wait: `wake` is called once the flight is over, from any thread.

        Returns:
            False where waiting would never end, because the flight waits for `call` or a call around it.
        """
        with _lock:
            mine = _led_around(call)
            if any(self._reaches(flight, set()) for flight in mine):
                return False
            for flight in mine:
                flight._blocked_on.append(self)
            self._wakers.append(wake)
            landed = self.landed
        if landed:
            wake()
        return True

    def wait_no_more(self, call: Caller, wake: Callable[[], object]) -> None:
        """End the wait that `wait_with` began."""
        with _lock:
            if wake in self._wakers:
                self._wakers.remove(wake)
            for flight in _led_around(call):
                if self in flight._blocked_on:
                    flight._blocked_on.remove(self)

    def _reaches(self, other: Flight, seen: set[int]) -> bool:
        if self is other:
            return True
        seen.add(id(self))
        return any(flight._reaches(other, seen) for flight in self._blocked_on if id(flight) not in seen)


def _led_around(call: Caller) -> list[Flight]:
    """Return the flights that a call and the calls around it lead."""
    return [flight for each in _chain(call) if (flight := _led.get(each.id)) is not None]


def _chain(call: Caller) -> list[Caller]:
    found = [call]
    while (around := found[-1].parent) is not None:
        found.append(around)
    return found


def is_pooled(call: Caller) -> bool:
    """Whether a call runs on a worker of a pool."""
    return any(each.backend != "inline" for each in _chain(call))


class Flights:
    """The flights of one store; safe from any thread, and between processes where there is a folder.

    Args:
        folder: Folder of the store; None for a store in memory.

    Attributes:
        seats: Those of the folder; None in memory.
    """

    def __init__(self, folder: str | None) -> None:
        self._flights: dict[str, Flight] = {}
        self._landed = 0  # how many
        self.seats = None if folder is None else Seats(os.path.join(folder, "flights"))
        watch_forks(self)

    def before_fork(self) -> None:
        """Do nothing: flights and seats stay the parent's."""

    def after_fork(self) -> None:
        """Forget, in a forked child, the flights of the parent."""
        global _lock
        _lock = threading.Lock()
        _led.clear()
        self._flights = {}

    def join(self, key: str, call: Caller) -> Flight:
        """Return the flight under `key`: one that `call` leads from now on, or one of somebody else to wait for."""
        with _lock:
            flight = self._flights.get(key)
            if flight is None or flight.over:
                if flight is not None:
                    self._land(flight)
                flight = self._flights[key] = _led[call.id] = Flight(key, call)
            return flight

    def moment(self) -> Any:
        """Return what differs once another call or process may have stored a result since; None where nobody knows."""
        if self.seats is None:
            return self._landed
        marks = self.seats.marks()
        return (self._landed, marks) if marks else None

    def take_seat(self, flight: Flight) -> bool:
        """Keep other processes from computing the same; False while one of them does. Never blocks."""
        if self.seats is None or flight.seated:
            return True
        flight.seated = taken = self.seats.take(flight.key)
        return taken

    def leave(
        self, key: str, call: Caller, ending: str, when_written: Callable[[str, Callable[..., None]], None]
    ) -> None:
        """End the flight that `call` leads under `key`, if it leads one.

        Args:
            key: Digest of the key.
            call: The leader.
            ending: How it ended, see `Flight`.
            when_written: Calls a function with a key, or several, as soon as other processes find the results.
        """
        if call.id not in _led:
            return
        with _lock:
            flight = self._flights.get(key)
            if flight is None or flight.leader is not call:
                return
            flight.ending = ending
            seated, flight.seated = flight.seated, False
            self._land(flight)
        if seated and (seats := self.seats) is not None:
            when_written(key, seats.give_back)

    def _land(self, flight: Flight) -> None:
        flight.landed = True
        self._landed += 1
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
        _led.pop(flight.leader.id, None)
        if flight.seated and self.seats is not None:  # its leader ended without a word
            self.seats.give_back(flight.key)
        for wake in flight._wakers:
            wake()


def flights_of(folder: str | None) -> Flights:
    """Return the flights of the stores on a folder; of this process, all use the same. None: of a store in memory."""
    if folder is None:
        return Flights(None)
    with _lock:
        found = _tables.get(folder)
        if found is None:
            found = _tables[folder] = Flights(folder)
        return found
