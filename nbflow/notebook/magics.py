"""The magics: `%%task` above a cell, `%flow` for what has become stale, `%session` for where things live.

Each magic reads its line and makes one call. Usage is that of IPython's own magics: `%%task?` prints it, wrong
options are a `UsageError` of one line, options and names complete. What an option means is decided where it is used.
"""

# mypy: disable-error-code="no-untyped-call, untyped-decorator"
# IPython's decorators for magics have no types.

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher
from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class, output_can_be_silenced
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from nbflow._util import perhaps
from nbflow.errors import NbflowError
from nbflow.notebook.cells import CellOptions
from nbflow.notebook.defaults import CellDefaults, Configured, parse_duration
from nbflow.notebook.flow import OPTIONS, SUBCOMMANDS
from nbflow.settings import load_settings

if TYPE_CHECKING:
    from nbflow.notebook.kernel import ShellState

__all__ = ["NbflowMagics", "completion_matcher", "parse_task_line"]


_PLAIN = CellDefaults()
_UNITS = r"(?:sec(?:ond)?|hour|day|week)s?|min(?:ute)?s?|s|h|d|w"
_UNIT_APART = re.compile(rf"(--(?:ttl|timeout))[ =]+(\d+)\s+({_UNITS})(?!\S)")


@magics_class
class NbflowMagics(Configured, Magics):
    """`%%task`, `%flow` and `%session`.

    Args:
        shell: The IPython shell.
        state: What nbflow keeps about it.
    """

    def __init__(self, shell: Any, state: ShellState) -> None:
        super().__init__(shell)
        self.state = state
        self.observe(lambda change: state.open_panel(), "progress")

    @output_can_be_silenced
    @magic_arguments()
    @argument("name", nargs="?", metavar="NAME", help="What to call the cell; default: the first name that it binds.")
    @argument(
        "-i", "--inputs", metavar="a,b", help="Names that the result depends on, instead of those found in the body."
    )
    @argument("-o", "--outputs", metavar="x,y", help="Names to store, instead of those found in the body.")
    @argument(
        "-f", "--force", action="store_true", help="Run the body even if its result is cached, and store it anew."
    )
    @argument(
        "-n", "--no-cache", action="store_true", help="Neither look up nor store a result; the same as --cache off."
    )
    @argument(
        "--cache", metavar="disk|session|off", help="Where to keep the result: on disk (default), or in memory only."
    )
    @argument("--ttl", metavar="TIME", help="How long the result is good for: seconds, or 90s, 10min, 2h, 1d, 1w.")
    @argument("--version", metavar="S", help="Part of the key: another version is another result.")
    @argument("--ignore", metavar="a,b", help="Names that do not count as inputs.")
    @argument("--depends", metavar="f,g", help="Further names (functions, data) that the result depends on.")
    @argument("--retries", type=int, default=0, metavar="N", help="How many times to run the body again if it fails.")
    @argument("--timeout", metavar="TIME", help="Time that the body may take, as for --ttl.")
    @argument(
        "-q", "--quiet", action="store_true", help="No badge on a hit, and no word if the result cannot be stored."
    )
    @argument("-v", "--verbose", action="store_true", help="Say what was done and why.")
    @argument("--no-replay", action="store_true", help="On a hit restore the names, but do not print and show again.")
    @argument("--bg", action="store_true", help="Give the prompt back at once; the cell runs on a thread meanwhile.")
    @cell_magic
    def task(self, line: str, cell: str) -> Any:
        """Run this cell as a task: if its code and inputs are as before, restore its names and show its output again.

        Inputs and outputs are found in the body. Imports, functions and classes are made anew on every run. The last
        value is the value of the cell; `;` silences it.
        """
        __tracebackhide__ = True
        return self.state.run_task(parse_task_line(line, self.cell_defaults()), cell)

    @line_magic("%task")  # type: ignore[arg-type]
    def misplaced_task(self, line: str) -> None:
        """What IPython takes `%%task` for below the first line of a cell; a word on how to put it."""
        raise UsageError(
            "%%task must be the first line of its cell, before comments too. Move it up, or what is above it into "
            "a cell of its own."
        )

    @line_magic
    def flow(self, line: str) -> Any:
        """What ran, what is stale, and why.

        %flow [status]              table of task cells and functions: fresh, cached, stale, failed, uncached
        %flow why NAME [--dry]      why NAME ran last time, or is stale; with --dry what it would do now
        %flow stale                 what would run again, and why
        %flow run [NAMES] [-f]      run stale cells again, in dependency order; with -f/--force all of them, or NAMES
        %flow run [NAMES] -j N      the same, up to N cells that do not depend on each other at a time
        %flow clear [NAME]          forget the cached results of NAME, or all of them
        %flow graph                 draw which cell feeds which, stale ones marked
        %flow timeline              draw what ran when
        %flow history [NAMES]       how runs went over time, restarts included; --limit N for the last N of each
        %flow auto [on|off]         after each cell, run the cells that it made stale
        %flow wait [NAMES]          wait for cells in the background; with --timeout S for at most S seconds
        %flow cancel [NAMES]        cancel what runs in the background: NAMES, or --all
        %flow export FILE.py        write the cells that ran as a script that needs no Jupyter
        """
        __tracebackhide__ = True
        return self.state.flow.do(line)

    @magic_arguments()
    @argument("--backend", metavar="B", help="Where maps and submits run: inline, thread, process, dask, …")
    @argument("--cache", metavar="PATH", help="Where cached results live: a folder, or off for memory only.")
    @argument("--shared", metavar="URL", help="A store behind it: a folder, URL or bundle, or off for none.")
    @argument("--datasets", metavar="PATH", help="Where datasets live: a folder or URL.")
    @argument("--wrap-errors", action="store_true", help="Raise TaskError from the user's exception.")
    @argument("--show", action="store_true", help="Show the session after opening it.")
    @argument("--close", action="store_true", help="Close the session; tasks then run in the default one.")
    @line_magic
    def session(self, line: str) -> Any:
        """Open the notebook's session in place of the one there is; without options, show it."""
        __tracebackhide__ = True
        options = _parse(self.session, line)
        state = self.state
        opening = options.backend or options.cache or options.shared or options.datasets or options.wrap_errors
        if options.close:
            if opening or options.show:
                raise UsageError("--close goes with no other option.")
            state.close_session()
            return None
        if opening:
            settings = load_settings(wrap_errors=True) if options.wrap_errors else None
            try:
                state.open_session(
                    backend=options.backend,
                    cache_store=options.cache,
                    cache_shared=options.shared,
                    dataset_store=options.datasets,
                    settings=settings,
                )
            except NbflowError as error:
                raise UsageError(str(error)) from None
        if options.show or not opening:
            print(describe_session(state.session, state.session_options))
        return None


