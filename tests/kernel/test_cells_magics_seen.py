"""What magics, commands and widgets in a task cell read, bind and show: a hit is as right as for plain Python."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.kernel

MEASURED = "and a measurement is not kept"
UNSEEN = "and what that reads and writes cannot be seen"


def again(kernel: Any, cell: str) -> Any:
    """Run a cell twice and return what the second run put out; the first one must have run."""
    assert not kernel.ok(cell).badges
    return kernel.ok(cell)


@pytest.mark.parametrize(
    ("command", "before", "after"),
    [
        pytest.param("!echo {str(part)}", "1", "2", id="call"),
        pytest.param("!echo {len([0] * part)}", "1", "2", id="nested call"),
        pytest.param("!echo {'abcd'[part:3]}", "1", "2", id="slice"),
        pytest.param("!echo {int(1)} {'x' + part!r}", "'a'", "'b'", id="conversion"),
        pytest.param("!echo {'-'.join(c for c in part)}", "'ab'", "'cd'", id="comprehension"),
        pytest.param("!echo $part", "1", "2", id="dollar"),
        pytest.param("%sx echo {str(part)}", "1", "2", id="line magic"),
    ],
)
def test_names_in_commands_are_inputs(shared: Any, command: str, before: str, after: str) -> None:
    """All that IPython computes inside braces counts: the cell runs again when a name in it has changed."""
    cell = f"%%task\nsaid = {command}\nprint(said)"
    shared.ok(f"part = {before}")
    assert again(shared, cell).badges
    shared.ok(f"part = {after}")
    changed = shared.ok(cell)
    assert not changed.badges
    assert changed.stdout == shared.ok(cell.removeprefix("%%task\n")).stdout


def test_doubled_braces_are_no_names(shared: Any) -> None:
    """`{{name}}` is text to IPython, and so no input."""
    cell = "%%task\ntext = !echo '{{stray}}'\nprint(text)"
    shared.ok("stray = 1")
    assert again(shared, cell).badges
    shared.ok("stray = 2")
    assert shared.ok(cell).badges


def test_what_a_command_changes_is_an_output(shared: Any) -> None:
    """A method that changes its object does so in braces as well."""
    cell = "%%task\ntaken = !echo {queue.pop()}\nprint(taken)"
    shared.ok("queue = [1, 2, 3]")
    shared.ok(cell)
    shared.ok("queue = [1, 2, 3]")
    assert shared.ok(cell).badges
    assert shared.value("queue") == [1, 2]


def test_the_body_of_a_captured_command_is_read(shared: Any) -> None:
    """IPython puts names into the body of `%%sx`, and binds what `--out` names."""
    shared.ok("word = 'one'")
    cell = "%%task\n%%sx --out lines\necho {word.upper()}"
    shared.ok(cell)
    assert shared.value("list(lines)") == ["ONE"]
    shared.ok("word = 'two'\ndel lines")
    assert not shared.ok(cell).badges
    shared.ok("del lines")
    assert shared.ok(cell).badges
    assert shared.value("list(lines)") == ["TWO"]


@pytest.mark.parametrize(
    ("body", "magic"),
    [
        ("%timeit -n1 -r1 print(measured())", "%timeit"),
        ("%timeit -n 1 -r 1 print(measured())", "%timeit"),
        ("%prun -q print(measured())", "%prun"),
        ("for _ in range(1):\n    %timeit -n1 -r1 print(measured())", "%timeit"),
        ("took = %timeit -o -q -n1 -r1 print(measured())", "%timeit"),
        ("%%timeit -n1 -r1 there = measured()\nprint(there)", "%%timeit"),
        ("%%prun -q\nprint(measured())", "%%prun"),
    ],
)
def test_measurements_are_made_anew(shared: Any, body: str, magic: str) -> None:
    """What measures is not cached and says so; what it runs is known as an input."""
    shared.ok("def measured(): return 'old'")
    for _ in range(2):
        result = shared.ok(f"%%task clocked\n{body}")
        assert f"not cached: it measures with `{magic}`, {MEASURED}" in result.stderr
        assert "old" in result.stdout
    shared.ok("def measured(): return 'new'")
    assert "new" in shared.ok(f"%%task clocked\n{body}").stdout
    assert "reads measured" in shared.ok(f"%%task clocked -v\n{body}").stderr


def test_an_alias_of_what_measures(shared: Any) -> None:
    """`%alias_magic` changes nothing about it."""
    shared.ok("%alias_magic tick timeit")
    cell = "%%task\n%tick -n1 -r1 3"
    assert f"it measures with `%timeit`, {MEASURED}" in again(shared, cell).stderr


def test_time_stays_cached(shared: Any) -> None:
    """`%time` shows how long the cell took that made the result; its options are no code."""
    shared.ok("def timed(): return 5")
    for body in ("%time clock = timed()", "%time --no-raise-error clock = timed()", "%%time\nclock = timed()"):
        assert again(shared, f"%%task\n{body}").badges
        shared.ok("del clock")
        assert "Wall time" in shared.ok(f"%%task\n{body}").stdout
        assert shared.value("clock") == 5


@pytest.mark.parametrize(
    "line", ["%%bash --out {} --err {}", "%%script sh --err={1} --out={0}", "%%sh --out {} --e {}"]
)
def test_what_scripts_write_is_restored(kernel: Any, line: str) -> None:
    """The names behind `--out` and `--err` are there after a restart, when the cell is restored."""
    cell = f"%%task written\n{line.format('said', 'warned')}\necho hello\necho careful >&2"
    kernel.ok(cell)
    kernel.restart()
    assert kernel.ok(cell).badges
    assert kernel.value("(said, warned)") == ("hello\n", "careful\n")


def test_scripts_in_the_background_are_not_cached(shared: Any) -> None:
    """A process and its pipe cannot be stored; a name that is only known at run time cannot be seen."""
    result = again(shared, "%%task\n%%bash --bg --proc running\ntrue")
    assert "output `running`" in result.stderr
    assert "cannot be stored" in result.stderr
    shared.ok("where = 'there'")
    assert UNSEEN in again(shared, "%%task\n%%bash --out {where}\ntrue").stderr


def test_magics_of_others_run_each_time(shared: Any) -> None:
    """What a magic of neither IPython nor nbflow reads and binds is not known, whether it is there yet or not."""
    shared.ok(
        "from IPython.core.magic import register_cell_magic, register_line_magic\n"
        "@register_cell_magic\n"
        "def put(line, cell): get_ipython().user_ns[line] = cell\n"
        "@register_line_magic\n"
        "def get(line): return get_ipython().user_ns[line]"
    )
    assert f"not cached: it uses `%%put`, {UNSEEN}" in again(shared, "%%task\n%%put lent\nbody").stderr
    assert f"not cached: it uses `%get`, {UNSEEN}" in again(shared, "%%task\ngot = %get lent\nprint(got)").stderr
    late = "%%task\nfrom IPython.core.magic import register_line_magic as mark\nmark('late')(lambda line: 3)\nn = %late"
    assert f"not cached: it uses `%late`, {UNSEEN}" in again(shared, late).stderr


def test_magics_of_ipython_stay_cached(shared: Any) -> None:
    """Those of which it is known what they read and bind, also of an extension that the cell loads."""
    assert again(shared, "%%task\n%load_ext autoreload\n%autoreload 0\nloaded = 1").badges
    assert again(shared, "%%task\n%matplotlib inline\nwhere = %pwd").badges
    assert again(shared, "%%task\n%%html\n<b>{stray}</b>").badges
    assert UNSEEN in again(shared, "%%task\n%whos").stderr


@pytest.mark.parametrize(
    "body",
    [
        "display(widgets.Button())\nshown = 1",
        "@widgets.interact(x=(0, 3))\ndef shown(x): print(x)",
        "box = widgets.VBox\nfor _ in range(2):\n    display(box([]))",
    ],
)
def test_widgets_are_shown_each_time(shared: Any, body: str) -> None:
    """A cell that shows a widget is not cached and says so: a hit could not show it."""
    shared.ok("import ipywidgets as widgets")
    for _ in range(2):
        result = shared.ok(f"%%task shows\n{body}")
        assert "not cached: it shows a widget, which lives in this kernel only" in result.stderr
        assert any("application/vnd.jupyter.widget-view+json" in each.get("data", {}) for each in result.plain)
    assert "it shows a widget" in shared.ok("%flow why shows").displays[-1]


def test_widgets_that_are_gone_do_not_count(shared: Any) -> None:
    """What the cell clears away is not missed on a hit."""
    shared.ok("import ipywidgets as widgets\nfrom IPython.display import clear_output")
    assert again(shared, "%%task\ndisplay(widgets.Button())\nclear_output()\ncleared = 1").badges


def test_bars_of_tqdm_do_not_count(shared: Any) -> None:
    """A cell with a bar of `tqdm.notebook` is cached; a hit shows no bar, as nothing is computed."""
    pytest.importorskip("tqdm.notebook")
    shared.ok("from tqdm.notebook import tqdm")
    hit = again(shared, "%%task\ntotal = sum(tqdm(range(4), desc='adding'))\nprint(total)")
    assert hit.badges
    assert hit.stdout == "6\n"


@pytest.mark.parametrize("command", ["!echo {part}", "!echo $part", "%sx echo {part}", "!echo {str(part)}"])
def test_names_in_commands_of_functions_are_inputs(shared: Any, command: str) -> None:
    """A command inside a function looks up its names when it is called, in a cell as in a cached function."""
    function = f"def said(end):\n    found = {command} {{end}}\n    return list(found)\n"
    cell = f"%%task\n{function}print(said('.'))"
    shared.ok("part = 1\nend = 0")
    assert again(shared, cell).badges
    shared.ok("end = 1")  # the function has its own
    assert shared.ok(cell).badges
    shared.ok(f"import nbflow\n@nbflow.task(cache=True)\n{function}first = said('!')\npart = 2\nlast = said('!')")
    assert shared.value("(first, last)") == (["1 !"], ["2 !"])
    changed = shared.ok(cell)
    assert not changed.badges
    assert changed.stdout == "['2 .']\n"


def test_a_function_that_measures_is_not_cached(shared: Any) -> None:
    """`%timeit` inside a function tells another figure each time as well."""
    cell = "%%task\ndef tried():\n    %timeit -n1 -r1 sum([1])\ntried()"
    assert f"not cached: it measures with `%timeit`, {MEASURED}" in again(shared, cell).stderr
