"""The random generators that all code shares (of `random`, NumPy, PyTorch): what a cell needs and leaves of them.

A cell that draws from one depends on the state in which it finds it, unless it has set that state before. Nothing tells
when a generator is drawn from, so its states are compared: before and after a cell, and before and after each statement
that sets a seed. What changed before the seed was set was drawn; what comes after it follows from the seed.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

__all__ = ["SEEDS", "Draws", "Seeding", "find_seeding", "place_of", "random_states", "set_random_states"]

SEEDS = re.compile(r"seed|set_?state", re.IGNORECASE)
"""What the text of code that sets a seed has in it."""

_FRESH = (623, 624)  # where generators of NumPy stand that nobody has drawn from
_EXACT = (
    ("random", "random", ("seed", "setstate")),
    ("numpy", "numpy.random", ("seed", "set_state")),
    ("torch", "torch", ("manual_seed", "seed", "set_rng_state")),
)
_HARMLESS = frozenset("abs bool float hash int len ord range round str".split())
_UNKNOWN = (ast.Await, ast.Yield, ast.YieldFrom, ast.comprehension)  # runs code that is not here
_PLAIN = (ast.Import, ast.ImportFrom, ast.Pass, ast.Global, ast.Nonlocal)


# -- states


def random_states() -> dict[str, Any]:
    """Return the states of the global generators of `random`, NumPy and PyTorch, to be compared and set.

    Of PyTorch's generators only that of the CPU is there.
    """
    states: dict[str, Any] = {}
    if (module := sys.modules.get("random")) is not None:
        states["random"] = module.getstate()
    if (module := sys.modules.get("numpy.random")) is not None:
        kind, keys, *rest = module.get_state()
        states["numpy"] = (kind, keys.tobytes(), *rest)
    if (module := sys.modules.get("torch")) is not None and hasattr(module, "get_rng_state"):  # its import has ended
        states["torch"] = bytes(module.get_rng_state().tolist())
    return states


def place_of(value: Any) -> tuple[str, str] | None:
    """Return module and name of a generator that all share, or of its method; None for anything else."""
    for module, own in (("random", "_inst"), ("numpy.random", ""), ("numpy.random.mtrand", "_rand")):
        if module in sys.modules:
            names = vars(sys.modules[module])
            for name in (own, getattr(value, "__name__", "")):
                if name and names.get(name) is value:
                    return module, name
    return None


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put generators into the given states; loads their modules.

    Raises:
        ImportError: One of them is not there.
    """
    for name, state in states.items():
        if name == "random":
            import random

            random.setstate(state)
        elif name == "torch":
            torch: Any = importlib.import_module("torch")
            torch.set_rng_state(torch.tensor(list(state), dtype=torch.uint8))
        else:
            import numpy

            kind, keys, *rest = state
            numpy.random.set_state((kind, numpy.frombuffer(keys, dtype=numpy.uint32), *rest))


# -- statements that set a seed


class Seeding(NamedTuple):
    """A statement that sets a seed before it draws.

    Attributes:
        callee: Names of what it calls, as in `("np", "random", "seed")`; () where that is not a call by name.
        empty: Whether the call has nothing to make a seed of.
    """

    callee: tuple[str, ...]
    empty: bool

    def generator(self, namespace: Mapping[str, Any]) -> str | None:
        """Return the generator that is surely set; None where that is some other function's affair."""
        if not self.callee:
            return None
        found = namespace.get(self.callee[0])
        for name in self.callee[1:]:
            if not isinstance(found, ModuleType):
                return None
            found = getattr(found, name, None)
        for generator, home, names in _EXACT:
            module = sys.modules.get(home)
            if found is not None and any(found is getattr(module, name, None) for name in names):
                return generator
        return None


Expand = Callable[[ast.Call], Sequence[ast.stmt] | None]
"""Returns the code behind a call that is a magic; None for other calls."""


def find_seeding(statement: ast.stmt, functions: Mapping[str, ast.stmt], expand: Expand) -> Seeding | None:
    """Return what sets a seed in a statement before anything in it can draw; None where nothing does.

    Args:
        statement: The statement.
        functions: Definitions of functions that it may call, by name.
        expand: What shows the code behind magics.
    """
    if isinstance(statement, ast.Expr) and isinstance(call := statement.value, ast.Call):
        if code := expand(call):
            return _first_of(code, functions, expand)
        values = [*call.args, *(keyword.value for keyword in call.keywords)]
        if not (callee := _names(call.func)) or not all(map(_is_harmless, values)):
            return None
        if SEEDS.search(callee[-1]):
            empty = all(isinstance(value, ast.Constant) and value.value is None for value in values)
            return Seeding(callee, empty)
        called = functions.get(callee[0]) if len(callee) == 1 else None
        if isinstance(called, (ast.FunctionDef, ast.AsyncFunctionDef)):
            rest = {name: node for name, node in functions.items() if node is not called}
            return _first_of(called.body, rest, expand)
        return None
    if isinstance(statement, (ast.If, ast.While)) and _is_harmless(statement.test):
        return _first_of(statement.body, functions, expand)
    if isinstance(statement, (ast.With, ast.AsyncWith)) and all(_is_harmless(i.context_expr) for i in statement.items):
        return _first_of(statement.body, functions, expand)
    if isinstance(statement, ast.Try):
        return _first_of(statement.body, functions, expand)
    return None


