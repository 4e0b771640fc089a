"""Caching as seen from `@task`: each option, each kind of store, and what never fails a call."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from pathlib import Path
from typing import Any

import pytest

from nbflow import map_tasks, session, submit, task
from nbflow.cache import CacheStore
from nbflow.errors import DatasetError
from nbflow.events import CacheFailed, CacheMiss, CacheWritten, TaskCompleted
from nbflow.settings import get_global_settings, load_settings
from nbflow.tasks import Task
from nbflow.testing import EventRecorder, FakeClock

_RUNS: dict[str, int] = {}  # how often functions ran; kept outside of them, since what they capture is input


@pytest.fixture(autouse=True)
def _no_runs() -> None:
    """Forget the counts of other tests."""
    _RUNS.clear()


def _ran(name: str) -> None:
    _RUNS[name] = _RUNS.get(name, 0) + 1


def make(**options: Any) -> Task[Any, Any]:
    """Return a cached task of two parameters, one with a default, that counts its runs."""

    def func(x: Any, y: int = 2) -> Any:
        _ran("func")
        return (x, y)

    return task(**{"cache": True, "ignore": (), "depends": (), "version": None, **options})(func)


def test_second_call_is_a_hit(recorder: EventRecorder) -> None:
    """The second call with equal arguments, however they are spelled, does not run the function."""
    item = make()
    with session(observers=[recorder]):
        assert [item(1), item(1, 2), item(x=1), item(y=2, x=1)] == [(1, 2)] * 4
    assert _RUNS["func"] == 1
    assert [event.cached for event in recorder.of(TaskCompleted)] == [False, True, True, True]
    assert len(recorder.of(CacheMiss)) == len(recorder.of(CacheWritten)) == 1
    recorder.check()


def test_quiet_hits_are_recorded() -> None:
    """The short lane of a hit leaves the same record as the drivers do."""
    item = make(name="item_{x}")
    with session() as context:
        item(1), item(1), item(1)
        records = list(context.records)
    assert [record.cached for record in records] == [False, True, True]
    assert [record.name for record in records] == ["item_1"] * 3
    assert _RUNS["func"] == 1


@pytest.mark.parametrize("readonly", [False, True])
def test_quick_first_hits_have_their_whole_key(readonly: bool, tmp_path: Path) -> None:
    """What a later session finds on disk leaves the record that it left where somebody listened, key and all."""
    found: list[list[Any]] = []
    for quiet in (True, True, False):
        item = make(readonly=readonly)
        with session(cache_store=tmp_path / "cache", observers=[] if quiet else [EventRecorder()]) as context:
            assert [item(n)[0] for n in range(6)] == list(range(6))
            found.append([(record.cached, record.key, record.state) for record in context.records])
    assert _RUNS["func"] == 6
    assert found[1] == found[2]
    assert [len({part.kind for part in key.parts} & {"code", "argument"}) for _, key, _ in found[1]] == [2] * 6
    assert [key.digest.endswith(":readonly") for _, key, _ in found[1]] == [readonly] * 6


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), ("1", 1), ([1], (1,)), ({1}, [1]), (None, 0)])
def test_arguments_are_typed(one: Any, other: Any) -> None:
    """Values that are equal but of different types are different inputs."""
    item = make()
    with session():
        assert item(one)[0] == one
        found = item(other)[0]
        assert (type(found), found) == (type(other), other)
        assert type(item(other)[0]) is type(other)
    assert _RUNS["func"] == 2


def test_survives_the_session(tmp_path: Path) -> None:
    """A result on disk is there for the next session."""
    item = make()
    for _ in range(2):
        with session(cache_store=tmp_path / "cache"):
            assert item(1) == (1, 2)
    assert _RUNS["func"] == 1


def test_session_only(tmp_path: Path) -> None:
    """`cache="session"` keeps results in memory: nothing on disk, nothing for the next session."""
    item = make(cache="session")
    for _ in range(2):
        with session(cache_store=tmp_path / "cache"):
            item(1), item(1)
    assert _RUNS["func"] == 2
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("make_it", "said"),
    [
        (Path(__file__).open, "TypeError: an open file belongs to this process; keep what it reads, or its path"),
        (
            lambda: memoryview(b"abc"),
            "TypeError: a memoryview is a window on another object's memory; keep that object,",
        ),
        (lambda: vars(Path), "TypeError: what `vars` gives of a class shows what the class gets later, too"),
        (lambda: [memoryview(b"abc"), len], "TypeError: a memoryview is a window on another object's memory"),
        (lambda: (n for n in [1]), "TypeError: cannot pickle 'generator' object; make a list of it"),
        (threading.Lock, "cannot pickle '_thread.lock' object; keep what it takes to make it anew"),
    ],
)
def test_what_cannot_be_kept_says_what_could(make_it: Any, said: str, tmp_path: Path) -> None:
    """A hit never hands out something else than the call did, such as the text of an open file; a note helps."""

    @task(cache=True)
    def opened() -> Any:
        return make_it()

    with session(cache_store=tmp_path / "cache") as context:
        results = [opened(), opened()]
        assert not any(call.cached for call in context.records)
        assert said in context.records[-1].notes[0]
    for result in results:
        getattr(result, "close", bool)()
    assert len({type(result) for result in results}) == 1


@pytest.mark.parametrize("how", ["cache", "cache_store", "object"])
def test_own_store(how: str, tmp_path: Path) -> None:
    """A task may have a store of its own, by path or as an object."""
    own = tmp_path / "own"
    store = CacheStore(own)
    item = make(**{"cache": {"cache": own}, "cache_store": {"cache_store": str(own)}, "object": {"cache": store}}[how])
    with session(cache_store=tmp_path / "session"):
        item(1)
    with session(cache_store=tmp_path / "other"):
        item(1)
    store.close()
    assert _RUNS["func"] == 1
    assert own.exists()
    assert not (tmp_path / "session").exists()


def test_no_session_uses_the_default_store() -> None:
    """Without a session the home's cache is used."""
    item = make()
    assert [item(1), item(1)] == [(1, 2), (1, 2)]
    assert _RUNS["func"] == 1
    assert (get_global_settings().home_path / "cache").is_dir()


