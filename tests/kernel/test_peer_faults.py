"""Wrong answers that other caches give, as cells in a real kernel, before and after restarts.

Each case defines a task, calls it, edits something, and calls it again: where the edit matters the task must run and
give the new value, where it does not the value must come from the cache. Then the kernel is restarted, everything is
defined anew, and every earlier result must be found again: what was true of a key must be true of the next kernel's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

RUN, HIT = False, True


@dataclass(frozen=True)
class Case:
    """A definition, an expression that calls a task once, its value, and edits with what they must lead to."""

    name: str
    define: str
    ask: str
    value: Any
    edits: tuple[tuple[str, bool, Any], ...] = ()
    again: bool = HIT


def _task(name: str, body: str, parameters: str = "x") -> str:
    return f"@task(cache=True)\ndef {name}({parameters}):\n    {body}"


def _argument(name: str, value: str, *others: str, same: tuple[str, ...] = (), setup: str = "") -> Case:
    """A task that tells its argument, called with values that must all be told apart, and with some that must not."""
    define = f"{setup}\n" + _task(name, f"return '{name}', tell(v)", "v") + f"\n{name}_v = {value}"
    edits = [(f"{name}_v = {each}", HIT, None) for each in same]
    edits += [(f"{name}_v = {each}", RUN, None) for each in others]
    return Case(name, define, f"{name}({name}_v)", None, tuple(edits))


CODE = [
    Case(
        "body",
        _task("body", "return x + 1"),
        "body(1)",
        2,
        (
            (_task("body", "return x + 1  # a comment"), HIT, 2),
            ("other = 5\n" + _task("body", "'What it does.'\n    return (x+1)") + "\nanother = 6", HIT, 2),
            (_task("body", "return x + 2"), RUN, 3),
            (_task("body", "return x + 1"), HIT, 2),
        ),
    ),
    Case(
        "helper",
        "def h1(x): return h2(x) * 2\ndef h2(x): return x + 1\n" + _task("helper", "return h1(x)"),
        "helper(1)",
        4,
        (("def h2(x): return x + 2", RUN, 6), ("def unrelated(): pass\ndef h2(x): return x + 1", HIT, 4)),
    ),
    Case(
        "constant",
        "LIMIT = 3\n" + _task("constant", "return x + LIMIT"),
        "constant(1)",
        4,
        (("LIMIT = 5", RUN, 6), ("LIMIT = 3.0", RUN, 4.0), ("LIMIT = 3", HIT, 4), ("ELSEWHERE = 4", HIT, 4)),
    ),
    Case(
        "edited in place",
        "table = {'one': 1, 'list': [1, 2]}\n" + _task("in_place", "return table['one'] + sum(table['list'])"),
        "in_place(0)",
        4,
        (("table['list'].append(3)", RUN, 7), ("table = {'list': [1, 2], 'one': 1}", HIT, 4)),
    ),
    Case(
        "closures",
        "def make(n):\n    @task(cache=True)\n    def closure(x): return x + n\n    return closure\n"
        "add = [make(1), make(100)]",
        "add[0](1)",
        2,
        (("add.reverse()", RUN, 101), ("add.reverse()", HIT, 2), ("add = [make(100), make(1)]", HIT, 101)),
    ),
    Case(
        "lambdas on one line",
        "def apply(function): return function(3)\none, two = (lambda x: x + 1), (lambda x: x * 2)\n"
        + _task("lambdas", "return one(x) + two(x)"),
        "lambdas(3)",
        10,
        (("one, two = (lambda x: x * 2), (lambda x: x * 2)", RUN, 12),),
    ),
    Case(
        "exec",
        "names = {'task': task}\nexec('@task(cache=True)\\ndef executed(x): return x + 1', names)",
        "names['executed'](1)",
        2,
        (("exec('@task(cache=True)\\ndef executed(x): return x + 5', names)", RUN, 6),),
    ),
    Case(
        "default",
        "STEP = [5]\n" + _task("default", "return x + y + sum(z)", "x, y=1, z=STEP"),
        "default(1)",
        7,
        (("STEP[0] = 6", RUN, 8), (_task("default", "return x + y + sum(z)", "x, y=2, z=[6]"), RUN, 9)),
    ),
    Case(
        "decorator",
        "import functools\ndef times(n):\n    def decorate(f):\n        @functools.wraps(f)\n"
        "        def w(x): return f(x) * n\n"
        "        return w\n    return decorate\n@times(3)\ndef decorated(x): return x + 1\n"
        + _task("deco", "return decorated(x)"),
        "deco(1)",
        6,
        (("@times(4)\ndef decorated(x): return x + 1", RUN, 8), ("@times(4)\ndef decorated(x): return x + 2", RUN, 12)),
    ),
    Case(
        "partial",
        "import functools\ndef base(x, y): return x * y\nhalf = functools.partial(base, 2)\n"
        + _task("part", "return half(x)"),
        "part(5)",
        10,
        (
            ("half = functools.partial(base, 3)", RUN, 15),
            ("def base(x, y): return x + y\nhalf = functools.partial(base, 3)", RUN, 8),
        ),
    ),
    Case(
        "mutual recursion",
        "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)\n"
        + _task("parity", "return even(x)"),
        "parity(3)",
        False,
        (("def odd(n): return n == 3 or (n != 0 and even(n - 1))", RUN, False),),
    ),
    Case(
        "class",
        "class Base:\n    factor = 2\n    def scale(self, x): return x * self.factor\nclass Model(Base):\n"
        "    def go(self, x): return self.scale(x) + 1\n" + _task("classes", "return Model().go(x)"),
        "classes(3)",
        7,
        (
            ("Base.factor = 5", RUN, 16),
            ("Base.factor = 2", HIT, 7),
            ("Model.go = lambda self, x: 0", RUN, 0),
            (
                "class Base:\n    factor = 2\n    def scale(self, x): return x\nclass Model(Base):\n"
                "    def go(self, x): return self.scale(x) + 1",
                RUN,
                4,
            ),
        ),
    ),
    Case(
        "dataclass default",
        "from dataclasses import dataclass\n@dataclass\nclass Options:\n    depth: int = 3\n"
        + _task("options", "return Options().depth"),
        "options(0)",
        3,
        (("@dataclass\nclass Options:\n    depth: int = 4", RUN, 4),),
    ),
    Case(
        "enum",
        "import enum\nclass Mode(enum.Enum):\n    FAST = 1\n    SLOW = 2\n" + _task("enums", "return Mode.SLOW.value"),
        "enums(0)",
        2,
        (("class Mode(enum.Enum):\n    FAST = 1\n    SLOW = 20", RUN, 20),),
    ),
    Case(
        "shadowed builtin",
        _task("shadowed", "return len([x])"),
        "shadowed(0)",
        1,
        (("len = lambda x: 99", RUN, 99), ("del len", HIT, 1)),
    ),
    Case(
        "local module",
        "from pathlib import Path\n"
        "Path('local_one.py').write_text('N = 1\\ndef go(x): return x + N\\ndef unused(): return 1')\n"
        "import importlib, local_one\nimportlib.reload(local_one)\n" + _task("module", "return local_one.go(x)"),
        "module(1)",
        2,
        (
            (
                "Path('local_one.py').write_text('N = 1\\n# why\\ndef go(x):\\n    return x + N\\ndef "
                "unused(): return 2')\n"
                "import importlib.util, sys\nsys.dont_write_bytecode = True\nimportlib.invalidate_caches()\n"
                "_ = importlib.reload(local_one)",
                HIT,
                2,
            ),
            ("local_one.N = 5", RUN, 6),
        ),
    ),
    Case(
        "state",
        "calls = []\n" + _task("counted", "calls.append(x); return x + 1"),
        "counted(1)",
        2,
        (("calls.append('by hand')", HIT, 2),),
    ),
    Case(
        "state through an alias",
        "seen = []\ndef note(log, x): log.append(x)\n" + _task("aliased", "note(seen, x); return x + 1"),
        "aliased(1)",
        2,
        (("", HIT, 2), ("seen.append(3)", HIT, 2)),
    ),
    Case(
        "frame that is written to",
        "import pandas as pd\nframe = pd.DataFrame({'x': [1, 2]})\n"
        + _task("written", "frame['y'] = frame['x'] * x; return int(frame['y'].sum())"),
        "written(2)",
        6,
        (
            ("", HIT, 6),  # a frame is data: with its new column it was another input, once
            ("frame = pd.DataFrame({'x': [1, 5]})", RUN, 12),
            ("frame = pd.DataFrame({'x': [1, 2]})", HIT, 6),
        ),
        again=RUN,
    ),
    Case(
        "object that is trained",
        "class Net:\n    def __init__(self, depth): self.depth = depth; self.loss = None\nnet = Net(3)\n"
        + _task("train", "net.loss = x; return net.depth * x"),
        "train(2)",
        6,
        (("net.loss = 7", HIT, 6), ("net = Net(4)", RUN, 8)),
    ),
    Case(
        "set of closures",
        "def plus(n):\n    return lambda x: x + n\nbag = {plus(1), plus(2), plus(3)}\n"
        + _task("bagged", "return sum(g(x) for g in bag)"),
        "bagged(0)",
        6,
        (("bag = {plus(3), plus(1), plus(2)}", HIT, 6), ("bag = {plus(3), plus(1), plus(4)}", RUN, 8)),
    ),
    Case(
        "async",
        "def aid(x): return x * 2\n@task(cache=True)\nasync def later(x): return aid(x)\nimport asyncio",
        "await later(4)",
        8,
        (("def aid(x): return x * 3", RUN, 12), ("def aid(x):\n    # twice\n    return x * 2", HIT, 8)),
    ),
    Case(
        "method",
        "class Shop:\n    def __init__(self, tax): self.tax = tax\n    @task(cache=True)\n"
        "    def price(self, x): return x * self.tax",
        "Shop(3).price(2)",
        6,
        (
            (
                "class Shop:\n    def __init__(self, tax): self.tax = tax + 1\n    @task(cache=True)\n"
                "    def price(self, x): return x * self.tax",
                RUN,
                8,
            ),
        ),
    ),
]

ARGUMENTS = [
    _argument(
        "kinds",
        "1",
        "True",
        "1.0",
        "'1'",
        "b'1'",
        "1 + 0j",
        "[1]",
        "(1,)",
        "{1}",
        "frozenset({1})",
        "np.int64(1)",
        "np.float64(1)",
        "Fraction(1)",
        "Decimal(1)",
        "None",
        setup="from fractions import Fraction\nfrom decimal import Decimal",
    ),
    _argument(
        "pairs",
        "{'a': 1}",
        "[('a', 1)]",
        "{'a': True}",
        "{('a', 1)}",
        "OrderedDict(a=1)",
        "defaultdict(int, a=1)",
        setup="from collections import OrderedDict, defaultdict",
    ),
    _argument("zeros", "0.0", "-0.0", "0", "float('nan')", "[0.0]", "[-0.0]", same=("0.0",)),
    _argument("nans", "float('nan')", "None", "np.nan * 0j", same=("float('inf') - float('inf')", "np.nan")),
    _argument(
        "mixed",
        "{1: 'a', '1': 'b', None: 'c', (1,): 'd'}",
        "{1: 'b', '1': 'a', None: 'c', (1,): 'd'}",
        same=("{(1,): 'd', None: 'c', '1': 'b', 1: 'a'}",),
    ),
    _argument(
        "sets",
        "{'one', 'two', 'three', 4, None}",
        "{'one', 'two', 'three', 5, None}",
        same=("{4, None, 'three', 'two', 'one'}",),
    ),
    _argument(
        "shared",
        "(lambda s: [s, s])('long text')",
        "['long text', 'long texts']",
        same=("['long ' + 'text', ''.join(['long', ' text'])]",),
    ),
    _argument(
        "arrays",
        "np.arange(6.0).reshape(2, 3)",
        "np.arange(6.0)",
        "np.arange(6).reshape(2, 3)",
        "np.arange(6.0).reshape(3, 2)",
        "np.arange(6.0).reshape(2, 3).tolist()",
        "np.arange(6.0).reshape(2, 3).T",
        same=(
            "np.asfortranarray(np.arange(6.0).reshape(2, 3))",
            "np.arange(12.0).reshape(2, 6)[:, :3] * 0 + np.arange(6.0).reshape(2, 3)",
        ),
    ),
    _argument(
        "times",
        "datetime(2020, 1, 1)",
        "datetime(2020, 1, 1, tzinfo=timezone.utc)",
        "date(2020, 1, 1)",
        "datetime(2020, 10, 25, 2, 30, tzinfo=ZoneInfo('Europe/Paris'))",
        "datetime(2020, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo('Europe/Paris'))",
        "pd.Timestamp(2020, 1, 1)",
        setup="from datetime import *\nfrom zoneinfo import ZoneInfo\nimport pandas as pd",
    ),
    _argument(
        "frames",
        "pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})",
        "pd.DataFrame({'a': [1, 2], 'c': ['x', 'y']})",
        "pd.DataFrame({'a': [1.0, 2.0], 'b': ['x', 'y']})",
        "pd.DataFrame({'b': ['x', 'y'], 'a': [1, 2]})",
        "pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']}, index=[1, 2])",
        "pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']}).astype({'b': 'category'})",
        "pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']}).rename_axis('n')",
        same=("pd.DataFrame({'a': [1, 2, 3], 'b': ['x', 'y', 'z']})[:2]", "pd.concat([frames_v])"),
        setup="import pandas as pd",
    ),
    _argument(
        "columns",
        "pd.DataFrame({'t': ['a-b', 'c']}, dtype=object)",
        "pd.DataFrame({'t': ['a', 'b-c']}, dtype=object)",
        "pd.DataFrame({'t': ['a-b', 'c']})",
        setup="import pandas as pd",
    ),
    _argument(
        "zones",
        "pd.date_range('2020', periods=2)",
        "pd.date_range('2020', periods=2, tz='UTC')",
        "pd.date_range('2020', periods=2, tz='Europe/Paris')",
        setup="import pandas as pd",
    ),
    _argument(
        "objects",
        "Point(1, [2])",
        "Point(1, [3])",
        "Point(1.0, [2])",
        "(lambda p: (setattr(Point, 'norm', lambda self: 0), p)[1])(Point(1, [2]))",
        same=("Point(1, [2])",),
        setup="from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\n    y: list\n"
        "    def norm(self): return self.x",
    ),
    _argument("functions", "lambda x: x + 1", "lambda x: x + 2", same=("lambda x:   x + 1", "(lambda x: (x + 1))")),
]

SETUP = (
    "import nbflow, numpy as np\nfrom nbflow import task\nfrom nbflow.sessions import current_session\n"
    "def tell(v): return type(v).__name__\n"
    "def how(): return bool(current_session().records[-1].cached)"
)


def _asked(kernel: Any, case: Case) -> tuple[Any, bool]:
    found: tuple[Any, bool] = kernel.value(f"({case.ask}, how())")
    return found


@pytest.mark.slow
@pytest.mark.kernel
@pytest.mark.timeout(300)
def test_no_wrong_answer_of_the_peers(kernel: Any) -> None:
    """Every edit that matters runs the task, no other does; after a restart all that was computed is found again."""
    wrong: list[str] = []

    def check(case: Case, step: str, expected_value: Any, expected: bool | None, found: tuple[Any, bool]) -> None:
        value, cached = found
        if expected_value is not None and (value, type(value)) != (expected_value, type(expected_value)):
            wrong.append(f"{case.name}: {step}: {value!r} instead of {expected_value!r}")
        if expected is not None and cached != expected:
            wrong.append(f"{case.name}: {step}: {'a hit' if cached else 'ran'}")

    cases = [*CODE, *ARGUMENTS]
    kernel.ok(SETUP)
    for case in cases:
        kernel.ok(case.define)
        check(case, "first", case.value, RUN, _asked(kernel, case))
        check(case, "again", case.value, case.again, _asked(kernel, case))
        for edit, expected, value in case.edits:
            kernel.ok(edit)
            check(case, edit, value, expected, _asked(kernel, case))
    assert not wrong, "\n".join(wrong)
    kernel.restart()
    kernel.ok(SETUP)
    for case in reversed(cases):
        kernel.ok(case.define)
        check(case, "after a restart", case.value, HIT, _asked(kernel, case))
        for edit, _, value in case.edits:
            kernel.ok(edit)
            check(case, f"after a restart: {edit}", value, HIT, _asked(kernel, case))
    assert not wrong, "\n".join(wrong)


@pytest.mark.kernel
def test_what_has_no_content_is_kept_for_the_session(kernel: Any) -> None:
    """A lock as argument neither raises nor hits for another lock, and a restarted kernel computes anew."""
    kernel.ok(
        SETUP
        + "\nimport threading\n"
        + _task("locked", "return x.locked()")
        + "\nfirst, second = threading.Lock(), threading.Lock()"
    )
    assert kernel.value("(locked(first), how())") == (False, False)
    assert kernel.value("(locked(first), how())") == (False, True)
    kernel.ok("second.acquire()")
    assert kernel.value("(locked(second), how())") == (True, False)
    assert kernel.value("(sum([1 for _ in 'ab']), locked(first), how())") == (2, False, True)
    kernel.restart()
    kernel.ok(
        SETUP
        + "\nimport threading\n"
        + _task("locked", "return x.locked()")
        + "\nfirst = threading.Lock()\nfirst.acquire()"
    )
    assert kernel.value("(locked(first), how())") == (True, False)


@pytest.mark.kernel
def test_a_finding_about_state_outlives_the_kernel(kernel: Any) -> None:
    """What only a run could show about a function's state is known after a restart, for new arguments too."""
    text = (
        SETUP
        + "\nlog, settings = [], {'factor': 2}\ndef note(where, x): where.append(x)\n"
        + _task("noted", "note(log, x); return x * settings['factor']")
    )
    kernel.ok(text)
    assert kernel.value("[noted(1), noted(2), noted(1), how(), noted(2), how(), log]") == [
        2,
        4,
        2,
        True,
        4,
        True,
        [1, 2],
    ]
    kernel.restart()
    kernel.ok(text + "\nlog = ['begun', 'otherwise']")
    assert kernel.value("[noted(2), how(), noted(1), how(), noted(3), how(), log]") == [
        *(4, True, 2, True, 6, False),
        ["begun", "otherwise", 3],
    ]
    kernel.ok("settings['factor'] = 5")
    assert kernel.value("[noted(1), how()]") == [5, False]
