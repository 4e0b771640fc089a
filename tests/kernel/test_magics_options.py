"""The options of `%%task`, `%flow` and `%session` in a real kernel: each does what its help says, wrong ones say so."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.kernel


def bump(kernel: Any, options: str, body: str = "") -> bool:
    """Run a task cell with these options; return whether its body ran."""
    file = kernel.folder / "bump.txt"
    file.unlink(missing_ok=True)
    kernel.ok(f"%%task bumped {options}\n_ = open('bump.txt', 'w').write('x')\n{body}")
    return bool(file.exists())


def test_force_and_no_cache(shared: Any) -> None:
    """`--force` runs and stores anew, `--no-cache` neither looks up nor stores."""
    assert bump(shared, "", "forced = 1")
    assert not bump(shared, "", "forced = 1")
    assert bump(shared, "--force", "forced = 1")
    assert not bump(shared, "", "forced = 1")
    assert bump(shared, "-n", "forced = 1")
    assert bump(shared, "--cache off", "unkept = 1")
    assert bump(shared, "", "unkept = 1")


@pytest.mark.cold
def test_session_cache_does_not_outlive_the_kernel(kernel: Any) -> None:
    """`--cache session` keeps a result in memory only."""
    assert bump(kernel, "--cache session")
    assert not bump(kernel, "--cache session")
    kernel.restart()
    assert bump(kernel, "--cache session")


def test_ttl_expires(shared: Any) -> None:
    """A result older than its ttl is computed again; units are understood."""
    assert bump(shared, "--ttl 1d", "aged = 1")
    assert not bump(shared, "--ttl 2h", "aged = 1")
    assert bump(shared, "--ttl 0s", "aged = 1")


def test_version_ignore_and_depends(shared: Any) -> None:
    """Another version is another result; ignored names do not count, named ones do."""
    shared.ok("level = 1\nhidden = 1\ndef helper(): return hidden")
    assert bump(shared, "--version a", "v = 1")
    assert not bump(shared, "--version a", "v = 1")
    assert bump(shared, "--version b", "v = 1")
    assert bump(shared, "--ignore level", "w = level")
    shared.ok("level = 2")
    assert not bump(shared, "--ignore level", "w = level")
    assert bump(shared, "--depends helper", "z = globals()['helper']()")
    shared.ok("hidden = 2")
    assert bump(shared, "--depends helper", "z = globals()['helper']()")


def test_inputs_and_outputs(kernel: Any) -> None:
    """`--inputs` and `--outputs` replace what was found in the body."""
    kernel.ok("a = 1\nb = 1")
    assert bump(kernel, "-i a -o kept", "kept = a + b\ndropped = 1")
    kernel.ok("b = 5")
    assert not bump(kernel, "-i a -o kept", "kept = a + b\ndropped = 1")
    kernel.restart()
    kernel.ok("a = 1\nb = 1")
    assert not bump(kernel, "-i a -o kept", "kept = a + b\ndropped = 1")
    assert kernel.value("kept, 'dropped' in globals()") == (2, False)


def test_retries_and_timeout(shared: Any) -> None:
    """The body is run again after a failure, and stopped after its time."""
    shared.ok("tries = []")
    shared.ok("%%task --retries 2 --no-cache\ntries.append(1)\nassert len(tries) == 3")
    assert shared.value("len(tries)") == 3
    for body in ("import time\ntime.sleep(30)", "import asyncio\nawait asyncio.sleep(30)"):
        result = shared.run(f"%%task slow --timeout 0.2\n{body}")
        assert result.status == "error"
        assert "passed its timeout of 0.2 s" in result.traceback


def test_quiet_verbose_and_no_replay(shared: Any) -> None:
    """`-q` hides the badge, `-v` says what was done and why, `--no-replay` only restores."""
    cell = "%%task spoken {}\nprint('aloud')\nspoken = 1"
    first = shared.ok(cell.format("-v"))
    assert "spoken: computed in" in first.stderr
    assert "never run before" in first.stderr
    assert "writes spoken" in first.stderr
    assert "restored, saved" in shared.ok(cell.format("-v")).stderr
    quiet = shared.ok(cell.format("-q"))
    assert quiet.badges == []
    assert quiet.stdout == "aloud\n"
    silent = shared.ok(cell.format("--no-replay"))
    assert silent.stdout == ""
    assert silent.badges
    refused = shared.ok("%%task -v\nrows = (n for n in range(3))").stderr
    assert refused.count("make a list of it") == 1, refused


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--ttl soon", "--ttl soon: use seconds"),
        ("--ttl 1 day", "--ttl 1 day: write number and unit as one word, such as --ttl 1d."),
        ("--timeout 5 minutes", "such as --timeout 5min."),
        ("--cache cloud", "--cache cloud: use disk, session or off"),
        ("--retries -1", "--retries -1: use a whole number"),
        ("--retries x", "invalid int value"),
        ("--timeout 0", "--timeout 0: use a time > 0"),
        ("--inputs a-b", "'a-b' is not a name"),
        ("--bogus", "unrecognized arguments"),
        ("--tll 1d", "--tll; did you mean --ttl?"),
        ("--backend process", "a cell runs in the kernel, the maps in it where %session --backend says"),
        ("-q -v", "--quiet and --verbose contradict"),
        ("-n --cache disk", "contradict each other"),
        ("-n --ttl 5", "--ttl has no meaning without a cache"),
        ("--version 'open", "No closing quotation"),
    ],
)
def test_wrong_options_of_task(shared: Any, line: str, message: str) -> None:
    """A wrong option is a UsageError of one line, and the body does not run."""
    result = shared.run(f"%%task {line}\nraise SystemError('the body ran')")
    assert result.status == "error"
    assert result.stderr.startswith("UsageError: ")
    assert message in result.stderr
    assert "the body ran" not in result.traceback


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%flow qqq", "no such subcommand. There are: status, why, stale, run, clear"),
        ("%flow rnu", "no such subcommand; did you mean run? There are: status"),
        ("%flow why", "which cell or task?"),
        ("%flow why nobody", "nothing called 'nobody' has run"),
        ("%flow run nobody", "no task cell is called 'nobody'"),
        ("%flow run --fast", "there is no such option"),
        ("%flow run 'no body'", "no task cell is called 'no body'"),
        ("%flow run 'no body", "a quotation mark is not closed"),
        ("%flow why nobody --dri", "%flow why --dri: there is no such option; did you mean --dry?"),
        ("%flow cancel --al", "there is no such option; did you mean --all?"),
        ("%flow clear --all", "there is no such option; it takes none"),
        ("%flow stale now", "takes nothing more"),
        ("%flow clear nobody", "nothing of that name is cached"),
        ("%session --backend nowhere", "nowhere"),
        ("%session --close --show", "--close goes with no other option"),
    ],
)
def test_wrong_uses_of_line_magics(shared: Any, line: str, message: str) -> None:
    """Line magics answer wrong uses with one line as well."""
    result = shared.run(line)
    assert result.status == "error"
    assert result.stderr.startswith("UsageError: ")
    assert message in result.stderr


def test_a_magic_below_the_first_line(shared: Any) -> None:
    """IPython takes `%%task` for a line magic there; what it calls then says where to put it."""
    result = shared.run("# a comment\n%%task\nraise SystemError('the body ran')")
    assert result.stderr.startswith("UsageError: %%task must be the first line of its cell")


def test_errors_of_ours_end_in_the_cell(shared: Any) -> None:
    """The message says what is wrong; frames of nbflow would only push it away."""
    shared.ok("import nbflow")
    for code in ("nbflow.task(cach=True)(len)", "%%task\nnbflow.task(cach=True)(len)"):
        shown = shared.run(code).traceback
        assert "did you mean cache?" in shown
        assert "tasks.py" not in shown
        assert "Cell In[" in shown


def test_errors_of_workers_end_in_the_cell(kernel: Any) -> None:
    """What a function raised in another process has no frames here; those that hand it on are not shown."""
    kernel.ok("import nbflow\ndef inverse(x): return 1 / x")
    shown = kernel.run("%%task\ninverses = nbflow.map_tasks(inverse, [1, 0], backend='process')").traceback
    assert "ZeroDivisionError: division by zero\nIn worker" in shown
    assert "maps.py" not in shown
    assert "Cell In[" in shown


def test_an_edited_module_is_told_of_once(shared: Any) -> None:
    """Python goes on with what it imported; who edits the file is told how to get the new code."""
    file = shared.folder / "edited_helper.py"
    file.write_text("def f(): return 1\n")
    shared.ok("import edited_helper, importlib")
    file.write_text("def f(): return 1000\n")
    assert (
        "edited_helper.py was edited, but this kernel still runs it"
        in shared.ok("%%task\nf1 = edited_helper.f()").stderr
    )
    assert shared.ok("edited_helper.f()").stderr == ""
    for text in ("def f(): return 1000\n", "def f(): return 1\n"):  # written anew, and as it was
        file.write_text(text)
        assert shared.ok("edited_helper.f()").stderr == ""
    file.write_text("def f(): return 1_000_000\n")
    assert shared.ok("_ = importlib.reload(edited_helper)").stderr == ""
    assert shared.value("edited_helper.f()") == 1_000_000


def test_usage_is_printed(shared: Any) -> None:
    """`%%task?` lists every option."""
    shared.ok("import io, contextlib\nhelp_text = get_ipython().find_cell_magic('task').__doc__")
    text = shared.value("help_text")
    for option in ("--inputs", "--outputs", "--force", "--no-cache", "--cache", "--ttl", "--version", "--ignore",
                   "--depends", "--retries", "--timeout", "--quiet", "--verbose", "--no-replay", "--bg"):  # fmt: skip
        assert option in text


def test_completion(shared: Any) -> None:
    """Options, subcommands, names of cells and of variables complete; other lines are left to IPython."""
    shared.ok("%%task completed_cell\ncompleted_value = 1")
    assert "--retries" in shared.complete("%%task --re")
    assert shared.complete("%flow st") == ["stale", "status"]
    assert shared.complete("%flow why completed_c") == ["completed_cell"]
    assert "completed_value" in shared.complete("%%task x --inputs completed_v")
    assert "--backend" in shared.complete("%session --ba")
    assert "completed_value" in shared.complete("completed_v")


def test_flow_status_why_stale_run_clear(kernel: Any) -> None:
    """The whole of `%flow` on a small graph of cells and a task function."""
    kernel.ok("from nbflow import task\nbase = 1\n@task(cache=True)\ndef twice(x): return x * base * 2")
    kernel.ok("%%task a\na = base + 1")
    kernel.ok("%%task b\nb = a * 10\nprint('b is', b)\nb")
    kernel.ok("%%task c\nc = 'apart'")
    kernel.ok("%%task d --no-cache\nd = b")
    kernel.ok("twice(3), twice(3)")
    table = {line.split()[0]: line for line in (kernel.ok("%flow").result or "").splitlines()[1:-1]}
    assert "fresh" in table["a"]
    assert "uncached" in table["d"]
    assert "cached" in table["twice"]
    assert "cell 2" in table["twice"]
    kernel.ok("base = 5")
    stale = kernel.ok("%flow stale").result or ""
    assert "`base` 1 → 5 (cell 9)" in stale
    assert "reads from stale `a`" in stale
    assert "c " not in [line[:2] for line in stale.splitlines()]
    assert "twice (cell 2) would run again: global `base` 1 → 5" in kernel.ok("%flow why twice").displays[-1]
    done = kernel.ok("%flow run")
    assert done.stdout.splitlines()[:3] == ["— a (cell 3)", "— b (cell 4)", "b is 60"]
    assert done.displays[0] == "60"
    assert kernel.value("b") == 60
    assert kernel.ok("%flow run").stdout == "Nothing is stale.\n"
    assert "— c (cell 5)" in kernel.ok("%flow run c --force").stdout
    assert "Forgot" in kernel.ok("%flow clear c").stdout
    assert "HTML" not in (kernel.ok("%flow status").result or "")


def test_flow_run_stops_where_a_value_comes_out_as_before(kernel: Any) -> None:
    """A stale cell whose sources came out as before is not run."""
    kernel.ok("def pick(x): return max(x)\nitems = [1, 2]")
    kernel.ok("%%task top\ntop = pick(items)")
    kernel.ok("%%task after\nprint('ran')\nafter = top + 1")
    kernel.ok("def pick(x): return sorted(x)[-1]")
    done = kernel.ok("%flow run").stdout
    assert "— top" in done
    assert "— after" not in done


def test_flow_run_with_awaiting_cells(kernel: Any) -> None:
    """`%flow run` awaits cells that await."""
    kernel.ok("step = 1")
    kernel.ok("%%task slow\nimport asyncio\nslow = await asyncio.sleep(0, step * 2)")
    kernel.ok("step = 4")
    kernel.ok("%flow run")
    assert kernel.value("slow") == 8


def test_cells_without_names_do_not_take_each_others(shared: Any) -> None:
    """Two cells that bind the same name first are told apart by the front end's cell ids."""
    shared.ok("%%task\nshared_name = 1", cell_id="one")
    shared.ok("%%task\nshared_name = 2", cell_id="two")
    shared.ok("%%task\nshared_name = 3", cell_id="one")
    status = shared.ok("%flow").result or ""
    rows = [line.split("  ")[0] for line in status.splitlines() if line.startswith("shared_name")]
    assert rows == ["shared_name", "shared_name (2)"]
    assert "shared_name (2)" in status


