"""`nbflow describe`: what a workflow or a notebook takes, and how to run it.

For a workflow: parameters with types and defaults, and the docstring. For a notebook: the parameters that `-p` can
set, which are the assignments of its cell tagged `parameters`. Nothing is run.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path
from typing import Any

from nbflow.cli import console
from nbflow.cli.console import ExitCode, say
from nbflow.cli.table import table
from nbflow.cli.workflow import load

__all__ = ["configure", "execute"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nbflow describe`."""
    parser.description = "Show what a workflow or a notebook does, and the parameters that -p can set."
    parser.add_argument("target", metavar="MODULE:NAME|FILE.py:NAME|FILE.ipynb", help="a workflow or a notebook")


def execute(arguments: argparse.Namespace) -> int:
    """Print the description and return the exit code."""
    target: str = arguments.target
    say(_notebook(target) if target.endswith(".ipynb") else _workflow(target), sys.stdout)
    return ExitCode.OK


def _workflow(target: str) -> str:
    workflow = load(target)
    parts = [f"{workflow.name}{workflow.signature}" + ("  (async)" if workflow.is_async else "")]
    if workflow.description:
        parts.append(workflow.description)
    hints = workflow.get_typed_params()
    rows = []
    for name, parameter in workflow.signature.parameters.items():
        hint = hints.get(name)
        required = parameter.default is parameter.empty
        rows.append(
            [
                name,
                "any" if hint is None else inspect.formatannotation(hint),
                "(required)" if required else repr(parameter.default),
            ]
        )
    if rows:
        parts.append(table(["parameter", "type", "default"], rows, width=console.width()))
    needed = [f"-p {name}=…" for name, _, default in rows if default == "(required)"]
    parts.append("run it: " + " ".join(["nbflow run", target, *needed]))
    return "\n\n".join(parts)


def _notebook(target: str) -> str:
    # nbformat takes a while to import; describing a workflow should not wait for it.
    with console.without_formats():
        from nbflow.cli import notebooks

    notebook = notebooks.read(Path(target))
    cells = len(notebooks.executable_cells(notebook))
    parts = [f"{target}: {cells} code cell{'' if cells == 1 else 's'}"]
    found: dict[str, Any] = notebooks.parameters(notebook)
    rows = [[name, "any" if kind is None else kind, default] for name, (kind, default) in found.items()]
    if rows:
        parts.append(table(["parameter", "type", "default"], rows, width=console.width()))
    else:
        parts.append("no parameters: no cell is tagged `parameters`")
    parts.append(f"run it: nbflow run {target}" + (f" -p {rows[0][0]}=…" if rows else ""))
    return "\n\n".join(parts)
