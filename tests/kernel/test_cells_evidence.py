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


IN_WORKERS = {
    "mapped": "found = map_tasks(size, paths, backend='process')",
    "single": "found = [submit(away, path).get() for path in paths]",
    "tried": "found = map_tasks(retried, paths, backend='process')",
    "nested": "found = submit(both, paths).get()",
    "failing": "found = [type(each).__name__ for each in map_tasks(number, paths, backend='process', "
    "on_error='collect')]",
    "alone": "try:\n    found = submit(far, paths[1]).get()\nexcept ValueError as error:\n    found = 'no number'",
    "listing": "found = map_tasks(names, ['data', 'more'], backend='process')",
}


@pytest.mark.timeout(240)
def test_files_that_workers_open_are_followed(kernel: Any) -> None:
    """Whatever way they are asked: as items of maps, one by one, by maps inside of workers, by calls that fail."""
    for folder in ("data", "more"):
        (kernel.folder / folder).mkdir()
    for name, text in (("a", "1"), ("b", "two")):
        (kernel.folder / "data" / f"{name}.txt").write_text(text)
    kernel.ok(
        "import os\nfrom nbflow import task, map_tasks, submit\npaths = ['data/a.txt', 'data/b.txt']\n"
        "@task\ndef size(path):\n    with open(path) as file: return len(file.read())\n"
        "@task(backend='process')\ndef away(path): return size.func(path)\n"
        "@task(retries=1)\ndef retried(path): return size.func(path)\n"
        "@task(backend='process')\ndef both(paths): return map_tasks(size, paths, backend='thread')\n"
        "@task\ndef number(path):\n    with open(path) as file: return int(file.read())\n"
        "@task(backend='process', retries=1)\ndef far(path): return number.func(path)\n"
        "@task\ndef names(folder): return sorted(os.listdir(folder))\n"
    )

    def cells(*names: str) -> dict[str, bool]:
        return {name: ran(kernel, f"{name}\n{IN_WORKERS[name].replace('found', name)}") for name in names}

    by_content = [name for name in IN_WORKERS if name != "listing"]
    assert all(cells(*IN_WORKERS).values())
    assert not any(cells(*IN_WORKERS).values())
    assert kernel.value("mapped, nested, failing, alone") == ([1, 3], [1, 3], ["int", "ValueError"], "no number")
    (kernel.folder / "data" / "b.txt").write_text("22")
    assert cells(*IN_WORKERS) == {**dict.fromkeys(by_content, True), "listing": False}
    assert kernel.value("mapped, single, tried, nested") == ([1, 2],) * 4
    assert kernel.value("failing, alone") == (["int", "int"], 22)
    (kernel.folder / "more" / "c.txt").write_text("3")
    assert cells(*IN_WORKERS) == {**dict.fromkeys(by_content, False), "listing": True}


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


LISTS = {
    "globbed": "import glob\nfound = sorted(glob.glob('data/*.csv'))",
    "pathed": "from pathlib import Path\nfound = sorted(str(path) for path in Path('data').glob('*.csv'))",
    "listed": "import os\nfound = ['data/' + name for name in sorted(os.listdir('data')) if name.endswith('csv')]",
    "walked": "found = helper()",
}


