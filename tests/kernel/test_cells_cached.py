"""Task cells in a real kernel: what a hit restores and replays, and what makes a cell run again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.harness import COUNT, ran

pytestmark = pytest.mark.kernel

NOTEBOOK = [
    "import random\nimport sys\nCUTOFF = 3",
    "def clean(x):\n    return [each for each in x if each > CUTOFF]",
    f"""%%task raw
_ = {COUNT.format("raw")}
import math
from dataclasses import dataclass
from IPython.display import display, HTML
@dataclass
class Point:
    x: float
def double(p): return Point(p.x * 2)
print("reading")
display(HTML("<b>one</b>"))
print("done", file=sys.stderr)
raw = list(range(6))
alias = raw
point = Point(math.pi)
point""",
    f"""%%task kept
_ = {COUNT.format("kept")}
kept = clean(raw)
len(kept)""",
    f"""%%task total
_ = {COUNT.format("total")}
total = sum(kept) + double(point).x
f"{{total:.3f}}\"""",
    "raw is alias, isinstance(point, Point), double(point), total, kept",
]


def run_all(kernel: Any) -> list[Any]:
    return [kernel.ok(cell) for cell in NOTEBOOK]


def test_second_run_runs_no_body_and_shows_the_same(kernel: Any) -> None:
    """Running a cell again restores names and replays stdout, stderr, displays and the last value in order."""
    first = run_all(kernel)
    assert ran(kernel) == ["raw", "kept", "total"]
    second = run_all(kernel)
    assert ran(kernel) == []
    assert [each.plain for each in second] == [each.plain for each in first]
    assert [len(each.badges) for each in second] == [0, 0, 1, 1, 1, 0]
    assert second[2].badges[0].startswith("cached · saved ")


def test_after_a_restart_no_body_runs(kernel: Any) -> None:
    """The whole notebook comes back after a restart: same outputs but for badges, same identities."""
    first = run_all(kernel)
    ran(kernel)
    kernel.restart()
    second = run_all(kernel)
    assert ran(kernel) == []
    assert [each.plain for each in second] == [each.plain for each in first]
    assert second[-1].result is not None
    assert second[-1].result.startswith("(True, True, Point(x=6.28")


def test_comments_and_layout_do_not_count(kernel: Any) -> None:
    """A cell with another comment, more blank lines, or at another place is still cached."""
    run_all(kernel)
    ran(kernel)
    result = kernel.ok(
        f"%%task kept\n# now with a remark\n_ = {COUNT.format('kept')}\n\nkept = clean( raw )\nlen(kept)"
    )
    assert ran(kernel) == []
    assert result.badges


def test_an_edited_helper_reruns_exactly_its_dependents(kernel: Any) -> None:
    """After an edit of `clean` only the cells that depend on its results run; `%flow why` names helper and cell."""
    run_all(kernel)
    ran(kernel)
    kernel.ok("def clean(x):\n    return [each for each in x if each >= CUTOFF]")
    why = kernel.ok("%flow why kept").displays[-1]
    assert "helper `clean` changed (cell 8)" in why  # loading nbflow was cell 1
    assert "reads from stale `kept`" in kernel.ok("%flow why total").displays[-1]
    for cell in NOTEBOOK[2:]:
        kernel.ok(cell)
    assert ran(kernel) == ["kept", "total"]


def test_an_edit_that_changes_no_value_stops_there(kernel: Any) -> None:
    """Early cut-off: `kept` runs again, comes out as before, so `total` does not run."""
    run_all(kernel)
    ran(kernel)
    kernel.ok("def clean(x):\n    return list(filter(lambda each: each > CUTOFF, x))")
    for cell in NOTEBOOK[2:]:
        kernel.ok(cell)
    assert ran(kernel) == ["kept"]


def test_a_changed_global_of_a_helper_is_named(kernel: Any) -> None:
    """A global that only a helper reads counts, and `%flow why` shows its old and new value."""
    run_all(kernel)
    kernel.ok("CUTOFF = 1")
    assert "`CUTOFF` 3 → 1" in kernel.ok("%flow why kept").displays[-1]


