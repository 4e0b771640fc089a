"""A session's datasets as a mapping: keys, attributes, versions, and what made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nbflow import load_dataset, map_tasks, save_dataset, session, task
from nbflow.datasets import DatasetStore
from nbflow.errors import DatasetError, DatasetNotFoundError
from nbflow.library import age_words, shape_words, size_words
from nbflow.settings import Settings
from nbflow.storage import FileDriver
from nbflow.testing.faults import FaultyDriver


def test_keys_and_attributes(tmp_path: Path) -> None:
    """A key by its text, by its name, and by folders; names that fit several say so."""
    with session(dataset_store=tmp_path) as current:
        for key in ("summary.json", "fits/a.json", "fits/deep/b.txt", "fits/two.json", "fits/two.txt"):
            save_dataset(key, key)
        found = current.datasets
        assert list(found) == ["fits/a.json", "fits/deep/b.txt", "fits/two.json", "fits/two.txt", "summary.json"]
        assert (len(found), "fits/a.json" in found, "no" in found, 3 in found) == (5, True, False, False)
        assert found["fits/a.json"] == found.fits.a == "fits/a.json"
        assert found.summary == "summary.json"
        assert found.fits.deep.b == "fits/deep/b.txt"
        assert {"fits", "summary", "versions"} <= set(dir(found))
        assert found._ipython_key_completions_() == list(found)
        with pytest.raises(AttributeError, match=r"Several datasets are named 'two': two\.json, two\.txt"):
            _ = found.fits.two
        with pytest.raises(AttributeError, match="no dataset 'nope'; there are: fits/a"):
            _ = found.nope
        with pytest.raises(DatasetNotFoundError):
            found["nope.json"]


def test_where_a_version_came_from(tmp_path: Path) -> None:
    """Task, call and cache key are noted, inside a task and of its result; loading asks nothing of them."""

    @task(cache=True, dataset="fit_{depth}.json")
    def fit(depth: int) -> int:
        save_dataset(f"inner_{depth}.txt", "x")
        return depth

    with session(dataset_store=tmp_path, cache_store=tmp_path / "cache") as current:
        map_tasks(fit, [3])
        info = current.datasets.info("fit_3.json")
        inner = current.datasets.info("inner_3.txt")
        key = current.records[-1].key.digest
    assert (info.origin.task, info.origin.call, info.origin.cache_key) == ("fit", "fit[0]", key)
    assert (inner.origin.task, inner.origin.call) == ("fit", "fit[0]")


def test_versions_of_a_session(tmp_path: Path) -> None:
    """Listed, loaded, compared, deleted; the setting says how many, or that there are none."""
    with session(dataset_store=tmp_path, settings=Settings(dataset_versions=2)) as current:
        for n in range(3):
            save_dataset("a/x.json", {"n": n})
        found = current.datasets.a
        new, old = found.versions("x.json")
        assert (found.load("x.json", version=old.id), load_dataset("a/x.json", version=-1)) == ({"n": 1}, {"n": 1})
        assert found.diff("x.json") == "~ ['n']: 1 → 2"
        found.delete("x.json", old.id)
        assert found.versions("x.json") == [new]
        found.delete("x.json")
        with pytest.raises(DatasetNotFoundError, match="to delete"):
            found.delete("x.json")
    with session(dataset_store=tmp_path / "plain", settings=Settings(dataset_versions=0)):
        save_dataset("a.txt", "x")
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["a.txt"]


def test_as_text_and_html(tmp_path: Path) -> None:
    """A table of what is known, which loads nothing and trusts no name."""
    with session(dataset_store=tmp_path) as current:
        assert repr(current.datasets) == f"no datasets in {tmp_path}"
        assert str(tmp_path) in current.datasets._repr_html_()
        save_dataset("<b>.json", [1, 2])
        lines = repr(current.datasets).splitlines()
        assert lines[0].split() == ["key", "type", "shape", "size", "age", "versions", "made", "by"]
        assert lines[1].split()[:3] == ["<b>.json", "list", "2"]
        assert "&lt;b&gt;.json" in current.datasets._repr_html_()
        with pytest.raises(NotImplementedError):
            current.datasets._ipython_display_()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (size_words(0), "0 B"), (size_words(999), "999 B"), (size_words(1000), "1.0 kB"),
        (size_words(123_456), "123 kB"), (size_words(10**12), "1.0 TB"),
        (shape_words(None), ""), (shape_words((1200, 3)), "1,200 × 3"),
        (age_words(None, 5.0), ""), (age_words(2.0, 5.0), "3.0 s ago"), (age_words(9.0, 5.0), "0 ms ago"),
    ],
)  # fmt: skip
def test_words(words: str, text: str) -> None:
    """Sizes, shapes and ages as people read them."""
    assert words == text


@pytest.mark.parametrize("backend", ["inline", "thread", "process"])
def test_what_workers_save_is_there_when_the_map_returns(tmp_path: Path, backend: str) -> None:
    """Thirty saves into a slow store are complete, and can be read at once; one that fails, fails the map."""
    slow = DatasetStore(FaultyDriver(FileDriver(tmp_path), delay_s=0.1 if backend != "inline" else 0.0), versions=2)

    @task
    def part(n: int) -> Any:
        save_dataset(f"part_{n}.json", n)
        return load_dataset(f"part_{n}.json")

    limits = Settings(max_backend_threads=30, max_parallel_processes=2)
    items = range(30 if backend != "process" else 6)
    with session(dataset_store=slow, settings=limits, backend=backend):
        assert map_tasks(part, items) == list(items)
        assert [DatasetStore(tmp_path).load(f"part_{n}.json") for n in items] == list(items)
    broken = DatasetStore(FaultyDriver(FileDriver(tmp_path), fail=range(1, 99)))
    with session(dataset_store=broken, settings=limits, backend=backend), pytest.raises(DatasetError, match="told to"):
        map_tasks(part, range(2))


def test_templates_cannot_escape(tmp_path: Path) -> None:
    """An argument that is filled into a key stays inside the folder, or fails the call."""

    @task(dataset="out/{name}.json")
    def make(name: str) -> int:
        return 1

    with session(dataset_store=tmp_path / "base"):
        for name in ("../../evil", "a/../../../evil", "CON", "x" * 400, "a\x00b"):
            with pytest.raises(DatasetError):
                make(name)
        for name in ("ünï", "/inside"):
            make(name)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json") if path.name != "history.json"}
    assert found == {"base/out/ünï.json", "base/out/inside.json"}


def test_opening_costs_nothing(tmp_path: Path) -> None:
    """A session that saves nothing leaves nothing, and does not look for formats."""
    with session(dataset_store=tmp_path / "none") as current:
        assert current.datasets is not None
    assert not (tmp_path / "none").exists()
