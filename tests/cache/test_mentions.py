"""Names in texts that are run: which are found, and what they mean for the key of a function."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from nbflow.cache import FunctionKeyer
from nbflow.cache.mentions import names_in, texts_of, texts_run


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("p > @limit and q < @most", "limit most"),
        ("p > limit", "p limit"),
        ("select x from frame", "select x frame"),
        ("FROM frame WHERE mail LIKE '%@site.org'", "FROM frame WHERE mail LIKE site org"),
        ("a + b * a", "a b"),
        ("", ""),
        ("1e5 + x2 - _y", "x2 _y"),
        ("größe > 3", "größe"),
        ("not a or None", "a"),
    ],
)
def test_names_in_a_text(text: str, names: str) -> None:
    """Every word that is no keyword may be a name; where some are marked, as pandas has it, only these."""
    assert list(names_in(text)) == names.split()


@pytest.mark.parametrize(
    ("call", "found", "from_elsewhere"),
    [
        ("frame.query('x')", "x", False),
        ("a.b['c'].eval(expr='x', level=n)", "x", False),
        ("ols('y ~ x', data=frame)", "y~x", False),
        ("sql(text)", "other", True),
        ("sql(f'from {table}')", "other from", True),
        ("sql('from ' + table)", "other from", True),
        ("model.evaluate(x, y)", "", False),
        ("numexpr.evaluate('a * b')", "a*b", False),
        ("model.eval()", "", False),
        ("asked('x')", "", False),
        ("f()('x')", "", False),
    ],
)
def test_texts_that_a_call_runs(call: str, found: str, from_elsewhere: bool) -> None:
    """The last name decides, whatever it is asked of; what is not spelt out may be any text of the code around."""
    node = ast.parse(call, mode="eval").body
    assert isinstance(node, ast.Call)
    texts = texts_run(node, [ast.Constant("other"), node])
    assert sorted(text.replace(" ", "") for text in texts.found) == sorted(found.split())
    assert texts.from_elsewhere is from_elsewhere


def test_texts_are_found_at_any_depth_but_docstrings_are_none() -> None:
    """Texts in f-strings, arguments and containers count."""
    tree = ast.parse(
        "def f():\n    'doc'\n    t = ['one', f'two {x!r:>3}', b'bytes', 4]\n    return g(k='three')\n'last'"
    )
    assert {text.strip() for text in texts_of([tree])} == {"one", "two", ">3", "three"}


NOTEBOOK = """
import pandas as pd
limit = 2
frame = pd.DataFrame({"p": [1, 5, 9]})
def sql(text): return text
"""


@pytest.mark.parametrize(
    "body",
    [
        "return rows.query('p > @limit')",
        "text = 'p > @limit'\n    return rows.query(text)",
        "return [each.eval(f'{name} + @limit') for each, name in rows]",
        "return sql(rows if rows else 'select limit')",
        "def inner(): return sql('select limit')\n    return inner()",
        "return eval('limit')",
    ],
)
def test_a_global_in_a_text_that_is_run_counts(notebook: Any, body: str) -> None:
    """Another value of it is another key, its old value the old one; other globals do not matter."""
    text = f"{NOTEBOOK}def f(rows):\n    {body}\n"
    keys = [notebook.run(text.replace("limit = 2", value)).key(rows=1) for value in ("limit = 2", "limit = 3")]
    assert len(set(keys)) == 2
    assert notebook.run(text.replace("'p': [1", "'p': [7")).key(rows=1) == keys[0]


def test_tables_count_by_content(notebook: Any) -> None:
    """A frame that a query names is read, as DuckDB does, without any sign of it in the code."""
    text = f"{NOTEBOOK}def f(): return sql('select sum(p) from frame')\n"
    keys = [notebook.run(text.replace("[1, 5, 9]", rows)).key() for rows in ("[1, 5, 9]", "[1, 5, 8]")]
    assert len(set(keys)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "def f(rows, limit=1): return rows.query('p > @limit')",
        "def f(rows):\n    limit = 1\n    return rows.query('p > @limit')",
        "def f(rows):\n    'By limit.'\n    return rows.query('p > 1')",
        "def f(rows): return rows.where('limit')",
        "def f(rows): return {'limit': rows.evaluate(rows)}",
        "def f(rows): return {'limit': rows.query('p > 1')}",
    ],
)
def test_what_the_text_does_not_mean_does_not_count(notebook: Any, text: str) -> None:
    """A variable of the function hides a global; docstrings and texts that are not run name nothing."""
    keys = {notebook.run(f"limit = {value}\n{text}").key(rows=1) for value in (2, 3)}
    assert len(keys) == 1


def test_a_name_that_comes_to_be_counts_from_then_on(notebook: Any) -> None:
    """A text may name what is not there yet."""
    keyer = FunctionKeyer(notebook.run("def f(rows): return rows.query('p > @limit')")["f"], name="f")
    before = keyer.key({"rows": 1}).digest
    assert keyer.key({"rows": 1}).digest == before
    notebook.names["limit"] = 2
    assert keyer.key({"rows": 1}).digest != before


@pytest.mark.parametrize(
    "body",
    [
        "importlib.import_module('reached_by_text').go()",
        "__import__('reached_by_text').go()",
        "sys.modules['reached_by_text'].go()",
    ],
)
def test_a_local_module_that_a_text_names_counts(
    notebook: Any, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of such a module is part of the key, whether or not it is loaded."""
    monkeypatch.syspath_prepend(tmp_path)
    keys = set()
    notebook.run(f"import importlib, sys\ndef f(x): return {body}")
    for text in ("def go(): return 1", "def go(): return 22"):
        (tmp_path / "reached_by_text.py").write_text(text)
        keys.add(notebook.key(x=1))
    assert len(keys) == 2
