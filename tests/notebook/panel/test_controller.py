"""The controller: when a panel appears, which face it gets, and how it ends; on a stage without kernel or waiting."""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from nbflow.core import events
from nbflow.errors import SettingsError
from nbflow.notebook.panel import PanelController, evidence, faces
from nbflow.notebook.panel.widget import MIME


def attended(allow_stdin: bool = True) -> SimpleNamespace:
    """Return a kernel whose front end does (not) answer questions."""
    return SimpleNamespace(get_parent=lambda channel: {"content": {"allow_stdin": allow_stdin}})


def test_cell_without_tasks_shows_nothing_and_starts_no_timer(make_stage: Any) -> None:
    """Plain cells cost nothing."""
    stage = make_stage("html")
    stage.panel.cell_started("cell 1")
    stage.panel.cell_finished()
    assert (stage.shell.shown, stage.wakes) == ({}, 0)


def test_quick_single_call_shows_nothing(make_stage: Any) -> None:
    """A call of a tenth of a second is not worth a line."""
    stage = make_stage("html")
    stage.panel.cell_started()
    stage.do.start(1)
    stage.after(0.1)
    stage.do.finish(1, duration_s=0.1)
    stage.panel.cell_finished()
    assert stage.shell.shown == {}


def test_panel_appears_after_a_third_of_a_second_and_ends_static(make_stage: Any) -> None:
    """Nothing at first, then a running display, then the summary in the same place."""
    stage = make_stage("html")
    stage.panel.cell_started()
    stage.do.start(1)
    stage.after(0.2)
    assert stage.shell.shown == {}
    stage.after(0.3)
    assert "running" in stage.shell.bundles[0]["text/plain"]
    stage.do.finish(1, duration_s=0.5)
    stage.panel.cell_finished()
    assert [bundle["text/plain"] for bundle in stage.shell.bundles] == ["✓ fit · done · 0.5 s"]
    assert "done" in stage.shell.bundles[0]["text/html"]


def test_all_cached_run_is_one_line_even_if_it_takes_a_while(make_stage: Any) -> None:
    """Hits alone never open a panel; they are summed up at the end."""
    stage = make_stage("html")
    stage.panel.cell_started()
    for number in range(1, 8):
        stage.do.hit(number, saved_s=27.43)
        stage.after(0.1)
    assert stage.shell.shown == {}
    stage.panel.cell_finished()
    assert [bundle["text/plain"] for bundle in stage.shell.bundles] == ["7 tasks · all cached · saved 3 min 12 s"]


def test_single_hit_tells_what_it_saved_unless_its_cell_does(make_stage: Any) -> None:
    """A hit that saved something gets a line; a cell with a badge of its own does not get a second one."""
    stage = make_stage("html")
    for badge in (False, True):
        stage.panel.cell_started()
        stage.do.hit(1 + badge, saved_s=60.0)
        if badge:
            stage.panel.badge_shown()
        stage.panel.cell_finished()
    assert [bundle["text/plain"] for bundle in stage.shell.bundles] == ["1 task · cached · saved 1 min"]


def test_short_run_of_several_calls_is_one_line(make_stage: Any) -> None:
    """Quick calls are summed up; but a failure among them is told in full."""
    stage = make_stage("html")
    for first, end in ((1, stage.do.finish), (10, stage.do.fail)):
        stage.panel.cell_started()
        for number in range(first, first + 3):
            stage.do.start(number)
            (end if number == first else stage.do.finish)(number)
        stage.panel.cell_finished()
    brief, full = (bundle["text/plain"] for bundle in stage.shell.bundles)
    assert brief == "3 tasks · all done · 0 ms"
    assert "ValueError: bad" in full


def test_timer_lives_only_while_something_runs(make_stage: Any) -> None:
    """The timer ends with the last task and starts again with the next one, within a cell."""
    stage = make_stage("html")
    stage.panel.cell_started()
    for number in (1, 2):
        stage.do.start(number)
        assert stage.ticking
        stage.after(1.0)
        assert stage.ticking
        stage.do.finish(number)
        stage.after(0.5)
        assert not stage.ticking
    assert stage.wakes == 2


