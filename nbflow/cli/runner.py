"""Drives a real kernel through a notebook; nbclient does the talking.

The kernel is the Python that runs this code (no installed kernelspec is needed), in the notebook's folder. What its
tasks do arrives as comm messages (`nbflow.notebook.report`) and goes to a listener, as do starts and ends of cells.
Every way in which a run can end is an `Outcome`, never an exception: the caller always gets the notebook as far as it
came.

Signals: the first Ctrl-C (or SIGTERM) interrupts the running cell, which ends its tasks cleanly, and no further cell
starts. The second one kills the kernel. SIGTERM, which is usually followed by SIGKILL, waits a few seconds only.
"""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from nbflow._util import format_duration
from nbflow.cli.notebooks import executable_cells
from nbflow.notebook.report import COMM_TARGET

__all__ = ["Listener", "Outcome", "Runner", "Status"]

_OWN = "python3"
_TERM_GRACE_S = 5.0
_TIMEOUT_NAME = "CellTimeoutError"
_OUR_MAGIC = re.compile(r"magic (?:function )?`%%?(?:task|flow|session)` not found")

_log = logging.getLogger("nbflow.cli.runner")
_log.addHandler(logging.NullHandler())
_log.propagate = False


class Status(Enum):
    """How a run ended."""

    OK = "ok"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    DIED = "kernel died"
    NO_KERNEL = "no kernel"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: at which cell (the number in `In [n]`), with which error, and what to tell the user."""

    status: Status
    cell: int | None = None
    message: str = ""
    traceback: str = ""


class Listener(Protocol):
    """Who wants to know how a run goes; called on the runner's thread, so calls must be quick."""

    def cell_started(self, number: int, total: int, source: str) -> None: ...
    def cell_ended(self, number: int) -> None: ...
    def report(self, rows: list[dict[str, Any]]) -> None: ...
    def note(self, text: str) -> None: ...
    def tick(self) -> None: ...


