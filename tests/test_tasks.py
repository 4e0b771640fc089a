"""`@task`: what it takes, what it refuses, and that a task behaves as the function that it wraps."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import signal
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from nbflow import map_tasks, session, task
from nbflow.datasets import DatasetStore
from nbflow.errors import DatasetError, DefinitionError, ParameterError, TaskError, TaskTimeoutError
from nbflow.events import AttemptStarted, RetryScheduled, StragglerLeft, TaskFailed, TaskStarted, TaskTimedOut
from nbflow.settings import Settings, set_global_settings
from nbflow.storage import FileDriver
from nbflow.tasks import AsyncTask, AsyncTaskStream, SyncTask, SyncTaskStream, Task
from nbflow.testing import EventRecorder, FakeClock
from nbflow.testing.faults import FaultyDriver

_LIMIT_S = 60.0

# -- a task is a function ---------------------------------------------------------------------------------------------


@task
def add(x: int, y: int = 2, *, z: int = 0) -> int:
    """Add numbers."""
    return x + y + z


@task(name="named")
async def fetch(x: int) -> int:
    """Fetch a number."""
    return x


@task
def stream(n: int) -> Iterator[int]:
    yield from range(n)


@task
async def async_stream(n: int) -> AsyncIterator[int]:
    for item in range(n):
        yield item


louder = add.with_options(retries=3)


class Shop:
    """Has tasks as methods."""

    def __init__(self, price: int) -> None:
        self.price = price

    @task
    def total(self, amount: int) -> int:
        """Multiply."""
        return self.price * amount

    @task(name="order_{amount}", retries=1)
    async def order(self, amount: int) -> int:
        return self.price * amount

    @classmethod
    @task
    def name(cls, suffix: str) -> str:
        return cls.__name__ + suffix

    @staticmethod
    @task
    def tax(amount: int) -> int:
        return amount // 5


def test_kinds() -> None:
    """Each kind of function gives its kind of task, which says what a call returns."""
    kinds = [SyncTask, AsyncTask, SyncTaskStream, AsyncTaskStream]
    tasks: list[Task[Any, Any]] = [add, fetch, stream, async_stream]
    assert [type(each) for each in tasks] == kinds
    assert [each.is_async for each in tasks] == [False, True, False, True]
    assert [each.is_generator for each in tasks] == [False, False, True, True]
    assert add(1) == 3
    assert asyncio.run(fetch(4)) == 4
    assert list(stream(3)) == [0, 1, 2]

    async def collect() -> list[int]:
        return [item async for item in async_stream(3)]

    assert asyncio.run(collect()) == [0, 1, 2]


def test_three_spellings() -> None:
    """`@task`, `@task()` and `@task(option=...)` all make tasks."""

    def func() -> int:
        return 1

    assert [task(func)(), task()(func)(), task(retries=1)(func)()] == [1, 1, 1]


def test_looks_like_its_function() -> None:
    """Name, documentation, module, signature and annotations are the function's."""
    assert add.__name__ == "add"
    assert add.__qualname__ == "add"
    assert add.__doc__ == "Add numbers."
    assert add.__module__ == __name__
    assert add.__annotations__ == {"x": "int", "y": "int", "z": "int", "return": "int"}
    assert str(inspect.signature(add)) == "(x: 'int', y: 'int' = 2, *, z: 'int' = 0) -> 'int'"
    assert add.__wrapped__ is add.func  # type: ignore[attr-defined]
    assert inspect.unwrap(add) is add.func
    assert repr(add).startswith("<sync task 'add' add(x: 'int'")


def test_leaves_the_module_alone() -> None:
    """Decorating neither renames the function nor adds names to its module."""
    source = "from nbflow import task\n@task\ndef f(x):\n    return x\n"
    module = types.ModuleType("fresh")
    exec(source, module.__dict__)
    names = {name for name in vars(module) if not name.startswith("__")}
    assert names == {"task", "f"}
    assert module.f.func.__qualname__ == "f"


def test_function_attributes_are_kept() -> None:
    """What was set on the function can be read from the task."""

    def func() -> None: ...

    func.tag = "x"  # type: ignore[attr-defined]
    assert task(func).tag == "x"


def test_options_can_be_read() -> None:
    """The seed's names of options are attributes."""
    made = task(retries=2, timeout=3.0, cache=True, cache_ttl=9, backend="thread", description="d")(add.func)
    assert (made.retries, made.timeout, made.cache, made.cache_ttl) == (2, 3.0, True, 9)
    assert (made.backend, made.description, made.dataset) == ("thread", "d", None)
    assert add.description == "Add numbers."
    with pytest.raises(AttributeError, match="'SyncTask' object has no attribute 'colour'"):
        _ = made.colour


def test_with_options() -> None:
    """A task with other options is a new one; the rest is kept."""
    assert louder.retries == 3
    assert add.retries == 0
    assert louder(1) == 3
    with pytest.raises(DefinitionError, match="no option colour. Options: backend"):
        add.with_options(colour="red")


