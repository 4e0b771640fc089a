"""`%%task --bg` in a real kernel: the prompt at once, outputs in the own cell, names when done; and `%flow run -j`."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

pytestmark = pytest.mark.kernel

HOLD = """
import time
from pathlib import Path
def hold(name):
    while not Path(name).exists():
        time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def shell(start_kernel_once: Any) -> Any:
    """Return a kernel in which `hold("x")` blocks until the test releases "x"."""
    kernel = start_kernel_once()
    kernel.ok(HOLD)
    return kernel


def release(kernel: Any, name: str) -> None:
    """Let `hold(name)` return."""
    (kernel.folder / name).touch()


def test_prompt_at_once_output_in_its_own_cell_names_when_done(shell: Any) -> None:
    """The cell returns while it runs; what it shows is its own, and its names are placeholders until it has ended."""
    cell = shell.ok("%%task early --bg\nprint('begins')\nhold('early')\nprint('ends')\nearly = [1, 2]\nearly")
    shell.wait(lambda: "begins" in cell.stdout)
    front = shell.ok("print('in front')\n1 + 1")
    assert (front.stdout, front.result) == ("in front\n", "2")
    touched = shell.run("early + [3]")
    assert touched.status == "error"
    assert "`early` is not there yet: `early` (cell" in touched.traceback
    assert "%flow wait early" in touched.traceback
    assert "<pending: `early`" in str(shell.ok("early").result)
    assert any(line.startswith("early") and "running" in line for line in str(shell.ok("%flow").result).splitlines())
    release(shell, "early")
    assert "early done after" in shell.ok("%flow wait").stdout
    shell.wait(lambda: cell.result is not None)
    assert [each["type"] for each in cell.plain] == ["stdout", "execute_result"]
    assert (cell.stdout, cell.result) == ("begins\nends\n", "[1, 2]")
    assert shell.value(f"early, Out[{cell.execution_count}] is early") == ([1, 2], True)


def test_a_hit_is_restored_at_once(shell: Any) -> None:
    """A cached cell starts nothing: its names and outputs are there when the prompt is."""
    first = shell.ok("%%task again --bg\nprint('aloud')\nagain = {'a': 1}\nagain")
    shell.ok("%flow wait")
    shell.wait(lambda: first.result is not None)
    shell.ok("del again")
    second = shell.ok("%%task again --bg\nprint('aloud')\nagain = {'a': 1}\nagain")
    assert second.badges
    assert (second.stdout, second.result) == ("aloud\n", "{'a': 1}")
    assert shell.value("again") == {"a": 1}
    third = shell.ok("%%task again\nprint('aloud')\nagain = {'a': 1}\nagain")
    assert third.badges, "the same cell without --bg is the same cell"


def test_cells_that_need_a_pending_name_wait_for_it(shell: Any) -> None:
    """A chain in the background flows by itself; a task cell in front waits, also for what its functions read."""
    shell.ok("def plus(n): return base + n")
    shell.ok("%%task base --bg\nhold('base')\nbase = 10")
    shell.ok("%%task twice --bg\ntwice = base * 2")
    status = str(shell.ok("%flow").result).splitlines()
    assert any(line.startswith("twice") and "waiting" in line for line in status)
    threading.Timer(0.3, release, (shell, "base")).start()
    assert shell.ok("%%task three\nthree = plus(3)\nthree").result == "13"
    assert shell.ok("%%task four\ntwice + three").result == "33"
    order = [line.split()[0] for line in str(shell.ok("%flow").result).splitlines()]
    assert order.index("base") < order.index("twice") < order.index("three")


def test_failure_is_shown_in_its_own_cell_and_binds_nothing(shell: Any) -> None:
    """The traceback has the cell's own lines; names stay as they were; those who wait are told why."""
    shell.ok("kept = 'old'")
    cell = shell.ok("%%task kept --bg\nkept = 'new'\nfresh = 1\nhold('kept')\nraise ValueError('too deep.')")
    shell.ok("%%task after --bg\nafter = kept + '!'")
    release(shell, "kept")
    waited = shell.run("%flow wait")
    assert "`kept` (cell" in waited.stderr
    assert "failed with ValueError: too deep.\n" in waited.stderr
    shell.wait(lambda: cell.traceback != "")
    assert "----> 5 raise ValueError('too deep.')" in cell.traceback
    assert "nbflow/" not in cell.traceback
    assert shell.value("kept, 'fresh' in globals(), 'after' in globals()") == ("old", False, False)
    assert any(line.startswith("kept") and "failed" in line for line in str(shell.ok("%flow").result).splitlines())
    assert shell.ok("%flow wait").stdout == "Nothing runs in the background.\n"


