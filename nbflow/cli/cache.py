"""`nbflow cache`: what is stored beside a notebook, why it was computed, how to share it and how to get rid of it.

Every action works on one store: that of the working directory, or of the notebook or folder that `--at` names. Entries
are looked at, read back, removed, bundled or loaded; nothing is ever run, and no result is unpickled.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbflow._util import format_duration, perhaps
from nbflow.cache.explain import Explanation, differences, nearest
from nbflow.cache.opening import open_store as open_in
from nbflow.cache.parts import CacheKey
from nbflow.cache.store import CacheStore, EntryInfo
from nbflow.cli import cache_keys, cache_share, console
from nbflow.cli.console import CliError, ExitCode, say, usage
from nbflow.cli.table import clip, table
from nbflow.cli.units import count_of, format_size, parse_age, parse_size
from nbflow.errors import CacheError
from nbflow.settings import load_settings

__all__ = ["configure", "execute", "open_store"]

_ORDERS: dict[str, Callable[[EntryInfo], Any]] = {
    "used": lambda entry: -entry.last_used,
    "created": lambda entry: -entry.created,
    "size": lambda entry: -entry.size_bytes,
    "cost": lambda entry: -entry.cost_s,
    "hits": lambda entry: -entry.hits,
    "saved": lambda entry: -entry.hits * entry.cost_s,
    "task": lambda entry: (entry.task, -entry.last_used),
}
_Run = Callable[[CacheStore, argparse.Namespace], int]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `nbflow cache`."""
    parser.description = "Look at, check, share and clean the results stored beside a notebook."
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, run: _Run, summary: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=summary, description=summary.capitalize() + ".", allow_abbrev=False)
        sub.add_argument(
            "--at", metavar="FILE|DIR", type=Path, default=Path(), help="notebook or folder (default: here)"
        )
        sub.set_defaults(action=run)
        return sub

    ls = action("ls", _ls, "list stored results, the last used first")
    ls.add_argument("task", nargs="?", help="only those of this task")
    ls.add_argument("--sort", choices=sorted(_ORDERS), default="used", help="what comes first (default: used)")
    ls.add_argument("--limit", metavar="N", type=int, help="at most so many")
    ls.add_argument("--larger", metavar="SIZE", type=parse_size, help="only those of at least this size, such as 10M")
    ls.add_argument("--unused", metavar="AGE", type=parse_age, help="only those not used for so long, such as 7d")
    ls.add_argument("--pinned", action="store_true", help="only pinned ones")
    ls.add_argument("--json", action="store_true", help="print a JSON list")
    stats = action("stats", _stats, "add up results, hits, seconds saved, and what each tier holds")
    stats.add_argument("--json", action="store_true", help="print a JSON object")
    why = action("why", _why, "say why the newest result of a task was computed")
    why.add_argument("task", help="name of the task, or the beginning of a key (see ls)")
    prune = action("prune", _prune, "enforce the budgets of size and age now")
    prune.add_argument("--max-size", metavar="SIZE", type=parse_size, help="a smaller budget, such as 500M")
    prune.add_argument(
        "--unused", metavar="AGE", type=parse_age, help="remove what was not used for so long, such as 7d"
    )
    cache_share.configure_prune(prune)
    clear = action("clear", _clear, "remove all results, or those of one task")
    clear.add_argument("task", nargs="?", help="only those of this task")
    clear.add_argument("--yes", action="store_true", help="do not ask")
    pin = action("pin", _pin, "keep a result whatever the budgets")
    pin.add_argument("key", help="the beginning of its key (see ls)")
    pin.add_argument("--off", action="store_true", help="no longer")
    action("verify", _verify, "read every result back to the last byte; what is damaged is set aside")
    cache_share.configure(action)
    cache_keys.configure(actions)


def execute(arguments: argparse.Namespace) -> int:
    """Do what was asked for and return the exit code."""
    try:
        if not hasattr(arguments, "at"):
            return int(arguments.action(arguments))
        store = open_store(arguments.at)
        try:
            return int(arguments.action(store, arguments))
        finally:
            store.close()
    except (CacheError, OSError) as error:
        raise CliError(str(error), ExitCode.FAILED) from None


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
    return open_in(settings.cache_store or home / "cache", settings, tell=lambda text: say(f"nbflow: {text}"))


def _ls(store: CacheStore, arguments: argparse.Namespace) -> int:
    now = time.time()
    entries = [
        entry
        for entry in store.entries(arguments.task)
        if entry.size_bytes >= (arguments.larger or 0)
        and now - entry.last_used >= (arguments.unused or 0.0)
        and (entry.pinned or not arguments.pinned)
    ]
    entries = sorted(entries, key=_ORDERS[arguments.sort])[: arguments.limit]
    if arguments.json:
        facts = [{**entry.as_dict(), "parts": [part._asdict() for part in entry.parts]} for entry in entries]
        say(json.dumps(facts, ensure_ascii=False), sys.stdout)
        return ExitCode.OK
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
    number = count_of(len(entries), "result")
    say(f"{number}, {format_size(size)}, {format_duration(cost)} to compute · {store.location}", sys.stdout)
    return ExitCode.OK


