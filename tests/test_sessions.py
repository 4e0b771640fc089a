"""Sessions: what they hold, what inner ones inherit, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nbflow import async_session, map_tasks, session, submit, task
from nbflow.cache import CACHE_MISS, CacheStore
from nbflow.datasets import DatasetStore
from nbflow.errors import BackendError, DefinitionError, SessionError, SettingsError
from nbflow.events import CacheFailed, SessionEnded, SessionStarted, TaskStarted
from nbflow.hooks import hook_impl
from nbflow.runtime import current
from nbflow.sessions import (
    SessionContext,
    adopt_sessions,
    close_notebook_session,
    current_session,
    open_notebook_session,
    session_or_default,
)
from nbflow.settings import Settings, load_settings, set_global_settings
from nbflow.testing import EventRecorder, FakeClock

_LIMIT_S = 60.0


@task
def here() -> str:
    """Return the session that a task runs in."""
    found = current_session()
    assert found is not None
    return found.session_id


def in_thread(func: Any) -> Any:
    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.append(func()))
    thread.start()
    thread.join(_LIMIT_S)
    return out[0]


@pytest.fixture
def notebook() -> Iterator[SessionContext]:
    """Open a notebook session and close it after the test."""
    yield open_notebook_session()
    close_notebook_session()


# -- what is current --------------------------------------------------------------------------------------------------


def test_none_outside() -> None:
    """Outside any session there is none, and calls use a default one that nobody opened."""
    assert current_session() is None
    default = session_or_default()
    assert session_or_default() is default
    assert current_session() is None


def test_nesting() -> None:
    """The innermost session counts, and the one around is back afterwards."""
    with session() as outer:
        assert current_session() is outer
        with session() as inner:
            assert current_session() is inner
            assert inner.parent is outer
            assert here() == inner.session_id
        assert current_session() is outer
    assert current_session() is None


def test_the_default_follows_global_settings() -> None:
    """New global settings mean a new default session."""
    first = session_or_default()
    set_global_settings(Settings(max_records=3))
    assert session_or_default() is not first
    assert first.closed


def test_notebook_session_is_seen_everywhere(notebook: SessionContext) -> None:
    """Every thread and context without a session of its own uses the notebook's."""
    assert current_session() is notebook
    assert here() == notebook.session_id
    assert in_thread(here) == notebook.session_id
    assert contextvars.Context().run(here) == notebook.session_id

    async def main() -> str:
        return await asyncio.to_thread(here)

    assert asyncio.run(main()) == notebook.session_id
    with session() as inner:
        assert inner.parent is notebook
        assert in_thread(here) == notebook.session_id


def test_opening_the_notebook_session_again_replaces_it() -> None:
    """Re-running the cell that opens it closes the older one."""
    first = open_notebook_session(backend="thread")
    second = open_notebook_session()
    try:
        assert first.closed
        assert current_session() is second
        assert second.backend == "inline"
    finally:
        close_notebook_session()
        close_notebook_session()
    assert second.closed
    assert current_session() is None


def test_a_session_that_a_cell_left_open_becomes_the_notebooks(notebook: SessionContext) -> None:
    """A session opened in a context that is lost is adopted by the shell, and the notebook's is back when it closes."""
    manager = session(backend="thread")
    opened = contextvars.Context().run(manager.__enter__)
    assert current_session() is notebook
    adopt_sessions()
    assert current_session() is opened
    manager.__exit__(None, None, None)
    assert current_session() is notebook


def test_closing_in_another_context(notebook: SessionContext) -> None:
    """A session that is closed elsewhere is not current any more where it was opened."""
    manager = session()
    opened = manager.__enter__()
    contextvars.Context().run(manager.__exit__, None, None, None)
    assert opened.closed
    assert current_session() is notebook
    assert here() == notebook.session_id
    current.enter(None)


def test_out_of_order() -> None:
    """Closing the outer session first leaves the inner one in use; closing that brings no dead one back."""
    outer, inner = session(), session()
    first = outer.__enter__()
    second = inner.__enter__()
    outer.__exit__(None, None, None)
    assert first.closed
    assert current_session() is second
    assert here() == second.session_id
    inner.__exit__(None, None, None)
    assert second.closed
    assert current.frame() is None


