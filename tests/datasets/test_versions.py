"""Versions of datasets: by content, with what made them, beside files that stay plain."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nbflow.datasets import DatasetStore, Origin
from nbflow.datasets.catalog import FOLDER
from nbflow.errors import DatasetError, DatasetNotFoundError
from nbflow.storage import FileDriver
from nbflow.testing.faults import FaultyDriver


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> DatasetStore:
    """Return a store that keeps three versions."""
    base = tmp_path / "data" if request.param == "local" else f"memory://{tmp_path.name}"
    return DatasetStore(base, versions=3)


def saved(store: DatasetStore, *values: object, key: str = "a.json") -> list[str]:
    """Save values one after the other and return the names of their versions."""
    names = []
    for value in values:
        store.save(key, value)
        names.append(store.versions(key)[0].id)
    return names


class TestVersions:
    """What is kept, and how it comes back."""

    def test_old_values_come_back(self, store: DatasetStore) -> None:
        """By name, by the beginning of it, or by how many came after it."""
        first, second, third = saved(store, 1, 2, 3)
        assert [each.id for each in store.versions("a.json")] == [third, second, first]
        assert [store.load("a.json", version=name) for name in (first, second[:6], third)] == [1, 2, 3]
        assert [store.load("a.json", version=back) for back in (0, -1, -2)] == [3, 2, 1]
        assert store.load("a.json") == 3

    def test_the_same_content_is_the_same_version(self, store: DatasetStore) -> None:
        """Saving a value again makes no version; one that comes back is the last one again."""
        first, second, again = saved(store, "x", "y", "x")
        assert first == again != second
        assert [each.id for each in store.versions("a.json")] == [first, second]
        assert store.load("a.json", version=-1) == "y"

    def test_only_so_many_are_kept(self, store: DatasetStore) -> None:
        """The oldest goes, with its bytes."""
        names = saved(store, 1, 2, 3, 4, 5)
        assert [each.id for each in store.versions("a.json")] == names[:1:-1]
        with pytest.raises(DatasetNotFoundError, match=rf"no version '{names[0]}'; there are: {names[4]}"):
            store.load("a.json", version=names[0])
        stored = [key for key in store.driver.list_keys() if key.startswith(FOLDER)]
        assert len(stored) == 3  # the history, and the bytes of two versions that are not the current one

    def test_facts(self, store: DatasetStore) -> None:
        """Type, shape, size and origin are known without loading."""
        store.save("a.json", [1, 2], origin=Origin("fit", "fit[3]", "ab", "cell 4"))
        info = store.info("a.json")
        assert (info.type, info.shape, info.format, info.versions, info.changed) == ("list", (2,), "json", 1, False)
        assert info.size_bytes == len(store.driver.load("a.json"))
        assert str(info.origin) == "fit[3], cell 4"
        assert info.version == store.versions("a.json")[0].id

    def test_delete(self, store: DatasetStore) -> None:
        """A dataset goes with all its versions, a version alone; the last one only with its dataset."""
        first, second = saved(store, 1, 2)
        with pytest.raises(DatasetError, match="the last one saved"):
            store.delete("a.json", version=second)
        assert store.delete("a.json", version=first)
        assert [each.id for each in store.versions("a.json")] == [second]
        assert store.delete("a.json")
        assert store.driver.list_keys() == []
        assert not store.delete("a.json")

    def test_diff(self, store: DatasetStore) -> None:
        """Two versions are compared; by default the one before with what is there."""
        saved(store, {"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4})
        assert store.diff("a.json").lines == ("~ ['b']: 2 → 3", "+ ['c']: 4")
        assert not store.diff("a.json", 0)

    def test_the_format_is_that_of_the_version(self, store: DatasetStore) -> None:
        """A key without an extension keeps the format that it was saved in."""
        store.save("plain", "text", format="text")
        store.save("plain", [1], format="json")
        assert store.load("plain", version=-1) == "text"
        assert store.load("plain", version=0) == [1]


class TestBesideTheFiles:
    """The catalog stays out of the way."""

    def test_files_are_plain_and_one_save_costs_one_small_file(self, tmp_path: Path) -> None:
        """Nothing is stored twice as long as a key is written once."""
        DatasetStore(tmp_path, versions=3).save("a/b.txt", "x" * 10_000)
        assert (tmp_path / "a" / "b.txt").read_text() == "x" * 10_000
        others = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "b.txt"]
        assert [path.name for path in others] == ["history.json"]
        assert others[0].stat().st_size < 1000

    def test_without_versions_there_are_only_files(self, tmp_path: Path) -> None:
        """A store that is not asked for versions writes none, and shows those of others."""
        plain = DatasetStore(tmp_path)
        plain.save("a.txt", "x")
        assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
        assert plain.versions("a.txt") == []
        DatasetStore(tmp_path, versions=2).save("a.txt", "y")
        assert len(plain.versions("a.txt")) == 1

    def test_files_of_others_are_listed(self, tmp_path: Path) -> None:
        """What a folder holds counts, where an extension says what it is; hidden files and the catalog do not."""
        (tmp_path / "theirs.csv").write_text("a\n1\n")
        (tmp_path / "notes.xyz").write_text("x")
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git" / "x.txt").write_text("x")
        store = DatasetStore(tmp_path, versions=3)
        store.save("ours", [1])
        found = {info.key: info for info in store.catalog()}
        assert list(found) == ["ours", "theirs.csv"]
        assert (found["theirs.csv"].format, found["theirs.csv"].versions, found["ours"].type) == ("csv", 0, "list")
        assert found["theirs.csv"].saved is not None
        assert store.list_keys(hidden=True) == [".git/x.txt", "notes.xyz", "ours", "theirs.csv"]
        assert [info.key for info in store.catalog(limit=1)] == ["ours"]

    def test_a_file_that_was_changed_by_others(self, tmp_path: Path) -> None:
        """It is loaded as it is, said to be changed, and no version pretends to be it."""
        store = DatasetStore(tmp_path, versions=3)
        store.save("a.txt", "one")
        name = store.versions("a.txt")[0].id
        (tmp_path / "a.txt").write_text("changed by hand")
        assert store.load("a.txt") == "changed by hand"
        assert store.info("a.txt").changed
        with pytest.raises(DatasetNotFoundError, match="no longer there: another program"):
            store.load("a.txt", version=name)

    def test_a_torn_history_is_none(self, tmp_path: Path) -> None:
        """Whatever is in the folder, saving and loading go on."""
        store = DatasetStore(tmp_path, versions=3)
        store.save("a.txt", "one")
        history = next(tmp_path.rglob("history.json"))
        for text in ("{", "[]", '{"format": 99, "versions": []}', '{"format": 1, "versions": [{}]}'):
            history.write_text(text)
            assert store.versions("a.txt") == []
            assert store.info("a.txt").format == "text"
        store.save("a.txt", "two")
        assert [each.shape for each in store.versions("a.txt")] == [(3,)]

    @pytest.mark.parametrize("key", [f"{FOLDER}/x.txt", f"a/{FOLDER}/x.txt", FOLDER.upper() + "/x.txt"])
    def test_nobody_writes_into_the_catalog(self, tmp_path: Path, key: str) -> None:
        """Its folder is no place for datasets."""
        with pytest.raises(DatasetError, match="where the versions are"):
            DatasetStore(tmp_path).save(key, "x")

    def test_keys_outside_have_no_versions(self, tmp_path: Path) -> None:
        """What leaves the folder is a plain file."""
        store = DatasetStore(tmp_path / "base", allow_outside=True, versions=3)
        store.save("../up.txt", "x")
        assert store.versions("../up.txt") == []
        assert [path.name for path in tmp_path.iterdir()] == ["up.txt"]

    @pytest.mark.parametrize("versions", [-1, True, "3"])
    def test_bad_number(self, tmp_path: Path, versions: int) -> None:
        """How many are kept is a number."""
        with pytest.raises(DatasetError, match="versions="):
            DatasetStore(tmp_path, versions=versions)


class TestFaults:
    """A catalog that cannot be written costs the version, never the dataset."""

    def test_a_history_that_cannot_be_written(self, tmp_path: Path) -> None:
        """The dataset is saved, and the loss is told once."""
        store = DatasetStore(FaultyDriver(FileDriver(tmp_path), fail={2, 4}, error=DatasetError), versions=3)
        with pytest.warns(RuntimeWarning, match="Versions of datasets cannot be kept"):
            store.save("a.txt", "one")
        store.save("a.txt", "two")
        assert store.load("a.txt") == "two"

    def test_a_save_that_fails_leaves_value_and_history(self, tmp_path: Path) -> None:
        """What was there is there, and is still the last version."""
        driver = FaultyDriver(FileDriver(tmp_path), fail={4})  # data, history, bytes of the old one, data
        store = DatasetStore(driver, versions=3)
        store.save("a.txt", "one")
        with pytest.raises(DatasetError, match="told to fail"):
            store.save("a.txt", "two")
        assert store.load("a.txt") == store.load("a.txt", version=0) == "one"
        assert len(store.versions("a.txt")) == 1

    def test_many_threads_save_one_key(self, tmp_path: Path) -> None:
        """No version of this process is lost, and the last line is what the file holds."""
        store = DatasetStore(tmp_path, versions=50)
        start = threading.Barrier(8)

        def work(number: int) -> None:
            start.wait()
            for step in range(4):
                store.save("a.json", [number, step])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        versions = store.versions("a.json")
        assert len(versions) == 32
        assert store.load("a.json") == store.load("a.json", version=0)
        assert {tuple(store.load("a.json", version=each.id)) for each in versions} == {
            (number, step) for number in range(8) for step in range(4)
        }
