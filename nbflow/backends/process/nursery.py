"""How workers come into the world: forked by a small process that has imported what they need and nothing else.

A kernel must not be forked, it has threads, sockets and loops; to start Python anew for each worker takes long. So a
kernel starts one nursery, when it first needs one, and keeps it: each further worker is a fork of that in a few
milliseconds. The nursery reads requests, each a name with three sockets, and tells the end of each worker through the
third; it ends with its kernel and takes all workers along. Where there is no fork (Windows), each worker is
started by itself.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["start_worker"]

STATUS = struct.Struct("<Bq")
BORN, ENDED = 1, 2

_IDLE_S = 0.1

_lock = threading.Lock()
_nursery: _Nursery | None = None


# --- in the kernel ------------------------------------------------------------------------------------------------


def start_worker(name: str, connection: socket.socket, tokens: socket.socket, *, alone: bool = False) -> socket.socket:
    """Start a worker; it may take a while until it reads its sockets.

    Args:
        name: Name of the worker, for people.
        connection: The worker's end of its connection; closed here.
        tokens: The worker's end of its tokens; closed here.
        alone: Start it by itself, also where a nursery could.

    Returns:
        A socket with one message (`STATUS`) when it is born, with its process id, and one when it has ended, with its
        exit code (negative: a signal). It is at its end where the nursery died.

    Raises:
        OSError: No process can be started.
    """
    theirs, status = socket.socketpair()
    try:
        if alone or not hasattr(socket, "send_fds") or not hasattr(os, "fork"):
            _start_alone(name, connection, tokens, theirs)
        else:
            _forked(name, [connection, tokens, theirs])
            theirs.close()
    except BaseException:
        status.close()
        theirs.close()
        raise
    finally:
        connection.close()
        tokens.close()
    return status


def _forked(name: str, sockets: list[socket.socket]) -> None:
    global _nursery
    with _lock:
        for attempt in (1, 2):
            if _nursery is None or not _nursery.lives():
                _nursery = _Nursery()
            try:
                _nursery.ask(name, sockets)
                return
            except OSError:  # it has just been killed
                if attempt == 2:
                    raise
                _nursery = None


class _Nursery:
    def __init__(self) -> None:
        import atexit

        theirs, self._control = socket.socketpair()
        with theirs:
            code = f"nursery.serve({theirs.fileno()}, {_loaded()})"
            self.process = _python(code, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL)
        atexit.register(self.end)

    def lives(self) -> bool:
        return self.process.poll() is None

    def ask(self, name: str, sockets: list[socket.socket]) -> None:
        data = name.encode()
        socket.send_fds(self._control, [bytes([len(data)]) + data], [each.fileno() for each in sockets])

    def end(self) -> None:
        """Let it end, with its workers."""
        self._control.close()
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _loaded() -> list[str]:
    """Return the names of modules that workers are likely to need, because they are loaded here."""
    ours = [name for name in sys.modules if name.startswith("nbflow.") and name.split(".")[1] in _OURS]
    return [*ours, *(name for name in _HEAVY if name in sys.modules)]


_OURS = ("backends", "cache", "core", "datasets", "runtime", "sessions", "storage", "tasks", "_context")
_HEAVY = ("numpy", "numpy.random", "pandas")  # numpy imports `numpy.random` only for who asks for it


def _python(code: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start Python with the same flags and the same `sys.path`, without the user's `__main__`."""
    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    program = f"import sys; sys.path[:] = {sys.path!r}; from nbflow.backends.process import nursery; {code}"
    if hasattr(os, "setpgid"):
        options["process_group"] = 0
    return subprocess.Popen[bytes]([sys.executable, *flags, "-c", program], close_fds=True, **options)


def _start_alone(name: str, connection: socket.socket, tokens: socket.socket, status: socket.socket) -> None:
    """Start a worker by itself, with a thread here that waits for its end."""
    sockets = (connection, tokens)
    if hasattr(os, "fork"):
        numbers = tuple(each.fileno() for each in sockets)
        process = _python(f"nursery.work({name!r}, {numbers})", pass_fds=numbers, stdin=subprocess.DEVNULL)
    else:
        process = _python(f"nursery.work({name!r})", stdin=subprocess.PIPE)
        assert process.stdin is not None
        with process.stdin as pipe:
            for each in sockets:
                data = each.share(process.pid)  # type: ignore[attr-defined]  # Windows only
                pipe.write(len(data).to_bytes(4, "little") + data)
    status.sendall(STATUS.pack(BORN, process.pid))

    def watch() -> None:
        with status:
            status.sendall(STATUS.pack(ENDED, process.wait()))

    threading.Thread(target=watch, name=f"nbflow-{name}-watch", daemon=True).start()


