"""Settings of libraries that task cells make, in a real kernel: a hit makes them again."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kernel.harness import COUNT, ran

pytestmark = pytest.mark.kernel


def test_settings_of_modules_are_made_again(kernel: Any) -> None:
    """Settings of imported modules and configuring magics run again on a hit, since they are no values."""
    cell = f"""%%task
_ = {COUNT.format("set")}
import os, sys
os.environ["NBFLOW_TEST_SETTING"] = "on"
sys.path.append("somewhere")
x = 1"""
    kernel.ok(cell)
    kernel.restart()
    kernel.ok(cell)
    assert ran(kernel) == ["set"]
    assert kernel.value("os.environ['NBFLOW_TEST_SETTING'], 'somewhere' in sys.path") == ("on", True)


SETTINGS = [
    ("import sys, os\nsys.path.insert(0, os.path.abspath('xy'))", "import sys; sys.path[0].endswith('xy')"),
    ("import sys\nsys.setrecursionlimit(3456)", "import sys; sys.getrecursionlimit() == 3456"),
    ("import decimal\ndecimal.getcontext().prec = 7", "import decimal; decimal.getcontext().prec == 7"),
    ("import os\nos.environ['NBFLOW_C'] = 'on'\ndel os.environ['NBFLOW_C']", "import os; 'NBFLOW_C' not in os.environ"),
    ("import sys\nsys.path.append('here')\nsys.path.remove('here')", "import sys; 'here' not in sys.path"),
    ("import os\nos.makedirs('sub', exist_ok=True)\nos.chdir('sub')", "import os; os.getcwd().endswith('sub')"),
    ("%cd ..", "import os; not os.getcwd().endswith('sub')"),
    ("import logging\nlogging.captureWarnings(True)", "import logging; logging._warnings_showwarning is not None"),
    ("import logging\nlogging.getLogger('x').setLevel(10)", "import logging; logging.getLogger('x').level == 10"),
    (
        "from logging import getLogger\ngetLogger('y').setLevel(10)",
        "import logging; logging.getLogger('y').level == 10",
    ),
    ("from os import environ as env\nenv['NBFLOW_A'] = 'on'", "import os; os.environ['NBFLOW_A'] == 'on'"),
    ("from os import environ\nenviron.update({'NBFLOW_B': 'on'})", "import os; os.environ['NBFLOW_B'] == 'on'"),
    ("from fractions import Fraction\nFraction.other = 9", "import fractions; fractions.Fraction.other == 9"),
    (
        "from warnings import filterwarnings\nfilterwarnings('ignore', 'zzz')",
        "import warnings; any(each[1] and each[1].pattern == 'zzz' for each in warnings.filters)",
    ),
]


HELD = [
    ("import logging\nlog1 = logging.getLogger('l1')", "log1.setLevel(10)", "logging.getLogger('l1').level == 10"),
    (
        "import logging\nlog2 = logging.getLogger('l2')",
        "log2.addHandler(logging.NullHandler())\nlog2.propagate = False",
        "len(logging.getLogger('l2').handlers) == 1 and not log2.propagate",
    ),
    ("from decimal import getcontext\nC = getcontext()", "C.prec = 7", "getcontext() is C and C.prec == 7"),
    ("import pandas as pd\nP = pd.options", "P.display.max_rows = 9", "pd.get_option('display.max_rows') == 9"),
    ("import os\nE = os.environ", "E['NBFLOW_HELD'] = 'on'", "os.environ['NBFLOW_HELD'] == 'on'"),
    ("import sys\nS = sys.path", "S.insert(0, 'xyz')", "sys.path is S and S[0] == 'xyz'"),
]
"""How what keeps settings gets a name, how one is made with it, and what is true then."""


@pytest.mark.parametrize("cells", [1, 2])
def test_settings_are_made_again_through_another_name(kernel: Any, cells: int) -> None:
    """Of a logger, a context, or the settings of a library, in the cell that gives the name or in a later one."""
    texts = [[f"{name}\n{change}"] if cells == 1 else [name, change] for name, change, _ in HELD]
    for restarted in (False, True):
        for tasks, (_, _, look) in zip(texts, HELD, strict=True):
            for number, text in enumerate(tasks):
                result = kernel.ok(f"%%task\n{text}\n_ = {COUNT.format(number)}")
                assert "not cached" not in result.stderr, text
            assert kernel.value(look), look
            fresh = bool(ran(kernel))
            if "environ" not in tasks[0]:  # it is an input of the second cell, and another one in each process
                assert fresh is not restarted, tasks
        kernel.restart()


def test_a_name_that_is_not_there_yet_is_looked_at_again(kernel: Any) -> None:
    """A cell that failed for want of a name is read anew when there is one."""
    cell = f"%%task\nsetup.prec = 9\n_ = {COUNT.format('set')}"
    assert "NameError" in kernel.run(cell).traceback
    kernel.ok("import decimal\nsetup = decimal.getcontext()")
    kernel.ok(cell)
    kernel.restart()
    kernel.ok("import decimal\nsetup = decimal.getcontext()")
    assert kernel.ok(cell).badges
    assert kernel.value("decimal.getcontext().prec") == 9
    assert ran(kernel) == ["set"]


def test_settings_in_every_way_of_writing_are_made_again(kernel: Any) -> None:
    """Through a module, through what is taken out of it, through what a light call gives."""
    cells = [f"%%task setting{number}\n{text}\nx{number} = 1" for number, (text, _) in enumerate(SETTINGS)]
    for cell in cells:
        kernel.ok(cell)
    kernel.restart()
    for cell, (text, look) in zip(cells, SETTINGS, strict=True):
        assert kernel.ok(cell).badges, text
        assert kernel.ok(look).result == "True", text


def test_what_looks_like_a_setting_and_is_none_does_not_run_again(kernel: Any) -> None:
    """What a heavy call gives, a function of one's own, and a name that was imported and then bound anew."""
    (kernel.folder / "own.py").write_text(
        "runs = []\ndef update():\n    runs.append(1)\ndef heavy():\n    return runs\n"
    )
    cell = f"""%%task
import own
from textwrap import dedent as data
_ = {COUNT.format("heavy")}
own.update()
own.heavy().append(2)
data = {{}}
data["x"] = max([1, 2])
found = len(own.runs), data"""
    assert kernel.ok(cell).stderr == ""
    kernel.restart()
    again = kernel.ok(cell)
    assert again.badges
    assert ran(kernel) == ["heavy"]
    assert kernel.value("found") == (2, {"x": 2})


def test_a_computed_setting_of_a_module_is_not_cached(shared: Any) -> None:
    """What cannot be brought back keeps the cell uncached, with a line that says what it is."""
    shared.ok("import types\nsettings = types.ModuleType('settings')")
    result = shared.ok("%%task\nsettings.level = max([1, 2])\nlevel = settings.level")
    assert "not cached: it sets something in the module `settings`" in result.stderr


def test_settings_that_are_taken_back_are_none(shared: Any) -> None:
    """Those in a block that ends with them keep no cell from being cached."""
    cell = """%%task quiet
import decimal, warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    quiet = 1
with decimal.localcontext() as context:
    context.prec = 3
    third = str(decimal.Decimal(1) / 3)"""
    assert "not cached" not in shared.ok(cell).stderr
    assert shared.ok(cell).badges
    assert shared.value("third") == "0.333"
