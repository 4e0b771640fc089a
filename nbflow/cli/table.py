"""Text tables and the summary of a run.

Rows are the dicts that a kernel reports (see `nbflow.notebook.report.TaskRow`). Data in, text out, so that it looks
the same in a terminal, in a log file and in a test; only `finish` prints.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nbflow._util import format_duration
from nbflow.cache.explain import telling
from nbflow.cli import console
from nbflow.cli.console import ExitCode
from nbflow.cli.units import count_of

__all__ = [
    "clip",
    "counts",
    "finish",
    "saved_seconds",
    "summary_line",
    "table",
    "task_seconds",
    "task_table",
    "verdict",
]

_UNTOLD = frozenset({"bars", "caller", "id", "since", "traceback"})


def clip(text: str, limit: int) -> str:
    """Return the first line of `text`, cut to `limit` characters."""
    lines = text.splitlines()
    line = lines[0] if lines else ""
    return line if len(line) <= limit else line[: max(0, limit - 1)] + "…"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = (), width: int = 100) -> str:
    """Return a table with aligned columns; the last column is cut where a line would get longer than `width`.

    Args:
        head: Titles of the columns.
        rows: Cells as text, as many per row as there are titles.
        right: Positions of columns that are aligned to the right.
        width: Longest line, in characters.
    """
    lines = [list(head), *(list(row) for row in rows)]
    sizes = [max(len(line[column]) for line in lines) for column in range(len(head))]
    sizes[-1] = min(sizes[-1], max(12, width - sum(sizes[:-1]) - 2 * (len(head) - 1)))
    aligned = set(right)

    def show(line: list[str]) -> str:
        cells = [
            clip(cell, size).rjust(size) if column in aligned else clip(cell, size).ljust(size)
            for column, (cell, size) in enumerate(zip(line, sizes, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([show(lines[0]), "  ".join("─" * size for size in sizes), *map(show, lines[1:])])


def verdict(row: Mapping[str, Any]) -> str:
    """Return the one word for a task: failed, cancelled, unfinished, ran, or cached (the worst that happened)."""
    for name, word in (("failed", "failed"), ("cancelled", "cancelled"), ("running", "unfinished")):
        if row[name]:
            return word
    return "ran" if row["ran"] or not row["cached"] else "cached"


def counts(row: Mapping[str, Any]) -> str:
    """Return how the calls of a task ended: `cached`, or `3 ran, 5 cached` where they differ."""
    words = {"ran": "ran", "cached": "cached", "failed": "failed", "cancelled": "cancelled", "running": "unfinished"}
    found = {word: row[name] for name, word in words.items() if row[name]}
    if len(found) == 1 and sum(found.values()) == row["total"]:
        return next(iter(found))
    return ", ".join(f"{number} {word}" for word, number in found.items()) or "nothing to do"


def task_table(rows: Sequence[Mapping[str, Any]], width: int = 100) -> str:
    """Return the table at the end of a run: one row per task and cell, items of maps counted in it."""
    lines = []
    for row in rows:
        remark = row["error"] or telling(row["why"])
        lines.append(
            [
                ("  " if row["nested"] else "") + clip(row["task"], 40),
                (row["cell"] or "").removeprefix("cell "),
                counts(row),
                count_of(row["total"], "item") if row["maps"] else str(row["total"]),
                format_duration(row["time_s"]),
                format_duration(row["saved_s"]) if row["saved_s"] else "",
                clip(remark, 120),
            ]
        )
    head = ["task", "cell", "result", "count", "time", "saved", "why"]
    if not any(line[-1] for line in lines):
        head.pop()
        lines = [line[:-1] for line in lines]
    return table(head, lines, right=(1, 3, 4, 5), width=width)


def task_seconds(rows: Iterable[Mapping[str, Any]]) -> float:
    """Return the seconds spent in tasks; those called by other tasks are part of their callers."""
    return float(sum(row["time_s"] for row in rows if not row["nested"]))


def saved_seconds(rows: Iterable[Mapping[str, Any]]) -> float:
    """Return the seconds that cached results had cost."""
    return float(sum(row["saved_s"] for row in rows))


def summary_line(rows: Sequence[Mapping[str, Any]], took_s: float) -> str:
    """Return the last line of a run, such as `5 tasks: 5 cached · saved 41.3 s · took 2.1 s`."""
    found = Counter(verdict(row) for row in rows)
    order = ("cached", "ran", "failed", "cancelled", "unfinished")
    pieces = ", ".join(f"{found[word]} {word}" for word in order if found[word])
    start = f"{len(rows)} task{'' if len(rows) == 1 else 's'}: {pieces}" if rows else "no tasks"
    saved = saved_seconds(rows)
    middle = f" · saved {format_duration(saved)}" if saved else ""
    return f"{start}{middle} · took {format_duration(took_s)}"


def finish(
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    took_s: float,
    code: ExitCode,
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Print what a run came to: one JSON object, or the table and the summary line.

    Args:
        facts: What else the JSON object shall say.
        rows: The tasks.
        took_s: Seconds of the whole run.
        code: What the command is going to return.
        quiet: Print nothing, unless JSON was asked for.
        as_json: Print JSON.
    """
    if as_json:
        whole = {
            **facts,
            "exit_code": int(code),
            "took_s": round(took_s, 3),
            "task_s": round(task_seconds(rows), 6),
            "saved_s": round(saved_seconds(rows), 6),
            "tasks": [{name: value for name, value in row.items() if name not in _UNTOLD} for row in rows],
        }
        console.say(json.dumps(whole, ensure_ascii=False, default=repr), sys.stdout)
    elif not quiet:
        if rows:
            console.say(task_table(rows, console.width() if sys.stdout.isatty() else 160), sys.stdout)
        console.say(summary_line(rows, took_s), sys.stdout)
