"""What stands for "there is no result", since None may be one.

`CACHE_MISS` is false, prints as its name, and stays the only one of its kind when it is copied or sent to a worker.
It has a module of its own so that both tiers and their users can name it.
"""

from __future__ import annotations

from nbflow._typing import Any

__all__ = ["CACHE_MISS", "CacheMissType"]


class CacheMissType:
    """Type of `CACHE_MISS`, which is false and the only one of its kind."""

    _only: CacheMissType | None = None

    def __new__(cls) -> CacheMissType:
        if cls._only is None:
            cls._only = super().__new__(cls)
        return cls._only

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "CACHE_MISS"

    def __reduce__(self) -> tuple[Any, ...]:
        return CacheMissType, ()


CACHE_MISS = CacheMissType()
