"""What stands under the key of a call that turned out to read files: their names.

Which files a function reads is only known once it has run. So its key leads to the list of them, and that key together
with what is in these files leads to the result. The list holds names and nothing else; who digests the files is the
cache's business.
"""

from __future__ import annotations

from nbflow._typing import NamedTuple

__all__ = ["Reads"]


class Reads(NamedTuple):
    """Files, folders and patterns that a call read, as it named them, sorted."""

    paths: tuple[str, ...]
