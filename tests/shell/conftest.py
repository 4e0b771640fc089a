"""Tests of commands: nothing lingers after a test."""

from __future__ import annotations

import pytest

from nbflow.shell import keeper


@pytest.fixture(autouse=True)
def _no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the keeper end at once, since every test looks for processes that are left."""
    monkeypatch.setattr(keeper, "_IDLE_S", 0.01)
