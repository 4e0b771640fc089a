"""What only a run shows: files that a cell opens, and what methods change of their classes."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.kernel


def ran(kernel: Any, cell: str) -> bool:
    """Execute a task cell and return whether its body ran."""
    return not kernel.ok(f"%%task {cell}").badges


def test_files_opened_by_name_are_followed(kernel: Any) -> None:
    """Whatever opens them (`open`, pathlib, pandas, a helper); an old file brings the old result back."""
    data = kernel.folder / "data.txt"
    data.write_text("a\n1\n")
    kernel.ok("from pathlib import Path\ndef helper(): return Path('data.txt').read_text()")
    cells = [
        "plainly -v\nwith open('data.txt') as file:\n    text = file.read()",
        "helped\nhelped = helper()",
        "framed\nimport pandas as pd\nframe = pd.read_csv('data.txt')",
        "mapped\nfrom nbflow import task, map_tasks\n@task\ndef read(n): return open('data.txt').read()\n"
        "both = map_tasks(read, [1, 2], backend='thread')",
    ]
    said = kernel.ok(f"%%task {cells[0]}").stderr
    assert "made from the content of data.txt, which it opened" in said
    assert all(ran(kernel, cell) for cell in cells[1:])
    assert not any(ran(kernel, cell) for cell in cells)
    data.write_text("a\n22\n")
    assert "4 stale" in (kernel.ok("%flow").result or "")
    assert "file `data.txt` 4 B → 5 B" in kernel.ok("%flow why helped").displays[-1]
    assert all(ran(kernel, cell) for cell in cells)
    assert kernel.value("text, int(frame.a[0]), both[1]") == ("a\n22\n", 22, "a\n22\n")
    data.write_text("a\n1\n")
    assert not any(ran(kernel, cell) for cell in cells)
    assert kernel.value("text, int(frame.a[0]), both[1]") == ("a\n1\n", 1, "a\n1\n")
    data.unlink()
    assert kernel.run(f"%%task {cells[0]}").status == "error"


def test_what_is_no_input_is_not_followed(kernel: Any) -> None:
    """What the cell writes itself, hidden and temporary files; and nothing at all where the inputs are given."""
    (kernel.folder / "data.txt").write_text("1")
    (kernel.folder / ".hidden").write_text("1")
    (kernel.folder / "log.txt").write_text("")
    cells = [
        "made\nimport os, random\nname = 'made.txt'\nopen(name, 'w').write('x')\nmade = open(name).read()",
        "hidden\nhidden = open('.hidden').read()",
        "updated\nwith open('data.txt') as f: old = f.read()\nwith open('count.txt', 'a+') as f: f.write(old)",
        "rewritten\nwith open('log.txt') as f: had = f.read()\nwith open('log.txt', 'w') as f: f.write(had + '.')",
        "commanded\n!echo some > said.txt\ncommanded = open('said.txt').read()",
        "given -i name\ngiven = open('data.txt').read()",
    ]
    assert all(ran(kernel, cell) for cell in cells)
    for name in ("made.txt", ".hidden", "count.txt", "said.txt"):
        (kernel.folder / name).write_text("changed")
    assert not any(ran(kernel, cell) for cell in cells)
    (kernel.folder / "data.txt").write_text("2")
    assert not ran(kernel, cells[-1])
    assert ran(kernel, cells[2])
    said = kernel.ok("%%task keyed -v\nimport os\nkeyed = open(os.environ['NBFLOW_KEY_FILE'], 'rb').read()").stderr
    assert "which it opened" not in said  # nbflow's own


COUNTER = """class Counter:
    n = 0
    seen = []
    def hit(self):
        Counter.n += 1
        self.seen.append(Counter.n)"""


def test_state_of_classes_is_input_and_output(kernel: Any) -> None:
    """What a method changes of its class makes readers stale, and is brought back; as if the cell had run."""
    kernel.ok(COUNTER)
    assert ran(kernel, "reader\ntimes_ten = Counter.n * 10")
    kernel.ok("Counter.n = 7")
    assert "input `Counter.n` 0 → 7" in kernel.ok("%flow why reader").displays[-1]
    assert ran(kernel, "reader\ntimes_ten = Counter.n * 10")
    assert kernel.value("times_ten") == 70
    assert ran(kernel, "hits\nc = Counter()\nc.hit()\ngot = Counter.n")
    assert ran(kernel, "hits\nc = Counter()\nc.hit()\ngot = Counter.n")
    assert kernel.value("got, Counter.n, Counter.seen") == (9, 9, [8, 9])
    status = kernel.ok("%flow").result or ""
    assert [line.split()[4] for line in status.splitlines()[1:3]] == ["stale", "fresh"]


def test_state_of_classes_after_a_restart(kernel: Any) -> None:
    """A hit leaves classes as the body had, those that the cell defines and those that it only uses."""
    own, user = f"own\n{COUNTER}\nc = Counter()\nc.hit()", "user\nc.hit()\ngot = c.n"
    for again in (False, True):
        assert ran(kernel, own) is not again
        assert kernel.value("Counter.n, Counter.seen") == (1, [1])
        assert ran(kernel, user) is not again
        assert kernel.value("Counter.n, Counter.seen, got") == (2, [1, 2], 2)
        kernel.ok("c.hit()")
        assert kernel.value("Counter.n, c.seen, Counter.seen is c.seen") == (3, [1, 2, 3], True)
        kernel.restart()