def test_session_magic(kernel: Any) -> None:
    """`%session` opens, replaces, shows and closes the notebook's session."""
    kernel.ok("%session --backend thread --cache elsewhere --datasets data --wrap-errors")
    shown = kernel.ok("%session").stdout
    for word in ("thread", "elsewhere", "data", "wrapped in TaskError"):
        assert word in shown
    kernel.ok("%%task placed\nplaced = 1")
    assert (kernel.folder / "elsewhere").exists()
    assert "memory only" in kernel.ok("%session --cache off --show").stdout
    kernel.ok("%session --close")
    assert "No session is open" in kernel.ok("%session").stdout
    kernel.ok("%%task placed\nplaced = 1")


@pytest.mark.cold
def test_loading_twice_and_unloading(start_kernel: Any) -> None:
    """Loading again is fine, reloading too; unloading takes everything back."""
    kernel = start_kernel(load=False)
    kernel.ok("import sys\nbefore = (type(sys.stdout), len(get_ipython().input_transformers_post))")
    kernel.ok("%load_ext nbflow")
    kernel.ok("%load_ext nbflow")
    kernel.ok("%%task x\nx = 1\nx")
    kernel.ok("%reload_ext nbflow")
    assert kernel.ok("%%task x\nx = 1\nx").badges
    kernel.ok("%unload_ext nbflow")
    assert kernel.run("%%task x\nx = 1").status == "error"
    kernel.ok("after = (type(sys.stdout), len(get_ipython().input_transformers_post))")
    assert kernel.value("before == after, hasattr(get_ipython(), 'nbflow_state')") == (True, False)
    kernel.ok("from nbflow.sessions import current_session")
    assert kernel.value("current_session()") is None


