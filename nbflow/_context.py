"""`SessionContext`: one open session, with its settings, its resources and its lifetime.

What a session is not given it inherits from the one around it. Stores, pools and hooks are made when first needed, so
opening and closing an empty one creates nothing. `nbflow.sessions` opens sessions and finds the one that counts.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from functools import partial

from nbflow import hooks as _hooks
from nbflow._clock import SYSTEM_CLOCK, Clock
from nbflow._typing import TYPE_CHECKING, Any
from nbflow._util import lazy, one_line, report
from nbflow.core.spec import TaskSpec
from nbflow.errors import DefinitionError, SessionError
from nbflow.hooks import Fanout, Observer, Sampler, registered_plugins
from nbflow.runtime.current import Call, ambient, is_worker
from nbflow.runtime.emit import emit_session
from nbflow.runtime.records import Records
from nbflow.settings import Settings, get_global_settings

if TYPE_CHECKING:
    from pathlib import Path

    from nbflow import bars, library
    from nbflow.backends.noop import Plan
    from nbflow.hooks import Hooks
else:
    bars, library = lazy("nbflow.bars"), lazy("nbflow.library")  # keeps formats and tqdm out of a plain import

__all__ = ["SessionContext"]

_numbers = iter(range(1, 2**63))


class SessionContext:
    """An open session; what `with session(...) as ctx` gives. Safe from any thread.

    Attributes:
        session_id: Short name, unique in this process.
        parent: The session around it, or None.
        settings: Its settings.
        records: The most recent finished calls, oldest first.
        active: Running maps and calls by id (plain calls only while somebody listens).
        collector: What records its runs in the home; None where nothing does (see the setting `history`).
        label: Function that names the current cell, or returns None; set by the notebook.
        keep_failed: Function that gets each call that is about to end as failed, with its arguments; set by the panel.
    """

    def __init__(
        self,
        *,
        backend: Any = None,
        cache_store: Any = None,
        cache_shared: Any = None,
        dataset_store: Any = None,
        plugins: Any = None,
        settings: Settings | None = None,
        observers: Iterable[Observer] = (),
        clock: Clock | None = None,
        seed: int | None = None,
        parent: SessionContext | None = None,
    ) -> None:
        inherited: Settings | None = parent.settings if parent is not None else None
        self.session_id = f"session-{next(_numbers)}"
        self.parent = parent
        self.settings: Settings = settings or inherited or get_global_settings()
        self.clock: Clock = clock or (parent.clock if parent is not None else SYSTEM_CLOCK)
        self.fanout: Fanout = Fanout(parent.fanout if parent is not None else None)
        self.records = Records(self.settings.max_records)
        self.active: dict[int, Any] = {} if parent is None else parent.active
        self.label: Callable[[], str | None] = parent.label if parent is not None else _no_label
        self.collector: Any = parent.collector if parent is not None else None
        self.keep_failed: Callable[[Call], None] | None = parent.keep_failed if parent is not None else None
        self.outer_frame: Any = None
        self.opener: tuple[int, int] | None = None
        self.closed = False
        self._own_settings = settings is not None
        self._backend = backend
        self._cache_option = cache_store
        self._shared_option = cache_shared
        self._dataset_option = dataset_store
        self._lock = threading.RLock()
        self._cache: Any = None
        self._root: SessionContext = self if parent is None else parent._root
        self._submitted: dict[Any, str] = {}  # of the root only: handles in order, with the session of each
        self._guests: Any = ()  # what else is cancelled when it closes
        self._telemetry: list[Any] = []  # closed with the session, after its last event
        self._stores: dict[Any, Any] = {}
        self._manager: Any = None
        self._seed = seed
        self._random: Callable[[], float] | None = None
        if not isinstance(observers, Iterable):
            raise DefinitionError(f"observers={observers!r} must be a list of functions; write observers=[...].")
        for observer in observers:
            self.fanout.add(observer)
        self.hooks: Hooks | None = self._gather_hooks(plugins)
        if backend is not None:
            self._backend = self._checked_backend(backend)
        self._bars: bool = self.settings.tqdm and (parent is None or self._own_settings) and bars.pick_up()
        self._opened = self.clock.monotonic()

    def _gather_hooks(self, plugins: Any) -> Hooks | None:
        """Gather the plugins of this session: those around it, or the registered and installed ones, and its own."""
        own = plugins if isinstance(plugins, (list, tuple)) else () if plugins is None else (plugins,)
        parent = self.parent
        if parent is None:
            # A worker's hooks are those of its coordinator, which hears of all that happens here.
            installed = _hooks.installed_plugins() if self.settings.load_plugins and not is_worker() else ()
            everybody = (*registered_plugins(), *installed, *own)
        elif not own:
            return parent.hooks
        else:
            everybody = (*(parent.hooks.plugins if parent.hooks is not None else ()), *own)
        distinct: list[Any] = []  # pluggy refuses equal ones, and they need not be hashable
        for plugin in everybody:
            if plugin not in distinct:
                distinct.append(plugin)
        return _hooks.Hooks(distinct) if distinct else None

    # -- identity -----------------------------------------------------------------------------------------------

    @property
    def session(self) -> SessionContext:
        """This session: frames and calls answer to the same name."""
        return self

    @property
    def backend(self) -> str:
        """Name of the default backend."""
        if self._backend is not None:
            return str(self._backend)
        if self.parent is not None and not self._own_settings:
            return self.parent.backend
        return self.settings.backend

    @property
    def home(self) -> Path:
        """Folder of everything nbflow keeps on disk."""
        return self.settings.home_path

    def random(self) -> float:
        """Return a number in [0, 1), for the jitter of retries."""
        if self._random is None:
            from random import Random

            self._random = Random(self._seed).random
        return self._random()

    @property
    def listening(self) -> bool:
        """Whether anybody would see an event or a hook."""
        return self.hooks is not None or self.fanout.listening

    def portable(self) -> Callable[[], SessionContext]:
        """Return what opens a session like this one in another process.

        Settings travel, stores as their addresses; hooks, observers and the clock do not.
        """
        cache, data = self._nearest("_cache_option"), self._nearest("_dataset_option")
        options: dict[str, Any] = {
            "settings": self.settings,
            "cache_store": _absolute(cache or self.settings.cache_store or self.settings.cache_folder),
            "dataset_store": _absolute(data or self.settings.dataset_store),
        }
        if options["cache_store"] != "off" and isinstance(options["cache_store"], (str, os.PathLike)):
            options["cache_shared"] = _absolute(self._nearest("_shared_option") or self.settings.cache_shared)
        backend = self.backend if self.backend in ("inline", "thread") else "inline"
        return partial(SessionContext, backend=backend, seed=self._seed, **options)

    # -- resources ----------------------------------------------------------------------------------------------

    @property
    def backends(self) -> Any:
        """The session's `BackendManager`.

        Inner sessions share that of the session around, unless their settings differ.
        """
        if (around := self._around()) is not None:
            return around.backends
        if self.closed:
            raise SessionError(f"{self.session_id} is closed; open another one with `with session(...)`.")
        if self._manager is not None:
            return self._manager
        with self._lock:
            if self._manager is None:
                from nbflow.backends.manager import BackendManager  # keeps pools out of a plain import

                self._manager = BackendManager(self)
            return self._manager

    def _around(self) -> SessionContext | None:
        """Return the open session that this one inherits resources from, if there is one."""
        around = None if self._own_settings else self.parent
        while around is not None and around.closed:
            around = None if around._own_settings else around.parent
        return around

    def _checked_backend(self, backend: Any) -> str:
        """Return the name of a backend, which may be given as an object."""
        if backend in ("inline", "thread"):
            return str(backend)
        name: str = self.backends.resolve(backend)
        return name

    @property
    def cache_store(self) -> Any:
        """The store of cached results."""
        if self._cache is None:
            self._cache = self._find_cache()
        return self._cache

    def _find_cache(self) -> Any:
        around = self._around()
        if self._cache_option is None and self._shared_option is None and around is not None:
            return around.cache_store
        place = self._nearest("_cache_option")
        if place is None:
            place = self.settings.cache_store or self.settings.cache_folder
        if self._shared_option not in (None, "off") and (place == "off" or not isinstance(place, (str, os.PathLike))):
            raise SessionError(
                f"cache_shared={self._shared_option!r} needs a cache in a folder, but cache_store is {place!r}; "
                "name a folder, or give CacheStore(folder, shared=...) its own."
            )
        return self._cache_at(place)

    def _nearest(self, option: str) -> Any:
        """Return the option of that name as given here or, nearest first, around; None where it was not."""
        found: SessionContext | None = self
        while found is not None and getattr(found, option) is None:
            found = found._around()
        return None if found is None else getattr(found, option)

    def cache_store_for(self, spec: TaskSpec) -> Any:
        """Return the store that a task uses: its own, or the session's."""
        own = spec.cache_store
        return self.cache_store if own is None else self._cache_at(own)

    def _cache_at(self, place: Any) -> Any:
        """Return the store at that place; None once the session is closed, so that nothing is opened for nobody."""
        if not isinstance(place, (str, os.PathLike)):
            return place
        if self.closed:
            return None
        key = ("cache", str(place))
        if (store := self._stores.get(key)) is not None:
            return store
        with self._lock:
            if key not in self._stores:
                from nbflow.cache.opening import open_store  # keeps the cache out of a plain import

                shared = self._nearest("_shared_option")
                self._stores[key] = open_store(
                    place, self.settings, shared=shared, clock=self.clock, tell=self._cache_trouble
                )
            return self._stores[key]

    def _cache_trouble(self, message: str) -> None:
        """Pass on what the shared tier has to say; it says everything once."""
        emit_session(self, "CacheFailed", 0, self.session_id, stage="share", error=message)
        report(message)

    @property
    def dataset_store(self) -> Any:
        """The store of datasets."""
        if self._dataset_option is None and (around := self._around()) is not None:
            return around.dataset_store
        return self.dataset_store_for(self._dataset_option or self.settings.dataset_store)

    def dataset_store_for(self, store: Any) -> Any:
        """Return `store` itself, the store on that path or driver, or the session's for None."""
        from nbflow.datasets.store import DatasetStore  # keeps formats out of a plain import

        if store is None:
            return self.dataset_store
        if isinstance(store, DatasetStore):
            return store
        key = ("dataset", str(store) if isinstance(store, (str, os.PathLike)) else id(store))
        with self._lock:
            if key not in self._stores:
                self._stores[key] = DatasetStore(
                    store, allow_outside=self.settings.allow_outside_keys, versions=self.settings.dataset_versions
                )
            return self._stores[key]

    def save_dataset(
        self,
        key: str,
        value: Any,
        *,
        format: str | None = None,
        options: dict[str, Any] | None = None,
        store: Any = None,
        call: Call | None = None,
    ) -> str:
        """Save a value as a dataset, with hooks and an event.

        Args:
            key: Storage key, already filled in.
            value: What to save.
            format: Format name; None for what the key's extension or the type says.
            options: Options of the format.
            store: Store, path, or None for the session's.
            call: The call that does so.

        Returns:
            Where it was stored.

        Raises:
            DatasetError: It cannot be saved so.
        """
        return library.save(self, key, value, format=format, options=options, store=store, call=call)

    @property
    def datasets(self) -> library.Datasets:
        """The session's datasets, by key: to look at, to load, to compare, to delete."""
        return library.Datasets(self)

    def load_dataset(
        self,
        key: str,
        return_type: type | None = None,
        *,
        format: str | None = None,
        options: dict[str, Any] | None = None,
        store: Any = None,
        version: str | int | None = None,
        call: Call | None = None,
    ) -> Any:
        """Load a dataset, or a version of it, with hooks and an event; see `save_dataset`."""
        return library.load(
            self, key, return_type, format=format, options=options, store=store, version=version, call=call
        )

    # -- listening and stopping ---------------------------------------------------------------------------------

    def add_observer(self, observer: Observer, items: bool = True, sampler: Sampler | None = None) -> None:
        """Call `observer(event)` for every event; with `items=False` not for routine events of single map items.

        With a `sampler`, quick calls (plain ones, and hits in memory) are not told by events: `sampler(call)` gets the
        live record of each when it begins, and reads its state whenever it likes.
        """
        self.fanout.add(observer, items=items, sampler=sampler)

    def remove_observer(self, observer: Observer) -> None:
        """Stop calling `observer`; an unknown one is ignored."""
        self.fanout.remove(observer)

    def end_with(self, thing: Any) -> None:
        """Cancel `thing` when this session closes, unless it is forgotten by then."""
        from weakref import WeakSet

        with self._lock:
            self._guests = self._guests or WeakSet()
            self._guests.add(thing)

    def submitted(self, handle: Any) -> None:
        """Cancel `handle` when this session closes, unless it has ended by then, which `settled` says."""
        self._root._submitted[handle] = self.session_id

    def settled(self, handle: Any) -> None:
        """Let go of what `submitted` took in."""
        self._root._submitted.pop(handle, None)

    def _handles(self, session_id: str | None = None) -> list[Any]:
        """Return what was submitted in one session, or in all of this tree, and has not ended, the newest first.

        What is to be cancelled is cancelled in this order: a worker that is freed must not find one that waits.
        """
        found = reversed(list(self._root._submitted.items()))
        return [handle for handle, owner in found if session_id in (None, owner)]

    def live_maps(self) -> list[Any]:
        """Return the maps that run now, oldest first."""
        return [found for found in list(self.active.values()) if not isinstance(found, Call)]

    def live_calls(self) -> list[Call]:
        """Return the calls that run now, oldest first (plain ones are only kept track of while somebody listens)."""
        return [found for found in list(self.active.values()) if isinstance(found, Call)]

    def cancel(self, call_id: int, reason: str = "panel", *, index: int | None = None) -> bool:
        """Cancel a call (running or waiting) or a map by id, or one item of a map, whose others run on.

        Args:
            call_id: The id, as in events.
            reason: Who asks for it, in a word.
            index: With the id of a map: only its item at that position.

        Returns:
            False if nothing of that id runs or waits.
        """
        found = self.active.get(call_id)
        if isinstance(found, Call):
            return bool(found.cancel(reason) if found.map is None else found.map.cancel_item(found.index, reason))
        if found is not None:
            return bool(found.cancel(reason) if index is None else found.cancel_item(index, reason))
        if any(state.cancel_call(call_id, reason) for state in self.live_maps()):
            return True
        return any(each.cancel(reason) for each in self._handles() if each.task_id == call_id)

    def cancel_all(self, reason: str = "panel") -> int:
        """Cancel everything that runs or waits, and return how many calls and maps that were."""
        ended = {each.task_id for each in self._handles() if each.cancel(reason)}
        running = [found for found in list(self.active.values()) if found.id not in ended]
        return len(ended) + sum(bool(found.cancel(reason)) for found in running)

    def plan(self) -> Plan:
        """Return what would run, and what is cached: the calls of this session's dry runs (`backend="noop"`), in order.

        As text it is one line for each call. Of very many calls it has the last `Settings.max_records`.
        """
        from nbflow.backends.noop import Plan, Planned  # keeps backends out of a plain import

        met = [call for call in list(self.records) if call.cached or getattr(call.error, "reason", None) == "dry run"]
        return Plan(Planned(call.name, call.cached, call.reason) for call in met)

    def flush(self) -> None:
        """Write what caches hold back for a moment; a fault of a cache is its own affair. Never raises."""
        for store in list(self._stores.values()):
            try:
                getattr(store, "flush", _nothing)()
            except Exception as error:
                report(f"Writing results of {self.session_id}: {one_line(error)}.")

    # -- life ---------------------------------------------------------------------------------------------------

    def open(self) -> SessionContext:
        """Tell hooks and observers that the session is open; `session(...)` does this."""
        if self.hooks is not None:
            self.hooks.call.before_session_start(session_id=self.session_id)
        emit_session(self, "SessionStarted", 0, self.session_id)
        return self

    def close(self) -> None:
        """End the session: cancel what still runs in it, stop its backends, close its stores, tell hooks and observers.

        Idempotent, bounded in time. What was submitted and should end by itself has to be waited for before.
        """
        with self._lock:
            if self.closed:
                return
            self.closed = True
            if ambient.session is self:
                ambient.session = self.parent
            manager, self._manager = self._manager, None
            stores, self._stores, self._cache = list(self._stores.values()), {}, None
        own = [found for found in list(self.active.values()) if found.session is self]
        for running in (*self._guests, *self._handles(self.session_id), *own):
            running.cancel("the session ended")
        for end in (
            manager.stop if manager is not None else None,
            *(getattr(store, "close", None) for store in stores),
        ):
            try:
                if end is not None:
                    end()
            except Exception as error:
                report(f"Closing {self.session_id}: {one_line(error)}. The rest of it was closed.")
        duration = self.clock.monotonic() - self._opened
        emit_session(self, "SessionEnded", 0, self.session_id, duration_s=duration)
        if self._bars:
            bars.let_go()
        for observer in self._telemetry:
            self.fanout.remove(observer)
            observer.close()
        if self.collector is not None:
            self.collector.collect(self, last=True)
        if self.hooks is not None:
            self.hooks.call.after_session_end(session_id=self.session_id, duration=duration)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<{self.session_id} {state}, backend {self.backend!r}>"


def _absolute(place: Any) -> Any:
    """Return a path as seen from anywhere; names, URLs and stores as they are."""
    if isinstance(place, os.PathLike):
        place = os.fspath(place)
    if not isinstance(place, str) or place == "off" or "://" in place:
        return place
    return os.path.abspath(os.path.expanduser(place))


def _no_label() -> str | None:
    return None


def _nothing() -> None:
    """Stand in for a store that holds nothing back."""
