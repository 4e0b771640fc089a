"""What cannot be cached is said, once, where it is noticed."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.kernel
def test_a_task_whose_result_cannot_be_stored_says_so(start_kernel: Any) -> None:
    """A quick call shows nothing, but one whose result was not stored has a line; `%flow` and `why` know it too."""
    kernel = start_kernel(env={"NBFLOW_PROGRESS": "html"})
    kernel.ok("import threading\nfrom nbflow import task, why\n@task(cache=True)\ndef lock(x): return threading.Lock()")
    shown = kernel.ok("_ = lock(1)").outputs
    assert "not cached: TypeError" in shown[-1]["data"]["text/plain"]
    assert "uncached" in str(kernel.ok("%flow").result)
    assert "is not stored: not cached" in kernel.ok("%flow why lock").displays[-1]
    assert "its last call: not cached" in kernel.value("why(lock, 1)")


@pytest.mark.kernel
def test_a_cell_whose_output_cannot_be_stored_says_so_once(start_kernel: Any) -> None:
    """The cell's own line is enough; the panel does not repeat it."""
    kernel = start_kernel(env={"NBFLOW_PROGRESS": "html"})
    result = kernel.ok("%%task locked\nimport threading\nheld = threading.Lock()\nnumber = 5")
    assert "output `held` (lock) cannot be stored" in result.stderr
    assert [each["type"] for each in result.outputs] == ["stderr"]


@pytest.mark.kernel
def test_a_cell_that_reads_a_generator_is_uncached_not_stale(start_kernel: Any) -> None:
    """What can be read only once makes its reader run each time: `%flow`, `why` and the cell say so, and why."""
    kernel = start_kernel()
    kernel.ok("numbers = (n for n in range(4))")
    said = kernel.ok("%%task total\ntotal = sum(numbers)").stderr
    assert "not cached: input `numbers` (generator) cannot be compared with what it was, so it runs each time" in said
    status = kernel.ok("%flow").result or ""
    assert "uncached" in status
    assert "0 stale" in status
    for line in ("%flow why total", "%flow why total --dry"):
        assert "input `numbers` (generator)" in kernel.ok(line).displays[-1]
    kernel.ok("%%task scaled\nfactor = 3\nscaled = sum(numbers) * factor")
    assert "Nothing is stale" in kernel.ok("%flow stale").result
