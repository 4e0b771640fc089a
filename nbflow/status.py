"""Looking back at a run: `why` a task ran (or would), and the `panel` again.

`why` answers from the cache's key parts, before or after running; in a notebook it also knows cells by name. `panel`
shows the live view once more or switches it off. The notebook puts its own answers into `ambient` while the extension
is loaded.
"""

from __future__ import annotations

import inspect
from typing import Any

from nbflow._util import format_duration
from nbflow.cache import trace
from nbflow.cache.explain import Explanation
from nbflow.cache.parts import CacheKey
from nbflow.core.spec import TaskSpec
from nbflow.errors import DefinitionError, SessionError
from nbflow.retries import Retries
from nbflow.runtime.current import Call, ambient
from nbflow.sessions import SessionContext, session_or_default
from nbflow.tasks import Task

__all__ = ["describe", "foresee", "panel", "reasons_of", "why"]


def why(subject: Task[..., Any] | str, /, *args: Any, **kwargs: Any) -> Explanation:
    """Say in words why a task was, or would be, computed or taken from the cache.

    Args:
        subject: A task, or the name of a task or cell.
        *args: Arguments of a call to ask about; the call is not made.
        **kwargs: Its keyword arguments.

    Returns:
        Text, such as "fit would run: helper `clean` changed (cell 4).", with all reasons, the most telling first; a
        notebook shows several as a list. Without arguments it is about the last call.

    Raises:
        DefinitionError: `subject` is no task, its arguments do not fit, or nothing of that name ran.
    """
    session = session_or_default()
    if isinstance(subject, str):
        if ambient.why is not None:
            found: Explanation = ambient.why(subject)
            return found
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


def _beforehand(session: SessionContext, subject: Task[..., Any], args: tuple[Any, ...], kwargs: Any) -> Explanation:
    spec = subject.spec
    try:
        inputs = spec.bind(*args, **kwargs)
    except TypeError as error:
        raise DefinitionError(f"why({spec.name}): {str(error).replace('<lambda>', spec.name)}.") from None
    if not spec.cache:
        return Explanation(f"{spec.name} is not cached: it runs at every call. Add cache=True to keep its results.")
    if session.settings.force:
        return Explanation(f"{spec.name} would run", ["recomputing is forced (setting force)"])
    store = session.cache_store_for(spec)
    key = spec.keyer.key(inputs, args, kwargs, store)
    if store is None:
        return Explanation(f"{spec.name} would run", ["there is no cache"])
    return foresee(session, spec, store, key)


def foresee(session: SessionContext, spec: TaskSpec, store: Any, key: CacheKey) -> Explanation:
    """Say what a call with that key would do now.

    Args:
        session: The session it would run in.
        spec: Its task.
        store: The store that it would ask.
        key: Its key.
    """
    ttl = spec.cache_ttl if spec.cache_ttl is not None else session.settings.cache_ttl
    key, found = trace.fetch(store, key, ttl=ttl)
    if found is not None:
        age = max(0.0, session.clock.wall() - found.created)
        kept = f" ({'; '.join(key.notes)})" if key.notes else ""
        return Explanation(
            f"{spec.name} is fresh: the result for these arguments is cached, computed {format_duration(age)} ago in "
            f"{format_duration(found.saved_s)}{kept}"
        )
    if key.notes:
        return Explanation(f"{spec.name} is kept for this session only", key.notes)
    earlier = [call for call in reversed(session.records) if call.spec.name == spec.name]
    reasons = reasons_of(store.explain(key)) or ["nothing is cached for it"]
    if any(call.key is not None and call.key.digest == key.digest and _was_stored(call) for call in earlier):
        if not any(reason.startswith(("expired", "the ")) for reason in reasons):
            reasons = ["its result was stored in this session, but has been evicted or cleared since"]
    if earlier and earlier[0].notes:
        reasons.append(f"its last call: {'; '.join(earlier[0].notes)}")
    return Explanation(f"{spec.name} would run", reasons)


def _was_stored(call: Call) -> bool:
    return call.error is None and call.ended is not None and not call.notes


def reasons_of(reason: str | None) -> list[str]:
    """Return the reasons in a text one by one, where they are known so."""
    return list(getattr(reason, "each", () if reason is None else (reason,)))


def _last(session: SessionContext, name: str) -> Explanation:
    for call in reversed(session.records):
        if call.spec.name == name or call.name == name:
            return describe(call)
    known = sorted({call.spec.name for call in session.records})
    there = f"; known: {', '.join(known)}." if known else "."
    raise DefinitionError(f"Nothing named {name!r} ran in this session yet{there}")


def describe(call: Call) -> Explanation:
    """Say how a finished call came by its result."""
    if call.cached:
        saved = f", which saved {format_duration(call.saved_s)}" if call.saved_s >= 0.001 else ""
        return Explanation(f"{call.name} was taken from the cache: neither code nor inputs changed{saved}")
    if call.reason:
        return Explanation(f"{call.name} ran", [*reasons_of(call.reason), *call.remarks, *call.notes])
    if not call.spec.cache:
        return Explanation(f"{call.name} ran", ["it is not cached", *call.notes])
    return Explanation(f"{call.name} {call.state}", call.notes)


def panel(on: bool = True) -> Retries:
    """Show the panel of the last run again, or switch the panel off for this notebook.

    Args:
        on: False to switch it off.

    Returns:
        The failed calls that can be run again: `failed`, `retry(name)`, `rerun(name)`, and `retried` with the handles
        of those that were, also by a click.

    Raises:
        DefinitionError: `on` is neither True nor False.
        SessionError: There is no notebook here, or `%load_ext nbflow` did not run yet.
    """
    if not isinstance(on, bool):
        raise DefinitionError(f"panel({on!r}): write panel() to show it again, or panel(False) to switch it off.")
    if ambient.panel is None:
        raise SessionError("There is no panel here: it belongs to a notebook. Run %load_ext nbflow in one first.")
    retries: Retries = ambient.panel(on)
    return retries
