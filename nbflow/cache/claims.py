"""Which of the functions that a graph has reached may run, and so what of their doing is state.

The node of a class holds all its methods, whether or not anybody calls them. A registry that `register` fills when
classes and functions are defined is no state of code that only reads it: what a method changes is left out of a key
only where code that may run says its name, or Python calls it unasked.
"""

from __future__ import annotations

from types import CodeType

from nbflow._typing import Any
from nbflow.cache.owners import is_local_owner
from nbflow.cache.source import inner_codes

__all__ = ["Claims", "called_as"]

_DEFINING = frozenset({"__init_subclass__", "__set_name__"})
_DEFINING_CLASS = _DEFINING | {"__init__", "__new__", "__prepare__"}


def called_as(cls: type, name: str) -> str:
    """Return what code says that calls a method; "" where the method may be called by others.

    Python calls what has two underscores, but some of it only while a class is being defined; a package calls what it
    knows from its own classes.
    """
    if name.startswith("__") and name.endswith("__"):
        return name if name in (_DEFINING_CLASS if issubclass(cls, type) else _DEFINING) else ""
    foreign = (base for base in cls.__mro__[1:] if not is_local_owner(base))
    return "" if any(name in vars(base) for base in foreign) else name


class Claims:
    """What each function changes, what it leads to, and what it says.

    `at` is the id of the node at hand, 0 outside; `open` says that code which nobody has seen may call any method.
    """

    __slots__ = ("_claims", "_leads", "_said", "at", "open")

    def __init__(self) -> None:
        self.at = 0
        self.open = False
        self._claims: dict[int, set[tuple[int, str]]] = {}
        self._leads: dict[int, set[tuple[str, int]]] = {}
        self._said: dict[int, set[str]] = {}

    def add(self, key: tuple[int, str], by: Any = None) -> None:
        """Note that a function changes a captured value; without `by`, the one at hand."""
        self._claims.setdefault(self.at if by is None else id(by), set()).add(key)

    def lead(self, target: int, name: str = "") -> None:
        """Note that the node at hand leads to another one, where `name` is said if it is given."""
        self._leads.setdefault(self.at, set()).add((name, target))

    def says(self, code: CodeType) -> None:
        """Note the names that the function at hand may call something by."""
        said = self._said.setdefault(self.at, set())
        for each in (code, *inner_codes(code)):
            said.update(each.co_names, (text for text in each.co_consts if isinstance(text, str)))

    def said(self) -> set[str]:
        """Return the names that any function says."""
        return set().union(*self._said.values())

    def claimed(self, key: tuple[int, str]) -> bool:
        """Whether any function changes a captured value, even one that nobody calls."""
        return any(key in keys for keys in self._claims.values())

    def live(self) -> set[tuple[int, str]]:
        """Return what those functions change that may run."""
        found: set[tuple[int, str]] = set()
        if self.open or not self._claims:
            return found.union(*self._claims.values())
        seen: set[int] = set()
        said: set[str] = {""}
        asleep: set[tuple[str, int]] = {("", 0)}
        while awake := [lead for lead in asleep if lead[0] in said]:
            asleep.difference_update(awake)
            for _, node in awake:
                if node not in seen:
                    seen.add(node)
                    found |= self._claims.get(node, set())
                    said |= self._said.get(node, set())
                    asleep |= self._leads.get(node, set())
        return found
