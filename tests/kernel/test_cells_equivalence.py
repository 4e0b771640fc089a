"""Equivalence is law: a notebook whose every cell is a task shows the same as the plain one, first run and second."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.kernel

ANALYSIS = [
    """import json, os, random, warnings
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from collections import Counter, defaultdict
warnings.filterwarnings("ignore")
pd.set_option("display.max_rows", 6)
plt.rcParams["figure.figsize"] = (1, 1)
rng = np.random.default_rng(7)
np.random.seed(3)""",
    """frame = pd.DataFrame({"k": list("abcab"), "v": rng.normal(size=5), "w": np.random.rand(5)})
copy = frame
frame""",
    """frame["twice"] = frame.v * 2
frame.loc[0, "v"] = 0.0
print(len(frame))
frame.describe().round(3)""",
    """with open("data.json", "w") as f:
    json.dump({"rows": len(frame)}, f)
with open("data.json") as f:
    loaded = json.load(f)
loaded""",
    """totals = defaultdict(float)
for key, value in zip(frame.k, frame.v):
    totals[key] += value
    last = key
counts = Counter(frame.k)
print(last, sorted(totals), counts.most_common(1))""",
    """class Model:
    \"\"\"A model.\"\"\"
    rate = 0.1
    def fit(self, data):
        self.mean = float(data.v.mean())
        return self
    def __repr__(self):
        return f"Model({getattr(self, 'mean', None):.4f})"
model = Model().fit(frame)
model""",
    """def score(m, data, *, power=2):
    return float(((data.v - m.mean) ** power).mean())
scores = {p: round(score(model, frame, power=p), 6) for p in (1, 2)}
scores""",
    """figure, axes = plt.subplots()
axes.plot(frame.v)
axes.set_title("v");""",
    """axes.set_xlabel("row")
figure.get_axes()[0] is axes""",
    """try:
    import a_module_that_is_not_there
except ImportError as error:
    a_module_that_is_not_there = None
    message = str(error)
message""",
    """acc = []
for n in range(3):
    acc.append(rng.integers(10))
copy is frame, acc""",
    """import asyncio
async def fetch(n):
    await asyncio.sleep(0)
    return n * 10
fetched = await asyncio.gather(*(fetch(n) for n in range(3)))
fetched""",
    "named = [n for n in range(5) if (half := n // 2) > 0]\nprint(half, named)\n_ = 3\n_ + 1",
    "!echo shell\nlisted = !echo one two\nlisted",
    "from IPython.display import Markdown, display\ndisplay(Markdown('**b**'), display_id='note')\nMarkdown('*end*')",
    "random.seed(4)\nsample = random.sample(range(100), 5)\nsample",
    "del acc\nsquares = (lambda xs: [x * x for x in xs])(named)\nsquares, np.random.rand(), rng.random()",
    "model.rate = 0.5\nmodel.extra = frame.k.tolist()\nsorted(vars(model)), Model.rate",
]

STATE = """print(sorted((name, repr(value)) for name, value in list(globals().items())
    if not name.startswith("_") and name not in ("In", "Out", "exit", "quit", "open", "get_ipython", "f")
    and " at 0x" not in repr(value) and not isinstance(value, type(json))))"""


def shown(kernel: Any, cells: list[str]) -> list[Any]:
    return [kernel.ok(cell).plain for cell in [*cells, STATE]]


@pytest.mark.slow
def test_a_notebook_of_tasks_shows_what_the_plain_one_shows(start_kernel: Any) -> None:
    """All outputs and all variables are equal: plain, all tasks for the first time, after a restart, and once more."""
    tasks = [("%%task -q\n" if "axes.set_xlabel" in cell else "%%task\n") + cell for cell in ANALYSIS]
    plain = start_kernel(env={"MPLBACKEND": "module://matplotlib_inline.backend_inline"})
    expected = shown(plain, ANALYSIS)
    first = shown(plain_restarted(plain), tasks)
    second_kernel = plain_restarted(plain)
    second = shown(second_kernel, tasks)
    third = shown(second_kernel, tasks)
    for position, cell in enumerate([*ANALYSIS, STATE]):
        assert first[position] == expected[position], cell
        assert second[position] == expected[position], cell
        assert third[position] == expected[position], cell
    status = second_kernel.ok("%flow").result or ""
    assert "failed" not in status
    assert status.count("uncached") == 1, "only the cell that draws on a figure of another cell"
    assert status.count("⚡ cached") == len(ANALYSIS) - 1
    assert second_kernel.ok("%flow stale").result == "Nothing is stale."


def test_the_same_in_the_background(kernel: Any) -> None:
    """Run with `--bg`, each waited for, the cells leave the same variables; the second time they are restored."""
    figures = ("subplots", "axes", "plt.")
    cells = [cell for cell in ANALYSIS if not any(word in cell for word in figures)]
    cells.insert(0, "\n".join(line for line in ANALYSIS[0].splitlines() if "plt" not in line))
    expected = shown(kernel, cells)[-1]
    plain_restarted(kernel)
    for _ in range(2):
        for cell in cells:
            kernel.ok(f"%%task --bg\n{cell}")
            kernel.ok("%flow wait")
        assert shown(kernel, [])[-1] == expected
    status = kernel.ok("%flow").result or ""
    assert "failed" not in status
    assert status.count("⚡ cached") >= 10, "all but those that draw from generators that all share"


def plain_restarted(kernel: Any) -> Any:
    kernel.restart()
    return kernel
