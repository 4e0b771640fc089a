"""Digests of values: what must differ, what must be equal, what must be refused."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import pathlib
import pickle
import re
import subprocess
import sys
import threading
import uuid
import zoneinfo
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp

from nbflow.cache import KeyBuilder, Undigestable, digest, register


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Bag:
    def __init__(self, **names: Any) -> None:
        self.__dict__.update(names)


Pair = collections.namedtuple("Pair", "a b")

UTC = dt.UTC
DISTINCT = [
    None, ..., NotImplemented, True, False, 1, 0, -1, 1.0, 0.0, -0.0, float("nan"), float("inf"), 1j,
    complex(0, -0.0), 2**63, 2**200, -(2**200), "1", "", "a", "None", b"1", b"", bytearray(b"1"), memoryview(b"1"),
    (), [], set(), frozenset(), {}, (1,), [1], {1}, frozenset({1}), {1: None}, [[1]], [(1,)], ((1,),), [1, 2], (1, 2),
    {1, 2}, {1: 2}, [(1, 2)], {"a": 1}, [("a", 1)], {"a": {"b": 1}}, ["ab", "c"], ["a", "bc"], ["a-b", "c"],
    ["a", "b-c"], "ab", ["ab"], [1.0], [True], [0.0] * 8, [-0.0] * 8, [0] * 8, [False] * 8, [""] * 8, [""] * 9,
    ["a" * 8], list("a" * 8), [b"a"] * 8, list(range(8)), list(range(9)), tuple(range(8)), [2**70] * 8, range(3),
    range(0, 3, 2), slice(1, 2), slice(1, 2, 1), decimal.Decimal("1"), decimal.Decimal("1.0"), fractions.Fraction(1),
    fractions.Fraction(1, 2), dt.date(2020, 1, 1), dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 1, tzinfo=UTC),
    dt.datetime(2020, 1, 1, fold=1), dt.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")),
    dt.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), dt.time(1), dt.time(1, tzinfo=UTC),
    dt.timedelta(1), dt.timedelta(seconds=1), UTC, dt.timezone(dt.timedelta(hours=1)), pathlib.PurePosixPath("a"),
    pathlib.PurePosixPath("b"), pathlib.Path("a"), uuid.UUID(int=1), uuid.UUID(int=2), re.compile("a"),
    re.compile("a", re.I), re.compile(b"a"), Colour.RED, Colour.BLUE, Point(1), Point(1, 1), Bag(x=1, y=0), Bag(),
    Pair(1, 2), Pair(2, 1), collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1),
    collections.deque([1, 2]), collections.deque([1, 2], 5), collections.Counter("ab"),
    collections.defaultdict(list, a=1), int, float, Point, Colour, len, print, list[int], dict[str, int], int | str,
    functools.partial(print, 1), functools.partial(print, 2), lambda x: x, lambda x: x + 1, "x".join, "y".join,
    ValueError("a"), ValueError("b"), sys, re, np.float64(1), np.float32(1), np.int64(1), np.bool_(True),
    np.str_("1"), np.datetime64("2020-01-01"), np.datetime64("2020-01-01", "s"), np.dtype("f8"), np.dtype("f4"),
    np.array(1.0), np.array([1.0]), np.array([[1.0]]), np.array([1.0], "f4"), np.array([1]), np.array([True]),
    np.array(["1"]), np.array([b"1"]), np.array([1.0, 2.0]), np.array([[1.0, 2.0]]), np.array([[1.0], [2.0]]),
    np.array([1, "a"], object), np.array([0.0]), np.array([-0.0]), np.zeros((0, 3)), np.zeros((3, 0)),
    np.array([1.0], ">f8"), np.array([(1, 2.0)], [("a", "i8"), ("b", "f8")]),
    np.array([(1, 2.0)], [("b", "i8"), ("a", "f8")]), np.ma.array([1, 2], mask=[0, 1]),
    np.ma.array([1, 2], mask=[0, 0]), np.array(["2020"], "M8[D]"), np.array(["2020"], "M8[s]"),
    np.random.default_rng(1), np.random.default_rng(2), np.sin, np.cos, np.matrix([[1.0]]), pd.Series([1, 2]),
    pd.Series([1, 2], name="a"), pd.Series([1, 2], index=[1, 2]), pd.Series([1, 2], index=["0", "1"]),
    pd.Series([1.0, 2.0]), pd.Series([1, 2], dtype="Int64"), pd.Series(["a-b", "c"]), pd.Series(["a", "b-c"]),
    *(pd.Series(each, dtype=object) for each in (["a-b", "c"], ["a", "b-c"]) if pd.Series(each).dtype != object),
    pd.Series(["a", "b"], dtype="category"), pd.Series(["a", "b"], dtype=pd.CategoricalDtype(["b", "a"])),
    pd.Series(["a", "b"], dtype=pd.CategoricalDtype(["a", "b"], ordered=True)), pd.Series([1, None], dtype="Int64"),
    pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"b": [1, 2]}), pd.DataFrame({"a": [1, 2], "b": [1, 2]}),
    pd.DataFrame({"b": [1, 2], "a": [1, 2]}), pd.DataFrame(), pd.DataFrame(index=[1]), pd.DataFrame(columns=["a"]),
    pd.DataFrame({"a": [1.0, 2.0]}), pd.DataFrame([[1, 2]]), pd.DataFrame([[1], [2]]), pd.Index([1, 2]),
    pd.Index([1, 2], name="n"), pd.RangeIndex(1, 3), pd.MultiIndex.from_tuples([(1, "a")]),
    pd.MultiIndex.from_tuples([(1, "a")], names=["x", "y"]), pd.date_range("2020", periods=2),
    pd.date_range("2020", periods=2, tz="UTC"), pd.date_range("2020", periods=2, tz="Europe/Berlin"),
    pd.Timestamp("2020"), pd.Timestamp("2020", tz="UTC"), pd.Timestamp("2020-01-01 00:00:00.000000001"),
    pd.Timedelta(1), pd.Timedelta(2), pd.NaT, pd.NA, pd.Period("2020-01"), pd.Period("2020", "Y"), pd.Interval(0, 1),
    pd.Interval(0, 1, "left"), pd.array([0, 0, 1]), pd.arrays.SparseArray([0, 0, 1]), pa.array([1]),
    pa.array([1], "int8"), pa.array([1, None]), pa.array([None, 1]), pa.array(["a", "bc"]), pa.array(["ab", "c"]),
    pa.array(["a", "bc"], "large_string"), pa.array([True]), pa.array([[1], [2]]), pa.array([[1, 2]]),
    pa.table({"a": [1]}), pa.table({"b": [1]}), pa.table({"a": [1.0]}), pa.scalar(1), pa.int8(), pa.int64(),
    pa.array(["a"]).dictionary_encode(), pa.array([{"a": 1}]), pa.array([{"b": 1}]), pl.Series("a", [1]),
    pl.Series("b", [1]), pl.Series("a", [1.0]), pl.Series("a", ["x"]), pl.Series("a", ["x"], dtype=pl.Categorical),
    pl.DataFrame({"a": [1]}), pl.DataFrame({"b": [1]}), pl.DataFrame({"a": [1], "b": [1]}),
    sp.csr_matrix([[1, 0], [0, 1]]), sp.csc_matrix([[1, 0], [0, 1]]), sp.csr_array([[1, 0], [0, 1]]),
    sp.csr_matrix([[0, 1], [1, 0]]), sp.csr_matrix([[1.0, 0], [0, 1]]), sp.coo_matrix((2, 3)), sp.coo_matrix((3, 2)),
]  # fmt: skip


def test_everything_distinct_has_its_own_digest() -> None:
    """No two of some three hundred different values, many of them close relatives, share a digest."""
    seen: dict[str, Any] = {}
    for value in DISTINCT:
        name = digest(value)
        assert re.fullmatch("[0-9a-f]{32}", name)
        assert name not in seen, (type(value), value, type(seen[name]), seen[name])
        seen[name] = value


def test_copies_have_the_same_digest() -> None:
    """A value that went through pickle, and shares nothing with the original, has the same digest."""
    for value in DISTINCT:
        try:
            other = pickle.loads(pickle.dumps(value))
        except (TypeError, AttributeError, pickle.PicklingError):
            continue
        if isinstance(value, np.ndarray) and not value.dtype.isnative:
            continue  # NumPy itself turns these into native byte order
        assert digest(other) == digest(value), (type(value), value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}),
        ({1, "a", 2.5, None, (1, 2)}, {(1, 2), None, 2.5, "a", 1}),
        ({1: "x", "1": "y", None: "z"}, {None: "z", "1": "y", 1: "x"}),
        (float("nan"), -float("nan")),
        ([float("nan")] * 9, [-float("nan")] * 9),
        (Bag(a=1, b=2), Bag(b=2, a=1)),
        (collections.Counter("aab"), collections.Counter("baa")),
        (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3))),
        (np.arange(10)[::2], np.array([0, 2, 4, 6, 8])),
        (pd.DataFrame({"a": [1, 2], "b": [3, 4]}), pd.DataFrame(np.array([[1, 3], [2, 4]]), columns=["a", "b"])),
        (pa.array(["x", "ab", "c"])[1:], pa.array(["ab", "c"])),
        (pa.chunked_array([["a"], ["b"]]), pa.chunked_array([["a", "b"]])),
        (pa.array([1, 2, 3])[1:], pa.array([2, 3])),
        (pl.concat([pl.Series([1]), pl.Series([2])], rechunk=False), pl.Series([1, 2])),
        (sp.coo_matrix(([1, 1], ([0, 0], [0, 0])), shape=(1, 1)), sp.coo_matrix(([2], ([0], [0])), shape=(1, 1))),
        (sp.csr_matrix([[1, 2]]), sp.csr_matrix(([2, 1], [1, 0], [0, 2]), shape=(1, 2))),
    ],
)  # fmt: skip
def test_looks_do_not_count(one: Any, other: Any) -> None:
    """Order of dicts and sets, NaN payload, memory layout, chunks and duplicates do not change a digest."""
    assert digest(one) == digest(other)


def test_padding_and_masked_bytes_do_not_count() -> None:
    """Bytes between the fields of a record, and bytes under a missing value, are not content."""
    layout = np.dtype([("a", "i1"), ("b", "i8")], align=True)
    one, other = np.zeros(1, layout), np.frombuffer(b"\xff" * layout.itemsize, layout).copy()
    other["a"], other["b"] = 0, 0
    assert digest(one) == digest(other)
    hidden = pd.array([1, 2], dtype="Int64")
    hidden[1] = pd.NA
    assert digest(hidden) == digest(pd.array([1, None], dtype="Int64"))


def test_identity_does_not_count() -> None:
    """A member that appears twice is the same as two equal members."""
    shared = ["x" * 10]
    assert digest((shared, shared)) == digest((shared, copy.deepcopy(shared)))
    text = "".join(["ab", "cd"])
    assert digest((text, text)) == digest((text, "".join(["abc", "d"])))


def test_cycles_end_and_are_told_apart() -> None:
    """A container that contains itself has a digest; another shape of cycle has another."""

    def ring(length: int) -> list[Any]:
        first: list[Any] = []
        last = first
        for _ in range(length - 1):
            last.append([])
            last = last[0]
        last.append(first)
        return first

    assert digest(ring(2)) == digest(ring(2))
    assert digest(ring(2)) != digest(ring(3))
    node = Bag(name="a")
    node.me = node
    twin = Bag(name="a")
    twin.me = twin
    assert digest(node) == digest(twin)
    tree = Bag(children=[Bag() for _ in range(50)])
    for child in tree.children:
        child.parent = tree
    assert digest(tree) == digest(copy.deepcopy(tree))


def test_shared_structure_costs_once() -> None:
    """Forty levels of pairs of the same thing are forty nodes, not 2**40."""
    value: Any = []
    for _ in range(40):
        value = [value, value]
    assert digest(value)


def test_too_deep_is_refused() -> None:
    """Nesting beyond what Python can walk is an error of ours."""
    value: Any = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(Undigestable, match="nested too deeply"):
        digest(value)
    while value:
        value = value.pop()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (threading.Lock(), ""),
        ([1, threading.Lock()], "[1]"),
        ({"file": [sys.stdout]}, "['file'][0]"),
        (Bag(inner=Bag(lock=threading.RLock())), ".inner.lock"),
        ((number for number in ()), ""),
        ([map(str, (n for n in ()))], "[0]"),
        (pl.LazyFrame({"a": [1]}), ""),
        (Point(1, object()), ".y"),  # type: ignore[arg-type]
    ],
)
def test_what_has_no_content_is_refused_by_path(value: Any, path: str) -> None:
    """Locks, files, generators and bare objects raise an error that says where they are; it survives pickling."""
    with pytest.raises(Undigestable) as caught:
        digest(value)
    assert caught.value.path.startswith(path)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.path, again.reason, str(again)) == (caught.value.path, caught.value.reason, str(caught.value))


def test_iterators_are_not_consumed() -> None:
    """A digest of an iterator that can be copied covers what is left of it, and takes nothing from it."""
    numbers = iter([1, 2, 3])
    before = digest(numbers)
    assert next(numbers) == 1
    assert digest(numbers) != before
    assert list(numbers) == [2, 3]


def test_own_protocol_and_registry() -> None:
    """A type says itself what its content is, or somebody registers it."""

    class Own:
        def __init__(self, text: Any) -> None:
            self.text, self.lock = text, threading.Lock()

        def __nbflow_digest__(self) -> Any:
            return self.text

    assert digest(Own("a")) == digest(Own("a")) != digest(Own("b"))
    assert digest(Own("a")) != digest(Own(b"a"))
    with pytest.raises(Undigestable, match="returned int"):
        digest(Own(1))

    class Foreign:
        def __init__(self, number: int) -> None:
            self.number, self.lock = number, threading.Lock()

    with pytest.raises(Undigestable):
        digest(Foreign(1))
    register(Foreign, lambda value: ("number", value.number))
    assert digest(Foreign(1)) == digest(Foreign(1)) != digest(Foreign(2))


def test_entry_points_are_loaded_when_a_type_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package's digests are loaded through its entry point at its first value; one that fails is reported."""
    import types

    package = types.ModuleType("nbflow_test_package")
    exec("class Thing:\n    def __init__(self, n): self.n, self.g = n, iter(lambda: 0, 1)", package.__dict__)
    monkeypatch.setitem(sys.modules, "nbflow_test_package", package)
    calls = []

    class Point:
        name = "nbflow_test_package"
        value = "nbflow_test_package:digests"

        def load(self) -> Any:
            calls.append(1)
            return lambda: register(package.Thing, lambda thing: thing.n)

    module = sys.modules["nbflow.cache.digest"]
    monkeypatch.setattr(module, "entry_points", lambda group: [Point()] if group == "nbflow.digests" else [])
    assert digest(package.Thing(1)) == digest(package.Thing(1)) != digest(package.Thing(2))
    assert calls == [1]