@pytest.mark.cold
def test_nothing_is_created_on_disk_before_it_is_needed(kernel: Any) -> None:
    """Loading nbflow and running plain cells makes no folder."""
    kernel.ok("x = 1")
    assert not (kernel.folder / ".nbflow").exists()


def test_flow_run_with_values_changed_in_place(kernel: Any) -> None:
    """A cell between the one that makes a list and the one that grows it sees the list as it was then."""
    kernel.ok("def size(x): return len(x)")
    kernel.ok("%%task made\nmade = [1, 2]")
    kernel.ok("%%task counted\ncounted = size(made)")
    kernel.ok("%%task grown\nmade.append(3)")
    kernel.ok("%%task summed\nsummed = sum(made)")
    assert kernel.ok("%flow stale").result == "Nothing is stale."
    kernel.ok("def size(x): return len(x) * 10")
    kernel.ok("%flow run")
    assert kernel.value("counted, made, summed") == (20, [1, 2, 3], 6)
    assert kernel.ok("%flow stale").result == "Nothing is stale."


def test_session_with_a_shared_cache(kernel: Any) -> None:
    """`%session --shared` names what stands behind the cache: what one cache lacks comes from there."""
    shown = kernel.ok("%session --cache one --shared team --show").stdout
    assert f"shared    {kernel.folder / 'team'}" in shown
    kernel.ok("%%task far\nfar = [7] * 3")
    shown = kernel.ok("%session --cache two --shared team --show").stdout
    assert "two" in shown
    kernel.ok("far = None")
    kernel.ok("%%task far\nfar = [7] * 3")
    assert "cached" in {line.split()[0]: line for line in str(kernel.ok("%flow").result).splitlines()[1:-1]}["far"]
    assert "nothing" in kernel.ok("%session --cache three --shared off --show").stdout


