"""Which face the panel takes, judged by what can be seen of the front end.

Only what is certain counts: no kernel means a terminal; a front end that lets nobody answer is none (nbclient,
papermill, nbconvert); VS Code and Colab start kernels of their own and load widget scripts from the network, so they
get HTML. A wrong guess is not the end: a widget that nobody runs gives way to HTML by itself.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

from nbflow.notebook.tap import is_attended

__all__ = ["MODES", "choose_mode", "is_report"]

MODES = ("auto", "widget", "html", "text", "off")
_anywidget = False


def choose_mode(shell: Any) -> str:
    """Return "widget", "html" or "text".

    Args:
        shell: The IPython shell, or None outside of IPython.
    """
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return "text"
    if is_report() or _has_own_widgets() or not is_attended(kernel) or not _has_anywidget():
        return "html"
    return "widget"


def is_report() -> bool:
    """Whether `nbflow run` executes the notebook, which shows progress by itself: only the end is drawn."""
    return bool(os.environ.get("NBFLOW_REPORT"))


def _has_anywidget() -> bool:
    """Whether widgets can be made; once found, it is not looked for again (`%pip install` may still bring it)."""
    global _anywidget
    _anywidget = _anywidget or find_spec("anywidget") is not None
    return _anywidget


def _has_own_widgets() -> bool:
    """Whether VS Code or Colab started this kernel; a Jupyter server started from VS Code's terminal did not."""
    in_code = "VSCODE_PID" in os.environ and "JPY_SESSION_NAME" not in os.environ
    return in_code or "google.colab" in sys.modules
