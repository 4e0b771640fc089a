"""Whatever the key, nothing outside the base is ever written, read or deleted."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nbflow.datasets import DatasetStore
from nbflow.errors import DatasetError, DatasetNotFoundError
from nbflow.storage import FileDriver, check_key

PIECES = [
    *("..", ".", "", "...", "~", "~root", "C:", "c:", "file:", "s3:", "%2e%2e", "$HOME", "[a]", "*"),
    *("a", "b.csv", "link", "file", "up", "con", "AUX.txt", " ", "a ", "a.", "\0", "\n", "x.nbflow-tmp"),
    *("é", "日本", "\ud800", "\u2025", "\uff0e\uff0e", "n" * 255, "n" * 256),
]
hostile = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).flatmap(
        lambda parts: st.sampled_from(["/", "\\", "//", "/./", "/../"]).map(lambda glue: glue.join(parts))
    ),
    st.lists(st.sampled_from(PIECES), max_size=4).map(lambda parts: "/" + "/".join(parts)),
)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Yield a folder with a base full of links that lead out, and with secrets beside it."""
    root = Path(tempfile.mkdtemp(prefix="nbflow-keys-"))
    outside, base = root / "outside", root / "base"
    outside.mkdir()
    base.mkdir()
    (outside / "b.csv").write_bytes(b"secret")
    (root / "b.csv").write_bytes(b"secret")
    if sys.platform != "win32":
        (base / "link").symlink_to(outside, target_is_directory=True)
        (base / "up").symlink_to("..", target_is_directory=True)
        (base / "file").symlink_to(outside / "b.csv")
    yield root
    shutil.rmtree(root)


def _outside_of(root: Path) -> dict[str, bytes]:
    """Return all files beside the base."""
    return {
        str(path): path.read_bytes()
        for folder, _, names in os.walk(root)
        for path in (Path(folder) / name for name in names)
        if (root / "base") not in path.parents
    }


@settings(max_examples=400, deadline=None)
@given(key=hostile, through_fsspec=st.booleans())
@example(key="link/b.csv", through_fsspec=False)
@example(key="up/b.csv", through_fsspec=True)
@example(key="file", through_fsspec=False)
@example(key="../b.csv", through_fsspec=False)
def test_stays_inside(place: Path, key: str, through_fsspec: bool) -> None:
    """A key is refused, or names a file inside the base that can be loaded, listed and deleted."""
    before = _outside_of(place)
    base = place / "base"
    driver = FileDriver(base, fsspec.filesystem("file") if through_fsspec else None)
    working_directory = set(os.listdir("."))
    try:
        path = Path(driver.save(key, b"mine"))
    except DatasetError:
        with pytest.raises(DatasetError):
            driver.load(key)
    else:
        assert base in path.parents
        assert os.path.realpath(path).startswith(os.path.realpath(base) + os.sep)
        assert driver.load(key) == b"mine"
        assert check_key(key) in driver.list_keys()
        assert driver.delete(key)
    assert _outside_of(place) == before
    assert set(os.listdir(".")) == working_directory


@settings(max_examples=200, deadline=None)
@given(key=hostile)
def test_stays_inside_of_memory(key: str) -> None:
    """The same on a file system of fsspec where `..` has no meaning of its own."""
    name = f"nbflow-{uuid.uuid4().hex}"
    fs = fsspec.filesystem("memory")
    store = DatasetStore(f"memory://{name}/base")
    others = set(fs.store)
    try:
        store.save(key, b"mine", format="bytes")
    except DatasetError:
        assert set(fs.store) == others
    else:
        assert set(fs.store) - others == {f"/{name}/base/{check_key(key)}"}
        store.delete(key)


@given(key=hostile)
def test_canonical_spelling_is_stable(key: str) -> None:
    """The canonical spelling of a key is a key, and its own canonical spelling."""
    try:
        spelling = check_key(key)
    except DatasetError:
        return
    assert check_key(spelling) == spelling
    assert not spelling.startswith("/")
    assert ".." not in spelling.split("/")


class DriverAgainstDict(RuleBasedStateMachine):
    """A driver behaves as a dictionary from canonical keys to bytes."""

    keys = st.sampled_from(["a.bin", "./a.bin", "b[1].bin", "f/a.bin", "f//b", "f/g/c", "é"])

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="nbflow-driver-")
        self.driver = FileDriver(self.folder)
        self.model: dict[str, bytes] = {}

    @rule(key=keys, data=st.binary(max_size=50))
    def save(self, key: str, data: bytes) -> None:
        """Save, here and there."""
        self.driver.save(key, data)
        self.model[check_key(key)] = data

    @rule(key=keys)
    def load(self, key: str) -> None:
        """Load, or miss, as the dictionary does."""
        expected = self.model.get(check_key(key))
        assert self.driver.exists(key) is (expected is not None)
        if expected is None:
            with pytest.raises(DatasetNotFoundError):
                self.driver.load(key)
        else:
            assert self.driver.load(key) == expected

    @rule(key=keys)
    def delete(self, key: str) -> None:
        """Delete, here and there."""
        assert self.driver.delete(key) is (self.model.pop(check_key(key), None) is not None)

    @rule()
    def reopen(self) -> None:
        """Go on with a new driver to the same folder."""
        self.driver = FileDriver(self.folder)

    @invariant()
    def same_keys(self) -> None:
        """The listed keys are those of the dictionary."""
        assert self.driver.list_keys() == sorted(self.model)

    def teardown(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)


TestDriverAgainstDict = DriverAgainstDict.TestCase
TestDriverAgainstDict.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