def describe_session(session: Any, options: Mapping[str, Any]) -> str:
    """Return what a session, opened with these options, is; some lines of text."""
    if session is None:
        return "No session is open; tasks run in the default one. %session --backend … opens one."
    cache = session.cache_store
    rows = {
        "session": session.session_id,
        "backend": session.backend,
        "cache": getattr(cache, "location", None) or "memory only",
        "shared": getattr(getattr(cache, "shared", None), "url", "nothing"),
        "datasets": options.get("dataset_store") or session.settings.dataset_store,
        "errors": "wrapped in TaskError" if session.settings.wrap_errors else "as raised",
    }
    return "\n".join(f"{name:<9} {value}" for name, value in rows.items())


def parse_task_line(line: str, defaults: CellDefaults = _PLAIN) -> CellOptions:
    """Return the options of a `%%task` line.

    Args:
        line: What follows `%%task`.
        defaults: What counts where the line says nothing.

    Raises:
        UsageError: Some option is wrong; the message says which.
    """
    if apart := _UNIT_APART.search(line):
        unit = "min" if apart[3].startswith("m") else apart[3][0]
        raise UsageError(f"{apart[0]}: write number and unit as one word, such as {apart[1]} {apart[2]}{unit}.")
    given = _parse(NbflowMagics.task, line)
    cache = given.cache or ("off" if given.no_cache else defaults.cache)
    if cache not in ("disk", "session", "off"):
        raise UsageError(f"--cache {cache}: use disk, session or off.")
    if given.no_cache and cache != "off":
        raise UsageError(f"--no-cache and --cache {cache} contradict each other.")
    if given.quiet and given.verbose:
        raise UsageError("--quiet and --verbose contradict each other.")
    if given.retries < 0:
        raise UsageError(f"--retries {given.retries}: use a whole number ≥ 0.")
    needing = {"--ttl": given.ttl, "--version": given.version, "--ignore": given.ignore, "--depends": given.depends}
    needing |= {"--inputs": given.inputs, "--outputs": given.outputs, "--no-replay": given.no_replay}
    useless = [option for option, value in needing.items() if value]
    if cache == "off" and useless:
        raise UsageError(f"{useless[0]} has no meaning without a cache.")
    timeout = parse_duration("--timeout", given.timeout)
    if timeout == 0:
        raise UsageError("--timeout 0: use a time > 0.")
    return CellOptions(
        name=None if given.name is None else given.name.strip("'\""),
        inputs=_names("--inputs", given.inputs),
        outputs=_names("--outputs", given.outputs),
        force=given.force,
        cache=cache,
        ttl=parse_duration("--ttl", given.ttl) if given.ttl or cache == "off" else defaults.ttl,
        version=given.version,
        ignore=frozenset(_names("--ignore", given.ignore) or ()),
        depends=_names("--depends", given.depends) or (),
        retries=given.retries,
        timeout=timeout,
        quiet=given.quiet or (defaults.quiet and not given.verbose),
        verbose=given.verbose or (defaults.verbose and not (given.quiet or defaults.quiet)),
        replay=defaults.replay and not given.no_replay,
        background=given.bg,
    )


