"""Reading the text of code."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from nbflow.cache import source, syntax


def test_a_parser_that_another_thread_disturbs_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's parser may fail with SystemError where another thread parses, too; that must not cost a key."""
    calls: list[str] = []
    parse = ast.parse

    def disturbed(text: str, *more: Any) -> ast.Module:
        calls.append(text)
        if len(calls) < 3:
            raise SystemError("AST constructor recursion depth mismatch (before=87, after=85)")
        return parse(text, *more)

    monkeypatch.setattr(syntax.ast, "parse", disturbed)
    assert source.module_facts("import os") == source.module_facts("import os  # again")
    assert len(calls) == 4
