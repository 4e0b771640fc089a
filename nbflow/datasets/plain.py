"""Formats that need nothing but the standard library: pickle, text, bytes and JSON.

Pickle holds any value that Python can pickle; loading it runs code, so load only what you trust. JSON refuses what it
would change beyond recognition (keys that are no strings, NaN) instead of storing something else.
"""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

from nbflow.datasets.base import AbstractDataset

__all__ = ["BytearrayDataset", "BytesDataset", "JsonDataset", "PickleDataset", "TextDataset"]


class PickleDataset(AbstractDataset, format="pickle", types=object, extensions=("pkl", "pickle"), aliases="pkl"):
    """Any picklable value.

    Args:
        protocol: Version of the pickle format; None for Python's default.
    """

    def __init__(self, protocol: int | None = None) -> None:
        self.protocol = protocol

    def serialize(self, value: Any) -> bytes:
        """Return the pickle of `value`."""
        return pickle.dumps(value, protocol=self.protocol)

    def deserialize(self, data: bytes) -> Any:
        """Return the pickled value."""
        return pickle.loads(data)


class TextDataset(AbstractDataset, format="text", types=str, extensions=("txt", "md", "html", "log"), aliases="txt"):
    """A string; ends of lines stay as they are.

    Args:
        encoding: Encoding of the file.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        self.encoding = encoding

    def serialize(self, value: str) -> bytes:
        """Return the encoded string."""
        return value.encode(self.encoding)

    def deserialize(self, data: bytes) -> str:
        """Return the decoded string."""
        return data.decode(self.encoding)


class BytesDataset(AbstractDataset, format="bytes", types=bytes, extensions="bin", aliases="raw"):
    """Bytes as they are."""

    def serialize(self, value: bytes) -> bytes:
        """Return `value`."""
        return bytes(value)

    def deserialize(self, data: bytes) -> bytes:
        """Return `data`."""
        return data


class BytearrayDataset(BytesDataset, types=bytearray):
    """Bytes as they are, loaded to be changed."""

    def deserialize(self, data: bytes) -> Any:
        """Return a copy of `data`."""
        return bytearray(data)


class JsonDataset(
    AbstractDataset, format="json", types=(dict, list, tuple, str, int, float, bool, type(None)), extensions="json"
):
    """Dictionaries with string keys, lists, strings, numbers, booleans and None; a tuple comes back as a list.

    Args:
        indent: Spaces by which nested values are indented; None for one line.
        sort_keys: Whether dictionaries are written in order of their keys.
        allow_nan: Whether NaN and infinities are written, which Python reads but JSON does not know.
    """

    def __init__(self, indent: int | None = 2, sort_keys: bool = False, allow_nan: bool = False) -> None:
        self.indent = indent
        self.sort_keys = sort_keys
        self.allow_nan = allow_nan

    def serialize(self, value: Any) -> bytes:
        """Return `value` as UTF-8 text."""
        self._check(value, "value")
        text = json.dumps(
            value, indent=self.indent, sort_keys=self.sort_keys, allow_nan=self.allow_nan, ensure_ascii=False
        )
        return text.encode() + b"\n"

    def deserialize(self, data: bytes) -> Any:
        """Return the value that the text describes."""
        return json.loads(data)

    def _check(self, value: Any, path: str) -> None:
        """Raise for the first thing inside `value` that JSON cannot hold, naming where it is."""
        if isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"keys are strings in JSON, but {path} has the key {key!r}; use str(key), or .pkl")
                self._check(item, f"{path}[{key!r}]")
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                self._check(item, f"{path}[{index}]")
        elif isinstance(value, float):
            if not self.allow_nan and not math.isfinite(value):
                raise ValueError(f"JSON has no {value}, which is at {path}; use None, or options={{'allow_nan': True}}")
        elif value is not None and not isinstance(value, str | int):
            raise TypeError(f"JSON has no {type(value).__qualname__}, which is at {path}; convert it, or use .pkl")
