"""`explore`: controls over a task or cell, with the result of the setting that is chosen.

An `Explorer` knows the setting that is wanted, the one that runs and the one that is shown. Movements come from the
front end or from code; results come from the threads that made them. What to start or cancel next is decided by
`Latest`, under a lock that is never held while user code runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Any, cast

from nbflow._clock import SYSTEM_CLOCK, Clock
from nbflow._util import format_duration, one_line, report
from nbflow.core.events import ProgressMade
from nbflow.errors import DefinitionError, TaskCancelledError
from nbflow.handles import TaskHandle
from nbflow.hooks import Fanout
from nbflow.notebook import output
from nbflow.notebook.explore.controls import Control, Position, read_ranges
from nbflow.notebook.explore.figures import Figures, separate
from nbflow.notebook.explore.latest import Latest
from nbflow.notebook.explore.results import NOTHING, Part, Shown, error_parts, parts_of, text_of
from nbflow.notebook.explore.subjects import Subject, cell_subject, task_subject
from nbflow.notebook.explore.view import View
from nbflow.notebook.recorder import Silent
from nbflow.runtime import current
from nbflow.sessions import SessionContext, session_or_default
from nbflow.submitting import submit

__all__ = ["Explorer", "make_explorer"]

MARKED_STEPS = 200
MARK_S = 0.3
PREFETCH = ("off", "neighbours")
REMEMBERED = 100
FORGOTTEN: Part = ("text", "(cached, but what it printed and drew is not: return what is to be seen)")

Positions = tuple[Position, ...]
_shown: dict[str, list[Part]] = {}  # by cache key, the latest last


def make_explorer(state: Any, subject: Any, ranges: Mapping[str, Any], *, prefetch: str = "off") -> Explorer:
    """Return the explorer of a task or cell; what `nbflow.explore` does in a notebook.

    Args:
        state: The shell's state.
        subject: A task, or the name of a `%%task` cell.
        ranges: Ranges and values by name.
        prefetch: "off" or "neighbours".

    Raises:
        DefinitionError: There is no such subject or name, or a range is none.
    """
    if prefetch not in PREFETCH:
        raise DefinitionError(f"prefetch={prefetch!r} must be one of {', '.join(PREFETCH)}.")
    if isinstance(subject, str):
        node = state.graph.nodes.get(subject)
        if node is None:
            known = ", ".join(state.graph.nodes) or "none ran yet"
            raise DefinitionError(f"explore({subject!r}): there is no task cell of that name; there are: {known}.")
        found = cell_subject(state, node, ranges)
    elif callable(subject):
        found = task_subject(subject, ranges, state.shell.user_ns)
    else:
        raise DefinitionError(f"explore({subject!r}): give a task, or the name of a %%task cell.")
    controls, fixed = read_ranges(ranges, found.starts)
    explorer = Explorer(state.shell, session_or_default(), found, controls, fixed, prefetch=prefetch == "neighbours")
    state.shown.replace(("explore", found.title, *(each.name for each in controls)), explorer)
    return explorer


class Explorer:
    """Controls, and the result of the setting that they are at; what `nbflow.explore` returns.

    It shows itself where it ends a cell, and starts then. Leave it on a line of its own to see it once more; closing
    it leaves the last result as a plain output.

    Args:
        shell: The IPython shell.
        session: The session whose caches and backends are used.
        subject: What is explored.
        controls: The parameters that vary.
        fixed: Values of the others.
        prefetch: Whether settings one step away are computed while nothing else is to be done.
        clock: Source of time.
        timer: Makes a timer of seconds and a function, with `start` and `cancel`.

    Safe from any thread.
    """

    def __init__(
        self,
        shell: Any,
        session: Any,
        subject: Subject,
        controls: list[Control],
        fixed: Mapping[str, Any],
        *,
        prefetch: bool = False,
        clock: Clock = SYSTEM_CLOCK,
        timer: Callable[[float, Callable[[], None]], Any] = threading.Timer,
    ) -> None:
        self.subject = subject
        self.controls = controls
        self.fixed = dict(fixed)
        self._shell = shell
        self._prefetch = prefetch
        self._clock = clock
        self._timer = timer
        self._lock = threading.Lock()
        self._latest = Latest()
        self._positions: Positions = tuple(control.start for control in controls)
        self._value: Any = None
        self._error: BaseException | None = None
        self._shown_at: Positions | None = None
        self._tried: set[Positions] = set()
        self._handle: TaskHandle[Any] | None = None
        self._alarm: Any = None
        self._landed = threading.Event()
        self._closed = False
        # A session of its own: the panel does not tell of these calls, their progress is told here.
        self._session = SessionContext(parent=session)
        self._session.fanout = Fanout()
        self._session.add_observer(self._observe)
        self._context = copy_context()
        self._context.run(current.enter, self._session)
        self._view = View(shell, session.settings.progress, self)
        separate(wanted=subject.draws)
        session.end_with(self)

    # -- for code

    @property
    def setting(self) -> dict[str, Any]:
        """The setting that the controls are at, by parameter, with the values that do not vary."""
        return self.fixed | self._values(self._positions)

    @property
    def value(self) -> Any:
        """The result of the setting, of a cell what it shows as text; waits for it.

        Raises:
            BaseException: What the task raised.
        """
        self._begin()
        while not self._landed.wait(0.2):  # in pieces, so that an interrupt gets through
            pass
        if self._error is not None:
            raise self._error
        return text_of(self._value.parts) if isinstance(self._value, Shown) else self._value

    def set(self, **values: Any) -> None:
        """Move controls to values, as a hand would.

        Raises:
            DefinitionError: There is no such control, or the value is out of its range.
        """
        places = {control.name: place for place, control in enumerate(self.controls)}
        wanted = list(self._positions)
        for name, value in values.items():
            if name not in places:
                raise DefinitionError(f"There is no control {name!r}; there are: {', '.join(places) or 'none'}.")
            wanted[places[name]] = self.controls[places[name]].position(value)
        self._move(tuple(wanted))

    def keep(self) -> str:
        """Return the text of a cell that does what is shown; called in a cell, it also makes it the next cell."""
        text = self.subject.text(self.setting)
        if threading.current_thread() is threading.main_thread():
            self._shell.set_next_input(text)
        return text

    def close(self) -> None:
        """Stop what runs and leave the last result as a plain output; idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            handle, alarm = self._handle, self._alarm
        if alarm is not None:
            alarm.cancel()
        if handle is not None:
            handle.cancel("the controls were closed")
        self._landed.set()
        self._view.close()
        self._session.close()

    def cancel(self, reason: str = "") -> None:
        """Close it, as the end of its session does."""
        self.close()

    def __repr__(self) -> str:
        at = ", ".join(f"{control.name}={control.label(where)}" for control, where in self._zip(self._positions))
        return f"<explore {self.subject.title}: {at or 'nothing varies'}>"

    def _ipython_display_(self) -> None:
        self._begin()
        self._view.show()

    # -- for the front end

    def describe(self) -> dict[str, Any]:
        """Return what the front end needs to draw the controls."""
        return {
            "title": self.subject.title,
            "controls": [control.describe() for control in self.controls],
            "positions": list(self._positions),
        }

    def heard(self, content: Mapping[str, Any]) -> None:
        """Handle a message of the front end."""
        kind = content.get("kind")
        if kind == "set" and isinstance(content.get("positions"), list):
            self._move(tuple(content["positions"]))
        elif kind == "keep":
            self._view.tell({"kind": "kept", "text": self.subject.text(self.setting)})

    def run_now(self) -> None:
        """Wait until the setting's result is there, for where nobody can move the controls."""
        self._begin()
        while not self._landed.wait(0.2):
            pass

    # -- settings

    def _zip(self, positions: Positions) -> list[tuple[Control, Position]]:
        return list(zip(self.controls, positions, strict=True))

    def _values(self, positions: Positions) -> dict[str, Any]:
        return {control.name: control.value(position) for control, position in self._zip(positions)}

    def _is_cached(self, positions: Positions) -> bool:
        return self.subject.is_cached(self._session, self.fixed | self._values(positions))

    def _begin(self) -> None:
        """Ask for the first setting, once."""
        with self._lock:
            if self._closed or self._landed.is_set() or self._latest.running is not None or self._latest.wanted:
                return
            self._latest.want(self._positions, self._clock.monotonic())
        self._advance()

    def _move(self, positions: Positions) -> None:
        """Somebody moved the controls; positions from outside are checked."""
        if len(positions) != len(self.controls):
            raise DefinitionError(f"{len(positions)} positions for {len(self.controls)} controls.")
        self._values(positions)
        with self._lock:
            self._positions = positions
            if positions == self._shown_at and self._error is None:
                self._latest.wanted = None
                self._landed.set()
            else:
                self._landed.clear()
                self._latest.want(positions, self._clock.monotonic())
        self._advance()

    # -- running

    def _advance(self) -> None:
        """Do what is due: start, cancel, or wait; where nothing is, look ahead."""
        with self._lock:
            wanted = None if self._closed else self._latest.wanted
        cached = wanted is not None and self._is_cached(wanted)  # type: ignore[arg-type]
        with self._lock:
            if self._closed:
                return
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None
            step = self._latest.next(self._clock.monotonic(), cached=cached)
            if step is not None and step.do == "start":
                self._latest.started(step.setting, self._clock.monotonic())
            handle = self._handle
        if step is None:
            return
        if step.do == "start":
            self._start(step.setting)  # type: ignore[arg-type]
        elif step.do == "cancel" and handle is not None:
            handle.cancel("another setting was chosen")
        elif step.do == "wait":
            alarm = self._timer(step.seconds, self._advance)
            alarm.daemon = True
            with self._lock:
                self._alarm = alarm
            alarm.start()

    def _start(self, positions: Positions, *, ahead: bool = False) -> None:
        """Submit the call of a setting."""
        recorder, figures = Silent(), Figures()
        if not ahead:
            self._view.tell({"kind": "running", "positions": list(positions)})

        def begin() -> TaskHandle[Any]:
            with output.recording(recorder, self._shell), figures.collecting():
                task = cast("Callable[..., Any]", self.subject.task)
                return submit(task, **{**self.fixed, **self._values(positions)})

        try:
            handle = self._context.copy().run(begin)
        except Exception as error:
            self._finish(positions, None, error, [])
            return
        with self._lock:
            self._handle = handle
        handle.add_done_callback(lambda done: self._ended(positions, done, recorder, figures, ahead))

    def _ended(
        self, positions: Positions, handle: TaskHandle[Any], recorder: Silent, figures: Figures, ahead: bool
    ) -> None:
        """A call is over, in whatever thread that was."""
        error = handle.exception
        value = None if error is not None else handle.get()
        with self._lock:
            ahead = ahead and self._latest.ahead  # asked for meanwhile?
        parts: list[Part] = []
        call = next((each for each in reversed(self._session.records) if each.id == handle.task_id), None)
        if not isinstance(error, TaskCancelledError):
            try:
                parts = parts_of(self._shell.display_formatter.format, value, recorder.items(), figures)
            except Exception as wrong:
                parts = error_parts(wrong)
        if call is not None:
            parts = _remembered(call, self.subject.key(self._session, self.fixed | self._values(positions)), parts)
        self._finish(positions, value, error, parts, call=call, ahead=ahead)

    def _finish(
        self,
        positions: Positions,
        value: Any,
        error: BaseException | None,
        parts: list[Part],
        *,
        call: Any = None,
        ahead: bool = False,
    ) -> None:
        """Take in what came of a call, show it, and go on."""
        cached = call is not None and call.cached
        stopped = isinstance(error, TaskCancelledError)
        with self._lock:
            self._latest.ended(self._clock.monotonic(), cached=cached, stopped=stopped)
            self._handle = None
            if self._closed:
                return
            self._tried.add(positions)
            shown = not ahead and not stopped
            if shown:
                self._value, self._error, self._shown_at = value, error, positions
                if positions == self._positions:
                    self._latest.wanted = None
                    self._landed.set()
        if shown:
            if error is not None:
                parts = error_parts(error)
            self._view.result(list(positions), parts, _words(call, cached), failed=error is not None)
        elif stopped and not ahead:
            self._view.tell({"kind": "stopped"})
        self._advance()
        self._rest()

    def _rest(self) -> None:
        """Nothing is to be done: mark what is cached, and compute what may be wanted next."""
        if not self._idle():
            return
        self._view.marks(self._marks())
        ahead = next(self._ahead(), None) if self._prefetch else None
        if ahead is None:
            return
        with self._lock:
            if self._closed or self._latest.running is not None or self._latest.wanted is not None:
                return
            self._latest.started(ahead, self._clock.monotonic(), ahead=True)
        self._start(ahead, ahead=True)

    def _idle(self) -> bool:
        with self._lock:
            return not self._closed and self._latest.running is None and self._latest.wanted is None

    def _ahead(self) -> Any:
        """Yield settings one step away that are not cached and were not tried."""
        here = self._positions
        for place, (control, position) in enumerate(self._zip(here)):
            for other in control.neighbours(position):
                there = (*here[:place], other, *here[place + 1 :])
                if there not in self._tried and not self._is_cached(there):
                    yield there

    def _marks(self) -> dict[str, list[int]]:
        """Return, for each control with numbered positions, those whose results are cached; in bounded time."""
        deadline = self._clock.monotonic() + MARK_S
        found: dict[str, list[int]] = {}
        here = self._positions
        for place, control in enumerate(self.controls):
            if control.steps is None or control.steps > MARKED_STEPS:
                continue
            marked = found[control.name] = []
            for position in range(control.steps):
                if self._clock.monotonic() > deadline or not self._idle():
                    return {}
                if self._is_cached((*here[:place], position, *here[place + 1 :])):
                    marked.append(position)
        return found

    def _observe(self, event: Any) -> None:
        if type(event) is ProgressMade and self._latest.running is not None and not self._latest.ahead:
            try:
                self._view.tell({"kind": "progress", "done": event.done, "total": event.total})
            except Exception as error:
                report(f"Progress could not be shown: {one_line(error)}.")


def _remembered(call: Any, key: Any, parts: list[Part]) -> list[Part]:
    """Return what a call showed when it was computed: on a hit nothing is printed and drawn again."""
    if key is None:
        return parts
    if call.cached:
        return _shown.get(key.digest, [FORGOTTEN] if parts == [NOTHING] else parts)
    if call.error is None:
        _shown[key.digest] = parts
        if len(_shown) > REMEMBERED:
            _shown.pop(next(iter(_shown)))
    return parts


def _words(call: Any, cached: bool) -> str:
    """Return in words how a result came about."""
    if call is None:
        return ""
    if cached:
        return f"cached, saved {format_duration(call.saved_s)}" if call.saved_s >= 0.001 else "cached"
    return f"computed in {format_duration(call.duration_s)}"
