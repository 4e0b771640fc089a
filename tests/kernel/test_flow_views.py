"""`%flow graph`, `timeline`, `auto` and `cancel` in a real kernel."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.kernel


def html(result: Any) -> str:
    (shown,) = [each["data"] for each in result.outputs if each["type"] == "execute_result"]
    return str(shown["text/html"])


def test_graph_marks_the_stale_part(kernel: Any) -> None:
    """Cells, the names between them, and what has become stale are in the drawing and in its text."""
    assert "no task cell" in (kernel.ok("%flow graph").result or "")
    kernel.ok("base = 1")
    kernel.ok("%%task a\na = base + 1")
    kernel.ok("%%task b\nb = a * 10")
    kernel.ok("%%task apart\napart = 'x'")
    kernel.ok("base = 2")
    drawn = kernel.ok("%flow graph")
    rows = {line.split()[1]: line for line in (drawn.result or "").splitlines()[:-1]}
    assert "stale" in rows["a"]
    assert "stale" in rows["b"]
    assert "← a (a)" in rows["b"]
    assert "fresh" in rows["apart"]
    assert (drawn.result or "").endswith("3 cells · 2 stale")
    assert "`base` 1 → 2" in html(drawn)
    assert "<svg" in html(drawn)
    assert "<script" not in html(drawn)


def test_circles_and_rivals_are_told(kernel: Any) -> None:
    """Two cells that read from each other, and two that write one name, are told by `%flow`; nothing hangs."""
    kernel.ok("b = 0")
    kernel.ok("%%task one\na = b + 1")
    kernel.ok("%%task two\nb = a + 1")
    kernel.ok("%%task three\nc = 1")
    kernel.ok("%%task four\nc = 2")
    status = kernel.ok("%flow").result or ""
    assert "in a circle: one → two → one" in status
    assert "`three` (cell 5) and `four` (cell 6) both write `c`: cell 6 ran last and counts" in status
    assert "in a circle" in (kernel.ok("%flow graph").result or "")
    kernel.ok("%%task three\nc = 1")
    assert "cell 8 ran last" not in status
    assert "ran last and counts" in (kernel.ok("%flow").result or "")


def test_timeline_shows_calls_cells_and_maps(kernel: Any) -> None:
    """Each task has a row, however many items a map has; a hit is told from a run."""
    assert "Nothing has run" in (kernel.ok("%flow timeline").result or "")
    kernel.ok("from nbflow import task, map_tasks\n@task(cache=True)\ndef double(x): return 2 * x")
    kernel.ok("map_tasks(double, range(300))\ndouble(1)")
    kernel.ok("%%task made\nmade = 1")
    shown = kernel.ok("%flow timeline")
    assert "double" in (shown.result or "")
    assert "made" in (shown.result or "")
    assert "302 calls" in (shown.result or "")
    assert "· cached" in html(shown)
    assert len(html(shown)) < 20_000


def test_auto_runs_what_a_cell_made_stale(kernel: Any) -> None:
    """Switched on, cells that depend on an edit run again below the edit, once; failures stop it; off ends it."""
    kernel.ok("base = 1")
    kernel.ok("%%task a\na = base + 1")
    kernel.ok("%%task b\nb = 10 // a\nprint('b is', b)")
    assert "stay as they are" in kernel.ok("%flow auto").stdout
    assert "run again" in kernel.ok("%flow auto on").stdout
    edited = kernel.ok("base = 4")
    assert edited.stdout.splitlines() == ["— a (cell 3)", "— b (cell 4)", "b is 2"]
    assert kernel.value("b") == 2
    assert kernel.ok("unrelated = 1").stdout == ""
    failing = kernel.run("base = -1")
    assert "ZeroDivisionError" in failing.traceback + failing.stdout + failing.stderr
    assert kernel.ok("unrelated = 2").stdout == ""  # what failed waits for its owner
    assert kernel.ok("base = 0").stdout.splitlines()[0] == "— a (cell 3)"
    kernel.ok("%flow auto off")
    assert kernel.ok("base = 7").stdout == ""


def test_cancel_stops_what_runs_in_the_background(kernel: Any) -> None:
    """A submitted call is cancelled by name; without a name everything is; what does not run is said."""
    kernel.ok(
        "from nbflow import TaskCancelledError, submit, task\nimport threading\nbegun = threading.Semaphore(0)\n"
        "@task\ndef waits():\n    begun.release()\n    while True:\n        threading.Event().wait(0.01)"
    )
    assert kernel.ok("%flow cancel").stdout == "Nothing is running.\n"
    kernel.ok("one = submit(waits)\nbegun.acquire(timeout=30)")
    wrong = kernel.run("%flow cancel nobody")
    assert "nothing of that name runs now; running: waits" in wrong.stderr
    assert kernel.ok("%flow cancel waits").stdout == "Cancelled waits.\n"
    kernel.ok("try:\n    one.get(30)\nexcept TaskCancelledError as error:\n    why = error.reason")
    assert kernel.value("why") == "%flow cancel"


def test_export_writes_what_ran(kernel: Any) -> None:
    """Cells that ran well are in the script once, in their order and as they are now; those that failed are not."""
    kernel.ok("x = 1", cell_id="one")
    kernel.ok("%%task y\ny = x + 1", cell_id="two")
    kernel.run("1 / 0", cell_id="three")
    kernel.ok("x = 5", cell_id="one")
    assert "give the name of one Python file" in kernel.run("%flow export").stderr
    assert "Wrote 3 cells to out.py." in kernel.ok("%flow export out.py").stdout  # loading nbflow is the first
    text = (kernel.folder / "out.py").read_text()
    assert text.index("x = 5") < text.index("y = x + 1")
    assert "x = 1\n" not in text
    assert "1 / 0" not in text


def test_history_is_known_over_restarts(kernel: Any) -> None:
    """Each task and cell has a row with its runs, a chart and its typical time; names and `--limit` choose."""
    assert "No runs of this notebook" in (kernel.ok("%flow history").result or "")
    define = "from nbflow import task, map_tasks\n@task(cache=True)\ndef double(x): return 2 * x"
    for _ in range(2):
        kernel.ok(define)
        kernel.ok("_ = map_tasks(double, range(3))")
        kernel.ok("%%task made\nmade = 1")
        kernel.ok("%%task made\nmade = 1")
        kernel.run("%%task bad\n1 / 0")
        kernel.restart()
    shown = kernel.ok("%flow history")
    rows = {line.split("  ")[0].strip(): line.split() for line in (shown.result or "").splitlines()[1:]}
    assert set(rows) == {"double (map)", "made", "bad"}
    assert rows["made"][1] == "4"
    assert "cached" in rows["made"]
    assert "failed" in rows["bad"]
    assert html(shown).count("<svg") == 3
    assert html(shown).count("<rect") == 8
    few = kernel.ok("%flow history made --limit 2")
    assert html(few).count("<rect") == 2
    assert "how many runs" in kernel.run("%flow history --limit x").stderr
    assert "no run of 'nobody' is on record" in kernel.run("%flow history nobody").stderr
    assert "no such option" in kernel.run("%flow history --all").stderr
