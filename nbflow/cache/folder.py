"""The folder of a store as it is made: for its user only, and with marks for tools that would copy or commit it.

It ignores itself in Git, backups leave it out (`CACHEDIR.TAG`), and `FORMAT` says what is in it. The same goes for the
home of nbflow, where that is made with it.
"""

from __future__ import annotations

import os

from nbflow._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_folder", "make_home"]

_SIGNATURE = "Signature: 8a477f597d28d172789f06886806bc55\n# Results cached by nbflow; safe to delete.\n"


def make_folder(folder: Path, format: str) -> None:
    """Make the folder and its marks, those that are not there.

    Args:
        folder: The folder.
        format: What its file `FORMAT` is to say.

    Raises:
        OSError: It cannot be made.
    """
    make_home(folder.parent)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    (folder / "blobs").mkdir(mode=0o700, exist_ok=True)
    _mark_all(folder)
    _mark(folder / "FORMAT", format + "\n")


def make_home(home: Path) -> None:
    """Make the home of nbflow and its marks, unless it is there, or is a folder that is not ours alone.

    Args:
        home: The folder.

    Raises:
        OSError: It cannot be made.
    """
    if not home.exists() and (home.name == ".nbflow" or os.environ.get("NBFLOW_HOME") == str(home)):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _mark_all(home)


def _mark_all(folder: Path) -> None:
    for name, text in ((".gitignore", "*\n"), ("CACHEDIR.TAG", _SIGNATURE)):
        _mark(folder / name, text)


def _mark(path: Path, text: str) -> None:
    """Put a small file there unless there is one; others, who may do the same just now, only ever see it whole."""
    if not path.exists():
        beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
