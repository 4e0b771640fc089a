"""What a record keeps of a run and how it comes back, without a kernel."""

from __future__ import annotations

import array
import collections
import io
import pickle
import random
import sys
import threading
from typing import Any

import pytest

from nbflow.notebook.heap import Heap
from nbflow.notebook.replay import (
    LiveOutputs,
    Record,
    Unstorable,
)


def record_of(
    namespace: dict[str, Any], *names: str, value: Any = None, heap: Heap | None = None, stirred: tuple[Any, ...] = ()
) -> Record:
    """A record of these names of a namespace, as if a cell had just bound them; the others were its inputs."""
    values = {name: namespace[name] for name in names}
    heap = heap or Heap({name: value for name, value in namespace.items() if name not in names})
    record = Record(value=value)
    record.live = lambda _: LiveOutputs(values, heap, list(stirred), namespace)
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
    """An output that is an input, holds one, or was a part of one, comes back as what is there then."""
    frame, items = collections.OrderedDict(), [[1], 2]
    namespace = {"frame": frame, "items": items, "a": items, "b": {"f": frame}, "c": items[0]}
    loaded = there_and_back(record_of(namespace, "a", "b", "c"))
    other, rest = collections.OrderedDict(), [[1], 2]
    namespace = {"frame": other, "items": rest}
    loaded.restore(namespace, frozenset())
    assert namespace["a"] is rest
    assert namespace["b"]["f"] is other
    assert namespace["c"] is rest[0]


def test_a_reference_that_leads_nowhere_is_an_error() -> None:
    """Where the way to an input is gone, or something else is there, nothing is restored."""
    items = [[1]]
    loaded = there_and_back(record_of({"x": items, "y": items[0]}, "y"))
    for wrong in ({}, {"x": []}, {"x": [{}]}):
        before = dict(wrong)
        with pytest.raises(LookupError):
            loaded.restore(wrong, frozenset())
        assert wrong == before


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: [1], lambda x: x.append(2)),
        (lambda: {"a": 1}, lambda x: x.update(b=x.pop("a"))),
        (lambda: {1}, lambda x: x.add(2)),
        (lambda: bytearray(b"a"), lambda x: x.extend(b"bc")),
        (lambda: collections.deque([1]), lambda x: x.appendleft(0)),
        (lambda: collections.Counter("aab"), lambda x: x.update("c")),
        (lambda: collections.defaultdict(list), lambda x: x["k"].append(1)),
    ],
)
def test_changes_in_place_reach_other_names(make: Any, change: Any) -> None:
    """An input that the cell changed keeps its identity, whatever leads to it."""
    namespace = {"x": make()}
    heap = Heap(namespace)
    change(namespace["x"])
    loaded = there_and_back(record_of(namespace, heap=heap))
    old = make()
    fresh = {"x": old, "other": [old]}
    loaded.restore(fresh, frozenset())
    assert fresh["x"] is fresh["other"][0] is old
    assert old == namespace["x"]


def test_a_change_deep_inside_stays_there() -> None:
    """What the cell changed inside an input is changed in the present one; all around it keeps its identity."""
    namespace = {"x": {"k": [1, [2]]}}
    heap = Heap(namespace)
    namespace["x"]["k"][1].append(namespace["x"])
    loaded = there_and_back(record_of(namespace, heap=heap))
    inner = [2]
    fresh = {"x": {"k": [1, inner]}}
    loaded.restore(fresh, frozenset())
    assert fresh["x"]["k"][1] is inner
    assert inner[1] is fresh["x"]


def test_frames_and_arrays_change_in_place() -> None:
    """The same for what cannot be looked into: data frames, large arrays, generators of random numbers."""
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")

    def make() -> dict[str, Any]:
        frame = pd.DataFrame({"a": [1]})
        return {"array": np.zeros(2), "large": np.zeros(400_000), "frame": frame, "random": random.Random(1)}

    namespace = make()
    heap = Heap(namespace)
    namespace["array"][:] = 1
    namespace["large"][7] = 1
    namespace["frame"]["b"] = 2
    namespace["random"].random()
    stirred = (namespace["large"], namespace["frame"], namespace["random"])
    loaded = there_and_back(record_of(namespace, heap=heap, stirred=stirred))
    fresh = make()
    before = dict(fresh)
    loaded.restore(fresh, frozenset())
    assert fresh["array"] is before["array"]
    assert fresh["frame"] is before["frame"]
    assert before["array"].tolist() == [1, 1]
    assert before["large"][6:9].tolist() == [0, 1, 0]
    assert list(before["frame"].columns) == ["a", "b"]
    assert before["frame"].b.tolist() == [2]
    assert fresh["random"].random() == namespace["random"].random()


def test_arrays_that_share_memory_go_on_sharing_it() -> None:
    """A view of an input is a view of the present one; new arrays that share memory still do."""
    np = pytest.importorskip("numpy")
    base = np.arange(10)
    made = np.zeros((3, 4))
    names = {"base": base, "part": base[2:5], "made": made, "row": made[1], "turned": made.T}
    loaded = there_and_back(record_of(names, "part", "made", "row", "turned"))
    fresh: dict[str, Any] = {"base": np.arange(10)}
    loaded.restore(fresh, frozenset())
    fresh["base"][2] = 77
    fresh["made"][1, 0] = 5
    assert fresh["part"].tolist() == [77, 3, 4]
    assert fresh["row"].tolist() == [5, 0, 0, 0]
    assert fresh["turned"][0, 1] == 5
    assert fresh["made"].shape == (3, 4)


def test_what_cannot_be_changed_in_place_is_replaced_where_it_is_held() -> None:
    """An object of a compiled type that changed is given anew to the containers that hold it."""
    first = array.array("i", [1])
    namespace: dict[str, Any] = {"x": [first, "rest"]}
    heap = Heap(namespace)
    first.append(2)
    loaded = there_and_back(record_of(namespace, heap=heap, stirred=(first,)))
    held = [array.array("i", [1]), "rest"]
    fresh = {"x": held}
    loaded.restore(fresh, frozenset())
    assert fresh["x"] is held
    assert held == [array.array("i", [1, 2]), "rest"]


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


class Refusing(type):
    """Makes classes of which one attribute cannot be set."""

    def __setattr__(cls, name: str, value: Any) -> None:
        if name == "fixed":
            raise AttributeError(name)
        super().__setattr__(name, value)


def test_a_restoration_that_fails_changes_nothing_in_place() -> None:
    """Lists and attributes are as they were, so that the cell can run instead."""
    items, kept = [1], Refusing("Kept", (), {"fixed": 0, "free": 0})
    heap = Heap({"items": items})
    items.append(2)
    record = record_of({"items": items, "Kept.free": 5, "Kept.fixed": 6}, "Kept.free", "Kept.fixed", heap=heap)
    loaded = there_and_back(record)
    namespace: dict[str, Any] = {"items": [1], "Kept": kept}
    loaded.restore(namespace, frozenset())
    assert namespace["items"] == [1, 2]
    with pytest.raises(AttributeError):
        loaded.set_attribute_state(namespace)
    assert vars(kept)["free"] == 5
    loaded.undo()
    assert namespace["items"] == [1]
    assert vars(kept)["free"] == 0