def test_config_sets_what_cells_do(kernel: Any) -> None:
    """Each trait of `%config NbflowMagics` does something, a cell's own option counts for more, all are listed."""
    listed = kernel.ok("%config NbflowMagics").stdout
    for trait in ("auto", "cache", "progress", "quiet", "replay", "ttl", "verbose"):
        assert f"NbflowMagics.{trait}=" in listed
    cell = "%%task spoken {}\nprint('aloud')\nspoken = 1"
    kernel.ok("%config NbflowMagics.verbose = True")
    assert "computed in" in kernel.ok(cell.format("")).stderr
    assert kernel.ok(cell.format("-q")).stderr == ""
    kernel.ok("%config NbflowMagics.replay = False")
    assert kernel.ok(cell.format("")).stdout == ""
    kernel.ok("%config NbflowMagics.verbose = False\n%config NbflowMagics.quiet = True")
    assert kernel.ok(cell.format("")).badges == []
    assert "restored" in kernel.ok(cell.format("-v")).stderr
    kernel.ok("%config NbflowMagics.ttl = '0s'")
    assert bump(kernel, "", "aged = 2")
    assert bump(kernel, "", "aged = 2")
    assert not bump(kernel, "--ttl 1d", "aged = 2")
    kernel.ok("%config NbflowMagics.ttl = ''\n%config NbflowMagics.cache = 'off'")
    assert bump(kernel, "--cache disk", "aged = 3")
    assert bump(kernel, "", "aged = 3")
    assert not bump(kernel, "--cache disk", "aged = 3")
    kernel.ok("%config NbflowMagics.auto = True")
    assert "run again" in kernel.ok("%flow auto").stdout
    kernel.ok("%flow auto off")
    assert kernel.ok("%config NbflowMagics.auto").result == "False"
    kernel.ok("%config NbflowMagics.progress = 'text'\n%config NbflowMagics.cache = 'disk'")
    kernel.ok("from nbflow import task, map_tasks\n@task\ndef f(x): raise ValueError(x)")
    shown = kernel.ok("map_tasks(f, [1, 2], on_error='collect')")
    assert "all failed" in shown.stdout + shown.stderr
    kernel.ok("%config NbflowMagics.progress = 'off'")
    assert "all failed" not in (quiet := kernel.ok("map_tasks(f, [1, 2], on_error='collect')")).stdout + quiet.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%config NbflowMagics.progress = 'loud'", "expected any of"),
        ("%config NbflowMagics.cache = 'cloud'", "expected any of"),
        ("%config NbflowMagics.replay = 'maybe'", "expected a boolean"),
        ("%config NbflowMagics.ttl = 'soon'", "NbflowMagics.ttl soon: use seconds"),
        ("%config NbflowMagics.bogus = 1", "not recognized by `NbflowMagics`"),
    ],
)
def test_wrong_config_says_so(shared: Any, line: str, message: str) -> None:
    """A bad value is told, and leaves everything as it was."""
    before = shared.ok("%config NbflowMagics").stdout
    assert message in shared.run(line).stderr
    assert shared.ok("%config NbflowMagics").stdout == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--inputs data, scale", "--inputs data,: a name is missing; write names with commas and without blanks"),
        ("--inputs dta", "--inputs dta: neither the notebook nor the cell has such a name; did you mean data?"),
        ("--outputs m", "--outputs m: neither the notebook nor the cell has such a name"),
        ("--ignore sacle", "--ignore sacle: neither the notebook nor the cell has such a name; did you mean scale?"),
        ("--depends nix", "--depends nix: neither the notebook nor the cell has such a name"),
    ],
)
def test_names_that_are_not_there(shared: Any, options: str, message: str) -> None:
    """A typo, or a blank behind a comma, is an error that says what to write, and nothing runs."""
    shared.ok("data, scale = [1, 2, 3], 2")
    result = shared.run(f"%%task {options}\nsummed = sum(data) * scale")
    assert result.stderr.startswith("UsageError: ")
    assert message in result.stderr
    assert shared.value("'summed' in globals()") is False
