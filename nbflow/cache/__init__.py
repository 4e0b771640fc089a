"""The cache: keys made of code and content, and the store of results under them.

`digest` and `fingerprint` turn values and code into stable names, `FunctionKeyer` makes the keys of a task, and
`CacheStore` keeps results in memory and on disk. Nothing heavy is imported before it is needed: no array library for
a value that is none, no SQLite before a store on disk is used.
"""

from __future__ import annotations

from nbflow.cache.key import (
    CacheKey,
    Fingerprint,
    FunctionKeyer,
    KeyBuilder,
    KeyPart,
    Undigestable,
    content_key,
    digest,
    fingerprint,
    register,
    set_where,
)
from nbflow.cache.store import CACHE_MISS, CacheStore, EntryInfo, Found, Saved

__all__ = [
    "CACHE_MISS",
    "CacheKey",
    "CacheStore",
    "EntryInfo",
    "Fingerprint",
    "Found",
    "FunctionKeyer",
    "KeyBuilder",
    "KeyPart",
    "Saved",
    "Undigestable",
    "content_key",
    "digest",
    "fingerprint",
    "register",
    "set_where",
]