def test_inner_session_of_a_closed_one_has_pools_of_its_own() -> None:
    """What an inner session needs after the outer one has gone is made for the inner one, and ends with it."""
    outer, inner = session(settings=load_settings(max_backend_threads=2)), session()
    outer.__enter__()
    second = inner.__enter__()
    outer.__exit__(None, None, None)
    assert submit(here).get(_LIMIT_S) == second.session_id
    inner.__exit__(None, None, None)
    assert second.closed


def test_use_after_the_end() -> None:
    """A closed session has no pools any more, and says so."""
    with session() as context:
        pass
    with pytest.raises(SessionError, match=f"{context.session_id} is closed; open another one"):
        _ = context.backends


# -- inheritance ------------------------------------------------------------------------------------------------------


def test_everything_is_inherited(tmp_path: Path) -> None:
    """An inner session has the backend, stores, settings, clock and pools of the one around."""
    settings = load_settings(max_records=5)
    with session(
        backend="thread", cache_store=tmp_path / "c", dataset_store=tmp_path / "d", settings=settings, clock=FakeClock()
    ) as outer:
        with session() as middle, session() as inner:
            for context in (middle, inner):
                assert context.backend == "thread"
                assert context.settings is settings
                assert context.clock is outer.clock
                assert context.backends is outer.backends
                assert context.cache_store is outer.cache_store
                assert context.dataset_store is outer.dataset_store
                assert context.home == outer.home


@pytest.mark.parametrize("option", ["backend", "cache_store", "dataset_store", "clock"])
def test_one_thing_overridden(option: str, tmp_path: Path) -> None:
    """What is given replaces only that; the rest is inherited."""
    base: dict[str, Any] = {"backend": "thread", "cache_store": "off", "dataset_store": tmp_path, "clock": FakeClock()}
    other: dict[str, Any] = {
        "backend": "inline",
        "cache_store": CacheStore(None),
        "dataset_store": DatasetStore(tmp_path / "other"),
        "clock": FakeClock(),
    }
    with session(**base) as outer, session(**{option: other[option]}) as inner:
        for name in base:
            same = getattr(inner, name) is getattr(outer, name) or getattr(inner, name) == getattr(outer, name)
            assert same is (name != option), name
        assert getattr(inner, option) == other[option]


def test_the_shared_cache_is_inherited_or_replaced(tmp_path: Path) -> None:
    """An inner session keeps the folder and changes what is behind it, or the other way round, or neither."""
    with session(cache_store=tmp_path / "c", cache_shared=tmp_path / "s") as outer:
        assert outer.cache_store.shared.url == str(tmp_path / "s")
        with session(backend="thread") as inner:
            assert inner.cache_store is outer.cache_store
        with session(cache_shared="off") as inner:
            assert inner.cache_store.location == outer.cache_store.location
            assert inner.cache_store.shared is None
        with session(cache_shared=tmp_path / "t") as inner:
            assert inner.cache_store.location == outer.cache_store.location
            assert inner.cache_store.shared.url == str(tmp_path / "t")
        with session(cache_store=tmp_path / "d") as inner:
            assert inner.cache_store.shared.url == str(tmp_path / "s")
        with session(cache_store="off") as inner:
            assert inner.cache_store.shared is None


@pytest.mark.parametrize("place", ["off", "store"])
def test_a_shared_cache_needs_a_folder(tmp_path: Path, place: str) -> None:
    """Where results are only in memory, or the store has a tier of its own, `cache_shared` cannot be honoured."""
    store = CacheStore(tmp_path / "c") if place == "store" else "off"
    with session(cache_store=store, cache_shared=tmp_path / "s") as context:
        with pytest.raises(SessionError, match="cache_shared=.* needs a cache in a folder"):
            _ = context.cache_store


def test_a_cache_is_kept_in_a_folder() -> None:
    """A URL as the store is an error that names where URLs belong."""
    with session(cache_store="s3://bucket/cache") as context:
        with pytest.raises(SettingsError, match="put the URL into cache_shared"):
            _ = context.cache_store


def test_an_async_session_sends_off_the_loop(tmp_path: Path) -> None:
    """What is still to be sent when it closes does not hold up the loop."""
    threads: list[str] = []

    async def main() -> None:
        async with async_session(cache_store=tmp_path / "c", cache_shared=tmp_path / "s") as context:
            context.cache_store.put("0" * 32, [1])
            close = context.cache_store.shared.close
            context.cache_store.shared.close = lambda: (threads.append(threading.current_thread().name), close())

    asyncio.run(main())
    assert threads[0] != threading.main_thread().name
    with session(cache_store=tmp_path / "d", cache_shared=tmp_path / "s") as context:
        assert context.cache_store.get("0" * 32) == [1]


