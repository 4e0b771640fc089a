"""The graph of cells: edges, order, staleness and its words, from hand-made nodes."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

import pytest

from nbflow.cache.key import CacheKey, KeyPart
from nbflow.notebook.cells import Cell, CellOptions
from nbflow.notebook.graph import CellNode, Graph, describe_changes, name_for
from nbflow.notebook.names import find_effects


def cell(source: str, label: str = "cell 1") -> Cell:
    code = compile("", "x", "exec")
    effects = find_effects(ast.parse(source).body)
    nothing: frozenset[Any] = frozenset()
    return Cell(source, "x", label, effects, "", code, None, [], nothing, nothing, False, 0, nothing)


def key(**inputs: Any) -> CacheKey:
    parts = tuple(KeyPart("input", name, str(value), str(value)) for name, value in inputs.items())
    return CacheKey("".join(part.digest for part in parts), "t", "disk", parts)


def node(name: str, source: str, **inputs: Any) -> CellNode:
    return CellNode(name, f"cell of {name}", cell(source), CellOptions(), key=key(**inputs))


def graph_of(*nodes: CellNode) -> Graph:
    graph = Graph()
    for each in nodes:
        graph.ran(each)
    return graph


def names(nodes: list[CellNode]) -> str:
    return " ".join(each.name for each in nodes)


def test_edges_lead_from_the_last_writer_before_the_reader() -> None:
    """Where several cells write a name, the one executed last before the reader counts."""
    make, change, read = node("make", "df = 1"), node("change", "df['x'] = 1"), node("read", "y = df")
    graph = graph_of(make, change, read)
    assert names(graph.sources(change)) == "make"
    assert names(graph.sources(read)) == "change"
    graph.ran(make)
    assert names(graph.sources(change)) == "make"
    assert names(graph.sources(read)) == "change"


def test_what_cells_change_in_turn_is_from_elsewhere() -> None:
    """A counter of a plain cell, or of a module, makes no circle of the cells that count it up."""
    first, second = node("first", "c.append(1)", c=1), node("second", "c.append(2)", c=2)
    graph = graph_of(first, second)
    assert names(graph.sources(first)) == ""
    assert names(graph.sources(second)) == "first"
    assert graph.cycles() == []


def test_order_follows_edges_and_then_execution() -> None:
    """A cell comes after those it reads from even if it was first executed before them; cycles are cut."""
    graph = graph_of(node("last", "z = y"), node("other", "o = 1"), node("middle", "y = x"), node("first", "x = 1"))
    assert names(graph.in_order()) == "first middle last other"
    assert names(graph.in_order(["last", "first"])) == "first last"
    cyclic = graph_of(node("a", "x = y"), node("b", "y = x"))
    assert sorted(names(cyclic.in_order()).split()) == ["a", "b"]


def test_staleness_spreads_along_edges() -> None:
    """A cell is stale when its own key would change, or when a cell that it reads from is stale."""
    graph = graph_of(node("a", "x = k", k=1), node("b", "y = x", x=1), node("c", "z = 1"))
    now = {"a": key(k=2), "b": key(x=1), "c": key()}
    assert graph.stale(lambda each: now[each.name]) == {
        "a": "input `k` 1 → 2",
        "b": "reads from stale `a` (cell of a)",
    }
    now["a"] = key(k=1)
    assert graph.stale(lambda each: now[each.name]) == {}


def test_failed_cells_are_stale() -> None:
    """A cell that failed would run again, and so would what reads from it."""
    failed = node("a", "x = 1")
    failed.state = "failed"
    graph = graph_of(failed, node("b", "y = x", x=1))
    assert list(graph.stale(lambda each: each.key)) == ["a", "b"]


def test_what_a_cell_did_to_its_own_input_is_no_change() -> None:
    """`acc += 1` does not make itself stale; somebody else changing `acc` does."""
    counted = node("a", "acc += 1", acc=0)
    counted.after = {"acc": "1"}
    graph = graph_of(counted)
    assert graph.stale(lambda each: key(acc=1)) == {}
    assert graph.stale(lambda each: key(acc=5)) == {"a": "input `acc` 0 → 5"}


def test_a_rerun_replaces_the_node() -> None:
    """One node for each name; the writers are those of the last run."""
    graph = graph_of(node("a", "x = 1"), node("b", "x = 2"))
    assert graph.writers["x"] == "cell of b"
    graph.ran(node("a", "x = 3"))
    assert len(graph.nodes) == 2
    assert graph.writers["x"] == "cell of a"


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["input `a` 1 → 2"]),
        ({"a": 1}, {"a": 1, "b": 2}, ["input `b` is new"]),
        ({"a": 1}, {}, ["input `a` is gone"]),
    ],
)
def test_changes_in_words(before: dict[str, int], now: dict[str, int], words: list[str]) -> None:
    """Changed, new and gone parts are named."""
    assert describe_changes(key(**before).parts, key(**now).parts) == words


def test_names_of_cells() -> None:
    """A given name stays; else the first that is bound or else changed; cells of other ids get a number."""
    one = cell("_ = 1\nmade = 2", "cell 7")
    assert name_for(one, CellOptions(name="given"), None, {}) == "given"
    assert name_for(one, CellOptions(), None, {}) == "made"
    assert name_for(cell("print(1)", "cell 7"), CellOptions(), None, {}) == "print(1)"
    assert name_for(cell("history = model.fit(1)"), CellOptions(), None, {}) == "history"
    assert name_for(cell("model.fit(1)"), CellOptions(), None, {}) == "model"
    known = {"made": node("made", "made = 1")}
    known["made"].cell_id = "id-1"
    assert name_for(one, CellOptions(), "id-1", known) == "made"
    assert name_for(one, CellOptions(), "id-2", known) == "made (2)"
    assert name_for(one, CellOptions(), None, known) == "made (2)", "it binds other names, so it is another cell"
    assert name_for(cell("made = 9"), CellOptions(), None, known) == "made"


def test_an_edited_cell_replaces_itself() -> None:
    """A cell of the same id under another name takes the place of the old one."""
    before, after = node("x", "x = 1"), node("y", "y = 1")
    before.cell_id = after.cell_id = "id"
    assert list(graph_of(before, after).nodes) == ["y"]


def test_what_cells_further_down_changed_is_no_reason() -> None:
    """A value that a later cell changed in place makes no earlier reader stale; a new run of its source does."""
    make, read, change = node("make", "df = load()"), node("read", "y = df", df=1), node("change", "df['x'] = 1", df=1)
    change.after = {"df": "2"}
    graph = graph_of(make, read, change)
    now = {"make": key(), "read": key(df=2), "change": key(df=2)}
    assert graph.overtaken(read) == ["df"]
    assert graph.stale(lambda each: now[each.name]) == {}
    anew = node("make", "df = load()", path="other")
    graph.ran(anew)
    now["make"] = key(path="other")
    graph.ran(change)
    reasons = graph.stale(lambda each: now[each.name])
    assert reasons == {"read": "reads `df` from `make`, which has run anew (cell of make)"}


def test_a_plan_brings_values_back_first() -> None:
    """To run a reader of a value that was changed since, its source runs first and the change again after."""
    graph = graph_of(
        node("make", "df = 1"), node("read", "y = df"), node("change", "df['x'] = 1"), node("other", "z = 1")
    )
    nodes, for_others = graph.plan(["read"])
    assert names(nodes) == "make read change"
    assert for_others == {"make", "change"}
    nodes, for_others = graph.plan(["other"])
    assert (names(nodes), for_others) == ("other", set())


def test_circles_are_found_and_not_followed() -> None:
    """Cells that read from each other are one group; order and staleness still come out."""
    graph = graph_of(node("a", "a = c"), node("b", "b = a"), node("c", "c = b"), node("d", "d = c"))
    assert graph.cycles() == [["a", "b", "c"]]
    assert len(graph.in_order()) == 4
    assert graph_of(node("a", "a = 1"), node("b", "b = a")).cycles() == []


def test_cells_that_bind_the_same_name_are_rivals() -> None:
    """A name that two cells bind is reported with both; one that a cell only changes is not."""
    graph = graph_of(node("a", "x = 1"), node("b", "x = 2"), node("c", "y = []"), node("d", "y += [1]"))
    assert {name: names(nodes) for name, nodes in graph.rivals().items()} == {"x": "a b"}


def test_cells_that_need_the_same_are_no_rivals() -> None:
    """The same import and the variable of a loop make no difference; another import and a variable that is read do."""

    def told(*nodes: CellNode) -> dict[str, str]:
        return {name: names(cells) for name, cells in graph_of(*nodes).rivals().items()}

    def importing(name: str, source: str, module: str) -> CellNode:
        found = node(name, source)
        return replace(found, cell=replace(found.cell, imported=(("np", (module, "")),)))

    same = [importing(name, "import numpy as np", "numpy") for name in "ab"]
    assert told(*same) == {}
    assert told(*same, importing("c", "import jax.numpy as np", "jax.numpy")) == {"np": "a b c"}
    assert told(*same, node("c", "np = 1")) == {"np": "a b c"}
    loops = [node("a", "for i in data: print(i)"), node("b", "for i in data: print(i)")]
    assert told(*loops) == {}
    assert told(*loops, node("c", "last = i")) == {"i": "a b"}