def test_a_changed_upstream_value_after_a_restart_is_explained(kernel: Any) -> None:
    """The store explains a miss by the parts of the run before the restart."""
    run_all(kernel)
    kernel.restart()
    for cell in ["import random\nimport sys\nCUTOFF = 4", *NOTEBOOK[1:]]:
        kernel.ok(cell)
    assert "`CUTOFF` 3 → 4" in kernel.ok("%flow why kept").displays[-1]
    assert ran(kernel) == ["raw", "kept", "total", "kept", "total"]


def test_changed_in_place(kernel: Any) -> None:
    """A cell that changes its input in place is cached, also for other names of that object, after a restart too."""
    cells = [
        "import numpy as np\nitems = [1, 2]\nother = items\ntable = {'a': 1}\narr = np.zeros(3)",
        f"%%task grow\n_ = {COUNT.format('grow')}\nitems.append(3)\ntable['b'] = len(items)\narr[1] = 7\nitems",
        "print(items, other is items, table, arr)",
    ]
    first = [kernel.ok(cell) for cell in cells]
    assert first[2].stdout == "[1, 2, 3] True {'a': 1, 'b': 3} [0. 7. 0.]\n"
    kernel.restart()
    second = [kernel.ok(cell) for cell in cells]
    assert [each.plain for each in second] == [each.plain for each in first]
    assert ran(kernel) == ["grow"]
    assert "up to date" in kernel.ok("%flow why grow").displays[-1]


def test_mutation_that_the_text_does_not_show(kernel: Any) -> None:
    """An input that a function changed is found by its digest, and restored on a hit."""
    cells = [
        "import random\nitems = [3, 1, 2]\ndef tidy(x): x.sort()",
        f"%%task tidied\n_ = {COUNT.format('tidied')}\ntidy(items)\ncount = len(items)",
        "items, count",
    ]
    first = [kernel.ok(cell) for cell in cells]
    second = [kernel.ok(cell) for cell in cells]
    assert ran(kernel) == ["tidied"]
    assert first[2].result == second[2].result == "([1, 2, 3], 3)"


@pytest.mark.cold
def test_random_numbers_go_on_as_in_a_plain_notebook(kernel: Any) -> None:
    """The state of `random` and NumPy after a cell that draws is restored, so the next cell draws the same."""
    cells = [
        "import random\nimport numpy as np\nrandom.seed(1)\nnp.random.seed(2)",
        f"%%task drawn\n_ = {COUNT.format('drawn')}\ndrawn = (random.random(), np.random.rand())",
        "print(drawn, random.random(), np.random.rand())",
    ]
    first = [kernel.ok(cell) for cell in cells]
    kernel.restart()
    second = [kernel.ok(cell) for cell in cells]
    assert second[2].stdout == first[2].stdout
    assert ran(kernel) == ["drawn"]
    kernel.ok("random.seed(5)")
    kernel.ok(cells[1])
    assert ran(kernel) == ["drawn"], "another seed is another input of a cell that draws"


@pytest.mark.cold
def test_a_cell_that_draws_before_it_sets_a_seed(kernel: Any) -> None:
    """It depends on what it finds; one that sets the seed first does not, nor one with a generator of its own."""
    count = "_ = " + COUNT
    cells = [
        "import random\nimport numpy as np",
        f"%%task own\n{count.format('own')}\nrng = np.random.RandomState()\nrng.seed(3)\nnumber = rng.rand()",
        f"%%task first\n{count.format('first')}\nrandom.seed(3)\nx = random.random()",
        f"%%task later\n{count.format('later')}\ny = random.random()\nrandom.seed(4)\nz = random.random()",
    ]
    for cell in cells:
        kernel.ok(cell)
    assert ran(kernel) == ["own", "first", "later"]
    kernel.restart()
    for cell in cells:
        kernel.ok(cell)
    assert ran(kernel) == []
    kernel.ok("random.seed(4); random.random(); expected = random.random()")
    kernel.ok("random.seed(4); random.random()")
    kernel.ok(cells[2])
    assert ran(kernel) == []
    kernel.ok("random.seed(4); random.random()")
    kernel.ok(cells[3])
    assert ran(kernel) == ["later"]
    assert kernel.ok("y == expected").result == "True"


