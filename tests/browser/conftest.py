"""Fixtures of the browser tests: one server and one browser for all of them, begun anew for each."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

# Another interpreter for the kernels, to try other versions of ipykernel; tests do not see NBFLOW_ variables.
KERNEL_PYTHON = os.environ.get("NBFLOW_BROWSER_KERNEL")
# The front ends of all tests that do not name theirs.
FRONTS = [pytest.param({"front": "lab"}, id="lab"), pytest.param({"front": "notebook"}, id="notebook 7")]


def _harness() -> ModuleType:
    """Load the harness beside this file; only here, since it needs playwright, which a skipped test must not."""
    name = "nbflow_browser_harness"
    if name not in sys.modules:
        path = os.path.join(os.path.dirname(__file__), "harness.py")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def harness() -> ModuleType:
    """Return the module with `Lab` and `Page`, for tests that need a server of their own."""
    return _harness()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the server that all browser tests share, with its browser."""
    with _harness().Lab(tmp_path_factory.mktemp("browser") / "lab", kernel_python=KERNEL_PYTHON) as lab:
        yield lab


@pytest.fixture(autouse=True)
def _nothing_left() -> None:
    """Server, browser and kernels of these tests outlive a single one; `server` ends them all, by their process ids."""


@pytest.fixture(params=FRONTS)
def lab(server: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return a front end (`harness.Lab`) with an empty folder; the parameter holds arguments of `fresh`."""
    yield server.fresh(**request.param)
    server.clear()
