"""nbflow turns an ordinary Jupyter notebook into an incremental workflow.

`%load_ext nbflow`, then `%%task` on top of a cell or `@task` on a function: it runs now, returns real values, and next
time recomputes only what changed, also after a kernel restart.
"""

from __future__ import annotations

from nbflow._typing import TYPE_CHECKING, Any
from nbflow._util import lazy as _lazy
from nbflow._version import __version__
from nbflow.errors import NbflowError, TaskCancelledError, TaskError, TaskTimeoutError
from nbflow.sessions import async_session, session
from nbflow.tasks import task

if TYPE_CHECKING:
    from nbflow.completion import as_completed
    from nbflow.compose import gather_tasks, load_dataset, map_tasks, save_dataset
    from nbflow.engine import Runtime, get_default_runtime, set_default_runtime
    from nbflow.exploring import explore
    from nbflow.files import File
    from nbflow.handles import TaskHandle
    from nbflow.status import panel, why
    from nbflow.submitting import submit
    from nbflow.tracking import progress
    from nbflow.workflows import workflow

__all__ = [
    "File",
    "NbflowError",
    "Runtime",
    "TaskCancelledError",
    "TaskError",
    "TaskHandle",
    "TaskTimeoutError",
    "__version__",
    "as_completed",
    "async_session",
    "explore",
    "gather_tasks",
    "get_default_runtime",
    "load_dataset",
    "map_tasks",
    "panel",
    "progress",
    "save_dataset",
    "session",
    "set_default_runtime",
    "submit",
    "task",
    "why",
    "workflow",
]

# Names whose modules are only imported when first used, so that `import nbflow` stays light.
_LAZY = {
    "File": "nbflow.files",
    "Runtime": "nbflow.engine",
    "TaskHandle": "nbflow.handles",
    "as_completed": "nbflow.completion",
    "explore": "nbflow.exploring",
    "gather_tasks": "nbflow.compose",
    "get_default_runtime": "nbflow.engine",
    "load_dataset": "nbflow.compose",
    "map_tasks": "nbflow.compose",
    "panel": "nbflow.status",
    "progress": "nbflow.tracking",
    "save_dataset": "nbflow.compose",
    "set_default_runtime": "nbflow.engine",
    "submit": "nbflow.submitting",
    "why": "nbflow.status",
    "workflow": "nbflow.workflows",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(_lazy(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'nbflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(ip: Any) -> None:
    """Set up magics, panel and the notebook's session; `%load_ext nbflow` calls this."""
    _lazy("nbflow.notebook.kernel").load(ip)


def unload_ipython_extension(ip: Any) -> None:
    """Undo `load_ipython_extension`; `%unload_ext nbflow` calls this."""
    _lazy("nbflow.notebook.kernel").unload(ip)
