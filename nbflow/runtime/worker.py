"""What a worker runs: one call, or a range of items, as if it ran at the coordinator.

The coordinator decides (cache, retries, timeouts, saving, records); here is only the user's function, with a call and a
session around it, so that `progress`, nested tasks, datasets and `current_session` work as inline. What happens inside
is told by a `Relay`. A `Plan` is what all calls of a map have in common; each worker unpacks it once.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pickle import PickleBuffer
from sys import getrefcount
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from nbflow._util import lazy
from nbflow.backends.remote import inside_worker, owns_process
from nbflow.backends.travel import Failure, flatten, refusal, restore
from nbflow.core import events
from nbflow.core.spec import TaskKind, TaskSpec, compile_binder
from nbflow.runtime import current, loop
from nbflow.runtime.current import Call, enter, frame
from nbflow.runtime.current import restore as leave
from nbflow.runtime.relay import Relay, relay_of_context, take_over_process
from nbflow.runtime.watch import Lookout, Progress, RangeAnswer, watch

if TYPE_CHECKING:
    from nbflow.runtime import opened
    from nbflow.runtime.opened import Following
else:
    opened = lazy("nbflow.runtime.opened")  # only cells that are cached follow what is opened

__all__ = ["BEGUN", "Answer", "Common", "Packed", "Plan", "pack", "run_call", "run_range", "unpack"]

BEGUN = "begun"
"""The message of a call whose function is about to run."""

_BESIDE_BYTES = 1 << 16
_KEEP = 16


# --- what travels -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the calls of one map, or one submitted call, have in common.

    Args:
        home: The process that it comes from.
        session: Which of its sessions; `reopen` opens one like it here.
        label: The cell.
        heard: Whether anybody there listens to events, and `items` to those of single items too.
        levels: Levels of loggers there, by name.
        func: The function; or module and name of the task that has it, which is found there by its own name.
        kind, name, description, dataset_store, template_names: Of the task.
        backend: Name of the backend.
        map_id: The map that the calls are items of.
        parent_id: The call that made them.
        follow: Which files that they open by their plain name count; None for none.
    """

    home: str
    session: str
    reopen: Callable[[], Any]
    label: str | None
    heard: bool
    items: bool
    levels: dict[str, int]
    func: Any
    kind: TaskKind
    name: str
    description: str
    dataset_store: Any
    template_names: frozenset[str]
    backend: str
    map_id: int | None
    parent_id: int | None
    follow: Following | None


class Packed:
    """A value as its pickle and large buffers: who carries it need not be able to open it.

    Attributes:
        key: Under which name a worker remembers what it unpacked.
    """

    __slots__ = ("buffers", "head", "key")

    def __init__(self, head: bytes, buffers: list[Any], key: str = "") -> None:
        self.head = head
        self.buffers = buffers
        self.key = key

    def __reduce__(self) -> Any:
        return Packed, (self.head, [PickleBuffer(buffer) for buffer in self.buffers], self.key)


class Common(NamedTuple):
    """Stands in an item for an argument that many items have: the one of that number."""

    number: int


class Answer(NamedTuple):
    """What came of a call: its packed result, and the files that it read or just opened, where they count."""

    result: Any
    reads: dict[str, Any] | None
    opened: dict[str, Any]


_ATOMS = frozenset({bool, float, int, str, type(None)})
_NOTHING = nullcontext()


def pack(value: Any, key: str = "") -> Any:
    """Return a value packed; one that any pickle can take stays as it is.

    Raises:
        Exception: Whatever the pickler says of it.
    """
    if type(value) in _ATOMS:
        return value
    return Packed(*flatten(value, _BESIDE_BYTES), key)


def unpack(value: Any, *, home: bool = False) -> Any:
    """Return what was packed; each time a new one.

    Args:
        value: From `pack`.
        home: Whether it comes back to the process whose classes it may be made of.
    """
    return restore(value.head, value.buffers, home=home) if type(value) is Packed else value


def _pack_result(value: Any) -> Any:
    """Pack a result, or say why it cannot travel."""
    try:
        return pack(value)
    except Exception as error:
        what = f"The result, of type {type(value).__qualname__}"
        raise refusal(what, [("result", value)], error, "back to the coordinator") from None


