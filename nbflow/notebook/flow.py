"""What `%flow` does: a table of what ran, what is stale and why, and running that again.

`Flow` asks the graph of cells and the session's records; it keeps nothing itself. Tables are objects with an HTML and
a text face, so they stay readable in a saved notebook.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbflow._util import format_duration, perhaps
from nbflow.cache.digest import task_function
from nbflow.cache.explain import Explanation
from nbflow.cache.fingerprint import fingerprint
from nbflow.cache.places import where_of
from nbflow.errors import DefinitionError
from nbflow.notebook.background import Job
from nbflow.notebook.cellkey import CellKeyer, ForcedKeyer
from nbflow.notebook.drawing import COLOURS, ICONS
from nbflow.notebook.graph import describe_changes
from nbflow.notebook.parallel import show
from nbflow.notebook.past import HISTORY_LIMIT, PastRuns, past_runs
from nbflow.notebook.reasons import cell_before, cell_now, task_before, task_now
from nbflow.notebook.rerun import cancel, rerun, wait, without_loop
from nbflow.notebook.script import script_of
from nbflow.notebook.views import graph_picture, timeline_picture
from nbflow.sessions import session_or_default

if TYPE_CHECKING:
    from nbflow.notebook.kernel import ShellState
    from nbflow.runtime.current import Call

__all__ = ["OPTIONS", "SUBCOMMANDS", "Flow", "Table"]

SUBCOMMANDS = (
    "status",
    "why",
    "stale",
    "run",
    "clear",
    "graph",
    "timeline",
    "history",
    "auto",
    "wait",
    "cancel",
    "export",
)
OPTIONS: dict[str, tuple[str, ...]] = {
    "why": ("--dry",),
    "run": ("-f", "--force", "-j", "--jobs"),
    "wait": ("--timeout",),
    "cancel": ("--all",),
    "history": ("--limit",),
}
_ALONE = ("status", "stale", "graph", "timeline")  # subcommands that take nothing more
_REMARKS = 3  # of each kind, below the table
_CODE = frozenset({"code", "closure", "default", "global", "helper", "class", "module"})


class Table:
    """Rows under headings, as HTML and as text.

    Args:
        headings: One for each column.
        rows: Text of each cell; the column `state` gets an icon and a colour beside its word.
        empty: What to say if there are no rows.
        caption: A line below.
    """

    def __init__(
        self, headings: tuple[str, ...], rows: Iterable[tuple[str, ...]], *, empty: str, caption: str = ""
    ) -> None:
        self.headings = headings
        self.rows = list(rows)
        self.empty = empty
        self.caption = caption

    def __repr__(self) -> str:
        if not self.rows:
            return self.empty
        table = [
            self.headings,
            *([ICONS.get(text, "") + " " + text if text in ICONS else text for text in row] for row in self.rows),
        ]
        widths = [max(len(row[column]) for row in table) for column in range(len(self.headings))]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table
        ]
        return "\n".join([*lines, *([self.caption] if self.caption else [])])

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<i>{escape(self.empty)}</i>"
        head = "".join(f'<th style="text-align:left">{escape(text)}</th>' for text in self.headings)
        body = "".join("<tr>" + "".join(map(self._html_cell, row)) + "</tr>" for row in self.rows)
        foot = f'<div style="opacity:.75">{escape(self.caption)}</div>' if self.caption else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{foot}"

    @staticmethod
    def _html_cell(text: str) -> str:
        if text in ICONS:
            return f'<td style="text-align:left;color:{COLOURS[text]}">{ICONS[text]} {text}</td>'
        return f'<td style="text-align:left">{escape(text)}</td>'


@dataclass(slots=True)
class _TaskSum:
    """What the session remembers of one `@task` function: its last call, and the last that made a whole key."""

    last: Call
    keyed: Call | None = None
    runs: int = 0
    saved_s: float = 0.0


class Flow:
    """The subcommands of `%flow`.

    Args:
        state: What nbflow keeps about the shell.
    """

    def __init__(self, state: ShellState) -> None:
        self.state = state

    def do(self, line: str) -> Any:
        """Do what the line says and return what to show.

        Raises:
            UsageError: There is no such subcommand, cell or task.
        """
        __tracebackhide__ = True
        command, rest = self._read(line)
        if command == "status":
            return self.status()
        if command == "why":
            dry = "--dry" in rest
            try:
                show(self.why(" ".join(word for word in rest if word != "--dry"), dry=dry))
            except DefinitionError as error:
                raise _usage(f"%flow why: {error}") from None
        elif command == "stale":
            return self.stale()
        elif command == "clear":
            print(self.clear(" ".join(rest)))
        elif command == "graph":
            return graph_picture(self.state.graph, self.state.key_now)
        elif command == "timeline":
            return timeline_picture(session_or_default())
        elif command == "history":
            return self.history(rest)
        elif command == "auto":
            print(self.auto(rest))
        elif command == "cancel":
            print(cancel(self.state, rest))
        elif command == "export":
            print(self.export(rest))
        elif command == "wait":
            print(without_loop(wait(self.state, rest)))
        else:
            without_loop(rerun(self.state, rest))
        return None

    def _read(self, line: str) -> tuple[str, list[str]]:
        command, *rest = _words(line) or ["status"]
        if command not in SUBCOMMANDS:
            meant = perhaps(command, SUBCOMMANDS) or "."
            raise _usage(f"%flow {command}: there is no such subcommand{meant} There are: {', '.join(SUBCOMMANDS)}.")
        if command in _ALONE and rest:
            raise _usage(f"%flow {command} takes nothing more, but got {' '.join(rest)!r}.")
        if command == "why" and rest in ([], ["--dry"]):
            raise _usage("%flow why NAME: which cell or task?")
        known = OPTIONS.get(command, ())
        for word in rest:
            if re.match(r"--?[a-zA-Z]", word) and word not in known and not re.fullmatch(r"-j\d+", word):
                there = f"{perhaps(word, known) or '.'} There are: {', '.join(known)}." if known else "; it takes none."
                raise _usage(f"%flow {command} {word}: there is no such option{there}")
        return command, rest

    def names(self) -> list[str]:
        """Names of all cells and tasks that are known."""
        return sorted({*self.state.graph.nodes, *self._tasks()})

    # -- looking

    def status(self) -> Table:
        """Return a table of all task cells and task functions of this session."""
        graph = self.state.graph
        stale = graph.stale(self.state.key_now)
        rows, total = [], 0.0
        jobs = {job.name: job for job in self.state.background.jobs.values() if job.live or job.state == "cancelled"}
        for node in sorted(graph.nodes.values(), key=lambda each: each.position):
            job = jobs.get(node.name)
            if job is not None and job.live:
                continue
            jobs.pop(node.name, None)
            state = "failed" if node.state == "failed" else "stale" if node.name in stale else node.state
            rows.append(
                (
                    node.name,
                    node.label,
                    state,
                    _ago(time.time() - node.last_run),
                    format_duration(node.saved_s),
                    str(node.runs),
                )
            )
            total += node.saved_s
        for job in jobs.values():
            node_runs = graph.nodes[job.name].runs if job.name in graph.nodes else 0
            rows.append((job.name, job.label, job.state, _lasting(job), "", str(node_runs)))
        for name, tally in self._tasks().items():
            call = tally.last
            age = call.session.clock.monotonic() - (call.ended or 0.0)
            saved = format_duration(tally.saved_s)
            rows.append((name, _place(call), self._task_state(tally), _ago(age), saved, str(tally.runs)))
            total += tally.saved_s
        headings = ("name", "where", "state", "last run", "saved", "runs")
        caption = " · ".join([f"{len(stale)} stale", f"saved {format_duration(total)} so far", *self._remarks()])
        return Table(headings, rows, empty="No task has run in this session yet.", caption=caption)

    def _remarks(self) -> list[str]:
        """Say what is odd about the graph: circles, and names that several cells bind."""
        graph = self.state.graph
        found = [f"in a circle: {' → '.join([*names, names[0]])}" for names in graph.cycles()[:_REMARKS]]
        for name, nodes in list(graph.rivals().items())[:_REMARKS]:
            last = max(nodes, key=lambda each: each.last_run)
            others = " and ".join(f"`{each.name}` ({each.label})" for each in nodes)
            number = "both" if len(nodes) == 2 else "all"
            found.append(f"{others} {number} write `{name}`: {last.label} ran last and counts")
        return [*found, *self.state.changes.remarks]

    def stale(self) -> Table:
        """Return a table of the cells that would run again, with reasons, in dependency order."""
        nodes = self.state.graph.nodes
        found = self.state.graph.stale(self.state.key_now)
        rows = [(name, nodes[name].label, reason) for name, reason in found.items()]
        return Table(("name", "where", "reason"), rows, empty="Nothing is stale.")

    def why(self, name: str, *, dry: bool = False) -> Explanation:
        """Say how a cell or task came by its values and whether they are up to date.

        Args:
            name: The cell or task.
            dry: Say what it would do if it were executed now, instead; for a task, called with the same arguments.

        Raises:
            DefinitionError: Nothing of that name has run.
        """
        graph, key_now = self.state.graph, self.state.key_now
        node = graph.nodes.get(name)
        if node is not None:
            return cell_before(graph, key_now, node, session_or_default()) if dry else cell_now(graph, key_now, node)
        tally = self._tasks().get(name)
        if tally is not None:
            call = tally.last
            head = f"{name} ({where})" if (where := _place(call)) else name
            if dry:
                now = self._task_of(call) or call
                return task_before(head, tally.keyed, now, session_or_default(), is_last=tally.keyed is call)
            return task_now(head, call, self._task_changes(tally.keyed))
        known = ", ".join(self.names())
        raise DefinitionError(f"nothing called {name!r} has run" + (f"; known: {known}." if known else " yet."))

    def _tasks(self) -> dict[str, _TaskSum]:
        found: dict[str, _TaskSum] = {}
        for call in list(session_or_default().records):
            if isinstance(call.spec.keyer, (CellKeyer, ForcedKeyer)):
                continue
            tally = found.setdefault(call.spec.name, _TaskSum(call))
            tally.last = call
            tally.keyed = call if call.key is not None and call.key.parts else tally.keyed
            tally.runs += 1
            tally.saved_s += call.saved_s
        return found

    def _task_state(self, tally: _TaskSum) -> str:
        call = tally.last
        if call.error is not None:
            return "failed"
        if not call.spec.cache:
            return "uncached"
        if self._task_changes(tally.keyed):
            return "stale"
        if call.notes and not call.cached:
            return "uncached"
        return "cached" if call.cached else "fresh"

    def _task_changes(self, call: Call | None) -> list[str]:
        """Say what has changed since that call in the code that a task reaches; arguments do not matter here."""
        if call is None or call.key is None:
            return []
        before = [part for part in call.key.parts if part.kind in _CODE]
        if not before:  # made by the user's own hash, which alone knows what counts
            return []
        now = self._task_of(call)
        function = call.spec.func if now is None else task_function(now)
        return describe_changes(before, [part for part in fingerprint(function).parts if part.kind in _CODE])

    def _task_of(self, call: Call) -> Any:
        """Return the task of that name as the notebook defines it now, or None."""
        return next((each for each in list(self.state.shell.user_ns.values()) if _is_task(each, call.spec.name)), None)

    def history(self, words: list[str]) -> PastRuns:
        """Return how tasks and cells of this notebook ran over time, those of these names or all."""
        limit, names = HISTORY_LIMIT, list(words)
        if "--limit" in names:
            place = names.index("--limit")
            number = names[place + 1] if place + 1 < len(names) else ""
            if not (number.isdecimal() and int(number)):
                raise _usage(f"%flow history --limit {number}: how many runs of each to show? Give a whole number ≥ 1.")
            limit = int(number)
            del names[place : place + 2]
        collector = session_or_default().collector
        if collector is None:
            raise _usage("%flow history: nothing is recorded, as the setting history is off; set NBFLOW_HISTORY=auto.")
        found = past_runs(collector.history, collector.notebook, names, limit)
        if names and (unknown := set(names) - {runs[0].task for runs in found.series}):
            raise _usage(f"%flow history: no run of {min(unknown)!r} is on record.")
        return found

    # -- doing

    def clear(self, name: str) -> str:
        """Forget cached results of one cell or task, or of all, and say how many that were."""
        store = session_or_default().cache_store
        if store is None:
            return "There is no cache."
        entries = list(store.entries(name or None))
        if name and not entries and name not in self.names():
            raise _usage(f"%flow clear {name}: nothing of that name is cached.")
        for entry in entries:
            store.invalidate(entry.key)
        size = sum(entry.size_bytes for entry in entries)
        return f"Forgot {len(entries)} cached result{'' if len(entries) == 1 else 's'} ({size / 1e6:.1f} MB)."

    def auto(self, words: list[str]) -> str:
        """Switch the running of stale cells after each cell on or off, and say which it is."""
        if words not in ([], ["on"], ["off"]):
            raise _usage(f"%flow auto {' '.join(words)}: use on or off.")
        if words:
            self.state.auto = words == ["on"]
        if not self.state.auto:
            return "Stale cells stay as they are until they are run: %flow run, or %flow auto on."
        return "After each cell, the cells that it made stale run again. %flow auto off ends that."

    def export(self, words: list[str]) -> str:
        """Write the cells that ran well, in their order, as a script, and say where."""
        if len(words) != 1 or not words[0].endswith(".py"):
            raise _usage("%flow export FILE.py: give the name of one Python file to write.")
        path = Path(words[0]).expanduser()
        texts = (raw for raw in self.state.ran.values() if raw.strip() and not raw.lstrip().startswith("%flow"))
        cells = [("code", raw) for raw in texts]
        try:
            path.write_text(script_of(cells, "Exported from a notebook by %flow export."), encoding="utf-8")
        except (OSError, DefinitionError) as error:
            raise _usage(f"%flow export {words[0]}: {error}") from None
        return f"Wrote {len(cells)} cell{'' if len(cells) == 1 else 's'} to {path}."

    def run_automatically(self) -> None:
        """Run the stale cells that can run now, in dependency order; cells that failed wait for their owner.

        Cells that await need the loop that waits for this cell, and are left stale, as is what reads from them.
        """
        graph = self.state.graph
        left: set[str] = set()
        names = []
        for name in graph.stale(self.state.key_now):
            node = graph.nodes[name]
            waits = node.state == "failed" or node.cell.is_async
            if waits or any(source.name in left for source in graph.sources(node)):
                left.add(name)
            else:
                names.append(name)
        if names:
            without_loop(rerun(self.state, names, waiting=False))

    async def do_async(self, line: str) -> None:
        """`%flow run` and `%flow wait` where some cells await."""
        __tracebackhide__ = True
        command, rest = self._read(line)
        if command == "run":
            await rerun(self.state, rest, on_loop=True)
        else:
            print(await wait(self.state, rest, on_loop=True))


def _usage(message: str) -> Exception:
    from IPython.core.error import UsageError

    return UsageError(message)


def _words(line: str) -> list[str]:
    """Return the words of a line; one in quotes may hold blanks, and a backslash is only that."""
    lexer = shlex.shlex(line, posix=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        return [word.strip("'\"") for word in lexer]
    except ValueError:
        raise _usage(f"%flow {line}: a quotation mark is not closed.") from None


def _is_task(value: Any, name: str) -> bool:
    return task_function(value) is not None and getattr(value, "name", None) == name


def _place(call: Call) -> str:
    code = getattr(call.spec.func, "__code__", None)
    return where_of(code.co_filename) if code is not None else ""


def _lasting(job: Job) -> str:
    took = format_duration(job.elapsed_s())
    return f"for {took}" if job.live else f"after {took}"


def _ago(seconds: float) -> str:
    return "just now" if seconds < 1 else f"{format_duration(round(seconds))} ago"
