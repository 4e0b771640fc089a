"""Sizes, ages and counts as people type and read them.

Sizes are typed in powers of 1024 and shown in powers of 1000, as disks are sold. What cannot be read is an error for
`argparse`, which names the option.
"""

from __future__ import annotations

import argparse
import re

__all__ = ["count_of", "format_size", "parse_age", "parse_size"]

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_AGES = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def parse_size(text: str) -> int:
    """Return the bytes of `500`, `500M` or `1.5 GB`."""
    found = re.fullmatch(r"([0-9.]+) *([KMGT]?)I?B?", text.strip().upper())
    try:
        return int(float(found[1]) * _UNITS[found[2]]) if found else _refuse(text, "size; write 500M or 2G")
    except ValueError:
        return int(_refuse(text, "size; write 500M or 2G"))


def parse_age(text: str) -> float:
    """Return the seconds of `90s`, `10min`, `2h`, `7d` or `4w`."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?) *(s|min|h|d|w)", text.strip())
    return float(found[1]) * _AGES[found[2]] if found else _refuse(text, "age; write 10min, 2h, 7d or 4w")


def _refuse(text: str, what: str) -> int:
    raise argparse.ArgumentTypeError(f"{text} is no {what}")


def format_size(count: int) -> str:
    """Return `count` bytes as people read them."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def count_of(count: int, noun: str) -> str:
    """Return `1 result`, `2 results`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
