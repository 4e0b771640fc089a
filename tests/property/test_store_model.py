"""The store against a dict, under any order of saves, reads, deletions, restarts and the passing of time."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from nbflow.cache import CacheKey, CacheStore

ALL_KEYS = [f"{number:032x}" for number in range(10)]
KEYS = st.sampled_from(ALL_KEYS)
# Of the large ones, half are compressed and half are files.
LARGE = st.binary(max_size=20).map(lambda data: data * 4000) | st.integers(0, 9).map(
    lambda seed: random.Random(seed).randbytes(80_000)
)
SMALL = (
    st.none() | st.integers() | st.text(max_size=5) | st.dictionaries(st.text(max_size=3), st.integers(), max_size=3)
)
VALUES = SMALL | LARGE | st.lists(st.integers(), max_size=3)


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1e9

    def wall(self) -> float:
        return self.now

    monotonic = wall

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class StoreAgainstDict(RuleBasedStateMachine):
    """Two stores on one folder, and what they should contain."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.before = os.environ.get("NBFLOW_KEY_FILE")
        os.environ["NBFLOW_KEY_FILE"] = os.path.join(self.folder, "key")
        self.clock = Clock()
        self.model: dict[str, tuple[Any, float, float | None]] = {}
        self.store = self.open()
        self.bare = self.open(memory_bytes=0)  # asks the index each time, or what it has read ahead of it

    def open(self, **options: Any) -> CacheStore:
        return CacheStore(os.path.join(self.folder, "cache"), ttl=1000, clock=self.clock, **options)

    def expected(self, key: str) -> Any:
        if key not in self.model:
            return None
        value, created, ttl = self.model[key]
        return None if self.clock.now - created > (1000 if ttl is None else ttl) else (value,)

    @rule(key=KEYS, value=VALUES, ttl=st.none() | st.integers(0, 50), cost=st.floats(0, 100))
    def save(self, key: str, value: Any, ttl: float | None, cost: float) -> None:
        assert self.store.save(CacheKey(key, "task"), value, ttl=ttl, cost_s=cost).persisted
        self.model[key] = (value, self.clock.now, ttl)

    @rule(value=SMALL)
    def save_in_a_row(self, value: Any) -> None:
        for key in ALL_KEYS:
            self.save(key, value, None, 0.0)

    @rule(key=KEYS)
    def fetch(self, key: str) -> None:
        found = self.store.fetch(key)
        wanted = self.expected(key)
        assert (found is None) == (wanted is None)
        if found is not None:
            assert found.value == wanted[0]
            assert type(found.value) is type(wanted[0])
            if isinstance(found.value, list):
                found.value.append("mine")

    @rule(keys=st.permutations(ALL_KEYS) | st.just(ALL_KEYS), at=st.integers(0, 9), changed=KEYS, value=SMALL)
    def change_amid_reading(self, keys: list[str], at: int, changed: str, value: Any) -> None:
        for number, key in enumerate(keys):
            if number == at:
                self.save(changed, value, None, 0.0)
            found, wanted = self.bare.fetch(key), self.expected(key)
            assert (None if found is None else (found.value,)) == wanted

    @rule(key=KEYS)
    def peek(self, key: str) -> None:
        found = self.store.peek(key)
        if found is not None:
            assert (found.value,) == self.expected(key)

    @rule(key=KEYS)
    def invalidate(self, key: str) -> None:
        assert self.store.invalidate(key) == (self.model.pop(key, None) is not None)

    @rule()
    def clear(self) -> None:
        assert self.store.clear() == len(self.model)
        self.model.clear()

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = self.open()

    @rule(seconds=st.integers(1, 400))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule(key=KEYS)
    def explain(self, key: str) -> None:
        words = self.store.explain(CacheKey(key, "task"))
        assert words is not None
        assert not words.startswith("expired") or (key in self.model and self.expected(key) is None)

    @invariant()
    def totals_are_right(self) -> None:
        entries = {info.key: info for info in self.store.entries()}
        assert entries.keys() == self.model.keys()
        stats = self.store.stats()
        assert stats["entries"] == len(entries)
        assert stats["bytes"] == sum(info.size_bytes for info in entries.values())
        assert stats["quarantined"] == 0

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        self.store.close()
        self.bare.close()
        shutil.rmtree(self.folder)
        if self.before is None:
            del os.environ["NBFLOW_KEY_FILE"]
        else:
            os.environ["NBFLOW_KEY_FILE"] = self.before


TestStoreAgainstDict = StoreAgainstDict.TestCase
TestStoreAgainstDict.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
