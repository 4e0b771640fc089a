"""`File`: an input by content, whether it is an argument or is met while a call runs."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

import nbflow
import nbflow.files
from nbflow import File, gather_tasks, map_tasks, task
from nbflow.errors import DefinitionError, FileMissingError


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with one file."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "a.csv").write_text("one")
    return folder


@pytest.fixture
def runs() -> list[Any]:
    """What bodies note when they run; a list that they mutate is their state, no input."""
    return []


def test_a_file_is_a_path() -> None:
    """Whatever takes a path takes a `File`."""
    file = File("a.csv")
    with open(file) as stream:
        assert stream.read() == "one"
    assert os.path.getsize(file) == 3
    assert file.path == Path("a.csv")
    assert file.name == "a.csv"
    assert str(file) == "a.csv"
    assert repr(file) == "File('a.csv')"
    assert list(file)[0].read_text() == "one"


def test_libraries_read_files() -> None:
    """The usual readers take a `File`."""
    pd, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow.csv")
    Path("t.csv").write_text("x,y\n1,2\n")
    assert pd.read_csv(File("t.csv")).shape == (1, 2)
    assert pa.read_csv(File("t.csv")).num_rows == 1
    np = pytest.importorskip("numpy")
    np.save("t.npy", np.arange(3))
    assert np.load(File("t.npy")).tolist() == [0, 1, 2]


def test_files_are_equal_by_path_and_survive_pickling() -> None:
    """Equality and hash go by the path; a pickled `File` comes back even where the file is gone."""
    file = File("a.csv")
    assert file == File("a.csv")
    assert hash(file) == hash(File("a.csv"))
    assert file != "a.csv"
    data = pickle.dumps(file)
    os.remove("a.csv")
    assert pickle.loads(data) == file
    assert pickle.loads(data).digest == "missing"


def test_a_missing_file_is_a_clear_error() -> None:
    """The error names the place, and a name that is near; it is a FileNotFoundError."""
    with pytest.raises(FileNotFoundError, match=r"there is no file .*a.cvs\. Did you mean 'a.csv'\?") as caught:
        File("a.cvs")
    assert isinstance(caught.value, FileMissingError)
    assert caught.value.path == "a.cvs"
    with pytest.raises(FileMissingError, match="there is no folder"):
        File("no/such.csv")
    with pytest.raises(FileMissingError, match="no file matches"):
        File("*.parquet")


@pytest.mark.parametrize("wrong", [3, None, b"a.csv", "", "https://example.org/a.csv"])
def test_what_is_no_local_path_is_refused(wrong: Any) -> None:
    """Only local paths as text can be followed."""
    with pytest.raises(DefinitionError):
        File(wrong)


def test_a_pattern_stands_for_several_files() -> None:
    """A pattern is gone through; as a single path it is refused."""
    Path("b.csv").write_text("two")
    pattern = File("*.csv")
    assert [path.name for path in pattern] == ["a.csv", "b.csv"]
    with pytest.raises(DefinitionError, match="stands for several files"):
        os.fspath(pattern)


def test_an_argument_counts_by_content_and_name(runs: list[Any]) -> None:
    """The folder does not count, nor that the file was touched; its content and its name do."""

    @task(cache=True)
    def load(file: File) -> str:
        runs.append(1)
        return Path(file).read_text()

    os.mkdir("sub")
    shutil.copy("a.csv", "sub/a.csv")
    assert load(File("a.csv")) == load(File("sub/a.csv")) == "one"
    os.remove("sub/a.csv")
    os.utime("a.csv")
    assert load(File("a.csv")) == "one"
    assert len(runs) == 1
    Path("a.csv").write_text("two")
    assert load(File("a.csv")) == "two"
    shutil.copy("a.csv", "b.csv")
    assert load(File("b.csv")) == "two"
    assert len(runs) == 3


def test_a_file_made_in_the_body_is_followed(runs: list[Any]) -> None:
    """The result is computed again when the file has changed, and found again when it is put back."""

    @task(cache=True)
    def load() -> str:
        runs.append(1)
        return Path(File("a.csv")).read_text()

    assert [load(), load()] == ["one", "one"]
    assert len(runs) == 1
    Path("a.csv").write_text("twofold")
    assert [load(), load()] == ["twofold", "twofold"]
    assert len(runs) == 2
    Path("a.csv").write_text("one")
    assert load() == "one"
    assert len(runs) == 2
    Path("a.csv").unlink()
    with pytest.raises(FileMissingError):
        load()


def test_the_file_is_named_as_the_reason() -> None:
    """`why` tells which file has changed, afterwards and beforehand."""

    @task(cache=True)
    def load() -> str:
        return Path(File("a.csv")).read_text()

    load()
    Path("a.csv").write_text("more")
    assert "file `a.csv` 3 B → 4 B" in nbflow.why(load)
    load()
    assert "file `a.csv` 3 B → 4 B" in nbflow.why("load")


def test_a_file_is_read_only_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of cached calls nobody asks what is in it, and inside it is asked once."""
    asked: list[str] = []
    state_of = nbflow.files.state_of

    def noting(path: str) -> Any:
        asked.append(path)
        return state_of(path)

    monkeypatch.setattr(nbflow.files, "state_of", noting)

    @task
    def size() -> int:
        file = File("a.csv")
        return len(file.path.read_text() + Path(file).read_text())

    size()
    assert asked == []
    task(cache=True)(size.func)()
    assert asked == ["a.csv"]


def test_files_are_no_reason_where_code_has_changed(tmp_path: Path) -> None:
    """Which files new code will read is not known yet, so the old code's are not said to be gone."""

    def define(suffix: str) -> Any:
        @task(cache=True, name="load", version=suffix)
        def load() -> str:
            return Path(File("a.csv")).read_text() + suffix

        return load

    define("one")()
    with nbflow.session():
        define("two")()
        assert "file" not in nbflow.why("load")


