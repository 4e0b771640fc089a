"""State: what a function changes is no input, whether its text shows it or only a run; in doubt it is input."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nbflow.cache import CacheStore, FunctionKeyer, state
from nbflow.cache.state import Watch

ALIAS = """
LOG, CONFIG = [], {'a': 1}
def note(log, x): log.append(x)
def f(x):
    note(LOG, x)
    return CONFIG['a'] * x
"""


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "_findings", state.OrderedDict())


@pytest.fixture
def other_store(folder: Any) -> Iterator[CacheStore]:
    """What another process sees of the store."""
    with_own = CacheStore(folder)
    yield with_own
    with_own.close()


def keyer(notebook: Any) -> FunctionKeyer:
    """Return a new keyer of `f`, as a restarted kernel would have it."""
    return FunctionKeyer(notebook["f"], name="f")


def test_a_run_shows_what_the_text_does_not(notebook: Any, store: Any) -> None:
    """A list that changed during a run is dropped from the key; what did not change is still an input."""
    keep = keyer(notebook.run(ALIAS))
    before = keep.key({"x": 1}, store=store)
    notebook["f"](1)
    settled = keep.settle(before, store)
    assert settled.digest != before.digest
    assert {part.name for part in before.parts} - {part.name for part in settled.parts} == {"LOG"}
    assert keep.key({"x": 1}).digest == settled.digest
    assert keep.state_names == {"LOG"}
    notebook["f"](2)
    assert keep.settle(settled, store) is settled
    notebook.run("CONFIG['a'] = 2")
    assert keep.key({"x": 1}).digest != settled.digest


def test_findings_are_there_after_a_restart(notebook: Any, store: Any, other_store: Any) -> None:
    """Another process with the store knows the finding before its first call, but not for an edited function."""
    keep = keyer(notebook.run(ALIAS))
    before = keep.key({"x": 1}, store=store)
    notebook["f"](1)
    settled = keep.settle(before, store)
    getattr(store, "flush", lambda: None)()
    state._findings.clear()
    again = keyer(notebook.run(ALIAS))
    assert again.key({"x": 1}, store=other_store).digest == settled.digest
    edited = keyer(notebook.run(ALIAS.replace("* x", "+ x")))
    edited.key({"x": 1}, store=other_store)
    assert edited.state_names == frozenset()


def test_nothing_is_concluded_while_others_run() -> None:
    """A run beside another one on some other thread is not held responsible, nor one that is not on the main thread."""
    alone = Watch()
    assert alone.alone
    nested = Watch()  # called by it
    assert nested.alone
    seen: list[bool] = []

    def elsewhere() -> None:
        other = Watch()
        seen.append(other.alone)
        other.end()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [False]
    assert not alone.alone
    assert not nested.alone
    nested.end()
    alone.end()
    alone.end()
    assert Watch().alone


def test_a_change_by_somebody_else_is_no_state(notebook: Any, store: Any) -> None:
    """Without a run of our own that could be responsible, the key stays as it was made."""
    keep = keyer(notebook.run(ALIAS))
    before = keep.key({"x": 1})
    notebook["f"](1)
    assert state.settle(keep, before, store, None) is before
    assert keep.state_names == frozenset()


@pytest.mark.parametrize(
    ("value", "body"),
    [
        (np.zeros(3), "VALUE[0] = x"),
        (np.zeros(3), "change(VALUE, x)"),
        (pd.DataFrame({"a": [1]}), "VALUE['b'] = x"),
        (pd.DataFrame({"a": [1]}), "change(VALUE, 'c')"),
    ],
)
def test_data_are_never_state(notebook: Any, store: Any, value: Any, body: str) -> None:
    """Arrays and frames count by content, even for a function that stores into them."""
    notebook.names["VALUE"] = value
    notebook.run(f"def change(where, x): where[x] = x\ndef f(x):\n    {body}\n    return VALUE.sum()")
    keep = keyer(notebook)
    before = keep.key({"x": 1})
    notebook["f"](1)
    assert keep.settle(before, store) is before
    assert keep.key({"x": 1}).digest != before.digest
    assert keep.state_names == frozenset()


OBJECT = """
class Net:
    def __init__(self, depth):
        self.depth, self.loss, self.history, self.seen = depth, 0, [], {}
    def learn(self, x):
        self.loss += x
        return self.depth
net = Net(3)
def f(x):
    net.loss = x
    net.history.append(x)
    net.seen[x] = 1
    return net.depth