# --- where it arrives ---------------------------------------------------------------------------------------------


@cache
def home() -> str:
    """Return a name for this process that no other has."""
    return f"{platform.node()}-{os.getpid()}-{os.urandom(8).hex()}"


class _Map(NamedTuple):
    """What calls here see of the coordinator's map."""

    id: int
    backend: str
    cancel_reason: None = None
    dropped: Mapping[int, str] = MappingProxyType({})  # nobody knows here, and whoever is cancelled is stopped

    def reason_for(self, index: int | None) -> None:
        """Return why an item was cancelled."""


class _Job:
    """A plan that was unpacked here: task and session to run its calls with."""

    __slots__ = ("map", "plan", "session", "spec")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        func = plan.func
        if type(func) is _Named:
            func = func.find()
        self.spec = TaskSpec(
            func=func,
            name=plan.name,
            about=plan.description,
            kind=plan.kind,
            bind=compile_binder(func),
            dataset_store=plan.dataset_store,
            template_names=plan.template_names,
        )
        self.session = _session(plan)
        self.map = None if plan.map_id is None else _Map(plan.map_id, plan.backend)

    @property
    def heard_session(self) -> Any:
        """The session, where anybody listens to what happens in it."""
        return self.session if self.plan.heard else None

    def call(self, id: int, index: int | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        call = Call(self.spec, self.session, None, args, kwargs, index, self.map, id)
        call.parent_id = self.plan.parent_id
        call._pool = self.plan.backend
        return call

    def following(self, reads: dict[str, Any] | None, found: dict[str, Any]) -> AbstractContextManager[object]:
        """Put the files that calls with these reads open into `found`, where they count."""
        about = self.plan.follow
        return _NOTHING if about is None or reads is None else opened.following(reads, about, found)

    def run(self, call: Call) -> Any:
        """Call the user's function, whatever its kind."""
        __tracebackhide__ = True
        kind = self.spec.kind
        token = enter(call)
        try:
            value = self.spec.func(*call.args, **call.kwargs)
            if kind is TaskKind.SYNC:
                return value
            if kind is TaskKind.STREAM:
                return list(value)
            return loop.run(value if kind is TaskKind.ASYNC else _collected(value), bridge="thread")
        finally:
            leave(token)


async def _collected(items: Any) -> list[Any]:
    __tracebackhide__ = True
    return [item async for item in items]


class _Named(NamedTuple):
    """A function that a task of an importable module has: it is found by the task's name."""

    module: str
    name: str

    def find(self) -> Any:
        __import__(self.module)
        found: Any = sys.modules[self.module]
        for part in self.name.split("."):
            found = getattr(found, part)
        return getattr(found, "func", found)


def portable(func: Any) -> Any:
    """Return a function as it should travel: by name where a module has it as a task, which hides it from pickle."""
    module, name = getattr(func, "__module__", None), getattr(func, "__qualname__", "")
    if module in (None, "__main__") or "<" in name:
        return func
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return _Named(module, name) if found is not func and getattr(found, "func", None) is func else func


_lock = threading.Lock()
_jobs: OrderedDict[str, _Job] = OrderedDict()
_sessions: OrderedDict[tuple[str, str], Any] = OrderedDict()


def _job(packed: Packed) -> _Job:
    """Return the job of a plan, unpacking it when it comes for the first time."""
    with _lock:
        if (known := _jobs.get(packed.key)) is not None:
            _jobs.move_to_end(packed.key)
            return known
        plan: Plan = unpack(packed)
        if plan.home != home():
            _be_a_worker(plan)
        job = _jobs[packed.key] = _Job(plan)
        while len(_jobs) > _KEEP:
            _jobs.popitem(last=False)
        return job


def _be_a_worker(plan: Plan) -> None:
    """Prepare this process for work of others."""
    mine = owns_process()  # else somebody else may have set up logging here, which stays as it is
    for name, level in plan.levels.items():
        logger = logging.getLogger(name)
        if mine or not (logger.level if name else logger.handlers):
            logger.setLevel(level)
    take_over_process()
    current.make_ids_unique()


def _session(plan: Plan) -> Any:
    """Return the session here that stands for the coordinator's; the stores that it opens stay open."""
    key = (plan.home, plan.session)
    session = _sessions.get(key)
    if session is None:
        session = _sessions[key] = plan.reopen()
        session.label = _label
        while len(_sessions) > _KEEP:
            _sessions.popitem(last=False)[1].close()
    else:
        _sessions.move_to_end(key)
    session.remove_observer(_observe)
    if plan.heard:
        session.add_observer(_observe, items=plan.items)
    return session


def _label() -> str | None:
    relay = relay_of_context()
    return None if relay is None else relay.label


def _observe(event: Any) -> None:
    if (relay := relay_of_context()) is not None:
        if type(event) is events.TaskStarted:  # a thread's name says nothing to those who hear of it elsewhere
            event = replace(event, worker=inside_worker())
        relay.add(event)


# --- what the coordinator has run here ----------------------------------------------------------------------------


def run_call(
    packed: Packed, id: int, index: int | None, tell_begin: bool, track: bool, /, *args: Any, **kwargs: Any
) -> Answer:
    """Run one call.

    Args:
        packed: The packed plan.
        id: The call's id.
        index: Its position in the map.
        tell_begin: Whether to tell when the function is about to run.
        track: Whether the files that it reads count.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Raises:
        TransferError: The result cannot travel.
        BaseException: What the function raised.
    """
    __tracebackhide__ = True
    job = _job(packed)
    with Relay(job.plan.label) as relay, watch(Lookout(relay.add, job.heard_session)):
        call = job.call(id, index, args, kwargs)
        if track:
            call.reads = {}
        if tell_begin:
            relay.now(BEGUN)
        found: dict[str, Any] = {}
        try:
            with job.following(call.reads, found):
                value = job.run(call)
        except BaseException:
            if call.reads or found:  # whoever takes the failure as a result depends on them as well
                relay.now({"reads": call.reads, "opened": found})
            raise
        return Answer(_pack_result(value), call.reads, found)


def run_range(
    packed: Packed,
    first: int,
    ids: array[int],
    items: list[tuple[Any, ...]],
    budget_s: float | None,
    /,
    *common: Any,
    **kwargs: Any,
) -> RangeAnswer:
    """Run items one after the other.

    Args:
        packed: The packed plan.
        first: Position of the first one.
        ids: Ids of their calls.
        items: Their arguments.
        budget_s: Seconds after which no further item is begun; None for all of them.
        *common: Arguments that several items have, for which `Common` stands in them.
        **kwargs: Keyword arguments of all.
    """
    job = _job(packed)
    if common:
        items = [tuple(common[arg.number] if type(arg) is Common else arg for arg in item) for item in items]
    progress = Progress()
    with Relay(job.plan.label) as relay, watch(Lookout(relay.now, job.heard_session, progress)):
        with job.following(progress.reads, progress.opened):
            _run_items(job, progress, first, ids, items, budget_s, kwargs)
    return progress.rest()


def _run_items(
    job: _Job,
    progress: Progress,
    first: int,
    ids: array[int],
    items: list[tuple[Any, ...]],
    budget_s: float | None,
    kwargs: dict[str, Any],
) -> None:
    __tracebackhide__ = True
    clock = perf_counter
    results, stamps, reads = progress.results, progress.stamps, progress.reads
    until = stamps[0] + budget_s if budget_s is not None else float("inf")
    spec, session, place, parent_id = job.spec, job.session, job.map, job.plan.parent_id
    func = spec.func if spec.kind is TaskKind.SYNC else None
    call: Call | None = None
    own, token = 0, None
    try:
        for index, (args, id) in enumerate(zip(items, ids, strict=True), first):
            # One call serves all items, which halves their cost, unless somebody keeps it (a thread that goes on).
            if call is not None and getrefcount(call) == own and frame() is call:
                call.id, call.args, call.index = id, args, index
                call._name = call.flag = None
            else:
                if token is not None:
                    leave(token)
                call = Call.item(spec, session, args, kwargs, index, place, id, parent_id)
                call.reads = reads
                token = enter(call)
                own = getrefcount(call)
            try:
                value = job.run(call) if func is None else func(*args, **kwargs)
                results.append(value if type(value) in _ATOMS else _pack_result(value))
            except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit) as error:
                results.append(Failure.of(error))
            now = clock()
            stamps.append(now)
            if now > until:
                break
    finally:
        if token is not None:
            leave(token)
