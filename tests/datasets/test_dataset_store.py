"""`DatasetStore`: what decides the format, what is refused, and what a failure leaves behind."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest

from nbflow.datasets import AbstractDataset, DatasetStore
from nbflow.errors import DatasetError, DatasetNotFoundError
from nbflow.storage import Driver, FileDriver
from nbflow.testing import contracts
from nbflow.testing.faults import FaultyDriver


class DictDriver(Driver):
    """A driver as others write it: a dictionary, a plain `KeyError`, and no care for keys."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def save(self, key: str, data: bytes) -> str:
        self.values[key] = data
        return f"dict:{key}"

    def load(self, key: str) -> bytes:
        return self.values[key]

    def exists(self, key: str) -> bool:
        return key in self.values

    def delete(self, key: str) -> bool:
        return self.values.pop(key, None) is not None

    def list_keys(self) -> list[str]:
        return sorted(self.values)


class TestFormat:
    """The extension decides; what contradicts it is an error."""

    def test_explicit_format(self, store: DatasetStore) -> None:
        """A key without a known extension takes the format that is named, to save and to load."""
        store.save("table", pd.DataFrame({"a": [1]}), format="csv")
        store.save("alpha_0.5", "text", format="text")
        assert store.load("table", format="csv").equals(pd.DataFrame({"a": [1]}))
        assert store.load("table", pd.DataFrame, format="csv").equals(pd.DataFrame({"a": [1]}))
        assert store.load("alpha_0.5", format="text") == "text"

    def test_format_that_the_extension_allows(self, store: DatasetStore) -> None:
        """Naming the format of the extension, or an alias of it, changes nothing."""
        store.save("a.arrow", pd.DataFrame({"a": [1]}), format="arrow")
        store.save("b.bin", b"x", format="raw")
        assert store.load("a.arrow", format="feather").equals(store.load("a.arrow"))

    @pytest.mark.parametrize(
        ("key", "format", "says"),
        [
            ("a.csv", "pickle", r"'a\.csv'.*'\.csv' stands for csv.*format='pickle'"),
            ("a.csv", "npy", r"'\.csv' stands for csv"),
            ("a.pkl", "json", r"'\.pkl' stands for pickle"),
            ("a.json", "svg", r"'\.json' stands for json"),
            ("a.json", "nope", r"'a\.json'.*no dataset format 'nope'"),
        ],
    )
    def test_contradiction(self, store: DatasetStore, key: str, format: str, says: str) -> None:
        """A format that the extension contradicts is refused, on both ways, and nothing is written."""
        with pytest.raises(DatasetError, match=says):
            store.save(key, "value", format=format)
        with pytest.raises(DatasetError, match=says):
            store.load(key, format=format)
        assert store.list_keys() == []

    @pytest.mark.parametrize("key", ["a.xlsx", "result_0.5", "a.csv.gz"])
    def test_unknown_extension(self, store: DatasetStore, key: str) -> None:
        """An extension that no format has is an error that names the way out."""
        for operation in (lambda: store.save(key, 1), lambda: store.load(key), lambda: store.format_of(key)):
            with pytest.raises(DatasetError, match=rf"{key}.*Use one of \.arrow.*format='pickle'"):
                operation()
        assert store.list_keys() == []

    @pytest.mark.parametrize(
        ("key", "value"),
        [("a.csv", 42), ("a.txt", 42), ("a.json", {1, 2}), ("a.npy", [1]), ("a.bin", "text"), ("a.png", 1)],
    )
    def test_type_that_the_format_cannot_hold(self, store: DatasetStore, key: str, value: Any) -> None:
        """A value that does not fit the extension is refused, naming formats that fit."""
        with pytest.raises(DatasetError, match=rf"'{key}'.*cannot hold {type(value).__name__};.*pickle \(\.pkl\)"):
            store.save(key, value)
        assert store.list_keys() == []

    @pytest.mark.parametrize("value", ["text", b"bytes", [1], pd.DataFrame({"a": [1]}), None])
    def test_without_extension(self, store: DatasetStore, value: Any) -> None:
        """A key without extension holds any value, and needs no hint to load it."""
        store.save("plain", value)
        loaded = store.load("plain")
        assert loaded.equals(value) if isinstance(value, pd.DataFrame) else loaded == value
        assert store.format_of("plain", value) == "pickle"

    @pytest.mark.parametrize(
        ("key", "value", "format", "found"),
        [
            ("a.CSV", None, None, "csv"),
            ("a.csv", pd.DataFrame(), None, "csv"),
            ("a.csv", pd.DataFrame, None, "csv"),
            ("a.arrow", None, "ipc", "feather"),
            ("a", None, "raw", "bytes"),
            ("a.json", Mapping, None, "json"),
        ],
    )
    def test_format_of(self, store: DatasetStore, key: str, value: Any, format: str | None, found: str) -> None:
        """The format can be asked for by key alone, by value or by type."""
        assert store.format_of(key, value, format) == found

    def test_format_of_raises_as_save_would(self, store: DatasetStore) -> None:
        """A value that could not be saved has no format."""
        with pytest.raises(DatasetError, match="cannot hold int"):
            store.format_of("a.csv", 3)


