"""How a worker calls the function of one of AsyncFlow's tasks.

Most of these functions are coroutine functions whose bodies block. Each runs on a loop of its own in the worker, and is
told to end in both ways at the same time: by cancellation, which reaches code that awaits, and by an asynchronous
exception, which reaches code that computes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from nbflow.runtime.current import current_call
from nbflow.runtime.stopping import DeadlineReached, Stopped
from nbflow.tasks import task

__all__ = ["call_coroutine", "call_function"]

_FORCE_S = 0.03
"""How long a cancelled coroutine may take to end before the thread it runs in is interrupted."""


@task
def call_function(function: Any, args: Any, kwargs: Any, begun: Callable[[], object] | None) -> Any:
    """Call a function; `begun` is called first."""
    __tracebackhide__ = True
    if begun is not None:
        begun()
    return function(*args, **kwargs)


@task
def call_coroutine(function: Any, args: Any, kwargs: Any, begun: Callable[[], object] | None) -> Any:
    """Call a coroutine function and run its coroutine here; `begun` is called first."""
    __tracebackhide__ = True
    if begun is not None:
        begun()
    call = current_call()
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        loop.set_exception_handler(_complain)
        running: list[asyncio.Task[Any] | None] = []

        async def main() -> Any:
            running.append(asyncio.current_task())
            limit = None if call is None else call.spec.policy.timeout_s
            # Whoever watches the time raises an exception in this thread, for which the loop has to wake.
            async with asyncio.timeout(None if limit is None else limit + _FORCE_S):
                return await function(*args, **kwargs)

        if call is not None and call.stop is not None:
            call.stop = _stopper(call.stop, loop, running)
        return runner.run(main())


def _stopper(interrupt: Callable[[], object], loop: Any, running: list[Any]) -> Callable[[], None]:
    """Return what cancels the task on its loop, and interrupts its thread if that does not end it."""

    def cancel() -> None:
        for found in running:
            found.cancel()

    def stop() -> None:
        try:
            loop.call_soon_threadsafe(cancel)
        except RuntimeError:  # the loop is closed: it has ended
            return
        late = threading.Timer(_FORCE_S, interrupt)
        late.daemon = True
        late.start()

    return stop


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say nothing of exceptions by which we end code."""
    if not isinstance(context.get("exception"), (Stopped, DeadlineReached)):
        loop.default_exception_handler(context)
