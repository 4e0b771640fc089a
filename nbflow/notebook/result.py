"""What a cell in the background shows when it has ended: its last value, as `Out[4]`, or its traceback.

Both are sent to the cell that started it. Outside of a kernel they are printed.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.error import UsageError

from nbflow.notebook.address import Address, address_here
from nbflow.notebook.cells import Cell

__all__ = ["show_error", "show_result"]


def show_result(shell: Any, value: Any, cell: Cell, address: Address | None) -> None:
    """Show the last value of a cell as `Out[4]` and keep it in `Out`, unless the cell ends in `;`."""
    if DisplayHook.semicolon_at_end_of_expression(cell.shown):  # type: ignore[no-untyped-call]
        return
    found = re.search(r"\d+", cell.label)
    number = int(found[0]) if found else 0
    if "Out" in shell.user_ns:
        shell.user_ns["Out"][number] = shell.user_ns[f"_{number}"] = value
    formatter: Any = shell.display_formatter
    data, metadata = formatter.format(value)
    if not data:  # it has shown itself
        return
    if address is None:
        shell.display_pub.publish(data, metadata)
        return
    address.send("execute_result", {"data": data, "metadata": metadata, "execution_count": number})


def show_error(shell: Any, error: BaseException) -> None:
    """Show the traceback of an error as the shell does, and keep it for `%debug`."""
    address = address_here()
    if address is None or isinstance(error, UsageError):
        shell.showtraceback((type(error), error, error.__traceback__))
        return
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    render = getattr(error, "_render_traceback_", None)
    lines = render() if render else shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__)
    address.send("error", {"ename": type(error).__name__, "evalue": str(error), "traceback": lines})
