"""`nbflow cache key`: the named keys that seal shared results.

Who has a key can make results that all who trust it open, and opening a result can run code. Keys live in the user's
configuration folder, readable by the user alone, and travel as files by a channel of the user's choice.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from nbflow.cache.keyring import add_key, find_key, make_key, ring, ring_folder, short_id
from nbflow.cache.trust import own_secret
from nbflow.cli.console import ExitCode, say, usage
from nbflow.cli.table import table
from nbflow.cli.units import count_of

__all__ = ["configure"]


def configure(actions: Any) -> None:
    """Add `key` and what it can do to the actions of `nbflow cache`."""
    summary = "make, add and list the keys that seal shared results"
    parser = actions.add_parser("key", help=summary, description=summary.capitalize() + ".")
    doings = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    new = doings.add_parser("new", help="make a key, in your key ring or in a file")
    new.add_argument("name", help="what to call it")
    new.add_argument("--file", metavar="FILE", type=Path, help="where to put it (default: your key ring)")
    new.set_defaults(action=_new)
    add = doings.add_parser("add", help="trust what was sealed by the key in a file")
    add.add_argument("file", metavar="FILE", type=Path, help="the key file")
    add.add_argument("--name", help="what to call it (default: the name in the file)")
    add.set_defaults(action=_add)
    ls = doings.add_parser("ls", help="list your keys")
    ls.set_defaults(action=_ls)
    rm = doings.add_parser("rm", help="no longer trust a key")
    rm.add_argument("name", help="what it is called")
    rm.set_defaults(action=_rm)


def _new(arguments: argparse.Namespace) -> int:
    key = make_key(arguments.name, arguments.file)
    say(f"made key {key.name} ({short_id(key.id)}) in {key.path}", sys.stdout)
    say(
        "whoever has this file can make results that run code as you; hand it to people you would let do so", sys.stdout
    )
    return ExitCode.OK


def _add(arguments: argparse.Namespace) -> int:
    key = add_key(arguments.file, arguments.name)
    say(f"results sealed by {key.name} ({short_id(key.id)}) are trusted from now on", sys.stdout)
    return ExitCode.OK


def _ls(arguments: argparse.Namespace) -> int:
    own = [] if own_secret() is None else [find_key("own")]
    rows = [[key.name, key.id, str(key.path)] for key in (*own, *ring())]
    if rows:
        say(table(["name", "id", "file"], rows, width=200), sys.stdout)
    say(f"{count_of(len(rows), 'key')}; further ones belong in {ring_folder()}", sys.stdout)
    return ExitCode.OK


def _rm(arguments: argparse.Namespace) -> int:
    if arguments.name == "own":
        raise usage("your own key protects your local cache too; it cannot be removed here")
    key = find_key(arguments.name)
    if key.path.parent != ring_folder():
        raise usage(f"{key.path} is not in your key ring; delete the file if nobody needs it")
    key.path.unlink()
    say(f"results sealed by {key.name} ({short_id(key.id)}) are no longer trusted", sys.stdout)
    return ExitCode.OK