def _stats(store: CacheStore, arguments: argparse.Namespace) -> int:
    entries, facts = list(store.entries()), store.stats()
    hits, saved = sum(entry.hits for entry in entries), sum(entry.hits * entry.cost_s for entry in entries)
    if arguments.json:
        say(json.dumps({**facts, "hits": hits, "saved_s": saved}, ensure_ascii=False), sys.stdout)
        return ExitCode.OK
    limit = f" of {format_size(facts['max_bytes'])}" if facts["max_bytes"] else ""
    pinned = sum(entry.pinned for entry in entries)
    number = count_of(len(entries), "result")
    say(f"disk    {number}, {format_size(facts['bytes'])}{limit}, {pinned} pinned · {store.location}", sys.stdout)
    say(f"used    {hits} hits saved {format_duration(saved)}", sys.stdout)
    if facts["quarantined"]:
        say(f"damage  {facts['quarantined']} files set aside in quarantine/", sys.stdout)
    shared = facts.get("shared")
    if shared:
        way = "read-only" if shared["readonly"] else "read and written"
        say(f"shared  {shared['url']}, {way}; `nbflow doctor` asks whether it answers", sys.stdout)
    return ExitCode.OK


def _why(store: CacheStore, arguments: argparse.Namespace) -> int:
    everything = list(store.entries())
    entries = [entry for entry in everything if entry.task == arguments.task]
    if not entries and re.fullmatch(r"[0-9a-f]{4,32}", arguments.task):
        newest = _entry(store, arguments.task)
        entries = [entry for entry in everything if entry.task == newest.task and entry.created <= newest.created]
    if not entries:
        raise _nothing_of(arguments.task, everything)
    entries.sort(key=lambda entry: entry.created)
    newest, older = entries[-1], entries[:-1]
    found = nearest(CacheKey(newest.key, newest.task, parts=newest.parts), older)
    ago = format_duration(max(0.0, time.time() - newest.created))
    reasons = ["never run before"] if found is None else differences(newest.parts, found.parts)
    cell = f" ({newest.cell})" if newest.cell else ""
    verdict = f"{newest.task}{cell} was computed {ago} ago in {format_duration(newest.cost_s)}"
    say(Explanation(verdict, reasons).lines(), sys.stdout)
    return ExitCode.OK


def _nothing_of(task: str, everything: list[EntryInfo]) -> CliError:
    known = sorted({entry.task for entry in everything})
    return usage(
        f"no result of {task} is stored{perhaps(task, known) or ';'} tasks with results: {', '.join(known) or 'none'}"
    )


def _entry(store: CacheStore, beginning: str) -> EntryInfo:
    found = [entry for entry in store.entries() if entry.key.startswith(beginning)]
    if len(found) != 1:
        raise usage(f"{len(found) or 'no'} keys begin with {beginning}; `nbflow cache ls --json` shows them whole")
    return found[0]


def _prune(store: CacheStore, arguments: argparse.Namespace) -> int:
    if arguments.shared:
        return cache_share.prune(store, arguments)
    if arguments.older is not None or arguments.dry_run:
        raise usage(
            "--older and --dry-run go with --shared; the local cache knows --unused, and `ls --unused AGE` shows it"
        )
    return _removed(store, store.prune(arguments.max_size, unused_s=arguments.unused))


def _clear(store: CacheStore, arguments: argparse.Namespace) -> int:
    entries = list(store.entries(arguments.task))
    if arguments.task and not entries:
        raise _nothing_of(arguments.task, list(store.entries()))
    if entries and not arguments.yes:
        of = f" of {arguments.task}" if arguments.task else ""
        what = f"{count_of(len(entries), 'result')}{of} ({format_size(sum(entry.size_bytes for entry in entries))})"
        if not sys.stdin.isatty():
            raise usage(f"this would remove {what} from {store.location}; say --yes if it should")
        if input(f"Remove {what} from {store.location}? [y/N] ").strip().lower() not in ("y", "yes"):
            say("nothing was removed", sys.stdout)
            return ExitCode.OK
    return _removed(store, store.clear(arguments.task))


def _removed(store: CacheStore, count: int) -> int:
    facts = store.stats()
    left = f"{facts['entries']} left, {format_size(facts['bytes'])}"
    say(f"removed {count_of(count, 'result')}; {left} · {store.location}", sys.stdout)
    return ExitCode.OK


def _pin(store: CacheStore, arguments: argparse.Namespace) -> int:
    entry = _entry(store, arguments.key)
    store.pin(entry.key, not arguments.off)
    say(f"{entry.task} ({entry.key[:8]}) is {'no longer pinned' if arguments.off else 'pinned'}", sys.stdout)
    return ExitCode.OK


def _verify(store: CacheStore, arguments: argparse.Namespace) -> int:
    count = store.stats()["entries"]
    faults = store.verify()
    for entry, fault in faults:
        say(f"nbflow: {entry.task} ({entry.key[:8]}): {fault}")
    say(f"{count - len(faults)} of {count} results are sound · {store.location}", sys.stdout)
    return ExitCode.FAILED if faults else ExitCode.OK
