"""`nbflow run`: a notebook in a real kernel, or a workflow in this process; only what changed is computed.

The notebook itself stays as it is: the executed copy goes beside it as `NAME.executed.ipynb` (like nbconvert's), to
`--output FILE` (like papermill's second argument), or over the notebook with `--in-place`. It is also written after a
failure or an interrupt. Tasks that have finished are in the cache by then, so running the same command again goes on
from there.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbflow.cli import console
from nbflow.cli.console import CliError, ExitCode, say, usage
from nbflow.cli.parameters import split_pairs
from nbflow.cli.progress import Board, LiveView, Milestones, View
from nbflow.cli.table import finish
from nbflow.notebook.report import ENVIRONMENT_SWITCH

__all__ = ["configure", "execute"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nbflow run`."""
    add = parser.add_argument
    parser.description = (
        "Run FILE.ipynb in a fresh kernel, or the workflow MODULE:NAME in this process.\n"
        "Results of tasks come from the cache where nothing changed, so a run that failed\n"
        "or was killed goes on where it stopped."
    )
    add("target", metavar="FILE.ipynb|MODULE:NAME", help="a notebook, or a workflow such as pipeline:train")
    add("-p", "--param", metavar="NAME=VALUE", action="append", default=[], help="set a parameter (may be repeated)")
    add("--backend", metavar="NAME", help="where maps run: inline, thread, process, dask, …")
    add("--force", action="store_true", help="compute every task anew and overwrite its cached result")
    add("-q", "--quiet", action="store_true", help="say nothing but errors")
    add("--json", action="store_true", help="print one JSON object at the end instead of the table")
    add("--html", action="store_true", help="also write a report: a page that needs no other file")
    group = parser.add_argument_group("notebooks only")
    add = group.add_argument
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "--output",
        "-o",
        metavar="OUT.ipynb",
        type=Path,
        help="executed notebook (default: NAME.executed.ipynb)",
    )
    where.add_argument("--in-place", action="store_true", help="write the outputs into FILE.ipynb itself")
    add("--timeout", metavar="SECONDS", type=_positive, help="stop the run when one cell takes longer than this")
    add("--kernel", metavar="NAME", help="run in this installed kernel (default: the Python that runs nbflow)")
    add("--cwd", metavar="DIR", type=Path, help="folder in which the kernel works (default: the notebook's)")


def execute(arguments: argparse.Namespace) -> int:
    """Run what was asked for and return the exit code."""
    target: str = arguments.target
    if target.endswith(".ipynb") or (Path(target).is_file() and not target.endswith(".py")):
        return _run_notebook(arguments)
    if ":" not in target and "." not in target:
        raise usage(f"{target} is neither a notebook (FILE.ipynb) nor a workflow (MODULE:NAME)")
    for option in ("output", "in_place", "timeout", "kernel", "cwd"):
        if getattr(arguments, option):
            raise usage(f"--{option.replace('_', '-')} is for notebooks; {target} is a workflow")
    # Only now: a notebook needs no workflow and the other way round.
    from nbflow.cli.workflow import run_workflow

    return run_workflow(arguments)


def _positive(text: str) -> float:
    with suppress(ValueError):
        if (value := float(text)) > 0:
            return value
    raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")


def make_view(board: Board, quiet: bool) -> View:
    """Return the live view that fits the terminal."""
    if quiet:
        return View(board, sys.stderr)
    return LiveView(board, sys.stderr) if console.interactive(sys.stderr) else Milestones(board, sys.stderr)


@dataclass(frozen=True, slots=True)
class _Paths:
    source: Path
    output: Path
    cwd: Path


