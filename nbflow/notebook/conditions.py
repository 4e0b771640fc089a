"""What is to hold when a cell's record is used, of names that turned out to matter only while the cell ran.

A condition is a word: the digest of the value that the name had, or one of the three below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbflow.notebook.reach import digest_or_none

__all__ = ["MISSING", "PRESENT", "UNKNOWN", "condition_of", "hold"]

MISSING = "missing"
"""There was no such name."""
PRESENT = "present"
"""There is to be one, whatever it holds."""
UNKNOWN = "unknown"
"""Its value cannot be told from others, so no state will do."""


def condition_of(namespace: Mapping[str, Any], name: str) -> str:
    """Return the condition that the present value of a name meets: its digest, `MISSING` or `UNKNOWN`."""
    return (digest_or_none(namespace[name]) or UNKNOWN) if name in namespace else MISSING


def hold(conditions: Mapping[str, str], namespace: Mapping[str, Any]) -> bool:
    """Return whether all conditions, by name, hold in a namespace."""
    for name, wanted in conditions.items():
        if wanted == PRESENT:
            if name not in namespace:
                return False
        elif wanted == UNKNOWN or wanted != condition_of(namespace, name):
            return False
    return True
