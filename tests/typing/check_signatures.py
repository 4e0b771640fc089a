"""Checked by mypy and pyright, never run: tasks keep the signature of their function, and results have their types."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, assert_type

from nbflow import (
    TaskHandle,
    as_completed,
    async_session,
    gather_tasks,
    load_dataset,
    map_tasks,
    save_dataset,
    session,
    submit,
    task,
    workflow,
)
from nbflow.tasks import AsyncTask, AsyncTaskStream, SyncTask, SyncTaskStream
from nbflow.workflows import AsyncWorkflow, SyncWorkflow


@task
def scale(value: int, factor: float = 2.0) -> float:
    return value * factor


@task(cache=True, retries=2, timeout=30.0)
def tidy(text: str, *, upper: bool = False) -> str:
    return text.upper() if upper else text


@task
async def fetch(url: str) -> bytes:
    return url.encode()


@task(retries=1)
async def fetch_slowly(url: str, wait_s: float) -> bytes:
    return url.encode()


@task
def lines(path: str) -> Iterator[str]:
    yield path


@task
async def ticks(count: int) -> AsyncIterator[int]:
    yield count


@workflow
def report(year: int) -> str:
    return str(year)


@workflow(name="fetch-all")
async def fetch_all(urls: list[str]) -> list[bytes]:
    return await gather_tasks(fetch, urls)


def kinds() -> None:
    """Each kind of function becomes its own type of task."""
    synchronous: SyncTask[..., float] = scale
    with_options: SyncTask[..., str] = tidy
    asynchronous: AsyncTask[..., bytes] = fetch
    stream: SyncTaskStream[..., str] = lines
    async_stream: AsyncTaskStream[..., int] = ticks
    flow: SyncWorkflow[[int], str] = report
    async_flow: AsyncWorkflow[[list[str]], list[bytes]] = fetch_all
    _ = (synchronous, with_options, asynchronous, stream, async_stream, flow, async_flow)


def calls() -> None:
    """A call takes what the function takes, and gives what it gives."""
    assert_type(scale(3), float)
    assert_type(scale(3, factor=0.5), float)
    assert_type(tidy("a", upper=True), str)
    assert_type(lines("x"), Iterator[str])
    assert_type(ticks(3), AsyncIterator[int])
    assert_type(report(2013), str)
    scale("3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    scale()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    scale(3, factr=0.5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    tidy("a", True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    report("2013")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    task(retrys=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def awaits() -> None:
    """Async tasks are awaited, async streams iterated."""
    assert_type(await fetch("u"), bytes)
    assert_type(await fetch_slowly("u", wait_s=0.1), bytes)
    assert_type(await fetch_all(["u"]), list[bytes])
    async for tick in ticks(3):
        assert_type(tick, int)
    waiting: Coroutine[Any, Any, bytes] = fetch("u")
    await waiting


def maps() -> None:
    """A map gives a list of results; streams give a list for each item."""
    assert_type(map_tasks(scale, range(3)), list[float])
    assert_type(map_tasks(scale, [1], [2.0], backend="thread", on_error="collect"), list[float])
    assert_type(map_tasks(fetch, ["u"]), list[bytes])
    assert_type(map_tasks(lines, ["x"]), list[list[str]])
    assert_type(map_tasks(ticks, [1]), list[list[int]])
    assert_type(map_tasks(len, ["a"]), list[int])


async def gathers() -> None:
    """Gathering gives a list of results, too."""
    assert_type(await gather_tasks(fetch, ["u"]), list[bytes])
    assert_type(await gather_tasks(ticks, [1]), list[list[int]])


def handles() -> None:
    """A handle knows the type of its result."""
    assert_type(submit(scale, 3), TaskHandle[float])
    assert_type(submit(scale, 3).get(timeout=1.0), float)
    assert_type(submit(fetch, "u").get(), bytes)
    for handle in as_completed([submit(scale, 1), submit(scale, 2)]):
        assert_type(handle, TaskHandle[float])


def datasets() -> None:
    """A dataset is loaded as the type that was asked for."""
    assert_type(save_dataset("numbers.json", [1, 2]), str)
    assert_type(load_dataset("numbers.json", list), list[Any])
    assert_type(load_dataset("numbers.json"), Any)


async def sessions() -> None:
    """Sessions say what they give."""
    with session(backend="thread") as context:
        assert_type(context.backend, str)
    async with async_session() as context:
        assert_type(context.session_id, str)
