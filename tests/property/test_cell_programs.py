"""Equivalence is law: any small notebook, in any order of execution, behaves under `%%task` as without it.

Programs are made of statements that bind, change, alias, delete and define names; a schedule executes their cells, some
of them edited, some again, with restarts in between. A shell of our own runs them with `%%task` on every cell, plain
`exec` runs them without; what they print, what the last line is worth, how they fail, and all that they leave behind,
aliases included, must be the same after every single step.
"""

from __future__ import annotations

import ast
import atexit
import collections
import contextlib
import functools
import io
import os
import random
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st
from IPython.core.displayhook import DisplayHook
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from nbflow.notebook.chance import random_states, set_random_states
from nbflow.settings import load_settings, set_global_settings

NAMES = "abcd"
LONG = os.environ.get("NBFLOW_LONG") == "1"

SIMPLE = """{x} = {i}
{x} = [{i}, {j}]
{x} = {{'k': {i}}}
{x} = {{{i}, {j}}}
{x} = 'text'
{x} = {y}
{x} = [{y}, {y}]
{x} = ({y}, {z})
{x} = {{'k': {y}}}
{x} = list({y})
{x} = [{y}]
{x}.append({i})
{x}.append({y})
{x}[0] = {i}
{x}['k'] = {y}
{x} += [{i}]
{x} += {i}
{x} = {y} + {z}
{x}, {y} = {y}, {x}
{x} = {y}[0]
{x} = {y}['k']
{x} = len({y})
del {x}
({x} := {i})
{x} = [n for n in {y}]
{x} = [(n, {z}) for n in range({i})]
{x} = sorted({y}, key=repr)
print({x})
print({x}, end='')
{x} = f({y})
{x} = g({y})
h()
{x} = {y}()
{x} = lambda v=None: ({y}, v)
{x} = C()
{x} = C({y})
{x}.attr = {y}
{x} = {y}.attr
{x} = C.kind
C.kind = {i}
{x} = isinstance({y}, C)
{x} = {y}.bump()
C().bump()
{x} = random.random()
random.seed({i})
random.seed(random.random())
{x} = random.getstate()[1][-1]
{x} = np.random.rand()
np.random.seed({i})
np.random.seed({x})
set_seed({i})
import math as {x}
from math import pi as {x}
{x} = math.floor({i}.5)
{x} = iter([{i}, {j}])
{x} = next({y})
{x} = np.arange({i})
{x} = np.zeros({i})
{x}[:] = {i}
{x} = {y}[1:]
{x} *= 2
{x} = {y}.sum()
assert {x}
globals()['{x}'] = {i}
exec('{x} = {i}')
{x} = np.random.default_rng({i})
{x} = np.random.RandomState({i})
{x} = random.Random({i})
{x} = {y}.random()
{x} = {y}.random({i})
{x} = {y}.permutation({z})
random.shuffle({x})
np.random.shuffle({x})
{x} = random.choice({y})
{x} = random.sample
{x} = pd.DataFrame({{'p': [{i}, {j}, 2], 'q': [1.5, 2.5, None]}})
{x} = pd.DataFrame({{'p': {y}, 'q': {z}}})
{x} = pd.Series([{i}, {j}])
{x} = pd.Series({y})
{x} = {y}['p']
{x} = {y}[['p']]
{x}['p'] = {i}
{x}['q'] = {y}
{x}.loc[0, 'p'] = {i}
{x}.iloc[0] = {j}
{x} = {y}[{y}['p'] > 1]
{x} = {y}.copy()
{x} = {y}.sum()
{x} = {y}.values
{x} = {y}.sort_values('p')
{x}.sort_values('p', inplace=True)
{x}.drop(columns='q', inplace=True)
{x}.index = [{i}, {j}, 7]
{x}.attrs['k'] = {i}
{x} = {y}.attrs
{x} = {y}.rename(columns={{'p': 'q'}})
{x} = {y}.groupby('p').sum()
{x} = {{{y}, {i}}}
{x}.add({i})
{x}.clear()
{x}.pop()
{x}.extend({y})
{x}.update({y})
{x} |= {y}
{x} = {y} == {z}
{x} = {y} is {z}
del {x}[0]
del {x}.attr
f.kept = {y}
{x} = f.kept
{x} = functools.partial(f, {y})
{x} = functools.partial({y}, {z})
{x} = {y}.func
{x} = {y}.args
{x} = itertools.count({i})
{x} = itertools.chain({y}, {z})
{x} = f
f = {x}
{x} = D({y})
D.kind = {i}
{x} = D.kind
{x} = type('T', (), {{'k': {y}}})
{x} = {y}.k
{x}: list = [{y}]
{x} = (n for n in {y})
{x} = [lambda: {y} for _ in range({i})]
{x} = {y}[0]()
{x} = list(f({y}))
vars()['{x}'] = {y}
setattr(C, 'kind', {y})
{x} = getattr({y}, 'kind', None)
{x} = f'{{{y}}}'
{x} = {y}.append
{x} = {y}.__class__
{x} = vars({y})
from math import *
{x} = floor({i}.5)
{x} = collections.deque([{i}, {j}], 2)
{x} = collections.defaultdict(list, k={y})
{x}['z']
{x} = collections.Counter({y})
{x} = memo({i})
{x} = memo.cache_info().hits
{x} = {y}.__iter__()
{x} = enumerate({y})
{x} = zip({y}, {z})
{x} = map(f, {y})
{x} = slice({y})
{x} = memoryview(np.arange({i}))
{x} = bytearray([{i}])
{x} = {y}.real
{x} = {y}.query('p > @{z}')
{x} = len({y}.query(f'p > {{{z}}}'))
{x} = pd.eval('{y} + {z}')
{x} = f.__globals__.get('{y}')
{x} = '{y}' in dir()
{x} = eval('{y}')
{x} = [f, g, h]
{x} = {{'k': g}}
{x} = {y}[0]({z})
{x} = {y}['k']({z})
{x} = C().bump
{x} = functools.partial(C.bump, {y})
{x} = functools.partial({y}.bump)
{x} = list(map(g, [{i}, {j}]))
{x} = [each.bump() for each in {y}]
{x} = C.bump
{x} = C.kinds()
{x} = f.n
{x} = f(f({y}))
{x} = kit
{x} = kit.bump()
{x} = kit.put({y})
{x} = kit.log
{x} = kit.count
{x} = kit.limit()
{x} = kit.memo({i})
{x} = kit.step()
{x} = kit.Kit({y})
{x} = kit.Kit.made
{x} = kit.Kit.items
{x} = [kit.put, kit.bump]
{x} = {y}.put({z})
kit.LIMIT = {i}
kit.log = {y}
kit.log.append({i})
kit.table['k'] = {y}
kit.Kit.made = {i}
setattr(kit, 'LIMIT', {i})
from kit import LIMIT as {x}
from kit import bump as {x}
from kit import log as {x}, put as {y}
{x} = f(kit)
pass"""

