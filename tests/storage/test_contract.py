"""Every built-in driver against the contract, plain and behind faulty wrappers."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem

from nbflow.storage import Driver, FileDriver
from nbflow.testing import FakeClock
from nbflow.testing.contracts import DriverContract
from nbflow.testing.faults import FaultyDriver


class TestLocalFolder(DriverContract):
    """A folder of this machine."""

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Driver:
        """Return a driver to a folder that does not exist yet."""
        return FileDriver(tmp_path / "not" / "yet")


class TestFileUrl(DriverContract):
    """A folder given as URL, which needs no fsspec."""

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Driver:
        """Return a driver to a `file://` URL."""
        return FileDriver(f"file://{tmp_path}/data")


class TestMemory(DriverContract):
    """A URL of fsspec."""

    @pytest.fixture
    def driver(self) -> Driver:
        """Return a driver to a fresh corner of fsspec's memory, with a pattern character in its name."""
        return FileDriver(f"memory://nbflow-{uuid.uuid4().hex}/runs[1]")


class TestGivenFileSystem(DriverContract):
    """A file system object of fsspec over local files."""

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Driver:
        """Return a driver with fsspec's own local file system."""
        return FileDriver(tmp_path / "data", fsspec.filesystem("file"))


class TestMovedRoot(DriverContract):
    """A file system object that only moves the root of another."""

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Driver:
        """Return a driver to the root of a moved file system."""
        return FileDriver("", DirFileSystem(str(tmp_path), fsspec.filesystem("file")))


class PicklableClock(FakeClock):
    """A clock whose copies start anew."""

    def __reduce__(self) -> tuple[type[PicklableClock], tuple[()]]:
        return PicklableClock, ()


class TestSlow(DriverContract):
    """A slow driver is still a driver."""

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Driver:
        """Return a driver that takes five seconds on its clock."""
        return FaultyDriver(FileDriver(tmp_path / "data"), delay_s=5.0, clock=PicklableClock())


class TestAfterFailure(DriverContract):
    """A driver whose first save failed keeps all promises from then on."""

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Driver:
        """Return a driver after a failed save."""
        faulty = FaultyDriver(FileDriver(tmp_path / "data"), fail={1})
        with pytest.raises(OSError, match="save 1"):
            faulty.save("a.bin", b"lost")
        return faulty


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
class TestLinkedFolder(DriverContract):
    """A base that is itself a link is as good as its target."""

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Driver:
        """Return a driver to a link."""
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
        return FileDriver(tmp_path / "link")
