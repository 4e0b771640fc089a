"""What the panel's tabs show, made when somebody looks: single calls by the page, timeline, graph and history.

Each function takes what the session remembers of a run and returns plain data, bounded in size whatever ran, so that
an open tab costs a few kilobytes and a closed one nothing. Calls come from the session's records (the latest
`max_records`) and from what runs now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nbflow.notebook.drawing import Box, draw_graph
from nbflow.notebook.panel import rows as r
from nbflow.notebook.panel import words
from nbflow.notebook.panel.model import Model
from nbflow.runtime.current import Call

__all__ = ["Entry", "entries", "graph", "history", "page", "timeline"]

PAGE = 60
_BARS = 300
_LANES = 24
_MOST_LANES = 64
_UNITS = 1000
_LABELLED = 80
_BOXES = 24
_CHARTS = 12
_STATES = {"completed": r.DONE, "running": r.RUNNING}
_RANK = {r.FAILED: 0, r.TIMED_OUT: 0, r.RUNNING: 1, r.CANCELLED: 2}
_DRAWN = {r.DONE: "fresh", r.RETRYING: "running", r.TIMED_OUT: "failed", r.LEFT: "running", r.QUEUED: "running"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One call, ended or running.

    Args:
        name: Its name.
        state: Its state, as rows have it.
        began: Wall-clock seconds.
        seconds: How long it took; None while it runs.
        worker: Where; "" for the main thread, None where that was not noted (quick items of a map in this process).
        saved_s: Seconds that a hit saved.
        owner: Id of the map it is an item of, else its own.
        index: Its position in the map, or -1.
        task: Name of its task.
    """

    name: str
    state: str
    began: float
    seconds: float | None
    worker: str | None
    saved_s: float
    owner: int
    index: int
    task: str


def entries(model: Model, session: Any, offset: float) -> list[Entry]:
    """Return the calls of a run: those that the session remembers, then those that run now.

    Args:
        model: The run.
        session: Its session.
        offset: What to add to the session's monotonic clock to get wall-clock seconds.
    """
    pullers: dict[int, dict[int, str]] = {}
    found = [entry for call in list(session.records) if (entry := _of_call(model, call, offset, pullers)) is not None]
    for live in session.live_maps():
        if live.id in model.rows:
            for index, name, since, worker in live.running_items():
                found.append(
                    Entry(name, r.RUNNING, since + offset, None, words.worker(worker), 0.0, live.id, index, live.name)
                )
    for call in session.live_calls():
        if call.map is None and (entry := _of_call(model, call, offset, pullers)) is not None:
            found.append(entry)
    return found


def _of_call(model: Model, call: Call, offset: float, pullers: dict[int, dict[int, str]]) -> Entry | None:
    """Return the entry of a call, or None if it belongs to another run: before it, or to a map of another one.

    `pullers` remembers who took which item, by map: quick items do not note it themselves.
    """
    began = call.started
    if began is None:
        return None
    at = began + offset
    if call.map is not None:
        if call.map.id not in model.rows:
            return None
    elif not model.has(call.id) and not (model.started or 0.0) - 0.001 <= at <= (model.latest or at) + 0.001:
        return None
    state = r.CACHED if call.cached else _STATES.get(call.state, call.state)
    owner, index = (call.id, -1) if call.map is None else (call.map.id, -1 if call.index is None else call.index)
    seconds = None if call.ended is None else call.ended - began
    name = call.name if call.args is None else call._name or call.spec.name
    worker = call.worker
    if worker is None and call.map is not None:
        if call.map.id not in pullers:
            pullers[call.map.id] = {at: name for first, end, name in list(call.map.taken) for at in range(first, end)}
        worker = pullers[call.map.id].get(index)
    shown = None if worker is None and call.map is not None else words.worker(worker or "")
    return Entry(name, state, at, seconds, shown, call.saved_s, owner, index, call.spec.name)


