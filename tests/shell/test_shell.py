"""Commands: running them, tasks of them, their files in the cache, and how they end."""

from __future__ import annotations

import asyncio
import os
import pickle
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from nbflow import File, gather_tasks, map_tasks, session, shell, submit
from nbflow.errors import CommandError, DefinitionError, ParameterError, TaskCancelledError, TaskTimeoutError
from nbflow.events import LogLine, TaskTimedOut
from nbflow.testing import EventRecorder
from tests.processes import is_running

_LIMIT_S = 60.0
_PYTHON = sys.executable
posix = pytest.mark.skipif(os.name != "posix", reason="process groups and signals are POSIX")

NASTY = ["a b", "it's", '"quoted"', "$HOME", "; rm -rf x", "*", "", "ü", "--flag=1 2", "a\nb", "{braces}"]


def python(code: str, *args: str) -> list[str]:
    """Return a command that runs a piece of Python."""
    return [_PYTHON, "-c", code, *args]


SHOW = "import sys; print(ascii(sys.argv[1:]))"
# Starts a child in its group, tells both numbers, and sleeps: what must not survive.
FAMILY = (
    "import os, subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(os.getpid(), child.pid, flush=True)\n"
    "time.sleep(600)\n"
)


class Family:
    """Listens for the numbers that `FAMILY` prints, and says whether its processes live."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.numbers: list[int] = []

    def __call__(self, event: Any) -> None:
        if isinstance(event, LogLine) and not self.begun.is_set():
            self.numbers = [int(word) for word in event.text.split()]
            self.begun.set()

    def gone(self) -> bool:
        """Whether all have ended; gives the init process its turn to reap them."""
        pause = threading.Event()
        for _ in range(500):
            if not any(is_running(number) for number in self.numbers):
                return bool(self.numbers)
            pause.wait(0.01)
        return False


# -- run --------------------------------------------------------------------------------------------------------------


def test_run() -> None:
    """A command gives its exit code and what it wrote."""
    result = shell.run(python("import sys; print('out'); print('err', file=sys.stderr)"))
    assert (result.returncode, result.stdout, result.stderr) == (0, "out\n", "err\n")
    assert result.args[0] == _PYTHON
    assert result.duration_s > 0
    assert pickle.loads(pickle.dumps(result)) == result


def test_arguments_arrive_as_they_are() -> None:
    """No value is split, expanded or quoted."""
    assert shell.run(python(SHOW, *NASTY)).stdout == ascii(NASTY) + "\n"


def test_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Working directory, environment and input reach the command; a variable can be removed."""
    monkeypatch.setenv("GONE", "1")
    code = "import os, sys; print(os.getcwd(), os.environ.get('NEW'), os.environ.get('GONE'), sys.stdin.read())"
    result = shell.run(python(code), cwd=tmp_path, env={"NEW": "x", "GONE": None}, input="in ü")
    assert result.stdout == f"{tmp_path.resolve()} x None in ü\n"
    assert shell.run(python("import sys; print(repr(sys.stdin.read()))")).stdout == "''\n"


def test_input_that_nobody_reads() -> None:
    """A command that ends without reading its input has not failed."""
    assert shell.run(python("pass"), input="x" * 1_000_000).returncode == 0


def test_much_output() -> None:
    """Output larger than any pipe arrives whole, on both streams at the same time."""
    result = shell.run(python("import sys; print('o' * 3_000_000); print('e' * 3_000_000, file=sys.stderr)"))
    assert result.stdout is not None
    assert result.stderr is not None
    assert (len(result.stdout), len(result.stderr)) == (3_000_001, 3_000_001)


def test_output_that_is_no_text() -> None:
    """Bytes that are no UTF-8 are replaced; characters that arrive in pieces are not torn."""
    code = "import sys, time\nfor b in b'\\xc3', b'\\xbc', b'\\xff': sys.stdout.buffer.write(b); sys.stdout.flush()"
    assert shell.run(python(code)).stdout == "ü\ufffd"


