"""Files of large buffers, and frames on a stream."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nbflow.backends.process import buffers, wire
from nbflow.backends.process.buffers import BufferStore, map_file

_SIZE = 1 << 20


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BufferStore]:
    """A store whose folder lies in the test's own, and which keeps three idle buffers."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(buffers, "_KEEP_BYTES", 3 * _SIZE)
    store = BufferStore()
    yield store
    store.close()


def filled(byte: int) -> memoryview:
    return memoryview(bytes([byte]) * _SIZE)


def test_same_content_is_one_file(store: BufferStore) -> None:
    """What comes twice is written once, and what differs is not mixed up."""
    first, again, other = store.put(filled(1)), store.put(filled(1)), store.put(filled(2))
    assert first == again != other
    assert len(os.listdir(store.folder())) == 2
    assert map_file(first) == filled(1)
    assert map_file(other) == filled(2)


def test_threads_that_come_first_share_a_folder(store: BufferStore, tmp_path: Path) -> None:
    """However many need it at once, one folder is made, so that one is removed at the end."""
    at_once = threading.Barrier(8)

    def ask(_: int) -> str:
        at_once.wait()
        return store.folder()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1
    store.close()
    assert os.listdir(tmp_path) == []


def test_mappings_are_private(store: BufferStore) -> None:
    """A change in one mapping is seen in no other, and a mapping outlives its file."""
    ref = store.put(filled(1))
    mine, theirs = map_file(ref), map_file(ref)
    mine[0] = 9
    store.close()
    assert (mine[0], theirs[0]) == (9, 1)


def test_idle_files_go_when_there_are_too_many(store: BufferStore) -> None:
    """What is held stays; of what is idle, the youngest stay."""
    held = store.put(filled(0))
    idle = [store.put(filled(number)) for number in range(1, 7)]
    store.release(idle)
    kept = set(os.listdir(store.folder()))
    assert kept == {os.path.basename(ref.path) for ref in [held, *idle[3:]]}
    store.put(filled(7))
    assert not os.path.exists(idle[3].path), "room is made before the next one is written"


def test_the_last_idle_file_is_kept_whatever_its_size(store: BufferStore) -> None:
    """One that is larger than all that is kept need not be written again if it comes again at once."""
    large = memoryview(bytes(5 * _SIZE))
    store.release([store.put(large)])
    assert len(os.listdir(store.folder())) == 1


def test_folders_of_the_living_are_not_swept(store: BufferStore, tmp_path: Path) -> None:
    """Only folders that nobody holds, and that are not brand-new, are removed."""
    living = store.put(filled(1))
    prefix = os.path.basename(store.folder()).rpartition("-")[0].rpartition("-")[0]
    dead, new, foreign = tmp_path / f"{prefix}-1-dead", tmp_path / f"{prefix}-2-new", tmp_path / "others"
    for folder in (dead, new, foreign):
        folder.mkdir()
    for path in (dead, foreign, Path(store.folder())):
        os.utime(path, (1, 1))
    other = BufferStore()
    other.folder()
    other.close()
    assert [folder.exists() for folder in (dead, new, foreign)] == [False, True, True]
    assert os.path.exists(living.path)


_LIMITED = """
import mmap, os, resource, sys
import numpy
from nbflow.backends.parcels import Parcel
from nbflow.backends.process import ProcessBackend, buffers
from nbflow.cache.files import Files

SIZE, MANY = 1 << 20, 200
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

def limit(number):
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))

def put(name, number):
    return buffers.write_file(os.path.join(sys.argv[1], name), memoryview(bytes([number]) * SIZE))

def check(views, writable):
    for number, view in enumerate(views):
        array = numpy.frombuffer(view, "u1")
        assert (array == number).all(), f"{number}: other content"
        assert array.flags.writeable == writable, f"{number}: it is {'' if writable else 'not '}read-only"

def results():
    backend = ProcessBackend()
    backend.start()
    jobs = [backend.dispatch(numpy.full, (SIZE, number, "u1")) for number in range(MANY)]
    check([job.result(60) for job in jobs], True)
    backend.stop()

def parcels():
    check([Parcel.pack(numpy.full(SIZE, number, "u1")).load() for number in range(MANY)], True)

def blobs(shared):
    files = Files(sys.argv[1])
    for number in range(MANY):
        files.write(f"{number:032}", (bytes([number]) * SIZE,), SIZE)
    check([files.map(f"{number:032}", shared=shared)[0] for number in range(MANY)], not shared)

def parts():
    path = put("parts", 0).path
    with open(path, "r+b") as file:
        for number in range(MANY):
            file.seek(number * mmap.ALLOCATIONGRANULARITY + 10)
            file.write(bytes([number]) * 10)
    refs = [buffers.Ref(path, 10, number * mmap.ALLOCATIONGRANULARITY + 10) for number in range(MANY)]
    check([buffers.map_file(ref) for ref in refs], True)

def last():
    files = Files(sys.argv[1])
    files.write("0" * 32, (bytes(SIZE),), SIZE)
    ref, taken = put("last", 0), []
    files.map("0" * 32, shared=True)  # all is imported that this needs
    buffers.map_file(ref)
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        os.close(taken.pop())
    for view in (buffers.map_file(ref), files.map("0" * 32, shared=False)[0]):
        view[0] = 9  # which nobody else sees
    check([buffers.map_file(ref)], True)
    check([files.map("0" * 32, shared=False)[0]], True)
    check([files.map("0" * 32, shared=True)[0]], False)

limit(128)
{what}
print("all are right")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
@pytest.mark.parametrize("what", ["results()", "parcels()", "blobs(True)", "blobs(False)", "parts()", "last()"])
def test_what_is_mapped_is_not_limited_by_descriptors(what: str, tmp_path: Path) -> None:
    """However many large values live, whatever they came with, and though hardly a descriptor is left."""
    script = _LIMITED.replace("{what}", what)
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert found.stdout == "all are right\n", found.stderr


def test_frames_survive_any_cut() -> None:
    """However a stream is cut, the same frames come out."""
    chance = random.Random(5)
    wanted = [(wire.MESSAGE, number, chance.randbytes(chance.choice([0, 1, 17, 300]))) for number in range(200)]
    stream = b"".join(wire.frame(*each) for each in wanted)
    for longest in (1, 5, 100, 10**6):
        frames, found, start = wire.Frames(), [], 0
        while start < len(stream):
            stop = start + chance.randint(1, longest)
            found += frames.feed(stream[start:stop])
            start = stop
        assert found == wanted
