"""Calls and results that travel by value to workers on any host: packed here, run where they arrive, opened here.

A `Parcel` is one pickle with its large buffers beside it; each `load` gives objects of its own, whose buffers are
aligned, writable and private (copied on write), so that results have the same bits as at home and nobody sees another's
changes. `run_call` never raises: whatever comes of a call is in its outcome.
"""

from __future__ import annotations

import mmap
import os
import pickle
import threading
from collections.abc import Callable, Sequence
from typing import Any

from nbflow._mapping import map_part
from nbflow.backends.remote import Shared
from nbflow.backends.travel import Failure, flatten, refusal, restore, text_of
from nbflow.errors import BackendError, TransferError

__all__ = ["OnDisk", "Parcel", "open_outcome", "pack_call", "pack_outcome", "pack_value", "run_call"]

_BESIDE_BYTES = 1 << 16
"""Buffers of this size or more travel beside the pickle, without a copy where the carrier can."""

_ALIGN = 64


class Parcel:
    """A value on its way; safe from any thread.

    Args:
        parts: The pickle, then the buffers that belong to it.
    """

    __slots__ = ("__weakref__", "_file", "_lock", "_parts")

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = list(parts)
        self._file: OnDisk | None = None
        self._lock = threading.Lock()

    @classmethod
    def pack(cls, value: Any) -> Parcel:
        """Pack a value; functions and classes of notebooks go by value.

        Raises:
            Exception: Whatever the pickler says of it.
        """
        head, buffers = flatten(value, _BESIDE_BYTES)
        return cls([head, *buffers])

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(memoryview(part).nbytes for part in self._parts)

    def digest(self) -> str:
        """Return a name for the content."""
        import xxhash

        state = xxhash.xxh3_128()
        for part in self._parts:
            state.update(memoryview(part).nbytes.to_bytes(8, "little"))
            state.update(part)
        return str(state.hexdigest())

    def __reduce_ex__(self, protocol: Any) -> Any:
        head, *buffers = self._parts
        if protocol >= 5:
            return Parcel, ([head, *(pickle.PickleBuffer(buffer) for buffer in buffers)],)
        return Parcel, ([head, *(bytes(buffer) for buffer in buffers)],)

    def __sizeof__(self) -> int:
        return self.nbytes  # so that whoever stores it knows what it weighs

    def load(self, *, home: bool = False) -> Any:
        """Return the value; each time a new one, which shares no memory with the others that anybody could change.

        Args:
            home: Whether it comes back to the process whose classes it may be made of.
        """
        if len(self._parts) == 1:
            return restore(self._parts[0], home=home)
        with self._lock:
            if self._file is None:
                self._file = OnDisk.write(self._parts)
                self._parts = self._file.parts(mmap.ACCESS_READ)  # what it was made of can be freed now
        return self._file.load(home=home)

    def save(self, path: str) -> OnDisk:
        """Write the value to a file that other processes of this host can load it from."""
        return OnDisk.write(self._parts, path)


class OnDisk:
    """A parcel in a file; travels as the file's name.

    Args:
        file: Path, or file descriptor of a file without a name (which is closed with this object).
        sizes: Bytes of each part; parts begin at multiples of 64.
    """

    __slots__ = ("_file", "_sizes")

    def __init__(self, file: str | int, sizes: tuple[int, ...]) -> None:
        self._file = file
        self._sizes = sizes

    @classmethod
    def write(cls, parts: Sequence[Any], path: str | None = None) -> OnDisk:
        """Write parts to a new file at `path`, or to one without a name."""
        descriptor = _nameless() if path is None else os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        made = cls(descriptor if path is None else path, tuple(memoryview(part).nbytes for part in parts))
        try:
            for part in parts:
                _write_all(descriptor, memoryview(part).cast("B"))
                _write_all(descriptor, memoryview(bytes(-memoryview(part).nbytes % _ALIGN)))
        finally:
            if path is not None:
                os.close(descriptor)
        return made

    def parts(self, access: int) -> list[Any]:
        """Return views of the parts in a new mapping of the file."""
        descriptor = self._file if isinstance(self._file, int) else os.open(self._file, os.O_RDONLY | _BINARY)
        try:
            whole = map_part(descriptor, os.fstat(descriptor).st_size, access)
        finally:
            if descriptor is not self._file:
                os.close(descriptor)
        views, start = [], 0
        for size in self._sizes:
            views.append(whole[start : start + size])
            start += size + -size % _ALIGN
        return views

    def load(self, *, home: bool = False) -> Any:
        """Return the value, a new one each time.

        Args:
            home: Whether it comes back to the process whose classes it may be made of.

        Raises:
            FileNotFoundError: The file is not there (any more), or on another host.
        """
        head, *buffers = self.parts(mmap.ACCESS_COPY)
        return restore(head, buffers, home=home)

    def exists(self) -> bool:
        """Whether the file can be seen from here."""
        return isinstance(self._file, int) or os.path.isfile(self._file)

    def remove(self) -> None:
        """Delete the file; idempotent, whoever has it mapped keeps what it has."""
        if isinstance(self._file, str):
            try:
                os.unlink(self._file)
            except OSError:  # gone, or mapped on Windows, where the whole folder goes at the end
                pass

    def __reduce__(self) -> Any:
        return OnDisk, (self._file, self._sizes)

    def __del__(self) -> None:
        if isinstance(self._file, int):
            os.close(self._file)


