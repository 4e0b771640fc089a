"""Jobs on their way through Dask: submitted, heard, stopped, settled.

A `Flight` is one job. All of its changes happen on the client's loop, so nothing here needs a lock; other threads only
put coroutines there. A job is settled once, by whatever comes first: its answer, its stop, the loss of its worker, or
the loss of the cluster.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import re
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, cast

from nbflow.backends.dask.link import Link
from nbflow.backends.dask.shared import DaskShared, Shelf
from nbflow.backends.dask.worker import Answer, JobStopped, Ticket, stop_job, withdraw_jobs
from nbflow.backends.parcels import open_outcome
from nbflow.backends.remote import RemoteJob
from nbflow.errors import BackendError, WorkerLostError

__all__ = ["Flight", "Flights"]

_TRIES = 5
"""How often a job that never began is submitted again (its data or the workers where it waited were lost)."""

_GRACE_S = 0.1
"""How long code that was told to stop may take."""

_REACH_S = 0.2
"""How long a worker may take to be reached, beyond that."""

_LATE_S = 2.0
"""How long to wait for messages that are still on their way when the result is here."""

_AGAIN_S = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""When to tell the scheduler (again) to forget a job that was just submitted."""

_NEW_S = 2.0
"""How long a job counts as just submitted."""

_NAME = re.compile(r"(?<=')[\w.<>]+|^[\w.<>]+$")
"""The name of a task in a label such as "Task 'fit[3]'"."""

_log = logging.getLogger("nbflow.backends")


