"""Where calls run.

`Backend` is the contract, `BackendManager` finds backends by name or alias and owns them for one session. Backends
know nothing
of tasks and caches: they run callables and say what they can honour.
"""

from nbflow.backends.base import Abilities, Backend, BackendContext, SubmitContext
from nbflow.backends.inline import InlineBackend
from nbflow.backends.manager import BackendManager, register_backend
from nbflow.backends.remote import RemoteBackend, RemoteJob, Shared
from nbflow.backends.thread import ThreadBackend

__all__ = [
    "Abilities",
    "Backend",
    "BackendContext",
    "BackendManager",
    "InlineBackend",
    "RemoteBackend",
    "RemoteJob",
    "Shared",
    "SubmitContext",
    "ThreadBackend",
    "register_backend",
]
