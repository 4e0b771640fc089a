"""What a panel does after its run: shown again it is alive, its tabs answer, and failed calls can be run once more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import nbflow
from nbflow.notebook.panel import rows as r
from nbflow.notebook.panel.widget import MIME


def settle(stage: Any) -> None:
    """Let the timer look until it ends."""
    while stage.tick_function() is not None:
        pass
    stage.tick_function = None


@pytest.fixture
def scene(make_stage: Any) -> Iterator[Any]:
    """Return a stage with a real session and a front end that runs widgets; `broken` says whether `fit` fails."""
    kernel = SimpleNamespace(get_parent=lambda channel: {"content": {"allow_stdin": True}})
    broken = threading.Event()
    broken.set()

    @nbflow.task
    def fit(depth: int) -> int:
        if depth == 4 and broken.is_set():
            raise ValueError("too deep")
        return depth * 10

    with nbflow.session() as context:
        stage = make_stage("widget", kernel=kernel, session=context)
        stage.fit, stage.broken = fit, broken
        stage.panel.cell_started()
        nbflow.map_tasks(fit, range(6), backend="thread", on_error="collect")
        stage.panel.cell_finished()
        settle(stage)
        yield stage
        stage.panel.close()


def ask(stage: Any, **content: Any) -> list[dict[str, Any]]:
    """Let the front end of the panel that is shown again send a message; returns what is sent back at once."""
    face = next(run for run in stage.panel._runs if run.kept).face
    sent: list[dict[str, Any]] = []
    face._widget._widget.send = lambda message, buffers=None: sent.append(message)
    face._heard(content)
    return sent


def test_run_shown_again_is_alive_until_something_else_is_shown(scene: Any) -> None:
    """There is one such widget at most: the next `panel()` turns it into a static bundle, and so does the next run."""
    assert [MIME in bundle for bundle in scene.shell.bundles] == [False]
    scene.panel.show()
    assert [MIME in bundle for bundle in scene.shell.bundles] == [False, True]
    scene.panel.show()
    assert [MIME in bundle for bundle in scene.shell.bundles] == [False, False, True]
    scene.panel.cell_started()
    nbflow.map_tasks(scene.fit, range(3))
    scene.panel.cell_finished()
    assert [MIME in bundle for bundle in scene.shell.bundles] == [False] * 4


def test_failed_item_runs_again_in_its_row(scene: Any) -> None:
    """A click starts the call with its inputs; its row goes to done, the handle is found by name."""
    retries = scene.panel.show()
    assert retries.failed == ("fit[4]",)
    run = next(run for run in scene.panel._runs if run.kept)
    row = next(row for row in run.model.rows.values() if row.kind == r.ITEM)
    scene.broken.clear()
    assert ask(scene, kind="retry", id=row.id) == [{"kind": "ack", "id": row.id, "index": None, "ok": True}]
    assert retries.retried["fit[4]"].get() == 40
    settle(scene)
    assert (row.state, row.retries, row.error, row.traceback) == (r.DONE, 1, "", "")
    assert len(run.model.rows) == 2, "no row of its own"
    assert run.model.totals().failed == 1, "the map's counters stay as they were"


def test_retry_that_fails_again_can_be_tried_once_more(scene: Any) -> None:
    """The row says failed, with the new traceback, and takes the next click."""
    retries = scene.panel.show()
    run = next(run for run in scene.panel._runs if run.kept)
    row = next(row for row in run.model.rows.values() if row.kind == r.ITEM)
    for count in (1, 2):
        assert ask(scene, kind="retry", id=row.id)[0]["ok"]
        with pytest.raises(ValueError, match="too deep"):
            retries.retried["fit[4]"].get()
        settle(scene)
        assert (row.state, row.retries) == (r.FAILED, count)
        assert "ValueError: too deep" in row.traceback
    assert retries.failed == ("fit[4]",)
    assert not ask(scene, kind="retry", id=12345)[0]["ok"]


def test_tabs_answer_while_it_is_shown_again(scene: Any) -> None:
    """Calls, timeline, graph and history are made when they are asked for."""
    scene.panel.show()
    (calls,) = ask(scene, kind="ask", what="items", state=r.FAILED)
    assert (calls["kind"], calls["what"], calls["total"]) == ("told", "items", 1)
    assert calls["rows"][0][0] == "fit[4]"
    (drawn,) = ask(scene, kind="ask", what="timeline")
    assert drawn["lanes"]
    assert "fit" in ask(scene, kind="ask", what="graph")[0]["svg"]
    assert ask(scene, kind="ask", what="history")[0]["tasks"] == []
    assert ask(scene, kind="nonsense") == []


def test_inputs_are_let_go_when_the_panel_closes(scene: Any) -> None:
    """A closed panel holds nothing, and failed calls are kept no more."""
    retries = scene.panel.show()
    scene.panel.close()
    assert retries.failed == ()
    nbflow.map_tasks(scene.fit, [4], on_error="collect")
    assert retries.failed == ()


def test_work_in_the_background_comes_first_and_ends_beside_what_was_shown_again(scene: Any) -> None:
    """A run that ends by itself leaves the one that was shown again alive; `panel()` prefers what still runs."""
    go = threading.Event()
    scene.panel.show()
    scene.panel.cell_started()
    handle = nbflow.submit(nbflow.task(lambda: go.wait(10)))
    scene.panel.cell_finished()
    assert len(scene.panel._runs) == 2
    scene.panel.show()
    (run,) = scene.panel._runs
    assert not run.kept
    assert run.live
    go.set()
    handle.get()
    settle(scene)
    assert scene.panel._runs == []
    assert not any(MIME in bundle for bundle in scene.shell.bundles)