def test_event_between_last_look_and_end_of_the_timer_is_not_lost(make_stage: Any) -> None:
    """A task that begins while the timer decides to end keeps it going."""
    stage = make_stage("html")
    stage.panel.cell_started()
    stage.do.start(1)
    stage.do.finish(1)
    tick, apply_all = stage.tick_function, stage.panel._advance

    def begin_meanwhile(run: Any, now: float) -> None:
        apply_all(run, now)
        stage.do.start(2)

    stage.panel._advance = begin_meanwhile
    assert tick() is not None
    assert stage.wakes == 1


def test_html_is_drawn_at_most_once_a_second(make_stage: Any) -> None:
    """However fast things change, the display is updated at 1 Hz; and not at all while nothing changes."""
    stage = make_stage("html")
    stage.panel.cell_started()
    stage.do.start(1)
    for step in range(100):
        stage.do.tell(events.ProgressMade, 1, done=step, total=100.0)
        stage.after(0.1)
    assert 9 <= stage.shell.updates <= 11
    stage.after(5.0)
    assert stage.shell.updates <= 12


def test_maps_are_sampled_without_events_of_their_items(make_stage: Any) -> None:
    """The observer declines routine events of items; counters and running items come from live maps."""
    stage = make_stage("html")
    assert [items for _, items in stage.session.observers] == [False]
    stage.panel.cell_started()
    stage.do.start_map(1, 40)
    running = [(13, "fit[13]", stage.clock.monotonic(), "worker-1")]
    stage.session.maps = [make_stage.live_map(1, 40, completed=13, running=1, now_running=running)]
    stage.after(2.0)
    assert "13/40" in stage.shell.bundles[0]["text/plain"]
    row = stage.panel._current.model.rows[1]
    assert [(item.name, item.worker) for item in row.items] == [("fit[13]", "worker-1")]
    assert stage.clock.wall() - row.items[0].started == pytest.approx(2.0)


def test_submitted_task_keeps_its_panel_beyond_its_cell(make_stage: Any) -> None:
    """What outlives its cell is finished later, apart from what the next cell runs."""
    stage = make_stage("html")
    stage.panel.cell_started()
    stage.do.start(1, "background")
    stage.after(0.5)
    stage.panel.cell_finished()
    stage.panel.cell_started()
    stage.do.start(2, "foreground")
    stage.do.start(3, "child", parent_id=1)
    stage.after(0.5)
    stage.do.finish(2, "foreground")
    stage.panel.cell_finished()
    assert len(stage.shell.bundles) == 2
    assert "running" in stage.shell.bundles[0]["text/plain"]
    assert stage.shell.bundles[1]["text/plain"].startswith("✓ foreground · done")
    stage.do.finish(3, "child")
    stage.do.finish(1, "background")
    stage.after(0.5)
    assert stage.shell.bundles[0]["text/plain"].startswith("2 tasks · all done")
    assert not stage.ticking


def test_stream_that_nobody_iterates_does_not_keep_the_panel_open(make_stage: Any) -> None:
    """An abandoned stream is said to be left running, and the timer ends."""
    stage = make_stage("html")
    stage.panel.cell_started()
    stage.do.start(1, "rows", kind="stream")
    stage.after(0.5)
    stage.panel.cell_finished()
    stage.after(0.5)
    assert "left running" in stage.shell.bundles[0]["text/plain"]
    assert not stage.ticking


def test_show_displays_the_last_panel_again_and_switches_off_and_on(make_stage: Any) -> None:
    """panel() repeats, panel(False) silences, panel() brings back."""
    stage = make_stage("html")
    stage.panel.cell_started()
    stage.do.start(1)
    stage.after(0.5)
    stage.do.finish(1)
    stage.panel.cell_finished()
    stage.panel.show()
    assert len(stage.shell.bundles) == 2
    assert stage.shell.bundles[0]["text/plain"] == stage.shell.bundles[1]["text/plain"]
    stage.panel.show(False)
    assert stage.session.observers == []
    stage.panel.show()
    assert len(stage.session.observers) == 1


