"""Cells in the background: `%%task --bg` gives the prompt back at once, and the cell goes on by itself.

A `Job` is one such run, on a thread of its own, or on the kernel's loop if its body awaits. It runs in a copy of its
cell's context, by which the kernel knows where output belongs. Until it has ended, the names that it binds hold a
`Pending`; task cells that read one wait for its job, in the background or in front.

    waiting (for other jobs) ── running ──┬─ done       names bound, last value shown
                                          ├─ failed     traceback in its own cell, names as before
                                          └─ cancelled  names as before
"""

from __future__ import annotations

import ast
import concurrent.futures
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from contextvars import ContextVar, copy_context
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from nbflow._util import format_duration, one_line
from nbflow.core.attempts import ending
from nbflow.errors import TaskCancelledError
from nbflow.notebook.address import Address, address_of
from nbflow.notebook.aside import AsideRun, reached, unfit
from nbflow.notebook.cells import Cell, CellOptions
from nbflow.notebook.heap import ATOMS
from nbflow.notebook.names import find_effects
from nbflow.notebook.pending import Pending, absent, maker_of
from nbflow.notebook.replay import Unstorable
from nbflow.notebook.report import ENVIRONMENT_SWITCH
from nbflow.notebook.result import show_error, show_result
from nbflow.runtime.emit import emit, queued
from nbflow.runtime.stopping import GRACE_S, WAKE_S, Stopped

if TYPE_CHECKING:
    from nbflow.notebook.kernel import ShellState

__all__ = ["Background", "Job", "cancel_all", "label_here", "names_read", "wait_all", "wait_all_async"]

_NOTHING = object()
_label: ContextVar[str | None] = ContextVar("nbflow_background_label", default=None)

label_here = _label.get
"""Return the label of the cell in the background whose code this is, or None."""


