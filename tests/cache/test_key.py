"""Keys of calls: what must run again, and what must not."""

from __future__ import annotations

import functools
import importlib
import inspect
import keyword
import linecache
import sys
import textwrap
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbflow.cache import CacheKey, CacheStore, FunctionKeyer, KeyBuilder, content_key, digest, fingerprint, set_where
from nbflow.core.spec import compile_binder


def keyer(function: Any, **options: Any) -> FunctionKeyer:
    """Make the keyer that a task would have."""
    return FunctionKeyer(function, name="f", bind=compile_binder(inspect.signature(function)), **options)


# --- code: rows of "same cell, changed cell" ----------------------------------------------------------------------

BASE = """
LIMIT = 3
UNRELATED = 1
def clean(x):
    return x + 1
def f(x, y=2):
    return clean(x) * LIMIT + y
"""

SAME = {
    "run again": BASE,
    "a comment in the body": BASE.replace("return clean(x)", "# why\n    return clean(x)"),
    "a docstring": BASE.replace("def f(x, y=2):", 'def f(x, y=2):\n    "It does."'),
    "a docstring of the helper": BASE.replace("def clean(x):", 'def clean(x):\n    "It cleans."'),
    "formatting": BASE.replace("return clean(x) * LIMIT + y", "return (\n        clean( x )*LIMIT\n        + y)"),
    "annotations": BASE.replace("def f(x, y=2):", "def f(x: int, y: 'str' = 2) -> float:"),
    "lines moved": "\n\n\n" + BASE,
    "other code in the cell": BASE + "\nprint\nz = 5\n",
    "an unrelated global": BASE.replace("UNRELATED = 1", "UNRELATED = 2"),
    "a decorator that returns the function": BASE.replace(
        "def f(", "import functools\n@(lambda function: function)\ndef f("
    ),
}
CHANGED = {
    "the body": BASE.replace("+ y", "- y"),
    "a constant in the body": BASE.replace("* LIMIT", "* 2 * LIMIT"),
    "a default": BASE.replace("y=2", "y=3"),
    "the helper": BASE.replace("return x + 1", "return x + 2"),
    "the global": BASE.replace("LIMIT = 3", "LIMIT = 5"),
    "the type of the global": BASE.replace("LIMIT = 3", "LIMIT = 3.0"),
    "the helper becomes data": BASE.replace("def clean(x):", "class clean(int):\n  def g(x):"),
    "async": BASE.replace("def f(", "async def f("),
    "a parameter": BASE.replace("x, y=2", "x, y=2, z=1"),
    "keyword-only": BASE.replace("x, y=2", "x, *, y=2"),
}


@pytest.mark.parametrize("change", SAME)
def test_looks_are_no_reason_to_run_again(notebook: Any, change: str) -> None:
    """Comments, docstrings, layout, annotations, position and unrelated names leave the key as it was."""
    before = notebook.run(BASE).key(x=1, y=2)
    assert notebook.run(SAME[change]).key(x=1, y=2) == before


@pytest.mark.parametrize("change", CHANGED)
def test_what_the_code_does_is(notebook: Any, change: str) -> None:
    """Body, defaults, helper and global change the key; changed back, it is the old one."""
    before = notebook.run(BASE).key(x=1, y=2)
    assert notebook.run(CHANGED[change]).key(x=1, y=2) != before
    assert notebook.run(BASE).key(x=1, y=2) == before


def test_one_keyer_notices_edits_in_place(notebook: Any) -> None:
    """A keyer that is kept sees a new helper, a new global and a changed list, and finds the old key again."""
    notebook.run("LIST = [1]\ndef g(x): return x\ndef f(x): return g(x) + LIMIT + len(LIST)\nLIMIT = 1")
    keep = keyer(notebook["f"])
    first = keep.key({"x": 1}, (1,)).digest
    assert keep.quick((1,), {}) == first
    for edit, back in [
        ("def g(x): return x + 1", "def g(x): return x"),
        ("LIMIT = 2", "LIMIT = 1"),
        ("LIST.append(2)", "LIST.pop()"),
    ]:
        notebook.run(edit)
        assert keep.quick((1,), {}) is None, "not known at once, as the code is another"
        assert keep.key({"x": 1}, (1,)).digest != first
        notebook.run(back)
        assert keep.key({"x": 1}, (1,)).digest == first


