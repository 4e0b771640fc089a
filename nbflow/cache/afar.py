"""What a store asks of a store further away: the shared tier of a team, a bundle, or one of somebody else's make.

It is asked after the disk, and offered what was saved. It pickles as its address, and none of its methods raises: what
goes wrong is a miss, or is told by `why`.
"""

from __future__ import annotations

from nbflow._typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from nbflow.cache.disk import DiskTier
    from nbflow.cache.seal import Loaded

__all__ = ["SharedStore"]


class SharedStore(Protocol):
    """A store further away, which is asked after the disk and offered what was saved; safe from any thread.

    It pickles as its address, and none of its methods raises.
    """

    def fetch(self, key: str, ttl: float | None) -> Loaded | None:
        """Return the trusted entry under `key`, with `info`, or None; blocks while it is looked for.

        Args:
            key: Digest of the key.
            ttl: Seconds after which it is too old; None for the entry's own limit.
        """

    def offer(self, key: str, disk: DiskTier) -> None:
        """Take note that `disk` has a new result under `key`, which `disk.export` returns; comes back at once."""

    def why(self, key: str) -> str | None:
        """Return why the last `fetch` of `key` found nothing, where it is not just that there is none."""

    def stats(self) -> dict[str, Any]:
        """Return counts of what was found, sent, refused and lost."""
        raise NotImplementedError

    def close(self) -> None:
        """Send what is waiting, for a bounded time; it can be used again."""