def _first_of(code: Sequence[ast.stmt], functions: Mapping[str, ast.stmt], expand: Expand) -> Seeding | None:
    """Return that some of these statements sets a seed and none before it draws; of which generator is left open."""
    for statement in code:
        if (found := find_seeding(statement, functions, expand)) is not None:
            return None if found.empty else Seeding((), False)
        if not _is_quiet(statement):
            return None
    return None


def _is_quiet(statement: ast.stmt) -> bool:
    """Whether a statement surely draws nothing; of most kinds that is not known."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return not statement.decorator_list and _is_harmless(statement.args)
    return isinstance(statement, _PLAIN) or (
        isinstance(statement, (ast.Assign, ast.AnnAssign, ast.Expr)) and _is_harmless(statement)
    )


def _names(node: ast.expr) -> tuple[str, ...]:
    """Return `a.b.c` as names; () for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return (node.id, *reversed(names)) if isinstance(node, ast.Name) else ()


def _is_harmless(node: ast.AST) -> bool:
    """Whether to evaluate this surely draws nothing."""
    for each in ast.walk(node):
        if isinstance(each, _UNKNOWN):
            return False
        if isinstance(each, ast.Call) and not (isinstance(each.func, ast.Name) and each.func.id in _HARMLESS):
            return False
    return True


# -- what a cell does


class Draws:
    """What the statements of a cell did to the generators, as far as they ran.

    Args:
        text: The cell's; where it speaks of random numbers, NumPy's generator is loaded as soon as NumPy is, which
            itself puts that off, so that what is drawn first is seen.
        fresh: States that come from the system, which no seed can have made; added to.
        known: Whether those that the generators have now are such, too.

    Attributes:
        needed: States, from before the cell, of the generators that it drew from without having set them; None where
            the generator was not there.
    """

    def __init__(self, text: str, fresh: dict[str, Any], *, known: bool) -> None:
        self._loads = "random" in text
        self._before = self._now = self._states()
        self._brought: set[str] = set()  # generators that the cell's imports have brought
        self._fresh = fresh
        if known:
            fresh |= self._before
        self._set: set[str] = set()  # generators whose state follows from a seed that the cell has set
        self.needed: dict[str, Any] = {}

    def _states(self) -> dict[str, Any]:
        if self._loads and "numpy" in sys.modules:
            importlib.import_module("numpy.random")
        return random_states()

    def imported(self) -> None:
        """Take note that imports have just run."""
        new = {name: state for name, state in self._states().items() if name not in self._now}
        self._brought |= new.keys()
        self._fresh |= new
        self._now = self._now | new

    def look(self) -> None:
        """Take note of what was drawn since the last look."""
        before, self._now = self._now, random_states()
        for name, state in self._now.items():
            loaded_and_drawn = name == "numpy" and state[2] not in _FRESH
            if state != before.get(name) and (name in before or loaded_and_drawn):
                self._need(name)

    def seeded(self, seeding: Seeding, generator: str | None) -> None:
        """Take note that a statement which sets a seed has just run, after a look.

        Args:
            seeding: The statement.
            generator: The one that it surely sets, found before it ran.
        """
        before, self._now = self._now, random_states()
        for name, state in self._now.items():
            changed = state != before.get(name)
            if (name == generator and not seeding.empty) or (changed and generator is None):
                self._set.add(name)
            elif changed or (generator is None and state != self._fresh.get(name)):
                self._need(name)  # if it has not changed, perhaps it was set to the very state that it had

    def _need(self, name: str) -> None:
        if name not in self._set:
            self.needed.setdefault(name, self._before.get(name))

    def left(self, *, seeds: bool) -> dict[str, Any]:
        """Return the states of the generators that the cell drew from or set.

        Args:
            seeds: Whether the cell's text seems to set a seed, so that a generator that it loaded out of sight is set.
        """
        self.look()
        unseen = self._now.keys() - self._before.keys() - self._brought
        touched = {*self._set, *self.needed, *(unseen if seeds else ())}
        return {name: state for name, state in self._now.items() if name in touched}
