"""Local modules that a cell imports before anything else, loaded before its key is made.

What they hold by now is a part of the key, which so is the same whether or not somebody has loaded them. A hit loads
them as well, and a plain cell would have done so first; only what they put out waits for the body, since on a hit the
record has it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from nbflow.cache.places import is_local, module_file
from nbflow.notebook import output
from nbflow.notebook.recorder import Silent

__all__ = ["load_first"]


def load_first(imports: Iterable[tuple[str, tuple[str, ...]]], sink: Silent, shell: Any) -> None:
    """Load local modules that are not loaded yet; stops at the first that cannot be, which the body will meet again.

    Args:
        imports: The modules, with what is taken from them.
        sink: Is given what they put out.
        shell: The IPython shell.
    """
    for module, taken in imports:
        if module not in sys.modules and is_local(module) and module_file(module) is not None:
            with output.recording(sink, shell):
                try:
                    __import__(module, fromlist=taken)
                except Exception:
                    return