@pytest.mark.cold
def test_numpy_drawn_from_in_the_cell_that_imports_it(kernel: Any) -> None:
    """Where NumPy was there before and somebody has set its seed, that counts; else the numbers come back."""
    cell = f"%%task drawn\n_ = {COUNT.format('drawn')}\nimport numpy as np\nx = int(np.random.randint(1000))\nx"
    first = kernel.ok("import random\nrandom.seed(1)\n").stdout + kernel.ok(cell).result
    assert ran(kernel) == ["drawn"]
    kernel.restart()
    assert kernel.ok("import random\nrandom.seed(1)\n").stdout + kernel.ok(cell).result == first
    assert ran(kernel) == []
    kernel.restart()
    kernel.ok("import numpy.random\nnumpy.random.seed(3)\nexpected = numpy.random.randint(1000)\nnumpy.random.seed(3)")
    assert kernel.ok(cell).result == kernel.ok("expected").result
    assert ran(kernel) == ["drawn"]


@pytest.mark.cold
def test_numpy_seeded_in_the_cell_that_imports_it(kernel: Any) -> None:
    """A cell that loads NumPy, seeds and draws leaves the generator where the next cell expects it."""
    cells = [
        "%%task\nimport numpy as np\nnp.random.seed(0)\nfirst = np.random.rand()",
        "print(first, np.random.rand())",
    ]
    first = [kernel.ok(cell) for cell in cells]
    kernel.restart()
    second = [kernel.ok(cell) for cell in cells]
    assert second[0].badges
    assert second[1].stdout == first[1].stdout


def test_an_output_that_cannot_be_stored(shared: Any) -> None:
    """The cell stays uncached, one line says which output and why, and nothing else is stored."""
    cell = f"%%task gen\n_ = {COUNT.format('gen')}\nnumbers = [1]\ngen = (n for n in numbers)"
    ran(shared)
    result = shared.ok(cell)
    assert result.stderr.count("\n") == 1
    assert "not cached: output `gen` (generator) cannot be stored" in result.stderr
    shared.ok(cell)
    assert ran(shared) == ["gen", "gen"]
    assert "not cached: output `gen`" in shared.ok("%flow why gen").displays[-1]
    assert shared.ok(cell.replace("%%task gen", "%%task gen -q")).stderr == ""


def test_an_input_that_cannot_be_digested(shared: Any) -> None:
    """The cell is cached for this session only, and `--verbose` says why."""
    shared.ok("import threading\nlock = threading.Lock()")
    cell = "%%task locked -v\nheld = lock.locked()"
    assert "kept for this session only" in shared.ok(cell).stderr
    assert "restored" in shared.ok(cell).stderr


def test_a_failing_cell_stores_nothing(shared: Any) -> None:
    """The next run runs the body again, and the cell is shown as failed until it succeeds."""
    ran(shared)
    cell = f"%%task fails\n_ = {COUNT.format('fails')}\npartial = 1\nassert ready"
    shared.ok("ready = False")
    assert shared.run(cell).status == "error"
    assert shared.value("partial") == 1
    assert "failed" in shared.ok("%flow why fails").displays[-1]
    shared.ok("ready = True")
    shared.ok(cell)
    assert ran(shared) == ["fails", "fails"]


def test_missing_names_fail_as_in_a_plain_cell(shared: Any) -> None:
    """An input that does not exist is a NameError of the body, and the cell runs once the name is there."""
    result = shared.run("%%task\nneeds = not_there_yet + 1")
    assert "NameError: name 'not_there_yet' is not defined" in result.traceback
    shared.ok("not_there_yet = 1")
    shared.ok("%%task\nneeds = not_there_yet + 1")
    assert shared.value("needs") == 2


def test_functions_made_in_a_cell_see_later_globals(kernel: Any) -> None:
    """Restored functions, lambdas in containers and closures use the notebook's own globals, as plain ones do."""
    cells = [
        "factor = 2",
        f"""%%task made
_ = {COUNT.format("made")}
def scale(x): return x * factor
def adder(n):
    def add(x): return x + n * factor
    return add
table = {{"twice": lambda x: x * factor, "add": adder(10)}}
size = lambda x: len(x) + factor""",
        "factor = 5\nprint(scale(1), table['twice'](1), table['add'](1), size('ab'))",
    ]
    first = [kernel.ok(cell) for cell in cells]
    kernel.restart()
    second = [kernel.ok(cell) for cell in cells]
    assert second[2].stdout == first[2].stdout == "5 5 51 7\n"
    assert ran(kernel) == ["made"]


