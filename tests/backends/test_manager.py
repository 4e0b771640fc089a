"""Finding backends by name, and owning them."""

from __future__ import annotations

from importlib.metadata import EntryPoint
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
    assert f"There is no backend {name!r}. Known: inline" in str(caught.value)
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

    def entry_points(*, group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint("json", "json:JSONDecoder", group)]

    monkeypatch.setattr(manager_module, "_entry_points", None)
    monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
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
