"""The memory tier: recent results, least recently used first to go.

A value that cannot change (numbers, text, tuples of such) is handed out as it is. Any other is kept as bytes and
built anew for each hit, so that callers never share what one of them may change.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from sys import getsizeof

from nbflow._typing import Any, NamedTuple
from nbflow.cache.blob import Packed, Unloadable, unpack
from nbflow.cache.memo import remember
from nbflow.cache.parts import LEAD, KeyPart

__all__ = ["UNKNOWN", "EntryInfo", "Found", "MemoryTier", "is_immutable", "unpack_readonly"]

_IMMUTABLE = frozenset({int, float, complex, bool, str, bytes, type(None), type(Ellipsis), range})
_IMMUTABLE_NAMES = frozenset(
    "datetime.date datetime.time datetime.datetime datetime.timedelta datetime.timezone decimal.Decimal "
    "fractions.Fraction uuid.UUID pathlib.PosixPath pathlib.WindowsPath pathlib.PurePosixPath pathlib.PureWindowsPath "
    "pathlib._local.PosixPath pathlib._local.WindowsPath re.Pattern zoneinfo.ZoneInfo nbflow.core.reads.Reads".split()
)
_NESTED = frozenset({tuple, frozenset})
_OVERHEAD = 200  # bytes that holding a result takes, about
UNKNOWN = b"?"
"""Stands for the content of a read-only result that cannot be digested."""

_MEMBERS = 1000  # members of a tuple that are looked at
_RECENT = 3  # results of a task that are remembered for comparison


class Found(NamedTuple):
    """A hit.

    Attributes:
        value: The result.
        saved_s: Seconds that computing it had taken.
        created: When it was computed, seconds since the epoch.
        key: Digest of the key.
    """

    value: Any
    saved_s: float
    created: float
    key: str


class EntryInfo:
    """What is known of one stored result; times in seconds since the epoch, `tier` is "memory" or "disk"."""

    __slots__ = (
        "cell",
        "cost_s",
        "created",
        "hits",
        "key",
        "last_used",
        "parts",
        "pinned",
        "size_bytes",
        "task",
        "tier",
        "ttl",
    )

    def __init__(
        self,
        key: str,
        task: str,
        cell: str | None,
        created: float,
        last_used: float,
        cost_s: float,
        size_bytes: int,
        ttl: float | None,
        parts: tuple[KeyPart, ...],
        hits: int = 0,
        pinned: bool = False,
        tier: str = "memory",
    ) -> None:
        self.key = key
        self.task = task
        self.cell = cell
        self.created = created
        self.last_used = last_used
        self.cost_s = cost_s
        self.size_bytes = size_bytes
        self.ttl = ttl
        self.parts = parts
        self.hits = hits
        self.pinned = pinned
        self.tier = tier

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EntryInfo):
            return NotImplemented
        return self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        return f"EntryInfo({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"

    def as_dict(self) -> dict[str, Any]:
        """Return all of it by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def leads(self) -> bool:
        """Whether it is no result itself, but names the files that a call read and so leads to one."""
        return self.parts == (LEAD,)


class _Held:
    """One result: `found` to be handed out as it is, or `packed` to be built anew; `info` where it was made here.

    A result with `content` is handed out read-only, over the buffers that are held here.
    """

    __slots__ = ("content", "cost_s", "created", "found", "fresh", "info", "packed", "session", "size", "ttl")

    def __init__(
        self,
        found: Found | None,
        packed: Packed | None,
        created: float,
        ttl: float | None,
        cost_s: float,
        content: bytes = b"",
    ) -> None:
        self.found = found
        self.packed = packed
        self.created = created
        self.ttl = ttl
        self.cost_s = cost_s
        self.content = content
        self.info: EntryInfo | None = None
        self.session = False  # nowhere else
        self.fresh = 0  # hits since it came here
        if packed is None:
            self.size = _OVERHEAD + (0 if found is None else _size_of(found[0]))
        else:  # of a read-only result the buffers are mapped, or part of a seal that is short
            self.size = _OVERHEAD + (len(packed.head) if content else packed.size)


def unpack_readonly(packed: Packed, content: bytes) -> Any:
    """Build a value over buffers that nobody can write to, and remember its content.

    Raises:
        Unloadable: It cannot be built.
    """
    value = unpack(packed.head, packed.buffers)
    if content != UNKNOWN:
        remember(value, content)
    return value


def is_immutable(value: Any) -> bool:
    """Whether nobody can change `value`, so that all may share it."""
    kind = type(value)
    if kind in _IMMUTABLE:
        return True
    if kind in _NESTED:
        return len(value) <= _MEMBERS and all(map(is_immutable, value))
    if kind.__module__ == "builtins":
        return False
    return f"{kind.__module__}.{kind.__qualname__}" in _IMMUTABLE_NAMES


