"""The hooks that a plugin may implement, with their arguments.

A hookimpl names only the arguments it wants. It may not change the course of a run: one that raises is reported once
and switched off, the run goes on. A *wrapper* (`@hook_impl(wrapper=True)`) is different: it surrounds the others, and
what it raises fails the call on purpose (never re-running the user's function).
"""

from __future__ import annotations

from typing import Any

import pluggy

from nbflow.core.spec import TaskMetadata

__all__ = ["HOOK_NAMES", "HookSpecs", "hook_impl", "hook_spec"]

hook_spec = pluggy.HookspecMarker("nbflow")
hook_impl = pluggy.HookimplMarker("nbflow")


class HookSpecs:
    """All hooks. `reporter.report(event)` reaches the observers of the session."""

    @hook_spec
    def before_session_start(self, session_id: str) -> None:
        """A session opens."""

    @hook_spec
    def after_session_end(self, session_id: str, duration: float) -> None:
        """A session closed after `duration` seconds; its backends have stopped."""

    @hook_spec
    def before_node_execute(self, metadata: TaskMetadata, reporter: Any) -> None:
        """The user's function is about to be called for the first time (not on a cache hit)."""

    @hook_spec
    def after_node_execute(self, metadata: TaskMetadata, result: Any, duration: float, reporter: Any) -> None:
        """A call returned `result` (None for streams) after `duration` seconds."""

    @hook_spec
    def on_node_error(self, metadata: TaskMetadata, error: BaseException, duration: float, reporter: Any) -> None:
        """A call failed for good."""

    @hook_spec
    def node_iteration(self, metadata: TaskMetadata, index: int, reporter: Any) -> None:
        """A stream is about to hand out item `index`."""

    @hook_spec
    def before_node_retry(self, metadata: TaskMetadata, attempt: int, error: BaseException, reporter: Any) -> None:
        """Retry `attempt` (from 1) is about to start because of `error`."""

    @hook_spec
    def after_node_retry(self, metadata: TaskMetadata, attempt: int, succeeded: bool, reporter: Any) -> None:
        """Retry `attempt` (from 1) is over."""

    @hook_spec
    def on_cache_hit(self, metadata: TaskMetadata, key: str, value: Any, reporter: Any) -> None:
        """The cache had the result; the function is not called."""

    @hook_spec
    def before_dataset_save(
        self, key: str, value: Any, format: str | None, options: dict[str, Any] | None, metadata: TaskMetadata | None
    ) -> None:
        """A dataset is about to be saved; `metadata` describes the current call, if any."""

    @hook_spec
    def after_dataset_save(
        self, key: str, value: Any, format: str | None, options: dict[str, Any] | None, metadata: TaskMetadata | None
    ) -> None:
        """A dataset was saved."""

    @hook_spec
    def before_dataset_load(
        self,
        key: str,
        return_type: type | None,
        format: str | None,
        options: dict[str, Any] | None,
        metadata: TaskMetadata | None,
    ) -> None:
        """A dataset is about to be loaded."""

    @hook_spec
    def after_dataset_load(
        self,
        key: str,
        return_type: type | None,
        format: str | None,
        options: dict[str, Any] | None,
        metadata: TaskMetadata | None,
        result: Any,
        duration: float,
    ) -> None:
        """A dataset was loaded in `duration` seconds."""

    @hook_spec
    def before_map(self, map_id: int, name: str, total: int, backend: str, reporter: Any) -> None:
        """A map or gather of `total` items begins."""

    @hook_spec
    def after_map(
        self,
        map_id: int,
        name: str,
        total: int,
        completed: int,
        failed: int,
        cancelled: int,
        duration: float,
        reporter: Any,
    ) -> None:
        """A map or gather is over; none of its items will start any more."""

    @hook_spec
    def on_node_queued(self, metadata: TaskMetadata, reporter: Any) -> None:
        """A call was submitted and waits for a worker."""

    @hook_spec
    def on_node_cancelled(self, metadata: TaskMetadata, reason: str, duration: float, reporter: Any) -> None:
        """A call was interrupted or cancelled, or its stream closed early."""

    @hook_spec
    def on_node_timeout(self, metadata: TaskMetadata, timeout: float, duration: float, reporter: Any) -> None:
        """The last attempt of a call passed its `timeout`, in seconds."""

    @hook_spec
    def on_cache_miss(self, metadata: TaskMetadata, key: str, reason: str | None, reporter: Any) -> None:
        """The cache had no valid entry under `key`; `reason` says why, where known."""

    @hook_spec
    def on_cache_write(self, metadata: TaskMetadata, key: str, size: int, reporter: Any) -> None:
        """The result was stored, `size` bytes long."""

    @hook_spec
    def on_worker_lost(self, worker: str, reason: str, reporter: Any) -> None:
        """A worker ended without being asked to."""


HOOK_NAMES = frozenset(name for name in vars(HookSpecs) if not name.startswith("_"))