def test_what_was_bound_meanwhile_stays(shell: Any) -> None:
    """The last executed cell wins: a name bound anew while the cell ran is left alone, and it says so."""
    cell = shell.ok("%%task mine --bg\nhold('mine')\nmine = other = 1")
    shell.ok("mine = 'newer'")
    release(shell, "mine")
    shell.ok("%flow wait")
    assert shell.value("mine, other") == ("newer", 1)
    shell.wait(lambda: "bound anew meanwhile, and left as it is: `mine`" in cell.stderr)


def test_functions_and_classes_are_the_notebooks_own(shell: Any) -> None:
    """What the cell defines lives in the notebook, and its objects are of these very classes."""
    shell.ok("rate = 2")
    shell.ok(
        "%%task model --bg\nclass Model:\n    def out(self): return self.n * rate\n"
        "def make(n):\n    model = Model(); model.n = n; return model\nmodel = make(3)\nsame = [model]"
    )
    shell.ok("%flow wait")
    shell.ok("rate = 5")
    assert shell.value("isinstance(model, Model), type(make(1)) is type(model), model.out()") == (True, True, 15)
    assert shell.value("make.__globals__ is globals(), same[0] is model") == (True, True)


@pytest.mark.parametrize("options", ["", "--no-cache"])
def test_inputs_changed_in_place_change_when_it_ends(shell: Any, options: str) -> None:
    """Nobody sees half of a change; in the end it is on the very object, under all its names."""
    shell.ok("items = [1]\nalias = items\nimport numpy as np\ngrid = np.zeros(3)\nview = grid[1:]")
    shell.ok(
        f"%%task changed --bg {options}\nitems.append(2)\ngrid[1] = 7\nhold('changed{options}')\nchanged = len(items)"
    )
    assert "`alias` is not there yet" in shell.run("alias.copy()").traceback
    assert shell.value("view.tolist()") == [0.0, 0.0]
    release(shell, f"changed{options}")
    shell.ok("%flow wait")
    assert shell.value("items is alias, alias, view.tolist(), changed") == (True, [1, 2], [7.0, 0.0], 2)
    assert "changed" not in str(shell.ok("%flow stale").result)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("x = input()", "input() could not be asked"),
        ("%time x = 1", "magics work on the shell"),
        ("import matplotlib.pyplot as plt\nplt.plot([1])", "pyplot's current figure"),
        ("draw()", "`pyplot` draws on pyplot's current figure"),
    ],
)
def test_what_needs_the_shell_is_refused(shell: Any, body: str, reason: str) -> None:
    """Code that cannot run beside other cells is refused before anything runs, with the reason."""
    if "draw" in body:
        shell.ok("import matplotlib.pyplot as pyplot\ndef draw(): pyplot.plot([1])")
    refused = shell.run(f"%%task refused --bg\n{body}")
    assert refused.status == "error"
    assert refused.stderr.startswith("UsageError: %%task --bg: `refused` cannot run in the background")
    assert reason in refused.stderr


def test_cancel_and_interrupt(shell: Any) -> None:
    """An interrupt is for the cell in front; `%flow cancel` ends cells at once, even in a blocking sleep."""
    shell.ok("quick = blocked = 'old'")
    quick = shell.ok("%%task quick --bg\nwhile True: time.sleep(0.01)\nquick = 1")
    blocked = shell.ok("%%task blocked --bg\nprint('on')\ntime.sleep(3)\nblocked = 1")
    shell.wait(lambda: blocked.stdout != "")
    stopped = shell.run("print('go')\ntime.sleep(60)", when=lambda result: bool(result.stdout), then=shell.interrupt)
    assert "KeyboardInterrupt" in stopped.traceback
    assert shell.value("sorted(job.name for job in get_ipython().nbflow_state.background.live())") == [
        "blocked",
        "quick",
    ]
    shell.ok("began = time.monotonic()\n%flow cancel --all\ntook = time.monotonic() - began")
    assert shell.value("took < 1.5, quick, blocked") == (True, "old", "old")
    shell.wait(lambda: "cancelled" in quick.stderr and "cancelled" in blocked.stderr)
    assert "nothing is running" in shell.run("%flow cancel quick").stderr


def test_two_cells_that_bind_one_name_end_as_if_one_after_the_other(shell: Any) -> None:
    """Whichever ends first, the name is in the end what the cell that was executed last made of it."""
    for first, second in (("x1", "x2"), ("x3", "x4")):
        shell.ok(f"%%task one --bg\nhold('{first}')\nboth = 'first'")
        shell.ok(f"%%task two --bg\nhold('{second}')\nboth = 'second'")
        for name in (first, second) if first == "x1" else (second, first):
            release(shell, name)
            shell.ok("%flow wait " + ("one" if name == first else "two"))
        assert shell.value("both") == "second"
    shell.ok("%%task one --bg\nhold('x5')\nboth = 'fifth'")
    shell.ok("%%task two --bg\nhold('x6')\n1 / 0\nboth = 'sixth'")
    release(shell, "x5")
    shell.ok("%flow wait one")
    release(shell, "x6")
    shell.run("%flow wait")
    assert shell.value("both") == "fifth"


