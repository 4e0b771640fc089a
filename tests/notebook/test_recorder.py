"""What a recorder keeps of a cell's output, and how it is put out again."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from nbflow.notebook.recorder import DISPLAY_BYTES, HEAD_CHARS, TAIL_CHARS, WIDGET_VIEW, Recorder, badge, replay


class Screen:
    """A shell's display publisher that only notes what it was told."""

    def __init__(self) -> None:
        self.display_pub = self
        self.shown: list[Any] = []

    def publish(self, data: Any, metadata: Any = None, *, transient: Any = None, update: bool = False) -> None:
        self.shown.append((data, metadata, transient, update))


def test_text_is_kept_in_order_and_joined() -> None:
    """Pieces of one stream become one item; another stream or a display begins a new one."""
    recorder = Recorder()
    for text in ("a", "b"):
        recorder.stream("stdout", text)
    recorder.stream("stderr", "c")
    assert recorder.display({"text/plain": "d"}, {}, {}, False)
    recorder.stream("stdout", "e")
    assert [item[:3] for item in recorder.items()] == [
        ("stream", "stdout", "ab"),
        ("stream", "stderr", "c"),
        ("display", {"text/plain": "d"}, {}),
        ("stream", "stdout", "e"),
    ]


def test_long_text_keeps_head_and_tail() -> None:
    """Beyond a limit the middle is left out, and a line says how much."""
    recorder = Recorder()
    line = "x" * 1000
    for number in range((HEAD_CHARS + TAIL_CHARS) // 1000 + 100):
        recorder.stream("stdout", f"{number:07}{line}")
    items = recorder.items()
    text = "".join(item[2] for item in items)
    assert text.startswith("0000000x")
    assert text.endswith("x")
    assert len(text) <= HEAD_CHARS + TAIL_CHARS + 200
    assert "nbflow kept no more of this" in text


def test_displays_beyond_the_limit_and_widgets_are_left_out() -> None:
    """Big displays stop being kept; widget views and our own badges never are."""
    recorder = Recorder()
    recorder.display({WIDGET_VIEW: {}, "text/plain": "w"}, {}, {}, False)
    recorder.display({"text/plain": "badge"}, {"nbflow": {"badge": "cached"}}, {}, False)
    recorder.display({"image/png": "x" * DISPLAY_BYTES}, {}, {}, False)
    recorder.display({"text/plain": "one more"}, {}, {}, False)
    assert len(recorder.items()) == 1


def test_a_widget_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A widget cannot be put out again; a bar of tqdm need not, and one that was cleared away must not."""
    recorder = Recorder()
    bar = type("TqdmHBox", (), {"__module__": "tqdm.notebook"})()
    monkeypatch.setitem(sys.modules, "ipywidgets.widgets.widget", SimpleNamespace(_instances={"a": bar, "b": object()}))
    recorder.display({WIDGET_VIEW: {"model_id": "a"}}, {}, {}, False)
    recorder.display({WIDGET_VIEW: {"model_id": "b"}}, {"nbflow": "panel"}, {}, False)
    assert recorder.refused is None
    recorder.display({WIDGET_VIEW: {"model_id": "b"}}, {}, {}, False)
    assert recorder.refused == "it shows a widget, which lives in this kernel only"
    recorder.clear(False)
    assert recorder.refused is None
    older = SimpleNamespace(Widget=SimpleNamespace(widgets={"a": bar}))
    monkeypatch.setitem(sys.modules, "ipywidgets.widgets.widget", older)
    recorder.display({WIDGET_VIEW: {"model_id": "a"}}, {}, {}, False)
    assert recorder.refused is None


def test_updates_are_folded_into_their_display() -> None:
    """An update of a display of this cell replaces it in place; one of another cell is kept as an update."""
    recorder = Recorder()
    recorder.display({"text/plain": "0 %"}, {}, {"display_id": "a"}, False)
    recorder.stream("stdout", "between")
    recorder.display({"text/plain": "100 %"}, {}, {"display_id": "a"}, True)
    recorder.display({"text/plain": "elsewhere"}, {}, {"display_id": "b"}, True)
    assert [(item[0], item[1]) for item in recorder.items()] == [
        ("display", {"text/plain": "100 %"}),
        ("stream", "stdout"),
        ("update", {"text/plain": "elsewhere"}),
    ]


def test_clearing_forgets_now_or_with_the_next_output() -> None:
    """`clear_output(wait=True)` only takes effect when something follows."""
    recorder = Recorder()
    recorder.stream("stdout", "old")
    recorder.clear(True)
    assert recorder.items()
    recorder.stream("stdout", "new")
    assert recorder.items() == [("stream", "stdout", "new")]
    recorder.clear(False)
    assert recorder.items() == []


def test_held_displays_are_not_shown_yet() -> None:
    """While holding, displays go to `held` and the caller is told not to show them."""
    recorder = Recorder()
    recorder.holding = True
    assert not recorder.display({"image/png": "…"}, {}, {}, False)
    assert recorder.items() == []
    assert len(recorder.held) == 1


def test_a_recorder_takes_from_many_threads() -> None:
    """Nothing is lost or torn when several threads print at once."""
    recorder = Recorder()
    threads = [
        threading.Thread(target=lambda: [recorder.stream("stdout", "0123456789") for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "".join(item[2] for item in recorder.items()) == "0123456789" * 2000


def test_replay_prints_and_shows_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    """Items go back to the streams and the publisher they came from."""
    screen = Screen()
    replay(
        screen, [("stream", "stdout", "a"), ("display", {"x": "1"}, {}, {"display_id": "i"}), ("stream", "stderr", "b")]
    )
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a", "b")
    assert screen.shown == [({"x": "1"}, {}, {"display_id": "i"}, False)]


def test_the_badge_says_cached_and_seconds_saved() -> None:
    """Text and HTML both, marked so that tools can leave it out."""
    screen = Screen()
    badge(screen, 3.2)
    data, metadata, _, _ = screen.shown[0]
    assert data["text/plain"] == "cached · saved 3.2 s"
    assert "cached · saved 3.2 s" in data["text/html"]
    assert metadata["nbflow"]["badge"] == "cached"
