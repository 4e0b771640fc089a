"""`nbflow run` when somebody stops it, and in a terminal."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.cold,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals, pty and FIFOs"),
]

Book = Callable[..., Path]

# The cell says through a FIFO that it runs (and who it is), so that no test waits for a guessed time.
WAIT = """\
import os, threading
print('before')
try:
    with open('running', 'w') as fifo:
        fifo.write(str(os.getpid()))
    threading.Event().wait(60)
finally:
    print('cleaned')
"""
STUBBORN = """\
import os, signal, threading
signal.signal(signal.SIGINT, signal.SIG_IGN)
with open('running', 'w') as fifo:
    fifo.write(str(os.getpid()))
threading.Event().wait(60)
"""


@contextmanager
def started(folder: Path, environment: dict[str, str], *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run `nbflow run` and yield the process and its kernel's pid once the cell has said that it runs."""
    os.mkfifo(folder / "running")
    process = subprocess.Popen(
        [sys.executable, "-m", "nbflow", "run", "book.ipynb", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, int((folder / "running").read_text())
    finally:
        process.kill()
        process.communicate()


def gone(pid: int, within_s: float = 20.0) -> bool:
    """Wait until the process has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], within_s)[0])
    finally:
        os.close(handle)


def outputs(path: Path, number: int) -> str:
    cell = nbformat.read(path, as_version=4).cells[number]
    return "".join(out.get("text", out.get("ename", "")) for out in cell.outputs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_interrupt_ends_the_cell_cleanly(
    notebook: Book, tmp_path: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    """The cell's `finally` runs, no further cell starts, what there is is written, and the code is 130."""
    notebook(WAIT, "print('never')")
    with started(tmp_path, environment) as (process, kernel):
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "nbflow: interrupted in cell 1" in errors
    assert "Traceback" not in errors
    assert gone(kernel)
    book = tmp_path / "book.executed.ipynb"
    assert outputs(book, 0) == "before\ncleaned\nKeyboardInterrupt"
    assert outputs(book, 1) == ""


def test_two_interrupts_kill_a_kernel_that_will_not_listen(
    notebook: Book, tmp_path: Path, environment: dict[str, str]
) -> None:
    """The second Ctrl-C does not ask again; the notebook is written all the same."""
    notebook("print('first')", STUBBORN)
    with started(tmp_path, environment) as (process, kernel):
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "Ctrl-C again kills the kernel" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "kernel killed in cell 2" in errors
    assert gone(kernel)
    assert outputs(tmp_path / "book.executed.ipynb", 0) == "first\n"


def test_terminating_kills_a_stubborn_kernel_after_a_grace(
    notebook: Book, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Schedulers send SIGTERM and soon SIGKILL: a kernel that does not listen is not waited for."""
    notebook(STUBBORN)
    with started(tmp_path, environment) as (process, kernel):
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert gone(kernel)
    assert (tmp_path / "book.executed.ipynb").exists()


def test_a_cell_that_swallows_the_interrupt_is_still_the_last(
    notebook: Book, tmp_path: Path, environment: dict[str, str]
) -> None:
    """Catching KeyboardInterrupt saves the cell, not the run."""
    notebook(WAIT.replace("finally:", "except KeyboardInterrupt:"), "print('never')")
    with started(tmp_path, environment) as (process, _):
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert outputs(tmp_path / "book.executed.ipynb", 0) == "before\ncleaned\n"
    assert outputs(tmp_path / "book.executed.ipynb", 1) == ""


def test_a_killed_command_takes_its_kernel_along(notebook: Book, tmp_path: Path, environment: dict[str, str]) -> None:
    """After kill -9 no kernel goes on computing for nobody, and no half-written notebook is left."""
    notebook(WAIT)
    with started(tmp_path, environment) as (process, kernel):
        process.kill()
        process.communicate()
        assert gone(kernel)
    assert [path.name for path in tmp_path.glob("*.ipynb")] == ["book.ipynb"]


def test_a_terminal_gets_a_live_view_and_colours(notebook: Book, tmp_path: Path, environment: dict[str, str]) -> None:
    """The block is rewritten in place and gone at the end; the traceback keeps its colours."""
    pexpect = pytest.importorskip("pexpect")
    notebook("import threading\nthreading.Event().wait(0.5)", "1 / 0")
    env = {**environment, "TERM": "xterm-256color", "COLUMNS": "90"}
    env.pop("CI", None)
    child = pexpect.spawn(
        sys.executable, ["-m", "nbflow", "run", "book.ipynb"], cwd=str(tmp_path), env=env, encoding="utf-8", timeout=60
    )
    child.expect("starting the kernel")
    child.expect(r"cell 1/2 · import threading")
    child.expect(r"\x1b\[1A\r\x1b\[J")
    child.expect("ZeroDivisionError")
    child.expect("cell 2 failed: ZeroDivisionError")
    assert "\x1b[" in child.before
    child.expect("wrote book.executed.ipynb")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1


def test_ctrl_c_in_a_terminal_reaches_the_cell_once(
    notebook: Book, tmp_path: Path, environment: dict[str, str]
) -> None:
    """The kernel is not in the terminal's group: Ctrl-C means one interrupt, from us, and the cell ends cleanly."""
    pexpect = pytest.importorskip("pexpect")
    notebook(WAIT, "print('never')")
    os.mkfifo(tmp_path / "running")
    child = pexpect.spawn(
        sys.executable,
        ["-m", "nbflow", "run", "book.ipynb"],
        cwd=str(tmp_path),
        env=environment,
        encoding="utf-8",
        timeout=60,
    )
    (tmp_path / "running").read_text()
    child.sendintr()
    child.expect("interrupted in cell 1")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert outputs(tmp_path / "book.executed.ipynb", 0) == "before\ncleaned\nKeyboardInterrupt"
