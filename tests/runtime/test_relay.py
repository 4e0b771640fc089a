"""What a worker tells goes in batches, in order, and not without limit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nbflow.backends.remote import working
from nbflow.runtime import relay
from nbflow.runtime.relay import Relay, relay_of_context


@pytest.fixture
def told() -> Iterator[list[Any]]:
    """Be a worker, and return the messages that it sends."""
    sent: list[Any] = []
    with working("worker-1", sent.append):
        yield sent


def test_the_first_word_is_sent_at_once(told: list[Any]) -> None:
    """A line is told when it is written; what follows quickly goes together, with the end of the job at the latest."""
    with Relay(None) as out:
        out.write("stdout", "one\n")
        assert told == [[("stdout", "one\n", None, "", None)]]
        out.write("stdout", "two\n")
        out.write("stdout", "three")
        out.write("stderr", "four\n")
        out.add("an event")
    assert [entry for batch in told for entry in batch][1:] == [
        ("stdout", "two\nthree", None, "", None),
        ("stderr", "four\n", None, "", None),
        "an event",
    ]


def test_what_waits_is_sent_in_time(told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Text without an end of line does not wait for ever, though nothing follows."""
    heard = threading.Event()
    send = relay.tell
    monkeypatch.setattr(relay, "tell", lambda batch: (send(batch), heard.set()))
    with Relay(None) as out:
        out.write("stdout", "no end")
        assert heard.wait(10)
        assert told == [[("stdout", "no end", None, "", None)]]


def test_a_line_stays_in_one_piece(told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes in time for others does not cut the line that is being written; ended lines before it go."""
    monkeypatch.setattr(relay, "BATCH_S", 1e9)  # longer than this machine is up
    monkeypatch.setattr(relay, "LINE_S", 1e9)

    def ring() -> None:
        assert out._timer is not None
        out._timer.cancel()
        out._timer.join()
        out._late()

    with Relay(None) as out:
        out.write("stdout", "one\n")
        out.write("stdout", "two\nthr")
        ring()
        out.write("stdout", "ee")
        ring()
        out.write("stdout", "\n")
        ring()
    assert told == [[("stdout", text, None, "", None)] for text in ("one\n", "two\n", "three\n")]


def test_a_line_that_is_flushed_goes_as_it_is(told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who flushes wants the line to be seen before it has ended."""
    monkeypatch.setattr(relay, "BATCH_S", 1e9)  # longer than this machine is up
    monkeypatch.setattr(relay, "LINE_S", 1e9)
    stream = relay._Stream(None, "stdout")
    with Relay(None) as out:
        out.write("stdout", "one\n")
        print("...", end="", flush=True, file=stream)
        assert out._timer is not None
        out._timer.cancel()
        out._timer.join()
        out._late()
        assert [entry[1] for batch in told for entry in batch] == ["one\n", "..."]


def test_what_is_told_after_the_end_does_not_wait(told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that a job has left behind is heard at once, as nothing comes any more that would send its words."""
    monkeypatch.setattr(relay, "BATCH_S", 1e9)  # longer than this machine is up
    with Relay(None) as out:
        out.write("stdout", "one\n")
    out.write("stdout", "two\n")
    out.write("stdout", "three")
    assert [entry[1] for batch in told for entry in batch] == ["one\n", "two\n", "three"]


def test_a_flood_is_cut(told: list[Any]) -> None:
    """Of too much text at a time the rest is left out, and how much is said."""
    with Relay(None) as out:
        out.write("stdout", "begin\n")
        for _ in range(10):
            out.write("stdout", "x" * (relay.BATCH_CHARS // 4 - 1) + "\n")
    texts = "".join(entry[1] for batch in told for entry in batch)
    assert "lines dropped: too much at a time" in texts
    assert len(texts) < 2 * relay.BATCH_CHARS


def test_each_context_has_its_own(told: list[Any]) -> None:
    """A thread that was not started by the job has no relay; nothing is left when the job is over."""
    seen: list[Any] = []
    with Relay("cell 3") as out:
        assert relay_of_context() is out
        thread = threading.Thread(target=lambda: seen.append(relay_of_context()))
        thread.start()
        thread.join()
    assert seen == [None]
    assert relay_of_context() is None


def test_streams_and_records(told: list[Any]) -> None:
    """The worker's streams and handler give to the job's relay; without one, to what was there before."""
    behind: list[str] = []

    class Behind:
        def write(self, text: str) -> None:
            behind.append(text)

    stream = relay._Stream(Behind(), "stdout")
    print("outside", file=stream)
    record = logging.makeLogRecord(
        {"name": "x", "levelno": 30, "levelname": "WARNING", "msg": "%d items", "args": (3,)}
    )
    with Relay(None):
        print("inside", file=stream)
        relay._Records().emit(record)
    entries = [entry for batch in told for entry in batch]
    assert "".join(behind) == "outside\n"
    assert entries[0][:2] == ("stdout", "inside\n")
    assert entries[-1]["log"]["msg"] == "3 items"
    with pytest.raises(TypeError, match="must be str"):
        stream.write(b"bytes")  # type: ignore[arg-type]


def test_code_that_prints_while_a_message_is_made(told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that is written in the middle of sending (by a finalizer, say) goes with the next message."""
    out = Relay()
    send = relay.tell

    def tell(batch: list[Any]) -> bool:
        if len(told) == 0:
            out.write("stdout", "late\n")
        return send(batch)

    monkeypatch.setattr(relay, "tell", tell)
    out.write("stdout", "first\n")
    out.close()
    assert [entry[1] for batch in told for entry in batch] == ["first\n", "late\n"]
