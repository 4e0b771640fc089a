"""Fixtures of the cache tests: a key file of their own, and a notebook without a kernel."""

from __future__ import annotations

import itertools
import linecache
from pathlib import Path
from typing import Any

import pytest

from nbflow.cache import CacheStore, FunctionKeyer
from nbflow.cache.index import Index

_numbers = itertools.count(1)


class Notebook:
    """Runs cells as a kernel does: one namespace called `__main__`, a file name for each run of a cell."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}

    def run(self, text: str) -> Notebook:
        """Run a cell."""
        name = f"/tmp/ipykernel_{next(_numbers)}/{hash(text) & 0xFFFFFF}.py"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), self.names)
        return self

    def __getitem__(self, name: str) -> Any:
        return self.names[name]

    def key(self, function: str = "f", **inputs: Any) -> str:
        """Return the key of a call to one of the notebook's functions, as a new task object would make it."""
        return FunctionKeyer(self.names[function], name=function).key(inputs).digest


@pytest.fixture(autouse=True)
def _own_key(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBFLOW_KEY_FILE", str(tmp_path_factory.mktemp("config") / "nbflow" / "key"))


@pytest.fixture
def notebook() -> Notebook:
    """A fresh kernel."""
    return Notebook()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / ".nbflow" / "cache"


@pytest.fixture
def store(folder: Path) -> Any:
    """A store on disk."""
    store = CacheStore(folder)
    yield store
    store.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys that an index was asked for."""
    keys: list[str] = []
    real = Index.find

    def find(self: Index, key: str) -> tuple[bytes, int] | None:
        keys.append(key)
        return real(self, key)

    monkeypatch.setattr(Index, "find", find)
    return keys
