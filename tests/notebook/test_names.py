"""The walk over a syntax tree: which names a piece of code reads and writes, program by program."""

from __future__ import annotations

import ast
import sys
import textwrap

import pytest

from nbflow.notebook.names import BRANCH, Effects, find_effects


def effects(source: str, **options: object) -> Effects:
    return find_effects(ast.parse(textwrap.dedent(source)).body, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "inputs", "outputs"),
    [
        ("y = x + 1", "x", "y"),
        ("x = 1\ny = x", "", "x y"),
        ("y = x\nx = 1", "x", "y x"),
        ("acc += 1", "acc", "acc"),
        ("a, (b, *c) = d", "d", "a b c"),
        ("a = b = c", "c", "a b"),
        ("x: int = y", "y", "x"),
        ("x: Kind", "Kind", ""),
        ("(n := m) + n", "m", "n"),
        ("del gone", "", "gone"),
        ("import a.b, c as d\nfrom e import f, g as h", "", "a d f h"),
        ("with open(p) as f, lock: data = f.read()\ndata", "p lock", "f data"),
        ("for i, j in pairs: pass", "pairs", "i j"),
        ("async for i in source: await i", "source", "i"),
        ("async with conn() as c: pass", "conn", "c"),
        ("raise Problem(cause) from other", "Problem cause other", ""),
        ("assert ready, message", "ready message", ""),
        ("f'{a:{b}} {c!r}'", "a b c", ""),
        ("global g\ng = 1", "", "g"),
        ("x[i:j] = v", "v x i j", "x"),
        ("o.a.b = v", "v o", "o"),
        ("o.a += v", "v o", "o"),
        ("print(max(values))", "values", ""),
        ("lambda a, *b, c=d, **e: a + b + c + e + f", "d f", ""),
    ],
)
def test_statements(source: str, inputs: str, outputs: str) -> None:
    """Inputs are what is read before it is bound, outputs what is bound or visibly changed, in order."""
    found = effects(source)
    assert found.inputs == tuple(inputs.split())
    assert found.outputs == tuple(outputs.split())


@pytest.mark.parametrize(
    ("source", "inputs", "outputs"),
    [
        ("[u * k for u in xs]", "xs k", ""),
        ("[u for row in rows for u in row if u > low]", "rows low", ""),
        ("{k: v * f for k, v in items}", "items f", ""),
        ("[last := u for u in xs]", "xs", "last"),
        ("x = [x for x in x]", "x", "x"),
        ("[lambda: u + z for u in xs]", "xs z", ""),
        ("sum(u for u in [v for v in vs])", "vs", ""),
        ("[[u for u in w] for w in ws]\nu", "ws u", ""),
        ("class A:\n    n = 3\n    ns = [n for n in range(n)]", "", "A"),
        ("class A(Base, meta=M):\n    x = y\n    z = x\n    def m(self): return x", "Base M y x", "A"),
        ("@deco(opt)\ndef f(a: T = d) -> R: return a + g", "deco opt d T R g", "f"),
        ("def f():\n    global made\n    made = 1\nf()", "", "f made"),
        ("def f():\n    n = 0\n    def g():\n        nonlocal n\n        n += k\n    return g", "k", "f"),
        ("def f(xs): return [x for x in xs if x > low]", "low", "f"),
        ("def f(n): return f(n - 1)", "", "f"),
        ("def f(): return g()\ndef g(): return h\nf()", "h", "f g"),
        ("match point:\n  case Point(x=0, y=yy) if yy > low: 0\n  case [a, *rest]: 0\n  case {'k': v, **more}: 0",
         "point Point low", "yy a rest v more"),
        ("try:\n    import fast\nexcept ImportError as error:\n    fast = None\nfast", "", "fast error"),
    ],
)  # fmt: skip
def test_scopes(source: str, inputs: str, outputs: str) -> None:
    """Comprehensions, functions, classes, patterns and handlers keep their own names to themselves."""
    found = effects(source)
    assert found.inputs == tuple(inputs.split())
    assert found.outputs == tuple(outputs.split())


def test_function_bodies_are_read_when_used() -> None:
    """A global that is bound between `def` and first use is no input; one bound after is."""
    assert effects("def f(): return x\nx = 1\nf()").inputs == ()
    assert effects("def f(): return x\nf()\nx = 1").inputs == ("x",)
    assert effects("f = lambda r: r[c]\nc = 'a'\nsorted(xs, key=f)").inputs == ("xs",)
    assert effects("class A:\n    def m(self): return x\nx = 1\nA().m()").inputs == ()
    assert effects("def f(): return x").inputs == ("x",)
    assert effects("def f(): return x").inputs != effects("def f(): return x", bodies=False).inputs