class _OwnPython(KernelSpecManager):
    """Knows one kernel: the Python that runs this code."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python (nbflow)", language="python")


class Runner(NotebookClient):
    """Executes one notebook once.

    Args:
        notebook: The notebook; outputs are written into it.
        listener: Gets the progress of the run.
        kernel: Name of an installed kernelspec; None for the Python that runs this code.
        cwd: Folder in which the kernel works.
        env: Environment of the kernel.
        timeout_s: Seconds that one cell may take; None for no limit.
    """

    def __init__(
        self,
        notebook: NotebookNode,
        listener: Listener,
        *,
        kernel: str | None,
        cwd: str,
        env: Mapping[str, str],
        timeout_s: float | None = None,
    ) -> None:
        super().__init__(
            nb=notebook,
            log=_log,
            timeout_func=lambda cell: timeout_s,
            interrupt_on_timeout=True,
            error_on_timeout={"ename": _TIMEOUT_NAME, "evalue": "", "traceback": []},
            resources={"metadata": {"path": cwd}},
        )
        self._listener = listener
        self._kernel = kernel
        self._env = dict(env)
        self._timeout_s = timeout_s
        self._interrupts = 0
        self._quiet_until = 0
        self._number: int | None = None
        self._begun = asyncio.Event()
        self._helpers: set[asyncio.Task[None]] = set()
        self.comm_open_handlers[COMM_TARGET] = lambda message: _Reports(listener.report)

    def run(self) -> Outcome:
        """Execute the notebook and return how it ended; call it on the main thread, once."""
        return asyncio.run(self._run())

    async def _run(self) -> Outcome:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, self._signals():
            output = Path(folder, "output")
            ticker = asyncio.create_task(self._tick())
            try:
                problem = await self._start(output)
                if self._interrupts:
                    return Outcome(Status.INTERRUPTED, message="interrupted before the first cell")
                if problem:
                    return Outcome(Status.NO_KERNEL, message=problem)
                return await self._execute_cells(output)
            finally:
                ticker.cancel()
                await self._stop()

    # -- the kernel -------------------------------------------------------------------------------------------------

    def create_kernel_manager(self) -> AsyncKernelManager:
        """Make the manager of our own Python's kernel, or of the kernelspec that was asked for."""
        if self._kernel is None:
            manager = AsyncKernelManager(kernel_name=_OWN, kernel_spec_manager=_OwnPython(), log=_log)
        else:
            manager = AsyncKernelManager(kernel_name=self._kernel, log=_log)
        self.kernel_name = manager.kernel_name
        self.km = manager
        return manager

    async def _start(self, output: Path) -> str:
        """Start the kernel; return in words why that was not possible, or nothing."""
        if self._kernel is None and find_spec("ipykernel") is None:
            return f"{sys.executable} has no ipykernel; pip install ipykernel"
        try:
            for tries_left in (2, 1, 0):
                with output.open("ab") as file:  # appended: nothing moves the place where the kernel writes next
                    begun = file.tell()
                    self.create_kernel_manager()
                    await self.async_start_new_kernel(env=self._env, stdout=file, stderr=file)
                watch = asyncio.create_task(self._end_without_port(output, begun))
                try:
                    await self.async_start_new_kernel_client()
                    break
                except RuntimeError:
                    if not tries_left or not _lacks_port(output, begun):
                        raise
                finally:
                    watch.cancel()
            await self._read_language()
            # Warnings of the start explain nothing about a later death.
            self._quiet_until = output.stat().st_size
        except NoSuchKernel:
            known = ", ".join(sorted(KernelSpecManager().find_kernel_specs())) or "none"
            return f"there is no kernel named {self._kernel!r}; installed: {known}"
        except (OSError, RuntimeError, TimeoutError) as error:
            last = _last_line(output, 0)
            return f"the kernel did not start: {last or error}"
        return ""

    async def _end_without_port(self, output: Path, begun: int) -> None:
        """End a kernel that did not get one of its ports, which were free when they were chosen.

        ipykernel ends by itself, unless that port is the one for its messages: then it waits for ever.
        """
        while not _lacks_port(output, begun):
            await asyncio.sleep(0.1)
        await self._kill()

    async def _read_language(self) -> None:
        assert self.kc is not None
        reply = await self.async_wait_for_reply(self.kc.kernel_info())
        if reply is not None and "language_info" in reply["content"]:
            self.nb.metadata["language_info"] = reply["content"]["language_info"]

    async def _stop(self) -> None:
        """End the kernel: kindly first, so that its pools and files are closed, then for sure."""
        client: Any = self.kc
        manager: Any = self.km
        for helper in self._helpers:
            helper.cancel()
        if client is not None:
            client.stop_channels()
        if manager is not None and manager.has_kernel:
            with suppress(RuntimeError, OSError):
                await manager.shutdown_kernel(now=self._interrupts > 1)

    # -- the cells --------------------------------------------------------------------------------------------------

    async def _execute_cells(self, output: Path) -> Outcome:
        cells = executable_cells(self.nb)
        for number, (position, cell) in enumerate(cells, 1):
            if self._interrupts:
                return Outcome(Status.INTERRUPTED, number, f"interrupted before cell {number}")
            self._number = number
            self._begun.clear()
            self._listener.cell_started(number, len(cells), cell.source)
            try:
                await self.async_execute_cell(cell, position, execution_count=number)
            except CellExecutionError as error:
                return self._cell_failed(number, cell, error)
            except DeadKernelError:
                return await self._kernel_died(number, output)
            finally:
                self._number = None
                self._listener.cell_ended(number)
        self.set_widgets_metadata()
        if self._interrupts:
            return Outcome(Status.INTERRUPTED, len(cells), "interrupted in the last cell")
        return Outcome(Status.OK)

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Take in one message about the running cell; the kernel's echo of the input says that it has begun."""
        if msg["msg_type"] == "execute_input":
            self._begun.set()
        return super().process_message(msg, cell, cell_index)

    def _cell_failed(self, number: int, cell: NotebookNode, error: CellExecutionError) -> Outcome:
        if self._interrupts:
            return Outcome(Status.INTERRUPTED, number, f"interrupted in cell {number}")
        if error.ename == _TIMEOUT_NAME and self._timeout_s is not None:
            limit = format_duration(self._timeout_s)
            message = f"cell {number} took longer than {limit} (--timeout) and was stopped"
            return Outcome(Status.TIMED_OUT, number, message)
        frames = [line for out in cell.outputs if out.output_type == "error" for line in out.traceback]
        what = f"{error.ename}: {error.evalue}".strip().removesuffix(":").splitlines()[0]
        if _OUR_MAGIC.search(what):
            what += " `%load_ext nbflow` has to run before it: put that into the first cell."
        return Outcome(Status.FAILED, number, f"cell {number} failed: {what}", "\n".join(frames))

    async def _kernel_died(self, number: int, output: Path) -> Outcome:
        if self._interrupts:
            return Outcome(Status.INTERRUPTED, number, f"kernel killed in cell {number}")
        code = None
        if self.km is not None and self.km.provisioner is not None:
            code = await self.km.provisioner.poll()
        cause = "" if code is None else f" (exit code {code})"
        if code is not None and code < 0:
            with suppress(ValueError):
                cause = f" ({signal.Signals(-code).name}{', often: out of memory' if code == -9 else ''})"
        if last := _last_line(output, self._quiet_until):
            cause += f": {last}"
        return Outcome(Status.DIED, number, f"the kernel died in cell {number}{cause}")

    async def _tick(self) -> None:
        while True:
            self._listener.tick()
            await asyncio.sleep(0.1)

    # -- signals ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM until the end of the block (plain handlers work on every platform)."""
        loop = asyncio.get_running_loop()

        def handle(number: int, frame: Any) -> None:
            loop.call_soon_threadsafe(self._signalled, number)

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int) -> None:
        self._interrupts += 1
        if self._interrupts == 1:
            self._listener.note("interrupting; Ctrl-C again kills the kernel")
            self._help(self._interrupt())
            if number == signal.SIGTERM:
                self._help(self._kill(after_s=_TERM_GRACE_S))
        elif self._interrupts == 2:
            self._listener.note("killing the kernel")
            self._help(self._kill())

    def _help(self, coroutine: Any) -> None:
        # The loop holds tasks weakly, so they are kept here.
        task = asyncio.create_task(coroutine)
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)

    async def _interrupt(self) -> None:
        manager: Any = self.km
        if manager is not None and manager.has_kernel and self._number is not None:
            # A kernel that has not begun with the cell would ignore the signal.
            await self._begun.wait()
            with suppress(RuntimeError, OSError):
                await manager.interrupt_kernel()

    async def _kill(self, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s)
        if self.km is not None and self.km.provisioner is not None:
            with suppress(RuntimeError, OSError):
                await self.km.provisioner.kill()


class _Reports:
    """The receiving end of the kernel's comm."""

    def __init__(self, receive: Callable[[list[dict[str, Any]]], None]) -> None:
        self._receive = receive

    def handle_msg(self, message: dict[str, Any]) -> None:
        """Pass on the rows of one message; nbclient calls this."""
        self._receive(message["content"]["data"]["rows"])


def _lacks_port(output: Path, start: int) -> bool:
    return "Address already in use" in _last_line(output, start)


def _last_line(output: Path, start: int) -> str:
    """Return the last line that the kernel's process wrote itself (cells write elsewhere) behind position `start`."""
    lines = output.read_bytes()[start:].decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
