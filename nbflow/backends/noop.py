"""The dry run: nothing runs, and one can see afterwards what would have run.

Maps and submissions that go here ask the cache, but no function is called: what is not cached gives None, ends as
cancelled ("dry run"), and nothing is saved. `session.plan()` is the `Plan` of a session.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from nbflow.backends.base import Abilities, Backend, SubmitContext

__all__ = ["NoopBackend", "Plan", "Planned"]


class Planned(NamedTuple):
    """One call that a session met.

    Args:
        name: Name of the call.
        cached: Whether its result came from the cache; else it would run.
        reason: Why the cache did not have it, where that was asked.
    """

    name: str
    cached: bool
    reason: str | None = None

    def __str__(self) -> str:
        fate = "cached" if self.cached else "would run"
        return f"{fate:>9}  {self.name}" + (f"  ({self.reason})" if self.reason else "")


class Plan(tuple[Planned, ...]):
    """What a session met in dry runs and found in caches, in order; as text, one line for each call."""

    __slots__ = ()

    @property
    def would_run(self) -> list[str]:
        """Names of the calls that would run."""
        return [call.name for call in self if not call.cached]

    @property
    def cached(self) -> list[str]:
        """Names of the calls whose results came from the cache."""
        return [call.name for call in self if call.cached]

    def __str__(self) -> str:
        head = f"{len(self.would_run)} would run, {len(self.cached)} cached"
        return "\n".join([head, *map(str, self)])


class NoopBackend(Backend):
    """Run nothing; every submission gives None at once."""

    name = "noop"
    abilities = Abilities(parallel=False, local=True, cancel=True, dry=True)

    def _submit(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, context: SubmitContext
    ) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        future.set_result(None)
        return future