def test_files(tmp_path: Path) -> None:
    """Output can go to files instead."""
    code = "import sys; print('out'); print('err', file=sys.stderr)"
    result = shell.run(python(code), stdout=tmp_path / "o", stderr=tmp_path / "e")
    assert (result.stdout, result.stderr) == (None, None)
    assert ((tmp_path / "o").read_text(), (tmp_path / "e").read_text()) == ("out\n", "err\n")


def test_failure() -> None:
    """An exit code other than 0 is an error with command, code and the end of stderr; `check=False` takes it."""
    command = python("import sys; [print(n, file=sys.stderr) for n in range(50)]; sys.exit(3)", "a b")
    with pytest.raises(CommandError, match="failed with exit code 3:\n30\n") as caught:
        shell.run(command)
    assert str(caught.value).endswith("\n49")
    assert "'a b'" in str(caught.value)
    assert (caught.value.returncode, caught.value.command[-1], caught.value.stdout) == (3, "a b", "")
    assert isinstance(caught.value, RuntimeError)
    assert pickle.loads(pickle.dumps(caught.value)).returncode == 3
    assert shell.run(command, check=False).returncode == 3


@posix
def test_ended_by_a_signal() -> None:
    """A program that was killed by somebody is said to be."""
    with pytest.raises(CommandError, match="was ended by signal 9"):
        shell.run(python("import os; os.kill(os.getpid(), 9)"))


def test_what_cannot_be_started(tmp_path: Path) -> None:
    """An unknown program, folder or file is said to be one."""
    with pytest.raises(CommandError, match=r"no-such-program could not be started: No such file") as caught:
        shell.run(["no-such-program"])
    assert caught.value.returncode is None
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(CommandError, match="could not be started in"):
        shell.run(python("pass"), cwd=tmp_path / "nowhere")
    with pytest.raises(CommandError, match="could not be started"):
        shell.run(python("pass"), stdout=tmp_path / "nowhere" / "o")
    with pytest.raises(CommandError, match="could not be started: embedded null byte"):
        shell.run(["echo", "a\0b"])


@pytest.mark.parametrize("args", ["ls -l", b"ls", [], ["ls", 3]])
def test_what_is_no_command(args: Any) -> None:
    """A single text is refused with the list that it stands for; so is what is no text."""
    with pytest.raises(DefinitionError, match=r"give a list"):
        shell.run(args)


@pytest.mark.parametrize("timeout", [0, -1, True, "1"])
def test_wrong_timeout(timeout: Any) -> None:
    """A timeout is a number of seconds."""
    with pytest.raises(DefinitionError, match="timeout="):
        shell.run(python("pass"), timeout=timeout)


@posix
def test_timeout_kills_the_family() -> None:
    """At the deadline the command and what it started are gone."""
    family = Family()

    def late() -> None:
        shell.run(python(FAMILY), timeout=2)  # time enough for the family to be there

    with session(observers=[family]), pytest.raises(TaskTimeoutError, match="passed its timeout of 2 s and was killed"):
        submit(late).get(_LIMIT_S)
    assert family.gone()


@posix
def test_nothing_outlives_its_command() -> None:
    """What a command leaves in the background ends with it."""
    family = Family()
    code = FAMILY.replace("time.sleep(600)\n", "")
    with session(observers=[family]):
        shell.command(python(code))()
    assert family.gone()


@posix
def test_nothing_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    """When the process that runs commands is killed outright, they and what they started end."""
    family = Family()
    code = f"import sys; from nbflow import shell; shell.run([sys.executable, '-c', {FAMILY!r}], stdout='numbers')"
    with subprocess.Popen(python(code), cwd=tmp_path) as process:
        pause = threading.Event()
        while not (tmp_path / "numbers").exists() or not (tmp_path / "numbers").read_text().endswith("\n"):
            pause.wait(0.01)
        process.kill()
    family.numbers = [int(word) for word in (tmp_path / "numbers").read_text().split()]
    assert family.gone()


