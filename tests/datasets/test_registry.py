"""Registration of formats, look-ups, and plugins."""

from __future__ import annotations

import collections.abc
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nbflow.datasets import AbstractDataset, DatasetStore, base
from nbflow.errors import DatasetError


class Marker:
    """A type that no built-in format but pickle knows."""


class TestRegistration:
    """Class parameters, class variables, inheritance, replacement."""

    def test_class_parameters(self, store: DatasetStore) -> None:
        """A format is registered by being defined, and used by extension from then on."""

        class Shout(AbstractDataset, format="shout", types=(str, Marker), extensions=(".SHO", "loud")):
            def __init__(self, mark: str = "!") -> None:
                self.mark = mark

            def serialize(self, value: Any) -> bytes:
                return f"{value}{self.mark}".upper().encode()

            def deserialize(self, data: bytes) -> str:
                return data.decode()

        assert Shout.extensions == ("sho", "loud")
        store.save("a.sho", "hi", options={"mark": "?"})
        assert store.load("a.sho") == "HI?"
        assert AbstractDataset.get(str, "shout") is Shout
        assert AbstractDataset.infer_format(Marker, "loud") == "shout"
        assert AbstractDataset.get_extension(Marker, "shout") == "sho"

    def test_class_variables(self) -> None:
        """The same by class variables."""

        class Quiet(AbstractDataset):
            format = "quiet"
            types = Marker  # type: ignore[assignment]
            extensions = "qui"  # type: ignore[assignment]

            def serialize(self, value: Any) -> bytes:
                return b""

            def deserialize(self, data: bytes) -> Any:
                return Marker()

        assert (Quiet.types, Quiet.extensions) == ((Marker,), ("qui",))
        assert AbstractDataset.get(Marker, "quiet") is Quiet

    def test_plain_base_is_not_registered(self) -> None:
        """A subclass without parameters is just a base; one that gives some inherits the others."""
        pickle = AbstractDataset.get(object, "pickle")

        class Base(pickle):  # type: ignore[misc, valid-type]
            pass

        assert AbstractDataset.get(object, "pickle") is pickle

        class Special(Base, types=Marker):
            pass

        assert (Special.format, Special.extensions) == ("pickle", ("pkl", "pickle"))
        assert AbstractDataset.get(Marker, "pickle") is Special
        assert AbstractDataset.get(object, "pickle") is pickle

    def test_redefinition_replaces(self) -> None:
        """Running the cell of a definition again replaces the class, and keeps the order of types."""
        made = []
        for _ in range(2):

            class Mine(AbstractDataset, format="csv", types=pd.DataFrame):
                def serialize(self, value: Any) -> bytes:
                    return b""

                def deserialize(self, data: bytes) -> Any:
                    return pd.DataFrame()

            made.append(Mine)
        assert AbstractDataset.get(pd.DataFrame, "csv") is made[1]
        assert AbstractDataset.get(None, "csv") is made[1]

    @pytest.mark.parametrize(
        "params",
        [
            {"format": "x"},
            {"types": str},
            {"format": "x", "types": ()},
            {"format": "x", "types": "DataFrame"},
            {"format": "x", "types": (list[int],)},
            {"format": 3, "types": str},
        ],
        ids=str,
    )
    def test_incomplete_definition(self, params: dict[str, Any]) -> None:
        """A definition without format, or without usable types, is an error at once, and registers nothing."""
        before = AbstractDataset._registry.formats()
        with pytest.raises(DatasetError, match="Broken has format"):
            type("Broken", (AbstractDataset,), {"__qualname__": "Broken"}, **params)
        assert AbstractDataset._registry.formats() == before

    def test_registering_from_threads(self) -> None:
        """Formats defined at the same time in many threads are all there."""

        def define(number: int) -> None:
            type("T", (AbstractDataset,), {}, format=f"t{number}", types=Marker, extensions=f"t{number}")

        threads = [threading.Thread(target=define, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {f"t{number}" for number in range(20)} <= set(AbstractDataset._registry.formats())


class TestLookup:
    """What the class methods answer."""

    @pytest.mark.parametrize("step", [1, -1])
    def test_nearest_base_wins(self, step: int) -> None:
        """The class for the nearest base of the type is taken, in whatever order they were registered."""

        class Child(Marker):
            pass

        class Grandchild(Child):
            pass

        made = {
            type_: type(type_.__name__, (AbstractDataset,), {}, format="near", types=type_, extensions="near")
            for type_ in (object, Marker, Child)[::step]
        }
        assert AbstractDataset.get(Grandchild, "near") is made[Child]
        assert AbstractDataset.get(Marker, "near") is made[Marker]
        assert AbstractDataset.get(int, "near") is made[object]

    @pytest.mark.parametrize(
        ("type_", "extension", "format"),
        [
            (str, "txt", "text"),
            (str, ".JSON", "json"),
            (str, "svg", "svg"),
            (dict, "pkl", "pickle"),
            (dict, "npz", "npz"),
            (bytes, "bin", "bytes"),
            (pd.DataFrame, "arrow", "feather"),
            (pd.DataFrame, None, "pickle"),
            (None, "csv", "csv"),
            (None, None, "pickle"),
            (bool, "json", "json"),
        ],
    )
    def test_infer_format(self, type_: Any, extension: str | None, format: str) -> None:
        """The extension decides; without one it is pickle."""
        assert AbstractDataset.infer_format(type_, extension) == format

    def test_first_format_that_holds_the_type(self) -> None:
        """Where formats share an extension, the first that holds the type is taken."""
        type("Alt", (AbstractDataset,), {}, format="alt", types=Marker, extensions="csv")
        assert AbstractDataset.formats_of_extension("csv") == ("csv", "alt")
        assert AbstractDataset.infer_format(Marker, "csv") == "alt"
        assert AbstractDataset.infer_format(pd.DataFrame, "csv") == "csv"

    def test_loading_by_a_base(self) -> None:
        """For loading, a base or protocol of what the format holds will do."""
        with pytest.raises(DatasetError):
            AbstractDataset.get(collections.abc.Mapping, "json")
        found = AbstractDataset.get(collections.abc.Mapping, "json", loading=True)
        assert found is AbstractDataset.get(dict, "json")

    def test_formats_for_type(self) -> None:
        """All formats that hold a type, as a set."""
        assert AbstractDataset.get_formats_for_type(pd.DataFrame) == {"csv", "parquet", "feather", "pickle"}
        assert AbstractDataset.get_formats_for_type(Marker) == {"pickle"}
        assert AbstractDataset.get_formats_for_type(str) == {"text", "json", "svg", "pickle"}

    @pytest.mark.parametrize(
        ("type_", "format", "extension"),
        [
            (str, "text", "txt"),
            (Marker, "pickle", "pkl"),
            (Marker, "csv", None),
            (str, "nope", None),
            (str, "txt", "txt"),
        ],
    )
    def test_get_extension(self, type_: type, format: str, extension: str | None) -> None:
        """The preferred extension, or None."""
        assert AbstractDataset.get_extension(type_, format) == extension

    def test_extension_of_later_types(self) -> None:
        """A class that gives no extension has that of its format."""
        import polars

        assert AbstractDataset.get_extension(polars.DataFrame, "parquet") == "parquet"

    def test_messages(self) -> None:
        """Errors name the value, the reason and what would work."""
        with pytest.raises(DatasetError, match=r"cannot hold int; it holds pandas\.DataFrame.*json \(\.json\)"):
            AbstractDataset.get(int, "csv")
        with pytest.raises(DatasetError, match=r"no dataset format 'xls'.*Use one of bytes, csv"):
            AbstractDataset.get(int, "xls")
        with pytest.raises(DatasetError, match=r"extension '\.xls'.*Use one of \.arrow"):
            AbstractDataset.infer_format(int, "xls")


class _Point:
    """An entry point whose loading is a function call."""

    def __init__(self, name: str, load: Any) -> None:
        self.name = name
        self.value = f"{name}_package"
        self.load = load


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> list[_Point]:
    """Return a list that stands for the installed entry points."""
    found: list[_Point] = []
    monkeypatch.setattr(base, "entry_points", lambda group: found if group == "nbflow.datasets" else [])
    return found


def _define(name: str, types: Any = Marker) -> Any:
    return lambda: type(name, (AbstractDataset,), {}, format=name, types=types, extensions=name)


class TestPlugins:
    """Entry points of the group `nbflow.datasets`."""

    def test_found_when_needed(self, plugins: list[_Point]) -> None:
        """An unknown extension, format or type asks the plugins, each once."""
        loads: list[str] = []
        plugins.append(_Point("geo", lambda: (loads.append("geo"), _define("geo")())))
        assert AbstractDataset.infer_format(str, "txt") == "text"
        assert loads == []
        assert AbstractDataset.infer_format(Marker, "geo") == "geo"
        assert AbstractDataset.get(Marker, "geo").format == "geo"
        with pytest.raises(DatasetError):
            AbstractDataset.get(Marker, "other")
        assert loads == ["geo"]

    def test_known_format_new_type(self, plugins: list[_Point]) -> None:
        """A plugin may add a type to a format that exists."""
        plugins.append(
            _Point("mark", lambda: type("C", (AbstractDataset,), {}, format="csv", types=Marker, requires=()))
        )
        assert AbstractDataset.get(Marker, "csv").format == "csv"

    def test_broken_plugin_does_not_hide_the_answer(self, plugins: list[_Point]) -> None:
        """A plugin that fails to import is reported once; the others still work."""

        def broken() -> None:
            raise ImportError("no module named zarr")

        plugins.extend([_Point("broken", broken), _Point("geo", _define("geo"))])
        with pytest.warns(RuntimeWarning, match=r"plugin 'broken' \(broken_package\).*zarr"):
            assert AbstractDataset.infer_format(Marker, "geo") == "geo"
        with pytest.raises(DatasetError):
            AbstractDataset.get(Marker, "other")

    def test_load_by_name(self, plugins: list[_Point]) -> None:
        """Named plugins are loaded, unknown names are an error that lists the known ones."""
        plugins.extend([_Point("one", _define("one")), _Point("two", _define("two"))])
        AbstractDataset.load_plugins("two", auto_discover=False)
        assert AbstractDataset.get_formats_for_type(Marker) == {"two", "pickle"}
        with pytest.raises(DatasetError, match=r"'three'.*there are: one, two"):
            AbstractDataset.load_plugins("three")
        AbstractDataset.load_plugins()
        assert AbstractDataset.get_formats_for_type(Marker) == {"one", "two", "pickle"}

    def test_named_plugin_that_fails(self, plugins: list[_Point]) -> None:
        """A plugin asked for by name raises its failure."""

        def broken() -> None:
            raise RuntimeError("wrong version")

        plugins.append(_Point("broken", broken))
        with pytest.raises(DatasetError, match="RuntimeError: wrong version") as caught:
            AbstractDataset.load_plugins("broken")
        assert isinstance(caught.value.__cause__, RuntimeError)

    def test_discovery_can_be_switched_off(self, plugins: list[_Point]) -> None:
        """Without discovery only what is registered counts."""
        plugins.append(_Point("geo", _define("geo")))
        AbstractDataset.load_plugins(auto_discover=False)
        with pytest.raises(DatasetError, match="'geo'"):
            AbstractDataset.get(Marker, "geo")
        AbstractDataset.load_plugins(auto_discover=True)
        assert AbstractDataset.get(Marker, "geo").format == "geo"

    def test_real_entry_point(self, tmp_path: Path) -> None:
        """An installed distribution with an entry point is found by a fresh interpreter."""
        (tmp_path / "yamlish.py").write_text(
            textwrap.dedent(
                """
                from nbflow.datasets import AbstractDataset

                class Yamlish(AbstractDataset, format="yamlish", types=dict, extensions="yml"):
                    def serialize(self, value):
                        return "".join(f"{k}: {v}\\n" for k, v in value.items()).encode()

                    def deserialize(self, data):
                        return dict(line.split(": ") for line in data.decode().splitlines())
                """
            ),
            encoding="utf-8",
        )
        info = tmp_path / "yamlish-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: yamlish\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text("[nbflow.datasets]\nyamlish = yamlish\n", encoding="utf-8")
        code = textwrap.dedent(
            f"""
            import sys
            sys.path.append({str(tmp_path)!r})
            from nbflow.datasets import DatasetStore
            store = DatasetStore({str(tmp_path / "data")!r})
            store.save("a.yml", {{"a": "1"}})
            assert store.load("a.yml") == {{"a": "1"}}
            """
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestLaziness:
    """Nothing is imported before it is needed."""

    def test_import(self) -> None:
        """Importing the package, and saving text, imports no library."""
        code = (
            "import sys, tempfile\n"
            "from nbflow.datasets import AbstractDataset, DatasetStore\n"
            "with tempfile.TemporaryDirectory() as d:\n"
            "    s = DatasetStore(d); s.save('a.json', {'a': 1}); s.load('a.json'); s.format_of('a.csv')\n"
            "AbstractDataset.get_extension(str, 'csv')\n"
            "heavy = {'numpy', 'pandas', 'polars', 'pyarrow', 'matplotlib', 'PIL', 'fsspec', 'asyncio'}\n"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_only_the_library_asked_for(self, tmp_path: Path) -> None:
        """Loading a frame by polars does not import pandas."""
        DatasetStore(tmp_path).save("a.csv", pd.DataFrame({"a": [1]}))
        code = (
            "import sys, polars\n"
            "from nbflow.datasets import DatasetStore\n"
            f"assert DatasetStore({str(tmp_path)!r}).load('a.csv', polars.DataFrame)['a'].to_list() == [1]\n"
            "assert not {'pandas', 'matplotlib'} & set(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    @pytest.mark.parametrize(
        ("key", "missing", "named"),
        [("a.csv", ["pandas", "polars", "pyarrow"], "pandas"), ("a.parquet", ["pyarrow", "polars"], "pyarrow"),
         ("a.npy", ["numpy"], "numpy"), ("a.feather", ["pandas", "polars", "pyarrow"], "pandas and pyarrow")],
    )  # fmt: skip
    def test_missing_library(
        self, store: DatasetStore, monkeypatch: pytest.MonkeyPatch, key: str, missing: list[str], named: str
    ) -> None:
        """A library that is not installed is named, with the extra that brings it."""
        store.driver.save(key, b"x")
        for module in missing:
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(DatasetError, match=rf"needs {named}, not installed here.*pip install 'nbflow\[data\]'"):
            store.load(key)

    def test_next_library(self, store: DatasetStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without pandas a table loads by the next library that is installed."""
        import polars

        store.save("a.csv", polars.DataFrame({"a": [1]}))
        monkeypatch.setitem(sys.modules, "pandas", None)
        assert isinstance(store.load("a.csv"), polars.DataFrame)
        monkeypatch.setitem(sys.modules, "PIL", None)
        store.driver.save("a.png", b"\x89PNG\r\n\x1a\n")
        assert store.load("a.png") == b"\x89PNG\r\n\x1a\n"

    def test_missing_library_of_a_plugin(self, store: DatasetStore) -> None:
        """A format of somebody else names its library, not our extra."""
        type("Z", (AbstractDataset,), {"__module__": "zarrlike"}, format="zz", types="zzz.Group", extensions="zz")
        with pytest.raises(DatasetError, match="needs zzz, not installed here. Run: pip install zzz"):
            store.load("a.zz")
