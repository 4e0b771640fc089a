"""Round trips of every format and type, with dtypes where the format can keep them."""

from __future__ import annotations

import datetime as dt
import decimal
import io
from collections import OrderedDict, namedtuple
from typing import Any

import matplotlib.figure
import numpy as np
import pandas as pd
import PIL.Image
import polars as pl
import pyarrow as pa
import pytest

from nbflow.datasets import AbstractDataset, DatasetStore
from nbflow.errors import DatasetError

Point = namedtuple("Point", "x y")


def _frame() -> pd.DataFrame:
    """Return a frame with one column of every dtype that people use."""
    return pd.DataFrame(
        {
            "int8": np.array([1, -2, 3], "int8"),
            "uint64": np.array([0, 2**64 - 1, 5], "uint64"),
            "float32": np.array([0.1, np.nan, np.inf], "float32"),
            "float64": [1 / 3, -0.0, 1e-300],
            "bool": [True, False, True],
            "text": ["a", 'größe\n"quoted"', None],
            "Int64": pd.array([1, None, 3], "Int64"),
            "boolean": pd.array([True, None, False], "boolean"),
            "category": pd.Categorical(["u", "v", "u"], categories=["v", "u", "w"], ordered=True),
            "date": pd.date_range("2020-01-01", periods=3, unit="ns"),
            "zoned": pd.date_range("2020-03-29", periods=3, tz="Europe/Berlin", unit="us"),
            "delta": pd.to_timedelta([1, 2, None], unit="s"),
        }
    )


def _polars() -> pl.DataFrame:
    """Return a polars frame with its own dtypes."""
    return pl.DataFrame(
        {
            "i": pl.Series([1, None, 3], dtype=pl.Int16),
            "s": ["a", None, "ü"],
            "c": pl.Series(["u", "v", "u"], dtype=pl.Categorical),
            "e": pl.Series(["u", "v", "u"], dtype=pl.Enum(["v", "u"])),
            "l": [[1, 2], [], None],
            "st": [{"a": 1, "b": "x"}, {"a": 2, "b": None}, {"a": None, "b": "y"}],
            "d": [dt.date(2020, 1, 1), None, dt.date(2021, 2, 3)],
            "z": pl.Series([dt.datetime(2020, 1, 1)] * 3).dt.replace_time_zone("Europe/Berlin"),
            "dec": pl.Series([decimal.Decimal("1.10"), decimal.Decimal("2.20"), None], dtype=pl.Decimal(38, 2)),
        }
    )


def _table() -> pa.Table:
    """Return an arrow table with a schema of its own."""
    return pa.table(
        {
            "i": pa.array([1, None], pa.int32()),
            "d": pa.array(["a", "b"]).dictionary_encode(),
            "t": pa.array([0, 1], pa.timestamp("ms", "UTC")),
            "l": pa.array([[1], None], pa.list_(pa.int8())),
        }
    ).replace_schema_metadata({"origin": "test"})


