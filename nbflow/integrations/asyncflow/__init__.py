"""RADICAL AsyncFlow and nbflow, both ways.

`NoopExecutionBackend`, `LocalExecutionBackend` and `NbflowExecutionBackend` are backends for its `WorkflowEngine`;
`AsyncFlowBackend` makes any backend of AsyncFlow or Rhapsody one of nbflow's. Neither package is imported here.
"""

from __future__ import annotations

from nbflow.integrations.asyncflow.adapter import AsyncFlowBackend
from nbflow.integrations.asyncflow.backends import (
    LocalExecutionBackend,
    NbflowExecutionBackend,
    NoopExecutionBackend,
    StateMapper,
)

__all__ = [
    "AsyncFlowBackend",
    "LocalExecutionBackend",
    "NbflowExecutionBackend",
    "NoopExecutionBackend",
    "StateMapper",
]