@pytest.mark.parametrize(
    ("source", "reads_x"),
    [
        ("if c: x = 1\nx", True),
        ("if c: x = 1\nelse: x = 2\nx", False),
        ("if c: x = 1\nelse: raise E\nx", False),
        ("x = 1 if c else 2\nx", False),
        ("c and (x := 1)\nx", True),
        ("try: x = 1\nexcept E: pass\nx", True),
        ("try: x = 1\nexcept E: x = 2\nx", False),
        ("try: x = 1\nexcept E: raise\nx", False),
        ("try: x = 1\nfinally: x", False),
        ("with suppress(E): x = 1\nx", True),
        ("with opened(): x = 1\nx", False),
        ("while True:\n    x = 1\n    break\nx", False),
        ("while True:\n    if c: break\n    x = 1\nx", True),
        ("for i in range(3): x = i\nx", False),
        ("for i in [1, 2]:\n    if c: continue\n    x = i\nx", True),
        ("for i in xs:\n    if x: pass\n    x = i", True),
        ("match v:\n    case 1: x = 1\nx", True),
        ("match v:\n    case 1: x = 1\n    case _: x = 2\nx", False),
        ("x = 1\ndel x\nx", True),
        ("[x := i for i in range(3)]\nx", True),
    ],
)
def test_bound_for_certain(source: str, reads_x: bool) -> None:
    """Where the old value of a name may be read it is an input, or doubtful; elsewhere it is neither."""
    found = effects(source)
    assert ("x" in found.inputs or BRANCH in found.doubtful.get("x", ())) is reads_x


def test_branches_leave_doubt_where_it_can_be_settled() -> None:
    """After the run one can see whether a branch bound the name, unless a loop or a later binding hides it."""
    assert effects("if c: x = 1\nx").doubtful == {"x": frozenset({BRANCH})}
    assert effects("if c: x = 1\nx").inputs == ("c",)
    assert effects("if c: x = 1\ny = x\nx = 2").inputs == ("c", "x")
    assert effects("for i in xs:\n    if c: x = i\n    x").inputs == ("xs", "c", "x")
    assert effects("for i in xs:\n    if c: x = i\nx").doubtful == {"x": frozenset({1, BRANCH})}


def test_loops_over_something_unknown_leave_doubt() -> None:
    """Names bound by a loop that may not run are noted with its line, until something binds them for certain."""
    found = effects("for i in xs:\n    t = i\nprint(t, i)")
    assert found.inputs == ("xs",)
    assert found.doubtful == {"t": frozenset({1}), "i": frozenset({1})}
    assert effects("for i in xs: t = i\nt = 0\nt").doubtful == {}
    assert effects("t = 0\nfor i in xs: t = i\nt").doubtful == {}
    assert effects("for i in xs:\n    for j in i:\n        t = j\nt").doubtful == {"t": frozenset({1, 2})}
    assert effects("while c:\n    t = 1\nt").doubtful == {"t": frozenset({1})}


def test_certain_outputs() -> None:
    """Outputs that are bound whatever happens are told from those of one branch."""
    found = effects("a = 1\nif c:\n    b = 2\nfor i in xs:\n    d = i")
    assert found.certain == {"a"}
    assert found.outputs == ("a", "b", "i", "d")


@pytest.mark.parametrize(
    "source",
    [
        "x[0] = 1",
        "x.a = 1",
        "x.a.b[0].c = 1",
        "del x['k']",
        "x += [1]",
        "x.append(1)",
        "x['k'].extend(y)",
        "x.values.sort()",
        "x.drop(columns='a', inplace=True)",
        "x.set_title('t')",
        "x.add_(1)",
        "x.fit(a, b)",
        "x[0], y = 1, 2",
        "for x.i in y: pass",
        "def change(): x.append(1)\nchange()",
    ],
)
def test_visible_mutation(source: str) -> None:
    """What the text shows to change an object makes its name an output."""
    found = effects(source)
    assert "x" in found.mutated
    assert "x" in found.outputs
    assert "x" in found.inputs


