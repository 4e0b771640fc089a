"""The event log: lines, rotation, crashes, and how sessions open it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from nbflow import map_tasks, session, task
from nbflow.errors import DefinitionError, SettingsError
from nbflow.events import TaskCompleted, TaskQueued
from nbflow.settings import load_settings
from nbflow.telemetry import EventLog, read_log


def queued(number: int) -> TaskQueued:
    return TaskQueued(call_id=number, name=f"task ü {number}", time=float(number), backend="thread")


def numbers(path: Path) -> list[int]:
    return [line["call_id"] for line in read_log(path) if line["event"] == "TaskQueued"]


def test_lines(tmp_path: Path) -> None:
    """Each event is a line of JSON with its fields; the file begins with what it is; its folder is made."""
    path = tmp_path / "new" / "events.jsonl"
    log = EventLog(path)
    assert not path.parent.exists()
    log(queued(1))
    log(TaskCompleted(call_id=1, name="x", time=2.0, duration_s=0.5, cached=True, saved_s=3.0))
    log.close()
    log.close()
    first, second, third = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert (first["event"], first["format"]) == ("LogStarted", 1)
    assert (second["event"], second["name"], second["backend"], second["time"]) == (
        "TaskQueued",
        "task ü 1",
        "thread",
        1.0,
    )
    assert (third["event"], third["cached"], third["saved_s"], third["map_id"]) == ("TaskCompleted", True, 3.0, None)
    log(queued(3))
    assert numbers(path) == [1]


def test_many_threads(tmp_path: Path) -> None:
    """Events of many threads are all there, each on a line of its own."""
    log = EventLog(tmp_path / "log")
    threads = [
        threading.Thread(target=lambda n=n: [log(queued(n + k)) for k in range(200)]) for n in range(0, 2000, 200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert sorted(numbers(tmp_path / "log")) == list(range(2000))


def test_rotation(tmp_path: Path) -> None:
    """A long file is put aside, older ones further back, and the oldest go; reading finds what there is, in order."""
    path = tmp_path / "log"
    for number in range(10):
        log = EventLog(path, max_bytes=100, keep=3)
        log(queued(number))
        log.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.1", "log.2", "log.3"]
    assert numbers(path) == [7, 8, 9]
    log = EventLog(path, max_bytes=100, keep=0)
    log(queued(10))
    log.close()
    assert not path.exists()


def test_a_torn_line(tmp_path: Path) -> None:
    """A line that a crash has torn is skipped, and the next one is not joined to it."""
    path = tmp_path / "log"
    log = EventLog(path)
    log(queued(1))
    log.close()
    with path.open("ab") as file:
        file.write(b'{"event": "TaskQueued", "call_')
    log = EventLog(path)
    log(queued(2))
    log.close()
    assert numbers(path) == [1, 2]


def test_another_process_puts_the_file_aside(tmp_path: Path) -> None:
    """A log whose file was moved goes on in a new one."""
    path = tmp_path / "log"
    log = EventLog(path)
    log(queued(1))
    pause = threading.Event()
    while not path.exists() or not numbers(path):
        pause.wait(0.001)
    path.rename(tmp_path / "log.1")
    log(queued(2))
    log.close()
    assert numbers(path) == [1, 2]
    assert path.exists()


def test_a_file_that_cannot_be_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It is said once, and the run goes on."""
    (tmp_path / "file").write_text("")
    with session(telemetry=tmp_path / "file" / "log"):
        assert task(lambda: 3)() == 3
        assert task(lambda: 4)() == 4
    assert capfd.readouterr().err.count("cannot be written any more") == 1


def test_no_log() -> None:
    """Reading one that is not there is an error."""
    with pytest.raises(FileNotFoundError):
        list(read_log("nowhere.jsonl"))


@pytest.mark.parametrize("wrong", [{"max_bytes": 0}, {"keep": -1}, {"keep": True}, {"max_bytes": "1"}])
def test_wrong_numbers(wrong: dict[str, Any]) -> None:
    """Sizes are whole numbers."""
    with pytest.raises(DefinitionError, match=next(iter(wrong))):
        EventLog("x", **wrong)


def test_sessions(tmp_path: Path) -> None:
    """A session writes from its first event to its last; one inside it writes to the same log, once."""
    path = tmp_path / "log"
    with session(telemetry=path):
        with session():
            map_tasks(lambda x: x, [1, 2])
    found = [line["event"] for line in read_log(path)]
    assert found[:3] == ["LogStarted", "SessionStarted", "SessionStarted"]
    assert found[-2:] == ["SessionEnded", "SessionEnded"]
    assert found.count("TaskStarted") == found.count("TaskCompleted") == 2


def test_only_maps(tmp_path: Path) -> None:
    """Without items a log has the map, its totals, and the items that failed."""
    log = EventLog(tmp_path / "log", items=False)
    with session(telemetry=[log]):
        map_tasks(lambda x: 1 // x, [1, 0, 2], on_error="collect")
    log.close()
    found = [line["event"] for line in read_log(tmp_path / "log")]
    assert found == ["LogStarted", "SessionStarted", "MapStarted", "TaskFailed", "MapEnded", "SessionEnded"]


def test_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting names the log of every outermost session; an argument wins."""
    monkeypatch.setenv("NBFLOW_EVENT_LOG", str(tmp_path / "log"))
    with session(settings=load_settings()):
        with session():
            task(lambda: 3)()
    with session(settings=load_settings(), telemetry=tmp_path / "other"):
        task(lambda: 3)()
    assert [line["event"] for line in read_log(tmp_path / "log")].count("TaskCompleted") == 1
    assert [line["event"] for line in read_log(tmp_path / "other")].count("TaskCompleted") == 1
    with pytest.raises(SettingsError, match="event_log"):
        load_settings(event_log=3)


def test_what_is_no_telemetry() -> None:
    """It is refused when the session opens."""
    for wrong in (3, "", [object()]):
        with pytest.raises(DefinitionError, match="neither a path"):
            with session(telemetry=wrong):
                pass


def test_programs_without_sessions(tmp_path: Path) -> None:
    """What the default session writes is there when the program has ended, also if that was an error."""
    code = "from nbflow import task, submit\nsubmit(lambda: 3).get()\nraise SystemExit(3)"
    env = {"NBFLOW_EVENT_LOG": str(tmp_path / "log"), "NBFLOW_HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, env=env, check=False, timeout=60)
    assert done.returncode == 3
    assert [line["event"] for line in read_log(tmp_path / "log")][-1] == "TaskCompleted"
