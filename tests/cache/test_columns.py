"""Arrow and Polars: how something is cut, sliced and filled under missing values does not count; all else does."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from nbflow.cache import digest

ARRAYS = [
    pa.array(["a", None, "ccc", "", "é"]),
    pa.array(["a", None, "ccc", "", "é"], pa.large_string()),
    pa.array(["a", None, "c" * 40], pa.string_view()),
    pa.array([b"a", None, b"", b"cc"]),
    pa.array([1, None, 3], pa.int16()),
    pa.array([1.5, None, 3.0]),
    pa.array([True, None, False] * 5),
    pa.array([dt.date(2020, 1, 1), None]),
    pa.array([dt.datetime(2020, 1, 1, tzinfo=dt.UTC), None], pa.timestamp("us", tz="UTC")),
    pa.array([decimal.Decimal("1.10"), None]),
    pa.array([b"abc", None], pa.binary(3)),
    pa.array([[1], None, [2, 3], []]),
    pa.array([[1, 2], None], pa.list_(pa.int64(), 2)),
    pa.array([["a"], None, ["b", None]]),
    pa.array([{"x": 1, "y": "a"}, None, {"x": 2, "y": None}]),
    pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
    pa.array(["a", "b", None, "a"]).dictionary_encode(),
    pa.array([None, None]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.type))
def test_cuts_and_slices_do_not_count(array: Any) -> None:
    """A slice of something longer, and the same in chunks, has the digest of a copy; another length has another."""
    mine = digest(array)
    assert digest(pa.concat_arrays([array, array]).slice(len(array))) == mine
    assert digest(pa.array(array.to_pylist(), array.type)) == mine
    whole = digest(pa.chunked_array([array]))
    assert whole != mine
    assert digest(pa.chunked_array([array.slice(0, 1), array.slice(1, 0), array.slice(1)])) == whole
    assert len({mine, digest(array.slice(1)), digest(pa.concat_arrays([array, array])), digest(array.slice(0, 0))}) == 4


def test_types_of_arrays_count() -> None:
    """No two of these arrays share a digest, though several say the same with other types."""
    assert len({digest(array) for array in ARRAYS}) == len(ARRAYS)


def test_texts_do_not_run_into_each_other() -> None:
    """Where one text ends and the next begins counts, also over the seams of chunks and beside missing ones."""
    lists: list[list[str | None]] = [["ab", "c"], ["a", "bc"], ["abc", ""], ["", "abc"], ["abc", None], [None, "abc"]]
    found = {digest(pa.chunked_array([texts])) for texts in lists}
    found |= {digest(pa.chunked_array([[text] for text in texts], pa.string())) for texts in lists}
    assert len(found) == len(lists)


def test_bytes_under_a_missing_text_do_not_count() -> None:
    """A text that was struck out leaves its bytes in the buffer; they are not content."""
    kept = pa.array(["a", "hidden", "b"])
    validity = pa.py_buffer(bytes([0b101]))
    hidden = pa.Array.from_buffers(pa.string(), 3, [validity, *kept.buffers()[1:]])
    assert hidden.to_pylist() == ["a", None, "b"]
    assert digest(hidden) == digest(pa.array(["a", None, "b"]))
    numbers = pa.Array.from_buffers(pa.int64(), 3, [validity, pa.array([1, 99, 3]).buffers()[1]])
    assert digest(numbers) == digest(pa.array([1, None, 3]))


def test_schemas_count() -> None:
    """Names, order, types, nullability and metadata of tables and of fields are content."""
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    noted = pa.schema([pa.field("a", pa.int64(), metadata={"unit": "m"}), pa.field("b", pa.string())])
    strict = pa.schema([pa.field("a", pa.int64(), nullable=False), pa.field("b", pa.string())])
    tables = [
        *(table, table.rename_columns(["a", "c"]), table.select(["b", "a"]), table.slice(0, 1)),
        *(table.replace_schema_metadata({"k": "v"}), table.cast(noted), table.cast(strict), table.to_batches()[0]),
    ]
    assert len({digest(each) for each in tables}) == len(tables)
    assert (
        len({digest(each.schema) for each in tables}) == len(tables) - 2
    )  # a slice and a batch have that of the table
    assert digest(pa.concat_tables([table.slice(0, 1), table.slice(1)])) == digest(table)
    assert digest(pa.py_buffer(b"abc")) != digest(pa.py_buffer(b"abd"))


def test_polars_counts_by_content() -> None:
    """Chunks and slices of Polars do not count; names, types and categories do."""
    frame = pl.DataFrame({"a": [1, 2, None], "b": ["x", None, "a longer text than fits into a view"]})
    mine = digest(frame)
    assert digest(pl.concat([frame[:1], frame[1:]], rechunk=False)) == mine
    assert digest(pl.concat([frame, frame]).slice(3, 3)) == mine
    others = [
        *(frame.rename({"a": "c"}), frame.select("b", "a"), frame[:2], frame.cast({"a": pl.Int32})),
        frame.with_columns(pl.col("b").cast(pl.Categorical)),
        *(frame.with_columns(pl.col("b").cast(pl.Enum(names))) for names in _orders(frame["b"])),
    ]
    assert len({mine, *map(digest, others)}) == len(others) + 1


def _orders(texts: Any) -> list[list[str]]:
    names = [text for text in texts if text is not None]
    return [names, names[::-1]]
