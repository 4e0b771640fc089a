"""`Frozen` and the stand-ins for `typing`: as good as what they stand for, as far as our code goes."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import typing

import pytest

from nbflow import _typing
from nbflow._frozen import Frozen
from nbflow.settings import Settings


class Place(Frozen):
    """A description of two fields."""

    name: str
    size: int = 3

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("too small")


class Point(_typing.NamedTuple):
    """A named tuple."""

    x: int
    y: int = 2

    @property
    def sum(self) -> int:
        return self.x + self.y


class Empty(_typing.NamedTuple):
    """One without fields."""


class Real(typing.NamedTuple):
    """What `Point` should be like."""

    x: int
    y: int = 2


def test_frozen_has_a_signature() -> None:
    """What shows or completes a call sees the fields with their types and defaults."""
    assert str(inspect.signature(Place)) == "(*, name: 'str', size: 'int' = 3)"
    assert inspect.signature(Settings).parameters["backend"].default.__repr__() == repr(Settings().backend)


def test_frozen_is_a_dataclass_to_everybody() -> None:
    """Comparison, text, pickling and the functions of `dataclasses` work as on a frozen dataclass."""
    place = Place(name="a")
    assert (place.name, place.size, repr(place)) == ("a", 3, "Place(name='a', size=3)")
    assert place == Place(name="a", size=3) != Place(name="a", size=4)
    assert hash(place) == hash(Place(name="a"))
    assert place != ("a", 3)
    assert pickle.loads(pickle.dumps(place)) == copy.copy(place) == place
    assert dataclasses.is_dataclass(place)
    assert [(field.name, field.default) for field in dataclasses.fields(Place)][1:] == [("size", 3)]
    assert dataclasses.asdict(place) == {"name": "a", "size": 3}
    assert dataclasses.replace(place, size=5) == place.replace(size=5) == Place(name="a", size=5)


def test_frozen_refuses() -> None:
    """Unknown, missing, bad and changed fields are errors that name them."""
    with pytest.raises(TypeError, match=r"Place has no colour\. It has: name, size\."):
        Place(name="a", colour=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Place also needs name\."):
        Place()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="too small"):
        Place(name="a").replace(size=-1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Place(name="a").size = 4  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del Place(name="a").size


def test_named_tuples_are_like_real_ones() -> None:
    """Fields, defaults, matching, replacing, text and pickling are those of `typing.NamedTuple`."""
    one, real = Point(1), Real(1)
    assert one == (1, 2) == real
    assert repr(one).replace("Point", "Real") == repr(real)
    assert (one._fields, one._field_defaults, one._asdict()) == (real._fields, real._field_defaults, real._asdict())
    assert one._replace(y=5) == Point._make([1, 5]) == Point(y=5, x=1)
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one
    assert type(copy.deepcopy(one)) is Point
    assert one.sum == 3
    assert Empty() == ()
    assert not hasattr(one, "__dict__")
    match one:
        case Point(x, y):
            assert (x, y) == (1, 2)
    for wrong in ((), (1, 2, 3)):
        with pytest.raises(TypeError):
            Point(*wrong)
    with pytest.raises(AttributeError):
        one.x = 3  # type: ignore[misc]


def test_stand_ins_can_be_subscribed_and_called() -> None:
    """What runs when a module is imported runs with the stand-ins too."""

    class Box(_typing.Generic[_typing.R]):
        pass

    assert isinstance(Box[int](), Box)  # type: ignore[index,operator,misc,unused-ignore]
    assert _typing.cast("int", "x") == "x"  # type: ignore[comparison-overlap,unused-ignore]
    assert _typing.overload(len) is len
