"""What can be explored: a task, or a `%%task` cell with some of its names overridden.

Both come down to a task that is submitted with one setting as its keyword arguments, so cache, cancellation and
backends are those of any task. A cell's body runs in a copy of the notebook's namespace, and what the cache keeps of it
is what it showed.
"""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from nbflow.cache.key import CacheKey, Fingerprint, KeyBuilder
from nbflow.core.policy import Policy
from nbflow.core.spec import TaskKind, TaskSpec
from nbflow.errors import DefinitionError
from nbflow.notebook import output
from nbflow.notebook.cellkey import CellKeyer
from nbflow.notebook.explore.figures import Figures, mentions_pyplot
from nbflow.notebook.explore.results import Shown, parts_of
from nbflow.notebook.graph import CellNode
from nbflow.notebook.recorder import Silent
from nbflow.tasks import AsyncTask, SyncTask, Task, as_task

__all__ = ["Subject", "cell_subject", "task_subject"]


class Subject:
    """A task to explore, and how to write one of its calls down.

    Args:
        task: What is submitted for each setting.
        title: What people call it.
        starts: Values that its controls begin with.
        text: Returns the text of a cell for a setting.
        draws: Whether it imports matplotlib itself.
    """

    def __init__(
        self,
        task: Task[..., Any],
        title: str,
        starts: Mapping[str, Any],
        text: Callable[[Mapping[str, Any]], str],
        *,
        draws: bool = False,
    ) -> None:
        self.task = task
        self.title = title
        self.starts = dict(starts)
        self.text = text
        self.draws = draws

    def key(self, session: Any, setting: Mapping[str, Any]) -> CacheKey | None:
        """Return the cache key of a setting; None where there is no cache, or the call itself will tell why not."""
        spec = self.task.spec
        store = session.cache_store_for(spec)
        try:
            return cast("CacheKey", spec.keyer.key(spec.bind(**setting), (), dict(setting), store))
        except Exception:
            return None

    def is_cached(self, session: Any, setting: Mapping[str, Any]) -> bool:
        """Return whether the result for a setting is in the cache of `session`; False where nobody can say."""
        spec = self.task.spec
        store, key = session.cache_store_for(spec), self.key(session, setting)
        ttl = spec.cache_ttl if spec.cache_ttl is not None else session.settings.cache_ttl
        return store is not None and key is not None and bool(store.knows(key, ttl=ttl))


def task_subject(task: Any, ranges: Mapping[str, Any], namespace: Mapping[str, Any]) -> Subject:
    """Return a task, or a function as one, as a subject; results of one that is not cached are kept in memory.

    Raises:
        DefinitionError: It has no such parameter, or one without a value, or is a stream.
    """
    wanted = as_task(task)
    if wanted.is_generator:
        raise DefinitionError(f"explore({wanted.name!r}): a stream hands out items; explore a task that returns one.")
    parameters = wanted.signature.parameters
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    named = {
        name: each for name, each in parameters.items() if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }
    if (unknown := [name for name in ranges if name not in named]) and not takes_any:
        raise DefinitionError(
            f"explore({wanted.name!r}): there is no parameter {unknown[0]!r}; there are: {', '.join(named) or 'none'}."
        )
    missing = [name for name, each in named.items() if each.default is each.empty and name not in ranges]
    if missing:
        raise DefinitionError(
            f"explore({wanted.name!r}): give a range or a value for {missing[0]!r} ({missing[0]}=(1, 10), or "
            f"{missing[0]}=value)."
        )
    starts = {name: each.default for name, each in named.items() if each.default is not each.empty}
    name = next((each for each, value in namespace.items() if value is task), wanted.func.__name__)
    cached = wanted if wanted.spec.cache else wanted.with_options(cache="session")
    draws = mentions_pyplot(getattr(inspect.unwrap(wanted.func), "__code__", None))
    return Subject(cached, wanted.name, starts, lambda setting: _call_text(name, setting, namespace), draws=draws)


