"""Snapshots: an unchanged graph of code is recognised quickly, and no change of it is missed."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbflow.cache import FunctionKeyer, content_key

KINDS = {
    "partial": ("g = functools.partial(times, 3)", ["g = functools.partial(times, 4)", "g.keywords['y'] = 5"]),
    "object": ("g = Callable(3)", ["g.n = 4", "Callable.__call__ = lambda self, x: 0", "g.extra = 1"]),
    "functions": ("g = {'a': [lambda x: x + 1]}", ["g['a'].append(len)", "g['a'][0] = lambda x: x + 2"]),
    "objects": ("g = [Callable(1), Callable(2)]", ["g[1].n = 3", "g.reverse()", "Callable.__call__ = None"]),
    "method": ("g = Callable(3).__call__", ["g.__self__.n = 4", "g = Callable(3).__init__"]),
    "closure": (
        "g = make({'a': 1})",
        ["g.__closure__[0].cell_contents['a'] = 2", "g.__closure__[0].cell_contents = {}"],
    ),
}
TEXT = """
import functools
def times(x, y=1): return x * y
class Callable:
    def __init__(self, n): self.n = n
    def __call__(self, x): return x + self.n
def make(table):
    def inner(x): return table
    return inner
{}
def f(x): return g, x
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a local module that can be imported, `snapshot_helpers`; it was last changed long ago."""
    path = tmp_path / "snapshot_helpers.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield path
    sys.modules.pop("snapshot_helpers", None)


def write(path: Path, text: str, age_s: float = 3600.0) -> None:
    """Write a file as if that had been some time ago."""
    path.write_text(text)
    old = path.stat().st_mtime - age_s
    os.utime(path, (old, old))
    importlib.invalidate_caches()


@pytest.mark.parametrize("kind", KINDS)
def test_what_holds_code_is_recognised_and_watched(notebook: Any, kind: str) -> None:
    """Partials, callable objects and containers of functions have the quick path, and lose it with any change."""
    definition, edits = KINDS[kind]
    for edit in edits:
        notebook.run(TEXT.format(definition))
        keep = FunctionKeyer(notebook["f"], name="f")
        before = keep.key({"x": 1}, (1,)).digest
        assert keep.quick((1,), {}) == before
        notebook.run(edit)
        assert keep.quick((1,), {}) is None, edit
        assert keep.key({"x": 1}, (1,)).digest != before, edit
        assert keep.key({"x": 1}, (1,)).digest == content_key(notebook["f"], {"x": 1})


@pytest.mark.parametrize("kind", ["partial", "object"])
def test_tasks_of_such_callables_have_the_quick_path(notebook: Any, kind: str) -> None:
    """The task's own function may be a partial or an object as well."""
    notebook.run(TEXT.format(KINDS[kind][0]))
    keep = FunctionKeyer(notebook["g"], name="g")
    before = keep.key({"x": 1}, (1,)).digest
    assert keep.quick((1,), {}) == before
    notebook.run("g.keywords['y'] = 2" if kind == "partial" else "g.n = 9")
    assert keep.quick((1,), {}) is None
    assert keep.key({"x": 1}, (1,)).digest != before


def test_imports_in_bodies_are_watched_on_disk(notebook: Any, module: Path) -> None:
    """A local module that a body imports is read once, and again when its file has changed."""
    write(module, "def go(x): return x + 1\n")
    notebook.run("def f(x):\n    import snapshot_helpers\n    return snapshot_helpers.go(x)")
    keep = FunctionKeyer(notebook["f"], name="f")
    before = keep.key({"x": 1}, (1,)).digest
    assert keep.quick((1,), {}) == before
    write(module, "def go(x): return x + 2\n", 1800.0)
    assert keep.quick((1,), {}) is None
    assert keep.key({"x": 1}, (1,)).digest != before
    write(module, "# first\ndef go(x):\n    return x + 1\n")
    assert keep.key({"x": 1}, (1,)).digest == before


def test_a_file_changed_just_now_is_read_each_time(notebook: Any, module: Path) -> None:
    """Two edits within one tick of the clock would look the same from outside."""
    write(module, "def go(x): return x + 1\n", 0.0)
    notebook.run("def f(x):\n    import snapshot_helpers\n    return snapshot_helpers.go(x)")
    keep = FunctionKeyer(notebook["f"], name="f")
    before, seen = keep.key({"x": 1}, (1,)).digest, module.stat()
    assert keep.quick((1,), {}) is None
    module.write_text("def go(x): return x + 2\n")
    os.utime(module, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert keep.key({"x": 1}, (1,)).digest != before


def test_a_reloaded_module_is_read_anew(notebook: Any, module: Path) -> None:
    """After `importlib.reload` the syntax tree counts again, not the bytecode: a comment is no change."""
    write(module, "def go(x): return x + 1\n")
    notebook.run("import snapshot_helpers\ndef f(x): return snapshot_helpers.go(x)")
    before = notebook.key(x=1)
    write(module, "# a comment\ndef go(x):\n    return (x + 1)\n", 1800.0)
    importlib.reload(sys.modules["snapshot_helpers"])
    assert notebook.key(x=1) == before
    write(module, "def go(x): return x + 2\n", 900.0)
    importlib.reload(sys.modules["snapshot_helpers"])
    assert notebook.key(x=1) != before


def test_sets_of_closures_have_no_order(notebook: Any) -> None:
    """The labels of functions with one name do not depend on the order in which a set or dict holds them."""
    text = "def plus(n): return lambda x: x + n\nbag = {}\ndef f(x): return sum(g(x) for g in bag)"
    keys = set()
    for order in ("plus(1), plus(2), plus(3)", "plus(3), plus(1), plus(2)"):
        keys.add(notebook.run(text).run(f"bag = {{{order}}}").key(x=1))
        keys.add(notebook.run(f"bag = dict.fromkeys([{order}])").key(x=1))
    assert len(keys) == 2
    assert notebook.run("bag = {plus(1), plus(2), plus(4)}").key(x=1) not in keys


def test_wrapped_partials_keep_their_arguments_apart() -> None:
    """Two partials of one function differ, also as arguments and inside other values."""
    one, two = functools.partial(int, base=2), functools.partial(int, base=8)

    def call(function: Any) -> Any:
        return function("11")

    keys = {content_key(call, {"function": each}) for each in (one, two, [one], [two], int)}
    assert len(keys) == 5
