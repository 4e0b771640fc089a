"""Equivalence on notebooks of many kinds: plain, with `%%task` on every cell, after a restart, and once more.

Each file of `gallery/` is one notebook, its cells parted by `# %%`. What the cells show and what they leave behind must
be the same in all four runs; in the later two no body may run that can be cached, and for each other one there is a
reason.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

GALLERY = sorted(Path(__file__).with_name("gallery").glob("*.py"))
NAMES = [path.stem for path in GALLERY]

PREPARE = """%reset -f
import atexit, gc, os, shutil
gc.freeze()  # what is left are modules, through which no later collection need go
%cd -q {folder}
import matplotlib; matplotlib.rcdefaults(); import matplotlib.pyplot; matplotlib.pyplot.close('all')
%load_ext nbflow
"""

STATE = """def _state():
    import collections, types
    seen, found = {}, []
    def walk(value, depth=0):
        kind = type(value)
        if isinstance(value, types.ModuleType):
            return value.__name__
        if isinstance(value, (int, float, str, bytes, complex, type(None), range)):
            return kind.__name__, repr(value)
        if isinstance(value, (type, types.FunctionType)):
            return kind.__name__, value.__name__
        if id(value) in seen:
            return "same as", seen[id(value)]
        if not isinstance(value, tuple):
            seen[id(value)] = len(seen)
        if isinstance(value, (list, tuple, collections.deque)):
            return kind.__name__, [walk(each, depth + 1) for each in value]
        if isinstance(value, dict):
            return kind.__name__, [(repr(key), walk(each, depth + 1)) for key, each in value.items()]
        if kind.__module__ == "__main__" and hasattr(value, "__dict__"):
            return kind.__name__, walk(dict(vars(value)), depth + 1)
        return kind.__name__, "" if " at 0x" in repr(value) else repr(value)
    own = get_ipython().user_ns_hidden
    for name in sorted(globals()):
        if not name.startswith("_") and name not in own and name not in ("In", "Out"):
            found.append((name, walk(globals()[name])))
    return found
for _each in _state(): print(*_each)
del _each, _state"""


def cells_of(path: Path) -> list[str]:
    """Return the cells of a notebook of the gallery."""
    _, *cells = re.split(r"^# %%\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [cell.rstrip("\n") for cell in cells]


def as_task(cell: str) -> str:
    """Put `%%task` above a cell, below `%%time`, which stays the first line."""
    timed, rest = ("%%time\n", cell[len("%%time\n") :]) if cell.startswith("%%time\n") else ("", cell)
    return f"{timed}%%task -q\n{rest}"


def steady(text: str) -> str:
    """Return text without what differs from run to run: addresses, timings, ids that are drawn anew each time."""
    text = re.sub(r"(CPU times|Wall time).*\n", "", text)
    return re.sub(r" at 0x[0-9a-f]+|[0-9a-f]{32}", "", text)


def normalised(outputs: list[Any]) -> list[Any]:
    """Return outputs as they can be compared."""
    found = []
    for each in outputs:
        found.append({name: steady(value) if isinstance(value, str) else value for name, value in each.items()})
        if "data" in each:
            data = {kind: steady(part) if isinstance(part, str) else part for kind, part in each["data"].items()}
            found[-1]["data"] = data
    return found


def run(kernel: Any, path: Path, folder: Path, *, tasks: bool) -> tuple[list[Any], str]:
    """Run one notebook in a fresh namespace and return what each cell showed, then the state, and `%flow`."""
    kernel.ok(PREPARE.format(folder=folder))
    kernel.ok("get_ipython().nbflow_state.graph.__init__()")
    shown = [normalised(kernel.ok(as_task(cell) if tasks else cell).plain) for cell in cells_of(path)]
    state = normalised(kernel.ok(STATE).plain)
    return [*shown, state], kernel.ok("%flow").result or ""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, start_kernel_once: Any) -> dict[str, list[Any]]:
    """All notebooks in all four ways; one kernel, restarted between the first and the second run of the tasks."""
    kernel = start_kernel_once(env={"MPLBACKEND": "module://matplotlib_inline.backend_inline"})
    folders = {path.stem: tmp_path_factory.mktemp(path.stem) for path in GALLERY}
    found: dict[str, list[Any]] = {path.stem: [] for path in GALLERY}
    for number in range(4):
        if number == 2:
            kernel.restart()
        for path in GALLERY:
            found[path.stem].append(run(kernel, path, folders[path.stem], tasks=number > 0))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_of_tasks_is_the_plain_notebook(name: str, runs: Any) -> None:
    """Outputs and variables of every cell are those of the plain notebook, in each of the runs."""
    (plain, _), *others = runs[name]
    cells = [*cells_of(next(path for path in GALLERY if path.stem == name)), "(variables)"]
    for number, (found, _) in enumerate(others, 1):
        for cell, expected, shown in zip(cells, plain, found, strict=True):
            assert shown == expected, f"run {number} of the tasks:\n{cell}"
