"""What every command shares: exit codes, one-line errors, and what can be known about the terminal.

A command reports trouble by raising `CliError`; `main` prints its message on stderr and returns its code, so nobody
sees a traceback of ours. Results go to stdout, progress and errors to stderr, so that output can be piped. Colour
codes are written to terminals only, and never where `NO_COLOR` is set.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TextIO

__all__ = [
    "CliError",
    "ExitCode",
    "check_backend",
    "interactive",
    "plain",
    "say",
    "usage",
    "width",
    "without_colours",
    "without_formats",
]

# CSI sequences (colours, cursor movement) and OSC sequences (hyperlinks, titles).
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")


class ExitCode(IntEnum):
    """What a command returns to the shell."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_KERNEL = 3
    INTERRUPTED = 130


class CliError(Exception):
    """A command cannot go on; `main` prints the message and returns `code`."""

    def __init__(self, message: str, code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.code = code


def usage(message: str) -> CliError:
    """Return the error for a command that was asked for something impossible."""
    return CliError(message, ExitCode.USAGE)


def check_backend(name: str) -> None:
    """Raise `CliError` unless there is a backend of that name."""
    from nbflow.backends.manager import BackendManager  # most runs name none
    from nbflow.errors import BackendError

    try:
        BackendManager().resolve(name)
    except BackendError as error:
        raise usage(str(error)) from None


def say(text: str, stream: TextIO | None = None) -> None:
    """Write one line (or several) and flush; stderr unless told otherwise, and a closed pipe is no error."""
    try:
        print(text, file=sys.stderr if stream is None else stream, flush=True)
    except BrokenPipeError:
        # The reader (`head`, say) has seen enough; what is left to do is to finish the run and write its files.
        pass


def interactive(stream: TextIO) -> bool:
    """Whether lines on `stream` can be rewritten in place."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI")


def plain(text: str, stream: TextIO) -> str:
    """Return `text` as it may be written to `stream`: without escape sequences unless a terminal shows them."""
    if stream.isatty() and os.environ.get("TERM") != "dumb" and "NO_COLOR" not in os.environ:
        return text
    return without_colours(text)


def without_colours(text: str) -> str:
    """Return `text` without escape sequences."""
    return _ANSI.sub("", text)


def width() -> int:
    """Return how many characters fit on one line of the terminal (100 where there is none)."""
    return shutil.get_terminal_size((100, 24)).columns


# What jsonschema (which nbformat imports) imports where it can, to check formats that the schema of notebooks does not
# have: one alone builds a grammar for 1.7 s.
_FORMATS = ("rfc3987_syntax", "rfc3986_validator", "isoduration", "uri_template", "webcolors", "fqdn")


@contextmanager
def without_formats() -> Iterator[None]:
    """Keep jsonschema from importing checkers of formats that no notebook uses."""
    hidden = [name for name in _FORMATS if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