class TestPlain:
    """Formats of the standard library."""

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("a.pkl", {"a": [1, (2, 3)], 4: {5, 6}}),
            ("a.pickle", None),
            ("no_extension", Point(1, 2)),
            ("a.txt", "grüße\r\n\tund mehr\n"),
            ("a.txt", ""),
            ("notes.md", "# Title"),
            ("a.bin", b"\x00\xff"),
            ("a.json", {"a": [1, 2.5, "ü", None, True], "b": {"c": []}}),
            ("a.json", [1, [2, [3]]]),
            ("a.json", "text"),
            ("a.json", 10**30),
            ("a.json", 0.1),
            ("a.json", None),
            ("a.json", False),
            ("a.svg", "<svg/>"),
        ],
    )
    def test_round_trip(self, store: DatasetStore, key: str, value: Any) -> None:
        """The value comes back equal and of the same type, with its type asked for or not."""
        store.save(key, value)
        for loaded in (store.load(key), store.load(key, type(value))):
            assert loaded == value
            assert type(loaded) is type(value)

    def test_bytearray(self, store: DatasetStore) -> None:
        """A bytearray is stored as bytes and comes back as what is asked for."""
        store.save("a.bin", bytearray(b"abc"))
        assert store.load("a.bin") == b"abc"
        loaded = store.load("a.bin", bytearray)
        loaded += b"d"
        assert loaded == bytearray(b"abcd")

    def test_files_are_plain(self, store: DatasetStore) -> None:
        """Text and JSON files hold what other programs expect."""
        store.save("a.txt", "grüße\n")
        store.save("a.json", {"ü": [1]})
        assert store.driver.load("a.txt") == "grüße\n".encode()
        assert store.driver.load("a.json").decode() == '{\n  "ü": [\n    1\n  ]\n}\n'

    @pytest.mark.parametrize(
        ("value", "where"),
        [
            ({1: "a"}, "keys are strings.*the key 1"),
            ({"a": [{2.5: 0}]}, r"value\['a'\]\[0\] has the key 2\.5"),
            ([1, float("nan")], r"no nan, which is at value\[1\]"),
            ({"a": float("inf")}, r"no inf, which is at value\['a'\]"),
            ({"a": (1, {2})}, r"no set, which is at value\['a'\]\[1\]"),
            ([np.int64(3)], r"no int64, which is at value\[0\]"),
        ],
    )
    def test_json_refuses_what_it_would_change(self, store: DatasetStore, value: Any, where: str) -> None:
        """JSON names the place of what it cannot hold, and writes nothing."""
        with pytest.raises(DatasetError, match=where):
            store.save("a.json", value)
        assert store.list_keys() == []

    def test_json_tuple(self, store: DatasetStore) -> None:
        """A tuple comes back as a list, which is an error only for one who wants a tuple."""
        store.save("a.json", (1, 2))
        assert store.load("a.json") == [1, 2]
        with pytest.raises(DatasetError, match="holds a list, not a tuple"):
            store.load("a.json", tuple)

    def test_json_subclasses(self, store: DatasetStore) -> None:
        """Subclasses of what JSON holds are stored as their bases."""
        store.save("a.json", OrderedDict(b=1, a=Point(1, 2)))
        assert store.load("a.json", dict) == {"b": 1, "a": [1, 2]}

    @pytest.mark.parametrize(
        ("key", "value", "options", "data"),
        [
            ("a.txt", "ü", {"encoding": "latin-1"}, b"\xfc"),
            ("a.json", {"b": 1, "a": 2}, {"indent": None, "sort_keys": True}, b'{"a": 2, "b": 1}\n'),
            ("a.json", [float("inf")], {"indent": None, "allow_nan": True}, b"[Infinity]\n"),
            ("a.pkl", 1, {"protocol": 0}, b"I1\n."),
        ],
    )
    def test_options(self, store: DatasetStore, key: str, value: Any, options: dict[str, Any], data: bytes) -> None:
        """Options change the file, and the same options read it back."""
        store.save(key, value, options=options)
        assert store.driver.load(key) == data
        assert store.load(key, options=options) == value