def test_helpers_of_helpers_count(notebook: Any) -> None:
    """A change three calls away is seen, also through a method, a class attribute, a base, a property and a partial."""
    text = """
import functools
SCALE = 2
def deep(x): return x * SCALE
class Base:
    factor = 1
    def low(self, x): return deep(x)
class Model(Base):
    @property
    def size(self): return 1
    @staticmethod
    def plain(x): return x
    @classmethod
    def made(cls): return cls()
    def run(self, x): return self.low(x)
run = functools.partial(lambda model, x: model.run(x), Model())
def f(x): return run(x)
"""
    keys = {notebook.run(text).key(x=1)}
    edits = [
        ("SCALE = 2", "SCALE = 3"),
        ("x * SCALE", "SCALE * x"),
        ("factor = 1", "factor = 2"),
        ("return deep(x)", "return -deep(x)"),
        ("size(self): return 1", "size(self): return 2"),
    ]
    edits += [
        ("plain(x): return x", "plain(x): return -x"),
        ("return cls()", "return cls"),
        ("model.run(x)", "model.run(-x)"),
        ("Model(Base)", "Model(Base, object)"),
    ]
    for old, new in edits:
        assert old in text
        keys.add(notebook.run(text.replace(old, new)).key(x=1))
    assert len(keys) == len(edits) + 1
    assert notebook.run(text).key(x=1) in keys


def test_closures_of_one_factory_differ(notebook: Any) -> None:
    """Functions of one factory with different captured values never share a key; nor do lambdas on one line."""
    notebook.run(
        """
def make(n):
    def f(x): return x + n
    return f
a, b, c = make(1), make(100), make(1)
p, q = lambda x: x + 1, lambda x: x + 2
"""
    )
    a, b, c, p, q = (fingerprint(notebook[name]).digest for name in "abcpq")
    assert a == c
    assert len({a, b, p, q}) == 4
    assert content_key(notebook["a"], {"x": 1}) != content_key(notebook["b"], {"x": 1})


def test_mutual_recursion_ends(notebook: Any) -> None:
    """A parser of twenty functions that all call each other is digested in one pass, and one edit changes it."""
    names = [f"rule{number}" for number in range(20)]
    calls = " + ".join(f"{name}(x - 1)" for name in names)
    text = (
        "\n".join(f"def {name}(x): return {number} if x < 1 else {calls}" for number, name in enumerate(names))
        + "\nf = rule0"
    )
    before = notebook.run(text).key(x=1)
    assert notebook.run(text).key(x=1) == before
    assert notebook.run(text.replace("return 7 if", "return 8 if")).key(x=1) != before


def test_cycles_through_data_end(notebook: Any) -> None:
    """A registry that contains the function that reads it has a key, which sees edits of its other members."""
    text = "REG = {}\ndef other(x): return x\ndef f(x): return REG['other'](x)\nREG.update(f=f, other=other)"
    before = notebook.run(text).key(x=1)
    assert notebook.run(text).key(x=1) == before
    assert notebook.run(text.replace("return x\n", "return -x\n")).key(x=1) != before
    keep = keyer(notebook["f"])
    first = keep.key({"x": 1}).digest
    notebook["REG"]["other"] = abs
    assert keep.key({"x": 1}).digest != first


def test_exec_without_source_goes_by_bytecode() -> None:
    """Functions made by exec differ by what they do, and never by a stale text under their file's name."""
    spaces: list[dict[str, Any]] = [{}, {}, {}]
    for space, text in zip(
        spaces, ["def f(x): return x + 1", "def f(x): return x + 2", "# c\n\ndef f(x): return x + 1"], strict=True
    ):
        exec(text, space)
    one, two, three = (fingerprint(space["f"]).digest for space in spaces)
    assert one == three != two
    linecache.cache["<stale>"] = (1, None, ["def f(x): return 1\n"], "<stale>")
    exec(compile("def f(x): return 2", "<stale>", "exec"), spaces[0])
    exec(compile("def f(x): return 3", "<stale>", "exec"), spaces[1])
    assert fingerprint(spaces[0]["f"]).digest != fingerprint(spaces[1]["f"]).digest


