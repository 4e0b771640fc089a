"""A cell that runs beside others, and what becomes of its names.

Its body works on a copy of the notebook's namespace, so that nobody sees half of what it does. What it visibly changes
in place it gets as copies. When it has ended, its names are bound in the notebook in one go:

* As a rule they are bound to the very objects that the body made.
* A cell that makes functions or classes, or changes what it was given, ends *as a hit of its own record*: definitions
  are made anew over the notebook's own namespace, data refers to those, and changes are applied to the present objects.
"""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from nbflow._util import package_of
from nbflow.cache import trace
from nbflow.notebook.cells import Cell
from nbflow.notebook.heap import ATOMS, Heap
from nbflow.notebook.recorder import Recorder, replay
from nbflow.notebook.replay import LiveOutputs, Packed, Record
from nbflow.notebook.runner import CellRun
from nbflow.runtime import current
from nbflow.runtime.loop import bridged
from nbflow.runtime.stopping import GRACE_S

__all__ = ["AsideRun", "reached", "unfit"]

_MISSING = object()
_OF_THE_SHELL = frozenset({"__builtins__"})
_PYPLOT = frozenset({"matplotlib.pyplot", "pylab", "matplotlib.pylab", "seaborn"})
_PLOTTING = frozenset({"plot", "hist", "boxplot"})


class _Announced(current.Call):
    """A call that is seen to if it does not end when it is cancelled, whoever does that (`%flow cancel`, a click)."""

    left: Callable[[], object]

    def cancel(self, reason: str = "cancelled") -> bool:
        """Ask the call to end as cancelled."""
        asked = super().cancel(reason)
        if asked:
            late = threading.Timer(GRACE_S, self.left)
            late.daemon = True
            late.start()
        return asked


