"""Pictures of a workflow: which cell feeds which, and when what ran.

Both are plain SVG inside HTML, drawn here and complete in themselves: no script, no style sheet, no server, so they
look the same in a saved notebook. What they show comes in as simple rows; colours follow the page's own text colour,
and state is always told by a word and an icon too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import NamedTuple

from nbflow._util import format_duration

__all__ = ["COLOURS", "ICONS", "Bar", "Box", "Picture", "draw_graph", "draw_timeline"]

ICONS = {
    "fresh": "✓",
    "cached": "⚡",
    "stale": "↻",
    "failed": "✗",
    "uncached": "–",
    "running": "●",
    "waiting": "○",
    "cancelled": "◌",
}
COLOURS = {
    "fresh": "#2a9d6a",
    "cached": "#2b86c9",
    "stale": "#c98a00",
    "failed": "#cc3b3b",
    "uncached": "#888888",
    "running": "#7a5cc9",
    "waiting": "#7a5cc9",
    "cancelled": "#888888",
}


class _Size(NamedTuple):
    """How large things are drawn, in pixels; `chars` of a name fit into a box, `lane` is an edge that passes it."""

    wide: int
    high: int
    gap_x: int
    gap_y: int
    lane: int
    chars: int


_ROOMY = _Size(wide=168, high=40, gap_x=56, gap_y=14, lane=16, chars=19)
_DENSE = _Size(wide=132, high=20, gap_x=44, gap_y=6, lane=7, chars=16)
_MANY = 50  # boxes from which on they are drawn densely
_ACROSS = 6  # boxes without any edge stand side by side, so many at least
_FONT = "font-family:var(--jp-ui-font-family,system-ui,sans-serif)"
_SWEEPS = 6


class Picture:
    """A drawing with an HTML and a text face.

    Args:
        svg: The drawing.
        text: The same in words, for terminals and readers of the plain text.
        caption: A line below.
    """

    def __init__(self, svg: str, text: str, caption: str = "") -> None:
        self.svg = svg
        self.text = text
        self.caption = caption

    def __repr__(self) -> str:
        return "\n".join(part for part in (self.text, self.caption) if part)

    def _repr_html_(self) -> str:
        foot = f'<div style="opacity:.75;font-size:90%">{escape(self.caption)}</div>' if self.caption else ""
        body = self.svg or f"<i>{escape(self.text)}</i>"
        return f'<div style="max-height:640px;overflow:auto">{body}</div>{foot}'


@dataclass(frozen=True, slots=True)
class Box:
    """One node of a graph.

    Args:
        name: What it is called; unique.
        where: Where it is ("cell 4").
        state: One of `ICONS`.
        detail: More about it, shown on hover (why it is stale, how long it took).
    """

    name: str
    where: str
    state: str
    detail: str = ""


def draw_graph(boxes: Sequence[Box], edges: Mapping[tuple[str, str], Sequence[str]], caption: str = "") -> Picture:
    """Draw nodes and the names that flow between them, from left to right.

    Nodes stand in columns by their longest way from a source, an edge over several columns gets a lane of its own in
    those between, and inside a column all are ordered by the mean place of their neighbours, in a few sweeps to and
    fro (the layer-by-layer method of Sugiyama, Tagawa and Toda, 1981). An edge that would lead backwards closes a
    cycle and is drawn dashed; one from stale to stale has their colour. Nodes without edges stand in rows below. Many
    nodes are drawn as single lines, with their states as icons.

    Args:
        boxes: The nodes, in the order of the notebook.
        edges: Names that flow, by (source, target).
        caption: A line below.

    Returns:
        The picture; in words where there is nothing to draw.
    """
    if not boxes:
        return Picture("", "There is no task cell to draw yet.")
    order = {box.name: place for place, box in enumerate(boxes)}
    known = {pair: names for pair, names in edges.items() if pair[0] in order and pair[1] in order}
    back = _closing(order, known)
    linked = {name for pair in known for name in pair}
    columns, ways = _columns(
        {name: place for name, place in order.items() if name in linked}, [pair for pair in known if pair not in back]
    )
    ways |= {pair: [*pair] for pair in back}
    size = _DENSE if len(boxes) >= _MANY else _ROOMY
    places, width, height = _places(columns, [box.name for box in boxes if box.name not in linked], size)
    stale = {box.name for box in boxes if box.state == "stale"}
    lines = [
        _edge([places[spot] for spot in way], pair, known[pair], size, back=pair in back, stale=stale.issuperset(pair))
        for pair, way in ways.items()
    ]
    nodes = [(_line if size is _DENSE else _node)(box, *places[box.name]) for box in boxes]
    svg = _svg(width, height, [*lines, *nodes], f"Graph of {len(boxes)} cells")
    legend = ""
    if size is _DENSE:
        states = dict.fromkeys(box.state for box in boxes)
        legend = " · ".join(["", *(f"{ICONS.get(state, '·')} {state}" for state in states)])
    return Picture(svg, _graph_text(boxes, known), caption + legend)


def _places(
    columns: Sequence[Sequence[_Spot]], lone: Sequence[str], size: _Size
) -> tuple[dict[_Spot, tuple[int, int]], int, int]:
    """Return where everything stands, and the width and height of it all."""
    places: dict[_Spot, tuple[int, int]] = {}
    step, row, height = size.wide + size.gap_x, size.high + size.gap_y, 0
    for x, column in enumerate(columns):
        y = 2
        for spot in column:
            places[spot] = (x * step + 2, y)
            y += size.lane if isinstance(spot, tuple) else row
        height = max(height, y)
    narrow = size.wide + size.gap_y
    width = len(columns) * step - size.gap_x + 4 if columns else 0
    across = max(_ACROSS, (width + size.gap_y) // narrow)
    for number, name in enumerate(lone):
        places[name] = (number % across * narrow + 2, height + number // across * row + 2)
    if lone:
        width = max(width, min(across, len(lone)) * narrow - size.gap_y + 4)
        height += -(-len(lone) // across) * row + 2
    return places, width, height


_Spot = str | tuple[str, str, int]  # a node, or the lane of an edge (source, target) in some column


def _closing(order: Mapping[str, int], edges: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the edges without which there is no cycle: those that lead back to a node that is being visited."""
    targets: dict[str, list[str]] = {}
    for source, target in edges:
        targets.setdefault(source, []).append(target)
    visiting: dict[str, bool] = {}
    found: set[tuple[str, str]] = set()
    for root in order:
        waiting = [(root, iter(targets.get(root, ())))] if root not in visiting else []
        visiting.setdefault(root, True)
        while waiting:
            name, rest = waiting[-1]
            target = next(rest, "")
            if not target:
                visiting[name] = False
                waiting.pop()
            elif visiting.get(target):
                found.add((name, target))
            elif target not in visiting:
                visiting[target] = True
                waiting.append((target, iter(targets.get(target, ()))))
    return found


