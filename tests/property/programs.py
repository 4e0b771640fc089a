"""Programs that write themselves, with every way in which one piece of code can refer to another.

A `Program` is a handful of definitions whose references are known, so that for each literal in it we know whether the
root function `f` reaches it. It can be written down in many ways that mean the same (order, cells, comments, format)
and edited in ways that do not. Run as a script, this file prints the keys of many programs: what another process, or
another version of Python, makes of the same code can then be compared.
"""

from __future__ import annotations

import ast
import itertools
import json
import linecache
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Program", "keys", "run"]

_PRELUDE = """\
import dataclasses, enum, functools
def times(number):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(x):
            return function(x) * number
        return wrapper
    return decorate
def adder(number):
    def add(x):
        return x + number
    return add
"""

# Each form: text with `@0 @1 …` for literals and `$0 $1 …` for calls of earlier items; how the item itself is called.
_FORMS: dict[str, tuple[str, str]] = {
    "constant": ("NAME = @0", "(NAME + ARG)"),
    "table": ("NAME = {'one': @0, 'two': [@1, (@2, 'text')]}", "(NAME['one'] + NAME['two'][0] * ARG)"),
    "function": ("def NAME(x):\n    return x * @0 + $0", "NAME(ARG)"),
    "branches": ("def NAME(x):\n    if x > @0:\n        return x - @1\n    return $0", "NAME(ARG)"),
    "default": ("def NAME(x, y=@0, *, z=@1):\n    return x + y * z", "NAME(ARG)"),
    "lambda": ("NAME = lambda x: x + @0", "NAME(ARG)"),
    "lambdas": ("NAME, NAME_other = (lambda x: x + @0), (lambda x: [x, 2])", "NAME(ARG)"),
    "inner": ("def NAME(x):\n    def inner(y):\n        return y + @0\n    return inner(x) + $0", "NAME(ARG)"),
    "closure": ("NAME = adder(@0)", "NAME(ARG)"),
    "partial": ("NAME = functools.partial(lambda x, y: x * @0 + y, @1)", "NAME(ARG)"),
    "decorated": ("@times(@0)\ndef NAME(x):\n    return x + @1", "NAME(ARG)"),
    "recursive": (
        "def NAME(x):\n    return x if x > @0 else NAME_back(x + @1)\ndef NAME_back(x):\n    return NAME(x + 1)",
        "NAME(ARG)",
    ),
    "registry": (
        "class NAME:\n    known = {}\n    @classmethod\n    def put(cls, one):\n        cls.known['one'] = one\n"
        "        return one\n@NAME.put\ndef NAME_one(x):\n    return x + @0 + $0",
        "NAME.known['one'](ARG)",
    ),
    "told": (
        "class NAME(enum.Enum):\n    def __init__(self, value):\n        self.more = value + 1\n"
        "    def __new__(cls, value):\n        one = object.__new__(cls)\n        one._value_ = 0\n        return one\n"
        "    ONE = @0",
        "(NAME.ONE.more + ARG)",
    ),
    "class": (
        "class NAME:\n    factor = @0\n    def method(self, x):\n        return x * self.factor + $0",
        "NAME().method(ARG)",
    ),
    "heir": (
        "class NAME_base:\n    def scale(self):\n        return @0\nclass NAME(NAME_base):\n    @property\n"
        "    def twice(self):\n        return self.scale() * @1",
        "(NAME().twice + ARG)",
    ),
    "static": ("class NAME:\n    @staticmethod\n    def go(x):\n        return x + @0", "NAME.go(ARG)"),
    "dataclass": (
        "@dataclasses.dataclass\nclass NAME:\n    x: int\n    y: int = @0\n    def sum(self):\n"
        "        return self.x + self.y",
        "NAME(ARG).sum()",
    ),
    "enum": ("class NAME(enum.Enum):\n    ONE = @0\n    TWO = @1", "(NAME.TWO.value + ARG)"),
    "object": (
        "class NAME_kind:\n    def __init__(self, n):\n        self.n = n\n    def __call__(self, x):\n"
        "        return x + self.n * @0\nNAME = NAME_kind(@1)",
        "NAME(ARG)",
    ),
    "functions": ("NAME = [lambda x: x + @0, {'second': lambda x: x * @1}]", "(NAME[0](ARG) + NAME[1]['second'](ARG))"),
    "method": (
        "class NAME_kind:\n    def __init__(self, n):\n        self.n = n\n    def go(self, x):\n"
        "        return x * self.n\nNAME = NAME_kind(@0).go",
        "NAME(ARG)",
    ),
    "generator": ("def NAME(x):\n    yield x\n    yield @0\n    yield $0", "sum(NAME(ARG))"),
    "comprehension": ("def NAME(x):\n    return sum([y * @0 for y in range(3) if y > $0 - x])", "NAME(ARG)"),
    "match": (
        "def NAME(x):\n    match x:\n        case 3:\n            return @0\n        case _:\n            return $0",
        "NAME(ARG)",
    ),
    "fstring": ("def NAME(x):\n    return len(f'{x}@0 {x:>5}') + $0", "NAME(ARG)"),
    "walrus": ("def NAME(x):\n    return (y := x + @0) + y", "NAME(ARG)"),
    "try": (
        "def NAME(x):\n    try:\n        return x / (x - @0)\n    except ZeroDivisionError:\n        return $0",
        "NAME(ARG)",
    ),
}
_numbers = itertools.count(1)


