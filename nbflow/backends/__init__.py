"""Where calls run.

`Backend` is the contract, `BackendManager` finds backends by name or alias and owns them for one session. Backends
know nothing of tasks and caches: they run callables and say what they can honour.
"""

from typing import TYPE_CHECKING, Any

from nbflow.backends.base import Abilities, Backend, BackendContext, SubmitContext
from nbflow.backends.inline import InlineBackend
from nbflow.backends.manager import BackendManager, register_backend
from nbflow.backends.remote import RemoteBackend, RemoteJob, Shared
from nbflow.backends.thread import ThreadBackend

if TYPE_CHECKING:
    from nbflow.backends.dask import DaskBackend
    from nbflow.backends.executor import ExecutorBackend
    from nbflow.backends.noop import NoopBackend
    from nbflow.backends.process import ProcessBackend

__all__ = [
    "Abilities",
    "Backend",
    "BackendContext",
    "BackendManager",
    "DaskBackend",
    "ExecutorBackend",
    "InlineBackend",
    "NoopBackend",
    "ProcessBackend",
    "RemoteBackend",
    "RemoteJob",
    "Shared",
    "SubmitContext",
    "ThreadBackend",
    "register_backend",
]

# Backends that most sessions never use are only imported when they are asked for.
_LAZY = {
    "DaskBackend": "dask",
    "ExecutorBackend": "executor",
    "NoopBackend": "noop",
    "ProcessBackend": "process",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"nbflow.backends.{_LAZY[name]}"), name)