def test_methods() -> None:
    """A task in a class is a method: it gets its instance, and has the signature of a bound method."""
    shop = Shop(3)
    assert shop.total(4) == 12
    assert Shop.total(shop, 4) == 12
    assert Shop.total(shop, amount=4) == 12
    assert str(inspect.signature(shop.total)) == "(amount: 'int') -> 'int'"
    assert shop.total.__doc__ == "Multiply."
    assert asyncio.run(shop.order(2)) == 6
    assert shop.order.retries == 1
    assert shop.name("!") == "Shop!"
    assert Shop.name("!") == "Shop!"
    assert shop.tax(10) == 2
    assert Shop.tax(10) == 2


def test_methods_in_sessions(recorder: EventRecorder) -> None:
    """The instance counts as the first argument: for names, for what plugins see, and for maps."""

    class Item:
        @task(name="{self}_{x}")
        def get(self, x: int) -> int:
            return x

        def __str__(self) -> str:
            return "item"

    with session(observers=[recorder]):
        assert Item().get(1) == 1
        assert map_tasks(Shop(2).total, [1, 2]) == [2, 4]
        assert map_tasks(Shop.name, ["a", "b"]) == ["Shopa", "Shopb"]
    assert [event.name for event in recorder.of(TaskStarted)][:3] == ["item_1", "total[0]", "total[1]"]
    with pytest.raises(ParameterError, match="missing 1 required positional argument: 'amount'"), session():
        Shop(1).total()  # type: ignore[call-arg]


def test_subclass_and_super() -> None:
    """A subclass may override a task and call the one it overrides."""

    class Sale(Shop):
        @task
        def total(self, amount: int) -> int:
            return super().total(amount) - 1

    assert Sale(3).total(4) == 11


@pytest.mark.parametrize("kind", [classmethod, staticmethod])
def test_order_of_decorators(kind: Callable[..., Any]) -> None:
    """`@task` above `@classmethod` is refused, with the right order."""
    with pytest.raises(DefinitionError, match=f"Put @{kind.__name__} above @task, not below"):
        task(kind(lambda: None))  # type: ignore[operator]


def test_pickles_by_reference() -> None:
    """A task at the top of a module, and a method of one, pickle by name: the same object comes back."""
    sys.modules.setdefault(__name__, sys.modules.get(__name__, types.ModuleType(__name__)))
    assert pickle.loads(pickle.dumps(add)) is add
    assert copy.copy(add) is add
    assert copy.deepcopy(add) is add
    assert pickle.loads(pickle.dumps(Shop.total)) is Shop.total
    assert pickle.loads(pickle.dumps(Shop(3).total))(4) == 12


def test_variants_pickle() -> None:
    """A variant of a task at the top of a module comes back with its own options."""
    twin = pickle.loads(pickle.dumps(louder))
    assert twin.retries == 3
    assert twin(1) == 3


def test_local_tasks_pickle_by_value() -> None:
    """Closures and lambdas go by value with cloudpickle."""
    base = 10

    @task(retries=2)
    def local(x: int) -> int:
        return base + x

    twin = cloudpickle.loads(cloudpickle.dumps(local))
    assert twin(1) == 11
    assert twin.retries == 2
    assert cloudpickle.loads(cloudpickle.dumps(task(lambda x: x + 1)))(1) == 2


def test_main_pickles_by_value(tmp_path: Path) -> None:
    """A task of a script or notebook is sent by value, so that a worker gets the code as it is now."""
    script = tmp_path / "script.py"
    script.write_text(
        "import cloudpickle, pickletools, io\n"
        "from nbflow import task\n"
        "@task(retries=2)\n"
        "def f(x):\n    return x + 1\n"
        "data = cloudpickle.dumps(f)\n"
        "globals().pop('f')\n"
        "twin = cloudpickle.loads(data)\n"
        "print(twin(1), twin.retries)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    assert done.stdout == "2 2\n", done.stderr


@pytest.mark.parametrize(
    ("func", "name", "args", "result"),
    [
        (functools.partial(add.func, y=5), "add", (1,), 6),
        (lambda x: x, "<lambda>", (3,), 3),
        (len, "len", ([1, 2],), 2),
        (Shop(2).total.func, "total", (3,), 6),
        (type("Adder", (), {"__call__": lambda self, x: x + 1})(), "Adder", (1,), 2),
        (print.__class__.__call__, "__call__", (len, "ab"), 2),
    ],
)
def test_other_callables(func: Callable[..., Any], name: str, args: tuple[Any, ...], result: Any) -> None:
    """Partials, lambdas, builtins, bound methods and callable objects can be tasks."""
    made = task(func)
    assert made.name == name
    assert made(*args) == result
    with session():
        assert made(*args) == result


def test_odd_signatures() -> None:
    """Positional-only, keyword-only and variadic parameters, and parameters called `self`, all work."""

    @task
    def odd(self: int, /, func: int, *args: int, spec: int = 1, **options: int) -> Any:
        return self, func, args, spec, options

    expected = (1, 2, (3,), 4, {"self": 5, "call": 6})
    assert odd(1, 2, 3, spec=4, self=5, call=6) == expected
    with session() as context:
        context.add_observer(lambda event: None)
        assert odd(1, 2, 3, spec=4, self=5, call=6) == expected


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (Shop, "A task is made of a function, not of the class 'Shop'. Give the function itself"),
        (3, "A task is made of a function, not of 3"),
        ("text", "A task is made of a function, not of 'text'"),
    ],
)
def test_what_is_no_function(what: Any, said: str) -> None:
    """Classes and values are refused."""
    with pytest.raises(DefinitionError) as caught:
        task(what)
    assert said in str(caught.value)
    assert isinstance(caught.value, TypeError)