class AsideRun(CellRun):
    """One execution of a cell beside others; it has to be opened before it is run, and committed afterwards.

    Attributes:
        settle: Called when the names are about to be bound; makes way, and returns those that others have bound
            meanwhile. It raises if nobody wants the names any more.
        own: What the body made for the names that others had bound anew meanwhile.
        abandoned: Whether it was left behind, since it did not end when it was told to.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.settle: Callable[[], frozenset[str]] = frozenset
        self.own: dict[str, Any] = {}
        self.abandoned = False
        self._announced: current.Call | None = None
        self._by_record = False
        self._start: dict[str, Any] = {}

    @property
    def counts(self) -> bool:
        """Whether what came of it is to be remembered: not if it was cancelled."""
        return not self.abandoned and (self._announced is None or self._announced.cancel_reason is None)

    def _own_namespace(self) -> dict[str, Any]:
        return {}

    def announce(self, left: Callable[[], object]) -> current.Call:
        """Make the call that `run` will drive first, so that it can be told of, and cancelled, before it runs.

        Args:
            left: Called a moment after somebody has cancelled it, in case that it has not ended by then.
        """
        call = _Announced(self._spec(), self.session, current.current_call(), (), {})
        call.left = left
        self._announced = call
        return call

    def open(self, given: Mapping[str, Any]) -> None:
        """Take the notebook's names as they are now, those in `given` with these values.

        Raises:
            Unstorable: What the body changes in place cannot be copied.
        """
        self.namespace.update(self.shell.user_ns)
        self.namespace.update(given)
        self._by_record = self._copy_what_it_changes() or _makes_code(self.cell)
        self._start = dict(self.namespace)
        self.refused = self.keyer.refusal()

    def _copy_what_it_changes(self) -> bool:
        """Put copies in the place of inputs that the body visibly changes, and of all that shares objects with them."""
        namespace = self.namespace
        names = [name for name in self.keyer.input_names() if name in namespace]
        data = {n: namespace[n] for n in names if not isinstance(namespace[n], (type, FunctionType, ModuleType))}
        chosen = [n for n, value in data.items() if n in self.cell.effects.mutated and type(value) not in ATOMS]
        if not chosen:
            return False
        parts = {name: Heap({name: value}).identities() for name, value in data.items()}
        touched = set[int]().union(*(parts[name] for name in chosen))
        while more := [name for name in data if name not in chosen and not touched.isdisjoint(parts[name])]:
            chosen += more
            touched.update(*(parts[name] for name in more))
        values = {name: data[name] for name in chosen}
        copies = Record()
        copies.packed = _own_buffers(LiveOutputs(values, Heap({}), [], self.shell.user_ns).dump(None))
        copies.restore(namespace, frozenset())
        return True

    def would_hit(self) -> bool:
        """Whether the cache has what this run would make; to be asked once it is open."""
        settings, store = self.session.settings, self.session.cache_store
        if not self.caching or self._force or settings.force:
            return False
        spec = self._spec()
        key = self.keyer.key({})
        key = key._replace(digest=key.digest + spec.key_suffix(settings.cache_readonly))
        if spec.cache == "session":
            key = key._replace(scope="session")
        _, found = trace.fetch(store, key, ttl=spec.cache_ttl if spec.cache_ttl is not None else settings.cache_ttl)
        record = found.value if found is not None else None
        return isinstance(record, Record) and record.packed is not None and self._conditions_hold(record)

    # -- running

    def run(self) -> Any:
        """Run or restore a cell without top-level `await`, bind its names, and return its last value."""
        __tracebackhide__ = True
        super().run()
        return self._commit()

    async def run_async(self) -> Any:
        """Run or restore a cell with top-level `await`, bind its names, and return its last value."""
        __tracebackhide__ = True
        await super().run_async()
        return self._commit()

    def _next_call(self) -> current.Call:
        announced = self._announced
        return announced if announced is not None and announced.started is None else super()._next_call()

    def _body(self) -> Record:
        __tracebackhide__ = True
        self._map_inputs()
        return self._to_bring_back(super()._body())

    async def _body_async(self) -> Record:
        __tracebackhide__ = True
        self._map_inputs()
        with self._recording() as recorder:
            # An interrupt is for the cell in front; this one ends by being cancelled.
            value = await bridged(self._execute_async)
        return self._to_bring_back(self._made(recorder, value))

    def _map_inputs(self) -> None:
        if self._by_record and not self.caching:
            self.keyer.key({})  # the record refers to inputs by the ways that are found here

    def _to_bring_back(self, record: Record) -> Record:
        if self._by_record and record.live is None:
            record.live = self._outputs
        return record

    def _flush(self, recorder: Recorder) -> None:
        """Figures that are open belong to the cell in front."""

    def _made(self, recorder: Recorder, value: Any) -> Record:
        record = super()._made(recorder, value)
        if record.random and (self.seeded or self.cell.seeds) and record.live is not None:
            record.refused = (
                "it ran beside others, and the state of a random generator that all share changed meanwhile"
            )
        # Who drew what cannot be told; without a seed it means nothing either.
        record.random, record.random_before = {}, {}
        return record

    def _restore(self, record: Record) -> None:
        self.overtaken = self.settle()
        self.own = self._bring_back(record, self.overtaken)
        self._replay(record)

    def _show_held(self, record: Record) -> None:
        replay(self.shell, record.held)

    # -- the end

    def _commit(self) -> Any:
        """Bind the names in the notebook, except those that were bound anew meanwhile; for a hit that is done already.

        Returns:
            The last value.
        """
        record = self.record
        assert record is not None
        if self.restored:
            return record.value
        self.overtaken = kept = self.settle()
        present = self.namespace
        self.own = {name: present[name] for name in kept if name in present}
        made = [n for n, value in present.items() if self._start.get(n, _MISSING) is not value]
        gone = [name for name in self._start if name not in present]
        if self._by_record:
            try:
                made = self._end_as_hit(record, made)
            except Exception as error:
                self._tell(f"its functions and objects are those of its own run, apart from the notebook: {error}")
        target = self.shell.user_ns
        for name in made:
            if name not in kept and name not in _OF_THE_SHELL:
                target[name] = present[name]
        for name in gone:
            if name not in kept:
                target.pop(name, None)
        return record.value

    def _end_as_hit(self, record: Record, made: list[str]) -> list[str]:
        """Bring the record back as a hit does, and return the names that it does not have."""
        refused, record.refused = record.refused, None  # that it must not be stored does not matter here
        try:
            record.pack()
            assert record.packed is not None
            moved = {way[0] for way, _ in record.packed.ways} & self.overtaken
            if moved:
                raise LookupError(f"`{min(moved)}` was bound anew meanwhile")
            self.own |= self._bring_back(record, self.overtaken)
        finally:
            record.refused = refused or record.refused
        stored = self.cell.effects.outputs if self.options.outputs is None else self.options.outputs
        return [name for name in made if name not in stored and name not in self.cell.defined]

    def release(self) -> None:
        """Let go of all values."""
        super().release()
        self.namespace = self.keyer.namespace = self._start = {}


def _own_buffers(packed: Packed) -> Packed:
    """Return a record's values with buffers of their own, so that what is loaded shares no memory with others."""

    def copied(stream: tuple[bytes, list[Any]]) -> tuple[bytes, list[Any]]:
        return stream[0], [bytearray(buffer.raw()) for buffer in stream[1]]

    return Packed(packed.ways, [copied(each) for each in packed.carriers], copied(packed.main))


