"""Commands as tasks: programs with argument lists, run, watched, cached and ended like any other call.

`run` and `run_async` run one command; `command` and `async_command` make a task of one, with `{parameter}` filled in
per argument, so that no value is ever split or quoted. Output is shown in the panel while it comes; a command that is
cancelled, interrupted or too slow is killed with everything that it started.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nbflow.errors import DefinitionError
from nbflow.shell.execute import ShellResult, execute, execute_async
from nbflow.shell.functions import AsyncCommand, AsyncRestoring, Command, Restoring, cache_key
from nbflow.shell.process import Program
from nbflow.shell.template import Template, environment
from nbflow.tasks import Task, make_task

__all__ = ["ShellResult", "async_command", "command", "run", "run_async"]

Arg = str | os.PathLike[str]


def run(
    args: Sequence[Arg],
    *,
    cwd: Arg | None = None,
    env: Mapping[str, str | None] | None = None,
    input: str | bytes | None = None,
    timeout: float | None = None,
    check: bool = True,
    stdout: Arg | None = None,
    stderr: Arg | None = None,
) -> ShellResult:
    """Run a command and wait for it.

    Inside a task its output appears in the panel line by line. When it is over, whatever it started and left in its
    process group is killed; the same happens when this call is interrupted, cancelled or passes its timeout. Safe from
    any thread.

    Args:
        args: The program and its arguments, as they are; no shell splits or expands them.
        cwd: Working directory.
        env: Changes to the environment; None as a value removes a variable.
        input: What it reads from standard input; None for nothing.
        timeout: Seconds that it may take.
        check: Whether an exit code other than 0 is an error.
        stdout: File to write its output to as it comes, instead of keeping it; relative to `cwd`.
        stderr: The same for its error output.

    Returns:
        Exit code, output, and how long it took.

    Raises:
        CommandError: It could not be started, or (`check`) failed; with command, exit code and the end of stderr.
        TaskTimeoutError: It passed `timeout`.
        DefinitionError: `args` is no list, or an option is wrong.
    """
    __tracebackhide__ = True
    return execute(_program(args, cwd, env, input, stdout, stderr), timeout, check)


async def run_async(
    args: Sequence[Arg],
    *,
    cwd: Arg | None = None,
    env: Mapping[str, str | None] | None = None,
    input: str | bytes | None = None,
    timeout: float | None = None,
    check: bool = True,
    stdout: Arg | None = None,
    stderr: Arg | None = None,
) -> ShellResult:
    """Run a command and await it; takes what `run` takes, and never blocks the loop."""
    __tracebackhide__ = True
    return await execute_async(_program(args, cwd, env, input, stdout, stderr), timeout, check)


def command(
    args: Sequence[Arg],
    *,
    cwd: Arg | None = None,
    env: Mapping[str, str | None] | None = None,
    input: str | bytes | None = None,
    check: bool = True,
    stdout: Arg | None = None,
    stderr: Arg | None = None,
    inputs: Iterable[Arg] = (),
    outputs: Iterable[Arg] = (),
    **options: Any,
) -> Task[..., ShellResult]:
    """Make a task that runs a command.

    Args:
        args: The program and its arguments. `{parameter}` is filled in from the arguments of a call, each argument by
            itself; one that is nothing but `{parameter}` may be given a list and becomes as many arguments.
        cwd: Working directory; may have parameters.
        env: Changes to the environment; None as a value removes a variable.
        input: What it reads from standard input; `"{parameter}"` for the value of a parameter.
        check: Whether an exit code other than 0 is an error.
        stdout: File to write its output to, instead of keeping it; may have parameters.
        stderr: The same for its error output.
        inputs: Files that it reads, relative to `cwd`, or folders, or patterns such as `data/*.csv`; with caching,
            their content counts. May have parameters. A `File` that is given as an argument counts anyway.
        outputs: Files that it writes; with caching, they are kept, and put back where they are missing or differ.
            `stdout` and `stderr` files count without being named.
        **options: Options of `nbflow.task`: name, retries, timeout, cache, backend ...

    Returns:
        The task, whose calls return a `ShellResult`; for `map_tasks`, `submit`, and calling. Its parameters are those
        of the templates, in the order of their first appearance.

    Raises:
        DefinitionError: A template or an option cannot work; the message says what to do.
    """
    template = _template(args, cwd, env, input, stdout, stderr, inputs, outputs, options)
    return _task(Command(template, check), options)


def async_command(
    args: Sequence[Arg],
    *,
    cwd: Arg | None = None,
    env: Mapping[str, str | None] | None = None,
    input: str | bytes | None = None,
    check: bool = True,
    stdout: Arg | None = None,
    stderr: Arg | None = None,
    inputs: Iterable[Arg] = (),
    outputs: Iterable[Arg] = (),
    **options: Any,
) -> Task[..., ShellResult]:
    """Make an async task that runs a command, for `await` and `gather_tasks`; takes what `command` takes."""
    template = _template(args, cwd, env, input, stdout, stderr, inputs, outputs, options)
    return _task(AsyncCommand(template, check), options)


# -- from arguments to programs and tasks -----------------------------------------------------------------------------


def _program(args: Any, cwd: Any, env: Any, input: Any, stdout: Any, stderr: Any) -> Program:
    return Program(
        args=_checked_args(args),
        cwd=_path(cwd),
        env=environment(env or {}),
        input=input.encode() if isinstance(input, str) else input,
        stdout=_path(stdout),
        stderr=_path(stderr),
    )


def _checked_args(args: Any) -> tuple[str, ...]:
    if isinstance(args, (str, bytes)):
        raise DefinitionError(f"{args!r} is one text; give a list: {shlex.split(str(args))!r}.")
    found = tuple(os.fspath(arg) if isinstance(arg, os.PathLike) else arg for arg in args)
    if not found or not all(isinstance(arg, str) for arg in found):
        raise DefinitionError(f"{args!r} is no command; give a list of texts and paths, such as ['wc', '-l', path].")
    return found


def _path(value: Any) -> str | None:
    return None if value is None else os.fspath(value)


def _template(
    args: Any, cwd: Any, env: Any, input: Any, stdout: Any, stderr: Any, inputs: Any, outputs: Any, options: Any
) -> Template:
    for option, value in (("inputs", inputs), ("outputs", outputs)):
        if isinstance(value, (str, os.PathLike)):
            raise DefinitionError(f"{option}={value!r} must be a list; write {option}=[{value!r}].")
    if not options.get("cache") and (inputs or outputs):
        raise DefinitionError("inputs and outputs have no effect without caching; add cache=True.")
    return Template(
        args=_checked_args(args),
        cwd=_path(cwd),
        env=tuple(sorted((env or {}).items())),
        input=input,
        stdout=_path(stdout),
        stderr=_path(stderr),
        inputs=tuple(os.fspath(path) for path in inputs),
        outputs=(*(os.fspath(path) for path in outputs), *(_path(path) or "" for path in (stdout, stderr) if path)),
        version=options.pop("version", None) if options.get("cache") else None,
    )


_OF_THE_CACHE = ("cache", "cache_hash", "cache_store", "cache_ttl", "depends", "ignore")
_OF_ATTEMPTS = ("backoff", "jitter", "retries", "retry_delay", "retry_on", "timeout")


def _task(function: Command, options: dict[str, Any]) -> Task[..., ShellResult]:
    """Make the task; where files have to be kept, of two: the inner one is cached, the outer one puts files back."""
    template = function.template
    options = {"description": f"Run {' '.join(template.args)}", **options}
    if not options.get("cache"):
        return make_task(function, options)
    options["cache_hash"] = options.get("cache_hash") or cache_key
    if not template.outputs:
        return make_task(function, options)
    function.keep = True
    inside = {name: options.pop(name) for name in (*_OF_THE_CACHE, *_OF_ATTEMPTS) if name in options}
    inner = make_task(function, {**inside, "description": options["description"]})
    outer = AsyncRestoring(inner, function) if isinstance(function, AsyncCommand) else Restoring(inner, function)
    return make_task(outer, options)