def test_a_task_of_a_task() -> None:
    """Decorating twice is refused, with the way to change options."""
    with pytest.raises(DefinitionError, match=r"is a task already; use its with_options\(...\)"):
        task(add)


# -- bad options ------------------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"colour": "red"}, "@task has no option colour. Options: backend, backoff, cache"),
    ({"retry": 2}, "@task has no option retry; did you mean retries? Options: backend"),
    ({"ttl": 2}, "@task has no option ttl; did you mean cache_ttl? Options: backend"),
    ({"cache_tll": 2}, "@task has no option cache_tll; did you mean cache_ttl? Options: backend"),
    ({"name": ""}, "name='' must be a non-empty string."),
    ({"name": 3}, "name=3 must be a non-empty string."),
    ({"name": "a.b"}, "name='a.b' must not contain a dot; use '-' or '_' instead."),
    ({"name": "{y}"}, "name='{y}' uses y, which is no parameter of the function. Available: map_index, x."),
    ({"name": "{x"}, "name='{x' is not a valid template"),
    ({"name": "{x.real}"}, "{x.real} is not a plain parameter name"),
    ({"description": 3}, "description=3 must be a string, or None for the docstring."),
    ({"backend": ""}, "backend='' must be the name of a backend, such as 'thread'."),
    ({"backend": 3}, "backend=3 must be the name of a backend"),
    ({"retries": -1}, "retries=-1 must be a whole number ≥ 0: how many times"),
    ({"retry_delay": "1"}, "retry_delay='1' must be a number of seconds ≥ 0."),
    ({"backoff": 0}, "backoff=0 must be a number ≥ 1."),
    ({"jitter": -1}, "jitter=-1 must be a number ≥ 0."),
    (
        {"retry_on": KeyboardInterrupt},
        "retry_on=<class 'KeyboardInterrupt'> is not an Exception type; give one or a tuple",
    ),
    ({"retry_on": [OSError]}, "retry_on=[<class 'OSError'>] is not an Exception type"),
    ({"timeout": 0}, "timeout=0 must be a number of seconds > 0."),
    ({"timeout": "1 s"}, "timeout='1 s' must be a number of seconds > 0."),
    ({"cache": 3}, "cache=3 is no cache store; give a path, a URL or a CacheStore."),
    ({"cache": "memory"}, "cache='memory' would be a folder of that name; write cache='session', or './memory'."),
    ({"cache": "off"}, "write cache=False, or './off'."),
    ({"cache": ""}, "is no place for a cache; give a path, or cache=True"),
    ({"cache": True, "cache_store": 3}, "cache_store=3 is no cache store; give a path"),
    ({"cache": "a", "cache_store": "b"}, "cache='a' names a store and so does cache_store; give only one of them."),
    ({"cache": True, "cache_ttl": -1}, "cache_ttl=-1 must be a number of seconds ≥ 0."),
    ({"cache": True, "cache_ttl": "1d"}, "cache_ttl='1d' must be a number of seconds ≥ 0."),
    ({"cache": True, "cache_hash": "md5"}, "cache_hash='md5' must be a function (func, inputs) -> str."),
    ({"cache_ttl": 60}, "cache_ttl has no effect without caching; add cache=True."),
    ({"version": 2, "ignore": ["x"]}, "version, ignore has no effect without caching; add cache=True."),
    ({"cache": True, "ignore": "x"}, "ignore='x' must be a list; write ignore=['x']."),
    ({"cache": True, "ignore": 3}, "ignore=3 must be a list"),
    ({"cache": True, "ignore": ["y"]}, "ignore names 'y', which is no parameter. Parameters: x."),
    ({"cache": True, "depends": "file.csv"}, "depends='file.csv' must be a list; write depends=['file.csv']."),
    ({"cache": True, "depends": 3}, "depends=3 must be a list"),
    ({"dataset": ""}, "dataset='' must be a non-empty string, such as"),
    ({"dataset": 3}, "dataset=3 must be a non-empty string"),
    (
        {"dataset": "{y}.pkl"},
        "dataset='{y}.pkl' uses y, which is no parameter of the function. Available: map_index, x.",
    ),
    ({"dataset": "a.pkl", "dataset_store": 3}, "dataset_store=3 is no dataset store; give a path"),
    ({"dataset": "a.pkl", "dataset_format": 3}, "dataset_format=3 must be the name of a format, such as 'csv'."),
    ({"dataset_format": "csv"}, "dataset_format has no effect without"),
]


