"""A `Runtime` in each worker of a Dask cluster.

`client.register_plugin(NbflowWorkerPlugin(threads=8))` gives every worker, also one that joins later, a runtime that
is the default there while the plugin lives: tasks that run in the worker find it with `get_default_runtime()`, or as
`worker.nbflow_runtime`. It needs the package `distributed` (`pip install 'nbflow[dask]'`).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from nbflow.engine import Runtime, peek_default_runtime, set_default_runtime

__all__ = ["NbflowWorkerPlugin"]

_WorkerPlugin: Any = import_module("distributed").WorkerPlugin


class NbflowWorkerPlugin(_WorkerPlugin):  # type: ignore[misc]
    """Make a `Runtime` in each worker, the default one there while the plugin lives.

    Args:
        threads: As for `Runtime`; 0 for as many as the worker has.
        io_threads: As for `Runtime`.
        python_threads: As for `Runtime`; 0 for as many as the worker has.
    """

    name = "nbflow-runtime"

    def __init__(self, threads: int = 0, io_threads: int = 0, python_threads: int = 0) -> None:
        self.threads = threads
        self.io_threads = io_threads
        self.python_threads = python_threads
        self._runtime: Any = None
        self._before: Runtime | None = None

    def setup(self, worker: Any) -> None:
        """Make the runtime; Dask calls this in each worker."""
        count = worker.state.nthreads
        runtime = Runtime(self.threads or count, self.io_threads, self.python_threads or count)
        self._runtime, self._before = runtime, peek_default_runtime()
        set_default_runtime(runtime)
        worker.nbflow_runtime = runtime

    def teardown(self, worker: Any) -> None:
        """Cancel what still runs, and put back the default that was there before; Dask calls this."""
        runtime = self._runtime
        if runtime is None:
            return
        self._runtime = None
        if peek_default_runtime() is runtime:  # else somebody has set another one meanwhile, which is to stay
            set_default_runtime(self._before)
        if getattr(worker, "nbflow_runtime", None) is runtime:
            del worker.nbflow_runtime
        runtime.shutdown(wait=False)
