"""Who listens to a session and shows what it runs, cell by cell.

Observing costs a call one append to a queue, a quick call not even an event; everything else happens in one timer
thread that only lives while something runs. Each cell that runs tasks gets a `Run` with a face of its own, which ends
as a static summary; a run that is shown again by `nbflow.panel()` is alive until something else is shown.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from functools import partial
from itertools import islice
from typing import Any

from nbflow._clock import SYSTEM_CLOCK, Clock
from nbflow._util import one_line, report
from nbflow.core import events
from nbflow.errors import SettingsError
from nbflow.notebook.output import take_lines
from nbflow.notebook.panel import look
from nbflow.notebook.panel.evidence import MODES, choose_mode, is_report
from nbflow.notebook.panel.faces import Face, HtmlFace, LineFace, NoFace, Screen, WidgetFace
from nbflow.notebook.panel.model import Model
from nbflow.notebook.panel.rows import MAP, Item, MapSampled
from nbflow.notebook.panel.run import Run, pace
from nbflow.notebook.panel.samples import Samples
from nbflow.notebook.panel.widget import encode
from nbflow.notebook.panel.words import is_all_cached
from nbflow.notebook.tap import MessageTap
from nbflow.retries import Retries
from nbflow.runtime.current import Call

__all__ = ["PanelController"]

_ITEMS_SHOWN = 6
_ITEM_SHOWN_AFTER_S = 0.25
"""A running item is worth a line then; of quicker ones one could not read the name, nor hit the button."""
_IDLE_ROUNDS = 3
"""So many looks at nothing end the timer: a loop of quick calls keeps the one that it has."""
_BEGINNINGS = frozenset({events.TaskQueued, events.TaskStarted, events.MapStarted})

Tick = Callable[[], float | None]
"""Does one round; returns seconds until the next one, or None to end."""


class _Ticker:
    """Calls a function again and again in a daemon thread, until it says to end, or is told to."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def __call__(self, tick: Tick) -> None:
        """Start with the first round after a moment: most cells are over by then."""

        def rounds() -> None:
            delay: float | None = pace(0.0)
            while delay is not None and not self._stopped.wait(delay):
                delay = tick()

        threading.Thread(target=rounds, name="nbflow-panel", daemon=True).start()

    def stop(self) -> None:
        """End the thread now, and start none any more."""
        self._stopped.set()


