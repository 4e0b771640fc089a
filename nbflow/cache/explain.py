"""Why a call computes, in words: what differs between its key and the nearest one that has a result.

The nearest entry is one of the same arguments where there is one (then an edit made the difference), else that with
the fewest differences; among equals the most recent. Differences are told with names, old and new values, and cells,
those first that explain the others: version, code, what code refers to, arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from nbflow._typing import Any
from nbflow._util import format_duration
from nbflow.cache.memory import EntryInfo
from nbflow.cache.parts import CacheKey, KeyPart

__all__ = ["Explanation", "Reasons", "differences", "evicted", "expired", "explain_miss", "nearest", "telling"]

_SHOWN = 3
_NOUNS = {"module": "module", "input": "input", "depends": "dependency", "format": "option"}
_RANKS = ("version", "format", "code", "helper", "class", "default", "closure", "global", "depends", "module")
_NEVER = "never run before"
_CODE = re.compile(r"`([^`]+)`")


class Reasons(str):
    """Reasons as one line of text, shortened to the most telling ones.

    Attributes:
        each: All of them.
    """

    __slots__ = ("each",)
    each: tuple[str, ...]

    def __new__(cls, each: Iterable[str]) -> Reasons:
        reasons = tuple(each)
        more = len(reasons) - _SHOWN
        text = super().__new__(cls, "; ".join(reasons[:_SHOWN]) + (f"; and {more} more" if more > 0 else ""))
        text.each = reasons
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return Reasons, (self.each,)


class Explanation(str):
    """A verdict and its reasons: text wherever text is wanted, a short list in a notebook.

    Attributes:
        verdict: What is, or would be: "fit would run".
        reasons: Why, the most telling first.
    """

    __slots__ = ("reasons", "verdict")
    verdict: str
    reasons: tuple[str, ...]

    def __new__(cls, verdict: str, reasons: Iterable[str] = ()) -> Explanation:
        known = tuple(reasons)
        end = "" if verdict.endswith((".", "…")) and not known else "."
        text = super().__new__(cls, f"{verdict}: {'; '.join(known)}{end}" if known else f"{verdict}{end}")
        text.verdict, text.reasons = verdict, known
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return Explanation, (self.verdict, self.reasons)

    def lines(self) -> str:
        """Return the verdict, and below it a line for each reason where there are several."""
        if len(self.reasons) < 2:
            return str(self)
        return "\n".join([f"{self.verdict}:", *(f"  • {reason}" for reason in self.reasons)])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        for number, line in enumerate(self.lines().splitlines()):
            if number:
                printer.break_()
            printer.text(line)

    def _repr_html_(self) -> str:
        if not self.reasons:
            return f"<div>{_marked(str(self))}</div>"
        if len(self.reasons) == 1:
            return f"<div><b>{_marked(self.verdict)}</b>: {_marked(self.reasons[0])}.</div>"
        items = "".join(f"<li>{_marked(reason)}</li>" for reason in self.reasons)
        return f'<div><b>{_marked(self.verdict)}</b>:<ul style="margin:.2em 0 0">{items}</ul></div>'


def _marked(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))


def explain_miss(key: CacheKey, others: Iterable[EntryInfo]) -> Reasons:
    """Return why `key` has no entry, given entries of the same task."""
    found = nearest(key, others)
    return Reasons([_NEVER] if found is None else differences(key.parts, found.parts))


def telling(reason: str | None) -> str:
    """Return a reason for a miss if it tells of a change, else nothing: a first call, or one with other arguments."""
    return "" if reason is None or reason == _NEVER or reason.startswith("argument `") else reason


def nearest(key: CacheKey, others: Iterable[EntryInfo]) -> EntryInfo | None:
    """Return the entry with which to compare `key`, or None where nothing can be compared."""
    best: tuple[tuple[bool, int, float], EntryInfo] | None = None
    arguments = _arguments(key.parts)
    for other in others:
        count = _count(key.parts, other.parts) if other.key != key.digest else 0
        if not count or not other.parts:  # stored by hand, or a list of files
            continue
        rank = (arguments != _arguments(other.parts), count, -other.created)
        if best is None or rank < best[0]:
            best = rank, other
    return None if best is None else best[1]


def _arguments(parts: Iterable[KeyPart]) -> set[tuple[str, str]]:
    return {(part.name, part.digest) for part in parts if part.kind == "argument"}


def _count(now: Sequence[KeyPart], before: Sequence[KeyPart]) -> int:
    """Return how many parts differ."""
    old = {(part.kind, part.name): part.digest for part in _comparable(now, before)}
    new = {(part.kind, part.name): part.digest for part in now}
    return sum(old.get(place) != new.get(place) for place in old.keys() | new.keys())


def expired(limit_s: float) -> str:
    """Return the words for an entry that is too old."""
    return f"expired (ttl {format_duration(limit_s) if limit_s >= 90 else f'{limit_s:g} s'})"


def evicted(ago_s: float) -> str:
    """Return the words for an entry that had to go."""
    return f"evicted {format_duration(max(ago_s, 0.0))} ago, to keep the store within its budgets of size and age"


def differences(now: Sequence[KeyPart], before: Sequence[KeyPart]) -> list[str]:
    """Return the differences between two lists of parts, the most telling first."""
    old = {(part.kind, part.name): part for part in _comparable(now, before)}
    new = {(part.kind, part.name): part for part in now}
    ranked: list[tuple[int, int, str]] = []
    for place, part in new.items():
        if place not in old:
            text = f" {part.text}" if part.kind == "version" and part.text else ""
            ranked.append((1, _rank(part), f"{_named(part)}{text} is new{_where(part)}"))
        elif old[place].digest != part.digest:
            ranked.append((0, _rank(part), _changed(old[place], part)))
    ranked.extend((2, _rank(part), f"{_named(part)} is gone") for place, part in old.items() if place not in new)
    return [text for _, _, text in sorted(ranked, key=lambda each: each[:2])]


def _comparable(now: Sequence[KeyPart], before: Sequence[KeyPart]) -> Sequence[KeyPart]:
    """Leave out the files that a result was made from where it is not known yet which ones will be read."""
    if any(part.kind == "file" for part in now):
        return before
    return [part for part in before if part.kind != "file"]


def _rank(part: KeyPart) -> int:
    return _RANKS.index(part.kind) if part.kind in _RANKS else len(_RANKS)


def _named(part: KeyPart) -> str:
    if part.kind in ("code", "version"):
        return part.kind
    return f"{_NOUNS.get(part.kind, part.kind)} `{part.name}`"


def _where(part: KeyPart) -> str:
    return f" ({part.where})" if part.where else ""


def _changed(before: KeyPart, now: KeyPart) -> str:
    if before.text and now.text and before.text != now.text:
        return f"{_named(now)} {before.text} → {_told_short(before.text, now.text)}{_where(now)}"
    if now.text:  # both look the same: "DataFrame 336776×19"
        inside = f"{now.text}, other values" + (f"; {now.where}" if now.where else "")
        return f"{_named(now)} changed ({inside})"
    return f"{_named(now)} changed{_where(now)}"


def _told_short(before: str, now: str) -> str:
    """Leave out the type where only a shape has changed: `DataFrame 10×2 → 12×2`."""
    kind, _, shape = now.partition(" ")
    return shape if shape[:1].isdigit() and "×" in now and before.startswith(f"{kind} ") else now
