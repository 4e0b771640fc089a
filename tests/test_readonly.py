"""Results that are handed out read-only: shared, mapped, and known by their content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nbflow import session, task
from nbflow.cache import CacheStore, memo
from nbflow.cache.fingerprint import content_bytes
from nbflow.errors import DefinitionError
from nbflow.settings import load_settings


@task(cache=True, readonly=True)
def table(rows: int) -> np.ndarray:
    """Return an array."""
    return np.arange(float(rows))


@pytest.mark.parametrize("place", ["disk", "off"])
@pytest.mark.parametrize("rows", [10, 2_000, 100_000])
def test_hit_and_miss_are_read_only_alike(tmp_path: Path, place: str, rows: int) -> None:
    """What is computed, what memory has and what the disk has: none can be written to, all are equal."""
    where = "off" if place == "off" else tmp_path / "cache"
    found = []
    with session(cache_store=where) as context:
        found += [table(rows), table(rows)]
        context.cache_store._memory.clear()
        found += [table(rows)] if place == "disk" else []
        assert [call.cached for call in context.records] == [False, True, True][: len(found)]
    if place == "disk":
        with session(cache_store=where):
            found.append(table(rows))
    for value in found:
        assert not value.flags.writeable
        with pytest.raises(ValueError, match="read-only|WRITEABLE"):
            value.flags.writeable = True
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 1
        assert (value == np.arange(float(rows))).all()


def test_a_large_result_is_mapped_once_and_not_copied(tmp_path: Path) -> None:
    """Hits of a large result lie over the same memory, and the memory tier counts none of it."""
    with session(cache_store=tmp_path / "cache") as context:
        one, other = table(1_000_000), table(1_000_000)
        assert one is not other
        assert np.shares_memory(one, other)
        assert context.cache_store.stats()["memory_bytes"] < 10_000


def test_what_is_made_from_containers_is_built_anew(tmp_path: Path) -> None:
    """A list around read-only arrays is a list of one's own; a frame's data cannot be written to."""

    @task(cache=True, readonly=True)
    def both() -> tuple[list[Any], pd.DataFrame]:
        return [np.arange(50_000.0)], pd.DataFrame({"a": np.arange(50_000)})

    with session(cache_store=tmp_path / "cache"):
        arrays, frame = both()
        arrays.append(1)
        assert len(both()[0]) == 1
        assert not frame["a"].to_numpy().flags.writeable


def test_the_content_is_remembered_with_the_value(tmp_path: Path) -> None:
    """The digest that was made at the save is known of every value that is handed out, also after a restart."""
    for _ in range(2):
        with session(cache_store=tmp_path / "cache"):
            for _ in range(2):
                value = table(200_000)
                assert memo.recall(value) == content_bytes(np.arange(200_000.0))


def test_a_chain_digests_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument that is itself such a result is not read for the key of the next call."""
    from nbflow.cache import arrays

    @task(cache=True)
    def total(values: np.ndarray) -> float:
        return float(values.sum())

    with session(cache_store=tmp_path / "cache") as context:
        value = table(300_000)
        total(value)
        read: list[int] = []
        for name in [name for name in dir(arrays) if name.startswith("xxh3")]:
            real = getattr(arrays, name)
            monkeypatch.setattr(
                arrays, name, lambda data, real=real: (read.append(memoryview(data).nbytes), real(data))[1]
            )
        assert total(table(300_000)) == float(np.arange(300_000.0).sum())
        assert context.records[-1].cached
        assert max(read, default=0) < 10_000


def test_the_same_task_without_the_option_gets_values_to_write_to(tmp_path: Path) -> None:
    """Taking the option away never hands out the read-only entry, and the other way round."""

    def make(n: int) -> np.ndarray:
        return np.arange(float(n))

    with session(cache_store=tmp_path / "cache"):
        for readonly in (True, False, True, None):
            value = task(cache=True, readonly=readonly)(make)(50_000)
            assert value.flags.writeable is not bool(readonly)


def test_the_setting(tmp_path: Path) -> None:
    """The setting holds for tasks that do not say."""

    def make(n: int) -> np.ndarray:
        return np.arange(float(n))

    with session(cache_store=tmp_path / "cache", settings=load_settings(cache_readonly=True)):
        assert not task(cache=True)(make)(5).flags.writeable
        assert task(cache=True, readonly=False)(make)(5).flags.writeable
        assert task(make)(5).flags.writeable


def test_values_that_have_no_content(tmp_path: Path) -> None:
    """What cannot be digested is handed out read-only all the same."""
    store = CacheStore(tmp_path / "cache")

    class Odd:
        def __init__(self) -> None:
            self.data = np.zeros(10_000)

        def __getstate__(self) -> Any:
            return {"data": self.data}

    saved = store.save("k", {"odd": Odd(), "function": lambda: 1}, readonly=True)
    assert not saved.value["odd"].data.flags.writeable
    store._memory.clear()
    assert not store.get("k")["odd"].data.flags.writeable
    assert store.save("s", "text" * 100_000, readonly=True).value == "text" * 100_000
    assert store.get("s") == "text" * 100_000
    store.close()


def test_bad_options() -> None:
    """The option needs a cache, and a truth value."""
    with pytest.raises(DefinitionError, match="readonly has no effect without caching"):
        task(readonly=True)(len)
    with pytest.raises(DefinitionError, match="readonly='yes' must be True or False"):
        task(cache=True, readonly="yes")(len)  # type: ignore[arg-type]
