"""nbflow in a shell: what `%load_ext nbflow` sets up and `%unload_ext nbflow` takes down again.

One `ShellState` per shell, kept as its attribute `nbflow_state`: the notebook's session (on the shell, never in a
context variable, so that every cell and thread sees it), the graph of cells, the taps on output, the panel, the label
of the cell that runs now. Cells whose body awaits are rewritten before IPython sees them, since a magic cannot be
awaited; all others stay plain magics and can be interrupted.
"""

from __future__ import annotations

import ast
import atexit
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from IPython.core.displayhook import DisplayHook

from nbflow._util import lazy, one_line
from nbflow.cache import guard, trace
from nbflow.cache.parts import CacheKey
from nbflow.cache.places import set_where
from nbflow.errors import SessionError
from nbflow.history import Collector, History
from nbflow.notebook import hints, report
from nbflow.notebook.background import Background, cancel_all, label_here, names_read
from nbflow.notebook.cellkey import CellKeyer
from nbflow.notebook.cells import Cell, CellOptions, check_names, compile_body, read_cell
from nbflow.notebook.chance import SEEDS
from nbflow.notebook.changes import Changes
from nbflow.notebook.edits import Edits
from nbflow.notebook.flow import Flow
from nbflow.notebook.graph import CellNode, Graph, name_for
from nbflow.notebook.interrupts import interruptible, keep_interrupts
from nbflow.notebook.magics import NbflowMagics, completion_matcher, parse_task_line
from nbflow.notebook.names import find_effects
from nbflow.notebook.output import Taps
from nbflow.notebook.panel import PanelController
from nbflow.notebook.past import is_cell, notebook_path
from nbflow.notebook.runner import CellRun
from nbflow.notebook.shown import Shown
from nbflow.notebook.tracebacks import shorten, tidy_error
from nbflow.runtime.current import ambient
from nbflow.runtime.loop import start_beat
from nbflow.sessions import (
    SessionContext,
    adopt_sessions,
    cell_opener,
    close_notebook_session,
    open_notebook_session,
    session_or_default,
)

if TYPE_CHECKING:
    from nbflow.notebook import browser, explore
else:
    browser, explore = lazy("nbflow.notebook.browser"), lazy("nbflow.notebook.explore")  # few notebooks need them

__all__ = ["ShellState", "load", "unload"]

_TASK_CALL = re.compile(r"\s*get_ipython\(\)\.run_cell_magic\('task',")
_FLOW_CALL = re.compile(r"\s*get_ipython\(\)\.run_line_magic\('flow', *'(?:run|wait)\b")
_KEPT_CELLS = 500
_Run = TypeVar("_Run", bound=CellRun)


