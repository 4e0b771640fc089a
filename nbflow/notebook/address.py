"""Where a cell in the background shows what it shows: in the cell that started it, whatever cell runs by then.

ipykernel 7 finds that cell by the context of whoever shows something, which a job has a copy of. ipykernel 6 only knows
the newest cell, except for streams; there an `Address`, taken when the job starts, goes in its place.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from importlib import import_module
from typing import Any

__all__ = ["Address", "address_here", "address_of"]


class Address:
    """The cell that runs now, as a place for messages that are sent later.

    Args:
        shell: The IPython shell, which has a kernel.
    """

    def __init__(self, shell: Any) -> None:
        self._hook = shell.displayhook
        self._parent = self._hook.parent_header

    def send(self, kind: str, content: dict[str, Any]) -> None:
        """Send a message of that kind, behind what was printed before; safe from any thread."""
        jsonutil: Any = import_module("ipykernel.jsonutil")  # there is none outside of a kernel
        if "data" in content:
            content = {**content, "data": jsonutil.encode_images(content["data"])}
        sys.stdout.flush()
        sys.stderr.flush()
        hook = self._hook
        topic = None if hook.topic is None else hook.topic.replace(b"execute_result", kind.encode())
        hook.session.send(hook.pub_socket, kind, jsonutil.json_clean(content), parent=self._parent, ident=topic)

    def display(self, data: Any, metadata: Any, transient: Any, update: bool) -> None:
        """Show something, or update what was shown."""
        content = {"data": data, "metadata": metadata or {}, "transient": transient or {}}
        self.send("update_display_data" if update else "display_data", content)

    def use(self) -> None:
        """Let what this context shows go here, where the kernel would not see to it."""
        if not isinstance(getattr(self._hook, "_parent_header", None), ContextVar):
            _address.set(self)


_address: ContextVar[Address | None] = ContextVar("nbflow_address", default=None)

address_here = _address.get
"""Return where this context shows things, if it is not where the kernel would show them."""


def address_of(shell: Any) -> Address | None:
    """Return the address of the cell that runs now; None outside of a kernel."""
    return Address(shell) if getattr(shell.displayhook, "pub_socket", None) is not None else None