BLOCKS = [
    "def f(v):\n    return [v, {x}]",
    "def f(v):\n    return {x}",
    "def g(v):\n    v.append({i})\n    return v",
    "def h():\n    global {x}\n    {x} = {i}",
    "def h():\n    {x}.append({i})",
    "def f(v, w={x}):\n    return (v, w)",
    "class C:\n    kind = {i}\n    def __init__(self, v=None):\n        self.v = v",
    "class C:\n    kind = {x}",
    "class C:\n    kind = {i}\n    def bump(self):\n        C.kind = C.kind + 1\n        return C.kind",
    "class C:\n    kind = []\n    def bump(self):\n        self.kind.append({i})\n        return self.kind",
    "for {x} in range({i}):\n    {y} = {x}",
    "for {x} in {y}:\n    {z} = {x}",
    "if {x}:\n    {y} = {i}",
    "if {x}:\n    {y} = {i}\nelse:\n    {y} = [{j}]",
    "while True:\n    {x} = {i}\n    break",
    "try:\n    {x} = {y}[9]\nexcept (IndexError, TypeError, KeyError) as {z}:\n    {x} = None",
    "try:\n    {x} = {i}\nfinally:\n    {y} = {x}",
    "with contextlib.nullcontext({x}) as {y}:\n    {z} = {y}",
    "match {x}:\n    case [{y}, *_]:\n        pass\n    case _:\n        {y} = {i}",
    "def make():\n    kept = []\n    def add(v=0):\n        kept.append(v)\n        return len(kept)\n    return add\n"
    "{x} = make()",
    "import copy\n{x} = copy.deepcopy({y})",
    "def f(v):\n    random.seed({i})\n    return random.random()",
    "def g(v):\n    return random.random()",
    "def h():\n    {x} = random.random()\n    np.random.seed({i})",
    "def set_seed(number):\n    random.seed(number)\n    np.random.seed({i})\nset_seed({j})",
    "def f(v):\n    yield {x}\n    yield v",
    "def f(v):\n    {x}[0] = v\n    yield {x}",
    "def deco(fn):\n    def wrapped(*args):\n        return [{x}, fn(*args)]\n    return wrapped",
    "@deco\ndef f(v):\n    return [v, {x}]",
    "@deco\nclass C:\n    kind = {i}",
    "class D(C):\n    def bump(self):\n        return [{x}, super().bump()]",
    "class D(C):\n    pass",
    "class D(list):\n    kind = {x}",
    "import dataclasses\n@dataclasses.dataclass\nclass C:\n    v: object = {i}\n    kind: int = {j}",
    "class C:\n    kind = {i}\n    def __init__(self, v=None):\n        self.v = v\n"
    "    @property\n    def attr(self):\n        return [{x}, self.v]",
    "class C:\n    kind = {i}\n    def __init__(self, v=None):\n        C.kind += 1\n        {x}.append(self)",
    "class C:\n    __slots__ = ('v', 'attr')\n    kind = {i}\n    def __init__(self, v=None):\n        self.v = v",
    "@functools.lru_cache\ndef memo(v):\n    return [v, {x}]",
    "@functools.cache\ndef memo(v):\n    return random.random()",
    "def f(v):\n    global {x}\n    {x} = v\n    return g(v)",
    "def f(v, seen=[]):\n    seen.append(v)\n    return len(seen)",
    "def f(v):\n    f.count = getattr(f, 'count', 0) + 1\n    return f.count",
    "def g(v):\n    f.count = v\n    return f",
    "def g(v):\n    return f(v)",
    "def g(v):\n    v['p'] = {i}\n    return v",
    "for {x} in range(3):\n    if {x} == {i}:\n        break\nelse:\n    {y} = {x}",
    "try:\n    {x} = next({y})\nexcept StopIteration:\n    {x} = None",
    "if False:\n    {x} = {i}",
    "for _ in {y}:\n    {x} = _",
    "def f(v):\n    return v.query('p > @{x}')",
    "def f(v):\n    return eval('{x}')",
    "def h():\n    del globals()['{x}']",
    "def h():\n    globals()['{x}'] = {y}",
    "if {x}:\n    random.seed({i})\n    {y} = random.random()",
    "def make():\n    n = {i}\n    def inc(v=None):\n        nonlocal n\n        n += 1\n        return n\n"
    "    def get():\n        return n\n    return inc, get\nf, {x} = make()",
    "def deco(fn):\n    n = 0\n    def inner(*args):\n        nonlocal n\n        n += 1\n"
    "        return n, fn(*args)\n    return inner",
    "def deco(fn):\n    def inner(*args):\n        inner.n += 1\n        return inner.n, fn(*args)\n"
    "    inner.n = {i}\n    return inner",
    "class deco:\n    def __init__(self, fn):\n        self.fn, self.n = fn, {i}\n"
    "    def __call__(self, *args):\n        self.n += 1\n        return self.n, self.fn(*args)",
    "@deco\n@deco\ndef g(v):\n    return v\n{x} = g({y})",
    "class C:\n    kind = {i}\n    @deco\n    def bump(self):\n        return {j}",
    "class C:\n    kind = {i}\n    def bump(self, seen=[]):\n        seen.append({i})\n        return len(seen)",
    "class C:\n    kind = {i}\n    @staticmethod\n    def bump(v=None, seen=[]):\n        seen.append({i})\n"
    "        return len(seen)",
    "class C:\n    kind = {i}\n    def bump(self):\n        {x}.append({i})\n        return len({x})",
    "class C:\n    kind = {i}\n    def bump(self):\n        type(self).kind += 1\n        return self.kind",
    "class C:\n    kind = {i}\n    log = []\n    @classmethod\n    def bump(cls):\n        cls.kind += 1\n"
    "        cls.log.append(cls.kind)\n        return cls.kind",
    "class C:\n    kind = {i}\n    @property\n    def attr(self):\n        {x}.append({i})\n        return {x}",
    "def f(v):\n    v.kind = {i}\n    return v",
    "def f(v):\n    v.LIMIT = {i}\n    return v.limit()",
    "def f(v):\n    kit.LIMIT = v\n    return kit.limit()",
    "def g(v):\n    return kit.put(v)",
    "def g(v):\n    from kit import LIMIT\n    return [v, LIMIT]",
    "def h():\n    kit.Kit.items.append({x})",
    "import kit\n{x} = kit.bump()",
    "from kit import put\n{x} = put({y})",
    "import kit as {x}\n{y} = {x}.limit()",
    "for {x} in range({i}):\n    random.seed({x})",
    "with contextlib.nullcontext({x}):\n    np.random.seed({i})\n{y} = np.random.rand()",
]
TEMPLATES = [*SIMPLE.splitlines(), *BLOCKS]
LAST = ["", "", "{x}", "{x}, {y}", "{x} is {y}", "len({x})", "{x};", "f({y})"]
HEADER = (
    "import collections, contextlib, functools, itertools, math, os, random\n"
    "import numpy as np\nimport pandas as pd\nimport kit\nrandom.seed(7)"
)
KIT = """
LIMIT = 5
count = 0
log = []
table = {}


class Kit:
    made = 0
    items = []

    def __init__(self, v=None):
        Kit.made += 1
        self.v = v

    def put(self, v=None):
        self.items.append(v)
        return len(self.items)


def bump(v=None):
    global count
    count += 1
    return count


def put(v=None):
    log.append(v)
    return len(log)


def memo(v, seen={}):
    seen[v] = len(seen)
    return dict(seen)


def limit():
    return LIMIT


def make():
    n = 0

    def inc():
        nonlocal n
        n += 1
        return n

    return inc


step = make()
"""
DELETE = (2, "d = [1]\ndel c")  # an error where the name is missing, whatever the cache has


