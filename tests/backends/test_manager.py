"""Finding backends by name, and owning them."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest

from nbflow import session
from nbflow.backends import Backend, BackendManager, InlineBackend, ThreadBackend, register_backend
from nbflow.backends import manager as manager_module
from nbflow.errors import BackendError, DefinitionError


class Mine(InlineBackend):
    name = "mine"
    stopped = 0

    def _stop(self) -> None:
        type(self).stopped += 1


@pytest.fixture
def manager() -> Any:
    """Return a manager that is stopped after the test."""
    made = BackendManager()
    yield made
    made.stop()


@pytest.mark.parametrize("alias", ["thread", "threads", "threading"])
def test_aliases_share_one_instance(manager: BackendManager, alias: str) -> None:
    """Aliases lead to the same running backend."""
    assert manager.resolve(alias) == "thread"
    assert manager.get(alias) is manager.get("thread")
    assert isinstance(manager.get(alias), ThreadBackend)


@pytest.mark.parametrize("alias", ["inline", "sequential", "synchronous"])
def test_inline_aliases(manager: BackendManager, alias: str) -> None:
    """The inline backend has the seed's names, too."""
    assert isinstance(manager.get(alias), InlineBackend)


@pytest.mark.parametrize("name", ["nope", "", None, 3])
def test_unknown_name(manager: BackendManager, name: Any) -> None:
    """An unknown name is an error that lists the known ones."""
    with pytest.raises(BackendError) as caught:
        manager.get(name)
    assert str(caught.value).startswith(f"There is no backend {name!r}")
    assert ("did you mean noop?" in str(caught.value)) == (name == "nope")
    assert "Known: dask, " in str(caught.value)
    assert "thread" in str(caught.value)


def test_registered_in_one_manager(manager: BackendManager) -> None:
    """`register` reaches this manager only."""
    manager.register("mine", Mine)
    assert isinstance(manager.get("mine"), Mine)
    assert "mine" in manager.names()
    with pytest.raises(BackendError):
        BackendManager().get("mine")


def test_registered_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """`register_backend` reaches every session."""
    monkeypatch.setattr(manager_module, "_registered", {})
    register_backend("mine", Mine)
    with session(backend="mine") as context:
        assert isinstance(context.backends.get("mine"), Mine)


def test_own_class_replaces_a_builtin(manager: BackendManager) -> None:
    """A session may put its own class behind a known name."""
    manager.register("thread", Mine)
    assert isinstance(manager.get("threads"), Mine)


@pytest.mark.parametrize(("name", "cls"), [("", Mine), (3, Mine), ("mine", Mine()), ("mine", dict)])
def test_bad_registration(manager: BackendManager, name: Any, cls: Any) -> None:
    """Only a Backend class under a name can be registered."""
    for register in (manager.register, register_backend):
        with pytest.raises(DefinitionError, match="cannot name a backend|not a subclass"):
            register(name, cls)


def test_entry_points(manager: BackendManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends of other packages are found by their entry point and loaded when first used."""

    class Point:
        name = "elsewhere"
        loaded = 0

        def load(self) -> type[Backend]:
            self.loaded += 1
            return Mine

    point = Point()
    monkeypatch.setattr(manager_module, "_entry_points", {"elsewhere": point})
    assert manager.resolve("elsewhere") == "elsewhere"
    assert point.loaded == 0
    assert isinstance(manager.get("elsewhere"), Mine)
    assert point.loaded == 1


def test_entry_points_are_read_from_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group is `nbflow.backends`, asked for once."""
    asked: list[str] = []

    def entry_points(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint("json", "json:JSONDecoder", group)]

    monkeypatch.setattr(manager_module, "_entry_points", None)
    monkeypatch.setattr(manager_module, "entry_points", entry_points)
    manager = BackendManager()
    with pytest.raises(DefinitionError, match="not a subclass"):
        manager.get("json")
    with pytest.raises(BackendError, match="json"):
        manager.get("nope")
    assert asked == ["nbflow.backends"]


def test_stops_all(manager: BackendManager) -> None:
    """Stopping stops each started backend once, and the manager can be used again."""
    Mine.stopped = 0
    manager.register("mine", Mine)
    first = manager.get("mine")
    manager.stop()
    manager.stop()
    assert Mine.stopped == 1
    assert manager.get("mine") is not first


def test_nothing_starts_before_it_is_used() -> None:
    """A manager that is asked for names starts nothing."""
    Mine.stopped = 0
    manager = BackendManager()
    manager.register("mine", Mine)
    manager.resolve("mine"), manager.names()
    manager.stop()
    assert Mine.stopped == 0


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("multiprocessing", "process"),
        ("processes", "process"),
        ("distributed", "dask"),
        ("dry-run", "noop"),
        ("dask://host:8786", "tcp://host:8786"),
        ("tcp://10.0.0.1:1", "tcp://10.0.0.1:1"),
        ("tls://10.0.0.1:1", "tls://10.0.0.1:1"),
    ],
)
def test_other_names(manager: BackendManager, alias: str, name: str) -> None:
    """The seed's names, and addresses of schedulers, lead to a backend's own name; nothing is started for that."""
    assert manager.resolve(alias) == name