_BINARY = getattr(os, "O_BINARY", 0)


def _nameless() -> int:
    """Return the descriptor of a new file that is gone when it is closed."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("nbflow")
    import tempfile  # workers import this module, and shall be quick to start

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


# --- calls --------------------------------------------------------------------------------------------------------


class _Place:
    """Stands in a packed call where the shared value of that number belongs."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return _Place, (self.number,)


def pack_call(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], label: str
) -> tuple[Parcel, list[Any]]:
    """Pack a call for `run_call`.

    Returns:
        The packed call, and the `Shared` values among its arguments, in the order in which `run_call` wants them.

    Raises:
        TransferError: Something of it cannot travel; the message names what.
        BackendError: A shared value was released before.
    """
    shared: list[Any] = []

    def place(value: Any) -> Any:
        if not isinstance(value, Shared):
            return value
        if getattr(value, "released", False):
            raise BackendError(
                f"{label or 'The call'}: a shared value among the arguments was released; share it again."
            )
        shared.append(value)
        return _Place(len(shared) - 1)

    call = (func, tuple(place(value) for value in args), {name: place(value) for name, value in kwargs.items()})
    try:
        return Parcel.pack(call), shared
    except Exception as error:
        parts = [("function", func), *((f"args[{number}]", value) for number, value in enumerate(call[1]))]
        parts += [(f"kwargs[{name!r}]", value) for name, value in call[2].items()]
        raise refusal(label or "the call", parts, error, "to a worker") from error


def pack_value(value: Any, label: str) -> Parcel:
    """Pack a value that many calls share.

    Raises:
        TransferError: It cannot travel.
    """
    try:
        return Parcel.pack(value)
    except Exception as error:
        raise refusal(label or "the shared value", [("value", value)], error, "to a worker") from error


def run_call(call: Parcel, shared: Sequence[Any]) -> Parcel:
    """Run a packed call here and return its packed outcome; never raises what the call raises.

    Args:
        call: From `pack_call`.
        shared: Where the shared values can be loaded from.
    """

    def fill(value: Any) -> Any:
        return shared[value.number].load() if isinstance(value, _Place) else value

    try:
        func, args, kwargs = call.load()
        args = tuple(fill(value) for value in args)
        kwargs = {name: fill(value) for name, value in kwargs.items()}
    except Exception as error:
        text = f"The call cannot be rebuilt in the worker: {type(error).__name__}: {text_of(error)}."
        return pack_outcome(error=TransferError(text, path="", reason=text_of(error)))
    try:
        return pack_outcome(func(*args, **kwargs))
    except BaseException as error:
        return pack_outcome(error=error)


def pack_outcome(value: Any = None, error: BaseException | None = None) -> Parcel:
    """Pack what came of a call: a value, or an error."""
    if error is None:
        try:
            return Parcel.pack((value, None))
        except Exception as found:
            error = refusal("The call", [("result", value)], found, "from a worker")
    return Parcel.pack((None, Failure.of(error)))


def open_outcome(outcome: Parcel, worker: str) -> tuple[Any, BaseException | None]:
    """Return value and error of a packed outcome; one that cannot be opened here is an error of its own.

    Args:
        outcome: From `run_call`.
        worker: Who ran the call, for people.
    """
    try:
        value, failure = outcome.load(home=True)
    except Exception as found:
        text = (
            f"The result came back from {worker}, but cannot be rebuilt here: {type(found).__name__}: {text_of(found)}."
        )
        return None, TransferError(text, path="result", reason=text_of(found))
    return value, None if failure is None else failure.open(worker)
