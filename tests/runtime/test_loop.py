"""How a coroutine runs: without a loop, beside one, and on the one that awaits."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from types import FrameType
from typing import Any

import pytest

from nbflow import map_tasks, session, task
from nbflow.runtime import loop
from nbflow.settings import load_settings

_LIMIT_S = 60.0
variable: ContextVar[str] = ContextVar("variable", default="default")


async def answer(value: Any = 42) -> Any:
    await asyncio.sleep(0)
    return value


async def fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("oops")


def on_a_loop(func: Callable[[], Any]) -> Any:
    """Call a synchronous function under a running loop."""

    async def main() -> Any:
        return func()

    return asyncio.run(main())


# -- which way --------------------------------------------------------------------------------------------------------


def test_running_loop() -> None:
    """The loop of this thread is found, and only while it runs."""
    assert loop.running_loop() is None
    assert on_a_loop(lambda: loop.running_loop() is not None)


def test_without_a_loop() -> None:
    """Without a running loop a new one is used, and closed afterwards."""
    assert loop.run(answer()) == 42
    with pytest.raises(ValueError, match="oops"):
        loop.run(fail())


def _leaves_a_generator(said: list[str]) -> Any:
    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            said.append("generator closed")

    async def main() -> asyncio.AbstractEventLoop:
        async for _ in numbers():
            break
        return asyncio.get_running_loop()

    return main()


def _leaves_a_timer(said: list[str]) -> Any:
    async def main() -> asyncio.AbstractEventLoop:
        here = asyncio.get_running_loop()
        here.call_later(60, said.append, "timer of the call before")
        return here

    return main()


def _leaves_a_task(said: list[str]) -> Any:
    async def wait() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            said.append("task cancelled")
            raise

    async def main() -> asyncio.AbstractEventLoop:
        kept.append(asyncio.create_task(wait()))
        await asyncio.sleep(0)
        return asyncio.get_running_loop()

    kept: list[asyncio.Task[None]] = []
    return main()


def _leaves_a_thread(said: list[str]) -> Any:
    async def main() -> asyncio.AbstractEventLoop:
        said.append(await asyncio.to_thread(lambda: threading.current_thread().name))
        return asyncio.get_running_loop()

    return main()


@pytest.mark.parametrize(
    ("leave", "expected"),
    [
        (_leaves_a_generator, ["generator closed"]),
        (_leaves_a_timer, []),
        (_leaves_a_task, ["task cancelled"]),
        (_leaves_a_thread, ["asyncio_0"]),
    ],
)
def test_what_a_call_leaves_on_the_loop_of_its_worker_ends_with_it(
    leave: Callable[[list[str]], Any], expected: list[str]
) -> None:
    """As with a loop of its own: generators are closed, timers never ring, threads end; later calls see none."""
    said: list[str] = []
    before = set(threading.enumerate())
    with ThreadPoolExecutor(1) as pool:
        left = pool.submit(lambda: loop.run(leave(said))).result(60)
        assert said == expected
        assert left.is_closed()
        pool.submit(lambda: loop.run(asyncio.sleep(0.01))).result(60)
        assert said == expected
        assert not [each for each in set(threading.enumerate()) - before if each.name.startswith("asyncio_")]


def test_a_worker_keeps_its_loop() -> None:
    """In other threads one loop serves all calls: each in the caller's context, none with what another one left."""
    loops: list[asyncio.AbstractEventLoop] = []
    left: list[asyncio.Task[Any]] = []

    async def look(leave: bool = False) -> str:
        loops.append(asyncio.get_running_loop())
        if leave:
            left.append(asyncio.create_task(asyncio.sleep(60)))
        return variable.get()

    def work() -> list[Any]:
        found: list[Any] = [loop.run(look())]
        variable.set("set")
        found.append(loop.run(look(leave=True)))
        with pytest.raises(ValueError, match="oops"):
            loop.run(fail())
        found += [loop.run(look()), loop.running_loop()]
        with pytest.raises(RuntimeError):
            asyncio.get_event_loop()
        return found

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(work).result() == ["default", "set", "set", None]
    assert loops[0] is loops[1] is not loops[2]
    assert left[0].cancelled()
    assert all(each.is_closed() for each in loops)


