"""`explore` and the dataset browser in a real kernel, moved by messages as a front end sends them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel

WIDGET = "application/vnd.jupyter.widget-view+json"


class Front:
    """The front end of one widget."""

    def __init__(self, kernel: Any, shown: Any) -> None:
        self.kernel = kernel
        bundles = [each["data"] for each in shown.outputs if WIDGET in each.get("data", {})]
        self.comm = bundles[-1][WIDGET]["model_id"]
        self.got: list[dict[str, Any]] = []
        self.displays: list[dict[str, Any]] = []

    def send(self, **content: Any) -> None:
        data = {"method": "custom", "content": content}
        session = self.kernel.client.session
        self.kernel.client.shell_channel.send(session.msg("comm_msg", {"comm_id": self.comm, "data": data}))

    def until(self, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Collect messages until one is as wanted, and return it."""
        deadline = time.monotonic() + 20
        while True:
            message = self.kernel.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            content = message["content"]
            if message["msg_type"] == "update_display_data":
                self.displays.append(content["data"])
            elif message["msg_type"] == "comm_msg" and content["data"].get("method") == "custom":
                self.got.append(content["data"]["content"])
                if done(self.got[-1]):
                    return self.got[-1]

    def first(self) -> dict[str, Any]:
        """Return the first result, which may have come before anybody listened."""
        self.send(kind="hello")
        found = self.until(lambda message: message["kind"] == "all")
        return found if found["at"] is not None else self.until(lambda message: message["kind"] == "result")

    def result(self, *at: Any) -> dict[str, Any]:
        return self.until(lambda message: message["kind"] == "result" and message["at"] == list(at))


