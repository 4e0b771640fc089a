"""The panel: what it costs to be watched, in a map, in a loop of trivial calls, and for each item of `progress`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

from benchmarks.method import Contestant, Goal, Round, Scenario, timed

__all__ = ["MAKERS"]

_WORKERS = 2


def _same(n: int) -> int:
    return n


@contextmanager
def _session(*, watched: bool) -> Iterator[Any]:
    """Open a session, with a panel as in a notebook whose front end takes HTML."""
    import nbflow
    from nbflow.notebook.panel import PanelController
    from nbflow.settings import load_settings

    settings = load_settings(max_backend_threads=_WORKERS)
    with nbflow.session(settings=settings) as context:
        shown: list[Any] = []
        shell = SimpleNamespace(display_pub=SimpleNamespace(publish=lambda **bundle: shown.append(bundle)))
        panel = PanelController(context, "html", shell) if watched else None
        try:
            yield SimpleNamespace(context=context, panel=panel, shown=shown)
        finally:
            if panel is not None:
                panel.close()


def _cell(scene: Any, work: Callable[[], Any], count: int) -> float:
    """Run `work` as a cell of a notebook would, and return the seconds of one of its `count` operations."""
    if scene.panel is None:
        return timed(work, count)
    scene.shown.clear()
    scene.panel.cell_started("cell 1")
    took = timed(work, count)
    scene.panel.cell_finished()
    assert scene.shown, "the panel says what ran"
    return took


def _map(quick: bool) -> Scenario:
    count = 1_000 if quick else 10_000

    def ours(*, watched: bool) -> Round:
        import nbflow

        same = nbflow.task(_same)

        def work() -> None:
            assert nbflow.map_tasks(same, range(count), backend="thread") == list(range(count))

        def one_round() -> float:
            with _session(watched=watched) as scene:
                nbflow.map_tasks(same, range(_WORKERS), backend="thread")  # starts the pool
                return _cell(scene, work, count)

        return one_round

    return Scenario(
        "panel-map",
        f"map of {count:,} trivial tasks on threads, with and without a panel",
        "µs a task",
        1e6,
        (
            Contestant("alone", lambda stack: ours(watched=False)),
            Contestant("panel", lambda stack: ours(watched=True)),
        ),
        (Goal("panel", 1.05, "alone"),),
        rounds=15,
    )


def _loop(quick: bool) -> Scenario:
    count = 2_000 if quick else 20_000

    def ours(*, watched: bool) -> Round:
        import nbflow

        same = nbflow.task(_same)

        def work() -> None:
            for number in range(count):
                same(number)

        def one_round() -> float:
            with _session(watched=watched) as scene:
                return _cell(scene, work, count)

        return one_round

    def added() -> Round:
        alone, watched = ours(watched=False), ours(watched=True)
        return lambda: watched() - alone()

    return Scenario(
        "panel-loop",
        f"a loop of {count:,} trivial calls, with and without a panel, and what the panel adds",
        "µs a call",
        1e6,
        (
            Contestant("alone", lambda stack: ours(watched=False)),
            Contestant("panel", lambda stack: ours(watched=True)),
            Contestant("added", lambda stack: added()),
        ),
        (Goal("added", 5.0),),
        rounds=15,
    )


def _progress(quick: bool) -> Scenario:
    count = 20_000 if quick else 200_000

    def ours(stack: ExitStack) -> Round:
        import nbflow

        @nbflow.task
        def counted() -> int:
            return sum(1 for _ in nbflow.progress(range(count)))

        def one_round() -> float:
            with _session(watched=True) as scene:
                return _cell(scene, lambda: (counted(), counted(), counted()), 3 * count)

        return one_round

    def with_tqdm(stack: ExitStack) -> Round:
        from tqdm.notebook import tqdm

        return lambda: timed(lambda: sum(1 for _ in tqdm(range(count), display=False)), count)

    return Scenario(
        "panel-progress",
        f"`progress` over {count:,} items in a task that the panel shows, beside tqdm.notebook",
        "µs an item",
        1e6,
        (Contestant("tqdm.notebook", with_tqdm), Contestant("nbflow", ours)),
        (Goal("nbflow", 1.0, "tqdm.notebook"),),
        rounds=15,
    )


MAKERS = (_map, _loop, _progress)
