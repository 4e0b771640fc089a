"""The order of `%flow run -j N`: what may start when, what is left out, and which cells go alone."""

from __future__ import annotations

import random
from typing import Any

import pytest

from nbflow.notebook.parallel import Place, Start, Wait, schedule


def place(name: str, reads: str = "", writes: str | None = None, *, alone: bool = False) -> Place:
    """Make a place; without `writes` it binds its own name."""
    return Place(name, frozenset(reads.split()), frozenset((name if writes is None else writes).split()), alone)


def drive(places: list[Place], width: int, *, failing: str = "", seed: int = 0) -> list[list[str]]:
    """Follow a schedule, ending running cells in random order; return what ran beside what, at each start."""
    steps, chance = schedule(places, width), random.Random(seed)
    beside: list[list[str]] = []
    reply: Any = None
    while True:
        try:
            step = steps.send(reply)
        except StopIteration:
            return beside
        if isinstance(step, Start):
            beside.append([step.place.name, *(each.name for each in places if each.state == "running")])
            reply = True
        else:
            assert isinstance(step, Wait)
            ended = chance.choice(step.places)
            reply = {ended: ended.name not in failing.split()}


def test_independent_cells_run_beside_each_other_up_to_the_width() -> None:
    """As many as allowed run at a time, and no more."""
    places = [place(name) for name in "abcd"]
    beside = drive(places, 2)
    assert [len(names) for names in beside] == [1, 2, 2, 2]


def test_a_reader_waits_for_its_writer_and_a_writer_for_its_readers() -> None:
    """What binds a name neither runs beside what reads it later, nor beside what reads it before."""
    places = [place("a"), place("b", "a"), place("c", "", "a"), place("d", "a")]
    assert [names[0] for names in drive(places, 4)] == ["a", "b", "c", "d"]
    assert all(
        len(names) == 1 for names in drive([place(e.name, " ".join(e.reads), " ".join(e.writes)) for e in places], 4)
    )


def test_names_that_nobody_reads_do_not_hold_cells_apart() -> None:
    """Two cells with the same loop variable may run beside each other."""
    beside = drive([place("a", "", "a i"), place("b", "", "b i")], 2)
    assert beside[1] == ["b", "a"]


def test_cells_that_go_alone() -> None:
    """Nothing runs beside such a cell, and the order of the plan holds around it."""
    beside = drive([place("a"), place("b"), place("c", alone=True), place("d")], 4)
    assert beside[2] == ["c"]
    assert beside[3] == ["d"]


def test_a_failure_stops_what_depends_on_it_and_nothing_else() -> None:
    """Cells behind the failed one are left out, directly or not; others run."""
    places = [place("a"), place("b", "a"), place("c", "b"), place("d")]
    drive(places, 2, failing="a")
    assert [(each.name, each.state, each.left_for) for each in places] == [
        ("a", "failed", None),
        ("b", "left", "a"),
        ("c", "left", "b"),
        ("d", "ended", None),
    ]


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs_respect_every_dependency(seed: int) -> None:
    """Whatever the graph and the order of endings: all run, and none beside a cell that it has to do with."""
    chance = random.Random(seed)
    names = [f"c{number}" for number in range(12)]
    places = [
        place(name, " ".join(chance.sample(names[:k], min(k, chance.randrange(3)))), alone=chance.random() < 0.1)
        for k, name in enumerate(names)
    ]
    by_name = {each.name: each for each in places}
    for first, *others in drive(places, 4, seed=seed):
        assert len(others) < 4
        for other in others:
            early, late = sorted((by_name[first], by_name[other]), key=places.index)
            assert not late.follows(early)
    assert {each.state for each in places} == {"ended"}
