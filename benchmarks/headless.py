"""Scenario of running a notebook as a command: `nbflow run` beside papermill, which computes everything each time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.method import Contestant, Goal, Round, Scenario, new_folder

__all__ = ["MAKERS"]

_QUICKSTART = Path(__file__).parents[1] / "notebooks" / "01-quickstart.ipynb"


class _Desk:
    """A folder with the notebook, and ways to run it there.

    Args:
        stack: Removes the folder.
        quick: Take a notebook of two cells instead, to see whether it runs at all.
    """

    def __init__(self, stack: ExitStack, quick: bool) -> None:
        self._folder = new_folder(stack)
        if quick:
            code = ("%load_ext nbflow", "%%task small\nsmall = 1")
            cells: list[dict[str, Any]] = [
                {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": text}
                for text in code
            ]
            book = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}
            (self._folder / _QUICKSTART.name).write_text(json.dumps(book), encoding="utf-8")
        else:
            shutil.copy(_QUICKSTART, self._folder)

    def forget(self) -> None:
        """Remove what earlier runs have left."""
        shutil.rmtree(self._folder / ".nbflow", ignore_errors=True)

    def nbflow(self) -> float:
        """Return the seconds of `nbflow run`."""
        return self._timed(["nbflow", "run", _QUICKSTART.name, "-q", "-o", "out.ipynb"])

    def papermill(self) -> float:
        """Return the seconds of papermill; nothing is looked up or stored on disk."""
        words = ["papermill", "--no-progress-bar", "-k", "python3", _QUICKSTART.name, "out.ipynb"]
        return self._timed(words, NBFLOW_CACHE_STORE="off")

    def _timed(self, words: list[str], **more: str) -> float:
        env = {name: text for name, text in os.environ.items() if not name.startswith("NBFLOW_")}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        began = perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=self._folder,
            env={**env, **more},
            capture_output=True,
            text=True,
            check=False,
        )
        took = perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
        return took


def _headless_scenario(quick: bool) -> Scenario:
    def papermill(stack: ExitStack) -> Round:
        desk = _Desk(stack, quick)
        if find_spec("papermill") is None:
            raise ImportError("papermill is not installed", name="papermill")
        return desk.papermill

    def first(stack: ExitStack) -> Round:
        desk = _Desk(stack, quick)

        def one_round() -> float:
            desk.forget()
            return desk.nbflow()

        return one_round

    def second(stack: ExitStack) -> Round:
        desk = _Desk(stack, quick)
        desk.nbflow()
        return desk.nbflow

    return Scenario(
        "headless",
        "the quickstart notebook as a command, from an empty cache and again",
        "s",
        1.0,
        (
            Contestant("papermill", papermill),
            Contestant("nbflow, first", first),
            Contestant("nbflow, again", second),
        ),
        (Goal("nbflow, first", 1.1, "papermill"), Goal("nbflow, again", 0.3, "papermill")),
        rounds=5,
    )


MAKERS: tuple[Callable[[bool], Scenario], ...] = (_headless_scenario,)
