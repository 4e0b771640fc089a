"""The cells of a notebook as a graph through the names they read and write.

An edge leads from the cell that writes a name to the cell that reads it; where several cells write it, the one that
was executed last before the reader counts. A cell is *stale* when its key would differ from that of its last run, or
when a cell that it reads from is stale. The graph holds no values: keys as of now come in from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbflow.cache.explain import differences
from nbflow.cache.key import CacheKey, KeyPart
from nbflow.notebook.cells import Cell, CellOptions

__all__ = ["CellNode", "Graph", "describe_changes", "name_for"]


@dataclass(slots=True, eq=False)
class CellNode:
    """A `%%task` cell and its last run.

    Attributes:
        name: What it is kept under; `label` says where ("cell 4"); `cell_id` is the front end's own id, if any.
        state: fresh (computed), cached (restored), uncached (computed, cannot be or is not to be stored), failed.
        order: Position in the order of execution, growing.
        last_run: Wall-clock time of the end of the last run, seconds since the epoch.
        duration_s: Seconds it took.
        saved_s: Seconds that the cache saved so far; `runs` counts runs and restores.
        key: The key of the last run, None where none was made.
        after: Digests that inputs had after the cell itself changed them.
        reason: Why the body ran, or why it could not be stored, in words.
    """

    name: str
    label: str
    cell: Cell
    options: CellOptions
    cell_id: str | None = None
    state: str = "fresh"
    order: int = 0
    last_run: float = 0.0
    duration_s: float = 0.0
    saved_s: float = 0.0
    runs: int = 0
    key: CacheKey | None = None
    after: dict[str, str | None] = field(default_factory=dict)
    reason: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """Names it depends on."""
        return self.cell.effects.inputs if self.options.inputs is None else self.options.inputs

    @property
    def writes(self) -> tuple[str, ...]:
        """Names it binds or changes."""
        outputs = self.cell.effects.outputs
        return (
            outputs
            if self.options.outputs is None
            else tuple(dict.fromkeys((*self.options.outputs, *self.cell.defined)))
        )


class Graph:
    """All `%%task` cells of a notebook, by name, and who wrote a name last (plain cells included)."""

    def __init__(self) -> None:
        self.nodes: dict[str, CellNode] = {}
        self.writers: dict[str, str] = {}
        self._order = 0

    def ran(self, node: CellNode) -> None:
        """Note that `node` was executed (or restored) just now, in place of an older one of that name."""
        self._order += 1
        node.order = self._order
        self.nodes[node.name] = node
        self.wrote(node.label, node.writes)

    def wrote(self, label: str, names: Iterable[str]) -> None:
        """Note that the cell of that label bound or changed `names`."""
        for name in names:
            self.writers[name] = label

    def sources(self, node: CellNode) -> list[CellNode]:
        """Return the cells that `node` reads from, each once."""
        found: dict[str, CellNode] = {}
        for name in node.reads:
            writers = [each for each in self.nodes.values() if each is not node and name in each.writes]
            earlier = [each for each in writers if each.order < node.order]
            if writers:
                writer = max(earlier or writers, key=lambda each: each.order)
                found[writer.name] = writer
        return list(found.values())

    def in_order(self, names: Iterable[str] | None = None) -> list[CellNode]:
        """Return cells so that each comes after those it reads from, otherwise in the order of execution.

        Args:
            names: Which cells; None for all.
        """
        wanted = set(self.nodes if names is None else names)
        done: dict[str, CellNode] = {}
        visiting: set[str] = set()

        def visit(node: CellNode) -> None:
            if node.name in done or node.name in visiting:
                return
            visiting.add(node.name)  # a cycle is cut where it was entered first: at the cell executed first
            for source in sorted(self.sources(node), key=lambda each: each.order):
                visit(source)
            done[node.name] = node

        for node in sorted(self.nodes.values(), key=lambda each: each.order):
            visit(node)
        return [node for node in done.values() if node.name in wanted]

    def stale(self, key_now: Callable[[CellNode], CacheKey | None]) -> dict[str, str]:
        """Return the stale cells with the reason for each, in dependency order.

        Args:
            key_now: Makes the key that a cell would have if it ran now.
        """
        found: dict[str, str] = {}
        for node in self.in_order():
            reason = self.reason(node, key_now)
            if reason is None:
                reason = next(
                    (f"reads from stale `{s.name}` ({s.label})" for s in self.sources(node) if s.name in found), None
                )
            if reason is not None:
                found[node.name] = reason
        return found

    def reason(self, node: CellNode, key_now: Callable[[CellNode], CacheKey | None]) -> str | None:
        """Return why `node` itself would run again, or None if nothing it depends on has changed."""
        if node.state == "failed":
            return "failed"
        if node.key is None:
            return None
        now = key_now(node)
        if now is None:
            return None
        changes = describe_changes(node.key.parts, now.parts, node.after)
        return "; ".join(changes) if changes else None


def describe_changes(
    before: Sequence[KeyPart], now: Sequence[KeyPart], after: Mapping[str, str | None] | None = None
) -> list[str]:
    """Say in words what differs between the parts of two keys, code first.

    Args:
        before: Parts of the older key.
        now: Parts of the newer one.
        after: Digests of inputs that the older run itself left behind (None: unknown); those do not count as changes.
    """
    left = after or {}
    own = {
        part.name
        for part in now
        if part.kind == "input" and part.name in left and left[part.name] in (part.digest, None)
    }
    return differences(
        *([part for part in parts if part.kind != "input" or part.name not in own] for parts in (now, before))
    )


def name_for(cell: Cell, options: CellOptions, cell_id: str | None, nodes: Mapping[str, Any]) -> str:
    """Return the name to keep a cell under: as given, or its own, numbered if another cell has that already."""
    if options.name is not None:
        return options.name
    base = cell.default_name()
    name, number = base, 1
    while (known := nodes.get(name)) is not None and cell_id is not None and known.cell_id not in (None, cell_id):
        number += 1
        name = f"{base} ({number})"
    return name
