"""Task cells in a real kernel behave as plain cells do: errors, interrupts, `await`, `_`, `;`, other magics."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytestmark = pytest.mark.kernel


def test_errors_have_the_lines_of_the_cell(shared: Any) -> None:
    """The traceback is that of a plain cell: the cell's own lines, no frame of ours, no note of ours."""
    body = "# 2\n# 3\n# 4\n# 5\ndef inner(x):\n    return 1 / x\n\nvalue = 3\ninner(0)"
    task, plain = shared.run("%%task\n" + body), shared.run("# 1\n" + body)
    number = f"In[{task.execution_count}]"
    assert task.status == plain.status == "error"
    assert task.traceback.replace(number, f"In[{plain.execution_count}]") == plain.traceback
    assert "line 10" in task.traceback
    assert "nbflow" not in task.traceback


def test_blank_lines_and_stacked_magics_keep_the_lines(shared: Any) -> None:
    """Line numbers match the cell as typed, whatever stands above the body."""
    assert "line 4" in shared.run("%%task\n\n\n1 / 0").traceback
    assert "line 3" in shared.run("%%time\n%%task\n1 / 0").traceback


def test_syntax_errors_are_those_of_a_plain_cell(shared: Any) -> None:
    """A body that is no Python is shown with its own line and nothing else."""
    result = shared.run("%%task\nx = 1\ny = = 2")
    assert result.status == "error"
    assert "line 3" in result.traceback
    assert "interactiveshell" not in result.traceback


def test_post_mortem_debugger_sees_the_users_frame(shared: Any) -> None:
    """After an error `%debug` can stand in the user's function; `sys.last_traceback` leads there."""
    shared.run("%%task\ndef inner(x):\n    marker = x * 2\n    raise ValueError(marker)\ninner(21)")
    shared.ok("import sys\ntrace = sys.last_traceback\nwhile trace.tb_next: trace = trace.tb_next")
    assert shared.value("trace.tb_frame.f_locals['marker']") == 42


def test_a_semicolon_silences(shared: Any) -> None:
    """`;` keeps the last value from being shown, on the first run and on a hit, with and without `await`."""
    for cell in ("%%task\nquiet = 5\nquiet;", "%%task\nimport asyncio\nawait asyncio.sleep(0)\nquiet2 = 5\nquiet2;"):
        assert shared.ok(cell).result is None
        again = shared.ok(cell)
        assert again.badges
        assert again.result is None


def test_the_last_value_is_out_and_underscore(shared: Any) -> None:
    """`Out[n]`, `_` and `In[n]` are right after a run and after a hit."""
    for _ in range(2):
        result = shared.ok("%%task\nlast = [1, 2]\nlast")
        number = result.execution_count
        assert result.result == "[1, 2]"
        assert shared.value(f"_, Out[{number}], 'last = [1, 2]' in In[{number}]") == ([1, 2], [1, 2], True)


def test_time_and_capture_stack(shared: Any) -> None:
    """`%%time` and `%%capture` above a task work, and what was captured is replayed into the capture."""
    for _ in range(2):
        result = shared.ok("%%time\n%%task timed\nprint('body')\ntimed_value = 4\ntimed_value")
        assert "Wall time" in result.stdout
        assert "body" in result.stdout
        assert result.result == "4"
    for _ in range(2):
        shared.ok("%%capture box\n%%task captured\nprint('inside')\ncaptured = 1")
        assert shared.value("box.stdout") == "inside\n"
    assert shared.ok("%%task captured\nprint('inside')\ncaptured = 1").stdout == "inside\n"


def test_await_runs_on_the_kernels_own_loop(shared: Any) -> None:
    """A body may await, loop and compose asynchronously; a hit restores it like any other."""
    cell = """%%task
import asyncio
async def numbers():
    for n in range(3):
        await asyncio.sleep(0)
        yield n
found = [n async for n in numbers()]
async with asyncio.timeout(5):
    found.append(await asyncio.sleep(0, 9))
print(found)
found"""
    first, second = shared.ok(cell), shared.ok(cell)
    assert first.result == second.result == "[0, 1, 2, 9]"
    assert second.badges
    assert second.stdout == "[0, 1, 2, 9]\n"


