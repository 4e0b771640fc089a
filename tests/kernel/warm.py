"""Pythons whose imports are warm: real processes for tests, forked by one that has imported what they all import.

Nine tenths of what a kernel costs are imports, and tests start hundreds. A server (`warm_server.py`) has done them;
each request forks it, and the child becomes what `python -m NAME …` would be. jupyter_client starts kernels so through
a provisioner, which commands find as they find any: by an entry point, named by an environment variable.

There are two servers in turn, so that a second run has another seed of `hash` than the first. Tests marked `cold` start
Python truly anew, and so do all where processes cannot be forked safely, or with `WARM_PYTHON=off` in the environment.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbflow

__all__ = ["PROVISIONER", "WarmProcess", "environment", "pids", "register", "run"]

PROVISIONER = "nbflow-warm"
_SOCKET = "WARM_PYTHON"  # in the environment of a command: where it finds the server for its kernels; "off" for none
_MODULE = "nbflow_warm"
_SERVER = Path(__file__).resolve().with_name("warm_server.py")


# --- in the tests, and in the commands that they start -------------------------------------------------------------


class WarmProcess:
    """A process that a server has forked, with the methods of `subprocess.Popen` that provisioners use."""

    stdin = stdout = stderr = None

    def __init__(self, server: _Connection, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        self._handle = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return the exit code (negative: a signal), or None while it runs."""
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._handle], [], [], timeout)[0]:
            self.returncode = int(self._server.ask({"reap": self.pid}))
            os.close(self._handle)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Connection:
    """One end of a talk with a server; what was started through it ends with it at the latest."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(path)

    def ask(self, request: dict[str, Any], files: Sequence[int] = ()) -> Any:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
            return json.loads(self._socket.recv(100))

    def start(
        self, arguments: Sequence[str], *, cwd: str, env: Mapping[str, str], files: Sequence[int], **how: Any
    ) -> Any:
        """Start `python -m …` with these arguments, in a session of its own if `session` is true."""
        pid = self.ask({"arguments": list(arguments), "cwd": cwd, "env": dict(env), **how}, files)
        return WarmProcess(self, pid)


class _Server(_Connection):
    """A server of this process, and the folder that tells the commands of tests how to find it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="warm-"))
        (self.folder / f"{_MODULE}.py").symlink_to(Path(__file__).resolve())
        about = self.folder / f"{_MODULE}-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {_MODULE}\nVersion: 1\n")
        (about / "entry_points.txt").write_text(
            f"[jupyter_client.kernel_provisioners]\n{PROVISIONER} = {_MODULE}:WarmProvisioner\n"
        )
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MPLBACKEND")}
        # Else NumPy and pyarrow start threads when they are imported, and what forks may have but one.
        env |= {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
        self.path = str(self.folder / "socket")
        self.process = subprocess.Popen(
            [sys.executable, str(_SERVER), self.path, str(Path(nbflow.__file__).parents[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            cwd=self.folder,
            start_new_session=True,
        )
        self._owner = os.getpid()
        atexit.register(self.end)
        assert self.process.stdout is not None
        if self.process.stdout.read(1) != b".":
            raise RuntimeError("the server of warm Pythons did not start")
        super().__init__(self.path)

    def end(self) -> None:
        """Let it end, and with it all that it has started, and its folder."""
        if os.getpid() != self._owner:  # a fork of the tests that ends as they do
            return
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._socket.close()
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:  # such a fork has kept the other end open
            self.process.kill()
            self.process.wait()


_servers: list[_Server] = []
_connections: dict[str, _Connection] = {}
_turns = itertools.count()


def pids() -> set[int]:
    """Return the ids of the servers of this process."""
    return {server.process.pid for server in _servers}


def _next_server() -> _Server:
    """Return the server whose turn it is; the two are started when they are first needed."""
    turn = next(_turns) % 2
    if turn == len(_servers):
        _servers.append(_Server())
    return _servers[turn]


def _fits(arguments: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether a warm Python makes no difference: what Python reads at its start must be as it was for the server."""
    return (
        hasattr(os, "pidfd_open")
        and os.environ.get(_SOCKET) != "off"
        and list(arguments[:1]) == ["-m"]
        and _at_start(env) == _at_start(os.environ)
    )


def _at_start(env: Mapping[str, str]) -> dict[str, str]:
    read = ("PYTHON", "LANG", "LC_", "COVERAGE_")
    return {name: value for name, value in env.items() if name.startswith(read) and name != "PYTHONPATH"}


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a command whose kernels are to be warm."""
    if not _fits(["-m"], env):
        return dict(env)
    server = _next_server()
    paths = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), str(server.folder)]))
    return {**env, "PYTHONPATH": paths, _SOCKET: server.path, "JUPYTER_DEFAULT_PROVISIONER_NAME": PROVISIONER}


def run(*arguments: str, cwd: Path, env: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Run `python` with some arguments (`-m NAME …`) as `subprocess.run` does; its kernels are warm, too."""
    env = environment(env)
    if not _fits(arguments, env):
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    server = next(each for each in _servers if each.path == env[_SOCKET])
    with open(os.devnull, "rb") as nothing, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        files = [nothing.fileno(), out.fileno(), error.fileno()]
        process = server.start(arguments, cwd=str(cwd), env=env, files=files)
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        texts = [(file.seek(0), file.read().decode())[1] for file in (out, error)]
    return subprocess.CompletedProcess([sys.executable, *arguments], code, *texts)


def _connection() -> _Connection:
    """Return the server for kernels: that which the environment names, in a command, or one of our own."""
    path = os.environ.get(_SOCKET)
    if path is None:
        return _next_server()
    if path not in _connections:
        _connections[path] = _Connection(path)
    return _connections[path]


def __getattr__(name: str) -> Any:
    if name != "WarmProvisioner":
        raise AttributeError(name)
    from jupyter_client.provisioning.local_provisioner import LocalProvisioner

    class WarmProvisioner(LocalProvisioner):
        """Starts kernels of this Python warm, and others as ever."""

        async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
            files = [kwargs.get("stdin"), kwargs.get("stdout"), kwargs.get("stderr")]
            ours = cmd[:2] == [sys.executable, "-m"] and _fits(cmd[1:], kwargs["env"])
            if not ours or any(isinstance(each, int) and each < 0 for each in files):
                return await super().launch_kernel(cmd, **kwargs)
            cwd = str(kwargs.get("cwd") or Path.cwd())
            with open(os.devnull, "rb") as nothing:
                numbers = [_number(each, spare) for each, spare in zip(files, (nothing.fileno(), 1, 2), strict=True)]
                self.process = _connection().start(cmd[1:], cwd=cwd, env=kwargs["env"], files=numbers, session=True)
            self.pid = self.pgid = self.process.pid
            self.cwd = cwd
            return self.connection_info

    globals()[name] = WarmProvisioner
    return WarmProvisioner


def _number(file: Any, spare: int) -> int:
    """Return the number of a file as `subprocess` takes them: an open one, its number, or None for the usual one."""
    if file is None:
        return spare
    return file if isinstance(file, int) else int(file.fileno())


def register() -> str:
    """Make the provisioner known in this process and return its name."""
    from importlib.metadata import EntryPoint

    from jupyter_client.provisioning.factory import KernelProvisionerFactory

    sys.modules.setdefault(_MODULE, sys.modules[__name__])
    point = EntryPoint(PROVISIONER, f"{_MODULE}:WarmProvisioner", KernelProvisionerFactory.GROUP_NAME)
    KernelProvisionerFactory.provisioners[PROVISIONER] = point
    return PROVISIONER
