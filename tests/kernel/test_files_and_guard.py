"""Files that cells read, and values that cells change in place, in a real kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.harness import Kernel

pytestmark = pytest.mark.kernel

LOAD = "%%task\nimport nbflow\nraw = nbflow.File('flights.csv').path.read_text().split()\nprint('ran')\nlen(raw)"
COUNT = "%%task\ntotal = sum(map(int, raw))\ntotal"
WRITE_ALL = "from nbflow.sessions import session_or_default\nsession_or_default().cache_store.flush()"


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    """A kernel beside a file."""
    (tmp_path / "flights.csv").write_text("1 2")
    with Kernel(tmp_path) as kernel:
        yield kernel


def test_a_cell_follows_the_files_it_reads(kernel: Kernel) -> None:
    """Over a restart too: fresh while the file is the same, stale when it is not, found when it is back."""
    file = kernel.folder / "flights.csv"
    kernel.ok(LOAD, cell_id="load")
    kernel.ok(COUNT, cell_id="count")
    assert kernel.ok(LOAD, cell_id="load").badges
    assert "Nothing is stale" in (kernel.ok("%flow stale").result or "")
    file.write_text("1 2 3")
    table = kernel.ok("%flow stale").result or ""
    assert "file `flights.csv` 3 B → 5 B" in table
    assert "reads from stale `raw`" in table
    kernel.ok("%flow run")
    assert kernel.value("total") == 6
    assert "Nothing is stale" in (kernel.ok("%flow stale").result or "")
    kernel.ok(WRITE_ALL)
    kernel.restart()
    assert kernel.ok(LOAD, cell_id="load").badges
    file.write_text("1 2")
    again = kernel.ok(LOAD, cell_id="load")
    assert again.badges
    assert again.result == "2"
    file.unlink()
    missing = kernel.run(LOAD, cell_id="load")
    assert "FileMissingError: File('flights.csv'): there is no file" in missing.traceback


def test_a_cell_follows_what_its_tasks_read(kernel: Kernel) -> None:
    """A cached task that the cell calls may read the file, and may itself come from the cache."""
    kernel.ok(
        "import nbflow\n@nbflow.task(cache=True)\ndef load():\n    return nbflow.File('flights.csv').path.read_text()"
    )
    kernel.ok("load()")
    cell = "%%task\ntext = load().upper()\ntext"
    kernel.ok(cell)
    assert kernel.ok(cell).badges
    (kernel.folder / "flights.csv").write_text("other")
    changed = kernel.ok(cell)
    assert not changed.badges
    assert changed.result == "'OTHER'"


def test_an_edit_in_place_is_told_below_the_cell(kernel: Kernel) -> None:
    """With variable, cell and origin; once; in `%flow` and, for what it leads to, in `%flow why`."""
    kernel.ok("import nbflow\n@nbflow.task(cache=True)\ndef load():\n    return [1, 2]")
    made = kernel.ok("numbers = load()\nnumbers.append(3)")
    assert made.stderr == "", "a cell may finish what it began"
    assert kernel.ok("1").stderr == ""
    told = kernel.ok("alias = numbers\nnumbers.append(4)").stderr
    assert "`numbers` (also `alias`) was changed in place in cell 5 since `load` produced it (cell 3)" in told
    assert kernel.ok("1").stderr == ""
    assert "was changed in place in cell 5" in (kernel.ok("%flow").result or "")
    assert kernel.value("load()") == [1, 2]
    kernel.ok("%%task doubled\ndoubled = [2 * n for n in numbers]")
    kernel.ok("numbers.append(5)")
    assert kernel.ok("%%task doubled\ndoubled = [2 * n for n in numbers]").badges == []
    why = kernel.ok("import nbflow\nprint(nbflow.why('doubled'))").stdout
    assert "input `numbers` was changed in place since `load` produced it (cell 3)" in why


def test_what_a_task_cell_changes_is_meant(kernel: Kernel) -> None:
    """Task cells make and change values as their outputs; only what others do to them is told."""
    kernel.ok("%%task made\ntable = {'a': 1}")
    assert kernel.ok("%%task more\ntable['b'] = 2").stderr == ""
    assert kernel.ok("1").stderr == ""
    told = kernel.ok("table['c'] = 3").stderr
    assert "`table` was changed in place in cell 5 since `more` produced it (cell 3)" in told


def test_the_guard_can_be_switched_off(tmp_path: Path) -> None:
    """By its setting."""
    with Kernel(tmp_path, env={"NBFLOW_MUTATION_GUARD": "0"}) as kernel:
        kernel.ok("%%task made\ntable = {'a': 1}")
        assert kernel.ok("table['c'] = 3").stderr == ""
