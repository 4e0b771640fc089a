"""The cells of a notebook as a graph through the names they read and write.

An edge leads from the cell that writes a name to the cell that reads it; where several cells write it, the last one
before the reader counts. A cell is *stale* when its key would differ from that of its last run, or
when a cell that it reads from is stale. The graph holds no values: keys as of now come in from outside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbflow.cache.explain import Reasons, differences
from nbflow.cache.key import CacheKey, KeyPart
from nbflow.notebook.cells import Cell, CellOptions

__all__ = ["CellNode", "Graph", "describe_changes", "name_for"]


@dataclass(slots=True, eq=False)
class CellNode:
    """A `%%task` cell and its last run.

    Attributes:
        name: What it is kept under; `label` says where ("cell 4"); `cell_id` is the front end's own id, if any.
        state: fresh (computed), cached (restored), uncached (computed, cannot be or is not to be stored), failed.
        position: Place among the cells in the order in which they were first executed.
        seen: Keys of the cells from which the last run read its inputs, by name of the input.
        last_run: Wall-clock time of the end of the last run, seconds since the epoch.
        duration_s: Seconds it took.
        saved_s: Seconds that the cache saved so far; `runs` counts runs and restores.
        key: The key of the last run, None where none was made.
        after: Digests that inputs had after the cell itself changed them.
        reason: Why the body ran, or why it could not be stored, in words.
        unsteady: An input that is another one each time it is looked at, such as a generator.
        draws: Whether it drew from a random generator that all cells share.
    """

    name: str
    label: str
    cell: Cell
    options: CellOptions
    cell_id: str | None = None
    state: str = "fresh"
    position: int = 0
    seen: dict[str, str] = field(default_factory=dict)
    last_run: float = 0.0
    duration_s: float = 0.0
    saved_s: float = 0.0
    runs: int = 0
    key: CacheKey | None = None
    after: dict[str, str | None] = field(default_factory=dict)
    reason: str | None = None
    unsteady: str | None = None
    draws: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        """Names it depends on, those included that only the functions it calls read and change."""
        names = self.cell.effects.inputs if self.options.inputs is None else self.options.inputs
        found = () if self.key is None else (part.name for part in self.key.parts if part.kind == "input")
        return tuple(dict.fromkeys((*names, *found)))

    @property
    def writes(self) -> tuple[str, ...]:
        """Names it binds or changes, those included that it was only seen to change."""
        outputs: tuple[str, ...] = self.cell.effects.outputs
        if self.options.outputs is not None:
            outputs = (*self.options.outputs, *self.cell.defined)
        return tuple(dict.fromkeys((*outputs, *self.after)))


class Graph:
    """All `%%task` cells of a notebook, by name, and who wrote a name last (plain cells included)."""

    def __init__(self) -> None:
        self.nodes: dict[str, CellNode] = {}
        self.writers: dict[str, str] = {}
        self._positions = 0

    def begins(self, node: CellNode) -> None:
        """Note that `node` begins: its place is that of its older self, else behind all that have begun before."""
        self._positions += 1
        older = [each.position for each in self.nodes.values() if each.name == node.name or _same_id(each, node)]
        node.position = min(older, default=self._positions)

    def ran(self, node: CellNode, *, left: Collection[str] = ()) -> None:
        """Note that `node` has been executed (or restored); it takes the place of its older self.

        Args:
            node: The cell.
            left: Names that it did not bind, as others have bound them meanwhile.
        """
        if not node.position:
            self.begins(node)
        for each in [each for each in self.nodes.values() if each.name == node.name or _same_id(each, node)]:
            del self.nodes[each.name]
        self.nodes[node.name] = node
        sources = {name: self.source(node, name) for name in node.reads}
        node.seen = {name: _key_of(source) for name, source in sources.items() if source is not None}
        self.wrote(node.label, [name for name in node.writes if name not in left])

    def wrote(self, label: str, names: Iterable[str]) -> None:
        """Note that the cell of that label bound or changed `names`."""
        for name in names:
            self.writers[name] = label

    def source(self, node: CellNode, name: str) -> CellNode | None:
        """Return the cell from which `node` reads `name`: the last writer before it, else the last of all.

        What a cell changes that none before it has written is from elsewhere: a plain cell, or a module.
        """
        writers = [each for each in self.nodes.values() if each is not node and name in each.writes]
        before = [each for each in writers if each.position < node.position]
        if not before and name in node.writes:
            return None
        return max(before or writers, key=lambda each: each.position, default=None)

    def sources(self, node: CellNode) -> list[CellNode]:
        """Return the cells that `node` reads from, each once, first ones first."""
        found = {id(source): source for name in node.reads if (source := self.source(node, name)) is not None}
        return sorted(found.values(), key=lambda each: each.position)

    def in_order(self, names: Iterable[str] | None = None) -> list[CellNode]:
        """Return cells so that each comes after those it reads from, otherwise in the order of the notebook.

        Args:
            names: Which cells; None for all.
        """
        wanted = set(self.nodes if names is None else names)
        done: dict[str, CellNode] = {}
        visiting: set[str] = set()

        def visit(node: CellNode) -> None:
            if node.name in done or node.name in visiting:
                return
            visiting.add(node.name)  # a cycle is cut where it was entered first: at its first cell
            for source in self.sources(node):
                visit(source)
            done[node.name] = node

        for node in sorted(self.nodes.values(), key=lambda each: each.position):
            visit(node)
        return [node for node in done.values() if node.name in wanted]

    def cycles(self) -> list[list[str]]:
        """Return the groups of cells that read from each other in a circle, each in the order of the notebook.

        They are the strongly connected components of the graph (the algorithm of Tarjan, 1972).
        """
        number: dict[str, int] = {}
        lowest: dict[str, int] = {}
        stack: list[str] = []
        found: list[list[str]] = []

        def visit(node: CellNode) -> None:
            name = node.name
            number[name] = lowest[name] = len(number)
            stack.append(name)
            for source in self.sources(node):
                if source.name not in number:
                    visit(source)
                if source.name in stack:
                    lowest[name] = min(lowest[name], lowest[source.name])
            if lowest[name] == number[name]:
                start = stack.index(name)
                members, stack[start:] = stack[start:], []
                if len(members) > 1:
                    found.append(sorted(members, key=lambda each: self.nodes[each].position))

        for node in self.nodes.values():
            if node.name not in number:
                visit(node)
        return found

    def rivals(self) -> dict[str, list[CellNode]]:
        """Return the names that several cells bind, with these cells; the one that was executed last counts.

        It makes no difference which one that is where all import the same, or where nobody reads what may be unbound
        afterwards, such as the variable of a loop.
        """
        found: dict[str, list[CellNode]] = {}
        origins: dict[str, set[object]] = {}
        matter: set[str] = set()
        for node in self.nodes.values():
            effects, imported = node.cell.effects, dict(node.cell.imported)
            matter |= effects.certain.union(node.reads)
            for name in effects.outputs:
                if name not in node.reads:
                    found.setdefault(name, []).append(node)
                    origins.setdefault(name, set()).add(imported.get(name, node.name))
        return {name: nodes for name, nodes in found.items() if name in matter and len(origins[name]) > 1}

    def overtaken(self, node: CellNode) -> list[str]:
        """Return the inputs of `node` that a later cell has changed since: their present values tell nothing."""
        labels = {each.label: each.position for each in self.nodes.values()}
        return [name for name in node.reads if labels.get(self.writers.get(name, ""), 0) > node.position]

    def stale(self, key_now: Callable[[CellNode], CacheKey | None]) -> dict[str, str]:
        """Return the stale cells with the reason for each, in dependency order.

        Args:
            key_now: Makes the key that a cell would have if it ran now.
        """
        found: dict[str, str] = {}
        for node in self.in_order():
            stale = [source for source in self.sources(node) if source.name in found]
            reason = self.reason(node, key_now)
            if reason is None and stale:
                reason = f"reads from stale `{stale[0].name}` ({stale[0].label})"
            if reason is not None:
                found[node.name] = reason
        return found

    def reason(self, node: CellNode, key_now: Callable[[CellNode], CacheKey | None]) -> str | None:
        """Return why `node` itself would run again, or None if nothing it depends on has changed."""
        if node.state == "failed":
            return "failed"
        overtaken = self.overtaken(node)
        for name in overtaken:
            source = self.source(node, name)
            if source is not None and node.seen.get(name, "") != _key_of(source):
                return f"reads `{name}` from `{source.name}`, which has run anew ({source.label})"
        now = key_now(node) if node.key is not None else None
        if node.key is None or now is None:
            return None
        data = {part.name for part in node.key.parts if part.kind == "input"}
        own = (name for name in node.cell.effects.outputs if name not in data)  # code that the cell itself made anew
        changes = describe_changes(
            node.key.parts,
            now.parts,
            dict.fromkeys(own) | node.after | dict.fromkeys([*overtaken, node.unsteady or ""]),
        )
        return Reasons(changes) if changes else None

    def plan(self, names: Iterable[str]) -> tuple[list[CellNode], set[str]]:
        """Return what to run so that `names` run on the values that they read, in order.

        Some inputs are no longer what they were: cells further down, or the cell itself, have changed them in place.
        Then the cells that make them run first (restored from the cache as a rule), and all that change them after run
        once more.

        Returns:
            All cells concerned, and the names of those that are there only for the values of others.
        """
        wanted = set(names)
        chosen: set[str] = set(wanted)
        while True:
            more: set[str] = set()
            for node in [self.nodes[name] for name in chosen]:
                moved = {*self.overtaken(node), *(name for name in node.reads if name in node.writes)}
                more.update(source.name for name in moved if (source := self.source(node, name)) is not None)
                later = [each for each in self.nodes.values() if each.position > node.position]
                more.update(each.name for each in later if not set(node.writes).isdisjoint(each.writes))
            if more <= chosen:
                return self.in_order(chosen), chosen - wanted
            chosen |= more


def _same_id(one: CellNode, other: CellNode) -> bool:
    return one.cell_id is not None and one.cell_id == other.cell_id


def _key_of(node: CellNode) -> str:
    return "" if node.key is None else node.key.digest


def describe_changes(
    before: Sequence[KeyPart], now: Sequence[KeyPart], after: Mapping[str, str | None] | None = None
) -> list[str]:
    """Say in words what differs between the parts of two keys, code first.

    Args:
        before: Parts of the older key.
        now: Parts of the newer one.
        after: Digests of inputs that the older run itself left behind (None: unknown, and so is all that hangs on the
            name); those do not count as changes.
    """
    left = after or {}
    unknown = {name for name, digest in left.items() if digest is None}

    def counts(part: KeyPart) -> bool:
        if part.kind == "format" and left:  # which inputs are one object is no longer what it was then
            return False
        if part.kind == "input":
            return part.name not in own
        return re.split(r"[.#]", part.name)[0] not in unknown

    own = unknown | {part.name for part in now if part.kind == "input" and left.get(part.name) == part.digest}
    return differences(*([part for part in parts if counts(part)] for parts in (now, before)))


def name_for(cell: Cell, options: CellOptions, cell_id: str | None, nodes: Mapping[str, Any]) -> str:
    """Return the name to keep a cell under: as given, or its own, numbered if another cell has that already.

    Cells are told apart by the front end's ids; where there are none, by what they bind.
    """
    if options.name is not None:
        return options.name
    base = cell.default_name()
    name, number = base, 1
    while (known := nodes.get(name)) is not None:
        if cell_id is None or known.cell_id is None:
            same = known.cell.effects.outputs == cell.effects.outputs
        else:
            same = known.cell_id == cell_id
        if same:
            break
        number += 1
        name = f"{base} ({number})"
    return name
