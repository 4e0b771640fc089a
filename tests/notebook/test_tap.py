"""The message tap, against stand-ins for the kernels of ipykernel 6 and 7."""

from __future__ import annotations

import asyncio
import queue
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from jupyter_client.session import Session

from nbflow.notebook.tap import MessageTap, is_attended


class Frame(bytes):
    """A message part as zmq hands it over uncopied."""

    @property
    def bytes(self) -> bytes:
        return bytes(self)


class Stream:
    """A ZMQ stream: holds the handler that gets what comes in."""

    def __init__(self, handler: Any) -> None:
        self._recv_callback = handler
        self.flushed = 0

    def on_recv(self, handler: Any, copy: bool = True) -> None:
        assert copy is False
        self._recv_callback = handler

    def flush(self, flag: int) -> None:
        self.flushed += 1


class Kernel7:
    """What ipykernel 7 offers: a stream read by a thread of its own, whose loop runs callbacks at once here."""

    def __init__(self) -> None:
        self.session = Session(key=b"secret")
        self.passed: list[Any] = []
        self.shell_stream = Stream(self.shell_channel_thread_main)
        self.shell_channel_thread = SimpleNamespace(io_loop=SimpleNamespace(add_callback=lambda change: change()))

    async def shell_channel_thread_main(self, frames: Any) -> None:
        self.passed.append(frames)

    def receive(self, frames: list[Frame]) -> None:
        """Let a message come in."""
        asyncio.run(self.shell_stream._recv_callback(frames))


class Kernel6:
    """What ipykernel 6 offers: a queue that the main thread works off after the cell."""

    def __init__(self) -> None:
        self.session = Session(key=b"secret")
        self.msg_queue: queue.Queue[Any] = queue.Queue()
        self.shell_stream = Stream(None)

    def receive(self, frames: list[Frame]) -> None:
        """Let a message come in."""
        self.msg_queue.put((self.msg_queue.qsize(), "dispatch", (frames,)))


def message(session: Session, kind: str = "comm_msg", comm: str = "ours", **data: Any) -> list[Frame]:
    """Return the frames of a message as a front end sends it."""
    data = data or {"method": "custom", "content": {"kind": "hello"}}
    return [Frame(part) for part in session.serialize(session.msg(kind, {"comm_id": comm, "data": data}), ident=b"id")]


class Ear:
    """A handler that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.thread = ""
        self.came = threading.Event()

    def __call__(self, content: dict[str, Any]) -> None:
        self.heard.append(content)
        self.thread = threading.current_thread().name
        self.came.set()


OURS = SimpleNamespace(comm_id="ours")


@pytest.fixture
def tapped() -> Any:
    """Return a kernel of ipykernel 7, an ear on the comm `ours`, and the tap between them."""
    kernel, ear = Kernel7(), Ear()
    tap = MessageTap(kernel)
    assert tap.way == "tap"
    tap.listen(OURS, ear)
    yield SimpleNamespace(kernel=kernel, ear=ear, tap=tap)
    tap.close()


def test_our_custom_message_is_heard_in_the_event_thread(tapped: Any) -> None:
    """A click neither waits for the kernel nor reaches it."""
    tapped.kernel.receive(message(tapped.kernel.session))
    assert tapped.ear.came.wait(10)
    assert (tapped.ear.heard, tapped.ear.thread) == ([{"kind": "hello"}], "nbflow-clicks")
    assert tapped.kernel.passed == []


@pytest.mark.parametrize("what", ["another comm", "a trait", "a cell", "forged", "torn", "replayed"])
def test_everything_else_passes_untouched(tapped: Any, what: str) -> None:
    """Other comms, trait edits, requests and whatever is not genuine go to the kernel as they came."""
    session = tapped.kernel.session
    frames = {
        "another comm": lambda: message(session, comm="theirs"),
        "a trait": lambda: message(session, method="update", state={}),
        "a cell": lambda: message(session, "execute_request"),
        "forged": lambda: message(Session(key=b"guessed")),
        "torn": lambda: message(session)[:3],
        "replayed": lambda: message(session),
    }[what]()
    if what == "replayed":
        tapped.kernel.receive(frames)
        assert tapped.ear.came.wait(10)
    tapped.kernel.receive(frames)
    assert tapped.kernel.passed == [frames]
    assert len(tapped.ear.heard) == (what == "replayed")


def test_ignored_comm_goes_the_ordinary_way(tapped: Any) -> None:
    """After `ignore` its messages belong to the kernel again."""
    tapped.tap.ignore("ours")
    tapped.kernel.receive(message(tapped.kernel.session))
    assert len(tapped.kernel.passed) == 1


def test_close_restores_the_handler(tapped: Any) -> None:
    """The stream is as it was."""
    tapped.tap.close()
    assert tapped.kernel.shell_stream._recv_callback == tapped.kernel.shell_channel_thread_main


def test_taps_chain_and_close_in_any_order() -> None:
    """Two taps hear their own; the lower one closed first only passes on."""
    kernel, ears = Kernel7(), [Ear(), Ear()]
    taps = [MessageTap(kernel), MessageTap(kernel)]
    for number, (tap, ear) in enumerate(zip(taps, ears, strict=True)):
        tap.listen(SimpleNamespace(comm_id=f"comm{number}"), ear)
    for number in (0, 1):
        kernel.receive(message(kernel.session, comm=f"comm{number}"))
    assert all(ear.came.wait(10) for ear in ears)
    taps[0].close()
    kernel.receive(message(kernel.session, comm="comm0"))
    ears[1].came.clear()
    kernel.receive(message(kernel.session, comm="comm1"))
    assert ears[1].came.wait(10)
    taps[1].close()
    kernel.receive(message(kernel.session, comm="comm1"))
    assert len(kernel.passed) == 2
    assert [len(ear.heard) for ear in ears] == [1, 2]


def test_tap_can_be_used_again_after_close(tapped: Any) -> None:
    """Listening once more taps once more."""
    tapped.tap.close()
    tapped.tap.listen(OURS, tapped.ear)
    tapped.kernel.receive(message(tapped.kernel.session))
    assert tapped.ear.came.wait(10)


def test_handler_that_raises_is_reported_and_the_next_click_heard(tapped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in a handler does not end the event thread."""
    told: list[str] = []
    monkeypatch.setattr("nbflow.notebook.tap.report", told.append)
    tapped.tap.listen(OURS, lambda content: 1 / 0)
    tapped.kernel.receive(message(tapped.kernel.session))
    tapped.tap.listen(OURS, tapped.ear)
    tapped.kernel.receive(message(tapped.kernel.session))
    assert tapped.ear.came.wait(10)
    assert told == ["A click in the nbflow panel could not be handled: ZeroDivisionError: division by zero."]