def test_trouble_with_the_shared_cache_is_an_event(tmp_path: Path, recorder: EventRecorder) -> None:
    """It belongs to no call, fails none, and is said once."""
    with session(cache_store=tmp_path / "c", cache_shared=tmp_path / "none.zip", observers=[recorder]) as context:
        with pytest.warns(RuntimeWarning, match="There is no bundle"):
            assert context.cache_store.get("0" * 32) is CACHE_MISS
        assert context.cache_store.get("1" * 32) is CACHE_MISS
    (event,) = recorder.of(CacheFailed)
    assert (event.stage, event.name) == ("share", context.session_id)


def test_own_settings_replace_all(tmp_path: Path) -> None:
    """Settings given to an inner session count with all they imply."""
    with session(backend="thread", dataset_store=tmp_path / "a") as outer:
        with session(settings=load_settings(backend="inline", dataset_store=tmp_path / "b")) as inner:
            assert inner.backend == "inline"
            assert inner.backends is not outer.backends
            assert inner.dataset_store is not outer.dataset_store
            with session() as innermost:
                assert innermost.backends is inner.backends
                assert innermost.dataset_store is inner.dataset_store


def test_observers_around_hear_inner_sessions() -> None:
    """Events of an inner session reach those around, not the other way."""
    outer, inner = EventRecorder(), EventRecorder()
    with session(observers=[outer]):
        with session(observers=[inner]):
            here()
        here()
    assert len(outer.of(TaskStarted)) == 2
    assert len(inner.of(TaskStarted)) == 1


def test_label_is_inherited(notebook: SessionContext, recorder: EventRecorder) -> None:
    """Inner sessions name the same cell."""
    notebook.label = lambda: "cell 4"
    with session(observers=[recorder]):
        here()
    assert recorder.of(TaskStarted)[0].cell == "cell 4"

    @task
    def item() -> None:
        raise ValueError("oops")

    with pytest.raises(ValueError, match="oops") as caught:
        item()
    assert caught.value.__notes__ == ["nbflow: in task 'item', cell 4"]


# -- life -------------------------------------------------------------------------------------------------------------


def test_empty_session_creates_nothing(tmp_path: Path) -> None:
    """Opening and closing neither touches the disk nor starts a thread."""
    before = set(threading.enumerate())
    with session(cache_store=tmp_path / "c", dataset_store=tmp_path / "d", settings=load_settings(home=tmp_path / "h")):
        assert set(threading.enumerate()) == before
        here()
        assert set(threading.enumerate()) == before
    assert list(tmp_path.iterdir()) == []


def test_ids_are_unique() -> None:
    """No two sessions of a process have the same id."""
    with session() as one, session() as two:
        assert one.session_id != two.session_id
    assert repr(one) == f"<{one.session_id} closed, backend 'inline'>"


def test_events_of_a_session(recorder: EventRecorder) -> None:
    """Opening and closing are told once each, with the duration."""
    clock = FakeClock()
    with session(observers=[recorder], clock=clock) as context:
        clock.advance(3)
    context.close()
    assert [event.name for event in recorder.of(SessionStarted)] == [context.session_id]
    assert [event.duration_s for event in recorder.of(SessionEnded)] == [3.0]


def test_closing_is_idempotent() -> None:
    """Closing again, also from several threads at once, does nothing."""
    ended: list[str] = []

    class Plugin:
        @hook_impl
        def after_session_end(self, session_id: str) -> None:
            ended.append(session_id)

    with session(plugins=Plugin()) as context:
        threads = [threading.Thread(target=context.close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_LIMIT_S)
    context.close()
    assert ended == [context.session_id]


def test_stores_are_closed() -> None:
    """Stores that the session made are closed with it; those it was given are not."""
    closed: list[str] = []

    class Store:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)
            raise OSError(f"{self.name} broke")

    with pytest.warns(RuntimeWarning, match="made broke"), session(cache_store=Store("given")) as context:
        context._stores["any"] = Store("made")
    assert closed == ["made"]


