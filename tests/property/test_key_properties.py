"""Keys of generated programs and values: every reachable change counts, and nothing else does.

`NBFLOW_LONG=1` multiplies the number of cases by twenty. A failure names the seed of its program.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import functools
import importlib.util
import itertools
import json
import linecache
import os
import random
import shutil
import subprocess
import sys
from collections import Counter, OrderedDict, deque, namedtuple
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from nbflow.cache import content_key, digest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("programs.py")
LONG = 20 if os.environ.get("NBFLOW_LONG") else 1
PROGRAMS = 320 * LONG
VALUES = 1_100 * LONG

Pair = namedtuple("Pair", "left right")


@functools.cache
def programs() -> Any:
    """Return the module that writes programs; it lives beside this file and is also run as a script."""
    spec = importlib.util.spec_from_file_location("nbflow_programs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["nbflow_programs"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _forget_sources() -> Iterator[None]:
    known = set(linecache.cache)
    yield
    for name in set(linecache.cache) - known:
        del linecache.cache[name]


def key(cells: list[str]) -> str:
    """Return the key of `f(5)` in a new kernel that has run these cells."""
    return content_key(programs().run(cells)["f"], {"x": 5})


def shown(seed: int, *texts: list[str]) -> str:
    """Return what to show of a program that failed."""
    return f"seed {seed}\n" + "\n=====\n".join("\n".join(cells[1:]) for cells in texts)


@pytest.mark.slow
@pytest.mark.timeout(600 * LONG)
def test_programs_have_one_key_for_each_meaning() -> None:
    """A program in other words has the same key, one with a reachable edit another; no other edit counts."""
    for seed in range(PROGRAMS):
        program = programs().Program(seed)
        cells = program.cells()
        mine = key(cells)
        for _ in range(2):
            words = program.in_other_words()
            assert key(words) == mine, shown(seed, cells, words)
        seen = {mine}
        for item in program.random.sample(program.reached, min(2, len(program.reached))):
            edited = program.edited(item)
            assert edited != cells
            assert (found := key(edited)) not in seen, shown(seed, cells, edited)
            seen.add(found)
        for item in program.unreached[:1]:
            edited = program.edited(item)
            assert key(edited) == mine, shown(seed, cells, edited)


def test_programs_that_answer_differently_have_different_keys() -> None:
    """Random pairs of programs with one key give the same results: there is no wrong hit."""
    answers: dict[str, Any] = {}
    for seed in range(PROGRAMS // 4):
        program = programs().Program(seed)
        for cells in (program.cells(), program.in_other_words(), program.edited(program.roots[0])):
            names = programs().run(cells)
            mine = content_key(names["f"], {"x": 5})
            result = names["f"](5)
            assert answers.setdefault(mine, result) == result, shown(seed, cells)
    assert len(answers) > PROGRAMS // 4


# --- values -------------------------------------------------------------------------------------------------------


def leaf(rng: random.Random) -> Any:
    """Return a random simple value."""
    number = rng.randint(-(10**6), 10**6)
    return rng.choice(
        (
            lambda: number,
            lambda: number / 7,
            lambda: complex(number, 1),
            lambda: f"text {number}",
            lambda: str(number).encode(),
            lambda: number % 2 == 0,
            lambda: None,
            lambda: datetime.date(2000, 1, 1) + datetime.timedelta(days=abs(number) % 9999),
            lambda: datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=number),
            lambda: decimal.Decimal(number) / 8,
            lambda: Fraction(number, 7),
            lambda: Path("some") / str(number),
            lambda: np.float32(number),
            lambda: np.datetime64(abs(number), "s"),
        )
    )()


def arrays(rng: random.Random) -> Any:
    """Return a random array or frame."""
    numbers = np.random.default_rng(rng.randrange(10**9))
    rows = rng.randint(1, 6)
    return rng.choice(
        (
            lambda: numbers.random((rows, 3)),
            lambda: np.asfortranarray(numbers.integers(0, 99, (2, rows))),
            lambda: np.array([str(rng.random()) for _ in range(rows)], dtype=object),
            lambda: (
                np.ma.array(numbers.random(rows), mask=[True] + [False] * (rows - 1))
                if rows > 1
                else np.ma.array([rng.random()])
            ),
            lambda: pd.DataFrame({"a": numbers.random(rows), "b": [str(rng.random()) for _ in range(rows)]}),
            lambda: pd.Series(numbers.integers(0, 10**9, rows), name=f"s{rng.randint(0, 9)}"),
            lambda: (
                pd.date_range("2020", periods=rows, tz=rng.choice((None, "UTC")))
                + pd.Timedelta(rng.randint(1, 10**6), "s")
            ),
            lambda: pa.table({"a": [rng.random(), None], "b": ["x", str(rng.random())]}),
        )
    )()


def tree(rng: random.Random, depth: int = 3) -> Any:
    """Return a random nested value."""
    if depth == 0 or rng.random() < 0.25:
        return arrays(rng) if rng.random() < 0.15 else leaf(rng)
    members = [tree(rng, depth - 1) for _ in range(rng.randint(1, 5))]
    kind = rng.randrange(8)
    if kind == 0:
        return tuple(members)
    if kind == 1:
        return {str(place): member for place, member in enumerate(members)}
    if kind == 2:
        return OrderedDict(enumerate(members))
    if kind == 3:
        return deque(members)
    if kind == 4:
        return {leaf(rng) for _ in range(6)}
    if kind == 5:
        return Pair(members[0], members[-1])
    if kind == 6:
        return (
            [leaf(rng) for _ in range(rng.randint(8, 20))] if rng.random() < 0.5 else [rng.random() for _ in range(9)]
        )
    return members


def rebuilt(value: Any, rng: random.Random) -> Any:
    """Return an equal value of other objects, with dicts and sets filled in another order and arrays laid out anew."""
    kind = type(value)
    if kind in (list, tuple, deque):
        return kind(rebuilt(member, rng) for member in value)
    if kind is Pair:
        return Pair(*(rebuilt(member, rng) for member in value))
    if kind is OrderedDict:
        return OrderedDict((rebuilt(name, rng), rebuilt(member, rng)) for name, member in value.items())
    if kind is dict:
        return {name: rebuilt(value[name], rng) for name in rng.sample(list(value), len(value))}
    if kind is set:
        return {rebuilt(member, rng) for member in rng.sample(list(value), len(value))}
    if kind is np.ndarray and value.ndim == 2:
        return np.repeat(value, 2, axis=1)[:, ::2] if rng.random() < 0.5 else np.asfortranarray(value)
    if kind is pd.DataFrame:
        return pd.concat([value, value], ignore_index=True).iloc[: len(value)]
    if kind is pa.Table:
        return pa.concat_tables([value.slice(0, 1), value.slice(1)])
    return copy.deepcopy(value)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to each leaf."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield from places(member, (*path, name))
    elif isinstance(value, (list, tuple, deque)):
        for place, member in enumerate(value):
            yield from places(member, (*path, place))
    else:
        yield path


def with_other(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """Return a copy with one leaf changed."""
    if not path:
        return change(value)
    if isinstance(value, dict):
        return type(value)(
            (name, with_other(each, path[1:], change) if name == path[0] else each) for name, each in value.items()
        )
    members = [with_other(each, path[1:], change) if place == path[0] else each for place, each in enumerate(value)]
    return Pair(*members) if isinstance(value, Pair) else type(value)(members)


def other(value: Any) -> list[Any]:
    """Return values that differ from a leaf in content or only in type."""
    if isinstance(value, bool) or value is None:
        return [not value, int(bool(value)), str(value)]
    if isinstance(value, (int, float, complex)) and type(value) in (int, float, complex):
        return [value + 1, -value - 1, str(value), [value]]
    if isinstance(value, (str, bytes)):
        return [
            value + value[:1],
            value[:-1],
            [value],
            bytearray(value) if isinstance(value, bytes) else value.encode(),
        ]
    if isinstance(value, datetime.datetime):
        return [
            value.replace(tzinfo=None),
            value + datetime.timedelta(microseconds=1),
            pd.Timestamp(value),
            value.replace(fold=1),
        ]
    if isinstance(value, datetime.date):
        return [value + datetime.timedelta(days=1), str(value), datetime.datetime(value.year, value.month, value.day)]
    if isinstance(value, np.generic):
        one = np.ones((), "m8[s]" if value.dtype.kind == "M" else value.dtype)[()]
        return [value + one, value.item(), np.array(value)]
    if isinstance(value, np.ma.MaskedArray):
        return [value + 1, value[None], np.ma.array(value, mask=~np.ma.getmaskarray(value))]
    if isinstance(value, np.ndarray):
        return [
            value[None],
            value.tolist(),
            value[:-1],
            value.astype("f4") if value.dtype != object else value.astype("U"),
        ]
    if isinstance(value, pd.DataFrame):
        return [
            value.rename(columns={"a": "c"}),
            value.astype({"a": "f4"}),
            value[["b", "a"]],
            value.set_axis(value.index + 1),
        ]
    if isinstance(value, pd.Series):
        return [value.rename("other"), value.astype("f8"), value.to_frame(), value.array]
    if isinstance(value, pd.Index):
        return [
            value.tz_localize(None) if value.tz else value.tz_localize("UTC"),
            value[:-1],
            value.to_series(),
            value.rename("n"),
        ]
    if isinstance(value, pa.Table):
        return [
            value.rename_columns(["a", "c"]),
            value.slice(1),
            value.to_batches(),
            value.replace_schema_metadata({"k": "v"}),
        ]
    if isinstance(value, set):
        return [value | {"one more"}, frozenset(value), sorted(value, key=repr)]
    if isinstance(value, Path):
        return [value / "more", str(value)]
    return [value + 1, str(value)]


def test_values_have_one_digest_for_each_content() -> None:
    """A nested value rebuilt from other objects has the same digest; with any one leaf changed it has another."""
    cases = 0
    for seed in range(VALUES):
        rng = random.Random(seed)
        value = tree(rng)
        mine = digest(value)
        assert digest(rebuilt(value, rng)) == mine, (seed, value)
        seen = {mine: repr(value)}
        path = rng.choice(list(places(value)) or [()])
        choices = other(functools.reduce(lambda inner, step: inner[step], path, value))
        for one in choices:
            changed = with_other(value, path, lambda _, one=one: one)
            found = digest(changed)
            assert found not in seen, (seed, value, changed, seen.get(found))
            seen[found] = repr(changed)
        cases += 1 + len(choices)
    assert cases > 4 * VALUES


def test_short_texts_never_run_into_each_other() -> None:
    """All lists of up to four short texts, as list, tuple, object array and column: as many digests as lists."""
    texts = ("", "a", "-", "\0", "a-", "-a", "\0a")
    lists = [list(each) for length in range(5) for each in itertools.product(texts, repeat=length)]
    lists += [[*each, *"abcdefgh"] for each in lists]  # long enough to be packed
    assert len({digest(each) for each in lists}) == len({tuple(each) for each in lists})
    for wrap in (tuple, lambda each: np.array(each, dtype=object), lambda each: pd.Series(each, dtype=object)):
        some = lists[:: 7 if LONG == 1 else 1]
        assert len({digest(wrap(each)) for each in some}) == len({tuple(each) for each in some})


# --- other processes, other versions of Python ------------------------------------------------------------------


def printed(python: str, *args: object, **env: str) -> Any:
    """Run the script in another interpreter and return what it prints."""
    done = subprocess.run(
        [python, str(SCRIPT), *map(str, args)], capture_output=True, text=True, env={**os.environ, **env}, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_keys_survive_a_restart() -> None:
    """Other processes, with other hashes of strings, make the same keys of the same programs."""
    mine = programs().keys(range(60))
    assert len(set(mine)) == len(mine)
    for seed in ("1", "77"):
        assert printed(sys.executable, 0, 60, PYTHONHASHSEED=seed, PYTHONPATH=str(ROOT)) == mine


def interpreters() -> dict[str, str]:
    """Return the versions of Python from 3.11 on that are on this machine, and where."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    for minor in range(11, 20):
        name = f"3.{minor}"
        paths = sorted(Path.home().glob(f".pyenv/versions/{name}.*/bin/python"))
        path = str(paths[-1]) if paths else shutil.which(f"python{name}")
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            found.setdefault(name, path)
    return found