def test_definitions_that_need_data(kernel: Any) -> None:
    """A default taken from data of the cell, a class made by a call, and instances of both come back."""
    cell = f"""%%task shapes
_ = {COUNT.format("shapes")}
from collections import namedtuple
fields = ["x", "y"]
Pair = namedtuple("Pair", fields)
pairs = [Pair(1, 2)]
def first(values=pairs): return values[0].x
"""
    check = "print(first(), pairs, isinstance(pairs[0], Pair), first.__defaults__[0] is pairs)"
    kernel.ok(cell)
    before = kernel.ok(check).stdout
    kernel.restart()
    assert kernel.ok(cell).badges
    assert kernel.ok(check).stdout == before == "1 [Pair(x=1, y=2)] True True\n"


def test_two_names_of_an_input(kernel: Any) -> None:
    """An output that is an input stays that very object, also inside a container."""
    cells = [
        "import pandas as pd\nframe = pd.DataFrame({'a': [1, 2]})",
        "%%task\nsame = frame\nheld = {'frame': frame, 'n': 2}",
        "same is frame, held['frame'] is frame",
    ]
    for _ in range(2):
        results = [kernel.ok(cell) for cell in cells]
        assert results[2].result == "(True, True)"
        kernel.restart()


def test_deleted_names_and_files(kernel: Any) -> None:
    """A name that the cell deletes is deleted on a hit; a file that it closed does not keep it from being stored."""
    cells = ["scratch = 1", "%%task\nwith open('ran.txt', 'a') as f:\n    n = f.write('once\\n')\ndel scratch"]
    for _ in range(2):
        for cell in cells:
            kernel.ok(cell)
        assert kernel.value("'scratch' in globals(), f.closed, n") == (False, True, 5)
        kernel.restart()
    assert ran(kernel) == ["once"]


def test_a_query_reads_what_its_text_names(shared: Any) -> None:
    """`@limit` in a query of pandas counts, also in a function of another cell and in a text of another cell."""
    shared.ok("import pandas as pd\nrows = pd.DataFrame({'p': [1, 5, 9]})\nasked = 'p > @limit'")
    shared.ok("def count(rows):\n    return len(rows.query('p > @limit'))")
    for call in ("len(rows.query('p > @limit'))", "len(rows.query(asked))", "count(rows)"):
        ran(shared)
        for limit, expected in ((2, 2), (6, 1), (2, 2)):
            shared.ok(f"limit = {limit}")
            shared.ok(f"%%task\n_ = {COUNT.format('query')}\nfound = {call}")
            assert shared.value("found") == expected
        assert ran(shared) == ["query"] * 2


def test_a_magic_that_runs_a_query_reads_what_it_names(shared: Any) -> None:
    """`%sql from rows` counts `rows`, as a line and as a cell within the cell."""
    shared.ok(
        "from IPython.core.magic import register_line_cell_magic\n"
        "@register_line_cell_magic\n"
        "def sql(line, cell=None):\n"
        "    return len(get_ipython().user_ns[(cell or line).split()[-1]])"
    )
    for body in ("%sql from rows", "%%sql\nselect 1\nfrom rows"):
        ran(shared)
        for rows, expected in (([1], 1), ([1, 2], 2), ([1], 1)):
            shared.ok(f"rows = {rows}")
            counted = "" if body.startswith("%%") else f"_ = {COUNT.format('magic')}\n"
            assert shared.ok(f"%%task\n{counted}{body}").result == str(expected)
        assert ran(shared) == ([] if body.startswith("%%") else ["magic"] * 2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("vars()['bound'] = seen", "vars()"),
        ("bind(seen)", "`globals()` in `bind`"),
        ("binder(seen)", "`globals()` in `binder`"),
        ("Binder().bind(seen)", "`globals()` in `bind`"),
        ("made.bind(seen)", "`globals()` in `bind`"),
        ("get_ipython().push({'bound': seen})", "`get_ipython().push`"),
        ("import __main__\n__main__.bound = seen", "`import __main__`"),
        ("%store -r nothing\nbound = seen", "`%store`"),
    ],
)
def test_what_reaches_any_name_runs_each_time(shared: Any, call: str, said: str) -> None:
    """What cannot be told from the code is not guessed at: the cell runs, and one line says why it is not cached."""
    shared.ok(
        "import nbflow\ndef bind(value):\n    globals()['bound'] = value\n"
        "@nbflow.task\ndef binder(value):\n    globals()['bound'] = value\n"
        "class Kind(type):\n    __hash__ = None\nclass Odd(metaclass=Kind):\n    pass\nodd = Odd()\n"
        "class Binder:\n    def bind(self, value):\n        bind(value)\nmade = Binder()"
    )
    shared.ok("%%task\nsame = odd is odd, Odd")
    for seen in (1, 2, 1):
        shared.ok(f"seen = {seen}\nbound = None")
        result = shared.run(f"%%task\n{call}")
        assert shared.value("bound") == seen
        assert f"it uses {said}, and what that reads and writes cannot be seen" in result.stderr


