"""What a worker process does: read calls from its socket, run those that it may, send back what came of them.

A call belongs to whoever takes its token, a number in a second socket that the coordinator can read as well: so a call
that waits here behind another one can be taken back at any moment, and never runs twice. The worker ends with its
socket, that is with the coordinator. Between calls it puts back the working directory, the environment and `sys.path`.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import sys
import threading
from collections.abc import Mapping
from itertools import count
from typing import Any

from nbflow.backends.process import wire
from nbflow.backends.process.buffers import Ref, write_file
from nbflow.backends.remote import enter_worker
from nbflow.backends.travel import Failure, refusal, text_of
from nbflow.errors import TransferError

__all__ = ["TOKEN", "Surroundings", "main"]

TOKEN = struct.Struct("<Q")

_CHUNK = 1 << 18
_TORN = 70  # exit code of a worker that was interrupted in the middle of a frame


class Surroundings:
    """What a call may expect around it, as it is at the coordinator: directory, environment, `sys.path`."""

    __slots__ = ("cwd", "environ", "path")

    def __init__(self) -> None:
        self.environ = dict(_environ())
        self.path = list(sys.path)
        self.cwd = _cwd()

    def hold(self) -> bool:
        """Whether it is still so; this is asked at each call."""
        return _environ() == self.environ and sys.path == self.path and _cwd() == self.cwd

    def restore(self) -> None:
        """Make it so."""
        if _environ() != self.environ:
            as_text = os.fsdecode if isinstance(next(iter(self.environ), b""), bytes) else str
            wanted = {as_text(name): as_text(value) for name, value in self.environ.items()}
            for name in set(os.environ) - set(wanted):
                del os.environ[name]
            os.environ.update(wanted)
        if sys.path != self.path:
            sys.path[:] = self.path
        if self.cwd is not None and _cwd() != self.cwd:
            try:
                os.chdir(self.cwd)
            except OSError:  # it was removed meanwhile: calls fail that need it
                pass


def _environ() -> Mapping[Any, Any]:
    return getattr(os.environ, "_data", os.environ)  # to compare the mapping itself takes twenty times as long


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def main(name: str, connection: socket.socket, tokens: socket.socket) -> None:
    """Work until the coordinator is gone; never returns."""
    code = 0
    try:
        _Worker(name, connection, tokens).run()
    except (EOFError, ConnectionError):
        pass
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        _flush()
        os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # closed by the user's code
            pass


class _Worker:
    def __init__(self, name: str, connection: socket.socket, tokens: socket.socket) -> None:
        self._name = name
        self._connection = connection
        self._tokens = tokens
        self._sending = threading.Lock()
        self._job = 0
        self._pid = os.getpid()
        self._around = Surroundings()
        self._modules = _LocalModules()
        self._numbers = count()
        self._folder: str | None = None

    def run(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        enter_worker(self._name, self._tell)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._leave)
        self._send(wire.frame(wire.READY, os.getpid()))
        frames = wire.Frames()
        while True:
            data = self._connection.recv(_CHUNK)
            if not data:
                raise EOFError
            for kind, job, body in frames.feed(data):
                if kind == wire.SURROUNDINGS:
                    self._around = pickle.loads(body)
                    self._around.restore()
                elif kind == wire.CALL or (kind == wire.OFFER and self._may(job)):
                    self._serve(job, body)

    def _may(self, job: int) -> bool:
        """Whether the call is still ours; from now on nobody can take it back."""
        try:
            # There is never more than one: if this call's was taken back, it is that of a later call, and stays there.
            if self._tokens.recv(TOKEN.size, socket.MSG_PEEK) != TOKEN.pack(job):
                return False
            return len(self._tokens.recv(TOKEN.size)) == TOKEN.size
        except BlockingIOError:
            return False

    def _serve(self, job: int, body: bytes) -> None:
        if self._modules.changed():
            self._send(wire.frame(wire.STALE, job))
            raise EOFError
        self._job = job
        answer = self._answer(body)
        if os.getpid() != self._pid:  # the code has forked itself, and this is the copy
            os._exit(0)
        self._job = 0
        _flush()
        self._send(wire.frame(answer[0], job, answer[1]))
        del answer
        if not self._around.hold():
            self._around.restore()

    def _answer(self, body: bytes) -> tuple[int, bytes]:
        """Run a call and return kind and body of the answer; never raises."""
        try:
            folder, call, shared = wire.open_call(body)
            self._folder = folder
        except BaseException as error:
            text = f"The call cannot be unpacked by the worker: {type(error).__name__}: {text_of(error)}."
            return _failed(TransferError(text, path="", reason=text_of(error)), error)
        func, args, kwargs = call
        if shared:
            args, kwargs = wire.fill(args, kwargs, shared)
        try:
            value = func(*args, **kwargs)
        except BaseException as error:
            return _failed(error)
        del call, func, args, kwargs, shared
        try:
            return wire.RESULT, wire.pack(value, self._put)[0]
        except BaseException as error:
            what = f"The result, of type {type(value).__qualname__}"
            return _failed(refusal(what, [("result", value)], error, "back to the coordinator"))

    def _put(self, data: memoryview) -> Ref:
        return write_file(os.path.join(self._folder or "", f"{self._pid}-{next(self._numbers)}"), data)

    def _tell(self, message: Any) -> None:
        if (job := self._job) and os.getpid() == self._pid:
            self._send(wire.frame(wire.MESSAGE, job, pickle.dumps(message, protocol=5)))

    def _send(self, data: bytes) -> None:
        with self._sending:
            try:
                self._connection.sendall(data)
            except OSError:  # nobody is there any more
                os._exit(0)
            except BaseException:  # a signal's handler raised: nobody knows how much of the frame has gone
                os._exit(_TORN)

    def _leave(self) -> None:
        """In a process that the user's code forked: it is no worker, and must not keep the sockets open."""
        self._job = 0
        self._connection.close()
        self._tokens.close()


def _failed(error: BaseException, cause: BaseException | None = None) -> tuple[int, bytes]:
    if cause is not None:
        error.__cause__ = cause
    return wire.ERROR, pickle.dumps(Failure.of(error), protocol=5)


class _LocalModules:
    """Notices when the file of an imported module changes that is neither installed nor ours."""

    def __init__(self) -> None:
        self._count = 0
        self._known: set[str] = set(sys.modules)
        self._files: dict[str, float] = {}

    def changed(self) -> bool:
        """Whether one has changed since it was imported, as far as that was seen."""
        if len(sys.modules) != self._count:
            self._learn()
        for file, seen in self._files.items():
            try:
                if os.stat(file).st_mtime != seen:
                    return True
            except OSError:  # it was removed; what is loaded is all there is
                continue
        return False

    def _learn(self) -> None:
        self._count = len(sys.modules)
        for name in set(sys.modules) - self._known:
            self._known.add(name)
            file = getattr(sys.modules[name], "__file__", None)
            if not file or not file.endswith(".py") or _is_installed(name, file):
                continue
            try:
                self._files[file] = os.stat(file).st_mtime
            except OSError:
                continue


def _is_installed(name: str, file: str) -> bool:
    return (
        name.partition(".")[0] == "nbflow"
        or "site-packages" in file
        or "dist-packages" in file
        or file.startswith((sys.prefix, sys.base_prefix, os.path.dirname(os.__file__)))
    )
