"""What is seen of items that run elsewhere, and how a single one of them is cancelled."""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nbflow import gather_tasks, map_tasks, session, submit, task
from nbflow.errors import TaskCancelledError
from nbflow.events import AttemptPlaced, MapProgressed, TaskCancelled, TaskStarted
from nbflow.runtime.watch import Lookout, Progress
from nbflow.runtime.worker import Packed
from nbflow.sessions import SessionContext
from nbflow.settings import Settings, load_settings
from nbflow.testing import EventRecorder

_LIMIT_S = 30.0
_STUCK = 5


def _two() -> Settings:
    return load_settings(max_backend_threads=2, max_parallel_processes=2)


def _until(condition: Callable[[], Any]) -> Any:
    pause = threading.Event()
    for _ in range(int(_LIMIT_S / 0.02)):
        if found := condition():
            return found
        pause.wait(0.02)
    return condition()


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Run something in another thread while the block runs."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join(_LIMIT_S)


def _one_stuck(folder: str, index: int) -> int:
    """Leave a trace of each run; one item never ends by itself."""
    with open(Path(folder) / f"{index}", "a") as file:
        file.write("x")
    pause = threading.Event()
    while index == _STUCK:
        pause.wait(0.01)
    return index


def _written(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _canceller(context: SessionContext, folder: Path, done: list[bool]) -> Callable[[], None]:
    """Return what cancels the item that is stuck, once that is seen to run."""

    def cancel() -> None:
        def runs() -> Any:
            return [state for state in context.live_maps() if _STUCK in [item[0] for item in state.running_items()]]

        state = _until(lambda: _written(folder / f"{_STUCK}") and runs())[0]
        done.append(context.cancel(state.id, index=_STUCK))
        done.append(context.cancel(state.id, index=_STUCK))

    return cancel


@pytest.mark.parametrize("options", [{}, {"retries": 1}], ids=["plain", "retried"])
@pytest.mark.parametrize("backend", ["inline", "thread", "process"])
def test_one_item_is_cancelled(backend: str, options: dict[str, Any], tmp_path: Path) -> None:
    """The item ends as cancelled, its neighbours run on, each of them once."""
    item = task(_one_stuck, **options)
    done: list[bool] = []
    with session(settings=_two(), backend=backend) as context:
        with beside(_canceller(context, tmp_path, done)):
            results = map_tasks(item, [str(tmp_path)] * 12, range(12), on_error="collect")
        ended = {call.index: call.state for call in context.records}
    assert done == [True, False]
    assert [found for found in results if isinstance(found, int)] == [n for n in range(12) if n != _STUCK]
    error: Any = results[_STUCK]
    assert isinstance(error, TaskCancelledError)
    assert vars(error)["reason"] == "panel"
    assert ended == {n: "completed" if n != _STUCK else "cancelled" for n in range(12)}
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {str(n): "x" for n in range(12)}


def test_without_collecting_a_cancelled_item_is_raised_at_the_end(tmp_path: Path) -> None:
    """The others are done by then."""
    done: list[bool] = []
    with session(settings=_two(), backend="process") as context, beside(_canceller(context, tmp_path, done)):
        with pytest.raises(TaskCancelledError, match=r"_one_stuck\[5\].*panel"):
            map_tasks(_one_stuck, [str(tmp_path)] * 12, range(12))
    assert len(list(tmp_path.iterdir())) == 12


@pytest.mark.parametrize("options", [{}, {"retries": 1}], ids=["plain", "retried"])
@pytest.mark.parametrize("concurrency", [2, None])
def test_one_gathered_item_is_cancelled(concurrency: int | None, options: dict[str, Any]) -> None:
    """Also where one asyncio task runs many items one after the other."""

    async def item(index: int) -> int:
        if index == 2:
            assert context.cancel(context.live_maps()[0].id, index=index)
            await asyncio.sleep(_LIMIT_S)
        return index

    with session() as context:
        gathered = gather_tasks(task(item, **options), range(6), concurrency=concurrency, on_error="collect")
        results = asyncio.run(gathered)
    assert [found for found in results if isinstance(found, int)] == [0, 1, 3, 4, 5]
    assert isinstance(results[2], TaskCancelledError)


def test_code_that_does_not_end_is_left_behind(tmp_path: Path) -> None:
    """A thread that is stuck outside of Python costs its item and the pool goes on with another thread."""
    release = threading.Event()
    done: list[bool] = []

    @task
    def item(folder: str, index: int) -> int:
        if index == _STUCK:
            (Path(folder) / f"{index}").write_text("x")
            release.wait(_LIMIT_S)
        return index

    with session(settings=_two(), backend="thread") as context:
        with beside(_canceller(context, tmp_path, done)):
            results = map_tasks(item, [str(tmp_path)] * 12, range(12), on_error="collect")
        release.set()
    assert isinstance(results[_STUCK], TaskCancelledError)
    assert len([found for found in results if isinstance(found, int)]) == 11


@pytest.mark.parametrize("options", [{}, {"retries": 1}], ids=["plain", "retried"])
def test_items_are_cancelled_by_the_id_of_their_call(
    options: dict[str, Any], tmp_path: Path, recorder: EventRecorder
) -> None:
    """Whoever hears of the single items knows their ids."""
    item = task(_one_stuck, **options)

    def cancel() -> None:
        def begun() -> list[int]:
            return [event.call_id for event in recorder.of(TaskStarted) if event.index == _STUCK]

        (number,) = _until(lambda: (tmp_path / f"{_STUCK}").exists() and begun())
        assert context.cancel(number)
        assert not context.cancel(number)

    with session(settings=_two(), backend="process", observers=[recorder]) as context, beside(cancel):
        results = map_tasks(item, [str(tmp_path)] * 12, range(12), on_error="collect")
    assert isinstance(results[_STUCK], TaskCancelledError)
    recorder.check()
    (told,) = recorder.of(TaskCancelled)
    assert (told.name, told.reason) == (f"_one_stuck[{_STUCK}]", "panel")


def test_items_that_never_began_are_cancelled_too(tmp_path: Path) -> None:
    """They are left out."""

    @task
    def item(folder: str, index: int) -> int:
        return _one_stuck(folder, index)

    def cancel() -> None:
        _until(lambda: (tmp_path / f"{_STUCK}").exists() and context.live_maps()[0].running_items())
        (state,) = context.live_maps()
        assert state.cancel_item(11)
        assert state.cancel_item(_STUCK)

    with session(settings=load_settings(max_parallel_processes=1), backend="process") as context, beside(cancel):
        results = map_tasks(item, [str(tmp_path)] * 12, range(12), on_error="collect")
    assert [n for n, found in enumerate(results) if isinstance(found, TaskCancelledError)] == [_STUCK, 11]
    assert not (tmp_path / "11").exists()


# --- what is seen -----------------------------------------------------------------------------------------------------


def _wait_for(path: str, index: int) -> int:
    pause = threading.Event()
    while not Path(path).exists():
        pause.wait(0.005)
    return index


@pytest.mark.parametrize("options", [{}, {"retries": 1}], ids=["plain", "retried"])
def test_only_what_a_worker_runs_counts_as_running(options: dict[str, Any], tmp_path: Path) -> None:
    """Items that wait at a worker behind another one do not, and workers have names of their own."""
    item = task(_wait_for, **options)
    go_on = tmp_path / "go on"
    seen: list[tuple[int, set[str]]] = []

    def look() -> None:
        state = _until(context.live_maps)[0]
        _until(lambda: state.running == 2)
        for _ in range(10):
            seen.append((state.running, {worker for *_, worker in state.running_items()}))
            threading.Event().wait(0.01)
        go_on.touch()

    with session(settings=_two(), backend="process", observers=[]) as context:
        context.add_observer(lambda event: None, items=False)
        with beside(look):
            assert map_tasks(item, [str(go_on)] * 8, range(8)) == list(range(8))
        assert {call.worker for call in context.records} <= {"process-1", "process-2"}
    assert seen == [(2, {"process-1", "process-2"})] * 10


def test_events_name_the_worker(recorder: EventRecorder) -> None:
    """Of a submitted call it is told when a worker takes it up; calls inside are told with the worker's name."""

    @task
    def inner() -> int:
        return 1

    @task
    def outer() -> int:
        return inner()

    with session(settings=_two(), backend="process", observers=[recorder]):
        handle = submit(outer)
        assert handle.get() == 1
    recorder.check()
    kinds = ["TaskQueued", "TaskStarted", "AttemptStarted", "AttemptPlaced", "TaskCompleted"]
    assert recorder.kinds(handle.task_id) == kinds
    assert [event.worker for event in recorder.of(AttemptPlaced)] == ["process-1"]
    assert [event.worker for event in recorder.of(TaskStarted)] == [None, "process-1"]


def test_maps_inside_of_workers_are_counted_live(tmp_path: Path) -> None:
    """Their counters are told while they run, not only at their end."""
    half_way = tmp_path / "half way"
    counted: list[int] = []

    @task
    def inner(path: str, index: int) -> int:
        return index if index < 5 else _wait_for(path, index)

    @task
    def outer(path: str) -> int:
        return len(map_tasks(inner, [path] * 10, range(10)))

    def listen(event: Any) -> None:
        if isinstance(event, MapProgressed):
            counted.append(event.completed)
            if event.completed == 5:
                half_way.touch()

    with session(settings=_two(), backend="process") as context:
        context.add_observer(listen, items=False)
        assert map_tasks(outer, [str(half_way)]) == [10]
    assert 5 in counted


# --- the lookout ------------------------------------------------------------------------------------------------------


def test_progress_is_told_in_parts() -> None:
    """Each result is told once; nothing is told twice, and nothing of what has not changed."""
    progress = Progress()
    told: list[Any] = []
    lookout = Lookout(told.append, None, progress)
    lookout.look()
    lookout.look()
    progress.results += [1, 2]
    progress.stamps.extend((1.0, 2.0))
    lookout.look()
    progress.results.append(3)  # its stamp is not there yet
    lookout.look()
    progress.stamps.append(3.0)
    rest = progress.rest()
    assert [found.results for found in told] == [[], [1, 2]]
    assert rest.results == [3]
    assert rest.stamps == array("d", (2.0, 3.0))


def test_large_results_wait_for_the_end() -> None:
    """Messages are small; of large results only their number is told."""
    progress = Progress()
    progress.results += [1, Packed(b"", [bytearray(1 << 20)])]
    progress.stamps.extend((1.0, 2.0))
    news = progress.news()
    assert news is not None
    assert (news.results, news.ahead) == ([], 2)
    assert len(progress.rest().results) == 2