def test_off(tmp_path: Path) -> None:
    """A session may switch the disk off."""
    item = make()
    with session(cache_store="off", settings=load_settings(home=tmp_path / "home")):
        item(1), item(1)
    assert _RUNS["func"] == 1
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("where", ["task", "settings"])
@pytest.mark.parametrize("listening", [True, False])
def test_ttl(where: str, listening: bool, fake_clock: FakeClock) -> None:
    """An entry expires after the task's time, else the session's; also for hits on the short lane."""
    item = make(**({"cache_ttl": 60} if where == "task" else {}))
    settings = load_settings(cache_ttl=60.0 if where == "settings" else None)
    with session(clock=fake_clock, settings=settings) as context:
        if listening:
            context.add_observer(lambda _: None)
        item(1)
        fake_clock.advance(59)
        item(1)
        assert _RUNS["func"] == 1
        fake_clock.advance(2)
        item(1)
        assert _RUNS["func"] == 2
        item(1)
        assert _RUNS["func"] == 2


def test_custom_hash() -> None:
    """The user's hash replaces ours: it gets function and inputs, and its text alone decides."""
    seen: list[Any] = []

    def parity(func: Any, inputs: Any) -> str:
        seen.append((func.__name__, dict(inputs)))
        return "even" if inputs["x"] % 2 == 0 else "odd"

    item = make(cache_hash=parity)
    with session():
        assert [item(2), item(4), item(3)] == [(2, 2), (2, 2), (3, 2)]
    assert _RUNS["func"] == 2
    assert seen[0] == ("func", {"x": 2, "y": 2})


@pytest.mark.parametrize("result", [3, None, b"x"])
def test_bad_custom_hash_never_fails_a_call(result: Any) -> None:
    """A hash that raises or gives no text only means that nothing is shared; the note says why."""

    def broken(func: Any, inputs: Any) -> Any:
        if result is None:
            raise RuntimeError("broken hash")
        return result

    with session() as context:
        item = make(cache_hash=broken)
        assert [item(1), item(2)] == [(1, 2), (2, 2)]
        assert "cache hash" in context.records[0].notes[0]
    assert _RUNS["func"] == 2


def test_version() -> None:
    """Another version is another key."""
    with session():
        for version in (1, 1, 2, "2"):
            make(version=version)(1)
    assert _RUNS["func"] == 3


