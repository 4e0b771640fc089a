"""The rows of a run as a tree that stays small: who is nested in whom, what is folded, what is shown.

`Tree` keeps the rows that `Model` fills. Finished calls of one task under one parent fold into one *task* row once
there are more than a few, failures are kept one by one only up to a bound, and beyond `MAX_ROWS` everything is merely
counted; so memory and the time of a look are bounded, whatever runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nbflow.notebook.panel.rows import (
    BAD,
    CACHED,
    CANCELLED,
    DONE,
    FAILED,
    ITEM,
    RETRYING,
    ROOT,
    RUNNING,
    TASK,
    Counts,
    Line,
    Row,
    View,
)

__all__ = ["FOLD_ABOVE", "MAX_FAILED", "MAX_ROWS", "OTHERS", "IdSet", "Tree", "summed_state"]

FOLD_ABOVE = 5
"""So many finished calls of one task are shown one by one; from the next on they share a row."""
MAX_FAILED = 10
"""So many failures of one task or map are kept one by one."""
MAX_ROWS = 400
"""With so many rows, further calls are only counted: in the row of their task, or in that of `OTHERS`."""
OTHERS = "other tasks"


class IdSet:
    """A set of ids that are mostly dense: chunks of 1,024 bits, so that a million of them take some 200 kB."""

    __slots__ = ("_chunks",)

    def __init__(self) -> None:
        self._chunks: dict[int, int] = {}

    def add(self, number: int) -> bool:
        """Add `number`; False if it was there."""
        chunk, bit = number >> 10, 1 << (number & 1023)
        bits = self._chunks.get(chunk, 0)
        self._chunks[chunk] = bits | bit
        return not bits & bit

    def __contains__(self, number: int) -> bool:
        return bool(self._chunks.get(number >> 10, 0) >> (number & 1023) & 1)


@dataclass(slots=True, eq=False)
class _Family:
    """The calls of one task (or maps of one name) under one parent, and the row that they fold into."""

    finished: list[int] = field(default_factory=list)
    group: Row | None = None
    failed: int = 0


class Tree:
    """Rows by id, and their order.

    Attributes:
        rows: All rows by id; ids of calls and maps as in events, negative ones for task rows.
    """

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self._kids: dict[int, dict[int, None]] = {}
        self._families: dict[int, dict[tuple[str, str], _Family]] = {}
        self._groups = 0

    def totals(self) -> Counts:
        """Sum up all calls, items of maps included."""
        sums = Counts()
        for row in self.rows.values():
            sums.add(row.sums())
        return sums

    def view(self, limit: int = 40) -> View:
        """Choose at most `limit` lines: failed and live rows first, each with the rows that it is nested in.

        Children follow their parent, siblings the order in which they started.
        """
        lines = list(self._walk(ROOT, 0, set()))
        if len(lines) <= limit:
            return View(tuple(lines), 0)
        chosen: set[int] = set()
        for line in sorted(lines, key=_urgency):
            path = [line.row.id]
            while (above := self.rows[path[-1]].parent) in self.rows and above not in chosen and above not in path:
                path.append(above)
            path = [number for number in path if number not in chosen]
            if len(chosen) + len(path) <= limit:
                chosen.update(path)
        return View(
            tuple(line for line in lines if line.row.id in chosen),
            len(lines) - len(chosen),
        )

    def _walk(self, parent: int, depth: int, seen: set[int]) -> Iterator[Line]:
        if parent == ROOT:
            rows = [row for row in self.rows.values() if row.parent not in self.rows]
        else:
            rows = [self.rows[number] for number in self._kids.get(parent, ())]
        for row in sorted(rows, key=_by_start):
            if row.id not in seen:
                seen.add(row.id)
                yield Line(row, depth)
                yield from self._walk(row.id, depth + 1, seen)

    # -- rows -------------------------------------------------------------

    def _add(self, row: Row) -> Row:
        """Put a new row at the root."""
        self.rows[row.id] = row
        self._kids.setdefault(ROOT, {})[row.id] = None
        return row

    def _adopt(self, row: Row, parent: int | None) -> None:
        if parent is not None and parent != row.parent and parent != row.id:
            self._leave(row)
            row.parent = parent
            self._kids.setdefault(parent, {})[row.id] = None

    def _leave(self, row: Row) -> None:
        kids = self._kids.get(row.parent, {})
        kids.pop(row.id, None)
        if not kids:
            self._kids.pop(row.parent, None)

    # -- folding ----------------------------------------------------------

    def _family(self, parent: int, of: str, task: str) -> _Family:
        families = self._families.setdefault(parent, {})
        if len(families) > MAX_ROWS:
            return families.get((of, task)) or families.setdefault((of, OTHERS), _Family())
        return families.setdefault((of, task), _Family())

    def _group(self, parent: int, of: str, task: str, started: float | None) -> Row:
        family = self._family(parent, of, task)
        if family.group is None:
            self._groups += 1
            group = Row(
                -self._groups,
                TASK,
                task,
                DONE,
                task=task,
                of=of,
                counts=Counts(),
                started=started,
            )
            family.group = self._add(group)
            self._adopt(group, parent)
        return family.group

    def _settle(self, row: Row) -> None:
        """Put a finished row among those of its task, and fold these once they are many."""
        if len(self.rows) > MAX_ROWS:
            row.task = OTHERS if self._family(ROOT, row.kind, row.task).group is None else row.task
            self._fold(row, ROOT)
            return
        parent = row.parent if row.parent in self.rows else ROOT
        family = self._family(parent, row.kind, row.task)
        if row.state in BAD:
            family.failed += 1
            if family.failed > MAX_FAILED:
                self._fold(row, parent)
            return
        family.finished.append(row.id)
        if family.group is not None or len(family.finished) > FOLD_ABOVE:
            finished, family.finished = family.finished, []
            for number in finished:
                if number in self.rows:
                    self._fold(self.rows[number], parent)

    def _fold(self, row: Row, parent: int) -> None:
        """Let the row of its task stand for `row`, and for what is nested in it."""
        of = row.of if row.kind == TASK else row.kind
        group = self._group(parent, of, row.task, row.started)
        _sum_into(group, row)
        self._leave(row)
        del self.rows[row.id]
        self._families.pop(row.id, None)
        for number in list(self._kids.get(row.id, ())):
            child = self.rows[number]
            if child.kind == ITEM:
                self._leave(child)
                del self.rows[number]
            else:
                self._adopt(child, group.id)
                if not child.live:
                    self._fold(child, group.id)


def _sum_into(group: Row, row: Row) -> None:
    assert group.counts is not None
    group.counts.add(row.sums())
    group.retries += row.retries + max(0, row.attempts - 1)
    group.duration_s = (group.duration_s or 0.0) + (row.duration_s or 0.0)
    if row.started is not None:
        group.started = row.started if group.started is None else min(group.started, row.started)
    if row.error and row.state in BAD:
        group.error, group.traceback = row.error, row.traceback
    group.reason, group.note = row.reason or group.reason, row.note or group.note
    group.state = summed_state(group.counts)


def summed_state(counts: Counts) -> str:
    """Return the state of a row that stands for many calls: the most telling one of theirs."""
    if counts.running or counts.queued:
        return RUNNING
    if counts.failed:
        return FAILED
    if counts.cancelled:
        return CANCELLED
    return CACHED if counts.cached and not counts.done else DONE


def _by_start(row: Row) -> tuple[float, int]:
    return (float("inf") if row.started is None else row.started, abs(row.id))


def _urgency(line: Line) -> tuple[int, int, float]:
    row = line.row
    rank = 0 if row.state in BAD else 1 if row.state in (RUNNING, RETRYING) else 2 if row.counts is not None else 3
    return (rank, line.depth, -(row.started or 0.0))
