"""`import nbflow` is light, and does nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbflow

# Each of these would add tens of milliseconds or megabytes to every script that imports nbflow.
HEAVY = """
    IPython anywidget asyncio cloudpickle comm concurrent.futures dask fsspec greenlet ipykernel ipywidgets matplotlib
    multiprocessing nbclient nbformat nest_asyncio2 numpy pandas polars pyarrow rich sqlite3 traitlets zmq
""".split()


def _after(statement: str, cwd: Path) -> dict[str, object]:
    """Run a statement in a fresh interpreter and return what it left behind."""
    code = (
        "import sys, threading, json, os\n"
        "before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps({'modules': sorted(set(sys.modules) - before), 'threads': threading.active_count(),\n"
        "                  'files': os.listdir(), 'warnings': sys.warnoptions}))"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    env = {**os.environ, "PYTHONPATH": str(Path(nbflow.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def _heavy(found: dict[str, object]) -> list[str]:
    modules = found["modules"]
    assert isinstance(modules, list)
    return sorted(set(HEAVY) & set(modules))


def test_import_stays_light(tmp_path: Path) -> None:
    """Importing nbflow brings in nothing heavy, starts no thread and writes no file."""
    found = _after("import nbflow", tmp_path)
    assert _heavy(found) == []
    assert found["threads"] == 1
    assert found["files"] == []


def test_a_plain_task_stays_light(tmp_path: Path) -> None:
    """Defining a task and calling it without and within a session brings in nothing heavy either."""
    found = _after(
        "import nbflow\n"
        "@nbflow.task\n"
        "def double(n): return 2 * n\n"
        "assert double(2) == 4\n"
        "with nbflow.session():\n"
        "    assert double(3) == 6\n",
        tmp_path,
    )
    assert _heavy(found) == []
    assert found["threads"] == 1
    assert found["files"] == []


def test_a_module_may_be_imported_on_its_own(tmp_path: Path) -> None:
    """No module of the package depends on another one having been imported before it."""
    package = Path(nbflow.__file__).parent
    names = [".".join(("nbflow", *path.relative_to(package).with_suffix("").parts)) for path in package.rglob("*.py")]
    doors = sorted(name for name in names if name.count(".") == 1 and not name.endswith(("__init__", "__main__")))
    for name in doors:
        _after(f"import {name}", tmp_path)


# What a hit can do without, each a millisecond or several: with them it would take twice as long.
_NOT_FOR_A_HIT = """
    _hashlib array ast copy dataclasses datetime dis enum fcntl html inspect json linecache logging mmap pathlib pickle
    re signal sqlite3 string tokenize typing nbflow.cache.explain nbflow.cache.filestate nbflow.cache.folder
    nbflow.cache.syntax nbflow.runtime.drivers nbflow.runtime.keeping nbflow.runtime.steps
""".split()

_SCRIPT = """
import os, sys
import nbflow

def tripled(n):
    return helper(n) + n

def helper(n):
    if os.path.exists("done"):
        raise SystemExit("not a hit")
    return 2 * n

@nbflow.task(cache=True)
def shown(n, unit="m"):
    '''Shown
    to people.'''
    return f"{tripled(n)} {unit}"

with nbflow.session():
    assert shown(2) == "6 m"
open("done", "w").close()
print(*sys.modules)
"""


def test_a_hit_in_a_fresh_process_loads_little(tmp_path: Path) -> None:
    """What analyses code, tells of misses, follows files or manages a store is not loaded where there only is a hit."""
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT, encoding="utf-8")
    command = [sys.executable, "-W", "error", "-S", str(script)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(nbflow.__file__).parents[1]), *_site_packages()])}
    for run in ("miss", "hit"):
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        if run == "hit":
            assert sorted(set(_NOT_FOR_A_HIT) & set(done.stdout.split())) == []


def _site_packages() -> list[str]:
    """Return where packages are, for an interpreter whose `site` must not bring in modules of its own."""
    return [path for path in sys.path if path.endswith("site-packages")]