_SHIM = '''
"""Stands in for xxhash where it is not installed: what matters is that all hash the same bytes."""
from hashlib import blake2b

class xxh3_128:
    def __init__(self, data=b""):
        self._state = blake2b(data, digest_size=16)
        self.update, self.digest, self.hexdigest = self._state.update, self._state.digest, self._state.hexdigest

def xxh3_128_digest(data=b""):
    return blake2b(data, digest_size=16).digest()

def xxh3_128_hexdigest(data=b""):
    return blake2b(data, digest_size=16).hexdigest()

def __getattr__(name):  # what the store uses; no key is made with it
    return xxh3_128
'''


def test_keys_are_the_same_in_all_versions_of_python(tmp_path: Path) -> None:
    """Programs have the same keys from Python 3.11 on; versions that this machine does not have are left out."""
    known = interpreters()
    if len(known) < 2:
        pytest.skip("there is only one version of Python from 3.11 on")
    (tmp_path / "xxhash.py").write_text(_SHIM)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    results = {name: printed(python, 0, 80, PYTHONPATH=paths) for name, python in known.items()}
    mine = results[f"{sys.version_info.major}.{sys.version_info.minor}"]
    for name, found in results.items():
        different = [seed for seed, (one, two) in enumerate(zip(mine, found, strict=True)) if one != two]
        assert not different, f"Python {name}: {shown(different[0], programs().Program(different[0]).cells())}"
    assert Counter(mine).most_common(1)[0][1] == 1
