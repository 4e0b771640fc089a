"""Stand-ins for session, shell and front end, so that the panel is tested without a kernel and without waiting."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from nbflow.core import events
from nbflow.notebook.panel import PanelController
from nbflow.notebook.panel.model import Model
from nbflow.testing import FakeClock


class Script:
    """Writes the events of calls as a session would tell them; `now` is the time stamp of the next one."""

    def __init__(self, tell: Callable[[events.Event], None], clock: FakeClock) -> None:
        self._tell = tell
        self._clock = clock

    def tell(self, fact: type[events.Event], call: int, name: str = "fit", **fields: Any) -> None:
        """Tell one fact at the clock's time."""
        self._tell(fact(call_id=call, name=name, time=self._clock.wall(), **fields))

    def start(self, call: int, name: str = "fit", **fields: Any) -> None:
        """A call begins."""
        self.tell(events.TaskStarted, call, name, **{"task": name, "kind": "sync", "backend": "inline", **fields})
        self.tell(events.AttemptStarted, call, name, number=1, map_id=fields.get("map_id"))

    def finish(self, call: int, name: str = "fit", duration_s: float = 1.0, **fields: Any) -> None:
        """A call returns."""
        self.tell(events.TaskCompleted, call, name, duration_s=duration_s, attempts=1, **fields)

    def hit(self, call: int, name: str = "fit", saved_s: float = 10.0) -> None:
        """A call comes from the cache, in no time."""
        self.tell(events.TaskStarted, call, name, task=name, kind="sync", backend="inline")
        self.finish(call, name, duration_s=0.0, cached=True, saved_s=saved_s)

    def fail(self, call: int, name: str = "fit", **fields: Any) -> None:
        """A call raises."""
        details = {"error": "ValueError: bad", "error_type": "ValueError", "traceback": "Traceback\nValueError: bad"}
        self.tell(events.TaskFailed, call, name, duration_s=1.0, attempts=1, **{**details, **fields})

    def start_map(self, call: int, total: int, name: str = "fit", **fields: Any) -> None:
        """A map begins."""
        self.tell(events.MapStarted, call, name, total=total, backend="thread", **fields)

    def end_map(self, call: int, total: int, name: str = "fit", **counts: Any) -> None:
        """A map is over."""
        known = {"completed": total, "cached": 0, "failed": 0, "cancelled": 0, "duration_s": 5.0}
        self.tell(events.MapEnded, call, name, total=total, **{**known, **counts})


class FakeSession:
    """What the panel needs of a session."""

    def __init__(self, progress: str = "auto") -> None:
        self.settings = SimpleNamespace(progress=progress)
        self.observers: list[tuple[Callable[[events.Event], None], bool]] = []
        self.maps: list[Any] = []
        self.calls: list[Any] = []
        self.active: dict[int, Any] = {}
        self.records: list[Any] = []
        self.samplers: list[Any] = []
        self.keep_failed: Any = None
        self.cancelled: list[tuple[int | None, str]] = []
        self.running: set[int] = set()

    def add_observer(self, observer: Callable[[events.Event], None], items: bool = True, sampler: Any = None) -> None:
        self.observers.append((observer, items))
        self.samplers.append(sampler)

    def remove_observer(self, observer: Callable[[events.Event], None]) -> None:
        self.observers = [pair for pair in self.observers if pair[0] != observer]

    def live_maps(self) -> list[Any]:
        return self.maps

    def live_calls(self) -> list[Any]:
        return self.calls

    def cancel(self, call_id: int, reason: str = "panel") -> bool:
        self.cancelled.append((call_id, reason))
        return call_id in self.running

    def cancel_all(self, reason: str = "panel") -> int:
        self.cancelled.append((None, reason))
        return len(self.running)

    def tell(self, event: events.Event) -> None:
        for observer, _ in self.observers:
            observer(event)


class FakeMap(SimpleNamespace):
    """A live map with its counters."""

    def running_items(self) -> list[tuple[int, str, float, str]]:
        return self.now_running


def live_map(number: int, total: int, *, now_running: Any = (), **counts: Any) -> FakeMap:
    """Return a live map called `fit`."""
    zero = {"completed": 0, "cached": 0, "failed": 0, "cancelled": 0, "running": 0, "saved_s": 0.0}
    return FakeMap(id=number, name="fit", total=total, now_running=list(now_running), **{**zero, **counts})


class FakeShell:
    """An IPython shell that keeps what is displayed: `shown` by display id, in order, `updates` counts changes."""

    def __init__(self, kernel: Any = None) -> None:
        if kernel is not None:
            self.kernel = kernel
        self.shown: dict[str, dict[str, Any]] = {}
        self.updates = 0
        self.display_pub = SimpleNamespace(publish=self._publish)

    def _publish(self, *, data: Any, metadata: Any, transient: dict[str, str], update: bool) -> None:
        assert metadata == {"nbflow": "panel"}
        assert update == (transient["display_id"] in self.shown)
        self.shown[transient["display_id"]] = data
        self.updates += 1

    @property
    def bundles(self) -> list[dict[str, Any]]:
        return list(self.shown.values())


class Stage:
    """A controller on its stage: session, shell, clock and a timer that only runs when told to."""

    def __init__(
        self,
        mode: str | None = None,
        *,
        kernel: Any = None,
        shell: Any = "",
        progress: str = "auto",
        session: Any = None,
    ) -> None:
        self.clock = FakeClock(monotonic=1000.0) if session is None else session.clock
        self.session = FakeSession(progress) if session is None else session
        self.shell = FakeShell(kernel) if shell == "" else shell
        self.tick_function: Callable[[], float | None] | None = None
        self.wakes = 0
        self._due = 0.0
        self.panel = PanelController(self.session, mode, self.shell, clock=self.clock, ticker=self._start)
        self.do = Script(getattr(self.session, "tell", None), self.clock)  # type: ignore[arg-type]

    def _start(self, tick: Callable[[], float | None]) -> None:
        assert self.tick_function is None, "two timers at once"
        self.tick_function = tick
        self._due = self.clock.monotonic()
        self.wakes += 1

    @property
    def ticking(self) -> bool:
        return self.tick_function is not None

    def after(self, seconds: float) -> None:
        """Let time pass, the timer ticking as often as it asks for."""
        end = self.clock.monotonic() + seconds
        while self.tick_function is not None and self._due <= end + 1e-9:
            self.clock.advance(max(0.0, self._due - self.clock.monotonic()))
            delay = self.tick_function()
            if delay is None:
                self.tick_function = None
            else:
                self._due += delay
        self.clock.advance(max(0.0, end - self.clock.monotonic()))


@pytest.fixture
def make_stage() -> Any:
    """Return a maker of stages; their panels are closed at the end."""
    made: list[Stage] = []

    def make(*args: Any, **kwargs: Any) -> Stage:
        made.append(Stage(*args, **kwargs))
        return made[-1]

    make.live_map = live_map  # type: ignore[attr-defined]
    yield make
    for stage in made:
        stage.panel.close()


@pytest.fixture
def played() -> Any:
    """Return an empty model, a script that feeds it, and the script's clock."""
    clock = FakeClock(monotonic=1000.0)
    model = Model()
    return SimpleNamespace(model=model, do=Script(model.apply, clock), clock=clock)
