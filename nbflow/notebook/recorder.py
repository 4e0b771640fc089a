"""What a cell prints and shows: collected while it runs, and put out again on a hit.

A `Recorder` is the sink of one run. What it kept is a list of plain tuples that pickle anywhere; `replay` puts them
out in the same order, below a small *cached* badge.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from threading import Lock
from typing import Any

from nbflow._util import format_duration, package_of

__all__ = [
    "BADGE",
    "DISPLAY_BYTES",
    "HEAD_CHARS",
    "TAIL_CHARS",
    "WIDGET_VIEW",
    "Item",
    "Recorder",
    "Silent",
    "badge",
    "replay",
]

HEAD_CHARS = 500_000
TAIL_CHARS = 500_000
DISPLAY_BYTES = 32 * 1024**2
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
BADGE = "cached"
_WIDGET = "it shows a widget, which lives in this kernel only"

Item = tuple[
    Any, ...
]  # ("stream", name, text) | ("display", data, metadata, transient) | ("update", data, metadata, transient)


class Recorder:
    """Collects what a cell puts out, in order, within limits; safe from any thread.

    Text beyond the first and last half million characters is left out, and so are displays once they come to 32 MiB.
    Updates of a display that the cell itself made are folded into it; widgets are not kept: they die with the kernel.

    Attributes:
        refused: Why what was put out cannot be put out again, or None.
    """

    def __init__(self) -> None:
        self.refused: str | None = None
        self.holding = False
        self.held: list[Item] = []  # displays kept back while `holding`: figures, which belong after the last value
        self._head: list[Item] = []
        self._tail: deque[Item] = deque()
        self._sizes = [0, 0, 0]  # characters in head and tail, bytes in displays
        self._left_out = 0
        self._clear_next = False
        self._lock = Lock()

    def stream(self, name: str, text: str) -> bool:
        """Keep text written to "stdout" or "stderr"."""
        if not isinstance(text, str) or not text:
            return True
        with self._lock:
            self._clear_if_due()
            if not self._tail and self._sizes[0] + len(text) <= HEAD_CHARS:
                self._sizes[0] += len(text)
                _append_text(self._head, name, text)
                return True
            self._sizes[1] += len(text)
            self._tail.append(("stream", name, text))
            while self._sizes[1] > TAIL_CHARS:
                _, first_name, first = self._tail.popleft()
                cut = first[self._sizes[1] - TAIL_CHARS :] if len(first) > self._sizes[1] - TAIL_CHARS else ""
                self._left_out += len(first) - len(cut)
                self._sizes[1] -= len(first) - len(cut)
                if cut:
                    self._tail.appendleft(("stream", first_name, cut))
        return True

    def display(self, data: dict[str, Any], metadata: dict[str, Any], transient: dict[str, Any], update: bool) -> bool:
        """Keep a display or an update of one; False while `holding`."""
        if metadata.get("nbflow"):
            return True  # our own panel and badges are drawn anew
        with self._lock:
            self._clear_if_due()
            item = ("update" if update else "display", dict(data), dict(metadata), dict(transient))
            if WIDGET_VIEW in data:
                if not _is_bar(data[WIDGET_VIEW]):
                    self.refused = _WIDGET
                return not self.holding
            self._sizes[2] += sum(len(part) for part in data.values() if isinstance(part, (str, bytes)))
            if self._sizes[2] <= DISPLAY_BYTES:
                if self.holding:
                    self.held.append(item)
                elif not (update and self._fold(item)):
                    self._head.append(item)
            return not self.holding

    def _fold(self, item: Item) -> bool:
        wanted = item[3].get("display_id")
        for position, known in enumerate(self._head):
            if known[0] == "display" and wanted is not None and known[3].get("display_id") == wanted:
                self._head[position] = ("display", *item[1:])
                return True
        return False

    def clear(self, wait: bool) -> None:
        """Forget what was kept so far, now or with the next output."""
        with self._lock:
            self._clear_next = True
            if not wait:
                self._clear_if_due()

    def _clear_if_due(self) -> None:
        if self._clear_next:
            self._clear_next = False
            self._head.clear()
            self._tail.clear()
            self._sizes = [0, 0, 0]
            self._left_out = 0
            self.refused = None

    def items(self) -> list[Item]:
        """Return what was kept, in order."""
        with self._lock:
            found = list(self._head)
            if self._left_out:
                found.append(("stream", "stderr", f"\n… nbflow kept no more of this: {self._left_out} characters …\n"))
            for item in self._tail:
                _append_text(found, item[1], item[2])
            return found


class Silent(Recorder):
    """A recorder that lets nothing through: what it keeps is shown elsewhere, or at its turn."""

    def stream(self, name: str, text: str) -> bool:
        """Keep text."""
        super().stream(name, text)
        return False

    def display(self, data: dict[str, Any], metadata: dict[str, Any], transient: dict[str, Any], update: bool) -> bool:
        """Keep a display or an update of one."""
        super().display(data, metadata, transient, update)
        return False


def _is_bar(view: Any) -> bool:
    """Whether the widget of a view is a bar of tqdm's: nobody misses it once it is full."""
    module = sys.modules.get("ipywidgets.widgets.widget")
    widgets = getattr(module, "_instances", None)
    if widgets is None:
        widgets = getattr(getattr(module, "Widget", None), "widgets", {})  # as ipywidgets 7 has them
    widget = widgets.get(view.get("model_id"))
    return package_of(type(widget)) == "tqdm"


def _append_text(items: list[Item], name: str, text: str) -> None:
    """Add text; what follows on the same stream becomes one item with it when it is read out in the end."""
    if items and items[-1][0] == "stream" and items[-1][1] == name and len(items[-1][2]) < 4096:
        items[-1] = ("stream", name, items[-1][2] + text)
    else:
        items.append(("stream", name, text))


def replay(shell: Any, items: Iterable[Item]) -> None:
    """Print and show `items` again, in order."""
    for kind, *rest in items:
        if kind == "stream":
            getattr(sys, rest[0]).write(rest[1])
        else:
            data, metadata, transient = rest
            shell.display_pub.publish(data, metadata, transient=transient, update=kind == "update")


def badge(shell: Any, saved_s: float) -> None:
    """Show that the cell's outputs come from the cache and how many seconds that saved."""
    text = f"{BADGE} · saved {format_duration(saved_s)}"
    html = (
        '<span style="font-size:80%;padding:1px 7px;border:1px solid #8888;border-radius:8px;opacity:.75" '
        f'title="nbflow: restored, not run again">{text}</span>'
    )
    shell.display_pub.publish({"text/plain": text, "text/html": html}, {"nbflow": {"badge": BADGE}})
