"""What `%flow` draws and writes out: the graph of cells, the timeline of calls, and the notebook as a script.

Each function takes what the shell or the session knows and returns something to show or to save; nothing is kept here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nbflow._util import format_duration
from nbflow.notebook.drawing import Bar, Box, Picture, draw_graph, draw_timeline
from nbflow.notebook.graph import CellNode, Graph

__all__ = ["graph_picture", "timeline_picture"]

_STATES = {"completed": "fresh", "timed out": "failed"}


def graph_picture(graph: Graph, key_now: Any) -> Picture:
    """Draw the task cells, the names that flow between them, and which of them are stale.

    Args:
        graph: The cells.
        key_now: Makes the key that a cell would have if it ran now; see `Graph.stale`.
    """
    stale = graph.stale(key_now)
    boxes, edges = [], dict[tuple[str, str], list[str]]()
    for node in sorted(graph.nodes.values(), key=lambda each: each.position):
        failed = node.state == "failed"
        state = "failed" if failed else "stale" if node.name in stale else node.state
        boxes.append(Box(node.name, node.label, state, _detail(node, stale.get(node.name))))
        for name in node.reads:
            source = graph.source(node, name)
            if source is not None:
                edges.setdefault((source.name, node.name), []).append(name)
    caption = f"{len(boxes)} cells · {len(stale)} stale"
    cycles = graph.cycles()
    if cycles:
        caption += " · in a circle: " + "; ".join(" → ".join([*found, found[0]]) for found in cycles[:3])
    return draw_graph(boxes, edges, caption)


def _detail(node: CellNode, reason: str | None) -> str:
    if reason is not None:
        return reason
    if node.state in ("failed", "uncached") and node.reason:
        return node.reason
    saved = f", saved {format_duration(node.saved_s)} so far" if node.saved_s else ""
    return f"last run {format_duration(node.duration_s)}{saved}"


def timeline_picture(session: Any) -> Picture:
    """Draw when the calls of a session ran: those that have ended, and those that run now.

    Args:
        session: The session; items of one map, and the calls of one task, share a row.
    """
    calls = [*session.records, *session.live_calls()]
    now = session.clock.monotonic()
    bars = [
        Bar(
            row=call.spec.name,
            began=call.started,
            ended=call.ended if call.ended is not None else now,
            state="cached" if call.cached else _STATES.get(call.state, str(call.state)),
            detail=call.name,
        )
        for call in _once(calls)
        if call.started is not None
    ]
    forgotten = len(session.records) == session.records.maxlen
    caption = f"{len(bars)} calls" + (f", the last {session.records.maxlen} that were kept" if forgotten else "")
    return draw_timeline(bars, caption if bars else "")


def _once(calls: Iterable[Any]) -> list[Any]:
    return list({call.id: call for call in calls}.values())
