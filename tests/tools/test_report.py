"""The page of measurements says what was measured, and what was not."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from benchmarks.report import main

RESULTS = {
    "machine": {"Python": "3.12.1", "CPUs": 2, "seed": 7},
    "results": [
        {
            "scenario": "call",
            "title": "one <call>",
            "unit": "µs",
            "contestants": [
                {"name": "plain", "missing": None, "median": 0.5, "ratio_to_floor": 1.0, "rounds": [0.5]},
                {
                    "name": "nbflow & co",
                    "missing": None,
                    "median": 1234.0,
                    "ratio_to_floor": 2468.0,
                    "rounds": [1234.0],
                },
                {"name": "other", "missing": "not installed", "median": None, "ratio_to_floor": None, "rounds": []},
            ],
            "goals": [
                {"who": "nbflow & co", "peer": "plain", "limit": 3000.0, "reached": 2468.0, "passed": True},
                {"who": "nbflow & co", "peer": None, "limit": 1200.0, "reached": 1234.0, "passed": False},
                {"who": "nbflow & co", "peer": None, "limit": 10.0, "reached": 1234.0, "passed": False},
                {"who": "nbflow & co", "peer": "other", "limit": 1.0, "reached": None, "passed": None},
            ],
        }
    ],
}


def test_the_page_and_its_plots(tmp_path: Path) -> None:
    """Each goal is told as reached, near, missed or not measured; a plot has one bar for each contestant that ran."""
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "gone.svg").touch()  # of a scenario that is no more
    (tmp_path / "results.json").write_text(json.dumps(RESULTS), encoding="utf-8")
    assert main([str(tmp_path / "results.json"), str(tmp_path)]) == 0
    page = (tmp_path / "measured.md").read_text(encoding="utf-8")
    assert "Of 4 goals: 1 reached, 1 near, 1 missed, 1 not measured." in page
    assert [line.split(":")[0] for line in page.splitlines() if line.startswith("- ")] == [
        "- reached",
        "- near",
        "- missed",
        "- not measured",
    ]
    assert "| nbflow & co | 1,234 | 2,468 |" in page
    assert "| other | – | – |" in page
    plots = list((tmp_path / "measured").iterdir())
    assert [plot.name for plot in plots] == ["call.svg"]
    drawn = ElementTree.parse(plots[0]).getroot()
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}rect"))) == 2
    assert drawn.get("aria-label") == "one <call>"
