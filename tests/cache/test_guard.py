"""The mutation guard: notices edits in place, once, and nothing else."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from xxhash import xxh3_128_hexdigest

import nbflow
from nbflow import map_tasks, session, task
from nbflow.cache import guard
from nbflow.cache.fingerprint import content_bytes
from nbflow.core.events import ValueChanged
from nbflow.settings import load_settings

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
PLENTY_S = 60.0


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    guard.forget()
    yield
    guard.forget()


def note(value: Any, cell: str | None = None) -> None:
    """Hand out a value, and let its cell end."""
    guard.note(value, "`load`", cell)
    assert guard.sweep(PLENTY_S, cell) == []


def digest_of(value: Any) -> str:
    """Return the digest that the value would have as an argument."""
    return xxh3_128_hexdigest(content_bytes(value))


MAKE: dict[str, Any] = {
    "list": (lambda: [1, [2]], lambda value: value[1].append(3)),
    "dict": (lambda: {"a": 1}, lambda value: value.update(a=2)),
    "set": (lambda: {1}, lambda value: value.add(2)),
    "bytes": (lambda: bytearray(b"ab"), lambda value: value.append(1)),
    "array": (lambda: np.arange(3), lambda value: value.__setitem__(0, 7)),
    "frame": (lambda: pd.DataFrame({"a": [1]}), lambda value: value.__setitem__("b", 1)),
    "series": (lambda: pd.Series([1, 2]), lambda value: value.__setitem__(0, 5)),
}


@pytest.mark.parametrize("kind", MAKE)
def test_a_change_is_noticed_after_a_cell(kind: str) -> None:
    """Once for each change, with what made the value and where."""
    make, change = MAKE[kind]
    value = make()
    note(value, "cell 3")
    assert guard.sweep(PLENTY_S, "cell 4") == []
    change(value)
    (found,) = guard.sweep(PLENTY_S, "cell 5")
    assert found.value() is value
    assert found.since == "`load` produced it (cell 3)"
    assert (found.made_in, found.seen_in) == ("cell 3", "cell 5")
    assert guard.sweep(PLENTY_S, "cell 6") == []
    assert list(guard.changes) == [found]


@pytest.mark.parametrize("kind", MAKE)
def test_a_change_is_noticed_in_an_input(kind: str) -> None:
    """For as long as it differs, but told once; back as it was, it is no change any more."""
    make, change = MAKE[kind]
    value = make()
    note(value, "cell 3")
    assert guard.look(value, digest_of(value), "x", "cell 4") is None
    before = digest_of(value)
    change(value)
    found = [guard.look(value, digest_of(value), "x", "cell 5") for _ in range(2)]
    assert [each.fresh for each in found if each] == [True, False]
    assert len(guard.changes) == 1
    assert guard.look(value, before, "x", "cell 6") is None


def test_a_cell_may_finish_what_it_began() -> None:
    """What changes in the cell that made it is taken as made so, also where it has been used meanwhile."""
    value = [1]
    guard.note(value, "`load`", "cell 3")
    assert guard.look(value, digest_of(value), "x", "cell 3") is None
    value.append(2)
    found = guard.look(value, digest_of(value), "x", "cell 3")
    assert found is not None
    assert not found.fresh
    assert guard.sweep(PLENTY_S, "cell 3") == []
    value.append(3)
    assert len(guard.sweep(PLENTY_S, "cell 4")) == 1
    assert len(guard.changes) == 1


def test_what_cannot_change_or_is_no_data_is_not_watched() -> None:
    """Numbers, text, tuples of such and objects of unknown classes are left alone."""

    class Model:
        """Has a property that is worked out when asked for."""

    for value in (1, "a", (1, 2), frozenset({1}), Model(), [Model()], lambda: 1, iter([1]), None):
        guard.note(value, "`load`")
        assert not guard._table


def test_values_are_not_kept_alive() -> None:
    """Arrays are held weakly; lists, which cannot be, until nobody else has them; neither in any number."""
    array, numbers = np.arange(3), [1]
    guard.note(array, "`a`")
    guard.note(numbers, "`b`")
    del array
    gc.collect()
    guard.sweep(PLENTY_S)
    assert len(guard._table) == 1
    del numbers
    guard.sweep(PLENTY_S)
    assert not guard._table
    keep = [[number] for number in range(1000)]
    for value in keep:
        guard.note(value, "`c`")
    assert len(guard._table) == guard._HELD


def test_large_values_are_compared_from_their_first_use_on() -> None:
    """Digesting them at once would take too long; the first key that has them says what they were."""
    large = np.zeros(guard.LIGHT)
    guard.note(large, "`load`")
    large[0] = 1
    assert guard.look(large, digest_of(large)) is None
    large[0] = 2
    assert guard.sweep(PLENTY_S) == []
    assert guard.look(large, digest_of(large)) is not None
    guard.note([0.0] * guard.LIGHT, "`load`")
    guard.note(["x" * guard.LIGHT], "`load`")
    assert len(guard._table) == 1, "a large list would have to be kept alive"


def test_the_time_after_a_cell_is_bounded_and_shared() -> None:
    """What does not fit into the budget has its turn later, those first that have waited longest."""
    values = [[number] for number in range(4)]
    for value in values:
        guard.note(value, "`load`")
    guard.sweep(PLENTY_S)
    for watched in guard._table.values():
        watched.cost_s = 1.0
    for value in values:
        value.append(-1)
    ticks = iter([0.0, *[0.0, 1.1, 1.2, 1.3], *[2.0, 2.0, 2.0, 2.0, 2.0, 2.0]])
    assert [each.value() for each in guard.sweep(1.05, clock=lambda: next(ticks))] == [[0, -1]]
    assert len(guard.sweep(PLENTY_S)) == 3


def test_a_slow_first_look_puts_none_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was imported for it is not paid again, so the next look takes place at once, and tells the right cell."""
    ticks = iter(range(10))
    monkeypatch.setattr(guard.time, "thread_time", lambda: float(next(ticks)))
    value = [1]
    guard.note(value, "`load`", "cell 1")
    assert guard.sweep(0.5, "cell 1", clock=lambda: 0.0) == []
    value.append(2)
    (found,) = guard.sweep(0.5, "cell 2", clock=lambda: 0.0)
    assert found.seen_in == "cell 2"
    value.append(3)
    assert guard.sweep(0.5, "cell 3", clock=lambda: 0.0) == [], "by now it is known to be slow"


