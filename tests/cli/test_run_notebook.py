"""`nbflow run FILE.ipynb`: a real kernel, every way in which a run can end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

pytestmark = pytest.mark.kernel

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Book = Callable[..., Path]


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def text_of(path: Path, number: int) -> str:
    """Return what the cell at position `number` printed."""
    outputs = read(path).cells[number].outputs
    return "".join(out.text for out in outputs if out.output_type == "stream")


@pytest.mark.cold
def test_the_executed_copy_goes_beside_the_untouched_notebook(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """Outputs and numbers are in NAME.executed.ipynb; the notebook keeps every byte."""
    path = notebook("x = 20 + 1", "", "print(x)\nx * 2")
    before = path.read_bytes()
    done = cli("run", "book.ipynb")
    assert (done.returncode, path.read_bytes()) == (0, before)
    book = read(tmp_path / "book.executed.ipynb")
    assert text_of(tmp_path / "book.executed.ipynb", 2) == "21\n"
    assert book.cells[2].outputs[-1]["data"]["text/plain"] == "42"
    assert [cell.execution_count for cell in book.cells] == [1, None, 2]
    assert book.metadata["language_info"]["name"] == "python"
    nbformat.validate(book)
    assert done.stdout.startswith("no tasks · took ")
    assert done.stderr == "wrote book.executed.ipynb\n"


def test_output_names_file_or_folder_and_in_place_overwrites(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """The three places to which a run can be written."""
    path = notebook("print('hi')")
    (tmp_path / "out").mkdir()
    assert cli("run", "book.ipynb", "--output", "other.ipynb").returncode == 0
    assert cli("run", "book.ipynb", "--output", "out").returncode == 0
    assert text_of(path, 0) == ""
    assert cli("run", "book.ipynb", "--in-place").returncode == 0
    for found in (tmp_path / "other.ipynb", tmp_path / "out" / "book.ipynb", path):
        assert text_of(found, 0) == "hi\n"
    assert not (tmp_path / "book.executed.ipynb").exists()


@pytest.mark.cold
def test_parameters_reach_the_kernel(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """-p overrides the defaults, with their types, in a cell of its own."""
    notebook("# tags: parameters\nyear = 2013\nname = 'a'", "print(repr(year), repr(name))")
    done = cli("run", "book.ipynb", "-p", "year=2014", "-p", "name=7")
    assert done.returncode == 0, done.stderr
    assert text_of(tmp_path / "book.executed.ipynb", 2) == "2014 '7'\n"


def test_a_failing_cell_is_shown_with_its_number(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """Exit code 1, a traceback without colours, a line that sums it up; what ran is written, what did not is empty."""
    notebook("print('first')", "def f():\n    return 1 / 0\n\nf()", "print('never')")
    done = cli("run", "book.ipynb")
    assert done.returncode == 1
    assert "----> 4 f()" in done.stderr
    assert "\x1b" not in done.stderr
    assert "nbflow: cell 2 failed: ZeroDivisionError: division by zero\n" in done.stderr
    assert "nbclient" not in done.stderr
    book = tmp_path / "book.executed.ipynb"
    assert text_of(book, 0) == "first\n"
    assert read(book).cells[1].outputs[0].ename == "ZeroDivisionError"
    assert read(book).cells[2].outputs == []


def test_outputs_of_an_earlier_run_do_not_survive_a_failure(cli: Cli, notebook: Book) -> None:
    """In place, a cell behind the failure must not show what it showed last week."""
    path = notebook("import os\nassert not os.path.exists('fail')", "print('second')")
    cli("run", "book.ipynb", "--in-place")
    assert text_of(path, 1) == "second\n"
    (path.parent / "fail").touch()
    assert cli("run", "book.ipynb", "--in-place").returncode == 1
    assert text_of(path, 1) == ""


def test_cells_that_may_fail_or_are_skipped_do_not_stop_the_run(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """The tags `raises-exception` and `skip-execution` mean what they mean to nbclient."""
    notebook("# tags: raises-exception\n1 / 0", "# tags: skip-execution\nimport os; os._exit(1)", "print('on')")
    assert cli("run", "book.ipynb").returncode == 0
    assert text_of(tmp_path / "book.executed.ipynb", 2) == "on\n"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_dead_kernel_is_told_with_its_signal(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """Exit code 1, in which cell and by which signal; the cells before are written."""
    notebook("print('first')", f"import os\nos.kill(os.getpid(), {int(signal.SIGKILL)})")
    done = cli("run", "book.ipynb")
    assert done.returncode == 1
    assert "nbflow: the kernel died in cell 2 (SIGKILL, often: out of memory)\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert text_of(tmp_path / "book.executed.ipynb", 0) == "first\n"


def test_a_kernel_that_leaves_is_told_with_its_exit_code(cli: Cli, notebook: Book) -> None:
    """`os._exit` in a cell is no mystery either; what the process said last is part of the message."""
    notebook("import os\nos.write(2, b'disk on fire\\n')\nos._exit(7)")
    done = cli("run", "book.ipynb")
    assert done.returncode == 1
    assert "the kernel died in cell 1 (exit code 7)" in done.stderr


def test_a_cell_that_takes_too_long_is_stopped(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """--timeout interrupts the cell, so that its `finally` runs, and ends the run with exit code 1."""
    notebook("import threading\ntry:\n    threading.Event().wait(60)\nfinally:\n    print('cleaned')", "print('never')")
    done = cli("run", "book.ipynb", "--timeout", "0.5")
    assert done.returncode == 1
    assert "cell 1 took longer than 0.5 s (--timeout) and was stopped" in done.stderr
    assert text_of(tmp_path / "book.executed.ipynb", 0) == "cleaned\n"
    assert read(tmp_path / "book.executed.ipynb").cells[1].outputs == []


@pytest.mark.cold
def test_the_kernel_is_this_python_whatever_the_notebook_names(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """No kernelspec has to be installed; the notebook's own metadata stays as it is."""
    spec = {"name": "gone-env", "display_name": "Gone", "language": "python"}
    notebook("import sys\nprint(sys.executable)", kernelspec=spec)
    done = cli("run", "book.ipynb", JUPYTER_PATH=str(tmp_path), JUPYTER_NO_CONFIG="1")
    assert done.returncode == 0, done.stderr
    assert text_of(tmp_path / "book.executed.ipynb", 0).strip() == sys.executable
    assert read(tmp_path / "book.executed.ipynb").metadata["kernelspec"]["name"] == "gone-env"