@posix
def test_stubborn_programs_are_killed() -> None:
    """A program that ignores the polite signal is ended by force."""
    family = Family()
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FAMILY
    with session(observers=[family]):
        handle = submit(shell.command(python(code)))
        assert family.begun.wait(_LIMIT_S)
        handle.cancel()
        with pytest.raises(TaskCancelledError):
            handle.get(_LIMIT_S)
    assert family.gone()


# -- tasks ------------------------------------------------------------------------------------------------------------


def test_command() -> None:
    """A task has the parameters of its template, and fills in each argument by itself."""
    show = shell.command(python(SHOW, "{first}", "--n={count:03d}", "{first}", "{{literal}}"))
    assert str(show.signature) == "(first, count)"
    assert show("a b; c", count=7).stdout == ascii(["a b; c", "--n=007", "a b; c", "{literal}"]) + "\n"
    assert show.name == Path(_PYTHON).name
    with pytest.raises(ParameterError, match=r"missing a required argument: 'count' \(signature: .*\(first, count\)\)"):
        show("a")
    assert show.description.startswith(f"Run {_PYTHON}")


def test_lists_become_arguments() -> None:
    """A whole argument may stand for a list; inside an argument, or for other things, there is no such thing."""
    show = shell.command(python(SHOW, "{files}", "end"))
    assert show(NASTY).stdout == ascii([*NASTY, "end"]) + "\n"
    assert show([]).stdout == "['end']\n"
    assert show((Path("a"), 3)).stdout == "['a', '3', 'end']\n"
    for wrong in (None, {}, b"x", [None]):
        with pytest.raises(DefinitionError, match="makes no argument"):
            show(wrong)
    with pytest.raises(DefinitionError, match="makes no argument"):
        shell.command(python(SHOW, "--files={files}"))(["a"])


def test_input_and_folder_of_a_task(tmp_path: Path) -> None:
    """Input can be a parameter or literal; folder and files may have parameters."""
    code = "import sys; print(sys.stdin.read())"
    assert shell.command(python(code), input="{data}")("{x}").stdout == "{x}\n"
    assert shell.command(python(code), input="{data}")(b"\xc3\xbc").stdout == "ü\n"
    assert shell.command(python(code), input='{"a": 1}')().stdout == '{"a": 1}\n'
    there = shell.command(python("import os; print(os.getcwd())"), cwd="{folder}", stdout="{folder}/{n}.txt")
    assert there(tmp_path, 3).stdout is None
    assert (tmp_path / "3.txt").read_text() == f"{tmp_path.resolve()}\n"


@pytest.mark.parametrize(
    ("args", "options", "why"),
    [
        (["wc", "{a.b}"], {}, "not a plain parameter"),
        (["wc", "{"], {}, "not a valid template"),
        (["wc"], {"inputs": ["x"]}, "no effect without caching"),
        (["wc"], {"inputs": "x", "cache": True}, "must be a list"),
        (["wc"], {"nonsense": 1}, "no option nonsense"),
    ],
)
def test_wrong_definitions(args: Any, options: dict[str, Any], why: str) -> None:
    """What cannot work is said when the task is made."""
    for make in (shell.command, shell.async_command):
        with pytest.raises(DefinitionError, match=why):
            make(args, **options)


def test_maps_and_retries(tmp_path: Path) -> None:
    """Commands are tasks: mapped over threads, retried, failed by name."""
    show = shell.command(python(SHOW, "{x}"))
    with session(backend="thread") as context:
        assert [result.stdout for result in map_tasks(show, NASTY)] == [ascii([text]) + "\n" for text in NASTY]
        code = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); n = p.exists(); p.touch(); sys.exit(not n)"
        assert shell.command(python(code, "{mark}"), retries=1)(tmp_path / "mark").returncode == 0
        assert context.records[-1].attempts == 2
        with pytest.raises(CommandError) as caught:
            shell.command(python("raise SystemExit(4)"), name="leave")()
        assert caught.value.__notes__ == ["nbflow: in task 'leave'"]


