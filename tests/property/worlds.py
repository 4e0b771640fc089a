"""Two worlds for the same notebook: one without nbflow, and one with `%%task` on every cell.

A schedule says which cells are executed, one after the other, and where the kernel is restarted. `check` runs it in
both worlds, and what is printed, what the last line is worth, how cells fail, and all that they leave behind, aliases
included, must be the same after every single step. Both have a local module, `kit`, that each loads for itself, and
share a library, `learn`.
"""

from __future__ import annotations

import ast
import atexit
import collections
import contextlib
import functools
import gc
import importlib
import io
import os
import random
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import currently_in_test_context, note
from IPython.core.displayhook import DisplayHook
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from nbflow.notebook.chance import random_states, set_random_states
from nbflow.settings import load_settings, set_global_settings

__all__ = ["HEADER", "NAMES", "Schedule", "check", "home_of_programs"]

Schedule = list[tuple[int, str] | None]
"""Cells to execute, by number and text; None is a restart of the kernel."""

NAMES = "abcd"
HEADER = (
    "import collections, contextlib, functools, itertools, math, os, random\n"
    "import numpy as np\nimport pandas as pd\nimport kit\nrandom.seed(7)"
)
KIT = """
import random

LIMIT = 5
count = 0
log = []
table = {}


class Kit:
    made = 0
    items = []

    def __init__(self, v=None):
        Kit.made += 1
        self.v = v

    def put(self, v=None):
        self.items.append(v)
        return len(self.items)


def bump(v=None):
    global count
    count += 1
    return count


def put(v=None):
    log.append(v)
    return len(log)


def memo(v, seen={}):
    seen[v] = len(seen)
    return dict(seen)


def limit():
    return LIMIT


rng = random.Random(3)


def draw():
    return rng.random()


def make():
    n = 0

    def inc():
        nonlocal n
        n += 1
        return n

    return inc


step = make()
"""
LOUD = """
import kit

print("loaded")


def through(v=None):
    kit.count += 10
    kit.Kit.items.append(v)
    return kit.bump()
"""
MODULES = {"kit": KIT, "loud": LOUD}
LEARN = """
import threading


class Weight:
    def __init__(self, value):
        self.value = value
        self.lock = threading.Lock()

    def __getstate__(self):
        return {"value": self.value}

    def __setstate__(self, state):
        self.__init__(**state)


class Model:
    def __init__(self):
        self.weight = Weight(1)
        self.layers = {"all": [self.weight]}

    def parameters(self):
        return [self.weight]

    def fit(self, value=5):
        self.weight.value = value
        self.fitted = True
        return self


class Optimizer:
    def __init__(self, weights):
        self.weights = list(weights)

    def step(self):
        for weight in self.weights:
            weight.value += 1


class Pipeline:
    def __init__(self, steps):
        self.steps = steps

    def fit(self, value=5):
        for _, step in self.steps:
            step.fit(value)
        return self
"""


def generators_of_a_kernel() -> dict[str, Any]:
    """Let random numbers begin as in a new kernel, which for both kinds of notebooks is the same."""
    random.seed(1)
    np.random.seed(2)
    return random_states()


class World:
    """What both kinds of notebooks have: local modules that each loads for itself."""

    modules: dict[str, types.ModuleType]

    @contextlib.contextmanager
    def loaded(self) -> Iterator[None]:
        """Make the modules those that are loaded."""
        sys.modules.update(self.modules)
        try:
            yield
        finally:
            self.modules = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}


class Plain(World):
    """What a notebook without nbflow does."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.modules = {}
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.random = generators_of_a_kernel()

    def run(self, place: int, text: str) -> tuple[str, str, str]:
        tree = ast.parse(text)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        printed, shown, error = io.StringIO(), "", ""
        set_random_states(self.random)
        with contextlib.redirect_stdout(printed), self.loaded():
            try:
                exec(compile(tree, "<cell>", "exec"), self.names)
                if isinstance(last, ast.Expr):
                    value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), self.names)
                    shown = "" if value is None or text.endswith(";") else steady(value)
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
        self.random = random_states()
        return steady_text(printed.getvalue()), shown, steady_text(error)


class Tasks(World):
    """The same with `%%task` on every cell."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.shell: Any = None
        self.restart()

    def restart(self) -> None:
        self.close()
        self.modules = {}
        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"
        self.shell = QuietShell(config=config)
        self.shell.run_line_magic("load_ext", "nbflow")
        self.random = generators_of_a_kernel()

    @property
    def names(self) -> dict[str, Any]:
        found: dict[str, Any] = self.shell.user_ns
        return found

    def run(self, place: int, text: str) -> tuple[str, str, str]:
        printed = io.StringIO()
        set_random_states(self.random)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()), self.loaded():
            result = self.shell.run_cell(f"%%task -q\n{text}", cell_id=f"cell-{place}")
        self.random = random_states()
        raised = result.error_in_exec or result.error_before_exec
        silent = result.result is None or text.endswith(";")
        error = f"{type(raised).__name__}: {raised}" if raised is not None else ""
        return steady_text(printed.getvalue()), "" if silent else steady(result.result), steady_text(error)

    def close(self) -> None:
        if self.shell is not None:
            self.shell.run_line_magic("unload_ext", "nbflow")
            atexit.unregister(self.shell.atexit_operations)
            self.shell.atexit_operations()


class Quiet(DisplayHook):
    """A display hook that notes values and shows nothing."""

    def write_output_prompt(self) -> None: ...

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None: ...

    def finish_displayhook(self) -> None:
        self._is_active = False


class QuietShell(InteractiveShell):
    """A shell that shows neither values nor errors."""

    displayhook_class = Quiet

    def showtraceback(self, *args: Any, **kwargs: Any) -> None: ...


