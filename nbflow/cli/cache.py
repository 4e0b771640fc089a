"""`nbflow cache`: what is stored beside a notebook, why it was computed, and how to get rid of it.

Every subcommand works on one store: that of the working directory, or of the notebook or folder that `--at` names.
Entries are only looked at (`ls`, `why`), read back (`verify`) or removed (`prune`, `clear`); nothing is ever run.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from nbflow._util import format_duration
from nbflow.cache.explain import explain_miss
from nbflow.cache.parts import CacheKey
from nbflow.cache.store import CacheStore, EntryInfo
from nbflow.cli import console
from nbflow.cli.console import CliError, ExitCode, say, usage
from nbflow.cli.table import clip, table
from nbflow.errors import CacheError
from nbflow.settings import load_settings

__all__ = ["configure", "execute", "format_size", "open_store", "parse_size"]

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of `nbflow cache`."""
    parser.description = "Look at, check and clean the results stored beside a notebook."
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(
        name: str, run: Callable[[CacheStore, argparse.Namespace], int], summary: str
    ) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=summary, description=summary.capitalize() + ".")
        sub.add_argument(
            "--at", metavar="FILE|DIR", type=Path, default=Path(), help="notebook or folder (default: here)"
        )
        sub.set_defaults(action=run)
        return sub

    ls = action("ls", _ls, "list stored results, the last used first")
    ls.add_argument("task", nargs="?", help="only those of this task")
    ls.add_argument("--json", action="store_true", help="print a JSON list")
    why = action("why", _why, "say why the newest result of a task was computed")
    why.add_argument("task", help="name of the task")
    prune = action("prune", _prune, "enforce the budgets of size and age now")
    prune.add_argument("--max-size", metavar="SIZE", type=parse_size, help="a smaller budget, such as 500M")
    clear = action("clear", _clear, "remove all results, or those of one task")
    clear.add_argument("task", nargs="?", help="only those of this task")
    action("verify", _verify, "read every result back; what is damaged is set aside")


def execute(arguments: argparse.Namespace) -> int:
    """Do what was asked for and return the exit code."""
    store = open_store(arguments.at)
    try:
        return int(arguments.action(store, arguments))
    except CacheError as error:
        raise CliError(str(error), ExitCode.FAILED) from None
    finally:
        store.close()


def open_store(place: Path) -> CacheStore:
    """Return the store that a notebook at `place`, or in the folder `place`, uses.

    Raises:
        CliError: There is no such file or folder, or its store is in memory only.
    """
    if not place.exists():
        raise usage(f"{place}: no such file or folder")
    folder = place if place.is_dir() else place.resolve().parent
    settings = load_settings(start=folder.resolve())
    if settings.cache_store == "off":
        raise usage("the cache is switched off (cache_store is off)")
    home = Path(settings.home).expanduser() if settings.home else folder / ".nbflow"
    location = settings.cache_store or home / "cache"
    return CacheStore(location, max_bytes=settings.cache_max_bytes, max_age_s=settings.cache_max_age_s)


def parse_size(text: str) -> int:
    """Return the bytes of `500`, `500M` or `1.5 GB`."""
    found = re.fullmatch(r"([0-9.]+) *([KMGT]?)I?B?", text.strip().upper())
    try:
        return int(float(found[1]) * _UNITS[found[2]]) if found else _refuse(text)
    except ValueError:
        return _refuse(text)


def _refuse(text: str) -> int:
    raise argparse.ArgumentTypeError(f"{text} is no size; write 500M or 2G")


def format_size(count: int) -> str:
    """Return `count` bytes as people read them."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _ls(store: CacheStore, arguments: argparse.Namespace) -> int:
    entries = sorted(store.entries(arguments.task), key=lambda entry: -entry.last_used)
    if arguments.json:
        say(json.dumps([asdict(entry) for entry in entries], ensure_ascii=False), sys.stdout)
        return ExitCode.OK
    now = time.time()
    rows = [
        [
            clip(entry.task, 40),
            (entry.cell or "").removeprefix("cell "),
            f"{format_duration(max(0.0, now - entry.last_used))} ago",
            format_duration(entry.cost_s),
            format_size(entry.size_bytes),
            str(entry.hits),
            entry.key[:8] + (" pinned" if entry.pinned else ""),
        ]
        for entry in entries
    ]
    if rows:
        head = ["task", "cell", "last used", "cost", "size", "hits", "key"]
        say(table(head, rows, right=(1, 2, 3, 4, 5), width=console.width()), sys.stdout)
    size, cost = sum(entry.size_bytes for entry in entries), sum(entry.cost_s for entry in entries)
    number = f"{len(entries)} result{'' if len(entries) == 1 else 's'}"
    say(f"{number}, {format_size(size)}, {format_duration(cost)} to compute · {store.location}", sys.stdout)
    return ExitCode.OK


def _why(store: CacheStore, arguments: argparse.Namespace) -> int:
    entries: list[EntryInfo] = sorted(store.entries(arguments.task), key=lambda entry: entry.created)
    if not entries:
        known = ", ".join(sorted({entry.task for entry in store.entries()})) or "none"
        raise usage(f"no result of {arguments.task} is stored; tasks with results: {known}")
    newest, older = entries[-1], entries[:-1]
    # Other items of the same map are the nearest, but say nothing: the same arguments computed again do.
    again = [entry for entry in older if _arguments(entry) == _arguments(newest)]
    ago = format_duration(max(0.0, time.time() - newest.created))
    reason = explain_miss(CacheKey(newest.key, newest.task, parts=newest.parts), again or older)
    say(f"{newest.task} was computed {ago} ago in {format_duration(newest.cost_s)}: {reason}", sys.stdout)
    return ExitCode.OK


def _arguments(entry: EntryInfo) -> set[tuple[str, str]]:
    return {(part.name, part.digest) for part in entry.parts if part.kind == "argument"}


def _prune(store: CacheStore, arguments: argparse.Namespace) -> int:
    return _removed(store, store.prune(arguments.max_size))


def _clear(store: CacheStore, arguments: argparse.Namespace) -> int:
    return _removed(store, store.clear(arguments.task))


def _removed(store: CacheStore, count: int) -> int:
    facts = store.stats()
    left = f"{facts['entries']} left, {format_size(facts['bytes'])}"
    say(f"removed {count} result{'' if count == 1 else 's'}; {left} · {store.location}", sys.stdout)
    return ExitCode.OK


def _verify(store: CacheStore, arguments: argparse.Namespace) -> int:
    entries = list(store.entries())
    damaged = [entry for entry in entries if store.fetch(entry.key, ttl=float("inf")) is None]
    for entry in damaged:
        reason = store.explain(CacheKey(entry.key, entry.task, parts=entry.parts))
        say(f"nbflow: {entry.task} ({entry.key[:8]}): {reason}")
    good = len(entries) - len(damaged)
    say(f"{good} of {len(entries)} results can be read · {store.location}", sys.stdout)
    return ExitCode.FAILED if damaged else ExitCode.OK