def test_folders_that_are_listed_are_followed(kernel: Any) -> None:
    """A file more or less makes the cell run again; hidden files, code and what it writes itself do not."""
    folder = kernel.folder / "data"
    folder.mkdir()
    (folder / "one.csv").write_text("1")
    kernel.ok(
        "import os\ndef helper():\n    return [os.path.join(a, n) for a, _, names in os.walk('data') for n in names]"
    )
    total = "{0} = sum(int(open(name).read()) for name in found if name.endswith('csv'))"
    cells = [f"{name}\n{lists}\n{total.format(name)}" for name, lists in LISTS.items()]
    assert all(ran(kernel, cell) for cell in cells)
    assert not any(ran(kernel, cell) for cell in cells)
    for name in (".hidden", "tools.py", "__pycache__"):
        (folder / name).write_text("")
    assert not any(ran(kernel, cell) for cell in cells)
    (folder / "two.csv").write_text("2")
    assert "4 stale" in (kernel.ok("%flow").result or "")
    assert "data/ (names)` 1 name → 2 names" in kernel.ok("%flow why globbed").displays[-1]
    assert all(ran(kernel, cell) for cell in cells)
    assert kernel.value("globbed, pathed, listed, walked") == (3, 3, 3, 3)
    (folder / "two.csv").unlink()
    assert all(ran(kernel, cell) for cell in cells)
    assert kernel.value("globbed, pathed, listed, walked") == (1, 1, 1, 1)


def test_folders_that_a_cell_fills_or_others_list_are_not_followed(kernel: Any) -> None:
    """What a cell writes to a folder that it lists, and what imports look through."""
    kernel.ok("import os\nos.mkdir('out')")
    cells = [
        "filled\nimport os\nopen('out/made.txt', 'w').close()\nfilled = os.listdir('out')",
        "imported\nimport colorsys, this_is_local\nimported = this_is_local.x",
    ]
    (kernel.folder / "this_is_local.py").write_text("x = 1")
    assert all(ran(kernel, cell) for cell in cells)
    (kernel.folder / "out" / "more.txt").write_text("")
    (kernel.folder / "new.csv").write_text("")
    assert not any(ran(kernel, cell) for cell in cells)


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


def test_threads_that_a_cell_starts_itself_belong_to_it(kernel: Any) -> None:
    """What they print and show is replayed, and the files that they open are followed."""
    data = kernel.folder / "data.txt"
    data.write_text("one")
    kernel.ok(
        "from concurrent.futures import ThreadPoolExecutor\ndef read(path):\n    print('reading', path)\n"
        "    display(path)\n    return open(path).read()\n"
        "def load(paths):\n    with ThreadPoolExecutor(2) as pool:\n        return list(pool.map(read, paths))"
    )
    cell = "%%task pooled\ntexts = load(['data.txt'])"
    assert kernel.ok(cell).stdout == "reading data.txt\n"
    again = kernel.ok(cell)
    assert again.badges
    assert again.stdout == "reading data.txt\n"
    assert any("data.txt" in str(each) for each in again.displays)
    data.write_text("two!")
    assert not kernel.ok(cell).badges
    assert kernel.value("texts") == ["two!"]


def test_threads_of_earlier_cells_do_not(kernel: Any) -> None:
    """What a thread puts out that was there before the cell is not kept with the cell."""
    kernel.ok(
        "import threading\nturn = threading.Event()\ndef late():\n    turn.wait(60)\n    print('from outside')\n"
        "thread = threading.Thread(target=late, daemon=True)\nthread.start()"
    )
    cell = "%%task\nturn.set()\nthread.join(60)\nprint('from the cell')"
    assert "from the cell\n" in kernel.ok(cell).stdout
    again = kernel.ok(cell)
    assert "from outside" not in again.stdout
    assert "from the cell\n" in again.stdout


def test_names_given_by_order_do_not_count(kernel: Any) -> None:
    """A cell that is put above others makes none of them run again, though it takes a name of theirs."""
    first, second = "\ncount = [1]", "\ncount = [*count, 2]"
    assert ran(kernel, first)
    assert ran(kernel, second)
    kernel.restart()
    assert ran(kernel, "\ncount = [0]")
    assert not ran(kernel, first)
    assert not ran(kernel, second)
    assert kernel.value("count") == [1, 2]


def test_the_shell_is_no_input(shared: Any) -> None:
    """Whoever holds the shell reaches any name, so that the cell runs each time, at once."""
    shared.ok("shell = get_ipython()\nhidden = 1")
    assert ran(shared, "\nseen = shell.user_ns['hidden']")
    shared.ok("hidden = 2")
    assert ran(shared, "\nseen = shell.user_ns['hidden']")
    assert shared.value("seen") == 2