def test_pump_takes_ours_and_leaves_the_rest_in_order() -> None:
    """On ipykernel 6 the main thread hears clicks when it pumps; cells that wait keep their order."""
    kernel, ear = Kernel6(), Ear()
    tap = MessageTap(kernel)
    assert tap.way == "pump"
    assert tap.pump() == 0
    assert kernel.shell_stream.flushed == 0
    tap.listen(OURS, ear)
    cells = [message(kernel.session, "execute_request") for _ in range(2)]
    for frames in (cells[0], message(kernel.session), cells[1]):
        kernel.receive(frames)
    assert tap.pump() == 1
    assert ear.heard == [{"kind": "hello"}]
    assert [kernel.msg_queue.get_nowait()[-1][0] for _ in range(2)] == cells
    tap.close()


def test_pump_does_nothing_in_other_threads_or_on_ipykernel_7(tapped: Any) -> None:
    """Reading the socket anywhere else would hang the kernel."""
    kernel = Kernel6()
    tap = MessageTap(kernel)
    tap.listen(OURS, Ear())
    kernel.receive(message(kernel.session))
    thread = threading.Thread(target=tap.pump)
    thread.start()
    thread.join()
    assert kernel.shell_stream.flushed == 0
    assert tapped.tap.pump() == 0
    assert tapped.kernel.shell_stream.flushed == 0


def test_unknown_kernel_is_left_alone() -> None:
    """Without the private names nothing is touched, but replies of a 7.4 comm are freed from the blocked shell."""
    assert MessageTap(None).way == "none"
    kernel = Kernel7()
    kernel.shell_channel_thread = SimpleNamespace()
    tap = MessageTap(kernel)
    assert tap.way == "none"
    comm = SimpleNamespace(comm_id="ours", _reply_subshell_for=lambda data, default: "blocked")
    tap.listen(comm, Ear())
    assert comm._reply_subshell_for({}, "subshell") == "subshell"
    assert kernel.shell_stream._recv_callback == kernel.shell_channel_thread_main
    tap.close()


@pytest.mark.parametrize(
    ("parent", "attended"),
    [({"content": {"allow_stdin": True}}, True), ({"content": {"allow_stdin": False}}, False), ({}, True)],
)
def test_headless_clients_are_known_by_their_requests(parent: dict[str, Any], attended: bool) -> None:
    """nbclient and papermill send cells that may not ask; when in doubt somebody is there."""
    assert is_attended(SimpleNamespace(get_parent=lambda channel: parent)) is attended
