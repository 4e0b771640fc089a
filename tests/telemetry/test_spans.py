"""Spans for OpenTelemetry, exported to memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nbflow import map_tasks, session, task
from nbflow.errors import DefinitionError
from nbflow.telemetry import OpenTelemetrySpans, spans

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from opentelemetry.trace import StatusCode  # noqa: E402


class Spans:
    """A provider, and what it exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def all(self) -> list[Any]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> Any:
        [found] = [span for span in self.all() if span.name == name]
        return found

    def path(self, span: Any) -> list[str]:
        """Return the names of the spans around one, outermost first."""
        by_id = {found.context.span_id: found for found in self.all()}
        names = [span.name]
        while span.parent is not None:
            span = by_id[span.parent.span_id]
            names.append(span.name)
        return [name.split(" session-")[0] for name in names[::-1]]


@pytest.fixture
def exported() -> Iterator[Spans]:
    found = Spans()
    yield found
    found.provider.shutdown()


def test_nesting(exported: Spans) -> None:
    """Attempts lie in calls, calls in maps or in other calls, all in the session; none is left open."""

    @task
    def inner(x: int) -> int:
        return x

    @task
    def outer(x: int) -> int:
        return inner(x)

    with session(telemetry=OpenTelemetrySpans(exported.provider)):
        map_tasks(outer, [1], backend="thread")
    top = ["session", "map outer", "outer[0]"]
    assert sorted(exported.path(span) for span in exported.all()) == [
        ["session"],
        ["session", "map outer"],
        top,
        [*top, "attempt 1"],
        [*top, "inner"],
        [*top, "inner", "attempt 1"],
    ]
    for span in exported.all():
        assert span.end_time >= span.start_time
        if span.parent is not None:
            [around] = [found for found in exported.all() if found.context.span_id == span.parent.span_id]
            assert around.start_time <= span.start_time
            assert around.end_time >= span.end_time


def test_what_spans_say(exported: Spans) -> None:
    """State, attempts and cache are attributes; failures set the status and carry the error."""
    attempts: list[int] = []

    @task(retries=1)
    def shaky() -> int:
        attempts.append(1)
        if len(attempts) < 2:
            raise OSError("not yet")
        return 1

    @task
    def fail() -> None:
        raise KeyError("no such thing")

    @task(cache="session")
    def cached() -> int:
        return 1

    with session(telemetry=OpenTelemetrySpans(exported.provider), cache_store="off"):
        shaky()
        cached()
        cached()
        with pytest.raises(KeyError):
            fail()
    span = exported.named("shaky")
    assert (span.attributes["nbflow.state"], span.attributes["nbflow.attempts"]) == ("completed", 2)
    assert span.status.status_code is StatusCode.UNSET
    assert [event.name for event in span.events] == ["RetryScheduled"]
    inside = [found for found in exported.all() if found.parent and found.parent.span_id == span.context.span_id]
    first, second = inside
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert [found.attributes["nbflow.cached"] for found in exported.all() if found.name == "cached"] == [False, True]
    failed = exported.named("fail")
    assert failed.status.status_code is StatusCode.ERROR
    [error] = failed.events
    assert error.name == "exception"
    assert error.attributes["exception.type"] == "KeyError"
    assert "no such thing" in error.attributes["exception.message"]


def test_failed_maps(exported: Spans) -> None:
    """The span of a map has its counts and its failures; items can be left out."""
    with session(telemetry=OpenTelemetrySpans(exported.provider, items=False)):
        map_tasks(lambda x: 1 // x, [1, 0], on_error="collect")
    span = exported.named("map <lambda>")
    assert (span.attributes["nbflow.completed"], span.attributes["nbflow.failed"]) == (1, 1)
    assert span.status.description == "1 of 2 items failed"
    assert not [found for found in exported.all() if found.name == "<lambda>[0]"]


def test_spans_that_are_left(exported: Spans) -> None:
    """Closing ends what has not ended, once."""
    observer = OpenTelemetrySpans(exported.provider)
    with session(observers=[observer]):
        stream = task(iter_forever)()
        assert next(stream) == 0
        observer.close()
        observer.close()
        assert exported.named("iter_forever").end_time is not None
        stream.close()
    assert len([span for span in exported.all() if span.name == "iter_forever"]) <= 2


def iter_forever() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def test_the_word(exported: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """`telemetry="opentelemetry"` uses the global provider."""
    from opentelemetry import trace

    monkeypatch.setattr(trace, "get_tracer", lambda *args: exported.provider.get_tracer("x"))
    with session(telemetry="opentelemetry"):
        task(iter)([])
    assert exported.named("iter").attributes["nbflow.state"] == "completed"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing, and how to get it, is said."""
    monkeypatch.setattr(spans, "find_spec", lambda name: None)
    with pytest.raises(DefinitionError, match=r"pip install 'nbflow\[telemetry\]'"):
        OpenTelemetrySpans()
