"""Tracebacks as people need them: their own lines, and what went wrong.

IPython asks an exception for its own rendering (`_render_traceback_`) before it makes one. An error of a cell's body
is shown from the body on, as that of a plain cell. An error that nbflow itself raises, or hands on from a worker, is
shown up to the user's line that led to it: what follows is ours, and message and notes say all that happened.
"""

from __future__ import annotations

import os
from contextlib import suppress
from types import TracebackType
from typing import Any

from nbflow._util import PACKAGE_ROOT
from nbflow.cache.places import is_installed_file
from nbflow.errors import NbflowError
from nbflow.notebook.cells import Cell

__all__ = ["shorten", "tidy_error", "without_our_end"]

_RENDER = "_render_traceback_"


def shorten(shell: Any | None) -> None:
    """Let IPython show errors of nbflow without the frames in which they were found; None ends that.

    Args:
        shell: The IPython shell that shows them.
    """
    if shell is None:
        with suppress(AttributeError):
            delattr(NbflowError, _RENDER)
        return

    def render(error: NbflowError) -> Any:
        return shell.InteractiveTB.structured_traceback(type(error), error, without_our_end(error.__traceback__))

    setattr(NbflowError, _RENDER, render)


def without_our_end(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback without what follows the last line of the user; the one given stays whole, for `%debug`."""
    steps: list[TracebackType] = []
    while trace is not None:
        steps.append(trace)
        trace = trace.tb_next
    users = [not is_installed_file(step.tb_frame.f_code.co_filename) for step in steps]
    kept = len(steps) - users[::-1].index(True) if any(users) else len(steps)
    for step in reversed(steps[:kept]):
        trace = TracebackType(trace, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return trace


def _ends_in_ours(trace: TracebackType) -> bool:
    """Whether an error was raised by nbflow, which found it itself or hands on what a worker raised."""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename.startswith(PACKAGE_ROOT + os.sep)


def tidy_error(shell: Any, cell: Cell, name: str, error: BaseException) -> None:
    """Let IPython show an error of a cell's body as that of a plain cell: from the body on, without our note.

    Args:
        shell: The IPython shell.
        cell: The cell.
        name: The name it is kept under.
        error: What its body raised; its traceback itself stays whole, for `%debug`.
    """
    notes = getattr(error, "__notes__", [])
    notes[:] = [note for note in notes if not note.startswith(f"nbflow: in task {name!r}")]
    trace = error.__traceback__
    codes = cell.codes
    while trace is not None and trace.tb_frame.f_code not in codes:
        trace = trace.tb_next
    if trace is None:
        return

    def render() -> Any:
        shown = without_our_end(trace) if _ends_in_ours(trace) else trace
        return shell.InteractiveTB.structured_traceback(type(error), error, shown, tb_offset=0)

    with suppress(AttributeError, TypeError):  # an exception type that allows no attributes is shown with all frames
        error._render_traceback_ = render  # type: ignore[attr-defined]
