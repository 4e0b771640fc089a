"""The panel: a live view of what runs under a cell, which ends as a static summary in the saved notebook.

`PanelController` listens to a session, folds its events into one `Model` for each cell that runs tasks, and shows
that through a face chosen by evidence: widget, HTML or text. Observing costs a call one append to a queue; everything
else happens in one timer thread that only lives while something runs.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from importlib.util import find_spec
from typing import Any

from nbflow._clock import SYSTEM_CLOCK, Clock
from nbflow._util import one_line, report
from nbflow.core import events
from nbflow.errors import SettingsError
from nbflow.notebook.panel.faces import Face, HtmlFace, LineFace, NoFace, Screen, WidgetFace
from nbflow.notebook.panel.model import Model
from nbflow.notebook.panel.rows import Item, MapSampled
from nbflow.notebook.panel.words import is_all_cached
from nbflow.notebook.tap import MessageTap, is_attended

__all__ = ["PanelController"]

APPEARS_AFTER_S = 0.3
MODES = ("auto", "widget", "html", "text", "off")
_ITEMS_SHOWN = 6
_BEGINNINGS = frozenset({events.TaskQueued, events.TaskStarted, events.MapStarted})

Tick = Callable[[], float | None]
"""Does one round; returns seconds until the next one, or None to end."""


def _run_in_thread(tick: Tick) -> None:
    """Call `tick` again and again in a daemon thread, until it says to end."""
    wait = threading.Event().wait

    def rounds() -> None:
        while (delay := tick()) is not None:
            wait(delay)

    threading.Thread(target=rounds, name="nbflow-panel", daemon=True).start()


class _Run:
    """What one cell runs: its model, its face, and how far the display is.

    Drawing happens in the cell's context, whichever thread does it: by that the kernel knows where output belongs.
    """

    __slots__ = ("badged", "began", "context", "face", "model", "over", "shown")

    def __init__(self, model: Model, face: Face, began: float, context: Context, *, over: bool) -> None:
        self.model = model
        self.face = face
        self.began = began
        self.context = context
        self.over = over
        self.shown = False
        self.badged = False

    def is_due(self, now: float) -> bool:
        """Whether it runs long enough to be worth a panel: hits alone are not, unless one of them takes its time."""
        model = self.model
        if not model.live or now - self.began < APPEARS_AFTER_S:
            return False
        sums = model.totals()
        if sums.done or sums.failed or sums.cancelled:
            return True
        latest = max((row.started or now for row in model.rows.values() if row.live), default=now)
        return sums.cached == 0 or now - latest >= APPEARS_AFTER_S

    def has_notes(self) -> bool:
        """Whether there is something to say of a row besides its state, such as that it was not cached."""
        return any(row.note for row in self.model.rows.values())

    def is_trivial(self) -> bool:
        """Whether it ended without anything worth a line: a single quick call, or a hit that its cell shows already."""
        sums = self.model.totals()
        if sums.total != 1 or (self.has_notes() and not self.badged):
            return sums.total == 0
        return sums.cached == 0 or self.badged or sums.saved_s < APPEARS_AFTER_S


class PanelController:
    """Shows what a session runs, cell by cell.

    Args:
        session: The session to observe (and to ask for cancellation).
        mode: "auto", "widget", "html", "text" or "off"; None for the session's `progress` setting.
        shell: The IPython shell, or None outside of IPython.
        clock: Source of time.
        ticker: Starts calling a function regularly; for tests.

    Raises:
        SettingsError: An unknown mode.

    All methods are safe from any thread; `cell_started`, `cell_finished` and `pump` belong to the one that runs cells.
    """

    def __init__(
        self,
        session: Any,
        mode: str | None = None,
        shell: Any = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        ticker: Callable[[Tick], None] = _run_in_thread,
    ) -> None:
        mode = session.settings.progress if mode is None else mode
        if mode not in MODES:
            raise SettingsError(f"progress={mode!r} is not a mode of the panel; use one of {', '.join(MODES)}.")
        self._session = session
        self._mode = mode
        self._shell = shell
        self._clock = clock
        self._ticker = ticker
        self._offset = clock.wall() - clock.monotonic()
        self._lock = threading.RLock()
        self._inbox: deque[events.Event] = deque()
        self._ticking = False
        self._in_cell = False
        self._context = copy_context()
        self._current: _Run | None = None
        self._runs: list[_Run] = []
        self._last: _Run | None = None
        self._history: dict[str, float] = {}
        self._tap = MessageTap(getattr(shell, "kernel", None))
        if mode != "off":
            session.add_observer(self._observe, items=False)

    # -- what the notebook calls ------------------------------------------

    def cell_started(self, label: str | None = None) -> None:
        """A cell begins; what it runs gets a panel of its own. `label` is what people call the cell."""
        with self._lock:
            self._leave_cell()
            self._context = copy_context()
            self._in_cell = True

    def cell_finished(self) -> None:
        """The cell is over, by whatever way: its panel becomes static, unless submitted tasks still run."""
        with self._lock:
            self._leave_cell()
            self._in_cell = False

    def badge_shown(self) -> None:
        """The running cell says by itself how its own call went, so that this alone needs no line of the panel."""
        with self._lock:
            self._drain()
            if self._current is not None:
                self._current.badged = True

    def pump(self) -> None:
        """Handle clicks where only the main thread can, between steps of the user's code (ipykernel 6).

        Reported progress does this by itself; call it from other places where a click may take effect.
        """
        self._tap.pump()

    def show(self, on: bool = True) -> None:
        """Show the newest panel once more, and switch panels on; or switch them off."""
        with self._lock:
            if on:
                if self._mode == "off":
                    self._mode = "auto"
                    self._session.add_observer(self._observe, items=False)
                self._drain()
                run = self._current or self._last
                if run is not None:
                    live = run in self._runs
                    run.shown = True
                    run.face.show(run.model, self._clock.wall() if live else None)
            else:
                self._mode = "off"
                self._session.remove_observer(self._observe)
                self._finish_all()

    def close(self) -> None:
        """End all panels as they are, and stop listening to session and kernel."""
        self._session.remove_observer(self._observe)
        with self._lock:
            self._finish_all()
        self._tap.close()

    # -- events in --------------------------------------------------------

    def _observe(self, event: events.Event) -> None:
        self._inbox.append(event)
        kind = type(event)
        if not self._ticking and kind in _BEGINNINGS:
            self._wake()
        elif kind is events.ProgressMade:
            self._tap.pump()  # told from within the user's code, hence the place to hear clicks on ipykernel 6

    def _wake(self) -> None:
        with self._lock:
            if self._ticking:
                return
            self._ticking = True
        self._ticker(self._tick)

    def _drain(self) -> None:
        while self._inbox:
            event = self._inbox.popleft()
            run = self._run_of(event)
            if run is not None:
                run.model.apply(event)

    def _run_of(self, event: events.Event) -> _Run | None:
        """Find the run that an event belongs to: what a cell submitted stays with it when the next cell runs."""
        if self._current is not None and (len(self._runs) == 1 or self._current.model.knows(event)):
            return self._current
        for run in self._runs:
            if run.model.knows(event):
                return run
        if self._current is None and type(event) in _BEGINNINGS:
            model = Model(self._history)
            self._current = _Run(model, self._face(), event.time, self._context, over=not self._in_cell)
            self._runs.append(self._current)
        return self._current

    def _sample(self) -> Iterator[MapSampled]:
        """Read the counters of the maps that run; asks the session, so never under our lock."""
        now = self._clock.wall()
        for state in self._session.live_maps():
            running = list(state.running_items())
            items = tuple(
                Item(f"{name}[{index}]" if "[" not in name else name, started + self._offset, worker or "")
                for index, name, started, worker in running[:_ITEMS_SHOWN]
            )
            yield MapSampled(
                call_id=state.id,
                name=state.name,
                time=now,
                total=state.total,
                completed=state.completed,
                cached=state.cached,
                failed=state.failed,
                cancelled=state.cancelled,
                running=state.running,
                saved_s=state.saved_s,
                items=items,
            )

    # -- frames out -------------------------------------------------------

    def _tick(self) -> float | None:
        samples = tuple(self._sample())
        with self._lock:
            self._drain()
            for sample in samples:
                run = next((run for run in self._runs if run.model.knows(sample)), None)
                if run is not None:
                    run.model.apply(sample)
            now = self._clock.wall()
            for run in tuple(self._runs):
                self._advance(run, now)
            live = [run for run in self._runs if run.model.live]
            self._ticking = bool(live)
            if self._inbox:
                # Something began between the last look at the inbox and now, and saw no need to wake us.
                self._ticking = True
            return _pace(now - min((run.began for run in live), default=now)) if self._ticking else None

    def _advance(self, run: _Run, now: float) -> None:
        if run.over and not run.model.busy:
            self._finish(run)
        elif run.shown or run.is_due(now):
            run.shown = True
            self._guard(run, lambda: run.face.frame(run.model, now))

    def _leave_cell(self) -> None:
        self._drain()
        run, self._current = self._current, None
        if run is not None:
            run.over = True
            if not run.model.busy:
                self._finish(run)

    def _finish(self, run: _Run) -> None:
        self._runs.remove(run)
        if run is self._current:
            self._current = None
        self._last = run
        run.model.close()
        if run.shown or not run.is_trivial():
            sums = run.model.totals()
            brief = is_all_cached(run.model) or not (run.shown or sums.failed or run.has_notes())
            self._guard(run, lambda: run.face.finish(run.model, brief=brief))

    def _finish_all(self) -> None:
        self._drain()
        for run in tuple(self._runs):
            self._finish(run)

    def _guard(self, run: _Run, draw: Callable[[], None]) -> None:
        """Draw; a face that fails never touches the run: it is told once, and a simpler one takes its place."""
        try:
            run.context.copy().run(draw)
        except Exception as error:
            simpler = HtmlFace(self._screen()) if isinstance(run.face, WidgetFace) else NoFace()
            failed, run.face = run.face, simpler
            failed.close()
            report(f"The nbflow panel could not be drawn: {one_line(error)}. Try NBFLOW_PROGRESS=html or text.")

    # -- which face -------------------------------------------------------

    def _face(self) -> Face:
        mode = self._mode if self._mode != "auto" else self._evidence()
        if mode == "text" or self._shell is None:
            return LineFace()
        if mode == "widget":
            return WidgetFace(self._screen(), self._tap, self._cancel)
        return HtmlFace(self._screen(), live=not os.environ.get("NBFLOW_REPORT"))

    def _screen(self) -> Screen:
        return Screen(self._shell.display_pub.publish)

    def _evidence(self) -> str:
        kernel = getattr(self._shell, "kernel", None)
        if kernel is None:
            return "text"
        if os.environ.get("NBFLOW_REPORT") or not is_attended(kernel) or find_spec("anywidget") is None:
            return "html"
        return "widget"

    def _cancel(self, number: int | None) -> bool:
        if number is None:
            return bool(self._session.cancel_all("panel"))
        return bool(self._session.cancel(number, "panel"))


def _pace(age_s: float) -> float:
    """Return seconds between frames: ten a second at first, fewer for runs that take long."""
    return 0.1 if age_s < 30.0 else 0.2 if age_s < 300.0 else 0.5