class Job:
    """One run of a cell beside others, and the names it will bind; safe from any thread.

    Args:
        run: What to run, not yet opened unless `needs` is empty.
        noted: What to have around the run.
        needs: The jobs that make inputs of it, by name of the input.

    Attributes:
        name, label: The cell, as a name and as a place ("cell 4").
        state: waiting, running, done, failed or cancelled.
        over: Ends when the job has ended, in whatever way. It is for event loops: an interrupt may leave the lock of a
            future locked, so who blocks the main thread goes by `live` and `listeners`.
        listeners: Called with the job when it has ended.
        error: What it failed with; `untold` while nobody has waited for it since.
    """

    def __init__(self, run: AsideRun, noted: AbstractContextManager[None], needs: dict[str, Job]) -> None:
        self.run = run
        run.panel = None  # the cell in front is not the one whose badge this is
        self.name = run.name
        self.label = run.cell.label
        self.needs = needs
        self.state = "waiting" if needs else "running"
        self.over: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.over.set_running_or_notify_cancel()  # who waits for it cannot cancel it
        self.listeners: list[Callable[[Job], object]] = []
        self._ended = False
        self.error: BaseException | None = None
        self.untold = False
        self.began = time.monotonic()
        self.seconds = 0.0
        self._noted = noted
        self._names = run.shell.user_ns
        self._pending: dict[str, Pending] = {}
        self._before: dict[str, Any] = {}
        self._settled: frozenset[str] | None = None
        self._lock = threading.Lock()
        self._task: Any = None  # kept, since the loop only holds on to it weakly
        self._context = copy_context()
        self._address: Address | None = None
        self.call = run.announce(self._leave)
        run.settle = self._settle

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return not self._ended

    @property
    def awaits(self) -> bool:
        """Whether its body awaits, and so needs the kernel's loop."""
        return self.run.cell.is_async

    def elapsed_s(self) -> float:
        """Seconds since it began, or that it took."""
        return time.monotonic() - self.began if self.live else self.seconds

    def absence(self, name: str) -> str:
        """Say why `name` has no value (yet), and what to do."""
        place = f"`{self.name}` ({self.label})"
        if self.state == "failed":
            return f"`{name}` did not come: {place} failed with {one_line(self.error) if self.error else 'an error'}"
        if self.state == "cancelled":
            return f"`{name}` did not come: {place} was cancelled"
        if self.state == "done":
            return f"`{name}` is there now, and this only stood for it; read the name again"
        others = ", ".join(f"`{each.name}`" for each in dict.fromkeys(self.needs.values()) if each.live)
        doing = f"waits for {others}" if others else f"has been making it for {format_duration(self.elapsed_s())}"
        return (
            f"`{name}` is not there yet: {place} {doing} in the background; "
            f"wait with %flow wait {self.name}, or put %%task on this cell, which then waits by itself"
        )

    # -- beginning

    def start(self, *, placeholders: bool = True) -> None:
        """Put placeholders into the notebook and begin; on the running loop if the body awaits."""
        for name in self._names_to_bind() if placeholders else ():
            self._before[name] = self._names.get(name, _NOTHING)
            self._names[name] = self._pending[name] = Pending(name, self)
        self.call.session.active[self.call.id] = self.call  # so that a click finds it, even while it waits
        queued(self.call)
        context = self._context = copy_context()
        context.run(_label.set, self.label)
        self._address = address_of(self.run.shell)
        if self._address is not None:
            context.run(self._address.use)
        if self.awaits:
            import asyncio

            self._task = asyncio.get_running_loop().create_task(self._work_async(), context=context)
        else:
            threading.Thread(target=context.run, args=(self._work,), name="nbflow-background", daemon=True).start()

    def _names_to_bind(self) -> list[str]:
        """Return the names that stand for something else when it has ended; imports are good as they are."""
        cell, names = self.run.cell, self._names
        changed = cell.effects.mutated.intersection(cell.effects.inputs, names)
        objects = [names[name] for name in changed if type(names[name]) not in ATOMS and maker_of(names[name]) is None]
        aliases = [n for n, value in names.items() if n[:1] != "_" and any(value is each for each in objects)]
        kept = _imported(cell).intersection(names)
        return [name for name in dict.fromkeys((*cell.effects.outputs, *aliases)) if name not in kept]

    def _work(self) -> None:
        try:
            for needed in dict.fromkeys(self.needs.values()):
                while needed.live:
                    wait_all([needed], WAKE_S / 2)
                    self._check()
            self._begin()
            with self._noted:
                value = self.run.run()
        except BaseException as error:
            self._fail(error)
        else:
            self._end(value)

    async def _work_async(self) -> None:
        import asyncio

        try:
            for needed in dict.fromkeys(self.needs.values()):
                while needed.live:
                    await asyncio.wait([asyncio.wrap_future(needed.over)], timeout=WAKE_S / 2)
                    self._check()
            self._begin()
            with self._noted:
                value = await self.run.run_async()
        except BaseException as error:
            self._fail(error)
        else:
            self._end(value)

    def _check(self) -> None:
        if self.call.cancel_reason is not None:
            raise Stopped

    def _begin(self) -> None:
        """Take the inputs that were waited for."""
        self._check()
        given: dict[str, Any] = {}
        for name, job in self.needs.items():
            if job.state != "done":
                raise absent(job, name)
            if name in job.run.own:
                given[name] = job.run.own[name]
        if self.needs:
            self.run.open(given)
            self.state = "running"

    # -- ending

    def _settle(self) -> frozenset[str]:
        """Take the placeholders away; return the names that others have bound anew."""
        with self._lock:
            if self._settled is None:
                if self.run.abandoned or self.call.cancel_reason is not None:
                    raise Stopped
                self._settled = self._put_back()
            return self._settled

    def _put_back(self) -> frozenset[str]:
        """Let the names hold what they held before, where they still hold a placeholder; return the others."""
        overtaken = set()
        for name, placeholder in self._pending.items():
            before = self._before[name]
            if self._names.get(name) is not placeholder:
                overtaken.add(name)
            elif before is _NOTHING:
                del self._names[name]
            else:
                self._names[name] = before
        return frozenset(overtaken)

    def _hand_down(self, values: Mapping[str, Any]) -> None:
        """Tell later jobs that are to bind the same names what these held before them."""
        for name, placeholder in self._pending.items():
            newer = maker_of(self._names.get(name))
            while isinstance(newer, Job):
                before = newer._before.get(name)
                if before is placeholder:
                    newer._before[name] = values.get(name, _NOTHING)
                    break
                newer = maker_of(before)

    def _end(self, value: Any) -> None:
        overtaken, options = self.run.overtaken, self.run.options
        self._hand_down(self.run.own)
        try:
            self._show(value)
            if overtaken and not options.quiet:
                names = ", ".join(f"`{name}`" for name in sorted(overtaken))
                sys.stderr.write(f"nbflow: {self.name}: bound anew meanwhile, and left as it is: {names}.\n")
        finally:
            self._finish("done")

    def _show(self, value: Any) -> None:
        if value is not None:
            show_result(self.run.shell, value, self.run.cell, self._address)

    def _fail(self, error: BaseException) -> None:
        stopped = isinstance(error, (Stopped, TaskCancelledError)) or self.call.cancel_reason is not None
        with self._lock:
            if self.run.abandoned:  # it was left behind, and has ended at last
                return
            if self._settled is None:
                self._settled = self._put_back()
        if stopped or type(error).__name__ == "CancelledError":
            self._cancelled()
            return
        if self.call.started is None:
            self._tell_end(error)
        self.error, self.untold = error, True
        self._hand_down(self._before)
        try:
            self._show_error(error)
        finally:
            self._finish("failed")

    def _show_error(self, error: BaseException) -> None:
        show_error(self.run.shell, error)

    def _cancelled(self) -> None:
        self._hand_down(self._before)
        if self.call.started is None:
            self._tell_end(self._cancellation())
        if not self.run.options.quiet and self.call.cancel_reason != "panel":  # which says so itself
            sys.stderr.write(f"nbflow: {self.name}: cancelled ({self.call.cancel_reason or 'stopped'}).\n")
        self._finish("cancelled")

    def _cancellation(self) -> TaskCancelledError:
        reason = self.call.cancel_reason or "stopped"
        return TaskCancelledError(f"Task {self.name!r} was cancelled ({reason}).", task=self.name, reason=reason)

    def _tell_end(self, error: BaseException) -> None:
        """Tell observers that a call has ended whose driver does not say so (yet)."""
        step = ending(error, self.call.spec.policy)
        emit(self.call, step.fact, step.data)

    def _finish(self, state: str) -> None:
        self.seconds = time.monotonic() - self.began
        self.state = state
        self._pending, self._before, self.needs = {}, {}, {}
        self._ended = True
        self.over.set_result(None)
        for listener in tuple(self.listeners):
            listener(self)

    def cancel(self, reason: str, grace_s: float = GRACE_S) -> bool:
        """End it now; code that does not end when it is told to is left behind, and what it makes is dropped.

        Args:
            reason: Who or what asks for it.
            grace_s: How many seconds to wait for it to end by itself.

        Returns:
            False if it had ended already, or is just binding its names.
        """
        with self._lock:
            if not self.live or self._settled is not None:
                return False
            self.call.cancel(reason)
        if not self.awaits:  # else it can only end when this cell has
            wait_all([self], grace_s)
        self._leave()
        return True

    def _leave(self) -> None:
        """Give up on code that did not end when it was told to."""
        with self._lock:
            if not self.live or self._settled is not None:
                return
            self.run.abandoned = True
            self._settled = self._put_back()
        if not self.awaits and self.call.started is not None:
            emit(self.call, "StragglerLeft", {"worker": "nbflow-background"})
            self._tell_end(self._cancellation())
        self._context.copy().run(self._cancelled)


