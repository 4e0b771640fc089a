"""Scenarios of two facades: `Runtime` beside a pool of threads, AsyncFlow's engine on our backend beside its own.

For comparison: dftracer's runtime, which keeps no books on functions, takes 1.5 to 1.8 times what a pool of threads
does for a trivial call. It is not measured here, since it prints into whatever runs it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from benchmarks.method import Contestant, Goal, Round, Scenario, new_folder, timed

__all__ = ["MAKERS"]

_WORKERS = 4


def _double(n: int) -> int:
    return 2 * n


def _runtime(quick: bool) -> Scenario:
    """Submit all, wait for all, look at all."""
    count = 500 if quick else 5_000
    wanted = [2 * n for n in range(count)]

    def executor(stack: ExitStack) -> Round:
        pool = stack.enter_context(ThreadPoolExecutor(_WORKERS))

        def work() -> None:
            handles = [pool.submit(_double, n) for n in range(count)]
            assert [handle.result() for handle in handles] == wanted

        return lambda: timed(work, count)

    def ours(size: int) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            import nbflow

            stack.enter_context(nbflow.session())
            runtime = stack.enter_context(nbflow.Runtime(python_threads=_WORKERS))

            def work() -> None:
                handles = [runtime.submit(_double, n) for n in range(size)]
                runtime.wait_all(raise_on_error=True)
                assert [handle.get() for handle in handles] == [2 * n for n in range(size)]

            return lambda: timed(work, size)

        return prepare

    few = count // 10
    return Scenario(
        "runtime",
        f"Runtime: submit {count:,} trivial calls and wait for them all",
        "µs a call",
        1e6,
        (
            Contestant("ThreadPoolExecutor", executor),
            Contestant(f"nbflow, {few:,}", ours(few)),
            Contestant(f"nbflow, {count:,}", ours(count)),
        ),
        (Goal(f"nbflow, {count:,}", 5.0, "ThreadPoolExecutor"), Goal(f"nbflow, {count:,}", 1.3, f"nbflow, {few:,}")),
        rounds=7,
    )


def _asyncflow(quick: bool) -> Scenario:
    """The same engine, submitting and awaiting the same tasks, on two backends."""
    count = 50 if quick else 300

    def flow(backend: Callable[[], Any]) -> Callable[[ExitStack], Round]:
        def prepare(stack: ExitStack) -> Round:
            from radical import asyncflow

            logging.getLogger("asyncflow").setLevel(logging.ERROR)
            folder = str(new_folder(stack))

            async def run() -> float:
                engine = await asyncflow.WorkflowEngine.create(backend=[await backend()], work_dir=folder)
                try:

                    @engine.function_task  # type: ignore[untyped-decorator]
                    async def double(n: int) -> int:
                        return 2 * n

                    assert await double(1) == 2
                    loop = asyncio.get_running_loop()
                    began = loop.time()
                    found = await asyncio.gather(*[double(n) for n in range(count)])
                    took = (loop.time() - began) / count
                    assert found == [2 * n for n in range(count)]
                    return took
                finally:
                    await engine.shutdown()
                    for name in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                        asyncio.get_running_loop().remove_signal_handler(name)

            return lambda: asyncio.run(run())

        return prepare

    async def theirs() -> Any:
        from radical import asyncflow

        return await asyncflow.LocalExecutionBackend(ThreadPoolExecutor(_WORKERS))

    async def ours() -> Any:
        from nbflow.integrations.asyncflow import NbflowExecutionBackend

        return await NbflowExecutionBackend("thread", workers=_WORKERS)

    return Scenario(
        "asyncflow",
        f"AsyncFlow's engine: {count} trivial tasks, gathered",
        "µs a task",
        1e6,
        (Contestant("LocalExecutionBackend", flow(theirs)), Contestant("nbflow's backend", flow(ours))),
        (Goal("nbflow's backend", 1.0, "LocalExecutionBackend"),),
        rounds=5,
    )


MAKERS = (_runtime, _asyncflow)