def test_decorators_count_by_what_they_capture(notebook: Any) -> None:
    """A wrapper is known by its own code, by what it captured, and by what it wraps."""
    text = """
import functools
def scale(by):
    def wrap(inner):
        @functools.wraps(inner)
        def wrapper(x): return inner(x) * by
        return wrapper
    return wrap
@scale(2)
def f(x): return x
@functools.lru_cache
def g(x): return x
@functools.singledispatch
def h(x): return x
"""
    keys = {name: notebook.run(text).key(name, x=1) for name in "fgh"}
    assert keys["f"] != notebook.run(text.replace("@scale(2)", "@scale(3)")).key(x=1)
    assert keys["f"] != notebook.run(text.replace("inner(x) * by", "inner(x) + by")).key(x=1)
    assert keys["f"] != notebook.run(text.replace("def f(x): return x", "def f(x): return -x")).key(x=1)
    assert keys["g"] != notebook.run(text.replace("def g(x): return x", "def g(x): return -x")).key("g", x=1)
    assert keys["h"] != notebook.run(text.replace("def h(x): return x", "def h(x): return -x")).key("h", x=1)
    assert keys == {name: notebook.run(text).key(name, x=1) for name in "fgh"}


def test_a_task_as_helper_is_its_function(notebook: Any) -> None:
    """A task object that is called by another task counts by the function in it, not by its options."""

    class Task:
        def __init__(self, func: Any, retries: int) -> None:
            self.func, self.retries, self.lock = func, retries, threading.Lock()
            self.spec = types.SimpleNamespace(func=func, retries=retries)

        def __call__(self, *args: Any) -> Any:
            return self.func(*args)

    notebook.names["Task"] = Task
    text = "def g(x): return x\ng = Task(g, 1)\ndef f(x): return g(x)"
    before = notebook.run(text).key(x=1)
    assert notebook.run(text.replace("Task(g, 1)", "Task(g, 5)")).key(x=1) == before
    assert notebook.run(text.replace("return x\n", "return -x\n")).key(x=1) != before
    assert fingerprint(notebook["g"]).digest == fingerprint(notebook["g"].func).digest


def test_bound_methods_count_their_object(notebook: Any) -> None:
    """A method of one object is another task than the same method of an object with other content."""
    notebook.run(
        """
class Model:
    def __init__(self, n): self.n = n
    def run(self, x): return x + self.n
a, b, c = Model(1), Model(2), Model(1)
"""
    )
    a, b, c = (content_key(notebook[name].run, {"x": 1}) for name in "abc")
    assert a == c != b
    notebook.run(
        """
class Model:
    def __init__(self, n): self.n = n
    def __call__(self, x): return x + self.n
a, b, c = Model(1), Model(2), Model(1)
"""
    )
    a, b, c = (content_key(notebook[name], {"x": 1}) for name in "abc")
    assert a == c != b


def test_names_that_meet_do_not_hide_each_other(notebook: Any) -> None:
    """A closure variable, a global of a helper, a function and a module of one name are all seen, each by itself."""
    text = """
n = 1
def low(x): return x + n
def make(n):
    def f(x): return low(x) * n
    return f
f = make(5)
class Model:
    def __init__(self, n): self.n = n
    def run(self, x): return x + self.n
one, two = Model(1).run, Model(2).run
def g(x): return one(x) - two(x)
class textwrap: pass
textwrap.dedent = n
def h(x):
    import textwrap as other
    return other, textwrap.dedent
"""
    for name, edits in {
        "f": ["n = 1=>n = 2", "make(5)=>make(6)"],
        "g": ["Model(1)=>Model(3)", "Model(2)=>Model(3)", "one(x) - two(x)=>two(x) - one(x)"],
        "h": ["n = 1=>n = 2"],
    }.items():
        before = notebook.run(text).key(name, x=1)
        assert notebook.run(text).key(name, x=1) == before
        for edit in edits:
            old, new = edit.split("=>")
            assert old in text
            assert notebook.run(text.replace(old, new)).key(name, x=1) != before, edit


# --- state --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "calls.append(x)",
        "calls += [x]",
        "calls[0] = x",
        "calls[0] += x",
        "del calls[:]",
        "calls.extend([x])",
        "(lambda: calls.append(x))()",
    ],
)
def test_what_the_function_mutates_is_no_input(notebook: Any, body: str) -> None:
    """A captured list that the function itself changes is its state: runs do not change the key."""
    rebinds = "nonlocal calls; " if body.startswith("calls +=") else ""
    text = f"""
def make():
    calls = [0]
    def f(x):
        {rebinds}{body}
        return x
    return f
f = make()
"""
    notebook.run(text)
    keep = keyer(notebook["f"])
    before = keep.key({"x": 1}, (1,)).digest
    notebook["f"](1)
    assert keep.key({"x": 1}, (1,)).digest == before == keep.quick((1,), {})
    assert keep.state_names == {"calls"}


