"""What a run looks like while it goes on and when it is over: the faces of the panel.

Each face shows the same model: `TextFace` writes lines, `HtmlFace` updates a display by its id, `WidgetFace` drives
the live widget and falls back to HTML where nobody answers. All of them end as a static bundle of HTML and text
without a widget, so that nothing dead can stay in a saved notebook.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Protocol

from nbflow.notebook.panel.html import render_html
from nbflow.notebook.panel.model import Model
from nbflow.notebook.panel.text import TextFace, render_text
from nbflow.notebook.panel.widget import MIME, LiveWidget, encode
from nbflow.notebook.tap import MessageTap

__all__ = ["Face", "HtmlFace", "LineFace", "NoFace", "Screen", "WidgetFace"]

HTML_EVERY_S = 1.0
ANSWER_WITHIN_S = 2.0
# By this the recorder of a cell's outputs knows what not to keep: a panel is drawn anew when the cell is replayed.
_OURS = {"nbflow": "panel"}


class Face(Protocol):
    """One way to show a run; the panel calls it under its lock, from the timer's thread or the cell's."""

    def frame(self, model: Model, now: float) -> None:
        """Show how things are at `now` (wall-clock seconds); the first call makes the face appear."""
        ...

    def finish(self, model: Model, *, brief: bool = False) -> None:
        """Show how things ended, for good; `brief` where one line is enough."""
        ...

    def show(self, model: Model, now: float | None) -> None:
        """Show it once more where the user is now; `now` is None for a run that is over."""
        ...

    def close(self) -> None:
        """Let go of what it holds, without drawing."""
        ...


class Screen:
    """Displays bundles in the notebook and updates them later, from any thread.

    Args:
        publish: `shell.display_pub.publish` of IPython, or a stand-in.
    """

    def __init__(self, publish: Callable[..., Any]) -> None:
        self._publish = publish

    def new(self, bundle: dict[str, Any]) -> str:
        """Display `bundle`; returns the id by which it can be updated."""
        display_id = f"nbflow-{uuid.uuid4().hex}"
        self._publish(data=bundle, metadata=dict(_OURS), transient={"display_id": display_id}, update=False)
        return display_id

    def update(self, display_id: str, bundle: dict[str, Any]) -> None:
        """Replace what is displayed under `display_id`, in whatever cell that is."""
        self._publish(data=bundle, metadata=dict(_OURS), transient={"display_id": display_id}, update=True)


def _bundle(model: Model, now: float | None, *, brief: bool = False) -> dict[str, Any]:
    return {"text/html": render_html(model, now, brief=brief), "text/plain": render_text(model, now, brief=brief)}


class NoFace:
    """Shows nothing: what is left when drawing failed."""

    def frame(self, model: Model, now: float) -> None:
        """Nothing."""

    def finish(self, model: Model, *, brief: bool = False) -> None:
        """Nothing."""

    def show(self, model: Model, now: float | None) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class LineFace:
    """Lines on stderr, for terminals and logs."""

    def __init__(self, text: TextFace | None = None) -> None:
        self._text = text or TextFace()

    def frame(self, model: Model, now: float) -> None:
        """Redraw the line, or tell a milestone."""
        self._text.frame(model, now)

    def finish(self, model: Model, *, brief: bool = False) -> None:
        """Write the summary."""
        self._text.finish(render_text(model, brief=brief))

    def show(self, model: Model, now: float | None) -> None:
        """Write the state of things."""
        self._text.finish(render_text(model, now))

    def close(self) -> None:
        """It holds nothing."""


class HtmlFace:
    """HTML that is updated in place, at most once a second.

    Args:
        screen: Where to display.
        live: False to display the end only.
        displays: Ids of displays to take over.
    """

    def __init__(self, screen: Screen, *, live: bool = True, displays: list[str] | None = None) -> None:
        self._screen = screen
        self._live = live
        self._displays = [] if displays is None else displays
        self._drawn_at = float("-inf")
        self._version = -1

    def frame(self, model: Model, now: float) -> None:
        """Draw anew if something changed and a second has passed."""
        if self._live and model.version != self._version and now - self._drawn_at >= HTML_EVERY_S:
            self._version, self._drawn_at = model.version, now
            self._put(_bundle(model, now))

    def finish(self, model: Model, *, brief: bool = False) -> None:
        """Leave the final state."""
        self._put(_bundle(model, None, brief=brief))

    def show(self, model: Model, now: float | None) -> None:
        """Display it once more; further updates go to all displays."""
        self._displays.append(self._screen.new(_bundle(model, now)))

    def close(self) -> None:
        """It holds nothing."""

    def _put(self, bundle: dict[str, Any]) -> None:
        if not self._displays:
            self._displays.append(self._screen.new(bundle))
        else:
            for display_id in self._displays:
                self._screen.update(display_id, bundle)


class WidgetFace:
    """The live widget; HTML once it is clear that no front end runs it.

    Args:
        screen: Where to display.
        tap: Through which clicks are heard while a cell blocks.
        cancel: Stops the call or map with this id, or everything where it is None; returns whether there was any.

    A front end that runs the widget says hello when it loads it. With a tap that is heard at once, so silence for two
    seconds means that nobody is there; a late hello brings the widget back.
    """

    def __init__(self, screen: Screen, tap: MessageTap, cancel: Callable[[int | None], bool]) -> None:
        self._screen = screen
        self._tap = tap
        self._cancel = cancel
        self._displays: list[str] = []
        self._html: HtmlFace | None = None
        self._widget: LiveWidget | None = None
        self._born = 0.0
        self._greeted = False

    def frame(self, model: Model, now: float) -> None:
        """Send what changed."""
        if self._widget is None:
            self._open(model, now)
        if self._html is not None:
            if not self._greeted:
                self._html.frame(model, now)
                return
            self._html = None
            for display_id in self._displays:
                self._screen.update(display_id, self._live_bundle(model, now))
        elif not self._greeted and self._tap.way == "tap" and now - self._born > ANSWER_WITHIN_S:
            self._html = HtmlFace(self._screen, displays=self._displays)
            self._html.frame(model, now)
            return
        if self._widget is not None:
            self._widget.send(encode(model, self._tap.way != "none"), now)

    def finish(self, model: Model, *, brief: bool = False) -> None:
        """Put the static bundle in the widget's place, then close it."""
        try:
            HtmlFace(self._screen, displays=self._displays).finish(model, brief=brief)
        finally:
            self.close()

    def show(self, model: Model, now: float | None) -> None:
        """Display it once more: a second view of the widget, or the static end."""
        bundle = _bundle(model, None) if now is None or self._widget is None else self._live_bundle(model, now)
        self._displays.append(self._screen.new(bundle))

    def close(self) -> None:
        """Close the widget."""
        if self._widget is not None:
            widget, self._widget = self._widget, None
            self._tap.ignore(widget.comm.comm_id)
            widget.close()

    def _open(self, model: Model, now: float) -> None:
        self._widget = LiveWidget(self._heard)
        self._tap.listen(self._widget.comm, self._heard)
        self._born = now
        self._widget.send(encode(model, self._tap.way != "none"), now)
        self._displays.append(self._screen.new(self._live_bundle(model, now)))

    def _live_bundle(self, model: Model, now: float) -> dict[str, Any]:
        assert self._widget is not None
        return {**_bundle(model, now), MIME: self._widget.view}

    def _heard(self, content: dict[str, Any]) -> None:
        """Handle a message of the front end, in the tap's thread or, ordinarily, the kernel's."""
        kind = content.get("kind")
        if kind == "hello":
            self._greeted = True
        elif kind in ("cancel", "stop"):
            number = content.get("id") if kind == "cancel" else None
            if kind == "cancel" and not isinstance(number, int):
                return
            widget = self._widget
            ok = self._cancel(number)
            if widget is not None and widget.comm is not None:
                widget.answer(content, ok)
