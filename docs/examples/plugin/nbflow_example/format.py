"""The dataset format `jsonlines`: one JSON value a line, as log collectors and language models like it."""

from __future__ import annotations

import json
from typing import Any

from nbflow.datasets import AbstractDataset

__all__ = ["JsonLines"]


# Defining the class registers it: for lists, under keys such as "answers.jsonl". The first type is what loading gives.
class JsonLines(AbstractDataset, format="jsonlines", types=(list, tuple), extensions=("jsonl",)):
    """A list of JSON values; users pass `options={"sort_keys": True}` as arguments of the constructor."""

    def __init__(self, sort_keys: bool = False) -> None:
        self.sort_keys = sort_keys

    def serialize(self, value: Any) -> bytes:
        """Return the bytes of the file; what JSON cannot hold raises, and nothing is written."""
        return "".join(json.dumps(item, sort_keys=self.sort_keys) + "\n" for item in value).encode()

    def deserialize(self, data: bytes) -> list[Any]:
        """Return the list; lines are split by newlines only, as JSON text may hold other separators."""
        return [json.loads(line) for line in data.decode().split("\n") if line]
