"""Workflows on the command line: find them in modules and files, and run one in this process.

The working directory is importable, as with `python -m`; a file is imported under its own name. A run opens a session
with the options given, counts what its tasks do, and prints the result below the table. Errors of the workflow are
shown with the user's frames only.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from nbflow._util import one_line, trim_traceback
from nbflow.cli.console import CliError, ExitCode, check_backend, say, usage
from nbflow.cli.parameters import split_pairs, workflow_values
from nbflow.cli.progress import Board, Milestones, View
from nbflow.cli.table import finish
from nbflow.notebook.report import Tally
from nbflow.runtime.loop import run as run_coroutine
from nbflow.sessions import session
from nbflow.settings import load_settings, set_global_settings, with_overrides
from nbflow.workflows import Workflow, load_workflow

__all__ = ["find", "import_target", "load", "run_workflow"]


def import_target(target: str) -> ModuleType:
    """Import a module by name, or a file by path.

    Raises:
        CliError: It does not exist or its code fails; one line says where.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    path = Path(target)
    is_file = target.endswith(".py")
    if is_file and not path.is_file():
        raise usage(f"{target}: no such file")
    try:
        return _import_file(path) if is_file else importlib.import_module(target)
    except ModuleNotFoundError as error:
        if not is_file and error.name is not None and (target == error.name or target.startswith(error.name + ".")):
            raise usage(f"there is no module {target} (a file is named with its .py)") from None
        raise usage(f"{target} cannot be imported: {one_line(error)}{_where(error)}") from None
    except Exception as error:
        raise usage(f"{target} cannot be imported: {one_line(error)}{_where(error)}") from None


class _ProgramLoader(SourceFileLoader):
    """Compiles a file as it is now, as `python FILE` does: code from before is only told apart by whole seconds."""

    def path_stats(self, path: Any) -> Mapping[str, Any]:
        """Say that nothing is known of the file by which compiled code could be found."""
        raise OSError