class TestReturnType:
    """Loading with a type checks it."""

    def test_wrong_type(self, store: DatasetStore) -> None:
        """A value of another type is an error that says what is there."""
        store.save("a.pkl", [1])
        with pytest.raises(DatasetError, match=r"'a\.pkl' \(pickle\) holds a list, not a dict"):
            store.load("a.pkl", dict)

    def test_bases_and_generics(self, store: DatasetStore) -> None:
        """Bases, protocols, generic aliases, `object` and `Any` are all accepted."""
        store.save("a.json", {"a": 1})
        wanted: list[Any] = [dict, dict[str, int], Mapping, Mapping[str, int], object, Any, None]
        assert all(store.load("a.json", type_) == {"a": 1} for type_ in wanted)

    @pytest.mark.parametrize("wanted", ["dict", 3, int | None])
    def test_no_class(self, store: DatasetStore, wanted: Any) -> None:
        """What is no class cannot be checked against."""
        store.save("a.json", {})
        with pytest.raises(DatasetError, match="is not a class"):
            store.load("a.json", wanted)

    def test_impossible_type_is_refused_before_reading(self, store: DatasetStore) -> None:
        """A type that the format never gives is refused without a look at the file."""
        with pytest.raises(DatasetError, match="cannot hold int"):
            store.load("not_there.csv", int)


class TestKeys:
    """Keys stay inside, whatever the driver does."""

    @pytest.mark.parametrize("key", contracts.DriverContract.hostile_keys, ids=lambda key: repr(key)[:20])
    def test_refused_for_any_driver(self, key: Any) -> None:
        """A hostile key is refused even where the driver would take it."""
        store = DatasetStore(DictDriver())
        reading = [store.load, store.exists, store.delete, store.format_of]
        for operation in (lambda: store.save(key, 1), *(lambda f=f: f(key) for f in reading)):
            with pytest.raises(DatasetError, match="refused"):
                operation()

    def test_filled_template_cannot_escape(self, tmp_path: Path) -> None:
        """A parameter that is filled into a key cannot lead out of the base."""
        store = DatasetStore(tmp_path / "base")
        for name in ("../../evil", "/tmp/evil", "..", "a/../../evil"):
            with pytest.raises(DatasetError, match="refused"):
                store.save(f"{name}/x.txt", "x")
        assert not any(tmp_path.iterdir())

    def test_allow_outside(self, tmp_path: Path) -> None:
        """The opt-out opens the way, for a path as for a driver."""
        for base in (tmp_path / "base", FileDriver(tmp_path / "base")):
            store = DatasetStore(base, allow_outside=True)
            assert store.save("../up.txt", "x") == str(tmp_path / "up.txt")
            assert store.load(str(tmp_path / "up.txt")) == "x"
        assert DatasetStore(FileDriver(tmp_path / "base", allow_outside=True)).load("../up.txt") == "x"

    def test_paths_as_keys(self, store: DatasetStore) -> None:
        """A relative path is a key, too."""
        store.save(Path("a") / "b.txt", "x")
        assert store.load("a/b.txt") == "x"
        assert store.exists(Path("a/b.txt"))
        assert store.delete(Path("a/b.txt"))


