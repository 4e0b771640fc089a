"""The command as a whole: help, exit codes, errors of one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nbflow.cli import main

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.cold
def test_help_names_commands_and_exit_codes(cli: Cli) -> None:
    """`nbflow --help` tells what there is and what the codes mean."""
    done = cli("--help")
    assert done.returncode == 0
    for word in ("run", "list", "describe", "cache", "doctor", "lab", "exit codes:", "130  interrupted"):
        assert word in done.stdout


@pytest.mark.parametrize("command", ["run", "list", "describe", "cache", "doctor", "lab"])
def test_each_command_has_help_with_exit_codes(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """`nbflow COMMAND --help` works for every command."""
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "exit codes:" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    """Help is quick because neither Jupyter nor asyncio is imported for it."""
    code = (
        "import sys\nfrom nbflow.cli import main\n"
        "for words in (['--help'], ['run', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "heavy = {'nbformat', 'nbclient', 'jupyter_client', 'IPython', 'zmq', 'numpy', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_command_is_a_usage_error_that_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Plain `nbflow` explains itself on stderr."""
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["fly"],
        ["run"],
        ["run", "a.ipynb", "--bakend", "thread"],
        ["run", "a.ipynb", "--timeout", "soon"],
        ["run", "a.ipynb", "--timeout", "0"],
        ["run", "a.ipynb", "--in-place", "--output", "b.ipynb"],
    ],
)
def test_wrong_options_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """argparse's own errors return 2, as all usage errors do."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "none.ipynb"], "none.ipynb: no such file"),
        (["run", "report"], "neither a notebook (FILE.ipynb) nor a workflow (MODULE:NAME)"),
        (["run", "book.ipynb", "-p", "year"], "write -p name=value"),
        (["run", "book.ipynb", "-p", "yaer=1"], "the notebook's parameters are: year"),
        (["run", "book.ipynb", "-p", "year=x"], "write a number (the default is 2013)"),
        (["run", "book.ipynb", "--output", "book.ipynb"], "use --in-place to overwrite it"),
        (["run", "book.ipynb", "--output", "none/out.ipynb"], "there is no folder"),
        (["run", "book.ipynb", "--cwd", "none"], "no such folder"),
        (["run", "broken.ipynb"], "broken JSON"),
        (["run", "statistics.ipynb"], "notebook in R; to run it in its own kernel add --kernel ir"),
        (["run", "json:x", "--timeout", "3"], "--timeout is for notebooks"),
        (["run", "no_such_module:x"], "there is no module no_such_module"),
        (["describe", "none.ipynb"], "none.ipynb: no such file"),
        (["list", "none.py"], "none.py: no such file"),
        (["lab", "none.ipynb"], "none.ipynb: no such file"),
    ],
)
def test_usage_errors_are_one_line(
    words: list[str],
    message: str,
    notebook: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each mistake has one clear line, exit code 2 and no traceback; nothing is run or written."""
    notebook("# tags: parameters\nyear = 2013")
    notebook("1", name="statistics.ipynb", kernelspec={"name": "ir", "language": "R", "display_name": "R"})
    (tmp_path / "broken.ipynb").write_text('{"cells": [')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("*.executed.ipynb"))


def test_bad_settings_are_one_line(cli: Cli, notebook: Callable[..., Path]) -> None:
    """A wrong NBFLOW_ variable is named, with exit code 2."""
    (notebook("1").parent / "flow.py").write_text(
        "from nbflow import workflow\n\n@workflow\ndef one() -> int:\n    return 1\n"
    )
    done = cli("run", "flow.py:one", NBFLOW_FORCE="maybe")
    assert done.returncode == 2
    assert "environment variable NBFLOW_FORCE" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_timeout_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the option, the value and what it should be."""
    with pytest.raises(SystemExit):
        main(["run", "a.ipynb", "--timeout", "soon"])
    assert "--timeout: soon is not a number of seconds above 0" in capsys.readouterr().err