def page(model: Model, found: Iterable[Entry], asked: dict[str, Any]) -> dict[str, Any]:
    """Return one page of calls: failed ones first, then running ones, then by start.

    Args:
        model: The run.
        found: Its calls.
        asked: `query` (part of a name), `state` (one of theirs, or ""), `scope` (id of a map or task row, or None) and
            `offset` (of the first one), as the front end sent them.

    Returns:
        `total` calls that match, `offset`, and `rows`: name, state, begin, seconds, worker, saved, owner, index.
    """
    query, state = str(asked.get("query") or "").lower(), str(asked.get("state") or "")
    scope = asked.get("scope")
    row = model.rows.get(scope) if isinstance(scope, int) else None
    chosen = [
        entry
        for entry in found
        if (row is None or entry.owner == row.id or (row.kind == r.TASK and entry.task == row.task and entry.index < 0))
        and (not state or entry.state == state)
        and (not query or query in entry.name.lower())
    ]
    chosen.sort(key=lambda entry: (_RANK.get(entry.state, 3), entry.began, entry.index))
    wanted = asked.get("offset")
    offset = min(max(0, wanted if isinstance(wanted, int) else 0), max(0, len(chosen) - 1))
    shown = chosen[offset : offset + PAGE]
    return {
        "total": len(chosen),
        "offset": offset,
        "scope": None if row is None else row.name,
        "rows": [
            [
                words.short(entry.name, 80),
                entry.state,
                round(entry.began, 2),
                None if entry.seconds is None else round(entry.seconds, 4),
                entry.worker or "",
                round(entry.saved_s, 2),
                entry.owner,
                entry.index,
            ]
            for entry in shown
        ],
    }


def timeline(found: Iterable[Entry], now: float) -> dict[str, Any]:
    """Return when what ran on which worker, coarse enough to stay small.

    Args:
        found: The calls.
        now: Wall-clock seconds, the end of what still runs.

    Returns:
        `span` in seconds, `lanes` (workers), `hidden` (how many more there are), `units` of the span, and `bars`: lane,
        left and width in units, state, how many calls it stands for, and a name where there are few.
    """
    calls = sorted((entry for entry in found if entry.state != r.CACHED or entry.seconds), key=lambda each: each.began)
    if not calls:
        return {"span": 0, "lanes": [], "hidden": 0, "units": _UNITS, "bars": []}
    start = calls[0].began
    span = max(now - start if each.seconds is None else each.began - start + each.seconds for each in calls)
    span = max(span, 1e-3)
    workers = _workers(calls)
    lanes = sorted(set(workers), key=_natural)
    place = {name: number for number, name in enumerate(lanes[:_LANES])}
    units = _UNITS
    bars = _bars(calls, workers, place, start, span, now, units)
    while len(bars) > _BARS and units > 20:
        units //= 2
        bars = _bars(calls, workers, place, start, span, now, units)
    if len(bars) > _LABELLED:
        bars = [bar[:5] for bar in bars]
    return {
        "span": round(span, 3),
        "lanes": [name or "this thread" for name in lanes[:_LANES]],
        "hidden": max(0, len(lanes) - _LANES),
        "units": units,
        "bars": bars,
    }


def _bars(
    calls: list[Entry],
    workers: list[str],
    place: dict[str, int],
    start: float,
    span: float,
    now: float,
    units: int,
) -> list[list[Any]]:
    """Return the bars; those of one lane and state that touch are one."""
    last: dict[tuple[int, str], list[Any]] = {}
    bars: list[list[Any]] = []
    for entry, worker in zip(calls, workers, strict=True):
        lane = place.get(worker)
        if lane is None:
            continue
        left = int(units * (entry.began - start) / span)
        end = now if entry.seconds is None else entry.began + entry.seconds
        right = max(left + 1, round(units * (end - start) / span))
        before = last.get((lane, entry.state))
        # Neighbours keep a gap of one unit, so that single calls can be told apart where there is room for it.
        if before is not None and left <= before[1] + before[2] and (right - left < 3 or before[2] < 3):
            before[2] = max(before[2], right - before[1])
            before[4] += 1
            before[5] = ""
            continue
        bar = [lane, left, right - left, entry.state, 1, words.short(entry.name, 40)]
        last[lane, entry.state] = bar
        bars.append(bar)
    return bars


