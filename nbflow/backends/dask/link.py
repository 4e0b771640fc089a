"""The connection to a Dask cluster: one client of our own, made in the background.

Whatever the user has (a client, an address, nothing), a client of ours connects to the scheduler, so that theirs keeps
its handlers and its loop. Until it is connected, coroutines that are given to `run` wait; when it cannot be, or is
lost, `error` says why, and whoever gave them is told.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from importlib import import_module
from typing import Any, Protocol

from nbflow._shield import shielded
from nbflow.backends.dask.local import LocalCluster
from nbflow.errors import BackendError

__all__ = ["Link", "Listener"]

_CONNECT_S = 10.0
_KNOW_S = 5.0
_CLOSE_S = 3.0
_GOODBYE_S = 1.0
_log = logging.getLogger("nbflow.backends")


class Listener(Protocol):
    """Who wants to know what happens on the cluster; called on the client's loop, `failed` in any thread."""

    def heard(self, message: dict[str, Any]) -> None:
        """A job told something."""

    def worker_left(self, address: str) -> None:
        """A worker is gone."""

    def failed(self, error: BackendError) -> None:
        """The cluster cannot be used (any more)."""


class Link:
    """A connection that is made in the background; safe from any thread.

    Args:
        address: Address of a scheduler; None for a cluster of this machine.
        security: Credentials for it, as Dask takes them.
        count: How many workers a cluster of this machine gets.
        topic: Under which name messages of jobs arrive.
        listener: Who is told of them.
    """

    def __init__(self, address: str | None, security: Any, count: int, topic: str, listener: Listener) -> None:
        self.address = address
        self._security = security
        self._count = count
        self._topic = topic
        self._listener = listener
        self._lock = threading.Lock()
        self._known = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        self._waiting: list[Callable[[], Coroutine[Any, Any, object]]] = []
        self._tasks: set[asyncio.Task[object]] = set()
        self._echo = asyncio.Event()  # whether what is told on the topic is heard
        self._slots: dict[str, int] = {}
        self._left: set[str] = set()  # workers that went away while we joined
        self._closed = False
        self.client: Any = None
        self.cluster: LocalCluster | None = None
        self.error: BackendError | None = None
        self._thread = threading.Thread(target=self._main, name="nbflow-dask", daemon=True)
        shielded(self._thread.start)

    # -- connecting -------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        """Connect, start what waits, stay until told to close, and clean up (in a thread of its own)."""
        try:
            if self.address is None:
                self.cluster = LocalCluster(self._count, self.fail)
            address = self.address if self.cluster is None else self.cluster.address
            asyncio.run(self._live(str(address)))  # a loop of our own, in a thread where nobody else's can be
        except Exception as error:
            where = f"the Dask scheduler at {self.address}" if self.address else "a local Dask cluster"
            self.fail(
                BackendError(
                    f"No connection to {where}: {type(error).__name__}: {error}. Check that it runs, and its address "
                    '(the setting dask_address, NBFLOW_DASK_ADDRESS, or backend="tcp://host:port").'
                )
            )
        finally:
            self._known.set()
            if self.cluster is not None:
                self.cluster.close()

    async def _live(self, address: str) -> None:
        """Be connected until `close`."""
        end = asyncio.Event()
        with self._lock:
            self._loop, self._end = asyncio.get_running_loop(), end
            if self._closed:
                return
        joining = asyncio.ensure_future(self._join(address))
        ending = asyncio.ensure_future(end.wait())
        await asyncio.wait({joining, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not joining.done():  # told to close meanwhile; a connection that is cut short leaves its socket open
            await asyncio.wait({joining}, timeout=_GOODBYE_S)
        if not joining.done():
            joining.cancel()
            await asyncio.wait({joining})
            return
        client = await joining
        with self._lock:
            self.client = client
            waiting, self._waiting = self._waiting, []
            for make in waiting:
                self._spawn(make)
        self._known.set()
        await ending
        try:
            await self._leave(client)
        except Exception as error:  # a scheduler that is gone cannot be told goodbye
            _log.debug("closing the Dask client: %r", error)

    async def _join(self, address: str) -> Any:
        """Return a connected client."""
        distributed: Any = import_module("distributed")
        client = distributed.Client(
            address,
            asynchronous=True,
            security=self._security,
            set_as_default=False,
            name="nbflow",
            timeout=_CONNECT_S,
        )
        try:
            await client
            client.subscribe_topic(self._topic, self._heard)
            await asyncio.wait_for(self._subscribed(client), _CONNECT_S)
            await client.register_plugin(_watch(self._topic), name=self._topic)
            there = await client.nthreads()  # as of its sending: who has come or gone since then was heard already
            self._slots = {worker: slots for worker, slots in there.items() if worker not in self._left} | self._slots
        except BaseException:
            await client.close(timeout=_GOODBYE_S)
            raise
        return client

    async def _subscribed(self, client: Any) -> None:
        """Wait until the scheduler knows who listens: that goes another way than requests, which may overtake it.

        A worker that came in between would be neither on the list that is asked for next nor told of.
        """
        pause_s = 0.005
        while not self._echo.is_set():
            await client.log_event(self._topic, {"echo": True})
            with suppress(TimeoutError):
                await asyncio.wait_for(self._echo.wait(), pause_s)
            pause_s = min(2 * pause_s, 0.2)

    def fail(self, error: BackendError) -> None:
        """Take the connection as lost."""
        with self._lock:
            if self.error is not None or self._closed:
                return
            self.error = error
            self._waiting.clear()
        self._listener.failed(error)

    # -- use --------------------------------------------------------------------------------------------------------

    def run(self, make: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run a coroutine on the client's loop, as soon as there is one; it handles its own errors.

        Raises:
            BackendError: There is no connection, and none will come.
        """
        with self._lock:
            if self._closed:
                raise BackendError("The Dask backend was stopped.")
            if self.client is not None and self.client.status in ("closing", "closed", "connecting"):
                self.error = self.error or self.gone()
            if self.error is not None:
                raise self.error
            if self.client is None:
                self._waiting.append(make)
            else:
                self._spawn(make)

    def _spawn(self, make: Callable[[], Coroutine[Any, Any, object]]) -> None:
        loop = self._loop
        assert loop is not None

        def start() -> None:
            task = loop.create_task(make())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        loop.call_soon_threadsafe(start)

    def gone(self) -> BackendError:
        """Return what to say when the scheduler is lost."""
        return BackendError(
            f"The Dask scheduler at {self.address or 'this machine'} is gone; results that were not here yet are lost. "
            "Start it again, then open a new session (or run the cell again, if the session is the notebook's own)."
        )

    def slots(self) -> int:
        """Return how many jobs the cluster runs at a time; waits a moment for a cluster that is not connected yet."""
        if self.address is None:
            return self._count
        if not self._known.is_set() and not _in_a_loop():
            self._known.wait(_KNOW_S)
        return max(sum(self._slots.values()), 1)

    # -- what the cluster tells ---------------------------------------------------------------------------------------

    def _heard(self, event: tuple[float, Any]) -> None:
        """Pass on what a job tells, and follow which workers there are."""
        fact = event[1]
        if "echo" in fact:
            self._echo.set()
        elif "left" in fact:
            self._slots.pop(fact["left"], None)
            if self.client is None:
                self._left.add(fact["left"])
            self._listener.worker_left(fact["left"])
        elif "joined" in fact:
            self._slots[fact["joined"]] = fact["slots"]
            if self.cluster is not None:
                self.cluster.began(fact["name"])
        else:
            self._listener.heard(fact)

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the cluster, and end one that is our own; takes at most some three seconds."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._waiting.clear()
            if self._loop is not None and self._end is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(_CLOSE_S)

    async def _leave(self, client: Any) -> None:
        """End what runs on the loop, and say goodbye."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if client.status == "running":
            await asyncio.wait_for(client.unregister_scheduler_plugin(self._topic), _GOODBYE_S)
        await client.close(timeout=_GOODBYE_S)


def _in_a_loop() -> bool:
    """Whether an event loop runs in this thread, which must not be kept waiting."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _watch(topic: str) -> Any:
    """Return a plugin that lets the scheduler say which workers come and go; by value, so that it needs no nbflow.

    Dask's own topic of such events cannot be used: some of them cannot be sent, which costs the client its connection.
    """
    distributed: Any = import_module("distributed")

    class Watch(distributed.SchedulerPlugin):  # type: ignore[misc]
        def add_worker(self, scheduler: Any, worker: str) -> None:
            known = scheduler.workers[worker]
            scheduler.log_event(topic, {"joined": worker, "slots": known.nthreads, "name": str(known.name)})

        def remove_worker(self, scheduler: Any, worker: str, **more: Any) -> None:
            scheduler.log_event(topic, {"left": worker})

    return Watch()
