"""The public door to the facts of a run.

`fn(event)` functions added by `session(observers=[fn])` or `ctx.add_observer(fn)` get these. See `nbflow.core.events`
for their grammar. Every class has `call_id`, `name` and `time`.
"""

from nbflow.core.events import *  # noqa: F403
from nbflow.core.events import __all__ as __all__
