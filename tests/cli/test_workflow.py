"""`nbflow list`, `nbflow describe` and `nbflow run` of workflows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

FLOWS = '''
"""Flows."""
import os
from pathlib import Path
from nbflow import map_tasks, task, workflow

@task(cache=True)
def square(x: int) -> int:
    with open("bodies", "a") as file:
        file.write("x")
    return x * x

@workflow
def total(n: int, scale: float = 1.0, tag: str | None = None) -> float:
    """Add squares.

    All of them at once.
    """
    return sum(map_tasks(square, range(n), backend="thread")) * scale

@workflow(name="ask", description="Ask somebody")
async def question(who: str = "you") -> str:
    return f"asked {who}"

@workflow
def broken() -> None:
    raise ValueError("first line\\nsecond line")

@workflow
def endless() -> None:
    import threading
    print("started", flush=True)
    threading.Event().wait(60)

@workflow
def deaf() -> None:
    import threading
    while True:
        try:
            print("started", flush=True)
            threading.Event().wait(60)
        except KeyboardInterrupt:
            pass

@workflow
def settings() -> str:
    from nbflow.sessions import current_session
    return current_session().settings.backend

again = total
not_a_workflow = 3
'''


@pytest.fixture
def flows(tmp_path: Path) -> Path:
    path = tmp_path / "flows.py"
    path.write_text(FLOWS)
    return path


@pytest.mark.usefixtures("flows")
@pytest.mark.parametrize("target", ["flows.py", "flows"])
def test_list_shows_each_workflow_once(cli: Cli, target: str) -> None:
    """A module and a file are listed alike: target, parameters, first line of the description."""
    done = cli("list", target)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[2].split("  ")[0] == f"{target}:total"
    assert lines[2].endswith("Add squares.")
    assert [line.split()[0].partition(":")[2] for line in lines[2:]] == [
        "total",
        "question",
        "broken",
        "endless",
        "deaf",
        "settings",
    ]


@pytest.mark.usefixtures("flows")
def test_list_as_json(cli: Cli) -> None:
    """Programs get the same facts."""
    found = json.loads(cli("list", "flows.py", "--json").stdout)
    assert found[1] == {
        "target": "flows.py:question",
        "name": "ask",
        "signature": "(who: 'str' = 'you') -> 'str'".replace("'str'", "str"),
        "async": True,
        "description": "Ask somebody",
    }


def test_list_of_nothing_says_so(cli: Cli, tmp_path: Path) -> None:
    """A module without workflows is no error, but not silent either."""
    (tmp_path / "empty.py").write_text("x = 1\n")
    done = cli("list", "empty.py")
    assert (done.returncode, done.stdout) == (0, "")
    assert "has no workflows" in done.stderr


def test_a_module_that_cannot_be_imported_says_where(cli: Cli, tmp_path: Path) -> None:
    """Errors in the user's module are one line with file and line number, not a traceback of ours."""
    (tmp_path / "bad.py").write_text("x = 1\ny = 1 / 0\n")
    done = cli("list", "bad.py")
    assert done.returncode == 2
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "bad.py:2" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "needs.py").write_text("import surely_not_there\n")
    assert "No module named 'surely_not_there'" in cli("list", "needs").stderr


@pytest.mark.usefixtures("flows")
def test_describe_shows_parameters_and_documentation(cli: Cli) -> None:
    """Types, defaults, the whole docstring, and a command to copy."""
    text = cli("describe", "flows.py:total").stdout
    assert "All of them at once." in text
    assert [line.split() for line in text.splitlines() if line.startswith("scale")] == [["scale", "float", "1.0"]]
    assert "run it: nbflow run flows.py:total -p n=…" in text


def test_describe_shows_the_parameters_of_a_notebook(cli: Cli, notebook: Callable[..., Path]) -> None:
    """For a notebook: what -p can set."""
    notebook("# tags: parameters\nyear = 2013")
    text = cli("describe", "book.ipynb").stdout
    assert [line.split() for line in text.splitlines() if line.startswith("year")] == [["year", "int", "2013"]]


