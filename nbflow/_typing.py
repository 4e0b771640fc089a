"""Type variables and aliases that several floors share.

Nothing here exists at run time beyond the variables themselves. `P` and `R` are the parameters and the result of a
task's function. `CacheHash` is the shape of a user's own hash function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar

__all__ = ["CacheHash", "CacheOption", "OnError", "P", "R"]

P = ParamSpec("P")
R = TypeVar("R")

CacheHash: TypeAlias = Callable[[Callable[..., Any], Mapping[str, Any]], str]
CacheOption: TypeAlias = bool | Literal["session", "disk"] | str
OnError: TypeAlias = Literal["raise", "collect"]