def test_loop_thread() -> None:
    """With the bridge "thread" the coroutine runs on a loop of its own in another thread."""
    main = threading.get_ident()

    async def where() -> bool:
        return threading.get_ident() == main

    def sync() -> Any:
        with pytest.raises(ValueError, match="oops"):
            loop.run(fail(), bridge="thread")
        return loop.run(where(), bridge="thread"), loop.run(answer(None), bridge="thread")

    assert on_a_loop(sync) == (False, None)


def test_loop_thread_sees_the_context() -> None:
    """Context variables of the caller are seen there."""

    async def read() -> str:
        return variable.get()

    def sync() -> Any:
        variable.set("caller")
        return loop.run(read(), bridge="thread")

    assert on_a_loop(sync) == "caller"


def test_interrupted_loop_thread() -> None:
    """An interrupt while the loop thread works cancels the coroutine, waits for its clean-up and is raised."""
    begun, cleaned = threading.Event(), threading.Event()
    main = threading.get_ident()

    async def forever() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    def interrupt() -> None:
        begun.wait(_LIMIT_S)
        while not _waits(sys._current_frames()[main]):
            cleaned.wait(0.001)
        signal.pthread_kill(main, signal.SIGINT)

    helper = threading.Thread(target=interrupt)

    def sync() -> None:
        old = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                loop.run(forever(), bridge="thread")
        finally:
            signal.signal(signal.SIGINT, old)

    helper.start()
    on_a_loop(sync)
    helper.join(_LIMIT_S)
    assert cleaned.is_set()


def _waits(frame: FrameType | None) -> bool:
    names = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return "_run_in_thread" in names and names[0] == "wait"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_loop_of_another_make_is_never_patched() -> None:
    """A loop that is not asyncio's own gets a loop thread beside it, whatever the setting says."""

    class Foreign:
        """Delegates to a loop without being one."""

    main = threading.get_ident()

    async def where() -> bool:
        return threading.get_ident() == main

    asyncio._set_running_loop(Foreign())  # type: ignore[arg-type]
    try:
        assert loop.run(where()) is False
    finally:
        asyncio._set_running_loop(None)


# -- bridged ----------------------------------------------------------------------------------------------------------


def test_bridged_runs_on_the_awaiting_loop() -> None:
    """Synchronous code can run coroutines on the very loop that awaits it, several times, nested."""

    async def main() -> Any:
        here = asyncio.get_running_loop()
        ticks: list[int] = []

        async def tick() -> None:
            for number in range(3):
                ticks.append(number)
                await asyncio.sleep(0)

        async def where() -> bool:
            await asyncio.sleep(0)
            return asyncio.get_running_loop() is here

        def sync() -> Any:
            assert loop.run(where()) is True
            loop.run(ticking)
            assert ticks == [0, 1, 2]
            return [loop.run(answer(None)), loop.run(answer(5))]

        async def wait(task: asyncio.Task[None]) -> None:
            await task

        ticking = wait(asyncio.create_task(tick()))
        return await loop.bridged(sync)

    assert asyncio.run(main()) == [None, 5]


def test_bridged_exceptions() -> None:
    """Exceptions cross in both directions: from the coroutine into the code, and out of it."""

    def sync() -> str:
        with pytest.raises(ValueError, match="oops"):
            loop.run(fail())
        raise KeyError("mine")

    async def main() -> None:
        with pytest.raises(KeyError, match="mine"):
            await loop.bridged(sync)

    asyncio.run(main())


def test_bridged_cancellation() -> None:
    """Cancelling the awaiting task reaches the coroutine that runs, and comes out of the code as usual."""
    cleaned: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("coroutine")

    def sync() -> None:
        try:
            loop.run(forever())
        finally:
            cleaned.append("code")

    async def main() -> None:
        running = asyncio.create_task(loop.bridged(sync))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert cleaned == ["coroutine", "code"]


