"""Print the oldest versions that pyproject.toml allows, as requirements for pip: `>=` becomes `==`.

    python .ci/minimal.py test >constraints.txt

Without arguments: what nbflow itself depends on. Each argument adds an extra, and what that one takes from others. What
has no lower bound (tools that are no part of a program) is left out; transitive dependencies are up to pip.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(requirements: list[str]) -> Iterator[str]:
    """Yield `name==bound` for each of `requirements`, those of our own extras expanded."""
    for requirement in requirements:
        own = re.fullmatch(r"nbflow\[(.+)]", requirement)
        bound = re.fullmatch(r"([\w.-]+)(\[[\w,]+])?>=([\w.]+)", requirement)
        if own:
            yield from extras(own[1].split(","))
        elif bound:
            yield f"{bound[1]}=={bound[3]}"


def extras(names: list[str]) -> Iterator[str]:
    """Yield the pins of the extras with these names."""
    for name in names:
        yield from pins(PROJECT["optional-dependencies"][name])


if __name__ == "__main__":
    print("\n".join(sorted({*pins(PROJECT["dependencies"]), *extras(sys.argv[1:])})))