def test_ignore() -> None:
    """Ignored parameters do not count, however they are given."""
    item = make(ignore=["y"])
    with session():
        assert [item(1, 5), item(1, 6), item(1, y=7), item(2, 5)] == [(1, 5), (1, 5), (1, 5), (2, 5)]
    assert _RUNS["func"] == 2


def test_depends() -> None:
    """Whatever is declared as a dependency counts."""
    with session():
        for value in (1, 1, 2):
            make(depends=[value])(1)
    assert _RUNS["func"] == 2


class Basket:
    def __init__(self, price: int) -> None:
        self.price = price

    @task(cache=True)
    def total(self, amount: int) -> int:
        _ran("total")
        return self.price * amount

    @task(cache=True, ignore=["self"])
    def tax(self, amount: int) -> int:
        _ran("tax")
        return amount

    @task(cache=True)
    async def later(self, amount: int) -> int:
        _ran("later")
        return self.price * amount


def test_methods() -> None:
    """The instance counts as an argument, by its content, unless it is ignored."""
    with session():
        assert [Basket(2).total(3), Basket(2).total(3), Basket(4).total(3)] == [6, 6, 12]
        assert _RUNS["total"] == 2
        assert [Basket(2).tax(3), Basket(4).tax(3)] == [3, 3]
        assert _RUNS["tax"] == 1
        assert [asyncio.run(Basket(price).later(3)) for price in (2, 2, 4)] == [6, 6, 12]
        assert _RUNS["later"] == 2


def test_async_hits(recorder: EventRecorder) -> None:
    """Async tasks are cached as sync ones are, from memory and from disk."""

    @task(cache=True)
    async def item(x: int) -> list[int]:
        _ran("item")
        return [x]

    async def main() -> list[list[int]]:
        return [await item(1), await item(1)]

    for _ in range(2):
        with session(observers=[recorder]):
            assert asyncio.run(main()) == [[1], [1]]
    assert _RUNS["item"] == 1
    recorder.check()


def test_failures_are_not_cached() -> None:
    """A call that failed runs again."""

    @task(cache=True)
    def item() -> int:
        _ran("item")
        if _RUNS["item"] == 1:
            raise ValueError("oops")
        return 1

    with session():
        with pytest.raises(ValueError, match="oops"):
            item()
        assert [item(), item()] == [1, 1]
    assert _RUNS["item"] == 2


def test_none_is_cached() -> None:
    """None is a result like any other."""

    @task(cache=True)
    def item() -> None:
        _ran("item")

    with session():
        assert [item(), item()] == [None, None]
    assert _RUNS["item"] == 1


def test_force(recorder: EventRecorder) -> None:
    """With `force` everything runs again, and what it gives is stored anew."""
    item = make()
    with session():
        item(1)
    with session(settings=load_settings(force=True), observers=[recorder]):
        item(1)
    assert _RUNS["func"] == 2
    assert len(recorder.of(CacheWritten)) == 1
    with session():
        item(1)
    assert _RUNS["func"] == 2


class Unstorable:
    def __reduce__(self) -> Any:
        raise TypeError("cannot be stored")


@pytest.mark.parametrize("listening", [True, False])
def test_what_cannot_be_stored(listening: bool, recorder: EventRecorder) -> None:
    """A result that cannot be stored is returned all the same; record and event say why, nothing is re-run."""

    @task(cache=True, retries=3)
    def item() -> Any:
        _ran("item")
        return Unstorable()

    with session(observers=[recorder] if listening else []) as context:
        assert isinstance(item(), Unstorable)
        assert _RUNS["item"] == 1
        assert any("write failed" in note and "cannot be stored" in note for note in context.records[0].notes)
    if listening:
        assert [event.stage for event in recorder.of(CacheFailed)] == ["write"]
        recorder.check()


class BrokenStore:
    """A store whose every operation fails."""

    def peek(self, *args: Any, **kwargs: Any) -> Any:
        raise OSError("peek")

    fetch = save = explain = peek


