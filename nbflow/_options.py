"""From the options of `@task` to the description of a task: every check, each with one clear line.

A bad option is an error when the task is defined, never ignored and never found out at a call. Each message names the
value, why it cannot work, and what to write instead.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable

from nbflow._typing import Any
from nbflow.core.policy import NO_RETRY, Policy
from nbflow.core.spec import TaskKind, TaskSpec, compile_binder, kind_of, parameters_of, parse_template
from nbflow.errors import DefinitionError

__all__ = ["RETRY_OPTIONS", "make_spec"]

RETRY_OPTIONS = ("retry_delay", "backoff", "jitter", "retry_on")

_MEANT: dict[str, str] = {
    **dict.fromkeys(("memory", "mem", "ram"), "'session'"),
    **dict.fromkeys(("off", "none", "false"), "False"),
    **dict.fromkeys(("on", "true", "local"), "True"),
}
"""Words that people write for `cache` and that would be taken for the name of a folder, with what they mean."""


def make_spec(func: Callable[..., Any], chosen: dict[str, Any], defaults: dict[str, Any]) -> TaskSpec:
    """Return the description of the task that `func` and its options make.

    Args:
        func: The function.
        chosen: Every option of `task` by name.
        defaults: What they are where the user says nothing.

    Raises:
        DefinitionError: An option cannot work; the message names it and says what to do.
    """
    parameters = [parameter.name for parameter in parameters_of(func)]
    kind = kind_of(func)
    name = _checked_name(chosen["name"], func)
    names = parse_template("name", name, parameters)
    if chosen["name"] is not None and "." in name and _has_dot(name):
        raise DefinitionError(f"name={name!r} must not contain a dot; use '-' or '_' instead.")
    name = name if names else name.format()  # only a template needs its literal braces doubled
    policy = _policy_of(chosen, defaults)
    cache, store = _checked_cache(chosen)
    _check_stream(kind, policy, cache)
    _check_names("ignore", chosen["ignore"], parameters)
    _check_dataset(chosen, parameters)
    _check_backend(chosen["backend"])
    bind = compile_binder(func)
    keyer = None
    if cache:
        from nbflow.cache.key import FunctionKeyer  # only tasks that are cached need the cache

        keyer = FunctionKeyer(
            func,
            name=name,
            version=chosen["version"],
            ignore=tuple(chosen["ignore"]),
            depends=tuple(chosen["depends"]),
            custom=chosen["cache_hash"],
            bind=bind,
        )
    return TaskSpec(
        func=func,
        name=name,
        about=_checked_description(chosen["description"]),
        kind=kind,
        bind=bind,
        policy=NO_RETRY if policy == NO_RETRY else policy,
        backend=chosen["backend"],
        cache=cache,
        cache_store=store,
        cache_ttl=chosen["cache_ttl"],
        readonly=chosen["readonly"],
        keyer=keyer,
        dataset=chosen["dataset"],
        dataset_store=chosen["dataset_store"],
        dataset_format=chosen["dataset_format"],
        template_names=names,
        plain=policy == NO_RETRY and not cache and chosen["dataset"] is None,
    )


def _policy_of(chosen: dict[str, Any], defaults: dict[str, Any]) -> Policy:
    """Return how often a task is tried and for how long; options of retries mean nothing without them."""
    retry_on = chosen["retry_on"]
    policy = Policy(
        retries=chosen["retries"],
        delay_s=chosen["retry_delay"],
        backoff=chosen["backoff"],
        jitter=chosen["jitter"],
        retry_on=retry_on if isinstance(retry_on, tuple) else (retry_on,),
        timeout_s=chosen["timeout"],
    )
    idle = [option for option in RETRY_OPTIONS if not policy.retries and chosen[option] != defaults[option]]
    if idle:
        raise DefinitionError(f"{', '.join(idle)} has no effect without retries; add retries=1 or more.")
    return policy


def _has_dot(name: str) -> bool:
    """Whether a name has a dot outside its braces, as in `{value:.2f}`."""
    from string import Formatter  # few names are templates

    return any("." in text for text, *_ in Formatter().parse(name))


def _checked_name(name: Any, func: Callable[..., Any]) -> str:
    if name is None:
        target: Any = func
        while isinstance(target, functools.partial):
            target = target.func
        return str(getattr(target, "__name__", type(target).__name__)).replace("{", "{{").replace("}", "}}")
    if not isinstance(name, str) or not name:
        raise DefinitionError(f"name={name!r} must be a non-empty string.")
    return name


def _checked_description(description: Any) -> str | None:
    if description is not None and not isinstance(description, str):
        raise DefinitionError(f"description={description!r} must be a string, or None for the docstring.")
    return description


def _checked_cache(chosen: dict[str, Any]) -> tuple[bool | str, Any]:
    """Return the cache mode (False, True, "disk" or "session") and the task's own store."""
    cache, store, ttl, custom = chosen["cache"], chosen["cache_store"], chosen["cache_ttl"], chosen["cache_hash"]
    for option in ("ignore", "depends"):
        if isinstance(chosen[option], str) or not isinstance(chosen[option], Iterable):
            raise DefinitionError(f"{option}={chosen[option]!r} must be a list; write {option}=[{chosen[option]!r}].")
    for option, place in (("cache_store", store), ("cache", None if cache is True else cache)):
        if place and not (isinstance(place, (str, os.PathLike)) or hasattr(place, "fetch")):
            raise DefinitionError(f"{option}={place!r} is no cache store; give a path, a URL or a CacheStore.")
    if isinstance(cache, str) and (meant := _MEANT.get(cache.lower())):
        raise DefinitionError(f"cache={cache!r} would be a folder of that name; write cache={meant}, or './{cache}'.")
    if "" in (cache, store):
        raise DefinitionError('"" is no place for a cache; give a path, or cache=True for the session\'s store.')
    if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not ttl >= 0):
        raise DefinitionError(f"cache_ttl={ttl!r} must be a number of seconds ≥ 0.")
    if chosen["readonly"] not in (None, True, False):
        raise DefinitionError(f"readonly={chosen['readonly']!r} must be True or False, or None for the setting.")
    if custom is not None and not callable(custom):
        raise DefinitionError(f"cache_hash={custom!r} must be a function (func, inputs) -> str.")
    if cache in (False, None):
        named = ("cache_store", "cache_ttl", "cache_hash", "readonly", "version")
        given = [name for name in named if chosen[name] is not None]
        given += [name for name in ("ignore", "depends") if tuple(chosen[name])]
        if given:
            raise DefinitionError(f"{', '.join(given)} has no effect without caching; add cache=True.")
        return False, None
    if cache is True or cache in ("disk", "session"):
        return cache, store
    if store is not None:
        raise DefinitionError(f"cache={cache!r} names a store and so does cache_store; give only one of them.")
    return True, cache