RESTART = """
import dataclasses, enum, sys, functools, collections, datetime, pathlib
sys.path.insert(0, {root!r})
from nbflow.cache import digest, fingerprint
@dataclasses.dataclass
class Point:
    x: int
    y: object = None
    def norm(self): return abs(self.x)
class Colour(enum.Enum):
    RED = 1
    BLUE = "b"
class Plain:
    limit = 3
    def __init__(self, names): self.names = names
    def size(self): return len(self.names) + helper(1)
LIMIT = {{"a", "b", "c", 1, 2.5, None}}
def helper(x): return x + len(LIMIT)
def make(n):
    def inner(x, *, k={{"p", "q"}}): return x + n + helper(x)
    return inner
def fib(n): return n if n < 2 else fib(n - 1) + other(n)
def other(n): return fib(n - 2)
values = [
    {{"x", "y", "z"}}, frozenset("abcdef"), {{"k": {{1, "1"}}}}, Point(1, {{"a"}}), Colour.RED, Plain({{"n", "m"}}),
    [Colour.BLUE] * 9, functools.partial(make(3), 1), lambda x: x + len(LIMIT), datetime.datetime(2020, 1, 1),
    pathlib.PurePosixPath("a/b"), collections.Counter("hello"), Point, Colour, Plain, make, {{Point: 1, Colour: 2}},
]
codes = helper, make(3), fib, other, Plain.size, Plain([]).size
print([digest(v) for v in values] + [fingerprint(f).digest for f in codes])
"""


