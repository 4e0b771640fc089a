"""Values that Dask jobs share: sent to the cluster once, however many jobs and maps need them.

A small value travels inside each job. A large one is scattered when the first job needs it, under the digest of its
content, so that sharing it again finds it there; after its release it stays for a while, within a budget. Data that
went down with a worker is sent again.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from typing import Any

from nbflow.backends.parcels import Parcel
from nbflow.backends.remote import Shared

__all__ = ["EMBED_BYTES", "DaskShared", "Shelf"]

EMBED_BYTES = 1 << 16
"""Values up to this size travel inside each job."""

_KEEP_BYTES = 256 * 1024**2
"""So much stays on the cluster after its release, in case that it is shared again."""


class DaskShared(Shared):
    """A value that Dask jobs share.

    Args:
        shelf: Where it is kept.
        parcel: The value, packed.
        wide: Whether every worker is likely to need it.
    """

    def __init__(self, shelf: Shelf, parcel: Parcel, *, wide: bool = True) -> None:
        self.parcel = parcel
        self.wide = wide
        self.digest = parcel.digest() if parcel.nbytes > EMBED_BYTES else None
        self._shelf: Shelf | None = shelf
        if self.digest is not None:
            shelf.take(self.digest)

    @property
    def released(self) -> bool:
        """Whether no further job may use it."""
        return self._shelf is None

    def release(self) -> None:
        """Let the cluster forget the value, when others need the place; idempotent."""
        shelf, self._shelf = self._shelf, None
        if shelf is not None and self.digest is not None:
            shelf.give_back(self.digest, self.parcel.nbytes)


class Shelf:
    """The values that are on the cluster; `take` and `give_back` from any thread, `place` on the client's loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users: dict[str, int] = {}
        self._idle: OrderedDict[str, int] = OrderedDict()  # digest to size, the longest idle one first
        self._placed: dict[str, Any] = {}  # digest to a task that scatters it, or has

    def take(self, digest: str) -> None:
        """Count one more user."""
        with self._lock:
            self._users[digest] = self._users.get(digest, 0) + 1
            self._idle.pop(digest, None)

    def give_back(self, digest: str, size: int) -> None:
        """Count one user less; the last one leaves it idle."""
        with self._lock:
            self._users[digest] -= 1
            if self._users[digest]:
                return
            del self._users[digest]
            self._idle[digest] = size
            while sum(self._idle.values()) > _KEEP_BYTES:
                self._placed.pop(self._idle.popitem(last=False)[0], None)  # Dask forgets what no future stands for

    async def place(self, client: Any, shared: DaskShared) -> Any:
        """Return the Dask future of a large value, scattering it if it is not on the cluster."""
        import asyncio

        digest = str(shared.digest)
        with self._lock:
            task = self._placed.get(digest)
            if task is None:
                work = _scatter(client, shared.parcel, digest, wide=shared.wide)
                task = self._placed[digest] = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except BaseException:
            if task.done():
                self.lost([shared])
            raise

    def lost(self, shared: list[DaskShared]) -> None:
        """Forget where these values were, so that they are sent again."""
        with self._lock:
            for value in shared:
                self._placed.pop(str(value.digest), None)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._placed.clear()
            self._idle.clear()


async def _scatter(client: Any, parcel: Parcel, digest: str, *, wide: bool) -> Any:
    """Send a value to the cluster; waits while there is no worker yet."""
    key = f"nbflow-value-{digest}-{uuid.uuid4().hex[:8]}"  # never the name of data that Dask has given up
    while True:
        try:
            found = await client.scatter({key: parcel}, broadcast=wide, hash=False)
            return found[key]
        except TimeoutError:
            if client.status != "running":
                raise