def _workers(calls: Iterable[Entry]) -> list[str]:
    """Return the worker of each call; where none was noted, lanes of calls that did not overlap stand for workers."""
    free: dict[tuple[int, str], float] = {}
    found = []
    for entry in calls:
        if entry.worker is not None:
            found.append(entry.worker)
            continue
        end = entry.began + (entry.seconds or 0.0)
        lane = next((lane for lane, until in free.items() if lane[0] == entry.owner and until <= entry.began), None)
        if lane is None and len(free) >= _MOST_LANES:
            found.append(f"{entry.task} · more")
            continue
        if lane is None:
            number = sum(1 for owner, _ in free if owner == entry.owner) + 1
            lane = (entry.owner, f"{entry.task} · {number}")
        free[lane] = end
        found.append(lane[1])
    return found


def _natural(name: str) -> tuple[Any, ...]:
    """Sort worker-2 before worker-10."""
    head = name.rstrip("0123456789")
    return (head, int(name[len(head) :] or 0))


def graph(model: Model, cells: Any) -> str:
    """Return a drawing (SVG) of which task feeds or calls which, together with the cells where there are any.

    Args:
        model: The run.
        cells: The notebook's `Graph` of cells, or None.
    """
    boxes: dict[str, Box] = {}
    edges: dict[tuple[str, str], list[str]] = {}
    if cells is not None:
        for node in sorted(cells.nodes.values(), key=lambda each: each.position):
            boxes[node.name] = Box(node.name, node.label or "", node.state, node.reason or "")
            for name in node.reads:
                if (source := cells.source(node, name)) is not None:
                    edges.setdefault((source.name, node.name), []).append(name)
    for name, state, detail in _tasks(model):
        known = boxes.get(name)
        boxes[name] = Box(name, known.where if known is not None else "", state, detail)
    for pair, kind in model.edges.items():
        edges.setdefault(pair, []).append(kind)
    shown = list(boxes.values())[-_BOXES:]
    return draw_graph(shown, edges).svg


def _tasks(model: Model) -> Iterator[tuple[str, str, str]]:
    """Yield name, state as drawn, and what there is to say of each task of a run."""
    sums: dict[str, r.Counts] = {}
    for row in list(model.rows.values()):
        if row.kind != r.ITEM:
            sums.setdefault(row.task or row.name, r.Counts()).add(row.sums())
    for name, counts in sums.items():
        state = (
            r.RUNNING
            if counts.running or counts.queued
            else r.FAILED
            if counts.failed
            else r.CANCELLED
            if counts.cancelled
            else r.CACHED
            if counts.cached and not counts.done
            else r.DONE
        )
        yield name, _DRAWN.get(state, state), words.counted(counts)


def history(model: Model, past: Any) -> list[list[Any]]:
    """Return what is remembered of the tasks of a run: name, kind, typical seconds, and seconds of the latest runs.

    Args:
        model: The run.
        past: The `History` of the home, or None.
    """
    if past is None:
        return []
    found: list[list[Any]] = []
    for kind, name in dict.fromkeys((row.kind, row.task or row.name) for row in list(model.rows.values())):
        if kind == r.ITEM or len(found) >= _CHARTS:
            continue
        runs = past.durations(name, kind="map" if kind == r.MAP else None)
        if runs:
            found.append(
                [name, "each item" if kind == r.MAP else "", past.typical_s(name), [round(s, 4) for s in runs]]
            )
    return found
