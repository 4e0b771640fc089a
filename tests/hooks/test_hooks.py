"""Every hook: when it is called, with what, and in which order."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nbflow import load_dataset, map_tasks, save_dataset, session, submit, task
from nbflow.core.spec import TaskMetadata
from nbflow.hooks import HOOK_NAMES, hook_impl
from nbflow.hooks.specs import HookSpecs
from nbflow.sessions import SessionContext
from nbflow.testing import FakeClock


class Everything:
    """A plugin that writes down each hook with its arguments."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.heard]

    def arguments(self, name: str) -> dict[str, Any]:
        (found,) = [arguments for heard, arguments in self.heard if heard == name]
        return found


def _listener(name: str) -> Callable[..., None]:
    parameters = [each for each in inspect.signature(getattr(HookSpecs, name)).parameters if each != "self"]
    scope: dict[str, Any] = {}
    taken = ", ".join(parameters)
    pairs = ", ".join(f"{each}={each}" for each in parameters)
    exec(f"def {name}(self, {taken}):\n    self.heard.append(({name!r}, dict({pairs})))", scope)
    return hook_impl(scope[name])  # type: ignore[no-any-return]


for _name in HOOK_NAMES:
    setattr(Everything, _name, _listener(_name))


@pytest.fixture
def plugin() -> Everything:
    """Return a plugin that hears every hook."""
    return Everything()


@pytest.fixture
def around(plugin: Everything, tmp_path: Path) -> Iterator[SessionContext]:
    """Open a session with that plugin and forget what its opening told."""
    with session(plugins=plugin, dataset_store=tmp_path / "data", clock=FakeClock()) as context:
        plugin.heard.clear()
        yield context


def test_session_hooks(plugin: Everything) -> None:
    """Opening and closing are told with the session's id and its duration."""
    clock = FakeClock()
    with session(plugins=plugin, clock=clock) as context:
        assert plugin.heard == [("before_session_start", {"session_id": context.session_id})]
        clock.advance(2.5)
    assert plugin.heard[1:] == [("after_session_end", {"session_id": context.session_id, "duration": 2.5})]


def test_success(plugin: Everything, around: SessionContext) -> None:
    """A call that returns is told before and after, with its metadata, result and duration."""

    @task(name="add_{x}", description="adds")
    def add(x: int, y: int = 2) -> int:
        around.clock.sleep(1.5)
        return x + y

    assert add(1) == 3
    assert plugin.names == ["before_node_execute", "after_node_execute"]
    metadata = plugin.arguments("before_node_execute")["metadata"]
    assert isinstance(metadata, TaskMetadata)
    assert (metadata.name, metadata.backend, metadata.inputs) == ("add_1", "inline", {"x": 1, "y": 2})
    assert (metadata.description, metadata.map_index, metadata.parent_id) == ("adds", None, None)
    assert (metadata.is_async, metadata.is_generator) == (False, False)
    after = plugin.arguments("after_node_execute")
    assert (after["result"], after["duration"], after["metadata"].id) == (3, 1.5, metadata.id)
    assert hasattr(after["reporter"], "report")


def test_retry_order(plugin: Everything, around: SessionContext) -> None:
    """Retries are told in the seed's order, with the error that caused them, counted from 1."""
    left = [ValueError("a"), ValueError("b")]

    @task(retries=3)
    def item() -> int:
        if left:
            raise left.pop(0)
        return 1

    item()
    assert plugin.names == [
        "before_node_execute",
        "before_node_retry",
        "after_node_retry",
        "before_node_retry",
        "after_node_execute",
        "after_node_retry",
    ]
    retries = [arguments for name, arguments in plugin.heard if name == "before_node_retry"]
    assert [(each["attempt"], str(each["error"])) for each in retries] == [(1, "a"), (2, "b")]
    over = [arguments for name, arguments in plugin.heard if name == "after_node_retry"]
    assert [(each["attempt"], each["succeeded"]) for each in over] == [(1, False), (2, True)]


def test_failure(plugin: Everything, around: SessionContext) -> None:
    """A call that fails for good is told with the user's own exception."""
    error = ValueError("oops")

    @task(retries=1)
    def item() -> None:
        raise error

    with pytest.raises(ValueError, match="oops"):
        item()
    assert plugin.names == ["before_node_execute", "before_node_retry", "after_node_retry", "on_node_error"]
    assert plugin.arguments("on_node_error")["error"] is error


def test_the_original_error_is_told_where_errors_are_wrapped(plugin: Everything) -> None:
    """`wrap_errors` changes what the caller gets, not what plugins hear."""
    from nbflow.errors import TaskError
    from nbflow.settings import load_settings

    @task
    def item() -> None:
        raise ValueError("oops")

    with session(plugins=plugin, settings=load_settings(wrap_errors=True)), pytest.raises(TaskError):
        item()
    assert isinstance(plugin.arguments("on_node_error")["error"], ValueError)