@pytest.mark.parametrize(("options", "said"), BAD, ids=[str(options) for options, _ in BAD])
def test_bad_options(options: dict[str, Any], said: str) -> None:
    """A bad option is one clear line when the task is defined: what, which value, what to do."""

    def func(x: int) -> int:
        return x

    with pytest.raises(DefinitionError) as caught:
        task(**options)(func)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("options", "said"), [({"retries": 1}, "retries"), ({"timeout": 1}, "timeout"), ({"cache": True}, "cache")]
)
@pytest.mark.parametrize("func", [stream.func, async_stream.func])
def test_what_a_stream_cannot_honour(options: dict[str, Any], said: str, func: Any) -> None:
    """Options that a stream cannot honour are an error, never ignored."""
    with pytest.raises(DefinitionError, match=f"{said} cannot be used on a generator.*Return a list instead"):
        task(**options)(func)


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, "func"),
        ("fit", "fit"),
        ("fit_{x}", "fit_7"),
        ("fit_{x:03d}_{y}", "fit_007_b"),
        ("{x:>5}|", "    7|"),
        ("{{x}}", "{x}"),
        ("{x}_{map_index}", "7_"),
    ],
)
def test_names(name: str | None, expected: str, recorder: EventRecorder) -> None:
    """The template is filled in from the arguments, defaults included."""

    @task(name=name)
    def func(x: int, y: str = "b") -> None: ...

    with session(observers=[recorder]) as context:
        func(7)
        assert context.records[-1].name == expected
    assert {event.name for event in recorder.events if event.call_id} == {expected}


@pytest.mark.parametrize(
    ("name", "expected"), [("i_{x}", ["i_5[0]", "i_6[1]"]), ("i_{map_index:02d}", ["i_00", "i_01"])]
)
def test_names_of_items(name: str, expected: list[str], recorder: EventRecorder) -> None:
    """Items of a map have their index in the name, where the template puts it or at the end."""

    @task(name=name)
    def func(x: int) -> int:
        return x

    with session(observers=[recorder]):
        map_tasks(func, [5, 6])
    assert [event.name for event in recorder.of(TaskStarted)] == expected


def test_arguments_without_text_do_not_fail_a_call(recorder: EventRecorder) -> None:
    """A value that cannot be shown leaves the template as it is."""

    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError("no")

    @task(name="see_{x}")
    def func(x: Any) -> int:
        return 1

    with session(observers=[recorder]):
        assert func(Hostile()) == 1
    assert recorder.of(TaskStarted)[0].name == "see_{x}"


# -- retries ----------------------------------------------------------------------------------------------------------


class Flaky:
    """A function that fails so many times first."""

    def __init__(self, times: int, error: BaseException) -> None:
        self.times = times
        self.error = error
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return "ok"


def test_retries_until_it_works() -> None:
    """A failing function is tried again as often as asked."""
    flaky = Flaky(2, OSError("down"))
    assert task(retries=2)(flaky)() == "ok"
    assert flaky.calls == 3


def test_gives_up_with_the_last_error() -> None:
    """When no retry is left the user's own exception is raised, with a note that counts the attempts."""
    flaky = Flaky(9, OSError("down"))
    with pytest.raises(OSError, match="down") as caught:
        task(retries=2, name="flaky")(flaky)()
    assert flaky.calls == 3
    assert caught.value is flaky.error
    assert caught.value.__notes__ == ["nbflow: in task 'flaky' after 3 attempts"]


def test_delays_by_a_fake_clock(fake_clock: FakeClock, recorder: EventRecorder) -> None:
    """Delays grow by the back-off, and are waited for on the session's clock."""
    with session(clock=fake_clock, observers=[recorder]):
        task(retries=3, retry_delay=1.0, backoff=2.0)(Flaky(3, OSError()))()
    assert fake_clock.sleeps == [1.0, 2.0, 4.0]
    assert [event.delay_s for event in recorder.of(RetryScheduled)] == [1.0, 2.0, 4.0]


def test_async_delays_by_a_fake_clock(fake_clock: FakeClock) -> None:
    """Async tasks wait in the same way."""
    flaky = Flaky(2, OSError())

    @task(retries=3, retry_delay=1.0, backoff=2.0)
    async def item() -> str:
        return flaky()

    with session(clock=fake_clock):
        assert asyncio.run(item()) == "ok"
    assert fake_clock.sleeps == [1.0, 2.0]


