"""`%flow run -j N`: stale cells side by side, with what running them one after another would have shown and left.

`schedule` decides and does nothing: it yields what to do next and is sent what came of it. A cell starts when all
cells before it that it has to do with have ended: those that bind what it reads, or read what it binds. Where two bind
the same name and nobody reads it in between, the later one counts, whichever ends first. Some cells go alone:

* Cells that await, use magics or draw on pyplot's current figure need the shell or the loop.
* Cells that change in place what they read, or draw from a shared random generator, count on the order of cells.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nbflow.notebook import output
from nbflow.notebook.aside import AsideRun, reached, unfit
from nbflow.notebook.background import Job, cancel_all, wait_all, wait_all_async
from nbflow.notebook.cells import CellOptions
from nbflow.notebook.graph import CellNode
from nbflow.notebook.recorder import Silent, replay
from nbflow.notebook.result import show_error

if TYPE_CHECKING:
    from nbflow.notebook.kernel import ShellState

__all__ = ["Beside", "Place", "Start", "Wait", "alone_because", "announce", "places", "schedule", "show"]


@dataclass(slots=True, eq=False)
class Place:
    """A cell in the order of the plan: what it reads and binds, and whether it goes alone."""

    name: str
    reads: frozenset[str]
    writes: frozenset[str]
    alone: bool = False
    state: str = "waiting"  # then running, ended, failed, left
    left_for: str | None = None

    def follows(self, other: Place) -> bool:
        """Whether it must not start before `other`, which is before it in the plan, has ended."""
        return (
            self.alone
            or other.alone
            or not self.reads.isdisjoint(other.writes)
            or not self.writes.isdisjoint(other.reads)
        )

    def needs(self, other: Place) -> bool:
        """Whether it reads what `other` binds, so that it cannot run if that failed."""
        return not self.reads.isdisjoint(other.writes)


@dataclass(frozen=True, slots=True)
class Start:
    """Start the cell; the reply is True if it is running now, False if it has ended (or need not run), None: failed."""

    place: Place


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until some of the running cells have ended; the reply is their outcomes: True for well, by place."""

    places: tuple[Place, ...]


def schedule(places: Sequence[Place], width: int) -> Generator[Start | Wait, Any, None]:
    """Yield what to do, in order.

    Args:
        places: The cells, each behind those that it reads from.
        width: How many may run at a time.
    """
    while True:
        running = tuple(each for each in places if each.state == "running")
        found = next((each for each in places if _is_ready(each, places)), None) if len(running) < width else None
        if found is not None:
            started = yield Start(found)
            found.state = "running" if started else "failed" if started is None else "ended"
            if started is None:
                _leave_out(found, places)
        elif running:
            for place, well in (yield Wait(running)).items():
                place.state = "ended" if well else "failed"
                if not well:
                    _leave_out(place, places)
        else:
            return


def _is_ready(place: Place, places: Sequence[Place]) -> bool:
    if place.state != "waiting":
        return False
    before = places[: places.index(place)]
    return all(each.state not in ("waiting", "running") or not place.follows(each) for each in before)


def _leave_out(failed: Place, places: Sequence[Place]) -> None:
    """Give up on what depends on a cell that failed; the others go on."""
    for place in places[places.index(failed) + 1 :]:
        if place.state == "waiting" and place.needs(failed):
            place.state, place.left_for = "left", failed.name
            _leave_out(place, places)


def places(state: ShellState, nodes: Iterable[CellNode]) -> list[Place]:
    """Return the cells as `schedule` sees them."""
    names = state.shell.user_ns
    return [
        Place(
            node.name,
            frozenset({*node.reads, *(name for name, _ in reached(node.reads, names))}),
            frozenset(node.writes),
            alone_because(node, names) is not None,
        )
        for node in nodes
    ]


def alone_because(node: CellNode, namespace: dict[str, Any]) -> str | None:
    """Say why a cell cannot run beside others, or None if it can."""
    if node.cell.is_async:
        return "it awaits"
    changed = set(node.cell.effects.mutated.intersection(node.reads)).union(node.after)
    if changed:
        return f"it changes `{min(changed)}` in place"
    if node.draws or node.cell.seeds:
        return "it draws from a random generator that all cells share"
    return unfit(node.cell, node.reads, namespace)


class _BesideJob(Job):
    """A job whose output, value and error are shown later."""

    def __init__(self, run: AsideRun, noted: AbstractContextManager[None], needs: dict[str, Job]) -> None:
        super().__init__(run, noted, needs)
        self.held = Silent()
        self.value: Any = None

    def _work(self) -> None:
        with output.recording(self.held, self.run.shell):
            super()._work()

    def _show(self, value: Any) -> None:
        self.value = value

    def _show_error(self, error: BaseException) -> None:
        pass


