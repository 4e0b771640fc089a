"""What a name holds while a cell in the background is still making its value.

A `Pending` shows in its `repr` what it waits for, and refuses all else with an error that says how to wait: quietly
going on with a value of the run before, or with none, would be a wrong result. Tasks never meet one, since a task cell
that reads such a name waits for it.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, NoReturn, Protocol

from nbflow.errors import PendingError

__all__ = ["Maker", "Pending", "absent", "maker_of"]


class Maker(Protocol):
    """The cell in the background that is to bind a name."""

    def absence(self, name: str) -> str:
        """Say in one line why the name has no value, or none yet, and what to do."""
        ...


def absent(maker: Maker, name: str) -> PendingError:
    """Return the error that says why a name has no value; its traceback ends where the user's code does."""
    error = PendingError(maker.absence(name), name=name)

    def render() -> Any:
        from IPython.core.getipython import get_ipython  # it is a shell that asks

        shell: Any = get_ipython()
        trace, frames = error.__traceback__, list[TracebackType]()
        while trace is not None:
            frames.append(trace)
            trace = trace.tb_next
        shown: TracebackType | None = None
        for each in reversed(frames[:-1]):
            if not each.tb_frame.f_locals.get("__tracebackhide__"):
                shown = TracebackType(shown, each.tb_frame, each.tb_lasti, each.tb_lineno)
        return shell.InteractiveTB.structured_traceback(type(error), error, shown, tb_offset=0)

    error._render_traceback_ = render  # type: ignore[attr-defined]
    return error


class Pending:
    """Stands for the value of `name` until `maker` has made it; safe from any thread."""

    __slots__ = ("_maker", "_name")
    _maker: Maker
    _name: str

    def __init__(self, name: str, maker: Maker) -> None:
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_maker", maker)

    def __repr__(self) -> str:
        return f"<pending: {self._maker.absence(self._name)}>"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # how displays, debuggers and completers ask what an object can do
            raise AttributeError(name)
        _refuse(self)


def _refuse(self: Pending, *args: Any, **kwargs: Any) -> NoReturn:
    raise absent(self._maker, self._name)


_ARITHMETIC = "add sub mul truediv floordiv mod divmod pow matmul lshift rshift and or xor"
_OTHERS = (
    "abs neg pos invert round trunc floor ceil int float complex index bool str bytes format fspath hash len iter next "
    "reversed contains getitem setitem delitem setattr delattr call eq ne lt le gt ge enter exit aenter aexit await "
    "aiter anext length_hint reduce reduce_ex copy deepcopy array array_ufunc array_function dataframe"
)
for _word in _ARITHMETIC.split():
    for _prefix in ("", "r", "i"):
        setattr(Pending, f"__{_prefix}{_word}__", _refuse)
for _word in _OTHERS.split():
    setattr(Pending, f"__{_word}__", _refuse)


def maker_of(value: Any) -> Any:
    """Return the cell that a placeholder waits for; None for any other value."""
    return value._maker if type(value) is Pending else None