def _parse(magic: Any, line: str) -> Any:
    try:
        return parse_argstring(magic, line)
    except ValueError as error:  # quotes that do not close
        raise UsageError(f"{error}: {line}") from None
    except UsageError as error:
        known = [option for action in magic.parser._actions for option in action.option_strings]
        wrong = re.search(r"unrecognized arguments: (-[^\s=]+)", str(error))
        if wrong and magic is NbflowMagics.task and wrong[1] == "--backend":
            raise UsageError(
                f"{error}; a cell runs in the kernel, the maps in it where %session --backend says."
            ) from None
        raise UsageError(f"{error}{perhaps(wrong[1], known)}" if wrong else str(error)) from None


def _names(option: str, text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    bare = text.strip("'\"").strip()
    if bare.startswith(",") or bare.endswith(","):
        raise UsageError(f"{option} {text}: a name is missing; write names with commas and without blanks, as in a,b.")
    names = tuple(name.strip() for name in bare.split(",") if name.strip())
    for name in names:
        if not name.isidentifier():
            raise UsageError(
                f"{option} {text}: {name!r} is not a name; write names with commas and without blanks, as in a,b."
            )
    return names


def completion_matcher(state: ShellState) -> Callable[[CompletionContext], SimpleMatcherResult]:
    """Return a matcher for IPython's completer: options of our magics, subcommands, and names of cells and tasks."""

    def nbflow_matcher(context: CompletionContext) -> SimpleMatcherResult:
        line = context.line_with_cursor
        found = re.match(r"\s*%{1,2}(task|flow|session)\s", line)
        words: list[str] = []
        if found is not None:
            before = line[: len(line) - len(context.token)].split()
            words = _candidates(state, found[1], before, context.token)
        hits = [SimpleCompletion(word, type="param") for word in words if word.startswith(context.token)]
        return {"completions": hits, "suppress": bool(hits)}

    register: Any = context_matcher(identifier="nbflow.options")
    matcher: Callable[[CompletionContext], SimpleMatcherResult] = register(nbflow_matcher)
    return matcher


def _candidates(state: ShellState, magic: str, before: list[str], token: str) -> list[str]:
    if magic != "flow":
        method: Any = NbflowMagics.task if magic == "task" else NbflowMagics.session
        last = before[-1] if before else ""
        if last in ("--cache", "--shared"):
            return ["disk", "session", "off"] if magic == "task" else ["off"]
        if last in ("-i", "--inputs", "-o", "--outputs", "--ignore", "--depends"):
            return sorted(name for name in state.shell.user_ns if not name.startswith("_"))
        if token.startswith("-"):
            return sorted(option for action in method.parser._actions for option in action.option_strings)
        return sorted(state.graph.nodes) if magic == "task" else []
    words = before[1:]
    if not words:
        return list(SUBCOMMANDS)
    if words[0] == "auto":
        return ["off", "on"]
    names = state.flow.names() if words[0] in ("why", "run", "clear", "cancel", "history", "wait") else []
    return [*names, *OPTIONS.get(words[0], ())]
