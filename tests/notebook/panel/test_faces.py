"""Text, HTML and widget: what people get to see of a model."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nbflow.core import events
from nbflow.notebook.panel import rows as r
from nbflow.notebook.panel import widget
from nbflow.notebook.panel.html import render_html
from nbflow.notebook.panel.text import TextFace, render_text
from nbflow.notebook.panel.widget import LiveWidget, encode


def test_all_cached_run_is_one_line(played: Any) -> None:
    """Seven hits are summed up in a sentence, in every face."""
    for number in range(1, 8):
        played.do.hit(number, saved_s=27.43)
    assert render_text(played.model) == "7 tasks · all cached · saved 3 min 12 s"
    html = render_html(played.model)
    assert "7 tasks · all cached · saved 3 min 12 s" in html
    assert "<table" not in html


def test_lone_call_is_one_line(played: Any) -> None:
    """A single call needs no table."""
    played.do.start(1)
    played.do.finish(1, duration_s=5.0)
    assert render_text(played.model) == "✓ fit · done · 5.0 s"
    assert "<table" not in render_html(played.model)


def test_text_of_a_mixed_run(played: Any) -> None:
    """The summary has totals, a row for each task, and why something failed."""
    played.do.start(1, "load")
    played.do.finish(1, "load", duration_s=0.5)
    played.do.start_map(2, 4)
    played.do.fail(3, "fit[1]", map_id=2)
    played.clock.advance(5.0)
    played.do.end_map(2, 4, completed=3, cached=1, failed=1, saved_s=60.0)
    assert render_text(played.model).splitlines() == [
        "5 tasks · 3 done · 1 cached · 1 failed · saved 1 min · 5.0 s",
        "  ✓ load     done · 0.5 s",
        "  ✗ fit      failed · 4/4 · 5.0 s · 1 failed · 1 cached · saved 1 min",
        "  ✗   fit[1] failed · 1.0 s · ValueError: bad",
    ]


def test_nothing_ran_is_nothing(played: Any) -> None:
    """An empty run has no words."""
    assert (render_text(played.model), render_html(played.model)) == ("", "")


def test_running_map_is_told_with_its_time(played: Any) -> None:
    """While it goes on, the headline counts up."""
    played.do.start_map(1, 40)
    text = render_text(played.model, now=played.clock.wall() + 4.2)
    assert text.splitlines()[0] == "40 tasks · all queued · 4.2 s"
    assert "▸ fit running · 0/40 · 4.2 s" in text


class Tags(HTMLParser):
    """Collects tags and attributes, and insists that everything opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_survives_a_sanitiser(played: Any) -> None:
    """Only plain tags with inline styles, whatever the user's texts contain, and a word for every state."""
    played.do.start(1, "<script>alert(1)</script>")
    played.do.fail(1, "<script>alert(1)</script>", error='"><img onerror=x>', traceback="</pre><b>")
    played.do.start(2, "ok")
    played.do.finish(2, "ok")
    html = render_html(played.model)
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.tags <= {"div", "span", "b", "table", "tbody", "tr", "td", "details", "summary", "pre"}
    assert tags.attributes <= {"style", "colspan"}
    assert "failed" in html
    assert "done" in html


@pytest.mark.parametrize("text", ["x", "&", "→"])
def test_ten_thousand_tasks_stay_small(played: Any, text: str) -> None:
    """A saved notebook grows by less than 20 kB and a message stays under 64 kB, with long names and errors."""
    for number in range(1, 10_001):
        name = f"{text * 300}{number}"
        played.do.start(number, name)
        if number % 2:
            played.do.fail(number, name, error=text * 500, traceback=text * 5000)
        else:
            played.do.finish(number, name)
    html, plain = render_html(played.model), render_text(played.model)
    assert "10,000 tasks" in html
    assert len(html.encode()) + len(plain.encode()) < 20_000
    assert len(json.dumps(encode(played.model, hears=True), ensure_ascii=False).encode()) < 64_000


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def sample(played: Any, done: int, total: int) -> None:
    """Tell how far the map is."""
    counts = {"completed": done, "cached": 0, "failed": 0, "cancelled": 0, "running": 1}
    played.do.tell(events.MapProgressed, 1, total=total, **counts)


def test_log_gets_one_line_for_each_tenth(played: Any) -> None:
    """A pipe sees milestones, then the end: never more than ten lines for a map."""
    stream = io.StringIO()
    face = TextFace(stream)
    played.do.start_map(1, 1000)
    for done in range(1000):
        sample(played, done, 1000)
        face.frame(played.model, played.clock.wall())
    played.do.end_map(1, 1000)
    face.finish(render_text(played.model))
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("nbflow:")]
    assert len(lines) == 10
    assert lines[-1].startswith("nbflow: 1,000 tasks · all done")


def test_terminal_redraws_one_line(played: Any) -> None:
    """A terminal sees one line that changes only when the words do, and is cleared for the summary."""
    stream = Terminal()
    face = TextFace(stream)
    played.do.start_map(1, 10)
    for _ in range(3):
        face.frame(played.model, 0.0)
    assert stream.getvalue().count("\n") == 0
    assert stream.getvalue().count("nbflow:") == 1
    face.finish("over")
    assert stream.getvalue().endswith("\r\x1b[2Knbflow: over\n")


