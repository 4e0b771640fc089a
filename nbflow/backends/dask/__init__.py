"""The Dask backend: calls on a Dask cluster, the user's own or one of this machine.

Jobs are Dask tasks that run `perform`; what they tell comes as worker events, so it is seen while they run. Everything
that talks to Dask happens on the loop of one client of our own. The rules:

* A job whose worker is lost fails at once and names the worker; Dask's own silent second run is stopped.
* A stopped job ends promptly: its code is told to stop; where that does not help, a worker of ours is ended and
  replaced, and a worker of somebody else's is left to finish what nobody waits for.
* When the scheduler is lost every job fails; nothing hangs.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from nbflow.backends.base import Abilities, BackendContext
from nbflow.backends.dask.flights import Flight, Flights
from nbflow.backends.dask.link import Link
from nbflow.backends.dask.shared import DaskShared, Shelf
from nbflow.backends.parcels import pack_call, pack_value
from nbflow.backends.remote import RemoteBackend, RemoteJob, Shared
from nbflow.errors import BackendError, DefinitionError

__all__ = ["DaskBackend"]


class DaskBackend(RemoteBackend):
    """Run calls on a Dask cluster.

    Args:
        client: A `distributed.Client`; only its address and credentials are used, and it stays its owner's.
        address: Address of a scheduler, such as "tcp://host:8786".

    Without either, the setting `dask_address` counts, then the client that is current when the backend is started; if
    there is none, a cluster of this machine is started, with `max_parallel_processes` workers.

    Raises:
        DefinitionError: `client` is no client.
    """

    name = "dask"
    abilities = Abilities(local=False, cancel=True)
    range_s = 0.06  # the way there and back takes some 20 ms

    def __init__(self, client: Any = None, *, address: str | None = None) -> None:
        if client is not None and getattr(client, "scheduler", None) is None:
            raise DefinitionError(f"{client!r} is no connected Dask client; give a distributed.Client.")
        self._client = client
        self._address = address

    def _start(self, *, context: BackendContext) -> None:
        if find_spec("distributed") is None:
            raise BackendError("The backend 'dask' needs the package distributed: pip install 'nbflow[dask]'.")
        address = self._address or context.settings.dask_address
        client = self._client
        if client is None and address is None:
            client = _current_client()
        security = None
        if client is not None:
            address, security = client.scheduler.address, client.security
        topic = f"nbflow-{uuid.uuid4().hex}"
        self._shelf = Shelf()
        self._flights = Flights(topic, self._shelf)
        self._link = Link(address, security, context.settings.max_parallel_processes, topic, self._flights)
        self._flights.link = self._link

    @property
    def address(self) -> str | None:
        """Address of the scheduler; None for a cluster of this machine."""
        return self._link.address

    def workers(self) -> int:
        """Return how many calls the cluster runs at a time."""
        return self._link.slots()

    def _dispatch(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        listen: Callable[[Any], object] | None,
        label: str,
    ) -> RemoteJob:
        job = RemoteJob(self._flights.stop)
        try:
            call, shared = pack_call(func, args, kwargs, label)
            self._flights.start(Flight(job, DaskShared(self._shelf, call, wide=False), shared, listen, label))
        except BackendError as error:
            job.settle(error=error)
        return job

    def share(self, value: Any, label: str = "") -> Shared:
        """Make a value travel to the cluster once.

        Args:
            value: Anything that can travel.
            label: What to call it in messages for people.

        Raises:
            TransferError: It cannot travel.
        """
        return DaskShared(self._shelf, pack_value(value, label))

    def _stop(self) -> None:
        self._flights.end()
        self._shelf.clear()
        self._link.close()


def _current_client() -> Any:
    """Return the client that the user's own Dask code would use, if there is one."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.Client.current()
    except ValueError:
        return None