def test_files_are_followed_through_calls(runs: list[Any]) -> None:
    """What an inner call reads, computed or cached, is read by those around it."""

    @task(cache=True)
    def inner() -> str:
        runs.append("inner")
        return Path(File("a.csv")).read_text()

    @task
    def between() -> str:
        return inner()

    @task(cache=True)
    def outer() -> str:
        runs.append("outer")
        return between()

    inner()
    assert outer() == outer() == "one"
    assert runs == ["inner", "outer"]
    Path("a.csv").write_text("two")
    assert outer() == "two"
    assert runs == ["inner", "outer", "outer", "inner"]


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("backend", ["inline", "thread", "process"])
def test_files_are_followed_through_maps(runs: list[Any], backend: str, retries: int) -> None:
    """What items of a map read, on other threads or in other processes, is read by the call that maps."""

    @task(retries=retries)
    def read(name: str) -> str:
        return Path(File(name)).read_text()

    @task(cache=True)
    def every() -> list[str]:
        runs.append(1)
        return map_tasks(read, ["a.csv", "a.csv"], backend=backend)

    assert every() == every() == ["one", "one"]
    Path("a.csv").write_text("two")
    assert every() == ["two", "two"]
    assert len(runs) == 2


def test_async_tasks_follow_files(runs: list[Any]) -> None:
    """Coroutines that run at the same time do not take each other's files."""
    Path("b.csv").write_text("b")

    @task(cache=True)
    async def load(name: str) -> str:
        runs.append(name)
        return Path(File(name)).read_text()

    async def both() -> list[str]:
        return await gather_tasks(load, ["a.csv", "b.csv"])

    import asyncio

    assert asyncio.run(both()) == ["one", "b"]
    Path("b.csv").write_text("c")
    assert asyncio.run(both()) == ["one", "c"]
    assert sorted(runs) == ["a.csv", "b.csv", "b.csv"]


def test_a_captured_file_counts_by_content(runs: list[Any]) -> None:
    """A `File` that the function refers to is an input as any captured value."""
    source = File("a.csv")

    @task(cache=True)
    def load() -> str:
        runs.append(1)
        return Path(source).read_text()

    assert load() == load() == "one"
    Path("a.csv").write_text("two")
    assert load() == "two"
    assert len(runs) == 2
    assert "`source` changed (File('a.csv'), other values" in nbflow.why("load")


def test_a_file_whose_absence_was_seen_is_followed(runs: list[Any]) -> None:
    """A body that copes with a missing file runs again once the file is there."""

    @task(cache=True)
    def load() -> str:
        runs.append(1)
        try:
            return Path(File("late.csv")).read_text()
        except FileNotFoundError:
            return "nothing"

    assert load() == load() == "nothing"
    Path("late.csv").write_text("late")
    assert load() == "late"
    assert len(runs) == 2


def test_a_file_that_changes_meanwhile_is_not_cached(runs: list[Any]) -> None:
    """Nobody knows which state such a result belongs to, so it is not kept, and `why` says so."""

    @task(cache=True)
    def count() -> int:
        runs.append(1)
        number = len(Path(File("a.csv")).read_text())
        Path("a.csv").write_text("x" * (number + 1))
        return number

    assert [count(), count()] == [3, 4]
    assert "file `a.csv` changed while it ran" in nbflow.why("count")


def test_folders_and_patterns_are_followed(runs: list[Any]) -> None:
    """A new, a changed and a vanished member count; a cache in the folder does not."""
    os.mkdir("data")
    Path("data/x.csv").write_text("x")

    @task(cache=True)
    def names() -> tuple[list[str], list[str]]:
        runs.append(1)
        return [path.name for path in File("data")], [path.name for path in File("data/*.csv")]

    assert names() == names() == (["x.csv"], ["x.csv"])
    Path("data/y.txt").write_text("y")
    assert names() == (["x.csv", "y.txt"], ["x.csv"])
    Path("data/x.csv").write_text("z")
    names()
    os.mkdir("data/.cache")
    Path("data/.cache/CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    Path("data/.cache/blob").write_text("something")
    names()
    assert len(runs) == 3
    os.remove("data/y.txt")
    names()
    assert len(runs) == 4
    Path("data/x.csv").write_text("x")
    names()
    assert len(runs) == 4, "this state was seen before"


def test_force_and_session_scope_follow_files(runs: list[Any]) -> None:
    """Forced calls replace what is stored, and results that live in memory only follow files as well."""

    @task(cache="session")
    def load() -> str:
        runs.append(1)
        return Path(File("a.csv")).read_text()

    assert load() == load() == "one"
    Path("a.csv").write_text("two")
    assert load() == load() == "two"
    with nbflow.session(settings=nbflow.settings.load_settings(force=True)):
        load()
    assert len(runs) == 3


def test_shared_results_follow_files(runs: list[Any], tmp_path: Path) -> None:
    """What a colleague computed from the same file is found in the shared cache; from another one it is not."""

    @task(cache=True)
    def load() -> str:
        runs.append(1)
        return Path(File("a.csv")).read_text()

    def work(home: str) -> str:
        wanted = nbflow.settings.load_settings(cache_shared=str(tmp_path / "shared"), home=str(tmp_path / home))
        with nbflow.session(settings=wanted):
            return load()

    assert [work("one"), work("two")] == ["one", "one"]
    assert len(runs) == 1
    Path("a.csv").write_text("two")
    assert work("three") == "two"
    assert len(runs) == 2
