"""What `%flow why` says about a cell or a task function: how it came by its values, and what it would do now.

Afterwards the answer comes from the record of the last run, beforehand (`--dry`) from the key as of now and from the
cache. Nothing is run to find out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbflow._util import format_duration, one_line
from nbflow.cache.explain import Explanation
from nbflow.cache.key import CacheKey, Fingerprint, KeyBuilder
from nbflow.cache.parts import combine, part_bytes
from nbflow.notebook.graph import CellNode, Graph
from nbflow.notebook.unseen import unseen
from nbflow.status import foresee, reasons_of

if TYPE_CHECKING:
    from nbflow.runtime.current import Call
    from nbflow.sessions import SessionContext

__all__ = ["cell_before", "cell_now", "task_before", "task_now"]


def cell_now(graph: Graph, key_now: Callable[[CellNode], CacheKey | None], node: CellNode) -> Explanation:
    """Say how a cell came by its values, or why these are no longer up to date."""
    head = f"{node.name} ({node.label})"
    if node.state == "failed":
        return Explanation(f"{head} failed", [str(node.reason)])
    reason = graph.stale(key_now).get(node.name)
    if reason is not None:
        return Explanation(f"{head} is stale", reasons_of(reason))
    if node.state == "cached":
        saved = format_duration(node.saved_s)
        verdict = f"{head} is up to date; it was restored from the cache (saved {saved} so far)"
        return Explanation(verdict, unseen(node.cell.codes, "use --ttl 1h, or --no-cache"))
    if node.state == "uncached":
        return Explanation(f"{head} is not cached", [node.reason or "caching is off"])
    return Explanation(f"{head} is up to date; it ran because", reasons_of(node.reason) or ["it had not run before"])


def cell_before(
    graph: Graph, key_now: Callable[[CellNode], CacheKey | None], node: CellNode, session: SessionContext
) -> Explanation:
    """Say what a cell would do if it were executed now."""
    head = f"{node.name} ({node.label})"
    if node.options.cache == "off":
        return Explanation(f"{head} would run", ["caching is off for it"])
    if node.options.force:
        return Explanation(f"{head} would run", ["recomputing is forced (--force)"])
    if node.unsteady is not None and node.reason:
        return Explanation(f"{head} would run", [node.reason])
    stale = graph.stale(key_now)
    waiting = [f"reads from stale `{each.name}` ({each.label})" for each in graph.sources(node) if each.name in stale]
    if waiting:
        return Explanation(f"{head} would run on other values once what it reads from has run", waiting)
    key, store = key_now(node), session.cache_store
    if key is None or store is None:
        return Explanation(f"{head} would run", ["there is no cache"])
    found = store.fetch(key, ttl=node.options.ttl if node.options.ttl is not None else session.settings.cache_ttl)
    if found is not None:
        ago = format_duration(max(0.0, session.clock.wall() - found.created))
        cost = format_duration(found.saved_s)
        return Explanation(f"{head} would be restored from the cache: computed {ago} ago in {cost}")
    if node.state == "failed":
        return Explanation(f"{head} would run again", [f"it failed: {node.reason}"])
    changes = reasons_of(graph.reason(node, key_now)) or reasons_of(store.explain(key))
    return Explanation(f"{head} would run", [*changes, *key.notes] or ["nothing is cached for it"])


def task_now(head: str, call: Call, changes: list[str]) -> Explanation:
    """Say how the last call of a task function came by its result, or what has changed since.

    Args:
        head: The task as people know it: name and cell.
        call: Its last call.
        changes: What has changed since in its code.
    """
    if call.error is not None:
        return Explanation(f"{head} failed", [one_line(call.error)])
    if not call.spec.cache:
        return Explanation(f"{head} runs at every call: caching is off for it")
    if changes:
        return Explanation(f"{head} would run again", changes)
    if call.notes and not call.cached:
        return Explanation(f"{head} is not stored", call.notes)
    if call.cached:
        asked = unseen((getattr(call.spec.func, "__code__", None),), "use cache_ttl=3600, or cache=False")
        return Explanation(f"{head} is up to date; its last call came from the cache", asked)
    reasons = [*(reasons_of(call.reason) or ["it had not run before"]), *call.remarks]
    return Explanation(f"{head} is up to date; its last call ran because", reasons)


def task_before(
    head: str, keyed: Call | None, now: Any, session: SessionContext, *, is_last: bool = True
) -> Explanation:
    """Say what the last call of a task function would do if it were made again now.

    Args:
        head: The task as people know it: name and cell.
        keyed: Its last call of which the key is known.
        now: The task as it is defined now.
        session: The session it would run in.
        is_last: Whether that call is its last one; of repeated hits neither key nor arguments are known.
    """
    spec = now.spec
    if not spec.cache:
        return Explanation(f"{head} would run: caching is off for it")
    if keyed is None:
        return Explanation(f"{head} has made no key in this session yet; ask with nbflow.why({spec.name}, arguments…)")
    key = _same_arguments(spec.keyer.key({}, args=(object(),)), keyed.key)
    found = foresee(session, spec, session.cache_store_for(spec), key)
    given = ", ".join(f"{part.name}={part.text}" for part in keyed.key.parts if part.kind == "argument")
    which = "its last call" if is_last else f"an earlier call ({given or 'by its own hash'})"
    return Explanation(f"with the arguments of {which}, {found.verdict}", found.reasons)


def _same_arguments(code: CacheKey, last: CacheKey) -> CacheKey:
    """Return the key of the code as of now with the arguments of another key."""
    if any(part.kind == "input" for part in last.parts):  # made by the user's own hash
        return last
    reached = tuple(part for part in code.parts if part.kind != "version")
    builder = KeyBuilder(last.task)
    builder.add_code(Fingerprint(combine([part_bytes(part.kind, part.name, part.digest) for part in reached]), reached))
    for part in last.parts:
        if part.kind == "argument":
            builder.add_digest(part.kind, part.name, part.digest, part.text, part.where)
    for part in code.parts:
        if part.kind == "version":
            builder.add_digest(part.kind, part.name, part.digest, part.text, part.where)
    key = builder.build()
    return CacheKey(key.digest, key.task, last.scope, key.parts, last.notes)
