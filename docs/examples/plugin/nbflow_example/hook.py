"""A hook that remembers which calls took longest, in every session of the process."""

from __future__ import annotations

import heapq
import threading

from nbflow.hooks import hook_impl
from nbflow.tasks import TaskMetadata

__all__ = ["Slowest", "slowest_calls"]

KEPT = 10

_lock = threading.Lock()
_calls: list[tuple[float, str]] = []


class Slowest:
    """The plug-in: methods named like hooks, marked by `hook_impl`, which take the arguments that they want."""

    @hook_impl
    def after_node_execute(self, metadata: TaskMetadata, duration: float) -> None:
        """Note a call that has completed; hooks may be called from any thread."""
        with _lock:
            heapq.heappush(_calls, (duration, metadata.name))
            if len(_calls) > KEPT:
                heapq.heappop(_calls)


def slowest_calls() -> list[tuple[str, float]]:
    """Return name and seconds of the slowest calls of this process, the slowest first."""
    with _lock:
        return [(name, seconds) for seconds, name in sorted(_calls, reverse=True)]
