"""Clicks while a cell blocks: how custom messages of our widgets are heard although the kernel's main thread is busy.

All private API of ipykernel that nbflow touches is in this file, and each piece is tested for before it is used.
ipykernel 7 reads its shell socket in a thread of its own, so a *tap* on that stream hears our messages at once and
passes everything else on; ipykernel 6 reads it in the main thread, so there a *pump* has to be called from points
where user code calls us. Elsewhere nothing is heard before the cell ends, and the panel says so.

    front end ── shell socket ── shell-channel thread ──┬─ ours: queue ── event thread ── handler(content)
                                                        └─ all else: the handler that was there before
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextvars import copy_context
from importlib import import_module
from queue import SimpleQueue
from typing import Any, Literal, TypeAlias

from nbflow._util import one_line, report

__all__ = ["Handler", "MessageTap", "is_attended"]

Handler: TypeAlias = Callable[[dict[str, Any]], None]
"""Gets the content of one custom message; called in the event thread (tap) or the main thread (pump)."""


class MessageTap:
    """Hears the custom messages of some comms even while a cell runs.

    Args:
        kernel: The ipykernel instance, or None where there is none.

    Attributes:
        way: "tap" (heard at once), "pump" (heard when `pump` is called) or "none" (heard when the cell is over, in the
            ordinary way).

    Nothing is installed before the first `listen`; `close` takes everything back. Safe from any thread, `pump` apart.
    """

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._handlers: dict[str, Handler] = {}
        self._lock = threading.Lock()
        self._queue: SimpleQueue[tuple[Handler, dict[str, Any]] | None] = SimpleQueue()
        self._previous: Callable[[Any], Any] | None = None
        self._thread: threading.Thread | None = None
        self.way: Literal["tap", "pump", "none"] = _way(kernel)

    def listen(self, comm: Any, handler: Handler) -> None:
        """Hand custom messages of `comm` to `handler` as soon as they come.

        A handler must be quick: set a flag, signal, send.
        """
        with self._lock:
            self._handlers[comm.comm_id] = handler
            start = self.way == "tap" and self._thread is None
            if start:
                self._thread = threading.Thread(
                    target=copy_context().run, args=(self._handle,), name="nbflow-clicks", daemon=True
                )
        if start and self._thread is not None:
            self._thread.start()
            self._on_loop(self._attach)
        elif self.way == "none" and hasattr(comm, "_reply_subshell_for"):
            # ipykernel 7.4 sends replies to the subshell of the comm's last message, here the blocked main one.
            comm._reply_subshell_for = lambda data, default: default

    def ignore(self, comm_id: str) -> None:
        """Stop listening to that comm; an unknown one is ignored."""
        with self._lock:
            self._handlers.pop(comm_id, None)

    def pump(self) -> int:
        """Handle what came in meanwhile where only the main thread can read it (ipykernel 6); cheap elsewhere.

        Returns:
            How many messages of ours were handled. Messages of others stay queued, in their order.
        """
        if self.way != "pump" or not self._handlers or threading.current_thread() is not threading.main_thread():
            return 0
        kernel = self._kernel
        kernel.shell_stream.flush(import_module("zmq").POLLIN)
        waiting = [kernel.msg_queue.get_nowait() for _ in range(kernel.msg_queue.qsize())]
        heard = []
        for entry in waiting:
            ours = self._ours(entry[-1][0]) if entry[-1] else None
            if ours is None:
                kernel.msg_queue.put_nowait(entry)
            else:
                heard.append(ours)
        for handler, content in heard:
            _call(handler, content)
        return len(heard)

    def close(self) -> None:
        """Take the tap off the stream and end its thread; what others put on top of it stays."""
        with self._lock:
            self._handlers.clear()
            thread, self._thread = self._thread, None
        if thread is not None:
            self._on_loop(self._detach)
            self._queue.put(None)
            if thread is not threading.current_thread():
                thread.join(timeout=2.0)

    def _on_loop(self, change: Callable[[], None]) -> None:
        """A stream may only be changed in the thread of its loop."""
        self._kernel.shell_channel_thread.io_loop.add_callback(change)

    def _attach(self) -> None:
        stream = self._kernel.shell_stream
        if self._previous is None:
            self._previous = getattr(stream, "_recv_callback", None) or self._kernel.shell_channel_thread_main
            stream.on_recv(self._on_frames, copy=False)

    def _detach(self) -> None:
        stream = self._kernel.shell_stream
        # Somebody who tapped the stream after us calls us: then we stay in the chain and only pass on.
        if getattr(stream, "_recv_callback", None) == self._on_frames:
            stream.on_recv(self._previous, copy=False)
            self._previous = None

    async def _on_frames(self, frames: Any) -> None:
        ours = self._ours(frames)
        if ours is not None:
            self._queue.put(ours)
            return
        previous = self._previous or self._kernel.shell_channel_thread_main
        passed = previous(frames)
        if inspect.isawaitable(passed):
            await passed

    def _ours(self, frames: Any) -> tuple[Handler, dict[str, Any]] | None:
        """Return handler and content of a genuine custom message of ours; anything odd is left to the kernel."""
        if not self._handlers:
            return None
        session = self._kernel.session
        try:
            _, parts = session.feed_identities(frames, copy=False)
            if session.unpack(parts[1].bytes).get("msg_type") != "comm_msg":
                return None
            content = session.unpack(parts[4].bytes)
            handler = self._handlers.get(content.get("comm_id"))
            if handler is None or content["data"].get("method") != "custom":
                return None
            message = session.deserialize(parts, content=True, copy=False)  # checks the signature, and keeps it
            return handler, message["content"]["data"]["content"]
        except Exception:
            return None

    def _handle(self) -> None:
        while (heard := self._queue.get()) is not None:
            _call(*heard)


def _call(handler: Handler, content: dict[str, Any]) -> None:
    try:
        handler(content)
    except Exception as error:
        report(f"A click in the nbflow panel could not be handled: {one_line(error)}.")


def _way(kernel: Any) -> Literal["tap", "pump", "none"]:
    """Find out what this kernel allows; every private name that is used later is looked for here."""
    stream = getattr(kernel, "shell_stream", None)
    if not (hasattr(stream, "on_recv") and hasattr(getattr(kernel, "session", None), "feed_identities")):
        return "none"
    thread = getattr(kernel, "shell_channel_thread", None)
    if thread is not None:
        return "tap" if hasattr(thread, "io_loop") and hasattr(kernel, "shell_channel_thread_main") else "none"
    queue = getattr(kernel, "msg_queue", None)
    names = ("get_nowait", "put_nowait", "qsize")
    return "pump" if hasattr(stream, "flush") and all(hasattr(queue, name) for name in names) else "none"


def is_attended(kernel: Any) -> bool:
    """Whether somebody who can answer sits in front: headless clients such as nbclient send cells without stdin."""
    try:
        content = kernel.get_parent("shell")["content"]
    except Exception:
        return True
    return bool(content.get("allow_stdin", True))
