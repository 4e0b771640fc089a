"""Which live displays are open: what a cell shows again takes the place of what it showed before.

Without this each re-run of a cell would leave a widget behind, and its comm in the kernel. The front end's id tells
cells apart; where there is none, displays of the same kind do.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

__all__ = ["Shown"]


class _Closable(Protocol):
    def close(self) -> None: ...


class Shown:
    """The live displays of a shell.

    Args:
        where: Returns the front end's id of the cell that runs, and the number of its run.
    """

    def __init__(self, where: Callable[[], tuple[str | None, int]]) -> None:
        self._where = where
        self._open: dict[Hashable, tuple[int, list[Any]]] = {}

    def replace(self, kind: Hashable, made: _Closable) -> None:
        """Note a display; those that earlier runs of the same cell made of the same kind are closed."""
        cell, run = self._where()
        old_run, displays = self._open.get((cell, kind), (run, []))
        if old_run != run:
            for each in displays:
                each.close()
            displays = []
        self._open[cell, kind] = (run, [*displays, made])

    def close(self) -> None:
        """Close all of them."""
        opened, self._open = self._open, {}
        for _, displays in opened.values():
            for each in displays:
                each.close()
