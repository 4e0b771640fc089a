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
BYTES_PER_S = 2800
"""What a live run may send; a frame that would go beyond it waits for the next one, which holds its news as well."""
_LONGEST_WAIT_S = 3.0
_ENVELOPE_BYTES = 120
_SCRIPTS = ("panel-tabs.js", "panel.js")
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
        "started": model.started,
        "ended": None if model.live else model.latest,
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
        "since": row.started if row.live and row.state != r.QUEUED else None,
        "expected": row.expected_s if row.live else None,
        "worker": words.worker(row.worker) if row.live else "",
        "more": [words.short(text, 200) for text in words.details(row)],
        "line": row.line if row.live or row.state in r.BAD else "",
        "trace": row.traceback,
        "stop": row.live and row.kind in (r.CALL, r.MAP),
        "retry": row.state in r.BAD and can_retry(row.retry or row.id),
        "calls": row.kind in (r.MAP, r.TASK) and row.of == r.CALL,
        "items": [[item.name, item.started, words.worker(item.worker), item.index] for item in row.items],
        "others": max(0, counts.running - len(row.items)) if counts is not None and row.items else 0,
        "lone": row.kind == r.CALL and not line.depth,
    }
    if counts is not None and row.kind == r.MAP and counts.total:
        shares = (counts.done, counts.cached, counts.failed, counts.cancelled + counts.left)
        fields["bar"] = [round(100 * share / counts.total, 1) for share in shares]
    elif row.total and row.live:
        fields["bar"] = [round(100 * min(1.0, row.done / row.total), 1), 0, 0, 0]
    return {key: value for key, value in fields.items() if value not in (None, "", [], False, 0)}


class LiveWidget:
    """One widget in the front end and what was last sent to it.

    Args:
        on_message: Gets the content of custom messages that arrive in the ordinary way.

    Not thread-safe: the panel uses it under its own lock.
    """

    def __init__(self, on_message: Callable[[dict[str, Any]], None]) -> None:
        self._widget = _widget_class()()
        self._widget.on_msg(lambda widget, content, buffers: on_message(content))
        self._sent: dict[str, Any] = {"head": {}, "order": [], "rows": {}}
        self._snapshot_at = float("-inf")
        self._unsaved = False
        self._paid_until = float("-inf")

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
            frame = {"kind": "frame", "now": now, **message}
            self._widget.send(frame)
            self._pay(frame, now)
            self._unsaved = True
        if self._unsaved and now >= self._snapshot_at:
            snapshot = {**state, "now": now}
            self._widget.snapshot = snapshot
            self._snapshot_at = now + max(SNAPSHOT_EVERY_S, 5 * self._pay(snapshot, now))
            self._unsaved = False
        return bool(message)

    def _pay(self, content: dict[str, Any], now: float) -> float:
        """Count a message; return the seconds it is worth, for which the next one waits, less what was quiet."""
        cost = (len(json.dumps(content)) + _ENVELOPE_BYTES) / BYTES_PER_S
        self._paid_until = min(max(self._paid_until, now - 0.3) + cost, now + _LONGEST_WAIT_S)
        return cost

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