def test_broken_store_never_fails_a_call(recorder: EventRecorder) -> None:
    """A store that raises is an event, and the function runs."""
    item = make(cache_store=BrokenStore())
    with session(observers=[recorder]):
        assert [item(1), item(1)] == [(1, 2), (1, 2)]
    assert _RUNS["func"] == 2
    assert {event.stage for event in recorder.of(CacheFailed)} == {"read", "write"}
    recorder.check()


def test_broken_store_never_fails_a_quiet_call() -> None:
    """The same where nobody listens."""
    item = make(cache_store=BrokenStore())
    with session():
        assert [item(1), item(1)] == [(1, 2), (1, 2)]


def test_maps_hit_per_item(recorder: EventRecorder) -> None:
    """Each item of a map is cached by itself; the map counts hits."""
    item = make()
    with session(observers=[recorder]):
        map_tasks(item, [1, 2])
        recorder.clear()
        assert map_tasks(item, [1, 2, 3], backend="thread") == [(1, 2), (2, 2), (3, 2)]
    assert _RUNS["func"] == 3
    (ended,) = [event for event in recorder.events if type(event).__name__ == "MapEnded"]
    assert (ended.completed, ended.cached) == (3, 2)  # type: ignore[attr-defined]


def test_quiet_maps_hit_per_item() -> None:
    """The same where nobody listens."""
    item = make()
    with session():
        for _ in range(2):
            assert map_tasks(item, range(30), backend="thread") == [(x, 2) for x in range(30)]
    assert _RUNS["func"] == 30


def test_submitted_calls_hit() -> None:
    """A submitted call asks the cache, too."""
    item = make()
    with session():
        assert [submit(item, 1).get(60), submit(item, 1).get(60)] == [(1, 2), (1, 2)]
    assert _RUNS["func"] == 1


def test_mutable_results_are_not_shared() -> None:
    """Changing a result changes neither the cache nor what others got."""

    @task(cache=True)
    def item() -> list[int]:
        return [1]

    with session():
        first = item()
        first.append(2)
        second = item()
        second.append(3)
        assert item() == [1]


def test_dataset_on_a_hit(tmp_path: Path) -> None:
    """On a hit the dataset is saved where it is missing, and left alone where it is there."""
    item = make(dataset="a_{x}.pkl")
    with session(dataset_store=tmp_path / "one"):
        item(1)
        file = tmp_path / "one" / "a_1.pkl"
        stamp = file.stat().st_mtime_ns
        item(1)
        assert file.stat().st_mtime_ns == stamp
    with session(dataset_store=tmp_path / "two"):
        item(1)
    assert (tmp_path / "two" / "a_1.pkl").exists()
    assert _RUNS["func"] == 1


def test_failing_dataset_keeps_the_cached_result(tmp_path: Path) -> None:
    """The result is stored before its dataset is saved, so a failing dataset does not cost it."""
    item = make(dataset="a.pkl", dataset_format="nonsense")
    with session(dataset_store=tmp_path):
        for _ in range(2):
            with pytest.raises(DatasetError):
                item(1)
    assert _RUNS["func"] == 1


def test_closed_session_has_no_cache(tmp_path: Path) -> None:
    """Code that outlives its session runs uncached; nothing is opened for it."""
    item = make()
    go = threading.Event()
    results: list[Any] = []

    def late() -> None:
        go.wait(60)
        results.append(item(1))

    with session(cache_store=tmp_path / "cache"):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(late,))
        thread.start()
    go.set()
    thread.join(60)
    assert results == [(1, 2)]
    assert not (tmp_path / "cache").exists()


def test_why(recorder: EventRecorder) -> None:
    """A miss says why, where that is known."""
    item = make()
    with session(observers=[recorder]):
        item(1), item(2)
    reasons = [event.reason for event in recorder.of(CacheMiss)]
    assert reasons[0] is not None
    assert "x" in str(reasons[1])


def test_a_record_tells_why_its_call_ran_as_of_then(tmp_path: Path) -> None:
    """The words are found when somebody asks, yet compare with what there was when the cache missed."""
    func = make(cache=True)
    with session(cache_store=tmp_path) as context:
        for x in (1, 2, 3):
            func(x)
        records = list(context.records)
        assert [str(record.reason) for record in records] == [
            "never run before",
            "argument `x` 1 → 2",
            "argument `x` 2 → 3",
        ]
    assert str(records[1].reason) == "argument `x` 1 → 2"
