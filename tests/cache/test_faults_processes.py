"""Processes that are killed, starved of disk space, or fight for the same keys: no wrong value and no exception."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbflow.cache import CacheKey, CacheStore

ROOT = str(Path(__file__).parents[2])
LONG = bool(os.environ.get("NBFLOW_LONG"))
KEYS = 12

WRITER = """
import os, sys, time
sys.path.insert(0, {root!r})
import numpy as np
from nbflow.cache import CacheStore
warm = CacheStore({folder!r} + ".warm")  # what is imported late is imported now
for size in (1, 60_000): warm.save("k", np.full(size, 1), cost_s=1.0)
warm.invalidate("k")
warm.close()
print("ready", flush=True)
for line in sys.stdin:  # a writer for each line, killed by the parent; forking one is cheap, starting it is not
    child = os.fork()
    if not child:
        store = CacheStore({folder!r}, max_bytes=3_000_000)
        os.write(1, b"%d\\n" % os.getpid())
        step = int(line)
        while True:
            for n in range({keys}):
                size = (1 + step % 3) * (60_000 if n % 3 == 1 else 20)
                store.save(f"k{{n}}", np.full(size, n), cost_s=1.0 if step % 2 else 0.0)
                if n % 4 == 3: store.invalidate(f"k{{n}}")
            step += 1
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_writers_leave_only_whole_values(folder: Path) -> None:
    """Two hundred writers are killed at random moments: every value that is found is whole and under its key."""
    rng, moment = random.Random(3), threading.Event()
    text = WRITER.format(root=ROOT, folder=str(folder), keys=KEYS)
    forker = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert forker.stdin is not None
    assert forker.stdout is not None
    assert forker.stdout.readline() == b"ready\n"
    found = 0
    try:
        for number in range(2000 if LONG else 200):
            forker.stdin.write(b"%d\n" % number)
            forker.stdin.flush()
            writer = int(forker.stdout.readline())
            moment.wait(rng.random() ** 2 * 0.08)
            os.kill(writer, signal.SIGKILL)
            assert forker.stdout.readline() == b"dead\n"
            found += whole_values(folder)
    finally:
        forker.stdin.close()
        forker.wait()
        forker.stdout.close()
    assert found > 200
    old = time.time() - 7200
    for path in folder.glob("blobs/*/*"):
        os.utime(path, (old, old))
    store = CacheStore(folder, max_bytes=3_000_000)
    store.prune(0)
    assert list(folder.glob("blobs/*/*")) == []
    assert store.stats()["entries"] == store.stats()["bytes"] == 0
    store.close()


def whole_values(folder: Path) -> int:
    """Read all keys in a store of its own and return how many there are; write one, too."""
    store = CacheStore(folder, max_bytes=3_000_000)
    found = 0
    for number in range(KEYS):
        hit = store.fetch(f"k{number}")
        if hit is not None:
            found += 1
            assert len(hit.value) in (20, 40, 60, 60_000, 120_000, 180_000)
            assert (hit.value == number).all()
    if folder.exists():
        assert store.stats()["quarantined"] == 0
        entries = list(store.entries())
        assert len(entries) == store.stats()["entries"]
        assert sum(entry.size_bytes for entry in entries) == store.stats()["bytes"]
    store.save("after", 1, cost_s=1.0)
    store.close()
    return found


HAMMER = """
import os, sys, time
sys.path.insert(0, {root!r})
import nbflow

@nbflow.task(cache=True)
def work(n, version):
    with open({log!r}, "ab", buffering=0) as log: log.write(b"%d.%d " % (n, version))
    if n % 5 == 0: time.sleep(0.002)
    return {{"n": n, "version": version, "data": bytes([n]) * (40_000 if n % 7 == 0 else 10)}}

with nbflow.session(cache_store={place!r}) as context:
    until, calls, version, wrong = float(sys.argv[2]), 0, 0, []
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    while calls < 300 or time.monotonic() - began < until:  # a busy machine may take longer
        version = min(int((time.monotonic() - began) / until * {versions}), {versions} - 1)
        n = (calls * 7 + int(sys.argv[1]) * 3) % 50
        value = work(n, version)
        if value["n"] != n or value["version"] != version or set(value["data"]) != {{n}}: wrong.append((n, value))
        calls += 1
        if calls % 500 == 0: context.cache_store._memory.clear()
    notes = {{note for call in context.records for note in call.notes if not note.startswith("waited")}}
    print(calls, len(wrong), sorted(notes), context.cache_store.stats()["quarantined"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs locks that belong to an open file")
def test_processes_hammer_the_same_keys(tmp_path: Path) -> None:
    """Eight processes ask for the same fifty keys, in several versions: nothing wrong, each computed once."""
    seconds, versions = (60.0, 20) if LONG else (2.0, 2)
    place, log = tmp_path / "cache", tmp_path / "log"
    (tmp_path / "hammer.py").write_text(HAMMER.format(root=ROOT, place=str(place), log=str(log), versions=versions))
    children = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "hammer.py"), str(number), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    said = []
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        said.append(child.communicate(timeout=seconds * 4 + 240)[0].strip())
        assert child.returncode == 0
    ran = log.read_text().split()
    assert sorted(set(ran)) == sorted(ran), f"computed more than once: {said}"
    assert len(ran) >= 50
    for line in said:
        calls, _, rest = line.partition(" ")
        assert int(calls) > 50
        assert rest == "0 [] 0"


def test_no_space_left(folder: Path, tmp_path: Path) -> None:
    """A disk that is full: the result is returned, the fault is told, nothing half-written is found; then it works."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    reading, writing = os.pipe()
    warm = CacheStore(folder)
    warm.save("before", [1], cost_s=1.0)
    warm.close()
    child = os.fork()
    if not child:
        try:
            os.write(writing, repr(starved(folder)).encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    said = os.read(reading, 10_000).decode()
    os.close(reading)
    os.close(writing)
    assert said == "['OSError', True, True, True, [1]]"
    store = CacheStore(folder)
    assert store.get("before") == [1]
    assert store.fetch("large") is None
    assert not list(folder.glob("blobs/*/.*"))
    store.save("large", np.zeros(100_000), cost_s=1.0)
    store._memory.clear()
    assert store.get("large").shape == (100_000,)
    store.close()


def starved(folder: Path) -> list[Any]:
    """Use a store while no file may grow beyond what the index is now."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = CacheStore(folder)
    limit = 48 * 1024  # room for the shared memory of the index, and for little else
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    said: list[Any] = []
    try:
        store.save("large", np.zeros(100_000), cost_s=1.0)
    except OSError as error:
        said.append(type(error).__name__)
    for number in range(200):  # cheap ones: told of afterwards, not raised
        try:
            store.save(f"small{number}", [number] * 50)
        except Exception as error:  # once it is known that the disk is full
            said_why = str(error)
            if not any(word in said_why for word in ("disk", "full", "I/O")):
                raise
    store.flush()
    said.append(store.trouble() is not None)
    said.append(store.trouble() is None)
    said.append("could not be written" in str(store.explain(CacheKey("small199", ""))))
    said.append(store.get("before"))
    return said
