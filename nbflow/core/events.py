"""The facts of a run: one frozen dataclass each.

Events flow upwards (drivers emit, observers listen) and never carry results or arguments, so that keeping them costs
nothing and they can cross processes. Every call ends in exactly one *terminal* event: `TaskCompleted`, `TaskFailed`,
`TaskCancelled` or `TaskTimedOut`. The grammar of one call:

    TaskStarted (CacheMiss)? ( AttemptStarted AttemptPlaced* Item* (AttemptFailed RetryScheduled?)? )*
    (CacheWritten | CacheFailed)? Terminal

Durations are seconds and end in `_s`; `time` is wall-clock seconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "AttemptFailed",
    "AttemptPlaced",
    "AttemptStarted",
    "CacheFailed",
    "CacheMiss",
    "CacheWritten",
    "DatasetLoaded",
    "DatasetSaved",
    "Event",
    "ItemYielded",
    "LogLine",
    "MapEnded",
    "MapProgressed",
    "MapStarted",
    "ProgressMade",
    "RetryScheduled",
    "SessionEnded",
    "SessionStarted",
    "StragglerLeft",
    "TaskCancelled",
    "TaskCompleted",
    "TaskFailed",
    "TaskQueued",
    "TaskStarted",
    "TaskTimedOut",
    "Terminal",
    "ValueChanged",
    "WorkerLost",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fact: which call (or map, or session) it is about, under which name, and when.

    `map_id` names the map that the call is an item of.
    """

    call_id: int
    name: str
    time: float
    map_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStarted(Event):
    """A session opened; `call_id` is 0 and `name` the session's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(Event):
    """A session closed, after everything that ran in it had ended."""

    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MapStarted(Event):
    """A map or gather begins; `call_id` is the map's own id, which its items name as `map_id`."""

    total: int
    backend: str
    parent_id: int | None = None
    cell: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MapProgressed(Event):
    """How far a map is, sampled from its live counters: by the panel, or by the worker that it is nested in."""

    total: int
    completed: int
    cached: int
    failed: int
    cancelled: int
    running: int
    saved_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MapEnded(Event):
    """A map is over and none of its items will start any more."""

    total: int
    completed: int
    cached: int
    failed: int
    cancelled: int
    duration_s: float
    saved_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQueued(Event):
    """A call was submitted and waits for a worker; `needs` are the calls whose results are among its arguments."""

    backend: str
    index: int | None = None
    needs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted(Event):
    """A call begins, before the cache is asked; emitted by the driver."""

    task: str
    kind: str
    backend: str
    parent_id: int | None = None
    index: int | None = None
    worker: str | None = None
    cell: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheMiss(Event):
    """The cache had no valid entry; `reason` says why in words where that is known."""

    key: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheWritten(Event):
    """The result was stored."""

    key: str
    size_bytes: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFailed(Event):
    """Key, read or write failed, or the entry can only be kept for this session; the task goes on.

    `stage` is "key", "read", "write", or "share" for trouble with the shared cache, which belongs to no single call.
    """

    stage: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted(Event):
    """The user's function is about to be called, for the `number`-th time."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptPlaced(Event):
    """A worker outside this process has begun to run the attempt; again where the first one was lost.

    Where `TaskStarted` names no worker, the call waits for one until this is told.
    """

    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(Event):
    """The user's function raised an exception (not an interrupt, not a cancellation)."""

    number: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(Event):
    """Attempt `number` will start after `delay_s`."""

    number: int
    delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemYielded(Event):
    """A stream is about to hand out item `index`."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressMade(Event):
    """The running call reports that `done` of `total` steps are made."""

    done: float
    total: float | None
    label: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine(Event):
    """A line that the call printed or logged."""

    text: str
    stream: str = "stdout"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSaved(Event):
    """A dataset was written; `call_id` is the call that did so, or 0."""

    key: str
    format: str
    size_bytes: int | None
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetLoaded(Event):
    """A dataset was read; `call_id` is the call that did so, or 0."""

    key: str
    format: str
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueChanged(Event):
    """A value that nbflow had handed out was changed in place; emitted by the call that gets it, or after a cell.

    `holder` is the variable or argument that it was found by, `origin` says how it came to be ("`load` produced it
    (cell 3)"), `cell` is the cell that has run meanwhile. `call_id` is 0 where no call was involved.
    """

    holder: str
    origin: str
    cell: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost(Event):
    """A worker ended without being asked to."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StragglerLeft(Event):
    """The call is over for its caller, but its code could not be stopped and still runs detached."""

    worker: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal(Event):
    """Base of the four endings of a call."""

    duration_s: float
    attempts: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCompleted(Terminal):
    """The call returned; `cached` says from where, `saved_s` the seconds its first computation had cost."""

    cached: bool = False
    saved_s: float = 0.0
    key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed(Terminal):
    """The last attempt raised; `error` is its one-line text, `traceback` the user's frames."""

    error: str
    error_type: str
    traceback: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCancelled(Terminal):
    """The call was interrupted, cancelled, or its stream was closed early."""

    reason: str = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTimedOut(Terminal):
    """The last attempt passed its timeout."""

    timeout_s: float
    error: str = ""
