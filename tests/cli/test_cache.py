"""`nbflow cache` and `nbflow doctor`."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from nbflow.cli import main
from nbflow.cli.cache import open_store

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

FLOW = """
import hashlib

from nbflow import map_tasks, task, workflow

FACTOR = {factor}

@task(cache=True)
def scale(x):
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1000)  # dear for its size, so that others have to go first
    return x * FACTOR

@task(cache=True)
def load(name):
    return hashlib.shake_128().digest(100_000)

@workflow
def both():
    load("a")
    map_tasks(scale, range(3))
"""


@pytest.fixture
def filled(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder whose store holds the results of two tasks, one of them computed with two factors."""
    monkeypatch.delenv("NBFLOW_HOME")
    for factor in (2, 3):
        (tmp_path / "flow.py").write_text(FLOW.format(factor=factor))
        assert cli("run", "flow.py:both", NBFLOW_HOME="").returncode == 0
    monkeypatch.chdir(tmp_path)
    return tmp_path


def output(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(words) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_ls_lists_results_and_adds_up(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each result, and the totals; one task can be asked for."""
    lines = output(capsys, "cache", "ls").splitlines()
    assert lines[0].split() == ["task", "cell", "last", "used", "cost", "size", "hits", "key"]
    assert sorted(line.split()[0] for line in lines[2:-1]) == ["load"] + 6 * ["scale"]
    assert lines[-1].startswith("7 results, ")
    assert lines[-1].endswith(str(filled / ".nbflow" / "cache"))
    assert output(capsys, "cache", "ls", "load").splitlines()[-1].startswith("1 result, ")
    found = json.loads(output(capsys, "cache", "ls", "load", "--json"))
    assert found[0]["size_bytes"] >= 100_000
    assert {"code", "argument"} <= {part["kind"] for part in found[0]["parts"]}


@pytest.mark.usefixtures("filled")
def test_why_names_what_had_changed(capsys: pytest.CaptureFixture[str]) -> None:
    """The newest result is compared with the one most like it."""
    assert "global `flow.FACTOR` 2 → 3" in output(capsys, "cache", "why", "scale")
    assert "never run before" in output(capsys, "cache", "why", "load")
    assert "tasks with results: load, scale" in output(capsys, "cache", "why", "lode", code=2)


@pytest.mark.usefixtures("filled")
def test_ls_sorts_and_selects(capsys: pytest.CaptureFixture[str]) -> None:
    """By size, age and pin, at most so many."""
    assert output(capsys, "cache", "ls", "--sort", "size", "--limit", "1").splitlines()[2].startswith("load")
    assert output(capsys, "cache", "ls", "--larger", "50k").splitlines()[-1].startswith("1 result, ")
    assert output(capsys, "cache", "ls", "--unused", "7d").startswith("0 results")
    key = json.loads(output(capsys, "cache", "ls", "load", "--json"))[0]["key"]
    assert output(capsys, "cache", "pin", key[:8]) == f"load ({key[:8]}) is pinned\n"
    assert output(capsys, "cache", "ls", "--pinned").splitlines()[2].endswith("pinned")
    assert output(capsys, "cache", "prune", "--max-size", "1").startswith("removed 6 results; 1 left")
    assert "no longer pinned" in output(capsys, "cache", "pin", key[:8], "--off")
    assert "no keys begin with" in output(capsys, "cache", "pin", "zzzz", code=2)


@pytest.mark.usefixtures("filled")
def test_stats_add_up(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    """Results, bytes, and the seconds that hits have saved."""
    assert cli("run", "flow.py:both", NBFLOW_HOME="").returncode == 0
    text = output(capsys, "cache", "stats")
    assert "disk    7 results, 100 kB of 2.1 GB, 0 pinned" in text
    assert re.search("used    [1-9][0-9]* hits saved ", text)
    found = json.loads(output(capsys, "cache", "stats", "--json"))
    assert found["entries"] == 7
    assert found["hits"] >= 4
    assert found["shared"] is None


@pytest.mark.usefixtures("filled")
def test_clear_and_prune_remove_and_say_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    """One task, a smaller budget, everything; without a terminal to ask on, only where that was said."""
    assert output(capsys, "cache", "prune", "--max-size", "50k").startswith("removed 1 result; 6 left")
    assert output(capsys, "cache", "prune", "--unused", "1h").startswith("removed 0 results; 6 left")
    assert "this would remove 6 results of scale" in output(capsys, "cache", "clear", "scale", code=2)
    assert output(capsys, "cache", "clear", "scale", "--yes").startswith("removed 6 results; 0 left")
    assert output(capsys, "cache", "clear").startswith("removed 0 results; 0 left")


@pytest.mark.usefixtures("filled")
def test_clear_knows_the_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    """A name of which nothing is stored is an error with those that are there; nothing is removed."""
    said = output(capsys, "cache", "clear", "scael", "--yes", code=2)
    assert "no result of scael is stored; did you mean scale? tasks with results: load, scale" in said
    assert output(capsys, "cache", "clear", "--yes").startswith("removed 7 results")


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(("answer", "said"), [("n", "nothing was removed"), ("y", "removed 7 results")])
def test_clear_asks(
    answer: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal it asks first."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert said in output(capsys, "cache", "clear")


def test_verify_finds_damaged_results(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 and the name of the task; the rest is counted as good."""
    assert output(capsys, "cache", "verify").startswith("7 of 7 results are sound")
    blob = max((filled / ".nbflow" / "cache" / "blobs").rglob("*"), key=lambda path: path.stat().st_size)
    blob.chmod(0o600)
    blob.write_bytes(b"\0" * blob.stat().st_size)
    text = output(capsys, "cache", "verify", code=1)
    assert "6 of 7 results are sound" in text
    assert "nbflow: load (" in text


def test_a_notebook_names_the_store_beside_it(
    filled: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """--at takes a notebook or a folder; looking at an empty store creates nothing."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert output(capsys, "cache", "ls", "--at", str(filled / "flow.py")).splitlines()[-1].startswith("7 results")
    assert output(capsys, "cache", "ls").startswith("0 results, 0 B")
    assert list(elsewhere.iterdir()) == []
    assert "no such file or folder" in output(capsys, "cache", "ls", "--at", "none", code=2)


def test_settings_decide_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The home and the store of pyproject.toml count from anywhere."""
    monkeypatch.delenv("NBFLOW_HOME")
    (tmp_path / "pyproject.toml").write_text(f"[tool.nbflow]\ncache_store = '{tmp_path / 'shared'}'\n")
    (tmp_path / "sub").mkdir()
    store = open_store(tmp_path / "sub")
    assert store.location == str(tmp_path / "shared")
    store.close()


def test_a_bundle_serves_a_fresh_home(
    filled: Path, tmp_path_factory: pytest.TempPathFactory, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another user with an empty cache computes nothing with bundle and key, and everything without the key."""
    said = output(capsys, "cache", "bundle", "warm.zip")
    assert "7 results, " in said
    assert 'cache_shared = "warm.zip"' in said
    assert (filled / "warm.key").stat().st_mode & 0o77 == 0
    (filled / "pyproject.toml").write_text("[tool.nbflow]\ncache_shared = 'warm.zip'\ncache_trust = ['warm.key']\n")
    other = {
        "NBFLOW_HOME": str(tmp_path_factory.mktemp("home")),
        "NBFLOW_KEY_FILE": str(tmp_path_factory.mktemp("k") / "k"),
    }
    found = cli("run", "flow.py:both", "--json", **other)
    assert [task["cached"] for task in json.loads(found.stdout)["tasks"]] == [1, 3]
    (filled / "warm.key").unlink()
    other["NBFLOW_HOME"] = str(tmp_path_factory.mktemp("home"))
    found = cli("run", "flow.py:both", "--json", **other)
    assert [task["cached"] for task in json.loads(found.stdout)["tasks"]] == [0, 0]
    assert "warm.key cannot be read" in found.stderr


def test_a_bundle_can_be_loaded(
    filled: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Some tasks' results go from one store to another; a bundle of an unknown key is refused."""
    assert output(capsys, "cache", "key", "new", "team").startswith("made key team (")
    assert "1 result, " in output(capsys, "cache", "bundle", "some.zip", "--tasks", "load", "--key", "team")
    assert "No result of 'lode'" in output(capsys, "cache", "bundle", "no.zip", "--tasks", "lode", code=1)
    assert not (filled / "no.zip").exists()
    ring = Path(output(capsys, "cache", "key", "ls").split("belong in ")[1].strip())
    monkeypatch.setenv("NBFLOW_KEY_FILE", str(tmp_path_factory.mktemp("other") / "key"))
    elsewhere = str(tmp_path_factory.mktemp("elsewhere"))
    assert "0 results, 0 B, 1 refused" in output(capsys, "cache", "load", "some.zip", "--at", elsewhere, code=1)
    assert "are trusted from now on" in output(capsys, "cache", "key", "add", str(ring / "team.key"))
    assert output(capsys, "cache", "load", "some.zip", "--at", elsewhere).startswith("1 result, ")
    assert "1 there already" in output(capsys, "cache", "load", "some.zip", "--at", elsewhere)
    assert output(capsys, "cache", "ls", "--at", elsewhere).splitlines()[2].startswith("load")
    assert "no longer trusted" in output(capsys, "cache", "key", "rm", "team")
    assert "There is no key called 'team'" in output(capsys, "cache", "key", "rm", "team", code=1)
    assert "cannot be removed" in output(capsys, "cache", "key", "rm", "own", code=2)


def test_what_is_no_bundle_cannot_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file, and a file that holds something else, are wrong uses."""
    (tmp_path / "plain.py").write_text("x = 1\n")
    here = ("--at", str(tmp_path))
    assert "plain.py is no bundle" in output(capsys, "cache", "load", str(tmp_path / "plain.py"), *here, code=2)
    assert "none.zip: no such file" in output(capsys, "cache", "load", str(tmp_path / "none.zip"), *here, code=2)


def test_doctor_knows_the_shared_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it answers, whose results are opened, and by which key results are sealed."""
    assert "ok  cache: not shared; keys in " in output(capsys, "doctor")
    output(capsys, "cache", "key", "new", "team")
    monkeypatch.setenv("NBFLOW_CACHE_SHARED", str(tmp_path / "team"))
    monkeypatch.setenv("NBFLOW_CACHE_SHARED_KEY", "team")
    text = output(capsys, "doctor")
    assert "team answers" in text
    assert "sent is sealed by key team" in text
    monkeypatch.setenv("NBFLOW_CACHE_SHARED", "nothing-like-that://x")
    monkeypatch.setenv("NBFLOW_CACHE_TRUST", "stranger")
    text = output(capsys, "doctor", code=1)
    assert "FAIL  shared cache: nothing-like-that://x does not answer" in text
    assert "FAIL  There is no key called 'stranger'" in text


def test_doctor_finds_nothing_wrong_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A line for Python, for each package, for settings and cache; nothing is created."""
    text = output(capsys, "doctor")
    assert "ok  backends: dask, inline, noop (dry run), process, thread" in text
    assert "ok  nbflow " in text
    assert "ok  ipykernel " in text
    assert "ok  cache: 0 results, 0 B" in text
    assert "ok  worker processes: " in text
    assert "clock: a call of a task costs " in text
    assert list(tmp_path.iterdir()) == []


def test_doctor_advises_on_kernels_and_front_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which kernels there are, which ones are gone, and what JupyterLab lacks; none of that is a failure."""
    for name, program in (("gone", str(tmp_path / "removed" / "python")), ("other", "sh")):
        place = tmp_path / "jupyter" / "kernels" / name
        place.mkdir(parents=True)
        (place / "kernel.json").write_text(json.dumps({"argv": [program], "display_name": name, "language": "x"}))
    monkeypatch.setattr(
        "jupyter_client.kernelspec.jupyter_path", lambda *names: [str(tmp_path / "jupyter" / "kernels")]
    )
    monkeypatch.setattr("jupyter_client.kernelspec.KernelSpecManager.ensure_native_kernel", False)
    monkeypatch.setattr("jupyter_core.paths.jupyter_path", lambda *names: [])
    text = output(capsys, "doctor")
    assert "which is gone: jupyter kernelspec remove gone" in text
    assert "note  kernels: only other, none of which runs this Python; for notebooks to use it: python -m ipyk" in text
    if find_spec("jupyterlab") is not None:
        assert "note  front ends: JupyterLab has no @jupyter-widgets/jupyterlab-manager" in text


def test_doctor_says_what_to_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package and a bad setting are failures with their remedy, and the exit code is 1."""
    import nbflow.cli.doctor as doctor

    missing = (("surely-not-there", "everything", "pip install surely-not-there"),)
    monkeypatch.setattr(doctor, "_NEEDED", missing)
    monkeypatch.setenv("NBFLOW_PROGRESS", "loud")
    text = output(capsys, "doctor", code=1)
    assert "FAIL  surely-not-there is missing (everything): pip install surely-not-there" in text
    assert "FAIL  environment variable NBFLOW_PROGRESS" in text


def test_prune_of_a_shared_cache(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By size and age, after a look at what would go; what is only known of local results is refused."""
    assert "no shared cache is set" in output(capsys, "cache", "prune", "--shared", code=2)
    output(capsys, "cache", "bundle", "team")
    (filled / "pyproject.toml").write_text("[tool.nbflow]\ncache_shared = 'team'\n")
    assert "say --older instead of --unused" in output(capsys, "cache", "prune", "--shared", "--unused", "7d", code=2)
    assert "go with --shared" in output(capsys, "cache", "prune", "--dry-run", code=2)
    prune = ("cache", "prune", "--shared", "--max-size", "50k", "--older", "1w")
    said = output(capsys, *prune, "--dry-run")
    assert re.match(r"would remove \d results? \(1\d\d kB\); \d left, ", said)
    assert said.endswith(f"· {filled / 'team'}\n")
    assert output(capsys, *prune) == said.replace("would remove", "removed")
    assert output(capsys, "cache", "prune", "--shared").startswith("removed 0 results (0 B); ")
    assert output(capsys, "cache", "stats").startswith("disk    7 results")
