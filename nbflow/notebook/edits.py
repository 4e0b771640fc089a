"""Local modules that were edited after the kernel had imported them, and that people take for what runs.

Python keeps a module as it was imported, and so do the results of tasks that use it: they count as fresh although the
file says something else by now. Whoever edits a helper beside the notebook is told so once for each edit. A reload,
by hand or by IPython's `autoreload`, gives the module a new spec: by that we know that it runs as it is written.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

from xxhash import xxh3_128_digest

from nbflow.cache.places import file_signature, is_local

__all__ = ["Edits"]


class _Seen(NamedTuple):
    spec: Any  # a reload makes another one
    signature: Any  # where it is the same, nobody need read the file
    imported: bytes | None  # digest of what the file said then
    now: bytes | None  # and of what it says


class Edits:
    """The local modules of this process, and what their files said when they were first seen."""

    def __init__(self) -> None:
        self._asked: set[str] = set()
        self._local: list[str] = []
        self._seen: dict[str, _Seen] = {}

    def look(self) -> list[str]:
        """Return the modules whose files changed since the last look, and that were not loaded anew."""
        if len(sys.modules) != len(self._asked):
            new = [name for name in list(sys.modules) if name not in self._asked]
            self._local += [name for name in new if _is_local(name)]
            self._asked.update(new)
        return [name for name in self._local if name in sys.modules and self._is_edited(name, sys.modules[name])]

    def _is_edited(self, name: str, module: Any) -> bool:
        known, spec, signature = self._seen.get(name), module.__spec__, file_signature(module.__file__)
        if known is not None and known.signature == signature and known.spec is spec:
            return False
        digest = _digest(module.__file__)
        imported = known.imported if known is not None and known.spec is spec else digest
        before = known.now if known is not None else digest
        self._seen[name] = _Seen(spec, signature, imported, digest)
        return digest not in (None, imported, before)

    def tell(self) -> None:
        """Say of each edited module that it runs as it was, and what to do."""
        edited = self.look()
        if "IPython.extensions.autoreload" in sys.modules:  # which loads it before the next cell
            return
        for name in edited:
            file = os.path.basename(str(sys.modules[name].__file__))
            sys.stderr.write(
                f"nbflow: {file} was edited, but this kernel still runs it as it was imported. Restart the kernel, or "
                f"`importlib.reload({name})`; `%load_ext autoreload` with `%autoreload 2` at the top of a notebook "
                "does that for later edits.\n"
            )


def _digest(file: str) -> bytes | None:
    try:
        with open(file, "rb") as stream:
            return xxh3_128_digest(stream.read())
    except OSError:
        return None


def _is_local(name: str) -> bool:
    file = getattr(sys.modules.get(name), "__dict__", {}).get("__file__")  # a lazy module must not import itself for us
    if not isinstance(file, str) or not file.endswith(".py") or f"{os.sep}site-packages{os.sep}" in file:
        return False
    return name != "__main__" and is_local(name, file)
