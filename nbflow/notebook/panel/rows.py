"""The rows of the panel: what is known of a call, a map, the folded calls of a task, or a failed item.

Plain data without behaviour: `model` fills it from events, the faces draw it. A state is one of the words below,
which are also what people read.
"""

from __future__ import annotations

from dataclasses import dataclass

from nbflow.core import events

__all__ = [
    "BAD",
    "CACHED",
    "CALL",
    "CANCELLED",
    "DONE",
    "FAILED",
    "ITEM",
    "LEFT",
    "LIVE",
    "MAP",
    "QUEUED",
    "RETRYING",
    "ROOT",
    "RUNNING",
    "TASK",
    "TIMED_OUT",
    "Counts",
    "Item",
    "Line",
    "MapSampled",
    "Row",
    "View",
    "short",
]

QUEUED, RUNNING, RETRYING = "queued", "running", "retrying"
DONE, CACHED, FAILED, CANCELLED, TIMED_OUT, LEFT = (
    "done",
    "cached",
    "failed",
    "cancelled",
    "timed out",
    "left running",
)
LIVE = frozenset({QUEUED, RUNNING, RETRYING})
BAD = frozenset({FAILED, TIMED_OUT})

CALL, MAP, TASK, ITEM = "call", "map", "task", "item"

ROOT = 0
"""The parent of rows that stand for themselves."""


@dataclass(frozen=True, slots=True)
class Item:
    """One running item of a map: `started` is wall-clock seconds, `index` its position."""

    name: str
    started: float
    worker: str = ""
    index: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSampled(events.MapProgressed):
    """A map's counters together with some of its running items; made by the panel's timer."""

    items: tuple[Item, ...] = ()
    cacheable: bool = False


@dataclass(slots=True)
class Counts:
    """How many calls are in which state; `done` were computed, `saved_s` are the seconds that hits saved.

    `missed` counts those that asked the cache in vain; they are among the others too.
    """

    queued: int = 0
    running: int = 0
    done: int = 0
    cached: int = 0
    failed: int = 0
    cancelled: int = 0
    left: int = 0
    missed: int = 0
    saved_s: float = 0.0

    @property
    def finished(self) -> int:
        """Calls that came to an end."""
        return self.done + self.cached + self.failed + self.cancelled

    @property
    def total(self) -> int:
        """All calls."""
        return self.finished + self.queued + self.running + self.left

    def add(self, other: Counts) -> None:
        """Add `other` to these."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


_COUNTS = (
    "queued",
    "running",
    "done",
    "cached",
    "failed",
    "cancelled",
    "left",
    "missed",
    "saved_s",
)
_COUNTED_AS = {RETRYING: "running", TIMED_OUT: "failed", LEFT: "left"}


@dataclass(slots=True, eq=False)
class Row:
    """One line of the panel: a call, a map, the folded calls of one task, or a failed item of a map.

    Times are wall-clock seconds. `counts` is what a map or a task row sums up, None for single calls. `total` and
    `done` are the steps that a call reported. `of` says what a task row folds: calls or maps. `retry` is the call whose
    inputs a retry takes, where that is not the row's own.
    """

    id: int
    kind: str
    name: str
    state: str = QUEUED
    task: str = ""
    of: str = CALL
    stream: bool = False
    parent: int = ROOT
    counts: Counts | None = None
    total: float | None = None
    done: float = 0.0
    label: str = ""
    started: float | None = None
    duration_s: float | None = None
    expected_s: float | None = None
    attempts: int = 0
    retries: int = 0
    saved_s: float = 0.0
    worker: str = ""
    backend: str = ""
    cell: str = ""
    line: str = ""
    error: str = ""
    traceback: str = ""
    reason: str = ""
    note: str = ""
    items: tuple[Item, ...] = ()
    cacheable: bool = False
    missed: bool = False
    retry: int | None = None
    progress_at: float = float("-inf")
    line_at: float = float("-inf")

    @property
    def live(self) -> bool:
        """Whether it has not come to an end yet."""
        return self.state in LIVE

    def sums(self) -> Counts:
        """What this row adds to the totals; an item adds nothing, its map has counted it."""
        if self.counts is not None:
            return self.counts
        counts = Counts(saved_s=self.saved_s, missed=int(self.missed))
        if self.kind != ITEM:
            setattr(counts, _COUNTED_AS.get(self.state, self.state), 1)
        return counts


@dataclass(frozen=True, slots=True)
class Line:
    """A row as shown, `depth` levels in."""

    row: Row
    depth: int


@dataclass(frozen=True, slots=True)
class View:
    """The lines to show, in order, and how many further ones there are."""

    lines: tuple[Line, ...]
    hidden: int


def short(text: str, limit: int = 240) -> str:
    """Return `text` cut to `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
