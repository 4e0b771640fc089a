"""An example of an nbflow plug-in: a backend, a dataset format and a hook, each in a module of its own."""

from __future__ import annotations

from nbflow_example.hook import slowest_calls

__all__ = ["slowest_calls"]
