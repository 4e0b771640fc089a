"""`nbflow cache bundle`, `load` and `prune --shared`: results to take along, and those of a shared place.

A bundle is sealed by a key. Whoever opens it needs that key, and trusts whoever has it as much as the author of the
code: opening a result can run code. Removing results needs no key, only the right to write.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from nbflow.cache.bundle import Bundled, load_bundle, write_bundle
from nbflow.cache.keyring import find_key, short_id
from nbflow.cache.shared import SharedTier
from nbflow.cache.store import CacheStore
from nbflow.cli.console import ExitCode, say, usage
from nbflow.cli.units import count_of, format_size, parse_age

__all__ = ["configure", "configure_prune", "prune"]


def configure(action: Callable[[str, Callable[[CacheStore, argparse.Namespace], int], str], Any]) -> None:
    """Add the two actions; `action(name, run, summary)` makes a parser."""
    bundle = action("bundle", _bundle, "write results into a signed file or folder, for Binder, CI or a colleague")
    bundle.add_argument("out", metavar="OUT", type=Path, help="a path that ends in .zip, or a folder")
    bundle.add_argument("--tasks", metavar="A,B", help="only the results of these tasks")
    bundle.add_argument(
        "--key",
        metavar="NAME|FILE",
        help="the key that seals it: a name in your key ring, or a file, made if it is not there (default: OUT.key)",
    )
    load = action("load", _load, "take the results of a bundle into this cache")
    load.add_argument("bundle", metavar="BUNDLE", help="path or URL of the bundle")
    load.add_argument("--key", metavar="NAME|FILE", help="the key that sealed it (default: any in your key ring)")


def configure_prune(parser: argparse.ArgumentParser) -> None:
    """Add what `nbflow cache prune` can do about the shared cache."""
    parser.add_argument("--shared", action="store_true", help="in the shared cache, for everybody who uses it")
    parser.add_argument(
        "--older",
        metavar="AGE",
        type=parse_age,
        help="with --shared: remove what was computed so long ago, such as 90d",
    )
    parser.add_argument("--dry-run", action="store_true", help="with --shared: only say what would be removed")


def prune(store: CacheStore, arguments: argparse.Namespace) -> int:
    """Remove results from the shared cache and return the exit code."""
    if arguments.unused is not None:
        raise usage("a shared cache does not know when a result was last used; say --older instead of --unused")
    if not isinstance(store.shared, SharedTier):
        raise usage("no shared cache is set; put cache_shared into [tool.nbflow] of pyproject.toml")
    done = store.shared.prune(arguments.max_size, older_s=arguments.older, dry_run=arguments.dry_run)
    removed = f"{count_of(done.removed, 'result')} ({format_size(done.removed_bytes)})"
    left = f"{done.left} left, {format_size(done.left_bytes)}"
    say(f"{'would remove' if arguments.dry_run else 'removed'} {removed}; {left} · {store.shared.url}", sys.stdout)
    return ExitCode.OK


def _bundle(store: CacheStore, arguments: argparse.Namespace) -> int:
    tasks = None if arguments.tasks is None else [name for name in arguments.tasks.split(",") if name]
    key = find_key(arguments.key or str(arguments.out.with_suffix(".key")), make=True)
    done = write_bundle(store, arguments.out, key, tasks)
    say(f"{_told(done)} → {arguments.out}, sealed by key {key.name} ({short_id(key.id)}) in {key.path}", sys.stdout)
    say(
        f'to use it: cache_shared = "{arguments.out}" and cache_trust = ["{key.path}"] in [tool.nbflow], or '
        f"nbflow cache load {arguments.out} --key {key.path}",
        sys.stdout,
    )
    return ExitCode.OK


def _load(store: CacheStore, arguments: argparse.Namespace) -> int:
    trust = None if arguments.key is None else [find_key(arguments.key).path.as_posix()]
    place = Path(arguments.bundle)
    if "://" not in arguments.bundle:
        if not place.exists():
            raise usage(f"{place}: no such file or folder")
        if place.is_file() and not is_zipfile(place):
            raise usage(f"{place} is no bundle, which is a .zip file or a folder; `nbflow cache bundle OUT` writes one")
    done = load_bundle(store, arguments.bundle, trust)
    say(f"{_told(done)} ← {arguments.bundle} · {store.location}", sys.stdout)
    if done.skipped.get("refused"):
        say(
            "nbflow: refused results were sealed by a key that you do not trust; name its file with --key, or run "
            "nbflow cache key add FILE"
        )
    bad = done.skipped.get("refused", 0) + done.skipped.get("damaged", 0)
    return ExitCode.FAILED if bad else ExitCode.OK


def _told(done: Bundled) -> str:
    skipped = "".join(f", {number} {what}" for what, number in done.skipped.items())
    return f"{count_of(done.count, 'result')}, {format_size(done.size_bytes)}{skipped}"
