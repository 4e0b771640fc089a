"""Arrays that lie in files already."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

from nbflow.backends.process import ProcessBackend
from nbflow.sessions import session
from nbflow.settings import load_settings


def _total(array: Any) -> tuple[float, str, bool]:
    found = float(array.sum())
    if array.flags.writeable:
        array[:] = 0
    return found, type(array).__name__, array.flags.writeable


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nobody says what a map belongs to")
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_arrays_in_files_travel_by_the_files_name(mode: Any, tmp_path: Path) -> None:
    """They are not written again, parts of them neither, and what a call does to them nobody sees."""
    numpy.save(tmp_path / "array.npy", numpy.random.default_rng(1).random(400_000))
    array = numpy.load(tmp_path / "array.npy", mmap_mode=mode)
    wanted, part = float(array.sum()), float(array[1000:].sum())
    with session(settings=load_settings(max_parallel_processes=1)) as context:
        backend = ProcessBackend()
        backend.start(context)
        try:
            shared = backend.share(array)
            assert backend.dispatch(_total, (array,)).result(60) == (wanted, "memmap", mode == "r+")
            assert backend.dispatch(_total, (shared,)).result(60)[0] == wanted
            assert backend.dispatch(_total, (numpy.asarray(array)[1000:],)).result(60) == (
                part,
                "ndarray",
                mode == "r+",
            )
            shared.release()
            assert backend._pool is not None
            assert backend._pool.store._sizes == {}
        finally:
            backend.stop()
    assert float(array.sum()) == wanted


def test_maps_that_may_differ_from_their_file_are_written(tmp_path: Path) -> None:
    """A private map that was changed, and one whose file was replaced, arrive as they are here."""
    numpy.save(tmp_path / "array.npy", numpy.ones(400_000))
    changed = numpy.load(tmp_path / "array.npy", mmap_mode="c")
    changed[0] = 5
    replaced = numpy.load(tmp_path / "array.npy", mmap_mode="r")
    numpy.save(tmp_path / "other.npy", numpy.zeros(400_000))
    (tmp_path / "other.npy").replace(tmp_path / "array.npy")
    with session(settings=load_settings(max_parallel_processes=1)) as context:
        backend = ProcessBackend()
        backend.start(context)
        try:
            assert backend.dispatch(_total, (changed,)).result(60)[0] == 400_004
            assert backend.dispatch(_total, (replaced,)).result(60)[0] == 400_000
        finally:
            backend.stop()
