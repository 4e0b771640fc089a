"""The backend that runs every call at once, in the thread that submits it.

It needs no resources and never deadlocks. A failure travels in the future, an interrupt does too: `result()` raises it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from nbflow.backends.base import Abilities, Backend, Job, SubmitContext

__all__ = ["InlineBackend"]


class InlineBackend(Backend):
    """Run calls in the submitting thread, one after the other."""

    name = "inline"
    abilities = Abilities(parallel=False, local=True, pulls=True, cancel=True)

    def _submit(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, context: SubmitContext
    ) -> Future[Any]:
        job = Job(func, args, kwargs)
        job.run()
        return job

    def inside(self) -> bool:
        """Whether the current thread is a worker: always, since every thread is its own."""
        return True