def reached(names: Iterable[str], namespace: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Return the names and their values, and those that the notebook's functions among them reach, each once."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in namespace:
            continue
        seen.add(name)
        value = namespace[name]
        yield name, value
        function = getattr(value, "__wrapped__", value) if not isinstance(value, type) else value
        functions = [function, *vars(function).values()] if isinstance(function, type) else [function]
        codes = [
            each.__code__ for each in functions if isinstance(each, FunctionType) and each.__module__ == "__main__"
        ]
        while codes:
            code = codes.pop()
            waiting.extend(code.co_names)
            codes.extend(each for each in code.co_consts if isinstance(each, type(code)))


def unfit(cell: Cell, names: Iterable[str], namespace: Mapping[str, Any]) -> str | None:
    """Say why a cell cannot run beside others, or None if it can.

    Args:
        cell: The cell.
        names: What it reads.
        namespace: The notebook's.
    """
    for node in ast.walk(ast.parse(cell.shown)):
        if isinstance(node, ast.Attribute):
            if node.attr in ("run_line_magic", "run_cell_magic") and "get_ipython" in ast.unparse(node.value):
                return "magics work on the shell, which is busy with other cells; put them into another cell"
            if node.attr in _PLOTTING and _is_of_pandas(node.value, namespace):
                return _pyplot_is_shared(f".{node.attr}()")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found = _PYPLOT.intersection(_modules(node))
            if found:
                return _pyplot_is_shared(min(found))
    if "input" in cell.effects.builtin_reads and "input" not in namespace:
        return "input() could not be asked below it; ask in another cell, and use the answer here"
    for name, value in reached(names, namespace):
        if isinstance(value, ModuleType) and value.__name__ in _PYPLOT:
            return _pyplot_is_shared(f"`{name}`")
    return None


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Return what an import may name: modules, and members that may be modules."""
    names = [alias.name for alias in node.names]
    return names if isinstance(node, ast.Import) else [str(node.module), *(f"{node.module}.{name}" for name in names)]


def _is_of_pandas(node: ast.AST, namespace: Mapping[str, Any]) -> bool:
    """Whether an object may be pandas', whose methods draw by pyplot; `ax.plot` of a figure of one's own does not."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    if not isinstance(node, ast.Name) or "pandas" not in sys.modules:
        return False
    if node.id in namespace:
        return package_of(type(namespace[node.id])) == "pandas"
    return not node.id.lower().startswith("ax")


def _pyplot_is_shared(what: str) -> str:
    return f"{what} draws on pyplot's current figure, of which the kernel has one; draw on a matplotlib.figure.Figure"


def _makes_code(cell: Cell) -> bool:
    """Whether a cell makes functions or classes that may outlive it; a lambda that is an argument does not count."""
    waiting: list[ast.AST] = [ast.parse(cell.shown)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            return True
        children = ast.iter_child_nodes(node)
        waiting += [each for each in children if not (isinstance(node, ast.Call) and isinstance(each, ast.Lambda))]
    return False