def test_a_name_that_is_only_sometimes_bound(shared: Any) -> None:
    """A branch not taken leaves the name alone on a hit as well; another old value is another case."""
    cell = "%%task\nif flag:\n    maybe = 1\nlabel = 'x'"
    shared.ok("flag = False\nmaybe = 5")
    shared.ok(cell)
    shared.ok("maybe = 7")
    shared.ok(cell)
    assert shared.value("maybe") == 7


def test_reading_what_a_branch_may_have_bound(shared: Any) -> None:
    """Where the branch was taken the cell is cached at once; where it was not, the old value counts."""
    cell = f"%%task\n_ = {COUNT.format('branch')}\nif taken:\n    branch = 1\ncopied = branch"
    ran(shared)
    shared.ok("taken = True")
    for _ in range(2):
        shared.ok(cell)
    assert ran(shared) == ["branch"]
    for old in (8, 9, 9):
        shared.ok(f"taken = False\nbranch = {old}")
        shared.ok(cell)
        assert shared.value("copied") == old
    assert ran(shared) == ["branch", "branch"]


def test_a_loop_that_does_not_run(shared: Any) -> None:
    """What a loop over nothing leaves unbound is an input after all."""
    cell = f"%%task\n_ = {COUNT.format('loop')}\nfor row in rows:\n    newest = row\nseen = newest"
    ran(shared)
    shared.ok("rows = [1, 2]")
    for _ in range(2):
        shared.ok(cell)
    assert ran(shared) == ["loop"]
    for newest in (8, 9, 9):
        shared.ok(f"rows = []\nnewest = {newest}")
        shared.ok(cell)
        assert shared.value("seen") == newest
    assert ran(shared) == ["loop", "loop"]


def test_accumulating_cells(kernel: Any) -> None:
    """`acc += 1` runs again whenever it would count on, and is restored where it starts from the same value."""
    cells = ["acc = 0", f"%%task\n_ = {COUNT.format('acc')}\nacc += 1"]
    for cell in cells:
        kernel.ok(cell)
    kernel.ok(cells[1])
    assert kernel.value("acc") == 2
    kernel.restart()
    for cell in [*cells, cells[1]]:
        kernel.ok(cell)
    assert kernel.value("acc") == 2
    assert ran(kernel) == ["acc", "acc"]


def test_displays_updates_and_figures_in_order(kernel: Any) -> None:
    """Displays, updates and inline figures come back in the order of a plain cell; the figure after the value."""
    body = """import matplotlib.pyplot as plt
from IPython.display import display
print("a")
handle = display("shown", display_id=True)
handle.update("updated")
print("b")
figure, axes = plt.subplots(figsize=(1, 1))
axes.set_title("t")
"""
    kernel.ok("%matplotlib inline")
    plain = kernel.ok(body)
    kinds = [each["type"] for each in plain.plain]
    assert kinds == ["stdout", "display_data", "stdout", "execute_result", "display_data"]
    first, second = kernel.ok("%%task\n" + body), kernel.ok("%%task\n" + body)
    assert second.badges
    for each in (first, second):
        assert [part["type"] for part in each.plain] == kinds
        assert each.displays[0] == "'updated'"
        assert "image/png" in each.plain[-1]["data"]
    assert first.plain[-1] == second.plain[-1]
    assert kernel.value("handle.display_id") is not None


def test_clear_output_is_recorded(shared: Any) -> None:
    """What the cell itself cleared does not come back."""
    cell = "%%task\nfrom IPython.display import clear_output\nprint('old')\nclear_output()\nprint('new')"
    shared.ok(cell)
    assert shared.ok(cell).stdout == "new\n"


