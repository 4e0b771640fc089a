"""`nbflow lab`: JupyterLab on a notebook, in this very Python.

Without a file the quickstart notebook is opened: the one that was installed with nbflow, or that of a source checkout.
It is opened where it is, not copied, so that its cache stays beside it. What stands after the file goes to JupyterLab.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from nbflow.cli.console import CliError, ExitCode, say, usage

__all__ = ["configure", "execute"]

_QUICKSTART = "01-quickstart.ipynb"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nbflow lab`."""
    parser.description = "Open JupyterLab on FILE (default: the quickstart notebook)."
    parser.usage = "nbflow lab [-h] [FILE] [-- JUPYTERLAB OPTIONS]"
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="notebook or folder to open")
    parser.add_argument("rest", metavar="OPTIONS", nargs="*", help="passed to jupyter lab, after --")


def execute(arguments: argparse.Namespace) -> int:
    """Run JupyterLab until it is stopped and return its exit code."""
    file: Path = arguments.file if arguments.file is not None else quickstart()
    if not file.exists():
        raise usage(f"{file}: no such file")
    if importlib.util.find_spec("jupyterlab") is None:
        raise CliError('JupyterLab is not installed; pip install "nbflow[lab]"')
    from jupyterlab.labapp import main

    say(f"nbflow: opening {file}")
    sys.argv[0] = "jupyter-lab"
    return int(main([str(file), *arguments.rest]) or ExitCode.OK)


def quickstart() -> Path:
    """Return the path of the quickstart notebook.

    Raises:
        CliError: It was not installed with nbflow and this is no source checkout.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if (folder / _QUICKSTART).is_file():
            return folder / _QUICKSTART
    raise usage("the quickstart notebook is not installed; name a notebook to open")
