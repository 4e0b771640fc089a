"""The report page: facts in, text out."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from nbflow.cli.page import Page, cell_graph, task_graph
from nbflow.notebook.report import TaskRow

NOW = datetime(2013, 5, 1, 12, 0, tzinfo=UTC)


def row(number: int, task: str, **facts: Any) -> dict[str, Any]:
    return asdict(TaskRow(number, task, **facts))


def page(**facts: Any) -> str:
    whole = {"title": "a<b", "status": "ok", "parameters": {}, "rows": [], "took_s": 1.5} | facts
    return Page(**whole).html(NOW)


def test_an_empty_run_is_a_summary() -> None:
    """No headings over nothing; what is shown is escaped."""
    text = page()
    assert "<h1>a&lt;b</h1>" in text
    assert "no tasks · took 1.5 s" in text
    assert "2013-05-01 12:00:00 UTC" in text
    assert "<h2>" not in text


def test_failed_tasks_unfold_their_traceback() -> None:
    """Also where the run as a whole went well."""
    text = page(rows=[row(0, "fit", cell="cell 2", total=9, ran=8, failed=1, error="E: <no>", traceback="File <x>")])
    assert "<summary>fit in cell 2: 1 of 9 failed, last with E: &lt;no&gt;</summary>" in text
    assert "File &lt;x&gt;" in text


def test_bars_become_a_timeline() -> None:
    """One row of it for each task, in the colours of how calls ended."""
    text = page(rows=[row(0, "fit", total=2, ran=1, cached=1, bars=[(10.0, 12.0, "fresh"), (12.0, 12.5, "cached")])])
    assert "fit: 2.0 s · fresh" in text
    assert "fit: 0.5 s · cached" in text


def test_cells_show_the_richest_of_what_they_showed() -> None:
    """HTML, pictures, text without colours, errors; markdown as it was typed."""
    outputs = [
        new_output("stream", text="\x1b[31mred\x1b[0m <"),
        new_output("display_data", data={"text/plain": "plain", "text/html": "<b>rich</b>"}),
        new_output("display_data", data={"text/plain": "plain", "image/png": "aGk=\n"}),
        new_output("execute_result", data={"text/plain": "<Thing>"}, execution_count=1),
        new_output("error", ename="E", evalue="x", traceback=["line \x1b[1m1"]),
    ]
    text = page(cells=[new_markdown_cell("# Head"), new_code_cell("show()", outputs=outputs, execution_count=1)])
    assert "# Head" in text
    assert "red &lt;" in text
    assert "<b>rich</b>" in text
    assert 'src="data:image/png;base64,aGk="' in text
    assert "&lt;Thing&gt;" in text
    assert "line 1" in text
    assert "plain" not in text


def test_the_graph_of_cells_leaves_out_imports_and_lone_cells() -> None:
    """An edge names what flows; other magics than tasks are no Python."""
    sources = [
        "import os",
        "%%task raw --ttl 1d\nraw = os.listdir()",
        "!ls\nsize = len(raw)",
        "%%bash\necho $raw",
        "os.getcwd()",
    ]
    cells = [new_code_cell(source, execution_count=number) for number, source in enumerate(sources, 1)]
    picture = cell_graph(cells, [row(0, "raw", cell="cell 2", total=1, cached=1)])
    assert picture is not None
    assert picture.text.splitlines() == [
        "⚡ 2: raw --ttl 1d  cached    cell 2",
        "✓ 3: !ls           fresh     cell 3  ← 2: raw --ttl 1d (raw)",
    ]
    assert cell_graph(cells[:1], []) is None


def test_the_graph_of_a_workflow_follows_who_called_whom() -> None:
    """Tasks hang below the workflow, nested ones below their caller."""
    rows = [row(0, "outer", total=1, ran=1), row(1, "inner", nested=True, caller="outer", total=1, failed=1)]
    assert task_graph("flow", rows, "failed").text.splitlines() == [
        "✗ flow   failed    workflow",
        "✓ outer  fresh       ← flow (ran)",
        "✗ inner  failed      ← outer (failed)",
    ]