def test_rebound_names_and_helpers_state(notebook: Any) -> None:
    """`nonlocal` and `global` counters are state, also when only a helper changes them; what is read is input."""
    notebook.run(
        "COUNT = 0\nLOG = []\nCONFIG = {'a': 1}\ndef note(x): LOG.append(x)\n"
        "def f(x):\n    global COUNT\n    COUNT += 1\n    note(x)\n    return len(LOG) + CONFIG['a']"
    )
    keep = keyer(notebook["f"])
    before = keep.key({"x": 1}).digest
    notebook["f"](1)
    assert keep.key({"x": 1}).digest == before
    assert keep.state_names == {"COUNT", "LOG"}
    notebook.run("CONFIG['a'] = 2")
    assert keep.key({"x": 1}).digest != before


def test_class_attributes_that_methods_change_are_state(notebook: Any) -> None:
    """A counter or cache that a class keeps for itself does not make its instances new values."""
    notebook.run(
        """
class Model:
    made = 0
    cache = {}
    def __init__(self, n):
        self.n = n
        Model.made += 1
        self.cache[n] = n
def f(x): return Model(x).n
"""
    )
    before = notebook.key(x=1), digest(notebook["Model"](3))
    notebook["f"](5)
    assert (notebook.key(x=1), digest(notebook["Model"](3))) == before


def test_class_attributes_that_objects_shadow_are_input(notebook: Any) -> None:
    """`self.factor = ...` makes an attribute of the object; the default in the class still counts."""
    text = "class Model:\n    factor = 1\n    def set(self): self.factor = 5\ndef f(x): return Model().factor"
    before = notebook.run(text).key(x=1)
    assert notebook.run(text.replace("factor = 1", "factor = 2")).key(x=1) != before


