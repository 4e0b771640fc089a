"""`why` in a notebook: before and after, with names, values and cells, as text and as a list."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.kernel


def why(kernel: Any, line: str) -> str:
    return str(kernel.ok(f"%flow why {line}").displays[-1])


def test_cells_before_and_after(kernel: Any) -> None:
    """A cell says what it would do now: be restored, run, wait for others; and all that has changed."""
    kernel.ok("limit, size = 3, 10\ndef clean(x): return [each for each in x if each > limit]")
    kernel.ok("%%task rows\nrows = list(range(size))")
    kernel.ok("%%task kept\nkept = clean(rows)")
    kernel.ok("%%task off --no-cache\noff = 1")
    assert "it ran because: never run before" in why(kernel, "kept")
    assert "kept (cell 4) would be restored from the cache: computed" in why(kernel, "kept --dry")
    assert "caching is off for it" in why(kernel, "off --dry")
    kernel.ok("limit = 4\ndef clean(x): return sorted(each for each in x if each > limit)")
    shown = kernel.ok("%flow why kept --dry").outputs[-1]["data"]
    assert shown["text/plain"].splitlines() == [
        "kept (cell 4) would run:",
        "  • helper `clean` changed (cell 9)",
        "  • global `limit` 3 → 4 (cell 9)",
    ]
    assert "<li>helper <code>clean</code> changed (cell 9)</li>" in shown["text/html"]
    assert kernel.ok("%flow why kept").displays[-1].startswith("kept (cell 4) is stale:\n  • helper `clean` changed")
    kernel.ok("size = 11")
    assert "reads from stale `rows` (cell 3)" in why(kernel, "kept --dry")
    assert "global" not in why(kernel, "rows --dry")
    assert "input `size` 10 → 11 (cell 12)" in why(kernel, "rows --dry")
    assert "which cell or task?" in kernel.run("%flow why --dry").stderr
    for _ in range(2):
        kernel.ok("%%task stamp\nimport time\nstamp = time.time()")
    assert "the clock (`time.time`) cannot count" in why(kernel, "stamp")


def test_tasks_before_and_after(kernel: Any) -> None:
    """A task function says what its last call would do again, and `why` tells it of any call; nothing is run."""
    kernel.ok("from nbflow import task, why\nrate = 2\nruns = []")
    kernel.ok("@task(cache=True, ignore=['log'])\ndef price(x, log=None):\n    print('ran')\n    return x * rate")
    kernel.ok("price(3)")
    kernel.ok("price(4)")
    assert "fresh: the result for these arguments is cached" in why(kernel, "price --dry")
    kernel.ok("rate = 5")
    assert "with the arguments of its last call, price would run: global `rate` 2 → 5." in why(kernel, "price --dry")
    kernel.ok("rate = 2")
    asked = kernel.ok("why(price, 9)")
    assert asked.stdout == ""
    assert asked.result == "price would run: argument `x` 4 → 9."
    assert "price is fresh" in kernel.value("str(why(price, 3))")
    kernel.ok("import random, nbflow\n@task(cache=True)\ndef roll(): return random.random()")
    kernel.ok("roll(), roll()")
    assert "random numbers (`random.random`) cannot count" in why(kernel, "roll")
    kernel.ok("%flow clear price")
    assert "evicted or cleared" in why(kernel, "price --dry")


def test_frames_are_told_by_their_shape(kernel: Any) -> None:
    """An argument that is a frame shows old and new shape."""
    kernel.ok("import pandas as pd\nfrom nbflow import task, why\n@task(cache=True)\ndef size(df): return len(df)")
    kernel.ok("size(pd.DataFrame({'a': range(5), 'b': 1}))")
    assert kernel.value("str(why(size, pd.DataFrame({'a': range(7), 'b': 1})))") == (
        "size would run: argument `df` DataFrame 5×2 → 7×2."
    )
    assert "changed (DataFrame 5×2, other values)" in kernel.value(
        "str(why(size, pd.DataFrame({'a': range(1, 6), 'b': 1})))"
    )


def test_what_cannot_be_digested_is_said(kernel: Any) -> None:
    """A call that is kept for this session only says which argument is the reason."""
    kernel.ok("import threading\nfrom nbflow import task, why\n@task(cache=True)\ndef held(lock): return 1")
    assert "kept for this session only: argument `lock` cannot be digested" in kernel.value(
        "str(why(held, threading.Lock()))"
    )


def test_a_hash_of_ones_own_alone_counts(kernel: Any) -> None:
    """A task with `cache_hash` that hits is not stale; and an answer for other arguments than the last says so."""
    kernel.ok("from nbflow import task\n@task(cache=True, cache_hash=lambda f, i: str(i['x']))\ndef own(x): return x")
    kernel.ok("own(1), own(1)")
    assert "own (cell 2) is up to date; its last call came from the cache" in why(kernel, "own")
    assert "stale" not in (kernel.ok("%flow").result or "").splitlines()[1]
    kernel.ok("@task(cache=True)\ndef plain(x): return x")
    kernel.ok("plain(1), plain(2), plain(1)")
    assert why(kernel, "plain --dry").startswith("with the arguments of an earlier call (x=2), plain is fresh")
