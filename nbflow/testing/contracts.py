"""The promises of pluggable parts, as tests to inherit.

Whoever writes a driver subclasses `DriverContract` in a test module and overrides the fixture `driver`; pytest then
runs every promise on it. The built-in drivers are tested the same way, and so are faulty wrappers around them, which
must break the promise that they are made to break and no other.
"""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar

import pytest

from nbflow.errors import DatasetError, DatasetNotFoundError
from nbflow.storage import Driver

__all__ = ["DriverContract"]


class DriverContract:
    """What every `Driver` promises; override `driver` with a fixture that returns a driver to an empty place.

    Attributes:
        hostile_keys: Keys that must be refused by every operation.
    """

    hostile_keys: ClassVar[tuple[Any, ...]] = (
        "",
        " ",
        ".",
        "./",
        "..",
        "../x.csv",
        "a/../../x.csv",
        "a/..",
        "/etc/x.csv",
        "//host/share/x.csv",
        "C:/x.csv",
        "c:x.csv",
        "..\\x.csv",
        "a\\b.csv",
        "~/x.csv",
        "~root/x.csv",
        "./~/x.csv",
        "./C:/x.csv",
        "file:///etc/x.csv",
        "s3://bucket/x.csv",
        "a\0b.csv",
        "a\nb.csv",
        "\ud800.csv",
        "folder/",
        "aux.csv",
        "a/NUL",
        "Com1.tar.gz",
        "dot.",
        "space .csv/x ",
        "n" * 256,
        "é" * 128,
        "a/" * 512 + "b",
        "half.nbflow-tmp",
        None,
        3,
        b"x.csv",
    )

    @pytest.fixture
    def driver(self) -> Driver:
        """Return a driver to an empty place."""
        raise NotImplementedError("Override the fixture `driver`.")

    @pytest.mark.parametrize("data", [b"", b"x", b"\x00\r\n\xff", bytes(range(256)) * 4096])
    def test_loads_what_was_saved(self, driver: Driver, data: bytes) -> None:
        """Any bytes come back as they were, as `bytes`."""
        driver.save("a.bin", data)
        loaded = driver.load("a.bin")
        assert type(loaded) is bytes
        assert loaded == data

    @pytest.mark.parametrize("wrap", [bytearray, memoryview])
    def test_accepts_buffers(self, driver: Driver, wrap: Any) -> None:
        """Anything with the buffer protocol can be saved."""
        driver.save("a.bin", wrap(b"abc"))
        assert driver.load("a.bin") == b"abc"

    def test_save_returns_place(self, driver: Driver) -> None:
        """The place that is returned names the key."""
        place = driver.save("a/b.bin", b"x")
        assert isinstance(place, str)
        assert place.replace("\\", "/").endswith("a/b.bin")

    def test_replaces(self, driver: Driver) -> None:
        """A second save replaces the first, also by less."""
        driver.save("a.bin", b"long value")
        driver.save("a.bin", b"short")
        assert driver.load("a.bin") == b"short"
        assert driver.list_keys() == ["a.bin"]

    def test_absent_key(self, driver: Driver) -> None:
        """Loading what is not there is a `KeyError` that names the key; deleting it is no error."""
        with pytest.raises(DatasetNotFoundError, match=r"no\.bin") as caught:
            driver.load("no.bin")
        assert isinstance(caught.value, KeyError)
        assert driver.exists("no.bin") is False
        assert driver.delete("no.bin") is False

    def test_delete(self, driver: Driver) -> None:
        """What is deleted is gone, and nothing else."""
        driver.save("a.bin", b"1")
        driver.save("a.bin2", b"2")
        assert driver.exists("a.bin") is True
        assert driver.delete("a.bin") is True
        assert driver.exists("a.bin") is False
        assert driver.list_keys() == ["a.bin2"]
        driver.save("a.bin", b"3")
        assert driver.load("a.bin") == b"3"

    def test_lists_in_order(self, driver: Driver) -> None:
        """An empty place has no keys; afterwards all are listed in order, folders are not."""
        assert driver.list_keys() == []
        keys = ["b.bin", "a/c.bin", "a/b/d.bin", ".hidden/e", "Z"]
        for key in keys:
            driver.save(key, b"x")
        assert driver.list_keys() == sorted(keys)
        assert driver.exists("a") is False
        with pytest.raises(DatasetNotFoundError):
            driver.load("a")

    @pytest.mark.parametrize(
        "key",
        [
            "fit[3].csv",
            "a b.csv",
            "größe/日本.csv",
            "no_extension",
            "1e-05.csv",
            "a'b$c%20#&.csv",
            "n" * 255,
            "..a",
            "…",
        ],
    )
    def test_takes_keys_literally(self, driver: Driver, key: str) -> None:
        """Spaces, brackets, signs and letters of any language are just characters."""
        driver.save("fit3.csv", b"other")
        driver.save(key, b"x")
        assert driver.load(key) == b"x"
        assert driver.list_keys() == sorted(["fit3.csv", key])
        driver.delete(key)
        assert driver.list_keys() == ["fit3.csv"]

    def test_one_spelling(self, driver: Driver) -> None:
        """Redundant parts of a key do not make another key."""
        driver.save("./a//b.bin", b"x")
        assert driver.list_keys() == ["a/b.bin"]
        assert driver.load("a/./b.bin") == b"x"

    @pytest.mark.parametrize("key", hostile_keys, ids=lambda key: repr(key)[:20])
    def test_refuses_hostile_keys(self, driver: Driver, key: Any) -> None:
        """A key that could leave the place, or is no portable name, is refused by every operation."""
        for operation in (partial(driver.save, data=b"x"), driver.load, driver.exists, driver.delete):
            with pytest.raises(DatasetError, match="refused"):
                operation(key)
        assert driver.list_keys() == []

    def test_failing_save_keeps_old_value(self, driver: Driver) -> None:
        """Data that cannot be written raises, leaves the old value and no rubbish."""
        driver.save("a.bin", b"old")
        unwritable: Any = object()
        for key in ("a.bin", "b.bin"):
            with pytest.raises((DatasetError, TypeError)):
                driver.save(key, unwritable)
        assert driver.load("a.bin") == b"old"
        assert driver.list_keys() == ["a.bin"]

    def test_readers_see_whole_values(self, driver: Driver) -> None:
        """Who loads while others save gets one of the values, never a mixture or nothing."""
        values = [bytes([letter]) * 200_000 for letter in b"abcd"]
        driver.save("a.bin", values[0])
        with ThreadPoolExecutor(8) as pool:
            writes = [pool.submit(driver.save, "a.bin", values[n % 4]) for n in range(40)]
            reads = [pool.submit(driver.load, "a.bin") for _ in range(40)]
            assert all(read.result() in values for read in reads)
            for write in writes:
                write.result()
        assert driver.list_keys() == ["a.bin"]

    def test_threads_save_side_by_side(self, driver: Driver) -> None:
        """Saves from many threads into new folders are all there afterwards."""
        keys = [f"folder{n % 3}/deep/{n}.bin" for n in range(30)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: driver.save(key, key.encode()), keys))
        assert driver.list_keys() == sorted(keys)
        assert all(driver.load(key) == key.encode() for key in keys)

    def test_pickles(self, driver: Driver) -> None:
        """A copy that went through pickle leads to the same place."""
        driver.save("a.bin", b"x")
        copy = pickle.loads(pickle.dumps(driver))
        assert copy.load("a.bin") == b"x"
        assert (copy.base_path, copy.is_local, copy.in_process) == (
            driver.base_path,
            driver.is_local,
            driver.in_process,
        )

    def test_describes_itself(self, driver: Driver) -> None:
        """Address and abilities are of the promised types."""
        assert isinstance(driver.base_path, str)
        assert isinstance(driver.is_local, bool)
        assert isinstance(driver.in_process, bool)
        assert driver.is_local or not driver.in_process

    @pytest.mark.parametrize(
        ("key", "hint"),
        [("a.csv", "csv"), ("a/b.CSV", "csv"), ("a.tar.gz", "gz"), ("a", None), ("a.b/c", None), (".hidden", None)],
    )
    def test_format_hint(self, driver: Driver, key: str, hint: str | None) -> None:
        """The hint of a key is the extension of its last part, in lower case."""
        assert driver.get_format_hint(key) == hint

    def test_allowing_outside(self, driver: Driver) -> None:
        """The less strict driver leads to the same place and does not change this one."""
        driver.save("a.bin", b"x")
        outside = driver.allowing_outside()
        assert outside.load("a.bin") == b"x"
        assert driver.allow_outside is False
