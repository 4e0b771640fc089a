"""Plugins: what may be one, in which order hooks are called, and what happens when one fails."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest

from nbflow import session, task
from nbflow.errors import DefinitionError
from nbflow.hooks import (
    HOOK_NAMES,
    Hooks,
    has_plugin,
    hook_impl,
    register_plugins,
    registered_plugins,
    unregister_plugins,
)
from nbflow.testing import EventRecorder

SEEDS_THIRTEEN = {
    "after_dataset_load",
    "after_dataset_save",
    "after_node_execute",
    "after_node_retry",
    "after_session_end",
    "before_dataset_load",
    "before_dataset_save",
    "before_node_execute",
    "before_node_retry",
    "before_session_start",
    "node_iteration",
    "on_cache_hit",
    "on_node_error",
}


class Quiet:
    """A plugin that does nothing."""

    @hook_impl
    def before_node_execute(self) -> None: ...


class Broken:
    """A plugin whose hook raises each time."""

    def __init__(self) -> None:
        self.calls = 0

    @hook_impl
    def before_node_execute(self, metadata: Any) -> None:
        self.calls += 1
        raise RuntimeError(f"broken at {metadata.name}")


@task
def double(x: int) -> int:
    return 2 * x


def test_the_seeds_hooks_are_there() -> None:
    """All thirteen names of the seed exist."""
    assert SEEDS_THIRTEEN <= HOOK_NAMES


def test_registration_is_idempotent_and_by_identity() -> None:
    """Registering twice has no effect, unknown ones are ignored on the way out; in a session equal ones count once."""

    @dataclass
    class Equal:
        @hook_impl
        def before_node_execute(self) -> None: ...

    one, two = Equal(), Equal()
    try:
        register_plugins(one, two, one)
        assert registered_plugins() == (one, two)
        assert has_plugin(Equal)
        assert not has_plugin(Equal, Quiet)
        with session() as context:
            assert context.hooks is not None
            assert context.hooks.plugins == (one,)
    finally:
        unregister_plugins(two, one, Quiet())
    assert registered_plugins() == ()
    assert not has_plugin(Equal)


def test_registered_plugins_reach_later_sessions_only() -> None:
    """A session asks for registered plugins when it opens."""
    plugin = Quiet()
    with session() as before:
        register_plugins(plugin)
        try:
            assert before.hooks is None
        finally:
            unregister_plugins(plugin)


class WrongArgument:
    @hook_impl
    def before_node_execute(self, nonsense: Any) -> None: ...


class WrongName:
    @hook_impl
    def before_lunch(self) -> None: ...


class OtherName:
    @hook_impl(specname="before_node_execute")
    def whatever(self) -> None: ...


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (object(), "is not a plugin: none of its methods is marked with @hook_impl"),
        (WrongName(), "implements before_lunch, which is no hook. Known: after_dataset_load"),
        (WrongArgument(), "does not fit"),
    ],
)
def test_bad_plugins(plugin: Any, said: str) -> None:
    """What is no plugin is refused when the session opens, in words that name plugin and hook."""
    with pytest.raises(DefinitionError) as caught:
        with session(plugins=[plugin]):
            pass
    assert said in str(caught.value)
    assert repr(plugin) in str(caught.value)


def test_specname() -> None:
    """A hookimpl may have a name of its own."""
    assert Hooks([OtherName()]).plugins


def test_failing_hook_warns_once_and_is_switched_off() -> None:
    """A hook that raises is reported once, never called again in that session, and the run goes on."""
    broken = Broken()
    with session(plugins=broken):
        with pytest.warns(RuntimeWarning, match="before_node_execute raised RuntimeError: broken at double") as warned:
            assert [double(1), double(2)] == [2, 4]
    assert len(warned) == 1
    assert broken.calls == 1


def test_failing_hook_does_not_silence_others() -> None:
    """The other plugins of the same hook, and the other hooks of the same plugin, are still called."""
    heard: list[str] = []

    class Other:
        @hook_impl
        def before_node_execute(self, metadata: Any) -> None:
            heard.append(f"before {metadata.name}")

    class HalfBroken(Broken):
        @hook_impl
        def after_node_execute(self, result: Any) -> None:
            heard.append(f"after {result}")

    with session(plugins=[Other(), HalfBroken(), Other()]), pytest.warns(RuntimeWarning, match="switched off"):
        double(1)
    assert heard == ["before double", "before double", "after 2"]


class Veto:
    """A wrapper that fails calls on purpose."""

    def __init__(self, hook: str) -> None:
        self.hook = hook

    @hook_impl(wrapper=True)
    def before_node_execute(self) -> Generator[None, Any, Any]:
        if self.hook == "before_node_execute":
            raise PermissionError("vetoed")
        return (yield)

    @hook_impl(wrapper=True)
    def after_node_execute(self) -> Generator[None, Any, Any]:
        result = yield
        if self.hook == "after_node_execute":
            raise PermissionError("vetoed")
        return result

    @hook_impl(wrapper=True)
    def on_node_error(self) -> Generator[None, Any, Any]:
        if self.hook == "on_node_error":
            raise PermissionError("vetoed")
        return (yield)


@pytest.mark.parametrize(("hook", "runs"), [("before_node_execute", 0), ("after_node_execute", 1)])
def test_wrapper_may_fail_a_call(hook: str, runs: int, recorder: EventRecorder) -> None:
    """What a wrapper raises fails the call, without the function being run again."""
    ran: list[int] = []

    @task(retries=3)
    def item() -> None:
        ran.append(1)

    with session(plugins=Veto(hook), observers=[recorder]), pytest.raises(PermissionError, match="vetoed"):
        item()
    assert len(ran) == runs
    recorder.check()
    assert recorder.kinds()[-2] == "TaskFailed"


def test_wrapper_around_an_error(recorder: EventRecorder) -> None:
    """A wrapper that raises while a failure is told replaces it; there is still one ending."""

    @task
    def item() -> None:
        raise ValueError("oops")

    with session(plugins=Veto("on_node_error"), observers=[recorder]), pytest.raises(PermissionError, match="vetoed"):
        item()
    recorder.check()


def test_wrapper_cannot_swallow_an_interrupt(recorder: EventRecorder) -> None:
    """An interrupt stays an interrupt, whatever a wrapper of its hook raises."""

    class Loud:
        @hook_impl(wrapper=True)
        def on_node_cancelled(self) -> Generator[None, Any, Any]:
            raise PermissionError("vetoed")
            yield

    @task
    def item() -> None:
        raise KeyboardInterrupt

    with session(plugins=Loud(), observers=[recorder]):
        with pytest.raises(KeyboardInterrupt), pytest.warns(RuntimeWarning, match="vetoed"):
            item()
    recorder.check()
    assert "TaskCancelled" in recorder.kinds()


def test_inner_session_adds_plugins() -> None:
    """Plugins of an inner session come on top of those around; without own ones the very same are used."""
    outer, inner = Quiet(), Quiet()
    with session(plugins=[outer]) as around:
        with session() as same:
            assert same.hooks is around.hooks
        with session(plugins=[inner, outer]) as context:
            assert context.hooks is not None
            assert context.hooks.plugins == (outer, inner)


def test_reporter_reaches_observers(recorder: EventRecorder) -> None:
    """A plugin may send events of its own through the reporter."""
    from nbflow.events import ProgressMade

    class Teller:
        @hook_impl
        def before_node_execute(self, metadata: Any, reporter: Any) -> None:
            reporter.report(ProgressMade(call_id=metadata.id, name=metadata.name, time=0.0, done=1, total=2))

    with session(plugins=Teller(), observers=[recorder]):
        double(1)
    assert [event.done for event in recorder.of(ProgressMade)] == [1]
