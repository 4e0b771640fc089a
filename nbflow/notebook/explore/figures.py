"""pyplot's figures that an explored call makes: taken for its result, and never mixed with those of cells.

pyplot keeps one list of open figures for the whole process, whose last one is what `plt.plot` draws on and which the
end of any cell shows and closes. Here that list becomes many: each explored call, told apart by its context, has one
of its own, and everybody else has the one that was there. So a call draws in its thread while a cell draws in the main
one, and neither sees the other's figures.
"""

from __future__ import annotations

import base64
import sys
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from io import BytesIO
from types import CodeType
from typing import Any

__all__ = ["Figures", "mentions_pyplot", "separate"]

_collector: ContextVar[Figures | None] = ContextVar("nbflow_figures", default=None)


class Figures:
    """The figures of one call.

    Attributes:
        open: pyplot's list of open figures while the call runs: managers by number, the current one last.
    """

    def __init__(self) -> None:
        self.open: OrderedDict[Any, Any] = OrderedDict()

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Let pyplot have this list of figures in this context, and in those that begin in it."""
        separate()
        token = _collector.set(self)
        try:
            yield
        finally:
            _collector.reset(token)

    def take(self, value: Any) -> tuple[str | None, list[str]]:
        """Draw and close the figures, and draw `value` if it is one.

        Returns:
            `value` as a PNG picture in base64, None if it is no figure; and the other figures.
        """
        made = [manager.canvas.figure for manager in self.open.values()]
        others = [_drawn(figure) for figure in made if figure is not value]
        drawn = _drawn(value) if _is_figure(value) else None
        if made:
            with self.collecting():
                sys.modules["matplotlib.pyplot"].close("all")
        return drawn, others


class _Lists(MutableMapping[Any, Any]):
    """Stands where pyplot has its list of open figures: that of the call whose context this is, else `everybody`'s."""

    def __init__(self, everybody: OrderedDict[Any, Any]) -> None:
        self.everybody = everybody

    @property
    def _here(self) -> OrderedDict[Any, Any]:
        found = _collector.get()
        return self.everybody if found is None else found.open

    def __getitem__(self, number: Any) -> Any:
        return self._here[number]

    def __setitem__(self, number: Any, manager: Any) -> None:
        self._here[number] = manager

    def __delitem__(self, number: Any) -> None:
        del self._here[number]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._here)

    def __reversed__(self) -> Iterator[Any]:
        yield from reversed(self._here)

    def __len__(self) -> int:
        return len(self._here)

    def values(self) -> ValuesView[Any]:
        """The managers, as a view that can be reversed."""
        return self._here.values()

    def move_to_end(self, number: Any, last: bool = True) -> None:
        """Make a figure the current one."""
        self._here.move_to_end(number, last)


def separate(*, wanted: bool = False) -> None:
    """Give each explored call a list of figures of its own, from now on; idempotent.

    Does nothing before matplotlib is there. It stays for good: a call that cannot be stopped may draw long after its
    explorer is gone.

    Args:
        wanted: Import pyplot if nobody has: a call that does this itself is a call too late.
    """
    if wanted:
        import_module("matplotlib.pyplot")
    if "matplotlib.pyplot" not in sys.modules:
        return
    found = import_module("matplotlib._pylab_helpers").Gcf
    if isinstance(found.figs, OrderedDict):
        sys.modules["matplotlib"].get_backend()  # chosen here: in another thread it would miss the end of this cell
        found.figs = _Lists(found.figs)


def mentions_pyplot(code: CodeType | None) -> bool:
    """Whether a code object imports matplotlib or a part of it."""
    return code is not None and any(name.partition(".")[0] == "matplotlib" for name in code.co_names)


def _is_figure(value: Any) -> bool:
    figure = getattr(sys.modules.get("matplotlib.figure"), "Figure", None)
    return figure is not None and isinstance(value, figure)


def _drawn(figure: Any) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", dpi=96)
    return base64.b64encode(buffer.getvalue()).decode()