def _columns(
    order: Mapping[str, int], edges: Sequence[tuple[str, str]]
) -> tuple[list[list[_Spot]], dict[tuple[str, str], list[_Spot]]]:
    """Return what stands in each column, top down, and the way of each edge through them."""
    depth = _depths(order, edges)
    columns: list[list[_Spot]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for name in order:
        columns[depth[name]].append(name)
    ways: dict[tuple[str, str], list[_Spot]] = {}
    sources: dict[_Spot, list[_Spot]] = {}
    targets: dict[_Spot, list[_Spot]] = {}
    for source, target in edges:
        lanes: list[_Spot] = [(source, target, x) for x in range(depth[source] + 1, depth[target])]
        for x, lane in enumerate(lanes, depth[source] + 1):
            columns[x].append(lane)
        way = ways[source, target] = [source, *lanes, target]
        for one, other in pairwise(way):
            targets.setdefault(one, []).append(other)
            sources.setdefault(other, []).append(one)
    place = {spot: float(y) for column in columns for y, spot in enumerate(column)}

    def mean(spot: _Spot) -> float:
        found = near.get(spot, ())
        return sum(place[other] for other in found) / len(found) if found else place[spot]

    for sweep in range(_SWEEPS):
        near = targets if sweep % 2 else sources
        for column in reversed(columns) if sweep % 2 else columns:
            column.sort(key=mean)
            place.update({spot: float(y) for y, spot in enumerate(column)})
    return columns, ways


def _depths(order: Mapping[str, int], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return the length of the longest way to each node."""
    targets: dict[str, list[str]] = {name: [] for name in order}
    left = dict.fromkeys(order, 0)
    for source, target in edges:
        targets[source].append(target)
        left[target] += 1
    depth = dict.fromkeys(order, 0)
    ready = [name for name, count in left.items() if not count]
    while ready:
        name = ready.pop()
        for target in targets[name]:
            depth[target] = max(depth[target], depth[name] + 1)
            left[target] -= 1
            if not left[target]:
                ready.append(target)
    return depth


def _edge(
    spots: Sequence[tuple[int, int]],
    pair: tuple[str, str],
    names: Sequence[str],
    size: _Size,
    *,
    back: bool,
    stale: bool,
) -> str:
    """Return a curve from the right of the first spot, through the lanes between, to the left of the last one."""
    (x, y), half = spots[0], size.high // 2
    x, y = x + size.wide, y + half
    steps = [f"M{x} {y}"]
    for number, (left, top) in enumerate(spots[1:], 1):
        lane = number < len(spots) - 1
        middle = top + (size.lane // 2 if lane else half)
        bend = max(size.gap_x // 2, abs(left - x) // 2)
        steps.append(f"C{x + bend} {y} {left - bend} {middle} {left} {middle}" + (f"h{size.wide}" if lane else ""))
        x, y = left + size.wide, middle
    look = 'stroke="currentColor" stroke-opacity=".38" stroke-width="1.3"'
    if stale:
        look = f'stroke="{COLOURS["stale"]}" stroke-width="2"'
    dash = ' stroke-dasharray="5 4"' if back else ""
    title = escape(f"{pair[0]} → {pair[1]}: {', '.join(names)}" + (" (a cycle)" if back else ""))
    return (
        f'<path d="{"".join(steps)}" fill="none" {look}{dash} marker-end="url(#nbflow-tip)"><title>{title}</title>'
        "</path>"
    )


def _node(box: Box, x: int, y: int) -> str:
    colour = COLOURS.get(box.state, "#888888")
    dash = ' stroke-dasharray="5 3"' if box.state == "stale" else ""
    title = _title(box)
    name, place = escape(_cut(box.name, _ROOMY.chars)), escape(f" · {box.where}" if box.where else "")
    size = f'width="{_ROOMY.wide}" height="{_ROOMY.high}" rx="6"'
    return (
        f'<g transform="translate({x} {y})"><title>{title}</title>'
        f'<rect {size} style="fill:var(--jp-layout-color0,transparent)"/>'
        f'<rect {size} fill="{colour}" fill-opacity=".10" stroke="{colour}" stroke-width="1.4"{dash}/>'
        f'<text x="10" y="17" font-size="12.5" font-weight="600" fill="currentColor">{name}</text>'
        f'<text x="10" y="32" font-size="10.5" fill="currentColor" fill-opacity=".7">'
        f'<tspan fill="{colour}" fill-opacity="1">{ICONS.get(box.state, "·")} {escape(box.state)}</tspan>'
        f"{place}</text></g>"
    )


def _line(box: Box, x: int, y: int) -> str:
    """Return a node as one line, the stale ones filled so that they stand out from afar."""
    colour = COLOURS.get(box.state, "#888888")
    size = f'width="{_DENSE.wide}" height="{_DENSE.high}" rx="4"'
    stale = box.state == "stale"
    dash = ' stroke-dasharray="5 3"' if stale else ""
    return (
        f'<g transform="translate({x} {y})"><title>{_title(box)}</title>'
        f'<rect {size} style="fill:var(--jp-layout-color0,transparent)"/>'
        f'<rect {size} fill="{colour}" fill-opacity="{".30" if stale else ".10"}" stroke="{colour}"{dash}/>'
        f'<text x="6" y="14" font-size="11" fill="currentColor"><tspan fill="{colour}">{ICONS.get(box.state, "·")}'
        f"</tspan> {escape(_cut(box.name, _DENSE.chars))}</text></g>"
    )


def _title(box: Box) -> str:
    return escape(" · ".join(part for part in (box.name, box.where, box.state, box.detail) if part))


def _graph_text(boxes: Sequence[Box], edges: Mapping[tuple[str, str], Sequence[str]]) -> str:
    reads: dict[str, list[str]] = {}
    for (source, target), names in edges.items():
        reads.setdefault(target, []).append(f"{source} ({', '.join(names)})")
    width = max(len(box.name) for box in boxes)
    lines = []
    for box in boxes:
        line = f"{ICONS.get(box.state, '·')} {box.name.ljust(width)}  {box.state:<8}  {box.where}"
        lines.append(line + (f"  ← {', '.join(reads[box.name])}" if box.name in reads else ""))
    return "\n".join(lines)


# --- the timeline -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """One stretch of work.

    Args:
        row: Name of the row it is drawn in.
        began: When it began; seconds on any one clock.
        ended: When it ended.
        state: One of `ICONS`.
        detail: What it was, shown on hover.
    """

    row: str
    began: float
    ended: float
    state: str
    detail: str = ""


_ROWS = 200
_ROW = 22
_DENSE_ROW = 15  # from `_MANY` rows on
_AXIS = 20  # height of the scale on top, which is in sight however many rows there are
_LABEL = 190
_WIDE = 640
_TICKS = (1, 2, 5)


def draw_timeline(bars: Iterable[Bar], caption: str = "") -> Picture:
    """Draw what ran when, one row for each name, in the order of first starts.

    Bars that fall on the same pixels are drawn as one, so that a map of many thousand items stays small.

    Args:
        bars: The stretches.
        caption: A line below.

    Returns:
        The picture; in words where there is nothing to draw.
    """
    found = sorted(bars, key=lambda bar: bar.began)
    if not found:
        return Picture("", "Nothing has run in this session yet.")
    start, end = found[0].began, max(bar.ended for bar in found)
    span = max(end - start, 1e-6)
    rows: dict[str, list[Bar]] = {}
    for bar in found:
        rows.setdefault(bar.row, []).append(bar)
    shown = dict(list(rows.items())[:_ROWS])
    row = _ROW if len(shown) < _MANY else _DENSE_ROW
    bottom = _AXIS + len(shown) * row
    parts = [_tick(at, span, bottom) for at in _tick_places(span)]
    for number, (name, members) in enumerate(shown.items()):
        y = _AXIS + number * row
        busy = sum(bar.ended - bar.began for bar in members)
        parts.append(
            f'<text x="{_LABEL - 8}" y="{y + row // 2 + 4}" font-size="{12 if row == _ROW else 10.5}" '
            f'text-anchor="end" fill="currentColor">{escape(_cut(name, 26))}'
            f"<title>{escape(name)}: {len(members)} ran, {format_duration(busy)} in all</title></text>"
        )
        parts += [_bar(*stretch, y, row) for stretch in _merged(members, start, span)]
    parts.append(_legend(dict.fromkeys(bar.state for bar in found), len(rows) - len(shown), bottom + 18))
    svg = _svg(_LABEL + _WIDE + 40, bottom + 26, parts, f"Timeline of {len(found)} calls")
    return Picture(svg, _timeline_text(rows, start, span), caption)


def _legend(states: Iterable[str], hidden: int, y: int) -> str:
    """Return what the colours mean, and how many rows are not shown."""
    words = [
        f'<tspan fill="{COLOURS.get(state, "#888888")}">■ {ICONS.get(state, "·")}</tspan> {escape(state)}   '
        for state in states
    ]
    if hidden > 0:
        words.append(f"… {hidden} more rows")
    return f'<text x="{_LABEL}" y="{y}" font-size="11" fill="currentColor" xml:space="preserve">{"".join(words)}</text>'


def _merged(bars: Sequence[Bar], start: float, span: float) -> list[tuple[float, float, str, int, str]]:
    """Return (left, width, state, how many, detail) of the stretches to draw, in pixels."""
    found: list[tuple[float, float, str, int, str]] = []
    for bar in bars:
        left = (bar.began - start) / span * _WIDE
        right = max((bar.ended - start) / span * _WIDE, left + 2)
        if found and found[-1][2] == bar.state and left <= found[-1][0] + found[-1][1] + 0.5 and right - left < 4:
            before = found[-1]
            found[-1] = (before[0], max(before[1], right - before[0]), bar.state, before[3] + 1, "")
        else:
            took = format_duration(bar.ended - bar.began)
            found.append((left, right - left, bar.state, 1, f"{bar.detail or bar.row}: {took}"))
    return found


def _bar(left: float, width: float, state: str, count: int, detail: str, y: int, row: int) -> str:
    title = escape(f"{detail or f'{count} calls'} · {state}")
    colour = COLOURS.get(state, "#888888")
    inset = 4 if row == _ROW else 2
    return (
        f'<rect x="{_LABEL + left:.1f}" y="{y + inset}" width="{width:.1f}" height="{row - 2 * inset}" rx="2" '
        f'fill="{colour}" fill-opacity=".8"><title>{title}</title></rect>'
    )


def _tick_places(span: float) -> list[float]:
    step = 10.0**-7
    while True:
        for factor in _TICKS:
            if span / (step * factor) <= 7:
                wide = step * factor
                return [number * wide for number in range(int(span / wide) + 1)]
        step *= 10


def _tick(at: float, span: float, bottom: int) -> str:
    x = _LABEL + at / span * _WIDE
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_AXIS - 4}" y2="{bottom}" stroke="currentColor" stroke-opacity=".15"/>'
        f'<text x="{x:.1f}" y="{_AXIS - 7}" font-size="10.5" text-anchor="middle" fill="currentColor" '
        f'fill-opacity=".7">{escape(format_duration(at))}</text>'
    )


def _timeline_text(rows: Mapping[str, Sequence[Bar]], start: float, span: float) -> str:
    width = min(30, max(map(len, rows)))
    lines = []
    for name, members in list(rows.items())[:_ROWS]:
        cells = [" "] * 40
        for bar in members:
            first = min(39, int((bar.began - start) / span * 40))
            last = min(39, max(first, int((bar.ended - start) / span * 40) - 1))
            cells[first : last + 1] = ["█"] * (last - first + 1)
        busy = format_duration(sum(bar.ended - bar.began for bar in members))
        lines.append(f"{_cut(name, width).ljust(width)} |{''.join(cells)}| {busy}")
    if len(rows) > _ROWS:
        lines.append(f"… {len(rows) - _ROWS} more rows")
    return "\n".join(lines)


def _svg(width: float, height: float, parts: Iterable[str], title: str) -> str:
    tip = (
        '<defs><marker id="nbflow-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="currentColor" fill-opacity=".5"/></marker></defs>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" width="{width:g}" '
        f'height="{height:g}" viewBox="0 0 {width:g} {height:g}" style="{_FONT}">{tip}{"".join(parts)}</svg>'
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
