"""Logging that knows the task: loggers for tasks, and two plugins that show what they and the runs say.

`get_logger` gives an ordinary logger whose records also carry task, call, item, worker and cell. Records made in worker
processes, on this machine or another, reach the loggers of the coordinator, in the order in which each worker made
them. Nothing here touches the root logger or its handlers: a host that has set up logging keeps all of it.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import MutableMapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from nbflow._util import format_duration, one_line
from nbflow.backends.remote import inside_worker
from nbflow.core.spec import TaskMetadata
from nbflow.errors import DefinitionError
from nbflow.hooks import hook_impl
from nbflow.runtime.current import current_call
from nbflow.sessions import current_session

__all__ = ["CentralizedLoggingPlugin", "LifecycleLoggingPlugin", "TaskFormatter", "TaskLogger", "get_logger"]

DEFAULT_NAME: Final = "nbflow.tasks"
FIELDS: Final = ("task", "call", "call_id", "item", "worker", "cell")

HandlerOption: TypeAlias = 'logging.Handler | Literal["stderr", "rich"]'
if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


def get_logger(name: str | None = None) -> TaskLogger:
    """Return a logger whose records say which task made them; safe from any thread.

    Records made inside a call have these attributes, which a format can use; elsewhere they are None:
    `task` (name of the task), `call` (name of the call, such as `fit[3]`), `call_id`, `item` (position in its map),
    `worker`, and `cell` (label of the notebook's cell).

    Args:
        name: Name of the standard logger behind it; None for `nbflow.tasks`.

    Returns:
        The logger; it can be a global that tasks use, on every backend, cached or not.
    """
    return TaskLogger(logging.getLogger(DEFAULT_NAME if name is None else name), None)


class TaskLogger(_Adapter):
    """A standard logger that adds to each record which call made it; see `get_logger`."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the attributes of the current call to a record; those that the caller gives himself win."""
        kwargs["extra"] = {**_about_call(), **(kwargs.get("extra") or {})}
        return msg, kwargs

    def __reduce__(self) -> Any:
        # By name, as loggers themselves: levels and handlers are of one process only.
        return get_logger, (self.logger.name,)


def _about_call() -> dict[str, Any]:
    """Return the attributes of the call that runs here."""
    call = current_call()
    if call is None:
        return {**dict.fromkeys(FIELDS), "cell": _cell()}
    return {
        "task": call.spec.name,
        "call": call.name,
        "call_id": call.id,
        "item": call.index,
        "worker": inside_worker() or threading.current_thread().name,
        "cell": call.session.label(),
    }


def _cell() -> str | None:
    session = current_session()
    return None if session is None else session.label()


class TaskFormatter(logging.Formatter):
    """Formats records with what is known of their call; those of other loggers, too, which then know nothing of it.

    Args:
        fmt: As of `logging.Formatter`. Besides the attributes of `get_logger` there is `where`, which is
            `fit[3] · process-1 · cell 4: ` as far as it is known, and else empty; None for
            `%(asctime)s %(levelname)s %(where)s%(message)s`.
        datefmt: As of `logging.Formatter`; None for hours, minutes and seconds.
        style: As of `logging.Formatter`.
    """

    def __init__(self, fmt: str | None = None, datefmt: str | None = None, style: Literal["%", "{", "$"] = "%") -> None:
        if fmt is None:
            fmt, style = "%(asctime)s %(levelname)-7s %(where)s%(message)s", "%"
        super().__init__(fmt, datefmt or "%H:%M:%S", style, defaults=dict.fromkeys(FIELDS))

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        found = [getattr(record, name, None) for name in ("call", "worker", "cell")]
        known = [str(value) for value in found if value not in (None, "MainThread")]  # the latter says nothing
        record.where = f"{' · '.join(known)}: " if known else ""
        return super().format(record)


class _StderrHandler(logging.Handler):
    """Writes to whatever is `sys.stderr` at the moment: the owning cell, in a notebook. A record is shown once."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "nbflow_shown", False):  # by the other plugin's handler
            return
        record.nbflow_shown = True
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def _handler_of(option: HandlerOption, level: int) -> logging.Handler:
    """Return the handler that `option` asks for."""
    if isinstance(option, logging.Handler):
        return option
    handler: logging.Handler
    if option == "stderr":
        handler = _StderrHandler(level)
        handler.setFormatter(TaskFormatter())
    elif option == "rich":
        if find_spec("rich") is None:
            raise DefinitionError(
                'handler="rich" needs the package rich: pip install "nbflow[rich]"; handler="stderr" needs nothing.'
            )
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(level, Console(stderr=True), show_path=False, rich_tracebacks=False, log_time_format="%X")
        handler.setFormatter(TaskFormatter("%(where)s%(message)s"))
    else:
        raise DefinitionError(f'handler={option!r} is no logging.Handler; give one, or "stderr", or "rich".')
    return handler


class _LoggingPlugin:
    """Lets one logger speak up, through one handler, while a session with this plugin is open."""

    def __init__(self, name: str, level: int | str, handler: HandlerOption) -> None:
        if not isinstance(name, str) or name in ("", "root"):
            raise DefinitionError(
                f"name={name!r} is no logger that may be changed: the root logger belongs to the host. "
                'Name yours, such as "myproject".'
            )
        self.name = name
        self.level = _level_number(level)
        self._logger = logging.getLogger(name)
        self._handler = _handler_of(handler, self.level)
        self._lock = threading.Lock()
        self._open = 0
        self._level_before = logging.NOTSET

    @hook_impl
    def before_session_start(self, session_id: str) -> None:
        """Listen, from the first session on that has this plugin."""
        with self._lock:
            self._open += 1
            if self._open == 1:
                self._level_before = self._logger.level
                if not self._level_before or self._level_before > self.level:
                    self._logger.setLevel(self.level)
                self._logger.addHandler(self._handler)

    @hook_impl
    def after_session_end(self, session_id: str, duration: float) -> None:
        """Leave the logger as it was, when the last session with this plugin has ended."""
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self._logger.removeHandler(self._handler)
                self._logger.setLevel(self._level_before)


def _level_number(level: int | str) -> int:
    if isinstance(level, str):
        number = logging.getLevelNamesMapping().get(level.upper())
        if number is None:
            known = ", ".join(logging.getLevelNamesMapping())
            raise DefinitionError(f"level={level!r} is no level of logging; use one of {known}, or a number.")
        return number
    return level


class CentralizedLoggingPlugin(_LoggingPlugin):
    """Shows what tasks log, wherever they run, while a session with it is open.

    Records reach the coordinator without it; where the host has set up logging it is not needed. It is the quick way
    to see them where nobody has, as in a notebook.

    Args:
        level: The least level that is shown: a name such as "INFO", or a number.
        name: The logger that is shown, with all below it; the default one has those of `get_logger()` below it.
        handler: Where records go: "stderr" (in a notebook: the cell that the task belongs to), "rich" for the
            colours of the package `rich`, or any handler of yours.

    Raises:
        DefinitionError: The level or handler is none, `rich` is not installed, or the name is that of the root logger.
    """

    def __init__(
        self, level: int | str = logging.INFO, *, name: str = "nbflow", handler: HandlerOption = "stderr"
    ) -> None:
        super().__init__(name, level, handler)


class LifecycleLoggingPlugin(_LoggingPlugin):
    """Logs what happens to tasks: started, completed, cached, retried, failed, cancelled; maps and datasets.

    Calls and maps are told at level INFO, retries and cancelled calls at WARNING, failures at ERROR, items of maps and
    sessions at DEBUG. The records have the attributes of `get_logger`.

    Args:
        name: The logger that tells it.
        level: The least level that is told.
        handler: As of `CentralizedLoggingPlugin`.

    Raises:
        DefinitionError: As of `CentralizedLoggingPlugin`.
    """

    def __init__(
        self,
        name: str = "nbflow.lifecycle",
        level: int | str = logging.INFO,
        *,
        handler: HandlerOption = "stderr",
    ) -> None:
        super().__init__(name, level, handler)

    def _tell(self, level: int, metadata: TaskMetadata, text: str, *args: Any) -> None:
        """Log a fact of a call; what is routine is told one level lower of an item."""
        if metadata.map_index is not None and level == logging.INFO:
            level = logging.DEBUG
        if self._logger.isEnabledFor(level):
            item = metadata.map_index
            about = {
                "task": metadata.name if item is None else metadata.name.removesuffix(f"[{item}]"),
                "call": metadata.name,
                "call_id": metadata.id,
                "item": item,
                "worker": None,
                "cell": _cell(),
            }
            self._logger.log(level, text, *args, extra=about)

    @hook_impl
    def before_session_start(self, session_id: str) -> None:
        """Log that a session opens."""
        super().before_session_start(session_id)
        self._logger.debug("%s opened", session_id)

    @hook_impl
    def after_session_end(self, session_id: str, duration: float) -> None:
        """Log that a session closed."""
        self._logger.debug("%s closed after %s", session_id, format_duration(duration))
        super().after_session_end(session_id, duration)

    @hook_impl
    def before_node_execute(self, metadata: TaskMetadata) -> None:
        """Log that a call begins."""
        self._tell(logging.INFO, metadata, "started on %s", metadata.backend)

    @hook_impl
    def after_node_execute(self, metadata: TaskMetadata, duration: float) -> None:
        """Log that a call has completed."""
        self._tell(logging.INFO, metadata, "completed in %s", format_duration(duration))

    @hook_impl
    def on_cache_hit(self, metadata: TaskMetadata) -> None:
        """Log that a result came from the cache."""
        self._tell(logging.INFO, metadata, "cached")

    @hook_impl
    def before_node_retry(self, metadata: TaskMetadata, attempt: int, error: BaseException) -> None:
        """Log that a call is tried again."""
        self._tell(logging.WARNING, metadata, "retry %d after %s", attempt, one_line(error))

    @hook_impl
    def on_node_error(self, metadata: TaskMetadata, error: BaseException, duration: float) -> None:
        """Log that a call failed, or ran out of time."""
        self._tell(logging.ERROR, metadata, "failed after %s: %s", format_duration(duration), one_line(error))

    @hook_impl
    def on_node_cancelled(self, metadata: TaskMetadata, reason: str, duration: float) -> None:
        """Log that a call was cancelled."""
        self._tell(logging.WARNING, metadata, "cancelled after %s (%s)", format_duration(duration), reason)

    @hook_impl
    def before_map(self, name: str, total: int, backend: str) -> None:
        """Log that a map begins."""
        self._logger.info("%s: map of %d items on %s", name, total, backend)

    @hook_impl
    def after_map(self, name: str, total: int, completed: int, failed: int, cancelled: int, duration: float) -> None:
        """Log that a map has ended."""
        counts = f"{completed} of {total} completed"
        counts += "".join(
            f", {count} {word}" for count, word in ((failed, "failed"), (cancelled, "cancelled")) if count
        )
        level = logging.WARNING if failed or cancelled else logging.INFO
        self._logger.log(level, "%s: %s in %s", name, counts, format_duration(duration))

    @hook_impl
    def after_dataset_save(self, key: str, metadata: TaskMetadata | None) -> None:
        """Log that a dataset was saved."""
        self._logger.info("%sdataset %s saved", "" if metadata is None else f"{metadata.name}: ", key)
