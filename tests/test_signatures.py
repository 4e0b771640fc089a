"""Signatures of all public names are those written down in `public_api.txt`, so that none changes by accident.

After a change that is meant: `python tests/test_signatures.py` writes the file anew; the difference belongs in the
changelog.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

LISTED = Path(__file__).with_name("public_api.txt")
INDEX = Path(__file__).parents[1] / "docs" / "reference" / "index.md"
_ROW = re.compile(r"^\| \[?`(nbflow[\w.]*)`", re.MULTILINE)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def signatures() -> list[str]:
    """Return one line for each public function, class, and public method that is nbflow's own."""
    lines = []
    for door in _ROW.findall(INDEX.read_text(encoding="utf-8")):
        module = importlib.import_module(door)
        for name in module.__all__:
            lines += _lines(f"{door}.{name}", getattr(module, name))
    return lines


def _lines(name: str, found: object) -> list[str]:
    if not inspect.isclass(found):
        return [f"{name}{_signature(found)}" if callable(found) else name]
    lines = [f"{name}{_signature(found)}"]
    for key in sorted(key for key in vars(found) if not key.startswith("_")):
        value = inspect.getattr_static(found, key)
        if inspect.isfunction(value) or isinstance(value, classmethod | staticmethod):
            lines.append(f"  .{key}{_signature(getattr(found, key))}")
        elif isinstance(value, property):
            lines.append(f"  .{key}")
    return lines


def _signature(found: object) -> str:
    try:
        return _ADDRESS.sub("", str(inspect.signature(found)))  # type: ignore[arg-type]
    except (TypeError, ValueError):  # written in C, or not to be called
        return ""


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="bases in the standard library have other signatures")
def test_public_signatures_are_as_written_down() -> None:
    """A parameter that is gone, renamed, or has another default shows as a difference of two lists."""
    written = LISTED.read_text(encoding="utf-8").splitlines()
    now = signatures()
    gone, new = [line for line in written if line not in now], [line for line in now if line not in written]
    assert (gone, new) == ([], []), "meant? then: python tests/test_signatures.py"


if __name__ == "__main__":
    LISTED.write_text("\n".join(signatures()) + "\n", encoding="utf-8")
    sys.stdout.write(f"wrote {LISTED}\n")
