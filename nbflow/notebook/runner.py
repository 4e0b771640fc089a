"""How a cell runs as a task: body, record, cache, replay.

A `CellRun` is one execution. Its body is an ordinary call for the runtime's drivers, so events, panel, retries,
timeout and cache work as for any task; what the call returns is a `Record`. A record that was just made is left to
the cache to pickle; one that came back from the cache is checked against its conditions, restored and replayed, and
where that fails the body runs after all.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from nbflow._util import format_duration
from nbflow.cache.explain import Reasons
from nbflow.cache.key import CacheKey
from nbflow.cache.trace import FILE
from nbflow.core.policy import Policy
from nbflow.core.spec import TaskKind, TaskSpec
from nbflow.notebook import output
from nbflow.notebook.cellkey import CellKeyer, ForcedKeyer
from nbflow.notebook.cells import Cell, CellOptions, Part
from nbflow.notebook.chance import Draws, random_states, set_random_states
from nbflow.notebook.conditions import PRESENT, UNKNOWN, condition_of, hold
from nbflow.notebook.early import load_first
from nbflow.notebook.interrupts import Interrupts
from nbflow.notebook.names import BRANCH
from nbflow.notebook.opened import following
from nbflow.notebook.pickling import made_anew
from nbflow.notebook.reach import digest_or_none
from nbflow.notebook.recorder import Recorder, Silent, badge, replay
from nbflow.notebook.remembered import Remembered
from nbflow.notebook.replay import LiveOutputs, Record, Unstorable
from nbflow.runtime import current
from nbflow.runtime.drivers import drive_async, drive_sync
from nbflow.runtime.loop import bridged, heartbeat
from nbflow.status import reasons_of

__all__ = ["CellRun"]

_SCALARS = (int, float, complex, str, bytes, bool, type(None), range, frozenset)
_NO_INPUT = (
    "input() in a cached cell would not be asked again on the next run. "
    "Put the question into a cell of its own, or use %%task --no-cache."
)


class CellRun:
    """One execution of a cell.

    Args:
        shell: The IPython shell.
        session: The session to run in.
        cell: The cell.
        name: The name it is kept under.
        options: The options of the magic.
        where: Which cell last bound a name, in words.
        seeded: Whether somebody has set a random seed in this kernel, so that the generators' states mean something.
        fresh: States that random generators had before; added to while nobody has.
        panel: The panel's controller, which is told of the badge.

    Attributes:
        call: The runtime's record of the call, once there is one.
        record: What the cell left behind, once it has ended well.
        restored: Whether that came from the cache.
        refused: Why this cell takes no part in caching although it should.
        unsteady: An input for which the result will never be found again; see `CellKeyer.unsteady`.
        overtaken: Names that it did not bind, as others had bound them while it ran.
    """

    def __init__(
        self,
        shell: Any,
        session: Any,
        cell: Cell,
        name: str,
        options: CellOptions,
        *,
        where: Callable[[str], str] = lambda name: "",
        seeded: bool = False,
        fresh: dict[str, Any] | None = None,
        panel: Any = None,
    ) -> None:
        self.shell = shell
        self.session = session
        self.cell = cell
        self.name = name
        self.options = options
        self.seeded = seeded
        self._fresh = {} if fresh is None else fresh
        self.panel = panel
        self.namespace: dict[str, Any] = self._own_namespace()
        self.keyer = CellKeyer(cell, name, self.namespace, options, where)
        self.call: Any = None
        self.record: Record | None = None
        self.restored = False
        self.overtaken: frozenset[str] = frozenset()
        self.refused = self.keyer.refusal()
        self.unsteady: str | None = None
        self._force = options.force
        self._before: dict[str, Any] = {}
        self._doubted: dict[str, str] = {}
        self._draws: Draws | None = None
        self._idle_loops: frozenset[int] = frozenset()
        self._remembered = Remembered(())
        self._early = Silent()

    def _own_namespace(self) -> dict[str, Any]:
        """Return the namespace that the body runs in."""
        namespace: dict[str, Any] = self.shell.user_ns
        return namespace

    # -- running

    def run(self) -> Any:
        """Run or restore a cell without top-level `await` and return its last value."""
        __tracebackhide__ = True
        while True:
            record = drive_sync(self._next_call())
            if self._take(record):
                return record.value

    async def run_async(self) -> Any:
        """Run or restore a cell with top-level `await`, on the kernel's own loop, and return its last value."""
        __tracebackhide__ = True
        async with heartbeat():
            while True:
                record = await drive_async(self._next_call())
                if self._take(record):
                    return record.value

    @property
    def counts(self) -> bool:
        """Whether what came of it is to be remembered."""
        return True

    @property
    def caching(self) -> bool:
        """Whether this run takes part in caching."""
        return self.options.cache != "off" and self.refused is None and self.session.cache_store is not None

    def _next_call(self) -> current.Call:
        """Return the call that is to be driven next."""
        if self.caching:
            load_first(self.cell.first_imports, self._early, self.shell)
        return current.Call(self._spec(), self.session, current.current_call(), (), {})

    def _spec(self) -> TaskSpec:
        options = self.options
        return TaskSpec(
            func=self._body_async if self.cell.is_async else self._body,
            name=self.name,
            kind=TaskKind.ASYNC if self.cell.is_async else TaskKind.SYNC,
            bind=self._inputs,
            policy=Policy(retries=options.retries, timeout_s=options.timeout),
            cache=options.cache if self.caching else False,
            cache_ttl=options.ttl,
            keyer=ForcedKeyer(self) if self._force else self.keyer,
            plain=False,
        )

    def _inputs(self) -> dict[str, Any]:
        """Return what the cell reads, by name: the arguments of the call that it is."""
        return {name: self.namespace[name] for name in self.keyer.input_names() if name in self.namespace}

    @property
    def key(self) -> CacheKey | None:
        """The key of this run, with the files that it read; None while there is none."""
        made: CacheKey | None = self.call.key if self.call is not None else None
        return made or self.keyer.last

    def drop_entry(self) -> None:
        """Forget the cached result of the present key."""
        if self.keyer.last is not None:
            self.session.cache_store.invalidate(self.keyer.last)

    # -- the body

    def _body(self) -> Record:
        __tracebackhide__ = True
        with self._recording() as recorder:
            value = self._execute()
            self._flush(recorder)
        return self._made(recorder, value)

    async def _body_async(self) -> Record:
        __tracebackhide__ = True
        with self._recording() as recorder, Interrupts() as interrupts:
            value = await bridged(lambda: interrupts.drive(self._execute_async()))
            self._flush(recorder)
        return self._made(recorder, value)

    def _execute(self) -> Any:
        __tracebackhide__ = True
        value = None
        for part in self.cell.parts:
            generator = self._look_before(part)
            value = eval(part.code, self.namespace)
            self._look_behind(part, generator)
        return value if self.cell.last is not None else None

    async def _execute_async(self) -> Any:
        __tracebackhide__ = True
        value = None
        for part in self.cell.parts:
            generator = self._look_before(part)
            value = eval(part.code, self.namespace)
            if part.code.co_flags & inspect.CO_COROUTINE:
                value = await value
            self._look_behind(part, generator)
        return value if self.cell.last is not None else None

    def _look_before(self, part: Part) -> str | None:
        """Look what has been drawn before a part that sets a seed; return the generator that it surely sets."""
        if part.seeding is None or self._draws is None:
            return None
        self._draws.look()
        return part.seeding.generator(self.namespace)

    def _look_behind(self, part: Part, generator: str | None) -> None:
        """Note what a part that sets a seed, or imports, has done to the generators."""
        if self._draws is None:
            return
        if part.seeding is not None:
            self._draws.seeded(part.seeding, generator)
        elif part.imports:
            self._draws.imported()

    @contextmanager
    def _recording(self) -> Iterator[Recorder]:
        self.call = current.frame()
        namespace = self.namespace
        names = {*self.cell.effects.outputs, *self.cell.effects.inputs, *self._input_digests()}
        self._before = {name: namespace[name] for name in names if name in namespace}
        recorder = Recorder()
        with ExitStack() as stack:
            stack.callback(self._forget_marks)
            if self.caching:
                self._doubt()
                key = self.keyer.last
                self.keyer.reach.look_at_wholes(self._input_digests(), solid=key is not None and not key.notes)
                self._remembered = Remembered(self.keyer.reach.remembering())
                self._draws = Draws(self.cell.shown, self._fresh, known=not self.seeded)
                if self.options.inputs is None:  # else it is said what counts
                    own = (str(self.session.home), *self._cache_folders())
                    stack.enter_context(following(self.call, own, self.cell.files, self.keyer.said(), namespace))
                stack.enter_context(output.refusing_input(_NO_INPUT))
                stack.enter_context(output.recording(recorder, self.shell))
            early, self._early = self._early, Silent()
            replay(self.shell, early.items())
            yield recorder

    def _doubt(self) -> None:
        """Note what the body reads and may change if it does not come to bind it; only then does that count."""
        heap, before = self.keyer.reach.heap, self._before
        self._doubted = {name: condition_of(before, name) for name in self.cell.effects.doubtful if name in before}
        heap.add({name: before[name] for name in self._doubted})
        if not heap.complete:
            self._doubted = dict.fromkeys(self._doubted, UNKNOWN)

    def _cache_folders(self) -> list[str]:
        location = getattr(self.session.cache_store, "location", None)
        return [str(location)] if location else []

    def _forget_marks(self) -> None:
        self._idle_loops = self.cell.loops_not_entered(self.namespace)

    def _flush(self, recorder: Recorder) -> None:
        """Take the figures that are open now; they are shown after the last value, as in a plain cell."""
        if self.caching:
            recorder.holding = True
            output.flush_figures()

    def _made(self, recorder: Recorder, value: Any) -> Record:
        refused = self._remembered.end(self.call) or recorder.refused
        record = Record(value=value, held=recorder.held, refused=refused)
        if not self.caching:
            return record
        record.items = recorder.items()
        if self._draws is not None:
            record.random = self._draws.left(seeds=self.cell.seeds)
            record.random_before = self._draws.needed
        for name, lines in self.cell.effects.doubtful.items():
            unbound = BRANCH in lines and self.namespace.get(name) is self._before.get(name)
            if name in self._doubted and (unbound or not lines.isdisjoint(self._idle_loops)):
                record.conditions[name] = self._doubted[name]
        record.live = self._outputs
        return record

    def _input_digests(self) -> dict[str, str]:
        key = self.keyer.last
        return {} if key is None else {part.name: part.digest for part in key.parts if part.kind == "input"}

    def _outputs(self, record: Record) -> LiveOutputs:
        """Decide which names to store; called when the cache saves the record, after the body has ended."""
        cell, namespace, before, reach = self.cell, self.namespace, self._before, self.keyer.reach
        if cell.configured:
            raise Unstorable(f"it sets something in the module `{min(cell.configured)}`, which cannot be brought back")
        parts = self._input_digests()
        wanted = dict.fromkeys(cell.effects.outputs if self.options.outputs is None else self.options.outputs)
        values: dict[str, Any] = {}
        for name in dict.fromkeys([*wanted, *parts]):
            if name not in namespace:
                continue
            value = namespace[name]
            if name in cell.defined or (isinstance(value, types.ModuleType) and value is before.get(name)):
                continue
            if name not in before or value is not before[name] or name in cell.effects.certain:
                values[name] = value
            elif isinstance(value, _SCALARS):
                record.conditions |= {} if name in parts else {name: condition_of(before, name)}
            elif name not in parts and (id(value) not in reach.heap.objects or id(value) in reach.heap.whole):
                # The same object as before, of which the heap cannot tell whether it was changed.
                if name in cell.effects.mutated and digest_or_none(value) is None:
                    values[name] = value
                else:
                    record.conditions[name] = condition_of(before, name)
        try:
            values |= reach.changed(parts, self.keyer.input_names())
        except LookupError as error:
            raise Unstorable(str(error)) from None
        stirred = self._stirred(parts)
        touched = [name for name in parts if name in values]
        if stirred or reach.heap.changed():
            touched = [name for name in parts if name in namespace or name in reach.before]
        after = {name: digest_or_none(reach.value_of(name)) for name in touched}
        record.digests = {name: digest for name, digest in after.items() if digest is None or digest != parts[name]}
        record.deleted = tuple(
            name for name in wanted if name not in namespace and (name in before or name in cell.effects.deleted)
        )
        for name in record.deleted:
            if name in before:  # where it is missing, `del` is an error
                record.conditions.setdefault(name, PRESENT)
        anew = made_anew({name: namespace[name] for name in cell.defined if name in namespace})
        return LiveOutputs(values, reach.heap, stirred, namespace, anew)

    def _stirred(self, parts: dict[str, str]) -> list[Any]:
        """Return the inputs' objects that cannot be looked into and that the body has changed, by their digests."""
        found = self.keyer.reach.stirred()
        for name, digest in parts.items():
            inside = self.keyer.reach.heap.whole_within(name)
            if inside and (name in self._before or name in self.keyer.reach.before):
                now = digest_or_none(self._before.get(name, self.keyer.reach.value_before(name)))
                if (now is None and name in self.cell.effects.mutated) or (now is not None and now != digest):
                    found += inside
        return found

    # -- what came of it

    def _take(self, record: Record) -> bool:
        """Accept a record; False if it came from the cache but cannot be used, so that the body must run."""
        self.record = record
        if self.keyer.call is not None:
            self.call = self.keyer.call
        if not self.call.cached:
            self.unsteady = self.keyer.unsteady() if self.caching else None
            self._show_held(record)
            return True
        if record.packed is not None and self._conditions_hold(record):
            try:
                self._restore(record)
            except Exception as error:
                record.undo()
                self._tell(f"the cached result could not be restored ({type(error).__name__}: {error}); running again")
            else:
                self.restored = True
                return True
        self._force = True
        return False

    def _conditions_hold(self, record: Record) -> bool:
        if not hold(record.conditions, self.namespace):
            return False
        if self.seeded and record.random_before:
            states = random_states()
            return all(states.get(name) == state for name, state in record.random_before.items())
        return True

    def _restore(self, record: Record) -> None:
        states = random_states()
        self._bring_back(record)
        set_random_states(states | record.random)  # running definitions again must not count as drawing
        self._replay(record)

    def _bring_back(self, record: Record, kept: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Bind in the notebook what the record has, and make definitions anew.

        Returns:
            What was made for the names in `kept`, which stay as they are.
        """
        cell, namespace = self.cell, self.shell.user_ns
        early, late = cell.definition_codes()
        known = record.find_known(namespace)  # before any name is bound anew
        newer = {name: namespace[name] for name in kept if name in namespace}
        with output.recording(output.Mute(), self.shell):
            for code in early:
                exec(code, namespace)
            record.restore(namespace, cell.defined, known)
            for code in late:
                exec(code, namespace)
            record.set_attribute_state(namespace)
        found = {name: namespace.pop(name) for name in kept if name in namespace}
        namespace.update(newer)
        return {name: value for name, value in found.items() if value is not newer.get(name, found)}

    def _replay(self, record: Record) -> None:
        """Put out again what the record has, below the badge."""
        if not self.options.quiet:
            badge(self.shell, self.call.saved_s)
            if self.panel is not None:
                self.panel.badge_shown()
        if self.options.replay:
            replay(self.shell, record.items)
            self._show_held(record)

    def _show_held(self, record: Record) -> None:
        """Show the figures once the last value has been shown: IPython does so when the cell has ended."""
        if not record.held:
            return
        held, shell = list(record.held), self.shell

        def show() -> None:
            shell.events.unregister("post_execute", show)
            replay(shell, held)

        shell.events.register("post_execute", show)

    # -- in words

    @property
    def state(self) -> str:
        """How the run ended: fresh, cached or uncached."""
        if self.restored:
            return "cached"
        kept = self.caching and self.unsteady is None and self.record is not None and self.record.packed is not None
        return "fresh" if kept else "uncached"

    @property
    def unstored(self) -> str | None:
        """Why the result could not be stored, or None."""
        found = self.refused or (self.record.refused if self.record is not None else None)
        if found is None and self.unsteady is not None:
            kind = type(self.namespace.get(self.unsteady)).__name__
            return f"input `{self.unsteady}` ({kind}) cannot be compared with what it was, so it runs each time"
        return found

    @property
    def reason(self) -> str | None:
        """Why the result is not stored, or why the body ran."""
        if self.unstored is not None:
            return self.unstored
        if self.restored or self.call is None:
            return None
        if self.options.force:
            return "forced"
        return Reasons([*reasons_of(self.call.reason), *self.call.remarks]) if self.call.remarks else self.call.reason

    def release(self) -> None:
        """Let go of all values: the session remembers calls for long, and their specs lead here."""
        self.record = None
        self._before = {}
        self._draws = None

    def say_how_it_went(self) -> None:
        """Say in one line what could not be stored; with `--verbose`, also what was done and why."""
        if self.unstored is not None:
            self._tell(f"not cached: {self.unstored}")
            if self.panel is not None:
                self.panel.badge_shown()
        if not self.options.verbose or self.call is None:
            return
        call, effects = self.call, self.cell.effects
        if self.restored:
            self._tell(f"restored, saved {format_duration(call.saved_s)}")
        else:
            why = f" ({self.reason})" if self.reason and self.reason != self.unstored else ""
            self._tell(f"computed in {format_duration(call.duration_s)}{why}")
        for note in (*call.remarks, *(call.notes if self.unsteady is None else ())):
            if self.unstored is None or not note.startswith("not cached: "):  # which it has told above
                self._tell(note)
        if files := [part.name for part in key.parts if part.kind == FILE] if (key := self.key) is not None else []:
            self._tell(f"made from the content of {', '.join(files)}, which it opened or names")
        reads, writes = self.keyer.input_names(), effects.outputs
        self._tell(f"reads {', '.join(reads) or 'nothing'}; writes {', '.join(writes) or 'nothing'}")

    def _tell(self, message: str) -> None:
        if not self.options.quiet:
            sys.stderr.write(f"nbflow: {self.name}: {message}.\n")