def _check_stream(kind: TaskKind, policy: Policy, cache: bool | str) -> None:
    if kind.is_stream:
        given = [
            option
            for option, on in (("retries", policy.retries), ("timeout", policy.timeout_s is not None), ("cache", cache))
            if on
        ]
        if given:
            raise DefinitionError(
                f"{' and '.join(given)} cannot be used on a generator: its items are handed out before it ends. "
                "Return a list instead, or drop the option."
            )


def _check_dataset(chosen: dict[str, Any], parameters: list[str]) -> None:
    key, store, format_name = chosen["dataset"], chosen["dataset_store"], chosen["dataset_format"]
    if key is None:
        if given := [option for option in ("dataset_store", "dataset_format") if chosen[option] is not None]:
            raise DefinitionError(
                f"{' and '.join(given)} has no effect without dataset='...'; add the key to save under."
            )
        return
    if not isinstance(key, str) or not key:
        raise DefinitionError(f"dataset={key!r} must be a non-empty string, such as 'fits/depth_{{depth}}.pkl'.")
    parse_template("dataset", key, parameters)
    if store is not None and not (isinstance(store, (str, os.PathLike)) or hasattr(store, "save")):
        raise DefinitionError(f"dataset_store={store!r} is no dataset store; give a path, a URL or a DatasetStore.")
    if format_name is not None and (not isinstance(format_name, str) or not format_name):
        raise DefinitionError(f"dataset_format={format_name!r} must be the name of a format, such as 'csv'.")


def _check_names(option: str, names: Any, parameters: list[str]) -> None:
    if unknown := [name for name in names if name not in parameters]:
        raise DefinitionError(
            f"{option} names {', '.join(map(repr, unknown))}, which is no parameter. "
            f"Parameters: {', '.join(parameters)}."
        )


def _check_backend(backend: Any) -> None:
    good = bool(backend) if isinstance(backend, str) else callable(getattr(backend, "submit", None))
    if backend is not None and (not good or isinstance(backend, type)):
        raise DefinitionError(
            f"backend={backend!r} must be the name of a backend, such as 'thread'. A Backend, an executor or a Dask "
            "client will do, too."
        )
