"""`FileDriver`: atomic writes, links, addresses, and what it does not import."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from nbflow.errors import DatasetError, DatasetNotFoundError
from nbflow.storage import FileDriver

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")


def _tree(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder with their contents."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class _TornFile:
    """A file that writes half of what it is given and then fails."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> _TornFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> int:
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        raise OSError(28, "No space left on device")


class TestAtomicity:
    """A save that fails in the middle leaves the old value."""

    def test_torn_write(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Half of the bytes were written when the disk was full."""
        driver = FileDriver(tmp_path)
        driver.save("a.bin", b"the old value")
        plain_open = builtins.open
        monkeypatch.setattr(builtins, "open", lambda *args, **kw: _TornFile(plain_open(*args, **kw)))
        with pytest.raises(DatasetError, match=r"save dataset 'a\.bin'.*No space left"):
            driver.save("a.bin", b"the new value")
        monkeypatch.undo()
        assert _tree(tmp_path) == {"a.bin": b"the old value"}

    @pytest.mark.parametrize("error", [OSError("gone"), KeyboardInterrupt()])
    def test_failing_rename(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        """The rename fails or is interrupted: old value, no half-written file left."""
        driver = FileDriver(tmp_path)
        driver.save("a.bin", b"old")

        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises((DatasetError, KeyboardInterrupt)):
            driver.save("a.bin", b"new")
        assert _tree(tmp_path) == {"a.bin": b"old"}

    def test_killed_writer(self, tmp_path: Path) -> None:
        """A process killed between write and rename leaves a file that is no key."""
        code = (
            "import os, sys\n"
            "from nbflow.storage import FileDriver\n"
            "os.replace = lambda *a: os._exit(9)\n"
            f"FileDriver({str(tmp_path)!r}).save('a.bin', b'new')\n"
        )
        driver = FileDriver(tmp_path)
        driver.save("a.bin", b"old")
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
        assert driver.load("a.bin") == b"old"
        assert driver.list_keys() == ["a.bin"]
        assert len(os.listdir(tmp_path)) == 2

    def test_torn_upload(self) -> None:
        """The same on a file system of fsspec whose uploads are not atomic."""

        class Torn(MemoryFileSystem):
            cachable = False
            broken = False

            def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
                super().pipe_file(path, value[: len(value) // 2] if self.broken else value, **kwargs)
                if self.broken:
                    raise ConnectionResetError("connection reset")

        fs = Torn()
        driver = FileDriver(f"/nbflow-{uuid.uuid4().hex}", fs)
        driver.save("a.bin", b"the old value")
        fs.broken = True
        with pytest.raises(DatasetError, match="connection reset"):
            driver.save("a.bin", b"the new value")
        assert driver.load("a.bin") == b"the old value"
        assert fs.find(driver.base_path) == [f"{driver.base_path}/a.bin"]

    def test_object_store_writes_once(self) -> None:
        """A store that replaces whole objects gets one upload, without a copy beside."""

        class Bucket(MemoryFileSystem):
            protocol = ("s3", "s3a")
            cachable = False
            uploads: list[str] = []  # noqa: RUF012 - one instance

            def pipe_file(self, path: str, value: bytes, **kwargs: Any) -> None:
                self.uploads.append(path)
                super().pipe_file(path, value, **kwargs)

        driver = FileDriver(f"/nbflow-{uuid.uuid4().hex}", Bucket())
        driver.save("a/b.bin", b"x")
        assert Bucket.uploads == [f"{driver.base_path}/a/b.bin"]
        assert driver.load("a/b.bin") == b"x"
        assert driver.is_local is False

    def test_cannot_replace(self) -> None:
        """A file system that can neither move nor copy says so and writes nothing."""

        class Rigid(MemoryFileSystem):
            cachable = False

            def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
                raise NotImplementedError

        fs = Rigid()
        driver = FileDriver(f"/nbflow-{uuid.uuid4().hex}", fs)
        with pytest.raises(DatasetError, match="NotImplementedError"):
            driver.save("a.bin", b"x")
        assert driver.list_keys() == []


class TestNothingBeforeFirstWrite:
    """Reading and looking leave no trace."""

    def test_local(self, tmp_path: Path) -> None:
        """A folder appears with the first save, not before."""
        base = tmp_path / "data"
        driver = FileDriver(base)
        assert driver.list_keys() == []
        assert not driver.exists("a.bin")
        assert not driver.delete("a.bin")
        with pytest.raises(DatasetNotFoundError):
            driver.load("a.bin")
        assert not base.exists()
        driver.save("a.bin", b"x")
        assert _tree(base) == {"a.bin": b"x"}

    def test_import_and_local_use_need_no_fsspec(self, tmp_path: Path) -> None:
        """A local folder is served without fsspec or anything heavy."""
        code = (
            "import sys\n"
            "from nbflow.storage import FileDriver\n"
            f"d = FileDriver({str(tmp_path)!r}); d.save('a', b'x'); d.load('a'); d.list_keys()\n"
            "FileDriver('s3://bucket/x').is_local\n"
            "assert not {'fsspec', 'asyncio', 'numpy', 'pandas'} & set(sys.modules), sorted(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


@posix_only
class TestLinks:
    """Links inside the folder lead nowhere outside it."""

    @pytest.fixture(params=["plain", "fsspec", "moved"])
    def driver(self, request: pytest.FixtureRequest, tmp_path: Path) -> FileDriver:
        """Return a driver to a folder with links to a file and a folder outside."""
        base, outside = tmp_path / "base", tmp_path / "outside"
        base.mkdir()
        outside.mkdir()
        (outside / "secret.txt").write_bytes(b"secret")
        (base / "folder").symlink_to(outside, target_is_directory=True)
        (base / "file.txt").symlink_to(outside / "secret.txt")
        (base / "dangling.txt").symlink_to(outside / "new.txt")
        (base / "loop").symlink_to(base / "loop")
        if request.param == "plain":
            return FileDriver(base)
        fs = fsspec.filesystem("file")
        if request.param == "fsspec":
            return FileDriver(base, fs)
        from fsspec.implementations.dirfs import DirFileSystem

        return FileDriver("base", DirFileSystem(str(tmp_path), fs))

    @pytest.mark.parametrize("key", ["folder/secret.txt", "folder/new.txt", "file.txt", "dangling.txt", "folder/a/b"])
    def test_refused(self, driver: FileDriver, key: str, tmp_path: Path) -> None:
        """Each operation refuses a key that a link leads out, and says where to."""
        for operation in (lambda: driver.save(key, b"evil"), *(lambda f=f: f(key) for f in _readers(driver))):
            with pytest.raises(DatasetError, match=r"symbolic link.*outside"):
                operation()
        assert _tree(tmp_path / "outside") == {"secret.txt": b"secret"}

    def test_loop(self, driver: FileDriver) -> None:
        """A link to itself cannot be loaded, and is replaced by a save."""
        with pytest.raises(DatasetError):
            driver.load("loop")
        with pytest.raises(DatasetError):
            driver.load("loop/x")
        driver.save("loop", b"x")
        assert driver.load("loop") == b"x"

    def test_not_listed(self, driver: FileDriver) -> None:
        """What is refused is not listed either."""
        driver.save("mine.txt", b"x")
        assert [key for key in driver.list_keys() if _loads(driver, key)] == ["mine.txt"]

    def test_link_within(self, tmp_path: Path) -> None:
        """A link that stays inside can be read; saving replaces the link and not its target."""
        driver = FileDriver(tmp_path / "base")
        driver.save("v1.txt", b"one")
        (tmp_path / "base" / "latest.txt").symlink_to("v1.txt")
        assert driver.load("latest.txt") == b"one"
        driver.save("latest.txt", b"two")
        assert driver.load("v1.txt") == b"one"
        assert driver.list_keys() == ["latest.txt", "v1.txt"]


def _readers(driver: FileDriver) -> tuple[Any, ...]:
    return driver.load, driver.exists, driver.delete


def _loads(driver: FileDriver, key: str) -> bool:
    try:
        return bool(driver.load(key)) or True
    except DatasetError:
        return False


class TestOutside:
    """With `allow_outside`, keys may lead anywhere in the same kind of place."""

    def test_local(self, tmp_path: Path) -> None:
        """Absolute paths, `..` and `file://` all reach the file meant."""
        driver = FileDriver(tmp_path / "base", allow_outside=True)
        for number, key in enumerate(["../up.bin", str(tmp_path / "abs.bin"), f"file://{tmp_path}/url.bin"]):
            driver.save(key, bytes([number]))
            assert driver.load(key) == bytes([number])
        assert _tree(tmp_path) == {"up.bin": b"\0", "abs.bin": b"\1", "url.bin": b"\2"}

    def test_same_file_system_only(self) -> None:
        """A URL of another kind is refused."""
        name = uuid.uuid4().hex
        driver = FileDriver(f"memory://nbflow-{name}/base", allow_outside=True)
        driver.save(f"memory://nbflow-{name}/other.bin", b"x")
        assert driver.load("../other.bin") == b"x"
        with pytest.raises(DatasetError, match="'s3'"):
            driver.load("s3://bucket/x.bin")

    @pytest.mark.parametrize("key", ["", "a\0b", "folder/", None])
    def test_unusable_keys_stay_refused(self, tmp_path: Path, key: Any) -> None:
        """What no file system could use is refused all the same."""
        with pytest.raises(DatasetError, match="refused"):
            FileDriver(tmp_path, allow_outside=True).save(key, b"x")

    def test_survives_pickling(self, tmp_path: Path) -> None:
        """The copy is as permissive as the original."""
        copy = pickle.loads(pickle.dumps(FileDriver(tmp_path).allowing_outside()))
        assert copy.allow_outside is True


class MarkedFileSystem(LocalFileSystem):
    """A file system of the user's own, with a setting."""

    protocol = ("marked", "file")
    cachable = False

    def __init__(self, mark: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mark = mark


class TestAddress:
    """What a base path means, and what travels."""

    def test_relative_base_is_fixed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A relative folder means the one of the moment of construction, also after `chdir`."""
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path)
        driver = FileDriver("data")
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert driver.save("a.bin", b"x") == str(tmp_path / "data" / "a.bin")

    def test_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """`~` in the base is the home folder."""
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        assert FileDriver("~/data").base_path == str(tmp_path / "data")

    def test_custom_file_system_travels(self, tmp_path: Path) -> None:
        """A file system that was given goes along when the driver is pickled, with its settings."""
        driver = FileDriver(tmp_path / "data", MarkedFileSystem(mark="blue"))
        driver.save("a.bin", b"x")
        copy = pickle.loads(pickle.dumps(driver))
        assert copy._fs.mark == "blue"
        assert copy.load("a.bin") == b"x"

    @pytest.mark.parametrize(
        ("base", "local", "in_process"),
        [
            ("data", True, False),
            ("file:///data", True, False),
            ("memory://data", True, True),
            ("s3://bucket/data", False, False),
            ("simplecache::s3://bucket/data", False, False),
            ("simplecache::memory://data", True, True),
        ],
    )
    def test_reach(self, base: str, local: bool, in_process: bool) -> None:
        """Who else sees the files follows from the address, without opening it."""
        driver = FileDriver(base)
        assert (driver.is_local, driver.in_process) == (local, in_process)

    @pytest.mark.parametrize("base", ["", "a\0b", None, 3, b"data"])
    def test_bad_base(self, base: Any) -> None:
        """What is no folder is refused at once."""
        with pytest.raises(DatasetError, match="base_path="):
            FileDriver(base)

    def test_base_of_another_file_system(self) -> None:
        """A URL must belong to the file system that is given with it."""
        with pytest.raises(DatasetError, match="does not belong"):
            FileDriver("s3://bucket", fsspec.filesystem("memory"))

    def test_unknown_protocol(self) -> None:
        """A URL that fsspec does not know is an error at first use, naming it."""
        driver = FileDriver("nonsense://x")
        with pytest.raises(DatasetError, match="nonsense"):
            driver.save("a.bin", b"x")

    def test_without_fsspec(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A URL without fsspec says what is missing."""
        monkeypatch.setitem(sys.modules, "fsspec", None)
        monkeypatch.setitem(sys.modules, "fsspec.core", None)
        with pytest.raises(DatasetError, match=r"memory://x.*fsspec.*Install"):
            FileDriver("memory://x").load("a.bin")

    def test_repr_names_place(self, tmp_path: Path) -> None:
        """The text form leads a reader to the files."""
        assert str(tmp_path) in repr(FileDriver(tmp_path))
        assert "LocalFileSystem" in repr(FileDriver(tmp_path, fsspec.filesystem("file")))
        assert "allow_outside=True" in repr(FileDriver(tmp_path, allow_outside=True))

    def test_path_of(self, tmp_path: Path) -> None:
        """The path of a key is known before there is a file, and a URL keeps its protocol."""
        assert FileDriver(tmp_path).path_of("a/b.csv") == str(tmp_path / "a" / "b.csv")
        assert FileDriver("memory://x").path_of("a.csv").startswith("memory://")
        assert FileDriver(tmp_path).path_of(Path("a") / "b.csv") == str(tmp_path / "a" / "b.csv")


class TestClashes:
    """Files and folders that want the same name."""

    @pytest.mark.parametrize("kind", ["plain", "fsspec"])
    def test_folder_and_file(self, tmp_path: Path, kind: str) -> None:
        """A file cannot replace a folder nor the other way round; both are said, nothing is lost."""
        driver = FileDriver(tmp_path, None if kind == "plain" else fsspec.filesystem("file"))
        driver.save("a/b.bin", b"x")
        with pytest.raises(DatasetError, match="save dataset 'a'"):
            driver.save("a", b"y")
        with pytest.raises(DatasetError, match=r"save dataset 'a/b\.bin/c'"):
            driver.save("a/b.bin/c", b"y")
        assert driver.exists("a/b.bin/c") is False
        assert driver.delete("a/b.bin/c") is False
        assert driver.list_keys() == ["a/b.bin"]
        assert driver.load("a/b.bin") == b"x"

    def test_unreadable_base(self, tmp_path: Path) -> None:
        """A base that is a file is an error of the save, not of the construction."""
        (tmp_path / "data").write_bytes(b"a file")
        with pytest.raises(DatasetError, match=str(tmp_path / "data")) as caught:
            FileDriver(tmp_path / "data").save("a.bin", b"x")
        assert isinstance(caught.value.__cause__, OSError)

    def test_foreign_names_are_not_listed(self, tmp_path: Path) -> None:
        """Files whose names are no keys are left out of the list, as they cannot be loaded."""
        driver = FileDriver(tmp_path)
        driver.save("good.bin", b"x")
        (tmp_path / "aux.csv").write_bytes(b"x")
        (tmp_path / "half.nbflow-tmp").write_bytes(b"x")
        assert driver.list_keys() == ["good.bin"]


def test_errors_survive_pickling(tmp_path: Path) -> None:
    """Refusals and failures cross process borders with their facts."""
    driver = FileDriver(tmp_path)
    for key in ("../x", "none", None):
        with pytest.raises(DatasetError) as caught:
            driver.load(key)  # type: ignore[arg-type]
        copy = pickle.loads(pickle.dumps(caught.value))
        assert type(copy) is type(caught.value)
        assert str(copy) == str(caught.value)
        assert copy.key == str(key)