class Flight:
    """One job and what is known of it."""

    def __init__(
        self,
        job: RemoteJob,
        call: DaskShared,
        shared: list[DaskShared],
        listen: Callable[[Any], object] | None,
        label: str,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.job = job
        self.call = call
        self.shared = shared
        self.listen = listen
        self.label = label
        self.future: Any = None
        self.submitted = 0.0
        self.run: str | None = None
        self.address: str | None = None
        self.seen = 0
        self.early: dict[int, bytes] = {}
        self.answer: asyncio.Future[Answer]  # made on the loop
        self.awaited = 0  # how many messages a job that has its answer waits for
        self.over = asyncio.Event()
        self.notified = False

    def take(self, number: int, data: bytes) -> None:
        """Deliver a message when its turn has come."""
        if number < self.seen or self.listen is None:
            return
        self.early[number] = data
        while self.seen in self.early:
            self._deliver(self.early.pop(self.seen))
            self.seen += 1

    def flush(self) -> None:
        """Deliver what is there, whatever is missing."""
        for number in sorted(self.early):
            self._deliver(self.early.pop(number))
            self.seen = number + 1

    def _deliver(self, data: bytes) -> None:
        try:
            cast("Any", self.listen)(pickle.loads(data))
        except Exception:
            _log.exception("A message of %s could not be delivered.", self.label or "a job")

    def begin(self, run: str, worker: str, address: str) -> bool:
        """Note where the job runs; False if it was withdrawn."""
        self.run, self.address = run, address
        self.job.worker = worker
        return self.notify()

    def notify(self) -> bool:
        """Tell those who wait for the job that it runs, or that it was cancelled; False for the latter."""
        if self.notified:
            return not self.job.cancelled()
        self.notified = True
        return self.job.set_running_or_notify_cancel()


class Flights:
    """The jobs of one backend; `start`, `stop` and `end` are safe from any thread.

    Args:
        topic: Under which name jobs send messages.
        shelf: Where large values are kept.
    """

    link: Link

    def __init__(self, topic: str, shelf: Shelf) -> None:
        self._topic = topic
        self._shelf = shelf
        self._flights: dict[str, Flight] = {}
        self._by_job: dict[RemoteJob, Flight] = {}
        self._withdrawn: list[str] = []

    def start(self, flight: Flight) -> None:
        """Send a job on its way.

        Raises:
            BackendError: There is no cluster.
        """
        self._flights[flight.id] = self._by_job[flight.job] = flight
        flight.job.add_done_callback(self._done)
        try:
            self.link.run(lambda: self._fly(flight))
        except BackendError:
            self._forget(flight)
            raise

    def _forget(self, flight: Flight) -> None:
        self._flights.pop(flight.id, None)
        self._by_job.pop(flight.job, None)
        flight.call.release()

    def _done(self, job: Any) -> None:
        """Let go of a job that was withdrawn; the others end by themselves."""
        flight = self._by_job.get(job)
        if flight is not None and job.cancelled():
            try:
                self.link.run(lambda: self._withdraw(flight))
            except BackendError:
                self._forget(flight)

    # -- the way there and back -------------------------------------------------------------------------------------

    async def _fly(self, flight: Flight) -> None:
        """Submit a job and settle it."""
        job = flight.job
        flight.answer = asyncio.get_running_loop().create_future()
        try:
            answer = await self._answer(flight)
            if answer is not None:
                await self._land(flight, answer)
        except asyncio.CancelledError:
            if not job.cancel():
                job.settle_stopped()
            raise
        except BaseException as error:
            job.settle(error=error if isinstance(error, BackendError) else self._failure(flight, error))
        finally:
            flight.future = None
            self._forget(flight)

    async def _answer(self, flight: Flight) -> Answer | None:
        """Return the answer of a job; None if it is over without one."""
        for number in range(1, _TRIES + 1):
            if flight.job.done():
                return None
            large: list[DaskShared] = []
            try:
                flight.future = await self._submit(flight, large)
                flight.submitted = time.monotonic()
                return await self._first(flight)
            except BaseException as error:
                if flight.job.done():
                    return None
                if not (_is_lost(error) and flight.run is None and number < _TRIES and self._reachable()):
                    raise
                self._shelf.lost(large)
        return None

    async def _first(self, flight: Flight) -> Answer:
        """Wait for the answer as an event or as the result of the Dask task, whichever is first."""
        result = asyncio.ensure_future(_result(flight.future))
        try:
            await asyncio.wait({result, flight.answer}, return_when=asyncio.FIRST_COMPLETED)
            return flight.answer.result() if flight.answer.done() else await result
        finally:
            result.cancel()

    async def _submit(self, flight: Flight, large: list[DaskShared]) -> Any:
        """Hand a job to Dask; fills in which large values it needs."""
        client = self.link.client
        values = [flight.call, *flight.shared]
        large += [value for value in values if value.digest is not None]
        placed = [await self._shelf.place(client, value) for value in large]
        small = [value.parcel if value.digest is None else None for value in values]
        ticket = Ticket(flight.id, self._topic, flight.listen is not None)
        named = _NAME.search(flight.label)  # Dask's dashboard groups tasks by what is before the number
        key = f"{named[0] if named else 'job'}-{uuid.uuid4().hex}"
        return client.submit(_carrier(), pickle.dumps((ticket, small)), *placed, key=key, pure=False, retries=0)

    async def _land(self, flight: Flight, answer: Answer) -> None:
        """Settle a job with its answer, after all of its messages."""
        job = flight.job
        if flight.run is None:
            flight.run = answer.run
        job.worker = job.worker or answer.worker
        for number, data in answer.tail:
            flight.take(number, data)
        if flight.listen is not None and flight.seen < answer.sent:
            flight.awaited = answer.sent
            try:
                await asyncio.wait_for(flight.over.wait(), _LATE_S)
            except TimeoutError:
                flight.flush()
        value, error = open_outcome(answer.outcome, answer.worker)
        if isinstance(error, JobStopped):
            job.settle_stopped()
        else:
            job.settle(value, error)

    def _reachable(self) -> bool:
        return bool(self.link.client.status == "running")

    def _failure(self, flight: Flight, error: BaseException) -> BackendError:
        """Return what to say of a job that Dask did not run."""
        label = flight.label or "The job"
        if not self._reachable() or getattr(error, "reason", None) == "scheduler-connection-lost":
            return self.link.gone()
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "nbflow":
            return BackendError(
                f"{label}: a Dask worker at {self.link.address} has no usable nbflow ({error}). Install it on all "
                "workers, for example with client.register_plugin(distributed.PipInstall(['nbflow']))."
            )
        if type(error).__name__ == "KilledWorker":
            return WorkerLostError(
                f"{label}: its Dask workers died, one after the other: {error}", worker=None, exitcode=None
            )
        return BackendError(f"{label}: Dask did not run it: {type(error).__name__}: {error}")

    # -- what the cluster tells ---------------------------------------------------------------------------------------

    def heard(self, message: dict[str, Any]) -> None:
        """A job begins, or tells something."""
        flight = self._flights.get(message["job"])
        run: str = message["run"]
        if flight is None or flight.job.done():
            if "begin" in message:  # it was withdrawn while it was about to begin
                self._refuse(message)
        elif "begin" in message:
            if flight.run is not None and flight.run != run:
                self._lost(flight)  # Dask runs it again, since the first worker is gone
                self._refuse(message)
            elif not flight.begin(run, message["begin"], message["worker"]):
                self._refuse(message)
        elif flight.run != run:
            pass  # from a run that was given up
        elif "answer" in message:
            if not flight.answer.done():
                flight.answer.set_result(pickle.loads(message["answer"]))
        else:
            flight.take(message["number"], message["data"])
            if flight.seen >= flight.awaited:
                flight.over.set()

    def _refuse(self, message: dict[str, Any]) -> None:
        """End code that begins although nobody wants it any more."""
        self._run(lambda: self._end_code(message["job"], message["begin"], message["worker"]))

    def _run(self, make: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run a coroutine that tidies up, if there still is a cluster."""
        try:
            self.link.run(make)
        except BackendError:
            pass

    def worker_left(self, address: str) -> None:
        """A worker is gone: what it ran is lost."""
        for flight in list(self._flights.values()):
            if flight.address == address:
                self._lost(flight)

    def _lost(self, flight: Flight) -> None:
        """Fail a job whose worker is gone."""
        worker = flight.job.worker
        code = None if self.link.cluster is None else self.link.cluster.exitcode(str(worker))
        how = "" if code is None else f" (exit code {code}{', killed by a signal' if code < 0 else ''})"
        if flight.job.settle(
            error=WorkerLostError(
                f"{flight.label or 'The job'}: the Dask worker {worker} was lost while it ran{how}.",
                worker=worker,
                exitcode=code,
            )
        ):
            self._run(lambda: self._drop(flight))

    def failed(self, error: BackendError) -> None:
        """There is no cluster: no job can end well."""
        for flight in list(self._flights.values()):
            flight.job.settle(error=error)
            self._forget(flight)

    # -- stopping -----------------------------------------------------------------------------------------------------

    def stop(self, job: RemoteJob) -> None:
        """End a job that runs."""
        flight = self._by_job.get(job)
        try:
            if flight is not None:
                self.link.run(lambda: self._stop(flight))
        except BackendError:
            job.settle_stopped()

    async def _stop(self, flight: Flight) -> None:
        """End a job's code, then the job."""
        try:
            if not await self._end_code(flight.id, str(flight.job.worker), str(flight.address), flight):
                flight.job.left = flight.job.worker
        finally:
            flight.job.settle_stopped()
            await self._drop(flight)

    async def _end_code(self, job: str, worker: str, address: str, flight: Flight | None = None) -> bool:
        """Stop code that runs on a worker, or end the worker if it is ours; False if the code goes on."""
        client, cluster = self.link.client, self.link.cluster
        try:
            told = client.run(stop_job, job, _GRACE_S, workers=[address], on_error="ignore")
            answers = await asyncio.wait_for(told, _GRACE_S + _REACH_S)
            if answers.get(address) is True:
                return True
        except Exception as error:  # it does not answer, or is gone
            _log.debug("%s could not be told to stop a job: %r", worker, error)
        if cluster is None:
            _log.warning(
                "Code that was told to stop goes on, with nobody waiting for it, on the Dask worker %s.", worker
            )
            return False
        if flight is not None:
            await self._drop(flight)  # else Dask would run it again
        cluster.kill(worker)
        return True

    async def _withdraw(self, flight: Flight) -> None:
        """Let Dask forget a job that was cancelled while it waited."""
        flight.notify()
        self._withdrawn.append(flight.id)
        if len(self._withdrawn) == 1:
            self._run(self._tell_workers)
        await self._drop(flight)

    async def _tell_workers(self) -> None:
        """Let no worker begin what was withdrawn."""
        jobs, self._withdrawn = self._withdrawn, []
        try:
            await self.link.client.run(withdraw_jobs, jobs, on_error="ignore")
        except Exception as error:  # none is there, or one of them has just left
            _log.debug("not every worker heard that jobs were withdrawn: %r", error)

    async def _drop(self, flight: Flight) -> None:
        """Let Dask forget a job."""
        future, flight.future = flight.future, None
        if future is None:
            return
        # The scheduler takes up a submission in the background: a cancel may overtake it, and is lost then.
        just = flight.run is None and time.monotonic() - flight.submitted < _NEW_S
        for pause_s in _AGAIN_S if just else _AGAIN_S[:1]:
            await asyncio.sleep(pause_s)
            if not self._reachable():
                return
            await self.link.client.cancel([future], force=True)

    def end(self) -> None:
        """End all jobs; those that wait are cancelled."""
        for flight in list(self._flights.values()):
            if not flight.job.cancel():
                flight.job.settle_stopped()


async def _result(future: Any) -> Answer:
    """Return the result of a Dask future (which is awaitable, but nothing that asyncio would wait for)."""
    return cast("Answer", await future)


def _is_lost(error: BaseException) -> bool:
    """Whether Dask gave up a job for reasons that are not the job's."""
    return isinstance(error, asyncio.CancelledError | CancelledError) or type(error).__name__ == "KilledWorker"


def _carrier() -> Callable[..., Any]:
    """Return the function that Dask runs: one that travels by value, so that the scheduler needs no nbflow."""

    def nbflow(job: bytes, *large: Any) -> Any:
        from nbflow.backends.dask.worker import perform

        return perform(job, *large)

    return nbflow