def run_apart(text: str, seed: str, *, python: str = sys.executable, name: str = "nb.py", folder: Any = None) -> str:
    """Run a program in an interpreter of its own, with a hash seed of its own."""
    path = pathlib.Path(folder) / name
    path.write_text(text)
    out = subprocess.run(
        [python, "-W", "error", str(path)],
        env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stderr
    return out.stdout


def test_digests_survive_a_restart(tmp_path: Any) -> None:
    """Values, instances of classes of `__main__`, and functions have the same digests in another process."""
    text = RESTART.format(root=str(pathlib.Path(__file__).parents[2]))
    first = run_apart(text, "1", folder=tmp_path)
    assert first.count("'") > 40
    assert first == run_apart(text, "2", folder=tmp_path)
    assert first == run_apart("# a comment moves every line\n\n" + text, "3", name="other.py", folder=tmp_path)


def test_nothing_heavy_is_imported(tmp_path: Any) -> None:
    """Importing the cache, and digesting plain values, loads no array library, SQLite, cloudpickle or asyncio."""
    text = (
        f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parents[2])!r})\n"
        "import nbflow.cache as c; c.digest([1, {'a': 2}]); c.CacheStore('/nowhere/at/all')\n"
        "heavy = 'numpy pandas sqlite3 cloudpickle asyncio IPython fsspec decimal hashlib'.split()\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    assert run_apart(text, "0", folder=tmp_path).strip() == "[]"


def test_parts_of_a_figure_are_refused_without_walking_through_it() -> None:
    """Every artist leads to the whole figure and to callbacks; within a session it counts by identity."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure, axes = pyplot.subplots()
    try:
        for part in (figure, axes, {"inside": [figure]}):
            with pytest.raises(Undigestable, match="part of a figure"):
                digest(part)
        builder = KeyBuilder("task")
        builder.add("argument", "figure", figure)
        assert builder.build().scope == "session"
    finally:
        pyplot.close(figure)
