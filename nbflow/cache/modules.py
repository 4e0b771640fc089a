"""Local modules in a graph of code: known by the text of their files, and by what has been made of them since.

A module that is used as a whole, or imported inside a body, counts by its text and by that of the local modules that
it imports. Where it is loaded, constants that somebody has set to something else count as they are now; so does a
module that was loaded from another text. Installed packages count by version.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from time import time
from types import ModuleType

from xxhash import xxh3_128_hexdigest

from nbflow._typing import TYPE_CHECKING, Any
from nbflow._util import lazy
from nbflow.cache.digest import Walk
from nbflow.cache.owners import ABSENT
from nbflow.cache.parts import KeyPart, Undigestable, framed, hashed, text_bytes
from nbflow.cache.places import file_signature, is_local, module_file, where_of
from nbflow.cache.source import Imports, module_facts

if TYPE_CHECKING:
    from nbflow.cache import loaded
    from nbflow.cache.graph import Graph
else:
    loaded = lazy("nbflow.cache.loaded")

__all__ = ["import_node", "imported", "module_key", "module_node"]

_RACY_S = 2.0  # a file changed more recently than this is read again


def imported(graph: Graph, found: Imports) -> None:
    """Follow the imports of a cell, which sees to what it takes from these modules itself."""
    graph.texts_only = True
    for name, level, taken in found:
        import_node(graph, name, level, taken, "")


def import_node(graph: Graph, name: str, level: int, taken: tuple[str, ...], package: str) -> bytes:
    """Follow an import inside a body: the whole module, whether or not it has been loaded yet."""
    text = f"import {'.' * level}{name} {','.join(taken)}"
    from importlib.util import resolve_name  # few bodies import something

    try:
        full = resolve_name("." * level + name, package) if level else name
    except (ImportError, ValueError):
        return framed(text.encode()) + b"absent"
    labels = [_module_label(graph, full)]
    labels += [
        _module_label(graph, f"{full}.{item}") for item in taken if is_local(full) and module_file(f"{full}.{item}")
    ]
    return framed(text.encode()) + b"".join(text_bytes(label) for label in labels)


def _module_label(graph: Graph, name: str) -> str:
    if not is_local(name):
        graph.package(name)
    elif module_key(name) not in graph.parts:
        _module_file(graph, name)
    return module_key(name)


def module_node(graph: Graph, module: ModuleType, label: str, kind: str) -> None:
    """Digest a local module that is used as a whole."""
    _module_label(graph, module.__name__)


def _module_file(graph: Graph, name: str) -> None:
    """Digest a local module by the text of its file and of the local modules it imports."""
    graph.parts[module_key(name)] = KeyPart("module", name, "")  # ends cycles of imports
    file = module_file(name)
    pieces: list[bytes] = []
    try:
        with open(file or "", "rb") as stream:
            data = stream.read()
    except OSError:
        data = b""
    try:
        content, imports, constants = module_facts(data.decode("utf-8-sig"), graph.shelf)
    except (SyntaxError, ValueError):
        content, imports, constants = hashed(b"mf", data), (), ()
    package = name if file and file.endswith(("__init__.py",)) else name.rpartition(".")[0]
    pieces.append(content)
    as_loaded = loaded.loaded_as(name, file, data, content)
    if as_loaded is not None:
        pieces.append(as_loaded)
        graph.solid = False  # a reload leaves no trace in the file
    if not graph.texts_only:
        pieces += _set_since(graph, sys.modules.get(name), constants)
    for other, level, taken in imports:
        pieces.append(import_node(graph, other, level, taken, package))
    _watch_file(graph, file)
    digest = xxh3_128_hexdigest(hashed(b"nd", *pieces))
    graph.parts[module_key(name)] = KeyPart("module", name, digest, "", where_of(file or ""))


def _set_since(graph: Graph, module: ModuleType | None, constants: tuple[tuple[str, bytes], ...]) -> Iterator[bytes]:
    """Yield what somebody has set the constants of a loaded module to, where that is not what its file says."""
    for name, written in constants if module is not None else ():
        space = vars(module)
        value = space.get(name, ABSENT)
        graph.names.append((space.get, name, value))
        now = b"absent" if value is ABSENT else graph.lenient(value)
        try:
            unchanged = value is not ABSENT and _literals.encode(value) == written
        except Undigestable:
            unchanged = False
        if not unchanged:
            yield framed(name.encode()) + now


def _no_literal(value: Any) -> bytes:
    raise Undigestable("", "it is code")


_literals = Walk(_no_literal)


def _watch_file(graph: Graph, file: str | None) -> None:
    """Note how a file looks on disk; one that changed just now may change again without looking different."""
    seen = file_signature(file) if file else None
    if file is None or seen is None or time() - seen[0] / 1e9 < _RACY_S:
        graph.solid = False
    else:
        graph.files.append((file, seen))


def module_key(name: str) -> str:
    """Return what a module is called among the labels; a function may have the same name."""
    return f"module {name}"