def test_bridged_context() -> None:
    """The code sees the context variables of who awaits it, and its own settings hold between its coroutines."""

    async def read() -> str:
        return variable.get()

    def sync() -> list[str]:
        seen = [variable.get(), loop.run(read())]
        variable.set("changed")
        return [*seen, loop.run(read())]

    async def main() -> list[str]:
        variable.set("outer")
        return [*await loop.bridged(sync), variable.get()]

    found = asyncio.run(main())
    assert found[0] == "outer"
    assert found[3] == "outer"


def test_bridged_coroutine_functions() -> None:
    """A function that returns a coroutine is driven, and synchronous code inside may run coroutines, too."""

    def inside() -> int:
        return int(loop.run(answer(3)))

    async def body() -> int:
        one = await answer(1)
        two = inside()
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="oops"):
            await fail()
        with pytest.raises(ValueError, match="oops"):
            loop.run(fail())
        return int(one) + two

    async def main() -> int:
        return int(await loop.bridged(body))

    assert asyncio.run(main()) == 4


def test_bridged_code_without_coroutines() -> None:
    """Code that runs none is simply called."""
    assert asyncio.run(_await(lambda: loop.bridged(lambda: 5))) == 5


async def _await(make: Callable[[], Any]) -> Any:
    return await make()


def test_bridges_nest() -> None:
    """A bridge inside a bridge, and two side by side, each find their own way."""

    async def inner(value: int) -> int:
        return int(await loop.bridged(lambda: loop.run(answer(value))))

    def outer(value: int) -> int:
        return int(loop.run(inner(value))) + int(loop.run(answer(value)))

    async def main() -> list[int]:
        return await asyncio.gather(*(loop.bridged(lambda value=value: outer(value)) for value in range(5)))

    assert asyncio.run(main()) == [0, 2, 4, 6, 8]


def test_bridge_is_not_used_from_another_thread() -> None:
    """A thread that inherited the context cannot switch greenlets, and uses a loop of its own."""

    def sync() -> Any:
        async def main() -> Any:
            return await asyncio.to_thread(lambda: loop.run(answer(7)))

        return loop.run(main())

    assert asyncio.run(_await(lambda: loop.bridged(sync))) == 7


def test_maps_under_a_bridge() -> None:
    """A map of async tasks in bridged code runs on the awaiting loop."""

    @task
    async def item(x: int) -> Any:
        await asyncio.sleep(0)
        return x, asyncio.get_running_loop()

    async def main() -> Any:
        here = asyncio.get_running_loop()
        found = await loop.bridged(lambda: map_tasks(item, range(3)))
        return [(x, used is here) for x, used in found]

    with session():
        assert asyncio.run(main()) == [(0, True), (1, True), (2, True)]


# -- the heartbeat ----------------------------------------------------------------------------------------------------


def test_heartbeat_wakes_the_loop() -> None:
    """While the block runs the loop wakes by itself; blocks share one ticker, which ends with the last."""

    async def main() -> None:
        here = asyncio.get_running_loop()
        async with loop.heartbeat(), loop.heartbeat():
            assert len(loop._beats) == 1
            first = loop._beats[id(here)].handle
            while loop._beats[id(here)].handle is first:
                await asyncio.sleep(loop.TICK_S)
        assert not loop._beats

    asyncio.run(main())
    assert not loop._beats


def test_heartbeat_ends_with_an_error() -> None:
    """The ticker stops whatever ends the block."""

    async def main() -> None:
        with pytest.raises(ValueError, match="oops"):
            async with loop.heartbeat():
                raise ValueError("oops")
        assert not loop._beats

    asyncio.run(main())


def test_setting_of_the_session() -> None:
    """`loop_bridge` of the session decides for maps."""
    main = threading.get_ident()

    @task
    async def where(_: int) -> bool:
        return threading.get_ident() == main

    with session(settings=load_settings(loop_bridge="thread")):
        assert on_a_loop(lambda: map_tasks(where, range(2))) == [False, False]
        assert map_tasks(where, range(2)) == [True, True]
