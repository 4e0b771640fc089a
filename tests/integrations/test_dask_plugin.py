"""The plugin that gives each Dask worker a runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

distributed = pytest.importorskip("distributed")

from nbflow.backends.dask.local import LocalCluster  # noqa: E402
from nbflow.engine import Runtime, get_default_runtime, peek_default_runtime, set_default_runtime  # noqa: E402
from nbflow.integrations.dask import NbflowWorkerPlugin  # noqa: E402

_LIMIT_S = 60.0


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Return a client of a cluster of one worker process."""
    cluster = LocalCluster(1, print)
    with distributed.Client(cluster.address, set_as_default=False) as client:
        client.submit(os.getpid).result(_LIMIT_S)
        yield client
    cluster.close()


def test_every_worker_has_a_runtime_while_the_plugin_lives(client: Any) -> None:
    """Tasks there find it as the default one and on the worker, and it works; afterwards it is gone."""

    def use() -> tuple[bool, int, int]:
        from distributed import get_worker

        from nbflow.engine import get_default_runtime

        runtime = get_default_runtime()
        handle = runtime.submit(lambda x: 2 * x, 21)
        return runtime is get_worker().nbflow_runtime, handle.get(), runtime.python_threads

    def left() -> bool:
        from distributed import get_worker

        from nbflow.engine import peek_default_runtime

        return hasattr(get_worker(), "nbflow_runtime") or peek_default_runtime() is not None

    client.register_plugin(NbflowWorkerPlugin(python_threads=3))
    assert client.submit(use, pure=False).result(_LIMIT_S) == (True, 42, 3)
    client.unregister_worker_plugin(NbflowWorkerPlugin.name)
    assert client.submit(left, pure=False).result(_LIMIT_S) is False


class FakeWorker:
    """As much of a Dask worker as the plugin touches."""

    class state:  # noqa: N801
        nthreads = 2


def test_teardown_puts_back_what_was_there() -> None:
    """The default of before comes back, unless somebody set another one; the plugin's runtime is shut down."""
    with Runtime() as before, Runtime() as other:
        set_default_runtime(before)
        try:
            for put_there, left in ((None, before), (other, other)):
                set_default_runtime(before)
                worker, plugin = FakeWorker(), NbflowWorkerPlugin()
                plugin.setup(worker)
                made = worker.nbflow_runtime  # type: ignore[attr-defined]
                assert get_default_runtime() is made
                if put_there is not None:
                    set_default_runtime(put_there)
                plugin.teardown(worker)
                plugin.teardown(worker)
                assert peek_default_runtime() is left
                assert not made.is_responsive()
                assert not hasattr(worker, "nbflow_runtime")
        finally:
            set_default_runtime(None)