def test_jitter_is_seeded() -> None:
    """The same seed gives the same delays, another seed others; all within the fraction."""

    def delays(seed: int) -> list[float]:
        clock = FakeClock()
        with session(clock=clock, seed=seed):
            task(retries=5, retry_delay=1.0, jitter=0.5)(Flaky(5, OSError()))()
        return clock.sleeps

    assert delays(1) == delays(1)
    assert delays(1) != delays(2)
    assert all(1.0 <= delay < 1.5 for delay in delays(3))
    assert len(set(delays(3))) == 5


@pytest.mark.parametrize(("error", "calls"), [(KeyError("k"), 3), (IndexError("i"), 3), (ValueError("v"), 1)])
def test_retry_on(error: Exception, calls: int) -> None:
    """Only errors of the given types, and of their subclasses, are retried."""
    flaky = Flaky(9, error)
    with pytest.raises(type(error)):
        task(retries=2, retry_on=LookupError)(flaky)()
    assert flaky.calls == calls


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_interrupts_are_never_retried(error: BaseException, recorder: EventRecorder) -> None:
    """An interrupt or exit goes straight to the caller and is told as a cancellation."""
    flaky = Flaky(9, error)
    with session(observers=[recorder]), pytest.raises(type(error)):
        task(retries=9)(flaky)()
    assert flaky.calls == 1
    assert recorder.kinds()[-2] == "TaskCancelled"
    recorder.check()


def test_cancellation_of_an_async_task_is_never_retried(recorder: EventRecorder) -> None:
    """Cancelling the awaiting asyncio task cancels the call, and nothing else."""
    attempts: list[int] = []

    @task(retries=9)
    async def item() -> None:
        attempts.append(1)
        await asyncio.Event().wait()

    async def main() -> None:
        running = asyncio.create_task(item())
        while not attempts:
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    with session(observers=[recorder]):
        asyncio.run(main())
    assert attempts == [1]
    assert "TaskCancelled" in recorder.kinds()
    recorder.check()


def test_wrong_arguments_are_not_attempts(recorder: EventRecorder) -> None:
    """A call that does not fit the signature fails before anything starts: no event, no retry."""
    made = task(retries=9)(add.func)
    with session(observers=[recorder]):
        for call in (lambda: made(), lambda: made(1, 2, 3), lambda: made(1, nope=2)):
            with pytest.raises(ParameterError, match=r"\(signature: add\(x: 'int', y: 'int' = 2") as caught:
                call()
            assert "lambda" not in str(caught.value)
            assert isinstance(caught.value, TypeError)
            assert caught.value.task == "add"  # type: ignore[attr-defined]
    assert recorder.kinds() == ["SessionStarted", "SessionEnded"]


@pytest.mark.parametrize("inside", [True, False])
def test_wrong_arguments_of_plain_tasks(inside: bool) -> None:
    """The same holds for tasks without any option, in a session and without."""
    if inside:
        with session() as context, pytest.raises(ParameterError, match=r"add\(\) missing 1 required"):
            add()  # type: ignore[call-arg]
        assert not context.records
    else:
        with pytest.raises(ParameterError, match=r"add\(\) missing 1 required"):
            add()  # type: ignore[call-arg]


def test_a_type_error_inside_is_not_a_wrong_call() -> None:
    """A `TypeError` raised by the function's own code is just that."""

    @task
    def item(x: int) -> int:
        return len(x)  # type: ignore[arg-type]

    for _ in range(2):
        with pytest.raises(TypeError, match="has no len") as caught:
            item(3)
        assert not isinstance(caught.value, ParameterError)
        with session(), pytest.raises(TypeError, match="has no len") as caught:
            item(3)
        assert not isinstance(caught.value, ParameterError)


def test_wrong_arguments_of_async_tasks() -> None:
    """Async tasks check their arguments when they are awaited."""
    with session(), pytest.raises(ParameterError, match="missing 1 required"):
        asyncio.run(fetch())  # type: ignore[call-arg]


# -- timeouts ---------------------------------------------------------------------------------------------------------


def test_timeout_on_the_main_thread(recorder: EventRecorder) -> None:
    """A blocking call on the main thread is interrupted at its deadline; handler and timer are put back."""
    before, timer = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)

    @task(timeout=0.05)
    def item() -> None:
        threading.Event().wait()

    with (
        session(observers=[recorder]),
        pytest.raises(TaskTimeoutError, match="Task 'item' passed its timeout of 0.05 s") as caught,
    ):
        item()
    assert (caught.value.task, caught.value.timeout_s, caught.value.stopped) == ("item", 0.05, True)  # type: ignore[attr-defined]
    assert isinstance(caught.value, TimeoutError)
    assert [event.timeout_s for event in recorder.of(TaskTimedOut)] == [0.05]
    assert signal.getsignal(signal.SIGALRM) is before
    remaining, interval = signal.getitimer(signal.ITIMER_REAL)
    assert 0.0 <= remaining <= timer[0]
    assert interval == timer[1]
    recorder.check()


