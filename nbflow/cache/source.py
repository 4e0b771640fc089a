"""What a piece of code says, in a form that does not change when only its looks change.

A function is digested by its syntax tree, without comments, positions, docstring, annotations (except where they are
read while it runs), own name and decorators (a decorator that matters is in the object: its wrapper has a closure).
Trees hardly vary over Python versions, bytecode does with every one; so bytecode is only used where there is no source
that compiles to exactly the code at hand (`exec`, a file edited since it was imported), and such digests hold for one
version of Python.

What the code refers to is read from its bytecode, where scopes are already resolved: chains of names that begin at a
global or a captured variable (`np.linalg.norm`), imports inside the body, and the *state*: captured variables that
the code itself rebinds or mutates. All this is found out by `syntax`, which is only loaded for code that neither this
process nor an earlier one has met: see `Shelf`.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from types import CodeType

from xxhash import xxh3_128_hexdigest

from nbflow._typing import TYPE_CHECKING, NamedTuple
from nbflow._util import lazy
from nbflow._version import __version__
from nbflow.cache.digest import LEAVES, Walk
from nbflow.cache.parts import KEY_FORMAT, hashed

if TYPE_CHECKING:
    from nbflow.cache import syntax
    from nbflow.cache.notes import Notes
else:
    syntax = lazy("nbflow.cache.syntax")

__all__ = [
    "REBOUND",
    "CodeFacts",
    "Imports",
    "ModuleFacts",
    "Shelf",
    "code_bytes",
    "constant_bytes",
    "facts_of",
    "inner_codes",
    "module_facts",
]

REBOUND = "="
Imports = tuple[tuple[str, int, tuple[str, ...]], ...]


class CodeFacts(NamedTuple):
    """What is known of a code object without running it.

    Args:
        digest: What it says.
        chains: Names that it loads from outside, each with the attributes that follow at once.
        imports: Modules that it imports, with level of a relative import and names taken from them.
        state: Chains that it rebinds or mutates; `REBOUND` ends those whose last name is rebound, not mutated.
        exact: Whether `digest` comes from the syntax tree.
        mentions: Names of globals that may stand in texts which it runs; there need be none of that name.
        runs_given: Whether it may run a text that it has captured.
    """

    digest: bytes
    chains: tuple[tuple[str, ...], ...]
    imports: Imports
    state: frozenset[tuple[str, ...]]
    exact: bool
    mentions: tuple[str, ...] = ()
    runs_given: bool = False


_known: dict[int, tuple[weakref.ref[CodeType], CodeFacts]] = {}


def facts_of(code: CodeType, shelf: Shelf | None = None) -> CodeFacts:
    """Return what `code` says and refers to; worked out once for each code object, or taken from the shelf."""
    key = id(code)
    entry = _known.get(key)
    if entry is not None and entry[0]() is code:
        return entry[1]
    facts = shelf.facts(code) if shelf is not None else None
    if facts is None:
        facts, text = syntax.analysed(code)
        if shelf is not None and text is not None:
            shelf.put_facts(code, text, facts)
    # Not a WeakKeyDictionary: code objects of equal bytecode are equal, and may still differ in their tree.
    _known[key] = (weakref.ref(code, lambda _: _known.pop(key, None)), facts)
    return facts


class ModuleFacts(NamedTuple):
    """What is known of the text of a module.

    Args:
        digest: What it says.
        imports: What it imports anywhere.
        constants: Names that it binds to literals and never changes, with the encoded values.
    """

    digest: bytes
    imports: Imports
    constants: tuple[tuple[str, bytes], ...]


def module_facts(text: str, shelf: Shelf | None = None) -> ModuleFacts:
    """Return what is known of the text of a module.

    Raises:
        SyntaxError: It is no Python.
    """
    facts = shelf.module(text) if shelf is not None else None
    if facts is None:
        facts = syntax.module_facts(text)
        if shelf is not None:
            shelf.put_module(text, facts)
    return facts


class Shelf:
    """What analyses found out, kept in a store, so that other processes need not load what analyses.

    An analysis depends on the code object, on the text that it was compiled from, and on the versions of Python and of
    nbflow. It is filed under the digest of all of these: it can be missing, but not out of date.

    Args:
        notes: Those of a store; they are signed as results are.
    """

    __slots__ = ("_notes",)

    def __init__(self, notes: Notes) -> None:
        self._notes = notes

    def facts(self, code: CodeType) -> CodeFacts | None:
        """Return what is known of code that the present text of its file compiles to."""
        text = _present_text(code.co_filename)
        found = None if text is None else self._notes.get(_code_name(code, text))
        return None if found is None else CodeFacts(*found)

    def put_facts(self, code: CodeType, text: bytes, facts: CodeFacts) -> None:
        """Keep what was found out of code that was compiled from `text`."""
        self._notes.put(_code_name(code, text), tuple(facts))

    def module(self, text: str) -> ModuleFacts | None:
        """Return what is known of a module of this text."""
        found = self._notes.get(_name(b"module", _text(text)))
        return None if found is None else ModuleFacts(*found)

    def put_module(self, text: str, facts: ModuleFacts) -> None:
        """Keep what was found out of a module."""
        self._notes.put(_name(b"module", _text(text)), tuple(facts))


_VERSIONS = f"facts 5 {__version__} {sys.version}".encode() + KEY_FORMAT


def _name(*pieces: bytes) -> str:
    return xxh3_128_hexdigest(hashed(b"sh", _VERSIONS, *pieces))


def _code_name(code: CodeType, text: bytes) -> str:
    """Name all that the analysis of `code` reads: instructions, names, constants, positions, and the text."""
    place = f"{code.co_name} {code.co_firstlineno}".encode("utf-8", "surrogatepass")
    return _name(b"code", _normal(text), code_bytes(code), place, code.co_linetable)


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _normal(text: bytes) -> bytes:
    """Return a text as `linecache` has it, so that it does not matter who has read it."""
    text = text.replace(b"\r\n", b"\n")
    return text if text.endswith(b"\n") else text + b"\n"


def _present_text(filename: str) -> bytes | None:
    """Return what a file says, or what `linecache` has under its name; None where there is no such file."""
    linecache = sys.modules.get("linecache")
    if linecache is not None and filename in linecache.cache:
        return _text("".join(linecache.getlines(filename)))
    try:
        with open(filename, "rb") as stream:
            return stream.read()
    except (OSError, ValueError):
        return None


# --- code objects -------------------------------------------------------------------------------------------------


def constant_bytes(value: object) -> bytes:
    """Encode a constant of a program: its type and its content; threads that do so do not share a walk."""
    leaf = LEAVES.get(type(value))
    return leaf(value) if leaf is not None else Walk(lambda other: repr(other).encode()).encode(value)


def code_bytes(code: CodeType) -> bytes:
    """Digest a code object itself: instructions, constants and names, without file and positions."""
    version = b"%d.%d" % sys.version_info[:2]
    constants = [code_bytes(item) if isinstance(item, CodeType) else constant_bytes(item) for item in code.co_consts]
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return hashed(
        b"co",
        version,
        code.co_code,
        code.co_exceptiontable,
        *constants,
        b"".join(map(constant_bytes, (counts, *names))),
    )


def inner_codes(code: CodeType) -> Iterator[CodeType]:
    """Return the code objects inside `code`, at any depth."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from inner_codes(constant)
