"""Running a program so that it, and everything that it started, can be ended at any time.

A `Running` starts the program in a process group of its own, from a helper thread: what interrupts the caller, at
whatever moment, cannot lose the program. Its output is read by threads as it comes. When the program has ended, or was
told to end, the rest of its group is killed; only what made a session of its own lives on. The group is also killed
when this process is.
"""

from __future__ import annotations

import codecs
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from nbflow._shield import shielded
from nbflow.shell.keeper import forget, keep

__all__ = ["Program", "Running"]

_GRACE_S = 0.05
"""How long a program that was told to end may take to do so, before it is killed."""

_DRAIN_S = 1.0
"""How long output is waited for after the program ended: something that left its group may hold the pipe."""

_POSIX = hasattr(os, "killpg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run.

    Args:
        args: The program and its arguments; no shell is involved.
        cwd: Its working directory; None for that of this process.
        env: Its environment; None for that of this process.
        input: Bytes for its standard input; None for none (then reading finds the end at once).
        stdout, stderr: Files to write its output to as it comes, instead of keeping it; seen from `cwd`.
    """

    args: tuple[str, ...]
    cwd: str | None = None
    env: Mapping[str, str] | None = None
    input: bytes | None = None
    stdout: str | None = None
    stderr: str | None = None


class Running:
    """A program that runs; `start` it, wait for `over`, and read the outcome.

    Args:
        program: What to run.
        on_output: Called with "stdout" or "stderr" and text as it comes, from two threads; must not raise.
        on_over: Called from the helper thread when `over` has been set; must not raise.

    Attributes:
        over: Set when the program has ended, its group is gone and its output is complete.
        returncode: Its exit code, or the negative number of the signal that ended it.
        error: Why it could not be started, if it could not.
    """

    def __init__(
        self,
        program: Program,
        on_output: Callable[[str, str], None] | None = None,
        on_over: Callable[[], object] | None = None,
    ) -> None:
        self.program = program
        self.over = threading.Event()
        self.returncode: int | None = None
        self.error: BaseException | None = None
        self._on_output = on_output
        self._on_over = on_over
        self._lock = threading.Lock()  # guards the two below, and that nobody signals a group that was reaped
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._kept: dict[str, list[str]] = {"stdout": [], "stderr": []}

    def start(self) -> None:
        """Start the program; returns at once."""
        shielded(threading.Thread(target=self._run, name="nbflow-shell", daemon=True).start)

    def text(self, stream: str) -> str | None:
        """Return what the program wrote to "stdout" or "stderr"; None where it went to a file."""
        return None if getattr(self.program, stream) is not None else "".join(self._kept[stream])

    def stop(self) -> None:
        """End the program and its group: politely at first, by force if it is not over within 50 ms; waits so long."""
        try:
            self._signal("SIGTERM")
            self.over.wait(_GRACE_S)
        finally:
            self._signal("SIGKILL")

    def _signal(self, name: str) -> None:
        with self._lock:
            self._stopping = True
            if self._process is not None:
                _end_group(self._process.pid, name)

    # -- in the helper thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        files: dict[str, IO[bytes]] = {}
        try:
            for stream in ("stdout", "stderr"):
                if (path := getattr(self.program, stream)) is not None:
                    place = os.path.join(self.program.cwd or "", path)
                    files[stream] = open(place, "wb")  # noqa: SIM115 - closed below, whatever happens
            process = self._spawn()
            if process is not None:
                self._attend(process, files)
        except BaseException as error:
            self.error = error
        finally:
            for file in files.values():
                file.close()
            self.over.set()
            if self._on_over is not None:
                self._on_over()

    def _spawn(self) -> subprocess.Popen[bytes] | None:
        """Start the process; None if it was told to end before."""
        program = self.program
        own_group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            own_group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        with self._lock:
            if self._stopping:
                return None
            process: Any = subprocess.Popen(
                program.args,
                cwd=program.cwd,
                env=None if program.env is None else dict(program.env),
                stdin=subprocess.DEVNULL if program.input is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                **own_group,
            )
            self._process = process
            if _POSIX:
                keep(process.pid)
            return self._process

    def _attend(self, process: subprocess.Popen[bytes], files: Mapping[str, IO[bytes]]) -> None:
        """Feed and read the process until it has ended, and see to it that its group has."""
        threads = [
            threading.Thread(target=self._read, args=(stream, getattr(process, stream), files.get(stream)), daemon=True)
            for stream in ("stdout", "stderr")
        ]
        if process.stdin is not None:
            threads.append(threading.Thread(target=_feed, args=(process.stdin, self.program.input), daemon=True))
        for thread in threads:
            thread.name = "nbflow-shell-pipe"
            thread.start()
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # not reaped, so that its number stays taken
        else:
            process.wait()
        with self._lock:
            _end_group(process.pid, "SIGKILL")
            forget(process.pid)
            self.returncode = process.wait()
            self._process = None
        for thread in threads:
            thread.join(_DRAIN_S)

    def _read(self, stream: str, pipe: IO[bytes], file: IO[bytes] | None) -> None:
        """Take the output of one stream until its end."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        with pipe:
            while True:
                data = os.read(pipe.fileno(), 65536)
                text = decoder.decode(data, final=not data)
                if text and file is None:
                    self._kept[stream].append(text)
                if text and self._on_output is not None:
                    self._on_output(stream, text)
                if not data:
                    return
                if file is not None and not file.closed:
                    file.write(data)
                    file.flush()


def _feed(pipe: IO[bytes], data: bytes | None) -> None:
    """Give the process its input; one that does not want all of it is no error."""
    try:
        with pipe:
            pipe.write(data or b"")
    except OSError:
        pass


def _end_group(pid: int, name: str) -> None:
    """Send a signal to a process group; one that is gone is fine."""
    if _POSIX:
        try:
            os.killpg(pid, getattr(signal, name))
        except (ProcessLookupError, PermissionError):  # macOS says the latter of zombies
            pass
    elif name == "SIGKILL":
        command = ["taskkill", "/T", "/F", "/PID", str(pid)]
        subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