def test_show_while_running_updates_both_displays(make_stage: Any) -> None:
    """A second view of a live panel ends static as well."""
    stage = make_stage("html")
    stage.panel.cell_started()
    stage.do.start(1)
    stage.after(0.5)
    stage.panel.show()
    stage.do.finish(1)
    stage.panel.cell_finished()
    assert ["done" in bundle["text/plain"] for bundle in stage.shell.bundles] == [True, True]


def test_mode_off_does_not_even_listen(make_stage: Any) -> None:
    """Off costs nothing."""
    assert make_stage("off").session.observers == []
    assert make_stage(progress="off").session.observers == []


def test_unknown_mode_is_refused() -> None:
    """The message names the mode and the choices."""
    session = SimpleNamespace(settings=SimpleNamespace(progress="auto"))
    with pytest.raises(SettingsError, match="'loud'.*auto, widget, html, text, off"):
        PanelController(session, "loud")


def test_text_goes_to_stderr_outside_of_a_notebook(make_stage: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a kernel the panel is text: milestones and a summary."""
    for shell in (None, ""):
        stage = make_stage("auto", shell=shell)
        stage.panel.cell_started()
        stage.do.start(1)
        stage.after(0.5)
        stage.do.finish(1)
        stage.panel.cell_finished()
        assert capsys.readouterr().err == "nbflow: ✓ fit · done · 1.0 s\n"


@pytest.mark.parametrize("why", ["nobody answers", "no anywidget", "report", "VS Code", "Colab"])
def test_evidence_for_html(make_stage: Any, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """A kernel without a front end that can run the widget gets HTML; `nbflow run` the final one only."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    stage = make_stage("auto", kernel=attended(why != "nobody answers"))
    if why == "no anywidget":
        monkeypatch.setattr(evidence, "_has_anywidget", lambda: False)
    elif why == "report":
        monkeypatch.setenv("NBFLOW_REPORT", "1")
    elif why == "VS Code":
        monkeypatch.setenv("VSCODE_PID", "123")
    elif why == "Colab":
        monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    stage.panel.cell_started()
    stage.do.start(1)
    stage.after(2.0)
    assert len(stage.shell.bundles) == (0 if why == "report" else 1)
    stage.do.finish(1)
    stage.panel.cell_finished()
    assert [sorted(bundle) for bundle in stage.shell.bundles] == [["text/html", "text/plain"]]


def test_jupyter_started_from_a_terminal_of_vs_code_is_jupyter(
    make_stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server's own mark on the kernel counts more than what it inherits; and a mode that is set more than both."""
    monkeypatch.setenv("VSCODE_PID", "123")
    monkeypatch.setenv("JPY_SESSION_NAME", "/work.ipynb")
    for mode, found in (("auto", True), ("widget", True), ("html", False)):
        stage = make_stage(mode, kernel=attended())
        stage.panel.cell_started()
        stage.do.start(1)
        stage.after(0.5)
        assert (MIME in stage.shell.bundles[0]) == found
        stage.do.finish(1)
        stage.panel.cell_finished()


def test_widget_ends_as_a_static_bundle_and_leaves_no_comm(make_stage: Any) -> None:
    """While it runs there is a widget view with fallbacks, afterwards only these; the autouse fixture counts comms."""
    stage = make_stage("auto", kernel=attended())
    stage.panel.cell_started()
    stage.do.start(1)
    stage.after(0.5)
    assert sorted(stage.shell.bundles[0]) == [MIME, "text/html", "text/plain"]
    stage.do.finish(1)
    stage.panel.cell_finished()
    assert sorted(stage.shell.bundles[0]) == ["text/html", "text/plain"]


def widget_of(stage: Any) -> Any:
    """Return the live anywidget of the current run."""
    return stage.panel._current.face._widget._widget


def click(stage: Any, **content: Any) -> list[dict[str, Any]]:
    """Let the front end send a custom message in the ordinary way; returns what the kernel answers."""
    answers: list[dict[str, Any]] = []
    widget = widget_of(stage)
    widget.send = lambda message, buffers=None: answers.append(message)
    widget._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
    return answers


def test_clicks_cancel_one_or_all_and_are_answered(make_stage: Any) -> None:
    """Cancel names the row, Stop all everything; the answer says whether there was anything to stop."""
    stage = make_stage("widget", kernel=attended())
    stage.live_map = make_stage.live_map
    stage.panel.cell_started()
    stage.do.start(1)
    stage.session.running = {1}
    stage.after(0.5)
    assert click(stage, kind="cancel", id=1) == [{"kind": "ack", "id": 1, "index": None, "ok": True}]
    assert click(stage, kind="cancel", id=9) == [{"kind": "ack", "id": 9, "index": None, "ok": False}]
    assert click(stage, kind="stop") == [{"kind": "ack", "id": None, "index": None, "ok": True}]
    dropped: list[tuple[int, str]] = []
    live = stage.live_map(7, 10)
    live.cancel_item = lambda index, reason: dropped.append((index, reason)) or True
    stage.session.maps = [live]
    assert click(stage, kind="cancel", id=7, index=3) == [{"kind": "ack", "id": 7, "index": 3, "ok": True}]
    assert click(stage, kind="cancel", id=8, index=3) == [{"kind": "ack", "id": 8, "index": 3, "ok": False}]
    assert dropped == [(3, "panel")]
    assert click(stage, kind="cancel", id="1; drop") == []
    assert click(stage, kind="nonsense") == []
    assert stage.session.cancelled == [(1, "panel"), (9, "panel"), (None, "panel")]
    stage.panel.cell_finished()


def test_reported_progress_is_a_place_to_hear_clicks(make_stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On ipykernel 6 messages are only read where user code calls us: when it reports progress."""
    stage = make_stage("html")
    pumped: list[int] = []
    monkeypatch.setattr(stage.panel._tap, "pump", lambda: pumped.append(1))
    stage.do.start(1)
    assert pumped == []
    stage.do.tell(events.ProgressMade, 1, done=1, total=2)
    assert pumped == [1]
    stage.panel.pump()
    assert pumped == [1, 1]
    stage.do.finish(1)


def test_at_most_twelve_messages_a_second_and_none_for_no_change(make_stage: Any) -> None:
    """Ten seconds of constant change send a hundred frames and a few snapshots; silence sends nothing."""
    stage = make_stage("widget", kernel=attended())
    stage.panel.cell_started()
    stage.do.start(1)
    stage.after(0.5)
    sent: list[Any] = []
    widget_of(stage).comm.send = lambda data=None, metadata=None, buffers=None: sent.append(data["method"])
    for step in range(1000):
        stage.do.tell(events.ProgressMade, 1, done=step, total=1000.0)
        stage.after(0.01)
    assert 90 <= sent.count("custom") <= 101
    assert len(sent) <= 120
    stage.after(4.0)
    del sent[:]
    stage.after(10.0)
    assert sent == []
    stage.panel.cell_finished()


def test_silent_front_end_gets_html_and_a_late_hello_the_widget(make_stage: Any) -> None:
    """With a tap, no hello within two seconds means nobody runs the widget: HTML at 1 Hz, until a hello comes."""
    stage = make_stage("widget", kernel=attended())
    stage.panel._tap.way = "tap"
    stage.panel._tap.listen = lambda comm, handler: None
    stage.panel.cell_started()
    stage.do.start(1)
    stage.after(1.5)
    assert MIME in stage.shell.bundles[0]
    stage.after(1.5)
    assert MIME not in stage.shell.bundles[0]
    sent: list[Any] = []
    widget_of(stage).comm.send = lambda data=None, metadata=None, buffers=None: sent.append(data)
    stage.do.tell(events.ProgressMade, 1, done=1, total=2.0)
    stage.after(1.5)
    assert sent == []
    assert "1/2" in stage.shell.bundles[0]["text/plain"]
    click(stage, kind="hello")
    stage.after(0.2)
    assert MIME in stage.shell.bundles[0]
    stage.do.finish(1)
    stage.panel.cell_finished()
    assert MIME not in stage.shell.bundles[0]


def test_face_that_fails_does_not_touch_the_run(make_stage: Any) -> None:
    """A display that raises is told once, and the rest of the run goes on without a panel."""
    stage = make_stage("html")
    stage.shell.display_pub.publish = lambda **bundle: 1 / 0
    stage.panel.cell_started()
    stage.do.start(1)
    with pytest.warns(RuntimeWarning, match="could not be drawn: ZeroDivisionError"):
        stage.after(0.5)
    stage.do.finish(1)
    stage.panel.cell_finished()


def test_widget_that_cannot_be_made_gives_way_to_html(make_stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If anywidget fails, the run is still shown."""
    monkeypatch.setattr(faces, "LiveWidget", lambda *given: 1 / 0)
    stage = make_stage("widget", kernel=attended())
    stage.panel.cell_started()
    stage.do.start(1)
    with pytest.warns(RuntimeWarning, match="could not be drawn"):
        stage.after(1.0)
    stage.do.finish(1)
    stage.panel.cell_finished()
    assert [bundle["text/plain"] for bundle in stage.shell.bundles] == ["✓ fit · done · 1.0 s"]


def test_real_timer_thread_ends_by_itself() -> None:
    """With the real timer, a run is drawn from its thread, which is gone after close; the autouse fixture checks."""
    seen = threading.Event()
    session = SimpleNamespace(settings=SimpleNamespace(progress="html"), observers=[])
    session.add_observer = lambda observer, items, sampler: session.observers.append(observer)
    session.remove_observer = session.observers.remove
    session.live_maps = list
    shell = SimpleNamespace(display_pub=SimpleNamespace(publish=lambda **bundle: seen.set()))
    panel = PanelController(session, None, shell)
    panel.cell_started()
    start = events.TaskStarted(call_id=1, name="f", time=0.0, task="f", kind="sync", backend="inline")
    session.observers[0](start)
    assert seen.wait(10)
    assert "nbflow-panel" in {thread.name for thread in threading.enumerate()}
    session.observers[0](events.TaskCompleted(call_id=1, name="f", time=1.0, duration_s=1.0))
    panel.cell_finished()
    panel.close()


def test_output_goes_to_the_cell_that_ran_the_task(make_stage: Any) -> None:
    """Drawing happens in the context of the run's own cell, also after the next one has started."""
    cell: ContextVar[str] = ContextVar("cell")
    stage = make_stage("html")
    where: list[str] = []
    stage.shell.display_pub.publish = lambda **bundle: where.append(cell.get())
    token = cell.set("first")
    stage.panel.cell_started()
    stage.do.start(1)
    stage.after(0.1)
    stage.panel.cell_finished()
    cell.set("second")
    stage.panel.cell_started()
    stage.after(1.0)
    stage.do.finish(1)
    stage.after(0.2)
    cell.reset(token)
    assert where == ["first", "first"]


def test_shown_again_it_appears_where_it_was_asked_for(make_stage: Any) -> None:
    """The second view of a run that goes on belongs to the cell that asks for it, what follows to both."""
    cell: ContextVar[str] = ContextVar("cell")
    stage = make_stage("html")
    where: list[tuple[str, bool]] = []
    stage.shell.display_pub.publish = lambda **bundle: where.append((cell.get(), bundle["update"]))
    token = cell.set("first")
    stage.panel.cell_started()
    stage.do.start(1)
    stage.after(0.5)
    stage.panel.cell_finished()
    cell.set("second")
    stage.panel.cell_started()
    stage.panel.show()
    assert where == [("first", False), ("second", False)]
    stage.do.finish(1)
    stage.after(0.5)
    cell.reset(token)
    assert where[2:] == [("first", True), ("first", True)]