def test_prints_of_tasks_on_threads(shared: Any) -> None:
    """Prints and displays of a thread that carries the cell's context are recorded with the cell."""
    cell = """%%task
import threading
from contextvars import copy_context
from IPython.display import display
def work():
    print("from a thread")
    display("seen")
thread = threading.Thread(target=copy_context().run, args=(work,))
thread.start(); thread.join()
del thread"""
    first, second = shared.ok(cell), shared.ok(cell)
    assert second.badges
    assert second.stdout == first.stdout == "from a thread\n"
    assert second.displays == first.displays == ["'seen'"]


def test_definitions_do_not_print_twice(shared: Any) -> None:
    """What a class body prints is replayed once, although the class is made again."""
    cell = "%%task\nclass Loud:\n    print('made')\nx = 1"
    shared.ok(cell)
    result = shared.ok(cell)
    assert result.badges
    assert result.stdout == "made\n"


def test_magics_and_commands_in_the_body(shared: Any) -> None:
    """Line magics and shell commands work, and names that they expand are inputs."""
    shared.ok("word = 'hello'")
    cell = "%%task\nsaid = !echo {word}\n%time twice = word * 2\nsaid"
    assert "hello" in (shared.ok(cell).result or "")
    assert shared.ok(cell).badges
    shared.ok("word = 'bye'")
    again = shared.ok(cell)
    assert not again.badges
    assert again.result == "['bye']"


def test_star_imports(shared: Any) -> None:
    """Names of `import *` are known before the cell runs, so that the second run is a hit."""
    cell = "%%task\nfrom math import *\nroot = sqrt(16)"
    shared.ok(cell)
    assert shared.ok(cell).badges
    assert shared.value("root") == 4.0


def test_large_arrays_come_back_writable(kernel: Any) -> None:
    """Arrays are stored out of band, and a hit can be changed without changing the stored result."""
    cells = ["import numpy as np", "%%task\nbig = np.arange(200_000)\nview = big[:10]"]
    for cell in cells:
        kernel.ok(cell)
    kernel.restart()
    for cell in cells:
        result = kernel.ok(cell)
    assert result.badges
    kernel.ok("big[0] = 99")
    kernel.ok(cells[1])
    assert kernel.value("int(big[0]), int(big.sum())") == (0, 19999900000)


def test_what_helpers_change_is_an_output(kernel: Any) -> None:
    """A list that a helper appends to is an input and an output of the cell that calls the helper."""
    cells = [
        "log = []\ndef note(x):\n    log.append(x)\n    return x",
        f"%%task\n_ = {COUNT.format('noted')}\nnoted = note(1) + note(2)",
        "print(log, noted)",
    ]
    first = [kernel.ok(cell) for cell in cells]
    second = [kernel.ok(cell) for cell in cells]
    kernel.restart()
    third = [kernel.ok(cell) for cell in cells]
    assert first[2].stdout == second[2].stdout == third[2].stdout == "[1, 2] 3\n"
    assert ran(kernel) == ["noted"]


def test_edited_classes_are_named(shared: Any) -> None:
    """A class that a cell uses is named when it changes; another library function is another input."""
    shared.ok("class Model:\n    def fit(self): return 1")
    shared.ok("from textwrap import dedent as shape")
    shared.ok("%%task fitted\nfitted = Model().fit(), shape(' x')")
    shared.ok("class Model:\n    def fit(self): return 2")
    assert "`Model.fit` changed" in shared.ok("%flow why fitted").displays[-1]
    shared.ok("class Model:\n    def fit(self): return 1")
    assert "up to date" in shared.ok("%flow why fitted").displays[-1]
    shared.ok("from textwrap import indent as shape")
    assert "`shape` changed" in shared.ok("%flow why fitted").displays[-1]


def test_no_value_is_kept_alive(shared: Any) -> None:
    """Neither the session's records nor the graph hold on to values of a cell that has ended."""
    shared.ok("import gc, weakref\nclass Big:\n    pass")
    shared.ok("%%task\nbig = Big()\nheld = [big]")
    shared.ok("seen = weakref.ref(big)\ndel big, held\n_ = gc.collect()")
    assert shared.value("seen()") is None