@pytest.mark.parametrize("source", ["x.mean()", "f(x)", "y = x.a", "x.drop(inplace=False)", "[q.append(1) for q in x]"])
def test_no_visible_mutation(source: str) -> None:
    """Reading does not mutate, nor does changing what a comprehension's own variable stands for."""
    assert effects(source).mutated == frozenset()


def test_builtins_count_only_where_shadowed() -> None:
    """Builtins are told apart, so that a notebook that binds `max` can count it."""
    found = effects("print(max(xs))\nlist = 3\nlist")
    assert found.inputs == ("xs",)
    assert found.builtin_reads == ("print", "max")


def test_deleted_names() -> None:
    """A name deleted at the end is known as such; one bound again is not."""
    assert effects("x = 1\ndel x").deleted == {"x"}
    assert effects("del x\nx = 1").deleted == frozenset()


def test_star_imports_bind_what_the_module_offers() -> None:
    """`import *` binds the names that the caller says the module has."""
    found = effects("from m import *\nsqrt(x)", star_names=lambda module: ["sqrt"])
    assert found.inputs == ("x",)
    assert found.outputs == ("sqrt",)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="syntax of Python 3.12")
def test_type_parameters() -> None:
    """Type parameters belong to their function, class or alias."""
    found = effects("def f[T: Bound](a: T) -> T: return a\nclass C[U](Base[U]): x: U\ntype Pair[V] = tuple[V, W]")
    assert "T" not in found.inputs
    assert "V" not in found.inputs
    assert "W" in found.inputs
    assert found.outputs == ("f", "C", "Pair")


@pytest.mark.parametrize(
    ("source", "mentions", "inputs"),
    [
        ("hot = frame.query('t > @limit')", "limit", "frame"),
        ("limit = 1\nframe.query('t > @limit')", "", "frame"),
        ("frame.query('t > @limit')\nlimit = 1", "limit", "frame"),
        ("frame.query('t > @limit'); limit", "", "frame limit"),
        ("if flag:\n    limit = 1\nframe.query('t > @limit')", "", "flag frame"),
        ("duckdb.sql('select t from frame')", "select t frame", "duckdb"),
        ("text = 'from frame'\nduckdb.sql(text)", "frame", "duckdb"),
        ("title = 'of limit'\nframe.query('t > 1')", "t", "frame"),
        ("'about limit'\nframe.query(text)", "", "frame text"),
        ("def f(d, low=0):\n    return d.query('t > @low + @high')", "high", ""),
        ("def f(d):\n    low = 1\n    return lambda: d.query('t > @low')\nf(frame)", "", "frame"),
        ("class C:\n    def f(self, d):\n        return d.query('t > @limit')", "limit", ""),
        ("[d.query('t > @limit') for limit in limits]", "", "limits d"),
        ("[d.query(f't > @{name}') for name in ['limit']]", "t limit", "d"),
        ("loss = model.evaluate(x, y)\nprint('loss', loss)", "", "model x y"),
        ("frame.where('limit')", "", "frame"),
    ],
)
def test_texts_that_are_run(source: str, mentions: str, inputs: str) -> None:
    """What a query may name and the code does not bind is mentioned; a name that is there for certain is just read."""
    found = effects(source)
    assert set(found.mentions) == set(mentions.split())
    assert set(found.inputs) == set(inputs.split())
    assert found.runs_text is ("text" in source or "f'" in source)


@pytest.mark.parametrize(
    ("source", "opaque"),
    [
        ("vars()['a'] = 1", "vars()"),
        ("vars(options)", None),
        ("def f(): return vars(), dir()", None),
        ("class C: here = vars()", None),
        ("'a' in dir()", "dir()"),
        ("import __main__", "`import __main__`"),
        ("from __main__ import a", "`from __main__ import`"),
        ("def f():\n    import __main__\n    return __main__.a", "`import __main__`"),
        ("sys.modules['__main__'].a = 1", '`"__main__"`'),
        ("if __name__ == '__main__': run()", None),
        ("f.__globals__['a'] = 1", "`f.__globals__`"),
        ("get_ipython().user_ns['a'] = 1", "`get_ipython().user_ns`"),
        ("get_ipython().push({'a': 1})", "`get_ipython().push`"),
        ("get_ipython().history_manager", None),
        ("a = shell.user_ns", None),
    ],
)
def test_what_reaches_any_name(source: str, opaque: str | None) -> None:
    """It is said in the words of the code, and is no input itself."""
    found = effects(source)
    assert found.opaque == (() if opaque is None else (opaque,))
    assert all(name.isidentifier() for name in found.inputs)