"""


def test_only_changed_attributes_of_an_object_are_state(notebook: Any) -> None:
    """A trained model's loss is its function's doing; its depth is an input, whoever sets it."""
    notebook.run(OBJECT)
    keep = keyer(notebook)
    before = keep.key({"x": 1}).digest
    notebook["f"](1)
    assert keep.key({"x": 1}).digest == before
    notebook.run("net.depth = 4")
    assert keep.key({"x": 1}).digest != before
    notebook.run("net = Net(3)")
    assert keep.key({"x": 1}).digest == before


def test_a_class_that_is_given_may_be_used_in_any_way(notebook: Any) -> None:
    """Code that is handed a class, or an object of it, may call what changes the class."""
    notebook.run(
        "class C:\n    seen = []\n    def keep(self, x): self.seen.append(x)\n"
        "def f(c): c.keep(1)\ndef g(kind): kind().keep(1)"
    )
    before = keyer(notebook).key({"c": notebook["C"]()}).digest, notebook.key("g", kind=notebook["C"])
    notebook["f"](notebook["C"]())
    assert (keyer(notebook).key({"c": notebook["C"]()}).digest, notebook.key("g", kind=notebook["C"])) == before


@pytest.mark.parametrize("kind", ["argparse.Namespace", "types.SimpleNamespace"])
def test_only_changed_names_of_a_namespace_are_state(notebook: Any, kind: str) -> None:
    """Settings in a namespace are input, whatever else the function keeps there."""
    notebook.run(f"import argparse, types\nn = {kind}(rate=2)\ndef f(x):\n    n.last = x\n    return n.rate * x")
    keep = keyer(notebook)
    before = keep.key({"x": 1}).digest
    notebook["f"](1)
    assert keep.key({"x": 1}).digest == before
    notebook.run("n.rate = 3")
    assert keep.key({"x": 1}).digest != before


def test_a_method_changes_its_own_object(notebook: Any) -> None:
    """For a bound method the attributes that it sets itself are state, the others input."""
    notebook.run(OBJECT + "f = net.learn")
    before = notebook.key(x=1)
    notebook["f"](1)
    assert notebook.key(x=1) == before
    notebook.run("net.depth = 4")
    assert notebook.key(x=1) != before


def test_what_is_there_to_be_changed_does_not_spoil_a_key(notebook: Any) -> None:
    """A queue that is put into, or a bar that is updated, has no content; a key with it is still for the disk."""
    notebook.run(
        "import queue, threading\nclass Bar:\n    def __init__(self): self.lock = threading.Lock()\n"
        "    def update(self, n): pass\nbar, waiting = Bar(), queue.Queue()\n"
        "def f(x):\n    bar.update(x)\n    waiting.put(x)\n    return x"
    )
    key = keyer(notebook).key({"x": 1})
    assert (key.scope, key.notes) == ("disk", ())
    notebook["f"](1)
    assert keyer(notebook).key({"x": 1}).digest == key.digest


@pytest.mark.parametrize(
    "body",
    [
        "C.note(x)",
        "C().keep(x)",
        "getattr(C(), 'keep')(x)",
        "E()(x)",
        "helper(x)",
        "class D(C): pass",
    ],
)
def test_what_called_methods_change_is_state(notebook: Any, store: Any, body: str) -> None:
    """A list of a class is state of code that may call what changes it, and an input of other code."""
    text = (
        "class C:\n    seen = []\n    def keep(self, x): self.note(x)\n"
        "    def __init_subclass__(cls): cls.note(0)\n"
        "    @classmethod\n    def note(cls, x): cls.seen.append(x)\n"
        "class E(C):\n    def __call__(self, x): self.note(x)\n"
        "def helper(x): C.note(x)\ndef f(x):\n    □\n    return C.seen"
    )
    keep = keyer(notebook.run(text.replace("□", body)))
    before = keep.key({"x": 1}, store=store)
    notebook["f"](1)
    assert keep.settle(before, store).digest == keep.key({"x": 1}).digest
    assert not any(part.name == "C.seen" for part in keep.key({"x": 1}).parts)
    notebook.run(text.replace("□", "pass"))
    assert any(part.name == "C.seen" for part in keyer(notebook).key({"x": 1}).parts)


def test_what_a_helper_remembers_of_old_is_kept_for_this_session(notebook: Any) -> None:
    """A helper with an `lru_cache` may give what an earlier global made it give: no result of the present one."""
    notebook.run("import functools\nn = 1\n@functools.lru_cache\ndef g(): return n\ndef f(x): return g()")
    keep = keyer(notebook)
    first = keep.key({"x": 1})
    notebook["f"](1)
    assert keep.key({"x": 1}) == first
    notebook.run("n = 2")
    assert notebook["f"](1) == 1
    stale = keep.key({"x": 1})
    assert stale.scope == "session"
    assert "`g.cache_clear()`" in stale.notes[0]
    notebook["g"].cache_clear()
    assert keep.key({"x": 1}).scope == "disk"


def test_custom_hashes_have_no_state(notebook: Any, store: Any) -> None:
    """A key that the user makes is taken as it is."""
    keep = FunctionKeyer(notebook.run(ALIAS)["f"], name="f", custom=lambda function, inputs: "mine")
    key = keep.key({"x": 1}, store=store)
    notebook["f"](1)
    assert keep.settle(key, store) is key