class TestStore:
    """Saving, finding, deleting, travelling."""

    def test_nothing_before_the_first_save(self, tmp_path: Path) -> None:
        """Looking leaves no trace, and neither does a save that fails."""
        store = DatasetStore(tmp_path / "data")
        assert store.list_keys() == []
        assert not store.exists("a.txt")
        with pytest.raises(DatasetError):
            store.save("a.pkl", lambda: 0)
        assert not (tmp_path / "data").exists()

    def test_save_returns_path(self, tmp_path: Path) -> None:
        """The full path comes back, a URL from a store behind one."""
        assert DatasetStore(tmp_path).save("a/b.txt", "x") == str(tmp_path / "a" / "b.txt")
        assert DatasetStore("memory://nbflow").save("a.txt", "x").startswith("memory://")

    def test_absent(self, store: DatasetStore) -> None:
        """A dataset that is not there is a `KeyError` that names key and place."""
        with pytest.raises(DatasetNotFoundError, match=r"'no\.csv' in .*data") as caught:
            store.load("no.csv")
        assert isinstance(caught.value, KeyError)
        assert store.delete("no.csv") is False

    def test_list_keys(self, store: DatasetStore) -> None:
        """Keys are listed in order, by prefix, without hidden ones unless asked for."""
        for key in ("b.txt", "a/c.txt", "a/.d.txt", ".git/e.txt"):
            store.save(key, "x")
        assert store.list_keys() == ["a/c.txt", "b.txt"]
        assert store.list_keys("a/") == ["a/c.txt"]
        assert store.list_keys(hidden=True) == [".git/e.txt", "a/.d.txt", "a/c.txt", "b.txt"]

    def test_delete(self, store: DatasetStore) -> None:
        """A deleted dataset is gone."""
        store.save("a.txt", "x")
        assert store.exists("a.txt")
        assert store.delete("a.txt") is True
        assert not store.exists("a.txt")

    @pytest.mark.parametrize("kind", ["local", "memory", "fs", "dict"])
    def test_travels(self, tmp_path: Path, kind: str) -> None:
        """A pickled store leads to the same datasets, with the same strictness."""
        bases: dict[str, Any] = {
            "local": tmp_path,
            "memory": f"memory://nbflow-{uuid.uuid4().hex}",
            "fs": FileDriver(tmp_path, fsspec.filesystem("file")),
            "dict": DictDriver(),
        }
        store = DatasetStore(bases[kind], allow_outside=kind == "local")
        store.save("a.json", [1])
        copy = pickle.loads(pickle.dumps(store))
        assert copy.load("a.json") == [1]
        assert (copy.base_path, copy.is_local, copy.in_process) == (store.base_path, store.is_local, store.in_process)
        if kind != "local":
            with pytest.raises(DatasetError):
                copy.load("../a.json")

    def test_bad_base(self) -> None:
        """What is neither path nor driver is refused."""
        wrong: Any = 3
        with pytest.raises(DatasetError, match="base_path=3"):
            DatasetStore(wrong)

    def test_repr(self, store: DatasetStore) -> None:
        """The text form names the place."""
        assert store.base_path in repr(store)

    def test_threads(self, store: DatasetStore) -> None:
        """Saves from many threads are complete when they return."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: store.save(f"part_{n}.json", n), range(50)))
        assert sorted(store.load(key) for key in store.list_keys()) == list(range(50))

    @pytest.mark.parametrize(
        ("options", "says"),
        [({"encodng": "utf-8"}, "'encodng'.*Its options: encoding"), ({1: 2}, "strings"), ([1], "do not fit")],
    )
    def test_bad_options(self, store: DatasetStore, options: Any, says: str) -> None:
        """An option that the format does not have is an error that lists those it has."""
        with pytest.raises(DatasetError, match=says):
            store.save("a.txt", "x", options=options)
        with pytest.raises(DatasetError, match="Its options: none"):
            store.save("a.bin", b"x", options={"level": 3})


class TestFailures:
    """What goes wrong below arrives as `DatasetError` and leaves the old value."""

    def test_failing_driver(self, tmp_path: Path) -> None:
        """The save that fails names key and cause; the value before is still there."""
        store = DatasetStore(FaultyDriver(FileDriver(tmp_path), fail={2}))
        store.save("a.json", "old")
        with pytest.raises(DatasetError, match=r"save 'a\.json'.*save 2 was told to fail") as caught:
            store.save("a.json", "new")
        assert isinstance(caught.value.__cause__, OSError)
        assert store.load("a.json") == "old"

    def test_torn_value(self, tmp_path: Path) -> None:
        """A value that arrived in part is an error when it is loaded, not half a value."""
        for key, value in (("a.pkl", list(range(9))), ("a.parquet", pd.DataFrame({"a": [1]})), ("a.json", [1, 2])):
            store = DatasetStore(FaultyDriver(FileDriver(tmp_path), torn={1}))
            store.save(key, value)
            with pytest.raises(DatasetError, match="may be damaged"):
                store.load(key)

    def test_unwritable_value(self, store: DatasetStore) -> None:
        """A value that cannot be turned into bytes leaves the old one."""
        store.save("a.pkl", "old")
        with pytest.raises(DatasetError, match=r"'a\.pkl' as pickle.*lambda"):
            store.save("a.pkl", lambda: 0)
        assert store.load("a.pkl") == "old"

    def test_driver_of_others(self) -> None:
        """A driver that knows nothing of our errors is understood."""
        store = DatasetStore(DictDriver())
        store.save("a.txt", "x")
        assert store.load("a.txt") == "x"
        with pytest.raises(DatasetNotFoundError, match=r"b\.txt"):
            store.load("b.txt")

        class Down(DictDriver):
            def load(self, key: str) -> bytes:
                raise ConnectionError("no route to host")

        with pytest.raises(DatasetError, match="no route to host"):
            DatasetStore(Down()).load("a.txt")

    def test_format_that_returns_no_bytes(self, store: DatasetStore) -> None:
        """A format that is wrong itself is named."""

        class Wrong(AbstractDataset, format="wrong", types=str, extensions="wrong"):
            def serialize(self, value: Any) -> Any:
                return value

            def deserialize(self, data: bytes) -> Any:
                return data

        with pytest.raises(DatasetError, match=r"Wrong\.serialize returned str, not bytes"):
            store.save("a.wrong", "x")

    def test_interrupt_passes(self, store: DatasetStore) -> None:
        """An interrupt while a value is written is not turned into an error of ours."""

        class Slow(AbstractDataset, format="slow", types=str, extensions="slow"):
            def serialize(self, value: Any) -> bytes:
                raise KeyboardInterrupt

            def deserialize(self, data: bytes) -> Any:
                return data

        with pytest.raises(KeyboardInterrupt):
            store.save("a.slow", "x")

    def test_errors_survive_pickling(self, store: DatasetStore) -> None:
        """Each kind of error crosses a process border with its message and facts."""

        class Local:
            pass

        attempts: list[Any] = [
            lambda: store.save("../a", 1),
            lambda: store.save("a.csv", Local()),
            lambda: store.save("a.xyz", 1),
            lambda: store.save("a.csv", 1, format="pickle"),
            lambda: store.save("a.txt", "x", options={"x": 1}),
            lambda: store.save("a.pkl", Local()),
            lambda: store.load("no.pkl", Local),
            lambda: store.save("b.pkl", 1) and store.load("b.pkl", Local),
        ]
        for attempt in attempts:
            with pytest.raises(DatasetError) as caught:
                attempt()
            copy = pickle.loads(pickle.dumps(caught.value))
            assert (type(copy), str(copy), copy.key) == (type(caught.value), str(caught.value), caught.value.key)
