"""Changes that something else hides: a variable of the same name, an equal constant, what an array is known by."""

from __future__ import annotations

import linecache
import math
from collections.abc import Callable
from types import CodeType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.api.extensions import ExtensionArray, ExtensionDtype

from nbflow.cache import digest, source, syntax

# --- variables of inner scopes ------------------------------------------------------------------------------------

OWN = {
    "parameter": "def g(data):\n        data.append(0)\n    g([])",
    "keyword": "def g(*, data):\n        data.append(0)\n    g(data=[])",
    "arguments": "def g(*data, **more):\n        data[0][0] = 1\n        more['a'].append(0)\n    g([0], a=[])",
    "local": "def g():\n        data = []\n        data.append(0)\n    g()",
    "store": "def g(data):\n        data[0] = 1\n    g([0])",
    "attribute": "def g(data):\n        data.x = 1\n    g(print_error)",
    "delete": "def g(data):\n        del data[0]\n    g([0])",
    "augmented": "def g(data):\n        data[0] += 1\n    g([0])",
    "lambda": "(lambda data: data.append(1))([])",
    "method": "class A:\n        def g(self, data):\n            data.append(0)\n    A().g([])",
    "class": "class A:\n        data = []\n        data.append(1)",
    "list": "[data.append(1) for data in [[], []]]",
    "dict": "{1: data.append(1) for data in [[], []]}",
    "generator": "list(data.append(1) for _, (data, *_) in [(1, ([], 2))])",
    "filter": "[1 for each in [[[]]] for data in each if data.append(1)]",
    "walrus": "def g():\n        [data.append(1) for _ in [1] if (data := [])is not None]\n    g()",
    "with": "def g():\n        with opened() as data:\n            data.append(1)\n    g()",
    "except": "def g():\n        try: raise ValueError\n        except ValueError as data: data.x = 1\n    g()",
    "import": "def g():\n        import types as data\n        data.hidden_changes = 1\n    g()",
    "match": "def g(x):\n        match x:\n            case [*data]: data.append(1)\n    g([1])",
    "for": "def g():\n        for data in [[1]]: data.append(1)\n    g()",
    "deeper": "def g(data):\n        def h():\n            data.append(1)\n        h()\n    g([])",
    "rebound": (
        "def g():\n        data = []\n        def h():\n            nonlocal data\n"
        "            data = [1]\n        h()\n    g()"
    ),
    "captured": "def g():\n        data = [[]]\n        return [(lambda: data) for data in data]\n    g()",
    "comprehension": "[(lambda: data) for data in [1, 2]]",
}
CHANGES = {
    "own": "data.append(0)",
    "inner": "def g():\n        data.append(0)\n    g()",
    "lambda": "(lambda rows: data.append(rows))(1)",
    "default": "def g(data=data.append(0)): return data\n    g()",
    "decorator": "@noted(data.append(0))\n    def g(data): return data\n    g(1)",
    "iterable": "[data for data in [data.append(0)]]",
    "element": "[data.append(0) for rows in [1]]",
    "method": "class A:\n        data = 1\n        def g(self): data.append(0)\n    A().g()",
    "other function": "def g(data): data.append(1)\n    def h(): data.append(0)\n    g([])\n    h()",
}
HELPERS = """
import contextlib
@contextlib.contextmanager
def opened(): yield []
def noted(value): return lambda function: function
def print_error(): pass
"""
PLACES = {
    "global": "data = [1, 2, 3]\ndef f():\n    {}\n    return sum(data)",
    "captured": (
        "def make(data):\n    def f():\n        {}\n        return sum(data)\n    return f\nf = make([1, 2, 3])"
    ),
}


def written(place: str, body: str) -> str:
    """Return a cell with this body of `f`, whose `data` are global or captured."""
    if place == "captured":
        body = body.replace("\n", "\n    ")
    return HELPERS + PLACES[place].format(body)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("body", OWN)