def test_errors_of_an_awaiting_cell(shared: Any) -> None:
    """Its traceback begins with the cell's own line, too."""
    result = shared.run(
        "%%task\nimport asyncio\nasync def fails():\n    await asyncio.sleep(0)\n    1 / 0\nawait fails()"
    )
    assert result.status == "error"
    assert "line 6" in result.traceback
    assert "line 5" in result.traceback
    assert "runner.py" not in result.traceback


def test_await_below_another_magic_is_refused_clearly(shared: Any) -> None:
    """IPython cannot await below `%%time`; one line says what to do."""
    result = shared.run("%%time\n%%task\nimport asyncio\nawait asyncio.sleep(0)")
    assert "UsageError: await in a task cell needs %%task to be the first line" in result.stderr


def test_a_session_opened_in_an_awaiting_cell_is_there_in_the_next(shared: Any) -> None:
    """The notebook's session lives on the shell, not in a context variable that the cell takes with it."""
    opening = "get_ipython().run_line_magic('session', '--backend thread')"
    shared.ok(f"%%task --no-cache\nimport asyncio\nawait asyncio.sleep(0)\n{opening}")
    assert "backend   thread" in shared.ok("%session").stdout
    shared.ok("from nbflow.sessions import current_session")
    assert shared.value("current_session() is get_ipython().nbflow_state.session") is True
    shared.ok("%session --backend inline")


def interrupted(kernel: Any, cell: str) -> tuple[Any, float]:
    """Interrupt a cell at its first output; return its result and the seconds from then to its end."""
    began: list[float] = []

    def stop() -> None:
        began.append(time.monotonic())
        kernel.interrupt()

    result = kernel.run(cell, when=lambda result: "started" in result.stdout, then=stop)
    return result, time.monotonic() - began[0]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("import time\nprint('started', flush=True)\ntime.sleep(30)", id="sync"),
        pytest.param("import asyncio\nprint('started', flush=True)\nawait asyncio.sleep(30)", id="await"),
        pytest.param(
            "import asyncio, time\nawait asyncio.sleep(0)\nprint('started', flush=True)\ntime.sleep(30)",
            id="sync code in an awaiting cell",
        ),
    ],
)
def test_interrupt(shared: Any, body: str) -> None:
    """The stop button ends a task cell long before it would end; the next cell runs, and nothing was stored."""
    cell = f"%%task stopped\n{body}"
    result, took = interrupted(shared, cell)
    assert result.status == "error"
    assert took < 10, "a sleep of 30 s was not interrupted"
    assert shared.value("1 + 1") == 2
    assert "failed" in shared.ok("%flow why stopped").displays[-1]


def test_input_is_refused_under_the_cache(shared: Any) -> None:
    """`input()` in a cached cell is a clear refusal; a cell may still mention it."""
    result = shared.run("%%task\nanswer = input('name? ')")
    assert result.status == "error"
    assert "input() in a cached cell" in result.stderr
    shared.ok("%%task\nask = input\nn = 1")


def test_future_imports_reach_the_last_expression(shared: Any) -> None:
    """`from __future__` at the top of a body holds for all of it, on a hit as well."""
    cell = "%%task\nfrom __future__ import annotations\ndef typed(x: Unknown): return x\ntyped(1)"
    assert shared.ok(cell).result == "1"
    assert shared.ok(cell).result == "1"


def test_source_of_functions_is_found(shared: Any) -> None:
    """`inspect.getsource` works for a function of a task cell."""
    shared.ok("%%task\nimport inspect\ndef shown(x):\n    return x + 1\nplain = 1")
    assert shared.value("inspect.getsource(shown)") == "def shown(x):\n    return x + 1\n"


def test_cells_that_do_not_go_into_the_history(shared: Any) -> None:
    """A task cell that is not stored in the history runs and is cached."""
    cell = "%%task unseen\nunseen = 1"
    shared.ok(cell, store=False)
    assert shared.ok(cell, store=False).badges