class TestTables:
    """CSV, Parquet and Feather for three libraries."""

    @pytest.mark.parametrize("key", ["a.parquet", "a.pq", "a.feather", "a.arrow", "a.ipc", "a.pkl"])
    @pytest.mark.parametrize("index", ["default", "named", "times", "levels"])
    def test_pandas_exact(self, store: DatasetStore, key: str, index: str) -> None:
        """Dtypes, categories, zones, missing values and every kind of index come back."""
        frame = _frame()
        if index == "named":
            frame.index = pd.Index([5, 3, 9], name="id")
        elif index == "times":
            frame.index = pd.date_range("2021", periods=3, tz="UTC", name="when")
        elif index == "levels":
            frame.index = pd.MultiIndex.from_tuples([(1, "a"), (1, "b"), (2, "a")], names=["n", None])
        store.save(key, frame)
        pd.testing.assert_frame_equal(store.load(key), frame, check_freq=False)
        pd.testing.assert_frame_equal(store.load(key, pd.DataFrame), frame, check_freq=False)

    @pytest.mark.parametrize("key", ["a.parquet", "a.feather", "a.pkl"])
    def test_polars_exact(self, store: DatasetStore, key: str) -> None:
        """Nested and categorical dtypes of polars come back."""
        store.save(key, _polars())
        loaded = store.load(key, pl.DataFrame)
        assert loaded.schema == _polars().schema
        assert loaded.equals(_polars())

    @pytest.mark.parametrize("key", ["a.parquet", "a.feather", "a.pkl"])
    def test_arrow_exact(self, store: DatasetStore, key: str) -> None:
        """The schema of an arrow table comes back."""
        store.save(key, _table())
        loaded = store.load(key, pa.Table)
        assert loaded.schema.equals(_table().schema)
        assert loaded.equals(_table())

    @pytest.mark.parametrize("key", ["a.csv", "a.parquet", "a.feather"])
    def test_libraries_read_each_other(self, store: DatasetStore, key: str) -> None:
        """What one library saved, the two others load."""
        columns = {"a": [1, 2], "b": [0.5, 1.5], "c": ["x", "y"]}
        frames: list[Any] = [pd.DataFrame(columns), pl.DataFrame(columns), pa.table(columns)]
        for saved in frames:
            store.save(key, saved)
            assert store.load(key, pd.DataFrame).to_dict("list") == columns
            assert store.load(key, pl.DataFrame).to_dict(as_series=False) == columns
            assert store.load(key, pa.Table).to_pydict() == columns
            assert isinstance(store.load(key), pd.DataFrame)

    def test_csv_numbers_are_exact(self, store: DatasetStore) -> None:
        """Floats come back from CSV to the last bit."""
        numbers = np.random.default_rng(7).integers(0, 2**62, 2000).view("float64")
        frame = pd.DataFrame(
            {
                "x": numbers[np.isfinite(numbers)],
            }
        )
        store.save("a.csv", frame)
        pd.testing.assert_frame_equal(store.load("a.csv"), frame, check_exact=True)

    @pytest.mark.parametrize(
        "table", [pd.DataFrame(), pl.DataFrame(), pa.table({})], ids=lambda table: type(table).__module__
    )
    def test_csv_needs_columns(self, store: DatasetStore, table: Any) -> None:
        """A table without columns is refused as CSV, which could not be read back, and fine as Parquet."""
        with pytest.raises(DatasetError, match="without columns"):
            store.save("a.csv", table)
        store.save("a.parquet", table)
        assert store.load("a.parquet", type(table)).shape == (0, 0)

    def test_csv_default_index_is_left_out(self, store: DatasetStore) -> None:
        """A default index is not written, another one is, so that nothing is lost."""
        frame = pd.DataFrame({"a": [1, 2]})
        store.save("plain.csv", frame)
        store.save("named.csv", frame.set_axis(pd.Index(["x", "y"], name="id")))
        store.save("filtered.csv", frame[1:])
        assert store.driver.load("plain.csv").split() == [b"a", b"1", b"2"]
        assert store.driver.load("named.csv").split() == [b"id,a", b"x,1", b"y,2"]
        loaded = store.load("filtered.csv", options={"index_col": 0})
        pd.testing.assert_frame_equal(loaded, frame[1:], check_index_type=False)

    @pytest.mark.parametrize(
        ("type_", "key", "save", "load"),
        [
            (pd.DataFrame, "a.csv", {"sep": ";"}, {"sep": ";"}),
            (pd.DataFrame, "a.csv", {}, {"engine": "python"}),
            (pd.DataFrame, "a.csv", {"encoding": "utf-16"}, {"encoding": "utf-16"}),
            (pd.DataFrame, "a.parquet", {"compression": "gzip"}, {"columns": ["a", "b"]}),
            (pd.DataFrame, "a.feather", {"compression": "uncompressed"}, {"columns": ["a", "b"]}),
            (pl.DataFrame, "a.csv", {"separator": ";"}, {"separator": ";"}),
            (pl.DataFrame, "a.parquet", {"compression": "gzip"}, {"columns": ["a", "b"]}),
            (pl.DataFrame, "a.feather", {"compression": "zstd"}, {"columns": ["a", "b"]}),
            (pa.Table, "a.parquet", {"compression": "gzip"}, {"columns": ["a", "b"]}),
            (pa.Table, "a.feather", {"compression": "zstd"}, {"columns": ["a", "b"]}),
        ],
    )
    def test_options(self, store: DatasetStore, type_: Any, key: str, save: Any, load: Any) -> None:
        """Options reach the writer and the reader of each library."""
        columns = {"a": [1, 2], "b": ["x", "y"]}
        value = pa.table(columns) if type_ is pa.Table else type_(columns)
        store.save(key, value, options=save)
        loaded = store.load(key, type_, options=load)
        assert loaded.equals(value)

    def test_arrow_csv_options(self, store: DatasetStore) -> None:
        """The option objects of pyarrow are passed on."""
        from pyarrow import csv

        store.save("a.csv", _table().select(["i"]), options={"write_options": csv.WriteOptions(include_header=False)})
        loaded = store.load("a.csv", pa.Table, options={"read_options": csv.ReadOptions(column_names=["n"])})
        assert loaded.column_names == ["n"]

    def test_bad_option_is_explained(self, store: DatasetStore) -> None:
        """An option that the library does not know names itself in the error."""
        with pytest.raises(DatasetError, match="no_such_option"):
            store.save("a.csv", _frame(), options={"no_such_option": 1})
        assert store.list_keys() == []

    def test_subclass_of_frame(self, store: DatasetStore) -> None:
        """A subclass is stored as the frame that it is."""

        class Mine(pd.DataFrame):
            pass

        store.save("a.parquet", Mine({"a": [1]}))
        assert type(store.load("a.parquet")) is pd.DataFrame

    @pytest.mark.parametrize("key", ["a.parquet", "a.feather"])
    @pytest.mark.parametrize(
        "frame",
        [
            pd.DataFrame(np.eye(2)),
            pd.DataFrame({("a", "b"): [1], ("a", "c"): [2]}),
            pd.DataFrame({"a": [[1], [2, 3]]}),
            pd.DataFrame({"p": pd.period_range("2020", periods=2, freq="M")}),
        ],
        ids=["numbers", "levels", "lists", "periods"],
    )
    def test_pandas_unusual_columns(self, store: DatasetStore, key: str, frame: pd.DataFrame) -> None:
        """Column names that are no strings, and cells that are no scalars, come back."""
        frame.attrs["unit"] = "m"
        store.save(key, frame)
        loaded = store.load(key)
        if key.endswith("parquet") or int(pa.__version__.split(".")[0]) >= 22:
            assert loaded.attrs == {"unit": "m"}
        pd.testing.assert_frame_equal(loaded, frame)