def test_variables_of_inner_scopes_hide_no_input(notebook: Any, body: str, place: str) -> None:
    """What an inner scope does to a variable of its own says nothing of the data of the same name outside."""
    text = written(place, OWN[body])
    notebook.run(text)
    before = notebook.key()
    notebook["f"]()
    assert notebook.key() == before
    notebook.run(text.replace("[1, 2, 3]", "[10, 20, 30]"))
    assert notebook.key() != before


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("body", CHANGES)
def test_changes_from_inner_scopes_are_state(notebook: Any, body: str, place: str) -> None:
    """What an inner scope changes outside is the function's state, also where it is evaluated around the scope."""
    notebook.run(written(place, CHANGES[body]))
    before = notebook.key()
    notebook["f"]()
    assert notebook.key() == before


@pytest.mark.parametrize(
    "body",
    [
        "def g():\n        global data\n        data = [*data, 1]\n    g()",
        "def g(data):\n        def h():\n            global data\n            data.append(1)\n        h()\n    g(1)",
        "class A:\n        data = 1\n        def g(me):\n            global data\n            data.pop()\n    A().g()",
    ],
)
def test_declared_globals_are_state(notebook: Any, body: str) -> None:
    """`global` leads past the variables of all functions around."""
    notebook.run(f"data = [1]\ndef f():\n    {body}\n    return 1")
    before = notebook.key()
    notebook["f"]()
    assert notebook.key() == before


def test_a_global_is_not_hidden_by_the_functions_own_variable(notebook: Any) -> None:
    """A function may use a name for itself which an inner one declares global."""
    text = (
        "data = [1]\ndef f():\n    data = []\n    data.append(1)\n    def g():\n        global data\n"
        "        return data\n    return g()"
    )
    before = notebook.run(text).key()
    notebook.run("data = [2]")
    assert notebook.key() != before


@pytest.mark.parametrize("head", ["def f(x=data.pop()): return", "@noted(data.append(1))\ndef f(): return 0,"])
def test_what_is_evaluated_at_the_definition_is_no_state(notebook: Any, head: str) -> None:
    """Decorators and defaults have been evaluated once; the function itself changes nothing."""
    notebook.run(f"{HELPERS}data = [1, 2]\n{head} data")
    before = notebook.key()
    notebook.run("data = [5]")
    assert notebook.key() != before


def test_captured_names_without_source() -> None:
    """By bytecode, too: an inner function's own variable is none that is captured further out."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "def make(data):\n    def f():\n        def g():\n            data = []\n            def h():\n"
        "                nonlocal data\n                data = [1]\n            h()\n        g()\n        return data\n"
        "    return f",
        space,
    )
    facts = source.facts_of(space["make"]([1]).__code__)
    assert not facts.exact
    assert not facts.state


# --- equal constants ----------------------------------------------------------------------------------------------

CONSTANTS = [
    *("(1, 2)", "(1.0, 2)", "(True, 2)", "(1, (2,))", "(1, (2.0,))", "((1, 2), 1)", "((1, True), 1)"),
    *("0.0", "-0.0", "(0.0,)", "(-0.0,)", "0j", "-0j", "(1,)", "(b'1',)", "('1',)", "(None,)", "(...,)"),
    *("1", "True", "1.0", "x in {1, 2}", "x in {1.0, 2}", "x in {'a', 'b', 'c'}"),
    *("lambda *a: a", "lambda **a: a", "lambda a: a", "lambda: (yield)", "lambda: (1, 2)", "lambda: (1.0, 2)"),
]


def compiled(text: str) -> CodeType:
    """Return the code of a function that returns this."""
    space: dict[str, Any] = {}
    exec(f"def f(x): return {text}", space)
    code: CodeType = space["f"].__code__
    return code


def test_constants_are_compared_by_type() -> None:
    """Two texts are only the same code if their constants have the same types at every depth."""
    for one in CONSTANTS:
        for other in CONSTANTS:
            assert syntax.same_code(compiled(one), compiled(other)) is (one == other), (one, other)


def test_equal_constants_of_any_order_are_the_same() -> None:
    """Sets have no order, and NaN is NaN."""
    assert syntax.same_code(compiled("x in {'b', 'a', 'c'}"), compiled("x in {'c', 'b', 'a'}"))
    one, other = (compiled("(1, 2)").replace(co_consts=(None, (math.nan, float(text)))) for text in ("1", "1"))
    assert syntax.same_code(one, other.replace(co_consts=(None, (float("nan"), 1.0))))


def test_a_text_with_other_constants_is_not_believed() -> None:
    """A file that says `(1.0, 2)` by now is not what a function with `(1, 2)` was made of."""
    keys = []
    for now in ("(1, 2)", "(1.0, 2)"):
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(compile("def f(): return (1, 2)", "/tmp/edited_constants.py", "exec"), space)
        text = f"def f(): return {now}"
        linecache.cache["/tmp/edited_constants.py"] = (len(text), None, [text], "/tmp/edited_constants.py")
        keys.append(source.facts_of(space["f"].__code__))
    del linecache.cache["/tmp/edited_constants.py"]
    assert [facts.exact for facts in keys] == [True, False]


# --- annotations that are read ------------------------------------------------------------------------------------

DISPATCH = """
import functools
def f(x):
    @functools.singledispatch
    def g(x): return 0
    {decorator}
    def _(x: {kind}, *more: {kind}) -> {kind}: return 1
    return g(x)