def applied(state: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """Fold a frame as panel.js does."""
    order = message.get("order", state["order"])
    rows = {number: dict(fields) for number, fields in state["rows"].items()}
    for number, changes in message.get("rows", {}).items():
        row = rows.setdefault(number, {})
        for key, value in changes.items():
            if value is None:
                row.pop(key, None)
            else:
                row[key] = value
    kept = {number: fields for number, fields in rows.items() if number in order}
    return {"head": state["head"] | message.get("head", {}), "order": order, "rows": kept}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the custom messages of a widget made in this test; its comm is closed at the end."""
    messages: list[dict[str, Any]] = []
    live = LiveWidget(lambda content: None, {"head": {}, "order": [], "rows": {}}, -10.0)
    monkeypatch.setattr(live._widget, "send", lambda content, buffers=None: messages.append(content))
    yield messages, live
    live.close()


def test_frames_add_up_to_the_whole(played: Any, sent: Any) -> None:
    """What the front end folds from differences is what a full state would be; nothing is sent for no change."""
    messages, live = sent
    seen = {"head": {}, "order": [], "rows": {}}
    for step in range(30):
        number, name, before = step + 1, f"task{step % 7}", f"task{(step - 1) % 7}"
        played.do.start(number, name, worker="worker-1")
        played.do.tell(events.ProgressMade, number, name, done=step, total=40.0)
        if step % 5 == 3:
            played.do.fail(step, before)
        elif step % 3:
            played.do.finish(step, before)
        state = encode(played.model, hears=True)
        assert live.send(state, now=4.0 * step)
        assert not live.send(encode(played.model, hears=True), now=4.0 * step)
        seen = applied(seen, json.loads(json.dumps(messages[-1])))
        assert seen == state
    assert len(messages) == 30


def test_frame_of_a_moving_map_is_small(played: Any, sent: Any) -> None:
    """Ten frames a second of a moving map stay under 3 kB."""
    messages, live = sent
    played.do.start_map(1, 1000)
    live.send(encode(played.model, hears=True), now=0.0)
    del messages[:]
    for done in range(10):
        sample(played, done + 1, 1000)
        live.send(encode(played.model, hears=True), now=0.1 * done)
    assert 8 <= len(messages) <= 10
    assert sum(len(json.dumps(message)) for message in messages) < 3000


def test_busy_run_stays_within_its_bytes(played: Any, sent: Any) -> None:
    """However much changes, ten looks a second send less than 3 kB of it; at the end all is said at once."""
    messages, live = sent
    snapshots: list[str] = []
    live._widget.observe(lambda change: snapshots.append(json.dumps(change["new"])), "snapshot")
    for number in range(1, 31):
        played.do.start(number, f"task{number}", worker=f"worker-{number}")
    live.send(encode(played.model, hears=True), now=0.0)
    del messages[:], snapshots[:]
    seconds = 20
    for step in range(1, 10 * seconds + 1):
        for number in range(1, 31):
            played.do.tell(events.ProgressMade, number, f"task{number}", done=step, total=10.0 * seconds)
        live.send(encode(played.model, hears=True), now=0.1 * step)
    size = sum(len(json.dumps(message)) for message in messages) + sum(len(each) for each in snapshots)
    assert seconds / 3 <= len(messages), "and it is never silent for long"
    assert size <= 3000 * seconds
    for number in range(1, 31):
        played.do.finish(number, f"task{number}")
    state = encode(played.model, hears=True)
    assert live.send(state, now=0.1 * step)
    assert messages[-1]["head"]["live"] is False


def test_snapshot_is_synced_rarely_and_whole(played: Any, sent: Any) -> None:
    """The snapshot for views that open later follows at most every three seconds, and only after a change."""
    _, live = sent
    played.do.start(1)
    live.send(encode(played.model, hears=True), now=0.0)
    first = live._widget.snapshot
    assert first["order"] == ["1"]
    played.do.start(2)
    live.send(encode(played.model, hears=True), now=1.0)
    assert live._widget.snapshot == first
    live.send(encode(played.model, hears=True), now=3.5)
    assert live._widget.snapshot["order"] == ["1", "2"]


def test_script_knows_every_state() -> None:
    """Each state has an icon in the script, and no script imports anything from anywhere."""
    script = "\n".join((Path(widget.__file__).parent / name).read_text() for name in widget._SCRIPTS)
    for state in (r.QUEUED, r.RUNNING, r.RETRYING, r.DONE, r.CACHED, r.FAILED, r.CANCELLED, r.TIMED_OUT, r.LEFT):
        assert re.search(rf'^\s*"?{re.escape(state)}"?: "M', script, re.MULTILINE), state
    scripts = list(Path(widget.__file__).parents[1].rglob("*.js"))
    assert len(scripts) > 5
    for path in scripts:
        assert not re.search(
            r"^\s*import\b|import\(|https?://(?!www\.w3\.org/2000/svg)", path.read_text(), re.MULTILINE
        )


@pytest.mark.parametrize("path", sorted(Path(widget.__file__).parents[1].rglob("*.css")), ids=lambda path: path.name)
def test_styles_touch_nothing_but_their_widget(path: Path) -> None:
    """Every rule begins with the frame of a widget of ours: a page has all of them, and much else."""
    text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
    text = re.sub(r"@keyframes [^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", text)
    heads = [
        found.group(1) for found in re.finditer(r"([^{};]+)\{", text) if not found.group(1).strip().startswith("@")
    ]
    frames = ("panel", "explore", "datasets") if path.name == "base.css" else (path.stem.partition("-")[0],)
    frames = tuple({"browser": "datasets"}.get(frame, frame) for frame in frames)
    starts = (*(f".nbflow-{frame}" for frame in frames), ":is(.nbflow-panel, .nbflow-explore, .nbflow-datasets)")
    selectors = [each.strip() for head in heads for each in re.split(r",(?![^(]*\))", head)]
    assert len(selectors) > 1
    assert [each for each in selectors if not each.startswith(starts)] == []