@st.composite
def statements(draw: st.DrawFn, last: bool = False) -> str:
    template = draw(st.sampled_from(LAST if last else TEMPLATES))
    names = {key: draw(st.sampled_from(NAMES)) for key in "xyz"}
    return template.format(**names, i=draw(st.integers(0, 3)), j=draw(st.integers(0, 3)))


@st.composite
def cells(draw: st.DrawFn) -> str:
    lines = [draw(statements()) for _ in range(draw(st.integers(1, 3)))]
    return "\n".join(line for line in [*lines, draw(statements(last=True))] if line)


@st.composite
def schedules(draw: st.DrawFn) -> list[tuple[int, str] | None]:
    """Return (cell, its text) to execute one after the other; None is a restart of the kernel."""
    program = [HEADER, "a = [1]\nb = a\nc = {'k': a}\nd = 2", *draw(st.lists(cells(), min_size=2, max_size=4))]
    steps: list[tuple[int, str] | None] = list(enumerate(program))
    kinds = st.sampled_from(["all", "all", "restart", "one", "one", "edit"])
    for kind in draw(st.lists(kinds, min_size=1, max_size=3)):
        if kind == "edit":
            program[draw(st.integers(1, len(program) - 1))] = draw(cells())
        if kind == "restart":
            steps.append(None)
        if kind == "one":
            place = draw(st.integers(1, len(program) - 1))
            steps.append((place, program[place]))
        else:
            steps.extend(enumerate(program))
    return steps


