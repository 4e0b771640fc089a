"""Why a key misses, in words: the parts that differ from the nearest entry of the same task.

The nearest entry is the one with the fewest differing parts, and of these the most recent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nbflow._util import format_duration
from nbflow.cache.memory import EntryInfo
from nbflow.cache.parts import CacheKey, KeyPart

__all__ = ["differences", "expired", "explain_miss"]

_SHOWN = 3
_NOUNS = {"module": "module", "input": "input", "depends": "dependency"}


def explain_miss(key: CacheKey, others: Iterable[EntryInfo]) -> str:
    """Return why `key` has no entry, given entries of the same task."""
    best: tuple[int, float] | None = None
    nearest: list[str] = []
    for other in others:
        if other.key == key.digest:
            continue
        found = differences(key.parts, other.parts)
        rank = (len(found), -other.created)
        if found and (best is None or rank < best):
            best, nearest = rank, found
    if best is None:
        return "never run before"
    more = len(nearest) - _SHOWN
    return "; ".join(nearest[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def expired(limit_s: float) -> str:
    """Return the words for an entry that is too old."""
    return f"expired (ttl {format_duration(limit_s) if limit_s >= 90 else f'{limit_s:g} s'})"


def differences(now: Sequence[KeyPart], before: Sequence[KeyPart]) -> list[str]:
    """Return the differences between two lists of parts, code first."""
    old = {(part.kind, part.name): part for part in before}
    new = {(part.kind, part.name): part for part in now}
    out = []
    for place, part in new.items():
        if place not in old:
            out.append(f"{_named(part)} is new{_where(part)}")
        elif old[place].digest != part.digest:
            out.append(_changed(old[place], part))
    out.extend(f"{_named(part)} is gone" for place, part in old.items() if place not in new)
    return out


def _named(part: KeyPart) -> str:
    if part.kind == "code":
        return "code"
    return f"{_NOUNS.get(part.kind, part.kind)} `{part.name}`"


def _where(part: KeyPart) -> str:
    return f" ({part.where})" if part.where else ""


def _changed(before: KeyPart, now: KeyPart) -> str:
    if before.text and now.text and before.text != now.text:
        return f"{_named(now)} {before.text} → {now.text}{_where(now)}"
    return f"{_named(now)} changed{_where(now)}"
