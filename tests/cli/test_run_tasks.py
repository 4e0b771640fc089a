"""`nbflow run` and tasks: what is computed once stays computed, whatever happens to the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and FIFOs")]

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Book = Callable[..., Path]

# Every body leaves a line in the file `bodies`; that, not time, tells whether it was run.
SETUP = """\
%load_ext nbflow
import os
from nbflow import gather_tasks, map_tasks, task

def note(text):
    with open('bodies', 'a') as file:
        file.write(text + '\\n')

@task(cache=True)
def square(x):
    note(f'square {x}')
    return x * x

@task(cache=True)
async def shout(word):
    note(f'shout {word}')
    return word.upper()
"""
CELL = """\
%%task numbers
note('numbers')
print('made')
numbers = list(range(4))
"""
WORK = """\
squares = map_tasks(square, numbers, backend='thread')
words = await gather_tasks(shout, ['a', 'b'])
print(squares, words)
"""


def bodies(folder: Path) -> list[str]:
    """Return what has been run since the last time, and forget it."""
    path = folder / "bodies"
    found = sorted(path.read_text().split("\n")[:-1]) if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def tasks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """Return the tasks that `--json` told of, by name."""
    assert done.returncode == 0, done.stderr
    return {row["task"]: row for row in json.loads(done.stdout)["tasks"]}


def printed(path: Path, number: int) -> str:
    cell = nbformat.read(path, as_version=4).cells[number]
    return "".join(out.get("text", "") for out in cell.outputs if out.output_type == "stream")


@pytest.mark.cold
def test_the_second_run_computes_nothing_and_shows_the_same(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """Cells, maps and gathers of coroutines come from the cache, with their outputs, in a new kernel."""
    notebook(SETUP, CELL, WORK)
    first = cli("run", "book.ipynb")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1].startswith("3 tasks: 3 ran · took ")
    assert len(bodies(tmp_path)) == 7
    before = [printed(tmp_path / "book.executed.ipynb", n) for n in (1, 2)]
    assert before == ["made\n", "[0, 1, 4, 9] ['A', 'B']\n"]
    second = cli("run", "book.ipynb")
    assert second.stdout.splitlines()[-1].startswith("3 tasks: 3 cached · saved ")
    assert bodies(tmp_path) == []
    assert [printed(tmp_path / "book.executed.ipynb", n) for n in (1, 2)] == before


@pytest.mark.slow
def test_force_computes_everything_anew(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """--force runs every body and overwrites what was stored."""
    notebook(SETUP, CELL, WORK)
    cli("run", "book.ipynb")
    bodies(tmp_path)
    found = tasks(cli("run", "book.ipynb", "--force", "--json"))
    assert len(bodies(tmp_path)) == 7
    assert (found["square"]["ran"], found["square"]["cached"]) == (4, 0)
    assert tasks(cli("run", "book.ipynb", "--json"))["square"]["cached"] == 4


def test_parameters_recompute_only_what_depends_on_them(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """Another value of a parameter runs the calls that are new; the rest is cached."""
    work = "%%task total\nnote('total')\ntotal = sum(map_tasks(square, range(top)))\nprint(total)"
    notebook(SETUP, "# tags: parameters\ntop = 3", CELL, work)
    cli("run", "book.ipynb")
    bodies(tmp_path)
    found = tasks(cli("run", "book.ipynb", "-p", "top=5", "--json"))
    assert bodies(tmp_path) == ["square 3", "square 4", "total"]
    assert (found["numbers"]["cached"], found["total"]["ran"]) == (1, 1)
    assert (found["square"]["ran"], found["square"]["cached"], found["square"]["nested"]) == (2, 3, True)
    assert "top" in found["total"]["why"]
    assert printed(tmp_path / "book.executed.ipynb", 4) == "30\n"


def test_a_killed_run_goes_on_where_it_stopped(
    cli: Cli, notebook: Book, tmp_path: Path, environment: dict[str, str]
) -> None:
    """kill -9 in the middle of a map costs the item that was running, nothing else."""
    slow = """\
import threading
from nbflow.sessions import current_session

def pause(x):
    if x == 2 and not os.path.exists('go'):
        current_session().flush()  # cheap results may wait for some 50 ms to be written together
        with open('running', 'w') as fifo:
            fifo.write(str(os.getpid()))
        threading.Event().wait(60)

@task(cache=True)
def step(x):
    note(f'step {x}')
    pause(x)
    return x

