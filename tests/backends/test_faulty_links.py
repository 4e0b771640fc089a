"""Every promise of a remote backend again behind a bad link, and maps that get through one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nbflow import map_tasks, session, submit, task
from nbflow.backends import Backend, ProcessBackend
from nbflow.errors import WorkerLostError
from nbflow.events import WorkerLost
from nbflow.sessions import SessionContext
from nbflow.settings import load_settings
from nbflow.testing import EventRecorder
from nbflow.testing.backends import RemoteBackendContract
from nbflow.testing.links import FaultyRemoteBackend


class Slow(FaultyRemoteBackend):
    inner = ProcessBackend
    delay_s = 0.003
    late_s = 0.1


class Mortal(FaultyRemoteBackend):
    inner = ProcessBackend
    kill = (3, 9)


class Forgetful(FaultyRemoteBackend):
    inner = ProcessBackend
    lose = (2, 5, 6)


class Doomed(FaultyRemoteBackend):
    inner = ProcessBackend
    lose = range(1, 100)


class _WithTwoWorkers(RemoteBackendContract):
    @pytest.fixture
    def around(self) -> Iterator[SessionContext]:
        with session(settings=load_settings(max_parallel_processes=2)) as context:
            yield context


class TestSlowLink(_WithTwoWorkers):
    """Messages and outcomes come late, and so do the workers."""

    @pytest.fixture
    def backend_class(self) -> type[Backend]:
        return Slow


class TestMortalWorkers(_WithTwoWorkers):
    """Beside some calls another one kills its worker."""

    @pytest.fixture
    def backend_class(self) -> type[Backend]:
        return Mortal


@task
def noted(folder: str, n: int) -> int:
    """Leave a trace of each run."""
    with open(Path(folder) / f"{n}", "a") as file:
        file.write("x")
    return 2 * n


@pytest.mark.parametrize("kind", [Slow, Mortal, Forgetful])
@pytest.mark.parametrize("options", [{}, {"retries": 1}], ids=["plain", "retried"])
def test_maps_get_through(
    kind: type[Backend], options: dict[str, int], tmp_path: Path, recorder: EventRecorder
) -> None:
    """All results are right; only items whose worker was lost with their answer ran twice, and each loss is told."""
    count = 60 if not options else 12
    item = task(noted.func, **options)
    with session(observers=[recorder], settings=load_settings(max_parallel_processes=2)) as context:
        context.backends.register("faulty", kind)
        found = map_tasks(item, [str(tmp_path)] * count, range(count), backend="faulty")
    assert found == [2 * n for n in range(count)]
    runs = [len((tmp_path / f"{n}").read_text()) for n in range(count)]
    recorder.check()
    if kind is Forgetful:
        assert max(runs) > 1
        assert len(recorder.of(WorkerLost)) == 3
    else:
        assert set(runs) == {1}


def _absolute(n: int) -> int:
    return abs(n)


def test_a_call_that_never_gets_through_fails() -> None:
    """The error names the task and says what became of the worker."""
    with session(settings=load_settings(max_parallel_processes=1, max_worker_losses=1)) as context:
        context.backends.register("faulty", Doomed)
        handle = submit(task(name="absolute", backend="faulty")(_absolute), -3)
        with pytest.raises(WorkerLostError, match="'absolute'"):
            handle.get()
