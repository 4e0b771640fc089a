"""A notebook as a script: it runs without IPython and leaves the same names behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nbflow.errors import DefinitionError
from nbflow.notebook.script import script_of


def script(*cells: str) -> str:
    return script_of([("code", cell) for cell in cells], "Exported from a test.")


def ran(tmp_path: Path, text: str, expression: str) -> Any:
    """Run the script in a process of its own and return the value of an expression after it."""
    path = tmp_path / "script.py"
    path.write_text(f"{text}\nimport sys\nassert 'IPython' not in sys.modules\nprint('\\n' + repr({expression}))")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return eval(done.stdout.splitlines()[-1])


def test_cells_keep_order_text_and_comments() -> None:
    """What is plain Python stays as it was typed, between marks; markdown becomes comments."""
    text = script_of(
        [("markdown", "# Title\n\nwords"), ("code", "x = 1  # one\n"), ("raw", "no"), ("code", "")], "From a."
    )
    assert text == "# From a.\n\n# %% [markdown]\n# # Title\n#\n# words\n\n# %% [1]\nx = 1  # one\n"


def test_task_lines_become_comments(tmp_path: Path) -> None:
    """`%%task` and timing magics above a body leave the body; other cell magics are kept as comments only."""
    text = script("%%time\n%%task flights --ttl 1d\nx = 2", "%%html\n<b>x</b>", "%load_ext nbflow\ny = x + 1")
    assert "# %%task flights --ttl 1d\nx = 2" in text
    assert "# %%html\n# <b>x</b>" in text
    assert ran(tmp_path, text, "(x, y)") == (2, 3)


def test_shell_lines_run_by_subprocess(tmp_path: Path) -> None:
    """`!cmd`, its capture, `%%bash`, and names in commands work without a shell of IPython."""
    text = script(
        "name = 'some file'",
        "for each in [1]:\n    !touch '{name}'",
        "found = !ls *file",
        "%%bash\ntouch from_bash",
        "%env NBFLOW_TEST_SCRIPT=yes\nvalue = %time 3 + 4\n%matplotlib inline",
        "import os\nthere = os.path.exists('from_bash')",
    )
    assert ran(tmp_path, text, "(found, there, os.environ['NBFLOW_TEST_SCRIPT'], value)") == (
        ["some file"], True, "yes", 7,
    )  # fmt: skip


def test_cells_that_await_share_one_loop(tmp_path: Path) -> None:
    """Top-level `await` works, its names are global, its long strings are untouched, and the loop stays the same."""
    text = script(
        "import asyncio\nloop = asyncio.get_running_loop()\nawait asyncio.sleep(0)",
        "async def numbers():\n    for number in range(3):\n        yield number",
        'long = """a\n  b"""\nsame = loop is asyncio.get_running_loop()\nfound = [n async for n in numbers()]',
    )
    assert ran(tmp_path, text, "(same, found, long)") == (True, [0, 1, 2], "a\n  b")


def test_sessions_become_settings(tmp_path: Path) -> None:
    """What `%session` asked for holds in the script too."""
    text = script("%load_ext nbflow\n%session --backend thread", "from nbflow.settings import get_global_settings")
    assert ran(tmp_path, text, "get_global_settings().backend") == "thread"


def test_display_works_with_and_without_ipython() -> None:
    """`display` is imported where a cell uses it, and is `print` where IPython is missing."""
    assert "display = print" in script("display(1)")
    assert "display" not in script("x = 1")


def test_bad_cells_are_named() -> None:
    """A cell that is no Python is an error that says which and where."""
    with pytest.raises(DefinitionError, match=r"cell 2 is no valid Python \(line 2"):
        script("x = 1", "y = 2\nz = = 3")
