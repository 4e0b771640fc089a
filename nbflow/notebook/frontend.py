"""Widgets of our own: their classes, and the look that they share.

A widget is one anywidget model; its script and its styles are files beside the module that makes it, in the wheel, so
that nothing is fetched from elsewhere. `base.css` has the colours, sizes and the frame of all of them, and `base.js`
which keys are theirs and how they hear the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

__all__ = ["widget_class"]

_BASE = Path(__file__).with_name("base")


def widget_class(
    name: str, about: str, folder: Path, scripts: Sequence[str], styles: Sequence[str], *, synced: str
) -> Any:
    """Make the class of a widget; when it is first needed, because anywidget need not be installed.

    Args:
        name: Name of the class.
        about: Its docstring.
        folder: Where its files are.
        scripts: Names of the parts of its script, which follow what all widgets have, joined into one.
        styles: Names of the parts of its styles, which follow those of all widgets.
        synced: Name of the one dict that a front end gets when it shows the widget; everything else are messages.

    Returns:
        The class. Its `ident` is the id of its model, by which its script finds the model in the page.

    Raises:
        ImportError: There is no anywidget.
    """
    anywidget = import_module("anywidget")
    traitlets = import_module("traitlets")

    def init(self: Any, **kwargs: Any) -> None:
        ident = uuid4().hex
        super(made, self).__init__(model_id=ident, ident=ident, **kwargs)

    fields = {
        "__doc__": about,
        "__module__": __name__,
        "__init__": init,
        "ident": traitlets.Unicode().tag(sync=True),
        "_esm": _joined([_BASE.with_suffix(".js"), *(folder / script for script in scripts)]),
        "_css": _joined([_BASE.with_suffix(".css"), *(folder / style for style in styles)]),
        synced: traitlets.Dict().tag(sync=True),
    }
    made: Any = type(name, (anywidget.AnyWidget,), fields)
    return made


def _joined(files: Sequence[Path]) -> str:
    return "\n".join(file.read_text("utf-8") for file in files)
