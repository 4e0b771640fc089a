"""Properties of digests: equal exactly where type and content are."""

from __future__ import annotations

import copy
import math
import os
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nbflow.cache import digest

TIMES_MORE = 10 if os.environ.get("NBFLOW_LONG") else 1

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary()
TIMES = st.datetimes(timezones=st.none() | st.timezones()) | st.dates() | st.times() | st.timedeltas()
SCALARS = PLAIN | TIMES | st.decimals(allow_nan=False) | st.fractions() | st.uuids()
HASHABLE = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=2), max_leaves=3)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.sets(HASHABLE, max_size=3)
        | st.tuples(inner, inner)
        | st.binary(max_size=9).map(bytearray)
    ),
    max_leaves=6,
)


def canonical(value: Any) -> Any:
    """Return something that is equal exactly where the documented rules say that the values are."""
    kind = type(value).__name__
    if isinstance(value, float):
        return kind, "nan" if math.isnan(value) else value.hex()
    if isinstance(value, complex):
        return kind, canonical(value.real), canonical(value.imag)
    if isinstance(value, (list, tuple)):
        return kind, tuple(map(canonical, value))
    if isinstance(value, (set, frozenset)):
        return kind, tuple(sorted(map(repr, map(canonical, value))))
    if isinstance(value, dict):
        return kind, tuple(sorted(repr((canonical(key), canonical(item))) for key, item in value.items()))
    if hasattr(value, "tzinfo"):
        return kind, repr(value.replace(tzinfo=None)), value.fold, type(value.tzinfo).__name__, str(value.tzinfo)
    return kind, repr(value)


def shuffled(value: Any) -> Any:
    """Rebuild a value from other objects, with dicts and sets filled in another order."""
    if isinstance(value, (list, tuple)):
        return type(value)([shuffled(item) for item in value])
    if isinstance(value, dict):
        return {shuffled(key): shuffled(item) for key, item in reversed(value.items())}
    if isinstance(value, (set, frozenset)):
        return type(value)(shuffled(item) for item in reversed(list(value)))
    return pickle.loads(pickle.dumps(value))


@given(VALUES, VALUES)
@settings(max_examples=250 * TIMES_MORE, deadline=None)
def test_equal_digest_exactly_for_equal_canonical_value(one: Any, other: Any) -> None:
    """Two values share a digest exactly when they are the same by the rules."""
    assert (digest(one) == digest(other)) == (canonical(one) == canonical(other))


@pytest.mark.slow
@given(VALUES)
@settings(max_examples=250 * TIMES_MORE, deadline=None)
def test_order_and_identity_do_not_count(value: Any) -> None:
    """A rebuilt value has the same digest, inside other values too."""
    other = shuffled(value)
    assert digest(other) == digest(value) == digest(copy.deepcopy(value))
    assert digest([value, value]) == digest([value, other])
    assert digest([value]) != digest(value)


@given(
    st.lists(st.text(alphabet="ab-", max_size=3), max_size=12),
    st.lists(st.text(alphabet="ab-", max_size=3), max_size=12),
)
@settings(max_examples=200 * TIMES_MORE, deadline=None)
def test_neighbours_never_run_into_each_other(one: list[str], other: list[str]) -> None:
    """Lists of short texts collide in no container: list, tuple, object array, dict."""
    for wrap in (list, tuple, lambda texts: np.array(texts, object), lambda texts: dict(enumerate(texts))):
        assert (digest(wrap(one)) == digest(wrap(other))) == (one == other)


@given(
    hnp.arrays(
        hnp.scalar_dtypes() | hnp.array_dtypes(max_size=3),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
@settings(max_examples=150 * TIMES_MORE, deadline=None)
def test_layout_of_arrays_does_not_count(array: Any) -> None:
    """Copies, Fortran order and strided views have one digest; another shape or dtype has another."""
    name = digest(array)
    assert digest(array.copy()) == name == digest(np.asfortranarray(array).reshape(array.shape))
    wide = np.repeat(array, 2, axis=0)[::2] if array.ndim else array
    assert digest(wide) == name
    assert digest(array[None]) != name
    if array.dtype.names is None:
        assert digest(array.astype(object)) != name