# --- what they leave behind ---------------------------------------------------------------------------------------


def steady_text(text: str) -> str:
    """Return text without addresses."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text).replace("<listcomp>", "")


def steady(value: Any) -> str:
    return steady_text(repr(value))


def state_of(world: Plain | Tasks) -> dict[str, Any]:
    """Return all that the user's names hold, with objects that are the same told by one number."""
    names = world.names
    seen: dict[int, int] = {}
    kept: list[Any] = []

    def walk(value: Any) -> Any:
        if value is None or isinstance(value, (int, float, str, bytes, complex)):
            return type(value).__name__, steady(value)
        if isinstance(value, types.ModuleType):
            return "module", value.__name__
        if id(value) in seen:
            return "same as", seen[id(value)]
        if isinstance(value, types.BuiltinFunctionType):
            return "builtin", value.__name__
        if isinstance(value, tuple):  # the compiler decides which equal ones are one object
            return "tuple", [walk(each) for each in value]
        number = seen[id(value)] = len(seen)
        kept.append(value)
        kind = type(value).__name__
        if isinstance(value, list):
            return number, kind, [walk(each) for each in value]
        if isinstance(value, (set, frozenset)):
            return number, kind, sorted(map(steady, value))
        if isinstance(value, dict):
            return number, kind, [(walk(key), walk(each)) for key, each in value.items()]
        if isinstance(value, np.random.Generator):
            return number, kind, repr(value.bit_generator.state)
        if isinstance(value, np.random.RandomState):
            return number, kind, repr(value.get_state())
        if isinstance(value, random.Random):
            return number, kind, value.getstate()
        if str(type(value).__module__).split(".")[0] == "pandas":
            return number, kind, steady(value), str(getattr(value, "dtypes", "")), repr(getattr(value, "attrs", ""))
        if isinstance(value, functools.partial):
            return number, kind, walk(value.func), walk(value.args), walk(value.keywords)
        if isinstance(value, collections.deque):
            return number, kind, [walk(each) for each in value]
        if type(value).__module__ == "itertools":
            return number, kind, steady(value)
        if type(value).__module__ == "numpy":
            return number, kind, steady(value), str(getattr(value, "dtype", ""))
        if isinstance(value, types.FunctionType):
            code = value.__code__  # how it calls an imported name depends on what was compiled with it
            cells = [walk(each.cell_contents) for each in value.__closure__ or ()]
            return (
                number,
                kind,
                (code.co_names, code.co_varnames, [each for each in code.co_consts if not hasattr(each, "co_code")]),
                walk(value.__defaults__),
                cells,
                value.__name__ == "__init__" or value.__globals__ is names,
                walk(vars(value)),
            )
        if isinstance(value, type) and value.__module__ != "__main__":
            return "class", value.__qualname__
        if isinstance(value, type):
            own = {
                key: walk(each) for key, each in vars(value).items() if not key.startswith("__") or key == "__init__"
            }
            return number, "class", own
        if hasattr(value, "__dict__"):
            return number, kind, walk(type(value)), walk(vars(value))
        return number, kind

    found = {}
    for name in sorted(names):
        if name in USERS:
            found[name] = walk(names[name])
    if (kit := world.modules.get("kit")) is not None:
        found["the module"] = [walk(value) for name, value in sorted(vars(kit).items()) if not name.startswith("__")]
    return found


USERS = {
    *NAMES,
    *"C D collections contextlib copy deco f functools g h itertools kit make math memo n np os pd put".split(),
    *"held items model one optimizer pair parts pipe random rows set_seed two".split(),
}


@contextlib.contextmanager
def home_of_programs(home: Path) -> Iterator[Path]:
    """Make a folder the place of a local module and of stores."""
    main = sys.modules["__main__"]
    for name, text in MODULES.items():
        (home / f"{name}.py").write_text(text)
        os.utime(home / f"{name}.py", (1e9, 1e9))
    packages = home / "site-packages"  # what is there is not edited: a library
    packages.mkdir()
    (packages / "learn.py").write_text(LEARN)
    sys.path[:0] = [str(home), str(packages)]
    importlib.import_module("pandas")
    gc.freeze()  # a shell looks for garbage when it ends: among what the programs made is enough
    try:
        yield home
    finally:
        gc.unfreeze()
        sys.path.remove(str(home))
        sys.path.remove(str(packages))
        sys.modules.pop("learn", None)
        sys.modules["__main__"] = main  # each shell has put its own there
        set_global_settings(None)


def check(home: Path, schedule: Schedule) -> dict[str, str]:
    """Run a schedule in both worlds and compare after every step; the store is a new one in `home`.

    Returns:
        How each cell ended when it was run last ("fresh", "cached", "uncached" or "failed"), by its name.
    """
    set_global_settings(load_settings(home=str(home / os.urandom(6).hex()), progress="off"))
    plain, tasks = Plain(), Tasks(home)
    try:
        for number, step in enumerate(schedule):
            if step is None:
                _tell("# --- restart")
                plain.restart()
                tasks.restart()
                continue
            _tell(f"# --- cell {step[0]}\n{step[1]}")
            expected, found = plain.run(*step), tasks.run(*step)
            assert found == expected, f"step {number}, cell {step[0]}"
            left, right = state_of(tasks), state_of(plain)
            for state, other in ((left, right), (right, left)):  # a hit need not load what only its functions import
                if "the module" not in other:
                    state.pop("the module", None)
            assert left == right, f"step {number}, cell {step[0]}"
        return {name: node.state for name, node in tasks.shell.nbflow_state.graph.nodes.items()}
    finally:
        tasks.close()


def _tell(text: str) -> None:
    if currently_in_test_context():
        note(text)
    else:
        print(text)