def test_tasks_inside_a_cell(shared: Any) -> None:
    """A cell that maps a task over threads is one cached step; its tasks run within its call."""
    shared.ok(
        "from nbflow import task, map_tasks\n"
        "@task\ndef square(x):\n    print(f'square {x}\\n', end='')\n    return x * x"
    )
    cell = "%%task squares\nsquares = map_tasks(square, range(3), backend='thread')\nsquares"
    first, second = shared.ok(cell), shared.ok(cell)
    assert first.result == second.result == "[0, 1, 4]"
    assert second.badges
    assert sorted(second.stdout.splitlines()) == ["square 0", "square 1", "square 2"]


def test_cells_that_draw_on_figures_of_others_run_plainly(shared: Any) -> None:
    """A cell that reads a figure of another cell is not cached, and says so; the cell that makes the figure is."""
    shared.ok("%%task\nimport matplotlib.pyplot as plt\nfigure, axes = plt.subplots(1, 2)\nplt.close(figure)")
    result = shared.ok("%%task drawn_on\naxes[0].plot([1, 2])\nlines = len(axes[0].lines)")
    assert "not cached: it draws on `axes`" in result.stderr
    shared.ok("%%task drawn_on\naxes[0].plot([1, 2])\nlines = len(axes[0].lines)")
    assert shared.value("lines") == 2


def test_a_local_module_that_a_cell_imports_counts(kernel: Any) -> None:
    """An edit of it is seen after a restart, and what ran before a reload is not taken for the new code's."""
    file = kernel.folder / "imported_helper.py"
    cells = (
        "%%task a\nfrom imported_helper import f\na = f()",
        "%%task b\nimport imported_helper\nb = imported_helper.f()",
    )
    file.write_text("def f(): return 1\n")
    for value in (1, 100):
        file.write_text(f"def f(): return {value}\n")
        for _ in range(2):
            for cell in cells:
                last = kernel.ok(cell)
            assert kernel.value("a, b") == (value, value)
        assert last.badges
        kernel.restart()
    file.write_text("def f(): return 100_000\n")
    kernel.ok(cells[0])
    file.write_text("def f(): return 1_000_000\n")
    kernel.ok(cells[0])
    assert kernel.value("a") == 100_000
    assert "imported_helper" in str(kernel.ok("%flow why a").displays[-1])
    kernel.restart()
    kernel.ok(cells[0])
    assert kernel.value("a") == 1_000_000


def test_what_is_set_in_a_local_module_counts(kernel: Any) -> None:
    """Values that a cell takes out of a module, or its functions from it, are as they are now, not as in its file."""
    (kernel.folder / "knobs.py").write_text(
        "import threading\nLIMIT = 1\nTABLE = {'a': 1}\nLOCK = threading.Lock()\n"
        "def limit(): return LIMIT\ndef locked(): return LOCK.locked()\n"
    )
    taken = ("knobs.LIMIT", "knobs.TABLE['a']", "knobs.limit()")
    for restarted in (False, True):
        kernel.ok("import knobs")
        for limit in (2, 3, 2):
            kernel.ok(f"knobs.LIMIT = {limit}\nknobs.TABLE['a'] = {limit}")
            for call in taken:
                kernel.ok(f"%%task\n_ = {COUNT.format(call[6:9])}\nfound = {call}")
                assert kernel.value("found") == limit, call
        locked = kernel.ok(f"%%task -v\n_ = {COUNT.format('lock')}\nfound = knobs.locked(), knobs.LOCK.locked()")
        assert "this session only" not in locked.stderr
        expected = [call[6:9] for call in taken] * 2 + ["lock"]
        assert ran(kernel) == ([] if restarted else expected)
        kernel.restart()


def test_a_local_module_is_loaded_before_its_cell_is_looked_up(kernel: Any) -> None:
    """What it remembers counts, also if statements that only bind names come before the import."""
    (kernel.folder / "loaded_late.py").write_text("rows = []\n")
    cell = f"""%%task
limit = 3
def under(x, most: float = limit): return x < most
import loaded_late
data = loaded_late.rows
_ = {COUNT.format("late")}"""
    for expected in (["late"], []):
        for _ in range(2):
            last = kernel.ok(cell)
        assert ran(kernel) == expected
        assert last.badges
        assert kernel.value("data is loaded_late.rows")
        kernel.restart()
