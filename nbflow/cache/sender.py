"""Sends results to a shared store in the background.

What is to be sent waits in a bounded queue. A thread exists only while there is something to send; it tries again
after a fault, a little later each time, and gives a result up in the end: it is still in the local store, and the next
one who computes it will offer it again.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

from nbflow._shield import shielded

__all__ = ["Sender"]

DELAYS_S = (0.25, 1.0, 4.0)
_SHORT_S = 0.1  # pause between tries while somebody waits for the end
_WAITING = 4096  # results that may wait; those that come then are not sent


class Sender:
    """A queue of keys and the thread that works it off; safe from any thread, and empty after a fork.

    Args:
        send: Sends one key's result from that source.
        failed: Told the key and the error where sending failed for good, or was given up (None: no time, no room).
        is_final: Whether trying again after this error is of no use.
        delays_s: Seconds to wait before each further try.
    """

    def __init__(
        self,
        send: Callable[[str, Any], None],
        failed: Callable[[str, Exception | None], None],
        is_final: Callable[[Exception], bool],
        delays_s: tuple[float, ...] = DELAYS_S,
    ) -> None:
        self._send = send
        self._failed = failed
        self._is_final = is_final
        self._delays_s = delays_s
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._queue: dict[str, Any] = {}
        self._thread: threading.Thread | None = None  # the last one, which may be about to end
        self._works = False  # whether it will look again for what waits
        self._hurry = threading.Event()  # somebody waits: short pauses only
        self._over = threading.Event()  # nobody waits any more: no further tries
        self._at_exit = False

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, key: str, source: Any) -> None:
        """Have the result under `key` sent, soon; returns at once."""
        if self._pid != os.getpid():
            self._begin()
        with self._lock:
            full = len(self._queue) >= _WAITING
            if not full:
                self._queue[key] = source
                if not self._works:
                    self._start()
        if full:
            self._failed(key, None)

    def _start(self) -> None:
        if not self._at_exit:
            self._at_exit = True
            atexit.register(_close, weakref.ref(self))
        self._hurry.clear()
        self._over.clear()
        self._works = True
        self._thread = threading.Thread(target=self._run, name="nbflow-share", daemon=True)
        shielded(self._thread.start)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._works = False
                    return
                key = next(iter(self._queue))
                source = self._queue[key]
            self._send_one(key, source)
            with self._lock:
                self._queue.pop(key, None)

    def _send_one(self, key: str, source: Any) -> None:
        for delay in (*self._delays_s, None):
            try:
                self._send(key, source)
                return
            except Exception as error:
                if delay is None or self._is_final(error) or self._over.is_set():
                    self._failed(key, error)
                    return
            if self._hurry.wait(delay):
                self._over.wait(min(delay, _SHORT_S))

    def close(self, timeout_s: float) -> None:
        """Wait until all is sent, at most `timeout_s` seconds; what is left then is given up. It can be used again."""
        if self._pid != os.getpid():
            return
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        self._hurry.set()
        thread.join(timeout_s)
        self._over.set()
        with self._lock:
            left = list(self._queue)
            self._queue.clear()
        for key in left:
            self._failed(key, None)


def _close(known: weakref.ref[Sender]) -> None:
    sender = known()
    if sender is not None:
        sender.close(5.0)