def test_an_address_makes_a_dask_backend(manager: BackendManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scheduler has a backend of its own."""
    made: list[str] = []

    class Fake(InlineBackend):
        def __init__(self, *, address: str) -> None:
            made.append(address)

    monkeypatch.setitem(manager_module._BUILTIN, "dask", "fake_dask_module:Fake")
    module = ModuleType("fake_dask_module")
    module.Fake = Fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_dask_module", module)
    assert manager.get("dask://a:1") is manager.get("tcp://a:1")
    assert manager.get("tcp://b:1") is not manager.get("tcp://a:1")
    assert made == ["tcp://a:1", "tcp://b:1"]


def test_a_backend_may_be_given(manager: BackendManager) -> None:
    """An object gets a name, is started and stopped here, and hides no backend of the session."""
    Mine.stopped = 0
    given, other, threads = Mine(), Mine(), ThreadBackend()
    assert manager.resolve(given) == "mine"
    assert manager.resolve(given) == "mine"
    assert manager.resolve(other) == "mine-2"
    assert manager.get(given) is given
    assert manager.get("mine") is given
    assert manager.get(threads) is threads
    assert manager.get("thread") is not threads
    assert given.started
    manager.stop()
    assert Mine.stopped == 1
    assert not given.started


def test_a_running_backend_stays_its_owners(manager: BackendManager) -> None:
    """A backend that was started by somebody else is not stopped here."""
    Mine.stopped = 0
    given = Mine()
    given.start()
    assert manager.get(given) is given
    manager.stop()
    assert Mine.stopped == 0
    assert given.started
    given.stop()


def test_an_executor_may_be_given() -> None:
    """The same executor is the same backend, everywhere in the session."""
    with ThreadPoolExecutor(2) as executor, session(backend=executor) as context:
        name = context.backend
        assert name == "executor"
        assert context.backends.get(executor) is context.backends.get(name)
        assert context.backends.get(name).submit(abs, (-1,)).result(60) == 1


@pytest.mark.parametrize("thing", [ThreadPoolExecutor, object(), [1], len])
def test_what_is_no_backend(manager: BackendManager, thing: Any) -> None:
    """Other objects are refused with what would do."""
    with pytest.raises(BackendError, match="an executor and a Dask client will do"):
        manager.resolve(thing)


def test_describes_what_there_is(manager: BackendManager, caplog: pytest.LogCaptureFixture) -> None:
    """Every backend that can be imported is there with its abilities; others are said."""

    class Broken:
        def load(self) -> None:
            raise ImportError("no such thing")

    manager.register("mine", Mine)
    manager_module._found_by_entry_point()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manager_module, "_entry_points", {"broken": Broken()})
        found = manager.describe()
    assert {"dask", "inline", "mine", "noop", "process", "thread"} <= set(found)
    assert found["noop"].dry
    assert found["inline"].local
    assert not found["dask"].local
    assert "broken" not in found
    assert "no such thing" in caplog.text


def test_stopping_waits_for_nobody_for_long(
    manager: BackendManager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Backends stop side by side; one that takes too long, or fails, keeps nobody."""
    free = threading.Event()
    together = threading.Barrier(2)

    class Slow(InlineBackend):
        name = "slow"

        def _stop(self) -> None:
            together.wait(60)
            free.wait(60)

    class Bad(InlineBackend):
        name = "bad"

        def _stop(self) -> None:
            together.wait(60)
            raise ValueError("cannot stop")

    monkeypatch.setattr(manager_module, "_STOP_S", 0.2)
    manager.get(Slow()), manager.get(Bad())
    manager.stop()
    free.set()
    assert "'slow' takes long to stop" in caplog.text
    assert "'bad' failed to stop" in caplog.text


def test_backends_are_imported_when_they_are_used() -> None:
    """The package brings in none of the heavy ones, nor do a session's start and end."""
    code = (
        "import sys, nbflow, nbflow.backends\n"
        "with nbflow.session() as context:\n"
        "    context.backends.resolve('dask'), context.backends.names()\n"
        "print(*[name for name in sys.modules if name.startswith(('distributed', 'dask', 'nbflow.backends.'))])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.removeprefix("nbflow.backends.") for name in done.stdout.split()}
    assert not loaded & {"dask", "executor", "noop", "process", "distributed", "travel"}