"""


@pytest.mark.parametrize("prefix", ["", "async "])
def test_annotations_of_decorated_inner_functions_count(notebook: Any, prefix: str) -> None:
    """`singledispatch` decides by them."""
    keys = set()
    for kind in ("int", "float", "list[int]"):
        text = DISPATCH.format(decorator="@g.register", kind=kind).replace("    def _", f"    {prefix}def _")
        keys.add(notebook.run(text).key(x=1))
    assert len(keys) == 3


@pytest.mark.parametrize("decorator", ["", "@functools.wraps(g)", "@functools.cache", "@staticmethod"])
def test_other_annotations_of_inner_functions_do_not(notebook: Any, decorator: str) -> None:
    """Without a decorator, or with one that does not look at them, annotations are looks."""
    keys = {notebook.run(DISPATCH.format(decorator=decorator, kind=kind)).key(x=1) for kind in ("int", "float")}
    assert len(keys) == 1


def test_fields_behind_a_condition_count(notebook: Any) -> None:
    """Dataclasses read annotations of a class's body at any depth."""
    text = (
        "import dataclasses\ndef f():\n    @dataclasses.dataclass\n    class A:\n        if True:\n"
        "            x: {} = 1\n    return A.__annotations__"
    )
    assert len({notebook.run(text.format(kind)).key() for kind in ("int", "float")}) == 2


# --- dtypes, and arrays of others ---------------------------------------------------------------------------------


def test_dtypes_are_known_by_their_layout() -> None:
    """A dtype says how bytes are read: offsets, padding, titles and metadata count."""
    fields = [("a", "i1"), ("b", "i4")]
    dtypes: list[Any] = [
        np.dtype(fields),
        np.dtype(fields, align=True),
        np.dtype({"names": ["a", "b"], "formats": ["i1", "i4"], "offsets": [0, 4], "itemsize": 8}),
        np.dtype({"names": ["a", "b"], "formats": ["i1", "i4"], "offsets": [4, 0]}),
        np.dtype({"names": ["a", "b"], "formats": ["i1", "i4"], "offsets": [0, 1], "itemsize": 9}),
        np.dtype([("whole", np.dtype(fields))]),
        np.dtype([("whole", np.dtype(fields, align=True))]),
        np.dtype((np.dtype(fields), 3)),
        np.dtype((np.dtype(fields, align=True), 3)),
        np.dtype([(("title", "a"), "i1"), ("b", "i4")]),
        np.dtype([(("other", "a"), "i1"), ("b", "i4")]),
        np.dtype((np.record, fields)),
        np.dtype("i4"),
        np.dtype("i4", metadata={"unit": "m"}),  # type: ignore[call-overload]
        np.dtype("i4", metadata={"unit": "s"}),  # type: ignore[call-overload]
        np.dtype(">i4"),
    ]
    assert len(set(map(digest, dtypes))) == len(dtypes)
    assert digest(np.dtype(fields, align=True)) == digest(np.dtype(fields, align=True))