def in_thread(func: Callable[[], Any]) -> Any:
    """Call `func` in another thread and return what it returned or raised."""
    out: list[Any] = []

    def work() -> None:
        try:
            out.append(func())
        except BaseException as error:
            out.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(_LIMIT_S)
    return out[0]


def test_timeout_in_another_thread(recorder: EventRecorder) -> None:
    """Python code in another thread is stopped at its deadline."""
    ended = threading.Event()

    @task(timeout=0.05)
    def item() -> None:
        try:
            while True:
                threading.Event().wait(0.001)
        finally:
            ended.set()

    with session(observers=[recorder]) as context:
        error = in_thread(lambda: context.session and _inside(context, item))
    assert isinstance(error, TaskTimeoutError)
    assert ended.wait(_LIMIT_S)
    recorder.check()


def _inside(context: Any, func: Callable[..., Any]) -> Any:
    """Call `func` with a session as this thread's frame."""
    from nbflow.runtime import current

    token = current.enter(context)
    try:
        return func()
    finally:
        current.restore(token)


def test_straggler_is_left_and_reported(recorder: EventRecorder) -> None:
    """Code that cannot be stopped is left behind at the deadline, told once, and ends harmlessly later."""
    free = threading.Event()

    @task(timeout=0.2)
    def item() -> None:
        while not free.is_set():
            try:
                free.wait(_LIMIT_S)
            except BaseException:
                continue

    with session(observers=[recorder]) as context:
        error = in_thread(lambda: _inside(context, item))
        assert isinstance(error, TaskTimeoutError)
        assert error.stopped is False  # type: ignore[attr-defined]
        assert "still runs in the background" in str(error)
        assert len(recorder.of(StragglerLeft)) == 1
        free.set()
    recorder.check()


def test_async_timeout(recorder: EventRecorder) -> None:
    """A coroutine is cancelled at its deadline, its clean-up runs, and the asyncio task around it goes on."""
    cleaned: list[str] = []

    @task(timeout=0.02)
    async def item() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append("yes")

    async def main() -> str:
        with pytest.raises(TaskTimeoutError, match="passed its timeout"):
            await item()
        await asyncio.sleep(0)
        return "goes on"

    with session(observers=[recorder]):
        assert asyncio.run(main()) == "goes on"
    assert cleaned == ["yes"]
    recorder.check()


def test_timeout_counts_per_attempt_and_is_retried(recorder: EventRecorder) -> None:
    """Each attempt has the whole timeout; one that passed it may be tried again."""
    calls: list[int] = []

    @task(timeout=0.05, retries=1)
    def item() -> str:
        calls.append(1)
        if len(calls) == 1:
            threading.Event().wait()
        return "ok"

    with session(observers=[recorder]):
        assert item() == "ok"
    assert [event.number for event in recorder.of(AttemptStarted)] == [1, 2]
    recorder.check()


def test_a_timeout_error_of_the_user_is_a_failure(recorder: EventRecorder) -> None:
    """A `TimeoutError` that the code itself raises is no timeout of ours."""

    @task(timeout=_LIMIT_S)
    def item() -> None:
        raise TimeoutError("the server's")

    @task(timeout=_LIMIT_S)
    async def item_async() -> None:
        raise TimeoutError("the server's")

    with session(observers=[recorder]):
        for call in (item, lambda: asyncio.run(item_async())):
            with pytest.raises(TimeoutError, match="the server's") as caught:
                call()
            assert not isinstance(caught.value, TaskTimeoutError)
    assert len(recorder.of(TaskFailed)) == 2


def test_nested_timeouts_are_told_apart(recorder: EventRecorder) -> None:
    """The outer deadline ends the inner call as cancelled and the outer one as timed out."""

    @task(timeout=_LIMIT_S)
    def inner() -> None:
        threading.Event().wait()

    @task(timeout=0.05)
    def outer() -> None:
        inner()

    with session(observers=[recorder]), pytest.raises(TaskTimeoutError, match="Task 'outer'"):
        outer()
    ends = {event.name: type(event).__name__ for event in recorder.events if type(event).__name__.startswith("Task")}
    assert ends == {"inner": "TaskCancelled", "outer": "TaskTimedOut"}
    recorder.check()


def test_a_call_within_its_timeout() -> None:
    """A call that is quick enough is not disturbed, wherever it runs."""

    @task(timeout=_LIMIT_S)
    def item(x: int) -> int:
        return x

    @task(timeout=_LIMIT_S)
    async def item_async(x: int) -> int:
        return x

    assert item(1) == 1
    assert in_thread(lambda: item(2)) == 2
    assert asyncio.run(item_async(3)) == 3
    assert map_tasks(item, range(5), backend="thread") == list(range(5))