class ShellState:
    """What nbflow keeps about one shell.

    Attributes:
        shell: The IPython shell.
        session: The notebook's session, or None after `%session --close`.
        graph: The `%%task` cells and who wrote which name.
        changes: Values that were changed in place.
        label: The cell that runs now, or ran last ("cell 4").
        seeded: Whether some cell has set a random seed.
        magics: The magics, whose traits `%config` sets.
        ran: Text of the cells that ran well, by the front end's id, else by number; in the order of their first runs.
    """

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.graph = Graph()
        self.changes = Changes(shell.user_ns)
        self.label: str | None = None
        self.ran: dict[str | int, str] = dict(enumerate(shell.history_manager.input_hist_raw))  # before we came
        self.seeded = any(map(SEEDS.search, self.ran.values()))
        self._fresh: dict[str, Any] = {}  # states of random generators, see `CellRun`
        self.magics = NbflowMagics(shell, self)
        self.session: SessionContext | None = None
        self.panel: Any = None
        self._number = len(shell.history_manager.input_hist_parsed) - 1
        self._raw: str | None = None
        self._hinted: set[str] = set()
        self._edits = Edits()
        self._info: Any = None
        self._cell_id: str | None = None
        self.session_options: dict[str, Any] = {}
        self._opener = cell_opener()
        self._stop_beat: Callable[[], None] = lambda: None
        self._drop_interrupts: Callable[[], None] = lambda: None
        self._source: tuple[str, tuple[str, bool | None]] | None = None
        self._cells: dict[tuple[Any, ...], Cell] = {}
        self.shown = Shown(lambda: (self._cell_id, self._number))
        self.complete = completion_matcher(self)
        self.background = Background(self)

    # -- the session

    def open_session(self, **options: Any) -> SessionContext:
        """Open the notebook's session in place of an older one; options are those of `nbflow.session`."""
        session = open_notebook_session(**options)
        self.session_options = options
        session.label = lambda: label_here() or self.label
        if session.settings.history != "off":
            session.collector = Collector(History.open(session.home), notebook_path(self.shell), is_cell)
        self.session = session
        self.open_panel()
        report.install(session)
        return session

    def open_panel(self) -> None:
        """Put a panel in place of an older one, with the face that `%config` or else the settings name."""
        if self.panel is not None:
            self.panel.close()
        if self.session is not None:
            self.panel = PanelController(self.session, self.magics.progress, shell=self.shell)
            if self._raw is not None:
                self.panel.cell_started(self.label)

    def close_session(self) -> None:
        """Close the notebook's session, if there is one; what runs in the background is cancelled."""
        cancel_all(self.background.live(), "the session ended")
        self.shown.close()
        if self.panel is not None:
            self.panel.close()
        self.panel = self.session = None
        close_notebook_session()

    @property
    def auto(self) -> bool:
        """Whether stale cells run again after each cell."""
        return bool(self.magics.auto)

    @auto.setter
    def auto(self, on: bool) -> None:
        self.magics.auto = on

    def show_panel(self, on: bool) -> Any:
        """Show the panel again, or switch it off; what `nbflow.panel` does here and returns."""
        if self.panel is None:
            raise SessionError(
                "The notebook's session is closed, so there is no panel; open one with %session --backend …"
            )
        return self.panel.show(on)

    # -- events of the shell

    def before_cell(self, info: Any) -> None:
        """A cell begins: note where we are."""
        self._number = len(self.shell.history_manager.input_hist_parsed)
        if not info.store_history:
            self._number -= 1
        self.label = f"cell {self._number}"
        self._info = info
        self._raw = info.raw_cell
        self._cell_id = getattr(info, "cell_id", None)
        self._opener = cell_opener()
        self._stop_beat()
        self._stop_beat = start_beat()  # lets an interrupt of a cell that awaits through at once
        self._drop_interrupts()
        self._drop_interrupts = keep_interrupts()
        if self.panel is not None:
            self.panel.cell_started(self.label)

    def after_cell(self, result: Any) -> None:
        """A cell has ended: finish the panel, keep a session it left open, and note what a plain cell wrote."""
        adopt_sessions(self._opener)
        raw = self._raw
        if raw:
            self.seeded = self.seeded or SEEDS.search(raw) is not None
            self._note_plain_cell(raw)
            if result.success and self._info.store_history:
                self.ran[self._cell_id or self._number] = raw
            if self.auto and result.success and not raw.lstrip().startswith("%flow"):
                self._run_stale()
        session = session_or_default()
        if session.settings.mutation_guard:
            is_task = any(node.label == self.label for node in self.graph.nodes.values())
            self.changes.after_cell(session, self.label, meant=is_task or (raw or "").lstrip().startswith("%flow"))
        hints.after_cell(result, self.shell.user_ns, self._hinted)
        self._edits.tell()
        self._stop_beat()
        self._drop_interrupts()
        self._raw = None
        if self.panel is not None:
            self.panel.cell_finished()
        if self.session is not None:
            if self.session.collector is not None:
                self.session.collector.collect(self.session)
            self.session.flush()  # what a cell has made survives a kernel that is killed right after it

    def _note_plain_cell(self, raw: str) -> None:
        if raw.lstrip().startswith("%%task") or self.label is None:
            return
        try:
            tree = ast.parse(getattr(self._info, "transformed_cell", None) or self.shell.transform_cell(raw))
        except SyntaxError:
            return
        self.graph.wrote(self.label, find_effects(tree.body, bodies=False).outputs)

    def _run_stale(self) -> None:
        """Run stale cells again, below the output of the cell that made them stale; the first failure ends it."""
        try:
            self.flow.run_automatically()
        except BaseException:
            self.shell.showtraceback()

    def where_of_file(self, filename: str) -> str:
        """Return "cell 4" for the file name of a cell's code, "" for any other."""
        named = self.shell.compile.format_code_name(filename)
        found = re.fullmatch(r"In\[(\d+)\]", named[1]) if named else None
        return f"cell {found[1]}" if found else ""

    def where_written(self, name: str) -> str:
        """Return the label of the cell that wrote a name last, or ""."""
        return self.graph.writers.get(name, "")

    # -- running cells

    def run_task(self, options: CellOptions, body: str) -> Any:
        """Run the body of a `%%task` cell and return its last value; in the background, start it."""
        __tracebackhide__ = True
        cell = self._read(body)
        if cell.is_async:
            from IPython.core.error import UsageError

            raise UsageError("await in a task cell needs %%task to be the first line of the cell.")
        if not options.background:
            self.background.wait_for(names_read(cell, options))
        run = self._new_run(cell, options)
        if run is None:
            return None
        with self.noted(run):
            return run.run()

    async def run_task_async(self, line: str, body: str) -> Any:
        """Run the body of a `%%task` cell that awaits, or that waits for one; what such a cell is rewritten to."""
        __tracebackhide__ = True
        options = parse_task_line(self.shell.var_expand(line), self.magics.cell_defaults())
        cell = self._read(body)
        if not options.background:
            await self.background.wait_for_async(names_read(cell, options))
        run = self._new_run(cell, options)
        if run is None:
            return None
        with self.noted(run):
            return await run.run_async() if cell.is_async else await interruptible(run.run)

    def rerun(self, node: CellNode, *, force: bool) -> tuple[CellRun, AbstractContextManager[None]]:
        """Return a run of a cell that was executed before, and what to have around it."""
        run = self.run_of(CellRun, node.cell, node.name, replace(node.options, force=force, background=False))
        return run, self.noted(run, node)

    def _read(self, body: str) -> Cell:
        shell, raw, number = self.shell, self._raw, self._number
        place = (body, raw, shell.compile.flags, shell.ast_node_interactivity)
        cell = self._cells.get(place)
        if cell is not None and shell.compile.cache(cell.shown, number, raw_code=raw or body) == cell.filename:
            cell = replace(cell, label=f"cell {number}")
        else:
            cell = read_cell(shell, body, self._source_of(body)[0], number=number, raw=raw)
        if len(self._cells) >= _KEPT_CELLS:
            self._cells.clear()
        if shell.user_ns.keys() >= set(cell.effects.inputs):  # what the others are is yet to be seen
            self._cells[place] = cell
        return cell

    def _new_run(self, cell: Cell, options: CellOptions) -> CellRun | None:
        """Return a run of the cell; None where it has been started in the background."""
        check_names(cell, options, self.shell.user_ns)
        name = name_for(cell, options, self._cell_id, self.graph.nodes)
        if options.background:
            return self.background.start(cell, name, options)
        return self.run_of(CellRun, cell, name, options)

    def run_of(self, kind: type[_Run], cell: Cell, name: str, options: CellOptions) -> _Run:
        """Return a run of a cell as it is now.

        Args:
            kind: `CellRun`, or a class of it.
            cell: The cell.
            name: The name it is kept under.
            options: Those of the magic.
        """
        session = session_or_default()
        return kind(
            self.shell,
            session,
            cell,
            name,
            options,
            where=self.where_written,
            seeded=self.seeded,
            fresh=self._fresh,
            panel=self.panel,
        )

    def _source_of(self, body: str) -> tuple[str, bool | None]:
        """Return `compile_body` of a body; the one that was asked for last is remembered, as each run asks twice."""
        if self._source is None or self._source[0] != body:
            self._source = (body, compile_body(self.shell, body))
        return self._source[1]

    def noted(self, run: CellRun, again: CellNode | None = None) -> AbstractContextManager[None]:
        """Return what to have around a run: the graph learns how it ended, and people what the options ask for.

        Args:
            run: The run.
            again: The cell as it was executed before, where it is not the cell that runs now.
        """
        node = CellNode(run.name, run.cell.label, run.cell, run.options, self._cell_id)
        if again is not None:
            node.cell_id, node.options = again.cell_id, again.options
        self.graph.begins(node)
        return self._noting(run, node)

    @contextmanager
    def _noting(self, run: CellRun, node: CellNode) -> Iterator[None]:
        __tracebackhide__ = True
        began = time.perf_counter()
        old = self.graph.nodes.get(run.name)
        if old is not None:
            node.saved_s, node.runs, node.draws = old.saved_s, old.runs, old.draws
        try:
            yield
        except BaseException as error:
            node.state, node.reason = "failed", one_line(error)
            tidy_error(self.shell, run.cell, run.name, error)
            raise
        else:
            node.state, node.reason, node.unsteady = run.state, run.reason, run.unsteady
            if run.record is not None:
                node.after = run.record.digests
                node.draws = node.draws or bool(run.record.random)
            if run.session.settings.mutation_guard:
                self.changes.made(node.writes, f"`{node.name}`", node.label)
            run.say_how_it_went()
        finally:
            call = run.call
            node.key = run.key if node.state != "failed" else None
            node.saved_s += call.saved_s if call is not None else 0.0
            node.duration_s = time.perf_counter() - began
            node.last_run = time.time()
            node.runs += 1
            if run.counts:
                self.graph.ran(node, left=run.overtaken)
            run.release()

    def key_now(self, node: CellNode) -> CacheKey | None:
        """Return the key that a cell would have if it ran now, with the files that it read last time.

        While cells in the background make what it reads, nobody knows; that is None.
        """
        if self.background.needs(node.reads):
            return None
        key = CellKeyer(node.cell, node.name, self.shell.user_ns, node.options, self.where_written).key({})
        return key if node.key is None else trace.with_files(key, trace.states(node.key))

    # -- the text of cells

    def rewrite(self, lines: list[str]) -> list[str]:
        """Input transformer: let a cell await its task where the body, or a cell that `%flow run` may run, awaits."""
        text = "".join(lines)
        if _TASK_CALL.match(text):
            call = _constant_call(text)
            if call is None:
                return lines
            source, awaits = self._source_of(call[2])
            if awaits is None:  # no valid Python: as a plain cell it gets the error of a plain cell
                return ["\n", *source.splitlines(keepends=True)]
            awaits = awaits or any(job.awaits for job in self.background.live())
            if awaits and self._raw is None:  # else it is below another magic, which cannot await
                end = ";" if _is_silenced(call[2]) else ""
                return [f"await get_ipython().nbflow_state.run_task_async({call[1]!r}, {call[2]!r}){end}\n"]
        elif _FLOW_CALL.match(text) and self._may_await():
            call = _constant_call(text)
            if call is not None:
                return [f"await get_ipython().nbflow_state.flow.do_async({call[1]!r})\n"]
        return lines

    def _may_await(self) -> bool:
        live = any(job.awaits for job in self.background.live())
        return live or any(node.cell.is_async for node in self.graph.nodes.values())

    # -- life

    def install(self) -> None:
        """Hook into the shell."""
        shell = self.shell
        self.taps = Taps(shell)
        self.flow = Flow(self)
        shell.nbflow_state = self
        shell.register_magics(self.magics)
        shell.input_transformers_post.append(self.rewrite)
        shell.events.register("pre_run_cell", self.before_cell)
        shell.events.register("post_run_cell", self.after_cell)
        shell.Completer.custom_matchers.append(self.complete)
        set_where(self.where_of_file)
        shorten(shell)
        self.open_session()
        ambient.why, ambient.panel = self.flow.why, self.show_panel
        ambient.browse = lambda datasets: browser.show(self, datasets)
        ambient.explore = lambda subject, ranges, **options: explore.make_explorer(self, subject, ranges, **options)
        atexit.register(self.close_session)

    def remove(self) -> None:
        """Take everything back; what others changed meanwhile is left alone."""
        shell = self.shell
        atexit.unregister(self.close_session)
        self.close_session()
        ambient.browse = ambient.explore = ambient.why = ambient.panel = None
        set_where(None)
        shorten(None)
        self.taps.remove()
        guard.forget()
        for event, callback in (("pre_run_cell", self.before_cell), ("post_run_cell", self.after_cell)):
            shell.events.unregister(event, callback)
        shell.input_transformers_post[:] = [each for each in shell.input_transformers_post if each != self.rewrite]
        matchers = shell.Completer.custom_matchers
        matchers[:] = [each for each in matchers if each is not self.complete]
        for kind, name in (("cell", "task"), ("line", "%task"), ("line", "flow"), ("line", "session")):
            shell.magics_manager.magics[kind].pop(name, None)
        shell.magics_manager.registry.pop("NbflowMagics", None)
        shell.configurables[:] = [each for each in shell.configurables if each is not self.magics]
        del shell.nbflow_state


def _is_silenced(body: str) -> bool:
    return bool(DisplayHook.semicolon_at_end_of_expression(body))  # type: ignore[no-untyped-call]


def _constant_call(text: str) -> list[Any] | None:
    """Return the arguments of a call whose arguments are constants, if that is all that `text` is."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        return None
    if isinstance(node, ast.Call) and all(isinstance(each, ast.Constant) for each in node.args):
        return [each.value for each in node.args if isinstance(each, ast.Constant)]
    return None


def load(ip: Any) -> None:
    """Set nbflow up in a shell: magics, session, panel, taps; a second time does nothing.

    Args:
        ip: The IPython shell.
    """
    if getattr(ip, "nbflow_state", None) is None:
        ShellState(ip).install()


def unload(ip: Any) -> None:
    """Undo `load`; without it does nothing.

    Args:
        ip: The IPython shell.
    """
    state = getattr(ip, "nbflow_state", None)
    if state is not None:
        state.remove()
