"""Values and errors on their way between processes, without a second process."""

from __future__ import annotations

import copyreg
import enum
import functools
import pickle
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from nbflow.backends.travel import Failure, flatten, refusal, restore
from nbflow.errors import TransferError


def there_and_back(error: BaseException) -> BaseException:
    return pickle.loads(pickle.dumps(Failure.of(error))).open("process-1")


def test_large_buffers_stay_beside() -> None:
    """Only buffers of the given size leave the pickle; small and scattered ones stay in it."""
    numpy = pytest.importorskip("numpy")
    large, small, scattered = numpy.zeros(100_000), numpy.zeros(10), numpy.zeros((1000, 1000))[::2, ::2]
    head, beside = flatten([large, small, scattered], 500_000)
    assert [view.nbytes for view in beside] == [800_000]
    assert len(flatten(large)[1]) == 0
    back = restore(head, beside)
    assert [each.shape for each in back] == [(100_000,), (10,), (500, 500)]


def test_notebook_classes_come_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instances are of the class that is here; attributes that were changed on the way do not change it."""

    @dataclass
    class Point:
        x: int

        def far(self) -> bool:
            return self.x > 10

    class Colour(enum.Enum):
        RED = 1

    Point.__module__ = Colour.__module__ = "__main__"
    far = Point.__dict__["far"]
    head, _ = flatten([Point(3), Colour.RED, Point])
    Point.origin = 5  # type: ignore[attr-defined]
    point, colour, cls = restore(head, home=True)
    assert cls is Point
    assert type(point) is Point
    assert colour is Colour.RED
    assert Point.__dict__["far"] is far
    assert Point.origin == 5  # type: ignore[attr-defined]


class Refusing:
    def __reduce__(self) -> Any:
        raise TypeError("not me")


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner


class Keeping:
    """Gives out only a part of itself."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.model = [threading.Lock()]

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model}


def _make(value: Any) -> Any:
    def function(default: Any = value) -> Any:
        return default

    return function


_defaulting = _make(Refusing())


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Refusing(), "x"),
        ([1, (2, Refusing())], "x[1][1]"),
        ({"a": {"b": Refusing()}}, "x['a']['b']"),
        (Slotted(Slotted([Refusing()])), "x.inner.inner[0]"),
        (Keeping(), "x.model[0]"),
        (functools.partial(print, Refusing()), "x.args[0]"),
        (_defaulting, "x.__defaults__[0]"),
    ],
)
def test_the_culprit_is_found(value: Any, path: str) -> None:
    """The path leads to the innermost thing that cannot travel, through what pickle would take."""
    error = refusal("fit[3]", [("ok", 1), ("x", value)], TypeError("whole"), "to a worker")
    assert isinstance(error, TransferError)
    assert error.path.startswith(path)
    assert "fit[3]" in str(error)
    assert str(error).endswith(". Make it inside the function, or use backend='thread'.")


def test_circles_do_not_catch_the_search() -> None:
    """A value that contains itself is searched once."""
    circle: list[Any] = [1]
    circle += [circle, Refusing()]
    assert refusal("it", [("x", circle)], TypeError("whole"), "away").path == "x[2]"


def test_chain_and_notes_of_an_error_survive() -> None:
    """Cause, context, notes and attributes arrive, each with the frames of where it was raised."""
    try:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise OSError(2, "second", "file")  # noqa: B904
        except OSError as error:
            raise ValueError("third") from error
    except ValueError as error:
        error.add_note("by hand")
        error.extra = 5  # type: ignore[attr-defined]
        found = there_and_back(error)
    assert (type(found), found.args, found.extra) == (ValueError, ("third",), 5)  # type: ignore[attr-defined]
    assert found.__notes__[0] == "by hand"
    assert "process-1" in found.__notes__[1]
    assert 'raise ValueError("third") from error' in found.__notes__[1]
    assert isinstance(found.__cause__, OSError)
    assert found.__cause__.filename == "file"
    assert isinstance(found.__cause__.__context__, KeyError)


class Odd(ValueError):
    def __init__(self, name: str, size: int) -> None:
        super().__init__(f"{name} has {size}")
        self.size = size


class Stubborn(LookupError):
    def __init__(self, lock: Any) -> None:
        super().__init__("stubborn", lock)


@pytest.mark.parametrize(
    "error",
    [
        Odd("it", 3),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "why"),
        ExceptionGroup("both", [ValueError(1), Odd("a", 1)]),
    ],
)
def test_unusual_errors_keep_their_type(error: Exception) -> None:
    """Errors whose arguments are not those of their `__init__`, with C fields, or in groups."""
    found = there_and_back(error)
    assert type(found) is type(error)
    assert str(found) == str(error)


def test_errors_keep_their_type_where_a_library_pickles_them_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is once Dask is imported: what C code keeps must not be lost."""

    def theirs(error: BaseException) -> Any:
        return BaseException.__new__, (type(error), *error.args)

    monkeypatch.setitem(copyreg.dispatch_table, UnicodeDecodeError, theirs)
    found = there_and_back(UnicodeDecodeError("utf-8", b"x", 0, 1, "why"))
    assert type(found) is UnicodeDecodeError
    assert "why" in str(found)


def test_stand_in_says_what_it_stands_for() -> None:
    """What cannot be pickled at all arrives as the nearest kind that can, with text and notes."""
    error = Stubborn(threading.Lock())
    error.add_note("by hand")
    found = there_and_back(error)
    assert type(found) is LookupError
    assert "stubborn" in str(found)
    assert found.__notes__[0] == "by hand"
    assert "Stubborn" in found.__notes__[1]


def test_circular_causes_end() -> None:
    """Errors that cause each other are packed once."""
    one, two = ValueError(1), ValueError(2)
    one.__cause__, two.__cause__ = two, one
    found = there_and_back(one)
    assert found.args == (1,)
    assert found.__cause__ is not None
    assert found.__cause__.args == (2,)
