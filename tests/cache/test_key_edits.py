"""Ways in which code can hide what it depends on: each edit of what is reached must be another key."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from nbflow.cache import FunctionKeyer

# A cell with a function `f`, and what may stand in the place of `□`: no two of these are the same code.
EDITS: list[tuple[str, ...]] = [
    ("def g(x): return 1\ng.n=□\ndef f(x): return g.n", "2", "3"),
    (
        "import functools\n@functools.singledispatch\ndef g(x): return 1\n@g.register\n"
        "def _(x: int): return □\ndef f(x): return g(x)",
        "2",
        "3",
    ),
    ("class A:\n    x: int = 1\n    class B:\n        y=□\ndef f(x): return A.B.y", "2", "3"),
    ("class M(type):\n    def __call__(c,*a): return □\nclass A(metaclass=M): pass\ndef f(x): return A()", "1", "2"),
    ("N=□\ndef g():\n    global N\n    return N\ndef f(x): return g()", "1", "2"),
    ("def f(x):\n    def h():\n        return [K for _ in range(2)]\n    return h()\nK=□", "1", "2"),
    ("K=□\ndef f(x):\n    class L:\n        a=K\n    return L.a", "1", "2"),
    ("K=□\ndef f(x, y=lambda: K): return y()", "1", "2"),
    ("import functools\n@functools.lru_cache\ndef g(x): return □\ndef f(x): return g(x)", "1", "2"),
    (
        "import functools\nclass A:\n    @functools.cached_property\n    def p(self): return □\ndef f(x): return A().p",
        "1",
        "2",
    ),
    ("class A:\n    @classmethod\n    def p(cls): return □\ndef f(x): return A.p()", "1", "2"),
    ("class A:\n    def __init_subclass__(cls): cls.z=□\nclass B(A): pass\ndef f(x): return B.z", "1", "2"),
    ("from types import SimpleNamespace\nc=SimpleNamespace(a=□)\ndef f(x): return c.a", "1", "2"),
    ("class D:\n    def __get__(s,i,o): return □\nclass A:\n    v=D()\ndef f(x): return A().v", "1", "2"),
    ("def deco(c):\n    c.q=□\n    return c\n@deco\nclass A: pass\ndef f(x): return A.q", "1", "2"),
    (
        "import contextlib\n@contextlib.contextmanager\ndef g(): yield □\ndef f(x):\n    with g() as v: return v",
        "1",
        "2",
    ),
    ("import operator\ng=operator.itemgetter(□)\ndef f(x): return g([1,2])", "0", "1"),
    ("import math\ng=□\ndef f(x): return g(x)", "math.sin", "math.cos"),
    ("g=□\ndef f(x): return g('a')", "str.upper", "str.lower"),
    ("import numpy as np\ng=np.vectorize(lambda x: x+□)\ndef f(x): return g(x)", "1", "2"),
    (
        "from dataclasses import dataclass, field\n@dataclass\nclass A:\n"
        "    a: list = field(default_factory=lambda: [□])\ndef f(x): return A().a",
        "1",
        "2",
    ),
    (
        "from dataclasses import dataclass\n@□: int\ndef f(x): return A(1,2).a",
        "dataclass\nclass A:\n    a: int\n    b",
        "dataclass\nclass A:\n    b: int\n    a",
        "dataclass(order=True)\nclass A:\n    a: int\n    b",
    ),
    (
        "from typing import NamedTuple\nclass A(NamedTuple):\n    a: int = 1\n    b: int = □\ndef f(x): return A().b",
        "2",
        "3",
    ),
    (
        "import abc\nclass A(abc.ABC):\n    @abc.abstractmethod\n    def m(s): ...\nclass B(A):\n"
        "    def m(s): return □\ndef f(x): return B().m()",
        "1",
        "2",
    ),
    ("class A:\n    __slots__=('a',)\n    def __init__(s): s.a=□\ndef f(x): return A().a", "1", "2"),
    ("def f(x):\n    if x: return □.0\n    return 1", "-0", "0"),
    (
        "□",
        "def f(x): return 1",
        "def f(x): return 1.0",
        "def f(x): return True",
        "async def f(x): return 1",
        "def f(x): yield 1",
        "def f(x, *, y=1): return 1",
        "def f(x, /): return 1",
    ),
    ("def f(x): return □'a'", "b", ""),
    ("def f(x):\n    return f'{□'", "x}", "x!r}", "x:>3}", "x} "),
    ("def f(x):\n    for i in range(3):\n        x+=i\n    □ x", "return", "    return"),
    ("def f(x):\n    □=x\n    return b", "a,*b", "*a,b"),
    ("def f(x): return x[1:□]", "2", "2:1", ""),
    ("def f(x): return □", "[*x]", "[x]", "(*x,)", "{*x}"),
    ("def f(x): return g(*□)\ndef g(**k): return k", "*x", "x"),
    ("def f(x): return x □ None", "is", "is not", "=="),
    ("def f(x): return □", "not x", "~x", "-x"),
    ("def f(x):\n    try: return 1\n    □: return 2", "except ValueError", "except TypeError", "finally"),
    (
        "def f(x):\n    □",
        "import json\n    return json",
        "import json as j\n    return j",
        "from json import loads\n    return loads",
    ),
    ("from functools import partial\ndef g(a,b): return □\nh=partial(partial(g,1),2)\ndef f(x): return h()", "a", "b"),
    (
        "from functools import partialmethod\nclass A:\n    def g(s,a): return a\n"
        "    h=partialmethod(g,□)\ndef f(x): return A().h()",
        "1",
        "2",
    ),
    ("import re\np=re.compile('□')\ndef f(x): return p", "a", "b"),
    ("class A: pass\na=A(); a.fn=lambda: □\ndef f(x): return a.fn()", "1", "2"),
    ("import collections\nd=collections.defaultdict(lambda: □)\ndef f(x): return d[x]", "1", "2"),
    (
        "def outer():\n    v=□\n    def mid():\n        def inner(): return v\n        return inner\n"
        "    return mid\ng=outer()\ndef f(x): return g()()",
        "1",
        "2",
    ),
    (
        "class A:\n    def m(self): return super().m()\nclass B:\n    def m(self): return □): pass\n"
        "def f(x): return C().m()",
        "1\nclass C(A,B",
        "2\nclass C(A,B",
        "1\nclass C(B,A",
    ),
    ("import enum\nclass E(enum.Enum):\n    A=1\n    def t(self): return □\ndef f(x): return E.A.t()", "1", "2"),
    ("import enum\nclass E(enum.Enum):\n    A=□\ne=E.A\ndef f(x): return e.value", "1", "2"),
    (
        "class A:\n    def __hash__(s): return 1\n    def __eq__(s,o): return □\nS={A()}\ndef f(x): return len(S)",
        "True",
        "False",
    ),
    ("T=[□]\nU=T\ndef f(x):\n    T.append(1)\n    return U[0]", "1", "2"),
    ("class A:\n    n=[□]\n    def go(self): return self.n[0]\na=A()\ndef f(x): return a.go()", "1", "2"),
    ("import types\nm=types.ModuleType('mm'); m.v=□\ndef f(x): return m.v", "1", "2"),
    ("def g(): return □\ntable={'a':g}\ndef f(x): return table['a']()", "1", "2"),
    (
        "class P:\n    @property\n    def v(s): return 1\n    @v.setter\n    def v(s,x): s.q=□\ndef f(x): return P().v",
        "1",
        "2",
    ),
    ("async def g(): return □\nasync def f(x): return await g()", "1", "2"),
    (
        "def f(x):\n    v=x\n    def h():\n        nonlocal v\n        v+=K\n        return v\n    return h()\nK=□",
        "1",
        "2",
    ),
    ("class Cfg:\n    a=1\nCfg.a=□\ndef f(x): return Cfg.a", "1", "2"),
    ("class Cfg: pass\ncfg=Cfg(); cfg.a=□\ndef f(x): return getattr(cfg,'a')", "1", "2"),
    (
        "class C:\n    def __init__(s): s.n=0\n    def up(s): s.n+=1; return s.k\n    k=□\nc=C()\n"
        "def f(x): return c.up()",
        "1",
        "2",
    ),
    (
        "import functools\nclass A:\n    @functools.singledispatchmethod\n    def g(s,x): return 1\n"
        "    @g.register\n    def _(s,x:int): return □\ndef f(x): return A().g(x)",
        "2",
        "3",
    ),
    ("def h(): return □\ndef g(x): return 1\ng.h=h\ndef f(x): return g.h()", "1", "2"),
    ("def f(x): return f.k\nf.k=□", "1", "2"),
    (
        "class R:\n    h={}\n    @classmethod\n    def reg(cls,g):\n        cls.h[g.__name__]=g\n        return g\n"
        "@R.reg\ndef a(): return □\ndef f(x): return R.h['a']()",
        "1",
        "2",
    ),
    (
        "class R:\n    h=[]\n    @classmethod\n    def reg(cls,g): cls.h.append(g)\n    @classmethod\n"
        "    def run(cls,x): return [g(x) for g in cls.h]\nR.reg(lambda x: x+□)\ndef f(x): return R.run(x)",
        "1",
        "2",
    ),
    (
        "class R:\n    h={}\n    def put(self,v): self.h['a']=v\n    def fill(self,v): self.put(v)\nR().fill(□)\n"
        "def f(x): return R().h['a']",
        "1",
        "2",
    ),
    (
        "class R:\n    h={}\n    def __init_subclass__(cls): R.h[cls.__name__]=cls\n"
        "class A(R):\n    def go(self): return □\ndef f(x): return [c().go() for c in R.h.values()]",
        "1",
        "2",
    ),
    (
        "H={}\ndef put(cls): H[cls.__name__]=cls\nclass R:\n    def __init_subclass__(cls): put(cls)\n"
        "class A(R):\n    v=□\ndef f(x): return H['A'].v",
        "1",
        "2",
    ),
    (
        "class M(type):\n    h={}\n    def __init__(cls,*a): M.h[cls.__name__]=cls\n"
        "class A(metaclass=M):\n    v=□\ndef f(x): return M.h['A'].v",
        "1",
        "2",
    ),
    (
        "class D:\n    h={}\n    def __set_name__(self,o,n): self.h[n]=o\n"
        "class A:\n    v=D()\n    k=□\ndef f(x): return D.h['v'].k",
        "1",
        "2",
    ),
    (
        "from dataclasses import dataclass, fields\n@dataclass\nclass A:\n    a: □\ndef f(x): return fields(A)[0].type",
        "int",
        "float",
        "'int'",
        "int | None",
        "list[int]",
        "list[float]",
    ),
    ("from typing import NamedTuple\nclass A(NamedTuple):\n    a: □\ndef f(x): return A(x)", "int", "float"),
    ("import attrs\n@attrs.define\nclass A:\n    a: □\ndef f(x): return attrs.fields(A).a.type", "int", "float"),
    ("import attrs\n@attrs.□\nclass A:\n    a: int = 1\ndef f(x): A().a = x", "define", "frozen"),
    (
        "import attrs\n@attrs.define\nclass A:\n    a: int = attrs.field(default=1, on_setattr=attrs.setters.□)\n"
        "def f(x): A().a = x",
        "convert",
        "frozen",
        "NO_OP",
    ),
    (
        "from pydantic import BaseModel, field_validator\nclass A(BaseModel):\n    a: int\n    b: int = 4\n"
        "    @field_validator(□)\n    @classmethod\n    def v(cls, x): return 1\ndef f(x): return A(a=x)",
        "'a'",
        "'b'",
        "'a', mode='before'",
    ),
    (
        "from pydantic import BaseModel, PrivateAttr\nclass A(BaseModel):\n    _p: int = PrivateAttr(□)\n"
        "def f(x): return A()._p",
        "1",
        "2",
        "default_factory=int",
    ),
    (
        "import enum\nclass A(enum.Enum):\n    def __new__(cls, value, m):\n        one = object.__new__(cls)\n"
        "        one._value_, one.m = value, m\n        return one\n    E = (1, □)\ndef f(x): return A.E.m",
        "5",
        "7",
    ),
    ("class A:\n    a: □\ndef f(x): return A.__annotations__['a'](x)", "int", "float"),
    ("from typing import get_type_hints as h\nclass A:\n    a: □\ndef f(x): return h(A)", "int", "float"),
    (
        "def cast(g):\n    def w(x): return g(g.__annotations__['x'](x))\n    return w\n"
        "@cast\ndef g(x: □): return x\ndef f(x): return g(x)",
        "int",
        "float",
    ),
    ("def g(): '□'\ndef f(x): return g.__doc__", "one", "two"),
    ("import inspect\nclass A: '□'\ndef f(x): return inspect.getdoc(A)", "one", "two"),
    (
        "import pandas as pd\nQ='p > @n'\nn=□\nrows=pd.DataFrame({'p': [1, 5, 9]})\n"
        "def f(x): return len(rows.query(Q))",
        "2",
        "6",
    ),
    ("Q='n + 1'\nn=□\ndef f(x): return eval(Q)", "2", "6"),
    ("n=□\ndef f(x, q='n + 1'): return eval(q)", "2", "6"),
    ("n=□\ndef f(x): return globals()['n']", "2", "6"),
    ("n=□\ndef f(x): return '{n}'.format_map(globals())", "2", "6"),
    ("def g(): return □\ndef f(x): return globals()['g']()", "2", "6"),
    ("import sys\nn=□\ndef f(x): return sys.modules[__name__].n", "2", "6"),
    ("n=□\ndef f(x):\n    import __main__\n    return __main__.n", "2", "6"),
    (
        "class B: pass\nclass C(B):\n    v=□\ndef f(x): return [c.v for c in B.__subclasses__()]",
        "1",
        "2",
    ),
    (
        "import pandas as pd\nclass Z:\n    def __init__(self, frame): self.frame = frame\n"
        "    def total(self): return self.frame.x.sum() * □\n"
        "if 'zedits' in vars(pd.DataFrame): del pd.DataFrame.zedits\n"
        "pd.api.extensions.register_dataframe_accessor('zedits')(Z)\ndef f(x): return x.zedits.total()",
        "1",
        "2",
    ),
    ("from string import Template as A\nA.edits=lambda self: □\ndef f(x): return A('').edits()", "1", "2"),
    ("from string import Template as A\nA.edits=lambda self: □\na=A('')\ndef f(x): return a.edits()", "1", "2"),
    ("from string import Template as A\nA.edits=property(lambda s: □)\na=A('')\ndef f(x): return a.edits", "1", "2"),
    ("import contextvars\nv=contextvars.ContextVar('v', default=□)\ndef f(x): return v.get()", "1", "2"),
    ("import contextvars\nv=contextvars.ContextVar('v')\nv.set(□)\ndef f(x): return v.get()", "1", "2"),
]


@pytest.mark.parametrize("edits", EDITS, ids=range(len(EDITS)))
def test_no_edit_of_reached_code_is_missed(notebook: Any, edits: tuple[str, ...]) -> None:
    """Each variant has a key of its own, on disk, which stays the same when only the layout changes."""
    template, *variants = edits
    found: dict[str, str] = {}
    for variant in variants:
        text = template.replace("□", variant)
        key = FunctionKeyer(notebook.run(text)["f"], name="f").key({"x": 5})
        assert (key.scope, key.notes) == ("disk", ())
        assert key.digest not in found, (text, found.get(key.digest))
        found[key.digest] = text
        again = notebook.run("# moved\n\n" + text.replace("\n", "\n\n")).key(x=5)
        assert again == key.digest, text


@pytest.mark.parametrize(
    "text", ["class A:\n    a: □\n    b = 1\ndef f(x): return A.b", "def g(x: □): '□'\ndef f(x): return g(x)"]
)
def test_annotations_and_docstrings_count_only_where_they_are_read(notebook: Any, text: str) -> None:
    """What code says about itself is nothing to code that does not ask for it."""
    keys = {notebook.run(text.replace("□", kind)).key(x=1) for kind in ("int", "float", "list[int]")}
    assert len(keys) == 1


def test_what_a_model_finds_out_of_itself_is_no_change(notebook: Any) -> None:
    """Using a model for the first time fills what it keeps for itself."""
    notebook.run(
        "from pydantic import BaseModel, PrivateAttr\nclass A(BaseModel):\n    _p: int = PrivateAttr(1)\n"
        "def f(x): return A()._p"
    )
    before = notebook.key(x=1)
    notebook["f"](1)
    assert notebook.key(x=1) == before


def test_what_hides_its_function_is_for_this_session(notebook: Any) -> None:
    """A ufunc made of Python code cannot be looked into, so nothing that uses it is found again later."""
    notebook.run("import numpy as np\ng = np.frompyfunc(lambda x: x + 1, 1, 1)\ndef f(x): return g(x)")
    key = FunctionKeyer(notebook["f"], name="f").key({"x": 5})
    assert key.scope == "session"
    assert "hides the function" in key.notes[0]


def test_attributes_of_functions_are_watched(notebook: Any) -> None:
    """What is attached to a function is input where it is read, and state where the function itself changes it."""
    notebook.run("def g(): pass\ng.n = 1\ndef f(x):\n    f.calls += 1\n    return g.n\nf.calls = 0")
    keep = FunctionKeyer(notebook["f"], name="f")
    before = keep.key({"x": 1}, (1,)).digest
    notebook["f"](1)
    assert keep.quick((1,), {}) == before
    notebook["g"].n = 2
    assert keep.quick((1,), {}) is None
    assert keep.key({"x": 1}, (1,)).digest != before


def test_there_are_many_edits() -> None:
    """The list is long, and no case is in it twice."""
    assert len(set(EDITS)) == len(EDITS) > 55
    assert all(len(set(variants)) == len(variants) > 1 for _, *variants in itertools.chain(EDITS))
