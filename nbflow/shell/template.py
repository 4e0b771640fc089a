"""Templates of commands: what to run for given parameters, and what its result depends on.

Every argument is filled in by itself, so a value with spaces, quotes or semicolons stays one argument. An argument that
is nothing but `{parameter}` may stand for a list, which becomes as many arguments.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from nbflow.cache.filestate import state_of
from nbflow.core.spec import parse_template, render_template
from nbflow.errors import DefinitionError
from nbflow.files import File
from nbflow.shell.process import Program

__all__ = ["Template", "environment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A command with `{parameter}`s; `args`, `cwd`, `stdout`, `stderr`, `inputs` and `outputs` are filled in.

    `input` is literal, unless it is nothing but one `{parameter}`; `env` is added to the environment of this process.
    """

    args: tuple[str, ...]
    cwd: str | None = None
    env: tuple[tuple[str, str | None], ...] = ()
    input: str | bytes | None = None
    stdout: str | None = None
    stderr: str | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    version: str | int | None = None

    def signature(self) -> inspect.Signature:
        """Return the parameters in the order in which they first appear.

        Raises:
            DefinitionError: A template is none; the message names the text.
        """
        names: dict[str, None] = {}
        texts = [*self.args, self.cwd, self.stdout, self.stderr, *self.inputs, *self.outputs]
        if (alone := _alone(self.input)) is not None:
            texts.append(f"{{{alone}}}")
        for text in texts:
            if text is not None:
                parse_template("command", text)
                names |= {name: None for _, name, _, _ in Formatter().parse(text) if name is not None}
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Signature([inspect.Parameter(name, kind) for name in names])

    def program(self, values: Mapping[str, Any]) -> Program:
        """Return the command for these values of the parameters."""
        args: list[str] = []
        for text in self.args:
            args += self._items(text, values)
        data = self.input
        if (name := _alone(data)) is not None:
            data = values[name] if isinstance(values[name], bytes) else str(_plain(name, values[name]))
        return Program(
            args=tuple(args),
            cwd=self._path(self.cwd, values),
            env=environment(dict(self.env)),
            input=data.encode() if isinstance(data, str) else data,
            stdout=self._path(self.stdout, values),
            stderr=self._path(self.stderr, values),
        )

    def files(self, texts: tuple[str, ...], values: Mapping[str, Any]) -> list[str]:
        """Return the paths that templates of `inputs` or `outputs` stand for, as seen from this process."""
        found: list[str] = []
        for text in texts:
            folder = self._filled(self.cwd, values) if self.cwd else ""
            found += [os.path.join(folder, path) for path in self._items(text, values)]
        return found

    def key(self, values: Mapping[str, Any]) -> str:
        """Digest what the result depends on: the command, what it is given, and the content of its input files.

        Raises:
            OSError: An input file is there and cannot be read.
        """
        program = self.program(values)
        facts = (program.args, program.cwd, self.env, program.input, program.stdout, program.stderr, self.version)
        hashed = hashlib.sha256(repr(facts).encode())
        paths = self.files(self.inputs, values)
        if os.path.dirname(program.args[0]):  # not one that is looked for in PATH
            paths.append(os.path.join(program.cwd or "", program.args[0]))
        for value in values.values():
            items = value if isinstance(value, (list, tuple)) else [value]
            paths += [os.fspath(item) for item in items if isinstance(item, File)]
        for path in paths:
            hashed.update(repr((path, state_of(path).digest)).encode())
        return hashed.hexdigest()

    def _items(self, text: str, values: Mapping[str, Any]) -> list[str]:
        """Return the arguments that `text` makes: one, or as many as the list has that it stands for."""
        name = _alone(text)
        if name is not None and isinstance(values[name], (list, tuple)):
            return [str(_plain(name, item)) for item in values[name]]
        return [self._filled(text, values)]

    def _filled(self, text: str | None, values: Mapping[str, Any]) -> str:
        names = {name for _, name, _, _ in Formatter().parse(text or "") if name is not None}
        return render_template(text or "", {name: _plain(name, values[name]) for name in names})

    def _path(self, text: str | None, values: Mapping[str, Any]) -> str | None:
        return None if text is None else self._filled(text, values)


def _alone(text: Any) -> str | None:
    """Return the parameter that `text` consists of, if it is nothing else."""
    if isinstance(text, str) and text[:1] == "{" and text[-1:] == "}" and text[1:-1].isidentifier():
        return text[1:-1]
    return None


def _plain(name: str, value: Any) -> Any:
    """Return a value as it can stand in an argument."""
    if value is None or isinstance(value, (list, tuple, dict, set, bytes)):
        raise DefinitionError(
            f"{name}={value!r} makes no argument; give text, a number or a path (or, where {{{name}}} is a whole "
            "argument, a list of these)."
        )
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def environment(changes: Mapping[str, str | None]) -> dict[str, str] | None:
    """Return the environment of this process with changes (None removes a variable); None if there are none."""
    if not changes:
        return None
    found = {**os.environ, **{name: value for name, value in changes.items() if value is not None}}
    return {name: value for name, value in found.items() if changes.get(name, "") is not None}
