"""Formats that a test defines are forgotten after it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nbflow.datasets import AbstractDataset, DatasetStore


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore the table of formats and the plugins seen."""
    registry = AbstractDataset._registry
    for name, value in vars(registry).items():
        if isinstance(value, dict):
            monkeypatch.setattr(registry, name, dict(value))
    monkeypatch.setattr(AbstractDataset, "_auto_discover", AbstractDataset._auto_discover)
    monkeypatch.setattr(AbstractDataset, "_seen_plugins", set(AbstractDataset._seen_plugins))


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    """Return a store in a folder that does not exist yet."""
    return DatasetStore(tmp_path / "data")
