"""Notebook files: read them, put parameters in, write them so that no half-written file can remain.

Old outputs are cleared before a run, so that a notebook which fails half-way never shows results of an earlier run
below the failure. Parameters arrive as a cell of their own, tagged `injected-parameters` as papermill does it; a run
with other values replaces that cell. A file is written beside its target and then renamed.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import nbformat as untyped_nbformat
from nbformat import NotebookNode

from nbflow.cli.console import usage
from nbflow.cli.parameters import UNKNOWN, assigned_names, notebook_values

__all__ = ["clear_outputs", "executable_cells", "inject", "parameters", "read", "write"]

nbformat: Any = untyped_nbformat

INJECTED_TAG = "injected-parameters"
PARAMETERS_TAG = "parameters"
SKIP_TAG = "skip-execution"


def read(path: Path) -> NotebookNode:
    """Read a notebook of any format version.

    Raises:
        CliError: The file is missing, unreadable, not JSON, or not a notebook; one line says which.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise usage(f"{path}: no such file") from None
    except IsADirectoryError:
        raise usage(f"{path} is a folder; name a notebook in it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise usage(f"{path} cannot be read: {error}") from None
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise usage(f"{path} is not a notebook: broken JSON ({error})") from None
    if not isinstance(raw, dict) or "nbformat" not in raw:
        raise usage(f"{path} is not a notebook: it has no nbformat field")
    try:
        with warnings.catch_warnings():
            # Missing cell ids and the like: Jupyter opens such files, so they can be run.
            warnings.simplefilter("ignore")
            notebook = nbformat.reads(text, as_version=4)
            nbformat.validate(notebook)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise usage(f"{path} is not a valid notebook: {first}") from None
    return cast(NotebookNode, notebook)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook beside `path`, then rename it, so that `path` is always a whole file.

    Raises:
        CliError: The file cannot be written.
    """
    text = nbformat.writes(notebook) + "\n"
    target = path.resolve()
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="\n", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, target.stat().st_mode if target.exists() else 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise usage(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    # There is no way to read it but to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def executable_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """Return position and cell of every cell that a run executes; their order is the number in `In [n]`."""
    return [
        (position, cell)
        for position, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and cell.source.strip() and SKIP_TAG not in _tags(cell)
    ]


def clear_outputs(notebook: NotebookNode) -> None:
    """Remove outputs, numbers and timings of earlier runs."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
            cell.metadata.pop("execution", None)
    notebook.metadata.pop("widgets", None)


def inject(notebook: NotebookNode, given: Mapping[str, str]) -> dict[str, Any]:
    """Put the values of `-p` into a new cell after the one tagged `parameters`.

    Args:
        notebook: Changed in place; a cell injected by an earlier run is replaced.
        given: Names and texts; nothing happens if there are none.

    Returns:
        The values.

    Raises:
        CliError: The notebook has no parameters, not this one, or the value does not fit.
    """
    if not given:
        return {}
    place = next((i for i, cell in enumerate(notebook.cells) if PARAMETERS_TAG in _tags(cell)), None)
    if place is None:
        raise usage(
            f"-p {next(iter(given))}: this notebook has no parameters; tag the cell that assigns them "
            f"`{PARAMETERS_TAG}`"
        )
    values = notebook_values(given, assigned_names(notebook.cells[place].source))
    lines = ["# Parameters of this run", *(f"{name} = {value!r}" for name, value in values.items())]
    cell = nbformat.v4.new_code_cell("\n".join(lines), metadata={"tags": [INJECTED_TAG]})
    if (notebook.nbformat, notebook.nbformat_minor) >= (4, 5):
        cell["id"] = INJECTED_TAG
    else:
        cell.pop("id", None)
    kept = [other for other in notebook.cells if INJECTED_TAG not in _tags(other)]
    place = next(i for i, other in enumerate(kept) if PARAMETERS_TAG in _tags(other))
    notebook.cells = [*kept[: place + 1], cell, *kept[place + 1 :]]
    return values


def parameters(notebook: NotebookNode) -> dict[str, tuple[str | None, str]]:
    """Return name of the type and text of the default of each parameter (None where the default is computed)."""
    cell = next((cell for cell in notebook.cells if PARAMETERS_TAG in _tags(cell)), None)
    found = {} if cell is None else assigned_names(cell.source)
    return {
        name: (None, "(computed)") if default is UNKNOWN else (type(default).__name__, repr(default))
        for name, default in found.items()
    }


def _tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))