def cell_subject(state: Any, node: CellNode, ranges: Mapping[str, Any]) -> Subject:
    """Return a `%%task` cell as a subject.

    Args:
        state: The shell's state.
        node: The cell.
        ranges: The names to override: what it reads, or assigns at its top level.

    Raises:
        DefinitionError: It neither reads nor assigns such a name.
    """
    shell, cell = state.shell, node.cell
    tree = ast.parse(cell.shown)
    assigned = {name: each for each in tree.body if (name := _assigned_name(each)) is not None}
    keyer = CellKeyer(cell, node.name, shell.user_ns, node.options)
    readable = [name for name in keyer.input_names() if name not in assigned]
    if unknown := [name for name in ranges if name not in assigned and name not in readable]:
        known = ", ".join([*assigned, *readable]) or "nothing"
        raise DefinitionError(f"explore({node.name!r}): the cell does not read {unknown[0]!r}; it reads: {known}.")
    body = [each for each in tree.body if _assigned_name(each) not in ranges]
    run = _CellBody(shell, node, body)
    spec = TaskSpec(
        func=run.run_async if cell.is_async else run.run,
        name=f"explore {node.name}",
        kind=TaskKind.ASYNC if cell.is_async else TaskKind.SYNC,
        bind=lambda **setting: setting,
        policy=Policy(retries=node.options.retries, timeout_s=node.options.timeout),
        backend="thread",
        cache="session" if node.options.cache == "off" else node.options.cache,
        cache_ttl=node.options.ttl,
        keyer=_CellSettingKeyer(state, node),
        plain=False,
    )
    kind: type[Task[..., Any]] = AsyncTask if cell.is_async else SyncTask
    starts = {name: shell.user_ns[name] for name in ranges if name in shell.user_ns}
    raw, task = _raw_text(state, node), kind(spec.func, spec, {})
    return Subject(
        task,
        node.name,
        starts,
        lambda setting: _cell_text(raw, node, setting, assigned),
        draws=mentions_pyplot(run.main),
    )


