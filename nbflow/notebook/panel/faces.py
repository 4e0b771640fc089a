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
from nbflow.notebook.panel.widget import MIME, LiveWidget
from nbflow.notebook.tap import MessageTap

__all__ = ["Desk", "Face", "HtmlFace", "LineFace", "NoFace", "Screen", "WidgetFace"]

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

    def show(self, model: Model, now: float, *, over: bool) -> None:
        """Show it once more where the user is now; `over` if nothing runs in it any more."""
        ...

    def close(self) -> None:
        """Let go of what it holds, without drawing."""
        ...


class Desk(Protocol):
    """Who answers what people click and ask for in a live panel; from the tap's thread or the kernel's."""

    def cancel(self, number: int | None, index: int | None) -> bool:
        """Stop a call or map, one item of a map, or everything; returns whether there was any."""
        ...

    def retry(self, model: Model, number: int) -> bool:
        """Run the failed call of a row again; returns whether that is possible."""
        ...

    def look(self, model: Model, asked: dict[str, Any]) -> dict[str, Any]:
        """Return what a tab shows."""
        ...

    def encode(self, model: Model, hears: bool, now: float | None) -> dict[str, Any]:
        """Return what the script needs to draw; see `widget.encode`."""
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

    def show(self, model: Model, now: float, *, over: bool) -> None:
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

    def show(self, model: Model, now: float, *, over: bool) -> None:
        """Write the state of things."""
        self._text.finish(render_text(model, None if over else now))

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

    def show(self, model: Model, now: float, *, over: bool) -> None:
        """Display it once more; further updates go to all displays."""
        self._displays.append(self._screen.new(_bundle(model, None if over else now)))

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
        desk: Answers clicks and questions.

    A front end that runs the widget says hello when it loads it. With a tap that is heard at once, so silence for two
    seconds means that nobody is there; a late hello brings the widget back.
    """

    def __init__(self, screen: Screen, tap: MessageTap, desk: Desk) -> None:
        self._screen = screen
        self._tap = tap
        self._desk = desk
        self._model: Model | None = None
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
            self._widget.send(self._desk.encode(model, self._tap.way != "none", now), now)

    def finish(self, model: Model, *, brief: bool = False) -> None:
        """Put the static bundle in the widget's place, then close it."""
        try:
            HtmlFace(self._screen, displays=self._displays).finish(model, brief=brief)
        finally:
            self.close()

    def show(self, model: Model, now: float, *, over: bool) -> None:
        """Display it once more: another view of the widget, or the first one of a run that is over."""
        if self._widget is None:
            self._open(model, now, over=over)
        else:
            self._displays.append(self._screen.new(self._live_bundle(model, now, over=over)))

    def close(self) -> None:
        """Close the widget."""
        if self._widget is not None:
            widget, self._widget = self._widget, None
            self._tap.ignore(widget.comm.comm_id)
            widget.close()

    def _open(self, model: Model, now: float, *, over: bool = False) -> None:
        self._model = model
        self._widget = LiveWidget(self._heard, self._desk.encode(model, self._tap.way != "none", now), now)
        self._tap.listen(self._widget.comm, self._heard)
        self._born = now
        self._displays.append(self._screen.new(self._live_bundle(model, now, over=over)))

    def _live_bundle(self, model: Model, now: float, *, over: bool = False) -> dict[str, Any]:
        assert self._widget is not None
        return {**_bundle(model, None if over else now), MIME: self._widget.view}

    def _heard(self, content: dict[str, Any]) -> None:
        """Handle a message of the front end, in the tap's thread or, ordinarily, the kernel's."""
        kind, number, index = content.get("kind"), content.get("id"), content.get("index")
        widget, model = self._widget, self._model
        if kind == "hello":
            self._greeted = True
        elif widget is None or widget.comm is None or model is None:
            return
        elif kind == "ask":
            widget.tell({"what": content.get("what"), **self._desk.look(model, content)})
        elif kind == "stop":
            widget.answer(content, self._desk.cancel(None, None))
        elif kind == "cancel" and isinstance(number, int):
            widget.answer(content, self._desk.cancel(number, index if isinstance(index, int) else None))
        elif kind == "retry" and isinstance(number, int):
            widget.answer(content, self._desk.retry(model, number))
