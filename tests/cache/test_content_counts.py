"""What functions hold on to counts, however it is held: by methods written in C, decorators, classes, other tasks."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbflow.cache.fingerprint import fingerprint

SCALED = (
    "import functools\nclass scaled:\n    def __init__(self, func, k):\n        functools.update_wrapper(self, func)\n"
    "        self.func, self.k = func, k\n    def __call__(self, *a):\n        return self.k * self.func(*a)\n"
    "def g(x):\n    return x\n"
)
CHANGES = {
    "method of a text": ("m = '@@'.join\ndef f(s):\n    return m(s)", ",", ";"),
    "method of a pattern": ("import re\nm = re.compile('@@').findall\ndef f(s):\n    return m(s)", "a", "b"),
    "method of a dict": ("m = {'a': @@}.get\ndef f(s):\n    return m(s)", "1", "2"),
    "method of a captured set": (
        "def make(m):\n    def f(s):\n        return m(s)\n    return f\nf = make({@@}.__contains__)",
        "1",
        "2",
    ),
    "method of a generator": ("import random\nm = random.Random(@@).random\ndef f():\n    return m()", "1", "2"),
    "object that decorates": (f"{SCALED}f = scaled(g, @@)", "2", "3"),
    "object that decorates a helper": (
        f"{SCALED}h = functools.lru_cache(scaled(g, @@))\ndef f():\n    return h(1)",
        "2",
        "3",
    ),
    "dict with attributes": (
        "class D(dict):\n    pass\nd = D(a=@@)\ndef f():\n    d.last = d['a']\n    return d.last",
        "1",
        "2",
    ),
    "slots of a base": (
        "class B:\n    __slots__ = ('x',)\nclass D(B):\n    pass\nd = D()\nd.x = @@\n"
        "def f():\n    d.last = d.x\n    return d.last",
        "1",
        "2",
    ),
    "_fields of a plain class": ("class R:\n    _fields = ('x', @@)\ndef f():\n    return R._fields", "'y'", "'z'"),
    "__match_args__": ("class R:\n    __match_args__ = ('x', @@)\ndef f():\n    return R", "'y'", "'z'"),
    "__match_args__ of a dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass R:\n    x: int\n    y: int\n    __match_args__ = @@\n"
        "def f():\n    return R",
        "('y', 'x')",
        "('x',)",
    ),
    "_fields of a dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass R:\n    x: int\n    _fields = @@\ndef f():\n    return R",
        "('x',)",
        "('y',)",
    ),
    "__match_args__ of a named tuple": (
        "import typing\nclass R(typing.NamedTuple):\n    x: int\n    y: int\n"
        "R.__match_args__ = @@\ndef f():\n    return R",
        "('y', 'x')",
        "('x',)",
    ),
    "__subclasshook__": (
        "class R:\n    @classmethod\n    def __subclasshook__(cls, other):\n        return @@\ndef f():\n    return R",
        "True",
        "False",
    ),
    "__format__ of an enum": (
        "import enum\nclass E(enum.Enum):\n    A = 1\n    def __format__(self, spec):\n        return '@@'\n"
        "def f():\n    return f'{E.A}'",
        "1",
        "2",
    ),
    "kind of a field": (
        "import dataclasses\n@dataclasses.dataclass\nclass P:\n    a: @@ = 5\ndef f():\n    return P(7).a",
        "int",
        "dataclasses.InitVar[int]",
    ),
    "metadata of a field": (
        "import dataclasses\n@dataclasses.dataclass\nclass P:\n    a: int = dataclasses.field(metadata={'k': @@})\n"
        "def f():\n    return P(7)",
        "1",
        "2",
    ),
    "version of another task": (
        "from nbflow import task\n@task(cache=True, version=@@)\ndef g():\n    return 1\ndef f():\n    return g()",
        "1",
        "2",
    ),
    "what another task depends on": (
        "from nbflow import task\nR = @@\n@task(cache=True, depends=[R])\ndef g():\n    return 1\n"
        "def f():\n    return g()",
        "1",
        "2",
    ),
}
"""A program with a place, and two texts for it with which `f` does different things."""


def made(text: str, filename: str = "program.py") -> Callable[..., Any]:
    linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, filename, "exec", dont_inherit=True), names)
    found: Callable[..., Any] = names["f"]
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_it_counts(change: str, tmp_path: Path) -> None:
    """Another content is another digest; the same content, made again, is the same one."""
    text, one, other = CHANGES[change]
    digests = [
        fingerprint(made(text.replace("@@", each), str(tmp_path / f"{number}.py"))).digest
        for number, each in enumerate((one, other, one))
    ]
    assert digests[0] == digests[2]
    assert digests[0] != digests[1]


def test_methods_of_what_all_draw_from_count_by_name(tmp_path: Path) -> None:
    """The state of the shared generator is no input of whoever has a short name for its method."""
    import random

    made_twice = []
    for number in range(2):
        random.random()
        made_twice.append(fingerprint(made("from random import random\ndef f():\n    return random()", f"{number}.py")))
    assert made_twice[0].digest == made_twice[1].digest


@pytest.mark.parametrize("name", ["dataclasses.py", "typing.py"])
def test_methods_count_whatever_the_file_is_called(name: str, tmp_path: Path) -> None:
    """Only the library's own files hold what is generated."""
    text = (
        "import dataclasses as d\n@d.dataclass\nclass P:\n    a: int = 5\n    def m(self):\n        return @@\n"
        "def f():\n    return P().m()"
    )
    digests = {fingerprint(made(text.replace("@@", each), str(tmp_path / name))).digest for each in "12"}
    assert len(digests) == 2
