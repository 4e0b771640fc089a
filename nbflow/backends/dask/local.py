"""A Dask cluster of this machine, made when the first task asks for one.

The scheduler runs on a thread of this process; each worker is a process of its own that is started by a plain command,
so that nothing of the user's main module is run again, and with one thread, so that a job that does not stop can be
ended with its process. A worker that ends is replaced; all of them end with this process, however it ends.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from nbflow._shield import shielded
from nbflow.errors import BackendError

__all__ = ["LocalCluster"]

_BOOT = """
import json, os, shutil, sys, threading

def watch(folder):
    sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)

threading.Thread(target=watch, args=(sys.argv.pop(1),), daemon=True).start()
sys.path[:] = json.loads(sys.argv.pop(1))
from distributed.cli.dask_worker import main
main()
"""
# The worker's standard input is a pipe that nobody writes to: it ends when the process that holds the other end does,
# which then cannot tidy up itself.

_ATTEMPTS = 3
_STOP_S = 2.0
_REAP_S = 0.5
_NEVER = 1_000_000


class LocalCluster:
    """A scheduler and its workers; made and used on any thread.

    Args:
        count: Number of workers.
        failed: Called, in some thread, with an error that ends the cluster: its workers cannot be started.
    """

    def __init__(self, count: int, failed: Callable[[BackendError], object]) -> None:
        distributed: Any = import_module("distributed")

        self._failed = failed
        self._lock = threading.Lock()
        self._workers: dict[str, _Process] = {}
        self._number = 0
        self._useless = 0
        self._over = False
        self._folder = tempfile.mkdtemp(prefix="nbflow-dask-")
        self._cluster: Any = distributed.LocalCluster(
            n_workers=0,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
        )
        # A task that waited in a worker which we ended for another's sake must never be given up for that.
        self._cluster.scheduler.allowed_failures = _NEVER
        self.address: str = self._cluster.scheduler_address
        with self._lock:
            for _ in range(count):
                self._start()

    def _start(self) -> None:
        """Start one worker."""
        self._number += 1
        name = f"dask-{self._number}"
        places = json.dumps([place for place in sys.path if isinstance(place, str)])
        command = [sys.executable, "-c", _BOOT, self._folder, places]
        command += [self.address, "--no-nanny", "--nthreads", "1", "--name", name, "--no-dashboard"]
        command += ["--memory-limit", "0", "--local-directory", self._folder]
        self._workers[name] = _Process(name, command, self._folder, self._ended)

    def _ended(self, process: _Process) -> None:
        """Replace a worker that has ended, unless that was meant or none ever begins to work."""
        with self._lock:
            if self._over:
                return
            self._useless = 0 if process.useful else self._useless + 1
            if self._useless < _ATTEMPTS:
                self._start()
                return
        text = process.words()
        self._failed(BackendError(f"The workers of the local Dask cluster end as soon as they are started:\n{text}"))

    def began(self, name: str) -> None:
        """Note that a worker is ready for work."""
        if (process := self._workers.get(name)) is not None:
            process.useful = True

    def kill(self, name: str) -> None:
        """End a worker at once, whatever it does; another takes its place."""
        self._workers[name].kill()

    def exitcode(self, name: str) -> int | None:
        """Return the exit code of a worker that just ended; None if it takes its time."""
        process = self._workers.get(name)
        return None if process is None else process.exitcode()

    def close(self) -> None:
        """End workers and scheduler; takes at most some two seconds."""
        with self._lock:
            self._over = True
            workers = list(self._workers.values())
        for process in workers:
            process.kill()
        for process in workers:
            process.exitcode()
        try:
            self._cluster.close(timeout=_STOP_S)
        except Exception:  # it is gone with its thread at the latest
            pass
        shutil.rmtree(self._folder, ignore_errors=True)


class _Process:
    """The process of one worker; a thread waits for its end.

    Attributes:
        useful: Whether it ever began to work.
    """

    def __init__(self, name: str, command: list[str], folder: str, ended: Callable[[_Process], object]) -> None:
        self.name = name
        self.useful = False
        self._log = os.path.join(folder, f"{name}.log")
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, "DASK_LOGGING__DISTRIBUTED": "error"},
                start_new_session=True,  # an interrupt of the notebook is not meant for it
            )
        self._thread = threading.Thread(target=self._wait, args=(ended,), name=f"nbflow-{name}", daemon=True)
        shielded(self._thread.start)

    def _wait(self, ended: Callable[[_Process], object]) -> None:
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        ended(self)

    def kill(self) -> None:
        """End the process, and those that it started."""
        if self._process.poll() is not None:
            return
        self.useful = True  # its end says nothing about whether workers can be started
        if hasattr(os, "killpg"):
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        else:
            self._process.kill()

    def exitcode(self) -> int | None:
        """Return how it ended; waits a moment for that."""
        try:
            return self._process.wait(_REAP_S)
        except subprocess.TimeoutExpired:
            return None

    def words(self) -> str:
        """Return the end of what it said on its standard error."""
        try:
            with open(self._log, encoding="utf-8", errors="replace") as log:
                return log.read()[-2000:].strip()
        except OSError:
            return ""
