"""A map over two hosts that only a network connects."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed")
TOOL = Path(__file__).parents[1] / "tools" / "two_hosts.py"


def _tool() -> Any:
    spec = spec_from_file_location("two_hosts", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_map_runs_on_both() -> None:
    """Both hosts run items, every result is right, and what workers print comes out at home."""
    if (reason := _tool().why_not()) is not None:
        pytest.skip(reason)
    done = subprocess.run([sys.executable, str(TOOL)], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    printed, last = done.stdout.rstrip().rsplit("\n", 1)
    found = json.loads(last)
    assert found["right"]
    assert found["workers"] == 2
    assert set(found["ran"]) == {"nbflow-a", "nbflow-b"}
    assert sum(found["ran"].values()) == 100
    assert sorted(map(int, re.findall(r"item (\d+)", printed))) == list(range(100))
    assert not re.sub(r"item \d+", "", printed).strip()
