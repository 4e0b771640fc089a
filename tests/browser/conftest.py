"""Fixtures of the browser tests: a JupyterLab for each test, ended with it."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

# Another interpreter for the kernels, to try other versions of ipykernel; tests do not see NBFLOW_ variables.
KERNEL_PYTHON = os.environ.get("NBFLOW_BROWSER_KERNEL")


def _harness() -> ModuleType:
    """Load the harness beside this file; only here, since it needs playwright, which a skipped test must not."""
    name = "nbflow_browser_harness"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("harness.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def lab(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return a JupyterLab with a browser (`harness.Lab`); an indirect parameter gives further user settings."""
    settings = getattr(request, "param", None)
    with _harness().Lab(tmp_path / "lab", settings=settings, kernel_python=KERNEL_PYTHON) as lab:
        yield lab
