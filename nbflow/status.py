"""Looking back at a run: `why` a task ran (or would), and the `panel` again.

`why` answers from the cache's key parts, before or after running; in a notebook it also knows cells by name. `panel`
shows the live view once more or switches it off. The notebook puts its own answers into `ambient` while the extension
is loaded.
"""

from __future__ import annotations

import inspect
from typing import Any

from nbflow.errors import DefinitionError, SessionError
from nbflow.runtime.current import Call, ambient
from nbflow.sessions import SessionContext, session_or_default
from nbflow.tasks import Task

__all__ = ["panel", "why"]


def why(subject: Task[..., Any] | str, /, *args: Any, **kwargs: Any) -> str:
    """Say in words why a task was, or would be, computed or taken from the cache.

    Args:
        subject: A task, or the name of a task or cell.
        *args: Arguments of a call to ask about; the call is not made.
        **kwargs: Its keyword arguments.

    Returns:
        One sentence, such as "helper `clean` changed (cell 4)". Without arguments it is about the last call.

    Raises:
        DefinitionError: `subject` is no task, its arguments do not fit, or nothing of that name ran.
    """
    session = session_or_default()
    if isinstance(subject, str):
        if ambient.why is not None:
            return ambient.why(subject)
        return _last(session, subject)
    if not isinstance(subject, Task):
        raise DefinitionError(f"why({subject!r}): give a task, or the name of a task or cell.")
    needed = [
        parameter.name
        for parameter in subject.signature.parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    ]
    if not args and not kwargs and needed:
        return _last(session, subject.name)
    return _beforehand(session, subject, args, kwargs)


def _beforehand(session: SessionContext, subject: Task[..., Any], args: tuple[Any, ...], kwargs: Any) -> str:
    spec = subject.spec
    try:
        inputs = spec.bind(*args, **kwargs)
    except TypeError as error:
        raise DefinitionError(f"why({spec.name}): {str(error).replace('<lambda>', spec.name)}.") from None
    if not spec.cache:
        return f"{spec.name} is not cached: it runs at every call. Add cache=True to keep its results."
    store = session.cache_store_for(spec)
    key = spec.keyer.key(inputs, args, kwargs)
    if key.notes:
        return f"{spec.name} is kept for this session only: {'; '.join(key.notes)}"
    if store.contains(key):
        return f"{spec.name} is fresh: the result for these arguments is cached."
    last = next((call for call in reversed(session.records) if call.spec is spec), None)
    trouble = f" (its last call: {'; '.join(last.notes)})" if last is not None and last.notes else ""
    return f"{spec.name} would run: {store.explain(key) or 'nothing is cached for it'}{trouble}."


def _last(session: SessionContext, name: str) -> str:
    for call in reversed(session.records):
        if call.spec.name == name or call.name == name:
            return describe(call)
    raise DefinitionError(f"Nothing named {name!r} ran in this session yet.")


def describe(call: Call) -> str:
    """Say in a sentence how a finished call came by its result."""
    if call.cached:
        return f"{call.name} was taken from the cache: neither code nor inputs changed."
    notes = f" ({'; '.join(call.notes)})" if call.notes else ""
    if call.reason:
        return f"{call.name} ran: {call.reason}{notes}."
    if not call.spec.cache:
        return f"{call.name} ran: it is not cached{notes}."
    return f"{call.name} {call.state}{notes}."


def panel(on: bool = True) -> None:
    """Show the panel of the last run again, or switch the panel off for this notebook.

    Args:
        on: False to switch it off.

    Raises:
        SessionError: There is no notebook here, or `%load_ext nbflow` did not run yet.
    """
    if ambient.panel is None:
        raise SessionError("There is no panel here: it belongs to a notebook. Run %load_ext nbflow in one first.")
    ambient.panel(on)