class Background:
    """The cells of one shell that run, or ran, in the background.

    Args:
        state: What nbflow keeps about the shell.

    Attributes:
        jobs: The last job of each cell that had one, by name.
    """

    def __init__(self, state: ShellState) -> None:
        self.state = state
        self.jobs: dict[str, Job] = {}

    def live(self) -> list[Job]:
        """Return the jobs that have not ended, oldest first."""
        return [job for job in self.jobs.values() if job.live]

    def start(self, cell: Cell, name: str, options: CellOptions) -> AsideRun | None:
        """Start a cell in the background.

        Returns:
            None; or, where the cell is cached or nobody could see what it shows later, its run, for the caller to run.

        Raises:
            UsageError: The cell cannot run beside others.
        """
        shell = self.state.shell
        older = self.jobs.get(name)
        if older is not None and older.cancel("it was run again"):
            sys.stderr.write(f"nbflow: {name}: its older run in the background was cancelled.\n")
        run = self.state.run_of(AsideRun, cell, name, options)
        reads = names_read(cell, options)
        why = unfit(cell, reads, shell.user_ns)
        if why is not None:
            raise _usage(f"%%task --bg: `{name}` cannot run in the background, as {why}; or leave out --bg.")
        needs = self.needs(reads)
        if not needs:
            try:
                run.open({})
            except Unstorable as error:
                raise _usage(f"%%task --bg: `{name}` changes in place what cannot be copied: {error}.") from None
            if os.environ.get(ENVIRONMENT_SWITCH) or run.would_hit():
                return run
        job = self.jobs[name] = Job(run, self.state.noted(run), needs)
        job.start()
        return None

    def needs(self, names: Iterable[str]) -> dict[str, Job]:
        """Return the live jobs that are to bind some of these names, or what functions behind these names reach."""
        if not self.live():
            return {}
        found = ((name, maker_of(value)) for name, value in reached(names, self.state.shell.user_ns))
        return {name: maker for name, maker in found if isinstance(maker, Job) and maker.live}

    def wait_for(self, names: Iterable[str]) -> None:
        """Wait for the jobs that make these names, before a task cell in front reads them; an interrupt ends the wait.

        Raises:
            PendingError: One of them failed, or needs the loop that this cell blocks.
        """
        __tracebackhide__ = True
        needs = self.needs(names)
        for name, job in needs.items():
            if job.awaits:
                raise absent(job, name)
        wait_all(needs.values())
        _check_all(needs)

    async def wait_for_async(self, names: Iterable[str]) -> None:
        """The same in a cell that awaits."""
        __tracebackhide__ = True
        needs = self.needs(names)
        await wait_all_async(needs.values())
        _check_all(needs)


