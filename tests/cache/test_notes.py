"""What earlier processes found out of code: used without analysing it again, never wrong, never needed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbflow.cache import CacheStore, FunctionKeyer, source
from nbflow.cache.notes import Notes

_TEXT = """
FACTOR = 3

def helper(n):
    import math
    return math.floor(n) * FACTOR

def f(n):
    return helper(n) + 1
"""


@pytest.fixture
def module(tmp_path: Path) -> Callable[..., Any]:
    """A function that runs a text as a module of a fresh process would be, and returns what it defines."""

    def load(text: str, name: str = "code.py") -> dict[str, Any]:
        source._known.clear()
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(text, str(file), "exec"), names)
        return names

    return load


def key(names: dict[str, Any], store: CacheStore) -> str:
    keyer = FunctionKeyer(names["f"], name="f")
    made = keyer.key({"n": 1}, store=store)
    store.save(made, 4)
    return made.digest


@pytest.fixture
def unanalysed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the functions that were analysed after all."""
    met: list[str] = []
    analysed = source.syntax.analysed

    def noting(code: Any) -> Any:
        met.append(code.co_name)
        return analysed(code)

    monkeypatch.setattr(source, "syntax", type("Syntax", (), {"analysed": staticmethod(noting)}))
    return met


def test_known_code_is_not_analysed_again(module: Any, folder: Path, store: CacheStore, unanalysed: list[str]) -> None:
    """Another process makes the same key from what the first one noted, wherever its files are."""
    first = key(module(_TEXT), store)
    assert sorted(unanalysed) == ["f", "helper"]
    unanalysed.clear()
    store.close()
    assert key(module(_TEXT, "moved.py"), CacheStore(folder)) == first
    assert unanalysed == []


@pytest.mark.parametrize("text", [_TEXT.replace("+ 1", "+ 2"), "\n" + _TEXT, _TEXT.replace("n)", "n )")])
def test_any_other_text_is_analysed(module: Any, store: CacheStore, unanalysed: list[str], text: str) -> None:
    """What was noted of one text says nothing of another one; only a change of the code changes the key."""
    first = key(module(_TEXT), store)
    unanalysed.clear()
    assert (key(module(text), store) == first) == ("+ 2" not in text)
    assert sorted(unanalysed) == ["f", "helper"]


def test_equal_bytecode_of_other_text_is_not_mistaken(module: Any, store: CacheStore) -> None:
    """Code that never runs leaves no bytecode, but counts for what is state: such texts have notes of their own."""
    dead = "x = [1]\ndef f(n):\n    if 0: x.append(n)\n    return x[0]\n"
    names = module(dead)
    key(names, store)
    names = module(dead.replace("if 0: x.append(n)", "if 0: pass"))
    one = key(names, store)
    names["x"][0] = 2
    assert key(names, store) != one


def test_a_damaged_or_foreign_note_is_none(
    module: Any, folder: Path, store: CacheStore, unanalysed: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A note with a bit changed, or signed by somebody else, is never unpickled; the code is analysed again."""
    first = key(module(_TEXT), store)
    store.close()
    with sqlite3.connect(folder / "index.sqlite3") as base:
        assert base.execute("SELECT count(*) FROM notes").fetchone() == (2,)
        base.execute("UPDATE notes SET note = substr(note, 1, 40) || x'00' || substr(note, 42)")
    base.close()
    unanalysed.clear()
    assert key(module(_TEXT), CacheStore(folder)) == first
    assert sorted(unanalysed) == ["f", "helper"]
    monkeypatch.setenv("NBFLOW_KEY_FILE", str(tmp_path / "other" / "key"))
    unanalysed.clear()
    key(module(_TEXT), CacheStore(folder))
    assert sorted(unanalysed) == ["f", "helper"]


def test_notes_are_no_results(module: Any, store: CacheStore) -> None:
    """They are not counted or listed, make no folder by themselves, and go when everything is cleared."""
    names = module(_TEXT)
    keyer = FunctionKeyer(names["f"], name="f")
    made = keyer.key({"n": 1}, store=store)
    assert not Path(str(store.location)).exists()
    store.save(made, 4)
    assert store.stats()["entries"] == len(list(store.entries(leads=True))) == 1
    notes = store.notes
    assert isinstance(notes, Notes)
    shelf = source.Shelf(notes)
    assert shelf.facts(names["f"].__code__) == source.facts_of(names["f"].__code__)
    store.clear()
    assert shelf.facts(names["f"].__code__) is None


def test_modules_are_noted_too(store: CacheStore) -> None:
    """The digest of a local module, and what it imports, is looked up by its text."""
    assert store.notes is not None
    shelf = source.Shelf(store.notes)
    found = source.module_facts("import os\nx = 1\n", shelf)
    store.put("0" * 32, 1)
    assert shelf.module("import os\nx = 1\n") == found
    assert shelf.module("import os\nx = 2\n") is None
