"""Equivalence is law: any small notebook, in any order of execution, behaves under `%%task` as without it.

Programs are made of statements that bind, change, alias, delete and define names; a schedule executes their cells, some
of them edited, some again, with restarts in between. A shell of our own runs them with `%%task` on every cell, plain
`exec` runs them without; what they print, what the last line is worth, how they fail, and all that they leave behind,
aliases included, must be the same after every single step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.property.worlds import HEADER, NAMES, Schedule, check, home_of_programs

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
def schedules(draw: st.DrawFn) -> Schedule:
    program = [HEADER, "a = [1]\nb = a\nc = {'k': a}\nd = 2", *draw(st.lists(cells(), min_size=2, max_size=4))]
    steps: Schedule = list(enumerate(program))
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


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with home_of_programs(tmp_path_factory.mktemp("programs")) as home:
        yield home


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
@example(schedule=[(0, HEADER), *[(1, "a = type('T', (), {'k': 0})"), (2, "b = vars(a)"), (3, "a.k = 1\nb")] * 2])
@example(
    schedule=[(0, HEADER), *[(1, "a = type('T', (), {'k': 0})"), (2, "b = dict(vars(a))"), (3, "b['__dict__']")] * 2]
)
@example(schedule=[(0, HEADER), (1, "a = memoryview(b'a')\nb = [a]"), (1, "a = memoryview(b'a')\nb = [a]")])
def test_any_program_behaves_as_without_tasks(folders: Path, schedule: Schedule) -> None:
    """Output, last value, error and everything that is left behind are the same after every step."""
    check(folders, schedule)
