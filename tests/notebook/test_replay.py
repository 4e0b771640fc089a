"""What a record keeps of a run and how it comes back, without a kernel."""

from __future__ import annotations

import io
import pickle
import random
import sys
import threading
from typing import Any

import pytest

from nbflow.notebook.replay import (
    LiveOutputs,
    Record,
    Unstorable,
    drawn,
    random_states,
    set_random_states,
)


def record_of(namespace: dict[str, Any], *names: str, value: Any = None, changed: tuple[str, ...] = ()) -> Record:
    """A record of these names of a namespace, as if a cell had just bound them."""
    values = {name: namespace[name] for name in names}
    aliases = {id(value): name for name, value in namespace.items() if name not in names}
    record = Record(value=value)
    record.live = lambda _: LiveOutputs(values, frozenset(changed), namespace, aliases)
    return record


def there_and_back(record: Record) -> Record:
    """The record as another process would get it."""
    loaded = pickle.loads(pickle.dumps(record, protocol=5))
    assert isinstance(loaded, Record)
    return loaded


def test_values_come_back_with_shared_identity() -> None:
    """Two names of one object, and the last value, stay one object."""
    shared = [1, 2]
    loaded = there_and_back(record_of({"a": shared, "b": shared}, "a", "b", value=shared))
    namespace: dict[str, Any] = {}
    value = loaded.restore(namespace, frozenset())
    assert namespace == {"a": [1, 2], "b": [1, 2]}
    assert namespace["a"] is namespace["b"] is value


def test_inputs_are_references() -> None:
    """An output that is an input, or holds one, comes back as whatever the name stands for then."""

    class Frame:
        pass

    frame, items = Frame(), [1]
    loaded = there_and_back(record_of({"frame": frame, "items": items, "a": items, "b": {"f": frame}}, "a", "b"))
    other, rest = Frame(), [2]
    namespace: dict[str, Any] = {"frame": other, "items": rest}
    loaded.restore(namespace, frozenset())
    assert namespace["a"] is rest
    assert namespace["b"]["f"] is other


@pytest.mark.parametrize(
    ("old", "new"),
    [([1], [1, 2]), ({"a": 1}, {"b": 2}), ({1}, {2}), (bytearray(b"a"), bytearray(b"bc"))],
)
def test_changes_in_place_reach_other_names(old: Any, new: Any) -> None:
    """An input that the cell changed keeps its identity."""
    loaded = there_and_back(record_of({"x": new}, "x", changed=("x",)))
    namespace = {"x": old, "alias": old}
    loaded.restore(namespace, frozenset())
    assert namespace["x"] is namespace["alias"] is old
    assert old == new


def test_frames_arrays_and_plain_objects_change_in_place() -> None:
    """The same for data frames, arrays of the same shape, and objects that are nothing but their attributes."""
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    namespace = {"array": np.zeros(2), "frame": pd.DataFrame({"a": [1]}), "plain": Plain(1), "short": np.zeros(1)}
    before = dict(namespace)
    changed = {"array": np.ones(2), "frame": pd.DataFrame({"a": [1], "b": [2]}), "plain": Plain(2), "short": np.ones(3)}
    loaded = there_and_back(record_of(changed, *changed, changed=tuple(changed)))
    loaded.restore(namespace, frozenset())
    assert namespace["array"] is before["array"]
    assert namespace["frame"] is before["frame"]
    assert list(before["frame"].columns) == ["a", "b"]
    assert before["frame"].b.tolist() == [2]
    assert before["plain"].n == 2
    assert before["array"].tolist() == [1, 1]
    assert namespace["short"] is not before["short"], "another shape cannot be had in place"
    generator, other = random.Random(1), random.Random(2)
    loaded = there_and_back(record_of({"r": other}, "r", changed=("r",)))
    namespace = {"r": generator}
    loaded.restore(namespace, frozenset())
    assert namespace["r"].random() == random.Random(2).random()


class Plain:
    def __init__(self, n: int) -> None:
        self.n = n


