"""The pictures of a workflow: complete SVG, every node and edge in it, legible however many there are."""

from __future__ import annotations

import re
import xml.etree.ElementTree as Tree
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nbflow.notebook.drawing import COLOURS, Bar, Box, Picture, draw_graph, draw_timeline

SVG = "{http://www.w3.org/2000/svg}"


def parsed(picture: Picture) -> Any:
    return Tree.fromstring(picture.svg)


def boxes(picture: Picture) -> dict[str, tuple[float, float]]:
    """Return where the nodes stand, by name."""
    found = {}
    for group in parsed(picture).iter(f"{SVG}g"):
        x, y = re.findall(r"[\d.]+", group.get("transform"))
        found[group.find(f"{SVG}title").text.split(" · ")[0]] = (float(x), float(y))
    return found


def chain(count: int) -> tuple[list[Box], dict[tuple[str, str], list[str]]]:
    names = [f"n{number}" for number in range(count)]
    edges = {(one, other): [one] for one, other in zip(names, names[1:], strict=False)}
    return [Box(name, "cell 1", "fresh") for name in names], edges


def test_readers_stand_to_the_right_of_what_they_read() -> None:
    """Every edge leads to the right, and no two nodes overlap."""
    nodes, edges = chain(4)
    edges["n0", "n3"] = ["n0"]
    found = boxes(draw_graph(nodes, edges))
    assert [found[f"n{number}"][0] for number in range(4)] == sorted({x for x, _ in found.values()})
    assert len(set(found.values())) == 4


def test_names_and_states_are_in_the_drawing_and_in_the_text() -> None:
    """Names are escaped, states are told in words, reasons on hover, and edges say which names flow."""
    nodes = [Box("a<b", "cell 2", "fresh"), Box("c", "cell 3", "stale", "input `x` changed")]
    picture = draw_graph(nodes, {("a<b", "c"): ["x", "y"]}, "1 stale")
    texts = ["".join(each.itertext()) for each in parsed(picture).iter(f"{SVG}text")]
    assert any("a<b" in text for text in texts)
    assert any("↻ stale" in text for text in texts)
    titles = [each.text for each in parsed(picture).iter(f"{SVG}title")]
    assert "a<b → c: x, y" in titles
    assert "c · cell 3 · stale · input `x` changed" in titles
    assert "← a<b (x, y)" in repr(picture)
    assert repr(picture).endswith("1 stale")


def test_a_circle_is_drawn_dashed_and_ends() -> None:
    """Of a cycle all nodes and edges are drawn; the one that closes it is marked."""
    nodes, edges = chain(3)
    edges["n2", "n0"] = ["n2"]
    picture = draw_graph(nodes, edges)
    paths = [each for each in parsed(picture).iter(f"{SVG}path") if each.find(f"{SVG}title") is not None]
    assert len(paths) == 3
    assert [each.find(f"{SVG}title").text for each in paths if each.get("stroke-dasharray")] == [
        "n2 → n0: n2 (a cycle)"
    ]


def test_the_stale_part_stands_out() -> None:
    """Stale boxes are dashed, and so drawn in their colour are the edges that lead from stale to stale, no others."""
    nodes = [Box("a", "", "fresh"), Box("b", "", "stale"), Box("c", "", "stale")]
    picture = draw_graph(nodes, {("a", "b"): ["a"], ("b", "c"): ["b"]})
    edges = [each for each in parsed(picture).iter(f"{SVG}path") if each.find(f"{SVG}title") is not None]
    assert [each.get("stroke") for each in edges] == ["currentColor", COLOURS["stale"]]
    dashed = [each for each in parsed(picture).iter(f"{SVG}rect") if each.get("stroke-dasharray")]
    assert len(dashed) == 2


def test_cells_without_edges_stand_in_rows_below() -> None:
    """They do not make the columns of the others higher."""
    nodes, edges = chain(3)
    found = boxes(draw_graph([*nodes, *(Box(f"lone{number}", "", "fresh") for number in range(8))], edges))
    alone = {place for name, place in found.items() if name.startswith("lone")}
    assert len(alone) == 8
    assert min(y for _, y in alone) > max(found[f"n{number}"][1] for number in range(3))
    assert len({y for _, y in alone}) == 2


def test_two_hundred_cells_stay_legible() -> None:
    """Boxes are single lines of one size and do not overlap; the drawing scrolls, and says what its icons mean."""
    nodes, edges = chain(200)
    for number in range(0, 190, 3):
        edges[f"n{number}", f"n{number + 7}"] = ["x"]
    picture = draw_graph(nodes, edges)
    found = boxes(picture)
    assert len(found) == 200
    assert len(set(found.values())) == 200
    rows = {y for _, y in found.values()}
    assert min(one - other for one in rows for other in rows if one > other) >= 6
    assert repr(picture).endswith("✓ fresh")
    assert "overflow:auto" in picture._repr_html_()


def test_nothing_to_draw_is_said() -> None:
    """Without cells or calls there are words instead of an empty picture."""
    assert "no task cell" in repr(draw_graph([], {}))
    assert "Nothing has run" in draw_timeline([])._repr_html_()


edges_among = st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=40)


@given(edges_among)
def test_any_graph_is_drawn_whole(pairs: set[tuple[int, int]]) -> None:
    """Whatever the edges, also circles and loops onto itself: each node and each edge is there once."""
    nodes = [Box(f"n{number}", "", "fresh") for number in range(12)]
    edges = {(f"n{one}", f"n{other}"): ["x"] for one, other in pairs}
    picture = draw_graph(nodes, edges)
    assert len(boxes(picture)) == len(set(boxes(picture).values())) == 12
    assert len([each for each in parsed(picture).iter(f"{SVG}path") if each.find(f"{SVG}title") is not None]) == len(
        pairs
    )


def test_a_map_of_many_items_is_a_small_drawing() -> None:
    """Bars on the same pixels are drawn as one, and the sum of them is told."""
    items = [Bar("fit", number * 0.001, number * 0.001 + 0.001, "fresh", f"fit[{number}]") for number in range(10_000)]
    picture = draw_timeline([*items, Bar("load", 0.0, 4.0, "cached")], "10,001 calls")
    assert len(picture.svg) < 10_000
    assert "fit: 10000 ran, 10.0 s in all" in picture.svg
    assert "10,001 calls" in repr(picture)


def test_a_timeline_of_two_hundred_rows_is_whole() -> None:
    """All rows are there, lower than those of a few, below the scale; and a legend says what the colours mean."""
    picture = draw_timeline([Bar(f"t{number}", number, number + 1.0, "fresh") for number in range(200)])
    bars = list(parsed(picture).iter(f"{SVG}rect"))
    assert len({each.get("y") for each in bars}) == 200
    assert "more rows" not in repr(picture) + picture.svg
    texts = ["".join(each.itertext()) for each in parsed(picture).iter(f"{SVG}text")]
    assert any("✓ fresh" in text for text in texts)


def test_the_timeline_keeps_order_and_lengths() -> None:
    """Rows come in the order of their first starts, bars are as long as what they stand for, and text says the same."""
    picture = draw_timeline([Bar("late", 5.0, 10.0, "failed"), Bar("early", 0.0, 2.5, "fresh")])
    bars = list(parsed(picture).iter(f"{SVG}rect"))
    assert [float(each.get("width")) for each in bars] == [160.0, 320.0]
    rows = repr(picture).splitlines()
    assert rows[0].startswith("early |██████████  ")
    assert rows[1].startswith("late  |                    ████████████████████|")
