"""What `%flow run`, `%flow wait` and `%flow cancel` do: run stale cells, wait for the background, end what runs.

`run` and `wait` are written once, as coroutines. Where no cell awaits they are driven without a loop, so that an
interrupt reaches the code that runs.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from nbflow._util import format_duration, one_line
from nbflow.notebook.background import Job, cancel_all, wait_all, wait_all_async
from nbflow.notebook.graph import CellNode
from nbflow.notebook.interrupts import interruptible
from nbflow.notebook.parallel import Beside, announce, show
from nbflow.sessions import session_or_default

if TYPE_CHECKING:
    from nbflow.notebook.kernel import ShellState

__all__ = ["cancel", "rerun", "wait", "without_loop"]


class _Wanted(NamedTuple):
    """The words after `%flow run`."""

    names: list[str]
    force: bool = False
    width: int = 1


def without_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that awaits nothing but its own kind, and return what it returns."""
    __tracebackhide__ = True
    try:
        work.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("This awaits, and needs %flow to be the only line of its cell.")


async def rerun(state: ShellState, words: list[str], *, on_loop: bool = False, waiting: bool = True) -> None:
    """Run stale cells again, in dependency order, and show what they show.

    Args:
        state: What nbflow keeps about the shell.
        words: Names of cells (none: all that are stale), and options.
        on_loop: Whether this is awaited on the kernel's loop.
        waiting: Whether to wait first for cells in the background, which may make others stale.

    Raises:
        UsageError: There is no such cell or option.
    """
    __tracebackhide__ = True
    wanted, graph = _read(state, words), state.graph
    if waiting:
        await _wait_for(state.background.live(), None, on_loop)
    stale = graph.stale(state.key_now)
    chosen = [name for name in (wanted.names or graph.nodes) if wanted.force or name in stale]
    if not chosen:
        print("Nothing is stale.")
        return
    nodes, lent = graph.plan(chosen)
    if wanted.width > 1:
        beside = Beside(state, nodes, lent, force=wanted.force)
        await (beside.run_async(wanted.width) if on_loop else beside.run(wanted.width))
        return
    for node, force in _due(state, nodes, lent, wanted.force):
        run, noted = state.rerun(node, force=force)
        announce(node)
        with noted:
            if node.cell.is_async:
                value = await run.run_async()
            else:
                value = await interruptible(run.run) if on_loop else run.run()
        show(value)


def _due(state: ShellState, nodes: list[CellNode], lent: set[str], force: bool) -> Iterator[tuple[CellNode, bool]]:
    for node in nodes:
        if node.name in lent:
            yield node, False
        # Asked again at its turn: a cell whose sources came out as before need not run.
        elif force or state.graph.reason(node, state.key_now) is not None:
            yield node, force


def _read(state: ShellState, words: list[str]) -> _Wanted:
    names: list[str] = []
    force, width = False, 1
    rest = iter(words)
    for word in rest:
        if word in ("-f", "--force"):
            force = True
        elif word in ("-j", "--jobs") or (word.startswith("-j") and word[2:].isdecimal()):
            number = word[2:] if word[2:].isdecimal() else next(rest, "")
            if not (number.isdecimal() and int(number)):
                raise _usage(f"%flow run -j {number}: how many cells at a time? Give a whole number ≥ 1, as in -j 4.")
            width = int(number)
        else:
            names.append(word)
    nodes = state.graph.nodes
    unknown = [name for name in names if name not in nodes]
    if unknown:
        raise _usage(f"%flow run: no task cell is called {unknown[0]!r}; known: {', '.join(sorted(nodes)) or 'none'}.")
    return _Wanted(names, force, width)


# -- waiting and cancelling


async def wait(state: ShellState, words: list[str], *, on_loop: bool = False) -> str:
    """Wait for cells in the background, and say how they ended.

    Args:
        state: What nbflow keeps about the shell.
        words: Names of cells (none: all that run), and `--timeout` with a number of seconds.
        on_loop: Whether this is awaited on the kernel's loop.

    Raises:
        UsageError: No cell of that name was run in the background; or one of them failed (which is told of once, even
            if it failed before), or has not ended within the time and goes on.
    """
    __tracebackhide__ = True
    names, timeout_s = _read_wait(words)
    jobs = state.background.jobs
    unknown = [name for name in names if name not in jobs]
    if unknown:
        known = ", ".join(sorted(jobs)) or "none"
        raise _usage(f"%flow wait {unknown[0]}: no cell of that name was run with --bg; known: {known}.")
    found = [job for job in jobs.values() if job.name in names or (not names and (job.live or job.untold))]
    await _wait_for(found, timeout_s, on_loop)
    left = [job.name for job in found if job.live]
    if left:
        raise _usage(f"%flow wait: not ended after {timeout_s:g} s, and still running: {', '.join(left)}.")
    told = []
    for job in found:
        if job.error is not None:
            job.untold = False
            told.append(f"`{job.name}` ({job.label}) failed with {one_line(job.error)}")
    if told:
        raise _usage(f"%flow wait: {'; '.join(told).rstrip('.')}.")
    ended = [f"{job.name} {job.state} after {format_duration(job.seconds)}" for job in found]
    return f"{', '.join(ended)}." if ended else "Nothing runs in the background."


async def _wait_for(jobs: list[Job], timeout_s: float | None, on_loop: bool) -> None:
    __tracebackhide__ = True
    if on_loop:
        await wait_all_async(jobs, timeout_s)
    elif any(job.live and job.awaits for job in jobs):
        raise _usage("%flow: a cell in the background awaits, and this cell would block its loop; use %flow alone.")
    else:
        wait_all(jobs, timeout_s)


def _read_wait(words: list[str]) -> tuple[list[str], float | None]:
    names = list(words)
    timeout_s: float | None = None
    if "--timeout" in names:
        place = names.index("--timeout")
        number = "".join(names[place + 1 : place + 2])
        with suppress(ValueError):
            timeout_s = float(number.removesuffix("s"))
        if timeout_s is None or not timeout_s > 0:
            raise _usage(f"%flow wait --timeout {number}: use a number of seconds > 0.")
        del names[place : place + 2]
    return names, timeout_s


def cancel(state: ShellState, words: list[str]) -> str:
    """Cancel what runs in the background: cells, calls and maps of these names, or all of them; say what that was.

    Raises:
        UsageError: Nothing of that name runs.
    """
    names = [word for word in words if word != "--all"]
    if names and len(names) < len(words):
        raise _usage("%flow cancel: give names, or --all.")
    session, cells = session_or_default(), state.background.live()
    own = {job.call.id for job in cells}
    live: list[tuple[str, Any]] = [(each.spec.name, each) for each in session.live_maps()]
    live += [(each.spec.name, each) for each in session.live_calls() if each.id not in own]
    known = {name for name, _ in live} | {job.name for job in cells}
    unknown = [name for name in names if name not in known]
    if unknown:
        running = f"running: {', '.join(sorted(known))}" if known else "nothing is running"
        raise _usage(f"%flow cancel {unknown[0]}: nothing of that name runs now; {running}.")
    ended = cancel_all([job for job in cells if not names or job.name in names], "%flow cancel")
    stopped = [job.name for job in ended]
    stopped += [name for name, each in live if not names or name in names if each.cancel("%flow cancel")]
    return f"Cancelled {', '.join(dict.fromkeys(stopped))}." if stopped else "Nothing is running."


def _usage(message: str) -> Exception:
    from IPython.core.error import UsageError

    return UsageError(message)
