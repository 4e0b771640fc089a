"""How a run is told in words: the phrases that all faces of the panel share.

A state is always an icon *and* a word, never a colour alone. `headline` sums up a run, `details` says what is worth
knowing of one row. Everything here is a pure function of the model and, for what still runs, of the time it is asked
at.
"""

from __future__ import annotations

from nbflow._util import format_duration
from nbflow.cache.explain import telling
from nbflow.notebook.panel import rows as r
from nbflow.notebook.panel.model import Model

__all__ = [
    "ICONS",
    "counted",
    "details",
    "elapsed",
    "headline",
    "is_all_cached",
    "progress",
    "short",
    "stats",
    "summary",
    "worker",
]

ICONS = {
    r.QUEUED: "○",
    r.RUNNING: "▸",
    r.RETRYING: "↻",
    r.DONE: "✓",
    r.CACHED: "◆",
    r.FAILED: "✗",
    r.CANCELLED: "⊘",
    r.TIMED_OUT: "✗",
    r.LEFT: "◌",
}

_CANCELLED_BY = {"panel": "from the panel", "interrupt": "interrupted", "cancelled": ""}

_COUNTED = (
    ("running", "running"),
    ("queued", "queued"),
    ("done", "done"),
    ("cached", "cached"),
    ("failed", "failed"),
    ("cancelled", "cancelled"),
    ("left", "left running"),
)


def summary(model: Model) -> str:
    """Return the totals of a run, such as `7 tasks · all cached · saved 3 min 12 s`; empty if nothing ran."""
    sums = model.totals()
    if not sums.total:
        return ""
    return f"{sums.total:,} task{'s' if sums.total != 1 else ''} · {counted(sums)}"


def counted(sums: r.Counts) -> str:
    """Return how many calls are in which state, such as `59 done · 1 failed`, and the seconds that hits saved."""
    parts = []
    for field, word in _COUNTED:
        number = getattr(sums, field)
        if number and number == sums.total:
            parts.append(word if number == 1 else f"all {word}")
        elif number:
            parts.append(f"{number:,} {word}")
    if sums.saved_s >= 0.05:
        parts.append(f"saved {format_duration(sums.saved_s)}")
    return " · ".join(parts)


def stats(sums: r.Counts, parallel: float = 0.0) -> str:
    """Return what else is worth knowing of a run: how the cache did, and how many calls ran at a time."""
    parts = []
    if sums.missed and (sums.cached or sums.missed > 1):
        asked = sums.cached + sums.missed
        parts.append(f"{sums.cached:,} of {asked:,} from the cache")
    if parallel >= 1.1:
        parts.append(f"{parallel:g} at a time")
    return " · ".join(parts)


def headline(model: Model, now: float | None = None) -> str:
    """Return one line for a whole run: the totals and, unless everything came from the cache, how long it took.

    Args:
        model: The run.
        now: Wall-clock seconds while it goes on; None once it is over.

    Returns:
        The line, without an icon; empty if nothing ran.
    """
    text = summary(model)
    end = model.latest if now is None else now
    if text and not is_all_cached(model) and model.started is not None and end is not None:
        text += f" · {format_duration(max(0.0, end - model.started))}"
    return text


def is_all_cached(model: Model) -> bool:
    """Whether every call was a hit, so that the headline says all there is."""
    sums = model.totals()
    return sums.cached == sums.total


def progress(row: r.Row) -> str:
    """Return `13/40` where a row counts something, else an empty string."""
    if row.kind == r.TASK and row.counts is not None:
        return f"{row.counts.finished:,}/{row.counts.total:,}" if row.live else f"× {row.counts.total:,}"
    if row.total is not None:
        return f"{row.done:,.6g}/{row.total:,.6g}"
    return f"{row.done:,.6g}" if row.done else ""


def elapsed(row: r.Row, now: float | None = None) -> str:
    """Return how long a row took, or has been running at `now`."""
    if row.duration_s is not None and not row.live:
        return "" if row.state == r.CACHED else format_duration(row.duration_s)
    if row.live and row.started is not None and now is not None and row.state != r.QUEUED:
        return format_duration(max(0.0, now - row.started))
    return ""


def details(row: r.Row) -> list[str]:
    """Return what else is worth knowing of a row, most important first."""
    parts: list[str] = []
    counts = row.counts
    if counts is not None:
        for field in ("failed", "cancelled", "cached", "left"):
            number = getattr(counts, field)
            if number and number != counts.total:
                parts.append(f"{number:,} {'left running' if field == 'left' else field}")
    saved = counts.saved_s if counts is not None else row.saved_s
    if saved >= 0.05:
        parts.append(f"saved {format_duration(saved)}")
    if row.retries:
        parts.append(f"{row.retries:,} retr{'ies' if row.retries > 1 else 'y'}")
    elif row.attempts > 1:
        parts.append(f"attempt {row.attempts}")
    error = _CANCELLED_BY.get(row.error, row.error) if row.state == r.CANCELLED else row.error
    if error:
        parts.append(error)
    if row.note:
        parts.append(row.note)
    if row.state == r.RUNNING and row.label:
        parts.append(row.label)
    if row.kind == r.CALL and row.state != r.CACHED and (reason := telling(row.reason)):
        parts.append(f"why: {reason}")
    return parts


def worker(name: str) -> str:
    """Return a worker's name as short as it can be; the main thread is nothing to tell."""
    return "" if name == "MainThread" else name.removeprefix("nbflow-")


def short(text: str, limit: int) -> str:
    """Return `text` cut to `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
