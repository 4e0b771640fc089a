"""Formats of tables: CSV, Parquet and Feather, for pandas, polars and pyarrow.

All three libraries read each other's files, so a table can be saved by one and loaded by another; pandas is what
loading gives by default, if it is installed. `options` go to the library's own writer or reader.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from nbflow.datasets.base import AbstractDataset

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

__all__ = [
    "ArrowCsv",
    "ArrowFeather",
    "ArrowParquet",
    "PandasCsv",
    "PandasFeather",
    "PandasParquet",
    "PolarsCsv",
    "PolarsFeather",
    "PolarsParquet",
]


class _Table(AbstractDataset):
    """A table, with options for the writer or the reader of its library."""

    def __init__(self, **options: Any) -> None:
        self.options = options


class PandasCsv(_Table, format="csv", types="pandas.DataFrame", extensions="csv"):
    """A frame as text: values stay equal, but dtypes and index must be told to the reader.

    An index other than the default one is written as the first columns; `{"index_col": 0}` reads it back. Options go to
    `DataFrame.to_csv` or `pandas.read_csv`.
    """

    def serialize(self, value: pandas.DataFrame) -> bytes:
        """Return the text of the frame."""
        buffer = BytesIO()
        value.to_csv(buffer, **{"index": not _has_default_index(value), **self.options})
        return _not_empty(buffer.getvalue())

    def deserialize(self, data: bytes) -> pandas.DataFrame:
        """Return the frame that pandas makes of the text, numbers exact to the last bit."""
        import pandas

        options = dict(self.options)
        if options.get("engine", "c") == "c" and int(pandas.__version__.partition(".")[0]) < 3:
            options.setdefault("float_precision", "round_trip")  # what later versions do anyway
        frame: pandas.DataFrame = pandas.read_csv(BytesIO(data), **options)
        return frame


class PolarsCsv(_Table, format="csv", types="polars.DataFrame"):
    """A frame as text. Options go to `DataFrame.write_csv` or `polars.read_csv`."""

    def serialize(self, value: polars.DataFrame) -> bytes:
        """Return the text of the frame."""
        buffer = BytesIO()
        value.write_csv(buffer, **self.options)
        return _not_empty(buffer.getvalue())

    def deserialize(self, data: bytes) -> polars.DataFrame:
        """Return the frame that polars makes of the text."""
        import polars

        return polars.read_csv(BytesIO(data), **self.options)


class ArrowCsv(_Table, format="csv", types="pyarrow.Table"):
    """A table as text. Options go to `pyarrow.csv.write_csv` or `pyarrow.csv.read_csv`."""

    def serialize(self, value: pyarrow.Table) -> bytes:
        """Return the text of the table."""
        from pyarrow import csv

        buffer = BytesIO()
        csv.write_csv(value, buffer, **self.options)
        return _not_empty(buffer.getvalue())

    def deserialize(self, data: bytes) -> pyarrow.Table:
        """Return the table that pyarrow makes of the text."""
        from pyarrow import csv

        return csv.read_csv(BytesIO(data), **self.options)


class PandasParquet(
    _Table, format="parquet", types="pandas.DataFrame", extensions=("parquet", "pq"), requires=("pandas", "pyarrow")
):
    """A frame with its dtypes and index. Options go to `DataFrame.to_parquet` or `pandas.read_parquet`."""

    def serialize(self, value: pandas.DataFrame) -> bytes:
        """Return the file's bytes."""
        buffer = BytesIO()
        value.to_parquet(buffer, **{"engine": "pyarrow", **self.options})
        return buffer.getvalue()

    def deserialize(self, data: bytes) -> pandas.DataFrame:
        """Return the frame."""
        import pandas

        return pandas.read_parquet(BytesIO(data), **{"engine": "pyarrow", **self.options})


class PolarsParquet(_Table, format="parquet", types="polars.DataFrame"):
    """A frame with its dtypes. Options go to `DataFrame.write_parquet` or `polars.read_parquet`."""

    def serialize(self, value: polars.DataFrame) -> bytes:
        """Return the file's bytes."""
        buffer = BytesIO()
        value.write_parquet(buffer, **self.options)
        return buffer.getvalue()

    def deserialize(self, data: bytes) -> polars.DataFrame:
        """Return the frame."""
        import polars

        return polars.read_parquet(BytesIO(data), **self.options)


class ArrowParquet(_Table, format="parquet", types="pyarrow.Table"):
    """A table with its schema. Options go to `pyarrow.parquet.write_table` or `pyarrow.parquet.read_table`."""

    def serialize(self, value: pyarrow.Table) -> bytes:
        """Return the file's bytes."""
        from pyarrow import parquet

        buffer = BytesIO()
        parquet.write_table(value, buffer, **self.options)
        return buffer.getvalue()

    def deserialize(self, data: bytes) -> pyarrow.Table:
        """Return the table."""
        from pyarrow import parquet

        return parquet.read_table(BytesIO(data), **self.options)


class PandasFeather(
    _Table,
    format="feather",
    types="pandas.DataFrame",
    extensions=("feather", "arrow", "ipc"),
    aliases=("arrow", "ipc"),
    requires=("pandas", "pyarrow"),
):
    """A frame with its dtypes, its index and (from pyarrow 22) its `attrs`.

    Options go to `pyarrow.feather.write_feather` or `read_feather`.
    """

    def serialize(self, value: pandas.DataFrame) -> bytes:
        """Return the file's bytes."""
        from pyarrow import feather  # and not `DataFrame.to_feather`, which refuses an index

        buffer = BytesIO()
        feather.write_feather(value, buffer, **self.options)
        return buffer.getvalue()

    def deserialize(self, data: bytes) -> pandas.DataFrame:
        """Return the frame."""
        from pyarrow import feather

        frame: pandas.DataFrame = feather.read_feather(BytesIO(data), **self.options)
        return frame


class PolarsFeather(_Table, format="feather", types="polars.DataFrame"):
    """A frame with its dtypes. Options go to `DataFrame.write_ipc` or `polars.read_ipc`."""

    def serialize(self, value: polars.DataFrame) -> bytes:
        """Return the file's bytes."""
        buffer = BytesIO()
        value.write_ipc(buffer, **self.options)
        return buffer.getvalue()

    def deserialize(self, data: bytes) -> polars.DataFrame:
        """Return the frame."""
        import polars

        return polars.read_ipc(BytesIO(data), **self.options)


class ArrowFeather(_Table, format="feather", types="pyarrow.Table"):
    """A table with its schema. Options go to `pyarrow.feather.write_feather` or `read_table`."""

    def serialize(self, value: pyarrow.Table) -> bytes:
        """Return the file's bytes."""
        from pyarrow import feather

        buffer = BytesIO()
        feather.write_feather(value, buffer, **self.options)
        return buffer.getvalue()

    def deserialize(self, data: bytes) -> pyarrow.Table:
        """Return the table."""
        from pyarrow import feather

        return feather.read_table(BytesIO(data), **self.options)


def _not_empty(text: bytes) -> bytes:
    """Return the text of a CSV file, unless it is one that no reader accepts."""
    if not text.strip():
        raise ValueError("a table without columns makes an empty CSV file; use .parquet")
    return text


def _has_default_index(frame: pandas.DataFrame) -> bool:
    """Return whether the index only numbers the rows, so that nothing is lost without it."""
    import pandas

    index = frame.index
    return isinstance(index, pandas.RangeIndex) and index.name is None and index.start == 0 and index.step == 1
