"""`nbflow export`: a notebook as a Python script that needs neither Jupyter nor IPython.

Nothing is run. The script keeps the cells' order, comments and layout; `%%task` lines become comments, shell lines
calls of `subprocess`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nbflow.cli import console
from nbflow.cli.console import ExitCode, say, usage
from nbflow.errors import DefinitionError

__all__ = ["configure", "execute"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nbflow export`."""
    parser.description = "Write a notebook as a Python script. Nothing is run."
    parser.add_argument("notebook", metavar="FILE.ipynb", help="the notebook")
    parser.add_argument(
        "-o", "--output", metavar="FILE.py", help="where to write; - for standard output (default: beside the notebook)"
    )
    parser.add_argument("-f", "--force", action="store_true", help="replace a file that is there")


def execute(arguments: argparse.Namespace) -> int:
    """Write the script and return the exit code."""
    source = Path(arguments.notebook)
    # nbformat and IPython take a while to import; `nbflow --help` should not wait for them.
    with console.without_formats():
        from nbflow.cli import notebooks
    from nbflow.notebook.script import script_of

    notebook = notebooks.read(source)
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells]
    try:
        text = script_of(cells, f"Exported from {source.name} by nbflow export.")
    except DefinitionError as error:
        raise usage(f"{source}: {error}") from None
    if arguments.output == "-":
        say(text.rstrip("\n"), sys.stdout)
        return ExitCode.OK
    target = source.with_suffix(".py") if arguments.output is None else Path(arguments.output)
    if target.exists() and not arguments.force:
        raise usage(f"{target} is there already; replace it with --force, or choose another file with -o")
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise usage(f"{target} cannot be written: {error.strerror or error}") from None
    say(f"wrote {target}")
    return ExitCode.OK