# --- in the nursery, and in a worker that has none ----------------------------------------------------------------


def work(name: str, numbers: tuple[int, int] | None = None) -> None:
    """Be a worker that was started by itself."""
    from nbflow.backends.process import worker

    if numbers is not None:
        sockets = [socket.socket(fileno=number) for number in numbers]
    else:
        pipe = sys.stdin.buffer
        sockets = [socket.fromshare(pipe.read(int.from_bytes(pipe.read(4), "little"))) for _ in range(2)]  # type: ignore[attr-defined]
    worker.main(name, *sockets)


def serve(number: int, wanted: list[str]) -> None:
    """Be the nursery: fork workers until the kernel is gone.

    Args:
        number: Descriptor of the socket for requests.
        wanted: Modules that workers are likely to need. Ours are imported at once, others when there is nothing to do,
            so that the first workers need not wait, and later ones need not import them.
    """
    import gc
    import selectors
    import signal

    from nbflow.backends.process import worker

    for name in ["cloudpickle", *wanted]:
        if name not in _HEAVY:
            _import(name)
    wish = _death_wish()
    gc.freeze()  # what is here is for all workers, and need not be looked through in any of them
    later = [name for name in wanted if name in _HEAVY]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=number)
    woken, wake = socket.socketpair()
    for each in (woken, wake):
        each.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    born: dict[int, socket.socket] = {}
    while True:
        ready = {key.fileobj for key, _ in selector.select(_IDLE_S if later else None)}
        if not ready and later:
            _import(later.pop(0))
        if woken in ready:
            woken.recv(4096)
            _reap(born)
        if control in ready:
            data, numbers, _, _ = socket.recv_fds(control, 1, 3)
            if not data:
                break
            name = control.recv(data[0], socket.MSG_WAITALL).decode()
            sockets = [socket.socket(fileno=number) for number in numbers]
            pid = _fork(wish)
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                selector.close()
                for each in (control, woken, wake, sockets[2], *born.values()):
                    each.close()
                worker.main(name, sockets[0], sockets[1])
            sockets[0].close()
            sockets[1].close()
            born[pid] = sockets[2]
            _tell(sockets[2], BORN, pid)
    signal.set_wakeup_fd(-1)  # the ends of those that follow must not be told to a socket that is about to close
    for pid in born:
        try:
            os.killpg(pid, signal.SIGKILL)
        except OSError:
            continue


def _import(name: str) -> None:
    """Import a module for the workers to come, if it can be had."""
    from importlib import import_module

    try:
        import_module(name)
    except Exception:  # then it is an error where it is used
        pass


def _fork(wish: Callable[[], object]) -> int:
    """Fork a worker: a group of its own, which dies with the nursery."""
    nursery = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        if (random := sys.modules.get("numpy.random")) is not None:
            random.seed()  # else all workers draw the same numbers; Python's own generator sees to it itself
        wish()
        if os.getppid() != nursery:  # it died in between
            os._exit(1)
    else:
        try:
            os.setpgid(pid, pid)  # by whoever comes first
        except OSError:
            pass
    return pid


def _death_wish() -> Callable[[], object]:
    """Return a function by which a new process asks Linux to kill it when its parent has died."""
    if sys.platform != "linux":
        return lambda: None
    import ctypes
    import signal

    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return lambda: None
    return lambda: prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _reap(born: dict[int, socket.socket]) -> None:
    for pid in list(born):
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            ended, status = pid, 0
        if ended:
            with born.pop(pid) as told:
                _tell(told, ENDED, os.waitstatus_to_exitcode(status))


def _tell(told: socket.socket, what: int, number: int) -> None:
    try:
        told.sendall(STATUS.pack(what, number))
    except OSError:  # nobody asks any more
        pass
