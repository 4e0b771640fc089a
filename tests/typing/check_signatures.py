"""Checked by mypy, pyright and pyrefly, never run: tasks keep the signature of their function, results have types."""

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
from nbflow.logging import CentralizedLoggingPlugin, LifecycleLoggingPlugin, TaskLogger, get_logger
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


@task(cache=True, dataset="lines_{path}.json")
def numbered(path: str, *, first: int = 1) -> Iterator[str]:
    yield f"{first} {path}"


@task(timeout=5.0)
async def slow_ticks(count: int, wait_s: float = 0.1) -> AsyncIterator[int]:
    yield count


@task
def make_list() -> list[int]:
    return []


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
    stream_with_options: SyncTaskStream[..., str] = numbered
    async_stream_with_options: AsyncTaskStream[..., int] = slow_ticks
    flow: SyncWorkflow[..., str] = report
    async_flow: AsyncWorkflow[..., list[bytes]] = fetch_all
    _ = (synchronous, with_options, asynchronous, stream, async_stream, flow, async_flow)
    _ = (stream_with_options, async_stream_with_options)


def calls() -> None:
    """A call takes what the function takes, and gives what it gives."""
    assert_type(scale(3), float)
    assert_type(scale(3, factor=0.5), float)
    assert_type(tidy("a", upper=True), str)
    assert_type(lines("x"), Iterator[str])
    assert_type(ticks(3), AsyncIterator[int])
    assert_type(numbered("x", first=2), Iterator[str])
    assert_type(slow_ticks(3, wait_s=0.2), AsyncIterator[int])
    assert_type(make_list(), list[int])
    assert_type(report(2013), str)
    assert_type(scale.name, str)
    for line in lines("x"):
        assert_type(line, str)
    numbered("x", 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    slow_ticks(3, wait="0.2")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
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
    await fetch(b"u")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await fetch_all("u")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def maps() -> None:
    """A map gives a list of results; streams give a list for each item."""
    assert_type(map_tasks(scale, range(3)), list[float])
    assert_type(map_tasks(scale, [1], [2.0], backend="thread", on_error="collect"), list[float])
    assert_type(map_tasks(fetch, ["u"]), list[bytes])
    assert_type(map_tasks(lines, ["x"]), list[list[str]])
    assert_type(map_tasks(ticks, [1]), list[list[int]])
    assert_type(map_tasks(len, ["a"]), list[int])
    assert_type(map_tasks(make_list, concurrency=2), list[list[int]])
    assert_type(map_tasks(numbered, ["x"], kwargs={"first": 2}, chunksize=4), list[list[str]])
    map_tasks(scale, [1], on_error="ignore")  # type: ignore[call-overload]  # pyright: ignore
    map_tasks(scale, [1], workers=3)  # type: ignore[call-overload]  # pyright: ignore


async def gathers() -> None:
    """Gathering gives a list of results, too."""
    assert_type(await gather_tasks(fetch, ["u"]), list[bytes])
    assert_type(await gather_tasks(ticks, [1]), list[list[int]])
    assert_type(await gather_tasks(slow_ticks, [1], concurrency=2), list[list[int]])
    assert_type(await gather_tasks(fetch_slowly, ["u"], [0.1], on_error="collect"), list[bytes])
    await gather_tasks(fetch, ["u"], chunksize=2)  # type: ignore[call-overload]  # pyright: ignore


def handles() -> None:
    """A handle knows the type of its result."""
    assert_type(submit(scale, 3), TaskHandle[float])
    assert_type(submit(scale, 3).get(timeout=1.0), float)
    assert_type(submit(fetch, "u").get(), bytes)
    assert_type(submit(lines, "x").get(), list[str])
    assert_type(submit(ticks, 3).get(), list[int])
    assert_type(submit(make_list).get(), list[int])
    assert_type(submit(scale, 3).done(), bool)
    assert_type(submit(scale, 3).exception, BaseException | None)
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
    async with async_session(backend="process", seed=3) as context:
        assert_type(context.closed, bool)
    with session(backnd="thread"):  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        pass
    async with async_session(backnd="thread"):  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        pass


async def handle_awaits() -> None:
    """A handle can be awaited, and handles iterated as they end."""
    assert_type(await submit(fetch, "u"), bytes)
    async for handle in as_completed([submit(scale, 1)]):
        assert_type(handle.get(), float)


def logging_and_workflows() -> None:
    """Loggers take what standard ones take; a workflow says what it is."""
    log = get_logger("mine")
    log.info("%d", 3, extra={"more": 1})
    assert_type(log, TaskLogger)
    assert_type(report.name, str)
    assert_type(report.get_typed_params(), dict[str, Any])
    with session(plugins=[CentralizedLoggingPlugin("INFO", handler="rich"), LifecycleLoggingPlugin()]):
        pass
    CentralizedLoggingPlugin(handler="file")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