def install_spec(folder: Path, name: str, argv: list[str], **more: object) -> None:
    place = folder / "kernels" / name
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": name, "language": "python", **more}))


@pytest.mark.cold
def test_another_kernel_can_be_asked_for(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """--kernel runs an installed kernelspec, with the environment that it declares."""
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    install_spec(tmp_path, "special", argv, env={"SPECIAL": "yes"})
    notebook("import os\nprint(os.environ['SPECIAL'])")
    done = cli("run", "book.ipynb", "--kernel", "special", JUPYTER_PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert text_of(tmp_path / "book.executed.ipynb", 0) == "yes\n"


@pytest.mark.cold
def test_kernels_that_are_not_there_or_do_not_start_return_3(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """One line with the reason; nothing is written."""
    complaint = "import sys; sys.exit('no module named everything')"
    install_spec(tmp_path, "broken", [sys.executable, "-c", complaint, "{connection_file}"])
    notebook("1")
    done = cli("run", "book.ipynb", "--kernel", "nowhere", JUPYTER_PATH=str(tmp_path))
    assert done.returncode == 3
    assert "there is no kernel named 'nowhere'; installed: " in done.stderr
    assert "broken" in done.stderr
    done = cli("run", "book.ipynb", "--kernel", "broken", JUPYTER_PATH=str(tmp_path))
    assert done.returncode == 3
    assert done.stderr == "nbflow: the kernel did not start: no module named everything\n"
    assert not (tmp_path / "book.executed.ipynb").exists()


@pytest.mark.cold
def test_what_a_kernel_writes_before_it_dies_is_read_whole(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """Nobody's place in the file, which processes share, is where the kernel writes next."""
    code = "import os, sys; print('*' * 99, file=sys.stderr, flush=True); os.lseek(2, 0, 0); sys.exit('no disk')"
    install_spec(tmp_path, "moved", [sys.executable, "-c", code, "{connection_file}"])
    notebook("1")
    done = cli("run", "book.ipynb", "--kernel", "moved", JUPYTER_PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (3, "nbflow: the kernel did not start: no disk\n")


@pytest.mark.parametrize("port", ["shell_port", "iopub_port"])
def test_a_port_that_somebody_took_in_between_is_no_failure(
    cli: Cli, notebook: Book, tmp_path: Path, port: str
) -> None:
    """Ports are chosen before the kernel has them: one that lost its port is started again, with other ports."""
    first, launch = tmp_path / "first", [sys.executable, "-m", "ipykernel_launcher", "-f"]
    code = (
        "import json, os, pathlib, socket, sys\n"
        f"first, command = pathlib.Path({str(first)!r}), [*{launch!r}, sys.argv[1]]\n"
        "if not first.exists():\n"
        "    first.touch()\n"
        f"    taken = socket.create_server(('127.0.0.1', json.load(open(sys.argv[1]))[{port!r}]))\n"
        "    taken.set_inheritable(True)\n"
        "os.execv(command[0], command)\n"
    )
    install_spec(tmp_path, "late", [sys.executable, "-c", code, "{connection_file}"])
    notebook("print('hello')")
    done = cli("run", "book.ipynb", "--kernel", "late", JUPYTER_PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert first.exists()
    assert text_of(tmp_path / "book.executed.ipynb", 0) == "hello\n"


def test_the_kernel_works_in_the_notebooks_folder(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """Relative paths mean what they mean in JupyterLab; --cwd changes that."""
    for name in ("sub", "elsewhere"):
        (tmp_path / name).mkdir()
    notebook("import os\nprint(os.getcwd())", name="sub/book.ipynb")
    cli("run", "sub/book.ipynb")
    assert text_of(tmp_path / "sub" / "book.executed.ipynb", 0).strip() == str(tmp_path / "sub")
    cli("run", "sub/book.ipynb", "--cwd", "elsewhere")
    assert text_of(tmp_path / "sub" / "book.executed.ipynb", 0).strip() == str(tmp_path / "elsewhere")


def test_options_travel_as_settings(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """--backend and --force are NBFLOW_ variables in the kernel; a panel is HTML, since nobody can click."""
    names = ["NBFLOW_BACKEND", "NBFLOW_FORCE", "NBFLOW_REPORT", "NBFLOW_PROGRESS"]
    notebook(f"import os\nprint([os.environ.get(name) for name in {names}])")
    cli("run", "book.ipynb", "--backend", "thread", "--force")
    assert text_of(tmp_path / "book.executed.ipynb", 0) == "['thread', '1', '1', 'html']\n"
    cli("run", "book.ipynb", NBFLOW_PROGRESS="off")
    assert text_of(tmp_path / "book.executed.ipynb", 0) == "[None, None, '1', 'off']\n"


def test_json_is_the_only_thing_on_stdout(cli: Cli, notebook: Book) -> None:
    """--json prints one object, also after a failure, with the error in it."""
    notebook("# tags: parameters\nx = 1", "1 / 0")
    done = cli("run", "book.ipynb", "--json", "-q", "-p", "x=2")
    found = json.loads(done.stdout)
    assert done.returncode == found["exit_code"] == 1
    assert (found["status"], found["cell"]) == ("failed", 3)
    assert found["error"] == "cell 3 failed: ZeroDivisionError: division by zero"
    assert found["parameters"] == {"x": 2}
    assert found["output"] == "book.executed.ipynb"
    assert found["tasks"] == []


def test_quiet_says_nothing_when_all_is_well(cli: Cli, notebook: Book) -> None:
    """-q leaves both streams empty."""
    notebook("print('hello')")
    done = cli("run", "book.ipynb", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_beginners_mistakes_get_an_answer(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """A magic before the extension is loaded; a typo in its options; a forgotten await."""
    notebook("%%task numbers\nx = 1", "%load_ext nbflow")
    done = cli("run", "book.ipynb")
    assert done.returncode == 1
    assert "`%load_ext nbflow` has to run before it: put that into the first cell." in done.stderr
    notebook(
        "%load_ext nbflow\nfrom nbflow import task",
        "@task\nasync def fetch():\n    return 1",
        "rows = fetch()",
        "# tags: raises-exception\nlen(rows)",
        "rows.close()",
    )
    assert cli("run", "book.ipynb").returncode == 0
    book = read(tmp_path / "book.executed.ipynb")
    assert [out.text for out in book.cells[2].outputs] == [
        "nbflow: `rows` is a coroutine, nothing has run yet; `await rows` gives its result.\n"
    ]
    assert "put `await` before" in text_of(tmp_path / "book.executed.ipynb", 3)
    notebook("%load_ext nbflow", "%%task numbers --tll 1d\nx = 1")
    assert "--tll 1d; did you mean --ttl?" in cli("run", "book.ipynb").stderr


def test_html_is_a_report_that_needs_no_other_file(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """--html writes summary, failures, tasks, timeline, graph and cells, also after a failure."""
    notebook(
        "%load_ext nbflow\nimport nbflow",
        "%%task numbers\nnumbers = [1, 2]",
        "print('on the page', numbers)",
        "def f(d):\n    return d['key']\nf({})",
        "# never run",
    )
    done = cli("run", "book.ipynb", "--html")
    assert done.returncode == 1
    assert "wrote book.executed.ipynb and book.executed.html" in done.stderr
    page = (tmp_path / "book.executed.html").read_text(encoding="utf-8")
    for part in ("Failures", "Tasks", "Timeline", "Graph", "Cells"):
        assert f"<h2>{part}</h2>" in page
    assert "cell 4 failed: KeyError: &#x27;key&#x27;" in page
    assert "----&gt; 2     return d[&#x27;key&#x27;]" in page
    assert "on the page [1, 2]" in page
    assert "2: numbers → 3: print(" in page
    assert "not run" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)|<script|@import|\x1b", page)


def test_cells_can_await_and_updates_of_displays_arrive(cli: Cli, notebook: Book, tmp_path: Path) -> None:
    """nbclient's own abilities are not lost: top-level await, and display updates from a later cell."""
    notebook(
        "import asyncio\nprint(await asyncio.sleep(0, 'awaited'))",
        "shown = display('old', display_id=True)",
        "shown.update('new')",
    )
    assert cli("run", "book.ipynb").returncode == 0
    book = read(tmp_path / "book.executed.ipynb")
    assert text_of(tmp_path / "book.executed.ipynb", 0) == "awaited\n"
    assert book.cells[1].outputs[0]["data"]["text/plain"] == "'new'"
