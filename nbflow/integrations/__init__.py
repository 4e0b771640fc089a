"""Adapters to other systems: nothing of nbflow imports them, and each imports its other side only when it is used.

`nbflow.integrations.asyncflow` is for RADICAL AsyncFlow, `nbflow.integrations.dask` for Dask's workers.
"""

__all__: list[str] = []