def test_a_chain_that_makes_and_changes_one_name(shell: Any) -> None:
    """A cell that changes what an earlier one is still making gets that, also from the cache; failures undo all."""
    shell.ok("chain = 'old'")
    for gate, expected in (("c1", [1, 2, 3]), ("c2", [1, 2, 3])):
        shell.ok(f"%%task gate --bg\nhold('{gate}')\ngate = 1")
        shell.ok("%%task chain1 --bg\nchain = [gate]")
        shell.ok("%%task chain2 --bg\nchain.append(2)")
        shell.ok("%%task chain3 --bg\nchain.append(3)")
        release(shell, gate)
        shell.ok("%flow wait")
        assert shell.value("chain") == expected
    shell.ok("%%task chain1 --bg\nhold('c3')\nchain = [0]\n1 / 0")
    shell.ok("%%task chain2 --bg\nchain.append(2)")
    release(shell, "c3")
    assert shell.run("%flow wait").status == "error"
    assert shell.value("chain") == [1, 2, 3]


def test_timeout_and_retries_count_in_the_background_too(shell: Any) -> None:
    """The options of a cell hold for it in the background as well."""
    slow = shell.ok("%%task slow --bg --timeout 0.2\ntime.sleep(30)")
    shell.wait(lambda: "passed its timeout of 0.2 s" in slow.traceback)
    shell.run("%flow wait")
    body = "with open('tries', 'a+') as file:\n    file.write('x'); file.seek(0); tried = len(file.read())"
    shell.ok(f"%%task tried --bg --retries 2 -n\n{body}\nassert tried == 3")
    shell.ok("%flow wait")
    assert shell.value("tried") == 3


def test_running_it_again_cancels_the_older_run(shell: Any) -> None:
    """There is one run of a cell at a time: the newer one."""
    shell.ok("%%task once --bg\nhold('never')\nonce = 1")
    said = shell.ok("%%task once --bg\nonce = 2")
    assert "once: its older run in the background was cancelled" in said.stderr
    shell.ok("%flow wait")
    assert shell.value("once") == 2


def test_waiting_has_a_limit(shell: Any) -> None:
    """`%flow wait --timeout` gives up, and the cell goes on; wrong uses are told of."""
    shell.ok("%%task late --bg\nhold('late')\nlate = 1")
    assert "not ended after 0.05 s, and still running: late" in shell.run("%flow wait late --timeout 0.05").stderr
    assert "no cell of that name" in shell.run("%flow wait nobody").stderr
    assert "use a number of seconds" in shell.run("%flow wait --timeout soon").stderr
    release(shell, "late")
    assert "late done after" in shell.ok("%flow wait late --timeout 30").stdout


def test_commands_run_where_nobody_sees_what_comes_late_run_in_front(start_kernel: Any) -> None:
    """Under `nbflow run` the cell ends before the next one begins, so that the saved notebook has its output."""
    kernel = start_kernel(env={"NBFLOW_REPORT": "1"})
    assert kernel.ok("%%task shown --bg\nprint('kept')\nshown = 1\nshown").stdout == "kept\n"
    assert kernel.value("shown") == 1


# -- %flow run -j


def test_parallel_runs_show_and_leave_what_sequential_ones_do(shell: Any) -> None:
    """On random graphs of cells, `-j 4` gives the outputs and values of a run one after another."""
    chance = random.Random(7)
    for graph in range(4):
        cells = []
        for number in range(8):
            sources = chance.sample(range(number), min(number, chance.randrange(3)))
            terms = " + ".join([f"seed{graph}", str(number), *(f"v{graph}_{each}" for each in sources)])
            loop = f"for i in range(2):\n    print('cell {number}', i)\n"
            cells.append(f"{loop}v{graph}_{number} = {terms}\nv{graph}_{number}")
        shell.ok(f"seed{graph} = 1")
        for number, cell in enumerate(cells):
            shell.ok(f"%%task v{graph}_{number}\n{cell}")
        names = " ".join(f"v{graph}_{number}" for number in range(8))
        values = f"[{', '.join(names.split())}, i]"
        for mode in ("", "-j 4"):
            shell.ok(f"seed{graph} = {chance.randrange(10**6)}")
            shell.ok("%flow clear")
            done = shell.ok(f"%flow run {names} {mode}")
            expected: dict[str, Any] = {"seed": shell.value(f"seed{graph}"), "print": lambda *words: None}
            for cell in cells:
                exec(cell.replace(f"v{graph}_", "v").replace(f"seed{graph}", "seed"), expected)
            assert shell.value(values) == [*(expected[f"v{number}"] for number in range(8)), 1]
            shown = [f"— v{graph}_{number}" for number in range(8)]
            assert [line.split(" (")[0] for line in done.stdout.splitlines() if line.startswith("—")] == shown
            assert done.displays == [str(expected[f"v{number}"]) for number in range(8)]


