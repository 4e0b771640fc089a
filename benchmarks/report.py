"""`python -m benchmarks.report RESULTS.json FOLDER`: a page of tables with one plot for each scenario.

The page is written as Markdown beside the plots, which are SVG drawn here without any library, so that the
documentation shows exactly what was measured. Bars are on a logarithmic scale.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from html import escape
from pathlib import Path
from typing import Any

__all__ = ["main", "page", "plot"]

_ROW, _LEFT, _WIDTH, _RIGHT = 26, 330, 380, 90
_HEAD = (
    "# What was measured",
    "",
    "`python -m benchmarks --json results.json` and `python -m benchmarks.report results.json docs/reference` write",
    "this page. In each scenario the contestants take turns in random order; a ratio is the median of ratios within a",
    "round, so that a busy machine slows both sides. Absolute figures are those of this machine on that day:",
    "",
)
_STYLE = (
    "text{font:12px system-ui,sans-serif}.t{fill:#555}.us{fill:#1a1a1a;font-weight:600}"
    ".bar{fill:#b8bec6}.ours{fill:#3b6fb6}@media(prefers-color-scheme:dark){"
    ".t{fill:#b5b5b5}.us{fill:#f2f2f2}.bar{fill:#5b626b}.ours{fill:#6ea0e0}}"
)
_MISSED_BY = 1.1
"""A goal that is missed by less than this factor lies within the noise of a shared machine, and is called near."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", type=Path, help="what `python -m benchmarks --json FILE` wrote")
    parser.add_argument("folder", type=Path, help="where to write measured.md and the folder measured/ of plots")
    options = parser.parse_args(argv)
    found = json.loads(options.results.read_text(encoding="utf-8"))
    plots = options.folder / "measured"
    plots.mkdir(parents=True, exist_ok=True)
    for old in plots.glob("*.svg"):
        old.unlink()
    for result in found["results"]:
        (plots / f"{result['scenario']}.svg").write_text(plot(result), encoding="utf-8")
    (options.folder / "measured.md").write_text(page(found), encoding="utf-8")
    return 0


def page(found: dict[str, Any]) -> str:
    """Return the page of all tables.

    Args:
        found: The machine, and the results of scenarios, as `python -m benchmarks --json` writes them.
    """
    facts = " · ".join(f"{name} {value}" for name, value in found["machine"].items() if name != "seed")
    goals = [goal for result in found["results"] for goal in result["goals"]]
    words = [_word(goal) for goal in goals]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("reached", "near", "missed", "not measured"))
    lines = [
        *_HEAD,
        f"> {facts}",
        "",
        f"Of {len(goals)} goals: {counts}. (Near: missed by less than a tenth.)",
    ]
    for result in found["results"]:
        lines += ["", *_section(result)]
    return "\n".join(lines) + "\n"


def _section(result: dict[str, Any]) -> list[str]:
    unit = result["unit"]
    lines = [
        f"## {result['title'][0].upper()}{result['title'][1:]}",
        "",
        f"![{result['title']}](measured/{result['scenario']}.svg)",
        "",
        f"| `{result['scenario']}` | {unit} | × first |",
        "|---|--:|--:|",
    ]
    for row in result["contestants"]:
        if row["median"] is None:
            lines.append(f"| {row['name']} | – | – |")
        else:
            lines.append(f"| {row['name']} | {_short(row['median'])} | {_short(row['ratio_to_floor'])} |")
    if result["goals"]:
        lines.append("")
    lines += [f"- {_goal(goal, unit)}" for goal in result["goals"]]
    return lines


def _goal(goal: dict[str, Any], unit: str) -> str:
    against = f"× {goal['peer']}" if goal["peer"] is not None else unit
    wanted = f"{goal['who']} ≤ {goal['limit']:g} {against}"
    measured = "" if goal["reached"] is None else f", measured {_short(goal['reached'])}"
    return f"{_word(goal)}: {wanted}{measured}"


def _word(goal: dict[str, Any]) -> str:
    if goal["reached"] is None:
        return "not measured"
    near = goal["reached"] <= goal["limit"] * _MISSED_BY
    return "reached" if goal["passed"] else "near" if near else "missed"


def plot(result: dict[str, Any]) -> str:
    """Return one scenario as bars.

    Args:
        result: One scenario's results, as `python -m benchmarks --json` writes them.
    """
    rows = [row for row in result["contestants"] if row["median"]]
    largest = max((row["median"] for row in rows), default=1.0)
    least = min((row["median"] for row in rows), default=1.0)
    decades = max(1.0, math.log10(largest / least) + 0.5)
    height = _ROW * len(rows) + 8
    shapes = []
    for number, row in enumerate(rows):
        length = _WIDTH * max(0.02, 1 - math.log10(largest / row["median"]) / decades)
        middle, ours = _ROW * number + 17, "nbflow" in row["name"]
        shapes += [
            _text(_LEFT - 8, middle + 4, row["name"], "us" if ours else "t", anchor="end"),
            f'<rect x="{_LEFT}" y="{middle - 8}" width="{length:.1f}" height="16" rx="2" '
            f'class="{"ours" if ours else "bar"}"/>',
            _text(_LEFT + length + 6, middle + 4, f"{_short(row['median'])} {result['unit']}", "t"),
        ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + _RIGHT} {height}" role="img" '
        f'aria-label="{escape(result["title"])}"><style>{_STYLE}</style>{"".join(shapes)}</svg>\n'
    )


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


if __name__ == "__main__":
    sys.exit(main())
