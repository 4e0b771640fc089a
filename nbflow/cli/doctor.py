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
from nbflow.backends.manager import BackendManager
from nbflow.cache.keyring import OWN, Trust, find_key, ring, ring_folder, short_id
from nbflow.cache.shared import SharedTier, last_trouble
from nbflow.cli.cache import open_store
from nbflow.cli.console import ExitCode, say
from nbflow.cli.units import count_of, format_size
from nbflow.errors import CacheError, NbflowError
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
    ("distributed", 'backend="dask"', 'pip install "nbflow[dask]"'),
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
    findings = [*_python(), *_packages(), *_backends(), *_settings(), *_places(), *_sharing()]
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


def _backends() -> Iterator[_Finding]:
    told = []
    for name, able in BackendManager().describe().items():
        limits = [
            text
            for text, applies in (
                ("dry run", able.dry),
                ("cannot stop a running call", not able.cancel and not able.dry),
                ("keeps no timeouts", not able.timeout),
                ("prints come at the end", not able.relay),
            )
            if applies
        ]
        told.append(f"{name} ({', '.join(limits)})" if limits else name)
    yield _Finding("ok", f"backends: {', '.join(told)}")


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


def _sharing() -> Iterator[_Finding]:
    """Say whether the shared cache answers, by which key results are sealed, and whose are opened."""
    try:
        settings = load_settings()
        store = open_store(Path())
    except Exception:  # told by the checks before
        return
    store.close()
    keys = ", ".join(f"{key.name} ({short_id(key.id)})" for key in ring()) or "none"
    if settings.cache_shared is None:
        yield _Finding("ok", f"cache: not shared; keys in {ring_folder()}: {keys}")
        return
    tier = store.shared
    fault = tier.check() if isinstance(tier, SharedTier) else None
    if fault is None:
        yield _Finding("ok", f"shared cache: {settings.cache_shared} answers")
    else:
        yield _Finding("FAIL", f"shared cache: {settings.cache_shared} does not answer: {fault}")
    trust = Trust(settings.cache_trust)
    named = ", ".join(f"{key.name} ({short_id(key.id)})" for key in trust) or "none"
    yield _Finding("ok", f"shared cache: results sealed by your own key are opened, and by: {named}")
    for reason in trust.missing:
        yield _Finding("FAIL", reason)
    if not (settings.cache_shared_readonly or getattr(tier, "readonly", False)):
        try:
            key = find_key(settings.cache_shared_key or OWN)
            yield _Finding("ok", f"shared cache: what is sent is sealed by key {key.name} ({short_id(key.id)})")
        except CacheError as error:
            yield _Finding("note" if settings.cache_shared_key is None else "FAIL", str(error))
    facts = last_trouble(Path(str(store.location)))
    if facts is not None:
        dropped = count_of(facts["dropped"], "result")
        yield _Finding("note", f"shared cache: lately {dropped} could not be sent to {facts['url']}: {facts['fault']}")