def test_lines_are_told(recorder: EventRecorder) -> None:
    """What a command writes is told while it runs; of very many lines some are left out, and that is said."""
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.stdout.write('three')"
    with session(observers=[recorder]):
        shell.command(python(code))()
        assert {(line.text, line.stream) for line in recorder.of(LogLine)} == {
            ("one", "stdout"),
            ("two", "stderr"),
            ("three", "stdout"),
        }
        result = shell.command(python("for n in range(100_000): print(n)"))()
    lines = [line.text for line in recorder.of(LogLine)]
    assert len(lines) < 1000
    assert lines[-1].endswith("lines were left out here; the result has all of them")
    assert result.stdout is not None
    assert result.stdout.endswith("\n99999\n")
    recorder.check()


@pytest.mark.parametrize("make", [shell.command, shell.async_command])
def test_tasks_travel(make: Callable[..., Any]) -> None:
    """Tasks of commands can be sent to other processes, with the cache's options too."""
    for options in ({}, {"cache": True, "inputs": ["{x}"], "outputs": ["{x}.out"], "name": "copy"}):
        made = make(python(SHOW, "{x}"), **options)
        copy = cloudpickle.loads(cloudpickle.dumps(made))
        assert (copy.name, copy.signature, copy.is_async) == (made.name, made.signature, made.is_async)
    assert pickle.loads(pickle.dumps(shell.command(python(SHOW, "{x}"))))("a b").stdout == "['a b']\n"


@posix
@pytest.mark.parametrize("backend", ["thread", "inline"])
def test_task_timeout(backend: str, recorder: EventRecorder) -> None:
    """The timeout of a task ends the family too, in a worker and in the main thread."""
    family = Family()
    slow = shell.command(python(FAMILY), timeout=2)
    with session(observers=[family, recorder]), pytest.raises(TaskTimeoutError) as caught:
        slow() if backend == "inline" else submit(slow).get(_LIMIT_S)
    assert caught.value.stopped
    assert len(recorder.of(TaskTimedOut)) == 1
    assert family.gone()


@posix
def test_interrupt() -> None:
    """An interrupt of the main thread ends the family, and is an interrupt."""
    family = Family()

    def interrupt() -> None:
        family.begun.wait(_LIMIT_S)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    helper = threading.Thread(target=interrupt)
    helper.start()
    with session(observers=[family]), pytest.raises(KeyboardInterrupt):
        shell.command(python(FAMILY))()
    helper.join()
    assert family.gone()


# -- async ------------------------------------------------------------------------------------------------------------


def test_async() -> None:
    """Commands can be awaited, and gathered; the loop stays free."""
    show = shell.async_command(python(SHOW, "{x}"))

    async def main() -> None:
        assert (await shell.run_async(python(SHOW, "a b"))).stdout == "['a b']\n"
        results = await gather_tasks(show, NASTY)
        assert [result.stdout for result in results] == [ascii([text]) + "\n" for text in NASTY]
        with pytest.raises(CommandError, match="exit code 3"):
            await shell.run_async(python("raise SystemExit(3)"))
        with pytest.raises(CommandError, match="could not be started"):
            await shell.run_async(["no-such-program"])
        with pytest.raises(TaskTimeoutError, match="was killed"):
            await shell.run_async(python("import time; time.sleep(600)"), timeout=0.05)

    asyncio.run(main())


@posix
def test_async_cancel() -> None:
    """A cancelled await ends the family before it raises."""
    family = Family()

    async def main() -> None:
        work = asyncio.create_task(shell.async_command(python(FAMILY))())  # type: ignore[arg-type]
        await asyncio.to_thread(family.begun.wait, _LIMIT_S)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    with session(observers=[family]):
        asyncio.run(main())
    assert family.gone()


# -- cache ------------------------------------------------------------------------------------------------------------


def ran(context: Any) -> list[bool]:
    """Say of each call that is no wrapper whether it ran."""
    return [not call.cached for call in context.records if call.spec.cache]


