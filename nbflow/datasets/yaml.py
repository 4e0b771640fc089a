"""YAML, by PyYAML, which is imported when a dataset is saved or loaded.

Only the safe part of YAML is read and written: plain values, never objects that run code. Any other value inside is
refused; a tuple comes back as a list.
"""

from __future__ import annotations

from typing import Any

from nbflow.datasets.base import AbstractDataset

__all__ = ["YamlDataset"]


class YamlDataset(AbstractDataset, format="yaml", types=(dict, list), extensions=("yaml", "yml"), requires="yaml"):
    """Dictionaries and lists of plain values.

    Args:
        sort_keys: Whether dictionaries are written in order of their keys.
        flow: Whether to write one line as JSON does, rather than one line for each value.
    """

    def __init__(self, sort_keys: bool = False, flow: bool = False) -> None:
        self.sort_keys = sort_keys
        self.flow = flow

    def serialize(self, value: Any) -> bytes:
        """Return `value` as UTF-8 text."""
        import yaml

        text = yaml.safe_dump(value, sort_keys=self.sort_keys, default_flow_style=self.flow, allow_unicode=True)
        return str(text).encode()

    def deserialize(self, data: bytes) -> Any:
        """Return the value that the text describes."""
        import yaml

        return yaml.safe_load(data)
