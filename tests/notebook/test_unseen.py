"""What does not count is named where somebody asks."""

from __future__ import annotations

import pytest

from nbflow.notebook.unseen import unseen


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("import datetime\nx = datetime.datetime.now()", "the clock (`datetime.datetime.now`)"),
        ("from datetime import datetime as dt\nx = dt.now()", "the clock (`dt.now`)"),
        ("import time\nx = time.time()", "the clock (`time.time`)"),
        ("import requests\nx = requests.get('http://x').text", "the network (`requests.get`)"),
        ("from urllib.request import urlopen\nx = [urlopen(u) for u in 'ab']", "the network (`urlopen`)"),
        ("x = pd.read_sql_query('select 1', None)", "a database (`pd.read_sql_query`)"),
        ("import random\nx = random.random()", "random numbers (`random.random`)"),
        ("x = np.random.rand(3)", "random numbers (`np.random.rand`)"),
        ("import os\nx = os.environ['HOME']", "the environment (`os.environ`)"),
        ("import os\nx = os.environ.get('HOME', 1)", "the environment (`os.environ.get`)"),
        ("from os import getenv\nx = getenv('HOME')", "the environment (`getenv`)"),
        ("import os\nx = os.path.join('a', 'b')", ""),
        ("np.random.seed(1)\nx = np.random.rand(3)", ""),
        ("now = time = requests = random = 1\nx = now + time + requests + random", ""),
        ("x = table.sample(3).mean() + frame.time", ""),
    ],
)
def test_what_is_named(code: str, named: str) -> None:
    """Well-known names are recognised in code as it is written; a seed makes random numbers countable."""
    found = unseen([compile(code, "cell", "exec"), None], "do this")
    assert (found[0] if found else "").startswith(named)
    assert len(found) == bool(named)
    assert all(line.endswith("; do this") for line in found)