# --- the two that run them ----------------------------------------------------------------------------------------


def generators_of_a_kernel() -> dict[str, Any]:
    """Let random numbers begin as in a new kernel, which for both kinds of notebooks is the same."""
    random.seed(1)
    np.random.seed(2)
    return random_states()


class World:
    """What both kinds of notebooks have: a local module that each loads for itself."""

    kit: types.ModuleType | None = None

    @contextlib.contextmanager
    def loaded(self) -> Iterator[None]:
        """Make the module the one that is loaded."""
        if self.kit is not None:
            sys.modules["kit"] = self.kit
        try:
            yield
        finally:
            self.kit = sys.modules.pop("kit", None)


class Plain(World):
    """What a notebook without nbflow does."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.kit = None
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.random = generators_of_a_kernel()

    def run(self, place: int, text: str) -> tuple[str, str, str]:
        tree = ast.parse(text)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        printed, shown, error = io.StringIO(), "", ""
        set_random_states(self.random)
        with contextlib.redirect_stdout(printed), self.loaded():
            try:
                exec(compile(tree, "<cell>", "exec"), self.names)
                if isinstance(last, ast.Expr):
                    value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), self.names)
                    shown = "" if value is None or text.endswith(";") else steady(value)
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
        self.random = random_states()
        return steady_text(printed.getvalue()), shown, steady_text(error)


class Tasks(World):
    """The same with `%%task` on every cell."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.shell: Any = None
        self.restart()

    def restart(self) -> None:
        self.close()
        self.kit = None
        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"
        self.shell = QuietShell(config=config)
        self.shell.run_line_magic("load_ext", "nbflow")
        self.random = generators_of_a_kernel()

    @property
    def names(self) -> dict[str, Any]:
        found: dict[str, Any] = self.shell.user_ns
        return found

    def run(self, place: int, text: str) -> tuple[str, str, str]:
        printed = io.StringIO()
        set_random_states(self.random)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()), self.loaded():
            result = self.shell.run_cell(f"%%task -q\n{text}", cell_id=f"cell-{place}")
        self.random = random_states()
        raised = result.error_in_exec or result.error_before_exec
        silent = result.result is None or text.endswith(";")
        error = f"{type(raised).__name__}: {raised}" if raised is not None else ""
        return steady_text(printed.getvalue()), "" if silent else steady(result.result), steady_text(error)

    def close(self) -> None:
        if self.shell is not None:
            self.shell.run_line_magic("unload_ext", "nbflow")
            atexit.unregister(self.shell.atexit_operations)
            self.shell.atexit_operations()