def test_an_argument_that_was_changed_is_told(recorder: Any) -> None:
    """`why` names argument and origin; an event tells it once; the result is computed from what is there now."""

    @task(cache=True)
    def load() -> list[int]:
        return [1, 2]

    @task(cache=True)
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    with session(observers=[recorder]):
        numbers = load()
        assert total(numbers) == 3
        numbers.append(4)
        assert total(numbers) == 7
        assert "argument `numbers` was changed in place since `load` produced it" in nbflow.why("total")
        assert total(numbers) == 7
        assert load() == [1, 2], "the cache keeps its own copy"
    (event,) = [event for event in recorder.events if isinstance(event, ValueChanged)]
    assert (event.name, event.holder, event.origin) == ("total", "numbers", "`load` produced it")


def test_the_guard_can_be_switched_off() -> None:
    """Then nothing is watched and nothing said."""

    @task(cache=True)
    def load() -> list[int]:
        return [1, 2]

    with session(settings=load_settings(mutation_guard=False)):
        load()
        load()
    assert not guard._table


def test_items_of_maps_are_not_watched() -> None:
    """They are too many."""

    @task(cache=True)
    def load(number: int) -> list[int]:
        return [number]

    map_tasks(load, range(3))
    assert not guard._table


HITS: dict[str, Any] = {
    "list": [1, [2]],
    "dict": {"a": {"b": [1]}},
    "tuple of lists": ([1], "a"),
    "bytearray": bytearray(b"abc"),
    "array": np.arange(4),
    "large array": np.arange(50_000),
    "frame": pd.DataFrame({"a": [1, 2], "s": ["x", "y"]}),
    "array of objects": np.array([[1], {"a": 2}], dtype=object),
}


def _spoil(value: Any) -> None:
    """Change a value as deep inside as it goes."""
    if isinstance(value, (list, tuple)):
        for member in value:
            _spoil(member)
        if isinstance(value, list):
            value.append("spoilt")
    elif isinstance(value, dict):
        for member in value.values():
            _spoil(member)
        value["spoilt"] = 1
    elif isinstance(value, bytearray):
        value[0] = 0
    elif isinstance(value, np.ndarray):
        if value.dtype == object:
            _spoil(list(value))
        value[0] = 99
    elif isinstance(value, pd.DataFrame):
        value.loc[0, "a"] = 99
        value["new"] = 1


@pytest.mark.parametrize("where", ["disk", "memory", "session"])
@pytest.mark.parametrize("kind", HITS)
def test_an_edit_never_poisons_a_hit(kind: str, where: str, tmp_path: Any) -> None:
    """Neither an edit of the computed value nor of one handed out by a hit, from whichever tier it came."""
    import copy

    original = HITS[kind]

    @task(cache="session" if where == "session" else True)
    def load() -> Any:
        return copy.deepcopy(original)

    wanted = content_bytes(original)
    place = "off" if where == "memory" else tmp_path / "cache"
    for _ in range(2):
        with session(cache_store=place, observers=[lambda event: None] if where == "disk" else []):
            for _ in range(4):
                value = load()
                assert content_bytes(value) == wanted
                _spoil(value)
                assert content_bytes(value) != wanted
