"""The live face: one anywidget for the whole panel, however many rows it has.

The kernel sends what changed as small custom messages; a synced `snapshot` of everything follows rarely, for views
that open later. Clicks come back as custom messages, which the tap hears even while a cell blocks. anywidget is only
imported when a widget is made, and script and styles are files of this package, so nothing is fetched from anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from nbflow.notebook.frontend import widget_class
from nbflow.notebook.panel import rows as r
from nbflow.notebook.panel import words
from nbflow.notebook.panel.model import Model

__all__ = ["MIME", "LiveWidget", "encode"]

MIME = "application/vnd.jupyter.widget-view+json"
MAX_LINES = 30
TRACEBACK_BYTES = 24_000
SNAPSHOT_EVERY_S = 3.0
FRAMES_PER_S, SNAPSHOTS_PER_S = 2300, 500
"""Bytes a second that a live run may send: what would go beyond waits, and the next one holds its news as well."""
_ENVELOPE_BYTES = 120
_SCRIPTS = ("panel-parts.js", "panel-tabs.js", "panel.js")
_STYLES = ("panel.css", "panel-tabs.css")
"""The parts of the widget's script and of its styles, which are joined into one."""


def encode(
    model: Model, hears: bool, parallel: float = 0.0, can_retry: Callable[[int], bool] = lambda number: False
) -> dict[str, Any]:
    """Return what the script needs to draw: head, order of ids, and a flat dict for each row (empty fields left out).

    Args:
        model: The run.
        hears: Whether clicks are heard while a cell blocks.
        parallel: How many calls ran at a time, on average; 0 where that is not known.
        can_retry: Whether the failed call of an id can be run again.
    """
    view = model.view(MAX_LINES)
    sums = model.totals()
    head = {
        "text": words.summary(model),
        "stats": words.stats(sums, parallel),
        "started": _stamp(model.started),
        "ended": None if model.live else _stamp(model.latest),
        "bad": sums.failed,
        "live": model.live,
        "hidden": view.hidden,
        "hears": hears,
    }
    rows = {str(line.row.id): _encode_row(line, can_retry) for line in view.lines}
    room = TRACEBACK_BYTES
    for fields in rows.values():
        room -= len(fields.get("trace", "").encode())
        if room < 0:
            fields.pop("trace", None)
    return {"head": head, "order": list(rows), "rows": rows}


def _encode_row(line: r.Line, can_retry: Callable[[int], bool]) -> dict[str, Any]:
    row, counts = line.row, line.row.counts
    fields: dict[str, Any] = {
        "name": words.short(row.name, 120),
        "state": row.state,
        "depth": line.depth,
        "progress": words.progress(row),
        "elapsed": words.elapsed(row),
        "since": _stamp(row.started) if row.live and row.state != r.QUEUED else None,
        "expected": row.expected_s if row.live else None,
        "worker": words.worker(row.worker) if row.live else "",
        "more": [words.short(text, 200) for text in words.details(row)],
        "line": row.line if row.live or row.state in r.BAD else "",
        "trace": row.traceback,
        "stop": row.live and row.kind in (r.CALL, r.MAP),
        "retry": row.state in r.BAD and can_retry(row.retry or row.id),
        "calls": row.kind in (r.MAP, r.TASK) and row.of == r.CALL,
        "items": [[item.name, _stamp(item.started), words.worker(item.worker), item.index] for item in row.items],
        "others": max(0, counts.running - len(row.items)) if counts is not None and row.items else 0,
        "lone": row.kind == r.CALL and not line.depth,
    }
    if counts is not None and row.kind == r.MAP and counts.total:
        fields["bar"] = _bar(counts.total, counts.done, counts.cached, counts.failed, counts.cancelled + counts.left)
    elif row.total and row.live:
        fields["bar"] = _bar(row.total, min(row.done, row.total))
    return {key: value for key, value in fields.items() if value not in (None, "", [], False, 0)}


def _bar(total: float, *parts: float) -> list[float]:
    """Return parts of a bar as percentages, without zeros at its end."""
    shares = [round(100 * part / total, 1) for part in parts]
    while len(shares) > 1 and not shares[-1]:
        shares.pop()
    return shares


