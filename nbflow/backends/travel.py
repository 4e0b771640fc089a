"""How values and errors travel between processes: by value, without copies of large buffers, and with good excuses.

`flatten` takes a value apart into one pickle and its large buffers, `restore` builds it anew; functions and classes of
notebooks go by value, and a class that comes home again is the class that it was. What cannot travel is found by
`refusal`, which names the attribute; errors travel as a `Failure`, which keeps type, notes, causes and traceback.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType, TracebackType
from typing import Any

from nbflow._util import add_note
from nbflow.errors import TransferError

__all__ = ["Failure", "flatten", "refusal", "restore", "text_of"]

_DEPTH = 30
_CHILDREN = 1000
_CHAIN = 10


# --- values -------------------------------------------------------------------------------------------------------


def flatten(value: Any, beside: int | None = None) -> tuple[bytes, list[memoryview]]:
    """Take a value apart.

    Args:
        value: Anything that can be pickled; what belongs to `__main__` goes by value.
        beside: Bytes from which on a buffer stays out of the pickle; None: none does.

    Returns:
        The pickle, and views of the buffers that belong to it.

    Raises:
        Exception: Whatever the picklers say of it.
    """
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if beside is None or view.nbytes < beside:
            return True
        buffers.append(view)
        return False

    # Another thread may be importing it at this moment, and then nobody has registered anything.
    registered = getattr(sys.modules.get("cloudpickle"), "list_registry_pickle_by_value", tuple)
    if not registered():
        try:
            head = _dumps(value, keep)
            if b"__main__" not in head:  # which would mean another module over there
                return head, buffers
        except Exception:  # pickle itself names many types of errors here
            pass
        buffers.clear()
    import cloudpickle

    dumps: Any = cloudpickle.dumps  # its annotations differ between implementations of Python
    return dumps(value, protocol=5, buffer_callback=keep), buffers


def _dumps(value: Any, keep: Callable[[pickle.PickleBuffer], bool]) -> bytes:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return pickle.dumps(value, protocol=5, buffer_callback=keep)
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=5, buffer_callback=keep)
    pickler.dispatch_table = {**copyreg.dispatch_table, numpy.memmap: _take_memmap}
    pickler.dump(value)
    return file.getvalue()


def _take_memmap(array: Any) -> Any:
    """Take an array in a file apart as one in memory, whose buffer stays beside: numpy itself would copy it."""
    return _as_memmap, (array.view(sys.modules["numpy"].ndarray),)


def _as_memmap(array: Any) -> Any:
    return array.view(sys.modules["numpy"].memmap)


def restore(head: bytes | memoryview, buffers: Iterable[Any] = (), *, home: bool = False) -> Any:
    """Build a value from its parts.

    Args:
        head: The pickle.
        buffers: The buffers that belong to it.
        home: Whether the value comes back to the process whose classes it may have been made of: a class that went
            from here by value stays as it is here, instead of getting back the attributes it had there.

    Raises:
        Exception: It cannot be built here.
    """
    if home and b"_make_skeleton_" in bytes(head):
        return _Homecoming(head, buffers).load()
    return pickle.loads(head, buffers=buffers)


class _Homecoming(pickle.Unpickler):
    """Finds classes again that once went out by value."""

    def __init__(self, head: bytes | memoryview, buffers: Iterable[Any]) -> None:
        super().__init__(io.BytesIO(head), buffers=buffers)
        self._known: set[type] = set()

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if module.startswith("cloudpickle"):
            if name in ("_make_skeleton_class", "_make_skeleton_enum"):
                return partial(self._skeleton, found)
            if name == "_class_setstate":
                return partial(self._set_state, found)
        return found

    def _skeleton(self, make: Callable[..., type], *args: Any) -> type:
        from cloudpickle import cloudpickle

        known: type | None = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(args[-2])
        if known is None:
            return make(*args)
        self._known.add(known)
        return known

    def _set_state(self, apply: Callable[..., Any], cls: type, *state: Any) -> Any:
        return cls if cls in self._known else apply(cls, *state)


# --- what cannot travel -------------------------------------------------------------------------------------------


def refusal(what: str, parts: Iterable[tuple[str, Any]], error: BaseException, way: str) -> TransferError:
    """Return the error that says which part of something cannot travel.

    Args:
        what: Label of the call or value, for people.
        parts: Its parts with their names, such as `("args[0]", 5)`.
        error: What the pickler said of the whole.
        way: Where it cannot travel, such as "to a worker".
    """
    path, reason = "", error
    for name, value in parts:
        if (found := _fails(value)) is not None:
            path, reason = _culprit(name, value, found)
            break
    text = f"{type(reason).__name__}: {text_of(reason)}" if not isinstance(reason, TypeError) else text_of(reason)
    instead = "Make it inside the function" if way.startswith("to ") else "Return what it takes to make it anew"
    message = f"{what}: {path or 'it'} cannot travel {way}: {text}. {instead}, or use backend='thread'."
    return TransferError(message, path=path, reason=text)


def _fails(value: Any) -> Exception | None:
    try:
        flatten(value, 0)
    except Exception as error:
        return error
    return None


def _culprit(path: str, value: Any, error: Exception) -> tuple[str, Exception]:
    """Follow what fails inwards, as far as it can be followed."""
    seen: set[int] = set()
    for _ in range(_DEPTH):
        seen.add(id(value))
        for _, (step, child) in zip(range(_CHILDREN), _children(value), strict=False):
            if id(child) not in seen and (found := _fails(child)) is not None:
                path, value, error = path + step, child, found
                break
        else:
            break
    return path, error


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a value is made of, each with the step that leads there."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield f"[{key!r}]", child
            yield f" key {key!r}", key
    elif isinstance(value, (list, tuple)):
        for index, child in enumerate(value):
            yield f"[{index}]", child
    elif isinstance(value, (set, frozenset)):
        for child in value:
            yield " member", child
    elif isinstance(value, partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, MethodType):
        yield from ((".__self__", value.__self__), (".__func__", value.__func__))
    elif isinstance(value, FunctionType):
        yield from _captured(value)
    elif isinstance(value, type):
        for name, child in vars(value).items():
            yield f".{name}", child
    else:
        yield from _state(value)


def _captured(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield f" variable {name}", cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f" global {name}", function.__globals__[name]
    for number, child in enumerate(function.__defaults__ or ()):
        yield f".__defaults__[{number}]", child
    for name, child in (function.__kwdefaults__ or {}).items():
        yield f".__kwdefaults__[{name!r}]", child


def _state(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what pickle would take of an object: its attributes, or what it gives out itself."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # it refuses as a whole, which is a reason of its own
        return
    if isinstance(reduced, str):  # a global name
        return
    parts: list[Any] = [*reduced]
    if len(parts) > 2:
        states = parts[2] if isinstance(parts[2], tuple) else (parts[2],)
        for state in states:
            if isinstance(state, dict):
                for name, child in state.items():
                    yield f".{name}", child
            elif state is not None:
                yield ".__getstate__()", state
    for index, child in enumerate(parts[1]):
        yield f".__reduce__()[1][{index}]", child
    for index, items in enumerate(parts[3:5]):
        if items is not None:
            for step, child in enumerate(items) if index == 0 else items:
                yield f"[{step!r}]", child


def text_of(error: BaseException) -> str:
    """Return what an error says, without its full stop, or its type where it cannot say anything."""
    try:
        return str(error).rstrip(".") or type(error).__name__
    except Exception:
        return type(error).__name__


# --- errors -------------------------------------------------------------------------------------------------------

_Frame = tuple[str, int | None, str]


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way home: itself, then its causes outwards, each pickled, with its frames.

    The lines of source are looked up where it arrives: there is where the text of a cell is known.
    """

    links: tuple[tuple[bytes, bool, tuple[_Frame, ...]], ...]

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Pack an error that was caught; never raises."""
        links: list[tuple[bytes, bool, tuple[_Frame, ...]]] = []
        seen: set[int] = set()
        link: BaseException | None = error
        while link is not None and id(link) not in seen and len(links) < _CHAIN:
            seen.add(id(link))
            cause = link.__cause__
            links.append((_dump_error(link), cause is not None, _frames(link.__traceback__)))
            link = cause if cause is not None else None if link.__suppress_context__ else link.__context__
        return cls(tuple(links))

    def open(self, worker: str) -> BaseException:
        """Return the error, with the traceback of the worker as a note.

        Args:
            worker: Name of the worker, for people.
        """
        errors: list[BaseException] = []
        for data, _, frames in self.links:
            try:
                error = restore(data, home=True)
            except Exception as found:
                error = TransferError(
                    f"An error of {worker} cannot be rebuilt here: {text_of(found)}.", path="", reason=text_of(found)
                )
            if frames:
                add_note(error, f"In worker {worker}:\n{_as_text(frames)}")
            errors.append(error)
        for (_, caused, _), error, above in zip(self.links, errors, errors[1:], strict=False):
            if caused:
                error.__cause__ = above
            else:
                error.__context__ = above
        return errors[0]


def _dump_error(error: BaseException) -> bytes:
    """Return the error pickled, in the form nearest to itself that survives."""
    # A library may have taught pickle ways of its own for errors, which lose what C code keeps: hence the second form.
    for form in (error, _Rebuilt(error, _made), _Rebuilt(error, _rebuilt)):
        try:
            data = flatten(form)[0]
            copy = restore(data)
            if type(copy).__qualname__ == type(error).__qualname__ and text_of(copy) == text_of(error):
                return data
        except Exception:
            continue
    text = f"{type(error).__qualname__}: {text_of(error)}"
    for kind in type(error).__mro__:
        try:
            data = flatten(_with_notes(kind(text), error))[0]
            restore(data)
            return data
        except Exception:  # not to be made of a text, or not to be pickled either
            continue
    return flatten(RuntimeError(text))[0]


class _Rebuilt:
    """Pickles as the error that it holds, built from type, arguments and attributes by `build`."""

    def __init__(self, error: BaseException, build: Callable[..., BaseException]) -> None:
        self._build = build
        self._parts = (type(error), error.args, error.__dict__)

    def __reduce__(self) -> Any:
        kind, args, state = self._parts
        if issubclass(kind, BaseExceptionGroup):
            return _rebuild_group, (kind, args[0], [_dump_error(error) for error in args[1]], state)
        return self._build, (kind, args, state)


def _rebuild_group(
    kind: type[BaseExceptionGroup[Any]], text: str, errors: list[bytes], state: dict[str, Any]
) -> BaseException:
    group = kind(text, [restore(data, home=True) for data in errors])
    group.__dict__.update(state)
    return group


def _made(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Make an error as its own code does."""
    error = kind(*args)
    error.__dict__.update(state)
    return error


def _rebuilt(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Make an error whose `__init__` takes other arguments than it keeps."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _with_notes(standin: BaseException, error: BaseException) -> BaseException:
    for note in getattr(error, "__notes__", ()):
        standin.add_note(str(note))
    standin.add_note(f"It stands for a {type(error).__module__}.{type(error).__qualname__}, which cannot travel.")
    return standin


def _frames(trace: TracebackType | None) -> tuple[_Frame, ...]:
    """Return the frames of a traceback that are not ours."""
    found: list[_Frame] = []
    for frame, line in traceback.walk_tb(trace):
        if frame.f_locals.get("__tracebackhide__") or frame.f_globals.get("__name__", "").startswith("nbflow.backends"):
            continue
        found.append((frame.f_code.co_filename, line, frame.f_code.co_name))
    return tuple(found)


def _as_text(frames: tuple[_Frame, ...]) -> str:
    summary = [traceback.FrameSummary(file, line, name, lookup_line=False) for file, line, name in frames]
    return "".join(traceback.StackSummary.from_list(summary).format()).rstrip()
