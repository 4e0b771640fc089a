"""Loggers that know the task, and the plugins that show what they say."""

from __future__ import annotations

import asyncio
import io
import logging
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from nbflow import gather_tasks, map_tasks, session, task
from nbflow.errors import DefinitionError
from nbflow.hooks import Hooks
from nbflow.logging import CentralizedLoggingPlugin, LifecycleLoggingPlugin, TaskFormatter, get_logger


class Keep(logging.Handler):
    """Keeps the records that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def texts(self) -> list[str]:
        formatter = TaskFormatter("%(levelname)s %(where)s%(message)s")
        return [formatter.format(record) for record in self.records]


@pytest.fixture
def kept() -> Keep:
    return Keep()


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """The root logger is the host's: level and handlers stay, and no logger keeps a handler of ours."""
    before = logging.root.level, list(logging.root.handlers)
    yield
    assert (logging.root.level, list(logging.root.handlers)) == before
    for name in ("nbflow", "nbflow.tasks", "nbflow.lifecycle"):
        assert (logging.getLogger(name).level, logging.getLogger(name).handlers) == (0, [])


@task(name="speak")
def speak(n: int) -> int:
    log = get_logger()
    log.info("first of %d", n)
    log.info("second of %d", n, extra={"odd": {n}})
    return n


@task
async def whisper(n: int) -> int:
    get_logger().info("before")
    await asyncio.sleep(0)
    get_logger().info("after")
    return n


@pytest.mark.parametrize("backend", ["inline", "thread", "process"])
def test_records_know_their_item_on_every_backend(backend: str, kept: Keep) -> None:
    """Task, call, item, worker and cell; those of one item in order; what else was given comes along."""
    with session(backend=backend, plugins=CentralizedLoggingPlugin("INFO", handler=kept)) as context:
        context.label = lambda: "cell 7"
        map_tasks(speak, [5, 6])
    by_item: dict[Any, list[Any]] = {0: [], 1: []}
    for record in kept.records:
        known: Any = record
        by_item[known.item].append(record.getMessage())
        assert (known.task, known.call, known.cell) == ("speak", f"speak[{known.item}]", "cell 7")
        assert known.call_id
        assert backend == "inline" or backend in known.worker
    assert by_item == {0: ["first of 5", "second of 5"], 1: ["first of 6", "second of 6"]}
    assert {str(record.__dict__["odd"]) for record in kept.records if "odd" in record.__dict__} == {"{5}", "{6}"}


def test_coroutines_that_take_turns_are_told_apart(kept: Keep) -> None:
    """The attributes are those of the coroutine that logs, not of the one that began last."""
    with session(plugins=CentralizedLoggingPlugin(handler=kept)):
        asyncio.run(gather_tasks(whisper, [0, 1]))
    found: list[Any] = kept.records
    assert sorted((record.item, record.getMessage()) for record in found) == [
        (item, word) for item in (0, 1) for word in ("after", "before")
    ]


def test_outside_of_a_call_nothing_is_known(kept: Keep) -> None:
    """The attributes are there, as None, so that one format does for all records; so for other loggers' records."""
    with session(plugins=CentralizedLoggingPlugin(handler=kept)):
        get_logger().info("plain")
        logging.getLogger("nbflow.other").info("not ours")
    formatter = TaskFormatter("{call}|{item}|{where}{message}", style="{")
    assert [formatter.format(record) for record in kept.records] == ["None|None|plain", "None|None|not ours"]


def test_a_host_that_has_set_up_logging_needs_no_plugin(caplog: pytest.LogCaptureFixture) -> None:
    """Records go where the logger of that name sends them; below its level none is made."""
    log = get_logger("project.fits")
    caplog.set_level(logging.WARNING, logger="project")

    @task
    def fit() -> None:
        log.info("unheard")
        log.warning("heard", stacklevel=1)

    with session():
        fit()
    (record,) = caplog.records
    assert (record.name, record.getMessage(), record.funcName) == ("project.fits", "heard", "fit")
    assert record.__dict__["task"] == "fit"


def test_a_logger_travels_by_its_name_and_is_no_input_of_a_cached_task() -> None:
    """It can be pickled; another level makes no other key."""
    log = get_logger("project.travels")
    again = pickle.loads(pickle.dumps(log))
    assert again.logger is log.logger
    bodies: list[int] = []

    @task(cache=True)
    def once(n: int) -> int:
        log.debug("computing")
        bodies.append(n)
        return n

    with session():
        once(1)
        log.setLevel(logging.ERROR)
        once(1)
    log.setLevel(logging.NOTSET)
    assert bodies == [1]


def test_inner_sessions_and_their_end(kept: Keep) -> None:
    """A plugin listens until the last session that has it ends, and shows each record once."""
    plugin = CentralizedLoggingPlugin(handler=kept)
    with session(plugins=plugin):
        with session():
            get_logger().info("inner")
        get_logger().info("outer")
    get_logger().info("late")
    assert kept.texts() == ["INFO inner", "INFO outer"]


def test_the_life_of_calls_is_told(kept: Keep) -> None:
    """Start, end, hits, retries, failures and maps; items only at DEBUG."""

    @task(retries=1)
    def fails() -> None:
        raise ValueError("no")

    @task(cache=True)
    def square(n: int) -> int:
        return n * n

    with session(plugins=LifecycleLoggingPlugin(handler=kept)):
        square(3)
        square(3)
        map_tasks(square, [4, 5])
        with pytest.raises(ValueError, match="no"):
            fails()
    texts = [text.split(" in ")[0].split(" after ")[0] for text in kept.texts()]
    assert texts == [
        "INFO square: started on inline",
        "INFO square: completed",
        "INFO square: cached",
        "INFO square: map of 2 items on inline",
        "INFO square: 2 of 2 completed",
        "INFO fails: started on inline",
        "WARNING fails: retry 1",
        "ERROR fails: failed",
    ]


def test_stderr_shows_a_record_once_though_both_plugins_would(capsys: pytest.CaptureFixture[str]) -> None:
    """What the lifecycle plugin tells is below the logger that the other one shows."""
    with session(plugins=[CentralizedLoggingPlugin("INFO"), LifecycleLoggingPlugin()]):
        speak(1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1] for line in lines if "of 1" in line or "started" in line] == [
        "INFO    speak: started on inline",
        "INFO    speak: first of 1",
        "INFO    speak: second of 1",
    ]


def test_rich_is_asked_for_and_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the package, its handler; without, an error that says how to get it and what does without."""
    pytest.importorskip("rich")
    plugin = CentralizedLoggingPlugin(handler="rich")
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    with session(plugins=plugin):
        speak(1)
    assert "speak: first of 1" in out.getvalue()
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr("nbflow.logging.find_spec", lambda name: None)
    with pytest.raises(DefinitionError, match=r'pip install "nbflow\[rich\]"'):
        LifecycleLoggingPlugin(handler="rich")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"level": "LOUD"}, "is no level of logging; use one of"),
        ({"handler": "file"}, "is no logging.Handler"),
        ({"name": ""}, "the root logger belongs to the host"),
        ({"name": "root"}, "the root logger belongs to the host"),
    ],
)
def test_what_cannot_be_is_an_error(options: dict[str, Any], words: str) -> None:
    """It names the value and what would do."""
    for plugin in (CentralizedLoggingPlugin, LifecycleLoggingPlugin):
        with pytest.raises(DefinitionError, match=words):
            plugin(**options)


def test_they_are_plugins() -> None:
    """Both fit the hooks, as `register_plugins` demands."""
    Hooks([CentralizedLoggingPlugin(), LifecycleLoggingPlugin()])
