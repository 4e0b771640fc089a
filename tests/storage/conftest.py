"""fsspec keeps one thread for its asynchronous file systems; it is started before any test counts threads."""

from __future__ import annotations

import fsspec.asyn
import pytest


@pytest.fixture(scope="session", autouse=True)
def _fsspec_thread() -> None:
    """Start the thread that fsspec never ends."""
    fsspec.asyn.get_loop()