class Quiet(DisplayHook):
    """A display hook that notes values and shows nothing."""

    def write_output_prompt(self) -> None: ...

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None: ...

    def finish_displayhook(self) -> None:
        self._is_active = False


class QuietShell(InteractiveShell):
    """A shell that shows neither values nor errors."""

    displayhook_class = Quiet

    def showtraceback(self, *args: Any, **kwargs: Any) -> None: ...


# --- what they leave behind ---------------------------------------------------------------------------------------


def steady_text(text: str) -> str:
    """Return text without addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", text).replace("<listcomp>", "")


def steady(value: Any) -> str:
    return steady_text(repr(value))


def state_of(world: Plain | Tasks) -> dict[str, Any]:
    """Return all that the user's names hold, with objects that are the same told by one number."""
    names = world.names
    seen: dict[int, int] = {}
    kept: list[Any] = []

    def walk(value: Any) -> Any:
        if value is None or isinstance(value, (int, float, str, bytes, complex)):
            return type(value).__name__, repr(value)
        if isinstance(value, types.ModuleType):
            return "module", value.__name__
        if id(value) in seen:
            return "same as", seen[id(value)]
        if isinstance(value, types.BuiltinFunctionType):
            return "builtin", value.__name__
        if isinstance(value, tuple):  # the compiler decides which equal ones are one object
            return "tuple", [walk(each) for each in value]
        number = seen[id(value)] = len(seen)
        kept.append(value)
        kind = type(value).__name__
        if isinstance(value, list):
            return number, kind, [walk(each) for each in value]
        if isinstance(value, (set, frozenset)):
            return number, kind, sorted(map(repr, value))
        if isinstance(value, dict):
            return number, kind, [(walk(key), walk(each)) for key, each in value.items()]
        if isinstance(value, np.random.Generator):
            return number, kind, repr(value.bit_generator.state)
        if isinstance(value, np.random.RandomState):
            return number, kind, repr(value.get_state())
        if isinstance(value, random.Random):
            return number, kind, value.getstate()
        if type(value).__module__.split(".")[0] == "pandas":
            return number, kind, steady(value), str(getattr(value, "dtypes", "")), repr(getattr(value, "attrs", ""))
        if isinstance(value, functools.partial):
            return number, kind, walk(value.func), walk(value.args), walk(value.keywords)
        if isinstance(value, collections.deque):
            return number, kind, [walk(each) for each in value]
        if type(value).__module__ == "itertools":
            return number, kind, steady(value)
        if type(value).__module__ == "numpy":
            return number, kind, steady(value), str(getattr(value, "dtype", ""))
        if isinstance(value, types.FunctionType):
            cells = [walk(each.cell_contents) for each in value.__closure__ or ()]
            return (
                number,
                kind,
                value.__code__.co_code,
                walk(value.__defaults__),
                cells,
                value.__name__ == "__init__" or value.__globals__ is names,
                walk(vars(value)),
            )
        if isinstance(value, type) and value.__module__ != "__main__":
            return "class", value.__qualname__
        if isinstance(value, type):
            own = {
                key: walk(each) for key, each in vars(value).items() if not key.startswith("__") or key == "__init__"
            }
            return number, "class", own
        if hasattr(value, "__dict__"):
            return number, kind, walk(type(value)), walk(vars(value))
        return number, kind

    found = {}
    for name in sorted(names):
        if name in USERS:
            found[name] = walk(names[name])
    if world.kit is not None:
        found["the module"] = [
            walk(value) for name, value in sorted(vars(world.kit).items()) if not name.startswith("__")
        ]
    return found


