"""Results that are saved but not yet written: many cheap ones are committed to the index together.

A commit costs more than making a small result, so results wait here for a moment, where this process finds them, and
one thread writes all of them at once. The thread exists only while something waits. What waits is written when the
store is closed and when the interpreter ends; a process that is killed loses the results of its last moment, which
cost little, and never half of one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from nbflow._shield import shielded
from nbflow.cache.database import watch_forks
from nbflow.cache.index import Row

__all__ = ["WINDOW_S", "Pending"]

WINDOW_S = 0.05
"""Seconds that a result waits for others at most."""

_MANY = 512  # results that are written without waiting for more
_waiting: weakref.WeakSet[Pending] = weakref.WeakSet()


def _write_all() -> None:
    for pending in list(_waiting):
        pending.flush_quietly()


class Pending:
    """The results of one store that wait to be written; safe from any thread.

    Args:
        commit: Writes rows, all or none, or raises.
        failed: Told rows that could not be written, and why; they are dropped.
        seals: Where the seals of what waits can be found by key; all stores of a process on one folder share it.
    """

    def __init__(
        self,
        commit: Callable[[list[Row]], None],
        failed: Callable[[list[Row], Exception], None],
        seals: dict[str, bytes],
    ) -> None:
        self._commit = commit
        self._failed = failed
        self._seals = seals
        self._rows: dict[str, Row] = {}
        self._then: dict[Callable[..., None], list[str]] = {}  # what is to be called with which keys
        self._reset()
        watch_forks(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None  # the last one, which may be about to end
        self._works = False  # whether it will look again for what waits

    def before_fork(self) -> None:
        """Write what waits, so that the child finds it."""
        self.flush_quietly()

    def after_fork(self) -> None:
        """Leave to the parent, in a forked child, what the parent will write."""
        self._rows = {}
        self._seals.clear()
        self._then = {}
        self._reset()

    def add(self, row: Row) -> None:
        """Let a result wait, and see to it that it is written soon."""
        with self._lock:
            self._rows[row.info.key] = row
            self._seals[row.info.key] = row.seal
            if not self._works:
                self._start()
            elif len(self._rows) == _MANY:
                self._hurry.set()

    def _start(self) -> None:
        if not _waiting:
            import atexit

            atexit.unregister(_write_all)
            atexit.register(_write_all)
        _waiting.add(self)
        self._hurry.clear()
        self._works = True
        self._thread = threading.Thread(target=self._run, daemon=True, name="nbflow-cache-writer")
        try:
            shielded(self._thread.start)
        except RuntimeError:  # the interpreter is ending: what waits is written at its exit, or by `close`
            self._thread, self._works = None, False

    def _run(self) -> None:
        while True:
            self._hurry.wait(WINDOW_S)
            self._hurry.clear()
            self.flush_quietly()
            with self._lock:
                if not self._rows:
                    self._works = False
                    return

    def discard(self, key: str) -> None:
        """Forget a result that waits."""
        with self._lock:
            row = self._rows.pop(key, None)
            if row is not None and self._seals.get(key) is row.seal:
                del self._seals[key]

    def then(self, key: str, act: Callable[..., None]) -> None:
        """Call `act` as soon as the result under `key` is written, at once if it does not wait; it must not raise.

        It is given the key, and all others that were written at the same time and for which it was to be called.
        """
        with self._lock:
            if key in self._rows:
                self._then.setdefault(act, []).append(key)
                return
        act(key)

    def flush(self) -> None:
        """Write what waits, now.

        Raises:
            Exception: Whatever `commit` says; the rows are dropped then, and `failed` was told.
        """
        with self._writing:
            with self._lock:
                rows = dict(self._rows)
                then, self._then = self._then, {}
            written = not rows
            try:
                if rows:
                    self._commit(list(rows.values()))
                written = True
            except Exception as error:
                written = True
                self._failed(list(rows.values()), error)
                raise
            finally:
                with self._lock:
                    if written:
                        for key, row in rows.items():
                            if self._rows.get(key) is row:
                                del self._rows[key]
                            if self._seals.get(key) is row.seal:
                                del self._seals[key]
                    else:  # an interrupt: the thread tries again
                        for act, keys in then.items():
                            self._then.setdefault(act, []).extend(keys)
                        then = {}
                for act, keys in then.items():
                    act(*keys)

    def flush_quietly(self) -> None:
        """Write what waits, now; `failed` is told what cannot be written."""
        try:
            self.flush()
        except Exception:  # told already
            pass

    def close(self) -> None:
        """Write what waits, and wait for the thread to end."""
        self.flush_quietly()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._hurry.set()
            thread.join()
