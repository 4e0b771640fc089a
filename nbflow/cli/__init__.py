"""The `nbflow` command: run notebooks and workflows, look after their cache, open JupyterLab.

Each command lives in a module of its own, with `configure(parser)` and `execute(arguments) -> int`. Only the module of
the command that was asked for is imported, so `nbflow --help` is quick. Exit codes mean the same everywhere and are
part of the help text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import NamedTuple

from nbflow._util import perhaps
from nbflow._version import __version__
from nbflow.cli.console import CliError, ExitCode, say
from nbflow.errors import SettingsError

__all__ = ["main"]

EXIT_CODES = """\
exit codes:
  0    everything ran (or came from the cache)
  1    a cell or a workflow failed, timed out, or its kernel died
  2    wrong usage: bad option, missing or unreadable file, unknown parameter
  3    the kernel could not be started
  130  interrupted (Ctrl-C once: finish cleanly; twice: kill the kernel)
"""


class _Command(NamedTuple):
    module: str
    summary: str


_COMMANDS = {
    "run": _Command("run", "run a notebook or a workflow; only what changed is computed"),
    "list": _Command("listing", "list the workflows of a module or file"),
    "describe": _Command("describe", "show a workflow's parameters and documentation"),
    "export": _Command("export", "write a notebook as a Python script"),
    "cache": _Command("cache", "list, explain, check and remove stored results"),
    "doctor": _Command("doctor", "check this environment"),
    "lab": _Command("lab", "open JupyterLab on a notebook (default: the quickstart)"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None for the process's own.

    Returns:
        The exit code, as documented in `nbflow --help`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A character that the terminal's encoding lacks must not end a run.
            stream.reconfigure(errors="replace")
    try:
        arguments = _parse(words)
        return int(arguments.execute(arguments))
    except CliError as error:
        say(f"nbflow: {error}")
        return int(error.code)
    except SettingsError as error:
        say(f"nbflow: {error}")
        return int(ExitCode.USAGE)
    except KeyboardInterrupt:
        say("nbflow: interrupted")
        return int(ExitCode.INTERRUPTED)


def _parse(words: list[str]) -> argparse.Namespace:
    """Parse `words`, importing only the module of the command they name."""
    asked = next((word for word in words if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="nbflow",
        description="Incremental workflows in ordinary Jupyter notebooks.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nbflow {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    chosen = parser
    for name, command in _COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.summary,
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == asked:
            module = import_module(f"nbflow.cli.{command.module}")
            module.configure(sub)
            sub.set_defaults(execute=module.execute)
            chosen = sub
    if not words:
        parser.print_help(sys.stderr)
        raise SystemExit(int(ExitCode.USAGE))
    if asked is not None and asked not in _COMMANDS:
        parser.error(f"there is no command {asked}{perhaps(asked, _COMMANDS)}")
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        # Not by `parse_args`, which would show how the program is used, not the command.
        options = [option for action in chosen._actions for option in action.option_strings]
        chosen.error(f"there is no option {unknown[0]}{perhaps(unknown[0].partition('=')[0], options)}")
    return arguments
