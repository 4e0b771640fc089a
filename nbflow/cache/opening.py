"""Opening a store the way settings describe it: its folder, its budgets, and the shared tier behind it.

Sessions and the command line both come here, so that they mean the same store. Nothing is opened or made before it is
needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from nbflow._clock import SYSTEM_CLOCK, Clock
from nbflow._typing import Any
from nbflow.cache.store import CacheStore
from nbflow.errors import SettingsError
from nbflow.settings import Settings

__all__ = ["open_shared", "open_store"]


def open_store(
    place: str | os.PathLike[str],
    settings: Settings,
    *,
    shared: Any = None,
    clock: Clock = SYSTEM_CLOCK,
    tell: Callable[[str], None] | None = None,
) -> CacheStore:
    """Return the store in a folder.

    Args:
        place: The folder; "off" for memory only.
        settings: Where budgets and the shared tier come from.
        shared: Instead of that of the settings: a URL, a `SharedStore`, or "off".
        clock: Where time comes from.
        tell: Called with one sentence where the shared tier has trouble.

    Raises:
        SettingsError: The place is a URL, or the compression needs a package that is missing.
    """
    if "://" in os.fspath(place):
        raise SettingsError(
            f"cache_store={os.fspath(place)!r} is a URL, but results are kept in a folder of this machine; "
            "name a folder, and put the URL into cache_shared.",
            field="cache_store",
        )
    location = None if os.fspath(place) == "off" else place
    return CacheStore(
        location,
        memory_bytes=settings.cache_memory_bytes,
        max_bytes=settings.cache_max_bytes,
        max_age_s=settings.cache_max_age_s,
        clock=clock,
        compress=settings.cache_compress,
        shared=None if location is None else open_shared(settings, shared, clock=clock, tell=tell),
    )


def open_shared(
    settings: Settings,
    shared: Any = None,
    *,
    clock: Clock = SYSTEM_CLOCK,
    tell: Callable[[str], None] | None = None,
) -> Any:
    """Return the shared tier, or None where there is to be none; see `open_store`."""
    shared = settings.cache_shared if shared is None else shared
    if shared is None or shared == "off":
        return None
    if not isinstance(shared, (str, os.PathLike)):
        return shared
    from nbflow.cache.shared import SharedTier  # keeps what only shared tiers need out of most sessions

    return SharedTier(
        os.fspath(shared),
        options=settings.cache_shared_options,
        trust=settings.cache_trust,
        key=settings.cache_shared_key,
        readonly=settings.cache_shared_readonly,
        tell=tell,
        clock=clock,
    )
