"""`nbflow doctor`: whether this environment has what nbflow needs, and what to do where it has not.

One line for each check: `ok`, `note` (something optional is missing) or `FAIL` with the way to mend it. Nothing is
changed or started, so it can be run anywhere. The exit code is 1 if something fails.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from nbflow._version import __version__
from nbflow.cli.cache import format_size, open_store
from nbflow.cli.console import ExitCode, say
from nbflow.errors import NbflowError
from nbflow.settings import load_settings

__all__ = ["configure", "execute"]

# Package, what it is for, and how to get it; the first group is needed, the second is not.
_NEEDED = (
    ("ipykernel", "kernels of notebooks", "pip install ipykernel"),
    ("ipywidgets", "forms and sliders", "pip install ipywidgets"),
    ("anywidget", "the live panel", "pip install anywidget"),
    ("nbclient", "nbflow run", "pip install nbclient"),
    ("cloudpickle", "caching results of notebook classes", "pip install cloudpickle"),
)
_OPTIONAL = (
    ("jupyterlab", "nbflow lab", 'pip install "nbflow[lab]"'),
    ("nbconvert", "nbflow run --html", 'pip install "nbflow[lab]"'),
    ("pandas", "tables, the example notebooks", 'pip install "nbflow[data]"'),
)


class _Finding(NamedTuple):
    state: str
    what: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nbflow doctor`."""
    parser.description = "Check this environment."


def execute(arguments: argparse.Namespace) -> int:
    """Print the findings and return the exit code."""
    findings = [*_python(), *_packages(), *_settings(), *_places()]
    for finding in findings:
        say(f"{finding.state:>4}  {finding.what}", sys.stdout)
    return ExitCode.FAILED if any(finding.state == "FAIL" for finding in findings) else ExitCode.OK


def _python() -> Iterator[_Finding]:
    yield _Finding("ok", f"nbflow {__version__}, Python {platform.python_version()} ({sys.executable})")


def _packages() -> Iterator[_Finding]:
    for group, state in ((_NEEDED, "FAIL"), (_OPTIONAL, "note")):
        for name, purpose, remedy in group:
            try:
                yield _Finding("ok", f"{name} {version(name)} ({purpose})")
            except PackageNotFoundError:
                yield _Finding(state, f"{name} is missing ({purpose}): {remedy}")


def _settings() -> Iterator[_Finding]:
    try:
        settings = load_settings()
    except NbflowError as error:
        yield _Finding("FAIL", str(error))
        return
    changed = [name for name in os.environ if name.startswith("NBFLOW_")]
    source = f" ({', '.join(sorted(changed))} set)" if changed else ""
    yield _Finding("ok", f"settings: backend {settings.backend}, progress {settings.progress}{source}")


def _places() -> Iterator[_Finding]:
    try:
        store = open_store(Path())
    except NbflowError:
        return  # told by the check of the settings
    except Exception as error:
        yield _Finding("note", str(error))
        return
    folder = Path(str(store.location))
    above = next(place for place in (folder, *folder.parents) if place.exists())
    if not os.access(above, os.W_OK):
        yield _Finding("FAIL", f"{above} is read-only, so results are lost with the kernel; set NBFLOW_HOME")
        return
    try:
        facts = store.stats()
    except NbflowError as error:
        yield _Finding("FAIL", f"{error} Delete {folder} to start anew.")
        return
    finally:
        store.close()
    yield _Finding("ok", f"cache: {facts['entries']} results, {format_size(facts['bytes'])} in {folder}")
    if facts["quarantined"]:
        yield _Finding("note", f"{facts['quarantined']} damaged results were set aside in {folder}")