def cancel_all(jobs: Sequence[Job], reason: str) -> list[Job]:
    """Cancel jobs, in the time that one takes; return those that had not ended."""
    live = [job for job in jobs if job.live]
    for job in live:
        job.call.cancel(reason)
    wait_all([job for job in live if not job.awaits], GRACE_S)
    return [job for job in live if job.cancel(reason, 0.0) or job.state == "cancelled"]


def _check_all(needs: dict[str, Job]) -> None:
    __tracebackhide__ = True
    for name, job in needs.items():
        if job.state != "done":
            raise absent(job, name)


def wait_all(jobs: Iterable[Job], timeout_s: float | None = None, *, first: bool = False) -> None:
    """Wait for jobs, open to interrupts, at most so many seconds; with `first` for the first of them to end."""
    waited = list(jobs)
    ended: SimpleQueue[Job] = SimpleQueue()
    tell = ended.put
    for job in waited:
        job.listeners.append(tell)
    deadline = time.monotonic() + (timeout_s if timeout_s is not None else float("inf"))
    enough = any if first else all
    try:
        while waited and not enough(not job.live for job in waited) and (left := deadline - time.monotonic()) > 0:
            with suppress(Empty):
                ended.get(timeout=min(WAKE_S, left))
    finally:
        for job in waited:
            job.listeners.remove(tell)


async def wait_all_async(jobs: Iterable[Job], timeout_s: float | None = None, *, first: bool = False) -> None:
    """The same without blocking the running loop."""
    import asyncio

    waited = list(jobs)
    live = [asyncio.wrap_future(job.over) for job in waited if job.live]
    if live and not (first and len(live) < len(waited)):
        until = asyncio.FIRST_COMPLETED if first else asyncio.ALL_COMPLETED
        await asyncio.wait(live, timeout=timeout_s, return_when=until)


def names_read(cell: Cell, options: CellOptions) -> list[str]:
    """Return the names that a cell may read, and those that its options say count."""
    effects = cell.effects
    return [*effects.inputs, *effects.builtin_reads, *effects.mentions, *(options.inputs or ()), *options.depends]


def _imported(cell: Cell) -> frozenset[str]:
    """Return the names that imports of the cell bind: those that are there already are as good as the new ones."""
    imports = [each for each in cell.definitions if isinstance(each, (ast.Import, ast.ImportFrom))]
    return frozenset(find_effects(imports).outputs)


def _usage(message: str) -> Exception:
    from IPython.core.error import UsageError

    return UsageError(message)