@pytest.mark.usefixtures("flows")
@pytest.mark.parametrize("target", ["flows.py:total", "flows:total", "flows.total"])
def test_run_prints_table_and_result(cli: Cli, target: str) -> None:
    """A workflow's result is printed; its tasks are counted."""
    done = cli("run", target, "-p", "n=4", "-p", "scale=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "28.0"
    assert "4 items" in done.stdout


@pytest.mark.usefixtures("flows")
def test_second_run_is_cached_and_force_computes_anew(cli: Cli, tmp_path: Path) -> None:
    """Results outlive the process; --force overwrites them; bodies are counted by what they write."""
    bodies = tmp_path / "bodies"
    cli("run", "flows.py:total", "-p", "n=4")
    second = cli("run", "flows.py:total", "-p", "n=4")
    assert bodies.stat().st_size == 4
    assert "1 task: 1 cached" in second.stdout
    cli("run", "flows.py:total", "-p", "n=4", "--force")
    assert bodies.stat().st_size == 8


@pytest.mark.usefixtures("flows")
def test_run_awaits_async_workflows(cli: Cli) -> None:
    """An async workflow is run to its end; text results are printed as they are."""
    done = cli("run", "flows.py:question", "-p", "who=her")
    assert done.stdout.splitlines()[-1] == "asked her"


@pytest.mark.usefixtures("flows")
def test_backend_is_passed_on(cli: Cli) -> None:
    """--backend becomes the session's default."""
    assert cli("run", "flows.py:settings", "--backend", "thread").stdout.splitlines()[-1] == "thread"


@pytest.mark.usefixtures("flows")
def test_run_as_json(cli: Cli) -> None:
    """One JSON object with result, tasks and times."""
    found = json.loads(cli("run", "flows.py:total", "-p", "n=3", "--json").stdout)
    assert (found["result"], found["status"], found["exit_code"]) == (5.0, "ok", 0)
    assert found["tasks"][0]["total"] == 3


@pytest.mark.usefixtures("flows")
def test_a_failing_workflow_shows_the_users_frames(cli: Cli) -> None:
    """Exit code 1, a traceback without frames of ours, and one line that sums it up."""
    done = cli("run", "flows.py:broken")
    assert done.returncode == 1
    assert 'raise ValueError("first line' in done.stderr
    assert done.stderr.splitlines()[-1] == "nbflow: broken failed: ValueError: first line"
    assert "nbflow/cli" not in done.stderr


@pytest.mark.usefixtures("flows")
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_workflow_ends_with_130(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    """Ctrl-C and a polite kill end the run, say so, and return 130."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nbflow", "run", "flows.py:endless"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.endswith("nbflow: endless was interrupted\n")
    assert "Traceback" not in errors


@pytest.mark.usefixtures("flows")
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_second_sigterm_ends_a_workflow_that_does_not_listen(tmp_path: Path, environment: dict[str, str]) -> None:
    """Schedulers need not wait until they may send SIGKILL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nbflow", "run", "flows.py:deaf"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline() == "started\n"
        os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "nbflow: killed\n")


@pytest.mark.usefixtures("flows")
def test_an_unknown_workflow_lists_the_known_ones(cli: Cli) -> None:
    """A typing error is answered with what there is."""
    done = cli("run", "flows.py:totl")
    assert done.returncode == 2
    assert "it has: total, question, broken" in done.stderr
    assert "flows.py has no workflow named not_a_workflow" in cli("run", "flows.py:not_a_workflow").stderr


@pytest.mark.usefixtures("flows")
def test_html_shows_what_called_what(cli: Cli, tmp_path: Path) -> None:
    """A report in the working directory, named after the workflow, with parameters and result."""
    done = cli("run", "flows:total", "-p", "n=3", "--html")
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("wrote total.html\n")
    page = (tmp_path / "total.html").read_text(encoding="utf-8")
    assert "total → square: ran" in page
    assert '<pre class="out">5.0</pre>' in page
    assert "<code>3</code>" in page
    done = cli("run", "flows:broken", "--html")
    assert done.returncode == 1
    assert ", in broken" in (tmp_path / "broken.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("flows")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu", "flows:total"], "there is no command rnu; did you mean run?"),
        (["run", "flows:total", "--bakend", "thread"], "there is no option --bakend; did you mean --backend?"),
        (
            ["run", "flows:total", "-p", "n=1", "--backend", "thred"],
            "There is no backend 'thred'; did you mean thread? Known: dask",
        ),
    ],
)
def test_typing_mistakes_are_told(cli: Cli, words: list[str], message: str) -> None:
    """What was meant, or what there is."""
    done = cli(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
