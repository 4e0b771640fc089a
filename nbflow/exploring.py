"""`explore`: controls for the parameters of a task or cell, whose results come from the cache where they can.

It is the door to what a notebook shows; without one there is nothing to show controls in. The notebook puts its own
answer into `ambient` while the extension is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from nbflow.errors import DefinitionError, SessionError
from nbflow.runtime.current import ambient

if TYPE_CHECKING:
    from nbflow.notebook.explore import Explorer

__all__ = ["explore"]


def explore(subject: Any, /, *, prefetch: Literal["off", "neighbours"] = "off", **ranges: Any) -> Explorer:
    """Show controls for a task's parameters, or for names that a `%%task` cell reads, and the result for each setting.

    At most one call runs and one waits: the latest setting wins, and the old result stays, greyed, until the new one
    is there. A cell is run with its names overridden; the notebook's variables stay as they are.

    Args:
        subject: A task, or the name of a `%%task` cell.
        prefetch: "neighbours" computes the settings one step away while nothing else is to be done.
        **ranges: For each parameter what it may be: `(low, high)` or `(low, high, step)` of numbers is a slider, and of
            dates a date field; a list or dict is a choice (of its keys); a string is a text field; a boolean is a
            checkbox. Anything else is the value itself.

    Returns:
        What shows itself when it ends a cell; its `setting`, `value`, `set` and `keep` are for code.

    Raises:
        SessionError: There is no notebook here, or `%load_ext nbflow` did not run yet.
        DefinitionError: There is no such task, cell or parameter, or a range is none.
    """
    if ambient.explore is None:
        raise SessionError("There is nothing to show controls in: run %load_ext nbflow in a notebook first.")
    try:
        found: Explorer = ambient.explore(subject, ranges, prefetch=prefetch)
    except DefinitionError as error:  # what is wrong stands in the user's cell, not in ours
        raise error.with_traceback(None) from error.__cause__
    return found