def test_a_failing_body_closes_the_session() -> None:
    """An error in the block arrives as it is, and the session is closed."""
    with pytest.raises(ValueError, match="oops"):
        with session() as context:
            raise ValueError("oops")
    assert context.closed
    assert current_session() is None


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"backend": "nope"}, BackendError, "There is no backend 'nope'; did you mean noop? Known: dask"),
        ({"backend": 3}, BackendError, "There is no backend 3"),
        ({"settings": {}}, DefinitionError, "settings={} is not a Settings object; use nbflow.settings.load_settings"),
        ({"observers": [3]}, DefinitionError, "observer=3 is not callable"),
        ({"observers": print}, DefinitionError, "must be a list of functions; write observers=[...]"),
        ({"plugins": [3]}, DefinitionError, "3 is not a plugin"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], said: str) -> None:
    """A bad option is an error when the session opens, and leaves none open."""
    with pytest.raises(error) as caught, session(**options):
        pass
    assert said in str(caught.value)
    assert current_session() is None


def test_async_session(recorder: EventRecorder) -> None:
    """The async form takes the same options, and stops its pools off the loop."""

    async def main() -> None:
        async with async_session(backend="thread", observers=[recorder]) as context:
            assert current_session() is context
            assert await submit(here) == context.session_id
        assert context.closed

    asyncio.run(main())
    recorder.check()
    with pytest.raises(TypeError, match="colour"):
        asyncio.run(_enter(async_session(colour="red")))


async def _enter(manager: contextlib.AbstractAsyncContextManager[Any]) -> None:
    async with manager:
        pass


def test_async_sessions_do_not_meet() -> None:
    """Two asyncio tasks have each their own session."""

    async def one() -> bool:
        async with async_session() as context:
            await asyncio.sleep(0)
            return current_session() is context

    async def main() -> list[bool]:
        return await asyncio.gather(one(), one())

    assert asyncio.run(main()) == [True, True]


def test_session_of_a_stream_is_that_of_its_call() -> None:
    """A stream runs in the session in which it was called, wherever its items are asked for."""

    @task
    def items() -> Iterator[str]:
        for _ in range(2):
            found = current_session()
            assert found is not None
            yield found.session_id

    with session() as outer:
        found = items()
        with session():
            assert next(found) == outer.session_id
        assert in_thread(lambda: next(found)) == outer.session_id
        assert current_session() is outer


# -- what runs --------------------------------------------------------------------------------------------------------


def test_records_are_bounded() -> None:
    """A session remembers the most recent calls only."""
    with session(settings=load_settings(max_records=3)) as context:
        ids = [here() and context.records[-1].id for _ in range(5)]
        assert [record.id for record in context.records] == ids[-3:]
        assert all(record.state == "completed" and record.duration_s >= 0 for record in context.records)
        assert all(record.args is None and record.parent is None for record in context.records)


def test_live_calls_and_maps(recorder: EventRecorder) -> None:
    """What runs now can be seen while somebody listens, and is gone afterwards."""
    seen: list[Any] = []

    @task
    def item(x: int) -> int:
        found = current_session()
        assert found is not None
        (state,) = found.live_maps()
        seen.append(([call.name for call in found.live_calls()], state.running, state.running_items()[0][:2]))
        return x

    with session(observers=[recorder]) as context:
        map_tasks(item, [1])
        assert seen == [(["item[0]"], 1, (0, "item[0]"))]
        assert context.live_calls() == context.live_maps() == []


def test_cancel_by_id() -> None:
    """A running call or map is cancelled by its id; an unknown id is not found."""
    with session() as context:
        begun = threading.Event()

        @task
        def item() -> None:
            begun.set()
            while True:
                threading.Event().wait(0.001)

        context.add_observer(lambda event: None)
        handle = submit(item)
        assert begun.wait(_LIMIT_S)
        assert context.cancel(handle.task_id)
        with pytest.raises(Exception, match=r"Task 'item' was cancelled \(panel\)"):
            handle.get(_LIMIT_S)
        assert not context.cancel(handle.task_id)
        assert not context.cancel(-5)


def test_cancel_all() -> None:
    """Everything that runs is cancelled at once."""
    with session() as context:
        context.add_observer(lambda event: None)
        begun = threading.Semaphore(0)

        @task
        def item() -> None:
            begun.release()
            while True:
                threading.Event().wait(0.001)

        handles = [submit(item) for _ in range(2)]
        assert all(begun.acquire(timeout=_LIMIT_S) for _ in handles)
        assert context.cancel_all("stop") == 2
        for handle in handles:
            with pytest.raises(Exception, match="cancelled"):
                handle.get(_LIMIT_S)
            assert handle.cancelled()
