"""How a worker calls the function of one of AsyncFlow's tasks.

Most of these functions are coroutine functions whose bodies block. Each runs on the loop of its worker, and is told to
end in both ways at the same time: by cancellation, which reaches code that awaits, and by an asynchronous exception,
which reaches code that computes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from nbflow.runtime import loop
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

    async def main() -> Any:
        here = asyncio.get_running_loop()
        here.set_exception_handler(_complain)
        if call is not None and call.stop is not None:
            call.stop = _stopper(call.stop, here, asyncio.current_task())
        limit = None if call is None else call.spec.policy.timeout_s
        # Whoever watches the time raises an exception in this thread, for which the loop has to wake.
        async with asyncio.timeout(None if limit is None else limit + _FORCE_S):
            return await function(*args, **kwargs)

    return loop.run(main())


def _stopper(interrupt: Callable[[], object], here: Any, running: Any) -> Callable[[], None]:
    """Return what cancels the task on its loop, and interrupts its thread if that does not end it."""

    def stop() -> None:
        try:
            here.call_soon_threadsafe(running.cancel)
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
