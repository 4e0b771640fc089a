"""How an explorer is seen: a widget where somebody can move it, else its last result as a plain output.

The widget draws controls and result itself, from custom messages; a view that opens late asks for everything. Every
display also holds HTML and text, which stay alone when the explorer is closed, or no front end runs the widget.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nbflow._util import one_line, report
from nbflow.notebook.explore.results import Part, html_of, text_of
from nbflow.notebook.frontend import widget_class
from nbflow.notebook.panel.faces import Screen
from nbflow.notebook.panel.widget import MIME
from nbflow.notebook.tap import is_attended

__all__ = ["View", "is_live"]

GREETED_WITHIN_S = 3.0
_HERE = Path(__file__).parent
_BOX = "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.5;margin:4px 0"


def is_live(shell: Any, mode: str) -> bool:
    """Return whether a widget can be moved by somebody, as the `progress` setting and the kernel say."""
    kernel = getattr(shell, "kernel", None)
    if kernel is None or mode in ("html", "text", "off") or find_spec("anywidget") is None:
        return False
    return mode == "widget" or (not os.environ.get("NBFLOW_REPORT") and is_attended(kernel))


class View:
    """The displays of one explorer.

    Args:
        shell: The IPython shell.
        mode: The `progress` setting.
        owner: The explorer.

    Safe from any thread.
    """

    def __init__(self, shell: Any, mode: str, owner: Any) -> None:
        self._owner = owner
        self._screen = Screen(shell.display_pub.publish)
        self._live = is_live(shell, mode)
        self._widget: Any = None
        self._greeted = threading.Event()
        self._displays: list[str] = []
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {"parts": [], "words": "", "failed": False, "at": None, "marks": {}}
        self._busy: dict[str, Any] | None = None
        self._closed = False

    def show(self) -> None:
        """Display it where the user is now."""
        if not self._live or self._closed:
            if not self._closed:
                self._owner.run_now()
            self._displays.append(self._screen.new(self._static()))
            return
        if self._widget is None:
            self._widget = _widget_class()(head=self._owner.describe())
            self._widget.on_msg(lambda widget, content, buffers: self._heard(content))
        self._displays.append(self._screen.new({**self._static(), MIME: self._reference()}))
        if not self._greeted.is_set():
            timer = threading.Timer(GREETED_WITHIN_S, self._unheard)
            timer.daemon = True
            timer.start()

    def result(self, positions: list[Any], parts: list[Part], words: str, *, failed: bool) -> None:
        """Show a result in the place of the one before."""
        with self._lock:
            self._busy = None
            self._state |= {"parts": parts, "words": words, "failed": failed, "at": positions}
        self._send({"kind": "result", "parts": parts, "words": words, "failed": failed, "at": positions})
        if not self._live:
            self._redraw()

    def marks(self, marks: dict[str, list[int]]) -> None:
        """Mark the positions whose results are cached."""
        self._state["marks"] = marks
        self._send({"kind": "marks", "marks": marks})

    def tell(self, message: dict[str, Any]) -> None:
        """Tell the front end what goes on."""
        self._busy = message if message["kind"] == "running" else self._busy
        self._send({**message, "positions": self._owner.describe()["positions"]})

    def close(self) -> None:
        """Put the last result in the place of the widget."""
        self._closed = True
        widget, self._widget = self._widget, None
        if widget is None:
            return
        self._redraw()
        layout = widget.layout
        widget.close()
        layout.close()

    def _heard(self, content: dict[str, Any]) -> None:
        if content.get("kind") != "hello":
            try:
                self._owner.heard(content)
            except Exception as error:
                report(f"A control of {self._owner.subject.title!r} could not be moved: {one_line(error)}.")
            return
        late = not self._live and not self._closed
        self._live = True
        self._greeted.set()
        if late:  # the widget had been given up
            for display_id in self._displays:
                self._screen.update(display_id, {**self._static(), MIME: self._reference()})
        everything = {**self._owner.describe(), **self._state}
        self._send({"kind": "all", "busy": self._busy is not None, **everything})

    def _unheard(self) -> None:
        """Nobody runs the widget: show results as plain outputs, until somebody says hello after all."""
        if self._greeted.is_set() or self._closed:
            return
        self._live = False
        self._redraw()

    def _redraw(self) -> None:
        bundle = self._static()
        for display_id in self._displays:
            self._screen.update(display_id, bundle)

    def _send(self, message: dict[str, Any]) -> None:
        widget = self._widget
        if widget is not None and widget.comm is not None:
            widget.send(message)

    def _reference(self) -> dict[str, Any]:
        return {"version_major": 2, "version_minor": 1, "model_id": self._widget.model_id}

    def _static(self) -> dict[str, Any]:
        owner = self._owner
        at = owner._shown_at or owner._positions
        rows = [(control.name, control.label(where)) for control, where in zip(owner.controls, at, strict=True)]
        setting = ", ".join(f"{name} = {label}" for name, label in rows)
        words = f" · {self._state['words']}" if self._state["words"] else ""
        head = f"<b>{escape(owner.subject.title)}</b> {escape(setting)}<span style='opacity:.72'>{escape(words)}</span>"
        html = f'<div style="{_BOX}"><div>{head}</div>{html_of(self._state["parts"])}</div>'
        text = f"{owner.subject.title}: {setting}{words}\n{text_of(self._state['parts'])}".rstrip()
        return {"text/html": html, "text/plain": text}


@cache
def _widget_class() -> Any:
    about = "The front end's model of an explorer."
    return widget_class("ExploreWidget", about, _HERE, ["explore.js"], ["explore.css"], synced="head")
