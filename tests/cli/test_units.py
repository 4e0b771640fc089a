"""Sizes, ages and counts, as typed and as shown."""

from __future__ import annotations

import argparse

import pytest

from nbflow.cli.units import count_of, format_size, parse_age, parse_size


def test_sizes_are_read_and_written() -> None:
    """What people type and what they read."""
    assert [parse_size(text) for text in ("500", "1k", "1.5 MB", "2GiB")] == [500, 1024, 1572864, 2 * 1024**3]
    assert [format_size(n) for n in (0, 999, 1500, 45_000_000, 3 * 10**12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "45 MB",
        "3.0 TB",
    ]
    assert [parse_age(text) for text in ("90s", "10min", "2h", "7d", "1.5 w")] == [90, 600, 7200, 604800, 907200]
    for text in ("", "x", "1.2.3", "5 parsecs"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_size(text)
        with pytest.raises(argparse.ArgumentTypeError):
            parse_age(text)


def test_counts() -> None:
    """One is one, others are many."""
    assert [count_of(number, "key") for number in (0, 1, 2)] == ["0 keys", "1 key", "2 keys"]
