"""Keys of code that uses a local module as a whole, while its file and what is loaded of it go apart."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nbflow.cache import loaded
from nbflow.cache.fingerprint import snapshot

ONE = "RATE = 2\n\n\ndef clean(x):\n    return x + 1\n\n\nclass Scale:\n    def of(self, x):\n        return x * 2\n"
TWO = ONE.replace("x + 1", "x + 100")


def uses() -> Any:
    import loaded_helper

    return loaded_helper.clean(1)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a module that can be imported; it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path / "loaded_helper.py"
    sys.modules.pop("loaded_helper", None)
    loaded._first.pop("loaded_helper", None)


def load(file: Path, text: str) -> ModuleType:
    file.write_text(text)
    importlib.invalidate_caches()
    found = sys.modules.get("loaded_helper")
    return importlib.reload(found) if found is not None else importlib.import_module("loaded_helper")


def digest() -> str:
    return snapshot(uses).fingerprint.digest


@pytest.mark.parametrize("edited", [TWO, ONE.replace("RATE = 2", "RATE = 3"), ONE.replace("x * 2", "x * 3")])
@pytest.mark.parametrize("known", [True, False])
def test_an_edit_that_is_not_loaded_has_a_key_of_its_own(module: Path, edited: str, known: bool) -> None:
    """It is neither that of the old text nor that of the new one, whether or not the old text was seen before."""
    load(module, edited)
    new = digest()
    load(module, ONE)
    old = digest()
    if not known:
        loaded._first.clear()
    module.write_text(edited)
    apart = digest()
    assert len({old, new, apart}) == 3
    assert digest() == apart
    load(module, edited)
    assert digest() == new
    load(module, ONE)
    assert digest() == old


class Odd:
    """Like an array, it cannot be compared as a whole."""

    def __eq__(self, other: object) -> Any:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


def test_a_name_that_holds_something_else_by_now(module: Path) -> None:
    """What a module keeps under the name of a constant at run time is not what its file says; it is not compared."""
    text = ONE + "\nKEPT = None\nRATE = 2\n"
    found: Any = load(module, text)
    old = digest()
    loaded._first.clear()
    found.KEPT = Odd()
    apart = digest()
    assert apart == digest() != old


def test_what_does_not_matter(module: Path) -> None:
    """A comment, another time of the file, and an edit that is taken back leave the key as it was."""
    load(module, ONE)
    old = digest()
    for text in (ONE.replace("def", "# a comment\ndef", 1), ONE, TWO, ONE):
        module.write_text(text)
        assert (digest() == old) == (text != TWO)
    os.utime(module, (time.time() + 5, time.time() + 5))
    assert digest() == old


def test_functions_that_are_replaced_in_place(module: Path) -> None:
    """IPython's autoreload may put new code into the old functions: then what is loaded is what the file says."""
    load(module, TWO)
    new = digest()
    found: Any = load(module, ONE)
    old = digest()
    space: dict[str, Any] = {}
    exec(compile(TWO, found.__file__, "exec", dont_inherit=True), space)
    module.write_text(TWO)
    assert digest() not in (old, new)
    found.clean.__code__ = space["clean"].__code__
    assert digest() == new


def test_a_module_that_is_not_loaded(module: Path) -> None:
    """It will be imported as its file is."""
    module.write_text(ONE)
    old = digest()
    module.write_text(TWO)
    assert digest() != old
    load(module, ONE)
    assert digest() == old