USERS = {
    *NAMES,
    *"C D collections contextlib copy deco f functools g h itertools kit make math memo n np os pd put".split(),
    *"random set_seed".split(),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return where the stores of the programs live."""
    main = sys.modules["__main__"]
    home = tmp_path_factory.mktemp("programs")
    (home / "kit.py").write_text(KIT)
    os.utime(home / "kit.py", (1e9, 1e9))
    sys.path.insert(0, str(home))
    yield home
    sys.path.remove(str(home))
    sys.modules["__main__"] = main  # each shell has put its own there
    set_global_settings(None)


def check(home: Path, schedule: list[tuple[int, str] | None]) -> None:
    """Run a schedule in both worlds and compare after every step."""
    plain, tasks = Plain(), Tasks(home)
    try:
        for number, step in enumerate(schedule):
            if step is None:
                note("# --- restart")
                plain.restart()
                tasks.restart()
                continue
            note(f"# --- cell {step[0]}\n{step[1]}")
            expected, found = plain.run(*step), tasks.run(*step)
            assert found == expected, f"step {number}, cell {step[0]}"
            left, right = state_of(tasks), state_of(plain)
            for state, other in ((left, right), (right, left)):  # a hit need not load what only its functions import
                if "the module" not in other:
                    state.pop("the module", None)
            assert left == right, f"step {number}, cell {step[0]}"
    finally:
        tasks.close()


BY_ANOTHER = "a = 3\ndef h():\n    global a\n    a = 0"
QUERY = "a = pd.DataFrame({'p': [1, 2, 3]})\nd = %d\nc = 'p > @d'\ndef f(v):\n    return v.query('p > @d')"
QUERIES = [(2, "b = a.query('p > @d')"), (2, "b = a.query(c)"), (2, "b = f(a)"), (2, "vars()['b'] = d")]
KEEPS = (
    "def f(v, seen=[]):\n    seen.append(v)\n    f.count = getattr(f, 'count', 0) + 1\n    return f.count + len(seen)"
)
DRAW_AND_SEED = "a = random.random()\nrandom.seed(0)\na"


@pytest.mark.slow
@settings(
    max_examples=3000 if LONG else 30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(schedule=schedules())
@example(schedule=[(0, HEADER), (1, "b = lambda v=None: v\na = [b]"), None, (1, "b = lambda v=None: v\na = [b]")])
@example(schedule=[(0, HEADER), (1, "c = 1"), DELETE, DELETE, (1, "c = 1"), DELETE])
@example(schedule=[(0, HEADER), (1, DRAW_AND_SEED), (0, HEADER), (1, DRAW_AND_SEED), (1, DRAW_AND_SEED)])
@example(schedule=[(0, HEADER), (1, BY_ANOTHER), (2, "h()"), (1, BY_ANOTHER), (2, "h()"), (3, "del a"), (2, "h()")])
@example(schedule=[(0, HEADER), *((n, text) for i in (1, 2, 1) for n, text in ((1, QUERY % i), *QUERIES))])
@example(schedule=[(0, HEADER), *[(1, KEEPS), (2, "a = f(1)"), (3, "b = f(2)"), (3, "b = f(2)")] * 2])
@example(schedule=[(0, HEADER), *[(1, f"{KEEPS}\na = f(1)"), (2, "b = f(2)")] * 2])
@example(
    schedule=[(0, HEADER), *[(1, "a = random.sample"), (2, "b = [np.random.rand, a]"), (3, "b[0](), a('abc', 2)")] * 2]
)
@example(schedule=[(0, HEADER), (1, "a = memoryview(b'a')\nb = [a]"), (1, "a = memoryview(b'a')\nb = [a]")])
def test_any_program_behaves_as_without_tasks(folders: Path, schedule: list[tuple[int, str] | None]) -> None:
    """Output, last value, error and everything that is left behind are the same after every step."""
    set_global_settings(load_settings(home=str(folders / os.urandom(6).hex()), progress="off"))
    check(folders, schedule)