class TestArrays:
    """NPY and NPZ."""

    @pytest.mark.parametrize(
        "array",
        [
            np.arange(6, dtype=">i2").reshape(2, 3),
            np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            np.array(3 + 4j),
            np.zeros((0, 3), "float16"),
            np.array(["ab", "ü"]),
            np.array([b"ab"]),
            np.array(["2020-01-01", "NaT"], "datetime64[D]"),
            np.array([(1, 2.5)], dtype=[("n", "i4"), ("x", "f8")]),
            np.array([True, False]),
        ],
        ids=str,
    )
    def test_exact(self, store: DatasetStore, array: np.ndarray[Any, Any]) -> None:
        """Dtype, byte order, shape and memory order come back, alone and by name."""
        store.save("a.npy", array)
        store.save("a.npz", {"x": array, "y": np.arange(2)})
        for loaded in (store.load("a.npy"), store.load("a.npy", np.ndarray), store.load("a.npz")["x"]):
            assert loaded.dtype == array.dtype
            assert loaded.shape == array.shape
            assert loaded.flags.f_contiguous == array.flags.f_contiguous
            np.testing.assert_array_equal(loaded, array)
            loaded[...] = loaded  # is writable

    def test_compressed(self, store: DatasetStore) -> None:
        """`compressed` makes the file smaller and changes nothing else."""
        value = {"a": np.zeros(10_000), "a.npy": np.ones(1), "file": np.ones(2), "allow_pickle": np.ones(3)}
        store.save("a.npz", value)
        store.save("b.npz", value, options={"compressed": True})
        assert len(store.driver.load("b.npz")) < len(store.driver.load("a.npz")) / 10
        loaded = store.load("b.npz", dict)
        assert list(loaded) == list(value)
        for name, array in value.items():
            np.testing.assert_array_equal(loaded[name], array)

    def test_archive_is_numpys(self, store: DatasetStore) -> None:
        """numpy reads our archives, and we read those of numpy."""
        path = store.save("a.npz", {"x": np.arange(3)})
        with np.load(path) as archive:
            assert archive["x"].tolist() == [0, 1, 2]
        np.savez(path, np.arange(4), y=np.array(5))
        loaded = store.load("a.npz")
        assert (loaded["arr_0"].tolist(), loaded["y"].tolist()) == ([0, 1, 2, 3], 5)

    @pytest.mark.parametrize(
        ("key", "value", "why"),
        [
            ("a.npy", np.array([object()]), "Python objects"),
            ("a.npy", np.ma.array([1, 2], mask=[True, False]), "MaskedArray"),
            ("a.npz", {"a": [1, 2]}, r"value\['a'\] is of type list"),
            ("a.npz", {1: np.ones(1)}, "has the key 1"),
        ],
    )
    def test_refuses_what_would_be_lost(self, store: DatasetStore, key: str, value: Any, why: str) -> None:
        """Masks, objects and values that are no arrays are refused, with the reason."""
        with pytest.raises(DatasetError, match=why):
            store.save(key, value)

    def test_memory_map(self, store: DatasetStore, tmp_path: Any) -> None:
        """A memory-mapped array is stored like any other."""
        np.save(tmp_path / "m.npy", np.arange(5))
        store.save("a.npy", np.load(tmp_path / "m.npy", mmap_mode="r"))
        assert store.load("a.npy").tolist() == [0, 1, 2, 3, 4]

    def test_no_pickles_inside(self, store: DatasetStore) -> None:
        """A file with pickled objects is refused instead of run."""
        buffer = io.BytesIO()
        np.save(buffer, np.array([{}]), allow_pickle=True)
        store.driver.save("a.npy", buffer.getvalue())
        with pytest.raises(DatasetError, match="pickle"):
            store.load("a.npy")


