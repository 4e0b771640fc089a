"""Entry points of ours that installed packages declare.

`importlib.metadata` takes a tenth of a second to say that there are none, as it parses what every package declares.
Looking for the names of our groups in the files takes a few milliseconds, and what a folder with many packages
declares is remembered while the folder stays unchanged, in a file that all processes of the user share.
"""

from __future__ import annotations

import os
import sys
import time

from nbflow._typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["entry_points"]

_PREFIX = b"[nbflow."
_CHUNK = 1 << 16  # bytes that are read at once; memory for many more would be asked of the system for each file
_MANY = 16  # packages in a folder from which on it is quicker to remember what they declare
_SETTLED_NS = 2_000_000_000  # age from which on another change gives a folder another time on every file system


class _Seen(NamedTuple):
    """What a folder declares.

    Attributes:
        changed: When an entry of the folder was last added or removed, in nanoseconds.
        groups: Our groups for which a package in it has entry points.
    """

    changed: int
    groups: frozenset[str]


_seen: dict[str, _Seen] | None = None


def entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of one of our groups, sorted by name.

    Args:
        group: The whole name of the group, such as "nbflow.hooks".

    Returns:
        What installed packages declare now. A package that is edited in place is not noticed, one that is installed,
        upgraded or removed is. Safe from any thread: at worst two of them look at the same folders.
    """
    if not _is_declared(group):
        return []
    from importlib.metadata import entry_points as find  # slow, hence only where there is something to find

    return sorted(find(group=group), key=lambda point: point.name)


def _is_declared(group: str) -> bool:
    global _seen
    if _seen is None:
        _seen = _recall()
    learned = False
    found = False
    for place in sys.path:
        folder = place or "."
        try:
            changed = os.stat(folder).st_mtime_ns
            known = _seen.get(folder)
            if known is None or known.changed != changed:
                groups, packages = _look_into(folder)
                known = _Seen(changed, groups)
                if packages >= _MANY and os.path.isabs(folder) and time.time_ns() - changed > _SETTLED_NS:
                    _seen[folder] = known
                    learned = True
        except OSError:  # an archive, or nothing
            continue
        found = found or group in known.groups
    if learned:
        _remember(_seen)
    return found


def _look_into(folder: str) -> tuple[frozenset[str], int]:
    """Return our groups that packages in a folder have entry points for, and how many packages there are."""
    with os.scandir(folder) as entries:
        packages = [entry.path for entry in entries if entry.name.endswith((".dist-info", ".egg-info"))]
    groups: set[str] = set()
    for package in packages:
        try:
            file = os.open(f"{package}/entry_points.txt", os.O_RDONLY)  # a third of what a file object costs
        except OSError:  # most have none
            continue
        try:
            text = data = os.read(file, _CHUNK)
            while len(data) == _CHUNK:
                data = os.read(file, _CHUNK)
                text += data
        finally:
            os.close(file)
        if _PREFIX in text:
            lines = text.decode("utf-8", "replace").splitlines()
            groups.update(line.strip()[1:-1] for line in lines if line.startswith("[nbflow."))
    return frozenset(groups), len(packages)


def _place() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "nbflow", "entry-points")


def _recall() -> dict[str, _Seen]:
    """Read what was remembered; lines that say nothing are left out."""
    try:
        with open(_place(), encoding="utf-8", errors="surrogateescape") as stream:
            lines = stream.read().split("\n")
    except OSError:
        return {}
    seen: dict[str, _Seen] = {}
    for line in lines:
        changed, _, rest = line.partition("\t")
        groups, tab, folder = rest.partition("\t")
        if tab and changed.isdecimal():
            seen[folder] = _Seen(int(changed), frozenset(groups.split()))
    return seen


def _remember(seen: dict[str, _Seen]) -> None:
    """Write what is known of the folders that still exist; who cannot write looks again next time."""
    place = _place()
    lines = [
        f"{known.changed}\t{' '.join(sorted(known.groups))}\t{folder}\n"
        for folder, known in list(seen.items())
        if "\n" not in folder and os.path.isdir(folder)
    ]
    beside = f"{place}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
        with open(beside, "w", encoding="utf-8", errors="surrogateescape", newline="\n") as stream:
            stream.writelines(lines)
        os.replace(beside, place)
    except OSError:  # read-only, full, or no home at all
        pass