# -- datasets ---------------------------------------------------------------------------------------------------------


def test_dataset(tmp_path: Path) -> None:
    """The result is also saved, under the filled-in key, in the task's or the session's store."""

    @task(dataset="fits/{x:02d}.txt", dataset_format="text")
    def item(x: int) -> str:
        return f"result {x}"

    with session(dataset_store=tmp_path / "session"):
        assert item(3) == "result 3"
        assert item.with_options(dataset_store=tmp_path / "own")(4) == "result 4"
    assert (tmp_path / "session/fits/03.txt").read_text() == "result 3"
    assert (tmp_path / "own/fits/04.txt").read_text() == "result 4"


def test_dataset_of_items(tmp_path: Path) -> None:
    """The index of an item may be part of the key."""

    @task(dataset="part_{map_index}.pkl")
    def item(x: int) -> int:
        return x

    with session(dataset_store=tmp_path):
        map_tasks(item, [5, 6, 7], backend="thread")
    assert sorted(file.name for file in tmp_path.glob("*.pkl")) == ["part_0.pkl", "part_1.pkl", "part_2.pkl"]


def test_dataset_of_streams(tmp_path: Path) -> None:
    """A stream's items are saved as a list when it ends."""

    @task(dataset="items.pkl")
    def items() -> Iterator[int]:
        yield from (1, 2, 3)

    @task(dataset="async.pkl")
    async def async_items() -> AsyncIterator[int]:
        yield 4

    async def collect() -> list[int]:
        return [item async for item in async_items()]

    with session(dataset_store=tmp_path):
        assert list(items()) == [1, 2, 3]
        assert asyncio.run(collect()) == [4]
    assert pickle.loads((tmp_path / "items.pkl").read_bytes()) == [1, 2, 3]
    assert pickle.loads((tmp_path / "async.pkl").read_bytes()) == [4]


@pytest.mark.parametrize("options", [{"dataset_format": "nonsense"}, {"dataset": "a.csv"}])
def test_failing_dataset_does_not_rerun(options: dict[str, Any], tmp_path: Path, recorder: EventRecorder) -> None:
    """When the result cannot be saved the call fails, and the function ran once."""
    calls: list[int] = []

    @task(**{"dataset": "a.pkl", "retries": 5, **options})
    def item() -> object:
        calls.append(1)
        return lambda: None

    with session(dataset_store=tmp_path, observers=[recorder]), pytest.raises(DatasetError):
        item()
    assert calls == [1]
    assert recorder.kinds()[-2] == "TaskFailed"
    recorder.check()


def test_failing_store_is_told_with_its_cause(tmp_path: Path) -> None:
    """An error below the store fails the call once, as a DatasetError with its cause; the next call works."""
    driver = FaultyDriver(FileDriver(tmp_path), fail={1}, error=MemoryError)
    calls: list[int] = []

    @task(dataset="a.pkl", dataset_store=DatasetStore(driver), retries=5)
    def item() -> int:
        calls.append(1)
        return 1

    with pytest.raises(DatasetError, match="save 1 was told to fail") as caught:
        item()
    assert isinstance(caught.value.__cause__, MemoryError)
    assert item() == 1
    assert len(calls) == 2


# -- errors -----------------------------------------------------------------------------------------------------------


def nested_failure() -> None:
    @task
    def inner() -> None:
        raise ValueError("oops")

    @task
    def outer() -> None:
        inner()

    outer()


@pytest.mark.parametrize("inside", [True, False])
def test_own_type_and_one_note(inside: bool) -> None:
    """The user's exception keeps its type and gets one note, from the innermost task."""
    with pytest.raises(ValueError, match="oops") as caught:
        if inside:
            with session():
                nested_failure()
        else:
            nested_failure()
    assert caught.value.__notes__ == ["nbflow: in task 'inner'"]


@pytest.mark.parametrize("inside", [True, False])
def test_wrapping(inside: bool) -> None:
    """With `wrap_errors` a TaskError is raised from the original, once however deep it comes from."""
    settings = Settings(wrap_errors=True)
    with pytest.raises(TaskError, match="^Task 'inner' failed with error: oops$") as caught:
        if inside:
            with session(settings=settings):
                nested_failure()
        else:
            set_global_settings(settings)
            nested_failure()
    assert type(caught.value.__cause__) is ValueError
    assert caught.value.__cause__.__cause__ is None


def test_wrapping_counts_attempts_and_spares_interrupts() -> None:
    """The seed's message counts attempts; interrupts and cancellation are never wrapped."""
    with session(settings=Settings(wrap_errors=True)):
        with pytest.raises(TaskError, match="Task 'Flaky' failed after 3 attempts with error: down"):
            task(retries=2)(Flaky(9, OSError("down")))()
        with pytest.raises(KeyboardInterrupt):
            task(Flaky(9, KeyboardInterrupt()))()