def test_what_an_lru_cache_remembers(kernel: Any) -> None:
    """Who gets an answer from it depends on the files that others had it read, and not on what has changed since."""
    data = kernel.folder / "data.txt"
    data.write_text("one")
    defined = "import functools\n@functools.lru_cache\ndef load():\n    return open('data.txt').read() + str(part)"
    cells = ["first = load()", "second = load() + '!'"]
    kernel.ok(f"{defined}\npart = 1")
    assert all(ran(kernel, f"\n{cell}") for cell in cells)
    assert not any(ran(kernel, f"\n{cell}") for cell in cells)
    kernel.ok("part = 2")
    assert "after `load.cache_clear()` it looks again" in kernel.ok(f"%%task\n{cells[1]}").stderr
    assert kernel.value("second") == "one1!"
    kernel.restart()
    data.write_text("two two")
    kernel.ok(f"{defined}\npart = 2")
    assert all(ran(kernel, f"\n{cell}") for cell in reversed(cells))
    assert kernel.value("(first, second)") == ("two two2", "two two2!")
    kernel.restart()
    data.write_text("one")
    kernel.ok(f"{defined}\npart = 1")
    assert not any(ran(kernel, f"\n{cell}") for cell in cells)
    assert kernel.value("(first, second)") == ("one1", "one1!")


def test_files_that_libraries_open_by_themselves(kernel: Any) -> None:
    """What a cell hands to a reader counts, whoever opens it; what it asks for counts also where there is none."""
    data, flag = kernel.folder / "data.csv", kernel.folder / "flag"
    data.write_text("a\n1\n")
    kernel.ok(
        "import polars as pl, os, numpy as np\nfrom pathlib import Path\nplace = Path('data.csv')\n"
        "def quietly(path, count): return np.memmap(path, mode='r+')[count]"
    )
    cells = [
        "\nread = pl.read_csv('data.csv')['a'].to_list()",
        "\nscanned = pl.scan_csv(place).collect()['a'].to_list()",
        "\nmapped = int(quietly('data.csv', 2))",
    ]
    asked = [
        "\nthere = os.path.exists('flag')",
        "\nis_there = Path('flag').exists()",
        "\nsize = os.path.getsize(place)",
    ]
    assert all(ran(kernel, cell) for cell in [*cells, *asked])
    assert not any(ran(kernel, cell) for cell in [*cells, *asked])
    data.write_text("a\n222\n")
    flag.touch()
    assert all(ran(kernel, cell) for cell in [*cells, *asked])
    assert kernel.value("(read, scanned, mapped, there, is_there, size)") == ([222], [222], ord("2"), True, True, 6)
    assert not any(ran(kernel, cell) for cell in [*cells, *asked])


ONLY_NAMED = {
    "sqlite": "con = sqlite3.connect('base.db')\nsqlite = con.execute('select a from t').fetchone()[0]\n"
    "con.close()\ndel con",
    "in_wal": "in_wal = asked()",
    "helped": "helped = read_table('base.csv')",
    "by_constant": "by_constant = of_base()",
    "by_global": "by_global = of_place()",
    "by_pattern": "by_pattern = of_parts()",
    "by_list": "by_list = [read_table(each) for each in places][0]",
    "in_folder": "in_folder = read_table(folder / 'base.csv')",
    "command": "command = subprocess.check_output(['cat', 'base.csv'], text=True)",
    "shell": "shell = !cat base.csv\nshell = list(shell)",
    "script": "script = !cat {place} | sort\nscript = list(script)",
    "program": "program = subprocess.check_output([sys.executable, 'program.py'], text=True)",
    "processes": "with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:\n"
    "    processes = list(pool.map(Path.read_text, [Path('base.csv')]))\ndel pool",
}


