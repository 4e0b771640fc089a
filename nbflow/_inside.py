"""Which pools of threads the current thread works for.

A worker that waits for its own pool gets help, so that nesting never deadlocks. A thread that stands in for a worker,
which waits for it meanwhile, counts as that worker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from nbflow._typing import Any

__all__ = ["inside", "is_worker", "join", "stand_in"]


class _Here(threading.local):
    pools: frozenset[object] = frozenset()


_here = _Here()


def join(pool: object) -> None:
    """Let the current thread count as a worker of a pool from now on."""
    _here.pools |= {pool}


def is_worker() -> bool:
    """Whether the current thread counts as a worker of any pool."""
    return bool(_here.pools)


def inside(pool: object) -> bool:
    """Whether the current thread counts as a worker of a pool."""
    return pool in _here.pools


def stand_in(func: Callable[..., Any]) -> Callable[..., Any]:
    """Return `func`, such that whatever thread calls it counts as the present one until it returns."""
    pools = _here.pools
    if not pools:
        return func

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        before, _here.pools = _here.pools, pools
        try:
            return func(*args, **kwargs)
        finally:
            _here.pools = before

    return stand_in
