"""What `%config NbflowMagics.x = …` sets: how cells behave that do not say otherwise.

These are traits as other parts of IPython have them, so they can also stand in `ipython_config.py`
(`c.NbflowMagics.cache = "session"`) and `%config NbflowMagics` lists them. An option of a cell's own `%%task` line
always counts for more; what belongs to the session rather than to the notebook's cells is a setting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from IPython.core.error import UsageError
from traitlets import Bool, Enum, TraitError, Unicode, validate
from traitlets.config import Configurable

__all__ = ["CellDefaults", "Configured", "parse_duration"]

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "": 1.0}


@dataclass(frozen=True, slots=True)
class CellDefaults:
    """What the `%%task` lines of a notebook need not say: see `Configured`; `ttl` is seconds."""

    cache: str = "disk"
    quiet: bool = False
    replay: bool = True
    ttl: float | None = None
    verbose: bool = False


class Configured(Configurable):
    """The traits; the magics are a subclass."""

    auto = Bool(False, help="After each cell, run the cells that it made stale; the same as %flow auto on.").tag(
        config=True
    )
    cache = Enum(
        ("disk", "session", "off"),
        "disk",
        help="Where %%task cells keep their results: on disk, in memory only, or nowhere.",
    ).tag(config=True)
    progress: Any = Enum(
        ("auto", "widget", "html", "text", "off"),
        None,
        allow_none=True,
        help="Face of the live panel from the next cell on; None: as the session's setting progress says.",
    ).tag(config=True)
    quiet = Bool(False, help="No badge on a hit, and no word if a result cannot be stored; as %%task -q.").tag(
        config=True
    )
    replay = Bool(True, help="On a hit print and show again what the cell had put out; False: as --no-replay.").tag(
        config=True
    )
    ttl = Unicode(
        "", help="How long results of %%task cells are good for, as for --ttl: 90s, 2h, 1d; empty: forever."
    ).tag(config=True)
    verbose = Bool(False, help="Say what each cell did and why; as %%task -v.").tag(config=True)

    @validate("ttl")
    def _good_ttl(self, proposal: Any) -> str:
        text = str(proposal["value"])
        try:
            parse_duration("NbflowMagics.ttl", text or None)
        except UsageError as error:
            raise TraitError(str(error)) from None
        return text

    def cell_defaults(self) -> CellDefaults:
        """Return what cells that do not say otherwise do."""
        return CellDefaults(
            cache=str(self.cache),
            quiet=bool(self.quiet),
            replay=bool(self.replay),
            ttl=parse_duration("NbflowMagics.ttl", str(self.ttl) or None),
            verbose=bool(self.verbose),
        )


def parse_duration(option: str, text: str | None) -> float | None:
    """Return seconds for `90`, `90s`, `10min`, `2h`, `1d` or `1w`; None for None.

    Raises:
        UsageError: The text is no duration.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|m|min|h|d|w|)", text.strip("'\""))
    if found is None:
        raise UsageError(f"{option} {text}: use seconds, or a number with s, min, h, d or w, such as 90s or 1d.")
    return float(found[1]) * _UNITS[found[2]]
