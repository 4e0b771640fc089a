"""The functions behind tasks of commands: callable, with the parameters of their template, and picklable.

With caching, a command that writes files is two tasks: the inner one is cached and its value is the result with the
content of the files, the outer one puts files back that are missing or differ.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nbflow.errors import CommandError, ParameterError
from nbflow.shell.execute import ShellResult, execute, execute_async, shown
from nbflow.shell.template import Template

__all__ = ["AsyncCommand", "AsyncRestoring", "Command", "Restoring", "cache_key"]


class _Function:
    """A function whose parameters are those of a template."""

    __slots__ = ("__signature__", "template")

    def __init__(self, template: Template) -> None:
        self.template = template
        self.__signature__ = template.signature()

    @property
    def __name__(self) -> str:
        return os.path.basename(self.template.args[0])

    def values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            return dict(self.__signature__.bind(*args, **kwargs).arguments)
        except TypeError as error:
            name = self.__name__
            raise ParameterError(f"{name}(): {error} (signature: {name}{self.__signature__})", task=name) from None

    def put_back(self, files: Mapping[str, bytes]) -> None:
        """Write files that are missing, or differ from what the command had written."""
        for path, data in files.items():
            if not _holds(path, data):
                os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
                beside = f"{path}.nbflow-tmp"
                with open(beside, "wb") as file:
                    file.write(data)
                os.replace(beside, path)


class Command(_Function):
    """Runs the command; where files are to be kept, returns their content with the result."""

    __slots__ = ("check", "keep")

    def __init__(self, template: Template, check: bool) -> None:
        super().__init__(template)
        self.check = check
        self.keep = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        values = self.values(args, kwargs)
        return self.outcome(execute(self.template.program(values), None, self.check), values)

    def outcome(self, result: ShellResult, values: Mapping[str, Any]) -> Any:
        if not self.keep:
            return result
        files: dict[str, bytes] = {}
        for path in self.template.files(self.template.outputs, values):
            try:
                with open(path, "rb") as file:
                    files[path] = file.read()
            except OSError as error:
                raise CommandError(
                    f"{shown(result.args)} ended well, but its output {path!r} cannot be read: {error.strerror}. "
                    "Is it named right in outputs=[...]?",
                    command=result.args,
                    returncode=result.returncode,
                    stdout=result.stdout,
                    stderr=result.stderr,
                ) from None
        return result, files


class AsyncCommand(Command):
    """The same, awaited."""

    __slots__ = ()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        values = self.values(args, kwargs)
        return self.outcome(await execute_async(self.template.program(values), None, self.check), values)


class Restoring(_Function):
    """Calls a cached task that returns a result and files, and puts the files back."""

    __slots__ = ("inner",)

    def __init__(self, inner: Any, function: _Function) -> None:
        super().__init__(function.template)
        self.inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        result, files = self.inner(*args, **kwargs)
        self.put_back(files)
        return result


class AsyncRestoring(Restoring):
    """The same, awaited."""

    __slots__ = ()

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        import asyncio

        result, files = await self.inner(*args, **kwargs)
        await asyncio.to_thread(self.put_back, files)
        return result


def _holds(path: str, data: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size == len(data) and file.read() == data
    except OSError:
        return False


def cache_key(function: Any, inputs: Mapping[str, Any]) -> str:
    """Make the cache key of a call of a command."""
    return str(function.template.key(inputs))
