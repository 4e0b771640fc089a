"""Run the kernel tests under several versions of ipykernel and Python, and write a table of the outcome.

    python tools/matrix.py                                   # everything that this machine has Pythons for
    python tools/matrix.py --python 3.12 --ipykernel 7.0     # one environment
    python tools/matrix.py --tests tests/kernel/test_runtime.py

Each combination gets a virtual environment of its own, one after the other, made by uv where that is installed and by
venv and pip elsewhere. The page docs/reference/tested.md has the outcome of the last run of each combination.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "tested.md"
KERNELS = ("6.31", "7.0", "7.3", "newest")
PYTHONS = ("3.11", "3.12", "3.13")
TESTS = tuple(
    f"tests/kernel/test_{name}.py"
    for name in (
        "cells_as_plain",  # tracebacks, %debug, %time, await at the top level, interrupts
        "cells_cached",
        "cells_equivalence",
        "cells_evidence",
        "engine",
        "flow_views",
        "magics_options",
        "runtime",
        "uncached",
        "why",
    )
)
NEEDED = (
    "cloudpickle",
    "matplotlib",
    "nbconvert",
    "numpy",
    "pandas",
    "pytest>=8.2",
    "pytest-timeout>=2.3",
    "pytest-xdist",
)
_ASK = "import IPython, ipykernel, sys; print(sys.version.split()[0], ipykernel.__version__, IPython.__version__)"


def find_python(version: str) -> str | None:
    """Return an interpreter of that version: of pyenv, or in PATH."""
    if sys.version.startswith(f"{version}."):
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = sorted(pyenv.glob(f"{version}.*/bin/python"), key=lambda path: _numbers(path.parts[-3]))
    return str(found[-1]) if found else shutil.which(f"python{version}")


def _numbers(text: str) -> list[int]:
    return [int(word) for word in re.findall(r"\d+", text)]


def make_environment(python: str, kernel: str, folder: Path) -> Path:
    """Make a virtual environment with that ipykernel and this nbflow, or bring the one there up to date.

    Returns:
        Its interpreter.
    """
    wanted = "ipykernel" if kernel == "newest" else f"ipykernel=={kernel}.*"
    packages = ["-e", str(ROOT), wanted, *NEEDED]
    inside = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if shutil.which("uv"):
        if not inside.exists():
            _run(["uv", "venv", "--quiet", "--python", python, str(folder)])
        _run(["uv", "pip", "install", "--quiet", "--python", str(inside), *packages])
    else:
        if not inside.exists():
            _run([python, "-m", "venv", str(folder)])
        _run([str(inside), "-m", "pip", "install", "--quiet", *packages])
    return inside


def _run(command: list[str]) -> None:
    print(f"$ {' '.join(command)}", flush=True)
    subprocess.run(command, check=True)


def run_tests(python: Path, tests: list[str], folder: Path) -> dict[str, Any]:
    """Run the tests in an environment and return what came of them."""
    report = folder / "report.xml"
    options = ["-q", "--timeout", "180", "-p", "no:cacheprovider", f"--junitxml={report}"]
    print(f"$ {python} -m pytest {' '.join(tests)}", flush=True)
    subprocess.run([str(python), "-m", "pytest", *options, *tests], cwd=ROOT, check=False)
    versions = subprocess.run([str(python), "-c", _ASK], capture_output=True, text=True, check=True).stdout.split()
    if not report.exists():
        raise SystemExit(f"pytest did not get as far as a report in {folder}; its output is above.")
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return {
        "python": versions[0],
        "ipykernel": versions[1],
        "ipython": versions[2],
        "files": len(tests),
        "passed": len(cases) - len(bad) - len(skipped),
        "skipped": len(skipped),
        "failed": [f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}" for case in bad],
        "date": datetime.now(UTC).date().isoformat(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def known() -> dict[str, dict[str, Any]]:
    """Return the outcomes that the page has, by `python/ipykernel`."""
    found = re.search(r"^<!-- (\{.*\}) -->$", PAGE.read_text(encoding="utf-8"), re.MULTILINE) if PAGE.exists() else None
    return json.loads(found[1]) if found else {}


def write_page(outcomes: dict[str, dict[str, Any]]) -> None:
    """Write the page; the outcomes are in it twice, once for the next run of this script."""
    lines = [
        "# Tested versions",
        "",
        "Outcomes of the tests in real kernels, each in an environment of its own, as `tools/matrix.py` found them.",
        "",
        "| Python | ipykernel | IPython | test files | passed | skipped | failed | system | date |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    order = sorted(outcomes.values(), key=lambda row: (_numbers(row["python"]), _numbers(row["ipykernel"])))
    for row in order:
        counts = [row["files"], row["passed"], row["skipped"], len(row["failed"])]
        cells = [row["python"], row["ipykernel"], row["ipython"], *counts, row["system"], row["date"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for row in order:
        if row["failed"]:
            lines += ["", f"Failed under Python {row['python']} with ipykernel {row['ipykernel']}:", ""]
            lines += [f"- `{name}`" for name in row["failed"]]
    PAGE.write_text("\n".join([*lines, "", f"<!-- {json.dumps(outcomes)} -->", ""]), encoding="utf-8")


def main() -> int:
    """Run what was asked for; the exit code says whether all of it passed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", action="append", choices=PYTHONS, help="only this version (may be repeated)")
    parser.add_argument("--ipykernel", action="append", choices=KERNELS, help="only this version (may be repeated)")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="files to run")
    parser.add_argument("--folder", type=Path, help="where environments are made and kept; default: a temporary one")
    wanted = parser.parse_args()
    good = True
    for version in wanted.python or PYTHONS:
        python = find_python(version)
        if python is None:
            print(f"There is no Python {version} here; it is left out.")
            continue
        for kernel in wanted.ipykernel or KERNELS:
            with tempfile.TemporaryDirectory(prefix="nbflow-matrix-") as temporary:
                folder = (wanted.folder.resolve() if wanted.folder else Path(temporary)) / f"{version}-{kernel}"
                inside = make_environment(python, kernel, folder)
                outcome = run_tests(inside, wanted.tests, folder)
            write_page({**known(), f"{version}/{kernel}": outcome})
            good = good and not outcome["failed"]
            print(f"Python {version}, ipykernel {kernel}: {outcome['passed']} passed, {len(outcome['failed'])} failed.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