@pytest.fixture(scope="module")
def live(start_kernel_once: Callable[..., Any]) -> Any:
    """A kernel whose front end runs widgets."""
    kernel = start_kernel_once(
        env={"NBFLOW_PROGRESS": "widget", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    )
    kernel.ok(
        "import time\nfrom nbflow import explore, save_dataset, task\nfrom nbflow.sessions import current_session"
    )
    return kernel


def ran(kernel: Any) -> list[str]:
    return (kernel.folder / "ran").read_text().split()


def test_fifty_movements_in_a_second(live: Any) -> None:
    """Of a task of half a second at most three run, the last movement is shown, and nothing older after it."""
    shown = live.ok(
        "@task(cache=True)\n"
        "def slow(n: int):\n"
        "    with open('ran', 'a') as file:\n"
        "        file.write(f'{n}\\n')\n"
        "    time.sleep(0.5)\n"
        "    return n\n"
        "slow(0)\n"
        "ex = explore(slow, n=(0, 60)); ex"
    )
    front = Front(live, shown)
    assert front.first()["at"] == [0]
    (live.folder / "ran").unlink()
    start = time.monotonic()
    for n in range(1, 51):
        front.send(kind="set", positions=[n])
        time.sleep(max(0.0, start + 0.02 * n - time.monotonic()))  # a hand, not a wait
    front.result(50)
    assert len(ran(live)) <= 3
    assert ran(live)[-1] == "50"
    marks = front.until(lambda message: message["kind"] == "marks")["marks"]["n"]
    assert {0, 50} <= set(marks)
    assert len(marks) <= 4
    results = [message["at"][0] for message in front.got if message["kind"] == "result"]
    assert results == sorted(results)
    assert live.value("ex.value, ex.setting, len(get_ipython().kernel.comm_manager.comms) < 8") == (50, {"n": 50}, True)
    front.send(kind="set", positions=[0])
    assert front.result(0)["words"].startswith("cached")
    assert len(ran(live)) <= 3


def test_a_cell_by_name(live: Any) -> None:
    """Its names are overridden, read or assigned; the notebook keeps its variables; the cache is asked by setting."""
    live.ok("year, seen = 2010, []")
    live.ok(
        "%%task flights\n"
        "month = 3\n"
        "seen.append(year)\n"
        "print('reading', year)\n"
        "with open('cell', 'a') as file: file.write('x')\n"
        "(year, month, len(seen))"
    )
    front = Front(live, live.ok("cell = explore('flights', year=(2010, 2013), month=[1, 3]); cell"))
    assert front.first()["at"] == [0, 1]
    front.send(kind="set", positions=[2, 1])
    parts = front.result(2, 1)["parts"]
    assert parts == [["text", "reading 2012\n"], ["text", "(2012, 3, 2)"]]
    front.send(kind="set", positions=[0, 1])
    assert "cached" in front.result(0, 1)["words"]
    assert live.value("year, month, seen") == (2010, 3, [2010])
    assert (live.folder / "cell").read_text() == "xxx"
    front.send(kind="set", positions=[2, 1])
    front.result(2, 1)
    front.send(kind="keep")
    text = front.until(lambda message: message["kind"] == "kept")["text"]
    assert text.splitlines()[:3] == ["%%task flights_year_2012_month_3", "year = 2012", "month = 3"]
    assert live.ok(text).result == "(2012, 3, 2)"
    live.ok("cell.close()")


def test_failures_and_wrong_use(live: Any) -> None:
    """An error is a result like any other; what cannot be explored is said at once."""
    front = Front(live, live.ok("def fails(n):\n    raise ValueError(f'{n} is too much')\nexplore(fails, n=(1, 3))"))
    failed = front.first()
    assert failed["failed"]
    assert failed["parts"][0][0] == "error"
    assert "1 is too much" in failed["parts"][0][1]
    for code, says in {
        "explore(fails, m=(1, 2))": "no parameter 'm'; there are: n",
        "explore(slow)": "give a range or a value for 'n'",
        "explore('nothing', n=(1, 2))": "no task cell of that name",
        "explore('flights', other=1)": "does not read 'other'; it reads: month, seen, year",
        "explore(fails, n=(2, 1))": "low ≤ high",
        "explore(fails, n=(1, 2), prefetch='all')": "must be one of off, neighbours",
        "explore(3, n=(1, 2))": "give a task, or the name",
    }.items():
        told = live.run(code).traceback
        assert says in told, code
        assert told.count("nbflow/") <= 1, "IPython shows the last frame, more of ours are of no use"


def test_what_was_printed_is_shown_again_while_it_is_known(live: Any) -> None:
    """A hit shows what its call showed here; of one that ran elsewhere there is only the value, and that is said."""
    shown = live.ok("@task(cache=True)\ndef says(n):\n    print('said', n)\nsays(2)\nexplore(says, n=(1, 3))")
    front = Front(live, shown)
    assert front.first()["parts"] == [["text", "said 1\n"]]
    front.send(kind="set", positions=[1])
    assert "not: return what is to be seen" in front.result(1)["parts"][0][1]
    front.send(kind="set", positions=[0])
    again = front.result(0)
    assert again["words"].startswith("cached")
    assert again["parts"] == [["text", "said 1\n"]]


def test_reruns_and_figures_leave_nothing_behind(live: Any) -> None:
    """A cell that runs again closes what it showed before; figures stay in their result."""
    live.ok("import matplotlib.pyplot as plt\ndef draw(n):\n    plt.plot([0, n])\n    return 'drawn'")
    comms, parts = [], []
    for _ in range(5):
        front = Front(live, live.ok("explore(draw, n=(1, 3))", cell_id="drawing"))
        parts = front.first()["parts"]
        comms.append(live.value("len(get_ipython().kernel.comm_manager.comms)"))
    assert [kind for kind, _ in parts] == ["text", "png"]
    assert comms[-1] <= comms[0]  # fewer, where the panel of an earlier cell has closed meanwhile
    assert live.value("plt.get_fignums()") == []
    closed = live.ok("current_session().close()")
    assert closed.stderr == ""
    live.ok("%reload_ext nbflow")


def test_figures_of_calls_and_cells_do_not_mix(live: Any) -> None:
    """A call and a cell that draw with pyplot at the same moment have each their own figure, with their own lines."""
    live.ok(
        "import threading, matplotlib.pyplot as plt\n"
        "turn = [threading.Event() for _ in range(4)]\n"
        "def late(n):\n"
        "    if n == 1: return n\n"
        "    plt.plot([0, 1]); turn[0].set(); turn[1].wait(20)\n"
        "    plt.plot([0, 2]); turn[2].set(); turn[3].wait(20)\n"
        "    return [len(axes.lines) for axes in plt.gcf().axes], plt.get_fignums()"
    )
    front = Front(live, live.ok("mixed = explore(late, n=(1, 2)); mixed"))
    front.first()
    drawn = live.ok(
        "mixed.set(n=2); _ = turn[0].wait(20); plt.plot([3, 4]); turn[1].set(); _ = turn[2].wait(20)\n"
        "plt.plot([5, 6]); here = [len(axes.lines) for axes in plt.gcf().axes], plt.get_fignums()"
    )
    assert sum("image/png" in each.get("data", {}) for each in drawn.outputs) == 1
    live.ok("turn[3].set(); there = mixed.value")
    assert live.value("here, there") == (([2], [1]), ([2], [1]))
    assert [kind for kind, _ in front.first()["parts"]] == ["text", "png"]
    assert live.value("plt.get_fignums()") == []


def test_neighbours_are_computed_ahead(start_kernel: Callable[..., Any]) -> None:
    """While nothing else is to be done, and without a word; they are marked."""
    kernel = start_kernel(env={"NBFLOW_PROGRESS": "widget"})
    kernel.ok("from nbflow import explore, task\n@task(cache=True)\ndef twice(n, m=0): return 2 * n")
    front = Front(kernel, kernel.ok("import time\nex = explore(twice, n=(0, 9), m=7, prefetch='neighbours'); ex"))
    front.first()
    kernel.ok("while not {0, 1} <= set(ex._marks().get('n', ())): time.sleep(0.02)")
    front.send(kind="set", positions=[1])
    assert "cached" in front.result(1)["words"]
    front.until(lambda message: message["kind"] == "marks" and message["marks"]["n"] == [0, 1, 2])
    assert [message["at"] for message in front.got if message["kind"] == "result"] in ([[0], [1]], [[1]])


def test_without_widgets_there_is_the_result(shared: Any) -> None:
    """As HTML and text, which code moves; no widget is left in the notebook."""
    shared.ok("from nbflow import explore\nex = explore(lambda n: f'result {n}', n=(1, 5))")
    shown = shared.ok("ex")
    (bundle,) = [each["data"] for each in shown.outputs]
    assert set(bundle) == {"text/html", "text/plain"}
    assert "result 1" in bundle["text/html"]
    assert "n = 1" in bundle["text/plain"]
    shared.ok("ex.set(n=4)")
    assert shared.value("ex.value") == "result 4"
    assert shared.value("ex.keep()") == "<lambda>(n=4)"


def test_datasets_are_browsed(live: Any) -> None:
    """Listed, looked at by the page, compared, deleted; every answer is small."""
    live.ok("for n in (10, 1000): save_dataset('big/table.json', [['x' * 50, n, i] for i in range(n)])")
    front = Front(live, live.ok("current_session().datasets"))

    def ask(kind: str, **content: Any) -> dict[str, Any]:
        front.send(kind=kind, number=7, **content)
        return front.until(lambda message: message["kind"] == kind)

    (row,) = ask("list", filter="TABLE list")["rows"]
    assert (row["key"], row["type"], row["shape"], row["versions"]) == ("big/table.json", "list", "1,000", 2)
    assert re.fullmatch(r"cell \d+", row["origin"])
    page = ask("preview", key=row["key"], page=3)
    assert (page["page"]["pages"], page["page"]["rows"][0][0], page["page"]["total"]) == (20, "150", 1000)
    assert len(str(page)) < 100_000
    assert page["snippet"] == "load_dataset('big/table.json')"
    new, old = ask("versions", key=row["key"])["versions"]
    assert ask("preview", key=row["key"], version=old["id"])["page"]["total"] == 10
    assert ask("diff", key=row["key"], old=old["id"], new=new["id"])["lines"][0] == "~ shape: 10 → 1,000"
    assert "error" in ask("preview", key="nowhere.json")
    assert "error" in ask("delete", key="../x")
    ask("delete", key=row["key"])
    assert ask("list", filter="table")["rows"] == []
    assert not (Path(live.folder) / "big" / "table.json").exists()