def _stamp(time: float | None) -> float | None:
    """Return wall-clock seconds as exactly as a stopwatch shows them."""
    return None if time is None else round(time, 2)


class LiveWidget:
    """One widget in the front end and what was last sent to it.

    Args:
        on_message: Gets the content of custom messages that arrive in the ordinary way.
        state: What `encode` returned; it comes with the widget, so that nothing has to be sent to make it appear.
        now: Wall-clock seconds.

    Not thread-safe: the panel uses it under its own lock.
    """

    def __init__(self, on_message: Callable[[dict[str, Any]], None], state: dict[str, Any], now: float) -> None:
        snapshot = {**state, "now": now}
        self._widget = _widget_class()(snapshot=snapshot)
        self._widget.on_msg(lambda widget, content, buffers: on_message(content))
        self._sent = state
        self._snapshot_at = now + _snapshot_s(snapshot)
        self._unsaved = False
        self._paid_until = now

    @property
    def comm(self) -> Any:
        """The widget's comm."""
        return self._widget.comm

    @property
    def view(self) -> dict[str, Any]:
        """What a display bundle holds under `MIME`."""
        return {"version_major": 2, "version_minor": 1, "model_id": self._widget.model_id}

    def send(self, state: dict[str, Any], now: float) -> bool:
        """Send what differs from what was sent before; nothing if nothing does, or if too much was sent just now.

        Args:
            state: What `encode` returned.
            now: Wall-clock seconds, by which the front end sets its stopwatches.

        Returns:
            Whether a message went out.
        """
        if now < self._paid_until and state["head"]["live"]:
            return False
        message = _delta(self._sent, state)
        self._sent = state
        if message:
            frame = {"kind": "frame", "now": round(now, 2), **message}
            self._widget.send(frame)
            # What was quiet counts, so that a change is seen at once; so does what the last frame took too much.
            self._paid_until = max(self._paid_until, now - 0.3) + _size(frame) / FRAMES_PER_S
            self._unsaved = True
        if self._unsaved and now >= self._snapshot_at:
            snapshot = {**state, "now": now}
            self._widget.snapshot = snapshot
            self._snapshot_at = now + _snapshot_s(snapshot)
            self._unsaved = False
        return bool(message)

    def answer(self, content: dict[str, Any], ok: bool) -> None:
        """Tell the front end that a click was heard, and whether there was anything to stop or to run again."""
        self._widget.send({"kind": "ack", "id": content.get("id"), "index": content.get("index"), "ok": ok})

    def tell(self, answer: dict[str, Any]) -> None:
        """Send what the front end asked for."""
        self._widget.send({"kind": "told", **answer})

    def close(self) -> None:
        """Close the comm, and that of the layout that every widget drags along."""
        layout = self._widget.layout
        self._widget.close()
        layout.close()


def _size(content: dict[str, Any]) -> int:
    return len(json.dumps(content)) + _ENVELOPE_BYTES


def _snapshot_s(snapshot: dict[str, Any]) -> float:
    """Return the seconds for which a snapshot has to do."""
    return max(SNAPSHOT_EVERY_S, _size(snapshot) / SNAPSHOTS_PER_S)


def _delta(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the difference: changed fields of head and rows (None: a row's field is gone), and the order."""
    delta: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    for number, fields in new["rows"].items():
        before = old["rows"].get(number)
        if before is None:
            rows[number] = fields
        elif before != fields:
            gone = dict.fromkeys(before.keys() - fields.keys())
            rows[number] = gone | {key: value for key, value in fields.items() if before.get(key) != value}
    if rows:
        delta["rows"] = rows
    if new["order"] != old["order"]:
        delta["order"] = new["order"]
    head = {name: value for name, value in new["head"].items() if name not in old["head"] or old["head"][name] != value}
    if head:
        delta["head"] = head
    return delta


@cache
def _widget_class() -> Any:
    about = "The front end's model of a panel."
    return widget_class("PanelWidget", about, Path(__file__).parent, _SCRIPTS, _STYLES, synced="snapshot")