def test_cached_by_arguments_and_inputs(tmp_path: Path) -> None:
    """Another argument, other content of an input, another version or folder is another key; nothing else is."""
    source = tmp_path / "in.txt"
    source.write_text("one")
    code = "import pathlib, sys; print(pathlib.Path(sys.argv[1]).read_text())"

    def make(**options: Any) -> Any:
        return shell.command(python(code, "{path}"), cache=True, inputs=["{path}"], **options)

    with session(cache_store=tmp_path / "cache") as context:
        assert make()(source).stdout == "one\n"
        assert make()(path=str(source)).stdout == "one\n"
        source.write_text("two")
        assert make()(source).stdout == "two\n"
        source.write_text("one")
        assert make()(source).stdout == "one\n"
        make(version=2)(source)
        make(env={"A": "1"})(source)
        make(cwd=tmp_path)(source)
        assert ran(context) == [True, False, True, False, True, True, True]
        with pytest.raises(CommandError):
            make()(tmp_path / "nowhere")


def test_files_as_arguments_count(tmp_path: Path) -> None:
    """A `File` counts by content without being named as an input; so do all files of a folder or pattern that is."""
    source = tmp_path / "data" / "in.txt"
    source.parent.mkdir()
    source.write_text("one")
    read = shell.command(python("print(open(__import__('sys').argv[1]).read())", "{path}"), cache=True)
    several = shell.command(python("print(1)"), cache=True, inputs=[tmp_path / "data" / "*.txt"])
    with session(cache_store=tmp_path / "cache") as context:
        assert read(File(source)).stdout == "one\n"
        several()
        source.write_text("two")
        assert read(File(source)).stdout == "two\n"
        several()
        several()
        assert ran(context) == [True, True, True, True, False]


def test_a_program_that_is_a_file_counts(tmp_path: Path) -> None:
    """A script that is named by its path is run again when it changes."""
    script = tmp_path / "script.py"
    script.write_text(f"#!{_PYTHON}\nprint(1)\n")
    script.chmod(0o755)
    work = shell.command([script], cache=True)
    with session(cache_store=tmp_path / "cache"):
        assert work().stdout == "1\n"
        script.write_text(f"#!{_PYTHON}\nprint(2)\n")
        assert work().stdout == "2\n"


@pytest.mark.parametrize("make", [shell.command, shell.async_command])
def test_outputs_are_put_back(make: Callable[..., Any], tmp_path: Path) -> None:
    """Files that a command wrote come back from the cache where they are missing or were changed, and only then."""
    code = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2]); print('done')"
    write = make(
        python(code, "{n}.txt", "{n}!"), cwd=tmp_path, stdout="{n}.log", cache=True, outputs=["{n}.txt"], name="write"
    )

    def call(n: int) -> Any:
        result = write(n)
        return asyncio.run(result) if write.is_async else result

    target, log = tmp_path / "3.txt", tmp_path / "3.log"
    with session(cache_store=tmp_path / "cache") as context:
        call(3)
        before = target.stat().st_mtime_ns
        call(3)
        assert target.stat().st_mtime_ns == before
        target.write_text("spoilt")
        call(3)
        assert target.read_text() == "3!"
        target.unlink()
        log.unlink()
        assert call(3).returncode == 0
        assert (target.read_text(), log.read_text()) == ("3!", "done\n")
        assert ran(context) == [True, False, False, False]


def test_an_output_that_is_not_there(tmp_path: Path) -> None:
    """A command that does not write what it was said to write has failed, and nothing is cached."""
    work = shell.command(python("pass"), cache=True, outputs=[tmp_path / "never"])
    with session(cache_store=tmp_path / "cache"):
        for _ in range(2):
            with pytest.raises(CommandError, match="its output .* cannot be read"):
                work()


def test_shown_commands_can_be_typed() -> None:
    """Messages show commands as one would type them."""
    with pytest.raises(CommandError) as caught:
        shell.run(["no-such-program", "a b"])
    assert shlex.split(str(caught.value).split(" could not")[0]) == ["no-such-program", "a b"]