def test_parallel_cells_run_beside_each_other_and_a_failure_stops_its_readers(shell: Any) -> None:
    """Two cells that wait for each other both get through; what reads from a failed cell is left out, others finish."""
    shell.ok("part = 1\ndef meet(mine, other):\n    Path(mine).touch()\n    hold(other)")
    shell.ok("%%task left\nleft = part\nif part > 1: meet('left', 'right')")
    shell.ok("%%task right\nright = part\nif part > 1: meet('right', 'left')")
    shell.ok("%%task bad\nif part > 1: raise RuntimeError('no part')\nbad = 1")
    shell.ok("%%task behind\nbehind = bad + 1")
    shell.ok("part = 2")
    done = shell.run("%flow run left right bad behind -j 3")
    assert done.status == "error"
    assert "RuntimeError: no part" in done.traceback
    assert "nbflow/" not in done.traceback
    assert done.stdout.splitlines()[-1].endswith(": not run, as bad failed")
    assert shell.value("left, right, bad, behind") == (2, 2, 1, 2)


def test_parallel_run_ends_with_an_interrupt(shell: Any) -> None:
    """■ cancels all cells of the run; no thread is left, and names are as before."""
    shell.ok("calm = True")
    for name in ("north", "south"):
        shell.ok(f"%%task {name}\n{name} = 'old'\nif not calm:\n    Path('{name}').touch()\n    hold('never')")
    shell.ok("calm = False")

    def interrupt() -> None:
        while not all((shell.folder / name).exists() for name in ("north", "south")):
            threading.Event().wait(0.01)
        shell.interrupt()

    waiting = threading.Thread(target=interrupt)
    waiting.start()
    stopped = shell.run("%flow run north south -j 2")
    waiting.join()
    assert "KeyboardInterrupt" in stopped.traceback
    shell.ok("import threading")
    shell.ok("workers = [each for each in threading.enumerate() if each.name.startswith('nbflow-background')]")
    shell.ok("for each in workers: each.join(20)")  # a job is over a little before its thread is
    assert shell.value("north, south, [each.is_alive() for each in workers].count(True)") == ("old", "old", 0)


def test_cells_that_change_their_inputs_keep_their_order(shell: Any) -> None:
    """Cells that change a shared list in place go one after another, in the order of the plan."""
    shell.ok("step = 1")
    shell.ok("%%task log\nlog = [step]")
    for name in ("p", "q", "r"):
        shell.ok(f"%%task {name}\nlog.append('{name}')\n{name} = len(log)")
    shell.ok("step = 2")
    shell.ok("%flow run log p q r -j 4")
    assert shell.value("log, p, q, r") == ([2, "p", "q", "r"], 2, 3, 4)


@pytest.mark.parametrize("word", ["-j", "-j 0", "-j x", "--jobs"])
def test_wrong_widths_are_told_of(shell: Any, word: str) -> None:
    """`-j` wants a whole number."""
    assert "how many cells at a time?" in shell.run(f"%flow run {word}").stderr


# -- last, since `%flow` awaits where some cell does


def test_awaiting_cells_run_on_the_kernels_loop(shell: Any) -> None:
    """A body that awaits goes on while other cells run, and plain and task cells can wait for it."""
    cell = shell.ok(
        "%%task awaited --bg\nimport asyncio\nprint('one')\nfor _ in range(500):\n    await asyncio.sleep(0.01)\n"
        "    if Path('awaited').exists(): break\nprint('two')\nawaited = asyncio.get_running_loop()"
    )
    shell.ok("1 + 1")
    release(shell, "awaited")
    assert shell.ok("%%task user -n\nuser = awaited\nimport asyncio\nuser.is_running()").result == "True"
    assert shell.ok("import asyncio\nawait asyncio.sleep(0)\nuser is asyncio.get_running_loop()").result == "True"
    shell.wait(lambda: cell.stdout == "one\ntwo\n")
    shell.ok("%%task endless --bg\nawait asyncio.sleep(1000)\nendless = 1")
    assert shell.ok("%flow cancel endless").stdout == "Cancelled endless.\n"
    assert shell.value("'endless' in globals()") is False
