"""Kernels with warm imports are like others: what they have, how they end, and whom they go with."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import warm

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="kernels are started as ever on this platform"),
    pytest.mark.skipif(os.environ.get("WARM_PYTHON") == "off", reason="WARM_PYTHON=off"),
]

ROOT = Path(__file__).parents[2]
FACTS = """(
    [name for name in ('nbflow', 'numpy', 'pandas', 'matplotlib', 'nbclient') if name in __import__('sys').modules],
    [word for word in __import__('sys').argv if not word.endswith(('.json', '.py'))],
    __import__('os').getcwd(), __import__('os').environ['FACT'], __import__('sys').path[0],
    __import__('os').getsid(0) == __import__('os').getpid(), __import__('threading').active_count() > 1,
)"""


def test_a_warm_kernel_is_as_a_cold_one(start_kernel: Callable[..., Any], tmp_path: Path) -> None:
    """Modules, arguments, folder, environment, path and session are the same; imports bring all of a package."""
    warm_one, cold_one = (start_kernel(load=False, env={"FACT": "x"}, cold=cold) for cold in (False, True))
    assert warm_one.manager.provisioner.pid in _descendants(warm.pids())
    assert warm_one.value(FACTS) == cold_one.value(FACTS)
    assert warm_one.value(FACTS)[:1] + warm_one.value(FACTS)[2:4] == ([], str(tmp_path), "x")
    look = "import sys, numpy, nbflow\nprint(sorted(n for n in sys.modules if n.startswith(('numpy', 'nbflow'))))"
    assert warm_one.ok(look).stdout == cold_one.ok(look).stdout
    again = "import importlib\nimportlib.reload(nbflow)\nprint(nbflow.__path__, importlib.util.find_spec('pandas.io'))"
    assert warm_one.ok(again).stdout.split()[0] == cold_one.ok(again).stdout.split()[0]


def test_two_in_turn_have_different_seeds(kernel: Any) -> None:
    """After a restart sets of texts are in another order, as in a new Python."""
    if "PYTHONHASHSEED" in os.environ:
        pytest.skip("the seed is given")
    before = kernel.value("hash('text')")
    kernel.restart()
    assert kernel.value("hash('text')") != before


def test_a_killed_kernel_is_dead_with_its_signal(kernel: Any) -> None:
    """Nobody but the server can wait for it, so the server tells how it ended."""
    process = kernel.manager.provisioner.process
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert not kernel.manager.is_alive()


def test_kernels_go_with_the_tests_that_started_them(tmp_path: Path) -> None:
    """After kill -9 of the process of the tests no server and no kernel goes on."""
    with tempfile.TemporaryDirectory(prefix="warm-") as left:  # what it can no longer remove
        _kill_an_owner(tmp_path, left)


def _kill_an_owner(folder: Path, temporary: str) -> None:
    code = (
        "import sys, threading; from pathlib import Path; from tests.kernel import harness, warm\n"
        "kernel = harness.Kernel(Path.cwd(), load=False)\n"
        "print(kernel.manager.provisioner.pid, *warm.pids(), flush=True); threading.Event().wait(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": temporary},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    with owner.stdout:
        handles = [os.pidfd_open(int(pid)) for pid in owner.stdout.readline().split()]
    owner.kill()
    owner.wait()
    assert len(handles) == 2
    for handle in handles:
        assert select.select([handle], [], [], 30)[0]
        os.close(handle)


def _descendants(pids: set[int]) -> set[int]:
    """Return the children of processes."""
    tasks = (task for pid in pids for task in Path(f"/proc/{pid}/task").glob("*/children"))
    return {int(pid) for task in tasks for pid in task.read_text().split()}