@dataclass
class Item:
    """One definition: its form, its literals, and the items that it calls."""

    name: str
    form: str
    literals: list[int]
    calls: list[Item] = field(default_factory=list)

    def text(self) -> str:
        """Return its source."""
        out = _FORMS[self.form][0].replace("NAME", self.name)
        for place, number in enumerate(self.literals):
            out = out.replace(f"@{place}", str(number))
        for place, other in enumerate(self.calls):
            out = out.replace(f"${place}", other.call("x"))
        return out.replace("$0", "x")

    def call(self, argument: str) -> str:
        """Return an expression that uses it."""
        return _FORMS[self.form][1].replace("NAME", self.name).replace("ARG", argument)

    def reached(self) -> Iterator[Item]:
        """Yield it and all that it reaches."""
        yield self
        for other in self.calls:
            yield from other.reached()


class Program:
    """A random program with a root function `f`, and definitions that nobody reaches.

    Args:
        seed: Decides everything.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.items: list[Item] = []
        for number in range(self.random.randint(3, 7)):
            form = self.random.choice(list(_FORMS))
            text = _FORMS[form][0]
            literals = [self.random.randint(2, 99) for place in range(3) if f"@{place}" in text]
            item = Item(f"n{number}", form, literals)
            if "$0" in text and self.items and self.random.random() < 0.7:
                item.calls.append(self.random.choice(self.items))
            self.items.append(item)
        self.roots = self.random.sample(self.items, self.random.randint(1, min(3, len(self.items))))

    @property
    def reached(self) -> list[Item]:
        """The items that `f` reaches."""
        found = {item.name: item for root in self.roots for item in root.reached()}
        return list(found.values())

    @property
    def unreached(self) -> list[Item]:
        """The items that it does not."""
        names = {item.name for item in self.reached}
        return [item for item in self.items if item.name not in names]

    def root(self) -> str:
        """Return the source of `f`."""
        return "def f(x):\n    return [" + ", ".join(item.call("x") for item in self.roots) + "]"

    def cells(self) -> list[str]:
        """Return the program as it was written, one definition a cell."""
        return [_PRELUDE, *(item.text() for item in self.items), self.root()]

    def in_other_words(self) -> list[str]:
        """Return cells that mean the same."""
        cells = [
            _PRELUDE,
            *self.random.sample([*(item.text() for item in self.items), self.root()], len(self.items) + 1),
        ]
        for place, text in enumerate(cells):
            cells[place] = self.random.choice((_commented, _documented, _reformatted, _annotated, str))(text)
        if self.random.random() < 0.5:
            seam = self.random.randint(1, len(cells))
            cells = ["\n\n\n".join(cells[:seam]), "\n# between\n".join(cells[seam:])]
        return cells

    def edited(self, item: Item) -> list[str]:
        """Return the program with one literal or operator of an item changed."""
        text = item.text()
        operators = any(isinstance(node, (ast.BinOp, ast.Compare)) for node in ast.walk(ast.parse(text)))
        if not operators or self.random.random() < 0.6:
            changed = Item(item.name, item.form, list(item.literals), item.calls)
            changed.literals[self.random.randrange(len(item.literals))] += self.random.randint(1, 9) * 100
            text = changed.text()
        else:
            text = self._other_operator(text)
        return [_PRELUDE, *(text if other is item else other.text() for other in self.items), self.root()]

    def _other_operator(self, text: str) -> str:
        tree = ast.parse(text)
        node = self.random.choice([node for node in ast.walk(tree) if isinstance(node, (ast.BinOp, ast.Compare))])
        if isinstance(node, ast.BinOp):
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        else:
            node.ops[0] = ast.NotEq()
        return ast.unparse(ast.fix_missing_locations(tree))


def _commented(text: str) -> str:
    return "# first\n" + text.replace("\n", "  # why not\n", 1) + "\n# last"


def _documented(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is None:
            node.body.insert(0, ast.Expr(ast.Constant("What it does.")))
    return ast.unparse(ast.fix_missing_locations(tree))


def _annotated(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = ast.Constant("anything")
            for argument in node.args.args:
                argument.annotation = ast.Name("int", ast.Load())
    return ast.unparse(ast.fix_missing_locations(tree))


def _reformatted(text: str) -> str:
    return "\n\n" + ast.unparse(ast.parse(text)).replace("    ", "\t")


def run(cells: list[str]) -> dict[str, Any]:
    """Run cells as a new kernel would, and return its namespace."""
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    for text in cells:
        file = f"/tmp/ipykernel_{next(_numbers)}/cell.py"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        exec(compile(text, file, "exec", dont_inherit=True), names)
    return names


def keys(seeds: range) -> list[str]:
    """Return the key of `f(5)` for each program."""
    from nbflow.cache import content_key  # only a script needs it

    return [content_key(run(Program(seed).cells())["f"], {"x": 5}) for seed in seeds]


if __name__ == "__main__":
    print(json.dumps(keys(range(int(sys.argv[1]), int(sys.argv[2])))))
