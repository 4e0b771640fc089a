"""The short lane of calls whose result is kept: looked up, computed once, saved.

What `core.attempts` decides for a call without retries, timeout and dataset is one straight line, so a call that nobody
listens to walks it without saying each step. What is told of its end, and how its errors look, is as the drivers do it.
"""

from __future__ import annotations

import threading

from nbflow._typing import Any
from nbflow.core.attempts import LOOKUP, Raised, is_cancellation
from nbflow.runtime.current import Call, enter, frame
from nbflow.runtime.drivers import attempt
from nbflow.runtime.emit import emit
from nbflow.runtime.looking import Look
from nbflow.runtime.steps import Steps

__all__ = ["run_kept"]


def run_kept(call: Call, store: Any, inputs: dict[str, Any] | None = None, looked: Look | None = None) -> Any:
    """Run a call of a cached synchronous task; like `drive_sync`, for two thirds of the time.

    Args:
        call: The call; its task has no retries, no timeout and no dataset, and nobody needs its routine events.
        store: The store, which was asked already; None if that is still to be found.
        inputs: The arguments by parameter name, where they are known already.
        looked: What a first look came to, if there was one.

    Returns:
        What the function returned, now or when its result was cached.

    Raises:
        ParameterError: The arguments do not fit the signature.
        BaseException: What the function raised, with a note.
    """
    __tracebackhide__ = True
    session = call.session
    steps = Steps(call, short=True, looked=looked)
    outer = frame()
    try:
        enter(call)
        steps.prepare(store, inputs)
        if call.started is None:
            call.started = session.clock.monotonic()
        call.worker = threading.current_thread().name
        session.active[call.id] = call  # so that it can be cancelled
        hit = None if steps.is_first() else steps.perform(LOOKUP)
        if hit is not None:
            value = hit.value
        else:
            call.attempts = 1
            out = attempt(call)
            if isinstance(out, Raised):
                if not is_cancellation(out.error):
                    emit(call, "AttemptFailed", {"number": 1, "error": out.error})
                raise out.error
            kept = steps.save(out.value)
            value = out.value if kept is None else kept.value
        about = {} if hit is None else {"cached": True, "saved_s": hit.saved_s, "key": hit.key}
        emit(call, "TaskCompleted", about, value)
        steps.over()
    except BaseException as error:
        final = steps.abort(error)
        if final is error:
            raise
        raise final from final.__cause__
    finally:
        enter(outer)
    return value
