"""Retry, back-off and jitter as pure arithmetic.

A `Policy` says how often a call may be tried again and how long to wait before. Randomness comes in as an argument,
so a seed makes every delay repeatable. Names are those of tenacity: delay, back-off factor, jitter.
"""

from __future__ import annotations

from collections.abc import Callable

from nbflow._frozen import Frozen
from nbflow.errors import DefinitionError

__all__ = ["NO_RETRY", "Policy"]


class Policy(Frozen):
    """How a call is retried and how long an attempt may take.

    Attributes:
        retries: Further attempts after the first one failed.
        delay_s: Seconds before the second attempt.
        backoff: Factor by which the delay grows from one attempt to the next (1.0: constant).
        jitter: Fraction of the delay that is drawn at random and added (0.5: up to half of it more).
        retry_on: Exception types that may be retried.
        timeout_s: Seconds that one attempt may take, or None.

    Raises:
        DefinitionError: A value is of the wrong type or out of range; the message names it.
    """

    retries: int = 0
    delay_s: float = 0.0
    backoff: float = 1.0
    jitter: float = 0.0
    retry_on: tuple[type[Exception], ...] = (Exception,)
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or self.retries < 0:
            raise DefinitionError(
                f"retries={self.retries!r} must be a whole number ≥ 0: how many times to try again after a failure."
            )
        _check_number("retry_delay", self.delay_s, low=0.0, unit=" of seconds")
        _check_number("backoff", self.backoff, low=1.0)
        _check_number("jitter", self.jitter, low=0.0)
        if self.timeout_s is not None:
            _check_number("timeout", self.timeout_s, low=0.0, open_low=True, unit=" of seconds")
        for kind in self.retry_on:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise DefinitionError(
                    f"retry_on={kind!r} is not an Exception type; give one or a tuple of them, e.g. "
                    "retry_on=(OSError, TimeoutError). Interrupts and cancellation are never retried."
                )

    def delay_after(self, number: int, error: BaseException, random: Callable[[], float]) -> float | None:
        """Return how long to wait after attempt `number` failed, or None to give up.

        Args:
            number: The attempt that failed, from 1.
            error: What it raised.
            random: Source of numbers in [0, 1).

        Returns:
            Seconds, or None when no attempt is left or the error is not one to retry.
        """
        if number > self.retries or not isinstance(error, self.retry_on):
            return None
        delay = self.delay_s * self.backoff ** (number - 1)
        return delay + delay * self.jitter * random() if self.jitter else delay


def _check_number(option: str, value: float, *, low: float, open_low: bool = False, unit: str = "") -> None:
    good = (
        isinstance(value, (int, float)) and not isinstance(value, bool) and (value > low if open_low else value >= low)
    )
    if not good or value != value or value == float("inf"):
        raise DefinitionError(f"{option}={value!r} must be a number{unit} {'>' if open_low else '≥'} {low:g}.")


NO_RETRY = Policy()
