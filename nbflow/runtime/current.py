"""The current frame, and the live record of a call.

One context variable holds the innermost frame: a `Call` or a session that was opened with `with`. Whoever sets it
restores it; it is never set across a `yield`. The notebook's session is not in it (a variable set after an `await` in
a cell is lost to the next cell): it is a plain attribute here, put there by whoever owns the shell.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar, Token
from itertools import count, islice
from threading import Lock

from nbflow._clock import Clock
from nbflow._steady import SteadyEvent as Flag
from nbflow._typing import TYPE_CHECKING, Any, Protocol
from nbflow.core.spec import TaskMetadata, TaskSpec
from nbflow.settings import Settings

if TYPE_CHECKING:
    from array import array
    from collections import deque

    from nbflow.core.attempts import Outcome
    from nbflow.hooks import Fanout, Hooks

__all__ = [
    "Call",
    "Frame",
    "Remote",
    "SessionLike",
    "ambient",
    "current_call",
    "frame",
    "is_worker",
    "make_ids_unique",
    "new_id",
    "new_ids",
    "restore",
]

CANCELLED, COMPLETED, FAILED, RUNNING, TIMED_OUT = "cancelled", "completed", "failed", "running", "timed out"

_ids = count(1)
_worker = False


def new_ids(count: int) -> array[int]:
    """Return the ids of so many calls at once, in ascending order."""
    from array import array  # only maps need it, and it is a library of its own to load

    return array("q", islice(_ids, count))


def new_id() -> int:
    """Return the next id of a call or map, unique in this process and its workers; safe from any thread."""
    return next(_ids)


def make_ids_unique() -> None:
    """Let ids of this process differ from those of all others, once; for workers, whose events go elsewhere.

    They stay below 2**53, so that a browser can count with them.
    """
    global _ids, _worker
    _worker = True
    if next(_ids) < 1 << 32:
        _ids = count((1 + int.from_bytes(os.urandom(4)) % (1 << 20)) << 32)


def is_worker() -> bool:
    """Whether this process works for others, as `make_ids_unique` says."""
    return _worker


class SessionLike(Protocol):
    """What drivers need of a session (`nbflow.sessions.SessionContext` is the one there is)."""

    session_id: str
    settings: Settings
    clock: Clock
    fanout: Fanout
    hooks: Hooks | None
    records: deque[Call]
    active: dict[int, Any]
    keep_failed: Callable[[Call], None] | None

    @property
    def session(self) -> SessionLike: ...
    @property
    def backend(self) -> str: ...
    @property
    def listening(self) -> bool: ...
    def label(self) -> str | None: ...
    def cache_store_for(self, spec: TaskSpec) -> Any: ...
    def dataset_store_for(self, store: Any) -> Any: ...
    def random(self) -> float: ...


class Remote(Protocol):
    """How attempts of a call are made that does not run in this process."""

    def attempt(self, call: Call) -> Outcome: ...


class Frame(Protocol):
    """What the context variable holds."""

    @property
    def session(self) -> Any: ...


class Call:
    """One invocation of a task: its live state while it runs, its record afterwards.

    Attributes:
        id: Unique in this process.
        spec: The task.
        session: The session it runs in.
        parent_id: Id of the call that made this one, or None.
        index: Position among the items of its map, or None.
        map: The map that it is an item of, or None.
        state: running, completed, failed, cancelled or timed out.
        cached: Whether the result came from the cache; `saved_s` are the seconds its computation had cost.
        started, ended: Clock times in seconds (monotonic).
        attempts: How many attempts were made.
        key_later: Makes the cache key of a call that was found at once, where nobody has asked for `key` yet.
        why_missed: Says why the cache missed, where nobody has asked for `reason` yet.
        notes: Further remarks for people, such as why a result could not be stored.
        remarks: Those that say nothing of storing, such as that an argument was changed in place.
        reads: Files that a cached call reads while it runs, with their states (None: the key has them anyway).
        remote: How its attempts are made, where that is not in this process.
        progress: Done, total and clock time of what it last told of its progress; None unless it is to be kept.
    """

    __slots__ = (
        "_cancel_reason",
        "_key",
        "_name",
        "_pool",
        "_reason",
        "alarm",
        "args",
        "attempts",
        "cached",
        "ended",
        "error",
        "flag",
        "id",
        "index",
        "key_later",
        "kwargs",
        "map",
        "notes",
        "parent",
        "parent_id",
        "progress",
        "reads",
        "remarks",
        "remote",
        "saved_s",
        "session",
        "spec",
        "started",
        "state",
        "stop",
        "why_missed",
        "worker",
    )

    alarm: Any
    attempts: int
    ended: float | None
    flag: Flag | None
    key_later: Callable[[], Any] | None
    notes: tuple[str, ...]
    progress: tuple[float, float | None, float] | None
    reads: dict[str, Any] | None
    remarks: tuple[str, ...]
    remote: Remote | None
    saved_s: float
    started: float | None
    stop: Callable[[], object] | None
    why_missed: Callable[[], str | None] | None
    worker: str | None
    _cancel_reason: str | None
    _key: Any
    _name: str | None
    _pool: str | None
    _reason: str | None

    def __init__(
        self,
        spec: TaskSpec,
        session: Any,
        parent: Call | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        index: int | None = None,
        map: Any = None,
        id: int | None = None,
    ) -> None:
        self.id = next(_ids) if id is None else id
        self.spec = spec
        self.session = session
        self.parent: Call | None = parent
        self.parent_id = None if parent is None else parent.id
        self.args: Any = args
        self.kwargs: Any = kwargs
        self.index = index
        self.map = map
        self.state = RUNNING
        self.cached = False
        self.saved_s = 0.0
        self.attempts = 0
        self.error: BaseException | None = None
        self.started = self.ended = self.key_later = self.why_missed = self.worker = None
        self.alarm = self.flag = self.progress = self.reads = self.remote = self.stop = None
        self.notes = self.remarks = ()
        self._cancel_reason = self._key = self._name = self._pool = self._reason = None

    @staticmethod
    def item(
        spec: TaskSpec,
        session: Any,
        args: Any,
        kwargs: Any,
        index: int,
        map: Any,
        id: int,
        parent_id: int | None,
    ) -> Call:
        """Return the call of one of very many items, for a third of the time: what is not set here is as in others."""
        call = _new_call(_Item)
        call.id = id
        call.spec = spec
        call.session = session
        call.parent = None
        call.parent_id = parent_id
        call.args = args
        call.kwargs = kwargs
        call.index = index
        call.map = map
        call.state = RUNNING
        return call

    @property
    def inputs(self) -> dict[str, Any]:
        """The arguments by parameter name, with defaults; empty while they are not known, and once it has ended."""
        return self.spec.bind(*self.args, **self.kwargs) if self.args is not None else {}

    @property
    def name(self) -> str:
        """The name of this call: the task's template filled in, with `[index]` for items of a map."""
        if self._name is not None:
            return self._name
        name = self.spec.call_name(lambda: self.inputs, self.index)
        if self.args is not None:  # else it is not known yet
            self._name = name
        return name

    @property
    def key(self) -> Any:
        """The cache key, where one was made; its parts are written down when somebody asks."""
        make = self.key_later
        if make is not None:
            self._key, self.key_later = make(), None
        return self._key

    @key.setter
    def key(self, key: Any) -> None:
        self._key, self.key_later = key, None

    @property
    def reason(self) -> str | None:
        """Why the cache missed; put into words when somebody asks."""
        tell = self.why_missed
        if tell is not None:
            self._reason, self.why_missed = tell(), None
        return self._reason

    @reason.setter
    def reason(self, words: str | None) -> None:
        self._reason, self.why_missed = words, None

    @property
    def backend(self) -> str:
        """Name of the backend that runs this call."""
        return self.map.backend if self.map is not None else self._pool or "inline"

    @property
    def duration_s(self) -> float:
        """Seconds from start to end, or until now."""
        end = self.ended if self.ended is not None else self.session.clock.monotonic()
        return end - self.started if self.started is not None else 0.0

    @property
    def metadata(self) -> TaskMetadata:
        """What hooks get to see of this call."""
        kind = self.spec.kind
        return TaskMetadata(
            id=self.id,
            name=self.name,
            backend=self.backend,
            inputs=self.inputs,
            description=self.spec.description,
            map_index=self.index,
            parent_id=self.parent_id,
            is_async=kind.is_async,
            is_generator=kind.is_stream,
        )

    @property
    def cancel_reason(self) -> str | None:
        """Who asked for this call, or one around it, to be cancelled; None if nobody did."""
        call: Call | None = self
        while call is not None:
            if call._cancel_reason is not None:
                return call._cancel_reason
            if call.map is not None and (reason := call.map.reason_for(call.index)) is not None:
                return str(reason)
            call = call.parent
        return None

    @property
    def own_cancel_reason(self) -> str | None:
        """Who asked for this very call to be cancelled, not for one around it or for its whole map."""
        if self._cancel_reason is None and self.map is not None and self.index is not None:
            reason: str | None = self.map.dropped.get(self.index)
            return reason
        return self._cancel_reason

    def cancel(self, reason: str = "cancelled") -> bool:
        """Ask this call to end as cancelled; safe from any thread.

        Returns:
            False if it had ended already.
        """
        with _cancelling:
            if self.state != RUNNING:
                return False
            if self._cancel_reason is None:
                self._cancel_reason = reason
            stop = self.stop
        if self.flag is not None:
            self.flag.set()
        if stop is not None:
            stop()
        return True

    @property
    def is_followed(self) -> bool:
        """Whether it matters which files this call reads: to itself, or to a call around it."""
        call: Call | None = self
        while call is not None:
            if call.reads is not None:
                return True
            call = call.parent
        return False

    def note_reads(self, states: dict[str, Any]) -> None:
        """Note that this call, and thus those around it, read these files; their keys may have them anyway."""
        call: Call | None = self
        while call is not None:
            if call.reads is not None:
                for path, state in states.items():
                    call.reads.setdefault(path, state)
            call = call.parent

    def wait_flag(self) -> Flag:
        """Return a flag that `cancel` sets, for waits that must end then."""
        with _cancelling:
            if self.flag is None:
                self.flag = Flag()
                if self._cancel_reason is not None:
                    self.flag.set()
            return self.flag

    def close(self, state: str, ended: float) -> bool:
        """Enter a final state; False if the call already has one (the first ending wins)."""
        if self.spec.template_names:
            _ = self.name  # runs code of the arguments, hence not under the lock
        with _cancelling:
            if self.state != RUNNING:
                return False
            self.ended = ended
            self.state = state
        self.forget()
        return True

    def forget(self) -> None:
        """Let go of arguments and of the calls around, so that a record keeps nothing alive."""
        self.args = self.kwargs = self.parent = self.remote = self.stop = None


