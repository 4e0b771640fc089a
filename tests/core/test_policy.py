"""Retry arithmetic."""

from __future__ import annotations

from typing import Any

import pytest

from nbflow.core.policy import NO_RETRY, Policy
from nbflow.errors import DefinitionError


def never() -> float:
    raise AssertionError("nothing random is wanted")


def test_no_retry_gives_up_at_once() -> None:
    """Without retries the first failure is the last."""
    assert NO_RETRY.delay_after(1, ValueError(), never) is None


def test_delays_grow() -> None:
    """Each delay is the one before times the back-off factor."""
    policy = Policy(retries=3, delay_s=0.5, backoff=2.0)
    assert [policy.delay_after(number, ValueError(), never) for number in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, None]


def test_constant_delay() -> None:
    """A factor of one keeps the delay."""
    policy = Policy(retries=2, delay_s=0.5)
    assert [policy.delay_after(number, ValueError(), never) for number in (1, 2)] == [0.5, 0.5]


@pytest.mark.parametrize(("drawn", "delay"), [(0.0, 2.0), (0.5, 2.5), (1.0, 3.0)])
def test_jitter_adds_up_to_its_fraction(drawn: float, delay: float) -> None:
    """Jitter only ever adds, at most its fraction of the delay."""
    assert Policy(retries=1, delay_s=2.0, jitter=0.5).delay_after(1, ValueError(), lambda: drawn) == delay


def test_retry_on_subclasses() -> None:
    """Subclasses of a type in `retry_on` are retried, others are not."""
    policy = Policy(retries=1, retry_on=(OSError, KeyError))
    assert policy.delay_after(1, FileNotFoundError(), never) == 0.0
    assert policy.delay_after(1, KeyError(), never) == 0.0
    assert policy.delay_after(1, IndexError(), never) is None


def test_interrupts_are_not_errors() -> None:
    """What is no `Exception` is not retried by default."""
    assert Policy(retries=1).delay_after(1, KeyboardInterrupt(), never) is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"retries": -1}, "retries=-1 must be a whole number ≥ 0"),
        ({"retries": 1.5}, "retries=1.5 must be a whole number"),
        ({"retries": True}, "retries=True must be a whole number"),
        ({"retries": "3"}, "retries='3' must be a whole number"),
        ({"delay_s": -1}, "retry_delay=-1 must be a number of seconds ≥ 0"),
        ({"delay_s": "1"}, "retry_delay='1' must be a number of seconds ≥ 0"),
        ({"delay_s": float("nan")}, "retry_delay=nan must be a number"),
        ({"delay_s": float("inf")}, "retry_delay=inf must be a number"),
        ({"delay_s": True}, "retry_delay=True must be a number"),
        ({"backoff": 0.5}, "backoff=0.5 must be a number ≥ 1"),
        ({"jitter": -0.1}, "jitter=-0.1 must be a number ≥ 0"),
        ({"timeout_s": 0}, "timeout=0 must be a number of seconds > 0"),
        ({"timeout_s": float("inf")}, "timeout=inf must be a number of seconds > 0"),
        ({"timeout_s": "1"}, "timeout='1' must be a number of seconds > 0"),
        ({"retry_on": (KeyboardInterrupt,)}, "retry_on=<class 'KeyboardInterrupt'> is not an Exception type; give one"),
        ({"retry_on": ("OSError",)}, "retry_on='OSError' is not an Exception type"),
    ],
)
def test_bad_values(fields: dict[str, Any], said: str) -> None:
    """A value that cannot work is one line that names option and value."""
    with pytest.raises(DefinitionError) as caught:
        Policy(**fields)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
