"""`nbflow list`: the workflows of a module or file, one line each.

The first column is what `nbflow run` and `nbflow describe` take. The module is imported, since decorators are code;
its tasks are not run. With `--json` the same is printed for programs.
"""

from __future__ import annotations

import argparse
import json
import sys

from nbflow.cli import console
from nbflow.cli.console import ExitCode, say
from nbflow.cli.table import table
from nbflow.cli.workflow import find, import_target

__all__ = ["configure", "execute"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nbflow list`."""
    parser.description = "List the workflows of a module or of a Python file."
    parser.add_argument("target", metavar="MODULE|FILE.py", help="an importable module, or a Python file")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def execute(arguments: argparse.Namespace) -> int:
    """Print the workflows and return the exit code."""
    target: str = arguments.target
    workflows = find(import_target(target))
    facts = [
        {
            "target": f"{target}:{name}",
            "name": workflow.name,
            "signature": str(workflow.signature),
            "async": workflow.is_async,
            "description": workflow.description,
        }
        for name, workflow in workflows.items()
    ]
    if arguments.json:
        say(json.dumps(facts, ensure_ascii=False), sys.stdout)
    elif not facts:
        say(f"nbflow: {target} has no workflows; decorate a function with @workflow")
    else:
        rows = [
            [str(fact["target"]), str(fact["signature"]), (str(fact["description"]).splitlines() or [""])[0]]
            for fact in facts
        ]
        say(table(["workflow", "parameters", "description"], rows, width=console.width()), sys.stdout)
    return ExitCode.OK
