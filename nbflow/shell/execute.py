"""Running a program to its end from a call, in a thread or on a loop, with its output told line by line.

Whatever ends the wait (an interrupt, a cancellation, a timeout) ends the program. An exit code other than 0 becomes an
error that names the command and shows the end of what it said.
"""

from __future__ import annotations

import shlex
import threading
from dataclasses import dataclass

from nbflow._clock import SYSTEM_CLOCK
from nbflow.errors import CommandError, DefinitionError, TaskTimeoutError
from nbflow.runtime.current import Call, current_call
from nbflow.runtime.emit import emit
from nbflow.shell.process import Program, Running

__all__ = ["ShellResult", "execute", "execute_async", "shown"]

_WAKE_S = 0.02
"""How long to wait at a time: what is to stop a thread strikes between two waits."""

_TAIL_LINES = 20
"""How many lines of stderr an error shows."""


@dataclass(frozen=True, slots=True)
class ShellResult:
    """What came of a command.

    Attributes:
        args: The program and its arguments.
        returncode: Its exit code; the negative number of the signal that ended it.
        stdout, stderr: What it wrote, as text; None where that went to a file.
        duration_s: Seconds that it took.
    """

    args: tuple[str, ...]
    returncode: int
    stdout: str | None
    stderr: str | None
    duration_s: float


def execute(program: Program, timeout: float | None, check: bool) -> ShellResult:
    """Run a program in this thread.

    Args:
        program: What to run.
        timeout: Seconds that it may take; None for any time.
        check: Whether an exit code other than 0 is an error.

    Returns:
        Its result.

    Raises:
        CommandError: It could not be started, or (`check`) failed.
        TaskTimeoutError: It passed `timeout`, and was killed.
    """
    __tracebackhide__ = True
    _check_timeout(timeout)
    lines = _Lines(current_call())
    running = Running(program, lines.feed if lines.wanted else None)
    began = SYSTEM_CLOCK.monotonic()
    try:
        running.start()
        while not running.over.wait(_WAKE_S):
            if timeout is not None and SYSTEM_CLOCK.monotonic() - began >= timeout:
                raise _too_slow(program, timeout)
    except BaseException:
        running.stop()
        raise
    finally:
        lines.close()
    return _outcome(running, SYSTEM_CLOCK.monotonic() - began, check)


async def execute_async(program: Program, timeout: float | None, check: bool) -> ShellResult:
    """Run a program and await its end on the running loop; see `execute`."""
    __tracebackhide__ = True
    import asyncio

    _check_timeout(timeout)
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def tell() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(over.set)

    lines = _Lines(current_call())
    running = Running(program, lines.feed if lines.wanted else None, tell)
    began = SYSTEM_CLOCK.monotonic()
    try:
        running.start()
        async with asyncio.timeout(timeout):
            await over.wait()
    except BaseException as error:
        threading.Thread(target=running.stop, name="nbflow-shell-stop", daemon=True).start()
        await over.wait()
        if isinstance(error, TimeoutError) and timeout is not None:
            raise _too_slow(program, timeout) from None
        raise
    finally:
        lines.close()
    return _outcome(running, SYSTEM_CLOCK.monotonic() - began, check)


def _outcome(running: Running, duration_s: float, check: bool) -> ShellResult:
    """Return the result of a program that is over, or raise what became of it."""
    program, code = running.program, running.returncode
    if code is None:
        why = running.error.strerror if isinstance(running.error, OSError) else None
        where = f" in {program.cwd}" if program.cwd else ""
        raise CommandError(
            f"{shown(program.args)} could not be started{where}: {why or running.error}.",
            command=program.args,
            returncode=None,
            stdout=None,
            stderr=None,
        ) from running.error
    result = ShellResult(program.args, code, running.text("stdout"), running.text("stderr"), duration_s)
    if check and code:
        said = [line for line in (result.stderr or "").splitlines() if line.strip()][-_TAIL_LINES:]
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        told = f"; its error output is in {program.stderr}" if program.stderr else ""
        raise CommandError(
            "\n".join((f"{shown(program.args)} {how}{told}{':' if said else '.'}", *said)),
            command=program.args,
            returncode=code,
            stdout=result.stdout,
            stderr=result.stderr,
        )
    return result


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0):
        raise DefinitionError(f"timeout={timeout!r} must be a number of seconds > 0, or None.")


def _too_slow(program: Program, timeout: float) -> TaskTimeoutError:
    text = f"{shown(program.args)} passed its timeout of {timeout:g} s and was killed."
    return TaskTimeoutError(text, task=program.args[0], timeout_s=timeout, stopped=True)


def shown(args: tuple[str, ...], limit: int = 200) -> str:
    """Return a command as one would type it, at most `limit` characters."""
    text = shlex.join(args)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class _Lines:
    """Tells the lines that a command prints as events of its call; of very many only some, and how many were left out.

    A burst of lines is told at once; in the long run at most `_RATE` lines a second.
    """

    _BURST, _RATE = 20.0, 40.0

    def __init__(self, call: Call | None) -> None:
        self.wanted = call is not None and call.session.listening
        self._call = call
        self._lock = threading.Lock()
        self._begun: dict[str, str] = {"stdout": "", "stderr": ""}
        self._left_out = 0
        self._allowed = self._BURST
        self._since = SYSTEM_CLOCK.monotonic()

    def feed(self, stream: str, text: str) -> None:
        """Take text as it comes."""
        with self._lock:
            *lines, self._begun[stream] = (self._begun[stream] + text).split("\n")
            told = [line for line in lines if self._may_tell()]
        for line in told:
            self._tell(stream, line)

    def close(self) -> None:
        """Tell what has no line end, and how many lines were left out."""
        if not self.wanted:
            return
        for stream, text in self._begun.items():
            if text:
                self._tell(stream, text)
        if self._left_out:
            self._tell("stderr", f"… {self._left_out} lines were left out here; the result has all of them")

    def _may_tell(self) -> bool:
        now = SYSTEM_CLOCK.monotonic()
        self._allowed = min(self._BURST, self._allowed + self._RATE * (now - self._since))
        self._since = now
        if self._allowed < 1:
            self._left_out += 1
            return False
        self._allowed -= 1
        return True

    def _tell(self, stream: str, line: str) -> None:
        if self._call is not None:
            emit(self._call, "LogLine", {"text": line.rstrip("\r"), "stream": stream})
