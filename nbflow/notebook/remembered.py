"""What functions with an `lru_cache` were filled from, so that a cell which finds an answer there depends on the same.

Such a function reads its files, and the names around it, when it is first called; a later cell gets the answer without
any of that. So it is noted in which state of the code and after which files a cell has had it filled: the files count
for later cells too, and an answer that was found before a name changed is not stored under the name's new value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from nbflow.runtime.current import Call

__all__ = ["Remembered"]

_Filling: TypeAlias = tuple[set[str], dict[str, Any]]
_filled: WeakKeyDictionary[Any, _Filling] = WeakKeyDictionary()
"""By function: digests of its code and of what that reads, and the files of the cells that have had it filled."""


class Remembered:
    """How often functions with an `lru_cache` had been called before a cell ran.

    Args:
        functions: Those that the cell may call, each with the digest of its code and of what that reads.
    """

    def __init__(self, functions: Iterable[tuple[Any, str]]) -> None:
        self._before = [(function, function.cache_info(), digest) for function, digest in functions]

    def end(self, call: Call) -> str | None:
        """Let the call depend on what the answers come from; return why its result must not be stored, if so.

        Args:
            call: That of the cell, whose body has just ended.
        """
        refusal = None
        for function, before, digest in self._before:
            after = function.cache_info()
            digests, reads = _filled.get(function, (set(), {})) if before.currsize else (set(), {})
            if after.hits > before.hits:
                call.note_reads(reads)
                if digests - {digest}:
                    name = function.__name__
                    refusal = (
                        f"`{name}` has an `lru_cache`, which may hold what it found before something was changed that "
                        f"it uses; after `{name}.cache_clear()` it looks again"
                    )
            if after.misses > before.misses:
                now = {} if call.reads is None else dict(call.reads)
                _filled[function] = digests | {digest}, reads | now
        return refusal
