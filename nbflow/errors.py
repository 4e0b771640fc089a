"""The errors of nbflow, one tree.

Every error derives from `NbflowError` and from the builtin that a reader would expect, carries its facts in
attributes, and survives pickling. A user's own exception is never wrapped (unless `Settings.wrap_errors`): it arrives
with its own type and a note.

    NbflowError
    ├── DefinitionError (TypeError, ValueError)   a task, workflow or option that cannot work; said when it is defined
    ├── SettingsError (ValueError)                a bad setting, naming its source
    ├── TaskError (RuntimeError)                  `wrap_errors`: the failure of a task, raised from the original
    │   └── ParameterError (TypeError)            a call whose arguments do not fit the signature
    ├── TaskTimeoutError (TimeoutError)           a call that passed its timeout
    ├── TaskCancelledError                        a call that was cancelled (panel, handle, fail-fast)
    ├── CommandError (RuntimeError)               a command that ended with another exit code than 0
    ├── BackendError (RuntimeError)               a backend that is unknown, closed, or cannot do what was asked
    │   ├── TransferError (TypeError)             an argument or result that cannot travel to or from a worker
    │   └── WorkerLostError                       a worker that died while it ran a call
    ├── CacheError (RuntimeError)                 a cache store that cannot be opened (never raised by a task's call)
    ├── DatasetError (RuntimeError)               a dataset that cannot be saved, loaded or named so
    │   └── DatasetNotFoundError (KeyError)       no dataset under that key
    ├── FileMissingError (FileNotFoundError)      a `File` that is not there
    ├── PendingError (RuntimeError)               a name that a cell in the background has not bound (yet)
    └── SessionError (RuntimeError)               a session used after its end, or closed out of order
"""

from __future__ import annotations

from nbflow._typing import Any

__all__ = [
    "BackendError",
    "CacheError",
    "CommandError",
    "DatasetError",
    "DatasetNotFoundError",
    "DefinitionError",
    "FileMissingError",
    "NbflowError",
    "ParameterError",
    "PendingError",
    "SessionError",
    "SettingsError",
    "TaskCancelledError",
    "TaskError",
    "TaskTimeoutError",
    "TransferError",
    "WorkerLostError",
]


class NbflowError(Exception):
    """Base of all errors of nbflow; `args[0]` is the whole message, further facts are attributes."""

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.__dict__.update(facts)

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class DefinitionError(NbflowError, TypeError, ValueError):
    """A task, a workflow or an option that cannot work, found when it is defined or submitted."""


class SettingsError(NbflowError, ValueError):
    """A setting with a bad value; the message names the source (argument, environment variable or file)."""


class TaskError(NbflowError, RuntimeError):
    """A task failed; raised `from` the user's exception when `Settings.wrap_errors` is on."""


class ParameterError(TaskError, TypeError):
    """A call whose arguments do not fit the task's signature; raised before the first attempt."""


class TaskTimeoutError(NbflowError, TimeoutError):
    """A call passed its timeout.

    Attributes:
        task: Name of the task.
        timeout_s: The timeout, in seconds.
        stopped: False where the code could not be stopped and still runs detached.
    """


class TaskCancelledError(NbflowError):
    """A call was cancelled before it could finish; never retried, never cached.

    Attributes:
        task: Name of the task.
        reason: Who asked for it ("panel", "handle", "fail-fast", ...).
    """


class CommandError(NbflowError, RuntimeError):
    """A command could not be started, or ended with an exit code other than 0.

    Attributes:
        command: The program and its arguments.
        returncode: Its exit code; the negative number of the signal that ended it; None if it never started.
        stdout, stderr: What it wrote; None where that went to a file.
    """


class BackendError(NbflowError, RuntimeError):
    """A backend is unknown or closed, or cannot honour what was asked of it."""


class TransferError(BackendError, TypeError):
    """An argument or a result cannot travel to or from a worker.

    Attributes:
        path: Where in the value the culprit is, such as `args[0].model._lock`.
        reason: What the pickler said of it.
    """

    path: str
    reason: str


class WorkerLostError(BackendError):
    """A worker died (killed, crashed, out of memory, lost its host) while it ran a call.

    Attributes:
        worker: Name of the worker.
        exitcode: Its exit code; the negative number of a signal; None where nobody knows.
    """

    worker: str
    exitcode: int | None


class CacheError(NbflowError, RuntimeError):
    """A cache store cannot be opened or managed; a task's call never raises it."""


class DatasetError(NbflowError, RuntimeError):
    """A dataset cannot be saved, loaded, or named as asked."""


class DatasetNotFoundError(DatasetError, KeyError):
    """No dataset is stored under that key."""

    __str__ = NbflowError.__str__


class FileMissingError(NbflowError, FileNotFoundError):
    """There is no such file, or none that matches.

    Attributes:
        path: The path or pattern as given.
    """

    path: str


class PendingError(NbflowError, RuntimeError):
    """A name was used that a cell in the background has not bound yet, or failed to bind; attribute `name`."""


class SessionError(NbflowError, RuntimeError):
    """A session was used after its end, or closed in the wrong order."""