def _size_of(value: Any) -> int:
    return getsizeof(value) + (sum(map(_size_of, value)) if type(value) in _NESTED else 0)


class MemoryTier:
    """Results in memory, within a budget of bytes; safe from any thread.

    Args:
        max_bytes: The budget.
        wall: Returns seconds since the epoch.
        dropped: Told the key and the untold hits of each entry that leaves.
    """

    def __init__(
        self, max_bytes: int, wall: Callable[[], float], dropped: Callable[[str, int], None] | None = None
    ) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.hits = 0
        self._wall = wall
        self._dropped = dropped
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._recent: dict[str, tuple[EntryInfo, ...]] = {}
        self._lock = threading.RLock()

    def peek(self, digest: str, ttl: float | None = None) -> Found | None:
        """Return the hit under `digest`, or None; an expired entry is no hit.

        Args:
            digest: Digest of the key.
            ttl: Seconds after which the entry is too old, where the entry's own limit does not count.
        """
        held = self._held.get(digest)
        if held is None:
            return None
        limit = held.ttl if ttl is None else ttl
        if limit is not None and self._wall() - held.created > limit:
            return None
        held.fresh += 1
        self.hits += 1
        try:
            self._held.move_to_end(digest)
        except KeyError:  # left in this very moment
            pass
        return held.found or self._built(digest, held)

    def holds(self, digest: str, ttl: float | None = None) -> bool:
        """Whether `peek` would find something, without building it or counting a use."""
        held = self._held.get(digest)
        limit = ttl if ttl is not None or held is None else held.ttl
        return held is not None and (limit is None or self._wall() - held.created <= limit)

    def _built(self, digest: str, held: _Held) -> Found | None:
        packed = held.packed
        assert packed is not None
        try:
            value = (
                unpack_readonly(packed, held.content)
                if held.content
                else unpack(packed.head, [bytearray(buffer) for buffer in packed.buffers])
            )
        except Unloadable:
            self.drop(digest)
            return None
        return Found(value, held.cost_s, held.created, digest)

    def keep(
        self,
        info: EntryInfo,
        value: Any,
        packed: Packed | None,
        *,
        ttl: float | None,
        session: bool,
        content: bytes = b"",
    ) -> bool:
        """Hold a result that was made here, if it fits the budget.

        Args:
            info: What is known of it.
            value: The result.
            packed: The same taken apart; None where `value` cannot change.
            ttl: Seconds after which it is too old.
            session: Whether this is its only place.
            content: Of a result that is handed out read-only, over the buffers of `packed`.

        Returns:
            Whether it is held.
        """
        found = tuple.__new__(Found, (value, info.cost_s, info.created, info.key)) if packed is None else None
        if packed is not None and not content:
            packed = packed.detached()
        held = _Held(found, packed, info.created, ttl, info.cost_s, content)
        held.info, held.session = info, session
        info.size_bytes = info.size_bytes or held.size
        if info.parts and not info.leads:
            self._recent[info.task] = (*self._recent.get(info.task, ())[1 - _RECENT :], info)
        return self._hold(info.key, held)

    def keep_loaded(self, found: Found, packed: Packed | None, ttl: float | None, content: bytes = b"") -> bool:
        """Hold a result that came from disk; as `keep`, without what the disk knows better."""
        held = _Held(None if packed else found, packed, found.created, ttl, found.saved_s, content)
        return self._hold(found.key, held)

    def _hold(self, digest: str, held: _Held) -> bool:
        with self._lock:
            all_held, size = self._held, held.size
            if digest in all_held:
                self.drop(digest)
            if size > self.max_bytes:
                return False
            all_held[digest] = held
            self.bytes += size
            while self.bytes > self.max_bytes:
                self.drop(next(iter(all_held)))
        return True

    def drop(self, digest: str) -> bool:
        """Forget one result; return whether it was there."""
        if digest not in self._held:
            return False
        with self._lock:
            held = self._held.pop(digest, None)
            if held is None:
                return False
            self.bytes -= held.size
        if held.fresh and not held.session and self._dropped is not None:
            self._dropped(digest, held.fresh)
        return True

    def clear(self) -> None:
        """Forget all."""
        self._recent.clear()
        with self._lock:
            for digest in list(self._held):
                self.drop(digest)

    def related(self, task: str) -> tuple[EntryInfo, ...]:
        """Return what is known of the last results of a task that were made here."""
        return self._recent.get(task, ())

    def infos(self) -> Iterator[tuple[EntryInfo, bool]]:
        """Return what is known of the results, and whether they are only here; newest use last."""
        from copy import copy  # only asked for by people

        for held in list(self._held.values()):
            if held.info is not None:
                info = copy(held.info)
                info.hits += held.fresh
                yield info, held.session

    def __len__(self) -> int:
        return len(self._held)