def test_wrapped_async_errors() -> None:
    """Async tasks and streams wrap, too."""

    @task
    async def item() -> None:
        raise ValueError("oops")

    @task
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("oops")

    with session(settings=Settings(wrap_errors=True)):
        with pytest.raises(TaskError, match="Task 'item' failed"):
            asyncio.run(item())
        with pytest.raises(TaskError, match="Task 'items' failed"):
            list(items())


@pytest.mark.parametrize("options", [{}, {"retries": 1}, {"timeout": _LIMIT_S}])
def test_tracebacks_hide_our_frames(options: dict[str, Any]) -> None:
    """Every frame of ours between caller and function is marked as hidden, and the text in events lacks them."""

    @task(**options)
    def item() -> None:
        raise ValueError("oops")

    recorder = EventRecorder()
    with session(observers=[recorder]), pytest.raises(ValueError, match="oops") as caught:
        item()
    shown = []
    traceback = caught.value.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if "/nbflow/" in code.co_filename and not traceback.tb_frame.f_locals.get("__tracebackhide__"):
            shown.append(code.co_name)
        traceback = traceback.tb_next
    assert shown == []
    text = recorder.of(TaskFailed)[0].traceback
    assert "in item" in text
    assert "/nbflow/runtime/" not in text


def test_no_warning_of_ours_in_a_normal_run() -> None:
    """Defining and calling tasks of all kinds warns about nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        test_kinds()
    assert caught == []


# -- streams ----------------------------------------------------------------------------------------------------------


def test_streams_are_lazy(recorder: EventRecorder) -> None:
    """Nothing runs before the first item is asked for; items come one by one."""
    ran: list[int] = []

    @task
    def items() -> Iterator[int]:
        for item in range(3):
            ran.append(item)
            yield item

    with session(observers=[recorder]):
        found = items()
        assert ran == []
        assert next(found) == 0
        assert ran == [0]
        assert list(found) == [1, 2]
    recorder.check()


def test_stream_failure_after_items(recorder: EventRecorder) -> None:
    """Items that were handed out stay; the failure arrives with its own type."""

    @task
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("oops")

    found = []
    with session(observers=[recorder]), pytest.raises(ValueError, match="oops"):
        for item in items():
            found.append(item)
    assert found == [1]
    recorder.check()


def test_stream_closed_early(recorder: EventRecorder) -> None:
    """Breaking off runs the generator's clean-up, ends the call as cancelled, and is no error."""
    cleaned: list[str] = []

    @task
    def items() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            cleaned.append("yes")

    with session(observers=[recorder]):
        found = items()
        next(found)
        found.close()  # type: ignore[attr-defined]
    assert cleaned == ["yes"]
    assert recorder.kinds()[-2] == "TaskCancelled"
    recorder.check()


def test_async_stream_closed_early(recorder: EventRecorder) -> None:
    """The same for async streams."""
    cleaned: list[str] = []

    @task
    async def items() -> AsyncIterator[int]:
        try:
            for item in range(10):
                yield item
        finally:
            cleaned.append("yes")

    async def main() -> None:
        found = items()
        async for _ in found:
            break
        await found.aclose()  # type: ignore[attr-defined]

    with session(observers=[recorder]):
        asyncio.run(main())
    assert cleaned == ["yes"]
    assert recorder.kinds()[-2] == "TaskCancelled"
    recorder.check()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_thrown_into(kind: str, recorder: EventRecorder) -> None:
    """What is thrown into a stream ends it as a failure."""
    with session(observers=[recorder]):
        if kind == "sync":
            found = stream(3)
            next(found)
            with pytest.raises(ValueError, match="thrown"):
                found.throw(ValueError("thrown"))  # type: ignore[attr-defined]
        else:

            async def main() -> None:
                found = async_stream(3)
                await anext(found)
                with pytest.raises(ValueError, match="thrown"):
                    await found.athrow(ValueError("thrown"))  # type: ignore[attr-defined]

            asyncio.run(main())
    assert recorder.kinds()[-2] == "TaskFailed"
    recorder.check()


@pytest.mark.parametrize(
    "options",
    [{"retry_delay": 1.0}, {"backoff": 2.0}, {"jitter": 0.5}, {"retry_on": OSError}],
    ids=lambda o: next(iter(o)),
)
def test_options_of_retries_need_retries(options: dict[str, Any]) -> None:
    """An option that would do nothing is an error that says what is missing."""
    with pytest.raises(DefinitionError, match="no effect without retries; add retries=1"):
        task(**options)(len)


def test_dropping_retries_drops_their_options() -> None:
    """`with_options(retries=0)` works on a task whose retries had a delay."""
    patient = task(retries=2, retry_delay=1.0)(len)
    assert patient.with_options(retries=0).spec.policy.delay_s == 0.0
