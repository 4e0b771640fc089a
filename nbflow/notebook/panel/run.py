"""One run of the panel: what a cell has started, how it is shown, and whether that is worth a line.

The controller keeps a `Run` for each cell that runs tasks. Drawing happens in the cell's context, whichever thread does
it: by that the kernel knows where output belongs.
"""

from __future__ import annotations

from contextvars import Context

from nbflow.core.events import Event, LogLine
from nbflow.notebook.panel.faces import Face
from nbflow.notebook.panel.model import Model
from nbflow.notebook.panel.samples import Samples
from nbflow.runtime.current import Call

__all__ = ["APPEARS_AFTER_S", "Run", "pace"]

APPEARS_AFTER_S = 0.3


class Run:
    """What one cell runs: its model, its face, and how far the display is.

    Args:
        model: What is known of it.
        samples: Its quick calls.
        face: How it is shown.
        began: Wall-clock seconds of its first fact.
        context: The cell's context.
        over: Whether there is no cell, or it has ended already.
    """

    __slots__ = (
        "_looked_at",
        "badged",
        "began",
        "busy_s",
        "context",
        "face",
        "kept",
        "model",
        "over",
        "samples",
        "shown",
    )

    def __init__(
        self, model: Model, samples: Samples, face: Face, began: float, context: Context, *, over: bool
    ) -> None:
        self.model = model
        self.samples = samples
        self.face = face
        self.began = began
        self.context = context
        self.over = over
        self.shown = False
        self.badged = False
        self.kept = False  # shown again after its end, and alive until something else is shown
        self.busy_s = 0.0
        self._looked_at = began

    @property
    def live(self) -> bool:
        """Whether anything in it waits or runs."""
        return self.samples.busy or self.model.live

    @property
    def busy(self) -> bool:
        """Whether anything in it runs by itself; see `Model.busy`."""
        return self.samples.busy or self.model.busy

    def knows(self, told: Event | Call) -> bool:
        """Whether an event or a record belongs to it."""
        return self.samples.knows(told) if isinstance(told, Call) else self.model.knows(told)

    def apply(self, told: Event | Call) -> None:
        """Take in an event, or the record of a quick call."""
        if isinstance(told, Call):
            self.samples.take(told)
        else:
            if self.samples.busy:
                self.samples.before(told)
            self.model.apply(told)

    def said(self, number: int, text: str, now: float) -> bool:
        """Note what a call or map printed last; False if it is none of this run."""
        known = self.samples.holds(number) or number in self.model.rows
        if known:
            self.apply(LogLine(call_id=number, name="", time=now, text=text))
        return known

    def look(self, now: float) -> None:
        """Note how much runs at a time: the seconds that calls were busy, by what was seen at each look."""
        running = self.model.totals().running
        self.busy_s += running * max(0.0, now - self._looked_at)
        self._looked_at = now

    def parallel(self, now: float | None) -> float:
        """Return how many calls ran at a time on average; 0 where that is not known yet."""
        model = self.model
        end = model.latest if now is None else now
        if model.started is None or end is None or end - model.started < 1.0:
            return 0.0
        return round(self.busy_s / (end - model.started), 1)

    def is_due(self, now: float) -> bool:
        """Whether it runs long enough to be worth a panel: hits alone are not, unless one of them takes its time."""
        model = self.model
        if not self.live or now - self.began < APPEARS_AFTER_S:
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


def pace(age_s: float) -> float:
    """Return seconds between frames: ten a second at first, fewer for runs that take long."""
    return 0.1 if age_s < 30.0 else 0.2 if age_s < 300.0 else 0.5
