"""Public names: sorted, there, described, and the same as the reference lists."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import nbflow

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nbflow"
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in PACKAGE.rglob("*.py")
)
_ROW = re.compile(r"^\| \[?`(?P<door>nbflow[\w.]*)`[^|]*\| (?P<names>[^|]*)\|$", re.MULTILINE)


def documented() -> dict[str, list[str]]:
    """Return the public names of each door, as the table in the reference has them."""
    text = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    return {row["door"]: re.findall(r"`([^`]+)`", row["names"]) for row in _ROW.finditer(text)}


def declared(module: str) -> list[str] | None:
    """Return `__all__` of a module, read from its source; None where it is not a list of constants."""
    path = ROOT.joinpath(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if isinstance(target, ast.Name) and target.id == "__all__" and node.value is not None:
            return list(ast.literal_eval(node.value)) if isinstance(node.value, ast.List) else None
    return None


def _order(name: str) -> tuple[int, str]:
    """Constants first, then classes, then the rest, as import sorters have it."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_is_public_in_order(module: str) -> None:
    """`__all__` is there, sorted, and names nothing twice."""
    names = declared(module)
    if names is None:
        names = list(getattr(importlib.import_module(module), "__all__", ()))
        found = vars(importlib.import_module(module))
        own = [name for name, value in found.items() if not (name.startswith("_") or inspect.ismodule(value))]
        assert names or not own, f"{module} has names, but no __all__"
    assert names == sorted(set(names), key=_order)


@pytest.mark.parametrize("door", sorted(documented()))
def test_doors_are_what_the_reference_lists(door: str) -> None:
    """The table in the reference and `__all__` agree, and every name can be imported."""
    module = importlib.import_module(door)
    assert documented()[door] == list(module.__all__)
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing


def test_the_reference_lists_the_doors() -> None:
    """The table was found, and each door has a page that shows it."""
    doors = documented()
    assert "nbflow" in doors
    assert len(doors) > 8
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    assert [door for door in doors if f"\n::: {door}\n" not in f"\n{pages}\n"] == []


def test_dir_of_the_package_shows_lazy_names() -> None:
    """Names that are imported on first use can be completed before."""
    assert set(nbflow.__all__) <= set(dir(nbflow))


def test_unknown_names_are_attribute_errors() -> None:
    """A name that does not exist is reported as on any module."""
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nbflow.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("door", sorted(documented()))
def test_public_names_are_described(door: str) -> None:
    """Every public class, function and method has a docstring that is a sentence."""
    module = importlib.import_module(door)
    bare: list[str] = []
    for name in module.__all__:
        found = getattr(module, name)
        if not (inspect.isclass(found) or inspect.isroutine(found)):
            continue
        if not _is_described(found):
            bare.append(name)
        if inspect.isclass(found) and found.__module__.startswith("nbflow"):
            own = {key: value for key, value in vars(found).items() if not key.startswith("_")}
            bare += [
                f"{name}.{key}"
                for key, value in own.items()
                if _is_method(value) and not _is_described(getattr(found, key))
            ]
    assert not bare


def _is_method(value: object) -> bool:
    return inspect.isfunction(value) or isinstance(value, classmethod | staticmethod | property)


def _is_described(found: object) -> bool:
    text = inspect.getdoc(found) or ""
    first = text.split("\n\n")[0]
    return "." in first or "`" in first or first.endswith(":")