class Beside:
    """Does what `schedule` says, for one `%flow run -j N`.

    Args:
        state: What nbflow keeps about the shell.
        nodes: The cells of the plan, in order.
        lent: Names of those that run only for the values of others.
        force: Whether the others run although they are not stale.
    """

    def __init__(self, state: ShellState, nodes: list[CellNode], lent: set[str], *, force: bool) -> None:
        self.state = state
        self.nodes = {node.name: node for node in nodes}
        self.lent = lent
        self.force = force
        self._places = places(state, nodes)
        self._jobs: dict[str, _BesideJob] = {}
        self._bound: dict[str, int] = {}
        self._errors: list[BaseException] = []

    async def run(self, width: int) -> None:
        """Run the cells, `width` at a time, and show what they show in the order of the plan; awaits no loop.

        Raises:
            BaseException: What the first of them raised that failed; the others' tracebacks are shown before.
        """
        __tracebackhide__ = True

        async def wait(jobs: list[Job]) -> None:
            wait_all(jobs, first=True)

        await self._run(width, wait)

    async def run_async(self, width: int) -> None:
        """The same on the kernel's loop, where some cells await."""
        __tracebackhide__ = True

        async def wait(jobs: list[Job]) -> None:
            await wait_all_async(jobs, first=True)

        await self._run(width, wait)

    async def _run(self, width: int, wait: Callable[[list[Job]], Awaitable[None]]) -> None:
        __tracebackhide__ = True
        steps = schedule(self._places, width)
        reply: Any = None
        try:
            while (step := _next(steps, reply)) is not None:
                if isinstance(step, Wait):
                    jobs = {place: self._jobs[place.name] for place in step.places}
                    await wait(list(jobs.values()))
                    reply = {place: job.state == "done" for place, job in jobs.items() if not job.live}
                elif not self._is_due(step.place):
                    reply = False
                elif step.place.alone:
                    reply = await self._run_alone(step.place)
                else:
                    reply = self._start(step.place)
                self._show_ended()
            self._show_ended()
        except BaseException:
            cancel_all(list(self._jobs.values()), "%flow run was interrupted")
            raise
        if self._errors:
            *others, first = reversed(self._errors)
            for error in reversed(others):
                show_error(self.state.shell, error)
            raise first

    def _is_due(self, place: Place) -> bool:
        """Whether a cell whose turn has come is to run; one whose sources came out as before need not."""
        if self.force or place.name in self.lent:
            return True
        return self.state.graph.reason(self.nodes[place.name], self.state.key_now) is not None

    def _options(self, place: Place) -> CellOptions:
        force = self.force and place.name not in self.lent
        return replace(self.nodes[place.name].options, force=force, background=False)

    async def _run_alone(self, place: Place) -> bool | None:
        node = self.nodes[place.name]
        run, noted = self.state.rerun(node, force=self._options(place).force)
        announce(node)
        try:
            with noted:
                value = await run.run_async() if node.cell.is_async else run.run()
        except Exception as error:
            self._errors.append(error)
            return None
        show(value)
        return False

    def _start(self, place: Place) -> bool | None:
        node = self.nodes[place.name]
        run = self.state.run_of(AsideRun, node.cell, node.name, self._options(place))
        run.open({})
        job = self._jobs[node.name] = _BesideJob(run, self.state.noted(run, node), {})
        settle, position = run.settle, self._places.index(place)

        def settle_in_order() -> frozenset[str]:
            later = settle() | {name for name in place.writes if self._bound.get(name, -1) > position}
            self._bound.update(dict.fromkeys(place.writes - later, position))
            return later

        run.settle = settle_in_order
        job.start(placeholders=False)
        return True

    def _show_ended(self) -> None:
        """Show what the cells have put out that are over, up to the first that is not."""
        for place in self._places:
            if place.state in ("waiting", "running"):
                return
            job = self._jobs.pop(place.name, None)
            node = self.nodes[place.name]
            if place.left_for is not None:
                print(f"— {node.name} ({node.label}): not run, as {place.left_for} failed")
                place.left_for = None
            if job is not None:
                announce(node)
                replay(self.state.shell, job.held.items())
                if job.error is not None:
                    self._errors.append(job.error)
                show(job.value)


def _next(steps: Generator[Start | Wait, Any, None], reply: Any) -> Start | Wait | None:
    try:
        return steps.send(reply)
    except StopIteration:
        return None


def announce(node: CellNode) -> None:
    """Say which cell the outputs below are from."""
    print(f"— {node.name} ({node.label})")


def show(value: Any) -> None:
    """Show the last value of a cell."""
    if value is not None:
        from IPython.display import display

        display(value)  # type: ignore[no-untyped-call]