# --- modules ------------------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Writes local modules; forgets them afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written: set[str] = set()

    def write(name: str, text: str) -> Any:
        path = tmp_path / (name.replace(".", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        written.add(name)
        importlib.invalidate_caches()
        linecache.checkcache()
        for known in [known for known in sys.modules if known.partition(".")[0] == name.partition(".")[0]]:
            del sys.modules[known]
        return path

    yield write
    for name in written:
        sys.modules.pop(name, None)


IMPORTS = {
    "module": "import local_a\ndef f(x): return local_a.use(x)",
    "name": "from local_a import use\ndef f(x): return use(x)",
    "alias": "import local_a as la\ndef f(x): return la.use(x)",
    "inside": "def f(x):\n    from local_a import use\n    return use(x)",
    "inside whole": "def f(x):\n    import local_a\n    return local_a.use(x)",
    "value": "import local_a\ndef f(x): return getattr(local_a, 'use')(x)",
}


@pytest.mark.parametrize("how", IMPORTS)
def test_local_modules_count_by_what_is_reached(notebook: Any, module: Any, how: str) -> None:
    """However a local module is imported, an edit is seen, also one in a module that it imports itself."""
    a, b = "import local_b\ndef use(x): return local_b.low(x)\n", "K = 1\ndef low(x): return x + K\n"
    module("local_b", b), module("local_a", a)
    before = notebook.run(IMPORTS[how]).key(x=1)
    notebook["f"](1)
    assert notebook.key(x=1) == before
    module("local_a", "# comment\n" + a), module("local_b", b)
    assert notebook.run(IMPORTS[how]).key(x=1) == before
    for name, text in [
        ("local_a", a.replace("(x)\n", "(-x)\n")),
        ("local_b", b.replace("x + K", "x - K")),
        ("local_b", b.replace("K = 1", "K = 2")),
    ]:
        module("local_b", b), module("local_a", a)
        module(name, text)
        sys.modules.pop("local_a", None)
        assert notebook.run(IMPORTS[how]).key(x=1) != before


def test_unreached_code_of_a_local_module_does_not_count(notebook: Any, module: Any) -> None:
    """With `module.name`, other functions of the module may change."""
    text = "def use(x): return x\ndef other(x): return 1\n"
    module("local_a", text)
    before = notebook.run(IMPORTS["module"]).key(x=1)
    module("local_a", text.replace("return 1", "return 2"))
    assert notebook.run(IMPORTS["module"]).key(x=1) == before


def test_a_module_edited_since_its_import_is_not_misread(notebook: Any, module: Any) -> None:
    """While the old code is still loaded, a new text on disk does not stand for it."""
    path = module("local_a", "def use(x): return x + 1\n")
    notebook.run(IMPORTS["name"])
    path.write_text("def use(x): return x + 2\n")
    linecache.checkcache()
    stale = notebook.key(x=1)
    path.write_text("def use(x): return x + 3\n")
    linecache.checkcache()
    assert notebook.key(x=1) == stale  # the same loaded code
    sys.modules.pop("local_a")
    importlib.invalidate_caches()
    assert notebook.run(IMPORTS["name"]).key(x=1) != stale


def test_installed_packages_count_by_version(notebook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version of an installed package changes the key; the standard library is known by name."""
    text = "import numpy as np\nimport math\ndef f(x): return np.linalg.norm(x) + math.sqrt(x)"
    key = FunctionKeyer(notebook.run(text)["f"], name="f").key({"x": 1})
    parts = {part.name: part for part in key.parts if part.kind == "module"}
    assert list(parts) == ["numpy"]
    assert parts["numpy"].text == __import__("numpy").__version__
    monkeypatch.setattr(sys.modules["nbflow.cache.graph"], "package_version", lambda top: "99")
    assert notebook.run(text).key(x=1) != key.digest


# --- arguments ----------------------------------------------------------------------------------------------------


def plain(x: Any, y: Any = 2, *rest: Any, k: Any = None, **more: Any) -> Any:
    return x


def test_spelling_of_a_call_does_not_count() -> None:
    """Position, keyword and written-out default are one call; quick finds each of them."""
    keep = keyer(plain)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((1,), {}),
        ((), {"x": 1}),
        ((1, 2), {}),
        ((1,), {"y": 2}),
        ((), {"y": 2, "x": 1, "k": None}),
    ]
    keys = {keep.key(None, args, kwargs).digest for args, kwargs in calls}
    assert len(keys) == 1
    assert {keep.quick(args, kwargs) for args, kwargs in calls} == keys


def test_types_of_arguments_count_in_quick_too() -> None:
    """1, 1.0, True, "1", b"1", None, 0.0, -0.0, tuples of them and NaN never meet, in `key` or in `quick`."""
    keep = keyer(plain)
    values = [
        1,
        1.0,
        True,
        0,
        0.0,
        -0.0,
        False,
        "1",
        b"1",
        None,
        (),
        (1,),
        (True,),
        (1.0,),
        ((1,),),
        (0.0,),
        (-0.0,),
        "x" * 5000,
        [1],
        float("nan"),
    ]
    keys = [keep.key(None, (value,)).digest for value in values]
    assert len(set(keys)) == len(values)
    for value, key in zip(values, keys, strict=True):
        assert keep.quick((value,), {}) in (key, "")
        assert keep.quick((), {"x": value}) in (keep.key(None, (), {"x": value}).digest, "")
    assert keep.quick((7,), {}) == ""
    assert keep.key(None, ((1, 2),)).digest != keep.key(None, (1, 2)).digest
    assert keep.key(None, (1,), {"a": 1}).digest != keep.key(None, (1,), {"b": 1}).digest


PLAIN_VALUES = st.one_of(
    *(st.integers(), st.floats(), st.booleans(), st.text(max_size=300), st.binary(max_size=300), st.none()),
    st.complex_numbers(),
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_late_keys_are_the_keys_of_their_calls(data: st.DataObject) -> None:
    """Whatever names, values, version and what is left out: the digest is that of `key`, and so are the parts."""
    names = data.draw(st.lists(st.from_regex(r"[a-zé_][a-z0-9_]{0,9}", fullmatch=True), max_size=4, unique=True))
    names = [name for name in names if name.isidentifier() and not keyword.iskeyword(name)]
    space: dict[str, Any] = {}
    exec(f"def f({', '.join(names)}): return 1", space)
    options = {
        "ignore": data.draw(st.lists(st.sampled_from(names))) if names else (),
        "version": data.draw(st.one_of(st.none(), st.integers(), st.lists(st.text()))),
    }
    keep, other = keyer(space["f"], **options), keyer(space["f"], **options)
    store = CacheStore()
    for _ in range(2):
        args = tuple(data.draw(PLAIN_VALUES) for _ in names)
        inputs = dict(zip(names, args, strict=True))
        keep.key(inputs, args, {}, store)
        late = keep.late_key(inputs, args, {})
        assert late is not None
        assert late() == other.key(inputs)
        assert late.digest == late().digest
        assert keep.quick(args, {}) in (late.digest, "")


def test_keys_that_are_not_of_the_disk_are_never_late() -> None:
    """A version that has no digest, or a hash of the user's own, leaves it to `key`; so does code not asked about."""
    store = CacheStore()
    for options in ({"version": object()}, {"custom": lambda func, inputs: "1"}, {"depends": [(n for n in ())]}):
        keep = keyer(plain, **options)
        keep.key({"x": 1}, (1,), {}, store)
        assert keep.late_key({"x": 1}, (1,), {}) is None
    keep = keyer(plain)
    assert keep.late_key({"x": 1}, (1,), {}) is None
    keep.key({"x": 1}, (1,), {})
    assert keep.late_key({"x": 1}, (1,), {}) is None


def test_ignored_parameters_and_versions() -> None:
    """`ignore` leaves a parameter out, `version` sets results apart, `depends` adds what cannot be seen."""
    assert (
        keyer(plain, ignore=["y"]).key({"x": 1, "y": 2}).digest
        == keyer(plain, ignore="y").key({"x": 1, "y": object()}).digest
    )
    digests = {keyer(plain, version=version).key({"x": 1}).digest for version in (None, 1, "1", 2)}
    digests |= {
        keyer(plain, depends=depends).key({"x": 1}).digest
        for depends in ([len], [textwrap.dedent], ["a"], ["b"], [{"a": 1}], "b" * 2)
    }
    assert len(digests) == 10


def test_depends_sees_edits(notebook: Any) -> None:
    """A function under `depends` counts like a helper, and is named as a dependency."""
    text = "def hidden(x): return x\ndef f(x): return eval('hid' + 'den')(x)"

    def key() -> CacheKey:
        return FunctionKeyer(notebook["f"], name="f", depends=[notebook["hidden"]]).key({"x": 1})

    notebook.run(text)
    before = key()
    assert [part.name for part in before.parts if part.kind == "depends"] == ["hidden"]
    assert key().digest == before.digest
    notebook.run(text.replace("return x\n", "return -x\n"))
    assert key().digest != before.digest


def test_what_cannot_be_digested_gives_a_session_key() -> None:
    """A lock argument makes a session key that says so; the same lock gives the same key, another lock another."""
    keep = keyer(plain)
    one, other = threading.Lock(), threading.Lock()
    first = keep.key({"x": {"lock": one}, "y": [1]})
    assert first.scope == "session"
    assert "argument `x`['lock']" in first.notes[0]
    assert keep.key({"x": {"lock": one}, "y": [1]}).digest == first.digest
    assert keep.key({"x": {"lock": other}, "y": [1]}).digest != first.digest
    assert keep.key({"x": {"lock": one}, "y": [2]}).digest != first.digest
    assert not keep.quick(({"lock": one},), {})


def test_a_dead_objects_identity_is_never_reused() -> None:
    """Ten thousand locks that come and go have ten thousand keys."""
    keep = keyer(plain)
    assert len({keep.key({"x": threading.Lock()}).digest for _ in range(10_000)}) == 10_000


def test_generators_never_hit() -> None:
    """A generator is used up by the call, so that the next call with it is another one."""
    keep = keyer(plain)
    numbers = (number for number in range(3))
    first = keep.key({"x": numbers})
    assert first.scope == "session"
    assert keep.key({"x": numbers}).digest != first.digest


def test_hostile_arguments_never_raise() -> None:
    """Objects whose own methods fail give a session key."""

    class Hostile:
        def __reduce_ex__(self, protocol: Any) -> Any:
            raise RuntimeError("no")

        def __repr__(self) -> str:
            raise RuntimeError("no")

        @property
        def shape(self) -> Any:
            raise RuntimeError("no")

    class Worse:
        def __nbflow_digest__(self) -> str:
            raise ZeroDivisionError

    for value in (Hostile(), Worse(), [Hostile()]):
        key = keyer(plain).key({"x": value})
        assert key.scope == "session"
        assert key.notes
    assert keyer(plain).key(None, (), {}).scope == "session"  # an argument is missing


def test_captured_locks_do_not_spoil_a_key_but_files_do(notebook: Any, tmp_path: Path) -> None:
    """A lock guards data and holds none; a captured open file makes a session key that names it."""
    notebook.names.update(LOCK=threading.Lock(), Lock=threading.Lock)
    notebook.run("def f(x):\n    with LOCK:\n        return x")
    before = keyer(notebook["f"]).key({"x": 1})
    assert before.scope == "disk"
    notebook.run("LOCK = Lock()")
    assert keyer(notebook["f"]).key({"x": 1}).digest == before.digest
    with open(tmp_path / "a", "w") as stream:
        notebook.names["OUT"] = stream
        notebook.run("def f(x): return OUT.name")
        key = keyer(notebook["f"]).key({"x": 1})
    assert key.scope == "session"
    assert "`OUT`" in key.notes[0]


def test_custom_hash() -> None:
    """A task's own hash is the key, with the task's name; one that fails or returns no text gives a session key."""
    one = keyer(plain, custom=lambda func, inputs: f"{func.__name__}{inputs['x']}")
    assert one.key({"x": 1, "y": 5}).digest == one.key({"x": 1, "y": 6}).digest != one.key({"x": 2}).digest
    assert (
        one.key({"x": 1}).digest
        != FunctionKeyer(plain, name="g", custom=lambda func, inputs: "plain1").key({"x": 1}).digest
    )
    assert one.quick((1,), {}) is None
    for bad in (lambda func, inputs: 1 / 0, lambda func, inputs: 5):
        key = keyer(plain, custom=bad).key({"x": 1})
        assert key.scope == "session"
        assert "cache hash" in key.notes[0]
        assert keyer(plain, custom=bad).key({"x": 1}).digest != key.digest


def test_builder_and_content_key() -> None:
    """Parts count by kind, name and digest, in any order; text and place do not."""

    def build(*parts: tuple[str, str, Any]) -> CacheKey:
        builder = KeyBuilder("cell")
        for part in parts:
            builder.add(*part)
        return builder.build()

    one = build(("input", "a", 1), ("input", "b", 2))
    assert one.digest == build(("input", "b", 2), ("input", "a", 1)).digest
    assert (
        len(
            {
                key.digest
                for key in (
                    one,
                    build(("input", "a", 2), ("input", "b", 1)),
                    build(("global", "a", 1), ("input", "b", 2)),
                    build(("input", "a", 1)),
                    build(),
                )
            }
        )
        == 5
    )
    builder = KeyBuilder("cell")
    builder.add_digest("input", "a", digest(1), "text", "cell 3")
    assert builder.build().digest == build(("input", "a", 1)).digest
    assert content_key(plain, {"x": 1}) == content_key(plain, {"x": 1}) != content_key(plain, {"x": 2})


def test_places_are_named(notebook: Any) -> None:
    """A registered namer says which cell code is in; files of kernels have no name otherwise."""
    notebook.run(BASE)
    assert {part.where for part in fingerprint(notebook["f"]).parts} == {""}
    set_where(lambda filename: "cell 4" if "ipykernel_" in filename else "")
    try:
        notebook.run(BASE)
        assert {part.name: part.where for part in fingerprint(notebook["f"]).parts if part.where} == {
            "f": "cell 4",
            "clean": "cell 4",
        }
    finally:
        set_where(None)


def test_keyers_digest_nothing_before_the_first_call(notebook: Any) -> None:
    """Decorating is free: names that are defined later are seen at the first call."""
    notebook.run("def f(x): return later(x)")
    keep = keyer(notebook["f"])
    without = keep.key({"x": 1}, (1,)).digest
    notebook.run("def later(x): return x")
    assert keep.quick((1,), {}) is None
    assert keep.key({"x": 1}, (1,)).digest != without


def test_keys_from_many_threads(notebook: Any) -> None:
    """Threads that share a keyer get the same keys."""
    keep = keyer(notebook.run(BASE)["f"])
    found: list[list[str]] = []

    def work() -> None:
        found.append(
            [keep.quick((n % 50,), {}) or keep.key({"x": n % 50, "y": 2}, (n % 50,)).digest for n in range(500)]
        )

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(keys == found[0] for keys in found)
    assert len(set(found[0])) == 50


def test_partial_of_a_task_function() -> None:
    """Fixed arguments of a partial count."""
    one, other = (keyer(functools.partial(plain, number)).key({"y": 1}).digest for number in (1, 2))
    assert one != other == keyer(functools.partial(plain, 2)).key({"y": 1}).digest