def _paths(arguments: argparse.Namespace) -> _Paths:
    """Return where to read, write and work; what cannot be is said before anything runs."""
    source = Path(arguments.target)
    if not source.exists():
        raise usage(f"{source}: no such file")
    if arguments.in_place:
        output = source
    elif arguments.output is not None:
        output = arguments.output / source.name if arguments.output.is_dir() else arguments.output
        if output.exists() and output.samefile(source):
            raise usage(f"--output {output} is the notebook itself; use --in-place to overwrite it")
    else:
        output = source.with_name(f"{source.stem}.executed.ipynb")
    folder = output.resolve().parent
    if not folder.is_dir():
        raise usage(f"{output} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise usage(f"{output} cannot be written: {folder} is read-only; use --output")
    cwd = (arguments.cwd or source.parent).resolve()
    if arguments.cwd is not None and not cwd.is_dir():
        raise usage(f"--cwd {arguments.cwd}: no such folder")
    return _Paths(source, output, cwd)


def _run_notebook(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    given = split_pairs(arguments.param)
    paths = _paths(arguments)
    if arguments.backend and arguments.kernel is None:  # another Python may have other plug-ins
        console.check_backend(arguments.backend)
    # nbclient and nbformat take a while to import; bad arguments should not wait for that.
    with console.without_formats():
        from nbflow.cli import notebooks
        from nbflow.cli.runner import Outcome, Runner, Status

    notebook = notebooks.read(paths.source)
    _check_language(notebook, arguments)
    values = notebooks.inject(notebook, given)
    notebooks.clear_outputs(notebook)
    board = Board()
    view = make_view(board, arguments.quiet)
    try:
        outcome: Outcome = Runner(
            notebook,
            view,
            kernel=arguments.kernel,
            cwd=str(paths.cwd),
            env={**_environment(arguments), "JPY_SESSION_NAME": str(paths.source.resolve())},  # as servers name it
            timeout_s=arguments.timeout,
        ).run()
    finally:
        view.close()
    if outcome.status is Status.NO_KERNEL:
        raise CliError(outcome.message, ExitCode.NO_KERNEL)
    notebooks.write(notebook, paths.output)
    code = {Status.OK: ExitCode.OK, Status.INTERRUPTED: ExitCode.INTERRUPTED}.get(outcome.status, ExitCode.FAILED)
    took = time.monotonic() - began
    page = _write_page(notebook, paths, outcome, values, board, took) if arguments.html else None
    if outcome.traceback and not arguments.json:
        say(console.plain(outcome.traceback, sys.stderr))
    facts = {
        "notebook": str(paths.source),
        "output": str(paths.output),
        "html": None if page is None else str(page),
        "parameters": values,
        "status": outcome.status.value,
        "cell": outcome.cell,
        "error": outcome.message or None,
    }
    finish(facts, board.ordered(), took, code, quiet=arguments.quiet, as_json=arguments.json)
    if outcome.message:
        again = "; what was cached is not computed again: the same command goes on from there" if board.rows else ""
        say(f"nbflow: {outcome.message}{again}")
    if not arguments.quiet and not arguments.json:
        say(f"wrote {paths.output}{f' and {page}' if page is not None else ''}")
    return code


def _check_language(notebook: Any, arguments: argparse.Namespace) -> None:
    """Refuse to run another language's notebook in Python."""
    spec = notebook.metadata.get("kernelspec", {})
    language = spec.get("language") or notebook.metadata.get("language_info", {}).get("name") or "python"
    if arguments.kernel is None and language.lower() not in ("python", "ipython", "python3"):
        name = spec.get("name", language)
        raise usage(f"{arguments.target} is a notebook in {language}; to run it in its own kernel add --kernel {name}")


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the kernel's environment: settings travel as `NBFLOW_*`."""
    env = {**os.environ, ENVIRONMENT_SWITCH: "1"}
    # Nobody is there to click: a panel that is plain HTML leaves a readable summary in the notebook.
    env.setdefault("NBFLOW_PROGRESS", "html")
    if arguments.backend:
        env["NBFLOW_BACKEND"] = arguments.backend
    if arguments.force:
        env["NBFLOW_FORCE"] = "1"
    return env


def _write_page(
    notebook: Any, paths: _Paths, outcome: Any, values: dict[str, Any], board: Board, took_s: float
) -> Path:
    """Write the report beside the executed notebook and return its path."""
    from nbflow.cli.page import Page, cell_graph, write_page  # only a run with --html needs it

    rows = board.ordered()
    path = paths.output.with_suffix(".html")
    page = Page(
        title=str(paths.source),
        status=outcome.status.value,
        message=outcome.message,
        traceback=outcome.traceback,
        parameters=values,
        rows=rows,
        took_s=took_s,
        graph=cell_graph(notebook.cells, rows),
        cells=notebook.cells,
    )
    try:
        write_page(page, path)
    except OSError as error:
        raise usage(f"{path} cannot be written: {error.strerror or error}") from None
    return path
