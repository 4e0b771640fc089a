"""Values that were changed in place, as the notebook tells of them: once, below the cell that did it.

After each cell the mutation guard gets a few milliseconds to look at small values. What it found, and what calls found
meanwhile, becomes one line on stderr, an event, and a remark below the table of `%flow`.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from nbflow.cache import guard
from nbflow.runtime.emit import emit_session

__all__ = ["Changes"]

BUDGET_S = 0.005
"""Seconds after each cell."""

_REMEMBERED = 3


class Changes:
    """What one shell has seen and told.

    Args:
        namespace: The notebook's.

    Attributes:
        remarks: The last lines that were told, oldest first.
    """

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self.namespace = namespace
        self.remarks: deque[str] = deque(maxlen=_REMEMBERED)

    def made(self, names: Iterable[str], origin: str, cell: str | None) -> None:
        """Watch what a task cell has made or changed: that is how it is meant to be."""
        for name in names:
            if name in self.namespace:
                guard.note(self.namespace[name], origin, cell)

    def after_cell(self, session: Any, cell: str | None, *, meant: bool = False) -> None:
        """Look for changes, and tell of them.

        Args:
            session: The notebook's.
            cell: The cell that has just run.
            meant: Whether it is a task, whose changes are a part of its result, under whatever name they show.
        """
        swept = {id(change) for change in guard.sweep(BUDGET_S, cell)}
        while guard.changes:
            change = guard.changes.popleft()
            if meant and id(change) in swept:
                continue
            holders = _names_of(change.value(), self.namespace)
            line = _told(change, holders, change.seen_in if id(change) in swept else None)
            self.remarks.append(line)
            sys.stderr.write(f"nbflow: {line}. What is cached stays as it was.\n")
            if id(change) in swept:  # else the call that noticed it has told
                holder = holders[0] if holders else change.what
                emit_session(session, "ValueChanged", 0, holder, holder=holder, origin=change.since, cell=cell)


def _told(change: guard.Change, holders: list[str], cell: str | None) -> str:
    """Say who holds the value, in which cell it changed if that is known, and where it came from."""
    subject = f"`{holders[0]}`" if holders else f"a {change.what}"
    if len(holders) > 1:
        subject += f" (also {', '.join(f'`{name}`' for name in holders[1:_REMEMBERED])})"
    return f"{subject} was changed in place{f' in {cell}' if cell else ''} since {change.since}"


def _names_of(value: Any, namespace: Mapping[str, Any]) -> list[str]:
    """Return the notebook's own names for a value; those of the output history do not count."""
    if value is None:  # gone by now
        return []
    return [name for name, held in list(namespace.items()) if held is value and not name.startswith("_")]