class _CellBody:
    """The statements of a cell, run in a copy of the notebook's namespace."""

    def __init__(self, shell: Any, node: CellNode, body: list[ast.stmt]) -> None:
        self.shell = shell
        self.node = node
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        flags = node.cell.flags | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        filename = node.cell.filename
        self.main = compile(ast.Module(body, []), filename, "exec", flags, dont_inherit=True)
        expression = ast.Expression(last.value) if isinstance(last, ast.Expr) else None
        self.last = None if expression is None else compile(expression, filename, "eval", flags, dont_inherit=True)

    def run(self, **setting: Any) -> Shown:
        """Run a body that does not await and return what it showed."""
        __tracebackhide__ = True
        recorder, figures, namespace = Silent(), Figures(), self._namespace(setting)
        with output.recording(recorder, self.shell), figures.collecting():
            exec(self.main, namespace)
            value = None if self.last is None else eval(self.last, namespace)
        return self._shown(recorder, figures, value)

    async def run_async(self, **setting: Any) -> Shown:
        """Run a body that awaits and return what it showed."""
        __tracebackhide__ = True
        recorder, figures, namespace = Silent(), Figures(), self._namespace(setting)
        value = None
        with output.recording(recorder, self.shell), figures.collecting():
            for code in (self.main, self.last):
                if code is not None:
                    value = eval(code, namespace)
                    if code.co_flags & inspect.CO_COROUTINE:
                        value = await value
        return self._shown(recorder, figures, None if self.last is None else value)

    def _shown(self, recorder: Silent, figures: Figures, value: Any) -> Shown:
        return Shown(parts_of(self.shell.display_formatter.format, value, recorder.items(), figures))

    def _namespace(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        """Return the notebook's names, overridden; what the cell changes in place is copied, so that nobody sees it."""
        namespace = {**self.shell.user_ns, **setting}
        for name in self.node.cell.effects.mutated:
            if name in namespace:
                try:
                    namespace[name] = copy.deepcopy(namespace[name])
                except Exception as error:
                    raise DefinitionError(
                        f"The cell {self.node.name!r} changes `{name}` in place, which cannot be copied ({error}), so "
                        "it cannot be explored without touching your variables. Let it make a new object instead."
                    ) from error
        return namespace


class _CellSettingKeyer:
    """Keys of a cell for a setting: the cell's own key where the names have these values, and the setting."""

    def __init__(self, state: Any, node: CellNode) -> None:
        self._state = state
        self._node = node

    def quick(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """There is no short way to the key."""
        return None

    def key(self, inputs: Mapping[str, Any], *call: Any, unchanged: bool = False) -> CacheKey:
        """Return the key as of now."""
        node = self._node
        namespace = {**self._state.shell.user_ns, **inputs}
        own = CellKeyer(node.cell, node.name, namespace, node.options, self._state.where_written).key({})
        builder = KeyBuilder(f"explore {node.name}")
        builder.add_digest("code", node.name, own.digest, where=node.label)
        for name, value in inputs.items():
            builder.add("input", name, value)
        builder.add_code(Fingerprint("", (), own.notes))
        return builder.build()


def _assigned_name(statement: ast.stmt) -> str | None:
    """Return the name that a statement of the form `name = …` assigns."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        return target.id if isinstance(target, ast.Name) else None
    if isinstance(statement, ast.AnnAssign) and statement.value is not None and isinstance(statement.target, ast.Name):
        return statement.target.id
    return None


def _value_text(value: Any, namespace: Mapping[str, Any]) -> str:
    """Return how to write a value: the name it has in the notebook, else what makes it."""
    simple = isinstance(value, (int, float, str, bool, type(None)))
    if not simple:
        for name, found in list(namespace.items()):
            if found is value and not name.startswith("_"):
                return name
    text = repr(value)
    try:
        ast.parse(text, mode="eval")
    except SyntaxError:
        return f"...  # a {type(value).__qualname__} that has no name"
    return text


def _call_text(name: str, setting: Mapping[str, Any], namespace: Mapping[str, Any]) -> str:
    given = [(key, _value_text(value, namespace)) for key, value in setting.items()]
    if any("#" in text for _, text in given):
        lines = [f"    {key}={text.replace('  #', ',  #') if '  #' in text else text + ','}" for key, text in given]
        return "\n".join([f"{name}(", *lines, ")"])
    return f"{name}({', '.join(f'{key}={text}' for key, text in given)})"


def _raw_text(state: Any, node: CellNode) -> str:
    """Return the text of a cell as it was typed."""
    number = int(node.label.removeprefix("cell ")) if node.label.removeprefix("cell ").isdigit() else -1
    history = state.shell.history_manager.input_hist_raw
    raw = state.ran.get(node.cell_id or number) or (history[number] if 0 <= number < len(history) else "")
    return str(raw) if raw.lstrip().startswith("%%task") else f"%%task {node.name}\n{node.cell.shown.lstrip()}"


def _cell_text(raw: str, node: CellNode, setting: Mapping[str, Any], assigned: Mapping[str, ast.stmt]) -> str:
    """Return the cell with the setting written into it, under a name of its own where it has one."""
    blank = len(raw) - len(raw.lstrip("\n"))
    head, *body = raw[blank:].split("\n")
    if node.options.name is not None:
        tail = "_".join(f"{name}_{value}" for name, value in setting.items())
        own = "".join(char if char.isalnum() else "_" for char in f"{node.options.name}_{tail}")
        head = head.replace(node.options.name, own, 1)
    texts = {name: f"{name} = {_value_text(value, {})}" for name, value in setting.items()}
    inside = [(statement, texts.pop(name)) for name, statement in assigned.items() if name in texts]
    for statement, text in reversed(inside):  # from below, so that the lines above keep their numbers
        first, last = statement.lineno - 2 - blank, (statement.end_lineno or statement.lineno) - 2 - blank
        body[first : last + 1] = [text]
    return "\n".join([head, *texts.values(), *body])
