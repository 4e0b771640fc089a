"""Small functions that several floors need.

`report` says something to the user once and never raises; `one_line` and `trim_traceback` make errors short enough for
events, tables and panels; `format_duration` writes seconds as people read them. `lazy` puts off an import, and
`package_of` says which library a class is from.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from types import MappingProxyType

from nbflow._typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "OPEN_FILE",
    "PACKAGE_ROOT",
    "STARTED",
    "WINDOWS",
    "add_note",
    "format_duration",
    "lazy",
    "one_line",
    "package_of",
    "perhaps",
    "refusal",
    "report",
    "trim_traceback",
    "why_no_copy",
]

PACKAGE_ROOT = os.path.dirname(__file__)
STARTED = time.time()
"""Wall-clock time at which nbflow was imported."""


class _LazyModule:
    """A module that is imported when something of it is first used."""

    def __init__(self, name: str) -> None:
        self.__dict__["_name"] = name

    def __getattr__(self, name: str) -> Any:
        __import__(self._name)
        value = getattr(sys.modules[self._name], name)
        self.__dict__[name] = value
        return value


def add_note(error: BaseException, text: str) -> None:
    """Add a note to an error, unless it is one that takes none, such as a frozen dataclass."""
    try:
        error.add_note(text)
    except Exception:  # it goes on as it is
        return


def package_of(kind: type) -> str:
    """Return the top package of the module that a class names as its own; "None" if it names none."""
    return str(kind.__module__).partition(".")[0]


def lazy(name: str) -> Any:
    """Return a stand-in for the module `name` that imports it on first use.

    Keeps `import nbflow` and cold hits quick.
    """
    return _LazyModule(name)


def report(message: str, *, stacklevel: int = 3) -> None:
    """Warn the user with `message`; goes to stderr where warnings are errors, so that it can never break a run."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=stacklevel)
    except RuntimeWarning:
        sys.stderr.write(f"nbflow: {message}\n")


def one_line(error: BaseException, limit: int = 200) -> str:
    """Return `TypeName: first line of the message`, at most `limit` characters."""
    try:
        text = str(error).strip()
    except Exception:
        text = "(its message cannot be shown)"
    text = text.splitlines()[0] if text else ""
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= limit else line[: limit - 1] + "…"


OPEN_FILE = "an open file belongs to this process; keep what it reads, or its path"
"""Why none is kept."""

WINDOWS = frozenset({memoryview, MappingProxyType})
"""Types of objects through which another one is seen; they have no subclasses."""

_INSTEAD = {"generator": "make a list of it", "coroutine": "it has not run, put `await` before the call"}


def why_no_copy(window: Any) -> str:
    """Say why an object of one of the types in `WINDOWS` is not kept; nothing where a copy of it is as good."""
    if type(window) is memoryview:
        return "a memoryview is a window on another object's memory; keep that object, or bytes of it"
    if "__module__" in window and "__doc__" in window:  # as in each class, and in nobody's dict
        return "what `vars` gives of a class shows what the class gets later, too; keep the class, or a dict of it"
    return ""


def refusal(error: BaseException) -> str:
    """Return in one line why pickle does not take a value, and what could be kept instead."""
    line = one_line(error)
    kind = line.partition("cannot pickle '")[2].partition("' object")[0]
    advice = _INSTEAD.get(kind, "keep what it takes to make it anew")
    return f"{line}; {advice}" if kind and advice not in line else line


def perhaps(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` with the one of `known` that was probably meant, or nothing."""
    from difflib import get_close_matches  # only mistakes need it

    bare = {name.lstrip("-"): name for name in known}  # dashes would make all options alike
    found = get_close_matches(word.lstrip("-"), list(bare), n=1)
    return f"; did you mean {bare[found[0]]}?" if found else ""


def trim_traceback(error: BaseException, limit: int = 4000) -> str:
    """Return the traceback of `error` without nbflow's own frames, its last `limit` characters."""
    import traceback  # only failures need it

    summary = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
    kept = [frame for frame in summary.stack if not frame.filename.startswith(PACKAGE_ROOT + os.sep)]
    summary.stack = traceback.StackSummary.from_list(kept)
    text = "".join(summary.format()).rstrip()
    return text if len(text) <= limit else "…" + text[-limit:]


def format_duration(seconds: float) -> str:
    """Return `seconds` as people read it: `3.2 s`, `2 min 5 s`, `1 h 3 min`, `4 d 2 h`."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.0005 else "0 ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for big, small, big_name, small_name in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if whole >= big:
            high, rest = divmod(whole, big)
            low = rest // small
            return f"{high} {big_name} {low} {small_name}" if low else f"{high} {big_name}"
    return f"{whole} s"