print(map_tasks(step, range(5), backend='inline'))
"""
    notebook(SETUP, CELL, slow)
    os.mkfifo(tmp_path / "running")
    process = subprocess.Popen(
        [sys.executable, "-m", "nbflow", "run", "book.ipynb", "-q"], cwd=tmp_path, env=environment
    )
    kernel = int((tmp_path / "running").read_text())
    handle = os.pidfd_open(kernel)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)
    assert bodies(tmp_path) == ["numbers", "step 0", "step 1", "step 2"]
    (tmp_path / "go").touch()
    found = tasks(cli("run", "book.ipynb", "--json"))
    assert bodies(tmp_path) == ["step 2", "step 3", "step 4"]
    assert (found["step"]["cached"], found["step"]["ran"], found["numbers"]["cached"]) == (2, 3, 1)


def test_an_interrupted_map_keeps_what_it_has(
    cli: Cli, notebook: Book, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Ctrl-C: exit code 130, a table of what there is, and the next run does only the rest."""
    slow = """\
import threading

def pause(x):
    if x == 3 and not os.path.exists('go'):
        with open('running', 'w') as fifo:
            fifo.write('x')
        threading.Event().wait(60)

@task(cache=True)
def step(x):
    note(f'step {x}')
    pause(x)
    return x

print(map_tasks(step, range(5), backend='inline'))
"""
    notebook(SETUP, slow)
    os.mkfifo(tmp_path / "running")
    process = subprocess.Popen(
        [sys.executable, "-m", "nbflow", "run", "book.ipynb"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    (tmp_path / "running").read_text()
    process.send_signal(signal.SIGINT)
    table, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "3 ran, 2 cancelled" in table
    assert "interrupted in cell 2; what was cached is not computed again: the same command goes on from there" in errors
    bodies(tmp_path)
    (tmp_path / "go").touch()
    assert tasks(cli("run", "book.ipynb", "--json"))["step"]["cached"] == 3
    assert bodies(tmp_path) == ["step 3", "step 4"]


def test_failed_tasks_are_in_the_table(cli: Cli, notebook: Book) -> None:
    """A failing item ends the map and the run; the table says which task it was and why."""
    fail = "@task\ndef parse(text):\n    return int(text)\n\nmap_tasks(parse, ['1', 'x'], backend='inline')"
    notebook(SETUP, CELL, fail)
    done = cli("run", "book.ipynb")
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith("parse"))
    assert "1 ran, 1 failed" in line
    assert "ValueError: invalid literal for int()" in line
    assert done.stdout.splitlines()[-1].startswith("2 tasks: 1 ran, 1 failed · took ")
    assert "cell 3 failed: ValueError: invalid literal" in done.stderr
    assert "return int(text)" in done.stderr


def test_failures_that_the_notebook_handles_do_not_fail_the_run(cli: Cli, notebook: Book) -> None:
    """Collected errors are the author's intent: exit code 0, but the table does not hide them."""
    collect = "@task\ndef parse(text):\n    return int(text)\n\nmap_tasks(parse, ['1', 'x'], on_error='collect');"
    notebook(SETUP, collect)
    done = cli("run", "book.ipynb")
    assert done.returncode == 0, done.stderr
    assert "1 ran, 1 failed" in done.stdout


def test_the_report_leaves_no_trace_in_the_notebook(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """Neither comms nor widget state are stored; the file is what JupyterLab would have saved."""
    notebook(SETUP, CELL, WORK)
    cli("run", "book.ipynb")
    text = (tmp_path / "book.executed.ipynb").read_text()
    assert "nbflow.report" not in text
    assert "widget-state" not in text
    assert "widget-view" not in text


def test_a_session_in_the_notebook_is_reported_too(cli: Cli, notebook: Book) -> None:
    """`%session` replaces the notebook's session, and `with session()` opens another: tasks of both are counted."""
    notebook(
        SETUP,
        "%session --backend thread\nsquare(3)",
        "from nbflow import session\nwith session(backend='inline'):\n    square(4)",
    )
    found = json.loads(cli("run", "book.ipynb", "--json").stdout)["tasks"]
    assert [(row["task"], row["cell"], row["ran"]) for row in found] == [
        ("square", "cell 2", 1),
        ("square", "cell 3", 1),
    ]


def test_many_tasks_make_few_messages(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """Ten thousand calls are one row; what is sent depends on time, not on their number."""
    count = """\
import nbflow.notebook.report as report
sent = []
comm = get_ipython().nbflow_reporter._comm
send = comm.send
comm.send = lambda data: (sent.append(len(data['rows'])), send(data))
"""
    notebook(
        SETUP, count, "@task\ndef tiny(x):\n    return x\n\nfor n in range(10_000):\n    tiny(n)", "print(len(sent))"
    )
    done = cli("run", "book.ipynb", "--json")
    assert tasks(done)["tiny"]["ran"] == 10_000
    seconds = json.loads(done.stdout)["took_s"]
    assert int(printed(tmp_path / "book.executed.ipynb", 3)) <= 10 * seconds + 4