def _import_file(path: Path) -> ModuleType:
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name, file = path.stem, str(path.resolve())
    spec = importlib.util.spec_from_file_location(name, file, loader=_ProgramLoader(name, file))
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    # Known under its name, so that workers and pickles find what is defined in it.
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _where(error: BaseException) -> str:
    """Return file and line of the innermost frame that is no import machinery."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file != __file__ and not file.startswith("<frozen") and "importlib" not in file:
            found = f" ({file}:{trace.tb_lineno})"
        trace = trace.tb_next
    return found


def find(module: ModuleType) -> dict[str, Workflow[Any, Any]]:
    """Return the workflows of a module by attribute name, each once, in order of definition."""
    found: dict[str, Workflow[Any, Any]] = {}
    for name, value in vars(module).items():
        if isinstance(value, Workflow) and not any(value is other for other in found.values()):
            found[name] = value
    return found


def load(target: str) -> Workflow[Any, Any]:
    """Return the workflow that `MODULE:NAME`, `MODULE.NAME` or `FILE.py:NAME` names.

    Raises:
        CliError: There is no such module, attribute or workflow; the message lists the ones there are.
    """
    place, colon, name = target.rpartition(":")
    if not colon and target.endswith(".py"):
        known = ", ".join(find(import_target(target))) or "none"
        raise usage(f"{target}: name a workflow of it, as in {target}:NAME; it has: {known}")
    if not colon:
        place, _, name = target.rpartition(".")
    if not place or not name:
        raise usage(f"{target}: name a workflow as MODULE:NAME or FILE.py:NAME")
    module = import_target(place)
    try:
        return load_workflow(f"{module.__name__}:{name}")
    except (AttributeError, TypeError):
        known = ", ".join(find(module)) or "none"
        raise usage(f"{place} has no workflow named {name}; it has: {known}") from None


class _Ended(NamedTuple):
    """How a workflow ended; `problem` says what went wrong, in one line."""

    code: ExitCode
    result: Any = None
    problem: str = ""
    traceback: str = ""

    @property
    def status(self) -> str:
        return {ExitCode.OK: "ok", ExitCode.FAILED: "failed"}.get(self.code, "interrupted")


def run_workflow(arguments: argparse.Namespace) -> int:
    """Run the workflow that `arguments.target` names and print its result."""
    began = time.monotonic()
    given = split_pairs(arguments.param)
    workflow = load(arguments.target)
    hints = {name: hint for name, hint in workflow.get_typed_params().items() if hint is not None}
    values = workflow_values(given, workflow.signature, hints)
    if arguments.backend:  # not before: the module may have registered it
        check_backend(arguments.backend)
    settings = load_settings(backend=arguments.backend, force=arguments.force or None)
    if settings.history == "auto":  # runs from the command line are remembered, as those of notebooks are
        settings = with_overrides(settings, history="on")
    set_global_settings(settings)
    board = Board()
    ended = _run(workflow, values, View(board, sys.stderr) if arguments.quiet else Milestones(board, sys.stderr))
    took = time.monotonic() - began
    page = _write_page(arguments.target, workflow, values, ended, board, took) if arguments.html else None
    if ended.traceback and not arguments.json:
        say(ended.traceback)
    facts = {
        "workflow": arguments.target,
        "html": None if page is None else str(page),
        "parameters": {name: repr(value) for name, value in values.items()},
        "status": ended.status,
        "error": ended.problem or None,
        "result": _jsonable(ended.result),
    }
    finish(facts, board.ordered(), took, ended.code, quiet=arguments.quiet, as_json=arguments.json)
    if ended.result is not None and not arguments.json:
        say(str(ended.result), sys.stdout)
    if page is not None and not arguments.quiet and not arguments.json:
        say(f"wrote {page}")
    if ended.problem:
        again = "; what was cached is not computed again: the same command goes on from there" if board.rows else ""
        raise CliError(ended.problem + again, ended.code)
    return ended.code


def _run(workflow: Workflow[Any, Any], values: dict[str, Any], view: View) -> _Ended:
    """Call a workflow, with its progress shown."""
    tally = Tally()
    call: Any = workflow
    with session() as context, _stoppable():
        context.add_observer(tally, items=False)
        with _watch(context, tally, view):
            try:
                return _Ended(ExitCode.OK, run_coroutine(call(**values)) if workflow.is_async else call(**values))
            except KeyboardInterrupt:
                return _Ended(ExitCode.INTERRUPTED, problem=f"{workflow.name} was interrupted")
            except Exception as error:
                problem = f"{workflow.name} failed: {one_line(error)}"
                return _Ended(ExitCode.FAILED, problem=problem, traceback=trim_traceback(error))


def _write_page(
    target: str, workflow: Workflow[Any, Any], values: dict[str, Any], ended: _Ended, board: Board, took_s: float
) -> Path:
    """Write the report into the working directory and return its path."""
    from nbflow.cli.page import Page, task_graph, write_page  # only a run with --html needs it

    rows = board.ordered()
    path = Path(f"{re.sub(r'[^0-9A-Za-z_.-]+', '-', workflow.name)}.html")
    state = {ExitCode.OK: "fresh", ExitCode.FAILED: "failed"}.get(ended.code, "cancelled")
    page = Page(
        title=target,
        status=ended.status,
        message=ended.problem,
        traceback=ended.traceback,
        parameters=values,
        rows=rows,
        took_s=took_s,
        graph=task_graph(workflow.name, rows, state) if rows else None,
        result="" if ended.result is None else str(ended.result),
    )
    try:
        write_page(page, path)
    except OSError as error:
        raise usage(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def _jsonable(value: Any) -> Any:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return repr(value)
    return value


@contextmanager
def _watch(context: Any, tally: Tally, view: View) -> Iterator[None]:
    """Show progress from a thread of its own until the block ends, however long the workflow keeps this one busy."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            tally.sample(context.live_maps())
            view.report(tally.changes())
            view.tick()

    watcher = threading.Thread(target=look, name="nbflow-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        view.report(tally.changes())
        view.close()


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM end a workflow as Ctrl-C does, so that its workers are stopped and what was found is printed.

    A second SIGTERM ends this process, in case the workflow does not listen. Ctrl-C is left as it is: the runtime
    itself stops code of the main thread by that signal, so those of the user could not be counted.
    """
    seen = 0

    def interrupt(number: int, frame: Any) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            say("nbflow: killed")
            os._exit(int(ExitCode.INTERRUPTED))  # worker processes end with this one
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