class _Item(Call):
    """A call as `Call.item` makes it; a class of its own, since looking up attributes takes longer here."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return what `item` left out."""
            try:
                return _UNSET[name]
            except KeyError:
                raise AttributeError(f"'Call' object has no attribute {name!r}") from None


_new_call = object.__new__
_UNSET: dict[str, Any] = {
    **dict.fromkeys(Call.__slots__),
    "attempts": 0,
    "cached": False,
    "notes": (),
    "remarks": (),
    "saved_s": 0.0,
}
_cancelling = Lock()
_frame: ContextVar[Any] = ContextVar("nbflow_frame", default=None)

frame = _frame.get
"""Return the innermost frame of this context, or None."""

enter = _frame.set
"""Make something the innermost frame; afterwards `enter` what was there before, or give the token to `restore`.

Synchronous code does the former, both inside one `try … finally`: no interrupt can strike between a call of C and what
it does, while one that struck at the beginning of `restore` would leave the frame to whatever runs next in the kernel.
"""


def restore(token: Token[Any]) -> None:
    """Undo an `enter`; in a foreign context (a coroutine closed from outside) there is nothing to undo."""
    try:
        _frame.reset(token)
    except ValueError:
        pass


class Ambient:
    """What the notebook puts here while its extension is loaded, for code that has no frame, or runs on any thread.

    Attributes:
        session: The notebook's session.
        browse: Shows a session's datasets.
        explore: Makes controls for a task or cell.
        panel: Shows its panel (True) or switches it off (False), and gives the failed calls that can be run again.
        why: Explains the last run of a cell or task by name.
    """

    __slots__ = ("browse", "explore", "panel", "session", "why")

    def __init__(self) -> None:
        self.session: Any = None
        self.browse: Callable[[Any], None] | None = None
        self.explore: Callable[..., Any] | None = None
        self.panel: Callable[[bool], Any] | None = None
        self.why: Callable[[str], Any] | None = None


ambient = Ambient()


def current_call() -> Call | None:
    """Return the innermost running call of this context, or None."""
    found = _frame.get()
    while found is not None and not isinstance(found, Call):
        found = found.outer_frame
    return found