class PanelController:
    """Shows what a session runs, cell by cell.

    Args:
        session: The session to observe (and to ask for cancellation).
        mode: "auto", "widget", "html", "text" or "off"; None for the session's `progress` setting.
        shell: The IPython shell, or None outside of IPython.
        clock: Source of time.
        ticker: Starts calling a function regularly; for tests.

    Attributes:
        retries: Failed calls that can be run again.

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
        ticker: Callable[[Tick], None] | None = None,
    ) -> None:
        mode = session.settings.progress if mode is None else mode
        if mode not in MODES:
            raise SettingsError(f"progress={mode!r} is not a mode of the panel; use one of {', '.join(MODES)}.")
        self.retries = Retries()
        self._session = session
        self._mode = mode
        self._shell = shell
        self._clock = clock
        self._own_ticker = _Ticker()
        self._ticker = self._own_ticker if ticker is None else ticker
        self._offset = clock.wall() - clock.monotonic()
        self._lock = threading.RLock()
        self._inbox: deque[events.Event | Call] = deque()
        self._ticking = False
        self._idle = 0
        self._in_cell = False
        self._context = copy_context()
        self._current: Run | None = None
        self._runs: list[Run] = []
        self._last: Run | None = None
        self._history: dict[str, float] = {}
        self._late: dict[int, str] = {}
        self._recalled: set[tuple[str, str]] = set()
        self._tap = MessageTap(getattr(shell, "kernel", None))
        if mode != "off":
            self._listen()

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

    def show(self, on: bool = True) -> Retries:
        """Show the newest panel once more, and switch panels on; or switch them off.

        What still runs comes first. A run that is over comes back to life: its tabs and buttons work until another
        panel is shown.
        """
        with self._lock:
            if not on:
                self._mode = "off"
                self._session.remove_observer(self._observe)
                self._finish_all()
                return self.retries
            if self._mode == "off":
                self._mode = "auto"
                self._listen()
            self._drain()
            self._end_kept()
            live = [run for run in self._runs if run.live]
            run = self._current or (live[-1] if live else self._last)
            if run is None:
                return self.retries
            if run not in self._runs:
                run.face, run.context, run.kept = self._face(), copy_context(), True
                self._runs.append(run)
            run.shown = True
            draw = partial(run.face.show, run.model, self._clock.wall(), over=not run.live)
            self._guard(run, draw, copy_context())  # here, not in the cell of the run
        return self.retries

    def close(self) -> None:
        """End all panels as they are, and stop listening to session and kernel."""
        self._session.remove_observer(self._observe)
        with self._lock:
            self._session.keep_failed = None
            self._finish_all()
            self.retries.clear()
        self._own_ticker.stop()
        self._tap.close()

    # -- events in --------------------------------------------------------

    def _listen(self) -> None:
        self._session.keep_failed = self.retries.keep
        self._session.add_observer(self._observe, items=False, sampler=self._sampled)

    def _observe(self, event: events.Event) -> None:
        self._inbox.append(event)
        kind = type(event)
        if not self._ticking and kind in _BEGINNINGS:
            self._wake()
        elif kind is events.ProgressMade:
            self._tap.pump()  # told from within the user's code, hence the place to hear clicks on ipykernel 6

    def _sampled(self, call: Call) -> None:
        """Take in the record of a quick call; called for each of them, hence so short."""
        self._inbox.append(call)
        if not self._ticking:
            self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self._ticking:
                return
            self._ticking = True
            self._idle = 0
        self._ticker(self._tick)

    def _drain(self) -> None:
        while self._inbox:
            told = self._inbox.popleft()
            run = self._run_of(told)
            if run is not None:
                run.apply(told)
        now = self._clock.wall()
        for run in self._runs:
            run.samples.flush(now)

    def _run_of(self, told: events.Event | Call) -> Run | None:
        """Find the run that an event belongs to: what a cell submitted stays with it when the next cell runs."""
        current = self._current
        if current is not None and (len(self._runs) == 1 or current.knows(told)):
            return current
        for run in self._runs:
            if run.knows(told):
                return run
        if self._current is None and (isinstance(told, Call) or type(told) in _BEGINNINGS):
            began = told.time if isinstance(told, events.Event) else self._offset + (told.started or 0.0)
            model = Model(self._history)
            samples = Samples(model, self._offset)
            self._current = Run(model, samples, self._face(), began, self._context, over=not self._in_cell)
            self._runs.append(self._current)
        return self._current

    def _sample(self) -> Iterator[MapSampled]:
        """Read the counters of the maps that run; asks the session, so never under our lock."""
        now = self._clock.wall()
        for state in self._session.live_maps():
            running = (each for each in state.running_items() if now - self._offset - each[2] >= _ITEM_SHOWN_AFTER_S)
            items = tuple(
                Item(f"{name}[{index}]" if "[" not in name else name, started + self._offset, worker or "", index)
                for index, name, started, worker in islice(running, _ITEMS_SHOWN)
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
                cacheable=bool(getattr(getattr(state, "spec", None), "cache", False)),
            )

    # -- frames out -------------------------------------------------------

    def _tick(self) -> float | None:
        samples = tuple(self._sample())
        with self._lock:
            heard = bool(self._inbox)
            self._drain()
            for sample in samples:
                run = next((run for run in self._runs if run.model.knows(sample)), None)
                if run is not None:
                    run.model.apply(sample)
            now = self._clock.wall()
            self._hear(now)
            for run in tuple(self._runs):
                if run in self._runs:  # else the end of another one has ended it
                    run.look(now)
                    self._advance(run, now)
            live = [run for run in self._runs if run.live]
            # Something may have begun between the last look at the inbox and now, and saw no need to wake us.
            self._idle = 0 if live or heard or self._inbox else self._idle + 1
            self._ticking = self._idle < _IDLE_ROUNDS
            return pace(now - min((run.began for run in live), default=now)) if self._ticking else None

    def _hear(self, now: float) -> None:
        """Bring in what calls printed last; one that began just now is only known at the next look."""
        lines, self._late = self._late | take_lines(), {}
        for number, text in lines.items():
            told = [run.said(number, text, now) for run in self._runs]
            if not any(told) and number in self._session.active:
                self._late[number] = text

    def _advance(self, run: Run, now: float) -> None:
        if run.over and not run.busy and not run.kept:
            self._finish(run)
        elif run.shown or run.is_due(now):
            if not run.shown:
                self._end_kept()
                run.shown = True
            self._recall(run.model)
            self._guard(run, lambda: run.face.frame(run.model, now))

    def _recall(self, model: Model) -> None:
        """Bring in how long tasks took in earlier sessions, for those that this one has not computed yet."""
        collector = getattr(self._session, "collector", None)
        for row in model.rows.values():
            if row.expected_s is not None or not row.live or collector is None:
                continue
            kind = "map" if row.kind == MAP else "call"
            name = f"{row.task}[]" if kind == "map" else row.task
            if (kind, name) not in self._recalled:
                self._recalled.add((kind, name))
                typical = collector.history.typical_s(row.task, kind=kind)
                if typical is not None:
                    self._history.setdefault(name, typical)
            each = self._history.get(name)
            if each is not None:
                row.expected_s = each * (row.total or 1.0) if kind == "map" else each

    def _leave_cell(self) -> None:
        self._drain()
        run, self._current = self._current, None
        if run is not None:
            run.over = True
            if not run.busy:
                self._finish(run)

    def _finish(self, run: Run) -> None:
        self._runs.remove(run)
        if run is self._current:
            self._current = None
        self._last = run
        run.model.close()
        run.look(run.model.latest or 0.0)
        if run.shown or not run.is_trivial():
            if not run.shown:
                self._end_kept()
            sums = run.model.totals()
            brief = is_all_cached(run.model) or not (run.shown or sums.failed or run.has_notes())
            self._guard(run, lambda: run.face.finish(run.model, brief=brief))

    def _end_kept(self) -> None:
        """Let what was shown again become static: there is one such panel at most."""
        for run in [run for run in self._runs if run.kept]:
            run.kept = False
            self._runs.remove(run)
            run.model.close()
            self._guard(run, lambda run=run: run.face.finish(run.model))  # type: ignore[misc]

    def _finish_all(self) -> None:
        self._drain()
        self._end_kept()
        for run in tuple(self._runs):
            self._finish(run)

    def _guard(self, run: Run, draw: Callable[[], None], context: Context | None = None) -> None:
        """Draw; a face that fails never touches the run: it is told once, and a simpler one takes its place."""
        try:
            (context or run.context.copy()).run(draw)
        except Exception as error:
            simpler = HtmlFace(self._screen()) if isinstance(run.face, WidgetFace) else NoFace()
            failed, run.face = run.face, simpler
            failed.close()
            report(f"The nbflow panel could not be drawn: {one_line(error)}. Try NBFLOW_PROGRESS=html or text.")

    def _face(self) -> Face:
        mode = self._mode if self._mode != "auto" else choose_mode(self._shell)
        if mode == "text" or self._shell is None:
            return LineFace()
        if mode == "widget":
            return WidgetFace(self._screen(), self._tap, self)
        return HtmlFace(self._screen(), live=not is_report())

    def _screen(self) -> Screen:
        return Screen(self._shell.display_pub.publish)

    # -- what people click and ask for ------------------------------------

    def cancel(self, number: int | None, index: int | None) -> bool:
        """Stop a call or map by id, one item of a map, or everything; False if nothing of that kind runs."""
        if number is None:
            return bool(self._session.cancel_all("panel"))
        if index is None:
            return bool(self._session.cancel(number, "panel"))
        state = next((found for found in self._session.live_maps() if found.id == number), None)
        return state is not None and bool(state.cancel_item(index, "panel"))

    def retry(self, model: Model, number: int) -> bool:
        """Run the failed call of a row again, in the background and in its row; False if it is not kept any more."""
        with self._lock:
            row = model.rows.get(number)
            failed = number if row is None or row.retry is None else row.retry
        if row is None or not self.retries.knows(failed):
            return False

        def told(new: int) -> None:
            with self._lock:
                model.retry(new, number)

        try:
            self.retries.start(failed, told)
        except Exception as error:  # its backend is gone, its session is closed …
            with self._lock:
                row.state, row.note = "failed", f"not run again: {one_line(error)}"
            return False
        self._wake()
        return True

    def look(self, model: Model, asked: dict[str, Any]) -> dict[str, Any]:
        """Return what the tab that is open shows; see `look`."""
        what = asked.get("what")
        with self._lock:
            if what == "graph":
                state = getattr(self._shell, "nbflow_state", None)
                return {"svg": look.graph(model, getattr(state, "graph", None))}
            if what == "history":
                collector = getattr(self._session, "collector", None)
                return {"tasks": look.history(model, None if collector is None else collector.history)}
            found = look.entries(model, self._session, self._offset)
            if what == "timeline":
                return look.timeline(found, self._clock.wall())
            return look.page(model, found, asked)

    def encode(self, model: Model, hears: bool, now: float | None) -> dict[str, Any]:
        """Return what the script of the widget needs to draw; see `widget.encode`."""
        run = next((run for run in self._runs if run.model is model), None)
        return encode(model, hears, 0.0 if run is None else run.parallel(now), self.retries.knows)
