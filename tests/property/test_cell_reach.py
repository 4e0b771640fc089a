"""What the code behind a cell changes, a hit changes as well: through methods, lists, closures, modules, decorators.

Each program is run from top to bottom, its cells again in this order and in the opposite one, and after restarts; with
`%%task` on every cell it must behave as without at every step. Most of them must be restored after a restart, too: to
run everything each time would pass as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.property.worlds import HEADER, Schedule, check, home_of_programs

COUNTS = "    n = 0\n    def inc(v=None):\n        nonlocal n\n        n += 1\n        return n\n"
REMEMBERS = (
    "def memo(fn):\n    seen = {}\n    def inner(v):\n"  #
    "        seen[v] = fn(v)\n        return len(seen)\n    return inner"
)
COUNTED = (
    "def deco(fn):\n    n = 0\n    def inner(*args):\n        nonlocal n\n        n += 1\n        return n, fn(*args)\n"
    "    return inner"
)
COUNTER = (
    "class deco:\n    def __init__(self, fn):\n        self.fn, self.n = fn, 0\n"
    "    def __call__(self, *args):\n        self.n += 1\n        return self.n, self.fn(*args)"
)
LOGS = "a = []\n"
METHOD = "class C:\n    def put(self, v):\n        a.append(v)\n        return len(a)\n"
PUT = "def f(v=None):\n    a.append(v)\n    return len(a)\n"

PROGRAMS = {
    "a model and its optimizer": [
        "from learn import Model, Optimizer\nmodel = Model()",
        "optimizer = Optimizer(model.parameters())",
        "optimizer.step()\nlast = model.weight.value",
        "optimizer.step()",
        "model.fit(7)",
        "optimizer.step()\nprint(model.weight.value)",
    ],
    "a model and its optimizer from one cell": [
        "from learn import Model, Optimizer\nmodel = Model()\noptimizer = Optimizer(model.parameters())",
        "for _ in range(3): optimizer.step()",
        "print(model.weight.value)\nparts = [model.layers, optimizer.weights]",
        "optimizer.step()",
    ],
    "an estimator in a pipeline": [
        "from learn import Model, Pipeline\nmodel = Model()",
        "pipe = Pipeline([('a', model)])",
        "pipe.fit(3)",
        "print(model.weight.value, pipe.steps[0][1] is model)",
        "model.fit(4)",
        "print(pipe.steps[0][1].weight.value)",
    ],
    "a class of the notebook that derives from one of a library": [
        "import learn\nclass Deep(learn.Model):\n    def grow(self):\n        self.more = learn.Weight(2)",
        "model = Deep()\nmodel.grow()",
        "optimizer = learn.Optimizer([model.more, model.weight])",
        "optimizer.step()",
        "model.more = learn.Weight(9)\noptimizer.step()",
        "print(model.more.value, model.weight.value)",
    ],
    "objects that hold what others hold": [
        "import argparse, types\nitems = [1]\none = types.SimpleNamespace(items=items)",
        "two = argparse.Namespace(items=one.items)",
        "two.items.append(2)\none.more = two",
        "two.last = 3\ndel one.items",
        "print(items, one.more.last)",
    ],
    "arrays in containers that share memory": [
        "a = np.arange(6.0)\nparts = np.array_split(a, 2)\nheld = {'v': a[1:]}",
        "parts[0] -= 5",
        "rows = [row for row in a.reshape(2, 3)]\npair = (rows[0][1:], rows[0][:2])",
        "rows[0][:] = 1\nrows.append(rows[1][1:])",
        "pair[0][0] = 8\nrows[-1][0] = 4",
        "print(a, parts, held, pair)",
    ],
    "two views of an array": [
        "a = np.arange(10.0)",
        "p = a[2:5]\nq = a[3:6]",
        "p[1] = 7",
        "print(a, q)",
    ],
    "classes of lists and dicts": [
        "class L(list):\n    pass\nl = L([1])\nl.k = 1",
        "q = [l]\nl.append(2)",
        "class D(dict):\n    pass\nd = D(a=l)",
        "d['b'] = 1\nl.append(3)\nd2 = list(d)",
        "d['a'].append(7)\nn = len(q[0])",
    ],
    "a class that names no module": [
        "class R:\n    __module__ = None\n    def __init__(self, a):\n        self.a = a\nr = R(1)",
        "r.a = 2\nq = [r]",
        "d = {r: 1}\nz = r.a + 1\nr.a = 5",
        "q[0].a += 1\nd2 = dict(d)",
    ],
    "dict with keys of many kinds": [
        "a = {('x', 1): [], np.int64(3): [], pd.Timestamp('2020'): [], frozenset({1}): []}",
        "a['x', 1].append(3)\na[np.int64(3)].append(4)\na[pd.Timestamp('2020')].append(5)\na[frozenset({1})].append(6)",
        "b = list(map(list, a.values()))",
    ],
    "dict with objects as keys": [
        "class C:\n    done = False",
        "a = {C(): [], C(): []}",
        "for b in a:\n    b.done = True\n    a[b].append(1)",
        "c = [(b.done, list(a[b])) for b in a]",
    ],
    "dict with order": ["a = collections.OrderedDict(x=1)", "a['y'] = 2\na.move_to_end('x')", "b = list(a)"],
    "generator that an object draws from": [
        "class C:\n    def __init__(self, v):\n        self.v = v\n    def put(self):\n        return self.v.random()",
        "a = np.random.default_rng(0)\nb = random.Random(3)",
        "c = C(a), C(b)",
        "d = a.random(), b.random()",
        "g = [each.put() for each in c]",
    ],
    "text buffer that an object has": ["import io\na = io.StringIO()\nb = [a]", "a.write('x')", "c = b[0].getvalue()"],
    "object of a module that holds a list": ["a = []", "b = kit.Kit(a)", "b.v.append(1)", "c = list(a), b.v is a"],
    "objects of a module that share a list": [
        "a = kit.Kit([1])\nb = kit.Kit(a.v)",
        "b.v.append(1)",
        "c = a.v is b.v, list(a.v)",
    ],
    "partial of a partial": [
        "def f(v=None, w=None):\n    return v, w\na = functools.partial(f, 1)",
        "b = functools.partial(a, 2)",
        "c = b.func is f, b.args",
    ],
    "closure": [f"def make():\n{COUNTS}    return inc\nf = make()", "a = f()", "b = f()"],
    "closure of two": [
        f"def make():\n{COUNTS}    return inc, lambda: n\nf, g = make()",
        "a = f()",
        "b = g()",
        "c = f()",
    ],
    "closure with a list": [
        "def make():\n    kept = []\n    def add(v):\n        kept.append(v)\n        return list(kept)\n"
        "    return add\nf = make()\ng = f",
        "a = f(1)",
        "b = g(2)",
    ],
    "decorator that remembers": [REMEMBERS, "@memo\ndef f(v):\n    return v\na = f(1)", "b = f(2)", "c = f(3)"],
    "decorators that count": [
        f"{REMEMBERS}\n{COUNTED}",
        "@memo\n@deco\ndef f(v):\n    return v\na = f(1)",
        "b = f(1)",
        "c = f(2)",
    ],
    "decorator with an attribute": [
        "def deco(fn):\n    def inner(*args):\n        inner.n += 1\n        return inner.n\n    inner.n = 0\n"
        "    return inner",
        "@deco\ndef f(v):\n    pass\na = f(1)",
        "b = f(1)",
        "c = f.n",
    ],
    "decorator with an attribute, twice": [
        "def deco(fn):\n    def inner(*args):\n        inner.n += 1\n        return inner.n, fn(*args)\n"
        "    inner.n = 0\n    return inner",
        "@deco\n@deco\ndef g(v):\n    return v\na = g(1)",
        "b = g(1)",
        "c = g.n",
    ],
    "two functions of one decorator": [
        COUNTED,
        "@deco\ndef f(v):\n    return v\n@deco\ndef g(v):\n    return -v",
        "a = f(1), g(1)",
        "b = f(2), g(2), g(3)",
    ],
    "class as decorator": [COUNTER, "@deco\ndef f(v):\n    return v\na = f(1)", "b = f(1)", "c = f(2)", "d = f.n"],
    "default of a method": [
        "class C:\n    def put(self, v, seen=[]):\n        seen.append(v)\n        return list(seen)\na = C().put(1)",
        "b = C().put(2)",
        "c = C().put(3)",
    ],
    "default of a static method": [
        "class C:\n    @staticmethod\n    def put(v, seen=[]):\n        seen.append(v)\n        return list(seen)\n"
        "a = C.put(1)",
        "b = C.put(2)",
        "c = C.put(3)",
    ],
    "method": [f"{LOGS}{METHOD}c = C()", "b = c.put(1)", "d = c.put(2)", "b = list(a)"],
    "bound method": [f"{LOGS}{METHOD}c = C().put", "b = c(1)", "d = c(2)", "b = list(a)"],
    "list of functions": [f"{LOGS}{PUT}c = [f]", "b = c[0](1)", "d = c[0](2)", "b = list(a)"],
    "dictionary of lambdas": [
        "a = 0\ndef f():\n    global a\n    a += 1\n    return a\nc = {'k': lambda: f()}",
        "b = c['k']()",
        "d = c['k']()",
        "b = a",
    ],
    "partial": [f"{LOGS}{PUT}c = functools.partial(f, 1)", "b = c()", "d = c()", "b = list(a)"],
    "partial of a method": [
        "class C:\n    def __init__(self):\n        self.log = []\n    def put(self, k, v):\n"
        "        self.log.append((k, v))\n        return len(self.log)\na = C()\nc = functools.partial(a.put, 1)",
        "b = c(1)",
        "d = c(2)",
        "b = list(a.log)",
    ],
    "cached property": [
        f"{LOGS}class C:\n    @functools.cached_property\n    def attr(self):\n        a.append(1)\n        return 3\n"
        "c = C()",
        "b = c.attr",
        "d = c.attr",
        "b = list(a)",
    ],
    "attribute of the class": [
        "class C:\n    n = 0\n    def put(self):\n        type(self).n += 1\n        return self.n\n"
        "class D(C):\n    pass\na = D()\nb = C()",
        "c = a.put()",
        "d = b.put()",
        "c = (C.n, D.n, a.n, b.n)",
    ],
    "attribute of the class's __class__": [
        "class C:\n    n = 0\n    def put(self):\n        self.__class__.n += 1\n        return self.n\na = C()",
        "c = a.put()",
        "d = a.put()",
        "c = C.n",
    ],
    "class method of a subclass": [
        "class C:\n    n = 0\n    @classmethod\n    def put(cls):\n        cls.n += 1\n        return cls.n\n"
        "class D(C):\n    pass",
        "a = D.put()",
        "b = C.put()",
        "c = (C.n, D.n)",
        "d = D.put()",
    ],
    "base class": [
        "class C:\n    n = 0\nclass D(C):\n    def __init__(self):\n        C.n += 1",
        "a = D()\nb = C.n",
        "c = C.n",
        "a = D()\nd = C.n",
    ],
    "inherited list": [
        "class C:\n    log = []\nclass D(C):\n    def put(self, v):\n        self.log.append(v)\n"
        "        return len(self.log)\na = D()",
        "b = a.put(1)",
        "c = a.put(2)",
        "d = list(C.log)",
    ],
    "frame of another cell": [
        "a = pd.DataFrame({'p': [1, 2]})\ndef f(v):\n    a['q'] = v",
        "f(3)",
        "b = list(a.columns)",
        "f(4)",
        "c = a['q'].tolist()",
    ],
    "array of another cell": [
        "a = np.zeros(3)\ndef f(v):\n    a[0] += v",
        "f(3)",
        "b = a.tolist()",
        "f(4)",
        "c = a.tolist()",
    ],
    "class that is handed over": [
        "class C:\n    n = 0\ndef f(m, v):\n    m.n = v",
        "f(C, 3)",
        "a = C.n",
        "f(C, 4)",
        "b = C.n",
    ],
    "method that is replaced": [
        "class C:\n    def put(self):\n        return 1\na = C()",
        "C.put = lambda self: 2",
        "b = a.put()",
        "C.put = lambda self: 3",
        "c = a.put()",
    ],
    "number of a module": ["a = kit.bump()", "b = kit.bump()", "c = kit.count"],
    "list of a module": [
        "a = kit.put(1)",
        "b = kit.put(2)",
        "c = list(kit.log)",
        "kit.log.extend([3])\nd = len(kit.log)",
    ],
    "alias of a list of a module": [
        "a = kit.log",
        "kit.put(1)\nb = list(a)",
        "kit.put(2)",
        "c = list(a), a is kit.log",
    ],
    "default of a function of a module": ["a = kit.memo(1)", "b = kit.memo(2)", "c = kit.memo(3)"],
    "class of a module": [
        "a = kit.Kit()",
        "b = a.put(1)",
        "c = kit.Kit().put(2)",
        "d = (kit.Kit.made, list(kit.Kit.items))",
    ],
    "function of a module": [
        "from kit import bump, put as f",
        "a = bump()",
        "b = f(2)",
        "c = (kit.count, list(kit.log))",
    ],
    "module through a module": [
        "import loud",
        "a = loud.through(1)",
        "b = loud.through(2)",
        "c = (kit.count, list(kit.Kit.items))",
    ],
    "setting of a module": ["kit.LIMIT = 7", "a = kit.limit()", "kit.LIMIT = 8", "b = kit.limit()", "c = kit.LIMIT"],
    "setting by a function": [
        "def f(v):\n    kit.LIMIT = v\n    kit.log.append(v)",
        "f(3)",
        "a = kit.limit()",
        "f(4)",
        "b = (kit.limit(), list(kit.log))",
    ],
    "modules under each other's names": [
        "import loud as d",
        "import kit as c\nimport loud as d",
        "a = c.__name__, d.__name__",
        "c, d = d, c",
        "b = c.__name__, d.__name__",
    ],
    "module in a list": [
        "a = [kit]",
        "b = a[0].bump()",
        "kit.LIMIT = 9",
        "c = a[0].limit(), a[0].bump()",
        "d = kit.count",
    ],
    "module in a class": ["class C:\n    m = kit\na = C()", "b = a.m.bump()", "c = a.m.bump()", "d = kit.count"],
    "generator that functions draw from": [
        "a = np.random.default_rng(1)\ndef f():\n    return float(a.random())",
        "b = f()",
        "c = f()",
        "d = float(a.random())",
    ],
    "captured generator": [
        "def make(rng):\n    return lambda: float(rng.random())\nf = make(np.random.default_rng(1))",
        "b = f()",
        "c = f()",
    ],
    "generator of a module": ["a = kit.draw()", "b = kit.draw()", "c = kit.draw(), kit.rng.random()"],
    "import in the cell": ["import kit\na = kit.bump()", "import kit as d\nb = d.bump()", "from kit import count as c"],
    "import in the cell that prints": ["import loud\na = loud.through()", "from loud import through\nb = through()"],
    "import in the cell, not first": ["a = 1\nimport kit\nb = kit.bump()", "c = 2\nfrom kit import count as d"],
    "functions of a name that are made before and after data": [
        "n = 5\ndef f(v=n):\n    return v\ndef f():\n    return 1",
        "a = f()",
    ],
    "function of data that is replaced": [
        "n = 5\ndef f(v=n):\n    return v\nf = functools.partial(f, 7)",
        "a = f()",
    ],
    "function of data that becomes data": [
        "n = 5\ndef f(v=n):\n    return v\ndef g(v=f):\n    return v()\nf = 7",
        "a = g(), f",
    ],
    "import that may fail": [
        "a = 0\ntry:\n    from kit import log as a\nexcept ImportError:\n    pass",
        "b = a is kit.log",
    ],
    "decorated to an object": [
        "@functools.partial\ndef a():\n    return 1\nb = a",
        "c = [a, b]",
        "d = a is b, c[0] is c[1]",
    ],
    "object of a class that is a decorator": [
        "class C:\n    def __call__(self, f):\n        self.f = f\n        return self\n@C()\n"
        "def a():\n    return 1\nb = [a]",
        "c = a is b[0], b[0].f()",
    ],
    "function of data that data holds": ["n = 5\ndef f(v=n):\n    return v\nb = [f]", "c = b[0] is f, b[0]()"],
    "class of data that data holds": ["n = 2\nclass C:\n    v = n\nb = [C, C()]", "c = b[0] is C, isinstance(b[1], C)"],
    "function of data that another gives": [
        "n = 4\ndef f(v=n):\n    return v\ndef g():\n    return f\nb = [g()]",
        "c = b[0] is f",
    ],
    "settings that take data": [
        "a = 'x'\nos.environ['NB_A'] = a\nos.environ['NB_B'] = a\nos.environ['NB_C'] = a\n"
        "b = os.environ['NB_B'] + os.sep",
        "c = os.environ['NB_A'] + os.environ['NB_C']",
    ],
    "function that another replaces by data": [
        "def b():\n    global d\n    d = 8\n    return d\ndef d(v=2):\n    return v\na = b()",
        "c = d",
    ],
    "import that a function replaces": [
        "from kit import log as b\ndef c():\n    global b\n    b = 8\n    return b\na = c()",
        "d = b",
    ],
    "names of a module and a function exchanged": [
        "b = lambda: 1",
        "d = [1]\nb.extra = d\nimport kit as c\nb, c = (c, b)",
        "d = b is kit, c.extra",
        "b = lambda: 1",
    ],
    "function inside of a partial": [
        "@functools.partial\ndef a():\n    return 1\nc = functools.partial(a, 1)",
        "d = c.func is a.func",
    ],
    "function inside of a wrapper": [
        "def deco(f):\n    @functools.wraps(f)\n    def g():\n        return f()\n    return g\n"
        "@deco\ndef a():\n    return 1\nc = [a.__wrapped__]",
        "d = c[0] is a.__wrapped__",
    ],
    "decorator that hands over data": [
        "b = [2]",
        "c = [b]\ndef deco(f):\n    f.tag = c\n    return f\n@deco\ndef b():\n    return 1",
        "d = b.tag is c",
        "b = [2]",
    ],
    "decorator that registers": [
        "d = {}\ndef deco(f):\n    d[f.__name__] = f\n    return f\n"
        "@deco\ndef a():\n    return 1\n@deco\ndef b():\n    return 2",
        "c = d['a'] is a, sorted(d), d['b']()",
    ],
    "list of a module that takes data": ["b = 5\nkit.log.append(b)", "c = list(kit.log)"],
    "list of a module that the cell imports": ["import kit as d\nb = 5\nd.log.append(b)", "c = list(kit.log)"],
    "attribute of a function that the cell imports": [
        "from kit import put as c, table as d\nc.extra = d",
        "a = c.extra is d, kit.put.extra is kit.table",
    ],
    "attribute of a class that the cell imports": ["from kit import Kit as C\nC.other = 5", "a = kit.Kit.other"],
    "one name for two imports": [
        "from kit import log as a\nb = a\nfrom kit import table as a",
        "c = a is kit.table, b is kit.log",
    ],
    "another name for what is imported": [
        "from kit import log as a\nb = a",
        "b.append(1)\nc = len(a)",
        "d = b is kit.log",
    ],
    "import of a name that was data": [
        "a = 0\nfrom kit import log as a, put as b",
        "b(1)\nc = len(a)",
        "a.append(2)\nd = list(a), b(3)",
        "c = len(a)",
    ],
    "import of a name that a default was made of": [
        "a = 5\ndef f(v=a):\n    return v\nfrom kit import log as a, put",
        "b = f(), len(a)",
        "put(1)\nc = f(), list(a)",
    ],
    "import of a name that was data, of which a default is made": [
        "a = 5\nfrom kit import log as a, put\ndef f(v=a):\n    return v",
        "put(1)\nb = len(f())",
        "c = f() is a, f() is kit.log",
    ],
    "data of a name that was imported": [
        "from kit import log as a\na = [1]",
        "a.append(2)",
        "b = list(a), list(kit.log)",
    ],
    "import, data, import": [
        "from kit import log as a\nb = a\na = [1]\nfrom kit import table as a",
        "a[1] = 2",
        "c = a is kit.table, b",
    ],
    "import in a function, of what counts": [
        "def f():\n    import kit\n    return kit.bump()",
        "a = f()",
        "b = f()",
        "c = kit.count",
    ],
    "decorated function of a module": ["a = kit.step()", "b = kit.step()", "c = [kit.step(), kit.step()]"],
    "descriptor": [
        "class D:\n    def __init__(self):\n        self.log = []\n    def __get__(self, instance, owner=None):\n"
        "        self.log.append('get')\n        return len(self.log)\nclass C:\n    attr = D()\na = C()",
        "b = a.attr",
        "c = a.attr",
        "d = list(vars(C)['attr'].log)",
    ],
    "enumeration": [
        "import enum\nclass C(enum.Enum):\n    A = 1\n    B = 2\n    def put(self):\n"
        "        C.n = getattr(C, 'n', 0) + 1\n        return C.n\na = C.A",
        "b = a.put()",
        "c = a is C.A, C.B.put()",
    ],
    "attributes that log": [
        f"{LOGS}class C:\n    def __getattr__(self, name):\n        if name[0] == '_':\n"
        "            raise AttributeError(name)\n        a.append(name)\n        return len(a)\nc = C()",
        "b = c.one",
        "d = c.two",
        "b = list(a)",
    ],
    "import in a function": [
        "def f():\n    from kit import LIMIT\n    return LIMIT",
        "kit.LIMIT = 7",
        "a = f()",
        "kit.LIMIT = 9",
        "b = f()",
    ],
    "module that is handed over": [
        "def f(m, v):\n    m.LIMIT = v",
        "f(kit, 3)",
        "a = kit.limit()",
        "f(kit, 4)",
        "b = kit.limit()",
    ],
}
"""Programs of which every cell is restored after a restart."""

RUN_EACH_TIME = {
    "setattr": ["setattr(kit, 'LIMIT', 3)", "a = kit.limit()", "setattr(kit, 'LIMIT', 4)", "b = kit.limit()"],
    "modules by name": ["import sys", "a = sys.modules['kit'].bump()", "b = kit.count"],
    "attribute that is deleted": [
        "def f():\n    kit.extra = 3\nf()",
        "def g():\n    del kit.extra\ng()",
        "a = hasattr(kit, 'extra')",
    ],
    "lru_cache": [
        f"{LOGS}@functools.lru_cache\ndef f(v):\n    a.append(v)\n    return v",
        "b = f(1)",
        "c = f(1)",
        "d = list(a)",
    ],
    "builtins": ["import builtins\na = 1", "b = builtins.globals()['a']", "a = 2", "c = builtins.eval('a + 1')"],
    "function with builtins": [
        "import builtins",
        "a = 1\ndef f():\n    return builtins.globals()['a']",
        "b = f()",
        "a = 2",
        "c = f()",
    ],
    "list of functions with globals": [
        "a = 1\ndef f():\n    return globals()['a']\nc = [f]",
        "b = c[0]()",
        "a = 2",
        "d = c[0]()",
    ],
    "another name for eval": ["from builtins import eval as f\na = 1\nd = 'a'", "b = f(d + '+1')", "a = 2", "c = f(d)"],
    "closure of a class": [
        "def make():\n    n = 0\n    class K:\n        def put(self):\n            nonlocal n\n            n += 1\n"
        "            return n\n    return K()\na = make()",
        "b = a.put()",
        "c = a.put()",
    ],
}
"""Programs with a cell that takes no part in caching."""


OLD_VALUES = {
    "old value where no branch bound a new one": [
        "a = 1\nb = [2]",
        "if a > 3:\n    b = 7\nd = [b]",
        "b.append(3)\nc = list(d)",
    ],
    "old value where no loop ran": [
        "a = 0\nb = [2]",
        "for d in range(a):\n    b = [d]\nc = b",
        "b.append(3)\nd = c is b, list(c)",
    ],
    "old value that is changed by another name": [
        "a = 1\nb = [2]",
        "if a > 3:\n    b = []\nc = b\nc.append(1)",
        "d = list(b), c is b",
    ],
    "old function that changes something": [
        "a = []\ndef f():\n    a.append(1)\n    return len(a)",
        "if len(a) > 99:\n    f = len\nb = f()",
        "c = list(a)",
    ],
}
"""Programs with a cell that reads what it did not come to bind; one old value is remembered."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with home_of_programs(tmp_path_factory.mktemp("reach")) as home:
        yield home


def run(home: Path, cells: list[str]) -> dict[str, str]:
    """Run a program in many orders; return how its cells end in the last one, from top to bottom after a restart."""
    whole = list(enumerate([HEADER, *cells]))
    again = whole[2:]
    schedule: Schedule = [*whole, *again, None, *whole, *reversed(again), *again, None, *whole]
    return check(home, schedule)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_hit_does_what_the_code_did(folders: Path, program: str) -> None:
    states = run(folders, PROGRAMS[program])
    assert set(states.values()) <= {"cached"}, states


@pytest.mark.parametrize("program", RUN_EACH_TIME)
def test_what_cannot_be_followed_runs(folders: Path, program: str) -> None:
    states = run(folders, RUN_EACH_TIME[program])
    assert "uncached" in states.values()


@pytest.mark.parametrize("program", OLD_VALUES)
def test_what_was_not_bound_is_the_old_value(folders: Path, program: str) -> None:
    states = run(folders, OLD_VALUES[program])
    assert set(states.values()) <= {"cached", "fresh"}, states
