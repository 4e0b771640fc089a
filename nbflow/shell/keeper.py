"""The keeper: what ends programs when the process that runs them is killed.

A process that is killed outright can end nobody. So a small shell beside it waits at a pipe, knows the groups of the
programs that run, and kills them when the pipe breaks. There is one for all programs that run at the same time, and
none soon after none does.
"""

from __future__ import annotations

import atexit
import subprocess
import threading

from nbflow._shield import shielded

__all__ = ["forget", "keep"]

_SCRIPT = """
groups=
while read -r what group; do
    rest=
    for other in $groups; do
        [ "$other" = "$group" ] || rest="$rest $other"
    done
    groups=$rest
    [ "$what" = forget ] || groups="$groups $group"
done
for group in $groups; do
    kill -9 "-$group" 2>/dev/null
done
"""

_IDLE_S = 0.5
"""How long a keeper without anything to keep stays, since the next program may come at once."""

_lock = threading.Lock()
_keeper: subprocess.Popen[bytes] | None = None
_kept: set[int] = set()
_closing: threading.Timer | None = None


def keep(group: int) -> None:
    """Let a process group be killed when this process ends, however it does; safe from any thread. POSIX only."""
    global _keeper
    with _lock:
        _kept.add(group)
        if _keeper is None:
            atexit.register(_close)
            nowhere = subprocess.DEVNULL
            command = ["/bin/sh", "-c", _SCRIPT]
            _keeper = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, cwd="/", start_new_session=True
            )
        _tell("keep", group)


def forget(group: int) -> None:
    """Take that back, before the group's number can be given to another."""
    global _closing
    with _lock:
        if group not in _kept:
            return
        _kept.discard(group)
        _tell("forget", group)
        if not _kept and _closing is None:
            _closing = threading.Timer(_IDLE_S, _close)
            _closing.name = "nbflow-shell-keeper"
            _closing.daemon = True
            shielded(_closing.start)


def _close() -> None:
    """End the keeper, if it has had nothing to keep for a while."""
    global _closing, _keeper
    ended = None
    with _lock:
        _closing = None
        if not _kept:
            ended, _keeper = _keeper, None
    atexit.unregister(_close)
    if ended is not None and ended.stdin is not None:
        ended.stdin.close()
        ended.wait()


def _tell(what: str, group: int) -> None:
    """Write to the keeper; one that somebody killed is done without."""
    if _keeper is not None and _keeper.stdin is not None:
        try:
            _keeper.stdin.write(f"{what} {group}\n".encode())
            _keeper.stdin.flush()
        except OSError:
            pass