def test_one_output_that_cannot_be_pickled_refuses_the_record() -> None:
    """The refusal names the output, its type and the reason; later attempts say the same."""
    record = record_of({"good": 1, "bad": threading.Lock()}, "good", "bad")
    for _ in range(2):
        with pytest.raises(Unstorable, match=r"output `bad` \(lock\) cannot be stored: TypeError: cannot pickle"):
            record.pack()
    assert record.refused is not None
    with pytest.raises(Unstorable, match="the last value"):
        record_of({}, value=(n for n in [1])).pack()


def test_notebook_functions_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Named ones are references to the notebook's present ones; nameless ones run over the notebook's globals."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    main = type(sys)("__main__")
    main.__dict__.update(namespace)
    monkeypatch.setitem(sys.modules, "__main__", main)
    namespace = main.__dict__
    exec(
        "def named(x): return x + k\n"
        "class Thing: pass\n"
        "def maker(n):\n"
        "    def inner(x):\n"
        "        return x + n + k if x else inner(1)\n"
        "    return inner\n"
        "k = 1\n"
        "held = [named, Thing, Thing(), lambda x: x * k, maker(10)]\n",
        namespace,
    )
    record = record_of(namespace, "held")
    record.pack()
    loaded = there_and_back(record)
    exec("def named(x): return 'new'\nclass Thing: pass\nk = 5", namespace)
    loaded.restore(namespace, frozenset())
    named, thing, instance, times, inner = namespace["held"]
    assert named is namespace["named"]
    assert thing is namespace["Thing"] is type(instance)
    assert times(2) == 10
    assert (inner(2), inner(0)) == (17, 16)


def test_modules_and_closed_files() -> None:
    """Modules come back by import, closed files as closed files."""
    with io.StringIO() as closed:
        pass
    loaded = there_and_back(record_of({"m": sys, "f": closed}, "m", "f"))
    namespace: dict[str, Any] = {}
    loaded.restore(namespace, frozenset())
    assert namespace["m"] is sys
    assert namespace["f"].closed


def test_big_buffers_stay_out_of_the_pickle() -> None:
    """An array's bytes travel beside the stream, and come back writable."""
    np = pytest.importorskip("numpy")
    record = record_of({"a": np.arange(100_000)}, "a")
    buffers: list[Any] = []
    data = pickle.dumps(record, protocol=5, buffer_callback=buffers.append)
    assert len(data) < 5_000
    loaded = pickle.loads(data, buffers=[bytearray(buffer) for buffer in buffers])
    namespace: dict[str, Any] = {}
    loaded.restore(namespace, frozenset())
    namespace["a"][0] = 7
    assert namespace["a"][:2].tolist() == [7, 1]


def test_names_to_keep_and_to_delete() -> None:
    """Definitions made again are kept; names that the cell deleted go."""
    record = record_of({"a": 1, "f": 2}, "a", "f")
    record.deleted = ("gone",)
    namespace: dict[str, Any] = {"f": "made again", "gone": 1}
    there_and_back(record).restore(namespace, frozenset({"f"}))
    assert namespace == {"a": 1, "f": "made again"}


def test_random_states() -> None:
    """States compare, say who drew, and can be set again."""
    np = pytest.importorskip("numpy")
    before = random_states()
    assert drawn(before, random_states(), seeds=False) == {}
    numbers = random.random(), np.random.rand()
    after = random_states()
    assert set(drawn(before, after, seeds=False)) == {"random", "numpy"}
    set_random_states(before)
    assert (random.random(), np.random.rand()) == numbers
    assert drawn({}, {"numpy": ("MT19937", b"", 624, 0, 0.0)}, seeds=False) == {}
    assert "numpy" in drawn({}, {"numpy": ("MT19937", b"", 624, 0, 0.0)}, seeds=True)
    assert "numpy" in drawn({}, {"numpy": ("MT19937", b"", 3, 0, 0.0)}, seeds=False)