@pytest.mark.timeout(240)
def test_files_that_are_only_named_are_followed(kernel: Any) -> None:
    """Databases, commands, programs, foreign processes, libraries in functions: nothing tells that they open a file."""
    base, program, folder = kernel.folder / "base.csv", kernel.folder / "program.py", kernel.folder / "place"
    base.write_text("a\n1\n")
    folder.mkdir()
    (folder / "base.csv").write_text("a\n1\n")
    program.write_text("print(open('base.csv').read(), end='')")
    kernel.ok(
        "import sqlite3, subprocess, sys\nfrom pathlib import Path\nimport polars as pl\n"
        "from concurrent.futures import ProcessPoolExecutor\nimport multiprocessing\n"
        "place, places, folder = 'base.csv', ['base.csv'], Path('place')\n"
        "def read_table(place): return pl.read_csv(place)['a'][0]\n"
        "def of_base(): return read_table('base.csv')\n"
        "def of_parts(): return pl.read_csv('place/*.csv')['a'].sum()\n"
        "def of_place(): return read_table(place)\n"
        "def fill(value, wal=False):\n"
        "    base = sqlite3.connect('wal.db' if wal else 'base.db')\n"
        "    if wal: base.execute('pragma journal_mode=wal')\n"
        "    base.execute('create table if not exists t(a)')\n"
        "    base.execute('delete from t')\n"
        "    base.execute('insert into t values (?)', (value,))\n"
        "    base.commit()\n"
        "    return base\n"
        "def asked():\n"
        "    con = sqlite3.connect('wal.db')\n"
        "    try: return con.execute('select a from t').fetchone()[0]\n"
        "    finally: con.close()\n"
        "fill(1).close()\nopen_one = fill(1, wal=True)"
    )
    cells = [f"{name}\n{cell}" for name, cell in ONLY_NAMED.items()]
    assert [ran(kernel, cell) for cell in cells] == [True] * len(cells)
    assert [ran(kernel, cell) for cell in cells] == [False] * len(cells)
    for place in (base, folder / "base.csv"):
        place.write_text("a\n22\n")
    program.write_text("print(open('base.csv').read() + '!', end='')")
    kernel.ok("fill(22).close()\nfill(22, wal=True)\nNone")
    again = {name: ran(kernel, cell) for name, cell in zip(ONLY_NAMED, cells, strict=True)}
    assert again == dict.fromkeys(ONLY_NAMED, True)
    assert kernel.value("sqlite, in_wal, helped, by_constant, by_global, by_list, in_folder, by_pattern") == (22,) * 8
    assert kernel.value("command, shell, script, program, processes") == (
        "a\n22\n",
        ["a", "22"],
        ["22", "a"],
        "a\n22\n!",
        ["a\n22\n"],
    )


def test_what_is_named_and_written_is_no_input(kernel: Any) -> None:
    """Also where the library writes it without Python, or a command does, over what was there."""
    kernel.ok("import polars as pl\nvalue = 1")
    cells = [
        "table\ntable = pl.DataFrame({'a': [value]})\ntable.write_csv('made.csv')",
        "said\n!echo {value} > said.txt\nsaid = value",
    ]
    for value in (1, 2):
        kernel.ok(f"value = {value}")
        assert [ran(kernel, cell) for cell in cells] == [True] * len(cells)
        assert [ran(kernel, cell) for cell in cells] == [False] * len(cells)
    for name in ("made.csv", "said.txt"):
        (kernel.folder / name).write_text("changed")
    assert [ran(kernel, cell) for cell in cells] == [False] * len(cells)


def test_what_a_cell_makes_if_there_is_none(kernel: Any) -> None:
    """A file that the cell asks for and writes itself is none of its inputs."""
    cell = (
        "\nimport os\nif not os.path.exists('made.txt'):\n    with open('made.txt', 'w') as file:\n"
        "        file.write('x')\ntext = open('made.txt').read()"
    )
    assert ran(kernel, cell)
    assert not ran(kernel, cell)
