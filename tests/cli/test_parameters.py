"""`-p name=value`."""

from __future__ import annotations

import enum
import inspect
import typing
from pathlib import Path
from typing import Any, Literal

import pytest

from nbflow.cli.console import CliError
from nbflow.cli.parameters import UNKNOWN, assigned_names, notebook_values, split_pairs, workflow_values

CELL = """\
# a comment
%matplotlib inline
year = 2013
rate: float = 0.5
origin = "JFK"
fast = False
cities = ["a"]
limit = None
day = date(2013, 1, 1)
a, b = 1, 2
"""


def test_names_and_defaults_come_from_plain_assignments() -> None:
    """Magics are skipped, computed defaults are known to be unknown, tuples are no parameters."""
    found = assigned_names(CELL)
    assert list(found) == ["year", "rate", "origin", "fast", "cities", "limit", "day"]
    assert found["year"] == 2013
    assert found["day"] is UNKNOWN


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("year=2014", 2014),
        ("year=2014.5", 2014.5),
        ("year=-1", -1),
        ("rate=2", 2),
        ("origin=LGA", "LGA"),
        ("origin=2013", "2013"),
        ("origin='quoted'", "quoted"),
        ("origin=a=b", "a=b"),
        ("origin=", ""),
        ("fast=true", True),
        ("fast=0", False),
        ("cities=['x', 'y']", ["x", "y"]),
        ("cities=('x',)", ["x"]),
        ("limit=5", 5),
        ("limit=text", "text"),
        ("day=None", None),
    ],
)
def test_values_get_the_type_of_the_default(pair: str, value: Any) -> None:
    """Text, numbers and flags arrive as what the notebook works with."""
    given = split_pairs([pair])
    found = notebook_values(given, assigned_names(CELL))
    assert found == {pair.partition("=")[0]: value}
    assert type(next(iter(found.values()))) is type(value)


@pytest.mark.parametrize("pair", ["year=abc", "year=True", "fast=maybe", "cities=3"])
def test_values_of_another_type_are_refused(pair: str) -> None:
    """The message repeats what was typed."""
    with pytest.raises(CliError, match=pair.split("=", maxsplit=1)[0]):
        notebook_values(split_pairs([pair]), assigned_names(CELL))


def test_an_unknown_name_lists_the_known_ones() -> None:
    """A typing error is answered with the names there are."""
    with pytest.raises(CliError, match=r"yaer: unknown name; the notebook's parameters are: year, rate, origin"):
        notebook_values({"yaer": "1"}, assigned_names(CELL))


@pytest.mark.parametrize("pair", ["year", "=1", "a b=1", "1x=2"])
def test_pairs_must_have_a_name(pair: str) -> None:
    """What is no name=value says how to write one."""
    with pytest.raises(CliError, match="write -p name=value"):
        split_pairs([pair])


def test_broken_parameters_cells_say_where() -> None:
    """A syntax error in the cell is told in one line."""
    with pytest.raises(CliError, match=r"not valid Python: .*line 1"):
        assigned_names("year = = 1")


class Color(enum.Enum):
    RED = 1
    BLUE = 2


def flow(
    n: int,
    scale: float = 1.0,
    tag: str | None = None,
    where: Path = Path(),
    color: Color = Color.RED,
    mode: Literal["fast", "exact"] = "fast",
    sizes: tuple[int, ...] = (),
    untyped=3,  # noqa: ANN001
) -> None: ...


def values(*pairs: str) -> dict[str, Any]:
    return workflow_values(split_pairs(pairs), inspect.signature(flow), typing.get_type_hints(flow))


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("n=5", 5),
        ("scale=2", 2.0),
        ("tag=x", "x"),
        ("tag=None", None),
        ("where=a/b", Path("a/b")),
        ("color=BLUE", Color.BLUE),
        ("mode=exact", "exact"),
        ("sizes=[1, 2]", (1, 2)),
        ("untyped=7", 7),
    ],
)
def test_values_get_the_type_of_the_annotation(pair: str, value: Any) -> None:
    """A workflow's parameters are converted as its signature says."""
    name = pair.partition("=")[0]
    found = values(*dict.fromkeys(["n=5", pair]))[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((), "missing -p n=…"),
        (("n=x",), "this is no int"),
        (("n=True",), "this is no int"),
        (("n=1", "color=GREEN"), "use one of RED, BLUE"),
        (("n=1", "mode=slow"), "use one of fast, exact"),
        (("n=1", "other=2"), "unknown name; the workflow's parameters are: n, scale"),
        (("n=1", "untyped=abc"), "write a number"),
    ],
)
def test_wrong_workflow_parameters_are_one_clear_line(pairs: tuple[str, ...], message: str) -> None:
    """Missing, unknown and unfit parameters are told apart."""
    with pytest.raises(CliError, match=message):
        values(*pairs)


def test_extra_keywords_are_taken_where_the_signature_allows_them() -> None:
    """`**options` accepts any name."""

    def loose(**options: Any) -> None: ...

    assert workflow_values({"a": "1"}, inspect.signature(loose), {}) == {"a": 1}