class TestImages:
    """PNG and SVG."""

    @staticmethod
    def _figure() -> matplotlib.figure.Figure:
        figure = matplotlib.figure.Figure(figsize=(1, 1))
        figure.subplots().plot([1, 2])
        return figure

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "1", "P", "I;16"])
    def test_image(self, store: DatasetStore, mode: str) -> None:
        """A Pillow image of any mode of PNG comes back with its pixels."""
        image = PIL.Image.new(mode, (3, 2))
        image.putpixel((1, 1), 1)
        store.save("a.png", image)
        for loaded in (store.load("a.png"), store.load("a.png", PIL.Image.Image)):
            assert loaded.mode == mode
            assert loaded.tobytes() == image.tobytes()

    @pytest.mark.parametrize(
        ("shape", "dtype"),
        [((2, 3, 3), "uint8"), ((2, 3, 4), "uint8"), ((2, 3), "uint8"), ((2, 3), "uint16"), ((2, 3), "bool")],
    )
    def test_array(self, store: DatasetStore, shape: tuple[int, ...], dtype: str) -> None:
        """Pixels come back with shape and dtype."""
        pixels = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        store.save("a.png", pixels)
        loaded = store.load("a.png", np.ndarray)
        assert loaded.dtype == pixels.dtype
        np.testing.assert_array_equal(loaded, pixels)

    def test_palette_as_array(self, store: DatasetStore) -> None:
        """An image with a palette gives its colours, not their numbers."""
        image = PIL.Image.new("P", (1, 1))
        image.putpalette([10, 20, 30])
        store.save("a.png", image)
        assert store.load("a.png", np.ndarray).tolist() == [[[10, 20, 30]]]

    def test_array_of_wrong_dtype(self, store: DatasetStore) -> None:
        """Floats are no pixels, and the error says what to do."""
        with pytest.raises(DatasetError, match="float64; scale the array"):
            store.save("a.png", np.zeros((2, 2)))

    def test_figure_png(self, store: DatasetStore) -> None:
        """A figure is drawn in the resolution asked for, and loads as an image, an array or bytes."""
        store.save("a.png", self._figure(), options={"dpi": 50})
        assert store.load("a.png").size == (50, 50)
        assert store.load("a.png", np.ndarray).shape == (50, 50, 4)
        store.save("b.png", store.load("a.png", bytes))
        assert store.driver.load("b.png") == store.driver.load("a.png")

    def test_figure_svg(self, store: DatasetStore) -> None:
        """A figure as SVG loads as text."""
        store.save("a.svg", self._figure())
        assert "</svg>" in store.load("a.svg")
        assert store.load("a.svg", str) == store.load("a.svg")

    @pytest.mark.parametrize(("key", "instead"), [("a.png", "PIL.Image.Image"), ("a.svg", "a str")])
    def test_figure_does_not_load(self, store: DatasetStore, key: str, instead: str) -> None:
        """A picture cannot become a figure again, and the error says what it can become."""
        store.save(key, self._figure())
        with pytest.raises(DatasetError, match=instead):
            store.load(key, matplotlib.figure.Figure)

    def test_bytes_must_be_png(self, store: DatasetStore) -> None:
        """Bytes of another kind are refused under `.png`."""
        with pytest.raises(DatasetError, match="no PNG"):
            store.save("a.png", b"GIF89a")


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("a.pkl", b"\x80\x04torn"),
        ("a.pkl", b""),
        ("a.txt", b"\xff"),
        ("a.json", b"{"),
        ("a.csv", b""),
        ("a.parquet", b"PAR1"),
        ("a.feather", b"torn"),
        ("a.npy", b"\x93NUMPY"),
        ("a.npz", b"PK"),
        ("a.png", b"\x89PNG\r\n\x1a\n"),
        ("no_extension", b"a,b\n1,2\n"),
    ],
)
def test_damaged_files(store: DatasetStore, key: str, data: bytes) -> None:
    """A file that does not hold what its name says is a `DatasetError` that names it and its cause."""
    store.driver.save(key, data)
    with pytest.raises(DatasetError, match=f"Cannot load '{key}' as .*may be damaged") as caught:
        store.load(key)
    assert caught.value.__cause__ is not None


def test_every_format_is_covered() -> None:
    """The formats are the documented ones; who adds one adds its round trips above."""
    assert AbstractDataset._registry.formats() == [
        "bytes", "csv", "feather", "json", "npy", "npz", "parquet", "pickle", "png", "svg", "text", "yaml",
    ]  # fmt: skip
