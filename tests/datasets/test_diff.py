"""What differs between two values, whatever they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from nbflow.datasets.diff import diff_values

TABLE = {"a": [1, 2, 3], "b": [1.0, None, 3.0], "c": ["x", "y", "z"]}
LATER = {"a": [1, 2, 4], "b": [1.0, None, 3.0], "d": ["x", "y", "z"]}


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_tables(make: Any) -> None:
    """Columns that went and came, and the rows that differ; missing values equal each other."""
    assert diff_values(make(TABLE), make(LATER)).lines == (
        "- columns: c",
        "+ columns: d",
        "~ column a: 1 of 3 rows differ",
    )
    assert not diff_values(make(TABLE), make(TABLE))


def test_tables_of_other_shape_and_types() -> None:
    """Rows are not compared where their number differs."""
    old, new = pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1.5]})
    assert diff_values(old, new).lines == ("~ shape: 2 × 1 → 1 × 1", "~ column a: int64 → float64")


def test_arrays() -> None:
    """How many elements differ, and by how much; NaN equals itself."""
    old = np.array([[1.0, np.nan], [3.0, 4.0]])
    new = np.array([[1.0, np.nan], [3.5, 4.0]])
    assert diff_values(old, new).lines == ("~ 1 of 4 elements differ, by at most 0.5",)
    assert diff_values(old, old.astype("f4")).lines == ("~ dtype: float64 → float32",)
    assert diff_values(old, new[0]).lines == ("~ shape: 2 × 2 → 2",)
    assert not diff_values(old, old.copy())


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"a": {"b": 1}, "c": 2}, {"a": {"b": 2}}, ("~ ['a']['b']: 1 → 2", "- ['c']: 2")),
        ([1, 2, 3], [1, 5], ("~ shape: 3 → 2", "~ [1]: 2 → 5")),
        ("a\nb\nc", "a\nx\nc", (" a", "-b", "+x", " c")),
        (1, 2, ("- 1", "+ 2")),
        (1, 1, ()),
        (1, "1", ("~ type: int → str", "~ shape: none → 1")),
    ],
)
def test_plain_values(old: Any, new: Any, lines: tuple[str, ...]) -> None:
    """Each kind says it in its own way."""
    assert diff_values(old, new).lines == lines


def test_it_stays_short() -> None:
    """However much differs, there are examples and a count."""
    found = diff_values({n: n for n in range(1000)}, {n: -n - 1 for n in range(1000)})
    assert len(found.lines) == 61
    assert found.lines[-1] == "… 940 more"
    assert repr(diff_values(1, 1)) == "no difference"