def test_streams(plugin: Everything, around: SessionContext) -> None:
    """Each item of a stream is told before it is handed out; its result is None."""

    @task
    def items() -> Iterator[str]:
        yield from "ab"

    for number, _ in enumerate(items()):
        assert plugin.names.count("node_iteration") == number + 1
    assert plugin.names == ["before_node_execute", "node_iteration", "node_iteration", "after_node_execute"]
    assert [arguments["index"] for name, arguments in plugin.heard if name == "node_iteration"] == [0, 1]
    assert plugin.arguments("after_node_execute")["result"] is None
    assert plugin.arguments("before_node_execute")["metadata"].is_generator


def test_async_streams(plugin: Everything, around: SessionContext) -> None:
    """Async streams are told as streams are."""

    @task
    async def items() -> AsyncIterator[int]:
        yield 1

    async def main() -> list[int]:
        return [item async for item in items()]

    assert asyncio.run(main()) == [1]
    assert plugin.names == ["before_node_execute", "node_iteration", "after_node_execute"]
    metadata = plugin.arguments("before_node_execute")["metadata"]
    assert (metadata.is_async, metadata.is_generator) == (True, True)


def test_cancellation(plugin: Everything, around: SessionContext) -> None:
    """An interrupted call is told as cancelled, not as an error."""

    @task
    def item() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        item()
    assert plugin.names == ["before_node_execute", "on_node_cancelled"]
    assert plugin.arguments("on_node_cancelled")["reason"] == "interrupt"


def test_timeout(plugin: Everything, around: SessionContext) -> None:
    """A timeout is told as an error and as a timeout, with its limit."""

    @task(timeout=0.01)
    async def item() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await item()

    asyncio.run(main())
    assert plugin.names == ["before_node_execute", "on_node_error", "on_node_timeout"]
    assert plugin.arguments("on_node_timeout")["timeout"] == 0.01


def test_map(plugin: Everything, around: SessionContext) -> None:
    """A map is told around its items, whose metadata have index and backend; it ends with its tallies."""

    @task
    def item(x: int) -> int:
        return x

    map_tasks(item, [5, 6], backend="thread")
    assert plugin.names[0] == "before_map"
    assert plugin.names[-1] == "after_map"
    begun, ended = plugin.arguments("before_map"), plugin.arguments("after_map")
    assert (begun["name"], begun["total"], begun["backend"]) == ("item", 2, "thread")
    assert begun["map_id"] == ended["map_id"]
    assert (ended["total"], ended["completed"], ended["failed"], ended["cancelled"]) == (2, 2, 0, 0)
    seen = [arguments["metadata"] for name, arguments in plugin.heard if name == "before_node_execute"]
    assert sorted((each.map_index, each.name, each.backend) for each in seen) == [
        (0, "item[0]", "thread"),
        (1, "item[1]", "thread"),
    ]


def test_queued(plugin: Everything, around: SessionContext) -> None:
    """A submitted call is told as queued before it runs, on the backend that it will run on."""

    @task
    def item(x: int) -> int:
        return x

    assert submit(item, 5).get(60) == 5
    assert plugin.names == ["on_node_queued", "before_node_execute", "after_node_execute"]
    assert plugin.arguments("on_node_queued")["metadata"].backend == "thread"
    assert plugin.arguments("before_node_execute")["metadata"].backend == "thread"


def test_nested_call(plugin: Everything, around: SessionContext) -> None:
    """A call inside another names it as its parent, and does not inherit its place in a map."""

    @task
    def inner() -> None: ...

    @task
    def outer(_: int) -> None:
        inner()

    map_tasks(outer, [0])
    seen = {
        arguments["metadata"].name: arguments["metadata"] for name, arguments in plugin.heard if "before_node" in name
    }
    assert seen["inner"].parent_id == seen["outer[0]"].id
    assert seen["inner"].map_index is None


def test_datasets(plugin: Everything, around: SessionContext) -> None:
    """Saving and loading are told before and after, with key, value, format, options and the current call."""

    @task
    def item(x: int) -> None:
        save_dataset("a_{x}.pkl", [x])
        load_dataset("a_{x}.pkl", list)

    item(7)
    assert plugin.names[1:5] == [
        "before_dataset_save",
        "after_dataset_save",
        "before_dataset_load",
        "after_dataset_load",
    ]
    saved = plugin.arguments("after_dataset_save")
    assert (saved["key"], saved["value"], saved["format"], saved["options"]) == ("a_7.pkl", [7], None, None)
    assert saved["metadata"].name == "item"
    loaded = plugin.arguments("after_dataset_load")
    assert (loaded["key"], loaded["return_type"], loaded["result"]) == ("a_7.pkl", list, [7])
    assert loaded["duration"] >= 0


def test_datasets_outside_a_task(plugin: Everything, around: SessionContext) -> None:
    """Outside a task there is no metadata."""
    save_dataset("a.pkl", 1)
    assert plugin.arguments("before_dataset_save")["metadata"] is None
