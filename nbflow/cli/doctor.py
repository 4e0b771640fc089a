"""`nbflow doctor`: whether this environment has what nbflow needs, and what to do where it has not.

One line for each check: `ok`, `note` (something optional is missing) or `FAIL`, with the way to mend it. Nothing is
changed: some calls are timed and one worker process is started, and both leave nothing behind. The exit code is 1 if
something fails.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import NamedTuple

from nbflow._util import format_duration, one_line
from nbflow._version import __version__
from nbflow.backends.manager import BackendManager
from nbflow.cache.keyring import OWN, Trust, find_key, ring, ring_folder, short_id
from nbflow.cache.shared import SharedTier, last_trouble
from nbflow.cli.cache import open_store
from nbflow.cli.console import ExitCode, say
from nbflow.cli.units import count_of, format_size
from nbflow.compose import map_tasks
from nbflow.errors import CacheError, NbflowError
from nbflow.sessions import session
from nbflow.settings import Settings, load_settings
from nbflow.tasks import task

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
    ("distributed", 'backend="dask"', 'pip install "nbflow[dask]"'),
    ("pandas", "tables, the example notebooks", 'pip install "nbflow[data]"'),
)
_EXTENSIONS = (("@jupyter-widgets/jupyterlab-manager", "jupyterlab_widgets"), ("anywidget", "anywidget"))
_CALLS = 1000
_SLOW_CALL_S = 50e-6
_LITTLE_BYTES = 1 << 30


class _Finding(NamedTuple):
    state: str
    what: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nbflow doctor`."""
    parser.description = "Check this environment."


def execute(arguments: argparse.Namespace) -> int:
    """Print the findings and return the exit code."""
    failed = False
    checks = (_python, _packages, _kernels, _front_ends, _plugins, _backends, _workers, _clock)
    for check in (*checks, _settings, _places, _sharing):
        for finding in check():
            failed |= finding.state == "FAIL"
            say(f"{finding.state:>4}  {finding.what}", sys.stdout)
    return ExitCode.FAILED if failed else ExitCode.OK


def _python() -> Iterator[_Finding]:
    yield _Finding("ok", f"nbflow {__version__}, Python {platform.python_version()} ({sys.executable})")


def _packages() -> Iterator[_Finding]:
    for group, state in ((_NEEDED, "FAIL"), (_OPTIONAL, "note")):
        for name, purpose, remedy in group:
            try:
                yield _Finding("ok", f"{name} {version(name)} ({purpose})")
            except PackageNotFoundError:
                yield _Finding(state, f"{name} is missing ({purpose}): {remedy}")


def _kernels() -> Iterator[_Finding]:
    """Say which kernels a notebook can choose; `nbflow run` needs none of them."""
    try:
        from jupyter_client.kernelspec import KernelSpecManager  # slow to import
    except ImportError:
        return  # told by the check of the packages
    manager = KernelSpecManager()
    names, ours = [], []
    for name in sorted(manager.find_kernel_specs()):
        try:
            argv = manager.get_kernel_spec(name).argv
        except Exception as error:
            yield _Finding("note", f"kernel {name} cannot be read: {one_line(error)}")
            continue
        program = shutil.which(argv[0]) if argv else None
        if program is None:
            yield _Finding(
                "note", f"kernel {name} runs {' '.join(argv[:1])}, which is gone: jupyter kernelspec remove {name}"
            )
            continue
        names.append(name)
        # "python" is replaced by Jupyter's own; that of a virtual environment may be a link to another.
        if argv[0] in ("python", "python3") or os.path.dirname(program) == os.path.dirname(sys.executable):
            ours.append(name)
    if ours:
        yield _Finding("ok", f"kernels: {', '.join(names)}; {', '.join(ours)} runs this Python")
    else:
        known = f"only {', '.join(names)}" if names else "none"
        yield _Finding(
            "note",
            f"kernels: {known}, none of which runs this Python; for notebooks to use it: "
            "python -m ipykernel install --user --name nbflow",
        )


def _front_ends() -> Iterator[_Finding]:
    """Say whether JupyterLab, if it is installed here, has what draws widgets."""
    try:
        version("jupyterlab")
        from jupyter_core.paths import jupyter_path
    except (PackageNotFoundError, ImportError):
        yield _Finding("note", "front ends: no JupyterLab here; another one shows the live panel if it has widgets")
        return
    folders = [Path(folder) for folder in jupyter_path("labextensions")]
    for extension, package in (
        ("@jupyter-widgets/jupyterlab-manager", "jupyterlab_widgets"),
        ("anywidget", "anywidget"),
    ):
        if not any((folder / extension).is_dir() for folder in folders):
            yield _Finding(
                "note",
                f"front ends: JupyterLab has no {extension}, so the live panel is plain HTML; pip install {package}, "
                "and reload the page",
            )
            return
    yield _Finding("ok", "front ends: JupyterLab draws widgets")


def _plugins() -> Iterator[_Finding]:
    """Say which plug-ins other packages bring."""
    for group in ("nbflow.backends", "nbflow.datasets", "nbflow.digests", "nbflow.hooks"):
        for point in entry_points(group=group):
            what = f"plug-in {point.name} ({group}: {point.value})"
            try:
                point.load()
            except Exception as error:
                yield _Finding("FAIL", f"{what} cannot be loaded: {one_line(error)}; repair or uninstall it")
            else:
                yield _Finding("ok", what)


def _workers() -> Iterator[_Finding]:
    """Start one worker process and have it do something."""
    method = "forked by a small server" if hasattr(os, "fork") else "started one by one"
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as home, _trial(home):
            (found,) = map_tasks(_pid, [0], backend="process")
    except Exception as error:
        yield _Finding("FAIL", f'worker processes cannot be used: {one_line(error)}; use backend="thread"')
        return
    took = format_duration(time.perf_counter() - began)
    state, hint = ("ok", "") if found != os.getpid() else ("note", "; it was this very process")
    yield _Finding(state, f"worker processes: {method}, first result after {took}{hint}")


def _clock() -> Iterator[_Finding]:
    """Say what a call of a task costs beyond its function."""
    with tempfile.TemporaryDirectory() as home, _trial(home):
        call = task(_pid)
        best = min(_timed(call) for _ in range(5))
    text = f"clock: a call of a task costs {best * 1e6:.1f} µs"
    if sys.gettrace() is not None or sys.getprofile() is not None:
        yield _Finding("note", f"{text}, with a debugger, profiler or coverage watching; it is less without")
    elif best > _SLOW_CALL_S:
        yield _Finding("note", f"{text}, much more than usual: this machine is busy or slow")
    else:
        yield _Finding("ok", text)


def _timed(call: Callable[[int], object]) -> float:
    """Return the seconds of one call, of many."""
    began = time.perf_counter()
    for _ in range(_CALLS):
        call(0)
    return (time.perf_counter() - began) / _CALLS


def _pid(_: int) -> int:
    return os.getpid()


def _trial(home: str) -> AbstractContextManager[object]:
    """Open a session that leaves nothing behind and that no plug-in hears."""
    return session(settings=Settings(home=home, load_plugins=False, progress="off"))


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
    if (free := shutil.disk_usage(above).free) < _LITTLE_BYTES:
        yield _Finding("note", f"only {format_size(free)} are free in {above}; nbflow cache prune makes room")
    yield _Finding("ok", f"cache: {count_of(facts['entries'], 'result')}, {format_size(facts['bytes'])} in {folder}")
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