def test_padding_of_arrays_does_not_count_but_titles_do() -> None:
    """An array is its elements and what they can be asked for by."""
    fields = [("a", "i1"), ("b", "i4")]
    one = np.array([(1, 2)], dtype=fields)
    assert digest(one) == digest(one.astype(np.dtype(fields, align=True)))
    titled = [np.array([(1, 2)], dtype=[((a, "a"), "i4"), ((b, "b"), "i4")]) for a, b in (("x", "y"), ("y", "x"))]
    assert len(set(map(digest, titled))) == 2


def test_lengths_of_sparse_arrays_count() -> None:
    """Zeros at the end are stored nowhere."""
    values: list[Any] = [pd.arrays.SparseArray(each) for each in ([0, 0, 1], [0, 0, 1, 0], [0, 1], [0, 0, 1.0])]
    assert len(set(map(digest, values))) == len(values)
    assert digest(pd.DataFrame({"a": values[0]})) == digest(pd.DataFrame({"a": pd.arrays.SparseArray([0, 0, 1])}))


class PlaceType(ExtensionDtype):
    """Places on some grid."""

    type = int
    na_value = -1
    _metadata = ("grid",)

    def __init__(self, grid: str = "fine") -> None:
        self.grid = grid

    @property
    def name(self) -> str:
        """The name, which does not tell the grid."""
        return "place"

    @classmethod
    def construct_array_type(cls) -> Any:
        """Return the class of arrays."""
        return Places


class Places(ExtensionArray):
    """A column of somebody's class, which knows where its numbers are places."""

    def __init__(self, values: Any, crs: Any = None, grid: str = "fine") -> None:
        self._numbers = np.asarray(values)
        self._dtype = PlaceType(grid)
        self._crs = crs
        self._length_cache: int | None = None

    @property
    def dtype(self) -> Any:
        """The type of the column."""
        return self._dtype

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, item: Any) -> Any:
        found = self._numbers[item]
        return int(found) if np.ndim(found) == 0 else type(self)(found, self._crs, self._dtype.grid)

    def isna(self) -> Any:
        """Return which are missing."""
        return self._numbers < 0

    def take(self, indices: Any, *, allow_fill: bool = False, fill_value: Any = None) -> Any:
        """Return some of them."""
        return self[np.asarray(indices)]

    def copy(self) -> Any:
        """Return a copy."""
        return self[:]


class Pickled(Places):
    """The same, with a pickled form of its own, as GeoPandas has it: what is not in there is a cache."""

    def __getstate__(self) -> Any:
        return self._numbers.tolist(), self._crs

    def __setstate__(self, state: Any) -> None:
        self.__init__(*state)  # type: ignore[misc]


@pytest.mark.parametrize("kind", [Places, Pickled])
@pytest.mark.parametrize("wrap", [pd.Series, lambda values: pd.DataFrame({"a": values}), pd.Index])
def test_attributes_of_extension_arrays_count(kind: type[Places], wrap: Callable[[Any], Any]) -> None:
    """What an array of another package says beside its members counts (a projection); caches and layout do not."""
    crs = {"datum": "WGS84", "zone": 1}
    values = [
        kind([1, 2], crs),
        kind([1, 2], {**crs, "zone": 2}),
        kind([1, 2]),
        kind([1, 3], crs),
        kind([1, 2], crs, "coarse"),
    ]
    assert len({digest(wrap(each)) for each in values}) == len(values)
    same = kind(np.array([9, 2, 9, 1])[::-2], dict(reversed(crs.items())))
    same._length_cache = 2
    assert digest(wrap(same)) == digest(wrap(values[0]))


def test_classes_of_others_are_not_taken_for_those_of_pandas() -> None:
    """Somebody's `SparseArray` has its own members."""
    named = type("SparseArray", (Places,), {"__module__": __name__})
    assert digest(pd.Series(named([1, 2], "here"))) != digest(pd.Series(named([1, 2], "there")))
