"""nbflow in a shell: what `%load_ext nbflow` sets up and `%unload_ext nbflow` takes down again.

One `ShellState` per shell, kept as its attribute `nbflow_state`: the notebook's session (on the shell, never in a context variable, so that every cell
and thread sees it), the graph of cells, the taps on output, the panel, the label of the cell that runs now. Cells whose body
awaits are rewritten before IPython sees them, since a magic cannot be awaited; all others stay plain magics and can be interrupted.
"""

from __future__ import annotations

import ast
import atexit
import re
import time
from collections.abc import Callable
from typing import Any

from nbflow.cache.fingerprint import set_where
from nbflow.cache.key import CacheKey
from nbflow.notebook import report
from nbflow.notebook.cells import SEEDS, Cell, CellKeyer, CellOptions, is_async_body, read_cell
from nbflow.notebook.graph import CellNode, Graph, name_for
from nbflow.notebook.magics import NbflowMagics, completions
from nbflow.notebook.names import find_effects
from nbflow.notebook.output import Taps
from nbflow.notebook.panel import PanelController
from nbflow.notebook.runner import CellRun, show_plainly
from nbflow.sessions import SessionContext, close_notebook_session, open_notebook_session, session_or_default

__all__ = ["ShellState", "load", "unload"]

_TASK_CALL = re.compile(r"\s*get_ipython\(\)\.run_cell_magic\('task',")
_FLOW_CALL = re.compile(r"\s*get_ipython\(\)\.run_line_magic\('flow', *'run\b")
_KEPT_CELLS = 500


class ShellState:
    """What nbflow keeps about one shell.

    Attributes:
        shell: The IPython shell.
        session: The notebook's session, or None after `%session --close`.
        graph: The `%%task` cells and who wrote which name.
        label: The cell that runs now, or ran last ("cell 4").
        seeded: Whether some cell has set a random seed.
    """

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.graph = Graph()
        self.label: str | None = None
        self.seeded = False
        self.session: SessionContext | None = None
        self.panel: Any = None
        self._number = len(shell.history_manager.input_hist_parsed) - 1
        self._raw: str | None = None
        self._cell_id: str | None = None
        self._cells: dict[tuple[Any, ...], Cell] = {}

    # -- the session

    def open_session(self, **options: Any) -> SessionContext:
        """Open the notebook's session in place of an older one; options are those of `nbflow.session`."""
        session = open_notebook_session(**options)
        session.label = lambda: self.label
        if self.panel is not None:
            self.panel.close()
        self.session = session
        self.panel = PanelController(session, shell=self.shell)
        if self._raw is not None:
            self.panel.cell_started(self.label)
        report.install(session)
        return session

    def close_session(self) -> None:
        """Close the notebook's session, if there is one."""
        if self.panel is not None:
            self.panel.close()
        self.panel = self.session = None
        close_notebook_session()

    # -- events of the shell

    def before_cell(self, info: Any) -> None:
        """A cell begins: note where we are."""
        self._number = len(self.shell.history_manager.input_hist_parsed)
        if not info.store_history:
            self._number -= 1
        self.label = f"cell {self._number}"
        self._raw = info.raw_cell
        self._cell_id = getattr(info, "cell_id", None)
        if self.panel is not None:
            self.panel.cell_started(self.label)

    def after_cell(self, result: Any) -> None:
        """A cell has ended: finish the panel, and note what a plain cell wrote."""
        if self.panel is not None:
            self.panel.cell_finished()
        raw, self._raw = self._raw, None
        if not raw:
            return
        self.seeded = self.seeded or SEEDS.search(raw) is not None
        if raw.lstrip().startswith("%%task") or self.label is None:
            return
        try:
            tree = ast.parse(self.shell.transform_cell(raw))
        except SyntaxError:
            return
        self.graph.wrote(self.label, find_effects(tree.body, bodies=False).outputs)

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
        """Run the body of a `%%task` cell and return its last value."""
        __tracebackhide__ = True
        from IPython.core.error import UsageError

        run = self._new_run(options, body)
        if run.cell.is_async:
            raise UsageError("await in a task cell needs %%task to be the first line of the cell.")
        return self._watch(run, run.run)

    async def run_task_async(self, line: str, body: str) -> Any:
        """Run the body of a `%%task` cell that awaits; the rewritten cell calls this."""
        __tracebackhide__ = True
        options = self.magics.task_options(self.shell.var_expand(line))
        run = self._new_run(options, body)
        with self._noted(run):
            return await run.run_async()

    def rerun(self, node: CellNode, *, force: bool) -> CellRun:
        """Return a run of a cell that was executed before, under its old label."""
        from dataclasses import replace

        options = replace(node.options, force=force, name=node.name)
        return self._run_of(node.cell, node.name, options, node.cell_id)
