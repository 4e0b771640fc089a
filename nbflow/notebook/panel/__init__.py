"""The panel: a live view of what runs under a cell, which ends as a static summary in the saved notebook.

`PanelController` listens to a session, folds what it hears into one `Model` for each cell that runs tasks, and shows
that through a face chosen by evidence: widget, HTML or text. The model knows no face, the faces no session; `look`
makes what the tabs of the widget ask for.
"""

from __future__ import annotations

from nbflow.notebook.panel.controller import PanelController

__all__ = ["PanelController"]
