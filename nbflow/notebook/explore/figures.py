"""pyplot's figures that an explored call makes: taken for its result, and kept out of the cells that run meanwhile.

pyplot has one list of open figures for the whole process, which the end of any cell shows and closes. A call is told
apart by its context: matplotlib's own `figure.hooks` name each new figure to whoever collects there. While the end of a
cell shows figures, those of calls are not in the list.
"""

from __future__ import annotations

import base64
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from io import BytesIO
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

__all__ = ["Figures", "guard", "note", "unguard"]

_HOOK = f"{__name__}:note"
_collector: ContextVar[Figures | None] = ContextVar("nbflow_figures", default=None)
_guarded: WeakKeyDictionary[Any, _Guard] = WeakKeyDictionary()


class Figures:
    """The figures of one call."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        _live.add(self)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect the figures that are made in this context, and in those that begin in it."""
        matplotlib = sys.modules.get("matplotlib")
        if matplotlib is not None and _HOOK not in matplotlib.rcParams["figure.hooks"]:
            matplotlib.rcParams["figure.hooks"] = [*matplotlib.rcParams["figure.hooks"], _HOOK]
        token = _collector.set(self)
        try:
            yield
        finally:
            _collector.reset(token)

    def take(self, value: Any) -> tuple[str | None, list[str]]:
        """Draw and close the figures, and `value` if it is one.

        Returns:
            `value` as a PNG picture in base64, None if it is no figure; and the other figures.
        """
        made, self.made = self.made, []
        others = [_drawn(figure) for figure in made if figure is not value]
        drawn = _drawn(value) if _is_figure(value) else None
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:
            for figure in (*made, *([value] if drawn else [])):
                pyplot.close(figure)  # also one that pyplot does not know
        return drawn, others


_live: WeakSet[Figures] = WeakSet()
_showing = threading.Lock()


def note(figure: Any) -> None:
    """Take note of a new figure; matplotlib calls this."""
    found = _collector.get()
    if found is not None:
        found.made.append(figure)
        with _showing:  # matplotlib enters it into its list next: not while the end of a cell looks through that
            pass


class _Guard:
    """Keeps the figures of calls out of what the end of a cell shows."""

    def __init__(self, shell: Any) -> None:
        self._events = shell.events
        self._callbacks: list[Any] = shell.events.callbacks["post_execute"]
        self._hidden: dict[Any, Any] = {}
        self.users = 0
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib"].get_backend()  # chosen here: in another thread it would miss the end of this cell
        self._events.register("pre_execute", self.arrange)
        self.arrange()

    def arrange(self) -> None:
        """Be the first and the last at the end of a cell: the inline backend may have come meanwhile."""
        self._take_out()
        self._callbacks.insert(0, self.hide)
        self._callbacks.append(self.show)

    def remove(self) -> None:
        """Leave the shell as it was found."""
        self._events.unregister("pre_execute", self.arrange)
        self._take_out()

    def _take_out(self) -> None:
        for callback in (self.hide, self.show):
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def hide(self) -> None:
        """Before a cell's figures are shown."""
        _showing.acquire()
        helpers = sys.modules.get("matplotlib._pylab_helpers")
        if helpers is not None:
            ours = {id(figure) for each in list(_live) for figure in list(each.made)}
            for number, manager in list(helpers.Gcf.figs.items()):
                if id(manager.canvas.figure) in ours:
                    self._hidden[number] = helpers.Gcf.figs.pop(number)

    def show(self) -> None:
        """After a cell's figures were shown."""
        hidden, self._hidden = self._hidden, {}
        if hidden:
            sys.modules["matplotlib._pylab_helpers"].Gcf.figs.update(hidden)
        if _showing.locked():
            _showing.release()


def guard(shell: Any) -> None:
    """Keep figures of calls out of the cells of `shell`, until `unguard` was called as often."""
    if shell not in _guarded:
        _guarded[shell] = _Guard(shell)
    _guarded[shell].users += 1


def unguard(shell: Any) -> None:
    """Undo one `guard`."""
    found = _guarded[shell]
    found.users -= 1
    if found.users == 0:
        found.remove()
        del _guarded[shell]


def _is_figure(value: Any) -> bool:
    figure = getattr(sys.modules.get("matplotlib.figure"), "Figure", None)
    return figure is not None and isinstance(value, figure)


def _drawn(figure: Any) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", dpi=96)
    return base64.b64encode(buffer.getvalue()).decode()
